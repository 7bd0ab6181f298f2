//! Test 11: a sync of the log fails once. Nothing is acknowledged any more, reads go on, and a restart has what was durable.

use std::time::Duration;

use quiver_persistence::testing::{Row, sized};

use crate::load::{Load, Random};
use crate::server::Start;

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_a_restart() {
    let row = Row::begin("11", "fdatasync fails once under load");
    let mut random = Random::seeded("sync");
    let mut load = Load::new();
    let mut server = Start::new().with_faults().ready();
    let rounds = sized(2, 50);
    for _ in 0..rounds {
        load.run(&mut server, &mut random, |server| {
            std::thread::sleep(Duration::from_millis(50 + random_ms(server)));
            server.faults("sync@log/x1=eio");
            server.wait_until("the log is poisoned", |s| s.metric("quiver_writable") == 0.0);
        });
        // The disk is well again; the log does not believe it.
        server.faults("");
        for ledger in &load.ledgers {
            let (content_type, body) = ledger.writer.body(ledger.next);
            let r = crate::remote_write::post(&mut server.client(), content_type, &body).expect("an answer");
            assert_eq!(r.status, 503, "{}", r.text());
        }
        assert!(server.log().contains("a sync of the log failed"), "said in the log");
        assert_eq!(server.get("/-/healthy", &[]).status, 200);
        let rows = server.sql("SELECT count(*) FROM samples");
        assert!(rows[0][0].as_u64().is_some(), "reads go on");
        let status = server.terminate();
        assert!(status.code().is_some(), "{status}");
        server.restart();
        load.judge(&server, &mut random);
        load.settle(&server);
        load.compare(&server);
    }
    let samples = load.compare(&server);
    row.passed(format_args!("{rounds} rounds"), samples as u64);
}

/// A moment that differs from run to run.
fn random_ms(server: &crate::server::Server) -> u64 {
    u64::from(server.id()) % 150
}
