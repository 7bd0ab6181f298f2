//! What is put right before types are made equal: aggregates over labels, orders inside of aggregates that mean nothing,
//! and times finer than a millisecond.
//!
//! * A label is text by number, and several aggregates of DataFusion take text only: they get the text.
//! * `avg(value ORDER BY ts)` is `avg(value)`: the order is dropped where it cannot change the result. DataFusion passes it
//!   on as one more argument, on which the grouped functions panic.
//! * `labels['__name__']` is the metric's name, wherever it stands.
//! * `ts - lag(ts)` is a length of time: `extract(epoch FROM …)` keeps its fraction, and an interval beside it is a length.
//! * `ts` is in milliseconds. A text beside it would be cut to milliseconds, and `ts < '… 00.0005'` would lose the sample at
//!   `00.000`: such a text becomes a time in nanoseconds, and `ts` is compared in those. So it is beside a finer interval.
//! * Patterns, times and functions that PostgreSQL has in another form become the engine's ([`super::patterns`], [`super::times`]).

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::functions_nested::expr_fn::make_array;
use datafusion::logical_expr::expr::{GroupingSet, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, SortExpr, Volatility, WindowFrameBound, WindowFunctionDefinition,
};
use datafusion::optimizer::AnalyzerRule;
use quiver_model::METRIC_NAME;

use super::patterns;
use super::table::map_type;
use super::times;

/// Aggregates whose result does not depend on the order of rows.
const UNORDERED: [&str; 31] = [
    "approx_distinct",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "approx_median",
    "max",
    "median",
    "min",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "sum",
    "var",
    "var_pop",
    "var_samp",
    "covar",
];

/// The rule before types are made equal.
#[derive(Debug)]
pub struct Meaning;

impl AnalyzerRule for Meaning {
    fn name(&self) -> &str {
        "meaning"
    }
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        each_expression(plan, |e, schema| {
            Ok(match e {
                Expr::AggregateFunction(mut a) => {
                    if UNORDERED.contains(&a.func.name()) {
                        a.params.order_by.clear();
                    }
                    if !matches!(a.func.name(), "count" | "grouping") {
                        a.params.args = texts(a.params.args, schema);
                        a.params.order_by = sorted_texts(a.params.order_by, schema);
                    }
                    Transformed::yes(Expr::AggregateFunction(a))
                }
                Expr::WindowFunction(mut w) => {
                    if matches!(&w.fun, WindowFunctionDefinition::AggregateUDF(f) if f.name() != "count") {
                        w.params.args = texts(w.params.args, schema);
                    }
                    Transformed::yes(Expr::WindowFunction(w))
                }
                Expr::ScalarFunction(f) if matches!(f.name(), "get_field" | "map_extract") => metric_name(f, schema)?,
                Expr::ScalarFunction(f) if f.name() == "date_part" => seconds(f, schema),
                Expr::ScalarFunction(f) => function(f, schema)?,
                Expr::SimilarTo(like) => Transformed::yes(patterns::similar(like)?),
                Expr::Like(like) if like.escape_char.is_some() => {
                    Transformed::yes(Expr::Like(patterns::escaped(like)?))
                }
                Expr::Cast(c) => match times::of_cast(&c) {
                    Some(time) => Transformed::yes(time),
                    None => Transformed::yes(times::rounded(c, schema)),
                },
                Expr::BinaryExpr(b) if arithmetic(b.op) => calculated(b, schema)?,
                e => exact_time(e, schema),
            })
        })
    }
}

/// The rule after types were made equal: a `ts` that is compared in a finer unit.
#[derive(Debug)]
pub struct FineTimes;

