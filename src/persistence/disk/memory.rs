//! A disk in memory that can lose its power.
//!
//! ```text
//! write ─▶ pending ops of the file ──sync_data──▶ durable bytes
//! create, rename, remove ─▶ pending names ──sync_dir──▶ durable names
//!                   crash(seed): any subset of what is pending survives, writes torn at 512 bytes
//! ```
//!
//! Harsher than a journalling file system: pending operations survive in any combination, whatever their order, and a file's
//! length can be durable before its bytes (which then read as zeros). Folders themselves are durable at once.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    Disk, DiskError, DiskErrorKind, DiskFile, DiskLock, DiskOp, DiskRead, LOCK_FILE, Mapped, check_path, join, parent,
};

/// What a power loss cannot split.
const SECTOR_BYTES: usize = 512;

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    inode_next: u64,
    names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    names_pending: Vec<NameOp>,
    dirs: BTreeSet<String>,
    locks: BTreeSet<String>,
    ops: u64,
    ops_max: u64,
    capacity_bytes: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            inodes: BTreeMap::new(),
            inode_next: 1,
            names: BTreeMap::new(),
            names_durable: BTreeMap::new(),
            names_pending: Vec::new(),
            dirs: BTreeSet::new(),
            locks: BTreeSet::new(),
            ops: 0,
            ops_max: u64::MAX,
            capacity_bytes: u64::MAX,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Inode {
    data: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<DataOp>,
}

#[derive(Clone, Debug)]
enum DataOp {
    Write { offset: usize, bytes: Vec<u8> },
    Cut { len: usize },
}

#[derive(Clone, Debug)]
enum NameOp {
    Link { path: String, inode: u64 },
    Unlink { path: String },
    Move { from: String, to: String, inode: u64 },
}

