//! Functions of one cell at a time, in place over tiles.
//!
//! ```text
//! abs … tanh, round, clamp, day_of_week …   floats change, histograms go
//! histogram_count, _sum, _avg, _stddev …    histograms become floats, floats go
//! timestamp, start_timestamp                floats from the times the tile carries
//! -v                                        both change
//! ```
//!
//! Floats are computed by [`math`], which has Prometheus's bits.

mod cell;
pub mod date;
pub mod math;
mod names;
mod scalar;

pub use cell::{CellFn, apply, negate};
pub use date::DatePart;
pub use names::drops_name;
pub use scalar::{ScalarFn, max_of, min_of, scalar_arithmetic, times};
