//! Scripts of PromQL: `tests/promql/*.test`, written over remote write and asked over HTTP.
//!
//! ```text
//! features a,b                                first: what is enabled, where it is not the usual
//! write                                       then series, indented: name{labels} @start +step values…
//!   m{a="b"} @0 +15 1 2 _ stale h:0:1,2/7      seconds since 1,700,000,000; _ none, h:SCHEMA:zero,buckets/sum a
//!                                             histogram (/sum+3: three observations of NaN), g: a gauge one,
//!                                             c:bounds:buckets/sum custom bounds, since:30 start time from here on
//! flush | compact | restart                   what the store does here; the answers must not change
//! query TIME EXPR                             or: range START END STEP EXPR
//! = {…}                                       the answer
//! ```
//!
//! The answers are those of Prometheus 3.16: `QUIVER_SCRIPTS_RECORD=HOST:PORT` asks a Prometheus there (fresh, with a
//! receiver of remote write, a wide out-of-order window and the features of the script) and writes them into the files
//! whose names contain `QUIVER_SCRIPTS_FILE`. What was asked after the last write is asked again from blocks, and after a
//! restart.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::http::{Client, Response};
use crate::remote_write::{Native, Series, write};
use crate::server::{Server, Start};

const BASE: i64 = 1_700_000_000;

enum Line {
    Write(Vec<Series>),
    Features(String),
    Store(String),
    Ask { text: String, answer: Option<Value> },
    Other,
}

fn native(kind: &str, text: &str) -> Native {
    let (head, sum) = text.split_once('/').expect("a sum");
    let (head, buckets) = head.split_once(':').expect("buckets");
    let (sum, nans) = sum.split_once('+').unwrap_or((sum, "0"));
    let nans = nans.parse().expect("a number");
    let counts: Vec<u64> = buckets.split(',').map(|n| n.parse().expect("a count")).collect();
    let sum: f64 = sum.parse().expect("a sum");
    if kind == "c" {
        let bounds: Vec<f64> = head.split(',').map(|n| n.parse().expect("a bound")).collect();
        return Native { nans, ..Native::custom(&bounds, &counts, sum) };
    }
    let mut h = Native::exponential(head.parse().expect("a schema"), counts[0], 1, &counts[1..], sum);
    h.is_gauge = kind == "g";
    h.nans = nans;
    h
}

fn series(text: &str) -> Series {
    let (selector, rest) = text.split_once(" @").expect("a start");
    let (name, labels) = selector.split_once('{').unwrap_or((selector, "}"));
    let pairs = labels.trim_end_matches('}').split(',').filter(|p| !p.is_empty());
    let pairs: Vec<(&str, &str)> =
        pairs.map(|p| p.split_once('=').map(|(n, v)| (n, v.trim_matches('"'))).expect("a label")).collect();
    let mut words = rest.split_whitespace();
    let mut time: f64 = words.next().and_then(|w| w.parse().ok()).expect("a start");
    let step: f64 = words.next().and_then(|w| w.strip_prefix('+')).and_then(|w| w.parse().ok()).expect("a step");
    let mut s = Series::new(name, &pairs);
    let mut since = 0;
    for w in words {
        if let Some(start) = w.strip_prefix("since:") {
            since = BASE * 1000 + start.parse::<i64>().expect("a start") * 1000;
            continue;
        }
        // 5x20: so many of it; 1~2x20: rising by 2.
        let (value, times) = w.rsplit_once('x').map_or((w, 1), |(v, n)| (v, n.parse().expect("a number")));
        let (value, rise) = value.split_once('~').map_or((value, 0.0), |(v, r)| (v, r.parse().expect("a rise")));
        for k in 0..times {
            let ts = BASE * 1000 + (time * 1000.0).round() as i64;
            s = match value {
                "_" => s,
                "stale" => s.stale(ts),
                v if v.starts_with(['h', 'g', 'c']) => s.histogram(ts, native(&v[..1], &v[2..])),
                v => s.float(ts, v.parse::<f64>().expect("a value") + rise * f64::from(k)),
            };
            if let Some(last) = s.samples.last_mut().filter(|last| last.ts == ts) {
                last.start = since;
            }
            time += step;
        }
    }
    s
}

