//! Whole front end: a corpus with the answers of Prometheus 3.16, hostile texts, and printing as the inverse of parsing.
//!
//! A line of the corpus is a JSON object: `q` query, `f` feature bits (1 experimental functions, 2 fill modifiers,
//! 4 unquoted UTF-8 names, 8 selector only); then either `e` the error, or `s` the query printed (`p` formatted, where
//! that differs) and `t` the tree as parsed and, after `=>`, as preprocessed over [1,000 s, 1,360 s] by 15 s, with `pe` in
//! its place where preprocessing fails. `PROMQL_CORPUS` names a further file of such lines. The queries are those of
//! Prometheus's own tests (Apache License 2.0) and random mutations of them.

use super::ast::*;
use super::preprocess::preprocess;
use super::printer::{pretty_with, print};
use super::*;
use crate::context::Features;

fn options(bits: u64) -> ParseOptions {
    let features = Features {
        experimental_functions: bits & 1 != 0,
        fill_modifiers: bits & 2 != 0,
        unquoted_utf8_names: bits & 4 != 0,
        ..Features::default()
    };
    ParseOptions { features, ..ParseOptions::default() }
}

/// A tree with positions and what preprocessing sets.
fn tree(e: &Expr, out: &mut String) {
    let at = |t: &Option<i64>| t.map_or(String::new(), |t| format!(" @{t}"));
    let vector = |v: &VectorSelector, out: &mut String| {
        out.push_str(&format!("(VectorSelector {}:{} {}{})", v.pos.start, v.pos.end, v.offset, at(&v.timestamp)));
    };
    let mut children: Vec<&Expr> = Vec::new();
    let mut detail = String::new();
    let name = match e {
        Expr::Aggregate(a) => {
            children.push(&a.expr);
            children.extend(&a.param);
            "AggregateExpr"
        }
        Expr::Binary(b) => {
            if let Some(m) = &b.matching {
                detail = format!(" {}", m.card.as_str());
            }
            children.extend([&b.lhs, &b.rhs]);
            "BinaryExpr"
        }
        Expr::Call(c) => {
            children.extend(&c.args);
            "Call"
        }
        Expr::Matrix(m) => {
            out.push_str(&format!("(MatrixSelector {}:{} {} ", m.pos.start, m.pos.end, m.range));
            vector(&m.selector, out);
            out.push(')');
            return;
        }
        Expr::Subquery(s) => {
            detail = format!(" {} {} {}{}", s.range, s.step, s.offset, at(&s.timestamp));
            children.push(&s.expr);
            "SubqueryExpr"
        }
        Expr::Number(n) => {
            detail = format!(" {}", number::format_float(n.value));
            "NumberLiteral"
        }
        Expr::Paren(p) => {
            children.push(&p.expr);
            "ParenExpr"
        }
        Expr::String(_) => "StringLiteral",
        Expr::Unary(u) => {
            children.push(&u.expr);
            "UnaryExpr"
        }
        Expr::Vector(v) => return vector(v, out),
        Expr::StepInvariant(inner) => {
            children.push(inner);
            "StepInvariantExpr"
        }
        Expr::Duration(_) => "DurationExpr",
    };
    out.push_str(&format!("({name} {}:{}{detail}", e.pos().start, e.pos().end));
    for c in children {
        out.push(' ');
        tree(c, out);
    }
    out.push(')');
}

/// What a line should say, made here.
fn answer(query: &str, bits: u64) -> serde_json::Value {
    let mut out = serde_json::json!({ "q": query, "f": bits });
    let mut put = |k: &str, v: String| {
        if !v.is_empty() {
            out[k] = v.into();
        }
    };
    let opts = options(bits);
    if bits & 8 != 0 {
        match parse_metric_selector(query, &opts) {
            Ok(ms) => put("s", ms.iter().map(|m| format!("{m},")).collect()),
            Err(e) => put("e", e.to_string()),
        }
        return out;
    }
    let e = match parse_expr(query, &opts) {
        Ok(e) => e,
        Err(e) => {
            put("e", e.to_string());
            return out;
        }
    };
    let printed = print(&e, opts.features.unquoted_utf8_names);
    let formatted = pretty_with(&e, opts.features.unquoted_utf8_names);
    let mut text = String::new();
    tree(&e, &mut text);
    match preprocess(e, 1_000_000, 1_360_000, 15_000) {
        Ok(p) => {
            text.push_str(" => ");
            tree(&p, &mut text);
        }
        Err(e) => put("pe", e),
    }
    put("t", text);
    if formatted != printed {
        put("p", formatted);
    }
    put("s", printed);
    out
}

fn run_corpus(lines: &str) -> (usize, Vec<String>) {
    let (mut count, mut wrong) = (0, Vec::new());
    for line in lines.lines() {
        count += 1;
        let want: serde_json::Value = serde_json::from_str(line).unwrap();
        let (Some(q), Some(f)) = (want["q"].as_str(), want["f"].as_u64()) else { panic!("{line}") };
        let mut got = answer(q, f);
        // A further file may do without trees.
        if let (None, None, Some(got)) = (want.get("t"), want.get("pe"), got.as_object_mut()) {
            got.retain(|k, _| k != "t" && k != "pe");
        }
        if got == want {
            continue;
        }
        wrong.push(format!("want {want}\n got {got}"));
    }
    (count, wrong)
}

