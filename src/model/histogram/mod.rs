//! Native histograms: exponential (schemas −4 to 8) and custom buckets (schema −53).
//!
//! One type serves storage and queries: bucket counts are absolute floats, whether they came as integers (up to 2^53
//! they are exact) or as floats.
//!
//! ```text
//! bounds     where buckets begin and end            layout     spans ↔ bucket indexes
//! buckets    iterators                              schema     going to a coarser one
//! arith      × ÷ + −, compensated +                 reconcile  unequal zero buckets and custom bounds
//! reset      was the counter reset?                 trim       `</` and `>/`
//! integer    counts sent as deltas of integers      validate   what may come in
//! text       as messages and tests show it
//! ```
//!
//! Invariants
//! 1. No method panics or runs past the buckets, whatever the fields hold; what they answer has a meaning only for
//!    histograms that pass [`Histogram::validate`].
//! 2. Results (values, order of additions, hints) are those of Prometheus's `FloatHistogram`; span lists may differ
//!    where they mean the same buckets.

mod arith;
pub mod bounds;
mod buckets;
mod error;
mod integer;
mod layout;
mod reconcile;
mod reset;
pub mod schema;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod trim;
mod validate;

use std::cmp::Ordering;

pub use arith::AddOutcome;
pub use buckets::{AllBucketIterator, Bucket, BucketIterator};
pub use error::HistogramError;
pub use integer::IntegerHistogram;
pub use reconcile::{custom_bucket_bounds_match, intersect_custom_bucket_bounds};

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

    /// Approximate size in memory with all that belongs to it, bytes.
    pub fn memory_bytes(&self) -> usize {
        std::mem::size_of::<Self>() + self.heap_bytes()
    }

    /// Is it a stale marker?
    pub fn is_stale(&self) -> bool {
        crate::is_stale(self.sum)
    }

    /// Size as Prometheus charges it for limits on samples, bytes.
    pub fn size(&self) -> usize {
        168 + self.heap_bytes()
    }

    /// Becomes a copy of `other` and keeps its own memory.
    pub fn copy_from(&mut self, other: &Histogram) {
        self.reset_hint = other.reset_hint;
        self.schema = other.schema;
        self.zero_threshold = other.zero_threshold;
        self.zero_count = other.zero_count;
        self.count = other.count;
        self.sum = other.sum;
        self.positive_spans.clone_from(&other.positive_spans);
        self.negative_spans.clone_from(&other.negative_spans);
        self.positive_buckets.clone_from(&other.positive_buckets);
        self.negative_buckets.clone_from(&other.negative_buckets);
        self.custom_values.clone_from(&other.custom_values);
    }

    /// Same data: the same buckets (empty ones count) with the same bits, whatever the spans and the hint.
    pub fn equals(&self, other: &Histogram) -> bool {
        let bits =
            |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        self.schema == other.schema
            && self.count.to_bits() == other.count.to_bits()
            && self.sum.to_bits() == other.sum.to_bits()
            && (!self.uses_custom_buckets() || custom_bucket_bounds_match(&self.custom_values, &other.custom_values))
            && self.zero_threshold == other.zero_threshold
            && self.zero_count.to_bits() == other.zero_count.to_bits()
            && layout::spans_match(&self.negative_spans, &other.negative_spans)
            && bits(&self.negative_buckets, &other.negative_buckets)
            && layout::spans_match(&self.positive_spans, &other.positive_spans)
            && bits(&self.positive_buckets, &other.positive_buckets)
    }

    /// Is any field infinite, as sums past the range of floats are?
    pub fn has_overflow(&self) -> bool {
        [self.zero_count, self.count, self.sum]
            .iter()
            .chain(&self.positive_buckets)
            .chain(&self.negative_buckets)
            .chain(&self.custom_values)
            .any(|v| v.is_infinite())
    }

    /// Drops empty buckets, but keeps or fills in runs of at most `max_empty` between populated ones.
    pub fn compact(&mut self, max_empty: usize) {
        layout::compact(&mut self.positive_spans, &mut self.positive_buckets, None, max_empty);
        layout::compact(&mut self.negative_spans, &mut self.negative_buckets, None, max_empty);
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
