//! A place that holds series: a head or a block. All that merging needs of either.

use std::cell::RefCell;
use std::sync::Arc;

use quiver_cache::{Admission, ColumnKey, WorkingSet};
use quiver_model::{Exemplar, Labels, Matcher, SampleColumn};
use quiver_storage::block::ChunkEntry;
use quiver_storage::bytes::Damaged;
use quiver_storage::codec::{ChunkRef, ChunkStats, Decoder};

use crate::catalog::StoredBlock;
use crate::condense::Condensing;
use crate::head::page::Pieces;
use crate::head::{Head, HeadSeries};
use crate::merge::samples_in;
use crate::report::{IndexUse, MatcherStep, PlaceKind, PlaceReport, ReadCounts, Way};
use crate::{Need, ReadError, TimeRange};

/// A series as a place lists it.
#[derive(Clone, Debug)]
pub(crate) struct PlaceSeries {
    pub(crate) labels: Labels,
    /// Its number in the place.
    pub(crate) row: u32,
    /// Bits of `head::page`.
    pub(crate) kinds: u8,
}

impl From<HeadSeries> for PlaceSeries {
    fn from(s: HeadSeries) -> Self {
        Self { labels: s.labels, row: s.id, kinds: s.kinds }
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) enum Place {
    /// A head, with the number of series it had when the snapshot was taken.
    Head(Arc<Head>, u32),
    /// A block.
    Block(Arc<StoredBlock>),
}

/// The working set, and what one query may put there.
pub(crate) struct Cached {
    pub(crate) set: Arc<WorkingSet>,
    pub(crate) admission: Admission,
}

/// Payloads up to this are constant or nearly so: decoding them costs less than a look-up.
pub(crate) const PLAIN_CHUNK_BYTES: u32 = 24;

/// Where decoded columns go: those that continue `out` are appended, the others set aside to be merged.
pub(crate) struct Sink<'a, 'b> {
    pub(crate) range: TimeRange,
    pub(crate) need: Need,
    pub(crate) out: &'a mut SampleColumn,
    pub(crate) aside: &'a mut Vec<SampleColumn>,
    pub(crate) counts: &'a mut ReadCounts,
    /// Chunks that need not be decoded are not.
    pub(crate) condensing: Option<&'a mut Condensing<'b>>,
    pub(crate) room: &'a mut Room,
}

/// What the histograms of one series may take in memory as they are read.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Bytes; `None`: whatever there are.
    max: Option<usize>,
    taken: usize,
    /// How many histograms and columns aside were counted.
    seen: (usize, usize),
}

impl Room {
    /// Room for so many bytes.
    pub(crate) fn new(max: Option<usize>) -> Self {
        Self { max, ..Self::default() }
    }

    /// Counts what was added to a column and beside it since the last time.
    fn count(&mut self, out: &SampleColumn, aside: &[SampleColumn]) -> Result<(), ReadError> {
        let Some(max) = self.max else { return Ok(()) };
        let (histograms, columns) = std::mem::replace(&mut self.seen, (out.histograms.len(), aside.len()));
        let aside = aside.get(columns..).unwrap_or_default().iter().flat_map(|c| &c.histograms);
        let new = out.histograms.get(histograms..).unwrap_or_default().iter().chain(aside);
        let taken = new.fold(self.taken, |taken, (_, h)| taken.saturating_add(h.memory_bytes()));
        self.taken = taken;
        if taken <= max {
            return Ok(());
        }
        Err(ReadError::Limit(format!(
            "the histograms of one series take more than {max} bytes of memory: ask for a shorter range"
        )))
    }
}

impl Sink<'_, '_> {
    /// Adds a column whose samples are all in the range.
    pub(crate) fn column(&mut self, column: &SampleColumn) {
        if column.is_empty() {
        } else if self.out.ts.last() < column.ts.first() {
            self.out.extend_from(column, 0..column.len());
        } else {
            self.aside.push(column.clone());
        }
    }

    /// Adds what a head gave out.
    pub(crate) fn pieces(&mut self, pieces: &Pieces) -> Result<(), ReadError> {
        for chunk in &pieces.sealed {
            self.chunk(chunk.as_ref()).map_err(damaged_head)?;
            self.room.count(self.out, self.aside)?;
        }
        self.counts.open_samples += (pieces.open.len() + pieces.late.len()) as u64;
        self.column(&pieces.open);
        for chunk in &pieces.late_sealed {
            self.chunk(chunk.as_ref()).map_err(damaged_head)?;
            self.room.count(self.out, self.aside)?;
        }
        self.column(&pieces.late);
        self.room.count(self.out, self.aside)
    }

