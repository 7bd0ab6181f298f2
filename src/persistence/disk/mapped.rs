//! The bytes of a file in memory: its own pages where they can be had, else a copy.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;

use super::lost_pages::Watched;
use super::{DiskError, DiskOp};

/// The bytes of a file in memory; clones share them.
#[derive(Clone)]
pub struct Mapped {
    // Dropped before the bytes are, with which the mapping may end.
    pages: Option<Arc<Pages>>,
    bytes: Bytes,
}

/// What is known of a mapping beside its bytes.
struct Pages {
    watched: Watched,
    path: PathBuf,
    /// As the disk calls it.
    name: String,
}

/// What keeps a mapping and its watch alive. The watch ends first: the addresses may be somebody else's afterwards.
struct Owner {
    _pages: Arc<Pages>,
    map: Mmap,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Mapped {
    /// Bytes that were read.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), pages: None }
    }

    /// Pages of the file at `path` itself, which the disk calls `name`. `None` where pages that get lost could not be
    /// survived: then the file is better read.
    pub(crate) fn from_map(map: Mmap, path: PathBuf, name: &str) -> Option<Self> {
        let watched = Watched::new(map.as_ptr() as usize, map.len())?;
        let pages = Arc::new(Pages { watched, path, name: name.to_owned() });
        let bytes = Bytes::from_owner(Owner { _pages: Arc::clone(&pages), map });
        Some(Self { bytes, pages: Some(pages) })
    }

    /// The bytes as a shared buffer, to slice without copying.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Mapped pages (kept by the kernel), or a copy (kept by us)?
    pub fn is_mapped(&self) -> bool {
        self.pages.is_some()
    }

    /// Was there a page that the medium did not give? It is zeros now, and whatever was read of the bytes since they were last
    /// found to be whole may be wrong.
    pub fn is_lost(&self) -> bool {
        self.pages.as_ref().is_some_and(|p| p.watched.is_lost())
    }

    /// Reads from the file, past the mapping: what cannot be read is an error here. Fewer bytes where the file ends before.
    pub fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        let Some(pages) = &self.pages else {
            let total = self.bytes.len();
            let from = usize::try_from(offset).unwrap_or(total).min(total);
            return Ok(self.bytes.slice(from..from.saturating_add(len).min(total)));
        };
        let read = || -> io::Result<Vec<u8>> {
            let file = File::open(&pages.path)?;
            let left = file.metadata()?.len().saturating_sub(offset);
            let mut out = vec![0; len.min(usize::try_from(left).unwrap_or(usize::MAX))];
            file.read_exact_at(&mut out, offset)?;
            Ok(out)
        };
        read().map(Bytes::from).map_err(|e| DiskError::from_io(DiskOp::Read, &pages.name, &e))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapped({} bytes, mapped: {})", self.bytes.len(), self.is_mapped())
    }
}
