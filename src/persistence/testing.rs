//! How large the fault tests are, and the table that they print; for the tests of all layers.
//!
//! `FAULTS=nightly` makes them as large as before a release, whatever else they are as large as at every push. Each test prints
//! one row, `fault|number|what|size|acked|lost|doubled|changed|seconds`, which `.ci/faults` puts together.

use std::time::Instant;

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
