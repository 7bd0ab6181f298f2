//! Where backups are kept, and where they are read from.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use quiver_persistence::{Disk, Manifest};

use super::{BackupError, BackupFile};

/// Blocks under names of their own, and what says which of them count. Held while a backup is made.
pub trait Vault: Send + Sync {
    /// What to call it in messages.
    fn name(&self) -> String;

    /// What the newest backup says; generation 0: there is none yet.
    fn manifest(&self) -> Arc<Manifest>;

    /// Length of a block that is there.
    fn block_len(&self, path: &str) -> Result<Option<u64>, BackupError>;

    /// Reads a block: its length and CRC32C.
    fn block_crc(&self, path: &str) -> Result<(u64, u32), BackupError>;

    /// A disk on which blocks are put together before they are kept.
    fn scratch(&self) -> &Arc<dyn Disk>;

    /// Keeps a file of the scratch disk, whole and synced, as a block. The file goes.
    fn keep(&self, scratch: &str, to: &str) -> Result<(), BackupError>;

    /// Keeps a block of another disk that has the length and the checksum it ought to have. `progress` counts bytes.
    fn copy(&self, source: &dyn Disk, file: &BackupFile, progress: &AtomicU64) -> Result<(), BackupError>;

    /// Makes this the newest backup, as one; what it does not name goes. Gives the blocks that went.
    fn publish(&self, manifest: Manifest) -> Result<u64, BackupError>;
}

/// What a restore reads.
pub(super) trait Origin {
    /// What to call it in messages.
    fn name(&self) -> String;

    /// What says which blocks count.
    fn manifest(&self) -> Arc<Manifest>;

    /// Segments of a log, with their lengths; a backup has none, a data folder may.
    fn segments(&self) -> Result<Vec<(String, u64)>, BackupError>;

    /// Is its manifest what it was at first? Asked after the last copy.
    fn is_still(&self) -> Result<(), BackupError> {
        Ok(())
    }

    /// Copies a file to a disk; with `want`, one of another length or CRC32C is an error and leaves no copy.
    fn copy(
        &self,
        path: &str,
        target: &dyn Disk,
        want: Option<(u64, u32)>,
        progress: &AtomicU64,
    ) -> Result<(), BackupError>;
}
