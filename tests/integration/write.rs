//! Remote write: what is answered, what is kept.

use prost::Message;
use serde_json::json;

use crate::matrix::{ms, samples};
use crate::remote_write::{
    Native, STALE_BITS, Series, V1, V2, body_v1, body_v2, message_v1, message_v2, post, post_message, snappy, write,
};
use crate::server::{Server, Start};

const T: i64 = 1_700_000_000_000;
const AT: &str = "1700000000";

fn written(r: &crate::http::Response) -> [&str; 3] {
    ["samples", "histograms", "exemplars"].map(|what| r.header(&format!("x-prometheus-remote-write-{what}-written")))
}

#[test]
fn answers_of_both_versions() {
    let server = Server::start();
    let mut c = server.client();
    let h = Native::exponential(0, 1, 0, &[1, 2], 3.5);
    let series = [
        Series::new("a", &[]).floats(T, 1000, &[1.0, 2.0]).exemplar(("trace_id", "x"), 0.5, T),
        Series::new("h", &[]).histogram(T, h),
    ];
    let r = post(&mut c, V2, &body_v2(&series)).unwrap();
    assert_eq!((r.status, written(&r)), (204, ["2", "1", "1"]), "{}", r.text());
    // The same again changes nothing and is a success.
    let r = post(&mut c, V2, &body_v2(&series)).unwrap();
    assert_eq!(r.status, 204);
    let r = post(&mut c, V1, &body_v1(&series)).unwrap();
    assert_eq!((r.status, written(&r)), (204, ["", "", ""]), "1.0 has no such headers");
    for content_type in ["application/x-protobuf;proto=prometheus.WriteRequest", "application/x-protobuf; charset=x"] {
        assert_eq!(post(&mut c, content_type, &body_v1(&series)).unwrap().status, 204);
    }
    let body = body_v1(&series);
    assert_eq!(c.request("POST", "/api/v1/write", &[], &body).unwrap().status, 204, "no headers: 1.0");
    assert_eq!(server.sql("SELECT count(*) FROM samples")[0][0], json!(3));
}

#[test]
fn wrong_types_are_refused_before_anything_is_decompressed() {
    let server = Server::start();
    let mut c = server.client();
    // A body that does not decompress: only its headers are judged.
    let garbage = [0xff; 64];
    for (content_type, encoding) in [
        ("application/json", "snappy"),
        ("text/plain", ""),
        ("application/x-protobuf;proto=io.prometheus.write.v3.Request", "snappy"),
        ("application/x-protobuf", "gzip"),
        (V2, "deflate"),
        // What does not parse is no content type.
        ("application/x-protobuf;;;=", "snappy"),
        ("application/x-protobuf;", "snappy"),
        ("application/x-protobuf;proto", "snappy"),
        ("application/x-protobuf;proto=", "snappy"),
        ("application/x-protobuf;proto=prometheus.WriteRequest;proto=prometheus.WriteRequest", "snappy"),
        ("application/x-protobuf proto=prometheus.WriteRequest", "snappy"),
        ("application/x-protobuf;charset=\"utf-8", "snappy"),
        ("application", "snappy"),
    ] {
        let headers = [("content-type", content_type), ("content-encoding", encoding)];
        let r = c.request("POST", "/api/v1/write", &headers, &garbage).unwrap();
        assert_eq!(r.status, 415, "{content_type} {encoding}: {}", r.text());
        assert!(r.text().contains("not supported"), "{}", r.text());
    }
    assert_eq!(c.get("/api/v1/write", &[]).unwrap().status, 405);
    // A message of one version under the other's name. A sender of 2.0 is told that nothing was written, whatever went wrong.
    let series = [Series::new("a", &[]).float(T, 1.0)];
    let r = post(&mut c, V2, &body_v1(&series)).unwrap();
    assert_eq!((r.status, written(&r)), (400, ["0", "0", "0"]), "{}", r.text());
    let r = c.request("POST", "/api/v1/write", &[("content-type", V2), ("content-encoding", "br")], &garbage).unwrap();
    assert_eq!((r.status, written(&r)), (415, ["0", "0", "0"]), "{}", r.text());
    let count = |reason: &str| {
        let metric = format!("quiver_requests_rejected_total{{door=\"remote_write\",reason=\"{reason}\"}}");
        server.metric(&metric)
    };
    assert_eq!((count("content_type"), count("content_encoding"), count("decode")), (11.0, 3.0, 1.0));
    // One line for each cause, however often it comes.
    let log = server.log();
    for cause in ["unsupported content type", "unsupported content encoding", "cannot be decoded"] {
        let lines: Vec<_> = log.lines().filter(|l| l.contains("WARN") && l.contains(cause)).collect();
        assert_eq!(lines.len(), 1, "{cause}: {log}");
        assert!(lines[0].contains("rejected 1 request: "), "{}", lines[0]);
    }
}

