//! Backups, in a folder or in a remote store, and the way back.
//!
//! ```text
//! plan     the source's manifest, blocks renamed to ID-CRC.block: what is there under that name is not copied again
//! copy     each missing block, checked against length and CRC32C on its way
//! publish  the manifest, as one: before it the backup is the one before, after it the new one
//! prune    blocks that only the backup before named
//! ```
//!
//! Where it goes is a [`Vault`]: a folder, which then is itself a data folder, or a prefix of a remote store.
//!
//! Invariants
//! 1. Whatever is interrupted leaves the backup of before, whole.
//! 2. A place that is not that of a backup is not written to; a restore deletes nothing.
//! 3. A backup is brought up to date from its own folder only: from one that began anew or is another it is refused.

mod folder;
mod remote;
mod vault;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use quiver_persistence::disk::{LOCK_FILE, file_crc};
use quiver_persistence::manifest::MANIFEST_FILE;
use quiver_persistence::remote::Objects;
use quiver_persistence::{Disk, DiskErrorKind, DiskFile, DiskLock, LogFloor, Manifest, ManifestStore, RealDisk};

use crate::catalog::QUARANTINE_DIR;
use crate::flush::{crc_of, entry, note_crc, write_head};
use crate::foreign::{Folder, REMOTE, is_harmless, judge, listed, refuse_foreign};
use crate::offline::OfflineStore;
use crate::options::{OpenError, lock};
use crate::store::{BLOCK_DIR, LOG_DIR};

use folder::{FolderOrigin, FolderVault};
use remote::{RemoteOrigin, RemoteVault};
use vault::Origin;

pub use vault::Vault;

/// Key in the manifest's `extra` that says: a backup.
const BACKUP_KEY: &str = "backup";

/// Why a backup or a restore did not come about.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BackupError {
    /// A place cannot be used as it is.
    #[error("{0}")]
    Refused(String),
    /// A folder does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The disk said no, or bytes are not those that were written.
    #[error("{0}")]
    Io(String),
}

impl From<quiver_persistence::DiskError> for BackupError {
    fn from(e: quiver_persistence::DiskError) -> Self {
        BackupError::Io(e.to_string())
    }
}

impl From<quiver_persistence::ManifestError> for BackupError {
    fn from(e: quiver_persistence::ManifestError) -> Self {
        BackupError::Io(e.to_string())
    }
}

impl From<crate::ReadError> for BackupError {
    fn from(e: crate::ReadError) -> Self {
        BackupError::Io(e.to_string())
    }
}

/// A block of the source and its place in the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupFile {
    /// Path in the source.
    pub from: String,
    /// Path in the backup.
    pub to: String,
    /// Its length.
    pub bytes: u64,
    /// CRC32C of all of it.
    pub crc32c: u32,
    /// It is there already.
    pub is_there: bool,
}

/// What a backup did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// Blocks in it.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks copied now.
    pub copied: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Blocks written now from what is in the log of a data folder.
    pub written: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Blocks of the backup before that went.
    pub pruned: u64,
}

/// Where a backup is made, held meanwhile.
pub struct Backup {
    vault: Box<dyn Vault>,
}

impl Backup {
    /// Opens the folder of a backup, made if it is missing. A folder of anything else is refused.
    pub fn open(path: &Path) -> Result<Self, BackupError> {
        Self::on(Arc::new(RealDisk::create(path)?))
    }

    /// [`Backup::open`] on any disk.
    pub fn on(disk: Arc<dyn Disk>) -> Result<Self, BackupError> {
        Ok(Self { vault: Box::new(FolderVault::open(disk)?) })
    }

    /// Opens a prefix of a remote store; one of anything but backups is refused. Blocks that do not come from a disk are put
    /// together on `scratch`, one at a time.
    pub fn remote(objects: Arc<dyn Objects>, scratch: Arc<dyn Disk>, now_ms: i64) -> Result<Self, BackupError> {
        Ok(Self { vault: Box::new(RemoteVault::open(objects, scratch, now_ms)?) })
    }

