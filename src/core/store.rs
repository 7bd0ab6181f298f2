//! The store: a log, heads and blocks behind the traits of this crate.
//!
//! ```text
//! open ─ lock ─ manifest ─ blocks ─ (reads begin) ─ replay ─ (writes begin) ─ … ─ close: drain, sync
//! ```
//!
//! Invariants
//! 1. The present head changes only under `gate`'s write lock: a write enters the head it will be applied to under the
//!    read lock, so after a change no new write can enter the old head.
//! 2. Nothing is flushed before the replay is over: the floor a rotation gives would pass over frames not yet read.

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use quiver_cache::budget::Budget;
use quiver_cache::{WorkingSet, WorkingSetFigures};
use quiver_model::{LiveLimits, Matcher, WriteBatch};
use quiver_persistence::disk::open_with_faults;
use quiver_persistence::log::LogHealth;
use quiver_persistence::remote::Asker;
use quiver_persistence::{
    Disk, DiskLock, Log, LogFigures, ManifestStore, RealDisk, ReplayReport, replay, resident_bytes, turns,
};
use tokio::sync::oneshot;

use crate::background::{Background, LANES, TaskKind};
use crate::catalog::{StoredBlock, open_blocks, sort_by_arrival, sweep};
use crate::changes::Changes;
use crate::delete::DeleteRequest;
use crate::flush::Frozen;
use crate::foreign::refuse_foreign;
use crate::head::{Counters, Head};
use crate::ingest::{Answer, Entry, Pool, Shared, check};
use crate::interner::Interner;
use crate::options::{OpenError, Retention, StoreOptions, lock};
use crate::refusal::SeriesCaps;
use crate::replay::{Phase, Progress, ShardReplay};
use crate::report::ReadStats;
use crate::resting::Resting;
use crate::snapshot::{StoreSnapshot, View, Watch};
use crate::snapshots::{self, SnapshotRequest};
use crate::steps::Steps;
use crate::tier::{Foresight, Tier};
use crate::{
    BoxFuture, CacheStats, Health, Ingest, Maintain, MetadataRef, ReadError, Snapshot, SnapshotFile, Source,
    StoreStats, Tasks, TimeRange, WriteError, WriteReceipt,
};

/// Folder of the log's segments.
pub(crate) const LOG_DIR: &str = "log";
/// Folder of the blocks.
pub(crate) const BLOCK_DIR: &str = "blocks";
/// A background task that failed is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// What the store's threads share.
pub(crate) struct Inner {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: StoreOptions,
    /// Limits in force.
    pub(crate) limits: LiveLimits,
    /// What is kept how long, in force.
    pub(crate) retention: ArcSwap<Retention>,
    /// Jumps of the clock.
    pub(crate) steps: Steps,
    pub(crate) manifest: ManifestStore,
    pub(crate) log: Log<Entry>,
    pub(crate) view: ArcSwap<View>,
    pub(crate) counters: Arc<Counters>,
    /// What has been written and deleted when.
    pub(crate) changes: Arc<Changes>,
    pub(crate) background: Arc<Background>,
    pub(crate) interner: Arc<Interner>,
    /// Decoded chunks of blocks; none where it has no room.
    pub(crate) cache: Option<Arc<WorkingSet>>,
    /// The remote store that blocks move to.
    pub(crate) tier: Option<Arc<Tier>>,
    /// What dashboards will ask for.
    pub(crate) foresight: Option<Arc<Foresight>>,
    /// What was read since the start.
    pub(crate) reads: Arc<ReadStats>,
    /// A head on its way into a block.
    pub(crate) frozen: Mutex<Option<Frozen>>,
    /// One flush at a time.
    pub(crate) flushing: Mutex<()>,
    /// Number of the next block.
    pub(crate) next_block: AtomicU64,
    /// One merge or drop at a time.
    pub(crate) compacting: Mutex<()>,
    /// What the manifest says and what snapshots see change together under this.
    pub(crate) publishing: Mutex<()>,
    /// Files of blocks are linked under the read lock, removed under the write lock.
    pub(crate) linking: RwLock<()>,
    /// Frames of the last flushed head lie above the floor of its flush.
    pub(crate) is_straggled: AtomicBool,
    /// Deletions asked for.
    pub(crate) deletes: Mutex<Vec<DeleteRequest>>,
    /// Snapshots asked for.
    pub(crate) snapshots: Mutex<Vec<SnapshotRequest>>,
    /// By block, the shortest that any of its series is kept.
    pub(crate) shortest_kept: Mutex<HashMap<u64, Option<i64>>>,
    /// Blocks whose merge met damage.
    pub(crate) unmergeable: Mutex<BTreeSet<u64>>,
    /// Blocks of merges that failed, for a while.
    pub(crate) resting: Mutex<Resting>,
    /// Tasks that failed and when to try them again.
    not_before: Mutex<Vec<(TaskKind, Instant)>>,
    /// One change of the view at a time.
    viewing: Mutex<()>,
    gate: RwLock<()>,
    /// What writes use.
    writing: Arc<Shared>,
    pub(crate) progress: Arc<Progress>,
    replayed: Mutex<ReplayReport>,
    is_closed: AtomicBool,
}

