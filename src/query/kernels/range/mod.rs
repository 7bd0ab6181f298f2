//! Functions over range vectors: the samples of one series, folded into one row of steps.
//!
//! ```text
//! samples   ● ● ●  ●  ● ● ●  ●        each window is (t − range, t]: two pointers that only go forward
//!           (────────]                step 0
//!               (────────]            step 1
//! row       [   5   |   5   | … ]
//! ```
//!
//! What does not depend on where a window begins is found once per series: counter resets are listed, changes are counted
//! by prefix sums, extremes are kept in a queue. What does depend (compensated sums, regressions) is computed per window
//! in Prometheus's order of operations, and not again where the window holds the same samples as the one before.
//!
//! Invariants
//! 1. Bits are those of the plain per-window computation (`tests` compares with it).
//! 2. Stale markers are never seen by a function.

mod extended;
mod extremes;
mod float;
mod histogram;
mod lanes;
mod notes;
mod pairs;
mod rate;
mod start_time;
#[cfg(test)]
mod tests;
mod window;

use std::sync::Arc;

use quiver_core::{Condense, Edges, Keep};
use quiver_model::number::format_f6;
use quiver_model::{Histogram, SampleColumn, Value};

pub use window::strip_stale;

pub(crate) use extended::interpolate;
pub(crate) use histogram::interpolate as interpolate_histograms;
pub(crate) use notes::{Note, Notes};
pub(crate) use window::sample_size;

use crate::annotation::Annotations;
use crate::error::QueryError;
use crate::exec::tile::{StepGrid, Tile};
use crate::promql::ast::Position;
use extremes::{Extreme, Extremes};
use float::Strategy;
use pairs::PairCounts;
use rate::{HistogramResets, RateKind, Resets};
use window::{Floats, Series, Window, Windows};

