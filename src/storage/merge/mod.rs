//! Merges blocks into one.
//!
//! ```text
//! block A   a │ b │     d      series in label order: one pass over all inputs at once
//! block B   a │   │ c │ d
//!           ▼   ▼   ▼   ▼
//!           chunks that lie alone and are large are copied byte for byte; the rest is decoded, merged by time with
//!           the conflict rule, and encoded again in chunks of the size asked for
//! ```
//!
//! Memory is bounded by one chunk per input, what one output series takes encoded, and the output's index.
//!
//! Invariants
//! 1. The result does not depend on the order of the inputs (but for which metadata counts as newest).
//! 2. A block merged with itself is itself.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use quiver_model::{Exemplar, Labels, LabelsRef, Metadata, Need, SampleColumn, TimeRange};

use crate::block::{Block, BlockMeta, BlockWriter, ChunkEntry};
use crate::codec::{CHUNK_HISTOGRAM_BYTES, CHUNK_SAMPLES, Chunk, Decoder};
use crate::error::StorageError;

/// What a merge leaves out, input by input: a deletion counts for what was there when it came, and not for what another
/// input brings.
pub trait Deleted: Sync {
    /// Deleted ranges of series `id` of an input.
    fn ranges(&self, input: usize, id: u32, labels: LabelsRef<'_>) -> Vec<TimeRange>;
    /// Is an exemplar of an input deleted?
    fn exemplar(&self, input: usize, labels: LabelsRef<'_>, ts: i64) -> bool;
    /// Is the metadata of a family left out?
    fn family(&self, _family: &str) -> bool {
        false
    }
}

/// How to merge.
#[derive(Clone, Copy)]
pub struct MergeOptions<'a> {
    /// Samples of a chunk that is encoded anew.
    pub chunk_samples: usize,
    /// What lies outside is dropped.
    pub keep: TimeRange,
    /// What else is dropped.
    pub deleted: Option<&'a dyn Deleted>,
    /// Asked for each series with the number done; false ends the merge.
    pub go_on: Option<&'a (dyn Fn(u32) -> bool + Sync)>,
}

impl Default for MergeOptions<'_> {
    fn default() -> Self {
        Self { chunk_samples: CHUNK_SAMPLES, keep: TimeRange::ALL, deleted: None, go_on: None }
    }
}

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeReport {
    /// The new block.
    pub meta: BlockMeta,
    /// Chunks copied as they were.
    pub copied: u64,
    /// Chunks encoded anew.
    pub encoded: u64,
    /// Samples of one series and time that had different values.
    pub conflicts: u64,
    /// Samples dropped as deleted or too old.
    pub dropped: u64,
    /// Metric families with metadata in the new block.
    pub families: u64,
}

/// Where one input stands.
struct Cursor {
    id: u32,
    labels: Vec<u8>,
}

impl Cursor {
    fn load(&mut self, block: &Block) -> Result<(), StorageError> {
        if self.id < block.meta().series {
            block.labels_packed(self.id, &mut self.labels)?;
        }
        Ok(())
    }
}

/// Merges `inputs`, the oldest first, into `writer`, and finishes it. `None` when it was told to stop.
pub fn merge(
    inputs: &[Arc<Block>],
    mut writer: BlockWriter,
    options: &MergeOptions<'_>,
) -> Result<Option<MergeReport>, StorageError> {
    let mut cursors = Vec::with_capacity(inputs.len());
    for block in inputs {
        let mut c = Cursor { id: 0, labels: Vec::new() };
        c.load(block)?;
        cursors.push(c);
    }
    let mut series = SeriesMerge::new(options);
    let mut current: Vec<u8> = Vec::new();
    let mut done = 0;
    loop {
        // The smallest label set among the cursors. Inputs are few: a scan beats a heap.
        let mut least: Option<usize> = None;
        for (k, c) in cursors.iter().enumerate() {
            if c.id < inputs[k].meta().series && least.is_none_or(|l| packed(&c.labels) < packed(&cursors[l].labels)) {
                least = Some(k);
            }
        }
        let Some(least) = least else { break };
        if options.go_on.is_some_and(|go_on| !go_on(done)) {
            return Ok(None);
        }
        done += 1;
        current.clear();
        current.extend_from_slice(&cursors[least].labels);
        series.begin();
        for (k, c) in cursors.iter_mut().enumerate() {
            if c.id < inputs[k].meta().series && c.labels == current {
                series.add(k, &inputs[k], c.id, packed(&current))?;
                c.id += 1;
                c.load(&inputs[k])?;
            }
        }
        let labels = LabelsRef::from_packed(&current)
            .map_err(|e| StorageError::corrupt(inputs[least].name(), 0, format!("labels do not parse: {e}")))?;
        let chunks = series.finish(&mut writer)?;
        writer.push(labels, &chunks)?;
    }
    merge_exemplars(inputs, &mut writer, options)?;
    let mut report = series.report;
    report.families = merge_metadata(inputs, &mut writer, options)?;
    report.meta = writer.finish()?;
    Ok(Some(report))
}