impl AnalyzerRule for FineTimes {
    fn name(&self) -> &str {
        "fine_times"
    }
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        each_expression(plan, |e, schema| {
            let finer = |e: Box<Expr>| Box::new(finer(*e, schema));
            Ok(match e {
                Expr::BinaryExpr(b) if compares(b.op) => Transformed::yes(Expr::BinaryExpr(BinaryExpr {
                    left: finer(b.left),
                    op: b.op,
                    right: finer(b.right),
                })),
                Expr::Between(mut b) => {
                    (b.expr, b.low, b.high) = (finer(b.expr), finer(b.low), finer(b.high));
                    Transformed::yes(Expr::Between(b))
                }
                Expr::InList(mut l) => {
                    l.expr = finer(l.expr);
                    Transformed::yes(Expr::InList(l))
                }
                Expr::WindowFunction(mut w) => {
                    let of = |b: &WindowFrameBound| match b {
                        WindowFrameBound::Preceding(v) | WindowFrameBound::Following(v) => fine_unit(v),
                        WindowFrameBound::CurrentRow => None,
                    };
                    let frame = &w.params.window_frame;
                    let unit = of(&frame.start_bound).max(of(&frame.end_bound));
                    match (unit, w.params.order_by.as_mut_slice()) {
                        (Some(unit), [by]) => by.expr = in_unit(std::mem::take(&mut by.expr), unit, schema),
                        _ => return Ok(Transformed::no(Expr::WindowFunction(w))),
                    }
                    Transformed::yes(Expr::WindowFunction(w))
                }
                Expr::Cast(c) => Transformed::yes(times::text_of(c, schema)),
                e => Transformed::no(e),
            })
        })
    }
}

fn each_expression(plan: LogicalPlan, f: impl Fn(Expr, &DFSchema) -> Result<Transformed<Expr>>) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|plan| {
        let schema = merge_schema(&plan.inputs());
        let names = NamePreserver::new(&plan);
        let plan = plan.map_expressions(|e| under_its_name(&names, e, &|e| f(e, &schema)))?;
        if plan.transformed { plan.map_data(LogicalPlan::recompute_schema) } else { Ok(plan) }
    })?;
    Ok(done.data)
}

