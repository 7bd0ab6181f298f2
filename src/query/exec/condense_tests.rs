//! Windows answered from chunk headers give the bits that all samples give: the store, which condenses, against the memory
//! store, which does not.

use std::sync::Arc;

use quiver_core::memory::MemoryStore;
use quiver_core::{Ingest, Maintain, ReadStats, SelectOptions, Source, Store, StoreOptions, TimeRange};
use quiver_model::{Histogram, Matcher, STALE_NAN, SampleColumn, WriteBatch};

use crate::answer::{Answer, AnswerValue};
use crate::context::Features;
use crate::engine::tests::ask;
use crate::engine::{Engine, EngineOptions};
use crate::kernels::range::{RangeFn, RangeSpec};

const START: i64 = 1_700_000_000_000;
const STEP: i64 = 15_000;
const SAMPLES: i64 = 3000;

fn random(seed: &mut u64, n: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % n
}

/// Samples `from..to` of all series, of every kind that a header may or may not speak for.
fn batch(from: i64, to: i64) -> WriteBatch {
    let mut b = WriteBatch::default();
    for kind in 0..9 {
        b.begin_series([("__name__", "m_total"), ("kind", kind.to_string().as_str())]);
        let mut seed = kind;
        for k in 0..to {
            let noise = random(&mut seed, 1000);
            let t = START + k * STEP;
            let v = match kind {
                0 => 4.0,
                1 => (k * 100 + (noise % 100) as i64) as f64,
                // Falls now and then.
                2 => ((k % 700) * 10 + (noise % 10) as i64) as f64,
                3 => (noise % 7) as f64 / 10.0 - 0.3,
                // Zeros of both signs, in chunks that never fall, too.
                4 => [-0.0, 0.0][(noise % 2) as usize],
                5 if noise == 0 => f64::NAN,
                6 if noise < 2 => STALE_NAN,
                7 if k % 900 > 700 => continue,
                8 if noise == 1 => f64::INFINITY,
                _ => (noise % 50) as f64,
            };
            if k < from {
            } else if kind == 3 && k > 2800 {
                let h = Histogram { count: k as f64, sum: 1.0, ..Histogram::default() };
                b.push_histogram(t, h, 0);
            } else {
                b.push_float(t, v, 0);
            }
        }
    }
    b
}

fn options() -> EngineOptions {
    let features = Features { experimental_functions: true, ..Features::default() };
    EngineOptions { features, ..EngineOptions::default() }
}

fn bits(a: &Answer) -> Vec<String> {
    let (AnswerValue::Vector(list) | AnswerValue::Matrix(list)) = &a.value else { panic!("series") };
    let point = |(t, v): &(i64, f64)| format!("{t}:{v}:{:x}", v.to_bits());
    list.iter()
        .map(|s| {
            let points: Vec<_> = s.floats.iter().map(point).collect();
            format!("{} {} {} histograms", s.labels, points.join(" "), s.histograms.len())
        })
        .collect()
}

#[test]
fn answers_from_headers_are_those_of_all_samples() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_dir(dir.path(), StoreOptions { background: false, ..StoreOptions::default() }).unwrap();
    store.wait_until_ready();
    let oracle = Arc::new(MemoryStore::new());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let write = |b: WriteBatch| {
        oracle.write_now(&b).unwrap();
        runtime.block_on(store.write(b)).unwrap();
    };
    write(batch(0, 1000));
    runtime.block_on(store.flush()).unwrap();
    write(batch(1000, 1900));
    runtime.block_on(store.flush()).unwrap();
    // What is in the head now has sealed chunks; and one series gets late samples that overlap its blocks.
    write(batch(1900, SAMPLES));
    let mut late = WriteBatch::default();
    late.begin_series([("__name__", "m_total"), ("kind", "1")]);
    (0..40).for_each(|k| late.push_float(START + (700 + k) * STEP + 5000, 0.5, 0));
    write(late);

    let compare = || {
        let one = Engine::new(store.clone(), options()).unwrap();
        let other = Engine::new(oracle.clone(), options()).unwrap();
        let mut seed = 11;
        for f in [
            "count_over_time",
            "present_over_time",
            "ts_of_first_over_time",
            "ts_of_last_over_time",
            "first_over_time",
            "last_over_time",
            "delta",
            "rate",
            "increase",
            "resets",
            "changes",
            "min_over_time",
            "max_over_time",
            "sum_over_time",
            "quantile_over_time",
        ] {
            for range in ["30m", "2h", "6h", "12h"] {
                let argument = if f == "quantile_over_time" { "0.5, " } else { "" };
                for step_h in [0, 1, 3, 5] {
                    let query = format!("{f}({argument}m_total[{range}])");
                    let start =
                        START + random(&mut seed, SAMPLES as u64) as i64 * STEP + random(&mut seed, 3) as i64 * 7000;
                    let end = if step_h == 0 { start } else { start + 12 * 3_600_000 };
                    let a = ask(&one, &query, start, end, step_h * 3_600_000).unwrap();
                    let b = ask(&other, &query, start, end, step_h * 3_600_000).unwrap();
                    assert_eq!(bits(&a), bits(&b), "{query} from {start} every {step_h} h");
                    assert_eq!(
                        a.stats.queryable_samples, b.stats.queryable_samples,
                        "{query} from {start} every {step_h} h"
                    );
                    assert_eq!(a.annotations, b.annotations, "{query}");
                }
            }
        }
    };
    compare();

    // And headers were what answered: of twelve hours only the ends are decoded.
    let spec = RangeSpec::new(RangeFn::Max, 12 * 3_600_000);
    let end = START + (SAMPLES - 5) * STEP;
    let how = spec.condense(&crate::exec::tile::StepGrid { start: end, step: 1, len: 1 }).unwrap();
    let reads = Arc::new(ReadStats::default());
    let options = SelectOptions { reads: Some(Arc::clone(&reads)), ..SelectOptions::default() };
    let range = TimeRange { min: end - 12 * 3_600_000 + 1, max: end };
    let set = store.snapshot().select_with(&[Matcher::equal("kind", "2")], range, 9, &options, None).unwrap();
    let (mut column, mut weights) = (SampleColumn::default(), Vec::new());
    set.read_condensed(0, range, quiver_core::Need::ALL, &how, &mut column, &mut weights).unwrap();
    let counts = reads.counts();
    assert!(counts.headers >= 4 && counts.chunks() <= 2, "{counts:?}");
    assert!(column.len() < 1000, "{} samples", column.len());
    let stand_for: u64 = (0..column.len()).map(|i| weights.get(i).copied().map_or(1, u64::from)).sum();
    assert_eq!(stand_for, 2880);

    runtime.block_on(store.compact()).unwrap();
    compare();
}
