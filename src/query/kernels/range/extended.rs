//! `rate`, `increase` and `delta` over `anchored` and `smoothed` selectors: no extrapolation, but values at both ends of
//! the range, taken from or interpolated with the samples just outside.
//!
//! ```text
//!            range start                 range end
//! anchored   ──●────|────●───────●────────|──          left: last sample at or before the start; right: last sample
//! smoothed   ──●────|────●───────●────────|───●──      both ends on the line between their neighbours
//! ```

use quiver_model::{Histogram, ResetHint};

use super::histogram::{add_noted, interpolate as interpolate_histograms, sub_noted};
use super::notes::{Note, Notes};
use super::rate::RateKind;
use super::start_time::{is_reset, is_reset_after};
use super::window::{Series, Window};
use super::{Extend, RangeSpec, seconds};
use crate::error::QueryError;

/// A float, its time and its start timestamp.
#[derive(Clone, Copy)]
struct Point {
    t: i64,
    v: f64,
    st: i64,
}

/// What the ends are computed with.
struct Frame {
    start: i64,
    end: i64,
    lookback_start: i64,
    smoothed: bool,
    counter: bool,
}

impl Frame {
    fn new(kind: RateKind, spec: &RangeSpec, w: &Window) -> Self {
        let start = w.end.saturating_sub(spec.range_ms);
        Self {
            start,
            end: w.end,
            lookback_start: start.saturating_sub(spec.lookback_ms),
            smoothed: spec.extend == Extend::Smoothed,
            counter: kind.counter,
        }
    }

    /// First and last sample that matter: the latest at or before the start, and the last, or (`smoothed`) the first
    /// at or after the end.
    fn bounds(&self, n: usize, time: impl Fn(usize) -> i64) -> (usize, usize) {
        let search = |test: &dyn Fn(i64) -> bool| {
            let (mut lo, mut hi) = (0, n - 1);
            while lo < hi {
                let mid = lo + (hi - lo) / 2;
                if test(time(mid)) { hi = mid } else { lo = mid + 1 }
            }
            lo
        };
        let first = search(&|t| t > self.start).saturating_sub(1);
        let last = if self.smoothed { search(&|t| t >= self.end) } else { n - 1 };
        (first, last)
    }
}

/// The value at `t` on the line from `a` to `b`; a counter that fell is on the line from 0.
pub(crate) fn interpolate(a: (i64, f64), b: (i64, f64), t: i64, counter: bool) -> f64 {
    let y1 = if counter && b.1 < a.1 { 0.0 } else { a.1 };
    y1 + (b.1 - y1) * t.wrapping_sub(a.0) as f64 / b.0.wrapping_sub(a.0) as f64
}

/// Value and start timestamp at the start of the range.
fn left_end(f: &Frame, first: Point, next: Option<Point>) -> (f64, i64) {
    let mut st = if first.st > f.start { 0 } else { first.st };
    if first.t == f.start {
        return (first.v, first.st);
    }
    if first.t > f.start {
        // Nothing before the range.
        if !f.counter || !is_reset_after(f.lookback_start, first.st, first.t) {
            return (first.v, st);
        }
        if !is_reset_after(f.start, first.st, first.t) && f.smoothed {
            return (interpolate((first.st, 0.0), (first.t, first.v), f.start, true), st);
        }
        return (0.0, st);
    }
    let Some(next) = next else { return (first.v, st) };
    let (mut a, mut b) = ((first.t, first.v), (next.t, next.v));
    if f.counter {
        if is_reset_after(f.start, next.st, next.t) {
            b = (next.st, 0.0);
        } else if is_reset(first.st, first.t, next.st, next.t) {
            a = (next.st, 0.0);
            st = next.st;
        }
    }
    if f.smoothed { (interpolate(a, b, f.start, f.counter), st) } else { (a.1, st) }
}

/// Value and start timestamp at the end of the range.
fn right_end(f: &Frame, last: Point, previous: Option<Point>) -> (f64, i64) {
    let mut st = if last.st > f.end { 0 } else { last.st };
    if last.t <= f.end {
        return (last.v, st);
    }
    let Some(previous) = previous else {
        if !f.counter || !is_reset_after(f.lookback_start, last.st, last.t) {
            return (last.v, st);
        }
        if !is_reset_after(f.end, last.st, last.t) && f.smoothed {
            return (interpolate((last.st, 0.0), (last.t, last.v), f.end, true), st);
        }
        return (0.0, st);
    };
    let (mut a, mut b) = ((previous.t, previous.v), (last.t, last.v));
    if f.counter {
        if is_reset_after(f.end, last.st, last.t) {
            b = (last.st, 0.0);
            st = previous.st;
        } else if is_reset(previous.st, previous.t, last.st, last.t) {
            a = (last.st, 0.0);
        }
    }
    if f.smoothed { (interpolate(a, b, f.end, f.counter), st) } else { (a.1, st) }
}

