//! `smoothed` instant selectors: the value at each step, on the line between the samples before and after it.

use std::sync::Arc;

use quiver_model::{ResetHint, SampleColumn};

use super::InstantSelector;
use crate::annotation::Annotations;
use crate::error::QueryError;
use crate::exec::tile::{StepGrid, Tile};
use crate::kernels::range::{
    Note, Notes, RangeFn, RangeSpec, SeriesNames, interpolate, interpolate_histograms, sample_size, strip_stale,
};
use crate::promql::ast::Position;

/// Folds one series into row `row` of `out`, whose cells are absent. Samples in `(t − lookback, t + lookback]` matter;
/// stale markers are as good as no sample. Without a sample after a step the one before is carried on, without one before
/// there is no value. Returns the samples seen, histograms by their size.
pub fn fold_smoothed(
    sel: &InstantSelector,
    metric: &str,
    col: &SampleColumn,
    clean: &mut SampleColumn,
    grid: &StepGrid,
    pos: Position,
    out: &mut Tile,
    row: usize,
    ann: &mut Annotations,
) -> Result<u64, QueryError> {
    let col = if strip_stale(col, clean) { &*clean } else { col };
    let base = row * grid.len;
    let mut notes = Notes::default();
    let mut spec = RangeSpec::new(RangeFn::Last, 0);
    spec.pos[0] = pos;
    let (mut lo, mut hi, mut mid) = (0, 0, 0);
    let mut seen = 0;
    for step in 0..grid.len {
        let at = sel.reference(grid, step);
        let (from, to) = (at.saturating_sub(sel.lookback_ms), at.saturating_add(sel.lookback_ms));
        while hi < col.len() && col.ts[hi] <= to {
            hi += 1;
        }
        while lo < hi && col.ts[lo] <= from {
            lo += 1;
        }
        // First sample at or after the step.
        mid = mid.max(lo);
        while mid < hi && col.ts[mid] < at {
            mid += 1;
        }
        if lo == hi {
            continue;
        }
        let first = col.histograms.partition_point(|(p, _)| (*p as usize) < lo);
        let last = first + col.histograms[first..].partition_point(|(p, _)| (*p as usize) < hi);
        let hist = &col.histograms[first..last];
        seen += (hi - lo - hist.len()) as u64 + hist.iter().map(|(_, h)| sample_size(h)).sum::<u64>();
        if !hist.is_empty() && hist.len() < hi - lo {
            notes.add(Note::Mixed);
            continue;
        }
        let cell = base + step;
        let exact = mid < hi && col.ts[mid] == at;
        if !exact && mid == lo {
            continue;
        }
        if hist.is_empty() {
            let v = if exact {
                col.values[mid]
            } else if mid < hi {
                let (a, b) = (mid - 1, mid);
                interpolate((col.ts[a], col.values[a]), (col.ts[b], col.values[b]), at, false)
            } else {
                col.values[mid - 1]
            };
            out.set(cell, v);
            continue;
        }
        let at_position = |i: usize| &hist[i - lo].1;
        if exact {
            out.set_histogram(cell, Arc::clone(at_position(mid)));
        } else if mid < hi {
            let (a, b) = (at_position(mid - 1), at_position(mid));
            if a.uses_custom_buckets() != b.uses_custom_buckets() {
                notes.add(Note::ExponentialCustom);
                continue;
            }
            let counter = a.reset_hint != ResetHint::Gauge || b.reset_hint != ResetHint::Gauge;
            let (a, b) = ((col.ts[mid - 1], &**a), (col.ts[mid], &**b));
            if let Some(h) = interpolate_histograms(a, b, at, counter, &mut notes)? {
                out.set_histogram(cell, Arc::new(h));
            }
        } else {
            // What the hint said about the sample before it does not hold for a step.
            let before = at_position(mid - 1);
            let h = if before.reset_hint == ResetHint::Unknown {
                Arc::clone(before)
            } else {
                let mut h = (**before).clone();
                h.reset_hint = ResetHint::Unknown;
                Arc::new(h)
            };
            out.set_histogram(cell, h);
        }
    }
    notes.flush(&spec, &SeriesNames { metric, kind: "" }, ann);
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_around_and_after() {
        let mut col = SampleColumn::default();
        col.push_float(100, 1.0, 0);
        col.push_float(200, 3.0, 0);
        let grid = StepGrid { start: 0, step: 50, len: 8 };
        let sel = InstantSelector::new(120);
        let mut out = Tile::new(8, vec![0]);
        let mut ann = Annotations::new();
        let pos = Position::default();
        fold_smoothed(&sel, "m", &col, &mut SampleColumn::default(), &grid, pos, &mut out, 0, &mut ann).unwrap();
        let got: Vec<_> = (0..8).map(|c| out.is_present(c).then(|| out.values[c])).collect();
        assert_eq!(got, [None, None, Some(1.0), Some(2.0), Some(3.0), Some(3.0), Some(3.0), None]);
        assert!(ann.is_empty());
    }
}
