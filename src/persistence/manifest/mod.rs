//! The manifest: which files are data, and from where the log still counts. Replaced as one.
//!
//! ```text
//! edit ─▶ MANIFEST.tmp, synced ─▶ renamed to MANIFEST ─▶ folder synced ═ published ─▶ the same again as MANIFEST.copy
//! ```
//!
//! Invariants
//! 1. A file that the manifest does not name is not data.
//! 2. After a crash at any moment the manifest is the one before or the one after an edit, never a mixture, and an edit that
//!    returned `Ok` is there.
//! 3. `MANIFEST` and `MANIFEST.copy` hold the same generation whenever no edit is running, so that rot in one costs nothing.
//!    Where a generation may have been lost all the same, [`ManifestStore::is_certain`] is false and nothing may be deleted.
//! 4. A manifest of a newer version is refused and left alone.

mod arrival;
mod clock;
mod file;
mod place;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, DiskError, join};
use crate::log::LogFloor;
use file::FileState;

pub use clock::{ClockDoubt, ClockMark};
pub use place::{Place, Superseded, TierMark};

pub use serde_json::Value as Json;

/// Version of the manifest format.
pub const MANIFEST_VERSION: u32 = 1;

/// Name of the manifest's file.
pub const MANIFEST_FILE: &str = "MANIFEST";

/// Name of its second copy.
pub const MANIFEST_COPY_FILE: &str = "MANIFEST.copy";

/// Name of a manifest being written.
pub const MANIFEST_TEMP_FILE: &str = "MANIFEST.tmp";

/// The mark, in [`Manifest::extra`], of a state that was read from the copy alone.
const UNCERTAIN: &str = "read_from_copy";

/// What a block holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// Samples of metrics.
    #[default]
    Metrics,
    /// Log records.
    Logs,
    /// Spans of traces.
    Spans,
}

/// A published file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// What it holds.
    pub kind: EntryKind,
    /// Its number; never used again. See [`Manifest::take_id`].
    pub id: u64,
    /// Rung of the compaction ladder, 0 for what a flush wrote.
    pub level: u32,
    /// Time of the earliest sample, ms.
    pub min_ts: i64,
    /// Time of the latest sample, ms.
    pub max_ts: i64,
    /// Number of series.
    pub series: u64,
    /// Number of samples.
    pub samples: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Path of the file, relative to the disk's root.
    pub file: String,
    /// When it was published, ms.
    pub created_ms: i64,
    /// Numbers of the entries it was made from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<u64>,
    /// Whatever else is to be known of it; what this program does not know is kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// A deletion that is not yet carried out: samples of some series in some files do not count any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Its number; never used again.
    pub id: u64,
    /// Which series, as `[operator, label, value]`; all of them must hold.
    pub matchers: Vec<(String, String, String)>,
    /// The first time deleted, ms.
    pub min_ts: i64,
    /// The last one.
    pub max_ts: i64,
    /// Numbers of the entries in which it counts. What was written after the deletion is in others.
    pub blocks: Vec<u64>,
    /// When it was asked for, ms.
    pub created_ms: i64,
}

/// What is data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Number of this state; one more with every edit.
    pub generation: u64,
    /// The next number [`Manifest::take_id`] gives.
    pub id_next: u64,
    /// The published files.
    pub entries: Vec<ManifestEntry>,
    /// From where the log still counts: what is below is in published files.
    pub log_floor: LogFloor,
    /// Deletions not yet carried out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tombstones: Vec<Tombstone>,
    /// The number of the next tombstone.
    #[serde(default)]
    pub tombstone_next: u64,
    /// Whatever else has to change together with the above (tiers, marks); what this program does not know is kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, serde_json::Value>,
}

impl Manifest {
    /// A number for a new file. Take it in the edit that publishes, or burn one by an edit of its own.
    pub fn take_id(&mut self) -> u64 {
        let id = self.id_next.max(1);
        self.id_next = id + 1;
        id
    }

    /// The entry of a number.
    pub fn entry(&self, id: u64) -> Option<&ManifestEntry> {
        self.entries.iter().find(|e| e.id == id)
    }

    /// Adds entries and takes away those they replace, and the tombstones that counted in them only.
    pub fn replace(&mut self, removed: &[u64], added: Vec<ManifestEntry>) {
        self.entries.retain(|e| !removed.contains(&e.id));
        if !removed.is_empty() {
            self.tombstones.iter_mut().for_each(|t| t.blocks.retain(|id| !removed.contains(id)));
            self.tombstones.retain(|t| !t.blocks.is_empty());
        }
        for entry in added {
            self.id_next = self.id_next.max(entry.id.saturating_add(1));
            self.entries.push(entry);
        }
    }

