//! What a physical operator is, and how it is an `ExecutionPlan`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result as DfResult, plan_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::{Count, MetricValue, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Metric, PlanProperties};
use parking_lot::Mutex;
use quiver_core::Snapshot;

use crate::context::QueryContext;
use crate::error::QueryError;
use crate::exec::batch::{self, Columns};
use crate::exec::tile::{Roster, RosterRow, StepGrid, Tile};
use crate::explain::profile::{Meter, Profile};
use crate::promql::ast::Position;

/// What an evaluation works with.
pub struct RunEnv {
    /// Limits, cancellation, annotations.
    pub ctx: Arc<QueryContext>,
    /// What is stored.
    pub snapshot: Arc<dyn Snapshot>,
    /// Memory of this query.
    pub memory: Arc<dyn MemoryPool>,
    /// Threads large scans may use.
    pub threads: usize,
    /// Samples looked at.
    pub stats: StepStats,
    /// Clocks of operators, where the query is explained.
    pub profile: Option<Arc<Profile>>,
    /// Memory of rows over wide grids, kept for the whole query.
    wide: Arc<Mutex<MemoryReservation>>,
}

/// Rows from this many steps on are charged to the query's memory.
const WIDE: usize = 1 << 15;

impl RunEnv {
    /// An environment.
    pub fn new(
        ctx: Arc<QueryContext>,
        snapshot: Arc<dyn Snapshot>,
        memory: Arc<dyn MemoryPool>,
        threads: usize,
    ) -> Self {
        let wide = Arc::new(Mutex::new(MemoryConsumer::new("rows over many steps").register(&memory)));
        ctx.set_memory(&memory);
        Self { ctx, snapshot, memory, threads, stats: StepStats::default(), profile: None, wide }
    }

    /// The same, with clocks.
    pub fn profiled(mut self, profile: Option<Arc<Profile>>) -> Self {
        self.profile = profile;
        self
    }

    /// The same with counts of samples of its own, for a part that is evaluated on another grid.
    pub fn scoped(&self, grid: StepGrid, per_step: bool) -> Self {
        Self {
            ctx: Arc::clone(&self.ctx),
            snapshot: Arc::clone(&self.snapshot),
            memory: Arc::clone(&self.memory),
            threads: self.threads,
            stats: StepStats::new(grid, per_step, self.stats.reads()),
            profile: self.profile.clone(),
            wide: Arc::clone(&self.wide),
        }
    }

    /// The same, which counts samples per step and as input.
    pub fn counting(&self, grid: StepGrid) -> Self {
        Self { stats: StepStats::new(grid, true, true), ..self.scoped(grid, true) }
    }

    /// Charges what an operator over a wide grid needs at least: rows that are made, read and passed on.
    pub fn charge_width(&self, grid: StepGrid) -> Result<(), QueryError> {
        if grid.len < WIDE {
            return Ok(());
        }
        Ok(self.wide.lock().try_grow(grid.len.saturating_mul(24))?)
    }

    /// Charges what a function over the rows of a wide grid needs besides: a row as samples, and a copy of their values.
    pub fn charge_samples(&self, grid: StepGrid) -> Result<(), QueryError> {
        if grid.len < WIDE {
            return Ok(());
        }
        Ok(self.wide.lock().try_grow(grid.len.saturating_mul(32))?)
    }
}

impl fmt::Debug for RunEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunEnv").field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// What selectors looked at, over one grid, as Prometheus counts it.
#[derive(Debug, Default)]
pub struct StepStats {
    total: AtomicU64,
    series: AtomicU64,
    /// Per step, where that is wanted.
    steps: Option<Mutex<StepCounts>>,
    /// Are samples wanted as input, too?
    reads: bool,
}

/// Samples per step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepCounts {
    /// `totalQueryableSamples`: all that a step looks at.
    pub looked: Vec<u64>,
    /// `samplesRead`: what it looks at and the step before did not; empty where that is not wanted.
    pub read: Vec<u64>,
}

impl StepCounts {
    /// Nothing yet, over some steps; where `reads` is set also as input.
    pub fn new(steps: usize, reads: bool) -> Self {
        Self { looked: vec![0; steps], read: if reads { vec![0; steps] } else { Vec::new() } }
    }

