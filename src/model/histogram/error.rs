//! What can be wrong with a histogram or with an operation on two, in Prometheus's words.

use crate::number::{format_f6, format_g};

/// See the module.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum HistogramError {
    /// One has exponential buckets, the other custom ones.
    #[error("cannot apply this operation on histograms with a mix of exponential and custom bucket schemas")]
    IncompatibleSchema,
    /// NaN was observed, and buckets hold more than the count.
    #[error(
        "{found} observations found in buckets, but the Count field is {count}: histogram's observation count should \
         be at least the number of observations found in the buckets"
    )]
    CountNotBigEnough {
        /// In buckets.
        found: u64,
        /// In the count field.
        count: u64,
    },
    /// Buckets do not add up to the count.
    #[error(
        "{found} observations found in buckets, but the Count field is {count}: histogram's observation count should \
         equal the number of observations found in the buckets (in absence of NaN)"
    )]
    CountMismatch {
        /// In buckets.
        found: u64,
        /// In the count field.
        count: u64,
    },
    /// Negative count.
    #[error("observation count is  {}: histogram's observation count is negative", format_g(*.0))]
    NegativeCount(f64),
    /// A negative bucket; the number counts from 1.
    #[error(
        "bucket number {number} has observation count of {count}: histogram has a bucket whose observation count is \
         negative"
    )]
    NegativeBucketCount {
        /// Which.
        number: usize,
        /// Its count, as text.
        count: String,
    },
    /// A negative zero bucket.
    #[error(
        "zero bucket has observation count of {}: histogram has a bucket whose observation count is negative",
        format_g(*.0)
    )]
    NegativeZeroCount(f64),
    /// A span that starts before the end of the one before it; the number counts from 1.
    #[error("span number {number} with offset {offset}: histogram has a span whose offset is negative")]
    SpanNegativeOffset {
        /// Which.
        number: usize,
        /// Its offset.
        offset: i32,
    },
    /// A span beyond the numbers a bucket can have.
    #[error(
        "span number {number} {} at bucket index {index}: histogram has a span whose bucket index is out of range",
        if *.at_end { "ends" } else { "starts" }
    )]
    SpanIndexOutOfRange {
        /// Which.
        number: usize,
        /// The index.
        index: i64,
        /// Is it the index of the last bucket rather than the first?
        at_end: bool,
    },
    /// Spans and buckets do not fit.
    #[error(
        "spans need {need} buckets, have {have} buckets: histogram spans specify different number of buckets than \
         provided"
    )]
    SpansBucketsMismatch {
        /// By the spans.
        need: u64,
        /// Given.
        have: usize,
    },
    /// Fewer buckets than the spans say, found while merging buckets.
    #[error("have {0} buckets but spans need more: histogram spans specify different number of buckets than provided")]
    TooFewBuckets(usize),
    /// More custom buckets than bounds.
    #[error(
        "only {bounds} custom bounds defined which is insufficient to cover total span length of {length}: histogram \
         custom bounds are too few"
    )]
    CustomBoundsTooFew {
        /// Bounds given.
        bounds: usize,
        /// Buckets and gaps.
        length: u64,
    },
    /// Custom bounds out of order.
    #[error(
        "previous bound is {} and current is {}: histogram custom bounds must be in strictly increasing order",
        format_f6(*.previous), format_f6(*.current)
    )]
    CustomBoundsOrder {
        /// One.
        previous: f64,
        /// The next.
        current: f64,
    },
    /// +Inf among the custom bounds.
    #[error("last +Inf bound must not be explicitly defined: histogram custom bounds must be finite")]
    CustomBoundsInfinite,
    /// NaN among the custom bounds.
    #[error("histogram custom bounds must not be NaN")]
    CustomBoundsNan,
    /// A zero count beside custom buckets.
    #[error("custom buckets: must have zero count of 0")]
    CustomZeroCount,
    /// A zero threshold beside custom buckets.
    #[error("custom buckets: must have zero threshold of 0")]
    CustomZeroThreshold,
    /// Negative spans beside custom buckets.
    #[error("custom buckets: must not have negative spans")]
    CustomNegativeSpans,
    /// Negative buckets beside custom buckets.
    #[error("custom buckets: must not have negative buckets")]
    CustomNegativeBuckets,
    /// Custom bounds beside exponential buckets.
    #[error("histogram with exponential schema must not have custom bounds")]
    ExponentialCustomBounds,
    /// A schema that cannot be stored.
    #[error(
        "histogram has an invalid schema, which must be between -4 and 8 for exponential buckets, or -53 for custom \
         buckets, got schema {0}"
    )]
    InvalidSchema(i32),
    /// A schema that means nothing.
    #[error(
        "histogram has an unknown schema, which must be between -9 and 52 for exponential buckets, or -53 for custom \
         buckets, got schema {0}"
    )]
    UnknownSchema(i32),
    /// Custom buckets have no resolution.
    #[error("cannot reduce resolution when there are custom buckets")]
    ReduceCustom,
    /// Nor can they be made from exponential ones.
    #[error("cannot reduce resolution to custom buckets schema")]
    ReduceToCustom,
    /// Not a reduction.
    #[error("cannot reduce resolution from schema {from} to {to}")]
    ReduceNotLower {
        /// The schema it has.
        from: i32,
        /// The one asked for.
        to: i32,
    },
    /// One of the above, on one side of the histogram.
    #[error("{part}: {cause}")]
    In {
        /// `positive side`, `negative side` or `custom buckets`.
        part: &'static str,
        /// What.
        cause: Box<HistogramError>,
    },
}

impl HistogramError {
    pub(super) fn on(self, part: &'static str) -> Self {
        HistogramError::In { part, cause: Box::new(self) }
    }
}
