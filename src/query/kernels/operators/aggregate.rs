//! `sum avg count group min max stddev stdvar`: one dense accumulator cell for each group and step.
//!
//! ```text
//! row of a series ──group id──▶ value[g][·] comp[g][·] count[g][·]   64 lanes a presence word
//!                               └ histograms: sparse cells beside them (`aggregate_histogram`)
//! partials of partitions ──merge in partition order──▶ finish ──▶ tiles, group order
//! ```
//!
//! Invariants
//! 1. Additions follow row order and use Neumaier's compensation, the mean switches to its incremental form where the
//!    sum would overflow, deviations are Welford's: the same operations in the same order as Prometheus, so the same bits
//!    within one partition.
//! 2. Absent cells and histogram cells of an input row hold 0.0 (the tile's invariant): adding them changes nothing, so
//!    sums need no mask.

use std::sync::Arc;

use quiver_model::Histogram;
use quiver_model::number::kahan_inc;

use super::aggregate_histogram::HistogramCells;
use super::bits;
use super::group::Grouping;
use super::rows::rows_per_tile;
use crate::annotation::{Annotations, HistogramOperation};
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::exec::tile::{Roster, StepGrid, Tile};
use crate::promql::ast::{AggregateOp, Position};

/// What to aggregate.
#[derive(Clone, Debug)]
pub struct AggregateSpec {
    /// One of the eight of this module.
    pub op: AggregateOp,
    /// Labels of `by` or `without`.
    pub grouping: Vec<String>,
    /// `without` instead of `by`.
    pub without: bool,
    /// Position of the aggregated expression.
    pub expr_pos: Position,
}

/// See the module.
#[derive(Debug)]
pub struct Aggregate {
    op: AggregateOp,
    pos: Position,
    grouping: Arc<Grouping>,
    roster: Arc<Roster>,
    width: usize,
    words: usize,
    /// Sum, running mean once incremental, extreme, or sum of squared deviations.
    value: Vec<f64>,
    /// Compensation, or mean of the deviations.
    aux: Vec<f64>,
    count: Vec<f64>,
    /// Cells that saw a float (any sample, for `count` and `group`).
    seen: Vec<u64>,
    /// `avg`: cells that compute the mean incrementally.
    incremental: Vec<u64>,
    histograms: HistogramCells,
    notes: Annotations,
    rows: u32,
}

impl Aggregate {
    /// The operator and its output roster.
    pub fn new(spec: &AggregateSpec, input: &Arc<Roster>, grid: StepGrid) -> Result<(Self, Roster), QueryError> {
        if !spec.op.is_dense() {
            return Err(QueryError::Internal(format!("{} is not a dense aggregation", spec.op.as_str())));
        }
        let grouping = Arc::new(Grouping::new(input, &spec.grouping, spec.without));
        let out = grouping.roster();
        Ok((Self::empty(spec.op, spec.expr_pos, grouping, input.clone(), grid.len), out))
    }

    fn empty(op: AggregateOp, pos: Position, grouping: Arc<Grouping>, roster: Arc<Roster>, width: usize) -> Self {
        use AggregateOp::*;
        let cells = grouping.len() * width;
        let words = bits::words(width);
        let start = if matches!(op, Min | Max) { f64::NAN } else { 0.0 };
        let floats = |yes: bool, v: f64| if yes { vec![v; cells] } else { Vec::new() };
        Self {
            op,
            pos,
            value: floats(!matches!(op, Count | Group), start),
            aux: floats(matches!(op, Sum | Avg | Stddev | Stdvar), 0.0),
            count: floats(matches!(op, Count | Avg | Stddev | Stdvar), 0.0),
            seen: vec![0; grouping.len() * words],
            incremental: if op == Avg { vec![0; grouping.len() * words] } else { Vec::new() },
            grouping,
            roster,
            width,
            words,
            histograms: HistogramCells::default(),
            notes: Annotations::new(),
            rows: 0,
        }
    }

    /// An empty partial of the same aggregation, for another partition.
    pub fn fork(&self) -> Self {
        Self::empty(self.op, self.pos, self.grouping.clone(), self.roster.clone(), self.width)
    }

    /// The group of each input series, which is its output series.
    pub fn groups(&self) -> &[u32] {
        &self.grouping.ids
    }

    /// Accumulator cells it holds.
    pub fn cells(&self) -> usize {
        self.grouping.len() * self.width
    }

