//! The quantile of a list of floats, as `quantile` and `quantile_over_time` have it.

use std::cmp::Ordering;

/// The `q`-quantile by linear interpolation between neighbours; NaN counts as the smallest. Below 0 and above 1 it is
/// an infinity, of nothing it is NaN. The values are reordered.
pub fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    let last = values.len() - 1;
    let rank = q * last as f64;
    let lower = (rank.floor() as usize).min(last);
    let (_, at, above) = values.select_nth_unstable_by(lower, nan_first);
    let (at, weight) = (*at, rank - rank.floor());
    if weight == 0.0 {
        return at;
    }
    let next = above.iter().copied().min_by(nan_first).unwrap_or(at);
    at * (1.0 - weight) + next * weight
}

/// Order of values with NaN as the smallest.
pub fn nan_first(a: &f64, b: &f64) -> Ordering {
    a.partial_cmp(b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn figures() {
        let q = |q, v: &[f64]| quantile(q, &mut v.to_vec());
        assert_eq!(q(0.5, &[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(q(0.5, &[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(q(0.75, &[10.0, 0.0]), 7.5);
        assert_eq!(q(-0.1, &[1.0]), f64::NEG_INFINITY);
        assert_eq!(q(1.1, &[1.0]), f64::INFINITY);
        assert!(q(0.5, &[]).is_nan() && q(f64::NAN, &[1.0]).is_nan());
        assert!(q(0.0, &[5.0, f64::NAN, 1.0]).is_nan());
        assert_eq!(q(1.0, &[5.0, f64::NAN, 1.0]), 5.0);
    }

    proptest! {
        #[test]
        fn as_by_sorting(q in 0.0f64..=1.0, v in proptest::collection::vec(-100i32..100, 1..30)) {
            let mut v: Vec<f64> = v.into_iter().map(f64::from).collect();
            let mut sorted = v.clone();
            sorted.sort_by(nan_first);
            let rank = q * (v.len() - 1) as f64;
            let (lo, w) = (rank.floor() as usize, rank - rank.floor());
            let want = if w == 0.0 { sorted[lo] } else { sorted[lo] * (1.0 - w) + sorted[lo + 1] * w };
            prop_assert_eq!(quantile(q, &mut v).to_bits(), want.to_bits());
        }
    }
}
