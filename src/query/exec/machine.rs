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
use crate::hints::Rule;

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

    /// The row of its own that each input row goes to, where labels alone decide.
    fn destinations(&self) -> Option<Destinations<'_>> {
        None
    }
}

/// See [`Machine::destinations`].
pub struct Destinations<'a> {
    /// By input row.
    pub rows: &'a [u32],
    /// Input rows of one destination are made one, whatever they are, and without a word where all are silent. Else that
    /// two of them have samples at one step is an error.
    pub merges: bool,
}

impl Destinations<'_> {
    /// Input rows of each destination.
    fn sources(&self, rows: usize) -> Vec<u32> {
        let mut n = vec![0; rows];
        for d in self.rows {
            if let Some(n) = n.get_mut(*d as usize) {
                *n += 1;
            }
        }
        n
    }

    /// Which destinations have silent sources only, by which sources are silent.
    fn silent(&self, rows: usize, inputs: &[bool]) -> Vec<bool> {
        let mut silent: Vec<bool> = self.sources(rows).into_iter().map(|n| n == 1 || self.merges).collect();
        for (d, is_silent) in self.rows.iter().zip(inputs) {
            if let Some(s) = silent.get_mut(*d as usize) {
                *s &= *is_silent;
            }
        }
        silent
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
    /// Each row comes of the row of that number, and of floats nothing is reported.
    row_by_row: bool,
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
        Ok(Self { what, make: Box::new(make), ready: Mutex::new(ready), roster, row_by_row: false })
    }

    /// An operator that leaves series as they are; `silent`: it has nothing to report of floats.
    pub fn same_series(
        what: String,
        silent: bool,
        inputs: &[Arc<PromExec>],
        make: impl Fn(&RunEnv, Vec<Vec<f64>>) -> Result<Box<dyn Machine>, QueryError> + Send + Sync + 'static,
    ) -> Self {
        let roster = inputs.first().and_then(|i| i.roster().cloned());
        let make =
            move |env: &RunEnv, r: &Arc<Roster>, args: Vec<Vec<f64>>| Ok((make(env, args)?, Some(Arc::clone(r))));
        Self { what, make: Box::new(make), ready: Mutex::new(None), roster, row_by_row: silent }
    }
}

impl TileOperator for MachineOp {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}", self.what)
    }

    fn roster(&self) -> Option<&Arc<Roster>> {
        self.roster.as_ref()
    }

    fn leave_out(&self, inputs: &[Arc<PromExec>], unused: &[bool]) -> usize {
        let Some(vector) = inputs.first() else { return 0 };
        if self.row_by_row {
            return vector.leave_out(unused);
        }
        let ready = self.ready.lock();
        let Some(d) = ready.as_ref().and_then(|m| m.destinations()) else { return 0 };
        let Some(silent) = vector.silent_rows() else { return 0 };
        // What stands together with something that has to be read is read.
        let silent = d.silent(unused.len(), &silent);
        let of = |d: &u32| unused.get(*d as usize) == Some(&true) && silent[*d as usize];
        vector.leave_out(&d.rows.iter().map(of).collect::<Vec<bool>>())
    }

    fn silent_rows(&self, inputs: &[Arc<PromExec>]) -> Option<Vec<bool>> {
        let rows = inputs.first()?.silent_rows()?;
        if self.row_by_row {
            return Some(rows);
        }
        let ready = self.ready.lock();
        let d = ready.as_ref()?.destinations()?;
        Some(d.silent(self.roster.as_ref()?.rows.len(), &rows))
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        let Some((vector, scalars)) = inputs.split_first() else {
            return Err(QueryError::Internal("an operator lacks its input".into()));
        };
        let mut args = Vec::with_capacity(scalars.len());
        for s in scalars {
            args.push(s.collect_scalar(env)?);
        }
        let memory = Held::new(&self.what, env);
        let mut run = Running { op: self, env, args: Some(args), machine: None, memory, sink };
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
    memory: Held<'a>,
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
        self.memory.grown(self.machine.as_ref().map_or(0, |m| m.bytes()))
    }
}