    /// Adds all rows of a tile.
    pub fn push(&mut self, tile: &Tile, ctx: &QueryContext) -> Result<(), QueryError> {
        for (row, sid) in tile.sids.iter().enumerate() {
            self.rows = self.rows.wrapping_add(1);
            if self.rows & 255 == 0 {
                ctx.check()?;
            }
            let at = row * tile.width;
            let hist = if tile.hist.is_empty() { &[][..] } else { tile.row_histograms(row) };
            self.add_row(*sid, &tile.values[at..at + tile.width], &tile.present, at, hist)?;
        }
        Ok(())
    }

    /// Adds one row: `values` are its cells (0.0 where absent), its presence bits start at bit `at` of `present`, and
    /// `hist` are its histograms by `at` + step, ascending.
    pub fn add_row(
        &mut self,
        sid: u32,
        values: &[f64],
        present: &[u64],
        at: usize,
        hist: &[(u32, Arc<Histogram>)],
    ) -> Result<(), QueryError> {
        let Some(g) = self.grouping.ids.get(sid as usize).map(|g| *g as usize) else { return Ok(()) };
        let counts_all = matches!(self.op, AggregateOp::Count | AggregateOp::Group);
        if counts_all || (hist.is_empty() && self.histograms.is_empty()) {
            for w in 0..self.words {
                let on = bits::row_word(present, at, self.width, w);
                self.add_word(g, w, on, values);
            }
            return Ok(());
        }
        let sums = matches!(self.op, AggregateOp::Sum | AggregateOp::Avg);
        if !sums && !hist.is_empty() {
            self.notes.histogram_ignored_in_aggregation_info(self.op.as_str(), self.pos);
        }
        let mut next = 0;
        for w in 0..self.words {
            let mut on = bits::row_word(present, at, self.width, w);
            while let Some((cell, h)) = hist.get(next) {
                let step = (*cell as usize).wrapping_sub(at);
                if step >> 6 != w {
                    break;
                }
                next += 1;
                let bit = 1u64 << (step & 63);
                if on & bit == 0 {
                    continue;
                }
                on &= !bit;
                if sums {
                    let float = self.seen[g * self.words + w] & bit != 0;
                    let name = || self.roster.rows[sid as usize].labels.metric_name().to_owned();
                    let average = self.op == AggregateOp::Avg;
                    let cell = (g * self.width + step) as u64;
                    self.histograms.add(cell, h, float, average, self.pos, name, &mut self.notes)?;
                }
            }
            if sums && on != 0 {
                on &= !self.histograms.closed(g * self.width + (w << 6), on);
            }
            self.add_word(g, w, on, values);
        }
        Ok(())
    }

    fn add_word(&mut self, g: usize, w: usize, on: u64, values: &[f64]) {
        if on == 0 {
            return;
        }
        let from = w << 6;
        let n = (self.width - from).min(64);
        let at = g * self.width + from;
        self.seen[g * self.words + w] |= on;
        let x = &values[from..from + n];
        let full = on == bits::mask(n, 0);
        match self.op {
            AggregateOp::Sum => sum_lanes(&mut self.value[at..at + n], &mut self.aux[at..at + n], x),
            AggregateOp::Count => count_lanes(&mut self.count[at..at + n], on, full),
            AggregateOp::Min => {
                let v = &mut self.value[at..at + n];
                lanes(on, full, n, |i| v[i] = if v[i] > x[i] || v[i].is_nan() { x[i] } else { v[i] });
            }
            AggregateOp::Max => {
                let v = &mut self.value[at..at + n];
                lanes(on, full, n, |i| v[i] = if v[i] < x[i] || v[i].is_nan() { x[i] } else { v[i] });
            }
            AggregateOp::Stddev | AggregateOp::Stdvar => {
                let v = &mut self.value[at..at + n];
                let mean = &mut self.aux[at..at + n];
                let count = &mut self.count[at..at + n];
                lanes(on, full, n, |i| {
                    count[i] += 1.0;
                    let delta = x[i] - mean[i];
                    mean[i] += delta / count[i];
                    v[i] += delta * (x[i] - mean[i]);
                });
            }
            AggregateOp::Avg => {
                let (v, c) = (&mut self.value[at..at + n], &mut self.aux[at..at + n]);
                let count = &mut self.count[at..at + n];
                let incremental = &mut self.incremental[g * self.words + w];
                if *incremental == 0 && sum_lanes_finite(v, c, x) {
                    count_lanes(count, on, full);
                } else {
                    for i in bits::ones(on) {
                        let mut mean = *incremental >> i & 1 != 0;
                        average_one(x[i], &mut v[i], &mut c[i], &mut count[i], &mut mean);
                        *incremental |= u64::from(mean) << i;
                    }
                }
            }
            _ => {}
        }
    }

