//! OTLP metrics into a [`WriteBatch`]: gauges, sums and classic histograms.
//!
//! ```text
//! resource ─▶ job, instance, target_info      scope ─▶ nothing: it only tells streams apart
//! metric ─▶ name with unit and type suffix    data point ─▶ labels, samples, start timestamp, exemplars
//! ```
//!
//! Data points that cannot be kept are counted and named in the answer's `partial_success`; the others are kept.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar as OtlpExemplar, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, exemplar, metric, number_data_point,
};
use quiver_model::labels::quoted;
use quiver_model::{Exemplar, Labels, Limits, Metadata, MetricKind, STALE_NAN, TimeRange, WriteBatch};

use super::Partial;
use super::labels::{LabelBuffer, Wrong};
use super::names::{Shape, metric_name, unit_name};
use super::streams::{Claim, Source, Streams};
use super::target_info::{Identity, Resource, TargetInfo};
use super::text::{push_bound, push_value};
use crate::rejections::{Reason, cut};
use crate::write::decode::{EXEMPLAR_FUTURE_MS, LABEL_BYTES_MAX};

/// Flag of a data point that says: nothing was recorded.
const NO_RECORDED_VALUE: u32 = 1;

/// How exports are converted.
#[derive(Clone, Copy)]
pub struct ConvertOptions<'a> {
    /// Limits on labels, histograms and times.
    pub limits: &'a Limits,
    /// Now, ms: times are checked against it.
    pub now_ms: i64,
    /// How far a query looks back for a sample, ms: `target_info` has one every half of it.
    pub lookback_ms: i64,
}

/// What came out, beside the batch.
#[derive(Debug, Default)]
pub struct Converted {
    /// What was left out.
    pub partial: Partial,
    /// Data points in whose place a later one of the same stream within the same millisecond is kept.
    pub superseded: u64,
    /// Resources whose `target_info` has samples at their points only, for they are spread over too long a time.
    pub thinned: u64,
}

/// Converts one export into `batch`, which is empty.
pub fn convert(
    request: &ExportMetricsServiceRequest,
    options: ConvertOptions<'_>,
    batch: &mut WriteBatch,
) -> Converted {
    let mut c = Converter {
        options,
        batch,
        out: Converted::default(),
        labels: LabelBuffer::default(),
        streams: Streams::default(),
        le: String::new(),
        times: NO_TIMES,
    };
    let mut resources = Vec::new();
    for rm in &request.resource_metrics {
        resources.extend(c.resource(rm));
    }
    let Converter { batch, mut out, mut labels, mut streams, .. } = c;
    let interval_ms = (options.lookback_ms / 2).max(1);
    let mut info = TargetInfo { limits: options.limits, interval_ms, samples: 0, is_described: false, thinned: 0 };
    for r in &resources {
        info.add(r, &mut labels, &mut streams, batch, &mut out.partial);
    }
    out.thinned = info.thinned;
    streams.finish(batch);
    out
}

/// Of a resource without points.
const NO_TIMES: TimeRange = TimeRange { min: i64::MAX, max: i64::MIN };

/// Bytes that the labels of all series of an export may take.
pub(super) fn label_bytes_max(limits: &Limits) -> usize {
    limits.write_memory_bytes_max.min(LABEL_BYTES_MAX)
}

/// What is said where they take more.
pub(super) fn too_many_bytes(max: usize) -> String {
    format!("the labels of the whole export take more than {max} bytes")
}

fn ms(ns: u64) -> i64 {
    (ns / 1_000_000) as i64
}

struct Converter<'o, 'a> {
    options: ConvertOptions<'o>,
    batch: &'o mut WriteBatch,
    out: Converted,
    labels: LabelBuffer,
    streams: Streams<'a>,
    /// The bound of a bucket as text.
    le: String,
    /// Times of the points of the resource at hand.
    times: TimeRange,
}

/// Where a metric is.
#[derive(Clone, Copy)]
struct Place<'a> {
    resource: &'a ResourceMetrics,
    scope: &'a ScopeMetrics,
    metric: &'a Metric,
}

