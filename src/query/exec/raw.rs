//! A range vector as the answer: raw samples of one window, or the points of a subquery.

use std::fmt;
use std::sync::Arc;

use quiver_core::{Need, SeriesSet, TimeRange};
use quiver_model::{SampleColumn, is_stale};

use crate::answer::AnswerSeries;
use crate::engine::result::points;
use crate::error::QueryError;
use crate::exec::operator::{Collect, PromExec, RunEnv, TileOperator, TileSink};
use crate::exec::tile::Roster;
use crate::kernels::range::{Extend, sample_size};
use crate::plan::node::Window;

/// `x[5m]` at the top of an instant query.
pub struct RawScanOp {
    /// Series.
    pub set: Arc<dyn SeriesSet>,
    /// Their labels.
    pub roster: Arc<Roster>,
    /// What is read: with `anchored` and `smoothed` more than the window.
    pub read: TimeRange,
    /// Start of the window, which is not in it.
    pub after: i64,
    /// Last time of the window.
    pub until: i64,
    /// How the window is made.
    pub window: Window,
}

impl fmt::Debug for RawScanOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawScan({}, {} series)", self.window, self.set.len())
    }
}

impl TileOperator for RawScanOp {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}", self.window)
    }

    fn roster(&self) -> Option<&Arc<Roster>> {
        Some(&self.roster)
    }

    fn run(&self, _env: &RunEnv, _inputs: &[Arc<PromExec>], _sink: &mut dyn TileSink) -> Result<(), QueryError> {
        Err(QueryError::Internal("raw samples have no rows of steps".into()))
    }

    fn raw(&self, env: &RunEnv, _inputs: &[Arc<PromExec>]) -> Result<Vec<AnswerSeries>, QueryError> {
        let mut out = Vec::new();
        let mut column = SampleColumn::default();
        let mut held = 0;
        env.stats.touch(self.set.len() as u64);
        for i in 0..self.set.len() {
            env.ctx.check()?;
            self.set.read(i, self.read, Need::ALL, &mut column)?;
            env.ctx.count_read(column.len() as u64)?;
            let mut s = AnswerSeries { labels: self.set.labels(i).clone(), ..AnswerSeries::default() };
            let mut hist = column.histograms.iter().peekable();
            for (k, (t, v)) in column.ts.iter().zip(&column.values).enumerate() {
                let h = hist.next_if(|(p, _)| *p as usize == k).map(|(_, h)| h);
                if *t < self.read.min || *t > self.read.max || is_stale(*v) {
                    continue;
                }
                match h {
                    Some(h) => s.histograms.push((*t, Arc::clone(h))),
                    None => s.floats.push((*t, *v)),
                }
            }
            if self.window.extend != Extend::No {
                let word = if self.window.extend == Extend::Anchored { "anchored" } else { "smoothed" };
                if !s.histograms.is_empty() {
                    return Err(QueryError::Execution(format!("{word} modifier is not supported with histograms")));
                }
                let smoothed = self.window.extend == Extend::Smoothed;
                s.floats = extended(&s.floats, self.after, self.until, smoothed);
            }
            let n = s.floats.len() as u64 + s.histograms.iter().map(|(_, h)| sample_size(h).max(1)).sum::<u64>();
            if n == 0 {
                continue;
            }
            held += n;
            env.ctx.hold(n)?;
            env.stats.add_first(n);
            out.push(s);
        }
        env.ctx.release(held);
        Ok(out)
    }
}

/// The samples of a window with a point at each of its ends: the value before it (`anchored`) or between neighbours
/// (`smoothed`).
fn extended(points: &[(i64, f64)], after: i64, until: i64, smoothed: bool) -> Vec<(i64, f64)> {
    let Some(mut last) = points.len().checked_sub(1) else { return Vec::new() };
    let mut first = points[..last].partition_point(|p| p.0 <= after).saturating_sub(1);
    if smoothed {
        last = points[..last].partition_point(|p| p.0 < until);
    }
    if points[last].0 <= after {
        return Vec::new();
    }
    let between = |a: (i64, f64), b: (i64, f64), t: i64| a.1 + (b.1 - a.1) * (t - a.0) as f64 / (b.0 - a.0) as f64;
    let left = if smoothed && points[first].0 < after && first + 1 < points.len() {
        between(points[first], points[first + 1], after)
    } else {
        points[first].1
    };
    let right = if smoothed && last > 0 && points[last].0 > until {
        between(points[last - 1], points[last], until)
    } else {
        points[last].1
    };
    if points[first].0 <= after {
        first += 1;
    }
    let end = if points[last].0 >= until { last } else { last + 1 };
    let mut out = vec![(after, left)];
    if first < end {
        out.extend_from_slice(&points[first..end]);
    }
    out.push((until, right));
    out
}

/// `expr[5m:1m]` at the top of an instant query.
#[derive(Debug)]
pub struct RawRowsOp {
    /// The window.
    pub window: Window,
}

impl TileOperator for RawRowsOp {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}", self.window)
    }

    fn run(&self, _env: &RunEnv, _inputs: &[Arc<PromExec>], _sink: &mut dyn TileSink) -> Result<(), QueryError> {
        Err(QueryError::Internal("raw samples have no rows of steps".into()))
    }

    fn raw(&self, env: &RunEnv, inputs: &[Arc<PromExec>]) -> Result<Vec<AnswerSeries>, QueryError> {
        let child = super::transform::only(inputs)?;
        let mut sink = crate::engine::result::Held::new(env, Collect::default());
        let inner = env.scoped(child.grid(), false);
        child.run(&inner, &mut sink)?;
        env.stats.absorb_first(&inner.stats);
        let Collect { roster, tiles } = sink.into_inner();
        let roster = roster.unwrap_or_default();
        let mut out = Vec::new();
        for t in &tiles {
            env.ctx.keep_bytes(t.samples() as usize * 16)?;
            for row in 0..t.rows() {
                env.ctx.check()?;
                let s = points(t, row, child.grid(), &roster);
                if !s.floats.is_empty() || !s.histograms.is_empty() {
                    out.push(s);
                }
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_the_window_get_points() {
        let p = [(0, 1.0), (10, 2.0), (20, 4.0), (30, 8.0)];
        assert_eq!(extended(&p[..3], 5, 25, false), vec![(5, 1.0), (10, 2.0), (20, 4.0), (25, 4.0)]);
        assert_eq!(extended(&p, 5, 25, true), vec![(5, 1.5), (10, 2.0), (20, 4.0), (25, 6.0)]);
        assert_eq!(extended(&p[..1], 5, 25, false), vec![]);
        assert_eq!(extended(&[], 5, 25, false), vec![]);
    }
}
