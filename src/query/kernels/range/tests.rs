//! The folds against the plain definition: every window on its own, sample by sample.

use proptest::prelude::*;
use quiver_model::{Histogram, ResetHint, STALE_NAN, SampleColumn, Span, Value};

use super::*;
use crate::annotation::Annotations;

/// One sample of a window.
#[derive(Clone, Debug)]
struct Sample {
    t: i64,
    v: Value,
    st: i64,
}

impl Sample {
    fn float(&self) -> Option<f64> {
        match self.v {
            Value::Float(v) => Some(v),
            Value::Histogram(_) => None,
        }
    }
}

/// What the plain definition says of one window.
#[derive(Debug, PartialEq)]
enum Plain {
    Nothing,
    Float(u64),
    Histogram(Histogram),
}

fn float(v: f64) -> Plain {
    Plain::Float(v.to_bits())
}

fn plain_rate(spec: &RangeSpec, end: i64, f: &[Sample]) -> Plain {
    let (counter, per_second) = (spec.func != RangeFn::Delta, spec.func == RangeFn::Rate);
    let starts = counter && spec.use_start_timestamps;
    let start = end - spec.range_ms;
    let v: Vec<f64> = f.iter().filter_map(Sample::float).collect();
    let (first, last) = (&f[0], &f[f.len() - 1]);
    let mut result = v[v.len() - 1] - v[0];
    if counter {
        for i in 1..f.len() {
            let started = starts && start_time::is_reset(f[i - 1].st, f[i - 1].t, f[i].st, f[i].t);
            if v[i] < v[i - 1] || started {
                result += v[i - 1];
            }
        }
    }
    let mut to_start = (first.t - start) as f64 / 1000.0;
    let mut to_end = (end - last.t) as f64 / 1000.0;
    let mut sampled = (last.t - first.t) as f64 / 1000.0;
    let average = if f.len() > 1 { sampled / (f.len() - 1) as f64 } else { 0.0 };
    let threshold = average * 1.1;
    if starts && first.st != 0 && first.st > start && first.st < first.t {
        to_start = 0.0;
        sampled = (last.t - first.st) as f64 / 1000.0;
        result += v[0];
    } else if f.len() == 1 {
        return Plain::Nothing;
    } else {
        if to_start >= threshold {
            to_start = average / 2.0;
        }
        if counter {
            let mut to_zero = to_start;
            if result > 0.0 && v[0] >= 0.0 {
                to_zero = sampled * (v[0] / result);
            }
            if to_zero < to_start {
                to_start = to_zero;
            }
        }
    }
    if to_end >= threshold {
        to_end = average / 2.0;
    }
    let mut factor = if sampled != 0.0 { (sampled + to_start + to_end) / sampled } else { 1.0 };
    if per_second {
        factor /= seconds(spec.range_ms);
    }
    float(result * factor)
}

fn plain_pairs(spec: &RangeSpec, end: i64, all: &[Sample]) -> Plain {
    let mut from = 0;
    if spec.extend == Extend::Anchored {
        let start = end - spec.range_ms;
        if all.iter().all(|s| s.t <= start) {
            return Plain::Nothing;
        }
        from = all.iter().rposition(|s| s.t <= start).unwrap_or(0);
    }
    let mut n = 0;
    for p in all[from..].windows(2) {
        let (a, b) = (&p[0], &p[1]);
        let started = spec.use_start_timestamps && start_time::is_reset(a.st, a.t, b.st, b.t);
        let event = match (&a.v, &b.v, spec.func) {
            (Value::Float(x), Value::Float(y), RangeFn::Resets) => y < x || started,
            (Value::Float(x), Value::Float(y), _) => x != y && !(x.is_nan() && y.is_nan()),
            (Value::Histogram(x), Value::Histogram(y), RangeFn::Resets) => started || y.detect_reset(x),
            (Value::Histogram(x), Value::Histogram(y), _) => {
                let compacted = |h: &Histogram| {
                    let mut h = h.clone();
                    h.compact(0);
                    h
                };
                !compacted(y).equals(&compacted(x))
            }
            _ => true,
        };
        n += u32::from(event);
    }
    float(f64::from(n))
}

