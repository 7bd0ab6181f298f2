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
//! series to series are made then, so that per sample nothing is hashed. Only where labels or their order depend on values
//! (`count_values`, `info`; `topk` and `sort` at one step) is the roster known at the end. Rows of a tile may come in any order; each is a whole grid wide.
//!
//! Invariants
//! 1. What is reported (values, errors, annotations) is what Prometheus reports step by step: of several errors that of
//!    the earliest step.
//! 2. No operator looks at a label per sample.

pub mod absent;
pub mod aggregate;
mod aggregate_histogram;
pub mod binary;
pub mod bits;
pub mod count_values;
pub mod element;
mod go_order;
pub mod group;
mod histogram_ops;
pub mod info;
pub mod matching;
pub mod params;
pub mod quantile;
pub mod relabel;
pub mod rows;
pub mod selectk;
pub mod set;
pub mod sort;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
#[cfg(test)]
mod twin;

pub use absent::{Absent, absent_labels};
pub use aggregate::{Aggregate, AggregateSpec};
pub use binary::{BinarySpec, VectorBinary};
pub use count_values::{CountValues, CountValuesSpec};
pub use group::{Grouping, drop_metadata_labels};
pub use info::{Info, InfoPlan};
pub use matching::{MatchIds, Side};
pub use quantile::{Quantile, QuantileSpec};
pub use relabel::{Relabel, RelabelSpec};
pub use selectk::{SelectK, SelectSpec};
pub use set::SetOp;
pub use sort::{Sort, SortSpec};

use crate::error::QueryError;
use crate::exec::tile::{Roster, Tile};

/// The answer of an operator whose labels, or their order, depend on values.
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

/// The rows of `sids`, in that order, under a roster of just these.
pub(crate) fn in_order(roster: &Roster, rows: rows::Rows, sids: &[u32]) -> Output {
    let row = |s: &u32| roster.rows.get(*s as usize).cloned();
    Output { roster: Roster { rows: sids.iter().filter_map(row).collect() }, tiles: rows.finish_ordered(sids) }
}
