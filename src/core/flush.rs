//! The head becomes a block, while writes and reads go on.
//!
//! ```text
//! rotate the log ─▶ new head takes writes ─▶ last writes of the old one land ─▶ frozen
//!      floor                                                                     │ write block, sync, rename
//!        └───────────────────────────▶ manifest: block + floor, as one ◀─────────┘
//!                                       └─▶ view: block for head, as one ─▶ log truncated below the floor
//! ```
//!
//! Invariants
//! 1. Every frame below the floor was committed before the rotation returned, so its batch had entered the old head: all
//!    of it is in the block. Frames of the old head above the floor are in the block and, after a crash, replayed: the same
//!    samples twice are one.
//! 2. A flush that fails leaves the frozen head in the view and its log in place, and is tried again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quiver_model::SampleColumn;
use quiver_persistence::disk::file_crc;
use quiver_persistence::turns::end_turn;
use quiver_persistence::{Disk, LogFloor, ManifestEntry, ManifestError};
use quiver_storage::block::{BlockMeta, BlockWriter};
use quiver_storage::codec::{CHUNK_SAMPLES, Chunk};
use quiver_storage::error::StorageError;

use crate::background::TaskKind;
use crate::catalog::{StoredBlock, block_path};
use crate::head::page::Pieces;
use crate::head::{Counters, Head};
use crate::merge::merge_columns;
use crate::place::{Place, Room, Sink};
use crate::report::ReadCounts;
use crate::store::{BLOCK_DIR, Inner};
use crate::{Need, ReadError, TimeRange};

/// A head that is frozen and not yet a published block.
#[derive(Clone)]
pub(crate) struct Frozen {
    head: Arc<Head>,
    floor: LogFloor,
    /// Are frames of it above that floor: such that went on their way before the rotation and into the log after it?
    is_straggled: bool,
    /// Its block, once that is written: what failed then was the manifest, and the file is not written again.
    written: Option<(Arc<StoredBlock>, BlockMeta)>,
}

impl Inner {
    /// Is the head to be flushed, by age of arrival or by memory?
    pub(crate) fn flush_is_due(&self) -> bool {
        if self.frozen.lock().is_some() {
            return true;
        }
        let view = self.view.load();
        let Some(head) = view.heads.first().filter(|h| !h.is_empty()) else { return false };
        let first = head.first_write_ms.load(Ordering::Relaxed);
        // Either way: a clock that was set back must not keep the head from being flushed.
        let age = self.options.clock.now_ms().saturating_sub(first).unsigned_abs();
        (first > 0 && age >= self.options.flush_interval_ms.unsigned_abs())
            || head.bytes() >= head.bytes_max(self.options.head_bytes_max)
    }

    /// Flushes what is in the head now.
    pub(crate) fn flush_now(&self) -> Result<(), ReadError> {
        let _one_at_a_time = self.flushing.lock();
        self.flush_locked(false)
    }

    /// Flushes under the lock; with `always` an empty head, too, so that the log's floor moves above all that was there.
    pub(crate) fn flush_locked(&self, always: bool) -> Result<(), ReadError> {
        // The floor of a rotation would pass over frames that are not read.
        self.progress.is_whole()?;
        // What an earlier attempt left behind comes first: its floor is the lower one.
        let left = self.frozen.lock().clone();
        if let Some(frozen) = left {
            self.publish_frozen(&frozen)?;
        }
        if !always && self.view.load().heads.first().is_none_or(|h| h.is_empty()) {
            return Ok(());
        }
        let floor =
            self.log.rotate().map_err(|e| ReadError::Io { file: crate::store::LOG_DIR.into(), what: e.to_string() })?;
        let head = self.replace_head();
        head.wait_until_frozen();
        let is_straggled = head.is_logged_from(&floor);
        let frozen = Frozen { head, floor, is_straggled, written: None };
        *self.frozen.lock() = Some(frozen.clone());
        self.publish_frozen(&frozen)
    }

