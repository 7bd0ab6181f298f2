//! How a store is set up, and why it may not open.

use std::sync::Arc;

use quiver_model::{Clock, Limits, Matcher, SystemClock};
use quiver_persistence::{Disk, DiskError, DiskErrorKind, DiskLock, LogOptions, ManifestError, ReplayError};

use crate::foreign::listed;
use crate::tier::TierOptions;

const HOUR_MS: i64 = 3_600_000;

/// How long series of a selector are kept.
#[derive(Clone, Debug)]
pub struct RetentionRule {
    /// Which series.
    pub matchers: Vec<Matcher>,
    /// How long, ms; `None`: for ever.
    pub keep_ms: Option<i64>,
}

/// What is kept how long.
#[derive(Clone, Debug, Default)]
pub struct Retention {
    /// Blocks all of whose samples are older than this are dropped, ms; `None`: never.
    pub keep_ms: Option<i64>,
    /// Series that are kept for another time than that; the first rule that accepts a series decides.
    pub rules: Vec<RetentionRule>,
    /// The oldest blocks are dropped while blocks and log take more bytes than these; `None`: never.
    pub bytes_max: Option<u64>,
}

impl Retention {
    pub(crate) fn of(options: &StoreOptions) -> Self {
        let StoreOptions { retention_ms, retention_rules, retention_bytes_max, .. } = options;
        Self { keep_ms: *retention_ms, rules: retention_rules.clone(), bytes_max: *retention_bytes_max }
    }
}

/// How a store is set up.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Limits on requests and queues.
    pub limits: Limits,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How the log is run.
    pub log: LogOptions,
    /// A head whose first sample came so long ago is flushed, ms.
    pub flush_interval_ms: i64,
    /// A head that takes as many bytes is flushed.
    pub head_bytes_max: usize,
    /// Blocks all of whose samples are older than this are dropped, ms; `None`: never.
    pub retention_ms: Option<i64>,
    /// Series that are kept for another time than that; the first rule that accepts a series decides.
    pub retention_rules: Vec<RetentionRule>,
    /// The oldest blocks are dropped while blocks and log take more bytes than these; `None`: never.
    pub retention_bytes_max: Option<u64>,
    /// Spans of time that blocks are merged into, rung by rung, ms. Each is a multiple of the one before.
    pub ladder_ms: Vec<i64>,
    /// Blocks larger than this are not merged by themselves.
    pub compact_bytes_max: u64,
    /// Decoded chunks of blocks kept for the next query, bytes.
    pub cache_bytes_max: usize,
    /// Blocks are written anew without what was deleted of them so long ago, ms; `None`: only on demand or by a merge.
    pub clean_after_ms: Option<i64>,
    /// Bytes the process should stay under; the working set gives way first. 0: it may take what it wants.
    pub process_bytes_max: u64,
    /// Reads ahead of dashboards.
    pub foresee: bool,
    /// The remote store that blocks move to by age; none: they stay.
    pub tier: Option<TierOptions>,
    /// Flushes, merges and drops blocks by itself. Off: only on demand.
    pub background: bool,
    /// Maps the files of blocks. Off: they are read by ranges, so that a medium that fails to give bytes is the error of a query and
    /// not the end of the process.
    pub map_blocks: bool,
    /// Threads that replay the log; 0: as many as there are processors.
    pub replay_threads: usize,
    /// Buffers of batches are used again. Off, to measure what that saves.
    pub pooled: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        let shards = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 4) as u32;
        let limits = Limits::default();
        Self {
            log: LogOptions { shards, has_aside: true, queue_max: limits.write_queue_max, ..LogOptions::default() },
            limits,
            clock: Arc::new(SystemClock),
            flush_interval_ms: 2 * HOUR_MS,
            head_bytes_max: 512 << 20,
            retention_ms: None,
            retention_rules: Vec::new(),
            retention_bytes_max: None,
            ladder_ms: vec![2 * HOUR_MS, 12 * HOUR_MS, 72 * HOUR_MS],
            compact_bytes_max: 8 << 30,
            cache_bytes_max: 128 << 20,
            clean_after_ms: Some(10 * 60_000),
            process_bytes_max: 0,
            foresee: true,
            tier: None,
            background: true,
            map_blocks: true,
            replay_threads: 0,
            pooled: true,
        }
    }
}

/// Why a data folder does not open. Nothing in it was changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data folder {folder} is in use by {}", holder_text(*.holder))]
    InUse {
        /// Which folder.
        folder: String,
        /// The id of the process, where it is known.
        holder: Option<u32>,
    },
    /// It holds what is not Quiver's.
    #[error("{folder} holds {}, which Quiver did not write: choose an empty folder", listed(.found))]
    Foreign {
        /// Which folder.
        folder: String,
        /// Names of what is in it.
        found: Vec<String>,
    },
    /// A newer version wrote it.
    #[error("{0}")]
    Newer(String),
    /// The manifest cannot be read.
    #[error("{0}")]
    Damaged(String),
    /// The remote store belongs to somebody else, or does not answer where it has to.
    #[error("{0}")]
    Tier(String),
    /// The disk said no.
    #[error("cannot open the data folder: {0}")]
    Disk(DiskError),
}

/// Who has a folder, and what to do about it.
fn holder_text(holder: Option<u32>) -> String {
    match holder {
        Some(id) => format!("the server with process id {id}: stop it first, or ask it over HTTP"),
        None => "another process".to_owned(),
    }
}

/// Locks the root of a disk.
pub(crate) fn lock(disk: &dyn Disk) -> Result<DiskLock, OpenError> {
    disk.lock("").map_err(|e| match e.kind {
        DiskErrorKind::Locked(holder) => OpenError::InUse { folder: disk.name(), holder },
        _ => OpenError::Disk(e),
    })
}

impl From<DiskError> for OpenError {
    fn from(e: DiskError) -> Self {
        match e.kind {
            DiskErrorKind::Locked(holder) => OpenError::InUse { folder: e.path, holder },
            _ => OpenError::Disk(e),
        }
    }
}

impl From<ManifestError> for OpenError {
    fn from(e: ManifestError) -> Self {
        match e {
            ManifestError::OtherVersion { .. } => OpenError::Newer(e.to_string()),
            ManifestError::Damaged { .. } => OpenError::Damaged(e.to_string()),
            ManifestError::Disk(e) => e.into(),
        }
    }
}

impl From<ReplayError> for OpenError {
    fn from(e: ReplayError) -> Self {
        match e {
            ReplayError::OtherVersion { .. } => OpenError::Newer(e.to_string()),
            ReplayError::Disk(e) => e.into(),
        }
    }
}
