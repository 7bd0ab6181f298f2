//! What is whole of a damaged block, as a block of its own.
//!
//! ```text
//! damaged block ─▶ every chunk that passes its checksum and decodes to what its entry says ─▶ a new block
//!              └─▶ the rest: named, by series and from when to when
//! ```
//!
//! Where the index or the footer is damaged, no chunk can be told from another, and nothing is salvaged.
//!
//! Invariants
//! 1. Lost is what does not match its checksum and what the medium does not give, asked twice. Any other failure may pass: it ends
//!    the salvage, and nothing is counted as lost by it.

use std::sync::Arc;

use quiver_model::{Labels, LabelsRef, Need, SampleColumn, TimeRange};
use quiver_persistence::{Disk, DiskErrorKind};
use quiver_storage::block::{Block, BlockMeta, BlockWriter, ChunkEntry};
use quiver_storage::codec::{Chunk, Decoder};
use quiver_storage::error::StorageError;

/// A part of a series that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// The series; `None` where not even its labels are readable.
    pub series: Option<Labels>,
    /// Time of the first sample lost, ms.
    pub min_ts: i64,
    /// Time of the last one.
    pub max_ts: i64,
    /// Number of them.
    pub samples: u64,
}

/// What was saved of a block, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// The new block; `None` where nothing was left to write.
    pub meta: Option<BlockMeta>,
    /// Parts of series that are lost.
    pub lost: Vec<LostRange>,
    /// Are the exemplars lost?
    pub exemplars_lost: bool,
    /// Is the metadata lost?
    pub metadata_lost: bool,
}

impl Salvaged {
    /// Is nothing lost?
    pub(crate) fn is_whole(&self) -> bool {
        self.meta.is_some() && self.lost.is_empty() && !self.exemplars_lost && !self.metadata_lost
    }

    /// Samples lost.
    pub fn samples_lost(&self) -> u64 {
        self.lost.iter().map(|l| l.samples).sum()
    }
}

/// Is it lost for good what could not be read? A disk out of descriptors or memory, or a file of somebody else, says nothing about
/// the bytes.
pub(crate) fn is_lost(e: &StorageError) -> bool {
    match e {
        StorageError::Corrupt { .. } => true,
        StorageError::Disk(e) => {
            matches!(e.kind, DiskErrorKind::Media | DiskErrorKind::NotFound | DiskErrorKind::Invalid)
        }
        _ => false,
    }
}

/// What `read` gives; `None` where that is lost. The medium is asked once more: a transfer that failed may do so only once.
pub(crate) fn readable<T>(mut read: impl FnMut() -> Result<T, StorageError>) -> Result<Option<T>, StorageError> {
    let is_medium = |e: &StorageError| matches!(e, StorageError::Disk(e) if e.kind == DiskErrorKind::Media);
    let done = match read() {
        Err(e) if is_medium(&e) => read(),
        done => done,
    };
    match done {
        Ok(read) => Ok(Some(read)),
        Err(e) if is_lost(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes what is whole of `block` to `path`; `None` where its index cannot be read.
pub(crate) fn salvage(disk: &Arc<dyn Disk>, block: &Block, path: &str) -> Result<Option<Salvaged>, StorageError> {
    let mut out = Salvaged::default();
    let mut writer = BlockWriter::create(Arc::clone(disk), path)?;
    let (mut decoder, mut column) = (Decoder::new(), SampleColumn::default());
    let (mut packed, mut last) = (Vec::new(), Vec::new());
    let mut written = 0u64;
    for id in 0..block.meta().series {
        if readable(|| block.labels_packed(id, &mut packed))?.is_none() {
            return Ok(None);
        }
        let labels = LabelsRef::from_packed(&packed).ok();
        // Only in order can they be written; a disorder is damage too.
        let in_order = |l: &LabelsRef<'_>| last.is_empty() || LabelsRef::from_packed(&last).is_ok_and(|last| last < *l);
        let labels = labels.filter(in_order);
        let mut whole: Vec<Chunk> = Vec::new();
        let mut end = None;
        let Some(entries) = readable(|| block.chunk_entries(id, TimeRange::ALL))? else { return Ok(None) };
        for e in entries {
            let follows = end.is_none_or(|end| end < e.min_time);
            match read(block, &e, &mut decoder, &mut column)? {
                Some(chunk) if follows && labels.is_some() => {
                    end = Some(e.max_time);
                    whole.push(chunk);
                }
                _ => out.lost.push(LostRange {
                    series: Labels::from_packed(&packed).ok(),
                    min_ts: e.min_time,
                    max_ts: e.max_time,
                    samples: u64::from(e.count),
                }),
            }
        }
        if let Some(labels) = labels.filter(|_| !whole.is_empty()) {
            writer.push(labels, &whole)?;
            written += 1;
            last.clone_from(&packed);
        }
    }
    match readable(|| block.exemplars())? {
        Some(list) => {
            list.iter().for_each(|(labels, list)| writer.push_exemplars(labels.as_ref(), list));
            written += list.len() as u64;
        }
        None => out.exemplars_lost = true,
    }
    match readable(|| block.metadata())? {
        Some(list) => {
            list.iter().for_each(|(family, list)| writer.push_metadata(family, list));
            written += list.len() as u64;
        }
        None => out.metadata_lost = true,
    }
    if written > 0 {
        out.meta = Some(writer.finish()?);
    }
    Ok(Some(out))
}

/// A chunk, if it is what its entry says.
fn read(
    block: &Block,
    e: &ChunkEntry,
    decoder: &mut Decoder,
    column: &mut SampleColumn,
) -> Result<Option<Chunk>, StorageError> {
    let decoded = readable(|| {
        column.clear();
        block.read_chunk(e, TimeRange::ALL, Need::ALL, decoder, column)
    })?;
    let fits = decoded.is_some()
        && column.len() == e.count as usize
        && column.ts.first() == Some(&e.min_time)
        && column.ts.last() == Some(&e.max_time)
        && column.ts.windows(2).all(|w| w[0] < w[1]);
    if fits { readable(|| block.chunk(e)) } else { Ok(None) }
}
