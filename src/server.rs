//! `quiver serve`: builds the layers bottom-up, announces itself, drains on a signal.
//!
//! Order of start: data folder, log replay, engine, ports. Order of stop: ports, requests under way, background work, log.

use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quiver_core::OpenError;
use quiver_gateway::http::status::own_metrics;
use quiver_gateway::{About, Gateway, Services};
use quiver_model::{METRIC_NAME, Metadata, MetricKind, WriteBatch};
use quiver_persistence::RealDisk;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Listen, about_bytes};
use crate::database::{Database, DatabaseError, OpenOptions};
use crate::reload::{Origin, Reload, retention_of, retention_text};

/// How often own metrics are recorded.
const SELF_METRICS_INTERVAL: Duration = Duration::from_secs(15);
/// How often at first, so that a new server has rates after seconds.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// How long that is at first.
const FIRST_TIME: Duration = Duration::from_secs(60);
/// Fewer files and connections than a server needs.
const DESCRIPTORS_FEW: u64 = 1024;

/// Why the server did not start, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data folder.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Another server has the data folder.
    #[error("a server{} already runs on the data folder {folder}", holder.map_or_else(String::new, |id| format!(" (process {id})")))]
    Running {
        /// Which folder.
        folder: String,
        /// Its process, if known.
        holder: Option<u32>,
    },
    /// A port.
    #[error("cannot listen on {address}: {why}. Choose another with --{flag} ADDR, or switch it off with --{flag} off")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Flag that says where.
        flag: &'static str,
        /// Why not.
        why: String,
    },
    /// A setting.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The clock of a test.
    #[error("{0}")]
    Clock(String),
    /// No port at all.
    #[error("nothing to serve: both --http-listen and --grpc-listen are off")]
    NoPort,
}

async fn bind(listen: Listen, flag: &'static str) -> Result<Option<TcpListener>, ServeError> {
    match listen {
        Listen::Off => Ok(None),
        Listen::On(address) => match TcpListener::bind(address).await {
            Ok(l) => Ok(Some(l)),
            Err(e) => Err(ServeError::Listen { address, flag, why: e.to_string() }),
        },
    }
}

