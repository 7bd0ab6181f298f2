//! The write-ahead log: sharded, group-committed, replayed after a crash.
//!
//! ```text
//! submit ──┐                       encode      write     fdatasync    committed(Ok(position))
//! submit ──┼─▶ queue of a shard ─▶ a frame ─▶ one append ─▶ once ─▶ for every entry of the batch, in order
//! submit ──┘   (bounded)           each          │            └─ failed: poisoned, no ack ever again
//!                                                └─ disk full: cut back, entries get Full, next segment later
//!
//! dir/000-0000000000000001.log ─ header │ frame │ frame │ …      one file per segment and shard
//! ```
//!
//! While one sync is in flight everything that arrives queues up and shares the next one. An entry is one frame, so it is
//! kept whole or not at all. Between shards there is no order.
//!
//! Invariants
//! 1. With [`Durability::Commit`] an entry is reported `Ok` only after its bytes and its segment's name are durable.
//! 2. After the first failed sync nothing is reported `Ok` any more: the kernel may have dropped the pages.
//! 3. The state handed to [`LogEntry::encode`] describes exactly the frames before it in its segment. Whenever an append
//!    fails, the segment ends there and the next one starts with a fresh state.
//! 4. Segment numbers only grow and are never used again; a segment is deleted only below a floor the caller names.
//!
//! Fails with [`LogError::Busy`] before anything is queued, [`LogError::Full`] with nothing kept,
//! [`LogError::Poisoned`] with nothing known.

mod figures;
mod frame;
mod queue;
mod replay;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::disk::{Disk, DiskError, join};
use crate::turns::{run_soon, yield_to_others};
pub use figures::{LogFigures, ShardFigures};
pub use frame::{FRAME_HEADER_BYTES, FRAME_VERSION, Frame};
pub use replay::{Damage, DamageReason, ReplayError, ReplayReport, ReplayShard, ShardReading, read_segment, replay};
pub use segment::{SEGMENT_HEADER_BYTES, SEGMENT_VERSION, SegmentId};

use figures::ShardCounters;
use queue::Queue;
use writer::Writer;

/// Folder of the damaged segments that truncation set aside, inside the log's folder.
pub const QUARANTINE_DIR: &str = "quarantine";

/// Something to be logged.
pub trait LogEntry: Send + 'static {
    /// What the frames of a segment so far have said: which label sets are in it, for instance. Fresh at each new segment.
    type SegmentState: Default + Send;

    /// About how many bytes [`LogEntry::encode`] will write; what the queue is bounded by.
    fn size_hint(&self) -> usize;

    /// Appends the payload of the entry's frame to `out` and returns the frame's kind. Called on the writer's thread in
    /// the order of the frames; again, with a fresh state, where the first place was not to be had.
    fn encode(&self, state: &mut Self::SegmentState, out: &mut Vec<u8>) -> u8;

    /// Called once on the writer's thread, in the order of the frames: the entry is durable, or why it is not.
    fn committed(self, result: Result<LogPosition, LogError>);
}

/// Where a frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Which shard.
    pub shard: u32,
    /// Which segment of it.
    pub segment: u64,
    /// First byte of the frame in the segment's file.
    pub offset: u64,
}

/// The first segment of each shard that is still needed. A shard it does not name is needed wholly.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct LogFloor(pub BTreeMap<u32, u64>);

impl LogFloor {
    /// First segment of a shard that is still needed.
    pub fn of(&self, shard: u32) -> u64 {
        self.0.get(&shard).copied().unwrap_or(0)
    }

    /// Raises the floor of a shard to `number`, if it is not that high.
    fn raise(&mut self, shard: u32, number: u64) {
        let floor = self.0.entry(shard).or_default();
        *floor = number.max(*floor);
    }
}

/// Why an entry was not logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The queue is full: send it again later.
    #[error("the write queue of the log is full")]
    Busy,
    /// The disk is full: send it again later; it heals by itself.
    #[error("the disk is full: {0}")]
    Full(Arc<str>),
    /// A sync failed once: nothing is logged until a restart.
    #[error("a sync of the log failed; all writes are refused until a restart: {0}")]
    Poisoned(Arc<str>),
    /// An entry of more bytes than a frame may have.
    #[error("the write takes {bytes} bytes in the log; the maximum is {bytes_max}")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The disk did not let us start a segment; nothing is lost, later entries try again.
    #[error("the log cannot start a segment: {0}")]
    Io(Arc<str>),
    /// The log is closed.
    #[error("the log is closed")]
    Closed,
}

/// When an entry is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After its `fdatasync`: nothing acknowledged is ever lost.
    Commit,
    /// After its write, with a sync every so many milliseconds: a power loss takes what came since (a killed process
    /// loses nothing).
    Interval(u64),
}

