//! Every sample of a selector, as the API gives them: the check against duplicates, losses and changed values.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::server::Server;

/// A histogram as the API shows it, all numbers as texts.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct HistogramText {
    /// Observations.
    pub count: String,
    /// Sum.
    pub sum: String,
    /// Rule of the bounds, bounds, count.
    #[serde(default)]
    pub buckets: Vec<(u8, String, String, String)>,
}

/// One series.
#[derive(Debug, Deserialize)]
pub struct Row {
    /// Labels.
    pub metric: BTreeMap<String, String>,
    /// Time in seconds, value.
    #[serde(default)]
    pub values: Vec<(f64, String)>,
    /// Time in seconds, histogram.
    #[serde(default)]
    pub histograms: Vec<(f64, HistogramText)>,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Row>,
}

#[derive(Deserialize)]
struct Envelope {
    data: Data,
}

/// Milliseconds of a time in seconds.
pub fn ms(seconds: f64) -> i64 {
    (seconds * 1000.0).round() as i64
}

/// All samples of `selector` in `(at - range, at]`, times in ms.
pub fn samples(server: &Server, selector: &str, range_ms: i64, at_ms: i64) -> Vec<Row> {
    let query = format!("{selector}[{range_ms}ms]");
    let at = format!("{}.{:03}", at_ms / 1000, at_ms % 1000);
    let r = server.post("/api/v1/query", &[("query", &query), ("time", &at)]);
    assert_eq!(r.status, 200, "{query}: {}", r.text());
    let envelope: Envelope = serde_json::from_slice(&r.body).unwrap_or_else(|e| panic!("{e}: {}", r.text()));
    envelope.data.result
}
