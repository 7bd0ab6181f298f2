//! `absent`: 1 at the steps where a vector has no sample, under the labels its selector asks for.

use std::collections::BTreeSet;

use quiver_model::{Labels, MatchOp, Matcher};

use super::bits;
use super::group::is_metadata_label;
use crate::exec::tile::{Roster, RosterRow, StepGrid, Tile};

/// The labels a selector fixes by `=`; one that is matched more than once is left out.
pub fn absent_labels(matchers: &[Matcher]) -> Labels {
    let mut b = Labels::empty().to_builder();
    let mut has: BTreeSet<&str> = BTreeSet::new();
    for m in matchers.iter().filter(|m| !is_metadata_label(&m.name)) {
        if m.op == MatchOp::Equal && !has.contains(&*m.name) {
            b.set(&m.name, &m.value);
            has.insert(&m.name);
        } else {
            b.remove(&m.name);
        }
    }
    b.build().unwrap_or_default()
}

/// See the module.
#[derive(Debug)]
pub struct Absent {
    width: usize,
    present: Vec<u64>,
}

impl Absent {
    /// The operator and its roster of one series.
    pub fn new(labels: Labels, drop_name: bool, grid: StepGrid) -> (Self, Roster) {
        let op = Self { width: grid.len, present: vec![0; bits::words(grid.len)] };
        (op, Roster { rows: vec![RosterRow { labels, drop_name }] })
    }

    /// Takes a tile.
    pub fn push(&mut self, tile: &Tile) {
        for row in 0..tile.rows() {
            for (w, p) in self.present.iter_mut().enumerate() {
                *p |= bits::row_word(&tile.present, row * self.width, self.width, w);
            }
        }
    }

    /// Has every step a sample? Then nothing more need be read.
    pub fn is_complete(&self) -> bool {
        self.present.iter().enumerate().all(|(w, p)| *p == bits::mask(self.width, w))
    }

    /// One row, or none.
    pub fn finish(self) -> Vec<Tile> {
        if self.is_complete() {
            return Vec::new();
        }
        let mut t = Tile::new(self.width, vec![0]);
        for (w, p) in self.present.iter().enumerate() {
            for i in bits::ones(!p & bits::mask(self.width, w)) {
                t.set((w << 6) + i, 1.0);
            }
        }
        vec![t]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::operators::testing::{floats, grid, labels};

    #[test]
    fn labels_of_the_selector() {
        let eq = Matcher::equal;
        let re = Matcher::new(MatchOp::Regex, "c", ".*", 1 << 20).unwrap();
        let l = absent_labels(&[eq("__name__", "m"), eq("a", "1"), eq("b", "2"), eq("b", "3"), re]);
        assert_eq!(l, labels("a=1"));
    }

    #[test]
    fn steps_without_any_sample() {
        let (mut op, _) = Absent::new(Labels::empty(), false, grid(3));
        op.push(&floats(0, &[vec![Some(1.0), None, None], vec![Some(1.0), None, Some(2.0)]]));
        assert!(!op.is_complete());
        let t = op.finish();
        assert_eq!((t[0].present[0], t[0].values[1]), (0b010, 1.0));
        let (mut op, _) = Absent::new(Labels::empty(), false, grid(1));
        op.push(&floats(0, &[vec![Some(1.0)]]));
        assert!(op.finish().is_empty());
    }
}
