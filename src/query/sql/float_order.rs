//! One order of floats in every operator: PostgreSQL's. NaN equals itself and is greater than all others, −0 equals 0.
//!
//! Arrow compares bits: a NaN with its sign set (what x86 makes of `Inf - Inf`) is less than −Inf, NaNs of other bits are
//! other values, and −0 is less than 0. So wherever a float is compared, sorted, grouped or joined, its key takes its
//! place: every NaN the same one, −0 as 0. What a statement returns is the value itself, except for a key of `GROUP BY` or
//! `DISTINCT`. Floats in lists and structs are compared in the same way. A cast to a whole number rounds, as PostgreSQL's.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, make_array};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{AggregateFunction, Alias, GroupingSet, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Case, ColumnarValue, Distinct, Expr, ExprSchemable, LogicalPlan, Operator, Projection,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, SortExpr, Volatility, WindowFunctionDefinition,
};
use datafusion::optimizer::AnalyzerRule;

use super::meaning::under_its_name;

/// What is compared in the place of a float.
#[inline]
pub fn key(x: f64) -> f64 {
    if x.is_nan() { f64::NAN } else { x + 0.0 }
}

/// A whole number in the order of [`key`].
#[inline]
pub fn rank(x: f64) -> i64 {
    flip(key(x).to_bits() as i64)
}

/// The float of a [`rank`].
#[inline]
pub fn of_rank(rank: i64) -> f64 {
    f64::from_bits(flip(rank) as u64)
}

#[inline]
fn flip(bits: i64) -> i64 {
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// What is made of a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Made {
    Key,
    /// For functions that take no floats.
    Rank,
    /// The nearest whole number, the even one of two.
    Whole,
}

/// A float as something else of it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FloatFunction {
    made: Made,
    signature: Signature,
}

impl FloatFunction {
    fn shared(made: Made) -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::new_from_impl(Self { made, signature: Signature::any(1, Volatility::Immutable) }))
    }

    fn of(&self, array: &ArrayRef) -> Result<ArrayRef> {
        macro_rules! unary {
            ($from:ty, $to:ty, $f:expr) => {
                Arc::new(array.as_primitive::<$from>().unary::<_, $to>($f)) as ArrayRef
            };
        }
        Ok(match (array.data_type(), self.made) {
            (DataType::Float64, Made::Key) => unary!(Float64Type, Float64Type, key),
            (DataType::Float64, Made::Rank) => unary!(Float64Type, Int64Type, rank),
            (DataType::Float64, Made::Whole) => unary!(Float64Type, Float64Type, f64::round_ties_even),
            (DataType::Float32, Made::Key) => unary!(Float32Type, Float32Type, |x| key(x.into()) as f32),
            (DataType::Float32, Made::Rank) => unary!(Float32Type, Int64Type, |x| rank(x.into())),
            (DataType::Float32, Made::Whole) => unary!(Float32Type, Float32Type, f32::round_ties_even),
            (t, Made::Key) if is_float_type(t) => return self.of_parts(array),
            _ => Arc::clone(array),
        })
    }

    /// A list or a struct with the keys of the floats in it.
    fn of_parts(&self, array: &ArrayRef) -> Result<ArrayRef> {
        let data = array.to_data();
        let parts = data.child_data().iter().map(|d| Ok(self.of(&make_array(d.clone()))?.to_data()));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        Ok(make_array(data.into_builder().child_data(parts).build()?))
    }
}

static KEY: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| FloatFunction::shared(Made::Key));
static RANK: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| FloatFunction::shared(Made::Rank));
static WHOLE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| FloatFunction::shared(Made::Whole));

impl ScalarUDFImpl for FloatFunction {
    fn name(&self) -> &str {
        match self.made {
            Made::Key => "float_key",
            Made::Rank => "float_rank",
            Made::Whole => "float_whole",
        }
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(if self.made == Made::Rank { DataType::Int64 } else { types[0].clone() })
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        by_array(&args, |a| self.of(a))
    }
}

