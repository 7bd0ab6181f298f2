//! Who may ask how much at a time: memory of a query and of all, how many run, how many wait.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::remote_write::{Series, write};
use crate::server::{Server, Start};

const T: i64 = 1_700_000_000_000;
const AT: &str = "1700000000";

/// 400 series of a minute.
fn server(limits: &str) -> Server {
    let server = Start::new().with(&["--limit", limits]).ready();
    let series: Vec<Series> = (0..400)
        .map(|i| {
            let values: Vec<f64> = (0..60).map(|s| f64::from(i) + f64::from(s) / 7.0).collect();
            Series::new("known", &[("i", &i.to_string())]).floats(T - 59_000, 1000, &values)
        })
        .collect();
    write(&mut server.client(), &series);
    server
}

fn short(r: &crate::http::Response) -> String {
    r.text().chars().take(300).collect()
}

/// Rows of 400 series and 10,000 steps that must be held at once: 32 MB.
fn wide(server: &Server) -> crate::http::Response {
    let start = (T / 1000 - 9_999).to_string();
    let range =
        [("query", "quantile(0.5, known @ 1700000000 + time())"), ("start", &start), ("end", AT), ("step", "1")];
    server.post("/api/v1/query_range", &range)
}

#[test]
fn a_query_has_so_much_memory_and_all_together() {
    let own = server("query_memory_bytes_max=8MiB");
    let r = wide(&own);
    assert!(r.status == 422 && r.text().contains("query would use more than its 8388608 bytes"), "{}", short(&r));
    let r = own.get("/api/v1/query", &[("query", "count(known)"), ("time", AT)]);
    assert_eq!(r.json()["data"]["result"][0]["value"][1], "400", "others go on");

    let all = server("query_memory_bytes_max=1GiB,query_memory_total_bytes_max=8MiB");
    let r = wide(&all);
    assert!(r.status == 422 && r.text().contains("memory"), "{} {}", r.status, short(&r));
    let r = all.get("/api/v1/query", &[("query", "count(known)"), ("time", AT)]);
    assert_eq!(r.json()["data"]["result"][0]["value"][1], "400", "what was reserved is given back");

    let enough = server("query_memory_bytes_max=1GiB");
    assert_eq!(wide(&enough).status, 200);
}

fn running(server: &Server) -> Vec<Value> {
    let list: Value = server.get("/api/v1/status/active_queries", &[]).json()["data"].take();
    list.as_array().cloned().unwrap_or_default()
}

/// Waits until so many queries are known, running or waiting, and gives the number of the first.
fn until(server: &Server, n: usize) -> u64 {
    let begun = Instant::now();
    loop {
        let list = running(server);
        if list.len() >= n
            && let Some(id) = list.iter().filter_map(|q| q["id"].as_u64()).min()
        {
            return id;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{list:?}");
        std::thread::yield_now();
    }
}

#[test]
fn so_many_run_so_many_wait_and_the_next_is_sent_away() {
    let server = server("query_concurrency_max=1,query_queue_max=1,query_timeout_ms=120000");
    let part = "quantile_over_time(0.5, (known @ 1700000000)[1h:1s]";
    let long = (1..=60).map(|k| format!("{part} offset {k}s)")).collect::<Vec<_>>().join(" or on (nothing) ");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.post("/api/v1/query", &[("query", &long), ("time", AT)]));
        let id = until(&server, 1);
        let second = scope.spawn(|| server.get("/api/v1/query", &[("query", "count(known)"), ("time", AT)]));
        until(&server, 2);
        let third = server.get("/api/v1/query", &[("query", "1"), ("time", AT)]);
        assert_eq!(third.status, 429, "{}", third.text());
        assert_eq!(third.json()["errorType"], "too_many_requests", "{}", third.text());
        assert!(!third.header("retry-after").is_empty(), "says when to come again");
        assert!(!second.is_finished(), "the second waits for the first");
        let r = server.client().request("DELETE", &format!("/api/v1/status/active_queries/{id}"), &[], b"");
        assert!(r.is_ok_and(|r| [200, 204].contains(&r.status)));
        assert!(first.join().expect("an answer").text().contains("query was canceled"));
        let second = second.join().expect("an answer");
        assert_eq!(second.json()["data"]["result"][0]["value"][1], "400", "its turn comes");
    });
}
