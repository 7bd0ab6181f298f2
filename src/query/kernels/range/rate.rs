//! `rate`, `increase` and `delta` with extrapolation to the ends of the window.
//!
//! Whether a counter was reset between two neighbours does not depend on the window: resets (and overlapping start times)
//! are listed once per series, and each window adds those between its first and last sample, in order.

use quiver_model::{Histogram, ResetHint};

use super::histogram::{Clash, add_noted};
use super::notes::{Note, Notes};
use super::start_time::{is_reset, overlaps};
use super::window::{Series, Window};
use super::{RangeFn, RangeSpec, seconds};
use crate::error::QueryError;

/// What distinguishes the three functions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateKind {
    /// Of a counter: falls are resets.
    pub counter: bool,
    /// Per second.
    pub per_second: bool,
}

impl RateKind {
    /// Of a function, if it is one of the three.
    pub fn of(f: RangeFn) -> Option<Self> {
        match f {
            RangeFn::Rate => Some(Self { counter: true, per_second: true }),
            RangeFn::Increase => Some(Self { counter: true, per_second: false }),
            RangeFn::Delta => Some(Self { counter: false, per_second: false }),
            _ => None,
        }
    }
}

/// Pairs of neighbouring floats to look at: the position of the second of each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resets {
    resets: Vec<u32>,
    overlaps: Vec<u32>,
    reset_from: usize,
    overlap_from: usize,
}

impl Resets {
    /// Lists those of a series.
    pub fn list(&mut self, s: &Series<'_>) {
        self.resets.clear();
        self.overlaps.clear();
        (self.reset_from, self.overlap_from) = (0, 0);
        if s.starts.is_empty() {
            for (i, w) in s.values.windows(2).enumerate() {
                if w[1] < w[0] {
                    self.resets.push(i as u32 + 1);
                }
            }
            return;
        }
        for i in 1..s.values.len() {
            let (st0, t0, st1, t1) = (s.starts[i - 1], s.ts[i - 1], s.starts[i], s.ts[i]);
            if s.values[i] < s.values[i - 1] || is_reset(st0, t0, st1, t1) {
                self.resets.push(i as u32);
            }
            if overlaps(st0, t0, st1) {
                self.overlaps.push(i as u32);
            }
        }
    }

    /// Adds the values before resets in `lo..hi` to `v`, in order.
    #[inline]
    pub(crate) fn correct(&mut self, values: &[f64], lo: usize, hi: usize, mut v: f64) -> f64 {
        while self.resets.get(self.reset_from).is_some_and(|i| *i as usize <= lo) {
            self.reset_from += 1;
        }
        for i in &self.resets[self.reset_from..] {
            if *i as usize >= hi {
                break;
            }
            v += values[*i as usize - 1];
        }
        v
    }

    /// Is there an overlap between neighbours in `lo..hi`?
    #[inline]
    fn overlapping(&mut self, lo: usize, hi: usize) -> bool {
        while self.overlaps.get(self.overlap_from).is_some_and(|i| *i as usize <= lo) {
            self.overlap_from += 1;
        }
        self.overlaps.get(self.overlap_from).is_some_and(|i| (*i as usize) < hi)
    }
}

/// What extrapolation looks at.
struct Ends {
    first: i64,
    last: i64,
    intervals: usize,
    start: i64,
    end: i64,
    /// Start timestamp of the first sample, where it is inside the window: the counter was 0 there.
    zero_at: Option<i64>,
}

impl Ends {
    fn new(kind: RateKind, spec: &RangeSpec, w: &Window, (first, last): (i64, i64), n: usize, st: i64) -> Self {
        let start = w.end.saturating_sub(spec.range_ms);
        let zero_at = (kind.counter && st != 0 && st > start && st < first).then_some(st);
        Self { first, last, intervals: n - 1, start, end: w.end, zero_at }
    }

