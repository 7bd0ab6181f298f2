//! Sums, means and interpolation of histograms over a window.

use std::sync::Arc;

use quiver_model::histogram::HistogramError;
use quiver_model::{Histogram, ResetHint};

use super::notes::{Note, Notes};
use crate::error::QueryError;

/// Why two histograms have no sum.
pub(crate) enum Clash {
    /// Exponential and custom buckets: there is no result, and a warning.
    Incompatible,
    /// A broken histogram: the query fails.
    Broken(QueryError),
}

impl From<HistogramError> for Clash {
    fn from(e: HistogramError) -> Self {
        match e {
            HistogramError::IncompatibleSchema => Clash::Incompatible,
            e => Clash::Broken(QueryError::Execution(e.to_string())),
        }
    }
}

/// Adds and notes; `false`: they do not go together.
pub(crate) fn add_noted(h: &mut Histogram, other: &Histogram, notes: &mut Notes) -> Result<bool, QueryError> {
    noted(h.add(other).map(|o| o.nhcb_bounds_reconciled), Note::ReconciledAdd, notes)
}

/// Subtracts and notes; `false`: they do not go together.
pub(crate) fn sub_noted(h: &mut Histogram, other: &Histogram, notes: &mut Notes) -> Result<bool, QueryError> {
    noted(h.sub(other).map(|o| o.nhcb_bounds_reconciled), Note::ReconciledSub, notes)
}

fn noted(r: Result<bool, HistogramError>, note: Note, notes: &mut Notes) -> Result<bool, QueryError> {
    match r.map_err(Clash::from) {
        Ok(reconciled) => {
            if reconciled {
                notes.add(note);
            }
            Ok(true)
        }
        Err(Clash::Incompatible) => {
            notes.add(Note::ExponentialCustom);
            Ok(false)
        }
        Err(Clash::Broken(e)) => Err(e),
    }
}

/// Hints and bounds met on the way of an aggregation.
#[derive(Default)]
struct Met {
    reset: bool,
    no_reset: bool,
    reconciled: bool,
}

impl Met {
    fn hint(&mut self, h: &Histogram) {
        match h.reset_hint {
            ResetHint::Yes => self.reset = true,
            ResetHint::No => self.no_reset = true,
            ResetHint::Unknown | ResetHint::Gauge => {}
        }
    }

    fn note(&self, notes: &mut Notes) {
        if self.reset && self.no_reset {
            notes.add(Note::CollisionAgg);
        }
        if self.reconciled {
            notes.add(Note::ReconciledAgg);
        }
    }
}

/// Runs an aggregation; one of histograms that do not go together gives nothing but the warning about that.
fn aggregate(
    h: &[(u32, Arc<Histogram>)],
    notes: &mut Notes,
    f: impl FnOnce(&[(u32, Arc<Histogram>)], &mut Met) -> Result<Histogram, HistogramError>,
) -> Result<Option<Histogram>, QueryError> {
    let mut met = Met::default();
    match f(h, &mut met).map_err(Clash::from) {
        Ok(sum) => {
            met.note(notes);
            Ok(Some(sum))
        }
        Err(Clash::Incompatible) => {
            notes.add(Note::ExponentialCustom);
            Ok(None)
        }
        Err(Clash::Broken(e)) => Err(e),
    }
}

/// `sum_over_time` of one or more histograms.
pub(crate) fn sum(h: &[(u32, Arc<Histogram>)], notes: &mut Notes) -> Result<Option<Histogram>, QueryError> {
    aggregate(h, notes, |h, met| {
        let mut sum = (*h[0].1).clone();
        let mut rest = None;
        met.hint(&sum);
        for (_, x) in &h[1..] {
            met.hint(x);
            met.reconciled |= sum.kahan_add(x, &mut rest)?.nhcb_bounds_reconciled;
        }
        if let Some(c) = &rest {
            met.reconciled |= sum.add(c)?.nhcb_bounds_reconciled;
        }
        Ok(sum)
    })
}

/// `avg_over_time` of one or more histograms.
pub(crate) fn avg(h: &[(u32, Arc<Histogram>)], notes: &mut Notes) -> Result<Option<Histogram>, QueryError> {
    aggregate(h, notes, |h, met| {
        let mut sum = (*h[0].1).clone();
        let mut rest = None;
        met.hint(&sum);
        for (i, (_, x)) in h.iter().enumerate().skip(1) {
            met.hint(x);
            met.reconciled |= sum.kahan_add(x, &mut rest)?.nhcb_bounds_reconciled;
            if sum.has_overflow() {
                return incremental_mean(h, i, met);
            }
        }
        let count = h.len() as f64;
        sum.div(count);
        if let Some(mut c) = rest {
            sum.add(c.div(count))?;
        }
        Ok(sum)
    })
}

/// The mean where the sum overflows at histogram `at`: the sum up to there, then step by step.
#[cold]
fn incremental_mean(h: &[(u32, Arc<Histogram>)], at: usize, met: &mut Met) -> Result<Histogram, HistogramError> {
    let mut mean = (*h[0].1).clone();
    let mut rest = None;
    for (_, x) in &h[1..at] {
        mean.kahan_add(x, &mut rest)?;
    }
    mean.div(at as f64);
    if let Some(c) = &mut rest {
        c.div(at as f64);
    }
    for (i, (_, x)) in h.iter().enumerate().skip(at) {
        met.hint(x);
        let count = (i + 1) as f64;
        let q = (count - 1.0) / count;
        if let Some(c) = &mut rest {
            c.mul(q);
        }
        let mut part = (**x).clone();
        part.div(count);
        mean.mul(q);
        met.reconciled |= mean.kahan_add(&part, &mut rest)?.nhcb_bounds_reconciled;
    }
    if let Some(c) = &rest {
        mean.add(c)?;
    }
    Ok(mean)
}

/// A histogram and its time.
pub(crate) type At<'a> = (i64, &'a Histogram);

/// The histogram at `t` on the line from `a` to `b`; of a counter that was reset, on the line from 0.
pub(crate) fn interpolate(
    a: At<'_>,
    b: At<'_>,
    t: i64,
    counter: bool,
    notes: &mut Notes,
) -> Result<Option<Histogram>, QueryError> {
    if t == a.0 {
        return Ok(Some(a.1.clone()));
    }
    let mut h = b.1.clone();
    if t == b.0 {
        return Ok(Some(h));
    }
    let fraction = t.wrapping_sub(a.0) as f64 / b.0.wrapping_sub(a.0) as f64;
    if counter && b.1.detect_reset(a.1) {
        h.mul(fraction);
        return Ok(Some(h));
    }
    if !sub_noted(&mut h, a.1, notes)? {
        return Ok(None);
    }
    h.mul(fraction);
    Ok(add_noted(&mut h, a.1, notes)?.then_some(h))
}
