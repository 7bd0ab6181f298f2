//! Blocks that lie in a remote store, read by ranges: pages from L3, what is missing from the store.
//!
//! ```text
//! ranges ─▶ pages ─▶ held? ──────────────────────────────▶ bytes
//!                      └─▶ missing: runs, small gaps joined ─▶ in flight already? wait with those who asked
//!                                                          └─▶ one request a run ─▶ L3 ─▶ all who wait
//! ```
//!
//! Invariants
//! 1. Of a page one request is in flight, however many ask.
//! 2. A request that fails fails for who asked for it, by block and store, and for nobody else: those who only joined it, and
//!    those who come later, ask again.
//! 3. Bytes are not checked here: the block does, at every read; what it finds bad is asked for anew, past L3
//!    ([`BlockBytes::again`]).
//! 4. A thread waits as long as whoever it works for wants the answer ([`Asker`](quiver_persistence::remote::Asker)).

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::{Condvar, Mutex};
use quiver_persistence::remote::{LOOK_EVERY, ObjectError, RemoteIo, given_up, is_wanted};
use quiver_storage::StorageError;
use quiver_storage::block::BlockBytes;

use crate::pages::{PageFigures, PageKey, PageStore};

/// Bytes of a page: the least that is fetched and kept.
pub const PAGE_BYTES: u64 = 32 << 10;
/// Missing pages this near to each other are fetched together: at 5 ms and 100 MB/s a request costs as much as 500 KB.
const GAP_PAGES: u32 = 8;
/// Most pages of one request: 4 MiB.
const RUN_PAGES: u32 = 128;
/// Most pages that reading on, one after the other, fetches ahead.
const AHEAD_PAGES: u32 = 64;

/// What a thread fetched, so that a query can say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchCounts {
    /// Pages found in L3.
    pub hits: u64,
    /// Pages fetched, or waited for.
    pub misses: u64,
    /// Bytes fetched.
    pub bytes: u64,
}

thread_local! {
    static COUNTS: Cell<FetchCounts> = const { Cell::new(FetchCounts { hits: 0, misses: 0, bytes: 0 }) };
}

/// What this thread fetched since it began.
pub fn fetch_counts() -> FetchCounts {
    COUNTS.get()
}

fn count(hits: u64, misses: u64, bytes: u64) {
    let c = COUNTS.get();
    COUNTS.set(FetchCounts { hits: c.hits + hits, misses: c.misses + misses, bytes: c.bytes + bytes });
}

/// Figures of remote reads since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteFigures {
    /// L3.
    pub pages: PageFigures,
    /// Requests for ranges that succeeded.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Operations that failed, reads and others.
    pub errors: u64,
    /// Waits for a request that was in flight already.
    pub shared: u64,
}

/// What to wait for, and whether somebody else began it.
type Waits = Vec<(Arc<Flight>, bool)>;

/// Ranges on their way, see [`RemoteBlock::begin`].
pub struct Begun {
    waits: Waits,
    missing: Vec<u32>,
}

/// One request on its way.
struct Flight {
    key: Arc<str>,
    first: u32,
    done: Mutex<Option<Result<Bytes, ObjectError>>>,
    landed: Condvar,
}

impl Flight {
    fn land(&self, result: Result<Bytes, ObjectError>) {
        let mut done = self.done.lock();
        if done.is_none() {
            *done = Some(result);
        }
        drop(done);
        self.landed.notify_all();
    }

    fn wait(&self) -> Result<Bytes, ObjectError> {
        let mut done = self.done.lock();
        loop {
            match &*done {
                Some(result) => return result.clone(),
                None => {
                    let waited = self.landed.wait_for(&mut done, LOOK_EVERY);
                    if waited.timed_out() && done.is_none() && !is_wanted() {
                        return Err(given_up("the remote store", &self.key));
                    }
                }
            }
        }
    }
}