/// See the module.
pub struct Store {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<DiskLock>>,
}

impl Store {
    /// Opens the data folder at `path`, which is made if it is missing. See [`Store::open`].
    pub fn open_dir(path: impl AsRef<Path>, options: StoreOptions) -> Result<Arc<Store>, OpenError> {
        let path = path.as_ref();
        let real = RealDisk::create(path)?;
        real.set_mapping(options.map_blocks);
        let disk = open_with_faults(Arc::new(real)).map_err(OpenError::Damaged)?;
        Self::open(disk, options)
    }

    /// Opens the store of a disk. It reads as soon as this returns; it takes writes (they wait) once the log is replayed,
    /// see [`Store::wait_until_ready`].
    pub fn open(disk: Arc<dyn Disk>, options: StoreOptions) -> Result<Arc<Store>, OpenError> {
        refuse_foreign(&disk)?;
        let lock = lock(&*disk)?;
        let manifest = ManifestStore::open(Arc::clone(&disk), "")?;
        // A process that was killed between renaming its manifest and syncing the folder left one that a power loss takes back:
        // nothing is removed on its word before that.
        disk.sync_dir("")?;
        let counters = Arc::new(Counters::default());
        let floor = manifest.current().log_floor.clone();
        let head = Arc::new(Head::new(1, Arc::clone(&counters)));
        let interner = Arc::new(Interner::default());
        let tier = match &options.tier {
            Some(tier) => Some(Tier::open(tier, &disk, &manifest)?),
            None => None,
        };
        let blocks = open_blocks(&*disk, &manifest, &interner, tier.as_deref(), &|_| true)?;
        let next_block = AtomicU64::new(sweep(&*disk, &manifest)?);
        if let Err(e) = snapshots::sweep(&*disk) {
            tracing::warn!(error = %e, "cannot remove an unfinished snapshot of an earlier run; retrying later");
        }
        if let Err(e) = manifest.repair() {
            tracing::warn!(error = %e, "cannot write the copy of the manifest; retrying later");
        }
        let cache_bytes = options.cache_bytes_max as u64;
        let cache = (cache_bytes > 0).then(|| Arc::new(WorkingSet::new(cache_bytes)));
        let foresight = (options.foresee && cache.is_some()).then(Arc::<Foresight>::default);
        let view = View { heads: vec![Arc::clone(&head)], blocks };
        let log = Log::open(Arc::clone(&disk), LOG_DIR, options.log.clone(), &floor)?;
        if let Err(e) = log.sync_found(&floor) {
            tracing::warn!(error = %e, "cannot sync the existing log; its samples may not survive a power loss until the next flush");
        }
        let changes = Arc::<Changes>::default();
        let writing = Arc::new(Shared {
            interner: Arc::clone(&interner),
            counters: Arc::clone(&counters),
            changes: Arc::clone(&changes),
            pool: Pool::new(options.pooled),
        });
        let inner = Arc::new(Inner {
            disk,
            limits: options.limits.clone().into(),
            retention: ArcSwap::from_pointee(Retention::of(&options)),
            steps: Steps::default(),
            options,
            manifest,
            log,
            view: ArcSwap::from_pointee(view),
            counters,
            changes,
            background: Arc::default(),
            interner,
            cache,
            tier,
            foresight,
            reads: Arc::default(),
            frozen: Mutex::default(),
            flushing: Mutex::default(),
            next_block,
            compacting: Mutex::default(),
            publishing: Mutex::default(),
            linking: RwLock::new(()),
            is_straggled: AtomicBool::new(false),
            deletes: Mutex::default(),
            snapshots: Mutex::default(),
            shortest_kept: Mutex::default(),
            unmergeable: Mutex::default(),
            resting: Mutex::default(),
            not_before: Mutex::default(),
            viewing: Mutex::default(),
            gate: RwLock::new(()),
            writing,
            progress: Arc::new(Progress::new()),
            replayed: Mutex::default(),
            is_closed: AtomicBool::new(false),
        });
        let store =
            Arc::new(Store { inner: Arc::clone(&inner), threads: Mutex::default(), lock: Mutex::new(Some(lock)) });
        store.start_replay(head)?;
        for number in 0..LANES {
            let inner = Arc::clone(&inner);
            store.spawn(&format!("background-{number}"), move || {
                turns::take_turns();
                inner.background.work(|kind| inner.run(kind));
            })?;
        }
        if inner.options.background {
            store.spawn("background-due", move || inner.background.ticks(|| inner.tick()))?;
        }
        Ok(store)
    }

