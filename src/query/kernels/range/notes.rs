//! What the windows of one series have to report, as bits; text is made once per series.

use super::{RangeSpec, SeriesNames};
use crate::annotation::{Annotations, HistogramOperation};

/// A kind of report without detail of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Floats and histograms in one window.
    Mixed = 1,
    /// A gauge histogram where a counter is wanted.
    NotCounter = 2,
    /// A counter histogram where a gauge is wanted.
    NotGauge = 4,
    /// Exponential and custom buckets.
    ExponentialCustom = 8,
    /// Custom bounds reconciled while adding.
    ReconciledAdd = 16,
    /// … while subtracting.
    ReconciledSub = 32,
    /// … while aggregating.
    ReconciledAgg = 64,
    /// Contradicting reset hints while aggregating.
    CollisionAgg = 128,
    /// Histograms ignored beside floats.
    Ignored = 256,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    bits: u16,
    /// Windows with overlapping start times.
    pub overlaps: u64,
    quantiles: Vec<f64>,
    strategies: Vec<f64>,
}

impl Notes {
    /// Reports.
    #[inline]
    pub fn add(&mut self, n: Note) {
        self.bits |= n as u16;
    }

    /// Reports what another collected.
    pub fn merge(&mut self, other: Notes) {
        self.bits |= other.bits;
        self.overlaps += other.overlaps;
    }

    /// A quantile outside of [0, 1].
    pub fn bad_quantile(&mut self, q: f64) {
        push_new(&mut self.quantiles, q);
    }

    /// A strategy that `integral` does not know.
    pub fn bad_strategy(&mut self, s: f64) {
        push_new(&mut self.strategies, s);
    }

    /// Reports to the query.
    pub fn flush(self, spec: &RangeSpec, names: &SeriesNames<'_>, ann: &mut Annotations) {
        let [pos, second] = spec.pos;
        let has = |n: Note| self.bits & n as u16 != 0;
        if self.bits != 0 {
            if has(Note::Mixed) {
                ann.mixed_floats_histograms_warning(names.metric, pos);
            }
            if has(Note::NotCounter) {
                ann.native_histogram_not_counter_warning(names.metric, pos);
            }
            if has(Note::NotGauge) {
                ann.native_histogram_not_gauge_warning(names.metric, pos);
            }
            if has(Note::ExponentialCustom) {
                ann.mixed_exponential_custom_histograms_warning(names.metric, pos);
            }
            for (note, operation) in [
                (Note::ReconciledAdd, HistogramOperation::Add),
                (Note::ReconciledSub, HistogramOperation::Sub),
                (Note::ReconciledAgg, HistogramOperation::Aggregation),
            ] {
                if has(note) {
                    ann.mismatched_custom_buckets_histograms_info(pos, operation);
                }
            }
            if has(Note::CollisionAgg) {
                ann.histogram_counter_reset_collision_warning(pos, HistogramOperation::Aggregation);
            }
            if has(Note::Ignored) {
                ann.histogram_ignored_in_mixed_range_info(names.metric, pos);
            }
        }
        if self.overlaps > 0 {
            ann.start_time_overlap_warning(names.metric, self.overlaps, pos);
        }
        for q in self.quantiles {
            ann.invalid_quantile_warning(q, pos);
        }
        for s in self.strategies {
            ann.invalid_integral_strategy_warning(s, second);
        }
    }
}

fn push_new(list: &mut Vec<f64>, v: f64) {
    if !list.iter().any(|x| x.to_bits() == v.to_bits()) {
        list.push(v);
    }
}
