//! OTLP metrics into a [`WriteBatch`]: gauges, sums and classic histograms.
//!
//! ```text
//! resource ─▶ job, instance, target_info      scope ─▶ nothing by default
//! metric ─▶ name with unit and type suffix    data point ─▶ labels, sample, start timestamp, exemplars
//! ```
//!
//! Data points that cannot be kept are counted and named in the answer's `partial_success`; the others are kept.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar as OtlpExemplar, HistogramDataPoint, Metric, NumberDataPoint, exemplar, metric,
    number_data_point,
};
use quiver_model::{Exemplar, Labels, Limits, METRIC_NAME, Metadata, MetricKind, STALE_NAN, WriteBatch};

use super::names::{Shape, label_name, metric_name, unit_name};
use crate::write::decode::{EXEMPLAR_FUTURE_MS, LABEL_BYTES_MAX};

/// Flag of a data point that says: nothing was recorded.
const NO_RECORDED_VALUE: u32 = 1;

/// What came out.
#[derive(Debug, Default)]
pub struct Converted {
    /// To be written.
    pub batch: WriteBatch,
    /// Data points left out.
    pub rejected: i64,
    /// The first reasons, in one text.
    pub reasons: String,
}

impl Converted {
    fn reject(&mut self, points: usize, why: &str) {
        self.rejected += points as i64;
        if self.reasons.len() + why.len() < 2000 && !self.reasons.contains(why) {
            if !self.reasons.is_empty() {
                self.reasons.push_str("; ");
            }
            self.reasons.push_str(why);
        }
    }
}

/// Converts one export.
pub fn convert(request: &ExportMetricsServiceRequest, limits: &Limits, now_ms: i64) -> Converted {
    let mut out = Converted::default();
    for rm in &request.resource_metrics {
        let attributes = rm.resource.as_ref().map_or(&[][..], |r| &r.attributes);
        let resource = Resource::new(attributes, limits);
        let mut latest = 0;
        for metric in rm.scope_metrics.iter().flat_map(|sm| &sm.metrics) {
            let mut c = Metrics { limits, now_ms, resource: &resource, out: &mut out, latest: &mut latest };
            c.metric(metric);
        }
        if latest > 0 {
            resource.target_info(latest, limits, &mut out);
        }
    }
    out
}

/// Labels that come from the resource.
struct Resource {
    job: String,
    instance: String,
    others: BTreeMap<String, String>,
    /// Why no series can have its job and instance.
    wrong: Option<String>,
}

impl Resource {
    fn new(attributes: &[KeyValue], limits: &Limits) -> Self {
        let (mut namespace, mut name, mut instance) = (String::new(), String::new(), String::new());
        let mut others = Vec::new();
        for kv in attributes {
            let value = text(kv.value.as_ref());
            match kv.key.as_str() {
                "service.namespace" => namespace = value,
                "service.name" => name = value,
                "service.instance.id" => instance = value,
                _ => others.push((kv.key.as_str(), value)),
            }
        }
        let job = if namespace.is_empty() || name.is_empty() { name } else { format!("{namespace}/{name}") };
        let longest = [("job", &job), ("instance", &instance)].into_iter().max_by_key(|(_, v)| v.len());
        let max = limits.label_value_bytes_max;
        let wrong = longest
            .filter(|(_, v)| v.len() > max)
            .map(|(name, v)| format!("{name} of a resource has {} bytes, the limit is {max}", v.len()));
        Self { job, instance, others: merged(others), wrong }
    }

    fn add_to(&self, labels: &mut BTreeMap<String, String>) {
        if !self.job.is_empty() {
            labels.insert("job".into(), self.job.clone());
        }
        if !self.instance.is_empty() {
            labels.insert("instance".into(), self.instance.clone());
        }
    }

    /// `target_info` carries what identifies nothing; without a job or an instance it could be joined to nothing.
    fn target_info(&self, ts: i64, limits: &Limits, out: &mut Converted) {
        if self.wrong.is_some() || self.others.is_empty() || (self.job.is_empty() && self.instance.is_empty()) {
            return;
        }
        let mut labels = self.others.clone();
        self.add_to(&mut labels);
        if let Err(why) = within("target_info", &labels, 1, &out.batch, limits) {
            return out.reject(0, &format!("target_info is left out: {why}"));
        }
        labels.insert(METRIC_NAME.into(), "target_info".into());
        let batch = &mut out.batch;
        batch.begin_series(labels.iter().filter(|(_, v)| !v.is_empty()).map(|(n, v)| (n.as_str(), v.as_str())));
        batch.push_float(ts, 1.0, 0);
        let help = "Target metadata".to_owned();
        batch.metadata.push(("target_info".into(), Metadata { kind: MetricKind::Gauge, unit: String::new(), help }));
    }
}

