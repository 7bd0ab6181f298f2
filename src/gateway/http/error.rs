//! Errors of the API and the one table of their status codes.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use quiver_core::{ReadError, WriteError};
use quiver_query::QueryError;

use super::body::BodyError;
use super::json::Json;
use crate::rejections::{Cause, Reason};

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
    /// No room at this moment, or a request that did not come whole: to be sent again.
    ComeAgain(Reason),
    /// No such thing.
    NotFound,
    /// A page or a name that is not allowed.
    Forbidden,
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
            ErrorType::Unavailable | ErrorType::ComeAgain(_) => "unavailable",
            ErrorType::TooMany => "too_many_requests",
            ErrorType::NotFound => "not_found",
            ErrorType::Forbidden => "forbidden",
        }
    }

    /// Under its own name where it has one.
    fn reason(self) -> Reason {
        if let ErrorType::ComeAgain(reason) = self {
            return reason;
        }
        Reason::ALL.iter().copied().find(|r| r.label() == self.as_str()).unwrap_or(Reason::Other)
    }

    fn status(self) -> StatusCode {
        match self {
            ErrorType::BadData => StatusCode::BAD_REQUEST,
            ErrorType::Execution | ErrorType::CostLimit => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorType::Canceled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            ErrorType::Timeout | ErrorType::ComeAgain(_) => StatusCode::SERVICE_UNAVAILABLE,
            ErrorType::Internal | ErrorType::Unavailable => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorType::TooMany => StatusCode::TOO_MANY_REQUESTS,
            ErrorType::NotFound => StatusCode::NOT_FOUND,
            ErrorType::Forbidden => StatusCode::FORBIDDEN,
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

    /// The form or the statement of a request did not come.
    pub fn body(error: &BodyError) -> Self {
        let kind = match error {
            BodyError::TooLarge(_) | BodyError::Malformed(_) => ErrorType::BadData,
            BodyError::Crowded | BodyError::Slow | BodyError::Broken(_) => ErrorType::ComeAgain(body_reason(error)),
        };
        Self::new(kind, error.to_string())
    }

    /// A query's error; a query that does not parse is an invalid parameter.
    pub fn query(error: QueryError) -> Self {
        match error {
            QueryError::BadData(t) => Self::invalid_param("query", t),
            QueryError::Execution(t) => Self::new(ErrorType::Execution, t),
            QueryError::SamplesLimit => Self::new(ErrorType::Execution, error.to_string()),
            QueryError::CostLimit(t) => Self::new(ErrorType::CostLimit, t),
            QueryError::Timeout(t) => Self::new(ErrorType::Timeout, t),
            QueryError::Canceled(t) => Self::new(ErrorType::Canceled, t),
            QueryError::Busy(t) => Self::new(ErrorType::TooMany, t),
            QueryError::Internal(t) => Self::new(ErrorType::Internal, t),
        }
    }

    /// The body of the response.
    pub fn json(&self) -> Vec<u8> {
        let mut j = Json::default();
        j.raw(r#"{"status":"error","errorType":""#).raw(self.kind.as_str()).raw(r#"","error":"#);
        j.string(&bounded(&self.text)).raw("}");
        j.into_bytes()
    }

    /// The response with a status of its own.
    pub fn with_status(&self, code: StatusCode) -> Response<Body> {
        let mut r = self.response();
        *r.status_mut() = code;
        r
    }

    /// The response.
    pub fn response(&self) -> Response<Body> {
        let mut r = Response::new(Body::from(self.json()));
        *r.status_mut() = self.kind.status();
        r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if matches!(self.kind, ErrorType::TooMany | ErrorType::ComeAgain(_)) {
            r.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        r.extensions_mut().insert(Cause::new(self.kind.reason(), &self.text));
        r
    }
}

/// Bytes of an error's text at most.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Bytes kept of the beginning and of the end of a longer one.
const TEXT_BYTES_KEPT: [usize; 2] = [1 << 10, 512];

/// An error's text, cut in the middle where it repeats a long input.
pub fn bounded(text: &str) -> Cow<'_, str> {
    if text.len() <= TEXT_BYTES_MAX {
        return Cow::Borrowed(text);
    }
    let [first, last] = TEXT_BYTES_KEPT;
    let (head, tail) = (text.floor_char_boundary(first), text.ceil_char_boundary(text.len() - last));
    Cow::Owned(format!("{} … ({} bytes left out) … {}", &text[..head], tail - head, &text[tail..]))
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

/// How long to wait before a write is sent again, s; none where it would be refused again. At most 5: OTLP clients drop what
/// they are to send again after more than the ten seconds that they have.
pub fn retry_after_s(error: &WriteError) -> Option<u32> {
    match error {
        WriteError::Rejected(_) | WriteError::SeriesLimit(_) => None,
        WriteError::Busy(_) => Some(1),
        WriteError::DiskFull(_) | WriteError::Poisoned(_) | WriteError::Closed => Some(5),
    }
}

/// Why a write was not taken, for the counters.
pub fn write_reason(error: &WriteError) -> Reason {
    match error {
        WriteError::Rejected(_) => Reason::BadData,
        WriteError::SeriesLimit(_) => Reason::SeriesLimit,
        WriteError::Busy(_) => Reason::QueueFull,
        WriteError::DiskFull(_) => Reason::DiskFull,
        WriteError::Poisoned(_) => Reason::LogFailed,
        WriteError::Closed => Reason::ShuttingDown,
    }
}

/// The response to a write that was not taken. 400: it would not be taken later, either. (A sender that is told 429 for new
/// series past a limit sends them again for ever, and known series behind them.) 503: later, and not 429, after which
/// Prometheus and the OpenTelemetry Collector drop what they sent.
pub fn write_error(error: &WriteError) -> Response<Body> {
    let retry = retry_after_s(error);
    let code = if retry.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
    let mut r = rejected(code, write_reason(error), error.to_string());
    if let Some(seconds) = retry {
        r.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    r
}

/// A response in plain text to a write that was not taken, with the reason that is counted.
pub fn rejected(code: StatusCode, reason: Reason, text: impl Into<String>) -> Response<Body> {
    let text = text.into();
    let cause = Cause::new(reason, &text);
    let mut r = crate::write::plain(code, text);
    r.extensions_mut().insert(cause);
    r
}

fn body_reason(error: &BodyError) -> Reason {
    match error {
        BodyError::TooLarge(_) => Reason::TooLarge,
        BodyError::Crowded => Reason::BodiesFull,
        BodyError::Slow => Reason::Slow,
        BodyError::Malformed(_) => Reason::Decode,
        BodyError::Broken(_) => Reason::Broken,
    }
}

/// The response to the body of a write that did not come.
pub fn body_error(error: &BodyError) -> Response<Body> {
    let mut r = error.response();
    r.extensions_mut().insert(Cause::new(body_reason(error), &error.to_string()));
    if r.status() == StatusCode::SERVICE_UNAVAILABLE && !r.headers().contains_key(header::RETRY_AFTER) {
        r.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    r
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_does_not_repeat_a_long_input() {
        assert_eq!(bounded("short"), "short");
        let text = format!("cannot parse \"{}\" to a timestamp", "ä".repeat(500_000));
        let cut = bounded(&text);
        assert!(cut.len() < 2_000, "{}", cut.len());
        assert!(cut.starts_with("cannot parse \"ä") && cut.ends_with("ä\" to a timestamp"), "{cut}");
        assert!(cut.contains("bytes left out"));
    }
}
