//! What went wrong with a statement, in the words of who wrote it.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;
use quiver_core::{Snapshot, TimeRange};
use quiver_model::{METRIC_NAME, Matcher, nearest};

use super::catalog::TABLES;
use super::names::Names;
use super::words::{self, Text};
use crate::error::QueryError;

/// Names of metrics that are looked through for one that is like another.
const NAMES_MAX: usize = 100_000;
/// Columns listed in an error.
const COLUMNS_MAX: usize = 30;

/// A DataFusion error, by whose fault it is.
pub fn error(e: &DataFusionError) -> QueryError {
    use DataFusionError as E;
    let root = e.find_root();
    match root {
        E::SQL(e, _) => QueryError::BadData(parser_error(e)),
        E::SchemaError(e, _) => QueryError::BadData(schema_error(e, &|_| false)),
        E::Plan(text) => said(text, QueryError::BadData),
        E::NotImplemented(text) => match words::say(text) {
            Text::Said(text) => QueryError::BadData(text),
            _ => QueryError::BadData(not_supported(&words::types(text))),
        },
        E::ResourcesExhausted(_) => {
            QueryError::Execution(format!("the query needs more memory than it may use: {}", root.strip_backtrace()))
        }
        E::External(inner) => match inner.downcast_ref::<QueryError>() {
            Some(q) => q.clone(),
            None => QueryError::Execution(inner.to_string()),
        },
        E::ExecutionJoin(e) if e.is_panic() => unforeseen(&root.strip_backtrace()),
        E::Internal(text) => match words::say(text) {
            // A call that no signature takes is the statement's fault, wherever it is found.
            Text::Said(text) if text.starts_with("there is no function") => QueryError::BadData(text),
            _ => unforeseen(text),
        },
        E::Execution(text) => match said(text, QueryError::Execution) {
            QueryError::Execution(text) if text.starts_with("there is no function") => QueryError::BadData(text),
            other => other,
        },
        E::ArrowError(e, _) => said(&e.to_string(), QueryError::Execution),
        _ => said(&root.strip_backtrace(), QueryError::Execution),
    }
}

fn said(text: &str, error: impl FnOnce(String) -> QueryError) -> QueryError {
    match words::say(text) {
        Text::Said(text) | Text::Same(text) => error(text),
        Text::Unforeseen => unforeseen(text),
    }
}

/// What the parser says, the place first.
pub fn parser_error(e: &ParserError) -> String {
    match e {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => words::parse_error(text),
        ParserError::RecursionLimitExceeded => "the statement is nested too deeply".into(),
    }
}

/// Did the optimizer make a plan that it does not accept itself?
pub fn is_invalid_plan(e: &DataFusionError) -> bool {
    match e.find_root() {
        DataFusionError::Plan(text) | DataFusionError::Internal(text) => {
            text.starts_with("Plan: [") || text.contains("does not satisfy order requirements")
        }
        _ => false,
    }
}

fn not_supported(text: &str) -> String {
    let known = [
        (
            "Physical plan does not support logical expression Exists",
            "EXISTS in a SELECT list: use it in WHERE, or count rows",
        ),
        ("Physical plan does not support logical expression", "this kind of subquery in this place: use a join"),
        (
            "Conflicting ordering requirements in aggregate functions",
            "aggregates with different ORDER BY in one SELECT: compute them in two and join them",
        ),
    ];
    match known.into_iter().find(|(start, _)| text.starts_with(start)) {
        Some((_, words)) => format!("not supported: {words}"),
        None => format!("not supported: {}", text.trim()),
    }
}

/// An error of the engine's inside: its text is for the log.
fn unforeseen(text: &str) -> QueryError {
    tracing::warn!(error = text, "an SQL statement met a case that the engine does not handle");
    QueryError::Execution(
        "the engine does not handle this combination of functions and types: write the statement in another way, \
         for example with casts (label::text) or in two steps"
            .into(),
    )
}