    /// What to call it in messages.
    pub fn name(&self) -> String {
        self.vault.name()
    }

    /// Files for the blocks of a source, whose manifest names their checksums (`crc` gives those it does not). A source that
    /// is not the folder of the backup that is there is refused.
    pub fn plan(
        &self,
        source: &Manifest,
        crc: impl Fn(&str) -> Result<u32, BackupError>,
    ) -> Result<Vec<BackupFile>, BackupError> {
        self.refuse_another(source)?;
        let mut out = Vec::with_capacity(source.entries.len());
        for e in &source.entries {
            let crc32c = match crc_of(e) {
                Some(crc) => crc,
                None => crc(&e.file)?,
            };
            let to = format!("{BLOCK_DIR}/{:016}-{crc32c:08x}.block", e.id);
            let is_there = self.vault.block_len(&to)? == Some(e.bytes);
            out.push(BackupFile { from: e.file.clone(), to, bytes: e.bytes, crc32c, is_there });
        }
        Ok(out)
    }

    /// Blocks of the backup before go, so one of another folder would be gone: that of a disk that was lost, when a server
    /// has begun anew in its place.
    fn refuse_another(&self, source: &Manifest) -> Result<(), BackupError> {
        let before = self.vault.manifest();
        // What is in the log may be in the backup as a block, whose number the folder itself has yet to give.
        if source.id_next.max(1).saturating_add(1) < before.id_next {
            return Err(BackupError::Refused(format!(
                "{} contains a newer backup, up to block {}; this folder has reached block {}. It was created again, restored to an \
                 older state, or is a different folder. A backup to this place would delete newer blocks: choose another --out",
                self.name(),
                before.id_next.saturating_sub(1),
                source.id_next.saturating_sub(1)
            )));
        }
        let made_ms = before.extra.get(BACKUP_KEY).and_then(|ms| ms.as_i64());
        for e in &source.entries {
            let Some(there) = before.entry(e.id) else { continue };
            // The log as a block was made with the backup: the folder gave its number to another one later.
            let is_log = made_ms == Some(there.created_ms);
            let is_other = crc_of(e).zip(crc_of(there)).is_some_and(|(new, old)| new != old);
            if is_other && !is_log {
                return Err(BackupError::Refused(format!(
                    "{} contains the backup of another folder: its block {} differs from this folder's. A backup to this place would \
                     delete it: choose another --out",
                    self.name(),
                    e.id
                )));
            }
        }
        Ok(())
    }

    /// Reads the blocks that are there once more; those that are not what they were count as missing.
    pub fn verify(&self, files: &mut [BackupFile]) -> Result<(), BackupError> {
        for f in files.iter_mut().filter(|f| f.is_there) {
            f.is_there = self.vault.block_crc(&f.to)? == (f.bytes, f.crc32c);
        }
        Ok(())
    }

