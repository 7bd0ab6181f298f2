//! Rules of the optimizer never change an answer: with all of them and with none, values, annotations and errors are the
//! same, over stores and queries made at random.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use quiver_core::memory::MemoryStore;
use quiver_model::{Histogram, Span, WriteBatch};

use super::*;
use crate::hints::{Hints, Rule};

/// Metric, labels `a b c` (0: not there), first sample and number of them; `true`: histograms among them.
type Series = (usize, [u8; 3], u8, u8, bool);

const METRICS: [&str; 4] = ["x_total", "y_total", "g", "info"];

fn store(series: &[Series]) -> Arc<MemoryStore> {
    let store = MemoryStore::new();
    let mut b = WriteBatch::default();
    let mut seen = std::collections::HashSet::new();
    for (metric, labels, first, len, histograms) in series {
        if !seen.insert((metric, labels)) {
            continue;
        }
        let values = labels.map(|v| v.to_string());
        let mut all = vec![("__name__", METRICS[*metric])];
        all.extend(["a", "b", "c"].into_iter().zip(&values).filter(|(_, v)| *v != "0").map(|(n, v)| (n, v.as_str())));
        b.begin_series(all);
        for k in 0..i64::from(*len) {
            let t = (i64::from(*first) + k) * 10_000;
            let v = f64::from(labels[0]) * 100.0 + f64::from(labels[1]) * 10.0 + (k * k % 17) as f64;
            if *histograms && k % 3 == 1 {
                let h = Histogram {
                    count: 3.0 + k as f64,
                    sum: v,
                    positive_spans: vec![Span { offset: 0, length: 1 }],
                    positive_buckets: vec![3.0 + k as f64],
                    ..Histogram::default()
                };
                b.push_histogram(t, h, 0);
            } else {
                b.push_float(t, v, 0);
            }
        }
    }
    store.write_now(&b).unwrap();
    Arc::new(store)
}

fn any_series() -> impl Strategy<Value = Series> {
    (0..4usize, [0u8..4, 0..3, 0..3], 0u8..8, 1u8..30, prop::bool::weighted(0.08))
}

/// A selector with its window or without, of one of the metrics.
fn leaf() -> impl Strategy<Value = String> {
    let matchers = prop::sample::select(vec![
        "",
        "",
        "",
        r#"{a="1"}"#,
        r#"{a=~"1|2"}"#,
        r#"{a="1",b="1"}"#,
        r#"{b!="1"}"#,
        r#"{c=""}"#,
        r#"{a=~"1|2",c="1"}"#,
    ]);
    let shape = prop::sample::select(vec![
        "@",
        "@",
        "@",
        "rate(@[40s])",
        "rate(@[40s])",
        "increase(@[1m])",
        "max_over_time(@[30s])",
        "delta(@[40s])",
        "quantile_over_time(2, @[30s])",
        "-@",
        "@ * 2",
        "abs(@)",
        "@ offset 20s",
        "@ > bool 5",
        "@ smoothed",
    ]);
    (prop::sample::select(METRICS.to_vec()), matchers, shape).prop_map(|(m, k, s)| s.replace('@', &format!("{m}{k}")))
}

