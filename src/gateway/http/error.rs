//! Errors of the API and the one table of their status codes.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use quiver_core::{ReadError, WriteError};
use quiver_query::QueryError;

use super::json::Json;

/// `errorType` of the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// Wrong query or parameter.
    BadData,
    /// Evaluation failed.
    Execution,
    /// Over a cost limit.
    CostLimit,
    /// The client went away.
    Canceled,
    /// Out of time.
    Timeout,
    /// Storage failed, or a bug.
    Internal,
    /// Switched off.
    Unavailable,
    /// Too many at once.
    TooMany,
    /// No such thing.
    NotFound,
}

impl ErrorType {
    /// Its name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorType::BadData => "bad_data",
            ErrorType::Execution => "execution",
            ErrorType::CostLimit => "cost_limit",
            ErrorType::Canceled => "canceled",
            ErrorType::Timeout => "timeout",
            ErrorType::Internal => "internal",
            ErrorType::Unavailable => "unavailable",
            ErrorType::TooMany => "too_many_requests",
            ErrorType::NotFound => "not_found",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            ErrorType::BadData => StatusCode::BAD_REQUEST,
            ErrorType::Execution | ErrorType::CostLimit => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorType::Canceled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            ErrorType::Timeout => StatusCode::SERVICE_UNAVAILABLE,
            ErrorType::Internal | ErrorType::Unavailable => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorType::TooMany => StatusCode::TOO_MANY_REQUESTS,
            ErrorType::NotFound => StatusCode::NOT_FOUND,
        }
    }
}

/// An error answer of the API.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// Type.
    pub kind: ErrorType,
    /// Text.
    pub text: String,
}

impl ApiError {
    /// An error.
    pub fn new(kind: ErrorType, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// `bad_data`.
    pub fn bad_data(text: impl Into<String>) -> Self {
        Self::new(ErrorType::BadData, text)
    }

    /// `invalid parameter "x": …`
    pub fn invalid_param(name: &str, why: String) -> Self {
        Self::bad_data(format!("invalid parameter {}: {why}", quiver_model::labels::quoted(name)))
    }

    /// A query's error; a query that does not parse is an invalid parameter.
    pub fn query(error: QueryError) -> Self {
        match error {
            QueryError::BadData(t) => Self::invalid_param("query", t),
            QueryError::Execution(t) => Self::new(ErrorType::Execution, t),
            QueryError::CostLimit(t) => Self::new(ErrorType::CostLimit, t),
            QueryError::Timeout(t) => Self::new(ErrorType::Timeout, t),
            QueryError::Canceled(t) => Self::new(ErrorType::Canceled, t),
            QueryError::Busy(t) => Self::new(ErrorType::TooMany, t),
            QueryError::Internal(t) => Self::new(ErrorType::Internal, t),
        }
    }

    /// The response.
    pub fn response(&self) -> Response<Body> {
        let mut j = Json::default();
        j.raw(r#"{"status":"error","errorType":""#).raw(self.kind.as_str()).raw(r#"","error":"#);
        j.string(&self.text).raw("}");
        let mut r = Response::new(Body::from(j.into_bytes()));
        *r.status_mut() = self.kind.status();
        r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.kind == ErrorType::TooMany {
            r.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        r
    }
}

impl From<ReadError> for ApiError {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::Limit(t) => Self::new(ErrorType::Execution, t),
            ReadError::NotFound { .. } => Self::new(ErrorType::NotFound, e.to_string()),
            other => Self::new(ErrorType::Internal, other.to_string()),
        }
    }
}

/// The response to a write that was not taken.
pub fn write_error(error: &WriteError) -> Response<Body> {
    let (code, retry) = match error {
        WriteError::Rejected(_) => (StatusCode::BAD_REQUEST, None),
        WriteError::SeriesLimit(_) => (StatusCode::TOO_MANY_REQUESTS, Some("30")),
        // Not 429: Prometheus drops what is answered so, unless it is told otherwise.
        WriteError::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, Some("1")),
        WriteError::DiskFull(_) => (StatusCode::SERVICE_UNAVAILABLE, Some("5")),
        WriteError::Poisoned(_) | WriteError::Closed => (StatusCode::SERVICE_UNAVAILABLE, Some("30")),
    };
    let mut r = crate::write::plain(code, error.to_string());
    if let Some(seconds) = retry {
        r.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    r
}
