//! What can go wrong with a query, named by what the caller can do.

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QueryError {
    /// The query or a parameter is wrong: change it. For a syntax error the text is Prometheus's own.
    #[error("{0}")]
    BadData(String),
    /// The query is well-formed but has no value on this data.
    #[error("{0}")]
    Execution(String),
    /// It would cost more than its limit allows.
    #[error("{0}")]
    CostLimit(String),
    /// It would hold more samples than `query_samples_max`: Prometheus calls that an execution error.
    #[error("query processing would load too many samples into memory in query execution")]
    SamplesLimit,
    /// It took longer than allowed.
    #[error("{0}")]
    Timeout(String),
    /// The client went away, or somebody stopped it.
    #[error("{0}")]
    Canceled(String),
    /// Too many queries at once: try again later.
    #[error("{0}")]
    Busy(String),
    /// Storage failed, or a bug.
    #[error("{0}")]
    Internal(String),
}

impl QueryError {
    /// An execution error.
    pub fn execution(text: impl Into<String>) -> Self {
        QueryError::Execution(text.into())
    }
}
