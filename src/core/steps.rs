//! Is the clock to be believed, where that would delete data?
//!
//! ```text
//! clock  ──────────────╮ jumps ahead by years        data newer than the jump is dropped? no:
//!                      ╰───────────────────          nothing is dropped for a day after a jump, so that whoever looks
//! passed ───────────────────────────────────         after the machine can set it back
//! ```
//!
//! A jump is told by the latest time that was believed and the time that has passed since: while the process runs, or, at its
//! start, since the last edit of the manifest, which keeps it (a start some days later is no jump). A clock that is set back
//! makes data younger, which drops nothing; set right again it goes no further than it had been. Only a time that was believed
//! after a jump may have been the wrong one: it is forgotten when the clock is set back from it.
//!
//! Invariant: the time that is believed is a time that was believed before and what has passed since, or one that the clock has
//! shown for a day of running.

use parking_lot::Mutex;
use quiver_persistence::manifest::{ClockDoubt, ClockMark};

/// A difference that is no jump, besides a thousandth of what has passed.
const TOLERANCE_MS: u64 = 60_000;
/// So long after the last edit a start is no wonder.
const ABSENCE_MS: i64 = 3 * 24 * 3_600_000;
/// So long after a jump nothing is dropped.
const HOLD_MS: u64 = 24 * 3_600_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Steps(Mutex<Option<Seen>>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    elapsed_ms: u64,
    /// What was believed, and has passed since.
    believed_ms: i64,
    is_after_jump: bool,
    doubt: Option<Doubt>,
}

#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// What the clock showed, and has passed since.
    clock_ms: i64,
    /// Of [`Seen::elapsed_ms`].
    until_ms: u64,
}

/// A time so much later.
fn after(time_ms: i64, passed_ms: u64) -> i64 {
    time_ms.saturating_add(i64::try_from(passed_ms).unwrap_or(i64::MAX))
}

impl Seen {
    /// At a start.
    fn first(now_ms: i64, elapsed_ms: u64, mark: Option<ClockMark>) -> Self {
        let Some(ClockMark { believed_ms, is_after_jump, doubt }) = mark else {
            return Self { elapsed_ms, believed_ms: now_ms, is_after_jump: false, doubt: None };
        };
        let seen = Self { elapsed_ms, believed_ms, is_after_jump, doubt: None };
        let is_the_same = |d: &ClockDoubt| now_ms.abs_diff(d.clock_ms) <= ABSENCE_MS.unsigned_abs();
        let doubt = doubt.filter(is_the_same);
        // A clock that still shows what was in doubt has not been set right, however short its jump.
        let goes_on = doubt.is_some_and(|d| now_ms >= d.clock_ms.saturating_sub(TOLERANCE_MS as i64));
        if now_ms <= believed_ms.saturating_add(ABSENCE_MS) && !goes_on {
            return seen.believing(now_ms, ABSENCE_MS);
        }
        let left_ms = doubt.map_or(HOLD_MS, |d| d.left_ms.min(HOLD_MS));
        say(now_ms, believed_ms, left_ms);
        Self { doubt: Some(Doubt { clock_ms: now_ms, until_ms: elapsed_ms.saturating_add(left_ms) }), ..seen }
    }

    /// At a later look.
    fn next(self, now_ms: i64, elapsed_ms: u64) -> Self {
        let passed_ms = elapsed_ms.saturating_sub(self.elapsed_ms);
        let tolerance_ms = TOLERANCE_MS.saturating_add(passed_ms / 1000);
        let seen = Self { elapsed_ms, believed_ms: after(self.believed_ms, passed_ms), doubt: None, ..self };
        if now_ms <= after(seen.believed_ms, tolerance_ms) {
            return seen.believing(now_ms, i64::try_from(tolerance_ms).unwrap_or(i64::MAX));
        }
        let shown_ms = self.doubt.map(|d| after(d.clock_ms, passed_ms));
        let until_ms = match (self.doubt, shown_ms) {
            (Some(doubt), Some(shown)) if now_ms <= after(shown, tolerance_ms) => doubt.until_ms,
            _ => {
                say(now_ms, seen.believed_ms, HOLD_MS);
                elapsed_ms.saturating_add(HOLD_MS)
            }
        };
        if elapsed_ms >= until_ms {
            return Self { believed_ms: now_ms, is_after_jump: true, ..seen };
        }
        // It may go back and come again, as long as it shows no time that is later still.
        let clock_ms = shown_ms.unwrap_or(now_ms).max(now_ms);
        Self { doubt: Some(Doubt { clock_ms, until_ms }), ..seen }
    }

