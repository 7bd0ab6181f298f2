//! Tree to text: on one line as Prometheus prints it, or broken into lines of about a hundred bytes.
//!
//! Parsing what was printed gives the same tree again, up to positions. Whether names of any script may stand without
//! quotes is the reader's choice; [`std::fmt::Display`] quotes them, which every parser understands.

use std::fmt;

use super::ast::*;
use super::number::{format_float, format_float_exponent, push_duration, push_duration_seconds};
use super::selector::push_label_name;
use super::strings::{push_quoted, push_quoted_bytes};
use quiver_model::METRIC_NAME;
use quiver_model::matcher::bytes_of_text;

/// Longest expression that stays on one line, bytes.
const LINE_MAX: usize = 100;

/// The expression on one line; `utf8`: letters of any script and dots need no quotes in names.
pub fn print(e: &Expr, utf8: bool) -> String {
    let mut p = Printer { out: String::new(), utf8, limit: usize::MAX };
    super::with_stack(|| p.expr(e));
    p.out
}

/// The expression, formatted over as many lines as it needs.
pub fn pretty(e: &Expr) -> String {
    pretty_with(e, false)
}

/// The expression, formatted; `utf8` as for [`print`].
pub fn pretty_with(e: &Expr, utf8: bool) -> String {
    let mut p = Printer { out: String::new(), utf8, limit: usize::MAX };
    super::with_stack(|| p.pretty(e, 0));
    p.out
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self, false))
    }
}

impl DurationOp {
    /// As written in a query.
    pub fn as_str(self) -> &'static str {
        match self {
            DurationOp::Add => "+",
            DurationOp::Sub => "-",
            DurationOp::Mul => "*",
            DurationOp::Div => "/",
            DurationOp::Mod => "%",
            DurationOp::Pow => "^",
            DurationOp::MinOf => "min_of",
            DurationOp::MaxOf => "max_of",
            DurationOp::Step => "step",
            DurationOp::Range => "range",
        }
    }
}

struct Printer {
    out: String,
    utf8: bool,
    /// Nothing more is printed once `out` is longer; what is printed then only has to be too long.
    limit: usize,
}

impl Printer {
    fn push(&mut self, s: &str) {
        self.out.push_str(s);
    }

    fn expr(&mut self, e: &Expr) {
        if self.out.len() > self.limit {
            return;
        }
        match e {
            Expr::Aggregate(a) => {
                self.aggregate_head(a);
                self.push("(");
                if let Some(param) = &a.param {
                    self.expr(param);
                    self.push(", ");
                }
                self.expr(&a.expr);
                self.push(")");
            }
            Expr::Binary(b) => {
                self.expr(&b.lhs);
                self.push(" ");
                self.operator(b);
                self.push(" ");
                self.expr(&b.rhs);
            }
            Expr::Call(c) => {
                self.push(c.func.name);
                self.push("(");
                for (i, arg) in c.args.iter().enumerate() {
                    if i > 0 {
                        self.push(", ");
                    }
                    self.expr(arg);
                }
                self.push(")");
            }
            Expr::Matrix(m) => {
                let v = &m.selector;
                self.selector_head(v);
                self.push("[");
                self.duration_or_expr(m.range, &m.range_expr);
                self.push("]");
                self.extended(v);
                self.at(v.timestamp, v.start_or_end);
                self.offset(v.original_offset, v.offset_ns, &v.original_offset_expr);
            }
            Expr::Vector(v) => {
                self.selector_head(v);
                self.at(v.timestamp, v.start_or_end);
                self.extended(v);
                self.offset(v.original_offset, v.offset_ns, &v.original_offset_expr);
            }
            Expr::Subquery(s) => {
                self.expr(&s.expr);
                self.subquery_tail(s);
            }
            Expr::Number(n) if n.duration => push_duration_seconds(&mut self.out, n.value),
            Expr::Number(n) => self.push(&format_float(n.value)),
            Expr::Paren(p) => {
                self.push("(");
                self.expr(&p.expr);
                self.push(")");
            }
            Expr::String(s) => match &s.bytes {
                Some(bytes) => push_quoted_bytes(&mut self.out, bytes),
                None => push_quoted(&mut self.out, &s.value),
            },
            Expr::Unary(u) => {
                self.push(if u.minus { "-" } else { "+" });
                self.expr(&u.expr);
            }
            Expr::StepInvariant(inner) => self.expr(inner),
            Expr::Duration(d) => self.duration(d),
        }
    }

