//! Test 18: SIGTERM under load, in a flush, in a merge, twice.

use std::time::{Duration, Instant};

use quiver_persistence::testing::{Row, sized};

use crate::load::{Load, Random};
use crate::server::{Server, Start};

/// From the signal to the end.
const DRAIN_MAX: Duration = Duration::from_secs(10);

fn is_running(server: &Server, task: &str) -> bool {
    let tasks = server.get("/api/v1/status/tasks", &[]).json()["data"]["tasks"].take();
    let list = tasks.as_array().cloned().unwrap_or_default();
    list.iter().any(|t| t["task"] == task && t["state"] == "running")
}

/// Asks for the end and waits for it; how long it took.
fn stop(server: &mut Server) -> Duration {
    let begun = Instant::now();
    server.signal("TERM");
    let status = server.ended_within(DRAIN_MAX + Duration::from_secs(1)).unwrap_or_else(|| panic!("{}", server.log()));
    assert_eq!(status.code(), Some(0), "{}", server.log());
    begun.elapsed()
}

#[test]
fn a_signal_ends_it_in_order() {
    let row = Row::begin("18", "SIGTERM under load, in flush and merge");
    let mut random = Random::seeded("stop");
    let mut load = Load::new();
    let mut server = Start::new().with_faults().ready();
    let rounds = sized(6, 200);
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let took = load.run(&mut server, &mut random, |server| {
            std::thread::sleep(Duration::from_millis(100));
            let task = match round % 3 {
                0 => None,
                1 => Some(("flush", "flush")),
                _ => Some(("compact", "compact_all")),
            };
            let asked = task.map(|(verb, name)| {
                // Slow enough to be seen at work.
                server.faults("write@blocks=slow:100;sync@blocks=slow:100");
                let mut client = server.client();
                let path = format!("/api/v1/admin/tsdb/{verb}");
                let asked = std::thread::spawn(move || client.post(&path, &[]).map(drop));
                server.wait_until("a task at work", |s| is_running(s, name) || is_running(s, "flush"));
                asked
            });
            let took = stop(server);
            if let Some(asked) = asked {
                let _ = asked.join();
            }
            took
        });
        longest = longest.max(took);
        server.faults("");
        server.restart();
        load.judge(&server, &mut random);
        load.settle(&server);
        load.compare(&server);
    }
    assert!(longest <= DRAIN_MAX, "{longest:?}");
    let n = load.compare(&server);
    row.passed(format_args!("{rounds} signals, at most {} ms", longest.as_millis()), n as u64);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let row = Row::begin("18", "SIGTERM twice");
    let mut random = Random::seeded("stop twice");
    let mut load = Load::new();
    let mut server = Start::new().with_faults().ready();
    let rounds = sized(2, 50);
    let mut longest = Duration::ZERO;
    for _ in 0..rounds {
        let took = load.run(&mut server, &mut random, |server| {
            std::thread::sleep(Duration::from_millis(100));
            // The drain hangs on the disk.
            server.faults("sync@log/=slow:8000");
            std::thread::sleep(Duration::from_millis(30));
            server.signal("TERM");
            server.wait_until("it stops", |s| s.log().contains("stopping; waiting for running requests"));
            assert!(server.ended_within(Duration::from_millis(100)).is_none(), "it waits for what is under way");
            let begun = Instant::now();
            server.signal("TERM");
            let status = server.ended_within(Duration::from_secs(5)).expect("a second signal ends it");
            assert_eq!(status.code(), Some(130));
            begun.elapsed()
        });
        longest = longest.max(took);
        std::fs::write(server.data.with_extension("log"), "").expect("an empty log");
        server.faults("");
        server.restart();
        load.judge(&server, &mut random);
        load.settle(&server);
        load.compare(&server);
    }
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    let n = load.compare(&server);
    row.passed(format_args!("{rounds} rounds, at most {} ms", longest.as_millis()), n as u64);
}
