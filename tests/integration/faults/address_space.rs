//! Test 13: hardly any address space is left, so the system starts no thread and maps no large file (EAGAIN, ENOMEM). Requests
//! wait for a thread that there is or fail, the process lives, and goes on when there is room.

use std::process::Command;

use quiver_persistence::testing::{Row, sized};

use crate::http::Client;
use crate::remote_write::{Series, V2, body_v2, post};
use crate::server::{Server, Start};

fn batch(n: i64) -> Vec<u8> {
    let series = |i: i64| Series::new("room", &[("i", &i.to_string())]).float(1_700_000_000_000 + n, n as f64);
    body_v2(&(0..10).map(series).collect::<Vec<_>>())
}

/// What is left: more than small things need, which nobody lives without, and less than the stack of a thread for queries.
const LEFT_BYTES: u64 = 12 << 20;

/// Bytes of address space in use.
fn in_use(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("its status");
    let line = status.lines().find(|l| l.starts_with("VmSize:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

#[test]
fn without_address_space_requests_fail_and_the_process_lives() {
    let row = Row::begin("13", "no address space left (prlimit --as)");
    if !Command::new("prlimit").arg("--version").output().is_ok_and(|o| o.status.success()) {
        println!("left out: a process without address space (no prlimit here)");
        return;
    }
    let rounds = sized(3, 100);
    let mut server = Start::new().ready();
    let mut acked = 0i64;
    let write = |client: &mut Client, n: &mut i64| match post(client, V2, &batch(*n)) {
        Ok(r) if r.status == 204 => *n += 1,
        Ok(r) => assert!([429, 500, 503].contains(&r.status), "{}: {}", r.status, r.text()),
        Err(_) => {}
    };
    let mut answered = 0;
    for round in 0..rounds {
        // Every round has a server without threads for queries: they start at the first.
        let mut client = server.client();
        write(&mut client, &mut acked);
        let pid = server.id().to_string();
        let set = |n: &str| Command::new("prlimit").args(["--pid", &pid, &format!("--as={n}:")]).status();
        assert!(set(&(in_use(&server) + LEFT_BYTES).to_string()).is_ok_and(|s| s.success()), "prlimit");
        for _ in 0..5 {
            write(&mut client, &mut acked);
        }
        for verb in ["flush", "compact"] {
            let r = client.post(&format!("/api/v1/admin/tsdb/{verb}"), &[]).expect("an answer");
            assert!([204, 500, 503].contains(&r.status), "{verb}: {} {}", r.status, r.text());
        }
        let range = [("query", "sum(rate(room[1m]))"), ("start", "1700000000"), ("end", "1700000600"), ("step", "1")];
        for (path, parameters) in [
            ("/api/v1/query", &[("query", "count(room)"), ("time", "1700000000")][..]),
            ("/api/v1/query_range", &range[..]),
            ("/api/v1/sql", &[("query", "SELECT count(*) FROM samples")][..]),
        ] {
            let r = client.post(path, parameters).expect("an answer");
            assert!([200, 503].contains(&r.status), "{path}: {} {}", r.status, r.text());
            answered += u64::from(r.status == 200);
        }
        assert!(server.is_alive(), "round {round}");
        assert!(set("unlimited").is_ok_and(|s| s.success()), "prlimit");
        server.admin("flush");
        write(&mut client, &mut acked);
        let r = client.post("/api/v1/query_range", &range).expect("an answer");
        assert_eq!(r.status, 200, "{}", r.text());
        server.kill();
        server.restart();
    }
    let count = server.sql("SELECT count(*) FROM samples WHERE metric = 'room'")[0][0].as_i64().expect("a number");
    // A batch without an answer may be there: it is sent again under the same number, so there is one of each.
    assert!((acked * 10..=acked * 10 + 10).contains(&count), "{acked} batches, {count} samples");
    row.passed(format_args!("{rounds} rounds, {answered} queries answered meanwhile"), acked as u64 * 10);
}