    fn publish_frozen(&self, frozen: &Frozen) -> Result<(), ReadError> {
        if frozen.head.is_empty() {
            return self.publish_floor(frozen);
        }
        let (block, meta) = match &frozen.written {
            Some(written) => written.clone(),
            None => self.write_frozen(frozen)?,
        };
        let (entry, path) = (block.entry.clone(), block.entry.file.clone());
        self.foresee_block(&block);
        {
            let _publishing = self.publishing.lock();
            let clock = self.clock_mark();
            let published = self.manifest.edit(|m| {
                m.note_clock(clock);
                m.replace(&[], vec![entry]);
                m.log_floor = frozen.floor.clone();
            });
            published.map_err(manifest_error)?;
            self.is_straggled.store(frozen.is_straggled, Ordering::Release);
            self.change_view(|view| {
                view.heads.retain(|h| !Arc::ptr_eq(h, &frozen.head));
                view.blocks.push(block);
            });
        }
        *self.frozen.lock() = None;
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        tracing::info!(
            block = path,
            series = meta.series,
            samples = meta.samples,
            bytes = meta.bytes,
            "the head is flushed"
        );
        self.truncate_log(&frozen.floor);
        self.interner.sweep();
        Ok(())
    }

    /// Writes the block of a frozen head, and reads it: one that cannot be read must not take the log's place.
    fn write_frozen(&self, frozen: &Frozen) -> Result<(Arc<StoredBlock>, BlockMeta), ReadError> {
        let id = self.next_block.fetch_add(1, Ordering::Relaxed);
        let path = block_path(id);
        if !self.disk.exists(BLOCK_DIR).map_err(io)? {
            self.disk.create_dir(BLOCK_DIR).map_err(io)?;
        }
        let background = &self.background;
        let progress = |done, total| {
            background.progress(TaskKind::Flush, done, total);
            // What is in the head is in the log, too.
            !background.is_stopping()
        };
        let meta = write_head(&self.disk, &frozen.head, &path, &self.counters, &progress)?;
        let entry = entry(id, 0, &path, &meta, self.options.clock.now_ms(), Vec::new());
        let written = (self.prove(entry)?, meta);
        if let Some(frozen) = self.frozen.lock().as_mut() {
            frozen.written = Some(written.clone());
        }
        Ok(written)
    }

    /// Opens a block that was just written, reads it whole, and notes the checksum of its file, which goes where that fails.
    pub(crate) fn prove(&self, mut entry: ManifestEntry) -> Result<Arc<StoredBlock>, ReadError> {
        let path = entry.file.clone();
        let prove = || {
            note_crc(&*self.disk, &mut entry)?;
            let block = Arc::new(StoredBlock::open(&*self.disk, entry, &self.interner));
            let go_on = &mut || {
                end_turn();
                !self.background.is_stopping()
            };
            if !block.block()?.verify_samples(go_on)? {
                return Err(ReadError::stopped(&path));
            }
            Ok(block)
        };
        let proof = prove();
        if proof.is_err() {
            self.discard(&path);
        }
        proof
    }

    /// Removes a block that was not published.
    pub(crate) fn discard(&self, path: &str) {
        if let Err(e) = self.disk.remove(path) {
            tracing::warn!(file = path, error = %e, "cannot remove an unpublished block file; the next start retries");
        }
    }

    /// Nothing came to that head: only the floor moves.
    fn publish_floor(&self, frozen: &Frozen) -> Result<(), ReadError> {
        let publishing = self.publishing.lock();
        self.manifest.edit(|m| m.log_floor = frozen.floor.clone()).map_err(manifest_error)?;
        self.is_straggled.store(frozen.is_straggled, Ordering::Release);
        self.change_view(|view| view.heads.retain(|h| !Arc::ptr_eq(h, &frozen.head)));
        drop(publishing);
        *self.frozen.lock() = None;
        self.truncate_log(&frozen.floor);
        Ok(())
    }

    fn truncate_log(&self, floor: &LogFloor) {
        if let Err(e) = self.log.truncate(floor) {
            tracing::warn!(error = %e, "cannot remove old log segments; retrying later");
        }
    }
}

/// Key of a file's checksum in [`ManifestEntry::extra`]: eight hexadecimal digits of its CRC32C.
pub(crate) const CRC_KEY: &str = "crc32c";

