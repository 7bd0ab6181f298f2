//! SQL over the same bytes: sessions, the catalog of metric tables, the `promql()` table functions.
//!
//! ```text
//! text ─▶ tokens counted ─▶ parsed ─▶ promql() calls evaluated ─▶ logical plan, read-only ─▶ DataFusion
//!                                          │                          │
//!                                          └── PromQL engine          └── tables over one storage snapshot
//! ```
//!
//! Statements run on threads of their own: what they compute does not keep the server from answering others.
//!
//! | table | columns |
//! | --- | --- |
//! | `metrics."NAME"` | `ts, value`, one column per label, `histogram, start_ts, series_id` |
//! | `samples` | `metric, ts, value, labels, labels_json, histogram, start_ts, series_id` |
//! | `series` | `metric, labels, labels_json, series_id` |
//! | `system.caches` | `tier, level, hits, misses, hit_ratio, bytes, bytes_max, evictions` |
//! | `promql('…', start, end, step)`, `promql_instant('…', time)` | `ts, value`, one column per label, `histogram` |
//!
//! Invariants
//! 1. A statement reads and nothing else: DDL, DML, `SET` and files are refused before planning.
//! 2. One statement sees one snapshot; figures of the caches are those of the moment it is planned.
//! 3. A stale marker is a row whose `value` and `histogram` are both null.
//! 4. A statement that panics is an error of that statement.

mod caches;
mod catalog;
mod errors;
mod filter;
mod float_order;
mod guard;
mod meaning;
mod min_max;
mod moving;
mod names;
mod promql_args;
mod promql_table;
mod rows;
mod rules;
mod scan;
mod syntax;
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
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt;
use futures::future::BoxFuture;
use quiver_core::turns::take_turns;
use quiver_core::{Asker, Maintain, Source, build_with_workers};
use quiver_model::LiveLimits;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::Engine;
use crate::error::QueryError;

use errors::error;

pub use caches::{CacheTier, cache_tiers};

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

/// Batches made and not yet taken.
const BATCHES_AHEAD: usize = 2;

/// An answer, batch by batch. Dropping it ends the statement.
pub struct SqlAnswer {
    schema: SchemaRef,
    batches: mpsc::Receiver<Result<RecordBatch, QueryError>>,
    task: AbortOnDropHandle<()>,
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
            n = tokio::time::timeout_at(self.deadline.into(), self.batches.recv()) => n,
        };
        let batch = match next {
            Err(_) => return Err(QueryError::Timeout("query timed out".into())),
            Ok(Some(result)) => result?,
            Ok(None) => {
                // The sender is gone: it has ended, well or not.
                (&mut self.task).await.map_err(|e| ended(&e))?;
                return Ok(None);
            }
        };
        if batch.num_rows() > self.rows_left {
            let text = format!("the answer has more than {} rows: add a LIMIT or aggregate", self.rows_max);
            return Err(QueryError::Execution(text));
        }
        self.rows_left -= batch.num_rows();
        Ok(Some(batch))
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

/// Why a task of a statement gave no result.
fn ended(e: &JoinError) -> QueryError {
    if e.is_panic() {
        QueryError::Internal("unexpected error: the statement panicked".into())
    } else {
        QueryError::Busy("the engine is shutting down".into())
    }
}

/// Answers SQL over a source.
pub struct SqlEngine {
    inner: Arc<Inner>,
    limits: LiveLimits,
    runtime: Option<Runtime>,
}

struct Inner {
    source: Arc<dyn Source>,
    promql: Arc<Engine>,
    limits: LiveLimits,
    template: SessionState,
    caches: caches::Caches,
}

impl Drop for SqlEngine {
    fn drop(&mut self) {
        // May be dropped inside another runtime, where waiting is not allowed.
        if let Some(rt) = self.runtime.take() {
            rt.shutdown_background();
        }
    }
}

impl SqlEngine {
    /// An engine over a source; `promql` serves the table functions. `system.caches` is empty.
    pub fn new(
        source: Arc<dyn Source>,
        promql: Arc<Engine>,
        limits: impl Into<LiveLimits>,
    ) -> Result<Self, QueryError> {
        Self::with_figures(source, promql, limits, None)
    }

