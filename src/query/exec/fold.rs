//! The scan that folds: each series is read once, into a buffer that is used again, and folded into a row of steps.
//!
//! ```text
//! SeriesSet::read ─▶ SampleColumn (reused) ─▶ SeriesFold ─▶ row of a tile ─▶ sink, in series order
//! ```
//!
//! Samples never leave here. Large selections are cut into chunks of series that several threads take in turn; tiles reach the sink
//! in the order of series all the same.

use std::fmt;
use std::sync::{Arc, OnceLock};

use quiver_core::{Condense, Need, SeriesSet, TimeRange};
use quiver_model::{Histogram, Labels, ResetHint, SampleColumn, is_stale};

use crate::annotation::Annotations;
use crate::error::QueryError;
use crate::exec::link::{Kept, Link, Role};
use crate::exec::operator::{PromExec, RunEnv, StepCounts, TileOperator, TileSink};
use crate::exec::parallel;
use crate::exec::tile::{Roster, StepGrid, Tile};
use crate::plan::node::Window;

/// Cells of one tile: 1 MiB of values.
pub const TILE_CELLS: usize = 1 << 17;
/// Rows of one tile at most.
pub const TILE_ROWS: usize = 1024;
/// Samples from which on a scan is worth a second thread.
const PARALLEL_SAMPLES: usize = 400_000;

/// Rows of tiles of a width.
pub fn rows_per_tile(width: usize) -> usize {
    (TILE_CELLS / width.max(1)).clamp(1, TILE_ROWS)
}

/// Folds the samples of one series after the other into rows of steps.
pub trait SeriesFold: Send {
    /// Folds a series into row `row` of `tile`, all of whose cells are absent. Returns samples looked at over all steps.
    fn fold(&mut self, samples: &SampleColumn, labels: &Labels, tile: &mut Tile, row: usize)
    -> Result<u64, QueryError>;

    /// [`SeriesFold::fold`] of samples condensed as [`FoldSpec::condense`] says, which stand for `weights` samples each.
    fn fold_condensed(
        &mut self,
        _samples: &SampleColumn,
        _weights: &[u32],
        _labels: &Labels,
        _tile: &mut Tile,
        _row: usize,
    ) -> Result<u64, QueryError> {
        Err(QueryError::Internal("this fold takes all samples".into()))
    }

    /// Adds the samples that were looked at for each step: the series that was folded last, into `row`.
    fn count(&self, samples: &SampleColumn, tile: &Tile, row: usize, steps: &mut StepCounts);

    /// What there is to report, once all series are done.
    fn annotations(&mut self) -> Annotations;
}

/// Makes folds, one per thread; `args` are the scalar arguments, a value per step each.
pub trait FoldSpec: fmt::Debug + Send + Sync {
    /// A fold.
    fn make(&self, env: &RunEnv, args: &Arc<Vec<Vec<f64>>>) -> Result<Box<dyn SeriesFold>, QueryError>;
    /// How series of floats may be condensed for it, if they may.
    fn condense(&self) -> Option<Condense> {
        None
    }

    /// For EXPLAIN.
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
    /// How its windows look for their samples.
    fn seeks(&self) -> Option<Seeks> {
        None
    }
    /// Is there nothing to report of a series that has floats only? Then it need not be read where its row is not used.
    fn is_silent_on_floats(&self, labels: &Labels) -> bool;
}

/// How windows look for their samples, one step after the other: each seeks the first one that is not older than `before`
/// its end, unless it has come by it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeks {
    /// Steps.
    pub grid: StepGrid,
    /// The window of a step at `t` ends at `t − offset`, ms.
    pub offset: i64,
    /// ms.
    pub before: i64,
}

impl Seeks {
    /// Positions (from `from` on) at which a reader has come by seeking past others, and does not know what was before.
    fn landings(&self, ts: &[i64], from: usize) -> Vec<usize> {
        let mut out = Vec::new();
        // Windows that touch leave nothing out.
        if self.before >= self.grid.step {
            return out;
        }
        let (mut at, mut seen) = (from, i64::MIN);
        for step in 0..self.grid.len {
            let end = self.grid.time(step).saturating_sub(self.offset);
            let begin = end.saturating_sub(self.before);
            let Some(present) = ts.get(at) else { break };
            if begin > seen {
                if begin > *present {
                    at += ts[at..].partition_point(|t| *t < begin);
                    out.push(at);
                }
                match ts.get(at) {
                    Some(t) => seen = *t,
                    None => break,
                }
            }
            while seen < end {
                at += 1;
                match ts.get(at) {
                    Some(t) => seen = *t,
                    None => return out,
                }
            }
        }
        out
    }
}

