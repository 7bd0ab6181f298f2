//! Asks two servers the same queries, instant and over a range, and compares the answers to 1e-9.
//!
//! ```sh
//! compare_answers --prometheus http://127.0.0.1:9090 --quiver http://127.0.0.1:9095 --queries queries.txt --minutes 10
//! ```
//!
//! The moment asked for lies 20 s in the past, and the range ends there: both servers have everything by then. Histograms
//! are compared by count, sum and buckets. Series that only one of them has are a difference; so is an answer of nothing.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use quiver_support::http::Client;
use serde_json::Value;

/// Values this close, relative to the larger, are the same.
const TOLERANCE: f64 = 1e-9;
/// How far in the past the moment lies, seconds: remote write has caught up by then.
const BEHIND: u64 = 20;
/// Step of the ranges, seconds.
const STEP: u64 = 15;

/// Numbers of one point: one for a float, more for a histogram.
type Point = Vec<f64>;
/// Points by series and time.
type Series = BTreeMap<String, BTreeMap<i64, Point>>;

fn argument(name: &str) -> Result<String, String> {
    let mut all = std::env::args();
    all.find(|a| a == name).and_then(|_| all.next()).ok_or_else(|| format!("{name} is missing"))
}

fn client(url: &str) -> Result<Client, String> {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    address.parse().map(Client::new).map_err(|_| format!("{url:?} is not like http://127.0.0.1:9090"))
}

fn number(v: &Value) -> f64 {
    match v.as_str() {
        Some("+Inf") => f64::INFINITY,
        Some("-Inf") => f64::NEG_INFINITY,
        Some(text) => text.parse().unwrap_or(f64::NAN),
        None => v.as_f64().unwrap_or(f64::NAN),
    }
}

fn point(v: &Value) -> (i64, Point) {
    let time = (v[0].as_f64().unwrap_or(0.0) * 1000.0).round() as i64;
    let numbers = match &v[1] {
        Value::Object(h) => {
            let mut out = vec![number(&h["count"]), number(&h["sum"])];
            for b in h.get("buckets").and_then(Value::as_array).into_iter().flatten() {
                out.extend(b.as_array().into_iter().flatten().map(number));
            }
            out
        }
        float => vec![number(float)],
    };
    (time, numbers)
}

fn ask(client: &mut Client, path: &str, parameters: &[(&str, &str)]) -> Result<Series, String> {
    let r = client.post(path, parameters).map_err(|e| e.to_string())?;
    if r.status != 200 {
        return Err(format!("{} {}", r.status, r.text()));
    }
    let v: Value = serde_json::from_slice(&r.body).map_err(|e| e.to_string())?;
    let mut out = Series::new();
    for s in v["data"]["result"].as_array().into_iter().flatten() {
        if s.is_array() || !s["metric"].is_object() {
            return Err("only vectors are compared".into());
        }
        let points = out.entry(s["metric"].to_string()).or_default();
        for key in ["value", "histogram"] {
            points.extend(s.get(key).map(point));
        }
        for key in ["values", "histograms"] {
            points.extend(s.get(key).and_then(Value::as_array).into_iter().flatten().map(point));
        }
    }
    Ok(out)
}

/// The largest relative difference, or what is different altogether.
fn compare(wanted: &Series, found: &Series) -> Result<f64, String> {
    let mut worst = 0.0_f64;
    for (name, points) in wanted {
        let other = found.get(name).ok_or_else(|| format!("only Prometheus has {name}"))?;
        for (time, numbers) in points {
            let others = other.get(time).ok_or_else(|| format!("only Prometheus has {name} at {time}"))?;
            if numbers.len() != others.len() {
                return Err(format!("{name} at {time}: {numbers:?} and {others:?}"));
            }
            for (a, b) in numbers.iter().zip(others) {
                let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) || a == b;
                let difference = if same { 0.0 } else { (a - b).abs() / a.abs().max(b.abs()) };
                if difference > TOLERANCE || difference.is_nan() {
                    return Err(format!("{name} at {time}: {a} and {b}"));
                }
                worst = worst.max(difference);
            }
        }
        if let Some(time) = other.keys().find(|t| !points.contains_key(t)) {
            return Err(format!("only Quiver has {name} at {time}"));
        }
    }
    match found.keys().find(|k| !wanted.contains_key(*k)) {
        Some(name) => Err(format!("only Quiver has {name}")),
        None => Ok(worst),
    }
}

fn run() -> Result<bool, String> {
    let (mut prometheus, mut quiver) = (client(&argument("--prometheus")?)?, client(&argument("--quiver")?)?);
    let file = argument("--queries")?;
    let minutes: u64 = argument("--minutes")?.parse().map_err(|_| "--minutes is not a number")?;
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
    let queries: Vec<_> = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?.as_secs();
    let end = now - BEHIND;
    let start = end - minutes * 60;
    let (start, end, step) = (start.to_string(), end.to_string(), STEP.to_string());

    println!("{:>3}  {:>6}  {:>7}  {:>9}  {:<7}  query", "", "series", "points", "worst", "verdict");
    let mut wrong = 0;
    for (i, query) in queries.iter().enumerate() {
        let mut judge = |path: &str, parameters: &[(&str, &str)]| -> Result<(usize, usize, f64), String> {
            let wanted = ask(&mut prometheus, path, parameters).map_err(|e| format!("Prometheus: {e}"))?;
            let found = ask(&mut quiver, path, parameters).map_err(|e| format!("Quiver: {e}"))?;
            if wanted.is_empty() {
                return Err("Prometheus has no answer".into());
            }
            let worst = compare(&wanted, &found)?;
            Ok((wanted.len(), wanted.values().map(BTreeMap::len).sum(), worst))
        };
        let instant = judge("/api/v1/query", &[("query", query), ("time", &end)]);
        let range =
            judge("/api/v1/query_range", &[("query", query), ("start", &start), ("end", &end), ("step", &step)]);
        let n = i + 1;
        match (instant, range) {
            (Ok((_, _, a)), Ok((series, points, b))) => {
                println!("{n:>3}  {series:>6}  {points:>7}  {:>9.1e}  {:<7}  {query}", a.max(b), "same");
            }
            (instant, range) => {
                wrong += 1;
                println!("{n:>3}  {:>6}  {:>7}  {:>9}  {:<7}  {query}", "", "", "", "DIFFERS");
                for (what, e) in [("instant", instant.err()), ("range", range.err())] {
                    if let Some(e) = e {
                        println!("     {what}: {e}");
                    }
                }
            }
        }
    }
    let n = queries.len();
    println!(
        "verdict: {} of {n} queries have the same answers, instant and over {minutes} minutes, to {TOLERANCE:e}",
        n - wrong
    );
    Ok(wrong == 0)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("compare_answers: {e}");
            ExitCode::from(2)
        }
    }
}
