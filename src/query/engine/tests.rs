//! Whole queries over the memory store.

use std::sync::Arc;
use std::time::Duration;

use quiver_core::memory::MemoryStore;
use quiver_model::WriteBatch;

use super::*;

/// A store with series `x{i="0"}`…, a sample every 10 s from 0.
pub(crate) fn store(series: usize, samples: i64) -> Arc<MemoryStore> {
    let store = MemoryStore::new();
    let mut b = WriteBatch::default();
    for i in 0..series {
        b.begin_series([("__name__", "x"), ("i", &i.to_string())]);
        for k in 0..samples {
            b.push_float(k * 10_000, (i as f64) * 1000.0 + k as f64, 0);
        }
    }
    store.write_now(&b).unwrap();
    Arc::new(store)
}

pub(crate) fn engine(store: Arc<MemoryStore>) -> Engine {
    Engine::new(store, EngineOptions::default()).unwrap()
}

fn request(query: &str, start: i64, end: i64, step: i64) -> PromqlRequest {
    PromqlRequest { query: query.into(), start, end, step, options: QueryOptions::default() }
}

/// Answers on this thread.
pub(crate) fn ask(engine: &Engine, query: &str, start: i64, end: i64, step: i64) -> Result<Answer, QueryError> {
    let r = request(query, start, end, step);
    check_request(&r, &engine.options().limits)?;
    let ctx = Arc::new(engine.context(query, &r.options, None));
    engine.answer(&r, &ctx, Duration::ZERO)
}

/// `labels => time:value …` for each series.
pub(crate) fn text(a: &Answer) -> Vec<String> {
    let points = |s: &crate::answer::AnswerSeries| {
        s.floats.iter().map(|(t, v)| format!("{t}:{v}")).collect::<Vec<_>>().join(" ")
    };
    match &a.value {
        AnswerValue::Scalar(t, v) => vec![format!("{t}:{v}")],
        AnswerValue::String(_, s) => vec![s.clone()],
        AnswerValue::Vector(v) | AnswerValue::Matrix(v) => {
            v.iter().map(|s| format!("{} {}", s.labels, points(s))).collect()
        }
    }
}

#[test]
fn an_instant_selector_answers_in_label_order() {
    let e = engine(store(3, 10));
    let a = ask(&e, "x", 45_000, 45_000, 0).unwrap();
    let AnswerValue::Vector(v) = a.value else { panic!("a vector") };
    let got: Vec<_> = v.iter().map(|s| (s.labels.get("i").to_owned(), s.floats[0])).collect();
    assert_eq!(got, vec![("0".into(), (45_000, 4.0)), ("1".into(), (45_000, 1004.0)), ("2".into(), (45_000, 2004.0))]);
    assert_eq!(a.stats.queryable_samples, 3);
}

#[test]
fn a_range_ends_where_lookback_ends() {
    let e = engine(store(1, 3));
    let a = ask(&e, "x", 0, 400_000, 100_000).unwrap();
    let AnswerValue::Matrix(v) = a.value else { panic!("a matrix") };
    let times: Vec<i64> = v[0].floats.iter().map(|p| p.0).collect();
    assert_eq!(times, vec![0, 100_000, 200_000, 300_000], "the last sample is at 20 s and lasts less than 5 m");
}

#[test]
fn threads_do_not_change_an_answer() {
    let s = store(3000, 300);
    let one = Engine::new(s.clone(), EngineOptions { threads: 1, ..Default::default() }).unwrap();
    let many = Engine::new(s, EngineOptions { threads: 4, ..Default::default() }).unwrap();
    for q in ["x", "sum(x)", "sum by (i) (x) + on (i) x"] {
        let r = |e: &Engine| ask(e, q, 0, 3_000_000, 30_000).unwrap().value;
        assert_eq!(r(&one), r(&many), "{q}");
    }
}

#[test]
fn scalars_have_a_point_at_every_step() {
    let e = engine(store(0, 0));
    let a = ask(&e, "2.5", 0, 0, 0).unwrap();
    assert_eq!(a.value, AnswerValue::Scalar(0, 2.5));
    let a = ask(&e, "2.5", 0, 10, 5).unwrap();
    let AnswerValue::Matrix(v) = a.value else { panic!("a matrix") };
    assert_eq!(v[0].floats, vec![(0, 2.5), (5, 2.5), (10, 2.5)]);
}

#[test]
fn too_many_points_and_too_many_samples_are_refused() {
    let e = engine(store(1, 1));
    let text = check_request(&request("x", 0, 11_001, 1), &e.options().limits).unwrap_err().to_string();
    assert!(text.starts_with("exceeded maximum resolution of 11,000 points per timeseries."), "{text}");
    let limits = Limits { query_samples_max: 2, ..Limits::default() };
    let e = Engine::new(store(3, 1), EngineOptions { limits, ..Default::default() }).unwrap();
    let err = ask(&e, "x", 0, 0, 0).unwrap_err();
    assert_eq!(err, QueryError::SamplesLimit);
}

