//! How long a start takes: with a log of many samples, with many blocks.
//!
//! The sizes of a release (10 M samples in 100 k series, 30 days of blocks) and its bounds hold for optimised builds; at every push
//! both are small.

use std::time::{Duration, Instant};

use quiver_core::{Ingest, Maintain, Store, StoreOptions};
use quiver_model::WriteBatch;
use quiver_persistence::testing::{Row, is_nightly, sized};

use crate::remote_write::{Series, V2, body_v2, post};
use crate::server::{Server, Start};

const T: i64 = 1_700_000_000_000;

/// A line of a process's status, KiB.
fn status_kib(server: &Server, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("its status");
    let line = text.lines().find(|l| l.starts_with(name)).expect("a line");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

/// Are figures of time to be judged?
fn is_measured() -> bool {
    is_nightly() && (!cfg!(debug_assertions) || std::env::var("QUIVER_TEST_BINARY").is_ok())
}

#[test]
fn a_long_log_is_replayed_quickly() {
    let row = Row::begin("replay", "start with a log of many samples");
    let series = sized(2_000, 100_000) as i64;
    let scrapes = 100i64;
    let mut server = Start::new().with(&["--head-bytes", "8GiB"]).ready();
    let address = server.address();
    // Two senders, each with a half of the series, 500 to a request.
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                let mut client = crate::http::Client::new(address);
                for n in 0..scrapes {
                    for from in (half * series / 2..(half + 1) * series / 2).step_by(500) {
                        let list: Vec<Series> = (from..from + 500)
                            .map(|i| {
                                let (metric, instance) =
                                    (format!("replay_{}", i % 100), format!("host-{:05}:9100", i / 100));
                                let labels = [("instance", instance.as_str()), ("job", "node"), ("dc", "east-1")];
                                Series::new(&metric, &labels).float(T + n * 15_000, (n * (i % 17)) as f64)
                            })
                            .collect();
                        let r = post(&mut client, V2, &body_v2(&list)).expect("an answer");
                        assert_eq!(r.status, 204, "{}", r.text());
                    }
                }
            });
        }
    });
    let samples = (series * scrapes) as u64;
    let steady = status_kib(&server, "VmRSS:");
    server.kill();
    let begun = Instant::now();
    server.restart();
    let took = begun.elapsed();
    let peak = status_kib(&server, "VmHWM:");
    assert_eq!(server.sql("SELECT count(*) FROM samples")[0][0].as_u64(), Some(samples));
    println!("replay: {samples} samples, {series} series: {took:.2?}, peak {} of {} MiB", peak / 1024, steady / 1024);
    if is_measured() {
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert!(peak * 2 < steady * 3, "{peak} KiB at the start, {steady} KiB before");
    }
    let size =
        format!("{samples} in {series}, {} ms, peak/steady {:.2}", took.as_millis(), peak as f64 / steady as f64);
    row.passed(size, samples);
}

#[test]
fn a_month_of_blocks_is_ready_at_once() {
    let row = Row::begin("blocks", "start with 30 days of blocks");
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let (blocks, series, per) = (sized(60, 360) as i64, sized(50, 6_000) as i64, sized(4, 8) as i64);
    {
        let options = StoreOptions { background: false, ..StoreOptions::default() };
        let store = Store::open_dir(&data, options).expect("a store");
        store.wait_until_ready();
        let run = |f| tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(f);
        for b in 0..blocks {
            // Two hours each.
            for from in (0..series).step_by(1_000) {
                let mut batch = WriteBatch::default();
                for i in from..(from + 1_000).min(series) {
                    let (metric, host) = (format!("month_{}", i % 300), format!("host-{}", i / 300));
                    batch.begin_series([("__name__", metric.as_str()), ("instance", host.as_str())]);
                    for n in 0..per {
                        batch.push_float(T + b * 7_200_000 + n * (7_200_000 / per), (n * (i % 13)) as f64, 0);
                    }
                }
                run(store.write(batch)).map(drop).expect("written");
            }
            tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("a runtime")
                .block_on(store.flush())
                .expect("flushed");
        }
        store.close();
    }
    // The first start, as after a boot, merges nothing yet: it has to be ready before.
    let begun = Instant::now();
    let server = Start::new().on(&data).ready();
    let took = begun.elapsed();
    let at = format!("{}", (T + blocks * 7_200_000) / 1000);
    let counted = server.query("count(last_over_time({__name__=~\"month_.*\"}[3h]))", &at);
    assert_eq!(counted[0]["value"][1].as_str(), Some(series.to_string().as_str()));
    let samples = (blocks * series * per) as u64;
    println!("blocks: {blocks} blocks, {samples} samples: ready after {took:.2?}");
    if is_measured() {
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    row.passed(format_args!("{blocks} blocks, {samples} samples, {} ms", took.as_millis()), samples);
}
