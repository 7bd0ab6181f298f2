//! SQL over the same bytes: sessions, the catalog of metric tables, the `promql()` table functions.
//!
//! ```text
//! text ─▶ tokens counted ─▶ parsed ─▶ permit ─▶ promql() calls evaluated ─▶ logical plan, read-only ─▶ guarded plan ─▶ DataFusion
//!                                                    │                          │
//!                                                    └── PromQL engine          └── tables over one storage snapshot
//! ```
//!
//! Each statement runs on threads of its own ([`lanes`]), under a permit ([`crate::admission`]) and with memory of the one budget of
//! all queries ([`pool`]). Every operator looks whether the answer is still wanted ([`guarded`]).
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
//! 5. The caller is answered when its time is up, however long the work goes on. The permit is free when the work has stopped,
//!    which does not wait for a client that reads slowly.

mod caches;
mod calls;
mod catalog;
mod checked;
mod errors;
mod filter;
mod float_order;
mod guard;
mod guarded;
mod keys;
mod lanes;
mod meaning;
mod min_max;
mod moving;
mod multiset;
mod names;
mod patterns;
mod pool;
mod promql_args;
mod promql_table;
mod rows;
mod rules;
mod scan;
mod session;
mod spill;
mod syntax;
mod table;
mod times;
mod windows;
mod words;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use futures::StreamExt;
use futures::future::BoxFuture;
use quiver_core::{Asker, Maintain, Snapshot, Source};
use quiver_model::LiveLimits;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::admission::{Class, Permit, QueryPool, until};
use crate::answer::QueryOptions;
use crate::engine::Engine;
use crate::error::QueryError;

use errors::error;

pub use caches::{CacheTier, cache_tiers};
pub use spill::TEMPORARY_PREFIX;

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
    batches: mpsc::Receiver<RecordBatch>,
    work: JoinHandle<Result<(), QueryError>>,
    cancel: CancellationToken,
    deadline: Instant,
    rows_left: usize,
    rows_max: usize,
    /// Memory of batches that were collected.
    held: MemoryReservation,
    _stop: DropGuard,
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
            () = until(Some(self.deadline)) => return Err(QueryError::Timeout("query timed out".into())),
            next = self.batches.recv() => next,
        };
        let Some(batch) = next else {
            // The work has ended, well or not.
            (&mut self.work).await.unwrap_or_else(|e| Err(ended(&e)))?;
            return Ok(None);
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
        let batches = self.rest().await?;
        Ok((Arc::clone(&self.schema), batches))
    }

    /// All batches that are left. Their memory counts for the budget of all queries until the answer is dropped.
    pub async fn rest(&mut self) -> Result<Vec<RecordBatch>, QueryError> {
        let mut out = Vec::new();
        while let Some(b) = self.next().await? {
            self.held.try_grow(b.get_array_memory_size()).map_err(|e| error(&e))?;
            out.push(b);
        }
        Ok(out)
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
    lanes: lanes::Lanes,
}

struct Inner {
    source: Arc<dyn Source>,
    /// Evaluates `promql()` calls, and says who may run.
    promql: Arc<Engine>,
    limits: LiveLimits,
    template: SessionState,
    caches: caches::Caches,
    spill: spill::Spill,
}

impl SqlEngine {
    /// An engine over a source; `promql` serves the table functions. `system.caches` is empty.
    pub fn new(
        source: Arc<dyn Source>,
        promql: Arc<Engine>,
        limits: impl Into<LiveLimits>,
    ) -> Result<Self, QueryError> {
        Self::with_figures(source, promql, limits, None, None)
    }

