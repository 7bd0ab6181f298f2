//! The series a selector picked over heads and blocks, and reading them.
//!
//! ```text
//! head      a ──── c ─ d          each place lists its series in label order;
//! block 1   a ─ b ─ c             equal label sets become one series with several parts
//! block 2       b ──── d
//! set       a(h,1) b(1,2) c(h,1) d(h,2)
//! ```
//!
//! Reading a series decodes what each of its parts has in the range and merges the columns by time; parts that do not
//! interleave are only appended.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;

use quiver_cache::{FetchCounts, fetch_counts};
use quiver_model::{Labels, SampleColumn};
use quiver_persistence::remote::Asker;

use crate::catalog::StoredBlock;
use crate::condense::{Condense, Condensing};
use crate::head::page::{FLOATS, HISTOGRAMS, STARTS};
use crate::merge::merge_columns;
use crate::place::{Cached, Place, PlaceSeries, Room};
use crate::report::{ReadCounts, ReadStats};
use crate::tier::{Ahead, Watched};
use crate::{Need, ReadError, SeriesKinds, SeriesSet, TimeRange};

#[derive(Clone, Copy, Debug)]
struct PartOf {
    place: u16,
    kinds: u8,
    row: u32,
}

/// What comes next in the list of a place: the first by labels is the greatest, so that a heap gives it first.
struct Next {
    series: PlaceSeries,
    place: u16,
}

