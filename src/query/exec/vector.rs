//! The operators over vectors as machines: aggregation, matching, relabelling.

use std::sync::Arc;

use crate::error::QueryError;
use crate::exec::machine::{Destinations, JoinMachine, Machine, Made};
use crate::exec::operator::{RunEnv, TileSink};
use crate::exec::tile::{Roster, StepGrid, Tile};
use quiver_model::Labels;

use crate::kernels::elementwise::{self, CellFn};
use crate::kernels::operators::{
    Absent, Aggregate, AggregateSpec, BinarySpec, CountValues, CountValuesSpec, Output, Quantile, QuantileSpec,
    Relabel, RelabelSpec, SelectK, SelectSpec, SetOp, Side, Sort, SortSpec, VectorBinary,
};
use crate::promql::ast::{BinaryOp, Position, VectorMatching};

/// Hands tiles on.
pub fn push_all(tiles: Vec<Tile>, out: &mut dyn TileSink) -> Result<(), QueryError> {
    for t in tiles {
        if t.rows() > 0 {
            out.push(t)?;
        }
    }
    Ok(())
}

/// Hands on an answer whose roster is known only now.
pub fn push_output(output: Output, out: &mut dyn TileSink) -> Result<(), QueryError> {
    out.begin(&Arc::new(output.roster))?;
    push_all(output.tiles, out)
}

/// `sum avg count group min max stddev stdvar`
pub fn aggregate(spec: &AggregateSpec, input: &Arc<Roster>, grid: StepGrid, env: &RunEnv) -> Result<Made, QueryError> {
    struct M(Aggregate);
    impl Machine for M {
        fn push(&mut self, tile: Tile, env: &RunEnv, _out: &mut dyn TileSink) -> Result<(), QueryError> {
            self.0.push(&tile, &env.ctx)
        }

        fn finish(self: Box<Self>, env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError> {
            push_all(self.0.finish(&env.ctx)?, out)
        }

        fn bytes(&self) -> usize {
            self.0.cells() * 24
        }

        fn destinations(&self) -> Option<Destinations<'_>> {
            Some(Destinations { rows: self.0.groups(), merges: true })
        }
    }
    let _ = env;
    let (op, roster) = Aggregate::new(spec, input, grid)?;
    Ok((Box::new(M(op)), Some(Arc::new(roster))))
}

struct Relabelling {
    op: Relabel,
    identity: bool,
}