    fn labels(&mut self, labels: &[String]) {
        for (i, l) in labels.iter().enumerate() {
            if i > 0 {
                self.push(", ");
            }
            push_label_name(&mut self.out, l, self.utf8);
        }
    }

    fn aggregate_head(&mut self, a: &AggregateExpr) {
        self.push(a.op.as_str());
        if a.without || !a.grouping.is_empty() {
            self.push(if a.without { " without (" } else { " by (" });
            self.labels(&a.grouping);
            self.push(") ");
        }
    }

    /// The operator with everything that modifies it.
    fn operator(&mut self, b: &BinaryExpr) {
        self.push(b.op.as_str());
        if b.return_bool {
            self.push(" bool");
        }
        let Some(m) = &b.matching else { return };
        let group = match m.card {
            Cardinality::ManyToOne => Some(" group_left ("),
            Cardinality::OneToMany => Some(" group_right ("),
            _ => None,
        };
        if m.on || !m.labels.is_empty() || group.is_some() {
            self.push(if m.on { " on (" } else { " ignoring (" });
            self.labels(&m.labels);
            self.push(")");
        }
        if let Some(group) = group {
            self.push(group);
            self.labels(&m.include);
            self.push(")");
        }
        let value = |v: f64| format!(" ({})", format_float_exponent(v));
        match (m.fill_left, m.fill_right) {
            (Some(l), Some(r)) if l == r => {
                self.push(" fill");
                self.push(&value(l));
            }
            (l, r) => {
                if let Some(l) = l {
                    self.push(" fill_left");
                    self.push(&value(l));
                }
                if let Some(r) = r {
                    self.push(" fill_right");
                    self.push(&value(r));
                }
            }
        }
    }

    /// Name and matchers, these sorted by their text.
    fn selector_head(&mut self, v: &VectorSelector) {
        self.push(&v.name);
        let mut texts: Vec<String> = Vec::with_capacity(v.matchers.len());
        for m in &v.matchers {
            let of_name = &*m.name == METRIC_NAME && m.op == quiver_model::MatchOp::Equal;
            if of_name && !m.value.is_empty() && *m.value == *v.name {
                continue;
            }
            let mut text = String::new();
            push_label_name(&mut text, &m.name, self.utf8);
            text.push_str(m.op.as_str());
            push_quoted_bytes(&mut text, &bytes_of_text(&m.value));
            texts.push(text);
        }
        if !texts.is_empty() {
            texts.sort_unstable();
            self.push("{");
            self.push(&texts.join(","));
            self.push("}");
        }
    }

    fn extended(&mut self, v: &VectorSelector) {
        if v.anchored {
            self.push(" anchored");
        } else if v.smoothed {
            self.push(" smoothed");
        }
    }

    fn at(&mut self, timestamp: Option<i64>, boundary: Option<AtBoundary>) {
        match (timestamp, boundary) {
            (Some(ms), _) => self.push(&format!(" @ {:.3}", ms as f64 / 1000.0)),
            (None, Some(AtBoundary::Start)) => self.push(" @ start()"),
            (None, Some(AtBoundary::End)) => self.push(" @ end()"),
            (None, None) => {}
        }
    }

    fn offset(&mut self, ms: i64, ns: i64, expr: &Option<Box<DurationExpr>>) {
        if expr.is_some() || ms != 0 || ns != 0 {
            self.push(" offset ");
            // The smallest of all has a sign of its own, turned round or not.
            if expr.is_none() && ((ms == 0 && ns < 0) || ms == i64::MIN / 1_000_000) {
                self.push("-");
            }
            self.duration_or_expr(ms, expr);
        }
    }

