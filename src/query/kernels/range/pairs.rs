//! Functions of neighbouring samples, floats and histograms in the order of time: `changes`, `resets`, `irate`, `idelta`.

use std::sync::Arc;

use quiver_model::{Histogram, ResetHint, Value};

use super::histogram::Clash;
use super::notes::{Note, Notes};
use super::start_time::is_reset;
use super::window::{Series, Window};
use super::{Extend, RangeSpec};
use crate::error::QueryError;

/// Counts events between neighbours: after [`PairCounts::list`], a window is one subtraction.
#[derive(Clone, Debug, Default)]
pub(crate) struct PairCounts {
    /// Events up to and with the pair that ends at a position.
    sums: Vec<u32>,
}

impl PairCounts {
    /// Counts over a series.
    pub fn list(&mut self, s: &Series<'_>, resets: bool, starts: bool) {
        let col = s.all;
        self.sums.clear();
        self.sums.reserve(col.len());
        let mut sum = 0;
        let mut hist = col.histograms.iter().peekable();
        let mut prev: Option<(f64, Option<&Arc<Histogram>>)> = None;
        for (i, v) in col.values.iter().enumerate() {
            let h = hist.next_if(|(p, _)| *p as usize == i).map(|(_, h)| h);
            if let Some((pv, ph)) = prev {
                let started = || {
                    starts
                        && !col.start_ts.is_empty()
                        && is_reset(col.start_ts[i - 1], col.ts[i - 1], col.start_ts[i], col.ts[i])
                };
                let event = match (ph, h, resets) {
                    (None, None, true) => *v < pv || started(),
                    (None, None, false) => *v != pv && !(v.is_nan() && pv.is_nan()),
                    (Some(a), Some(b), true) => started() || b.detect_reset(a),
                    (Some(a), Some(b), false) => !same_observations(a, b),
                    _ => true,
                };
                sum += u32::from(event);
            }
            self.sums.push(sum);
            prev = Some((*v, h));
        }
    }

    /// Events between the samples of a window; with `anchored` from the latest sample at or before its start on, and
    /// none where no sample is after that.
    pub fn count(&self, spec: &RangeSpec, s: &Series<'_>, w: &Window) -> Option<f64> {
        let mut lo = w.lo;
        if spec.extend == Extend::Anchored {
            let start = w.end.saturating_sub(spec.range_ms);
            let inside = lo + s.all.ts[lo..w.hi].partition_point(|t| *t <= start);
            if inside == w.hi {
                return None;
            }
            lo = inside.saturating_sub(1).max(lo);
        }
        Some(f64::from(self.sums[w.hi - 1] - self.sums[lo]))
    }
}

/// Equal, whatever empty buckets there are: where Prometheus keeps both in one chunk it gives both the same.
fn same_observations(a: &Histogram, b: &Histogram) -> bool {
    if b.equals(a) {
        return true;
    }
    let totals = |h: &Histogram| [h.count, h.sum, h.zero_count, h.zero_threshold].map(f64::to_bits);
    if a.schema != b.schema || totals(a) != totals(b) {
        return false;
    }
    let compacted = |h: &Histogram| {
        let mut h = h.clone();
        h.compact(0);
        h
    };
    compacted(b).equals(&compacted(a))
}

/// `irate` (`per_second`, of counters) and `idelta`: from the last two samples.
pub(crate) fn last_two(
    rate: bool,
    starts: bool,
    s: &Series<'_>,
    w: &Window,
    notes: &mut Notes,
) -> Result<Option<Value>, QueryError> {
    if w.hi - w.lo < 2 {
        return Ok(None);
    }
    let col = s.all;
    let (i, j) = (w.hi - 2, w.hi - 1);
    let interval = col.ts[j].wrapping_sub(col.ts[i]);
    if interval == 0 {
        return Ok(None);
    }
    let started = starts && is_reset(col.start_at(i), col.ts[i], col.start_at(j), col.ts[j]);
    let interval = interval as f64 / 1000.0;
    let mut last = s.histograms()[w.histograms()].iter().rev();
    let hist =
        |p: usize, e: Option<&(u32, Arc<Histogram>)>| e.filter(|(q, _)| *q as usize == p).map(|(_, h)| Arc::clone(h));
    let first_back = last.next();
    let b = hist(j, first_back);
    let a = if b.is_some() { hist(i, last.next()) } else { hist(i, first_back) };
    match (a, b) {
        (None, None) => {
            let (a, b) = (col.values[i], col.values[j]);
            let mut v = if rate && (b < a || started) { b } else { b - a };
            if rate {
                v /= interval;
            }
            Ok(Some(Value::Float(v)))
        }
        (Some(a), Some(b)) => {
            let gauge = |h: &Histogram| h.reset_hint == ResetHint::Gauge;
            if rate && (gauge(&a) || gauge(&b)) {
                notes.add(Note::NotCounter);
            }
            if !rate && (!gauge(&a) || !gauge(&b)) {
                notes.add(Note::NotGauge);
            }
            let mut h = (*b).clone();
            if !rate || (!started && !b.detect_reset(&a)) {
                match h.sub(&a).map_err(Clash::from) {
                    Ok(o) if o.nhcb_bounds_reconciled => notes.add(Note::ReconciledSub),
                    Ok(_) => {}
                    Err(Clash::Incompatible) => {
                        notes.add(Note::ExponentialCustom);
                        return Ok(None);
                    }
                    Err(Clash::Broken(e)) => return Err(e),
                }
            }
            h.reset_hint = ResetHint::Gauge;
            h.compact(0);
            if rate {
                h.div(interval);
            }
            Ok(Some(Value::Histogram(Arc::new(h))))
        }
        _ => {
            notes.add(Note::Mixed);
            Ok(None)
        }
    }
}
