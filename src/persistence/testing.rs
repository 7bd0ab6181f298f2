//! How large the fault tests are, and the table that they print; for the tests of all layers.
//!
//! `FAULTS=nightly` makes them as large as before a release, whatever else they are as large as at every push. Each test prints
//! one row, `fault|number|what|size|acked|lost|doubled|changed|seconds`, which `.ci/faults` puts together.

use std::collections::HashSet;
use std::time::Instant;

use crate::MemoryDisk;

/// Are the tests to be as large as before a release?
pub fn is_nightly() -> bool {
    std::env::var("FAULTS").is_ok_and(|v| v == "nightly")
}

/// The size for every push, or for the nightly run. A number in `FAULTS_SCALE` (percent) makes the nightly one smaller.
pub fn sized(push: u64, nightly: u64) -> u64 {
    if !is_nightly() {
        return push;
    }
    let percent = std::env::var("FAULTS_SCALE").ok().and_then(|v| v.parse::<u64>().ok()).unwrap_or(100);
    (nightly.saturating_mul(percent) / 100).max(push)
}

/// A row of the table. What is lost, doubled or changed is what was acknowledged and must not be: 0, or the test failed.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    number: &'static str,
    what: &'static str,
    begun: Instant,
}

impl Row {
    /// Begins test `number` of the fault matrix.
    pub fn begin(number: &'static str, what: &'static str) -> Self {
        Self { number, what, begun: Instant::now() }
    }

    /// Prints it: the test has found nothing lost, doubled or changed of what was acknowledged.
    pub fn passed(self, size: impl std::fmt::Display, acked: u64) {
        let Self { number, what, begun } = self;
        println!("fault|{number}|{what}|{size}|{acked}|0|0|0|{:.1}", begun.elapsed().as_secs_f64());
    }
}

/// Plays every order: `play` asks for a choice among so many, as often as it likes, and is played again until all choices of all
/// plays have been made. Gives how many there were.
pub fn every_order(most: u64, mut play: impl FnMut(&mut dyn FnMut(usize) -> usize)) -> u64 {
    let mut path: Vec<(usize, usize)> = Vec::new();
    let mut plays = 0;
    loop {
        let mut depth = 0;
        play(&mut |among| {
            if depth == path.len() {
                path.push((0, among));
            }
            let (choice, _) = path[depth];
            depth += 1;
            choice
        });
        plays += 1;
        // The next one: the last choice that has another left.
        while path.last().is_some_and(|(choice, among)| choice + 1 >= *among) {
            path.pop();
        }
        match path.last_mut() {
            Some((choice, _)) if plays < most => *choice += 1,
            _ => return plays,
        }
    }
}

/// How many states [`every_crash`] looked at, and of how many moments it looked at all there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Crashes {
    /// States that differ from each other, moment by moment.
    pub states: u64,
    /// Moments.
    pub moments: u64,
    /// Moments of which every state was looked at.
    pub enumerated: u64,
}

impl std::fmt::Display for Crashes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { states, moments, enumerated } = self;
        write!(f, "{states} different states, all there are at {enumerated} of {moments} moments")
    }
}

/// Looks at what a power loss now could leave of `disk`, at equal states once. Where at most `pending_max` operations are pending
/// that is every state in which each of them is there or not (with few of them also every way to tear a write); `seeds` chosen
/// at random come on top, torn anywhere.
pub fn every_crash(
    disk: &MemoryDisk,
    pending_max: usize,
    seeds: u64,
    crashes: &mut Crashes,
    mut look: impl FnMut(MemoryDisk, &str),
) {
    let mut seen = HashSet::new();
    let mut look = |after: MemoryDisk, what: &str| {
        if seen.insert(after.fingerprint()) {
            crashes.states += 1;
            look(after, what);
        }
    };
    crashes.moments += 1;
    let pending = disk.pending_ops();
    if pending <= pending_max {
        crashes.enumerated += 1;
        let with_torn_writes = pending * 2 <= pending_max;
        every_order(u64::MAX, |choose| {
            let mut chosen = String::new();
            let after = disk.crash_chosen(with_torn_writes, &mut |among| {
                let choice = choose(among);
                chosen.push(char::from_digit(u32::try_from(choice).unwrap_or(0), 10).unwrap_or('?'));
                choice
            });
            look(after, &format!("what is left is {chosen}"));
        });
    }
    for seed in 0..seeds {
        look(disk.crash(seed), &format!("seed {seed}"));
    }
}
