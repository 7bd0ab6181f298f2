//! Consistent copies of the data under another name, and what becomes of them.
//!
//! ```text
//! flush ─▶ PARTIAL ─▶ every block linked (or copied) ─▶ manifest without a log ─▶ PARTIAL goes = there
//! <data>/snapshots/NAME/{MANIFEST, MANIFEST.copy, blocks/…}         a data folder of its own
//! ```
//!
//! Invariants
//! 1. A snapshot holds what was acknowledged before it was asked for, deletions included.
//! 2. A folder with the file `PARTIAL`, or with nothing in it, is what a crash left of a snapshot: it goes at the next start.
//! 3. Names are letters, digits, `-`, `_` and dots, so that no name leads out of the folder.

use std::sync::Arc;

use parking_lot::RwLockReadGuard;
use quiver_persistence::disk::file_crc;
use quiver_persistence::manifest::{MANIFEST_COPY_FILE, MANIFEST_FILE, Place};
use quiver_persistence::{Disk, DiskError, LogFloor, Manifest, ManifestEntry, ManifestStore};
use tokio::sync::oneshot;

use crate::background::TaskKind;
use crate::compact::SPARE_BYTES;
use crate::flush::{crc_of, io, manifest_error};
use crate::store::{BLOCK_DIR, Inner};
use crate::{ReadError, SnapshotFile};

/// Folder of the snapshots.
pub(crate) const SNAPSHOT_DIR: &str = "snapshots";
/// The mark of a snapshot that is not there yet.
const PARTIAL_FILE: &str = "PARTIAL";
/// Longest name of a snapshot.
const NAME_BYTES_MAX: usize = 128;

/// A snapshot asked for.
pub(crate) struct SnapshotRequest {
    pub(crate) name: String,
    pub(crate) skip_head: bool,
    pub(crate) answer: oneshot::Sender<Result<(), ReadError>>,
}

/// Checks a name and gives the folder.
pub(crate) fn folder_of(name: &str) -> Result<String, ReadError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') || !name.bytes().all(plain) {
        let what = "invalid snapshot name; use letters, digits, '-', '_' and '.'".to_owned();
        return Err(ReadError::NotFound { file: format!("{name:?}"), what });
    }
    Ok(format!("{SNAPSHOT_DIR}/{name}"))
}

impl Inner {
    /// Serves the snapshots that were asked for.
    pub(crate) fn snapshot_now(&self) -> Result<(), ReadError> {
        let requests = std::mem::take(&mut *self.snapshots.lock());
        let mut failed = None;
        for r in requests {
            let done = self.make_snapshot(&r.name, r.skip_head);
            failed = failed.or(done.clone().err());
            let _ = r.answer.send(done);
        }
        failed.map_or(Ok(()), Err)
    }

    fn make_snapshot(&self, name: &str, skip_head: bool) -> Result<(), ReadError> {
        let folder = folder_of(name)?;
        if !skip_head {
            self.flush_now()?;
        }
        // No file of a block goes while it is linked.
        let linking = self.linking.read();
        let manifest = self.manifest.current();
        let disk = &*self.disk;
        if disk.exists(&folder).map_err(io)? {
            return Err(ReadError::Io { file: folder, what: "a snapshot of this name already exists".into() });
        }
        let remote = manifest.entries.iter().filter(|e| e.place() == Place::Remote);
        let bytes = remote.map(|e| e.bytes).sum::<u64>();
        if bytes > 0 && disk.free_bytes().is_ok_and(|free| free < bytes.saturating_add(SPARE_BYTES)) {
            let what =
                format!("not enough free disk space for {bytes} bytes of blocks that are in the remote store only");
            return Err(ReadError::Io { file: folder, what });
        }
        let made = self.fill_snapshot(&folder, &manifest, linking);
        if made.is_err()
            && let Err(e) = remove_folder(disk, &folder)
        {
            tracing::warn!(folder, error = %e, "cannot remove an unfinished snapshot; the next start retries");
        }
        made
    }

    fn fill_snapshot(
        &self,
        folder: &str,
        manifest: &Manifest,
        linking: RwLockReadGuard<'_, ()>,
    ) -> Result<(), ReadError> {
        let disk = &*self.disk;
        let blocks = format!("{folder}/{BLOCK_DIR}");
        let partial = format!("{folder}/{PARTIAL_FILE}");
        disk.create_dir(folder).map_err(io)?;
        disk.create(&partial).map_err(io)?;
        disk.sync_dir(folder).map_err(io)?;
        disk.create_dir(&blocks).map_err(io)?;
        let total = manifest.entries.len() as u64;
        let copy = |(done, entry): (u64, &ManifestEntry)| {
            self.background.progress(TaskKind::Snapshot, done, total);
            if self.background.is_stopping() {
                return Err(ReadError::Io { file: folder.to_owned(), what: "the store is shutting down".into() });
            }
            self.copy_block(entry, &format!("{folder}/{}", entry.file))
        };
        let (remote, local): (Vec<_>, Vec<_>) = manifest.entries.iter().partition(|e| e.place() == Place::Remote);
        let first = local.len() as u64;
        (0..).zip(local).try_for_each(copy)?;
        // What is fetched may take long, and no local file is needed for it.
        drop(linking);
        (first..).zip(remote).try_for_each(copy)?;
        disk.sync_dir(&blocks).map_err(io)?;
        let store = ManifestStore::open(Arc::clone(&self.disk), folder).map_err(manifest_error)?;
        store
            .edit(|m| {
                *m = Manifest { generation: m.generation, log_floor: LogFloor::default(), ..manifest.clone() };
                m.forget_tier();
            })
            .map_err(manifest_error)?;
        disk.remove(&partial).map_err(io)?;
        disk.sync_dir(folder).map_err(io)?;
        tracing::info!(folder, blocks = total, "snapshot created");
        Ok(())
    }

