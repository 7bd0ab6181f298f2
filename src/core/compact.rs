//! Fewer, larger blocks, without what is deleted of them.
//!
//! ```text
//! ladder::plan ─▶ merge series by series ─▶ new block ─▶ manifest: new for old, as one ─▶ view ─▶ old files go
//! ```
//!
//! Invariants
//! 1. The old blocks are named until the new one is durable and named: at no moment is a sample in neither.
//! 2. A block that cannot be read is left alone, and so is every plan it is in: nothing damaged is ever dropped by a merge.
//! 3. A snapshot that holds an old block goes on reading it: its file has no name any more, its bytes are still there.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use quiver_model::METRIC_NAME;
use quiver_persistence::{DiskOp, ManifestEntry, ManifestError};
use quiver_storage::block::BlockWriter;
use quiver_storage::codec::CHUNK_SAMPLES;
use quiver_storage::merge::{MergeOptions, MergeReport, merge};

use crate::background::TaskKind;
use crate::catalog::{StoredBlock, block_path};
use crate::flush::{entry, io, manifest_error};
use crate::ladder::{Rung, SMALL_BYTES, plan, plan_all};
use crate::snapshot::StoreSnapshot;
use crate::store::Inner;
use crate::tombstones::{LeftOut, MergeDeletions};
use crate::{ReadError, Snapshot, TimeRange};

/// Samples of a chunk in a merged block: longer chunks are smaller.
const MERGED_CHUNK_SAMPLES: usize = 1440;
/// What a merge leaves free on the disk, beyond what it may write.
pub(crate) const SPARE_BYTES: u64 = 16 << 20;

impl Inner {
    /// Blocks that can be merged; without those that are resting, unless they are asked for.
    fn rungs(&self, with_resting: bool) -> Vec<Rung> {
        let unmergeable = self.unmergeable.lock();
        let resting = self.resting.lock();
        let now = Instant::now();
        let view = self.view.load();
        // What is in the store alone stays as it is, unless it is so small that many of its kind would come together.
        let is_near = |b: &StoredBlock| b.remote().is_none() || b.entry.bytes <= SMALL_BYTES;
        let sound = |b: &&Arc<StoredBlock>| b.block().is_ok() && is_near(b) && !unmergeable.contains(&b.entry.id);
        let sound = |b: &&Arc<StoredBlock>| sound(b) && (with_resting || !resting.is(b.entry.id, now));
        view.blocks.iter().filter(sound).map(|b| b.rung()).collect()
    }

    pub(crate) fn next_merge(&self) -> Option<Vec<u64>> {
        plan(&self.rungs(false), &self.options.ladder_ms, self.options.compact_bytes_max)
    }

    /// Merges what the ladder says, until it says nothing more. A merge that fails is left for a while and holds up no other:
    /// one of its blocks may be on a bad part of the disk or in a store that is away, or the disk may have no room for it.
    pub(crate) fn compact_due(&self) -> Result<(), ReadError> {
        let mut failed = None;
        while let Some(ids) = self.next_merge() {
            let merged = self.merge_blocks(&ids, TaskKind::Compact);
            if merged.is_err() && self.background.is_stopping() {
                return merged;
            }
            self.resting.lock().note(&ids, merged.is_ok(), Instant::now());
            failed = failed.or(merged.err());
        }
        failed.map_or(Ok(()), Err)
    }

    /// Flushes, and merges all blocks.
    pub(crate) fn compact_all(&self) -> Result<(), ReadError> {
        self.flush_now()?;
        let mut rungs = self.rungs(true);
        let view = self.view.load_full();
        let has_deletions = |id: u64| view.blocks.iter().any(|b| b.entry.id == id && b.deletions().is_some());
        // One alone is written anew for its deletions as it is for its encoding.
        rungs.iter_mut().filter(|r| has_deletions(r.id)).for_each(|r| r.level = 0);
        drop(view);
        for ids in plan_all(&rungs, self.options.compact_bytes_max) {
            self.merge_blocks(&ids, TaskKind::CompactAll)?;
        }
        Ok(())
    }

    /// Has something that was deleted been in a block for too long?
    pub(crate) fn clean_is_due(&self) -> bool {
        let Some(after_ms) = self.options.clean_after_ms else { return false };
        let manifest = self.manifest.current();
        if manifest.tombstones.is_empty() {
            return false;
        }
        let now_ms = self.options.clock.now_ms();
        let unmergeable = self.unmergeable.lock();
        let (resting, now) = (self.resting.lock(), Instant::now());
        let view = self.view.load();
        let is_left = |id: u64| unmergeable.contains(&id) || resting.is(id, now);
        let sound = |id: u64| !is_left(id) && view.blocks.iter().any(|b| b.entry.id == id && b.block().is_ok());
        // Either way: a clock that was set back must not make it wait for years.
        let is_old = |created_ms: i64| now_ms.saturating_sub(created_ms).unsigned_abs() >= after_ms.unsigned_abs();
        manifest.tombstones.iter().any(|t| is_old(t.created_ms) && t.blocks.iter().any(|id| sound(*id)))
    }

