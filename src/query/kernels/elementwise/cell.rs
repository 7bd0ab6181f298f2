//! The functions and their loops.

use quiver_model::Histogram;
use quiver_model::number::kahan_inc;

use super::date::{self, DatePart};
use super::math;
use crate::exec::tile::{StepGrid, Tile};

/// A function of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum CellFn {
    Abs,
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    Ceil,
    Clamp,
    ClampMax,
    ClampMin,
    Cos,
    Cosh,
    Date(DatePart),
    Deg,
    Exp,
    Floor,
    HistogramAvg,
    HistogramCount,
    HistogramStddev,
    HistogramStdvar,
    HistogramSum,
    Ln,
    Log10,
    Log2,
    Rad,
    Round,
    Sgn,
    Sin,
    Sinh,
    Sqrt,
    StartTimestamp,
    Tan,
    Tanh,
    Timestamp,
}

impl CellFn {
    /// By its name in a query.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "abs" => Self::Abs,
            "acos" => Self::Acos,
            "acosh" => Self::Acosh,
            "asin" => Self::Asin,
            "asinh" => Self::Asinh,
            "atan" => Self::Atan,
            "atanh" => Self::Atanh,
            "ceil" => Self::Ceil,
            "clamp" => Self::Clamp,
            "clamp_max" => Self::ClampMax,
            "clamp_min" => Self::ClampMin,
            "cos" => Self::Cos,
            "cosh" => Self::Cosh,
            "day_of_month" => Self::Date(DatePart::DayOfMonth),
            "day_of_week" => Self::Date(DatePart::DayOfWeek),
            "day_of_year" => Self::Date(DatePart::DayOfYear),
            "days_in_month" => Self::Date(DatePart::DaysInMonth),
            "deg" => Self::Deg,
            "exp" => Self::Exp,
            "floor" => Self::Floor,
            "histogram_avg" => Self::HistogramAvg,
            "histogram_count" => Self::HistogramCount,
            "histogram_stddev" => Self::HistogramStddev,
            "histogram_stdvar" => Self::HistogramStdvar,
            "histogram_sum" => Self::HistogramSum,
            "hour" => Self::Date(DatePart::Hour),
            "ln" => Self::Ln,
            "log10" => Self::Log10,
            "log2" => Self::Log2,
            "minute" => Self::Date(DatePart::Minute),
            "month" => Self::Date(DatePart::Month),
            "rad" => Self::Rad,
            "round" => Self::Round,
            "sgn" => Self::Sgn,
            "sin" => Self::Sin,
            "sinh" => Self::Sinh,
            "sqrt" => Self::Sqrt,
            "start_timestamp" => Self::StartTimestamp,
            "tan" => Self::Tan,
            "tanh" => Self::Tanh,
            "timestamp" => Self::Timestamp,
            "year" => Self::Date(DatePart::Year),
            _ => return None,
        })
    }

    /// Does it look at values rather than at times?
    pub fn uses_values(self) -> bool {
        !matches!(self, Self::Timestamp | Self::StartTimestamp)
    }

    /// Does it look at buckets of histograms?
    pub fn uses_buckets(self) -> bool {
        matches!(self, Self::HistogramStddev | Self::HistogramStdvar)
    }
}

/// Applies a function to all cells of a tile. `params` are the scalar arguments in their order, a value per step each; the
/// second argument of `round` may be left out.
///
/// `timestamp` takes `orig_ts` of the tile, or the time of the step where the tile has none (its argument was no
/// selector); `start_timestamp` takes `start_ts`, and without has no result.
pub fn apply(func: CellFn, tile: &mut Tile, params: &[&[f64]], grid: &StepGrid) {
    match func {
        CellFn::Abs => floats(tile, f64::abs),
        CellFn::Acos => floats(tile, math::acos),
        CellFn::Acosh => floats(tile, math::acosh),
        CellFn::Asin => floats(tile, math::asin),
        CellFn::Asinh => floats(tile, math::asinh),
        CellFn::Atan => floats(tile, math::atan),
        CellFn::Atanh => floats(tile, math::atanh),
        CellFn::Ceil => floats(tile, f64::ceil),
        CellFn::Cos => floats(tile, math::cos),
        CellFn::Cosh => floats(tile, math::cosh),
        CellFn::Date(p) => floats(tile, |v| date::part(p, v)),
        CellFn::Deg => floats(tile, math::deg),
        CellFn::Exp => floats(tile, math::exp),
        CellFn::Floor => floats(tile, f64::floor),
        CellFn::Ln => floats(tile, math::ln),
        CellFn::Log10 => floats(tile, math::log10),
        CellFn::Log2 => floats(tile, math::log2),
        CellFn::Rad => floats(tile, math::rad),
        CellFn::Sgn => floats(tile, |v| {
            if v < 0.0 {
                -1.0
            } else if v > 0.0 {
                1.0
            } else {
                v
            }
        }),
        CellFn::Sin => floats(tile, math::sin),
        CellFn::Sinh => floats(tile, math::sinh),
        CellFn::Sqrt => floats(tile, f64::sqrt),
        CellFn::Tan => floats(tile, math::tan),
        CellFn::Tanh => floats(tile, math::tanh),
        CellFn::Round => round(tile, params.first().copied(), grid),
        CellFn::Clamp => clamp(tile, params.first().copied(), params.get(1).copied()),
        CellFn::ClampMax => clamp(tile, None, params.first().copied()),
        CellFn::ClampMin => clamp(tile, params.first().copied(), None),
        CellFn::HistogramAvg => histograms(tile, |h| h.sum / h.count),
        CellFn::HistogramCount => histograms(tile, |h| h.count),
        CellFn::HistogramStddev => histograms(tile, |h| variance(h).sqrt()),
        CellFn::HistogramStdvar => histograms(tile, variance),
        CellFn::HistogramSum => histograms(tile, |h| h.sum),
        CellFn::Timestamp => timestamps(tile, grid),
        CellFn::StartTimestamp => start_timestamps(tile),
    }
}

