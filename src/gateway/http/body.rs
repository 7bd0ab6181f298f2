//! Reading request bodies with a bound on size and on silence.

use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;

/// Longest silence between two pieces of a body.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Over the limit.
    #[error("request body is over the limit of {0} bytes")]
    TooLarge(usize),
    /// The client was silent for too long.
    #[error("request body did not arrive in time")]
    Slow,
    /// The connection broke.
    #[error("request body broke off: {0}")]
    Broken(String),
}

/// The whole body, at most `max` bytes.
pub async fn read_body(mut body: Body, max: usize) -> Result<Vec<u8>, BodyError> {
    let hint = http_body::Body::size_hint(&body);
    if hint.lower() > max as u64 {
        return Err(BodyError::TooLarge(max));
    }
    let mut out = Vec::with_capacity(usize::try_from(hint.lower()).unwrap_or(0).min(max));
    loop {
        match tokio::time::timeout(PIECE_TIMEOUT, body.frame()).await {
            Err(_) => return Err(BodyError::Slow),
            Ok(None) => return Ok(out),
            Ok(Some(Err(e))) => return Err(BodyError::Broken(e.to_string())),
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    if out.len() + data.len() > max {
                        return Err(BodyError::TooLarge(max));
                    }
                    out.extend_from_slice(data);
                }
            }
        }
    }
}
