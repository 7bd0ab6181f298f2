//! The server under the loads that its limits are stated for: the real binary, over HTTP, on a real folder.
//!
//! ```text
//! cargo bench --bench server -- series   [HOSTS SERIES SCRAPES FOLDER]    memory of a million active series
//! cargo bench --bench server -- backfill [RUNS FOLDER]                    acks of live writes while a week comes in
//! ```
//!
//! `series`: every host sends all its series with every scrape, through flushes and on. Printed: resident memory after
//! each scrape and its peak, per active series.
//!
//! `backfill`: live hosts write every 100 ms. Each run has a quiet part and then one in which two clients write a week of
//! old data, newest first, as fast as it is taken. Printed: the 99th percentile of the live acks of both, and whether
//! answers were right during and after.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quiver_support::fleet::{Fleet, Version};
use quiver_support::http::Client;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Samples of one request.
const REQUEST: usize = 2000;

/// A server on a folder of its own; killed when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
    data: PathBuf,
}

impl Server {
    fn start(folder: &Path, flags: &[&str]) -> Result<Self> {
        let data = folder.join("server-bench");
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_quiver"))
            .arg("serve")
            .arg("--data-dir")
            .arg(&data)
            .args([
                "--http-listen",
                "127.0.0.1:0",
                "--grpc-listen",
                "off",
                "--self-metrics",
                "off",
                "--admin-api",
                "on",
            ])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let out = child.stdout.take().ok_or("no standard output")?;
        let mut lines = BufReader::new(out).lines();
        let address = lines
            .by_ref()
            .map_while(std::result::Result::ok)
            .find_map(|l| l.split_once("http://")?.1.split('/').next()?.parse().ok())
            .ok_or("the server did not start")?;
        thread::spawn(move || lines.for_each(drop));
        let server = Self { child, address, data };
        while server.client().get("/-/ready", &[])?.status != 200 {
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// A figure of `/proc/PID/status`, bytes.
    fn memory(&self, what: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|l| l.starts_with(what)).ok_or("no such figure")?;
        let kib: u64 = line.split_whitespace().nth(1).ok_or("no figure")?.parse()?;
        Ok(kib << 10)
    }

    /// The value of an instant query with one result.
    fn value(&self, query: &str, at_ms: i64) -> Result<String> {
        let at = format!("{:.3}", at_ms as f64 / 1000.0);
        let r = self.client().get("/api/v1/query", &[("query", query), ("time", &at), ("timeout", "120s")])?;
        let json: serde_json::Value = serde_json::from_slice(&r.body)?;
        Ok(json["data"]["result"][0]["value"][1].as_str().unwrap_or(&r.text()).to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Sends one scrape of a host; gives the slowest ack.
fn send(client: &mut Client, fleet: &Fleet, host: usize, k: i64, message: &mut Vec<u8>) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    for from in (0..fleet.series).step_by(REQUEST) {
        fleet.message(Version::V1, host, from..(from + REQUEST).min(fleet.series), k, message);
        slowest = slowest.max(post(client, &snap::raw::Encoder::new().compress_vec(message)?)?);
    }
    Ok(slowest)
}

/// Posts a body until it is taken: a server that is busy is asked again.
fn post(client: &mut Client, body: &[u8]) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let headers = [("content-type", "application/x-protobuf"), ("content-encoding", "snappy")];
        let r = client.request("POST", "/api/v1/write", &headers, body)?;
        match r.status {
            200..300 => return Ok(began.elapsed()),
            429 | 503 => thread::sleep(Duration::from_millis(20)),
            status => return Err(format!("{status}: {}", r.text()).into()),
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn series(folder: &Path, hosts: usize, series: usize, scrapes: i64) -> Result<()> {
    let server = Server::start(folder, &[])?;
    let start_ms = now_ms() - scrapes * 15_000;
    let fleet = Fleet { hosts, series, start_ms, step_ms: 15_000, is_restless: false };
    let total = (hosts * series) as f64;
    let row = |what: &str, took: Duration| -> Result<()> {
        let (now, peak, anonymous) = (server.memory("VmRSS")?, server.memory("VmHWM")?, server.memory("RssAnon")?);
        println!(
            "{what:<22} {:>7.1} s  RSS {:>7.1} MiB, {:>6.0} B a series  (anonymous {:>6.0})  peak {:>7.1} MiB, {:>6.0} B a series",
            took.as_secs_f64(),
            mib(now),
            now as f64 / total,
            anonymous as f64 / total,
            mib(peak),
            peak as f64 / total
        );
        Ok(())
    };
    println!("{hosts} hosts x {series} series, a scrape every 15 s of their time");
    row("empty", Duration::ZERO)?;
    let next = AtomicU64::new(0);
    for k in 0..scrapes {
        let began = Instant::now();
        next.store(0, Ordering::Relaxed);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        let (mut client, mut message) = (server.client(), Vec::new());
                        loop {
                            let host = next.fetch_add(1, Ordering::Relaxed) as usize;
                            if host >= hosts {
                                return Ok(());
                            }
                            send(&mut client, &fleet, host, k, &mut message)?;
                        }
                    })
                })
                .collect();
            // A flush beside the writes: for its time there are two heads that know every series.
            if k == scrapes / 2 {
                let r = server.client().post("/api/v1/admin/tsdb/flush", &[])?;
                row(&format!("flushed ({})", r.status), began.elapsed())?;
            }
            workers.into_iter().try_for_each(|w| w.join().map_err(|_| "a client panicked")?)
        })?;
        row(&format!("scrape {}", k + 1), began.elapsed())?;
    }
    let count = server.value("count({job=\"node\"})", fleet.time(scrapes - 1))?;
    println!("count({{job=\"node\"}}) = {count}");
    row("after a query of all", Duration::ZERO)
}