impl NameOp {
    fn touches(&self, dir: &str) -> bool {
        match self {
            NameOp::Link { path, .. } | NameOp::Unlink { path } => parent(path) == dir,
            NameOp::Move { from, to, .. } => parent(from) == dir || parent(to) == dir,
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameOp::Link { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            NameOp::Unlink { path } => {
                names.remove(path);
            }
            NameOp::Move { from, to, inode } => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
        }
    }
}

/// A small generator (splitmix64) so that a seed replays.
#[derive(Clone, Debug)]
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next() % n }
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the disk holds after a power loss now: what is durable, and a part of the rest chosen by `seed`. Seed 0 keeps
    /// nothing that is pending, seed 1 everything. The disk at hand stays as it is; locks do not survive.
    pub fn crash(&self, seed: u64) -> MemoryDisk {
        let mut rng = Seeded(seed.wrapping_mul(0x2545_F491_4F6C_DD1D));
        self.crash_with(|pending| match (pending, seed) {
            (_, 0) => Fate::Gone,
            (_, 1) => Fate::Whole,
            (Pending::Write, _) => match rng.below(5) {
                0 => Fate::Gone,
                1 => Fate::Whole,
                2 => Fate::Prefix(rng.next()),
                3 => Fate::Length,
                _ => Fate::Sectors(rng.next()),
            },
            _ if rng.below(2) == 0 => Fate::Whole,
            _ => Fate::Gone,
        })
    }

    /// The same with a state that `choose` picks: it is asked for a number below the one given, once for each pending operation.
    /// Asked for everything it can answer it gives every state in which each operation is there or not and, with
    /// `with_torn_writes`, each write may also be there as its length only or in every second sector.
    pub fn crash_chosen(&self, with_torn_writes: bool, choose: &mut dyn FnMut(usize) -> usize) -> MemoryDisk {
        self.crash_with(|pending| {
            let is_write = matches!(pending, Pending::Write);
            match choose(if is_write && with_torn_writes { 4 } else { 2 }) {
                0 => Fate::Gone,
                1 => Fate::Whole,
                2 => Fate::Length,
                _ => Fate::Sectors(0x5555_5555_5555_5555),
            }
        })
    }

    /// How many operations a power loss now could take: of names, and of the bytes of files that a name could lead to.
    pub fn pending_ops(&self) -> usize {
        let state = self.state.lock();
        let linked = state.names_pending.iter().filter_map(|op| match op {
            NameOp::Link { inode, .. } | NameOp::Move { inode, .. } => Some(inode),
            NameOp::Unlink { .. } => None,
        });
        let reachable: BTreeSet<&u64> = state.names_durable.values().chain(linked).collect();
        let writes = reachable.iter().filter_map(|inode| state.inodes.get(inode)).map(|file| file.pending.len());
        state.names_pending.len() + writes.sum::<usize>()
    }

    /// A power loss that leaves of each pending operation what `fate` says.
    fn crash_with(&self, mut fate: impl FnMut(Pending) -> Fate) -> MemoryDisk {
        let state = self.state.lock();
        let mut names = state.names_durable.clone();
        for op in &state.names_pending {
            if fate(Pending::Name) != Fate::Gone {
                op.apply(&mut names);
            }
        }
        let mut after = State { dirs: state.dirs.clone(), capacity_bytes: state.capacity_bytes, ..State::default() };
        after.inode_next = state.inode_next;
        for (path, inode) in names {
            let Some(file) = state.inodes.get(&inode) else { continue };
            after.inodes.entry(inode).or_insert_with(|| {
                let data = survive(file, &mut fate);
                Inode { durable: data.clone(), data, pending: Vec::new() }
            });
            after.names.insert(path.clone(), inode);
            after.names_durable.insert(path, inode);
        }
        MemoryDisk { state: Arc::new(Mutex::new(after)) }
    }

    /// A number for what is durable, names and bytes: disks of one number would come back from a power loss alike. For tests
    /// that need not look at one state twice.
    pub fn fingerprint(&self) -> u64 {
        let state = self.state.lock();
        let mut hasher = DefaultHasher::new();
        for (path, inode) in &state.names_durable {
            (path, state.inodes.get(inode).map(|file| &file.durable)).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// From the `n`-th changing operation from now on, all fail: the moment at which the power goes.
    pub fn halt_after(&self, n: u64) {
        let mut state = self.state.lock();
        state.ops_max = state.ops.saturating_add(n);
    }

    /// Changing operations done (or refused by [`MemoryDisk::halt_after`]) so far.
    pub fn ops(&self) -> u64 {
        self.state.lock().ops
    }

    /// Limits the bytes of all files together; beyond it writes are [`DiskErrorKind::Full`].
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// Puts a file there, durably, without counting as an operation: for tests that damage files.
    pub fn put(&self, path: &str, data: Vec<u8>) {
        let mut state = self.state.lock();
        let inode = state.inode_next;
        state.inode_next += 1;
        state.inodes.insert(inode, Inode { durable: data.clone(), data, pending: Vec::new() });
        state.names.insert(path.to_owned(), inode);
        state.names_durable.insert(path.to_owned(), inode);
        let mut dir = parent(path);
        while !dir.is_empty() {
            state.dirs.insert(dir.to_owned());
            dir = parent(dir);
        }
    }

    /// Bytes of all files together.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }
}

/// What a power loss may take.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Name,
    Cut,
    Write,
}

/// What it leaves of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Gone,
    Whole,
    /// Of a write: a prefix, cut anywhere (this number modulo what is possible).
    Prefix(u64),
    /// Of a write: the length came through, the bytes did not.
    Length,
    /// Of a write: the sectors whose bits are set, again and again.
    Sectors(u64),
}

