//! Long windows read from chunk headers: a chunk that no edge of a window cuts is reduced to the one or two samples that a
//! function of windows needs of it, without being decoded.
//!
//! ```text
//! chunks     │ 480 samples │ 480 samples │ 480 samples │ 480 samples │
//! window              (────────────────────────────────]
//! column         ●●●●●●●●●●        ●             ●     ●●●●●●●●          kept: the largest, the last, …
//! weights        1 1 1 1 …        480           480    1 1 1 …           samples each stands for
//! ```
//!
//! Invariants
//! 1. A function that names what it keeps gets, window by window, the bits that all samples would give.
//! 2. Only a chunk of floats without NaN or stale marker is reduced, that lies in the range wholly, cuts no edge and
//!    overlaps no other part of its series. Where parts overlap the series is read plainly.

use quiver_model::{SampleColumn, TimeRange};
use quiver_storage::codec::{ChunkStats, ValueStats};

/// What a function needs of samples that every window has all of or none of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// How many there are, and when the first and the last of them are.
    Times,
    /// The first.
    First,
    /// The last.
    Last,
    /// The first and the last.
    Ends,
    /// The first and the last, where no sample is smaller than the one before.
    Rising,
    /// The first and the last, where all are the same.
    Steady,
    /// The smallest, of equals the earliest.
    Min,
    /// The largest, of equals the earliest.
    Max,
}

/// The edges of windows: `from + k · step` for `k` below `len`, and each of those less `range`. A sample at an edge is on
/// its left side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edges {
    /// Right edge of the first window, ms.
    pub from: i64,
    /// From one window to the next, ms.
    pub step: i64,
    /// Windows.
    pub len: usize,
    /// Length of a window, ms.
    pub range: i64,
}

impl Edges {
    /// Does an edge part samples from `min` to `max`?
    pub fn cut(&self, min: i64, max: i64) -> bool {
        self.any_within(self.from, min, max) || self.any_within(self.from.saturating_sub(self.range), min, max)
    }

    /// Is any of `from + k · step` in `min..max`?
    fn any_within(&self, from: i64, min: i64, max: i64) -> bool {
        let (from, min, max) = (i128::from(from), i128::from(min), i128::from(max));
        let step = i128::from(self.step.max(1));
        let k = if min <= from { 0 } else { (min - from + step - 1) / step };
        k < self.len as i128 && from + k * step < max
    }
}

/// How to condense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condense {
    /// What is kept.
    pub keep: Keep,
    /// Of which windows.
    pub edges: Edges,
}

/// One or two samples in the place of a chunk: time, value, and how many they stand for.
type Kept = ((i64, f64, u32), Option<(i64, f64, u32)>);

impl Condense {
    /// What is left of a chunk, if its figures tell enough.
    pub(crate) fn kept(&self, range: TimeRange, min: i64, max: i64, stats: &ChunkStats) -> Option<Kept> {
        let v = stats.values?;
        let n = stats.count;
        if n == 0 || !range.covers(min, max) || stats.kinds.histograms || stats.kinds.start_ts {
            return None;
        }
        let one = |value: f64| Some(((max, value, n), None));
        match self.keep {
            Keep::First => one(v.first),
            Keep::Last => one(v.last),
            Keep::Min if settled(v.min, &v) => one(v.min),
            Keep::Max if settled(v.max, &v) => one(v.max),
            Keep::Min | Keep::Max => None,
            Keep::Rising if v.resets > 0 => None,
            Keep::Steady if v.first.to_bits() != v.min.to_bits() || v.min.to_bits() != v.max.to_bits() => None,
            Keep::Times | Keep::Ends | Keep::Rising | Keep::Steady => match n {
                1 => one(v.last),
                _ => Some(((min, v.first, 1), Some((max, v.last, n - 1)))),
            },
        }
    }
}

/// Are the bits of an extreme certain? Zeros of both signs are equal: which of them came first the figures do not tell,
/// unless the chunk is constant.
fn settled(extreme: f64, v: &ValueStats) -> bool {
    extreme != 0.0 || v.min.to_bits() == v.max.to_bits()
}

/// Weights of a column while it is read.
#[derive(Debug)]
pub(crate) struct Condensing<'a> {
    pub(crate) how: Condense,
    /// One per sample of the column as far as it was condensed; what follows stands for itself.
    pub(crate) weights: &'a mut Vec<u32>,
}

impl Condensing<'_> {
    /// Puts what is kept of a chunk at the end of a column.
    pub(crate) fn push(&mut self, kept: Kept, out: &mut SampleColumn) {
        let (first, second) = kept;
        for (t, v, n) in [Some(first), second].into_iter().flatten() {
            self.weights.resize(out.len(), 1);
            out.push_float(t, v, 0);
            self.weights.push(n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_edge_cuts_where_it_parts_two_times(
            from in -50i64..50, step in 1i64..30, len in 0usize..6, range in 0i64..60, min in -80i64..200, width in 0i64..40,
        ) {
            let edges = Edges { from, step, len, range };
            let max = min + width;
            let all = (0..len as i64).flat_map(|k| [from + k * step, from + k * step - range]);
            let want = all.clone().any(|e| min <= e && e < max);
            prop_assert_eq!(edges.cut(min, max), want);
        }
    }

    #[test]
    fn edges_at_the_ends_of_time() {
        let edges = Edges { from: i64::MAX, step: i64::MAX, len: usize::MAX, range: i64::MAX };
        assert!(edges.cut(i64::MIN, i64::MAX));
        assert!(!edges.cut(5, 5));
    }
}
