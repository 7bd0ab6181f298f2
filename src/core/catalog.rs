//! Blocks as the store knows them: the manifest's entry, the open file, and what was learnt of it.
//!
//! Invariants
//! 1. A block that does not open stays in the catalog and fails the queries that need it, by name.
//! 2. A file that the manifest does not name is removed at the start, if the manifest is certainly the newest; where there
//!    is no manifest it is set aside.

use std::sync::{Arc, OnceLock};

use quiver_cache::RemoteBlock;
use quiver_model::{Labels, Matcher, Metadata, SeriesKinds};
use quiver_persistence::manifest::Place as TierPlace;
use quiver_persistence::{Disk, EntryKind, ManifestEntry, ManifestStore, Tombstone};
use quiver_storage::block::Block;
use quiver_storage::error::StorageError;
use roaring::RoaringBitmap;

use crate::check::refuse_lost;
use crate::head::page::{FLOATS, HISTOGRAMS, STARTS};
use crate::interner::{Interner, hash};
use crate::ladder::Rung;
use crate::options::OpenError;
use crate::place::{PlaceSeries, tested};
use crate::report::{IndexUse, PlaceReport};
use crate::store::BLOCK_DIR;
use crate::tier::Tier;
use crate::tombstones::{Deletion, Deletions, Rows};
use crate::{ReadError, TimeRange};

/// Folder of what is set aside, never deleted.
pub(crate) const QUARANTINE_DIR: &str = "quarantine";

/// See the module.
pub(crate) struct StoredBlock {
    pub(crate) entry: ManifestEntry,
    block: Result<Arc<Block>, StorageError>,
    /// Where its chunks are fetched from, if that is not the local disk.
    remote: Option<Arc<RemoteBlock>>,
    /// What of it does not count any more.
    deletions: Option<Arc<Deletions>>,
    interner: Arc<Interner>,
    learnt: Arc<Learnt>,
}

/// Rows whose labels are kept together.
const GROUP_ROWS: usize = 256;

/// Labels of some rows, as far as they were asked for.
type RowGroup = OnceLock<Box<[OnceLock<Labels>]>>;

/// What was read of a block once and is kept, whatever is deleted of it.
#[derive(Default)]
struct Learnt {
    /// By group of rows: a query for one metric, whose rows stand together, takes no room for the others.
    labels: OnceLock<Box<[RowGroup]>>,
    metadata: OnceLock<Vec<(String, Vec<Metadata>)>>,
    damage: OnceLock<String>,
}

impl From<StorageError> for ReadError {
    fn from(e: StorageError) -> Self {
        match e {
            StorageError::Corrupt { file, offset, what } => ReadError::Corrupt { file, offset, what },
            StorageError::Disk(e) => ReadError::Io { file: e.path.clone(), what: e.to_string() },
            StorageError::Remote { file, store, what } => ReadError::Remote { file, store, what },
            StorageError::Parquet { file, what } => ReadError::Io { file, what },
            StorageError::Version { ref file, .. } => ReadError::Io { file: file.clone(), what: e.to_string() },
            StorageError::Misuse(what) => ReadError::Unfit { what: what.into() },
        }
    }
}

/// Kinds as the head's bits.
pub(crate) fn kind_bits(k: SeriesKinds) -> u8 {
    let bit = |on: bool, bit: u8| if on { bit } else { 0 };
    bit(k.floats, FLOATS) | bit(k.histograms, HISTOGRAMS) | bit(k.start_ts, STARTS)
}

/// Path of the block numbered `id`.
pub(crate) fn block_path(id: u64) -> String {
    format!("{BLOCK_DIR}/{id:016}.block")
}

/// The number of a block's path, or of its name.
pub(crate) fn block_id(path: &str) -> Option<u64> {
    let name = path.rsplit('/').next()?;
    name.split('.').next()?.parse().ok()
}

impl StoredBlock {
    /// Opens the block of an entry that is on the local disk.
    pub(crate) fn open(disk: &dyn Disk, entry: ManifestEntry, interner: &Arc<Interner>) -> Self {
        Self::open_in(disk, None, entry, interner)
    }

