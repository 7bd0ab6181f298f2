//! Looking into a block: what takes its bytes, and whether every one of them is right.
//!
//! Where reading stops at the first damage, [`Block::verify_all`] goes on and names each place.

use std::collections::{BTreeMap, HashMap};

use quiver_model::{LabelsRef, METRIC_NAME, Matcher, Need, SampleColumn, TimeRange};
use roaring::RoaringBitmap;

use super::format::{BlockMeta, HEADER_LEN, SECTIONS, SectionKind};
use super::reader::{Block, ChunkEntry};
use crate::codec::{ChunkStats, Decoder};
use crate::error::StorageError;

/// What something takes of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Series, or values of a label.
    pub series: u64,
    /// Chunks.
    pub chunks: u64,
    /// Samples.
    pub samples: u64,
    /// Bytes, times left out since they are shared.
    pub bytes: u64,
}

/// What a block holds, counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockSummary {
    /// What its footer says.
    pub meta: BlockMeta,
    /// Bytes of values, times, and of each section.
    pub parts: Vec<(&'static str, u64)>,
    /// By the codec of the values.
    pub codecs: BTreeMap<&'static str, Share>,
    /// By metric, the largest first.
    pub metrics: Vec<(String, Share)>,
    /// By label name, the one with the most values first; `bytes` are those of the values.
    pub labels: Vec<(String, Share)>,
}

const KINDS: [(SectionKind, &str); SECTIONS] = [
    (SectionKind::Exemplars, "exemplars"),
    (SectionKind::Metadata, "metadata"),
    (SectionKind::Dictionary, "dictionary"),
    (SectionKind::Postings, "postings"),
    (SectionKind::Series, "series"),
    (SectionKind::Times, "time directory"),
];

impl Block {
    /// Counts what is in it. Reads every chunk's head and the index.
    pub fn summarize(&self) -> Result<BlockSummary, StorageError> {
        let meta = *self.meta();
        let mut codecs: BTreeMap<&'static str, Share> = BTreeMap::new();
        let mut metrics: HashMap<String, Share> = HashMap::new();
        let mut values_bytes = 0;
        for id in 0..meta.series {
            let labels = self.labels(id)?;
            let metric = metrics.entry(labels.get(METRIC_NAME).to_owned()).or_default();
            metric.series += 1;
            for e in self.chunk_entries(id, TimeRange::ALL)? {
                let name = self.chunk(&e)?.as_ref().codec_name();
                let bytes = u64::from(e.len) + 4;
                values_bytes += bytes;
                for share in [&mut *metric, codecs.entry(name).or_default()] {
                    share.chunks += 1;
                    share.samples += u64::from(e.count);
                    share.bytes += bytes;
                }
            }
        }
        let mut parts =
            vec![("values", values_bytes), ("times", self.time_extents()?.iter().map(|(_, len)| len).sum())];
        parts.extend(KINDS.iter().map(|(kind, name)| (*name, self.section_extent(*kind).1)));
        let mut labels = Vec::new();
        for name in self.label_names(None)? {
            let values = self.label_values(&name, None)?;
            let bytes = values.iter().map(|v| v.len() as u64).sum();
            labels.push((name, Share { series: values.len() as u64, bytes, ..Share::default() }));
        }
        labels.sort_by(|a, b| b.1.series.cmp(&a.1.series).then_with(|| a.0.cmp(&b.0)));
        let mut metrics: Vec<(String, Share)> = metrics.into_iter().collect();
        metrics.sort_by(|a, b| b.1.bytes.cmp(&a.1.bytes).then_with(|| a.0.cmp(&b.0)));
        Ok(BlockSummary { meta, parts, codecs, metrics, labels })
    }

    /// Reads every series and every sample once, as a query would, and counts them: what a block must pass before what it was
    /// made from may go. Stops at the first damage; takes memory for one series. Of `go_on`, called after each, a false ends it
    /// early: `Ok(false)`.
    pub fn verify_samples(&self, go_on: &mut dyn FnMut() -> bool) -> Result<bool, StorageError> {
        let (mut decoder, mut column) = (Decoder::new(), SampleColumn::default());
        let (mut packed, mut entries) = (Vec::new(), Vec::new());
        let mut samples = 0;
        for id in 0..self.meta().series {
            self.labels_packed(id, &mut packed)?;
            self.chunk_entries_into(id, TimeRange::ALL, &mut entries)?;
            for e in &entries {
                self.read_compared(id, e, &mut decoder, &mut column)?;
                samples += column.len() as u64;
            }
            if !go_on() {
                return Ok(false);
            }
        }
        if samples != self.meta().samples {
            let what = format!("{samples} samples can be read, the footer says {}", self.meta().samples);
            return Err(StorageError::corrupt(self.name(), self.section_extent(SectionKind::Series).0, what));
        }
        self.exemplars()?;
        self.metadata()?;
        Ok(true)
    }

