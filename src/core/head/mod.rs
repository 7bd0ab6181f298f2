//! The head: what was written since the last flush began, in columns, ready to read.
//!
//! ```text
//! batch ─▶ resolve: label bytes → dense id      (one read lock per batch; new series one write lock per few)
//!       ─▶ log …
//!       ─▶ apply: page by page (one lock per run of ids)
//! ```
//!
//! A head is a generation: at a flush a new, empty one takes its place and the old one, frozen, becomes a block. Series
//! that no longer come are gone with it; nothing has to be collected.
//!
//! Invariants
//! 1. Ids are dense, given in order, never given back while the head lives.
//! 2. A frozen head gets no more samples: it is frozen when the last write that was resolved against it is applied.
//! 3. The series table's lock is never held while a query evaluates matchers; the index has its own.

pub(crate) mod page;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use hashbrown::HashTable;
use parking_lot::{Condvar, Mutex, RwLock};
use quiver_model::{Exemplar, Labels, LabelsError, Matcher, Metadata, WriteBatch};
use quiver_persistence::turns::{end_turn, small_turn_is_over};
use quiver_persistence::{LogFloor, LogPosition};
use quiver_storage::HeadIndex;
use roaring::RoaringBitmap;

use crate::interner::{Interner, hash};
use crate::record::NO_SERIES;
use crate::refusal::{Refused, SeriesCaps};
use crate::report::{IndexUse, PlaceReport};
use crate::{MetadataRef, NamedCount, StoreStats, TimeRange};
use page::{Applied, PAGE_SERIES, Page, Pieces};

/// New series registered under one hold of the table's write lock.
const REGISTER_RUN: usize = 64;
/// What the metadata of a family takes beside its texts.
const FAMILY_BYTES: i64 = 128;
/// What a series takes beside its labels' bytes: slot, tables, lists. Measured with a million of them.
const SERIES_BYTES: i64 = 180;
/// What a label of a series takes in the index.
const LABEL_BYTES: i64 = 4;
/// Labels for which refused series are counted.
const REFUSED_LABELS: usize = 1000;
/// Versions of metadata kept for one metric family.
const METADATA_VERSIONS: usize = 64;

/// Counters that live as long as the store.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Number of the set of visible series; see [`crate::Snapshot::generation`].
    pub(crate) generation: AtomicU64,
    pub(crate) samples: AtomicU64,
    pub(crate) late: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    /// New series refused, by the label that had too many values.
    refused: Mutex<BTreeMap<String, u64>>,
    /// Time spent on look-ups, on encoding for the log, on the head, ns.
    pub(crate) lookup_ns: AtomicU64,
    pub(crate) encode_ns: AtomicU64,
    pub(crate) apply_ns: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) compactions: AtomicU64,
    /// Blocks that went for their age or for want of room.
    pub(crate) blocks_dropped: AtomicU64,
    /// Deletions taken.
    pub(crate) deletions: AtomicU64,
}

impl Counters {
    /// Counts a write.
    pub(crate) fn add(&self, applied: &Applied, samples: u64) {
        self.samples.fetch_add(samples, Ordering::Relaxed);
        self.late.fetch_add(applied.late, Ordering::Relaxed);
        self.conflicts.fetch_add(applied.conflicts, Ordering::Relaxed);
    }

    /// Counts series that were refused.
    pub(crate) fn refused(&self, refused: &Refused) {
        let name = refused.label().map_or("", |l| l.name.as_str());
        let mut all = self.refused.lock();
        // Labels are the clients': the list has an end.
        let has_room = all.len() < REFUSED_LABELS;
        if let Some(count) = all.get_mut(name) {
            *count += refused.count as u64;
        } else if has_room {
            all.insert(name.to_owned(), refused.count as u64);
        }
    }

    /// New series refused, by label, the most first.
    pub(crate) fn refused_by_label(&self) -> Vec<NamedCount> {
        let mut list: Vec<NamedCount> =
            self.refused.lock().iter().map(|(name, count)| NamedCount { name: name.clone(), count: *count }).collect();
        list.sort_by_key(|c| std::cmp::Reverse(c.count));
        list
    }
}

