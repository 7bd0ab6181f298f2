//! The accept loop: connection cap, sweep of slow clients, drain on shutdown.

use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Response, header};
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::error::{ApiError, ErrorType};
use super::exchange::{Inbound, Leftover, Outbound, read_on};
use super::front;
use super::origin::{self, Decision};
use super::peers::{CloseReason, Peer, Phase, SWEEP_INTERVAL};
use super::socket::{HEAD_BYTES_MAX, Socket};
use super::watch::{self, door_of};
use crate::Gateway;
use crate::rejections::{Door, Reason};
use crate::write::Line;

/// Connections open at once, if there are descriptors for as many.
const CONNECTIONS_MAX: usize = 12_000;
/// Descriptors that stay free of connections: for files, and for the gRPC port. At most half of all.
const DESCRIPTORS_KEPT: usize = 1_000;
/// Time that a new connection waits for the place of an idle one.
const PLACE_TIMEOUT: Duration = Duration::from_millis(100);
/// Time between two lines in the log about slow clients.
const TELL_INTERVAL: Duration = Duration::from_secs(60);
/// Time requests under way have to end after a shutdown began.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `shutdown`, then lets requests under way end.
pub fn serve(
    listener: TcpListener,
    router: Router,
    gateway: Arc<Gateway>,
    shutdown: CancellationToken,
) -> BoxFuture<'static, ()> {
    Box::pin(run(listener, router, gateway, shutdown))
}

async fn run(listener: TcpListener, router: Router, gateway: Arc<Gateway>, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(connections_max(quiver_core::descriptors_max())));
    let mut told: Option<Instant> = None;
    let tasks = TaskTracker::new();
    let sweeping = tokio::spawn(sweep(Arc::clone(&gateway)));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            a = listener.accept() => a,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of descriptors and the like: those of silent connections come back.
                gateway.peers.close_silent();
                if told.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
                    tracing::warn!(error = %e, "cannot accept a connection");
                    told = Some(Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(slot) = place(&slots, &gateway).await else {
            gateway.rejections.request(Door::Api, Reason::TooMany, "too many connections are open");
            continue;
        };
        tasks.spawn(connected(stream, slot, router.clone(), Arc::clone(&gateway), shutdown.clone()));
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
    sweeping.abort();
}

/// Connections that may be open at once.
fn connections_max(descriptors: Option<u64>) -> usize {
    let Some(all) = descriptors.and_then(|n| usize::try_from(n).ok()) else { return CONNECTIONS_MAX };
    CONNECTIONS_MAX.min(all - DESCRIPTORS_KEPT.min(all / 2))
}

/// A place for a new connection: a free one, or that of a connection that has been idle for long.
async fn place(slots: &Arc<Semaphore>, gateway: &Gateway) -> Option<OwnedSemaphorePermit> {
    if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
        return Some(slot);
    }
    gateway.peers.close_idle();
    tokio::time::timeout(PLACE_TIMEOUT, Arc::clone(slots).acquire_owned()).await.ok()?.ok()
}

async fn sweep(gateway: Arc<Gateway>) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = (Instant::now() - TELL_INTERVAL, [0; CloseReason::SLOW.len()]);
    loop {
        ticks.tick().await;
        gateway.peers.sweep(gateway.services.limits.get().slow_client_ms_max);
        let closed = CloseReason::SLOW.map(|cause| gateway.peers.closed.of(cause));
        if closed != told.1 && told.0.elapsed() >= TELL_INTERVAL {
            let [slow_head, slow_reader, answer_room] = [0, 1, 2].map(|i| closed[i] - told.1[i]);
            tracing::warn!(slow_head, slow_reader, answer_room, "closed connections of slow clients");
            told = (Instant::now(), closed);
        }
    }
}

async fn connected(
    stream: TcpStream,
    slot: OwnedSemaphorePermit,
    router: Router,
    gateway: Arc<Gateway>,
    shutdown: CancellationToken,
) {
    let _open = Open::new(Arc::clone(&gateway));
    let is_local = stream.local_addr().is_ok_and(|a| a.ip().to_canonical().is_loopback());
    let socket = Socket::new(stream, &gateway.peers);
    let peer = Arc::clone(socket.peer());
    // A connection that says nothing takes no buffers.
    let begun = tokio::select! {
        () = socket.readable() => true,
        () = condemned(&peer) => false,
        () = shutdown.cancelled() => false,
    };
    if begun {
        let client = Client {
            router,
            gateway: Arc::clone(&gateway),
            peer,
            is_local,
            line: Line::default(),
            leftover: Leftover::default(),
        };
        serve_client(socket, client, shutdown).await;
    } else {
        drop(socket);
    }
    drop(slot);
}

/// A connection that is counted as open, also if its task panics.
struct Open(Arc<Gateway>);

