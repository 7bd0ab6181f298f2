//! Whole queries over the memory store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quiver_core::memory::MemoryStore;
use quiver_model::{Matcher, WriteBatch};

use super::*;
use crate::promql::ast::{NumberLiteral, Position, VectorSelector};

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

fn request(start: i64, end: i64, step: i64) -> PromqlRequest {
    PromqlRequest { query: "q".into(), start, end, step, options: QueryOptions::default() }
}

fn x() -> Expr {
    Expr::Vector(Box::new(VectorSelector {
        name: "x".into(),
        matchers: vec![Matcher::equal("__name__", "x")],
        original_offset: 0,
        original_offset_expr: None,
        offset: 0,
        timestamp: None,
        start_or_end: None,
        anchored: false,
        smoothed: false,
        bypass_empty_matcher_check: false,
        pos: Position::new(0, 1),
    }))
}

fn run(engine: &Engine, expr: Expr, r: PromqlRequest) -> Result<Answer, QueryError> {
    let ctx = Arc::new(engine.context("q", &r.options, None));
    let planned = engine.plan_expr(expr, &r, &ctx)?;
    engine.answer_planned(planned, &r, &ctx, Duration::ZERO, Instant::now())
}

#[test]
fn an_instant_selector_answers_in_label_order() {
    let e = engine(store(3, 10));
    let a = run(&e, x(), request(45_000, 45_000, 0)).unwrap();
    let AnswerValue::Vector(v) = a.value else { panic!("a vector") };
    let got: Vec<_> = v.iter().map(|s| (s.labels.get("i").to_owned(), s.floats[0])).collect();
    assert_eq!(got, vec![("0".into(), (45_000, 4.0)), ("1".into(), (45_000, 1004.0)), ("2".into(), (45_000, 2004.0))]);
    assert_eq!(a.stats.queryable_samples, 3);
}

#[test]
fn a_range_ends_where_lookback_ends() {
    let e = engine(store(1, 3));
    let a = run(&e, x(), request(0, 400_000, 100_000)).unwrap();
    let AnswerValue::Matrix(v) = a.value else { panic!("a matrix") };
    let times: Vec<i64> = v[0].floats.iter().map(|p| p.0).collect();
    assert_eq!(times, vec![0, 100_000, 200_000, 300_000], "the last sample is at 20 s and lasts less than 5 m");
}

#[test]
fn threads_do_not_change_an_answer() {
    let s = store(3000, 300);
    let one = Engine::new(s.clone(), EngineOptions { threads: 1, ..Default::default() }).unwrap();
    let many = Engine::new(s, EngineOptions { threads: 4, ..Default::default() }).unwrap();
    let r = || request(0, 3_000_000, 30_000);
    assert_eq!(run(&one, x(), r()).unwrap().value, run(&many, x(), r()).unwrap().value);
}

#[test]
fn scalars_have_a_point_at_every_step() {
    let e = engine(store(0, 0));
    let n = Expr::Number(NumberLiteral { value: 2.5, duration: false, pos: Position::new(0, 1) });
    let a = run(&e, n.clone(), request(0, 0, 0)).unwrap();
    assert_eq!(a.value, AnswerValue::Scalar(0, 2.5));
    let a = run(&e, n, request(0, 10, 5)).unwrap();
    let AnswerValue::Matrix(v) = a.value else { panic!("a matrix") };
    assert_eq!(v[0].floats, vec![(0, 2.5), (5, 2.5), (10, 2.5)]);
}

#[test]
fn too_many_points_and_too_many_samples_are_refused() {
    let e = engine(store(1, 1));
    let text = check_request(&request(0, 11_001, 1), &e.options().limits).unwrap_err().to_string();
    assert!(text.starts_with("exceeded maximum resolution of 11,000 points per timeseries."), "{text}");
    let limits = Limits { query_samples_max: 2, ..Limits::default() };
    let e = Engine::new(store(3, 1), EngineOptions { limits, ..Default::default() }).unwrap();
    let err = run(&e, x(), request(0, 0, 0)).unwrap_err();
    assert_eq!(
        err,
        QueryError::execution("query processing would load too many samples into memory in query execution")
    );
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
    while e.inner.waiting.load(Ordering::SeqCst) < 1 {
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
