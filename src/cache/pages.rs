//! L3: pages of remote blocks on the local disk, in segments that are written once and mapped.
//!
//! ```text
//! insert ─▶ open segment (memory) ─▶ full: file SEGMENT.pages, mapped ─▶ old: evicted as a whole
//!
//! probation ── new pages; a page that a later query used moves on when its segment goes ─▶ main ── used pages: one that
//!              (an eighth)                                                                          was used again stays
//!
//! file: page │ page │ … │ entries (object u64, page u32, offset u32, length u32, CRC u32) │ trailer
//! ```
//!
//! Queues of whole segments: nothing is rewritten in place, an eviction is the removal of a file, and a scan of everything
//! passes through the probation without touching what is used.
//!
//! Invariants
//! 1. Open and closed segments together take at most the capacity, but for one segment being written.
//! 2. A page that was on the disk at the start is checked against its CRC when it is first used; a bad one is a miss.
//! 3. Files that do not end in a whole trailer are what a crash left, and go at the start. Nothing is synced: losing the
//!    cache loses no data.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use quiver_persistence::{Disk, DiskError, DiskErrorKind, DiskOp, crc32c};

/// Which object, by the hash of its name, and which page of it.
pub type PageKey = (u64, u32);

/// How L3 is set up.
#[derive(Clone, Debug)]
pub struct PageOptions {
    /// The disk and the folder on it; none: memory only.
    pub place: Option<(Arc<dyn Disk>, String)>,
    /// Bytes it may take.
    pub capacity: u64,
    /// Bytes of a segment.
    pub segment_bytes: usize,
}

/// Room on the disk that is left to log and blocks, bytes.
const SPARE_BYTES: u64 = 64 << 20;

/// Would a file of so many bytes take room that log and blocks need?
fn is_crowded(disk: &dyn Disk, bytes: u64) -> bool {
    disk.free_bytes().is_ok_and(|free| free < bytes.saturating_add(SPARE_BYTES))
}

impl PageOptions {
    /// A cache of so many bytes, on a disk or in memory.
    pub fn new(place: Option<(Arc<dyn Disk>, String)>, capacity: u64) -> Self {
        let segment_bytes = usize::try_from(capacity / 32).unwrap_or(usize::MAX).clamp(64 << 10, 8 << 20);
        Self { place, capacity, segment_bytes }
    }
}

/// Figures of L3 since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageFigures {
    /// Pages found.
    pub hits: u64,
    /// Pages looked for and not found.
    pub misses: u64,
    /// Pages that made room for others.
    pub evictions: u64,
    /// Pages that were kept longer because they were used.
    pub promotions: u64,
    /// Pages that did not match their checksum.
    pub damaged: u64,
    /// Segments that could not be written.
    pub write_errors: u64,
    /// Pages held.
    pub pages: u64,
    /// Bytes held.
    pub bytes: u64,
    /// Bytes it may hold.
    pub capacity: u64,
}

const MAGIC: [u8; 8] = *b"QUIVRL3P";
const VERSION: u32 = 1;
const ENTRY_LEN: usize = 24;
/// Entries u32, CRC u32 over entries and count, version u32, magic.
const TRAILER_LEN: usize = 20;
const SHARDS: usize = 16;
/// A page used more often than this is not told from one used so often.
const USES_MAX: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Probation,
    Main,
}

struct Slot {
    bytes: RwLock<Bytes>,
    segment: AtomicU64,
    uses: AtomicU8,
    epoch: AtomicU32,
    crc: u32,
    is_checked: AtomicBool,
    /// It was fetched for a read that is yet to come: that one does not find it, it brought it.
    is_fetched: AtomicBool,
}

#[derive(Default)]
struct Open {
    id: u64,
    pages: Vec<PageKey>,
    bytes: u64,
}

struct Closed {
    id: u64,
    pages: Vec<PageKey>,
    bytes: u64,
    file: Option<String>,
}

#[derive(Default)]
struct Segments {
    open: [Open; 2],
    closed: [VecDeque<Closed>; 2],
    next_id: u64,
}

impl Segments {
    fn bytes(&self, queue: Queue) -> u64 {
        self.open[queue as usize].bytes + self.closed[queue as usize].iter().map(|c| c.bytes).sum::<u64>()
    }
}

