//! What a reader sees: the heads and the blocks of one moment.
//!
//! ```text
//! View (swapped as one)   heads: [present, being flushed …]   blocks: [newest … oldest]
//! ```
//!
//! A snapshot holds its view; a block that a later view no longer names lives as long as a snapshot does. Series that
//! appear after it was taken are not in it; samples that come to known series of the present head are.
//!
//! Invariant: whoever changes what is visible does that first and raises the generation after; a snapshot reads the
//! generation first and the view after. So a roster made under a generation is never older than it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quiver_cache::{ColumnKey, RemoteCache, WorkingSet};
use quiver_model::{Exemplar, Labels, Matcher, Metadata, SampleColumn};
use quiver_storage::codec::Decoder;

use crate::catalog::StoredBlock;
use crate::head::{Head, add_metadata};
use crate::merge::samples_in;
use crate::place::{Cached, PLAIN_CHUNK_BYTES, Place};
use crate::report::{IndexUse, ReadStats, SelectOptions, SelectReport};
use crate::set::Roster;
use crate::tier::{Foresight, Wanted};
use crate::{Need, ReadError, SeriesSet, Snapshot, TimeRange};

/// All that is visible.
#[derive(Clone, Default)]
pub(crate) struct View {
    /// The one that takes writes first, then those being flushed, newest first.
    pub(crate) heads: Vec<Arc<Head>>,
    /// Published blocks, the one that came last at the end.
    pub(crate) blocks: Vec<Arc<StoredBlock>>,
}

/// See the module.
pub(crate) struct StoreSnapshot {
    generation: u64,
    places: Vec<Place>,
    cache: Option<Arc<WorkingSet>>,
    watch: Watch,
}

/// Who looks on when something is read.
#[derive(Clone, Default)]
pub(crate) struct Watch {
    pub(crate) totals: Option<Arc<ReadStats>>,
    pub(crate) foresight: Option<Arc<Foresight>>,
    /// Counts queries for the pages of remote blocks.
    pub(crate) remote: Option<Arc<RemoteCache>>,
    pub(crate) now_ms: i64,
}

impl StoreSnapshot {
    /// The view `view`; `generation` was read before the view was.
    pub(crate) fn new(generation: u64, view: &View, cache: Option<&Arc<WorkingSet>>) -> Self {
        let heads = view.heads.iter().map(|h| Place::Head(Arc::clone(h), h.series_len() as u32));
        let blocks = view.blocks.iter().rev().map(|b| Place::Block(Arc::clone(b)));
        let watch = Watch::default();
        Self { generation, places: heads.chain(blocks).collect(), cache: cache.cloned(), watch }
    }

    /// The same, looked on by others.
    pub(crate) fn watched(mut self, watch: Watch) -> Self {
        self.watch = watch;
        self
    }

    /// Decodes into the working set what a selector has in a range of blocks; gives the bytes it takes.
    pub(crate) fn foresee(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        need: Need,
        series_max: usize,
        set: &Arc<WorkingSet>,
    ) -> Result<u64, ReadError> {
        let cached = Cached { set: Arc::clone(set), admission: set.admission() };
        let mut decoder = Decoder::new();
        let mut bytes = 0;
        for place in self.overlapping(range) {
            let Place::Block(stored) = place else { continue };
            let rows = stored.select(matchers, range, IndexUse::Auto, None)?;
            if rows.len() > series_max {
                return Ok(bytes);
            }
            if stored.remote().is_some() {
                let mut wanted = Wanted::default();
                for s in &rows {
                    wanted.row(stored, s.row, range, need, Some(&cached))?;
                }
                wanted.fetch()?;
            }
            let block = stored.block()?;
            for s in &rows {
                for e in block.chunk_entries(s.row, range)? {
                    // What a query would put there.
                    let inside = samples_in(e.min_time, e.max_time, e.count as usize, range);
                    if e.len <= PLAIN_CHUNK_BYTES || 2 * inside < e.count as usize {
                        continue;
                    }
                    let key = ColumnKey { block: block.uid(), chunk: e.offset, need };
                    bytes += set.foresee(&key, &cached.admission, || {
                        let mut column = SampleColumn::default();
                        block.read_chunk(&e, TimeRange::ALL, need, &mut decoder, &mut column)?;
                        Ok::<_, ReadError>(column)
                    })?;
                }
            }
        }
        Ok(bytes)
    }

