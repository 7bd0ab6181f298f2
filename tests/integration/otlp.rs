//! OpenTelemetry metrics over HTTP and gRPC: names, labels, values, and what is answered for what cannot be kept.

use std::io::Write;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use serde_json::json;

use crate::http::Response;
use crate::server::{Server, Start};

const T: u64 = 1_700_000_000_000;
const AT: &str = "1700000000";

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn point(ms: u64, value: f64, attributes: &[(&str, &str)]) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes.iter().map(|(k, v)| attribute(k, v)).collect(),
        start_time_unix_nano: (ms - 60_000) * 1_000_000,
        time_unix_nano: ms * 1_000_000,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

fn metric(name: &str, unit: &str, data: metric::Data) -> Metric {
    let (name, unit, description) = (name.to_owned(), unit.to_owned(), "About it.".to_owned());
    Metric { name, unit, description, data: Some(data), ..Metric::default() }
}

fn sum(points: Vec<NumberDataPoint>, temporality: i32) -> metric::Data {
    metric::Data::Sum(Sum { data_points: points, aggregation_temporality: temporality, is_monotonic: true })
}

fn export(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let attributes = vec![
        attribute("service.name", "shop"),
        attribute("service.namespace", "eu"),
        attribute("service.instance.id", "i-1"),
        attribute("cloud.region", "west"),
    ];
    let resource = Some(Resource { attributes, ..Resource::default() });
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }],
    }
}

fn usual() -> ExportMetricsServiceRequest {
    let histogram = HistogramDataPoint {
        attributes: vec![attribute("http.route", "/a")],
        time_unix_nano: T * 1_000_000,
        start_time_unix_nano: (T - 60_000) * 1_000_000,
        count: 6,
        sum: Some(3.5),
        explicit_bounds: vec![0.1, 1.0],
        bucket_counts: vec![1, 2, 3],
        ..HistogramDataPoint::default()
    };
    let histogram = Histogram { data_points: vec![histogram], aggregation_temporality: 2 };
    export(vec![
        metric(
            "room.temperature",
            "Cel",
            metric::Data::Gauge(Gauge { data_points: vec![point(T, -0.0, &[("room", "attic")])] }),
        ),
        metric("http.requests", "1", sum(vec![point(T, 41.0, &[("http.route", "/a")])], 2)),
        metric("latency", "s", metric::Data::Histogram(histogram)),
    ])
}

fn post(server: &Server, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    server.client().request("POST", path, headers, body).unwrap()
}

fn answer(r: &Response) -> ExportMetricsServiceResponse {
    assert_eq!(r.status, 200, "{}", r.text());
    ExportMetricsServiceResponse::decode(r.body.as_slice()).unwrap()
}

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

fn is_there(server: &Server) {
    let one = |q: &str| server.query(q, AT)[0].clone();
    let labels = json!({"__name__": "http_requests_total", "job": "eu/shop", "instance": "i-1", "http_route": "/a"});
    assert_eq!(one("http_requests_total")["metric"], labels);
    assert_eq!(one("http_requests_total")["value"][1], "41");
    assert_eq!(one("room_temperature_celsius{room=\"attic\"}")["value"][1], "-0", "to the bit");
    for (le, n) in [("0.1", "1"), ("1", "3"), ("1.0", "3"), ("+Inf", "6")] {
        let found = server.query(&format!("latency_seconds_bucket{{le=\"{le}\"}}"), AT);
        // One of the two ways to write it is taken.
        if !le.starts_with('1') {
            assert_eq!(found[0]["value"][1], n, "le={le}");
        }
    }
    assert_eq!(server.query("count(latency_seconds_bucket)", AT)[0]["value"][1], "3");
    assert_eq!(one("latency_seconds_sum")["value"][1], "3.5");
    assert_eq!(one("latency_seconds_count")["value"][1], "6");
    assert_eq!(one("target_info")["metric"]["cloud_region"], "west");
    let start = server.sql("SELECT CAST(start_ts AS BIGINT) AS start FROM metrics.http_requests_total");
    assert_eq!(start[0][0], json!(T - 60_000));
    let metadata = server.get("/api/v1/metadata", &[("metric", "http_requests_total")]).json();
    assert_eq!(metadata["data"]["http_requests_total"][0]["type"], "counter");
}

