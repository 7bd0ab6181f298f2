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
//! `backfill`: live hosts write every 100 ms. Each run has a quiet part, one in which eight clients write a week of old
//! data, newest first, as fast as it is taken, and one in which the processor time that this took goes to something that has
//! nothing to do with the server. Printed: percentiles of the live acks of each, and whether answers were right during and
//! after. The third part is what the machine itself makes of a load: where processors are shared with the disk's virtual
//! side, a sync is slower while anything computes.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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

    /// Processor time taken so far.
    fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Behind the name of the program: the 12th and 13th fields are ticks of 10 ms.
        let ticks = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2);
        Ok(Duration::from_millis(ticks.flat_map(str::parse::<u64>).sum::<u64>() * 10))
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

/// The bodies of one scrape of a host.
fn bodies(fleet: &Fleet, host: usize, k: i64) -> impl Iterator<Item = Result<Vec<u8>>> {
    let mut message = Vec::new();
    (0..fleet.series).step_by(REQUEST).map(move |from| {
        fleet.message(Version::V1, host, from..(from + REQUEST).min(fleet.series), k, &mut message);
        Ok(snap::raw::Encoder::new().compress_vec(&message)?)
    })
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
                        let mut client = server.client();
                        loop {
                            let host = next.fetch_add(1, Ordering::Relaxed) as usize;
                            if host >= hosts {
                                return Ok(());
                            }
                            for body in bodies(&fleet, host, k) {
                                post(&mut client, &body?)?;
                            }
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
/// The computing that the backfill is compared with comes in turns of this length.
const BURST: Duration = Duration::from_millis(50);

/// Live writers until `stop`; gives all latencies and the number of the next scrape.
fn live(server: &Server, fleet: &Fleet, first: i64, stop: &AtomicBool) -> Result<(Vec<Duration>, i64)> {
    quiver_core::turns::run_soon();
    let mut client = server.client();
    let mut latencies = Vec::new();
    let mut k = first;
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        for host in 0..fleet.hosts {
            // Made before the wait: who is held up by this computing is not to stand before the request when it comes.
            let all: Vec<_> = bodies(fleet, host, k).collect::<Result<_>>()?;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            for body in &all {
                latencies.push(post(&mut client, body)?);
            }
            // Spread over the interval, as scrapes are; a late one does not hurry those after it.
            due = due.max(Instant::now()) + LIVE_EVERY / fleet.hosts as u32;
        }
        k += 1;
    }
    Ok((latencies, k))
}

/// The requests of the week, newest first; made before anything is measured, since in life other machines make them.
struct Week {
    fleet: Fleet,
    bodies: Vec<Vec<u8>>,
    samples: u64,
}

impl Week {
    fn new(end_ms: i64) -> Result<Self> {
        let start_ms = end_ms - WEEK_MS;
        let fleet = Fleet { hosts: OLD_HOSTS, series: OLD_SERIES, start_ms, step_ms: OLD_STEP_MS, is_restless: false };
        let mut week = Self { fleet, bodies: Vec::new(), samples: 0 };
        let (mut message, mut encoder) = (Vec::new(), snap::raw::Encoder::new());
        for part in (0..WEEK_MS / OLD_STEP_MS / OLD_SCRAPES).rev() {
            let scrapes = part * OLD_SCRAPES..(part + 1) * OLD_SCRAPES;
            for host in OLD_FIRST..OLD_FIRST + OLD_HOSTS {
                week.fleet.history(host, 0..OLD_SERIES, scrapes.clone(), &mut message);
                week.bodies.push(encoder.compress_vec(&message)?);
                week.samples += OLD_SERIES as u64 * OLD_SCRAPES as u64;
            }
        }
        Ok(week)
    }

    /// Writes all of it with some clients, which let the live one go first.
    fn write(&self, server: &Server) -> Result<()> {
        let next = AtomicUsize::new(0);
        let client = || -> Result<()> {
            quiver_core::turns::yield_to_others();
            let mut client = server.client();
            while let Some(body) = self.bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                post(&mut client, body)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..OLD_CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().try_for_each(|c| c.join().map_err(|_| "a client panicked")?)
        })
    }
}

/// Computes on one thread for a share of every [`BURST`], as the work of the backfill comes, and touches nothing else.
fn compute(share: f64, stop: &AtomicBool) {
    quiver_core::turns::yield_to_others();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        while began.elapsed() < BURST.mul_f64(share.min(1.0)) {
            std::hint::spin_loop();
        }
        thread::sleep(BURST.saturating_sub(began.elapsed()));
    }
}

