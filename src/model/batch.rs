//! One write request, decoded into columns: the one shape every protocol ends in.
//!
//! ```text
//! label_bytes   │packed set│packed set│ …            one per series, see `labels`
//! ts, values    │float samples of series 0 │ of series 1 │ …
//! histograms    │(series, time, start, histogram)│ …
//! ```
//!
//! A batch owns its bytes, so that it can wait in a queue; its buffers are meant to be recycled.

use crate::histogram::Histogram;
use crate::labels::{LabelsRef, push_packed};
use crate::metric::{Exemplar, Metadata};
use crate::read::TimeRange;

/// Where one series of a batch has its parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchSeries {
    /// Range of `WriteBatch::label_bytes`.
    pub labels: (u32, u32),
    /// Range of `WriteBatch::{ts, values}` (and `start_ts`, where that is not empty).
    pub floats: (u32, u32),
    /// Range of `WriteBatch::histograms`.
    pub histograms: (u32, u32),
    /// Range of `WriteBatch::exemplars`.
    pub exemplars: (u32, u32),
}

/// A histogram sample of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchHistogram {
    /// Time, ms.
    pub ts: i64,
    /// Start timestamp, ms; 0: unknown.
    pub start_ts: i64,
    /// The histogram, its bucket counts absolute.
    pub histogram: Histogram,
}

/// What [`WriteBatch::keep_parts`] leaves of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeptParts {
    /// Nothing.
    Nothing,
    /// Its exemplars.
    Exemplars,
    /// All of it.
    All,
}

/// Samples of any number of series, kept whole or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteBatch {
    /// Packed label sets, back to back.
    pub label_bytes: Vec<u8>,
    /// The series, in the order they came; one label set may come more than once.
    pub series: Vec<BatchSeries>,
    /// Times of float samples, ms.
    pub ts: Vec<i64>,
    /// Values of float samples, as many as `ts`.
    pub values: Vec<f64>,
    /// Start timestamps of float samples: empty, or as many as `ts` (0: unknown).
    pub start_ts: Vec<i64>,
    /// Histogram samples.
    pub histograms: Vec<BatchHistogram>,
    /// Exemplars.
    pub exemplars: Vec<Exemplar>,
    /// (metric family name, metadata).
    pub metadata: Vec<(String, Metadata)>,
}