impl Ord for Next {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (&self.series.labels, &other.series.labels);
        // Label sets are shared: those of one series mostly are one.
        let labels = if std::ptr::eq(a.packed(), b.packed()) { Ordering::Equal } else { b.cmp(a) };
        labels.then(other.place.cmp(&self.place))
    }
}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Next {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Next {}

/// See the module.
pub(crate) struct Roster {
    places: Vec<Place>,
    range: TimeRange,
    cached: Option<Cached>,
    /// What the histograms of one series may take in memory.
    histogram_bytes_max: Option<usize>,
    reads: Option<Arc<ReadStats>>,
    totals: Option<Arc<ReadStats>>,
    /// Where blocks are remote: what was fetched of them.
    ahead: Option<Ahead>,
    asker: Option<Asker>,
    watched: Option<Watched>,
    labels: Vec<Labels>,
    /// `parts[first[i]..first[i + 1]]` are those of series `i`.
    first: Vec<u32>,
    parts: Vec<PartOf>,
}

impl Roster {
    /// Merges the lists of places, each in label order.
    pub(crate) fn merge(
        mut lists: Vec<(Place, Vec<PlaceSeries>)>,
        range: TimeRange,
        series_max: usize,
    ) -> Result<Self, ReadError> {
        // In the order of their ends (a late sample moves a beginning), so that one part mostly continues the one before.
        lists.retain(|(_, list)| !list.is_empty());
        lists.sort_by_key(|(place, _)| place.time_bounds().map(|b| (b.max, b.min)));
        let longest = lists.iter().map(|(_, list)| list.len()).max().unwrap_or(0);
        let all = lists.iter().map(|(_, list)| list.len()).sum();
        let mut first = Vec::with_capacity(longest + 1);
        first.push(0);
        let mut places = Vec::with_capacity(lists.len());
        let mut rests = Vec::with_capacity(lists.len());
        let mut heap = BinaryHeap::with_capacity(lists.len());
        for (number, (place, list)) in (0u16..).zip(lists) {
            let mut rest = list.into_iter();
            heap.extend(rest.next().map(|series| Next { series, place: number }));
            places.push(place);
            rests.push(rest);
        }
        let mut out = Self {
            places,
            range,
            cached: None,
            histogram_bytes_max: None,
            reads: None,
            totals: None,
            ahead: None,
            asker: None,
            watched: None,
            labels: Vec::with_capacity(longest),
            first,
            parts: Vec::with_capacity(all),
        };
        while let Some(mut top) = heap.peek_mut() {
            let place = top.place;
            let series = match rests[place as usize].next() {
                Some(next) => std::mem::replace(&mut top.series, next),
                None => PeekMut::pop(top).series,
            };
            out.add(series.labels, PartOf { place, kinds: series.kinds, row: series.row }, series_max)?;
        }
        out.first.push(out.parts.len() as u32);
        let is_remote = |p: &Place| matches!(p, Place::Block(b) if b.remote().is_some());
        if out.places.iter().any(is_remote) {
            out.ahead = Some(Ahead::new(out.labels.len()));
        }
        Ok(out)
    }

    /// Counts reads for the figures of the store, and says what is read to whoever reads ahead.
    pub(crate) fn with_watch(mut self, totals: Option<Arc<ReadStats>>, watched: Option<Watched>) -> Self {
        self.totals = totals;
        self.watched = watched;
        self
    }

    /// Sees to it that what is read next is at hand. Gives what this thread had fetched before.
    fn prepare(&self, i: usize, range: TimeRange, need: Need) -> Result<FetchCounts, ReadError> {
        if let Some(watched) = &self.watched {
            watched.needs(need);
        }
        let fetched = fetch_counts();
        if let Some(ahead) = &self.ahead {
            let parts = |i: usize, each: &mut dyn FnMut(&Arc<StoredBlock>, u32)| self.remote_parts(i, each);
            ahead.ensure(i, self.len(), range, need, self.cached.as_ref(), &parts)?;
        }
        Ok(fetched)
    }

    /// Counts a series that was read.
    fn count(&self, mut counts: ReadCounts, samples: usize, before: FetchCounts) {
        counts.series = 1;
        counts.samples = samples as u64;
        if self.ahead.is_some() {
            let now = fetch_counts();
            counts.pages_found = now.hits - before.hits;
            counts.pages_fetched = now.misses - before.misses;
            counts.fetched_bytes = now.bytes - before.bytes;
        }
        for reads in [&self.reads, &self.totals].into_iter().flatten() {
            reads.add(&counts);
        }
    }

    /// Remote blocks that hold parts of a series, and its rows there.
    fn remote_parts(&self, i: usize, each: &mut dyn FnMut(&Arc<StoredBlock>, u32)) {
        for p in self.parts(i) {
            if let Place::Block(block) = &self.places[p.place as usize]
                && block.remote().is_some()
            {
                each(block, p.row);
            }
        }
    }

    /// Reads blocks through a working set.
    pub(crate) fn with_cache(mut self, cached: Option<Cached>) -> Self {
        self.cached = cached;
        self
    }

    /// Bounds what the histograms of one series may take in memory.
    pub(crate) fn with_room(mut self, histogram_bytes_max: Option<usize>) -> Self {
        self.histogram_bytes_max = histogram_bytes_max;
        self
    }

    /// Counts reads.
    pub(crate) fn with_reads(mut self, reads: Option<Arc<ReadStats>>) -> Self {
        self.reads = reads;
        self
    }

    /// Says who asks.
    pub(crate) fn asked_by(mut self, asker: Option<Asker>) -> Self {
        self.asker = asker;
        self
    }

    /// Reads, on behalf of who asks where that may take waiting.
    fn on_behalf<T>(&self, read: impl FnOnce() -> T) -> T {
        match &self.asker {
            Some(asker) if self.ahead.is_some() => asker.during(read),
            _ => read(),
        }
    }

    /// Adds a part of the series with these labels: the one added last, or a new one after it.
    fn add(&mut self, labels: Labels, part: PartOf, series_max: usize) -> Result<(), ReadError> {
        if self.labels.last() != Some(&labels) {
            if self.labels.len() == series_max {
                return Err(ReadError::Limit(format!("the selector matches more than {series_max} series")));
            }
            if !self.labels.is_empty() {
                self.first.push(self.parts.len() as u32);
            }
            self.labels.push(labels);
        }
        self.parts.push(part);
        Ok(())
    }

    fn parts(&self, i: usize) -> &[PartOf] {
        &self.parts[self.first[i] as usize..self.first[i + 1] as usize]
    }
}

impl SeriesSet for Roster {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn labels(&self, i: usize) -> &Labels {
        &self.labels[i]
    }

    fn kinds(&self, i: usize) -> SeriesKinds {
        // A series of the head may get samples of a new kind while the roster is used: ask again.
        let of = |p: &PartOf| p.kinds | self.places[p.place as usize].kinds_now(p.row);
        let bits = self.parts(i).iter().map(of).fold(0, |a, b| a | b);
        SeriesKinds { floats: bits & FLOATS != 0, histograms: bits & HISTOGRAMS != 0, start_ts: bits & STARTS != 0 }
    }

    fn samples_hint(&self, i: usize) -> usize {
        self.parts(i).iter().map(|p| self.places[p.place as usize].samples_hint(p.row, self.range)).sum()
    }

    fn read(&self, i: usize, range: TimeRange, need: Need, out: &mut SampleColumn) -> Result<(), ReadError> {
        self.on_behalf(|| self.read_series(i, range, need, out))
    }

    fn read_condensed(
        &self,
        i: usize,
        range: TimeRange,
        need: Need,
        how: &Condense,
        out: &mut SampleColumn,
        weights: &mut Vec<u32>,
    ) -> Result<(), ReadError> {
        self.on_behalf(|| self.condense_series(i, range, need, how, out, weights))
    }
}

impl Roster {
    fn read_series(&self, i: usize, range: TimeRange, need: Need, out: &mut SampleColumn) -> Result<(), ReadError> {
        out.clear();
        if range.min > range.max {
            return Ok(());
        }
        let fetched = self.prepare(i, range, need)?;
        let mut columns = Vec::new();
        let mut counts = ReadCounts::default();
        let mut read = |need, out: &mut SampleColumn, columns: &mut Vec<SampleColumn>| {
            let mut room = Room::new(self.histogram_bytes_max);
            self.parts(i).iter().try_for_each(|p| {
                let place = &self.places[p.place as usize];
                place.read(p.row, range, need, self.cached.as_ref(), out, columns, &mut counts, None, &mut room)
            })
        };
        read(need, out, &mut columns)?;
        if !columns.is_empty() && need != Need::ALL {
            // Samples of equal time are settled by all that they hold.
            columns.clear();
            out.clear();
            read(Need::ALL, out, &mut columns)?;
        }
        if !columns.is_empty() {
            columns.push(std::mem::take(out));
            merge_columns(&mut columns, out);
        }
        self.count(counts, out.len(), fetched);
        Ok(())
    }

    fn condense_series(
        &self,
        i: usize,
        range: TimeRange,
        need: Need,
        how: &Condense,
        out: &mut SampleColumn,
        weights: &mut Vec<u32>,
    ) -> Result<(), ReadError> {
        out.clear();
        weights.clear();
        if range.min > range.max {
            return Ok(());
        }
        let fetched = self.prepare(i, range, need)?;
        let mut aside = Vec::new();
        let mut counts = ReadCounts::default();
        let mut condensing = Condensing { how: *how, weights: &mut *weights };
        let mut room = Room::new(self.histogram_bytes_max);
        for p in self.parts(i) {
            let place = &self.places[p.place as usize];
            let how = Some(&mut condensing);
            place.read(p.row, range, need, self.cached.as_ref(), out, &mut aside, &mut counts, how, &mut room)?;
            if !aside.is_empty() {
                weights.clear();
                return self.read_series(i, range, need, out);
            }
        }
        self.count(counts, out.len(), fetched);
        Ok(())
    }
}

/// A set without series.
pub(crate) fn empty() -> Arc<dyn SeriesSet> {
    Arc::new(Roster {
        places: Vec::new(),
        range: TimeRange::ALL,
        cached: None,
        histogram_bytes_max: None,
        reads: None,
        totals: None,
        ahead: None,
        asker: None,
        watched: None,
        labels: Vec::new(),
        first: vec![0],
        parts: Vec::new(),
    })
}
