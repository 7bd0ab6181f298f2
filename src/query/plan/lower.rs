//! AST to logical plan: decides every grid and every window.
//!
//! Times follow Prometheus's evaluator: a subquery is evaluated on absolute multiples of its own step, clipped to the last step of its
//! parent; a part that does not depend on the step is evaluated at the first step of the grid around it; `@` is turned
//! into an offset relative to that first step.

use datafusion::logical_expr::LogicalPlan;
use quiver_model::{Labels, LabelsBuilder, MatchOp, Matcher};

use crate::context::QueryContext;
use crate::error::QueryError;
use crate::exec::tile::StepGrid;
use crate::kernels::range::Extend;
use crate::plan::node::{Matching, Num, PromNode, PromOp, Record, ScanSpec, Sides, Sort, Window};
use crate::promql::ast::{
    AggregateExpr, AggregateOp, BinaryExpr, BinaryOp, Call, Expr, MatrixSelector, Position, SubqueryExpr, ValueType,
    VectorSelector,
};

/// A lowered query.
#[derive(Clone, Debug)]
pub enum Lowered {
    /// A string literal.
    Text(String),
    /// A plan, the type of its value, and the grid.
    Plan(LogicalPlan, ValueType, StepGrid),
}

/// Functions of dates, which without argument are about the time of the step.
const DATES: &[&str] =
    &["days_in_month", "day_of_month", "day_of_week", "day_of_year", "hour", "minute", "month", "year"];

/// Lowers a preprocessed query. `step` 0 with `start == end` is an instant query.
pub fn lower_query(expr: &Expr, start: i64, end: i64, step: i64, ctx: &QueryContext) -> Result<Lowered, QueryError> {
    let kind = expr.value_type();
    let instant = start == end && step == 0;
    if let Expr::String(s) = expr.unwrapped() {
        return Ok(Lowered::Text(s.value.clone()));
    }
    let grid = if instant {
        StepGrid { start, step: 1, len: 1 }
    } else {
        let step = step.max(1);
        grid_of(start, end, step).unwrap_or(StepGrid { start, step, len: 1 })
    };
    let mut l = Lowering { ctx, eval_time: start, path: Vec::new(), stats: 0, whole: 0 };
    check_grid(ctx, grid)?;
    let mut plan = if kind == ValueType::Matrix { l.raw(expr, grid)? } else { l.expr(expr, grid)? };
    if kind == ValueType::Vector && ctx.features.delayed_name_removal {
        plan = l.node(PromOp::DropNames, grid, vec![plan], expr.pos(), Vec::new());
    }
    Ok(Lowered::Plan(plan, kind, grid))
}

fn grid_of(start: i64, end: i64, step: i64) -> Option<StepGrid> {
    if end < start {
        return None;
    }
    let len = (end.saturating_sub(start) / step) as usize + 1;
    Some(StepGrid { start, step, len })
}

/// A grid of more steps than samples may be held cannot be evaluated: said before anything is allocated.
fn check_grid(ctx: &QueryContext, grid: StepGrid) -> Result<(), QueryError> {
    if grid.len as u64 > ctx.limits.query_samples_max || grid.len > i32::MAX as usize {
        return Err(QueryError::SamplesLimit);
    }
    Ok(())
}

fn strip(mut e: &Expr) -> &Expr {
    while let Expr::Paren(p) = e {
        e = &p.expr;
    }
    e
}

/// A subquery between the expression at hand and the time offsets were last resolved for.
struct Enclosing {
    offset: i64,
    at: Option<i64>,
}

struct Lowering<'a> {
    ctx: &'a QueryContext,
    /// First step of the grid that `@` is resolved against.
    eval_time: i64,
    path: Vec<Enclosing>,
    /// Functions around the expression at hand that look at count and sum of histograms only.
    stats: usize,
    /// Parts around it that need whole histograms.
    whole: usize,
}

/// Functions that look at no more than count and sum of a histogram.
const STATS: &[&str] = &["histogram_count", "histogram_sum", "histogram_avg", "timestamp", "start_timestamp", "absent"];
/// Functions that need whole histograms, whatever is around them.
const WHOLE: &[&str] = &[
    "histogram_quantile",
    "histogram_quantiles",
    "histogram_fraction",
    "histogram_stddev",
    "histogram_stdvar",
    "changes",
];

