//! Parquet, out and in: a folder per day, open to every tool.
//!
//! ```text
//! out/day=2026-01-31/part-0.parquet     rows by series in label order, then by time
//!   metric     text                      the metric's name
//!   ts         timestamp (ms, UTC)
//!   value      double                    null: a histogram, or (where `histogram` is null too) a stale marker
//!   labels     map(text, text)           without the metric's name
//!   start_ts   timestamp (ms, UTC)       null where it is not known
//!   histogram  struct                    null for floats
//! ```
//!
//! A stale marker is a null and not a NaN, so that `sum(value)` in another program is the sum of what was measured; NaN
//! that were measured stay NaN, to the bit.

mod export;
mod gather;
mod properties;
mod schema;
mod source;
#[cfg(test)]
mod tests;

pub use export::{DAY_PREFIX, DayWriter, ParquetExporter, day_dir, day_of, days};
pub use properties::parquet_properties;
pub use source::{parquet_time_bounds, read_parquet_dir};