/// What a server with a failed log is sent: 503 with a wait that every client takes.
#[test]
fn what_to_send_again_is_said_with_a_short_wait() {
    let server = Start::new().with_faults().ready();
    let mut c = server.client();
    let body = body_v2(&[Series::new("a", &[]).float(T, 1.0)]);
    server.faults("sync@log/=eio");
    for _ in 0..3 {
        let r = post(&mut c, V2, &body).unwrap();
        assert_eq!((r.status, written(&r)), (503, ["0", "0", "0"]), "{}", r.text());
        let wait: u32 = r.header("retry-after").parse().unwrap();
        assert!((1..=5).contains(&wait), "{wait}");
    }
    let text = server.get("/metrics", &[]).text();
    assert!(text.contains("quiver_requests_rejected_total{door=\"remote_write\",reason=\"log_failed\"}"), "{text}");
}

#[test]
fn the_valid_part_of_a_request_is_kept_whole() {
    let server = Server::start();
    let mut c = server.client();
    let mut wrong_histogram = Native::exponential(0, 0, 0, &[1, 2], 3.0);
    wrong_histogram.schema = 77;
    let series = [
        Series::new("good", &[("i", "1")]).floats(T, 1000, &[1.0, 2.0, 3.0]),
        Series { labels: vec![("job".into(), "x".into())], ..Series::default() }.float(T, 9.0),
        Series::new("bad", &[("", "x")]).float(T, 9.0),
        Series {
            labels: [("__name__", "bad"), ("a", "1"), ("a", "2")].map(|(n, v)| (n.into(), v.into())).into(),
            ..Series::default()
        }
        .float(T, 9.0),
        Series::new("bad_schema", &[]).histogram(T, wrong_histogram),
        Series::new("good", &[("i", "2")]).histogram(T, Native::exponential(1, 0, 0, &[4], 4.0)),
        Series::new("nothing", &[]),
    ];
    let r = post(&mut c, V2, &body_v2(&series)).unwrap();
    assert_eq!((r.status, written(&r)), (400, ["3", "1", "0"]), "{}", r.text());
    for word in ["no metric name", "empty label name", "duplicated label", "schema", "at least one sample"] {
        assert!(r.text().contains(word), "{word}: {}", r.text());
    }
    assert_eq!(server.query("count(good)", AT)[0]["value"][1], "2");
    assert_eq!(server.sql("SELECT count(*) FROM samples")[0][0], json!(4));

    let r = post(&mut c, V1, &body_v1(&series[..4])).unwrap();
    assert_eq!((r.status, written(&r)), (400, ["", "", ""]));

    // References out of the table of symbols.
    let mut message = message_v2(&series[..1]);
    let mut broken = message.timeseries[0].clone();
    broken.labels_refs = vec![0, 999];
    message.timeseries.push(broken.clone());
    broken.labels_refs = vec![1];
    message.timeseries.push(broken);
    let r = post_message(&mut c, V2, &message.encode_to_vec());
    assert_eq!((r.status, written(&r)), (400, ["3", "0", "0"]), "{}", r.text());
}

