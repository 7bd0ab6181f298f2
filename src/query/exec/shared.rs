//! An operator with several parents: evaluated for the first that asks, replayed for the others.

use std::fmt;
use std::sync::Arc;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use parking_lot::Mutex;

use crate::annotation::{Annotation, Annotations};
use crate::error::QueryError;
use crate::exec::operator::{PromExec, RunEnv, StepStats, TileOperator, TileSink};
use crate::exec::tile::{Roster, Tile};
use crate::exec::transform::only;
use crate::optimize::share::Translation;

/// See the module.
pub struct SharedOp {
    consumers: usize,
    translations: Arc<Vec<Translation>>,
    roster: Option<Arc<Roster>>,
    state: Mutex<Option<Kept>>,
}

struct Kept {
    roster: Arc<Roster>,
    tiles: Vec<Tile>,
    left: usize,
    samples: u64,
    stats: StepStats,
    _memory: MemoryReservation,
}

impl fmt::Debug for SharedOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({} consumers)", self.consumers)
    }
}

impl SharedOp {
    /// An operator that hands on its input to a number of parents.
    pub fn new(consumers: usize, translations: Arc<Vec<Translation>>, input: &PromExec) -> Self {
        let roster = input.roster().cloned();
        Self { consumers, translations, roster, state: Mutex::new(None) }
    }

    fn repeat_annotations(&self, env: &RunEnv, before: &Annotations) {
        let known: Vec<&Annotation> = before.iter().collect();
        let now = env.ctx.annotations();
        let mut more = Annotations::new();
        for a in now.iter().filter(|a| !known.contains(a)) {
            for t in self.translations.iter() {
                if let Some((_, to)) = t.iter().find(|(from, _)| *from == a.pos) {
                    more.add(Annotation { pos: *to, ..a.clone() });
                }
            }
        }
        env.ctx.annotate(more);
    }
}

impl TileOperator for SharedOp {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " consumers={}", self.consumers)
    }

    fn roster(&self) -> Option<&Arc<Roster>> {
        self.roster.as_ref()
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        let mut state = self.state.lock();
        if let Some(kept) = state.as_mut() {
            env.stats.absorb(&kept.stats);
            kept.left = kept.left.saturating_sub(1);
            if kept.left > 0 {
                sink.begin(&kept.roster)?;
                for t in &kept.tiles {
                    sink.push(t.clone())?;
                }
                return Ok(());
            }
            // The last one takes what was kept.
            let Some(kept) = state.take() else { return Ok(()) };
            drop(state);
            env.ctx.release(kept.samples);
            sink.begin(&kept.roster)?;
            for t in kept.tiles {
                sink.push(t)?;
            }
            return Ok(());
        }
        let before = env.ctx.annotations();
        let memory = MemoryConsumer::new("shared part").register(&env.memory);
        let mut keep = Keep { env, sink, roster: None, tiles: Vec::new(), samples: 0, memory };
        let input = only(inputs)?;
        let scope = env.scoped(input.grid(), env.stats.per_step());
        input.run(&scope, &mut keep)?;
        env.stats.absorb(&scope.stats);
        let Keep { roster, tiles, samples, memory, .. } = keep;
        self.repeat_annotations(env, &before);
        *state = Some(Kept {
            roster: roster.unwrap_or_default(),
            tiles,
            left: self.consumers.saturating_sub(1),
            samples,
            stats: scope.stats,
            _memory: memory,
        });
        Ok(())
    }
}

struct Keep<'a> {
    env: &'a RunEnv,
    sink: &'a mut dyn TileSink,
    roster: Option<Arc<Roster>>,
    tiles: Vec<Tile>,
    samples: u64,
    memory: MemoryReservation,
}

impl TileSink for Keep<'_> {
    fn begin(&mut self, roster: &Arc<Roster>) -> Result<(), QueryError> {
        self.roster = Some(Arc::clone(roster));
        self.sink.begin(roster)
    }

    fn push(&mut self, tile: Tile) -> Result<(), QueryError> {
        let n = tile.samples();
        self.env.ctx.hold(n)?;
        self.samples += n;
        self.memory.try_grow(tile.values.len() * 8 + tile.hist.len() * 16)?;
        self.tiles.push(tile.clone());
        self.sink.push(tile)
    }
}
