//! The front: takes a query, gives an answer, within limits.
//!
//! ```text
//! promql() ─▶ admission ─▶ blocking thread with a deep stack: parse, plan, look up series, evaluate ─▶ answer
//! ```
//!
//! Invariants
//! 1. Every evaluation holds a permit ([`crate::admission`]); one inside an SQL statement runs under the statement's.
//! 2. A query whose caller went away, whose time is up, or that was killed stops at the next check, inside kernels too.
//! 3. Memory is reserved from a pool of the query under one pool of all queries.

mod light;
pub(crate) mod result;
pub mod reuse;
#[cfg(test)]
mod rules;
#[cfg(test)]
pub(crate) mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::execution::memory_pool::MemoryPool;
use futures::future::BoxFuture;
use quick_cache::sync::Cache;
use quiver_core::turns::take_turns;
use quiver_core::{Snapshot, Source, build_with_workers};
use quiver_model::{Limits, LiveLimits};
use tokio_util::sync::CancellationToken;

use crate::admission::{ActiveQueries, Admission, Class, PERMITS_MAX, Permit, QueryPool};
use crate::answer::{Answer, AnswerSeries, AnswerValue, PromqlRequest, QueryOptions, QueryStats};
use crate::context::{Features, QueryContext};
use crate::error::QueryError;
use crate::exec::operator::{Collect, PromExec, RunEnv};
use crate::exec::tile::{Roster, StepGrid, Tile};
use crate::explain::profile::Profile;
use crate::explain::{self, Explain, ExplainMode};
use crate::plan::reach::Reach;
use crate::plan::{self, Lowered, PromNode};
use crate::promql;
use crate::promql::ast::{Expr, ValueType};

use light::Parsed;
pub use reuse::ReuseFigures;
use reuse::{Known, Reuse};

/// Stack of the threads that parse, plan and evaluate; only what is touched is ever backed by memory.
const STACK_BYTES: usize = 64 << 20;
/// Parsed queries kept.
const PARSED_MAX: usize = 1024;
/// Longer queries are not kept.
const PARSED_BYTES_MAX: usize = 16 << 10;

/// How an engine is set up.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Limits at the start.
    pub limits: Limits,
    /// Features.
    pub features: Features,
    /// How far back an instant selector looks, ms.
    pub lookback_ms: i64,
    /// Step of subqueries that name none, ms.
    pub default_step_ms: i64,
    /// Threads one large scan may use; 0: as many as there are cores.
    pub threads: usize,
    /// Answers of range queries that took so long at least are kept for the next time.
    pub reuse_from: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            features: Features::default(),
            lookback_ms: 300_000,
            default_step_ms: 60_000,
            threads: 0,
            reuse_from: Duration::from_micros(500),
        }
    }
}

/// Where a query is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// On the thread that asks.
    Here,
    /// On a blocking one with a deep stack.
    Thread,
}

/// Answers PromQL over a source. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    source: Arc<dyn Source>,
    options: EngineOptions,
    limits: LiveLimits,
    threads: usize,
    admission: Admission,
    parsed: Cache<Arc<str>, Arc<Parsed>>,
    reuse: Reuse,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // May be dropped inside another runtime, where waiting is not allowed.
        if let Some(rt) = self.runtime.take() {
            rt.shutdown_background();
        }
    }
}

/// The value of a plan before it is an answer: rows over a grid.
#[derive(Debug)]
pub struct Evaluated {
    /// Type of the value.
    pub kind: ValueType,
    /// Steps.
    pub grid: StepGrid,
    /// Series.
    pub roster: Arc<Roster>,
    /// Rows, one per series.
    pub tiles: Vec<Tile>,
}

/// A planned query.
pub struct Planned {
    /// The logical plan, or the text of a string literal.
    pub lowered: Lowered,
    /// The physical plan.
    pub exec: Option<Arc<PromExec>>,
    /// What it is evaluated with.
    pub env: Arc<RunEnv>,
}

impl Engine {
    /// How queries are parsed here.
    pub fn parse_options(&self) -> promql::ParseOptions {
        promql::ParseOptions::new(&self.inner.limits.get(), self.inner.options.features)
    }