fn plain(spec: &RangeSpec, step_time: i64, end: i64, param: f64, all: &[Sample]) -> Plain {
    if all.is_empty() {
        return Plain::Nothing;
    }
    let floats: Vec<Sample> = all.iter().filter(|s| s.float().is_some()).cloned().collect();
    let v: Vec<f64> = floats.iter().filter_map(Sample::float).collect();
    let ts: Vec<i64> = floats.iter().map(|s| s.t).collect();
    let mixed = !floats.is_empty() && floats.len() < all.len();
    let value = |s: &Sample| match &s.v {
        Value::Float(v) => float(*v),
        Value::Histogram(h) => Plain::Histogram((**h).clone()),
    };
    let hist: Vec<(u32, Arc<Histogram>)> = all
        .iter()
        .filter_map(|s| match &s.v {
            Value::Histogram(h) => Some((0, Arc::clone(h))),
            Value::Float(_) => None,
        })
        .collect();
    match spec.func {
        RangeFn::Count => return float(all.len() as f64),
        RangeFn::Present | RangeFn::Absent => return float(1.0),
        RangeFn::First => return value(&all[0]),
        RangeFn::Last => return value(&all[all.len() - 1]),
        RangeFn::TsOfFirst => return float(all[0].t as f64 / 1000.0),
        RangeFn::TsOfLast => return float(all[all.len() - 1].t as f64 / 1000.0),
        RangeFn::Changes | RangeFn::Resets => return plain_pairs(spec, end, all),
        RangeFn::Rate | RangeFn::Increase | RangeFn::Delta if !mixed && hist.is_empty() => {
            return plain_rate(spec, end, &floats);
        }
        RangeFn::Sum | RangeFn::Avg => {
            if mixed {
                return Plain::Nothing;
            }
            if !hist.is_empty() {
                let f = if spec.func == RangeFn::Sum { histogram::sum } else { histogram::avg };
                return f(&hist, &mut Notes::default()).unwrap().map_or(Plain::Nothing, Plain::Histogram);
            }
        }
        RangeFn::Rate | RangeFn::Increase | RangeFn::Delta => return Plain::Nothing,
        _ => {}
    }
    if floats.is_empty() {
        return Plain::Nothing;
    }
    let best = |better: fn(f64, f64) -> bool| {
        let (mut best, mut at) = (v[0], ts[0]);
        for (x, t) in v.iter().zip(&ts) {
            if better(*x, best) || best.is_nan() {
                (best, at) = (*x, *t);
            }
        }
        (best, at as f64 / 1000.0)
    };
    match spec.func {
        RangeFn::Sum => float(float::sum(&v)),
        RangeFn::Avg => float(float::avg(&v)),
        RangeFn::Max => float(best(|a, b| a > b).0),
        RangeFn::Min => float(best(|a, b| a < b).0),
        RangeFn::TsOfMax => float(best(|a, b| a >= b).1),
        RangeFn::TsOfMin => float(best(|a, b| a <= b).1),
        RangeFn::Stdvar => float(float::variance(&v)),
        RangeFn::Stddev => float(float::variance(&v).sqrt()),
        RangeFn::Mad => float(float::mad(&v, &mut Vec::new())),
        RangeFn::Deriv if v.len() > 1 => float(float::regression(&ts, &v, ts[0]).0),
        RangeFn::PredictLinear if v.len() > 1 => {
            let (slope, intercept) = float::regression(&ts, &v, step_time);
            float(slope * param + intercept)
        }
        RangeFn::Quantile => {
            let mut sorted = v.clone();
            sorted.sort_by(|a, b| b.is_nan().cmp(&a.is_nan()).then(a.total_cmp(b)));
            if param.is_nan() {
                return float(f64::NAN);
            }
            if !(0.0..=1.0).contains(&param) {
                return float(if param < 0.0 { f64::NEG_INFINITY } else { f64::INFINITY });
            }
            let rank = param * (v.len() as f64 - 1.0);
            let lower = rank.floor() as usize;
            let upper = (lower + 1).min(v.len() - 1);
            let weight = rank - rank.floor();
            if weight == 0.0 {
                return float(sorted[lower]);
            }
            float(sorted[lower] * (1.0 - weight) + sorted[upper] * weight)
        }
        RangeFn::DoubleExponentialSmoothing if v.len() > 1 => float(float::smooth(&v, 0.3, 0.6)),
        RangeFn::Integral => float(float::integral(&ts, &v, float::Strategy::Trapezoid)),
        _ => Plain::Nothing,
    }
}