    /// What the raw difference is multiplied with; `amount` is the difference (of counts, for histograms), `value` the
    /// first value.
    fn factor(&self, kind: RateKind, spec: &RangeSpec, amount: f64, value: f64) -> f64 {
        let mut to_start = self.first.wrapping_sub(self.start) as f64 / 1000.0;
        let mut to_end = self.end.wrapping_sub(self.last) as f64 / 1000.0;
        let mut sampled = self.last.wrapping_sub(self.first) as f64 / 1000.0;
        let average = if self.intervals > 0 { sampled / self.intervals as f64 } else { 0.0 };
        let threshold = average * 1.1;
        if let Some(st) = self.zero_at {
            to_start = 0.0;
            sampled = self.last.wrapping_sub(st) as f64 / 1000.0;
        } else {
            if to_start >= threshold {
                to_start = average / 2.0;
            }
            // A counter is not extrapolated to before it was 0.
            if kind.counter && amount > 0.0 && value >= 0.0 {
                let to_zero = sampled * (value / amount);
                if to_zero < to_start {
                    to_start = to_zero;
                }
            }
        }
        if to_end >= threshold {
            to_end = average / 2.0;
        }
        let mut factor = 1.0;
        if sampled != 0.0 {
            factor = (sampled + to_start + to_end) / sampled;
        }
        if kind.per_second {
            factor /= seconds(spec.range_ms);
        }
        factor
    }
}

/// Of a window of floats.
#[inline]
pub(crate) fn floats(
    kind: RateKind,
    spec: &RangeSpec,
    s: &Series<'_>,
    w: &Window,
    resets: &mut Resets,
    notes: &mut Notes,
) -> Option<f64> {
    let r = w.floats();
    let (lo, hi) = (r.start, r.end);
    let mut v = s.values[hi - 1] - s.values[lo];
    let mut st = 0;
    if kind.counter {
        st = s.start(lo);
        v = resets.correct(s.values, lo, hi, v);
        if resets.overlapping(lo, hi) {
            notes.overlaps += 1;
        }
    }
    let ends = Ends::new(kind, spec, w, (s.ts[lo], s.ts[hi - 1]), hi - lo, st);
    if ends.zero_at.is_some() {
        v += s.values[lo];
    } else if hi - lo == 1 {
        return None;
    }
    Some(v * ends.factor(kind, spec, v, s.values[lo]))
}

/// Which neighbouring histograms are resets; found out where needed, once.
#[derive(Clone, Debug, Default)]
pub(crate) struct HistogramResets {
    known: Vec<Option<bool>>,
}

impl HistogramResets {
    /// For another series.
    pub fn clear(&mut self, s: &Series<'_>) {
        self.known.clear();
        self.known.resize(s.histograms().len(), None);
    }

    /// Is histogram `k` a reset after the one before?
    pub fn at(&mut self, s: &Series<'_>, k: usize) -> bool {
        let h = s.histograms();
        *self.known[k].get_or_insert_with(|| h[k].1.detect_reset(&h[k - 1].1))
    }
}

fn start_reset(s: &Series<'_>, k: usize) -> bool {
    !s.all.start_ts.is_empty()
        && is_reset(s.histogram_start(k - 1), s.histogram_time(k - 1), s.histogram_start(k), s.histogram_time(k))
}

/// Of a window of histograms.
pub(crate) fn histograms(
    kind: RateKind,
    spec: &RangeSpec,
    s: &Series<'_>,
    w: &Window,
    resets: &mut HistogramResets,
    notes: &mut Notes,
) -> Result<Option<Histogram>, QueryError> {
    let (lo, hi) = (w.hist_lo, w.hist_hi);
    let h = s.histograms();
    let mut result = None;
    if hi - lo > 1 {
        let mut own = Notes::default();
        let found = difference(kind.counter, s, lo, hi, resets, &mut own)?;
        notes.merge(own);
        let Some(found) = found else { return Ok(None) };
        result = Some(found);
    }
    let st = if kind.counter { s.histogram_start(lo) } else { 0 };
    let times = (s.histogram_time(lo), s.histogram_time(hi - 1));
    let ends = Ends::new(kind, spec, w, times, hi - lo, st);
    let first = &h[lo].1;
    let mut result = match (ends.zero_at, result) {
        (Some(_), None) => (**first).clone(),
        (Some(_), Some(mut r)) => {
            if !add_noted(&mut r, first, notes)? {
                return Ok(None);
            }
            r
        }
        (None, Some(r)) => r,
        (None, None) => return Ok(None),
    };
    let factor = ends.factor(kind, spec, result.count, first.count);
    result.mul(factor);
    Ok(Some(result))
}