impl Lowering<'_> {
    fn node(
        &self,
        op: PromOp,
        grid: StepGrid,
        inputs: Vec<LogicalPlan>,
        pos: Position,
        arg_pos: Vec<Position>,
    ) -> LogicalPlan {
        PromNode::new(op, grid, inputs, pos, arg_pos).into_plan()
    }

    fn empty(&self, grid: StepGrid, pos: Position) -> LogicalPlan {
        self.node(PromOp::Empty, grid, Vec::new(), pos, Vec::new())
    }

    /// The offset that makes steps look at `@ at`.
    fn offset(&self, at: Option<i64>, original: i64) -> i64 {
        let Some(at) = at else { return original };
        let mut offset = 0i64;
        let mut outer = None;
        for e in &self.path {
            offset = offset.saturating_add(e.offset);
            if e.at.is_some() {
                offset = e.offset;
                outer = e.at;
            }
        }
        if let Some(t) = outer {
            offset = offset.saturating_add(self.eval_time.saturating_sub(t));
        }
        original.saturating_add(self.eval_time.saturating_sub(at)).saturating_sub(offset)
    }

    fn expr(&mut self, e: &Expr, grid: StepGrid) -> Result<LogicalPlan, QueryError> {
        match e {
            Expr::Paren(p) => self.expr(&p.expr, grid),
            Expr::Number(n) => Ok(self.node(PromOp::Number(Num::from(n.value)), grid, Vec::new(), n.pos, Vec::new())),
            Expr::StepInvariant(inner) => {
                let one = StepGrid { len: 1, ..grid };
                let child = self.expr(inner, one)?;
                if grid.len == 1 {
                    return Ok(child);
                }
                Ok(self.node(PromOp::StepInvariant, grid, vec![child], inner.pos(), Vec::new()))
            }
            Expr::Vector(v) => self.instant(v, grid, Record::Values),
            Expr::Unary(u) => {
                let child = self.expr(&u.expr, grid)?;
                if !u.minus {
                    return Ok(child);
                }
                Ok(self.node(PromOp::Negate, grid, vec![child], u.pos, vec![u.expr.pos()]))
            }
            Expr::Binary(b) => self.binary(b, grid),
            Expr::Aggregate(a) => self.aggregate(a, grid),
            Expr::Call(c) => self.call(c, grid),
            Expr::Matrix(_) | Expr::Subquery(_) => Err(QueryError::Internal("unexpected range vector".into())),
            Expr::String(_) | Expr::Duration(_) => {
                Err(QueryError::Internal("unexpected literal instead of a vector".into()))
            }
        }
    }

    fn scan(&self, v: &VectorSelector, grid: StepGrid, min: i64, max: i64) -> LogicalPlan {
        let spec = ScanSpec {
            matchers: v.matchers.clone(),
            min,
            max,
            skip_buckets: self.stats > 0 && self.whole == 0,
            skip_values: false,
        };
        self.node(PromOp::Scan(spec), grid, Vec::new(), v.pos, Vec::new())
    }

    fn instant(&mut self, v: &VectorSelector, grid: StepGrid, record: Record) -> Result<LogicalPlan, QueryError> {
        let lookback = self.ctx.lookback_ms;
        let offset = self.offset(v.timestamp, v.original_offset);
        let first = grid.start.saturating_sub(offset);
        let last = grid.end().saturating_sub(offset);
        let min = first.saturating_sub(lookback).saturating_add(1);
        let max = if v.smoothed { last.saturating_add(lookback) } else { last };
        let scan = self.scan(v, grid, min, max);
        let op = PromOp::Instant { lookback, offset, record, smoothed: v.smoothed };
        Ok(self.node(op, grid, vec![scan], v.pos, Vec::new()))
    }

    /// The selector below `timestamp()` and `start_timestamp()`. With `@` Prometheus looks at that time and forgets the
    /// offset, though it selects the samples that the offset asks for; and so do we.
    fn timed(&mut self, v: &VectorSelector, grid: StepGrid, record: Record) -> Result<LogicalPlan, QueryError> {
        let plan = self.instant(&VectorSelector { smoothed: false, ..v.clone() }, grid, record)?;
        let (Some(at), Some(node)) = (v.timestamp, PromNode::of(&plan)) else { return Ok(plan) };
        let offset = grid.start.saturating_sub(at);
        let op = PromOp::Instant { lookback: self.ctx.lookback_ms, offset, record, smoothed: false };
        Ok(self.node(op, grid, node.inputs.clone(), v.pos, Vec::new()))
    }

    /// The window of a matrix selector and the scan under it.
    fn matrix(&mut self, m: &MatrixSelector, grid: StepGrid) -> (Window, LogicalPlan) {
        let v = &m.selector;
        let offset = self.offset(v.timestamp, v.original_offset);
        let extend = match (v.anchored, v.smoothed) {
            (true, _) => Extend::Anchored,
            (_, true) => Extend::Smoothed,
            _ => Extend::No,
        };
        let fixed = v.timestamp.is_some();
        let first = grid.start.saturating_sub(offset);
        let last = if fixed { first } else { grid.end().saturating_sub(offset) };
        let lookback = self.ctx.lookback_ms;
        let before = if extend == Extend::No { m.range } else { m.range.saturating_add(lookback) };
        let min = first.saturating_sub(before).saturating_add(1);
        let max = if extend == Extend::Smoothed { last.saturating_add(lookback) } else { last };
        (Window { range: m.range, offset, fixed, extend }, self.scan(v, grid, min, max))
    }

    /// The window over a subquery and the plan on its own grid.
    fn subquery(&mut self, s: &SubqueryExpr, grid: StepGrid) -> Result<(Window, LogicalPlan), QueryError> {
        let offset = self.offset(s.timestamp, s.original_offset);
        let step = if s.step != 0 { s.step } else { self.ctx.default_step_ms };
        let step = step.max(1);
        let fixed = s.timestamp.is_some();
        let end = if fixed { grid.start } else { grid.end() };
        let from = grid.start.saturating_sub(offset).saturating_sub(s.range);
        let mut start = step.saturating_mul(from / step);
        if start <= from {
            start = start.saturating_add(step);
        }
        let window_offset = match s.timestamp {
            Some(at) => s.original_offset.saturating_add(grid.start.saturating_sub(at)),
            None => s.original_offset,
        };
        let window = Window { range: s.range, offset: window_offset, fixed, extend: Extend::No };
        let Some(inner) = grid_of(start, end.saturating_sub(offset), step) else {
            let one = StepGrid { start, step, len: 1 };
            return Ok((window, self.empty(one, s.expr.pos())));
        };
        check_grid(self.ctx, inner)?;
        self.whole += 1;
        let child = self.inside(s, grid, inner);
        self.whole -= 1;
        Ok((window, child?))
    }

    /// The expression of a subquery, on its own grid.
    fn inside(&mut self, s: &SubqueryExpr, grid: StepGrid, inner: StepGrid) -> Result<LogicalPlan, QueryError> {
        let start = inner.start;
        if start == grid.start {
            // Offsets of `@` below stay as they were resolved further out.
            self.path.push(Enclosing { offset: s.original_offset, at: s.timestamp });
            let child = self.expr(&s.expr, inner);
            self.path.pop();
            child
        } else {
            let path = std::mem::take(&mut self.path);
            let time = std::mem::replace(&mut self.eval_time, start);
            let child = self.expr(&s.expr, inner);
            self.path = path;
            self.eval_time = time;
            child
        }
    }

    /// A range vector as the answer.
    fn raw(&mut self, e: &Expr, grid: StepGrid) -> Result<LogicalPlan, QueryError> {
        let (window, input) = match e.unwrapped() {
            Expr::Matrix(m) => self.matrix(m, grid),
            Expr::Subquery(s) => {
                let (window, mut input) = self.subquery(s, grid)?;
                if self.ctx.features.delayed_name_removal
                    && let Some(inner) = PromNode::of(&input).map(|n| n.grid)
                {
                    input = self.node(PromOp::DropNames, inner, vec![input], s.expr.pos(), Vec::new());
                }
                (window, input)
            }
            _ => return Err(QueryError::Internal("not a range vector".into())),
        };
        Ok(self.node(PromOp::RawWindow { window }, grid, vec![input], e.pos(), Vec::new()))
    }

    fn binary(&mut self, b: &BinaryExpr, grid: StepGrid) -> Result<LogicalPlan, QueryError> {
        let (lt, rt) = (b.lhs.value_type(), b.rhs.value_type());
        let whole =
            usize::from(matches!(b.op, BinaryOp::TrimUpper | BinaryOp::TrimLower | BinaryOp::Eql | BinaryOp::Neq));
        self.whole += whole;
        let (l, r) = (self.expr(&b.lhs, grid), self.expr(&b.rhs, grid));
        self.whole -= whole;
        let (l, r) = (l?, r?);
        let op = match (lt, rt) {
            (ValueType::Vector, ValueType::Vector) => PromOp::Join {
                op: b.op,
                return_bool: b.return_bool,
                matching: Matching(b.matching.clone().unwrap_or_default()),
            },
            (ValueType::Scalar, ValueType::Scalar) => {
                PromOp::Arith { op: b.op, return_bool: b.return_bool, sides: Sides::Scalars }
            }
            (ValueType::Vector, _) => {
                PromOp::Arith { op: b.op, return_bool: b.return_bool, sides: Sides::VectorScalar }
            }
            _ => PromOp::Arith { op: b.op, return_bool: b.return_bool, sides: Sides::ScalarVector },
        };
        Ok(self.node(op, grid, vec![l, r], b.pos, vec![b.lhs.pos(), b.rhs.pos()]))
    }

    /// A label name written with bytes that are not UTF-8 arrives with a replacement character that is not in the text.
    fn check_label(&self, name: &str, pos: Position, message: impl FnOnce(&str) -> String) -> Result<(), QueryError> {
        if !name.contains('\u{fffd}') {
            return Ok(());
        }
        let literal = self.ctx.query.get(pos.start as usize..pos.end as usize).unwrap_or_default();
        if literal.contains('\u{fffd}') || literal.to_ascii_lowercase().contains("\\ufffd") {
            return Ok(());
        }
        Err(QueryError::Execution(message(literal)))
    }

    fn aggregate(&mut self, a: &AggregateExpr, grid: StepGrid) -> Result<LogicalPlan, QueryError> {
        let inner = strip(&a.expr);
        let mut arg_pos = vec![inner.pos()];
        let mut inputs = Vec::with_capacity(2);
        let mut label = None;
        let mut param = None;
        if let Some(p) = &a.param {
            let p = strip(p);
            arg_pos.push(p.pos());
            match (a.op, p) {
                (AggregateOp::CountValues, Expr::String(s)) => label = Some(s.value.clone()),
                _ => param = Some(self.expr(p, grid)?),
            }
        }
        if let (Some(l), Some(p)) = (&label, &a.param) {
            self.check_label(l, strip(p).pos(), |literal| format!("invalid label name {literal}"))?;
        }
        let whole = usize::from(a.op == AggregateOp::CountValues);
        self.whole += whole;
        let child = self.expr(inner, grid);
        self.whole -= whole;
        inputs.push(child?);
        inputs.extend(param);
        let op = PromOp::Aggregate { op: a.op, grouping: a.grouping.clone(), without: a.without, label };
        Ok(self.node(op, grid, inputs, a.pos, arg_pos))
    }

    fn call(&mut self, c: &Call, grid: StepGrid) -> Result<LogicalPlan, QueryError> {
        let (stats, whole) = (STATS.contains(&c.func.name), WHOLE.contains(&c.func.name));
        self.stats += usize::from(stats);
        self.whole += usize::from(whole);
        let plan = self.call_inner(c, grid);
        self.stats -= usize::from(stats);
        self.whole -= usize::from(whole);
        plan
    }

    fn call_inner(&mut self, c: &Call, grid: StepGrid) -> Result<LogicalPlan, QueryError> {
        let name = c.func.name;
        let args: Vec<&Expr> = c.args.iter().map(strip).collect();
        let arg_pos: Vec<Position> = args.iter().map(|a| a.pos()).collect();
        let text = |i: usize| match args.get(i).map(|a| a.unwrapped()) {
            Some(Expr::String(s)) => Ok(s.value.clone()),
            _ => Err(QueryError::Internal(format!("argument {i} of {name} is not a string"))),
        };
        let arg =
            |i: usize| args.get(i).copied().ok_or_else(|| QueryError::Internal(format!("{name} lacks argument {i}")));

        // A window over raw samples or over a subquery.
        let windowed = args.iter().position(|a| matches!(a, Expr::Matrix(_) | Expr::Subquery(_)));
        if let Some(at) = windowed {
            return self.range_call(c, name, &args, arg_pos, at, grid);
        }

        match name {
            "time" => Ok(self.node(PromOp::Time, grid, Vec::new(), c.pos, Vec::new())),
            "pi" => Ok(self.node(PromOp::Number(Num::from(std::f64::consts::PI)), grid, Vec::new(), c.pos, Vec::new())),
            "vector" => {
                let s = self.expr(arg(0)?, grid)?;
                Ok(self.node(PromOp::ToVector, grid, vec![s], c.pos, arg_pos))
            }
            "scalar" => {
                let v = self.expr(arg(0)?, grid)?;
                Ok(self.node(PromOp::ToScalar, grid, vec![v], c.pos, arg_pos))
            }
            "timestamp" | "start_timestamp" => {
                let v = match arg(0)? {
                    Expr::Vector(v) => {
                        let record = match name {
                            "timestamp" => Record::Timestamp,
                            _ if self.ctx.features.use_start_timestamps => Record::StartTimestamp,
                            _ => Record::Values,
                        };
                        self.timed(v, grid, record)?
                    }
                    other => self.expr(other, grid)?,
                };
                Ok(self.node(PromOp::Map { func: name, arg: 0 }, grid, vec![v], c.pos, arg_pos))
            }
            "absent" => {
                let labels = absent_labels(arg(0)?);
                let v = self.expr(arg(0)?, grid)?;
                Ok(self.node(PromOp::Absent { labels }, grid, vec![v], c.pos, arg_pos))
            }
            "label_replace" => {
                let op = PromOp::LabelReplace { dst: text(1)?, replacement: text(2)?, src: text(3)?, regex: text(4)? };
                let at = arg_pos.get(1).copied().unwrap_or_default();
                self.check_label(&text(1)?, at, |_| bad_destination(name, &text(1)))?;
                let v = self.expr(arg(0)?, grid)?;
                Ok(self.node(op, grid, vec![v], c.pos, arg_pos))
            }
            "label_join" => {
                let at = arg_pos.get(1).copied().unwrap_or_default();
                self.check_label(&text(1)?, at, |_| bad_destination(name, &text(1)))?;
                let src = (3..args.len()).map(text).collect::<Result<Vec<_>, _>>()?;
                let op = PromOp::LabelJoin { dst: text(1)?, separator: text(2)?, src };
                let v = self.expr(arg(0)?, grid)?;
                Ok(self.node(op, grid, vec![v], c.pos, arg_pos))
            }
            "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => {
                let by = match name {
                    "sort" => Sort::Value,
                    "sort_desc" => Sort::ValueDesc,
                    "sort_by_label" => Sort::Label,
                    _ => Sort::LabelDesc,
                };
                let labels = (1..args.len()).map(text).collect::<Result<Vec<_>, _>>()?;
                let v = self.expr(arg(0)?, grid)?;
                Ok(self.node(PromOp::Sort { by, labels }, grid, vec![v], c.pos, arg_pos))
            }
            "info" => {
                let matchers = match args.get(1) {
                    Some(Expr::Vector(v)) => Some(v.matchers.clone()),
                    _ => None,
                };
                let reference = InfoReference::of(arg(0)?);
                let v = self.expr(arg(0)?, grid)?;
                let op = PromOp::Info { matchers, offset: reference.offset, at: reference.at };
                Ok(self.node(op, grid, vec![v], c.pos, arg_pos))
            }
            "histogram_quantile" | "histogram_fraction" | "histogram_quantiles" => {
                let label = if name == "histogram_quantiles" { Some(text(1)?) } else { None };
                let mut vector = None;
                let mut scalars = Vec::new();
                for a in &args {
                    match a.value_type() {
                        ValueType::Vector => vector = Some(self.expr(a, grid)?),
                        ValueType::Scalar => scalars.push(self.expr(a, grid)?),
                        _ => {}
                    }
                }
                let Some(v) = vector else { return Err(QueryError::Internal(format!("{name} lacks its vector"))) };
                let mut inputs = vec![v];
                inputs.extend(scalars);
                Ok(self.node(PromOp::Histogram { func: name, label }, grid, inputs, c.pos, arg_pos))
            }
            _ if DATES.contains(&name) && args.is_empty() => {
                let time = self.node(PromOp::Time, grid, Vec::new(), c.pos, Vec::new());
                let v = self.node(PromOp::ToVector, grid, vec![time], c.pos, Vec::new());
                Ok(self.node(PromOp::Map { func: name, arg: 0 }, grid, vec![v], c.pos, arg_pos))
            }
            _ => {
                let mut vector = None;
                let mut scalars = Vec::new();
                for (i, a) in args.iter().enumerate() {
                    let p = self.expr(a, grid)?;
                    match a.value_type() {
                        ValueType::Vector if vector.is_none() => vector = Some((i, p)),
                        _ => scalars.push(p),
                    }
                }
                match vector {
                    Some((at, v)) => {
                        let mut inputs = vec![v];
                        inputs.extend(scalars);
                        Ok(self.node(PromOp::Map { func: name, arg: at }, grid, inputs, c.pos, arg_pos))
                    }
                    None => Ok(self.node(PromOp::ScalarMap { func: name }, grid, scalars, c.pos, arg_pos)),
                }
            }
        }
    }

    fn range_call(
        &mut self,
        c: &Call,
        name: &'static str,
        args: &[&Expr],
        mut arg_pos: Vec<Position>,
        at: usize,
        grid: StepGrid,
    ) -> Result<LogicalPlan, QueryError> {
        let (window, input) = match args[at] {
            Expr::Matrix(m) => self.matrix(m, grid),
            Expr::Subquery(s) => self.subquery(s, grid)?,
            _ => return Err(QueryError::Internal(format!("{name} lacks its range vector"))),
        };
        if matches!(args[at], Expr::Subquery(_)) {
            // Messages about a subquery have no position, as in Prometheus.
            arg_pos[at] = Position::default();
        }
        let mut inputs = vec![input];
        for (i, a) in args.iter().enumerate() {
            if i != at {
                inputs.push(self.expr(a, grid)?);
            }
        }
        if name == "absent_over_time" {
            let labels = absent_labels(args[at]);
            let op = PromOp::Range { func: "present_over_time", window, arg: at };
            let present = self.node(op, grid, inputs, c.pos, arg_pos.clone());
            return Ok(self.node(PromOp::Absent { labels }, grid, vec![present], c.pos, arg_pos));
        }
        Ok(self.node(PromOp::Range { func: name, window, arg: at }, grid, inputs, c.pos, arg_pos))
    }
}

