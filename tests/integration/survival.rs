//! 50 rounds of kill -9 at random moments under remote write, against a ledger kept outside the process.
//!
//! Five writers send batches of their own: in order and out of order, floats and histograms, 1.0 and 2.0, new series with
//! every batch. Samples of a batch follow from its writer and number alone, so the ledger is a list of numbers. After every
//! kill
//!
//! 1. a batch that was under way is there whole or not at all, and its client sends it again or gives it up;
//! 2. what was acknowledged is there once, with its value (all of it is compared every ten rounds, and after a flush, a
//!    compaction and a clean stop at the end);
//! 3. nothing is there that was never sent, or was given up and absent.
//!
//! `QUIVER_SEED=N` repeats a run's moments and choices.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::http::Client;
use crate::matrix::{HistogramText, Row, ms, samples};
use crate::remote_write::{Native, Series, V1, V2, Value, body_v1, body_v2, post};
use crate::server::{Server, Start};

const ROUNDS: u32 = 50;
const WRITERS: usize = 5;

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// From `QUIVER_SEED`, or the clock; says which.
    pub fn seeded(what: &str) -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
        let seed = std::env::var("QUIVER_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(clock);
        println!("{what}: QUIVER_SEED={seed}");
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What one writer sends.
#[derive(Clone, Copy)]
struct Writer {
    number: usize,
    /// Time of batch 0, ms.
    origin: i64,
}

impl Writer {
    fn in_order(self) -> bool {
        self.number != 1 && self.number != 3
    }

    /// Time of a batch: its samples lie at it and the two milliseconds after.
    fn time(self, batch: u64) -> i64 {
        if self.in_order() {
            return self.origin + batch as i64 * 500;
        }
        // Jumps over nine days and comes to every slot once.
        let slot = batch * 7919 % 16_381;
        self.origin - slot as i64 * 47_000
    }

    /// One number for each sample: exact as a float.
    fn number_of(self, batch: u64, series: usize, sample: usize) -> f64 {
        (self.number as u64 * 1_000_000_000 + batch * 1000 + series as u64 * 10 + sample as u64) as f64
    }

    fn native(self, batch: u64, series: usize, sample: usize) -> Native {
        let sum = self.number_of(batch, series, sample);
        let buckets = [1 + batch % 7, 2, 3 + sample as u64];
        let mut h = match series % 3 {
            2 => Native::custom(&[0.1, 1.0, 10.0], &buckets, sum),
            _ => Native::exponential(3, batch % 5, series as i32 - 4, &buckets, sum),
        };
        h.is_float = series % 3 == 1;
        h.is_gauge = series % 4 == 3;
        h
    }

    fn batch(self, batch: u64) -> Vec<Series> {
        let (w, t) = (self.number.to_string(), self.time(batch));
        let named = |name: &str, i: usize| Series::new(name, &[("w", &w), ("i", &i.to_string()), ("job", "survival")]);
        let float = |i: usize, n: usize| {
            // Later samples first: out of order within the request too.
            (0..n).rev().fold(named("survival_float", i), |s, k| s.float(t + k as i64, self.number_of(batch, i, k)))
        };
        let native = |i: usize, n: usize| {
            (0..n).rev().fold(named("survival_native", i), |s, k| s.histogram(t + k as i64, self.native(batch, i, k)))
        };
        match self.number {
            0 => (0..24).map(|i| float(i, 1)).collect(),
            1 => (0..12).map(|i| float(i, 3)).collect(),
            2 => (0..9).map(|i| native(i, 1)).collect(),
            3 => {
                let mut all: Vec<_> = (0..4).map(|i| float(i, 2)).chain((4..8).map(|i| native(i, 2))).collect();
                let once = Series::new("survival_float", &[("w", &w), ("i", "9"), ("once", &batch.to_string())]);
                all.push(once.float(t, self.number_of(batch, 9, 0)));
                all
            }
            _ => (0..40).map(|i| float(i, 1).since(t - 1000)).collect(),
        }
    }

    fn body(self, batch: u64) -> (&'static str, Vec<u8>) {
        let series = self.batch(batch);
        if self.number.is_multiple_of(2) && self.number != 0 { (V2, body_v2(&series)) } else { (V1, body_v1(&series)) }
    }
}

/// What a writer knows.
struct Ledger {
    writer: Writer,
    acknowledged: BTreeSet<u64>,
    under_way: Option<u64>,
    given_up: u64,
    next: u64,
}

impl Ledger {
    /// Sends until the server is gone.
    fn run(&mut self, mut client: Client, stop: &AtomicBool, random: &mut Random) {
        loop {
            let batch = match self.under_way {
                Some(b) => b,
                // Now and then one that is acknowledged already.
                None if self.next > 0 && random.below(16) == 0 => random.below(self.next),
                None => {
                    self.next += 1;
                    self.next - 1
                }
            };
            if !self.acknowledged.contains(&batch) {
                self.under_way = Some(batch);
            }
            let (content_type, body) = self.writer.body(batch);
            match post(&mut client, content_type, &body) {
                Ok(r) if r.status == 204 => {
                    self.acknowledged.insert(batch);
                    self.under_way = None;
                }
                // Busy, or shutting down: nothing of it was kept.
                Ok(r) if r.status == 429 || r.status == 503 => {}
                Ok(r) => panic!("batch {batch} of writer {}: {} {}", self.writer.number, r.status, r.text()),
                Err(_) => return,
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

fn key(labels: impl Iterator<Item = (String, String)>) -> String {
    let sorted: BTreeMap<_, _> = labels.collect();
    format!("{sorted:?}")
}

#[derive(Debug, PartialEq)]
enum Seen {
    Float(u64),
    Histogram { count: u64, sum: u64, buckets: Vec<u64> },
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

fn seen_histogram(h: &HistogramText) -> Seen {
    let buckets = h.buckets.iter().map(|b| number(&b.3) as u64).collect();
    Seen::Histogram { count: number(&h.count) as u64, sum: number(&h.sum).to_bits(), buckets }
}

fn expected(value: &Value) -> Seen {
    match value {
        Value::Float(v) => Seen::Float(v.to_bits()),
        Value::Histogram(h) => {
            let zero = (h.zero > 0).then_some(h.zero);
            Seen::Histogram {
                count: h.count(),
                sum: h.sum.to_bits(),
                buckets: zero.into_iter().chain(h.buckets.iter().copied()).collect(),
            }
        }
    }
}

/// Samples by series and time; a time that comes twice is a failure.
fn by_series(rows: Vec<Row>) -> HashMap<String, BTreeMap<i64, Seen>> {
    let mut out: HashMap<String, BTreeMap<i64, Seen>> = HashMap::new();
    for row in rows {
        let name = key(row.metric.into_iter());
        let samples = out.entry(name.clone()).or_default();
        let floats = row.values.iter().map(|(t, v)| (ms(*t), Seen::Float(number(v).to_bits())));
        let histograms = row.histograms.iter().map(|(t, h)| (ms(*t), seen_histogram(h)));
        for (t, value) in floats.chain(histograms) {
            assert!(samples.insert(t, value).is_none(), "{name} has two samples at {t}");
        }
    }
    out
}

/// Everything of a writer, compared with its ledger.
fn compare(server: &Server, ledger: &Ledger) -> usize {
    let w = ledger.writer;
    let mut wanted: HashMap<String, BTreeMap<i64, Seen>> = HashMap::new();
    let mut n = 0;
    for batch in &ledger.acknowledged {
        for s in w.batch(*batch) {
            let of = wanted.entry(key(s.labels.into_iter())).or_default();
            n += s.samples.len();
            of.extend(s.samples.iter().map(|s| (s.ts, expected(&s.value))));
        }
    }
    let times = || (0..ledger.next.max(1)).map(|b| w.time(b));
    let (from, to) = (times().min().unwrap_or(0) - 1000, times().max().unwrap_or(0) + 1000);
    let selector = format!("{{__name__=~\"survival_.*\", w=\"{}\"}}", w.number);
    let found = by_series(samples(server, &selector, to - from, to));
    for (series, samples) in &wanted {
        let have = found.get(series);
        for (t, value) in samples {
            let got = have.and_then(|h| h.get(t));
            assert_eq!(got, Some(value), "writer {}: {series} at {t}, acknowledged", w.number);
        }
    }
    for (series, samples) in &found {
        for t in samples.keys() {
            let known = wanted.get(series).is_some_and(|s| s.contains_key(t));
            assert!(known, "writer {}: {series} has a sample at {t} that was never acknowledged", w.number);
        }
    }
    n
}

/// Batches under way at the kill: whole or absent. The client sends most of them again, and gives some up.
fn judge_under_way(server: &Server, ledger: &mut Ledger, random: &mut Random) {
    let Some(batch) = ledger.under_way else { return };
    let w = ledger.writer;
    let sent: usize = w.batch(batch).iter().map(|s| s.samples.len()).sum();
    let selector = format!("{{__name__=~\"survival_.*\", w=\"{}\"}}", w.number);
    let t = w.time(batch);
    let found: usize = by_series(samples(server, &selector, 3, t + 2)).values().map(BTreeMap::len).sum();
    assert!(
        found == 0 || found == sent,
        "batch {batch} of writer {} was kept in part: {found} of {sent} samples",
        w.number
    );
    if random.below(4) == 0 {
        ledger.given_up += 1;
        ledger.under_way = None;
        if found > 0 {
            ledger.acknowledged.insert(batch);
        }
    }
}

fn compare_all(server: &Server, ledgers: &[Ledger]) -> usize {
    let wanted: usize = ledgers.iter().map(|l| compare(server, l)).sum();
    let rows = server.sql("SELECT count(*) FROM samples WHERE metric = 'survival_float' OR metric = 'survival_native'");
    assert_eq!(rows[0][0].as_u64(), Some(wanted as u64), "samples by SQL and by the ledger");
    wanted
}

#[test]
fn fifty_kills_under_remote_write_lose_nothing_acknowledged() {
    let begun = Instant::now();
    let mut random = Random::seeded("survival");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let origin = (now - 6 * 3_600_000) / 1000 * 1000;
    let mut ledgers: Vec<_> = (0..WRITERS)
        .map(|number| Ledger {
            writer: Writer { number, origin },
            acknowledged: BTreeSet::new(),
            under_way: None,
            given_up: 0,
            next: 0,
        })
        .collect();
    // Heads so small that they are flushed by themselves now and then.
    let mut server = Start::new().with(&["--head-bytes", "2MiB"]).ready();
    let (mut resent, mut flushes) = (0, 0);
    for round in 1..=ROUNDS {
        let stop = AtomicBool::new(false);
        let clients: Vec<_> = ledgers.iter().map(|_| (server.client(), Random(random.next()))).collect();
        let moment = Duration::from_millis(5 + random.below(350));
        let maintenance = (random.below(3) == 0).then(|| (random.below(200), random.below(3) == 0));
        flushes += u32::from(maintenance.is_some());
        std::thread::scope(|scope| {
            for (ledger, (client, mut random)) in ledgers.iter_mut().zip(clients) {
                let stop = &stop;
                scope.spawn(move || ledger.run(client, stop, &mut random));
            }
            if let Some((after, is_compaction)) = maintenance {
                let mut client = server.client();
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(after));
                    // May well be cut off.
                    let _ = client.post("/api/v1/admin/tsdb/flush", &[]);
                    if is_compaction {
                        let _ = client.post("/api/v1/admin/tsdb/compact", &[]);
                    }
                });
            }
            std::thread::sleep(moment);
            server.kill();
            stop.store(true, Ordering::Relaxed);
        });
        if random.below(6) == 0 {
            // Once more, while it starts and replays.
            server.restart_unready().unwrap_or_else(|e| panic!("round {round}: {e}"));
            std::thread::sleep(Duration::from_millis(random.below(30)));
            server.kill();
        }
        server.restart();
        for ledger in &mut ledgers {
            judge_under_way(&server, ledger, &mut random);
            resent += u32::from(ledger.under_way.is_some());
        }
        if round % 10 == 0 {
            // Batches under way may be there: settle them first.
            for ledger in &mut ledgers {
                if let Some(batch) = ledger.under_way.take() {
                    let (content_type, body) = ledger.writer.body(batch);
                    let r = post(&mut server.client(), content_type, &body).expect("an answer");
                    assert_eq!(r.status, 204, "{}", r.text());
                    ledger.acknowledged.insert(batch);
                }
            }
            let n = compare_all(&server, &ledgers);
            println!("survival: round {round}: {n} samples as they were acknowledged, {:.1?}", begun.elapsed());
        }
    }
    server.admin("flush");
    compare_all(&server, &ledgers);
    server.admin("compact");
    compare_all(&server, &ledgers);
    assert_eq!(server.terminate().code(), Some(0), "SIGTERM drains and ends with 0");
    server.restart();
    let n = compare_all(&server, &ledgers);
    let batches: usize = ledgers.iter().map(|l| l.acknowledged.len()).sum();
    let given_up: u64 = ledgers.iter().map(|l| l.given_up).sum();
    println!(
        "survival: {ROUNDS} kills, {batches} batches, {n} samples, {resent} sent again, {given_up} given up, \
         {flushes} rounds with a flush, {:.1?}",
        begun.elapsed()
    );
}