/// `-v`: histograms become gauges.
pub fn negate(tile: &mut Tile) {
    floats_only(tile, |v| -v);
    for (cell, h) in &mut tile.hist {
        std::sync::Arc::make_mut(h).mul(-1.0);
        tile.values[*cell as usize] = 0.0;
    }
}

fn drop_histograms(tile: &mut Tile) {
    for (cell, _) in std::mem::take(&mut tile.hist) {
        tile.clear(cell as usize);
    }
}

/// All floats; absent cells stay 0.
#[inline]
fn floats_only(tile: &mut Tile, f: impl Fn(f64) -> f64) {
    for (word, cells) in tile.present.iter().zip(tile.values.chunks_mut(64)) {
        let mut left = *word;
        if left == u64::MAX {
            for v in cells {
                *v = f(*v);
            }
            continue;
        }
        while left != 0 {
            if let Some(v) = cells.get_mut(left.trailing_zeros() as usize) {
                *v = f(*v);
            }
            left &= left - 1;
        }
    }
}

#[inline]
fn floats(tile: &mut Tile, f: impl Fn(f64) -> f64) {
    drop_histograms(tile);
    floats_only(tile, f);
}

fn histograms(tile: &mut Tile, f: impl Fn(&Histogram) -> f64) {
    tile.values.fill(0.0);
    tile.present.fill(0);
    for (cell, h) in std::mem::take(&mut tile.hist) {
        tile.set(cell as usize, f(&h));
    }
}

/// Floats of each step, with what is computed once per step.
#[inline]
fn by_step(tile: &mut Tile, step: impl Fn(&mut Tile, usize, usize)) {
    drop_histograms(tile);
    for row in 0..tile.rows() {
        for s in 0..tile.width {
            let cell = row * tile.width + s;
            if tile.is_present(cell) {
                step(tile, s, cell);
            }
        }
    }
}

fn round(tile: &mut Tile, to: Option<&[f64]>, grid: &StepGrid) {
    let at = |s: usize| 1.0 / to.and_then(|t| t.get(s)).copied().unwrap_or(1.0);
    let inverse: Vec<f64> = (0..grid.len.max(tile.width)).map(at).collect();
    by_step(tile, |tile, s, cell| {
        let inverse = inverse[s];
        tile.values[cell] = (tile.values[cell] * inverse + 0.5).floor() / inverse;
    });
}

fn clamp(tile: &mut Tile, min: Option<&[f64]>, max: Option<&[f64]>) {
    let at = |p: Option<&[f64]>, s: usize, none: f64| p.and_then(|p| p.get(s)).copied().unwrap_or(none);
    by_step(tile, |tile, s, cell| {
        let (min, max) = (at(min, s, f64::NEG_INFINITY), at(max, s, f64::INFINITY));
        if max < min {
            tile.clear(cell);
        } else {
            tile.values[cell] = math::max(min, math::min(max, tile.values[cell]));
        }
    });
}

fn timestamps(tile: &mut Tile, grid: &StepGrid) {
    tile.hist.clear();
    let times = std::mem::take(&mut tile.orig_ts);
    for row in 0..tile.rows() {
        for s in 0..tile.width {
            let cell = row * tile.width + s;
            if tile.is_present(cell) {
                let t = times.get(cell).copied().unwrap_or_else(|| grid.time(s));
                tile.values[cell] = t as f64 / 1000.0;
            }
        }
    }
}

fn start_timestamps(tile: &mut Tile) {
    tile.hist.clear();
    let times = std::mem::take(&mut tile.start_ts);
    if times.is_empty() {
        tile.values.fill(0.0);
        tile.present.fill(0);
        return;
    }
    for cell in 0..tile.values.len() {
        if tile.is_present(cell) {
            tile.values[cell] = times.get(cell).copied().unwrap_or(0) as f64 / 1000.0;
        }
    }
}