fn parse(text: &str) -> Vec<Line> {
    let mut out: Vec<Line> = Vec::new();
    for line in text.lines() {
        match (line.split(' ').next().unwrap_or(""), out.last_mut()) {
            ("write", _) => out.push(Line::Write(Vec::new())),
            ("features", _) => out.push(Line::Features(line["features".len()..].trim().to_owned())),
            ("flush" | "compact" | "restart", _) => out.push(Line::Store(line.to_owned())),
            ("query" | "range", _) => out.push(Line::Ask { text: line.to_owned(), answer: None }),
            ("=", Some(Line::Ask { answer, .. })) => *answer = serde_json::from_str(&line[1..]).ok(),
            ("", Some(Line::Write(all))) if !line.trim().is_empty() => all.push(series(line.trim())),
            _ => out.push(Line::Other),
        }
    }
    out
}

fn ask(client: &mut Client, text: &str) -> Value {
    let mut words = text.split(' ');
    let kind = words.next().unwrap_or("");
    let mut time = || {
        let w = words.next().expect("a time");
        (w.parse::<f64>().expect("a time") + BASE as f64).to_string()
    };
    let r: Response = if kind == "query" {
        let at = time();
        let q = words.collect::<Vec<_>>().join(" ");
        client.post("/api/v1/query", &[("query", &q), ("time", &at)]).expect("an answer")
    } else {
        let (start, end) = (time(), time());
        let step = words.next().expect("a step").to_owned();
        let q = words.collect::<Vec<_>>().join(" ");
        let p = [("query", &*q), ("start", &*start), ("end", &*end), ("step", &*step)];
        client.post("/api/v1/query_range", &p).expect("an answer")
    };
    let mut body = r.json();
    if body["status"] != "success" {
        return json!({ "error": body["error"] });
    }
    let mut out = json!({ "result": body["data"]["result"].take() });
    // The order of a vector says nothing, but where it was sorted.
    if let (Some(list), false) = (out["result"].as_array_mut(), text.contains("sort")) {
        list.sort_by_key(|s| s["metric"].to_string());
    }
    for key in ["warnings", "infos"] {
        let mut notes = body[key].take();
        if let Some(list) = notes.as_array_mut() {
            list.sort_by_key(Value::to_string);
            out[key] = notes;
        }
    }
    out
}

/// The same, numbers in texts up to the last digits.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w)))
        }
        (Value::String(x), Value::String(y)) if x != y => match (x.parse::<f64>(), y.parse::<f64>()) {
            (Ok(x), Ok(y)) => (x - y).abs() <= 1e-12 * x.abs().max(y.abs()),
            _ => false,
        },
        _ => a == b,
    }
}

fn record(path: &Path, address: SocketAddr) {
    let text = std::fs::read_to_string(path).expect("a script");
    let mut client = Client::new(address);
    let mut lines = Vec::new();
    let mut parsed = parse(&text).into_iter().filter(|l| !matches!(l, Line::Other));
    for line in text.lines().filter(|l| !l.starts_with('=')) {
        lines.push(line.to_owned());
        if line.starts_with([' ', '#']) || line.is_empty() {
            continue;
        }
        match parsed.next() {
            Some(Line::Write(all)) => write(&mut client, &all),
            Some(Line::Ask { text, .. }) => lines.push(format!("= {}", ask(&mut client, &text))),
            _ => {}
        }
    }
    std::fs::write(path, lines.join("\n") + "\n").expect("written");
}

