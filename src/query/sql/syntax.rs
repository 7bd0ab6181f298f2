//! What the parser gets wrong, put right in the tree; and what the planner does not know: `FETCH FIRST n ROWS ONLY`,
//! the length of a `varchar`, a multiple of an interval, `COLLATE "C"`.
//!
//! `a IS DISTINCT FROM 'x' AND b` is read as `a IS DISTINCT FROM ('x' AND b)`: what follows is taken with the lowest
//! precedence. An `AND` or `OR` in there without parentheses can only come from that, so it is turned around, and so are a
//! `NOT` and an `AND` before it.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, CharacterLength, DataType, Expr, Fetch, LimitClause, ObjectNamePart, Query,
    UnaryOperator, Value, VisitMut, VisitorMut,
};

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

    /// `FETCH FIRST n ROWS ONLY` is `LIMIT n`.
    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let Some(Fetch { with_ties: false, percent: false, quantity }) = query.fetch.clone() else {
            return ControlFlow::Continue(());
        };
        let rows = Some(quantity.unwrap_or_else(|| Expr::Value(Value::Number("1".into(), false).into())));
        match &mut query.limit_clause {
            None => {
                query.limit_clause = Some(LimitClause::LimitOffset { limit: rows, offset: None, limit_by: Vec::new() })
            }
            Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => *limit = rows,
            Some(_) => return ControlFlow::Continue(()),
        }
        query.fetch = None;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        shorten(e);
        cut(e);
        multiply(e);
        // Texts are in the order of their bytes anyway.
        if let Expr::Collate { expr, collation } = e
            && matches!(collation.to_string().trim_matches('"'), "C" | "POSIX" | "ucs_basic")
        {
            *e = std::mem::replace(expr.as_mut(), null());
        }
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

/// Bytes of a function's name: no function has a longer one.
const FUNCTION_NAME_MAX: usize = 128;

/// Cuts the name of a function that cannot exist: the planner compares it with the names of all that do, which takes seconds.
fn shorten(e: &mut Expr) {
    let Expr::Function(function) = e else { return };
    for part in &mut function.name.0 {
        if let ObjectNamePart::Identifier(name) = part
            && name.value.len() > FUNCTION_NAME_MAX
        {
            name.value.truncate(name.value.floor_char_boundary(FUNCTION_NAME_MAX));
            name.value.push('…');
        }
    }
}

fn is_and(e: &Expr) -> bool {
    matches!(e, Expr::BinaryOp { op: BinaryOperator::And, .. })
}

fn is_or(e: &Expr) -> bool {
    matches!(e, Expr::BinaryOp { op: BinaryOperator::Or, .. })
}

/// `job::varchar(2)` is cut to two characters: the planner does not look at the length, and knows no `character varying`.
fn cut(e: &mut Expr) {
    let Expr::Cast { expr, data_type, .. } = e else { return };
    match data_type {
        DataType::CharacterVarying(length) => *data_type = DataType::Varchar(*length),
        DataType::CharVarying(length) => *data_type = DataType::Varchar(*length),
        _ => {}
    }
    let (DataType::Varchar(Some(length)) | DataType::Char(Some(length)) | DataType::Character(Some(length))) =
        data_type
    else {
        return;
    };
    let CharacterLength::IntegerLength { length, .. } = length else { return };
    let number = |n: u64| Some(Box::new(Expr::Value(Value::Number(n.to_string(), false).into())));
    let text = Expr::Cast {
        kind: CastKind::Cast,
        expr: std::mem::replace(expr, Box::new(null())),
        data_type: DataType::Varchar(None),
        array: false,
        format: None,
    };
    **expr = Expr::Substring {
        expr: Box::new(text),
        substring_from: number(1),
        substring_for: number(*length),
        special: true,
        shorthand: false,
    };
}

/// `INTERVAL '90 minutes' * 2` is `INTERVAL '180 minutes'`.
fn multiply(e: &mut Expr) {
    let Expr::BinaryOp { left, op: BinaryOperator::Multiply, right } = e else { return };
    let (interval, number) = match (left.as_mut(), right.as_mut()) {
        (Expr::Interval(i), Expr::Value(n)) | (Expr::Value(n), Expr::Interval(i)) => (i, n),
        _ => return,
    };
    let (Value::Number(number, _), Expr::Value(text)) = (&number.value, interval.value.as_mut()) else { return };
    let (Ok(factor), Value::SingleQuotedString(text)) = (number.parse::<i64>(), &mut text.value) else { return };
    let mut words = Vec::new();
    for word in text.split_whitespace() {
        if word.starts_with(|c: char| c.is_ascii_alphabetic()) {
            words.push(word.to_owned());
            continue;
        }
        let Some(product) = word.parse::<i64>().ok().and_then(|n| n.checked_mul(factor)) else { return };
        words.push(product.to_string());
    }
    *text = words.join(" ");
    *e = Expr::Interval(interval.clone());
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
    fn what_the_planner_does_not_know_is_said_in_another_way() {
        for (condition, wanted) in [
            ("a::varchar(2) = b", "SUBSTRING(CAST(a AS VARCHAR), 1, 2)::VARCHAR(2) = b"),
            ("a::character varying = b", "a::VARCHAR = b"),
            ("t > interval '1 hour 30 minutes' * 2", "t > INTERVAL '2 hour 60 minutes'"),
            ("a COLLATE \"C\" > 'b'", "a > 'b'"),
            ("t > interval '01:30' * 2", "t > INTERVAL '01:30' * 2"),
            ("true FETCH FIRST 3 ROWS ONLY", "true LIMIT 3"),
            ("true OFFSET 2 FETCH NEXT ROW ONLY", "true LIMIT 1 OFFSET 2"),
        ] {
            assert_eq!(repaired(condition), wanted, "{condition}");
        }
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
