//! The bodies of one request and its answer, as the connection moves them.
//!
//! A handler that refuses a request drops its body unread. The rest of it is then read and thrown away for a bounded while: a client
//! that is still sending sees the answer, where a connection closed under it would be a broken pipe.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;

use super::answers::{AnswerRoom, NoRoom, TINY_BYTES, Taken};
use super::error::{ApiError, ErrorType};
use super::peers::{CloseReason, Peer};
use crate::rejections::Reason;

/// Bytes of a refused body that are read on.
const REST_BYTES_MAX: usize = 64 << 20;
/// Time for it.
const REST_TIMEOUT: Duration = Duration::from_secs(20);

/// The client was slower than it may be.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("request body comes too slowly: less than {} bytes a second", super::peers::RATE_BYTES)]
pub struct TooSlow;

/// Where a body that was not read is left.
pub type Leftover = Arc<Mutex<Option<Incoming>>>;

/// The body of a request, which leaves what was not read of it.
pub struct Inbound {
    body: Option<Incoming>,
    peer: Arc<Peer>,
    leftover: Leftover,
    /// The client waits for 100 Continue, which reading would ask for.
    is_held_back: bool,
}

impl Inbound {
    /// A body as a handler gets it.
    pub fn wrap(body: Incoming, peer: &Arc<Peer>, leftover: &Leftover, expects_continue: bool) -> Body {
        if body.is_end_stream() {
            return Body::empty();
        }
        peer.body_begins();
        let (peer, leftover) = (Arc::clone(peer), Arc::clone(leftover));
        Body::new(Self { body: Some(body), peer, leftover, is_held_back: expects_continue })
    }
}

impl http_body::Body for Inbound {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        this.is_held_back = false;
        let polled = Pin::new(body).poll_frame(cx);
        this.peer.body_wanted.store(polled.is_pending(), Relaxed);
        match polled {
            Poll::Pending if this.peer.verdict() == Some(CloseReason::SlowBody) => {
                this.body = None;
                this.peer.body_ends();
                Poll::Ready(Some(Err(TooSlow.into())))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(end) => {
                this.body = None;
                this.peer.body_ends();
                Poll::Ready(end.map(|r| r.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.peer.body_wanted.store(false, Relaxed);
        match self.body.take() {
            Some(body) if !body.is_end_stream() && !self.is_held_back => *self.leftover.lock() = Some(body),
            Some(_) => self.peer.body_ends(),
            None => {}
        }
    }
}

/// Reads on what a handler has left of a body, for a while.
pub fn read_on(leftover: &Leftover, peer: &Arc<Peer>) {
    let Some(mut body) = leftover.lock().take() else { return };
    let peer = Arc::clone(peer);
    tokio::spawn(async move {
        let all = async {
            let mut bytes = 0;
            while let Some(Ok(frame)) = body.frame().await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                if bytes > REST_BYTES_MAX {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(REST_TIMEOUT, all).await;
        peer.body_ends();
    });
}

/// The body of an answer on its way out.
pub struct Outbound {
    body: Body,
    peer: Arc<Peer>,
    room: Arc<AnswerRoom>,
    /// Room for all of it, where its size is known.
    taken: Option<Arc<Taken>>,
    /// A piece of a body of unknown size that waits for room.
    waiting: Option<(Bytes, BoxFuture<'static, Result<Taken, NoRoom>>)>,
}

impl Outbound {
    /// An answer with room for its bytes. If there is not enough room, a 503 instead, and `refused` is called.
    pub async fn admit(
        answer: Response<Body>,
        peer: &Arc<Peer>,
        room: &Arc<AnswerRoom>,
        refused: impl FnOnce(String),
    ) -> Response<Self> {
        let mut answer = answer;
        let mut taken = None;
        if let Some(n) =
            answer.body().size_hint().exact().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > TINY_BYTES)
        {
            match room.take(peer, n).await {
                Ok(t) => taken = Some(Arc::new(t)),
                Err(e) => {
                    answer = ApiError::new(ErrorType::ComeAgain(Reason::AnswersFull), e.to_string()).response();
                    refused(e.to_string());
                }
            }
        }
        if peer.verdict() == Some(CloseReason::SlowBody) {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer.map(|body| Self { body, peer: Arc::clone(peer), room: Arc::clone(room), taken, waiting: None })
    }
}

impl http_body::Body for Outbound {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = &mut *self;
        if this.waiting.is_none() {
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other.map(|r| r.map_err(Into::into))),
            };
            let bytes = match frame.into_data() {
                Ok(bytes) => bytes,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            if bytes.len() <= TINY_BYTES {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if let Some(taken) = &this.taken {
                return Poll::Ready(Some(Ok(Frame::data(Arc::clone(taken).over(bytes)))));
            }
            if let Some(taken) = this.room.try_take(&this.peer, bytes.len()) {
                return Poll::Ready(Some(Ok(Frame::data(Arc::new(taken).over(bytes)))));
            }
            let (room, peer, n) = (Arc::clone(&this.room), Arc::clone(&this.peer), bytes.len());
            this.waiting = Some((bytes, async move { room.take(&peer, n).await }.boxed()));
        }
        let Some((_, taking)) = &mut this.waiting else { return Poll::Ready(None) };
        let taken = ready!(taking.as_mut().poll(cx));
        let bytes = this.waiting.take().map(|(bytes, _)| bytes).unwrap_or_default();
        // The connection breaks off, so that nobody takes a part for the whole.
        Poll::Ready(Some(taken.map(|t| Frame::data(Arc::new(t).over(bytes))).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.peer.answer_ended.store(true, Relaxed);
    }
}