    /// Replays the log on a thread of its own; returns when it is known that it can be read.
    fn start_replay(&self, head: Arc<Head>) -> Result<(), OpenError> {
        let inner = Arc::clone(&self.inner);
        let failure = Arc::new(Mutex::new(None));
        let failed = Arc::clone(&failure);
        self.spawn("replay", move || {
            let ended = catch_unwind(AssertUnwindSafe(|| inner.replay(head)));
            if let Err(e) = ended.unwrap_or_else(|_| Err(OpenError::Damaged("the replay of the log panicked".into()))) {
                let text = e.to_string();
                *failed.lock() = Some(e);
                inner.progress.set(Phase::Failed(text));
            }
        })?;
        match self.inner.progress.wait_while(&[Phase::Checking]) {
            Phase::Failed(_) => match failure.lock().take() {
                Some(e) => {
                    self.close();
                    Err(e)
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread = thread.map_err(|e| OpenError::Damaged(format!("cannot start the thread {name}: {e}")))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Blocks until the log is replayed.
    pub fn wait_until_ready(&self) {
        self.inner.progress.wait_while(&[Phase::Checking, Phase::Replaying]);
    }

    /// [`Store::wait_until_ready`] for async callers.
    pub async fn ready(&self) {
        self.inner.progress.finished().await;
    }

    /// The limits that it looks at, to be shared with the layers above and to be replaced.
    pub fn limits(&self) -> LiveLimits {
        self.inner.limits.clone()
    }

    /// Keeps data for another time or size from now on.
    pub fn set_retention(&self, retention: Retention) {
        self.inner.retention.store(Arc::new(retention));
        self.inner.shortest_kept.lock().clear();
    }

    /// What the log's replay found at the start.
    pub fn replay_report(&self) -> ReplayReport {
        self.inner.replayed.lock().clone()
    }

    /// Figures of the log.
    pub fn log_figures(&self) -> LogFigures {
        self.inner.log.figures()
    }

    /// Figures of the working set of decoded chunks.
    pub fn cache_figures(&self) -> WorkingSetFigures {
        self.inner.cache.as_ref().map_or_else(WorkingSetFigures::default, |c| c.figures())
    }

    /// Ends background work, commits what is queued and lets go of the folder. What is in the head stays in the log.
    pub fn close(&self) {
        self.inner.is_closed.store(true, Ordering::Release);
        self.inner.progress.stop();
        self.inner.background.stop();
        self.inner.log.close();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                tracing::error!("a background thread of the store panicked");
            }
        }
        if let Some(tier) = &self.inner.tier {
            tier.cache.close();
        }
        *self.lock.lock() = None;
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn replay(&self, head: Arc<Head>) -> Result<(), OpenError> {
        let floor = self.manifest.current().log_floor.clone();
        let make =
            |_| ShardReplay::new(Arc::clone(&head), Arc::clone(&self.interner), Some(Arc::clone(&self.progress)));
        let report = replay(&*self.disk, LOG_DIR, &floor, self.options.replay_threads, make)?;
        if self.progress.is_stopped() {
            self.progress.set(Phase::Failed("the store is shutting down".to_owned()));
            return Ok(());
        }
        self.log.keep_damaged(&report);
        if !head.is_empty() {
            head.first_write_ms.store(self.options.clock.now_ms().max(1), Ordering::Relaxed);
        }
        if report.segments > 0 {
            tracing::info!(
                segments = report.segments,
                frames = report.frames,
                samples = head.samples(),
                damages = report.damage.len(),
                "the log is replayed"
            );
        }
        *self.replayed.lock() = report;
        self.progress.set(Phase::Ready);
        Ok(())
    }

    fn begin_write(&self, batch: WriteBatch) -> Result<Answer, WriteError> {
        let now_ms = self.options.clock.now_ms();
        let limits = self.limits.get();
        let range = check(&batch, &limits, now_ms)?;
        let head = {
            let _gate = self.gate.read();
            let view = self.view.load();
            let Some(head) = view.heads.first() else { return Err(WriteError::Closed) };
            head.enter()
        };
        if head.bytes() / 2 >= head.bytes_max(self.options.head_bytes_max) {
            return Err(WriteError::Busy("the head is full; flushes cannot keep up".to_owned()));
        }
        let caps = SeriesCaps::of(&limits);
        let (entry, answer) = Entry::new(head, batch, range, caps, now_ms, &self.writing)?;
        match entry.is_late() {
            true => self.log.submit_aside(entry)?,
            false => self.log.submit(entry.shard(), entry)?,
        }
        Ok(answer)
    }

    /// Puts an empty head in the place of the present one, which stays in the view and gets no new writes.
    pub(crate) fn replace_head(&self) -> Arc<Head> {
        let _gate = self.gate.write();
        let old = Arc::clone(&self.view.load().heads[0]);
        let new = Arc::new(Head::new(old.generation + 1, Arc::clone(&self.counters)));
        self.change_view(|view| view.heads.insert(0, new));
        old
    }

    /// Changes what snapshots see, as one.
    pub(crate) fn change_view(&self, change: impl FnOnce(&mut View)) {
        let _one_at_a_time = self.viewing.lock();
        let mut view = View::clone(&self.view.load());
        change(&mut view);
        sort_by_arrival(&mut view.blocks);
        self.view.store(Arc::new(view));
        self.counters.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn tick(&self) {
        if self.progress.phase() != Phase::Ready {
            return;
        }
        // Whether anything is kept for a time or not: a jump that nobody saw would be believed later.
        self.look_at_clock();
        if self.flush_is_due() {
            self.schedule(TaskKind::Flush);
        }
        // None waits for another's success: one that fails again and again must not hold up the rest.
        if self.retention_is_due() {
            self.schedule(TaskKind::Retain);
        }
        if self.next_merge().is_some() {
            self.schedule(TaskKind::Compact);
        }
        if self.clean_is_due() {
            self.schedule(TaskKind::Clean);
        }
        if self.tier_is_due() {
            self.schedule(TaskKind::Tier);
        }
        if self.foresee_is_due() {
            self.schedule(TaskKind::Prefetch);
        }
        self.keep_budget();
    }

    /// The working set gives way where the process grows past what it should take.
    fn keep_budget(&self) {
        let Some(cache) = &self.cache else { return };
        let (capacity_max, process_max) = (self.options.cache_bytes_max as u64, self.options.process_bytes_max);
        let Some(process) = (process_max > 0).then(resident_bytes).flatten() else { return };
        let now = cache.figures().capacity;
        let next = Budget { capacity_max, process_max }.next(now, process);
        if next != now {
            tracing::info!(from = now, to = next, process, "the cache of decoded columns is resized");
            cache.set_capacity(next);
        }
    }

    /// Asks for a task, unless its last run failed a moment ago.
    fn schedule(&self, kind: TaskKind) {
        if self.not_before.lock().iter().all(|(k, at)| *k != kind || *at <= Instant::now()) {
            self.background.schedule(kind);
        }
    }

    fn run(&self, kind: TaskKind) -> Result<(), ReadError> {
        // A stop does not wait for a store that does not answer.
        let background = Arc::clone(&self.background);
        let result = Asker::new(move || !background.is_stopping()).during(|| match kind {
            TaskKind::Flush => self.flush_now(),
            TaskKind::Delete => self.delete_now(),
            TaskKind::Snapshot => self.snapshot_now(),
            TaskKind::Compact => self.compact_due(),
            TaskKind::CompactAll => self.compact_all(),
            TaskKind::Clean => self.clean_now(),
            TaskKind::Retain => self.retain_now(),
            TaskKind::Tier => self.tier_now(),
            TaskKind::Prefetch => self.foresee_now(),
        });
        let mut not_before = self.not_before.lock();
        not_before.retain(|(k, _)| *k != kind);
        if result.is_err() {
            not_before.push((kind, Instant::now() + RETRY_AFTER));
        }
        result
    }
}

impl Ingest for Store {
    fn write(&self, batch: WriteBatch) -> BoxFuture<'_, Result<WriteReceipt, WriteError>> {
        Box::pin(async move {
            if batch.is_empty() {
                return Ok(WriteReceipt::default());
            }
            if self.inner.is_closed.load(Ordering::Acquire) {
                return Err(WriteError::Closed);
            }
            if let Phase::Failed(why) = self.inner.progress.finished().await {
                return Err(WriteError::Poisoned(why));
            }
            let answer = self.inner.begin_write(batch)?;
            answer.await.unwrap_or(Err(WriteError::Closed))
        })
    }

    fn batch(&self) -> WriteBatch {
        self.inner.writing.pool.batch()
    }

    fn has_metadata(&self, family: &str, metadata: MetadataRef<'_>) -> bool {
        self.inner.view.load().heads.first().is_some_and(|head| head.has_metadata(family, metadata))
    }
}

impl Source for Store {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        let generation = self.inner.counters.generation.load(Ordering::Acquire);
        let inner = &self.inner;
        let watch = Watch {
            totals: Some(Arc::clone(&inner.reads)),
            foresight: inner.foresight.clone(),
            remote: inner.tier.as_ref().map(|t| Arc::clone(&t.cache)),
            now_ms: inner.options.clock.now_ms(),
        };
        Arc::new(StoreSnapshot::new(generation, &inner.view.load(), inner.cache.as_ref()).watched(watch))
    }

    fn may_wait(&self) -> bool {
        self.inner.tier.is_some()
    }

    fn changes(&self) -> Option<&Changes> {
        // What a replay brings is not noted.
        (self.inner.progress.phase() == Phase::Ready).then_some(&*self.inner.changes)
    }
}

impl Maintain for Store {
    fn flush(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        self.task(TaskKind::Flush)
    }

    fn compact(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        self.task(TaskKind::CompactAll)
    }

    fn delete(&self, selectors: Vec<Vec<Matcher>>, range: TimeRange) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            self.whole().await?;
            self.inner.deletes.lock().push(DeleteRequest { selectors, range, answer });
            self.run(TaskKind::Delete, answered).await
        })
    }

    fn clean_tombstones(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        self.task(TaskKind::Clean)
    }

    fn tier(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        self.task(TaskKind::Tier)
    }

    fn create_snapshot(&self, name: String, skip_head: bool) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async move {
            snapshots::folder_of(&name)?;
            let (answer, answered) = oneshot::channel();
            self.whole().await?;
            self.inner.snapshots.lock().push(SnapshotRequest { name, skip_head, answer });
            self.run(TaskKind::Snapshot, answered).await
        })
    }

    fn snapshot_files(&self, name: &str) -> Result<Vec<SnapshotFile>, ReadError> {
        self.inner.snapshot_files(name)
    }

    fn snapshot_read(&self, name: &str, path: &str, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        self.inner.snapshot_read(name, path, offset, len)
    }

    fn remove_snapshot(&self, name: &str) -> Result<(), ReadError> {
        self.inner.snapshot_remove(name)
    }

    fn tasks(&self) -> Tasks {
        Tasks { is_paused: self.inner.background.is_paused(), list: self.inner.background.status() }
    }

    fn pause_tasks(&self, is_paused: bool) {
        self.inner.background.pause(is_paused);
    }

    fn stats(&self, top: usize) -> StoreStats {
        let inner = &self.inner;
        let view = inner.view.load();
        let mut out = StoreStats::default();
        if let Some(head) = view.heads.first() {
            head.stats(top, &mut out);
        }
        let bounds = view.heads.iter().filter_map(|h| h.time_bounds());
        if let Some(b) = bounds.reduce(|a, b| TimeRange { min: a.min.min(b.min), max: a.max.max(b.max) }) {
            (out.head_min_ts, out.head_max_ts) = (b.min, b.max);
        }
        let manifest = inner.manifest.current();
        out.blocks = manifest.entries.len() as u64;
        out.block_bytes = manifest.entries.iter().map(|e| e.bytes).sum();
        out.log_bytes = inner.log.bytes();
        let get = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        out.samples_ingested = get(&inner.counters.samples);
        out.conflicts = get(&inner.counters.conflicts);
        out.refused_by_label = inner.counters.refused_by_label();
        out.lookup_ns = get(&inner.counters.lookup_ns);
        out.encode_ns = get(&inner.counters.encode_ns);
        out.apply_ns = get(&inner.counters.apply_ns);
        out.flushes = get(&inner.counters.flushes);
        out.compactions = get(&inner.counters.compactions);
        out.tombstones = manifest.tombstones.len() as u64;
        out.deletions = get(&inner.counters.deletions);
        out.blocks_dropped = get(&inner.counters.blocks_dropped);
        let damaged = |b: &Arc<StoredBlock>| b.damage().map(|what| (b.entry.file.clone(), what));
        out.damaged_blocks = view.blocks.iter().filter_map(damaged).collect();
        let working_set = self.cache_figures();
        let now = inner.options.clock.now_ms();
        let foresight = inner
            .foresight
            .as_ref()
            .map_or_else(Default::default, |f| f.figures(now, working_set.foreseen, working_set.foreseen_used));
        out.caches = CacheStats { working_set, reads: inner.reads.counts(), foresight };
        out.tier = inner.tier.as_ref().map(|t| t.figures(&manifest));
        out
    }

    fn health(&self) -> Health {
        match self.inner.progress.phase() {
            Phase::Checking | Phase::Replaying => Health::Starting,
            Phase::Failed(why) => Health::ReadOnly(why),
            Phase::Ready => match self.inner.log.health() {
                LogHealth::Ok => Health::Ok,
                LogHealth::Full(why) => Health::ReadOnly(format!("the disk is full: {why}")),
                LogHealth::Poisoned(why) => Health::ReadOnly(why.to_string()),
            },
        }
    }
}

