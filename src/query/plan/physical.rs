//! Logical nodes to physical operators. Series are looked up here, so that what is above a selector can size itself.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;
use quiver_core::{Need, TimeRange};
use quiver_model::Matcher;

use crate::error::QueryError;
use crate::exec::arith::{ScalarArith, ScalarArithMachine};
use crate::exec::fold::{FoldOp, FoldSpec, SubqueryFoldOp};
use crate::exec::info::InfoOp;
use crate::exec::machine::{JoinOp, MachineOp, Made};
use crate::exec::operator::{PromExec, RunEnv, TileOperator};
use crate::exec::raw::{RawRowsOp, RawScanOp};
use crate::exec::shared::{Shared, SharedOp};
use crate::exec::specs::{InstantSpec, WindowSpec};
use crate::exec::tile::{Roster, StepGrid};
use crate::exec::together::{Together, TogetherOp};
use crate::exec::{histogram, transform, vector};
use crate::hints::Rule;
use crate::kernels::elementwise::{self, CellFn, ScalarFn};
use crate::kernels::instant::InstantSelector;
use crate::kernels::operators::matching::changes_metric;
use crate::kernels::operators::{
    AggregateSpec, BinarySpec, CountValuesSpec, QuantileSpec, RelabelSpec, SelectSpec, Side, SortSpec,
};
use crate::kernels::range::{Extend, RangeFn, RangeSpec};
use crate::optimize::share::Repeats;
use crate::plan::node::{PromNode, PromOp, Record, ScanSpec, Sides, Sort, Window};
use crate::plan::propagate;
use crate::promql::ast::{AggregateOp, BinaryOp, VectorMatching};
use crate::scan;

/// Builds the operators of a plan.
pub fn build(plan: &LogicalPlan, env: &Arc<RunEnv>) -> Result<Arc<PromExec>, QueryError> {
    let Some(node) = PromNode::of(plan) else {
        return Err(QueryError::Internal(format!("not a PromQL plan: {}", plan.display())));
    };
    let share = env.ctx.hints.allows(Rule::Share);
    let repeats = if share { Repeats::of(plan) } else { Repeats::default() };
    Builder {
        env,
        repeats,
        shared: RefCell::default(),
        propagated: RefCell::default(),
        folds: RefCell::default(),
        together: RefCell::default(),
    }
    .whole(node)
}

/// Is it the negative of a scalar?
fn scalar_valued(node: &PromNode) -> bool {
    match node.inputs.first().and_then(PromNode::of) {
        Some(n) => match &n.op {
            PromOp::Number(_) | PromOp::Time | PromOp::ScalarMap { .. } | PromOp::ToScalar => true,
            PromOp::Arith { sides: Sides::Scalars, .. } => true,
            PromOp::StepInvariant | PromOp::Negate => scalar_valued(n),
            _ => false,
        },
        None => false,
    }
}

/// Samples that windows over one series of a subquery look at, over all steps. Functions that sort, or that keep a state for
/// each sample, count them several times.
fn window_samples(func: &str, window: &Window, outer: StepGrid, inner: StepGrid) -> u64 {
    let steps = if window.fixed { 1 } else { outer.len as u64 };
    let in_window = (window.range / inner.step.max(1)).unsigned_abs().saturating_add(1).min(inner.len as u64);
    let weight = match func {
        "quantile_over_time" | "mad_over_time" => 16,
        "deriv"
        | "predict_linear"
        | "double_exponential_smoothing"
        | "holt_winters"
        | "stddev_over_time"
        | "stdvar_over_time" => 4,
        _ => 1,
    };
    steps.saturating_mul(in_window).saturating_mul(weight)
}

/// What a node aggregates, if it is one of the aggregations with one accumulator for each group and step.
fn aggregate_spec(node: &PromNode) -> Option<AggregateSpec> {
    match &node.op {
        PromOp::Aggregate { op, grouping, without, .. } if op.is_dense() => Some(AggregateSpec {
            op: *op,
            grouping: grouping.clone(),
            without: *without,
            expr_pos: node.arg_position(0),
        }),
        _ => None,
    }
}