/// A state of a file after a power loss.
fn survive(file: &Inode, fate: &mut impl FnMut(Pending) -> Fate) -> Vec<u8> {
    let mut data = file.durable.clone();
    for op in &file.pending {
        match op {
            DataOp::Cut { len } => {
                if fate(Pending::Cut) != Fate::Gone {
                    data.resize(*len, 0);
                }
            }
            DataOp::Write { offset, bytes } => match fate(Pending::Write) {
                Fate::Gone => {}
                Fate::Whole => put_bytes(&mut data, *offset, bytes),
                Fate::Prefix(n) => {
                    let keep = usize::try_from(n % (bytes.len() as u64 + 1)).unwrap_or(0);
                    put_bytes(&mut data, *offset, bytes.get(..keep).unwrap_or(bytes));
                }
                Fate::Length => {
                    let end = offset + bytes.len();
                    if data.len() < end {
                        data.resize(end, 0);
                    }
                }
                Fate::Sectors(mut bits) => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let end = (at + SECTOR_BYTES - (offset + at) % SECTOR_BYTES).min(bytes.len());
                        if bits & 1 == 1
                            && let Some(part) = bytes.get(at..end)
                        {
                            put_bytes(&mut data, offset + at, part);
                        }
                        bits = bits.rotate_right(1);
                        at = end;
                    }
                }
            },
        }
    }
    data
}

fn put_bytes(data: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if data.len() < end {
        data.resize(end, 0);
    }
    if let Some(target) = data.get_mut(offset..end) {
        target.copy_from_slice(bytes);
    }
}

impl State {
    /// Counts a changing operation; an error once the power is gone.
    fn change(&mut self, op: DiskOp, path: &str) -> Result<(), DiskError> {
        self.ops += 1;
        if self.ops > self.ops_max {
            return Err(DiskError::new(op, path, DiskErrorKind::Io, "the power is gone"));
        }
        Ok(())
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().filter_map(|i| self.inodes.get(i)).map(|f| f.data.len() as u64).sum()
    }

    fn inode(&self, op: DiskOp, path: &str) -> Result<u64, DiskError> {
        self.names.get(path).copied().ok_or_else(|| not_found(op, path))
    }

    fn need_dir(&self, op: DiskOp, dir: &str) -> Result<(), DiskError> {
        if dir.is_empty() || self.dirs.contains(dir) { Ok(()) } else { Err(not_found(op, dir)) }
    }
}

fn not_found(op: DiskOp, path: &str) -> DiskError {
    DiskError::new(op, path, DiskErrorKind::NotFound, "no such file or folder")
}

impl Disk for MemoryDisk {
    fn create(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
        check_path(DiskOp::Create, path, false)?;
        let mut state = self.state.lock();
        state.need_dir(DiskOp::Create, parent(path))?;
        state.change(DiskOp::Create, path)?;
        let inode = match state.names.get(path) {
            Some(&inode) => {
                if let Some(file) = state.inodes.get_mut(&inode) {
                    file.data.clear();
                    file.pending.push(DataOp::Cut { len: 0 });
                }
                inode
            }
            None => {
                let inode = state.inode_next;
                state.inode_next += 1;
                state.inodes.insert(inode, Inode::default());
                state.names.insert(path.to_owned(), inode);
                state.names_pending.push(NameOp::Link { path: path.to_owned(), inode });
                inode
            }
        };
        Ok(Box::new(MemoryFile { disk: self.clone(), inode, path: path.to_owned() }))
    }

    fn open_append(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
        check_path(DiskOp::Open, path, false)?;
        let inode = self.state.lock().inode(DiskOp::Open, path)?;
        Ok(Box::new(MemoryFile { disk: self.clone(), inode, path: path.to_owned() }))
    }

