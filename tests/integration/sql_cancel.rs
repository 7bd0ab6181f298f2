//! Statements that are stopped: the caller is answered at once, the work ends soon after, and others are answered meanwhile.
//!
//! Shown by the processor time of the threads that statements run on, operator by operator: `QUIVER_TEST_TIMES=1` prints it.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::remote_write::{Series, write};
use crate::server::{Server, Start};

const T: i64 = 1_700_000_000_000;
/// A debug build is some ten times slower. Work is judged by the processor time of its threads: tests that run beside this one stretch
/// the time on the clock, but not that.
const SLOW: u32 = if cfg!(debug_assertions) { 10 } else { 2 };
/// How long a statement runs before it is stopped.
const RUN: Duration = Duration::from_millis(700);
/// The work of operators that go batch by batch ends within this.
const BATCHES: Duration = Duration::from_millis(100);
/// That of operators that finish in one call.
const ONE_CALL: Duration = Duration::from_millis(1000);

/// 300 series of 1,000 samples.
fn server(limits: &str) -> Server {
    let server = Start::new().with(&["--limit", limits]).ready();
    let series: Vec<Series> = (0..300)
        .map(|i| {
            let values: Vec<f64> = (0..1000).map(|s| f64::from(i) + f64::from(s) / 7.0).collect();
            let labels = [("i", &*i.to_string()), ("job", &*format!("j{}", i % 5))];
            Series::new("m", &labels).floats(T - 999_000, 1000, &values)
        })
        .collect();
    for part in series.chunks(100) {
        write(&mut server.client(), part);
    }
    server
}

/// Statements that run for longer than anybody waits, each mostly in one operator.
fn table() -> Vec<(&'static str, Duration, String)> {
    let joined = "metrics.m a JOIN metrics.m b ON a.job = b.job";
    let many = "metrics.m a, generate_series(1, 100000) g";
    let unions = vec![format!("SELECT sum(a.value * g.value) FROM {many}"); 3].join(" UNION ALL ");
    let scans = vec!["SELECT count(value) c FROM metrics.m WHERE value <> 3"; 160].join(" UNION ALL ");
    let window = |f: &str| format!("SELECT count(x) FROM (SELECT {f} x FROM {many})");
    [
        ("scan and filter", BATCHES, format!("SELECT sum(c) FROM ({scans})")),
        ("hash join, probe", BATCHES, format!("SELECT a.i, avg(b.value) FROM {joined} GROUP BY a.i")),
        ("hash join, filter drops all", BATCHES, format!("SELECT count(*) FROM {joined} AND a.value + b.value < -1")),
        (
            "hash semi join",
            BATCHES,
            "SELECT count(*) FROM metrics.m a WHERE a.job IN (SELECT b.job FROM metrics.m b)".into(),
        ),
        (
            "hash semi join, filter drops all",
            BATCHES,
            "SELECT count(*) FROM metrics.m a WHERE EXISTS (SELECT 1 FROM metrics.m b WHERE a.job = b.job AND \
             a.value + b.value < -1)"
                .into(),
        ),
        (
            "hash anti join",
            BATCHES,
            "SELECT count(*) FROM metrics.m a WHERE NOT EXISTS (SELECT 1 FROM metrics.m b WHERE a.job = b.job)".into(),
        ),
        (
            "hash anti join of NOT IN",
            BATCHES,
            "SELECT count(*) FROM metrics.m a WHERE a.job NOT IN (SELECT b.job FROM metrics.m b)".into(),
        ),
        (
            "nested loop join",
            BATCHES,
            "SELECT count(*) FROM metrics.m a JOIN metrics.m b ON a.value < b.value - 1e9".into(),
        ),
        (
            "cross join",
            BATCHES,
            "SELECT count(a.value + b.value) FROM metrics.m a CROSS JOIN metrics.m b".into(),
        ),
        ("hash join, build", ONE_CALL, format!(
                "SELECT count(*) FROM metrics.m c JOIN (SELECT a.i, a.value + g.value v FROM {many}) d ON c.value = d.v \
                 AND c.i = d.i"
            )),
        ("aggregate input", BATCHES, format!("SELECT a.i, sum(a.value * g.value) FROM {many} GROUP BY a.i")),
        ("many groups", ONE_CALL, format!("SELECT count(*) FROM (SELECT a.value + g.value v, count(*) FROM {many} GROUP BY v)")),
        ("distinct", ONE_CALL, format!("SELECT count(*) FROM (SELECT DISTINCT a.value + g.value FROM {many})")),
        ("percentile", ONE_CALL, format!("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a.value) FROM {many}")),
        ("sort", ONE_CALL, format!("SELECT v FROM (SELECT a.value + g.value v, a.i FROM {many}) ORDER BY i, v")),
        ("top", BATCHES, format!("SELECT v FROM (SELECT a.value + g.value v FROM {many}) ORDER BY v LIMIT 10")),
        ("union", BATCHES, unions),
        (
            "window, bounded",
            ONE_CALL,
            window("sum(a.value) OVER (PARTITION BY a.i ORDER BY a.ts ROWS BETWEEN 500 PRECEDING AND CURRENT ROW)"),
        ),
        ("window, unbounded", ONE_CALL, window("row_number() OVER (ORDER BY a.value)")),
        (
            "window that sorts its frame",
            ONE_CALL,
            "SELECT count(x) FROM (SELECT median(value) OVER (ORDER BY value) x FROM metrics.m)".into(),
        ),
        ("unnest", ONE_CALL, format!("SELECT sum(x) FROM (SELECT unnest([1, 2, 3, a.value, g.value]) x FROM {many})")),
        (
            "recursion",
            BATCHES,
            "WITH RECURSIVE r AS (SELECT 1 n UNION ALL SELECT n + 1 FROM r WHERE n < 1000000000) SELECT count(*) FROM r"
                .into(),
        ),
        (
            "recursion of many rows",
            BATCHES,
            "WITH RECURSIVE r AS (SELECT value v, 1 n FROM metrics.m UNION ALL SELECT v + 1, n + 1 FROM r WHERE n < \
             1000000) SELECT count(*) FROM r"
                .into(),
        ),
        (
            "expression",
            BATCHES,
            format!("SELECT count(*) FROM {many} WHERE regexp_replace(a.job || g.value::text, '(j|[0-9]*)*x', 'y') = 'z'"),
        ),
    ]
    .into()
}