/// Remote reads with their caches; shared by all blocks of a store.
pub struct RemoteCache {
    io: Arc<RemoteIo>,
    pages: PageStore,
    flights: Mutex<HashMap<PageKey, Arc<Flight>>>,
    shared: AtomicU64,
}

/// Ends a flight whose request never came to an end.
struct Landing {
    cache: Arc<RemoteCache>,
    flight: Arc<Flight>,
    object: u64,
    run: Range<u32>,
    len: u64,
    name: Arc<str>,
}

impl Landing {
    fn finish(&self, got: Result<Bytes, ObjectError>) {
        if let Ok(bytes) = &got {
            for page in self.run.clone() {
                let at = u64::from(page - self.run.start) * PAGE_BYTES;
                let end = (at + PAGE_BYTES).min(self.len);
                let (at, end) = (at as usize, end as usize);
                let key = (self.object, page);
                if at < end && end <= bytes.len() && !self.cache.pages.contains(&key) {
                    // A copy: a page must not keep a whole run alive.
                    self.cache.pages.insert(key, Bytes::copy_from_slice(&bytes[at..end]));
                }
            }
        }
        // First the pages, then the end of the flight: who comes in between finds one or the other.
        let mut flights = self.cache.flights.lock();
        for page in self.run.clone() {
            let key = (self.object, page);
            if flights.get(&key).is_some_and(|f| Arc::ptr_eq(f, &self.flight)) {
                flights.remove(&key);
            }
        }
        drop(flights);
        self.flight.land(got);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let lost = || {
            use quiver_persistence::remote::{ObjectErrorKind, ObjectOp};
            let text = "the store's threads have ended";
            ObjectError::new(ObjectOp::Get, &self.cache.io.name(), &self.name, ObjectErrorKind::Other, text)
        };
        if self.flight.done.lock().is_none() {
            self.finish(Err(lost()));
        }
    }
}

impl RemoteCache {
    /// Reads of a store through an L3.
    pub fn new(io: Arc<RemoteIo>, pages: PageStore) -> Arc<Self> {
        Arc::new(Self { io, pages, flights: Mutex::default(), shared: AtomicU64::new(0) })
    }

    /// A block in the store; `name` is what errors call it.
    pub fn block(self: &Arc<Self>, name: &str, key: &str, len: u64) -> RemoteBlock {
        RemoteBlock {
            cache: Arc::clone(self),
            name: name.into(),
            key: key.into(),
            object: object_hash(key),
            len,
            ahead: AtomicU32::new(0),
            expected: AtomicU32::new(u32::MAX),
        }
    }

    /// A query begins: what it uses more than once counts once.
    pub fn next_epoch(&self) {
        self.pages.next_epoch();
    }

    /// Forgets what is held of an object.
    pub fn forget(&self, key: &str) {
        self.pages.forget_object(object_hash(key));
    }

    /// Writes out what is in memory only, for the next start.
    pub fn close(&self) {
        self.pages.close();
    }

    /// The store.
    pub fn io(&self) -> &Arc<RemoteIo> {
        &self.io
    }

    /// Figures since the start.
    pub fn figures(&self) -> RemoteFigures {
        let (requests, bytes, errors) = self.io.figures();
        let shared = self.shared.load(Ordering::Relaxed);
        RemoteFigures { pages: self.pages.figures(), requests, bytes, errors, shared }
    }

