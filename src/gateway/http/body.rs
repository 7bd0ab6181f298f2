//! Reading request bodies with a bound on size and on silence.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::exchange::TooSlow;
use crate::write::plain;

/// Time a whole body has. One that comes below the least rate is ended by the sweep long before.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(120);

/// So much of the length that a body claims is believed before it comes.
const CLAIMED_BYTES_MAX: usize = 1 << 20;

/// Room that the bodies of all requests under way share: writes, forms and statements.
pub struct BodyRoom {
    bytes_max: usize,
    free: Arc<Semaphore>,
}

impl BodyRoom {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> Self {
        let bytes_max = bytes.min(Semaphore::MAX_PERMITS);
        Self { bytes_max, free: Arc::new(Semaphore::new(bytes_max)) }
    }

    /// Bytes taken.
    pub fn used(&self) -> usize {
        self.bytes_max.saturating_sub(self.free.available_permits())
    }

    /// None of it so far, for one body.
    pub fn hold(&self) -> HeldRoom {
        HeldRoom { bytes_max: self.bytes_max, room: Arc::clone(&self.free), held: None }
    }
}

/// What one body has of the room; given back when it is dropped.
pub struct HeldRoom {
    bytes_max: usize,
    room: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl HeldRoom {
    /// Takes so many bytes more.
    pub fn take(&mut self, bytes: usize) -> Result<(), BodyError> {
        let has = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if has.saturating_add(bytes) > self.bytes_max {
            // Sent again it would fit no better.
            return Err(BodyError::TooLarge(self.bytes_max));
        }
        let more = u32::try_from(bytes).map_err(|_| BodyError::Crowded)?;
        let more = Arc::clone(&self.room).try_acquire_many_owned(more).map_err(|_| BodyError::Crowded)?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Over the limit.
    #[error("request body is over the limit of {0} bytes")]
    TooLarge(usize),
    /// The others take all the room.
    #[error("request bodies in flight exceed write_bodies_bytes_max: send this one again later")]
    Crowded,
    /// The client was too slow.
    #[error("request body did not arrive in time")]
    Slow,
    /// It does not parse: chunks without a size.
    #[error("request body is malformed: {0}")]
    Malformed(String),
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
            BodyError::Malformed(_) => StatusCode::BAD_REQUEST,
            BodyError::Crowded | BodyError::Slow | BodyError::Broken(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = plain(code, self.to_string());
        if matches!(self, BodyError::Crowded) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A body that arrived, and the room it takes.
pub struct Received {
    /// Its bytes.
    pub bytes: Vec<u8>,
    _held: HeldRoom,
}

impl Received {
    /// The room alone, for what was made of the bytes.
    pub fn emptied(mut self) -> Self {
        self.bytes = Vec::new();
        self
    }
}

/// The whole body of a request, at most `max` bytes, in `room`.
pub async fn receive_body(body: Body, max: usize, room: &BodyRoom) -> Result<Received, BodyError> {
    receive_within(BODY_TIMEOUT, body, max, room).await
}

async fn receive_within(time: Duration, body: Body, max: usize, room: &BodyRoom) -> Result<Received, BodyError> {
    let mut held = room.hold();
    match tokio::time::timeout(time, read_all(body, max, &mut held)).await {
        Ok(read) => read.map(|bytes| Received { bytes, _held: held }),
        Err(_) => Err(BodyError::Slow),
    }
}

async fn read_all(mut body: Body, max: usize, held: &mut HeldRoom) -> Result<Vec<u8>, BodyError> {
    let hint = http_body::Body::size_hint(&body);
    if hint.lower() > max as u64 {
        return Err(BodyError::TooLarge(max));
    }
    // A length that is claimed costs nothing: address space, which may be limited, is taken as bytes come.
    let mut out = Vec::with_capacity(usize::try_from(hint.lower()).unwrap_or(0).min(max).min(CLAIMED_BYTES_MAX));
    loop {
        match body.frame().await {
            None => return Ok(out),
            Some(Err(e)) => return Err(broken(&e)),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if out.len() + data.len() > max {
                        return Err(BodyError::TooLarge(max));
                    }
                    held.take(data.len())?;
                    out.extend_from_slice(data);
                }
            }
        }
    }
}

/// Why a body ended early: the client was slow, sent something that is not a body, or left. After the second it is not worth sending again.
fn broken(e: &axum::Error) -> BodyError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(e) = cause {
        if e.is::<TooSlow>() {
            return BodyError::Slow;
        }
        if let Some(io) = e.downcast_ref::<std::io::Error>()
            && matches!(io.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData)
        {
            return BodyError::Malformed(io.to_string());
        }
        cause = e.source();
    }
    BodyError::Broken(e.to_string())
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
        let room = BodyRoom::new(100);
        let read = async |body: Body| receive_body(body, 3, &room).await.map(|r| r.bytes);
        assert_eq!(read(body(vec![Ok(b"ab"), Ok(b"c")])).await.unwrap(), b"abc");
        let large = read(body(vec![Ok(b"ab"), Ok(b"cd")])).await.unwrap_err();
        assert_eq!(large.response().status(), StatusCode::PAYLOAD_TOO_LARGE);
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let broken = read(body(vec![Ok(b"ab"), Err(reset)])).await.unwrap_err();
        assert!(matches!(broken, BodyError::Broken(_)));
        assert_eq!(broken.response().status(), StatusCode::SERVICE_UNAVAILABLE);
        let chunk = std::io::Error::new(std::io::ErrorKind::InvalidInput, "Invalid chunk size line");
        let malformed = read(body(vec![Ok(b"ab"), Err(chunk)])).await.unwrap_err();
        assert_eq!(malformed.response().status(), StatusCode::BAD_REQUEST);
        let silent = Body::from_stream(stream::pending::<Result<&'static [u8], std::io::Error>>());
        let slow = receive_within(Duration::ZERO, silent, 3, &room).await.map(|r| r.bytes).unwrap_err();
        assert!(matches!(slow, BodyError::Slow));
        assert_eq!(slow.response().status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn all_bodies_share_the_room_and_give_it_back() {
        let room = BodyRoom::new(5);
        let read = async |pieces| receive_body(body(pieces), 100, &room).await;
        let first = read(vec![Ok(b"ab"), Ok(b"c")]).await.unwrap();
        let crowded = read(vec![Ok(b"ab"), Ok(b"c")]).await.err().unwrap();
        assert!(matches!(crowded, BodyError::Crowded));
        assert_eq!(crowded.response().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(crowded.response().headers()[header::RETRY_AFTER], "1");
        let second = read(vec![Ok(b"ab")]).await.unwrap();
        drop((first, second));
        assert_eq!(read(vec![Ok(b"abcde")]).await.unwrap().bytes, b"abcde");
    }
}
