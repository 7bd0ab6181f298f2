//! Reads blocks.
//!
//! Opening reads header, footer and trailer. The index is read at the first selection, a chunk when it is asked for;
//! each is checked against its checksum every time it is read from the file.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use quiver_model::{
    Exemplar, Labels, LabelsRef, Matcher, Metadata, MetricKind, Need, SampleColumn, SeriesKinds, TimeRange,
};
use quiver_persistence::{Disk, DiskError, DiskRead, Mapped};
use roaring::RoaringBitmap;

use super::format::{
    self, BlockMeta, Footer, HEADER_LEN, Section, SectionKind, TIME_ENTRY_LEN, TRAILER_LEN, kinds_from_bits, placed_crc,
};
use crate::bytes::{Damaged, Reader};
use crate::codec::chunk::ChunkRef;
use crate::codec::float::get_float;
use crate::codec::time::next_uid;
use crate::codec::{Chunk, ChunkStats, Decoder, SAMPLES_MAX, TimeColumn};
use crate::error::StorageError;
use crate::index::{self, BlockIndex, IndexUse, MatcherStep, Picked};

/// Where the bytes of a block come from: memory, a file, a remote store.
pub trait BlockBytes: Send + Sync {
    /// Length of the block.
    fn len(&self) -> Result<u64, StorageError>;
    /// No bytes?
    fn is_empty(&self) -> Result<bool, StorageError> {
        Ok(self.len()? == 0)
    }
    /// `len` bytes from `offset`; fewer where the block ends before.
    fn range(&self, offset: u64, len: usize) -> Result<Bytes, StorageError>;
    /// Bytes that were found damaged, once more from where they come from, past whatever keeps copies on the way. `None`
    /// where nothing does.
    fn again(&self, _offset: u64, _len: usize) -> Option<Result<Bytes, StorageError>> {
        None
    }
    /// May bytes that were handed out and checked have turned into others since, because a page of a mapped file got lost?
    /// Once it is so, it stays; what is asked for from then on is right, or an error.
    fn is_lost(&self) -> bool {
        false
    }
}

impl<T: BlockBytes + ?Sized> BlockBytes for Arc<T> {
    fn len(&self) -> Result<u64, StorageError> {
        (**self).len()
    }
    fn range(&self, offset: u64, len: usize) -> Result<Bytes, StorageError> {
        (**self).range(offset, len)
    }
    fn again(&self, offset: u64, len: usize) -> Option<Result<Bytes, StorageError>> {
        (**self).again(offset, len)
    }
    fn is_lost(&self) -> bool {
        (**self).is_lost()
    }
}

impl BlockBytes for Bytes {
    fn len(&self) -> Result<u64, StorageError> {
        Ok((**self).len() as u64)
    }
    fn range(&self, offset: u64, len: usize) -> Result<Bytes, StorageError> {
        let total = (**self).len();
        let from = usize::try_from(offset).unwrap_or(total).min(total);
        Ok(self.slice(from..from.saturating_add(len).min(total)))
    }
}

/// A mapped file; read by ranges once a page of the mapping got lost.
impl BlockBytes for Mapped {
    fn len(&self) -> Result<u64, StorageError> {
        Ok(self.bytes().len() as u64)
    }
    fn range(&self, offset: u64, len: usize) -> Result<Bytes, StorageError> {
        if Mapped::is_lost(self) { Ok(self.read_at(offset, len)?) } else { self.bytes().range(offset, len) }
    }
    fn again(&self, offset: u64, len: usize) -> Option<Result<Bytes, StorageError>> {
        Mapped::is_lost(self).then(|| Ok(self.read_at(offset, len)?))
    }
    fn is_lost(&self) -> bool {
        Mapped::is_lost(self)
    }
}

/// A file read by ranges.
struct FileBytes(Arc<dyn DiskRead>);

impl BlockBytes for FileBytes {
    fn len(&self) -> Result<u64, StorageError> {
        Ok(self.0.len()?)
    }
    fn range(&self, offset: u64, len: usize) -> Result<Bytes, StorageError> {
        let read: Result<Vec<u8>, DiskError> = self.0.read_at(offset, len);
        Ok(Bytes::from(read?))
    }
}