/// How a log is run.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Number of shards, each a thread and a file.
    pub shards: u32,
    /// One shard more, for entries that may take their time: its thread lets the others go first.
    pub has_aside: bool,
    /// A segment that has as many bytes is followed by another.
    pub segment_bytes_max: u64,
    /// Entries of a shard that may wait or be written at one time.
    pub queue_max: usize,
    /// Bytes (by [`LogEntry::size_hint`]) of a shard that may wait or be written at one time.
    pub queue_bytes_max: usize,
    /// Bytes written and synced at once.
    pub batch_bytes_max: usize,
    /// Largest payload of a frame.
    pub frame_bytes_max: usize,
    /// The log counts the disk as full while fewer bytes than these are free, so that a flush still finds room.
    pub free_bytes_min: u64,
    /// When an entry is acknowledged.
    pub durability: Durability,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            shards: 2,
            has_aside: false,
            segment_bytes_max: 64 << 20,
            queue_max: 4096,
            queue_bytes_max: 64 << 20,
            batch_bytes_max: 8 << 20,
            frame_bytes_max: 256 << 20,
            free_bytes_min: 4 << 20,
            durability: Durability::Commit,
        }
    }
}

/// How a log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogHealth {
    /// It takes entries.
    Ok,
    /// The last batch did not fit on the disk; the next one tries again.
    Full(Arc<str>),
    /// A sync failed; see [`LogError::Poisoned`].
    Poisoned(Arc<str>),
}

/// What the writers and the handle share.
#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    dir: String,
    options: LogOptions,
    poison: OnceLock<Arc<str>>,
    is_full: AtomicBool,
    full_text: Mutex<Arc<str>>,
    segments: Mutex<BTreeMap<SegmentId, SegmentOnDisk>>,
    /// The highest floor that was named. A shard without a writer keeps its floor when its last segment is gone: a power loss may
    /// bring some of them back, and a later configuration may write to it again.
    floor: Mutex<LogFloor>,
    shards: Vec<ShardCounters>,
    quarantined: AtomicU64,
    opened: Instant,
    /// When a shard that is not aside wrote last, µs after it was opened.
    written_us: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct SegmentOnDisk {
    bytes: u64,
    is_damaged: bool,
}

impl Shared {
    /// The shard aside is the last one.
    fn is_aside(&self, shard: u32) -> bool {
        self.options.has_aside && shard >= self.options.shards.max(1)
    }

    fn note_write(&self) {
        if self.options.has_aside {
            let us = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.written_us.fetch_max(us, Ordering::Relaxed);
        }
    }

    /// Did another shard than the one aside write in the `time` before now?
    fn wrote_within(&self, time: Duration) -> bool {
        let written = Duration::from_micros(self.written_us.load(Ordering::Relaxed));
        !written.is_zero() && self.opened.elapsed().saturating_sub(written) < time
    }

    fn poisoned(&self) -> Option<LogError> {
        self.poison.get().map(|why| LogError::Poisoned(Arc::clone(why)))
    }

    /// Poisons the log, the first time; gives the error for those who wait.
    fn poison(&self, why: &DiskError) -> LogError {
        self.poison_with(why.to_string().into())
    }

    fn poison_with(&self, text: Arc<str>) -> LogError {
        if self.poison.set(Arc::clone(&text)).is_ok() {
            tracing::error!(reason = %text, "a sync of the log failed; all writes are refused until a restart");
        }
        self.poisoned().unwrap_or(LogError::Poisoned(text))
    }

    fn set_full(&self, text: Arc<str>) {
        *self.full_text.lock() = Arc::clone(&text);
        if !self.is_full.swap(true, Ordering::Relaxed) {
            tracing::warn!(reason = %text, "the disk is full; writes are refused until there is space");
        }
    }

    fn clear_full(&self) {
        if self.is_full.load(Ordering::Relaxed) && self.is_full.swap(false, Ordering::Relaxed) {
            tracing::info!("the disk has space again; writes are accepted");
        }
    }
}

