//! Explanations over HTTP, on the command line and in SQL; hints; statistics; answers as protobuf.

use std::process::{Command, Output};

use prost::Message;
use quiver_gateway::proto::query_v1 as pb;
use serde_json::{Value, json};

use crate::http::{Client, form};
use crate::remote_write::{Native, Series, write};
use crate::server::{QUIVER, Server};

const T: i64 = 1_700_000_000_000;
const AT: &str = "1700000000";
const QUERY: &str = "sum by (job) (rate(requests_total{code=~\"2..\"}[10m]))";

/// 3 jobs × 20 codes with ten minutes of samples in a block, and the last of them in the head; a histogram.
fn filled() -> Server {
    let server = Server::start();
    let codes: Vec<String> = (0..20).map(|i| (200 + i * 10).to_string()).collect();
    let series = |from: i64, n: i64| {
        let mut list = Vec::new();
        for job in ["api", "db", "web"] {
            for code in &codes {
                let values: Vec<f64> =
                    (0..n).map(|i| ((from / 1000 + i * 7919) % 1013) as f64 + i as f64 * 1e4).collect();
                list.push(
                    Series::new("requests_total", &[("code", code.as_str()), ("job", job)])
                        .floats(from, 10_000, &values),
                );
            }
        }
        list
    };
    write(&mut server.client(), &series(T - 600_000, 55));
    server.admin("flush");
    write(&mut server.client(), &series(T - 50_000, 6));
    let latency = Series::new("latency", &[("job", "api")]);
    write(
        &mut server.client(),
        &[
            latency.histogram(T - 1000, Native::exponential(0, 0, 0, &[1, 3], 5.0)),
            Series::new("room", &[]).float(T, 21.5),
        ],
    );
    server
}

fn instant(server: &Server, parameters: &[(&str, &str)]) -> Value {
    let r = server.get("/api/v1/query", &[&[("time", AT)], parameters].concat());
    assert_eq!(r.status, 200, "{}", r.text());
    r.json()
}

/// The node of an operator, outermost first.
fn find<'a>(node: &'a Value, operator: &str) -> Option<&'a Value> {
    if node["operator"] == operator {
        return Some(node);
    }
    node["inputs"].as_array()?.iter().find_map(|i| find(i, operator))
}