    /// An engine.
    pub fn new(source: Arc<dyn Source>, options: EngineOptions) -> std::io::Result<Self> {
        let limits = LiveLimits::from(options.limits.clone());
        Self::sharing(source, options, limits)
    }

    /// An engine that looks at shared limits, whatever its options say of them.
    pub fn sharing(source: Arc<dyn Source>, options: EngineOptions, limits: LiveLimits) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = if options.threads == 0 { cores } else { options.threads };
        // Nothing runs on its own thread but blocking work.
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.thread_name("quiver-query").on_thread_start(take_turns).thread_stack_size(STACK_BYTES);
        // Threads are started when they are needed: permits bound their number.
        builder.max_blocking_threads(PERMITS_MAX + 4);
        let runtime = build_with_workers(&mut builder)?;
        let admission = Admission::new(limits.clone());
        Ok(Self {
            inner: Arc::new(Inner {
                source,
                limits,
                threads,
                admission,
                parsed: Cache::new(PARSED_MAX),
                reuse: Reuse::new(options.limits.result_cache_bytes_max, options.reuse_from),
                runtime: Some(runtime),
                options,
            }),
        })
    }

    /// Its options.
    pub fn options(&self) -> &EngineOptions {
        &self.inner.options
    }

    /// Queries that wait or run.
    pub fn active(&self) -> &ActiveQueries {
        self.inner.admission.active()
    }

    /// The present state of what is stored.
    pub fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.inner.source.snapshot()
    }

    /// What was reused of earlier answers.
    pub fn reuse(&self) -> ReuseFigures {
        self.inner.reuse.figures()
    }

    /// Memory all queries share.
    pub fn memory(&self) -> &Arc<dyn MemoryPool> {
        self.inner.admission.memory()
    }

    /// Who may run.
    pub fn admission(&self) -> &Admission {
        &self.inner.admission
    }

    /// Answers a query. (In a box, as all futures that other crates poll: what is inside is compiled here, and once.)
    pub fn promql(&self, request: PromqlRequest) -> BoxFuture<'_, Result<Answer, QueryError>> {
        Box::pin(self.promql_as(request, |answer| answer))
    }

    /// Answers a query and hands the answer to `then`, still under the permit of the query and on its thread: how many answers
    /// there are that nothing was made of yet is bounded, too.
    pub fn promql_then(
        &self,
        request: PromqlRequest,
        then: Box<dyn FnOnce(Answer) + Send>,
    ) -> BoxFuture<'_, Result<(), QueryError>> {
        Box::pin(self.promql_as(request, then))
    }

    async fn promql_as<T: Send + 'static>(
        &self,
        request: PromqlRequest,
        then: impl FnOnce(Answer) -> T + Send + 'static,
    ) -> Result<T, QueryError> {
        check_request(&request, &self.inner.limits.get())?;
        let (text, options) = (request.query.clone(), request.options.clone());
        let is_instant = request.step == 0 && request.start == request.end;
        let is_plain = is_instant && options.explain == ExplainMode::Off && !self.inner.source.may_wait();
        let is_light = is_plain && self.inner.parsed.get(&*text).is_some_and(|p| p.is_light());
        let place = if is_light { Place::Here } else { Place::Thread };
        let work = move |engine: &Engine, ctx: &Arc<QueryContext>, queued| {
            let began = Instant::now();
            let answer = engine.answer(&request, ctx, queued);
            if is_plain && let Some(parsed) = engine.inner.parsed.get(&*request.query) {
                parsed.took(began.elapsed());
            }
            answer.map(then)
        };
        self.run(&text, &options, place, work).await
    }

    /// The logical and the physical plan of a query as text.
    pub fn explain(&self, request: PromqlRequest) -> BoxFuture<'_, Result<String, QueryError>> {
        Box::pin(async move {
            check_request(&request, &self.inner.limits.get())?;
            let (text, options) = (request.query.clone(), request.options.clone());
            self.admitted(&text, &options, move |engine, ctx, _| engine.explain_text(&request, ctx)).await
        })
    }

    /// Answers a query that is part of other work, under the permit of that work.
    pub fn promql_under<'a>(
        &'a self,
        permit: &'a Arc<Permit>,
        pool: &'a Arc<dyn MemoryPool>,
        request: PromqlRequest,
    ) -> BoxFuture<'a, Result<Answer, QueryError>> {
        Box::pin(async move {
            check_request(&request, &self.inner.limits.get())?;
            let mut ctx = self.context(&request.query, &request.options, permit.ctx.deadline);
            ctx.cancel = permit.ctx.cancel.child_token();
            ctx.pool = Some(Arc::clone(pool));
            let (ctx, held) = (Arc::new(ctx), Arc::clone(permit));
            let work = move |engine: &Engine, ctx: &Arc<QueryContext>| {
                let answer = engine.answer(&request, ctx, Duration::ZERO);
                // What it read counts for the whole.
                let counted = held.ctx.count_read(ctx.samples_read());
                answer.and_then(|a| counted.map(|()| a))
            };
            self.evaluate_on(Place::Thread, &ctx, work).await
        })
    }

    /// A permit for an export, which may take as long as its client reads.
    pub fn admit_export(&self, text: &str) -> BoxFuture<'_, Result<Permit, QueryError>> {
        let ctx = Arc::new(self.context(text, &QueryOptions::default(), None));
        Box::pin(self.inner.admission.enter(Class::Export, ctx))
    }

    /// Waits for a permit, then runs `work` on a blocking thread with a deep stack.
    pub async fn admitted<T: Send + 'static>(
        &self,
        text: &str,
        options: &QueryOptions,
        work: impl FnOnce(&Engine, &Arc<QueryContext>, Duration) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        self.run(text, options, Place::Thread, work).await
    }

    async fn run<T: Send + 'static>(
        &self,
        text: &str,
        options: &QueryOptions,
        place: Place,
        work: impl FnOnce(&Engine, &Arc<QueryContext>, Duration) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let deadline = self.deadline(options.timeout_ms);
        let ctx = Arc::new(self.context(text, options, Some(deadline)));
        // Whoever drops this future (a client that left) stops the query.
        let _stop = StopOnDrop(ctx.cancel.clone());
        let permit = self.inner.admission.enter(Class::Dashboard, Arc::clone(&ctx)).await?;
        let work = move |engine: &Engine, ctx: &Arc<QueryContext>| {
            let result = work(engine, ctx, permit.queued);
            drop(permit);
            result
        };
        self.evaluate_on(place, &ctx, work).await
    }

    /// When work that comes now has to be done.
    pub(crate) fn deadline(&self, timeout_ms: Option<u64>) -> Instant {
        let max = self.inner.limits.get().query_timeout_ms;
        Instant::now() + Duration::from_millis(timeout_ms.unwrap_or(max).min(max))
    }

    async fn evaluate_on<T: Send + 'static>(
        &self,
        place: Place,
        ctx: &Arc<QueryContext>,
        work: impl FnOnce(&Engine, &Arc<QueryContext>) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let Some(rt) = &self.inner.runtime else {
            return Err(QueryError::Busy("the engine is shutting down".into()));
        };
        let (engine, query) = (self.clone(), Arc::clone(ctx));
        let job = move || work(&engine, &query).map_err(|e| query.reason(e));
        let panicked = || {
            tracing::error!(query = ctx.query, "a query panicked");
            Err(QueryError::Internal("unexpected error: the evaluation of the query panicked".into()))
        };
        if place == Place::Here {
            return catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| panicked());
        }
        match rt.spawn_blocking(job).await {
            Ok(result) => result,
            Err(e) if e.is_panic() => panicked(),
            Err(_) => Err(QueryError::Busy("the engine is shutting down".into())),
        }
    }

    /// What work under a permit of its own shares.
    pub(crate) fn context(&self, text: &str, options: &QueryOptions, deadline: Option<Instant>) -> QueryContext {
        let o = &self.inner.options;
        let mut features = o.features;
        if let Some(on) = options.use_start_timestamps {
            features.use_start_timestamps = on;
        }
        let mut ctx = QueryContext::new(text, self.inner.limits.get(), features);
        ctx.lookback_ms = options.lookback_ms.filter(|l| *l > 0).unwrap_or(o.lookback_ms);
        ctx.default_step_ms = o.default_step_ms;
        ctx.cancel = options.cancel.child_token();
        ctx.hints = options.hints;
        ctx.deadline = deadline;
        ctx
    }

    fn env(&self, ctx: &Arc<QueryContext>, explain: ExplainMode) -> Arc<RunEnv> {
        let profile = (explain != ExplainMode::Off).then(Arc::<Profile>::default);
        let parent = ctx.pool.as_ref().unwrap_or_else(|| self.inner.admission.memory());
        let memory = QueryPool::profiled(parent, ctx.limits.query_memory_bytes_max, profile.clone());
        // A hint may ask for fewer threads than there are, not for more.
        let threads = ctx.hints.parallelism.map_or(self.inner.threads, |n| n.min(self.inner.threads));
        let env = RunEnv::new(Arc::clone(ctx), self.inner.source.snapshot(), memory, threads);
        Arc::new(env.profiled(profile))
    }

    /// Parses and plans a query; on a thread with a deep stack.
    pub fn plan(&self, request: &PromqlRequest, ctx: &Arc<QueryContext>) -> Result<Planned, QueryError> {
        let expr = self.parse(&request.query)?;
        let instant = request.step == 0 && request.start == request.end;
        check_type(&expr, instant)?;
        let expr = promql::preprocess((*expr).clone(), request.start, request.end, request.step)
            .map_err(QueryError::BadData)?;
        self.plan_expr(expr, request, ctx)
    }

    /// Parses a query, or remembers it.
    pub fn parse(&self, text: &str) -> Result<Arc<Expr>, QueryError> {
        if let Some(known) = self.inner.parsed.get(text) {
            return Ok(Arc::clone(&known.expr));
        }
        let expr = promql::parse_expr(text, &self.parse_options()).map_err(|e| QueryError::BadData(e.to_string()))?;
        let expr = Arc::new(expr);
        if text.len() <= PARSED_BYTES_MAX {
            self.inner.parsed.insert(text.into(), Arc::new(Parsed::new(Arc::clone(&expr))));
        }
        Ok(expr)
    }

    pub(crate) fn plan_expr(
        &self,
        expr: Expr,
        request: &PromqlRequest,
        ctx: &Arc<QueryContext>,
    ) -> Result<Planned, QueryError> {
        let lowered = plan::lower_query(&expr, request.start, request.end, request.step, ctx)?;
        let mut env = self.env(ctx, request.options.explain);
        if let (Lowered::Plan(_, _, grid), true) = (&lowered, request.options.per_step_stats) {
            env = Arc::new(env.counting(*grid));
        }
        let exec = match &lowered {
            Lowered::Plan(p, ..) => Some(plan::physical::build(p, &env)?),
            Lowered::Text(_) => None,
        };
        Ok(Planned { lowered, exec, env })
    }

    /// Evaluates a planned query to rows; not for string literals and range vectors.
    pub fn evaluate(&self, planned: &Planned) -> Result<Evaluated, QueryError> {
        let (Lowered::Plan(_, kind, grid), Some(exec)) = (&planned.lowered, &planned.exec) else {
            return Err(QueryError::Execution("a string has no rows".into()));
        };
        let mut sink = result::Held::new(&planned.env, Collect::default());
        exec.run(&planned.env, &mut sink)?;
        let Collect { roster, tiles } = sink.into_inner();
        Ok(Evaluated { kind: *kind, grid: *grid, roster: roster.unwrap_or_default(), tiles })
    }

    fn answer(&self, request: &PromqlRequest, ctx: &Arc<QueryContext>, queued: Duration) -> Result<Answer, QueryError> {
        let begun = Instant::now();
        let reuse = &self.inner.reuse;
        let (Some(key), Some(changes)) = (reuse.key(request, ctx), self.inner.source.changes()) else {
            let planned = self.plan(request, ctx)?;
            return self.answer_planned(planned, request, ctx, queued, begun);
        };
        // Before any snapshot.
        let number = changes.number();
        if let Some(known) = reuse.known(&key, request, |n| changes.since(n))
            && let Some(answer) = self.complete(&known, request, ctx, queued, begun)?
        {
            if answer.annotations.is_empty()
                && !answer.truncated
                && !known.runs().is_empty()
                && let Some(series) = reuse::matrix(&answer.value)
            {
                reuse.keep(key, request, number, Reuse::reach(&known), series);
            }
            return Ok(answer);
        }
        let planned = self.plan(request, ctx)?;
        let reach = self.reach(&planned);
        let answer = self.answer_planned(planned, request, ctx, queued, begun)?;
        if let Some(reach) = reach
            && answer.annotations.is_empty()
            && !answer.truncated
            && reuse.is_worth(begun.elapsed())
            && let Some(series) = reuse::matrix(&answer.value)
        {
            reuse.keep(key, request, number, reach, series);
        }
        Ok(answer)
    }

    /// How far the steps of a plan reach, if each depends on what lies there alone.
    fn reach(&self, planned: &Planned) -> Option<Reach> {
        let (Lowered::Plan(p, ..), Some(exec)) = (&planned.lowered, &planned.exec) else { return None };
        let reach = plan::reach::reach(PromNode::of(p)?)?;
        reuse::has_floats_only(exec).then_some(reach)
    }

    /// The answer of a request of which some steps are known; `None` where the others are not of the kind that can be put
    /// beside them.
    fn complete(
        &self,
        known: &Known,
        request: &PromqlRequest,
        ctx: &Arc<QueryContext>,
        queued: Duration,
        begun: Instant,
    ) -> Result<Option<Answer>, QueryError> {
        let mut evaluated = Vec::with_capacity(known.runs().len());
        let mut stats = QueryStats { queue_seconds: queued.as_secs_f64(), ..QueryStats::default() };
        // All are looked at before one is evaluated: what is evaluated is charged to the query.
        let from = Instant::now();
        let mut plans = Vec::with_capacity(known.runs().len());
        for run in known.runs() {
            let planned = self.plan(&PromqlRequest { start: run.first, end: run.last, ..request.clone() }, ctx)?;
            if self.reach(&planned) != Some(Reuse::reach(known)) {
                return Ok(None);
            }
            plans.push(planned);
        }
        let prepared = from.elapsed();
        for planned in plans {
            match result::value(self.evaluate(&planned)?, false, &planned.env)? {
                AnswerValue::Matrix(series) => evaluated.push(series),
                _ => return Ok(None),
            }
            stats.queryable_samples += planned.env.stats.total();
            stats.series_touched += planned.env.stats.series();
        }
        let points = |series: &[AnswerSeries]| series.iter().map(|s| s.floats.len()).sum::<usize>();
        // What was evaluated was charged as it was.
        let charged: usize = evaluated.iter().map(|series| points(series)).sum();
        let series = known.join(request, evaluated);
        let more = points(&series).saturating_sub(charged);
        ctx.keep_bytes(more * 16 + series.len() * size_of::<AnswerSeries>())?;
        ctx.check()?;
        let mut truncated = false;
        let value = result::cut(AnswerValue::Matrix(series), request.options.limit, &mut truncated);
        stats.samples_read = ctx.samples_read();
        stats.peak_samples = ctx.samples_peak();
        stats.prepare_seconds = prepared.as_secs_f64();
        stats.eval_seconds = begun.elapsed().saturating_sub(prepared).as_secs_f64();
        Ok(Some(Answer { value, annotations: ctx.annotations(), truncated, stats, explain: None }))
    }

    pub(crate) fn answer_planned(
        &self,
        planned: Planned,
        request: &PromqlRequest,
        ctx: &Arc<QueryContext>,
        queued: Duration,
        begun: Instant,
    ) -> Result<Answer, QueryError> {
        let prepared = begun.elapsed();
        let mut truncated = false;
        let value = match &planned.lowered {
            _ if request.options.explain == ExplainMode::Plan => match request.step {
                0 => AnswerValue::Vector(Vec::new()),
                _ => AnswerValue::Matrix(Vec::new()),
            },
            Lowered::Text(s) => AnswerValue::String(request.start, s.clone()),
            Lowered::Plan(_, ValueType::Matrix, _) => {
                let Some(exec) = &planned.exec else { return Err(QueryError::Internal("no plan".into())) };
                let mut series = exec.raw(&planned.env)?;
                series.sort_by(|a, b| a.labels.cmp(&b.labels));
                AnswerValue::Matrix(series)
            }
            Lowered::Plan(..) => {
                let instant = request.step == 0 && request.start == request.end;
                result::value(self.evaluate(&planned)?, instant, &planned.env)?
            }
        };
        let value = result::cut(value, request.options.limit, &mut truncated);
        ctx.check()?;
        let at_steps = |counts: Vec<u64>| match &planned.lowered {
            Lowered::Plan(_, _, grid) => counts.into_iter().enumerate().map(|(i, n)| (grid.time(i), n)).collect(),
            Lowered::Text(_) => Vec::new(),
        };
        let counts = planned.env.stats.steps();
        let stats = QueryStats {
            samples_read: ctx.samples_read(),
            queryable_samples: planned.env.stats.total(),
            queryable_samples_per_step: at_steps(counts.looked),
            input_samples: counts.read.iter().sum(),
            input_samples_per_step: at_steps(counts.read),
            series_touched: planned.env.stats.series(),
            peak_samples: ctx.samples_peak(),
            prepare_seconds: prepared.as_secs_f64(),
            queue_seconds: queued.as_secs_f64(),
            eval_seconds: begun.elapsed().saturating_sub(prepared).as_secs_f64(),
        };
        let explain =
            (request.options.explain != ExplainMode::Off).then(|| Box::new(explained(&planned, request, &stats)));
        Ok(Answer { value, annotations: ctx.annotations(), truncated, stats, explain })
    }

    fn explain_text(&self, request: &PromqlRequest, ctx: &Arc<QueryContext>) -> Result<String, QueryError> {
        let planned = self.plan(request, ctx)?;
        let mut out = String::new();
        if let Lowered::Plan(p, ..) = &planned.lowered {
            out.push_str(&format!("logical plan\n{}\n", p.display_indent()));
        }
        if let Some(e) = &planned.exec {
            let plan = datafusion::physical_plan::displayable(e.as_ref()).indent(false).to_string();
            out.push_str(&format!("\nphysical plan\n{plan}"));
        }
        Ok(out)
    }
}

