//! What is kept on the local disk of a block that lies elsewhere: its header, and its end with metadata, index and footer.
//!
//! ```text
//! head │ header of the block │ … chunks … │ metadata │ dictionary │ postings │ series │ times │ footer │ trailer
//!        └── in the tail file               └────────────────────── in the tail file ───────────────────────┘
//! ```
//!
//! With it a block opens, and series are selected, without a word to the store: only chunks are fetched.
//!
//! Invariant: everything in a tail file is under the block's own checksums but for the head, which has one of its own. One
//! that is damaged or lost is made again from the store.

use bytes::{Bytes, BytesMut};

use super::format::HEADER_LEN;
use super::reader::{Block, BlockBytes};
use crate::bytes::crc32c;
use crate::error::StorageError;

const MAGIC: [u8; 8] = *b"QUIVRTAI";
/// Version of the tail file.
const VERSION: u32 = 1;
/// Magic, version u32, CRC u32 over the rest of the head and the version, length of the block u64, first byte u64.
const HEAD_LEN: usize = 32;

/// A block whose end is at hand and whose chunks are not.
pub struct Tailed<R> {
    len: u64,
    from: u64,
    header: Bytes,
    tail: Bytes,
    rest: R,
}

/// The bytes of a tail file for a block that can be read.
pub fn tail_file(block: &Block) -> Result<Bytes, StorageError> {
    let (from, len) = (block.tail_offset(), block.meta().bytes);
    let short = || StorageError::corrupt(block.name(), from, "the block ends early");
    let tail_len = usize::try_from(len.saturating_sub(from)).map_err(|_| short())?;
    let header = block.source().range(0, HEADER_LEN)?;
    let tail = block.source().range(from, tail_len)?;
    if header.len() != HEADER_LEN || tail.len() != tail_len {
        return Err(short());
    }
    let mut out = BytesMut::with_capacity(HEAD_LEN + HEADER_LEN + tail_len);
    out.extend_from_slice(&head(len, from));
    out.extend_from_slice(&header);
    out.extend_from_slice(&tail);
    Ok(out.freeze())
}

fn head(len: u64, from: u64) -> [u8; HEAD_LEN] {
    let mut h = [0; HEAD_LEN];
    h[..8].copy_from_slice(&MAGIC);
    h[8..12].copy_from_slice(&VERSION.to_le_bytes());
    h[16..24].copy_from_slice(&len.to_le_bytes());
    h[24..].copy_from_slice(&from.to_le_bytes());
    let crc = crc32c(&h);
    h[12..16].copy_from_slice(&crc.to_le_bytes());
    h
}

impl<R: BlockBytes> Tailed<R> {
    /// Puts the bytes of a tail file before `rest`. `name` is what errors call the file.
    pub fn new(name: &str, file: &Bytes, rest: R) -> Result<Self, StorageError> {
        let corrupt = |what: &str| StorageError::corrupt(name, 0, what);
        let u64_at =
            |at: usize| -> Option<u64> { file.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes) };
        let (Some(len), Some(from)) = (u64_at(16), u64_at(24)) else { return Err(corrupt("a tail that ends early")) };
        let version = file.get(8..12).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        if file.get(..8) == Some(&MAGIC[..]) && version > VERSION {
            return Err(StorageError::Version { file: name.to_owned(), found: version, known: VERSION });
        }
        if file.get(..HEAD_LEN) != Some(&head(len, from)[..]) {
            return Err(corrupt("not the tail of a block, or damaged"));
        }
        let at = HEAD_LEN + HEADER_LEN;
        if file.len() < at || len.checked_sub(from) != Some((file.len() - at) as u64) {
            return Err(corrupt("a tail of another length"));
        }
        Ok(Self { len, from, header: file.slice(HEAD_LEN..at), tail: file.slice(at..), rest })
    }
}

impl<R: BlockBytes> BlockBytes for Tailed<R> {
    fn len(&self) -> Result<u64, StorageError> {
        Ok(self.len)
    }

    fn range(&self, offset: u64, len: usize) -> Result<Bytes, StorageError> {
        if offset >= self.from {
            return self.tail.range(offset - self.from, len);
        }
        match usize::try_from(offset) {
            Ok(at) if at.saturating_add(len) <= HEADER_LEN => Ok(self.header.slice(at..at + len)),
            _ => self.rest.range(offset, len),
        }
    }

