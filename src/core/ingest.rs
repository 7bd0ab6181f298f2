//! The way of a batch: checked, resolved to ids, logged, applied, acknowledged.
//!
//! ```text
//! write ─ check ─ enter head ─ resolve ─▶ log shard's queue ─▶ frame ─▶ fdatasync ─▶ apply ─▶ ack
//!                    └────────── guard: the head is not frozen before ───────────────────┘
//! ```
//!
//! The shard of the log follows the first series of the batch, so that one client's label sets are logged in one shard.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use quiver_model::{Limits, WriteBatch};
use quiver_persistence::{LogEntry, LogError, LogPosition, thread_cpu_ns};
use tokio::sync::oneshot;

use crate::changes::Changes;
use crate::head::page::PAGE_SERIES;
use crate::head::{Counters, WriteGuard};
use crate::interner::Interner;
use crate::record::{self, NO_SERIES, SegmentRefs};
use crate::refusal::SeriesCaps;
use crate::{TimeRange, WriteError, WriteReceipt};

/// Kind of the frames written here: samples and all that belongs to them.
pub(crate) const FRAME_BATCH: u8 = 1;

/// A batch none of whose samples is younger is late, ms: a backfill, or what a client kept while it could not send.
pub const LATE_MS: i64 = 3_600_000;

/// Buffers kept for the next batches.
const POOL_BATCHES: usize = 32;
/// Larger ones are given back to the allocator.
const POOL_BYTES_MAX: usize = 4 << 20;

/// Buffers to be used again.
#[derive(Debug)]
pub(crate) struct Pool {
    keeps: bool,
    batches: Mutex<Vec<WriteBatch>>,
    ids: Mutex<Vec<Vec<u32>>>,
}

impl Pool {
    /// An empty pool; unless it `keeps` buffers it stays empty.
    pub(crate) fn new(keeps: bool) -> Self {
        Self { keeps, batches: Mutex::default(), ids: Mutex::default() }
    }

    /// An empty batch.
    pub(crate) fn batch(&self) -> WriteBatch {
        self.batches.lock().pop().unwrap_or_default()
    }

    fn ids(&self) -> Vec<u32> {
        self.ids.lock().pop().unwrap_or_default()
    }

    fn put(&self, mut batch: WriteBatch, mut ids: Vec<u32>) {
        if !self.keeps {
            return;
        }
        if batch.label_bytes.capacity() + 24 * batch.ts.capacity() <= POOL_BYTES_MAX {
            batch.clear();
            let mut batches = self.batches.lock();
            if batches.len() < POOL_BATCHES {
                batches.push(batch);
            }
        }
        if ids.capacity() * 4 <= POOL_BYTES_MAX {
            ids.clear();
            let mut all = self.ids.lock();
            if all.len() < POOL_BATCHES {
                all.push(ids);
            }
        }
    }
}

/// What all batches on their way use.
pub(crate) struct Shared {
    pub(crate) interner: Arc<Interner>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) changes: Arc<Changes>,
    pub(crate) pool: Pool,
}

/// A batch on its way through the log.
pub(crate) struct Entry {
    head: WriteGuard,
    batch: WriteBatch,
    ids: Vec<u32>,
    receipt: WriteReceipt,
    shared: Arc<Shared>,
    now_ms: i64,
    /// Times of its samples.
    range: Option<TimeRange>,
    done: oneshot::Sender<Result<WriteReceipt, WriteError>>,
}

/// Where the answer to an [`Entry`] comes.
pub(crate) type Answer = oneshot::Receiver<Result<WriteReceipt, WriteError>>;

impl Entry {
    /// Resolves a batch against a head; `range` is what [`check`] said of it.
    pub(crate) fn new(
        head: WriteGuard,
        batch: WriteBatch,
        range: Option<TimeRange>,
        caps: SeriesCaps,
        now_ms: i64,
        shared: &Arc<Shared>,
    ) -> Result<(Self, Answer), WriteError> {
        let mut ids = shared.pool.ids();
        let began = thread_cpu_ns();
        let refused = head
            .resolve(&batch, &mut ids, caps, &shared.interner)
            .map_err(|e| WriteError::Rejected(format!("invalid labels: {e}")))?;
        shared.counters.lookup_ns.fetch_add(thread_cpu_ns().saturating_sub(began), Ordering::Relaxed);
        let mut receipt = WriteReceipt { refused_series: refused.count as u64, ..WriteReceipt::default() };
        for (s, id) in batch.series.iter().zip(&ids) {
            if *id != NO_SERIES {
                receipt.floats += u64::from(s.floats.1 - s.floats.0);
                receipt.histograms += u64::from(s.histograms.1 - s.histograms.0);
                receipt.exemplars += u64::from(s.exemplars.1 - s.exemplars.0);
            }
        }
        if refused.count > 0 {
            shared.counters.refused(&refused);
            let text = refused.text();
            if refused.count == batch.series.len() && batch.metadata.is_empty() {
                return Err(WriteError::SeriesLimit(text));
            }
            receipt.refusal = Some(text.into());
        }
        let (done, answer) = oneshot::channel();
        Ok((Self { head, batch, ids, receipt, shared: Arc::clone(shared), now_ms, range, done }, answer))
    }