#[test]
fn the_corpus_is_answered_as_prometheus_does() {
    let (count, wrong) = run_corpus(include_str!("testdata/corpus.jsonl"));
    assert!(count > 3000);
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    if let Ok(path) = std::env::var("PROMQL_CORPUS") {
        let (count, wrong) = run_corpus(&std::fs::read_to_string(path).unwrap());
        assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong[..wrong.len().min(60)].join("\n"));
    }
}

#[test]
fn what_is_printed_parses_to_the_same_text() {
    for line in include_str!("testdata/corpus.jsonl").lines() {
        let want: serde_json::Value = serde_json::from_str(line).unwrap();
        let bits = want["f"].as_u64().unwrap();
        if bits & 8 != 0 {
            continue;
        }
        let Ok(e) = parse_expr(want["q"].as_str().unwrap(), &options(bits)) else { continue };
        // Numbers print as decimals and a sign merges into the number behind it; one more round is a fixed point.
        let once = e.to_string();
        let Ok(again) = parse_expr(&once, &options(bits)) else { panic!("{once}") };
        assert_eq!(again.to_string(), once);
        let formatted = parse_expr(&pretty(&e), &options(bits)).unwrap_or_else(|err| panic!("{once}: {err}"));
        assert_eq!(formatted.to_string(), once);
        let _ = json::to_json(&e);
    }
}

#[test]
fn hostile_texts_are_refused_in_little_time_and_stack() {
    let n = 100_000;
    let texts = [
        "sum(".repeat(n),
        "(".repeat(n),
        "((((x".repeat(n / 5),
        format!("{}1", "1+".repeat(n)),
        format!("{}1", "1^".repeat(n)),
        format!("{}x", "-".repeat(n)),
        format!("x{}", "[5m:]".repeat(n)),
        format!("x[{}5m]", "(".repeat(n)),
        format!("x[{}5m]", "-".repeat(n)),
        format!("label_join(x, {}x)", "x,".repeat(n)),
        format!("x{{{}}}", "a=~\"b.*c\",".repeat(n)),
        format!("x[5m{}]", "^2".repeat(n)),
        format!("x offset {}1", "-(".repeat(n)),
        format!("{}x", "a and on(b) ".repeat(n / 12)),
        "{".repeat(n),
        "a{b=\"".repeat(n),
        "x[step(".repeat(n / 7),
        format!("x[{}", "max_of(".repeat(n / 7)),
        "#\n".repeat(n),
        "\"\\".repeat(n),
    ];
    // A small stack, as a worker thread of the server may have left.
    let run = move || {
        for t in &texts {
            assert!(
                takes_less_than(1000, || parse_expr(t, &ParseOptions::default()).is_err()),
                "{}",
                &t[..20.min(t.len())]
            );
        }
        let deep = format!("{}1{}", "abs(".repeat(127), ")".repeat(127));
        assert!(parse_expr(&deep, &ParseOptions::default()).is_err_and(|e| e.to_string().contains("expected type")));
        let long = format!("{}x", "x or ".repeat(998));
        let e = parse_expr(&long, &ParseOptions::default()).unwrap();
        assert_eq!(e.to_string(), long);
        assert!(pretty(&e).len() > long.len());
        let p = preprocess(e, 0, 0, 0).unwrap();
        drop(json::to_json(&p.clone()));
        let too_long = ParseOptions { query_bytes_max: 10, ..ParseOptions::default() };
        assert!(parse_expr("aaaaaaaaaaa", &too_long).is_err());
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

/// Is it done, and in less than some milliseconds? A machine that does other things too may need several attempts.
fn takes_less_than(ms: u128, work: impl Fn() -> bool) -> bool {
    (0..5).any(|_| {
        let begin = std::time::Instant::now();
        assert!(work());
        begin.elapsed().as_millis() < ms
    })
}

#[test]
fn a_long_text_takes_linear_time() {
    let matchers = (0..40_000).map(|i| format!("label_{i}=\"value\"")).collect::<Vec<_>>().join(",");
    let labels = (0..60_000).map(|i| format!("l{i}")).collect::<Vec<_>>().join(",");
    for text in [
        format!("x{{{matchers}}}"),
        format!("sum by ({labels}) (x)"),
        format!("a + on({labels}) group_left({labels}x) b"),
        format!("label_join(x, {}\"a\")", "\"b\", ".repeat(40_000)),
    ] {
        let parsed =
            || parse_expr(&text, &ParseOptions::default()).err().is_none_or(|e| e.to_string().contains("GROUP"));
        assert!(takes_less_than(2000, parsed), "{}", &text[..20]);
    }
}

#[test]
fn errors_say_where() {
    let e = parse_expr("sum by job (x)", &ParseOptions::default()).unwrap_err();
    assert_eq!(e.to_string(), "1:8: parse error: unexpected identifier \"job\" in grouping opts, expected \"(\"");
    assert_eq!(e.iter().count(), 1);
    let e = parse_expr("1 or\n rate(x) + \"a\"", &ParseOptions::default()).unwrap_err();
    assert!(e.iter().count() > 1);
    let e = parse_expr("", &ParseOptions::default()).unwrap_err();
    assert_eq!(e.to_string(), "unknown position: parse error: no expression found in input");
}