    fn again(&self, offset: u64, len: usize) -> Option<Result<Bytes, StorageError>> {
        self.rest.again(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use quiver_model::{Labels, Matcher, Need, SampleColumn, TimeRange};
    use quiver_persistence::{Disk, MemoryDisk};

    use super::*;
    use crate::block::BlockWriter;
    use crate::codec::{CHUNK_SAMPLES, Decoder};

    /// Counts what is read of it; the first `bad` reads come with a flipped bit.
    #[derive(Clone)]
    struct Far(Bytes, Arc<AtomicU64>, Arc<AtomicU64>);

    impl BlockBytes for Far {
        fn len(&self) -> Result<u64, StorageError> {
            BlockBytes::len(&self.0)
        }
        fn range(&self, offset: u64, len: usize) -> Result<Bytes, StorageError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let bytes = self.0.range(offset, len)?;
            let is_bad = self.2.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
            if !is_bad {
                return Ok(bytes);
            }
            let mut bad = bytes.to_vec();
            bad[len / 2] ^= 4;
            Ok(bad.into())
        }
        fn again(&self, offset: u64, len: usize) -> Option<Result<Bytes, StorageError>> {
            Some(self.range(offset, len))
        }
    }

    fn block() -> Bytes {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let mut writer = BlockWriter::create(Arc::clone(&disk), "b").unwrap();
        for i in 0..40 {
            let labels = Labels::from_pairs([("__name__", "m".to_owned()), ("i", format!("{i:03}"))]).unwrap();
            let mut column = SampleColumn::default();
            (0..900).for_each(|t| column.push_float(t * 1000, ((t * 7919 + i * 31) % 1000) as f64 / 7.0, 0));
            let chunks = writer.encode(&column, CHUNK_SAMPLES);
            writer.push(labels.as_ref(), &chunks).unwrap();
        }
        writer.finish().unwrap();
        disk.read("b").unwrap().into()
    }

    fn read_all(block: &Block) -> Result<Vec<SampleColumn>, StorageError> {
        let mut decoder = Decoder::new();
        let ids = block.select(&[] as &[Matcher], TimeRange::ALL)?;
        ids.into_iter()
            .map(|id| {
                let mut out = SampleColumn::default();
                block.read(id, TimeRange::ALL, Need::ALL, &mut decoder, &mut out)?;
                Ok(out)
            })
            .collect()
    }

    #[test]
    fn a_block_with_its_tail_at_hand_reads_only_chunks_from_afar() {
        let bytes = block();
        let whole = Block::from_bytes("b", bytes.clone()).unwrap();
        let file = tail_file(&whole).unwrap();
        assert!(file.len() < bytes.len() / 2, "{} of {}", file.len(), bytes.len());
        let (reads, bad) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let far = Far(bytes.clone(), Arc::clone(&reads), Arc::clone(&bad));
        let block = Block::from_source("b", Tailed::new("b.tail", &file, far.clone()).unwrap()).unwrap();
        assert_eq!(block.meta(), whole.meta());
        assert_eq!(block.labels(3).unwrap(), whole.labels(3).unwrap());
        assert_eq!(block.metadata().unwrap(), whole.metadata().unwrap());
        assert_eq!(reads.load(Ordering::Relaxed), 0);
        assert_eq!(read_all(&block).unwrap(), read_all(&whole).unwrap());
        assert!(reads.load(Ordering::Relaxed) > 0);
        // What is named as needed is what is read.
        let mut named = Vec::new();
        let fresh = Block::from_source("b", Tailed::new("b.tail", &file, far).unwrap()).unwrap();
        for id in 0..40 {
            fresh.byte_ranges(id, TimeRange { min: 100_000, max: 200_000 }, &mut |_| true, &mut named).unwrap();
        }
        assert!(named.iter().all(|r| r.start < r.end && r.end <= whole.tail_offset()));
        assert!(named.len() > 40, "chunks and a column of times");
        // Damage on the way is read once more; damage that stays is an error.
        bad.store(1, Ordering::Relaxed);
        assert_eq!(read_all(&fresh).unwrap(), read_all(&whole).unwrap());
        bad.store(u64::MAX, Ordering::Relaxed);
        assert!(matches!(read_all(&fresh), Err(StorageError::Corrupt { .. })));
    }

    #[test]
    fn a_cut_or_changed_tail_is_refused_or_found_out() {
        let bytes = block();
        let whole = Block::from_bytes("b", bytes.clone()).unwrap();
        let file = tail_file(&whole).unwrap();
        let open = |file: Bytes| {
            let block = Block::from_source("b", Tailed::new("t", &file, bytes.clone())?)?;
            block.verify()
        };
        assert_eq!(open(file.clone()), Ok(()));
        for len in (0..file.len()).step_by(97).chain([file.len() - 1]) {
            assert!(Tailed::new("t", &file.slice(..len), bytes.clone()).is_err(), "cut at {len}");
        }
        for at in (0..HEAD_LEN).chain((HEAD_LEN..file.len()).step_by(211)) {
            let mut bad = file.to_vec();
            bad[at] ^= 1;
            assert!(open(bad.into()).is_err(), "byte {at}");
        }
    }
}
