//! Queries made to end a server: bounded time, bounded memory, a clear error, and nobody else waits for them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::remote_write::{Series, write};
use crate::server::{Server, Start};

const T: i64 = 1_700_000_000_000;
const AT: &str = "1700000000";
/// A debug build is some ten times slower, and other tests run beside this one.
const SLOW: u32 = if cfg!(debug_assertions) { 10 } else { 1 };

/// The 99th and the 50th of a hundred times.
fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |q: f64| times.get((times.len() as f64 * q) as usize).or(times.last()).copied().unwrap_or_default();
    (at(0.99), at(0.5))
}

/// 400 series of a minute, 50 targets, a classic histogram.
fn server(limits: &str) -> Server {
    let flags = ["--limit", limits, "--enable-feature", "promql-experimental-functions"];
    let server = Start::new().with(&flags).ready();
    let mut series = Vec::new();
    for i in 0..400 {
        let labels = [("i", &*i.to_string()), ("job", &*format!("j{}", i % 5)), ("instance", &*format!("h{}", i % 10))];
        let values: Vec<f64> = (0..60).map(|s| f64::from(i) + f64::from(s) / 7.0).collect();
        series.push(Series::new("known", &labels).floats(T - 59_000, 1000, &values));
    }
    for k in 0..50 {
        let labels = [("job", &*format!("j{}", k % 5)), ("instance", &*format!("h{}", k / 5)), ("x", "y")];
        series.push(Series::new("target_info", &labels).float(T - 5000, 1.0));
        for (n, le) in ["0.1", "1", "+Inf"].iter().enumerate() {
            let labels = [("k", &*k.to_string()), ("le", le)];
            series.push(Series::new("hist_bucket", &labels).float(T - 5000, n as f64));
        }
    }
    write(&mut server.client(), &series);
    server
}

/// A field of `/proc/PID/status`, MiB.
fn memory(server: &Server, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(field)).unwrap_or_default();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap_or(0) / 1024
}

fn error_of(r: &crate::http::Response) -> String {
    let v: Value = serde_json::from_slice(&r.body).unwrap_or_default();
    v["error"].as_str().unwrap_or_default().to_owned()
}

enum Ask {
    /// At one time.
    Once(String),
    /// At 11,000 steps of 1 s, or over a year.
    Range(String, i64, i64),
}

fn nested(n: usize, step: &str) -> String {
    (0..n).fold("known".to_owned(), |q, _| format!("sum_over_time(({q})[1h:{step}])"))
}

