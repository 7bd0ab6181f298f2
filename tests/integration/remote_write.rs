//! Remote write from the sender's side: series in plain words, encoded as 1.0 or 2.0 and sent.

use std::collections::HashMap;

use prost::Message;
use quiver_gateway::proto::{v1, v2};

use crate::http::{Client, Response};

/// Bits of Prometheus's stale marker.
pub const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;

/// A native histogram in plain words: absolute counts, one run of positive buckets from `offset` on.
#[derive(Clone, Debug, PartialEq)]
pub struct Native {
    /// Resolution; −53: custom buckets.
    pub schema: i32,
    /// Sum.
    pub sum: f64,
    /// Observations around zero.
    pub zero: u64,
    /// Index of the first bucket.
    pub offset: i32,
    /// Observations per bucket.
    pub buckets: Vec<u64>,
    /// Upper bounds of custom buckets.
    pub bounds: Vec<f64>,
    /// Observations that lie in no bucket: NaN.
    pub nans: u64,
    /// Is it of the float kind?
    pub is_float: bool,
    /// Is it a gauge?
    pub is_gauge: bool,
}

impl Native {
    /// An exponential histogram of integers.
    pub fn exponential(schema: i32, zero: u64, offset: i32, buckets: &[u64], sum: f64) -> Self {
        let buckets = buckets.to_vec();
        Self { schema, sum, zero, offset, buckets, bounds: Vec::new(), nans: 0, is_float: false, is_gauge: false }
    }

    /// A histogram with custom buckets.
    pub fn custom(bounds: &[f64], buckets: &[u64], sum: f64) -> Self {
        let (buckets, bounds) = (buckets.to_vec(), bounds.to_vec());
        Self { schema: -53, sum, zero: 0, offset: 0, buckets, bounds, nans: 0, is_float: false, is_gauge: false }
    }

    /// Observations.
    pub fn count(&self) -> u64 {
        self.zero + self.nans + self.buckets.iter().sum::<u64>()
    }

    fn deltas(&self) -> Vec<i64> {
        let mut last = 0;
        let delta = |n: &u64| {
            let d = *n as i64 - last;
            last = *n as i64;
            d
        };
        self.buckets.iter().map(delta).collect()
    }

    fn absolutes(&self) -> Vec<f64> {
        self.buckets.iter().map(|n| *n as f64).collect()
    }
}

/// A sample's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A float, to the bit.
    Float(f64),
    /// A histogram.
    Histogram(Native),
}

/// A sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// ms
    pub ts: i64,
    /// Value.
    pub value: Value,
    /// Start timestamp, ms; 0: none. Only 2.0 carries it.
    pub start: i64,
}

/// An exemplar: labels, value, time.
pub type Exemplar = (Vec<(String, String)>, f64, i64);

/// A series of a request.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// In the order they are sent.
    pub labels: Vec<(String, String)>,
    /// In the order they are sent.
    pub samples: Vec<Sample>,
    /// Exemplars.
    pub exemplars: Vec<Exemplar>,
    /// Type (its number), help and unit; only 2.0 carries them with a series.
    pub metadata: Option<(i32, String, String)>,
}

impl Series {
    /// A series by its name and other labels.
    pub fn new(name: &str, labels: &[(&str, &str)]) -> Self {
        let mut all = vec![("__name__".to_owned(), name.to_owned())];
        all.extend(labels.iter().map(|(n, v)| (n.to_string(), v.to_string())));
        all.sort();
        Self { labels: all, ..Self::default() }
    }

    /// With a float.
    pub fn float(mut self, ts: i64, value: f64) -> Self {
        self.samples.push(Sample { ts, value: Value::Float(value), start: 0 });
        self
    }

    /// With floats, one every `step` ms.
    pub fn floats(mut self, from: i64, step: i64, values: &[f64]) -> Self {
        let samples =
            values.iter().zip(0..).map(|(v, i)| Sample { ts: from + i * step, value: Value::Float(*v), start: 0 });
        self.samples.extend(samples);
        self
    }

    /// With a histogram.
    pub fn histogram(mut self, ts: i64, h: Native) -> Self {
        self.samples.push(Sample { ts, value: Value::Histogram(h), start: 0 });
        self
    }

    /// With a stale marker.
    pub fn stale(self, ts: i64) -> Self {
        self.float(ts, f64::from_bits(STALE_BITS))
    }

    /// With a start timestamp on all samples so far.
    pub fn since(mut self, start: i64) -> Self {
        for s in &mut self.samples {
            s.start = start;
        }
        self
    }

    /// With an exemplar.
    pub fn exemplar(mut self, label: (&str, &str), value: f64, ts: i64) -> Self {
        self.exemplars.push((vec![(label.0.to_owned(), label.1.to_owned())], value, ts));
        self
    }

    /// With metadata.
    pub fn described(mut self, kind: i32, help: &str, unit: &str) -> Self {
        self.metadata = Some((kind, help.to_owned(), unit.to_owned()));
        self
    }
}

fn v1_histogram(ts: i64, h: &Native) -> v1::Histogram {
    use v1::histogram::{Count, ZeroCount};
    let span = v1::BucketSpan { offset: h.offset, length: h.buckets.len() as u32 };
    v1::Histogram {
        sum: h.sum,
        schema: h.schema,
        zero_threshold: if h.schema == -53 { 0.0 } else { 1e-128 },
        positive_spans: if h.buckets.is_empty() { Vec::new() } else { vec![span] },
        reset_hint: if h.is_gauge { 3 } else { 0 },
        timestamp: ts,
        custom_values: h.bounds.clone(),
        count: Some(if h.is_float { Count::CountFloat(h.count() as f64) } else { Count::CountInt(h.count()) }),
        zero_count: Some(if h.is_float {
            ZeroCount::ZeroCountFloat(h.zero as f64)
        } else {
            ZeroCount::ZeroCountInt(h.zero)
        }),
        positive_deltas: if h.is_float { Vec::new() } else { h.deltas() },
        positive_counts: if h.is_float { h.absolutes() } else { Vec::new() },
        ..v1::Histogram::default()
    }
}

