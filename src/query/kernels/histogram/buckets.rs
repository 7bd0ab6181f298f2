//! Quantiles and fractions of one classic histogram: cumulative counts by upper bound.

/// A bucket: everything up to `upper_bound`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bucket {
    /// Upper boundary.
    pub upper_bound: f64,
    /// Observations up to it.
    pub count: f64,
}

/// Counts had to be raised so that they do not fall with rising bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forced {
    /// Smallest bound whose count was raised.
    pub min_bucket: f64,
    /// Largest bound whose count was raised.
    pub max_bucket: f64,
    /// By how much at most.
    pub max_diff: f64,
}

/// Relative differences up to which counts of neighbouring buckets are taken to be equal: rounding of sums.
const SMALL_DELTA: f64 = 1e-12;

/// The `q`-quantile by linear interpolation. NaN unless there are two buckets, the last of them +Inf, and an
/// observation. Buckets are sorted and corrected in place.
pub fn bucket_quantile(q: f64, buckets: &mut Vec<Bucket>) -> (f64, Option<Forced>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if !prepare(buckets) {
        return (f64::NAN, None);
    }
    let forced = ensure_monotonic(buckets);
    let last = buckets.len() - 1;
    let observations = buckets[last].count;
    if last == 0 || observations == 0.0 {
        return (f64::NAN, forced);
    }
    let mut rank = q * observations;
    // The search of Go: the first that is not below; NaN never is at or above.
    let b = buckets[..last].partition_point(|b| b.count.is_nan() || rank.is_nan() || b.count < rank);
    let value = if b == last {
        buckets[last - 1].upper_bound
    } else if b == 0 && buckets[0].upper_bound <= 0.0 {
        buckets[0].upper_bound
    } else {
        let (mut start, end, mut count) = (0.0, buckets[b].upper_bound, buckets[b].count);
        if b > 0 {
            start = buckets[b - 1].upper_bound;
            count -= buckets[b - 1].count;
            rank -= buckets[b - 1].count;
        }
        start + (end - start) * (rank / count)
    };
    (value, forced)
}