    /// Counts at a step samples that the step before did not see.
    pub fn add(&mut self, step: usize, samples: u64) {
        self.add_looked(step, samples);
        self.add_read(step, samples);
    }

    /// Counts what a step looks at.
    pub fn add_looked(&mut self, step: usize, samples: u64) {
        if let Some(n) = self.looked.get_mut(step) {
            *n += samples;
        }
    }

    /// Counts input of a step.
    pub fn add_read(&mut self, step: usize, samples: u64) {
        if let Some(n) = self.read.get_mut(step) {
            *n += samples;
        }
    }

    /// Is input counted?
    pub fn reads(&self) -> bool {
        !self.read.is_empty()
    }

    fn absorb(&mut self, other: &StepCounts) {
        self.looked.iter_mut().zip(&other.looked).for_each(|(a, b)| *a += b);
        self.read.iter_mut().zip(&other.read).for_each(|(a, b)| *a += b);
    }
}

impl StepStats {
    /// For a grid; per step and as input where that is wanted.
    pub fn new(grid: StepGrid, per_step: bool, reads: bool) -> Self {
        let steps = (per_step || reads).then(|| Mutex::new(StepCounts::new(grid.len, reads)));
        Self { steps, reads, ..Self::default() }
    }

    /// Are counts per step wanted?
    pub fn per_step(&self) -> bool {
        self.steps.is_some()
    }

    /// Is input wanted?
    pub fn reads(&self) -> bool {
        self.reads
    }

    /// Counts series of a selector.
    pub fn touch(&self, series: u64) {
        self.series.fetch_add(series, Ordering::Relaxed);
    }

    /// Counts samples, and where it is wanted at which steps.
    pub fn add(&self, samples: u64, at: &StepCounts) {
        self.total.fetch_add(samples, Ordering::Relaxed);
        if let Some(steps) = &self.steps {
            steps.lock().absorb(at);
        }
    }

    /// Counts another evaluation, of a single step, at every step of a grid; what it read it read once.
    pub fn add_everywhere(&self, other: &StepStats, grid: StepGrid) {
        self.touch(other.series());
        self.total.fetch_add(other.total().saturating_mul(grid.len as u64), Ordering::Relaxed);
        if let Some(steps) = &self.steps {
            let mut steps = steps.lock();
            steps.looked.iter_mut().for_each(|s| *s += other.total());
            steps.add_read(0, other.steps().read.iter().sum());
        }
    }

    /// Counts samples at the first step.
    pub fn add_first(&self, samples: u64) {
        self.total.fetch_add(samples, Ordering::Relaxed);
        if let Some(steps) = &self.steps {
            steps.lock().add(0, samples);
        }
    }

    /// Counts another evaluation at the first step.
    pub fn absorb_first(&self, other: &StepStats) {
        self.touch(other.series());
        self.total.fetch_add(other.total(), Ordering::Relaxed);
        if let Some(steps) = &self.steps {
            let mut steps = steps.lock();
            steps.add_looked(0, other.total());
            steps.add_read(0, other.steps().read.iter().sum());
        }
    }

    /// Counts another evaluation on the same grid.
    pub fn absorb(&self, other: &StepStats) {
        self.touch(other.series());
        self.add(other.total(), &other.steps());
    }

    /// Samples looked at so far.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Series of selectors so far.
    pub fn series(&self) -> u64 {
        self.series.load(Ordering::Relaxed)
    }

    /// Per step; empty where that is not wanted.
    pub fn steps(&self) -> StepCounts {
        self.steps.as_ref().map(|s| s.lock().clone()).unwrap_or_default()
    }
}

/// Takes what an operator produces.
pub trait TileSink {
    /// Called once, before the first tile: the series of all tiles to come.
    fn begin(&mut self, roster: &Arc<Roster>) -> Result<(), QueryError>;
    /// A tile.
    fn push(&mut self, tile: Tile) -> Result<(), QueryError>;
}

/// The inside of a physical operator. It has no state of its own between runs.
pub trait TileOperator: fmt::Debug + Send + Sync {
    /// What stands in EXPLAIN after the name.
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// Evaluates, and pushes what comes out.
    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError>;

    /// Its series, where they are known before any sample is read.
    fn roster(&self) -> Option<&Arc<Roster>> {
        None
    }