    /// Adds a series of a block, from the working set where that pays: what is held is taken from there, and a chunk
    /// that is wanted mostly and takes decoding is put there.
    fn block(&mut self, stored: &StoredBlock, row: u32, cached: Option<&Cached>) -> Result<(), ReadError> {
        ENTRIES.with_borrow_mut(|entries| {
            stored.block()?.chunk_entries_into(row, self.range, entries)?;
            self.chunks(stored, entries, cached)
        })
    }

    fn chunks(
        &mut self,
        stored: &StoredBlock,
        entries: &[ChunkEntry],
        cached: Option<&Cached>,
    ) -> Result<(), ReadError> {
        let block = stored.block()?;
        DECODER.with_borrow_mut(|decoder| {
            for e in entries {
                self.room.count(self.out, self.aside)?;
                if self.is_whole(e.min_time, e.max_time)
                    && self.condense(&block.chunk_stats(e)?, e.min_time, e.max_time)
                {
                    continue;
                }
                if let Some(cached) = cached
                    && e.len > PLAIN_CHUNK_BYTES
                {
                    let key = ColumnKey { block: block.uid(), chunk: e.offset, need: self.need };
                    let mut decoded = false;
                    let held = match cached.set.get(&key) {
                        None if 2 * samples_in(e.min_time, e.max_time, e.count as usize, self.range)
                            >= e.count as usize =>
                        {
                            Some(cached.set.get_or_load(&key, &cached.admission, || {
                                decoded = true;
                                let mut column = SampleColumn::default();
                                block.read_chunk(e, TimeRange::ALL, self.need, decoder, &mut column)?;
                                Ok::<_, ReadError>(column)
                            })?)
                        }
                        held => held,
                    };
                    if held.is_some() && !decoded {
                        self.counts.hits += 1;
                    } else {
                        self.counts.misses += 1;
                    }
                    if let Some(column) = held {
                        if decoded {
                            self.decoded(stored, e.len);
                        }
                        self.part(&column);
                        continue;
                    }
                }
                self.decoded(stored, e.len);
                // Times are shared by all series of a target: they pay where the values do not.
                let times = match cached {
                    Some(c) => Some(c.set.get_or_load(&ColumnKey::times(block.uid(), e.time), &c.admission, || {
                        let mut column = SampleColumn::default();
                        block.times(e.time, &mut column.ts)?;
                        Ok::<_, ReadError>(column)
                    })?),
                    None => None,
                };
                let (range, need) = (self.range, self.need);
                let mut read = |out: &mut SampleColumn| match &times {
                    Some(t) => block.read_chunk_at(e, &t.ts, range, need, decoder, out),
                    None => block.read_chunk(e, range, need, decoder, out),
                };
                if self.continues(e.min_time) {
                    read(self.out)?;
                } else {
                    let mut column = SampleColumn::default();
                    read(&mut column)?;
                    self.column(&column);
                }
            }
            self.room.count(self.out, self.aside)
        })
    }

    /// May a chunk be reduced, as far as its times tell?
    fn is_whole(&self, min: i64, max: i64) -> bool {
        self.condensing.as_ref().is_some_and(|c| !c.how.edges.cut(min, max)) && self.range.covers(min, max)
    }

    /// Puts what is left of a chunk at the end, if that is where it belongs and its figures tell enough.
    fn condense(&mut self, stats: &ChunkStats, min: i64, max: i64) -> bool {
        let continues = self.continues(min);
        let Some(c) = &mut self.condensing else { return false };
        let Some(kept) = c.how.kept(self.range, min, max, stats).filter(|_| continues) else { return false };
        c.push(kept, self.out);
        self.counts.headers += 1;
        true
    }

    fn decoded(&mut self, stored: &StoredBlock, bytes: u32) {
        let counts = &mut *self.counts;
        let (chunks, sum) = match stored.remote() {
            None => (&mut counts.mapped_chunks, &mut counts.mapped_bytes),
            Some(_) => (&mut counts.remote_chunks, &mut counts.remote_bytes),
        };
        *chunks += 1;
        *sum += u64::from(bytes);
    }