macro_rules! range_functions {
    ($($variant:ident $name:literal,)*) => {
        /// A function over range vectors.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum RangeFn { $($variant,)* }

        impl RangeFn {
            /// By its name in a query.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            /// Its name in a query.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

range_functions! {
    Absent "absent_over_time",
    Avg "avg_over_time",
    Changes "changes",
    Count "count_over_time",
    Delta "delta",
    Deriv "deriv",
    DoubleExponentialSmoothing "double_exponential_smoothing",
    First "first_over_time",
    Idelta "idelta",
    Increase "increase",
    Integral "integral",
    Irate "irate",
    Last "last_over_time",
    Mad "mad_over_time",
    Max "max_over_time",
    Min "min_over_time",
    PredictLinear "predict_linear",
    Present "present_over_time",
    Quantile "quantile_over_time",
    Rate "rate",
    Resets "resets",
    Stddev "stddev_over_time",
    Stdvar "stdvar_over_time",
    Sum "sum_over_time",
    TsOfFirst "ts_of_first_over_time",
    TsOfLast "ts_of_last_over_time",
    TsOfMax "ts_of_max_over_time",
    TsOfMin "ts_of_min_over_time",
}

impl RangeFn {
    /// Does it look at start timestamps, where the query uses them?
    pub fn uses_start_timestamps(self) -> bool {
        matches!(self, RangeFn::Rate | RangeFn::Increase | RangeFn::Irate | RangeFn::Resets)
    }

    /// Does it look at times and presence only?
    pub fn ignores_values(self) -> bool {
        matches!(self, RangeFn::Absent | RangeFn::Present | RangeFn::Count | RangeFn::TsOfFirst | RangeFn::TsOfLast)
    }

    /// What it needs of samples that each window has all of or none of, where that is less than all of them.
    pub fn keep(self) -> Option<Keep> {
        match self {
            RangeFn::Count | RangeFn::Absent | RangeFn::Present | RangeFn::TsOfFirst | RangeFn::TsOfLast => {
                Some(Keep::Times)
            }
            RangeFn::First => Some(Keep::First),
            RangeFn::Last => Some(Keep::Last),
            RangeFn::Delta => Some(Keep::Ends),
            RangeFn::Rate | RangeFn::Increase | RangeFn::Resets => Some(Keep::Rising),
            RangeFn::Changes => Some(Keep::Steady),
            RangeFn::Min => Some(Keep::Min),
            RangeFn::Max => Some(Keep::Max),
            _ => None,
        }
    }

    /// Does the result keep the metric name?
    pub fn keeps_name(self) -> bool {
        matches!(self, RangeFn::First | RangeFn::Last)
    }
}

/// A shorter window hardly holds a whole chunk.
const CONDENSED_MS_MIN: i64 = 600_000;

/// Extended range selectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Extend {
    /// Only samples in the window.
    #[default]
    No,
    /// `anchored`: also the sample before it.
    Anchored,
    /// `smoothed`: also the samples before and after it.
    Smoothed,
}

/// What is folded: a function, its window, and what goes into messages.
#[derive(Clone, Debug)]
pub struct RangeSpec {
    /// Function.
    pub func: RangeFn,
    /// Length of the window, ms: `(t − offset − range, t − offset]`.
    pub range_ms: i64,
    /// Offset, ms; with `fixed` from the first step.
    pub offset_ms: i64,
    /// `@`: all steps see the window of the first.
    pub fixed: bool,
    /// `anchored`, `smoothed`.
    pub extend: Extend,
    /// How far extended selectors look beyond the window, ms.
    pub lookback_ms: i64,
    /// Start timestamps are used, by functions that know them.
    pub use_start_timestamps: bool,
    /// Whether a metric is a counter is told by its type label instead of its name.
    pub type_and_unit_labels: bool,
    /// Positions of the first and second argument; those of a subquery are empty, as in Prometheus.
    pub pos: [Position; 2],
}

impl RangeSpec {
    /// A plain window.
    pub fn new(func: RangeFn, range_ms: i64) -> Self {
        Self {
            func,
            range_ms,
            offset_ms: 0,
            fixed: false,
            extend: Extend::No,
            lookback_ms: 300_000,
            use_start_timestamps: false,
            type_and_unit_labels: false,
            pos: [Position::default(); 2],
        }
    }

    /// Which samples the window at reference time 0 takes: those in `(−before, after]`, ms.
    pub fn read_extent(&self) -> (i64, i64) {
        match self.extend {
            Extend::No => (self.range_ms, 0),
            Extend::Anchored => (self.range_ms.saturating_add(self.lookback_ms), 0),
            Extend::Smoothed => (self.range_ms.saturating_add(self.lookback_ms), self.lookback_ms),
        }
    }

    /// Is there nothing to report and no error of a series that has floats only, whatever they are?
    pub fn is_silent_on_floats(&self, names: &SeriesNames<'_>) -> bool {
        use RangeFn::{DoubleExponentialSmoothing, Increase, Integral, Quantile, Rate};
        let by_parameter = matches!(self.func, Quantile | Integral | DoubleExponentialSmoothing);
        let by_start = self.use_start_timestamps && (self.func.uses_start_timestamps() || self.extend != Extend::No);
        let by_name = matches!(self.func, Rate | Increase) && !is_counter(self, names);
        !(by_parameter || by_start || by_name)
    }

    /// How a series may be condensed for its windows, if it may.
    pub fn condense(&self, grid: &StepGrid) -> Option<Condense> {
        let starts = self.use_start_timestamps && self.func.uses_start_timestamps();
        if self.extend != Extend::No || starts || self.range_ms < CONDENSED_MS_MIN {
            return None;
        }
        let len = if self.fixed { 1 } else { grid.len };
        let from = grid.start.saturating_sub(self.offset_ms);
        Some(Condense { keep: self.func.keep()?, edges: Edges { from, step: grid.step, len, range: self.range_ms } })
    }

    /// Does the function go with the selector's modifiers? To be called even where no series is selected.
    pub fn check(&self) -> Result<(), QueryError> {
        use RangeFn::{Changes, Delta, Increase, Rate, Resets};
        let (word, good): (_, &[RangeFn]) = match self.extend {
            Extend::No => return Ok(()),
            Extend::Anchored => ("anchored", &[Changes, Delta, Increase, Rate, Resets]),
            Extend::Smoothed => ("smoothed", &[Delta, Increase, Rate]),
        };
        if good.contains(&self.func) {
            return Ok(());
        }
        let list: Vec<_> = good.iter().map(|f| f.name()).collect();
        Err(QueryError::Execution(format!(
            "{word} modifier can only be used with: {} - not with {}",
            list.join(", "),
            self.func.name()
        )))
    }
}

/// Seconds of a duration in ms, as Go converts them.
pub(crate) fn seconds(ms: i64) -> f64 {
    (ms / 1000) as f64 + (ms % 1000 * 1_000_000) as f64 / 1e9
}

/// Labels of a series that messages name.
#[derive(Clone, Copy, Debug, Default)]
pub struct SeriesNames<'a> {
    /// Metric name, or empty.
    pub metric: &'a str,
    /// Type label, or empty.
    pub kind: &'a str,
}

/// Memory that folds use again from series to series.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    clean: SampleColumn,
    work: Work,
}

