//! The façade: one folder of data, opened in this process.

use std::path::Path;
use std::sync::Arc;

use quiver_core::{
    Ingest, Maintain, OpenError, Retention, RetentionRule, Source, Store, StoreOptions, TEMPORARY_DIR, TierOptions,
    WriteError, WriteReceipt,
};
use quiver_model::{Clock, Limits, LiveLimits, SystemClock, WriteBatch};
use quiver_persistence::{Disk, DiskError, RealDisk};
use quiver_query::sql::{SqlAnswer, SqlEngine, SqlRequest, TEMPORARY_PREFIX};
use quiver_query::{Answer, Engine, EngineOptions, Features, PromqlRequest, QueryError};

/// How a database is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Limits.
    pub limits: Limits,
    /// PromQL features.
    pub features: Features,
    /// Blocks older than this are dropped, ms; `None`: never.
    pub retention_ms: Option<i64>,
    /// Series kept for another time than that; the first rule that accepts a series decides.
    pub retention_rules: Vec<RetentionRule>,
    /// The oldest blocks are dropped while blocks and log take more bytes; `None`: never.
    pub retention_bytes: Option<u64>,
    /// `None`: a write is synced before it is acknowledged; else the log is synced every so many ms.
    pub sync_interval_ms: Option<u64>,
    /// Bytes the head may take before it is flushed.
    pub head_bytes: usize,
    /// Maps the files of blocks; off: they are read by ranges.
    pub map_blocks: bool,
    /// Bytes of decoded samples of blocks that are kept.
    pub cache_bytes: usize,
    /// Bytes the process should stay under: decoded samples give way first. 0: it may take what it wants.
    pub process_bytes: u64,
    /// Reads ahead of what is asked for again and again.
    pub prefetch: bool,
    /// The remote store that blocks move to by age; none: they stay.
    pub tier: Option<TierOptions>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            features: Features::default(),
            retention_ms: None,
            retention_rules: Vec::new(),
            retention_bytes: None,
            sync_interval_ms: None,
            head_bytes: 512 << 20,
            map_blocks: true,
            cache_bytes: 128 << 20,
            process_bytes: 0,
            prefetch: true,
            tier: None,
            clock: Arc::new(SystemClock),
        }
    }
}

/// Why a database cannot be opened or closed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The data folder.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Threads or memory of the query engine.
    #[error("cannot start the query engine: {0}")]
    Engine(String),
}

/// Deletes the temporary files that a process left which was killed. A folder without anything else is deleted, too.
fn delete_temporary(folder: &Path) -> Result<(), DiskError> {
    let disk = RealDisk::create(folder)?;
    if !disk.exists(TEMPORARY_DIR)? {
        return Ok(());
    }
    for name in disk.list_dirs(TEMPORARY_DIR)?.iter().filter(|n| n.starts_with(TEMPORARY_PREFIX)) {
        let dir = format!("{TEMPORARY_DIR}/{name}");
        for file in disk.list(&dir)? {
            disk.remove(&format!("{dir}/{file}"))?;
        }
        disk.remove_dir(&dir)?;
    }
    if disk.list_dirs(TEMPORARY_DIR)?.is_empty() && disk.list(TEMPORARY_DIR)?.is_empty() {
        disk.remove_dir(TEMPORARY_DIR)?;
    }
    Ok(())
}

/// A database. Cheap to clone; the last [`Database::close`] counts.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use quiverdb::{Database, OpenOptions, model::WriteBatch};
///
/// let db = Database::open("data", OpenOptions::default()).await?;
/// let mut batch = WriteBatch::default();
/// batch.begin_series([("__name__", "temperature"), ("room", "attic")]);
/// batch.push_float(1_700_000_000_000, 21.5, 0);
/// db.write(batch).await?; // durable once it returns
/// let answer = db.query("avg(temperature)", 1_700_000_000_000).await?;
/// let rows = db.sql("SELECT room, value FROM metrics.temperature").await?.collect().await?;
/// db.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Database {
    store: Arc<Store>,
    engine: Arc<Engine>,
    sql: Arc<SqlEngine>,
    limits: LiveLimits,
}

impl Database {
    /// Opens a folder, made where it does not exist; one process at a time. The log is replayed before it returns.
    pub async fn open(folder: impl AsRef<Path>, options: OpenOptions) -> Result<Self, DatabaseError> {
        let db = Self::start(folder, options).await?;
        db.store.ready().await;
        Ok(db)
    }

