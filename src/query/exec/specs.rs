//! The folds: how kernels over windows are run per series.

use std::fmt;
use std::sync::Arc;

use quiver_core::Condense;
use quiver_model::duration::format_ms;
use quiver_model::{Labels, SampleColumn, is_stale};

use crate::annotation::Annotations;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::exec::fold::{FoldSpec, Seeks, SeriesFold};
use crate::exec::operator::{RunEnv, StepCounts};
use crate::exec::tile::{StepGrid, Tile};
use crate::kernels::instant::{self, InstantSelector};
use crate::kernels::range::{self, RangeSpec, Scratch, SeriesNames, sample_size, strip_stale};
use crate::promql::ast::Position;

/// ` offset=5m`, if there is one.
fn describe_offset(f: &mut fmt::Formatter<'_>, offset_ms: i64) -> fmt::Result {
    if offset_ms == 0 { Ok(()) } else { write!(f, " offset={}", format_ms(offset_ms)) }
}

/// The latest sample at each step, or with `smoothed` the value between its neighbours.
#[derive(Clone, Copy, Debug)]
pub struct InstantSpec {
    /// Steps.
    pub grid: StepGrid,
    /// What is looked for.
    pub selector: InstantSelector,
    /// `smoothed`
    pub smoothed: bool,
    /// Position of the selector.
    pub pos: Position,
}

impl FoldSpec for InstantSpec {
    fn make(&self, _env: &RunEnv, _args: &Arc<Vec<Vec<f64>>>) -> Result<Box<dyn SeriesFold>, QueryError> {
        Ok(Box::new(InstantFold { spec: *self, clean: SampleColumn::default(), notes: Annotations::new() }))
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.selector;
        write!(f, "lookback={}", format_ms(s.lookback_ms))?;
        describe_offset(f, s.offset_ms)?;
        if self.smoothed { f.write_str(" smoothed") } else { Ok(()) }
    }

    fn seeks(&self) -> Option<Seeks> {
        let InstantSelector { offset_ms, lookback_ms, .. } = self.selector;
        Some(Seeks { grid: self.grid, offset: offset_ms, before: lookback_ms - 1 })
    }

    fn is_silent_on_floats(&self, _labels: &Labels) -> bool {
        !self.smoothed
    }
}

struct InstantFold {
    spec: InstantSpec,
    clean: SampleColumn,
    notes: Annotations,
}

impl SeriesFold for InstantFold {
    fn fold(&mut self, s: &SampleColumn, labels: &Labels, tile: &mut Tile, row: usize) -> Result<u64, QueryError> {
        let InstantSpec { grid, selector, smoothed, pos } = &self.spec;
        if !smoothed {
            let seen = instant::fold(selector, s, grid, tile, row);
            // Where only times are wanted a histogram is one sample.
            let times = selector.record_time || selector.record_start;
            return Ok(if times { row_cells(tile, row).count() as u64 } else { seen });
        }
        let name = labels.metric_name();
        instant::fold_smoothed(selector, name, s, &mut self.clean, grid, *pos, tile, row, &mut self.notes)?;
        // Prometheus does not count what these look at.
        Ok(0)
    }

    fn count(&self, _samples: &SampleColumn, tile: &Tile, row: usize, steps: &mut StepCounts) {
        let InstantSpec { selector, smoothed, .. } = &self.spec;
        if *smoothed {
            return;
        }
        let times = selector.record_time || selector.record_start;
        for step in row_cells(tile, row) {
            let h = if times { None } else { tile.histogram(row * tile.width + step) };
            steps.add(step, h.map_or(1, |h| sample_size(h)));
        }
    }

    fn annotations(&mut self) -> Annotations {
        std::mem::take(&mut self.notes)
    }
}

/// Steps of a row that have a sample.
fn row_cells(tile: &Tile, row: usize) -> impl Iterator<Item = usize> + '_ {
    let base = row * tile.width;
    (0..tile.width).filter(move |s| tile.is_present(base + s))
}

