//! Reading without a server: a data folder (blocks as they are, the log replayed in memory) or exported Parquet. Nothing
//! is written, nothing is locked. Blocks that are in a remote store only are left out, and counted.

use std::path::Path;
use std::sync::Arc;

use quiver_persistence::{Disk, EntryKind, ManifestEntry, ManifestStore, Place, RealDisk, ReplayReport, replay};

use crate::catalog::open_blocks;
use crate::check::refuse_lost;
use crate::head::{Counters, Head};
use crate::interner::Interner;
use crate::options::OpenError;
use crate::parquet::ParquetSnapshot;
use crate::replay::ShardReplay;
use crate::snapshot::{StoreSnapshot, View};
use crate::store::LOG_DIR;
use crate::{Snapshot, Source, TimeRange};

/// How often a folder is read before it is said to be in use.
const ATTEMPTS: usize = 3;

/// See the module.
pub struct OfflineStore {
    snapshot: Arc<dyn Snapshot>,
    head: Option<Arc<Head>>,
    report: ReplayReport,
    missing: Option<MissingBlocks>,
}

/// Blocks of a data folder whose only copy is in a remote store: answers lack them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingBlocks {
    /// How many.
    pub blocks: usize,
    /// Samples in them.
    pub samples: u64,
    /// From their earliest to their latest sample, ms.
    pub range: TimeRange,
}

impl MissingBlocks {
    fn of<'a>(remote: impl Iterator<Item = &'a ManifestEntry>) -> Option<Self> {
        remote.fold(None, |sum: Option<Self>, e| {
            let range = TimeRange { min: e.min_ts, max: e.max_ts };
            let sum = sum.unwrap_or(Self { blocks: 0, samples: 0, range });
            let range = TimeRange { min: sum.range.min.min(e.min_ts), max: sum.range.max.max(e.max_ts) };
            Some(Self { blocks: sum.blocks + 1, samples: sum.samples + e.samples, range })
        })
    }
}

impl OfflineStore {
    /// Opens whatever is at `path`: a data folder where there is a manifest or a log, else Parquet.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let disk = RealDisk::open(path)?;
        let is_data_folder = disk.exists("MANIFEST")? || disk.exists("MANIFEST.copy")? || disk.exists(LOG_DIR)?;
        if is_data_folder { Self::data_folder(Arc::new(disk)) } else { Self::parquet(Arc::new(disk)) }
    }

    /// Opens a copy of a data folder (or the folder of a server that does not run).
    pub fn open_data_folder(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::data_folder(Arc::new(RealDisk::open(path)?))
    }

    /// Opens a folder of exported Parquet.
    pub fn open_parquet(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::parquet(Arc::new(RealDisk::open(path)?))
    }

    /// [`OfflineStore::open_data_folder`] on any disk.
    ///
    /// Where a server works on the folder meanwhile, what it flushes is in no block that was seen and in no log any more: the
    /// folder is read anew, and [`OpenError::InUse`] if it does not stand still.
    pub fn data_folder(disk: Arc<dyn Disk>) -> Result<Self, OpenError> {
        for _ in 0..ATTEMPTS {
            let manifest = ManifestStore::open(Arc::clone(&disk), "")?;
            let read = Self::as_of(&disk, &manifest);
            if ManifestStore::open(Arc::clone(&disk), "")?.current().generation == manifest.current().generation {
                return read;
            }
        }
        Err(OpenError::InUse { folder: disk.name(), holder: None })
    }

    fn as_of(disk: &Arc<dyn Disk>, manifest: &ManifestStore) -> Result<Self, OpenError> {
        refuse_lost(&**disk, manifest)?;
        let interner = Arc::new(Interner::default());
        let entries = &manifest.current().entries;
        let missing = MissingBlocks::of(entries.iter().filter(|e| is_remote(e)));
        let blocks = open_blocks(&**disk, manifest, &interner, None, &|e| !is_remote(e))?;
        let head = Arc::new(Head::new(1, Arc::new(Counters::default())));
        let make = |_| ShardReplay::new(Arc::clone(&head), Arc::clone(&interner), None);
        let report = replay(&**disk, LOG_DIR, &manifest.current().log_floor, 0, make)?;
        let view = View { heads: vec![Arc::clone(&head)], blocks };
        Ok(Self { snapshot: Arc::new(StoreSnapshot::new(1, &view, None)), head: Some(head), report, missing })
    }

    /// [`OfflineStore::open_parquet`] on any disk.
    pub fn parquet(disk: Arc<dyn Disk>) -> Result<Self, OpenError> {
        let is_parquet = |name: &String| name.ends_with(".parquet");
        let mut some = disk.list("")?.iter().any(is_parquet);
        for dir in disk.list_dirs("")? {
            some = some || disk.list(&dir)?.iter().any(is_parquet);
        }
        if !some {
            let what = format!("{} is not a data folder and has no Parquet files in it", disk.name());
            return Err(OpenError::Damaged(what));
        }
        let snapshot = Arc::new(ParquetSnapshot::new(disk));
        Ok(Self { snapshot, head: None, report: ReplayReport::default(), missing: None })
    }

    /// What the log of a data folder holds.
    pub(crate) fn head(&self) -> Option<&Arc<Head>> {
        self.head.as_ref()
    }

    /// What the folder does not hold itself: blocks that were moved to a remote store. Answers lack them.
    pub fn missing(&self) -> Option<&MissingBlocks> {
        self.missing.as_ref()
    }

    /// What the replay of a data folder's log found.
    pub fn replay_report(&self) -> &ReplayReport {
        &self.report
    }
}

fn is_remote(entry: &ManifestEntry) -> bool {
    entry.kind == EntryKind::Metrics && entry.place() == Place::Remote
}

impl Source for OfflineStore {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        Arc::clone(&self.snapshot)
    }
}
