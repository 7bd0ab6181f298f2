//! `and or unless`: one presence bit for each signature and step decides.
//!
//! ```text
//! and, unless:  build(right) ─▶ bits[signature][step]   probe(left)  ─▶ left cells where the bit is (not) set
//! or:           build(left)  ─▶ bits, cells kept        probe(right) ─▶ right cells where it is not
//! ```
//!
//! Invariant: the build side is complete before the first probe.

use hashbrown::HashMap;
use quiver_model::Labels;

use super::bits;
use super::group::LabelNumbers;
use super::matching::{MatchIds, Side};
use super::rows::Rows;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::exec::tile::{Roster, StepGrid, Tile};
use crate::promql::ast::{BinaryOp, VectorMatching};

/// An `or` at one step whose left side has so many times the rows of its right side is a link of a chain.
const CHAIN_LINKS: usize = 8;

/// See the module.
#[derive(Debug)]
pub struct SetOp {
    op: BinaryOp,
    ids: MatchIds,
    width: usize,
    words: usize,
    there: Vec<u64>,
    rows: Rows,
    out_left: Vec<u32>,
    out_right: Vec<u32>,
    count: u32,
}

impl SetOp {
    /// The operator and its output roster.
    pub fn new(
        op: BinaryOp,
        matching: &VectorMatching,
        left: &Roster,
        right: &Roster,
        grid: StepGrid,
    ) -> Result<(Self, Roster), QueryError> {
        if !op.is_set() {
            return Err(QueryError::Internal(format!("{} is not a set operator", op.as_str())));
        }
        let ids = MatchIds::new(matching, left, right);
        let words = bits::words(grid.len);
        let (roster, out_left, out_right) = if op == BinaryOp::Or {
            if grid.len == 1 {
                // The left side comes first, both in their order: a series of the right side stands behind the left side's even
                // where one of those, without a sample, is called the same. Whether a name goes is said by the side, too.
                let mut rows = left.rows.clone();
                // In a long chain of the same series that would be a row for each of its links: there the right side takes the
                // last one of its name.
                let is_chain = left.rows.len() > CHAIN_LINKS * right.rows.len();
                let known = left.rows.iter().zip(0u32..).filter(|_| is_chain);
                let mut last: HashMap<(&Labels, bool), u32> =
                    known.map(|(r, i)| ((&r.labels, r.drop_name), i)).collect();
                let mut r = Vec::with_capacity(right.rows.len());
                for row in &right.rows {
                    let shared = last.remove(&(&row.labels, row.drop_name));
                    r.push(shared.unwrap_or(rows.len() as u32));
                    if shared.is_none() {
                        rows.push(row.clone());
                    }
                }
                (Roster { rows }, (0..left.rows.len() as u32).collect(), r)
            } else {
                let mut numbers = LabelNumbers::default();
                let mut number = |side: &Roster| -> Vec<u32> {
                    side.rows.iter().map(|r| numbers.id(&r.labels, r.drop_name)).collect()
                };
                let (l, r) = (number(left), number(right));
                let (roster, new) = numbers.finish();
                let renumber = |v: Vec<u32>| v.into_iter().map(|i| new[i as usize]).collect();
                (roster, renumber(l), renumber(r))
            }
        } else {
            (left.clone(), Vec::new(), Vec::new())
        };
        let series = if op == BinaryOp::Or { roster.rows.len() } else { 0 };
        let op = Self {
            op,
            width: grid.len,
            words,
            there: vec![0; ids.count * words],
            rows: Rows::new(series, grid.len),
            ids,
            out_left,
            out_right,
            count: 0,
        };
        Ok((op, roster))
    }

    /// The side that goes first, whole.
    pub fn build_side(&self) -> Side {
        if self.op == BinaryOp::Or { Side::Left } else { Side::Right }
    }

    /// Bytes it holds, about.
    pub fn bytes(&self) -> usize {
        let ids = self.ids.left.len() + self.ids.right.len() + self.out_left.len() + self.out_right.len();
        self.there.len() * 8 + ids * 4 + self.rows.bytes()
    }

    /// The signature numbers.
    pub fn ids(&self) -> &MatchIds {
        &self.ids
    }

    /// Are its rows those of the left side, each or not?
    pub fn keeps_left_rows(&self) -> bool {
        self.op != BinaryOp::Or
    }

    /// Which series of the left and the right side cannot change the answer, since they have no partner (`true`).
    pub fn unused(&self) -> [Vec<bool>; 2] {
        let lonely = |side| self.ids.matched(side).into_iter().map(|m| !m).collect();
        match self.op {
            BinaryOp::And => [lonely(Side::Left), lonely(Side::Right)],
            BinaryOp::Unless => [Vec::new(), lonely(Side::Right)],
            _ => [Vec::new(), Vec::new()],
        }
    }