/// Adds the sizes of the samples in `(at − before, at + after]` for each step. As input count all of the first step, and
/// of a later one those that came within `step` of its end (`None`: nothing more).
fn count_windows(
    s: &SampleColumn,
    at: impl Fn(usize) -> i64,
    before: i64,
    after: i64,
    step: Option<i64>,
    steps: &mut StepCounts,
) {
    let mut sizes = vec![1u64; s.len()];
    for (p, h) in &s.histograms {
        sizes[*p as usize] = sample_size(h);
    }
    for (size, v) in sizes.iter_mut().zip(&s.values) {
        if is_stale(*v) {
            *size = 0;
        }
    }
    let (mut lo, mut hi, mut sum) = (0, 0, 0u64);
    // Of the window, what the step before has seen: up to `seen`, `old` of it.
    let (mut seen, mut old) = (0, 0u64);
    for i in 0..steps.looked.len() {
        let t = at(i);
        let end = t.saturating_add(after);
        while hi < s.len() && s.ts[hi] <= end {
            sum += sizes[hi];
            hi += 1;
        }
        while lo < hi && s.ts[lo] <= t.saturating_sub(before) {
            sum -= sizes[lo];
            if lo < seen {
                old -= sizes[lo];
            }
            lo += 1;
        }
        steps.add_looked(i, sum);
        if !steps.reads() {
            continue;
        }
        seen = seen.max(lo);
        match step {
            _ if i == 0 => steps.add_read(i, sum),
            Some(step) => {
                while seen < hi && s.ts[seen] <= end.saturating_sub(step) {
                    old += sizes[seen];
                    seen += 1;
                }
                steps.add_read(i, sum - old);
            }
            None => {}
        }
    }
}

/// Samples times steps of one series from which on it is folded in pieces.
const PIECE_WORK: u64 = 1 << 26;

/// A function over windows.
#[derive(Clone, Debug)]
pub struct WindowSpec {
    /// Steps.
    pub grid: StepGrid,
    /// Function and window.
    pub spec: RangeSpec,
}

impl WindowSpec {
    fn names<'l>(&self, labels: &'l Labels) -> SeriesNames<'l> {
        let kind = if self.spec.type_and_unit_labels { labels.get("__type__") } else { "" };
        SeriesNames { metric: labels.metric_name(), kind }
    }
}

impl FoldSpec for WindowSpec {
    fn make(&self, env: &RunEnv, args: &Arc<Vec<Vec<f64>>>) -> Result<Box<dyn SeriesFold>, QueryError> {
        self.spec.check()?;
        Ok(Box::new(WindowFold {
            spec: self.clone(),
            args: Arc::clone(args),
            ctx: Arc::clone(&env.ctx),
            scratch: Scratch::default(),
            clean: SampleColumn::default(),
            sums: Vec::new(),
            notes: Annotations::new(),
        }))
    }

    fn condense(&self) -> Option<Condense> {
        self.spec.condense(&self.grid)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.spec;
        write!(f, "{} range={}", s.func.name(), format_ms(s.range_ms))?;
        describe_offset(f, s.offset_ms)
    }

    fn seeks(&self) -> Option<Seeks> {
        let before = self.spec.read_extent().0;
        (!self.spec.fixed).then_some(Seeks { grid: self.grid, offset: self.spec.offset_ms, before })
    }

    fn is_silent_on_floats(&self, labels: &Labels) -> bool {
        self.spec.is_silent_on_floats(&self.names(labels))
    }
}

struct WindowFold {
    spec: WindowSpec,
    args: Arc<Vec<Vec<f64>>>,
    ctx: Arc<QueryContext>,
    scratch: Scratch,
    /// Condensed samples without markers.
    clean: SampleColumn,
    /// By position, the samples that those before it stand for.
    sums: Vec<u64>,
    notes: Annotations,
}

