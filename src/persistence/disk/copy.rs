//! Whole files from one place to another: linked where that is possible, else copied, checked by their CRC32C.
//!
//! Invariant: a copy is written under a temporary name, synced and renamed; a file that has its final name is whole.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Disk, DiskError, DiskErrorKind, DiskOp};

/// Bytes read at once.
const PIECE_BYTES: usize = 1 << 20;

/// Ending of a file that is being copied.
const TEMPORARY: &str = ".copy";

/// Hands out a file piece by piece, with its CRC32C at the end.
pub fn read_pieces(
    disk: &dyn Disk,
    path: &str,
    mut each: impl FnMut(&[u8]) -> Result<(), DiskError>,
) -> Result<(u64, u32), DiskError> {
    let file = disk.open_read(path)?;
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    let mut at = 0u64;
    loop {
        let piece = file.read_at(at, PIECE_BYTES)?;
        if piece.is_empty() {
            break;
        }
        digest.update(&piece);
        at += piece.len() as u64;
        each(&piece)?;
    }
    Ok((at, u32::try_from(digest.finalize() & 0xFFFF_FFFF).unwrap_or(0)))
}

/// Length and CRC32C of a file.
pub fn file_crc(disk: &dyn Disk, path: &str) -> Result<(u64, u32), DiskError> {
    read_pieces(disk, path, |_| Ok(()))
}

/// Copies a file, durably but for its name, which is after [`Disk::sync_dir`]; gives its length and CRC32C. With `want`, a
/// source of another length or checksum leaves no copy. `progress` counts the bytes.
pub fn copy_file(
    source: &dyn Disk,
    from: &str,
    target: &dyn Disk,
    to: &str,
    want: Option<(u64, u32)>,
    progress: &AtomicU64,
) -> Result<(u64, u32), DiskError> {
    let temporary = format!("{to}{TEMPORARY}");
    let mut file = target.create(&temporary)?;
    let copied = read_pieces(source, from, |piece| {
        progress.fetch_add(piece.len() as u64, Ordering::Relaxed);
        file.write_all(piece)
    });
    let checked = copied.and_then(|got| match want {
        Some(want) if want != got => {
            let text =
                format!("{} bytes with CRC {:08x} where {} with {:08x} were expected", got.0, got.1, want.0, want.1);
            Err(DiskError::new(DiskOp::Read, from, DiskErrorKind::Media, text))
        }
        _ => Ok(got),
    });
    let done = checked.and_then(|got| {
        file.sync_data()?;
        target.rename(&temporary, to)?;
        Ok(got)
    });
    if done.is_err() {
        // The space back; the name says what it is.
        let _ = target.remove(&temporary);
    }
    done
}

/// Gives a file a second name on the same disk, or copies it where the disk has no links. Durable after
/// [`Disk::sync_dir`] of the folder of `to`.
pub fn link_or_copy(disk: &dyn Disk, from: &str, to: &str) -> Result<(), DiskError> {
    match disk.link(from, to) {
        Ok(()) => Ok(()),
        Err(e) if e.is_not_found() || disk.exists(to)? => Err(e),
        Err(_) => copy_file(disk, from, disk, to, None, &AtomicU64::new(0)).map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FaultAction, FaultRule, FaultyDisk, MemoryDisk};
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_copy_is_whole_or_not_there() {
        let (a, b) = (MemoryDisk::new(), MemoryDisk::new());
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7) as u8).collect();
        a.put("x", bytes.clone());
        let want = file_crc(&a, "x").unwrap();
        assert_eq!(want, (bytes.len() as u64, crate::crc32c(&bytes)));
        let count = AtomicU64::new(0);
        assert_eq!(copy_file(&a, "x", &b, "y", Some(want), &count), Ok(want));
        assert_eq!((b.read("y").unwrap(), count.into_inner()), (bytes, want.0));
        let other = (want.0, want.1 ^ 1);
        assert!(copy_file(&a, "x", &b, "z", Some(other), &AtomicU64::new(0)).is_err());
        let full = FaultyDisk::new(Arc::new(b.clone()));
        full.push(FaultRule::new(DiskOp::Write, FaultAction::Half(DiskErrorKind::Full)).after(1));
        assert!(copy_file(&a, "x", &full, "z", None, &AtomicU64::new(0)).is_err());
        assert_eq!(b.list("").unwrap(), ["y"]);
    }

    #[test]
    fn a_disk_without_links_copies() {
        let inner = MemoryDisk::new();
        inner.put("x", vec![7; 100]);
        let disk = FaultyDisk::new(Arc::new(inner.clone()));
        disk.push(FaultRule::new(DiskOp::Link, FaultAction::Fail(DiskErrorKind::Denied)).times(1));
        link_or_copy(&disk, "x", "copied").unwrap();
        assert_eq!(inner.used_bytes(), 200);
        link_or_copy(&disk, "x", "linked").unwrap();
        assert!(link_or_copy(&disk, "x", "linked").is_err(), "a name that is taken");
        assert!(link_or_copy(&disk, "missing", "y").is_err());
        assert_eq!(inner.read("linked").unwrap(), inner.read("copied").unwrap());
    }
}