    /// Takes a block piece by piece.
    pub fn receive(&self, file: &BackupFile) -> Result<Receiving<'_>, BackupError> {
        let temporary = format!("{}.copy", file.to);
        let out = self.vault.scratch().create(&temporary)?;
        let digest = quiver_persistence::Crc32c::default();
        Ok(Receiving { vault: &*self.vault, file: file.clone(), temporary, out, digest, bytes: 0, done: false })
    }

    /// Publishes the backup: `source` with its blocks under their names here. Blocks of the backup before go.
    pub fn publish(&self, source: &Manifest, files: &[BackupFile], now_ms: i64) -> Result<BackupReport, BackupError> {
        let mut manifest = source.clone();
        let mut report = BackupReport::default();
        for (e, f) in manifest.entries.iter_mut().zip(files) {
            e.file = f.to.clone();
            e.extra.insert(crate::flush::CRC_KEY.to_owned(), format!("{:08x}", f.crc32c).into());
            report.blocks += 1;
            report.bytes += f.bytes;
            if !f.is_there {
                report.copied += 1;
                report.copied_bytes += f.bytes;
            }
        }
        manifest.log_floor = LogFloor::default();
        manifest.forget_tier();
        manifest.extra.insert(BACKUP_KEY.to_owned(), now_ms.into());
        report.pruned = self.vault.publish(manifest)?;
        Ok(report)
    }

    /// Backs up a data folder that no server has open: its blocks, and what is in its log as a block more.
    pub fn of_folder(
        &self,
        source: &Path,
        verify: bool,
        now_ms: i64,
        progress: &AtomicU64,
        total: &dyn Fn(u64),
    ) -> Result<BackupReport, BackupError> {
        self.of_disk(Arc::new(RealDisk::open(source)?), verify, now_ms, progress, total)
    }

    /// [`Backup::of_folder`] on any disk.
    pub fn of_disk(
        &self,
        source: Arc<dyn Disk>,
        verify: bool,
        now_ms: i64,
        progress: &AtomicU64,
        total: &dyn Fn(u64),
    ) -> Result<BackupReport, BackupError> {
        need_data(&source, "is not a data folder")?;
        let _lock = lock_if_possible(&*source)?;
        let store = ManifestStore::open(Arc::clone(&source), "")?;
        refuse_remote(&store.current(), &source.name())?;
        let offline = OfflineStore::data_folder(Arc::clone(&source))?;
        is_still(&source, &store.current(), COPY_THROUGH_IT)?;
        if let Some(first) = offline.replay_report().first_damage() {
            // What an earlier backup has of the log is whole: it must not give way to less.
            return Err(BackupError::Refused(format!(
                "the log of {} is damaged ({first}), and a backup would lack that: start the server on it, which sets aside what \
                 cannot be read, and make the backup through the server, to a new place",
                source.name()
            )));
        }
        let mut manifest = (*store.current()).clone();
        let crc = |file: &str| Ok(file_crc(&*source, file)?.1);
        let mut files = self.plan(&manifest, crc)?;
        let mut written = None;
        if let Some(head) = offline.head().filter(|h| !h.is_empty()) {
            let id = manifest.id_next.max(1);
            let (scratch, path) = (self.vault.scratch(), format!("{BLOCK_DIR}/{id:016}.head"));
            let meta = write_head(scratch, head, &path, &Default::default(), &|_, _| true)?;
            let mut entry = entry(id, 0, &path, &meta, now_ms, Vec::new());
            note_crc(&**scratch, &mut entry)?;
            let crc32c = crc_of(&entry).unwrap_or(0);
            let to = format!("{BLOCK_DIR}/{id:016}-{crc32c:08x}.block");
            self.vault.keep(&path, &to)?;
            files.push(BackupFile { from: to.clone(), to, bytes: entry.bytes, crc32c, is_there: true });
            written = Some(entry.bytes);
            manifest.replace(&[], vec![entry]);
        }
        if verify {
            self.verify(&mut files)?;
        }
        total(files.iter().filter(|f| !f.is_there).map(|f| f.bytes).sum());
        for f in files.iter().filter(|f| !f.is_there) {
            self.vault.copy(&*source, f, progress)?;
        }
        let report = self.publish(&manifest, &files, now_ms)?;
        Ok(BackupReport { written: written.is_some().into(), written_bytes: written.unwrap_or(0), ..report })
    }
}

/// A block on its way into a backup.
pub struct Receiving<'a> {
    vault: &'a dyn Vault,
    file: BackupFile,
    temporary: String,
    out: Box<dyn DiskFile>,
    digest: quiver_persistence::Crc32c,
    bytes: u64,
    done: bool,
}