/// Notes the checksum of the whole file in its entry.
pub(crate) fn note_crc(disk: &dyn Disk, entry: &mut ManifestEntry) -> Result<(), ReadError> {
    let (_, crc) = file_crc(disk, &entry.file).map_err(io)?;
    entry.extra.insert(CRC_KEY.to_owned(), format!("{crc:08x}").into());
    Ok(())
}

/// The checksum of the whole file, where the entry has one.
pub(crate) fn crc_of(entry: &ManifestEntry) -> Option<u32> {
    u32::from_str_radix(entry.extra.get(CRC_KEY)?.as_str()?, 16).ok()
}

pub(crate) fn manifest_error(e: ManifestError) -> ReadError {
    ReadError::Io { file: "MANIFEST".into(), what: e.to_string() }
}

/// The manifest's entry of a block.
pub(crate) fn entry(
    id: u64,
    level: u32,
    path: &str,
    meta: &BlockMeta,
    now_ms: i64,
    sources: Vec<u64>,
) -> ManifestEntry {
    ManifestEntry {
        id,
        level,
        min_ts: meta.min_time,
        max_ts: meta.max_time,
        series: u64::from(meta.series),
        samples: meta.samples,
        bytes: meta.bytes,
        file: path.to_owned(),
        created_ms: now_ms,
        sources,
        ..ManifestEntry::default()
    }
}

pub(crate) fn io(e: quiver_persistence::DiskError) -> ReadError {
    ReadError::Io { file: e.path.clone(), what: e.to_string() }
}

/// Writes a frozen head to `path`: sealed chunks as they are, open columns sealed, late samples merged in. It ends early
/// where `progress` says so.
pub(crate) fn write_head(
    disk: &Arc<dyn Disk>,
    head: &Arc<Head>,
    path: &str,
    counters: &Counters,
    progress: &dyn Fn(u64, u64) -> bool,
) -> Result<BlockMeta, ReadError> {
    let mut writer = BlockWriter::create(Arc::clone(disk), path)?;
    let mut pieces = Pieces::default();
    let mut conflicts = 0;
    let ids = head.in_order();
    let total = ids.len() as u64;
    for (done, id) in (0u64..).zip(ids) {
        if !progress(done, total) {
            return Err(ReadError::Io { file: path.to_owned(), what: "the store is shutting down".into() });
        }
        if head.kinds(id) == 0 {
            continue;
        }
        head.collect(id, TimeRange::ALL, &mut pieces);
        let chunks = if pieces.late.is_empty() && pieces.late_sealed.is_empty() {
            let mut chunks: Vec<Chunk> = pieces.sealed.drain(..).collect();
            chunks.extend(writer.encode(&pieces.open, CHUNK_SAMPLES));
            chunks
        } else {
            let (mut out, mut aside) = (SampleColumn::default(), Vec::new());
            let mut counts = ReadCounts::default();
            let (range, need) = (TimeRange::ALL, Need::ALL);
            let (counts, room) = (&mut counts, &mut Room::default());
            let mut sink = Sink { range, need, out: &mut out, aside: &mut aside, counts, condensing: None, room };
            sink.pieces(&pieces)?;
            if !aside.is_empty() {
                aside.push(std::mem::take(&mut out));
                conflicts += merge_columns(&mut aside, &mut out);
            }
            writer.encode(&out, CHUNK_SAMPLES)
        };
        writer.push(head.labels(id).as_ref(), &chunks)?;
    }
    let place = Place::Head(Arc::clone(head), u32::MAX);
    let mut exemplars = place.exemplars(&[], TimeRange::ALL)?;
    exemplars.sort_by(|a, b| a.0.cmp(&b.0));
    for (labels, list) in &exemplars {
        writer.push_exemplars(labels.as_ref(), list);
    }
    for (family, list) in head.metadata(None) {
        writer.push_metadata(&family, &list);
    }
    counters.conflicts.fetch_add(conflicts, Ordering::Relaxed);
    writer.finish().map_err(|e: StorageError| e.into())
}
