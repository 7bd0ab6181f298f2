//! The HTTP port: Prometheus API, SQL, remote write, OTLP, status and health.

pub mod accept;
pub mod admin;
pub mod answers;
pub mod body;
pub mod error;
pub mod exchange;
pub mod export;
pub mod front;
pub mod json;
pub mod labels;
pub mod media_type;
mod multipart;
pub mod origin;
pub mod params;
pub mod peers;
pub mod protobuf;
pub mod query;
pub mod server;
pub mod socket;
pub mod sql;
mod sql_json;
pub mod status;
pub mod turns;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use axum::routing::{get, post};

use self::error::ApiError;
use self::json::Json;
use self::params::Params;
use crate::Gateway;

/// Lookups of series, labels, metadata and exemplars at once.
pub const LOOKUPS_MAX: usize = 8;

type Shared = State<Arc<Gateway>>;

/// All routes.
pub fn router(gateway: Arc<Gateway>) -> Router {
    let api = Router::new()
        .route("/query", get(instant).post(instant))
        .route("/query_range", get(range).post(range))
        .route("/query_exemplars", get(exemplars).post(exemplars))
        .route("/format_query", get(format_query).post(format_query))
        .route("/parse_query", get(parse_query).post(parse_query))
        .route("/labels", get(label_names).post(label_names))
        .route("/label/{name}/values", get(label_values).post(label_values))
        .route("/series", get(series).post(series))
        .route("/metadata", get(metadata))
        .route("/write", post(write))
        .route("/otlp/v1/metrics", post(otlp))
        .route("/export", get(export_series).post(export_series))
        .route("/sql", get(sql_query).post(sql_query))
        .route("/rules", get(|| async { fixed(r#"{"groups":[]}"#) }))
        .route("/alerts", get(|| async { fixed(r#"{"alerts":[]}"#) }))
        .route("/alertmanagers", get(|| async { fixed(r#"{"activeAlertmanagers":[],"droppedAlertmanagers":[]}"#) }))
        .route(
            "/targets",
            get(|| async { fixed(r#"{"activeTargets":[],"droppedTargets":[],"droppedTargetCounts":{}}"#) }),
        )
        .route("/targets/metadata", get(|| async { fixed("[]") }))
        .route("/scrape_pools", get(|| async { fixed(r#"{"scrapePools":[]}"#) }))
        .route("/notifications", get(|| async { fixed("[]") }))
        .route("/status/{page}", get(status_page))
        .route("/status/active_queries/{id}", axum::routing::delete(kill_query))
        .route("/features", get(features))
        .route("/admin/tsdb/{verb}", post(admin_verb).put(admin_verb))
        .route("/admin/tsdb/snapshots/{name}", get(snapshot_named).delete(snapshot_named))
        .route("/admin/tsdb/snapshots/{name}/{*path}", get(snapshot_file))
        .route("/admin/tasks/{verb}", post(admin_tasks).put(admin_tasks))
        .fallback(front::missing_below)
        .method_not_allowed_fallback(front::not_allowed_below);
    Router::new()
        .nest("/api/v1", api)
        .route("/v1/metrics", post(otlp))
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(ready))
        .route("/-/reload", post(reload).put(reload))
        .route("/metrics", get(own_metrics))
        .route("/version", get(version))
        .route("/", get(index))
        .fallback(front::missing)
        .method_not_allowed_fallback(front::not_allowed)
        .with_state(gateway)
}

fn ok_json(body: Vec<u8>) -> Response<Body> {
    let mut r = Response::new(Body::from(body));
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    r
}

fn fixed(data: &str) -> Response<Body> {
    ok_json(format!(r#"{{"status":"success","data":{data}}}"#).into_bytes())
}

/// Is the answer large, and does the client take gzip?
fn takes_gzip(headers: &HeaderMap, body_len: usize) -> bool {
    body_len > 1 << 10
        && headers
            .get(header::ACCEPT_ENCODING)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.split(',').any(|e| e.trim().split(';').next() == Some("gzip")))
}

/// The bytes of a success envelope around what `data` writes, with warnings and infos.
fn envelope(warnings: &[String], infos: &[String], data: impl FnOnce(&mut Json)) -> Vec<u8> {
    let mut j = Json::default();
    j.raw(r#"{"status":"success","data":"#);
    data(&mut j);
    for (key, list) in [(r#","warnings":"#, warnings), (r#","infos":"#, infos)] {
        if !list.is_empty() {
            let texts: Vec<_> = list.iter().map(|t| error::bounded(t)).collect();
            j.raw(key).strings(texts.iter().map(AsRef::as_ref));
        }
    }
    j.raw("}");
    j.into_bytes()
}

/// A success envelope as a response, compressed where that pays.
fn success(headers: &HeaderMap, warnings: &[String], infos: &[String], data: impl FnOnce(&mut Json)) -> Response<Body> {
    sent(headers, envelope(warnings, infos, data))
}

fn sent(headers: &HeaderMap, body: Vec<u8>) -> Response<Body> {
    sent_as(headers, body, "application/json")
}

/// A body of a media type, compressed where that pays.
fn sent_as(headers: &HeaderMap, body: Vec<u8>, media_type: &'static str) -> Response<Body> {
    let typed = |body: Vec<u8>| {
        let mut r = Response::new(Body::from(answers::settled(body)));
        r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        r
    };
    if takes_gzip(headers, body.len()) {
        use std::io::Write;
        let mut z = flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 8), flate2::Compression::fast());
        if z.write_all(&body).is_ok()
            && let Ok(packed) = z.finish()
        {
            let mut r: Response<Body> = typed(packed);
            r.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            r.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            return r;
        }
    }
    typed(body)
}

fn answered(result: Result<Response<Body>, ApiError>) -> Response<Body> {
    result.unwrap_or_else(|e| e.response())
}

async fn with_params<F, R>(g: &Gateway, request: Request<Body>, then: F) -> Response<Body>
where
    F: FnOnce(HeaderMap, Params) -> R,
    R: Future<Output = Result<Response<Body>, ApiError>>,
{
    let headers = request.headers().clone();
    match Params::read(g, request).await {
        Ok(p) => answered(then(headers, p).await),
        Err(e) => e.response(),
    }
}

/// [`with_params`] for what looks series up: on a thread where it does not keep others from being answered.
async fn on_a_thread<F>(g: Arc<Gateway>, request: Request<Body>, then: F) -> Response<Body>
where
    F: FnOnce(&Gateway, &HeaderMap, &Params) -> Result<Response<Body>, ApiError> + Send + 'static,
{
    let gateway = Arc::clone(&g);
    with_params(&gateway, request, |headers, params| async move {
        let job = tokio::task::spawn_blocking(move || then(&g, &headers, &params));
        job.await.unwrap_or_else(|e| Err(ApiError::new(error::ErrorType::Internal, format!("unexpected error: {e}"))))
    })
    .await
}

/// [`on_a_thread`] for what may find much, a few at a time: each holds what it found. The others wait and hold nothing.
async fn looked_up<F>(g: Arc<Gateway>, request: Request<Body>, then: F) -> Response<Body>
where
    F: FnOnce(&Gateway, &HeaderMap, &Params) -> Result<Response<Body>, ApiError> + Send + 'static,
{
    let gateway = Arc::clone(&g);
    with_params(&gateway, request, |headers, params| async move {
        let internal = |e: String| ApiError::new(error::ErrorType::Internal, format!("unexpected error: {e}"));
        let turn = Arc::clone(&g.lookups).acquire_owned().await.map_err(|e| internal(e.to_string()))?;
        let job = tokio::task::spawn_blocking(move || {
            let answer = then(&g, &headers, &params);
            drop(turn);
            answer
        });
        job.await.unwrap_or_else(|e| Err(internal(e.to_string())))
    })
    .await
}

async fn instant(State(g): Shared, request: Request<Body>) -> Response<Body> {
    let g = &g;
    with_params(g, request, |h, p| async move { query::asked(&h, query::instant(g, &h, &p).await) }).await
}

async fn range(State(g): Shared, request: Request<Body>) -> Response<Body> {
    let g = &g;
    with_params(g, request, |h, p| async move { query::asked(&h, query::range(g, &h, &p).await) }).await
}

async fn exemplars(State(g): Shared, request: Request<Body>) -> Response<Body> {
    looked_up(g, request, query::exemplars).await
}

async fn format_query(State(g): Shared, request: Request<Body>) -> Response<Body> {
    let g = &g;
    with_params(g, request, |h, p| async move { query::format(g, &h, &p) }).await
}

async fn parse_query(State(g): Shared, request: Request<Body>) -> Response<Body> {
    let g = &g;
    with_params(g, request, |h, p| async move { query::parse(g, &h, &p) }).await
}

async fn label_names(State(g): Shared, request: Request<Body>) -> Response<Body> {
    looked_up(g, request, labels::names).await
}

async fn label_values(State(g): Shared, Path(name): Path<String>, request: Request<Body>) -> Response<Body> {
    looked_up(g, request, move |g, h, p| labels::values(g, h, p, &name)).await
}

async fn series(State(g): Shared, request: Request<Body>) -> Response<Body> {
    looked_up(g, request, labels::series).await
}

async fn metadata(State(g): Shared, request: Request<Body>) -> Response<Body> {
    looked_up(g, request, labels::metadata).await
}

async fn write(State(g): Shared, request: Request<Body>) -> Response<Body> {
    crate::write::handle(&g, request).await
}

async fn export_series(State(g): Shared, request: Request<Body>) -> Response<Body> {
    on_a_thread(g, request, |g, _, p| export::export(g, p)).await
}

async fn sql_query(State(g): Shared, request: Request<Body>) -> Response<Body> {
    answered(sql::handle(&g, request).await)
}

async fn otlp(State(g): Shared, request: Request<Body>) -> Response<Body> {
    crate::otlp::http::handle(&g, request).await
}

async fn status_page(State(g): Shared, Path(page): Path<String>, request: Request<Body>) -> Response<Body> {
    on_a_thread(g, request, move |g, h, p| status::page(g, h, p, &page)).await
}

async fn kill_query(State(g): Shared, Path(id): Path<String>) -> Response<Body> {
    answered(status::kill_query(&g, &id))
}

async fn features(State(g): Shared) -> Response<Body> {
    status::features(&g)
}

async fn admin_verb(State(g): Shared, Path(verb): Path<String>, request: Request<Body>) -> Response<Body> {
    let g = &g;
    with_params(g, request, |h, p| async move { admin::verb(g, &h, &p, &verb).await }).await
}

async fn snapshot_named(State(g): Shared, Path(name): Path<String>, request: Request<Body>) -> Response<Body> {
    answered(admin::snapshot_named(&g, request.method(), request.headers(), name).await)
}

async fn snapshot_file(State(g): Shared, Path((name, path)): Path<(String, String)>) -> Response<Body> {
    answered(admin::snapshot_file(&g, name, path).await)
}

async fn admin_tasks(State(g): Shared, Path(verb): Path<String>) -> Response<Body> {
    answered(admin::tasks(&g, &verb))
}

async fn healthy() -> &'static str {
    "Quiver is Healthy.\n"
}

async fn reload(State(g): Shared) -> Response<Body> {
    admin::reload(&g).await.unwrap_or_else(|e| e.response())
}

async fn ready(State(g): Shared) -> Response<Body> {
    match g.services.maintain.health() {
        quiver_core::Health::Starting => {
            crate::write::plain(StatusCode::SERVICE_UNAVAILABLE, "Quiver is replaying its log.")
        }
        quiver_core::Health::Ok => crate::write::plain(StatusCode::OK, "Quiver is Ready."),
        quiver_core::Health::ReadOnly(why) => {
            crate::write::plain(StatusCode::OK, format!("Quiver is Ready for reads, not for writes: {why}"))
        }
    }
}

async fn own_metrics(State(g): Shared) -> Response<Body> {
    let mut r = Response::new(Body::from(status::own_metrics_text(&g)));
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    r
}

async fn version(State(g): Shared) -> Response<Body> {
    let mut j = Json::default();
    status::build_info(&g, &mut j);
    ok_json(j.into_bytes())
}

/// What `GET /` says: all endpoints.
const INDEX: &str = "\
Quiver answers PromQL and SQL here. All that is asked by GET may be sent as a form by POST.

Queries
  GET  /api/v1/query?query=up                      PromQL, one instant
  GET  /api/v1/query_range?query=up&start=&end=&step=   PromQL, a range
  GET  /api/v1/sql?query=SELECT+1                  SQL: format=json, jsonl, csv, arrow, parquet
  GET  /api/v1/query_exemplars?query=up            exemplars
  GET  /api/v1/series?match[]=up                   series
  GET  /api/v1/labels, /api/v1/label/NAME/values   names and values of labels
  GET  /api/v1/metadata                            types and help texts of metrics
  GET  /api/v1/format_query, /api/v1/parse_query   a query, formatted or as a tree
  GET  /api/v1/export?match[]=up                   stored series, for quiver export

Writes
  POST /v1/metrics                                 OpenTelemetry metrics, protobuf (also /api/v1/otlp/v1/metrics)
  POST /api/v1/write                               Prometheus remote write 1.0 and 2.0

State
  GET  /-/healthy, /-/ready                        does the server run, does it answer queries
  GET  /metrics, /version                          the server's own metrics, its version
  GET  /api/v1/status/PAGE                         buildinfo, runtimeinfo, flags, tsdb, cardinality, tasks,
                                                   active_queries (DELETE active_queries/ID stops one)

Administration, with --admin-api on
  POST /-/reload                                   reads the configuration again
  POST /api/v1/admin/tsdb/VERB                     delete_series, clean_tombstones, snapshot, flush, compact, tier
  POST /api/v1/admin/tasks/pause, tasks/resume     background tasks
";

async fn index() -> Response<Body> {
    crate::write::plain(StatusCode::OK, INDEX)
}
