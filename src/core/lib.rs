//! The engine between protocols and blocks: ingest, head, flush, background work, snapshots to read from.
//!
//! ```text
//! Ingest::write ─▶ shard queue ─▶ log (synced) ─▶ head ─▶ flush ─▶ blocks
//! Source::snapshot ─▶ Snapshot::select ─▶ SeriesSet::read        (head and blocks, merged by series and time)
//! Maintain           flush, compact, statistics, health
//! ```
//!
//! The traits below are the whole surface that upper layers see. [`memory::MemoryStore`] implements them in the simplest
//! way that can be right; it is the oracle of the real [`Store`]'s tests and the store of the query engine's.
//!
//! Invariants
//! 1. A write resolves after its log frame is durable and its samples are visible to every later snapshot.
//! 2. A snapshot never misses or doubles a sample while data moves from head to block.
//! 3. Series of a set come in label order, once each, whatever the number of places that hold parts of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use quiver_model::{Exemplar, Labels, Matcher, Metadata, MetricKind, SampleColumn, WriteBatch};
pub use quiver_model::{Need, SeriesKinds, TimeRange};

mod background;
pub mod backup;
pub mod cardinality;
mod catalog;
pub mod changes;
pub mod check;
mod compact;
pub mod condense;
mod delete;
mod flush;
mod foreign;
mod head;
mod ingest;
mod interner;
mod ladder;
pub mod memory;
mod merge;
mod offline;
pub mod options;
mod parquet;
mod place;
mod record;
mod refusal;
mod replay;
pub mod report;
mod resting;
mod retain;
pub mod salvage;
mod set;
mod snapshot;
mod snapshots;
mod steps;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod tier;
mod tombstones;
mod wire;

pub use cardinality::{Cardinality, cardinality};
pub use condense::{Condense, Edges, Keep};

pub use background::{TaskKind, TaskState, TaskStatus};
pub use foreign::TEMPORARY_DIR;
pub use ingest::LATE_MS;
pub use offline::{MissingBlocks, OfflineStore};
pub use options::{OpenError, Retention, RetentionRule, StoreOptions};
pub use quiver_cache::{PageFigures, RemoteFigures, WorkingSetFigures};
pub use quiver_persistence::remote::Asker;
pub use quiver_persistence::{
    build_with_workers, descriptors_max, host_name, in_own_pages, process_cpu_ns, thread_cpu_ns, turns, unsent_bytes,
};
pub use quiver_storage::parquet::parquet_properties;
pub use report::{ReadCounts, ReadStats, SelectOptions, SelectReport};
pub use store::Store;
pub use tier::{ForesightFigures, TierFigures, TierOptions};

/// A future in a box.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a write did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteReceipt {
    /// Float samples acknowledged (repeats of what is there already included).
    pub floats: u64,
    /// Histogram samples acknowledged.
    pub histograms: u64,
    /// Exemplars acknowledged.
    pub exemplars: u64,
    /// New series refused since a limit on series is reached; the samples of the others are kept. Where all are refused
    /// the write is [`WriteError::SeriesLimit`] instead.
    pub refused_series: u64,
    /// Why those were refused: the limit, and the label that has too many values.
    pub refusal: Option<Box<str>>,
}

/// Why a write was not taken; nothing of it is kept.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WriteError {
    /// The client's fault: do not send it again.
    #[error("{0}")]
    Rejected(String),
    /// A limit on new series: existing ones still flow.
    #[error("{0}")]
    SeriesLimit(String),
    /// Queues are full: send it again later.
    #[error("{0}")]
    Busy(String),
    /// The disk is full: send it again later; it heals by itself.
    #[error("{0}")]
    DiskFull(String),
    /// The log failed and takes nothing until a restart; reads go on.
    #[error("{0}")]
    Poisoned(String),
    /// The store is closing.
    #[error("the store is shutting down")]
    Closed,
}

/// Takes writes.
pub trait Ingest: Send + Sync {
    /// Writes a batch: whole or not at all, durable when it resolves. Labels were checked by the caller.
    fn write(&self, batch: WriteBatch) -> BoxFuture<'_, Result<WriteReceipt, WriteError>>;
    /// An empty batch, with room from earlier ones where there is any.
    fn batch(&self) -> WriteBatch {
        WriteBatch::default()
    }
    /// Is this what is known of the family since the last flush? Then there is no need to send it again.
    fn has_metadata(&self, _family: &str, _metadata: MetadataRef<'_>) -> bool {
        false
    }
}

/// Metadata, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataRef<'a> {
    /// Type.
    pub kind: MetricKind,
    /// Unit.
    pub unit: &'a str,
    /// Help.
    pub help: &'a str,
}

impl<'a> From<&'a Metadata> for MetadataRef<'a> {
    fn from(m: &'a Metadata) -> Self {
        Self { kind: m.kind, unit: &m.unit, help: &m.help }
    }
}