/// What an operator holds, charged to the query once it is worth counting.
struct Held<'a> {
    what: &'a str,
    env: &'a RunEnv,
    memory: Option<MemoryReservation>,
}

impl<'a> Held<'a> {
    fn new(what: &'a str, env: &'a RunEnv) -> Self {
        Self { what, env, memory: None }
    }

    fn grown(&mut self, bytes: usize) -> Result<(), QueryError> {
        if bytes < SMALL {
            return Ok(());
        }
        let memory = self.memory.get_or_insert_with(|| MemoryConsumer::new(self.what).register(&self.env.memory));
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

    /// Bytes it holds, about.
    fn bytes(&self) -> usize {
        0
    }

    /// Which rows of the left and the right side cannot change the answer, by their labels alone (`true`).
    fn unused(&self) -> [Vec<bool>; 2];

    /// The same, if of these of its own rows nobody makes use; of the left side only, in whose order they are.
    fn unused_left(&self, _unused: &[bool]) -> Option<Vec<bool>> {
        None
    }
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
        if let [l_in, r_in] = inputs
            && let (Some(l), Some(r)) = (l_in.roster(), r_in.roster())
        {
            let (machine, out) = make(env, l, r)?;
            // Who counts samples as Prometheus does wants those, too, that have no partner.
            if env.ctx.hints.allows(Rule::Narrow) && !env.stats.per_step() {
                let [unused_left, unused_right] = machine.unused();
                l_in.leave_out(&unused_left);
                r_in.leave_out(&unused_right);
            }
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

    fn leave_out(&self, inputs: &[Arc<PromExec>], unused: &[bool]) -> usize {
        let unused = self.ready.lock().as_ref().and_then(|m| m.unused_left(unused));
        match (inputs.first(), unused) {
            (Some(left), Some(u)) => left.leave_out(&u),
            _ => 0,
        }
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        let [left, right] = inputs else {
            return Err(QueryError::Internal("a join has two inputs".into()));
        };
        let ready = self.ready.lock().take();
        if let (Some(machine), Some(roster)) = (ready, &self.roster) {
            return drive(&self.what, machine, roster, left, right, env, sink);
        }
        if let (Some(l), Some(r)) = (left.roster(), right.roster()) {
            let (machine, roster) = (self.make)(env, l, r)?;
            return drive(&self.what, machine, &roster, left, right, env, sink);
        }
        // Labels depend on values: both sides are read before the machine can be made.
        let (l, lt) = left.collect(env)?;
        let (r, rt) = right.collect(env)?;
        let (mut machine, roster) = (self.make)(env, &l, &r)?;
        let (first, second) = if machine.left_first() { (lt, rt) } else { (rt, lt) };
        let mut held = Held::new(&self.what, env);
        for t in first {
            machine.build(t, env)?;
            held.grown(machine.bytes())?;
        }
        sink.begin(&roster)?;
        for t in second {
            machine.probe(t, env, sink)?;
            held.grown(machine.bytes())?;
        }
        machine.finish(env, sink)
    }
}

fn drive(
    what: &str,
    mut machine: Box<dyn JoinMachine>,
    roster: &Arc<Roster>,
    left: &PromExec,
    right: &PromExec,
    env: &RunEnv,
    sink: &mut dyn TileSink,
) -> Result<(), QueryError> {
    let (left_first, held) = (machine.left_first(), &mut Held::new(what, env));
    let (first, second) = if left_first { (left, right) } else { (right, left) };
    let build = |t| {
        machine.build(t, env)?;
        held.grown(machine.bytes())
    };
    // Of equal annotations that of the last place counts, and Prometheus comes to the right side last.
    let notes = if left_first {
        first.run(env, &mut Each(build))?;
        None
    } else {
        let (built, notes) = env.ctx.apart(|| first.run(env, &mut Each(build)));
        built?;
        Some(notes)
    };
    sink.begin(roster)?;
    let probe = |t| {
        machine.probe(t, env, sink)?;
        held.grown(machine.bytes())
    };
    second.run(env, &mut Each(probe))?;
    if let Some(notes) = notes {
        env.ctx.annotate(notes);
    }
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
