//! Decoded samples of one series, in columns: what a reader gets and what an encoder takes.

use std::sync::Arc;

use crate::histogram::Histogram;
use crate::sample::Value;

/// Samples of one series, times strictly ascending.
///
/// Shapes: `ts` and `values` have one entry per sample. `histograms` names, ascending, the samples that are
/// histograms; at those positions `values` holds the histogram's `sum` (so that a stale marker shows there too).
/// `start_ts` is empty, or has one entry per sample (0: unknown).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleColumn {
    /// Times, ms.
    pub ts: Vec<i64>,
    /// Values.
    pub values: Vec<f64>,
    /// (position, histogram), positions ascending.
    pub histograms: Vec<(u32, Arc<Histogram>)>,
    /// Start timestamps, ms, or empty.
    pub start_ts: Vec<i64>,
}

impl SampleColumn {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.ts.len()
    }

    /// No sample?
    pub fn is_empty(&self) -> bool {
        self.ts.is_empty()
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.ts.clear();
        self.values.clear();
        self.histograms.clear();
        self.start_ts.clear();
    }

    /// Appends a float. The caller keeps times ascending.
    #[inline]
    pub fn push_float(&mut self, t: i64, v: f64, start: i64) {
        self.push_start(start);
        self.ts.push(t);
        self.values.push(v);
    }

    /// Appends a histogram. The caller keeps times ascending.
    pub fn push_histogram(&mut self, t: i64, h: Arc<Histogram>, start: i64) {
        self.push_start(start);
        self.histograms.push((self.ts.len() as u32, Arc::clone(&h)));
        self.ts.push(t);
        self.values.push(h.sum);
    }

    #[inline]
    fn push_start(&mut self, start: i64) {
        if start != 0 && self.start_ts.is_empty() {
            self.start_ts.resize(self.ts.len(), 0);
        }
        if start != 0 || !self.start_ts.is_empty() {
            self.start_ts.push(start);
        }
    }

    /// How many samples from position `from` on have histograms of at most `max` bytes of memory together; one at least.
    pub fn fitting(&self, from: usize, max: usize) -> usize {
        let first = self.histograms.partition_point(|(p, _)| (*p as usize) < from);
        let mut bytes = 0usize;
        for (p, h) in &self.histograms[first..] {
            bytes = bytes.saturating_add(h.memory_bytes());
            if bytes > max {
                return (*p as usize - from).max(1);
            }
        }
        (self.len() - from).max(1)
    }

    /// The histogram at position `i`, if that sample is one.
    pub fn histogram_at(&self, i: usize) -> Option<&Arc<Histogram>> {
        if self.histograms.is_empty() {
            return None;
        }
        let k = self.histograms.binary_search_by_key(&(i as u32), |(p, _)| *p).ok()?;
        Some(&self.histograms[k].1)
    }

    /// The value at position `i`.
    pub fn value_at(&self, i: usize) -> Value {
        match self.histogram_at(i) {
            Some(h) => Value::Histogram(Arc::clone(h)),
            None => Value::Float(self.values[i]),
        }
    }

    /// The start timestamp at position `i`, 0 when unknown.
    pub fn start_at(&self, i: usize) -> i64 {
        self.start_ts.get(i).copied().unwrap_or(0)
    }

    /// Appends samples `range` of `other`; the caller keeps times ascending.
    pub fn extend_from(&mut self, other: &SampleColumn, range: std::ops::Range<usize>) {
        let base = self.ts.len();
        if !other.start_ts.is_empty() {
            self.start_ts.resize(base, 0);
            self.start_ts.extend_from_slice(&other.start_ts[range.clone()]);
        } else if !self.start_ts.is_empty() {
            self.start_ts.resize(base + range.len(), 0);
        }
        self.ts.extend_from_slice(&other.ts[range.clone()]);
        self.values.extend_from_slice(&other.values[range.clone()]);
        if !other.histograms.is_empty() {
            let lo = other.histograms.partition_point(|(p, _)| (*p as usize) < range.start);
            for (p, h) in &other.histograms[lo..] {
                if *p as usize >= range.end {
                    break;
                }
                self.histograms.push(((*p as usize - range.start + base) as u32, Arc::clone(h)));
            }
        }
    }

    /// Appends sample `i` of `other`.
    pub fn push_from(&mut self, other: &SampleColumn, i: usize) {
        self.extend_from(other, i..i + 1);
    }

    /// Merges two columns into `out` (cleared first). Where both have a sample at one time, the order-free rule of
    /// [`Value::precedence`] picks one; `conflicts` counts those whose values differed. The start timestamp kept is
    /// the winner's, or the other's where the winner has none and the values are equal.
    pub fn merge(a: &SampleColumn, b: &SampleColumn, out: &mut SampleColumn) -> u64 {
        out.clear();
        let mut conflicts = 0;
        let (mut i, mut j) = (0, 0);
        while i < a.len() && j < b.len() {
            // Runs that do not interleave are copied at once.
            if a.ts[i] < b.ts[j] {
                let end = i + a.ts[i..].partition_point(|t| *t < b.ts[j]);
                out.extend_from(a, i..end);
                i = end;
            } else if b.ts[j] < a.ts[i] {
                let end = j + b.ts[j..].partition_point(|t| *t < a.ts[i]);
                out.extend_from(b, j..end);
                j = end;
            } else {
                let order = a.value_at(i).precedence(&b.value_at(j));
                match order {
                    std::cmp::Ordering::Equal => {
                        if a.start_at(i) >= b.start_at(j) {
                            out.push_from(a, i);
                        } else {
                            out.push_from(b, j);
                        }
                    }
                    std::cmp::Ordering::Greater => {
                        conflicts += 1;
                        out.push_from(a, i);
                    }
                    std::cmp::Ordering::Less => {
                        conflicts += 1;
                        out.push_from(b, j);
                    }
                }
                i += 1;
                j += 1;
            }
        }
        out.extend_from(a, i..a.len());
        out.extend_from(b, j..b.len());
        conflicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn column(samples: &std::collections::BTreeMap<i64, (u8, i64)>) -> SampleColumn {
        let mut c = SampleColumn::default();
        for (t, (v, st)) in samples {
            c.push_float(*t, f64::from(*v), *st);
        }
        c
    }

    proptest! {
        #[test]
        fn merge_is_order_free_and_idempotent(
            a in proptest::collection::btree_map(0i64..40, (0u8..3, 0i64..3), 0..20),
            b in proptest::collection::btree_map(0i64..40, (0u8..3, 0i64..3), 0..20),
        ) {
            let (a, b) = (column(&a), column(&b));
            let (mut ab, mut ba, mut again) = Default::default();
            SampleColumn::merge(&a, &b, &mut ab);
            SampleColumn::merge(&b, &a, &mut ba);
            prop_assert_eq!(&ab.ts, &ba.ts);
            prop_assert_eq!(&ab.values, &ba.values);
            for i in 0..ab.len() {
                prop_assert_eq!(ab.start_at(i), ba.start_at(i));
            }
            SampleColumn::merge(&ab, &a, &mut again);
            prop_assert_eq!(&ab.values, &again.values);
            prop_assert!(ab.ts.windows(2).all(|w| w[0] < w[1]));
        }
    }
}
