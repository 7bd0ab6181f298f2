//! `histogram_quantile`, `histogram_fraction` and `histogram_quantiles` over a vector: series with a label `le` are put
//! together to classic histograms, native ones stand beside them.
//!
//! ```text
//! {job="a", le="1"}   ┐
//! {job="a", le="5"}   ├─ group {job="a"} ─▶ buckets of each step ─▶ one row
//! {job="a", le="+Inf"}┘
//! {job="a"}  H ─ native: at a step where both are, neither is used, and there is a warning
//! ```
//!
//! Which samples are floats and which histograms shows only in the tiles, hence the roster comes with the result.
//!
//! Invariants
//! 1. A cell of the result comes from one histogram: two that have the same labels at a step are an error.
//! 2. Rows of the result are in the order of labels.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use quiver_model::labels::push_packed;
use quiver_model::number::format_g;
use quiver_model::{Histogram, Labels};

use super::buckets::{Bucket, Forced, bucket_fraction, bucket_quantile};
use super::is_quantile;
use super::native::{NanObservations, histogram_fraction, histogram_quantile};
use crate::annotation::{Annotations, MergeDetail};
use crate::error::QueryError;
use crate::exec::fold::rows_per_tile;
use crate::exec::tile::{Roster, RosterRow, StepGrid, Tile};
use crate::promql::ast::Position;

/// The label of a bucket's upper bound.
const BUCKET_LABEL: &str = "le";

/// Which function, with its scalar arguments: a value per step each.
#[derive(Clone, Debug)]
pub enum HistogramFunction {
    /// `histogram_quantile(q, v)`
    Quantile {
        /// Quantile and its position.
        q: (Vec<f64>, Position),
    },
    /// `histogram_fraction(lower, upper, v)`
    Fraction {
        /// Lower bounds.
        lower: Vec<f64>,
        /// Upper bounds.
        upper: Vec<f64>,
    },
    /// `histogram_quantiles(v, label, q…)`
    Quantiles {
        /// The label that takes the quantile.
        label: String,
        /// Quantiles and their positions.
        qs: Vec<(Vec<f64>, Position)>,
    },
}

/// What to compute.
#[derive(Clone, Debug)]
pub struct HistogramSpec {
    /// Function.
    pub function: HistogramFunction,
    /// Position of the vector.
    pub pos: Position,
    /// Steps.
    pub grid: StepGrid,
    /// Delayed name removal: names stay in the labels, marked to be dropped.
    pub delayed: bool,
}

/// Takes the tiles of a vector, and answers at the end.
#[derive(Debug)]
pub struct ClassicHistograms {
    roster: Arc<Roster>,
    spec: HistogramSpec,
    tiles: Vec<Tile>,
}

/// A row of a tile.
#[derive(Clone, Copy, Debug)]
struct RowAt {
    tile: u32,
    row: u32,
}

#[derive(Debug)]
struct Classic {
    labels: Labels,
    /// Upper bounds and rows.
    members: Vec<(f64, RowAt)>,
    /// Position in the native series of the one with the same labels.
    native: Option<usize>,
}

#[derive(Debug)]
struct Native {
    labels: Labels,
    at: RowAt,
    /// Position in the classic ones of the one with the same labels.
    classic: Option<usize>,
}

/// One row of the result: a histogram, and which quantiles of it (by number of the label's value).
#[derive(Clone, Debug)]
struct Output {
    labels: Labels,
    source: Source,
    value: u32,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Classic(usize),
    Native(usize),
}

impl ClassicHistograms {
    /// Over a vector with this roster.
    pub fn new(roster: Arc<Roster>, spec: HistogramSpec) -> Self {
        Self { roster, spec, tiles: Vec::new() }
    }

    /// Takes a tile.
    pub fn push(&mut self, tile: Tile) {
        if tile.rows() > 0 {
            self.tiles.push(tile);
        }
    }

    /// Bytes of the tiles it keeps, about.
    pub fn bytes(&self) -> usize {
        self.tiles.iter().map(|t| t.values.len() * 8 + t.present.len() * 8 + t.hist.len() * 256).sum()
    }