#[derive(Clone, Debug, Default)]
struct Work {
    floats: Floats,
    buffers: Buffers,
}

#[derive(Clone, Debug, Default)]
struct Buffers {
    resets: Resets,
    histogram_resets: HistogramResets,
    pairs: PairCounts,
    extremes: Extremes,
    sort: Vec<f64>,
}

/// Folds one series into row `row` of `out`, whose cells are absent, over the whole grid. `params` are the scalar
/// arguments in their order, a value per step each. Stale markers in `col` are skipped. Returns the samples that all
/// windows held together, histograms by their size, as Prometheus counts them.
pub fn fold(
    spec: &RangeSpec,
    names: SeriesNames<'_>,
    col: &SampleColumn,
    grid: &StepGrid,
    params: &[&[f64]],
    scratch: &mut Scratch,
    out: &mut Tile,
    row: usize,
    ann: &mut Annotations,
) -> Result<u64, QueryError> {
    fold_weighted(spec, names, col, &[], grid, params, scratch, out, row, ann)
}

/// [`fold`] of samples that stand for several each: those before position `i` for `sums[i]`. Only for functions with a
/// [`RangeFn::keep`], for samples reduced to that, without markers, histograms and start timestamps.
pub fn fold_weighted(
    spec: &RangeSpec,
    names: SeriesNames<'_>,
    col: &SampleColumn,
    sums: &[u64],
    grid: &StepGrid,
    params: &[&[f64]],
    scratch: &mut Scratch,
    out: &mut Tile,
    row: usize,
    ann: &mut Annotations,
) -> Result<u64, QueryError> {
    let Scratch { clean, work } = scratch;
    let col = if sums.is_empty() && strip_stale(col, clean) { &*clean } else { col };
    let s = work.floats.split(col);
    let mut run = Run {
        spec,
        grid,
        s,
        params,
        out,
        base: row * grid.len,
        notes: Notes::default(),
        buffers: &mut work.buffers,
        windows: Windows::new(spec, grid, col).weighted(sums),
        any_float: false,
    };
    let done = run.run();
    let (notes, any_float, samples) = (run.notes, run.any_float, run.windows.samples);
    notes.flush(spec, &names, ann);
    done?;
    if any_float && matches!(spec.func, RangeFn::Rate | RangeFn::Increase) {
        note_non_counter(spec, &names, ann);
    }
    Ok(samples)
}

/// May it be a counter, by what its labels say? What says nothing may.
fn is_counter(spec: &RangeSpec, names: &SeriesNames<'_>) -> bool {
    if names.metric.is_empty() {
        return true;
    }
    match spec.type_and_unit_labels {
        true => names.kind == "counter" || names.kind == "histogram",
        false => ["_total", "_sum", "_count", "_bucket"].iter().any(|s| names.metric.ends_with(s)),
    }
}

