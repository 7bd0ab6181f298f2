//! The words Quiver is written in: labels, samples, histograms, matchers, time, limits.
//!
//! ```text
//! labels ─┬─ matcher      which series
//!         ├─ batch        what a client sent, decoded, in columns
//! sample ─┼─ column       what a reader gets, decoded, in columns
//! histogram ─┘            native histograms and their arithmetic
//! number                  floats computed and printed as Prometheus does
//! ```
//!
//! Invariants
//! 1. No I/O, no async, no clock but the [`Clock`] handed in.
//! 2. A [`Labels`] is sorted by name, has no duplicate and no empty value: whoever holds one need not check again.
//! 3. Time is milliseconds since 1970-01-01 UTC in an `i64` everywhere; arithmetic on it is checked or saturating.

pub mod batch;
pub mod calendar;
pub mod clock;
pub mod column;
pub mod duration;
pub mod histogram;
pub mod labels;
pub mod limits;
pub mod matcher;
pub mod metric;
pub mod nearest;
pub mod number;
pub mod read;
pub mod regex;
pub mod sample;

pub use batch::{BatchSeries, KeptParts, WriteBatch};
pub use clock::{Clock, ManualClock, SystemClock};
pub use column::SampleColumn;
pub use histogram::{Histogram, ResetHint, Span};
pub use labels::{Labels, LabelsBuilder, LabelsError, LabelsRef, METRIC_NAME};
pub use limits::{Limits, LiveLimits};
pub use matcher::{MatchOp, Matcher, MatcherError};
pub use metric::{Exemplar, Metadata, MetricKind};
pub use nearest::{did_you_mean, nearest};
pub use read::{Need, SeriesKinds, TimeRange};
pub use sample::{STALE_NAN, STALE_NAN_BITS, Value, is_stale};
