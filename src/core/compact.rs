//! Fewer, larger blocks; and none past the retention.
//!
//! ```text
//! ladder::plan ─▶ merge series by series ─▶ new block ─▶ manifest: new for old, as one ─▶ view ─▶ old files go
//! ```
//!
//! Invariants
//! 1. The old blocks are named until the new one is durable and named: at no moment is a sample in neither.
//! 2. A block that cannot be read is left alone, and so is every plan it is in: nothing damaged is ever dropped by a merge.
//! 3. A snapshot that holds an old block goes on reading it: its file has no name any more, its bytes are still there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quiver_storage::block::{BlockMeta, BlockWriter};
use quiver_storage::merge::{MergeOptions, merge};

use crate::background::TaskKind;
use crate::catalog::{StoredBlock, block_path};
use crate::flush::{entry, io};
use crate::ladder::{Rung, expired, plan, plan_all};
use crate::store::Inner;
use crate::{ReadError, TimeRange};

/// Samples of a chunk in a merged block: longer chunks are smaller.
const MERGED_CHUNK_SAMPLES: usize = 1440;
/// What a merge leaves free on the disk, beyond what it may write.
const SPARE_BYTES: u64 = 16 << 20;

impl Inner {
    /// Blocks that can be merged.
    fn rungs(&self) -> Vec<Rung> {
        let unmergeable = self.unmergeable.lock();
        let view = self.view.load();
        let sound = |b: &&Arc<StoredBlock>| b.block().is_ok() && !unmergeable.contains(&b.entry.id);
        view.blocks.iter().filter(sound).map(|b| b.rung()).collect()
    }

    fn next_merge(&self) -> Option<Vec<u64>> {
        plan(&self.rungs(), &self.options.ladder_ms, self.options.compact_bytes_max)
    }

    /// Is there anything to merge or to drop? The kind of task it takes.
    pub(crate) fn compact_is_due(&self) -> Option<TaskKind> {
        if !self.past_retention().is_empty() {
            return Some(TaskKind::Retain);
        }
        self.next_merge().map(|_| TaskKind::Compact)
    }

    /// Merges what the ladder says, until it says nothing more.
    pub(crate) fn compact_due(&self) -> Result<(), ReadError> {
        while let Some(ids) = self.next_merge() {
            self.merge_blocks(&ids)?;
        }
        Ok(())
    }

    /// Flushes, and merges all blocks.
    pub(crate) fn compact_all(&self) -> Result<(), ReadError> {
        self.flush_now()?;
        for ids in plan_all(&self.rungs(), self.options.compact_bytes_max) {
            self.merge_blocks(&ids)?;
        }
        Ok(())
    }

    fn merge_blocks(&self, ids: &[u64]) -> Result<(), ReadError> {
        let _one_at_a_time = self.compacting.lock();
        let view = self.view.load_full();
        let blocks: Vec<Arc<StoredBlock>> = view.blocks.iter().filter(|b| ids.contains(&b.entry.id)).cloned().collect();
        if blocks.len() != ids.len() || blocks.is_empty() {
            // Retention was faster.
            return Ok(());
        }
        let bytes: u64 = blocks.iter().map(|b| b.entry.bytes).sum();
        if self.disk.free_bytes().is_ok_and(|free| free < bytes.saturating_add(SPARE_BYTES)) {
            let what = format!("a merge of {bytes} bytes has no room");
            return Err(ReadError::Io { file: self.disk.name(), what });
        }
        let id = self.next_block.fetch_add(1, Ordering::Relaxed);
        let path = block_path(id);
        let meta = match self.write_merged(&blocks, &path) {
            Ok(Some(meta)) => meta,
            Ok(None) => return Ok(()),
            Err(e) => {
                if matches!(e, ReadError::Corrupt { .. }) {
                    // Which of them is damaged the error says; leave all alone until the next start.
                    self.unmergeable.lock().extend(ids);
                }
                return Err(e);
            }
        };
        let level = 1 + blocks.iter().map(|b| b.entry.level).max().unwrap_or(0);
        let entry = entry(id, level, &path, &meta, self.options.clock.now_ms(), ids.to_vec());
        let merged = Arc::new(StoredBlock::open(&*self.disk, entry.clone(), &self.interner));
        merged.block()?;
        self.publish(ids, vec![entry])?;
        self.change_view(|view| {
            view.blocks.retain(|b| !ids.contains(&b.entry.id));
            view.blocks.push(merged);
        });
        self.counters.compactions.fetch_add(1, Ordering::Relaxed);
        tracing::info!(
            block = path,
            sources = ids.len(),
            samples = meta.samples,
            bytes = meta.bytes,
            "blocks are merged"
        );
        self.remove_files(&blocks);
        self.interner.sweep();
        Ok(())
    }

