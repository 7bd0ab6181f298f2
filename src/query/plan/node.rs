//! The logical node: an operation, the grid it is evaluated on, its inputs.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{DFSchema, DFSchemaRef, Result as DfResult, plan_err};
use datafusion::logical_expr::{Expr as DfExpr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use quiver_model::duration::format_ms;
use quiver_model::{Labels, Matcher};

use crate::exec::batch::{self, Columns};
use crate::exec::tile::StepGrid;
use crate::kernels::range::Extend;
use crate::promql::ast::{AggregateOp, BinaryOp, Position, VectorMatching};

/// A float that is compared and hashed by its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Num(pub u64);

impl Num {
    /// The float.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl From<f64> for Num {
    fn from(v: f64) -> Self {
        Num(v.to_bits())
    }
}

impl fmt::Debug for Num {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

/// What a selector takes from storage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScanSpec {
    /// All matchers.
    pub matchers: Vec<Matcher>,
    /// First time that can matter, ms.
    pub min: i64,
    /// Last time that can matter, ms.
    pub max: i64,
    /// Only count and sum of histograms matter.
    pub skip_buckets: bool,
    /// Values of floats do not matter, but for stale markers.
    pub skip_values: bool,
}

impl ScanSpec {
    /// Does it take the same of a series as another?
    pub fn reads_like(&self, other: &ScanSpec) -> bool {
        let key = |s: &ScanSpec| (s.min, s.max, s.skip_buckets, s.skip_values);
        key(self) == key(other)
    }
}

/// Times kept beside values, for `timestamp()` and `start_timestamp()`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Record {
    /// None.
    #[default]
    Values,
    /// The sample's own time.
    Timestamp,
    /// The sample's start timestamp.
    StartTimestamp,
}

/// A window over samples, for each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Length, ms; the window of a step at `t` is `(t − offset − range, t − offset]`.
    pub range: i64,
    /// Offset, ms; with `@` it is relative to the first step.
    pub offset: i64,
    /// `@`: all steps see the window of the first.
    pub fixed: bool,
    /// `anchored`, `smoothed`.
    pub extend: Extend,
}

impl Window {
    /// For each step of `grid`, the sum of what is counted at the steps of `inner` that its window holds.
    pub fn sums(&self, grid: StepGrid, inner: StepGrid, counts: &[u64]) -> Vec<u64> {
        let mut out = Vec::with_capacity(grid.len);
        let (mut lo, mut hi, mut sum) = (0, 0, 0u64);
        for step in 0..grid.len {
            let until = grid.time(if self.fixed { 0 } else { step }).saturating_sub(self.offset);
            while hi < counts.len() && inner.time(hi) <= until {
                sum += counts[hi];
                hi += 1;
            }
            while lo < hi && inner.time(lo) <= until.saturating_sub(self.range) {
                sum -= counts[lo];
                lo += 1;
            }
            out.push(sum);
        }
        out
    }
}

impl Window {
    /// For each step of `grid`, what is counted at the steps of `inner` that its window is the first to hold.
    pub fn firsts(&self, grid: StepGrid, inner: StepGrid, counts: &[u64]) -> Vec<u64> {
        let mut out = vec![0; grid.len];
        for (k, n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
            let t = inner.time(k).saturating_add(self.offset);
            let after = i128::from(t) - i128::from(grid.start);
            let step =
                if self.fixed || after <= 0 { 0 } else { (after as u128).div_ceil(grid.step.max(1) as u128) as usize };
            let holds = step < grid.len && t <= grid.time(step) && t > grid.time(step).saturating_sub(self.range);
            if holds {
                out[step] += n;
            }
        }
        out
    }
}

/// The sorting functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sort {
    /// `sort`
    Value,
    /// `sort_desc`
    ValueDesc,
    /// `sort_by_label`
    Label,
    /// `sort_by_label_desc`
    LabelDesc,
}

/// What a binary operation has on its sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sides {
    /// Two scalars.
    Scalars,
    /// Vector, scalar.
    VectorScalar,
    /// Scalar, vector.
    ScalarVector,
}