impl Receiving<'_> {
    /// The next piece.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), BackupError> {
        self.digest.update(piece);
        self.bytes += piece.len() as u64;
        Ok(self.out.write_all(piece)?)
    }

    /// The end: what came must be what was announced.
    pub fn finish(mut self) -> Result<(), BackupError> {
        if (self.bytes, self.digest.value()) != (self.file.bytes, self.file.crc32c) {
            return Err(BackupError::Io(format!("{} differs from what the server announced", self.file.from)));
        }
        self.out.sync_data()?;
        self.vault.keep(&self.temporary, &self.file.to)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        if !self.done {
            // Its name says what it is; the next attempt writes over it.
            let _ = self.vault.scratch().remove(&self.temporary);
        }
    }
}

/// Refuses a folder in which there is no data of ours, before a lock file is written into it; `what` says what it then is not.
pub(crate) fn need_data(disk: &Arc<dyn Disk>, what: &str) -> Result<(), BackupError> {
    let why = match judge(disk)? {
        Folder::Ours => return Ok(()),
        Folder::Empty if disk.exists(MANIFEST_FILE)? || disk.exists(LOG_DIR)? => return Ok(()),
        Folder::Empty => "it has no manifest and no log".to_owned(),
        Folder::Remote => return Err(BackupError::Refused(format!("{} {REMOTE}", disk.name()))),
        Folder::Foreign(found) => format!("it holds {}, which Quiver did not write", listed(&found)),
    };
    Err(BackupError::Refused(format!("{} {what}: {why}", disk.name())))
}

