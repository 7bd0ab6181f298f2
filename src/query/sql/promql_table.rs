//! `promql('…', start, end, step)` and `promql_instant('…', time)` as tables.
//!
//! A table function says its columns while the statement is planned, and which labels a PromQL answer has is known only
//! when it was evaluated. So calls are found in the parsed statement and evaluated first; planning then looks their
//! answers up by argument.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Float64Builder, Int32Array, StringArray, TimestampMillisecondBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::logical_expr::Expr;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use quiver_core::TimeRange;
use quiver_model::{Histogram, METRIC_NAME};

use super::rows::histogram_array;
use super::table::{histogram_fields, label_columns, text_type, time_type};
use crate::admission::Permit;
use crate::answer::{AnswerSeries, AnswerValue, PromqlRequest, QueryOptions};
use crate::engine::Engine;
use crate::error::QueryError;
use crate::promql;
use crate::promql::ast::{AggregateOp, Expr as PromqlExpr};

/// Label columns of an empty answer at most.
const LABELS_MAX: usize = 1000;
/// Most calls in one statement.
const CALLS_MAX: usize = 16;

/// A literal argument.
#[derive(Clone, Debug, PartialEq)]
enum Literal {
    Text(String),
    Number(f64),
}

/// A call: is it `promql_instant`, and with what.
#[derive(Clone, Debug)]
pub struct Call {
    instant: bool,
    arguments: Vec<Literal>,
    /// Columns that the statement takes from it.
    mentioned: Arc<BTreeSet<String>>,
}

fn key(instant: bool, arguments: &[Literal]) -> String {
    format!("{instant} {arguments:?}")
}

type Tables = HashMap<String, Arc<MemTable>>;

/// Answers of the calls of a statement, and their memory.
pub struct Answers {
    tables: Tables,
    _held: MemoryReservation,
}

struct Finder(Vec<Call>);

impl ast::Visitor for Finder {
    type Break = QueryError;

    fn pre_visit_table_factor(&mut self, factor: &ast::TableFactor) -> ControlFlow<QueryError> {
        let ast::TableFactor::Table { name, args: Some(args), .. } = factor else {
            return ControlFlow::Continue(());
        };
        let instant = match name.to_string().trim_matches('"').to_ascii_lowercase().as_str() {
            "promql" => false,
            "promql_instant" => true,
            _ => return ControlFlow::Continue(()),
        };
        let mut arguments = Vec::new();
        for a in &args.args {
            let literal = match a {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => sql_literal(e),
                _ => None,
            };
            match literal {
                Some(l) => arguments.push(l),
                None => {
                    let text = format!("argument {a} of promql() must be a text or a number");
                    return ControlFlow::Break(QueryError::BadData(text));
                }
            }
        }
        if self.0.len() == CALLS_MAX {
            let text = format!("a statement may call promql() {CALLS_MAX} times");
            return ControlFlow::Break(QueryError::BadData(text));
        }
        self.0.push(Call { instant, arguments, mentioned: Arc::default() });
        ControlFlow::Continue(())
    }
}

fn sql_literal(e: &ast::Expr) -> Option<Literal> {
    match e {
        ast::Expr::Value(v) => match &v.value {
            ast::Value::Number(n, _) => n.to_string().parse().ok().map(Literal::Number),
            ast::Value::SingleQuotedString(s) => Some(Literal::Text(s.clone())),
            _ => None,
        },
        ast::Expr::UnaryOp { op: ast::UnaryOperator::Minus, expr } => match sql_literal(expr)? {
            Literal::Number(n) => Some(Literal::Number(-n)),
            Literal::Text(_) => None,
        },
        _ => None,
    }
}

/// The calls in a statement.
pub fn find_calls(statement: &Statement) -> Result<Vec<Call>, QueryError> {
    let mut finder = Finder(Vec::new());
    let inner = match statement {
        Statement::Statement(s) => s,
        Statement::Explain(e) => return find_calls(&e.statement),
        _ => return Ok(Vec::new()),
    };
    match ast::Visit::visit(inner.as_ref(), &mut finder) {
        ControlFlow::Continue(()) => {
            if !finder.0.is_empty() {
                let mentioned = Arc::new(super::promql_args::mentioned(inner));
                finder.0.iter_mut().for_each(|c| c.mentioned = Arc::clone(&mentioned));
            }
            Ok(finder.0)
        }
        ControlFlow::Break(e) => Err(e),
    }
}

