//! Clocks and counters of the operators of one query, kept where somebody asked for an explanation.
//!
//! Operators call each other in both directions: a parent runs its input, and the input pushes tiles into the parent. So
//! there is one clock, and at every border it is switched to the operator that goes on:
//!
//! ```text
//! run(parent) ─▶ run(input) ─▶ push(tile) ─▶ … ─▶ back ─▶ back
//!     parent        input         parent        input    parent
//! ```
//!
//! Invariants
//! 1. Every moment between the first switch and the last is some operator's: self times sum up to the time of the query.
//! 2. Without a profile an operator counts rows and tiles in plain integers and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use quiver_core::{ReadStats, SelectReport, TimeRange};

/// What one operator did.
#[derive(Debug, Default)]
pub struct Meter {
    /// Times it was run.
    pub runs: AtomicU64,
    /// Rows handed on.
    pub rows: AtomicU64,
    /// Tiles handed on.
    pub tiles: AtomicU64,
    /// Samples in them; with a profile only.
    pub samples: AtomicU64,
    /// Time, without that of inputs; with a profile only.
    self_ns: AtomicU64,
    memory: Mutex<Memory>,
    scans: Mutex<Vec<Arc<ScanProbe>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    now: usize,
    peak: usize,
}

impl Memory {
    fn grow(&mut self, bytes: usize) {
        self.now = self.now.saturating_add(bytes);
        self.peak = self.peak.max(self.now);
    }
}

impl Meter {
    /// Time spent in it.
    pub fn self_time(&self) -> Duration {
        Duration::from_nanos(self.self_ns.load(Ordering::Relaxed))
    }

    /// Most memory it had reserved at a time, bytes.
    pub fn memory_peak(&self) -> usize {
        self.memory.lock().peak
    }

    /// What it reads.
    pub fn scans(&self) -> Vec<Arc<ScanProbe>> {
        self.scans.lock().clone()
    }

    /// Adds a selection that it reads.
    pub fn scanned(&self, probe: Option<Arc<ScanProbe>>) {
        self.scans.lock().extend(probe);
    }
}

/// One selection of series, and what reading them took.
#[derive(Debug)]
pub struct ScanProbe {
    /// Matchers, as a selector.
    pub selector: String,
    /// Times asked for.
    pub range: TimeRange,
    /// How the series were found.
    pub report: SelectReport,
    /// Series found.
    pub series: usize,
    /// Samples they have in the range, by estimate.
    pub samples_estimate: u64,
    /// Time it took to find them.
    pub select_time: Duration,
    /// What reading them took so far.
    pub reads: Arc<ReadStats>,
}

/// See the module.
#[derive(Debug)]
pub struct Profile {
    clock: Mutex<Clock>,
    memory: Mutex<Reserved>,
}

#[derive(Debug)]
struct Clock {
    since: Instant,
    active: Option<Arc<Meter>>,
}

#[derive(Debug, Default)]
struct Reserved {
    all: Memory,
    /// By consumer, whose it is.
    owners: HashMap<usize, Option<Arc<Meter>>>,
}

impl Default for Profile {
    fn default() -> Self {
        Self { clock: Mutex::new(Clock { since: Instant::now(), active: None }), memory: Mutex::default() }
    }
}

impl Profile {
    /// Lets the clock run for another operator, or for none; returns for which it ran.
    pub fn switch(&self, to: Option<Arc<Meter>>) -> Option<Arc<Meter>> {
        let mut clock = self.clock.lock();
        let now = Instant::now();
        if let Some(m) = &clock.active {
            let ns = now.duration_since(clock.since).as_nanos();
            m.self_ns.fetch_add(u64::try_from(ns).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        clock.since = now;
        std::mem::replace(&mut clock.active, to)
    }

    /// The operator for which the clock runs.
    pub fn active(&self) -> Option<Arc<Meter>> {
        self.clock.lock().active.clone()
    }

    /// A consumer got memory; its first time says whose it is.
    pub fn grown(&self, consumer: usize, bytes: usize) {
        let mut reserved = self.memory.lock();
        reserved.all.grow(bytes);
        let owner = reserved.owners.entry(consumer).or_insert_with(|| self.active());
        if let Some(m) = owner {
            m.memory.lock().grow(bytes);
        }
    }

    /// A consumer gave memory back.
    pub fn shrunk(&self, consumer: usize, bytes: usize) {
        let mut reserved = self.memory.lock();
        reserved.all.now = reserved.all.now.saturating_sub(bytes);
        if let Some(Some(m)) = reserved.owners.get(&consumer) {
            let mut memory = m.memory.lock();
            memory.now = memory.now.saturating_sub(bytes);
        }
    }

    /// Most memory the query had reserved at a time, bytes.
    pub fn memory_peak(&self) -> usize {
        self.memory.lock().all.peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_for_one_operator_at_a_time() {
        let p = Profile::default();
        let (a, b) = (Arc::new(Meter::default()), Arc::new(Meter::default()));
        let spin = |ms| {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(ms) {
                std::hint::spin_loop();
            }
        };
        let begun = Instant::now();
        assert!(p.switch(Some(Arc::clone(&a))).is_none());
        spin(3);
        let before = p.switch(Some(Arc::clone(&b)));
        assert!(Arc::ptr_eq(&before.clone().unwrap(), &a));
        spin(1);
        p.switch(before);
        p.switch(None);
        let all = begun.elapsed();
        spin(1);
        assert!(a.self_time() >= Duration::from_millis(3) && b.self_time() >= Duration::from_millis(1));
        assert!(a.self_time() + b.self_time() <= all, "and for nobody outside");
    }

    #[test]
    fn memory_is_of_whoever_asked_first() {
        let p = Profile::default();
        let (a, b) = (Arc::new(Meter::default()), Arc::new(Meter::default()));
        p.switch(Some(Arc::clone(&a)));
        p.grown(1, 100);
        p.switch(Some(Arc::clone(&b)));
        p.grown(1, 50);
        p.grown(2, 10);
        p.shrunk(1, 150);
        p.grown(2, 30);
        p.switch(None);
        p.grown(3, 5);
        assert_eq!((a.memory_peak(), b.memory_peak(), p.memory_peak()), (150, 40, 160));
    }
}
