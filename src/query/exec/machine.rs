//! Operators as state machines: made from the roster of the input, fed tiles, asked for the rest at the end.
//!
//! Where the input's roster is known when the plan is made, the machine is made then too: its roster is known to the
//! operators above and to EXPLAIN. It is used by the first run; a further run makes another.

use std::fmt;
use std::sync::Arc;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use parking_lot::Mutex;

use crate::error::QueryError;
use crate::exec::operator::{PromExec, RunEnv, TileOperator, TileSink};
use crate::exec::tile::{Roster, StepGrid, Tile};

/// A running operator with one input.
pub trait Machine: Send {
    /// Takes a tile; what can be said at once goes to `out`.
    fn push(&mut self, tile: Tile, env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError>;

    /// The rest. An operator whose roster was not known calls [`TileSink::begin`] first.
    fn finish(self: Box<Self>, env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError>;

    /// Bytes it holds, about.
    fn bytes(&self) -> usize {
        0
    }
}

/// A machine and its roster, where that does not depend on values.
pub type Made = (Box<dyn Machine>, Option<Arc<Roster>>);

type Make = dyn Fn(&RunEnv, &Arc<Roster>, Vec<Vec<f64>>) -> Result<Made, QueryError> + Send + Sync;

/// An operator over one vector and any number of scalars: inputs in that order.
pub struct MachineOp {
    what: String,
    make: Box<Make>,
    ready: Mutex<Option<Box<dyn Machine>>>,
    roster: Option<Arc<Roster>>,
}

impl fmt::Debug for MachineOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Machine({})", self.what)
    }
}

impl MachineOp {
    /// An operator. `inputs` are those it will be run with.
    pub fn new(
        what: String,
        env: &RunEnv,
        inputs: &[Arc<PromExec>],
        make: impl Fn(&RunEnv, &Arc<Roster>, Vec<Vec<f64>>) -> Result<Made, QueryError> + Send + Sync + 'static,
    ) -> Result<Self, QueryError> {
        let (mut ready, mut roster) = (None, None);
        if let [vector] = inputs
            && let Some(r) = vector.roster()
        {
            let (machine, out) = make(env, r, Vec::new())?;
            // Without a roster it is as good made later.
            if out.is_some() {
                (ready, roster) = (Some(machine), out);
            }
        }
        Ok(Self { what, make: Box::new(make), ready: Mutex::new(ready), roster })
    }

    /// An operator that leaves series as they are.
    pub fn same_series(
        what: String,
        inputs: &[Arc<PromExec>],
        make: impl Fn(&RunEnv, Vec<Vec<f64>>) -> Result<Box<dyn Machine>, QueryError> + Send + Sync + 'static,
    ) -> Self {
        let roster = inputs.first().and_then(|i| i.roster().cloned());
        let make =
            move |env: &RunEnv, r: &Arc<Roster>, args: Vec<Vec<f64>>| Ok((make(env, args)?, Some(Arc::clone(r))));
        Self { what, make: Box::new(make), ready: Mutex::new(None), roster }
    }
}

impl TileOperator for MachineOp {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}", self.what)
    }

    fn roster(&self) -> Option<&Arc<Roster>> {
        self.roster.as_ref()
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        let Some((vector, scalars)) = inputs.split_first() else {
            return Err(QueryError::Internal("an operator lacks its input".into()));
        };
        let mut args = Vec::with_capacity(scalars.len());
        for s in scalars {
            args.push(s.collect_scalar(env)?);
        }
        let mut run = Running { op: self, env, args: Some(args), machine: None, memory: None, sink };
        vector.run(env, &mut run)?;
        match run.machine {
            Some(m) => m.finish(env, run.sink),
            None => Err(QueryError::Internal("an input announced no series".into())),
        }
    }
}

struct Running<'a> {
    op: &'a MachineOp,
    env: &'a RunEnv,
    args: Option<Vec<Vec<f64>>>,
    machine: Option<Box<dyn Machine>>,
    memory: Option<MemoryReservation>,
    sink: &'a mut dyn TileSink,
}

impl TileSink for Running<'_> {
    fn begin(&mut self, roster: &Arc<Roster>) -> Result<(), QueryError> {
        let ready = self.op.ready.lock().take();
        let (machine, out) = match ready {
            Some(m) => (m, self.op.roster.clone()),
            None => (self.op.make)(self.env, roster, self.args.take().unwrap_or_default())?,
        };
        self.machine = Some(machine);
        self.grown()?;
        match out {
            Some(r) => self.sink.begin(&r),
            None => Ok(()),
        }
    }

    fn push(&mut self, tile: Tile) -> Result<(), QueryError> {
        match &mut self.machine {
            Some(m) => m.push(tile, self.env, self.sink)?,
            None => return Err(QueryError::Internal("a tile came before its roster".into())),
        }
        self.grown()
    }
}