/// The difference of the last and the first of two or more histograms, resets accounted for. Where they do not go
/// together there is none, and `notes` say why.
fn difference(
    counter: bool,
    s: &Series<'_>,
    lo: usize,
    hi: usize,
    resets: &mut HistogramResets,
    notes: &mut Notes,
) -> Result<Option<Histogram>, QueryError> {
    let h = s.histograms();
    let first = &h[lo].1;
    let last = &h[hi - 1].1;
    let none_but = |notes: &mut Notes, n: Note| {
        *notes = Notes::default();
        notes.add(n);
        Ok(None)
    };
    if counter && (first.reset_hint == ResetHint::Gauge || last.reset_hint == ResetHint::Gauge) {
        notes.add(Note::NotCounter);
    }
    // After a reset the first sample does not matter, nor does its layout.
    let second = &h[lo + 1].1;
    let skip_first = counter && (start_reset(s, lo + 1) || resets.at(s, lo + 1));
    let nothing;
    let base = if skip_first {
        nothing =
            Histogram { schema: second.schema, custom_values: second.custom_values.clone(), ..Default::default() };
        &nothing
    } else {
        &**first
    };
    let custom = base.uses_custom_buckets();
    if last.uses_custom_buckets() != custom {
        notes.add(Note::ExponentialCustom);
        return Ok(None);
    }
    let mut schema = last.schema.min(base.schema);
    if counter {
        for (_, c) in &h[lo + 1..hi - 1] {
            if c.reset_hint == ResetHint::Gauge {
                notes.add(Note::NotCounter);
            }
            schema = schema.min(c.schema);
            if c.uses_custom_buckets() != custom {
                return none_but(notes, Note::ExponentialCustom);
            }
        }
    }
    let mut out = last.copy_to_schema(schema).map_err(|e| QueryError::Execution(e.to_string()))?;
    match out.sub(base).map_err(Clash::from) {
        Ok(o) if o.nhcb_bounds_reconciled => notes.add(Note::ReconciledSub),
        Ok(_) => {}
        Err(Clash::Incompatible) => return none_but(notes, Note::ExponentialCustom),
        Err(Clash::Broken(e)) => return Err(e),
    }
    if counter {
        let mut overlap = false;
        for k in lo + 1..hi {
            if !overlap
                && !s.all.start_ts.is_empty()
                && overlaps(s.histogram_start(k - 1), s.histogram_time(k - 1), s.histogram_start(k))
            {
                notes.overlaps += 1;
                overlap = true;
            }
            let before = if k == lo + 1 { base } else { &h[k - 1].1 };
            let reset = start_reset(s, k)
                || if k == lo + 1 && skip_first { h[k].1.detect_reset(before) } else { resets.at(s, k) };
            if reset {
                match out.add(before).map_err(Clash::from) {
                    Ok(o) if o.nhcb_bounds_reconciled => notes.add(Note::ReconciledAdd),
                    Ok(_) => {}
                    Err(Clash::Incompatible) => return none_but(notes, Note::ExponentialCustom),
                    Err(Clash::Broken(e)) => return Err(e),
                }
            }
        }
    } else if first.reset_hint != ResetHint::Gauge || last.reset_hint != ResetHint::Gauge {
        notes.add(Note::NotGauge);
    }
    out.reset_hint = ResetHint::Gauge;
    out.compact(0);
    Ok(Some(out))
}
