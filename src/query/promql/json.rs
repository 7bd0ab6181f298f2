//! The tree as JSON, for tree views: `/api/v1/parse_query`.

use quiver_model::matcher::bytes_of_text;
use serde_json::{Map, Value, json};

use super::ast::*;
use super::number::format_float;

/// The JSON of an expression as it was parsed.
pub fn to_json(e: &Expr) -> Value {
    super::with_stack(|| json(e))
}

fn json(e: &Expr) -> Value {
    match e {
        Expr::Aggregate(a) => json!({
            "expr": json(&a.expr),
            "grouping": a.grouping,
            "op": a.op.as_str(),
            "param": a.param.as_ref().map(json),
            "type": "aggregation",
            "without": a.without,
        }),
        Expr::Binary(b) => json!({
            "bool": b.return_bool,
            "lhs": json(&b.lhs),
            "matching": b.matching.as_ref().map(matching),
            "op": b.op.as_str(),
            "rhs": json(&b.rhs),
            "type": "binaryExpr",
        }),
        Expr::Call(c) => json!({
            "args": c.args.iter().map(json).collect::<Vec<_>>(),
            "func": {
                "argTypes": c.func.arg_types.iter().map(|t| t.as_str()).collect::<Vec<_>>(),
                "name": c.func.name,
                "returnType": c.func.return_type.as_str(),
                "variadic": c.func.variadic,
            },
            "type": "call",
        }),
        Expr::Matrix(m) => {
            let mut out = selector(&m.selector, "matrixSelector");
            out.insert("range".into(), json!(m.range));
            out.insert("rangeExpr".into(), optional_duration(&m.range_expr));
            Value::Object(out)
        }
        Expr::Vector(v) => Value::Object(selector(v, "vectorSelector")),
        Expr::Subquery(s) => json!({
            "expr": json(&s.expr),
            "offset": s.original_offset,
            "offsetExpr": optional_duration(&s.original_offset_expr),
            "range": s.range,
            "rangeExpr": optional_duration(&s.range_expr),
            "startOrEnd": s.start_or_end.map(boundary),
            "step": s.step,
            "stepExpr": optional_duration(&s.step_expr),
            "timestamp": s.timestamp,
            "type": "subquery",
        }),
        Expr::Number(n) => json!({ "type": "numberLiteral", "val": format_float(n.value) }),
        Expr::Paren(p) => json!({ "expr": json(&p.expr), "type": "parenExpr" }),
        Expr::String(s) => json!({ "type": "stringLiteral", "val": s.value }),
        Expr::Unary(u) => json!({
            "expr": json(&u.expr),
            "op": if u.minus { "-" } else { "+" },
            "type": "unaryExpr",
        }),
        Expr::StepInvariant(inner) => json(inner),
        Expr::Duration(d) => duration(d),
    }
}

fn selector(v: &VectorSelector, kind: &str) -> Map<String, Value> {
    let matchers: Vec<Value> = v
        .matchers
        .iter()
        .map(|m| json!({ "name": lossy(&m.name), "type": m.op.as_str(), "value": lossy(&m.value) }))
        .collect();
    let mut out = Map::new();
    let mut put = |k: &str, value: Value| out.insert(k.into(), value);
    put("anchored", json!(v.anchored));
    put("matchers", json!(matchers));
    put("name", json!(lossy(&v.name)));
    put("offset", json!(v.original_offset));
    put("offsetExpr", optional_duration(&v.original_offset_expr));
    put("smoothed", json!(v.smoothed));
    put("startOrEnd", json!(v.start_or_end.map(boundary)));
    put("timestamp", json!(v.timestamp));
    put("type", json!(kind));
    out
}

/// U+FFFD for what is no text.
fn lossy(s: &str) -> String {
    super::strings::lossy(&bytes_of_text(s))
}

fn matching(m: &VectorMatching) -> Value {
    json!({
        "card": m.card.as_str(),
        "fillValues": { "lhs": m.fill_left, "rhs": m.fill_right },
        "include": m.include,
        "labels": m.labels,
        "on": m.on,
    })
}

fn boundary(b: AtBoundary) -> &'static str {
    match b {
        AtBoundary::Start => "start",
        AtBoundary::End => "end",
    }
}

fn optional_duration(d: &Option<Box<DurationExpr>>) -> Value {
    d.as_ref().map_or(Value::Null, |d| duration(d))
}

fn duration(d: &DurationExpr) -> Value {
    let side = |e: &Option<Expr>| match e {
        None => Value::Null,
        Some(Expr::Number(n)) => {
            json!({ "duration": n.duration, "type": "numberLiteral", "val": format_float(n.value) })
        }
        Some(e) => json(e),
    };
    json!({
        "lhs": side(&d.lhs),
        "op": d.op.as_str(),
        "rhs": side(&d.rhs),
        "type": "durationExpr",
        "wrapped": d.wrapped,
    })
}
