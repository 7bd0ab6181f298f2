//! Small operators: constants, scalars to vectors and back, one step to all steps, arithmetic of scalars.

use std::fmt;
use std::sync::Arc;

use crate::error::QueryError;
use crate::exec::operator::{PromExec, RunEnv, TileOperator, TileSink, scalar_roster, scalar_tile};
use crate::exec::tile::{Roster, StepGrid, Tile};
use crate::kernels::elementwise::{ScalarFn, scalar_arithmetic};
use crate::promql::ast::BinaryOp;

/// The only input of an operator that has one.
pub fn only(inputs: &[Arc<PromExec>]) -> Result<&Arc<PromExec>, QueryError> {
    inputs.first().ok_or_else(|| QueryError::Internal("an operator lacks its input".into()))
}

/// No series.
#[derive(Debug)]
pub struct EmptyOp;

impl TileOperator for EmptyOp {
    fn details(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn run(&self, _env: &RunEnv, _inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        sink.begin(&Arc::default())
    }
}

/// A scalar that depends on nothing but the step: a constant or the time.
#[derive(Debug)]
pub struct ScalarSourceOp {
    /// Steps.
    pub grid: StepGrid,
    /// The constant; `None`: the time in seconds.
    pub value: Option<f64>,
    /// One series.
    pub roster: Arc<Roster>,
}

impl ScalarSourceOp {
    /// A source.
    pub fn new(grid: StepGrid, value: Option<f64>) -> Self {
        Self { grid, value, roster: scalar_roster() }
    }
}

impl TileOperator for ScalarSourceOp {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Some(v) => write!(f, " {v}"),
            None => f.write_str(" time"),
        }
    }

    fn roster(&self) -> Option<&Arc<Roster>> {
        Some(&self.roster)
    }

    fn run(&self, _env: &RunEnv, _inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        sink.begin(&self.roster)?;
        let values = match self.value {
            Some(v) => vec![v; self.grid.len],
            None => (0..self.grid.len).map(|i| self.grid.time(i) as f64 / 1000.0).collect(),
        };
        sink.push(scalar_tile(values))
    }
}

/// `scalar(v)`: the only float of a step, else NaN.
#[derive(Debug)]
pub struct ToScalarOp {
    /// Steps.
    pub grid: StepGrid,
}

impl TileOperator for ToScalarOp {
    fn details(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        struct S {
            values: Vec<f64>,
            seen: Vec<u8>,
        }
        impl TileSink for S {
            fn begin(&mut self, _roster: &Arc<Roster>) -> Result<(), QueryError> {
                Ok(())
            }

            fn push(&mut self, tile: Tile) -> Result<(), QueryError> {
                let mut hist = tile.hist.iter().map(|(c, _)| *c as usize).peekable();
                for cell in 0..tile.rows() * tile.width {
                    if !tile.is_present(cell) {
                        continue;
                    }
                    // Histograms do not count: a float among histograms is still the only float.
                    if hist.peek() == Some(&cell) {
                        hist.next();
                        continue;
                    }
                    let step = cell % tile.width;
                    self.seen[step] = self.seen[step].saturating_add(1);
                    self.values[step] = tile.values[cell];
                }
                Ok(())
            }
        }
        let n = self.grid.len;
        let mut s = S { values: vec![f64::NAN; n], seen: vec![0; n] };
        only(inputs)?.run(env, &mut s)?;
        for (v, n) in s.values.iter_mut().zip(&s.seen) {
            if *n != 1 {
                *v = f64::NAN;
            }
        }
        sink.begin(&scalar_roster())?;
        sink.push(scalar_tile(s.values))
    }
}

/// Hands its input on as it is: `vector(s)`.
#[derive(Debug)]
pub struct PassOp;

impl TileOperator for PassOp {
    fn details(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        only(inputs)?.run(env, sink)
    }
}

/// The only step of its input, at all steps.
#[derive(Debug)]
pub struct BroadcastOp {
    /// Steps.
    pub grid: StepGrid,
    /// Series, where known.
    pub roster: Option<Arc<Roster>>,
}

impl TileOperator for BroadcastOp {
    fn details(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn roster(&self) -> Option<&Arc<Roster>> {
        self.roster.as_ref()
    }

    fn leave_out(&self, inputs: &[Arc<PromExec>], unused: &[bool]) -> usize {
        only(inputs).map_or(0, |i| i.leave_out(unused))
    }

    fn silent_rows(&self, inputs: &[Arc<PromExec>]) -> Option<Vec<bool>> {
        only(inputs).ok()?.silent_rows()
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        let child = only(inputs)?;
        let width = self.grid.len;
        if width == 1 {
            return child.run(env, sink);
        }
        struct S<'a> {
            width: usize,
            env: &'a RunEnv,
            sink: &'a mut dyn TileSink,
        }
        impl TileSink for S<'_> {
            fn begin(&mut self, roster: &Arc<Roster>) -> Result<(), QueryError> {
                self.sink.begin(roster)
            }

            fn push(&mut self, tile: Tile) -> Result<(), QueryError> {
                let per = crate::exec::fold::rows_per_tile(self.width);
                let rows: Vec<usize> = (0..tile.rows()).filter(|r| tile.is_present(*r)).collect();
                for part in rows.chunks(per) {
                    self.env.ctx.check()?;
                    let mut out = Tile::new(self.width, part.iter().map(|r| tile.sids[*r]).collect());
                    for (k, r) in part.iter().enumerate() {
                        let first = k * self.width;
                        if let Some(h) = tile.histogram(*r) {
                            for cell in first..first + self.width {
                                out.set_histogram(cell, Arc::clone(h));
                            }
                        } else {
                            for cell in first..first + self.width {
                                out.set(cell, tile.values[*r]);
                            }
                        }
                    }
                    self.sink.push(out)?;
                }
                Ok(())
            }
        }
        // Prometheus counts what the only evaluation looked at for every step.
        let inner = env.scoped(child.grid(), false);
        child.run(&inner, &mut S { width, env, sink })?;
        env.stats.add_everywhere(&inner.stats, self.grid);
        Ok(())
    }
}

/// Arithmetic of two scalars.
#[derive(Debug)]
pub struct ScalarArithOp {
    /// Operator.
    pub op: BinaryOp,
}

impl TileOperator for ScalarArithOp {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}", self.op.as_str())
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        let [l, r] = inputs else { return Err(QueryError::Internal("two scalars".into())) };
        let mut left = l.collect_scalar(env)?;
        let right = r.collect_scalar(env)?;
        for (a, b) in left.iter_mut().zip(&right) {
            *a = scalar_arithmetic(self.op, *a, *b);
        }
        sink.begin(&scalar_roster())?;
        sink.push(scalar_tile(left))
    }
}

/// A function of scalars.
#[derive(Debug)]
pub struct ScalarFnOp {
    /// Function.
    pub func: ScalarFn,
    /// Steps.
    pub grid: StepGrid,
}

impl TileOperator for ScalarFnOp {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {:?}", self.func)
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        let args = inputs.iter().map(|i| i.collect_scalar(env)).collect::<Result<Vec<_>, _>>()?;
        let args: Vec<&[f64]> = args.iter().map(Vec::as_slice).collect();
        sink.begin(&scalar_roster())?;
        sink.push(scalar_tile(self.func.values(&self.grid, &args)))
    }
}