    /// An engine over a source that keeps figures of its caches: they are rows of `system.caches`.
    pub fn with_figures(
        source: Arc<dyn Source>,
        promql: Arc<Engine>,
        limits: impl Into<LiveLimits>,
        maintain: Option<Arc<dyn Maintain>>,
    ) -> Result<Self, QueryError> {
        let limits: LiveLimits = limits.into();
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let mut config = SessionConfig::new()
            .with_information_schema(true)
            .with_target_partitions(threads)
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema("quiver", "public");
        // Metric and label names are case-sensitive.
        config.options_mut().sql_parser.enable_ident_normalization = false;
        let runtime_env = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(limits.get().query_memory_bytes_max)))
            .build_arc()
            .map_err(|e| error(&e))?;
        let mut template = rules::apply(SessionStateBuilder::new().with_config(config).with_runtime_env(runtime_env));
        for name in guard::REMOVED_FUNCTIONS {
            guard::remove_function(&mut template, name);
        }
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads).thread_name("quiver-sql").on_thread_start(take_turns).enable_time();
        let runtime = build_with_workers(&mut builder)
            .map_err(|e| QueryError::Internal(format!("cannot start threads for SQL: {e}")))?;
        let caches = caches::Caches::new(maintain, Arc::clone(&promql));
        let inner = Arc::new(Inner { source, promql, limits: limits.clone(), template, caches });
        Ok(Self { inner, limits, runtime: Some(runtime) })
    }

    /// Plans a statement and starts it.
    pub fn query(&self, request: SqlRequest) -> BoxFuture<'_, Result<SqlAnswer, QueryError>> {
        Box::pin(self.start(request))
    }

    async fn start(&self, request: SqlRequest) -> Result<SqlAnswer, QueryError> {
        let limits = self.limits.get();
        let timeout_ms = request.timeout_ms.unwrap_or(u64::MAX).min(limits.query_timeout_ms);
        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
        let statement = guard::parse(&request.sql, &limits)?;
        let Some(runtime) = &self.runtime else {
            return Err(QueryError::Busy("the engine is shutting down".into()));
        };
        let cancel = request.cancel.clone();
        let (planned, schema) = oneshot::channel();
        let (batch, batches) = mpsc::channel(BATCHES_AHEAD);
        let inner = Arc::clone(&self.inner);
        let mut task = AbortOnDropHandle::new(runtime.spawn(async move {
            let mut stream = match inner.plan(statement, &request, deadline).await {
                Ok(stream) => stream,
                Err(e) => {
                    let _ = planned.send(Err(e));
                    return;
                }
            };
            if planned.send(Ok(stream.schema())).is_err() {
                return;
            }
            while let Some(next) = stream.next().await {
                let failed = next.is_err();
                if batch.send(next.map_err(|e| error(&e))).await.is_err() || failed {
                    return;
                }
            }
        }));
        let schema = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(QueryError::Canceled("query was canceled".into())),
            p = tokio::time::timeout_at(deadline.into(), schema) => match p {
                Err(_) => return Err(QueryError::Timeout("query timed out".into())),
                Ok(Ok(result)) => result?,
                Ok(Err(_)) => return Err((&mut task).await.map_or_else(|e| ended(&e), |()| {
                    QueryError::Internal("a statement ended without an answer".into())
                })),
            },
        };
        let rows_max = limits.sql_rows_max;
        Ok(SqlAnswer { schema, batches, task, cancel, deadline, rows_left: rows_max, rows_max })
    }
}

impl Inner {
    async fn plan(
        &self,
        mut statement: datafusion::sql::parser::Statement,
        request: &SqlRequest,
        deadline: Instant,
    ) -> Result<SendableRecordBatchStream, QueryError> {
        let explained = matches!(statement, datafusion::sql::parser::Statement::Explain(_));
        syntax::repair(&mut statement);
        promql_args::compute(&mut statement, &self.template).await?;
        let calls = promql_table::find_calls(&statement)?;
        let tables = promql_table::evaluate(&self.promql, calls, request).await?;
        let snapshot = self.source.snapshot();
        let cancel = request.cancel.clone();
        let asker = Asker::new(move || !cancel.is_cancelled() && Instant::now() < deadline);
        let mut state = SessionStateBuilder::new_from_existing(self.template.clone())
            .with_catalog_list(Arc::new(catalog::Catalogs::new(
                Arc::clone(&snapshot),
                self.limits.get().query_series_max,
                explained,
                asker,
                self.caches.clone(),
            )))
            .build();
        state.register_udtf("promql", Arc::new(promql_table::PromqlFunction::new(false, &tables)));
        state.register_udtf("promql_instant", Arc::new(promql_table::PromqlFunction::new(true, &tables)));
        let context = SessionContext::new_with_state(state);
        let (plan, names) = names::plan(&context.state(), statement, snapshot.as_ref()).await?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(|e| QueryError::BadData(format!("only reading is possible: {}", error(&e))))?;
        let mut state = context.state();
        let mut physical =
            state.create_physical_plan(&plan).await.map_err(|e| errors::planning(&e, &names, snapshot.as_ref()))?;
        if rereads_a_repartition(&physical) {
            state.config_mut().options_mut().execution.target_partitions = 1;
            physical = state.create_physical_plan(&plan).await.map_err(|e| error(&e))?;
        }
        let stream = execute_stream(physical, context.task_ctx()).map_err(|e| error(&e))?;
        Ok(names.restore(stream, explained))
    }
}

/// Has the plan a nested-loop join over a repartition? Where such a join runs out of memory it executes its left input
/// again and spills it, which a repartition answers with a panic (DataFusion 55, `RepartitionExec::execute`: "partition
/// not used yet"). Such plans are made for one partition, where nothing is repartitioned.
fn rereads_a_repartition(plan: &Arc<dyn ExecutionPlan>) -> bool {
    fn any(plan: &Arc<dyn ExecutionPlan>, name: &str) -> bool {
        plan.name() == name || plan.children().into_iter().any(|c| any(c, name))
    }
    let here =
        plan.name() == "NestedLoopJoinExec" && plan.children().first().is_some_and(|left| any(left, "RepartitionExec"));
    here || plan.children().into_iter().any(rereads_a_repartition)
}
