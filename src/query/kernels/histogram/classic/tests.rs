//! Tests of the classic histogram functions.

use super::*;
use quiver_model::Span;

const NAN: f64 = f64::NAN;

fn grid(len: usize) -> StepGrid {
    StepGrid { start: 600_000, step: 60_000, len }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied()).unwrap()
}

fn native(count: f64) -> Arc<Histogram> {
    Arc::new(Histogram {
        count,
        sum: count,
        positive_spans: vec![Span { offset: 1, length: 1 }],
        positive_buckets: vec![count],
        ..Default::default()
    })
}

enum Row<'a> {
    /// NaN: no sample.
    Floats(&'a [f64]),
    /// 0: no sample.
    Natives(&'a [f64]),
}

fn run(
    series: &[(&[(&str, &str)], Row<'_>)],
    function: HistogramFunction,
    delayed: bool,
) -> Result<(Vec<(String, Vec<f64>)>, Vec<String>), QueryError> {
    let width = match series[0].1 {
        Row::Floats(v) | Row::Natives(v) => v.len(),
    };
    let rows = series.iter().map(|(l, _)| RosterRow { labels: labels(l), drop_name: false }).collect();
    let spec = HistogramSpec { function, pos: Position::new(2, 3), grid: grid(width), delayed };
    let mut state = ClassicHistograms::new(Arc::new(Roster { rows }), spec);
    // Two rows a tile.
    for (t, part) in series.chunks(2).enumerate() {
        let mut tile = Tile::new(width, (0..part.len()).map(|i| (t * 2 + i) as u32).collect());
        for (row, (_, values)) in part.iter().enumerate() {
            match values {
                Row::Floats(v) => {
                    for (i, v) in v.iter().enumerate().filter(|(_, v)| !v.is_nan()) {
                        tile.set(row * width + i, *v);
                    }
                }
                Row::Natives(v) => {
                    for (i, v) in v.iter().enumerate().filter(|(_, v)| **v != 0.0) {
                        tile.set_histogram(row * width + i, native(*v));
                    }
                }
            }
        }
        state.push(tile);
    }
    let (roster, tiles, annotations) = state.finish()?;
    let mut out = Vec::new();
    for tile in &tiles {
        for (row, sid) in tile.sids.iter().enumerate() {
            let r = &roster.rows[*sid as usize];
            assert_eq!(r.drop_name, delayed);
            let cells = row * width..(row + 1) * width;
            let v = cells.map(|c| if tile.is_present(c) { tile.values[c] } else { -1.0 }).collect();
            out.push((r.labels.to_string(), v));
        }
    }
    let (mut warnings, infos) = annotations.texts("012345", 0, 0);
    warnings.extend(infos);
    Ok((out, warnings))
}

fn quantile(q: &[f64]) -> HistogramFunction {
    HistogramFunction::Quantile { q: (q.to_vec(), Position::new(0, 1)) }
}

#[test]
fn groups_series_by_all_labels_but_the_bound() {
    let (out, notes) = run(
        &[
            (&[("__name__", "h"), ("job", "a"), ("le", "+Inf")], Row::Floats(&[4.0, 4.0])),
            (&[("__name__", "h"), ("job", "a"), ("le", "1")], Row::Floats(&[2.0, NAN])),
            (&[("__name__", "h"), ("job", "b"), ("le", "+Inf")], Row::Floats(&[NAN, 4.0])),
            (&[("__name__", "h"), ("job", "a"), ("le", "2.0")], Row::Floats(&[4.0, 4.0])),
            (&[("__name__", "h"), ("job", "b"), ("le", "1")], Row::Floats(&[NAN, 4.0])),
        ],
        quantile(&[0.5, 0.25]),
        false,
    )
    .unwrap();
    assert_eq!(out, [("{job=\"a\"}".to_owned(), vec![1.0, 0.5]), ("{job=\"b\"}".to_owned(), vec![-1.0, 0.25])]);
    assert!(notes.is_empty());
}

#[test]
fn classic_and_native_of_one_name_exclude_each_other_at_a_step() {
    let series: &[(&[(&str, &str)], Row<'_>)] = &[
        (&[("__name__", "h")], Row::Natives(&[3.0, 3.0, 0.0])),
        (&[("__name__", "h"), ("le", "+Inf")], Row::Floats(&[NAN, 4.0, 4.0])),
        (&[("__name__", "h"), ("le", "1")], Row::Floats(&[NAN, 4.0, 4.0])),
    ];
    let (out, notes) = run(series, quantile(&[1.0; 3]), false).unwrap();
    assert_eq!(out, [("{}".to_owned(), vec![2.0, -1.0, 1.0])]);
    assert_eq!(notes, ["PromQL warning: vector contains a mix of classic and native histograms (1:3)"]);
    let (out, notes) = run(series, quantile(&[1.0; 3]), true).unwrap();
    assert_eq!(out.len(), 1);
    assert!(out[0].0.contains('h'));
    assert_eq!(
        notes,
        ["PromQL warning: vector contains a mix of classic and native histograms for metric name \"h\" (1:3)"]
    );
}

#[test]
fn reports() {
    let (out, notes) = run(
        &[
            (&[("__name__", "h"), ("le", "+Inf")], Row::Floats(&[4.0, 4.0])),
            (&[("__name__", "h"), ("le", "1")], Row::Floats(&[6.0, 5.0])),
            (&[("__name__", "h"), ("le", "x")], Row::Floats(&[6.0, 5.0])),
            (&[("__name__", "other")], Row::Floats(&[6.0, 5.0])),
        ],
        quantile(&[0.5, 7.0]),
        true,
    )
    .unwrap();
    assert_eq!(out[0].1, [0.5, f64::INFINITY]);
    assert_eq!(
        notes,
        [
            "PromQL warning: bucket label \"le\" is missing or has a malformed value of \"\" for metric name \"other\" \
             (1:3)",
            "PromQL warning: bucket label \"le\" is missing or has a malformed value of \"x\" for metric name \"h\" \
             (1:3)",
            "PromQL warning: quantile value should be between 0 and 1, got 7 (1:1)",
            "PromQL info: input to histogram_quantile needed to be fixed for monotonicity (see \
             https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile) for metric name \
             \"h\", from buckets +Inf to +Inf, with a max diff of 2, over 2 samples from 1970-01-01T00:10:00Z to \
             1970-01-01T00:10:00Z (1:3)",
        ]
    );
}

#[test]
fn equal_labels_at_one_step_are_an_error() {
    let two = |a: &'static [f64], b: &'static [f64]| {
        run(
            &[(&[("__name__", "a")], Row::Natives(a)), (&[("__name__", "b")], Row::Natives(b))],
            quantile(&[1.0, 1.0]),
            false,
        )
    };
    assert_eq!(two(&[1.0, 0.0], &[0.0, 1.0]).unwrap().0, [("{}".to_owned(), vec![2.0, 2.0])]);
    let e = two(&[1.0, 1.0], &[0.0, 1.0]).unwrap_err();
    assert!(e.to_string().contains("vector cannot contain metrics with the same labelset"));
}

#[test]
fn fractions() {
    let (out, _) = run(
        &[
            (&[("__name__", "a"), ("le", "+Inf")], Row::Floats(&[4.0])),
            (&[("__name__", "a"), ("le", "1")], Row::Floats(&[2.0])),
            (&[("__name__", "b"), ("x", "y")], Row::Natives(&[3.0])),
        ],
        HistogramFunction::Fraction { lower: vec![0.5], upper: vec![f64::INFINITY] },
        false,
    )
    .unwrap();
    assert_eq!(out, [("{}".to_owned(), vec![0.75]), ("{x=\"y\"}".to_owned(), vec![1.0])]);
}

#[test]
fn several_quantiles() {
    let p = Position::new(0, 1);
    let series: &[(&[(&str, &str)], Row<'_>)] = &[
        (&[("__name__", "a"), ("le", "+Inf")], Row::Floats(&[4.0, 2.0])),
        (&[("__name__", "a"), ("le", "1")], Row::Floats(&[4.0, 4.0])),
    ];
    let function = |qs: &[[f64; 2]]| HistogramFunction::Quantiles {
        label: "q".into(),
        qs: qs.iter().map(|q| (q.to_vec(), p)).collect(),
    };
    let (out, notes) = run(series, function(&[[0.5, 0.5], [1.0, 0.25]]), false).unwrap();
    assert_eq!(
        out,
        [
            ("{q=\"0.25\"}".to_owned(), vec![-1.0, 0.25]),
            ("{q=\"0.5\"}".to_owned(), vec![0.5, 0.5]),
            ("{q=\"1.0\"}".to_owned(), vec![1.0, -1.0])
        ]
    );
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("over 1 samples from 1970-01-01T00:11:00Z"));
    assert!(run(series, function(&[[0.5, 0.5], [0.1, 0.5]]), false).is_err());
}

#[test]
fn bounds_are_read_as_go_reads_them() {
    assert_eq!(parse_bound("+Inf"), Some(f64::INFINITY));
    assert_eq!(parse_bound("infinity"), Some(f64::INFINITY));
    assert_eq!(parse_bound("1e3"), Some(1000.0));
    assert_eq!(parse_bound("1_000"), Some(1000.0));
    for bad in ["", "x", "NaN", "1e999", "1__0", "_1", " 1"] {
        assert_eq!(parse_bound(bad), None, "{bad}");
    }
    assert_eq!(open_metrics_float(2.0), "2.0");
    assert_eq!(open_metrics_float(1e9), "1e+09");
    assert_eq!(open_metrics_float(f64::NAN), "NaN");
}