/// Below this nobody counts.
const SMALL: usize = 64 << 10;

impl Running<'_> {
    fn grown(&mut self) -> Result<(), QueryError> {
        let bytes = self.machine.as_ref().map_or(0, |m| m.bytes());
        if bytes < SMALL {
            return Ok(());
        }
        let memory =
            self.memory.get_or_insert_with(|| MemoryConsumer::new(self.op.what.as_str()).register(&self.env.memory));
        if bytes > memory.size() {
            memory.try_resize(bytes)?;
        }
        Ok(())
    }
}

/// A running operator with two inputs, of which one is read whole first.
pub trait JoinMachine: Send {
    /// Is the left side the one that is read first?
    fn left_first(&self) -> bool;

    /// Takes a tile of the side that is read first.
    fn build(&mut self, tile: Tile, env: &RunEnv) -> Result<(), QueryError>;

    /// Takes a tile of the other side.
    fn probe(&mut self, tile: Tile, env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError>;

    /// The rest.
    fn finish(self: Box<Self>, env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError>;
}

type MakeJoin = dyn Fn(&RunEnv, &Arc<Roster>, &Arc<Roster>) -> Result<(Box<dyn JoinMachine>, Arc<Roster>), QueryError>
    + Send
    + Sync;

/// An operator over two vectors.
pub struct JoinOp {
    what: String,
    make: Box<MakeJoin>,
    ready: Mutex<Option<Box<dyn JoinMachine>>>,
    roster: Option<Arc<Roster>>,
}

impl fmt::Debug for JoinOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Join({})", self.what)
    }
}

impl JoinOp {
    /// An operator. `inputs` are those it will be run with.
    pub fn new(
        what: String,
        env: &RunEnv,
        inputs: &[Arc<PromExec>],
        make: impl Fn(&RunEnv, &Arc<Roster>, &Arc<Roster>) -> Result<(Box<dyn JoinMachine>, Arc<Roster>), QueryError>
        + Send
        + Sync
        + 'static,
    ) -> Result<Self, QueryError> {
        let (mut ready, mut roster) = (None, None);
        if let [l, r] = inputs
            && let (Some(l), Some(r)) = (l.roster(), r.roster())
        {
            let (machine, out) = make(env, l, r)?;
            (ready, roster) = (Some(machine), Some(out));
        }
        Ok(Self { what, make: Box::new(make), ready: Mutex::new(ready), roster })
    }
}

impl TileOperator for JoinOp {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}", self.what)
    }

    fn roster(&self) -> Option<&Arc<Roster>> {
        self.roster.as_ref()
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        let [left, right] = inputs else {
            return Err(QueryError::Internal("a join has two inputs".into()));
        };
        let ready = self.ready.lock().take();
        if let (Some(machine), Some(roster)) = (ready, &self.roster) {
            return drive(machine, roster, left, right, env, sink);
        }
        if let (Some(l), Some(r)) = (left.roster(), right.roster()) {
            let (machine, roster) = (self.make)(env, l, r)?;
            return drive(machine, &roster, left, right, env, sink);
        }
        // Labels depend on values: both sides are read before the machine can be made.
        let (l, lt) = left.collect(env)?;
        let (r, rt) = right.collect(env)?;
        let (mut machine, roster) = (self.make)(env, &l, &r)?;
        let (first, second) = if machine.left_first() { (lt, rt) } else { (rt, lt) };
        for t in first {
            machine.build(t, env)?;
        }
        sink.begin(&roster)?;
        for t in second {
            machine.probe(t, env, sink)?;
        }
        machine.finish(env, sink)
    }
}

fn drive(
    mut machine: Box<dyn JoinMachine>,
    roster: &Arc<Roster>,
    left: &PromExec,
    right: &PromExec,
    env: &RunEnv,
    sink: &mut dyn TileSink,
) -> Result<(), QueryError> {
    let (first, second) = if machine.left_first() { (left, right) } else { (right, left) };
    first.run(env, &mut Each(|t| machine.build(t, env)))?;
    sink.begin(roster)?;
    second.run(env, &mut Each(|t| machine.probe(t, env, sink)))?;
    machine.finish(env, sink)
}

/// A sink that only looks at tiles.
pub struct Each<F>(pub F);

impl<F: FnMut(Tile) -> Result<(), QueryError>> TileSink for Each<F> {
    fn begin(&mut self, _roster: &Arc<Roster>) -> Result<(), QueryError> {
        Ok(())
    }

    fn push(&mut self, tile: Tile) -> Result<(), QueryError> {
        (self.0)(tile)
    }
}

/// Charges the samples of an operator's output against the limit; for grids and rosters known before any cell is made.
pub fn charge(env: &RunEnv, rows: usize, grid: StepGrid) -> Result<u64, QueryError> {
    let cells = (rows as u64).saturating_mul(grid.len as u64);
    env.ctx.hold(cells)?;
    Ok(cells)
}