    /// Has it time, since all of it is from long before?
    pub(crate) fn is_late(&self) -> bool {
        self.range.is_some_and(|r| r.max < self.now_ms.saturating_sub(LATE_MS))
    }

    /// Which shard of the log takes it.
    pub(crate) fn shard(&self) -> usize {
        self.ids.first().map_or(0, |id| *id as usize / PAGE_SERIES)
    }
}

impl LogEntry for Entry {
    type SegmentState = SegmentRefs;

    fn size_hint(&self) -> usize {
        self.batch.heap_bytes()
    }

    fn encode(&self, state: &mut SegmentRefs, out: &mut Vec<u8>) -> u8 {
        let began = thread_cpu_ns();
        record::encode(&self.batch, &self.ids, self.head.generation, state, out);
        self.shared.counters.encode_ns.fetch_add(thread_cpu_ns().saturating_sub(began), Ordering::Relaxed);
        FRAME_BATCH
    }

    fn committed(mut self, result: Result<LogPosition, LogError>) {
        let answer = match result {
            Ok(at) => {
                self.head.note_logged(at);
                let _ = self.head.first_write_ms.compare_exchange(
                    0,
                    self.now_ms.max(1),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                let began = thread_cpu_ns();
                let applied = self.head.apply(&self.ids, &mut self.batch);
                let Shared { counters, changes, pool, .. } = &*self.shared;
                counters.apply_ns.fetch_add(thread_cpu_ns().saturating_sub(began), Ordering::Relaxed);
                counters.add(&applied, self.receipt.floats + self.receipt.histograms);
                if let Some(range) = self.range {
                    changes.note(range);
                }
                pool.put(self.batch, self.ids);
                Ok(self.receipt)
            }
            Err(e) => Err(e.into()),
        };
        drop(self.head);
        // The client may have gone.
        let _ = self.done.send(answer);
    }
}

impl From<LogError> for WriteError {
    fn from(e: LogError) -> Self {
        match e {
            LogError::Busy => WriteError::Busy(e.to_string()),
            LogError::Full(_) => WriteError::DiskFull(e.to_string()),
            LogError::Poisoned(_) => WriteError::Poisoned(e.to_string()),
            LogError::TooLarge { .. } => WriteError::Rejected(e.to_string()),
            LogError::Io(_) => WriteError::Busy(e.to_string()),
            LogError::Closed => WriteError::Closed,
        }
    }
}

/// Are the ranges of a batch within its columns, and its times not too far ahead? Gives the times of its samples.
pub(crate) fn check(batch: &WriteBatch, limits: &Limits, now_ms: i64) -> Result<Option<TimeRange>, WriteError> {
    let malformed = || WriteError::Rejected("malformed batch".to_owned());
    let columns = batch.values.len() == batch.ts.len()
        && (batch.start_ts.is_empty() || batch.start_ts.len() == batch.ts.len())
        && batch.series.len() < NO_SERIES as usize;
    let within = |(from, to): (u32, u32), len: usize| from <= to && to as usize <= len;
    let ranges = batch.series.iter().all(|s| {
        within(s.labels, batch.label_bytes.len())
            && within(s.floats, batch.ts.len())
            && within(s.histograms, batch.histograms.len())
            && within(s.exemplars, batch.exemplars.len())
    });
    if !columns || !ranges {
        return Err(malformed());
    }
    let max = now_ms.saturating_add(limits.future_ms_max);
    let range = batch.time_range();
    match range.map(|r| r.max).filter(|t| *t > max) {
        None => Ok(range),
        Some(t) => Err(WriteError::Rejected(format!(
            "sample time {t} ms is more than {} ms ahead of the server's clock ({now_ms} ms)",
            limits.future_ms_max
        ))),
    }
}