    /// The samples of a range vector that is the answer itself.
    fn raw(&self, _env: &RunEnv, _inputs: &[Arc<PromExec>]) -> Result<Vec<crate::answer::AnswerSeries>, QueryError> {
        Err(QueryError::Internal("not a range vector".into()))
    }

    /// Told, before it is run, of which of its rows nobody makes use (`true`). It may leave them out, where nothing is to
    /// be reported of them either, and tells its inputs so. Returns how many series are not read for it.
    fn leave_out(&self, _inputs: &[Arc<PromExec>], _unused: &[bool]) -> usize {
        0
    }

    /// Which of its rows hold floats only, and have nothing to report (`true`); none where that is not known beforehand.
    fn silent_rows(&self, _inputs: &[Arc<PromExec>]) -> Option<Vec<bool>> {
        None
    }

    /// For a scan that folds: access to it by a parent that can take its rows where they are made.
    fn as_fold(&self) -> Option<&crate::exec::fold::FoldOp> {
        None
    }
}

/// A physical node: an operator, its grid and its inputs.
pub struct PromExec {
    name: &'static str,
    op: Arc<dyn TileOperator>,
    grid: StepGrid,
    inputs: Vec<Arc<PromExec>>,
    children: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
    env: Arc<RunEnv>,
    pos: Position,
    meter: Arc<Meter>,
}

impl fmt::Debug for PromExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.name).field("op", &self.op).field("inputs", &self.inputs).finish()
    }
}

impl PromExec {
    /// A node; `pos` is the part of the query it comes from.
    pub fn new(
        name: &'static str,
        op: Arc<dyn TileOperator>,
        grid: StepGrid,
        inputs: Vec<Arc<PromExec>>,
        pos: Position,
        env: &Arc<RunEnv>,
    ) -> Arc<Self> {
        Arc::new(Self::with_meter(name, op, grid, inputs, pos, env, Arc::default()))
    }

    fn with_meter(
        name: &'static str,
        op: Arc<dyn TileOperator>,
        grid: StepGrid,
        inputs: Vec<Arc<PromExec>>,
        pos: Position,
        env: &Arc<RunEnv>,
        meter: Arc<Meter>,
    ) -> Self {
        let children = inputs.iter().map(|i| Arc::clone(i) as Arc<dyn ExecutionPlan>).collect();
        let properties = batch::shape(grid.len, Columns::Values).properties;
        let env = Arc::clone(env);
        Self { name, op, grid, inputs, children, properties, env, pos, meter }
    }

    /// Steps it is evaluated at.
    pub fn grid(&self) -> StepGrid {
        self.grid
    }

    /// The operator.
    pub fn operator(&self) -> &Arc<dyn TileOperator> {
        &self.op
    }

    /// The part of the query it comes from.
    pub fn pos(&self) -> Position {
        self.pos
    }