    /// Writes every block anew of which something is deleted. One that cannot be read is left alone, and named at the end.
    pub(crate) fn clean_now(&self) -> Result<(), ReadError> {
        let mut failed = None;
        let view = self.view.load_full();
        let of = |b: &Arc<StoredBlock>| (b.entry.id, b.remote().is_some());
        let blocks: Vec<(u64, bool)> = view.blocks.iter().filter(|b| b.deletions().is_some()).map(of).collect();
        drop(view);
        let mut is_away = false;
        for (id, is_remote) in blocks {
            // A store that is away is waited for once.
            if is_remote && is_away {
                continue;
            }
            let cleaned = self.merge_blocks(&[id], TaskKind::Clean);
            if cleaned.is_err() && self.background.is_stopping() {
                return cleaned;
            }
            self.resting.lock().note(&[id], cleaned.is_ok(), Instant::now());
            is_away |= matches!(cleaned, Err(ReadError::Remote { .. }));
            failed = failed.or(cleaned.err());
        }
        failed.map_or(Ok(()), Err)
    }

    /// Merges blocks into one, or into none where nothing of them is left; deletions and selector retention are carried
    /// out on the way.
    pub(crate) fn merge_blocks(&self, ids: &[u64], task: TaskKind) -> Result<(), ReadError> {
        let _one_at_a_time = self.compacting.lock();
        let view = self.view.load_full();
        let blocks: Vec<Arc<StoredBlock>> = view.blocks.iter().filter(|b| ids.contains(&b.entry.id)).cloned().collect();
        drop(view);
        if blocks.len() != ids.len() || blocks.is_empty() {
            // Retention was faster.
            return Ok(());
        }
        let bytes: u64 = blocks.iter().map(|b| b.entry.bytes).sum();
        if self.disk.free_bytes().is_ok_and(|free| free < bytes.saturating_add(SPARE_BYTES)) {
            let what = format!("not enough free disk space for a merge of {bytes} bytes");
            return Err(ReadError::Io { file: self.disk.name(), what });
        }
        let id = self.next_block.fetch_add(1, Ordering::Relaxed);
        let path = block_path(id);
        let report = match self.write_merged(&blocks, &path, task) {
            Ok(Some(report)) => report,
            Ok(None) => return Err(ReadError::stopped(&path)),
            Err(e) => {
                if matches!(e, ReadError::Corrupt { .. } | ReadError::Unfit { .. }) {
                    // Which of them is damaged the error says; leave all alone until the next start.
                    self.unmergeable.lock().extend(ids);
                    blocks.iter().filter(|b| e.to_string().contains(&b.entry.file)).for_each(|b| b.note(&e));
                }
                return Err(e);
            }
        };
        let meta = report.meta;
        let is_rewritten = matches!(task, TaskKind::Clean | TaskKind::Retain);
        let level = blocks.iter().map(|b| b.entry.level).max().unwrap_or(0) + u32::from(!is_rewritten);
        let merged = if meta.series == 0 && meta.exemplars == 0 && report.families == 0 {
            self.discard(&path);
            None
        } else {
            let mut entry = entry(id, level, &path, &meta, self.options.clock.now_ms(), ids.to_vec());
            entry.set_arrival(blocks.iter().map(|b| b.entry.arrival()).max().unwrap_or(id));
            let merged = self.prove(entry).inspect_err(|e| {
                if matches!(e, ReadError::Corrupt { .. }) {
                    // The same would come of them again.
                    self.unmergeable.lock().extend(ids);
                }
            })?;
            self.foresee_block(&merged);
            Some(merged)
        };
        let applied: Vec<u64> = blocks.iter().filter_map(|b| b.deletions()).flat_map(|d| d.ids()).collect();
        {
            let _publishing = self.publishing.lock();
            let added: Vec<ManifestEntry> = merged.iter().map(|m| m.entry.clone()).collect();
            let clock = self.clock_mark();
            let edited = self.manifest.edit(|m| {
                m.note_clock(clock);
                m.supersede(ids, added.first().map(|e| e.id));
                if !added.is_empty() {
                    // Deletions that came while this was written count in the result, too.
                    m.carry(ids, id, &applied);
                }
                m.replace(ids, added);
            });
            if let Err(e) = edited {
                // After a failed rename or later either manifest may be found after a crash.
                if matches!(&e, ManifestError::Disk(d) if matches!(d.op, DiskOp::Create | DiskOp::Write | DiskOp::Sync))
                {
                    self.discard(&path);
                }
                return Err(manifest_error(e));
            }
            self.change_view(|view| {
                view.blocks.retain(|b| !ids.contains(&b.entry.id));
                view.blocks.extend(merged);
                self.refresh_deletions(view);
            });
        }
        if report.dropped > 0 {
            // What is past the time of its rule has gone. (Deletions were noted when they were made.)
            blocks.iter().filter_map(|b| b.time_bounds()).for_each(|range| self.changes.note(range));
        }
        self.counters.compactions.fetch_add(1, Ordering::Relaxed);
        tracing::info!(
            task = task.name(),
            block = path,
            sources = ids.len(),
            samples = meta.samples,
            dropped = report.dropped,
            bytes = meta.bytes,
            "blocks are merged"
        );
        self.remove_files(&blocks);
        self.interner.sweep();
        Ok(())
    }