    /// Would samples from `min_ts` on, as far as they are in the range, come after all in `out`?
    fn continues(&self, min_ts: i64) -> bool {
        self.out.ts.last().is_none_or(|t| *t < self.range.min.max(min_ts))
    }

    /// Adds what of a column is in the range.
    fn part(&mut self, column: &SampleColumn) {
        let from = column.ts.partition_point(|t| *t < self.range.min);
        let to = column.ts.partition_point(|t| *t <= self.range.max);
        if from >= to {
        } else if self.out.ts.last() < Some(&column.ts[from]) {
            self.out.extend_from(column, from..to);
        } else {
            let mut part = SampleColumn::default();
            part.extend_from(column, from..to);
            self.aside.push(part);
        }
    }

    /// Decodes a chunk and adds what of it is in the range.
    pub(crate) fn chunk(&mut self, chunk: ChunkRef<'_>) -> Result<(), Damaged> {
        if !self.range.overlaps(chunk.time.min(), chunk.time.max()) {
            return Ok(());
        }
        let (min, max) = (chunk.time.min(), chunk.time.max());
        if self.is_whole(min, max) && self.condense(&chunk.stats()?, min, max) {
            return Ok(());
        }
        self.counts.memory_chunks += 1;
        self.counts.memory_bytes += chunk.payload.len() as u64;
        DECODER.with_borrow_mut(|decoder| {
            if self.continues(chunk.time.min()) {
                return decoder.decode_into(chunk, self.need, self.range, self.out);
            }
            let mut column = SampleColumn::default();
            decoder.decode_into(chunk, self.need, self.range, &mut column)?;
            if !column.is_empty() {
                self.aside.push(column);
            }
            Ok(())
        })
    }
}

thread_local! {
    static DECODER: RefCell<Decoder> = RefCell::default();
    static ENTRIES: RefCell<Vec<ChunkEntry>> = RefCell::default();
    static PIECES: RefCell<Pieces> = RefCell::default();
}

/// Those of a list whose labels the matchers accept that the index left.
pub(crate) fn tested(
    mut list: Vec<PlaceSeries>,
    rest: &[&Matcher],
    mut report: Option<&mut PlaceReport>,
) -> Vec<PlaceSeries> {
    for m in rest {
        let before = list.len() as u64;
        list.retain(|s| m.matches(s.labels.get(&m.name)));
        if let Some(r) = &mut report {
            let left = list.len() as u64;
            let drops = m.matches_empty();
            let actual = Some(if drops { before - left } else { left });
            let matcher = m.to_string();
            r.steps.push(MatcherStep { matcher, way: Way::Test, drops, estimate: None, actual, left: Some(left) });
        }
    }
    if let Some(r) = report {
        r.selected = list.len() as u64;
    }
    list
}

fn damaged_head(e: Damaged) -> ReadError {
    ReadError::Corrupt { file: "head (memory)".into(), offset: 0, what: e.to_string() }
}

impl Place {
    /// Series that all `matchers` accept, in label order; see [`Head::select`] for `exact`.
    pub(crate) fn select(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        exact: bool,
        how: IndexUse,
        mut report: Option<&mut PlaceReport>,
    ) -> Result<Vec<PlaceSeries>, ReadError> {
        match self {
            Place::Head(head, bound) => {
                let (found, rest) = head.select(matchers, range, *bound, exact, how, report.as_deref_mut());
                Ok(tested(found.into_iter().map(Into::into).collect(), &rest, report))
            }
            Place::Block(block) => block.select(matchers, range, how, report),
        }
    }

    /// An empty report about it.
    pub(crate) fn report(&self) -> PlaceReport {
        let (kind, name) = match self {
            Place::Head(..) => (PlaceKind::Head, "head".to_owned()),
            Place::Block(block) => (PlaceKind::Block, block.entry.file.clone()),
        };
        let range = self.time_bounds();
        PlaceReport { kind, name, range, series: 0, steps: Vec::new(), matched: 0, selected: 0 }
    }

    /// Label names of the series that any of `selectors` accepts (all, where there is none). A block answers from its
    /// index: for all that it holds, as Prometheus does.
    pub(crate) fn label_names(&self, selectors: &[Vec<Matcher>], range: TimeRange) -> Result<Vec<String>, ReadError> {
        match self {
            Place::Head(head, bound) => Ok(head.label_names(selectors, range, *bound)),
            Place::Block(block) => Ok(block.block()?.label_names(block.among(selectors)?.as_ref())?),
        }
    }