    fn overlapping(&self, range: TimeRange) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(move |p| covers(p, range))
    }

    fn roster(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        max: usize,
        how: IndexUse,
        mut report: Option<&mut SelectReport>,
    ) -> Result<Roster, ReadError> {
        let mut lists = Vec::new();
        for place in &self.places {
            // A head may get samples in the range while the roster is used.
            if !matches!(place, Place::Head(..)) && !covers(place, range) {
                if let Some(r) = &mut report {
                    r.pruned += 1;
                }
                continue;
            }
            let mut about = report.is_some().then(|| place.report());
            lists.push((place.clone(), place.select(matchers, range, false, how, about.as_mut())?));
            if let (Some(r), Some(about)) = (&mut report, about) {
                r.places.push(about);
            }
        }
        Roster::merge(lists, range, max)
    }
}

fn covers(place: &Place, range: TimeRange) -> bool {
    place.time_bounds().is_some_and(|b| range.overlaps(b.min, b.max))
}

impl Snapshot for StoreSnapshot {
    fn generation(&self) -> u64 {
        self.generation
    }

    fn select(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        series_max: usize,
    ) -> Result<Arc<dyn SeriesSet>, ReadError> {
        self.select_with(matchers, range, series_max, &SelectOptions::default(), None)
    }

    fn select_with(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        series_max: usize,
        options: &SelectOptions,
        report: Option<&mut SelectReport>,
    ) -> Result<Arc<dyn SeriesSet>, ReadError> {
        if range.min > range.max {
            return Ok(crate::set::empty());
        }
        let cached = self.cache.as_ref().map(|set| Cached { set: Arc::clone(set), admission: set.admission() });
        let watch = &self.watch;
        if let Some(remote) = &watch.remote {
            remote.next_epoch();
        }
        let watched = watch.foresight.as_ref().map(|f| f.seen(matchers, range, watch.now_ms));
        let find = || self.roster(matchers, range, series_max, options.index, report);
        let roster = match &options.asker {
            Some(asker) => asker.during(find)?,
            None => find()?,
        };
        let roster = roster.with_cache(cached).with_reads(options.reads.clone()).asked_by(options.asker.clone());
        let roster = roster.with_room(options.histogram_bytes_max);
        Ok(Arc::new(roster.with_watch(watch.totals.clone(), watched)))
    }

    fn label_names(
        &self,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
        limit: usize,
    ) -> Result<Vec<String>, ReadError> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for place in self.overlapping(range) {
            names.extend(place.label_names(selectors, range)?);
        }
        Ok(names.into_iter().take(limit).collect())
    }

    fn label_values(
        &self,
        name: &str,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
        limit: usize,
    ) -> Result<Vec<String>, ReadError> {
        let mut values: BTreeSet<String> = BTreeSet::new();
        for place in self.overlapping(range) {
            values.extend(place.label_values(name, selectors, range)?);
        }
        Ok(values.into_iter().take(limit).collect())
    }

    fn exemplars(
        &self,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
    ) -> Result<Vec<(Labels, Vec<Exemplar>)>, ReadError> {
        let mut out: BTreeMap<Labels, Vec<Exemplar>> = BTreeMap::new();
        for place in &self.places {
            for (labels, list) in place.exemplars(selectors, range)? {
                if !list.is_empty() {
                    out.entry(labels).or_default().extend(list);
                }
            }
        }
        for list in out.values_mut() {
            list.sort_by(Exemplar::order);
            list.dedup_by(|a, b| a.order(b).is_eq());
        }
        Ok(out.into_iter().collect())
    }

    fn metadata(&self, metric: Option<&str>) -> Vec<(String, Vec<Metadata>)> {
        let mut out = crate::head::MetadataMap::new();
        // From the oldest place to the newest, each from its oldest to its newest.
        for place in self.places.iter().rev() {
            for (name, list) in place.metadata(metric) {
                let all = out.entry(name).or_default();
                list.into_iter().rev().for_each(|m| add_metadata(all, m));
            }
        }
        out.into_iter().collect()
    }

    fn time_bounds(&self) -> Option<TimeRange> {
        let all = self.places.iter().filter_map(Place::time_bounds);
        all.reduce(|a, b| TimeRange { min: a.min.min(b.min), max: a.max.max(b.max) })
    }
}