    /// Begins to fetch missing pages (sorted, without repeats); gives what to wait for, and how many bytes are on their way.
    fn fetch(self: &Arc<Self>, block: &RemoteBlock, missing: &[u32]) -> (Waits, u64) {
        let mut flights: Waits = Vec::new();
        let mut begun: Vec<(Arc<Flight>, Range<u32>)> = Vec::new();
        let mut in_flight = self.flights.lock();
        let mut i = 0;
        while let Some(first) = missing.get(i).copied() {
            if let Some(f) = in_flight.get(&(block.object, first)) {
                if !flights.iter().any(|(known, _)| Arc::ptr_eq(known, f)) {
                    self.shared.fetch_add(1, Ordering::Relaxed);
                    flights.push((Arc::clone(f), true));
                }
                i += 1;
                continue;
            }
            let mut end = first + 1;
            i += 1;
            while let Some(next) = missing.get(i).copied()
                && next - end <= GAP_PAGES
                && next + 1 - first <= RUN_PAGES
                && !(end..=next).any(|p| in_flight.contains_key(&(block.object, p)))
            {
                end = next + 1;
                i += 1;
            }
            let flight =
                Arc::new(Flight { key: Arc::clone(&block.key), first, done: Mutex::default(), landed: Condvar::new() });
            for page in first..end {
                in_flight.insert((block.object, page), Arc::clone(&flight));
            }
            flights.push((Arc::clone(&flight), false));
            begun.push((flight, first..end));
        }
        drop(in_flight);
        let mut bytes = 0;
        for (flight, run) in begun {
            let from = u64::from(run.start) * PAGE_BYTES;
            let to = (u64::from(run.end) * PAGE_BYTES).min(block.len);
            bytes += to - from;
            let name = Arc::clone(&block.key);
            let cache = Arc::clone(self);
            let landing = Landing { cache, flight, object: block.object, run, len: to - from, name };
            self.io.get_then(Arc::clone(&block.key), from..to, move |got| landing.finish(got));
        }
        (flights, bytes)
    }
}