#[test]
fn a_histogram_of_too_many_buckets_is_refused_and_the_largest_that_is_not_can_be_read() {
    let server = Server::start();
    let mut c = server.client();
    let histogram = |n: usize| {
        let bounds: Vec<f64> = (0..n).map(|k| (k * k) as f64 + 0.25).collect();
        Native::custom(&bounds, &vec![1; n + 1], 7.0)
    };
    let series = [
        Series::new("large", &[]).histogram(T, histogram(70_000)),
        Series::new("ok", &[]).histogram(T, histogram(19_999)),
    ];
    let r = post(&mut c, V2, &body_v2(&series)).unwrap();
    assert_eq!((r.status, written(&r)), (400, ["0", "1", "0"]), "{}", r.text());
    assert!(r.text().contains("buckets or bounds, the limit is 20000"), "{}", r.text());
    for _ in 0..2 {
        assert_eq!(server.query("histogram_count(ok)", AT)[0]["value"][1], "20000");
        server.admin("flush");
    }
}

#[test]
fn order_of_labels_and_samples_does_not_matter() {
    let server = Server::start();
    let mut c = server.client();
    let mut s = Series::new("m", &[("z", "1"), ("a", "2")]).floats(T, -60_000, &[5.0, 4.0, 3.0, 2.0, 1.0]);
    s.labels.reverse();
    write(&mut c, &[s]);
    // Years back, then in between, then the next day; one time twice.
    write(&mut c, &[Series::new("m", &[("a", "2"), ("z", "1")]).float(T - 3 * 365 * 86_400_000, 0.5)]);
    write(&mut c, &[Series::new("m", &[("a", "2"), ("z", "1")]).float(T - 30_000, 4.5).float(T - 30_000, 4.5)]);
    write(&mut c, &[Series::new("m", &[("a", "2"), ("z", "1")]).float(T + 86_400_000, 6.0)]);
    let expected = |rows: Vec<crate::matrix::Row>| {
        assert_eq!(rows.len(), 1);
        rows[0].values.iter().map(|(_, v)| v.parse().unwrap()).collect::<Vec<f64>>()
    };
    let all = [0.5, 1.0, 2.0, 3.0, 4.0, 4.5, 5.0, 6.0];
    assert_eq!(expected(samples(&server, "m", 2_000 * 86_400_000, T + 86_400_000)), all);
    server.admin("flush");
    write(&mut c, &[Series::new("m", &[("a", "2"), ("z", "1")]).float(T - 90_000, 3.5)]);
    let all = [0.5, 1.0, 2.0, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0];
    assert_eq!(expected(samples(&server, "m", 2_000 * 86_400_000, T + 86_400_000)), all);
}

#[test]
fn a_conflict_of_values_ends_the_same_whichever_came_first() {
    let server = Server::start();
    let mut c = server.client();
    for (name, order) in [("up", [1.0, 2.0]), ("down", [2.0, 1.0])] {
        for v in order {
            write(&mut c, &[Series::new(name, &[]).float(T, v)]);
        }
    }
    for (name, stale_first) in [("marker_first", true), ("marker_last", false)] {
        let s = || Series::new(name, &[]);
        let mut both = [s().stale(T), s().float(T, 7.0)];
        if !stale_first {
            both.reverse();
        }
        for one in both {
            write(&mut c, &[one]);
        }
    }
    let check = |when: &str| {
        for (name, v) in [("up", "2"), ("down", "2"), ("marker_first", "7"), ("marker_last", "7")] {
            assert_eq!(server.query(name, AT)[0]["value"][1], v, "{name} {when}");
        }
    };
    check("in the head");
    server.admin("flush");
    check("in a block");
    write(&mut c, &[Series::new("up", &[]).float(T, 1.0), Series::new("down", &[]).float(T, 3.0)]);
    assert_eq!(server.query("up", AT)[0]["value"][1], "2");
    assert_eq!(server.query("down", AT)[0]["value"][1], "3");
}

