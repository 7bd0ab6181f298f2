//! The thread of a shard: takes what waits, writes it as one, syncs once, reports.
//!
//! Invariants
//! 1. One batch lies in one segment. What a failed append left behind is cut off, and nothing is ever written behind it:
//!    the segment ends there.
//! 2. Segments are made at the first entry, not before: opening and rotating write nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::disk::{DiskError, DiskErrorKind, DiskFile, DiskOp, join};

use super::figures::ShardCounters;
use super::frame::{FRAME_HEADER_BYTES, FrameName, seal_frame};
use super::queue::{Queue, Work};
use super::segment::{Previous, SEGMENT_HEADER_BYTES, SegmentId, write_header};
use super::{LogEntry, LogError, LogPosition, SegmentOnDisk, Shared};

/// A buffer that grew beyond this is not kept for the next batch.
const KEPT_BUFFER_BYTES: usize = 16 << 20;

/// While other shards write, the one aside writes this often and no more: what comes meanwhile shares one sync, and the others find
/// the disk and a processor free in between.
const ASIDE_EVERY: Duration = Duration::from_millis(50);

/// Other shards write if one of them did in this time.
const OTHERS_WITHIN: Duration = Duration::from_secs(1);

/// A flush writes less than one part in so many of what it frees of the log: so much stays free for it.
const LOG_BYTES_PER_FREE_BYTE: u64 = 8;

/// With an interval, so many frames are synced before it is over.
const GROUP_FRAMES_MAX: usize = 32 << 10;

pub(super) struct Writer<E: LogEntry> {
    shared: Arc<Shared>,
    shard: u32,
    next: u64,
    queue: Arc<Queue<E>>,
    interval: Option<Duration>,
    open: Option<Open<E::SegmentState>>,
    previous: Option<Previous>,
    buffer: Vec<u8>,
    /// End of each frame in the buffer.
    ends: Vec<usize>,
}

/// The segment being written.
struct Open<S> {
    id: SegmentId,
    file: Box<dyn DiskFile>,
    state: S,
    /// End of the last good frame.
    end: u64,
    frames: u32,
    /// Those of them that no sync has covered yet.
    frames_unsynced: usize,
    /// When the oldest write not yet synced was done.
    unsynced_since: Option<Instant>,
}

/// What ends the encoding of a batch before its end.
enum Stop {
    TooLarge(usize),
}

impl<E: LogEntry> Writer<E> {
    pub(super) fn new(shared: Arc<Shared>, shard: u32, next: u64, queue: Arc<Queue<E>>) -> Self {
        let interval = shared.options.durability.interval();
        let (buffer, ends) = (Vec::new(), Vec::new());
        Self { shared, shard, next, queue, interval, open: None, previous: None, buffer, ends }
    }

    pub(super) fn run(mut self) {
        let _guard = PanicGuard { shared: Arc::clone(&self.shared), queue: Arc::clone(&self.queue) };
        let mut batch: VecDeque<(E, usize)> = VecDeque::new();
        loop {
            let due = self.due();
            match self.queue.take(&mut batch, self.shared.options.batch_bytes_max, due) {
                Work::Batch => {
                    let began = Instant::now();
                    while !batch.is_empty() {
                        self.commit(&mut batch);
                    }
                    self.stand_aside(began);
                }
                Work::Rotate(reply) => {
                    // Whoever asked may have gone.
                    let _ = reply.send(self.rotate());
                }
                Work::Due => {}
                Work::Closed => break,
            }
            if self.due().is_some_and(|due| due <= Instant::now()) {
                self.sync_open();
            }
        }
        self.end_segment();
    }

    /// After a batch that was begun at `began`: lets others write for a while, so that what comes meanwhile is written and synced
    /// as one.
    fn stand_aside(&self, began: Instant) {
        if !self.shared.is_aside(self.shard) {
            self.shared.note_write();
        } else if self.shared.wrote_within(OTHERS_WITHIN) {
            thread::sleep(ASIDE_EVERY.saturating_sub(began.elapsed()));
        }
    }

    fn counters(&self) -> Option<&ShardCounters> {
        self.shared.shards.get(self.shard as usize)
    }

    /// When the next sync of the interval is due.
    fn due(&self) -> Option<Instant> {
        Some(self.open.as_ref()?.unsynced_since? + self.interval?)
    }