    fn open_read(&self, path: &str) -> Result<Arc<dyn DiskRead>, DiskError> {
        check_path(DiskOp::Open, path, false)?;
        let inode = self.state.lock().inode(DiskOp::Open, path)?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), inode, path: path.to_owned() }))
    }

    fn map_pages(&self, path: &str) -> Result<Option<Mapped>, DiskError> {
        self.read(path).map(|bytes| Some(Mapped::from_bytes(bytes)))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        check_path(DiskOp::Rename, from, false)?;
        check_path(DiskOp::Rename, to, false)?;
        let mut state = self.state.lock();
        let inode = state.inode(DiskOp::Rename, from)?;
        state.need_dir(DiskOp::Rename, parent(to))?;
        state.change(DiskOp::Rename, from)?;
        let op = NameOp::Move { from: from.to_owned(), to: to.to_owned(), inode };
        op.apply(&mut state.names);
        state.names_pending.push(op);
        Ok(())
    }

    fn link(&self, from: &str, to: &str) -> Result<(), DiskError> {
        check_path(DiskOp::Link, from, false)?;
        check_path(DiskOp::Link, to, false)?;
        let mut state = self.state.lock();
        let inode = state.inode(DiskOp::Link, from)?;
        state.need_dir(DiskOp::Link, parent(to))?;
        if state.names.contains_key(to) {
            return Err(DiskError::new(DiskOp::Link, to, DiskErrorKind::Io, "there is a file of that name"));
        }
        state.change(DiskOp::Link, from)?;
        state.names.insert(to.to_owned(), inode);
        state.names_pending.push(NameOp::Link { path: to.to_owned(), inode });
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        check_path(DiskOp::SyncDir, dir, true)?;
        let mut state = self.state.lock();
        state.need_dir(DiskOp::SyncDir, dir)?;
        state.change(DiskOp::SyncDir, dir)?;
        let state = &mut *state;
        state.names_pending.retain(|op| {
            let is_done = op.touches(dir);
            if is_done {
                op.apply(&mut state.names_durable);
            }
            !is_done
        });
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        check_path(DiskOp::Remove, path, false)?;
        let mut state = self.state.lock();
        state.inode(DiskOp::Remove, path)?;
        state.change(DiskOp::Remove, path)?;
        state.names.remove(path);
        state.names_pending.push(NameOp::Unlink { path: path.to_owned() });
        Ok(())
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        check_path(DiskOp::List, dir, true)?;
        let state = self.state.lock();
        state.need_dir(DiskOp::List, dir)?;
        let of_dir = state.names.keys().filter(|path| parent(path) == dir);
        Ok(of_dir.filter_map(|path| path.rsplit('/').next()).map(str::to_owned).collect())
    }

    fn list_dirs(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        check_path(DiskOp::List, dir, true)?;
        let state = self.state.lock();
        state.need_dir(DiskOp::List, dir)?;
        let of_dir = state.dirs.iter().filter(|path| parent(path) == dir);
        Ok(of_dir.filter_map(|path| path.rsplit('/').next()).map(str::to_owned).collect())
    }

    fn len(&self, path: &str) -> Result<u64, DiskError> {
        self.open_read(path)?.len()
    }

    fn exists(&self, path: &str) -> Result<bool, DiskError> {
        check_path(DiskOp::Stat, path, true)?;
        let state = self.state.lock();
        Ok(path.is_empty() || state.names.contains_key(path) || state.dirs.contains(path))
    }

    fn create_dir(&self, dir: &str) -> Result<(), DiskError> {
        check_path(DiskOp::CreateDir, dir, true)?;
        let mut state = self.state.lock();
        if dir.is_empty() || state.dirs.contains(dir) {
            return Ok(());
        }
        state.change(DiskOp::CreateDir, dir)?;
        let mut made = String::new();
        for part in dir.split('/') {
            made = join(&made, part);
            state.dirs.insert(made.clone());
        }
        Ok(())
    }

    fn remove_dir(&self, dir: &str) -> Result<(), DiskError> {
        check_path(DiskOp::Remove, dir, false)?;
        let mut state = self.state.lock();
        state.need_dir(DiskOp::Remove, dir)?;
        let is_used = state.names.keys().chain(&state.dirs).any(|path| parent(path) == dir);
        if is_used {
            return Err(DiskError::new(DiskOp::Remove, dir, DiskErrorKind::Io, "the folder is not empty"));
        }
        state.change(DiskOp::Remove, dir)?;
        state.dirs.remove(dir);
        Ok(())
    }

    fn truncate(&self, path: &str, len: u64) -> Result<(), DiskError> {
        self.open_append(path)?.truncate(len)
    }

    fn lock(&self, dir: &str) -> Result<DiskLock, DiskError> {
        check_path(DiskOp::Lock, dir, true)?;
        let mut state = self.state.lock();
        state.need_dir(DiskOp::Lock, dir)?;
        if !state.locks.insert(dir.to_owned()) {
            let text = format!("the data folder {dir:?} is in use by another holder");
            return Err(DiskError::new(DiskOp::Lock, &join(dir, LOCK_FILE), DiskErrorKind::Locked(None), text));
        }
        Ok(DiskLock::new(MemoryLock { disk: self.clone(), dir: dir.to_owned() }))
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let state = self.state.lock();
        Ok(state.capacity_bytes.saturating_sub(state.used_bytes()))
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }
}