#[test]
fn histograms_of_every_kind_come_back_as_they_were_sent() {
    let server = Server::start();
    let mut c = server.client();
    let integer = Native::exponential(0, 2, 1, &[3, 4], 20.0);
    let mut float = integer.clone();
    float.is_float = true;
    let mut gauge = integer.clone();
    gauge.is_gauge = true;
    let custom = Native::custom(&[1.0, 2.5], &[1, 2, 4], 30.0);
    let kinds = [("integer", &integer), ("float", &float), ("gauge", &gauge), ("custom", &custom)];
    let series: Vec<_> = kinds.iter().map(|(n, h)| Series::new(n, &[]).histogram(T, (*h).clone())).collect();
    write(&mut c, &series);
    let r = post(&mut c, V1, &body_v1(&[Series::new("v1", &[]).histogram(T, integer)])).unwrap();
    assert_eq!(r.status, 204);
    let exponential = json!({"count": "9", "sum": "20",
        "buckets": [[3, "-1e-128", "1e-128", "2"], [0, "1", "2", "3"], [0, "2", "4", "4"]]});
    let of_custom = json!({"count": "7", "sum": "30",
        "buckets": [[3, "-Inf", "1", "1"], [0, "1", "2.5", "2"], [0, "2.5", "+Inf", "4"]]});
    let check = |when: &str| {
        for name in ["integer", "float", "gauge", "v1"] {
            assert_eq!(server.query(name, AT)[0]["histogram"], json!([1_700_000_000, exponential]), "{name} {when}");
        }
        assert_eq!(server.query("custom", AT)[0]["histogram"][1], of_custom, "{when}");
    };
    check("in the head");
    server.admin("flush");
    check("in a block");
}

#[test]
fn stale_markers_end_a_series_and_other_nans_stay() {
    let server = Server::start();
    let mut c = server.client();
    let payload = f64::from_bits(0x7ff8_dead_beef_0001);
    write(
        &mut c,
        &[
            Series::new("ended", &[]).float(T - 60_000, 1.0).stale(T),
            Series::new("no_number", &[]).float(T, f64::NAN),
            Series::new("payload", &[]).float(T, payload),
            Series::new("plus", &[]).float(T, f64::INFINITY),
            Series::new("minus", &[]).float(T, f64::NEG_INFINITY),
            Series::new("zero", &[]).float(T, -0.0),
        ],
    );
    let check = |when: &str| {
        assert_eq!(server.query("ended", AT), json!([]), "{when}");
        assert_eq!(server.query("ended", "1699999990")[0]["value"][1], "1", "{when}");
        for (name, text) in
            [("no_number", "NaN"), ("payload", "NaN"), ("plus", "+Inf"), ("minus", "-Inf"), ("zero", "-0")]
        {
            assert_eq!(server.query(name, AT)[0]["value"][1], text, "{name} {when}");
        }
        // To the bit, where the wire can carry it; SQL has one NaN.
        assert_eq!(sample_bits(&server, "payload"), payload.to_bits(), "{when}");
        assert_eq!(float_bits(&server, "payload"), vec![Some(f64::NAN.to_bits())], "{when}");
        assert_eq!(float_bits(&server, "zero"), vec![Some((-0.0f64).to_bits())], "{when}");
        assert_eq!(float_bits(&server, "ended"), vec![Some(1.0f64.to_bits()), None], "a marker is null in SQL, {when}");
    };
    check("in the head");
    server.admin("flush");
    check("in a block");
    let mut server = server;
    server.kill();
    server.restart();
    assert_eq!(sample_bits(&server, "payload"), payload.to_bits());
    assert_ne!(payload.to_bits(), STALE_BITS);
}

/// Values of a metric by Arrow, in order of time.
/// The value of the one series of a metric at [`AT`], in an answer as protobuf.
fn sample_bits(server: &Server, metric: &str) -> u64 {
    use prost::Message;
    use quiver_gateway::proto::query_v1 as pb;
    let accept = [("accept", "application/x-protobuf")];
    let path = format!("/api/v1/query?query={metric}&time={AT}");
    let r = server.client().request("GET", &path, &accept, b"").unwrap();
    let answer = pb::QueryResponse::decode(r.body.as_slice()).unwrap();
    let Some(pb::query_response::Result::Vector(v)) = answer.result else { panic!("{answer:?}") };
    match v.samples[0].value {
        Some(pb::sample::Value::Float(f)) => f.to_bits(),
        ref other => panic!("{other:?}"),
    }
}