fn object_hash(key: &str) -> u64 {
    // Kept on the disk: a hash that is the same for ever.
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for b in key.bytes() {
        hash = (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^ (hash >> 29)
}

/// A block in a remote store.
pub struct RemoteBlock {
    cache: Arc<RemoteCache>,
    name: Arc<str>,
    key: Arc<str>,
    object: u64,
    len: u64,
    /// How many pages the next miss fetches, if it is that of `expected`.
    ahead: AtomicU32,
    expected: AtomicU32,
}

impl RemoteBlock {
    fn remote(&self, e: &ObjectError) -> StorageError {
        StorageError::Remote { file: self.name.to_string(), store: e.store.clone(), what: e.to_string() }
    }

    fn pages_of(&self, range: &Range<u64>) -> Range<u32> {
        let end = range.end.min(self.len);
        if range.start >= end {
            return 0..0;
        }
        let page = |at: u64| u32::try_from(at / PAGE_BYTES).unwrap_or(u32::MAX - 1);
        page(range.start)..page(end - 1) + 1
    }

    fn missing(&self, ranges: &[Range<u64>]) -> Vec<u32> {
        let mut pages: Vec<u32> = ranges.iter().flat_map(|r| self.pages_of(r)).collect();
        pages.sort_unstable();
        pages.dedup();
        pages.retain(|p| !self.cache.pages.contains(&(self.object, *p)));
        pages
    }

    /// Sees to it that ranges are at hand: fetches what is missing of them, all at once, and waits for it.
    pub fn ensure(&self, ranges: &[Range<u64>]) -> Result<(), StorageError> {
        let begun = self.begin(ranges);
        self.finish(begun, ranges)
    }

    /// The first half of [`RemoteBlock::ensure`]: nobody waits yet.
    pub fn begin(&self, ranges: &[Range<u64>]) -> Begun {
        let missing = self.missing(ranges);
        let (flights, bytes) = self.cache.fetch(self, &missing);
        count(0, missing.len() as u64, bytes);
        Begun { waits: flights, missing }
    }

    /// The second half, for the same ranges.
    pub fn finish(&self, begun: Begun, ranges: &[Range<u64>]) -> Result<(), StorageError> {
        let mut joined_failed = false;
        for (flight, is_joined) in &begun.waits {
            match flight.wait() {
                Ok(_) => {}
                Err(_) if *is_joined => joined_failed = true,
                Err(e) => return Err(self.remote(&e)),
            }
        }
        if joined_failed {
            let missing = self.missing(ranges);
            let (flights, bytes) = self.cache.fetch(self, &missing);
            count(0, 0, bytes);
            flights.iter().try_for_each(|(f, _)| f.wait().map(drop).map_err(|e| self.remote(&e)))?;
        }
        self.cache.pages.was_fetched(self.object, &begun.missing);
        Ok(())
    }

    /// The name of the object.
    pub fn key(&self) -> &str {
        &self.key
    }

    fn miss(&self, page: u32, last: u32) -> Result<Bytes, StorageError> {
        // Reading on, page after page, fetches more at a time.
        let is_next = self.expected.load(Ordering::Relaxed) == page;
        let ahead = if is_next { (self.ahead.load(Ordering::Relaxed) * 2).clamp(2, AHEAD_PAGES) } else { 1 };
        let end = (page + ahead).max(last + 1).min(self.pages_of(&(0..self.len)).end);
        self.ahead.store(ahead, Ordering::Relaxed);
        self.expected.store(end, Ordering::Relaxed);
        let mut missing: Vec<u32> = (page..end).collect();
        missing.retain(|p| *p == page || !self.cache.pages.contains(&(self.object, *p)));
        let (flights, bytes) = self.cache.fetch(self, &missing);
        count(0, 1, bytes);
        for (f, is_joined) in &flights {
            let run = match f.wait() {
                Ok(run) => run,
                Err(_) if *is_joined => continue,
                Err(e) => return Err(self.remote(&e)),
            };
            let Some(before) = page.checked_sub(f.first) else { continue };
            let at = u64::from(before) * PAGE_BYTES;
            let end = (at + PAGE_BYTES).min(run.len() as u64);
            if at < end {
                return Ok(run.slice(at as usize..end as usize));
            }
        }
        // It came to be held between the look and the fetch, or who had asked for it failed.
        self.cache.pages.get(&(self.object, page)).map_or_else(|| self.read_direct(page), Ok)
    }

    /// Asks the store for a page whatever is held.
    fn read_direct(&self, page: u32) -> Result<Bytes, StorageError> {
        let from = u64::from(page) * PAGE_BYTES;
        self.get(from..(from + PAGE_BYTES).min(self.len))
    }

    fn get(&self, range: Range<u64>) -> Result<Bytes, StorageError> {
        let key = Arc::clone(&self.key);
        let bytes = range.end - range.start;
        let got = self.cache.io.wait(move |objects| async move { objects.get(&key, range).await });
        count(0, 0, bytes);
        got.map_err(|e| self.remote(&e))
    }

    fn page(&self, page: u32, last: u32) -> Result<Bytes, StorageError> {
        match self.cache.pages.find(&(self.object, page)) {
            Some((bytes, is_hit)) => {
                count(u64::from(is_hit), 0, 0);
                Ok(bytes)
            }
            None => self.miss(page, last),
        }
    }
}

impl BlockBytes for RemoteBlock {
    fn len(&self) -> Result<u64, StorageError> {
        Ok(self.len)
    }

    fn range(&self, offset: u64, len: usize) -> Result<Bytes, StorageError> {
        let pages = self.pages_of(&(offset..offset.saturating_add(len as u64)));
        if pages.is_empty() {
            return Ok(Bytes::new());
        }
        let last = pages.end - 1;
        let skip = (offset - u64::from(pages.start) * PAGE_BYTES) as usize;
        if pages.start == last {
            let bytes = self.page(last, last)?;
            let from = skip.min(bytes.len());
            return Ok(bytes.slice(from..skip.saturating_add(len).min(bytes.len())));
        }
        let mut out = BytesMut::with_capacity(len.min((self.len - offset) as usize));
        for page in pages.clone() {
            let bytes = self.page(page, last)?;
            let from = if page == pages.start { skip.min(bytes.len()) } else { 0 };
            let to = bytes.len().min(from + (len - out.len()));
            out.extend_from_slice(&bytes[from..to]);
        }
        Ok(out.freeze())
    }

    fn again(&self, offset: u64, len: usize) -> Option<Result<Bytes, StorageError>> {
        let end = offset.saturating_add(len as u64).min(self.len);
        let pages = self.pages_of(&(offset..end));
        pages.for_each(|p| self.cache.pages.forget(&(self.object, p)));
        Some(if offset < end { self.get(offset..end) } else { Ok(Bytes::new()) })
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // lists of ranges, some of one
mod tests {
    use std::sync::Barrier;
    use std::time::Duration;

    use proptest::prelude::*;
    use quiver_persistence::remote::{
        FaultyObjects, FolderObjects, ObjectErrorKind, ObjectFault, ObjectOp, Objects, RetryPolicy, Retrying,
    };
    use quiver_persistence::{Disk, MemoryDisk};

    use super::*;
    use crate::pages::PageOptions;

    fn data(len: usize) -> Vec<u8> {
        (0..len).map(|i| ((i * 2_654_435_761) >> 13) as u8).collect()
    }

    struct Fixture {
        store: Arc<FaultyObjects>,
        cache: Arc<RemoteCache>,
        data: Vec<u8>,
    }

    fn fixture(len: usize, capacity: u64) -> Fixture {
        let data = data(len);
        let disk = MemoryDisk::new();
        disk.create_dir("blocks").unwrap();
        disk.create("blocks/1").unwrap().write_all(&data).unwrap();
        let store = Arc::new(FaultyObjects::new(Arc::new(FolderObjects::new(Arc::new(disk)))));
        let ms = Duration::from_millis;
        let policy = RetryPolicy { attempt: ms(400), deadline: ms(1600), pause: ms(1), pause_max: ms(2) };
        let patient = Retrying::new(Arc::clone(&store) as Arc<dyn Objects>, policy);
        let io = Arc::new(RemoteIo::new(Arc::new(patient)).unwrap());
        let cache = RemoteCache::new(io, PageStore::open(PageOptions::new(None, capacity)));
        Fixture { store, cache, data }
    }

    impl Fixture {
        fn block(&self) -> RemoteBlock {
            self.cache.block("block 1", "blocks/1", self.data.len() as u64)
        }
    }

    #[test]
    fn ranges_are_joined_and_kept() {
        let f = fixture(3_000_000, 16 << 20);
        let block = f.block();
        let far = 2_500_000..2_500_100;
        block.ensure(&[10..20, 40_000..40_010, 100_000..100_001, far.clone()]).unwrap();
        assert_eq!(f.store.take_gets().len(), 2, "near ones are one request");
        for r in [10..20, 40_000..40_010, 60_000..70_000, far] {
            assert_eq!(
                block.range(r.start, (r.end - r.start) as usize).unwrap(),
                f.data[r.start as usize..r.end as usize]
            );
        }
        assert_eq!(f.store.take_gets().len(), 0);
        // A second block object of the same bytes finds them, too; at the end there is less.
        let again = f.block();
        assert_eq!(again.range(15, 3).unwrap(), f.data[15..18]);
        assert_eq!(again.range(2_999_990, 100).unwrap(), f.data[2_999_990..]);
        assert_eq!(again.range(3_000_000, 5).unwrap(), "");
        assert_eq!(again.range(u64::MAX, 5).unwrap(), "");
        // Four pages were asked for and fetched, and so was the last one; reading them first was no hit. The one that came in
        // their gap was found, as were two that were read again.
        let pages = f.cache.figures().pages;
        assert_eq!((pages.hits, pages.misses), (3, 5));
    }

    #[test]
    fn reading_on_fetches_ahead() {
        let f = fixture(6_000_000, 16 << 20);
        let block = f.block();
        let mut all = Vec::new();
        while all.len() < f.data.len() {
            all.extend_from_slice(&block.range(all.len() as u64, 5000).unwrap());
        }
        assert_eq!(all, f.data);
        let gets = f.store.take_gets().len();
        assert!(gets < 15, "{gets} requests for 184 pages");
    }

    #[test]
    fn one_request_is_in_flight_for_all_who_ask() {
        let f = fixture(1_000_000, 16 << 20);
        f.store.set_latency(Duration::from_millis(20));
        let barrier = Barrier::new(8);
        let block = f.block();
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    barrier.wait();
                    block.ensure(&[0..200_000]).unwrap();
                    assert_eq!(block.range(123_456, 10).unwrap(), f.data[123_456..123_466]);
                });
            }
        });
        assert_eq!(f.store.take_gets().len(), 1);
    }

    #[test]
    fn a_failure_names_block_and_store_and_ends_with_its_query() {
        let f = fixture(1_000_000, 16 << 20);
        let block = f.block();
        block.ensure(&[0..10]).unwrap();
        f.store.fail(ObjectOp::Get, "", ObjectFault::Fail(ObjectErrorKind::Unavailable), u64::MAX);
        match block.range(900_000, 10) {
            Err(StorageError::Remote { file, store, what }) => {
                assert_eq!(file, "block 1");
                assert!(store.starts_with("file://") && what.contains("blocks/1"), "{store} {what}");
            }
            other => panic!("{other:?}"),
        }
        assert!(block.ensure(&[500_000..500_001]).is_err());
        assert_eq!(block.range(5, 5).unwrap(), f.data[5..10], "what is held is still read");
        f.store.heal();
        f.store.fail(ObjectOp::Get, "", ObjectFault::Stall, 1);
        assert_eq!(block.range(900_000, 10).unwrap(), f.data[900_000..900_010], "a stall is tried again");
        f.store.fail(ObjectOp::Get, "", ObjectFault::Stall, u64::MAX);
        assert!(block.range(300_000, 10).is_err(), "and given up");
        f.store.heal();
        assert_eq!(block.range(300_000, 10).unwrap(), f.data[300_000..300_010]);
    }

    #[test]
    fn who_joins_a_request_that_fails_asks_again() {
        let f = fixture(1_000_000, 16 << 20);
        let block = f.block();
        for whole in [false, true] {
            // Begun while the store stalls, for as long as it is tried.
            f.store.fail(ObjectOp::Get, "", ObjectFault::Stall, u64::MAX);
            let at = if whole { 700_000u64 } else { 100_000 };
            drop(block.begin(&[at..at + 10]));
            f.store.heal();
            if whole {
                block.ensure(&[at..at + 10]).unwrap();
            }
            assert_eq!(block.range(at, 10).unwrap(), f.data[at as usize..at as usize + 10]);
        }
    }

    #[test]
    fn what_is_bad_is_asked_for_anew() {
        let f = fixture(100_000, 16 << 20);
        let block = f.block();
        f.store.fail(ObjectOp::Get, "", ObjectFault::Flip, 1);
        let bad = block.range(0, 100_000).unwrap();
        assert_ne!(bad, f.data);
        assert_eq!(block.again(0, 100_000).unwrap().unwrap(), f.data);
        assert_eq!(block.range(0, 100_000).unwrap(), f.data, "the bad copy is forgotten");
    }

    #[test]
    fn a_cache_that_goes_away_leaves_nobody_waiting() {
        let f = fixture(100_000, 16 << 20);
        f.store.fail(ObjectOp::Get, "", ObjectFault::Stall, u64::MAX);
        let block = f.block();
        drop(block.begin(&[0..1000]));
        let Fixture { cache, .. } = f;
        drop(cache);
        drop(block);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_range_reads_as_it_is(
            len in 1usize..400_000,
            capacity in 40_000u64..600_000,
            ranges in proptest::collection::vec((0u64..400_000, 0usize..80_000, any::<bool>()), 1..24),
        ) {
            let f = fixture(len, capacity);
            let block = f.block();
            for (offset, n, first) in ranges {
                if first {
                    block.ensure(&[offset..offset + n as u64]).unwrap();
                }
                let from = (offset as usize).min(len);
                let want = &f.data[from..(from + n).min(len)];
                prop_assert_eq!(&block.range(offset, n).unwrap()[..], want);
            }
        }
    }
}
