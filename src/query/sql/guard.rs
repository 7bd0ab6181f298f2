//! What is judged before a statement is planned: its size, its operators, that it is one statement.

use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use quiver_model::Limits;

use crate::error::QueryError;

/// Functions whose result grows with an argument, beyond what the memory pool sees. (`generate_series` stays as a table.)
pub const REMOVED_FUNCTIONS: [&str; 7] =
    ["repeat", "lpad", "rpad", "range", "generate_series", "array_repeat", "array_resize"];

/// Takes a function out of a session.
pub fn remove_function(state: &mut SessionState, name: &str) {
    // A function that is not there is removed already.
    let _ = state.deregister_udf(name);
}

/// Parses one statement, after its tokens were counted: a chain of operators becomes a tree as deep as it is long, and
/// planners recurse over it.
pub fn parse(sql: &str, limits: &Limits) -> Result<Statement, QueryError> {
    if sql.len() > limits.query_bytes_max {
        let text = format!("the statement has {} bytes, the limit is {}", sql.len(), limits.query_bytes_max);
        return Err(QueryError::BadData(text));
    }
    let dialect = PostgreSqlDialect {};
    let tokens = Tokenizer::new(&dialect, sql).tokenize().map_err(|e| QueryError::BadData(e.to_string()))?;
    let operators = tokens.iter().filter(|t| is_operator(t)).count();
    if operators > limits.sql_operators_max {
        let text = format!("the statement has {operators} operators, the limit is {}", limits.sql_operators_max);
        return Err(QueryError::BadData(text));
    }
    let bad = |e: datafusion::error::DataFusionError| QueryError::BadData(e.strip_backtrace());
    let mut parser = DFParserBuilder::new(sql).with_dialect(&dialect).build().map_err(bad)?;
    let mut statements = parser.parse_statements().map_err(bad)?;
    match (statements.pop_front(), statements.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => Err(QueryError::BadData("there is no statement".into())),
        (Some(_), false) => Err(QueryError::BadData("one statement at a time".into())),
    }
}

fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(w) => matches!(
            w.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::BETWEEN
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::CASE
                | Keyword::WHEN
                | Keyword::JOIN
                | Keyword::SELECT
        ),
        Token::Plus
        | Token::Minus
        | Token::Mul
        | Token::Div
        | Token::Mod
        | Token::StringConcat
        | Token::Eq
        | Token::Neq
        | Token::Lt
        | Token::Gt
        | Token::LtEq
        | Token::GtEq
        | Token::Tilde
        | Token::DoubleColon
        | Token::Caret
        | Token::Ampersand
        | Token::Pipe => true,
        _ => false,
    }
}
