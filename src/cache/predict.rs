//! Learns what is asked again and again with a window that moves on, as dashboards do, and says what comes next.
//!
//! ```text
//! 12:00:00  select m{…} over 11:00:00 … 12:00:00 ─┐
//! 12:00:10  select m{…} over 11:00:10 … 12:00:10 ─┴▶ every 10 s, moved by 10 s
//! 12:00:15  to be expected at 12:00:20: 11:00:20 … 12:00:20      fetched and decoded now
//! ```
//!
//! Pure: times come in, expectations come out. A window that stays is a refresh, too (moved by 0); what came once, or comes
//! in no rhythm, is expected by nobody.
//!
//! Invariant: at most [`Predictor::PATTERNS_MAX`] patterns are kept; the one not seen for longest makes room.

use std::collections::HashMap;

use quiver_model::{Need, TimeRange};

/// Names what is selected: a hash of the matchers.
pub type SelectorKey = u64;

/// Names what is selected over about how much time.
pub type PatternKey = (SelectorKey, i64);

/// What is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected<T> {
    /// Which selector.
    pub selector: T,
    /// Over which range.
    pub range: TimeRange,
    /// Which columns will be read.
    pub need: Need,
}

#[derive(Clone, Debug)]
struct Pattern<T> {
    selector: T,
    range: TimeRange,
    need: Need,
    seen_ms: i64,
    /// By how much the window moves from one time to the next, and how long that takes.
    moved: i64,
    every_ms: i64,
    /// How often that was so, one after the other.
    times: u32,
    /// Whether the next time has been prepared.
    is_prepared: bool,
}

/// Figures of what was learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PredictFigures {
    /// Patterns known.
    pub patterns: u64,
    /// Those of them that are expected again.
    pub expected: u64,
    /// Windows that came as expected.
    pub hits: u64,
    /// Windows that did not, of selectors known.
    pub misses: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Predictor<T> {
    patterns: HashMap<PatternKey, Pattern<T>>,
    hits: u64,
    misses: u64,
}

impl<T> Default for Predictor<T> {
    fn default() -> Self {
        Self { patterns: HashMap::new(), hits: 0, misses: 0 }
    }
}

/// Repeats before something is expected.
const TIMES_MIN: u32 = 2;
/// A rhythm slower than this is no refresh.
const EVERY_MAX_MS: i64 = 15 * 60_000;
/// Faster repeats are the panels of one refresh, not the next one.
const EVERY_MIN_MS: i64 = 500;

fn is_near(a: i64, b: i64, slack: i64) -> bool {
    a.abs_diff(b) <= slack.max(0) as u64
}

impl<T: Clone> Predictor<T> {
    /// Patterns kept.
    pub const PATTERNS_MAX: usize = 1024;

    /// A selector was asked for at `now_ms`, over `range`; `selector` makes what is to be asked for again. Gives what it is
    /// known by.
    pub fn seen(
        &mut self,
        key: SelectorKey,
        range: TimeRange,
        now_ms: i64,
        selector: impl FnOnce() -> T,
    ) -> PatternKey {
        let width = range.max.saturating_sub(range.min);
        // Windows whose ends are rounded to steps differ by a little: one width in eight parts.
        let class = match width {
            0 => 0,
            w => w / (w / 8).max(1_000).saturating_add(1),
        };
        let size = i64::from(64 - width.leading_zeros());
        let class = size * 16 + class.min(15);
        let Some(p) = self.patterns.get_mut(&(key, class)) else {
            self.make_room();
            let pattern = Pattern {
                selector: selector(),
                range,
                need: Need::ALL,
                seen_ms: now_ms,
                moved: 0,
                every_ms: 0,
                times: 0,
                is_prepared: false,
            };
            self.patterns.insert((key, class), pattern);
            return (key, class);
        };
        let every = now_ms.saturating_sub(p.seen_ms);
        if every < EVERY_MIN_MS {
            // Another panel of the same refresh; the wider window counts.
            p.range.min = p.range.min.min(range.min);
            p.range.max = p.range.max.max(range.max);
            return (key, class);
        }
        let moved = range.max.saturating_sub(p.range.max);
        let in_time = p.times > 0 && is_near(every, p.every_ms, p.every_ms / 2 + 1_000);
        let in_step = p.times > 0 && is_near(moved, p.moved, p.every_ms.max(p.moved.abs()) / 2 + 1_000);
        if in_time && in_step {
            if p.times >= TIMES_MIN {
                self.hits += 1;
            }
            p.times = p.times.saturating_add(1);
        } else {
            if p.times >= TIMES_MIN {
                self.misses += 1;
            }
            p.times = u32::from(every <= EVERY_MAX_MS && moved >= 0);
        }
        (p.moved, p.every_ms, p.range, p.seen_ms, p.is_prepared) = (moved, every, range, now_ms, false);
        (key, class)
    }

