//! A folder of the machine. The only place in the project that opens files.
//!
//! Invariants
//! 1. `sync_data` is `fdatasync`, `sync_dir` is `fsync` of the folder; neither is ever retried after an error.
//! 2. Mapped files are published and immutable; a page that the medium does not give marks its mapping
//!    ([`Mapped::is_lost`]) and ends nothing.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    Disk, DiskError, DiskErrorKind, DiskFile, DiskLock, DiskOp, DiskRead, LOCK_FILE, Mapped, check_path, join, parent,
};

/// The process that a lock file names. For messages only: an unreadable holder is an unnamed one.
fn holder_in(lock: &mut File) -> Option<u32> {
    let mut holder = String::new();
    let _ = Read::by_ref(lock).take(32).read_to_string(&mut holder);
    holder.trim().parse().ok()
}

/// Files of a folder.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    map_files: AtomicBool,
}

impl RealDisk {
    /// The disk under `root`, which is made if it is missing.
    pub fn create(root: impl AsRef<Path>) -> Result<Self, DiskError> {
        let root = root.as_ref();
        let name = root.display().to_string();
        if root.metadata().is_ok_and(|meta| !meta.is_dir()) {
            return Err(DiskError::new(DiskOp::Open, &name, DiskErrorKind::NotFound, "it is a file, not a folder"));
        }
        // The root's own name in any case: an earlier process may have ended before it synced it.
        let made = root.ancestors().skip(1).take_while(|p| !p.as_os_str().is_empty() && !p.is_dir());
        let named: Vec<&Path> = std::iter::once(root).chain(made).collect();
        fs::create_dir_all(root).map_err(|e| DiskError::from_io(DiskOp::CreateDir, &name, &e))?;
        for above in named.into_iter().filter_map(Path::parent) {
            let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            match File::open(above) {
                // Not ours to open, so it was not made by us.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                opened => sync_opened(opened, &name)?,
            }
        }
        Self::open(root)
    }

