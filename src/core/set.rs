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

use std::sync::Arc;

use hashbrown::HashMap;
use quiver_cache::{FetchCounts, fetch_counts};
use quiver_model::{Labels, SampleColumn};

use crate::catalog::StoredBlock;
use crate::condense::{Condense, Condensing};
use crate::head::page::{FLOATS, HISTOGRAMS, STARTS};
use crate::merge::merge_columns;
use crate::place::{Cached, Place, PlaceSeries};
use crate::report::{ReadCounts, ReadStats};
use crate::tier::{Ahead, Watched};
use crate::{Need, ReadError, SeriesKinds, SeriesSet, TimeRange};

#[derive(Clone, Copy, Debug)]
struct PartOf {
    place: u16,
    kinds: u8,
    row: u32,
}

/// See the module.
pub(crate) struct Roster {
    places: Vec<Place>,
    range: TimeRange,
    cached: Option<Cached>,
    reads: Option<Arc<ReadStats>>,
    totals: Option<Arc<ReadStats>>,
    /// Where blocks are remote: what was fetched of them.
    ahead: Option<Ahead>,
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
        let mut places = Vec::with_capacity(lists.len());
        let mut runs: Vec<Vec<(Labels, PartOf)>> = Vec::new();
        // In the order of their ends (a late sample moves a beginning), so that one part mostly continues the one before.
        lists.sort_by_key(|(place, _)| place.time_bounds().map(|b| (b.max, b.min)));
        for (place, list) in lists {
            if list.is_empty() {
                continue;
            }
            let place_number = places.len() as u16;
            places.push(place);
            let part = |s: &PlaceSeries| PartOf { place: place_number, kinds: s.kinds, row: s.row };
            runs.push(
                list.into_iter()
                    .map(|s| {
                        let part = part(&s);
                        (s.labels, part)
                    })
                    .collect(),
            );
        }
        // The longest list is the base; most series of the others are in it, and share their label set with it.
        let longest = (0..runs.len()).max_by_key(|i| runs[*i].len());
        let base = longest.map_or(Vec::new(), |i| runs.remove(i));
        let mut joined: Vec<(u32, PartOf)> = Vec::new();
        let mut rest: Vec<(Labels, PartOf)> = Vec::new();
        if !runs.is_empty() {
            let address = |l: &Labels| l.packed().as_ptr() as usize;
            let by_address: HashMap<usize, u32, rapidhash::fast::RandomState> =
                (0u32..).zip(&base).map(|(i, (l, _))| (address(l), i)).collect();
            for (labels, part) in runs.into_iter().flatten() {
                match by_address.get(&address(&labels)) {
                    Some(i) => joined.push((*i, part)),
                    None => rest.push((labels, part)),
                }
            }
            joined.sort_by_key(|(i, _)| *i);
            // A concatenation of sorted runs: a stable sort finds them and merges.
            rest.sort_by(|a, b| a.0.cmp(&b.0));
        }
        let mut out = Self {
            places,
            range,
            cached: None,
            reads: None,
            totals: None,
            ahead: None,
            watched: None,
            labels: Vec::with_capacity(base.len()),
            first: vec![0],
            parts: Vec::new(),
        };
        out.parts.reserve(base.len() + joined.len() + rest.len());
        let mut joined = joined.into_iter().peekable();
        let mut rest = rest.into_iter().peekable();
        for (i, (labels, part)) in (0u32..).zip(base) {
            while let Some((l, p)) = rest.next_if(|(l, _)| *l < labels) {
                out.add(l, p, series_max)?;
            }
            out.add(labels.clone(), part, series_max)?;
            while let Some((_, p)) = joined.next_if(|(k, _)| *k == i) {
                out.parts.push(p);
            }
            while let Some((_, p)) = rest.next_if(|(l, _)| *l == labels) {
                out.parts.push(p);
            }
        }
        for (l, p) in rest {
            out.add(l, p, series_max)?;
        }
        out.first.push(out.parts.len() as u32);
        if out.parts.len() > out.labels.len() {
            for at in out.first.windows(2) {
                out.parts[at[0] as usize..at[1] as usize].sort_unstable_by_key(|p| p.place);
            }
        }
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

    /// Counts reads.
    pub(crate) fn with_reads(mut self, reads: Option<Arc<ReadStats>>) -> Self {
        self.reads = reads;
        self
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
        out.clear();
        if range.min > range.max {
            return Ok(());
        }
        let fetched = self.prepare(i, range, need)?;
        let mut columns = Vec::new();
        let mut counts = ReadCounts::default();
        let mut read = |need, out: &mut SampleColumn, columns: &mut Vec<SampleColumn>| {
            self.parts(i).iter().try_for_each(|p| {
                let place = &self.places[p.place as usize];
                place.read(p.row, range, need, self.cached.as_ref(), out, columns, &mut counts, None)
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

    fn read_condensed(
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
        for p in self.parts(i) {
            let place = &self.places[p.place as usize];
            let how = Some(&mut condensing);
            place.read(p.row, range, need, self.cached.as_ref(), out, &mut aside, &mut counts, how)?;
            if !aside.is_empty() {
                weights.clear();
                return self.read(i, range, need, out);
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
        reads: None,
        totals: None,
        ahead: None,
        watched: None,
        labels: Vec::new(),
        first: vec![0],
        parts: Vec::new(),
    })
}
