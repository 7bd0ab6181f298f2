//! What can go wrong with a block.

use quiver_persistence::DiskError;

use crate::bytes::Damaged;

/// A failure of storage.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StorageError {
    /// Bytes do not match their checksum, or do not parse.
    #[error("corrupt data in {file} at byte {offset}: {what}")]
    Corrupt {
        /// Which file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// The disk said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A remote store that has the bytes said no, or nothing in time.
    #[error("{file} cannot be read from the store {store}: {what}")]
    Remote {
        /// Which file.
        file: String,
        /// Which store.
        store: String,
        /// What it said.
        what: String,
    },
    /// A format this program does not know: written by a newer one.
    #[error("{file} has format version {found}, this program reads up to {known}: it was written by a newer version")]
    Version {
        /// Which file.
        file: String,
        /// Its version.
        found: u32,
        /// The newest version read.
        known: u32,
    },
    /// A caller broke a rule of the writer: nothing was written.
    #[error("{0}")]
    Misuse(&'static str),
    /// A Parquet file could not be read or written.
    #[error("{file}: {what}")]
    Parquet {
        /// Which file.
        file: String,
        /// What was found.
        what: String,
    },
}

impl StorageError {
    /// Damage at a place.
    pub fn corrupt(file: &str, offset: u64, what: impl ToString) -> Self {
        StorageError::Corrupt { file: file.to_owned(), offset, what: what.to_string() }
    }

    pub(crate) fn damaged(file: &str, offset: u64) -> impl FnOnce(Damaged) -> StorageError + '_ {
        move |d| StorageError::corrupt(file, offset, d)
    }

    /// No space left on the disk?
    pub fn is_full(&self) -> bool {
        matches!(self, StorageError::Disk(e) if e.is_full())
    }
}
