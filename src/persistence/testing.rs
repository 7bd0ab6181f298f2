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