/// Why data could not be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReadError {
    /// Bytes on disk do not match their checksum or do not parse.
    #[error("corrupt data in {file} at byte {offset}: {what}")]
    Corrupt {
        /// Which file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// The disk said no.
    #[error("cannot read {file}: {what}")]
    Io {
        /// Which file.
        file: String,
        /// What the system said.
        what: String,
    },
    /// What was read cannot be written as a block: rows or chunks out of order, or more than one holds.
    #[error("invalid block input: {what}")]
    Unfit {
        /// Why.
        what: String,
    },
    /// A remote store that has the bytes said no, or nothing in time. Other data is not concerned.
    #[error("{file} cannot be read from the store {store}: {what}")]
    Remote {
        /// Which file.
        file: String,
        /// Which store.
        store: String,
        /// What it said.
        what: String,
    },
    /// There is no such thing.
    #[error("{file}: {what}")]
    NotFound {
        /// What was asked for.
        file: String,
        /// Why it is not there.
        what: String,
    },
    /// More series than the caller can take.
    #[error("{0}")]
    Limit(String),
}

impl ReadError {
    /// Work on a file that a stop of the store cut off.
    pub(crate) fn stopped(file: &str) -> Self {
        ReadError::Io { file: file.to_owned(), what: "the store is shutting down".to_owned() }
    }
}

/// The series a selector picked, by index, in label order.
pub trait SeriesSet: Send + Sync {
    /// Number of series.
    fn len(&self) -> usize;
    /// None?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Labels of series `i`.
    fn labels(&self, i: usize) -> &Labels;
    /// What series `i` holds.
    fn kinds(&self, i: usize) -> SeriesKinds;
    /// About how many samples series `i` has in the set's time range; for cost estimates.
    fn samples_hint(&self, i: usize) -> usize;
    /// Reads the samples of series `i` in a range into `out` (cleared first). Stale markers are kept.
    fn read(&self, i: usize, range: TimeRange, need: Need, out: &mut SampleColumn) -> Result<(), ReadError>;
    /// [`SeriesSet::read`] for windows, with runs of samples reduced to what `how` keeps of them. `weights` (cleared
    /// first) says how many samples each one stands for; those that it does not reach stand for themselves.
    fn read_condensed(
        &self,
        i: usize,
        range: TimeRange,
        need: Need,
        _how: &Condense,
        out: &mut SampleColumn,
        weights: &mut Vec<u32>,
    ) -> Result<(), ReadError> {
        weights.clear();
        self.read(i, range, need, out)
    }
}

/// A consistent view of everything stored at one moment.
pub trait Snapshot: Send + Sync {
    /// Number of the set of series visible: a roster cached under it stays right while it does not change. Rises when a
    /// series appears or goes, or a block is published; samples of known series do not change it.
    fn generation(&self) -> u64;
    /// Series with at least one sample that may lie in `range`, all matchers fulfilled; at most `series_max`.
    fn select(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        series_max: usize,
    ) -> Result<Arc<dyn SeriesSet>, ReadError>;
    /// [`Snapshot::select`] as asked for, and how it went. A store without an index has nothing to choose or to say.
    fn select_with(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        series_max: usize,
        options: &SelectOptions,
        _report: Option<&mut SelectReport>,
    ) -> Result<Arc<dyn SeriesSet>, ReadError> {
        let set = self.select(matchers, range, series_max)?;
        Ok(match &options.reads {
            Some(reads) => report::counted(set, reads),
            None => set,
        })
    }
    /// Label names of the series that match any of the selectors (all series, where there is none), sorted.
    fn label_names(&self, selectors: &[Vec<Matcher>], range: TimeRange, limit: usize)
    -> Result<Vec<String>, ReadError>;
    /// Values of a label over the same series, sorted.
    fn label_values(
        &self,
        name: &str,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
        limit: usize,
    ) -> Result<Vec<String>, ReadError>;
    /// Exemplars of the series that match any of the selectors, by series in label order and time.
    fn exemplars(
        &self,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
    ) -> Result<Vec<(Labels, Vec<Exemplar>)>, ReadError>;
    /// Metadata by metric family name, sorted; several where sources disagreed, the newest first.
    fn metadata(&self, metric: Option<&str>) -> Vec<(String, Vec<Metadata>)>;
    /// Earliest and latest sample time, if there is any.
    fn time_bounds(&self) -> Option<TimeRange>;
}

/// Gives out snapshots.
pub trait Source: Send + Sync {
    /// The present state.
    fn snapshot(&self) -> Arc<dyn Snapshot>;
    /// What has changed when, for whoever keeps answers; none where that is not known (yet).
    fn changes(&self) -> Option<&changes::Changes> {
        None
    }
    /// May reading wait for something else than the local disk?
    fn may_wait(&self) -> bool {
        false
    }
}

/// A count of a label or of its pairs, for the cardinality page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedCount {
    /// Metric, label, or `name=value`.
    pub name: String,
    /// How many.
    pub count: u64,
}

