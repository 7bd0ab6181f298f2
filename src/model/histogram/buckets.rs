//! Buckets with their boundaries, and the iterators over them.

use super::bounds::bound;
use super::layout::{Positions, ReversePositions};
use super::{CUSTOM_BUCKETS_SCHEMA, Histogram, Span};
use crate::number::log2;

/// One bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bucket {
    /// Lower boundary.
    pub lower: f64,
    /// Upper boundary.
    pub upper: f64,
    /// Does the lower boundary belong to it?
    pub lower_inclusive: bool,
    /// Does the upper boundary belong to it?
    pub upper_inclusive: bool,
    /// Observations.
    pub count: f64,
    /// Number within its schema and side; of no consequence for the zero bucket.
    pub index: i32,
}

impl Bucket {
    /// The part (0 to 1) of the bucket below `v`, which lies strictly within its finite boundaries: by linear
    /// interpolation, as for custom and zero buckets, or on a logarithmic scale.
    pub fn fraction_below(&self, v: f64, linear: bool) -> f64 {
        if linear {
            return (v - self.lower) / (self.upper - self.lower);
        }
        let (lower, upper, at) = (log2(self.lower.abs()), log2(self.upper.abs()), log2(v.abs()));
        if v > 0.0 { (at - lower) / (upper - lower) } else { 1.0 - ((at - upper) / (lower - upper)) }
    }
}

#[derive(Clone, Debug)]
enum Walk<'a> {
    Up(Positions<'a>),
    Down(ReversePositions<'a>),
}

/// Buckets of one side, outwards from zero or inwards.
#[derive(Clone, Debug)]
pub struct BucketIterator<'a> {
    walk: Walk<'a>,
    buckets: &'a [f64],
    schema: i32,
    positive: bool,
    custom_values: &'a [f64],
    /// (index, boundary below, boundary above) of the bucket before: its neighbour shares one of them.
    last: Option<(i32, f64, f64)>,
}

impl<'a> BucketIterator<'a> {
    fn new(h: &'a Histogram, positive: bool, reverse: bool) -> Self {
        let (spans, buckets): (&[Span], &[f64]) =
            if positive { (&h.positive_spans, &h.positive_buckets) } else { (&h.negative_spans, &h.negative_buckets) };
        let walk = if reverse {
            Walk::Down(ReversePositions::new(spans, buckets.len()))
        } else {
            Walk::Up(Positions::new(spans, buckets.len()))
        };
        Self { walk, buckets, schema: h.schema, positive, custom_values: &h.custom_values, last: None }
    }
}

impl Iterator for BucketIterator<'_> {
    type Item = Bucket;

    fn next(&mut self) -> Option<Bucket> {
        let (index, at) = match &mut self.walk {
            Walk::Up(w) => w.next()?,
            Walk::Down(w) => w.next()?,
        };
        let count = *self.buckets.get(at)?;
        let before = index.wrapping_sub(1);
        let low = match self.last {
            Some((i, _, high)) if i == before => high,
            _ => bound(before, self.schema, self.custom_values),
        };
        let high = match self.last {
            Some((i, low, _)) if i == index.wrapping_add(1) => low,
            _ => bound(index, self.schema, self.custom_values),
        };
        self.last = Some((index, low, high));
        let (lower, upper) = if self.positive { (low, high) } else { (-high, -low) };
        let (lower_inclusive, upper_inclusive) =
            if self.schema == CUSTOM_BUCKETS_SCHEMA { (index == 0, true) } else { (lower < 0.0, upper > 0.0) };
        Some(Bucket { lower, upper, lower_inclusive, upper_inclusive, count, index })
    }
}

/// All buckets from the lowest to the highest, or the other way. Where the zero bucket overlaps its neighbours, these
/// end at the zero threshold.
#[derive(Clone, Debug)]
pub struct AllBucketIterator<'a> {
    first: BucketIterator<'a>,
    zero: Option<Bucket>,
    second: BucketIterator<'a>,
    zero_threshold: f64,
}