#[test]
fn the_tree_says_where_series_were_found_and_what_was_read() {
    let server = filled();
    let v = instant(&server, &[("query", QUERY), ("explain", "plan")]);
    assert_eq!((&v["data"]["resultType"], &v["data"]["result"]), (&json!("vector"), &json!([])));
    let e = &v["data"]["explain"];
    assert_eq!((&e["mode"], &e["query"], &e["hints"]), (&json!("plan"), &json!(QUERY), &json!([])));
    let root = &e["root"];
    assert_eq!((&root["operator"], &root["text"], &root["start"]), (&json!("PromAggregate"), &json!(QUERY), &json!(0)));
    assert_eq!(root["series"], 3);
    assert_eq!(root["grid"], json!({"start": 1.7e9, "end": 1.7e9, "step": 0.0, "steps": 1}));
    assert!(root.get("actual").is_none());
    let fold = find(root, "PromRange").unwrap();
    assert_eq!(fold["text"], "rate(requests_total{code=~\"2..\"}[10m])");
    let scan = &fold["scans"][0];
    assert_eq!((&scan["series"], &scan["pruned"]), (&json!(30), &json!(0)), "{scan}");
    let places = scan["places"].as_array().unwrap();
    let kinds: Vec<_> = places.iter().map(|p| (p["kind"].as_str().unwrap(), &p["selected"])).collect();
    assert_eq!(kinds, [("head", &json!(30)), ("block", &json!(30))], "{places:?}");
    for p in places {
        let order: Vec<_> = p["matchers"].as_array().unwrap().iter().map(|m| m["matcher"].as_str().unwrap()).collect();
        assert_eq!(order.len(), 2, "{p}");
        let (first, second) = (&p["matchers"][0], &p["matchers"][1]);
        assert_eq!((&first["way"], &first["actual"], &first["left"]), (&json!("value"), &json!(60), &json!(60)), "{p}");
        assert_eq!(
            (&second["way"], &second["actual"], &second["left"]),
            (&json!("walk"), &json!(30), &json!(30)),
            "{p}"
        );
        assert_eq!((&first["estimate"], &second["estimate"]), (&json!(60), &json!(60)), "{p}");
    }

    let analyze = |more: &[(&str, &str)]| {
        let v = instant(&server, &[&[("query", QUERY), ("explain", "analyze")], more].concat());
        assert_eq!(v["data"]["result"].as_array().unwrap().len(), 3);
        v["data"]["explain"].clone()
    };
    let first = analyze(&[]);
    let fold = find(&first["root"], "PromRange").unwrap();
    let read = &fold["scans"][0]["read"];
    // 30 series, (T − 10 min, T] at 10 s: six in the head, the rest in the block.
    assert_eq!((&read["series"], &read["samples"]), (&json!(30), &json!(30 * 60)), "{read}");
    assert!(read["openSamples"].as_u64() >= Some(150), "{read}");
    assert!(read["mappedChunks"].as_u64() >= Some(30) && read["bytesDecoded"].as_u64() > Some(1000), "{read}");
    assert_eq!(read["hits"], 0, "{read}");
    assert_eq!(fold["actual"]["rowsOut"], 30);
    assert_eq!((&first["root"]["actual"]["rowsIn"], &first["root"]["actual"]["rowsOut"]), (&json!(30), &json!(3)));
    let (own, total) = (&first["root"]["actual"]["selfSeconds"], &first["root"]["actual"]["totalSeconds"]);
    assert!(own.as_f64() > Some(0.0) && total.as_f64() > own.as_f64(), "{first}");
    assert!(first["total"]["evalSeconds"].as_f64() >= total.as_f64(), "{first}");

    let second = analyze(&[("hint", "index=force"), ("hint", "parallelism=1")]);
    assert_eq!(second["hints"], json!(["parallelism=1", "index=force"]));
    let read = &find(&second["root"], "PromRange").unwrap()["scans"][0]["read"];
    assert_eq!((&read["samples"], &read["misses"]), (&json!(1800), &json!(0)), "now held decoded: {read}");
    assert!(read["hits"].as_u64() >= Some(30), "{read}");

    let off = analyze(&[("hint", "index=off")]);
    let place = &find(&off["root"], "PromRange").unwrap()["scans"][0]["places"][0];
    assert!(place["matchers"].as_array().unwrap().iter().all(|m| m["way"] == "test"), "{place}");
    assert_eq!((&place["selected"], &place["matched"]), (&json!(30), &place["series"]), "{place}");

    let p = [("query", QUERY), ("start", "1699999940"), ("end", AT), ("step", "30"), ("explain", "analyze")];
    let v = server.post("/api/v1/query_range", &p).json();
    assert_eq!(
        v["data"]["explain"]["root"]["grid"],
        json!({"start": 1_699_999_940.0, "end": 1.7e9, "step": 30.0, "steps": 3})
    );
    assert_eq!(v["data"]["resultType"], "matrix");
    // A head alone: the block is not looked at.
    let v = instant(&server, &[("query", "count(requests_total)"), ("explain", "plan"), ("lookback_delta", "20s")]);
    assert_eq!(find(&v["data"]["explain"]["root"], "PromInstant").unwrap()["scans"][0]["pruned"], 1);
}

