//! Test 12: a disk whose syncs take a second. The queue stays bounded, clients are told to come back, reads are as quick as ever.

use std::time::{Duration, Instant};

use quiver_persistence::testing::{Row, sized};

use crate::load::{Load, Random};
use crate::remote_write::{Series, V2, body_v2, post};
use crate::server::{Server, Start};

/// What of a process is in memory, KiB.
fn resident_kib(server: &Server) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("its status");
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

/// The slowest but one of some reads.
fn slow_read(server: &Server) -> Duration {
    let mut client = server.client();
    let mut all: Vec<Duration> = (0..50)
        .map(|_| {
            let begun = Instant::now();
            let r = client.post("/api/v1/query", &[("query", "count(survival_float)")]).expect("an answer");
            assert_eq!(r.status, 200, "{}", r.text());
            begun.elapsed()
        })
        .collect();
    all.sort();
    all[all.len() - 2]
}

#[test]
fn a_slow_disk_makes_writers_wait_and_nobody_else() {
    let row = Row::begin("12", "fdatasync takes 0.2 to 5 s");
    let mut random = Random::seeded("slow");
    let mut load = Load::new();
    let mut server = Start::new().with_faults().with(&["--limit", "write_queue_max=4"]).ready();
    load.run(&mut server, &mut random, |_| std::thread::sleep(Duration::from_millis(300)));
    let quiet = slow_read(&server);
    let before = resident_kib(&server);
    let mut crowd_refused = 0u64;
    let times = if quiver_persistence::testing::is_nightly() { vec![200, 1_000, 5_000] } else { vec![200, 1_000] };
    for ms in times {
        server.faults(&format!("sync@log/=slow:{ms}"));
        crowd_refused += load.run(&mut server, &mut random, |server| {
            // Many more clients than the queue takes: they are told to come back, at once.
            let address = server.address();
            let crowd: Vec<_> = (0..24)
                .map(|c| {
                    std::thread::spawn(move || {
                        let mut client = crate::http::Client::new(address);
                        let mut refused = 0u64;
                        for n in 0..sized(6, 20) as i64 {
                            let s = Series::new("crowd", &[("c", &c.to_string())]).float(1_700_000_000_000 + n, 1.0);
                            let begun = Instant::now();
                            let r = post(&mut client, V2, &body_v2(&[s])).expect("an answer");
                            if r.status == 503 {
                                assert_eq!(r.header("retry-after"), "1");
                                refused += 1;
                                assert!(
                                    begun.elapsed() < Duration::from_secs(5),
                                    "a refusal took {:?}",
                                    begun.elapsed()
                                );
                            } else {
                                assert_eq!(r.status, 204, "{}", r.text());
                            }
                        }
                        refused
                    })
                })
                .collect();
            let slow = slow_read(server);
            let most = quiet * 3 + Duration::from_millis(500);
            assert!(slow < most, "reads take {slow:?} beside a slow disk, {quiet:?} without");
            crowd.into_iter().map(|t| t.join().expect("no panic")).sum::<u64>()
        });
        server.faults("");
    }
    assert!(crowd_refused > 0, "the queue has a bound");
    let grown = resident_kib(&server).saturating_sub(before) / 1024;
    assert!(grown < 300, "{grown} MiB more");
    // It goes on as if nothing had been.
    load.run(&mut server, &mut random, |_| std::thread::sleep(Duration::from_millis(200)));
    load.settle(&server);
    let n = load.compare(&server);
    server.kill();
    server.restart();
    load.compare(&server);
    row.passed(format_args!("{crowd_refused} told to come back"), n as u64);
}