#[derive(Default)]
struct Series {
    /// (half of the hash, id): the half is what a growing table places by.
    table: HashTable<(u32, u32)>,
    labels: Vec<Labels>,
}

impl Series {
    fn find(&self, hash: u64, packed: &[u8]) -> Option<u32> {
        let half = hash as u32;
        let same = |(h, id): &(u32, u32)| *h == half && self.labels[*id as usize].packed() == packed;
        self.table.find(spread(half), same).map(|(_, id)| *id)
    }

    fn add(&mut self, hash: u64, labels: Labels) {
        let (half, id) = (hash as u32, self.labels.len() as u32);
        self.table.insert_unique(spread(half), (half, id), |(h, _)| spread(*h));
        self.labels.push(labels);
    }
}

/// Half a hash over all bits again.
fn spread(half: u32) -> u64 {
    u64::from(half).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Series ids in label order, and each id's place in it.
#[derive(Debug, Default)]
struct Order {
    ids: Vec<u32>,
    rank: Vec<u32>,
}

/// A series of the head that a selector picked.
#[derive(Clone, Debug)]
pub(crate) struct HeadSeries {
    pub(crate) labels: Labels,
    pub(crate) id: u32,
    /// Bits of [`page`].
    pub(crate) kinds: u8,
}

/// Metadata by metric family, the newest first.
pub(crate) type MetadataMap = BTreeMap<String, Vec<Metadata>>;

/// See the module.
pub(crate) struct Head {
    /// Generation: rises by one with every flush.
    pub(crate) generation: u64,
    series: RwLock<Series>,
    index: RwLock<HeadIndex>,
    pages: RwLock<Vec<Arc<Mutex<Page>>>>,
    order: Mutex<Arc<Order>>,
    exemplars: Mutex<BTreeMap<u32, BTreeSet<Ordered>>>,
    metadata: Mutex<MetadataMap>,
    writes: Mutex<usize>,
    drained: Condvar,
    touched: AtomicBool,
    samples: AtomicU64,
    bytes: AtomicI64,
    series_bytes: AtomicI64,
    min_ts: AtomicI64,
    max_ts: AtomicI64,
    /// By log shard, the last segment that holds a frame of this head.
    logged: Mutex<Vec<(u32, u64)>>,
    /// When the first batch came, by the store's clock, ms; 0: none yet.
    pub(crate) first_write_ms: AtomicI64,
    counters: Arc<Counters>,
}

impl Head {
    /// An empty head.
    pub(crate) fn new(generation: u64, counters: Arc<Counters>) -> Self {
        Self {
            generation,
            series: RwLock::default(),
            index: RwLock::default(),
            pages: RwLock::default(),
            order: Mutex::default(),
            exemplars: Mutex::default(),
            metadata: Mutex::default(),
            writes: Mutex::new(0),
            drained: Condvar::new(),
            touched: AtomicBool::new(false),
            samples: AtomicU64::new(0),
            bytes: AtomicI64::new(0),
            series_bytes: AtomicI64::new(0),
            min_ts: AtomicI64::new(i64::MAX),
            max_ts: AtomicI64::new(i64::MIN),
            logged: Mutex::default(),
            first_write_ms: AtomicI64::new(0),
            counters,
        }
    }

    /// Takes part in this head: it is not frozen before the guard is gone.
    pub(crate) fn enter(self: &Arc<Self>) -> WriteGuard {
        *self.writes.lock() += 1;
        WriteGuard { head: Arc::clone(self) }
    }

    /// Waits until no write is on its way into this head. The caller made sure that no new one comes.
    pub(crate) fn wait_until_frozen(&self) {
        let mut writes = self.writes.lock();
        while *writes > 0 {
            self.drained.wait(&mut writes);
        }
    }

    /// Notes where a frame of this head was logged.
    pub(crate) fn note_logged(&self, at: LogPosition) {
        let mut logged = self.logged.lock();
        match logged.iter_mut().find(|(shard, _)| *shard == at.shard) {
            Some((_, segment)) => *segment = at.segment.max(*segment),
            None => logged.push((at.shard, at.segment)),
        }
    }

    /// Is any frame of this head in a segment that a replay from `floor` on reads?
    pub(crate) fn is_logged_from(&self, floor: &LogFloor) -> bool {
        self.logged.lock().iter().any(|(shard, segment)| *segment >= floor.of(*shard))
    }

    /// Finds the ids of a batch's series, registering new ones as far as `caps` allow; those past them get
    /// [`NO_SERIES`]. Returns which were refused. Label sets of new series are shared through `interner`.
    pub(crate) fn resolve(
        &self,
        batch: &WriteBatch,
        ids: &mut Vec<u32>,
        caps: SeriesCaps,
        interner: &Interner,
    ) -> Result<Refused, LabelsError> {
        ids.clear();
        ids.reserve(batch.series.len());
        let mut missing: Vec<(u32, u64)> = Vec::new();
        {
            let series = self.series.read();
            let mut next = u32::MAX;
            for (k, s) in batch.series.iter().enumerate() {
                let packed = packed(batch, s.labels)?;
                // Clients repeat their series in the same order, which is the order of ids: try the next one first.
                if series.labels.get(next as usize).is_some_and(|l| l.packed() == packed) {
                    ids.push(next);
                    next = next.wrapping_add(1);
                    continue;
                }
                let hash = hash(packed);
                match series.find(hash, packed) {
                    Some(id) => {
                        ids.push(id);
                        next = id + 1;
                    }
                    None => {
                        ids.push(NO_SERIES);
                        missing.push((k as u32, hash));
                    }
                }
            }
        }
        let mut refused = Refused::default();
        for run in missing.chunks(REGISTER_RUN) {
            let labels: Vec<Labels> = run
                .iter()
                .map(|(k, hash)| {
                    let bytes = packed(batch, batch.series[*k as usize].labels)?;
                    interner.intern(*hash, bytes, || Labels::from_packed(bytes))
                })
                .collect::<Result<_, LabelsError>>()?;
            self.register(run, labels, ids, caps, &mut refused);
        }
        Ok(refused)
    }

    fn register(
        &self,
        run: &[(u32, u64)],
        labels: Vec<Labels>,
        ids: &mut [u32],
        caps: SeriesCaps,
        refused: &mut Refused,
    ) {
        // The index first: a series that can be found by a writer can be found by a query.
        let mut index = self.index.write();
        let mut series = self.series.write();
        let mut pages = self.pages.write();
        let mut bytes = 0;
        for ((k, hash), labels) in run.iter().zip(labels) {
            if let Some(id) = series.find(*hash, labels.packed()) {
                ids[*k as usize] = id;
                continue;
            }
            if let Some(cap) = caps.reached(series.labels.len(), &index, labels.as_ref()) {
                refused.add(cap, &index, labels.as_ref());
                continue;
            }
            let id = series.labels.len() as u32;
            let page = id as usize / PAGE_SERIES;
            if page == pages.len() {
                pages.push(Arc::new(Mutex::new(Page::new(page))));
            }
            pages[page].lock().push_series();
            index.insert(id, labels.as_ref());
            bytes += SERIES_BYTES + labels.packed().len() as i64 + LABEL_BYTES * labels.len() as i64;
            series.add(*hash, labels);
            ids[*k as usize] = id;
        }
        self.series_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds a batch's samples, whose series have the ids `ids`. Takes the histograms out of the batch.
    pub(crate) fn apply(&self, ids: &[u32], batch: &mut WriteBatch) -> Applied {
        let mut applied = Applied::default();
        let mut samples = 0u64;
        let (mut min_ts, mut max_ts) = (i64::MAX, i64::MIN);
        let mut k = 0;
        while k < ids.len() {
            if ids[k] == NO_SERIES {
                k += 1;
                continue;
            }
            let number = ids[k] as usize / PAGE_SERIES;
            let page = self.page(ids[k]);
            let mut page = page.lock();
            // Most samples go to the page of the one before: one lock per run of ids.
            while let Some(id) = ids.get(k).filter(|id| **id as usize / PAGE_SERIES == number) {
                let (s, i) = (&batch.series[k], *id as usize % PAGE_SERIES);
                k += 1;
                let floats = s.floats.0 as usize..s.floats.1 as usize;
                samples += floats.len() as u64;
                for k in floats {
                    let t = batch.ts[k];
                    min_ts = min_ts.min(t);
                    max_ts = max_ts.max(t);
                    let start = if batch.start_ts.is_empty() { 0 } else { batch.start_ts[k] };
                    page.push_float(i, t, batch.values[k], start, &mut applied);
                }
                for h in &mut batch.histograms[s.histograms.0 as usize..s.histograms.1 as usize] {
                    samples += 1;
                    min_ts = min_ts.min(h.ts);
                    max_ts = max_ts.max(h.ts);
                    let histogram = Arc::new(std::mem::take(&mut h.histogram));
                    page.push_histogram(i, h.ts, histogram, h.start_ts, &mut applied);
                }
                if small_turn_is_over() {
                    break;
                }
            }
            drop(page);
            end_turn();
        }
        if !batch.exemplars.is_empty() {
            self.apply_exemplars(ids, batch);
        }
        if !batch.metadata.is_empty() {
            let mut map = self.metadata.lock();
            for (name, m) in batch.metadata.drain(..) {
                let name_bytes = name.len();
                let held = |list: &[Metadata]| -> i64 {
                    let texts = list.iter().map(|m| name_bytes + m.unit.len() + m.help.len());
                    texts.map(|bytes| FAMILY_BYTES + bytes as i64).sum()
                };
                let list = map.entry(name).or_default();
                let before = held(list);
                add_metadata(list, m);
                self.bytes.fetch_add(held(list) - before, Ordering::Relaxed);
            }
        }
        self.touched.store(true, Ordering::Release);
        self.min_ts.fetch_min(min_ts, Ordering::Relaxed);
        self.max_ts.fetch_max(max_ts, Ordering::Relaxed);
        self.samples.fetch_add(samples, Ordering::Relaxed);
        self.bytes.fetch_add(applied.bytes, Ordering::Relaxed);
        if applied.roster_changed {
            self.counters.generation.fetch_add(1, Ordering::AcqRel);
        }
        applied
    }

    fn apply_exemplars(&self, ids: &[u32], batch: &WriteBatch) {
        let mut map = self.exemplars.lock();
        for (s, id) in batch.series.iter().zip(ids) {
            if *id == NO_SERIES || s.exemplars.0 >= s.exemplars.1 {
                continue;
            }
            let list = map.entry(*id).or_default();
            for e in &batch.exemplars[s.exemplars.0 as usize..s.exemplars.1 as usize] {
                if list.insert(Ordered(e.clone())) {
                    self.bytes.fetch_add(i64::try_from(e.heap_bytes()).unwrap_or(i64::MAX), Ordering::Relaxed);
                }
            }
        }
    }

    /// Nothing was ever applied?
    pub(crate) fn is_empty(&self) -> bool {
        !self.touched.load(Ordering::Acquire)
    }

    /// Series registered.
    pub(crate) fn series_len(&self) -> usize {
        self.series.read().labels.len()
    }

    /// Memory held, bytes (about).
    pub(crate) fn bytes(&self) -> usize {
        let samples = usize::try_from(self.bytes.load(Ordering::Relaxed)).unwrap_or(0);
        samples.saturating_add(self.series_bytes())
    }

    fn series_bytes(&self) -> usize {
        usize::try_from(self.series_bytes.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Memory at which it is to be flushed, where `max` is configured: the series alone take what they take, and a flush
    /// does not make them fewer; so their samples get half as much at least.
    pub(crate) fn bytes_max(&self, max: usize) -> usize {
        max.max(self.series_bytes().saturating_mul(3) / 2)
    }

    /// Samples applied, repeats included.
    pub(crate) fn samples(&self) -> u64 {
        self.samples.load(Ordering::Relaxed)
    }

    /// Earliest and latest sample.
    pub(crate) fn time_bounds(&self) -> Option<TimeRange> {
        let (min, max) = (self.min_ts.load(Ordering::Relaxed), self.max_ts.load(Ordering::Relaxed));
        (min <= max).then_some(TimeRange { min, max })
    }

    /// Kinds of samples a series has.
    pub(crate) fn kinds(&self, id: u32) -> u8 {
        self.page(id).lock().summary(id as usize % PAGE_SERIES).kinds
    }

    fn page(&self, id: u32) -> Arc<Mutex<Page>> {
        Arc::clone(&self.pages.read()[id as usize / PAGE_SERIES])
    }

    /// What a series has in `range`.
    pub(crate) fn collect(&self, id: u32, range: TimeRange, out: &mut Pieces) {
        self.page(id).lock().collect(id as usize % PAGE_SERIES, range, out);
    }

    /// About how many samples a series has in `range`.
    pub(crate) fn samples_hint(&self, id: u32, range: TimeRange) -> usize {
        self.page(id).lock().samples_hint(id as usize % PAGE_SERIES, range)
    }

    /// Series with a sample, below id `bound`, that all `matchers` accept, in label order. With `exact` their first and
    /// last sample must leave room for one in `range`; without, the span is taken in the steps that keep a roster valid
    /// while the generation stands. Matchers that the index leaves are given back, to be tested on labels.
    pub(crate) fn select<'m>(
        &self,
        matchers: &'m [Matcher],
        range: TimeRange,
        bound: u32,
        exact: bool,
        how: IndexUse,
        report: Option<&mut PlaceReport>,
    ) -> (Vec<HeadSeries>, Vec<&'m Matcher>) {
        let mut report = report;
        let picked = self.index.read().pick(matchers, how, report.as_mut().map(|r| &mut r.steps));
        let mut ids = picked.ids;
        ids.remove_range(bound..);
        if let Some(r) = report {
            (r.series, r.matched) = (self.series_len().min(bound as usize) as u64, ids.len());
        }
        (self.gather(&ids, range, exact), picked.rest)
    }

    /// Series below `bound` with a sample in `range` that any of the selectors accepts (all, where there is none).
    fn among(&self, selectors: &[Vec<Matcher>], range: TimeRange, bound: u32) -> RoaringBitmap {
        let mut ids = RoaringBitmap::new();
        {
            let index = self.index.read();
            if selectors.is_empty() {
                ids |= index.all();
            }
            selectors.iter().for_each(|matchers| ids |= index.select(matchers));
        }
        ids.remove_range(bound..);
        self.covering(&ids, range, true).into_iter().map(|(id, _)| id).collect()
    }

    /// Label names of the series that [`Head::among`] picks.
    pub(crate) fn label_names(&self, selectors: &[Vec<Matcher>], range: TimeRange, bound: u32) -> Vec<String> {
        let among = (!selectors.is_empty()).then(|| self.among(selectors, range, bound));
        self.index.read().label_names(among.as_ref(), |id| id < bound && self.covers(id, range))
    }

    /// Values of a label of the series that [`Head::among`] picks.
    pub(crate) fn label_values(
        &self,
        name: &str,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
        bound: u32,
    ) -> Vec<String> {
        // Without selectors the first series of each value is mostly enough.
        let among = (!selectors.is_empty()).then(|| self.among(selectors, range, bound));
        self.index.read().label_values(name, among.as_ref(), |id| id < bound && self.covers(id, range))
    }

    /// Has the series a sample in the range, as far as its span tells?
    fn covers(&self, id: u32, range: TimeRange) -> bool {
        let s = self.page(id).lock().summary(id as usize % PAGE_SERIES);
        s.may_cover(range) && range.overlaps(s.min_ts, s.max_ts)
    }

    /// Those of `ids` whose span leaves room for samples in `range`, ascending, and what they hold (bits of [`page`]).
    fn covering(&self, ids: &RoaringBitmap, range: TimeRange, exact: bool) -> Vec<(u32, u8)> {
        let mut found = Vec::with_capacity(ids.len() as usize);
        let mut rest = ids.iter().peekable();
        while let Some(first) = rest.peek().copied() {
            let page = self.page(first);
            let page = page.lock();
            let is_there = |id: &u32| *id as usize / PAGE_SERIES == first as usize / PAGE_SERIES;
            while let Some(id) = rest.next_if(is_there) {
                let s = page.summary(id as usize % PAGE_SERIES);
                if s.may_cover(range) && (!exact || range.overlaps(s.min_ts, s.max_ts)) {
                    found.push((id, s.kinds));
                }
            }
        }
        found
    }

    /// Labels of a series.
    pub(crate) fn labels(&self, id: u32) -> Labels {
        self.series.read().labels[id as usize].clone()
    }

    /// All series in label order.
    pub(crate) fn in_order(&self) -> Vec<u32> {
        let order = self.order();
        let series = self.series.read();
        let labels = |id: &u32| &series.labels[*id as usize];
        let mut ids = Vec::with_capacity(series.labels.len());
        ids.extend_from_slice(&order.ids);
        ids.extend(order.ids.len() as u32..series.labels.len() as u32);
        // All but a few are sorted: the sort finds that.
        ids[order.ids.len()..].sort_unstable_by(|a, b| labels(a).cmp(labels(b)));
        ids.sort_by(|a, b| labels(a).cmp(labels(b)));
        ids
    }

    /// Those of `ids` that [`Head::covering`] leaves, in label order.
    fn gather(&self, ids: &RoaringBitmap, range: TimeRange, exact: bool) -> Vec<HeadSeries> {
        let mut found = self.covering(ids, range, exact);
        let order = self.order();
        let ranked = order.rank.len() as u32;
        // Ids are ascending: the ranked ones come first.
        let (total, split) = (found.len(), found.partition_point(|(id, _)| *id < ranked));
        let (old, new) = found.split_at_mut(split);
        old.sort_unstable_by_key(|(id, _)| order.rank[*id as usize]);
        let series = self.series.read();
        new.sort_unstable_by(|(a, _), (b, _)| series.labels[*a as usize].cmp(&series.labels[*b as usize]));
        let of = |(id, kinds): &(u32, u8)| HeadSeries {
            labels: series.labels[*id as usize].clone(),
            id: *id,
            kinds: *kinds,
        };
        let mut out: Vec<HeadSeries> = Vec::with_capacity(total);
        let (mut a, mut b) = (old.iter().peekable(), new.iter().peekable());
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            let first = series.labels[x.0 as usize] < series.labels[y.0 as usize];
            out.extend(if first { a.next() } else { b.next() }.map(of));
        }
        out.extend(a.map(of));
        out.extend(b.map(of));
        out
    }

    /// The label order of all but a few series.
    fn order(&self) -> Arc<Order> {
        let mut order = self.order.lock();
        let series = self.series.read();
        let (have, all) = (order.rank.len(), series.labels.len());
        if all - have > 64 + have / 16 {
            let labels = |id: u32| &series.labels[id as usize];
            let mut ids = Vec::with_capacity(all);
            ids.extend_from_slice(&order.ids);
            ids.extend(have as u32..all as u32);
            // Two runs, the first of them sorted: the sort finds that.
            ids[have..].sort_unstable_by(|a, b| labels(*a).cmp(labels(*b)));
            ids.sort_by(|a, b| labels(*a).cmp(labels(*b)));
            let mut rank = vec![0; all];
            for (r, id) in ids.iter().enumerate() {
                rank[*id as usize] = r as u32;
            }
            *order = Arc::new(Order { ids, rank });
        }
        Arc::clone(&order)
    }

    /// Exemplars of a series in `range`, by time.
    pub(crate) fn exemplars(&self, id: u32, range: TimeRange) -> Vec<Exemplar> {
        let map = self.exemplars.lock();
        let all = map.get(&id).into_iter().flatten().map(|Ordered(e)| e);
        all.filter(|e| range.overlaps(e.ts, e.ts)).cloned().collect()
    }

    /// Ids of the series below `bound` that have exemplars and that `selectors` accept (all, where there is none).
    pub(crate) fn with_exemplars(&self, selectors: &[Vec<Matcher>], bound: u32) -> Vec<(Labels, u32)> {
        let ids: Vec<u32> = self.exemplars.lock().keys().copied().filter(|id| *id < bound).collect();
        let accepts = |l: &Labels| {
            selectors.is_empty() || selectors.iter().any(|ms| ms.iter().all(|m| m.matches_labels(l.as_ref())))
        };
        let series = self.series.read();
        ids.into_iter().map(|id| (series.labels[id as usize].clone(), id)).filter(|(l, _)| accepts(l)).collect()
    }

    /// A copy of the metadata.
    pub(crate) fn metadata(&self, metric: Option<&str>) -> MetadataMap {
        let map = self.metadata.lock();
        match metric {
            None => map.clone(),
            Some(name) => map.get_key_value(name).map(|(k, v)| (k.clone(), v.clone())).into_iter().collect(),
        }
    }

    /// Is this the newest that is known of a family?
    pub(crate) fn has_metadata(&self, family: &str, m: MetadataRef<'_>) -> bool {
        self.metadata.lock().get(family).and_then(|list| list.first()).is_some_and(|newest| m == newest.into())
    }

    /// Adds this head's figures; top lists at most `top` long.
    pub(crate) fn stats(&self, top: usize, out: &mut StoreStats) {
        out.head_series += self.series_len() as u64;
        let pages = self.pages.read().clone();
        out.head_chunks += pages.iter().map(|p| p.lock().chunks() as u64).sum::<u64>();
        let index = self.index.read();
        let list = |counts: Vec<quiver_storage::index::NamedCount>| {
            counts.into_iter().map(|c| NamedCount { name: c.name, count: c.count }).collect()
        };
        out.label_pairs += index.pairs();
        if top == 0 {
            return;
        }
        out.series_by_metric = list(index.series_by_metric(top));
        out.values_by_label = list(index.values_by_label(top));
        out.bytes_by_label = list(index.bytes_by_label(top));
        out.series_by_pair = list(index.series_by_pair(top));
    }
}

/// An exemplar in its place among those of its series. A tree and no list: whatever times a client sends, one more costs no more.
#[derive(Clone, Debug)]
struct Ordered(Exemplar);

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.order(&other.0)
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ordered {}

/// Adds metadata as the newest of its family.
pub(crate) fn add_metadata(list: &mut Vec<Metadata>, m: Metadata) {
    if list.first() == Some(&m) {
        return;
    }
    list.retain(|have| *have != m);
    list.insert(0, m);
    list.truncate(METADATA_VERSIONS);
}

fn packed(batch: &WriteBatch, at: (u32, u32)) -> Result<&[u8], LabelsError> {
    batch.label_bytes.get(at.0 as usize..at.1 as usize).ok_or(LabelsError::Malformed)
}

/// A write on its way into a head; see [`Head::enter`].
pub(crate) struct WriteGuard {
    head: Arc<Head>,
}

impl std::ops::Deref for WriteGuard {
    type Target = Arc<Head>;
    fn deref(&self) -> &Arc<Head> {
        &self.head
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        let mut writes = self.head.writes.lock();
        *writes -= 1;
        if *writes == 0 {
            self.head.drained.notify_all();
        }
    }
}