    /// What it did so far.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// What it does, as EXPLAIN says it after the name.
    pub fn details(&self) -> String {
        struct Details<'a>(&'a dyn TileOperator);
        impl fmt::Display for Details<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.details(f)
            }
        }
        Details(&*self.op).to_string().trim().to_owned()
    }

    /// Inputs.
    pub fn inputs(&self) -> &[Arc<PromExec>] {
        &self.inputs
    }

    /// Its series, where they are known before any sample is read.
    pub fn roster(&self) -> Option<&Arc<Roster>> {
        self.op.roster()
    }

    /// Tells the operator of which of its rows nobody makes use; see [`TileOperator::leave_out`].
    pub fn leave_out(&self, unused: &[bool]) -> usize {
        if unused.contains(&true) { self.op.leave_out(&self.inputs, unused) } else { 0 }
    }

    /// Which of its rows are silent; see [`TileOperator::silent_rows`].
    pub fn silent_rows(&self) -> Option<Vec<bool>> {
        self.op.silent_rows(&self.inputs)
    }

    /// Evaluates into a sink.
    pub fn run(&self, env: &RunEnv, sink: &mut dyn TileSink) -> Result<(), QueryError> {
        env.ctx.check()?;
        let clock = env.profile.as_deref().map(|p| (p, p.switch(Some(Arc::clone(&self.meter)))));
        let mut counted = Counted { sink, rows: 0, tiles: 0, samples: 0, clock };
        let done = self.op.run(env, &self.inputs, &mut counted);
        let Counted { rows, tiles, samples, clock, .. } = counted;
        self.meter.runs.fetch_add(1, Ordering::Relaxed);
        self.meter.rows.fetch_add(rows, Ordering::Relaxed);
        self.meter.tiles.fetch_add(tiles, Ordering::Relaxed);
        if let Some((profile, caller)) = clock {
            self.meter.samples.fetch_add(samples, Ordering::Relaxed);
            profile.switch(caller);
        }
        done
    }

    /// Evaluates a range vector that is the answer itself.
    pub fn raw(&self, env: &RunEnv) -> Result<Vec<crate::answer::AnswerSeries>, QueryError> {
        env.ctx.check()?;
        let clock = env.profile.as_deref().map(|p| (p, p.switch(Some(Arc::clone(&self.meter)))));
        let done = self.op.raw(env, &self.inputs);
        if let Ok(series) = &done {
            let samples: usize = series.iter().map(|s| s.floats.len() + s.histograms.len()).sum();
            self.meter.runs.fetch_add(1, Ordering::Relaxed);
            self.meter.rows.fetch_add(series.len() as u64, Ordering::Relaxed);
            self.meter.samples.fetch_add(samples as u64, Ordering::Relaxed);
        }
        if let Some((profile, caller)) = clock {
            profile.switch(caller);
        }
        done
    }

    /// Evaluates into a list.
    pub fn collect(&self, env: &RunEnv) -> Result<(Arc<Roster>, Vec<Tile>), QueryError> {
        let mut c = Collect::default();
        self.run(env, &mut c)?;
        Ok((c.roster.unwrap_or_default(), c.tiles))
    }

    /// Evaluates a scalar: one value per step.
    pub fn collect_scalar(&self, env: &RunEnv) -> Result<Vec<f64>, QueryError> {
        let (_, tiles) = self.collect(env)?;
        match tiles.into_iter().next() {
            Some(t) if t.rows() == 1 => Ok(t.values),
            _ => Err(QueryError::Internal("a scalar has one row".into())),
        }
    }
}

/// Counts what passes. While whoever called has the tile, the clock runs for that one.
struct Counted<'a> {
    sink: &'a mut dyn TileSink,
    rows: u64,
    tiles: u64,
    samples: u64,
    clock: Option<(&'a Profile, Option<Arc<Meter>>)>,
}

impl Counted<'_> {
    fn handed_on(&mut self, work: impl FnOnce(&mut dyn TileSink) -> Result<(), QueryError>) -> Result<(), QueryError> {
        let Some((profile, caller)) = &self.clock else { return work(self.sink) };
        let own = profile.switch(caller.clone());
        let done = work(self.sink);
        profile.switch(own);
        done
    }
}

impl TileSink for Counted<'_> {
    fn begin(&mut self, roster: &Arc<Roster>) -> Result<(), QueryError> {
        self.handed_on(|sink| sink.begin(roster))
    }

    fn push(&mut self, tile: Tile) -> Result<(), QueryError> {
        self.rows += tile.rows() as u64;
        self.tiles += 1;
        if self.clock.is_some() {
            self.samples += tile.samples();
        }
        self.handed_on(|sink| sink.push(tile))
    }
}

/// Keeps all that comes.
#[derive(Default)]
pub struct Collect {
    /// Series.
    pub roster: Option<Arc<Roster>>,
    /// Tiles, in the order they came.
    pub tiles: Vec<Tile>,
}

impl TileSink for Collect {
    fn begin(&mut self, roster: &Arc<Roster>) -> Result<(), QueryError> {
        self.roster = Some(Arc::clone(roster));
        Ok(())
    }

    fn push(&mut self, tile: Tile) -> Result<(), QueryError> {
        self.tiles.push(tile);
        Ok(())
    }
}

/// The roster of a scalar: one series without labels.
pub fn scalar_roster() -> Arc<Roster> {
    static ROSTER: std::sync::OnceLock<Arc<Roster>> = std::sync::OnceLock::new();
    Arc::clone(ROSTER.get_or_init(|| {
        Arc::new(Roster { rows: vec![RosterRow { labels: quiver_model::Labels::empty(), drop_name: false }] })
    }))
}

