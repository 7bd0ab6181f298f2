//! SQL over the same bytes: sessions, the catalog of metric tables, the `promql()` table functions.
//!
//! ```text
//! text ─▶ tokens counted ─▶ parsed ─▶ promql() calls evaluated ─▶ logical plan, read-only ─▶ DataFusion
//!                                          │                          │
//!                                          └── PromQL engine          └── tables over one storage snapshot
//! ```
//!
//! | table | columns |
//! | --- | --- |
//! | `metrics."NAME"` | `ts, value`, one column per label, `histogram, start_ts, series_id` |
//! | `samples` | `metric, ts, value, labels, labels_json, histogram, start_ts, series_id` |
//! | `series` | `metric, labels, labels_json, series_id` |
//! | `promql('…', start, end, step)`, `promql_instant('…', time)` | `ts, value`, one column per label, `histogram` |
//!
//! Invariants
//! 1. A statement reads and nothing else: DDL, DML, `SET` and files are refused before planning.
//! 2. One statement sees one snapshot.
//! 3. A stale marker is a row whose `value` and `histogram` are both null.

mod catalog;
mod filter;
mod guard;
mod promql_table;
mod rows;
mod scan;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt;
use quiver_core::Source;
use quiver_model::Limits;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::error::QueryError;

/// One SQL statement and its bounds.
#[derive(Clone, Debug, Default)]
pub struct SqlRequest {
    /// The statement.
    pub sql: String,
    /// Time it may take, ms; never above the limit.
    pub timeout_ms: Option<u64>,
    /// Cancelled when the client leaves.
    pub cancel: CancellationToken,
}

/// An answer, batch by batch.
pub struct SqlAnswer {
    schema: SchemaRef,
    stream: SendableRecordBatchStream,
    cancel: CancellationToken,
    deadline: Instant,
    rows_left: usize,
    rows_max: usize,
}

impl SqlAnswer {
    /// Columns of the answer.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next batch, or none at the end.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, QueryError> {
        let next = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(QueryError::Canceled("query was canceled".into())),
            n = tokio::time::timeout_at(self.deadline.into(), self.stream.next()) => n,
        };
        match next {
            Err(_) => Err(QueryError::Timeout("query timed out".into())),
            Ok(None) => Ok(None),
            Ok(Some(Err(e))) => Err(error(&e)),
            Ok(Some(Ok(batch))) => {
                if batch.num_rows() > self.rows_left {
                    let text = format!("the answer has more than {} rows: add a LIMIT or aggregate", self.rows_max);
                    return Err(QueryError::Execution(text));
                }
                self.rows_left -= batch.num_rows();
                Ok(Some(batch))
            }
        }
    }

    /// All batches.
    pub async fn collect(mut self) -> Result<(SchemaRef, Vec<RecordBatch>), QueryError> {
        let mut out = Vec::new();
        while let Some(b) = self.next().await? {
            out.push(b);
        }
        Ok((Arc::clone(&self.schema), out))
    }
}

/// A DataFusion error, by whose fault it is.
fn error(e: &datafusion::error::DataFusionError) -> QueryError {
    use datafusion::error::DataFusionError as E;
    let root = e.find_root();
    match root {
        E::SQL(..) | E::Plan(_) | E::SchemaError(..) | E::NotImplemented(_) => {
            QueryError::BadData(root.strip_backtrace())
        }
        E::ResourcesExhausted(_) => {
            QueryError::Execution(format!("the query needs more memory than it may use: {}", root.strip_backtrace()))
        }
        E::External(inner) => match inner.downcast_ref::<QueryError>() {
            Some(q) => q.clone(),
            None => QueryError::Execution(root.strip_backtrace()),
        },
        _ => QueryError::Execution(root.strip_backtrace()),
    }
}

/// Answers SQL over a source.
pub struct SqlEngine {
    source: Arc<dyn Source>,
    promql: Arc<Engine>,
    limits: Limits,
    template: SessionState,
}

impl SqlEngine {
    /// An engine over a source; `promql` serves the table functions.
    pub fn new(source: Arc<dyn Source>, promql: Arc<Engine>, limits: Limits) -> Result<Self, QueryError> {
        let mut config = SessionConfig::new()
            .with_information_schema(true)
            // Repartitioning may panic in DataFusion when a cancelled statement drops one of its streams.
            .with_target_partitions(1)
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema("quiver", "public");
        // Metric and label names are case-sensitive.
        config.options_mut().sql_parser.enable_ident_normalization = false;
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(limits.query_memory_bytes_max)))
            .build_arc()
            .map_err(|e| error(&e))?;
        let mut template =
            SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features().build();
        for name in guard::REMOVED_FUNCTIONS {
            guard::remove_function(&mut template, name);
        }
        Ok(Self { source, promql, limits, template })
    }

    /// Plans a statement and starts it.
    pub async fn query(&self, request: SqlRequest) -> Result<SqlAnswer, QueryError> {
        let timeout_ms = request.timeout_ms.unwrap_or(u64::MAX).min(self.limits.query_timeout_ms);
        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
        let statement = guard::parse(&request.sql, &self.limits)?;
        let planned = tokio::select! {
            biased;
            () = request.cancel.cancelled() => return Err(QueryError::Canceled("query was canceled".into())),
            p = tokio::time::timeout_at(deadline.into(), self.plan(statement, &request)) => p,
        };
        let stream = planned.map_err(|_| QueryError::Timeout("query timed out".into()))??;
        let rows_max = self.limits.sql_rows_max;
        let schema = stream.schema();
        Ok(SqlAnswer { schema, stream, cancel: request.cancel, deadline, rows_left: rows_max, rows_max })
    }

    async fn plan(
        &self,
        statement: datafusion::sql::parser::Statement,
        request: &SqlRequest,
    ) -> Result<SendableRecordBatchStream, QueryError> {
        let calls = promql_table::find_calls(&statement)?;
        let tables = promql_table::evaluate(&self.promql, calls, request).await?;
        let snapshot = self.source.snapshot();
        let mut state = SessionStateBuilder::new_from_existing(self.template.clone())
            .with_catalog_list(Arc::new(catalog::Catalogs::new(snapshot, self.limits.query_series_max)))
            .build();
        state.register_udtf("promql", Arc::new(promql_table::PromqlFunction::new(false, &tables)));
        state.register_udtf("promql_instant", Arc::new(promql_table::PromqlFunction::new(true, &tables)));
        let context = SessionContext::new_with_state(state);
        let plan = context.state().statement_to_plan(statement).await.map_err(|e| error(&e))?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(|e| QueryError::BadData(format!("only reading is possible: {}", error(&e))))?;
        let frame = context.execute_logical_plan(plan).await.map_err(|e| error(&e))?;
        let physical = frame.create_physical_plan().await.map_err(|e| error(&e))?;
        execute_stream(physical, context.task_ctx()).map_err(|e| error(&e))
    }
}