/// Hosts that write live, each so many series, every so often.
const LIVE_HOSTS: usize = 20;
const LIVE_SERIES: usize = 500;
const LIVE_EVERY: Duration = Duration::from_millis(100);
/// Length of the quiet part of a run; the other takes as long as the backfill does.
const QUIET: Duration = Duration::from_secs(20);
/// The backfill: hosts, each so many series, a week at this step, so many scrapes a request.
const OLD_HOSTS: usize = 10;
const OLD_SERIES: usize = 200;
const OLD_STEP_MS: i64 = 60_000;
const OLD_CLIENTS: usize = 8;
const OLD_SCRAPES: i64 = 10;
const WEEK_MS: i64 = 7 * 24 * 3_600_000;
/// Number of its first host: its names begin with another digit than the live ones'.
const OLD_FIRST: usize = 90_000;

/// Live writers until `stop`; gives all latencies and the number of the next scrape.
fn live(server: &Server, fleet: &Fleet, first: i64, stop: &AtomicBool) -> Result<(Vec<Duration>, i64)> {
    let (mut client, mut message) = (server.client(), Vec::new());
    let mut latencies = Vec::new();
    let mut k = first;
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        for host in 0..fleet.hosts {
            latencies.push(send(&mut client, fleet, host, k, &mut message)?);
            // Spread over the interval, as scrapes are; a late one does not hurry those after it.
            due = due.max(Instant::now()) + LIVE_EVERY / fleet.hosts as u32;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        k += 1;
    }
    Ok((latencies, k))
}