    /// Opens the block of an entry, wherever it is.
    pub(crate) fn open_in(
        disk: &dyn Disk,
        tier: Option<&Tier>,
        entry: ManifestEntry,
        interner: &Arc<Interner>,
    ) -> Self {
        let opened = match (entry.place(), tier) {
            (TierPlace::Local, _) | (TierPlace::Both, None) => {
                Block::open(disk, &entry.file).map(|b| (Arc::new(b), None))
            }
            (TierPlace::Both, Some(tier)) => match Block::open(disk, &entry.file) {
                Ok(block) => Ok((Arc::new(block), None)),
                // There is another one of it.
                Err(e) => {
                    tracing::warn!(block = entry.file, error = %e, "the local file of a block cannot be read; reading it from the remote store");
                    tier.open_block(disk, &entry, None).map(|(b, r)| (b, Some(r))).map_err(|_| e)
                }
            },
            (TierPlace::Remote, Some(tier)) => tier.open_block(disk, &entry, None).map(|(b, r)| (b, Some(r))),
            (TierPlace::Remote, None) => Err(StorageError::Remote {
                file: entry.file.clone(),
                store: "(none is configured)".into(),
                what: "the block is in a remote store only: start the server with the --tier-url that it was moved to"
                    .into(),
            }),
        };
        if let Err(e) = &opened {
            tracing::error!(block = entry.file, error = %e, "cannot read a block; queries that need it fail");
        }
        let (block, remote) = match opened {
            Ok((block, remote)) => (Ok(block), remote),
            Err(e) => (Err(e), None),
        };
        let interner = Arc::clone(interner);
        Self { entry, block, remote, deletions: None, interner, learnt: Arc::default() }
    }

    /// The same block as another entry describes it.
    pub(crate) fn with_entry(&self, entry: ManifestEntry) -> Self {
        Self { entry, ..self.with_deletions(self.deletions.clone()) }
    }

    /// The same block in another place.
    pub(crate) fn moved(
        &self,
        entry: ManifestEntry,
        opened: Result<(Arc<Block>, Arc<RemoteBlock>), StorageError>,
    ) -> Self {
        let (block, remote) = match opened {
            Ok((block, remote)) => (Ok(block), Some(remote)),
            Err(e) => (Err(e), None),
        };
        Self { entry, block, remote, ..self.with_deletions(self.deletions.clone()) }
    }

    /// Where its chunks are fetched from, if that is not the local disk.
    pub(crate) fn remote(&self) -> Option<&Arc<RemoteBlock>> {
        self.remote.as_ref()
    }

    /// Could it not be opened, and may that be better now?
    pub(crate) fn is_unreachable(&self) -> bool {
        self.entry.place() == TierPlace::Remote && matches!(self.block, Err(StorageError::Remote { .. }))
    }

    /// The same block under other deletions.
    pub(crate) fn with_deletions(&self, deletions: Option<Arc<Deletions>>) -> Self {
        Self {
            entry: self.entry.clone(),
            block: self.block.clone(),
            remote: self.remote.clone(),
            deletions,
            interner: Arc::clone(&self.interner),
            learnt: Arc::clone(&self.learnt),
        }
    }

    /// What of it does not count any more.
    pub(crate) fn deletions(&self) -> Option<&Arc<Deletions>> {
        self.deletions.as_ref()
    }

    /// Rows that deletions concern; `None` where there are none.
    pub(crate) fn deleted_rows(&self) -> Result<Option<&Rows>, ReadError> {
        match &self.deletions {
            None => Ok(None),
            Some(d) => Ok(Some(d.rows(self.block()?)?)),
        }
    }

    /// Remembers damage that a reader met.
    #[cold]
    pub(crate) fn note(&self, e: &ReadError) {
        if matches!(e, ReadError::Corrupt { .. }) && self.learnt.damage.set(e.to_string()).is_ok() {
            tracing::error!(block = self.entry.file, error = %e, "a block is damaged; queries that need the damaged part fail");
        }
    }

