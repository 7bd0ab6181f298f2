//! Answers as protobuf, for who asks for it by `Accept`: `proto/quiver/query/v1/query.proto`.

use axum::body::Body;
use axum::http::{Response, header};
use prost::Message;
use quiver_model::{Histogram, Labels, ResetHint};
use quiver_query::{Answer, AnswerSeries, AnswerValue, QueryStats};

use super::error::ApiError;
use super::query::{Shown, Told};
use crate::proto::query_v1 as pb;

fn labels(l: &Labels) -> Vec<pb::Label> {
    l.iter().map(|(n, v)| pb::Label { name: n.to_owned(), value: v.to_owned() }).collect()
}

fn histogram(h: &Histogram) -> pb::Histogram {
    let spans = |list: &[quiver_model::Span]| {
        list.iter().map(|s| pb::BucketSpan { offset: s.offset, length: s.length }).collect()
    };
    let hint = match h.reset_hint {
        ResetHint::Unknown => pb::ResetHint::Unknown,
        ResetHint::Yes => pb::ResetHint::Yes,
        ResetHint::No => pb::ResetHint::No,
        ResetHint::Gauge => pb::ResetHint::Gauge,
    };
    pb::Histogram {
        count: h.count,
        sum: h.sum,
        schema: h.schema,
        zero_threshold: h.zero_threshold,
        zero_count: h.zero_count,
        positive_spans: spans(&h.positive_spans),
        positive_counts: h.positive_buckets.clone(),
        negative_spans: spans(&h.negative_spans),
        negative_counts: h.negative_buckets.clone(),
        custom_values: h.custom_values.clone(),
        reset_hint: hint.into(),
    }
}

fn sample(s: &AnswerSeries) -> pb::Sample {
    let (timestamp_ms, value) = match (s.histograms.first(), s.floats.first()) {
        (Some((t, h)), _) => (*t, Some(pb::sample::Value::Histogram(histogram(h)))),
        (None, Some((t, v))) => (*t, Some(pb::sample::Value::Float(*v))),
        (None, None) => (0, None),
    };
    pb::Sample { labels: labels(&s.labels), timestamp_ms, value }
}

fn series(s: &AnswerSeries) -> pb::Series {
    let mut before = 0;
    let time_deltas_ms = s.floats.iter().map(|(t, _)| t.wrapping_sub(std::mem::replace(&mut before, *t))).collect();
    let point = |(t, h): &(i64, std::sync::Arc<Histogram>)| pb::HistogramPoint {
        timestamp_ms: *t,
        histogram: Some(histogram(h)),
    };
    pb::Series {
        labels: labels(&s.labels),
        time_deltas_ms,
        values: s.floats.iter().map(|(_, v)| *v).collect(),
        histograms: s.histograms.iter().map(point).collect(),
    }
}

fn stats(s: &QueryStats, per_step: bool) -> pb::Stats {
    let steps = |list: &[(i64, u64)]| {
        let list = if per_step { list } else { &[] };
        list.iter().map(|(t, n)| pb::stats::StepCount { timestamp_ms: *t, count: *n }).collect()
    };
    pb::Stats {
        timings: Some(pb::stats::Timings {
            eval_total_seconds: s.prepare_seconds + s.eval_seconds,
            result_sort_seconds: 0.0,
            query_preparation_seconds: s.prepare_seconds,
            inner_eval_seconds: s.eval_seconds,
            exec_queue_seconds: s.queue_seconds,
            exec_total_seconds: s.queue_seconds + s.prepare_seconds + s.eval_seconds,
        }),
        samples: Some(pb::stats::Samples {
            total_queryable_samples: s.queryable_samples,
            samples_read: s.input_samples,
            series_touched: s.series_touched,
            peak_samples: s.peak_samples,
            total_queryable_samples_per_step: steps(&s.queryable_samples_per_step),
            samples_read_per_step: steps(&s.input_samples_per_step),
        }),
    }
}

/// An answer as a message.
pub fn message(answer: &Answer, shown: Shown, told: Told) -> pb::QueryResponse {
    use pb::query_response::Result as R;
    let result = match &answer.value {
        AnswerValue::Scalar(t, v) => R::Scalar(pb::Scalar { timestamp_ms: *t, value: *v }),
        AnswerValue::String(t, s) => R::Text(pb::Text { timestamp_ms: *t, value: s.clone() }),
        AnswerValue::Vector(list) => R::Vector(pb::Vector { samples: list.iter().map(sample).collect() }),
        AnswerValue::Matrix(list) => R::Matrix(pb::Matrix { series: list.iter().map(series).collect() }),
    };
    pb::QueryResponse {
        status: pb::Status::Success.into(),
        warnings: told.warnings,
        infos: told.infos,
        result: Some(result),
        stats: (shown != Shown::Nothing).then(|| stats(&answer.stats, shown == Shown::All)),
        explain: answer.explain.as_ref().and_then(|e| serde_json::to_string(e).ok()).unwrap_or_default(),
        ..pb::QueryResponse::default()
    }
}

/// An error as a response of a protobuf type.
pub fn error(e: &ApiError, media_type: &'static str) -> Response<Body> {
    let message = pb::QueryResponse {
        status: pb::Status::Error.into(),
        error_type: e.kind.as_str().to_owned(),
        error: super::error::bounded(&e.text).into_owned(),
        ..pb::QueryResponse::default()
    };
    // Status and headers are those of the same error in JSON.
    let (mut head, _) = e.response().into_parts();
    head.headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    Response::from_parts(head, Body::from(message.encode_to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_differences() {
        let s = AnswerSeries { floats: vec![(1000, 1.0), (1500, 2.0), (2500, f64::NAN)], ..AnswerSeries::default() };
        assert_eq!(series(&s).time_deltas_ms, [1000, 500, 1000]);
        let s = AnswerSeries { floats: vec![(i64::MIN, 1.0), (i64::MAX, 2.0)], ..AnswerSeries::default() };
        assert_eq!(series(&s).time_deltas_ms, [i64::MIN, -1], "differences wrap");
    }
}
