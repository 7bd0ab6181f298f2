//! The socket of an HTTP connection, between the kernel and hyper.
//!
//! It notes what moves (see [`super::peers`]), and gives a body to the errors that hyper answers by itself: a head that does not
//! parse never reaches a handler, and hyper's own 400, 414 and 431 are empty. Bytes that hyper writes while no request is
//! under way can only be such an error.
//!
//! A URL with a raw quote or comparison sign (`query=up{job="a"} > 1`, as typed for `curl`) is escaped before hyper sees it, which
//! refuses what Go's servers take.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use axum::http::StatusCode;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::error::{ApiError, ErrorType};
use super::peers::{CloseReason, Peer, Peers, Phase, Place};
use crate::rejections::Door;

/// Bytes of a URL at most: what the `http` crate takes.
pub const URL_BYTES_MAX: usize = 65_534;
/// Bytes of the head of a request at most: the longest URL, and as much in headers.
pub const HEAD_BYTES_MAX: usize = 128 << 10;
/// Headers of a request at most: what hyper has room for.
pub const HEADERS_MAX: usize = 100;
/// Bytes read at once at most: hyper's buffer for a connection does not grow beyond.
const READ_BYTES_MAX: usize = (64 << 10) - 1;
/// Bytes of an answer that the kernel holds and has not sent yet, about: more waits here, where it is counted.
const KERNEL_BYTES_MAX: u32 = 128 << 10;
/// Bytes read and thrown away after a head was refused.
const LINGER_BYTES_MAX: usize = 4 << 20;

/// A socket and what is known of its peer.
pub struct Socket {
    // Before the stream: the place is given up while the socket is still open.
    place: Place,
    stream: TcpStream,
    /// Of the present head, its first line has come.
    has_line: bool,
    /// Of the present head, the URL has begun.
    in_url: bool,
    /// Bytes that came and were escaped, and how many of them were read.
    escaped: (Vec<u8>, usize),
    /// What is written in place of hyper's own answer.
    own: Option<Own>,
}

/// An answer without a request: its bytes, how many of them were written, how many were read and thrown away after it.
struct Own {
    bytes: Vec<u8>,
    written: usize,
    discarded: usize,
}

impl Socket {
    /// Takes a connection over.
    pub fn new(stream: TcpStream, peers: &Arc<Peers>) -> Self {
        let _ = stream.set_nodelay(true);
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(KERNEL_BYTES_MAX);
        #[cfg(not(target_os = "linux"))]
        let _ = SockRef::from(&stream).set_send_buffer_size(KERNEL_BYTES_MAX as usize);
        let place = peers.add(stream.as_raw_fd());
        Self { place, stream, has_line: false, in_url: false, escaped: (Vec::new(), 0), own: None }
    }

