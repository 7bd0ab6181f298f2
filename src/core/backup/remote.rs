//! Backups in a remote store: blocks as objects, and catalogs, of which the newest counts.
//!
//! ```text
//! blocks/0000000000000007-1a2b3c4d.block    written once, never changed
//! catalog/00000000000000000003.json         the backup: a manifest, made only where there is none of that number
//! ```
//!
//! There is no lock that would outlive who holds it. Two backups made at once both begin from generation N; one publishes
//! N+1, the other one is told so and has changed nothing. Blocks that no catalog has named yet are left alone for
//! [`ORPHAN_MS`], since they may be those of a backup under way; what the backup before named goes at once: ids of blocks
//! only grow, so no later backup of the same source wants it back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quiver_persistence::disk::{DiskRead, file_crc, join};
use quiver_persistence::remote::{CatalogError, Catalogs, ObjectError, ObjectInfo, Objects, RemoteIo};
use quiver_persistence::{Crc32c, Disk, Manifest};

use super::vault::{Origin, Vault};
use super::{BACKUP_KEY, BackupError, BackupFile};
use crate::store::BLOCK_DIR;

/// Bytes read at once.
const PIECE_BYTES: u64 = 8 << 20;
/// Blocks that no backup names are removed when they are this old, ms.
const ORPHAN_MS: i64 = 24 * 3600 * 1000;

impl From<ObjectError> for BackupError {
    fn from(e: ObjectError) -> Self {
        BackupError::Io(e.to_string())
    }
}

impl From<CatalogError> for BackupError {
    fn from(e: CatalogError) -> Self {
        match e {
            CatalogError::Taken { store, .. } => BackupError::Refused(format!(
                "another backup was written to {store} at the same time; that one is kept, this one was not published"
            )),
            other => BackupError::Io(other.to_string()),
        }
    }
}

fn connect(objects: Arc<dyn Objects>) -> Result<Arc<RemoteIo>, BackupError> {
    let io = RemoteIo::new(objects).map_err(|e| BackupError::Io(format!("cannot start threads: {e}")))?;
    Ok(Arc::new(io))
}

