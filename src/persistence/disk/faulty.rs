//! A disk that fails where it is told to.
//!
//! Rules are scripted (this operation, on paths that contain this, from the n-th on, so many times) or drawn from a seed.
//! A failed sync does what a kernel does: the bytes count as written and never reach the medium. A rule may also end the
//! process on the spot, as `kill -9` does; [`injected`](super::injected) reads rules from a text.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::injected::Control;
use super::memory::Seeded;
use super::{Disk, DiskError, DiskErrorKind, DiskFile, DiskLock, DiskOp, DiskRead, Mapped};

/// What happens to an operation that a rule picks.
#[derive(Clone, Debug)]
pub enum FaultAction {
    /// It fails and does nothing.
    Fail(DiskErrorKind),
    /// A write does half of its bytes, then fails.
    Half(DiskErrorKind),
    /// It waits, then goes on.
    Slow(Duration),
    /// It waits until the gate is open, then goes on.
    Wait(Gate),
    /// It waits until the stage lets it go on, or fail.
    Step(Stage),
    /// The process ends on the spot, before the operation.
    Kill,
    /// A write does half of its bytes, another operation all of it; then the process ends on the spot.
    KillAfter,
}

/// When what happens.
#[derive(Clone, Debug)]
pub struct FaultRule {
    /// Which operation; `None`: any that changes something.
    pub op: Option<DiskOp>,
    /// Only on paths that contain this.
    pub path_part: String,
    /// How many matching operations pass first.
    pub skip: u64,
    /// To how many it happens then.
    pub count: u64,
    /// What happens.
    pub action: FaultAction,
}

impl FaultRule {
    /// Always, on every path.
    pub fn new(op: DiskOp, action: FaultAction) -> Self {
        Self { op: Some(op), path_part: String::new(), skip: 0, count: u64::MAX, action }
    }

    /// At every operation that changes something, on every path.
    pub fn changing(action: FaultAction) -> Self {
        Self { op: None, path_part: String::new(), skip: 0, count: u64::MAX, action }
    }

    fn matches(&self, op: DiskOp, path: &str) -> bool {
        self.op.map_or_else(|| op.changes(), |own| own == op) && path.contains(&self.path_part)
    }

    /// Only on paths that contain `part`.
    pub fn on(mut self, part: &str) -> Self {
        self.path_part = part.to_owned();
        self
    }

    /// Lets `n` matching operations pass first.
    pub fn after(mut self, n: u64) -> Self {
        self.skip = n;
        self
    }

    /// At most `n` times.
    pub fn times(mut self, n: u64) -> Self {
        self.count = n;
        self
    }
}

/// Holds operations until it is opened. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Debug, Default)]
struct GateState {
    is_open: bool,
    waiting: usize,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everything through, now and later.
    pub fn open(&self) {
        self.0.0.lock().is_open = true;
        self.0.1.notify_all();
    }

    /// Closes it again.
    pub fn close(&self) {
        self.0.0.lock().is_open = false;
    }

    /// Blocks until an operation stands at the gate.
    pub fn wait_for_arrival(&self) {
        let mut state = self.0.0.lock();
        while state.waiting == 0 {
            self.0.1.wait(&mut state);
        }
    }

    /// Stands at the gate until it is open.
    pub fn stand(&self) {
        let mut state = self.0.0.lock();
        state.waiting += 1;
        self.0.1.notify_all();
        while !state.is_open {
            self.0.1.wait(&mut state);
        }
        state.waiting -= 1;
    }
}

/// Lets operations go on one by one, so that a test can play all orders of them and of what else happens. Clones are the same
/// stage; one operation stands on it at a time.
#[derive(Clone, Debug, Default)]
pub struct Stage(Arc<(Mutex<StageState>, Condvar)>);

#[derive(Debug, Default)]
struct StageState {
    standing: Option<DiskOp>,
    /// What becomes of the standing operation, once that is said.
    go: Option<Option<DiskErrorKind>>,
    is_free: bool,
}

impl Stage {
    /// Waits until an operation stands there, or until nothing is to be expected any more.
    pub fn wait(&self, is_quiet: impl Fn() -> bool) -> Option<DiskOp> {
        let mut state = self.0.0.lock();
        loop {
            if state.go.is_none() && state.standing.is_some() {
                return state.standing;
            }
            if state.go.is_none() && is_quiet() {
                return None;
            }
            // What is quiet is not always told.
            self.0.1.wait_for(&mut state, Duration::from_micros(200));
        }
    }

