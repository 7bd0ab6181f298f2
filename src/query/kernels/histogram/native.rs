//! Quantiles, fractions and moments of one native histogram.
//!
//! Within exponential buckets observations are taken to be spread evenly on a logarithmic scale, within custom and zero
//! buckets evenly. A zero bucket reaches to one side only where the histogram has buckets on that side only.

use quiver_model::Histogram;
use quiver_model::number::{exp2, kahan_inc, log2};

/// What observations of NaN, which are in no bucket, did to a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NanObservations {
    /// There are none that matter.
    #[default]
    None,
    /// The quantile lies among them: the result is NaN.
    Result,
    /// They count as the largest and skew the quantile upwards, or are left out of the fraction.
    Present,
}

/// The `q`-quantile. Below 0 and above 1 it is an infinity; without observations NaN.
pub fn histogram_quantile(q: f64, h: &Histogram) -> (f64, NanObservations) {
    use NanObservations::{None, Present, Result};
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if h.count == 0.0 || q.is_nan() {
        return (f64::NAN, None);
    }
    // NaN may be among the observations: those are above all buckets, so that only counting from below is right.
    let upwards = h.sum.is_nan() || q < 0.5;
    let mut it = if upwards { h.all_bucket_iterator() } else { h.all_reverse_bucket_iterator() };
    let mut rank = if upwards { q * h.count } else { (1.0 - q) * h.count };
    let mut bucket = quiver_model::histogram::Bucket::default();
    let mut count = 0.0;
    for b in it.by_ref() {
        bucket = b;
        if b.count == 0.0 {
            continue;
        }
        count += b.count;
        if count >= rank {
            break;
        }
    }
    let custom = h.uses_custom_buckets();
    if custom {
        if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 {
                return (bucket.upper, None);
            }
            bucket.lower = 0.0;
        } else if bucket.upper == f64::INFINITY {
            return (bucket.lower, None);
        }
    } else if bucket.lower < 0.0 && bucket.upper > 0.0 {
        one_sided(h, &mut bucket.lower, &mut bucket.upper);
    }
    // Sums of buckets may exceed the count by rounding.
    if count > h.count {
        count = h.count;
    }
    if count < rank {
        return if h.sum.is_nan() { (f64::NAN, Result) } else { (bucket.upper, None) };
    }
    if upwards {
        rank -= count - bucket.count;
    } else {
        rank = count - rank;
    }
    let mut nan = None;
    if h.sum.is_nan() {
        // A sum of NaN alone may also come from infinities of both signs; NaN observations show in the count.
        for b in it {
            count += b.count;
        }
        if count < h.count {
            nan = Present;
        }
    }
    let fraction = rank / bucket.count;
    if custom || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
        return (bucket.lower + (bucket.upper - bucket.lower) * fraction, nan);
    }
    let (low, high) = (log2(bucket.lower.abs()), log2(bucket.upper.abs()));
    let value = if bucket.lower > 0.0 {
        exp2(low + (high - low) * fraction)
    } else {
        -exp2(high + (low - high) * (1.0 - fraction))
    };
    (value, nan)
}

/// The zero bucket ends at 0 on a side where the histogram has no bucket, if it has some on the other.
fn one_sided(h: &Histogram, lower: &mut f64, upper: &mut f64) {
    match (h.negative_buckets.is_empty(), h.positive_buckets.is_empty()) {
        (true, false) => *lower = 0.0,
        (false, true) => *upper = 0.0,
        _ => {}
    }
}