fn packed(bytes: &[u8]) -> LabelsRef<'_> {
    // Bytes that do not parse sort as the empty set and fail when their turn comes.
    LabelsRef::from_packed(bytes).unwrap_or_else(|_| LabelsRef::empty())
}

fn merge_exemplars(
    inputs: &[Arc<Block>],
    writer: &mut BlockWriter,
    options: &MergeOptions<'_>,
) -> Result<(), StorageError> {
    let mut all: BTreeMap<Labels, Vec<Exemplar>> = BTreeMap::new();
    for (k, block) in inputs.iter().enumerate() {
        if block.meta().exemplars > 0 {
            for (labels, mut list) in block.exemplars()? {
                list.retain(|e| !options.deleted.is_some_and(|d| d.exemplar(k, labels.as_ref(), e.ts)));
                all.entry(labels).or_default().append(&mut list);
            }
        }
    }
    for (labels, mut list) in all {
        list.retain(|e| options.keep.overlaps(e.ts, e.ts));
        list.sort_by(Exemplar::order);
        list.dedup_by(|a, b| a.order(b).is_eq());
        writer.push_exemplars(labels.as_ref(), &list);
    }
    Ok(())
}

fn merge_metadata(
    inputs: &[Arc<Block>],
    writer: &mut BlockWriter,
    options: &MergeOptions<'_>,
) -> Result<u64, StorageError> {
    let mut all: BTreeMap<String, Vec<Metadata>> = BTreeMap::new();
    for block in inputs.iter().rev() {
        for (family, list) in block.metadata()? {
            if options.deleted.is_some_and(|d| d.family(&family)) {
                continue;
            }
            let have = all.entry(family).or_default();
            for m in list {
                if !have.contains(&m) {
                    have.push(m);
                }
            }
        }
    }
    for (family, list) in &all {
        writer.push_metadata(family, list);
    }
    Ok(all.len() as u64)
}

/// Decoded samples of one input's part of a cluster, not all handed on yet.
#[derive(Default)]
struct Buffer {
    column: SampleColumn,
    from: usize,
}

/// Merges one series after the other, keeping its buffers.
struct SeriesMerge<'a> {
    options: &'a MergeOptions<'a>,
    report: MergeReport,
    blocks: Vec<Arc<Block>>,
    /// What of each input of this series is deleted.
    deleted: Vec<Vec<TimeRange>>,
    /// (input of this series, chunk), by time.
    entries: Vec<(usize, ChunkEntry)>,
    decoder: Decoder,
    buffers: Vec<Buffer>,
    parts: [SampleColumn; 3],
    pending: SampleColumn,
    spare: SampleColumn,
    chunks: Vec<Chunk>,
}

impl<'a> SeriesMerge<'a> {
    fn new(options: &'a MergeOptions<'a>) -> Self {
        Self {
            options,
            report: MergeReport::default(),
            blocks: Vec::new(),
            deleted: Vec::new(),
            entries: Vec::new(),
            decoder: Decoder::new(),
            buffers: Vec::new(),
            parts: Default::default(),
            pending: SampleColumn::default(),
            spare: SampleColumn::default(),
            chunks: Vec::new(),
        }
    }

    fn begin(&mut self) {
        self.blocks.clear();
        self.deleted.clear();
        self.entries.clear();
        self.pending.clear();
        self.chunks.clear();
    }

    /// Adds series `id` of an input.
    fn add(&mut self, input: usize, block: &Arc<Block>, id: u32, labels: LabelsRef<'_>) -> Result<(), StorageError> {
        let k = self.blocks.len();
        let deleted = self.options.deleted.map_or_else(Vec::new, |d| d.ranges(input, id, labels));
        self.blocks.push(Arc::clone(block));
        for e in block.chunk_entries(id, TimeRange::ALL)? {
            if deleted.iter().any(|d| d.covers(e.min_time, e.max_time)) {
                // Not even read.
                self.report.dropped += u64::from(e.count);
            } else {
                self.entries.push((k, e));
            }
        }
        self.deleted.push(deleted);
        Ok(())
    }

    fn finish(&mut self, writer: &mut BlockWriter) -> Result<Vec<Chunk>, StorageError> {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_by_key(|(k, e)| (e.min_time, e.max_time, *k));
        let size = self.options.chunk_samples.clamp(1, crate::codec::SAMPLES_MAX / 2);
        let mut at = 0;
        while at < entries.len() {
            // A cluster: chunks that overlap, directly or through others.
            let mut end = at + 1;
            let mut max = entries[at].1.max_time;
            while end < entries.len() && entries[end].1.min_time <= max {
                max = max.max(entries[end].1.max_time);
                end += 1;
            }
            let (k, e) = &entries[at];
            let untouched = self.options.keep.covers(e.min_time, e.max_time)
                && !self.deleted[*k].iter().any(|d| d.overlaps(e.min_time, e.max_time));
            let large = e.count as usize >= size / 2 && (self.pending.is_empty() || self.pending.len() >= size / 4);
            if end == at + 1 && untouched && large {
                self.encode_pending(writer, size, true);
                self.chunks.push(self.blocks[*k].chunk(e)?);
                self.report.copied += 1;
            } else {
                self.merge_cluster(&entries[at..end], writer, size)?;
            }
            at = end;
        }
        self.encode_pending(writer, size, true);
        self.entries = entries;
        Ok(std::mem::take(&mut self.chunks))
    }

