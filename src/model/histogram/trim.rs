//! The trim operators: `h </ v` keeps observations below `v`, `h >/ v` those above.
//!
//! A bucket that holds `v` is cut by interpolation; the sum is then estimated anew from the middles of what is kept.

use super::{Bucket, Histogram};

/// Which side of a bucket list a bucket is of, and how it is interpolated.
#[derive(Clone, Copy)]
struct Shape {
    positive: bool,
    linear: bool,
}

impl Histogram {
    /// Trims in place: keeps observations below `at` (`upper`) or above it. Count and sum are only touched where a
    /// bucket was.
    pub fn trim_buckets(&mut self, at: f64, upper: bool) {
        let linear = self.uses_custom_buckets();
        let (mut count, mut sum) = (0.0, 0.0);
        let mut side = |h: &Histogram, positive: bool| {
            let shape = Shape { positive, linear };
            let it = if positive { h.positive_bucket_iterator() } else { h.negative_bucket_iterator() };
            let mut changes = Vec::new();
            let mut populated = false;
            for (i, b) in it.enumerate() {
                if b.count == 0.0 {
                    continue;
                }
                populated = true;
                let (keep, middle) = trim_bucket(&b, at, upper, shape);
                count += keep;
                sum += middle * keep;
                if b.count != keep {
                    changes.push((i, keep));
                }
            }
            (populated, changes)
        };
        let (has_positive, positive) = side(self, true);
        let (has_negative, negative) = side(self, false);
        let mut trimmed = !positive.is_empty() || !negative.is_empty();
        for (i, keep) in positive {
            self.positive_buckets[i] = keep;
        }
        for (i, keep) in negative {
            self.negative_buckets[i] = keep;
        }
        if self.zero_count > 0.0 {
            let (keep, middle) = trim_zero_bucket(&self.zero_bucket(), at, has_negative, has_positive, upper);
            trimmed |= self.zero_count != keep;
            self.zero_count = keep;
            sum += middle * keep;
            count += keep;
        }
        if trimmed {
            self.count = count;
            self.sum = sum;
            self.compact(0);
        }
    }
}

/// The count to keep and the middle of what is kept.
fn trim_bucket(b: &Bucket, at: f64, upper: bool, shape: Shape) -> (f64, f64) {
    let (all, some) = if upper { (b.upper <= at, b.lower < at) } else { (b.lower >= at, b.upper > at) };
    if all {
        return (b.count, middle(b.lower, b.upper, shape));
    }
    if !some {
        return (0.0, 0.0);
    }
    if b.lower == f64::NEG_INFINITY || b.upper == f64::INFINITY {
        return trim_infinite_bucket(b, at, upper);
    }
    let below = if at <= b.lower {
        0.0
    } else if at >= b.upper {
        b.count
    } else {
        b.count * b.fraction_below(at, shape.linear)
    };
    if upper { (below, middle(b.lower, at, shape)) } else { (b.count - below, middle(at, b.upper, shape)) }
}

/// A bucket with an infinite boundary: nothing is known of where in it observations lie, so that it goes whole, but
/// for a lowest bucket with a positive end, which is taken to begin at 0.
fn trim_infinite_bucket(b: &Bucket, at: f64, upper: bool) -> (f64, f64) {
    let finite = |v: f64| if v.is_infinite() { 0.0 } else { v };
    if b.lower == f64::NEG_INFINITY {
        if upper {
            return if at >= b.upper {
                (b.count, 0.0)
            } else if at > 0.0 && b.upper > 0.0 && b.upper != f64::INFINITY {
                (b.count * at / b.upper, at / 2.0)
            } else if b.upper <= 0.0 {
                (b.count, at)
            } else {
                (0.0, finite(b.upper))
            };
        }
        return if at <= b.lower {
            (b.count, 0.0)
        } else if at >= 0.0 && b.upper > at && b.upper != f64::INFINITY {
            (b.count * (1.0 - at / b.upper), (at + b.upper) / 2.0)
        } else {
            (0.0, finite(b.upper))
        };
    }
    if !upper && at >= b.lower { (b.count, at) } else { (0.0, finite(b.lower)) }
}

