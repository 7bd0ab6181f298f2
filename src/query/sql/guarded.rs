//! Plans that stop: every operator of a statement looks, batch by batch, whether its answer is still wanted.
//!
//! DataFusion ends a statement by dropping its streams, which takes effect where a task waits. Its operators seldom wait: a join
//! that finds no pair reads on inside one call, an aggregation takes its whole input in one. So the plan is changed after
//! everything about it is decided:
//!
//! | where | what looks |
//! | --- | --- |
//! | between two operators | [`Guarded`], at each batch; it also yields by time |
//! | inside a join while it probes | the join's filter ([`super::checked`]); joins that put nothing out while probing get one that is always true |
//! | inside a filter or projection | its expressions ([`super::checked`]), on as many rows at a time as take some milliseconds |
//! | inside a sort | its keys ([`super::checked`]), batch by batch |
//! | inside an aggregate over a window | its accumulator, row by row ([`super::windows`]) |
//! | where an operator asks for memory | the statement's pool ([`super::pool`]) |
//!
//! Invariants
//! 1. A guarded plan is displayed, measured and downcast as the plan it is made of.
//! 2. Every stream holds the pool and with it the permit, so that the permit is free when the last of them is dropped and not before.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, JoinType, Result, ScalarValue, Statistics};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{InvariantLevel, replace_children_if_necessary};
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    HashJoinExec, HashJoinExecBuilder, NestedLoopJoinExec, NestedLoopJoinExecBuilder, SortMergeJoinExec,
};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use futures::Stream;

use super::checked::Checked;
use super::pool::StatementPool;

/// An operator works so long before it lets other tasks of its thread run.
const YIELD_AFTER: Duration = Duration::from_millis(10);

/// The plan, made to stop when the statement is stopped.
pub fn guard(plan: &Arc<dyn ExecutionPlan>, pool: &Arc<StatementPool>) -> Result<Arc<dyn ExecutionPlan>> {
    let children = plan.children().into_iter().map(|c| guard(c, pool)).collect::<Result<Vec<_>>>()?;
    let plan = replace_children_if_necessary(Arc::clone(plan), children)?;
    // What a filter or a sort says of its rows is read from its expressions, and operators above rely on it.
    let properties = Arc::clone(plan.properties());
    let plan = with_checked_expressions(plan, pool)?;
    Ok(Arc::new(Guarded { plan, properties, pool: Arc::clone(pool) }))
}

fn with_checked_expressions(plan: Arc<dyn ExecutionPlan>, pool: &Arc<StatementPool>) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        return match join_filter(join.filter(), *join.join_type(), pool) {
            Some(f) => HashJoinExecBuilder::from(join).with_filter(Some(f)).build_exec(),
            None => Ok(plan),
        };
    }
    if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        return match join_filter(join.filter(), *join.join_type(), pool) {
            Some(f) => Ok(Arc::new(NestedLoopJoinExecBuilder::from(join).with_filter(Some(f)).build()?)),
            None => Ok(plan),
        };
    }
    if let Some(join) = plan.downcast_ref::<SortMergeJoinExec>() {
        return match join_filter(join.filter().as_ref(), join.join_type(), pool) {
            Some(f) => Ok(Arc::new(SortMergeJoinExec::try_new(
                Arc::clone(join.left()),
                Arc::clone(join.right()),
                join.on().to_vec(),
                Some(f),
                join.join_type(),
                join.sort_options().to_vec(),
                join.null_equality(),
            )?)),
            None => Ok(plan),
        };
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        let predicate = Checked::wrap(Arc::clone(filter.predicate()), pool);
        let input = Arc::clone(filter.input());
        let mut builder = FilterExecBuilder::from(filter);
        builder = builder.with_predicate(predicate).with_input(input);
        return Ok(Arc::new(builder.build()?));
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        return checked_projection(&plan, projection, pool);
    }
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        return Ok(checked_sort(&plan, sort, pool));
    }
    Ok(plan)
}

fn checked_projection(
    plan: &Arc<dyn ExecutionPlan>,
    projection: &ProjectionExec,
    pool: &Arc<StatementPool>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if projection.expr().iter().all(|e| e.expr.is::<Column>() || e.expr.is::<Literal>()) {
        return Ok(Arc::clone(plan));
    }
    let expressions = projection.expr().iter().map(|e| {
        let expr = match e.expr.is::<Column>() || e.expr.is::<Literal>() {
            true => Arc::clone(&e.expr),
            false => Checked::wrap(Arc::clone(&e.expr), pool),
        };
        ProjectionExpr { expr, alias: e.alias.clone() }
    });
    let schema = plan.schema();
    let new =
        ProjectionExec::try_new_with_schema_metadata(expressions, Arc::clone(projection.input()), schema.as_ref())?;
    Ok(Arc::new(new))
}

