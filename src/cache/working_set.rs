//! L1, the working set: decoded columns, weighed in bytes, each loaded once however many ask.
//!
//! ```text
//! query ─▶ WorkingSet (L1, decoded) ─▶ mapped block (L2, checked at every miss) ─▶ decode
//! ```
//!
//! Invariants
//! 1. A key names immutable bytes (a chunk of a block), so nothing here ever goes stale.
//! 2. One load per key is in flight; those who come meanwhile wait for it. A failed load is nobody's value: the next
//!    one tries again.
//! 3. One query can admit only a part of the capacity: a scan of everything passes through without emptying it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quick_cache::sync::{Cache, DefaultLifecycle, GuardResult};
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};
use quiver_model::{Need, SampleColumn};

/// Names decoded samples: which block, which chunk, which columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ColumnKey {
    /// `Block::uid`.
    pub block: u64,
    /// Offset of the chunk in the block.
    pub chunk: u64,
    /// Columns that were decoded.
    pub need: Need,
}

impl ColumnKey {
    /// Names a column of times of a block, which many chunks share: decoded samples that have times and nothing else.
    pub fn times(block: u64, number: u32) -> Self {
        let none = Need { values: false, buckets: false, start_ts: false };
        Self { block, chunk: u64::MAX - u64::from(number), need: none }
    }
}

/// Bytes a column takes, with what keeping it costs.
pub fn weight_of(column: &SampleColumn) -> u64 {
    let histograms: usize = column.histograms.iter().map(|(_, h)| 200 + h.heap_bytes()).sum();
    let plain = 8 * (column.ts.capacity() + column.values.capacity() + column.start_ts.capacity());
    (plain + histograms + size_of::<SampleColumn>() + 64) as u64
}

#[derive(Clone)]
struct Bytes;

/// A column that is held.
#[derive(Clone)]
struct Held {
    column: Arc<SampleColumn>,
    /// Decoded before anybody asked; true until somebody does.
    foreseen: Option<Arc<AtomicBool>>,
}

impl Weighter<ColumnKey, Held> for Bytes {
    fn weight(&self, _: &ColumnKey, held: &Held) -> u64 {
        weight_of(&held.column)
    }
}

#[derive(Clone, Default)]
struct CountEvictions(Arc<AtomicU64>);

impl Lifecycle<ColumnKey, Held> for CountEvictions {
    type RequestState = <DefaultLifecycle<ColumnKey, Held> as Lifecycle<ColumnKey, Held>>::RequestState;

    fn on_evict(&self, _: &mut Self::RequestState, _: ColumnKey, _: Held) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Figures of the working set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkingSetFigures {
    /// Columns found.
    pub hits: u64,
    /// Columns loaded.
    pub misses: u64,
    /// Columns loaded and not kept: their query had used up its part, or another was long at loading them.
    pub passed: u64,
    /// Columns that made room for others.
    pub evictions: u64,
    /// Columns decoded before anybody asked.
    pub foreseen: u64,
    /// Those of them that somebody asked for later.
    pub foreseen_used: u64,
    /// Columns held.
    pub columns: u64,
    /// Bytes held.
    pub bytes: u64,
    /// Bytes it may hold.
    pub capacity: u64,
}

/// What one query may still admit.
#[derive(Debug)]
pub struct Admission {
    left: AtomicU64,
}

impl Admission {
    fn take(&self, column: &SampleColumn) -> u64 {
        let weight = weight_of(column);
        let take = |left: u64| Some(left.saturating_sub(weight));
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        weight
    }
}

/// Part of the capacity one query may fill: an eighth.
const ADMISSION_PART: u64 = 8;

/// So long a query waits for a column that another loads.
const WAIT: Duration = Duration::from_secs(1);

/// See the module.
pub struct WorkingSet {
    wait: Duration,
    cache: Cache<ColumnKey, Held, Bytes, DefaultHashBuilder, CountEvictions>,
    evictions: Arc<AtomicU64>,
    hits: AtomicU64,
    misses: AtomicU64,
    passed: AtomicU64,
    foreseen: AtomicU64,
    foreseen_used: AtomicU64,
}

impl WorkingSet {
    /// A working set of at most `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        let lifecycle = CountEvictions::default();
        let evictions = Arc::clone(&lifecycle.0);
        // About 8 KB a column.
        let items = usize::try_from(capacity / 8192).unwrap_or(usize::MAX).clamp(64, 1 << 24);
        let cache = match OptionsBuilder::new().estimated_items_capacity(items).weight_capacity(capacity).build() {
            Ok(options) => Cache::with_options(options, Bytes, DefaultHashBuilder::default(), lifecycle),
            Err(_) => Cache::with(items, capacity, Bytes, DefaultHashBuilder::default(), lifecycle),
        };
        let zero = || AtomicU64::new(0);
        Self {
            wait: WAIT,
            cache,
            evictions,
            hits: zero(),
            misses: zero(),
            passed: zero(),
            foreseen: zero(),
            foreseen_used: zero(),
        }
    }