/// See the module.
pub struct PageStore {
    options: PageOptions,
    shards: [RwLock<HashMap<PageKey, Arc<Slot>>>; SHARDS],
    segments: Mutex<Segments>,
    epoch: AtomicU32,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
    promotions: AtomicU64,
    damaged: AtomicU64,
    write_errors: AtomicU64,
}

impl PageStore {
    /// Opens what is there; what is no whole segment goes. A disk that does not work means memory only.
    pub fn open(options: PageOptions) -> Self {
        let zero = || AtomicU64::new(0);
        let mut store = Self {
            options,
            shards: Default::default(),
            segments: Mutex::new(Segments { next_id: 1, ..Segments::default() }),
            epoch: AtomicU32::new(1),
            hits: zero(),
            misses: zero(),
            evictions: zero(),
            promotions: zero(),
            damaged: zero(),
            write_errors: zero(),
        };
        if let Some((disk, dir)) = store.options.place.clone()
            && let Err(e) = store.load(&disk, &dir)
        {
            tracing::warn!(error = %e, folder = dir, "cannot open the local page cache; pages of remote blocks are cached in memory only");
            store.options.place = None;
            store.options.capacity = store.options.capacity.min(64 << 20);
        }
        let mut segments = store.segments.lock();
        for queue in [Queue::Probation, Queue::Main] {
            segments.next_id += 1;
            segments.open[queue as usize].id = segments.next_id;
        }
        store.make_room(&mut segments);
        drop(segments);
        store
    }

    fn load(&self, disk: &Arc<dyn Disk>, dir: &str) -> Result<(), DiskError> {
        disk.create_dir(dir)?;
        let mut segments = self.segments.lock();
        for name in disk.list(dir)? {
            let path = format!("{dir}/{name}");
            let id = name.strip_suffix(".pages").and_then(|n| n.parse::<u64>().ok());
            let found = id.and_then(|id| Some((id, disk.map(&path).ok()?)));
            let entries = found.as_ref().and_then(|(_, map)| read_entries(map));
            let (Some((id, map)), Some(entries)) = (found, entries) else {
                disk.remove(&path)?;
                continue;
            };
            let mut pages = Vec::with_capacity(entries.len());
            for (key, range, crc) in entries {
                let slot = Slot {
                    bytes: RwLock::new(map.bytes().slice(range)),
                    segment: AtomicU64::new(id),
                    uses: AtomicU8::new(0),
                    epoch: AtomicU32::new(0),
                    crc,
                    is_checked: AtomicBool::new(false),
                    is_fetched: AtomicBool::new(false),
                };
                self.shard(&key).write().insert(key, Arc::new(slot));
                pages.push(key);
            }
            let bytes = map.len() as u64;
            // What the queues were is not kept: all begin anew among the pages that have to prove themselves.
            let closed = Closed { id, pages, bytes, file: Some(path) };
            segments.closed[Queue::Main as usize].push_back(closed);
            segments.next_id = segments.next_id.max(id + 1);
        }
        segments.closed[Queue::Main as usize].make_contiguous().sort_by_key(|c| c.id);
        Ok(())
    }