impl<'a> Place<'a> {
    fn point(self, attributes: &'a [KeyValue], time_ns: u64) -> Source<'a> {
        Source { resource: self.resource, scope: self.scope, metric: self.metric, attributes, time_ns }
    }
}

/// The names of the series of a histogram.
struct HistogramNames {
    sum: String,
    count: String,
    bucket: String,
}

impl<'a> Converter<'_, 'a> {
    fn resource(&mut self, rm: &'a ResourceMetrics) -> Option<Resource<'a>> {
        let attributes = rm.resource.as_ref().map_or(&[][..], |r| &r.attributes);
        let identity = match Identity::new(attributes, self.options.limits) {
            Ok(identity) => identity,
            Err(wrong) => {
                rm.scope_metrics.iter().flat_map(|sm| &sm.metrics).for_each(|m| self.reject_all(m, &wrong));
                return None;
            }
        };
        self.labels.begin_resource(&identity.labels());
        self.times = NO_TIMES;
        let first = self.batch.series.len();
        for scope in &rm.scope_metrics {
            scope.metrics.iter().for_each(|metric| self.metric(Place { resource: rm, scope, metric }));
        }
        let (times, series) = (self.times, (first, self.batch.series.len()));
        (times.min <= times.max).then_some(Resource { attributes, identity, times, series })
    }

    fn reject_all(&mut self, m: &Metric, (reason, why): &Wrong) {
        self.out.partial.points(*reason, &m.name, points_of(m), || why.clone());
    }

    fn metric(&mut self, place: Place<'a>) {
        let m = place.metric;
        match &m.data {
            None => self.out.partial.other(Reason::NoData, &m.name, || "the metric has no data of a known type".into()),
            Some(metric::Data::Gauge(g)) => {
                if let Some(name) = self.described(m, Shape::Gauge, MetricKind::Gauge, g.data_points.len()) {
                    g.data_points.iter().for_each(|p| self.number(place, &name, p));
                }
            }
            Some(metric::Data::Sum(s)) => {
                let (shape, kind) = if s.is_monotonic {
                    (Shape::MonotonicSum, MetricKind::Counter)
                } else {
                    (Shape::Other, MetricKind::Gauge)
                };
                if self.is_cumulative(m, s.aggregation_temporality)
                    && let Some(name) = self.described(m, shape, kind, s.data_points.len())
                {
                    s.data_points.iter().for_each(|p| self.number(place, &name, p));
                }
            }
            Some(metric::Data::Histogram(h)) => {
                if self.is_cumulative(m, h.aggregation_temporality)
                    && let Some(name) = self.described(m, Shape::Other, MetricKind::Histogram, h.data_points.len())
                {
                    let suffixed = |suffix: &str| format!("{name}{suffix}");
                    let names = HistogramNames {
                        sum: suffixed("_sum"),
                        count: suffixed("_count"),
                        bucket: suffixed("_bucket"),
                    };
                    h.data_points.iter().for_each(|p| self.histogram(place, &names, p));
                }
            }
            Some(metric::Data::ExponentialHistogram(_)) => {
                let why = "exponential histograms are not supported".to_owned();
                self.reject_all(m, &(Reason::ExponentialHistogram, why));
            }
            Some(metric::Data::Summary(_)) => {
                self.reject_all(m, &(Reason::Summary, "summaries are not supported".to_owned()));
            }
        }
    }

    fn is_cumulative(&mut self, m: &Metric, temporality: i32) -> bool {
        let wrong = match AggregationTemporality::try_from(temporality) {
            Ok(AggregationTemporality::Cumulative) => return true,
            Ok(AggregationTemporality::Delta) => {
                (Reason::DeltaTemporality, "delta temporality is not supported; set the exporter to cumulative")
            }
            _ => (Reason::UnknownTemporality, "the aggregation temporality is unspecified"),
        };
        self.reject_all(m, &(wrong.0, wrong.1.to_owned()));
        false
    }

    /// The metric's Prometheus name; its metadata is recorded.
    fn described(&mut self, m: &Metric, shape: Shape, kind: MetricKind, points: usize) -> Option<String> {
        let max = self.options.limits.label_value_bytes_max;
        let Some(name) = metric_name(&m.name, &m.unit, shape) else {
            let why = || format!("the name {} contains no ASCII letter or digit", quoted(cut(&m.name, 60)));
            self.out.partial.points(Reason::MetricName, &m.name, points, why);
            return None;
        };
        if name.len() > max {
            let why = || format!("a metric name has {} bytes, the limit is {max}", name.len());
            self.out.partial.points(Reason::MetricName, &m.name, points, why);
            return None;
        }
        let metadata = Metadata { kind, unit: unit_name(&m.unit), help: m.description.clone() };
        self.batch.metadata.push((name.clone(), metadata));
        Some(name)
    }

    fn reject(&mut self, place: Place<'a>, reason: Reason, why: impl FnOnce() -> String) {
        self.out.partial.points(reason, &place.metric.name, 1, why);
    }

    fn time_ok(&mut self, place: Place<'a>, ts: i64) -> bool {
        let (reason, why) = if ts <= 0 {
            (Reason::Past, "a data point has no time")
        } else if ts > self.options.now_ms.saturating_add(self.options.limits.future_ms_max) {
            (Reason::Future, "a data point is too far in the future")
        } else {
            return true;
        };
        self.reject(place, reason, || why.to_owned());
        false
    }

    /// Takes the labels of a data point that becomes `series` series; false where they are wrong.
    fn load(&mut self, place: Place<'a>, name: &str, attributes: &[KeyValue], series: usize) -> bool {
        let limits = self.options.limits;
        // The metric's name, and `le` of a histogram's buckets.
        let own = 1 + usize::from(series > 1);
        let loaded = self.labels.load(|i| attributes.get(i), own, limits, None).and_then(|()| {
            let bytes = self.batch.label_bytes.len().saturating_add(self.labels.bytes(name, series));
            let max = label_bytes_max(limits);
            if bytes > max { Err((Reason::Memory, too_many_bytes(max))) } else { Ok(()) }
        });
        match loaded {
            Ok(()) => true,
            Err((reason, why)) => {
                self.reject(place, reason, || format!("a data point is left out: {why}"));
                false
            }
        }
    }

    fn begin(&mut self, name: &str) {
        let at = self.batch.label_bytes.len() as u32;
        self.labels.pack(name, None, &mut self.batch.label_bytes);
        self.batch.begin_packed(at);
    }

    fn begin_bucket(&mut self, name: &str, bound: f64) {
        self.le.clear();
        push_bound(bound, &mut self.le);
        let at = self.batch.label_bytes.len() as u32;
        self.labels.pack(name, Some(&self.le), &mut self.batch.label_bytes);
        self.batch.begin_packed(at);
    }

    /// Ends a point, whose series are those from `first` on.
    fn end(&mut self, place: Place<'a>, first: usize, ts: i64, source: Source<'a>) {
        match self.streams.claim(self.batch, first, ts, source) {
            Claim::Kept => {}
            Claim::Superseded(n) => self.out.superseded += n,
            Claim::Collides(what) => {
                let labels = self.batch.labels(first).map(|l| l.to_labels().to_string()).unwrap_or_default();
                return self.reject(place, Reason::Collision, || {
                    let labels = cut(&labels, 300);
                    format!("a data point has the series {labels} and the time of another data point {what}")
                });
            }
        }
        self.times = TimeRange { min: self.times.min.min(ts), max: self.times.max.max(ts) };
    }

    fn number(&mut self, place: Place<'a>, name: &str, p: &'a NumberDataPoint) {
        let ts = ms(p.time_unix_nano);
        if !self.time_ok(place, ts) {
            return;
        }
        let value = match (p.flags & NO_RECORDED_VALUE, p.value) {
            (f, _) if f != 0 => STALE_NAN,
            (_, Some(number_data_point::Value::AsDouble(v))) => v,
            (_, Some(number_data_point::Value::AsInt(v))) => v as f64,
            (_, None) => return self.reject(place, Reason::NoValue, || "a data point has no value".into()),
        };
        if self.load(place, name, &p.attributes, 1) {
            let first = self.batch.series.len();
            self.begin(name);
            self.batch.push_float(ts, value, ms(p.start_time_unix_nano));
            for e in &p.exemplars {
                self.exemplar(place, e, ts);
            }
            self.end(place, first, ts, place.point(&p.attributes, p.time_unix_nano));
        }
    }

    fn histogram(&mut self, place: Place<'a>, names: &HistogramNames, p: &'a HistogramDataPoint) {
        let ts = ms(p.time_unix_nano);
        if !self.time_ok(place, ts) {
            return;
        }
        let (buckets, max) = (p.explicit_bounds.len(), self.options.limits.histogram_buckets_max);
        if buckets > max {
            let why = || format!("a histogram has {buckets} bounds, the limit is {max}");
            return self.reject(place, Reason::HistogramLimit, why);
        }
        if !self.load(place, &names.bucket, &p.attributes, buckets + 3) {
            return;
        }
        let first = self.batch.series.len();
        let start = ms(p.start_time_unix_nano);
        let stale = p.flags & NO_RECORDED_VALUE != 0;
        let value = |v: f64| if stale { STALE_NAN } else { v };
        if let Some(sum) = p.sum {
            self.begin(&names.sum);
            self.batch.push_float(ts, value(sum), start);
        }
        self.begin(&names.count);
        self.batch.push_float(ts, value(p.count as f64), start);
        let mut exemplars: Vec<(f64, &OtlpExemplar)> =
            p.exemplars.iter().map(|e| (exemplar_value(e).unwrap_or(f64::NAN), e)).collect();
        exemplars.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut exemplars = exemplars.into_iter().peekable();
        let mut cumulative = 0u64;
        for (bound, count) in p.explicit_bounds.iter().zip(&p.bucket_counts) {
            cumulative = cumulative.saturating_add(*count);
            if bound.is_infinite() && *bound > 0.0 {
                continue;
            }
            self.begin_bucket(&names.bucket, *bound);
            self.batch.push_float(ts, value(cumulative as f64), start);
            while let Some((_, e)) = exemplars.next_if(|(v, _)| v <= bound) {
                self.exemplar(place, e, ts);
            }
        }
        self.begin_bucket(&names.bucket, f64::INFINITY);
        self.batch.push_float(ts, value(p.count as f64), start);
        for (_, e) in exemplars {
            self.exemplar(place, e, ts);
        }
        self.end(place, first, ts, place.point(&p.attributes, p.time_unix_nano));
    }

    fn exemplar(&mut self, place: Place<'a>, e: &OtlpExemplar, default_ts: i64) {
        let metric = &place.metric.name;
        let ts = if e.time_unix_nano == 0 { default_ts } else { ms(e.time_unix_nano) };
        // As by remote write: one of the future is dropped without making the request wrong.
        if ts > self.options.now_ms.saturating_add(EXEMPLAR_FUTURE_MS) {
            let why = || "an exemplar is too far in the future".to_owned();
            return self.out.partial.silently(Reason::Exemplar, metric, why);
        }
        match self.exemplar_labels(e).and_then(|labels| Ok((exemplar_value(e).ok_or("it has no value")?, labels))) {
            Ok((value, labels)) => self.batch.push_exemplar(Exemplar { labels, value, ts }),
            Err(why) => {
                self.out.partial.other(Reason::Exemplar, metric, || format!("an exemplar is left out: {why}"));
            }
        }
    }

    /// Its attributes under their own names, and the trace and the span it belongs to.
    fn exemplar_labels(&self, e: &OtlpExemplar) -> Result<Labels, &'static str> {
        let limits = self.options.limits;
        let mut pairs: BTreeMap<&str, String> = BTreeMap::new();
        for kv in &e.filtered_attributes {
            if kv.key.is_empty() || kv.key.len() > limits.label_name_bytes_max {
                return Err("the name of an attribute is empty or over the length limit");
            }
            let mut value = String::new();
            push_value(kv.value.as_ref(), limits.label_value_bytes_max, &mut value)
                .map_err(|_| "the value of an attribute is over the length limit")?;
            pairs.insert(&kv.key, value);
        }
        // The trace context is what an exemplar is for: it replaces attributes of the same name.
        for (name, id, bytes) in [("trace_id", &e.trace_id, 16), ("span_id", &e.span_id, 8)] {
            // Of zeros alone: none.
            if id.iter().any(|b| *b != 0) {
                if id.len() != bytes {
                    return Err("its trace ID is not 16 bytes long, or its span ID not 8");
                }
                pairs.insert(name, hex(id));
            }
        }
        if pairs.len() > limits.labels_max {
            return Err("it has too many attributes");
        }
        let bytes: usize = pairs.iter().map(|(n, v)| n.len() + v.len()).sum();
        if self.batch.label_bytes.len().saturating_add(bytes) > label_bytes_max(limits) {
            return Err("the labels of the whole export take too many bytes");
        }
        Labels::from_pairs(pairs).map_err(|_| "its labels are invalid")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn exemplar_value(e: &OtlpExemplar) -> Option<f64> {
    e.value.map(|v| match v {
        exemplar::Value::AsDouble(v) => v,
        exemplar::Value::AsInt(v) => v as f64,
    })
}

/// Data points of a metric.
pub(super) fn points_of(m: &Metric) -> usize {
    match &m.data {
        None => 0,
        Some(metric::Data::Gauge(d)) => d.data_points.len(),
        Some(metric::Data::Sum(d)) => d.data_points.len(),
        Some(metric::Data::Histogram(d)) => d.data_points.len(),
        Some(metric::Data::ExponentialHistogram(d)) => d.data_points.len(),
        Some(metric::Data::Summary(d)) => d.data_points.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::common::v1::AnyValue;
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
    use opentelemetry_proto::tonic::metrics::v1::Histogram;

    fn converted(request: &ExportMetricsServiceRequest, limits: &Limits) -> (WriteBatch, Converted) {
        let mut batch = WriteBatch::default();
        let options = ConvertOptions { limits, now_ms: 10_000, lookback_ms: 300_000 };
        let out = convert(request, options, &mut batch);
        (batch, out)
    }

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
        let (batch, c) = converted(&request, &Limits::default());
        let series: Vec<_> =
            (0..batch.series.len()).map(|i| (batch.labels(i).unwrap().to_string(), batch.values[i])).collect();
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
        assert_eq!((c.partial.points, c.partial.message()), (0, None));
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
        let (batch, c) = converted(&request, &limits);
        let message = c.partial.message().unwrap();
        assert_eq!((batch.series.len(), c.partial.points), (23, 3), "{message}");
        assert!(batch.label_bytes.len() < max);
        for why in [
            "50000 bounds",
            "whole export",
            "a metric name has 5000 bytes",
            "\"command\" is over the length limit (left out of target_info)",
        ] {
            assert!(message.contains(why), "{why}: {message}");
        }
    }
}
