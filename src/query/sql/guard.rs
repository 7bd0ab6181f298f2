//! What is judged before a statement is planned: its size, its operators, that it is one statement.

use datafusion::error::DataFusionError;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{self, SetExpr};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use quiver_model::Limits;

use super::errors::error;
use super::words;
use crate::error::QueryError;

/// Functions whose result grows with an argument, beyond what the memory pool sees. (`generate_series` stays as a table.)
/// `map_entries` panics on maps that were not made by the engine itself, such as `labels`.
pub const REMOVED_FUNCTIONS: [&str; 8] =
    ["repeat", "lpad", "rpad", "range", "generate_series", "array_repeat", "array_resize", "map_entries"];

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
    let tokens = Tokenizer::new(&dialect, sql)
        .tokenize()
        .map_err(|e| QueryError::BadData(words::parse_error(&e.to_string())))?;
    let operators = tokens.iter().filter(|t| is_operator(t)).count();
    if operators > limits.sql_operators_max {
        let text = format!("the statement has {operators} operators, the limit is {}", limits.sql_operators_max);
        return Err(QueryError::BadData(text));
    }
    let bad = |e: DataFusionError| error(&e);
    let mut parser = DFParserBuilder::new(sql).with_dialect(&dialect).build().map_err(bad)?;
    let mut statements = parser.parse_statements().map_err(bad)?;
    match (statements.pop_front(), statements.is_empty()) {
        (Some(one), true) => match refused(&one) {
            Some(what) => Err(QueryError::BadData(format!("SQL is read-only: {what} is not supported"))),
            None => Ok(one),
        },
        (None, _) => Err(QueryError::BadData("there is no statement".into())),
        (Some(_), false) => Err(QueryError::BadData("one statement at a time".into())),
    }
}

/// The words of a statement that does not read.
fn refused(statement: &Statement) -> Option<String> {
    let inner = match statement {
        Statement::Explain(e) => return refused(&e.statement),
        Statement::CreateExternalTable(_) => return Some("CREATE EXTERNAL TABLE".into()),
        Statement::CopyTo(_) => return Some("COPY".into()),
        Statement::Reset(_) => return Some("RESET".into()),
        Statement::Statement(inner) => inner.as_ref(),
    };
    let text = match inner {
        ast::Statement::Query(q) => match q.body.as_ref() {
            SetExpr::Insert(s) | SetExpr::Update(s) | SetExpr::Delete(s) | SetExpr::Merge(s) => s.to_string(),
            _ => return None,
        },
        other => other.to_string(),
    };
    let mut words = text.split_whitespace().map(str::to_ascii_uppercase);
    let first = words.next()?;
    match first.as_str() {
        "SHOW" | "DESCRIBE" | "DESC" | "EXPLAIN" => None,
        "CREATE" | "DROP" | "ALTER" => {
            let kind = words.find(|w| !matches!(w.as_str(), "OR" | "REPLACE" | "TEMPORARY" | "UNIQUE" | "EXTERNAL"))?;
            Some(format!("{first} {kind}"))
        }
        _ => Some(first),
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