/// Figures about the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreStats {
    /// Series in the head.
    pub head_series: u64,
    /// Chunks (sealed and open) in the head.
    pub head_chunks: u64,
    /// Earliest sample in the head, ms.
    pub head_min_ts: i64,
    /// Latest sample in the head, ms.
    pub head_max_ts: i64,
    /// Label pairs in the head.
    pub label_pairs: u64,
    /// Blocks published.
    pub blocks: u64,
    /// Their bytes.
    pub block_bytes: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Samples taken since the start.
    pub samples_ingested: u64,
    /// Samples that were there already with another value.
    pub conflicts: u64,
    /// New series refused since the start, by the label that had too many values.
    pub refused_by_label: Vec<NamedCount>,
    /// Processor time spent finding the series of batches, ns.
    pub lookup_ns: u64,
    /// Processor time spent encoding batches for the log, ns.
    pub encode_ns: u64,
    /// Processor time spent applying batches to the head, ns.
    pub apply_ns: u64,
    /// Flushes done since the start.
    pub flushes: u64,
    /// Compactions done since the start.
    pub compactions: u64,
    /// Deletions not yet carried out.
    pub tombstones: u64,
    /// Selectors deleted since the start.
    pub deletions: u64,
    /// Blocks dropped by the retention since the start.
    pub blocks_dropped: u64,
    /// Blocks known to be damaged, with what was found.
    pub damaged_blocks: Vec<(String, String)>,
    /// What is kept in memory of blocks, and how often it was found.
    pub caches: CacheStats,
    /// The remote tier, where there is one.
    pub tier: Option<TierFigures>,
    /// Top metrics by series.
    pub series_by_metric: Vec<NamedCount>,
    /// Top labels by distinct values.
    pub values_by_label: Vec<NamedCount>,
    /// Top labels by bytes of values.
    pub bytes_by_label: Vec<NamedCount>,
    /// Top pairs by series.
    pub series_by_pair: Vec<NamedCount>,
}

/// Figures of the caches under the scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// L1: decoded columns.
    pub working_set: WorkingSetFigures,
    /// What queries read, by tier.
    pub reads: ReadCounts,
    /// Reading ahead.
    pub foresight: ForesightFigures,
}

/// How the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Reads and writes.
    Ok,
    /// Reads, but no writes for now: why.
    ReadOnly(String),
    /// Still replaying the log.
    Starting,
}

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Where it stands in the snapshot's folder.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// CRC32C of all of it.
    pub crc32c: u32,
}

/// What goes on in the background.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tasks {
    /// Work that nobody asked for is held back.
    pub is_paused: bool,
    /// Every kind of task.
    pub list: Vec<TaskStatus>,
}

fn unsupported<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, ReadError>> {
    Box::pin(async {
        Err(ReadError::NotFound { file: "store".into(), what: "this store does not support the operation".into() })
    })
}

/// Maintenance by hand and figures.
pub trait Maintain: Send + Sync {
    /// Writes the head out as a block and truncates the log; resolves when it is published.
    fn flush(&self) -> BoxFuture<'_, Result<(), ReadError>>;
    /// Flushes, merges blocks as far as they go; resolves when done.
    fn compact(&self) -> BoxFuture<'_, Result<(), ReadError>>;
    /// Deletes what series of any of the selectors have in a range now; what is written later stays. Resolves when it is
    /// durable and visible.
    fn delete(&self, _selectors: Vec<Vec<Matcher>>, _range: TimeRange) -> BoxFuture<'_, Result<(), ReadError>> {
        unsupported()
    }
    /// Takes what is deleted out of the blocks; resolves when it is gone.
    fn clean_tombstones(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        unsupported()
    }
    /// Does all that is due between the local disk and the remote store; resolves when done. Nothing where there is none.
    fn tier(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async { Ok(()) })
    }
    /// Makes a consistent copy under a name, the head included unless it is to be skipped.
    fn create_snapshot(&self, _name: String, _skip_head: bool) -> BoxFuture<'_, Result<(), ReadError>> {
        unsupported()
    }
    /// Files of a snapshot, its manifest last.
    fn snapshot_files(&self, name: &str) -> Result<Vec<SnapshotFile>, ReadError> {
        Err(ReadError::NotFound { file: name.to_owned(), what: "no such snapshot".into() })
    }
    /// Bytes of a file of a snapshot; none at its end.
    fn snapshot_read(&self, name: &str, _path: &str, _offset: u64, _len: usize) -> Result<Vec<u8>, ReadError> {
        Err(ReadError::NotFound { file: name.to_owned(), what: "no such snapshot".into() })
    }
    /// Removes a snapshot.
    fn remove_snapshot(&self, name: &str) -> Result<(), ReadError> {
        Err(ReadError::NotFound { file: name.to_owned(), what: "no such snapshot".into() })
    }
    /// What goes on in the background.
    fn tasks(&self) -> Tasks {
        Tasks::default()
    }
    /// Holds back (or no longer) work that nobody asked for.
    fn pause_tasks(&self, _is_paused: bool) {}
    /// Figures; each top list at most `top` long.
    fn stats(&self, top: usize) -> StoreStats;
    /// How it is.
    fn health(&self) -> Health;
}
