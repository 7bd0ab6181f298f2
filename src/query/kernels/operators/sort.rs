//! `sort sort_desc sort_by_label sort_by_label_desc`: the order of an answer at one step. Over a grid they change
//! nothing but warn (and those by value leave histograms out, as always).

use std::cmp::Ordering;
use std::sync::Arc;

use super::go_order::{self, greater, less};
use super::rows::Rows;
use super::{Output, in_order};
use crate::annotation::Annotations;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::exec::tile::{Roster, StepGrid, Tile};
use crate::promql::ast::Position;

/// What to sort by.
#[derive(Clone, Debug, PartialEq)]
pub enum SortSpec {
    /// Value.
    Value {
        /// Largest first.
        desc: bool,
    },
    /// Labels in natural order, then all labels.
    Label {
        /// Which.
        labels: Vec<String>,
        /// Last first.
        desc: bool,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Sort {
    spec: SortSpec,
    roster: Arc<Roster>,
    width: usize,
    rows: Rows,
    arrived: Vec<(f64, u32)>,
}

impl Sort {
    /// The operator; its roster is known at the end.
    pub fn new(spec: SortSpec, input: &Arc<Roster>, grid: StepGrid, pos: Position, ctx: &QueryContext) -> Self {
        if grid.len > 1 {
            let mut notes = Annotations::new();
            notes.sort_in_range_query_warning(pos);
            ctx.annotate(notes);
        }
        let rows = Rows::new(input.rows.len(), grid.len);
        Self { spec, roster: input.clone(), width: grid.len, rows, arrived: Vec::new() }
    }

    /// Takes a tile.
    pub fn push(&mut self, tile: &Tile, ctx: &QueryContext) -> Result<(), QueryError> {
        ctx.check()?;
        let mut floats = tile.clone();
        if matches!(self.spec, SortSpec::Value { .. }) {
            for (cell, _) in std::mem::take(&mut floats.hist) {
                floats.clear(cell as usize);
            }
        }
        for (row, sid) in tile.sids.iter().enumerate() {
            self.rows.put_row(*sid, &floats, row, |_| u64::MAX);
            if self.width == 1 && floats.is_present(row) {
                self.arrived.push((floats.values[row], *sid));
            }
        }
        Ok(())
    }

    /// The answer.
    pub fn finish(mut self) -> Output {
        if self.width > 1 {
            return Output { roster: (*self.roster).clone(), tiles: self.rows.finish() };
        }
        match &self.spec {
            // "Less", the other way round, of the opposite order: so that NaN comes last.
            SortSpec::Value { desc: false } => go_order::sort(&mut self.arrived, &mut |a, b| greater(b.0, a.0)),
            SortSpec::Value { desc: true } => go_order::sort(&mut self.arrived, &mut |a, b| less(b.0, a.0)),
            SortSpec::Label { labels, desc } => {
                let rows = &self.roster.rows;
                go_order::sort(&mut self.arrived, &mut |a, b| {
                    let (a, b) = (&rows[a.1 as usize].labels, &rows[b.1 as usize].labels);
                    for name in labels {
                        let (x, y) = (a.get(name), b.get(name));
                        if x != y {
                            return natural_less(x, y) != *desc;
                        }
                    }
                    a.cmp(b) == if *desc { Ordering::Greater } else { Ordering::Less }
                });
            }
        }
        let order: Vec<u32> = self.arrived.iter().map(|(_, sid)| *sid).collect();
        in_order(&self.roster, self.rows, &order)
    }
}

/// Runs of digits and of other characters.
fn chunks(s: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut start = 0;
    let bytes = s.as_bytes();
    for i in 1..=bytes.len() {
        if i == bytes.len() || bytes[i].is_ascii_digit() != bytes[start].is_ascii_digit() {
            out.push(&s[start..i]);
            start = i;
        }
    }
    out
}

/// Does `a` come before `b`, digits taken as numbers? Not an order: of equal numbers the first argument comes first.
pub fn natural_less(a: &str, b: &str) -> bool {
    let (ca, cb) = (chunks(a), chunks(b));
    for (i, x) in ca.iter().enumerate() {
        let Some(y) = cb.get(i) else { return false };
        let number = |s: &str| s.parse::<i64>().ok().filter(|_| s.starts_with(|c: char| c.is_ascii_digit()));
        let equal = match (number(x), number(y)) {
            (Some(m), Some(n)) if m != n => return m < n,
            (Some(_), Some(_)) => true,
            _ => x == y,
        };
        if !equal {
            return x < y;
        }
        if i == ca.len() - 1 {
            return true;
        }
        if i == cb.len() - 1 {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::operators::testing::{Cell, context, grid, notes, roster, tile};
    use quiver_model::Histogram;

    fn run(spec: SortSpec, series: &[&str], values: &[f64]) -> String {
        let r = Arc::new(roster(series));
        let ctx = context();
        let mut op = Sort::new(spec, &r, grid(1), Position::default(), &ctx);
        let rows: Vec<Vec<Option<Cell>>> = values.iter().map(|v| vec![Some(Cell::F(*v))]).collect();
        op.push(&tile(0, &rows), &ctx).unwrap();
        let out = op.finish();
        let text: Vec<&str> = out.roster.rows.iter().map(|r| r.labels.get("i")).collect();
        assert_eq!(out.tiles[0].sids, (0..text.len() as u32).collect::<Vec<_>>());
        text.join(" ")
    }

    #[test]
    fn by_value_nan_last() {
        let s = ["i=0", "i=1", "i=2", "i=3"];
        let v = [3.0, f64::NAN, 1.0, 2.0];
        assert_eq!(run(SortSpec::Value { desc: false }, &s, &v), "2 3 0 1");
        assert_eq!(run(SortSpec::Value { desc: true }, &s, &v), "0 3 2 1");
    }

    #[test]
    fn by_label_in_natural_order() {
        let s = ["i=4m5", "i=4m1", "i=4m600", "i=4m1000"];
        let by = |desc| SortSpec::Label { labels: vec!["i".into()], desc };
        assert_eq!(run(by(false), &s, &[0.0; 4]), "4m1 4m5 4m600 4m1000");
        assert_eq!(run(by(true), &s, &[0.0; 4]), "4m1000 4m600 4m5 4m1");
        assert!(natural_less("a2", "a10") && !natural_less("a10", "a2") && natural_less("01", "1"));
        assert!(
            natural_less("a", "b1") && !natural_less("", "a") && natural_less("a", "a1") && !natural_less("a1", "a")
        );
    }

    #[test]
    fn a_grid_only_warns_and_loses_histograms() {
        let r = Arc::new(roster(&["i=0", "i=1"]));
        let ctx = context();
        let mut op = Sort::new(SortSpec::Value { desc: true }, &r, grid(2), Position::default(), &ctx);
        let h = Some(Cell::H(Arc::new(Histogram::default())));
        op.push(&tile(0, &[vec![Some(Cell::F(1.0)), h], vec![Some(Cell::F(2.0)), None]]), &ctx).unwrap();
        let out = op.finish();
        assert_eq!((out.tiles[0].sids.as_slice(), out.tiles[0].samples()), (&[0, 1][..], 2));
        assert_eq!(notes(&ctx).len(), 1);
    }
}
