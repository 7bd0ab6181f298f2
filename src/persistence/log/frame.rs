//! A frame: one entry on disk.
//!
//! ```text
//! 0      4         5      6       8        12         16            20           24
//! │ magic │ version │ kind │ place │ length │ sequence │ payload crc │ header crc │ payload …
//! ```
//!
//! Invariants
//! 1. The header's checksum covers shard and segment number too: a frame is valid only in its own file.
//! 2. The place in the batch tells what one sync made durable: once a frame of a later batch is there, all of the earlier
//!    ones were acknowledged. So a hole that a power loss left in the last batch is told from damage.
//! 3. A length is believed only under a valid header checksum, so damage never makes us skip or allocate by a wild number.

use crate::{crc32c, crc32c_salted};

use super::LogPosition;
use super::segment::SegmentId;

/// First bytes of every frame.
pub(super) const FRAME_MAGIC: [u8; 4] = [0xF7, b'Q', b'V', b'f'];

/// Version of the frame layout.
pub const FRAME_VERSION: u8 = 1;

/// Bytes before the payload.
pub const FRAME_HEADER_BYTES: usize = 24;

/// A frame read back.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What its payload is, as [`LogEntry::encode`](super::LogEntry::encode) said.
    pub kind: u8,
    /// Number of the frame in its segment, from 0.
    pub sequence: u32,
    /// Where it lies.
    pub position: LogPosition,
    /// What [`LogEntry::encode`](super::LogEntry::encode) wrote.
    pub payload: &'a [u8],
}

/// A frame's header that passed its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) version: u8,
    pub(super) kind: u8,
    pub(super) place: u16,
    pub(super) length: u32,
    pub(super) sequence: u32,
    pub(super) payload_crc: u32,
}

impl FrameHeader {
    /// Reads a header; `None` where magic or checksum do not fit.
    pub(super) fn read(bytes: &[u8], segment: SegmentId) -> Option<Self> {
        let header = bytes.first_chunk::<FRAME_HEADER_BYTES>()?;
        let [m0, m1, m2, m3, version, kind, b0, b1, l0, l1, l2, l3, s0, s1, s2, s3, p0, p1, p2, p3, h0, h1, h2, h3] =
            *header;
        if [m0, m1, m2, m3] != FRAME_MAGIC {
            return None;
        }
        let covered = header.get(..FRAME_HEADER_BYTES - 4)?;
        if u32::from_le_bytes([h0, h1, h2, h3]) != crc32c_salted(&segment.salt(), covered) {
            return None;
        }
        Some(Self {
            version,
            kind,
            place: u16::from_le_bytes([b0, b1]),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            sequence: u32::from_le_bytes([s0, s1, s2, s3]),
            payload_crc: u32::from_le_bytes([p0, p1, p2, p3]),
        })
    }

    /// Sequence of the first frame of the frame's batch; `None` in a batch too long to tell.
    pub(super) fn batch_start(&self) -> Option<u32> {
        if self.place == u16::MAX { None } else { self.sequence.checked_sub(u32::from(self.place)) }
    }

    /// Bytes of header and payload.
    pub(super) fn total_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + u64::from(self.length)
    }
}

/// What a frame's header says beside what follows from the payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameName {
    pub(super) segment: SegmentId,
    pub(super) sequence: u32,
    /// Frames before it that the same sync makes durable.
    pub(super) place: usize,
    pub(super) kind: u8,
}

/// Fills in the header of a frame whose bytes (header and payload) are the end of `out` from `start` on.
pub(super) fn seal_frame(out: &mut [u8], start: usize, name: FrameName) {
    let Some((header, payload)) = out.get_mut(start..).and_then(|f| f.split_first_chunk_mut::<FRAME_HEADER_BYTES>())
    else {
        return;
    };
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = [0; FRAME_HEADER_BYTES];
    bytes[..4].copy_from_slice(&FRAME_MAGIC);
    bytes[4] = FRAME_VERSION;
    bytes[5] = name.kind;
    bytes[6..8].copy_from_slice(&u16::try_from(name.place).unwrap_or(u16::MAX).to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..16].copy_from_slice(&name.sequence.to_le_bytes());
    bytes[16..20].copy_from_slice(&crc32c(payload).to_le_bytes());
    let header_crc = crc32c_salted(&name.segment.salt(), &bytes[..20]);
    bytes[20..].copy_from_slice(&header_crc.to_le_bytes());
    *header = bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: SegmentId = SegmentId { shard: 3, number: 9 };

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0xAA; 5];
        out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        out.extend_from_slice(payload);
        seal_frame(&mut out, 5, FrameName { segment: HERE, sequence: 42, place: 3, kind: 7 });
        assert_eq!(out[..5], [0xAA; 5]);
        out.split_off(5)
    }

    #[test]
    fn a_header_reads_back() {
        let bytes = frame(b"payload");
        let header = FrameHeader::read(&bytes, HERE).unwrap();
        assert_eq!((header.version, header.kind, header.length, header.sequence), (1, 7, 7, 42));
        assert_eq!(header.batch_start(), Some(39));
        assert_eq!(header.payload_crc, crc32c(b"payload"));
        assert_eq!(header.total_bytes(), bytes.len() as u64);
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_seen() {
        let bytes = frame(b"");
        for bit in 0..FRAME_HEADER_BYTES * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::read(&bad, HERE), None, "bit {bit}");
        }
        assert_eq!(FrameHeader::read(&bytes[..23], HERE), None);
    }

    #[test]
    fn a_frame_is_valid_only_in_its_own_segment() {
        let bytes = frame(b"x");
        assert!(FrameHeader::read(&bytes, SegmentId { shard: 3, number: 10 }).is_none());
        assert!(FrameHeader::read(&bytes, SegmentId { shard: 2, number: 9 }).is_none());
    }
}