fn v2_histogram(s: &Sample, h: &Native) -> v2::Histogram {
    use v2::histogram::{Count, ZeroCount};
    let span = v2::BucketSpan { offset: h.offset, length: h.buckets.len() as u32 };
    v2::Histogram {
        sum: Some(h.sum),
        schema: h.schema,
        zero_threshold: if h.schema == -53 { 0.0 } else { 1e-128 },
        positive_spans: if h.buckets.is_empty() { Vec::new() } else { vec![span] },
        reset_hint: if h.is_gauge { 3 } else { 0 },
        timestamp: s.ts,
        custom_values: h.bounds.clone(),
        start_timestamp: s.start,
        count: Some(if h.is_float { Count::CountFloat(h.count() as f64) } else { Count::CountInt(h.count()) }),
        zero_count: Some(if h.is_float {
            ZeroCount::ZeroCountFloat(h.zero as f64)
        } else {
            ZeroCount::ZeroCountInt(h.zero)
        }),
        positive_deltas: if h.is_float { Vec::new() } else { h.deltas() },
        positive_counts: if h.is_float { h.absolutes() } else { Vec::new() },
        ..v2::Histogram::default()
    }
}

/// A 1.0 message.
pub fn message_v1(series: &[Series]) -> v1::WriteRequest {
    let labels = |list: &[(String, String)]| -> Vec<v1::Label> {
        list.iter().map(|(n, v)| v1::Label { name: n.clone(), value: v.clone() }).collect()
    };
    let timeseries = series.iter().map(|s| {
        let mut out = v1::TimeSeries { labels: labels(&s.labels), ..v1::TimeSeries::default() };
        for sample in &s.samples {
            match &sample.value {
                Value::Float(v) => out.samples.push(v1::Sample { value: *v, timestamp: sample.ts }),
                Value::Histogram(h) => out.histograms.push(v1_histogram(sample.ts, h)),
            }
        }
        let exemplar = |(l, value, ts): &Exemplar| v1::Exemplar { labels: labels(l), value: *value, timestamp: *ts };
        out.exemplars = s.exemplars.iter().map(exemplar).collect();
        out
    });
    v1::WriteRequest { timeseries: timeseries.collect(), ..v1::WriteRequest::default() }
}

/// A table of strings, the first of them empty.
#[derive(Default)]
struct Symbols {
    list: Vec<String>,
    known: HashMap<String, u32>,
}

impl Symbols {
    fn of(&mut self, text: &str) -> u32 {
        if let Some(n) = self.known.get(text) {
            return *n;
        }
        let n = self.list.len() as u32;
        self.list.push(text.to_owned());
        self.known.insert(text.to_owned(), n);
        n
    }

    fn refs(&mut self, list: &[(String, String)]) -> Vec<u32> {
        list.iter().flat_map(|(n, v)| [self.of(n), self.of(v)]).collect()
    }
}

/// A 2.0 message.
pub fn message_v2(series: &[Series]) -> v2::Request {
    let mut symbols = Symbols::default();
    symbols.of("");
    let mut timeseries = Vec::new();
    for s in series {
        let mut out = v2::TimeSeries { labels_refs: symbols.refs(&s.labels), ..v2::TimeSeries::default() };
        for sample in &s.samples {
            match &sample.value {
                Value::Float(v) => {
                    out.samples.push(v2::Sample {
                        value: Some(*v),
                        timestamp: sample.ts,
                        start_timestamp: sample.start,
                    });
                }
                Value::Histogram(h) => out.histograms.push(v2_histogram(sample, h)),
            }
        }
        for (labels, value, ts) in &s.exemplars {
            out.exemplars.push(v2::Exemplar { labels_refs: symbols.refs(labels), value: *value, timestamp: *ts });
        }
        if let Some((kind, help, unit)) = &s.metadata {
            let (help_ref, unit_ref) = (symbols.of(help), symbols.of(unit));
            out.metadata = Some(v2::Metadata { r#type: *kind, help_ref, unit_ref });
        }
        timeseries.push(out);
    }
    v2::Request { symbols: symbols.list, timeseries }
}

/// Snappy's block format.
pub fn snappy(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).expect("compresses")
}

/// The content type of 1.0.
pub const V1: &str = "application/x-protobuf";
/// The content type of 2.0.
pub const V2: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";

/// A request body of 1.0.
pub fn body_v1(series: &[Series]) -> Vec<u8> {
    snappy(&message_v1(series).encode_to_vec())
}

/// A request body of 2.0.
pub fn body_v2(series: &[Series]) -> Vec<u8> {
    snappy(&message_v2(series).encode_to_vec())
}

/// Posts a compressed body, once.
pub fn post(client: &mut Client, content_type: &str, body: &[u8]) -> std::io::Result<Response> {
    client.once("POST", "/api/v1/write", &[("content-type", content_type), ("content-encoding", "snappy")], body)
}

/// Posts a message that is not compressed yet.
pub fn post_message(client: &mut Client, content_type: &str, message: &[u8]) -> Response {
    post(client, content_type, &snappy(message)).unwrap_or_else(|e| panic!("write: {e}"))
}

/// Writes by 2.0 and expects that all is kept.
pub fn write(client: &mut Client, series: &[Series]) {
    let r = post(client, V2, &body_v2(series)).unwrap_or_else(|e| panic!("write: {e}"));
    assert_eq!(r.status, 204, "{}", r.text());
}
