//! Queries without a server: on exported Parquet or on a copied data folder, read and nothing else.

use std::path::Path;
use std::sync::Arc;

use super::exit;
use super::sql::AnyBody;
use super::when::When;
use super::{counted, shown_time};
use http_body_util::BodyExt;
use quiver_core::{OfflineStore, Source};
use quiver_gateway::http::{query, sql as sql_http};
use quiver_model::Limits;
use quiver_query::sql::{SqlEngine, SqlRequest};
use quiver_query::{Answer, Engine, EngineOptions, Features, PromqlRequest, QueryOptions};
use serde_json::Value;

/// Opens an export or a copied data folder.
pub fn open(folder: &Path) -> Result<Arc<dyn Source>, String> {
    let opened = OfflineStore::open(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    if let Some(first) = opened.replay_report().first_damage() {
        eprintln!("quiver: the log of {} is damaged ({first}): answers lack that", folder.display());
    }
    if let Some(missing) = opened.missing() {
        let (blocks, samples) = (counted(missing.blocks as u64, "block"), counted(missing.samples, "sample"));
        let (from, to) = (shown_time(missing.range.min), shown_time(missing.range.max));
        exit::warning(&format!(
            "answers lack {blocks} of {} ({samples}, {from} to {to}), kept only in its remote store; a server with --tier-url reads them",
            folder.display()
        ));
    }
    Ok(Arc::new(opened))
}

fn engine(source: &Arc<dyn Source>, features: Features) -> Result<Arc<Engine>, String> {
    let options = EngineOptions { limits: Limits::default(), features, ..EngineOptions::default() };
    Engine::new(Arc::clone(source), options).map(Arc::new).map_err(|e| e.to_string())
}

/// PromQL.
pub async fn answer(
    folder: &Path,
    features: &[String],
    expression: &str,
    when: When,
    options: QueryOptions,
) -> Result<Answer, String> {
    let (features, unknown) = Features::parse(&features.join(","));
    if let Some(name) = unknown.first() {
        return Err(format!("--enable-feature: there is no feature {name:?}"));
    }
    let engine = engine(&open(folder)?, features)?;
    let When { start, end, step } = when;
    let request = PromqlRequest { query: expression.to_owned(), start, end, step, options };
    engine.promql(request).await.map_err(|e| e.to_string())
}

/// PromQL; the answer is the envelope of the HTTP API.
pub async fn promql(folder: &Path, features: &[String], expression: &str, when: When) -> Result<Value, String> {
    let answer = answer(folder, features, expression, when, QueryOptions::default()).await?;
    serde_json::from_slice(&query::envelope(&answer, expression, "")).map_err(|e| e.to_string())
}

/// SQL; the answer in a format of the HTTP API.
pub async fn sql(folder: &Path, statement: &str, format: &str) -> Result<AnyBody, String> {
    let source = open(folder)?;
    let engine = engine(&source, Features::default())?;
    let sql = SqlEngine::new(source, engine, Limits::default()).map_err(|e| e.to_string())?;
    let request = SqlRequest { sql: statement.to_owned(), ..SqlRequest::default() };
    let answer = sql.query(request).await.map_err(|e| e.to_string())?;
    let format = sql_http::Format::named(format).ok_or_else(|| format!("there is no format {format:?}"))?;
    let body = sql_http::body(format, answer, None).await.map_err(|e| e.to_string())?;
    Ok(body.map_err(|e| e.to_string()).boxed_unsync())
}
