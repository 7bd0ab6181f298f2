//! Largest and smallest of a sliding window: a queue of candidates, each better than all after it.
//!
//! NaN never is a candidate. `min` and `max` keep the earliest of equals, `ts_of_…` the latest; a window of nothing but
//! NaN gives its last NaN.

use std::collections::VecDeque;

/// Which extreme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extreme {
    /// The largest rather than the smallest.
    pub max: bool,
    /// Of equals the latest rather than the earliest.
    pub latest: bool,
}

/// The queue; positions count from the start of the series.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extremes {
    queue: VecDeque<u32>,
    seen: usize,
}

impl Extremes {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.seen = 0;
    }

    /// Position of the extreme of `values[lo..hi]`, `lo < hi`; neither bound ever goes back.
    #[inline]
    pub fn advance(&mut self, values: &[f64], lo: usize, hi: usize, e: Extreme) -> usize {
        let beats = |new: f64, old: f64| match (e.max, e.latest) {
            (true, true) => new >= old,
            (true, false) => new > old,
            (false, true) => new <= old,
            (false, false) => new < old,
        };
        for i in self.seen.max(lo)..hi {
            let v = values[i];
            if v.is_nan() {
                continue;
            }
            while self.queue.back().is_some_and(|b| beats(v, values[*b as usize])) {
                self.queue.pop_back();
            }
            self.queue.push_back(i as u32);
        }
        self.seen = self.seen.max(hi);
        while self.queue.front().is_some_and(|f| (*f as usize) < lo) {
            self.queue.pop_front();
        }
        self.queue.front().map_or(hi - 1, |f| *f as usize)
    }
}