    /// What a new query may admit.
    pub fn admission(&self) -> Admission {
        Admission { left: AtomicU64::new(self.cache.capacity() / ADMISSION_PART) }
    }

    /// The column of `key`, if it is held.
    pub fn get(&self, key: &ColumnKey) -> Option<Arc<SampleColumn>> {
        self.cache.get(key).map(|held| self.hit(held))
    }

    /// Is the column of `key` held? Counts as no use.
    pub fn contains(&self, key: &ColumnKey) -> bool {
        self.cache.peek(key).is_some()
    }

    fn hit(&self, held: Held) -> Arc<SampleColumn> {
        self.hits.fetch_add(1, Ordering::Relaxed);
        if held.foreseen.is_some_and(|f| f.swap(false, Ordering::Relaxed)) {
            self.foreseen_used.fetch_add(1, Ordering::Relaxed);
        }
        held.column
    }

    /// Loads the column of `key`, if it is not held, for somebody who is expected to ask; gives the bytes it takes.
    pub fn foresee<E>(
        &self,
        key: &ColumnKey,
        admission: &Admission,
        load: impl FnOnce() -> Result<SampleColumn, E>,
    ) -> Result<u64, E> {
        if admission.left.load(Ordering::Relaxed) == 0 {
            return Ok(0);
        }
        match self.cache.get_value_or_guard(key, Some(std::time::Duration::ZERO)) {
            GuardResult::Guard(guard) => {
                let column = Arc::new(load()?);
                let weight = admission.take(&column);
                self.foreseen.fetch_add(1, Ordering::Relaxed);
                let _ = guard.insert(Held { column, foreseen: Some(Arc::new(AtomicBool::new(true))) });
                Ok(weight)
            }
            // Held, or being loaded by somebody who did not wait for us.
            GuardResult::Value(_) | GuardResult::Timeout => Ok(0),
        }
    }

    /// The column of `key`, loaded if it is not held.
    pub fn get_or_load<E>(
        &self,
        key: &ColumnKey,
        admission: &Admission,
        load: impl FnOnce() -> Result<SampleColumn, E>,
    ) -> Result<Arc<SampleColumn>, E> {
        if admission.left.load(Ordering::Relaxed) == 0 {
            if let Some(held) = self.cache.get(key) {
                return Ok(self.hit(held));
            }
            self.passed.fetch_add(1, Ordering::Relaxed);
            return load().map(Arc::new);
        }
        match self.cache.get_value_or_guard(key, Some(self.wait)) {
            GuardResult::Value(held) => Ok(self.hit(held)),
            GuardResult::Guard(guard) => {
                self.misses.fetch_add(1, Ordering::Relaxed);
                // An error drops the guard: one of those waiting becomes the next to load.
                let column = Arc::new(load()?);
                admission.take(&column);
                let _ = guard.insert(Held { column: Arc::clone(&column), foreseen: None });
                Ok(column)
            }
            // That load waits for a store: this one can stop when its own query is to.
            GuardResult::Timeout => {
                self.passed.fetch_add(1, Ordering::Relaxed);
                load().map(Arc::new)
            }
        }
    }

    /// Forgets what it holds of a block.
    pub fn forget_block(&self, block: u64) {
        self.cache.retain(|key, _| key.block != block);
    }

    /// Changes how much it may hold; what is too much goes at once.
    pub fn set_capacity(&self, bytes: u64) {
        self.cache.set_capacity(bytes);
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.cache.clear();
    }

