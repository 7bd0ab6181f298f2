//! Quantiles, fractions and moments of histograms.
//!
//! ```text
//! native    of native histograms: exponential or linear interpolation within a bucket
//! buckets   of classic ones: cumulative counts by upper bound
//! classic   series with `le` grouped to histograms, native ones beside them, step by step: the operator
//! plain     quantile of floats
//! ```
//!
//! Values are Prometheus's to the bit where Go computes on amd64; what is to be reported comes back as a flag.

pub mod buckets;
pub mod classic;
pub mod native;
pub mod plain;

pub use buckets::{Bucket, Forced, bucket_fraction, bucket_quantile};
pub use classic::{ClassicHistograms, HistogramFunction, HistogramSpec};
pub use native::{
    NanObservations, histogram_avg, histogram_fraction, histogram_quantile, histogram_stddev, histogram_stdvar,
};
pub use plain::quantile;

/// Is it one of the quantiles there are?
pub fn is_quantile(q: f64) -> bool {
    (0.0..=1.0).contains(&q)
}