/// Where a chunk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Number of its column of times.
    pub time: u32,
    /// Where its payload begins.
    pub offset: u64,
    /// Length of the payload, without checksum.
    pub len: u32,
    /// First time.
    pub min_time: i64,
    /// Last time.
    pub max_time: i64,
    /// Samples.
    pub count: u32,
}

struct Loaded {
    index: BlockIndex,
    series: Bytes,
    series_offset: u64,
    times: Bytes,
    columns: Vec<OnceLock<Arc<TimeColumn>>>,
}

/// Takes back what was appended after the first `len` samples.
fn cut(out: &mut SampleColumn, len: usize) {
    out.ts.truncate(len);
    out.values.truncate(len);
    out.start_ts.truncate(len);
    out.histograms.retain(|(p, _)| (*p as usize) < len);
}

/// An open block. Cheap to open; to be shared.
pub struct Block {
    name: String,
    uid: u64,
    bytes: Box<dyn BlockBytes>,
    footer: Footer,
    loaded: OnceLock<Loaded>,
    /// The same, read when a page of the mapping had got lost.
    reloaded: OnceLock<Loaded>,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({}, {:?})", self.name, self.footer.meta)
    }
}

#[derive(Clone, Copy)]
struct TimeEntry {
    offset: u64,
    min: i64,
    max: i64,
    len: u32,
    count: u32,
    crc: u32,
}

const SHORT: Damaged = Damaged("section ends early");

impl Block {
    /// Opens the block at `path`, mapped where the disk can.
    pub fn open(disk: &dyn Disk, path: &str) -> Result<Self, StorageError> {
        match disk.map_pages(path)? {
            Some(pages) => Self::from_source(path, pages),
            None => Self::open_unmapped(disk, path),
        }
    }

    /// Opens the block at `path` without mapping it: ranges are read when they are needed.
    pub fn open_unmapped(disk: &dyn Disk, path: &str) -> Result<Self, StorageError> {
        Self::from_source(path, FileBytes(disk.open_read(path)?))
    }

    /// A block in memory.
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Self, StorageError> {
        Self::from_source(name, bytes)
    }

    /// A block from anywhere; `name` is what errors call it.
    pub fn from_source(name: &str, bytes: impl BlockBytes + 'static) -> Result<Self, StorageError> {
        let len = bytes.len()?;
        let corrupt = |offset: u64, what: &str| StorageError::corrupt(name, offset, what);
        if len < (HEADER_LEN + TRAILER_LEN) as u64 {
            return Err(corrupt(0, "shorter than a block can be"));
        }
        let header = bytes.range(0, HEADER_LEN)?;
        let version = format::parse_header(&header).map_err(StorageError::damaged(name, 0))?;
        if version > format::VERSION {
            return Err(StorageError::Version { file: name.to_owned(), found: version, known: format::VERSION });
        }
        let trailer_at = len - TRAILER_LEN as u64;
        let trailer = bytes.range(trailer_at, TRAILER_LEN)?;
        let damaged = StorageError::damaged(name, trailer_at);
        let parse = || -> Result<(u32, u32, u32), Damaged> {
            let mut r = Reader::new(&trailer);
            let parts = (r.u32()?, r.u32()?, r.u32()?);
            if r.take(8)? != format::END_MAGIC {
                return Err(Damaged("trailer has no magic number: the block ends early or is damaged"));
            }
            Ok(parts)
        };
        let (footer_len, crc, end_version) = parse().map_err(damaged)?;
        if end_version != version || u64::from(footer_len) > trailer_at - HEADER_LEN as u64 {
            return Err(corrupt(trailer_at, "trailer does not fit the block"));
        }
        let footer_at = trailer_at - u64::from(footer_len);
        let footer_bytes = bytes.range(footer_at, footer_len as usize)?;
        if format::footer_crc(&footer_bytes, end_version) != crc {
            return Err(corrupt(footer_at, "footer does not match its checksum"));
        }
        let mut footer = Footer::parse(&footer_bytes).map_err(StorageError::damaged(name, footer_at))?;
        for s in &footer.sections {
            if s.offset.checked_add(s.len).is_none_or(|end| end > footer_at) {
                return Err(corrupt(footer_at, "a section lies outside the block"));
            }
        }
        footer.meta.bytes = len;
        Ok(Self {
            name: name.to_owned(),
            uid: next_uid(),
            bytes: Box::new(bytes),
            footer,
            loaded: OnceLock::new(),
            reloaded: OnceLock::new(),
        })
    }