    /// An engine over a source that keeps figures of its caches: they are rows of `system.caches`. What statements cannot hold in
    /// memory is written to the folder `temporary`, else to the system's: in folders whose names begin with [`TEMPORARY_PREFIX`].
    pub fn with_figures(
        source: Arc<dyn Source>,
        promql: Arc<Engine>,
        limits: impl Into<LiveLimits>,
        maintain: Option<Arc<dyn Maintain>>,
        temporary: Option<PathBuf>,
    ) -> Result<Self, QueryError> {
        let limits: LiveLimits = limits.into();
        let spill = spill::Spill::new(temporary, limits.clone())?;
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let template = session::template(threads);
        let lanes = lanes::Lanes::new(threads)?;
        let caches = caches::Caches::new(maintain, Arc::clone(&promql));
        let inner = Arc::new(Inner { source, promql, limits, template, caches, spill });
        Ok(Self { inner, lanes })
    }

    /// Plans a statement and starts it.
    pub fn query(&self, request: SqlRequest) -> BoxFuture<'_, Result<SqlAnswer, QueryError>> {
        Box::pin(self.start(request))
    }

    async fn start(&self, request: SqlRequest) -> Result<SqlAnswer, QueryError> {
        let engine = &self.inner.promql;
        let limits = self.inner.limits.get();
        let statement = guard::parse(&request.sql, &limits)?;
        let deadline = engine.deadline(request.timeout_ms);
        let options = QueryOptions { cancel: request.cancel, ..QueryOptions::default() };
        let ctx = Arc::new(engine.context(&request.sql, &options, Some(deadline)));
        let cancel = ctx.cancel.clone();
        // A caller that drops this future, or the answer, stops the statement.
        let stop = cancel.clone().drop_guard();
        let permit = Arc::new(engine.admission().enter(Class::Sql, ctx).await?);
        let lane = self.lanes.borrow()?;
        let (planned, schema) = oneshot::channel();
        let (batch, batches) = mpsc::channel(BATCHES_AHEAD);
        let work = lane.spawn(drive(Arc::clone(&self.inner), statement, Arc::clone(&permit), planned, batch));
        // Back among the others when the work has ended.
        permit.keep(lane);
        drop(permit);
        let Some(mut work) = work else {
            return Err(QueryError::Busy("the engine is shutting down".into()));
        };
        let schema = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(QueryError::Canceled("query was canceled".into())),
            () = until(Some(deadline)) => return Err(QueryError::Timeout("query timed out".into())),
            schema = schema => schema,
        };
        let Ok(schema) = schema else {
            return Err(match (&mut work).await {
                Ok(Ok(())) => QueryError::Internal("a statement ended without an answer".into()),
                Ok(Err(e)) => e,
                Err(e) => ended(&e),
            });
        };
        let pool = QueryPool::child(engine.memory(), limits.query_memory_bytes_max);
        let held = MemoryConsumer::new("the answer").register(&pool);
        let rows_max = limits.sql_rows_max;
        Ok(SqlAnswer { schema, batches, work, cancel, deadline, rows_left: rows_max, rows_max, held, _stop: stop })
    }
}

/// The work of a statement: ends when it is done, stopped, or out of time. A client that takes no batch keeps it until then.
async fn drive(
    inner: Arc<Inner>,
    statement: Statement,
    permit: Arc<Permit>,
    planned: oneshot::Sender<SchemaRef>,
    batch: mpsc::Sender<RecordBatch>,
) -> Result<(), QueryError> {
    let ctx = Arc::clone(&permit.ctx);
    tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => Err(QueryError::Canceled("query was canceled".into())),
        () = until(ctx.deadline) => Err(QueryError::Timeout("query timed out".into())),
        done = inner.run(statement, permit, planned, batch) => done,
    }
}