#[test]
fn unknown_words_are_refused_with_those_that_are_known() {
    let server = filled();
    let r = server.get("/api/v1/query", &[("query", "1"), ("hint", "parallelism=1"), ("hint", "faster")]);
    let v = r.json();
    assert_eq!((r.status, &v["errorType"]), (400, &json!("bad_data")));
    let text = v["error"].as_str().unwrap();
    for word in ["invalid parameter \"hint\"", "\"faster\"", "no-share", "parallelism=N", "index=off"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let r = server.get("/api/v1/query", &[("query", "1"), ("explain", "maybe")]);
    assert_eq!(r.status, 400);
    assert!(r.text().contains("plan") && r.text().contains("analyze"), "{}", r.text());
}

#[test]
fn statistics_as_prometheus_gives_them() {
    let server = filled();
    let p =
        [("query", "sum_over_time(room[1m]) + room"), ("start", "1700000000"), ("end", "1700000060"), ("step", "30")];
    let stats = |value: &str| {
        let mut v = server.get("/api/v1/query_range", &[&p[..], &[("stats", value)]].concat()).json();
        (v["data"]["stats"].take(), v["warnings"].take())
    };
    let (all, warnings) = stats("all");
    assert_eq!(warnings, Value::Null);
    let keys = |v: &Value| {
        let mut names: Vec<_> = v.as_object().unwrap().keys().cloned().collect();
        names.sort_unstable();
        names
    };
    assert_eq!(keys(&all), ["samples", "timings"]);
    let mut timings =
        ["evalTotalTime", "resultSortTime", "queryPreparationTime", "innerEvalTime", "execQueueTime", "execTotalTime"];
    timings.sort_unstable();
    assert_eq!(keys(&all["timings"]), timings);
    // The sample is in two of three windows and is the latest at each of three steps.
    assert_eq!(
        all["samples"]["totalQueryableSamplesPerStep"],
        json!([[1_700_000_000, 2], [1_700_000_030, 2], [1_700_000_060, 1]])
    );
    assert_eq!(
        all["samples"]["samplesReadPerStep"],
        json!([[1_700_000_000, 2], [1_700_000_030, 1], [1_700_000_060, 1]])
    );
    assert_eq!((&all["samples"]["totalQueryableSamples"], &all["samples"]["samplesRead"]), (&json!(5), &json!(4)));
    assert_eq!(all["samples"]["seriesTouched"], 2);
    assert!(all["samples"]["peakSamples"].as_u64() > Some(0));
    let (sums, warnings) = stats("true");
    assert_eq!(warnings, Value::Null);
    assert_eq!(keys(&sums["samples"]).len(), 4, "{sums}");
    assert_eq!(sums["samples"]["samplesRead"], 4);
    let (_, warnings) = stats("yes");
    assert!(
        warnings[0].as_str().is_some_and(|w| w.contains("value \"yes\" for parameter \"stats\" is deprecated")),
        "{warnings}"
    );
}

fn protobuf(client: &mut Client, path: &str, parameters: &[(&str, &str)]) -> (u16, pb::QueryResponse) {
    let accept = [("accept", "application/vnd.quiver.query.v1+protobuf, application/json;q=0.1")];
    let r = client.request("GET", &format!("{path}?{}", form(parameters)), &accept, b"").unwrap();
    assert_eq!(r.header("content-type"), "application/vnd.quiver.query.v1+protobuf", "{}", r.text());
    (r.status, pb::QueryResponse::decode(r.body.as_slice()).unwrap())
}

fn metric(labels: &[pb::Label]) -> Value {
    Value::Object(labels.iter().map(|l| (l.name.clone(), json!(l.value))).collect())
}

fn number(v: f64) -> Value {
    json!(if v.is_nan() { "NaN".to_owned() } else { v.to_string() })
}

fn seconds(ms: i64) -> Value {
    if ms % 1000 == 0 { json!(ms / 1000) } else { json!(ms as f64 / 1000.0) }
}

/// A message as the JSON API writes it; of histograms count and sum.
fn as_json(m: &pb::QueryResponse) -> Value {
    use pb::query_response::Result as R;
    let short = |h: &pb::Histogram| json!({"count": number(h.count), "sum": number(h.sum)});
    match m.result.as_ref().unwrap() {
        R::Scalar(s) => json!({"resultType": "scalar", "result": [seconds(s.timestamp_ms), number(s.value)]}),
        R::Text(s) => json!({"resultType": "string", "result": [seconds(s.timestamp_ms), s.value]}),
        R::Vector(v) => {
            let one = |s: &pb::Sample| match s.value.as_ref().unwrap() {
                pb::sample::Value::Float(f) => {
                    json!({"metric": metric(&s.labels), "value": [seconds(s.timestamp_ms), number(*f)]})
                }
                pb::sample::Value::Histogram(h) => {
                    json!({"metric": metric(&s.labels), "histogram": [seconds(s.timestamp_ms), short(h)]})
                }
            };
            json!({"resultType": "vector", "result": v.samples.iter().map(one).collect::<Vec<_>>()})
        }
        R::Matrix(m) => {
            let one = |s: &pb::Series| {
                let mut out = json!({"metric": metric(&s.labels)});
                let mut t = 0;
                let times = s.time_deltas_ms.iter().map(|d| {
                    t += d;
                    t
                });
                let values: Vec<Value> = times.zip(&s.values).map(|(t, v)| json!([seconds(t), number(*v)])).collect();
                if !values.is_empty() {
                    out["values"] = json!(values);
                }
                let of =
                    |p: &pb::HistogramPoint| json!([seconds(p.timestamp_ms), short(p.histogram.as_ref().unwrap())]);
                if !s.histograms.is_empty() {
                    out["histograms"] = s.histograms.iter().map(of).collect();
                }
                out
            };
            json!({"resultType": "matrix", "result": m.series.iter().map(one).collect::<Vec<_>>()})
        }
    }
}

fn without_buckets(mut v: Value) -> Value {
    match &mut v {
        Value::Object(map) => {
            map.remove("buckets");
            map.values_mut().for_each(|x| *x = without_buckets(x.take()));
        }
        Value::Array(list) => list.iter_mut().for_each(|x| *x = without_buckets(x.take())),
        _ => {}
    }
    v
}

#[test]
fn protobuf_says_what_json_says() {
    let server = filled();
    let mut client = server.client();
    for query in [
        "1 + 1",
        "\"text\"",
        "requests_total{job=\"api\"}",
        QUERY,
        "latency",
        "latency or room",
        "room[1m]",
        "room / 0 * 0",
    ] {
        let p = [("query", query), ("time", AT)];
        let (status, m) = protobuf(&mut client, "/api/v1/query", &p);
        let v = server.get("/api/v1/query", &p).json();
        assert_eq!((status, m.status(), &v["status"]), (200, pb::Status::Success, &json!("success")));
        assert_eq!(as_json(&m), without_buckets(v["data"].clone()), "{query}");
    }
    for query in [QUERY, "latency or room", "time()", "sum_over_time(requests_total[1m])"] {
        let p = [("query", query), ("start", "1699999900.5"), ("end", AT), ("step", "30")];
        let (_, m) = protobuf(&mut client, "/api/v1/query_range", &p);
        let v = server.get("/api/v1/query_range", &p).json();
        assert_eq!(as_json(&m), without_buckets(v["data"].clone()), "{query}");
    }
    let (_, m) = protobuf(&mut client, "/api/v1/query", &[("query", "latency"), ("time", AT)]);
    let Some(pb::query_response::Result::Vector(v)) = &m.result else { panic!("{m:?}") };
    let Some(pb::sample::Value::Histogram(h)) = &v.samples[0].value else { panic!("{v:?}") };
    assert_eq!((h.count, h.sum, h.schema, h.positive_counts.as_slice()), (4.0, 5.0, 0, &[1.0, 3.0][..]));
    assert_eq!(h.positive_spans, [pb::BucketSpan { offset: 0, length: 2 }]);

    let p = [("query", "quantile(7, room)"), ("time", AT), ("stats", "all"), ("explain", "analyze")];
    let (_, m) = protobuf(&mut client, "/api/v1/query", &p);
    let v = server.get("/api/v1/query", &p).json();
    assert_eq!(json!(m.warnings), v["warnings"]);
    assert!(m.warnings[0].contains("quantile value should be between 0 and 1"), "{:?}", m.warnings);
    let samples = m.stats.as_ref().unwrap().samples.as_ref().unwrap();
    assert_eq!(json!(samples.total_queryable_samples), v["data"]["stats"]["samples"]["totalQueryableSamples"]);
    assert_eq!((samples.series_touched, samples.samples_read_per_step.len()), (1, 1));
    let tree: Value = serde_json::from_str(&m.explain).unwrap();
    assert_eq!(tree["root"]["text"], "quantile(7, room)");

    let (status, m) = protobuf(&mut client, "/api/v1/query", &[("query", "sum(")]);
    assert_eq!((status, m.status(), m.error_type.as_str()), (400, pb::Status::Error, "bad_data"));
    assert!(m.error.contains("unclosed left parenthesis"), "{}", m.error);
    // Large answers are compressed; nobody gets protobuf who did not ask for it.
    let headers = [("accept", "application/x-protobuf"), ("accept-encoding", "gzip")];
    let path = format!("/api/v1/query?{}", form(&[("query", "requests_total"), ("time", AT)]));
    let r = client.request("GET", &path, &headers, b"").unwrap();
    assert_eq!((r.header("content-type"), r.header("content-encoding")), ("application/x-protobuf", "gzip"));
    for accept in ["", "*/*", "application/json", "text/html, application/json, application/x-protobuf;q=0.9"] {
        let r = client.request("GET", &path, &[("accept", accept)], b"").unwrap();
        assert_eq!(r.header("content-type"), "application/json", "{accept}");
    }
}

fn explain(arguments: &[&str]) -> Output {
    Command::new(QUIVER).arg("explain").args(arguments).env_remove("QUIVER_URL").output().unwrap()
}

#[test]
fn the_command_draws_the_tree() {
    let mut server = filled();
    let url = server.url();
    let out = |o: &Output| {
        assert_eq!(o.status.code(), Some(0), "{}", String::from_utf8_lossy(&o.stderr));
        String::from_utf8_lossy(&o.stdout).into_owned()
    };
    let text = out(&explain(&[QUERY, "--url", &url, "--time", AT]));
    for word in [
        "at 2023-11-14 22:13:20",
        "series",
        "Aggregate sum by (job)",
        "└─ Range rate",
        "30 of 6",
        "then code=~\"2..\" picks 30 (estimate 60)",
        "samples to read",
    ] {
        assert!(text.contains(word), "{word}:\n{text}");
    }
    assert!(!text.contains("decoded"), "{text}");
    let range = ["--start", "1699999700", "--end", AT, "--step", "30"];
    let text = out(&explain(&[&[QUERY, "--url", &url, "--analyze", "--hint", "no-share"], &range[..]].concat()));
    for word in [
        "11 steps of 30 s",
        "hints: no-share",
        "evaluated in",
        "self",
        "total",
        "decoded in the working set",
        "memory at most",
    ] {
        assert!(text.contains(word), "{word}:\n{text}");
    }
    println!("{text}");
    // Deeper than what JSON parsers follow.
    let chain = vec!["room"; 100].join(" or ");
    let text = out(&explain(&[&chain, "--url", &url, "--time", AT, "--analyze"]));
    assert_eq!(text.matches("Join or").count(), 99, "{text}");
    let text = server.client().request("GET", "/api/v1/query?query=1&explain=plan", &[("accept", "text/plain")], b"");
    let text = text.unwrap();
    assert_eq!(text.header("content-type"), "text/plain; charset=utf-8");
    assert!(text.text().contains("Number 1"), "{}", text.text());
    let v: Value = serde_json::from_str(&out(&explain(&["--json", QUERY, "--url", &url]))).unwrap();
    assert_eq!(v["root"]["operator"], "PromAggregate");

    let o = explain(&["sum(", "--url", &url]);
    assert_eq!(o.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&o.stderr).contains("unclosed left parenthesis"));
    let o = explain(&["1", "--url", &url, "--hint", "hurry"]);
    assert!(String::from_utf8_lossy(&o.stderr).contains("no-share"), "{}", String::from_utf8_lossy(&o.stderr));

    assert_eq!(server.terminate().code(), Some(0));
    let folder = server.data.display().to_string();
    let text = out(&explain(&[QUERY, "--offline", &folder, "--time", AT, "--analyze"]));
    assert!(text.contains("30 series found") && text.contains("1,800 samples read"), "{text}");
}