    /// Writes the merged block; `None` where a stop came in between.
    fn write_merged(&self, stored: &[Arc<StoredBlock>], path: &str) -> Result<Option<BlockMeta>, ReadError> {
        let mut inputs = Vec::with_capacity(stored.len());
        for b in stored {
            inputs.push(Arc::clone(b.block()?));
        }
        let writer = BlockWriter::create(Arc::clone(&self.disk), path)?;
        let go_on = |_: u32| !self.background.is_stopping();
        let options =
            MergeOptions { chunk_samples: MERGED_CHUNK_SAMPLES, go_on: Some(&go_on), ..MergeOptions::default() };
        let Some(report) = merge(&inputs, writer, &options)? else { return Ok(None) };
        self.counters.conflicts.fetch_add(report.conflicts, Ordering::Relaxed);
        Ok(Some(report.meta))
    }

    fn publish(&self, removed: &[u64], added: Vec<quiver_persistence::ManifestEntry>) -> Result<(), ReadError> {
        let published = self.manifest.edit(|m| m.replace(removed, added));
        published.map(drop).map_err(|e| ReadError::Io { file: "MANIFEST".into(), what: e.to_string() })
    }

    fn remove_files(&self, blocks: &[Arc<StoredBlock>]) {
        if !self.manifest.is_certain() {
            return;
        }
        for b in blocks {
            if let (Some(cache), Ok(block)) = (&self.cache, b.block()) {
                cache.forget_block(block.uid());
            }
            if let Err(e) = self.disk.remove(&b.entry.file).map_err(io) {
                tracing::warn!(error = %e, "the file of an old block stays for now");
            }
        }
    }

    fn past_retention(&self) -> Vec<u64> {
        let Some(retention_ms) = self.options.retention_ms else { return Vec::new() };
        let view = self.view.load();
        let heads = view.heads.iter().filter_map(|h| h.time_bounds());
        let newest = heads.chain(view.blocks.iter().filter_map(|b| b.time_bounds())).map(|b| b.max).max();
        let rungs: Vec<Rung> = view.blocks.iter().map(|b| b.rung()).collect();
        let now_ms = self.options.clock.now_ms();
        expired(&rungs, retention_ms, now_ms, newest, self.options.limits.future_ms_max)
    }

    /// Drops the blocks past the retention.
    pub(crate) fn retain_now(&self) -> Result<(), ReadError> {
        let _one_at_a_time = self.compacting.lock();
        let ids = self.past_retention();
        if ids.is_empty() {
            return Ok(());
        }
        let view = self.view.load_full();
        let blocks: Vec<Arc<StoredBlock>> = view.blocks.iter().filter(|b| ids.contains(&b.entry.id)).cloned().collect();
        self.publish(&ids, Vec::new())?;
        self.change_view(|view| view.blocks.retain(|b| !ids.contains(&b.entry.id)));
        let bounds = blocks.iter().filter_map(|b| b.time_bounds());
        let bounds = bounds.reduce(|a, b| TimeRange { min: a.min.min(b.min), max: a.max.max(b.max) });
        tracing::info!(blocks = ids.len(), ?bounds, "blocks past the retention are dropped");
        drop(view);
        self.remove_files(&blocks);
        drop(blocks);
        self.interner.sweep();
        Ok(())
    }
}