    /// A block from elsewhere whose bytes are those of one that is open: decoded columns of that one count for it, too.
    pub fn from_source_like(name: &str, bytes: impl BlockBytes + 'static, other: &Block) -> Result<Self, StorageError> {
        let mut block = Self::from_source(name, bytes)?;
        if block.footer.meta != other.footer.meta {
            return Err(StorageError::corrupt(name, 0, "another block than the one it was made from"));
        }
        block.uid = other.uid;
        Ok(block)
    }

    /// Where its bytes come from.
    pub(super) fn source(&self) -> &dyn BlockBytes {
        &*self.bytes
    }

    /// From here on it is metadata, index and footer: what it takes to open it and to select series.
    pub fn tail_offset(&self) -> u64 {
        let first = SectionKind::Metadata as usize;
        let offsets = self.footer.sections.iter().skip(first).map(|s| s.offset);
        offsets.min().unwrap_or(self.footer.meta.bytes)
    }

    /// Byte ranges it takes to read a series in a time range: chunks that `wanted` accepts, and their columns of times where
    /// those are not read yet. Ranges may come twice and in any order.
    pub fn byte_ranges(
        &self,
        id: u32,
        range: TimeRange,
        wanted: &mut dyn FnMut(&ChunkEntry) -> bool,
        out: &mut Vec<Range<u64>>,
    ) -> Result<(), StorageError> {
        let loaded = self.loaded()?;
        for e in self.chunk_entries(id, range)? {
            if !wanted(&e) {
                continue;
            }
            out.push(e.offset..e.offset.saturating_add(u64::from(e.len) + 4));
            if loaded.columns.get(e.time as usize).is_some_and(|c| c.get().is_none()) {
                let t = self.time_entry(loaded, e.time).map_err(self.corrupt(loaded.series_offset))?;
                out.push(t.offset..t.offset.saturating_add(u64::from(t.len)));
            }
        }
        Ok(())
    }

    /// Bytes that `is_good` accepts; where it does not, they are read once more from where they come from.
    fn checked(
        &self,
        offset: u64,
        len: usize,
        is_good: impl Fn(&Bytes) -> bool,
    ) -> Result<Option<Bytes>, StorageError> {
        let bytes = self.bytes.range(offset, len)?;
        if is_good(&bytes) {
            return Ok(Some(bytes));
        }
        match self.bytes.again(offset, len) {
            None => Ok(None),
            Some(bytes) => Ok(Some(bytes?).filter(is_good)),
        }
    }

    /// The name it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A number no other open block of this process has.
    pub fn uid(&self) -> u64 {
        self.uid
    }

    /// What it holds.
    pub fn meta(&self) -> &BlockMeta {
        &self.footer.meta
    }

    /// From its first to its last sample.
    pub fn time_range(&self) -> TimeRange {
        TimeRange { min: self.footer.meta.min_time, max: self.footer.meta.max_time }
    }

