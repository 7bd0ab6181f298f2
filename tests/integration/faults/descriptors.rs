//! Test 13: no descriptors are left. Requests fail, the process lives, and descriptors come back.

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use quiver_persistence::testing::{Row, sized};

use crate::http::Client;
use crate::remote_write::{Series, V2, body_v2, post};
use crate::server::{Server, Start};

fn open_descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.id())).expect("its descriptors").count()
}

fn batch(n: i64) -> Vec<u8> {
    let series = |i: i64| Series::new("fd", &[("i", &i.to_string())]).float(1_700_000_000_000 + n, n as f64);
    body_v2(&(0..10).map(series).collect::<Vec<_>>())
}

#[test]
fn without_descriptors_requests_fail_and_the_process_lives() {
    let row = Row::begin("13", "no descriptors left (prlimit --nofile)");
    if !Command::new("prlimit").arg("--version").output().is_ok_and(|o| o.status.success()) {
        println!("left out: a process without descriptors (no prlimit here)");
        return;
    }
    let mut server = Start::new().ready();
    let mut client = server.client();
    let mut acked = 0i64;
    let write = |client: &mut Client, n: &mut i64| match post(client, V2, &batch(*n)) {
        Ok(r) if r.status == 204 => *n += 1,
        Ok(r) => assert!([429, 500, 503].contains(&r.status), "{}: {}", r.status, r.text()),
        Err(_) => {}
    };
    write(&mut client, &mut acked);
    assert_eq!(acked, 1);
    let rounds = sized(3, 100);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.id())).expect("its limits");
    let line = limits.lines().find(|l| l.starts_with("Max open files")).expect("a line");
    let soft = line.split_whitespace().nth(3).expect("a number").to_owned();
    let quiet = open_descriptors(&server);
    for round in 0..rounds {
        let limit = open_descriptors(&server) + 6;
        let pid = server.id().to_string();
        let set = |n: &str| Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={n}:")]).status();
        assert!(set(&limit.to_string()).is_ok_and(|s| s.success()), "prlimit");
        // Connections with half a request take what is left: silent ones would be closed to make room.
        let half = |_| {
            let mut stream = std::net::TcpStream::connect(server.address()).ok()?;
            stream.write_all(b"GET /").ok().map(|()| stream)
        };
        let idle: Vec<_> = (0..20).filter_map(half).collect();
        server_is_out(&server, limit);
        // On a connection from before: writes, reads, and what has to open files.
        for _ in 0..5 {
            write(&mut client, &mut acked);
        }
        for verb in ["flush", "compact"] {
            let r = client.post(&format!("/api/v1/admin/tsdb/{verb}"), &[]).expect("an answer");
            assert!([204, 500, 503].contains(&r.status), "{verb}: {} {}", r.status, r.text());
        }
        let r = client.post("/api/v1/query", &[("query", "count(fd)"), ("time", "1700000000")]).expect("an answer");
        assert_eq!(r.status, 200, "{}", r.text());
        assert!(server.is_alive(), "round {round}");
        drop(idle);
        assert!(set(&soft).is_ok_and(|s| s.success()), "prlimit");
        server.wait_until("descriptors come back", |s| open_descriptors(s) <= quiet + 12);
        server.admin("flush");
        for _ in 0..3 {
            write(&mut client, &mut acked);
        }
    }
    let count = |server: &Server| {
        server.sql("SELECT count(*) FROM samples WHERE metric = 'fd'")[0][0].as_i64().expect("a number")
    };
    // A batch without an answer may be there: it is sent again under the same number, so there is one of each.
    assert!((acked * 10..=acked * 10 + 10).contains(&count(&server)), "{acked} batches, {} samples", count(&server));
    server.kill();
    server.restart();
    assert!((acked * 10..=acked * 10 + 10).contains(&count(&server)));
    row.passed(format_args!("{rounds} rounds"), acked as u64 * 10);
}

/// Clients that say nothing give way when no descriptor is left: the port is not theirs.
#[test]
fn silent_clients_do_not_keep_others_out() {
    let server = Start::new().ready();
    let limit = open_descriptors(&server) + 6;
    let set = Command::new("prlimit").args(["--pid", &server.id().to_string(), &format!("--nofile={limit}:")]).status();
    assert!(set.is_ok_and(|s| s.success()), "prlimit");
    let silent: Vec<_> = (0..40).filter_map(|_| std::net::TcpStream::connect(server.address()).ok()).collect();
    assert_eq!(silent.len(), 40);
    server
        .wait_until("another client is answered", |s| s.client().get("/-/healthy", &[]).is_ok_and(|r| r.status == 200));
    assert!(server.metric("quiver_connections_closed_total{cause=\"places\"}") >= 1.0);
}

/// Waits until the server has used up its descriptors.
fn server_is_out(server: &Server, limit: usize) {
    let begun = Instant::now();
    while open_descriptors(server) < limit {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} of {limit} descriptors", open_descriptors(server));
        std::thread::sleep(Duration::from_millis(2));
    }
}
