//! The operators over vectors as machines: aggregation, matching, relabelling.

use std::sync::Arc;

use crate::error::QueryError;
use crate::exec::machine::{JoinMachine, Machine, Made};
use crate::exec::operator::{RunEnv, TileSink};
use crate::exec::tile::{Roster, StepGrid, Tile};
use crate::kernels::operators::{
    Aggregate, AggregateSpec, BinarySpec, Output, Relabel, RelabelSpec, SetOp, Side, VectorBinary,
};
use crate::promql::ast::{BinaryOp, VectorMatching};

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
    }
    let _ = env;
    let (op, roster) = VectorBinary::new(spec, left, right, grid)?;
    Ok((Box::new(M(op)), Arc::new(roster)))
}