struct Builder<'a> {
    env: &'a Arc<RunEnv>,
    repeats: Repeats<'a>,
    shared: RefCell<HashMap<u32, (Arc<Shared>, Arc<PromExec>)>>,
    /// Matchers that selectors get besides their own.
    propagated: RefCell<HashMap<*const PromNode, Vec<Matcher>>>,
    /// Scans, and all their matchers.
    folds: RefCell<Vec<(&'a PromNode, Vec<Matcher>, Arc<FoldOp>)>>,
    /// Inputs of several aggregations, by their number.
    together: RefCell<HashMap<u32, (Arc<Together>, Arc<PromExec>, usize)>>,
}

/// Scans that are compared with each other.
const LINKS_MAX: usize = 64;

impl<'a> Builder<'a> {
    fn whole(&self, node: &'a PromNode) -> Result<Arc<PromExec>, QueryError> {
        let exec = self.build(node)?;
        // Who counts samples as Prometheus does wants those, too, that were read for another.
        if self.env.ctx.hints.allows(Rule::Subset) && !self.env.stats.per_step() {
            self.link();
        }
        Ok(exec)
    }

    /// Links scans of which one selects some of the series of the other.
    fn link(&self) {
        let folds = self.folds.borrow();
        if folds.len() > LINKS_MAX {
            return;
        }
        for (a, matchers, part) in folds.iter() {
            let selects_more = |b: &'a PromNode, fewer: &[Matcher]| {
                a.op == b.op
                    && a.grid == b.grid
                    && fewer.len() < matchers.len()
                    && fewer.iter().all(|m| matchers.contains(m))
                    && matches!((self.scan_of(a), self.scan_of(b)), (Some(a), Some(b)) if a.reads_like(b))
            };
            if a.inputs.len() == 1
                && let Some((_, _, whole)) = folds.iter().find(|(b, fewer, _)| selects_more(b, fewer))
            {
                FoldOp::link(part, whole);
            }
        }
    }

    /// An aggregation of an input that others aggregate, too.
    fn together(&self, node: &'a PromNode) -> Result<Option<Arc<PromExec>>, QueryError> {
        let Some(input) = node.inputs.first().and_then(PromNode::of) else { return Ok(None) };
        let Some((number, part)) = self.repeats.get(input) else { return Ok(None) };
        if !self.env.ctx.hints.allows(Rule::Together) || !part.is_aggregated() {
            return Ok(None);
        }
        let known = self.together.borrow().get(&number).map(|(t, i, n)| (Arc::clone(t), Arc::clone(i), *n));
        let (together, exec, nth) = match known {
            Some(known) => known,
            None => {
                let exec = self.node(part.first().unwrap_or(input))?;
                let specs = part.parents.iter().filter_map(|p| aggregate_spec(p)).collect();
                let together = Together::new(specs, input.grid, Arc::clone(&part.translations));
                (Arc::new(together), exec, 0)
            }
        };
        self.together.borrow_mut().insert(number, (Arc::clone(&together), Arc::clone(&exec), nth + 1));
        let Some(roster) = exec.roster() else {
            // Series that are known only later: the rows are kept for each of them.
            return Ok(None);
        };
        let which = part.parents.iter().position(|p| std::ptr::eq(*p, node));
        let Some(which) = which else { return Ok(None) };
        let op = TogetherOp::new(together, which, roster)?;
        Ok(Some(self.exec(node, op, vec![exec])))
    }

    fn build(&self, node: &'a PromNode) -> Result<Arc<PromExec>, QueryError> {
        self.env.ctx.check()?;
        self.env.charge_width(node.grid)?;
        let Some((number, part)) = self.repeats.get(node) else { return self.node(node) };
        // Each occurrence has a node of its own, which knows where in the text it stands.
        let occurrence = |shared: &Arc<Shared>, inner: &Arc<PromExec>| {
            let op = SharedOp::new(Arc::clone(shared), part.occurrence(node), inner);
            PromExec::new("PromShared", Arc::new(op), node.grid, vec![Arc::clone(inner)], node.pos, self.env)
        };
        if let Some((shared, inner)) = self.shared.borrow().get(&number) {
            return Ok(occurrence(shared, inner));
        }
        // The other side of a join may be built first.
        let inner = self.node(part.first().unwrap_or(node))?;
        let shared = Arc::new(Shared::new(part.count, Arc::clone(&part.translations)));
        let exec = occurrence(&shared, &inner);
        self.shared.borrow_mut().insert(number, (shared, inner));
        Ok(exec)
    }

    fn plan(&self, plan: &'a LogicalPlan) -> Result<Arc<PromExec>, QueryError> {
        match PromNode::of(plan) {
            Some(node) => self.build(node),
            None => Err(QueryError::Internal(format!("not a PromQL plan: {}", plan.display()))),
        }
    }

    fn inputs(&self, node: &'a PromNode) -> Result<Vec<Arc<PromExec>>, QueryError> {
        node.inputs.iter().map(|i| self.plan(i)).collect()
    }

    fn input(&self, node: &'a PromNode, i: usize) -> Result<Arc<PromExec>, QueryError> {
        match node.inputs.get(i) {
            Some(p) => self.plan(p),
            None => Err(QueryError::Internal(format!("{} lacks input {i}", node.op.name()))),
        }
    }

    /// The inputs of a join. Where one side is a plain selector it looks for partners of the other side only.
    fn sides(
        &self,
        node: &'a PromNode,
        op: BinaryOp,
        matching: &VectorMatching,
    ) -> Result<Vec<Arc<PromExec>>, QueryError> {
        let [Some(left), Some(right)] = [0, 1].map(|i| node.inputs.get(i).and_then(PromNode::of)) else {
            return Err(QueryError::Internal("a join has two inputs".into()));
        };
        // Who counts samples as Prometheus does wants those, too, that have no partner.
        let allowed = self.env.ctx.hints.allows(Rule::Propagate) && !self.env.stats.per_step();
        let side = if allowed { propagate::target(op, matching, left, right) } else { None };
        let Some(side) = side else { return self.inputs(node) };
        let (source, target) = if side == Side::Left { (right, left) } else { (left, right) };
        let from = self.build(source)?;
        if let (Some(roster), Some(selector)) = (from.roster(), propagate::selector(target))
            && let Some(scan) = self.scan_of(selector)
            && self.repeats.get(selector).is_none()
            && self.repeats.get(target).is_none()
        {
            let more = propagate::matchers(op, matching, roster, &scan.matchers, self.env.ctx.limits.regex_bytes_max);
            if !more.is_empty() {
                self.propagated.borrow_mut().insert(std::ptr::from_ref(selector), more);
            }
        }
        let to = self.build(target)?;
        Ok(if side == Side::Left { vec![to, from] } else { vec![from, to] })
    }

    fn exec(&self, node: &'a PromNode, op: impl TileOperator + 'static, inputs: Vec<Arc<PromExec>>) -> Arc<PromExec> {
        PromExec::new(node.op.name(), Arc::new(op), node.grid, inputs, node.pos, self.env)
    }

    fn scan_of(&self, node: &'a PromNode) -> Option<&'a ScanSpec> {
        match PromNode::of(node.inputs.first()?)?.op {
            PromOp::Scan(ref s) => Some(s),
            _ => None,
        }
    }

    fn fold(
        &self,
        node: &'a PromNode,
        scan: &ScanSpec,
        need: Need,
        keep_name: bool,
        spec: Arc<dyn FoldSpec>,
    ) -> Result<Arc<PromExec>, QueryError> {
        let range = TimeRange { min: scan.min, max: scan.max };
        let more = self.propagated.borrow_mut().remove(&std::ptr::from_ref(node));
        let matchers = match more {
            Some(more) => Cow::Owned(scan.matchers.iter().cloned().chain(more).collect()),
            None => Cow::Borrowed(&scan.matchers),
        };
        let selected = scan::select(self.env, &matchers, range)?;
        let scalars = node.inputs[1..].iter().map(|i| self.plan(i)).collect::<Result<_, _>>()?;
        let renamed = if keep_name {
            Some(Arc::clone(&selected.roster))
        } else if !self.env.ctx.hints.allows(Rule::InPlaceNames) {
            None
        } else {
            vector::dropped_in_place(&selected.roster, node.grid, self.env)?
        };
        // Where names may go without any series moving, nobody needs to look at rows for it.
        let moves = renamed.is_none();
        let roster = renamed.unwrap_or(selected.roster);
        // A sample before the window tells whether the first one in it follows a counter reset.
        let before = if scan.skip_buckets { self.env.ctx.lookback_ms } else { 0 };
        let range = TimeRange { min: range.min.saturating_sub(before), ..range };
        let op = FoldOp::new(selected.set, range, need, node.grid, roster, spec)
            .with_stats_only(scan.skip_buckets, scan.min);
        let op = Arc::new(op);
        self.folds.borrow_mut().push((node, matchers.into_owned(), Arc::clone(&op)));
        let fold = PromExec::new(node.op.name(), op, node.grid, scalars, node.pos, self.env);
        fold.meter().scanned(selected.probe);
        if moves { self.drop_names(node, fold) } else { Ok(fold) }
    }

    /// Drops names above `input`: at once, or by a mark.
    fn drop_names(&self, node: &'a PromNode, input: Arc<PromExec>) -> Result<Arc<PromExec>, QueryError> {
        self.relabel(node, RelabelSpec::DropName, input)
    }

    fn relabel(
        &self,
        node: &'a PromNode,
        spec: RelabelSpec,
        input: Arc<PromExec>,
    ) -> Result<Arc<PromExec>, QueryError> {
        let grid = node.grid;
        let what = match &spec {
            RelabelSpec::DropName => "drop name".to_owned(),
            RelabelSpec::Cleanup => "drop names at the end".to_owned(),
            RelabelSpec::Replace { dst, .. } => format!("label_replace {dst}"),
            RelabelSpec::Join { dst, .. } => format!("label_join {dst}"),
        };
        let inputs = vec![input];
        let make = move |env: &RunEnv, r: &Arc<Roster>, _: Vec<Vec<f64>>| vector::relabel(&spec, r, grid, env);
        let op = MachineOp::new(what, self.env, &inputs, make)?;
        Ok(PromExec::new("PromRelabel", Arc::new(op), grid, inputs, node.pos, self.env))
    }

    fn machine(
        &self,
        node: &'a PromNode,
        make: impl Fn(&RunEnv, &Arc<Roster>, Vec<Vec<f64>>) -> Result<Made, QueryError> + Send + Sync + 'static,
    ) -> Result<Arc<PromExec>, QueryError> {
        let inputs = self.inputs(node)?;
        let op = MachineOp::new(node.op.details(), self.env, &inputs, make)?;
        Ok(self.exec(node, op, inputs))
    }

    fn range(&self, node: &'a PromNode, func: &'static str, window: &Window) -> Result<Arc<PromExec>, QueryError> {
        let Some(f) = RangeFn::from_name(func) else {
            return Err(QueryError::Internal(format!("{func} is not a function over ranges")));
        };
        let features = &self.env.ctx.features;
        let spec = RangeSpec {
            func: f,
            range_ms: window.range,
            offset_ms: window.offset,
            fixed: window.fixed,
            extend: window.extend,
            lookback_ms: self.env.ctx.lookback_ms,
            use_start_timestamps: features.use_start_timestamps,
            type_and_unit_labels: features.type_and_unit_labels,
            pos: [node.arg_position(0), node.arg_position(1)],
        };
        let start_ts = features.use_start_timestamps && (f.uses_start_timestamps() || window.extend != Extend::No);
        let fold = Arc::new(WindowSpec { grid: node.grid, spec });
        match self.scan_of(node) {
            Some(scan) => {
                let need = Need { values: true, buckets: true, start_ts };
                self.fold(node, scan, need, f.keeps_name(), fold)
            }
            None => {
                let inner = node.inputs.first().and_then(PromNode::of);
                if let Some(inner) = inner {
                    self.env.charge_samples(inner.grid)?;
                }
                let inputs = self.inputs(node)?;
                if let Some(inner) = inner {
                    let series = inputs.first().and_then(|i| i.roster()).map_or(1, |r| r.rows.len());
                    self.env.ctx.plan_windows(series as u64, window_samples(func, window, node.grid, inner.grid))?;
                }
                let exec = self.exec(node, SubqueryFoldOp::new(node.grid, *window, fold), inputs);
                if f.keeps_name() { Ok(exec) } else { self.drop_names(node, exec) }
            }
        }
    }

    fn node(&self, node: &'a PromNode) -> Result<Arc<PromExec>, QueryError> {
        let grid = node.grid;
        match &node.op {
            PromOp::Empty => Ok(self.exec(node, transform::EmptyOp, Vec::new())),
            PromOp::Number(v) => Ok(self.exec(node, transform::ScalarSourceOp::new(grid, Some(v.get())), Vec::new())),
            PromOp::Time => Ok(self.exec(node, transform::ScalarSourceOp::new(grid, None), Vec::new())),
            PromOp::Instant { lookback, offset, record, smoothed } => {
                let Some(scan) = self.scan_of(node) else {
                    return Err(QueryError::Internal("a selector has a scan".into()));
                };
                let selector = InstantSelector {
                    lookback_ms: *lookback,
                    offset_ms: *offset,
                    fixed: false,
                    record_time: *record == Record::Timestamp,
                    record_start: *record == Record::StartTimestamp,
                };
                let spec = InstantSpec { grid, selector, smoothed: *smoothed, pos: node.pos };
                let need = Need { values: true, buckets: true, start_ts: selector.record_start };
                self.fold(node, scan, need, true, Arc::new(spec))
            }
            PromOp::Range { func, window, .. } => self.range(node, func, window),
            PromOp::Map { func, .. } => {
                let Some(f) = CellFn::from_name(func) else {
                    return Err(QueryError::Internal(format!("{func} is not a function of samples")));
                };
                let inputs = self.inputs(node)?;
                let op = MachineOp::same_series(node.op.details(), true, &inputs, move |_, args| {
                    Ok(vector::cells(Some(f), grid, args))
                });
                let map = self.exec(node, op, inputs);
                if elementwise::drops_name(func) { self.drop_names(node, map) } else { Ok(map) }
            }
            PromOp::Negate => {
                let inputs = self.inputs(node)?;
                let op = MachineOp::same_series(String::new(), true, &inputs, move |_, args| {
                    Ok(vector::cells(None, grid, args))
                });
                let map = self.exec(node, op, inputs);
                if scalar_valued(node) { Ok(map) } else { self.drop_names(node, map) }
            }
            PromOp::ScalarMap { func } => {
                let Some(func) = ScalarFn::from_name(func) else {
                    return Err(QueryError::Internal(format!("{func} is not a function of scalars")));
                };
                Ok(self.exec(node, transform::ScalarFnOp { func, grid }, self.inputs(node)?))
            }
            PromOp::ToVector => Ok(self.exec(node, transform::PassOp, self.inputs(node)?)),
            PromOp::ToScalar => Ok(self.exec(node, transform::ToScalarOp { grid }, self.inputs(node)?)),
            PromOp::StepInvariant => {
                let inputs = self.inputs(node)?;
                let roster = inputs.first().and_then(|i| i.roster().cloned());
                Ok(self.exec(node, transform::BroadcastOp { grid, roster }, inputs))
            }
            PromOp::Arith { op, sides: Sides::Scalars, .. } => {
                Ok(self.exec(node, transform::ScalarArithOp { op: *op }, self.inputs(node)?))
            }
            PromOp::RawWindow { window } => {
                let Some(scan) = self.scan_of(node) else {
                    return Ok(self.exec(node, RawRowsOp { window: *window }, self.inputs(node)?));
                };
                let read = TimeRange { min: scan.min, max: scan.max };
                let selected = scan::select(self.env, &scan.matchers, read)?;
                let until = grid.start.saturating_sub(window.offset);
                let after = until.saturating_sub(window.range);
                let op = RawScanOp { set: selected.set, roster: selected.roster, read, after, until, window: *window };
                let exec = self.exec(node, op, Vec::new());
                exec.meter().scanned(selected.probe);
                Ok(exec)
            }
            PromOp::DropNames => self.relabel(node, RelabelSpec::Cleanup, self.input(node, 0)?),
            PromOp::LabelReplace { dst, replacement, src, regex } => {
                let spec = RelabelSpec::Replace {
                    dst: dst.clone(),
                    replacement: replacement.clone(),
                    src: src.clone(),
                    regex: regex.clone(),
                };
                self.relabel(node, spec, self.input(node, 0)?)
            }
            PromOp::LabelJoin { dst, separator, src } => {
                let spec = RelabelSpec::Join { dst: dst.clone(), separator: separator.clone(), src: src.clone() };
                self.relabel(node, spec, self.input(node, 0)?)
            }
            PromOp::Aggregate { op, .. } if op.is_dense() => {
                if let Some(exec) = self.together(node)? {
                    return Ok(exec);
                }
                let Some(spec) = aggregate_spec(node) else {
                    return Err(QueryError::Internal(format!("{} is not a dense aggregation", op.as_str())));
                };
                self.machine(node, move |env, r, _| vector::aggregate(&spec, r, grid, env))
            }
            PromOp::Join { op, return_bool, matching } => {
                let (op, pos) = (*op, node.pos);
                let delayed = self.env.ctx.features.delayed_name_removal;
                let matching = matching.0.clone();
                let inputs = self.sides(node, op, &matching)?;
                let what = node.op.details();
                let join = if op.is_set() {
                    JoinOp::new(what, self.env, &inputs, move |_, l, r| vector::set(op, &matching, l, r, grid))?
                } else {
                    let spec = BinarySpec { op, matching, return_bool: *return_bool, delayed, pos };
                    JoinOp::new(what, self.env, &inputs, move |env, l, r| {
                        vector::binary(spec.clone(), l, r, grid, env)
                    })?
                };
                Ok(self.exec(node, join, inputs))
            }
            PromOp::Arith { op, return_bool, sides } => {
                let (op, return_bool, swapped) = (*op, *return_bool, *sides == Sides::ScalarVector);
                let mut inputs = self.inputs(node)?;
                if swapped {
                    inputs.swap(0, 1);
                }
                let spec = ScalarArith { op, return_bool, swapped, pos: node.pos };
                let silent = !op.is_trim();
                let machine = MachineOp::same_series(node.op.details(), silent, &inputs, move |_, args| {
                    Ok(Box::new(ScalarArithMachine::new(spec, vector::parameter(args)?)))
                });
                let exec = self.exec(node, machine, inputs);
                let drops = return_bool || changes_metric(op);
                if drops { self.drop_names(node, exec) } else { Ok(exec) }
            }
            PromOp::Aggregate { op, grouping, without, label } => {
                let (op, grouping, without) = (*op, grouping.clone(), *without);
                let (pos, expr_pos, param_pos) = (node.pos, node.arg_position(0), node.arg_position(1));
                match op {
                    AggregateOp::CountValues => {
                        let label = label.clone().unwrap_or_default();
                        let spec = CountValuesSpec { label, grouping, without };
                        self.machine(node, move |_, r, _| vector::count_values(&spec, r, grid))
                    }
                    AggregateOp::Quantile => {
                        let spec = QuantileSpec { grouping, without, expr_pos, param_pos };
                        self.machine(node, move |env, r, args| {
                            vector::quantile(&spec, r, grid, vector::parameter(args)?, env)
                        })
                    }
                    _ => {
                        let spec = SelectSpec { op, grouping, without, pos, param_pos };
                        self.machine(node, move |env, r, args| {
                            vector::select_k(&spec, r, grid, vector::parameter(args)?, env)
                        })
                    }
                }
            }
            PromOp::Sort { by, labels } => {
                let labels = labels.clone();
                let spec = match by {
                    Sort::Value => SortSpec::Value { desc: false },
                    Sort::ValueDesc => SortSpec::Value { desc: true },
                    Sort::Label => SortSpec::Label { labels, desc: false },
                    Sort::LabelDesc => SortSpec::Label { labels, desc: true },
                };
                let pos = node.pos;
                self.machine(node, move |env, r, _| Ok(vector::sort(spec.clone(), r, grid, pos, env)))
            }
            PromOp::Absent { labels } => {
                let labels = labels.clone();
                self.machine(node, move |_, _, _| Ok(vector::absent(labels.clone(), false, grid)))
            }
            PromOp::Info { matchers, offset, at } => {
                let op = InfoOp { grid, matchers: matchers.clone(), offset: *offset, at: *at };
                Ok(self.exec(node, op, self.inputs(node)?))
            }
            PromOp::Histogram { func, label } => {
                let (func, label, arg_pos) = (*func, label.clone(), node.arg_pos.clone());
                self.machine(node, move |env, r, args| {
                    histogram::histogram(func, label.as_deref(), &arg_pos, r, args, grid, env)
                })
            }
            PromOp::Scan(_) => Err(QueryError::Internal("raw samples are read by the window above them".into())),
        }
    }
}