#[test]
fn sql_says_what_was_pushed_down_pruned_and_read() {
    let server = filled();
    let from = T - 40_000;
    let ask = |verb: &str, condition: &str| {
        let statement = format!("{verb} SELECT sum(value) FROM metrics.\"requests_total\" WHERE {condition}");
        server.sql(&statement).iter().map(|r| format!("{}\n", r[1].as_str().unwrap_or(""))).collect::<String>()
    };
    let text = ask("EXPLAIN ANALYZE", &format!("job = 'api' AND ts >= to_timestamp_millis({from})"));
    for word in [
        "SampleScan",
        "__name__=\"requests_total\"",
        "job=\"api\"",
        &format!("time=[{from}, …]"),
        "series=20",
        "blocks_pruned=1",
        "places=[head 20 of 6",
        "output_rows=100",
        "series_read=20",
        "samples_read=100",
        "chunks_decoded=0",
    ] {
        assert!(text.contains(word), "{word}:\n{text}");
    }
    let text = ask("EXPLAIN ANALYZE", "job = 'db' AND code LIKE '2%'");
    for word in ["blocks_pruned=0", "series=10", "samples_read=610", "block blocks/"] {
        assert!(text.contains(word), "{word}:\n{text}");
    }
    assert!(!text.contains("chunks_decoded=0") && !text.contains("bytes_decoded=0"), "{text}");
    assert!(ask("EXPLAIN", "job = 'db'").contains("blocks_pruned=0"));
}

