//! The fixed parts of a block: header, footer, trailer. `FORMAT.md` has the bytes.

use quiver_model::SeriesKinds;

use crate::bytes::{Damaged, Reader, crc32c, put_signed, put_varint};

pub(super) const MAGIC: [u8; 8] = *b"QUIVRBLK";
pub(super) const END_MAGIC: [u8; 8] = *b"QUIVREND";
/// The version written.
pub const VERSION: u32 = 1;
pub(super) const HEADER_LEN: usize = 16;
pub(super) const TRAILER_LEN: usize = 20;
/// A time directory entry: offset u64, min i64, max i64, length u32, count u32, CRC u32.
pub(super) const TIME_ENTRY_LEN: usize = 36;

pub(super) const FLOATS: u8 = 1;
pub(super) const HISTOGRAMS: u8 = 2;
pub(super) const START_TS: u8 = 4;

pub(super) fn kinds_to_bits(k: SeriesKinds) -> u8 {
    (u8::from(k.floats) * FLOATS) | (u8::from(k.histograms) * HISTOGRAMS) | (u8::from(k.start_ts) * START_TS)
}

pub(super) fn kinds_from_bits(b: u8) -> SeriesKinds {
    SeriesKinds { floats: b & FLOATS != 0, histograms: b & HISTOGRAMS != 0, start_ts: b & START_TS != 0 }
}

/// A checksum bound to its place, so that bytes of elsewhere do not pass.
pub(super) fn placed_crc(bytes: &[u8], offset: u64) -> u32 {
    crc32c(bytes) ^ (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

pub(super) fn header() -> [u8; HEADER_LEN] {
    let mut h = [0; HEADER_LEN];
    h[..8].copy_from_slice(&MAGIC);
    h[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c(&h[..12]);
    h[12..].copy_from_slice(&crc.to_le_bytes());
    h
}

/// The version in a valid header.
pub(super) fn parse_header(bytes: &[u8]) -> Result<u32, Damaged> {
    let mut r = Reader::new(bytes);
    if r.take(8)? != MAGIC {
        return Err(Damaged("not a block"));
    }
    let version = r.u32()?;
    if r.u32()? != crc32c(&bytes[..12]) {
        return Err(Damaged("header does not match its checksum"));
    }
    Ok(version)
}

/// A range of the file with a checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    pub offset: u64,
    pub len: u64,
    /// Length after decompression; 0 where it is not compressed.
    pub raw_len: u64,
    pub crc: u32,
}

impl Section {
    /// May `len` bytes of a file be `raw_len` when they are decompressed? What is over 1 MiB then is written as it is where
    /// it would shrink to less than a 1,024th, so that no few bytes ask for gigabytes.
    pub fn may_become(len: u64, raw_len: u64) -> bool {
        raw_len <= 1 << 20 || raw_len / 1024 <= len
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum SectionKind {
    Exemplars = 0,
    Metadata = 1,
    Dictionary = 2,
    Postings = 3,
    Series = 4,
    Times = 5,
}

pub(super) const SECTIONS: usize = 6;

/// What a block holds, from its footer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockMeta {
    /// Time of the first sample.
    pub min_time: i64,
    /// Time of the last sample.
    pub max_time: i64,
    /// Series.
    pub series: u32,
    /// Distinct columns of times.
    pub time_columns: u32,
    /// Chunks.
    pub chunks: u64,
    /// Samples.
    pub samples: u64,
    /// Exemplars.
    pub exemplars: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// What its series hold.
    pub kinds: SeriesKinds,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Footer {
    pub sections: [Section; SECTIONS],
    pub meta: BlockMeta,
}

impl Footer {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, SECTIONS as u64);
        for s in &self.sections {
            put_varint(&mut out, s.offset);
            put_varint(&mut out, s.len);
            put_varint(&mut out, s.raw_len);
            out.extend_from_slice(&s.crc.to_le_bytes());
        }
        let m = &self.meta;
        put_signed(&mut out, m.min_time);
        put_signed(&mut out, m.max_time);
        put_varint(&mut out, u64::from(m.series));
        put_varint(&mut out, u64::from(m.time_columns));
        put_varint(&mut out, m.chunks);
        put_varint(&mut out, m.samples);
        put_varint(&mut out, m.exemplars);
        out.push(kinds_to_bits(m.kinds));
        out
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(bytes);
        if r.varint()? != SECTIONS as u64 {
            return Err(Damaged("footer with an unknown number of sections"));
        }
        let mut footer = Footer::default();
        for s in &mut footer.sections {
            *s = Section { offset: r.varint()?, len: r.varint()?, raw_len: r.varint()?, crc: r.u32()? };
        }
        let u32_of = |v: u64| u32::try_from(v).map_err(|_| Damaged("count out of bounds"));
        footer.meta = BlockMeta {
            min_time: r.signed()?,
            max_time: r.signed()?,
            series: u32_of(r.varint()?)?,
            time_columns: u32_of(r.varint()?)?,
            chunks: r.varint()?,
            samples: r.varint()?,
            exemplars: r.varint()?,
            bytes: 0,
            kinds: kinds_from_bits(r.u8()?),
        };
        if !r.is_done() {
            return Err(Damaged("footer has another length"));
        }
        Ok(footer)
    }
}

/// Footer length u32, CRC u32 over footer, length and version, version u32, magic.
pub(super) fn trailer(footer: &[u8]) -> [u8; TRAILER_LEN] {
    let mut t = [0; TRAILER_LEN];
    t[..4].copy_from_slice(&(footer.len() as u32).to_le_bytes());
    t[4..8].copy_from_slice(&footer_crc(footer, VERSION).to_le_bytes());
    t[8..12].copy_from_slice(&VERSION.to_le_bytes());
    t[12..].copy_from_slice(&END_MAGIC);
    t
}

pub(super) fn footer_crc(footer: &[u8], version: u32) -> u32 {
    crc32c(footer) ^ (footer.len() as u32).wrapping_mul(0x9e37_79b9) ^ version.rotate_left(16)
}