/// A sort sorts and writes what it holds within one call, and asks its keys for each batch of it. One that keeps a few rows looks
/// often enough, and other operators know its keys.
fn checked_sort(plan: &Arc<dyn ExecutionPlan>, sort: &SortExec, pool: &Arc<StatementPool>) -> Arc<dyn ExecutionPlan> {
    let keys = sort
        .expr()
        .iter()
        .map(|k| PhysicalSortExpr { expr: Checked::wrap(Arc::clone(&k.expr), pool), options: k.options });
    match LexOrdering::new(keys) {
        Some(keys) if sort.fetch().is_none() => {
            let new = SortExec::new(keys, Arc::clone(sort.input()));
            Arc::new(new.with_preserve_partitioning(sort.preserve_partitioning()))
        }
        _ => Arc::clone(plan),
    }
}

/// The filter of a join, made to look. Joins that keep what they find for themselves while they probe get one that is always true:
/// they would enumerate all pairs of a batch and all its partners in one call.
fn join_filter(filter: Option<&JoinFilter>, kind: JoinType, pool: &Arc<StatementPool>) -> Option<JoinFilter> {
    if let Some(f) = filter {
        let expression = Checked::wrap(Arc::clone(f.expression()), pool);
        return Some(JoinFilter::new(expression, f.column_indices().to_vec(), Arc::clone(f.schema())));
    }
    let is_silent = matches!(
        kind,
        JoinType::LeftSemi
            | JoinType::LeftAnti
            | JoinType::LeftMark
            | JoinType::RightSemi
            | JoinType::RightAnti
            | JoinType::RightMark
    );
    is_silent.then(|| {
        let always: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(ScalarValue::Boolean(Some(true))));
        JoinFilter::new(Checked::wrap(always, pool), Vec::new(), Arc::new(Schema::empty()))
    })
}

/// An operator whose output looks at each batch whether it is still wanted.
#[derive(Debug)]
struct Guarded {
    plan: Arc<dyn ExecutionPlan>,
    /// As they were before its expressions were replaced.
    properties: Arc<PlanProperties>,
    pool: Arc<StatementPool>,
}

impl Guarded {
    fn again(&self, plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { plan, properties: Arc::clone(&self.properties), pool: Arc::clone(&self.pool) })
    }
}

impl DisplayAs for Guarded {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plan.fmt_as(t, f)
    }
}

impl ExecutionPlan for Guarded {
    fn name(&self) -> &str {
        self.plan.name()
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        Some(self.plan.as_ref())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn check_invariants(&self, check: InvariantLevel) -> Result<()> {
        self.plan.check_invariants(check)
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.plan.maintains_input_order()
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        self.plan.benefits_from_input_partitioning()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.plan.children()
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.again(Arc::clone(&self.plan).replace_children(children, options)?))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.again(replace_children_if_necessary(Arc::clone(&self.plan), children)?))
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.again(Arc::clone(&self.plan).reset_state()?))
    }

    fn with_new_state(&self, state: Arc<dyn Any + Send + Sync>) -> Option<Arc<dyn ExecutionPlan>> {
        self.plan.with_new_state(state).map(|p| self.again(p))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.plan.apply_expressions(f)
    }

    fn dynamic_expressions_produced(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        self.plan.dynamic_expressions_produced()
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.pool.check()?;
        let input = self.plan.execute(partition, context)?;
        Ok(Box::pin(GuardedStream { input, pool: Arc::clone(&self.pool), since: None, has_failed: false }))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.plan.metrics()
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        #[allow(deprecated, reason = "what asks for it by this name gets what the operator says")]
        self.plan.partition_statistics(partition)
    }

    fn fetch(&self) -> Option<usize> {
        self.plan.fetch()
    }
}

/// What stops a statement, as DataFusion passes it on.
pub fn stopped(error: crate::error::QueryError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

struct GuardedStream {
    input: SendableRecordBatchStream,
    pool: Arc<StatementPool>,
    /// When it last let others run.
    since: Option<Instant>,
    has_failed: bool,
}

impl Stream for GuardedStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_failed {
            return Poll::Ready(None);
        }
        if let Err(e) = self.pool.check() {
            self.has_failed = true;
            return Poll::Ready(Some(Err(e)));
        }
        let now = Instant::now();
        if now.duration_since(*self.since.get_or_insert(now)) >= YIELD_AFTER {
            self.since = None;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = self.input.as_mut().poll_next(cx);
        if next.is_pending() {
            self.since = None;
        }
        next
    }
}

impl RecordBatchStream for GuardedStream {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}
