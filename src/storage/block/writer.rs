//! Writes a block in one pass: series come in label order, with their chunks.
//!
//! Chunks go straight to the file. What must wait for the end, the index and the columns of times, waits in compact
//! form; times are written in groups, so that they lie together but do not pile up.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashMap;
use quiver_model::{Exemplar, LabelsRef, Metadata, SampleColumn, SeriesKinds};
use quiver_persistence::disk::parent;
use quiver_persistence::{Disk, DiskFile};
use xxhash_rust::xxh3::Xxh3Builder;

use super::format::{self, BlockMeta, Footer, Section, SectionKind, placed_crc};
use crate::bytes::{Reader, crc32c, put_bytes, put_signed, put_varint};
use crate::codec::float::put_float;
use crate::codec::{CHUNK_HISTOGRAM_BYTES, CHUNK_SAMPLES, Chunk, Encoder, TimeColumn, TimeInterner};
use crate::error::StorageError;
use crate::index::IndexBuilder;

/// Bytes gathered before a write.
const BUFFER_BYTES: usize = 1 << 20;
/// Bytes of times gathered before they are written as a group.
const TIMES_GROUP_BYTES: usize = 4 << 20;
/// Sections shorter than this are not compressed.
const COMPRESS_MIN: usize = 512;

/// Ending of the name of a block being written.
pub const TEMPORARY: &str = ".tmp";

#[derive(Clone, Copy)]
struct TimeEntry {
    offset: u64,
    min: i64,
    max: i64,
    len: u32,
    count: u32,
    crc: u32,
}

/// See the module.
pub struct BlockWriter {
    disk: Arc<dyn Disk>,
    path: String,
    temporary: String,
    file: Option<Box<dyn DiskFile>>,
    buffer: Vec<u8>,
    flushed: u64,

    index: IndexBuilder,
    series: Vec<u8>,
    series_ends: Vec<usize>,
    last_labels: Vec<u8>,

    times: Vec<TimeEntry>,
    times_pending: Vec<u8>,
    times_pending_from: usize,
    known_times: HashMap<u128, u32>,
    known_uids: HashMap<u64, u32>,
    hasher: Xxh3Builder,

    exemplars: Vec<u8>,
    exemplar_series: u64,
    metadata: Vec<u8>,
    metadata_families: u64,
    meta: BlockMeta,
    encoder: Encoder,
    interner: TimeInterner,
    finished: bool,
}

impl BlockWriter {
    /// Starts a block that will stand at `path`.
    pub fn create(disk: Arc<dyn Disk>, path: &str) -> Result<Self, StorageError> {
        let temporary = format!("{path}{TEMPORARY}");
        let file = disk.create(&temporary)?;
        // Equal columns are found by a hash whose seed no client can know.
        let seed = RandomState::new().hash_one(0u64);
        Ok(Self {
            disk,
            path: path.to_owned(),
            temporary,
            file: Some(file),
            buffer: format::header().to_vec(),
            flushed: 0,
            index: IndexBuilder::default(),
            series: Vec::new(),
            series_ends: Vec::new(),
            last_labels: Vec::new(),
            times: Vec::new(),
            times_pending: Vec::new(),
            times_pending_from: 0,
            known_times: HashMap::new(),
            known_uids: HashMap::new(),
            hasher: Xxh3Builder::new().with_seed(seed),
            exemplars: Vec::new(),
            exemplar_series: 0,
            metadata: Vec::new(),
            metadata_families: 0,
            meta: BlockMeta { min_time: i64::MAX, max_time: i64::MIN, ..BlockMeta::default() },
            encoder: Encoder::new(),
            interner: TimeInterner::default(),
            finished: false,
        })
    }