impl WindowFold {
    fn run(
        &mut self,
        s: &SampleColumn,
        sums: &[u64],
        labels: &Labels,
        tile: &mut Tile,
        row: usize,
    ) -> Result<u64, QueryError> {
        let names = self.spec.names(labels);
        let (none, one, two);
        let params: &[&[f64]] = match self.args.as_slice() {
            [] => {
                none = [];
                &none
            }
            [a] => {
                one = [a.as_slice()];
                &one
            }
            [a, b, ..] => {
                two = [a.as_slice(), b.as_slice()];
                &two
            }
        };
        let WindowSpec { grid, spec } = &self.spec;
        let work = (s.len() as u64).saturating_mul(grid.len as u64);
        if work <= PIECE_WORK || grid.len < 2 || spec.fixed {
            let Self { scratch, notes, .. } = self;
            return range::fold_weighted(spec, names, s, sums, grid, params, scratch, tile, row, notes);
        }
        // Much work on one series: in pieces, so that a query can be stopped in between.
        let per = (grid.len as u64 / (work / PIECE_WORK).max(1)).max(1) as usize;
        let mut looked = 0;
        let mut from = 0;
        while from < grid.len {
            self.ctx.check()?;
            let piece = StepGrid { start: grid.time(from), len: per.min(grid.len - from), ..*grid };
            let args: Vec<&[f64]> = params.iter().map(|p| &p[from..from + piece.len]).collect();
            let mut part = Tile::new(piece.len, vec![0]);
            let (scratch, notes) = (&mut self.scratch, &mut self.notes);
            looked += range::fold_weighted(spec, names, s, sums, &piece, &args, scratch, &mut part, 0, notes)?;
            let base = row * grid.len + from;
            let mut hist = part.hist.into_iter().peekable();
            for step in 0..piece.len {
                if part.present[step >> 6] >> (step & 63) & 1 == 0 {
                    continue;
                }
                match hist.next_if(|(c, _)| *c as usize == step) {
                    Some((_, h)) => tile.set_histogram(base + step, h),
                    None => tile.set(base + step, part.values[step]),
                }
            }
            from += piece.len;
        }
        Ok(looked)
    }
}

impl SeriesFold for WindowFold {
    fn fold(&mut self, s: &SampleColumn, labels: &Labels, tile: &mut Tile, row: usize) -> Result<u64, QueryError> {
        self.run(s, &[], labels, tile, row)
    }

    fn fold_condensed(
        &mut self,
        s: &SampleColumn,
        weights: &[u32],
        labels: &Labels,
        tile: &mut Tile,
        row: usize,
    ) -> Result<u64, QueryError> {
        let (mut clean, mut sums) = (std::mem::take(&mut self.clean), std::mem::take(&mut self.sums));
        sums.clear();
        sums.push(0);
        let is_clean = !strip_stale(s, &mut clean);
        let mut sum = 0;
        for (i, _) in s.values.iter().enumerate().filter(|(_, v)| !is_stale(**v)) {
            sum += weights.get(i).copied().map_or(1, u64::from);
            sums.push(sum);
        }
        let done = self.run(if is_clean { s } else { &clean }, &sums, labels, tile, row);
        (self.clean, self.sums) = (clean, sums);
        done
    }

    fn count(&self, samples: &SampleColumn, _tile: &Tile, _row: usize, steps: &mut StepCounts) {
        let WindowSpec { grid, spec } = &self.spec;
        let (before, after) = spec.read_extent();
        let at = |step: usize| grid.time(if spec.fixed { 0 } else { step }).saturating_sub(spec.offset_ms);
        let step = (!spec.fixed).then_some(grid.step);
        count_windows(samples, at, before, after, step, steps);
    }

    fn annotations(&mut self) -> Annotations {
        std::mem::take(&mut self.notes)
    }
}
