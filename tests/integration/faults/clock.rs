//! Test 16: the clock of a running server steps, by a leap second, an hour, ten years, and is wrong when it starts.

use std::time::{SystemTime, UNIX_EPOCH};

use quiver_persistence::testing::{Row, sized};

use crate::load::{Load, Random};
use crate::remote_write::{Series, V1, body_v1, post, write};
use crate::server::{Server, Start};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const TEN_YEARS: i64 = 3652 * DAY;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// How often the retention has said that it does not believe the clock.
fn disbelieved(server: &Server) -> usize {
    server.log().matches("the clock jumped ahead").count()
}

fn dropped(server: &Server) -> f64 {
    server.metric("quiver_blocks_dropped_total")
}

/// Waits until something more has been acknowledged and flushes it.
fn write_on(server: &Server) {
    let read = |s: &Server| s.metric("quiver_samples_ingested_total");
    let before = read(server);
    server.wait_until("writes go on", |s| read(s) > before + 200.0);
    server.admin("flush");
}

/// With a clock that is right the retention works: what is past it goes.
fn judge_retention(server: &Server) {
    write(&mut server.client(), &[Series::new("new", &[]).float(now_ms(), 1.0)]);
    server.admin("flush");
    let before = dropped(server);
    write(&mut server.client(), &[Series::new("old", &[]).float(now_ms() - 40 * DAY, 1.0)]);
    server.admin("flush");
    server.wait_until("what is past the retention is dropped", |s| dropped(s) > before);
    assert_eq!(server.sql("SELECT count(*) FROM samples WHERE metric = 'old'")[0][0], 0);
}

#[test]
fn a_clock_that_steps_loses_nothing() {
    let row = Row::begin("16", "clock of the server steps, is wrong at the start");
    let mut random = Random::seeded("clock");
    let mut load = Load::new();
    let mut server = Start::new().with(&["--retention", "10d"]).with_faults().ready();
    let rounds = sized(1, 20);
    let mut steps = 0;
    for _ in 0..rounds {
        judge_retention(&server);
        let kept = dropped(&server);
        load.run(&mut server, &mut random, |server| {
            for ahead in [1_000, -1_000, HOUR, -HOUR, 0] {
                server.set_clock(ahead);
                write_on(server);
                steps += 1;
            }
            // Ten years ahead, and a writer that believes it: by its sample all others are past the retention.
            let before = disbelieved(server);
            server.set_clock(TEN_YEARS);
            write(&mut server.client(), &[Series::new("wrong", &[]).float(now_ms() + TEN_YEARS, 1.0)]);
            server.wait_until("the retention looks at the clock", |s| disbelieved(s) > before);
            write_on(server);
            steps += 1;
        });
        assert_eq!(dropped(&server), kept, "a wrong clock drops nothing");
        // It starts with the wrong clock: from its blocks it knows that no ten years have passed.
        let before = disbelieved(&server);
        server.kill();
        server.restart();
        load.judge(&server, &mut random);
        server.wait_until("the retention looks at the clock", |s| disbelieved(s) > before);
        load.run(&mut server, &mut random, |server| write_on(server));
        load.compare(&server);
        steps += 1;
        // Ten years behind all samples are from the future: they are read, new ones are refused.
        for is_killed in [false, true] {
            server.set_clock(-TEN_YEARS);
            if is_killed {
                server.kill();
                server.restart();
            }
            let body = body_v1(&[Series::new("late", &[]).float(now_ms(), 1.0)]);
            let r = post(&mut server.client(), V1, &body).expect("an answer");
            assert!(r.status == 400 && r.text().contains("too far in the future"), "{} {}", r.status, r.text());
            server.admin("flush");
            load.compare(&server);
            steps += 1;
        }
        assert_eq!(dropped(&server), 0.0, "nor one that is behind");
        // Put right again. What the wrong clock has written can be deleted, and the retention works on.
        server.set_clock(0);
        server.kill();
        server.restart();
        let r = server.post("/api/v1/admin/tsdb/delete_series", &[("match[]", "wrong")]);
        assert_eq!(r.status, 204, "{}", r.text());
        server.admin("clean_tombstones");
        load.settle(&server);
    }
    judge_retention(&server);
    let n = load.compare(&server);
    assert!(!server.log().contains("panicked"), "{}", server.log());
    row.passed(format_args!("{steps} steps"), n as u64);
}