    /// Reads a whole chunk of a series into `column`, alone; an error, too, where its entry says other times, or its header
    /// other figures, than its samples have: queries answer from these alone.
    fn read_compared(
        &self,
        id: u32,
        e: &ChunkEntry,
        decoder: &mut Decoder,
        column: &mut SampleColumn,
    ) -> Result<(), StorageError> {
        let stats = self.steady(|| {
            column.clear();
            let chunk = self.chunk(e)?;
            let chunk = chunk.as_ref();
            let stats = decoder.decode_into(chunk, Need::ALL, TimeRange::ALL, column).and_then(|()| chunk.stats());
            stats.map_err(StorageError::damaged(self.name(), e.offset))
        })?;
        let fits = column.len() == e.count as usize
            && column.ts.first() == Some(&e.min_time)
            && column.ts.last() == Some(&e.max_time)
            && column.ts.windows(2).all(|w| w[0] < w[1]);
        let wrong = |what| Err(StorageError::corrupt(self.name(), e.offset, what));
        if !fits {
            return wrong(format!("a chunk of series {id} holds other times than its entry says"));
        }
        if stats != ChunkStats::of_samples(column) {
            return wrong(format!("a chunk of series {id} holds other values than its header says"));
        }
        Ok(())
    }

    /// Checks every checksum, decodes every chunk, and compares the parts with each other; hands out all damage found.
    pub fn verify_all(&self, found: &mut dyn FnMut(StorageError)) {
        let mut is_whole = true;
        for (kind, _) in KINDS {
            if let Err(e) = self.check_section(kind) {
                is_whole = false;
                found(e);
            }
        }
        if !is_whole {
            return;
        }
        if let Err(e) = self.verify_index() {
            found(e);
            return;
        }
        let mut extents: Vec<(u64, u64)> = KINDS.iter().map(|(kind, _)| self.section_extent(*kind)).collect();
        match self.time_extents() {
            Ok(times) => extents.extend(times),
            Err(e) => return found(e),
        }
        let mut postings: HashMap<(String, String), RoaringBitmap> = HashMap::new();
        let (mut decoder, mut column) = (Decoder::new(), SampleColumn::default());
        let (mut packed, mut last) = (Vec::new(), Vec::new());
        let (mut samples, mut chunks) = (0u64, 0u64);
        let series_at = self.section_extent(SectionKind::Series).0;
        let wrong = |what: String| StorageError::corrupt(self.name(), series_at, what);
        for id in 0..self.meta().series {
            let entries =
                match self.labels_packed(id, &mut packed).and_then(|()| self.chunk_entries(id, TimeRange::ALL)) {
                    Ok(entries) => entries,
                    Err(e) => {
                        found(e);
                        continue;
                    }
                };
            match LabelsRef::from_packed(&packed) {
                Ok(labels) => {
                    if id > 0 && LabelsRef::from_packed(&last).is_ok_and(|last| last >= labels) {
                        found(wrong(format!("series {id} is not in label order")));
                    }
                    for (n, v) in labels.iter() {
                        postings.entry((n.to_owned(), v.to_owned())).or_default().insert(id);
                    }
                }
                Err(e) => found(wrong(format!("labels of series {id}: {e}"))),
            }
            last.clone_from(&packed);
            let mut before = None;
            for e in &entries {
                extents.push((e.offset, u64::from(e.len) + 4));
                samples += u64::from(e.count);
                chunks += 1;
                if before.is_some_and(|b| b >= e.min_time) || e.min_time > e.max_time {
                    found(wrong(format!("chunks of series {id} are not in order of time")));
                }
                before = Some(e.max_time);
                if let Err(e) = self.read_compared(id, e, &mut decoder, &mut column) {
                    found(e);
                }
            }
        }
        if (samples, chunks) != (self.meta().samples, self.meta().chunks) {
            let meta = self.meta();
            let what =
                format!("{samples} samples in {chunks} chunks, the footer says {} in {}", meta.samples, meta.chunks);
            found(wrong(what));
        }
        self.verify_postings(postings, found);
        for done in [self.exemplars().map(drop), self.metadata().map(drop)] {
            if let Err(e) = done {
                found(e);
            }
        }
        self.verify_extents(extents, found);
    }

    /// Every pair leads to the series that have it, and to no other.
    fn verify_postings(&self, want: HashMap<(String, String), RoaringBitmap>, found: &mut dyn FnMut(StorageError)) {
        let at = self.section_extent(SectionKind::Postings).0;
        let mut pairs = 0;
        for name in self.label_names(None).unwrap_or_default() {
            for value in self.label_values(&name, None).unwrap_or_default() {
                pairs += 1;
                let rows = self.select_bitmap(&[Matcher::equal(&name, &value)], TimeRange::ALL);
                if rows.ok().as_ref() != want.get(&(name.clone(), value.clone())) {
                    let what = format!("the index leads from {name}={value:?} to other series than have it");
                    found(StorageError::corrupt(self.name(), at, what));
                }
            }
        }
        if pairs != want.len() {
            let what = format!("the index knows {pairs} label pairs, the series have {}", want.len());
            found(StorageError::corrupt(self.name(), at, what));
        }
    }

