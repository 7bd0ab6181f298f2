//! `min` and `max` in the one order of floats, grouped or not; sums over a moving window ([`super::moving`]); `corr`.
//!
//! DataFusion's own begin a group at the least and the greatest finite number, so the minimum of `+Inf` alone is
//! 1.797e308, and take whatever follows a NaN. These rank floats as whole numbers ([`super::float_order::rank`]) and let
//! DataFusion compare those: half a nanosecond a row more than its own floats. Sums of `bigint` are made of 128 bits, and one that 64
//! do not hold is an error. Every other type is left to DataFusion.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Float32Type, Float64Type, Int64Type};
use datafusion::common::{ScalarValue, exec_datafusion_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::functions_aggregate::average::avg_udaf;
use datafusion::functions_aggregate::correlation::corr_udaf;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::functions_aggregate::stddev::{stddev_pop_udaf, stddev_udaf};
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::functions_aggregate::variance::{var_pop_udaf, var_samp_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs,
};

use super::float_order::{of_rank, rank};
use super::moving::{Moving, Statistic};

/// `min`, `max`, the sums that move, and `corr`.
pub fn functions() -> Vec<AggregateUDF> {
    let replaced = |f: Arc<AggregateUDF>, is_extreme| {
        AggregateUDF::new_from_impl(Replaced { inner: f.as_ref().clone(), is_extreme })
    };
    let extremes = [min_udaf(), max_udaf()].map(|f| replaced(f, true));
    let one_by_one = replaced(corr_udaf(), false);
    let sums = [avg_udaf(), stddev_udaf(), stddev_pop_udaf(), var_samp_udaf(), var_pop_udaf(), sum_udaf()];
    extremes.into_iter().chain(sums.map(|f| replaced(f, false))).chain([one_by_one]).collect()
}

/// A function of DataFusion's, some of whose accumulators are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Replaced {
    inner: AggregateUDF,
    is_extreme: bool,
}

fn is_float(t: &DataType) -> bool {
    matches!(t, DataType::Float64 | DataType::Float32)
}

/// The type that a function takes in the place of another: ranks of floats, and sums that 64 bits may not hold.
fn replacement(f: &Replaced, args: &AccumulatorArgs) -> Option<DataType> {
    let to = args.return_field.data_type();
    if f.is_extreme && is_float(to) {
        return Some(DataType::Int64);
    }
    let is_whole = args.expr_fields.first().is_some_and(|f| *f.data_type() == DataType::Int64);
    (f.name() == "sum" && *to == DataType::Int64 && is_whole).then_some(WIDE)
}

/// Whole numbers of which the sum of as many as there may be has its place.
const WIDE: DataType = DataType::Decimal128(38, 0);

/// The arguments of a function over what is put in.
fn over_converted<'a>(args: &AccumulatorArgs<'a>, field: &FieldRef, fields: &'a [FieldRef]) -> AccumulatorArgs<'a> {
    AccumulatorArgs {
        return_field: Arc::clone(field),
        schema: args.schema,
        ignore_nulls: args.ignore_nulls,
        order_bys: args.order_bys,
        is_reversed: args.is_reversed,
        name: args.name,
        is_distinct: args.is_distinct,
        exprs: args.exprs,
        expr_fields: fields,
    }
}

/// Arguments as the inner function takes them, for results of the type `to`: floats as ranks, whole numbers as wide ones.
fn converted(arrays: &[ArrayRef], to: &DataType) -> Result<Vec<ArrayRef>> {
    arrays
        .iter()
        .map(|a| -> Result<ArrayRef> {
            Ok(match a.data_type() {
                DataType::Float64 => Arc::new(a.as_primitive::<Float64Type>().unary::<_, Int64Type>(rank)),
                DataType::Float32 => {
                    Arc::new(a.as_primitive::<Float32Type>().unary::<_, Int64Type>(|x| rank(x.into())))
                }
                DataType::Int64 if *to == DataType::Int64 => cast(a, &WIDE)?,
                _ => Arc::clone(a),
            })
        })
        .collect()
}

