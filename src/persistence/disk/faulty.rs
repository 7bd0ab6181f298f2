//! A disk that fails where it is told to.
//!
//! Rules are scripted (this operation, on paths that contain this, from the n-th on, so many times) or drawn from a seed.
//! A failed sync does what a kernel does: the bytes count as written and never reach the medium.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

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
}

/// When what happens.
#[derive(Clone, Debug)]
pub struct FaultRule {
    /// Which operation.
    pub op: DiskOp,
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
        Self { op, path_part: String::new(), skip: 0, count: u64::MAX, action }
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

    fn pass(&self) {
        let mut state = self.0.0.lock();
        state.waiting += 1;
        self.0.1.notify_all();
        while !state.is_open {
            self.0.1.wait(&mut state);
        }
        state.waiting -= 1;
    }
}

#[derive(Debug, Default)]
struct Script {
    rules: Vec<FaultRule>,
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

    fn decide(&self, op: DiskOp, path: &str) -> Option<FaultAction> {
        let mut script = self.script.lock();
        let script = &mut *script;
        for rule in &mut script.rules {
            if rule.op != op || !path.contains(&rule.path_part) {
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
        let changes = matches!(
            op,
            DiskOp::Create
                | DiskOp::Write
                | DiskOp::Sync
                | DiskOp::SyncDir
                | DiskOp::Rename
                | DiskOp::Link
                | DiskOp::Remove
                | DiskOp::Truncate
                | DiskOp::CreateDir
        );
        if changes
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

    /// Applies waits; returns the error to give, and whether half of a write comes first.
    fn strike(&self, op: DiskOp, path: &str) -> Option<(DiskError, bool)> {
        let (kind, is_half) = match self.decide(op, path)? {
            FaultAction::Fail(kind) => (kind, false),
            FaultAction::Half(kind) => (kind, true),
            FaultAction::Slow(time) => {
                std::thread::sleep(time);
                return None;
            }
            FaultAction::Wait(gate) => {
                gate.pass();
                return None;
            }
        };
        let text = match kind {
            DiskErrorKind::Full => "no space left on device (injected)",
            DiskErrorKind::Media => "input/output error (injected)",
            _ => "failed (injected)",
        };
        Some((DiskError::new(op, path, kind, text), is_half))
    }

    fn pass(&self, op: DiskOp, path: &str) -> Result<(), DiskError> {
        self.strike(op, path).map_or(Ok(()), |(e, _)| Err(e))
    }

    fn wrap(&self, path: &str, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FaultyFile { disk: self.clone(), inner, path: path.to_owned() })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
        self.pass(DiskOp::Create, path)?;
        Ok(self.wrap(path, self.inner.create(path)?))
    }

    fn open_append(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
        self.pass(DiskOp::Open, path)?;
        Ok(self.wrap(path, self.inner.open_append(path)?))
    }

    fn open_read(&self, path: &str) -> Result<Arc<dyn DiskRead>, DiskError> {
        self.pass(DiskOp::Open, path)?;
        let inner = self.inner.open_read(path)?;
        Ok(Arc::new(FaultyRead { disk: self.clone(), inner, path: path.to_owned() }))
    }

    fn map(&self, path: &str) -> Result<Mapped, DiskError> {
        self.pass(DiskOp::Map, path)?;
        self.inner.map(path)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.pass(DiskOp::Rename, from)?;
        self.inner.rename(from, to)
    }

    fn link(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.pass(DiskOp::Link, from)?;
        self.inner.link(from, to)
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.pass(DiskOp::SyncDir, dir)?;
        self.inner.sync_dir(dir)
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.pass(DiskOp::Remove, path)?;
        self.inner.remove(path)
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.pass(DiskOp::List, dir)?;
        self.inner.list(dir)
    }

    fn list_dirs(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.pass(DiskOp::List, dir)?;
        self.inner.list_dirs(dir)
    }

    fn len(&self, path: &str) -> Result<u64, DiskError> {
        self.pass(DiskOp::Stat, path)?;
        self.inner.len(path)
    }

    fn exists(&self, path: &str) -> Result<bool, DiskError> {
        self.pass(DiskOp::Stat, path)?;
        self.inner.exists(path)
    }

    fn create_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.pass(DiskOp::CreateDir, dir)?;
        self.inner.create_dir(dir)
    }

    fn remove_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.pass(DiskOp::Remove, dir)?;
        self.inner.remove_dir(dir)
    }

    fn truncate(&self, path: &str, len: u64) -> Result<(), DiskError> {
        self.pass(DiskOp::Truncate, path)?;
        self.inner.truncate(path, len)
    }

    fn lock(&self, dir: &str) -> Result<DiskLock, DiskError> {
        self.pass(DiskOp::Lock, dir)?;
        self.inner.lock(dir)
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
        match self.disk.strike(DiskOp::Write, &self.path) {
            None => self.inner.write_all(bytes),
            Some((e, is_half)) => {
                if is_half {
                    self.inner.write_all(bytes.get(..bytes.len() / 2).unwrap_or_default())?;
                }
                Err(e)
            }
        }
    }

    fn sync_data(&mut self) -> Result<(), DiskError> {
        match self.disk.strike(DiskOp::Sync, &self.path) {
            None => self.inner.sync_data(),
            Some((e, _)) => {
                self.inner.lose_unsynced();
                Err(e)
            }
        }
    }

    fn truncate(&mut self, len: u64) -> Result<(), DiskError> {
        self.disk.pass(DiskOp::Truncate, &self.path)?;
        self.inner.truncate(len)
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
        self.disk.pass(DiskOp::Read, &self.path)?;
        self.inner.read_at(offset, len)
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.inner.len()
    }
}