/// What Prometheus has to say (`util/annotations`), each as far as it is the same every time.
const TEXTS: &[&str] = &[
    "strategy should be 0, 1, or 2 (default), using 2, got ",
    "ratio value should be between -1 and 1, got ",
    "quantile value should be between 0 and 1, got ",
    "bucket label \\\"le\\\" is missing or has a malformed value of ",
    "encountered a mix of histograms and floats for metric name ",
    "encountered a mix of histograms and floats for aggregation",
    "vector contains a mix of classic and native histograms",
    "vector contains a mix of classic and native histograms for metric name ",
    "this native histogram metric is not a counter: ",
    "this native histogram metric is not a gauge: ",
    "vector contains a mix of histograms with exponential and custom buckets schemas for metric name ",
    "incompatible bucket layout encountered for binary operator ",
    "sort is ineffective for range queries since results are always ordered by labels",
    "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: ",
    "metric might not be a counter, __type__ label is not set to \\\"counter\\\" or \\\"histogram\\\", got ",
    "input to histogram_quantile needed to be fixed for monotonicity (see ",
    "incompatible sample types encountered for binary operator ",
    "ignored histogram in ",
    "ignored histograms in a range containing both floats and histograms for metric name ",
    "input to histogram_quantile has NaN observations, result is NaN",
    "input to histogram_quantile has NaN observations, result is skewed higher",
    "input to histogram_fraction has NaN observations, which are excluded from all fractions",
    "conflicting counter resets during histogram addition",
    "conflicting counter resets during histogram subtraction",
    "conflicting counter resets during histogram aggregation",
    "mismatched custom buckets were reconciled during addition",
    "mismatched custom buckets were reconciled during subtraction",
    "mismatched custom buckets were reconciled during aggregation",
    "sample has start time that overlaps with previous sample timestamp for metric ",
];

#[test]
fn every_text_is_in_a_script() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/promql");
    let all: String = std::fs::read_dir(folder)
        .expect("tests/promql")
        .filter_map(|e| std::fs::read_to_string(e.ok()?.path()).ok())
        .flat_map(|text| text.lines().filter(|l| l.starts_with('=')).map(|l| format!("{l}\n")).collect::<Vec<_>>())
        .collect();
    let missing: Vec<_> = TEXTS.iter().filter(|t| !all.contains(**t)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn scripts_are_answered_as_prometheus_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/promql");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("tests/promql").map(|e| e.expect("a file").path()).collect();
    files.sort();
    assert!(files.len() >= 5);
    if let Some(address) = std::env::var("QUIVER_SCRIPTS_RECORD").ok().and_then(|a| a.parse().ok()) {
        let only = std::env::var("QUIVER_SCRIPTS_FILE").unwrap_or_default();
        files.retain(|f| f.to_string_lossy().contains(&only));
        return files.iter().for_each(|f| record(f, address));
    }
    let mut wrong = Vec::new();
    let mut count = 0;
    for path in &files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lines = parse(&std::fs::read_to_string(path).expect("a script"));
        let features = match lines.first() {
            Some(Line::Features(list)) => list,
            _ => "promql-experimental-functions,promql-binop-fill-modifiers",
        };
        let mut server = Start::new().with(&["--enable-feature", features]).ready();
        let mut since = 0;
        for (i, line) in lines.iter().enumerate() {
            match line {
                Line::Write(all) => {
                    write(&mut server.client(), all);
                    since = i;
                }
                Line::Store(what) => store(&mut server, what),
                Line::Ask { text, answer } => {
                    count += 1;
                    check(&server, &name, text, answer.as_ref(), &mut wrong);
                }
                Line::Features(_) | Line::Other => {}
            }
        }
        for what in ["flush", "compact", "restart"] {
            store(&mut server, what);
            for line in &lines[since..] {
                if let Line::Ask { text, answer } = line {
                    check(&server, &format!("{name} after {what}"), text, answer.as_ref(), &mut wrong);
                }
            }
        }
    }
    assert!(count > 50, "{count} questions");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

fn store(server: &mut Server, what: &str) {
    match what {
        "restart" => {
            server.kill();
            server.restart();
        }
        verb => server.admin(verb),
    }
}

fn check(server: &Server, name: &str, text: &str, answer: Option<&Value>, wrong: &mut Vec<String>) {
    let got = ask(&mut server.client(), text);
    match answer {
        Some(want) if same(want, &got) => {}
        want => wrong.push(format!("{name}: {text}\n  want {}\n  got  {got}", want.cloned().unwrap_or_default())),
    }
}