/// `VectorMatching` with its fill values as bits.
#[derive(Clone, Debug)]
pub struct Matching(pub VectorMatching);

impl Matching {
    fn key(&self) -> (crate::promql::ast::Cardinality, &[String], bool, &[String], Option<u64>, Option<u64>) {
        let m = &self.0;
        let bits = |v: Option<f64>| v.map(f64::to_bits);
        (m.card, &m.labels, m.on, &m.include, bits(m.fill_left), bits(m.fill_right))
    }
}

impl PartialEq for Matching {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Matching {}
impl Hash for Matching {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// The operations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PromOp {
    /// No series (a subquery whose grid has no step).
    Empty,
    /// Raw samples of the series picked; absorbed by the window above it.
    Scan(ScanSpec),
    /// A constant scalar.
    Number(Num),
    /// `time()`
    Time,
    /// The latest sample at each step. Input: scan.
    Instant {
        /// How far back it may lie, ms.
        lookback: i64,
        /// Offset, ms.
        offset: i64,
        /// Times to keep.
        record: Record,
        /// `smoothed`: interpolated between neighbours.
        smoothed: bool,
    },
    /// A function over windows. Inputs: scan, or a plan on a grid of its own (subquery); then scalar arguments.
    Range {
        /// Function.
        func: &'static str,
        /// Window.
        window: Window,
        /// Which argument the range vector is.
        arg: usize,
    },
    /// Raw samples of one window as the answer (`x[5m]`, `x[5m:1m]` at the top). Input: scan or subquery child.
    RawWindow {
        /// Window.
        window: Window,
    },
    /// A function of each sample. Inputs: vector, then scalar arguments; `arg` is where the vector stood.
    Map {
        /// Function.
        func: &'static str,
        /// Which argument the vector is.
        arg: usize,
    },
    /// A function of scalars.
    ScalarMap {
        /// Function.
        func: &'static str,
    },
    /// `vector(s)`
    ToVector,
    /// `scalar(v)`
    ToScalar,
    /// `-v`
    Negate,
    /// Arithmetic or comparison with a scalar on one side at least.
    Arith {
        /// Operator.
        op: BinaryOp,
        /// `bool`
        return_bool: bool,
        /// Sides.
        sides: Sides,
    },
    /// Two vectors, matched.
    Join {
        /// Operator.
        op: BinaryOp,
        /// `bool`
        return_bool: bool,
        /// How.
        matching: Matching,
    },
    /// Aggregation. Inputs: vector, then the parameter where it is a scalar.
    Aggregate {
        /// Operator.
        op: AggregateOp,
        /// Labels.
        grouping: Vec<String>,
        /// `without`
        without: bool,
        /// Label of `count_values`.
        label: Option<String>,
    },
    /// Sorting functions.
    Sort {
        /// Which.
        by: Sort,
        /// Labels of `sort_by_label`.
        labels: Vec<String>,
    },
    /// `label_replace`: destination, replacement, source, expression.
    LabelReplace {
        /// Destination label.
        dst: String,
        /// Replacement.
        replacement: String,
        /// Source label.
        src: String,
        /// Expression.
        regex: String,
    },
    /// `label_join`
    LabelJoin {
        /// Destination label.
        dst: String,
        /// Between values.
        separator: String,
        /// Source labels.
        src: Vec<String>,
    },
    /// `absent`, and `absent_over_time` over `present_over_time`.
    Absent {
        /// Labels of the answer.
        labels: Labels,
    },
    /// `info`: inputs: vector; its selector decides what is read.
    Info {
        /// Matchers of the second argument, or none.
        matchers: Option<Vec<Matcher>>,
        /// Reference offset, ms.
        offset: i64,
        /// Reference time of all steps, ms (`@`).
        at: Option<i64>,
    },
    /// `histogram_quantile`, `histogram_fraction`, `histogram_quantiles`. Inputs: vector, then scalars.
    Histogram {
        /// Function.
        func: &'static str,
        /// Label of `histogram_quantiles`.
        label: Option<String>,
    },
    /// The input's only step, at every step.
    StepInvariant,
    /// The last operator with delayed name removal: names go, series that become equal are merged.
    DropNames,
}

impl PromOp {
    /// Name in EXPLAIN.
    pub fn name(&self) -> &'static str {
        match self {
            PromOp::Empty => "PromEmpty",
            PromOp::Scan(_) => "PromScan",
            PromOp::Number(_) => "PromNumber",
            PromOp::Time => "PromTime",
            PromOp::Instant { .. } => "PromInstant",
            PromOp::Range { .. } => "PromRange",
            PromOp::RawWindow { .. } => "PromRawWindow",
            PromOp::Map { .. } => "PromMap",
            PromOp::ScalarMap { .. } => "PromScalarMap",
            PromOp::ToVector => "PromVector",
            PromOp::ToScalar => "PromScalar",
            PromOp::Negate => "PromNegate",
            PromOp::Arith { .. } => "PromArith",
            PromOp::Join { .. } => "PromJoin",
            PromOp::Aggregate { .. } => "PromAggregate",
            PromOp::Sort { .. } => "PromSort",
            PromOp::LabelReplace { .. } | PromOp::LabelJoin { .. } => "PromRelabel",
            PromOp::Absent { .. } => "PromAbsent",
            PromOp::Info { .. } => "PromInfo",
            PromOp::Histogram { .. } => "PromHistogram",
            PromOp::StepInvariant => "PromStepInvariant",
            PromOp::DropNames => "PromDropNames",
        }
    }

