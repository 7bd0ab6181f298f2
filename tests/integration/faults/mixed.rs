//! Test 28: faults of all kinds in one run, drawn from a seed, against the ledger and a naive PromQL at every checkpoint.
//!
//! `QUIVER_SEED=N` repeats the choices. At night eight seeds, an hour in all.

use std::time::{Duration, Instant};

use quiver_persistence::testing::{Row, is_nightly, sized};

use crate::load::{Load, Random, Writer};
use crate::remote_write::Value;
use crate::server::{Server, Start};

/// What happens while all write.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    KillInStart,
    Terminate,
    Full,
    Slow,
    SyncFails,
    Flush,
    Compact,
    Reload,
    CrashAtCall,
}

const FAULTS: [Fault; 10] = [
    Fault::Kill,
    Fault::KillInStart,
    Fault::Terminate,
    Fault::Full,
    Fault::Slow,
    Fault::SyncFails,
    Fault::Flush,
    Fault::Compact,
    Fault::Reload,
    Fault::CrashAtCall,
];

/// A moment, ms.
fn pause(random: &mut Random, most: u64) {
    std::thread::sleep(Duration::from_millis(1 + random.below(most)));
}

fn in_background(server: &Server, verb: &'static str) -> std::thread::JoinHandle<()> {
    let mut client = server.client();
    // May well be cut off.
    std::thread::spawn(move || drop(client.post(&format!("/api/v1/admin/tsdb/{verb}"), &[])))
}

/// Does its worst; afterwards the server may be gone.
fn strike(server: &mut Server, fault: Fault, random: &mut Random, config: &std::path::Path) {
    if matches!(fault, Fault::KillInStart | Fault::Full) {
        // A configuration that is wrong refuses a start: that is another test.
        std::fs::write(config, "{}").expect("a configuration");
    }
    match fault {
        Fault::Kill | Fault::KillInStart => {
            let asked = (random.below(2) == 0).then(|| in_background(server, "flush"));
            pause(random, 150);
            server.kill();
            asked.map(std::thread::JoinHandle::join);
            if matches!(fault, Fault::KillInStart) {
                for _ in 0..1 + random.below(3) {
                    server.restart_unready().unwrap_or_else(|e| panic!("{e}"));
                    pause(random, 30);
                    server.kill();
                }
            }
        }
        Fault::Terminate => {
            let asked = (random.below(2) == 0).then(|| in_background(server, "compact"));
            pause(random, 100);
            assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
            asked.map(std::thread::JoinHandle::join);
        }
        Fault::Full => {
            server.faults("write=half-enospc;create=enospc");
            let asked = in_background(server, ["flush", "compact"][random.below(2) as usize]);
            pause(random, 300);
            if random.below(3) == 0 {
                // And dies while it is full, and starts while it is full.
                server.kill();
                server.restart();
            }
            server.faults("");
            let _ = asked.join();
        }
        Fault::Slow => {
            server.faults(&format!("sync@log/=slow:{}", 20 + random.below(200)));
            pause(random, 400);
            server.faults("");
        }
        Fault::SyncFails => {
            server.faults("sync@log/x1=eio");
            server.wait_until("the log is poisoned", |s| s.metric("quiver_writable") == 0.0);
            server.faults("");
            server.kill();
        }
        Fault::Flush => server.admin("flush"),
        Fault::Compact => server.admin("compact"),
        Fault::Reload => {
            let text = ["{\"limit\": {", "{\"limit\": {\"labels_max\": 50}}", "[]"][random.below(3) as usize];
            std::fs::write(config, text).expect("a configuration");
            server.signal("HUP");
            pause(random, 50);
        }
        Fault::CrashAtCall => {
            let action = ["kill", "kill-after"][random.below(2) as usize];
            server.faults(&format!("change+{}={action}", random.below(60)));
            let asked = in_background(server, ["flush", "compact"][random.below(2) as usize]);
            let ended = server.ended_within(Duration::from_secs(30));
            assert!(ended.is_some(), "a call of that number comes");
            let _ = asked.join();
            server.faults("");
        }
    }
}

