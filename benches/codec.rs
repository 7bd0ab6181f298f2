//! Bytes per sample and speed of every codec, per kind of series and per codec.
//!
//! `cargo bench --bench codec`; `cargo bench --bench codec -- FILE` adds the series of a dump: u32 series, u32 samples,
//! then for each series its labels (u32 count; u32 length and bytes of name and value) and (i64 time, f64 value) pairs.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quiver_model::{Histogram, Need, STALE_NAN, SampleColumn, Span, TimeRange};
use quiver_storage::codec::TimeColumn;
use quiver_storage::{Chunk, Decoder, Encoder, TimeInterner};

/// A small generator, so that runs compare.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn kinds(samples: usize) -> Vec<(&'static str, Vec<f64>)> {
    let mut r = Random(7);
    let mut series = |f: &mut dyn FnMut(usize, &mut Random) -> f64| (0..samples).map(|i| f(i, &mut r)).collect();
    let (mut sum, mut level, mut walk, mut total) = (0u64, 3u64, 0.0, 0u64);
    vec![
        ("constant", series(&mut |_, _| 1.0)),
        (
            "rare change",
            series(&mut |_, r| {
                if r.below(50) == 0 {
                    level = r.below(9);
                }
                level as f64
            }),
        ),
        ("small gauge", series(&mut |_, r| 20.0 + r.below(6) as f64)),
        (
            "counter",
            series(&mut |_, r| {
                sum += 90 + r.below(20);
                sum as f64
            }),
        ),
        (
            "cpu seconds",
            series(&mut |_, r| {
                total += 1400 + r.below(100);
                total as f64 / 100.0
            }),
        ),
        ("memory bytes", series(&mut |_, r| (8_000_000_000 + 4096 * r.below(30_000)) as f64)),
        ("6 decimals", series(&mut |_, r| r.below(1_000_000) as f64 / 1e6)),
        (
            "random walk",
            series(&mut |_, r| {
                walk += r.unit() - 0.5;
                walk
            }),
        ),
        ("noise", series(&mut |_, r| r.unit())),
        ("gauge, gone at times", series(&mut |i, r| if i % 97 == 96 { STALE_NAN } else { r.below(50) as f64 / 10.0 })),
    ]
}

/// A native histogram of latencies, scraped every 15 s: 40 buckets that all may grow.
fn histograms(samples: usize) -> SampleColumn {
    let mut r = Random(9);
    let mut column = SampleColumn::default();
    let mut buckets = vec![0.0; 40];
    let mut sum = 0.0;
    for i in 0..samples {
        for _ in 0..r.below(60) {
            let at = (r.below(20) + r.below(21)) as usize;
            buckets[at] += 1.0;
            sum += 0.001 * (1 + at) as f64;
        }
        let h = Histogram {
            schema: 3,
            zero_threshold: 1e-128,
            count: buckets.iter().sum(),
            sum,
            positive_spans: vec![Span { offset: -20, length: 40 }],
            positive_buckets: buckets.clone(),
            ..Histogram::default()
        };
        column.push_histogram(START + i as i64 * STEP, Arc::new(h), 0);
    }
    column
}

const START: i64 = 1_700_000_000_000;
const STEP: i64 = 15_000;

fn best<T>(mut f: impl FnMut() -> T) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        black_box(f());
        best = best.min(start.elapsed());
    }
    best
}

/// Bytes of values as they stand in memory: of a histogram its buckets, spans and sums.
fn plain(c: &SampleColumn, range: Range<usize>) -> usize {
    let of = |i| match c.histogram_at(i) {
        None => 8,
        Some(h) => {
            let spans = h.positive_spans.len() + h.negative_spans.len();
            8 * (h.positive_buckets.len() + h.negative_buckets.len() + h.custom_values.len() + spans + 4)
        }
    };
    range.map(of).sum()
}