fn query() -> impl Strategy<Value = String> {
    leaf().prop_recursive(3, 12, 2, |inner| {
        let matching = prop::sample::select(vec![
            "",
            "on (a)",
            "on (a, b)",
            "on (c)",
            "on ()",
            "ignoring (c)",
            "ignoring (b, c)",
            "ignoring (a)",
        ]);
        let group =
            prop::sample::select(vec!["", "", "group_left", "group_left (c)", "group_right", "group_right (b)"]);
        let op = prop::sample::select(vec!["+", "/", ">", "== bool", "and", "and", "unless", "or", "<="]);
        let by = prop::sample::select(vec!["", "by (a)", "by (a, b)", "without (c)", "by (c)"]);
        let agg = prop::sample::select(vec![
            "sum",
            "max",
            "min",
            "count",
            "avg",
            "stddev",
            "group",
            "topk 2",
            "quantile 0.5",
        ]);
        let join = (inner.clone(), op.clone(), matching, group, inner.clone()).prop_map(|(l, o, m, g, r)| {
            let set = matches!(o, "and" | "or" | "unless");
            let g = if set || m.is_empty() { "" } else { g };
            format!("({l}) {o} {m} {g} ({r})")
        });
        let same = (inner.clone(), op, agg.clone(), by.clone(), by.clone()).prop_map(|(x, o, f, b1, b2)| {
            let f = f.split(' ').next().unwrap_or("sum");
            let f = if f == "topk" || f == "quantile" { "sum" } else { f };
            let on = if matches!(o, "and" | "or" | "unless") { "" } else { "on () group_left" };
            format!("{f} {b1} ({x}) {o} {on} max {b2} ({x})")
        });
        let aggregate = (agg, by, inner.clone()).prop_map(|(f, b, x)| match f.split_once(' ') {
            Some((f, p)) => format!("{f} {b} ({p}, {x})"),
            None => format!("{f} {b} ({x})"),
        });
        let labels = inner.clone().prop_map(|x| format!(r#"label_replace({x}, "c", "$1", "a", "(.*)")"#));
        let subquery = inner.prop_map(|x| format!("max_over_time(({x})[40s:10s])"));
        prop_oneof![4 => join, 3 => same, 2 => aggregate, 1 => labels, 1 => subquery]
    })
}

fn ask(e: &Engine, query: &str, hints: Hints, end: i64) -> String {
    let options = QueryOptions { hints, ..QueryOptions::default() };
    let step = if end > 100_000 { 20_000 } else { 0 };
    let r = PromqlRequest { query: query.into(), start: 100_000, end, step, options };
    let ctx = Arc::new(e.context(query, &r.options, None));
    match e.answer(&r, &ctx, Duration::ZERO) {
        Ok(a) => {
            let mut notes: Vec<String> = a.annotations.iter().map(|n| format!("{n:?}")).collect();
            notes.sort();
            format!("{:?} {notes:?}", a.value)
        }
        Err(e) => format!("{e:?}"),
    }
}

fn engine(series: &[Series]) -> Engine {
    let mut options = EngineOptions::default();
    options.features.experimental_functions = true;
    Engine::new(store(series), options).unwrap()
}

fn none() -> Hints {
    let off: Vec<String> = Rule::ALL.iter().map(|r| format!("no-{}", r.name())).collect();
    Hints::parse(off.iter().map(String::as_str)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, ..ProptestConfig::default() })]

    #[test]
    fn no_rule_changes_an_answer(series in prop::collection::vec(any_series(), 0..40), queries in prop::collection::vec(query(), 1..6)) {
        let e = engine(&series);
        for q in &queries {
            for end in [100_000, 240_000] {
                let plain = ask(&e, q, none(), end);
                prop_assert_eq!(ask(&e, q, Hints::default(), end), plain, "{}", q);
            }
        }
    }
}

fn plan(query: &str, hints: &[&str]) -> (String, u64) {
    // a = 0, 1, 2, 3 and b = 0, 1, 2 of each metric.
    let all = (0..3).flat_map(|m| (0..4).flat_map(move |a| (0..3).map(move |b| (m, [a, b, 1], 0, 30, false))));
    let e = engine(&all.collect::<Vec<Series>>());
    let hints = Hints::parse(hints.iter().copied()).unwrap();
    let options = QueryOptions { hints, ..QueryOptions::default() };
    let r = PromqlRequest { query: query.into(), start: 100_000, end: 240_000, step: 20_000, options };
    let ctx = Arc::new(e.context(query, &r.options, None));
    let text = e.explain_text(&r, &ctx).unwrap();
    let read = e.answer(&r, &Arc::new(e.context(query, &r.options, None)), Duration::ZERO).unwrap().stats.samples_read;
    (text, read)
}

