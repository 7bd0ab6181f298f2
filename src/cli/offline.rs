//! Queries without a server: on exported Parquet or on a copied data folder, read and nothing else.

use std::path::Path;
use std::sync::Arc;

use http_body_util::BodyExt;
use quiver_core::{OfflineStore, Source, TimeRange};
use quiver_gateway::http::{query, sql as sql_http};
use quiver_model::{Limits, Matcher};
use quiver_query::promql::parse_metric_selector;
use quiver_query::sql::{SqlEngine, SqlRequest};
use quiver_query::{Answer, Engine, EngineOptions, Features, PromqlRequest, QueryOptions};
use serde_json::Value;

use super::exit::{self, Failure};
use super::sql::AnyBody;
use super::when::When;
use super::{counted, shown_time};

/// Opens an export or a copied data folder.
pub fn open(folder: &Path) -> Result<Arc<dyn Source>, String> {
    let opened = OfflineStore::open(folder).map_err(|e| said(folder, &e.to_string()))?;
    if let Some(first) = opened.replay_report().first_damage() {
        exit::warning(&format!("the log of {} is damaged ({first}); answers lack that part", folder.display()));
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

/// An error with the folder in front, if it does not name it.
fn said(folder: &Path, why: &str) -> String {
    let name = folder.display().to_string();
    if why.contains(&name) { why.to_owned() } else { format!("{name}: {why}") }
}

/// An opened folder.
pub struct Folder {
    name: String,
    source: Arc<dyn Source>,
    engine: Arc<Engine>,
    sql: SqlEngine,
}

impl Folder {
    /// Opens it, with features of PromQL by Prometheus's names.
    pub fn open(folder: &Path, features: &[String]) -> Result<Self, Failure> {
        let (features, unknown) = Features::parse(&features.join(","));
        if let Some(name) = unknown.first() {
            return Err(Failure::Usage(format!("--enable-feature: there is no feature {name:?}")));
        }
        let source = open(folder)?;
        let options = EngineOptions { limits: Limits::default(), features, ..EngineOptions::default() };
        let engine = Engine::new(Arc::clone(&source), options).map(Arc::new).map_err(|e| e.to_string())?;
        let sql = SqlEngine::new(Arc::clone(&source), Arc::clone(&engine), Limits::default());
        let sql = sql.map_err(|e| e.to_string())?;
        Ok(Self { name: folder.display().to_string(), source, engine, sql })
    }

    /// Its path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// PromQL.
    pub async fn answer(&self, expression: &str, when: When, options: QueryOptions) -> Result<Answer, String> {
        let When { start, end, step } = when;
        let request = PromqlRequest { query: expression.to_owned(), start, end, step, options };
        self.engine.promql(request).await.map_err(|e| e.to_string())
    }

    /// PromQL; the answer is the envelope of the HTTP API.
    pub async fn promql(&self, expression: &str, when: When) -> Result<Value, String> {
        let answer = self.answer(expression, when, QueryOptions::default()).await?;
        serde_json::from_slice(&query::envelope(&answer, expression, "")).map_err(|e| e.to_string())
    }

    /// SQL; the answer in a format of the HTTP API.
    pub async fn sql(&self, statement: &str, format: &str) -> Result<AnyBody, String> {
        let request = SqlRequest { sql: statement.to_owned(), ..SqlRequest::default() };
        let answer = self.sql.query(request).await.map_err(|e| e.to_string())?;
        let format = sql_http::Format::named(format).ok_or_else(|| format!("there is no format {format:?}"))?;
        let body = sql_http::body(format, answer, None).await.map_err(|e| e.to_string())?;
        Ok(body.map_err(|e| e.to_string()).boxed_unsync())
    }

    fn matchers(&self, selector: &str) -> Result<Vec<Matcher>, String> {
        parse_metric_selector(selector, &self.engine.parse_options()).map_err(|e| e.to_string())
    }

    /// Whether a series has samples between two times, ms; at any time without them.
    pub fn has_series(&self, selector: &str, range: Option<(i64, i64)>) -> Result<bool, String> {
        let (min, max) = range.unwrap_or((i64::MIN, i64::MAX));
        let set = self.source.snapshot().select(&self.matchers(selector)?, TimeRange { min, max }, usize::MAX);
        set.map(|s| !s.is_empty()).map_err(|e| e.to_string())
    }

    /// Values that a label has, of the series of a selector or of all; at most `limit`.
    pub fn label_values(&self, label: &str, selector: Option<&str>, limit: usize) -> Result<Vec<String>, String> {
        let selectors: Vec<Vec<Matcher>> = selector.map(|s| self.matchers(s)).transpose()?.into_iter().collect();
        let range = TimeRange { min: i64::MIN, max: i64::MAX };
        self.source.snapshot().label_values(label, &selectors, range, limit).map_err(|e| e.to_string())
    }
}
