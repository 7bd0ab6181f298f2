//! What a query reads, without evaluating it.

use quiver_model::Matcher;

use super::ast::Expr;

/// The matchers of every selector in a query, in the order they are written.
pub fn selectors(expr: &Expr) -> Vec<Vec<Matcher>> {
    let mut out = Vec::new();
    let mut stack = vec![expr];
    while let Some(e) = stack.pop() {
        match e {
            Expr::Vector(v) => out.push(v.matchers.clone()),
            Expr::Matrix(m) => out.push(m.selector.matchers.clone()),
            Expr::Aggregate(a) => {
                stack.push(&a.expr);
                stack.extend(&a.param);
            }
            Expr::Binary(b) => stack.extend([&b.rhs, &b.lhs]),
            Expr::Call(c) => stack.extend(c.args.iter().rev()),
            Expr::Subquery(s) => stack.push(&s.expr),
            Expr::Paren(p) => stack.push(&p.expr),
            Expr::Unary(u) => stack.push(&u.expr),
            Expr::StepInvariant(e) => stack.push(e),
            Expr::Number(_) | Expr::String(_) | Expr::Duration(_) => {}
        }
    }
    out
}