    /// Logs entries from the front of `batch`, at least one, and reports them.
    fn commit(&mut self, batch: &mut VecDeque<(E, usize)>) {
        let ready = self.shared.poisoned().map_or_else(|| self.open_segment(), Err);
        if let Err(e) = ready {
            let all = batch.len();
            return self.refuse(batch, all, &e);
        }
        let mut ends = std::mem::take(&mut self.ends);
        let stop = self.encode(batch, &mut ends);
        match self.append(&ends) {
            Ok(start) => self.acknowledge(batch, start, &ends),
            Err(e) => self.refuse(batch, ends.len(), &e),
        }
        self.ends = ends;
        if let Some(Stop::TooLarge(bytes)) = stop
            && let Some((entry, hint)) = batch.pop_front()
        {
            // The segment's state has heard of the entry, the segment has not.
            self.end_segment();
            let bytes_max = self.frame_bytes_max();
            entry.committed(Err(LogError::TooLarge { bytes, bytes_max }));
            self.queue.done(1, hint);
        }
        let bytes_max = self.shared.options.segment_bytes_max;
        if self.open.as_ref().is_some_and(|open| open.end >= bytes_max || open.frames == u32::MAX) {
            self.end_segment();
        }
        if self.buffer.capacity() > KEPT_BUFFER_BYTES {
            self.buffer = Vec::new();
        }
    }

    fn frame_bytes_max(&self) -> usize {
        self.shared.options.frame_bytes_max.min(u32::MAX as usize)
    }

    /// Encodes frames into the buffer until the batch ends or the segment is full. `ends` gets the end of each in the
    /// buffer.
    fn encode(&mut self, batch: &VecDeque<(E, usize)>, ends: &mut Vec<usize>) -> Option<Stop> {
        self.buffer.clear();
        ends.clear();
        let frame_bytes_max = self.frame_bytes_max();
        let open = self.open.as_mut()?;
        for (sequence, (entry, _)) in (open.frames..u32::MAX).zip(batch) {
            let start = self.buffer.len();
            let is_full = open.end + start as u64 >= self.shared.options.segment_bytes_max
                || start / 2 >= self.shared.options.batch_bytes_max;
            if is_full && start > 0 {
                break;
            }
            self.buffer.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
            let kind = entry.encode(&mut open.state, &mut self.buffer);
            let bytes = self.buffer.len().saturating_sub(start + FRAME_HEADER_BYTES);
            if bytes > frame_bytes_max {
                self.buffer.truncate(start);
                return Some(Stop::TooLarge(bytes));
            }
            let place = open.frames_unsynced + ends.len();
            let name = FrameName { segment: open.id, sequence, place, kind };
            seal_frame(&mut self.buffer, start, name);
            ends.push(self.buffer.len());
        }
        None
    }

    /// Writes the buffer and makes it durable as configured. Gives the place of its first byte.
    fn append(&mut self, ends: &[usize]) -> Result<u64, LogError> {
        let Some(open) = self.open.as_mut() else { return Err(LogError::Closed) };
        let start = open.end;
        if ends.is_empty() {
            return Ok(start);
        }
        if let Err(e) = open.file.write_all(&self.buffer) {
            return Err(self.give_up_tail(&e));
        }
        open.end += self.buffer.len() as u64;
        open.frames += u32::try_from(ends.len()).unwrap_or(u32::MAX);
        open.frames_unsynced += ends.len();
        open.unsynced_since.get_or_insert_with(Instant::now);
        let (id, bytes) = (open.id, open.end);
        if let Some(on_disk) = self.shared.segments.lock().get_mut(&id) {
            on_disk.bytes = bytes;
        }
        // A frame's place among those that share its sync has to fit its field.
        let is_group_full = open.frames_unsynced >= GROUP_FRAMES_MAX;
        if self.interval.is_none() || is_group_full {
            self.sync_open();
        }
        // A sync that failed here, or in another shard meanwhile.
        if let Some(e) = self.shared.poisoned() {
            return Err(e);
        }
        self.shared.clear_full();
        if let Some(counters) = self.counters() {
            counters.frames.fetch_add(ends.len() as u64, Ordering::Relaxed);
            counters.batches.fetch_add(1, Ordering::Relaxed);
            counters.written_bytes.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
        }
        Ok(start)
    }

    /// After a failed write: cuts off what it left and ends the segment.
    fn give_up_tail(&mut self, why: &DiskError) -> LogError {
        if why.kind != DiskErrorKind::Full {
            return self.shared.poison(why);
        }
        if let Some(open) = self.open.as_mut()
            && let Err(e) = open.file.truncate(open.end)
        {
            // Replay steps over a half frame, and nothing is written behind it.
            tracing::warn!(error = %e, "cannot cut an unfinished write off the end of a log segment");
        }
        self.end_segment();
        let text: Arc<str> = why.to_string().into();
        self.shared.set_full(Arc::clone(&text));
        self.shared.poisoned().unwrap_or(LogError::Full(text))
    }

    /// Makes the bytes of the open segment durable. A failure poisons the log.
    fn sync_open(&mut self) {
        if self.shared.poison.get().is_some() {
            return;
        }
        let Some(open) = self.open.as_mut() else { return };
        if open.unsynced_since.is_none() {
            return;
        }
        let start = Instant::now();
        let done = open.file.sync_data();
        let time = start.elapsed();
        open.unsynced_since = None;
        open.frames_unsynced = 0;
        if let Err(e) = done {
            self.shared.poison(&e);
        }
        if let Some(counters) = self.counters() {
            counters.synced(time);
        }
    }