impl Store {
    /// Waits for the end of the replay, and for a good one.
    async fn whole(&self) -> Result<(), ReadError> {
        self.ready().await;
        self.inner.progress.is_whole()
    }

    fn task(&self, kind: TaskKind) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async move {
            self.whole().await?;
            let answer = self.inner.background.request(kind);
            answer.await.unwrap_or_else(|_| Err(self.closed()))
        })
    }

    /// Runs a task for a request that was queued; the request has its own answer, given by that run or by one before it.
    async fn run(&self, kind: TaskKind, mut answer: oneshot::Receiver<Result<(), ReadError>>) -> Result<(), ReadError> {
        match self.inner.background.request(kind).await {
            Ok(_) => answer.try_recv().unwrap_or_else(|_| Err(self.closed())),
            Err(_) => Err(self.closed()),
        }
    }

    fn closed(&self) -> ReadError {
        ReadError::Io { file: self.inner.disk.name(), what: "the store is shutting down".into() }
    }
}

#[cfg(test)]
impl Store {
    pub(crate) fn inner_for_test(&self) -> &Arc<Inner> {
        &self.inner
    }

    pub(crate) fn retain_for_test(&self) -> Result<(), ReadError> {
        self.inner.retain_now()
    }

    pub(crate) fn flush_is_due(&self) -> bool {
        self.inner.flush_is_due()
    }

    /// What the background does once a second.
    pub(crate) fn tick_for_test(&self) {
        self.inner.tick();
    }

    /// Has it been told to stop?
    pub(crate) fn is_stopping_for_test(&self) -> bool {
        self.inner.background.is_stopping()
    }
}