/// Serves until SIGTERM or SIGINT; SIGHUP reads the configuration of `origin` again.
pub async fn serve(config: Config, origin: Origin) -> Result<(), ServeError> {
    // From the first moment on: a signal during the start ends it in order too.
    let mut signals = Signals::new();
    let clock = quiver_persistence::open_clock().map_err(ServeError::Clock)?;
    let started_ms = clock.now_ms();
    // A port in use says less than a folder in use, and both are so if the same server is started twice.
    if let Some(holder) = RealDisk::open(&config.data_dir).ok().and_then(|disk| disk.holder()) {
        return Err(ServeError::Running { folder: config.data_dir.display().to_string(), holder });
    }
    let http = bind(config.http, "http-listen").await?;
    let grpc = bind(config.grpc, "grpc-listen").await?;
    if http.is_none() && grpc.is_none() {
        return Err(ServeError::NoPort);
    }
    let retention = retention_of(&config)?;
    tell_limits(&config);
    config.warnings(quiver_persistence::memory_bytes()).iter().for_each(|w| tracing::warn!("{w}"));
    let database = Database::start(
        &config.data_dir,
        OpenOptions {
            limits: config.limits.clone(),
            features: config.features,
            retention_ms: retention.keep_ms,
            retention_rules: retention.rules,
            retention_bytes: retention.bytes_max,
            sync_interval_ms: config.sync_interval_ms,
            head_bytes: config.head_bytes,
            map_blocks: config.map_blocks,
            cache_bytes: config.caches.cache_bytes,
            process_bytes: config.caches.process_bytes,
            prefetch: config.caches.prefetch,
            tier: config.caches.tier.as_ref().map(|t| t.options()).transpose()?,
            clock: Arc::clone(&clock),
        },
    )
    .await
    .map_err(|e| match e {
        DatabaseError::Open(OpenError::InUse { folder, holder }) => ServeError::Running { folder, holder },
        e => ServeError::Database(e),
    })?;
    if config.allowed.any_origin() {
        tracing::warn!("--cors-origins *: every web page that a user of this network opens may read all data");
    }
    let reload = Reload::new(origin, config.clone(), database.clone(), Arc::clone(&clock));
    let by_request = Arc::clone(&reload);
    let gateway = Gateway::new(Services {
        ingest: database.ingest(),
        source: database.source(),
        maintain: database.maintain(),
        engine: database.engine(),
        sql: database.sql_engine(),
        limits: database.limits().clone(),
        features: config.features,
        clock: Arc::clone(&clock),
        admin_api: config.admin_api,
        allowed: config.allowed.clone(),
        about: About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: crate::COMMIT.to_owned(),
            build_date: crate::COMMIT_DATE.to_owned(),
            started_ms,
            durability: config.durability().to_owned(),
            retention: retention_text(&config),
            flags: config.flags(),
        },
        reload: Some(Arc::new(move || by_request.run())),
    });
    reload.tell(&gateway);
    announce(&config, http.as_ref(), grpc.as_ref());

    // The one that was bound: the port may have been left to the system.
    let address = http.as_ref().and_then(|l| l.local_addr().ok());
    let shutdown = CancellationToken::new();
    let mut tasks = Vec::new();
    if let Some(listener) = http {
        let router = quiver_gateway::http::router(Arc::clone(&gateway));
        let served = quiver_gateway::http::server::serve(listener, router, Arc::clone(&gateway), shutdown.clone());
        tasks.push(tokio::spawn(served));
    }
    if let Some(listener) = grpc {
        tasks.push(tokio::spawn(quiver_gateway::otlp::grpc::serve(listener, Arc::clone(&gateway), shutdown.clone())));
    }
    if config.self_metrics {
        let instance = address.map_or_else(|| "local".to_owned(), |a| a.to_string());
        tasks.push(tokio::spawn(record_self(Arc::clone(&gateway), instance, shutdown.clone())));
    }
    while let Signal::Reload = signals.next().await {
        let reload = Arc::clone(&reload);
        // It says itself how it went. A file that does not answer must not hold up the signal to stop.
        tokio::task::spawn_blocking(move || reload.run());
    }
    tracing::info!("stopping; waiting for running requests");
    let second = tokio::spawn(async move {
        while let Signal::Reload = signals.next().await {}
        // Asked twice: what was acknowledged is on disk already.
        std::process::exit(130);
    });
    shutdown.cancel();
    for t in tasks {
        let _ = t.await;
    }
    database.close().await?;
    second.abort();
    tracing::info!("stopped");
    Ok(())
}

/// Logs what the process may use.
fn tell_limits(config: &Config) {
    match quiver_persistence::raise_descriptors() {
        Some(n) if n < DESCRIPTORS_FEW => {
            tracing::warn!("open files and connections: at most {n}; a server needs more (ulimit -n, LimitNOFILE)");
        }
        Some(n) => tracing::debug!("open files and connections: at most {n}"),
        None => tracing::debug!("open files and connections: no limit"),
    }
    let found = quiver_persistence::memory_bytes().map_or_else(|| "unknown".to_owned(), about_bytes);
    let size = |n: usize| about_bytes(n as u64);
    tracing::debug!(
        "memory found: {found}; limits: all queries {}, one query {}, head {}, cache {}",
        size(config.limits.query_memory_total_bytes_max),
        size(config.limits.query_memory_bytes_max),
        size(config.head_bytes),
        size(config.caches.cache_bytes)
    );
}