    /// Columns that are read of what was asked for.
    pub fn needs(&mut self, key: PatternKey, need: Need) {
        if let Some(p) = self.patterns.get_mut(&key) {
            p.need = need;
        }
    }

    fn make_room(&mut self) {
        if self.patterns.len() >= Self::PATTERNS_MAX {
            let oldest = self.patterns.iter().min_by_key(|(_, p)| p.seen_ms).map(|(k, _)| *k);
            if let Some(k) = oldest {
                self.patterns.remove(&k);
            }
        }
    }

    /// What will be asked for within `ahead_ms`, each once for every time it is expected; with `again` all that will be asked
    /// for at all, since there is more to read.
    pub fn expected(&mut self, now_ms: i64, ahead_ms: i64, again: bool) -> Vec<Expected<T>> {
        let mut out = Vec::new();
        for p in self.patterns.values_mut() {
            let at = p.seen_ms.saturating_add(p.every_ms);
            let is_live = p.times >= TIMES_MIN && now_ms <= at.saturating_add(2 * p.every_ms);
            let is_due = now_ms.saturating_add(ahead_ms.max(p.every_ms / 2)) >= at;
            if is_live && ((is_due && !p.is_prepared) || again) {
                p.is_prepared |= !again;
                let range =
                    TimeRange { min: p.range.min.saturating_add(p.moved), max: p.range.max.saturating_add(p.moved) };
                // From the window of now to the next: a refresh that comes late still finds its own.
                let range = TimeRange { min: range.min.min(p.range.min), max: range.max.max(p.range.max) };
                out.push(Expected { selector: p.selector.clone(), range, need: p.need });
            }
        }
        out
    }

    /// Figures since the start.
    pub fn figures(&self, now_ms: i64) -> PredictFigures {
        let live = |p: &&Pattern<T>| p.times >= TIMES_MIN && now_ms <= p.seen_ms.saturating_add(3 * p.every_ms);
        PredictFigures {
            patterns: self.patterns.len() as u64,
            expected: self.patterns.values().filter(live).count() as u64,
            hits: self.hits,
            misses: self.misses,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000;

    fn window(max: i64, width: i64) -> TimeRange {
        TimeRange { min: max - width, max }
    }

    #[test]
    fn a_refresh_is_expected_after_two_repeats_and_forgotten_when_it_ends() {
        let mut p = Predictor::default();
        let mut now = 1_000_000_000;
        for round in 0..5 {
            let due = p.expected(now - 2_000, 3_000, false);
            assert_eq!(due.len(), usize::from(round >= 3), "round {round}");
            if let Some(e) = due.first() {
                assert_eq!((e.range.min, e.range.max), (now - 10_000 - HOUR, now));
                assert!(p.expected(now - 1_000, 3_000, false).is_empty(), "once");
                assert_eq!(p.expected(now - 1_000, 3_000, true).len(), 1, "unless what there is has changed");
            }
            p.seen(7, window(now, HOUR), now, || "m");
            // Other panels of the same refresh.
            p.seen(7, window(now, HOUR), now + 3, || "m");
            now += 10_000;
        }
        assert_eq!(p.figures(now).hits, 2);
        assert!(p.expected(now + 10 * 60_000, 3_000, true).is_empty());
        assert_eq!(p.figures(now + 10 * 60_000).expected, 0);
    }

    #[test]
    fn what_has_no_rhythm_is_not_expected() {
        let mut p = Predictor::default();
        let mut now = 1_000_000_000;
        for gap in [10_000, 400_000, 3_000, 90_000, 700_000, 20_000] {
            p.seen(7, window(now - gap * 3, HOUR), now, || "m");
            now += gap;
            assert!(p.expected(now, 5_000, false).is_empty());
        }
    }

    #[test]
    fn pages_of_history_are_expected_by_their_own_step() {
        let mut p = Predictor::default();
        for i in 0..4 {
            p.seen(1, window(i * HOUR, HOUR), i * 5_000, || "m");
        }
        let next = p.expected(18_000, 3_000, false);
        assert_eq!(next[0].range.max, 4 * HOUR);
    }

    proptest! {
        #[test]
        fn anything_may_be_seen(steps in proptest::collection::vec((0u64..2000, any::<i64>(), any::<i64>(), any::<i64>()), 0..1500)) {
            let mut p = Predictor::default();
            for (key, min, max, now) in steps {
                p.seen(key, TimeRange { min, max }, now, || key);
                p.expected(now, 1_000, key % 2 == 0);
            }
            prop_assert!(p.figures(0).patterns <= Predictor::<u64>::PATTERNS_MAX as u64);
        }
    }
}
