//! Was a counter reset between two histograms?

use super::bounds::bound_exponential;
use super::layout::Positions;
use super::schema::{is_exponential_schema, target_index};
use super::{Bucket, Histogram, ResetHint, Span, custom_bucket_bounds_match};

impl Histogram {
    /// Was the counter reset between `previous` and this histogram? True where any count but the sum has fallen or a
    /// populated bucket has gone, where the resolution has risen or the zero bucket shrunk, or where the hint says so;
    /// a hint that there was none is believed.
    pub fn detect_reset(&self, previous: &Histogram) -> bool {
        match self.reset_hint {
            ResetHint::Yes => return true,
            ResetHint::No => return false,
            ResetHint::Unknown | ResetHint::Gauge => {}
        }
        if self.count < previous.count {
            return true;
        }
        if self.uses_custom_buckets() {
            if !previous.uses_custom_buckets() {
                return true;
            }
            if !custom_bucket_bounds_match(&self.custom_values, &previous.custom_values) {
                return self.detect_reset_with_mismatched_bounds(previous);
            }
        }
        if self.schema > previous.schema || self.zero_threshold < previous.zero_threshold {
            return true;
        }
        let (zero, threshold, _) = previous.zero_count_for_larger_threshold(self.zero_threshold, None);
        if threshold != self.zero_threshold || self.zero_count < zero {
            return true;
        }
        let (now, was) = (self.schema, previous.schema);
        let fell = |spans, buckets, was_spans, was_buckets| {
            any_fell(
                Merged::new(spans, buckets, now, now, self.zero_threshold),
                Merged::new(was_spans, was_buckets, was, now, self.zero_threshold),
            )
        };
        fell(&self.positive_spans, &self.positive_buckets, &previous.positive_spans, &previous.positive_buckets)
            || fell(&self.negative_spans, &self.negative_buckets, &previous.negative_spans, &previous.negative_buckets)
    }

    /// Custom bounds differ: compares the counts between the bounds in common.
    fn detect_reset_with_mismatched_bounds(&self, previous: &Histogram) -> bool {
        let (mut now, mut was) =
            (UpTo::new(self.positive_bucket_iterator()), UpTo::new(previous.positive_bucket_iterator()));
        let common = super::intersect_custom_bucket_bounds(&self.custom_values, &previous.custom_values);
        common.into_iter().chain([f64::INFINITY]).any(|bound| now.sum(bound) < was.sum(bound))
    }
}

/// Sums buckets from where it stopped before up to a bound.
struct UpTo<I: Iterator<Item = Bucket>>(std::iter::Peekable<I>);

impl<I: Iterator<Item = Bucket>> UpTo<I> {
    fn new(buckets: I) -> Self {
        Self(buckets.peekable())
    }

    fn sum(&mut self, bound: f64) -> f64 {
        let mut sum = 0.0;
        while let Some(b) = self.0.next_if(|b| b.upper <= bound) {
            sum += b.count;
        }
        sum
    }
}

/// Buckets of one side as (index, count), merged to a coarser schema, without those in the zero bucket.
struct Merged<'a> {
    positions: std::iter::Peekable<Positions<'a>>,
    buckets: &'a [f64],
    from: i32,
    to: i32,
    beyond: Option<f64>,
}

impl<'a> Merged<'a> {
    fn new(spans: &'a [Span], buckets: &'a [f64], from: i32, to: i32, threshold: f64) -> Self {
        let beyond = (threshold != 0.0 && is_exponential_schema(to)).then_some(threshold);
        Self { positions: Positions::new(spans, buckets.len()).peekable(), buckets, from, to, beyond }
    }
}

impl Iterator for Merged<'_> {
    type Item = (i32, f64);

    fn next(&mut self) -> Option<(i32, f64)> {
        let merge = |i: i32, from: i32, to: i32| if from == to { i } else { target_index(i, from, to) };
        loop {
            let (index, at) = self.positions.next()?;
            let index = merge(index, self.from, self.to);
            let mut count = self.buckets[at];
            if self.from != self.to {
                count += 0.0;
                while let Some((_, at)) = self.positions.next_if(|(i, _)| merge(*i, self.from, self.to) == index) {
                    count += self.buckets[at];
                }
            }
            match self.beyond {
                Some(threshold) if bound_exponential(index, self.to) <= threshold => {}
                _ => {
                    self.beyond = None;
                    return Some((index, count));
                }
            }
        }
    }
}