impl Machine for Relabelling {
    fn push(&mut self, tile: Tile, env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError> {
        if self.identity {
            return out.push(tile);
        }
        match self.op.push(&tile, &env.ctx)? {
            Some(t) => out.push(t),
            None => Ok(()),
        }
    }

    fn finish(self: Box<Self>, _env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError> {
        push_all(self.op.finish()?, out)
    }

    fn destinations(&self) -> Option<Destinations<'_>> {
        Some(Destinations { rows: self.op.mapping(), merges: false })
    }
}

/// New labels; series that become the same are merged.
pub fn relabel(spec: &RelabelSpec, input: &Arc<Roster>, grid: StepGrid, env: &RunEnv) -> Result<Made, QueryError> {
    let (op, roster) = Relabel::new(spec, input, grid, &env.ctx)?;
    let identity = op.is_identity();
    Ok((Box::new(Relabelling { op, identity }), Some(Arc::new(roster))))
}

/// The roster after names are dropped, where no series moves and none must be merged.
pub fn dropped_in_place(input: &Arc<Roster>, grid: StepGrid, env: &RunEnv) -> Result<Option<Arc<Roster>>, QueryError> {
    let (op, roster) = Relabel::new(&RelabelSpec::DropName, input, grid, &env.ctx)?;
    Ok(op.is_identity().then(|| Arc::new(roster)))
}

type Join = (Box<dyn JoinMachine>, Arc<Roster>);

/// `and or unless`
pub fn set(
    op: BinaryOp,
    matching: &VectorMatching,
    left: &Arc<Roster>,
    right: &Arc<Roster>,
    grid: StepGrid,
) -> Result<Join, QueryError> {
    struct M(SetOp);
    impl JoinMachine for M {
        fn left_first(&self) -> bool {
            self.0.build_side() == Side::Left
        }

        fn build(&mut self, tile: Tile, env: &RunEnv) -> Result<(), QueryError> {
            self.0.build(&tile, &env.ctx)
        }

        fn probe(&mut self, tile: Tile, env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError> {
            match self.0.probe(&tile, &env.ctx)? {
                Some(t) => out.push(t),
                None => Ok(()),
            }
        }

        fn finish(self: Box<Self>, _env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError> {
            push_all(self.0.finish()?, out)
        }

        fn bytes(&self) -> usize {
            self.0.bytes()
        }

        fn unused(&self) -> [Vec<bool>; 2] {
            self.0.unused()
        }

        fn unused_left(&self, unused: &[bool]) -> Option<Vec<bool>> {
            self.0.keeps_left_rows().then(|| unused.to_vec())
        }
    }
    let (op, roster) = SetOp::new(op, matching, left, right, grid)?;
    Ok((Box::new(M(op)), Arc::new(roster)))
}

/// Arithmetic and comparison of matched series.
pub fn binary(
    spec: BinarySpec,
    left: &Arc<Roster>,
    right: &Arc<Roster>,
    grid: StepGrid,
    env: &RunEnv,
) -> Result<Join, QueryError> {
    struct M(VectorBinary);
    impl JoinMachine for M {
        fn left_first(&self) -> bool {
            self.0.build_side() == Side::Left
        }

        fn build(&mut self, tile: Tile, env: &RunEnv) -> Result<(), QueryError> {
            self.0.build(&tile, &env.ctx)
        }

        fn probe(&mut self, tile: Tile, env: &RunEnv, _out: &mut dyn TileSink) -> Result<(), QueryError> {
            self.0.probe(&tile, &env.ctx)
        }

        fn finish(self: Box<Self>, env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError> {
            push_all(self.0.finish(&env.ctx)?, out)
        }

        fn bytes(&self) -> usize {
            self.0.bytes()
        }

        fn unused(&self) -> [Vec<bool>; 2] {
            self.0.unused()
        }
    }
    let _ = env;
    let (op, roster) = VectorBinary::new(spec, left, right, grid)?;
    Ok((Box::new(M(op)), Arc::new(roster)))
}

/// The only scalar argument.
pub fn parameter(mut args: Vec<Vec<f64>>) -> Result<Vec<f64>, QueryError> {
    args.pop().ok_or_else(|| QueryError::Internal("a parameter is missing".into()))
}

/// `topk bottomk limitk limit_ratio`
pub fn select_k(
    spec: &SelectSpec,
    input: &Arc<Roster>,
    grid: StepGrid,
    params: Vec<f64>,
    env: &RunEnv,
) -> Result<Made, QueryError> {
    struct M(SelectK);
    impl Machine for M {
        fn push(&mut self, tile: Tile, env: &RunEnv, _out: &mut dyn TileSink) -> Result<(), QueryError> {
            self.0.push(&tile, &env.ctx)
        }

        fn finish(self: Box<Self>, env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError> {
            push_output(self.0.finish(&env.ctx)?, out)
        }
    }
    let (op, _) = SelectK::new(spec, input, grid, params, &env.ctx)?;
    Ok((Box::new(M(op)), None))
}

/// `quantile`
pub fn quantile(
    spec: &QuantileSpec,
    input: &Arc<Roster>,
    grid: StepGrid,
    params: Vec<f64>,
    env: &RunEnv,
) -> Result<Made, QueryError> {
    struct M {
        op: Quantile,
        held: u64,
    }
    impl Machine for M {
        fn push(&mut self, tile: Tile, env: &RunEnv, _out: &mut dyn TileSink) -> Result<(), QueryError> {
            let n = tile.samples();
            self.held += n;
            env.ctx.hold(n)?;
            self.op.push(&tile, &env.ctx)
        }

        fn finish(self: Box<Self>, env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError> {
            let tiles = self.op.finish(&env.ctx)?;
            env.ctx.release(self.held);
            push_all(tiles, out)
        }

        fn bytes(&self) -> usize {
            self.held as usize * 9
        }
    }
    let (op, roster) = Quantile::new(spec, input, grid, params, &env.ctx)?;
    Ok((Box::new(M { op, held: 0 }), Some(Arc::new(roster))))
}

/// `count_values`
pub fn count_values(spec: &CountValuesSpec, input: &Arc<Roster>, grid: StepGrid) -> Result<Made, QueryError> {
    struct M {
        op: CountValues,
        held: u64,
    }
    impl Machine for M {
        fn push(&mut self, tile: Tile, env: &RunEnv, _out: &mut dyn TileSink) -> Result<(), QueryError> {
            let n = tile.samples();
            self.held += n;
            env.ctx.hold(n)?;
            self.op.push(&tile, &env.ctx)
        }

        fn finish(self: Box<Self>, env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError> {
            let (roster, tiles) = self.op.finish();
            env.ctx.release(self.held);
            out.begin(&Arc::new(roster))?;
            for t in tiles {
                env.ctx.check()?;
                out.push(t)?;
            }
            Ok(())
        }

        fn bytes(&self) -> usize {
            // A word for each sample, and at worst a series for each.
            self.held as usize * 100
        }
    }
    Ok((Box::new(M { op: CountValues::new(spec, input, grid)?, held: 0 }), None))
}

/// `absent`
pub fn absent(labels: Labels, drop_name: bool, grid: StepGrid) -> Made {
    struct M(Absent);
    impl Machine for M {
        fn push(&mut self, tile: Tile, _env: &RunEnv, _out: &mut dyn TileSink) -> Result<(), QueryError> {
            self.0.push(&tile);
            Ok(())
        }

        fn finish(self: Box<Self>, _env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError> {
            push_all(self.0.finish(), out)
        }
    }
    let (op, roster) = Absent::new(labels, drop_name, grid);
    (Box::new(M(op)), Some(Arc::new(roster)))
}

/// The sorting functions.
pub fn sort(spec: SortSpec, input: &Arc<Roster>, grid: StepGrid, pos: Position, env: &RunEnv) -> Made {
    struct M(Sort);
    impl Machine for M {
        fn push(&mut self, tile: Tile, env: &RunEnv, _out: &mut dyn TileSink) -> Result<(), QueryError> {
            self.0.push(&tile, &env.ctx)
        }

        fn finish(self: Box<Self>, _env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError> {
            push_output(self.0.finish(), out)
        }
    }
    (Box::new(M(Sort::new(spec, input, grid, pos, &env.ctx))), None)
}

/// A function of cells; `None`: unary minus.
pub fn cells(func: Option<CellFn>, grid: StepGrid, args: Vec<Vec<f64>>) -> Box<dyn Machine> {
    struct M {
        func: Option<CellFn>,
        grid: StepGrid,
        args: Vec<Vec<f64>>,
    }
    impl Machine for M {
        fn push(&mut self, mut tile: Tile, _env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError> {
            match self.func {
                Some(f) => {
                    let params: smallvec::SmallVec<[&[f64]; 2]> = self.args.iter().map(Vec::as_slice).collect();
                    elementwise::apply(f, &mut tile, &params, &self.grid);
                }
                None => elementwise::negate(&mut tile),
            }
            out.push(tile)
        }

        fn finish(self: Box<Self>, _env: &RunEnv, _out: &mut dyn TileSink) -> Result<(), QueryError> {
            Ok(())
        }
    }
    Box::new(M { func, grid, args })
}