    /// What is wrong with it, as far as it is known.
    pub(crate) fn damage(&self) -> Option<String> {
        match &self.block {
            Err(e) => Some(e.to_string()),
            Ok(_) => self.learnt.damage.get().cloned(),
        }
    }

    /// The open block.
    pub(crate) fn block(&self) -> Result<&Arc<Block>, ReadError> {
        self.block.as_ref().map_err(|e| e.clone().into())
    }

    /// From its first to its last sample; nothing where it has none.
    pub(crate) fn time_bounds(&self) -> Option<TimeRange> {
        (self.entry.samples > 0).then_some(TimeRange { min: self.entry.min_ts, max: self.entry.max_ts })
    }

    /// The times of what it holds; where that is no sample, but metadata or exemplars, when it was made.
    pub(crate) fn ages(&self) -> TimeRange {
        let made = TimeRange { min: self.entry.created_ms, max: self.entry.created_ms };
        self.time_bounds().unwrap_or(made)
    }

    /// What the compaction planner needs.
    pub(crate) fn rung(&self) -> Rung {
        let ManifestEntry { id, bytes, level, .. } = self.entry;
        let TimeRange { min: min_ts, max: max_ts } = self.ages();
        Rung { id, min_ts, max_ts, bytes, level }
    }

    fn row_labels(&self, block: &Block, row: u32, packed: &mut Vec<u8>) -> Result<Labels, ReadError> {
        let rows = block.meta().series as usize;
        let groups = rows.div_ceil(GROUP_ROWS);
        let all = self.learnt.labels.get_or_init(|| (0..groups).map(|_| OnceLock::new()).collect());
        let group = all.get(row as usize / GROUP_ROWS);
        let group = group.map(|g| g.get_or_init(|| (0..GROUP_ROWS).map(|_| OnceLock::new()).collect()));
        let slot = group.and_then(|g| g.get(row as usize % GROUP_ROWS));
        if let Some(labels) = slot.and_then(OnceLock::get) {
            return Ok(labels.clone());
        }
        block.labels_packed(row, packed)?;
        let labels = self.interner.intern(hash(packed), packed, || {
            Labels::from_packed(packed).map_err(|e| ReadError::Corrupt {
                file: block.name().to_owned(),
                offset: 0,
                what: format!("labels of series {row}: {e}"),
            })
        })?;
        Ok(slot.map_or(labels.clone(), |s| s.get_or_init(|| labels).clone()))
    }

    /// Series that all `matchers` accept with a chunk in `range`, in label order.
    pub(crate) fn select(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        how: IndexUse,
        report: Option<&mut PlaceReport>,
    ) -> Result<Vec<PlaceSeries>, ReadError> {
        let block = self.block()?;
        let mut report = report;
        let picked = block.pick(matchers, how, report.as_mut().map(|r| &mut r.steps))?;
        if let Some(r) = &mut report {
            (r.series, r.matched) = (u64::from(block.meta().series), picked.ids.len());
        }
        let mut rows = block.within(picked.ids, range)?;
        if let Some(deleted) = self.deleted_rows()? {
            rows -= deleted.gone();
        }
        let mut packed = Vec::new();
        let mut list = Vec::with_capacity(rows.len() as usize);
        for row in &rows {
            let labels = self.row_labels(block, row, &mut packed)?;
            list.push(PlaceSeries { labels, row, kinds: kind_bits(block.kinds(row)?) });
        }
        Ok(tested(list, &picked.rest, report))
    }

    /// Rows that any of `selectors` accepts; `None`: all rows.
    pub(crate) fn among(&self, selectors: &[Vec<Matcher>]) -> Result<Option<RoaringBitmap>, ReadError> {
        let deleted = self.deleted_rows()?;
        if selectors.is_empty() {
            let Some(deleted) = deleted else { return Ok(None) };
            return Ok(Some(self.block()?.select_bitmap(&[], TimeRange::ALL)? - deleted.gone()));
        }
        let block = self.block()?;
        let mut rows = RoaringBitmap::new();
        for matchers in selectors {
            rows |= block.select_bitmap(matchers, TimeRange::ALL)?;
        }
        deleted.iter().for_each(|d| rows -= d.gone());
        Ok(Some(rows))
    }