fn time(l: &Literal) -> Result<i64, QueryError> {
    let bad =
        |t: &dyn std::fmt::Debug| QueryError::BadData(format!("{t:?} is not a time: use Unix seconds or RFC 3339"));
    match l {
        Literal::Number(n) if n.is_finite() && n.abs() < 9.2e15 => Ok((n * 1000.0).round() as i64),
        Literal::Number(n) => Err(bad(n)),
        Literal::Text(s) => {
            if let Ok(n) = s.parse::<f64>() {
                return time(&Literal::Number(n));
            }
            match ScalarValue::Utf8(Some(s.clone())).cast_to(&time_type()) {
                Ok(ScalarValue::TimestampMillisecond(Some(t), _)) => Ok(t),
                _ => Err(bad(s)),
            }
        }
    }
}

fn step(l: &Literal) -> Result<i64, QueryError> {
    let ms = match l {
        Literal::Number(n) if *n > 0.0 && *n < 9.2e12 => (n * 1000.0) as i64,
        Literal::Number(_) => 0,
        Literal::Text(s) => match s.parse::<f64>() {
            Ok(n) => return step(&Literal::Number(n)),
            Err(_) => quiver_model::duration::parse_ms(s).unwrap_or(0),
        },
    };
    if ms <= 0 {
        return Err(QueryError::BadData("the step of promql() must be a positive duration, such as '1m' or 60".into()));
    }
    Ok(ms)
}

/// Evaluates the calls, under the statement's permit and with its memory.
pub async fn evaluate(
    engine: &Engine,
    calls: Vec<Call>,
    permit: &Arc<Permit>,
    pool: &Arc<dyn MemoryPool>,
) -> Result<Answers, QueryError> {
    let held = MemoryConsumer::new("answers of promql()").register(pool);
    let mut tables = HashMap::new();
    for call in calls {
        let name = key(call.instant, &call.arguments);
        if tables.contains_key(&name) {
            continue;
        }
        let options = QueryOptions::default();
        let promql = match (call.instant, call.arguments.as_slice()) {
            (false, [Literal::Text(q), a, b, s]) => {
                let (start, end, step) = (time(a)?, time(b)?, step(s)?);
                if end < start {
                    return Err(QueryError::BadData("promql(): the end is before the start".into()));
                }
                PromqlRequest { query: q.clone(), start, end, step, options }
            }
            (true, [Literal::Text(q), t]) => {
                let t = time(t)?;
                PromqlRequest { query: q.clone(), start: t, end: t, step: 0, options }
            }
            (false, _) => return Err(QueryError::BadData("usage: promql('expression', start, end, step)".into())),
            (true, _) => return Err(QueryError::BadData("usage: promql_instant('expression', time)".into())),
        };
        let text = promql.query.clone();
        let answer = engine.promql_under(permit, pool, promql).await?;
        let columns = match &answer.value {
            AnswerValue::Vector(list) | AnswerValue::Matrix(list) if list.is_empty() => {
                let mut columns = labels_of(engine, &text)?;
                columns.extend(call.mentioned.iter().cloned());
                columns
            }
            _ => BTreeSet::new(),
        };
        let (table, bytes) = mem_table(answer.value, columns).map_err(|e| super::errors::error(&e))?;
        held.try_grow(bytes).map_err(|e| super::errors::error(&e))?;
        tables.insert(name, Arc::new(table));
    }
    Ok(Answers { tables, _held: held })
}

/// Label columns where an answer is empty: those that it may have had. A statement that names one of them is as right on
/// a quiet day as on others.
fn labels_of(engine: &Engine, promql: &str) -> Result<BTreeSet<String>, QueryError> {
    let expr = engine.parse(promql)?;
    if let PromqlExpr::Aggregate(a) = expr.as_ref()
        && !a.without
        && !matches!(a.op, AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio)
    {
        return Ok(a.grouping.iter().cloned().collect());
    }
    let selectors = promql::selectors(&expr);
    if selectors.is_empty() {
        return Ok(BTreeSet::new());
    }
    let names = engine.snapshot().label_names(&selectors, TimeRange::ALL, LABELS_MAX)?;
    Ok(names.into_iter().collect())
}

