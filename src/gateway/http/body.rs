//! Reading request bodies with a bound on size and on silence.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use http_body_util::BodyExt;

use crate::write::plain;

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

impl BodyError {
    /// The answer to it. What did not arrive whole says nothing about what was to be sent: 503, so that a client sends it again,
    /// which after 400 it would not.
    pub fn response(&self) -> Response<Body> {
        let code = match self {
            BodyError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Slow | BodyError::Broken(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        plain(code, self.to_string())
    }
}

/// The whole body, at most `max` bytes.
pub async fn read_body(body: Body, max: usize) -> Result<Vec<u8>, BodyError> {
    read_within(body, max, PIECE_TIMEOUT).await
}

async fn read_within(mut body: Body, max: usize, silence: Duration) -> Result<Vec<u8>, BodyError> {
    let hint = http_body::Body::size_hint(&body);
    if hint.lower() > max as u64 {
        return Err(BodyError::TooLarge(max));
    }
    let mut out = Vec::with_capacity(usize::try_from(hint.lower()).unwrap_or(0).min(max));
    loop {
        match tokio::time::timeout(silence, body.frame()).await {
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

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn body(pieces: Vec<Result<&'static [u8], std::io::Error>>) -> Body {
        Body::from_stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn what_is_sent_again_and_what_is_not() {
        assert_eq!(read_body(body(vec![Ok(b"ab"), Ok(b"c")]), 3).await.unwrap(), b"abc");
        let large = read_body(body(vec![Ok(b"ab"), Ok(b"cd")]), 3).await.unwrap_err();
        assert_eq!(large.response().status(), StatusCode::PAYLOAD_TOO_LARGE);
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let broken = read_body(body(vec![Ok(b"ab"), Err(reset)]), 3).await.unwrap_err();
        assert!(matches!(broken, BodyError::Broken(_)));
        assert_eq!(broken.response().status(), StatusCode::SERVICE_UNAVAILABLE);
        let silent = Body::from_stream(stream::pending::<Result<&'static [u8], std::io::Error>>());
        let slow = read_within(silent, 3, Duration::ZERO).await.unwrap_err();
        assert!(matches!(slow, BodyError::Slow));
        assert_eq!(slow.response().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