#[tokio::test]
async fn a_full_queue_is_busy_and_a_killed_query_is_cancelled() {
    let limits = Limits { query_concurrency_max: 1, query_queue_max: 1, ..Limits::default() };
    let e = Engine::new(store(1, 1), EngineOptions { limits, ..Default::default() }).unwrap();
    let (began, started) = tokio::sync::oneshot::channel();
    let holder = {
        let e = e.clone();
        tokio::spawn(async move {
            e.admitted("hold", &QueryOptions::default(), move |_, ctx, _| {
                began.send(()).ok();
                while ctx.check().is_ok() {
                    std::thread::yield_now();
                }
                ctx.check()
            })
            .await
        })
    };
    started.await.unwrap();
    let waiter = {
        let e = e.clone();
        tokio::spawn(async move { e.admitted("wait", &QueryOptions::default(), |_, _, _| Ok(())).await })
    };
    while e.active().list().len() < 2 {
        tokio::task::yield_now().await;
    }
    let busy = e.admitted("third", &QueryOptions::default(), |_, _, _| Ok(())).await;
    assert!(matches!(busy, Err(QueryError::Busy(_))), "{busy:?}");
    let id = e.active().list().iter().find(|q| q.query == "hold").unwrap().id;
    assert!(e.active().kill(id));
    let err = holder.await.unwrap().unwrap_err();
    assert_eq!(err.to_string(), "query was canceled in expression evaluation");
    waiter.await.unwrap().unwrap();
    assert!(e.active().list().is_empty());
}

#[test]
fn constants_are_evaluated_once_and_shown_at_every_step() {
    let e = engine(store(2, 3));
    let a = ask(&e, "sum(x @ 10) + vector(1)", 0, 20_000, 10_000).unwrap();
    assert_eq!(text(&a), vec!["{} 0:1003 10000:1003 20000:1003"]);
    assert_eq!(text(&ask(&e, "2 * 3 - time()", 0, 20_000, 10_000).unwrap()), vec!["{} 0:6 10000:-4 20000:-14"]);
    assert_eq!(text(&ask(&e, "scalar(x{i=\"1\"})", 10_000, 10_000, 0).unwrap()), vec!["10000:1001"]);
    assert_eq!(text(&ask(&e, "\"a\"", 0, 0, 0).unwrap()), vec!["a"]);
}

#[test]
fn range_vectors_answer_with_their_own_times() {
    let e = engine(store(1, 4));
    assert_eq!(text(&ask(&e, "x[20s]", 25_000, 25_000, 0).unwrap()), vec!["{__name__=\"x\", i=\"0\"} 10000:1 20000:2"]);
    let a = ask(&e, "x[30s:15s] offset 5s", 40_000, 40_000, 0).unwrap();
    assert_eq!(text(&a), vec!["{__name__=\"x\", i=\"0\"} 15000:1 30000:3"]);
    let err = ask(&e, "x[30s]", 0, 10, 1).unwrap_err();
    assert!(err.to_string().starts_with("invalid expression type \"range vector\" for range query"), "{err}");
}

#[test]
fn a_plan_of_too_many_steps_is_refused_before_it_is_run() {
    let e = engine(store(0, 0));
    let err = ask(&e, "count_over_time(vector(1)[1y:1ms])", 0, 0, 0).unwrap_err();
    assert_eq!(err, QueryError::SamplesLimit);
}

#[test]
fn a_repeated_part_is_read_once() {
    let e = engine(store(3, 2));
    let a = ask(&e, "x - (x + x)", 10_000, 10_000, 0).unwrap();
    assert_eq!(text(&a), vec!["{i=\"0\"} 10000:-1", "{i=\"1\"} 10000:-1001", "{i=\"2\"} 10000:-2001"]);
    assert_eq!(a.stats.samples_read, 6, "two samples of three series");
    let r = request("x - (x + x)", 10_000, 10_000, 0);
    let ctx = Arc::new(e.context("q", &r.options, None));
    let plan = e.explain_text(&r, &ctx).unwrap();
    assert!(plan.contains("PromShared"), "{plan}");
    assert!(plan.contains("PromScan: {__name__=\"x\"}"), "{plan}");
}