/// Reads an object from its beginning to its end, piece by piece: its length and CRC32C.
fn read_object(
    io: &RemoteIo,
    key: &str,
    bytes: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<(u64, u32), BackupError> {
    let mut digest = Crc32c::default();
    let mut at = 0;
    while at < bytes {
        let range = at..bytes.min(at + PIECE_BYTES);
        at = range.end;
        let key = key.to_owned();
        let piece = io.wait(move |o| async move { o.get(&key, range).await })?;
        digest.update(&piece);
        take(&piece)?;
    }
    Ok((bytes, digest.value()))
}

/// A prefix of a store that holds a backup or will.
pub(super) struct RemoteVault {
    io: Arc<RemoteIo>,
    catalogs: Catalogs,
    manifest: Arc<Manifest>,
    /// Blocks that were there in the beginning.
    listed: BTreeMap<String, ObjectInfo>,
    scratch: Arc<dyn Disk>,
    now_ms: i64,
}

impl RemoteVault {
    /// Takes an empty prefix or that of a backup; one of anything else is refused and stays as it is.
    pub(super) fn open(objects: Arc<dyn Objects>, scratch: Arc<dyn Disk>, now_ms: i64) -> Result<Self, BackupError> {
        let io = connect(objects)?;
        let catalogs = Catalogs::new(Arc::clone(&io));
        let manifest = catalogs.latest(0)?.map_or_else(Manifest::default, |p| p.manifest);
        if manifest.generation > 0 && !manifest.extra.contains_key(BACKUP_KEY) {
            let why = format!("a server stores its blocks in {}; choose another prefix for the backup", io.name());
            return Err(BackupError::Refused(why));
        }
        let blocks = io.wait(|o| async move { o.list(BLOCK_DIR).await })?;
        if manifest.generation == 0 && blocks.iter().any(|b| !is_block(&b.key)) {
            return Err(BackupError::Refused(format!("{} contains objects that are not a backup", io.name())));
        }
        scratch.create_dir(BLOCK_DIR)?;
        let listed = blocks.into_iter().map(|b| (b.key.clone(), b)).collect();
        Ok(Self { io, catalogs, manifest: Arc::new(manifest), listed, scratch, now_ms })
    }

    fn upload(&self, source: Arc<dyn DiskRead>, to: &str) -> Result<(), BackupError> {
        let key = to.to_owned();
        Ok(self.io.wait(move |o| async move { o.upload(&key, source).await })?)
    }
}

/// Is this the name of a block in a backup?
fn is_block(key: &str) -> bool {
    let name = key.strip_prefix(BLOCK_DIR).and_then(|k| k.strip_prefix('/')).and_then(|k| k.strip_suffix(".block"));
    let parts = name.and_then(|n| n.split_once('-'));
    parts.is_some_and(|(id, crc)| {
        id.len() == 16
            && id.bytes().all(|b| b.is_ascii_digit())
            && crc.len() == 8
            && u32::from_str_radix(crc, 16).is_ok()
    })
}

impl Vault for RemoteVault {
    fn name(&self) -> String {
        self.io.name()
    }

    fn manifest(&self) -> Arc<Manifest> {
        Arc::clone(&self.manifest)
    }

    fn block_len(&self, path: &str) -> Result<Option<u64>, BackupError> {
        // What the backup of now does not name may go any moment: it is written again, which makes it young.
        let is_named = self.manifest.entries.iter().any(|e| e.file == path);
        Ok(self.listed.get(path).filter(|_| is_named).map(|info| info.bytes))
    }

    fn block_crc(&self, path: &str) -> Result<(u64, u32), BackupError> {
        let key = path.to_owned();
        let info = self.io.wait(move |o| async move { o.head(&key).await })?;
        read_object(&self.io, path, info.bytes, |_| Ok(()))
    }

    fn scratch(&self) -> &Arc<dyn Disk> {
        &self.scratch
    }

    fn keep(&self, scratch: &str, to: &str) -> Result<(), BackupError> {
        self.upload(self.scratch.open_read(scratch)?, to)?;
        Ok(self.scratch.remove(scratch)?)
    }

    fn copy(&self, source: &dyn Disk, file: &BackupFile, progress: &AtomicU64) -> Result<(), BackupError> {
        // Read twice: the store takes the bytes with checksums of its own, this one says that they are the right ones.
        let found = file_crc(source, &file.from)?;
        if found != (file.bytes, file.crc32c) {
            let why = format!("{} in {} has changed since it was written", file.from, source.name());
            return Err(BackupError::Io(why));
        }
        self.upload(source.open_read(&file.from)?, &file.to)?;
        progress.fetch_add(file.bytes, Ordering::Relaxed);
        Ok(())
    }

    fn publish(&self, manifest: Manifest) -> Result<u64, BackupError> {
        let manifest = Manifest { generation: self.manifest.generation + 1, ..manifest };
        self.catalogs.publish(&manifest)?;
        if manifest.generation == 1 {
            self.catalogs.prove_conditional(&manifest).or_else(|e| match e {
                CatalogError::NotConditional(store) => {
                    tracing::warn!(store, "the object store ignores If-None-Match; run one backup at a time");
                    Ok(())
                }
                other => Err(other),
            })?;
        }
        let named: BTreeSet<&str> = manifest.entries.iter().map(|e| e.file.as_str()).collect();
        let before: BTreeSet<&str> = self.manifest.entries.iter().map(|e| e.file.as_str()).collect();
        let is_orphan = |b: &ObjectInfo| b.modified_ms > 0 && self.now_ms.saturating_sub(b.modified_ms) > ORPHAN_MS;
        let mut gone = 0;
        for block in self.listed.values().filter(|b| is_block(&b.key) && !named.contains(b.key.as_str())) {
            if before.contains(block.key.as_str()) || is_orphan(block) {
                let key = block.key.clone();
                self.io.wait(move |o| async move { o.delete(&key).await })?;
                gone += 1;
            }
        }
        self.catalogs.prune(manifest.generation)?;
        Ok(gone)
    }
}

/// A remote backup to restore from.
pub(super) struct RemoteOrigin {
    io: Arc<RemoteIo>,
    manifest: Arc<Manifest>,
}

impl RemoteOrigin {
    pub(super) fn open(objects: Arc<dyn Objects>) -> Result<Self, BackupError> {
        let io = connect(objects)?;
        let manifest = Catalogs::new(Arc::clone(&io)).latest(0)?.map_or_else(Manifest::default, |p| p.manifest);
        if manifest.generation > 0 && !manifest.extra.contains_key(BACKUP_KEY) {
            return Err(BackupError::Refused(format!(
                "{} is no backup but where a server keeps its blocks: start a server on an empty data folder with \
                 --tier-url and --tier-takeover on",
                io.name()
            )));
        }
        Ok(Self { io, manifest: Arc::new(manifest) })
    }
}

impl Origin for RemoteOrigin {
    fn name(&self) -> String {
        self.io.name()
    }

    fn manifest(&self) -> Arc<Manifest> {
        Arc::clone(&self.manifest)
    }

    fn segments(&self) -> Result<Vec<(String, u64)>, BackupError> {
        Ok(Vec::new())
    }

    fn copy(
        &self,
        path: &str,
        target: &dyn Disk,
        want: Option<(u64, u32)>,
        progress: &AtomicU64,
    ) -> Result<(), BackupError> {
        let (bytes, crc32c) = want.ok_or_else(|| BackupError::Io(format!("the backup has no checksum of {path}")))?;
        let temporary = join(BLOCK_DIR, "restored.copy");
        let mut file = target.create(&temporary)?;
        let found = read_object(&self.io, path, bytes, |piece| {
            file.write_all(piece)?;
            progress.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok(())
        });
        let done = found.and_then(|found| {
            if found != (bytes, crc32c) {
                let why = format!("{path} in {} has changed since it was written", self.io.name());
                return Err(BackupError::Io(why));
            }
            file.sync_data()?;
            Ok(target.rename(&temporary, path)?)
        });
        if done.is_err() {
            let _ = target.remove(&temporary);
        }
        done
    }
}
