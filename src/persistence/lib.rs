//! Bytes that survive: the disk as a trait, the write-ahead log, the manifest.
//!
//! ```text
//! core     ─▶ log/       frames in sharded segments, group commit, replay, truncation
//! storage  ─▶ manifest/  which blocks exist, from where the log still counts; replaced as one
//! cache    ─▶ remote/    objects in another store: S3, a folder, whatever `object_store` knows
//!               │
//!               ▼
//!             disk/      Disk: RealDisk │ MemoryDisk (power loss) │ FaultyDisk (errors)
//! ```
//!
//! Invariants
//! 1. Only [`RealDisk`] opens files; every other line of the project goes through [`Disk`].
//! 2. Every byte written here is under a CRC32C that is checked when it is read. `FORMAT.md` has the layouts.
//! 3. A name is durable only after [`Disk::sync_dir`] of its folder, bytes only after [`DiskFile::sync_data`].

pub mod disk;
mod host;
pub mod log;
pub mod manifest;
pub mod remote;
mod stepped_clock;
#[doc(hidden)]
pub mod testing;
pub mod turns;
mod workers;

pub use disk::{
    Disk, DiskError, DiskErrorKind, DiskFile, DiskLock, DiskOp, DiskRead, FaultyDisk, Mapped, MemoryDisk, RealDisk,
};
pub use host::{
    descriptors_max, host_name, in_own_pages, memory_bytes, process_cpu_ns, raise_descriptors, resident_bytes,
    thread_cpu_ns, unsent_bytes,
};
pub use log::{
    Durability, Frame, Log, LogEntry, LogError, LogFigures, LogFloor, LogOptions, LogPosition, ReplayError,
    ReplayReport, ReplayShard, replay,
};
pub use manifest::{EntryKind, Manifest, ManifestEntry, ManifestError, ManifestStore, Place, Tombstone};
pub use stepped_clock::{CLOCK_VARIABLE, open_clock};
pub use workers::build_with_workers;

/// CRC32C (Castagnoli) of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC32C of `salt` followed by `bytes`.
pub fn crc32c_salted(salt: &[u8], bytes: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(salt);
    digest.update(bytes);
    u32::try_from(digest.finalize() & 0xFFFF_FFFF).unwrap_or(0)
}

/// CRC32C of bytes that come in pieces.
#[derive(Clone, Debug)]
pub struct Crc32c(crc_fast::Digest);

impl Default for Crc32c {
    fn default() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }
}

impl Crc32c {
    /// The next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all pieces so far.
    pub fn value(&self) -> u32 {
        u32::try_from(self.0.finalize() & 0xFFFF_FFFF).unwrap_or(0)
    }
}

/// The text of a file that is not part of a data folder, if it is no longer than `max`.
pub fn read_text_up_to(path: &std::path::Path, max: u64) -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    text_up_to(bytes, max)
}

/// Bytes as text, if they are that and no more than `max`.
pub fn text_up_to(bytes: Vec<u8>, max: u64) -> std::io::Result<String> {
    let bad = |why: String| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
    if bytes.len() as u64 > max {
        return Err(bad(format!("it is longer than {max} bytes")));
    }
    let text = String::from_utf8(bytes);
    text.map_err(|e| bad(format!("it is not UTF-8 text (byte {})", e.utf8_error().valid_up_to())))
}

/// The text of a small file that is not part of a data folder, such as a configuration; one of more than 1 MiB is an error.
pub fn read_text(path: &std::path::Path) -> std::io::Result<String> {
    use std::io::Read;
    const BYTES_MAX: u64 = 1 << 20;
    let mut text = String::new();
    if std::fs::File::open(path)?.take(BYTES_MAX + 1).read_to_string(&mut text)? as u64 > BYTES_MAX {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}
