//! Functions of the floats of one window, each in the order of operations that Prometheus has.

use quiver_model::number::kahan_inc;

/// Sum, compensated.
pub(crate) fn sum(v: &[f64]) -> f64 {
    let (mut sum, mut c) = (0.0, 0.0);
    for x in v {
        (sum, c) = kahan_inc(*x, sum, c);
    }
    if sum.is_infinite() { sum } else { sum + c }
}

/// Mean: of the compensated sum, or computed step by step from where the sum would be infinite.
pub(crate) fn avg(v: &[f64]) -> f64 {
    let Some((first, rest)) = v.split_first() else { return f64::NAN };
    let (mut sum, mut c) = (*first, 0.0);
    for (i, x) in rest.iter().enumerate() {
        let (new, new_c) = kahan_inc(*x, sum, c);
        if new.is_infinite() {
            return incremental_mean(sum, c, i + 1, &rest[i..]);
        }
        (sum, c) = (new, new_c);
    }
    let count = v.len() as f64;
    sum / count + c / count
}

/// Goes on with the mean of `n` values whose sum is `sum` and `c`.
#[cold]
fn incremental_mean(sum: f64, c: f64, n: usize, rest: &[f64]) -> f64 {
    let mut mean = sum / n as f64;
    let mut c = c / n as f64;
    for (i, x) in rest.iter().enumerate() {
        let count = (n + i + 1) as f64;
        let q = (count - 1.0) / count;
        (mean, c) = kahan_inc(x / count, q * mean, q * c);
    }
    mean + c
}

/// Population variance, by Welford with compensation.
pub(crate) fn variance(v: &[f64]) -> f64 {
    let mut count = 0.0;
    let (mut mean, mut mean_c, mut aux, mut aux_c) = (0.0, 0.0, 0.0, 0.0);
    for x in v {
        count += 1.0;
        let delta = x - (mean + mean_c);
        (mean, mean_c) = kahan_inc(delta / count, mean, mean_c);
        (aux, aux_c) = kahan_inc(delta * (x - (mean + mean_c)), aux, aux_c);
    }
    (aux + aux_c) / count
}

/// Quantile `q`, interpolated; reorders `v`. NaN sorts below everything.
pub(crate) fn quantile(q: f64, v: &mut [f64]) -> f64 {
    if v.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    let order =
        |a: &f64, b: &f64| b.is_nan().cmp(&a.is_nan()).then(a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let n = v.len() as f64;
    let rank = q * (n - 1.0);
    let lower = (rank.floor().max(0.0) as usize).min(v.len() - 1);
    let weight = rank - rank.floor();
    let (_, low, above) = v.select_nth_unstable_by(lower, order);
    if weight == 0.0 {
        return *low;
    }
    let low = *low;
    let high = above.iter().copied().min_by(order).unwrap_or(low);
    low * (1.0 - weight) + high * weight
}

/// Median of the distances from the median.
pub(crate) fn mad(v: &[f64], buffer: &mut Vec<f64>) -> f64 {
    if v.iter().any(|x| x.is_nan()) {
        return f64::NAN;
    }
    buffer.clear();
    buffer.extend_from_slice(v);
    let median = quantile(0.5, buffer);
    for x in buffer.iter_mut() {
        *x = (*x - median).abs();
    }
    quantile(0.5, buffer)
}

/// Slope, and value at `at`, of the line of least squares.
pub(crate) fn regression(ts: &[i64], v: &[f64], at: i64) -> (f64, f64) {
    let Some(first) = v.first().copied() else { return (f64::NAN, f64::NAN) };
    let mut n = 0.0;
    let (mut x_sum, mut x_c, mut y_sum, mut y_c) = (0.0, 0.0, 0.0, 0.0);
    let (mut xy_sum, mut xy_c, mut xx_sum, mut xx_c) = (0.0, 0.0, 0.0, 0.0);
    let mut constant = true;
    for (i, (t, y)) in ts.iter().zip(v).enumerate() {
        if constant && i > 0 && *y != first {
            constant = false;
        }
        n += 1.0;
        let x = t.wrapping_sub(at) as f64 / 1e3;
        (x_sum, x_c) = kahan_inc(x, x_sum, x_c);
        (y_sum, y_c) = kahan_inc(*y, y_sum, y_c);
        (xy_sum, xy_c) = kahan_inc(x * y, xy_sum, xy_c);
        (xx_sum, xx_c) = kahan_inc(x * x, xx_sum, xx_c);
    }
    if constant {
        return if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) };
    }
    x_sum += x_c;
    y_sum += y_c;
    xy_sum += xy_c;
    xx_sum += xx_c;
    let covariance = xy_sum - x_sum * y_sum / n;
    let variance = xx_sum - x_sum * x_sum / n;
    let slope = covariance / variance;
    (slope, y_sum / n - slope * x_sum / n)
}