    fn position(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    fn write_out(&mut self) -> Result<(), StorageError> {
        if let Some(file) = &mut self.file {
            file.write_all(&self.buffer)?;
        }
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn write_times(&mut self) {
        let base = self.position();
        self.buffer.append(&mut self.times_pending);
        for t in &mut self.times[self.times_pending_from..] {
            t.offset += base;
            t.crc ^= placed_crc(&[], t.offset) ^ crc32c(&[]);
        }
        self.times_pending_from = self.times.len();
    }

    fn time_column(&mut self, time: &TimeColumn) -> u32 {
        if let Some(k) = self.known_uids.get(&time.uid()) {
            return *k;
        }
        let mut hasher = self.hasher.build();
        hasher.update(&time.min().to_le_bytes());
        hasher.update(&(time.count() as u64).to_le_bytes());
        hasher.update(time.bytes());
        let hash = hasher.digest128();
        let number = match self.known_times.get(&hash) {
            Some(k) => *k,
            None => {
                let number = self.times.len() as u32;
                self.times.push(TimeEntry {
                    offset: self.times_pending.len() as u64,
                    min: time.min(),
                    max: time.max(),
                    len: time.bytes().len() as u32,
                    count: time.count() as u32,
                    crc: crc32c(time.bytes()),
                });
                self.times_pending.extend_from_slice(time.bytes());
                self.known_times.insert(hash, number);
                number
            }
        };
        if self.known_uids.len() >= 1 << 16 {
            self.known_uids.clear();
        }
        self.known_uids.insert(time.uid(), number);
        number
    }

    /// Adds a series: labels after all those before, chunks ascending in time without overlap. A series without chunks
    /// is left out.
    pub fn push(&mut self, labels: LabelsRef<'_>, chunks: &[Chunk]) -> Result<(), StorageError> {
        if chunks.is_empty() {
            return Ok(());
        }
        if let Ok(last) = LabelsRef::from_packed(&self.last_labels)
            && self.index.series() > 0
            && last >= labels
        {
            return Err(StorageError::Misuse("series do not come in label order"));
        }
        if chunks.windows(2).any(|w| w[0].max_time() >= w[1].min_time()) || chunks.iter().any(|c| c.count() == 0) {
            return Err(StorageError::Misuse("chunks of a series are empty, overlap or are out of order"));
        }
        self.last_labels.clear();
        self.last_labels.extend_from_slice(labels.packed());

        let kinds = chunks.iter().fold(SeriesKinds::default(), |k, c| k.union(c.as_ref().kinds()));
        self.series.push(format::kinds_to_bits(kinds));
        put_varint(&mut self.series, chunks.len() as u64);
        let position = self.position();
        put_varint(&mut self.series, position);
        let mut last_time = 0i64;
        for c in chunks {
            let time = i64::from(self.time_column(c.time()));
            put_signed(&mut self.series, time - last_time);
            last_time = time;
            put_varint(&mut self.series, c.payload().len() as u64);
        }
        for c in chunks {
            let crc = placed_crc(c.payload(), self.position());
            self.buffer.extend_from_slice(c.payload());
            self.buffer.extend_from_slice(&crc.to_le_bytes());
            self.meta.samples += c.count() as u64;
            self.meta.chunks += 1;
            self.meta.min_time = self.meta.min_time.min(c.min_time());
            self.meta.max_time = self.meta.max_time.max(c.max_time());
        }
        // Numbers of names and values are those of appearance until the end.
        let series = &mut self.series;
        put_varint(series, labels.len() as u64);
        self.index.add(labels, |name, value| {
            put_varint(series, u64::from(name));
            put_varint(series, u64::from(value));
        });
        self.series_ends.push(self.series.len());
        self.meta.kinds = self.meta.kinds.union(kinds);
        // Between series and not before: a record says where its chunks begin.
        if self.times_pending.len() >= TIMES_GROUP_BYTES {
            self.write_times();
        }
        if self.buffer.len() >= BUFFER_BYTES {
            self.write_out()?;
        }
        Ok(())
    }

    /// Adds a series from decoded samples, in chunks of [`CHUNK_SAMPLES`].
    pub fn push_column(&mut self, labels: LabelsRef<'_>, column: &SampleColumn) -> Result<(), StorageError> {
        let chunks = self.encode(column, CHUNK_SAMPLES);
        self.push(labels, &chunks)
    }

    /// Encodes a column in chunks of at most `samples`, sharing times with what was encoded before.
    pub fn encode(&mut self, column: &SampleColumn, samples: usize) -> Vec<Chunk> {
        let samples = samples.clamp(1, crate::codec::SAMPLES_MAX);
        let mut chunks = Vec::with_capacity(column.len().div_ceil(samples));
        let mut at = 0;
        while at < column.len() {
            let end = (at + samples.min(column.fitting(at, CHUNK_HISTOGRAM_BYTES))).min(column.len());
            let time = self.interner.intern(&column.ts[at..end]);
            chunks.push(self.encoder.encode_with(time, column, at..end));
            at = end;
        }
        chunks
    }

    /// Adds exemplars of a series, which need not have samples here.
    pub fn push_exemplars(&mut self, labels: LabelsRef<'_>, exemplars: &[Exemplar]) {
        if exemplars.is_empty() {
            return;
        }
        self.exemplar_series += 1;
        self.meta.exemplars += exemplars.len() as u64;
        put_bytes(&mut self.exemplars, labels.packed());
        put_varint(&mut self.exemplars, exemplars.len() as u64);
        let mut last = 0i64;
        for e in exemplars {
            put_signed(&mut self.exemplars, e.ts.wrapping_sub(last));
            last = e.ts;
            put_float(&mut self.exemplars, e.value);
            put_bytes(&mut self.exemplars, e.labels.packed());
        }
    }

    /// Adds the metadata of a metric family, the newest first.
    pub fn push_metadata(&mut self, family: &str, metadata: &[Metadata]) {
        if metadata.is_empty() {
            return;
        }
        self.metadata_families += 1;
        put_bytes(&mut self.metadata, family.as_bytes());
        put_varint(&mut self.metadata, metadata.len() as u64);
        for m in metadata {
            self.metadata.push(m.kind as u8);
            put_bytes(&mut self.metadata, m.unit.as_bytes());
            put_bytes(&mut self.metadata, m.help.as_bytes());
        }
    }

    /// Number of series so far.
    pub fn series(&self) -> u32 {
        self.index.series()
    }

    /// Bytes so far, without the index.
    pub fn bytes(&self) -> u64 {
        self.position()
    }

    fn section(&mut self, bytes: &[u8], compress: bool) -> Result<Section, StorageError> {
        let offset = self.position();
        let mut section = Section { offset, len: bytes.len() as u64, raw_len: 0, crc: 0 };
        let packed = if compress && bytes.len() >= COMPRESS_MIN {
            let is_fit = |z: &Vec<u8>| z.len() < bytes.len() && Section::may_become(z.len() as u64, bytes.len() as u64);
            zstd::bulk::compress(bytes, 3).ok().filter(is_fit)
        } else {
            None
        };
        let stored = packed.as_deref().unwrap_or(bytes);
        if packed.is_some() {
            section.raw_len = bytes.len() as u64;
            section.len = stored.len() as u64;
        }
        section.crc = placed_crc(stored, offset);
        self.buffer.extend_from_slice(stored);
        if self.buffer.len() >= BUFFER_BYTES {
            self.write_out()?;
        }
        Ok(section)
    }

    /// Series records with final numbers: u32 × (series + 1) ends, then the records.
    fn series_section(&self, names: &[u32], values: &[Vec<u32>]) -> Result<Vec<u8>, StorageError> {
        const BROKEN: StorageError = StorageError::Misuse("a series record does not parse");
        let mut records = Vec::with_capacity(self.series.len());
        let mut out = Vec::with_capacity(self.series.len() + 4 * self.series_ends.len() + 4);
        let mut from = 0;
        let mut scratch: Vec<(u32, u32)> = Vec::new();
        let offset_of = |n: usize| u32::try_from(n).map_err(|_| StorageError::Misuse("an index of more than 4 GiB"));
        for &end in &self.series_ends {
            out.extend_from_slice(&offset_of(records.len())?.to_le_bytes());
            let record = &self.series[from..end];
            from = end;
            let mut r = Reader::new(record);
            let parse = |r: &mut Reader<'_>| -> Result<usize, crate::Damaged> {
                r.u8()?;
                let chunks = r.varint()?;
                r.varint()?;
                for _ in 0..chunks {
                    r.signed()?;
                    r.varint()?;
                }
                Ok(r.position())
            };
            let head = parse(&mut r).map_err(|_| BROKEN)?;
            records.extend_from_slice(&record[..head]);
            let labels = r.varint().map_err(|_| BROKEN)?;
            put_varint(&mut records, labels);
            scratch.clear();
            for _ in 0..labels {
                let name = r.varint().map_err(|_| BROKEN)? as usize;
                let value = r.varint().map_err(|_| BROKEN)? as usize;
                let value = values.get(name).and_then(|v| v.get(value)).copied().ok_or(BROKEN)?;
                scratch.push((names.get(name).copied().ok_or(BROKEN)?, value));
            }
            // Names are numbered in their order, so the labels stay sorted.
            for (name, value) in &scratch {
                put_varint(&mut records, u64::from(*name));
                put_varint(&mut records, u64::from(*value));
            }
        }
        out.extend_from_slice(&offset_of(records.len())?.to_le_bytes());
        out.append(&mut records);
        Ok(out)
    }

    /// Writes the rest, makes it durable and gives it its name.
    pub fn finish(mut self) -> Result<BlockMeta, StorageError> {
        self.write_times();
        let mut footer = Footer::default();
        let mut exemplars = Vec::with_capacity(self.exemplars.len() + 10);
        put_varint(&mut exemplars, self.exemplar_series);
        exemplars.append(&mut self.exemplars);
        footer.sections[SectionKind::Exemplars as usize] = self.section(&exemplars, true)?;
        let mut metadata = Vec::with_capacity(self.metadata.len() + 10);
        put_varint(&mut metadata, self.metadata_families);
        metadata.append(&mut self.metadata);
        footer.sections[SectionKind::Metadata as usize] = self.section(&metadata, true)?;

        self.meta.series = self.index.series();
        let built = std::mem::take(&mut self.index).finish()?;
        footer.sections[SectionKind::Dictionary as usize] = self.section(&built.dictionary, false)?;
        footer.sections[SectionKind::Postings as usize] = self.section(&built.postings, false)?;
        let series = self.series_section(&built.names, &built.values)?;
        footer.sections[SectionKind::Series as usize] = self.section(&series, false)?;
        let mut times = Vec::with_capacity(self.times.len() * format::TIME_ENTRY_LEN);
        for t in &self.times {
            times.extend_from_slice(&t.offset.to_le_bytes());
            times.extend_from_slice(&t.min.to_le_bytes());
            times.extend_from_slice(&t.max.to_le_bytes());
            times.extend_from_slice(&t.len.to_le_bytes());
            times.extend_from_slice(&t.count.to_le_bytes());
            times.extend_from_slice(&t.crc.to_le_bytes());
        }
        footer.sections[SectionKind::Times as usize] = self.section(&times, false)?;
        self.meta.time_columns = self.times.len() as u32;
        if self.meta.samples == 0 {
            (self.meta.min_time, self.meta.max_time) = (0, 0);
        }
        footer.meta = self.meta;
        let footer = footer.encode();
        self.buffer.extend_from_slice(&footer);
        self.buffer.extend_from_slice(&format::trailer(&footer));
        self.write_out()?;
        if let Some(mut file) = self.file.take() {
            file.sync_data()?;
        }
        self.disk.rename(&self.temporary, &self.path)?;
        self.finished = true;
        if let Err(e) = self.disk.sync_dir(parent(&self.path)) {
            // Nobody knows of it yet, and whoever tries again takes another name.
            let _ = self.disk.remove(&self.path);
            return Err(e.into());
        }
        self.meta.bytes = self.flushed;
        Ok(self.meta)
    }
}

impl Drop for BlockWriter {
    /// A block that was not finished leaves nothing behind; if even that fails, a sweep finds the temporary name.
    fn drop(&mut self) {
        if !self.finished {
            self.file = None;
            if let Err(e) = self.disk.remove(&self.temporary) {
                tracing::warn!(file = self.temporary, error = %e, "cannot remove an unfinished block file");
            }
        }
    }
}
