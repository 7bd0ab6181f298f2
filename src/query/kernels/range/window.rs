//! The windows of a series: two pointers that only move forward, over samples without stale markers.

use std::sync::Arc;

use quiver_model::{Histogram, SampleColumn, is_stale};

use super::{Extend, RangeSpec};
use crate::exec::tile::StepGrid;

/// A series as windows see it: all samples, and the floats among them without gaps.
#[derive(Clone, Copy)]
pub(crate) struct Series<'a> {
    /// All samples.
    pub all: &'a SampleColumn,
    /// Times of floats.
    pub ts: &'a [i64],
    /// Floats.
    pub values: &'a [f64],
    /// Start timestamps of floats, or empty.
    pub starts: &'a [i64],
}

/// Floats copied out of a series that has histograms too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Floats {
    ts: Vec<i64>,
    values: Vec<f64>,
    starts: Vec<i64>,
}

impl Floats {
    /// The series of a column.
    pub fn split<'a>(&'a mut self, col: &'a SampleColumn) -> Series<'a> {
        if col.histograms.is_empty() {
            return Series { all: col, ts: &col.ts, values: &col.values, starts: &col.start_ts };
        }
        self.ts.clear();
        self.values.clear();
        self.starts.clear();
        let mut hist = col.histograms.iter().map(|(p, _)| *p as usize).peekable();
        for i in 0..col.len() {
            if hist.next_if_eq(&i).is_some() {
                continue;
            }
            self.ts.push(col.ts[i]);
            self.values.push(col.values[i]);
            if let Some(s) = col.start_ts.get(i) {
                self.starts.push(*s);
            }
        }
        Series { all: col, ts: &self.ts, values: &self.values, starts: &self.starts }
    }
}

impl<'a> Series<'a> {
    /// Histograms, with their positions.
    pub fn histograms(&self) -> &'a [(u32, Arc<Histogram>)] {
        &self.all.histograms
    }

    /// Time of histogram `k`.
    pub fn histogram_time(&self, k: usize) -> i64 {
        self.all.ts[self.all.histograms[k].0 as usize]
    }

    /// Start timestamp of histogram `k`, 0 unknown.
    pub fn histogram_start(&self, k: usize) -> i64 {
        self.all.start_at(self.all.histograms[k].0 as usize)
    }

    /// Start timestamp of float `i`, 0 unknown.
    #[inline]
    pub fn start(&self, i: usize) -> i64 {
        self.starts.get(i).copied().unwrap_or(0)
    }
}

/// The samples of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Which step.
    pub step: usize,
    /// End of the range; its start is `end − range`. With extended selectors samples lie beyond both.
    pub end: i64,
    /// First sample.
    pub lo: usize,
    /// One past the last sample.
    pub hi: usize,
    /// First histogram.
    pub hist_lo: usize,
    /// One past the last histogram.
    pub hist_hi: usize,
}

impl Window {
    /// Floats.
    #[inline]
    pub fn floats(&self) -> std::ops::Range<usize> {
        self.lo - self.hist_lo..self.hi - self.hist_hi
    }

    /// Histograms.
    #[inline]
    pub fn histograms(&self) -> std::ops::Range<usize> {
        self.hist_lo..self.hist_hi
    }
}

/// Windows that hold samples, step by step.
pub(crate) struct Windows<'a> {
    ts: &'a [i64],
    hist: &'a [(u32, Arc<Histogram>)],
    grid: StepGrid,
    fixed: bool,
    offset: i64,
    before: i64,
    after: i64,
    next: Window,
    /// Samples in all windows so far, histograms by size as Prometheus counts them.
    pub samples: u64,
    hist_size: u64,
    /// By position, the samples that those before it stand for; empty where each stands for itself.
    sums: &'a [u64],
}

impl<'a> Windows<'a> {
    /// Windows of a series.
    pub fn new(spec: &RangeSpec, grid: &StepGrid, col: &'a SampleColumn) -> Self {
        let (before, after) = match spec.extend {
            Extend::No => (spec.range_ms, 0),
            Extend::Anchored => (spec.range_ms.saturating_add(spec.lookback_ms), 0),
            Extend::Smoothed => (spec.range_ms.saturating_add(spec.lookback_ms), spec.lookback_ms),
        };
        Self {
            ts: &col.ts,
            hist: &col.histograms,
            grid: *grid,
            fixed: spec.fixed,
            offset: spec.offset_ms,
            before,
            after,
            next: Window { step: 0, end: 0, lo: 0, hi: 0, hist_lo: 0, hist_hi: 0 },
            samples: 0,
            hist_size: 0,
            sums: &[],
        }
    }

    /// Windows over samples that stand for several each, none of them a histogram.
    pub fn weighted(self, sums: &'a [u64]) -> Self {
        Self { sums, ..self }
    }

    /// Samples that those at `lo..hi` stand for.
    #[inline]
    pub fn stand_for(&self, lo: usize, hi: usize) -> u64 {
        match (self.sums.get(lo), self.sums.get(hi)) {
            (Some(a), Some(b)) => b - a,
            _ => (hi - lo) as u64,
        }
    }
}

/// Samples that a histogram counts as.
pub(crate) fn sample_size(h: &Histogram) -> u64 {
    (h.size() as u64 + 8) / 16
}

impl Iterator for Windows<'_> {
    type Item = Window;

    #[inline]
    fn next(&mut self) -> Option<Window> {
        let w = &mut self.next;
        while w.step < self.grid.len {
            let step = w.step;
            w.step += 1;
            w.end = self.grid.time(if self.fixed { 0 } else { step }).saturating_sub(self.offset);
            let (from, to) = (w.end.saturating_sub(self.before), w.end.saturating_add(self.after));
            while w.hi < self.ts.len() && self.ts[w.hi] <= to {
                w.hi += 1;
            }
            while w.lo < w.hi && self.ts[w.lo] <= from {
                w.lo += 1;
            }
            while w.hist_hi < self.hist.len() && (self.hist[w.hist_hi].0 as usize) < w.hi {
                self.hist_size += sample_size(&self.hist[w.hist_hi].1);
                w.hist_hi += 1;
            }
            while w.hist_lo < w.hist_hi && (self.hist[w.hist_lo].0 as usize) < w.lo {
                self.hist_size -= sample_size(&self.hist[w.hist_lo].1);
                w.hist_lo += 1;
            }
            if w.lo < w.hi {
                let w = Window { step, ..*w };
                let floats = if self.sums.is_empty() { w.floats().len() as u64 } else { self.stand_for(w.lo, w.hi) };
                self.samples += floats + self.hist_size;
                return Some(w);
            }
        }
        None
    }
}

/// Copies the samples that are no stale markers. Returns whether there was any marker; without one `out` is left alone.
pub fn strip_stale(col: &SampleColumn, out: &mut SampleColumn) -> bool {
    if !col.values.iter().any(|v| is_stale(*v)) {
        return false;
    }
    out.clear();
    let mut from = 0;
    for (i, v) in col.values.iter().enumerate() {
        if is_stale(*v) {
            out.extend_from(col, from..i);
            from = i + 1;
        }
    }
    out.extend_from(col, from..col.len());
    true
}
