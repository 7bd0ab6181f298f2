//! A store in plain maps: nothing durable, nothing fast, obviously right. The oracle of [`crate::Store`]'s tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use quiver_model::{Exemplar, Labels, Matcher, Metadata, SampleColumn, Value, WriteBatch};

use crate::changes::Changes;
use crate::{
    BoxFuture, Health, Ingest, Maintain, Need, ReadError, SeriesKinds, SeriesSet, Snapshot, Source, StoreStats,
    TimeRange, WriteError, WriteReceipt,
};

type Series = BTreeMap<i64, (Value, i64)>;

#[derive(Clone, Default)]
struct State {
    series: BTreeMap<Labels, Arc<Series>>,
    exemplars: BTreeMap<Labels, Vec<Exemplar>>,
    metadata: BTreeMap<String, Vec<Metadata>>,
}

/// See the module.
#[derive(Default)]
pub struct MemoryStore {
    state: RwLock<Arc<State>>,
    generation: AtomicU64,
    changes: Changes,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// [`Ingest::write`] without the future.
    pub fn write_now(&self, batch: &WriteBatch) -> Result<WriteReceipt, WriteError> {
        let mut guard = self.state.write();
        let state = Arc::make_mut(&mut guard);
        let mut receipt = WriteReceipt::default();
        for (i, s) in batch.series.iter().enumerate() {
            let labels = batch.labels(i).map_err(|e| WriteError::Rejected(e.to_string()))?.to_labels();
            let mut add = |t: i64, v: Value, start: i64| {
                let series = state.series.entry(labels.clone()).or_default();
                let new = (v, start);
                let samples = Arc::make_mut(series);
                match samples.get_mut(&t) {
                    None => {
                        samples.insert(t, new);
                    }
                    Some(old) => match new.0.precedence(&old.0) {
                        std::cmp::Ordering::Greater => *old = new,
                        std::cmp::Ordering::Equal => old.1 = old.1.max(new.1),
                        std::cmp::Ordering::Less => {}
                    },
                }
            };
            for k in s.floats.0 as usize..s.floats.1 as usize {
                let start = batch.start_ts.get(k).copied().unwrap_or(0);
                add(batch.ts[k], Value::Float(batch.values[k]), start);
                receipt.floats += 1;
            }
            for h in &batch.histograms[s.histograms.0 as usize..s.histograms.1 as usize] {
                add(h.ts, Value::Histogram(Arc::new(h.histogram.clone())), h.start_ts);
                receipt.histograms += 1;
            }
            for e in &batch.exemplars[s.exemplars.0 as usize..s.exemplars.1 as usize] {
                let list = state.exemplars.entry(labels.clone()).or_default();
                if !list.contains(e) {
                    list.push(e.clone());
                    list.sort_by(Exemplar::order);
                }
                receipt.exemplars += 1;
            }
        }
        for (name, m) in &batch.metadata {
            let list = state.metadata.entry(name.clone()).or_default();
            list.retain(|have| have != m);
            list.insert(0, m.clone());
        }
        self.generation.fetch_add(1, Ordering::SeqCst);
        drop(guard);
        if let Some(range) = batch.time_range() {
            self.changes.note(range);
        }
        Ok(receipt)
    }
}

impl MemoryStore {
    /// [`Maintain::delete`] without the future.
    pub fn delete_now(&self, selectors: &[Vec<Matcher>], range: TimeRange) {
        let mut guard = self.state.write();
        let state = Arc::make_mut(&mut guard);
        let hit = |l: &Labels| selectors.iter().any(|ms| ms.iter().all(|m| m.matches_labels(l.as_ref())));
        for (_, samples) in state.series.iter_mut().filter(|(l, _)| hit(l)) {
            Arc::make_mut(samples).retain(|t, _| !range.overlaps(*t, *t));
        }
        state.series.retain(|_, samples| !samples.is_empty());
        for (_, list) in state.exemplars.iter_mut().filter(|(l, _)| hit(l)) {
            list.retain(|e| !range.overlaps(e.ts, e.ts));
        }
        self.generation.fetch_add(1, Ordering::SeqCst);
        drop(guard);
        self.changes.note(range);
    }
}

impl Ingest for MemoryStore {
    fn write(&self, batch: WriteBatch) -> BoxFuture<'_, Result<WriteReceipt, WriteError>> {
        Box::pin(async move { self.write_now(&batch) })
    }
}

impl Source for MemoryStore {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        let generation = self.generation.load(Ordering::SeqCst);
        Arc::new(MemorySnapshot { state: Arc::clone(&self.state.read()), generation })
    }

    fn changes(&self) -> Option<&Changes> {
        Some(&self.changes)
    }
}