fn bad_destination(func: &str, label: &Result<String, QueryError>) -> String {
    format!("invalid destination label name in {func}(): {}", label.as_deref().unwrap_or_default())
}

/// Labels of `absent(x{…})`: of the selector's equality matchers, those whose label is named once.
fn absent_labels(e: &Expr) -> Labels {
    let matchers: &[Matcher] = match e {
        Expr::Vector(v) => &v.matchers,
        Expr::Matrix(m) => &m.selector.matchers,
        _ => return Labels::empty(),
    };
    // Prometheus has sorted the matchers of a selector when it looks at them: those that take series away come last.
    let must_be_set = |name: &str| matchers.iter().any(|m| &*m.name == name && !m.matches_empty());
    let takes_away = |m: &Matcher| {
        !must_be_set(&m.name) || (matches!(m.op, MatchOp::NotEqual | MatchOp::NotRegex) && m.matches_empty())
    };
    let (last, first): (Vec<&Matcher>, Vec<&Matcher>) = matchers.iter().partition(|m| takes_away(m));
    let mut b = LabelsBuilder::default();
    let mut seen: Vec<&str> = Vec::new();
    for m in first.into_iter().chain(last) {
        let name: &str = &m.name;
        if matches!(name, "__name__" | "__type__" | "__unit__") {
            continue;
        }
        if m.op == MatchOp::Equal && !seen.contains(&name) {
            b.set(name, &m.value);
            seen.push(name);
        } else {
            b.remove(name);
        }
    }
    b.build().unwrap_or_default()
}