/// Takes the lock of a folder that is read; a folder that cannot be written to has none.
pub(crate) fn lock_if_possible(disk: &dyn Disk) -> Result<Option<DiskLock>, BackupError> {
    match lock(disk) {
        Ok(lock) => Ok(Some(lock)),
        Err(OpenError::Disk(e)) if e.kind == DiskErrorKind::Denied => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What to do about a folder that a server changes while it is copied.
pub(crate) const COPY_THROUGH_IT: &str = "make the copy through it (quiver snapshot --url)";

/// Refuses a folder whose manifest has changed since `manifest` was read. Where the folder cannot be locked a server may run on it
/// that this process must not write to, and what it flushed meanwhile would be neither in the blocks nor in the log that is left.
pub(crate) fn is_still(source: &Arc<dyn Disk>, manifest: &Manifest, advice: &str) -> Result<(), BackupError> {
    let now = ManifestStore::open(Arc::clone(source), "")?.current();
    if now.generation == manifest.generation {
        return Ok(());
    }
    Err(BackupError::Refused(format!("a server changed {} during the copy: {advice}", source.name())))
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Blocks restored.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where that went which was in the folder before.
    pub set_aside: Option<String>,
}

/// Copies a backup, a snapshot or a data folder to `target`, which has to be empty; with `aside` what is there is moved to
/// its quarantine folder.
pub fn restore(
    from: &Path,
    target: &Path,
    aside: bool,
    progress: &AtomicU64,
    total: &dyn Fn(u64),
) -> Result<RestoreReport, BackupError> {
    let source = FolderOrigin::open(Arc::new(RealDisk::open(from)?))?;
    restore_from(&source, Arc::new(RealDisk::create(target)?), aside, progress, total)
}

/// [`restore`] on any disks.
pub fn restore_on(
    source: Arc<dyn Disk>,
    target: Arc<dyn Disk>,
    aside: bool,
    progress: &AtomicU64,
    total: &dyn Fn(u64),
) -> Result<RestoreReport, BackupError> {
    restore_from(&FolderOrigin::open(source)?, target, aside, progress, total)
}

/// [`restore`] of a backup in a remote store.
pub fn restore_remote(
    objects: Arc<dyn Objects>,
    target: Arc<dyn Disk>,
    aside: bool,
    progress: &AtomicU64,
    total: &dyn Fn(u64),
) -> Result<RestoreReport, BackupError> {
    restore_from(&RemoteOrigin::open(objects)?, target, aside, progress, total)
}

fn restore_from(
    source: &dyn Origin,
    target: Arc<dyn Disk>,
    aside: bool,
    progress: &AtomicU64,
    total: &dyn Fn(u64),
) -> Result<RestoreReport, BackupError> {
    let manifest = source.manifest();
    if manifest.generation == 0 {
        return Err(BackupError::Refused(format!("{} contains no backup: the manifest is missing", source.name())));
    }
    refuse_remote(&manifest, &source.name())?;
    let segments = source.segments()?;
    refuse_foreign(&target)?;
    if !aside {
        refuse_full(&*target)?;
    }
    let _writing = lock(&*target)?;
    let set_aside = make_room(&*target)?;
    let blocks = manifest.entries.iter().map(|e| e.bytes);
    total(blocks.chain(segments.iter().map(|s| s.1)).sum());
    target.create_dir(BLOCK_DIR)?;
    let mut report = RestoreReport { set_aside, ..RestoreReport::default() };
    for e in &manifest.entries {
        let want = crc_of(e).map(|crc| (e.bytes, crc));
        source.copy(&e.file, &*target, want, progress)?;
        report.blocks += 1;
        report.bytes += e.bytes;
    }
    target.sync_dir(BLOCK_DIR)?;
    if !segments.is_empty() {
        target.create_dir(LOG_DIR)?;
        for (path, _) in &segments {
            source.copy(path, &*target, None, progress)?;
        }
        target.sync_dir(LOG_DIR)?;
    }
    source.is_still()?;
    let store = ManifestStore::open(Arc::clone(&target), "")?;
    store.edit(|m| {
        *m = Manifest { generation: m.generation, ..(*manifest).clone() };
        m.extra.remove(BACKUP_KEY);
        m.forget_tier();
    })?;
    Ok(report)
}

/// Refuses a folder whose blocks are not all in it.
fn refuse_remote(manifest: &Manifest, name: &str) -> Result<(), BackupError> {
    match manifest.remote_entries() {
        0 => Ok(()),
        n => Err(BackupError::Refused(format!(
            "{n} blocks of {name} are in its remote store alone: make the copy from the running server, which has both"
        ))),
    }
}

/// What a folder holds that a restore has to make room for.
fn in_the_way(disk: &dyn Disk) -> Result<Vec<String>, BackupError> {
    let mut names = disk.list("")?;
    names.extend(disk.list_dirs("")?);
    names.retain(|n| n != LOCK_FILE && n != QUARANTINE_DIR && !is_harmless(n));
    Ok(names)
}

/// Refuses a folder with anything in it.
fn refuse_full(disk: &dyn Disk) -> Result<(), BackupError> {
    match in_the_way(disk)?.first() {
        None => Ok(()),
        Some(first) => Err(BackupError::Refused(format!(
            "{} is not empty (it holds {first:?}): restore to another folder, or with --force-aside, which moves what is \
             there to {QUARANTINE_DIR}",
            disk.name()
        ))),
    }
}

/// Moves aside what is in a folder.
fn make_room(disk: &dyn Disk) -> Result<Option<String>, BackupError> {
    let mut names = in_the_way(disk)?;
    if names.is_empty() {
        return Ok(None);
    }
    let mut number = 1;
    while disk.exists(&format!("{QUARANTINE_DIR}/before-restore-{number}"))? {
        number += 1;
    }
    let folder = format!("{QUARANTINE_DIR}/before-restore-{number}");
    disk.create_dir(&folder)?;
    // The manifest goes first: without it nothing that is left counts as data.
    names.sort_by_key(|n| !n.starts_with(MANIFEST_FILE));
    for name in names {
        disk.rename(&name, &format!("{folder}/{name}"))?;
    }
    disk.sync_dir(&folder)?;
    disk.sync_dir("")?;
    Ok(Some(folder))
}
