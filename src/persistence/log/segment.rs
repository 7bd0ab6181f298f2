//! A segment: one file of frames of one shard.
//!
//! ```text
//! 0       8         12        16      20         24       32         40        44         48
//! │ magic │ version │ crc     │ shard │ reserved │ number │ previous │ frames  │ crc      │ frame │ frame …
//!                     of 0–12                                          in that   of 16–44
//! ```
//!
//! Invariants
//! 1. The first 16 bytes keep their meaning in every version, so that an older program can name what it refuses.
//! 2. `frames` counts the acknowledged frames of the previous segment where the writer knew it, so that a cut segment in the
//!    middle of the log is told from a torn tail.

use crate::crc32c;

/// First bytes of every segment.
const SEGMENT_MAGIC: [u8; 8] = *b"QUIVRLOG";

/// Version of the segment layout.
pub const SEGMENT_VERSION: u32 = 1;

/// Bytes before the first frame.
pub const SEGMENT_HEADER_BYTES: usize = 48;

/// Where the writer does not know how many frames the previous segment has.
const FRAMES_UNKNOWN: u32 = u32::MAX;

/// Which segment of which shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    /// The shard.
    pub shard: u32,
    /// Number of the segment in it, from 1.
    pub number: u64,
}

impl SegmentId {
    /// Name of its file.
    pub fn file_name(&self) -> String {
        format!("{:03}-{:016}.log", self.shard, self.number)
    }

    /// The segment of a file name.
    pub fn parse(name: &str) -> Option<Self> {
        let (shard, number) = name.strip_suffix(".log")?.split_once('-')?;
        let id = Self { shard: shard.parse().ok()?, number: number.parse().ok()? };
        (id.file_name() == name).then_some(id)
    }

    /// What binds a frame to its segment.
    pub(super) fn salt(&self) -> [u8; 12] {
        let mut salt = [0; 12];
        salt[..4].copy_from_slice(&self.shard.to_le_bytes());
        salt[4..].copy_from_slice(&self.number.to_le_bytes());
        salt
    }
}

/// The segment before, as far as the writer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Previous {
    pub(super) number: u64,
    pub(super) frames: u32,
}

/// A segment's header, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentHeader {
    Ok { id: SegmentId, previous: Option<Previous> },
    OtherVersion(u32),
    Damaged,
}

pub(super) fn write_header(id: SegmentId, previous: Option<Previous>) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
    bytes[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
    let crc = crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes[16..20].copy_from_slice(&id.shard.to_le_bytes());
    bytes[24..32].copy_from_slice(&id.number.to_le_bytes());
    let previous = previous.unwrap_or(Previous { number: 0, frames: FRAMES_UNKNOWN });
    bytes[32..40].copy_from_slice(&previous.number.to_le_bytes());
    bytes[40..44].copy_from_slice(&previous.frames.to_le_bytes());
    let crc = crc32c(&bytes[16..44]);
    bytes[44..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(super) fn read_header(bytes: &[u8]) -> SegmentHeader {
    let u32_at = |at: usize| bytes.get(at..).and_then(|b| b.first_chunk()).map(|b| u32::from_le_bytes(*b));
    let u64_at = |at: usize| bytes.get(at..).and_then(|b| b.first_chunk()).map(|b| u64::from_le_bytes(*b));
    let read = || {
        let start = bytes.get(..12)?;
        if !start.starts_with(&SEGMENT_MAGIC) || u32_at(12)? != crc32c(start) {
            return None;
        }
        let version = u32_at(8)?;
        if version != SEGMENT_VERSION {
            return Some(SegmentHeader::OtherVersion(version));
        }
        if u32_at(44)? != crc32c(bytes.get(16..44)?) {
            return None;
        }
        let id = SegmentId { shard: u32_at(16)?, number: u64_at(24)? };
        let previous = Previous { number: u64_at(32)?, frames: u32_at(40)? };
        Some(SegmentHeader::Ok { id, previous: (previous.frames != FRAMES_UNKNOWN).then_some(previous) })
    };
    read().unwrap_or(SegmentHeader::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_not_segments() {
        for id in [SegmentId { shard: 0, number: 1 }, SegmentId { shard: 1234, number: u64::MAX }] {
            assert_eq!(SegmentId::parse(&id.file_name()), Some(id));
        }
        for name in ["LOCK", "1-1.log", "000-0000000000000001.tmp", "+00-0000000000000001.log", "a-b.log", ""] {
            assert_eq!(SegmentId::parse(name), None, "{name}");
        }
    }

    #[test]
    fn headers_round_trip_and_show_damage() {
        let id = SegmentId { shard: 5, number: 77 };
        for previous in [None, Some(Previous { number: 76, frames: 12 })] {
            let bytes = write_header(id, previous);
            assert_eq!(read_header(&bytes), SegmentHeader::Ok { id, previous });
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(read_header(&bad), SegmentHeader::Damaged, "bit {bit}");
            }
            assert_eq!(read_header(&bytes[..47]), SegmentHeader::Damaged);
        }
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let mut bytes = write_header(SegmentId { shard: 0, number: 1 }, None);
        bytes[8] = 9;
        let crc = crc32c(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(read_header(&bytes), SegmentHeader::OtherVersion(9));
    }
}
