//! Aggregates over windows that stop, and whose results count.
//!
//! A window evaluates its aggregate for each row inside one call: for all rows of a partition, however large the frame. An aggregate
//! that sorts its frame (`median`) or returns it (`array_agg`, `string_agg`) works for the square of the rows. So the aggregates of
//! windows are replaced, after the statement was optimized, by ones that look whether the answer is still wanted and that charge
//! what they return.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::logical_expr::expr::{AggregateFunctionParams, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, LogicalPlan, ReversedUDAF, SetMonotonicity, Signature,
    WindowFunctionDefinition,
};

use super::pool::StatementPool;

/// Results are charged in pieces of so many bytes.
const PIECE: usize = 1 << 20;
/// Rows between two looks.
const ROWS_PER_LOOK: u32 = 32;

/// The plan with every aggregate over a window replaced.
pub fn checked(plan: LogicalPlan, pool: &Arc<StatementPool>) -> Result<LogicalPlan> {
    let replaced = plan.transform_up_with_subqueries(|node| {
        if !matches!(node, LogicalPlan::Window(_)) {
            return Ok(Transformed::no(node));
        }
        node.map_expressions(|e| e.transform_up(|e| Ok(replace(e, pool))))
    })?;
    Ok(replaced.data)
}

fn replace(expr: Expr, pool: &Arc<StatementPool>) -> Transformed<Expr> {
    match expr {
        Expr::WindowFunction(f) => match f.fun {
            WindowFunctionDefinition::AggregateUDF(inner) => {
                let checked = AggregateUDF::new_from_impl(Checked { inner, pool: Arc::clone(pool) });
                let fun = WindowFunctionDefinition::AggregateUDF(Arc::new(checked));
                Transformed::yes(Expr::WindowFunction(Box::new(WindowFunction { fun, params: f.params })))
            }
            fun => Transformed::no(Expr::WindowFunction(Box::new(WindowFunction { fun, params: f.params }))),
        },
        other => Transformed::no(other),
    }
}

#[derive(Debug)]
struct Checked {
    inner: Arc<AggregateUDF>,
    pool: Arc<StatementPool>,
}

impl PartialEq for Checked {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Checked {}

impl Hash for Checked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl Checked {
    fn look(&self, inner: Box<dyn Accumulator>) -> Box<dyn Accumulator> {
        let pool: Arc<dyn MemoryPool> = Arc::clone(&self.pool) as _;
        let held = MemoryConsumer::new(format!("{} over a window", self.inner.name())).register(&pool);
        Box::new(Looking { inner, pool: Arc::clone(&self.pool), rows: 0, returned: 0, held })
    }
}

impl AggregateUDFImpl for Checked {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.human_display(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.inner.window_function_schema_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.display_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.inner.window_function_display_name(params)
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

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(self.look(self.inner.accumulator(args)?))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(self.look(self.inner.create_sliding_accumulator(args)?))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn with_beneficial_ordering(
        self: Arc<Self>,
        beneficial_ordering: bool,
    ) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        let inner = Arc::clone(self.inner.inner()).with_beneficial_ordering(beneficial_ordering)?;
        Ok(inner.map(|inner| {
            let inner = Arc::new(AggregateUDF::new_from_shared_impl(inner));
            Arc::new(Self { inner, pool: Arc::clone(&self.pool) }) as _
        }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.inner.reverse_udf() {
            ReversedUDAF::Reversed(inner) => {
                let checked = Self { inner, pool: Arc::clone(&self.pool) };
                ReversedUDAF::Reversed(Arc::new(AggregateUDF::new_from_impl(checked)))
            }
            other => other,
        }
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.inner.default_value(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner.supports_within_group_clause()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }
}

/// An accumulator that looks, and that charges the texts and lists it returns.
#[derive(Debug)]
struct Looking {
    inner: Box<dyn Accumulator>,
    pool: Arc<StatementPool>,
    rows: u32,
    returned: usize,
    held: MemoryReservation,
}

impl Accumulator for Looking {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(values)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.rows = self.rows.wrapping_add(1);
        if self.rows.is_multiple_of(ROWS_PER_LOOK) {
            self.pool.check()?;
        }
        let value = self.inner.evaluate()?;
        if !value.data_type().is_primitive() {
            self.returned += value.size();
            if self.returned > self.held.size() {
                self.held.try_grow((self.returned - self.held.size()).max(PIECE))?;
            }
        }
        Ok(value)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }
}
