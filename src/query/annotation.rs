//! Warnings and infos that go with an answer, each with the position of the expression it is about.
//!
//! Kernels do not format text per sample: they note what happened (a flag, a count) and report it once per series or
//! batch by one of the methods of [`Annotations`], whose texts are Prometheus 3.16's (`util/annotations`). The position
//! becomes `(line:column)` only when the answer is written ([`Annotations::texts`]).
//!
//! Invariants
//! 1. Reports are one and the same where level and text are, whatever their position; the position shown is that of
//!    the report that came last, or of the first for those that fold numbers.
//! 2. What [`Annotations::texts`] answers is ordered by level and text; with positions reported in the order of
//!    evaluation it does not depend on partitioning.

use std::collections::BTreeMap;

use quiver_model::calendar::date_of;
use quiver_model::labels::quoted;
use quiver_model::number::{format_g, format_g_digits};

use crate::promql::ast::Position;

/// One report: `text` is the whole message without its prefix and position.
#[derive(Clone, Debug, PartialEq)]
pub struct Annotation {
    /// Warning rather than info.
    pub warning: bool,
    /// The message after `PromQL warning: ` or `PromQL info: `, before ` (line:column)`.
    pub text: String,
    /// What it is about.
    pub pos: Position,
    /// For messages that merge (forced monotonicity, start time overlap): numbers folded at merge.
    pub merge: Option<MergeDetail>,
}

/// Numbers of messages that are merged rather than repeated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MergeDetail {
    /// `histogram_quantile` forced monotonicity: times and bucket bounds seen, the largest difference, how many.
    ForcedMonotonicity {
        /// Earliest time, ms.
        min_ts: i64,
        /// Latest time, ms.
        max_ts: i64,
        /// Smallest bucket bound.
        min_bucket: f64,
        /// Largest bucket bound.
        max_bucket: f64,
        /// Largest difference between a bucket's count and a smaller one above it.
        max_diff: f64,
        /// Reports merged, as Prometheus counts them: over many steps too many, and it may overflow.
        count: i64,
    },
    /// Overlapping start times: how many.
    StartTimeOverlap {
        /// Reports merged.
        count: u64,
    },
}

/// What was done to histograms, in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HistogramOperation {
    /// `+`, `rate` and the like.
    Add,
    /// `-`
    Sub,
    /// Aggregation, over series or over time.
    Aggregation,
}

impl HistogramOperation {
    fn as_str(self) -> &'static str {
        match self {
            HistogramOperation::Add => "addition",
            HistogramOperation::Sub => "subtraction",
            HistogramOperation::Aggregation => "aggregation",
        }
    }
}

/// A set of annotations, by level and text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    set: BTreeMap<(bool, String), Annotation>,
}

impl Annotations {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing reported?
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Adds a warning.
    pub fn warn(&mut self, pos: Position, text: impl Into<String>) {
        self.add(Annotation { warning: true, text: text.into(), pos, merge: None });
    }

    /// Adds an info.
    pub fn info(&mut self, pos: Position, text: impl Into<String>) {
        self.add(Annotation { warning: false, text: text.into(), pos, merge: None });
    }