/// What is asked, and what the answer has to say; `""`: it may be answered.
fn table() -> Vec<(&'static str, Ask, &'static str)> {
    let n = 100_000;
    let once = |q: &str| Ask::Once(q.to_owned());
    let year = |q: &str| Ask::Range(q.to_owned(), 365 * 86_400, 2867);
    let fine = |q: &str| Ask::Range(q.to_owned(), 10_999, 1);
    let deep = "nested too deeply";
    let chain = "too long a chain";
    let joined = |k: usize| {
        let one = |q: String, i| format!("label_join({q}, \"l{i}\", \"-\", \"i\", \"job\")");
        (0..k).fold("known".to_owned(), one)
    };
    let others = |op: &str| (0..990).map(|k| format!("known{{i!=\"{k}\"}}")).collect::<Vec<_>>().join(op);
    let doubled = |k: usize| {
        let one = |q: String, _| format!("label_replace({q}, \"i\", \"$1$1$1$1\", \"i\", \"(.*)\")");
        (0..k).fold("known".to_owned(), one)
    };
    let windows = "query_window_samples_max";
    let twice = |f: &str, rest: &str| (0..30).fold("known".to_owned(), |q, _| format!("{f}({q}, \"i\", {rest})"));
    vec![
        ("aggregations", Ask::Once("sum(".repeat(n)), deep),
        ("parentheses", Ask::Once("(".repeat(n)), deep),
        ("signs", Ask::Once(format!("{}known", "-".repeat(n))), chain),
        ("sums", Ask::Once(vec!["1"; n].join("+")), chain),
        ("powers", Ask::Once(vec!["1"; n].join("^")), chain),
        ("or", Ask::Once(vec!["known"; n].join(" or ")), chain),
        ("or, as long as it may be", Ask::Once(vec!["known{i=\"1\"}"; 990].join(" or ")), ""),
        ("plus, as long as it may be", Ask::Once(vec!["known{i=\"1\"}"; 990].join(" + ")), ""),
        ("or of all, as long as it may be", Ask::Once(vec!["known"; 990].join(" or ")), ""),
        ("plus of all, as long as it may be", Ask::Once(vec!["known"; 990].join(" + ")), ""),
        ("and of others, as long as it may be", Ask::Once(others(" and ")), ""),
        ("plus of others over many steps", Ask::Range(others(" + on (i) "), 600, 1), ""),
        ("an expression of 1 MB", Ask::Once(format!("known{{i=~\"{}\"}}", "a|b.*".repeat(200_000))), "bytes compiled"),
        ("an expression that grows", once("known{i=~\"(\\\\pL{1000}a){1000}\"}"), "invalid repeat count"),
        ("a slow expression", once("known{i=~\"(.*.*.*.*.*.*)*x(a?){100}.{200}\"}"), ""),
        ("expressions", Ask::Once(format!("known{{{}}}", "i=~\"b.*c\",".repeat(60_000))), "regular expressions"),
        ("matchers", Ask::Once(format!("known{{{}}}", "i!=\"b\",".repeat(60_000))), ""),
        ("cross product", once("known * on() group_left() known"), "many-to-many matching not allowed"),
        ("cross product kept", once("known and on() known"), ""),
        ("values counted", fine("count_values(\"v\", known * time())"), ""),
        ("values counted over and over", once("max_over_time(count_values(\"v\", known + time())[1h:1s])"), ""),
        ("a subquery of 1 ms steps", once("count_over_time(vector(1)[1y:1ms])"), "too many samples"),
        ("a subquery of 1 s steps", once("count_over_time(vector(1)[1y:1s])"), "bytes of memory"),
        ("every step at a time", once("quantile_over_time(0.5, vector(time())[1y:1s])"), "bytes of memory"),
        ("a histogram of steps", once("mad_over_time((known)[1y:1s])"), "bytes of memory"),
        ("six subqueries", Ask::Once(nested(6, "1m")), ""),
        ("six fine subqueries", Ask::Once(nested(6, "20s")), ""),
        ("subqueries over a year", year("sum_over_time((known * 2)[1h:1s])"), "bytes of memory"),
        ("wide subqueries over a year", year("sum_over_time((known{i=\"1\"} * 2)[365d:1m])"), ""),
        ("wide windows over a year", year("quantile_over_time(0.5, known[365d])"), ""),
        ("fine steps", fine("known{i=~\"1.*\"}"), ""),
        ("labels joined", Ask::Once(joined(120)), ""),
        ("labels doubled", Ask::Once(doubled(25)), "query_label_bytes_max"),
        ("one label doubled", Ask::Once(twice("label_replace", "\"$1$1\", \"i\", \"(.*)\"")), "query_label_bytes_max"),
        ("one label joined with itself", Ask::Once(twice("label_join", "\"\", \"i\", \"i\"")), "query_label_bytes_max"),
        ("days of seconds of a constant", once("sum_over_time(sum_over_time(vector(1)[1d:1s])[1d:1s])"), windows),
        ("days of seconds of the time", once("max_over_time(avg_over_time(vector(time())[1d:1s])[1d:1s])"), windows),
        ("days of seconds of nothing", once("sum_over_time(sum_over_time(absent(nothing)[1d:1s])[1d:1s])"), windows),
        (
            "days of seconds of a label",
            once("sum_over_time(sum_over_time(label_replace(vector(1), \"a\", \"b\", \"\", \"\")[1d:1s])[1d:1s])"),
            windows,
        ),
        (
            "sorted hours of seconds",
            once("quantile_over_time(0.5, quantile_over_time(0.5, vector(1)[8h:1s])[8h:1s])"),
            windows,
        ),
        ("hours of seconds of a sum", once("sum_over_time(count_over_time(sum(known)[1d:1s])[1d:1s])"), windows),
        ("an hour of seconds of all at many steps", fine("sum_over_time((known + 1)[1h:1s])"), windows),
        ("constants in a join", once("vector(1) * on () vector(2) + on () vector(3)"), ""),
        (
            "constants of half a day",
            once("sum_over_time(vector(1)[12h:1s]) + on () sum_over_time(vector(time())[12h:1s])"),
            "",
        ),
        (
            "a huge replacement",
            Ask::Once(format!("label_replace(known, \"x\", \"{}\", \"i\", \"(.*)\")", "$1".repeat(400_000))),
            "query_label_bytes_max",
        ),
        ("the largest", once("topk(9e18, known)"), ""),
        ("a limit", once("limitk(9e18, known)"), ""),
        ("a quantile", once("quantile(1e300, known)"), ""),
        ("quantiles", fine("quantile by (job) (0.5, known)"), ""),
        ("info on all", once("info({__name__=~\".+\"})"), ""),
        (
            "grouping",
            Ask::Once(format!("sum by ({}) (known)", (0..50_000).map(|i| format!("l{i},")).collect::<String>())),
            "",
        ),
    ]
}