/// `quotes`: is a name written between double quotes?
fn schema_error(e: &SchemaError, quotes: &dyn Fn(&str) -> bool) -> String {
    match e {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names: Vec<&str> = valid_fields.iter().map(|c| c.name.as_str()).collect();
            if let Some(table) = field.relation.as_ref().filter(|_| names.contains(&field.name())) {
                let table = table.table();
                return format!("there is no table {table} after FROM, so {table}.{} is no column", field.name());
            }
            let mut text = format!("there is no column {}", field.name());
            if let Some(near) = nearest(field.name(), names.iter().copied()) {
                text.push_str(&format!("; did you mean {}?", quoted(near)));
            } else if quotes(field.name()) {
                text.push_str(&format!("; texts take single quotes: '{}'", field.name()));
            } else if names.is_empty() {
                text.push_str(" here");
            } else {
                text.push_str("; columns are ");
                text.push_str(&names[..names.len().min(COLUMNS_MAX)].join(", "));
                if names.len() > COLUMNS_MAX {
                    text.push_str(&format!(" and {} more", names.len() - COLUMNS_MAX));
                }
            }
            text
        }
        SchemaError::AmbiguousReference { field } => {
            format!("the column {} is ambiguous: write the table before it, or rename one", field.name())
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            format!("two columns have the name {name}: rename one with AS")
        }
    }
}

/// An error of planning, with what is in the catalog and the names as they were written.
pub fn planning(e: &DataFusionError, names: &Names, snapshot: &dyn Snapshot) -> QueryError {
    let error = match e.find_root() {
        DataFusionError::Plan(text) => missing_table(text, snapshot).map_or_else(|| error(e), QueryError::BadData),
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields }
                if valid_fields.iter().any(|c| c.name != field.name && names.shown(&c.name) == field.name) =>
            {
                QueryError::BadData(format!("the column {} is ambiguous: two columns have this name", field.name()))
            }
            schema => QueryError::BadData(schema_error(schema, &|name| names.is_quoted(name))),
        },
        _ => error(e),
    };
    match error {
        QueryError::BadData(text) => QueryError::BadData(names.in_text(&text)),
        QueryError::Execution(text) => QueryError::Execution(names.in_text(&text)),
        other => other,
    }
}

/// A name as it is written in a statement.
fn quoted(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().next().is_some_and(|c| !c.is_ascii_digit());
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn missing_table(text: &str, snapshot: &dyn Snapshot) -> Option<String> {
    let name = text.strip_prefix("table 'quiver.")?.split("' not found").next()?;
    let (schema, table) = name.split_once('.')?;
    let is_metric = |m: &str| {
        let selector = [vec![Matcher::equal(METRIC_NAME, m)]];
        snapshot.label_names(&selector, TimeRange::ALL, 1).is_ok_and(|l| !l.is_empty())
    };
    let metrics = || snapshot.label_values(METRIC_NAME, &[], TimeRange::ALL, NAMES_MAX).unwrap_or_default();
    let metric = |m: &str| format!("metrics.{}", quoted(m));
    if schema == "metrics" {
        let metrics = metrics();
        return Some(match nearest(table, metrics.iter().map(String::as_str)) {
            Some(near) => format!("there is no metric {table}; did you mean {}?", metric(near)),
            None => format!("there is no metric {table}: SELECT DISTINCT metric FROM series lists them"),
        });
    }
    let written = if schema == "public" { table.to_owned() } else { name.to_owned() };
    if is_metric(table) {
        let metric = metric(table);
        return Some(format!("there is no table {written}; metrics are in the schema metrics: SELECT * FROM {metric}"));
    }
    if let Some(near) = nearest(table, TABLES) {
        return Some(format!("there is no table {written}; did you mean {near}?"));
    }
    if let Some(near) = nearest(table, metrics().iter().map(String::as_str)) {
        return Some(format!(
            "there is no table {written}; did you mean {}? Metrics are in the schema metrics",
            metric(near)
        ));
    }
    Some(format!("there is no table {written}; tables are {} and metrics.NAME for each metric", TABLES.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_quoted_where_it_has_to_be() {
        assert_eq!((quoted("up"), quoted("a.b"), quoted("1x")), ("up".into(), "\"a.b\"".into(), "\"1x\"".into()));
    }
}
