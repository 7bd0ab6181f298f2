//! `status/…`, `features`, own metrics.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{HeaderMap, Response};
use quiver_core::{Health, NamedCount, StoreStats, TaskState};
use quiver_model::calendar::{DAY_MS, date_of};
use quiver_query::Engine;
use quiver_query::sql::cache_tiers;

use super::error::{ApiError, ErrorType};
use super::json::Json;
use super::params::Params;
use super::{ok_json, success};
use crate::Gateway;

/// The Prometheus release whose API and language this server speaks. Grafana and other clients decide by it what they
/// may ask for.
const PROMETHEUS_VERSION: &str = "3.16.0";

/// `status/PAGE`
pub fn page(g: &Gateway, headers: &HeaderMap, p: &Params, page: &str) -> Result<Response<Body>, ApiError> {
    if page == "cardinality" {
        return cardinality(g, headers, p);
    }
    let health = g.services.maintain.health();
    let stats = match page {
        "tsdb" => Some(g.services.maintain.stats(top(p)?)),
        _ => None,
    };
    let known =
        ["cardinality", "buildinfo", "runtimeinfo", "tsdb", "flags", "config", "walreplay", "active_queries", "tasks"];
    if !known.contains(&page) {
        return Err(ApiError::new(
            ErrorType::NotFound,
            format!("no status page {page:?}, there are {}", known.join(", ")),
        ));
    }
    Ok(success(headers, &[], &[], |j| match page {
        "buildinfo" => build_info(g, j),
        "runtimeinfo" => runtime_info(g, j, &health),
        "flags" => {
            j.raw("{");
            for (i, (n, v)) in g.settings.lock().flags.iter().enumerate() {
                if i > 0 {
                    j.raw(",");
                }
                j.string(n).raw(":").string(v);
            }
            j.raw("}");
        }
        "config" => {
            j.raw(r#"{"yaml":""}"#);
        }
        "walreplay" => {
            let state = if health == Health::Starting { "in progress" } else { "done" };
            j.raw(r#"{"min":0,"max":0,"current":0,"state":"#).string(state).raw("}");
        }
        "active_queries" => active_queries(g, j),
        "tasks" => tasks(g, j),
        _ => {
            let s = stats.unwrap_or_default();
            j.raw(r#"{"headStats":{"numSeries":"#).int(s.head_series as i64);
            j.raw(r#","numLabelPairs":"#).int(s.label_pairs as i64);
            j.raw(r#","chunkCount":"#).int(s.head_chunks as i64);
            j.raw(r#","minTime":"#).int(s.head_min_ts).raw(r#","maxTime":"#).int(s.head_max_ts);
            j.raw(r#"},"seriesCountByMetricName":"#);
            counts(j, &s.series_by_metric);
            j.raw(r#","labelValueCountByLabelName":"#);
            counts(j, &s.values_by_label);
            j.raw(r#","memoryInBytesByLabelName":"#);
            counts(j, &s.bytes_by_label);
            j.raw(r#","seriesCountByLabelValuePair":"#);
            counts(j, &s.series_by_pair);
            j.raw(r#","storage":{"blocks":"#).int(s.blocks as i64);
            j.raw(r#","blockBytes":"#).int(s.block_bytes as i64);
            j.raw(r#","logBytes":"#).int(s.log_bytes as i64);
            j.raw(r#","samplesIngested":"#).int(s.samples_ingested as i64);
            j.raw(r#","conflicts":"#).int(s.conflicts as i64);
            j.raw(r#","seriesRefusedByLabelName":"#);
            counts(j, &s.refused_by_label);
            j.raw(r#","flushes":"#).int(s.flushes as i64);
            j.raw(r#","compactions":"#).int(s.compactions as i64);
            j.raw(r#","tombstones":"#).int(s.tombstones as i64);
            j.raw(r#","blocksDropped":"#).int(s.blocks_dropped as i64).raw(r#","damagedBlocks":["#);
            for (i, (file, what)) in s.damaged_blocks.iter().enumerate() {
                j.raw(if i > 0 { r#",{"file":"# } else { r#"{"file":"# }).string(file);
                j.raw(r#","error":"#).string(what).raw("}");
            }
            j.raw("]}}");
        }
    }))
}

/// Length of top lists.
fn top(p: &Params) -> Result<usize, ApiError> {
    match p.limit()? {
        0 => Ok(10),
        n if n > 10_000 => Err(ApiError::invalid_param("limit", "limit must not exceed 10000".into())),
        n => Ok(n),
    }
}

/// `status/cardinality`: counts over heads and blocks, of the series that `match[]` selects (all, without) in a range of
/// time; `focus` names a label whose values are counted one by one.
fn cardinality(g: &Gateway, headers: &HeaderMap, p: &Params) -> Result<Response<Body>, ApiError> {
    let (top, range, selectors) = (top(p)?, p.time_range()?, p.narrow_selectors(g)?);
    let matchers = match selectors.as_slice() {
        [] => &[][..],
        [one] => one,
        _ => return Err(ApiError::invalid_param("match[]", "one selector at most".into())),
    };
    let series_max = g.services.limits.get().query_series_max;
    let set = g.services.source.snapshot().select(matchers, range, series_max)?;
    let focus = Some(p.get("focus")).filter(|name| !name.is_empty());
    let c = quiver_core::cardinality(&*set, focus, top);
    Ok(success(headers, &[], &[], |j| {
        j.raw(r#"{"numSeries":"#).int(c.series as i64).raw(r#","numLabelPairs":"#).int(c.pairs as i64);
        for (name, list) in [
            ("seriesCountByMetricName", &c.series_by_metric),
            ("seriesCountByLabelName", &c.series_by_label),
            ("labelValueCountByLabelName", &c.values_by_label),
            ("seriesCountByLabelValuePair", &c.series_by_pair),
            ("seriesCountByFocusLabelValue", &c.series_by_focus),
        ] {
            j.raw(",").string(name).raw(":");
            counts(j, list);
        }
        j.raw("}");
    }))
}

/// `{"paused": …, "tasks": [{"task": …, "state": …, …}, …]}`
fn tasks(g: &Gateway, j: &mut Json) {
    let tasks = g.services.maintain.tasks();
    let now = g.services.clock.now_ms();
    j.raw(r#"{"paused":"#).raw(if tasks.is_paused { "true" } else { "false" }).raw(r#","tasks":["#);
    for (i, t) in tasks.list.iter().enumerate() {
        let state = match t.state {
            TaskState::Idle => "idle",
            TaskState::Waiting => "waiting",
            TaskState::Running => "running",
        };
        j.raw(if i > 0 { r#",{"task":"# } else { r#"{"task":"# }).string(t.kind.name());
        j.raw(r#","state":"#).string(state);
        j.raw(r#","ageSeconds":"#).raw(&format!("{:.3}", t.age_ms as f64 / 1000.0));
        // How far a run is says nothing once it has ended: what was left at the end is no work that waits.
        match t.state {
            TaskState::Running => j.raw(r#","done":"#).int(t.done as i64).raw(r#","total":"#).int(t.total as i64),
            TaskState::Idle | TaskState::Waiting => j.raw(r#","done":null,"total":null"#),
        };
        j.raw(r#","runs":"#).int(t.runs as i64).raw(r#","failures":"#).int(t.failures as i64);
        j.raw(r#","lastStarted":"#);
        match t.started_ago_ms {
            Some(ago) => j.string(&rfc3339(now.saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX)))),
            None => j.raw("null"),
        };
        j.raw(r#","lastDurationSeconds":"#);
        match t.took_ms {
            Some(ms) => j.raw(&format!("{:.3}", ms as f64 / 1000.0)),
            None => j.raw("null"),
        };
        j.raw(r#","lastError":"#);
        match &t.last_error {
            Some(e) => j.string(e),
            None => j.raw("null"),
        };
        j.raw("}");
    }
    j.raw("]}");
}

fn counts(j: &mut Json, list: &[NamedCount]) {
    j.raw("[");
    for (i, c) in list.iter().enumerate() {
        j.raw(if i > 0 { r#",{"name":"# } else { r#"{"name":"# }).string(&c.name);
        j.raw(r#","value":"#).int(c.count as i64).raw("}");
    }
    j.raw("]");
}

/// No `features` key: Grafana takes a server that has one for a different product.
pub fn build_info(g: &Gateway, j: &mut Json) {
    let about = &g.services.about;
    j.raw(r#"{"version":"#).string(PROMETHEUS_VERSION).raw(r#","revision":"#).string(&about.revision);
    j.raw(r#","branch":"","buildUser":"","buildDate":"#).string(&about.build_date);
    j.raw(r#","goVersion":"","application":"Quiver","quiverVersion":"#).string(&about.version).raw("}");
}

fn runtime_info(g: &Gateway, j: &mut Json, health: &Health) {
    let about = &g.services.about;
    let read_only = match health {
        Health::ReadOnly(why) => why.as_str(),
        Health::Ok | Health::Starting => "",
    };
    j.raw(r#"{"startTime":"#).string(&rfc3339(about.started_ms));
    j.raw(r#","serverTime":"#).string(&rfc3339(g.services.clock.now_ms()));
    let settings = g.settings.lock().clone();
    let folder = std::env::current_dir().map_or_else(|_| String::new(), |d| d.display().to_string());
    j.raw(r#","CWD":"#).string(&folder).raw(r#","hostname":"#).string(&quiver_core::host_name());
    j.raw(r#","reloadConfigSuccess":"#).raw(if settings.error.is_none() { "true" } else { "false" });
    j.raw(r#","lastConfigTime":"#).string(&rfc3339(settings.read_ms));
    j.raw(r#","corruptionCount":"#).int(g.services.maintain.stats(0).damaged_blocks.len() as i64);
    j.raw(r#","goroutineCount":0,"GOMAXPROCS":"#);
    j.int(std::thread::available_parallelism().map_or(1, |n| n.get()) as i64);
    j.raw(r#","GOMEMLIMIT":0,"GOGC":"","GODEBUG":"","storageRetention":"#).string(&settings.retention);
    j.raw(r#","durability":"#).string(&about.durability).raw(r#","readOnly":"#).string(read_only);
    let tier = g.services.maintain.stats(0).tier.unwrap_or_default();
    j.raw(r#","remoteTier":"#).string(&tier.store).raw(r#","remoteTierFenced":"#);
    j.string(tier.fenced.as_deref().unwrap_or("")).raw("}");
}

/// Milliseconds since 1970 as RFC 3339 in UTC.
pub fn rfc3339(ms: i64) -> String {
    let (y, m, d) = date_of(ms.div_euclid(DAY_MS));
    let rest = ms.rem_euclid(DAY_MS);
    let (s, ms) = (rest / 1000, rest % 1000);
    format!("{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}.{ms:03}Z", s / 3600, s / 60 % 60, s % 60)
}

fn active_queries(g: &Gateway, j: &mut Json) {
    j.raw("[");
    for (i, q) in g.services.engine.active().list().iter().enumerate() {
        j.raw(if i > 0 { r#",{"id":"# } else { r#"{"id":"# }).int(q.id as i64);
        j.raw(r#","kind":"#).string(q.class.name());
        j.raw(r#","state":"#).string(if q.is_running { "running" } else { "waiting" });
        j.raw(r#","query":"#).string(&q.query).raw(r#","startTime":"#).string(&rfc3339(q.started_ms));
        j.raw(r#","samplesRead":"#)
            .int(q.samples_read as i64)
            .raw(r#","peakSamples":"#)
            .int(q.samples_peak as i64)
            .raw("}");
    }
    j.raw("]");
}

/// `DELETE status/active_queries/ID`
pub fn kill_query(g: &Gateway, id: &str) -> Result<Response<Body>, ApiError> {
    let number: u64 = id.parse().map_err(|_| ApiError::bad_data(format!("{id:?} is not the number of a query")))?;
    if !g.services.engine.active().kill(number) {
        return Err(ApiError::new(ErrorType::NotFound, format!("no query {number} is running")));
    }
    Ok(ok_json(br#"{"status":"success"}"#.to_vec()))
}

/// `features`
pub fn features(g: &Gateway) -> Response<Body> {
    let f = &g.services.features;
    let list = [
        ("experimental_functions", f.experimental_functions),
        ("fill_modifiers", f.fill_modifiers),
        ("unquoted_utf8_names", f.unquoted_utf8_names),
        ("delayed_name_removal", f.delayed_name_removal),
        ("use_start_timestamps", f.use_start_timestamps),
        ("duration_expr", true),
        ("anchored", true),
        ("smoothed", true),
    ];
    let body: Vec<_> = list.iter().map(|(n, on)| format!("{n:?}:{on}")).collect();
    let text = format!(
        r#"{{"status":"success","data":{{"promql":{{{}}},"api":{{"admin":{},"sql":true,"remote_write_receiver":true}}}}}}"#,
        body.join(","),
        g.services.admin_api
    );
    ok_json(text.into_bytes())
}

/// One of the server's own metrics.
pub struct OwnMetric {
    /// Name.
    pub name: &'static str,
    /// Help.
    pub help: &'static str,
    /// Labels.
    pub labels: Vec<(&'static str, &'static str)>,
    /// Rises only.
    pub counter: bool,
    /// Value.
    pub value: f64,
}

/// The server's own metrics at this moment.
pub fn own_metrics(g: &Gateway) -> Vec<OwnMetric> {
    let c = &g.counters;
    let s = g.services.maintain.stats(0);
    let now = g.services.clock.now_ms();
    let counter =
        |name, help, value: u64| OwnMetric { name, help, labels: Vec::new(), counter: true, value: value as f64 };
    let seconds =
        |name, help, ns: u64| OwnMetric { name, help, labels: Vec::new(), counter: true, value: ns as f64 / 1e9 };
    let refused = s.refused_by_label.iter().map(|c| c.count).sum();
    let gauge = |name, help, value: f64| OwnMetric { name, help, labels: Vec::new(), counter: false, value };
    let failures = g.services.maintain.tasks().list.iter().map(|t| t.failures).sum();
    let (reloaded, read_ms) = {
        let settings = g.settings.lock();
        (f64::from(u8::from(settings.error.is_none())), settings.read_ms)
    };
    let reuse = g.services.engine.reuse();
    let caches = &s.caches;
    let (l1, foresight) = (&caches.working_set, &caches.foresight);
    let tier = s.tier.clone().unwrap_or_default();
    let l3 = &tier.reads.pages;
    let writable = f64::from(u8::from(g.services.maintain.health() == Health::Ok));
    let mut list = vec![
        counter("quiver_http_requests_total", "HTTP requests received.", c.requests.get()),
        gauge("quiver_http_connections", "Open HTTP connections.", c.connections.load(Ordering::Relaxed) as f64),
        gauge(
            "quiver_request_body_bytes",
            "Bodies of requests under way, up to write_bodies_bytes_max.",
            g.bodies.used() as f64,
        ),
        gauge("quiver_answer_bytes", "Answers that wait for their clients to read them.", g.answers.used() as f64),
        counter(
            "quiver_answers_refused_total",
            "Answers that found no memory to wait in (503).",
            g.answers.refused.get(),
        ),
        counter("quiver_queries_total", "PromQL and SQL queries received.", c.queries.get()),
        counter("quiver_query_errors_total", "Queries that ended in an error.", c.query_errors.get()),
        counter("quiver_queries_limited_total", "Queries past a limit of cost.", c.queries_limited.get()),
        counter("quiver_queries_timed_out_total", "Queries out of time.", c.queries_timed_out.get()),
        counter("quiver_queries_canceled_total", "Queries stopped before their end.", c.queries_canceled.get()),
        counter("quiver_queries_busy_total", "Queries turned away: too many waited.", c.queries_busy.get()),
        gauge("quiver_query_memory_bytes", "Memory reserved by queries.", g.services.engine.memory().reserved() as f64),
        counter("quiver_result_cache_queries_total", "Range queries whose answers may be reused.", reuse.asked),
        counter("quiver_result_cache_hits_total", "Those of which steps were known.", reuse.hits),
        counter("quiver_result_cache_steps_reused_total", "Steps that were known.", reuse.steps_reused),
        counter("quiver_result_cache_steps_evaluated_total", "Steps beside them that were not.", reuse.steps_evaluated),
        gauge("quiver_result_cache_bytes", "Bytes of answers kept.", reuse.bytes as f64),
        counter("quiver_samples_written_total", "Samples acknowledged over HTTP.", c.samples.get()),
        counter(
            "quiver_otlp_points_superseded_total",
            "OTLP data points left out because a later one of the same stream and millisecond was kept.",
            c.superseded.get(),
        ),
        counter(
            "quiver_otlp_target_info_thinned_total",
            "OTLP resources whose points span so long that target_info has samples only where points are.",
            c.target_info_thinned.get(),
        ),
        gauge("quiver_head_series", "Series in the head.", s.head_series as f64),
        gauge("quiver_head_chunks", "Chunks in the head.", s.head_chunks as f64),
        gauge("quiver_blocks", "Blocks published.", s.blocks as f64),
        gauge("quiver_block_bytes", "Bytes of published blocks.", s.block_bytes as f64),
        gauge("quiver_log_bytes", "Bytes of the write-ahead log.", s.log_bytes as f64),
        counter("quiver_samples_ingested_total", "Samples applied to the head.", s.samples_ingested),
        counter("quiver_sample_conflicts_total", "Samples whose time was taken by another value.", s.conflicts),
        counter("quiver_series_refused_total", "New series refused for a limit.", refused),
        seconds("quiver_ingest_decode_seconds_total", "Processor time spent decoding remote write.", c.decode_ns.get()),
        seconds(
            "quiver_ingest_lookup_seconds_total",
            "Processor time spent finding the series of writes.",
            s.lookup_ns,
        ),
        seconds("quiver_ingest_encode_seconds_total", "Processor time spent encoding writes for the log.", s.encode_ns),
        seconds("quiver_ingest_apply_seconds_total", "Processor time spent applying writes to the head.", s.apply_ns),
        counter("quiver_flushes_total", "Heads written out as blocks.", s.flushes),
        counter("quiver_compactions_total", "Compactions of blocks.", s.compactions),
        gauge("quiver_tombstones", "Deletions not yet carried out.", s.tombstones as f64),
        counter("quiver_deletions_total", "Selectors deleted.", s.deletions),
        counter("quiver_blocks_dropped_total", "Blocks dropped by the retention.", s.blocks_dropped),
        gauge("quiver_blocks_damaged", "Blocks known to be damaged.", s.damaged_blocks.len() as f64),
        counter("quiver_cache_hits_total", "L1: decoded columns found.", l1.hits),
        counter("quiver_cache_misses_total", "L1: columns decoded.", l1.misses),
        counter("quiver_cache_passed_total", "L1: columns decoded and not kept: a query had its part.", l1.passed),
        counter("quiver_cache_evictions_total", "L1: columns that made room.", l1.evictions),
        gauge("quiver_cache_bytes", "L1: bytes held.", l1.bytes as f64),
        gauge("quiver_cache_capacity_bytes", "L1: bytes it may hold.", l1.capacity as f64),
        counter("quiver_mapped_chunks_total", "L2: chunks decoded from mapped blocks.", caches.reads.mapped_chunks),
        counter("quiver_mapped_bytes_total", "L2: their bytes.", caches.reads.mapped_bytes),
        counter("quiver_remote_chunks_total", "Chunks decoded from remote blocks.", caches.reads.remote_chunks),
        counter("quiver_remote_pages_hits_total", "L3: pages of remote blocks found on the local disk.", l3.hits),
        counter("quiver_remote_pages_fetched_total", "L3: pages that had to be fetched.", caches.reads.pages_fetched),
        counter("quiver_remote_pages_evictions_total", "L3: pages that made room.", l3.evictions),
        counter("quiver_remote_pages_promotions_total", "L3: pages kept longer because they were used.", l3.promotions),
        counter("quiver_remote_pages_damaged_total", "L3: pages that did not match their checksum.", l3.damaged),
        gauge("quiver_remote_pages_bytes", "L3: bytes held.", l3.bytes as f64),
        gauge("quiver_remote_pages_capacity_bytes", "L3: bytes it may hold.", l3.capacity as f64),
        counter("quiver_remote_requests_total", "Ranges read from the remote store.", tier.reads.requests),
        counter("quiver_remote_read_bytes_total", "Bytes read from the remote store.", tier.reads.bytes),
        counter("quiver_remote_errors_total", "Operations of the remote store that failed.", tier.reads.errors),
        counter("quiver_remote_retries_total", "Attempts beyond the first.", tier.retries),
        counter("quiver_remote_shared_total", "Waits for a request that was in flight already.", tier.reads.shared),
        gauge("quiver_tier_both_blocks", "Blocks on the local disk and in the remote store.", tier.both_blocks as f64),
        gauge("quiver_tier_remote_blocks", "Blocks in the remote store alone.", tier.remote_blocks as f64),
        gauge("quiver_tier_remote_bytes", "Their bytes.", tier.remote_bytes as f64),
        counter("quiver_tier_uploads_total", "Blocks uploaded.", tier.uploads),
        counter("quiver_tier_upload_bytes_total", "Their bytes.", tier.upload_bytes),
        gauge("quiver_tier_catalog", "Number of the newest catalog published.", tier.catalog as f64),
        gauge(
            "quiver_tier_fenced",
            "1 where another server publishes there.",
            f64::from(u8::from(tier.fenced.is_some())),
        ),
        gauge("quiver_prefetch_expected", "Selectors that are expected again.", foresight.learnt.expected as f64),
        counter("quiver_prefetch_hits_total", "Windows that came as expected.", foresight.learnt.hits),
        counter("quiver_prefetch_misses_total", "Windows that did not.", foresight.learnt.misses),
        counter("quiver_prefetch_columns_total", "Columns decoded before anybody asked.", foresight.columns),
        counter("quiver_prefetch_used_total", "Those of them that somebody asked for.", foresight.used),
        counter("quiver_prefetch_bytes_total", "Their bytes.", foresight.bytes),
        counter(
            "quiver_prefetch_fetched_bytes_total",
            "Bytes fetched ahead from the remote store.",
            foresight.fetched_bytes,
        ),
        gauge("quiver_prefetch_seconds", "Time that reading ahead took.", foresight.took_us as f64 / 1e6),
        counter("quiver_task_failures_total", "Background tasks that failed.", failures),
        gauge("quiver_config_last_reload_successful", "1 where the configuration in force is the file's.", reloaded),
        gauge("quiver_config_last_reload_success_timestamp_seconds", "When it was last read.", read_ms as f64 / 1000.0),
        counter("quiver_config_reloads_total", "Reloads that succeeded.", c.reloads.get()),
        counter("quiver_config_reload_failures_total", "Reloads that failed.", c.reload_failures.get()),
        gauge("quiver_writable", "1 while writes are taken.", writable),
        gauge("quiver_uptime_seconds", "Seconds since the start.", (now - g.services.about.started_ms) as f64 / 1000.0),
        gauge("quiver_build_info", "Constant 1.", 1.0),
    ];
    list.extend(hit_ratios(&s, &g.services.engine));
    list.extend(rejections(g));
    list
}

/// What was rejected, by door and reason: those of which there was any.
fn rejections(g: &Gateway) -> impl Iterator<Item = OwnMetric> {
    let parts = g.rejections.list_parts().map(|found| {
        (
            "quiver_samples_rejected_total",
            "Series, samples and data points left out of writes, by door and reason.",
            found,
        )
    });
    let requests = g
        .rejections
        .list_requests()
        .map(|found| ("quiver_requests_rejected_total", "Requests answered with an error, by door and reason.", found));
    parts.chain(requests).map(|(name, help, (door, reason, n))| {
        let labels = vec![("door", door.label()), ("reason", reason.label())];
        OwnMetric { name, help, labels, counter: true, value: n as f64 }
    })
}

/// How often each cache had what was asked for, since the start. One that was not asked has no sample: 0 and 1 would both
/// say something of it, and NaN would be every sum's and average's value.
fn hit_ratios(stats: &StoreStats, engine: &Engine) -> impl Iterator<Item = OwnMetric> {
    let [decoded, mapped, pages, ahead, answers] = cache_tiers(stats, engine);
    [
        ("quiver_cache_hit_ratio", "L1: columns found decoded, of those asked for.", decoded),
        ("quiver_mapped_hit_ratio", "L2: chunks decoded from local blocks, of those decoded from blocks.", mapped),
        (
            "quiver_remote_pages_hit_ratio",
            "L3: pages that queries found on the local disk, of found and fetched.",
            pages,
        ),
        ("quiver_prefetch_hit_ratio", "Windows that came as expected, of selectors known.", ahead),
        ("quiver_result_cache_hit_ratio", "Range queries of which steps were known, of those that may be.", answers),
    ]
    .into_iter()
    .filter_map(|(name, help, tier)| {
        Some(OwnMetric { name, help, labels: Vec::new(), counter: false, value: tier.hit_ratio()? })
    })
}

/// Own metrics in the text format.
pub fn own_metrics_text(g: &Gateway) -> String {
    let mut out = String::new();
    let mut last = "";
    for m in own_metrics(g) {
        if m.name != last {
            let kind = if m.counter { "counter" } else { "gauge" };
            let _ = writeln!(out, "# HELP {0} {1}\n# TYPE {0} {kind}", m.name, m.help);
            last = m.name;
        }
        let labels: Vec<_> = m.labels.iter().map(|(n, v)| format!("{n}=\"{v}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(out, "{}{labels} {}", m.name, m.value);
    }
    let _ = writeln!(
        out,
        "# HELP quiver_connections_closed_total Connections that the server closed, by cause.\n\
         # TYPE quiver_connections_closed_total counter"
    );
    for cause in super::peers::CloseReason::ALL {
        let (name, n) = (cause.as_str(), g.peers.closed.of(cause));
        let _ = writeln!(out, "quiver_connections_closed_total{{cause=\"{name}\"}} {n}");
    }
    let _ = writeln!(out, "# HELP quiver_limit Limits in force, by name.\n# TYPE quiver_limit gauge");
    for (name, value) in g.services.limits.get().list() {
        let _ = writeln!(out, "quiver_limit{{name=\"{name}\"}} {value}");
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates() {
        assert_eq!(super::rfc3339(1_435_781_451_781), "2015-07-01T20:10:51.781Z");
        assert_eq!(super::rfc3339(-1), "1969-12-31T23:59:59.999Z");
    }
}
