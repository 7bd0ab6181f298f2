//! Rounds of kill -9 at random moments under remote write, against a ledger kept outside the process: 50, and 1,000 at night.
//!
//! Five writers ([`load`](crate::load)) send batches of their own. After every kill
//!
//! 1. a batch that was under way is there whole or not at all, and its client sends it again or gives it up;
//! 2. what was acknowledged is there once, with its value (all of it is compared every ten rounds, and after a flush, a
//!    compaction and a clean stop at the end);
//! 3. nothing is there that was never sent, or was given up and absent.
//!
//! At night the writers begin anew on an empty folder every 50 rounds. `QUIVER_SEED=N` repeats a run's moments and choices.

use std::time::{Duration, Instant};

use quiver_persistence::testing::{Row, sized};

use crate::load::{Load, Random};
use crate::server::{Server, Start};

const ROUNDS: u32 = 50;

#[test]
fn kills_under_remote_write_lose_nothing_acknowledged() {
    let row = Row::begin("1", "kill -9 under load");
    let mut random = Random::seeded("survival");
    let kills = sized(u64::from(ROUNDS), 1_000) as u32;
    let (mut samples, mut longest) = (0, Duration::ZERO);
    for cycle in 0..kills.div_ceil(ROUNDS) {
        let (n, ready) = fifty_kills(&mut random, cycle);
        samples += n;
        longest = longest.max(ready);
    }
    // A debug build beside other tests is no measure of it.
    assert!(cfg!(debug_assertions) || longest < Duration::from_secs(2), "ready after {longest:?}");
    let ready = longest.as_millis();
    row.passed(format_args!("{kills} kills, ready after at most {ready} ms"), samples as u64);
}

/// One kill under load, sometimes in the middle of a flush or a merge; sometimes once more in the start after it.
fn one_kill(server: &mut Server, load: &mut Load, random: &mut Random) -> (bool, Duration) {
    let moment = Duration::from_millis(5 + random.below(350));
    let maintenance = (random.below(3) == 0).then(|| (random.below(200), random.below(3) == 0));
    load.run(server, random, |server| {
        let asked = maintenance.map(|(after, is_compaction)| {
            let mut client = server.client();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(after));
                // May well be cut off.
                let _ = client.post("/api/v1/admin/tsdb/flush", &[]);
                if is_compaction {
                    let _ = client.post("/api/v1/admin/tsdb/compact", &[]);
                }
            })
        });
        std::thread::sleep(moment);
        server.kill();
        asked.map(std::thread::JoinHandle::join)
    });
    if random.below(6) == 0 {
        // Once more, while it starts and replays.
        server.restart_unready().unwrap_or_else(|e| panic!("{e}"));
        std::thread::sleep(Duration::from_millis(random.below(30)));
        server.kill();
    }
    let begun = Instant::now();
    server.restart();
    (maintenance.is_some(), begun.elapsed())
}

/// Samples in the end, and the longest start.
fn fifty_kills(random: &mut Random, cycle: u32) -> (usize, Duration) {
    let begun = Instant::now();
    let mut load = Load::new();
    // Heads so small that they are flushed by themselves now and then.
    let mut server = Start::new().with(&["--head-bytes", "2MiB"]).ready();
    let (mut resent, mut flushes, mut longest) = (0, 0, Duration::ZERO);
    for round in 1..=ROUNDS {
        let (with_flush, ready) = one_kill(&mut server, &mut load, random);
        flushes += u32::from(with_flush);
        longest = longest.max(ready);
        resent += load.judge(&server, random);
        if round % 10 == 0 {
            // Batches under way may be there: settle them first.
            load.settle(&server);
            let n = load.compare(&server);
            println!("survival {cycle}: round {round}: {n} samples as they were acknowledged, {:.1?}", begun.elapsed());
        }
    }
    server.admin("flush");
    load.compare(&server);
    server.admin("compact");
    load.compare(&server);
    assert_eq!(server.terminate().code(), Some(0), "SIGTERM drains and ends with 0");
    server.restart();
    let n = load.compare(&server);
    println!(
        "survival {cycle}: {ROUNDS} kills, {} batches, {n} samples, {resent} sent again, {} given up, {flushes} rounds with \
         a flush, {:.1?}",
        load.batches(),
        load.given_up(),
        begun.elapsed()
    );
    (n, longest)
}