    /// What stands after the name in EXPLAIN.
    pub fn details(&self) -> String {
        Details(self).to_string()
    }

    fn fmt_details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PromOp::Scan(s) => {
                f.write_str("{")?;
                for (i, m) in s.matchers.iter().enumerate() {
                    if i > 0 {
                        f.write_str(",")?;
                    }
                    write!(f, "{m}")?;
                }
                write!(f, "}} samples=[{}, {}]", s.min, s.max)?;
                if s.skip_buckets {
                    f.write_str(" buckets=skipped")?;
                }
                if s.skip_values {
                    f.write_str(" values=skipped")?;
                }
                Ok(())
            }
            PromOp::Number(v) => write!(f, "{v:?}"),
            PromOp::Instant { lookback, offset, record, smoothed } => {
                write!(f, "lookback={} offset={}", format_ms(*lookback), format_ms(*offset))?;
                if *record != Record::Values {
                    write!(f, " record={record:?}")?;
                }
                if *smoothed {
                    f.write_str(" smoothed")?;
                }
                Ok(())
            }
            PromOp::Range { func, window, .. } => write!(f, "{func} {window}"),
            PromOp::RawWindow { window } => write!(f, "{window}"),
            PromOp::Map { func, .. } | PromOp::ScalarMap { func } => f.write_str(func),
            PromOp::Arith { op, return_bool, sides } => {
                write!(f, "{}{} {sides:?}", op.as_str(), if *return_bool { " bool" } else { "" })
            }
            PromOp::Join { op, return_bool, matching } => {
                let m = &matching.0;
                write!(f, "{}{} {}", op.as_str(), if *return_bool { " bool" } else { "" }, m.card.as_str())?;
                if m.on || !m.labels.is_empty() {
                    write!(f, " {}({})", if m.on { "on" } else { "ignoring" }, m.labels.join(", "))?;
                }
                if !m.include.is_empty() {
                    write!(f, " include({})", m.include.join(", "))?;
                }
                if let Some(v) = m.fill_left {
                    write!(f, " fill_left({v})")?;
                }
                if let Some(v) = m.fill_right {
                    write!(f, " fill_right({v})")?;
                }
                Ok(())
            }
            PromOp::Aggregate { op, grouping, without, label } => {
                write!(f, "{}", op.as_str())?;
                if *without || !grouping.is_empty() {
                    write!(f, " {} ({})", if *without { "without" } else { "by" }, grouping.join(", "))?;
                }
                if let Some(l) = label {
                    write!(f, " label={l}")?;
                }
                Ok(())
            }
            PromOp::Sort { by, labels } => write!(f, "{by:?} ({})", labels.join(", ")),
            PromOp::LabelReplace { dst, replacement, src, regex } => {
                write!(f, "{dst} := {replacement:?} from {src} =~ {regex:?}")
            }
            PromOp::LabelJoin { dst, separator, src } => {
                write!(f, "{dst} := join({separator:?}, {})", src.join(", "))
            }
            PromOp::Absent { labels } => write!(f, "{labels}"),
            PromOp::Info { matchers, offset, at } => write!(f, "{matchers:?} offset={} at={at:?}", format_ms(*offset)),
            PromOp::Histogram { func, label } => {
                write!(f, "{func}{}", label.as_ref().map(|l| format!(" label={l}")).unwrap_or_default())
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "range={} offset={}", format_ms(self.range), format_ms(self.offset))?;
        if self.fixed {
            f.write_str(" fixed")?;
        }
        match self.extend {
            Extend::No => Ok(()),
            Extend::Anchored => f.write_str(" anchored"),
            Extend::Smoothed => f.write_str(" smoothed"),
        }
    }
}

