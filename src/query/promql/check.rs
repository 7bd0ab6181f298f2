//! Types and rules that syntax alone does not ensure. All errors are collected, outermost construct last, in the order
//! Prometheus finds them.
//!
//! What checking settles in the tree: set operators become many-to-many, matching goes away where a side is a scalar, and
//! the second argument of `info()` may match everything.

use std::collections::HashSet;

use quiver_model::METRIC_NAME;

use super::ast::*;
use super::error::{ParseError, ParseErrors};
use super::strings::quote;

/// Checks a tree and settles it.
pub(super) fn check(expr: &mut Expr, query: &str) -> Result<(), ParseErrors> {
    let mut c = Checker { query, errors: Vec::new() };
    c.expr(expr);
    ParseErrors::from_list(c.errors).map_or(Ok(()), Err)
}

struct Checker<'a> {
    query: &'a str,
    errors: Vec<ParseError>,
}

/// What the documentation calls a type.
fn documented(t: ValueType) -> &'static str {
    match t {
        ValueType::Vector => "instant vector",
        ValueType::Matrix => "range vector",
        other => other.as_str(),
    }
}

impl Checker<'_> {
    fn fail(&mut self, pos: Position, message: impl Into<String>) {
        if self.errors.len() < ParseErrors::MAX {
            self.errors.push(ParseError::new(self.query, pos, message));
        }
    }

    fn expr(&mut self, e: &mut Expr) -> ValueType {
        let pos = e.pos();
        match e {
            Expr::Aggregate(a) => self.aggregate(a),
            Expr::Binary(b) => return self.binary(b),
            Expr::Call(c) => self.call(c),
            Expr::Paren(p) => return self.expr(&mut p.expr),
            Expr::Unary(u) => {
                let t = self.expr(&mut u.expr);
                if !matches!(t, ValueType::Scalar | ValueType::Vector) {
                    let message = format!(
                        "unary expression only allowed on expressions of type scalar or instant vector, got {}",
                        quote(documented(t))
                    );
                    self.fail(pos, message);
                }
                return t;
            }
            Expr::Subquery(s) => {
                let t = self.expr(&mut s.expr);
                if t != ValueType::Vector {
                    let message = format!("subquery is only allowed on instant vector, got {} instead", t.as_str());
                    self.fail(pos, message);
                }
            }
            Expr::Matrix(m) => self.selector(&m.selector),
            Expr::Vector(v) => self.selector(v),
            Expr::Number(_) | Expr::String(_) | Expr::Duration(_) => {}
            Expr::StepInvariant(inner) => return self.expr(inner),
        }
        e.value_type()
    }

    fn expect(&mut self, e: &mut Expr, want: ValueType, context: &str) {
        let pos = e.pos();
        let got = self.expr(e);
        if got != want {
            self.fail(pos, format!("expected type {} in {context}, got {}", documented(want), documented(got)));
        }
    }

    fn aggregate(&mut self, a: &mut AggregateExpr) {
        self.expect(&mut a.expr, ValueType::Vector, "aggregation expression");
        if let Some(param) = &mut a.param {
            let want = if a.op == AggregateOp::CountValues { ValueType::String } else { ValueType::Scalar };
            self.expect(param, want, "aggregation parameter");
        }
    }

    fn binary(&mut self, b: &mut BinaryExpr) -> ValueType {
        let lt = self.expr(&mut b.lhs);
        let rt = self.expr(&mut b.rhs);
        if b.return_bool && !b.op.is_comparison() {
            self.fail(self.operator(b), "bool modifier can only be used on comparison operators");
        }
        if b.op.is_comparison() && !b.return_bool && lt == ValueType::Scalar && rt == ValueType::Scalar {
            self.fail(self.operator(b), "comparisons between scalars must use BOOL modifier");
        }
        if let Some(m) = &mut b.matching
            && b.op.is_set()
            && m.card == Cardinality::OneToOne
        {
            m.card = Cardinality::ManyToMany;
        }
        if let Some(m) = &b.matching
            && m.on
            && !m.include.is_empty()
        {
            let include: HashSet<&str> = m.include.iter().map(String::as_str).collect();
            let both: Vec<String> = m
                .labels
                .iter()
                .filter(|l| include.contains(l.as_str()))
                .take(ParseErrors::MAX)
                .map(|l| format!("label {} must not occur in ON and GROUP clause at once", quote(l)))
                .collect();
            for message in both {
                self.fail(self.operator(b), message);
            }
        }
        for (t, e) in [(lt, &b.lhs), (rt, &b.rhs)] {
            if !matches!(t, ValueType::Scalar | ValueType::Vector) {
                self.fail(e.pos(), "binary expression must contain only scalar and instant vector types");
            }
        }
        let filled = b.matching.as_ref().is_some_and(|m| m.fill_left.is_some() || m.fill_right.is_some());
        if lt != ValueType::Vector || rt != ValueType::Vector {
            if b.matching.as_ref().is_some_and(|m| !m.labels.is_empty()) {
                self.fail(b.pos, "vector matching only allowed between instant vectors");
            }
            if filled {
                self.fail(b.pos, "filling in missing series only allowed between instant vectors");
            }
            b.matching = None;
        } else if b.op.is_set() {
            let card = b.matching.as_ref().map_or(Cardinality::ManyToMany, |m| m.card);
            if matches!(card, Cardinality::OneToMany | Cardinality::ManyToOne) {
                self.fail(b.pos, format!("no grouping allowed for {} operation", quote(b.op.as_str())));
            }
            if card != Cardinality::ManyToMany {
                self.fail(b.pos, "set operations must always be many-to-many");
            }
            if filled {
                self.fail(b.pos, "filling in missing series not allowed for set operators");
            }
        }
        if (lt == ValueType::Scalar || rt == ValueType::Scalar) && b.op.is_set() {
            let message = format!("set operator {} not allowed in binary scalar expression", quote(b.op.as_str()));
            self.fail(b.pos, message);
        }
        if lt == ValueType::Scalar && rt == ValueType::Scalar { ValueType::Scalar } else { ValueType::Vector }
    }

    /// Where the operator stands, its modifiers included.
    fn operator(&self, b: &BinaryExpr) -> Position {
        let bytes = self.query.as_bytes();
        let space = |i: usize| matches!(bytes.get(i), Some(b' ' | b'\t' | b'\n' | b'\r'));
        let mut start = b.lhs.pos().end as usize;
        while space(start) {
            start += 1;
        }
        let mut end = b.rhs.pos().start as usize;
        while end > start && space(end - 1) {
            end -= 1;
        }
        Position::new(start, end)
    }

    fn call(&mut self, c: &mut Call) {
        let name = quote(c.func.name);
        let (wanted, got) = (c.func.arg_types.len(), c.args.len());
        if c.func.variadic == 0 {
            if wanted != got {
                self.fail(c.pos, format!("expected {wanted} argument(s) in call to {name}, got {got}"));
            }
        } else {
            let least = wanted.saturating_sub(1);
            let most = usize::try_from(c.func.variadic).ok().map(|v| least + v);
            if least > got {
                self.fail(c.pos, format!("expected at least {least} argument(s) in call to {name}, got {got}"));
            } else if let Some(most) = most
                && most < got
            {
                self.fail(c.pos, format!("expected at most {most} argument(s) in call to {name}, got {got}"));
            }
        }
        if c.func.name == "info" {
            self.info_labels(c);
        }
        for (i, arg) in c.args.iter_mut().enumerate() {
            let want = match (c.func.arg_types.get(i), c.func.arg_types.last()) {
                (Some(t), _) => *t,
                (None, Some(last)) if c.func.variadic != 0 => *last,
                _ => break,
            };
            let pos = arg.pos();
            let got = self.expr(arg);
            if got != want {
                let message =
                    format!("expected type {} in call to function {name}, got {}", documented(want), documented(got));
                self.fail(pos, message);
            }
        }
    }

    /// The second argument of `info()` is a selector by syntax only.
    fn info_labels(&mut self, c: &mut Call) {
        let whole = c.pos;
        let Some(arg) = c.args.get_mut(1) else { return };
        let (t, pos) = (arg.value_type(), arg.pos());
        if t != ValueType::Vector {
            let message = format!("expected type instant vector in call to function \"info\", got {}", documented(t));
            self.fail(whole, message);
        }
        match arg {
            Expr::Vector(v) if v.name.is_empty() => v.bypass_empty_matcher_check = true,
            Expr::Vector(_) => self.fail(pos, "expected label selectors only, got vector selector instead"),
            _ => self.fail(pos, "expected label selectors only"),
        }
    }

    fn selector(&mut self, v: &VectorSelector) {
        if !v.name.is_empty() {
            // The last matcher is that of the name before the braces.
            let others = v.matchers.split_last().map_or(&[][..], |(_, rest)| rest);
            for m in others.iter().filter(|m| &*m.name == METRIC_NAME) {
                let message = format!("metric name must not be set twice: {} or {}", quote(&v.name), quote(&m.value));
                self.fail(v.pos, message);
            }
        } else if !v.bypass_empty_matcher_check && v.matchers.iter().all(|m| m.matches_empty()) {
            self.fail(v.pos, "vector selector must contain at least one non-empty matcher");
        }
    }
}
