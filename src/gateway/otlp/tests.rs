//! What Prometheus 3.16 stores for exports under its default strategy (names escaped, with suffixes), by the same requests:
//! names of metrics and labels, values of attributes, resources, classic histograms, exemplars. Where Prometheus refuses a whole
//! request or drops something without a word, the valid part is kept here and the rest is named.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
    exemplar, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use quiver_model::{Limits, WriteBatch, is_stale};

use super::convert::{ConvertOptions, Converted, convert};

/// The time of points, ms.
const T: i64 = 1_780_372_200_000;

fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn attributes(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
    pairs.iter().map(|(k, v)| attribute(k, Any::StringValue(v.to_string()))).collect()
}

fn ns(ms: i64) -> u64 {
    ms as u64 * 1_000_000
}

fn point(ms: i64, value: f64, attributes: Vec<KeyValue>) -> NumberDataPoint {
    let value = Some(number_data_point::Value::AsDouble(value));
    NumberDataPoint { attributes, time_unix_nano: ns(ms), value, ..NumberDataPoint::default() }
}

fn gauge(name: &str, unit: &str, data_points: Vec<NumberDataPoint>) -> Metric {
    let data = Some(metric::Data::Gauge(Gauge { data_points }));
    Metric { name: name.into(), unit: unit.into(), data, ..Metric::default() }
}

fn sum(name: &str, unit: &str, is_monotonic: bool, data_points: Vec<NumberDataPoint>) -> Metric {
    let data = Some(metric::Data::Sum(Sum { data_points, aggregation_temporality: 2, is_monotonic }));
    Metric { name: name.into(), unit: unit.into(), data, ..Metric::default() }
}

fn histogram(name: &str, unit: &str, p: HistogramDataPoint) -> Metric {
    let data_points = vec![HistogramDataPoint { time_unix_nano: ns(T), ..p }];
    let data = Some(metric::Data::Histogram(Histogram { data_points, aggregation_temporality: 2 }));
    Metric { name: name.into(), unit: unit.into(), data, ..Metric::default() }
}

fn scope(name: &str, metrics: Vec<Metric>) -> ScopeMetrics {
    let scope = Some(InstrumentationScope { name: name.into(), ..InstrumentationScope::default() });
    ScopeMetrics { scope, metrics, ..ScopeMetrics::default() }
}

fn resource(attributes: Vec<KeyValue>, scope_metrics: Vec<ScopeMetrics>) -> ResourceMetrics {
    let resource = Some(Resource { attributes, ..Resource::default() });
    ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }
}

fn export(resource_metrics: Vec<ResourceMetrics>) -> (WriteBatch, Converted) {
    let limits = Limits::default();
    let (request, mut batch) = (ExportMetricsServiceRequest { resource_metrics }, WriteBatch::default());
    let options = ConvertOptions { limits: &limits, now_ms: T + 60_000, lookback_ms: 300_000 };
    let out = convert(&request, options, &mut batch);
    (batch, out)
}

fn metrics(metrics: Vec<Metric>) -> (WriteBatch, Converted) {
    export(vec![resource(Vec::new(), vec![scope("", metrics)])])
}

fn value(v: f64) -> String {
    match v {
        v if is_stale(v) => "stale".into(),
        v if v == 2f64.powi(53) => "2^53".into(),
        v => quiver_model::number::format_g(v),
    }
}

/// The series as the tables write them: `name{labels} value value@seconds`.
fn shown(batch: &WriteBatch) -> Vec<String> {
    let one = |i: usize| {
        let labels = batch.labels(i).unwrap();
        let pairs: Vec<_> =
            labels.iter().filter(|(n, _)| *n != "__name__").map(|(n, v)| format!("{n}={v:?}")).collect();
        let braces = if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
        let s = &batch.series[i];
        let samples = (s.floats.0 as usize..s.floats.1 as usize).map(|k| match (batch.ts[k] - T) / 1000 {
            0 => value(batch.values[k]),
            at => format!("{}@{at}", value(batch.values[k])),
        });
        let samples: Vec<_> = samples.collect();
        format!("{}{braces} {}", labels.get("__name__"), samples.join(" "))
    };
    (0..batch.series.len()).map(one).collect()
}

/// The one series of metrics, without its value.
fn one(all: Vec<Metric>) -> Option<String> {
    let (batch, _) = metrics(all);
    let list = shown(&batch);
    assert!(list.len() < 2, "{list:?}");
    Some(list.first()?.rsplit_once(' ')?.0.to_owned())
}

