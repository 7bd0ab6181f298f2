//! Admission without queries: who gets a slot, and when it is free again.

use quiver_model::Limits;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::context::Features;

fn admission(concurrency: usize, queue: usize) -> (Admission, LiveLimits) {
    let limits = LiveLimits::from(with(concurrency, queue));
    (Admission::new(limits.clone()), limits)
}

fn with(concurrency: usize, queue: usize) -> Limits {
    Limits { query_concurrency_max: concurrency, query_queue_max: queue, ..Limits::default() }
}

fn ctx(text: &str) -> Arc<QueryContext> {
    Arc::new(QueryContext::new(text, Limits::default(), Features::default()))
}

/// Enters and tells when it was let in.
fn asking(
    admission: &Admission,
    class: Class,
    text: &str,
    order: &tokio::sync::mpsc::UnboundedSender<(String, Permit)>,
) -> tokio::task::JoinHandle<Result<(), QueryError>> {
    let (admission, ctx, order) = (admission.clone(), ctx(text), order.clone());
    tokio::spawn(async move {
        let permit = admission.enter(class, Arc::clone(&ctx)).await?;
        let _ = order.send((ctx.query.clone(), permit));
        Ok(())
    })
}

async fn until_listed(admission: &Admission, n: usize) {
    while admission.active().list().len() < n {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn classes_take_turns_and_callers_of_a_class_keep_their_order() {
    let (admission, _) = admission(1, 10);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let first = admission.enter(Class::Sql, ctx("first")).await.unwrap();
    let mut n = 1;
    for (class, text) in [
        (Class::Sql, "sql 1"),
        (Class::Sql, "sql 2"),
        (Class::Sql, "sql 3"),
        (Class::Dashboard, "dashboard 1"),
        (Class::Dashboard, "dashboard 2"),
        (Class::Export, "export 1"),
    ] {
        drop(asking(&admission, class, text, &tell));
        n += 1;
        until_listed(&admission, n).await;
    }
    let list = admission.active().list();
    assert_eq!(list.iter().filter(|q| q.is_running).map(|q| q.query.as_str()).collect::<Vec<_>>(), ["first"]);
    drop(first);
    let mut order = Vec::new();
    for _ in 0..6 {
        let (text, permit) = told.recv().await.unwrap();
        assert!(told.try_recv().is_err(), "one at a time");
        order.push(text);
        drop(permit);
    }
    assert_eq!(order, ["dashboard 1", "sql 1", "export 1", "dashboard 2", "sql 2", "sql 3"]);
    assert!(admission.active().list().is_empty());
}

#[tokio::test]
async fn each_class_has_a_queue_of_its_own_and_the_next_is_told_to_come_back() {
    let (admission, _) = admission(1, 1);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let first = admission.enter(Class::Sql, ctx("first")).await.unwrap();
    let waits = asking(&admission, Class::Sql, "waits", &tell);
    until_listed(&admission, 2).await;
    let refused = admission.enter(Class::Sql, ctx("refused")).await.unwrap_err();
    assert!(matches!(&refused, QueryError::Busy(t) if t.contains("query_queue_max is 1")), "{refused}");
    let other = asking(&admission, Class::Dashboard, "other", &tell);
    until_listed(&admission, 3).await;
    // One that leaves the queue makes room in it.
    waits.abort();
    let _ = waits.await;
    assert_eq!(admission.active().list().len(), 2);
    drop(asking(&admission, Class::Sql, "again", &tell));
    until_listed(&admission, 3).await;
    drop(first);
    for expected in ["other", "again"] {
        let (text, permit) = told.recv().await.unwrap();
        assert_eq!(text, expected);
        drop(permit);
    }
    other.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_caller_that_waits_is_stopped_and_times_out() {
    let (admission, _) = admission(1, 10);
    let _first = admission.enter(Class::Sql, ctx("first")).await.unwrap();
    let mut late = QueryContext::new("late", Limits::default(), Features::default());
    late.deadline = Some(Instant::now());
    let e = admission.enter(Class::Sql, Arc::new(late)).await.unwrap_err();
    assert!(matches!(e, QueryError::Timeout(_)), "{e}");
    let mut stopped = QueryContext::new("stopped", Limits::default(), Features::default());
    stopped.cancel = CancellationToken::new();
    stopped.cancel.cancel();
    let e = admission.enter(Class::Export, Arc::new(stopped)).await.unwrap_err();
    assert!(matches!(e, QueryError::Canceled(_)), "{e}");
    assert_eq!(admission.active().list().len(), 1);
}

#[tokio::test]
async fn new_limits_hold_for_callers_that_wait_and_for_memory() {
    let (admission, limits) = admission(1, 10);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let first = admission.enter(Class::Sql, ctx("first")).await.unwrap();
    drop(asking(&admission, Class::Sql, "second", &tell));
    until_listed(&admission, 2).await;
    limits.set(Limits { query_memory_total_bytes_max: 1000, ..with(2, 10) });
    let (text, second) = told.recv().await.unwrap();
    assert_eq!(text, "second", "without anybody leaving");
    limits.set(with(1, 10));
    drop(asking(&admission, Class::Sql, "third", &tell));
    until_listed(&admission, 3).await;
    drop(first);
    tokio::task::yield_now().await;
    assert!(told.try_recv().is_err(), "one is running, and one may");
    drop(second);
    assert_eq!(told.recv().await.unwrap().0, "third");

    limits.set(Limits { query_memory_total_bytes_max: 1000, ..with(9, 9) });
    let permit = admission.enter(Class::Dashboard, ctx("memory")).await.unwrap();
    let taken = datafusion::execution::memory_pool::MemoryConsumer::new("rows").register(admission.memory());
    let e = taken.try_grow(1001).unwrap_err().strip_backtrace();
    assert!(e.contains("query_memory_total_bytes_max, 1000 bytes"), "{e}");
    taken.try_grow(1000).unwrap();
    drop(permit);
}