struct MemoryLock {
    disk: MemoryDisk,
    dir: String,
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.state.lock().locks.remove(&self.dir);
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    inode: u64,
    path: String,
}

impl MemoryFile {
    fn changed<T>(&self, op: DiskOp, change: impl FnOnce(&mut Inode) -> T) -> Result<T, DiskError> {
        let mut state = self.disk.state.lock();
        state.change(op, &self.path)?;
        match state.inodes.get_mut(&self.inode) {
            Some(file) => Ok(change(file)),
            None => Err(not_found(op, &self.path)),
        }
    }

    fn size(&self) -> Result<u64, DiskError> {
        let state = self.disk.state.lock();
        let file = state.inodes.get(&self.inode).ok_or_else(|| not_found(DiskOp::Stat, &self.path))?;
        Ok(file.data.len() as u64)
    }
}

impl DiskFile for MemoryFile {
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        let free = self.disk.free_bytes()?;
        let fits = usize::try_from(free).unwrap_or(usize::MAX).min(bytes.len());
        let part = bytes.get(..fits).unwrap_or(bytes);
        self.changed(DiskOp::Write, |file| {
            let offset = file.data.len();
            file.data.extend_from_slice(part);
            file.pending.push(DataOp::Write { offset, bytes: part.to_vec() });
        })?;
        if fits < bytes.len() {
            return Err(DiskError::new(DiskOp::Write, &self.path, DiskErrorKind::Full, "no space left on device"));
        }
        Ok(())
    }

    fn sync_data(&mut self) -> Result<(), DiskError> {
        self.changed(DiskOp::Sync, |file| {
            for op in std::mem::take(&mut file.pending) {
                match op {
                    DataOp::Write { offset, bytes } => put_bytes(&mut file.durable, offset, &bytes),
                    DataOp::Cut { len } => file.durable.resize(len, 0),
                }
            }
        })
    }

    fn truncate(&mut self, len: u64) -> Result<(), DiskError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.changed(DiskOp::Truncate, |file| {
            if len < file.data.len() {
                file.data.truncate(len);
                file.pending.push(DataOp::Cut { len });
            }
        })
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.size()
    }

    fn lose_unsynced(&mut self) {
        if let Some(file) = self.disk.state.lock().inodes.get_mut(&self.inode) {
            file.pending.clear();
        }
    }
}

impl DiskRead for MemoryFile {
    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        let state = self.disk.state.lock();
        let file = state.inodes.get(&self.inode).ok_or_else(|| not_found(DiskOp::Read, &self.path))?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.data.len());
        let end = start.saturating_add(len).min(file.data.len());
        Ok(file.data.get(start..end).unwrap_or_default().to_vec())
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.size()
    }
}