impl Inner {
    async fn run(
        &self,
        mut statement: Statement,
        permit: Arc<Permit>,
        planned: oneshot::Sender<SchemaRef>,
        batch: mpsc::Sender<RecordBatch>,
    ) -> Result<(), QueryError> {
        let statement_pool = Arc::new(pool::StatementPool::new(self.promql.memory(), &permit));
        let pool: Arc<dyn MemoryPool> = Arc::clone(&statement_pool) as _;
        syntax::repair(&mut statement);
        promql_args::compute(&mut statement, &self.template).await?;
        let calls = promql_table::find_calls(&statement)?;
        let tables = promql_table::evaluate(&self.promql, calls, &permit, &pool).await?;
        let renamed = calls::tell_apart(&mut statement);
        let explained = matches!(statement, Statement::Explain(_));
        let snapshot = self.source.snapshot();
        let mut state = self.session(&snapshot, explained, &tables, &permit, &pool);
        calls::register(&mut state, &renamed);
        let context = SessionContext::new_with_state(state);
        let (physical, names) = plan(&context, statement, snapshot.as_ref(), &statement_pool).await?;
        let physical = guarded::guard(&physical, &statement_pool).map_err(|e| error(&e))?;
        let stream = execute_stream(physical, context.task_ctx()).map_err(|e| error(&e))?;
        let mut stream = names.restore(stream, explained);
        if planned.send(stream.schema()).is_err() {
            return Ok(());
        }
        while let Some(next) = stream.next().await {
            if batch.send(next.map_err(|e| error(&e))?).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A session for one statement: one snapshot, its own memory.
    fn session(
        &self,
        snapshot: &Arc<dyn Snapshot>,
        explained: bool,
        tables: &promql_table::Answers,
        permit: &Arc<Permit>,
        pool: &Arc<dyn MemoryPool>,
    ) -> SessionState {
        let ctx = Arc::clone(&permit.ctx);
        let asker = Asker::new(move || ctx.check().is_ok());
        let catalogs = catalog::Catalogs::new(
            Arc::clone(snapshot),
            permit.ctx.limits.query_series_max,
            explained,
            asker,
            self.caches.clone(),
        );
        let env = RuntimeEnv {
            memory_pool: Arc::clone(pool),
            disk_manager: self.spill.manager(),
            ..RuntimeEnv::clone(self.template.runtime_env())
        };
        let mut state = SessionStateBuilder::new_from_existing(self.template.clone())
            .with_runtime_env(Arc::new(env))
            .with_catalog_list(Arc::new(catalogs))
            .build();
        state.register_udtf("promql", Arc::new(promql_table::PromqlFunction::new(false, tables)));
        state.register_udtf("promql_instant", Arc::new(promql_table::PromqlFunction::new(true, tables)));
        state
    }
}

/// The physical plan of a statement that only reads, and the names of its columns.
async fn plan(
    context: &SessionContext,
    statement: Statement,
    snapshot: &dyn Snapshot,
    pool: &Arc<pool::StatementPool>,
) -> Result<(Arc<dyn ExecutionPlan>, names::Names), QueryError> {
    let (plan, names) = names::plan(&context.state(), statement, snapshot).await?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)
        .map_err(|e| QueryError::BadData(format!("only reading is possible: {}", error(&e))))?;
    let mut state = context.state();
    let failed = |e: &DataFusionError| errors::planning(e, &names, snapshot);
    let mut physical = match physical_plan(&state, &plan, pool).await {
        Ok(physical) => physical,
        // The optimizer made a plan that it does not accept itself: a simpler one is made.
        Err(e) if errors::is_invalid_plan(&e) => {
            let mut simple = context.state();
            let options = simple.config_mut().options_mut();
            options.execution.target_partitions = 1;
            options.optimizer.repartition_sorts = false;
            options.optimizer.enable_sort_pushdown = false;
            physical_plan(&simple, &plan, pool).await.map_err(|e| failed(&e))?
        }
        Err(e) => return Err(failed(&e)),
    };
    if rereads_a_repartition(&physical) {
        state.config_mut().options_mut().execution.target_partitions = 1;
        physical = physical_plan(&state, &plan, pool).await.map_err(|e| failed(&e))?;
    }
    Ok((physical, names))
}

/// As [`SessionState::create_physical_plan`], with keys as columns and aggregates over windows that can be stopped.
async fn physical_plan(
    state: &SessionState,
    plan: &LogicalPlan,
    pool: &Arc<pool::StatementPool>,
) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
    let optimized = windows::checked(keys::as_columns(state.optimize(plan)?)?, pool)?;
    state.query_planner().create_physical_plan(&optimized, state).await
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