    /// Adds one; a repeat takes the place of the one before, or is folded into it where it carries numbers.
    pub fn add(&mut self, a: Annotation) {
        use std::collections::btree_map::Entry;
        match self.set.entry((a.warning, a.text.clone())) {
            Entry::Vacant(e) => {
                e.insert(a);
            }
            Entry::Occupied(mut e) => match (e.get_mut().merge.as_mut(), a.merge) {
                (Some(have), Some(new)) => have.fold(new),
                _ => e.get_mut().pos = a.pos,
            },
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: Annotations) {
        if self.set.is_empty() {
            self.set = other.set;
            return;
        }
        for (_, a) in other.set {
            self.add(a);
        }
    }

    /// All, ordered by level and text, infos first.
    pub fn iter(&self) -> impl Iterator<Item = &Annotation> {
        self.set.values()
    }

    /// Warnings and infos as they are shown, with the positions in `query`, at most so many of each (0: all) and then
    /// a line that says how many were left out.
    pub fn texts(&self, query: &str, max_warnings: usize, max_infos: usize) -> (Vec<String>, Vec<String>) {
        let list = |warning: bool, max: usize| {
            let all = || self.set.values().filter(move |a| a.warning == warning);
            let n = all().count();
            let shown = if max == 0 { n } else { n.min(max) };
            let mut out: Vec<String> = all().take(shown).map(|a| a.shown(query)).collect();
            if n > shown {
                let level = if warning { "warning" } else { "info" };
                out.push(format!("{} more {level} annotations omitted", n - shown));
            }
            out
        };
        (list(true, max_warnings), list(false, max_infos))
    }
}

impl Annotation {
    /// Prefix, message, numbers and position.
    pub fn shown(&self, query: &str) -> String {
        let level = if self.warning { "PromQL warning" } else { "PromQL info" };
        let mut out = format!("{level}: {}", self.text);
        if query.is_empty() {
            return out;
        }
        match self.merge {
            None | Some(MergeDetail::StartTimeOverlap { count: 0 | 1 }) => {}
            Some(MergeDetail::StartTimeOverlap { count }) => out.push_str(&format!(" ({count} occurrences)")),
            Some(MergeDetail::ForcedMonotonicity { min_ts, max_ts, min_bucket, max_bucket, max_diff, count }) => {
                out.push_str(&format!(
                    ", from buckets {} to {}, with a max diff of {}, over {count} samples from {} to {}",
                    format_g(min_bucket),
                    format_g(max_bucket),
                    format_g_digits(max_diff, 2),
                    rfc3339(min_ts / 1000),
                    rfc3339(max_ts / 1000),
                ));
            }
        }
        if self.pos.start as usize > query.len() {
            out.push_str(" (invalid position)");
        } else {
            let (line, column) = self.pos.line_column(query);
            out.push_str(&format!(" ({line}:{column})"));
        }
        out
    }
}

/// Seconds as `2024-01-31T12:34:56Z`.
fn rfc3339(seconds: i64) -> String {
    let (year, month, day) = date_of(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

fn for_metric(metric: &str) -> String {
    if metric.is_empty() { String::new() } else { format!(" for metric name {}", quoted(metric)) }
}

/// The messages. `metric` is the metric's name, and where an empty one makes sense it leaves the name out.
impl Annotations {
    /// A quantile outside 0 to 1, or NaN.
    pub fn invalid_quantile_warning(&mut self, q: f64, pos: Position) {
        self.warn(pos, format!("quantile value should be between 0 and 1, got {}", format_g(q)));
    }

    /// A ratio outside −1 to 1, or NaN, and what is taken instead.
    pub fn invalid_ratio_warning(&mut self, q: f64, to: f64, pos: Position) {
        let (q, to) = (format_g(q), format_g(to));
        self.warn(pos, format!("ratio value should be between -1 and 1, got {q}, capping to {to}"));
    }

    /// An unknown strategy of `integral`.
    pub fn invalid_integral_strategy_warning(&mut self, strategy: f64, pos: Position) {
        let strategy = format_g(strategy);
        self.warn(pos, format!("strategy should be 0, 1, or 2 (default), using 2, got {strategy}"));
    }

    /// A bucket without a bound.
    pub fn bad_bucket_label_warning(&mut self, metric: &str, label: &str, pos: Position) {
        let (label, metric) = (quoted(label), for_metric(metric));
        self.warn(pos, format!("bucket label \"le\" is missing or has a malformed value of {label}{metric}"));
    }

    /// Floats and histograms in one window.
    pub fn mixed_floats_histograms_warning(&mut self, metric: &str, pos: Position) {
        self.warn(pos, format!("encountered a mix of histograms and floats for metric name {}", quoted(metric)));
    }

    /// Floats and histograms in one group.
    pub fn mixed_floats_histograms_agg_warning(&mut self, pos: Position) {
        self.warn(pos, "encountered a mix of histograms and floats for aggregation");
    }

    /// Classic and native histogram of the same name and labels.
    pub fn mixed_classic_native_histograms_warning(&mut self, metric: &str, pos: Position) {
        let metric = for_metric(metric);
        self.warn(pos, format!("vector contains a mix of classic and native histograms{metric}"));
    }

    /// `rate` and the like on a gauge histogram.
    pub fn native_histogram_not_counter_warning(&mut self, metric: &str, pos: Position) {
        self.warn(pos, format!("this native histogram metric is not a counter: {}", quoted(metric)));
    }

    /// `delta` and the like on a counter histogram.
    pub fn native_histogram_not_gauge_warning(&mut self, metric: &str, pos: Position) {
        self.warn(pos, format!("this native histogram metric is not a gauge: {}", quoted(metric)));
    }

    /// Exponential and custom buckets in one window or group.
    pub fn mixed_exponential_custom_histograms_warning(&mut self, metric: &str, pos: Position) {
        let metric = quoted(metric);
        self.warn(
            pos,
            format!("vector contains a mix of histograms with exponential and custom buckets schemas for metric name {metric}"),
        );
    }

    /// A binary operator on histograms that do not go together.
    pub fn incompatible_bucket_layout_in_bin_op_warning(&mut self, operator: &str, pos: Position) {
        self.warn(pos, format!("incompatible bucket layout encountered for binary operator {operator}"));
    }

    /// `sort` in a range query.
    pub fn sort_in_range_query_warning(&mut self, pos: Position) {
        self.warn(pos, "sort is ineffective for range queries since results are always ordered by labels");
    }

    /// One histogram says there was a counter reset, another that there was none.
    pub fn histogram_counter_reset_collision_warning(&mut self, pos: Position, operation: HistogramOperation) {
        self.warn(pos, format!("conflicting counter resets during histogram {}", operation.as_str()));
    }

    /// Samples whose start time lies before the sample before; `count` of them.
    pub fn start_time_overlap_warning(&mut self, metric: &str, count: u64, pos: Position) {
        self.add(Annotation {
            warning: true,
            text: format!(
                "sample has start time that overlaps with previous sample timestamp for metric {}",
                quoted(metric)
            ),
            pos,
            merge: Some(MergeDetail::StartTimeOverlap { count }),
        });
    }

    /// `rate` and the like on a name that is not a counter's.
    pub fn possible_non_counter_info(&mut self, metric: &str, pos: Position) {
        let metric = quoted(metric);
        self.info(
            pos,
            format!("metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {metric}"),
        );
    }

    /// `rate` and the like on a metric whose type label is not a counter's.
    pub fn possible_non_counter_label_info(&mut self, metric: &str, type_label: &str, pos: Position) {
        let (label, metric) = (quoted(type_label), quoted(metric));
        self.info(
            pos,
            format!(
                "metric might not be a counter, __type__ label is not set to \"counter\" or \"histogram\", got {label}: \
                 {metric}"
            ),
        );
    }

    /// Counts of a classic histogram that fell with rising bounds; `detail` has the numbers.
    pub fn histogram_quantile_forced_monotonicity_info(&mut self, metric: &str, pos: Position, detail: MergeDetail) {
        let metric = for_metric(metric);
        self.add(Annotation {
            warning: false,
            text: format!(
                "input to histogram_quantile needed to be fixed for monotonicity (see \
                 https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile){metric}"
            ),
            pos,
            merge: Some(detail),
        });
    }

    /// A binary operator on types it is not made for; types are `float` and `histogram`.
    pub fn incompatible_types_in_bin_op_info(&mut self, lhs: &str, operator: &str, rhs: &str, pos: Position) {
        let quoted = quoted(operator);
        self.info(
            pos,
            format!("incompatible sample types encountered for binary operator {quoted}: {lhs} {operator} {rhs}"),
        );
    }

    /// A histogram in an aggregation that has no use for it.
    pub fn histogram_ignored_in_aggregation_info(&mut self, aggregation: &str, pos: Position) {
        self.info(pos, format!("ignored histogram in {aggregation} aggregation"));
    }

    /// Histograms among floats in a window of a function that has no use for them.
    pub fn histogram_ignored_in_mixed_range_info(&mut self, metric: &str, pos: Position) {
        let metric = quoted(metric);
        self.info(
            pos,
            format!("ignored histograms in a range containing both floats and histograms for metric name {metric}"),
        );
    }

    /// The quantile lies beyond all buckets, among observations of NaN.
    pub fn native_histogram_quantile_nan_result_info(&mut self, metric: &str, pos: Position) {
        let metric = for_metric(metric);
        self.info(pos, format!("input to histogram_quantile has NaN observations, result is NaN{metric}"));
    }

    /// Observations of NaN count as the largest.
    pub fn native_histogram_quantile_nan_skew_info(&mut self, metric: &str, pos: Position) {
        let metric = for_metric(metric);
        self.info(pos, format!("input to histogram_quantile has NaN observations, result is skewed higher{metric}"));
    }

    /// Observations of NaN are in no fraction.
    pub fn native_histogram_fraction_nans_info(&mut self, metric: &str, pos: Position) {
        let metric = for_metric(metric);
        self.info(
            pos,
            format!("input to histogram_fraction has NaN observations, which are excluded from all fractions{metric}"),
        );
    }

    /// Custom bounds differed and were cut to those in common.
    pub fn mismatched_custom_buckets_histograms_info(&mut self, pos: Position, operation: HistogramOperation) {
        self.info(pos, format!("mismatched custom buckets were reconciled during {}", operation.as_str()));
    }
}

impl MergeDetail {
    /// Forced monotonicity at one time.
    pub fn forced_monotonicity(ts: i64, min_bucket: f64, max_bucket: f64, max_diff: f64) -> Self {
        MergeDetail::ForcedMonotonicity { min_ts: ts, max_ts: ts, min_bucket, max_bucket, max_diff, count: 1 }
    }

    /// Takes another in.
    pub fn fold(&mut self, other: MergeDetail) {
        match (self, other) {
            (
                MergeDetail::ForcedMonotonicity { min_ts, max_ts, min_bucket, max_bucket, max_diff, count },
                MergeDetail::ForcedMonotonicity {
                    min_ts: t0,
                    max_ts: t1,
                    min_bucket: b0,
                    max_bucket: b1,
                    max_diff: d,
                    count: n,
                },
            ) => {
                *min_ts = (*min_ts).min(t0);
                *max_ts = (*max_ts).max(t1);
                *min_bucket = min_bucket.min(b0);
                *max_bucket = max_bucket.max(b1);
                *max_diff = max_diff.max(d);
                *count = count.wrapping_add(n);
            }
            (MergeDetail::StartTimeOverlap { count }, MergeDetail::StartTimeOverlap { count: n }) => *count += n,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: usize) -> Position {
        Position::new(start, start + 1)
    }

    #[test]
    fn repeats_are_one_and_the_last_position_counts() {
        let mut a = Annotations::new();
        a.possible_non_counter_info("x", at(5));
        let mut b = Annotations::new();
        b.possible_non_counter_info("x", at(8));
        b.possible_non_counter_info("y", at(8));
        a.merge(b);
        let (warnings, infos) = a.texts("rate(\nx[1m])", 0, 0);
        assert!(warnings.is_empty());
        assert_eq!(
            infos,
            [
                "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"x\" (2:3)",
                "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"y\" (2:3)",
            ]
        );
        assert!(a.texts("", 0, 0).1[0].ends_with(": \"x\""));
        assert!(a.texts("x", 0, 0).1[0].ends_with(" (invalid position)"));
    }

    #[test]
    fn the_rest_is_counted() {
        let mut a = Annotations::new();
        for q in [1.5, 2.0, 3.0] {
            a.invalid_quantile_warning(q, at(0));
            a.warn(at(0), "other");
        }
        let (warnings, _) = a.texts("q", 2, 1);
        assert_eq!(
            warnings,
            [
                "PromQL warning: other (1:1)",
                "PromQL warning: quantile value should be between 0 and 1, got 1.5 (1:1)",
                "2 more warning annotations omitted",
            ]
        );
    }

    #[test]
    fn numbers_fold() {
        let mut a = Annotations::new();
        let mut at_time = |ts, lo, hi, diff| {
            let detail = MergeDetail::forced_monotonicity(ts, lo, hi, diff);
            a.histogram_quantile_forced_monotonicity_info("b", at(24), detail);
        };
        at_time(600_000, 1.0, 5.0, 0.123);
        at_time(1_706_704_496_000, 0.5, f64::INFINITY, 12.0);
        a.start_time_overlap_warning("m", 1, at(0));
        let query = "histogram_quantile(0.5, b)";
        assert_eq!(
            a.texts(query, 0, 0).0,
            [
                "PromQL warning: sample has start time that overlaps with previous sample timestamp for metric \"m\" (1:1)"
            ]
        );
        a.start_time_overlap_warning("m", 4, at(3));
        let (warnings, infos) = a.texts(query, 0, 0);
        assert_eq!(
            infos,
            ["PromQL info: input to histogram_quantile needed to be fixed for monotonicity (see \
              https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile) for metric name \
              \"b\", from buckets 0.5 to +Inf, with a max diff of 12, over 2 samples from 1970-01-01T00:10:00Z to \
              2024-01-31T12:34:56Z (1:25)"]
        );
        assert!(warnings[0].ends_with("for metric \"m\" (5 occurrences) (1:1)"));
    }

    #[test]
    fn dates() {
        for (s, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(s), text);
        }
    }
}
