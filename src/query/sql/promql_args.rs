//! Arguments of `promql()` that are no literals: `now()`, `now() - INTERVAL '1 hour'`, `TIMESTAMP '…'`.
//!
//! The answers of these calls are needed before the statement is planned, so what their arguments are is computed first and
//! written into the statement. An argument knows no columns and calls functions of time and rounding only.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::execution::session_state::SessionState;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, TableFactor, Value, Visit, VisitMut, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use futures::TryStreamExt;

use super::errors::error;
use super::table::time_type;
use crate::error::QueryError;

/// Functions that an argument may call.
const FUNCTIONS: [&str; 20] = [
    "now",
    "current_timestamp",
    "current_date",
    "today",
    "date_trunc",
    "date_bin",
    "to_timestamp",
    "to_timestamp_seconds",
    "to_timestamp_millis",
    "to_timestamp_micros",
    "to_timestamp_nanos",
    "to_date",
    "make_date",
    "abs",
    "floor",
    "ceil",
    "round",
    "to_unixtime",
    "date_part",
    "extract",
];

fn is_literal(e: &Expr) -> bool {
    match e {
        Expr::Value(v) => matches!(v.value, Value::Number(..) | Value::SingleQuotedString(_)),
        Expr::UnaryOp { op: ast::UnaryOperator::Minus, expr } => is_literal(expr),
        _ => false,
    }
}

/// Visits arguments that are no literals, in the order of the statement.
struct Arguments<F>(F);

impl<F: FnMut(&mut Expr) -> Result<(), QueryError>> VisitorMut for Arguments<F> {
    type Break = QueryError;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<QueryError> {
        let TableFactor::Table { name, args: Some(args), .. } = factor else { return ControlFlow::Continue(()) };
        let name = name.to_string();
        if !matches!(name.trim_matches('"').to_ascii_lowercase().as_str(), "promql" | "promql_instant") {
            return ControlFlow::Continue(());
        }
        for a in &mut args.args {
            if let FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) = a
                && !is_literal(e)
                && let Err(error) = (self.0)(e)
            {
                return ControlFlow::Break(error);
            }
        }
        ControlFlow::Continue(())
    }
}