#[test]
fn a_query_of_death_ends_itself_only() {
    // In a control group of 512 MiB the defaults are made for that; without one they have to be said.
    let is_confined = std::env::var("QUIVER_TEST_CONFINED").is_ok();
    let said = if is_confined { "" } else { "query_memory_bytes_max=64MiB,query_memory_total_bytes_max=128MiB," };
    let mut server = server(&format!("{said}query_timeout_ms=60000"));
    let other = |s: &Server| {
        let begun = Instant::now();
        let r = s.post("/api/v1/query", &[("query", "sum(known{i=\"7\"})"), ("time", AT)]);
        assert_eq!(r.status, 200, "{}", r.text());
        begun.elapsed()
    };
    for _ in 0..20 {
        other(&server);
    }
    let shown = std::env::var("QUIVER_TEST_TIMES").is_ok();
    let (quiet, median) = quantiles((0..500).map(|_| other(&server)).collect());
    if shown {
        println!("| query | status | s | peak MiB so far | p99 of others ms | p50 | |\n|---|--:|--:|--:|--:|--:|---|");
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        println!("| (none) | | | {} | {:.1} | {:.1} | |", memory(&server, "VmRSS:"), ms(quiet), ms(median));
    }
    let mut beside_all = Vec::new();
    let begin = memory(&server, "VmRSS:");
    let failures: Vec<String> = table()
        .into_iter()
        .filter_map(|(name, ask, word)| {
            let begun = Instant::now();
            // Twice the time an answer may take: then its time is up.
            let done = AtomicBool::new(false);
            let (r, times) = std::thread::scope(|scope| {
                let beside = scope.spawn(|| {
                    let mut times = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        times.push(other(&server));
                    }
                    times
                });
                let r = match &ask {
                    Ask::Once(q) => server.post("/api/v1/query", &[("query", q), ("time", AT), ("timeout", "10s")]),
                    Ask::Range(q, length, step) => {
                        let (start, step) = ((T / 1000 - length).to_string(), step.to_string());
                        let range =
                            [("query", &**q), ("start", &start), ("end", AT), ("step", &step), ("timeout", "10s")];
                        server.post("/api/v1/query_range", &range)
                    }
                };
                done.store(true, Ordering::Relaxed);
                (r, beside.join().expect("others are answered"))
            });
            let took = begun.elapsed();
            let text: String = r.text().chars().take(300).collect();
            let good = match word {
                "" => [200, 422, 503].contains(&r.status),
                word => [400, 422].contains(&r.status) && text.contains(word),
            };
            beside_all.extend(times.iter().copied());
            if shown {
                let (p99, p50) = quantiles(times);
                let (p99, p50, took) = (p99.as_secs_f64() * 1e3, p50.as_secs_f64() * 1e3, took.as_secs_f64());
                let error = error_of(&r).chars().take(110).collect::<String>().replace('|', "\\|");
                let peak = memory(&server, "VmHWM:");
                println!("| {name} | {} | {took:.2} | {peak} | {p99:.1} | {p50:.1} | {error} |", r.status);
            }
            let bad = !good || took > Duration::from_secs(2) * SLOW || r.body.len() > 64 << 20;
            bad.then(|| format!("{name}: {} in {took:?}: {text}", r.status))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(server.is_alive());
    let peak = memory(&server, "VmHWM:");
    let (p99, p50) = quantiles(beside_all);
    if shown {
        println!(
            "others beside all of them: p99 {p99:?}, p50 {p50:?}; quiet: p99 {quiet:?}, p50 {median:?}; peak {peak} MiB"
        );
    }
    assert!(peak - begin < 256, "memory grew by {} MiB", peak - begin);
    assert!(peak < 512, "{peak} MiB in all");
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn a_stopped_query_stops_in_the_middle_of_any_kernel() {
    let server = server("query_timeout_ms=120000,query_window_samples_max=1000000000000");
    let at = format!("known @ {AT}");
    let inner = [
        at.clone(),
        format!("sum by (i) ({at})"),
        format!("stddev({at})"),
        format!("({at}) * on (i) ({at})"),
        format!("({at}) or on (i) ({at})"),
        format!("sort({at})"),
        format!("quantile by (job) (0.5, {at})"),
        format!("topk(3, {at})"),
        format!("count_values(\"v\", {at} + time())"),
        format!("histogram_quantile(0.9, hist_bucket @ {AT})"),
        format!("label_replace({at}, \"j\", \"$1\", \"i\", \"(.*)\")"),
        format!("label_join({at}, \"j\", \"-\", \"i\", \"job\")"),
        format!("sum_over_time((known @ {AT})[10m:1s])"),
    ];
    for q in inner {
        // Many times the same on other steps, so that it would take long.
        let part = |k: usize| format!("quantile_over_time(0.5, ({q})[1h:1s] offset {k}s)");
        let query = (1..=120).map(part).collect::<Vec<_>>().join(" or on (nothing) ");
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let r = server.post("/api/v1/query", &[("query", &query), ("time", AT)]);
                (r, Instant::now())
            });
            let id = loop {
                let active: Value = server.get("/api/v1/status/active_queries", &[]).json()["data"].take();
                let mine = active.as_array().and_then(|a| a.iter().find(|e| e["samplesRead"].as_u64() > Some(0)));
                if let Some(id) = mine.and_then(|e| e["id"].as_u64()) {
                    break id;
                }
                assert!(!asked.is_finished(), "{q} was done before it was stopped");
                std::thread::sleep(Duration::from_millis(5));
            };
            let path = format!("/api/v1/status/active_queries/{id}");
            let r = server.client().request("DELETE", &path, &[], b"").expect("an answer");
            let stopped = Instant::now();
            assert!([200, 204].contains(&r.status), "{}", r.text());
            let (r, answered) = asked.join().expect("an answer");
            assert!(r.text().contains("query was canceled"), "{q}: {}", r.text().chars().take(300).collect::<String>());
            let late = answered.saturating_duration_since(stopped);
            assert!(late < Duration::from_millis(100) * SLOW, "{q} went on for {late:?}");
        });
    }
}

