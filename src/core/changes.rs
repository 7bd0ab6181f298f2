//! What has changed when: which ranges of time samples were written to, or deleted from, since some moment.
//!
//! ```text
//! number   …  17             18                 21
//! range    …  [week ago]     [12:00, 12:01]     [12:01, 12:02]         since 17: two ranges, since 21: none
//! ```
//!
//! For whoever keeps answers: one that was found at number `n` still holds outside of the ranges changed since.
//!
//! Invariants
//! 1. A change is noted after it can be seen and before anyone is told that it is done: an answer found while it became
//!    visible has a lower number, and is taken for changed.
//! 2. Ranges that lie close together are kept as one, which says more has changed than has, never less. What has been
//!    forgotten is not known (`None`), which is not the same as nothing.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::TimeRange;

/// Ranges kept.
const RANGES_MAX: usize = 2048;
/// Ranges looked at for one that a new one may go into.
const NEAR: usize = 8;
/// A range is kept as one with an earlier one where both together are so long at most, or no longer than it; ms.
const TOGETHER_MS: i64 = 60_000;

#[derive(Debug, Default)]
struct State {
    /// Number of the latest change.
    number: u64,
    /// Changes up to this number are forgotten.
    forgotten: u64,
    /// By number, ascending.
    ranges: VecDeque<(u64, TimeRange)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Changes(Mutex<State>);

impl Changes {
    /// Number of the latest change.
    pub fn number(&self) -> u64 {
        self.0.lock().number
    }

    /// Notes a change of some of the samples in a range.
    pub fn note(&self, range: TimeRange) {
        if range.min > range.max {
            return;
        }
        let mut s = self.0.lock();
        s.number += 1;
        let number = s.number;
        let together = |have: &TimeRange| TimeRange { min: have.min.min(range.min), max: have.max.max(range.max) };
        let width = |r: &TimeRange| r.max.saturating_sub(r.min);
        let from = s.ranges.len().saturating_sub(NEAR);
        let near = (from..s.ranges.len()).rev().find(|i| {
            let have = s.ranges[*i].1;
            width(&together(&have)) <= width(&range).max(TOGETHER_MS)
        });
        let range = near.and_then(|i| s.ranges.remove(i)).map_or(range, |(_, have)| together(&have));
        s.ranges.push_back((number, range));
        if s.ranges.len() > RANGES_MAX
            && let Some((number, _)) = s.ranges.pop_front()
        {
            s.forgotten = number;
        }
    }

    /// Ranges changed since a number was the latest; `None`: it is not known any more.
    pub fn since(&self, number: u64) -> Option<Vec<TimeRange>> {
        let s = self.0.lock();
        if number < s.forgotten {
            return None;
        }
        Some(s.ranges.iter().rev().take_while(|(n, _)| *n > number).map(|(_, r)| *r).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(min: i64, max: i64) -> TimeRange {
        TimeRange { min, max }
    }

    #[test]
    fn close_ranges_are_one_and_far_ones_are_not() {
        let c = Changes::default();
        for k in 0..8 {
            c.note(range(k * 15_000, k * 15_000 + 100));
            c.note(range(-1_000_000_000 + k, -1_000_000_000 + k));
        }
        let all = c.since(0).unwrap();
        assert_eq!(all.len(), 3, "two minutes of scrapes, and what came late: {all:?}");
        assert!(c.since(c.number()).unwrap().is_empty());
        c.note(range(5, 4));
        assert!(c.since(c.number() - 1).unwrap().len() <= 1, "nothing is no change");
    }

    #[test]
    fn what_is_forgotten_is_not_known() {
        let c = Changes::default();
        for k in 0..RANGES_MAX as i64 + 2 {
            c.note(range(k * 1_000_000, k * 1_000_000));
        }
        assert_eq!(c.since(0), None);
        assert_eq!(c.since(2).map(|r| r.len()), Some(RANGES_MAX));
    }

    proptest! {
        #[test]
        fn never_says_less_than_has_changed(notes in prop::collection::vec((0i64..1000, 0i64..50), 1..200), at in 0usize..200) {
            let c = Changes::default();
            let at = at.min(notes.len());
            let scaled: Vec<TimeRange> = notes.iter().map(|(m, w)| range(m * 10_000, (m + w) * 10_000)).collect();
            scaled[..at].iter().for_each(|r| c.note(*r));
            let number = c.number();
            scaled[at..].iter().for_each(|r| c.note(*r));
            let since = c.since(number).unwrap();
            for r in &scaled[at..] {
                prop_assert!(since.iter().any(|s| s.min <= r.min && r.max <= s.max), "{r:?} is not in {since:?}");
            }
        }
    }
}
