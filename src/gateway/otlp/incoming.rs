//! Connections to the gRPC port: as many at once as are allowed, each of which has to begin with HTTP/2 soon.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Time a client has for what a connection begins with.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// The preface of HTTP/2 and the head of the frame that follows (RFC 9113, 3.4).
const GREETING_BYTES: usize = 24 + 9;

/// A connection, and its place among those that may be open.
pub struct Connection {
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
    /// Bytes that came, and until when there are to be enough; none after that.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
}

/// The connections that `listener` accepts, at most `max` at a time.
pub fn connections(listener: TcpListener, max: usize) -> impl Stream<Item = io::Result<Connection>> {
    within(listener, max, GREETING_TIMEOUT)
}

fn within(listener: TcpListener, max: usize, timeout: Duration) -> impl Stream<Item = io::Result<Connection>> {
    let slots = Arc::new(Semaphore::new(max));
    stream::unfold((listener, slots), move |(listener, slots)| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
                    let _ = stream.set_nodelay(true);
                    let greeting = Some((0, Box::pin(tokio::time::sleep(timeout))));
                    return Some((Ok(Connection { stream, _slot: slot, greeting }), (listener, slots)));
                }
                Err(e) => {
                    // Out of descriptors and the like: wait for some to come back.
                    tracing::warn!(error = %e, "cannot accept a connection to the gRPC port");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    })
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some((_, deadline)) = &mut this.greeting
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if let Some((seen, _)) = &mut this.greeting {
            *seen += buf.filled().len() - before;
            if *seen >= GREETING_BYTES {
                this.greeting = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
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
        let mut all = pin!(within(listener, 2, Duration::from_millis(1)));
        // One that says nothing.
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut first = all.next().await.unwrap().unwrap();
        assert_eq!(first.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // One that begins; a third finds no place while two are open, and is closed.
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&[b'x'; GREETING_BYTES]).await.unwrap();
        let mut second = all.next().await.unwrap().unwrap();
        second.greeting = Some((0, Box::pin(tokio::time::sleep(Duration::from_secs(60)))));
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
        let _fourth = TcpStream::connect(address).await.unwrap();
        assert!(all.next().await.unwrap().is_ok());
    }
}