    /// Takes a tile of the build side.
    pub fn build(&mut self, tile: &Tile, ctx: &QueryContext) -> Result<(), QueryError> {
        for (row, sid) in tile.sids.iter().enumerate() {
            self.tick(ctx)?;
            let ids = if self.op == BinaryOp::Or { &self.ids.left } else { &self.ids.right };
            let Some(id) = ids.get(*sid as usize) else { continue };
            let there = &mut self.there[*id as usize * self.words..][..self.words];
            for (w, t) in there.iter_mut().enumerate() {
                *t |= bits::row_word(&tile.present, row * self.width, self.width, w);
            }
            if self.op == BinaryOp::Or {
                self.rows.put_row(self.out_left[*sid as usize], tile, row, |_| u64::MAX);
            }
        }
        Ok(())
    }

    /// Takes a tile of the other side; what can be said at once comes back.
    pub fn probe(&mut self, tile: &Tile, ctx: &QueryContext) -> Result<Option<Tile>, QueryError> {
        let mut out = Tile { width: self.width, ..Tile::default() };
        for (row, sid) in tile.sids.iter().enumerate() {
            self.tick(ctx)?;
            let ids = if self.op == BinaryOp::Or { &self.ids.right } else { &self.ids.left };
            let Some(id) = ids.get(*sid as usize) else { continue };
            let there = &self.there[*id as usize * self.words..][..self.words];
            let invert = if self.op == BinaryOp::And { 0 } else { u64::MAX };
            let mask = |w: usize| there[w] ^ invert;
            if self.op == BinaryOp::Or {
                self.rows.put_row(self.out_right[*sid as usize], tile, row, mask);
                continue;
            }
            let at = row * self.width;
            if (0..self.words).all(|w| bits::row_word(&tile.present, at, self.width, w) & mask(w) == 0) {
                continue;
            }
            let to = out.push_row(*sid) * self.width;
            for w in 0..self.words {
                let on = bits::row_word(&tile.present, at, self.width, w) & mask(w);
                bits::or_at(&mut out.present, to + (w << 6), on);
                for i in bits::ones(on) {
                    out.values[to + (w << 6) + i] = tile.values[at + (w << 6) + i];
                }
            }
            for (cell, h) in tile.row_histograms(row) {
                let step = *cell as usize - at;
                if out.is_present(to + step) {
                    out.hist.push(((to + step) as u32, h.clone()));
                }
            }
        }
        Ok((out.rows() > 0).then_some(out))
    }

    /// What could not be said before both sides were read.
    pub fn finish(self) -> Result<Vec<Tile>, QueryError> {
        if self.rows.overlap().is_some() {
            return Err(super::same_labelset());
        }
        Ok(self.rows.finish())
    }

    fn tick(&mut self, ctx: &QueryContext) -> Result<(), QueryError> {
        self.count = self.count.wrapping_add(1);
        if self.count & 255 == 0 { ctx.check() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::operators::testing::{cells, context, floats, grid, labels, roster};

    #[test]
    fn or_takes_the_right_side_where_the_left_has_none() {
        let (l, r) = (roster(&["__name__=a,i=1"]), roster(&["__name__=a,i=1", "__name__=b,i=1", "__name__=b,i=2"]));
        let ctx = context();
        let (mut op, out) = SetOp::new(BinaryOp::Or, &VectorMatching::default(), &l, &r, grid(2)).unwrap();
        assert_eq!(op.build_side(), Side::Left);
        op.build(&floats(0, &[vec![Some(1.0), None]]), &ctx).unwrap();
        let right = [vec![Some(2.0), Some(3.0)], vec![Some(4.0), None], vec![Some(5.0), Some(6.0)]];
        assert_eq!(op.probe(&floats(0, &right), &ctx).unwrap(), None);
        let got = cells(&out, &op.finish().unwrap());
        let want = [
            ("__name__=a,i=1", 0, 1.0),
            ("__name__=a,i=1", 1, 3.0),
            ("__name__=b,i=2", 0, 5.0),
            ("__name__=b,i=2", 1, 6.0),
        ];
        let want = want.into_iter().map(|(l, s, v): (_, _, f64)| ((labels(l), s), (false, v.to_bits()))).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn a_long_chain_of_or_keeps_few_rows() {
        let one = roster(&["__name__=a,i=1", "__name__=a,i=2"]);
        let chain = (0..1000).fold(one.clone(), |left, _| {
            SetOp::new(BinaryOp::Or, &VectorMatching::default(), &left, &one, grid(1)).unwrap().1
        });
        assert!(chain.rows.len() <= (CHAIN_LINKS + 1) * one.rows.len(), "{}", chain.rows.len());
    }
}