/// The log of a folder. Dropping it commits what is queued and ends its threads.
#[derive(Debug)]
pub struct Log<E: LogEntry> {
    shared: Arc<Shared>,
    queues: Vec<Arc<Queue<E>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<E: LogEntry> Log<E> {
    /// Opens the log of a folder for appending, after [`replay`]. New entries go to new segments, numbered above `floor`
    /// and above all that is there. Nothing but the folder is written before the first entry, so a log opens on a full disk.
    pub fn open(disk: Arc<dyn Disk>, dir: &str, options: LogOptions, floor: &LogFloor) -> Result<Self, DiskError> {
        disk.create_dir(dir)?;
        let mut segments = BTreeMap::new();
        for name in disk.list(dir)? {
            if let Some(id) = SegmentId::parse(&name) {
                let bytes = disk.len(&join(dir, &name))?;
                segments.insert(id, SegmentOnDisk { bytes, is_damaged: false });
            }
        }
        let shard_count = options.shards.max(1) + u32::from(options.has_aside);
        let nexts: Vec<u64> = (0..shard_count)
            .map(|shard| {
                let of_shard = SegmentId { shard, number: 0 }..=SegmentId { shard, number: u64::MAX };
                let last = segments.range(of_shard).next_back().map_or(0, |(id, _)| id.number);
                (last + 1).max(floor.of(shard)).max(1)
            })
            .collect();
        let shared = Arc::new(Shared {
            disk,
            dir: dir.to_owned(),
            poison: OnceLock::new(),
            is_full: AtomicBool::new(false),
            full_text: Mutex::new("".into()),
            segments: Mutex::new(segments),
            floor: Mutex::new(floor.clone()),
            shards: nexts.iter().map(|next| ShardCounters::new(*next)).collect(),
            quarantined: AtomicU64::new(0),
            opened: Instant::now(),
            written_us: AtomicU64::new(0),
            options,
        });
        let queues: Vec<Arc<Queue<E>>> = nexts
            .iter()
            .map(|_| Arc::new(Queue::new(shared.options.queue_max, shared.options.queue_bytes_max)))
            .collect();
        let log = Self { shared: Arc::clone(&shared), queues, threads: Mutex::new(Vec::new()) };
        for ((shard, next), queue) in (0..shard_count).zip(nexts).zip(&log.queues) {
            let writer = Writer::new(Arc::clone(&shared), shard, next, Arc::clone(queue));
            let is_aside = shared.is_aside(shard);
            let run = move || {
                if is_aside {
                    yield_to_others()
                } else {
                    run_soon()
                }
                writer.run();
            };
            let thread = thread::Builder::new().name(format!("log-{shard}")).spawn(run);
            let thread = thread.map_err(|e| DiskError::from_io(crate::disk::DiskOp::Open, dir, &e))?;
            log.threads.lock().push(thread);
        }
        Ok(log)
    }

    /// Makes durable what [`Log::open`] found from `floor` on. With an interval, frames that an earlier process acknowledged
    /// and had not synced when it was killed are replayed; without this a power loss could take them still.
    pub fn sync_found(&self, floor: &LogFloor) -> Result<(), DiskError> {
        let shared = &self.shared;
        let found: Vec<SegmentId> = shared.segments.lock().keys().copied().collect();
        let mut is_any = false;
        for id in found.into_iter().filter(|id| id.number >= floor.of(id.shard)) {
            shared.disk.open_append(&join(&shared.dir, &id.file_name()))?.sync_data()?;
            is_any = true;
        }
        if is_any { shared.disk.sync_dir(&shared.dir) } else { Ok(()) }
    }

    /// Queues an entry in a shard (any number; it is taken modulo the shards). Never waits. On an error the entry is dropped
    /// without a call of [`LogEntry::committed`].
    pub fn submit(&self, shard: usize, entry: E) -> Result<(), LogError> {
        self.submit_to(shard % self.shards().max(1), entry)
    }

    /// [`Log::submit`] for an entry that may take its time: it keeps none of the others waiting.
    pub fn submit_aside(&self, entry: E) -> Result<(), LogError> {
        self.submit_to(self.queues.len().saturating_sub(1), entry)
    }

    fn submit_to(&self, queue: usize, entry: E) -> Result<(), LogError> {
        if let Some(e) = self.shared.poisoned() {
            return Err(e);
        }
        let bytes = entry.size_hint();
        let bytes_max = self.shared.options.frame_bytes_max;
        if bytes > bytes_max {
            return Err(LogError::TooLarge { bytes, bytes_max });
        }
        match self.queues.get(queue) {
            Some(queue) => queue.push(entry, bytes),
            None => Err(LogError::Closed),
        }
    }

    /// Number of shards, but for the one aside.
    pub fn shards(&self) -> usize {
        self.queues.len().saturating_sub(usize::from(self.shared.options.has_aside))
    }

    /// Starts a new segment in every shard. Returns when every entry queued before is committed (or refused), with the
    /// floor that holds once the data of all entries committed so far is kept elsewhere. Writes nothing, so it works on a
    /// full disk. Blocks; not for an async thread.
    pub fn rotate(&self) -> Result<LogFloor, LogError> {
        let mut replies = Vec::with_capacity(self.queues.len());
        for queue in &self.queues {
            let (sender, receiver) = mpsc::channel();
            queue.push_rotate(sender)?;
            replies.push(receiver);
        }
        let mut floor = self.shared.floor.lock().clone();
        // Shards of an earlier configuration have no writer: all of theirs is old.
        for id in self.shared.segments.lock().keys() {
            floor.raise(id.shard, id.number.saturating_add(1));
        }
        for (shard, reply) in (0u32..).zip(replies) {
            let next = reply.recv().map_err(|_| self.shared.poisoned().unwrap_or(LogError::Closed))??;
            floor.0.insert(shard, next);
        }
        Ok(floor)
    }

    /// Deletes the segments below `floor`; those that [`Log::keep_damaged`] named go to the quarantine folder instead.
    /// After an error the rest is still there, to be tried again.
    pub fn truncate(&self, floor: &LogFloor) -> Result<(), DiskError> {
        let shared = &self.shared;
        {
            let mut highest = shared.floor.lock();
            floor.0.iter().for_each(|(shard, number)| highest.raise(*shard, *number));
        }
        let is_open = |id: &SegmentId| {
            shared.shards.get(id.shard as usize).is_some_and(|s| id.number >= s.current.load(Ordering::Acquire))
        };
        let old: Vec<(SegmentId, SegmentOnDisk)> = {
            let segments = shared.segments.lock();
            let below = segments.iter().filter(|(id, _)| id.number < floor.of(id.shard) && !is_open(id));
            below.map(|(id, on_disk)| (*id, *on_disk)).collect()
        };
        if old.is_empty() {
            return Ok(());
        }
        let mut first_error = None;
        for (id, on_disk) in old {
            let path = join(&shared.dir, &id.file_name());
            let done = if on_disk.is_damaged { self.set_aside(id, &path) } else { shared.disk.remove(&path) };
            match done {
                Err(e) if !e.is_not_found() => first_error = first_error.or(Some(e)),
                _ => {
                    shared.segments.lock().remove(&id);
                }
            }
        }
        if let Err(e) = shared.disk.sync_dir(&shared.dir) {
            first_error = first_error.or(Some(e));
        }
        first_error.map_or(Ok(()), Err)
    }

    fn set_aside(&self, id: SegmentId, path: &str) -> Result<(), DiskError> {
        let shared = &self.shared;
        let aside = join(&shared.dir, QUARANTINE_DIR);
        shared.disk.create_dir(&aside)?;
        shared.disk.rename(path, &join(&aside, &id.file_name()))?;
        shared.disk.sync_dir(&aside)?;
        shared.quarantined.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(segment = %id.file_name(), folder = %aside, "moved a damaged log segment to quarantine");
        Ok(())
    }

    /// Names the segments that replay found damaged: they are set aside, not deleted.
    pub fn keep_damaged(&self, report: &ReplayReport) {
        let mut segments = self.shared.segments.lock();
        for damage in &report.damage {
            if let Some(on_disk) = segments.get_mut(&damage.segment) {
                on_disk.is_damaged = true;
            }
        }
    }

    /// How it is.
    pub fn health(&self) -> LogHealth {
        if let Some(why) = self.shared.poison.get() {
            LogHealth::Poisoned(Arc::clone(why))
        } else if self.shared.is_full.load(Ordering::Relaxed) {
            LogHealth::Full(Arc::clone(&self.shared.full_text.lock()))
        } else {
            LogHealth::Ok
        }
    }

    /// Bytes of all segments on disk.
    pub fn bytes(&self) -> u64 {
        self.shared.segments.lock().values().map(|s| s.bytes).sum()
    }

    /// Figures of this moment.
    pub fn figures(&self) -> LogFigures {
        let (bytes, segments, damaged) = {
            let segments = self.shared.segments.lock();
            let damaged = segments.values().filter(|s| s.is_damaged).count();
            (segments.values().map(|s| s.bytes).sum(), segments.len(), damaged)
        };
        let mut figures = LogFigures { bytes, segments, segments_damaged: damaged, ..LogFigures::default() };
        figures.segments_quarantined = self.shared.quarantined.load(Ordering::Relaxed);
        for (counters, queue) in self.shared.shards.iter().zip(&self.queues) {
            let (queued_entries, queued_bytes) = queue.depth();
            figures.shards.push(counters.figures(queued_entries, queued_bytes));
        }
        figures
    }

    /// Commits what is queued and ends the threads; later entries are [`LogError::Closed`].
    pub fn close(&self) {
        for queue in &self.queues {
            queue.close();
        }
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A callback may hold the last reference: a thread cannot wait for itself.
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                tracing::error!("a log writer thread panicked");
            }
        }
    }
}

impl<E: LogEntry> Drop for Log<E> {
    fn drop(&mut self) {
        self.close();
    }
}

impl Durability {
    fn interval(self) -> Option<Duration> {
        match self {
            Durability::Commit => None,
            Durability::Interval(ms) => Some(Duration::from_millis(ms.max(1))),
        }
    }
}