/// Processor time of the threads that statements run on.
fn sql_cpu(server: &Server) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.id())).expect("threads of the server");
    let ns = tasks.flatten().filter_map(|t| {
        let name = std::fs::read_to_string(t.path().join("comm")).ok()?;
        let times = std::fs::read_to_string(t.path().join("schedstat")).ok()?;
        name.starts_with("quiver-sql").then(|| times.split(' ').next()?.parse::<u64>().ok()).flatten()
    });
    Duration::from_nanos(ns.sum())
}

/// When the threads of statements did something last, and their processor time then: they have stood still for a while since.
fn last_work(server: &Server) -> (Instant, Duration) {
    let (mut at, mut cpu) = (Instant::now(), sql_cpu(server));
    while at.elapsed() < Duration::from_millis(250) {
        std::thread::sleep(Duration::from_millis(5));
        let now = sql_cpu(server);
        // Less is what a thread takes to wake up and to look.
        if now > cpu + Duration::from_micros(500) {
            (at, cpu) = (Instant::now(), now);
        }
    }
    (at, cpu)
}

fn active(server: &Server) -> Vec<Value> {
    let list: Value = server.get("/api/v1/status/active_queries", &[]).json()["data"].take();
    list.as_array().cloned().unwrap_or_default()
}

/// Waits for a state of the list of active queries.
fn until(server: &Server, what: &str, holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let list = active(server);
        if holds(&list) {
            return list;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {list:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn id_of(query: &Value) -> u64 {
    query["id"].as_u64().expect("a number")
}

fn kill(server: &Server, id: u64) {
    let path = format!("/api/v1/status/active_queries/{id}");
    let r = server.client().request("DELETE", &path, &[], b"").expect("an answer");
    assert_eq!(r.status, 200, "{}", r.text());
}

/// A statement as a request that nobody reads the answer of yet.
fn send(server: &Server, statement: &str, more: &[(&str, &str)]) -> TcpStream {
    let mut all = vec![("query", statement)];
    all.extend(more);
    let body = crate::http::form(&all);
    let mut stream = TcpStream::connect(server.address()).expect("a connection");
    let head = format!(
        "POST /api/v1/sql HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream
}

fn one(server: &Server) -> Duration {
    let begun = Instant::now();
    let r = server.post("/api/v1/sql", &[("query", "SELECT 1")]);
    assert_eq!(r.status, 200, "{}", r.text());
    begun.elapsed()
}

/// How a statement is stopped.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Timeout,
    Leave,
    Kill,
}

/// A statement that was stopped.
struct Stopped {
    /// When it was to stop.
    at: Instant,
    /// Processor time of statements until then.
    cpu: Duration,
    /// When the caller was answered.
    answered: Instant,
    /// Time of an answer to others meanwhile.
    other: Duration,
}

/// Runs a statement and stops it.
fn stopped(server: &Server, statement: &str, how: Stop) -> Stopped {
    let named = |list: &[Value]| list.iter().any(|q| q["query"] == statement && q["state"] == "running");
    match how {
        Stop::Leave => {
            let stream = send(server, statement, &[]);
            until(server, statement, named);
            std::thread::sleep(RUN);
            let other = one(server);
            assert!(named(&active(server)), "it was done before it was stopped: {statement}");
            let cpu = sql_cpu(server);
            drop(stream);
            let now = Instant::now();
            Stopped { at: now, cpu, answered: now, other }
        }
        Stop::Timeout => std::thread::scope(|scope| {
            let begun = Instant::now();
            let asked = scope.spawn(|| {
                let timeout = format!("{}ms", RUN.as_millis());
                let r = server.post("/api/v1/sql", &[("query", statement), ("timeout", &timeout)]);
                (r, Instant::now())
            });
            until(server, statement, named);
            let other = one(server);
            std::thread::sleep((begun + RUN).saturating_duration_since(Instant::now()));
            let cpu = sql_cpu(server);
            let (r, answered) = asked.join().expect("an answer");
            assert!(r.status == 503 && r.text().contains("timed out"), "{statement}: {} {}", r.status, r.text());
            Stopped { at: begun + RUN, cpu, answered, other }
        }),
        Stop::Kill => std::thread::scope(|scope| {
            let asked = scope.spawn(|| (server.post("/api/v1/sql", &[("query", statement)]), Instant::now()));
            let list = until(server, statement, named);
            let mine = list.iter().find(|q| q["query"] == statement).map(id_of).expect("in the list");
            std::thread::sleep(RUN);
            let other = one(server);
            assert!(!asked.is_finished(), "it was done before it was stopped: {statement}");
            let cpu = sql_cpu(server);
            kill(server, mine);
            let at = Instant::now();
            let (r, answered) = asked.join().expect("an answer");
            assert!(r.status == 499 && r.text().contains("canceled"), "{statement}: {} {}", r.status, r.text());
            Stopped { at, cpu, answered, other }
        }),
    }
}

#[test]
fn a_stopped_statement_stops_in_the_middle_of_any_operator() {
    let server = server("query_timeout_ms=120000,sql_rows_max=1000000000");
    let shown = std::env::var("QUIVER_TEST_TIMES").is_ok();
    if shown {
        println!(
            "| operator | stopped by | answered ms | work ended ms | processor ms | SELECT 1 ms |\n|---|---|--:|--:|--:|--:|"
        );
    }
    let ways = [Stop::Timeout, Stop::Leave, Stop::Kill];
    let mut failures = Vec::new();
    for (k, (name, allowed, statement)) in table().into_iter().enumerate() {
        let how = ways[k % ways.len()];
        let Stopped { at, cpu, answered, other } = stopped(&server, &statement, how);
        let free = until(&server, "the permit is free", |list| list.iter().all(|q| q["query"] != *statement));
        assert!(free.iter().all(|q| q["query"] != *statement));
        let (still, cpu_still) = last_work(&server);
        let (ended, worked) = (still.saturating_duration_since(at), cpu_still.saturating_sub(cpu));
        let late = answered.saturating_duration_since(at);
        if shown {
            let ms = |d: Duration| d.as_secs_f64() * 1e3;
            println!(
                "| {name} | {how:?} | {:.0} | {:.0} | {:.0} | {:.0} |",
                ms(late),
                ms(ended),
                ms(worked),
                ms(other)
            );
        }
        if late > BATCHES * SLOW || worked > allowed * SLOW || other > BATCHES * SLOW {
            failures.push(format!(
                "{name}, {how:?}: answered {late:?}, ended {ended:?}, worked {worked:?}, SELECT 1 {other:?}"
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let taken = server.metric("quiver_query_memory_bytes");
    assert!(taken < f64::from(1 << 20), "all memory is given back: {taken}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn a_sort_that_writes_to_disk_stops() {
    let server = server("query_timeout_ms=120000,sql_rows_max=1000000000,query_memory_bytes_max=64MiB");
    let many = "metrics.m a, generate_series(1, 1000000) g";
    for (name, how, statement) in [
        ("sort", Stop::Kill, format!("SELECT v FROM (SELECT a.value * g.value v FROM {many}) s ORDER BY v")),
        (
            "rank",
            Stop::Timeout,
            format!("SELECT count(x) FROM (SELECT rank() OVER (ORDER BY a.value * g.value) x FROM {many}) s"),
        ),
    ] {
        let Stopped { at, cpu, answered, .. } = stopped(&server, &statement, how);
        until(&server, "the permit is free", |list| list.iter().all(|q| q["query"] != *statement));
        let (_, cpu_still) = last_work(&server);
        let (late, worked) = (answered.saturating_duration_since(at), cpu_still.saturating_sub(cpu));
        assert!(late <= BATCHES * SLOW && worked <= ONE_CALL * SLOW, "{name}: answered {late:?}, worked {worked:?}");
    }
}

const LONG: &str = "SELECT count(*) FROM metrics.m a JOIN metrics.m b ON a.value < b.value - 1e9";

#[test]
fn so_many_statements_run_so_many_wait_and_all_are_in_the_list() {
    let budget = 256 << 20;
    let server = server(&format!(
        "query_concurrency_max=20,query_queue_max=20,query_memory_total_bytes_max={budget},query_memory_bytes_max=32MiB"
    ));
    let by_state = |list: &[Value], state: &str| list.iter().filter(|q| q["state"] == state).count();
    std::thread::scope(|scope| {
        // They hold memory for the side of the join that is built.
        let all: Vec<_> = (0..40).map(|_| send(&server, LONG, &[])).collect();
        let list =
            until(&server, "20 run and 20 wait", |l| by_state(l, "running") == 20 && by_state(l, "waiting") == 20);
        assert!(list.iter().all(|q| q["query"] == LONG && q["kind"] == "sql"), "{list:?}");
        let refused = server.post("/api/v1/sql", &[("query", "SELECT 1")]);
        assert!(refused.status == 429 && refused.text().contains("query_queue_max"), "{}", refused.text());
        // A class of its own: PromQL waits for its turn and not behind all of them.
        let asked = scope.spawn(|| server.get("/api/v1/query", &[("query", "count(m)"), ("time", "1700000000")]));
        until(&server, "PromQL waits", |l| l.iter().any(|q| q["kind"] == "promql" && q["state"] == "waiting"));
        for _ in 0..20 {
            let taken = server.metric("quiver_query_memory_bytes");
            assert!(taken <= f64::from(budget), "{taken}");
        }
        let first = list.iter().find(|q| q["state"] == "running").map(id_of).expect("one runs");
        kill(&server, first);
        let second = list.iter().filter(|q| q["state"] == "running").map(id_of).nth(1).expect("two run");
        kill(&server, second);
        let r = asked.join().expect("an answer");
        assert_eq!(r.json()["data"]["result"][0]["value"][1], "300", "{}", r.text());
        let later = until(&server, "others take their places", |l| by_state(l, "running") == 20);
        assert!(later.iter().all(|q| ![first, second].contains(&id_of(q))), "{later:?}");
        drop(all);
        until(&server, "all who left are gone", <[Value]>::is_empty);
    });
    server.wait_until("all memory is given back", |s| s.metric("quiver_query_memory_bytes") < f64::from(1 << 20));
}

#[test]
fn a_client_that_reads_slowly_keeps_a_permit_until_its_time_is_up() {
    let server = server("query_concurrency_max=1,query_timeout_ms=120000");
    for format in ["csv", "jsonl", "arrow"] {
        let many = "SELECT a.*, g.value FROM metrics.m a, generate_series(1, 1000) g";
        let begun = Instant::now();
        let stream = send(&server, many, &[("format", format), ("timeout", "2s")]);
        until(&server, "it runs", |l| l.iter().any(|q| q["state"] == "running"));
        until(&server, "its permit is free", <[Value]>::is_empty);
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(10), "{format}: {took:?}");
        one(&server);
        drop(stream);
    }
}

#[test]
fn promql_in_a_statement_runs_under_the_permit_of_the_statement() {
    let server = server("query_concurrency_max=1,query_timeout_ms=120000");
    let call = |k: u32| format!("(SELECT max(value) FROM promql_instant('count(m) + {k}', 1700000000))");
    let r = server.post("/api/v1/sql", &[("query", &format!("SELECT {} + {}", call(0), call(1)))]);
    assert_eq!(r.json()["data"]["rows"][0][0], 601.0, "{}", r.text());
    // So do other table functions that differ in their arguments only.
    let call = |n: u32| format!("(SELECT max(value) FROM generate_series(1, {n}) a)");
    let r = server.post("/api/v1/sql", &[("query", &format!("SELECT {} + {}", call(3), call(5)))]);
    assert_eq!(r.json()["data"]["rows"][0][0].to_string().trim_matches('"'), "8", "{}", r.text());
    // It is stopped with the statement, and it is the statement that is in the list.
    let part = |k: u32| format!("quantile_over_time(0.5, (m @ 1700000000)[1h:1s] offset {k}s)");
    let long = (1..=60).map(part).collect::<Vec<_>>().join(" or on (nothing) ");
    let statement = format!("SELECT count(*) FROM promql_instant('{long}', 1700000000)");
    let (stop, answered, _) = std::thread::scope(|scope| {
        let asked = scope.spawn(|| (server.post("/api/v1/sql", &[("query", &statement)]), Instant::now()));
        let list = until(&server, "it runs", |l| l.iter().any(|q| q["state"] == "running"));
        assert_eq!(list.len(), 1, "{list:?}");
        kill(&server, id_of(&list[0]));
        let stop = Instant::now();
        let (r, answered) = asked.join().expect("an answer");
        assert!(r.text().contains("canceled"), "{}", r.text());
        (stop, answered, ())
    });
    assert!(answered.saturating_duration_since(stop) < BATCHES * SLOW);
    until(&server, "its permit is free", <[Value]>::is_empty);
    one(&server);
}

#[test]
fn joins_that_are_made_to_look_find_what_they_found() {
    let server = server("query_timeout_ms=120000");
    let few = "(SELECT * FROM metrics.m WHERE i IN ('1', '2', '3') AND value < 10)";
    let nulls = "(SELECT CASE WHEN i = '3' THEN NULL ELSE i END k FROM metrics.m)";
    for (condition, rows) in [
        ("i IN (SELECT i FROM metrics.m WHERE i <> '1')", 49 + 56),
        ("i NOT IN (SELECT i FROM metrics.m WHERE i <> '1')", 63),
        ("i NOT IN (SELECT k FROM NULLS)", 0),
        ("i NOT IN (SELECT k FROM NULLS WHERE k IS NOT NULL)", 49),
        ("i NOT IN (SELECT k FROM NULLS WHERE k = 'none')", 63 + 56 + 49),
        ("EXISTS (SELECT 1 FROM metrics.m b WHERE b.i = f.i AND b.i <> '2')", 63 + 49),
        ("NOT EXISTS (SELECT 1 FROM metrics.m b WHERE b.i = f.i AND b.i <> '2')", 56),
        ("EXISTS (SELECT 1 FROM metrics.m b WHERE b.value > f.value + 330)", 63 + 56 + 49),
        ("NOT EXISTS (SELECT 1 FROM metrics.m b WHERE b.value > f.value + 1000)", 63 + 56 + 49),
        ("i = '1' OR EXISTS (SELECT 1 FROM metrics.m b WHERE b.i = f.i AND b.i = '2')", 63 + 56),
    ] {
        let condition = condition.replace("NULLS", nulls);
        let r = server.post("/api/v1/sql", &[("query", &format!("SELECT count(*) FROM {few} f WHERE {condition}"))]);
        assert_eq!(r.json()["data"]["rows"][0][0], rows, "{condition}: {}", r.text());
    }
}

#[test]
fn what_a_statement_makes_counts_for_its_memory() {
    let server = server("query_memory_bytes_max=64MiB,query_timeout_ms=120000");
    let memory = |s: &Server| {
        let text = std::fs::read_to_string(format!("/proc/{}/status", s.id())).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default().to_owned();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap_or(0) / 1024
    };
    let before = memory(&server);
    for statement in [
        "SELECT count(x) FROM (SELECT array_agg(value) OVER (ORDER BY ts) x FROM metrics.m)",
        "SELECT count(x) FROM (SELECT string_agg(job, ',') OVER (ORDER BY ts) x FROM metrics.m)",
        // Rows that wait to be written as JSON.
        "SELECT a.ts, a.value, a.i, a.job FROM metrics.m a, generate_series(1, 20) g",
    ] {
        let r = server.post("/api/v1/sql", &[("query", statement)]);
        let text: String = r.text().chars().take(300).collect();
        assert!(r.status == 422 && text.contains("memory"), "{statement}: {} {text}", r.status);
    }
    for statement in ["SELECT array_length(generate_series(1, 1000000000))", "SELECT array_resize([1], 1000000000)"] {
        let r = server.post("/api/v1/sql", &[("query", statement)]);
        assert_eq!(r.status, 400, "{statement}: {}", r.text());
    }
    let grown = memory(&server) - before;
    assert!(grown < 256, "memory grew by {grown} MiB");
    one(&server);
}
