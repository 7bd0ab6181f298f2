//! What can go wrong on a disk, told by what the caller can do about it.

use std::fmt;
use std::io;

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskOp {
    /// Making a file.
    Create,
    /// Opening a file.
    Open,
    /// Reading bytes.
    Read,
    /// Appending bytes.
    Write,
    /// Making bytes durable.
    Sync,
    /// Making names durable.
    SyncDir,
    /// Changing a name.
    Rename,
    /// Giving a second name.
    Link,
    /// Removing a file or an empty folder.
    Remove,
    /// Cutting a file.
    Truncate,
    /// Listing a folder.
    List,
    /// Asking for a length, an existence, the free space.
    Stat,
    /// Making a folder.
    CreateDir,
    /// Locking a folder.
    Lock,
    /// Mapping a file.
    Map,
}

impl DiskOp {
    /// Does it change what is on the disk, or make it durable?
    pub fn changes(self) -> bool {
        matches!(
            self,
            DiskOp::Create
                | DiskOp::Write
                | DiskOp::Sync
                | DiskOp::SyncDir
                | DiskOp::Rename
                | DiskOp::Link
                | DiskOp::Remove
                | DiskOp::Truncate
                | DiskOp::CreateDir
        )
    }
}

impl fmt::Display for DiskOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DiskOp::Create => "create",
            DiskOp::Open => "open",
            DiskOp::Read => "read",
            DiskOp::Write => "write",
            DiskOp::Sync => "sync",
            DiskOp::SyncDir => "sync the folder",
            DiskOp::Rename => "rename",
            DiskOp::Link => "link",
            DiskOp::Remove => "remove",
            DiskOp::Truncate => "truncate",
            DiskOp::List => "list",
            DiskOp::Stat => "open",
            DiskOp::CreateDir => "create the folder",
            DiskOp::Lock => "lock",
            DiskOp::Map => "map",
        })
    }
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskErrorKind {
    /// No space or no quota left: try again when there is.
    Full,
    /// No such file or folder.
    NotFound,
    /// Not permitted, or a read-only file system.
    Denied,
    /// Another process holds the folder: its id, where the lock file tells it.
    Locked(Option<u32>),
    /// A path that is refused.
    Invalid,
    /// The medium failed (`EIO`): these bytes are lost until the disk is looked at.
    Media,
    /// Anything else.
    Io,
}

/// A failed disk operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {op} {path:?}: {text}")]
pub struct DiskError {
    /// What was being done.
    pub op: DiskOp,
    /// To what; relative to the root.
    pub path: String,
    /// What kind of failure.
    pub kind: DiskErrorKind,
    /// What the system said.
    pub text: String,
}

impl DiskError {
    /// An error of our own making.
    pub fn new(op: DiskOp, path: &str, kind: DiskErrorKind, text: impl Into<String>) -> Self {
        Self { op, path: path.to_owned(), kind, text: text.into() }
    }

    /// What the system said, sorted.
    pub(crate) fn from_io(op: DiskOp, path: &str, e: &io::Error) -> Self {
        Self::new(op, path, kind_of(e), e.to_string())
    }

    /// No space left?
    pub fn is_full(&self) -> bool {
        self.kind == DiskErrorKind::Full
    }

    /// No such file?
    pub fn is_not_found(&self) -> bool {
        self.kind == DiskErrorKind::NotFound
    }
}

fn kind_of(e: &io::Error) -> DiskErrorKind {
    if let Some(code) = e.raw_os_error() {
        let errno = rustix::io::Errno::from_raw_os_error(code);
        if errno == rustix::io::Errno::NOSPC || errno == rustix::io::Errno::DQUOT {
            return DiskErrorKind::Full;
        }
        if errno == rustix::io::Errno::IO {
            return DiskErrorKind::Media;
        }
    }
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskErrorKind::Full,
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => DiskErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => DiskErrorKind::Denied,
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => DiskErrorKind::Invalid,
        _ => DiskErrorKind::Io,
    }
}