const ALL: [&str; 28] = [
    "absent_over_time",
    "avg_over_time",
    "changes",
    "count_over_time",
    "delta",
    "deriv",
    "double_exponential_smoothing",
    "first_over_time",
    "idelta",
    "increase",
    "integral",
    "irate",
    "last_over_time",
    "mad_over_time",
    "max_over_time",
    "min_over_time",
    "predict_linear",
    "present_over_time",
    "quantile_over_time",
    "rate",
    "resets",
    "stddev_over_time",
    "stdvar_over_time",
    "sum_over_time",
    "ts_of_first_over_time",
    "ts_of_last_over_time",
    "ts_of_max_over_time",
    "ts_of_min_over_time",
];

fn histogram(n: f64) -> Arc<Histogram> {
    Arc::new(Histogram {
        count: n,
        sum: n * 1.5,
        positive_spans: vec![Span { offset: 0, length: 1 }],
        positive_buckets: vec![n],
        ..Default::default()
    })
}

/// Kind of sample, value, start timestamp before it (0: unknown).
fn samples(kinds: u8) -> impl Strategy2 {
    proptest::collection::btree_map(0i64..300, (0..kinds, 0u8..5, 0i64..20), 0..60)
}

trait Strategy2: proptest::strategy::Strategy<Value = std::collections::BTreeMap<i64, (u8, u8, i64)>> {}
impl<T: proptest::strategy::Strategy<Value = std::collections::BTreeMap<i64, (u8, u8, i64)>>> Strategy2 for T {}

fn column(samples: &std::collections::BTreeMap<i64, (u8, u8, i64)>) -> SampleColumn {
    let mut c = SampleColumn::default();
    for (t, (kind, v, st)) in samples {
        let st = if *st == 0 { 0 } else { t - st };
        match kind {
            0 => c.push_float(*t, STALE_NAN, st),
            1 => c.push_float(*t, f64::NAN, st),
            8.. => c.push_histogram(*t, histogram(f64::from(*v)), st),
            _ => c.push_float(*t, f64::from(*v) * 0.1, st),
        }
    }
    c
}

fn run(spec: &RangeSpec, col: &SampleColumn, grid: &StepGrid, params: &[&[f64]]) -> (Tile, u64, Annotations) {
    let mut out = Tile::new(grid.len, vec![0, 1]);
    let mut ann = Annotations::new();
    let names = SeriesNames { metric: "m_total", kind: "" };
    let n = fold(spec, names, col, grid, params, &mut Scratch::default(), &mut out, 1, &mut ann).unwrap();
    assert!((0..grid.len).all(|c| !out.is_present(c)));
    (out, n, ann)
}

