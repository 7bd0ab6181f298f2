//! The folds: how kernels over windows are run per series.

use std::fmt;
use std::sync::Arc;

use quiver_model::{Labels, SampleColumn};

use crate::annotation::Annotations;
use crate::error::QueryError;
use crate::exec::fold::{FoldSpec, SeriesFold};
use crate::exec::operator::RunEnv;
use crate::exec::tile::{StepGrid, Tile};
use crate::kernels::instant::{self, InstantSelector};
use crate::kernels::range::{self, RangeSpec, Scratch, SeriesNames};
use crate::promql::ast::Position;

/// The latest sample at each step, or with `smoothed` the value between its neighbours.
#[derive(Clone, Copy, Debug)]
pub struct InstantSpec {
    /// Steps.
    pub grid: StepGrid,
    /// What is looked for.
    pub selector: InstantSelector,
    /// `smoothed`
    pub smoothed: bool,
    /// Position of the selector.
    pub pos: Position,
}

impl FoldSpec for InstantSpec {
    fn make(&self, _env: &RunEnv, _args: &Arc<Vec<Vec<f64>>>) -> Result<Box<dyn SeriesFold>, QueryError> {
        Ok(Box::new(InstantFold { spec: *self, clean: SampleColumn::default(), notes: Annotations::new() }))
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.selector;
        write!(f, "instant lookback={}ms offset={}ms", s.lookback_ms, s.offset_ms)?;
        if self.smoothed { f.write_str(" smoothed") } else { Ok(()) }
    }
}

struct InstantFold {
    spec: InstantSpec,
    clean: SampleColumn,
    notes: Annotations,
}

impl SeriesFold for InstantFold {
    fn fold(&mut self, s: &SampleColumn, labels: &Labels, tile: &mut Tile, row: usize) -> Result<u64, QueryError> {
        let InstantSpec { grid, selector, smoothed, pos } = &self.spec;
        if !smoothed {
            return Ok(instant::fold(selector, s, grid, tile, row));
        }
        let name = labels.metric_name();
        instant::fold_smoothed(selector, name, s, &mut self.clean, grid, *pos, tile, row, &mut self.notes)
    }

    fn annotations(&mut self) -> Annotations {
        std::mem::take(&mut self.notes)
    }
}

/// A function over windows.
#[derive(Clone, Debug)]
pub struct WindowSpec {
    /// Steps.
    pub grid: StepGrid,
    /// Function and window.
    pub spec: RangeSpec,
}

impl FoldSpec for WindowSpec {
    fn make(&self, _env: &RunEnv, args: &Arc<Vec<Vec<f64>>>) -> Result<Box<dyn SeriesFold>, QueryError> {
        self.spec.check()?;
        Ok(Box::new(WindowFold {
            spec: self.clone(),
            args: Arc::clone(args),
            scratch: Scratch::default(),
            notes: Annotations::new(),
        }))
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.spec;
        write!(f, "{} range={}ms offset={}ms", s.func.name(), s.range_ms, s.offset_ms)
    }
}

struct WindowFold {
    spec: WindowSpec,
    args: Arc<Vec<Vec<f64>>>,
    scratch: Scratch,
    notes: Annotations,
}

impl SeriesFold for WindowFold {
    fn fold(&mut self, s: &SampleColumn, labels: &Labels, tile: &mut Tile, row: usize) -> Result<u64, QueryError> {
        let kind = if self.spec.spec.type_and_unit_labels { labels.get("__type__") } else { "" };
        let names = SeriesNames { metric: labels.metric_name(), kind };
        let (none, one, two);
        let params: &[&[f64]] = match self.args.as_slice() {
            [] => {
                none = [];
                &none
            }
            [a] => {
                one = [a.as_slice()];
                &one
            }
            [a, b, ..] => {
                two = [a.as_slice(), b.as_slice()];
                &two
            }
        };
        let WindowSpec { grid, spec } = &self.spec;
        range::fold(spec, names, s, grid, params, &mut self.scratch, tile, row, &mut self.notes)
    }

    fn annotations(&mut self) -> Annotations {
        std::mem::take(&mut self.notes)
    }
}