    /// Adds what another partial has; partials are merged in partition order.
    pub fn merge(&mut self, mut other: Self) -> Result<(), QueryError> {
        for i in 0..self.seen.len().min(other.seen.len()) {
            let (g, w) = (i / self.words.max(1), i % self.words.max(1));
            let mut on = other.seen[i];
            if on != 0 && !self.histograms.is_empty() {
                on &= !self.histograms.closed(g * self.width + (w << 6), on);
            }
            for b in bits::ones(on) {
                self.merge_cell(i, b, g * self.width + (w << 6) + b, &other);
            }
            self.seen[i] |= on;
        }
        self.notes.merge(std::mem::take(&mut other.notes));
        self.histograms.merge(other.histograms, self.op == AggregateOp::Avg, self.pos, &mut self.notes)
    }

    fn merge_cell(&mut self, word: usize, bit: usize, cell: usize, o: &Self) {
        match self.op {
            AggregateOp::Sum => {
                let (t, c) = kahan_inc(o.value[cell], self.value[cell], self.aux[cell]);
                self.value[cell] = t;
                self.aux[cell] = if t.is_infinite() { c } else { c + o.aux[cell] };
            }
            AggregateOp::Count => self.count[cell] += o.count[cell],
            AggregateOp::Min => {
                let (v, x) = (self.value[cell], o.value[cell]);
                self.value[cell] = if v > x || v.is_nan() { x } else { v };
            }
            AggregateOp::Max => {
                let (v, x) = (self.value[cell], o.value[cell]);
                self.value[cell] = if v < x || v.is_nan() { x } else { v };
            }
            AggregateOp::Stddev | AggregateOp::Stdvar => {
                let (n1, n2) = (self.count[cell], o.count[cell]);
                let n = n1 + n2;
                if n1 == 0.0 {
                    (self.value[cell], self.aux[cell]) = (o.value[cell], o.aux[cell]);
                } else {
                    let delta = o.aux[cell] - self.aux[cell];
                    self.aux[cell] += delta * (n2 / n);
                    self.value[cell] += o.value[cell] + delta * delta * (n1 * n2 / n);
                }
                self.count[cell] = n;
            }
            AggregateOp::Avg => self.merge_average(word, bit, cell, o),
            _ => {}
        }
    }

    fn merge_average(&mut self, word: usize, bit: usize, cell: usize, o: &Self) {
        let (n1, n2) = (self.count[cell], o.count[cell]);
        let n = n1 + n2;
        let mine = self.incremental[word] >> bit & 1 != 0;
        let theirs = o.incremental[word] >> bit & 1 != 0;
        self.count[cell] = n;
        if n1 == 0.0 {
            (self.value[cell], self.aux[cell]) = (o.value[cell], o.aux[cell]);
            self.incremental[word] |= u64::from(theirs) << bit;
            return;
        }
        if !mine && !theirs {
            let (t, c) = kahan_inc(o.value[cell], self.value[cell], self.aux[cell]);
            if !t.is_infinite() {
                (self.value[cell], self.aux[cell]) = (t, c + o.aux[cell]);
                return;
            }
        }
        let mean = |v: f64, c: f64, n: f64, done: bool| if done { (v, c) } else { (v / n, c / n) };
        let (m1, c1) = mean(self.value[cell], self.aux[cell], n1, mine);
        let (m2, c2) = mean(o.value[cell], o.aux[cell], n2, theirs);
        let (q1, q2) = (n1 / n, n2 / n);
        let (t, c) = kahan_inc(m2 * q2, m1 * q1, c1 * q1);
        (self.value[cell], self.aux[cell]) = (t, if t.is_infinite() { c } else { c + c2 * q2 });
        self.incremental[word] |= 1 << bit;
    }