#[test]
fn a_long_chain_of_operators_is_explained_as_json_too() {
    let server = filled();
    let query = vec!["room"; 900].join(" + ");
    for arguments in [&["--analyze"][..], &[]] {
        let out = Command::new(QUIVER)
            .args(["explain", "--url", &server.url(), "--json", "--time", AT])
            .args(arguments)
            .arg(&query)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(text.matches("\"details\": \"+ one-to-one\"").count(), 899);
    }
}

#[test]
fn operators_with_two_inputs_say_what_memory_they_took() {
    let server = filled();
    let at = |s: i64| (T / 1000 + s).to_string();
    for query in ["requests_total * requests_total", "requests_total or rate(requests_total[5m])"] {
        let (start, end) = (at(-600), at(0));
        let p = [("query", query), ("start", &*start), ("end", &*end), ("step", "1"), ("explain", "analyze")];
        let v = server.get("/api/v1/query_range", &p).json();
        let mut node = &v["data"]["explain"]["root"];
        while node["inputs"].as_array().is_some_and(|i| i.len() == 1) {
            node = &node["inputs"][0];
        }
        let memory = node["actual"]["memoryPeakBytes"].as_u64().unwrap_or(0);
        // 60 series of 601 steps are kept until the other side comes.
        assert!(memory >= 60 * 601 * 8, "{query}: {memory} bytes, {node:#}");
    }
}
