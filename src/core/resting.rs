//! Blocks that are left alone for a while, since work on them failed: the first time for seconds, then for longer and longer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The first rest.
const REST: Duration = Duration::from_secs(5);
/// The longest one.
const REST_MAX: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Resting {
    /// Until when each block rests, and how long that is.
    until: HashMap<u64, (Instant, Duration)>,
}

impl Resting {
    /// Is a block to be left alone?
    pub(crate) fn is(&self, id: u64, now: Instant) -> bool {
        self.until.get(&id).is_some_and(|(until, _)| now < *until)
    }

    /// Notes how work on blocks went.
    pub(crate) fn note(&mut self, ids: &[u64], is_done: bool, now: Instant) {
        for id in ids {
            if is_done {
                self.until.remove(id);
                continue;
            }
            let rest = self.until.get(id).map_or(REST, |(_, last)| (*last * 2).min(REST_MAX));
            self.until.insert(*id, (now + rest, rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_longer_each_time_and_ends_with_success() {
        let (mut resting, mut now) = (Resting::default(), Instant::now());
        let mut rests = Vec::new();
        for _ in 0..9 {
            resting.note(&[1, 2], false, now);
            assert!(resting.is(1, now) && resting.is(2, now) && !resting.is(3, now));
            let (until, rest) = resting.until[&1];
            rests.push(rest.as_secs());
            now = until;
            assert!(!resting.is(1, now));
        }
        assert_eq!(rests, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        resting.note(&[1], true, now);
        resting.note(&[1], false, now);
        assert_eq!(resting.until[&1].1, REST);
    }
}