    /// The result with its roster, and what is to be reported.
    pub fn finish(self) -> Result<(Arc<Roster>, Vec<Tile>, Annotations), QueryError> {
        let mut annotations = Annotations::new();
        self.check_quantiles(&mut annotations);
        let (classics, natives) = self.group(&mut annotations);
        let values = self.label_values();
        let outputs = self.outputs(&classics, &natives, &values)?;
        let (buckets, forced) = (Vec::new(), HashMap::new());
        let mut run = Run { me: &self, classics: &classics, natives: &natives, values: &values, buckets, forced };

        let width = self.spec.grid.len;
        let per_tile = rows_per_tile(width);
        let mut rows: Vec<RosterRow> = Vec::new();
        let mut tiles: Vec<Tile> = Vec::new();
        for (i, output) in outputs.iter().enumerate() {
            if i == 0 || outputs[i - 1].labels != output.labels {
                if tiles.last().is_none_or(|t| t.rows() >= per_tile) {
                    tiles.push(Tile::new(width, Vec::new()));
                }
                let sid = rows.len() as u32;
                rows.push(RosterRow { labels: output.labels.clone(), drop_name: self.spec.delayed });
                if let Some(tile) = tiles.last_mut() {
                    tile.push_row(sid);
                }
            }
            if let Some(tile) = tiles.last_mut() {
                run.output(output, tile, &mut annotations)?;
            }
        }
        for (name, forced) in run.forced {
            annotations.histogram_quantile_forced_monotonicity_info(name, self.spec.pos, forced.detail());
        }
        Ok((Arc::new(Roster { rows }), tiles, annotations))
    }

    fn check_quantiles(&self, annotations: &mut Annotations) {
        let params: &[(Vec<f64>, Position)] = match &self.spec.function {
            HistogramFunction::Quantile { q } => std::slice::from_ref(q),
            HistogramFunction::Quantiles { qs, .. } => qs,
            HistogramFunction::Fraction { .. } => &[],
        };
        for (qs, pos) in params {
            let mut last = None;
            for q in qs.iter().filter(|q| !is_quantile(**q)) {
                if last.replace(q.to_bits()) != Some(q.to_bits()) {
                    annotations.invalid_quantile_warning(*q, *pos);
                }
            }
        }
    }