/// Writes the week, newest first, with some clients. They let the live one go first, since in life they are other machines.
/// Returns samples written.
fn fill(server: &Server, old: &Fleet) -> Result<u64> {
    let parts = WEEK_MS / OLD_STEP_MS / OLD_SCRAPES;
    let (left, written) = (AtomicU64::new(parts as u64), AtomicU64::new(0));
    thread::scope(|scope| {
        let client = || -> Result<()> {
            quiver_core::yield_to_others();
            let (mut client, mut message) = (server.client(), Vec::new());
            let next = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            while let Ok(n) = next() {
                let from = (n as i64 - 1) * OLD_SCRAPES;
                for host in OLD_FIRST..OLD_FIRST + old.hosts {
                    old.history(host, 0..old.series, from..from + OLD_SCRAPES, &mut message);
                    post(&mut client, &snap::raw::Encoder::new().compress_vec(&message)?)?;
                    written.fetch_add((old.series as i64 * OLD_SCRAPES) as u64, Ordering::Relaxed);
                }
            }
            Ok(())
        };
        let clients: Vec<_> = (0..OLD_CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(|c| c.join().map_err(|_| "a client panicked")?)
    })?;
    Ok(written.into_inner())
}

fn quantile(latencies: &mut [Duration], q: f64) -> f64 {
    latencies.sort_unstable();
    let at = ((latencies.len() as f64 * q) as usize).min(latencies.len().saturating_sub(1));
    latencies.get(at).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

/// One run: p99 of the quiet part and of the other, ms.
fn backfill_once(folder: &Path) -> Result<(f64, f64)> {
    let server = Server::start(folder, &["--enable-feature", "promql-delayed-name-removal"])?;
    let now = now_ms();
    let (step_ms, is_restless) = (LIVE_EVERY.as_millis() as i64, false);
    let fleet = Fleet { hosts: LIVE_HOSTS, series: LIVE_SERIES, start_ms: now, step_ms, is_restless };
    let (start_ms, step_ms) = (now - WEEK_MS, OLD_STEP_MS);
    let old = Fleet { hosts: OLD_HOSTS, series: OLD_SERIES, start_ms, step_ms, is_restless };
    let part = |first: i64, work: &(dyn Fn() -> Result<u64> + Sync)| -> Result<(Vec<Duration>, i64, u64)> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let live = scope.spawn(|| live(&server, &fleet, first, &stop));
            let done = work();
            stop.store(true, Ordering::Relaxed);
            let (latencies, next) = live.join().map_err(|_| "the live client panicked")??;
            Ok((latencies, next, done?))
        })
    };
    let samples = |host: &str, range: &str, at: i64| {
        server.value(&format!("sum(count_over_time({{job=\"node\",instance=~\"{host}\"}}[{range}]))"), at)
    };
    // New series are dearer than known ones: they are all known before it begins.
    let (_, next, _) = part(0, &|| {
        thread::sleep(Duration::from_secs(3));
        Ok(0)
    })?;
    let (mut quiet, next, _) = part(next, &|| {
        thread::sleep(QUIET);
        Ok(0)
    })?;
    let began = Instant::now();
    let (mut busy, next, written) = part(next, &|| {
        thread::scope(|scope| {
            let filling = scope.spawn(|| fill(&server, &old));
            // Answers during: the newest hours are there first.
            thread::sleep(Duration::from_secs(10));
            let (got, want) = (samples("host-9.*", "1h", now - 3_600_000)?, old.hosts * old.series * 60);
            println!("  during: {got} of {want} samples of an hour");
            filling.join().map_err(|_| "the backfill panicked")?
        })
    })?;
    let took = began.elapsed().as_secs_f64();
    // Answers after: every acknowledged sample once.
    let end = fleet.time(next);
    let (got_old, got_live) = (samples("host-9.*", "8d", end)?, samples("host-0.*", "8d", end)?);
    let (want_old, want_live) = (written.to_string(), (next * (LIVE_HOSTS * LIVE_SERIES) as i64).to_string());
    let (a, b) = (quantile(&mut quiet, 0.99), quantile(&mut busy, 0.99));
    println!(
        "  live ack p50 {:.2} / {:.2} ms, p99 {a:.2} / {b:.2} ms: {:.2} x; {written} old samples in {took:.0} s; after: {}",
        quantile(&mut quiet, 0.5),
        quantile(&mut busy, 0.5),
        b / a,
        if got_old == want_old && got_live == want_live {
            "each there once".to_owned()
        } else {
            format!("WRONG: {got_old} of {want_old} old, {got_live} of {want_live} live")
        }
    );
    Ok((a, b))
}

fn backfill(folder: &Path, runs: usize) -> Result<()> {
    println!(
        "live: {LIVE_HOSTS} hosts x {LIVE_SERIES} series every {} ms; backfill: {OLD_HOSTS} hosts x {OLD_SERIES} series x a week \
         every {} s, newest first, {OLD_CLIENTS} clients",
        LIVE_EVERY.as_millis(),
        OLD_STEP_MS / 1000
    );
    let mut ratios = Vec::new();
    for run in 0..runs {
        println!("run {}", run + 1);
        let (quiet, busy) = backfill_once(folder)?;
        ratios.push(busy / quiet);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median of {runs}: {:.2} x", ratios.get(runs / 2).copied().unwrap_or(0.0));
    Ok(())
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| !w.starts_with("--")).collect();
    let number = |i: usize, or: usize| words.get(i).and_then(|w| w.parse().ok()).unwrap_or(or);
    let temp = tempfile::tempdir()?;
    let folder = |i: usize| words.get(i).map_or_else(|| temp.path().to_path_buf(), PathBuf::from);
    match words.first().map(String::as_str) {
        Some("series") => series(&folder(4), number(1, 1000), number(2, 1000), number(3, 12) as i64),
        Some("backfill") => backfill(&folder(2), number(1, 5)),
        _ => {
            series(temp.path(), 1000, 1000, 12)?;
            backfill(temp.path(), 5)
        }
    }
}