    /// With a clock that has not jumped ahead.
    fn believing(self, now_ms: i64, tolerance_ms: i64) -> Self {
        if self.is_after_jump && now_ms < self.believed_ms.saturating_sub(tolerance_ms) {
            return Self { believed_ms: now_ms, is_after_jump: false, ..self };
        }
        Self { believed_ms: self.believed_ms.max(now_ms), ..self }
    }
}

fn say(now_ms: i64, believed_ms: i64, left_ms: u64) {
    tracing::error!(
        ahead_ms = now_ms.saturating_sub(believed_ms),
        left_ms,
        "the clock jumped ahead; retention deletes nothing for 24 hours"
    );
}

impl Steps {
    /// Looks at the clock. Is it to be believed? `mark` is what the manifest keeps of it, asked for at the first look only.
    pub(crate) fn is_trusted(&self, now_ms: i64, elapsed_ms: u64, mark: impl FnOnce() -> Option<ClockMark>) -> bool {
        let mut seen = self.0.lock();
        let now = match *seen {
            None => Seen::first(now_ms, elapsed_ms, mark()),
            Some(seen) => seen.next(now_ms, elapsed_ms),
        };
        *seen = Some(now);
        now.doubt.is_none()
    }

    /// What the manifest is to keep, as of the last look.
    pub(crate) fn mark(&self) -> Option<ClockMark> {
        let seen = (*self.0.lock())?;
        let left_ms = |d: Doubt| d.until_ms.saturating_sub(seen.elapsed_ms);
        let doubt = seen.doubt.map(|d| ClockDoubt { clock_ms: d.clock_ms, left_ms: left_ms(d) });
        Some(ClockMark { believed_ms: seen.believed_ms, is_after_jump: seen.is_after_jump, doubt })
    }
}

