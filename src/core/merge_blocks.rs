//! Several blocks into one, series by series, holding one series at a time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use quiver_model::{Exemplar, Labels, SampleColumn};
use quiver_storage::block::{Block, BlockMeta, BlockWriter};
use quiver_storage::codec::Decoder;

use crate::catalog::StoredBlock;
use crate::head::{MetadataMap, add_exemplar, add_metadata};
use crate::merge::merge_columns;
use crate::store::Inner;
use crate::{Need, ReadError, TimeRange};

/// Samples of a chunk in a merged block: longer chunks are smaller.
const MERGED_CHUNK_SAMPLES: usize = 1440;

/// Writes the merged block to `path`.
pub(crate) fn write(inner: &Inner, stored: &[Arc<StoredBlock>], path: &str) -> Result<BlockMeta, ReadError> {
    let blocks: Vec<&Block> = stored.iter().map(|b| b.block()).collect::<Result<_, _>>()?;
    let mut writer = BlockWriter::create(Arc::clone(&inner.disk), path)?;
    let mut decoder = Decoder::new();
    let mut heap: BinaryHeap<Reverse<(Labels, usize, u32)>> = BinaryHeap::new();
    for (k, block) in blocks.iter().enumerate() {
        if block.meta().series > 0 {
            heap.push(Reverse((block.labels(0)?, k, 0)));
        }
    }
    let (mut out, mut columns) = (SampleColumn::default(), Vec::new());
    while let Some(Reverse((labels, k, row))) = heap.pop() {
        let mut rows = vec![(k, row)];
        while let Some(Reverse((next, k, row))) = heap.peek()
            && *next == labels
        {
            rows.push((*k, *row));
            heap.pop();
        }
        out.clear();
        for (k, row) in rows {
            let mut column = SampleColumn::default();
            blocks[k].read(row, TimeRange::ALL, Need::ALL, &mut decoder, &mut column)?;
            if out.ts.last() < column.ts.first() {
                out.extend_from(&column, 0..column.len());
            } else {
                columns.push(column);
            }
            if row + 1 < blocks[k].meta().series {
                heap.push(Reverse((blocks[k].labels(row + 1)?, k, row + 1)));
            }
        }
        if !columns.is_empty() {
            columns.push(std::mem::take(&mut out));
            merge_columns(&mut columns, &mut out);
        }
        let chunks = writer.encode(&out, MERGED_CHUNK_SAMPLES);
        writer.push(labels.as_ref(), &chunks)?;
        if inner.background.is_stopping() {
            return Err(ReadError::Io { file: path.to_owned(), what: "the store is shutting down".into() });
        }
    }
    let mut exemplars: BTreeMap<Labels, Vec<Exemplar>> = BTreeMap::new();
    for block in &blocks {
        for (labels, list) in block.exemplars()? {
            let all = exemplars.entry(labels).or_default();
            for e in &list {
                add_exemplar(all, e);
            }
        }
    }
    for (labels, list) in &exemplars {
        writer.push_exemplars(labels.as_ref(), list);
    }
    // From the oldest block to the newest, each from its oldest to its newest.
    let mut metadata = MetadataMap::new();
    for block in &blocks {
        for (family, list) in block.metadata()? {
            list.into_iter().rev().for_each(|m| add_metadata(&mut metadata, family.clone(), m));
        }
    }
    for (family, list) in &metadata {
        writer.push_metadata(family, list);
    }
    Ok(writer.finish()?)
}