/// Aggregates of a writer's floats over a window, as the ledger has them: count, sum, largest.
fn naive(load: &Load, writer: Writer, from: i64, to: i64) -> (u64, f64, f64) {
    let ledger = load.ledgers.iter().find(|l| l.writer.number == writer.number).expect("its ledger");
    let mut all: Vec<f64> = Vec::new();
    for batch in &ledger.acknowledged {
        for series in writer.batch(*batch).iter().filter(|s| s.labels.iter().any(|l| l.1 == "survival_float")) {
            for s in series.samples.iter().filter(|s| s.ts > from && s.ts <= to) {
                if let Value::Float(v) = s.value {
                    all.push(v);
                }
            }
        }
    }
    // Whole numbers far below 2^53: sums are exact in any order.
    (all.len() as u64, all.iter().sum(), all.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// Asks PromQL about random windows, and the ledger.
fn oracle(server: &Server, load: &Load, random: &mut Random) -> u64 {
    let mut asked = 0;
    for ledger in load.ledgers.iter().filter(|l| l.writer.number != 2 && !l.acknowledged.is_empty()) {
        let w = ledger.writer;
        for _ in 0..3 {
            let batch = random.below(ledger.next);
            let to = w.time(batch) + random.below(5_000) as i64;
            let range = 1 + random.below(if w.in_order() { 60_000 } else { 8_000_000 }) as i64;
            let (count, sum, max) = naive(load, w, to - range, to);
            let at = format!("{}.{:03}", to / 1000, to % 1000);
            let selector = format!("survival_float{{w=\"{}\"}}[{range}ms]", w.number);
            for (f, want) in
                [("sum(count_over_time", count as f64), ("sum(sum_over_time", sum), ("max(max_over_time", max)]
            {
                let got = server.query(&format!("{f}({selector}))"), &at);
                let text = got[0]["value"][1].as_str().map(str::to_owned);
                let got: Option<f64> = text.as_deref().and_then(|t| t.parse().ok());
                let want = (count > 0).then_some(want);
                assert_eq!(got, want, "{f}({selector})) at {at}");
                asked += 1;
            }
        }
    }
    asked
}

fn run(seed: u64, time: Duration) -> (usize, u32, u64) {
    println!("mixed: QUIVER_SEED={seed}");
    let begun = Instant::now();
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("quiver.json");
    std::fs::write(&config, "{}").expect("a configuration");
    let name = config.display().to_string();
    let mut load = Load::new();
    let mut server = Start::new().with(&["--head-bytes", "2MiB", "--config", &name]).with_faults().ready();
    let (mut strikes, mut queries) = (0, 0);
    while begun.elapsed() < time {
        let fault = FAULTS[random.below(FAULTS.len() as u64) as usize];
        let mut own = random.fork();
        load.run(&mut server, &mut random, |server| {
            pause(&mut own, 250);
            strike(server, fault, &mut own, &config);
        });
        strikes += 1;
        if !server.is_alive() {
            // A configuration that is wrong refuses a start: it is set right, as someone would.
            std::fs::write(&config, "{}").expect("a configuration");
            server.restart();
        }
        load.judge(&server, &mut random);
        if strikes % 4 == 0 {
            load.settle(&server);
            load.compare(&server);
            queries += oracle(&server, &load, &mut random);
        }
    }
    load.settle(&server);
    server.admin("compact");
    let n = load.compare(&server);
    queries += oracle(&server, &load, &mut random);
    assert_eq!(server.terminate().code(), Some(0));
    let out =
        std::process::Command::new(crate::server::binary()).arg("check").arg(&server.data).output().expect("it runs");
    assert!(out.status.success(), "no byte is damaged: {}", String::from_utf8_lossy(&out.stdout));
    (n, strikes, queries)
}

#[test]
fn faults_of_all_kinds_in_one_run() {
    let row = Row::begin("28", "mixed faults, ledger and naive PromQL");
    let own = std::env::var("QUIVER_SEED").ok().and_then(|s| s.parse().ok());
    let seeds: Vec<u64> = match own {
        Some(seed) => vec![seed],
        None if is_nightly() => (1..=8).collect(),
        None => (28..=30).collect(),
    };
    let each = Duration::from_secs(sized(20, 3_600 / 8));
    let (mut samples, mut strikes, mut queries) = (0, 0, 0);
    for seed in &seeds {
        let (n, s, q) = run(*seed, each);
        (samples, strikes, queries) = (samples + n, strikes + s, queries + q);
    }
    row.passed(format_args!("{} seeds, {strikes} faults, {queries} queries", seeds.len()), samples as u64);
}