/// A function of one argument, made of one that takes arrays.
pub fn by_array(args: &ScalarFunctionArgs, of: impl Fn(&ArrayRef) -> Result<ArrayRef>) -> Result<ColumnarValue> {
    Ok(match &args.args[0] {
        ColumnarValue::Array(a) => ColumnarValue::Array(of(a)?),
        ColumnarValue::Scalar(s) => ColumnarValue::Scalar(ScalarValue::try_from_array(&of(&s.to_array()?)?, 0)?),
    })
}

/// A float, or a list or struct with floats in it.
fn is_float_type(t: &DataType) -> bool {
    match t {
        DataType::Float64 | DataType::Float32 => true,
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) => is_float_type(f.data_type()),
        DataType::Struct(fields) => fields.iter().any(|f| is_float_type(f.data_type())),
        _ => false,
    }
}

fn is_plain_float(e: &Expr, schema: &DFSchema) -> bool {
    e.get_type(schema).is_ok_and(|t| matches!(t, DataType::Float64 | DataType::Float32))
}

fn is_float(e: &Expr, schema: &DFSchema) -> bool {
    e.get_type(schema).is_ok_and(|t| is_float_type(&t))
}

fn is_key(e: &Expr) -> bool {
    matches!(e, Expr::ScalarFunction(f) if f.func == *KEY)
}

/// The key of a float expression.
fn keyed(e: Expr) -> Expr {
    match e {
        Expr::Literal(ScalarValue::Float64(Some(v)), m) => Expr::Literal(ScalarValue::Float64(Some(key(v))), m),
        e if is_key(&e) => e,
        e => Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&KEY), vec![e])),
    }
}

fn keyed_if_float(e: Expr, schema: &DFSchema) -> Expr {
    if is_float(&e, schema) { keyed(e) } else { e }
}

/// The keys of a sort. One that is there twice decides nothing the second time, and the planner counts it once.
fn keyed_sorts(sorts: Vec<SortExpr>, schema: &DFSchema) -> Vec<SortExpr> {
    let mut keys: Vec<SortExpr> = Vec::with_capacity(sorts.len());
    for s in sorts {
        let expr = keyed_if_float(s.expr, schema);
        if keys.iter().all(|k| k.expr != expr) {
            keys.push(SortExpr { expr, ..s });
        }
    }
    keys
}

/// Aggregates of which the order of floats decides the result. `min` and `max` know it themselves.
const ORDERED_AGGREGATES: [&str; 4] = ["median", "percentile_cont", "approx_median", "approx_percentile_cont"];

/// Functions that compare what is in lists.
const LIST_FUNCTIONS: [&str; 15] = [
    "array_position",
    "array_positions",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_remove",
    "array_remove_all",
    "array_remove_n",
    "array_distinct",
    "array_union",
    "array_intersect",
    "array_except",
    "array_max",
    "array_min",
    "array_sort",
];

/// The rule. It runs after types were made equal.
#[derive(Debug)]
pub struct FloatOrder;

impl AnalyzerRule for FloatOrder {
    fn name(&self) -> &str {
        "float_order"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(node)?.data)
    }
}

fn node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = merge_schema(&plan.inputs());
    let names = NamePreserver::new(&plan);
    let plan = plan.map_expressions(|e| under_its_name(&names, e, &|e| expression(e, &schema)))?;
    let changed = plan.transformed;
    let plan = match plan.data {
        LogicalPlan::Sort(mut sort) => {
            sort.expr = keyed_sorts(sort.expr, &schema);
            LogicalPlan::Sort(sort)
        }
        LogicalPlan::Aggregate(a) if a.group_expr.iter().any(|e| groups_floats(e, &schema)) => {
            let group = a.group_expr.into_iter().map(|e| grouped(e, &schema)).collect();
            LogicalPlan::Aggregate(Aggregate::try_new(a.input, group, a.aggr_expr)?)
        }
        LogicalPlan::Join(mut join) => {
            join.on = join
                .on
                .into_iter()
                .map(|(l, r)| if is_float(&l, &schema) { (keyed(l), keyed(r)) } else { (l, r) })
                .collect();
            LogicalPlan::Join(join)
        }
        LogicalPlan::Distinct(Distinct::All(input)) => LogicalPlan::Distinct(Distinct::All(projected(input)?)),
        LogicalPlan::Distinct(Distinct::On(mut on)) => {
            on.on_expr = on.on_expr.into_iter().map(|e| keyed_if_float(e, &schema)).collect();
            on.sort_expr = on.sort_expr.map(|s| keyed_sorts(s, &schema));
            LogicalPlan::Distinct(Distinct::On(on))
        }
        other if changed => return Ok(Transformed::yes(other.recompute_schema()?)),
        other => return Ok(Transformed::no(other)),
    };
    Ok(Transformed::yes(plan.recompute_schema()?))
}