    /// The name messages show: none where names are dropped at once.
    fn name<'a>(&self, labels: &'a Labels) -> &'a str {
        if self.spec.delayed { labels.metric_name() } else { "" }
    }

    /// Puts series with `le` together.
    fn group(&self, annotations: &mut Annotations) -> (Vec<Classic>, Vec<Native>) {
        let mut by_labels: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut classics: Vec<Classic> = Vec::new();
        let mut natives: Vec<Native> = Vec::new();
        let mut key = Vec::new();
        for (t, tile) in self.tiles.iter().enumerate() {
            for (row, sid) in tile.sids.iter().enumerate() {
                let Some(series) = self.roster.rows.get(*sid as usize) else { continue };
                let at = RowAt { tile: t as u32, row: row as u32 };
                let histograms = tile.row_histograms(row).len();
                if histograms > 0 {
                    natives.push(Native { labels: series.labels.clone(), at, classic: None });
                }
                if samples(tile, row) == histograms {
                    continue;
                }
                let text = series.labels.get(BUCKET_LABEL);
                let Some(bound) = parse_bound(text) else {
                    annotations.bad_bucket_label_warning(self.name(&series.labels), text, self.spec.pos);
                    continue;
                };
                key.clear();
                for (name, value) in series.labels.iter().filter(|(n, _)| *n != BUCKET_LABEL) {
                    push_packed(&mut key, name, value);
                }
                let group = match by_labels.get(key.as_slice()) {
                    Some(g) => *g,
                    None => {
                        let labels = series.labels.filtered(|n| n != BUCKET_LABEL);
                        classics.push(Classic { labels, members: Vec::new(), native: None });
                        by_labels.insert(key.clone(), classics.len() - 1);
                        classics.len() - 1
                    }
                };
                classics[group].members.push((bound, at));
            }
        }
        for c in &mut classics {
            // A stable sort: the buckets of every step are then sorted, too.
            c.members.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        for (i, n) in natives.iter_mut().enumerate() {
            if let Some(&g) = by_labels.get(n.labels.packed()) {
                n.classic = Some(g);
                classics[g].native = Some(i);
            }
        }
        (classics, natives)
    }

    /// For `histogram_quantiles`: the distinct values of the label, and for each quantile and step which it is.
    fn label_values(&self) -> LabelValues {
        let mut out = LabelValues::default();
        let HistogramFunction::Quantiles { qs, .. } = &self.spec.function else { return out };
        let mut numbers: HashMap<u64, u32> = HashMap::new();
        let mut texts: HashMap<String, u32> = HashMap::new();
        for (qs, _) in qs {
            out.of.push(
                qs.iter()
                    .map(|q| {
                        *numbers.entry(q.to_bits()).or_insert_with(|| {
                            let text = open_metrics_float(*q);
                            *texts.entry(text.clone()).or_insert_with(|| {
                                out.texts.push(text);
                                out.texts.len() as u32 - 1
                            })
                        })
                    })
                    .collect(),
            );
        }
        out
    }

    /// All rows of the result, in the order of labels; rows with the same labels are neighbours.
    fn outputs(
        &self,
        classics: &[Classic],
        natives: &[Native],
        values: &LabelValues,
    ) -> Result<Vec<Output>, QueryError> {
        let sources = natives.iter().enumerate().map(|(i, n)| (&n.labels, Source::Native(i)));
        let sources = sources.chain(classics.iter().enumerate().map(|(i, c)| (&c.labels, Source::Classic(i))));
        let mut outputs = Vec::new();
        for (labels, source) in sources {
            let labels = if self.spec.delayed { labels.clone() } else { without_metadata(labels) };
            let HistogramFunction::Quantiles { label, .. } = &self.spec.function else {
                outputs.push(Output { labels, source, value: 0 });
                continue;
            };
            for (value, text) in values.texts.iter().enumerate() {
                let mut builder = labels.to_builder();
                builder.set(label, text);
                let labels = builder.build().map_err(|e| QueryError::Execution(e.to_string()))?;
                outputs.push(Output { labels, source, value: value as u32 });
            }
        }
        outputs.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(outputs)
    }
}

#[derive(Debug, Default)]
struct LabelValues {
    texts: Vec<String>,
    of: Vec<Vec<u32>>,
}

/// One evaluation.
struct Run<'a> {
    me: &'a ClassicHistograms,
    classics: &'a [Classic],
    natives: &'a [Native],
    values: &'a LabelValues,
    buckets: Vec<Bucket>,
    /// By metric name.
    forced: HashMap<&'a str, ForcedSteps>,
}

/// Counts that were forced to rise.
#[derive(Debug)]
struct ForcedSteps {
    first: MergeDetail,
    /// Reports of each step.
    steps: Vec<i64>,
}

impl ForcedSteps {
    /// All in one. Prometheus counts with every step what it has counted so far once more.
    fn detail(self) -> MergeDetail {
        let mut detail = self.first;
        if let MergeDetail::ForcedMonotonicity { count, .. } = &mut detail {
            let seen = self.steps.iter().skip_while(|n| **n == 0);
            let total =
                seen.fold(None, |sum: Option<i64>, n| Some(sum.map_or(*n, |sum| sum.wrapping_add(*n).wrapping_mul(2))));
            *count = total.unwrap_or(0);
        }
        detail
    }
}

/// What to report of a row.
#[derive(Default)]
struct Notes {
    mixed: bool,
    nan_result: bool,
    nan_present: bool,
    forced: Vec<(usize, MergeDetail)>,
}

impl Notes {
    fn force(&mut self, step: usize, ts: i64, f: Forced) {
        self.forced.push((step, MergeDetail::forced_monotonicity(ts, f.min_bucket, f.max_bucket, f.max_diff)));
    }