    /// Makes sure that there is a segment to append to, under a name that is durable. A folder that cannot be opened, as where no
    /// descriptors are left, is no failed sync: nothing is in the segment yet, and the next attempt begins anew.
    fn open_segment(&mut self) -> Result<(), LogError> {
        self.check_space()?;
        if self.open.is_some() {
            return Ok(());
        }
        let id = SegmentId { shard: self.shard, number: self.next };
        let path = join(&self.shared.dir, &id.file_name());
        let started = self.shared.disk.create(&path).and_then(|mut file| {
            file.write_all(&write_header(id, self.previous))?;
            self.shared.disk.sync_dir(&self.shared.dir)?;
            Ok(file)
        });
        match started {
            Ok(file) => {
                let end = SEGMENT_HEADER_BYTES as u64;
                self.shared.segments.lock().insert(id, SegmentOnDisk { bytes: end, is_damaged: false });
                self.next += 1;
                self.open = Some(Open {
                    id,
                    file,
                    state: E::SegmentState::default(),
                    end,
                    frames: 0,
                    frames_unsynced: 0,
                    unsynced_since: None,
                });
                Ok(())
            }
            Err(e) => {
                // An empty or half header holds nothing: whether it stays or goes, the next attempt empties it.
                let _ = self.shared.disk.remove(&path);
                if e.op == DiskOp::SyncDir {
                    return Err(self.shared.poison(&e));
                }
                let text: Arc<str> = e.to_string().into();
                if e.is_full() {
                    self.shared.set_full(Arc::clone(&text));
                    return Err(LogError::Full(text));
                }
                Err(LogError::Io(text))
            }
        }
    }

    fn check_space(&self) -> Result<(), LogError> {
        let bytes_min = self.shared.options.free_bytes_min;
        if bytes_min == 0 {
            return Ok(());
        }
        let log_bytes: u64 = self.shared.segments.lock().values().map(|s| s.bytes).sum();
        let bytes_min = bytes_min.max(log_bytes / LOG_BYTES_PER_FREE_BYTE);
        match self.shared.disk.free_bytes() {
            Ok(free) if free < bytes_min => {
                let text: Arc<str> = format!("{free} bytes are free, the log leaves {bytes_min} for flushes").into();
                self.shared.set_full(Arc::clone(&text));
                Err(LogError::Full(text))
            }
            // A disk that does not know its space is asked by writing.
            _ => Ok(()),
        }
    }

    /// Ends the open segment, if there is one; the next entry starts another with a fresh state.
    fn end_segment(&mut self) {
        self.sync_open();
        let Some(open) = self.open.take() else { return };
        if let Some(counters) = self.counters() {
            counters.current.store(self.next, Ordering::Release);
        }
        if open.frames > 0 {
            self.previous = Some(Previous { number: open.id.number, frames: open.frames });
            return;
        }
        // A header alone holds nothing.
        let path = join(&self.shared.dir, &open.id.file_name());
        if self.shared.disk.remove(&path).is_ok() {
            self.shared.segments.lock().remove(&open.id);
        }
    }

    /// Ends the open segment; gives the number of the next one.
    fn rotate(&mut self) -> Result<u64, LogError> {
        self.end_segment();
        self.shared.poisoned().map_or(Ok(self.next), Err)
    }

    /// Reports the first entries of a batch, a frame each, as durable.
    fn acknowledge(&self, batch: &mut VecDeque<(E, usize)>, start: u64, ends: &[usize]) {
        let Some(open) = &self.open else { return self.refuse(batch, ends.len(), &LogError::Closed) };
        let segment = open.id.number;
        let mut offset = start;
        let mut bytes = 0;
        for end in ends {
            let Some((entry, hint)) = batch.pop_front() else { break };
            entry.committed(Ok(LogPosition { shard: self.shard, segment, offset }));
            offset = start + *end as u64;
            bytes += hint;
        }
        self.queue.done(ends.len(), bytes);
    }

    /// Refuses the first `count` entries of a batch.
    fn refuse(&self, batch: &mut VecDeque<(E, usize)>, count: usize, why: &LogError) {
        if matches!(why, LogError::Full(_))
            && let Some(counters) = self.counters()
        {
            counters.refused_full.fetch_add(count as u64, Ordering::Relaxed);
        }
        for (entry, hint) in batch.drain(..count.min(batch.len())) {
            entry.committed(Err(why.clone()));
            self.queue.done(1, hint);
        }
    }
}

/// Whoever waits behind a panicking callback must hear of it.
struct PanicGuard<E: LogEntry> {
    shared: Arc<Shared>,
    queue: Arc<Queue<E>>,
}

impl<E: LogEntry> Drop for PanicGuard<E> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let e = self.shared.poison_with("a log writer panicked".into());
            for entry in self.queue.abandon() {
                // A second panic would abort the process.
                let e = e.clone();
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || entry.committed(Err(e))));
            }
        }
    }
}