    fn corrupt(&self, offset: u64) -> impl FnOnce(Damaged) -> StorageError + '_ {
        StorageError::damaged(&self.name, offset)
    }

    fn section(&self, kind: SectionKind) -> Result<Bytes, StorageError> {
        let s: Section = self.footer.sections[kind as usize];
        let len = usize::try_from(s.len).map_err(|_| StorageError::corrupt(&self.name, s.offset, SHORT))?;
        let is_good = |bytes: &Bytes| bytes.len() == len && placed_crc(bytes, s.offset) == s.crc;
        let Some(bytes) = self.checked(s.offset, len, is_good)? else {
            let what = format!("{kind:?} section does not match its checksum");
            return Err(StorageError::corrupt(&self.name, s.offset, what));
        };
        if s.raw_len == 0 {
            return Ok(bytes);
        }
        let bad = || StorageError::corrupt(&self.name, s.offset, format!("{kind:?} section does not decompress"));
        let raw_len =
            usize::try_from(s.raw_len).ok().filter(|_| Section::may_become(s.len, s.raw_len)).ok_or_else(bad)?;
        let raw = zstd::bulk::decompress(&bytes, raw_len).map_err(|_| bad())?;
        if raw.len() != raw_len {
            return Err(bad());
        }
        Ok(raw.into())
    }

    /// Does something with bytes that may turn into others while it does; then does it again, with bytes that do not.
    pub(super) fn steady<T>(&self, mut work: impl FnMut() -> Result<T, StorageError>) -> Result<T, StorageError> {
        let was_lost = self.bytes.is_lost();
        let done = work();
        if self.bytes.is_lost() == was_lost { done } else { work() }
    }

    /// May what was read of it, before this said yes for the first time, be wrong?
    pub fn is_lost(&self) -> bool {
        self.bytes.is_lost()
    }

    fn loaded(&self) -> Result<&Loaded, StorageError> {
        let place = if self.bytes.is_lost() { &self.reloaded } else { &self.loaded };
        if let Some(loaded) = place.get() {
            return Ok(loaded);
        }
        let meta = &self.footer.meta;
        let offset_of = |kind: SectionKind| self.footer.sections[kind as usize].offset;
        let dictionary = self.section(SectionKind::Dictionary)?;
        let postings = self.section(SectionKind::Postings)?;
        let index = BlockIndex::open(dictionary, postings, meta.series)
            .map_err(self.corrupt(offset_of(SectionKind::Dictionary)))?;
        let series = self.section(SectionKind::Series)?;
        let series_offset = offset_of(SectionKind::Series);
        if series.len() < 4 * (meta.series as usize + 1) {
            return Err(StorageError::corrupt(&self.name, series_offset, SHORT));
        }
        let times = self.section(SectionKind::Times)?;
        if times.len() != meta.time_columns as usize * TIME_ENTRY_LEN {
            return Err(StorageError::corrupt(&self.name, offset_of(SectionKind::Times), SHORT));
        }
        let columns = (0..meta.time_columns).map(|_| OnceLock::new()).collect();
        // Two at once may load; one wins.
        Ok(place.get_or_init(|| Loaded { index, series, series_offset, times, columns }))
    }

    fn record<'a>(&self, loaded: &'a Loaded, id: u32) -> Result<&'a [u8], StorageError> {
        let parse = || -> Result<&'a [u8], Damaged> {
            if id >= self.footer.meta.series {
                return Err(Damaged("series out of bounds"));
            }
            let table = 4 * (self.footer.meta.series as usize + 1);
            let mut r = Reader::new(loaded.series.get(4 * id as usize..).ok_or(SHORT)?);
            let (a, b) = (r.u32()? as usize, r.u32()? as usize);
            loaded.series.get(table..).and_then(|records| records.get(a..b)).ok_or(SHORT)
        };
        parse().map_err(self.corrupt(loaded.series_offset))
    }

    fn time_entry(&self, loaded: &Loaded, number: u32) -> Result<TimeEntry, Damaged> {
        let at = number as usize * TIME_ENTRY_LEN;
        let mut r = Reader::new(loaded.times.get(at..at + TIME_ENTRY_LEN).ok_or(SHORT)?);
        let entry = TimeEntry {
            offset: r.u64()?,
            min: r.u64()? as i64,
            max: r.u64()? as i64,
            len: r.u32()?,
            count: r.u32()?,
            crc: r.u32()?,
        };
        if entry.count as usize > SAMPLES_MAX {
            return Err(Damaged("too many samples in a chunk"));
        }
        if entry.count == 0 || entry.min > entry.max {
            return Err(Damaged("a column of times without samples"));
        }
        Ok(entry)
    }

    fn time_column<'a>(&self, loaded: &'a Loaded, number: u32) -> Result<&'a Arc<TimeColumn>, StorageError> {
        let bad = |what: Damaged| StorageError::corrupt(&self.name, loaded.series_offset, what);
        let slot = loaded.columns.get(number as usize).ok_or_else(|| bad(Damaged("time column out of bounds")))?;
        if let Some(column) = slot.get() {
            return Ok(column);
        }
        let e = self.time_entry(loaded, number).map_err(bad)?;
        let is_good = |bytes: &Bytes| bytes.len() == e.len as usize && placed_crc(bytes, e.offset) == e.crc;
        let Some(bytes) = self.checked(e.offset, e.len as usize, is_good)? else {
            return Err(StorageError::corrupt(&self.name, e.offset, "a column of times does not match its checksum"));
        };
        Ok(slot.get_or_init(|| Arc::new(TimeColumn::from_parts(next_uid(), e.count, e.min, e.max, bytes))))
    }

    /// Hands out the chunks of a series until `each` returns false; then the rest of its record is the labels.
    fn for_chunks<'a>(
        &self,
        loaded: &'a Loaded,
        id: u32,
        mut each: impl FnMut(ChunkEntry) -> bool,
    ) -> Result<(SeriesKinds, Reader<'a>), StorageError> {
        let mut r = Reader::new(self.record(loaded, id)?);
        let mut parse = || -> Result<SeriesKinds, Damaged> {
            let kinds = kinds_from_bits(r.u8()?);
            let n = r.varint()?;
            let mut offset = r.varint()?;
            let (mut time, mut wanted) = (0i64, true);
            for _ in 0..n {
                time = time.wrapping_add(r.signed()?);
                let len = u32::try_from(r.varint()?).map_err(|_| Damaged("chunk length out of bounds"))?;
                let number = u32::try_from(time).map_err(|_| Damaged("time column out of bounds"))?;
                if wanted {
                    let t = self.time_entry(loaded, number)?;
                    wanted = each(ChunkEntry {
                        time: number,
                        offset,
                        len,
                        min_time: t.min,
                        max_time: t.max,
                        count: t.count,
                    });
                }
                offset = offset.checked_add(u64::from(len) + 4).ok_or(Damaged("chunk offset out of bounds"))?;
            }
            Ok(kinds)
        };
        let kinds = parse().map_err(self.corrupt(loaded.series_offset))?;
        Ok((kinds, r))
    }

    fn payload(&self, e: &ChunkEntry) -> Result<Bytes, StorageError> {
        let len = e.len as usize;
        let crc_of = |bytes: &Bytes| bytes.get(len..len + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let is_good = |bytes: &Bytes| crc_of(bytes).is_some_and(|crc| placed_crc(&bytes[..len], e.offset) == crc);
        match self.checked(e.offset, len + 4, is_good)? {
            Some(bytes) => Ok(bytes.slice(..len)),
            None => Err(StorageError::corrupt(&self.name, e.offset, "chunk does not match its checksum")),
        }
    }

    /// Series that fulfil all matchers and have a chunk in `range`, in label order.
    pub fn select(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<u32>, StorageError> {
        Ok(self.select_bitmap(matchers, range)?.into_iter().collect())
    }

    /// [`Block::select`] as a bitmap.
    pub fn select_bitmap(&self, matchers: &[Matcher], range: TimeRange) -> Result<RoaringBitmap, StorageError> {
        let ids = self.pick(matchers, IndexUse::Force, None)?.ids;
        self.within(ids, range)
    }

    /// Series that fulfil the matchers, but for those matchers that are left to be tested on labels; see [`index::pick`].
    pub fn pick<'m>(
        &self,
        matchers: &'m [Matcher],
        how: IndexUse,
        trace: Option<&mut Vec<MatcherStep>>,
    ) -> Result<Picked<'m>, StorageError> {
        if self.footer.meta.series == 0 {
            return Ok(Picked { ids: RoaringBitmap::new(), rest: Vec::new() });
        }
        let at = self.footer.sections[SectionKind::Postings as usize].offset;
        let mut trace = trace;
        let was_lost = self.bytes.is_lost();
        let mut pick =
            || index::pick(&self.loaded()?.index, matchers, how, trace.as_deref_mut()).map_err(self.corrupt(at));
        let picked = pick();
        if self.bytes.is_lost() == was_lost { picked } else { pick() }
    }

    /// Those of `ids` that have a chunk in `range`.
    pub fn within(&self, ids: RoaringBitmap, range: TimeRange) -> Result<RoaringBitmap, StorageError> {
        let meta = &self.footer.meta;
        if ids.is_empty() || !range.overlaps(meta.min_time, meta.max_time) {
            return Ok(RoaringBitmap::new());
        }
        if range.covers(meta.min_time, meta.max_time) {
            return Ok(ids);
        }
        self.steady(|| {
            let loaded = self.loaded()?;
            let mut out = RoaringBitmap::new();
            for id in &ids {
                let mut hit = false;
                self.for_chunks(loaded, id, |e| {
                    hit = range.overlaps(e.min_time, e.max_time);
                    !hit && e.min_time <= range.max
                })?;
                if hit {
                    out.insert(id);
                }
            }
            Ok(out)
        })
    }

    /// At most about this many series fulfil the matchers.
    pub fn estimate(&self, matchers: &[Matcher]) -> Result<u64, StorageError> {
        let at = self.footer.sections[SectionKind::Postings as usize].offset;
        self.steady(|| index::estimate(&self.loaded()?.index, matchers).map_err(self.corrupt(at)))
    }

    /// Labels of a series, packed, into a buffer (cleared first).
    pub fn labels_packed(&self, id: u32, out: &mut Vec<u8>) -> Result<(), StorageError> {
        let was_lost = self.bytes.is_lost();
        let done = self.read_labels(id, out);
        if self.bytes.is_lost() == was_lost { done } else { self.read_labels(id, out) }
    }

    fn read_labels(&self, id: u32, out: &mut Vec<u8>) -> Result<(), StorageError> {
        out.clear();
        let loaded = self.loaded()?;
        let (_, mut r) = self.for_chunks(loaded, id, |_| false)?;
        let mut parse = || -> Result<(), Damaged> {
            let mut after = 0;
            for _ in 0..r.varint()? {
                let (name, value) = (r.count(usize::MAX)?, r.count(usize::MAX)?);
                // Names have their numbers in order: so what a row repeats is bounded by the dictionary.
                if name < after {
                    return Err(Damaged("labels out of order"));
                }
                after = name + 1;
                let (name, value) = loaded.index.pair_at(name, value)?;
                quiver_model::labels::push_packed(out, name, value);
            }
            Ok(())
        };
        parse().map_err(self.corrupt(loaded.series_offset))
    }

    /// Labels of a series.
    pub fn labels(&self, id: u32) -> Result<Labels, StorageError> {
        let mut packed = Vec::new();
        self.labels_packed(id, &mut packed)?;
        Labels::from_packed(&packed).map_err(|e| {
            StorageError::corrupt(&self.name, self.footer.sections[SectionKind::Series as usize].offset, e)
        })
    }

    /// What a series holds.
    pub fn kinds(&self, id: u32) -> Result<SeriesKinds, StorageError> {
        self.steady(|| Ok(self.for_chunks(self.loaded()?, id, |_| false)?.0))
    }

    /// Chunks of a series in a range, without reading them.
    pub fn chunk_entries(&self, id: u32, range: TimeRange) -> Result<Vec<ChunkEntry>, StorageError> {
        let mut out = Vec::new();
        self.chunk_entries_into(id, range, &mut out)?;
        Ok(out)
    }

    /// [`Block::chunk_entries`] into a buffer (cleared first).
    pub fn chunk_entries_into(&self, id: u32, range: TimeRange, out: &mut Vec<ChunkEntry>) -> Result<(), StorageError> {
        self.steady(|| {
            out.clear();
            self.for_chunks(self.loaded()?, id, |e| {
                if range.overlaps(e.min_time, e.max_time) {
                    out.push(e);
                }
                e.max_time <= range.max
            })?;
            Ok(())
        })
    }

    /// About how many samples a series has in a range.
    pub fn samples_hint(&self, id: u32, range: TimeRange) -> Result<usize, StorageError> {
        self.steady(|| {
            let mut sum = 0usize;
            self.for_chunks(self.loaded()?, id, |e| {
                if range.overlaps(e.min_time, e.max_time) {
                    let width = e.max_time.saturating_sub(e.min_time).max(1) as f64;
                    let part = e.max_time.min(range.max).saturating_sub(e.min_time.max(range.min)) as f64;
                    sum += (f64::from(e.count) * (part / width).min(1.0)).ceil().max(1.0) as usize;
                }
                e.max_time <= range.max
            })?;
            Ok(sum)
        })
    }

    /// One chunk, checked; its bytes are shared with the block.
    pub fn chunk(&self, e: &ChunkEntry) -> Result<Chunk, StorageError> {
        let loaded = self.loaded()?;
        let time = Arc::clone(self.time_column(loaded, e.time)?);
        Ok(Chunk::from_parts(time, self.payload(e)?))
    }

    /// All chunks of a series, checked.
    pub fn chunks(&self, id: u32) -> Result<Vec<Chunk>, StorageError> {
        self.chunk_entries(id, TimeRange::ALL)?.iter().map(|e| self.chunk(e)).collect()
    }

    /// Appends the samples of one chunk to `out`.
    pub fn read_chunk(
        &self,
        e: &ChunkEntry,
        range: TimeRange,
        need: Need,
        decoder: &mut Decoder,
        out: &mut SampleColumn,
    ) -> Result<(), StorageError> {
        self.steady_into(out, |out| {
            let loaded = self.loaded()?;
            let time = self.time_column(loaded, e.time)?;
            let payload = self.payload(e)?;
            decoder.decode_into(ChunkRef { time, payload: &payload }, need, range, out).map_err(self.corrupt(e.offset))
        })
    }

    /// [`Block::steady`] for work that appends to `out`.
    fn steady_into(
        &self,
        out: &mut SampleColumn,
        mut work: impl FnMut(&mut SampleColumn) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let (begin, was_lost) = (out.len(), self.bytes.is_lost());
        let done = work(out);
        if self.bytes.is_lost() == was_lost {
            return done;
        }
        cut(out, begin);
        work(out)
    }

    /// What the header of a chunk tells.
    pub fn chunk_stats(&self, e: &ChunkEntry) -> Result<ChunkStats, StorageError> {
        self.steady(|| ChunkStats::of(&self.payload(e)?, e.count as usize).map_err(self.corrupt(e.offset)))
    }

    /// Appends the times of a column of times: what [`Block::read_chunk_at`] wants.
    pub fn times(&self, number: u32, out: &mut Vec<i64>) -> Result<(), StorageError> {
        let (begin, was_lost) = (out.len(), self.bytes.is_lost());
        let decode = |out: &mut Vec<i64>| {
            let loaded = self.loaded()?;
            self.time_column(loaded, number)?.decode(out).map_err(self.corrupt(loaded.series_offset))
        };
        let done = decode(out);
        if self.bytes.is_lost() == was_lost {
            return done;
        }
        out.truncate(begin);
        decode(out)
    }

    /// [`Block::read_chunk`] where the chunk's times are decoded already.
    pub fn read_chunk_at(
        &self,
        e: &ChunkEntry,
        ts: &[i64],
        range: TimeRange,
        need: Need,
        decoder: &mut Decoder,
        out: &mut SampleColumn,
    ) -> Result<(), StorageError> {
        self.steady_into(out, |out| {
            decoder.decode_at(ts, &self.payload(e)?, need, range, out).map_err(self.corrupt(e.offset))
        })
    }

    /// Appends the samples of a series in a range to `out`. After an error `out` is as it was.
    pub fn read(
        &self,
        id: u32,
        range: TimeRange,
        need: Need,
        decoder: &mut Decoder,
        out: &mut SampleColumn,
    ) -> Result<(), StorageError> {
        let begin = out.len();
        let entries = self.chunk_entries(id, range)?;
        let result = entries.iter().try_for_each(|e| self.read_chunk(e, range, need, decoder, out));
        if result.is_err() {
            cut(out, begin);
        }
        result
    }

    /// Label names of some series (or all), sorted.
    pub fn label_names(&self, among: Option<&RoaringBitmap>) -> Result<Vec<String>, StorageError> {
        let at = self.footer.sections[SectionKind::Dictionary as usize].offset;
        self.steady(|| self.loaded()?.index.label_names(among).map_err(self.corrupt(at)))
    }

    /// Values of a label over some series (or all), sorted.
    pub fn label_values(&self, name: &str, among: Option<&RoaringBitmap>) -> Result<Vec<String>, StorageError> {
        let at = self.footer.sections[SectionKind::Dictionary as usize].offset;
        self.steady(|| self.loaded()?.index.label_values(name, among).map_err(self.corrupt(at)))
    }

    /// All exemplars, by series in the order they were written.
    pub fn exemplars(&self) -> Result<Vec<(Labels, Vec<Exemplar>)>, StorageError> {
        let bytes = self.section(SectionKind::Exemplars)?;
        let packed = |bytes| Labels::from_packed(bytes).map_err(|_| Damaged("labels of an exemplar do not parse"));
        let parse = || -> Result<Vec<(Labels, Vec<Exemplar>)>, Damaged> {
            let mut r = Reader::new(&bytes);
            let mut out = Vec::new();
            for _ in 0..r.count(bytes.len())? {
                let series = packed(r.bytes()?)?;
                let mut list = Vec::new();
                let mut ts = 0i64;
                for _ in 0..r.count(bytes.len())? {
                    ts = ts.wrapping_add(r.signed()?);
                    let value = get_float(&mut r)?;
                    list.push(Exemplar { labels: packed(r.bytes()?)?, value, ts });
                }
                out.push((series, list));
            }
            Ok(out)
        };
        parse().map_err(self.corrupt(self.footer.sections[SectionKind::Exemplars as usize].offset))
    }

    /// Metadata by metric family, in the order it was written.
    pub fn metadata(&self) -> Result<Vec<(String, Vec<Metadata>)>, StorageError> {
        let bytes = self.section(SectionKind::Metadata)?;
        let parse = || -> Result<Vec<(String, Vec<Metadata>)>, Damaged> {
            let mut r = Reader::new(&bytes);
            let mut out = Vec::new();
            for _ in 0..r.count(bytes.len())? {
                let family = r.str()?.to_owned();
                let mut list = Vec::new();
                for _ in 0..r.count(bytes.len())? {
                    let kind = MetricKind::from_number(u32::from(r.u8()?));
                    list.push(Metadata { kind, unit: r.str()?.to_owned(), help: r.str()?.to_owned() });
                }
                out.push((family, list));
            }
            Ok(out)
        };
        parse().map_err(self.corrupt(self.footer.sections[SectionKind::Metadata as usize].offset))
    }

    /// Offset and length of a section.
    pub(super) fn section_extent(&self, kind: SectionKind) -> (u64, u64) {
        let s = self.footer.sections[kind as usize];
        (s.offset, s.len)
    }

    /// Reads a section against its checksum.
    pub(super) fn check_section(&self, kind: SectionKind) -> Result<(), StorageError> {
        self.section(kind).map(drop)
    }

    /// Offset and length of every column of times.
    pub(super) fn time_extents(&self) -> Result<Vec<(u64, u64)>, StorageError> {
        let loaded = self.loaded()?;
        let at = self.footer.sections[SectionKind::Times as usize].offset;
        let of = |n: u32| self.time_entry(loaded, n).map(|e| (e.offset, u64::from(e.len)));
        (0..self.footer.meta.time_columns).map(of).collect::<Result<_, _>>().map_err(self.corrupt(at))
    }

    /// Reads the dictionary and all postings.
    pub(super) fn verify_index(&self) -> Result<(), StorageError> {
        let at = self.footer.sections[SectionKind::Dictionary as usize].offset;
        self.loaded()?.index.verify().map_err(self.corrupt(at))
    }

    /// Reads and decodes everything; the first damage found is the error.
    pub fn verify(&self) -> Result<(), StorageError> {
        let loaded = self.loaded()?;
        let at = self.footer.sections[SectionKind::Dictionary as usize].offset;
        loaded.index.verify().map_err(self.corrupt(at))?;
        let (mut decoder, mut out, mut packed) = (Decoder::new(), SampleColumn::default(), Vec::new());
        let mut last = Vec::new();
        let mut samples = 0u64;
        for id in 0..self.footer.meta.series {
            out.clear();
            self.read(id, TimeRange::ALL, Need::ALL, &mut decoder, &mut out)?;
            self.labels_packed(id, &mut packed)?;
            let at = loaded.series_offset;
            let labels = LabelsRef::from_packed(&packed).map_err(|e| StorageError::corrupt(&self.name, at, e))?;
            if id > 0 && LabelsRef::from_packed(&last).is_ok_and(|last| last >= labels) {
                return Err(StorageError::corrupt(&self.name, at, "series are not in label order"));
            }
            if out.ts.windows(2).any(|w| w[0] >= w[1]) {
                return Err(StorageError::corrupt(&self.name, at, "samples are not in order of time"));
            }
            samples += out.len() as u64;
            last.clone_from(&packed);
        }
        if samples != self.footer.meta.samples {
            return Err(StorageError::corrupt(
                &self.name,
                loaded.series_offset,
                "another number of samples than the footer says",
            ));
        }
        self.exemplars()?;
        self.metadata()?;
        Ok(())
    }
}
