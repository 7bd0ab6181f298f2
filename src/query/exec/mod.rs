//! Physical operators and the tile they exchange.
//!
//! Operators push: a parent hands its child a [`operator::TileSink`], the child announces its roster, then pushes tiles.
//! A query is evaluated on one blocking thread with a deep stack (parallel parts fan out from there), so that operators are plain loops and
//! long queries leave the threads that answer HTTP alone. For DataFusion each operator is an
//! [`datafusion::physical_plan::ExecutionPlan`] ([`operator::PromExec`]) whose stream runs the same loops on a blocking
//! thread and turns tiles into batches.

pub mod arith;
pub mod batch;
#[cfg(test)]
mod condense_tests;
pub mod fold;
pub mod histogram;
pub mod info;
pub mod link;
pub mod machine;
pub mod operator;
pub mod parallel;
pub mod raw;
pub mod shared;
pub mod specs;
pub mod tile;
pub mod together;
pub mod transform;
pub mod vector;