#[test]
fn exports_over_http() {
    let mut server = Server::start();
    let body = usual().encode_to_vec();
    let r = post(&server, "/v1/metrics", &[PROTOBUF], &body);
    assert_eq!(answer(&r), ExportMetricsServiceResponse::default());
    assert_eq!(r.header("content-type"), "application/x-protobuf");
    is_there(&server);
    // The other path, compressed: the same again changes nothing.
    let mut z = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    z.write_all(&body).unwrap();
    let packed = z.finish().unwrap();
    answer(&post(&server, "/api/v1/otlp/v1/metrics", &[PROTOBUF, ("content-encoding", "gzip")], &packed));
    is_there(&server);
    server.kill();
    server.restart();
    is_there(&server);

    assert_eq!(post(&server, "/v1/metrics", &[("content-type", "text/plain")], &body).status, 415);
    assert_eq!(post(&server, "/v1/metrics", &[PROTOBUF, ("content-encoding", "br")], &body).status, 415);
    assert_eq!(post(&server, "/v1/metrics", &[PROTOBUF, ("content-encoding", "gzip")], &body).status, 400);
    assert_eq!(post(&server, "/v1/metrics", &[PROTOBUF], &body[..body.len() / 2]).status, 400);
    assert_eq!(post(&server, "/v1/metrics", &[PROTOBUF], &[0xff; 100]).status, 400);
    is_there(&server);
}

#[test]
fn what_cannot_be_kept_is_counted_and_the_rest_is_kept() {
    let server = Server::start();
    let far = T * 10;
    let deltas = Sum { data_points: vec![point(T, 1.0, &[])], aggregation_temporality: 1, ..Sum::default() };
    let request = export(vec![
        metric(
            "good",
            "",
            metric::Data::Gauge(Gauge { data_points: vec![point(T, 1.0, &[]), point(far, 2.0, &[("a", "b")])] }),
        ),
        // Temporality 1: deltas.
        metric("deltas", "", sum(vec![point(T, 1.0, &[])], 1)),
        metric("ups_and_downs", "", metric::Data::Sum(deltas)),
        Metric { name: "nothing".to_owned(), ..Metric::default() },
    ]);
    let a = answer(&post(&server, "/v1/metrics", &[PROTOBUF], &request.encode_to_vec()));
    let partial = a.partial_success.expect("a part was left out");
    assert_eq!(partial.rejected_data_points, 3, "{partial:?}");
    for words in ["metric \"good\": a data point is too far in the future", "metric \"deltas\": delta", "\"nothing\""] {
        assert!(partial.error_message.contains(words), "{words}: {partial:?}");
    }
    assert_eq!(server.query("good", AT)[0]["value"][1], "1");
    assert_eq!(server.sql("SELECT count(*) FROM samples WHERE metric = 'good'")[0][0], json!(1));
}

/// A collector would send an export again and again that was answered 429, and its queue would stand behind it.
#[test]
fn an_export_of_new_series_alone_is_left_out_at_the_limit() {
    let server = Start::new().with(&["--limit", "active_series_max=1"]).ready();
    // As many points as were sent: `target_info` is no point of the client.
    for metrics in [["a", "b"], ["c", "d"]] {
        let gauge = |name| metric(name, "", metric::Data::Gauge(Gauge { data_points: vec![point(T, 1.0, &[])] }));
        let body = export(metrics.map(gauge).to_vec()).encode_to_vec();
        let partial = answer(&post(&server, "/v1/metrics", &[PROTOBUF], &body)).partial_success.expect("a part");
        assert_eq!(partial.rejected_data_points, 2, "{partial:?}");
        assert!(partial.error_message.contains("limit"), "{partial:?}");
    }
    assert_eq!(server.query("a", AT)[0]["value"][1], "1");
}