/// A one-row tile with a value at every step.
pub fn scalar_tile(values: Vec<f64>) -> Tile {
    let width = values.len();
    let mut present = vec![u64::MAX; width.div_ceil(64)];
    let rest = width & 63;
    if rest != 0
        && let Some(last) = present.last_mut()
    {
        *last = (1 << rest) - 1;
    }
    Tile { width, sids: vec![0], values, present, ..Tile::default() }
}

impl From<QueryError> for DataFusionError {
    fn from(e: QueryError) -> Self {
        DataFusionError::External(Box::new(e))
    }
}

impl From<DataFusionError> for QueryError {
    fn from(e: DataFusionError) -> Self {
        match e {
            DataFusionError::External(inner) => match inner.downcast::<QueryError>() {
                Ok(q) => *q,
                Err(other) => QueryError::Internal(other.to_string()),
            },
            DataFusionError::ResourcesExhausted(what) => QueryError::CostLimit(what),
            DataFusionError::Context(_, inner) => (*inner).into(),
            other => QueryError::Internal(other.to_string()),
        }
    }
}

impl From<quiver_core::ReadError> for QueryError {
    fn from(e: quiver_core::ReadError) -> Self {
        match e {
            quiver_core::ReadError::Limit(text) => QueryError::CostLimit(text),
            other => QueryError::Internal(other.to_string()),
        }
    }
}

impl DisplayAs for PromExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}Exec:", self.name)?;
        self.op.details(f)?;
        if let Some(r) = self.roster() {
            write!(f, " series={}", r.rows.len())?;
        }
        write!(f, " steps={}", self.grid.len)
    }
}

/// Sends tiles as batches.
struct Sender {
    tx: tokio::sync::mpsc::Sender<DfResult<arrow::array::RecordBatch>>,
}

impl TileSink for Sender {
    fn begin(&mut self, _roster: &Arc<Roster>) -> Result<(), QueryError> {
        Ok(())
    }

    fn push(&mut self, tile: Tile) -> Result<(), QueryError> {
        let b = batch::to_batch(tile, Columns::Values)?;
        self.tx.blocking_send(Ok(b)).map_err(|_| QueryError::Canceled("the reader of the result has gone".into()))
    }
}

impl ExecutionPlan for PromExec {
    fn name(&self) -> &str {
        self.name
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.children.iter().collect()
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; self.children.len()]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        let same = children.len() == self.children.len()
            && children.iter().zip(&self.children).all(|(a, b)| Arc::ptr_eq(a, b));
        if same {
            return Ok(self);
        }
        let mut inputs = Vec::with_capacity(children.len());
        for c in children {
            let any: Arc<dyn std::any::Any + Send + Sync> = c;
            match any.downcast::<PromExec>() {
                Ok(p) => inputs.push(p),
                Err(_) => return plan_err!("{} takes inputs of its own kind only", self.name),
            }
        }
        Ok(PromExec::new(self.name, Arc::clone(&self.op), self.grid, inputs, self.pos, &self.env))
    }

    fn execute(&self, partition: usize, _context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return plan_err!("{} has one partition", self.name);
        }
        let mut builder = RecordBatchReceiverStream::builder(self.schema(), 2);
        let tx = builder.tx();
        let (op, inputs, meter) = (Arc::clone(&self.op), self.inputs.clone(), Arc::clone(&self.meter));
        let me = PromExec::with_meter(self.name, op, self.grid, inputs, self.pos, &self.env, meter);
        builder.spawn_blocking(move || {
            let env = Arc::clone(&me.env);
            me.run(&env, &mut Sender { tx }).map_err(DataFusionError::from)
        });
        Ok(builder.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        let mut set = MetricsSet::new();
        let count = |v: &AtomicU64| {
            let c = Count::new();
            c.add(v.load(Ordering::Relaxed) as usize);
            c
        };
        set.push(Arc::new(Metric::new(MetricValue::OutputRows(count(&self.meter.rows)), Some(0))));
        let tiles = MetricValue::Count { name: "tiles".into(), count: count(&self.meter.tiles) };
        set.push(Arc::new(Metric::new(tiles, Some(0))));
        Some(set)
    }
}
