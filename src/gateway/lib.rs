//! Protocols, and nothing else: bytes of a client in, calls of [`quiver_core`] and [`quiver_query`], bytes out.
//!
//! ```text
//! http/    Prometheus API, SQL, status, health       write/   remote write 1.0 and 2.0
//! otlp/    OpenTelemetry metrics over gRPC and HTTP
//! ```
//!
//! Invariants
//! 1. Every input has a limit that is judged before memory is spent on it.
//! 2. Only this layer turns errors into status codes, in one table (`http::error`).
//! 3. A client that leaves drops its request's future, and with it the query.

pub mod http;
pub mod otlp;
pub mod proto;
pub mod rejections;
pub mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use quiver_core::{Ingest, Maintain, Source};
use quiver_model::{Clock, LiveLimits};
use quiver_query::sql::SqlEngine;
use quiver_query::{Engine, Features};

/// What the layers below offer, and what is said about this server.
pub struct Services {
    /// Takes writes.
    pub ingest: Arc<dyn Ingest>,
    /// Gives snapshots.
    pub source: Arc<dyn Source>,
    /// Maintenance.
    pub maintain: Arc<dyn Maintain>,
    /// Answers PromQL.
    pub engine: Arc<Engine>,
    /// Answers SQL.
    pub sql: Arc<SqlEngine>,
    /// Limits in force.
    pub limits: LiveLimits,
    /// PromQL features in force.
    pub features: Features,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// `POST /api/v1/admin/…` answers.
    pub admin_api: bool,
    /// Pages of other origins, and names of this server, that browsers may use.
    pub allowed: http::origin::Allowed,
    /// Facts for the status pages.
    pub about: About,
    /// Reads the configuration again, where that can be asked for over HTTP.
    pub reload: Option<Arc<dyn Fn() -> Result<(), String> + Send + Sync>>,
}

/// Facts for the status pages.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Version of Quiver.
    pub version: String,
    /// Commit it was built from.
    pub revision: String,
    /// Date of that commit.
    pub build_date: String,
    /// When the process started, ms.
    pub started_ms: i64,
    /// Durability of a write: `commit`, or `interval` with its length.
    pub durability: String,
    /// Retention as text.
    pub retention: String,
    /// Flags in force, by name.
    pub flags: Vec<(String, String)>,
}

/// The configuration as it is now, and how the last attempt to read it again went.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// When it was read last with success, ms.
    pub read_ms: i64,
    /// Why the last attempt failed, if it did.
    pub error: Option<String>,
    /// Retention as text.
    pub retention: String,
    /// Flags in force, by name.
    pub flags: Vec<(String, String)>,
}

/// A counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the gateway counts about itself.
#[derive(Debug, Default)]
pub struct Counters {
    /// HTTP requests.
    pub requests: Counter,
    /// Queries answered.
    pub queries: Counter,
    /// Queries that failed.
    pub query_errors: Counter,
    /// Queries refused since they would cost more than a limit.
    pub queries_limited: Counter,
    /// Queries out of time.
    pub queries_timed_out: Counter,
    /// Queries stopped by somebody, or whose client left.
    pub queries_canceled: Counter,
    /// Queries turned away since too many were waiting.
    pub queries_busy: Counter,
    /// Samples acknowledged.
    pub samples: Counter,
    /// OTLP data points in whose place a later one of the same stream and millisecond was kept.
    pub superseded: Counter,
    /// Resources whose `target_info` has samples at their points only.
    pub target_info_thinned: Counter,
    /// Processor time spent decompressing and decoding remote write, ns.
    pub decode_ns: Counter,
    /// Connections open.
    pub connections: AtomicU64,
    /// Reloads of the configuration that succeeded.
    pub reloads: Counter,
    /// Those that failed.
    pub reload_failures: Counter,
}

impl Counters {
    /// Counts a query that failed, and why.
    pub fn query_failed(&self, e: &quiver_query::QueryError) {
        use quiver_query::QueryError;
        self.query_errors.add(1);
        match e {
            QueryError::CostLimit(_) | QueryError::SamplesLimit => self.queries_limited.add(1),
            QueryError::Timeout(_) => self.queries_timed_out.add(1),
            QueryError::Canceled(_) => self.queries_canceled.add(1),
            QueryError::Busy(_) => self.queries_busy.add(1),
            _ => {}
        }
    }
}

/// The state of all protocols.
pub struct Gateway {
    /// What is below.
    pub services: Services,
    /// Figures.
    pub counters: Counters,
    /// What was rejected, and why.
    pub rejections: Arc<rejections::Rejections>,
    /// How the configuration is.
    pub settings: Mutex<Settings>,
    /// Connections to the HTTP port.
    pub peers: Arc<http::peers::Peers>,
    /// Room for answers that wait to be read.
    pub answers: Arc<http::answers::AnswerRoom>,
    /// Room for bodies of writes.
    pub bodies: http::body::BodyRoom,
    /// Places for threads that write large answers.
    pub writers: Arc<http::turns::Writers>,
    /// Places for lookups of series, labels, metadata and exemplars.
    pub lookups: Arc<tokio::sync::Semaphore>,
    /// Places for exports under way.
    pub exports: Arc<tokio::sync::Semaphore>,
    scratches: Mutex<Vec<write::Scratch>>,
    /// Where late writes are decoded; none where the system gives no thread.
    aside: Option<write::Aside>,
}

impl Gateway {
    /// A gateway over services.
    pub fn new(services: Services) -> Arc<Self> {
        let settings = Settings {
            read_ms: services.about.started_ms,
            error: None,
            retention: services.about.retention.clone(),
            flags: services.about.flags.clone(),
        };
        let bodies = http::body::BodyRoom::new(services.limits.get().write_bodies_bytes_max);
        let peers = Arc::<http::peers::Peers>::default();
        let answers = http::answers::AnswerRoom::new(services.limits.get().answer_bytes_max, Arc::clone(&peers));
        Arc::new(Self {
            peers,
            answers: Arc::new(answers),
            bodies,
            writers: Arc::default(),
            lookups: Arc::new(tokio::sync::Semaphore::new(http::LOOKUPS_MAX)),
            exports: Arc::new(tokio::sync::Semaphore::new(http::export::EXPORTS_MAX)),
            services,
            counters: Counters::default(),
            rejections: rejections::Rejections::new(),
            settings: Mutex::new(settings),
            scratches: Mutex::default(),
            aside: write::Aside::new(),
        })
    }
}