    /// The disk under an existing folder; nothing is written.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, DiskError> {
        let root = root.as_ref();
        let name = root.display().to_string();
        let meta = fs::metadata(root).map_err(|e| DiskError::from_io(DiskOp::Open, &name, &e))?;
        if !meta.is_dir() {
            return Err(DiskError::new(DiskOp::Open, &name, DiskErrorKind::NotFound, "it is a file, not a folder"));
        }
        Ok(Self { root: root.to_path_buf(), map_files: AtomicBool::new(true) })
    }

    /// Maps files (the default), or reads them whole instead.
    pub fn set_mapping(&self, is_on: bool) {
        self.map_files.store(is_on, Ordering::Relaxed);
    }

    /// Who has the lock of the root folder, if it is taken: the id of the process, if the lock file tells it. Changes nothing.
    pub fn holder(&self) -> Option<Option<u32>> {
        let mut lock = File::open(self.root.join(LOCK_FILE)).ok()?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => Some(holder_in(&mut lock)),
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }

    /// The root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn at(&self, op: DiskOp, path: &str, may_be_root: bool) -> Result<PathBuf, DiskError> {
        check_path(op, path, may_be_root)?;
        Ok(if path.is_empty() { self.root.clone() } else { self.root.join(path) })
    }

    fn names(&self, dir: &str, want_dirs: bool) -> Result<Vec<String>, DiskError> {
        let err = |e: io::Error| DiskError::from_io(DiskOp::List, dir, &e);
        let mut names = Vec::new();
        for entry in fs::read_dir(self.at(DiskOp::List, dir, true)?).map_err(err)? {
            let entry = entry.map_err(err)?;
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                // A file that went while we were looking is no longer in the folder. Any other error is no reason to pass
                // one over: who does not see a log segment makes it anew.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(err(e)),
            };
            if meta.is_dir() == want_dirs
                && let Some(name) = entry.file_name().to_str()
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
        let at = self.at(DiskOp::Create, path, false)?;
        let err = |e: io::Error| DiskError::from_io(DiskOp::Create, path, &e);
        let file = OpenOptions::new().append(true).create(true).open(at).map_err(err)?;
        file.set_len(0).map_err(err)?;
        Ok(Box::new(RealFile { file, path: path.to_owned() }))
    }

    fn open_append(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
        let at = self.at(DiskOp::Open, path, false)?;
        let file = OpenOptions::new().append(true).open(at).map_err(|e| DiskError::from_io(DiskOp::Open, path, &e))?;
        Ok(Box::new(RealFile { file, path: path.to_owned() }))
    }

    fn open_read(&self, path: &str) -> Result<Arc<dyn DiskRead>, DiskError> {
        let at = self.at(DiskOp::Open, path, false)?;
        let file = File::open(at).map_err(|e| DiskError::from_io(DiskOp::Open, path, &e))?;
        Ok(Arc::new(RealRead { file, path: path.to_owned() }))
    }

    fn map_pages(&self, path: &str) -> Result<Option<Mapped>, DiskError> {
        if !self.map_files.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let at = self.at(DiskOp::Map, path, false)?;
        let err = |e: io::Error| DiskError::from_io(DiskOp::Map, path, &e);
        let file = File::open(&at).map_err(err)?;
        if file.metadata().map_err(err)?.len() == 0 {
            return Ok(Some(Mapped::from_bytes(Vec::new())));
        }
        // SAFETY: the caller maps only published files: they are never written or cut again, and removing one leaves its
        // pages in place for as long as the mapping lives. The folder lock keeps other processes of ours away.
        let map = unsafe { memmap2::Mmap::map(&file) };
        // An error is one of address space or mappings, or a file system without them: plain reads do.
        Ok(map.ok().and_then(|map| Mapped::from_map(map, at, path)))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let source = self.at(DiskOp::Rename, from, false)?;
        let target = self.at(DiskOp::Rename, to, false)?;
        fs::rename(source, target).map_err(|e| DiskError::from_io(DiskOp::Rename, from, &e))
    }

    fn link(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let source = self.at(DiskOp::Link, from, false)?;
        let target = self.at(DiskOp::Link, to, false)?;
        fs::hard_link(source, target).map_err(|e| DiskError::from_io(DiskOp::Link, from, &e))
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        sync_opened(File::open(self.at(DiskOp::SyncDir, dir, true)?), dir)
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        let at = self.at(DiskOp::Remove, path, false)?;
        fs::remove_file(at).map_err(|e| DiskError::from_io(DiskOp::Remove, path, &e))
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.names(dir, false)
    }

    fn list_dirs(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.names(dir, true)
    }

    fn len(&self, path: &str) -> Result<u64, DiskError> {
        let at = self.at(DiskOp::Stat, path, false)?;
        fs::metadata(at).map(|m| m.len()).map_err(|e| DiskError::from_io(DiskOp::Stat, path, &e))
    }

    fn exists(&self, path: &str) -> Result<bool, DiskError> {
        let at = self.at(DiskOp::Stat, path, true)?;
        at.try_exists().map_err(|e| DiskError::from_io(DiskOp::Stat, path, &e))
    }

    fn create_dir(&self, dir: &str) -> Result<(), DiskError> {
        check_path(DiskOp::CreateDir, dir, true)?;
        let err = |e: io::Error| DiskError::from_io(DiskOp::CreateDir, dir, &e);
        let mut made = String::new();
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            made = join(&made, part);
            match fs::create_dir(self.root.join(&made)) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.root.join(&made).is_dir() => {}
                Err(e) => return Err(err(e)),
            }
            // One that is there, too: who made it may have ended before this.
            self.sync_dir(parent(&made))?;
        }
        Ok(())
    }

    fn remove_dir(&self, dir: &str) -> Result<(), DiskError> {
        let at = self.at(DiskOp::Remove, dir, false)?;
        fs::remove_dir(at).map_err(|e| DiskError::from_io(DiskOp::Remove, dir, &e))
    }

    fn truncate(&self, path: &str, len: u64) -> Result<(), DiskError> {
        let at = self.at(DiskOp::Truncate, path, false)?;
        let err = |e: io::Error| DiskError::from_io(DiskOp::Truncate, path, &e);
        OpenOptions::new().write(true).open(at).and_then(|f| f.set_len(len)).map_err(err)
    }

    fn lock(&self, dir: &str) -> Result<DiskLock, DiskError> {
        let path = join(dir, LOCK_FILE);
        let at = self.at(DiskOp::Lock, &path, false)?;
        let err = |e: io::Error| DiskError::from_io(DiskOp::Lock, &path, &e);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(at).map_err(err)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(e)) => return Err(err(e)),
            Err(TryLockError::WouldBlock) => {
                let id = holder_in(&mut file);
                let holder = id.map_or_else(|| "another process".to_owned(), |id| format!("process {id}"));
                let folder = if dir.is_empty() { self.root.clone() } else { self.root.join(dir) };
                let text = format!("the data folder {} is in use by {holder}", folder.display());
                return Err(DiskError::new(DiskOp::Lock, &path, DiskErrorKind::Locked(id), text));
            }
        }
        // The number is a courtesy to whoever is refused: a full disk must not keep us from starting.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        Ok(DiskLock::new(file))
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let stat =
            rustix::fs::statvfs(&self.root).map_err(|e| DiskError::from_io(DiskOp::Stat, "", &io::Error::from(e)))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn name(&self) -> String {
        self.root.display().to_string()
    }
}

/// Syncs a folder, which errors call `name`. That it could not be opened, as where no descriptors are left, is no failed sync.
fn sync_opened(folder: io::Result<File>, name: &str) -> Result<(), DiskError> {
    let folder = folder.map_err(|e| DiskError::from_io(DiskOp::Open, name, &e))?;
    folder.sync_all().map_err(|e| DiskError::from_io(DiskOp::SyncDir, name, &e))
}

#[derive(Debug)]
struct RealFile {
    file: File,
    path: String,
}

impl DiskFile for RealFile {
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_all(bytes).map_err(|e| DiskError::from_io(DiskOp::Write, &self.path, &e))
    }

    fn sync_data(&mut self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(|e| DiskError::from_io(DiskOp::Sync, &self.path, &e))
    }

    fn truncate(&mut self, len: u64) -> Result<(), DiskError> {
        self.file.set_len(len).map_err(|e| DiskError::from_io(DiskOp::Truncate, &self.path, &e))
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.file.metadata().map(|m| m.len()).map_err(|e| DiskError::from_io(DiskOp::Stat, &self.path, &e))
    }
}

#[derive(Debug)]
struct RealRead {
    file: File,
    path: String,
}

impl DiskRead for RealRead {
    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        let size = self.len()?;
        let want = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        let mut bytes = vec![0; want];
        let mut done = 0;
        while done < want {
            match self.file.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(DiskError::from_io(DiskOp::Read, &self.path, &e)),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.file.metadata().map(|m| m.len()).map_err(|e| DiskError::from_io(DiskOp::Stat, &self.path, &e))
    }
}