    /// Lets the standing operation go on, or fail.
    pub fn step(&self, failure: Option<DiskErrorKind>) {
        let mut state = self.0.0.lock();
        state.go = Some(failure);
        self.0.1.notify_all();
        while state.go.is_some() {
            self.0.1.wait(&mut state);
        }
    }

    /// Something happened that may make it quiet.
    pub fn notify(&self) {
        self.0.1.notify_all();
    }

    /// From now on nothing waits.
    pub fn free(&self) {
        let mut state = self.0.0.lock();
        state.is_free = true;
        self.0.1.notify_all();
    }

    fn pass(&self, op: DiskOp) -> Option<DiskErrorKind> {
        let mut state = self.0.0.lock();
        while state.standing.is_some() && !state.is_free {
            self.0.1.wait(&mut state);
        }
        if state.is_free {
            return None;
        }
        state.standing = Some(op);
        self.0.1.notify_all();
        while state.go.is_none() && !state.is_free {
            self.0.1.wait(&mut state);
        }
        state.standing = None;
        let failure = state.go.take().flatten();
        self.0.1.notify_all();
        failure
    }
}

#[derive(Debug, Default)]
struct Script {
    rules: Vec<FaultRule>,
    /// Where the rules come from, if from outside.
    control: Option<Control>,
    seeded: Option<(Seeded, u64)>,
    hits: u64,
}

/// A disk over another one, with faults.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    inner: Arc<dyn Disk>,
    script: Arc<Mutex<Script>>,
}

impl FaultyDisk {
    /// Without faults so far.
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        Self { inner, script: Arc::default() }
    }

    /// With the rules of a file, which is looked at before every operation.
    pub(super) fn controlled(inner: Arc<dyn Disk>, control: Control) -> Self {
        let disk = Self::new(inner);
        disk.script.lock().control = Some(control);
        disk
    }

    /// Adds a rule. The first one that matches decides.
    pub fn push(&self, rule: FaultRule) {
        self.script.lock().rules.push(rule);
    }

    /// Fails one in `one_in` changing operations, drawn from `seed`: writes with a full disk, the rest with `EIO`.
    pub fn seed(&self, seed: u64, one_in: u64) {
        self.script.lock().seeded = Some((Seeded(seed), one_in.max(1)));
    }

    /// Drops all rules: the disk is well again.
    pub fn clear(&self) {
        let mut script = self.script.lock();
        script.rules.clear();
        script.seeded = None;
    }

    /// How often a fault struck.
    pub fn hits(&self) -> u64 {
        self.script.lock().hits
    }

    /// Replaces all rules.
    pub fn set(&self, rules: Vec<FaultRule>) {
        self.script.lock().rules = rules;
    }

    fn decide(&self, op: DiskOp, path: &str) -> Option<FaultAction> {
        let mut script = self.script.lock();
        if let Some(control) = &mut script.control
            && let Some(rules) = control.changed()
        {
            script.rules = rules;
        }
        let script = &mut *script;
        for rule in &mut script.rules {
            if !rule.matches(op, path) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if rule.count == 0 {
                continue;
            }
            rule.count = rule.count.saturating_sub(1);
            script.hits += 1;
            return Some(rule.action.clone());
        }
        if op.changes()
            && let Some((rng, one_in)) = &mut script.seeded
            && rng.below(*one_in) == 0
        {
            script.hits += 1;
            return Some(match op {
                DiskOp::Write => FaultAction::Half(DiskErrorKind::Full),
                DiskOp::Create | DiskOp::CreateDir => FaultAction::Fail(DiskErrorKind::Full),
                _ => FaultAction::Fail(DiskErrorKind::Media),
            });
        }
        None
    }

    /// Applies waits and ends; what else is to happen.
    fn strike(&self, op: DiskOp, path: &str) -> Option<Strike> {
        let error = |kind: DiskErrorKind| {
            let text = match kind {
                DiskErrorKind::Full => "no space left on device (injected)",
                DiskErrorKind::Media => "input/output error (injected)",
                _ => "failed (injected)",
            };
            DiskError::new(op, path, kind, text)
        };
        match self.decide(op, path)? {
            FaultAction::Fail(kind) => Some(Strike::Fail(error(kind))),
            FaultAction::Half(kind) => Some(Strike::Half(error(kind))),
            FaultAction::Slow(time) => {
                std::thread::sleep(time);
                None
            }
            FaultAction::Wait(gate) => {
                gate.stand();
                None
            }
            FaultAction::Step(stage) => stage.pass(op).map(|kind| Strike::Fail(error(kind))),
            FaultAction::Kill => kill(),
            FaultAction::KillAfter => Some(Strike::KillAfter),
        }
    }

    /// An operation with its fault.
    fn pass<T>(&self, op: DiskOp, path: &str, go: impl FnOnce() -> Result<T, DiskError>) -> Result<T, DiskError> {
        match self.strike(op, path) {
            None => go(),
            Some(Strike::Fail(e) | Strike::Half(e)) => Err(e),
            Some(Strike::KillAfter) => {
                let _ = go();
                kill()
            }
        }
    }

    fn wrap(&self, path: &str, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FaultyFile { disk: self.clone(), inner, path: path.to_owned() })
    }
}

