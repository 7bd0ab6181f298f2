//! Making unlike histograms alike: zero buckets of different width, custom bounds that differ.

use super::layout::{Positions, SpanBuilder, compact};
use super::{Histogram, Span};
use crate::number::kahan_inc;

/// The same custom bounds?
pub fn custom_bucket_bounds_match(a: &[f64], b: &[f64]) -> bool {
    a == b
}

/// The bounds two ascending lists have in common.
pub fn intersect_custom_bucket_bounds(a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut out = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            out.push(a[i]);
            i += 1;
            j += 1;
        } else if a[i] < b[j] {
            i += 1;
        } else {
            j += 1;
        }
    }
    out
}

/// Adds (or subtracts) `other` where custom bounds differ: both go to the bounds in common, and so does the
/// compensation `c`. Sums are compensated even where the caller has no use for the compensation.
pub(super) fn combine_custom_buckets(h: &mut Histogram, other: &Histogram, c: Option<&mut Histogram>, negative: bool) {
    let bounds = intersect_custom_bucket_bounds(&h.custom_values, &other.custom_values);
    let mut target = vec![(0.0, 0.0); bounds.len() + 1];
    let mut map = |spans: &[Span], buckets: &[f64], from: &[f64], negative: bool, c: Option<&[f64]>| {
        let mut at_bound = 0;
        for (index, at) in Positions::new(spans, buckets.len()) {
            let upper = usize::try_from(index).ok().and_then(|i| from.get(i));
            let to = match upper {
                Some(upper) => {
                    while at_bound < bounds.len() && bounds[at_bound] < *upper {
                        at_bound += 1;
                    }
                    at_bound
                }
                None => bounds.len(),
            };
            let (sum, comp) = target[to];
            target[to] = kahan_inc(if negative { -buckets[at] } else { buckets[at] }, sum, comp);
            if let Some(v) = c.and_then(|c| c.get(at)) {
                target[to] = kahan_inc(*v, target[to].0, target[to].1);
            }
        }
    };
    let held_back = c.as_deref().map(|c| c.positive_buckets.as_slice());
    map(&h.positive_spans, &h.positive_buckets, &h.custom_values, false, held_back);
    map(&other.positive_spans, &other.positive_buckets, &other.custom_values, negative, None);

    let mut spans = SpanBuilder::default();
    let (mut buckets, mut compensation) = (Vec::new(), Vec::new());
    for (i, (v, vc)) in target.into_iter().enumerate() {
        if v != 0.0 || vc != 0.0 {
            spans.push(i as i32);
            buckets.push(v);
            compensation.push(vc);
        }
    }
    h.positive_spans = spans.finish();
    h.positive_buckets = buckets;
    if let Some(c) = c {
        c.positive_spans.clone_from(&h.positive_spans);
        c.positive_buckets = compensation;
        c.custom_values.clone_from(&bounds);
    }
    h.custom_values = bounds;
}