/// For a manifest without a mark: when the last block was published, of the times of all; those of a day that comes long after all
/// others are not believed: the clock may have jumped before them.
pub(crate) fn last_published(mut all: Vec<i64>) -> Option<i64> {
    all.sort_unstable();
    let newest = *all.last()?;
    let day = all.partition_point(|t| *t <= newest.saturating_sub(HOLD_MS as i64));
    match (day.checked_sub(1).and_then(|k| all.get(k)), all.get(day)) {
        (Some(before), Some(first)) if first.saturating_sub(*before) > ABSENCE_MS => Some(*before),
        _ => Some(newest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const DAY: i64 = 24 * HOUR;
    const NOW: i64 = 1_700_000_000_000;

    fn believed(believed_ms: i64) -> Option<ClockMark> {
        Some(ClockMark { believed_ms, is_after_jump: false, doubt: None })
    }

    #[test]
    fn a_jump_is_not_believed_for_a_day() {
        let steps = Steps::default();
        let looks = |ahead: i64, passed: i64| steps.is_trusted(NOW + ahead, passed as u64, || believed(NOW - HOUR));
        assert!(looks(0, 0));
        assert!(looks(1_000, 1_000));
        assert!(!looks(HOUR, 2_000), "an hour in a second");
        assert!(!looks(2 * HOUR, 2_000 + HOUR), "the time that passes since heals nothing");
        assert!(looks(DAY + HOUR, 2_000 + DAY), "a day does");
        assert!(looks(0, 3_000 + DAY), "set back: data gets younger");
        assert!(!looks(DAY + HOUR + 2_000, 4_000 + DAY), "it may have been right just now, and wrong before");
        // In that day another jump begins a day of its own.
        assert!(!looks(3 * DAY, 4_000 + DAY + DAY / 2));
        assert!(!looks(4 * DAY, 4_000 + 2 * DAY + DAY / 4));
        assert!(looks(DAY, 5_000 + 2 * DAY + DAY / 4), "set right it is believed at once");
    }

    #[test]
    fn a_clock_that_was_behind_is_believed_when_it_is_set_right() {
        let steps = Steps::default();
        assert!(steps.is_trusted(NOW, 0, || None));
        assert!(steps.is_trusted(NOW - 3650 * DAY, 1_000, || None));
        assert!(steps.is_trusted(NOW - 3650 * DAY + HOUR, HOUR as u64, || None));
        assert!(steps.is_trusted(NOW + HOUR, HOUR as u64 + 1_000, || None));
        assert!(!steps.is_trusted(NOW + 3 * HOUR, HOUR as u64 + 2_000, || None));
        // The same over a start, unless what was believed was believed after a jump.
        for is_after_jump in [false, true] {
            let mark = Some(ClockMark { believed_ms: NOW, is_after_jump, doubt: None });
            let steps = Steps::default();
            assert!(steps.is_trusted(NOW - 3650 * DAY, 0, || mark));
            let mark = steps.mark();
            assert_eq!(Steps::default().is_trusted(NOW + HOUR, 0, || mark), !is_after_jump);
        }
    }

    #[test]
    fn a_start_long_after_the_last_edit_is_a_jump() {
        let starts = |mark: Option<ClockMark>| Steps::default().is_trusted(NOW, 5, || mark);
        assert!(starts(None));
        assert!(starts(believed(NOW - 2 * DAY)));
        assert!(!starts(believed(NOW - 4 * DAY)));
        assert!(starts(believed(NOW + 4 * DAY)));
        assert!(!Steps::default().is_trusted(i64::MAX, 5, || believed(i64::MIN)));
    }

    /// A server that is started every few hours comes to believe a clock, too; what was believed before it is kept all the time.
    #[test]
    fn a_doubt_outlives_the_process() {
        let mut mark = believed(NOW);
        let (mut clock, mut lives) = (NOW + 365 * DAY, 0);
        loop {
            let steps = Steps::default();
            let is_trusted = steps.is_trusted(clock, 7, || mark);
            clock += 5 * HOUR;
            let is_trusted_later = steps.is_trusted(clock, 7 + 5 * HOUR as u64, || None);
            assert!(is_trusted_later || !is_trusted);
            mark = steps.mark();
            if is_trusted_later {
                assert_eq!(mark, Some(ClockMark { believed_ms: clock, is_after_jump: true, doubt: None }));
                break;
            }
            assert!((NOW..=NOW + DAY).contains(&mark.unwrap().believed_ms), "{mark:?}");
            // It was down for an hour.
            clock += HOUR;
            lives += 1;
        }
        assert_eq!(lives, 4, "five times five hours are a day");
        // Another time than the one in doubt is a doubt of its own.
        let doubt = Some(ClockDoubt { clock_ms: NOW + 365 * DAY, left_ms: 1 });
        let steps = Steps::default();
        let mark = Some(ClockMark { believed_ms: NOW, is_after_jump: false, doubt });
        assert!(!steps.is_trusted(NOW + 3650 * DAY, 0, || mark));
        assert_eq!(steps.mark().unwrap().doubt, Some(ClockDoubt { clock_ms: NOW + 3650 * DAY, left_ms: HOLD_MS }));
    }

    #[test]
    fn a_doubt_about_a_short_jump_outlives_the_process_too() {
        for jump in [2 * 60_000, HOUR, 2 * DAY, 4 * DAY] {
            let steps = Steps::default();
            assert!(steps.is_trusted(NOW, 0, || None));
            assert!(!steps.is_trusted(NOW + jump, 1_000, || None));
            let mark = steps.mark();
            let starts = |now: i64| Steps::default().is_trusted(now, 7, || mark);
            assert!(!starts(NOW + jump) && !starts(NOW + jump + HOUR), "{jump}");
            assert!(starts(NOW + 1_000), "set right while it was down");
            // After what was left of its day it is believed.
            let steps = Steps::default();
            assert!(!steps.is_trusted(NOW + jump, 0, || mark));
            assert!(steps.is_trusted(NOW + jump + DAY, DAY as u64, || None));
        }
    }

    #[test]
    fn blocks_of_a_clock_that_was_wrong_do_not_vouch_for_it() {
        let now = NOW;
        let year = 365 * DAY;
        assert_eq!(last_published(vec![]), None);
        assert_eq!(last_published(vec![now, now - 2 * HOUR]), Some(now));
        assert_eq!(last_published(vec![now + year, now, now + year + HOUR]), Some(now));
        assert_eq!(last_published(vec![now, now + year, now + year + DAY]), Some(now + year + DAY));
    }
}