/// Variance of observations, each taken to be in the middle of its bucket: the arithmetic one of custom buckets, the
/// geometric one of exponential ones, 0 for the zero bucket.
fn variance(h: &Histogram) -> f64 {
    let mean = h.sum / h.count;
    let (mut sum, mut c) = (0.0, 0.0);
    for b in h.all_bucket_iterator() {
        if b.count == 0.0 {
            continue;
        }
        let value = if h.uses_custom_buckets() {
            (b.upper + b.lower) / 2.0
        } else if b.lower <= 0.0 && b.upper >= 0.0 {
            0.0
        } else {
            let middle = (b.upper * b.lower).sqrt();
            if b.upper < 0.0 { -middle } else { middle }
        };
        let delta = value - mean;
        (sum, c) = kahan_inc(b.count * delta * delta, sum, c);
    }
    (sum + c) / h.count
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quiver_model::{ResetHint, Span};

    use super::*;

    const GRID: StepGrid = StepGrid { start: 1000, step: 1000, len: 3 };

    /// 2.5, a histogram, −1.5 | nothing, 0.5, nothing
    fn tile() -> Tile {
        let mut t = Tile::new(3, vec![0, 1]);
        t.set(0, 2.5);
        t.set_histogram(1, Arc::new(Histogram { count: 4.0, sum: 10.0, ..Default::default() }));
        t.set(2, -1.5);
        t.set(4, 0.5);
        t
    }

    fn cells(t: &Tile) -> Vec<Option<f64>> {
        (0..t.values.len()).map(|c| (t.is_present(c) && t.histogram(c).is_none()).then(|| t.values[c])).collect()
    }

    fn applied(name: &str, params: &[&[f64]]) -> Vec<Option<f64>> {
        let mut t = tile();
        apply(CellFn::from_name(name).unwrap(), &mut t, params, &GRID);
        assert!(t.hist.is_empty());
        for c in 0..6 {
            assert!(t.is_present(c) || t.values[c] == 0.0, "{name}: an absent cell is 0");
        }
        cells(&t)
    }

    #[test]
    fn floats_change_and_histograms_go() {
        assert_eq!(applied("abs", &[]), [Some(2.5), None, Some(1.5), None, Some(0.5), None]);
        assert_eq!(applied("exp", &[])[3], None);
        assert_eq!(applied("sgn", &[]), [Some(1.0), None, Some(-1.0), None, Some(1.0), None]);
        assert_eq!(applied("round", &[]), [Some(3.0), None, Some(-1.0), None, Some(1.0), None]);
        let to: &[f64] = &[2.0, 0.3, 5.0];
        assert_eq!(applied("round", &[to]), [Some(2.0), None, Some(0.0), None, Some(0.6), None]);
        let (lo, hi): (&[f64], &[f64]) = (&[0.0, 1.0, 0.0], &[1.0, 0.0, f64::NAN]);
        let clamped = applied("clamp", &[lo, hi]);
        assert_eq!(clamped[..2], [Some(1.0), None]);
        assert!(clamped[2].unwrap().is_nan() && clamped[4].is_none());
        assert_eq!(applied("clamp_min", &[lo]), [Some(2.5), None, Some(0.0), None, Some(1.0), None]);
        assert_eq!(applied("year", &[])[0], Some(1970.0));
    }

    #[test]
    fn histograms_become_floats() {
        assert_eq!(applied("histogram_avg", &[]), [None, Some(2.5), None, None, None, None]);
        assert_eq!(applied("histogram_count", &[])[1], Some(4.0));
        let h = Histogram {
            count: 4.0,
            sum: 8.0,
            positive_spans: vec![Span { offset: 1, length: 2 }],
            positive_buckets: vec![2.0, 2.0],
            ..Default::default()
        };
        // Middles √2 and √8, mean 2.
        let want = ((2.0 - 2f64.sqrt()).powi(2) + (8f64.sqrt() - 2.0).powi(2)) / 2.0;
        assert!((variance(&h) - want).abs() < 1e-15);
    }

    #[test]
    fn times() {
        assert_eq!(applied("timestamp", &[]), [Some(1.0), Some(2.0), Some(3.0), None, Some(2.0), None]);
        assert_eq!(applied("start_timestamp", &[]), [None; 6]);
        let mut t = tile();
        t.orig_ts = vec![500, 1500, 2500, 0, 1250, 0];
        apply(CellFn::Timestamp, &mut t, &[], &GRID);
        assert_eq!(cells(&t), [Some(0.5), Some(1.5), Some(2.5), None, Some(1.25), None]);
    }

    #[test]
    fn minus() {
        let mut t = tile();
        negate(&mut t);
        assert_eq!(cells(&t), [Some(-2.5), None, Some(1.5), None, Some(-0.5), None]);
        let h = t.histogram(1).unwrap();
        assert_eq!((h.count, h.sum, h.reset_hint), (-4.0, -10.0, ResetHint::Gauge));
        assert_eq!(t.values[1], 0.0);
    }
}
