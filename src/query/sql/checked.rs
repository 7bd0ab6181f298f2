//! Expressions that stop: they look whether the answer is still wanted, on as many rows at a time as take some milliseconds.
//!
//! An expression is evaluated on a batch of some thousand rows at once. A regular expression over long texts, or a function of
//! lists, may take seconds for that, and what it returns may be larger than all that the statement holds otherwise. How many rows are
//! taken at a time follows from how long the last ones took; texts and lists are charged to the statement while they are made.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::sort_properties::ExprProperties;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column};

use super::pool::StatementPool;

/// Rows of the first evaluation.
const ROWS_FIRST: usize = 64;
/// More rows at a time than any batch has.
const ROWS_MOST: usize = 1 << 20;
/// An evaluation that takes longer is followed by one of half the rows; one of a quarter of it by one of twice the rows.
const LONG: Duration = Duration::from_millis(10);

/// An expression whose whole numbers do not wrap around: one that is out of range is an error.
fn exact(e: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    let calculates = |b: &BinaryExpr| matches!(b.op(), Operator::Plus | Operator::Minus | Operator::Multiply);
    let done = Arc::clone(&e).transform_up(|e| {
        Ok(match e.downcast_ref::<BinaryExpr>() {
            Some(b) if calculates(b) => {
                let new = BinaryExpr::new(Arc::clone(b.left()), *b.op(), Arc::clone(b.right()));
                Transformed::yes(Arc::new(new.with_fail_on_overflow(true)) as Arc<dyn PhysicalExpr>)
            }
            _ => Transformed::no(e),
        })
    });
    done.map_or(e, |done| done.data)
}

/// See the module.
#[derive(Debug)]
pub struct Checked {
    inner: Arc<dyn PhysicalExpr>,
    pool: Arc<StatementPool>,
    rows: AtomicUsize,
}

impl Checked {
    /// `inner`, which looks whether the statement was stopped.
    pub fn wrap(inner: Arc<dyn PhysicalExpr>, pool: &Arc<StatementPool>) -> Arc<dyn PhysicalExpr> {
        Arc::new(Self { inner: exact(inner), pool: Arc::clone(pool), rows: AtomicUsize::new(ROWS_FIRST) })
    }

    /// Evaluates on some rows and decides how many the next ones are.
    fn timed(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.pool.check()?;
        let began = Instant::now();
        let value = self.inner.evaluate(batch)?;
        let took = began.elapsed();
        let rows = self.rows.load(Ordering::Relaxed);
        if took > LONG {
            self.rows.store((batch.num_rows().min(rows) / 2).max(1), Ordering::Relaxed);
        } else if took < LONG / 4 && batch.num_rows() >= rows {
            self.rows.store((rows * 2).min(ROWS_MOST), Ordering::Relaxed);
        }
        Ok(value)
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PartialEq for Checked {
    fn eq(&self, other: &Self) -> bool {
        self.inner.as_ref() == other.inner.as_ref()
    }
}

impl Eq for Checked {}

impl Hash for Checked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl PhysicalExpr for Checked {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.inner.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.inner.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let all = batch.num_rows();
        if self.inner.is::<Column>() {
            self.pool.check()?;
            return self.inner.evaluate(batch);
        }
        if all <= self.rows.load(Ordering::Relaxed) {
            return self.timed(batch);
        }
        let mut parts: Vec<ArrayRef> = Vec::new();
        let mut held = None;
        let mut at = 0;
        while at < all {
            let n = self.rows.load(Ordering::Relaxed).min(all - at);
            let part = self.timed(&batch.slice(at, n))?.into_array(n)?;
            if !part.data_type().is_primitive() {
                let pool = || MemoryConsumer::new(format!("{self}")).register(&(Arc::clone(&self.pool) as _));
                // Once more for the array that all of them become.
                held.get_or_insert_with(pool).try_grow(2 * part.get_array_memory_size())?;
            }
            parts.push(part);
            at += n;
        }
        let parts: Vec<&dyn arrow::array::Array> = parts.iter().map(AsRef::as_ref).collect();
        Ok(ColumnarValue::Array(concat(&parts)?))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.inner.children()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Self::wrap(Arc::clone(&self.inner).with_new_children(children)?, &self.pool))
    }

    fn evaluate_bounds(&self, children: &[&Interval]) -> Result<Interval> {
        self.inner.evaluate_bounds(children)
    }

    fn propagate_constraints(&self, interval: &Interval, children: &[&Interval]) -> Result<Option<Vec<Interval>>> {
        self.inner.propagate_constraints(interval, children)
    }

    fn get_properties(&self, children: &[ExprProperties]) -> Result<ExprProperties> {
        self.inner.get_properties(children)
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }

    fn snapshot_generation(&self) -> u64 {
        self.inner.snapshot_generation()
    }

    fn is_volatile_node(&self) -> bool {
        self.inner.is_volatile_node()
    }
}