/// A selector with the function over it.
pub struct FoldOp {
    set: Arc<dyn SeriesSet>,
    range: TimeRange,
    need: Need,
    grid: StepGrid,
    roster: Arc<Roster>,
    spec: Arc<dyn FoldSpec>,
    /// First time that counts; the samples before it only tell about counter resets.
    stats_only: Option<i64>,
    /// Series that are not read, since nobody makes use of their rows.
    left_out: OnceLock<Vec<bool>>,
    /// Another scan, which has a part of these series or which these are a part of.
    link: OnceLock<(Arc<Link>, Role)>,
}

impl fmt::Debug for FoldOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fold({:?}, {} series)", self.spec, self.set.len())
    }
}

impl FoldOp {
    /// A fold over the series of a set; `roster` has a row per series of the set.
    pub fn new(
        set: Arc<dyn SeriesSet>,
        range: TimeRange,
        need: Need,
        grid: StepGrid,
        roster: Arc<Roster>,
        spec: Arc<dyn FoldSpec>,
    ) -> Self {
        Self {
            set,
            range,
            need,
            grid,
            roster,
            spec,
            stats_only: None,
            left_out: OnceLock::new(),
            link: OnceLock::new(),
        }
    }

    /// Histograms are taken without buckets, by functions that look at their count and sum only.
    pub fn with_stats_only(mut self, on: bool, min: i64) -> Self {
        self.stats_only = on.then_some(min);
        self
    }

    /// Links two scans of one function over one grid, where `part` selects some of the series of `whole` and nothing is
    /// ever reported of those. A scan has one link at most.
    pub fn link(part: &FoldOp, whole: &FoldOp) {
        if part.link.get().is_some() || whole.link.get().is_some() {
            return;
        }
        let Some(link) = Link::new(part.set.as_ref(), whole.set.as_ref(), part.grid.len) else { return };
        if !(0..part.set.len()).all(|i| part.is_silent(i)) {
            return;
        }
        let link = Arc::new(link);
        let _ = part.link.set((Arc::clone(&link), Role::Part));
        let _ = whole.link.set((link, Role::Whole));
    }

    /// Have all its series floats only?
    pub fn has_floats_only(&self) -> bool {
        (0..self.set.len()).all(|i| !self.set.kinds(i).histograms)
    }

    /// Does a series hold floats only, and is nothing to report of it?
    fn is_silent(&self, series: usize) -> bool {
        !self.set.kinds(series).histograms && self.spec.is_silent_on_floats(self.set.labels(series))
    }

    /// Chunks of series it is cut into.
    pub fn chunks(&self) -> usize {
        self.set.len().div_ceil(rows_per_tile(self.grid.len))
    }

    /// Threads worth using.
    pub fn threads(&self, env: &RunEnv) -> usize {
        let n = self.set.len();
        if env.threads <= 1 || n < 2 {
            return 1;
        }
        if env.ctx.hints.parallelism.is_some() {
            return env.threads;
        }
        let look = n.min(32);
        let hint: usize = (0..look).map(|i| self.set.samples_hint(i * n / look)).sum();
        let samples = (hint / look).saturating_mul(n).saturating_add(n.saturating_mul(self.grid.len));
        if samples < PARALLEL_SAMPLES { 1 } else { env.threads }
    }