    /// The groups that have a sample at any step.
    pub fn finish(mut self, ctx: &QueryContext) -> Result<Vec<Tile>, QueryError> {
        let mut found = std::mem::take(&mut self.histograms).finish(self.op == AggregateOp::Avg);
        let mut tiles: Vec<Tile> = Vec::new();
        let per_tile = rows_per_tile(self.width);
        for g in 0..self.grouping.len() {
            if g & 255 == 0 {
                ctx.check()?;
            }
            let first = (g * self.width) as u64;
            let here = found.take_below(first + self.width as u64);
            let mut kept = Vec::with_capacity(here.len());
            for (cell, h) in here {
                let step = (cell - first) as usize;
                let word = &mut self.seen[g * self.words + (step >> 6)];
                let bit = 1u64 << (step & 63);
                if *word & bit != 0 {
                    *word &= !bit;
                    self.notes.mixed_floats_histograms_agg_warning(self.pos);
                } else if let Some(h) = h {
                    if h.collision {
                        let what = HistogramOperation::Aggregation;
                        self.notes.histogram_counter_reset_collision_warning(self.pos, what);
                    }
                    kept.push((step, h.value));
                }
            }
            let seen = &self.seen[g * self.words..(g + 1) * self.words];
            if kept.is_empty() && seen.iter().all(|w| *w == 0) {
                continue;
            }
            if tiles.last().is_none_or(|t| t.rows() == per_tile) {
                tiles.push(Tile { width: self.width, ..Tile::default() });
            }
            let Some(tile) = tiles.last_mut() else { continue };
            let row = tile.push_row(g as u32);
            let at = row * self.width;
            for (w, on) in seen.iter().enumerate() {
                bits::or_at(&mut tile.present, at + (w << 6), *on);
                for i in bits::ones(*on) {
                    let step = (w << 6) + i;
                    tile.values[at + step] = self.result(g, step);
                }
            }
            for (step, h) in kept {
                tile.set_histogram(at + step, Arc::new(h));
            }
        }
        ctx.annotate(self.notes);
        Ok(tiles)
    }

    fn result(&self, g: usize, step: usize) -> f64 {
        let cell = g * self.width + step;
        match self.op {
            AggregateOp::Sum => self.value[cell] + self.aux[cell],
            AggregateOp::Count => self.count[cell],
            AggregateOp::Min | AggregateOp::Max => self.value[cell],
            AggregateOp::Stdvar => self.value[cell] / self.count[cell],
            AggregateOp::Stddev => (self.value[cell] / self.count[cell]).sqrt(),
            AggregateOp::Avg => {
                if self.incremental[g * self.words + (step >> 6)] >> (step & 63) & 1 != 0 {
                    self.value[cell] + self.aux[cell]
                } else {
                    self.value[cell] / self.count[cell] + self.aux[cell] / self.count[cell]
                }
            }
            _ => 1.0,
        }
    }
}

#[inline(always)]
fn lanes(on: u64, full: bool, n: usize, mut f: impl FnMut(usize)) {
    if full {
        for i in 0..n {
            f(i);
        }
    } else {
        for i in bits::ones(on) {
            f(i);
        }
    }
}

fn count_lanes(count: &mut [f64], on: u64, full: bool) {
    if full {
        for c in count {
            *c += 1.0;
        }
    } else {
        for i in bits::ones(on) {
            count[i] += 1.0;
        }
    }
}

/// Compensated addition without a branch. The error of an addition is itself a float, so that computing it without
/// asking which operand is larger gives the bits that Neumaier's way gives.
fn sum_lanes(sum: &mut [f64], comp: &mut [f64], x: &[f64]) {
    let n = sum.len();
    let (comp, x) = (&mut comp[..n], &x[..n]);
    for i in 0..n {
        let t = sum[i] + x[i];
        let part = t - sum[i];
        let error = (sum[i] - (t - part)) + (x[i] - part);
        comp[i] = if t.is_infinite() { 0.0 } else { comp[i] + error };
        sum[i] = t;
    }
}

/// Adds and says true, unless any sum would be infinite: then nothing is changed.
fn sum_lanes_finite(sum: &mut [f64], comp: &mut [f64], x: &[f64]) -> bool {
    let mut infinite = false;
    for (s, x) in sum.iter().zip(x) {
        infinite |= (*s + *x).is_infinite();
    }
    if !infinite {
        sum_lanes(sum, comp, x);
    }
    !infinite
}