#[test]
fn what_has_no_partner_is_not_read() {
    let q = r#"rate(x_total[40s]) * on (a, b) max by (a, b) (y_total{a="1"})"#;
    let (text, read) = plan(q, &[]);
    assert!(text.contains("left_out=9"), "{text}");
    let (text, all) = plan(q, &["no-narrow"]);
    assert!(!text.contains("left_out") && read * 2 < all, "{read} of {all} {text}");
    // Through an aggregation, by its groups.
    let (text, _) = plan(r#"sum by (a) (rate(x_total[40s])) / on (a) sum by (a) (rate(y_total{a="1"}[40s]))"#, &[]);
    assert!(text.contains("left_out=9"), "{text}");
    // A name that is not a counter's is reported, so those series are read.
    let (text, _) = plan(r#"rate(g[40s]) * on (a, b) y_total{a="1"}"#, &[]);
    assert!(!text.contains("left_out"), "{text}");
}

#[test]
fn what_one_side_selects_goes_into_the_other() {
    let q = r#"g and on (a) sum by (a) (x_total{a=~"1|2"})"#;
    let (text, read) = plan(q, &[]);
    assert!(text.contains("series=6"), "{text}");
    let (text, all) = plan(q, &["no-propagate", "no-narrow"]);
    assert!(text.contains("series=12") && read < all, "{text}");
    // Two series of one signature on the one side are an error, whether they have a partner or not.
    let e = engine(&[(0, [1, 1, 1], 0, 30, false), (1, [2, 1, 1], 0, 30, false), (1, [2, 2, 1], 0, 30, false)]);
    let error = ask(&e, "x_total * on (a) y_total", Hints::default(), 100_000);
    assert!(error.contains("found duplicate series for the match group"), "{error}");
}

#[test]
fn a_part_of_a_selector_is_read_once() {
    for q in [r#"sum(rate(x_total{a="1"}[40s])) / sum(rate(x_total[40s]))"#, r#"sum(x_total) - sum(x_total{b="1"})"#] {
        let (text, read) = plan(q, &[]);
        assert!(text.contains("part of another scan") && text.contains("shares a part"), "{text}");
        let (text, all) = plan(q, &["no-subset"]);
        assert!(!text.contains("part") && read < all, "{read} of {all}, {text}");
    }
}

#[test]
fn aggregations_of_one_input_are_made_together() {
    let q = "max by (a) (rate(x_total[40s])) - on (a) min by (a) (rate(x_total[40s]))";
    let (text, read) = plan(q, &[]);
    assert!(text.contains("together=2") && !text.contains("PromShared"), "{text}");
    let (text, shared) = plan(q, &["no-together"]);
    assert!(text.contains("PromShared") && read == shared, "{text}");
    let (text, all) = plan(q, &["no-together", "no-share"]);
    assert!(!text.contains("PromShared") && all == 2 * read, "{text}");
}

/// What happens to a store between two questions.
#[derive(Clone, Debug)]
enum Step {
    /// A sample of metric, labels, at tens of seconds.
    Write(usize, [u8; 3], i64, f64),
    /// A histogram instead.
    Histogram(usize, [u8; 3], i64),
    /// Of a metric, from, for so long, tens of seconds.
    Delete(usize, i64, i64),
    /// A query by its number, its start in steps, how many steps more.
    Ask(usize, i64, i64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let labels = || [0u8..3, 0..2, 0..2];
    prop_oneof![
        6 => (0..4usize, labels(), 0i64..60, -5.0..50.0).prop_map(|(m, l, t, v)| Step::Write(m, l, t, v)),
        1 => (0..4usize, labels(), 0i64..60).prop_map(|(m, l, t)| Step::Histogram(m, l, t)),
        1 => (0..4usize, 0i64..60, 0i64..10).prop_map(|(m, t, n)| Step::Delete(m, t, n)),
        12 => (0..3usize, 0i64..12, 0i64..25).prop_map(|(q, start, n)| Step::Ask(q, start, n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn reuse_changes_no_answer(queries in [query(), query(), query()], steps in prop::collection::vec(any_step(), 1..120)) {
        let store = Arc::new(MemoryStore::new());
        let mut options = EngineOptions { reuse_from: Duration::ZERO, lookback_ms: 60_000, ..EngineOptions::default() };
        options.features.experimental_functions = true;
        let e = Engine::new(Arc::clone(&store) as Arc<dyn quiver_core::Source>, options).unwrap();
        for step in steps {
            let mut b = WriteBatch::default();
            let begin = |b: &mut WriteBatch, metric: usize, labels: [u8; 3]| {
                let values = labels.map(|v| v.to_string());
                let mut all = vec![("__name__", METRICS[metric])];
                let own = ["a", "b", "c"].into_iter().zip(&values).filter(|(_, v)| *v != "0");
                all.extend(own.map(|(n, v)| (n, v.as_str())));
                b.begin_series(all);
            };
            match step {
                Step::Write(metric, labels, t, v) => {
                    begin(&mut b, metric, labels);
                    b.push_float(t * 10_000, v, 0);
                    store.write_now(&b).unwrap();
                }
                Step::Histogram(metric, labels, t) => {
                    begin(&mut b, metric, labels);
                    b.push_histogram(t * 10_000, Histogram { count: 1.0, sum: 1.0, ..Histogram::default() }, 0);
                    store.write_now(&b).unwrap();
                }
                Step::Delete(metric, t, n) => {
                    let range = quiver_core::TimeRange { min: t * 10_000, max: (t + n) * 10_000 };
                    store.delete_now(&[vec![quiver_model::Matcher::equal("__name__", METRICS[metric])]], range);
                }
                Step::Ask(q, start, n) => {
                    let ask = |nocache: bool| {
                        let options = QueryOptions { nocache, ..QueryOptions::default() };
                        let (start, step) = (start * 20_000 + 3000, 20_000);
                        let r = PromqlRequest { query: queries[q].clone(), start, end: start + n * step + 7, step, options };
                        let ctx = Arc::new(e.context(&r.query, &r.options, None));
                        match e.answer(&r, &ctx, Duration::ZERO) {
                            Ok(a) => format!("{:?} {:?}", a.value, a.annotations),
                            Err(e) => format!("{e:?}"),
                        }
                    };
                    let want = ask(true);
                    prop_assert_eq!(ask(false), want, "{}", &queries[q]);
                }
            }
        }
    }
}

/// Of equal values the first counts, and which is first depends on whether there is a grid; `range()` depends on its length.
#[test]
fn a_step_more_is_evaluated_as_on_a_grid() {
    let store = Arc::new(MemoryStore::new());
    let mut b = WriteBatch::default();
    for (metric, code, i) in [("m", "a", "2"), ("m", "b", "1"), ("n", "", "1"), ("n", "", "2")] {
        let labels = [("__name__", metric), ("code", code), ("i", i)];
        b.begin_series(labels.into_iter().filter(|(_, v)| !v.is_empty()));
        (0..60).for_each(|t| b.push_float(t * 10_000, if metric == "m" { 0.0 } else { t as f64 + 1.0 }, 0));
    }
    store.write_now(&b).unwrap();
    let mut options = EngineOptions { reuse_from: Duration::ZERO, ..EngineOptions::default() };
    options.features.experimental_functions = true;
    let e = Engine::new(Arc::clone(&store) as Arc<dyn quiver_core::Source>, options).unwrap();
    for q in [
        "topk(1, m / on (i) n)",
        "limitk(1, topk(2, n))",
        "increase(n[40s]) / step()",
        "max_over_time(n[1m:range()/6])",
        "n offset RANGE()",
    ] {
        for (start, end) in
            [(100_000, 200_000), (110_000, 210_000), (110_000, 230_000), (150_000, 200_000), (60_000, 60_000)]
        {
            let ask = |nocache: bool| {
                let options = QueryOptions { nocache, ..QueryOptions::default() };
                let r = PromqlRequest { query: q.into(), start, end, step: 10_000, options };
                let answer = e.answer(&r, &Arc::new(e.context(q, &r.options, None)), Duration::ZERO);
                format!("{:?}", answer.map(|a| a.value))
            };
            let want = ask(true);
            assert_eq!(ask(false), want, "{q} {start} {end}");
        }
    }
    assert!(e.reuse().hits > 0);
}

#[test]
fn steps_that_are_known_are_not_evaluated_again() {
    let store = store(&[(0, [1, 1, 1], 0, 30, false), (1, [1, 1, 1], 0, 30, false)]);
    let options = EngineOptions { reuse_from: Duration::ZERO, ..EngineOptions::default() };
    let e = Engine::new(Arc::clone(&store) as Arc<dyn quiver_core::Source>, options).unwrap();
    let ask = |start: i64, end: i64| {
        let q = "sum(rate(x_total[40s]))";
        let r = PromqlRequest { query: q.into(), start, end, step: 10_000, options: QueryOptions::default() };
        e.answer(&r, &Arc::new(e.context(q, &r.options, None)), Duration::ZERO).unwrap();
        let f = e.reuse();
        (f.hits, f.steps_reused, f.steps_evaluated)
    };
    ask(100_000, 200_000);
    assert_eq!(ask(100_000, 200_000), (1, 11, 0));
    assert_eq!(ask(120_000, 220_000), (2, 20, 2), "a window that moves by two steps");
    // Late: the steps that look at it, four.
    let mut b = WriteBatch::default();
    b.begin_series([("__name__", "y_total"), ("late", "yes")]);
    b.push_float(155_000, 1.0, 0);
    store.write_now(&b).unwrap();
    assert_eq!(ask(120_000, 220_000), (3, 27, 6));
    assert_eq!(ask(120_000, 220_000), (4, 38, 6));
}
