//! What the parser gets wrong, put right in the tree.
//!
//! `a IS DISTINCT FROM 'x' AND b` is read as `a IS DISTINCT FROM ('x' AND b)`: what follows is taken with the lowest
//! precedence. An `AND` or `OR` in there without parentheses can only come from that, so it is turned around, and so are a
//! `NOT` and an `AND` before it.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value, VisitMut, VisitorMut};

/// Repairs a parsed statement.
pub fn repair(statement: &mut Statement) {
    let mut inner = statement;
    while let Statement::Explain(e) = inner {
        inner = &mut e.statement;
    }
    if let Statement::Statement(inner) = inner {
        let _ = VisitMut::visit(inner.as_mut(), &mut Repair);
    }
}

struct Repair;

impl VisitorMut for Repair {
    type Break = ();

    fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        let joins = |e: &Expr| is_and(e) || is_or(e);
        let broken = match &*e {
            Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => joins(right),
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => joins(expr),
            Expr::BinaryOp { op: BinaryOperator::And, right, .. } => is_or(right),
            _ => false,
        };
        if broken {
            turn(e);
        }
        ControlFlow::Continue(())
    }
}

fn is_and(e: &Expr) -> bool {
    matches!(e, Expr::BinaryOp { op: BinaryOperator::And, .. })
}

fn is_or(e: &Expr) -> bool {
    matches!(e, Expr::BinaryOp { op: BinaryOperator::Or, .. })
}

fn null() -> Expr {
    Expr::Value(Value::Null.into())
}

/// `e` around the first of what its last operand joins, in the place of that.
fn turn(e: &mut Expr) {
    let over_and = !is_and(e);
    let operand = match e {
        Expr::IsDistinctFrom(_, operand) | Expr::IsNotDistinctFrom(_, operand) => operand,
        Expr::UnaryOp { expr: operand, .. } | Expr::BinaryOp { right: operand, .. } => operand,
        _ => return,
    };
    let mut joined = std::mem::replace(operand.as_mut(), null());
    let mut first = &mut joined;
    while is_or(first) || (over_and && is_and(first)) {
        let Expr::BinaryOp { left, .. } = first else { return };
        first = left;
    }
    std::mem::swap(operand.as_mut(), first);
    std::mem::swap(e, first);
    *e = joined;
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParserBuilder;
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;

    use super::*;

    fn repaired(condition: &str) -> String {
        let sql = format!("SELECT 1 WHERE {condition}");
        let mut parser = DFParserBuilder::new(sql.as_str()).with_dialect(&PostgreSqlDialect {}).build().unwrap();
        let mut statement = parser.parse_statements().unwrap().pop_front().unwrap();
        repair(&mut statement);
        // Displayed trees have no parentheses of their own: all of them are written out.
        struct Wrap;
        impl VisitorMut for Wrap {
            type Break = ();
            fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
                if is_and(e) || is_or(e) || matches!(e, Expr::IsDistinctFrom(..) | Expr::IsNotDistinctFrom(..)) {
                    *e = Expr::Nested(Box::new(std::mem::replace(e, null())));
                }
                ControlFlow::Continue(())
            }
        }
        let Statement::Statement(mut s) = statement else { panic!() };
        let _ = VisitMut::visit(s.as_mut(), &mut Wrap);
        s.to_string().split_once("WHERE ").unwrap().1.to_owned()
    }

    #[test]
    fn distinct_from_ends_before_and_and_or() {
        for (condition, wanted) in [
            ("a IS DISTINCT FROM 'x' AND b", "((a IS DISTINCT FROM 'x') AND b)"),
            ("a IS NOT DISTINCT FROM 'x' OR b", "((a IS NOT DISTINCT FROM 'x') OR b)"),
            ("a IS DISTINCT FROM 'x' AND b OR c", "(((a IS DISTINCT FROM 'x') AND b) OR c)"),
            ("z AND a IS DISTINCT FROM 'x' OR b OR c", "(((z AND (a IS DISTINCT FROM 'x')) OR b) OR c)"),
            ("NOT a IS DISTINCT FROM 'x' AND b", "(NOT (a IS DISTINCT FROM 'x') AND b)"),
            ("a IS DISTINCT FROM (x OR y) AND b", "((a IS DISTINCT FROM ((x OR y))) AND b)"),
            (
                "a IS DISTINCT FROM x AND b IS DISTINCT FROM y AND c",
                "((a IS DISTINCT FROM x) AND ((b IS DISTINCT FROM y) AND c))",
            ),
            ("z AND (x OR y)", "(z AND ((x OR y)))"),
        ] {
            assert_eq!(repaired(condition), wanted, "{condition}");
        }
    }
}