/// What is to happen to an operation.
enum Strike {
    Fail(DiskError),
    Half(DiskError),
    KillAfter,
}

/// Ends the process as `kill -9` does: no destructor, no flush, no exit handler.
fn kill() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    loop {
        std::thread::park();
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
        self.pass(DiskOp::Create, path, || Ok(self.wrap(path, self.inner.create(path)?)))
    }

    fn open_append(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
        self.pass(DiskOp::Open, path, || Ok(self.wrap(path, self.inner.open_append(path)?)))
    }

    fn open_read(&self, path: &str) -> Result<Arc<dyn DiskRead>, DiskError> {
        let inner = self.pass(DiskOp::Open, path, || self.inner.open_read(path))?;
        Ok(Arc::new(FaultyRead { disk: self.clone(), inner, path: path.to_owned() }))
    }

    fn map_pages(&self, path: &str) -> Result<Option<Mapped>, DiskError> {
        self.pass(DiskOp::Map, path, || self.inner.map_pages(path))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.pass(DiskOp::Rename, from, || self.inner.rename(from, to))
    }

    fn link(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.pass(DiskOp::Link, from, || self.inner.link(from, to))
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        // The folder is opened to be synced, which may fail without a sync having failed.
        self.pass(DiskOp::Open, dir, || Ok(()))?;
        self.pass(DiskOp::SyncDir, dir, || self.inner.sync_dir(dir))
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.pass(DiskOp::Remove, path, || self.inner.remove(path))
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.pass(DiskOp::List, dir, || self.inner.list(dir))
    }

    fn list_dirs(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.pass(DiskOp::List, dir, || self.inner.list_dirs(dir))
    }

    fn len(&self, path: &str) -> Result<u64, DiskError> {
        self.pass(DiskOp::Stat, path, || self.inner.len(path))
    }

    fn exists(&self, path: &str) -> Result<bool, DiskError> {
        self.pass(DiskOp::Stat, path, || self.inner.exists(path))
    }

    fn create_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.pass(DiskOp::CreateDir, dir, || self.inner.create_dir(dir))
    }

    fn remove_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.pass(DiskOp::Remove, dir, || self.inner.remove_dir(dir))
    }

    fn truncate(&self, path: &str, len: u64) -> Result<(), DiskError> {
        self.pass(DiskOp::Truncate, path, || self.inner.truncate(path, len))
    }

    fn lock(&self, dir: &str) -> Result<DiskLock, DiskError> {
        self.pass(DiskOp::Lock, dir, || self.inner.lock(dir))
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        self.inner.free_bytes()
    }

    fn name(&self) -> String {
        self.inner.name()
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    inner: Box<dyn DiskFile>,
    path: String,
}

impl DiskFile for FaultyFile {
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
        match self.disk.strike(DiskOp::Write, &self.path) {
            None => self.inner.write_all(bytes),
            Some(Strike::Fail(e)) => Err(e),
            Some(Strike::Half(e)) => {
                self.inner.write_all(half)?;
                Err(e)
            }
            Some(Strike::KillAfter) => {
                let _ = self.inner.write_all(half);
                kill()
            }
        }
    }

    fn sync_data(&mut self) -> Result<(), DiskError> {
        match self.disk.strike(DiskOp::Sync, &self.path) {
            None => self.inner.sync_data(),
            Some(Strike::Fail(e) | Strike::Half(e)) => {
                self.inner.lose_unsynced();
                Err(e)
            }
            Some(Strike::KillAfter) => {
                let _ = self.inner.sync_data();
                kill()
            }
        }
    }

    fn truncate(&mut self, len: u64) -> Result<(), DiskError> {
        self.disk.pass(DiskOp::Truncate, &self.path, || self.inner.truncate(len))
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.inner.len()
    }

    fn lose_unsynced(&mut self) {
        self.inner.lose_unsynced();
    }
}

#[derive(Debug)]
struct FaultyRead {
    disk: FaultyDisk,
    inner: Arc<dyn DiskRead>,
    path: String,
}

impl DiskRead for FaultyRead {
    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        self.disk.pass(DiskOp::Read, &self.path, || self.inner.read_at(offset, len))
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.inner.len()
    }
}
