//! Trees of whole queries over the memory store.

use std::sync::Arc;

use super::{Explain, ExplainMode, ExplainNode};
use crate::answer::{Answer, AnswerValue, PromqlRequest, QueryOptions};
use crate::engine::tests::{engine, store};
use crate::hints::Hints;

fn ask(query: &str, explain: ExplainMode, hints: &[&str]) -> Answer {
    // 30 series, 40 samples each, every 10 s.
    let e = engine(store(30, 40));
    let hints = Hints::parse(hints.iter().copied()).unwrap();
    let options = QueryOptions { explain, hints, ..QueryOptions::default() };
    let request = PromqlRequest { query: query.into(), start: 100_000, end: 300_000, step: 50_000, options };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(e.promql(request)).unwrap()
}

fn tree(query: &str, explain: ExplainMode, hints: &[&str]) -> (Box<Explain>, ExplainNode) {
    let e = ask(query, explain, hints).explain.unwrap();
    let root = e.root.clone().unwrap();
    (e, root)
}

fn all(node: &ExplainNode) -> Vec<&ExplainNode> {
    let mut out = vec![node];
    node.inputs.iter().for_each(|i| out.extend(all(i)));
    out
}

fn operators(root: &ExplainNode) -> Vec<(&str, &str)> {
    all(root).iter().map(|n| (n.operator.as_str(), n.text.as_str())).collect()
}

#[test]
fn without_being_asked_nothing_is_explained() {
    assert!(ask("sum(x)", ExplainMode::Off, &[]).explain.is_none());
}

#[test]
fn a_plan_names_parts_of_the_text_and_reads_nothing() {
    let query = "sum by (i) (rate(x{i=~\"1.*\"}[1m])) > 2";
    let a = ask(query, ExplainMode::Plan, &[]);
    assert_eq!((a.value, a.stats.samples_read), (AnswerValue::Matrix(Vec::new()), 0));
    let e = a.explain.unwrap();
    assert_eq!((e.mode.as_str(), e.query.as_str(), &e.total), ("plan", query, &None));
    let root = e.root.unwrap();
    assert_eq!(
        operators(&root),
        [
            ("PromArith", query),
            ("PromAggregate", "sum by (i) (rate(x{i=~\"1.*\"}[1m]))"),
            ("PromRange", "rate(x{i=~\"1.*\"}[1m])"),
            ("PromNumber", "2"),
        ]
    );
    for n in all(&root) {
        assert_eq!(&query[n.start as usize..n.end as usize], n.text, "spans are of the query");
        assert_eq!((n.grid.start, n.grid.end, n.grid.step, n.grid.steps), (100.0, 300.0, 50.0, 5));
        assert!(n.actual.is_none() && n.same_as.is_none());
    }
    let scan = &root.inputs[0].inputs[0].scans[0];
    assert_eq!((scan.series, scan.selector.as_str()), (11, "x{i=~\"1.*\"}"));
    assert!(scan.read.is_none() && scan.samples_estimate > 0);
    assert_eq!((scan.start, scan.end), (40.001, 300.0));
}

#[test]
fn what_was_done_adds_up() {
    let a = ask("sum(count_over_time(x[1m]))", ExplainMode::Analyze, &[]);
    let AnswerValue::Matrix(m) = &a.value else { panic!("the answer is there too") };
    assert_eq!(m.len(), 1);
    let e = a.explain.unwrap();
    let root = e.root.unwrap();
    let (sum, fold) = (root.actual.clone().unwrap(), root.inputs[0].actual.clone().unwrap());
    assert_eq!((fold.runs, fold.rows_in, fold.rows_out, fold.samples_out), (1, 0, 30, 150));
    assert_eq!((sum.runs, sum.rows_in, sum.rows_out, sum.samples_out), (1, 30, 1, 5));
    assert_eq!(sum.total_seconds, sum.self_seconds + fold.total_seconds);
    let total = e.total.unwrap();
    assert!(sum.total_seconds <= total.eval_seconds, "{sum:?} {total:?}");
    assert!(sum.self_seconds > 0.0 && fold.self_seconds > 0.0);
    let read = root.inputs[0].scans[0].read.unwrap();
    // (40 s, 300 s] at 10 s.
    assert_eq!((read.series, read.samples), (30, 30 * 26));
    assert_eq!(total.read, read);
    assert_eq!(read.samples, a.stats.samples_read);
    assert!(total.memory_peak_bytes > 0, "the rows of the answer are reserved");
}