    /// Writes the merged block; `None` where a stop came in between.
    fn write_merged(
        &self,
        stored: &[Arc<StoredBlock>],
        path: &str,
        task: TaskKind,
    ) -> Result<Option<MergeReport>, ReadError> {
        let mut inputs = Vec::with_capacity(stored.len());
        let mut left_out = Vec::with_capacity(stored.len());
        for b in stored {
            inputs.push(Arc::clone(b.block()?));
            let rows = b.deleted_rows()?;
            let deletions = b.deletions().zip(rows).map(|(d, rows)| (&**d, rows));
            left_out.push(LeftOut { deletions, expired: self.expired_rows(b)? });
        }
        let dead = if task == TaskKind::Clean { self.dead_families(stored) } else { HashSet::new() };
        let families = |family: &str| dead.contains(family);
        let deleted = MergeDeletions { inputs: left_out, families: &families };
        let total: u64 = stored.iter().map(|b| b.entry.series).sum();
        let writer = BlockWriter::create(Arc::clone(&self.disk), path)?;
        let go_on = |done: u32| {
            self.background.progress(task, u64::from(done), total);
            !self.background.is_stopping()
        };
        let is_young = matches!(task, TaskKind::Clean | TaskKind::Retain) && stored.iter().all(|b| b.entry.level == 0);
        let options = MergeOptions {
            chunk_samples: if is_young { CHUNK_SAMPLES } else { MERGED_CHUNK_SAMPLES },
            go_on: Some(&go_on),
            deleted: if deleted.is_empty() { None } else { Some(&deleted) },
            ..MergeOptions::default()
        };
        let were_lost: Vec<bool> = inputs.iter().map(|b| b.is_lost()).collect();
        let Some(report) = merge(&inputs, writer, &options)? else { return Ok(None) };
        // Bytes are checked when they are mapped and copied later: what went in between was copied as zeros.
        if let Some((b, _)) = inputs.iter().zip(were_lost).find(|(b, was_lost)| b.is_lost() != *was_lost) {
            self.discard(path);
            return Err(ReadError::Io {
                file: b.name().to_owned(),
                what: "a page of a mapped file could not be read during a merge".into(),
            });
        }
        self.counters.conflicts.fetch_add(report.conflicts, Ordering::Relaxed);
        Ok(Some(report))
    }

    /// Metric families that lost series to deletions in these blocks and have none left anywhere.
    fn dead_families(&self, stored: &[Arc<StoredBlock>]) -> HashSet<String> {
        let gone = |b: &StoredBlock| -> Result<Vec<String>, ReadError> {
            let Some(rows) = b.deleted_rows()? else { return Ok(Vec::new()) };
            Ok(b.block()?.label_values(METRIC_NAME, Some(rows.gone()))?)
        };
        let mut dead: HashSet<String> = HashSet::new();
        for b in stored {
            match gone(b) {
                Ok(names) => dead.extend(names.iter().flat_map(|n| families_of(n)).map(str::to_owned)),
                Err(_) => return HashSet::new(),
            }
        }
        if dead.is_empty() {
            return dead;
        }
        let snapshot = StoreSnapshot::new(0, &self.view.load(), None);
        let Ok(live) = snapshot.label_values(METRIC_NAME, &[], TimeRange::ALL, usize::MAX) else {
            return HashSet::new();
        };
        for family in live.iter().flat_map(|n| families_of(n)) {
            dead.remove(family);
        }
        dead
    }

    pub(crate) fn remove_files(&self, blocks: &[Arc<StoredBlock>]) {
        if !self.manifest.is_certain() {
            return;
        }
        let _nobody_links_them = self.linking.write();
        for b in blocks {
            if let (Some(cache), Ok(block)) = (&self.cache, b.block()) {
                cache.forget_block(block.uid());
            }
            if let Err(e) = self.disk.remove(&b.entry.local_file()).map_err(io) {
                tracing::warn!(error = %e, "cannot remove the file of a merged block; retrying later");
            }
        }
    }
}

/// Families a metric name may belong to: itself, or what is before a suffix that formats add.
fn families_of(name: &str) -> impl Iterator<Item = &str> {
    const SUFFIXES: [&str; 6] = ["_bucket", "_count", "_sum", "_total", "_created", "_info"];
    std::iter::once(name).chain(SUFFIXES.iter().filter_map(|s| name.strip_suffix(s)))
}