    /// Opens a folder and replays its log in the background: reads see what is there so far, writes wait.
    pub async fn start(folder: impl AsRef<Path>, options: OpenOptions) -> Result<Self, DatabaseError> {
        let mut store_options = StoreOptions {
            limits: options.limits.clone(),
            retention_ms: options.retention_ms,
            retention_rules: options.retention_rules,
            retention_bytes_max: options.retention_bytes,
            head_bytes_max: options.head_bytes,
            map_blocks: options.map_blocks,
            cache_bytes_max: options.cache_bytes,
            process_bytes_max: options.process_bytes,
            foresee: options.prefetch,
            tier: options.tier,
            clock: options.clock,
            ..StoreOptions::default()
        };
        store_options.log.queue_max = options.limits.write_queue_max;
        if let Some(ms) = options.sync_interval_ms {
            store_options.log.durability = quiver_persistence::Durability::Interval(ms);
        }
        let folder = folder.as_ref().to_owned();
        let temporary = folder.join(TEMPORARY_DIR);
        let opened = tokio::task::spawn_blocking(move || {
            let store = Store::open_dir(&folder, store_options)?;
            if let Err(error) = delete_temporary(&folder) {
                tracing::warn!(%error, "cannot delete old temporary files of SQL statements");
            }
            Ok::<_, OpenError>(store)
        });
        let opened = opened.await;
        let store = opened.map_err(|e| DatabaseError::Engine(e.to_string()))??;
        let limits = store.limits();
        let engine_options =
            EngineOptions { limits: options.limits.clone(), features: options.features, ..EngineOptions::default() };
        let source: Arc<dyn Source> = Arc::clone(&store) as _;
        let failed = |e: &dyn std::fmt::Display| DatabaseError::Engine(e.to_string());
        let engine =
            Arc::new(Engine::sharing(Arc::clone(&source), engine_options, limits.clone()).map_err(|e| failed(&e))?);
        let maintain: Arc<dyn Maintain> = Arc::clone(&store) as _;
        let sql = SqlEngine::with_figures(source, Arc::clone(&engine), limits.clone(), Some(maintain), Some(temporary))
            .map_err(|e| failed(&e))?;
        Ok(Self { store, engine, sql: Arc::new(sql), limits })
    }

    /// Writes a batch: whole or not at all, on disk when it returns.
    pub async fn write(&self, batch: WriteBatch) -> Result<WriteReceipt, WriteError> {
        self.store.write(batch).await
    }

    /// PromQL at one instant, ms.
    pub async fn query(&self, promql: &str, time: i64) -> Result<Answer, QueryError> {
        self.query_range(promql, time, time, 0).await
    }

    /// PromQL over a grid of steps, ms; step 0 with `start == end` is an instant.
    pub async fn query_range(&self, promql: &str, start: i64, end: i64, step: i64) -> Result<Answer, QueryError> {
        let request = PromqlRequest { query: promql.to_owned(), start, end, step, options: Default::default() };
        self.engine.promql(request).await
    }

    /// SQL.
    pub async fn sql(&self, statement: &str) -> Result<SqlAnswer, QueryError> {
        self.sql.query(SqlRequest { sql: statement.to_owned(), ..SqlRequest::default() }).await
    }

    /// Stops background work and the log. What was acknowledged is on disk already; clones answer errors from now on.
    pub async fn close(self) -> Result<(), DatabaseError> {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || store.close()).await.map_err(|e| DatabaseError::Engine(e.to_string()))
    }

    /// Where writes go.
    pub fn ingest(&self) -> Arc<dyn Ingest> {
        Arc::clone(&self.store) as _
    }

    /// Where snapshots come from.
    pub fn source(&self) -> Arc<dyn Source> {
        Arc::clone(&self.store) as _
    }

    /// Maintenance.
    pub fn maintain(&self) -> Arc<dyn Maintain> {
        Arc::clone(&self.store) as _
    }

    /// The PromQL engine.
    pub fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.engine)
    }

    /// The SQL engine.
    pub fn sql_engine(&self) -> Arc<SqlEngine> {
        Arc::clone(&self.sql)
    }

    /// Limits in force; [`LiveLimits::set`] replaces them for everything that comes after.
    pub fn limits(&self) -> &LiveLimits {
        &self.limits
    }

    /// Keeps data for another time or size from now on.
    pub fn set_retention(&self, retention: Retention) {
        self.store.set_retention(retention);
    }
}