/// One line per query: what it answers at 30 s over `store(2, 4)`.
#[test]
fn every_kind_of_node() {
    let features = Features { experimental_functions: true, ..Features::default() };
    let e = Engine::new(store(2, 4), EngineOptions { features, ..Default::default() }).unwrap();
    let cases: &[(&str, &[&str])] = &[
        ("count_over_time(x[20s])", &["{i=\"0\"} 30000:2", "{i=\"1\"} 30000:2"]),
        ("last_over_time(x[20s])", &["{__name__=\"x\", i=\"0\"} 30000:3", "{__name__=\"x\", i=\"1\"} 30000:1003"]),
        ("max_over_time(sum(x)[20s:10s])", &["{} 30000:1006"]),
        ("quantile_over_time(0.5, x[30s])", &["{i=\"0\"} 30000:2", "{i=\"1\"} 30000:1002"]),
        ("abs(-x)", &["{i=\"0\"} 30000:3", "{i=\"1\"} 30000:1003"]),
        ("x * 2", &["{i=\"0\"} 30000:6", "{i=\"1\"} 30000:2006"]),
        ("x > 5", &["{__name__=\"x\", i=\"1\"} 30000:1003"]),
        ("5 < bool x", &["{i=\"0\"} 30000:0", "{i=\"1\"} 30000:1"]),
        ("clamp(x, 5, 10)", &["{i=\"0\"} 30000:5", "{i=\"1\"} 30000:10"]),
        ("timestamp(x offset 5s)", &["{i=\"0\"} 30000:20", "{i=\"1\"} 30000:20"]),
        ("hour()", &["{} 30000:0"]),
        ("max_of(1, 2)", &["30000:2"]),
        ("-pi() < bool 0", &["30000:1"]),
        ("topk(1, x)", &["{__name__=\"x\", i=\"1\"} 30000:1003"]),
        ("quantile(0.5, x)", &["{} 30000:503"]),
        ("count_values(\"v\", x)", &["{v=\"1003\"} 30000:1", "{v=\"3\"} 30000:1"]),
        ("sort_desc(x)", &["{__name__=\"x\", i=\"1\"} 30000:1003", "{__name__=\"x\", i=\"0\"} 30000:3"]),
        ("absent(y{a=\"b\"})", &["{a=\"b\"} 30000:1"]),
        ("absent_over_time(x[10s])", &[]),
        ("label_replace(x{i=\"0\"}, \"j\", \"$1\", \"i\", \"(.*)\")", &["{__name__=\"x\", i=\"0\", j=\"0\"} 30000:3"]),
        ("label_join(x{i=\"0\"}, \"j\", \"-\", \"i\", \"i\")", &["{__name__=\"x\", i=\"0\", j=\"0-0\"} 30000:3"]),
        ("x and x{i=\"1\"}", &["{__name__=\"x\", i=\"1\"} 30000:1003"]),
        (
            "x or vector(1)",
            &["{__name__=\"x\", i=\"0\"} 30000:3", "{__name__=\"x\", i=\"1\"} 30000:1003", "{} 30000:1"],
        ),
        ("info(x)", &["{__name__=\"x\", i=\"0\"} 30000:3", "{__name__=\"x\", i=\"1\"} 30000:1003"]),
    ];
    for (query, want) in cases {
        let got = ask(&e, query, 30_000, 30_000, 0).map(|a| text(&a));
        assert_eq!(got.as_deref(), Ok(&want.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..]), "{query}");
    }
}

#[test]
fn names_that_go_must_not_make_two_series_one() {
    let store = MemoryStore::new();
    let mut b = WriteBatch::default();
    for name in ["x", "y"] {
        b.begin_series([("__name__", name), ("i", "0")]);
        b.push_float(if name == "x" { 0 } else { 600_000 }, 1.0, 0);
    }
    store.write_now(&b).unwrap();
    let e = engine(Arc::new(store));
    let q = "sum_over_time({i=\"0\"}[1m])";
    assert_eq!(text(&ask(&e, q, 0, 600_000, 600_000).unwrap()), vec!["{i=\"0\"} 0:1 600000:1"]);
    let q = "sum_over_time({i=\"0\"}[11m])";
    let err = ask(&e, q, 600_000, 600_000, 0).unwrap_err();
    assert_eq!(err, QueryError::execution("vector cannot contain metrics with the same labelset"));
}

