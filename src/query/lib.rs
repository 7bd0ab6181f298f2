//! Queries: PromQL and SQL text in, DataFusion plans inside, columns out.
//!
//! ```text
//! admission/ who may run: permits, queues, the memory of all queries, the list of active ones
//! promql/   text ─▶ lexer ─▶ parser ─▶ checked AST with positions
//! plan/     AST ─▶ logical nodes ─▶ physical operators
//! optimize/ rules over logical plans
//! scan/     table providers over a storage snapshot; rosters
//! exec/     physical operators; the tile they exchange
//! kernels/  what operators compute: windows, aggregates, matching, quantiles. Pure functions over slices
//! sql/      session, catalog of metric tables, `promql()` table function
//! explain/  what became of a query: one tree from its text to what was read
//! engine    the front: limits, timeouts, cancellation, plan cache, answers
//! ```
//!
//! Invariants
//! 1. DataFusion is known here and nowhere else; below here nobody knows a query language.
//! 2. What an answer says (values, annotations, errors, their order) does not depend on partitioning or block layout.

pub mod admission;
pub mod annotation;
pub mod answer;
pub mod context;
pub mod engine;
pub mod error;
pub mod exec;
pub mod explain;
pub mod hints;
pub mod kernels;
pub mod optimize;
pub mod plan;
pub mod promql;
pub mod scan;
pub mod sql;

pub use annotation::{Annotation, Annotations, HistogramOperation, MergeDetail};
pub use answer::{Answer, AnswerSeries, AnswerValue, PromqlRequest, QueryOptions, QueryStats};
pub use context::{Features, QueryContext};
pub use engine::{Engine, EngineOptions, too_many_points};
pub use error::QueryError;
pub use explain::{Explain, ExplainMode};
pub use hints::{Hints, Rule};