#[test]
fn a_shared_part_stands_once_and_each_place_knows_its_text() {
    let query = "sum(x) / (sum(x) + 1)";
    let (_, root) = tree(query, ExplainMode::Analyze, &[]);
    let shared: Vec<&ExplainNode> = all(&root).into_iter().filter(|n| n.operator == "PromShared").collect();
    assert_eq!(shared.iter().map(|n| n.start).collect::<Vec<_>>(), [0, 10]);
    let folds: Vec<&ExplainNode> = all(&root).into_iter().filter(|n| n.operator == "PromAggregate").collect();
    assert_eq!(folds.len(), 2);
    assert_eq!((folds[0].same_as, folds[1].same_as), (None, Some(folds[0].id)));
    assert!(folds[1].inputs.is_empty() && folds[1].actual.is_none());
    assert_eq!(folds[0].actual.as_ref().unwrap().runs, 1);

    let (e, root) = tree(query, ExplainMode::Analyze, &["no-share"]);
    assert_eq!(e.hints, ["no-share"]);
    let folds: Vec<&ExplainNode> = all(&root).into_iter().filter(|n| n.operator == "PromAggregate").collect();
    assert_eq!(folds.iter().map(|n| (n.start, n.same_as)).collect::<Vec<_>>(), [(0, None), (10, None)]);
}

#[test]
fn hints_do_not_change_answers() {
    for query in ["sum by (i) (rate(x[1m])) / (x + x)", "x{i=~\"1.*\"} + on (i) rate(x[1m])", "topk(3, -x)"] {
        let plain = ask(query, ExplainMode::Off, &[]).value;
        for hints in [&["no-share"][..], &["no-in-place-names"], &["parallelism=1"], &["parallelism=4"], &["index=off"]]
        {
            assert_eq!(ask(query, ExplainMode::Off, hints).value, plain, "{query} {hints:?}");
        }
    }
    let (_, root) = tree("rate(x[1m])", ExplainMode::Plan, &["no-in-place-names"]);
    assert_eq!(operators(&root), [("PromRelabel", "rate(x[1m])"), ("PromRange", "rate(x[1m])")]);
}

#[test]
fn ranges_subqueries_and_looking_up_while_running() {
    let (_, root) = tree("max_over_time(sum(x)[1m:10s])", ExplainMode::Analyze, &[]);
    let inner = all(&root).into_iter().find(|n| n.operator == "PromAggregate").unwrap();
    assert_eq!((inner.grid.start, inner.grid.end, inner.grid.step, inner.grid.steps), (50.0, 300.0, 10.0, 26));

    let e = engine(store(3, 40));
    let options = QueryOptions { explain: ExplainMode::Analyze, ..QueryOptions::default() };
    let request = PromqlRequest { query: "x[1m]".into(), start: 100_000, end: 100_000, step: 0, options };
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let root = rt.block_on(e.promql(request.clone())).unwrap().explain.unwrap().root.unwrap();
    assert_eq!((root.operator.as_str(), root.scans[0].series), ("PromRawWindow", 3));
    let actual = root.actual.unwrap();
    assert_eq!((actual.rows_out, actual.samples_out, root.scans[0].read.unwrap().samples), (3, 18, 18));

    let features = crate::Features { experimental_functions: true, ..Default::default() };
    let options = crate::EngineOptions { features, ..Default::default() };
    let e = crate::Engine::new(store(3, 40) as Arc<_>, options).unwrap();
    let request = PromqlRequest { query: "info(x)".into(), ..request };
    let root = rt.block_on(e.promql(request)).unwrap().explain.unwrap().root.unwrap();
    let info = all(&root).into_iter().find(|n| n.operator == "PromInfo").unwrap();
    assert!(info.scans.iter().all(|s| s.selector.contains("target_info")), "{:?}", info.scans);
}

#[test]
fn a_string_has_no_tree() {
    let e = engine(store(0, 0));
    let options = QueryOptions { explain: ExplainMode::Plan, ..QueryOptions::default() };
    let request = PromqlRequest { query: "\"text\"".into(), start: 0, end: 0, step: 0, options };
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let e = rt.block_on(e.promql(request)).unwrap().explain.unwrap();
    assert!(e.root.is_none());
    assert!(e.to_string().starts_with("\"text\""));
}