#[test]
fn samples_are_counted_per_step() {
    let e = engine(store(2, 4));
    let input = std::cell::Cell::<(Vec<u64>, u64)>::default();
    let steps = |q: &str| {
        let mut r = request(q, 20_000, 30_000, 10_000);
        r.options.per_step_stats = true;
        let ctx = Arc::new(e.context(q, &r.options, None));
        let stats = e.answer(&r, &ctx, Duration::ZERO).unwrap().stats;
        let plain = ask(&e, q, 20_000, 30_000, 10_000).unwrap().stats;
        assert_eq!(stats.queryable_samples, plain.queryable_samples, "{q}");
        assert_eq!(stats.queryable_samples, stats.queryable_samples_per_step.iter().map(|s| s.1).sum::<u64>(), "{q}");
        assert_eq!(stats.input_samples, stats.input_samples_per_step.iter().map(|s| s.1).sum::<u64>(), "{q}");
        assert_eq!(plain.input_samples_per_step, [], "not asked for");
        input.set((stats.input_samples_per_step.iter().map(|s| s.1).collect(), stats.series_touched));
        stats.queryable_samples_per_step
    };
    assert_eq!(steps("x"), [(20_000, 2), (30_000, 2)]);
    assert_eq!(input.take(), (vec![2, 2], 2));
    assert_eq!(steps("sum(count_over_time(x[20s]))"), [(20_000, 4), (30_000, 4)]);
    assert_eq!(input.take(), (vec![4, 2], 2), "of the second window one sample of each series is new");
    assert_eq!(
        steps("count_over_time(x[30s:10s])"),
        [(20_000, 6), (30_000, 6)],
        "a step before the first sample is none"
    );
    assert_eq!(input.take(), (vec![6, 2], 2));
    assert_eq!(steps("sum_over_time(x[1s:10s]) + on (i) x @ 10"), [(20_000, 4), (30_000, 4)]);
    assert_eq!(input.take(), (vec![4, 2], 4), "what does not depend on the step is read at the first");
    assert_eq!(steps("x + x"), [(20_000, 4), (30_000, 4)], "read once, counted twice");
    assert_eq!(input.take(), (vec![4, 4], 4));
    assert_eq!(steps("max_over_time(sum(x)[15s:5s])"), [(20_000, 6), (30_000, 6)]);
    assert_eq!(input.take(), (vec![6, 4], 2), "steps of the subquery count once");
    assert_eq!(steps("x smoothed"), [(20_000, 0), (30_000, 0)]);
    assert_eq!(input.take(), (vec![0, 0], 2), "as in Prometheus");
    assert_eq!(steps("count_over_time(x[20s] @ 20)"), [(20_000, 4), (30_000, 4)]);
    assert_eq!(input.take(), (vec![4, 0], 2));
}

#[test]
fn sorted_series_stay_sorted_through_functions_and_or() {
    let e = engine(store(3, 1));
    assert_eq!(
        text(&ask(&e, "-sort_desc(x) or vector(1)", 0, 0, 0).unwrap()),
        ["{i=\"2\"} 0:-2000", "{i=\"1\"} 0:-1000", "{i=\"0\"} 0:-0", "{} 0:1"]
    );
    // Series of the right side that would be called as one of the left change nothing.
    assert_eq!(
        text(&ask(&e, "-sort_desc(x) or group without (le) (x)", 0, 0, 0).unwrap()),
        ["{i=\"2\"} 0:-2000", "{i=\"1\"} 0:-1000", "{i=\"0\"} 0:-0"]
    );
    // What the left side has no sample of comes where the right side has it.
    let got = text(&ask(&e, "(sort_desc(x) > 1000) or x", 0, 0, 0).unwrap());
    let order: Vec<&str> = got.iter().filter_map(|s| s.split('"').nth(3)).collect();
    assert_eq!(order, ["2", "0", "1"], "{got:?}");
}

#[test]
fn a_long_fold_in_pieces_is_the_same() {
    let e = engine(store(1, 20_000));
    let q = "quantile_over_time(0.5, x[30s]) + changes(x[50s])";
    let fine = ask(&e, q, 0, 199_990_000, 20_000).unwrap();
    let AnswerValue::Matrix(v) = &fine.value else { panic!("a matrix") };
    assert_eq!(v[0].floats.len(), 10_000);
    for t in [20_000, 5_000_000, 199_980_000] {
        let one = ask(&e, q, t, t, 0).unwrap();
        let AnswerValue::Vector(w) = one.value else { panic!("a vector") };
        assert_eq!(w[0].floats[0], v[0].floats[(t / 20_000) as usize], "at {t}");
    }
}

#[test]
fn timestamp_of_a_selector_with_at_looks_at_that_time() {
    let e = engine(store(1, 4));
    assert_eq!(text(&ask(&e, "timestamp(x @ 25)", 0, 0, 0).unwrap()), ["{i=\"0\"} 0:20"]);
    // Samples after 100 s − 5 m + 3 m 40 s are selected: that is, from 20 s on.
    assert_eq!(text(&ask(&e, "timestamp(x @ 100 offset -3m40s)", 0, 0, 0).unwrap()), ["{i=\"0\"} 0:30"]);
    assert!(text(&ask(&e, "timestamp(x @ 111 offset -3m40s)", 0, 0, 0).unwrap()).is_empty());
}
