//! Keys of windows and ordered aggregates that compare what a function gives: `OVER (PARTITION BY upper(job) > 'A')`.
//!
//! Whether rows have an order already is judged from bounds of such a key, and DataFusion 55 says of most functions that their bounds
//! are those of a null, which it then refuses to compare: there is no plan. So such a key is a column before the window is made.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{AggregateFunction, WindowFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, Window};

/// Begins the name of a column that no other has.
const NAME: &str = "\u{2063}key";

/// The plan with such keys as columns. It comes after the optimizer, which would put them back.
pub fn as_columns(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(node)?.data)
}

fn node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    Ok(match plan {
        LogicalPlan::Window(window) => {
            let mut keys = Keys::default();
            let exprs = keys.replace(&window.window_expr)?;
            if keys.0.is_empty() {
                return Ok(Transformed::no(LogicalPlan::Window(window)));
            }
            let columns: Vec<Expr> = window.schema.columns().into_iter().map(Expr::Column).collect();
            let window = Window::try_new(exprs, Arc::new(keys.below(&window.input)?))?;
            Transformed::yes(LogicalPlanBuilder::from(LogicalPlan::Window(window)).project(columns)?.build()?)
        }
        LogicalPlan::Aggregate(aggregate) => {
            let mut keys = Keys::default();
            let exprs = keys.replace(&aggregate.aggr_expr)?;
            if keys.0.is_empty() {
                return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
            }
            let input = Arc::new(keys.below(&aggregate.input)?);
            Transformed::yes(LogicalPlan::Aggregate(Aggregate::try_new(input, aggregate.group_expr, exprs)?))
        }
        other => Transformed::no(other),
    })
}

/// Keys that become columns.
#[derive(Default)]
struct Keys(Vec<Expr>);

impl Keys {
    fn replace(&mut self, exprs: &[Expr]) -> Result<Vec<Expr>> {
        let names = NamePreserver::new_for_projection();
        let replace = |e: &Expr| {
            let name = names.save(e);
            let replaced = e.clone().transform_up(|e| {
                Ok(match e {
                    Expr::WindowFunction(mut w) => {
                        let WindowFunction { params, .. } = w.as_mut();
                        let sorts = params.order_by.iter_mut().map(|s| &mut s.expr);
                        params.partition_by.iter_mut().chain(sorts).for_each(|key| self.take(key));
                        Transformed::yes(Expr::WindowFunction(w))
                    }
                    Expr::AggregateFunction(mut a) => {
                        let AggregateFunction { params, .. } = &mut a;
                        params.order_by.iter_mut().for_each(|s| self.take(&mut s.expr));
                        Transformed::yes(Expr::AggregateFunction(a))
                    }
                    other => Transformed::no(other),
                })
            })?;
            Ok(name.restore(replaced.data))
        };
        exprs.iter().map(replace).collect()
    }

    fn take(&mut self, key: &mut Expr) {
        if !compares_a_function(key) {
            return;
        }
        let at = self.0.iter().position(|k| k == key).unwrap_or_else(|| {
            self.0.push(key.clone());
            self.0.len() - 1
        });
        *key = Expr::Column(Column::from_name(format!("{NAME}{at}")));
    }

    /// The input with the keys behind its columns.
    fn below(self, input: &Arc<LogicalPlan>) -> Result<LogicalPlan> {
        let columns = input.schema().columns().into_iter().map(Expr::Column);
        let keys = self.0.into_iter().enumerate().map(|(at, key)| key.alias(format!("{NAME}{at}")));
        LogicalPlanBuilder::from(input.as_ref().clone()).project(columns.chain(keys).collect::<Vec<_>>())?.build()
    }
}

/// Has the expression an operator with a function below it?
fn compares_a_function(e: &Expr) -> bool {
    let has = |e: &Expr, found: &dyn Fn(&Expr) -> bool| e.exists(|e| Ok(found(e))).unwrap_or(false);
    has(e, &|e| matches!(e, Expr::BinaryExpr(_)) && has(e, &|e| matches!(e, Expr::ScalarFunction(_))))
}
