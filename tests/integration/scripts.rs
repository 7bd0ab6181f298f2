//! Scripts of PromQL: `tests/promql/*.test`, written over remote write and asked over HTTP.
//!
//! ```text
//! write                                       then series, indented: name{labels} @start +step values…
//!   m{a="b"} @0 +15 1 2 _ stale h:0:1,2/7      seconds since 1,700,000,000; _ none, h:SCHEMA:buckets/sum a histogram,
//!                                             g: a gauge one, c:bounds:buckets/sum custom bounds
//! flush | compact | restart                   what the store does here; the answers must not change
//! query TIME EXPR                             or: range START END STEP EXPR
//! = {…}                                       the answer
//! ```
//!
//! The answers are those of Prometheus 3.16: `QUIVER_SCRIPTS_RECORD=HOST:PORT` asks a Prometheus there (fresh, with a
//! receiver of remote write and a wide out-of-order window) and writes them into the files. What was asked after the
//! last write is asked again from blocks, and after a restart.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::http::{Client, Response};
use crate::remote_write::{Native, Series, write};
use crate::server::{Server, Start};

const BASE: i64 = 1_700_000_000;

enum Line {
    Write(Vec<Series>),
    Store(String),
    Ask { text: String, answer: Option<Value> },
    Other,
}

fn native(kind: &str, text: &str) -> Native {
    let (head, sum) = text.split_once('/').expect("a sum");
    let (head, buckets) = head.split_once(':').expect("buckets");
    let counts: Vec<u64> = buckets.split(',').map(|n| n.parse().expect("a count")).collect();
    let sum: f64 = sum.parse().expect("a sum");
    if kind == "c" {
        let bounds: Vec<f64> = head.split(',').map(|n| n.parse().expect("a bound")).collect();
        return Native::custom(&bounds, &counts, sum);
    }
    let mut h = Native::exponential(head.parse().expect("a schema"), counts[0], 1, &counts[1..], sum);
    h.is_gauge = kind == "g";
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
    for w in words {
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
        if line.starts_with(' ') || line.is_empty() || line.starts_with('#') {
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

#[test]
fn scripts_are_answered_as_prometheus_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/promql");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("tests/promql").map(|e| e.expect("a file").path()).collect();
    files.sort();
    assert!(files.len() >= 5);
    if let Some(address) = std::env::var("QUIVER_SCRIPTS_RECORD").ok().and_then(|a| a.parse().ok()) {
        return files.iter().for_each(|f| record(f, address));
    }
    let features = "promql-experimental-functions,promql-binop-fill-modifiers";
    let mut wrong = Vec::new();
    let mut count = 0;
    for path in &files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut server = Start::new().with(&["--enable-feature", features]).ready();
        let lines = parse(&std::fs::read_to_string(path).expect("a script"));
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
                Line::Other => {}
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
