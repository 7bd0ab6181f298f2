//! Connections to the gRPC port: as many at once as are allowed, each of which has to begin with HTTP/2 soon, and to read what
//! it is sent.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::StatusCode;
use futures::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::http::socket::refusal;
use crate::rejections::{Door, Reason, Rejections};

/// Time a client has for what a connection begins with.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Time a client may read nothing while bytes wait for it.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// The preface of HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// It and the head of the frame that follows.
const GREETING_BYTES: usize = PREFACE.len() + 9;

/// A connection, and its place among those that may be open.
pub struct Connection {
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
    /// Until when the greeting has to be there; none after that.
    greeting: Option<Pin<Box<Sleep>>>,
    /// What came of it and was not handed on.
    early: Vec<u8>,
    /// Until when something is to be read, while bytes wait.
    stall: Option<Pin<Box<Sleep>>>,
    rejections: Arc<Rejections>,
}

impl Connection {
    /// Tells a client that speaks HTTP/1, or nothing known, what this port is for.
    fn refuse(&mut self) -> io::Error {
        let text = "this port takes OTLP over gRPC (HTTP/2); OTLP over HTTP is sent to the HTTP port, POST /v1/metrics";
        self.rejections.request(Door::OtlpGrpc, Reason::Other, text);
        // It fits into a buffer that nothing was written into; if not, the connection closes without it.
        let _ = self.stream.try_write(&refusal(StatusCode::BAD_REQUEST, text));
        io::Error::new(io::ErrorKind::InvalidData, "this is not HTTP/2")
    }

    /// Waits for the greeting. Nothing is written before: a client of another protocol could not read it.
    fn poll_greeting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(deadline) = &mut self.greeting else { return Poll::Ready(Ok(())) };
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        while self.early.len() < GREETING_BYTES {
            let mut bytes = [0; GREETING_BYTES];
            let mut room = ReadBuf::new(&mut bytes[self.early.len()..]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
            if room.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.early.extend_from_slice(room.filled());
            let n = self.early.len().min(PREFACE.len());
            if self.early[..n] != PREFACE[..n] {
                return Poll::Ready(Err(self.refuse()));
            }
        }
        self.greeting = None;
        Poll::Ready(Ok(()))
    }

    /// Notes how a write went: a client that reads nothing for too long is an error.
    fn wrote(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            self.stall = None;
            return result;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL_TIMEOUT)));
        match stall.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The connections that `listener` accepts, at most `max` at a time.
pub fn connections(
    listener: TcpListener,
    max: usize,
    rejections: Arc<Rejections>,
) -> impl Stream<Item = io::Result<Connection>> {
    within(listener, max, GREETING_TIMEOUT, rejections)
}

fn within(
    listener: TcpListener,
    max: usize,
    timeout: Duration,
    rejections: Arc<Rejections>,
) -> impl Stream<Item = io::Result<Connection>> {
    let slots = Arc::new(Semaphore::new(max));
    stream::unfold((listener, slots, rejections), move |(listener, slots, rejections)| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                        rejections.request(Door::OtlpGrpc, Reason::TooMany, "too many connections are open");
                        continue;
                    };
                    let _ = stream.set_nodelay(true);
                    let greeting = Some(Box::pin(tokio::time::sleep(timeout)));
                    let connection = Connection {
                        stream,
                        _slot: slot,
                        greeting,
                        early: Vec::new(),
                        stall: None,
                        rejections: Arc::clone(&rejections),
                    };
                    return Some((Ok(connection), (listener, slots, rejections)));
                }
                Err(e) => {
                    // Out of descriptors and the like: wait for some to come back.
                    rejections.request(Door::OtlpGrpc, Reason::Other, &format!("cannot accept a connection: {e}"));
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    })
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_greeting(cx))?;
        if !this.early.is_empty() {
            let n = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early[..n]);
            this.early.drain(..n);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_greeting(cx))?;
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_greeting(cx))?;
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.wrote(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn connections_are_counted_and_have_to_begin() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut all = pin!(within(listener, 2, Duration::from_millis(1), Rejections::new()));
        // One that says nothing.
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut first = all.next().await.unwrap().unwrap();
        assert_eq!(first.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // One that begins; a third finds no place while two are open, and is closed.
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(PREFACE).await.unwrap();
        client.write_all(&[b'x'; 9]).await.unwrap();
        let mut second = all.next().await.unwrap().unwrap();
        second.greeting = Some(Box::pin(tokio::time::sleep(Duration::from_secs(60))));
        let mut read = [0; GREETING_BYTES];
        second.read_exact(&mut read).await.unwrap();
        assert!(second.greeting.is_none());
        let mut third = TcpStream::connect(address).await.unwrap();
        let closed = async { third.read(&mut [0; 1]).await };
        tokio::select! {
            _ = all.next() => panic!("there is no place for a third"),
            n = closed => assert!(n.map_or(true, |n| n == 0)),
        }
        drop(first);
        // One that speaks something else.
        let mut fourth = TcpStream::connect(address).await.unwrap();
        let mut other = all.next().await.unwrap().unwrap();
        other.greeting = Some(Box::pin(tokio::time::sleep(Duration::from_secs(60))));
        fourth.write_all(b"POST /v1/metrics HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(other.read_u8().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(other);
        let mut said = String::new();
        fourth.read_to_string(&mut said).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("gRPC"), "{said}");
    }
}