    fn nan(&mut self, n: NanObservations) {
        self.nan_result |= n == NanObservations::Result;
        self.nan_present |= n == NanObservations::Present;
    }
}

impl Run<'_> {
    /// Computes an output into the last row of `tile`.
    fn output(&mut self, output: &Output, tile: &mut Tile, annotations: &mut Annotations) -> Result<(), QueryError> {
        let mut notes = Notes::default();
        let labels = match output.source {
            Source::Classic(c) => {
                self.classic(&self.classics[c], output.value, tile, &mut notes)?;
                &self.classics[c].labels
            }
            Source::Native(n) => {
                self.native(&self.natives[n], output.value, tile, &mut notes)?;
                &self.natives[n].labels
            }
        };
        let (name, pos) = (self.me.name(labels), self.me.spec.pos);
        let fraction = matches!(self.me.spec.function, HistogramFunction::Fraction { .. });
        if notes.mixed {
            annotations.mixed_classic_native_histograms_warning(name, pos);
        }
        if notes.nan_result {
            annotations.native_histogram_quantile_nan_result_info(name, pos);
        }
        match (notes.nan_present, fraction) {
            (true, true) => annotations.native_histogram_fraction_nans_info(name, pos),
            (true, false) => annotations.native_histogram_quantile_nan_skew_info(name, pos),
            _ => {}
        }
        for (step, detail) in notes.forced {
            let steps = self.me.spec.grid.len;
            match self.forced.entry(name) {
                Entry::Occupied(mut e) => {
                    e.get_mut().first.fold(detail);
                    e.get_mut().steps[step] += 1;
                }
                Entry::Vacant(e) => e.insert(ForcedSteps { first: detail, steps: vec![0; steps] }).steps[step] += 1,
            }
        }
        Ok(())
    }

    fn classic(&mut self, c: &Classic, value: u32, out: &mut Tile, notes: &mut Notes) -> Result<(), QueryError> {
        let me = self.me;
        let grid = me.spec.grid;
        let native = c.native.and_then(|n| self.natives.get(n)).map(|n| n.at);
        for step in 0..grid.len {
            let mut gathered = std::mem::take(&mut self.buckets);
            gathered.clear();
            for (upper_bound, at) in &c.members {
                if let Some(count) = me.float_at(*at, step) {
                    gathered.push(Bucket { upper_bound: *upper_bound, count });
                }
            }
            let mixed = !gathered.is_empty() && native.is_some_and(|at| me.histogram_at(at, step).is_some());
            notes.mixed |= mixed;
            if !gathered.is_empty() && !mixed {
                match &me.spec.function {
                    HistogramFunction::Fraction { lower, upper } => {
                        let v = bucket_fraction(at_step(lower, step), at_step(upper, step), &mut gathered);
                        put(out, step, v)?;
                    }
                    HistogramFunction::Quantile { q } => {
                        let (v, forced) = bucket_quantile(at_step(&q.0, step), &mut gathered);
                        if let Some(f) = forced {
                            notes.force(step, grid.time(step), f);
                        }
                        put(out, step, v)?;
                    }
                    HistogramFunction::Quantiles { qs, .. } => {
                        for (i, (q, _)) in qs.iter().enumerate() {
                            if self.values.of[i].get(step) != Some(&value) {
                                continue;
                            }
                            let mut buckets = gathered.clone();
                            let (v, forced) = bucket_quantile(at_step(q, step), &mut buckets);
                            // The first quantile there is mends the buckets for those after it.
                            if let Some(f) = forced
                                && !qs[..i].iter().any(|(q, _)| is_quantile(at_step(q, step)))
                            {
                                notes.force(step, grid.time(step), f);
                            }
                            put(out, step, v)?;
                        }
                    }
                }
            }
            self.buckets = gathered;
        }
        Ok(())
    }

    fn native(&self, n: &Native, value: u32, out: &mut Tile, notes: &mut Notes) -> Result<(), QueryError> {
        let me = self.me;
        let width = me.spec.grid.len;
        let tile = &me.tiles[n.at.tile as usize];
        let first = n.at.row as usize * width;
        for (cell, h) in tile.row_histograms(n.at.row as usize) {
            let step = *cell as usize - first;
            let classic = n.classic.and_then(|c| self.classics.get(c));
            if classic.is_some_and(|c| c.members.iter().any(|(_, at)| me.float_at(*at, step).is_some())) {
                notes.mixed = true;
                continue;
            }
            match &me.spec.function {
                HistogramFunction::Fraction { lower, upper } => {
                    let (v, nan) = histogram_fraction(at_step(lower, step), at_step(upper, step), h);
                    notes.nan(nan);
                    put(out, step, v)?;
                }
                HistogramFunction::Quantile { q } => {
                    let (v, nan) = histogram_quantile(at_step(&q.0, step), h);
                    notes.nan(nan);
                    put(out, step, v)?;
                }
                HistogramFunction::Quantiles { qs, .. } => {
                    for (i, (q, _)) in qs.iter().enumerate() {
                        if self.values.of[i].get(step) == Some(&value) {
                            let (v, nan) = histogram_quantile(at_step(q, step), h);
                            notes.nan(nan);
                            put(out, step, v)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl ClassicHistograms {
    #[inline]
    fn float_at(&self, at: RowAt, step: usize) -> Option<f64> {
        let tile = &self.tiles[at.tile as usize];
        let cell = at.row as usize * tile.width + step;
        if !tile.is_present(cell) || (!tile.hist.is_empty() && tile.histogram(cell).is_some()) {
            return None;
        }
        Some(tile.values[cell])
    }

    fn histogram_at(&self, at: RowAt, step: usize) -> Option<&Arc<Histogram>> {
        let tile = &self.tiles[at.tile as usize];
        tile.histogram(at.row as usize * tile.width + step)
    }
}

/// Labels without the metric's name, type and unit.
fn without_metadata(labels: &Labels) -> Labels {
    let metadata = |n: &str| matches!(n, "__name__" | "__type__" | "__unit__");
    if labels.iter().any(|(n, _)| metadata(n)) { labels.filtered(|n| !metadata(n)) } else { labels.clone() }
}

/// A scalar argument at a step; one that is missing is NaN.
fn at_step(values: &[f64], step: usize) -> f64 {
    values.get(step).copied().unwrap_or(f64::NAN)
}

/// Sets a cell of the last row, which must be free.
fn put(out: &mut Tile, step: usize, v: f64) -> Result<(), QueryError> {
    let cell = (out.rows() - 1) * out.width + step;
    if out.is_present(cell) {
        return Err(QueryError::Execution("vector cannot contain metrics with the same labelset".into()));
    }
    out.set(cell, v);
    Ok(())
}

/// Samples in a row.
fn samples(tile: &Tile, row: usize) -> usize {
    (row * tile.width..(row + 1) * tile.width).filter(|cell| tile.is_present(*cell)).count()
}

/// The bound a label names, as Go reads floats: what is beyond the range of floats is none, nor is NaN.
fn parse_bound(text: &str) -> Option<f64> {
    let v: f64 = if text.contains('_') { without_underscores(text)?.parse().ok()? } else { text.parse().ok()? };
    let infinity = v.is_infinite() && !text.bytes().any(|b| b.eq_ignore_ascii_case(&b'n'));
    (!v.is_nan() && !infinity).then_some(v)
}

/// Underscores may stand between digits.
fn without_underscores(text: &str) -> Option<String> {
    let b = text.as_bytes();
    let digit = |i: Option<usize>| i.and_then(|i| b.get(i)).is_some_and(u8::is_ascii_digit);
    let fine = (0..b.len()).all(|i| b[i] != b'_' || (digit(i.checked_sub(1)) && digit(Some(i + 1))));
    fine.then(|| text.replace('_', ""))
}

/// A float as OpenMetrics writes it: with a decimal point or an exponent.
fn open_metrics_float(v: f64) -> String {
    if v == 0.0 {
        return "0.0".to_owned();
    }
    let mut text = format_g(v);
    if v.is_finite() && !text.contains(['e', '.']) {
        text.push_str(".0");
    }
    text
}

#[cfg(test)]
mod tests;