/// The zero bucket: linear; one-sided where the histogram has buckets on one side only.
fn trim_zero_bucket(b: &Bucket, at: f64, has_negative: bool, has_positive: bool, upper: bool) -> (f64, f64) {
    let high = if has_negative && !has_positive { 0.0 } else { b.upper };
    let low = if has_positive && !has_negative { 0.0 } else { b.lower };
    let whole = (b.count, (low + high) / 2.0);
    match (at <= low, at >= high, upper) {
        (true, _, true) => (0.0, 0.0),
        (true, _, false) => whole,
        (_, true, true) => whole,
        (_, true, false) => (0.0, 0.0),
        (_, _, true) => (b.count * ((at - low) / (high - low)), (low + at) / 2.0),
        (_, _, false) => (b.count * ((high - at) / (high - low)), (at + high) / 2.0),
    }
}

/// Arithmetic or geometric middle; what is infinite is left out.
fn middle(low: f64, high: f64, shape: Shape) -> f64 {
    match (low.is_infinite(), high.is_infinite()) {
        (true, true) => 0.0,
        (true, false) => {
            if high > 0.0 {
                high / 2.0
            } else {
                high
            }
        }
        (false, true) => low,
        (false, false) if shape.linear => (low + high) / 2.0,
        (false, false) => {
            let geometric = (low * high).abs().sqrt();
            if shape.positive { geometric } else { -geometric }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::histogram::testing::{any_custom, any_exponential, custom, histogram, spans};
    use proptest::prelude::*;

    #[test]
    fn exponential_buckets_are_cut_on_a_logarithmic_scale() {
        // (0.5,1] (1,2] (2,4]
        let h = histogram(0, &[(0, 3)], &[1.0, 4.0, 8.0]);
        let mut low = h.clone();
        low.trim_buckets(2f64.sqrt(), true);
        assert!((low.positive_buckets[1] - 2.0).abs() < 1e-12);
        assert!((low.count - 3.0).abs() < 1e-12);
        assert!((low.sum - (0.5f64.sqrt() + 2.0 * 2f64.sqrt().sqrt())).abs() < 1e-12);
        let mut high = h.clone();
        high.trim_buckets(2f64.sqrt(), false);
        assert!((high.positive_buckets[0] - 2.0).abs() < 1e-12);
        assert_eq!(high.positive_spans, spans(&[(1, 2)]));
        let mut all = h.clone();
        all.trim_buckets(100.0, true);
        assert_eq!(all, h);
    }

    #[test]
    fn custom_buckets_are_cut_linearly() {
        let h = custom(&[5.0, 10.0], &[(0, 3)], &[4.0, 4.0, 2.0]);
        let mut low = h.clone();
        low.trim_buckets(2.5, true);
        assert_eq!((low.positive_buckets, low.count, low.sum), (vec![2.0], 2.0, 2.5));
        let mut high = h.clone();
        high.trim_buckets(7.5, false);
        assert_eq!((high.positive_buckets, high.count, high.sum), (vec![2.0, 2.0], 4.0, 2.0 * 8.75 + 2.0 * 10.0));
        let mut top = h;
        top.trim_buckets(20.0, true);
        assert_eq!(top.positive_buckets, [4.0, 4.0]);
    }

    #[test]
    fn a_one_sided_zero_bucket() {
        let mut h = histogram(0, &[(1, 1)], &[1.0]);
        h.zero_threshold = 0.5;
        h.zero_count = 4.0;
        h.trim_buckets(0.25, true);
        assert_eq!((h.zero_count, h.count), (2.0, 2.0));
    }

    proptest! {
        #[test]
        fn both_sides_make_the_whole(h in prop_oneof![any_exponential(), any_custom()], at in -8.0f64..8.0) {
            // Only where no open-ended bucket is cut.
            let whole: f64 = h.all_bucket_iterator().map(|b| b.count).sum();
            let open = h.positive_bucket_iterator().any(|b| b.lower.is_infinite() || b.upper.is_infinite());
            let (mut low, mut high) = (h.clone(), h.clone());
            low.trim_buckets(at, true);
            high.trim_buckets(at, false);
            prop_assert!(open || (low.count + high.count - whole).abs() < 1e-9);
        }
    }
}
