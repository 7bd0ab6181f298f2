//! Is the clock to be believed, where that would delete data?
//!
//! ```text
//! clock  ──────────────╮ jumps ahead by years        data newer than the jump is dropped? no:
//!                      ╰───────────────────          nothing is dropped for a day after a jump, so that whoever looks
//! passed ───────────────────────────────────         after the machine can set it back
//! ```
//!
//! A jump is told by the time that has passed since the last look, or, at the start, since the last block was published. A clock
//! that is set back makes data younger, which drops nothing.

use parking_lot::Mutex;

/// A difference that is no jump, besides a thousandth of what has passed.
const TOLERANCE_MS: u64 = 60_000;
/// So long after the last block a start is no wonder.
const ABSENCE_MS: i64 = 3 * 24 * 3_600_000;
/// So long after a jump nothing is dropped.
const HOLD_MS: u64 = 24 * 3_600_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Steps(Mutex<Option<Seen>>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    now_ms: i64,
    elapsed_ms: u64,
    held_until_ms: u64,
}

impl Steps {
    /// Looks at the clock. Is it to be believed? `published` is when the last block was published, see [`last_published`].
    pub(crate) fn is_trusted(&self, now_ms: i64, elapsed_ms: u64, published: impl FnOnce() -> Option<i64>) -> bool {
        let mut seen = self.0.lock();
        let (jump_ms, held_until_ms) = match *seen {
            None => (published().map_or(0, |p| now_ms.saturating_sub(p).saturating_sub(ABSENCE_MS)), 0),
            Some(s) => {
                let passed = elapsed_ms.saturating_sub(s.elapsed_ms);
                let allowed = passed.saturating_add(TOLERANCE_MS).saturating_add(passed / 1000);
                let moved = now_ms.saturating_sub(s.now_ms);
                (moved.saturating_sub(i64::try_from(allowed).unwrap_or(i64::MAX)), s.held_until_ms)
            }
        };
        let held_until_ms = if jump_ms > 0 {
            tracing::error!(ahead_ms = jump_ms, "the clock jumped ahead: the retention drops nothing for a day");
            elapsed_ms.saturating_add(HOLD_MS)
        } else {
            held_until_ms
        };
        *seen = Some(Seen { now_ms, elapsed_ms, held_until_ms });
        elapsed_ms >= held_until_ms
    }
}

/// When the last block was published, of the times of all; those of a day that comes long after all others are not believed:
/// the clock may have jumped before them.
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

    #[test]
    fn a_jump_is_not_believed_for_a_day() {
        let steps = Steps::default();
        let now = 1_700_000_000_000;
        assert!(steps.is_trusted(now, 0, || Some(now - HOUR)));
        assert!(steps.is_trusted(now + 1_000, 1_000, || None));
        assert!(!steps.is_trusted(now + HOUR, 2_000, || None), "an hour in a second");
        assert!(
            !steps.is_trusted(now + 2 * HOUR, 2_000 + HOUR as u64, || None),
            "the time that passes since heals nothing"
        );
        assert!(steps.is_trusted(now + 25 * HOUR, 2_000 + 24 * HOUR as u64, || None), "a day does");
        assert!(steps.is_trusted(now, 3_000 + 24 * HOUR as u64, || None), "set back: data gets younger");
        assert!(!steps.is_trusted(now + HOUR, 4_000 + 24 * HOUR as u64, || None));
    }

    #[test]
    fn a_start_long_after_the_last_block_is_a_jump() {
        let now = 1_700_000_000_000;
        assert!(Steps::default().is_trusted(now, 5, || None));
        assert!(Steps::default().is_trusted(now, 5, || Some(now - 2 * 24 * HOUR)));
        assert!(!Steps::default().is_trusted(now, 5, || Some(now - 4 * 24 * HOUR)));
        assert!(!Steps::default().is_trusted(i64::MAX, 5, || Some(i64::MIN)));
    }

    #[test]
    fn blocks_of_a_clock_that_was_wrong_do_not_vouch_for_it() {
        let now = 1_700_000_000_000;
        let year = 365 * 24 * HOUR;
        assert_eq!(last_published(vec![]), None);
        assert_eq!(last_published(vec![now, now - 2 * HOUR]), Some(now));
        assert_eq!(last_published(vec![now + year, now, now + year + HOUR]), Some(now));
        let day = 24 * HOUR;
        assert_eq!(last_published(vec![now, now + year, now + year + day]), Some(now + year + day));
    }
}
