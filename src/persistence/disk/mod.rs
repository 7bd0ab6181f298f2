//! The disk as a trait, with three implementations.
//!
//! ```text
//! Disk ─┬─ RealDisk     a folder of the machine (std::fs, flock, mmap)
//!       ├─ MemoryDisk   durable and pending bytes apart; `crash` keeps any part of what was not synced
//!       └─ FaultyDisk   wraps another: full disk, failing syncs, slow or stopped operations, an end of the process
//! ```
//!
//! Paths are relative to the root of the disk, with `/` between names; `..`, absolute paths and empty names are refused,
//! so nothing outside the root can be reached.
//!
//! Invariants
//! 1. Bytes of a file are durable after [`DiskFile::sync_data`]; its name is after [`Disk::sync_dir`] of the folder.
//! 2. [`Disk::rename`] replaces the target as one step: afterwards the name leads to the old or the new file.
//! 3. Every error names the operation and the path and says by [`DiskErrorKind`] what the caller can do.

mod copy;
mod error;
mod faulty;
mod injected;
mod lost_pages;
mod mapped;
mod memory;
mod real;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

pub use copy::{copy_file, file_crc, link_or_copy, read_pieces};
pub use error::{DiskError, DiskErrorKind, DiskOp};
pub use faulty::{FaultAction, FaultRule, FaultyDisk, Gate, Stage};
pub use injected::{FAULTS_VARIABLE, open_with_faults, parse_rules};
pub use mapped::Mapped;
pub use memory::MemoryDisk;
#[cfg(test)]
pub(crate) use memory::Seeded;
pub use real::RealDisk;

/// Files under one root folder.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes an empty file to append to; one that is there already is emptied.
    fn create(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError>;
    /// Opens an existing file to append to.
    fn open_append(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError>;
    /// Opens a file for reading by ranges.
    fn open_read(&self, path: &str) -> Result<Arc<dyn DiskRead>, DiskError>;
    /// The pages of a whole file, which need not be read. `None` where there are none to be had: they are switched off, or
    /// address space or mappings ran out; what is large is then better read by ranges. Only for files that no longer change.
    fn map_pages(&self, path: &str) -> Result<Option<Mapped>, DiskError>;
    /// Gives a file (or folder) another name, replacing a file that has it. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;
    /// Gives a file a second name, without copying it. A name that is there already is an error; a disk that cannot do it
    /// says so with [`DiskErrorKind::Io`] or `Denied`. Durable after [`Disk::sync_dir`].
    fn link(&self, from: &str, to: &str) -> Result<(), DiskError>;
    /// Makes the names in a folder durable. The root is `""`.
    fn sync_dir(&self, dir: &str) -> Result<(), DiskError>;
    /// Removes a file. Durable after [`Disk::sync_dir`].
    fn remove(&self, path: &str) -> Result<(), DiskError>;
    /// Names of the files in a folder (not of its folders), sorted. A missing folder is `NotFound`.
    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError>;
    /// Names of the folders in a folder, sorted.
    fn list_dirs(&self, dir: &str) -> Result<Vec<String>, DiskError>;
    /// Length of a file.
    fn len(&self, path: &str) -> Result<u64, DiskError>;
    /// Is there a file or a folder of that name?
    fn exists(&self, path: &str) -> Result<bool, DiskError>;
    /// Makes a folder and those above it, durably; one that is there is fine.
    fn create_dir(&self, dir: &str) -> Result<(), DiskError>;
    /// Removes an empty folder.
    fn remove_dir(&self, dir: &str) -> Result<(), DiskError>;
    /// Cuts a file to `len` bytes.
    fn truncate(&self, path: &str, len: u64) -> Result<(), DiskError>;
    /// Takes the lock file `LOCK` of a folder, until the guard goes. Another holder is [`DiskErrorKind::Locked`].
    fn lock(&self, dir: &str) -> Result<DiskLock, DiskError>;
    /// Bytes that can still be written.
    fn free_bytes(&self) -> Result<u64, DiskError>;
    /// What to call the disk in messages: the root folder of a real one.
    fn name(&self) -> String;

    /// A whole file as memory: its pages where they are to be had, else read. Only for files that no longer change.
    fn map(&self, path: &str) -> Result<Mapped, DiskError> {
        match self.map_pages(path)? {
            Some(mapped) => Ok(mapped),
            None => self.read(path).map(Mapped::from_bytes),
        }
    }

    /// A whole file.
    fn read(&self, path: &str) -> Result<Vec<u8>, DiskError> {
        let file = self.open_read(path)?;
        let len = file.len()?;
        file.read_at(0, usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// `len` bytes from `offset`; fewer where the file ends before.
    fn read_at(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        self.open_read(path)?.read_at(offset, len)
    }
}

/// A file being appended to.
pub trait DiskFile: Send + fmt::Debug {
    /// Appends all of `bytes`. After an error any part of them may be in the file.
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), DiskError>;
    /// Makes what was written durable. After an error nothing is known of any byte since the last success, and a later
    /// success says nothing about them either.
    fn sync_data(&mut self) -> Result<(), DiskError>;
    /// Cuts the file; the next write goes to its new end.
    fn truncate(&mut self, len: u64) -> Result<(), DiskError>;
    /// Length with what was written.
    fn len(&self) -> Result<u64, DiskError>;
    /// No bytes?
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }
    /// What a failed sync does to a file: its pages count as written and never reach the medium. Called by
    /// [`FaultyDisk`]; nothing to do on a real disk.
    fn lose_unsynced(&mut self) {}
}

/// A file being read by ranges, from any thread.
pub trait DiskRead: Send + Sync + fmt::Debug {
    /// `len` bytes from `offset`; fewer where the file ends before.
    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, DiskError>;
    /// Length of the file.
    fn len(&self) -> Result<u64, DiskError>;
    /// No bytes?
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }
}

/// A held folder lock; dropping it lets go.
pub struct DiskLock {
    _held: Box<dyn Any + Send + Sync>,
}

impl DiskLock {
    /// A lock that lasts as long as `guard`.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self { _held: Box::new(guard) }
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskLock")
    }
}

/// Name of the lock file in a locked folder.
pub const LOCK_FILE: &str = "LOCK";

/// The folder part of a path; `""` for a file in the root.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// `dir` and `name` as one path.
pub fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// Refuses paths that could leave the root or that no file system takes. `""` (the root) passes only for folders.
fn check_path(op: DiskOp, path: &str, may_be_root: bool) -> Result<(), DiskError> {
    if path.is_empty() && may_be_root {
        return Ok(());
    }
    let is_bad = path.contains('\0')
        || path.contains('\\')
        || path.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    if is_bad {
        return Err(DiskError::new(op, path, DiskErrorKind::Invalid, "not a plain relative path"));
    }
    Ok(())
}