impl Iterator for AllBucketIterator<'_> {
    type Item = Bucket;

    fn next(&mut self) -> Option<Bucket> {
        let side = match self.first.next() {
            Some(b) => Some(b),
            None => {
                if let Some(zero) = self.zero.take() {
                    return Some(zero);
                }
                self.second.next()
            }
        };
        let mut b = side?;
        if b.upper < 0.0 && b.upper > -self.zero_threshold {
            b.upper = -self.zero_threshold;
        } else if b.lower > 0.0 && b.lower < self.zero_threshold {
            b.lower = self.zero_threshold;
        }
        Some(b)
    }
}

impl Histogram {
    /// The zero bucket; histograms with custom buckets have none (an empty one is answered).
    pub fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
            index: 0,
        }
    }

    /// Positive (or custom) buckets, upwards.
    pub fn positive_bucket_iterator(&self) -> BucketIterator<'_> {
        BucketIterator::new(self, true, false)
    }

    /// Negative buckets, downwards from zero.
    pub fn negative_bucket_iterator(&self) -> BucketIterator<'_> {
        BucketIterator::new(self, false, false)
    }

    /// Positive (or custom) buckets, downwards.
    pub fn positive_reverse_bucket_iterator(&self) -> BucketIterator<'_> {
        BucketIterator::new(self, true, true)
    }

    /// Negative buckets, upwards to zero.
    pub fn negative_reverse_bucket_iterator(&self) -> BucketIterator<'_> {
        BucketIterator::new(self, false, true)
    }

    /// All buckets, upwards; the zero bucket only where it is populated.
    pub fn all_bucket_iterator(&self) -> AllBucketIterator<'_> {
        self.all(false)
    }

    /// All buckets, downwards; the zero bucket only where it is populated.
    pub fn all_reverse_bucket_iterator(&self) -> AllBucketIterator<'_> {
        self.all(true)
    }

    fn all(&self, reverse: bool) -> AllBucketIterator<'_> {
        AllBucketIterator {
            first: BucketIterator::new(self, reverse, true),
            zero: (self.zero_count > 0.0).then(|| self.zero_bucket()),
            second: BucketIterator::new(self, !reverse, false),
            zero_threshold: self.zero_threshold,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::histogram::testing::{any_exponential, custom, histogram, spans};
    use proptest::prelude::*;

    #[test]
    fn all_buckets_meet_the_zero_bucket() {
        let mut h = histogram(0, &[(-1, 2), (1, 1)], &[1.0, 2.0, 3.0]);
        h.zero_threshold = 0.3;
        h.zero_count = 4.0;
        h.negative_spans = spans(&[(0, 1)]);
        h.negative_buckets = vec![5.0];
        let all: Vec<_> = h.all_bucket_iterator().map(|b| (b.lower, b.upper, b.count)).collect();
        assert_eq!(all, [(-1.0, -0.5, 5.0), (-0.3, 0.3, 4.0), (0.3, 0.5, 1.0), (0.5, 1.0, 2.0), (2.0, 4.0, 3.0)]);
        let b = h.positive_bucket_iterator().next().unwrap();
        assert_eq!((b.lower_inclusive, b.upper_inclusive, b.index), (false, true, -1));
        let b = h.negative_bucket_iterator().next().unwrap();
        assert_eq!((b.lower, b.lower_inclusive, b.upper_inclusive), (-1.0, true, false));
    }

    #[test]
    fn custom_buckets_end_at_the_infinities() {
        let h = custom(&[1.0, 5.0], &[(0, 1), (1, 1)], &[2.0, 3.0]);
        let all: Vec<_> = h.all_bucket_iterator().map(|b| (b.lower, b.upper, b.lower_inclusive)).collect();
        assert_eq!(all, [(f64::NEG_INFINITY, 1.0, true), (5.0, f64::INFINITY, false)]);
        // More buckets than bounds: nonsense, but no panic.
        assert_eq!(custom(&[], &[(4, 2)], &[2.0, 3.0]).all_bucket_iterator().count(), 2);
    }

    proptest! {
        #[test]
        fn downwards_is_upwards_reversed(h in any_exponential()) {
            let mut up: Vec<_> = h.all_bucket_iterator().collect();
            prop_assert!(up.windows(2).all(|w| w[0].upper <= w[1].lower || h.zero_threshold > 0.0));
            up.reverse();
            prop_assert_eq!(h.all_reverse_bucket_iterator().collect::<Vec<_>>(), up);
        }
    }
}