fn float_bits(server: &Server, metric: &str) -> Vec<Option<u64>> {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Float64Type;
    let statement = format!("SELECT value FROM metrics.\"{metric}\" ORDER BY ts");
    let r = server.post("/api/v1/sql", &[("query", &statement), ("format", "arrow")]);
    assert_eq!(r.status, 200, "{}", r.text());
    let reader = arrow::ipc::reader::StreamReader::try_new(r.body.as_slice(), None).unwrap();
    let mut out = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let column = batch.column(0).as_primitive::<Float64Type>();
        out.extend((0..column.len()).map(|i| column.is_valid(i).then(|| column.value(i).to_bits())));
    }
    out
}

#[test]
fn exemplars_metadata_and_start_timestamps_are_kept() {
    let server = Server::start();
    let mut c = server.client();
    let s = Series::new("requests_total", &[("job", "a")])
        .float(T, 5.0)
        .since(T - 60_000)
        .exemplar(("trace_id", "4bf9"), 0.25, T)
        .described(1, "Requests served.", "requests");
    write(&mut c, &[s]);
    // 1.0 sends metadata on its own.
    let mut message = message_v1(&[]);
    message.metadata.push(quiver_gateway::proto::v1::MetricMetadata {
        r#type: 3,
        metric_family_name: "latency_seconds".into(),
        help: "How long.".into(),
        unit: "seconds".into(),
    });
    assert_eq!(post_message(&mut c, V1, &message.encode_to_vec()).status, 204);
    let check = |server: &Server, when: &str| {
        let found =
            server.get("/api/v1/query_exemplars", &[("query", "requests_total"), ("start", "1699999000"), ("end", AT)]);
        let wanted = json!([{"seriesLabels": {"__name__": "requests_total", "job": "a"},
            "exemplars": [{"labels": {"trace_id": "4bf9"}, "value": "0.25", "timestamp": 1_700_000_000}]}]);
        assert_eq!(found.json()["data"], wanted, "{when}");
        let metadata = server.get("/api/v1/metadata", &[]).json()["data"].take();
        assert_eq!(
            metadata["requests_total"],
            json!([{"type": "counter", "unit": "requests", "help": "Requests served."}]),
            "{when}"
        );
        assert_eq!(metadata["latency_seconds"][0]["type"], "histogram", "{when}");
        let rows = server.sql("SELECT CAST(start_ts AS BIGINT) FROM metrics.requests_total");
        assert_eq!(rows[0][0], json!(T - 60_000), "{when}");
    };
    check(&server, "in the head");
    let mut server = server;
    server.kill();
    server.restart();
    check(&server, "after kill -9");
    server.admin("flush");
    check(&server, "in a block");
    server.kill();
    server.restart();
    check(&server, "in a block, after kill -9");
}

#[test]
fn zstd_bodies_are_taken_too() {
    let server = Server::start();
    let mut c = server.client();
    let message = message_v2(&[Series::new("a", &[]).float(T, 1.0)]).encode_to_vec();
    // A frame with one raw block: magic, descriptor with the size in one byte, block header, bytes.
    assert!(message.len() < 256);
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, message.len() as u8];
    frame.extend_from_slice(&(((message.len() as u32) << 3) | 1).to_le_bytes()[..3]);
    frame.extend_from_slice(&message);
    let headers = [("content-type", V2), ("content-encoding", "zstd")];
    let r = c.request("POST", "/api/v1/write", &headers, &frame).unwrap();
    assert_eq!(r.status, 204, "{}", r.text());
    assert_eq!(ms(samples(&server, "a", 1000, T)[0].values[0].0), T);
    // An empty request is a success that changes nothing.
    assert_eq!(post(&mut c, V2, &snappy(b"")).unwrap().status, 204);
}