    /// Encodes pending samples: all of them, or as long as more than enough for another chunk remain.
    fn encode_pending(&mut self, writer: &mut BlockWriter, size: usize, all: bool) {
        let mut from = 0;
        let n = self.pending.len();
        while from < n {
            let left = n - from;
            // Up to half as much again is one chunk, so that no crumb is left at the end.
            let take = if left <= size + size / 2 { left } else { size };
            let fitting = self.pending.fitting(from, 2 * CHUNK_HISTOGRAM_BYTES);
            if !all && left <= (2 * size).min(fitting) {
                break;
            }
            let take = take.min(self.pending.fitting(from, CHUNK_HISTOGRAM_BYTES));
            self.spare.clear();
            self.spare.extend_from(&self.pending, from..from + take);
            let encoded = writer.encode(&self.spare, take);
            self.report.encoded += encoded.len() as u64;
            self.chunks.extend(encoded);
            from += take;
        }
        if from > 0 {
            self.spare.clear();
            self.spare.extend_from(&self.pending, from..n);
            std::mem::swap(&mut self.spare, &mut self.pending);
        }
    }

    fn append(&mut self, part: &SampleColumn) {
        let keep = self.options.keep;
        if keep == TimeRange::ALL {
            self.pending.extend_from(part, 0..part.len());
            return;
        }
        for i in 0..part.len() {
            let t = part.ts[i];
            if keep.overlaps(t, t) {
                self.pending.push_from(part, i);
            } else {
                self.report.dropped += 1;
            }
        }
    }

    /// Merges chunks that overlap, holding one decoded chunk per input: what lies before the end of every input's chunk
    /// is complete and can go on.
    fn merge_cluster(
        &mut self,
        cluster: &[(usize, ChunkEntry)],
        writer: &mut BlockWriter,
        size: usize,
    ) -> Result<(), StorageError> {
        let inputs = self.blocks.len();
        self.buffers.resize_with(inputs.max(self.buffers.len()), Buffer::default);
        for b in &mut self.buffers {
            b.column.clear();
            b.from = 0;
        }
        let mut queues: Vec<std::collections::VecDeque<ChunkEntry>> = vec![Default::default(); inputs];
        for (k, e) in cluster {
            queues[*k].push_back(*e);
        }
        loop {
            let mut horizon = i64::MAX;
            let mut left = false;
            for (k, queue) in queues.iter_mut().enumerate() {
                let b = &mut self.buffers[k];
                // A chunk may have nothing left once the deletions are taken out: the next one is read then.
                while b.from >= b.column.len() {
                    b.column.clear();
                    b.from = 0;
                    let Some(e) = queue.pop_front() else { break };
                    let block = &self.blocks[k];
                    block.read_chunk(&e, TimeRange::ALL, Need::ALL, &mut self.decoder, &mut b.column)?;
                    if self.deleted[k].iter().any(|d| d.overlaps(e.min_time, e.max_time)) {
                        self.report.dropped += drop_deleted(&mut b.column, &self.deleted[k], &mut self.spare);
                    }
                }
                left |= b.from < b.column.len();
                if !queue.is_empty()
                    && let Some(last) = b.column.ts.last()
                {
                    horizon = horizon.min(*last);
                }
            }
            if !left {
                break;
            }
            let [mut merged, mut part, mut out] = std::mem::take(&mut self.parts);
            merged.clear();
            for b in &mut self.buffers[..inputs] {
                let end = b.column.ts.partition_point(|t| *t <= horizon).max(b.from);
                if end == b.from {
                    continue;
                }
                part.clear();
                part.extend_from(&b.column, b.from..end);
                b.from = end;
                if merged.is_empty() {
                    std::mem::swap(&mut merged, &mut part);
                } else {
                    self.report.conflicts += SampleColumn::merge(&merged, &part, &mut out);
                    std::mem::swap(&mut merged, &mut out);
                }
            }
            self.append(&merged);
            self.parts = [merged, part, out];
            self.encode_pending(writer, size, false);
        }
        Ok(())
    }
}

/// Takes the deleted samples out of a column; gives how many.
fn drop_deleted(column: &mut SampleColumn, deleted: &[TimeRange], spare: &mut SampleColumn) -> u64 {
    spare.clear();
    for i in 0..column.len() {
        let t = column.ts[i];
        if !deleted.iter().any(|d| d.overlaps(t, t)) {
            spare.push_from(column, i);
        }
    }
    let dropped = column.len() - spare.len();
    std::mem::swap(column, spare);
    dropped as u64
}
