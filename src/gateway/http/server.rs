//! The accept loop: connection cap, header deadline, drain on shutdown.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::error::{ApiError, ErrorType};
use crate::Gateway;
use crate::write::Line;

/// Connections open at once.
const CONNECTIONS_MAX: usize = 12_000;
/// Time a client has for the headers of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
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
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            a = listener.accept() => a,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of descriptors and the like: wait for some to come back.
                tracing::warn!(error = %e, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let _ = stream.set_nodelay(true);
        let (router, gateway, shutdown) = (router.clone(), Arc::clone(&gateway), shutdown.clone());
        tasks.spawn(async move {
            gateway.counters.connections.fetch_add(1, Ordering::Relaxed);
            let counted = Arc::clone(&gateway);
            let line = Line::default();
            let service = service_fn(move |mut request: hyper::Request<Incoming>| {
                counted.counters.requests.add(1);
                request.extensions_mut().insert(line.clone());
                answered(router.clone(), request)
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_headers(100)
                .max_buf_size(64 << 10)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                // A broken connection is the client's affair.
                _ = connection.as_mut() => {}
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = tokio::time::timeout(DRAIN_TIMEOUT, connection).await;
                }
            }
            gateway.counters.connections.fetch_sub(1, Ordering::Relaxed);
            drop(slot);
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// The answer to a request; a handler that panics is an internal error of its request.
async fn answered(router: Router, request: hyper::Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let answer = AssertUnwindSafe(router.oneshot(request.map(Body::new))).catch_unwind().await;
    answer.unwrap_or_else(|_| {
        tracing::error!(path, "a request handler panicked");
        Ok(ApiError::new(ErrorType::Internal, "unexpected error: the request handler panicked").response())
    })
}
