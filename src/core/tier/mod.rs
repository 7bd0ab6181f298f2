//! Blocks that move to a remote store by age, are read from there by ranges, and outlive the local disk there.
//!
//! ```text
//! local ─▶ upload ─▶ read back: size, CRC ─▶ manifest: both ─▶ catalog published (only where there is none of its number)
//!                                                                └─▶ tail kept ─▶ manifest: remote ─▶ local file goes
//! start with an empty folder and takeover ─▶ newest catalog ─▶ claimed by publishing the next ─▶ manifest ─▶ reads by range
//! ```
//!
//! What the store has is a pure function of the manifest ([`quiver_persistence::Manifest::catalog`]), so whatever a crash interrupts is
//! found and done by the next run.
//!
//! Invariants
//! 1. At every moment a block is readable: its local file goes after a published catalog names its object, whose bytes were
//!    read back and compared and which is still as long, and after a reader of it is open.
//! 2. Whoever finds a catalog that is not its own publishes nothing any more and removes nothing: it is fenced, says so, and
//!    goes on reading. Numbers of catalogs are taken once, so two at a time cannot both win.
//! 3. An object is removed when neither the newest catalog nor the manifest has named it for a while, and the newest catalog
//!    is ours.

mod ahead;
mod foresee;
mod moves;
mod sweep;

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use quiver_cache::{PageOptions, PageStore, RemoteBlock, RemoteCache, RemoteFigures};
use quiver_persistence::manifest::TierMark;
use quiver_persistence::remote::{CatalogError, Catalogs, Objects, Published, RemoteIo, RetryPolicy, Retrying};
use quiver_persistence::{Disk, Manifest, ManifestEntry, ManifestStore, Place};
use quiver_storage::StorageError;
use quiver_storage::block::{Block, BlockBytes, Tailed, tail_file};

use crate::options::OpenError;
use crate::store::{BLOCK_DIR, LOG_DIR};

pub(crate) use ahead::{Ahead, Wanted};
pub use foresee::ForesightFigures;
pub(crate) use foresee::{Foresight, Watched};

/// Folder of local copies of remote ranges.
pub(crate) const PAGES_DIR: &str = "remote-pages";

/// How blocks move to a remote store.
#[derive(Clone, Debug)]
pub struct TierOptions {
    /// The store.
    pub objects: Arc<dyn Objects>,
    /// How long and how often it is asked.
    pub retry: RetryPolicy,
    /// A block whose newest sample is so old goes to the store, ms.
    pub after_ms: i64,
    /// Its local file goes when it is so old, ms; not before it is in the store.
    pub drop_after_ms: i64,
    /// Bytes of remote blocks kept on the local disk.
    pub cache_bytes_max: u64,
    /// Begins with what another folder left in the store, which can publish nothing from then on.
    pub takeover: bool,
    /// An object that nothing has named for so long goes, ms.
    pub sweep_after_ms: u64,
}

impl TierOptions {
    /// Moves to a store after a week.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        const WEEK_MS: i64 = 7 * 86_400_000;
        Self {
            objects,
            retry: RetryPolicy::default(),
            after_ms: WEEK_MS,
            drop_after_ms: WEEK_MS,
            cache_bytes_max: 2 << 30,
            takeover: false,
            sweep_after_ms: 3_600_000,
        }
    }
}

/// What is known of who may publish.
#[derive(Clone, Debug, PartialEq)]
enum Standing {
    /// Not asked yet.
    Unknown,
    /// We do: the newest catalog, as a manifest without a generation, and its generation.
    Ours { generation: u64, published: Option<Manifest> },
    /// Somebody else does.
    Fenced(String),
}

/// Figures of the remote tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierFigures {
    /// The store.
    pub store: String,
    /// Blocks in the store and on the local disk.
    pub both_blocks: u64,
    /// Blocks in the store alone.
    pub remote_blocks: u64,
    /// Their bytes.
    pub remote_bytes: u64,
    /// Blocks uploaded since the start.
    pub uploads: u64,
    /// Their bytes.
    pub upload_bytes: u64,
    /// Number of the newest catalog; 0 where none is known.
    pub catalog: u64,
    /// Attempts beyond the first of each operation.
    pub retries: u64,
    /// Why nothing is moved any more, if that is so.
    pub fenced: Option<String>,
    /// Reads.
    pub reads: RemoteFigures,
}

#[derive(Debug, Default)]
struct Progress {
    uploads: u64,
    upload_bytes: u64,
    /// Objects that nothing names, and since when that is known.
    strays: HashMap<String, Instant>,
    swept: Option<Instant>,
    /// The manifest's generation at which catalog and manifest were known to agree.
    agreed: u64,
    /// Blocks that could not be moved the last time.
    failed: BTreeSet<u64>,
}

/// See the module.
pub(crate) struct Tier {
    options: TierOptions,
    retrying: Arc<Retrying>,
    pub(crate) cache: Arc<RemoteCache>,
    catalogs: Catalogs,
    session: String,
    standing: Mutex<Standing>,
    progress: Mutex<Progress>,
}