    /// Files of a snapshot.
    pub(crate) fn snapshot_files(&self, name: &str) -> Result<Vec<SnapshotFile>, ReadError> {
        let folder = self.whole_snapshot(name)?;
        let manifest = ManifestStore::open(Arc::clone(&self.disk), &folder).map_err(manifest_error)?;
        let mut out = Vec::new();
        for e in &manifest.current().entries {
            let crc = match crc_of(e) {
                Some(crc) => crc,
                None => file_crc(&*self.disk, &format!("{folder}/{}", e.file)).map_err(io)?.1,
            };
            out.push(SnapshotFile { path: e.file.clone(), bytes: e.bytes, crc32c: crc });
        }
        let path = MANIFEST_FILE;
        let (bytes, crc32c) = file_crc(&*self.disk, &format!("{folder}/{path}")).map_err(io)?;
        out.push(SnapshotFile { path: path.to_owned(), bytes, crc32c });
        Ok(out)
    }

    /// Bytes of a file of a snapshot.
    pub(crate) fn snapshot_read(&self, name: &str, path: &str, at: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        let folder = self.whole_snapshot(name)?;
        let known = path == MANIFEST_FILE || (path.starts_with(BLOCK_DIR) && path.split('/').count() == 2);
        if !known {
            return Err(ReadError::NotFound { file: path.to_owned(), what: "no such file in the snapshot".into() });
        }
        self.disk.read_at(&format!("{folder}/{path}"), at, len).map_err(|e| {
            if e.is_not_found() { ReadError::NotFound { file: path.to_owned(), what: e.to_string() } } else { io(e) }
        })
    }

    /// Removes a snapshot.
    pub(crate) fn snapshot_remove(&self, name: &str) -> Result<(), ReadError> {
        let folder = self.whole_snapshot(name)?;
        let ours = [MANIFEST_FILE, MANIFEST_COPY_FILE, BLOCK_DIR];
        let mut names = self.disk.list(&folder).map_err(io)?;
        names.extend(self.disk.list_dirs(&folder).map_err(io)?);
        if let Some(other) = names.iter().find(|n| !ours.contains(&n.as_str())) {
            let what = format!("it contains {other:?}, so a server has opened it; remove it by hand");
            return Err(ReadError::Io { file: folder, what });
        }
        // From here on it is none, whatever happens.
        self.disk.create(&format!("{folder}/{PARTIAL_FILE}")).map_err(io)?;
        self.disk.sync_dir(&folder).map_err(io)?;
        remove_folder(&*self.disk, &folder).map_err(io)
    }

    fn whole_snapshot(&self, name: &str) -> Result<String, ReadError> {
        let folder = folder_of(name)?;
        let is_there = self.disk.exists(&format!("{folder}/{}", MANIFEST_FILE));
        let is_partial = self.disk.exists(&format!("{folder}/{PARTIAL_FILE}"));
        if !is_there.map_err(io)? || is_partial.map_err(io)? {
            return Err(ReadError::NotFound { file: folder, what: "no such snapshot".into() });
        }
        Ok(folder)
    }
}

/// Removes a snapshot's folder, its mark last.
fn remove_folder(disk: &dyn Disk, folder: &str) -> Result<(), DiskError> {
    let blocks = format!("{folder}/{BLOCK_DIR}");
    if disk.exists(&blocks)? {
        for name in disk.list(&blocks)? {
            disk.remove(&format!("{blocks}/{name}"))?;
        }
        disk.remove_dir(&blocks)?;
    }
    for name in disk.list(folder)?.iter().filter(|n| *n != PARTIAL_FILE) {
        disk.remove(&format!("{folder}/{name}"))?;
    }
    disk.sync_dir(folder)?;
    if disk.exists(&format!("{folder}/{PARTIAL_FILE}"))? {
        disk.remove(&format!("{folder}/{PARTIAL_FILE}"))?;
    }
    disk.remove_dir(folder)
}

/// Removes what crashes left of snapshots.
pub(crate) fn sweep(disk: &dyn Disk) -> Result<(), DiskError> {
    if !disk.exists(SNAPSHOT_DIR)? {
        return Ok(());
    }
    for name in disk.list_dirs(SNAPSHOT_DIR)? {
        let folder = format!("{SNAPSHOT_DIR}/{name}");
        if disk.exists(&format!("{folder}/{PARTIAL_FILE}"))? {
            tracing::info!(folder, "removed an unfinished snapshot of an earlier run");
            remove_folder(disk, &folder)?;
        } else if disk.list(&folder)?.is_empty() && disk.list_dirs(&folder)?.is_empty() {
            // Before the mark was made, or after it went.
            disk.remove_dir(&folder)?;
        }
    }
    Ok(())
}
