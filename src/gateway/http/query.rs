//! `query`, `query_range`, `query_exemplars`, `format_query`, `parse_query`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Response};
use parking_lot::Mutex;
use prost::Message;
use quiver_query::promql;
use quiver_query::{Answer, AnswerValue, ExplainMode, Hints, PromqlRequest, QueryOptions};
use tokio_util::sync::CancellationToken;

use super::accept::Form;
use super::error::{ApiError, ErrorType};
use super::json::Json;
use super::params::{Params, parse_duration};
use super::{accept, protobuf, success};
use crate::Gateway;

/// Warnings and infos shown at most, as Prometheus.
const ANNOTATIONS_MAX: usize = 10;

fn options(g: &Gateway, headers: &HeaderMap, p: &Params) -> Result<(QueryOptions, impl Drop + use<>), ApiError> {
    let timeout_ms = match p.get("timeout") {
        "" => None,
        text => {
            let ms = parse_duration(text).map_err(|e| ApiError::invalid_param("timeout", e))?;
            if ms <= 0 {
                return Err(ApiError::invalid_param("timeout", "timeout must be positive".into()));
            }
            Some((ms as u64).min(g.services.limits.get().query_timeout_ms))
        }
    };
    let lookback_ms = match p.get("lookback_delta") {
        "" => None,
        text => {
            let why = |e| ApiError::bad_data(format!("error parsing lookback delta duration: {e}"));
            Some(parse_duration(text).map_err(why)?).filter(|ms| *ms > 0)
        }
    };
    let use_start_timestamps = match headers.get("x-prometheus-use-start-timestamps").and_then(|v| v.to_str().ok()) {
        Some("true" | "1") => Some(true),
        Some("false" | "0") => Some(false),
        _ => None,
    };
    let cancel = CancellationToken::new();
    let guard = cancel.clone().drop_guard();
    let nocache = matches!(p.get("nocache"), "1" | "true");
    let per_step_stats = !p.get("stats").is_empty();
    let limit = p.limit()?;
    let hints = Hints::parse(p.all("hint")).map_err(|e| ApiError::invalid_param("hint", e))?;
    let explain = ExplainMode::from_name(p.get("explain"))
        .ok_or_else(|| ApiError::invalid_param("explain", "it must be \"plan\" or \"analyze\"".into()))?;
    let options = QueryOptions {
        lookback_ms,
        timeout_ms,
        limit,
        nocache,
        per_step_stats,
        use_start_timestamps,
        hints,
        explain,
        cancel,
    };
    Ok((options, guard))
}

/// `/query`
pub async fn instant(g: &Gateway, headers: &HeaderMap, p: &Params) -> Result<Response<Body>, ApiError> {
    let time = p.time_or("time", g.services.clock.now_ms())?;
    run(g, headers, p, time, time, 0).await
}

/// `/query_range`
pub async fn range(g: &Gateway, headers: &HeaderMap, p: &Params) -> Result<Response<Body>, ApiError> {
    let start = p.time("start")?;
    let end = p.time("end")?;
    if end < start {
        return Err(ApiError::invalid_param("end", "end timestamp must not be before start time".into()));
    }
    let step = p.duration("step")?;
    if step <= 0 {
        let why = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(ApiError::invalid_param("step", why.into()));
    }
    if (i128::from(end) - i128::from(start)) / i128::from(step) > i128::from(g.services.limits.get().query_points_max) {
        return Err(ApiError::bad_data(quiver_query::too_many_points(g.services.limits.get().query_points_max)));
    }
    run(g, headers, p, start, end, step).await
}

async fn run(
    g: &Gateway,
    headers: &HeaderMap,
    p: &Params,
    start: i64,
    end: i64,
    step: i64,
) -> Result<Response<Body>, ApiError> {
    let (options, _cancel_on_drop) = options(g, headers, p)?;
    let query = p.get("query").to_owned();
    let shown = Shown::of(p.get("stats"));
    let request = PromqlRequest { query, start, end, step, options };
    let text = request.query.clone();
    g.counters.queries.add(1);
    let (headers, stats) = (headers.clone(), p.get("stats").to_owned());
    let (slot, writers) = (Arc::new(Mutex::new(None)), Arc::clone(&g.writers));
    let filled = Arc::clone(&slot);
    let then = move |answer: Answer| {
        let mut told = Told::of(&answer, &text);
        told.warnings.extend(unknown_stats(&stats));
        let _turn = (points(&answer) > POINTS_AT_ONCE).then(|| writers.enter());
        *filled.lock() = Some(written(&headers, &answer, shown, told));
    };
    g.services.engine.promql_then(request, Box::new(then)).await.map_err(|e| {
        g.counters.query_failed(&e);
        ApiError::query(e)
    })?;
    let answer = slot.lock().take();
    answer.ok_or_else(|| ApiError::new(ErrorType::Internal, "unexpected error: the answer was not written"))
}