fn note_non_counter(spec: &RangeSpec, names: &SeriesNames<'_>, ann: &mut Annotations) {
    if is_counter(spec, names) {
        return;
    }
    if spec.type_and_unit_labels {
        ann.possible_non_counter_label_info(names.metric, names.kind, spec.pos[0]);
    } else {
        ann.possible_non_counter_info(names.metric, spec.pos[0]);
    }
}

/// The fold of one series.
struct Run<'a> {
    spec: &'a RangeSpec,
    grid: &'a StepGrid,
    s: Series<'a>,
    params: &'a [&'a [f64]],
    out: &'a mut Tile,
    base: usize,
    notes: Notes,
    buffers: &'a mut Buffers,
    windows: Windows<'a>,
    any_float: bool,
}

impl Run<'_> {
    #[inline]
    fn put(&mut self, step: usize, v: f64) {
        self.any_float = true;
        self.out.set(self.base + step, v);
    }

    fn put_histogram(&mut self, step: usize, h: Arc<Histogram>) {
        self.out.set_histogram(self.base + step, h);
    }

    fn param(&self, i: usize, step: usize) -> Option<f64> {
        self.params.get(i)?.get(step).copied()
    }

    fn run(&mut self) -> Result<(), QueryError> {
        self.spec.check()?;
        let s = self.s;
        match self.spec.func {
            RangeFn::Rate | RangeFn::Increase | RangeFn::Delta => self.rates(),
            RangeFn::Irate | RangeFn::Idelta => self.last_two(),
            RangeFn::Changes | RangeFn::Resets => {
                self.pairs();
                Ok(())
            }
            RangeFn::Sum => self.of_either(float::sum, histogram::sum),
            RangeFn::Avg => self.of_either(float::avg, histogram::avg),
            RangeFn::Count => {
                while let Some(w) = self.windows.next() {
                    let n = self.windows.stand_for(w.lo, w.hi);
                    self.put(w.step, n as f64);
                }
                Ok(())
            }
            RangeFn::Absent | RangeFn::Present => {
                while let Some(w) = self.windows.next() {
                    self.put(w.step, 1.0);
                }
                Ok(())
            }
            RangeFn::First | RangeFn::Last => {
                let last = self.spec.func == RangeFn::Last;
                while let Some(w) = self.windows.next() {
                    let (i, k) = if last { (w.hi - 1, w.hist_hi.checked_sub(1)) } else { (w.lo, Some(w.hist_lo)) };
                    match k.and_then(|k| s.histograms().get(k)).filter(|(p, _)| *p as usize == i) {
                        Some((_, h)) => self.put_histogram(w.step, Arc::clone(h)),
                        None => self.put(w.step, s.all.values[i]),
                    }
                }
                Ok(())
            }
            RangeFn::TsOfFirst | RangeFn::TsOfLast => {
                let last = self.spec.func == RangeFn::TsOfLast;
                while let Some(w) = self.windows.next() {
                    let t = s.all.ts[if last { w.hi - 1 } else { w.lo }];
                    self.put(w.step, t as f64 / 1000.0);
                }
                Ok(())
            }
            RangeFn::Max => self.extreme(Extreme { max: true, latest: false }, false),
            RangeFn::Min => self.extreme(Extreme { max: false, latest: false }, false),
            RangeFn::TsOfMax => self.extreme(Extreme { max: true, latest: true }, true),
            RangeFn::TsOfMin => self.extreme(Extreme { max: false, latest: true }, true),
            RangeFn::Stdvar => self.of_floats(1, |_, _, v| float::variance(v)),
            RangeFn::Stddev => self.of_floats(1, |_, _, v| float::variance(v).sqrt()),
            RangeFn::Mad => {
                let mut buffer = std::mem::take(&mut self.buffers.sort);
                let done = self.of_floats(1, |_, _, v| float::mad(v, &mut buffer));
                self.buffers.sort = buffer;
                done
            }
            RangeFn::Deriv => self.of_floats(2, |_, t, v| float::regression(t, v, t[0]).0),
            RangeFn::PredictLinear => self.predict(),
            RangeFn::Quantile => self.quantile(),
            RangeFn::DoubleExponentialSmoothing => self.smoothing(),
            RangeFn::Integral => self.integral(),
        }
    }

    fn rates(&mut self) -> Result<(), QueryError> {
        let spec = self.spec;
        let Some(kind) = RateKind::of(spec.func) else { return Ok(()) };
        let mut s = self.s;
        let without;
        if !(spec.use_start_timestamps && kind.counter) {
            s.starts = &[];
            if !s.all.start_ts.is_empty() && !s.histograms().is_empty() {
                without = SampleColumn { start_ts: Vec::new(), ..s.all.clone() };
                s.all = &without;
            }
        }
        let extended = spec.extend != Extend::No;
        if !extended {
            if kind.counter {
                self.buffers.resets.list(&s);
            }
            self.buffers.histogram_resets.clear(&s);
            if s.histograms().is_empty() && s.starts.is_empty() {
                let Run { windows, buffers, out, base, any_float, .. } = self;
                lanes::fold(kind, spec, &s, windows, &mut buffers.resets, |step, v| {
                    *any_float = true;
                    out.set(*base + step, v);
                });
                return Ok(());
            }
        }
        while let Some(w) = self.windows.next() {
            let hist = w.hist_lo < w.hist_hi;
            if hist && !w.floats().is_empty() {
                self.notes.add(Note::Mixed);
            } else if hist {
                let h = if extended {
                    extended::histograms(kind, spec, &s, &w, &mut self.notes)?
                } else {
                    rate::histograms(kind, spec, &s, &w, &mut self.buffers.histogram_resets, &mut self.notes)?
                };
                if let Some(h) = h {
                    self.put_histogram(w.step, Arc::new(h));
                }
            } else {
                let v = if extended {
                    extended::floats(kind, spec, &s, &w)
                } else {
                    rate::floats(kind, spec, &s, &w, &mut self.buffers.resets, &mut self.notes)
                };
                if let Some(v) = v {
                    self.put(w.step, v);
                }
            }
        }
        Ok(())
    }

    fn last_two(&mut self) -> Result<(), QueryError> {
        let rate = self.spec.func == RangeFn::Irate;
        let starts = self.spec.use_start_timestamps && rate;
        while let Some(w) = self.windows.next() {
            match pairs::last_two(rate, starts, &self.s, &w, &mut self.notes)? {
                Some(Value::Float(v)) => self.put(w.step, v),
                Some(Value::Histogram(h)) => self.put_histogram(w.step, h),
                None => {}
            }
        }
        Ok(())
    }

    fn pairs(&mut self) {
        let resets = self.spec.func == RangeFn::Resets;
        self.buffers.pairs.list(&self.s, resets, self.spec.use_start_timestamps);
        while let Some(w) = self.windows.next() {
            if let Some(n) = self.buffers.pairs.count(self.spec, &self.s, &w) {
                self.put(w.step, n);
            }
        }
    }

    /// A function of the floats, or of the histograms, but not of both.
    fn of_either(
        &mut self,
        floats: impl Fn(&[f64]) -> f64,
        histograms: impl Fn(&[(u32, Arc<Histogram>)], &mut Notes) -> Result<Option<Histogram>, QueryError>,
    ) -> Result<(), QueryError> {
        let s = self.s;
        let mut seen = (0, 0);
        let mut float = 0.0;
        let mut histogram: Option<Arc<Histogram>> = None;
        while let Some(w) = self.windows.next() {
            let same = seen == (w.lo, w.hi);
            seen = (w.lo, w.hi);
            if w.hist_lo == w.hist_hi {
                if !same {
                    float = floats(&s.values[w.floats()]);
                }
                self.put(w.step, float);
            } else if !w.floats().is_empty() {
                self.notes.add(Note::Mixed);
            } else {
                if !same {
                    histogram = histograms(&s.histograms()[w.histograms()], &mut self.notes)?.map(Arc::new);
                }
                if let Some(h) = &histogram {
                    self.put_histogram(w.step, Arc::clone(h));
                }
            }
        }
        Ok(())
    }

    /// The windows with `least` floats or more; a window that has floats but also histograms is noted.
    #[inline]
    fn next_floats(&mut self, least: usize) -> Option<Window> {
        loop {
            let w = self.windows.next()?;
            let n = w.floats().len();
            if n == 0 {
                continue;
            }
            if w.hist_lo < w.hist_hi {
                self.notes.add(Note::Ignored);
            }
            if n >= least {
                return Some(w);
            }
        }
    }

    /// A function of the floats, times first, that depends on nothing else.
    fn of_floats(&mut self, least: usize, mut f: impl FnMut(&Window, &[i64], &[f64]) -> f64) -> Result<(), QueryError> {
        let s = self.s;
        let mut seen = 0..0;
        let mut v = 0.0;
        while let Some(w) = self.next_floats(least) {
            let r = w.floats();
            if r != seen {
                v = f(&w, &s.ts[r.clone()], &s.values[r.clone()]);
                seen = r;
            }
            self.put(w.step, v);
        }
        Ok(())
    }

    fn extreme(&mut self, e: Extreme, time: bool) -> Result<(), QueryError> {
        let s = self.s;
        self.buffers.extremes.clear();
        while let Some(w) = self.next_floats(1) {
            let r = w.floats();
            let i = self.buffers.extremes.advance(s.values, r.start, r.end, e);
            self.put(w.step, if time { s.ts[i] as f64 / 1000.0 } else { s.values[i] });
        }
        Ok(())
    }

    fn predict(&mut self) -> Result<(), QueryError> {
        let s = self.s;
        while let Some(w) = self.next_floats(2) {
            let Some(duration) = self.param(0, w.step) else { continue };
            let r = w.floats();
            let (slope, intercept) = float::regression(&s.ts[r.clone()], &s.values[r], self.grid.time(w.step));
            self.put(w.step, slope * duration + intercept);
        }
        Ok(())
    }

    fn quantile(&mut self) -> Result<(), QueryError> {
        let s = self.s;
        while let Some(w) = self.next_floats(1) {
            let Some(q) = self.param(0, w.step) else { continue };
            if q.is_nan() || !(0.0..=1.0).contains(&q) {
                self.notes.bad_quantile(q);
            }
            let sort = &mut self.buffers.sort;
            sort.clear();
            sort.extend_from_slice(&s.values[w.floats()]);
            let v = float::quantile(q, sort);
            self.put(w.step, v);
        }
        Ok(())
    }

    fn smoothing(&mut self) -> Result<(), QueryError> {
        let s = self.s;
        while let Some(w) = self.windows.next() {
            let (Some(factor), Some(trend)) = (self.param(0, w.step), self.param(1, w.step)) else { continue };
            for (v, word, letter) in [(factor, "smoothing", "sf"), (trend, "trend", "tf")] {
                if v <= 0.0 || v >= 1.0 {
                    let got = format_f6(v);
                    let text = format!("invalid {word} factor. Expected: 0 < {letter} < 1, got: {got}");
                    return Err(QueryError::Execution(text));
                }
            }
            let r = w.floats();
            if !r.is_empty() && w.hist_lo < w.hist_hi {
                self.notes.add(Note::Ignored);
            }
            if r.len() >= 2 {
                self.put(w.step, float::smooth(&s.values[r], factor, trend));
            }
        }
        Ok(())
    }

    fn integral(&mut self) -> Result<(), QueryError> {
        let s = self.s;
        while let Some(w) = self.next_floats(1) {
            let mut strategy = Strategy::Trapezoid;
            if let Some(n) = self.param(0, w.step) {
                match Strategy::from_number(n) {
                    Some(known) => strategy = known,
                    None => self.notes.bad_strategy(n),
                }
            }
            let r = w.floats();
            self.put(w.step, float::integral(&s.ts[r.clone()], &s.values[r], strategy));
        }
        Ok(())
    }
}