    fn shard(&self, key: &PageKey) -> &RwLock<HashMap<PageKey, Arc<Slot>>> {
        let mix = (key.0 ^ u64::from(key.1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.shards[(mix >> 60) as usize % SHARDS]
    }

    /// A query begins: what it uses more than once counts once.
    pub fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// A page, if it is held.
    pub fn get(&self, key: &PageKey) -> Option<Bytes> {
        self.find(key).map(|(bytes, _)| bytes)
    }

    /// A page, if it is held, and whether that counts as a hit: it does not for the first read after [`PageStore::was_fetched`].
    pub fn find(&self, key: &PageKey) -> Option<(Bytes, bool)> {
        let slot = self.shard(key).read().get(key).cloned();
        let Some(slot) = slot else {
            self.misses.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let bytes = slot.bytes.read().clone();
        if !slot.is_checked.load(Ordering::Acquire) {
            if crc32c(&bytes) != slot.crc {
                self.damaged.fetch_add(1, Ordering::Relaxed);
                self.misses.fetch_add(1, Ordering::Relaxed);
                self.forget(key);
                return None;
            }
            slot.is_checked.store(true, Ordering::Release);
        }
        let epoch = self.epoch.load(Ordering::Relaxed);
        if slot.epoch.swap(epoch, Ordering::Relaxed) != epoch {
            let more = |n: u8| (n < USES_MAX).then_some(n + 1);
            let _ = slot.uses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
        let is_hit = !slot.is_fetched.swap(false, Ordering::Relaxed);
        self.hits.fetch_add(u64::from(is_hit), Ordering::Relaxed);
        Some((bytes, is_hit))
    }

    /// These pages were looked for, not found, and fetched to be read next: each is a miss, and reading it then is no hit.
    pub fn was_fetched(&self, object: u64, pages: &[u32]) {
        self.misses.fetch_add(pages.len() as u64, Ordering::Relaxed);
        for page in pages {
            let key = (object, *page);
            if let Some(slot) = self.shard(&key).read().get(&key) {
                slot.is_fetched.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Is a page held? Counts as no use.
    pub fn contains(&self, key: &PageKey) -> bool {
        self.shard(key).read().contains_key(key)
    }

    /// Keeps a page.
    pub fn insert(&self, key: PageKey, bytes: Bytes) {
        self.add(Queue::Probation, key, bytes, None);
    }

    fn add(&self, queue: Queue, key: PageKey, bytes: Bytes, crc: Option<u32>) {
        let mut segments = self.segments.lock();
        self.add_locked(&mut segments, queue, key, bytes, crc);
        self.make_room(&mut segments);
    }

    fn add_locked(&self, segments: &mut Segments, queue: Queue, key: PageKey, bytes: Bytes, crc: Option<u32>) {
        let open = &mut segments.open[queue as usize];
        let len = bytes.len() as u64;
        let slot = Slot {
            segment: AtomicU64::new(open.id),
            uses: AtomicU8::new(0),
            epoch: AtomicU32::new(self.epoch.load(Ordering::Relaxed)),
            crc: crc.unwrap_or_else(|| crc32c(&bytes)),
            is_checked: AtomicBool::new(true),
            is_fetched: AtomicBool::new(false),
            bytes: RwLock::new(bytes),
        };
        self.shard(&key).write().insert(key, Arc::new(slot));
        open.pages.push(key);
        open.bytes += len;
        if open.bytes >= self.options.segment_bytes as u64 {
            self.close_segment(segments, queue);
        }
    }

    /// Writes the open segment out, and begins another.
    fn close_segment(&self, segments: &mut Segments, queue: Queue) {
        segments.next_id += 1;
        let next = Open { id: segments.next_id, ..Open::default() };
        let Open { id, pages, bytes } = std::mem::replace(&mut segments.open[queue as usize], next);
        if pages.is_empty() {
            return;
        }
        let mut closed = Closed { id, pages, bytes, file: None };
        if let Some((disk, dir)) = &self.options.place {
            self.give_way(&**disk, segments, closed.bytes);
            let path = format!("{dir}/{id:016}.pages");
            let written = match is_crowded(&**disk, closed.bytes) {
                true => Err(DiskError::new(DiskOp::Write, &path, DiskErrorKind::Full, "the room is left to the data")),
                false => self.write(&**disk, &path, &closed),
            };
            match written {
                Ok(len) => {
                    closed.file = Some(path);
                    closed.bytes = len;
                }
                Err(e) => {
                    self.write_errors.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(error = %e, "cannot write the local page cache");
                    // A disk that is full needs the room more than we do.
                    let _ = disk.remove(&path);
                    self.drop_pages(&closed);
                    return;
                }
            }
        }
        segments.closed[queue as usize].push_back(closed);
    }

    fn write(&self, disk: &dyn Disk, path: &str, segment: &Closed) -> Result<u64, DiskError> {
        let mut body = BytesMut::with_capacity(segment.bytes as usize + segment.pages.len() * ENTRY_LEN + TRAILER_LEN);
        let mut entries = BytesMut::with_capacity(segment.pages.len() * ENTRY_LEN + TRAILER_LEN);
        let mut written = Vec::with_capacity(segment.pages.len());
        for key in &segment.pages {
            let Some(slot) = self.shard(key).read().get(key).cloned() else { continue };
            if slot.segment.load(Ordering::Relaxed) != segment.id {
                continue;
            }
            let bytes = slot.bytes.read().clone();
            let range = body.len()..body.len() + bytes.len();
            entries.extend_from_slice(&key.0.to_le_bytes());
            entries.extend_from_slice(&key.1.to_le_bytes());
            entries.extend_from_slice(&(range.start as u32).to_le_bytes());
            entries.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            entries.extend_from_slice(&slot.crc.to_le_bytes());
            body.extend_from_slice(&bytes);
            written.push((slot, range));
        }
        let count = (written.len() as u32).to_le_bytes();
        entries.extend_from_slice(&count);
        let crc = crc32c(&entries);
        body.extend_from_slice(&entries);
        body.extend_from_slice(&crc.to_le_bytes());
        body.extend_from_slice(&VERSION.to_le_bytes());
        body.extend_from_slice(&MAGIC);
        disk.create(path)?.write_all(&body)?;
        let map = disk.map(path)?;
        for (slot, range) in written {
            *slot.bytes.write() = map.bytes().slice(range);
        }
        Ok(body.len() as u64)
    }

    /// Where the disk has little room left, what is on it goes: these are copies, and log and blocks have nowhere else to go.
    fn give_way(&self, disk: &dyn Disk, segments: &mut Segments, bytes: u64) {
        while is_crowded(disk, bytes) {
            let oldest =
                [Queue::Probation, Queue::Main].into_iter().find_map(|q| segments.closed[q as usize].pop_front());
            let Some(segment) = oldest else { return };
            self.drop_pages(&segment);
            if let Some(file) = &segment.file
                && let Err(e) = disk.remove(file)
            {
                tracing::debug!(error = %e, "cannot remove a segment of the local page cache");
            }
        }
    }

    fn drop_pages(&self, segment: &Closed) {
        for key in &segment.pages {
            let mut shard = self.shard(key).write();
            if shard.get(key).is_some_and(|s| s.segment.load(Ordering::Relaxed) == segment.id) {
                shard.remove(key);
                self.evictions.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn make_room(&self, segments: &mut Segments) {
        let capacity = self.options.capacity;
        // Every turn takes a segment away; a page stays at most as often as it was used.
        while segments.bytes(Queue::Probation) + segments.bytes(Queue::Main) > capacity {
            let is_full = segments.bytes(Queue::Probation) > capacity / 8;
            let order = if is_full { [Queue::Probation, Queue::Main] } else { [Queue::Main, Queue::Probation] };
            let oldest = order.into_iter().find_map(|q| Some((q, segments.closed[q as usize].pop_front()?)));
            let Some((_, segment)) = oldest else {
                // Open segments alone are too much: a capacity of a few pages.
                let open = if segments.open[0].bytes >= segments.open[1].bytes { 0 } else { 1 };
                segments.next_id += 1;
                let next = Open { id: segments.next_id, ..Open::default() };
                let Open { id, pages, bytes } = std::mem::replace(&mut segments.open[open], next);
                self.drop_pages(&Closed { id, pages, bytes, file: None });
                continue;
            };
            self.evict(segments, segment);
        }
    }

    fn evict(&self, segments: &mut Segments, segment: Closed) {
        // At most half of a segment is kept on, so that room comes about whatever is used.
        let mut left = segment.bytes / 2;
        for key in &segment.pages {
            let slot = self.shard(key).read().get(key).cloned();
            let Some(slot) = slot.filter(|s| s.segment.load(Ordering::Relaxed) == segment.id) else { continue };
            let (uses, bytes) = (slot.uses.load(Ordering::Relaxed), slot.bytes.read().clone());
            let len = bytes.len() as u64;
            let is_good = slot.is_checked.load(Ordering::Acquire);
            if uses > 0 && len <= left && is_good {
                left -= len;
                self.promotions.fetch_add(1, Ordering::Relaxed);
                // A copy: the mapping of the old file must go.
                let copy = Bytes::copy_from_slice(&bytes);
                self.add_locked(segments, Queue::Main, *key, copy, Some(slot.crc));
                if let Some(slot) = self.shard(key).read().get(key) {
                    slot.uses.store(uses - 1, Ordering::Relaxed);
                }
            } else {
                self.shard(key).write().remove(key);
                self.evictions.fetch_add(1, Ordering::Relaxed);
            }
        }
        if let (Some(file), Some((disk, _))) = (&segment.file, &self.options.place)
            && let Err(e) = disk.remove(file)
        {
            tracing::debug!(error = %e, "cannot remove a segment of the local page cache");
        }
    }

    /// Forgets a page, which was found to be bad.
    pub fn forget(&self, key: &PageKey) {
        self.shard(key).write().remove(key);
    }

    /// Forgets all pages of an object.
    pub fn forget_object(&self, object: u64) {
        for shard in &self.shards {
            shard.write().retain(|key, _| key.0 != object);
        }
    }

    /// Writes out what is in memory, so that it is there after a restart.
    pub fn close(&self) {
        let mut segments = self.segments.lock();
        for queue in [Queue::Probation, Queue::Main] {
            self.close_segment(&mut segments, queue);
        }
        self.make_room(&mut segments);
    }

    /// Figures since the start.
    pub fn figures(&self) -> PageFigures {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let segments = self.segments.lock();
        PageFigures {
            hits: get(&self.hits),
            misses: get(&self.misses),
            evictions: get(&self.evictions),
            promotions: get(&self.promotions),
            damaged: get(&self.damaged),
            write_errors: get(&self.write_errors),
            pages: self.shards.iter().map(|s| s.read().len() as u64).sum(),
            bytes: segments.bytes(Queue::Probation) + segments.bytes(Queue::Main),
            capacity: self.options.capacity,
        }
    }
}

/// Entries of a whole segment file: key, bytes, CRC.
fn read_entries(file: &[u8]) -> Option<Vec<(PageKey, std::ops::Range<usize>, u32)>> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?));
    let end = file.len().checked_sub(TRAILER_LEN)?;
    if file.get(end + 12..)? != MAGIC || u32_at(end + 8)? != VERSION {
        return None;
    }
    let count = u32_at(end)? as usize;
    let begin = end.checked_sub(count.checked_mul(ENTRY_LEN)?)?;
    if crc32c(file.get(begin..end + 4)?) != u32_at(end + 4)? {
        return None;
    }
    let entries = file.get(begin..end)?.chunks_exact(ENTRY_LEN).map(|e| {
        let object = u64::from_le_bytes(e.get(..8)?.try_into().ok()?);
        let word = |at: usize| Some(u32::from_le_bytes(e.get(at..at + 4)?.try_into().ok()?));
        let (page, offset, len, crc) = (word(8)?, word(12)? as usize, word(16)? as usize, word(20)?);
        let range = offset..offset.checked_add(len)?;
        (range.end <= begin).then_some(((object, page), range, crc))
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quiver_persistence::MemoryDisk;

    use super::*;

    fn page(key: PageKey, len: usize) -> Bytes {
        let seed = key.0.wrapping_mul(31) + u64::from(key.1);
        (0..len as u64).map(|i| (seed.wrapping_mul(i + 7) >> 5) as u8).collect::<Vec<_>>().into()
    }

    fn options(disk: Option<&MemoryDisk>, capacity: u64, segment_bytes: usize) -> PageOptions {
        let place = disk.map(|d| (Arc::new(d.clone()) as Arc<dyn Disk>, "l3".to_owned()));
        PageOptions { place, capacity, segment_bytes }
    }

    #[test]
    fn pages_survive_a_restart_and_what_a_crash_left_goes() {
        let disk = MemoryDisk::new();
        let store = PageStore::open(options(Some(&disk), 1 << 20, 4000));
        for p in 0..20 {
            store.insert((7, p), page((7, p), 1000));
        }
        drop(store);
        // Not closed: full segments are there, the open one is not.
        let store = PageStore::open(options(Some(&disk), 1 << 20, 4000));
        assert_eq!(store.figures().pages, 20);
        (0..20).for_each(|p| assert_eq!(store.get(&(7, p)), Some(page((7, p), 1000))));
        store.insert((8, 0), page((8, 0), 10));
        store.close();
        drop(store);
        let names = disk.list("l3").unwrap();
        let path = format!("l3/{}", names[0]);
        disk.truncate(&path, disk.len(&path).unwrap() - 1).unwrap();
        disk.create("l3/stranger").unwrap();
        let store = PageStore::open(options(Some(&disk), 1 << 20, 4000));
        assert_eq!(store.figures().pages, 17);
        assert_eq!(store.get(&(8, 0)), Some(page((8, 0), 10)));
        assert_eq!(disk.list("l3").unwrap().len(), names.len() - 1);
    }

    #[test]
    fn a_page_that_rots_is_a_miss() {
        let disk = MemoryDisk::new();
        let store = PageStore::open(options(Some(&disk), 1 << 20, 100));
        store.insert((1, 0), page((1, 0), 200));
        store.close();
        drop(store);
        let path = format!("l3/{}", disk.list("l3").unwrap()[0]);
        let mut bytes = disk.read(&path).unwrap();
        bytes[50] ^= 1;
        disk.create(&path).unwrap().write_all(&bytes).unwrap();
        let store = PageStore::open(options(Some(&disk), 1 << 20, 100));
        assert_eq!(store.get(&(1, 0)), None);
        assert_eq!((store.figures().damaged, store.figures().pages), (1, 0));
    }

    #[test]
    fn what_is_used_outlives_a_scan_of_everything() {
        for disk in [None, Some(MemoryDisk::new())] {
            let store = PageStore::open(options(disk.as_ref(), 400_000, 10_000));
            (0..50).for_each(|p| store.insert((1, p), page((1, p), 1000)));
            for round in 0..100 {
                store.next_epoch();
                for p in 0..50 {
                    if store.get(&(1, p)).is_none() {
                        store.insert((1, p), page((1, p), 1000));
                    }
                }
                store.next_epoch();
                (0..100).for_each(|p| store.insert((2 + round, p), page((2, p), 1000)));
            }
            let f = store.figures();
            assert!(f.bytes <= 400_000, "{f:?}");
            assert!(f.hits > 4800, "used pages stay: {f:?}");
            assert!(f.promotions >= 50 && f.evictions > 9000, "{f:?}");
            if let Some(disk) = disk {
                assert!(disk.used_bytes() <= 400_000, "{}", disk.used_bytes());
            }
        }
    }

    #[test]
    fn copies_give_way_to_what_has_nowhere_else_to_go() {
        let disk = MemoryDisk::new();
        let store = PageStore::open(options(Some(&disk), 1 << 20, 4000));
        (0..20).for_each(|p| store.insert((7, p), page((7, p), 1000)));
        assert_eq!(disk.list("l3").unwrap().len(), 5);
        // Little is left: older copies go for newer ones, and all of them where that is not enough.
        disk.set_capacity(disk.used_bytes() + SPARE_BYTES - 1);
        (20..24).for_each(|p| store.insert((7, p), page((7, p), 1000)));
        let (pages, free) = (store.figures().pages, disk.free_bytes().unwrap());
        assert!(pages < 24 && free + 4000 >= SPARE_BYTES, "{pages} {free}");
        disk.set_capacity(SPARE_BYTES / 2);
        (24..28).for_each(|p| store.insert((7, p), page((7, p), 1000)));
        assert_eq!((disk.list("l3").unwrap().len(), store.figures().pages), (0, 0));
        disk.set_capacity(u64::MAX);
        (0..4).for_each(|p| store.insert((7, p), page((7, p), 1000)));
        assert_eq!((disk.list("l3").unwrap().len(), store.figures().pages), (1, 4));
    }

    #[test]
    fn a_disk_that_is_full_costs_nothing_but_the_pages() {
        let disk = MemoryDisk::new();
        let store = PageStore::open(options(Some(&disk), 1 << 20, 4000));
        disk.set_capacity(disk.used_bytes() + 100);
        (0..20).for_each(|p| store.insert((7, p), page((7, p), 1000)));
        let f = store.figures();
        assert!(f.write_errors > 0 && f.pages < 20, "{f:?}");
        disk.set_capacity(u64::MAX);
        (0..20).for_each(|p| store.insert((8, p), page((8, p), 1000)));
        (0..20).for_each(|p| assert_eq!(store.get(&(8, p)), Some(page((8, p), 1000))));
    }

    proptest! {
        #[test]
        fn a_page_is_never_another_one(
            steps in proptest::collection::vec((0u64..4, 0u32..40, 1usize..900, 0u8..10), 1..300),
            capacity in 1000u64..20_000,
            segment in 200usize..3000,
        ) {
            let disk = MemoryDisk::new();
            let mut store = PageStore::open(options(Some(&disk), capacity, segment));
            for (object, p, _, act) in steps {
                let key = (object, p);
                match act {
                    0 => store.next_epoch(),
                    1 => store.forget_object(object),
                    2 => {
                        store.close();
                        store = PageStore::open(options(Some(&disk), capacity, segment));
                    }
                    3 => store = PageStore::open(options(Some(&disk), capacity, segment)),
                    _ => {
                        let want = page(key, 100 + (p as usize * 13) % 400);
                        match store.get(&key) {
                            Some(got) => prop_assert_eq!(got, want),
                            None => store.insert(key, want),
                        }
                    }
                }
                let f = store.figures();
                prop_assert!(f.bytes <= capacity, "{:?}", f);
                prop_assert_eq!(f.damaged, 0);
            }
        }
    }
}