    /// What is known of the peer.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.place.peer
    }

    /// Something came, or the connection ended. (A new socket counts as readable until it was asked: it is looked at.)
    pub async fn readable(&self) {
        let _ = self.stream.peek(&mut [0]).await;
    }

    /// Notes what came; the bytes in its place if some had to be escaped.
    fn note(&mut self, came: &[u8]) -> Option<Vec<u8>> {
        let had_line = self.has_line && self.place.peer.phase() == Phase::Head;
        self.note_phase(came);
        if had_line || self.place.peer.phase() != Phase::Head {
            return None;
        }
        escape(came, &mut self.in_url)
    }

    /// Hands out bytes that were escaped; `false` if there are none.
    fn read_escaped(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let (bytes, at) = &mut self.escaped;
        let n = (bytes.len() - *at).min(buf.remaining()).min(READ_BYTES_MAX);
        buf.put_slice(&bytes[*at..*at + n]);
        *at += n;
        if *at == bytes.len() {
            bytes.clear();
            *at = 0;
        }
        n > 0
    }

    fn note_phase(&mut self, came: &[u8]) {
        let peer = &self.place.peer;
        peer.has_received(came.len());
        match peer.phase() {
            Phase::New | Phase::Idle if !peer.has_open_body() && !came.is_empty() => {
                (self.has_line, self.in_url) = (has_line(came), false);
                peer.enter(Phase::Head);
                if came.starts_with(b"PRI * HTTP/2") {
                    let why =
                        "HTTP/2 or gRPC on the HTTP port: OTLP over gRPC has a port of its own, see --grpc-listen";
                    let _ = peer.misspoken.set((Door::OtlpGrpc, why));
                }
            }
            Phase::Head if !self.has_line => self.has_line = has_line(came),
            _ => {}
        }
    }

    /// The answer in place of hyper's own, if these bytes begin one.
    fn replaced(&mut self, bytes: &[u8]) -> bool {
        if !matches!(self.place.peer.phase(), Phase::New | Phase::Idle | Phase::Head) || self.own.is_some() {
            return false;
        }
        let code =
            bytes.strip_prefix(b"HTTP/1.").and_then(|b| b.get(2..5)).and_then(|c| StatusCode::from_bytes(c).ok());
        let Some(code) = code.filter(StatusCode::is_client_error) else { return false };
        let bytes = match code {
            StatusCode::URI_TOO_LONG => too_long(),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE if !self.has_line => too_long(),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => refusal(
                code,
                &format!(
                    "the headers of the request are too many or too long: at most {HEADERS_MAX}, {HEAD_BYTES_MAX} bytes"
                ),
            ),
            _ => {
                refusal(code, "this is not a valid HTTP/1.1 request: its first line or one of its headers is malformed")
            }
        };
        self.place.count_malformed();
        let why = match code {
            StatusCode::URI_TOO_LONG => "the URL of a request is too long",
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "the headers of a request are too many or too long",
            _ => "the first line or a header of a request is malformed",
        };
        let _ = self.place.peer.misspoken.set((Door::Api, why));
        self.own = Some(Own { bytes, written: 0, discarded: 0 });
        true
    }

    /// Writes what is left of the answer in place of hyper's.
    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(own) = &mut self.own else { return Poll::Ready(Ok(())) };
        while own.written < own.bytes.len() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &own.bytes[own.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            own.written += n;
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(n)) => self.place.peer.has_sent(Some(*n)),
            Poll::Pending => self.place.peer.has_sent(None),
            Poll::Ready(Err(_)) => {}
        }
        result
    }
}

fn has_line(came: &[u8]) -> bool {
    came[line_start(came)..].contains(&b'\n')
}

/// Where the first line begins: empty lines before a request do not count.
fn line_start(came: &[u8]) -> usize {
    came.iter().position(|b| !b"\r\n".contains(b)).unwrap_or(came.len())
}

/// Bytes that Go takes in a URL as they are, and hyper does not.
const ESCAPED: &[u8; 4] = b"\"<>`";

/// The bytes with those of [`ESCAPED`] in the URL of the first line escaped; `None` if there are none. `in_url`: the URL has begun.
fn escape(came: &[u8], in_url: &mut bool) -> Option<Vec<u8>> {
    let start = if *in_url { 0 } else { line_start(came) };
    let end = came[start..].iter().position(|b| *b == b'\n').map_or(came.len(), |n| start + n);
    let url = if *in_url { 0 } else { came[start..end].iter().position(|b| *b == b' ').map(|n| start + n)? };
    *in_url = true;
    if !came[url..end].iter().any(|b| ESCAPED.contains(b)) {
        return None;
    }
    let mut out = Vec::with_capacity(came.len() + 64);
    out.extend_from_slice(&came[..url]);
    for b in &came[url..end] {
        if ESCAPED.contains(b) {
            out.extend_from_slice(format!("%{b:02X}").as_bytes());
        } else {
            out.push(*b);
        }
    }
    out.extend_from_slice(&came[end..]);
    Some(out)
}

fn too_long() -> Vec<u8> {
    let text = format!(
        "the URL is longer than {URL_BYTES_MAX} bytes: send the parameters by POST, as the body of a form \
         (Content-Type: application/x-www-form-urlencoded)"
    );
    refusal(StatusCode::URI_TOO_LONG, &text)
}