/// The part of the observations between `lower` and `upper`, by linear interpolation. NaN unless the last bucket is
/// +Inf and there is an observation. Buckets are sorted in place; counts that fall are taken as they are.
pub fn bucket_fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if !prepare(buckets) {
        return f64::NAN;
    }
    let count = buckets.last().map_or(0.0, |b| b.count);
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let mut rank = 0.0;
    let (mut lower_rank, mut upper_rank) = (None, None);
    let mut start = if buckets[0].upper_bound <= 0.0 { f64::NEG_INFINITY } else { 0.0 };
    for b in buckets.iter() {
        let end = b.upper_bound;
        let within = |v: f64| {
            if start == f64::NEG_INFINITY { b.count } else { rank + (b.count - rank) * (v - start) / (end - start) }
        };
        if lower_rank.is_none() && start >= lower {
            lower_rank = Some(rank);
        }
        if upper_rank.is_none() && start >= upper {
            upper_rank = Some(rank);
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        if lower_rank.is_none() && start < lower && end > lower {
            lower_rank = Some(within(lower));
        }
        if upper_rank.is_none() && start < upper && end > upper {
            upper_rank = Some(within(upper));
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        rank = b.count;
        start = end;
    }
    let clamp = |r: Option<f64>| match r {
        Some(r) if r > count => count,
        Some(r) => r,
        None => count,
    };
    (clamp(upper_rank) - clamp(lower_rank)) / count
}

/// Sorts by bound and adds up buckets of one bound; true where there are buckets and the last is +Inf.
fn prepare(buckets: &mut Vec<Bucket>) -> bool {
    if !buckets.is_sorted_by(|a, b| a.upper_bound < b.upper_bound) {
        buckets.sort_by(|a, b| a.upper_bound.total_cmp(&b.upper_bound));
        // The first of a run of equal bounds takes the counts of the others.
        buckets.dedup_by(|b, first| {
            let same = b.upper_bound == first.upper_bound;
            if same {
                first.count += b.count;
            }
            same
        });
    }
    buckets.last().is_some_and(|b| b.upper_bound == f64::INFINITY)
}

/// Makes counts rise with bounds: differences of rounding go without a word, others are reported.
fn ensure_monotonic(buckets: &mut [Bucket]) -> Option<Forced> {
    let mut forced: Option<Forced> = None;
    let mut before = buckets.first()?.count;
    for b in &mut buckets[1..] {
        let count = b.count;
        if count == before {
            continue;
        }
        if almost_equal(before, count, SMALL_DELTA) {
            b.count = before;
        } else if count < before {
            b.count = before;
            let f = forced.get_or_insert(Forced {
                min_bucket: f64::INFINITY,
                max_bucket: f64::NEG_INFINITY,
                max_diff: 0.0,
            });
            f.min_bucket = f.min_bucket.min(b.upper_bound);
            f.max_bucket = f.max_bucket.max(b.upper_bound);
            f.max_diff = f.max_diff.max(before - count);
        } else {
            before = count;
        }
    }
    forced
}

/// Do two numbers differ by less than `epsilon` of their sum? NaN equals NaN, a stale marker only itself.
fn almost_equal(a: f64, b: f64, epsilon: f64) -> bool {
    if quiver_model::is_stale(a) || quiver_model::is_stale(b) {
        return quiver_model::is_stale(a) && quiver_model::is_stale(b);
    }
    if (a.is_nan() && b.is_nan()) || a == b {
        return true;
    }
    let (sum, diff) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return diff < epsilon * f64::MIN_POSITIVE;
    }
    diff / sum.min(f64::MAX) < epsilon
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INF: f64 = f64::INFINITY;

    fn buckets(v: &[(f64, f64)]) -> Vec<Bucket> {
        v.iter().map(|(upper_bound, count)| Bucket { upper_bound: *upper_bound, count: *count }).collect()
    }

    fn q(q: f64, v: &[(f64, f64)]) -> f64 {
        bucket_quantile(q, &mut buckets(v)).0
    }

    #[test]
    fn quantiles() {
        let h = [(10.0, 10.0), (15.0, 15.0), (20.0, 15.0), (30.0, 15.0), (INF, 15.0)];
        assert_eq!(q(1.0, &h), 15.0);
        assert!((q(0.9, &h) - 13.5).abs() < 1e-12);
        assert_eq!(q(0.5, &h), 7.5);
        assert_eq!(q(0.0, &h), 0.0);
        assert_eq!(q(0.99, &[(1.0, 1.0), (INF, 2.0)]), 1.0);
        assert_eq!(q(0.2, &[(-1.0, 5.0), (INF, 6.0)]), -1.0);
        assert_eq!((q(-1.0, &h), q(2.0, &h)), (-INF, INF));
        for bad in [&h[..4], &[], &[(INF, 1.0)], &[(1.0, 0.0), (INF, 0.0)]] {
            assert!(q(0.5, bad).is_nan());
        }
        // Unsorted, and a bound twice.
        assert_eq!(q(0.5, &[(INF, 4.0), (2.0, 1.0), (2.0, 1.0), (4.0, 4.0)]), 2.0);
    }

    #[test]
    fn falling_counts_are_raised_and_reported() {
        let (v, forced) = bucket_quantile(0.5, &mut buckets(&[(1.0, 10.0), (2.0, 8.0), (3.0, 9.0), (INF, 20.0)]));
        assert_eq!(v, 1.0);
        assert_eq!(forced, Some(Forced { min_bucket: 2.0, max_bucket: 3.0, max_diff: 2.0 }));
        let rounding = [(1.0, 10.0), (2.0, 10.0 - 1e-12), (INF, 20.0)];
        assert_eq!(bucket_quantile(0.5, &mut buckets(&rounding)).1, None);
    }

    #[test]
    fn fractions() {
        let f = |l, u, v: &[(f64, f64)]| bucket_fraction(l, u, &mut buckets(v));
        let h = [(10.0, 10.0), (20.0, 15.0), (INF, 20.0)];
        assert_eq!(f(-INF, INF, &h), 1.0);
        assert_eq!(f(0.0, 5.0, &h), 0.25);
        assert_eq!(f(15.0, INF, &h), 7.5 / 20.0);
        assert_eq!(f(30.0, 40.0, &h), 0.0);
        assert_eq!(f(5.0, 4.0, &h), 0.0);
        assert!(f(f64::NAN, 1.0, &h).is_nan() && f(0.0, 1.0, &h[..2]).is_nan() && f(0.0, 1.0, &[]).is_nan());
    }

    proptest! {
        #[test]
        fn a_fraction_is_the_inverse_of_a_quantile(add in proptest::collection::vec(1u8..9, 1..8), x in 0.01f64..0.99) {
            let mut total = 0.0;
            let mut v: Vec<(f64, f64)> = add.iter().enumerate().map(|(i, a)| {
                total += f64::from(*a);
                (i as f64 + 1.0, total)
            }).collect();
            v.push((INF, total));
            let value = q(x, &v);
            prop_assert!((bucket_fraction(-INF, value, &mut buckets(&v)) - x).abs() < 1e-9);
        }
    }
}