/// One sample of an average; `mean` says whether `value` is a mean or a sum.
fn average_one(x: f64, value: &mut f64, comp: &mut f64, count: &mut f64, mean: &mut bool) {
    *count += 1.0;
    if *count == 1.0 {
        (*value, *comp) = (x, 0.0);
        return;
    }
    if !*mean {
        let (t, c) = kahan_inc(x, *value, *comp);
        if !t.is_infinite() {
            (*value, *comp) = (t, c);
            return;
        }
        *mean = true;
        *value /= *count - 1.0;
        *comp /= *count - 1.0;
    }
    let q = (*count - 1.0) / *count;
    (*value, *comp) = kahan_inc(x / *count, q * *value, q * *comp);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::operators::testing::{Cell, cells, context, floats, grid, labels, notes, roster, tile};
    use quiver_model::ResetHint;

    fn spec(op: AggregateOp, by: &[&str]) -> AggregateSpec {
        let grouping = by.iter().map(|s| (*s).to_owned()).collect();
        AggregateSpec { op, grouping, without: false, expr_pos: Position::default() }
    }

    fn h(sum: f64, hint: ResetHint, schema: i32) -> Option<Cell> {
        let zero_count = if schema < -4 { 0.0 } else { 1.0 };
        let h = Histogram { sum, count: 1.0, zero_count, reset_hint: hint, schema, ..Histogram::default() };
        Some(Cell::H(Arc::new(h)))
    }

    fn f(v: f64) -> Option<Cell> {
        Some(Cell::F(v))
    }

    #[test]
    fn sums_by_label() {
        let r = Arc::new(roster(&["a=1,b=1", "a=1,b=2", "a=2,b=1", "a=3,b=1"]));
        let ctx = context();
        let (mut op, out) = Aggregate::new(&spec(AggregateOp::Sum, &["a"]), &r, grid(2)).unwrap();
        let rows = [vec![Some(1e100), Some(1.0)], vec![Some(1.0), None], vec![None, Some(7.0)], vec![None, None]];
        op.push(&floats(0, &rows), &ctx).unwrap();
        let tiles = op.finish(&ctx).unwrap();
        assert_eq!(tiles[0].sids, [0, 1]);
        let got = cells(&out, &tiles);
        let want = [("a=1", 0, 1e100 + 1.0), ("a=1", 1, 1.0), ("a=2", 1, 7.0)];
        let want = want.into_iter().map(|(l, s, v): (_, _, f64)| ((labels(l), s), (false, v.to_bits()))).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn histograms_are_added_and_mixtures_dropped() {
        let r = Arc::new(roster(&["i=1", "i=2", "i=3"]));
        let u = ResetHint::Unknown;
        let rows = [
            vec![h(1.0, u, 0), f(1.0), h(1.0, u, 0), h(1.0, ResetHint::Yes, 0), h(4.0, u, 0)],
            vec![h(2.0, u, 0), h(1.0, u, 0), h(1.0, u, -53), h(2.0, ResetHint::No, 0), None],
            vec![h(4.0, u, 0), h(1.0, u, 0), f(1.0), None, None],
        ];
        for (op, sums) in [(AggregateOp::Sum, [7.0, 3.0, 4.0]), (AggregateOp::Avg, [7.0 / 3.0, 1.5, 4.0])] {
            let ctx = context();
            let (mut agg, out) = Aggregate::new(&spec(op, &[]), &r, grid(5)).unwrap();
            let mut part = agg.fork();
            agg.push(&tile(0, &rows[..1]), &ctx).unwrap();
            part.push(&tile(1, &rows[1..]), &ctx).unwrap();
            let (mut whole, _) = Aggregate::new(&spec(op, &[]), &r, grid(5)).unwrap();
            whole.push(&tile(0, &rows), &ctx).unwrap();
            agg.merge(part).unwrap();
            for agg in [whole, agg] {
                let got: Vec<(usize, f64)> = cells(&out, &agg.finish(&ctx).unwrap())
                    .into_iter()
                    .map(|((_, s), (hist, v))| {
                        assert!(hist);
                        (s, f64::from_bits(v))
                    })
                    .collect();
                for ((s, v), (ws, wv)) in got.iter().zip([0, 3, 4].into_iter().zip(sums)) {
                    assert!(*s == ws && (v - wv).abs() < 1e-12, "{got:?}");
                }
                assert_eq!(got.len(), 3);
            }
            let said = notes(&ctx);
            assert!(said.contains(&"encountered a mix of histograms and floats for aggregation".to_owned()));
            assert!(said.contains(&"conflicting counter resets during histogram aggregation".to_owned()));
            assert!(said.iter().any(|s| s.starts_with("vector contains a mix of histograms with exponential")));
        }
    }

    #[test]
    fn extremes_ignore_histograms_and_count_does_not() {
        let r = Arc::new(roster(&["i=1", "i=2"]));
        let rows = [vec![f(2.0), h(9.0, ResetHint::Unknown, 0)], vec![h(9.0, ResetHint::Unknown, 0), None]];
        let run = |op| {
            let ctx = context();
            let (mut agg, out) = Aggregate::new(&spec(op, &[]), &r, grid(2)).unwrap();
            agg.push(&tile(0, &rows), &ctx).unwrap();
            let got: Vec<f64> = cells(&out, &agg.finish(&ctx).unwrap()).values().map(|v| f64::from_bits(v.1)).collect();
            (got, notes(&ctx))
        };
        assert_eq!(run(AggregateOp::Max), (vec![2.0], vec!["ignored histogram in max aggregation".to_owned()]));
        assert_eq!(run(AggregateOp::Count), (vec![2.0, 1.0], vec![]));
    }
}