/// Attributes with cleaned names; names that become the same share a label, values joined in the order of their keys.
fn merged(mut attributes: Vec<(&str, String)>) -> BTreeMap<String, String> {
    attributes.sort_by(|a, b| a.0.cmp(b.0));
    let mut out: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in attributes {
        if let Some(name) = label_name(key) {
            match out.get_mut(&name) {
                Some(have) if !have.is_empty() => {
                    have.push(';');
                    have.push_str(&value);
                }
                _ => {
                    out.insert(name, value);
                }
            }
        }
    }
    out
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|v| v.value.as_ref()) {
        None => String::new(),
        Some(v) => any_json(v, true).map_or_else(String::new, |j| match j {
            serde_json::Value::String(s) => s,
            other => other.to_string(),
        }),
    }
}

fn any_json(value: &Any, top: bool) -> Option<serde_json::Value> {
    let nested = |v: &AnyValue| v.value.as_ref().and_then(|v| any_json(v, false)).unwrap_or_default();
    Some(match value {
        Any::StringValue(s) => s.as_str().into(),
        Any::BoolValue(b) => (*b).into(),
        Any::IntValue(i) => (*i).into(),
        Any::DoubleValue(d) => {
            if top {
                float_text(*d).into()
            } else {
                (*d).into()
            }
        }
        Any::BytesValue(b) => base64(b).into(),
        Any::ArrayValue(a) => a.values.iter().map(nested).collect::<Vec<_>>().into(),
        Any::KvlistValue(kv) => {
            let map: serde_json::Map<_, _> = kv
                .values
                .iter()
                .map(|kv| (kv.key.clone(), kv.value.as_ref().map(nested).unwrap_or_default()))
                .collect();
            map.into()
        }
        _ => return None,
    })
}

