//! Exported Parquet as a place to read from: no index but what the files say of themselves.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use quiver_model::{Exemplar, Labels, Matcher, Metadata, SampleColumn};
use quiver_persistence::Disk;
use quiver_storage::{Chunk, Decoder, StorageError, parquet_time_bounds, read_parquet_dir};

use crate::report::{PlaceKind, PlaceReport, SelectOptions, SelectReport, counted};
use crate::{Need, ReadError, SeriesKinds, SeriesSet, Snapshot, TimeRange};

/// Answers kept: planning and running a query ask for the same one several times.
const KEPT_ANSWERS: usize = 8;

type Answer = (Vec<Matcher>, TimeRange, Arc<ChunkSet>);

/// A folder of Parquet files.
pub(crate) struct ParquetSnapshot {
    disk: Arc<dyn Disk>,
    kept: Mutex<Vec<Answer>>,
    bounds: OnceLock<Option<TimeRange>>,
}

impl ParquetSnapshot {
    /// The files at the root of `disk` and in its folders.
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, kept: Mutex::default(), bounds: OnceLock::new() }
    }

    fn read(&self, matchers: &[Matcher], range: TimeRange) -> Result<Arc<ChunkSet>, ReadError> {
        if let Some((_, _, set)) = self.kept.lock().iter().find(|(m, r, _)| m == matchers && *r == range) {
            return Ok(Arc::clone(set));
        }
        let series = read_parquet_dir(&*self.disk, "", matchers, range)?;
        let set = Arc::new(ChunkSet { name: self.disk.name(), series });
        let mut kept = self.kept.lock();
        if kept.len() == KEPT_ANSWERS {
            kept.remove(0);
        }
        kept.push((matchers.to_vec(), range, Arc::clone(&set)));
        Ok(set)
    }

    fn each(
        &self,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
        mut each: impl FnMut(&Labels),
    ) -> Result<(), ReadError> {
        let all = [Vec::new()];
        for matchers in if selectors.is_empty() { &all } else { selectors } {
            self.read(matchers, range)?.series.iter().for_each(|(l, _)| each(l));
        }
        Ok(())
    }
}

impl Snapshot for ParquetSnapshot {
    fn generation(&self) -> u64 {
        1
    }

    fn select(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        series_max: usize,
    ) -> Result<Arc<dyn SeriesSet>, ReadError> {
        let set = self.read(matchers, range)?;
        if set.series.len() > series_max {
            return Err(ReadError::Limit(format!("the selector matches more than {series_max} series")));
        }
        Ok(set)
    }

    fn select_with(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        series_max: usize,
        options: &SelectOptions,
        report: Option<&mut SelectReport>,
    ) -> Result<Arc<dyn SeriesSet>, ReadError> {
        let set = self.select(matchers, range, series_max)?;
        if let Some(report) = report {
            // Filters go down to the row groups of the files; there is no index to speak of.
            let selected = set.len() as u64;
            report.places.push(PlaceReport {
                kind: PlaceKind::Parquet,
                name: self.disk.name(),
                range: None,
                series: selected,
                steps: Vec::new(),
                matched: selected,
                selected,
            });
        }
        Ok(match &options.reads {
            Some(reads) => counted(set, reads),
            None => set,
        })
    }

    fn label_names(
        &self,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
        limit: usize,
    ) -> Result<Vec<String>, ReadError> {
        let mut names = BTreeSet::new();
        self.each(selectors, range, |l| names.extend(l.iter().map(|(n, _)| n.to_owned())))?;
        Ok(names.into_iter().take(limit).collect())
    }

    fn label_values(
        &self,
        name: &str,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
        limit: usize,
    ) -> Result<Vec<String>, ReadError> {
        let mut values = BTreeSet::new();
        self.each(selectors, range, |l| values.extend([l.get(name).to_owned()]))?;
        values.remove("");
        Ok(values.into_iter().take(limit).collect())
    }

    fn exemplars(
        &self,
        _selectors: &[Vec<Matcher>],
        _range: TimeRange,
    ) -> Result<Vec<(Labels, Vec<Exemplar>)>, ReadError> {
        Ok(Vec::new())
    }

    fn metadata(&self, _metric: Option<&str>) -> Vec<(String, Vec<Metadata>)> {
        Vec::new()
    }

    fn time_bounds(&self) -> Option<TimeRange> {
        // Where they cannot be read, reading the samples says why.
        *self.bounds.get_or_init(|| parquet_time_bounds(&*self.disk, "").ok().flatten())
    }
}

/// Series in memory, their samples encoded.
struct ChunkSet {
    name: String,
    series: Vec<(Labels, Vec<Chunk>)>,
}

impl SeriesSet for ChunkSet {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn labels(&self, i: usize) -> &Labels {
        &self.series[i].0
    }

    fn kinds(&self, i: usize) -> SeriesKinds {
        self.series[i].1.iter().map(|c| c.as_ref().kinds()).reduce(SeriesKinds::union).unwrap_or_default()
    }

    fn samples_hint(&self, i: usize) -> usize {
        self.series[i].1.iter().map(Chunk::count).sum()
    }

    fn read(&self, i: usize, range: TimeRange, need: Need, out: &mut SampleColumn) -> Result<(), ReadError> {
        out.clear();
        let chunks = &self.series[i].1;
        let from = chunks.partition_point(|c| c.max_time() < range.min);
        DECODER.with_borrow_mut(|decoder| {
            for chunk in chunks[from..].iter().take_while(|c| c.min_time() <= range.max) {
                decoder
                    .decode_into(chunk.as_ref(), need, range, out)
                    .map_err(|e| StorageError::corrupt(&self.name, 0, e))?;
            }
            Ok(())
        })
    }
}

thread_local! {
    static DECODER: RefCell<Decoder> = RefCell::default();
}