/// Results of the inner function in the type `to`.
fn restored(found: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if *to == DataType::Int64 {
        let sums = found.as_primitive::<Decimal128Type>();
        let narrow =
            |x: i128| i64::try_from(x).map_err(|_| exec_datafusion_err!("the sum {x} is out of range of bigint"));
        return Ok(Arc::new(sums.try_unary::<_, Int64Type, DataFusionError>(narrow)?));
    }
    let ranks = found.as_primitive::<Int64Type>();
    Ok(match to {
        DataType::Float32 => Arc::new(ranks.unary::<_, Float32Type>(|r| of_rank(r) as f32)),
        _ => Arc::new(ranks.unary::<_, Float64Type>(of_rank)),
    })
}

fn restored_value(found: &ScalarValue, to: &DataType) -> Result<ScalarValue> {
    ScalarValue::try_from_array(&restored(&found.to_array()?, to)?, 0)
}

impl AggregateUDFImpl for Replaced {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }
    fn return_field(&self, fields: &[FieldRef]) -> Result<FieldRef> {
        self.inner.return_field(fields)
    }
    fn is_nullable(&self) -> bool {
        self.inner.is_nullable()
    }
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }
    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }
    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.reverse_udf()
    }
    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }
    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.inner.default_value(data_type)
    }
    fn value_from_stats(&self, args: &StatisticsArgs) -> Option<ScalarValue> {
        // Statistics leave NaN out.
        if is_float(args.return_type) { None } else { self.inner.value_from_stats(args) }
    }
    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }
    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let to = args.return_field.data_type().clone();
        let Some(taken) = replacement(self, &args) else { return self.inner.accumulator(args) };
        let field = Arc::new(Field::new(args.name, taken, true));
        let fields = [Arc::clone(&field)];
        Ok(Box::new(Converted { inner: self.inner.accumulator(over_converted(&args, &field, &fields))?, to }))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let to = args.return_field.data_type().clone();
        let is_double = args.expr_fields.first().is_some_and(|f| *f.data_type() == DataType::Float64);
        if let Some(statistic) = Statistic::named(self.name()).filter(|_| is_double && !args.is_distinct) {
            return Ok(Box::new(Moving::new(statistic)));
        }
        let Some(taken) = replacement(self, &args) else { return self.inner.create_sliding_accumulator(args) };
        let field = Arc::new(Field::new(args.name, taken, true));
        let fields = [Arc::clone(&field)];
        Ok(Box::new(Converted {
            inner: self.inner.create_sliding_accumulator(over_converted(&args, &field, &fields))?,
            to,
        }))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        // Its groups keep plain sums of squares, in which a large common part of the values drowns their differences.
        self.name() != "corr" && self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let to = args.return_field.data_type().clone();
        let Some(taken) = replacement(self, &args) else { return self.inner.create_groups_accumulator(args) };
        let field = Arc::new(Field::new(args.name, taken, true));
        let fields = [Arc::clone(&field)];
        let inner = self.inner.create_groups_accumulator(over_converted(&args, &field, &fields))?;
        Ok(Box::new(ConvertedGroups { inner, to }))
    }
}

/// One group. The state between partitions has the type of the result.
#[derive(Debug)]
struct Converted {
    inner: Box<dyn Accumulator>,
    to: DataType,
}

impl Accumulator for Converted {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(&converted(values, &self.to)?)
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        restored_value(&self.inner.evaluate()?, &self.to)
    }
    fn size(&self) -> usize {
        self.inner.size()
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()?.iter().map(|s| restored_value(s, &self.to)).collect()
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(&converted(states, &self.to)?)
    }
    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(&converted(values, &self.to)?)
    }
    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }
}

/// Many groups.
struct ConvertedGroups {
    inner: Box<dyn GroupsAccumulator>,
    to: DataType,
}

impl ConvertedGroups {
    fn restored_all(&self, arrays: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
        arrays.iter().map(|a| restored(a, &self.to)).collect()
    }
}

impl GroupsAccumulator for ConvertedGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.inner.update_batch(&converted(values, &self.to)?, groups, filter, total_num_groups)
    }
    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        restored(&self.inner.evaluate(emit_to)?, &self.to)
    }
    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let state = self.inner.state(emit_to)?;
        self.restored_all(state)
    }
    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total_num_groups: usize) -> Result<()> {
        self.inner.merge_batch(&converted(values, &self.to)?, groups, total_num_groups)
    }
    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.restored_all(self.inner.convert_to_state(&converted(values, &self.to)?, filter)?)
    }
    fn size(&self) -> usize {
        self.inner.size()
    }
}