    /// Metadata by family, the newest first.
    pub(crate) fn metadata(&self) -> &[(String, Vec<Metadata>)] {
        if let Some(read) = self.learnt.metadata.get() {
            return read;
        }
        match self.block().and_then(|b| Ok(b.metadata()?)) {
            Ok(read) => self.learnt.metadata.get_or_init(|| read),
            Err(e) => {
                // Not kept: it may be the medium's or a store's of this moment.
                self.note(&e);
                tracing::warn!(block = self.entry.file, error = %e, "cannot read the metadata of a block");
                &[]
            }
        }
    }
}

/// Opens the blocks that the manifest names and `wanted` takes, oldest first. A block of a newer format is refused.
pub(crate) fn open_blocks(
    disk: &dyn Disk,
    manifest: &ManifestStore,
    interner: &Arc<Interner>,
    tier: Option<&Tier>,
    wanted: &dyn Fn(&ManifestEntry) -> bool,
) -> Result<Vec<Arc<StoredBlock>>, OpenError> {
    let mut blocks = Vec::new();
    let deletions = deletions(manifest)?;
    for entry in manifest.current().entries.iter().filter(|e| e.kind == EntryKind::Metrics && wanted(e)) {
        let block = StoredBlock::open_in(disk, tier, entry.clone(), interner);
        if let Err(e @ StorageError::Version { .. }) = &block.block {
            return Err(OpenError::Newer(e.to_string()));
        }
        let id = block.entry.id;
        let own =
            Deletions::new(deletions.iter().filter(|(_, of)| of.contains(&id)).map(|(d, _)| Arc::clone(d)).collect());
        blocks.push(Arc::new(block.with_deletions(own)));
    }
    sort_by_arrival(&mut blocks);
    Ok(blocks)
}

/// Sorts blocks by when what they hold came, the newest last.
pub(crate) fn sort_by_arrival(blocks: &mut [Arc<StoredBlock>]) {
    blocks.sort_by_key(|b| (b.entry.arrival(), b.entry.id));
}

/// The deletions of a manifest, each with the blocks in which it counts. One that cannot be understood refuses the start:
/// without it deleted samples would be back.
fn deletions(manifest: &ManifestStore) -> Result<Vec<(Arc<Deletion>, Vec<u64>)>, OpenError> {
    let read = |t: &Tombstone| Ok((Arc::new(Deletion::new(t)?), t.blocks.clone()));
    manifest.current().tombstones.iter().map(read).collect::<Result<_, String>>().map_err(OpenError::Damaged)
}

/// Tidies the block folder after a crash; returns the first number free for a new block.
pub(crate) fn sweep(disk: &dyn Disk, manifest: &ManifestStore) -> Result<u64, OpenError> {
    if !disk.exists(BLOCK_DIR)? {
        return Ok(manifest.current().id_next.max(1));
    }
    let orphans = manifest.orphans(BLOCK_DIR)?;
    let highest = orphans.iter().filter_map(|path| block_id(path)).max().unwrap_or(0);
    if manifest.current().generation == 0 && !orphans.is_empty() {
        refuse_lost(disk, manifest)?;
        // These are leftovers of a first flush: the log has what is in them.
        disk.create_dir(QUARANTINE_DIR)?;
        for path in &orphans {
            let name = path.rsplit('/').next().unwrap_or(path);
            disk.rename(path, &format!("{QUARANTINE_DIR}/{name}"))?;
        }
        disk.sync_dir(QUARANTINE_DIR)?;
        disk.sync_dir(BLOCK_DIR)?;
        tracing::warn!(
            files = orphans.len(),
            folder = QUARANTINE_DIR,
            "moved block files that are not in the manifest to quarantine"
        );
    } else if manifest.is_certain() && !orphans.is_empty() {
        for path in &orphans {
            if let Err(e) = disk.remove(path) {
                tracing::warn!(file = path, error = %e, "cannot remove a leftover file of an earlier run");
            }
        }
        tracing::info!(files = orphans.len(), "removed leftover files of an earlier run");
    }
    Ok(manifest.current().id_next.max(highest + 1))
}
