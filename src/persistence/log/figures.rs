//! What the log counts: plain atomics, read by whoever makes metrics of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of the sync latency: the i-th counts syncs below 2^i µs that are not below 2^(i-1); the last all others.
const LATENCY_BUCKETS: usize = 25;

#[derive(Debug)]
pub(super) struct ShardCounters {
    /// The segment being written, or the next one where none is.
    pub(super) current: AtomicU64,
    pub(super) frames: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) refused_full: AtomicU64,
    syncs: AtomicU64,
    sync_ns: AtomicU64,
    sync_ns_max: AtomicU64,
    latency: [AtomicU64; LATENCY_BUCKETS],
}

impl ShardCounters {
    pub(super) fn new(current: u64) -> Self {
        Self {
            current: AtomicU64::new(current),
            frames: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            refused_full: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            sync_ns: AtomicU64::new(0),
            sync_ns_max: AtomicU64::new(0),
            latency: [const { AtomicU64::new(0) }; LATENCY_BUCKETS],
        }
    }

    pub(super) fn synced(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_ns.fetch_add(ns, Ordering::Relaxed);
        self.sync_ns_max.fetch_max(ns, Ordering::Relaxed);
        let bucket = (u64::BITS - (ns / 1000).leading_zeros()) as usize;
        if let Some(count) = self.latency.get(bucket.min(LATENCY_BUCKETS - 1)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn figures(&self, queued_entries: usize, queued_bytes: usize) -> ShardFigures {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        ShardFigures {
            segment: get(&self.current),
            queued_entries,
            queued_bytes,
            frames: get(&self.frames),
            batches: get(&self.batches),
            written_bytes: get(&self.written_bytes),
            refused_full: get(&self.refused_full),
            syncs: get(&self.syncs),
            sync_ns: get(&self.sync_ns),
            sync_ns_max: get(&self.sync_ns_max),
            sync_latency_us: self.latency.iter().enumerate().map(|(i, n)| (1 << i, get(n))).collect(),
        }
    }
}

/// Figures of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFigures {
    /// Bytes of all segments on disk.
    pub bytes: u64,
    /// Segments on disk.
    pub segments: usize,
    /// Those of them that replay found damaged.
    pub segments_damaged: usize,
    /// Segments set aside by truncation since the start.
    pub segments_quarantined: u64,
    /// By shard.
    pub shards: Vec<ShardFigures>,
}

impl LogFigures {
    /// Entries that wait or are being written.
    pub fn queued_entries(&self) -> usize {
        self.shards.iter().map(|s| s.queued_entries).sum()
    }

    /// Frames committed since the start.
    pub fn frames(&self) -> u64 {
        self.shards.iter().map(|s| s.frames).sum()
    }

    /// Syncs since the start.
    pub fn syncs(&self) -> u64 {
        self.shards.iter().map(|s| s.syncs).sum()
    }
}

/// Figures of a shard of the log, since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardFigures {
    /// The segment being written.
    pub segment: u64,
    /// Entries that wait or are being written.
    pub queued_entries: usize,
    /// Their bytes.
    pub queued_bytes: usize,
    /// Frames committed.
    pub frames: u64,
    /// Batches they came in: one write and (by the durability) one sync each.
    pub batches: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Entries refused because the disk was full.
    pub refused_full: u64,
    /// Syncs of segment files.
    pub syncs: u64,
    /// Time spent in them, ns.
    pub sync_ns: u64,
    /// The longest, ns.
    pub sync_ns_max: u64,
    /// How many took less than so many µs (and not less than the bound before); the last counts all others too.
    pub sync_latency_us: Vec<(u64, u64)>,
}
