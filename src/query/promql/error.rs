//! Parse errors: message and place, shown as Prometheus shows them.

use std::fmt;

use super::ast::Position;

/// One error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// What it is about.
    pub pos: Position,
    /// Line and column of `pos`, both from 1; `None` for an empty query.
    pub line_column: Option<(usize, usize)>,
    /// The message alone.
    pub message: String,
}

impl ParseError {
    pub(super) fn new(query: &str, pos: Position, message: impl Into<String>) -> Self {
        let line_column = (!query.is_empty()).then(|| pos.line_column(query));
        Self { pos, line_column, message: message.into() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line_column {
            Some((line, column)) => write!(f, "{line}:{column}: parse error: {}", self.message),
            None => write!(f, "unknown position: parse error: {}", self.message),
        }
    }
}

/// Why a query was refused. A syntax error comes alone; type errors come all together, at most [`ParseErrors::MAX`].
///
/// Shown as its first error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseErrors(Vec<ParseError>);

impl ParseErrors {
    /// The most errors kept.
    pub const MAX: usize = 16;

    pub(super) fn new(first: ParseError) -> Self {
        Self(vec![first])
    }

    pub(super) fn from_list(errors: Vec<ParseError>) -> Option<Self> {
        (!errors.is_empty()).then_some(Self(errors))
    }

    /// All errors, in the order they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, ParseError> {
        self.0.iter()
    }
}

impl fmt::Display for ParseErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.first().map_or(Ok(()), |e| e.fmt(f))
    }
}

impl std::error::Error for ParseErrors {}

impl From<ParseErrors> for crate::error::QueryError {
    fn from(e: ParseErrors) -> Self {
        crate::error::QueryError::BadData(e.to_string())
    }
}