fn visit(statement: &mut Statement, f: impl FnMut(&mut Expr) -> Result<(), QueryError>) -> Result<(), QueryError> {
    let mut inner = statement;
    while let Statement::Explain(e) = inner {
        inner = &mut e.statement;
    }
    let Statement::Statement(inner) = inner else { return Ok(()) };
    match VisitMut::visit(inner.as_mut(), &mut Arguments(f)) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Collects the columns that a statement names.
#[derive(Default)]
struct Mentions {
    tables: usize,
    calls: Vec<String>,
    aliases: BTreeSet<String>,
    bare: BTreeSet<String>,
    qualified: BTreeSet<(String, String)>,
}

impl Visitor for Mentions {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        self.tables += 1;
        if let TableFactor::Table { args: Some(_), alias: Some(alias), .. } = factor {
            self.calls.push(alias.name.value.clone());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &ast::Select) -> ControlFlow<()> {
        for item in &select.projection {
            if let ast::SelectItem::ExprWithAlias { alias, .. } = item {
                self.aliases.insert(alias.value.clone());
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, e: &Expr) -> ControlFlow<()> {
        match e {
            Expr::Identifier(i) => {
                self.bare.insert(i.value.clone());
            }
            Expr::CompoundIdentifier(parts) => {
                if let [table, column] = parts.as_slice() {
                    self.qualified.insert((table.value.clone(), column.value.clone()));
                }
            }
            _ => (),
        }
        ControlFlow::Continue(())
    }
}

/// The columns that a statement takes from its calls of `promql()`: an empty answer, which knows no labels, has them, too. A
/// name without a table counts if there is no other table that it could be of.
pub fn mentioned(statement: &ast::Statement) -> BTreeSet<String> {
    let mut m = Mentions::default();
    let _ = Visit::visit(statement, &mut m);
    let mut out = BTreeSet::new();
    if m.tables == 1 {
        out.extend(m.bare.difference(&m.aliases).cloned());
    }
    out.extend(m.qualified.into_iter().filter(|(table, _)| m.calls.contains(table)).map(|(_, column)| column));
    out.retain(|c| !["ts", "value", "histogram", "metric"].contains(&c.as_str()));
    out
}

/// Finds what an argument may not have.
struct Judge;

impl Visitor for Judge {
    type Break = String;

    fn pre_visit_query(&mut self, _: &ast::Query) -> ControlFlow<String> {
        ControlFlow::Break("it has a subquery".into())
    }
    fn pre_visit_expr(&mut self, e: &Expr) -> ControlFlow<String> {
        match e {
            Expr::Identifier(i) => ControlFlow::Break(format!("{i} is a column")),
            Expr::CompoundIdentifier(_) => ControlFlow::Break(format!("{e} is a column")),
            Expr::Function(f) if !FUNCTIONS.contains(&f.name.to_string().to_lowercase().as_str()) => {
                ControlFlow::Break(format!("{}() may not be called here", f.name))
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

fn judge(e: &Expr) -> Result<(), QueryError> {
    match Visit::visit(e, &mut Judge) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(why) => Err(QueryError::BadData(format!(
            "argument {e} of promql() must be a text or a number, a time such as now() - INTERVAL '1 hour', or an interval: \
             {why}"
        ))),
    }
}

/// Computes the arguments and writes them into the statement as literals.
pub async fn compute(statement: &mut Statement, template: &SessionState) -> Result<(), QueryError> {
    let mut arguments = Vec::new();
    visit(statement, |e| {
        judge(e)?;
        arguments.push(e.clone());
        Ok(())
    })?;
    if arguments.is_empty() {
        return Ok(());
    }
    let mut values = evaluate(&arguments, template).await?.into_iter();
    visit(statement, |e| {
        let Some(value) = values.next() else { return Ok(()) };
        *e = Expr::Value(Value::SingleQuotedString(literal(e, &value)?).into());
        Ok(())
    })
}

/// All of them at once: `now()` is one moment.
async fn evaluate(arguments: &[Expr], template: &SessionState) -> Result<Vec<ScalarValue>, QueryError> {
    let items: Vec<String> = arguments.iter().enumerate().map(|(i, e)| format!("{e} AS a{i}")).collect();
    let text = format!("SELECT {}", items.join(", "));
    let parsed = Parser::parse_sql(&PostgreSqlDialect {}, &text);
    let mut parsed = parsed.map_err(|e| QueryError::BadData(e.to_string()))?;
    let Some(select) = parsed.pop() else { return Ok(Vec::new()) };
    let context = SessionContext::new_with_state(template.clone());
    let state = context.state();
    let plan = state.statement_to_plan(Statement::Statement(Box::new(select))).await.map_err(|e| error(&e))?;
    let physical = state.create_physical_plan(&plan).await.map_err(|e| error(&e))?;
    let stream = execute_stream(physical, context.task_ctx()).map_err(|e| error(&e))?;
    let batches: Vec<_> = stream.try_collect().await.map_err(|e| error(&e))?;
    let Some(batch) = batches.iter().find(|b| b.num_rows() == 1) else { return Ok(Vec::new()) };
    batch.columns().iter().map(|c| ScalarValue::try_from_array(c, 0).map_err(|e| error(&e))).collect()
}

/// A time as Unix seconds, an interval as a duration, anything else as its text.
fn literal(e: &Expr, value: &ScalarValue) -> Result<String, QueryError> {
    let bad = |why: &str| QueryError::BadData(format!("argument {e} of promql(): {why}"));
    if value.is_null() {
        return Err(bad("it is null"));
    }
    let milliseconds = |ns: i128| format!("{}ms", ns / 1_000_000);
    match value {
        ScalarValue::IntervalMonthDayNano(Some(i)) if i.months == 0 => {
            Ok(milliseconds(i128::from(i.days) * 86_400_000_000_000 + i128::from(i.nanoseconds)))
        }
        ScalarValue::IntervalDayTime(Some(i)) => {
            Ok(milliseconds((i128::from(i.days) * 86_400_000 + i128::from(i.milliseconds)) * 1_000_000))
        }
        ScalarValue::IntervalMonthDayNano(_) | ScalarValue::IntervalYearMonth(_) => {
            Err(bad("months differ in length: use days or hours"))
        }
        _ => match value.data_type() {
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => match value.cast_to(&time_type()) {
                Ok(ScalarValue::TimestampMillisecond(Some(ms), _)) => Ok((ms as f64 / 1000.0).to_string()),
                _ => Err(bad("it is no time that can be held")),
            },
            DataType::Duration(_) => {
                match value.cast_to(&DataType::Duration(arrow::datatypes::TimeUnit::Millisecond)) {
                    Ok(ScalarValue::DurationMillisecond(Some(ms))) => Ok(format!("{ms}ms")),
                    _ => Err(bad("it is no duration that can be held")),
                }
            }
            _ => Ok(value.to_string()),
        },
    }
}