    /// Reads and folds chunk `c` into a tile; rows without any sample are left out.
    pub fn chunk(
        &self,
        env: &RunEnv,
        fold: &mut dyn SeriesFold,
        column: &mut SampleColumn,
        known: Option<(&Link, &Kept)>,
        c: usize,
    ) -> Result<Tile, QueryError> {
        let width = self.grid.len;
        let per = rows_per_tile(width);
        let series = c * per..((c + 1) * per).min(self.set.len());
        let mut tile = Tile::new(width, vec![0; series.len()]);
        let mut row = 0;
        let mut looked = 0;
        let mut read = 0;
        // Counts by step want every sample.
        let condense = self.spec.condense().filter(|_| !env.stats.per_step());
        let mut weights = Vec::new();
        let mut steps = StepCounts::new(if env.stats.per_step() { width } else { 0 }, env.stats.reads());
        let left_out = self.left_out.get();
        for i in series {
            if left_out.is_some_and(|l| l[i]) {
                continue;
            }
            if i & 15 == 0 || width > 64 {
                env.ctx.check()?;
            }
            if let Some(there) = known.and_then(|(link, kept)| link.copy(kept, i, &mut tile, row)) {
                if there {
                    tile.sids[row] = i as u32;
                    row += 1;
                }
                continue;
            }
            let range = match self.stats_only {
                Some(min) if !self.set.kinds(i).histograms => TimeRange { min, ..self.range },
                _ => self.range,
            };
            match condense.filter(|_| !self.set.kinds(i).histograms) {
                Some(how) => self.set.read_condensed(i, range, self.need, &how, column, &mut weights)?,
                None => self.set.read(i, range, self.need, column)?,
            }
            read += column.len() as u64;
            if let Some(min) = self.stats_only
                && !column.histograms.is_empty()
            {
                without_buckets(column, min, self.spec.seeks());
            }
            if column.is_empty() {
                continue;
            }
            let labels = self.set.labels(i);
            looked += match weights.is_empty() {
                true => fold.fold(column, labels, &mut tile, row)?,
                false => fold.fold_condensed(column, &weights, labels, &mut tile, row)?,
            };
            weights.clear();
            if env.stats.per_step() {
                fold.count(column, &tile, row, &mut steps);
            }
            if row_present(&tile, row) {
                tile.sids[row] = i as u32;
                row += 1;
            }
        }
        tile.truncate_rows(row);
        env.ctx.count_read(read)?;
        env.stats.add(looked, &steps);
        Ok(tile)
    }
}

/// Takes buckets away. What they told about counter resets stays as a hint, as Prometheus's storage and its iterator over
/// such histograms give it: a sample with a predecessor gets one. Samples before `min` only are predecessors; and where
/// windows leave samples out, the first one after those has none.
fn without_buckets(column: &mut SampleColumn, min: i64, seeks: Option<Seeks>) {
    let from = column.ts.partition_point(|t| *t < min);
    let landings = seeks.map_or_else(Vec::new, |s| s.landings(&column.ts, from));
    let mut landings = landings.into_iter().peekable();
    let mut before: Option<(u32, Arc<Histogram>)> = None;
    let mut last: Option<Arc<Histogram>> = None;
    for (at, h) in &mut column.histograms {
        let stale = is_stale(h.sum);
        let seen = column.ts[*at as usize] >= min;
        while landings.next_if(|l| *l <= *at as usize).is_some() {
            last = None;
        }
        let mut hint = h.reset_hint;
        if let (ResetHint::Unknown, false, Some((p, previous))) = (hint, stale, &before)
            && p + 1 == *at
        {
            hint = stored_hint(previous, h);
        }
        if let (ResetHint::Unknown, false, Some(previous)) = (hint, stale, &last) {
            hint = if h.detect_reset(previous) { ResetHint::Yes } else { ResetHint::No };
        }
        let stats =
            Histogram { reset_hint: hint, schema: h.schema, count: h.count, sum: h.sum, ..Histogram::default() };
        let whole = std::mem::replace(h, Arc::new(stats));
        if seen && !stale {
            last = Some(Arc::clone(&whole));
        }
        before = Some((*at, whole));
    }
    let gone = column.ts.partition_point(|t| *t < min);
    if gone > 0 {
        column.ts.drain(..gone);
        column.values.drain(..gone);
        column.start_ts.drain(..gone.min(column.start_ts.len()));
        column.histograms.retain(|(at, _)| *at as usize >= gone);
        for (at, _) in &mut column.histograms {
            *at -= gone as u32;
        }
    }
}

/// What is known of a histogram that is stored next to one that nobody has read: Prometheus begins a new chunk at a reset
/// and at another layout, and forgets there what it knew.
fn stored_hint(previous: &Histogram, h: &Histogram) -> ResetHint {
    if previous.reset_hint == ResetHint::Gauge {
        return ResetHint::No;
    }
    let begins_anew = is_stale(previous.sum)
        || h.count < previous.count
        || h.schema != previous.schema
        || h.zero_threshold != previous.zero_threshold
        || h.custom_values != previous.custom_values
        || h.detect_reset(previous);
    if begins_anew { ResetHint::Unknown } else { ResetHint::No }
}

fn row_present(tile: &Tile, row: usize) -> bool {
    let (lo, hi) = (row * tile.width, (row + 1) * tile.width);
    let (first, last) = (lo >> 6, (hi - 1) >> 6);
    let mask_lo = u64::MAX << (lo & 63);
    let mask_hi = u64::MAX >> (63 - ((hi - 1) & 63));
    if first == last {
        return tile.present[first] & mask_lo & mask_hi != 0;
    }
    tile.present[first] & mask_lo != 0
        || tile.present[last] & mask_hi != 0
        || tile.present[first + 1..last].iter().any(|w| *w != 0)
}