impl Maintain for MemoryStore {
    fn flush(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async { Ok(()) })
    }
    fn compact(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async { Ok(()) })
    }
    fn delete(&self, selectors: Vec<Vec<Matcher>>, range: TimeRange) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async move {
            self.delete_now(&selectors, range);
            Ok(())
        })
    }
    fn clean_tombstones(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async { Ok(()) })
    }
    fn stats(&self, _top: usize) -> StoreStats {
        StoreStats { head_series: self.state.read().series.len() as u64, ..StoreStats::default() }
    }
    fn health(&self) -> Health {
        Health::Ok
    }
}

struct MemorySnapshot {
    state: Arc<State>,
    generation: u64,
}

impl MemorySnapshot {
    fn matching<'a>(
        &'a self,
        selectors: &'a [Vec<Matcher>],
        range: TimeRange,
    ) -> impl Iterator<Item = (&'a Labels, &'a Arc<Series>)> {
        self.state.series.iter().filter(move |(labels, samples)| {
            let one = |ms: &Vec<Matcher>| ms.iter().all(|m| m.matches_labels(labels.as_ref()));
            (selectors.is_empty() || selectors.iter().any(one)) && in_range(samples, range).next().is_some()
        })
    }
}

fn in_range(samples: &Series, range: TimeRange) -> impl Iterator<Item = (&i64, &(Value, i64))> {
    let (min, max) = (range.min, range.max.max(range.min));
    samples.range(min..=max)
}

impl Snapshot for MemorySnapshot {
    fn generation(&self) -> u64 {
        self.generation
    }

    fn select(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        series_max: usize,
    ) -> Result<Arc<dyn SeriesSet>, ReadError> {
        let selectors = [matchers.to_vec()];
        let series: Vec<_> = self.matching(&selectors, range).map(|(l, s)| (l.clone(), Arc::clone(s))).collect();
        if series.len() > series_max {
            return Err(ReadError::Limit(format!("the selector matches more than {series_max} series")));
        }
        Ok(Arc::new(MemorySet { series }))
    }

    fn label_names(
        &self,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
        limit: usize,
    ) -> Result<Vec<String>, ReadError> {
        let names: std::collections::BTreeSet<&str> =
            self.matching(selectors, range).flat_map(|(l, _)| l.iter().map(|(n, _)| n)).collect();
        Ok(names.into_iter().take(limit).map(str::to_owned).collect())
    }

    fn label_values(
        &self,
        name: &str,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
        limit: usize,
    ) -> Result<Vec<String>, ReadError> {
        let values: std::collections::BTreeSet<&str> =
            self.matching(selectors, range).map(|(l, _)| l.get(name)).filter(|v| !v.is_empty()).collect();
        Ok(values.into_iter().take(limit).map(str::to_owned).collect())
    }

    fn exemplars(
        &self,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
    ) -> Result<Vec<(Labels, Vec<Exemplar>)>, ReadError> {
        let mut out = Vec::new();
        for (labels, list) in &self.state.exemplars {
            let one = |ms: &Vec<Matcher>| ms.iter().all(|m| m.matches_labels(labels.as_ref()));
            if selectors.is_empty() || selectors.iter().any(one) {
                let list: Vec<_> = list.iter().filter(|e| range.overlaps(e.ts, e.ts)).cloned().collect();
                if !list.is_empty() {
                    out.push((labels.clone(), list));
                }
            }
        }
        Ok(out)
    }

    fn metadata(&self, metric: Option<&str>) -> Vec<(String, Vec<Metadata>)> {
        let keep = |n: &str| metric.is_none_or(|m| m == n);
        self.state.metadata.iter().filter(|(n, _)| keep(n)).map(|(n, m)| (n.clone(), m.clone())).collect()
    }

    fn time_bounds(&self) -> Option<TimeRange> {
        let firsts = self.state.series.values().filter_map(|s| s.keys().next().copied()).min()?;
        let lasts = self.state.series.values().filter_map(|s| s.keys().next_back().copied()).max()?;
        Some(TimeRange { min: firsts, max: lasts })
    }
}

struct MemorySet {
    series: Vec<(Labels, Arc<Series>)>,
}

impl SeriesSet for MemorySet {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn labels(&self, i: usize) -> &Labels {
        &self.series[i].0
    }

    fn kinds(&self, i: usize) -> SeriesKinds {
        let s = &self.series[i].1;
        SeriesKinds {
            floats: s.values().any(|(v, _)| matches!(v, Value::Float(_))),
            histograms: s.values().any(|(v, _)| matches!(v, Value::Histogram(_))),
            start_ts: s.values().any(|(_, st)| *st != 0),
        }
    }

    fn samples_hint(&self, i: usize) -> usize {
        self.series[i].1.len()
    }

    fn read(&self, i: usize, range: TimeRange, _need: Need, out: &mut SampleColumn) -> Result<(), ReadError> {
        out.clear();
        for (t, (v, start)) in in_range(&self.series[i].1, range) {
            match v {
                Value::Float(v) => out.push_float(*t, *v, *start),
                Value::Histogram(h) => out.push_histogram(*t, Arc::clone(h), *start),
            }
        }
        Ok(())
    }
}