fn quantile(latencies: &mut [Duration], q: f64) -> f64 {
    latencies.sort_unstable();
    let at = ((latencies.len() as f64 * q) as usize).min(latencies.len().saturating_sub(1));
    latencies.get(at).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

/// 99th percentiles of the live acks in the parts of a run, ms.
struct Run {
    quiet: f64,
    busy: f64,
    computing: f64,
}

/// The live side of a run: its server and the number of its next scrape.
struct Live {
    server: Server,
    fleet: Fleet,
    next: i64,
}

impl Live {
    /// New series are dearer than known ones: they are all known when it is given.
    fn start(folder: &Path) -> Result<Self> {
        let server = Server::start(folder, &["--enable-feature", "promql-delayed-name-removal"])?;
        let step_ms = LIVE_EVERY.as_millis() as i64;
        let fleet = Fleet { hosts: LIVE_HOSTS, series: LIVE_SERIES, start_ms: now_ms(), step_ms, is_restless: false };
        let mut all = Self { server, fleet, next: 0 };
        all.beside(|_, _| pause(Duration::from_secs(3)))?;
        Ok(all)
    }

    /// Latencies of the live writes while `work` runs, and the share of one processor that the server took.
    fn beside(&mut self, work: impl FnOnce(&Server, &AtomicBool) -> Result<()>) -> Result<(Vec<Duration>, f64)> {
        let (stop, began, cpu) = (AtomicBool::new(false), Instant::now(), self.server.cpu()?);
        let (latencies, next) = thread::scope(|scope| {
            let live = scope.spawn(|| live(&self.server, &self.fleet, self.next, &stop));
            let done = work(&self.server, &stop);
            stop.store(true, Ordering::Relaxed);
            let got = live.join().map_err(|_| "the live client panicked")??;
            done.map(|()| got)
        })?;
        self.next = next;
        Ok((latencies, (self.server.cpu()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64()))
    }

    /// Samples of the hosts whose names match.
    fn samples(server: &Server, host: &str, range: &str, at: i64) -> Result<String> {
        server.value(&format!("sum(count_over_time({{job=\"node\",instance=~\"{host}\"}}[{range}]))"), at)
    }
}

fn pause(time: Duration) -> Result<()> {
    thread::sleep(time);
    Ok(())
}

fn backfill_once(folder: &Path, week: &Week) -> Result<Run> {
    let mut all = Live::start(folder)?;
    let (mut quiet, quiet_cpu) = all.beside(|_, _| pause(QUIET))?;
    let began = Instant::now();
    let (mut busy, busy_cpu) = all.beside(|server, _| {
        thread::scope(|scope| {
            let filling = scope.spawn(|| week.write(server));
            // Answers during: the newest hours are there first.
            thread::sleep(Duration::from_secs(10));
            let end = week.fleet.start_ms + WEEK_MS;
            let got = Live::samples(server, "host-9.*", "1h", end - 3_600_000)?;
            println!("  during: {got} of {} samples of an hour", OLD_HOSTS * OLD_SERIES * 60);
            filling.join().map_err(|_| "the backfill panicked")?
        })
    })?;
    let took = began.elapsed().as_secs_f64();
    // Answers after: every acknowledged sample once.
    let end = all.fleet.time(all.next);
    let live = all.next * (LIVE_HOSTS * LIVE_SERIES) as i64;
    let mut right = "each there once".to_owned();
    for (host, want) in [("host-9.*", week.samples as i64), ("host-0.*", live)] {
        let got = Live::samples(&all.server, host, "8d", end)?;
        if got != want.to_string() {
            right = format!("WRONG: {got} of {want} of {host}");
        }
    }
    drop(all);
    let share = busy_cpu - quiet_cpu;
    let mut all = Live::start(folder)?;
    let (mut computing, _) = all.beside(|_, stop| {
        thread::scope(|scope| {
            scope.spawn(|| compute(share, stop));
            thread::sleep(QUIET);
            stop.store(true, Ordering::Relaxed);
            Ok(())
        })
    })?;
    let run = Run {
        quiet: quantile(&mut quiet, 0.99),
        busy: quantile(&mut busy, 0.99),
        computing: quantile(&mut computing, 0.99),
    };
    println!("  {} old samples in {took:.0} s, {share:.2} of a processor; after: {right}", week.samples);
    for q in [0.5, 0.9, 0.99, 0.999] {
        println!(
            "  live ack p{:<4} quiet {:>6.2} ms   backfill {:>6.2} ms   as much computing elsewhere {:>6.2} ms",
            q * 100.0,
            quantile(&mut quiet, q),
            quantile(&mut busy, q),
            quantile(&mut computing, q)
        );
    }
    Ok(run)
}

fn backfill(folder: &Path, runs: usize) -> Result<()> {
    println!(
        "live: {LIVE_HOSTS} hosts x {LIVE_SERIES} series every {} ms; backfill: {OLD_HOSTS} hosts x {OLD_SERIES} series x a week \
         every {} s, newest first, {OLD_CLIENTS} clients",
        LIVE_EVERY.as_millis(),
        OLD_STEP_MS / 1000
    );
    let week = Week::new(now_ms())?;
    let mut done = Vec::new();
    for run in 0..runs {
        println!("run {}", run + 1);
        done.push(backfill_once(folder, &week)?);
    }
    let median = |ratio: &dyn Fn(&Run) -> f64| {
        let mut all: Vec<f64> = done.iter().map(ratio).collect();
        all.sort_by(f64::total_cmp);
        all.get(runs / 2).copied().unwrap_or(0.0)
    };
    println!(
        "median of {runs}: p99 beside the backfill / quiet {:.2} x, beside as much computing elsewhere / quiet {:.2} x",
        median(&|r| r.busy / r.quiet),
        median(&|r| r.computing / r.quiet)
    );
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