    /// Values of a label of the same series.
    pub(crate) fn label_values(
        &self,
        name: &str,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
    ) -> Result<Vec<String>, ReadError> {
        match self {
            Place::Head(head, bound) => Ok(head.label_values(name, selectors, range, *bound)),
            Place::Block(block) => Ok(block.block()?.label_values(name, block.among(selectors)?.as_ref())?),
        }
    }

    /// What the series has got since it was listed.
    pub(crate) fn kinds_now(&self, row: u32) -> u8 {
        match self {
            Place::Head(head, _) => head.kinds(row),
            Place::Block(_) => 0,
        }
    }

    /// About how many samples a series has in `range`.
    pub(crate) fn samples_hint(&self, row: u32, range: TimeRange) -> usize {
        match self {
            Place::Head(head, _) => head.samples_hint(row, range),
            Place::Block(block) => block.block().ok().and_then(|b| b.samples_hint(row, range).ok()).unwrap_or(0),
        }
    }

    /// Reads a series in `range`: into `out` what continues it, into `aside` what has to be merged.
    pub(crate) fn read(
        &self,
        row: u32,
        range: TimeRange,
        need: Need,
        cached: Option<&Cached>,
        out: &mut SampleColumn,
        aside: &mut Vec<SampleColumn>,
        counts: &mut ReadCounts,
        condensing: Option<&mut Condensing<'_>>,
        room: &mut Room,
    ) -> Result<(), ReadError> {
        let mut sink = Sink { range, need, out, aside, counts, condensing, room };
        match self {
            Place::Head(head, _) => PIECES.with_borrow_mut(|pieces| {
                head.collect(row, range, pieces);
                sink.pieces(pieces)?;
                pieces.clear();
                Ok(())
            }),
            Place::Block(block) => {
                let read = match block.deleted_rows() {
                    Ok(None) => sink.block(block, row, cached),
                    Ok(Some(deleted)) if !deleted.is_concerned(row) => sink.block(block, row, cached),
                    Ok(Some(deleted)) => deleted.live(row, range).into_iter().try_for_each(|left| {
                        sink.range = left;
                        sink.block(block, row, cached)
                    }),
                    Err(e) => Err(e),
                };
                read.inspect_err(|e| block.note(e))
            }
        }
    }

    /// Exemplars in `range` of the series that any of `selectors` accepts (all, where there is none).
    pub(crate) fn exemplars(
        &self,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
    ) -> Result<Vec<(Labels, Vec<Exemplar>)>, ReadError> {
        match self {
            Place::Head(head, bound) => {
                let series = head.with_exemplars(selectors, *bound);
                Ok(series.into_iter().map(|(l, id)| (l, head.exemplars(id, range))).collect())
            }
            Place::Block(block) => {
                let accepts = |l: &Labels| {
                    let all = |ms: &Vec<Matcher>| ms.iter().all(|m| m.matches_labels(l.as_ref()));
                    selectors.is_empty() || selectors.iter().any(all)
                };
                let mut found = block.block()?.exemplars()?;
                found.retain_mut(|(labels, list)| {
                    let deleted = |ts| block.deletions().is_some_and(|d| d.exemplar(labels.as_ref(), ts));
                    list.retain(|e| range.overlaps(e.ts, e.ts) && !deleted(e.ts));
                    !list.is_empty() && accepts(labels)
                });
                Ok(found)
            }
        }
    }

    /// Metadata, of one family or all, the newest first.
    pub(crate) fn metadata(&self, metric: Option<&str>) -> crate::head::MetadataMap {
        match self {
            Place::Head(head, _) => head.metadata(metric),
            Place::Block(block) => {
                let wanted = |name: &str| metric.is_none_or(|m| m == name);
                block.metadata().iter().filter(|(name, _)| wanted(name)).cloned().collect()
            }
        }
    }

    /// Earliest and latest sample.
    pub(crate) fn time_bounds(&self) -> Option<TimeRange> {
        match self {
            Place::Head(head, _) => head.time_bounds(),
            Place::Block(block) => block.time_bounds(),
        }
    }
}