    /// Every byte belongs to exactly one part.
    fn verify_extents(&self, mut extents: Vec<(u64, u64)>, found: &mut dyn FnMut(StorageError)) {
        extents.retain(|(_, len)| *len > 0);
        extents.sort_unstable();
        let mut at = HEADER_LEN as u64;
        for (offset, len) in extents {
            if offset != at {
                let what = if offset > at { "bytes that no part names" } else { "two parts share bytes" };
                found(StorageError::corrupt(self.name(), at.min(offset), what));
            }
            at = at.max(offset.saturating_add(len));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quiver_model::Labels;
    use quiver_persistence::{Disk, MemoryDisk};

    use super::super::BlockWriter;
    use super::super::format::placed_crc;
    use super::*;

    fn sample() -> Vec<u8> {
        let disk = Arc::new(MemoryDisk::new());
        let mut w = BlockWriter::create(disk.clone(), "b").unwrap();
        for (k, name) in ["counter", "gauge", "gauge"].iter().enumerate() {
            let labels = Labels::from_pairs([("__name__", *name), ("job", ["a", "b", "c"][k])]).unwrap();
            let mut c = SampleColumn::default();
            (0..40i64).for_each(|i| c.push_float(i * 15_000, if k == 0 { 7.0 } else { (i * i % 17) as f64 / 8.0 }, 0));
            let chunks = w.encode(&c, 20);
            w.push(labels.as_ref(), &chunks).unwrap();
        }
        w.push_metadata("gauge", &[quiver_model::Metadata::default()]);
        w.finish().unwrap();
        disk.read("b").unwrap()
    }

    fn damage(bytes: Vec<u8>) -> Vec<StorageError> {
        let mut found = Vec::new();
        match Block::from_bytes("b", bytes.into()) {
            Ok(block) => block.verify_all(&mut |e| found.push(e)),
            Err(e) => found.push(e),
        }
        found
    }

    #[test]
    fn a_whole_block_is_whole_and_every_flipped_byte_is_found_where_it_is() {
        let whole = sample();
        assert_eq!(damage(whole.clone()), []);
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x40;
            let found = damage(bad);
            assert!(!found.is_empty(), "byte {at}");
            for e in found {
                let (StorageError::Corrupt { .. } | StorageError::Version { .. }) = e else { panic!("{e}") };
            }
        }
        // Damage of two chunks is two findings.
        let block = Block::from_bytes("b", whole.clone().into()).unwrap();
        let mut bad = whole;
        for id in [1, 2] {
            bad[block.chunk_entries(id, TimeRange::ALL).unwrap()[0].offset as usize] ^= 1;
        }
        assert_eq!(damage(bad).len(), 2);
    }

    #[test]
    fn a_chunk_whose_header_says_other_figures_than_its_samples_have_is_found() {
        let mut bytes = sample();
        let block = Block::from_bytes("b", bytes.clone().into()).unwrap();
        let e = block.chunk_entries(1, TimeRange::ALL).unwrap()[0];
        let (at, len) = (e.offset as usize, e.len as usize);
        let resets = block.chunk_stats(&e).unwrap().values.unwrap().resets;
        assert_eq!(u32::from(bytes[at + 1]), resets);
        bytes[at + 1] += 1;
        let crc = placed_crc(&bytes[at..at + len], e.offset);
        bytes[at + len..at + len + 4].copy_from_slice(&crc.to_le_bytes());
        let found = damage(bytes.clone());
        assert_eq!(found.len(), 1);
        assert!(found[0].to_string().contains("series 1"), "{}", found[0]);
        assert!(Block::from_bytes("b", bytes.into()).unwrap().verify_samples(&mut || true).is_err());
    }

    #[test]
    fn a_summary_adds_up() {
        let bytes = sample();
        let block = Block::from_bytes("b", bytes.clone().into()).unwrap();
        let s = block.summarize().unwrap();
        assert_eq!(s.metrics.iter().map(|(_, m)| m.samples).sum::<u64>(), 120);
        assert_eq!(s.codecs.values().map(|c| c.chunks).sum::<u64>(), 6);
        assert_eq!(s.codecs["constant"].chunks, 2);
        assert_eq!(s.metrics[0].0, "gauge");
        assert_eq!(
            s.labels.iter().map(|(n, l)| (n.as_str(), l.series)).collect::<Vec<_>>(),
            [("job", 3), ("__name__", 2)]
        );
        let parts: u64 = s.parts.iter().map(|(_, n)| n).sum();
        assert!(parts < bytes.len() as u64 && parts + 200 > bytes.len() as u64, "{parts} of {}", bytes.len());
    }
}