fn compare(spec: &RangeSpec, col: &SampleColumn, grid: &StepGrid, q: &[f64]) {
    let half = vec![0.3; grid.len];
    let more = vec![0.6; grid.len];
    let strategy = vec![2.0; grid.len];
    let params: Vec<&[f64]> = match spec.func {
        RangeFn::DoubleExponentialSmoothing => vec![&half, &more],
        RangeFn::Integral => vec![&strategy],
        RangeFn::Quantile | RangeFn::PredictLinear => vec![q],
        _ => vec![],
    };
    let (out, samples, _) = run(spec, col, grid, &params);
    let (before, after) = spec.read_extent();
    let mut all = 0;
    for (step, q) in q.iter().enumerate() {
        let end = grid.time(if spec.fixed { 0 } else { step }) - spec.offset_ms;
        let window: Vec<Sample> = (0..col.len())
            .filter(|i| col.ts[*i] > end - before && col.ts[*i] <= end + after && !col.value_at(*i).is_stale())
            .map(|i| Sample { t: col.ts[i], v: col.value_at(i), st: col.start_at(i) })
            .collect();
        all += window
            .iter()
            .map(|s| match &s.v {
                Value::Float(_) => 1,
                Value::Histogram(h) => sample_size(h),
            })
            .sum::<u64>();
        let has_histogram = window.iter().any(|s| s.float().is_none());
        let skip = matches!(spec.func, RangeFn::Irate | RangeFn::Idelta)
            || matches!(spec.func, RangeFn::Rate | RangeFn::Increase | RangeFn::Delta) && has_histogram;
        if skip {
            continue;
        }
        let cell = grid.len + step;
        let got = match (out.is_present(cell), out.histogram(cell)) {
            (false, _) => Plain::Nothing,
            (true, Some(h)) => Plain::Histogram((**h).clone()),
            (true, None) => float(out.values[cell]),
        };
        let want = plain(spec, grid.time(step), end, *q, &window);
        let nan = |p: &Plain| matches!(p, Plain::Float(b) if f64::from_bits(*b).is_nan());
        assert!(got == want || nan(&got) && nan(&want), "{:?} step {step}: {got:?} instead of {want:?}", spec.func);
    }
    assert_eq!(samples, all, "{:?}", spec.func);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn folds_are_the_plain_definition(
        floats in samples(8), mixed in samples(10), start in -20i64..250, step in 1i64..60, len in 1usize..16,
        range in 1i64..150, offset in -20i64..20, fixed: bool, starts: bool, q in -0.2f64..1.2, anchored: bool,
    ) {
        let grid = StepGrid { start, step, len };
        let q: Vec<f64> = (0..len).map(|i| if i % 5 == 4 { f64::NAN } else { q + i as f64 * 0.01 }).collect();
        for name in ALL {
            let func = RangeFn::from_name(name).unwrap();
            prop_assert_eq!(func.name(), name);
            let mut spec = RangeSpec::new(func, range);
            (spec.offset_ms, spec.fixed, spec.use_start_timestamps, spec.lookback_ms) = (offset, fixed, starts, 50);
            if anchored && matches!(func, RangeFn::Changes | RangeFn::Resets) {
                spec.extend = Extend::Anchored;
            }
            for col in [column(&floats), column(&mixed)] {
                compare(&spec, &col, &grid, &q);
            }
        }
    }
}

fn floats(v: &[(i64, f64)]) -> SampleColumn {
    let mut c = SampleColumn::default();
    for (t, v) in v {
        c.push_float(*t, *v, 0);
    }
    c
}

fn one(spec: &RangeSpec, col: &SampleColumn, at: i64) -> (Option<Value>, Vec<String>) {
    let grid = StepGrid { start: at, step: 1, len: 1 };
    let (out, _, ann) = run(spec, col, &grid, &[]);
    let v = out.is_present(1).then(|| match out.histogram(1) {
        Some(h) => Value::Histogram(Arc::clone(h)),
        None => Value::Float(out.values[1]),
    });
    (v, ann.iter().map(|a| a.text.clone()).collect())
}

fn number(spec: &RangeSpec, col: &SampleColumn, at: i64) -> Option<f64> {
    match one(spec, col, at).0 {
        Some(Value::Float(v)) => Some(v),
        _ => None,
    }
}