/// The expression with all in it changed by `f`, under the name it had. Those of a grouping set have names of their own.
pub fn under_its_name(
    names: &NamePreserver,
    e: Expr,
    f: &dyn Fn(Expr) -> Result<Transformed<Expr>>,
) -> Result<Transformed<Expr>> {
    let Expr::GroupingSet(set) = e else {
        let name = names.save(&e);
        return Ok(e.transform_up(f)?.update_data(|e| name.restore(e)));
    };
    let mut is_changed = false;
    let mut each = |list: Vec<Expr>| -> Result<Vec<Expr>> {
        let changed = list.into_iter().map(|e| {
            let done = under_its_name(names, e, f)?;
            is_changed |= done.transformed;
            Ok(done.data)
        });
        changed.collect()
    };
    let set = match set {
        GroupingSet::Rollup(list) => GroupingSet::Rollup(each(list)?),
        GroupingSet::Cube(list) => GroupingSet::Cube(each(list)?),
        GroupingSet::GroupingSets(lists) => {
            GroupingSet::GroupingSets(lists.into_iter().map(each).collect::<Result<_>>()?)
        }
    };
    let set = Expr::GroupingSet(set);
    Ok(if is_changed { Transformed::yes(set) } else { Transformed::no(set) })
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn text(e: Expr, schema: &DFSchema) -> Expr {
    match e.get_type(schema) {
        Ok(DataType::Dictionary(_, of)) => Expr::Cast(Cast::new(Box::new(e), *of)),
        _ => e,
    }
}

fn texts(list: Vec<Expr>, schema: &DFSchema) -> Vec<Expr> {
    list.into_iter().map(|e| text(e, schema)).collect()
}

fn sorted_texts(list: Vec<SortExpr>, schema: &DFSchema) -> Vec<SortExpr> {
    list.into_iter().map(|s| SortExpr { expr: text(s.expr, schema), ..s }).collect()
}

/// `labels['__name__']` is the metric's name, which is a column of its own and not in the map.
fn metric_name(f: ScalarFunction, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let is_list = f.name() == "map_extract";
    let labels = match f.args.as_slice() {
        [Expr::Column(c), Expr::Literal(key, _)] if key.try_as_str() == Some(Some(METRIC_NAME)) => c,
        _ => return Ok(Transformed::no(Expr::ScalarFunction(f))),
    };
    if !Expr::Column(labels.clone()).get_type(schema).is_ok_and(|t| t == map_type()) {
        return Ok(Transformed::no(Expr::ScalarFunction(f)));
    }
    let metric = Column::new(labels.relation.clone(), "metric");
    if !schema.has_column(&metric) {
        return plan_err!("labels['{METRIC_NAME}'] is the column metric, which is not selected here beside labels");
    }
    let name = Expr::Cast(Cast::new(Box::new(Expr::Column(metric)), DataType::Utf8));
    Ok(Transformed::yes(if is_list { make_array(vec![name]) } else { name }))
}

/// Texts beside a time in milliseconds, as times.
fn exact_time(e: Expr, schema: &DFSchema) -> Transformed<Expr> {
    match e {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => {
            let (left, right) = lengths(left, right, schema);
            let (left, right) = dates(left, right, schema);
            let zone = |e: &Expr| zone_of_milliseconds(e, schema);
            let (left, right) = match (&*left, &*right) {
                (_, Expr::Literal(..)) => {
                    let right = zone(&left)
                        .and_then(|z| times::beside_milliseconds(&right, z.as_ref()))
                        .map_or(right, Box::new);
                    (left, right)
                }
                (Expr::Literal(..), _) => {
                    let left =
                        zone(&right).and_then(|z| times::beside_milliseconds(&left, z.as_ref())).map_or(left, Box::new);
                    (left, right)
                }
                _ => (left, right),
            };
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
        }
        Expr::Between(mut b) => match zone_of_milliseconds(&b.expr, schema) {
            Some(zone) => {
                for bound in [&mut b.low, &mut b.high] {
                    if matches!(bound.get_type(schema), Ok(DataType::Date32)) {
                        let day = std::mem::take(bound);
                        **bound = time_of_day(day, zone.clone());
                    }
                    if let Some(t) = times::beside_milliseconds(bound, zone.as_ref()) {
                        **bound = t;
                    }
                }
                Transformed::yes(Expr::Between(b))
            }
            None => Transformed::no(Expr::Between(b)),
        },
        Expr::InList(mut l) => match zone_of_milliseconds(&l.expr, schema) {
            Some(zone) => {
                for item in &mut l.list {
                    if matches!(item.get_type(schema), Ok(DataType::Date32)) {
                        *item = time_of_day(Box::new(std::mem::take(item)), zone.clone());
                    }
                    if let Some(t) = times::beside_milliseconds(item, zone.as_ref()) {
                        *item = t;
                    }
                }
                Transformed::yes(Expr::InList(l))
            }
            None => Transformed::no(Expr::InList(l)),
        },
        e => Transformed::no(e),
    }
}

/// `extract(second FROM ts)` and `extract(epoch FROM ts - lag(ts))` with the fraction, which DataFusion drops.
fn seconds(mut f: ScalarFunction, schema: &DFSchema) -> Transformed<Expr> {
    if let [Expr::Literal(part, _), of] = f.args.as_mut_slice()
        && part.try_as_str().flatten().is_some_and(|p| matches!(p.to_ascii_lowercase().as_str(), "second" | "seconds"))
        && matches!(of.get_type(schema), Ok(DataType::Timestamp(..)))
    {
        *part = ScalarValue::Utf8(Some("microsecond".into()));
        let count = Expr::Cast(Cast::new(Box::new(Expr::ScalarFunction(f)), DataType::Float64));
        return Transformed::yes(count / Expr::Literal(ScalarValue::Float64(Some(1e6)), None));
    }
    let unit = match f.args.as_slice() {
        [Expr::Literal(part, _), of]
            if part.try_as_str().flatten().is_some_and(|p| p.eq_ignore_ascii_case("epoch")) =>
        {
            match of.get_type(schema) {
                Ok(DataType::Duration(unit)) => unit,
                _ => return Transformed::no(Expr::ScalarFunction(f)),
            }
        }
        _ => return Transformed::no(Expr::ScalarFunction(f)),
    };
    let cast = |e: Expr, to| Expr::Cast(Cast::new(Box::new(e), to));
    let count = f.args.into_iter().nth(1).map(|of| cast(cast(of, DataType::Int64), DataType::Float64));
    let second = Expr::Literal(ScalarValue::Float64(Some(per_second(unit) as f64)), None);
    Transformed::yes(count.map_or_else(null, |c| c / second))
}

/// Functions that PostgreSQL knows in another way.
fn function(mut f: ScalarFunction, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match f.name() {
        // PostgreSQL's clock has microseconds, and so `now() + interval '1000 years'` is a time.
        "now" => {
            let DataType::Timestamp(_, zone) = Expr::ScalarFunction(f.clone()).get_type(schema)? else {
                return Ok(Transformed::no(Expr::ScalarFunction(f)));
            };
            let to = DataType::Timestamp(TimeUnit::Microsecond, zone);
            return Ok(Transformed::yes(Expr::Cast(Cast::new(Box::new(Expr::ScalarFunction(f)), to))));
        }
        "coalesce" | "greatest" | "least" | "nullif" => {
            let Some(zone) = f.args.iter().find_map(|a| zone_of_milliseconds(a, schema)) else {
                return Ok(Transformed::no(Expr::ScalarFunction(f)));
            };
            for arg in &mut f.args {
                if let Some(time) = times::beside_milliseconds(arg, zone.as_ref()) {
                    *arg = time;
                }
            }
        }
        "to_char" => {
            if let Some(Some(pattern)) = f.args.get(1).and_then(patterns::constant) {
                f.args[1] = Expr::Literal(ScalarValue::Utf8(Some(patterns::to_char(pattern)?)), None);
            }
        }
        "date_bin" => {
            if let Some(Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(i)), _)) = f.args.first()
                && (i.months, i.days, i.nanoseconds) <= (0, 0, 0)
            {
                return plan_err!("the interval of date_bin has to be greater than zero");
            }
        }
        "mod" if f.args.len() == 2 => {
            let (Some(b), Some(a)) = (f.args.pop(), f.args.pop()) else { return plan_err!("mod takes two numbers") };
            return Ok(Transformed::yes(a % b));
        }
        _ => return Ok(Transformed::no(Expr::ScalarFunction(f))),
    }
    Ok(Transformed::yes(Expr::ScalarFunction(f)))
}