/// The plan with the key of each float column under the column's name.
fn projected(input: Arc<LogicalPlan>) -> Result<Arc<LogicalPlan>> {
    if !input.schema().fields().iter().any(|f| is_float_type(f.data_type())) {
        return Ok(input);
    }
    let columns = input.schema().iter().map(|(relation, field)| {
        let column = Expr::Column((relation, field).into());
        if is_float_type(field.data_type()) {
            keyed(column).alias_qualified(relation.cloned(), field.name())
        } else {
            column
        }
    });
    let columns = columns.collect();
    Ok(Arc::new(LogicalPlan::Projection(Projection::try_new(columns, input)?)))
}

fn groups_floats(e: &Expr, schema: &DFSchema) -> bool {
    match e {
        Expr::GroupingSet(GroupingSet::Rollup(list) | GroupingSet::Cube(list)) => {
            list.iter().any(|e| groups_floats(e, schema))
        }
        Expr::GroupingSet(GroupingSet::GroupingSets(lists)) => lists.iter().flatten().any(|e| groups_floats(e, schema)),
        e => is_float(e, schema),
    }
}

fn grouped(e: Expr, schema: &DFSchema) -> Expr {
    let all = |list: Vec<Expr>| list.into_iter().map(|e| grouped(e, schema)).collect::<Vec<_>>();
    match e {
        Expr::GroupingSet(GroupingSet::Rollup(list)) => Expr::GroupingSet(GroupingSet::Rollup(all(list))),
        Expr::GroupingSet(GroupingSet::Cube(list)) => Expr::GroupingSet(GroupingSet::Cube(all(list))),
        Expr::GroupingSet(GroupingSet::GroupingSets(lists)) => {
            Expr::GroupingSet(GroupingSet::GroupingSets(lists.into_iter().map(all).collect()))
        }
        Expr::Alias(Alias { expr, relation, name, .. }) if is_float(&expr, schema) => {
            keyed(*expr).alias_qualified(relation, name)
        }
        e if is_float(&e, schema) => {
            let (relation, name) = e.qualified_name();
            keyed(e).alias_qualified(relation, name)
        }
        e => e,
    }
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn boxed(e: Expr) -> Box<Expr> {
    Box::new(keyed(e))
}

fn whole(e: Expr) -> Box<Expr> {
    Box::new(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&WHOLE), vec![e])))
}

/// `nullif` compares.
fn null_if(mut f: ScalarFunction, schema: &DFSchema) -> Result<Expr> {
    let (Some(b), Some(a)) = (f.args.pop(), f.args.pop()) else { return Ok(Expr::ScalarFunction(f)) };
    let null = Expr::Literal(ScalarValue::try_from(&a.get_type(schema)?)?, None);
    let is_same = keyed(a.clone()).eq(keyed_if_float(b, schema));
    Ok(Expr::Case(Case {
        expr: None,
        when_then_expr: vec![(Box::new(is_same), Box::new(null))],
        else_expr: Some(Box::new(a)),
    }))
}

fn aggregate(mut a: AggregateFunction, schema: &DFSchema) -> AggregateFunction {
    let is_sketch = a.func.name() == "approx_distinct";
    if a.params.distinct || is_sketch || ORDERED_AGGREGATES.contains(&a.func.name()) {
        a.params.args = a.params.args.into_iter().map(|e| keyed_if_float(e, schema)).collect();
    }
    if is_sketch {
        // It takes whole numbers.
        for arg in &mut a.params.args {
            if let Expr::ScalarFunction(f) = arg
                && f.func == *KEY
                && f.args.iter().all(|a| is_plain_float(a, schema))
            {
                f.func = Arc::clone(&RANK);
            }
        }
    }
    a.params.order_by = keyed_sorts(a.params.order_by, schema);
    a
}