#[test]
fn rates() {
    let col = floats(&[(0, 0.0), (10_000, 10.0), (20_000, 5.0), (30_000, 15.0)]);
    let increase = RangeSpec::new(RangeFn::Increase, 30_001);
    // 15 − 0, and 10 for the reset; nothing to extrapolate but a millisecond, which the zero point forbids.
    assert_eq!(number(&increase, &col, 30_000), Some(25.0));
    assert_eq!(
        number(&RangeSpec::new(RangeFn::Delta, 30_000), &floats(&[(10_000, 1.0), (20_000, 2.0)]), 30_000),
        Some(3.0)
    );
    assert_eq!(number(&RangeSpec::new(RangeFn::Irate, 60_000), &col, 60_000), Some(1.0));
    assert_eq!(number(&RangeSpec::new(RangeFn::Idelta, 60_000), &col, 25_000), Some(-5.0));
    let mut spec = RangeSpec::new(RangeFn::Increase, 60_000);
    spec.use_start_timestamps = true;
    let mut single = SampleColumn::default();
    single.push_float(30_000, 7.0, 10_000);
    assert_eq!(number(&spec, &single, 40_000), Some(7.0));
    spec.use_start_timestamps = false;
    assert_eq!(number(&spec, &single, 40_000), None);
}

#[test]
fn extended_rates() {
    let col = floats(&[(0, 1.0), (10_000, 2.0), (20_000, 4.0), (30_000, 8.0)]);
    let mut spec = RangeSpec::new(RangeFn::Increase, 20_000);
    spec.extend = Extend::Anchored;
    assert_eq!(number(&spec, &col, 25_000), Some(3.0));
    spec.extend = Extend::Smoothed;
    assert_eq!(number(&spec, &col, 25_000), Some(4.5));
    assert_eq!(number(&spec, &floats(&[(0, 4.0), (10_000, 2.0), (30_000, 1.0)]), 25_000), Some(0.75 + 2.0 - 1.0));
    assert_eq!(spec.read_extent(), (320_000, 300_000));
    spec.func = RangeFn::Sum;
    assert_eq!(
        spec.check(),
        Err(QueryError::Execution(
            "smoothed modifier can only be used with: delta, increase, rate - not with sum_over_time".into()
        ))
    );
}

#[test]
fn histogram_rates_and_reports() {
    let mut col = SampleColumn::default();
    for (t, n) in [(10_000, 1.0), (20_000, 4.0), (30_000, 2.0), (40_000, 3.0)] {
        col.push_histogram(t, histogram(n), 0);
    }
    let spec = RangeSpec::new(RangeFn::Increase, 40_000);
    let (v, notes) = one(&spec, &col, 45_000);
    let Some(Value::Histogram(h)) = v else { panic!("{v:?}") };
    // 3 − 1, and 4 for the reset; 5 s more at each end.
    assert_eq!((h.count, h.reset_hint), (6.0 * (30.0 + 5.0 + 5.0) / 30.0, ResetHint::Gauge));
    assert!(notes.is_empty(), "{notes:?}");
    let delta = one(&RangeSpec::new(RangeFn::Delta, 40_000), &col, 45_000);
    assert_eq!(delta.1, ["this native histogram metric is not a gauge: \"m_total\""]);
    col.push_float(50_000, 1.0, 0);
    let (v, notes) = one(&spec, &col, 50_000);
    assert_eq!(
        (v, &notes[..]),
        (None, &["encountered a mix of histograms and floats for metric name \"m_total\"".to_owned()][..])
    );
    let (v, notes) = one(&RangeSpec::new(RangeFn::Max, 40_000), &col, 50_000);
    assert_eq!(v, Some(Value::Float(1.0)));
    assert_eq!(
        notes,
        ["ignored histograms in a range containing both floats and histograms for metric name \"m_total\""]
    );
}

#[test]
fn mean_of_histograms_that_overflow() {
    let mut col = SampleColumn::default();
    for t in 1..=3 {
        col.push_histogram(t, histogram(1e308), 0);
    }
    let (v, _) = one(&RangeSpec::new(RangeFn::Avg, 10), &col, 5);
    let Some(Value::Histogram(h)) = v else { panic!("{v:?}") };
    assert!((h.count / 1e308 - 1.0).abs() < 1e-15 && h.sum.is_finite(), "{h:?}");
}