fn arithmetic(op: Operator) -> bool {
    matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply)
}

/// The unit that an interval needs, if it is finer than a millisecond.
fn fine_unit(v: &ScalarValue) -> Option<TimeUnit> {
    let ScalarValue::IntervalMonthDayNano(Some(i)) = v else { return None };
    match i.nanoseconds {
        ns if ns % 1_000_000 == 0 => None,
        ns if ns % 1_000 == 0 => Some(TimeUnit::Microsecond),
        _ => Some(TimeUnit::Nanosecond),
    }
}

/// A time in milliseconds, in a finer unit; anything else as it is.
fn in_unit(e: Expr, unit: TimeUnit, schema: &DFSchema) -> Expr {
    match zone_of_milliseconds(&e, schema) {
        Some(zone) => fine(e, DataType::Timestamp(unit, zone)),
        None => e,
    }
}

/// Sums with an interval finer than a millisecond, which is not cut, and of constants that are out of range.
fn calculated(b: BinaryExpr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let BinaryExpr { left, op, right } = b;
    if let (Expr::Literal(ScalarValue::Int64(Some(a)), _), Expr::Literal(ScalarValue::Int64(Some(b)), _)) =
        (&*left, &*right)
    {
        let result = match op {
            Operator::Plus => a.checked_add(*b),
            Operator::Minus => a.checked_sub(*b),
            _ => a.checked_mul(*b),
        };
        if result.is_none() {
            return plan_err!("{a} {op} {b} is out of range of bigint");
        }
    }
    let unit = |e: &Expr| match e {
        Expr::Literal(v, _) => fine_unit(v),
        _ => None,
    };
    let (left, right) = match (unit(&left), unit(&right)) {
        (None, Some(unit)) => (Box::new(in_unit(*left, unit, schema)), right),
        (Some(unit), None) => (left, Box::new(in_unit(*right, unit, schema))),
        _ => return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }))),
    };
    Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right })))
}

fn null() -> Expr {
    Expr::Literal(ScalarValue::Null, None)
}

/// An interval beside a length of time as a length: DataFusion makes an interval of the length, whose days are all 0, and
/// compares days first. A month is 30 days, as where PostgreSQL compares intervals.
fn lengths(left: Box<Expr>, right: Box<Expr>, schema: &DFSchema) -> (Box<Expr>, Box<Expr>) {
    let is_length = |e: &Expr| matches!(e.get_type(schema), Ok(DataType::Duration(_)));
    let length = |e: Box<Expr>| match *e {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(i)), _) => {
            let days = i128::from(i.months) * 30 + i128::from(i.days);
            let ns = days * 86_400_000_000_000 + i128::from(i.nanoseconds);
            match i64::try_from(ns) {
                Ok(ns) => Box::new(Expr::Literal(ScalarValue::DurationNanosecond(Some(ns)), None)),
                Err(_) => e,
            }
        }
        _ => e,
    };
    match (is_length(&left), is_length(&right)) {
        (true, false) => (left, length(right)),
        (false, true) => (length(left), right),
        _ => (left, right),
    }
}