struct Row {
    samples: usize,
    plain: usize,
    bytes: usize,
    encode: Duration,
    decode: Duration,
    codecs: BTreeMap<&'static str, usize>,
}

/// What one codec was used for.
#[derive(Default)]
struct Use {
    chunks: Vec<Chunk>,
    samples: usize,
    plain: usize,
    bytes: usize,
}

type Uses = BTreeMap<&'static str, Use>;

fn measure(columns: &[SampleColumn], chunk: usize, repeat: usize, uses: &mut Uses) -> Row {
    let mut times = TimeInterner::default();
    let shared: Vec<Vec<_>> = columns.iter().map(|c| c.ts.chunks(chunk).map(|ts| times.intern(ts)).collect()).collect();
    let mut encoder = Encoder::new();
    let mut all = || -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for (c, times) in columns.iter().zip(&shared) {
            for (k, time) in times.iter().enumerate() {
                let range = k * chunk..c.len().min((k + 1) * chunk);
                chunks.push(encoder.encode_with(time.clone(), c, range));
            }
        }
        chunks
    };
    let chunks = all();
    let encode = best(&mut all);
    let mut decoder = Decoder::new();
    let mut out = SampleColumn::default();
    let decode = best(|| {
        for _ in 0..repeat {
            for c in &chunks {
                out.clear();
                if decoder.decode_into(c.as_ref(), Need::ALL, TimeRange::ALL, &mut out).is_err() {
                    eprintln!("a chunk did not decode");
                }
                black_box(&out);
            }
        }
    }) / repeat as u32;
    let mut at = chunks.iter();
    for c in columns {
        out.clear();
        while out.len() < c.len() {
            let Some(chunk) = at.next() else { break };
            let _ = decoder.decode_into(chunk.as_ref(), Need::ALL, TimeRange::ALL, &mut out);
        }
        assert_eq!(out.ts, c.ts);
        assert!(out.values.iter().zip(&c.values).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
    let mut codecs = BTreeMap::new();
    let ranges = columns.iter().flat_map(|c| (0..c.len()).step_by(chunk).map(move |k| (c, k..c.len().min(k + chunk))));
    for (c, (column, range)) in chunks.iter().zip(ranges) {
        let is_histogram = c.as_ref().kinds().histograms;
        let name = if is_histogram { "histogram" } else { c.as_ref().codec_name() };
        *codecs.entry(name).or_insert(0) += c.payload().len();
        let u = uses.entry(name).or_default();
        u.samples += c.count();
        u.plain += plain(column, range);
        u.bytes += c.payload().len();
        u.chunks.push(c.clone());
    }
    Row {
        samples: columns.iter().map(SampleColumn::len).sum(),
        plain: columns.iter().map(|c| plain(c, 0..c.len())).sum(),
        bytes: chunks.iter().map(|c| c.payload().len()).sum(),
        encode,
        decode,
        codecs,
    }
}

fn print(name: &str, row: &Row) {
    let per_second = |d: Duration| row.samples as f64 / d.as_secs_f64() / 1e6;
    let total = row.bytes as f64;
    let width = 8.0 + row.plain as f64 / row.samples as f64;
    let codecs: Vec<String> =
        row.codecs.iter().map(|(n, b)| format!("{n} {:.0}%", 100.0 * *b as f64 / total)).collect();
    println!(
        "{name:<24} {:>8.3} {:>10.1} {:>10.1} {:>12.0} {:>12.0}  {}",
        total / row.samples as f64,
        per_second(row.encode),
        per_second(row.decode),
        width * per_second(row.encode),
        width * per_second(row.decode),
        codecs.join(", ")
    );
}

fn dump(path: &str) -> std::io::Result<Vec<SampleColumn>> {
    let bytes = std::fs::read(path)?;
    let mut at = 0;
    let mut word = |n: usize| {
        let mut b = [0; 8];
        b[..n].copy_from_slice(&bytes[at..at + n]);
        at += n;
        u64::from_le_bytes(b)
    };
    let (series, samples) = (word(4), word(4));
    let mut columns = Vec::new();
    for _ in 0..series {
        for _ in 0..2 * word(4) {
            for _ in 0..word(4) {
                word(1);
            }
        }
        let mut c = SampleColumn::default();
        for _ in 0..samples {
            let t = word(8) as i64;
            c.push_float(t, f64::from_bits(word(8)), 0);
        }
        columns.push(c);
    }
    Ok(columns)
}

/// Every codec over all that it was picked for.
fn by_codec(uses: &Uses) {
    println!("\n{:<24} {:>8} {:>8} {:>10} {:>12}", "by codec", "B/sample", "ratio", "M dec/s", "dec MB/s");
    for (name, u) in uses {
        let (mut decoder, mut out) = (Decoder::new(), SampleColumn::default());
        let time = best(|| {
            for c in &u.chunks {
                out.clear();
                let _ = decoder.decode_into(c.as_ref(), Need::ALL, TimeRange::ALL, &mut out);
                black_box(&out);
            }
        });
        let (bytes, per_second) = (u.bytes as f64 / u.samples as f64, u.samples as f64 / time.as_secs_f64() / 1e6);
        let width = u.plain as f64 / u.samples as f64;
        println!("{name:<24} {bytes:>8.3} {:>8.1} {per_second:>10.1} {:>12.0}", width / bytes, width * per_second);
    }
}

/// Columns of times, which series share.
fn times() {
    println!("\n{:<24} {:>8} {:>10} {:>10}", "times, 480 each", "B/sample", "M enc/s", "M dec/s");
    let mut r = Random(3);
    let mut jittered =
        |ms: u64| (0..480).map(|i| START + i * STEP + r.below(2 * ms + 1) as i64 - ms as i64).collect::<Vec<_>>();
    let mut gap = jittered(0);
    gap[200..].iter_mut().for_each(|t| *t += 10 * STEP);
    for (name, ts) in [("regular", jittered(0)), ("one gap", gap), ("±5 ms", jittered(5)), ("±500 ms", jittered(500))]
    {
        let column = TimeColumn::encode(&ts);
        let encode = best(|| (0..200).map(|_| TimeColumn::encode(&ts).bytes().len()).sum::<usize>());
        let mut out = Vec::new();
        let decode = best(|| {
            for _ in 0..200 {
                out.clear();
                let _ = column.decode(&mut out);
                black_box(&out);
            }
        });
        let per_second = |d: Duration| 200.0 * ts.len() as f64 / d.as_secs_f64() / 1e6;
        let bytes = column.bytes().len() as f64 / ts.len() as f64;
        println!("{name:<24} {bytes:>8.3} {:>10.1} {:>10.1}", per_second(encode), per_second(decode));
    }
}

fn main() {
    let mut uses = Uses::new();
    println!(
        "{:<24} {:>8} {:>10} {:>10} {:>12} {:>12}  (payload bytes by codec)",
        "480-sample chunks", "B/sample", "M enc/s", "M dec/s", "enc MB/s", "dec MB/s"
    );
    for (name, values) in kinds(480 * 40) {
        let mut column = SampleColumn::default();
        for (i, v) in values.into_iter().enumerate() {
            column.push_float(START + i as i64 * STEP, v, 0);
        }
        print(name, &measure(&[column], 480, 20, &mut uses));
    }
    print("histogram, 40 buckets", &measure(&[histograms(480 * 4)], 480, 5, &mut uses));
    let file = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    if let Some(path) = file {
        match dump(&path) {
            Ok(columns) => {
                for chunk in [120, 240, 480, 1440] {
                    print(&format!("dump, {chunk} samples"), &measure(&columns, chunk, 1, &mut uses));
                }
            }
            Err(e) => eprintln!("{path}: {e}"),
        }
    }
    by_codec(&uses);
    times();
}
