//! Writers with ledgers: what was sent follows from a writer and a number, so a ledger is a list of numbers.
//!
//! Five writers: in order and out of order, floats and histograms, 1.0 and 2.0, new series with every batch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::http::Client;
use crate::matrix::{HistogramText, Row, ms, samples};
use crate::remote_write::{Native, Series, V1, V2, Value, body_v1, body_v2, post};
use crate::server::Server;

const WRITERS: usize = 5;
/// So long a server may say that it is busy when nothing else is asked of it.
const SETTLE_MAX: Duration = Duration::from_secs(20);

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

    /// From a number.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another one, that goes its own way.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What one writer sends.
#[derive(Clone, Copy)]
pub struct Writer {
    /// Which one.
    pub number: usize,
    /// Time of batch 0, ms.
    pub origin: i64,
}

impl Writer {
    /// Does it send by time?
    pub fn in_order(self) -> bool {
        self.number != 1 && self.number != 3
    }

    /// Time of a batch: its samples lie at it and the two milliseconds after.
    pub fn time(self, batch: u64) -> i64 {
        if self.in_order() {
            return self.origin + batch as i64 * 500;
        }
        // Jumps over nine days and comes to every slot once; when it has, again, a little later in each.
        let (slot, round) = (batch * 7919 % 16_381, batch / 16_381);
        self.origin - slot as i64 * 47_000 + round as i64 * 5
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

    /// A batch, which follows from its number alone.
    pub fn batch(self, batch: u64) -> Vec<Series> {
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

    /// The body of a request and its type.
    pub fn body(self, batch: u64) -> (&'static str, Vec<u8>) {
        let series = self.batch(batch);
        if self.number.is_multiple_of(2) && self.number != 0 { (V2, body_v2(&series)) } else { (V1, body_v1(&series)) }
    }
}

/// What a writer knows.
pub struct Ledger {
    /// Who.
    pub writer: Writer,
    /// Batches that were acknowledged.
    pub acknowledged: BTreeSet<u64>,
    /// The one whose answer has not come.
    pub under_way: Option<u64>,
    /// Batches that are not sent again.
    pub given_up: u64,
    /// The first that was never sent.
    pub next: u64,
    /// Answers 429 and 503.
    pub refused: u64,
}

impl Ledger {
    /// Sends until the server is gone, or until it is told to stop.
    pub fn run(&mut self, mut client: Client, stop: &AtomicBool, random: &mut Random) {
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
                // Busy, full, or shutting down: nothing of it was kept.
                Ok(r) if r.status == 429 || r.status == 503 => {
                    self.refused += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
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

/// All writers.
pub struct Load {
    /// What each knows.
    pub ledgers: Vec<Ledger>,
}

impl Load {
    /// Five writers, their batches from six hours ago on.
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        let origin = (now - 6 * 3_600_000) / 1000 * 1000;
        let ledger = |number| Ledger {
            writer: Writer { number, origin },
            acknowledged: BTreeSet::new(),
            under_way: None,
            given_up: 0,
            next: 0,
            refused: 0,
        };
        Self { ledgers: (0..WRITERS).map(ledger).collect() }
    }

    /// All write while `during` runs, and until what is under way then is answered.
    pub fn run<T>(&mut self, server: &mut Server, random: &mut Random, during: impl FnOnce(&mut Server) -> T) -> T {
        let stop = AtomicBool::new(false);
        let clients: Vec<_> = self.ledgers.iter().map(|_| (server.client(), random.fork())).collect();
        std::thread::scope(|scope| {
            for (ledger, (client, mut random)) in self.ledgers.iter_mut().zip(clients) {
                let stop = &stop;
                scope.spawn(move || ledger.run(client, stop, &mut random));
            }
            let out = during(server);
            stop.store(true, Ordering::Relaxed);
            out
        })
    }

    /// Batches under way at the end of a server are there whole or not at all. How many are to be sent again.
    pub fn judge(&mut self, server: &Server, random: &mut Random) -> u32 {
        let mut resent = 0;
        for ledger in &mut self.ledgers {
            judge_under_way(server, ledger, random);
            resent += u32::from(ledger.under_way.is_some());
        }
        resent
    }

    /// Sends what is under way again, to its acknowledgement; a server that is busy is asked again.
    pub fn settle(&mut self, server: &Server) {
        let begun = Instant::now();
        for ledger in &mut self.ledgers {
            if let Some(batch) = ledger.under_way.take() {
                let (content_type, body) = ledger.writer.body(batch);
                loop {
                    let r = post(&mut server.client(), content_type, &body).expect("an answer");
                    let is_busy = r.status == 429 || r.status == 503;
                    assert!(r.status == 204 || is_busy && begun.elapsed() < SETTLE_MAX, "{} {}", r.status, r.text());
                    if !is_busy {
                        break;
                    }
                    ledger.refused += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                ledger.acknowledged.insert(batch);
            }
        }
    }

    /// Compares everything with the ledgers; samples there are.
    pub fn compare(&self, server: &Server) -> usize {
        let wanted: usize = self.ledgers.iter().map(|l| compare(server, l)).sum();
        let rows =
            server.sql("SELECT count(*) FROM samples WHERE metric = 'survival_float' OR metric = 'survival_native'");
        assert_eq!(rows[0][0].as_u64(), Some(wanted as u64), "samples by SQL and by the ledger");
        wanted
    }

    /// Batches acknowledged.
    pub fn batches(&self) -> usize {
        self.ledgers.iter().map(|l| l.acknowledged.len()).sum()
    }

    /// Batches given up.
    pub fn given_up(&self) -> u64 {
        self.ledgers.iter().map(|l| l.given_up).sum()
    }

    /// Answers 429 and 503.
    pub fn refused(&self) -> u64 {
        self.ledgers.iter().map(|l| l.refused).sum()
    }
}
