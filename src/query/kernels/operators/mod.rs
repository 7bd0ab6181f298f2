//! PromQL's operators over tiles, without plans: state machines that take tiles and give tiles.
//!
//! ```text
//! group      by/without ─▶ group ids            matching  on/ignoring ─▶ match ids, result labels
//! aggregate  sum avg count group min max stddev stdvar        binary   + - * / % ^ atan2 == … with fills
//! selectk    topk bottomk limitk limit_ratio                  set      and or unless
//! quantile   count_values                                     relabel  label_replace label_join, names dropped
//! absent     absent, scalar                                   sort     sort, sort_by_label
//! info       info()                                           rows     output rows, overlaps found
//! ```
//!
//! An operator is made from the rosters of its inputs and gives its own roster at once, in label order; tables from
//! series to series are made then, so that per sample nothing is hashed. Only where labels depend on values
//! (`count_values`, `info`) is the roster known at the end. Rows of a tile may come in any order; each is a whole grid wide.
//!
//! Invariants
//! 1. What is reported (values, errors, annotations) is what Prometheus reports step by step: of several errors that of
//!    the earliest step.
//! 2. No operator looks at a label per sample.

pub mod aggregate;
mod aggregate_histogram;
pub mod binary;
pub mod bits;
pub mod element;
pub mod group;
mod histogram_ops;
pub mod matching;
pub mod relabel;
pub mod rows;
pub mod set;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
#[cfg(test)]
mod twin;

pub use aggregate::{Aggregate, AggregateSpec};
pub use binary::{BinarySpec, VectorBinary};
pub use group::{Grouping, drop_metadata_labels};
pub use matching::{MatchIds, Side};
pub use relabel::{Relabel, RelabelSpec};
pub use set::SetOp;

use crate::error::QueryError;
use crate::exec::tile::{Roster, Tile};

/// The answer of an operator whose labels depend on values.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Its roster.
    pub roster: Roster,
    /// Its rows.
    pub tiles: Vec<Tile>,
}

/// Two series of a vector ended up with the same labels at one step.
pub(crate) fn same_labelset() -> QueryError {
    QueryError::Execution("vector cannot contain metrics with the same labelset".into())
}