/// Of a window of floats.
pub(crate) fn floats(kind: RateKind, spec: &RangeSpec, s: &Series<'_>, w: &Window) -> Option<f64> {
    let f = Frame::new(kind, spec, w);
    let r = w.floats();
    let (base, n) = (r.start, r.len());
    let point = |i: usize| Point { t: s.ts[base + i], v: s.values[base + i], st: s.start(base + i) };
    let (mut first, last) = f.bounds(n, |i| s.ts[base + i]);
    let (p, q) = (point(first), point(last));
    if q.t <= f.start {
        return None;
    }
    if f.smoothed
        && p.t > f.end
        && (!f.counter || !is_reset_after(f.lookback_start, p.st, p.t) || is_reset_after(f.end, p.st, p.t))
    {
        return None;
    }
    let (left, left_st) = left_end(&f, p, (first + 1 < n).then(|| point(first + 1)));
    let (right, right_st) = right_end(&f, q, last.checked_sub(1).map(point));
    let mut v = right - left;
    if f.counter {
        // The ends account for resets beyond the range.
        if p.t <= f.start {
            first += 1;
        }
        let past = if q.t >= f.end { last } else { last + 1 };
        let mut correction = 0.0;
        let mut prev = Point { t: f.start, v: left, st: left_st };
        let inside = (first..past).map(point).chain([Point { t: f.end, v: right, st: right_st }]);
        for p in inside {
            if p.v < prev.v || is_reset(prev.st, prev.t, p.st, p.t) {
                correction += prev.v;
            }
            prev = p;
        }
        v += correction;
    }
    if kind.per_second {
        v /= seconds(spec.range_ms);
    }
    Some(v)
}

/// Of a window of histograms.
pub(crate) fn histograms(
    kind: RateKind,
    spec: &RangeSpec,
    s: &Series<'_>,
    w: &Window,
    notes: &mut Notes,
) -> Result<Option<Histogram>, QueryError> {
    let f = Frame::new(kind, spec, w);
    let r = w.histograms();
    let (base, n) = (r.start, r.len());
    let h = &s.histograms()[r];
    let at = |i: usize| (s.histogram_time(base + i), &*h[i].1);
    let (first, last) = f.bounds(n, |i| s.histogram_time(base + i));
    if at(last).0 <= f.start || f.smoothed && at(first).0 > f.end {
        return Ok(None);
    }
    let custom = at(first).1.uses_custom_buckets();
    for i in first..=last {
        let x = at(i).1;
        if x.uses_custom_buckets() != custom {
            notes.add(Note::ExponentialCustom);
            return Ok(None);
        }
        if f.counter && x.reset_hint == ResetHint::Gauge {
            notes.add(Note::NotCounter);
        }
    }
    let left = if f.smoothed && at(first).0 < f.start && first + 1 < n {
        interpolate_histograms(at(first), at(first + 1), f.start, f.counter, notes)?
    } else {
        Some(at(first).1.clone())
    };
    let Some(left) = left else { return Ok(None) };
    let right = if f.smoothed && last > 0 && at(last).0 > f.end {
        interpolate_histograms(at(last - 1), at(last), f.end, f.counter, notes)?
    } else {
        Some(at(last).1.clone())
    };
    let Some(right) = right else { return Ok(None) };
    if !f.counter && (left.reset_hint != ResetHint::Gauge || right.reset_hint != ResetHint::Gauge) {
        notes.add(Note::NotGauge);
    }
    let mut out = right.clone();
    if !sub_noted(&mut out, &left, notes)? {
        return Ok(None);
    }
    if f.counter {
        // The ends stand for the first and the last sample; a reset that the left end was interpolated over is in it.
        let mut prev = &left;
        let mut from = first + 1;
        if f.smoothed && at(first).0 < f.start && first + 1 < n && at(first + 1).1.detect_reset(at(first).1) {
            prev = at(first + 1).1;
            from += 1;
        }
        let mut correction: Option<Histogram> = None;
        let mut correct = |prev: &Histogram, notes: &mut Notes| match &mut correction {
            Some(c) => add_noted(c, prev, notes),
            none => {
                *none = Some(prev.clone());
                Ok(true)
            }
        };
        if from <= last {
            for i in from..last {
                let x = at(i).1;
                if x.detect_reset(prev) && !correct(prev, notes)? {
                    return Ok(None);
                }
                prev = x;
            }
            if right.detect_reset(prev) && !correct(prev, notes)? {
                return Ok(None);
            }
        }
        if let Some(c) = &correction
            && !add_noted(&mut out, c, notes)?
        {
            return Ok(None);
        }
    }
    if kind.per_second {
        out.div(seconds(spec.range_ms));
    }
    out.reset_hint = ResetHint::Gauge;
    out.compact(0);
    Ok(Some(out))
}
