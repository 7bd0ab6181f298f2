//! Instant selectors: the latest sample at each step, if it is no older than the lookback and no stale marker.
//!
//! A sample at `s` counts at reference time `t` where `t − lookback < s ≤ t`. A stale marker hides the samples before it.

mod smoothed;

use std::sync::Arc;

use quiver_model::{SampleColumn, is_stale};

pub use smoothed::fold_smoothed;

use crate::exec::tile::{StepGrid, Tile};
use crate::kernels::range::sample_size;

/// What an instant selector looks for.
#[derive(Clone, Copy, Debug)]
pub struct InstantSelector {
    /// How far back a sample may lie, ms.
    pub lookback_ms: i64,
    /// Offset, ms; with `fixed` from the first step.
    pub offset_ms: i64,
    /// `@`: all steps see what the first does.
    pub fixed: bool,
    /// Fills `orig_ts` of the tile.
    pub record_time: bool,
    /// Fills `start_ts` of the tile.
    pub record_start: bool,
}

impl InstantSelector {
    /// Values only, without offset.
    pub fn new(lookback_ms: i64) -> Self {
        Self { lookback_ms, offset_ms: 0, fixed: false, record_time: false, record_start: false }
    }

    /// Reference time of a step.
    #[inline]
    pub fn reference(&self, grid: &StepGrid, step: usize) -> i64 {
        grid.time(if self.fixed { 0 } else { step }).saturating_sub(self.offset_ms)
    }
}

/// Folds one series into row `row` of `out`, whose cells are absent. A histogram is shared by the steps that see it.
/// Returns the samples seen, histograms by their size, as Prometheus counts them.
pub fn fold(sel: &InstantSelector, col: &SampleColumn, grid: &StepGrid, out: &mut Tile, row: usize) -> u64 {
    let base = row * grid.len;
    if sel.record_time {
        out.orig_ts.resize(out.values.len(), 0);
    }
    if sel.record_start {
        out.start_ts.resize(out.values.len(), 0);
    }
    let (ts, values, hist) = (&col.ts[..], &col.values[..col.ts.len()], &col.histograms[..]);
    let (mut next, mut next_hist) = (0, 0);
    let mut seen = 0;
    for step in 0..grid.len {
        let at = sel.reference(grid, step);
        while next < ts.len() && ts[next] <= at {
            next += 1;
        }
        let Some(i) = next.checked_sub(1) else { continue };
        if ts[i] <= at.saturating_sub(sel.lookback_ms) || is_stale(values[i]) {
            continue;
        }
        while next_hist < hist.len() && (hist[next_hist].0 as usize) < i {
            next_hist += 1;
        }
        let cell = base + step;
        match hist.get(next_hist) {
            Some((p, h)) if *p as usize == i => {
                seen += sample_size(h);
                out.set_histogram(cell, Arc::clone(h));
            }
            _ => {
                seen += 1;
                out.set(cell, values[i]);
            }
        }
        if sel.record_time {
            out.orig_ts[cell] = ts[i];
        }
        if sel.record_start {
            out.start_ts[cell] = col.start_at(i);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quiver_model::{Histogram, STALE_NAN, Value};

    /// The plain definition.
    fn latest(sel: &InstantSelector, col: &SampleColumn, at: i64) -> Option<(i64, Value, i64)> {
        let i = (0..col.len()).rev().find(|i| col.ts[*i] <= at)?;
        let v = col.value_at(i);
        (col.ts[i] > at - sel.lookback_ms && !v.is_stale()).then(|| (col.ts[i], v, col.start_at(i)))
    }

    proptest! {
        #[test]
        fn as_defined(
            samples in proptest::collection::btree_map(0i64..200, (0u8..6, 0i64..3), 0..40),
            start in -20i64..150, step in 1i64..40, len in 1usize..20, lookback in 1i64..60, offset in -20i64..20,
            fixed: bool,
        ) {
            let mut col = SampleColumn::default();
            for (t, (v, st)) in &samples {
                match v {
                    0 => col.push_float(*t, STALE_NAN, *st),
                    1 => col.push_histogram(*t, Arc::new(Histogram { sum: *t as f64, ..Default::default() }), *st),
                    2 => col.push_histogram(*t, Arc::new(Histogram { sum: STALE_NAN, ..Default::default() }), *st),
                    v => col.push_float(*t, f64::from(*v), *st),
                }
            }
            let grid = StepGrid { start, step, len };
            let sel = InstantSelector {
                lookback_ms: lookback, offset_ms: offset, fixed, record_time: true, record_start: true,
            };
            let mut out = Tile::new(len, vec![0, 1]);
            fold(&sel, &col, &grid, &mut out, 1);
            for s in 0..len {
                let want = latest(&sel, &col, grid.time(if fixed { 0 } else { s }) - offset);
                let cell = len + s;
                prop_assert!(!out.is_present(s));
                prop_assert_eq!(out.is_present(cell), want.is_some());
                let Some((t, v, st)) = want else { continue };
                prop_assert_eq!((out.orig_ts[cell], out.start_ts[cell]), (t, st));
                match v {
                    Value::Float(v) => prop_assert!(out.values[cell] == v && out.histogram(cell).is_none()),
                    Value::Histogram(h) => prop_assert!(Arc::ptr_eq(&h, out.histogram(cell).unwrap())),
                }
            }
        }
    }
}
