//! Values of the open columns of a page, in small pieces that belong to one pool.
//!
//! ```text
//! slab     │ piece 0 │ piece 1 │ piece 2 │ …        512 values, 32 pieces of 16
//! column a   0 ───────────▶ 2 ─▶ …                  a list of pieces, all but the last full
//! column b             1 ─▶ …
//! ```
//!
//! A column takes a piece as it grows and gives all of them back when it is sealed: nothing is copied while it grows, half
//! a piece is wasted on average, and a hundred columns of a page share their slabs. Once no column of a page holds a
//! piece its slabs go to a list of the thread, from which the next page takes them.
//!
//! Invariant: a column of `n` values holds exactly `⌈n / 16⌉` pieces, or none at all while its values are not stored.

use std::cell::RefCell;

/// Values of one piece.
const PIECE: usize = 16;
/// Pieces of one slab.
const SLAB_PIECES: usize = 32;
/// No piece.
const NONE: u32 = u32::MAX;
/// Slabs that a thread keeps for the next page: 4 MiB.
const KEPT_SLABS: usize = 1024;

type Piece = [f64; PIECE];
type Slab = Box<[Piece; SLAB_PIECES]>;

thread_local! {
    static SLABS: RefCell<Vec<Slab>> = const { RefCell::new(Vec::new()) };
}

/// A column: its first and its last piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    first: u32,
    last: u32,
}

impl Column {
    /// No value is stored.
    pub(crate) const NONE: Self = Self { first: NONE, last: NONE };

    /// Is none stored?
    #[inline]
    pub(crate) fn is_none(self) -> bool {
        self.first == NONE
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Values {
    slabs: Vec<Slab>,
    /// By piece, the next one of its column, or the next free one.
    next: Vec<u32>,
    free: u32,
    used: u32,
}

impl Default for Values {
    fn default() -> Self {
        Self { slabs: Vec::new(), next: Vec::new(), free: NONE, used: 0 }
    }
}

impl Values {
    fn piece(&self, p: u32) -> &Piece {
        &self.slabs[p as usize / SLAB_PIECES][p as usize % SLAB_PIECES]
    }

    fn piece_mut(&mut self, p: u32) -> &mut Piece {
        &mut self.slabs[p as usize / SLAB_PIECES][p as usize % SLAB_PIECES]
    }

    #[inline]
    fn take(&mut self) -> u32 {
        if self.free == NONE {
            self.grow();
        }
        let p = self.free;
        self.free = self.next[p as usize];
        self.next[p as usize] = NONE;
        self.used += 1;
        p
    }

    #[cold]
    fn grow(&mut self) {
        let slab = SLABS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Box::new([[0.0; PIECE]; SLAB_PIECES]));
        let first = self.next.len() as u32;
        self.slabs.push(slab);
        self.next.extend((first + 1..first + SLAB_PIECES as u32).chain([self.free]));
        self.free = first;
    }

    /// Adds the value at position `at`, the end of the column.
    #[inline]
    pub(crate) fn push(&mut self, column: &mut Column, at: u32, v: f64) {
        let within = at as usize % PIECE;
        if within == 0 {
            let p = self.take();
            match column.last {
                NONE => column.first = p,
                last => self.next[last as usize] = p,
            }
            column.last = p;
        }
        self.piece_mut(column.last)[within] = v;
    }

    /// Stores `n` times `v` in a column that stores nothing.
    #[cold]
    pub(crate) fn fill(&mut self, column: &mut Column, n: u32, v: f64) {
        (0..n).for_each(|at| self.push(column, at, v));
    }

    fn walk(&self, column: Column, at: usize) -> u32 {
        (0..at / PIECE).fold(column.first, |p, _| self.next[p as usize])
    }

    /// The value at a position of a column that is stored.
    pub(crate) fn get(&self, column: Column, at: u32) -> f64 {
        self.piece(self.walk(column, at as usize))[at as usize % PIECE]
    }

    /// Replaces the value at a position of a column that is stored.
    pub(crate) fn set(&mut self, column: Column, at: u32, v: f64) {
        let p = self.walk(column, at as usize);
        self.piece_mut(p)[at as usize % PIECE] = v;
    }

    /// Appends values `from..to` of a column that is stored.
    pub(crate) fn copy(&self, column: Column, from: usize, to: usize, out: &mut Vec<f64>) {
        if from >= to {
            return;
        }
        let mut p = self.walk(column, from);
        let mut at = from;
        while at < to {
            let within = at % PIECE;
            let n = (PIECE - within).min(to - at);
            out.extend_from_slice(&self.piece(p)[within..within + n]);
            at += n;
            p = self.next[p as usize];
        }
    }

    /// Gives the pieces of a column back.
    pub(crate) fn release(&mut self, column: &mut Column) {
        if column.is_none() {
            return;
        }
        let mut p = column.first;
        while p != NONE {
            self.used -= 1;
            let next = std::mem::replace(&mut self.next[p as usize], self.free);
            self.free = p;
            p = next;
        }
        *column = Column::NONE;
        if self.used == 0 {
            self.retire();
        }
    }

    /// Nobody holds a piece: the slabs may serve another page.
    fn retire(&mut self) {
        self.next.clear();
        self.free = NONE;
        SLABS.with_borrow_mut(|kept| {
            let room = KEPT_SLABS.saturating_sub(kept.len());
            kept.extend(self.slabs.drain(..).take(room));
        });
        self.slabs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn columns_are_vectors(ops in proptest::collection::vec((0usize..4, 0u8..10, any::<prop::sample::Index>()), 0..400)) {
            let mut values = Values::default();
            let mut columns = [Column::NONE; 4];
            let mut want: [Vec<f64>; 4] = Default::default();
            for (step, (c, what, at)) in ops.into_iter().enumerate() {
                let v = step as f64;
                match what {
                    0 => {
                        values.release(&mut columns[c]);
                        want[c].clear();
                    }
                    1 if !want[c].is_empty() => {
                        let at = at.index(want[c].len());
                        values.set(columns[c], at as u32, v);
                        want[c][at] = v;
                    }
                    2 if want[c].is_empty() => {
                        let n = at.index(50);
                        values.fill(&mut columns[c], n as u32, v);
                        want[c].resize(n, v);
                    }
                    _ => {
                        values.push(&mut columns[c], want[c].len() as u32, v);
                        want[c].push(v);
                    }
                }
                for (column, want) in columns.iter().zip(&want) {
                    let (from, to) = (at.index(want.len() + 1), want.len());
                    let mut got = Vec::new();
                    values.copy(*column, from, to, &mut got);
                    prop_assert_eq!(&got, &want[from..]);
                    for (i, v) in want.iter().enumerate().skip(from) {
                        prop_assert_eq!(values.get(*column, i as u32), *v);
                    }
                }
                let pieces: usize = want.iter().map(|w| w.len().div_ceil(PIECE)).sum();
                prop_assert_eq!(values.used as usize, pieces);
            }
        }
    }
}
