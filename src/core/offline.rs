//! A data folder read without a server: blocks as they are, the log replayed in memory, nothing written, nothing locked.

use std::path::Path;
use std::sync::Arc;

use quiver_persistence::{Disk, ManifestStore, RealDisk, ReplayReport, replay};

use crate::catalog::open_blocks;
use crate::head::{Counters, Head};
use crate::interner::Interner;
use crate::options::OpenError;
use crate::replay::ShardReplay;
use crate::snapshot::{StoreSnapshot, View};
use crate::store::LOG_DIR;
use crate::{Snapshot, Source};

/// See the module.
pub struct OfflineStore {
    view: View,
    report: ReplayReport,
}

impl OfflineStore {
    /// Opens a copy of a data folder (or the folder of a server that does not run).
    pub fn open_data_folder(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_disk(Arc::new(RealDisk::open(path)?))
    }

    /// [`OfflineStore::open_data_folder`] on any disk.
    pub fn open_disk(disk: Arc<dyn Disk>) -> Result<Self, OpenError> {
        let manifest = ManifestStore::open(Arc::clone(&disk), "")?;
        let interner = Arc::new(Interner::default());
        let blocks = open_blocks(&*disk, &manifest, &interner)?;
        let head = Arc::new(Head::new(1, Arc::new(Counters::default())));
        let make = |_| ShardReplay::new(Arc::clone(&head), Arc::clone(&interner), None);
        let report = replay(&*disk, LOG_DIR, &manifest.current().log_floor, 0, make)?;
        Ok(Self { view: View { heads: vec![head], blocks }, report })
    }

    /// What the log's replay found.
    pub fn replay_report(&self) -> &ReplayReport {
        &self.report
    }
}

impl Source for OfflineStore {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        Arc::new(StoreSnapshot::new(1, &self.view))
    }
}