impl Histogram {
    /// What the zero count would be with a zero threshold of at least `threshold` (not less than the present one), as
    /// (zero count, threshold, compensation). A threshold within a populated bucket moves to that bucket's end.
    pub(super) fn zero_count_for_larger_threshold(&self, mut threshold: f64, c: Option<&Histogram>) -> (f64, f64, f64) {
        let mut comp = c.map_or(0.0, |c| c.zero_count);
        // A threshold below the present one cannot be asked for; NaN ends here too.
        if threshold.is_nan() || self.zero_threshold.is_nan() || threshold <= self.zero_threshold {
            return (self.zero_count, threshold, comp);
        }
        let held_back = |positive: bool, at: usize| {
            c.and_then(|c| if positive { &c.positive_buckets } else { &c.negative_buckets }.get(at).copied())
        };
        'again: loop {
            let mut count = self.zero_count;
            for (at, b) in self.positive_bucket_iterator().enumerate() {
                if b.lower >= threshold {
                    break;
                }
                (count, comp) = kahan_inc(b.count, count, comp);
                if let Some(v) = held_back(true, at) {
                    (count, comp) = kahan_inc(v, count, comp);
                }
                if b.upper > threshold {
                    if b.count != 0.0 {
                        threshold = b.upper;
                    }
                    break;
                }
            }
            for (at, b) in self.negative_bucket_iterator().enumerate() {
                if b.upper <= -threshold {
                    break;
                }
                (count, comp) = kahan_inc(b.count, count, comp);
                if let Some(v) = held_back(false, at) {
                    (count, comp) = kahan_inc(v, count, comp);
                }
                if b.lower < -threshold {
                    if b.count != 0.0 {
                        // What was decided on the positive side no longer holds.
                        threshold = -b.lower;
                        continue 'again;
                    }
                    break;
                }
            }
            return (count, threshold, comp);
        }
    }

    /// Drops the buckets within the zero bucket, whose counts it has already.
    fn trim_buckets_in_zero_bucket(&mut self, mut c: Option<&mut Histogram>) {
        let within = |b: &super::Bucket| {
            if b.lower >= 0.0 { b.lower < self.zero_threshold } else { b.upper > -self.zero_threshold }
        };
        let positive = self.positive_bucket_iterator().take_while(within).count();
        let negative = self.negative_bucket_iterator().take_while(within).count();
        let clear = |buckets: &mut Vec<f64>, n: usize| buckets.iter_mut().take(n).for_each(|b| *b = 0.0);
        clear(&mut self.positive_buckets, positive);
        clear(&mut self.negative_buckets, negative);
        if let Some(c) = c.as_deref_mut() {
            clear(&mut c.positive_buckets, positive);
            clear(&mut c.negative_buckets, negative);
        }
        let (cp, cn) = c.map(|c| (&mut c.positive_buckets, &mut c.negative_buckets)).unzip();
        compact(&mut self.positive_spans, &mut self.positive_buckets, cp, 0);
        compact(&mut self.negative_spans, &mut self.negative_buckets, cn, 0);
    }

    /// Widens the zero bucket until `other` can have the same one, and answers the zero count `other` would then have,
    /// with its compensation.
    pub(super) fn reconcile_zero_buckets(&mut self, other: &Histogram, mut c: Option<&mut Histogram>) -> (f64, f64) {
        let (mut zero, mut threshold, mut comp) = (other.zero_count, other.zero_threshold, 0.0);
        while threshold != self.zero_threshold {
            let before = (threshold, self.zero_threshold);
            if self.zero_threshold > threshold {
                (zero, threshold, comp) = other.zero_count_for_larger_threshold(self.zero_threshold, None);
            }
            if threshold > self.zero_threshold {
                let widened = self.zero_count_for_larger_threshold(threshold, c.as_deref());
                self.zero_count = widened.0;
                self.zero_threshold = widened.1;
                if let Some(c) = c.as_deref_mut() {
                    c.zero_count = widened.2;
                }
                self.trim_buckets_in_zero_bucket(c.as_deref_mut());
            }
            if before == (threshold, self.zero_threshold) || threshold.is_nan() || self.zero_threshold.is_nan() {
                break; // Only with a NaN threshold, which cannot be reconciled.
            }
        }
        (zero, comp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::testing::{histogram, spans};

    #[test]
    fn bounds_in_common() {
        assert_eq!(intersect_custom_bucket_bounds(&[1.0, 2.0, 4.0], &[2.0, 3.0, 4.0]), [2.0, 4.0]);
        assert!(intersect_custom_bucket_bounds(&[1.0], &[]).is_empty());
    }

    #[test]
    fn zero_count_of_a_wider_zero_bucket() {
        let mut h = histogram(0, &[(-2, 2), (1, 1)], &[2.0, 3.0, 6.0]);
        h.zero_threshold = 0.01;
        h.zero_count = 1.0;
        h.negative_spans = spans(&[(-1, 2)]);
        h.negative_buckets = vec![10.0, 20.0];
        // Buckets end at 0.25 and 0.5 (then 2), negative ones at -0.5 and -1.
        let at = |t| {
            let (z, t, _) = h.zero_count_for_larger_threshold(t, None);
            (z, t)
        };
        assert_eq!(at(0.01), (1.0, 0.01));
        assert_eq!(at(0.1), (1.0, 0.1));
        assert_eq!(at(0.2), (3.0, 0.25));
        // Touching (-0.5, -0.25] moves the threshold to 0.5, which then takes two positive buckets.
        assert_eq!(at(0.3), (16.0, 0.5));
        assert_eq!(at(0.6), (36.0, 1.0));
    }
}