#[test]
fn names_of_metrics() {
    // g: gauge, c: monotonic sum, s: other sum.
    for (kind, name, unit, wanted) in [
        ('g', "cpu.utilization", "1", "cpu_utilization_ratio"),
        ('g', "disk.usage", "%", "disk_usage_percent"),
        ('c', "net.io", "By/s", "net_io_bytes_per_second_total"),
        ('c', "requests", "{requests}", "requests_total"),
        ('c', "foo_total", "1", "foo_total"),
        ('g', "queue.size", "KiBy", "queue_size_kibibytes"),
        ('g', "temp", "Cel", "temp_celsius"),
        ('g', "5xx.errors", "", "_5xx_errors"),
        ('g', "speed", "m/s", "speed_meters_per_second"),
        ('g', "rate", "1/s", "rate_per_second"),
        ('s', "x.total", "s", "x_total_seconds"),
        ('g', "disk_ratio", "1", "disk_ratio"),
        ('g', "ratio.of.x", "1", "of_x_ratio"),
        ('c', "total.requests", "", "requests_total"),
        ('g', "memory.bytes.used", "By", "memory_bytes_used"),
        ('g', "a__b--c", "", "a_b_c"),
        ('g', "cpu.share", "{cpu}/s", "cpu_share_per_second"),
        ('g', "requests.per.second", "1/s", "requests_per_second_per_second"),
        ('g', "odd.one", "foo/bar", "odd_one_foo_per_bar"),
        ('g', "odd.two", "By/{req}", "odd_two_bytes"),
        ('g', "flow", "m/m", "flow_meters_per_minute"),
        ('g', "flow2", "By/min", "flow2_bytes_per_min"),
        ('g', "flow3", "m3/h", "flow3_m3_per_hour"),
        ('g', "wind", "°C", "wind_C"),
        ('g', "volt", "mV", "volt_mV"),
        ('g', "energy", "kW.h", "energy_kW_h"),
        ('g', "a:b.c", "", "a:b_c"),
        ('g', "温度", "", ""),
        ('g', "温度.x", "", "x"),
        ('g', "_x_", "", "x"),
        ('g', "__x__", "", "x"),
        ('g', "", "", ""),
        ('s', "updown", "1", "updown"),
        ('g', "x.seconds.count", "s", "x_seconds_count"),
        ('g', "trim", " s ", "trim_seconds"),
        ('g', "ratio", "1", "ratio"),
        ('c', "total", "", "total"),
        ('c', "io.total.bytes", "By", "io_bytes_total"),
        ('g', "By.size", "By", "By_size_bytes"),
        ('g', "foo.Seconds", "s", "foo_Seconds_seconds"),
        ('c', "5xx", "1", "_5xx_total"),
        ('g', "x{y}", "{a}b", "x_y"),
        ('g', "pct", "%/s", "pct_percent_per_second"),
        ('g', "deep", "By/s/x", "deep_bytes_per_s_x"),
        ('g', "load_per_second", "By/s", "load_per_second_bytes_per_second"),
        ('c', "bytes", "By", "bytes_total"),
        ('g', "d", "ms", "d_milliseconds"),
        ('g', "a.b_milliseconds", "ms", "a_b_milliseconds"),
        ('g', "up time", "s", "up_time_seconds"),
        ('g', "x", "_s_", "x_s_"),
        ('g', "...", "", ""),
        ('c', "req.total.count", "1", "req_count_total"),
        ('g', "foo/bar", "w", "foo_bar_w"),
        ('g', "temp.celsius", "Cel", "temp_celsius"),
        ('s', "things", "{thing}", "things"),
        ('g', "time", "s/s", "time_seconds_per_second"),
        ('g', "m", "m/{x}", "m_meters"),
        ('g', "n", "/s", "n_per_second"),
        ('g', "o", "1/{x}", "o"),
        ('g', "area", "m²", "area_m_"),
        ('g', "length", "[in_i]", "length_in_i_"),
    ] {
        let points = vec![point(T, 1.0, Vec::new())];
        let m = match kind {
            'g' => gauge(name, unit, points),
            kind => sum(name, unit, kind == 'c', points),
        };
        let (_, out) = metrics(vec![m.clone()]);
        assert_eq!(one(vec![m]).unwrap_or_default(), wanted, "{name} {unit}");
        assert_eq!(out.partial.points, u64::from(wanted.is_empty()), "{name} {unit}");
    }
}