impl Open {
    fn new(gateway: Arc<Gateway>) -> Self {
        gateway.counters.connections.fetch_add(1, Ordering::Relaxed);
        Self(gateway)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn condemned(peer: &Peer) {
    poll_fn(|cx| {
        peer.watch(cx.waker());
        if peer.is_over() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await
}

/// One connection, as its requests see it.
struct Client {
    router: Router,
    gateway: Arc<Gateway>,
    peer: Arc<Peer>,
    /// It came to a loopback address.
    is_local: bool,
    line: Line,
    leftover: Leftover,
}

/// Serves a connection. Boxed: a task is as large as all that it ever waits for.
fn serve_client(socket: Socket, client: Client, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
    served(socket, client, shutdown).boxed()
}

async fn served(socket: Socket, client: Client, shutdown: CancellationToken) {
    let client = Arc::new(client);
    let (peer, gateway) = (Arc::clone(&client.peer), Arc::clone(&client.gateway));
    let service = service_fn(move |request: hyper::Request<Incoming>| answered(Arc::clone(&client), request));
    let connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), service);
    tokio::pin!(connection);
    let mut stops = std::pin::pin!(shutdown.cancelled());
    let mut is_stopping = false;
    let ended = poll_fn(|cx| {
        peer.watch(cx.waker());
        if !is_stopping && stops.as_mut().poll(cx).is_ready() {
            is_stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        // A broken connection is the client's affair. A connection that is to be closed has its last word first.
        let done = connection.as_mut().poll(cx).is_ready();
        if done || peer.is_over() { Poll::Ready(()) } else { Poll::Pending }
    });
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        () = ended => {}
        () = drained => {}
    }
    if let Some((door, why)) = peer.misspoken.get() {
        gateway.rejections.request(*door, Reason::BadData, why);
    }
}

/// The answer to a request, on its way.
async fn answered(client: Arc<Client>, request: hyper::Request<Incoming>) -> Result<Response<Outbound>, Infallible> {
    let (g, peer) = (&client.gateway, &client.peer);
    g.counters.requests.add(1);
    peer.enter(Phase::Working);
    let (mut parts, body) = request.into_parts();
    let door = door_of(parts.uri.path());
    let body = Inbound::wrap(body, peer, &client.leftover, expects_continue(&parts.headers));
    let (answer, cors) = match decided(&client, &parts, door) {
        Ok(cors) => {
            parts.extensions.insert(client.line.clone());
            let mut answer = handled(client.router.clone(), hyper::Request::from_parts(parts, body)).await;
            watch::note(g, door, &mut answer);
            (answer, cors)
        }
        Err(answer) => {
            drop(body);
            (*answer, None)
        }
    };
    read_on(&client.leftover, peer);
    let refused = |e: String| g.rejections.request(door, Reason::AnswersFull, &e);
    let mut answer = Outbound::admit(answer, peer, &g.answers, refused).await;
    // Last: a page reads by it also that there was no room for the answer.
    origin::add(answer.headers_mut(), cors.as_ref());
    peer.answer_ended.store(false, Ordering::Relaxed);
    peer.enter(Phase::Answering);
    Ok(answer)
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Whose page may read the answer; an error where the request is answered before it is handled.
fn decided(
    client: &Client,
    parts: &axum::http::request::Parts,
    door: Door,
) -> Result<Option<origin::Cors>, Box<Response<Body>>> {
    let rejected = |reason, text: &str| client.gateway.rejections.request(door, reason, text);
    front::check(parts).map_err(|e| {
        rejected(Reason::BadData, &e.text);
        Box::new(e.response())
    })?;
    match origin::decide(parts, &client.gateway.services.allowed, client.is_local) {
        Decision::Go(cors) => Ok(cors),
        Decision::Answer(answer) => Err(Box::new(answer)),
        Decision::Refuse(error) => {
            rejected(Reason::Forbidden, &error.text);
            Err(Box::new(error.response()))
        }
    }
}

/// What the routes answer; a handler that panics is an internal error of its request.
async fn handled(router: Router, request: hyper::Request<Body>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let answer = AssertUnwindSafe(router.oneshot(request)).catch_unwind().await;
    match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(never)) => match never {},
        Err(_) => {
            tracing::error!(path, "a request handler panicked");
            ApiError::new(ErrorType::Internal, "unexpected error: the request handler panicked").response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_files() {
        let max = |n| connections_max(Some(n));
        assert_eq!([max(u64::MAX), max(65_536), max(12_500), max(1_024), max(256)], [12_000, 12_000, 11_500, 512, 128]);
        assert_eq!(connections_max(None), CONNECTIONS_MAX);
    }

    #[test]
    fn a_connection_that_says_nothing_is_small() {
        fn size<A, B, C, D, E, R>(_: fn(A, B, C, D, E) -> R) -> usize {
            size_of::<R>()
        }
        assert!(size(connected) <= 2 << 10, "{} bytes", size(connected));
    }
}
