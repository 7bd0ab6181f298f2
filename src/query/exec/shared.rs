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

/// A part of a query that occurs more than once.
pub struct Shared {
    consumers: usize,
    translations: Arc<Vec<Translation>>,
    state: Mutex<Option<Kept>>,
}

struct Kept {
    roster: Arc<Roster>,
    tiles: Vec<Tile>,
    left: usize,
    samples: u64,
    stats: StepStats,
    /// What was reported, of the places in the first occurrence.
    notes: Annotations,
    _memory: MemoryReservation,
}

impl Shared {
    /// A part with as many occurrences; `translations` are of each but the first.
    pub fn new(consumers: usize, translations: Arc<Vec<Translation>>) -> Self {
        Self { consumers, translations, state: Mutex::new(None) }
    }
}

/// One of its occurrences.
pub struct SharedOp {
    shared: Arc<Shared>,
    occurrence: usize,
    roster: Option<Arc<Roster>>,
}

impl fmt::Debug for SharedOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({} consumers)", self.shared.consumers)
    }
}

impl SharedOp {
    /// Hands on its input, as occurrence number `occurrence` of the part.
    pub fn new(shared: Arc<Shared>, occurrence: usize, input: &PromExec) -> Self {
        Self { shared, occurrence, roster: input.roster().cloned() }
    }
}

/// What is reported of the places in the first occurrence of a part, for another occurrence.
pub fn translated(notes: &Annotations, translations: &[Translation], occurrence: usize) -> Annotations {
    let to = occurrence.checked_sub(1).and_then(|k| translations.get(k));
    let mut out = Annotations::new();
    for a in notes.iter() {
        let place = to.and_then(|t| t.iter().find(|(from, _)| *from == a.pos)).map_or(a.pos, |(_, to)| *to);
        out.add(Annotation { pos: place, ..a.clone() });
    }
    out
}

impl TileOperator for SharedOp {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " consumers={}", self.shared.consumers)
    }

    fn roster(&self) -> Option<&Arc<Roster>> {
        self.roster.as_ref()
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        let Shared { consumers, translations, state } = &*self.shared;
        let mut state = state.lock();
        if let Some(kept) = state.as_mut() {
            env.stats.absorb(&kept.stats);
            env.ctx.annotate(translated(&kept.notes, translations, self.occurrence));
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
        let memory = MemoryConsumer::new("shared part").register(&env.memory);
        let mut keep = Keep { env, sink, roster: None, tiles: Vec::new(), samples: 0, memory };
        let input = only(inputs)?;
        let scope = env.scoped(input.grid(), env.stats.per_step());
        let (done, notes) = env.ctx.apart(|| input.run(&scope, &mut keep));
        done?;
        env.stats.absorb(&scope.stats);
        env.ctx.annotate(translated(&notes, translations, self.occurrence));
        let Keep { roster, tiles, samples, memory, .. } = keep;
        *state = Some(Kept {
            roster: roster.unwrap_or_default(),
            tiles,
            left: consumers.saturating_sub(1),
            samples,
            stats: scope.stats,
            notes,
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
        self.memory.try_grow(tile.values.len() * 8 + tile.histogram_bytes())?;
        self.tiles.push(tile.clone());
        self.sink.push(tile)
    }
}