#[test]
fn names_of_labels() {
    for (pairs, wanted) in [
        (&[("http.status_code", "200"), ("http.status.code", "201")][..], r#"lab{http_status_code="201;200"}"#),
        (&[("http.status.code", "201"), ("http.status_code", "200")], r#"lab{http_status_code="201;200"}"#),
        (&[("_private", "v")], r#"lab{key_private="v"}"#),
        (&[("2xx", "v")], r#"lab{key_2xx="v"}"#),
        (&[("a..b", "v")], r#"lab{a__b="v"}"#),
        (&[("__x", "v")], r#"lab{__x="v"}"#),
        (&[("名前", "v")], ""),
        (&[("__x__", "v")], r#"lab{__x__="v"}"#),
        (&[("__a.b__", "v")], r#"lab{__a_b__="v"}"#),
        (&[("__name__", "other")], "lab"),
        (&[("__name..", "other"), ("a", "v")], r#"lab{a="v"}"#),
        (&[("..name..", "x"), ("_.name__", "y")], "lab"),
        (&[("e", "")], "lab"),
        (&[("", "v")], ""),
        (&[("é", "v")], r#"lab{key_="v"}"#),
        (&[("aé.b", "v")], r#"lab{a__b="v"}"#),
        (&[("k", "1"), ("k", "2")], r#"lab{k="1;2"}"#),
        (&[("_", "v")], r#"lab{key_="v"}"#),
        (&[(".a", "v")], r#"lab{key_a="v"}"#),
        (&[("a.", "x"), ("a-", "y")], r#"lab{a_="y;x"}"#),
        (&[("a___b", "v")], r#"lab{a___b="v"}"#),
        (&[("_.a", "v")], r#"lab{__a="v"}"#),
        (&[("..a", "v")], r#"lab{__a="v"}"#),
        (&[("http..status", "v")], r#"lab{http__status="v"}"#),
        (&[("..b", "v")], r#"lab{__b="v"}"#),
        (&[("le", "9")], r#"lab{le="9"}"#),
        (&[("a:b", "v")], r#"lab{a_b="v"}"#),
        (&[("a.b", ""), ("a_b", "v")], r#"lab{a_b="v"}"#),
        (&[("a_b", "1"), ("a.b", "2"), ("z", "3"), ("a-b", "4"), ("Z", "5")], r#"lab{Z="5",a_b="4;2;1",z="3"}"#),
        (&[("__type__", "t"), ("__unit__", "u")], r#"lab{__type__="t",__unit__="u"}"#),
        (&[("..", "v")], ""),
        (&[("job", "j"), ("instance", "i")], r#"lab{instance="i",job="j"}"#),
    ] {
        let m = gauge("lab", "", vec![point(T, 1.0, attributes(pairs))]);
        let (_, out) = metrics(vec![m.clone()]);
        assert_eq!(one(vec![m]).unwrap_or_default(), wanted, "{pairs:?}");
        assert_eq!(out.partial.points, u64::from(wanted.is_empty()), "{pairs:?}");
    }
    // What has no name is rejected, the points beside it are kept, and the answer names it.
    let points = [("名前", "a"), ("名前", "b"), ("x", "c")].map(|pair| point(T, 1.0, attributes(&[pair])));
    let (batch, out) = metrics(vec![gauge("lab", "", points.to_vec())]);
    let message = out.partial.message().unwrap();
    assert_eq!((shown(&batch), out.partial.points), (vec![r#"lab{x="c"} 1"#.into()], 2), "{message}");
    assert!(message.contains("metric \"lab\"") && message.contains("名前"), "{message}");
}

#[test]
fn resources() {
    let list = || {
        Any::ArrayValue(ArrayValue {
            values: [Any::IntValue(1), Any::StringValue("x".into())].map(|v| AnyValue { value: Some(v) }).to_vec(),
        })
    };
    let ids = || attributes(&[("service.name", "a"), ("service.instance.id", "i")]);
    let with = |mut all: Vec<KeyValue>, more: &[(&str, &str)]| {
        all.extend(attributes(more));
        all
    };
    for (attributes, wanted) in [
        (ids(), &[r#"res{instance="i",job="a"}"#][..]),
        (
            with(ids(), &[("host.name", "h")]),
            &[r#"res{instance="i",job="a"}"#, r#"target_info{host_name="h",instance="i",job="a"}"#],
        ),
        (attributes(&[("service.namespace", "n"), ("service.name", "a")]), &[r#"res{job="n/a"}"#]),
        (attributes(&[("service.namespace", "n")]), &["res"]),
        (attributes(&[("service.namespace", "n"), ("host.name", "h")]), &["res"]),
        (attributes(&[("host.name", "h")]), &["res"]),
        (
            attributes(&[("service.instance.id", "i"), ("host.name", "h")]),
            &[r#"res{instance="i"}"#, r#"target_info{host_name="h",instance="i"}"#],
        ),
        (attributes(&[("service.name", ""), ("host.name", "h")]), &["res"]),
        (attributes(&[("service.namespace", ""), ("service.name", "a")]), &[r#"res{job="/a"}"#]),
        (attributes(&[("service.namespace", "n"), ("service.name", "")]), &[r#"res{job="n/"}"#]),
        (
            vec![attribute("service.name", Any::IntValue(7)), attribute("service.instance.id", list())],
            &[r#"res{instance="[1,\"x\"]",job="7"}"#],
        ),
        (
            attributes(&[("service.name", "a"), ("job", "j"), ("instance", "k")]),
            &[r#"res{job="a"}"#, r#"target_info{instance="k",job="a"}"#],
        ),
        (attributes(&[("service.name", "a"), ("host.name", "")]), &[r#"res{job="a"}"#, r#"target_info{job="a"}"#]),
        (
            attributes(&[("service.name", "a"), ("host.name", "h1"), ("host_name", "h2")]),
            &[r#"res{job="a"}"#, r#"target_info{host_name="h1;h2",job="a"}"#],
        ),
        (
            attributes(&[("service.name", "a"), ("__name__", "zz"), ("__name..", "z"), ("host.name", "h")]),
            &[r#"res{job="a"}"#, r#"target_info{host_name="h",job="a"}"#],
        ),
        (attributes(&[("job", "j"), ("host.name", "h")]), &["res", r#"target_info{host_name="h",job="j"}"#]),
    ] {
        let m = gauge("res", "", vec![point(T, 1.0, Vec::new())]);
        let (batch, out) = export(vec![resource(attributes.clone(), vec![scope("", vec![m])])]);
        let wanted: Vec<_> = wanted.iter().map(|w| format!("{w} 1")).collect();
        assert_eq!(shown(&batch), wanted, "{attributes:?}");
        assert_eq!(out.partial.message(), None);
    }
    // An attribute without a name is left out of target_info, and named; no point is rejected for it.
    let all = attributes(&[("service.name", "a"), ("名前", "v"), ("x", "y")]);
    let m = gauge("res", "", vec![point(T, 1.0, attributes(&[("job", "p"), ("instance", "i")]))]);
    let (batch, out) = export(vec![resource(all, vec![scope("", vec![m])])]);
    assert_eq!(shown(&batch), [r#"res{instance="i",job="a"} 1"#, r#"target_info{job="a",x="y"} 1"#]);
    assert!(out.partial.points == 0 && out.partial.message().unwrap().contains("名前"));
    // A long attribute is left out alone, and of too many the last.
    let long = "x".repeat(5_000);
    let all = attributes(&[("service.name", "a"), ("process.command_line", &long), ("x", "y")]);
    let m = || gauge("res", "", vec![point(T, 1.0, Vec::new())]);
    let (batch, out) = export(vec![resource(all, vec![scope("", vec![m()])])]);
    assert_eq!(shown(&batch), [r#"res{job="a"} 1"#, r#"target_info{job="a",x="y"} 1"#]);
    assert!(out.partial.points == 0 && out.partial.message().unwrap().contains("process.command_line"));
    let names: Vec<String> = (10..80).map(|i| format!("a{i}")).collect();
    let many: Vec<_> = names.iter().map(|n| (n.as_str(), "v")).chain([("service.name", "a")]).collect();
    let (batch, out) = export(vec![resource(attributes(&many), vec![scope("", vec![m()])])]);
    let info = &shown(&batch)[1];
    assert!(info.contains(r#"a71="v",job="a""#) && !info.contains("a72"), "{info}");
    assert!(out.partial.points == 0 && out.partial.message().unwrap().contains("labels_max"));
    // As many labels as there may be, the name among them.
    let points = |n: usize| gauge("g", "", vec![point(T, 1.0, attributes(&many[..n]))]);
    assert_eq!([63, 64].map(|n| metrics(vec![points(n)]).1.partial.points), [0, 1]);
    // Two resources that are the same have one target_info.
    let r = |name: &str| {
        let m = gauge(name, "", vec![point(T, 1.0, Vec::new())]);
        resource(attributes(&[("service.name", "a"), ("host.name", "h")]), vec![scope("", vec![m])])
    };
    let (batch, _) = export(vec![r("r1"), r("r2")]);
    let info = r#"target_info{host_name="h",job="a"} 1"#;
    assert_eq!(shown(&batch), [r#"r1{job="a"} 1"#, r#"r2{job="a"} 1"#, info]);
}

#[test]
fn target_info_is_where_the_points_are() {
    let at = |times: &[i64]| {
        let points = times.iter().map(|s| point(T + s * 1000, 1.0, Vec::new())).collect();
        let attributes = attributes(&[("service.name", "sp"), ("host.name", "h")]);
        let (batch, out) = export(vec![resource(attributes, vec![scope("", vec![gauge("sp", "", points)])])]);
        let info = shown(&batch).pop().unwrap();
        (info.strip_prefix(r#"target_info{host_name="h",job="sp"} "#).unwrap().to_owned(), out.thinned)
    };
    assert_eq!(at(&[-600, 0]), ("1@-600 1@-450 1@-300 1@-150 1".into(), 0));
    assert_eq!(at(&[-100, -400]), ("1@-400 1@-250 1@-100".into(), 0));
    assert_eq!(at(&[-200, -10]), ("1@-200 1@-50 1@-10".into(), 0));
    assert_eq!(at(&[0]), ("1".into(), 0));
    // Past so many there is one only where points are.
    let year = 365 * 86_400;
    assert_eq!(at(&[0, -year, 60 - year, 150 - year, -60]), (format!("1@-{year} 1@-{} 1@-60 1", year - 150), 1));
    let resources = (0..200).map(|n| {
        let points = [-149_000, 0].map(|s: i64| point(T + s * 1000, 1.0, Vec::new())).to_vec();
        let attributes = attributes(&[("service.name", &format!("s{n}")), ("host.name", "h")]);
        resource(attributes, vec![scope("", vec![gauge("sp", "", points)])])
    });
    let (batch, out) = export(resources.collect());
    assert_eq!((batch.samples(), out.thinned), (400 + 100 * 995 + 100 * 2, 100));
}

fn classic(bounds: &[f64], counts: &[u64], count: u64, sum: Option<f64>) -> HistogramDataPoint {
    let (explicit_bounds, bucket_counts) = (bounds.to_vec(), counts.to_vec());
    HistogramDataPoint { explicit_bounds, bucket_counts, count, sum, ..HistogramDataPoint::default() }
}

#[test]
fn classic_histograms() {
    let stale = |p| HistogramDataPoint { flags: 1, ..p };
    let (inf, big) = (f64::INFINITY, (1 << 53) + 1);
    for (p, wanted) in [
        (classic(&[0.5, 1.0], &[2, 3, 2], 7, Some(3.5)), "sum 3.5; count 7; 0.5 2; 1 5; +Inf 7"),
        (classic(&[], &[4], 4, Some(9.0)), "sum 9; count 4; +Inf 4"),
        (classic(&[], &[], 4, Some(9.0)), "sum 9; count 4; +Inf 4"),
        (classic(&[1.0], &[1, 1], 2, None), "count 2; 1 1; +Inf 2"),
        (stale(classic(&[1.0, 2.0], &[], 0, None)), "count stale; +Inf stale"),
        (stale(classic(&[1.0, 2.0], &[0, 0, 0], 0, Some(0.0))), "sum stale; count stale; 1 stale; 2 stale; +Inf stale"),
        (classic(&[1.0, inf], &[1, 2, 0], 3, Some(5.0)), "sum 5; count 3; 1 1; +Inf 3"),
        (classic(&[1.0, 2.0], &[], 3, Some(4.0)), "sum 4; count 3; +Inf 3"),
        (classic(&[1.0], &[2, 3], 7, Some(1.0)), "sum 1; count 7; 1 2; +Inf 7"),
        (classic(&[1.0, 2.0], &[1, 2], 3, Some(1.0)), "sum 1; count 3; 1 1; 2 3; +Inf 3"),
        (classic(&[2.0, 1.0], &[1, 1, 1], 3, Some(1.0)), "sum 1; count 3; 2 1; 1 2; +Inf 3"),
        (
            classic(&[1e-7, 0.1, 1e7, 1e21], &[1, 1, 1, 1, 1], 5, Some(1.0)),
            "sum 1; count 5; 0.0000001 1; 0.1 2; 10000000 3; 1000000000000000000000 4; +Inf 5",
        ),
        (classic(&[-1.0, 0.0, 1.0], &[1, 1, 1, 1], 4, Some(-3.0)), "sum -3; count 4; -1 1; 0 2; 1 3; +Inf 4"),
        (classic(&[1.0], &[big, 0], big, Some(1.0)), "sum 1; count 2^53; 1 2^53; +Inf 2^53"),
        (classic(&[1.0], &[0, 0], 0, Some(5.0)), "sum 5; count 0; 1 0; +Inf 0"),
        (classic(&[1.0], &[1, 0], 1, Some(f64::NAN)), "sum NaN; count 1; 1 1; +Inf 1"),
        (classic(&[1.0, 1.0], &[1, 1, 1], 3, Some(1.0)), "sum 1; count 3; 1 1; +Inf 3"),
        (classic(&[1.0], &[1, 2, 3], 6, Some(1.0)), "sum 1; count 6; 1 1; +Inf 6"),
        (classic(&[1.0, f64::NAN], &[1, 1, 1], 3, Some(1.0)), "sum 1; count 3; 1 1; NaN 2; +Inf 3"),
        (classic(&[1.0, 2.0, 3.0], &[0; 4], 0, Some(0.0)), "sum 0; count 0; 1 0; 2 0; 3 0; +Inf 0"),
        (classic(&[-inf, 1.0], &[0, 1, 0], 1, Some(1.0)), "sum 1; count 1; -Inf 0; 1 1; +Inf 1"),
    ] {
        let (batch, out) = metrics(vec![histogram("h", "", p.clone())]);
        let short = |s: String| {
            let s = s.replace("h_bucket{le=\"", "").replace("\"}", "");
            s.replace("h_sum", "sum").replace("h_count", "count")
        };
        assert_eq!(shown(&batch).into_iter().map(short).collect::<Vec<_>>().join("; "), wanted, "{p:?}");
        assert_eq!(out.partial.message(), None);
    }
    // A label `le` of the point gives way to the bound.
    let attributes = attributes(&[("le", "9"), ("a", "b"), ("z", "y")]);
    let p = HistogramDataPoint { attributes, ..classic(&[1.0], &[1, 1], 2, Some(1.0)) };
    let (batch, _) = metrics(vec![histogram("http.server.request.duration", "s", p)]);
    let name = "http_server_request_duration_seconds";
    let wanted = [
        format!(r#"{name}_sum{{a="b",le="9",z="y"}} 1"#),
        format!(r#"{name}_count{{a="b",le="9",z="y"}} 2"#),
        format!(r#"{name}_bucket{{a="b",le="1",z="y"}} 1"#),
        format!(r#"{name}_bucket{{a="b",le="+Inf",z="y"}} 2"#),
    ];
    assert_eq!(shown(&batch), wanted);
}

fn exemplar(value: Option<f64>, before_ms: i64, trace: &[u8], span: &[u8], pairs: &[(&str, &str)]) -> Exemplar {
    Exemplar {
        filtered_attributes: attributes(pairs),
        time_unix_nano: ns(T - before_ms),
        trace_id: trace.to_vec(),
        span_id: span.to_vec(),
        value: value.map(exemplar::Value::AsDouble),
    }
}

fn exemplars(batch: &WriteBatch) -> Vec<String> {
    let of = |i: usize| {
        let (s, le) = (&batch.series[i], batch.labels(i).unwrap().get("le").to_owned());
        let list = &batch.exemplars[s.exemplars.0 as usize..s.exemplars.1 as usize];
        list.iter().map(move |e| format!("{le}{} {}@{}", e.labels, e.value, T - e.ts)).collect::<Vec<_>>()
    };
    (0..batch.series.len()).flat_map(of).collect()
}

#[test]
fn exemplars_of_points() {
    let (trace, span) = ([0xab; 16], [0xcd; 8]);
    let ids = format!(r#"span_id="{}", trace_id="{}""#, "cd".repeat(8), "ab".repeat(16));
    let e = |value, pairs: &[(&str, &str)]| exemplar(value, 10, &trace, &span, pairs);
    let half = Some(0.5);
    for (list, wanted, told) in [
        (vec![e(half, &[])], vec![format!("{{{ids}}} 0.5@10")], ""),
        (
            vec![e(half, &[("user.id", "u"), ("n", "5")])],
            vec![format!(r#"{{n="5", {ids}, "user.id"="u"}} 0.5@10"#)],
            "",
        ),
        (vec![e(half, &[("trace_id", "mine")])], vec![format!("{{{ids}}} 0.5@10")], ""),
        (vec![e(None, &[])], vec![], "it has no value"),
        (vec![e(None, &[]), e(half, &[])], vec![format!("{{{ids}}} 0.5@10")], "it has no value"),
        (
            vec![exemplar(Some(0.6), 20, &trace, &span, &[]), e(half, &[])],
            vec![format!("{{{ids}}} 0.6@20"), format!("{{{ids}}} 0.5@10")],
            "",
        ),
        (vec![exemplar(half, 10, &[], &[], &[])], vec!["{} 0.5@10".into()], ""),
        (vec![exemplar(half, 10, &[0; 16], &[0; 8], &[])], vec!["{} 0.5@10".into()], ""),
        (vec![exemplar(half, 10, &[1; 8], &span, &[])], vec![], "trace ID"),
        (vec![exemplar(half, 10, &trace, &[1; 4], &[])], vec![], "span ID"),
        (vec![exemplar(half, -1_000_000, &trace, &span, &[])], vec![], ""),
        (vec![Exemplar { time_unix_nano: 0, ..e(half, &[]) }], vec![format!("{{{ids}}} 0.5@0")], ""),
        (
            vec![Exemplar { value: Some(exemplar::Value::AsInt(3)), ..e(None, &[]) }],
            vec![format!("{{{ids}}} 3@10")],
            "",
        ),
    ] {
        let p = NumberDataPoint { exemplars: list.clone(), ..point(T, 1.0, Vec::new()) };
        let (batch, out) = metrics(vec![sum("x", "", true, vec![p])]);
        assert_eq!((shown(&batch), exemplars(&batch)), (vec!["x_total 1".into()], wanted), "{list:?}");
        let message = out.partial.message().unwrap_or_default();
        assert!(message.contains(told) && message.is_empty() == told.is_empty(), "{message}");
        assert_eq!(out.partial.points, 0);
    }
    // In a histogram each is at the bucket it fell into, in whatever order they come.
    let values = [5.0, 0.5, 2.0].map(|v| exemplar(Some(v), 10, &[], &[], &[]));
    let p = HistogramDataPoint { exemplars: values.to_vec(), ..classic(&[1.0, 2.0], &[1, 1, 1], 3, None) };
    let (batch, _) = metrics(vec![histogram("x", "", p)]);
    assert_eq!(exemplars(&batch), ["1{} 0.5@10", "2{} 2@10", "+Inf{} 5@10"]);
}

#[test]
fn points_that_fall_on_one_series_and_time() {
    let p = |value, ns_behind: u64, pairs: &[(&str, &str)]| {
        let p = point(T, value, attributes(pairs));
        NumberDataPoint { time_unix_nano: p.time_unix_nano + ns_behind, ..p }
    };
    let of = |list: Vec<ScopeMetrics>| {
        let (batch, out) = export(vec![resource(Vec::new(), list)]);
        (shown(&batch), out.partial.points, out.superseded, out.partial.message().unwrap_or_default())
    };
    let g = |points| vec![gauge("g", "", points)];
    // One stream: the latest by nanoseconds, then the later in the export. Scopes that are the same are one.
    let (x, y) = (&[("x", "1"), ("y", "2")][..], &[("y", "2"), ("x", "1")][..]);
    for (list, kept, superseded) in [
        (vec![scope("a", g(vec![p(1.0, 0, x), p(2.0, 10, x)]))], "2", 1),
        (vec![scope("a", g(vec![p(1.0, 10, x), p(2.0, 0, x)]))], "1", 1),
        (vec![scope("a", g(vec![p(1.0, 5, x), p(2.0, 5, y)]))], "2", 1),
        (vec![scope("a", g(vec![p(1.0, 0, x)])), scope("a", g(vec![p(2.0, 0, x)]))], "2", 1),
        (vec![scope("a", g((0..100).map(|i| p(i as f64, i * 1000, x)).collect()))], "99", 99),
        (vec![scope("a", g((0..100).map(|i| p(i as f64, 100_000 - i * 1000, x)).collect()))], "0", 99),
    ] {
        assert_eq!(of(list), (vec![format!(r#"g{{x="1",y="2"}} {kept}"#)], 0, superseded, String::new()));
    }
    // Another stream: the first one is kept, the later is named.
    let version = |v: &str| ScopeMetrics {
        scope: Some(InstrumentationScope { version: v.into(), ..InstrumentationScope::default() }),
        ..scope("", g(vec![p(2.0, 10, x)]))
    };
    let with = |attribute: &str| ScopeMetrics {
        scope: Some(InstrumentationScope { attributes: attributes(&[("k", attribute)]), ..Default::default() }),
        ..scope("", g(vec![p(2.0, 10, x)]))
    };
    let schema = |url: &str| ScopeMetrics { schema_url: url.into(), ..scope("", g(vec![p(2.0, 10, x)])) };
    for (list, differs) in [
        (vec![scope("a", g(vec![p(2.0, 10, x)])), scope("b", g(vec![p(3.0, 20, x)]))], "scope"),
        (vec![version("1"), version("2")], "scope"),
        (vec![with("1"), with("2")], "scope"),
        (vec![schema("1"), schema("2")], "scope"),
        (
            vec![scope(
                "a",
                g(vec![p(2.0, 0, &[("x", "1"), ("y", "2")]), p(9.0, 1, &[("x", "1"), ("y", "2"), ("z", "")])]),
            )],
            "attributes",
        ),
        (vec![scope("a", vec![gauge("g", "", vec![p(2.0, 0, x)]), sum("g", "", false, vec![p(9.0, 1, x)])])], "metric"),
    ] {
        let (series, points, superseded, message) = of(list);
        assert_eq!((series, points, superseded), (vec![r#"g{x="1",y="2"} 2"#.into()], 1, 0), "{message}");
        assert!(message.contains("metric \"g\"") && message.contains(&format!("different {differs}")), "{message}");
    }
    // Names that become one, of attributes and of metrics; a bucket's series beside a gauge of its name.
    let dots = |key| point(T, 1.0, attributes(&[(key, "v")]));
    let (series, points, _, _) = of(vec![scope("", g(vec![dots("a.b"), dots("a-b"), dots("a_b")]))]);
    assert_eq!((series, points), (vec![r#"g{a_b="v"} 1"#.into()], 2));
    let seconds = vec![gauge("foo.seconds", "", vec![p(1.0, 0, &[])]), gauge("foo", "s", vec![p(2.0, 0, &[])])];
    let (series, points, _, message) = of(vec![scope("", seconds)]);
    assert_eq!((series, points), (vec!["foo_seconds 1".into()], 1));
    assert!(message.contains("metric \"foo\""), "{message}");
    let h = || histogram("col", "", classic(&[1.0], &[1, 0], 1, Some(0.5)));
    let count = || gauge("col.count", "", vec![p(77.0, 0, &[])]);
    let whole = ["col_sum 0.5", "col_count 1", r#"col_bucket{le="1"} 1"#, r#"col_bucket{le="+Inf"} 1"#];
    let (series, points, ..) = of(vec![scope("", vec![h(), count()])]);
    assert_eq!((series, points), (whole.map(str::to_owned).to_vec(), 1));
    // No half of a histogram is kept.
    let (series, points, ..) = of(vec![scope("", vec![count(), h()])]);
    assert_eq!((series, points), (vec!["col_count 77".into()], 1));
    // A histogram takes the place of one with other bounds whole.
    let later = histogram("col", "", classic(&[2.0], &[3, 0], 3, Some(1.5)));
    let (series, points, superseded, _) = of(vec![scope("", vec![h(), later])]);
    let whole = ["col_sum 1.5", "col_count 3", r#"col_bucket{le="2"} 3"#, r#"col_bucket{le="+Inf"} 3"#];
    assert_eq!((series, points, superseded), (whole.map(str::to_owned).to_vec(), 0, 1));
    // Resources that have one job and differ otherwise.
    let host = |host: &str, value| {
        let all = attributes(&[("service.name", "a"), ("host.name", host)]);
        resource(all, vec![scope("", g(vec![p(value, 0, &[])]))])
    };
    let (batch, out) = export(vec![host("h1", 1.0), host("h2", 2.0), host("h1", 3.0)]);
    assert_eq!((&shown(&batch)[0], out.partial.points, out.superseded), (&r#"g{job="a"} 3"#.to_owned(), 1, 1));
    assert!(out.partial.message().unwrap().contains("from a different resource"));
}

#[test]
fn exemplars_of_a_superseded_point_are_kept() {
    let p = |value, behind: u64| NumberDataPoint {
        exemplars: vec![exemplar(Some(value), 0, &[], &[], &[])],
        time_unix_nano: ns(T) + behind,
        ..point(T, value, Vec::new())
    };
    let (batch, out) = metrics(vec![sum("x", "", true, vec![p(1.0, 0), p(2.0, 5)])]);
    assert_eq!((out.superseded, batch.samples(), exemplars(&batch)), (1, 1, vec!["{} 1@0".into(), "{} 2@0".into()]));
    let differs = NumberDataPoint { attributes: attributes(&[("e", "")]), ..p(3.0, 9) };
    let (batch, out) = metrics(vec![sum("x", "", true, vec![p(1.0, 0), differs])]);
    assert_eq!((out.partial.points, exemplars(&batch)), (1, vec!["{} 1@0".into()]));
}