/// Points of an answer that needs no turn to be written.
const POINTS_AT_ONCE: usize = 10_000;

/// Bytes of a point as JSON, about.
const POINT_BYTES: usize = 26;

fn points(answer: &Answer) -> usize {
    match &answer.value {
        AnswerValue::Scalar(..) | AnswerValue::String(..) => 1,
        AnswerValue::Vector(series) | AnswerValue::Matrix(series) => {
            series.iter().map(|s| s.floats.len() + s.histograms.len() * 20 + 1).sum()
        }
    }
}

/// The answer in the form that the client asked for.
fn written(headers: &HeaderMap, answer: &Answer, shown: Shown, told: Told) -> Response<Body> {
    match (accept::wanted(headers), &answer.explain) {
        (Form::Protobuf(media_type), _) => {
            let body = protobuf::message(answer, shown, told).encode_to_vec();
            super::sent_as(headers, body, media_type)
        }
        (Form::Text, Some(tree)) => super::sent_as(headers, tree.to_string().into_bytes(), "text/plain; charset=utf-8"),
        _ => super::sent(headers, rendered(answer, shown, &told)),
    }
}

/// The response to a query, an error in the type that the client asked for.
pub fn asked(headers: &HeaderMap, result: Result<Response<Body>, ApiError>) -> Result<Response<Body>, ApiError> {
    match (result, accept::wanted(headers)) {
        (Err(e), Form::Protobuf(media_type)) => Ok(protobuf::error(&e, media_type)),
        (result, _) => result,
    }
}

/// Which statistics are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// None.
    Nothing,
    /// Sums.
    Sums,
    /// Sums and counts per step.
    All,
}

impl Shown {
    /// By the parameter `stats`: whatever it says, something is shown.
    pub fn of(parameter: &str) -> Self {
        match parameter {
            "" => Shown::Nothing,
            "all" => Shown::All,
            _ => Shown::Sums,
        }
    }
}

/// Prometheus takes any value and says that it will not go on doing so.
fn unknown_stats(parameter: &str) -> Option<String> {
    match parameter {
        "" | "true" | "all" => None,
        other => Some(format!(
            "value {} for parameter \"stats\" is deprecated and will be rejected in the next major release, use \"true\" or \"all\"",
            quiver_model::labels::quoted(other)
        )),
    }
}

/// Warnings and infos.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Warnings.
    pub warnings: Vec<String>,
    /// Infos.
    pub infos: Vec<String>,
}

impl Told {
    /// Those of an answer.
    pub fn of(answer: &Answer, query: &str) -> Self {
        let (mut warnings, infos) = answer.annotations.texts(query, ANNOTATIONS_MAX, ANNOTATIONS_MAX);
        if answer.truncated {
            warnings.push("results truncated due to limit".into());
        }
        Self { warnings, infos }
    }
}

/// The envelope of an answer; `stats` is the parameter of that name.
pub fn envelope(answer: &Answer, query: &str, stats: &str) -> Vec<u8> {
    rendered(answer, Shown::of(stats), &Told::of(answer, query))
}