/// Is any populated bucket of `was` missing from `now`, or larger than there?
fn any_fell(mut now: Merged<'_>, was: Merged<'_>) -> bool {
    let mut current = now.next();
    for (index, count) in was {
        while current.is_some_and(|(i, _)| i < index) {
            current = now.next();
        }
        match current {
            Some((i, c)) if i == index => {
                if c < count {
                    return true;
                }
            }
            _ => {
                if count != 0.0 {
                    return true;
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::testing::{any_custom, any_exponential, any_overlapping, custom, histogram};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn hints_are_believed() {
        let low = histogram(0, &[(0, 1)], &[1.0]);
        let mut high = histogram(0, &[(0, 1)], &[5.0]);
        assert!(low.detect_reset(&high) && !high.detect_reset(&low));
        high.reset_hint = ResetHint::Yes;
        assert!(high.detect_reset(&low));
        let low = Histogram { reset_hint: ResetHint::No, ..low };
        assert!(!low.detect_reset(&high));
    }

    #[test]
    fn buckets_that_fall_or_go() {
        let was = histogram(0, &[(0, 1), (1, 1)], &[1.0, 2.0]);
        let reset = |spans: &[(i32, u32)], buckets: &[f64]| {
            let mut h = histogram(0, spans, buckets);
            h.count = 100.0;
            h.detect_reset(&was)
        };
        assert!(!reset(&[(0, 4)], &[1.0, 0.0, 2.0, 9.0]));
        assert!(reset(&[(0, 4)], &[1.0, 0.0, 1.0, 9.0]));
        assert!(reset(&[(0, 2)], &[5.0, 5.0]));
        assert!(reset(&[], &[]));
        // A finer schema means a restart, a coarser one does not.
        let mut finer = histogram(1, &[(0, 9)], &[9.0; 9]);
        assert!(finer.detect_reset(&was));
        finer.schema = -1;
        assert!(!finer.detect_reset(&was));
    }

    #[test]
    fn a_wider_zero_bucket() {
        let was = histogram(0, &[(-3, 2), (5, 1)], &[1.0, 2.0, 4.0]);
        let mut now = histogram(0, &[(4, 1)], &[4.0]);
        now.count = 7.0;
        now.zero_count = 3.0;
        now.zero_threshold = 0.25;
        assert!(!now.detect_reset(&was));
        now.zero_count = 2.0;
        assert!(now.detect_reset(&was));
        now.zero_count = 3.0;
        now.zero_threshold = 0.2; // Within a populated bucket.
        assert!(now.detect_reset(&was));
    }

    #[test]
    fn differing_custom_bounds() {
        let was = custom(&[1.0, 2.0, 3.0], &[(0, 4)], &[1.0, 2.0, 3.0, 4.0]);
        assert!(!custom(&[2.0, 5.0], &[(0, 3)], &[3.0, 6.0, 1.0]).detect_reset(&was));
        assert!(custom(&[2.0, 5.0], &[(0, 3)], &[2.0, 6.0, 3.0]).detect_reset(&was));
        assert!(custom(&[2.0], &[(0, 1)], &[10.0]).detect_reset(&was));
        assert!(custom(&[1.0], &[(0, 2)], &[9.0, 9.0]).detect_reset(&histogram(0, &[], &[])));
    }

    /// The definition, by way of complete maps of buckets.
    fn naive(now: &Histogram, was: &Histogram) -> bool {
        if now.count < was.count || now.schema > was.schema || now.zero_threshold < was.zero_threshold {
            return true;
        }
        let mut zero = was.zero_count;
        let mut split = false;
        for b in was.positive_bucket_iterator().chain(was.negative_bucket_iterator()) {
            let (near, far) = (b.lower.abs().min(b.upper.abs()), b.lower.abs().max(b.upper.abs()));
            if was.zero_threshold != now.zero_threshold && near < now.zero_threshold {
                zero += b.count;
                split |= far > now.zero_threshold && b.count != 0.0;
            }
        }
        if split || now.zero_count < zero {
            return true;
        }
        let side = |h: &Histogram, positive: bool| {
            let mut h = h.clone();
            if h.schema > now.schema {
                h.reduce_resolution(now.schema).unwrap();
            }
            let it = if positive { h.positive_bucket_iterator() } else { h.negative_bucket_iterator() };
            it.filter(|b| b.lower.abs().max(b.upper.abs()) > now.zero_threshold)
                .map(|b| (b.index, b.count))
                .collect::<BTreeMap<i32, f64>>()
        };
        [true, false].into_iter().any(|positive| {
            let n = side(now, positive);
            side(was, positive).into_iter().any(|(i, c)| n.get(&i).copied().unwrap_or(0.0) < c)
        })
    }

    proptest! {
        #[test]
        fn as_the_naive_way(a in any_overlapping(), b in any_overlapping(), grown in any::<bool>()) {
            let mut now = b;
            now.count += 1000.0;
            if grown {
                now.add(&a).unwrap();
            }
            prop_assert_eq!(now.detect_reset(&a), naive(&now, &a));
        }

        #[test]
        fn no_reset_from_adding(a in any_exponential(), b in any_exponential()) {
            let mut sum = a.clone();
            sum.add(&b).unwrap();
            prop_assert!(!sum.detect_reset(&a));
            prop_assert!(!sum.detect_reset(&b));
        }

        #[test]
        fn no_reset_from_adding_custom(a in any_custom(), b in any_custom()) {
            let mut sum = a.clone();
            sum.add(&b).unwrap();
            prop_assert!(!sum.detect_reset(&a) && !sum.detect_reset(&b));
        }
    }
}
