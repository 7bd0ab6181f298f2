//! Test 14: killed in its start, again and again: the data is that of one start.

use std::time::Duration;

use quiver_persistence::testing::{Row, sized};

use crate::load::{Load, Random};
use crate::server::Start;

#[test]
fn killed_in_its_start_again_and_again() {
    let row = Row::begin("14", "kill -9 in the start, loops of 5");
    let mut random = Random::seeded("starts");
    let mut load = Load::new();
    let mut server = Start::new().with(&["--head-bytes", "1MiB"]).with_faults().ready();
    let rounds = sized(3, 100);
    for round in 0..rounds {
        load.run(&mut server, &mut random, |server| {
            std::thread::sleep(Duration::from_millis(200));
            // In the middle of a checkpoint: its block takes its time.
            server.faults("write@blocks=slow:20;sync@blocks=slow:20;rename=slow:20");
            let mut client = server.client();
            let asked = std::thread::spawn(move || client.post("/api/v1/admin/tsdb/flush", &[]).map(drop));
            std::thread::sleep(Duration::from_millis(30));
            server.kill();
            let _ = asked.join();
        });
        // Slow reads of the log, so that the kill comes within the replay.
        server.faults("read@log/=slow:3");
        for _ in 0..5 {
            match server.restart_unready() {
                Ok(()) => {
                    std::thread::sleep(Duration::from_millis(2 * (round + 1)));
                    server.kill();
                }
                Err(e) => panic!("round {round}: {e}"),
            }
        }
        server.faults("");
        server.restart();
        load.judge(&server, &mut random);
        load.settle(&server);
        load.compare(&server);
    }
    server.admin("compact");
    let n = load.compare(&server);
    assert_eq!(server.terminate().code(), Some(0));
    server.restart();
    assert_eq!(load.compare(&server), n);
    row.passed(format_args!("{rounds} rounds of 5"), n as u64);
}