fn float_text(v: f64) -> String {
    let mut s = String::new();
    crate::http::json::push_float(&mut s, v);
    s
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for piece in bytes.chunks(3) {
        let n = piece.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - piece.len()));
        for i in 0..4 {
            if i <= piece.len() {
                out.push(char::from(ALPHABET[(n >> (18 - 6 * i)) as usize & 63]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn ms(ns: u64) -> i64 {
    (ns / 1_000_000) as i64
}

struct Metrics<'a> {
    limits: &'a Limits,
    now_ms: i64,
    resource: &'a Resource,
    out: &'a mut Converted,
    latest: &'a mut i64,
}

impl Metrics<'_> {
    fn metric(&mut self, m: &Metric) {
        let cumulative = AggregationTemporality::Cumulative as i32;
        let delta = "delta temporality is not taken; set the exporter to cumulative";
        match &m.data {
            None => {}
            Some(metric::Data::Gauge(g)) => {
                if let Some(name) = self.described(m, Shape::Gauge, MetricKind::Gauge, g.data_points.len()) {
                    g.data_points.iter().for_each(|p| self.number(&name, p));
                }
            }
            Some(metric::Data::Sum(s)) if s.aggregation_temporality == cumulative => {
                let (shape, kind) = if s.is_monotonic {
                    (Shape::MonotonicSum, MetricKind::Counter)
                } else {
                    (Shape::Other, MetricKind::Gauge)
                };
                if let Some(name) = self.described(m, shape, kind, s.data_points.len()) {
                    s.data_points.iter().for_each(|p| self.number(&name, p));
                }
            }
            Some(metric::Data::Sum(s)) => {
                self.out.reject(s.data_points.len(), &format!("metric {:?}: {delta}", m.name))
            }
            Some(metric::Data::Histogram(h)) if h.aggregation_temporality == cumulative => {
                if let Some(name) = self.described(m, Shape::Other, MetricKind::Histogram, h.data_points.len()) {
                    h.data_points.iter().for_each(|p| self.histogram(&name, p));
                }
            }
            Some(metric::Data::Histogram(h)) => {
                self.out.reject(h.data_points.len(), &format!("metric {:?}: {delta}", m.name));
            }
            Some(metric::Data::ExponentialHistogram(h)) => {
                let why = format!("metric {:?}: exponential histograms are not taken by this version", m.name);
                self.out.reject(h.data_points.len(), &why);
            }
            Some(metric::Data::Summary(s)) => {
                let why = format!("metric {:?}: summaries are not taken by this version", m.name);
                self.out.reject(s.data_points.len(), &why);
            }
        }
    }

    /// The metric's Prometheus name; its metadata is recorded.
    fn described(&mut self, m: &Metric, shape: Shape, kind: MetricKind, points: usize) -> Option<String> {
        let Some(name) = metric_name(&m.name, &m.unit, shape) else {
            self.out.reject(points, &format!("metric name {:?} has no letter or digit", m.name));
            return None;
        };
        if name.len() > self.limits.label_value_bytes_max {
            let max = self.limits.label_value_bytes_max;
            self.out.reject(points, &format!("a metric name has {} bytes, the limit is {max}", name.len()));
            return None;
        }
        let metadata = Metadata { kind, unit: unit_name(&m.unit), help: m.description.clone() };
        self.out.batch.metadata.push((name.clone(), metadata));
        Some(name)
    }

    fn time_ok(&mut self, ts: i64) -> bool {
        if ts <= 0 || ts > self.now_ms.saturating_add(self.limits.future_ms_max) {
            let why = if ts <= 0 { "a data point has no time" } else { "a data point is too far in the future" };
            self.out.reject(1, why);
            return false;
        }
        *self.latest = (*self.latest).max(ts);
        true
    }

    /// The labels of a data point of a metric that becomes `series` series.
    fn labels(&mut self, name: &str, attributes: &[KeyValue], series: usize) -> Option<BTreeMap<String, String>> {
        if let Some(why) = &self.resource.wrong {
            self.out.reject(1, why);
            return None;
        }
        let pairs = attributes.iter().map(|kv| (kv.key.as_str(), text(kv.value.as_ref()))).collect();
        let mut labels = merged(pairs);
        self.resource.add_to(&mut labels);
        if let Err(why) = within(name, &labels, series, &self.out.batch, self.limits) {
            self.out.reject(1, &format!("a data point is left out: {why}"));
            return None;
        }
        Some(labels)
    }

    fn begin(&mut self, labels: &BTreeMap<String, String>, name: &str, le: Option<&str>) {
        let mut all: Vec<(&str, &str)> = labels
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .filter(|(n, v)| !v.is_empty() && *n != METRIC_NAME && (le.is_none() || *n != "le"))
            .collect();
        all.push((METRIC_NAME, name));
        if let Some(le) = le {
            all.push(("le", le));
        }
        all.sort_unstable();
        self.out.batch.begin_series(all);
    }

    fn number(&mut self, name: &str, p: &NumberDataPoint) {
        let ts = ms(p.time_unix_nano);
        if !self.time_ok(ts) {
            return;
        }
        let value = match (p.flags & NO_RECORDED_VALUE, p.value) {
            (f, _) if f != 0 => STALE_NAN,
            (_, Some(number_data_point::Value::AsDouble(v))) => v,
            (_, Some(number_data_point::Value::AsInt(v))) => v as f64,
            (_, None) => return self.out.reject(1, "a data point has no value"),
        };
        if let Some(labels) = self.labels(name, &p.attributes, 1) {
            self.begin(&labels, name, None);
            self.out.batch.push_float(ts, value, ms(p.start_time_unix_nano));
            for e in &p.exemplars {
                self.exemplar(e, ts);
            }
        }
    }

    fn histogram(&mut self, name: &str, p: &HistogramDataPoint) {
        let ts = ms(p.time_unix_nano);
        if !self.time_ok(ts) {
            return;
        }
        let buckets = p.explicit_bounds.len();
        if buckets > self.limits.histogram_buckets_max {
            let max = self.limits.histogram_buckets_max;
            return self.out.reject(1, &format!("a histogram has {buckets} bounds, the limit is {max}"));
        }
        let Some(labels) = self.labels(name, &p.attributes, buckets + 3) else { return };
        let start = ms(p.start_time_unix_nano);
        let stale = p.flags & NO_RECORDED_VALUE != 0;
        let value = |v: f64| if stale { STALE_NAN } else { v };
        if let Some(sum) = p.sum {
            self.begin(&labels, &format!("{name}_sum"), None);
            self.out.batch.push_float(ts, value(sum), start);
        }
        self.begin(&labels, &format!("{name}_count"), None);
        self.out.batch.push_float(ts, value(p.count as f64), start);
        let bucket = format!("{name}_bucket");
        let mut exemplars: Vec<&OtlpExemplar> = p.exemplars.iter().collect();
        exemplars.sort_by(|a, b| exemplar_value(a).total_cmp(&exemplar_value(b)));
        let mut exemplars = exemplars.into_iter().peekable();
        let mut cumulative = 0u64;
        for (bound, count) in p.explicit_bounds.iter().zip(&p.bucket_counts) {
            cumulative = cumulative.saturating_add(*count);
            if bound.is_infinite() && *bound > 0.0 {
                continue;
            }
            self.begin(&labels, &bucket, Some(&float_text(*bound)));
            self.out.batch.push_float(ts, value(cumulative as f64), start);
            while let Some(e) = exemplars.next_if(|e| exemplar_value(e) <= *bound) {
                self.exemplar(e, ts);
            }
        }
        self.begin(&labels, &bucket, Some("+Inf"));
        self.out.batch.push_float(ts, value(p.count as f64), start);
        for e in exemplars {
            self.exemplar(e, ts);
        }
    }

    fn exemplar(&mut self, e: &OtlpExemplar, default_ts: i64) {
        let mut pairs =
            merged(e.filtered_attributes.iter().map(|kv| (kv.key.as_str(), text(kv.value.as_ref()))).collect());
        // The trace context is what an exemplar is for: it beats an attribute of the same name.
        if !e.trace_id.is_empty() {
            pairs.insert("trace_id".into(), hex(&e.trace_id));
        }
        if !e.span_id.is_empty() {
            pairs.insert("span_id".into(), hex(&e.span_id));
        }
        let ts = if e.time_unix_nano == 0 { default_ts } else { ms(e.time_unix_nano) };
        // As by remote write: one of the future is dropped without making the request wrong.
        if ts > self.now_ms.saturating_add(EXEMPLAR_FUTURE_MS) {
            return;
        }
        if let Err(why) = within("", &pairs, 1, &self.out.batch, self.limits) {
            return self.out.reject(0, &format!("an exemplar is left out: {why}"));
        }
        if let Ok(labels) = Labels::from_pairs(pairs) {
            self.out.batch.push_exemplar(Exemplar { labels, value: exemplar_value(e), ts });
        }
    }
}

/// Room for the suffix of a metric's name and the bound of a bucket, bytes.
const SUFFIX_BYTES: usize = 64;

/// Are the labels of a metric within the limits of a series (with one more for a bucket's bound), and `series` such within that
/// of the whole write?
fn within(
    name: &str,
    labels: &BTreeMap<String, String>,
    series: usize,
    batch: &WriteBatch,
    limits: &Limits,
) -> Result<(), String> {
    let (count, max) = (labels.len() + 2, limits.labels_max);
    if count > max {
        return Err(format!("{count} labels, the limit is {max}"));
    }
    let is_long = |n: &str, v: &str| n.len() > limits.label_name_bytes_max || v.len() > limits.label_value_bytes_max;
    let name = (METRIC_NAME, name);
    let mut pairs = labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).chain([name]);
    if let Some((n, _)) = pairs.find(|(n, v)| is_long(n, v)) {
        let shown: String = n.chars().take(60).collect();
        return Err(format!("label {shown:?} or its value is over the length limit"));
    }
    // Each series writes its labels out.
    let bytes: usize = labels.iter().map(|(n, v)| n.len() + v.len()).sum();
    let bytes = (bytes + name.1.len() + SUFFIX_BYTES).saturating_mul(series);
    let max = limits.write_memory_bytes_max.min(LABEL_BYTES_MAX);
    if bytes.saturating_add(batch.label_bytes.len()) > max {
        return Err(format!("the labels of the whole export take more than {max} bytes"));
    }
    Ok(())
}

fn exemplar_value(e: &OtlpExemplar) -> f64 {
    match e.value {
        Some(exemplar::Value::AsDouble(v)) => v,
        Some(exemplar::Value::AsInt(v)) => v as f64,
        None => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::metrics::v1::{Histogram, ResourceMetrics, ScopeMetrics};

    #[test]
    fn a_classic_histogram_becomes_its_series() {
        let point = HistogramDataPoint {
            time_unix_nano: 5_000_000_000,
            count: 7,
            sum: Some(3.5),
            explicit_bounds: vec![0.5, 1.0],
            bucket_counts: vec![2, 3, 2],
            ..Default::default()
        };
        let data = metric::Data::Histogram(Histogram {
            data_points: vec![point],
            aggregation_temporality: AggregationTemporality::Cumulative as i32,
        });
        let metric = Metric { name: "rpc.duration".into(), unit: "s".into(), data: Some(data), ..Default::default() };
        let scope = ScopeMetrics { metrics: vec![metric], ..Default::default() };
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics { scope_metrics: vec![scope], ..Default::default() }],
        };
        let c = convert(&request, &Limits::default(), 10_000);
        let series: Vec<_> =
            (0..c.batch.series.len()).map(|i| (c.batch.labels(i).unwrap().to_string(), c.batch.values[i])).collect();
        let name = "rpc_duration_seconds";
        assert_eq!(
            series,
            [
                (format!("{{__name__=\"{name}_sum\"}}"), 3.5),
                (format!("{{__name__=\"{name}_count\"}}"), 7.0),
                (format!("{{__name__=\"{name}_bucket\", le=\"0.5\"}}"), 2.0),
                (format!("{{__name__=\"{name}_bucket\", le=\"1\"}}"), 5.0),
                (format!("{{__name__=\"{name}_bucket\", le=\"+Inf\"}}"), 7.0),
            ]
        );
        assert_eq!(c.rejected, 0);
    }

    /// A small export must not become gigabytes of labels: each bucket is a series, and writes all of them out.
    #[test]
    fn what_an_export_becomes_is_bounded() {
        let long = || AnyValue { value: Some(Any::StringValue("v".repeat(4_000))) };
        let attributes: Vec<KeyValue> =
            (0..50).map(|i| KeyValue { key: format!("k{i}"), value: Some(long()), ..Default::default() }).collect();
        let histogram = |name: &str, bounds: usize, attributes: &[KeyValue]| {
            let point = HistogramDataPoint {
                time_unix_nano: 5_000_000_000,
                attributes: attributes.to_vec(),
                explicit_bounds: (0..bounds).map(|b| b as f64).collect(),
                bucket_counts: vec![1; bounds + 1],
                ..Default::default()
            };
            let data = metric::Data::Histogram(Histogram {
                data_points: vec![point],
                aggregation_temporality: AggregationTemporality::Cumulative as i32,
            });
            Metric { name: name.into(), data: Some(data), ..Default::default() }
        };
        let limits = Limits::default();
        let max = limits.write_memory_bytes_max;
        let metrics = vec![
            histogram("fits", 20, &attributes),
            histogram("many_bounds", 50_000, &[]),
            histogram("many_bytes", 10_000, &attributes),
            histogram(&"n".repeat(5_000), 10_000, &[]),
        ];
        let scope = ScopeMetrics { metrics, ..Default::default() };
        let resource = opentelemetry_proto::tonic::resource::v1::Resource {
            attributes: vec![
                KeyValue {
                    key: "service.name".into(),
                    value: Some(AnyValue { value: Some(Any::StringValue("job".into())) }),
                    ..Default::default()
                },
                KeyValue {
                    key: "command".into(),
                    value: Some(AnyValue { value: Some(Any::StringValue("c".repeat(5_000))) }),
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(resource),
                scope_metrics: vec![scope],
                ..Default::default()
            }],
        };
        let c = convert(&request, &limits, 10_000);
        assert_eq!((c.batch.series.len(), c.rejected), (22, 3), "{}", c.reasons);
        assert!(c.batch.label_bytes.len() < max);
        for why in ["50000 bounds", "whole export", "a metric name has 5000 bytes", "target_info is left out"] {
            assert!(c.reasons.contains(why), "{why}: {}", c.reasons);
        }
    }

    #[test]
    fn base64_of_rfc_4648() {
        assert_eq!(
            ["", "f", "fo", "foo", "foob"].map(|s| base64(s.as_bytes())),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]
        );
    }
}