impl fmt::Display for PromOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let details = self.details();
        if !details.is_empty() {
            write!(f, ": {details}")?;
        }
        Ok(())
    }
}

struct Details<'a>(&'a PromOp);

impl fmt::Display for Details<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_details(f)
    }
}

/// A node of the logical plan.
#[derive(Clone, Debug)]
pub struct PromNode {
    /// Operation.
    pub op: PromOp,
    /// Steps it is evaluated at.
    pub grid: StepGrid,
    /// Inputs, each a [`PromNode`].
    pub inputs: Vec<LogicalPlan>,
    /// Position of the whole expression; for messages only.
    pub pos: Position,
    /// Positions of the arguments as written; for messages only.
    pub arg_pos: Vec<Position>,
    schema: DFSchemaRef,
}

impl PromNode {
    /// A node.
    pub fn new(op: PromOp, grid: StepGrid, inputs: Vec<LogicalPlan>, pos: Position, arg_pos: Vec<Position>) -> Self {
        let columns = match &op {
            PromOp::Scan(_) | PromOp::RawWindow { .. } => Columns::Raw,
            PromOp::Instant { record: Record::Timestamp, .. } => Columns::Timestamps,
            PromOp::Instant { record: Record::StartTimestamp, .. } => Columns::StartTimestamps,
            _ => Columns::Values,
        };
        let schema = batch::df_schema(grid.len, columns);
        Self { op, grid, inputs, pos, arg_pos, schema }
    }

    /// As a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The node of a plan, where it is one of ours.
    pub fn of(plan: &LogicalPlan) -> Option<&PromNode> {
        match plan {
            LogicalPlan::Extension(e) => e.node.as_any().downcast_ref::<PromNode>(),
            _ => None,
        }
    }

    /// Position of argument `i`, or of the whole.
    pub fn arg_position(&self, i: usize) -> Position {
        self.arg_pos.get(i).copied().unwrap_or(self.pos)
    }
}

impl PartialEq for PromNode {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op && self.grid == other.grid && self.inputs == other.inputs
    }
}
impl Eq for PromNode {}
impl Hash for PromNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.op.hash(state);
        self.grid.hash(state);
        self.inputs.hash(state);
    }
}
impl PartialOrd for PromNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for PromNode {
    fn name(&self) -> &str {
        self.op.name()
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.inputs.iter().collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<DfExpr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.op)?;
        let g = &self.grid;
        match g.len {
            1 => write!(f, " grid=[{}]", g.start),
            n => write!(f, " grid=[{}..{} step {}ms, {n} steps]", g.start, g.end(), g.step),
        }
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<DfExpr>, inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        if !exprs.is_empty() || inputs.len() != self.inputs.len() {
            return plan_err!("{} takes {} inputs and no expressions", self.op.name(), self.inputs.len());
        }
        Ok(Self { inputs, ..self.clone() })
    }

    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        // All columns of all inputs: what a column is for is decided when the plan is made.
        Some(self.inputs.iter().map(|p| (0..p.schema().fields().len()).collect()).collect())
    }
}

/// An empty schema, for plans without columns.
pub fn no_schema() -> DFSchemaRef {
    Arc::new(DFSchema::empty())
}