fn rendered(answer: &Answer, shown: Shown, told: &Told) -> Vec<u8> {
    super::envelope(&told.warnings, &told.infos, |j| {
        // Grown step by step, a large answer would be there twice.
        j.reserve(points(answer) * POINT_BYTES);
        j.raw("{").value(&answer.value);
        if shown != Shown::Nothing {
            render_stats(j, answer, shown == Shown::All);
        }
        if let Some(tree) = answer.explain.as_ref().and_then(|e| serde_json::to_string(e).ok()) {
            j.raw(r#","explain":"#).raw(&tree);
        }
        j.raw("}");
    })
}

fn render_stats(j: &mut Json, answer: &Answer, per_step: bool) {
    let s = &answer.stats;
    let number = |v: f64| format!("{v:.9}");
    j.raw(r#","stats":{"timings":{"evalTotalTime":"#).raw(&number(s.prepare_seconds + s.eval_seconds));
    j.raw(r#","resultSortTime":0,"queryPreparationTime":"#).raw(&number(s.prepare_seconds));
    j.raw(r#","innerEvalTime":"#).raw(&number(s.eval_seconds));
    j.raw(r#","execQueueTime":"#).raw(&number(s.queue_seconds));
    j.raw(r#","execTotalTime":"#).raw(&number(s.queue_seconds + s.prepare_seconds + s.eval_seconds));
    j.raw(r#"},"samples":{"#);
    if per_step {
        render_steps(j, r#""totalQueryableSamplesPerStep":"#, &s.queryable_samples_per_step);
    }
    j.raw(r#""totalQueryableSamples":"#).int(s.queryable_samples as i64).raw(",");
    if per_step {
        render_steps(j, r#""samplesReadPerStep":"#, &s.input_samples_per_step);
    }
    j.raw(r#""samplesRead":"#).int(s.input_samples as i64);
    j.raw(r#","seriesTouched":"#).int(s.series_touched as i64);
    j.raw(r#","peakSamples":"#).int(s.peak_samples as i64).raw("}}");
}

fn render_steps(j: &mut Json, key: &str, steps: &[(i64, u64)]) {
    if steps.is_empty() {
        return;
    }
    j.raw(key);
    for (i, (t, n)) in steps.iter().enumerate() {
        j.raw(if i > 0 { ",[" } else { "[[" }).time(*t).raw(",").int(*n as i64).raw("]");
    }
    j.raw("],");
}

/// `/query_exemplars`
pub fn exemplars(g: &Gateway, headers: &HeaderMap, p: &Params) -> Result<Response<Body>, ApiError> {
    let range = p.time_range()?;
    if range.max < range.min {
        return Err(ApiError::bad_data("end timestamp must not be before start timestamp"));
    }
    let options = g.services.engine.parse_options();
    let expr =
        promql::parse_expr(p.get("query"), &options).map_err(|e| ApiError::invalid_param("query", e.to_string()))?;
    let selectors = promql::selectors(&expr);
    if selectors.is_empty() {
        return Ok(success(headers, &[], &[], |j| {
            j.raw("[]");
        }));
    }
    let list = g.services.source.snapshot().exemplars(&selectors, range)?;
    Ok(success(headers, &[], &[], |j| {
        j.raw("[");
        for (i, (labels, exemplars)) in list.iter().enumerate() {
            j.raw(if i > 0 { r#",{"seriesLabels":"# } else { r#"{"seriesLabels":"# }).labels(labels);
            j.raw(r#","exemplars":["#);
            for (k, e) in exemplars.iter().enumerate() {
                j.raw(if k > 0 { r#",{"labels":"# } else { r#"{"labels":"# }).labels(&e.labels);
                j.raw(r#","value":"#).float(e.value).raw(r#","timestamp":"#).time(e.ts).raw("}");
            }
            j.raw("]}");
        }
        j.raw("]");
    }))
}

/// `/format_query`
pub fn format(g: &Gateway, headers: &HeaderMap, p: &Params) -> Result<Response<Body>, ApiError> {
    let expr = promql::parse_expr(p.get("query"), &g.services.engine.parse_options())
        .map_err(|e| ApiError::invalid_param("query", e.to_string()))?;
    let text = promql::pretty(&expr);
    Ok(success(headers, &[], &[], |j| {
        j.string(&text);
    }))
}

/// `/parse_query`
pub fn parse(g: &Gateway, headers: &HeaderMap, p: &Params) -> Result<Response<Body>, ApiError> {
    let expr = promql::parse_expr(p.get("query"), &g.services.engine.parse_options())
        .map_err(|e| ApiError::invalid_param("query", e.to_string()))?;
    let tree = promql::to_json(&expr).to_string();
    Ok(success(headers, &[], &[], |j| {
        j.raw(&tree);
    }))
}