/// Double exponential smoothing of two or more values.
pub(crate) fn smooth(v: &[f64], factor: f64, trend: f64) -> f64 {
    let [first, second, ..] = v else { return f64::NAN };
    let (mut before, mut last) = (0.0, *first);
    let mut b = second - first;
    for (i, value) in v.iter().enumerate().skip(1) {
        let x = factor * value;
        if i > 1 {
            let s = trend * (last - before);
            let t = (1.0 - trend) * b;
            b = s + t;
        }
        let y = (1.0 - factor) * (last + b);
        (before, last) = (last, x + y);
    }
    last
}

/// How `integral` values the time between two samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// By the sample before.
    Left,
    /// By the sample after.
    Right,
    /// By their mean.
    Trapezoid,
}

impl Strategy {
    /// By its number in the query.
    pub fn from_number(n: f64) -> Option<Self> {
        [(0.0, Self::Left), (1.0, Self::Right), (2.0, Self::Trapezoid)].iter().find(|(k, _)| *k == n).map(|(_, s)| *s)
    }
}

/// Area under the samples, value × seconds; NaN counts as 0.
pub(crate) fn integral(ts: &[i64], v: &[f64], strategy: Strategy) -> f64 {
    let zero = |x: f64| if x.is_nan() { 0.0 } else { x };
    let (mut sum, mut c) = (0.0, 0.0);
    for (t, v) in ts.windows(2).zip(v.windows(2)) {
        let (&[t0, t1], &[v0, v1]) = (t, v) else { continue };
        let (before, now) = (zero(v0), zero(v1));
        let (mut value, mut rest) = (0.0, 0.0);
        match strategy {
            Strategy::Left => value = before,
            Strategy::Right => value = now,
            Strategy::Trapezoid if before != 0.0 || now != 0.0 => {
                (value, rest) = kahan_inc(now, before, 0.0);
                if value.is_infinite() && !now.is_infinite() && !before.is_infinite() {
                    (value, rest) = kahan_inc(now / 2.0, before / 2.0, 0.0);
                } else {
                    value /= 2.0;
                    rest /= 2.0;
                }
            }
            Strategy::Trapezoid => {}
        }
        if value != 0.0 || rest != 0.0 {
            let dt = t1.wrapping_sub(t0) as f64 / 1000.0;
            (sum, c) = kahan_inc(value * dt, sum, c + rest * dt);
        }
    }
    if sum.is_infinite() { sum } else { sum + c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compensated() {
        assert_eq!(sum(&[1e100, 1.0, -1e100]), 1.0);
        assert_eq!(avg(&[1e308, 1e308, -1e308]), 1e308 / 3.0);
        assert_eq!(avg(&[f64::MAX, f64::MAX]), f64::MAX);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
        assert_eq!(variance(&[1.0, 2.0, 3.0, 4.0]), 1.25);
    }

    #[test]
    fn quantiles() {
        assert_eq!(quantile(0.5, &mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(quantile(0.25, &mut [4.0, 1.0, 2.0, 3.0]), 1.75);
        assert_eq!(quantile(1.0, &mut [4.0, f64::NAN]), 4.0);
        assert!(quantile(0.0, &mut [4.0, f64::NAN]).is_nan());
        assert_eq!(quantile(-1.0, &mut [4.0]), f64::NEG_INFINITY);
        assert_eq!(quantile(2.0, &mut [4.0]), f64::INFINITY);
        assert_eq!(mad(&[1.0, 1.0, 2.0, 2.0, 4.0, 6.0, 9.0], &mut Vec::new()), 1.0);
    }

    #[test]
    fn lines() {
        let ts = [0, 10_000, 20_000];
        assert_eq!(regression(&ts, &[1.0, 2.0, 3.0], 20_000), (0.1, 3.0));
        assert_eq!(regression(&ts, &[5.0, 5.0, 5.0], 0), (0.0, 5.0));
        assert_eq!(integral(&ts, &[1.0, 3.0, f64::NAN], Strategy::Trapezoid), 20.0 + 15.0);
        assert_eq!(integral(&ts, &[1.0, 3.0, f64::NAN], Strategy::Left), 40.0);
        assert_eq!(integral(&ts, &[1.0, 3.0, f64::NAN], Strategy::Right), 30.0);
        assert_eq!(Strategy::from_number(2.0), Some(Strategy::Trapezoid));
        assert_eq!(Strategy::from_number(0.5), None);
    }
}