/// A whole response that closes the connection, with an error of the API as its body.
pub fn refusal(code: StatusCode, text: &str) -> Vec<u8> {
    let body = ApiError::new(ErrorType::BadData, text).json();
    let head = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        code.as_u16(),
        code.canonical_reason().unwrap_or(""),
        body.len()
    );
    [head.as_bytes(), &body].concat()
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.place.peer.verdict() == Some(CloseReason::SlowHead) {
            let text = "the headers of the request did not come in time";
            // It fits into a buffer that nothing was written into; if not, the connection closes without it.
            let _ = this.stream.try_write(&refusal(StatusCode::REQUEST_TIMEOUT, text));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if !this.escaped.0.is_empty() && this.read_escaped(buf) {
            return Poll::Ready(Ok(()));
        }
        if buf.remaining() <= READ_BYTES_MAX {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            if let Some(escaped) = this.note(&buf.filled()[before..]) {
                buf.set_filled(before);
                this.escaped = (escaped, 0);
                this.read_escaped(buf);
            }
            return Poll::Ready(Ok(()));
        }
        let mut room = ReadBuf::new(buf.initialize_unfilled_to(READ_BYTES_MAX));
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut room))?;
        let n = room.filled().len();
        match this.note(room.filled()) {
            Some(escaped) => {
                this.escaped = (escaped, 0);
                this.read_escaped(buf);
            }
            None => buf.advance(n),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.replaced(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if pieces.first().is_some_and(|p| self.replaced(p)) {
            return Poll::Ready(Ok(pieces.iter().map(|p| p.len()).sum()));
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        // hyper flushes when it has written all it has.
        let peer = &self.place.peer;
        if peer.phase() == Phase::Answering && peer.answer_ended.load(Relaxed) {
            peer.enter(Phase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_own(cx))?;
        if this.own.is_some() && this.place.peer.phase() != Phase::Closing {
            this.place.peer.enter(Phase::Closing);
        }
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        let Some(own) = &mut this.own else { return Poll::Ready(Ok(())) };
        // A socket that is closed while bytes wait in it resets the connection, and the client may never see the answer.
        let mut bytes = [0; 4096];
        while own.discarded < LINGER_BYTES_MAX {
            let mut room = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut room)) {
                Ok(()) if !room.filled().is_empty() => own.discarded += room.filled().len(),
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // What the kernel still holds for a peer that does not read is thrown away with the connection.
        if matches!(self.place.peer.verdict(), Some(CloseReason::SlowReader | CloseReason::AnswerRoom)) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_of_a_url_are_escaped() {
        let escaped = |parts: &[&str]| {
            let mut in_url = false;
            let parts =
                parts.iter().map(|p| escape(p.as_bytes(), &mut in_url).unwrap_or_else(|| p.as_bytes().to_vec()));
            String::from_utf8(parts.collect::<Vec<_>>().concat()).unwrap()
        };
        for (parts, want) in [
            (
                &["GET /?q=a{b=\"c\"}>1 HTTP/1.1\r\nx: \"y\"\r\n"][..],
                "GET /?q=a{b=%22c%22}%3E1 HTTP/1.1\r\nx: \"y\"\r\n",
            ),
            (&["\r\nGET /`<", ">\" HTTP/1.1\r\n"], "\r\nGET /%60%3C%3E%22 HTTP/1.1\r\n"),
            (&["GE", "T /\"", "\""], "GET /%22%22"),
            (&["\"GET\" / HTTP/1.1\r\n\""], "\"GET\" / HTTP/1.1\r\n\""),
            (&["GET / HTTP/1.1\r\n"], "GET / HTTP/1.1\r\n"),
        ] {
            assert_eq!(escaped(parts), want);
        }
    }

    #[test]
    fn a_line_is_one_after_empty_lines() {
        assert!(!has_line(b""));
        assert!(!has_line(b"\r\n\r\n"));
        assert!(!has_line(b"\r\nGET /"));
        assert!(has_line(b"\r\nGET / HTTP/1.1\r\n"));
    }
}
