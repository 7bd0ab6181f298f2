//! Histograms for tests.

use super::{CUSTOM_BUCKETS_SCHEMA, Histogram, Span};
use proptest::prelude::*;

/// Spans from pairs.
pub(crate) fn spans(v: &[(i32, u32)]) -> Vec<Span> {
    v.iter().map(|(offset, length)| Span { offset: *offset, length: *length }).collect()
}

/// A histogram with positive buckets; count is their sum, sum is 7.
pub(crate) fn histogram(schema: i32, positive: &[(i32, u32)], buckets: &[f64]) -> Histogram {
    Histogram {
        schema,
        count: buckets.iter().sum(),
        sum: 7.0,
        positive_spans: spans(positive),
        positive_buckets: buckets.to_vec(),
        ..Default::default()
    }
}

/// One with custom bounds.
pub(crate) fn custom(bounds: &[f64], positive: &[(i32, u32)], buckets: &[f64]) -> Histogram {
    Histogram { custom_values: bounds.to_vec(), ..histogram(CUSTOM_BUCKETS_SCHEMA, positive, buckets) }
}

fn any_side() -> impl Strategy<Value = (Vec<Span>, Vec<f64>)> {
    (-6i32..6, proptest::collection::vec((0i32..4, 1u32..4), 0..5)).prop_flat_map(|(first, mut s)| {
        if let Some(s) = s.first_mut() {
            s.0 = first;
        }
        let n: u32 = s.iter().map(|s| s.1).sum();
        (Just(spans(&s)), proptest::collection::vec((0u8..4).prop_map(f64::from), n as usize))
    })
}

/// A valid exponential histogram with small whole counts; the zero bucket ends where buckets of all schemas do and
/// holds no other bucket.
pub(crate) fn any_exponential() -> impl Strategy<Value = Histogram> {
    any_with_threshold(prop_oneof![Just(0.0), Just(0.0625), Just(1.0)]).prop_map(|mut h| {
        let zero = h.zero_threshold;
        let within: Vec<_> = h.positive_bucket_iterator().map(|b| b.upper <= zero).collect();
        h.positive_buckets.iter_mut().zip(within).filter(|(_, w)| *w).for_each(|(b, _)| *b = 0.0);
        let within: Vec<_> = h.negative_bucket_iterator().map(|b| -b.lower <= zero).collect();
        h.negative_buckets.iter_mut().zip(within).filter(|(_, w)| *w).for_each(|(b, _)| *b = 0.0);
        h.count = total(&h);
        h
    })
}

/// One whose zero bucket may overlap others.
pub(crate) fn any_overlapping() -> impl Strategy<Value = Histogram> {
    any_with_threshold(prop_oneof![Just(0.0), Just(0.001), Just(0.5), Just(1.5)])
}

fn any_with_threshold(threshold: impl Strategy<Value = f64>) -> impl Strategy<Value = Histogram> {
    (-2i32..=4, threshold, 0u8..4, any_side(), any_side()).prop_map(
        |(schema, zero_threshold, zero, (ps, pb), (ns, nb))| {
            let mut h = Histogram {
                schema,
                zero_threshold,
                zero_count: f64::from(zero),
                sum: 3.5,
                positive_spans: ps,
                positive_buckets: pb,
                negative_spans: ns,
                negative_buckets: nb,
                ..Default::default()
            };
            h.count = total(&h);
            h
        },
    )
}

/// A valid histogram with custom bounds among 1 to 8.
pub(crate) fn any_custom() -> impl Strategy<Value = Histogram> {
    proptest::collection::btree_set(1u8..9, 0..6).prop_flat_map(|bounds| {
        let bounds: Vec<f64> = bounds.into_iter().map(f64::from).collect();
        let n = bounds.len() + 1;
        (Just(bounds), proptest::collection::vec((0u8..4).prop_map(f64::from), n))
            .prop_map(|(bounds, buckets)| custom(&bounds, &[(0, buckets.len() as u32)], &buckets))
    })
}

/// Observations in all buckets.
pub(crate) fn total(h: &Histogram) -> f64 {
    h.zero_count + h.positive_buckets.iter().sum::<f64>() + h.negative_buckets.iter().sum::<f64>()
}
