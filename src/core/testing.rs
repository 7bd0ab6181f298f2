//! Batches for tests.

use proptest::prelude::*;
use quiver_model::{Exemplar, Histogram, Labels, Metadata, MetricKind, ResetHint, STALE_NAN, Span, WriteBatch};

/// A batch of float samples: (metric name, samples).
pub(crate) fn batch_of(series: &[(&str, &[(i64, f64)])]) -> WriteBatch {
    let mut b = WriteBatch::default();
    for (name, samples) in series {
        b.begin_series([("__name__", *name)]);
        samples.iter().for_each(|(t, v)| b.push_float(*t, *v, 0));
    }
    b
}

/// A small histogram of three kinds.
pub(crate) fn histogram(n: u8) -> Histogram {
    let f = f64::from(n);
    Histogram {
        reset_hint: [ResetHint::Unknown, ResetHint::Yes, ResetHint::No, ResetHint::Gauge][n as usize % 4],
        schema: if n % 5 == 4 { -53 } else { i32::from(n % 3) },
        zero_threshold: if n % 5 == 4 { 0.0 } else { 0.001 },
        zero_count: if n % 5 == 4 { 0.0 } else { f },
        count: 3.0 * f + if n.is_multiple_of(2) { 0.5 } else { 0.0 },
        sum: if n == 7 { STALE_NAN } else { f * 1.5 },
        positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: i32::from(n), length: 1 }],
        negative_spans: if n % 5 == 4 { vec![] } else { vec![Span { offset: -2, length: 1 }] },
        positive_buckets: vec![f, f + 1.0, 2.0],
        negative_buckets: if n % 5 == 4 { vec![] } else { vec![1.5] },
        custom_values: if n % 5 == 4 { vec![0.5, 1.0, 2.5] } else { vec![] },
    }
}

#[derive(Clone, Debug)]
enum Op {
    Float(i64, f64, i64),
    Histogram(i64, u8, i64),
    Exemplar(i64, u8),
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (0u8..4).prop_map(f64::from),
        2 => any::<u64>().prop_map(f64::from_bits),
        1 => Just(STALE_NAN),
        1 => Just(-0.0),
    ]
}

fn time() -> impl Strategy<Value = i64> {
    prop_oneof![
        8 => (0i64..400).prop_map(|t| 1_600_000_000_000 + t * 15_000),
        2 => 0i64..50,
        1 => Just(i64::MIN),
        1 => -5i64..5,
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let start = || prop_oneof![3 => Just(0i64), 1 => 1i64..4];
    prop_oneof![
        6 => (time(), value(), start()).prop_map(|(t, v, s)| Op::Float(t, v, s)),
        2 => (time(), 0u8..10, start()).prop_map(|(t, n, s)| Op::Histogram(t, n, s)),
        1 => (time(), 0u8..5).prop_map(|(t, n)| Op::Exemplar(t, n)),
    ]
}

/// Any batch over a few label sets.
pub(crate) fn arbitrary_batch(series_max: usize) -> impl Strategy<Value = WriteBatch> {
    let one = (0u8..6, proptest::collection::vec(op(), 0..12));
    let metadata = proptest::collection::vec((0u8..3, 0u32..8), 0..2);
    (proptest::collection::vec(one, 0..=series_max), metadata).prop_map(|(series, metadata)| {
        let mut b = WriteBatch::default();
        for (name, ops) in series {
            let (metric, instance) = (format!("m{}", name / 2), format!("host-{name}"));
            b.begin_series([("__name__", metric.as_str()), ("instance", instance.as_str())]);
            for op in ops {
                match op {
                    Op::Float(t, v, s) => b.push_float(t, v, s),
                    Op::Histogram(t, n, s) => b.push_histogram(t, histogram(n), s),
                    Op::Exemplar(ts, n) => {
                        let labels = Labels::from_pairs([("trace_id", format!("t{n}"))]).unwrap_or_default();
                        b.push_exemplar(Exemplar { labels, value: f64::from(n), ts });
                    }
                }
            }
        }
        for (name, n) in metadata {
            let m = Metadata { kind: MetricKind::from_number(n), unit: "s".into(), help: format!("help {n}") };
            b.metadata.push((format!("m{name}"), m));
        }
        b
    })
}
