//! Native histograms: exponential (schemas −4 to 8) and custom buckets (schema −53).
//!
//! One type serves storage and queries: bucket counts are absolute floats, whether they came as integers (up to 2^53
//! they are exact) or as floats.

use std::cmp::Ordering;

/// Schema number of histograms with custom bucket boundaries.
pub const CUSTOM_BUCKETS_SCHEMA: i32 = -53;
/// Smallest exponential schema.
pub const EXPONENTIAL_SCHEMA_MIN: i32 = -4;
/// Largest exponential schema.
pub const EXPONENTIAL_SCHEMA_MAX: i32 = 8;

/// What is known about a counter reset between this histogram and the one before it. Numbers are those of remote write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ResetHint {
    /// To be found out by comparing.
    #[default]
    Unknown = 0,
    /// There was a reset.
    Yes = 1,
    /// There was none.
    No = 2,
    /// A gauge histogram: resets mean nothing.
    Gauge = 3,
}

/// A run of consecutive buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Gap to the end of the span before (the first: index of its first bucket).
    pub offset: i32,
    /// Number of buckets.
    pub length: u32,
}

/// A native histogram with absolute float counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Counter reset hint.
    pub reset_hint: ResetHint,
    /// Resolution: bucket boundaries are powers of `2^(2^-schema)`, or [`CUSTOM_BUCKETS_SCHEMA`].
    pub schema: i32,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: f64,
    /// All observations.
    pub count: f64,
    /// Sum of observations; the stale marker shows here.
    pub sum: f64,
    /// Runs of positive (or custom) buckets.
    pub positive_spans: Vec<Span>,
    /// Runs of negative buckets.
    pub negative_spans: Vec<Span>,
    /// Counts, one for each bucket of `positive_spans`.
    pub positive_buckets: Vec<f64>,
    /// Counts, one for each bucket of `negative_spans`.
    pub negative_buckets: Vec<f64>,
    /// Upper boundaries of custom buckets, ascending, without +Inf.
    pub custom_values: Vec<f64>,
}

impl Histogram {
    /// Heap bytes it holds.
    pub fn heap_bytes(&self) -> usize {
        8 * (self.positive_spans.len()
            + self.negative_spans.len()
            + self.positive_buckets.len()
            + self.negative_buckets.len()
            + self.custom_values.len())
    }

    /// Has it custom bucket boundaries?
    pub fn uses_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }

    /// A total order over all bits, for settling conflicts; it has no meaning otherwise.
    pub fn total_cmp(&self, other: &Histogram) -> Ordering {
        let floats = |a: &[f64], b: &[f64]| a.iter().map(|v| v.to_bits()).cmp(b.iter().map(|v| v.to_bits()));
        let bits = |h: &Histogram| {
            (h.count.to_bits(), h.sum.to_bits(), h.schema, h.zero_threshold.to_bits(), h.zero_count.to_bits())
        };
        bits(self)
            .cmp(&bits(other))
            .then_with(|| self.positive_spans.cmp(&other.positive_spans))
            .then_with(|| self.negative_spans.cmp(&other.negative_spans))
            .then_with(|| floats(&self.positive_buckets, &other.positive_buckets))
            .then_with(|| floats(&self.negative_buckets, &other.negative_buckets))
            .then_with(|| floats(&self.custom_values, &other.custom_values))
            .then_with(|| self.reset_hint.cmp(&other.reset_hint))
    }
}