impl TileOperator for FoldOp {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(" ")?;
        self.spec.describe(f)?;
        if let Some(l) = self.left_out.get() {
            write!(f, " left_out={}", l.iter().filter(|l| **l).count())?;
        }
        match self.link.get() {
            Some((_, Role::Part)) => f.write_str(" part of another scan"),
            Some((_, Role::Whole)) => f.write_str(" shares a part"),
            None => Ok(()),
        }
    }

    fn leave_out(&self, _inputs: &[Arc<PromExec>], unused: &[bool]) -> usize {
        if unused.len() != self.set.len() {
            return 0;
        }
        let left_out: Vec<bool> = unused.iter().enumerate().map(|(i, u)| *u && self.is_silent(i)).collect();
        let n = left_out.iter().filter(|l| **l).count();
        // An operator has one parent; whoever shares it asks for all rows.
        if n > 0 && self.left_out.set(left_out).is_ok() { n } else { 0 }
    }

    fn roster(&self) -> Option<&Arc<Roster>> {
        Some(&self.roster)
    }

    fn as_fold(&self) -> Option<&FoldOp> {
        Some(self)
    }

    fn silent_rows(&self, _inputs: &[Arc<PromExec>]) -> Option<Vec<bool>> {
        Some((0..self.set.len()).map(|i| self.is_silent(i)).collect())
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        let mut args = Vec::with_capacity(inputs.len());
        for i in inputs {
            args.push(i.collect_scalar(env)?);
        }
        let args = Arc::new(args);
        // Made once here, so that a bad argument is an error even where no series is.
        let first = parking_lot::Mutex::new(Some(self.spec.make(env, &args)?));
        env.stats.touch(self.set.len() as u64);
        let link = self.link.get();
        let kept = link.and_then(|(link, role)| link.take(*role));
        if let (Some((_, Role::Part)), Some(kept)) = (link, &kept)
            && kept.is_whole()
        {
            return Link::replay(kept, &self.roster, env, sink);
        }
        let known = match (link, &kept) {
            (Some((link, Role::Whole)), Some(kept)) => Some((&**link, &**kept)),
            _ => None,
        };
        // What the other one has taken already it does not need again.
        let mut keep = match link {
            Some((link, role)) if kept.is_none() => {
                let folded = |i: usize| self.left_out.get().is_none_or(|l| !l[i]);
                Ok(link.keep(*role, env, self.grid.len, folded, sink))
            }
            _ => Err(sink),
        };
        let sink: &mut dyn TileSink = match &mut keep {
            Ok(keep) => keep,
            Err(sink) => &mut **sink,
        };
        sink.begin(&self.roster)?;
        struct Worker<'a> {
            fold: Option<Box<dyn SeriesFold>>,
            column: SampleColumn,
            env: &'a RunEnv,
        }
        impl Drop for Worker<'_> {
            fn drop(&mut self) {
                if let Some(f) = &mut self.fold {
                    self.env.ctx.annotate(f.annotations());
                }
            }
        }
        parallel::ordered(
            self.threads(env),
            self.chunks(),
            || {
                let fold = first.lock().take().or_else(|| self.spec.make(env, &args).ok());
                Worker { fold, column: SampleColumn::default(), env }
            },
            |w, c| match &mut w.fold {
                Some(f) => self.chunk(env, f.as_mut(), &mut w.column, known, c),
                None => Err(QueryError::Internal("no fold".into())),
            },
            |tile| if tile.rows() == 0 { Ok(()) } else { sink.push(tile) },
        )?;
        if let Ok(keep) = keep {
            keep.leave();
        }
        Ok(())
    }
}

/// A fold over the rows of another plan: a subquery. Rows become samples at the times of their grid.
pub struct SubqueryFoldOp {
    grid: StepGrid,
    window: Window,
    spec: Arc<dyn FoldSpec>,
}

impl fmt::Debug for SubqueryFoldOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubqueryFold({:?})", self.spec)
    }
}

impl SubqueryFoldOp {
    /// A fold whose first input is the plan on the inner grid, the others scalar arguments.
    pub fn new(grid: StepGrid, window: Window, spec: Arc<dyn FoldSpec>) -> Self {
        Self { grid, window, spec }
    }
}

