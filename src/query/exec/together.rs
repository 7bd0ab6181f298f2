//! Several aggregations of one input, made while it is read once: `max(x) - min(x)`, `sum(rate(x[5m])) / count(rate(x[5m]))`.
//!
//! ```text
//! input ─▶ tile ─┬─▶ max                 whoever is asked first reads the input for all;
//!                └─▶ min, kept           the others have their answer then: groups, not series
//! ```

use std::fmt;
use std::sync::Arc;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use parking_lot::Mutex;

use crate::annotation::Annotations;
use crate::error::QueryError;
use crate::exec::machine::Each;
use crate::exec::operator::{PromExec, RunEnv, StepStats, TileOperator, TileSink};
use crate::exec::shared::translated;
use crate::exec::tile::{Roster, StepGrid, Tile};
use crate::exec::transform::only;
use crate::exec::vector::push_all;
use crate::kernels::operators::{Aggregate, AggregateSpec};
use crate::optimize::share::Translation;

/// The aggregations of one input.
pub struct Together {
    specs: Vec<AggregateSpec>,
    grid: StepGrid,
    /// Positions in the first occurrence of the input, and in the others.
    translations: Arc<Vec<Translation>>,
    done: Mutex<Option<Done>>,
}

/// What is there once the input was read.
struct Done {
    /// By aggregation, until it is asked for: its answer, and what it reports.
    answers: Vec<Option<(Vec<Tile>, Annotations)>>,
    /// What the input reports, of the places in its first occurrence.
    notes: Annotations,
    stats: StepStats,
    _memory: MemoryReservation,
}

impl Together {
    /// Aggregations over one input, of which there are as many occurrences.
    pub fn new(specs: Vec<AggregateSpec>, grid: StepGrid, translations: Arc<Vec<Translation>>) -> Self {
        Self { specs, grid, translations, done: Mutex::new(None) }
    }

    fn read(&self, env: &RunEnv, input: &PromExec, roster: &Arc<Roster>) -> Result<Done, QueryError> {
        let memory = MemoryConsumer::new("aggregations of one input").register(&env.memory);
        let mut all = Vec::with_capacity(self.specs.len());
        for spec in &self.specs {
            let (op, _) = Aggregate::new(spec, roster, self.grid)?;
            memory.try_grow(op.cells().saturating_mul(24))?;
            all.push(op);
        }
        let scope = env.scoped(input.grid(), env.stats.per_step());
        let mut each = Each(|tile| {
            for op in &mut all {
                op.push(&tile, &env.ctx)?;
            }
            Ok(())
        });
        let (done, notes) = env.ctx.apart(|| input.run(&scope, &mut each));
        done?;
        let finish = |op: Aggregate| {
            let (tiles, own) = env.ctx.apart(|| op.finish(&env.ctx));
            Ok(Some((tiles?, own)))
        };
        let answers = all.into_iter().map(finish).collect::<Result<_, QueryError>>()?;
        Ok(Done { answers, notes, stats: scope.stats, _memory: memory })
    }
}

/// One of the aggregations.
pub struct TogetherOp {
    together: Arc<Together>,
    number: usize,
    input: Arc<Roster>,
    roster: Arc<Roster>,
}

impl fmt::Debug for TogetherOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Together({} of {})", self.number, self.together.specs.len())
    }
}

impl TogetherOp {
    /// Aggregation `number` of an input whose series are known.
    pub fn new(together: Arc<Together>, number: usize, input: &Arc<Roster>) -> Result<Self, QueryError> {
        let Some(spec) = together.specs.get(number) else {
            return Err(QueryError::Internal("an aggregation that is not among those of its input".into()));
        };
        let (_, roster) = Aggregate::new(spec, input, StepGrid { len: 0, ..together.grid })?;
        Ok(Self { together, number, input: Arc::clone(input), roster: Arc::new(roster) })
    }
}

impl TileOperator for TogetherOp {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = &self.together.specs[self.number];
        write!(f, " {}", spec.op.as_str())?;
        if spec.without || !spec.grouping.is_empty() {
            write!(f, " {} ({})", if spec.without { "without" } else { "by" }, spec.grouping.join(", "))?;
        }
        write!(f, " together={}", self.together.specs.len())
    }

    fn roster(&self) -> Option<&Arc<Roster>> {
        Some(&self.roster)
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        let mut done = self.together.done.lock();
        let known = done.as_ref().is_some_and(|d| d.answers.get(self.number).is_some_and(Option::is_some));
        if !known {
            *done = Some(self.together.read(env, only(inputs)?, &self.input)?);
        }
        let Some(d) = done.as_mut() else { return Err(QueryError::Internal("nothing was read".into())) };
        env.stats.absorb(&d.stats);
        env.ctx.annotate(translated(&d.notes, &self.together.translations, self.number));
        let (tiles, own) = d.answers.get_mut(self.number).and_then(Option::take).unwrap_or_default();
        env.ctx.annotate(own);
        if d.answers.iter().all(Option::is_none) {
            *done = None;
        }
        drop(done);
        sink.begin(&self.roster)?;
        push_all(tiles, sink)
    }
}
