//! Backups in a folder, which is itself a data folder.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use quiver_persistence::disk::{copy_file, file_crc, join};
use quiver_persistence::log::SegmentId;
use quiver_persistence::manifest::{MANIFEST_COPY_FILE, MANIFEST_FILE, MANIFEST_TEMP_FILE};
use quiver_persistence::{Disk, DiskLock, Manifest, ManifestStore};

use super::vault::{Origin, Vault};
use super::{BACKUP_KEY, BackupError, BackupFile, COPY_THROUGH_IT, is_still, lock_if_possible, need_data};
use crate::foreign::is_harmless;
use crate::options::lock;
use crate::store::{BLOCK_DIR, LOG_DIR};

/// A folder that holds a backup or will, locked.
pub(super) struct FolderVault {
    disk: Arc<dyn Disk>,
    store: ManifestStore,
    _lock: DiskLock,
}

impl FolderVault {
    /// Takes an empty folder or that of a backup; one of anything else is refused and stays as it is.
    pub(super) fn open(disk: Arc<dyn Disk>) -> Result<Self, BackupError> {
        let ours = ["LOCK", MANIFEST_FILE, MANIFEST_COPY_FILE, MANIFEST_TEMP_FILE, BLOCK_DIR];
        let mut names = disk.list("")?;
        names.extend(disk.list_dirs("")?);
        let store = ManifestStore::open(Arc::clone(&disk), "")?;
        let manifest = store.current();
        let is_backup = manifest.extra.contains_key(BACKUP_KEY) || manifest.generation == 0;
        if let Some(strange) = names.iter().find(|n| !ours.contains(&n.as_str()) && !is_harmless(n)) {
            let why = format!("{} is not a backup folder: it contains {strange:?}", disk.name());
            return Err(BackupError::Refused(why));
        }
        if !is_backup {
            return Err(BackupError::Refused(format!("{} is a data folder, not a backup", disk.name())));
        }
        let lock = lock(&*disk)?;
        disk.create_dir(BLOCK_DIR)?;
        Ok(Self { disk, store, _lock: lock })
    }
}

impl Vault for FolderVault {
    fn name(&self) -> String {
        self.disk.name()
    }

    fn manifest(&self) -> Arc<Manifest> {
        self.store.current()
    }

    fn block_len(&self, path: &str) -> Result<Option<u64>, BackupError> {
        match self.disk.len(path) {
            Ok(len) => Ok(Some(len)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn block_crc(&self, path: &str) -> Result<(u64, u32), BackupError> {
        Ok(file_crc(&*self.disk, path)?)
    }

    fn scratch(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    fn keep(&self, scratch: &str, to: &str) -> Result<(), BackupError> {
        Ok(self.disk.rename(scratch, to)?)
    }

    fn copy(&self, source: &dyn Disk, file: &BackupFile, progress: &AtomicU64) -> Result<(), BackupError> {
        copy_file(source, &file.from, &*self.disk, &file.to, Some((file.bytes, file.crc32c)), progress)?;
        Ok(())
    }

    fn publish(&self, manifest: Manifest) -> Result<u64, BackupError> {
        self.disk.sync_dir(BLOCK_DIR)?;
        self.store.edit(|m| *m = Manifest { generation: m.generation, ..manifest })?;
        let current = self.store.current();
        let named: BTreeSet<&str> = current.entries.iter().map(|e| e.file.as_str()).collect();
        let mut gone = 0;
        // Blocks of the backup before, and what attempts that were cut off have left.
        for name in self.disk.list(BLOCK_DIR)? {
            let path = join(BLOCK_DIR, &name);
            let is_ours = [".block", ".copy", ".head", ".tmp"].iter().any(|end| name.ends_with(end));
            if is_ours && !named.contains(path.as_str()) {
                self.disk.remove(&path)?;
                gone += u64::from(name.ends_with(".block"));
            }
        }
        self.disk.sync_dir(BLOCK_DIR)?;
        Ok(gone)
    }
}

/// A folder to restore from: a backup, a snapshot or a data folder.
pub(super) struct FolderOrigin {
    disk: Arc<dyn Disk>,
    manifest: Arc<Manifest>,
    _lock: Option<DiskLock>,
}

impl FolderOrigin {
    pub(super) fn open(disk: Arc<dyn Disk>) -> Result<Self, BackupError> {
        need_data(&disk, "holds no backup")?;
        let lock = lock_if_possible(&*disk)?;
        let manifest = ManifestStore::open(Arc::clone(&disk), "")?.current();
        Ok(Self { disk, manifest, _lock: lock })
    }
}

impl Origin for FolderOrigin {
    fn name(&self) -> String {
        self.disk.name()
    }

    fn manifest(&self) -> Arc<Manifest> {
        Arc::clone(&self.manifest)
    }

    fn segments(&self) -> Result<Vec<(String, u64)>, BackupError> {
        if !self.disk.exists(LOG_DIR)? {
            return Ok(Vec::new());
        }
        let names = self.disk.list(LOG_DIR)?.into_iter().filter(|n| SegmentId::parse(n).is_some());
        names.map(|n| join(LOG_DIR, &n)).map(|path| Ok((path.clone(), self.disk.len(&path)?))).collect()
    }

    fn is_still(&self) -> Result<(), BackupError> {
        is_still(&self.disk, &self.manifest, COPY_THROUGH_IT)
    }

    fn copy(
        &self,
        path: &str,
        target: &dyn Disk,
        want: Option<(u64, u32)>,
        progress: &AtomicU64,
    ) -> Result<(), BackupError> {
        copy_file(&*self.disk, path, target, path, want, progress)?;
        Ok(())
    }
}