    /// Figures since the start.
    pub fn figures(&self) -> WorkingSetFigures {
        WorkingSetFigures {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            passed: self.passed.load(Ordering::Relaxed),
            foreseen: self.foreseen.load(Ordering::Relaxed),
            foreseen_used: self.foreseen_used.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            columns: self.cache.len() as u64,
            bytes: self.cache.weight(),
            capacity: self.cache.capacity(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn key(chunk: u64) -> ColumnKey {
        ColumnKey { block: 1, chunk, need: Need::ALL }
    }

    fn column(n: usize) -> SampleColumn {
        let mut c = SampleColumn::default();
        (0..n).for_each(|i| c.push_float(i as i64, i as f64, 0));
        c
    }

    fn load(set: &WorkingSet, admission: &Admission, k: u64, n: usize) -> Arc<SampleColumn> {
        set.get_or_load(&key(k), admission, || Ok::<_, ()>(column(n))).unwrap()
    }

    #[test]
    fn columns_are_kept_within_the_capacity() {
        let set = WorkingSet::new(4 << 20);
        for k in 0..2000 {
            load(&set, &set.admission(), k, 512);
        }
        let f = set.figures();
        assert!(f.bytes <= 4 << 20 && f.bytes > 2 << 20, "{f:?}");
        assert_eq!((f.misses, f.hits), (2000, 0));
        assert!(f.evictions >= 2000 - f.columns - 64, "{f:?}");
        set.set_capacity(1 << 20);
        assert!(set.figures().bytes <= 1 << 20);
    }

    #[test]
    fn a_scan_of_everything_leaves_the_working_set() {
        let set = WorkingSet::new(4 << 20);
        for _ in 0..3 {
            for k in 0..50 {
                load(&set, &set.admission(), k, 512);
            }
        }
        let scan = set.admission();
        for k in 1000..50_000 {
            load(&set, &scan, k, 512);
        }
        let before = set.figures().hits;
        for k in 0..50 {
            load(&set, &set.admission(), k, 512);
        }
        assert_eq!(set.figures().hits - before, 50, "{:?}", set.figures());
        assert!(set.figures().passed > 48_000);
    }

    #[test]
    fn one_load_is_in_flight_and_errors_are_not_kept() {
        let set = WorkingSet::new(1 << 20);
        assert_eq!(set.get_or_load(&key(1), &set.admission(), || Err("no")), Err("no"));
        let loads = AtomicU64::new(0);
        let barrier = Barrier::new(8);
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    barrier.wait();
                    let got = set.get_or_load(&key(1), &set.admission(), || {
                        loads.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        Ok::<_, ()>(column(10))
                    });
                    assert_eq!(got.unwrap().len(), 10);
                });
            }
        });
        assert_eq!(loads.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_load_that_hangs_holds_up_no_other_query() {
        let set = WorkingSet { wait: Duration::ZERO, ..WorkingSet::new(1 << 20) };
        let got = set.get_or_load(&key(1), &set.admission(), || {
            let other = std::thread::scope(|s| s.spawn(|| load(&set, &set.admission(), 1, 10).len()).join().unwrap());
            assert_eq!(other, 10);
            Ok::<_, ()>(column(10))
        });
        assert_eq!(got.unwrap().len(), 10);
        assert_eq!((set.figures().misses, set.figures().passed), (1, 1));
        assert_eq!(load(&set, &set.admission(), 1, 10).len(), 10);
        assert_eq!(set.figures().hits, 1);
    }

    #[test]
    fn what_was_foreseen_and_used_is_counted_once() {
        let set = WorkingSet::new(1 << 20);
        for k in 0..4 {
            assert!(set.foresee(&key(k), &set.admission(), || Ok::<_, ()>(column(10))).unwrap() > 0);
            assert_eq!(set.foresee(&key(k), &set.admission(), || Err(())), Ok(0), "it is held");
        }
        assert!(set.contains(&key(0)) && !set.contains(&key(9)));
        load(&set, &set.admission(), 1, 10);
        load(&set, &set.admission(), 1, 10);
        assert!(set.get(&key(2)).is_some());
        let f = set.figures();
        assert_eq!((f.foreseen, f.foreseen_used, f.hits, f.misses), (4, 2, 3, 0));
    }

    #[test]
    fn a_block_that_went_is_forgotten() {
        let set = WorkingSet::new(1 << 20);
        load(&set, &set.admission(), 1, 10);
        let other = ColumnKey { block: 2, ..key(1) };
        set.get_or_load(&other, &set.admission(), || Ok::<_, ()>(column(10))).unwrap();
        set.forget_block(1);
        assert_eq!(set.figures().columns, 1);
        set.clear();
        assert_eq!(set.figures().columns, 0);
    }
}