impl WriteBatch {
    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.label_bytes.clear();
        self.series.clear();
        self.ts.clear();
        self.values.clear();
        self.start_ts.clear();
        self.histograms.clear();
        self.exemplars.clear();
        self.metadata.clear();
    }

    /// Times of its earliest and its latest sample; `None` where it has none.
    pub fn time_range(&self) -> Option<TimeRange> {
        let range = self.ts.iter().copied().fold((i64::MAX, i64::MIN), |(lo, hi), t| (lo.min(t), hi.max(t)));
        let (min, max) = self.histograms.iter().fold(range, |(lo, hi), h| (lo.min(h.ts), hi.max(h.ts)));
        (min <= max).then_some(TimeRange { min, max })
    }

    /// Starts a series; its labels must be sorted by name, unique, with non-empty names and values.
    pub fn begin_series<'a>(&mut self, labels: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let at = self.label_bytes.len() as u32;
        for (n, v) in labels {
            push_packed(&mut self.label_bytes, n, v);
        }
        self.begin_packed(at);
    }

    /// Starts a series whose packed labels were appended to `label_bytes` from `at` on.
    pub fn begin_packed(&mut self, at: u32) {
        let (f, h, e) = (self.ts.len() as u32, self.histograms.len() as u32, self.exemplars.len() as u32);
        self.series.push(BatchSeries {
            labels: (at, self.label_bytes.len() as u32),
            floats: (f, f),
            histograms: (h, h),
            exemplars: (e, e),
        });
    }

    /// Adds a float sample to the series begun last.
    #[inline]
    pub fn push_float(&mut self, ts: i64, value: f64, start_ts: i64) {
        if start_ts != 0 && self.start_ts.is_empty() {
            self.start_ts.resize(self.ts.len(), 0);
        }
        if start_ts != 0 || !self.start_ts.is_empty() {
            self.start_ts.push(start_ts);
        }
        self.ts.push(ts);
        self.values.push(value);
        if let Some(s) = self.series.last_mut() {
            s.floats.1 += 1;
        }
    }

    /// Adds a histogram sample to the series begun last.
    pub fn push_histogram(&mut self, ts: i64, histogram: Histogram, start_ts: i64) {
        self.histograms.push(BatchHistogram { ts, start_ts, histogram });
        if let Some(s) = self.series.last_mut() {
            s.histograms.1 += 1;
        }
    }

    /// Adds an exemplar to the series begun last.
    pub fn push_exemplar(&mut self, exemplar: Exemplar) {
        self.exemplars.push(exemplar);
        if let Some(s) = self.series.last_mut() {
            s.exemplars.1 += 1;
        }
    }

    /// Takes back the series begun last with all its samples (it turned out to be invalid).
    pub fn abandon_series(&mut self) {
        if let Some(s) = self.series.pop() {
            self.label_bytes.truncate(s.labels.0 as usize);
            self.ts.truncate(s.floats.0 as usize);
            self.values.truncate(s.floats.0 as usize);
            self.start_ts.truncate(s.floats.0 as usize);
            self.histograms.truncate(s.histograms.0 as usize);
            self.exemplars.truncate(s.exemplars.0 as usize);
        }
    }

    /// Takes parts of series out of the batch; `kept` has one entry for each series.
    pub fn keep_parts(&mut self, kept: &[KeptParts]) {
        let old = std::mem::take(self);
        self.metadata = old.metadata;
        let mut histograms = old.histograms.into_iter();
        let mut exemplars = old.exemplars.into_iter();
        for (s, kept) in old.series.iter().zip(kept) {
            let mut histograms = histograms.by_ref().take((s.histograms.1 - s.histograms.0) as usize);
            let mut exemplars = exemplars.by_ref().take((s.exemplars.1 - s.exemplars.0) as usize).peekable();
            if *kept == KeptParts::Nothing || (*kept == KeptParts::Exemplars && exemplars.peek().is_none()) {
                histograms.by_ref().for_each(drop);
                exemplars.for_each(drop);
                continue;
            }
            let at = self.label_bytes.len() as u32;
            self.label_bytes.extend_from_slice(&old.label_bytes[s.labels.0 as usize..s.labels.1 as usize]);
            self.begin_packed(at);
            if *kept == KeptParts::All {
                for i in s.floats.0 as usize..s.floats.1 as usize {
                    self.push_float(old.ts[i], old.values[i], old.start_ts.get(i).copied().unwrap_or(0));
                }
                histograms.by_ref().for_each(|h| self.push_histogram(h.ts, h.histogram, h.start_ts));
            }
            histograms.by_ref().for_each(drop);
            exemplars.for_each(|e| self.push_exemplar(e));
        }
    }

    /// The packed labels of series `i`, checked.
    pub fn labels(&self, i: usize) -> Result<LabelsRef<'_>, crate::LabelsError> {
        let (a, b) = self.series[i].labels;
        LabelsRef::from_packed(&self.label_bytes[a as usize..b as usize])
    }

    /// Number of float and histogram samples.
    pub fn samples(&self) -> usize {
        self.ts.len() + self.histograms.len()
    }

    /// Nothing in it?
    pub fn is_empty(&self) -> bool {
        self.series.is_empty() && self.metadata.is_empty()
    }

    /// Approximate heap size, bytes: what a queue is charged for it.
    pub fn heap_bytes(&self) -> usize {
        self.label_bytes.len()
            + self.series.len() * std::mem::size_of::<BatchSeries>()
            + self.ts.len() * 24
            + self.histograms.iter().map(|h| h.histogram.memory_bytes()).sum::<usize>()
            + self.exemplars.iter().map(Exemplar::heap_bytes).sum::<usize>()
            + self.metadata.iter().map(|(family, m)| family.len() + m.heap_bytes()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Labels;

    #[test]
    fn parts_of_series_are_taken_out() {
        let mut batch = WriteBatch::default();
        for i in 0..6i64 {
            let text = i.to_string();
            batch.begin_series([("a", text.as_str())]);
            batch.push_float(i, i as f64, i);
            batch.push_histogram(i, Histogram { sum: i as f64, ..Histogram::default() }, 0);
            if i != 2 {
                batch.push_exemplar(Exemplar { labels: Labels::empty(), value: i as f64, ts: i });
            }
        }
        use KeptParts::{All, Exemplars, Nothing};
        batch.keep_parts(&[Nothing, All, Exemplars, Exemplars, All, Nothing]);
        let labels: Vec<_> = (0..batch.series.len()).map(|i| batch.labels(i).unwrap().to_string()).collect();
        assert_eq!(labels, [r#"{a="1"}"#, r#"{a="3"}"#, r#"{a="4"}"#]);
        assert_eq!(
            (&batch.ts[..], &batch.values[..], &batch.start_ts[..]),
            (&[1, 4][..], &[1.0, 4.0][..], &[1, 4][..])
        );
        assert_eq!(batch.histograms.iter().map(|h| h.ts).collect::<Vec<_>>(), [1, 4]);
        assert_eq!(batch.exemplars.iter().map(|e| e.ts).collect::<Vec<_>>(), [1, 3, 4]);
        let parts: Vec<_> = batch.series.iter().map(|s| (s.floats, s.histograms, s.exemplars)).collect();
        assert_eq!(parts, [((0, 1), (0, 1), (0, 1)), ((1, 1), (1, 1), (1, 2)), ((1, 2), (1, 2), (2, 3))]);
    }
}