/// A name that nobody else has.
fn new_name() -> String {
    // The standard library seeds every one of these from the system's randomness.
    let part = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", part(), part())
}

fn refused(e: impl ToString) -> OpenError {
    OpenError::Tier(e.to_string())
}

impl Tier {
    /// Prepares the tier of a folder. A folder without anything asks the store first; with takeover it begins with what is
    /// there. `Err` means that the store must not open: nothing was changed.
    pub(crate) fn open(
        options: &TierOptions,
        disk: &Arc<dyn Disk>,
        manifest: &ManifestStore,
    ) -> Result<Arc<Self>, OpenError> {
        let retrying = Arc::new(Retrying::new(Arc::clone(&options.objects), options.retry));
        let io = RemoteIo::new(Arc::clone(&retrying) as Arc<dyn Objects>);
        let io = Arc::new(io.map_err(|e| refused(format!("cannot start the threads of the remote tier: {e}")))?);
        let place = (options.cache_bytes_max > 0).then(|| (Arc::clone(disk), PAGES_DIR.to_owned()));
        let bytes = if place.is_some() { options.cache_bytes_max } else { 32 << 20 };
        let pages = PageStore::open(PageOptions::new(place, bytes));
        let tier = Arc::new(Self {
            options: options.clone(),
            retrying,
            cache: RemoteCache::new(Arc::clone(&io), pages),
            catalogs: Catalogs::new(io),
            session: new_name(),
            standing: Mutex::new(Standing::Unknown),
            progress: Mutex::default(),
        });
        let is_fresh = manifest.current().generation == 0 && is_without_log(&**disk)?;
        if is_fresh {
            tier.begin(manifest)?;
        }
        Ok(tier)
    }

    /// The name of the store.
    pub(crate) fn name(&self) -> String {
        self.options.objects.name()
    }

    /// The newest catalog, if it is told soon: a start does not wait long for a store that it can do without.
    fn first_look(&self) -> Result<Option<Published>, CatalogError> {
        if self.options.takeover {
            return self.catalogs.latest(0);
        }
        let policy = RetryPolicy {
            attempt: self.options.retry.attempt / 4,
            deadline: self.options.retry.deadline / 8,
            ..self.options.retry
        };
        let hasty = Arc::new(Retrying::new(Arc::clone(&self.options.objects), policy));
        match RemoteIo::new(hasty) {
            Ok(io) => Catalogs::new(Arc::new(io)).latest(0),
            Err(_) => self.catalogs.latest(0),
        }
    }

    /// A folder without anything looks at the store.
    fn begin(&self, manifest: &ManifestStore) -> Result<(), OpenError> {
        let found = match self.first_look() {
            Ok(found) => found,
            // Who wants what is in the store must not begin with nothing.
            Err(e) if self.options.takeover => return Err(refused(e)),
            Err(e) => {
                tracing::warn!(error = %e, "the remote store does not answer; no blocks are moved until it does");
                return Ok(());
            }
        };
        let Some(found) = found else { return Ok(()) };
        let owner = found.manifest.tier().unwrap_or_default().writer;
        if !self.options.takeover {
            return Err(refused(format!(
                "the store {} holds {} blocks of another data folder (writer {owner}, catalog {}). To go on with them in this \
                 empty folder, which ends the other's right to publish, set tier-takeover to on; else choose another prefix",
                self.name(),
                found.manifest.entries.len(),
                found.generation
            )));
        }
        // First the claim, which ends what the other may do; then the folder. A crash in between leaves an empty folder.
        let writer = new_name();
        let mut claim = found.manifest.clone();
        claim.generation = found.generation + 1;
        claim.set_tier(&TierMark {
            writer: writer.clone(),
            generation: claim.generation,
            session: self.session.clone(),
            folder_generation: 0,
            superseded: Vec::new(),
        });
        self.catalogs.publish(&claim).map_err(refused)?;
        let edited = manifest.edit(|m| {
            *m = Manifest { generation: m.generation, ..found.manifest.clone() };
            m.set_tier(&TierMark { writer, generation: claim.generation, ..TierMark::default() });
        });
        edited.map_err(OpenError::from)?;
        tracing::info!(
            store = self.name(),
            blocks = found.manifest.entries.len(),
            catalog = claim.generation,
            from = owner,
            "taken over from the remote store"
        );
        Ok(())
    }

    /// A block that lies in the store. Its tail is made again where it is missing or damaged.
    pub(crate) fn open_block(
        &self,
        disk: &dyn Disk,
        entry: &ManifestEntry,
        like: Option<&Block>,
    ) -> Result<(Arc<Block>, Arc<RemoteBlock>), StorageError> {
        let object = entry.object().unwrap_or_default();
        let remote = Arc::new(self.cache.block(&entry.file, &object, entry.bytes));
        let path = entry.tail_file();
        let kept = disk.map(&path).map_err(StorageError::from);
        let opened = kept.and_then(|file| {
            let tailed = Tailed::new(&path, file.bytes(), Arc::clone(&remote))?;
            open_like(&entry.file, tailed, like)
        });
        let block = match opened {
            Ok(block) => block,
            Err(StorageError::Corrupt { .. } | StorageError::Disk(_)) => {
                let far = Block::from_source(&entry.file, Arc::clone(&remote))?;
                let file = tail_file(&far)?;
                if let Err(e) = write_tail(disk, &path, &file) {
                    tracing::warn!(error = %e, "cannot store the index of a remote block; it is kept in memory only");
                }
                open_like(&entry.file, Tailed::new(&path, &file, Arc::clone(&remote))?, like)?
            }
            Err(e) => return Err(e),
        };
        if block.meta().bytes != entry.bytes {
            return Err(StorageError::corrupt(&entry.file, 0, "its length differs from the manifest"));
        }
        Ok((Arc::new(block), remote))
    }