fn gauge(name: &str, points: Vec<NumberDataPoint>) -> Metric {
    metric(name, "", metric::Data::Gauge(Gauge { data_points: points }))
}

/// Exports whose points fall on one series and time: what is another stream is named, what is the same is not.
#[test]
fn points_of_one_series_and_time() {
    let server = Server::start();
    let scoped = |name: &str, points: Vec<NumberDataPoint>| ScopeMetrics {
        scope: Some(InstrumentationScope { name: name.to_owned(), ..InstrumentationScope::default() }),
        metrics: vec![gauge("g", points)],
        ..ScopeMetrics::default()
    };
    let send = |scope_metrics: Vec<ScopeMetrics>| {
        let mut request = export(Vec::new());
        request.resource_metrics[0].scope_metrics = scope_metrics;
        answer(&post(&server, "/v1/metrics", &[PROTOBUF], &request.encode_to_vec())).partial_success
    };
    // As telemetrygen does: each point in a scope of its own, all the same, microseconds apart. It stops at any partial success.
    let micros = |n: u64| {
        let p = point(T, n as f64, &[("a", "b")]);
        scoped("telemetrygen", vec![NumberDataPoint { time_unix_nano: p.time_unix_nano + n * 1000, ..p }])
    };
    assert_eq!(send((0..100).map(micros).collect()), None);
    assert_eq!(server.query("g", AT)[0]["value"][1], "99", "the latest");
    assert_eq!(server.metric("quiver_otlp_points_superseded_total"), 99.0);
    // Two libraries with one metric.
    let two = ["one", "other"].map(|name| scoped(name, vec![point(T + 1, 1.0, &[])]));
    let partial = send(two.to_vec()).expect("one of them is left out");
    assert_eq!(partial.rejected_data_points, 1, "{partial:?}");
    assert!(partial.error_message.contains("from a different scope"), "{partial:?}");
    // Attributes that have no name as labels, and those whose names become one.
    let points = [("名前", "a"), ("名前", "b"), ("a.b", "c"), ("a-b", "c")].map(|pair| point(T + 2, 1.0, &[pair]));
    let partial = send(vec![scoped("", points.to_vec())]).expect("three of them are left out");
    assert_eq!(partial.rejected_data_points, 3, "{partial:?}");
    assert!(partial.error_message.contains("名前") && partial.error_message.contains("a_b"), "{partial:?}");
    let count = |reason: &str| {
        server.metric(&format!("quiver_samples_rejected_total{{door=\"otlp_http\",reason=\"{reason}\"}}"))
    };
    assert_eq!((count("collision"), count("labels")), (2.0, 2.0));
    assert_eq!(server.metric("quiver_sample_conflicts_total"), 0.0, "nothing overwrites anything");
}

#[test]
fn labels_that_decide_on_series() {
    let server = Server::start();
    let attributes = [("a..b", "1"), ("..c", "2"), ("é", "3")];
    let histogram = HistogramDataPoint {
        time_unix_nano: T * 1_000_000,
        count: 3,
        explicit_bounds: vec![1e-7, 1e21],
        bucket_counts: vec![1, 1, 1],
        ..HistogramDataPoint::default()
    };
    let histogram = Histogram { data_points: vec![histogram], aggregation_temporality: 2 };
    let request = export(vec![
        gauge("lab", vec![point(T, 1.0, &attributes)]),
        metric("h", "", metric::Data::Histogram(histogram)),
    ]);
    let a = answer(&post(&server, "/v1/metrics", &[PROTOBUF], &request.encode_to_vec()));
    assert_eq!(a.partial_success, None);
    let labels = json!({"__name__": "lab", "job": "eu/shop", "instance": "i-1", "a__b": "1", "__c": "2", "key_": "3"});
    assert_eq!(server.query("lab", AT)[0]["metric"], labels);
    let bounds = server.get("/api/v1/label/le/values", &[]).json()["data"].take();
    assert_eq!(bounds, json!(["+Inf", "0.0000001", "1000000000000000000000"]));
}