fn announce(config: &Config, http: Option<&TcpListener>, grpc: Option<&TcpListener>) {
    let address = |l: Option<&TcpListener>| l.and_then(|l| l.local_addr().ok());
    let mut text = format!("Quiver {} keeps its data in {}\n", crate::VERSION, config.data_dir.display());
    if let Some(a) = address(http) {
        text.push_str(&format!(
            "\n  PromQL           http://{a}/api/v1/query\n  SQL              http://{a}/api/v1/sql\n  \
             remote write     http://{a}/api/v1/write\n  OTLP metrics     http://{a}/v1/metrics\n"
        ));
    }
    if let Some(a) = address(grpc) {
        text.push_str(&format!("  OTLP over gRPC   http://{a}\n"));
    }
    if let Some(a) = address(http) {
        let url = if a.port() == 9095 && a.ip().is_loopback() { String::new() } else { format!(" --url http://{a}") };
        text.push_str(&format!(
            "\nTry it from another terminal:\n\n  {} query{url} 'quiver_uptime_seconds'\n  \
             curl 'http://{a}/api/v1/query?query=quiver_head_series'\n\nCtrl-C stops the server. Every acknowledged write is on disk.\n",
            crate::cli::program()
        ));
    }
    let mut out = std::io::stdout();
    let first = if out.is_terminal() { "\n" } else { "" };
    // Nobody may be listening; that is no reason not to serve.
    let _ = write!(out, "{first}{text}{first}").and_then(|()| out.flush());
}

/// What a signal asks for.
enum Signal {
    Stop,
    Reload,
}

/// SIGTERM, SIGINT and SIGHUP, taken over from the moment this is made.
struct Signals(Vec<(bool, tokio::signal::unix::Signal)>);

impl Signals {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let kinds = [(false, SignalKind::terminate()), (false, SignalKind::interrupt()), (true, SignalKind::hangup())];
        // Where one cannot be taken over, it ends the process as it always did.
        Self(kinds.into_iter().filter_map(|(reloads, k)| Some((reloads, signal(k).ok()?))).collect())
    }

    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            // An end goes before a reload.
            let mut found = std::task::Poll::Pending;
            for (reloads, signal) in &mut self.0 {
                if found.is_pending() && signal.poll_recv(cx).is_ready() {
                    found = std::task::Poll::Ready(if *reloads { Signal::Reload } else { Signal::Stop });
                }
            }
            found
        })
        .await
    }
}

/// Writes the server's own metrics into itself, so that the first query answers something: every second in the first minute, since
/// a rate needs two samples, every 15 s then.
async fn record_self(gateway: Arc<Gateway>, instance: String, shutdown: CancellationToken) {
    // Their metadata is known. Not all are there from the start: a ratio has to be of something.
    let mut told: HashSet<&'static str> = HashSet::new();
    let mut ticks = tokio::time::interval(FIRST_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let begun = tokio::time::Instant::now();
    loop {
        if ticks.period() == FIRST_INTERVAL && begun.elapsed() >= FIRST_TIME {
            ticks = tokio::time::interval_at(begun + FIRST_TIME + SELF_METRICS_INTERVAL, SELF_METRICS_INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = gateway.services.clock.now_ms();
        let mut batch = WriteBatch::default();
        let metrics = own_metrics(&gateway);
        for m in &metrics {
            let mut labels = vec![(METRIC_NAME, m.name), ("instance", instance.as_str()), ("job", "quiver")];
            labels.extend(m.labels.iter().copied());
            labels.sort_unstable();
            batch.begin_series(labels);
            batch.push_float(now, m.value, 0);
            if !told.contains(m.name) {
                let kind = if m.counter { MetricKind::Counter } else { MetricKind::Gauge };
                let metadata = Metadata { kind, unit: String::new(), help: m.help.to_owned() };
                batch.metadata.push((m.name.to_owned(), metadata));
            }
        }
        batch.begin_series([(METRIC_NAME, "up"), ("instance", instance.as_str()), ("job", "quiver")]);
        batch.push_float(now, 1.0, 0);
        // A write waits for the end of a replay, which a stop is to cut short.
        let written = tokio::select! {
            () = shutdown.cancelled() => return,
            written = gateway.services.ingest.write(batch) => written,
        };
        match written {
            Ok(_) => told.extend(metrics.iter().map(|m| m.name)),
            Err(e) => tracing::debug!(error = %e, "cannot record the server's own metrics"),
        }
    }
}