impl TileOperator for SubqueryFoldOp {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(" subquery ")?;
        self.spec.describe(f)
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        let Some((child, scalars)) = inputs.split_first() else {
            return Err(QueryError::Internal("a subquery has an input".into()));
        };
        let mut args = Vec::with_capacity(scalars.len());
        for i in scalars {
            args.push(i.collect_scalar(env)?);
        }
        // Windows of several steps share what the inner plan looked at.
        let scope = env.scoped(child.grid(), self.grid.len > 1);
        let mut s = SubquerySink {
            op: self,
            env,
            fold: self.spec.make(env, &Arc::new(args))?,
            inner: child.grid(),
            rows: Vec::new(),
            column: SampleColumn::default(),
            sink,
        };
        child.run(&scope, &mut s)?;
        env.ctx.annotate(s.fold.annotations());
        if self.grid.len == 1 {
            env.stats.absorb_first(&scope.stats);
        } else {
            let inner = scope.stats.steps();
            let looked = self.window.sums(self.grid, child.grid(), &inner.looked);
            let read = self.window.firsts(self.grid, child.grid(), &inner.read);
            env.stats.touch(scope.stats.series());
            env.stats.add(looked.iter().sum(), &StepCounts { looked, read });
        }
        Ok(())
    }
}

struct SubquerySink<'a> {
    op: &'a SubqueryFoldOp,
    env: &'a RunEnv,
    fold: Box<dyn SeriesFold>,
    inner: StepGrid,
    rows: Vec<Labels>,
    column: SampleColumn,
    sink: &'a mut dyn TileSink,
}

impl TileSink for SubquerySink<'_> {
    fn begin(&mut self, roster: &Arc<Roster>) -> Result<(), QueryError> {
        self.rows = roster.rows.iter().map(|r| r.labels.clone()).collect();
        self.sink.begin(roster)
    }

    fn push(&mut self, tile: Tile) -> Result<(), QueryError> {
        let width = self.op.grid.len;
        let per = rows_per_tile(width);
        let mut out = Tile::new(width, vec![0; per.min(tile.rows())]);
        let mut row = 0;
        for r in 0..tile.rows() {
            self.env.ctx.check()?;
            row_samples(&tile, r, self.inner, &mut self.column);
            if self.column.is_empty() {
                continue;
            }
            let sid = tile.sids[r];
            let Some(labels) = self.rows.get(sid as usize) else { continue };
            // What the inner plan looked at was counted there.
            self.fold.fold(&self.column, labels, &mut out, row)?;
            if row_present(&out, row) {
                out.sids[row] = sid;
                row += 1;
            }
            if row == out.rows() {
                let full = std::mem::replace(&mut out, Tile::new(width, vec![0; per.min(tile.rows() - r - 1)]));
                row = 0;
                if full.rows() > 0 {
                    self.sink.push(full)?;
                }
            }
        }
        out.truncate_rows(row);
        if row > 0 { self.sink.push(out) } else { Ok(()) }
    }
}

/// The samples of a row, at the times of its grid. Reset hints that compare with a neighbour are forgotten: the neighbour
/// need not be among the steps.
pub fn row_samples(tile: &Tile, row: usize, grid: StepGrid, out: &mut SampleColumn) {
    out.clear();
    let base = row * tile.width;
    out.ts.reserve_exact(tile.width);
    out.values.reserve_exact(tile.width);
    let mut hist = tile.row_histograms(row).iter().peekable();
    for step in 0..tile.width {
        let cell = base + step;
        if !tile.is_present(cell) {
            continue;
        }
        match hist.peek() {
            Some((c, h)) if *c as usize == cell => {
                let h = match h.reset_hint {
                    ResetHint::Yes | ResetHint::No => {
                        let mut copy = (**h).clone();
                        copy.reset_hint = ResetHint::Unknown;
                        Arc::new(copy)
                    }
                    _ => Arc::clone(h),
                };
                out.push_histogram(grid.time(step), h, 0);
                hist.next();
            }
            _ => out.push_float(grid.time(step), tile.values[cell], 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn landings(step: i64, before: i64, ts: &[i64]) -> Vec<usize> {
        let grid = StepGrid { start: 100, step, len: 5 };
        Seeks { grid, offset: 0, before }.landings(ts, 0)
    }

    #[test]
    fn a_reader_that_leaves_samples_out_lands_behind_them() {
        let none: [usize; 0] = [];
        let every_10: Vec<i64> = (0..30).map(|k| k * 10).collect();
        assert_eq!(landings(20, 20, &every_10), none, "windows that touch");
        // (80, 100], (140, 160], …: from 80 on, read up to 100; then from 140 on.
        assert_eq!(landings(60, 20, &every_10), [8, 14, 20, 26, 30]);
        assert_eq!(landings(60, 20, &[90, 150, 210]), none, "come by already, one after the other");
        assert_eq!(landings(60, 20, &[]), none);
        assert_eq!(landings(60, 20, &[1000]), none, "later than all windows");
    }
}
