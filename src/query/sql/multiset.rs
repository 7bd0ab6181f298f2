//! `INTERSECT ALL` and `EXCEPT ALL` count their rows.
//!
//! DataFusion plans them as joins that say whether a row is on the other side, so that each of three equal rows stays where one of
//! them would. Here the equal rows of each side are numbered, and the number is one more column of the join: the second row of the
//! left meets the second of the right.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, JoinType, NullEquality};
use datafusion::error::Result;
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::{
    Distinct, Expr, Join, JoinConstraint, LogicalPlan, LogicalPlanBuilder, WindowFrame, WindowFunctionDefinition,
};
use datafusion::optimizer::AnalyzerRule;

/// Names of the numbers, which no column has.
const NUMBERS: [&str; 2] = ["\u{2063}left", "\u{2063}right"];

/// The rule. It runs while joins of this kind come from nothing else.
#[derive(Debug)]
pub struct Multisets;

impl AnalyzerRule for Multisets {
    fn name(&self) -> &str {
        "multisets"
    }
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let done = plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Join(join) if is_multiset(&join) => Ok(Transformed::yes(counted(join)?)),
            other => Ok(Transformed::no(other)),
        })?;
        Ok(done.data)
    }
}

fn is_multiset(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.null_equality == NullEquality::NullEqualsNull
        && join.filter.is_none()
        && !join.on.is_empty()
        // Of a set, each row is there once: the join is right.
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(Distinct::All(_)))
}

fn counted(join: Join) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = join.left.schema().columns().into_iter().map(Expr::Column).collect();
    let (left, right): (Vec<Expr>, Vec<Expr>) = join.on.iter().cloned().unzip();
    let (left, right) = (numbered(join.left, left, NUMBERS[0])?, numbered(join.right, right, NUMBERS[1])?);
    let mut on = join.on;
    let [l, r] = NUMBERS.map(|n| Expr::Column(Column::from_name(n)));
    on.push((l, r));
    let join = Join::try_new(
        Arc::new(left),
        Arc::new(right),
        on,
        None,
        join.join_type,
        JoinConstraint::On,
        join.null_equality,
        false,
    )?;
    LogicalPlanBuilder::from(LogicalPlan::Join(join)).project(columns)?.build()
}

/// The plan with one more column: the number of each row among its equals.
fn numbered(plan: Arc<LogicalPlan>, partition_by: Vec<Expr>, name: &str) -> Result<LogicalPlan> {
    let window = WindowFunction {
        fun: WindowFunctionDefinition::WindowUDF(row_number_udwf()),
        params: WindowFunctionParams {
            args: Vec::new(),
            partition_by,
            order_by: Vec::new(),
            window_frame: WindowFrame::new(None),
            filter: None,
            null_treatment: None,
            distinct: false,
        },
    };
    let number = Expr::WindowFunction(Box::new(window));
    let shown = Expr::Column(Column::from_name(number.schema_name().to_string())).alias(name);
    let mut columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    columns.push(shown);
    LogicalPlanBuilder::from(plan.as_ref().clone()).window([number])?.project(columns)?.build()
}
