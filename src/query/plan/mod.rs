//! PromQL as a DataFusion logical plan, and from there to physical operators.
//!
//! ```text
//! AST ─ lower ─▶ LogicalPlan of PromNode ─ physical ─▶ PromExec tree ─▶ tiles ─▶ answer
//! ```
//!
//! Every step grid is decided while lowering: a node carries the grid it is evaluated on, so that `offset`, `@`, subqueries
//! and step-invariant parts are nothing but grids and windows from there on.
//!
//! Invariants
//! 1. A node's value does not depend on positions: they are only for messages and take no part in equality.
//! 2. W, the width of a grid, is the whole grid of a (sub)plan: windows of one series overlap between steps, so a series
//!    is folded in one pass over its samples; memory is bounded by rows per tile, and by the limit on samples held.

pub mod lower;
pub mod node;
pub mod physical;
mod propagate;
pub mod reach;

pub use lower::{Lowered, lower_query};
pub use node::{PromNode, PromOp};
