//! Rows to answers.

use std::sync::Arc;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};

use crate::answer::{AnswerSeries, AnswerValue};
use crate::context::QueryContext;
use crate::engine::Evaluated;
use crate::error::QueryError;
use crate::exec::operator::{Collect, RunEnv, TileSink};
use crate::exec::tile::{Roster, StepGrid, Tile};
use crate::promql::ast::ValueType;

/// A collector that charges what it keeps.
pub struct Held<'a> {
    ctx: &'a QueryContext,
    inner: Collect,
    held: u64,
    memory: MemoryReservation,
}

impl<'a> Held<'a> {
    /// A collector.
    pub fn new(env: &'a RunEnv, inner: Collect) -> Self {
        let memory = MemoryConsumer::new("rows of a result").register(&env.memory);
        Self { ctx: &env.ctx, inner, held: 0, memory }
    }

    /// What was kept.
    pub fn into_inner(mut self) -> Collect {
        std::mem::take(&mut self.inner)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.ctx.release(self.held);
    }
}

impl TileSink for Held<'_> {
    fn begin(&mut self, roster: &Arc<Roster>) -> Result<(), QueryError> {
        self.inner.begin(roster)
    }

    fn push(&mut self, tile: Tile) -> Result<(), QueryError> {
        let n = tile.samples();
        self.held += n;
        self.ctx.hold(n)?;
        self.memory.try_grow(tile.values.capacity() * 8 + tile.histogram_bytes())?;
        self.ctx.check()?;
        self.inner.push(tile)
    }
}

/// The value of evaluated rows. Rows are in roster order in an instant vector, in label order over a range.
pub fn value(e: Evaluated, instant: bool, env: &RunEnv) -> Result<AnswerValue, QueryError> {
    let Evaluated { kind, grid, roster, tiles } = e;
    if instant && kind == ValueType::Scalar {
        let v = tiles.first().and_then(|t| t.values.first()).copied().unwrap_or(f64::NAN);
        return Ok(AnswerValue::Scalar(grid.start, v));
    }
    let mut rows: Vec<(u32, AnswerSeries)> = Vec::with_capacity(tiles.iter().map(Tile::rows).sum());
    for t in tiles {
        env.ctx.keep_bytes(t.samples() as usize * POINT_BYTES + t.rows() * size_of::<AnswerSeries>())?;
        for row in 0..t.rows() {
            if row & 63 == 0 {
                env.ctx.check()?;
            }
            let series = points(&t, row, grid, &roster);
            if !series.floats.is_empty() || !series.histograms.is_empty() {
                rows.push((t.sids[row], series));
            }
        }
    }
    if instant {
        rows.sort_by_key(|(sid, _)| *sid);
        Ok(AnswerValue::Vector(rows.into_iter().map(|(_, s)| s).collect()))
    } else {
        rows.sort_by(|(_, a), (_, b)| a.labels.cmp(&b.labels));
        Ok(AnswerValue::Matrix(rows.into_iter().map(|(_, s)| s).collect()))
    }
}

/// A point of an answer: time and value.
const POINT_BYTES: usize = 16;

/// The points of a row.
pub fn points(t: &Tile, row: usize, grid: StepGrid, roster: &Roster) -> AnswerSeries {
    let labels = roster.rows.get(t.sids[row] as usize).map(|r| r.labels.clone()).unwrap_or_default();
    let base = row * t.width;
    let hist = t.row_histograms(row);
    let mut s = AnswerSeries { labels, floats: Vec::new(), histograms: Vec::new() };
    if hist.is_empty() {
        s.floats.reserve_exact(t.width);
        s.floats.extend((0..t.width).filter(|i| t.is_present(base + i)).map(|i| (grid.time(i), t.values[base + i])));
        return s;
    }
    let mut next = 0;
    for i in 0..t.width {
        if !t.is_present(base + i) {
            continue;
        }
        while next < hist.len() && (hist[next].0 as usize) < base + i {
            next += 1;
        }
        match hist.get(next) {
            Some((c, h)) if *c as usize == base + i => s.histograms.push((grid.time(i), Arc::clone(h))),
            _ => s.floats.push((grid.time(i), t.values[base + i])),
        }
    }
    s
}

/// At most `limit` series.
pub fn cut(mut value: AnswerValue, limit: usize, truncated: &mut bool) -> AnswerValue {
    if let AnswerValue::Vector(s) | AnswerValue::Matrix(s) = &mut value
        && limit > 0
        && s.len() > limit
    {
        s.truncate(limit);
        *truncated = true;
    }
    value
}