/// The time `info()` looks at: that of the selectors of its first argument, where they agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct InfoReference {
    offset: i64,
    at: Option<i64>,
}

impl InfoReference {
    /// The reference all vector parts of an expression share, else that of the step itself.
    fn of(e: &Expr) -> Self {
        let mut found = None;
        let mut uniform = true;
        let mut free = false;
        inspect(
            e,
            &mut Vec::new(),
            &mut |r| match found {
                None => found = Some(r),
                Some(first) => uniform &= InfoReference::same(first, r),
            },
            &mut free,
        );
        match found {
            Some(r) if uniform && !free => r,
            _ => InfoReference::default(),
        }
    }

    fn same(a: Self, b: Self) -> bool {
        match (a.at, b.at) {
            (None, None) => a.offset == b.offset,
            (Some(x), Some(y)) => x.saturating_sub(a.offset) == y.saturating_sub(b.offset),
            _ => false,
        }
    }
}

/// Calls `seen` for every selector that makes vectors; `free` is set where a vector has none. Returns whether there is one.
fn inspect<'e>(
    e: &'e Expr,
    path: &mut Vec<&'e SubqueryExpr>,
    seen: &mut dyn FnMut(InfoReference),
    free: &mut bool,
) -> bool {
    if !matches!(e.value_type(), ValueType::Vector | ValueType::Matrix) {
        return false;
    }
    let has = match e {
        Expr::Vector(v) => {
            let mut r = InfoReference { offset: v.original_offset, at: v.timestamp };
            for s in path.iter().rev() {
                if r.at.is_some() {
                    break;
                }
                r.offset = r.offset.saturating_add(s.original_offset);
                r.at = s.timestamp;
            }
            seen(r);
            return true;
        }
        Expr::Matrix(m) => {
            let mut r = InfoReference { offset: m.selector.original_offset, at: m.selector.timestamp };
            for s in path.iter().rev() {
                if r.at.is_some() {
                    break;
                }
                r.offset = r.offset.saturating_add(s.original_offset);
                r.at = s.timestamp;
            }
            seen(r);
            return true;
        }
        Expr::Call(c) if c.func.name == "info" => {
            return c.args.first().is_some_and(|a| inspect(a, path, seen, free));
        }
        Expr::Call(c) => {
            let mut any = false;
            for a in &c.args {
                any |= inspect(a, path, seen, free);
            }
            any
        }
        Expr::Aggregate(a) => {
            let inner = inspect(&a.expr, path, seen, free);
            let param = a.param.as_ref().is_some_and(|p| inspect(p, path, seen, free));
            inner || param
        }
        Expr::Binary(b) => {
            let l = inspect(&b.lhs, path, seen, free);
            let r = inspect(&b.rhs, path, seen, free);
            l || r
        }
        Expr::Subquery(s) => {
            path.push(s);
            let any = inspect(&s.expr, path, seen, free);
            path.pop();
            any
        }
        Expr::Paren(p) => inspect(&p.expr, path, seen, free),
        Expr::Unary(u) => inspect(&u.expr, path, seen, free),
        Expr::StepInvariant(i) => inspect(i, path, seen, free),
        Expr::Number(_) | Expr::String(_) | Expr::Duration(_) => false,
    };
    if !has {
        *free = true;
    }
    has
}