    /// Figures, with those of a manifest.
    pub(crate) fn figures(&self, manifest: &Manifest) -> TierFigures {
        let of = |at: Place| manifest.entries.iter().filter(move |e| e.place() == at);
        let progress = self.progress.lock();
        let (catalog, fenced) = match &*self.standing.lock() {
            Standing::Unknown => (manifest.tier().map_or(0, |t| t.generation), None),
            Standing::Ours { generation, .. } => (*generation, None),
            Standing::Fenced(why) => (0, Some(why.clone())),
        };
        TierFigures {
            store: self.name(),
            both_blocks: of(Place::Both).count() as u64,
            remote_blocks: of(Place::Remote).count() as u64,
            remote_bytes: of(Place::Remote).map(|e| e.bytes).sum(),
            uploads: progress.uploads,
            upload_bytes: progress.upload_bytes,
            catalog,
            retries: self.retrying.retries(),
            fenced,
            reads: self.cache.figures(),
        }
    }

    /// Finds out who may publish, where that is not known.
    fn attach(&self, manifest: &ManifestStore) -> Result<(), CatalogError> {
        if *self.standing.lock() != Standing::Unknown {
            return Ok(());
        }
        let mark = manifest.current().tier();
        let found = self.catalogs.latest(mark.as_ref().map_or(0, |m| m.generation))?;
        let now = match (found, &mark) {
            (None, _) => Standing::Ours { generation: 0, published: None },
            (Some(found), mark) => {
                let theirs = found.manifest.tier().unwrap_or_default();
                let owner = &theirs.writer;
                if mark.as_ref().is_none_or(|m| m.writer != *owner) {
                    Standing::Fenced(format!(
                        "{} belongs to another data folder (writer {owner}, catalog {}): nothing is moved there",
                        self.name(),
                        found.generation
                    ))
                } else if theirs.folder_generation > manifest.current().generation {
                    Standing::Fenced(format!(
                        "{} knows a later state of this data folder (catalog {}): the folder was set back, or copied; \
                         nothing is moved there",
                        self.name(),
                        found.generation
                    ))
                } else {
                    // Once a start, also after a takeover: the store may be on another service since its first catalog.
                    match self.catalogs.prove_conditional(&found.manifest) {
                        Ok(()) => {
                            Standing::Ours { generation: found.generation, published: Some(bare(found.manifest)) }
                        }
                        Err(e @ CatalogError::NotConditional(_)) => Standing::Fenced(e.to_string()),
                        Err(e) => return Err(e),
                    }
                }
            }
        };
        if let Standing::Fenced(why) = &now {
            tracing::error!(why, "another server writes to this remote store; this one moves no blocks");
        }
        *self.standing.lock() = now;
        Ok(())
    }

    fn fence(&self, why: String) {
        tracing::error!(why, "another server writes to this remote store; this one moves no blocks");
        *self.standing.lock() = Standing::Fenced(why);
    }

    /// May we publish and remove?
    pub(crate) fn is_fenced(&self) -> bool {
        matches!(*self.standing.lock(), Standing::Fenced(_))
    }
}

/// A catalog without what changes with every publication.
fn bare(mut catalog: Manifest) -> Manifest {
    catalog.generation = 0;
    catalog.extra.clear();
    catalog
}

fn is_without_log(disk: &dyn Disk) -> Result<bool, OpenError> {
    let is_empty = |dir: &str| -> Result<bool, OpenError> { Ok(!disk.exists(dir)? || disk.list(dir)?.is_empty()) };
    Ok(is_empty(LOG_DIR)? && is_empty(BLOCK_DIR)?)
}

fn open_like(name: &str, bytes: impl BlockBytes + 'static, like: Option<&Block>) -> Result<Block, StorageError> {
    match like {
        Some(other) => Block::from_source_like(name, bytes, other),
        None => Block::from_source(name, bytes),
    }
}

fn write_tail(disk: &dyn Disk, path: &str, bytes: &[u8]) -> Result<(), quiver_persistence::DiskError> {
    if !disk.exists(BLOCK_DIR)? {
        disk.create_dir(BLOCK_DIR)?;
    }
    let temporary = format!("{path}.part");
    let written = disk.create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()
    });
    if let Err(e) = written.and_then(|()| disk.rename(&temporary, path)) {
        let _ = disk.remove(&temporary);
        return Err(e);
    }
    disk.sync_dir(BLOCK_DIR)
}
