//! Group commit on a real folder: how latency and throughput change with the number of clients.
//!
//! `cargo bench -p quiver-persistence --bench log -- [FOLDER] [SECONDS]`: the folder decides which disk is measured
//! (a temporary one by default); each row runs for so many seconds. Every client waits for its ack before it sends again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use quiver_persistence::{Disk, RealDisk, ReplayShard, replay};
use quiver_persistence::{Durability, Frame, Log, LogEntry, LogError, LogFloor, LogOptions, LogPosition};

struct Entry {
    payload: Arc<[u8]>,
    done: SyncSender<bool>,
}

impl LogEntry for Entry {
    type SegmentState = ();

    fn size_hint(&self) -> usize {
        self.payload.len()
    }

    fn encode(&self, (): &mut (), out: &mut Vec<u8>) -> u8 {
        out.extend_from_slice(&self.payload);
        1
    }

    fn committed(self, result: Result<LogPosition, LogError>) {
        let _ = self.done.send(result.is_ok());
    }
}

struct Row {
    shards: u32,
    clients: usize,
    bytes: usize,
    durability: Durability,
}

fn run(disk: &Arc<dyn Disk>, row: &Row, seconds: f64) {
    let options = LogOptions { shards: row.shards, durability: row.durability, ..LogOptions::default() };
    let log: Log<Entry> = match Log::open(Arc::clone(disk), "log", options, &LogFloor::default()) {
        Ok(log) => log,
        Err(e) => return eprintln!("{e}"),
    };
    let stop = AtomicBool::new(false);
    let payload: Arc<[u8]> = (0..row.bytes).map(|i| (i * 31) as u8).collect();
    let started = Instant::now();
    let mut latencies: Vec<Duration> = thread::scope(|scope| {
        let clients: Vec<_> = (0..row.clients)
            .map(|client| {
                let (log, stop, payload) = (&log, &stop, &payload);
                scope.spawn(move || {
                    let (done, acked) = sync_channel(1);
                    let mut latencies = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let sent = Instant::now();
                        let entry = Entry { payload: Arc::clone(payload), done: done.clone() };
                        if log.submit(client, entry).is_ok() && acked.recv() == Ok(true) {
                            latencies.push(sent.elapsed());
                        }
                    }
                    latencies
                })
            })
            .collect();
        thread::sleep(Duration::from_secs_f64(seconds));
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|c| c.join().unwrap_or_default()).collect()
    });
    let time = started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let quantile = |q: f64| {
        let at = ((latencies.len() as f64 * q) as usize).min(latencies.len().saturating_sub(1));
        latencies.get(at).map_or(0.0, |d| d.as_secs_f64() * 1e3)
    };
    let figures = log.figures();
    let syncs = figures.syncs().max(1);
    let sync_ms = figures.shards.iter().map(|s| s.sync_ns).sum::<u64>() as f64 / 1e6 / syncs as f64;
    println!(
        "{:>6} {:>8} {:>8} {:>14} {:>9.0} {:>8.1} {:>8.2} {:>8.2} {:>8.2} {:>9.1} {:>8.2}",
        row.shards,
        row.clients,
        row.bytes,
        format!("{:?}", row.durability),
        latencies.len() as f64 / time,
        latencies.len() as f64 * row.bytes as f64 / time / 1e6,
        quantile(0.5),
        quantile(0.99),
        quantile(1.0),
        figures.frames() as f64 / syncs as f64,
        sync_ms,
    );
    let cleared = log.rotate().ok().map(|floor| log.truncate(&floor));
    if !matches!(cleared, Some(Ok(()))) {
        eprintln!("the log could not be truncated");
    }
}

/// Speed of reading back.
fn read(disk: &Arc<dyn Disk>) {
    struct Count(u64);
    impl ReplayShard for Count {
        fn frame(&mut self, frame: Frame<'_>) -> Result<(), String> {
            self.0 += frame.payload.len() as u64;
            Ok(())
        }
    }
    let options = LogOptions { durability: Durability::Interval(10_000), ..LogOptions::default() };
    let Ok(log) = Log::<Entry>::open(Arc::clone(disk), "replay", options, &LogFloor::default()) else { return };
    let payload: Arc<[u8]> = (0..16_000).map(|i| (i * 31) as u8).collect();
    let (done, acked) = sync_channel(1);
    for i in 0..20_000 {
        let entry = Entry { payload: Arc::clone(&payload), done: done.clone() };
        if log.submit(i, entry).is_err() || acked.recv() != Ok(true) {
            return eprintln!("a write was refused");
        }
    }
    log.close();
    let started = Instant::now();
    match replay(&**disk, "replay", &LogFloor::default(), 0, |_| Count(0)) {
        Ok(report) => {
            let time = started.elapsed().as_secs_f64();
            let mb = report.bytes as f64 / 1e6;
            println!("replay: {} frames, {mb:.0} MB in {time:.3} s ({:.0} MB/s)", report.frames, mb / time);
        }
        Err(e) => eprintln!("{e}"),
    }
}

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let temp = tempfile::tempdir().expect("a temporary folder");
    let folder = words.next().map_or_else(|| temp.path().to_path_buf(), PathBuf::from);
    let seconds = words.next().and_then(|s| s.parse().ok()).unwrap_or(2.0);
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::create(&folder).expect("the folder"));
    println!("group commit in {}", folder.display());
    println!(
        "{:>6} {:>8} {:>8} {:>14} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8}",
        "shards",
        "clients",
        "bytes",
        "durability",
        "acks/s",
        "MB/s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "per sync",
        "sync ms"
    );
    for (shards, clients, bytes) in [
        (1, 1, 16_000),
        (1, 4, 16_000),
        (1, 16, 16_000),
        (1, 64, 16_000),
        (2, 16, 16_000),
        (2, 64, 16_000),
        (2, 64, 1_000),
    ] {
        run(&disk, &Row { shards, clients, bytes, durability: Durability::Commit }, seconds);
    }
    run(&disk, &Row { shards: 2, clients: 16, bytes: 16_000, durability: Durability::Interval(100) }, seconds);
    read(&disk);
}