/// A join finds `target_info` wherever it finds a point of the export.
#[test]
fn target_info_from_the_first_point_to_the_last() {
    let server = Server::start();
    let points = (0..20).map(|minute| point(T - minute * 60_000, 1.0, &[])).collect();
    let request = export(vec![gauge("x", points)]);
    let a = answer(&post(&server, "/v1/metrics", &[PROTOBUF], &request.encode_to_vec()));
    assert_eq!(a.partial_success, None);
    let join = "x * on (job, instance) group_left (cloud_region) target_info";
    for minute in 0..20 {
        let at = (T / 1000 - minute * 60).to_string();
        let found = server.query(join, &at);
        assert_eq!(found[0]["metric"]["cloud_region"], "west", "{minute} minutes before the last point: {found}");
    }
    // One every half lookback, and one at the end.
    assert_eq!(server.query("count_over_time(target_info[1h])", AT)[0]["value"][1], "9");
}

/// Clients mostly say nothing of what was refused: the log and the counters do.
#[test]
fn what_is_refused_is_in_the_log_and_counted_by_cause() {
    let server = Server::start();
    let deltas = export(vec![metric("lat", "", sum(vec![point(T, 1.0, &[]), point(T + 1, 2.0, &[])], 1))]);
    for _ in 0..3 {
        let partial = answer(&post(&server, "/v1/metrics", &[PROTOBUF], &deltas.encode_to_vec())).partial_success;
        assert_eq!(partial.expect("nothing is kept").rejected_data_points, 2);
    }
    for (content_type, encoding, reason) in [
        ("application/json", "", "content_type"),
        ("application/x-protobuf;;;=", "", "content_type"),
        ("application/x-protobuf", "deflate", "content_encoding"),
    ] {
        let headers = [("content-type", content_type), ("content-encoding", encoding)];
        let r = post(&server, "/v1/metrics", &headers, b"{}");
        assert_eq!(r.status, 415, "{content_type} {encoding}");
        let metric = format!("quiver_requests_rejected_total{{door=\"otlp_http\",reason=\"{reason}\"}}");
        assert!(server.metric(&metric) >= 1.0);
    }
    let metric = "quiver_samples_rejected_total{door=\"otlp_http\",reason=\"delta_temporality\"}";
    assert_eq!(server.metric(metric), 6.0);
    let log = server.log();
    for line in [
        "rejected 2 data points of lat: delta temporality (OTLP over HTTP)",
        "rejected 1 request: unsupported content type (OTLP over HTTP)",
        "rejected 1 request: unsupported content encoding (OTLP over HTTP)",
    ] {
        let found: Vec<_> = log.lines().filter(|l| l.contains("WARN") && l.contains(line)).collect();
        assert_eq!(found.len(), 1, "{line}: {log}");
    }
    let count = log.lines().filter(|l| l.contains("delta temporality")).count();
    assert_eq!(count, 1, "once a minute: {log}");
}