/// A day beside a time in milliseconds as such a time: nanoseconds do not hold all days.
fn dates(left: Box<Expr>, right: Box<Expr>, schema: &DFSchema) -> (Box<Expr>, Box<Expr>) {
    let is_date = |e: &Expr| matches!(e.get_type(schema), Ok(DataType::Date32));
    match (zone_of_milliseconds(&left, schema), zone_of_milliseconds(&right, schema)) {
        (Some(zone), None) if is_date(&right) => (left, Box::new(time_of_day(right, zone))),
        (None, Some(zone)) if is_date(&left) => (Box::new(time_of_day(left, zone)), right),
        _ => (left, right),
    }
}

fn time_of_day(day: Box<Expr>, zone: Option<Arc<str>>) -> Expr {
    Expr::Cast(Cast::new(day, DataType::Timestamp(TimeUnit::Millisecond, zone)))
}

/// The zone of an expression that is a time in milliseconds.
fn zone_of_milliseconds(e: &Expr, schema: &DFSchema) -> Option<Option<Arc<str>>> {
    match e.get_type(schema) {
        Ok(DataType::Timestamp(TimeUnit::Millisecond, zone)) => Some(zone),
        _ => None,
    }
}

/// `e`, but a cast of a time to a finer unit stops at the ends of that unit instead of failing, and stays where it is: the
/// optimiser would cast the other side to the coarser unit and cut it.
fn finer(e: Expr, schema: &DFSchema) -> Expr {
    let Expr::Cast(cast) = e else { return e };
    let to = cast.field.data_type().clone();
    match (cast.expr.get_type(schema), &to) {
        (Ok(DataType::Timestamp(from, _)), DataType::Timestamp(unit, _))
            if per_second(*unit) > per_second(from)
                && !matches!(*cast.expr, Expr::Literal(..))
                && !cast.expr.column_refs().is_empty() =>
        {
            fine(*cast.expr, to)
        }
        _ => Expr::Cast(cast),
    }
}

fn fine(e: Expr, to: DataType) -> Expr {
    let function = ScalarUDF::new_from_impl(Finer { to, signature: SIGNATURE.clone() });
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), vec![e]))
}

static SIGNATURE: LazyLock<Signature> = LazyLock::new(|| Signature::any(1, Volatility::Immutable));

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// A time in a finer unit. See [`finer`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Finer {
    to: DataType,
    signature: Signature,
}

impl Finer {
    fn of(&self, array: &ArrayRef) -> Result<ArrayRef> {
        use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
        let (DataType::Timestamp(from, _), DataType::Timestamp(to, zone)) = (array.data_type(), &self.to) else {
            return Ok(arrow::compute::cast(array, &self.to)?);
        };
        let factor = per_second(*to) / per_second(*from);
        let f = |t: i64| t.saturating_mul(factor);
        macro_rules! fine {
            ($from:ty, $to:ty) => {
                Arc::new(array.as_primitive::<$from>().unary::<_, $to>(f).with_timezone_opt(zone.clone())) as ArrayRef
            };
        }
        Ok(match (from, to) {
            (Second, Millisecond) => fine!(TimestampSecondType, TimestampMillisecondType),
            (Second, Microsecond) => fine!(TimestampSecondType, TimestampMicrosecondType),
            (Second, Nanosecond) => fine!(TimestampSecondType, TimestampNanosecondType),
            (Millisecond, Microsecond) => fine!(TimestampMillisecondType, TimestampMicrosecondType),
            (Millisecond, Nanosecond) => fine!(TimestampMillisecondType, TimestampNanosecondType),
            (Microsecond, Nanosecond) => fine!(TimestampMicrosecondType, TimestampNanosecondType),
            _ => arrow::compute::cast(array, &self.to)?,
        })
    }
}

impl ScalarUDFImpl for Finer {
    fn name(&self) -> &str {
        "fine_time"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.clone())
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        super::float_order::by_array(&args, |a| self.of(a))
    }
}

/// The time that an expression of [`Finer`] is made of.
pub fn coarse(e: &Expr) -> Option<&Expr> {
    match e {
        Expr::ScalarFunction(f) if f.func.inner().as_ref().is::<Finer>() => f.args.first(),
        _ => None,
    }
}