#[test]
fn limits_are_set_shown_and_named_in_errors() {
    let limits = "query_samples_max=1000,query_samples_read_max=5000,query_series_max=100,query_points_max=50,\
                  query_depth_max=5,query_bytes_max=2KiB,query_timeout_ms=20000";
    let server = server(limits);
    let once = |q: &str| server.post("/api/v1/query", &[("query", q), ("time", AT)]);
    let refused = |q: &str, code: u16, text: &str| {
        let r = once(q);
        assert!(r.status == code && r.text().contains(text), "{q}: {} {}", r.status, r.text());
    };
    // Prometheus's own words where it has the limit.
    refused("known", 422, "query would load too many series into memory in query execution");
    refused("known{i=~\"1.?\"}[1m]", 200, "success");
    refused("count_over_time(vector(1)[2000s:1s])", 422, "query processing would load too many samples into memory");
    refused("sum(sum_over_time(known{job=\"j1\"}[1m]))", 200, "success");
    let read = "sum(sum_over_time(known{job=\"j1\"}[1m]))";
    refused(
        &format!("{read} + sum(sum_over_time(known{{job=\"j2\"}}[50s]))"),
        422,
        "query would read too many samples",
    );
    let many = (0..5).map(|k| format!("sum(count_over_time(known{{job=\"j{k}\"}}[1m]))")).collect::<Vec<_>>().join("+");
    refused(&many, 422, "query would read too many samples in query planning: about");
    refused("((((((1))))))", 400, "the limit is 5 brackets");
    refused(&format!("1{}", " ".repeat(3000)), 400, "2048");
    let range = [("query", "1"), ("start", "0"), ("end", "1000"), ("step", "1")];
    let r = server.get("/api/v1/query_range", &range);
    assert!(r.status == 400 && r.text().contains("exceeded maximum resolution of 50 points"), "{}", r.text());
    let metrics = server.get("/metrics", &[]).text();
    for text in ["quiver_limit{name=\"query_series_max\"} 100\n", "quiver_queries_limited_total 4\n"] {
        assert!(metrics.contains(text), "{text} is not in\n{metrics}");
    }
    let flags = server.get("/api/v1/status/flags", &[]).json();
    assert_eq!(flags["data"]["limit.query_depth_max"], "5");
}