    /// Puts what could be saved of a damaged file in its place, or nothing; what is deleted of the old one is deleted of the new one.
    /// Unless all of it `is_whole`, files that it was made from and that are still in the remote store are data again.
    pub fn replace_damaged(&mut self, old: u64, new: Option<ManifestEntry>, is_whole: bool) {
        match &new {
            Some(new) if is_whole => self.supersede(&[old], Some(new.id)),
            _ => self.take_back_parts(old),
        }
        if let Some(new) = &new {
            self.carry(&[old], new.id, &[]);
        }
        self.replace(&[old], new.into_iter().collect());
    }

    /// Adds a tombstone; its number is given here.
    pub fn bury(&mut self, mut tombstone: Tombstone) {
        self.tombstone_next = self.tombstone_next.max(1);
        tombstone.id = self.tombstone_next;
        self.tombstone_next += 1;
        self.tombstones.push(tombstone);
    }

    /// The tombstones that count in any of `from`, but for those in `applied`, count in `to` from now on: for a file made
    /// from others while tombstones came.
    pub fn carry(&mut self, from: &[u64], to: u64, applied: &[u64]) {
        for t in self.tombstones.iter_mut().filter(|t| !applied.contains(&t.id)) {
            if t.blocks.iter().any(|id| from.contains(id)) {
                t.blocks.push(to);
            }
        }
    }
}

/// Why a manifest cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Written by a newer program.
    #[error(
        "{file} has format {found}, this program knows format {known}: the folder was written by a newer version; \
         nothing was changed"
    )]
    OtherVersion {
        /// Which file.
        file: String,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Neither copy can be read.
    #[error(
        "the manifest and its copy are damaged ({what}); restore {file} from a backup, or delete both: quiver check --repair makes one of the blocks"
    )]
    Damaged {
        /// Which file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// The disk said no. After an edit failed so, either state may be found after a crash: delete nothing.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl ManifestError {
    /// No space left?
    pub fn is_full(&self) -> bool {
        matches!(self, ManifestError::Disk(e) if e.is_full())
    }
}

/// Reads the bytes of a manifest's file.
pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    file::parse(MANIFEST_FILE, bytes)
}

/// The bytes of a manifest's file.
pub fn encode(manifest: &Manifest) -> Vec<u8> {
    file::encode(manifest)
}

/// What is to be said of the files of a folder's manifest: which, what, and whether it is damage. A copy that is behind
/// or not there is what a crash leaves, and mended at the next start.
pub fn check(disk: &dyn Disk, dir: &str) -> Result<Vec<(String, String, bool)>, ManifestError> {
    let mut found = Vec::new();
    let mut generations = Vec::new();
    for name in [MANIFEST_FILE, MANIFEST_COPY_FILE] {
        let path = join(dir, name);
        match file::read(disk, &path)? {
            FileState::Good(m) => generations.push(m.generation),
            FileState::Missing => {}
            FileState::Damaged(what) => found.push((path, what, true)),
        }
    }
    if found.is_empty() && generations.len() == 1 {
        found.push((join(dir, MANIFEST_FILE), "one of the two copies is missing".to_owned(), false));
    }
    if let [a, b] = generations[..]
        && a != b
    {
        found.push((join(dir, MANIFEST_COPY_FILE), format!("generation {b} beside generation {a}"), false));
    }
    Ok(found)
}

/// The manifest of a folder.
#[derive(Debug)]
pub struct ManifestStore {
    disk: Arc<dyn Disk>,
    dir: String,
    current: Mutex<Arc<Manifest>>,
    /// One edit at a time, without keeping readers of `current` waiting for the disk.
    editing: Mutex<()>,
    is_copy_behind: AtomicBool,
}