/// The part of the observations between `lower` and `upper`; without observations NaN. Observations of NaN are in no
/// such part.
pub fn histogram_fraction(lower: f64, upper: f64, h: &Histogram) -> (f64, NanObservations) {
    if h.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return (f64::NAN, NanObservations::None);
    }
    if lower >= upper {
        return (0.0, NanObservations::None);
    }
    let custom = h.uses_custom_buckets();
    let (mut count, mut rank) = (0.0, 0.0);
    let (mut lower_rank, mut upper_rank) = (None, None);
    let mut it = h.all_bucket_iterator();
    for mut b in it.by_ref() {
        count += b.count;
        let mut linear = custom;
        if custom {
            if b.lower == f64::NEG_INFINITY && b.upper > 0.0 {
                b.lower = 0.0;
            }
        } else if b.lower <= 0.0 && b.upper >= 0.0 {
            linear = true;
            one_sided(h, &mut b.lower, &mut b.upper);
        }
        let within = |v: f64| {
            if linear && b.lower == f64::NEG_INFINITY {
                // Nothing is known of where observations lie in a bucket that has no beginning.
                b.count
            } else {
                rank + b.count * b.fraction_below(v, linear)
            }
        };
        if lower_rank.is_none() && b.lower >= lower {
            lower_rank = Some(rank);
        }
        if upper_rank.is_none() && b.lower >= upper {
            upper_rank = Some(rank);
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        if lower_rank.is_none() && b.lower < lower && b.upper > lower {
            lower_rank = Some(within(lower));
        }
        if upper_rank.is_none() && b.lower < upper && b.upper > upper {
            upper_rank = Some(within(upper));
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        rank += b.count;
    }
    let mut nan = NanObservations::None;
    if h.sum.is_nan() {
        for b in it {
            count += b.count;
        }
        if count < h.count {
            nan = NanObservations::Present;
        }
    } else {
        count = h.count;
    }
    let clamp = |r: Option<f64>| match r {
        Some(r) if r > count => count,
        Some(r) => r,
        None => count,
    };
    ((clamp(upper_rank) - clamp(lower_rank)) / h.count, nan)
}

/// Mean of the observations.
pub fn histogram_avg(h: &Histogram) -> f64 {
    h.sum / h.count
}

/// Variance of the observations, each taken to be in the middle of its bucket: the geometric one, the arithmetic one of
/// custom buckets, 0 in the zero bucket.
pub fn histogram_stdvar(h: &Histogram) -> f64 {
    let mean = h.sum / h.count;
    let custom = h.uses_custom_buckets();
    let (mut variance, mut c) = (0.0, 0.0);
    for b in h.all_bucket_iterator() {
        if b.count == 0.0 {
            continue;
        }
        let middle = if custom {
            (b.upper + b.lower) / 2.0
        } else if b.lower <= 0.0 && b.upper >= 0.0 {
            0.0
        } else {
            let geometric = (b.upper * b.lower).sqrt();
            if b.upper < 0.0 { -geometric } else { geometric }
        };
        let delta = middle - mean;
        (variance, c) = kahan_inc(b.count * delta * delta, variance, c);
    }
    (variance + c) / h.count
}

/// Standard deviation of the observations; see [`histogram_stdvar`].
pub fn histogram_stddev(h: &Histogram) -> f64 {
    histogram_stdvar(h).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quiver_model::Span;
    use quiver_model::histogram::CUSTOM_BUCKETS_SCHEMA;

    fn spans(v: &[(i32, u32)]) -> Vec<Span> {
        v.iter().map(|(offset, length)| Span { offset: *offset, length: *length }).collect()
    }

    /// Schema 0, zero bucket ±0.001 of 2, (0.5,1] 2, (1,2] 3, (4,8] 5.
    fn positive() -> Histogram {
        Histogram {
            count: 12.0,
            sum: 36.0,
            zero_count: 2.0,
            zero_threshold: 0.001,
            positive_spans: spans(&[(0, 2), (1, 1)]),
            positive_buckets: vec![2.0, 3.0, 5.0],
            ..Default::default()
        }
    }

    fn custom(buckets: &[f64]) -> Histogram {
        Histogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            count: buckets.iter().sum(),
            sum: 1.0,
            positive_spans: spans(&[(0, buckets.len() as u32)]),
            positive_buckets: buckets.to_vec(),
            custom_values: vec![5.0, 10.0],
            ..Default::default()
        }
    }

    #[test]
    fn quantiles() {
        let h = positive();
        let q = |q| histogram_quantile(q, &h).0;
        assert_eq!(q(0.0), 0.0);
        assert_eq!(q(1.0), 8.0);
        // Half the zero bucket, whose lower end is 0 here.
        assert!((q(1.0 / 12.0) - 0.0005).abs() < 1e-15);
        // In the middle of (4,8] on a logarithmic scale.
        assert!((q(9.5 / 12.0) - 32f64.sqrt()).abs() < 1e-12);
        assert_eq!((q(-0.1), q(1.1)), (f64::NEG_INFINITY, f64::INFINITY));
        assert!(q(f64::NAN).is_nan());
        let mut n = h.clone();
        std::mem::swap(&mut n.positive_buckets, &mut n.negative_buckets);
        std::mem::swap(&mut n.positive_spans, &mut n.negative_spans);
        for x in [0.05, 0.3, 0.5, 0.7, 0.95] {
            assert!((histogram_quantile(x, &n).0 + q(1.0 - x)).abs() < 1e-12);
        }
        assert!(histogram_quantile(0.5, &Histogram::default()).0.is_nan());
    }

    #[test]
    fn quantiles_of_custom_buckets() {
        let h = custom(&[4.0, 4.0, 2.0]);
        let q = |q| histogram_quantile(q, &h).0;
        assert_eq!(q(0.2), 2.5);
        assert!((q(0.6) - 7.5).abs() < 1e-12);
        assert_eq!(q(0.95), 10.0);
        let mut below = custom(&[4.0]);
        below.custom_values = vec![-3.0];
        assert_eq!(histogram_quantile(0.3, &below).0, -3.0);
    }

    #[test]
    fn nan_observations() {
        let mut h = positive();
        h.count = 20.0;
        h.sum = f64::NAN;
        let (v, nan) = histogram_quantile(0.5, &h);
        assert!(v > 4.0 && nan == NanObservations::Present);
        let (v, nan) = histogram_quantile(0.9, &h);
        assert!(v.is_nan() && nan == NanObservations::Result);
        let (v, nan) = histogram_fraction(f64::NEG_INFINITY, f64::INFINITY, &h);
        assert_eq!((v, nan), (0.6, NanObservations::Present));
        h.count = 12.0;
        assert_eq!(histogram_quantile(0.9, &h).1, NanObservations::None);
        assert_eq!(histogram_fraction(0.0, 1.0, &h).1, NanObservations::None);
    }

    #[test]
    fn fractions() {
        let h = positive();
        let f = |l, u| histogram_fraction(l, u, &h).0;
        assert_eq!(f(f64::NEG_INFINITY, f64::INFINITY), 1.0);
        assert_eq!(f(1.0, 2.0), 3.0 / 12.0);
        assert_eq!(f(2.0, 4.0), 0.0);
        assert_eq!(f(3.0, 2.0), 0.0);
        assert!((f(4.0, 32f64.sqrt()) - 2.5 / 12.0).abs() < 1e-12);
        assert!((f(-1.0, 0.0005) - 1.0 / 12.0).abs() < 1e-12);
        assert!(f(f64::NAN, 1.0).is_nan());
        let h = custom(&[4.0, 4.0, 2.0]);
        let f = |l, u| histogram_fraction(l, u, &h).0;
        assert_eq!(f(0.0, 7.5), 0.6);
        assert_eq!(f(10.0, f64::INFINITY), 0.2);
        assert_eq!(f(20.0, 30.0), 0.0);
    }

    #[test]
    fn moments() {
        let h = positive();
        assert_eq!(histogram_avg(&h), 3.0);
        let v = [(0.0, 2.0), (0.5f64.sqrt(), 2.0), (2f64.sqrt(), 3.0), (32f64.sqrt(), 5.0)];
        let want: f64 = v.iter().map(|(m, c)| c * (m - 3.0) * (m - 3.0)).sum::<f64>() / 12.0;
        assert!((histogram_stdvar(&h) - want).abs() < 1e-12);
        assert_eq!(histogram_stddev(&h), histogram_stdvar(&h).sqrt());
    }

    proptest! {
        #[test]
        fn a_fraction_is_the_inverse_of_a_quantile(
            schema in 0i32..4,
            pos in proptest::collection::vec(1u8..9, 0..5),
            neg in proptest::collection::vec(1u8..9, 0..5),
            zero in 1u8..5,
            q in 0.01f64..0.99,
        ) {
            let floats = |v: &[u8]| v.iter().map(|b| f64::from(*b)).collect::<Vec<_>>();
            let mut h = Histogram {
                schema,
                zero_threshold: 0.001,
                zero_count: f64::from(zero),
                sum: 1.0,
                positive_spans: spans(&[(-3, pos.len() as u32)]),
                positive_buckets: floats(&pos),
                negative_spans: spans(&[(2, neg.len() as u32)]),
                negative_buckets: floats(&neg),
                ..Default::default()
            };
            h.count = h.zero_count + h.positive_buckets.iter().sum::<f64>() + h.negative_buckets.iter().sum::<f64>();
            let v = histogram_quantile(q, &h).0;
            let back = histogram_fraction(f64::NEG_INFINITY, v, &h).0;
            prop_assert!((back - q).abs() < 1e-9, "{} {} {}", v, back, q);
            prop_assert!(histogram_quantile(q * 0.9, &h).0 <= v);
        }
    }
}