fn expression(e: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let all = |list: Vec<Expr>| list.into_iter().map(|e| keyed_if_float(e, schema)).collect::<Vec<_>>();
    Ok(Transformed::yes(match e {
        // A condition on the outer row is taken apart by the planner, which knows columns and no functions of them.
        Expr::BinaryExpr(b)
            if compares(b.op) && is_float(&b.left, schema) && !b.left.contains_outer() && !b.right.contains_outer() =>
        {
            Expr::BinaryExpr(BinaryExpr { left: boxed(*b.left), op: b.op, right: boxed(*b.right) })
        }
        Expr::Between(mut b) if is_float(&b.expr, schema) => {
            (b.expr, b.low, b.high) = (boxed(*b.expr), boxed(*b.low), boxed(*b.high));
            Expr::Between(b)
        }
        Expr::InList(mut l) if is_float(&l.expr, schema) => {
            (l.expr, l.list) = (boxed(*l.expr), all(l.list));
            Expr::InList(l)
        }
        Expr::InSubquery(mut s) if is_float(&s.expr, schema) => {
            s.expr = boxed(*s.expr);
            s.subquery.subquery = projected(s.subquery.subquery)?;
            Expr::InSubquery(s)
        }
        Expr::Case(Case { expr: Some(of), when_then_expr, else_expr }) if is_float(&of, schema) => Expr::Case(Case {
            expr: Some(boxed(*of)),
            when_then_expr: when_then_expr.into_iter().map(|(w, t)| (boxed(*w), t)).collect(),
            else_expr,
        }),
        Expr::ScalarFunction(mut f)
            if matches!(f.name(), "greatest" | "least") && f.args.iter().all(|a| is_float(a, schema)) =>
        {
            f.args = all(f.args);
            Expr::ScalarFunction(f)
        }
        Expr::ScalarFunction(f) if f.name() == "nullif" && f.args.len() == 2 && is_float(&f.args[0], schema) => {
            null_if(f, schema)?
        }
        Expr::ScalarFunction(mut f) if LIST_FUNCTIONS.contains(&f.name()) => {
            f.args = all(f.args);
            Expr::ScalarFunction(f)
        }
        // Half a double goes to the even side; a constant is a decimal in PostgreSQL, and half of it goes up.
        Expr::ScalarFunction(mut f)
            if f.name() == "round"
                && f.args.len() == 1
                && is_plain_float(&f.args[0], schema)
                && !matches!(f.args[0], Expr::Literal(..)) =>
        {
            f.func = Arc::clone(&WHOLE);
            Expr::ScalarFunction(f)
        }
        // PostgreSQL rounds where Arrow cuts.
        Expr::Cast(mut c)
            if c.field.data_type().is_integer()
                && matches!(*c.expr, Expr::Literal(ScalarValue::Float64(Some(_)), _)) =>
        {
            if let Expr::Literal(ScalarValue::Float64(Some(v)), _) = c.expr.as_mut() {
                *v = v.round();
            }
            Expr::Cast(c)
        }
        Expr::Cast(mut c) if c.field.data_type().is_integer() && is_float(&c.expr, schema) => {
            c.expr = whole(*c.expr);
            Expr::Cast(c)
        }
        Expr::TryCast(mut c) if c.field.data_type().is_integer() && is_float(&c.expr, schema) => {
            c.expr = whole(*c.expr);
            Expr::TryCast(c)
        }
        Expr::AggregateFunction(a) => Expr::AggregateFunction(aggregate(a, schema)),
        Expr::WindowFunction(mut w) => {
            if w.params.distinct && matches!(w.fun, WindowFunctionDefinition::AggregateUDF(_)) {
                w.params.args = all(w.params.args);
            }
            w.params.partition_by = all(w.params.partition_by);
            w.params.order_by = keyed_sorts(w.params.order_by, schema);
            Expr::WindowFunction(w)
        }
        e => return Ok(Transformed::no(e)),
    }))
}