impl ManifestStore {
    /// Reads the manifest of a folder; a folder without one is new and empty. Writes nothing.
    pub fn open(disk: Arc<dyn Disk>, dir: &str) -> Result<Self, ManifestError> {
        let main_path = join(dir, MANIFEST_FILE);
        let main = file::read(&*disk, &main_path)?;
        let copy = file::read(&*disk, &join(dir, MANIFEST_COPY_FILE))?;
        let mut is_copy_behind = true;
        let manifest = match (main, copy) {
            (FileState::Good(main), FileState::Good(copy)) => {
                is_copy_behind = copy.generation != main.generation;
                if main.generation >= copy.generation { main } else { copy }
            }
            (FileState::Good(main), _) => main,
            (FileState::Missing, FileState::Missing) => Manifest::default(),
            // The rename to `MANIFEST` is durable before the copy is touched, so a lone copy is a state from before an
            // edit, or the main file is gone or rotten: a generation may be missing.
            (main, FileState::Good(mut copy)) => {
                let what = main.to_string();
                tracing::warn!(file = %main_path, %what, generation = copy.generation, "the manifest is damaged; using its copy");
                copy.extra.insert(UNCERTAIN.to_owned(), serde_json::Value::Bool(true));
                copy
            }
            (main, copy) => {
                let what = format!("{MANIFEST_FILE}: {main}; {MANIFEST_COPY_FILE}: {copy}");
                return Err(ManifestError::Damaged { file: main_path, what });
            }
        };
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            current: Mutex::new(Arc::new(manifest)),
            editing: Mutex::new(()),
            is_copy_behind: AtomicBool::new(is_copy_behind),
        })
    }

    /// The present state.
    pub fn current(&self) -> Arc<Manifest> {
        Arc::clone(&self.current.lock())
    }

    /// Is the state at hand certainly the newest that was published? Where it is not, files it does not name may be data:
    /// delete none. It stays so over restarts, until [`ManifestStore::accept`].
    pub fn is_certain(&self) -> bool {
        !self.current().extra.contains_key(UNCERTAIN)
    }

    /// Declares the state at hand the right one, after someone has looked.
    pub fn accept(&self) -> Result<(), ManifestError> {
        if !self.is_certain() {
            self.edit(|m| {
                m.extra.remove(UNCERTAIN);
            })?;
        }
        Ok(())
    }

    /// Changes the manifest and publishes it: when this returns `Ok` it is durable. On an error the state at hand is the
    /// one before; what a crash would find is open.
    pub fn edit(&self, change: impl FnOnce(&mut Manifest)) -> Result<Arc<Manifest>, ManifestError> {
        let _editing = self.editing.lock();
        let mut manifest = (*self.current()).clone();
        let generation = manifest.generation;
        change(&mut manifest);
        manifest.generation = generation + 1;
        let bytes = file::encode(&manifest);
        self.write(MANIFEST_FILE, &bytes)?;
        let manifest = Arc::new(manifest);
        *self.current.lock() = Arc::clone(&manifest);
        // Published. A copy that cannot be written now is written with the next edit.
        let copied = self.write(MANIFEST_COPY_FILE, &bytes);
        self.is_copy_behind.store(copied.is_err(), Ordering::Release);
        if let Err(e) = copied {
            tracing::warn!(error = %e, "cannot write the copy of the manifest; retrying later");
        }
        Ok(manifest)
    }

    /// Brings the copy up to the state at hand where it is behind, as after a crash; leftovers of an edit go.
    pub fn repair(&self) -> Result<(), ManifestError> {
        let _editing = self.editing.lock();
        let current = self.current();
        if current.generation > 0 && self.is_copy_behind.load(Ordering::Acquire) {
            let bytes = file::encode(&current);
            if !self.is_certain() {
                self.write(MANIFEST_FILE, &bytes)?;
            }
            self.write(MANIFEST_COPY_FILE, &bytes)?;
            self.is_copy_behind.store(false, Ordering::Release);
        }
        let temp = join(&self.dir, MANIFEST_TEMP_FILE);
        if self.disk.exists(&temp)? {
            self.disk.remove(&temp)?;
        }
        Ok(())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let temp = join(&self.dir, MANIFEST_TEMP_FILE);
        let written = self.disk.create(&temp).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_data()
        });
        if let Err(e) = written {
            // Give the space back; the next edit would empty it anyway.
            let _ = self.disk.remove(&temp);
            return Err(e);
        }
        self.disk.rename(&temp, &join(&self.dir, name))?;
        self.disk.sync_dir(&self.dir)
    }

    /// Files of `dir` that no entry names, as paths. What to do with them: nothing while a flush or a merge is running, or
    /// while [`ManifestStore::is_certain`] is false; else they are leftovers of a crash.
    pub fn orphans(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        let current = self.current();
        let named: BTreeSet<String> = current.entries.iter().map(ManifestEntry::local_file).collect();
        let paths = self.disk.list(dir)?.into_iter().map(|name| join(dir, &name));
        Ok(paths.filter(|path| !named.contains(path)).collect())
    }

    /// Entries whose file is not there or has another length.
    pub fn missing(&self) -> Result<Vec<ManifestEntry>, DiskError> {
        let mut missing = Vec::new();
        for entry in &self.current().entries {
            match self.disk.len(&entry.local_file()) {
                Ok(bytes) if bytes == entry.bytes || entry.place() == Place::Remote => {}
                Err(e) if !e.is_not_found() => return Err(e),
                _ => missing.push(entry.clone()),
            }
        }
        Ok(missing)
    }
}
