//! The folds: how kernels over windows are run per series.

use std::fmt;
use std::sync::Arc;

use quiver_model::{Labels, SampleColumn, is_stale};

use crate::annotation::Annotations;
use crate::error::QueryError;
use crate::exec::fold::{FoldSpec, SeriesFold};
use crate::exec::operator::RunEnv;
use crate::exec::tile::{StepGrid, Tile};
use crate::plan::node::Record;

/// The latest sample at each step.
#[derive(Clone, Copy, Debug)]
pub struct InstantSpec {
    /// Steps.
    pub grid: StepGrid,
    /// How far back a sample may lie, ms.
    pub lookback: i64,
    /// Offset, ms.
    pub offset: i64,
    /// Times to keep.
    pub record: Record,
}

impl FoldSpec for InstantSpec {
    fn make(&self, _env: &RunEnv, _args: &Arc<Vec<Vec<f64>>>) -> Result<Box<dyn SeriesFold>, QueryError> {
        Ok(Box::new(InstantFold { spec: *self }))
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instant lookback={}ms offset={}ms", self.lookback, self.offset)
    }
}

struct InstantFold {
    spec: InstantSpec,
}

impl SeriesFold for InstantFold {
    fn fold(&mut self, s: &SampleColumn, _labels: &Labels, tile: &mut Tile, row: usize) -> Result<u64, QueryError> {
        let InstantSpec { grid, lookback, offset, record } = self.spec;
        let base = row * tile.width;
        let cells = tile.values.len();
        match record {
            Record::Values => {}
            Record::Timestamp => tile.orig_ts.resize(cells, 0),
            Record::StartTimestamp => tile.start_ts.resize(cells, 0),
        }
        let mut next = 0;
        let mut looked = 0;
        for step in 0..grid.len {
            let at = grid.time(step).saturating_sub(offset);
            while next < s.ts.len() && s.ts[next] <= at {
                next += 1;
            }
            let Some(i) = next.checked_sub(1) else { continue };
            if s.ts[i] <= at.saturating_sub(lookback) || is_stale(s.values[i]) {
                continue;
            }
            looked += 1;
            match s.histogram_at(i) {
                Some(h) => tile.set_histogram(base + step, Arc::clone(h)),
                None => tile.set(base + step, s.values[i]),
            }
            match record {
                Record::Values => {}
                Record::Timestamp => tile.orig_ts[base + step] = s.ts[i],
                Record::StartTimestamp => tile.start_ts[base + step] = s.start_at(i),
            }
        }
        Ok(looked)
    }

    fn annotations(&mut self) -> Annotations {
        Annotations::new()
    }
}