    fn duration_or_expr(&mut self, ms: i64, expr: &Option<Box<DurationExpr>>) {
        match expr {
            Some(d) => self.duration(d),
            None => push_duration(&mut self.out, ms),
        }
    }

    fn subquery_tail(&mut self, s: &SubqueryExpr) {
        self.push("[");
        self.duration_or_expr(s.range, &s.range_expr);
        self.push(":");
        if s.step_expr.is_some() || s.step_written {
            self.duration_or_expr(s.step, &s.step_expr);
        }
        self.push("]");
        self.at(s.timestamp, s.start_or_end);
        self.offset(s.original_offset, s.offset_ns, &s.original_offset_expr);
    }

    fn duration(&mut self, d: &DurationExpr) {
        if d.wrapped {
            self.push("(");
        }
        let side = |p: &mut Self, e: &Option<Expr>| {
            if let Some(e) = e {
                p.expr(e);
            }
        };
        match d.op {
            DurationOp::Step | DurationOp::Range => {
                self.push(d.op.as_str());
                self.push("()");
            }
            DurationOp::MinOf | DurationOp::MaxOf => {
                self.push(d.op.as_str());
                self.push("(");
                side(self, &d.lhs);
                self.push(", ");
                side(self, &d.rhs);
                self.push(")");
            }
            op if d.lhs.is_none() => {
                if op == DurationOp::Sub {
                    self.push("-");
                }
                side(self, &d.rhs);
            }
            op => {
                side(self, &d.lhs);
                self.push(" ");
                self.push(op.as_str());
                self.push(" ");
                side(self, &d.rhs);
            }
        }
        if d.wrapped {
            self.push(")");
        }
    }

    // Several lines.

    fn is_long(&self, e: &Expr) -> bool {
        let mut p = Printer { out: String::new(), utf8: self.utf8, limit: LINE_MAX };
        p.expr(e);
        p.out.len() > LINE_MAX
    }

    fn indent(&mut self, level: usize) {
        for _ in 0..level {
            self.push("  ");
        }
    }

    fn pretty(&mut self, e: &Expr, level: usize) {
        match e {
            Expr::StepInvariant(inner) => self.pretty(inner, level),
            Expr::Unary(u) => {
                let mut inner = Printer { out: String::new(), utf8: self.utf8, limit: usize::MAX };
                inner.pretty(&u.expr, level);
                self.indent(level);
                self.push(if u.minus { "-" } else { "+" });
                self.push(inner.out.trim_matches([' ', '\n']));
            }
            // A short subquery is not indented.
            Expr::Subquery(s) => {
                if self.is_long(e) {
                    self.pretty(&s.expr, level);
                    self.subquery_tail(s);
                } else {
                    self.expr(e);
                }
            }
            Expr::Aggregate(a) if self.is_long(e) => {
                self.indent(level);
                self.aggregate_head(a);
                self.push("(\n");
                if let Some(param) = &a.param {
                    self.pretty(param, level + 1);
                    self.push(",\n");
                }
                self.pretty(&a.expr, level + 1);
                self.push("\n");
                self.indent(level);
                self.push(")");
            }
            Expr::Binary(b) if self.is_long(e) => {
                self.pretty(&b.lhs, level + 1);
                self.push("\n");
                self.indent(level);
                self.operator(b);
                self.push("\n");
                self.pretty(&b.rhs, level + 1);
            }
            Expr::Call(c) if self.is_long(e) => {
                self.indent(level);
                self.push(c.func.name);
                self.push("(\n");
                for (i, arg) in c.args.iter().enumerate() {
                    if i > 0 {
                        self.push(",\n");
                    }
                    self.pretty(arg, level + 1);
                }
                self.push("\n");
                self.indent(level);
                self.push(")");
            }
            Expr::Paren(p) if self.is_long(e) => {
                self.indent(level);
                self.push("(\n");
                self.pretty(&p.expr, level + 1);
                self.push("\n");
                self.indent(level);
                self.push(")");
            }
            _ => {
                self.indent(level);
                self.expr(e);
            }
        }
    }
}