#[test]
fn grpc_clients_are_told_when_to_come_again() {
    let start = Start::new().without("--grpc-listen").with(&["--grpc-listen", "127.0.0.1:0"]).with_faults();
    let server = start.ready();
    let address = server.grpc().expect("a gRPC port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = MetricsServiceClient::connect(format!("http://{address}")).await.unwrap();
        let deltas = export(vec![metric("lat", "", sum(vec![point(T, 1.0, &[])], 1))]);
        let partial = client.export(deltas).await.unwrap().into_inner().partial_success.expect("it is refused");
        assert_eq!(partial.rejected_data_points, 1);
        // Another method, as exporters of traces call one on the same port.
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let origin = format!("http://{address}/traces").parse().unwrap();
        let mut other = MetricsServiceClient::with_origin(endpoint.connect().await.unwrap(), origin);
        let refused = other.export(usual()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unimplemented, "{refused}");
        assert!(refused.message().contains("/traces/"), "{refused}");
        server.faults("sync@log/=eio");
        for _ in 0..2 {
            let refused = client.export(usual()).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
            // Go reads the details, Python the trailer.
            assert!(String::from_utf8_lossy(refused.details()).contains("google.rpc.RetryInfo"), "{refused:?}");
            let info = refused.metadata().get_bin("google.rpc.retryinfo-bin").expect("a trailer").to_bytes().unwrap();
            // Field 1, a message of two bytes: field 1, seconds.
            assert_eq!(info[..3], [0x0a, 2, 8], "{info:?}");
            assert!((1..=5).contains(&info[3]), "{info:?}");
        }
    });
    let count = |what: &str, reason: &str| {
        server.metric(&format!("quiver_{what}_rejected_total{{door=\"otlp_grpc\",reason=\"{reason}\"}}"))
    };
    assert_eq!(count("requests", "method"), 1.0);
    assert!(count("samples", "delta_temporality") == 1.0 && count("requests", "log_failed") >= 1.0);
    assert!(server.log().contains("rejected 1 data point of lat: delta temporality (OTLP over gRPC)"));
}

#[test]
fn exports_over_grpc() {
    let mut server = Start::new().without("--grpc-listen").with(&["--grpc-listen", "127.0.0.1:0"]).ready();
    let address = server.grpc().expect("a gRPC port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = MetricsServiceClient::connect(format!("http://{address}")).await.unwrap();
        let r = client.export(usual()).await.unwrap();
        assert_eq!(r.into_inner(), ExportMetricsServiceResponse::default());
        let mut zipped = client.clone().send_compressed(tonic::codec::CompressionEncoding::Gzip);
        zipped.export(usual()).await.unwrap();
        // Too large as it is, and of what it would become: refused for good, and by name.
        let large = export(vec![metric(&"m".repeat(65 << 20), "", metric::Data::Gauge(Gauge::default()))]);
        let refused = zipped.export(large.clone()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        let refused = client.export(large).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        let heavy = vec![NumberDataPoint::default(); 2_000_000];
        let heavy = export(vec![metric("m", "", metric::Data::Gauge(Gauge { data_points: heavy }))]);
        let refused = client.export(heavy).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("of memory"), "{refused}");
    });
    is_there(&server);
    assert_eq!(server.terminate().code(), Some(0), "an open gRPC connection does not hold the end up");
}

/// What a body may be at most is one setting for all doors: OTLP has twice as much as remote write.
#[test]
fn bodies_over_the_limit_are_refused_for_good() {
    let start = Start::new().without("--grpc-listen").with(&["--grpc-listen", "127.0.0.1:0"]);
    let server = start.with(&["--limit", "write_body_bytes_max=100000"]).ready();
    let name = "m".repeat(250_000);
    let body = export(vec![metric(&name, "", metric::Data::Gauge(Gauge::default()))]);
    let answer = post(&server, "/v1/metrics", &[PROTOBUF], &body.encode_to_vec());
    assert_eq!(answer.status, 413, "{}", answer.text());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let address = server.grpc().expect("a gRPC port");
        let mut client = MetricsServiceClient::connect(format!("http://{address}")).await.unwrap();
        let refused = client.export(body).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    });
    assert!(server.metric("quiver_requests_rejected_total{door=\"otlp_grpc\",reason=\"too_large\"}") >= 1.0);
    // One that could never find room is not told to come again.
    let server = Start::new().with(&["--limit", "write_bodies_bytes_max=64KiB"]).ready();
    let large = vec![b'x'; 100_000];
    assert_eq!(post(&server, "/v1/metrics", &[PROTOBUF], &large).status, 413);
}
