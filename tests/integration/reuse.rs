//! Answers of range queries that are kept: a window that moves costs its new steps, and nobody sees an old answer.

use serde_json::Value;

use crate::remote_write::{Series, write};
use crate::server::{Server, Start};

const T: i64 = 1_700_000_000;

fn filled() -> Server {
    let server = Start::new().ready();
    let series: Vec<Series> = (0..800)
        .map(|i| {
            let values: Vec<f64> = (0..120).map(|s| f64::from(i) + f64::from(s * s)).collect();
            Series::new("work_total", &[("i", &i.to_string())]).floats((T - 1800) * 1000, 15_000, &values)
        })
        .collect();
    write(&mut server.client(), &series);
    server
}

/// A half hour up to `T + end`, in steps of 15 s.
fn ask(server: &Server, end: i64, nocache: bool) -> Value {
    let (start, end) = ((T - 1800 + end).to_string(), (T + end).to_string());
    let query = "sum(rate(work_total[2m])) + count(work_total)";
    let mut p = vec![("query", query), ("start", &*start), ("end", &*end), ("step", "15")];
    if nocache {
        p.push(("nocache", "1"));
    }
    let r = server.get("/api/v1/query_range", &p);
    assert_eq!(r.status, 200, "{}", r.text());
    r.json()["data"].take()
}

fn metric(server: &Server, name: &str) -> u64 {
    let text = server.get("/metrics", &[]).text();
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|v| v.parse::<f64>().ok()).unwrap_or(-1.0) as u64
}

#[test]
fn a_window_that_moves_costs_its_new_steps_and_is_never_stale() {
    let server = filled();
    let same = |end: i64| assert_eq!(ask(&server, end, false), ask(&server, end, true), "{end}");
    same(0);
    same(15);
    same(60);
    let (hits, reused) = ("quiver_result_cache_hits_total", "quiver_result_cache_steps_reused_total");
    assert_eq!(metric(&server, hits), 2, "the second and the third were known in part");
    let known = metric(&server, reused);
    // Of the second 120 were known: one of them is evaluated, too, for a step by itself is evaluated unlike a grid.
    assert_eq!(known, 119 + 118);

    // A late sample of one series, a new series in the middle, a deletion, a flush in between: each is seen at once.
    let mut client = server.client();
    write(&mut client, &[Series::new("work_total", &[("i", "7")]).float((T - 901) * 1000, 1e6)]);
    same(60);
    write(&mut client, &[Series::new("work_total", &[("i", "new")]).floats((T - 600) * 1000, 15_000, &[1.0, 2.0])]);
    same(60);
    assert_eq!(server.post("/api/v1/admin/tsdb/flush", &[]).status / 100, 2);
    same(60);
    let delete = "/api/v1/admin/tsdb/delete_series?match[]=work_total%7Bi%3D%227%22%7D&start=1699999000&end=1699999300";
    assert_eq!(client.request("POST", delete, &[], b"").map(|r| r.status / 100).ok(), Some(2));
    same(60);
    assert!(metric(&server, reused) > known + 120 * 2, "and most steps were known all the time");
}