/// The explanation of a query that was planned and, where that was asked for, evaluated.
fn explained(planned: &Planned, request: &PromqlRequest, stats: &QueryStats) -> Explain {
    let analyzed = request.options.explain == ExplainMode::Analyze;
    let mut trees = explain::Trees::new(&planned.env, analyzed);
    let root = planned.exec.as_ref().map(|e| trees.of(e));
    let profile = planned.env.profile.as_deref().filter(|_| analyzed);
    Explain {
        mode: request.options.explain.name().to_owned(),
        query: request.query.clone(),
        hints: request.options.hints.texts(),
        root,
        total: profile.map(|p| explain::total(p, trees.read(), stats)),
    }
}

/// A range query gives a scalar or an instant vector at each step.
fn check_type(expr: &Expr, instant: bool) -> Result<(), QueryError> {
    let word = match expr.value_type() {
        ValueType::Vector | ValueType::Scalar => return Ok(()),
        _ if instant => return Ok(()),
        ValueType::Matrix => "range vector",
        ValueType::String => "string",
    };
    Err(QueryError::BadData(format!(
        "invalid expression type \"{word}\" for range query, must be Scalar or instant Vector"
    )))
}

fn check_request(request: &PromqlRequest, limits: &Limits) -> Result<(), QueryError> {
    if request.query.len() > limits.query_bytes_max {
        return Err(QueryError::BadData(format!("a query may have at most {} bytes", limits.query_bytes_max)));
    }
    if request.end < request.start {
        return Err(QueryError::BadData("end timestamp must not be before start time".into()));
    }
    if request.step < 0 || (request.step == 0 && request.end != request.start) {
        return Err(QueryError::BadData(
            "zero or negative query resolution step widths are not accepted. Try a positive integer".into(),
        ));
    }
    if request.step > 0 && request.end.saturating_sub(request.start) / request.step > limits.query_points_max {
        return Err(QueryError::BadData(too_many_points(limits.query_points_max)));
    }
    Ok(())
}

/// What is said against a range query of more points than the limit.
pub fn too_many_points(max: i64) -> String {
    let max = grouped(max);
    format!(
        "exceeded maximum resolution of {max} points per timeseries. Try decreasing the query resolution (?step=XX)"
    )
}

/// 11000 as `11,000`.
fn grouped(n: i64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

struct StopOnDrop(CancellationToken);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