fn mem_table(value: AnswerValue, columns: BTreeSet<String>) -> Result<(MemTable, usize)> {
    let list = match value {
        AnswerValue::Scalar(t, v) => vec![AnswerSeries { floats: vec![(t, v)], ..Default::default() }],
        AnswerValue::String(..) => return plan_err!("the expression of promql() is a string"),
        AnswerValue::Vector(list) | AnswerValue::Matrix(list) => list,
    };
    let mut names: BTreeSet<&str> = list.iter().flat_map(|s| s.labels.iter().map(|(n, _)| n)).collect();
    names.extend(columns.iter().map(String::as_str));
    let mut fields = vec![Field::new("ts", time_type(), false), Field::new("value", DataType::Float64, true)];
    let labels: Vec<&str> = names.iter().copied().filter(|n| *n != METRIC_NAME).collect();
    let mut columns = label_columns(&labels).into_iter();
    let mut column = |n: &str| if n == METRIC_NAME { "metric".to_owned() } else { columns.next().unwrap_or_default() };
    fields.extend(names.iter().map(|n| Field::new(column(n), text_type(), true)));
    fields.push(Field::new("histogram", DataType::Struct(histogram_fields()), true));

    let mut ts = TimestampMillisecondBuilder::new().with_timezone("UTC");
    let mut values = Float64Builder::new();
    let mut histograms: Vec<Option<Arc<Histogram>>> = Vec::new();
    let mut rows_of = Vec::new();
    for s in &list {
        for (t, v) in &s.floats {
            ts.append_value(*t);
            values.append_value(*v);
            histograms.push(None);
        }
        for (t, h) in &s.histograms {
            ts.append_value(*t);
            values.append_null();
            histograms.push(Some(Arc::clone(h)));
        }
        rows_of.push(s.floats.len() + s.histograms.len());
    }
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(ts.finish()), Arc::new(values.finish())];
    for n in &names {
        let text: Vec<&str> = list.iter().map(|s| s.labels.get(n)).collect();
        let keys: Int32Array = rows_of
            .iter()
            .enumerate()
            .flat_map(|(i, rows)| std::iter::repeat_n(Some(i as i32).filter(|_| !text[i].is_empty()), *rows))
            .collect();
        arrays.push(Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(text)))));
    }
    arrays.push(histogram_array(&histograms));
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays)?;
    let bytes = batch.get_array_memory_size();
    Ok((MemTable::try_new(schema, vec![vec![batch]])?, bytes))
}

/// The table function: looks answers up.
pub struct PromqlFunction {
    instant: bool,
    tables: Tables,
}

impl std::fmt::Debug for PromqlFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PromqlFunction")
    }
}

impl PromqlFunction {
    /// Over answers.
    pub fn new(instant: bool, answers: &Answers) -> Self {
        Self { instant, tables: answers.tables.clone() }
    }
}

fn plan_literal(e: &Expr) -> Option<Literal> {
    match e {
        Expr::Literal(v, _) => match v {
            ScalarValue::Utf8(Some(s)) | ScalarValue::LargeUtf8(Some(s)) | ScalarValue::Utf8View(Some(s)) => {
                Some(Literal::Text(s.clone()))
            }
            number => match number.cast_to(&DataType::Float64) {
                Ok(ScalarValue::Float64(Some(n))) => Some(Literal::Number(n)),
                _ => None,
            },
        },
        Expr::Negative(inner) => match plan_literal(inner)? {
            Literal::Number(n) => Some(Literal::Number(-n)),
            Literal::Text(_) => None,
        },
        _ => None,
    }
}

impl TableFunctionImpl for PromqlFunction {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let literals: Option<Vec<_>> = args.exprs().iter().map(plan_literal).collect();
        match literals.and_then(|l| self.tables.get(&key(self.instant, &l)).cloned()) {
            Some(table) => Ok(table),
            None => plan_err!("the arguments of promql() must be texts and numbers"),
        }
    }
}
