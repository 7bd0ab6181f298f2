//! The gRPC port: `opentelemetry.proto.collector.metrics.v1.MetricsService`.
//!
//! The service is routed here and not by generated code, for what an export becomes is weighed before it is decoded, and the
//! bytes of requests under way come from the room that those of the HTTP port share.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{self, HeaderValue};
use bytes::Buf;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body::Frame;
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use prost::Message;
use quiver_core::WriteError;
use tokio::net::TcpListener;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Code, Request, Response, Status};

use super::EXPORT_BYTES_MAX;
use super::incoming::connections;
use super::weigh::weigh;
use crate::Gateway;
use crate::http::body::{BODY_TIMEOUT, BodyError, HeldRoom};

/// Connections open at once.
const CONNECTIONS_MAX: usize = 12_000;
/// Requests under way on one connection.
const STREAMS_MAX: u32 = 100;
/// A client that is silent for so long is asked whether it is there,
const PING_AFTER: Duration = Duration::from_secs(60);
/// and has so long to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Time requests under way have to end after a shutdown began.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

const EXPORT: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

/// The service, with its one method.
#[derive(Clone)]
struct Metrics(Arc<Gateway>);

impl NamedService for Metrics {
    const NAME: &'static str = "opentelemetry.proto.collector.metrics.v1.MetricsService";
}

impl tower::Service<http::Request<Body>> for Metrics {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let gateway = Arc::clone(&self.0);
        async move {
            if request.uri().path() != EXPORT {
                return Ok(Status::unimplemented("there is no such method").into_http());
            }
            let memory_max = gateway.services.limits.get().write_memory_bytes_max;
            let mut grpc = Grpc::new(ExportCodec { memory_max })
                .max_decoding_message_size(EXPORT_BYTES_MAX)
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd);
            let held = gateway.bodies.hold();
            let request =
                request.map(|body| Rationed { body, held, deadline: Box::pin(tokio::time::sleep(BODY_TIMEOUT)) });
            let mut response = grpc.unary(Export(gateway), request).await;
            // A message that is too large was out of range, which clients send again and again.
            if Status::from_header_map(response.headers()).is_some_and(|s| s.code() == Code::OutOfRange) {
                response.headers_mut().insert("grpc-status", HeaderValue::from(Code::InvalidArgument as i32));
            }
            Ok(response)
        }
        .boxed()
    }
}

struct Export(Arc<Gateway>);

impl UnaryService<ExportMetricsServiceRequest> for Export {
    type Response = ExportMetricsServiceResponse;
    type Future = BoxFuture<'static, Result<Response<ExportMetricsServiceResponse>, Status>>;

    fn call(&mut self, request: Request<ExportMetricsServiceRequest>) -> Self::Future {
        let gateway = Arc::clone(&self.0);
        async move { super::export(&gateway, request.get_ref()).await.map(Response::new).map_err(status) }.boxed()
    }
}

fn status(error: WriteError) -> Status {
    let text = error.to_string();
    match error {
        WriteError::Rejected(_) => Status::invalid_argument(text),
        WriteError::SeriesLimit(_) => Status::resource_exhausted(text),
        WriteError::Busy(_) | WriteError::DiskFull(_) | WriteError::Poisoned(_) | WriteError::Closed => {
            Status::unavailable(text)
        }
    }
}

/// Exports are weighed and then decoded.
#[derive(Clone, Copy)]
struct ExportCodec {
    memory_max: usize,
}

impl Codec for ExportCodec {
    type Encode = ExportMetricsServiceResponse;
    type Decode = ExportMetricsServiceRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for ExportCodec {
    type Item = ExportMetricsServiceResponse;
    type Error = Status;

    fn encode(&mut self, answer: ExportMetricsServiceResponse, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        answer.encode(out).map_err(|e| Status::internal(e.to_string()))
    }
}

impl Decoder for ExportCodec {
    type Item = ExportMetricsServiceRequest;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<ExportMetricsServiceRequest>, Status> {
        let wrong = |why: String| Status::invalid_argument(format!("cannot decode the export: {why}"));
        let message = message.copy_to_bytes(message.remaining());
        weigh(&message, self.memory_max).map_err(wrong)?;
        ExportMetricsServiceRequest::decode(message).map(Some).map_err(|e| wrong(e.to_string()))
    }
}

/// A body whose bytes are taken from the room that all share, and that has to come in time.
struct Rationed {
    body: Body,
    held: HeldRoom,
    deadline: Pin<Box<Sleep>>,
}

impl http_body::Body for Rationed {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let this = &mut *self;
        let refused = |e: BodyError| Poll::Ready(Some(Err(Status::unavailable(e.to_string()))));
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => match this.held.take(frame.data_ref().map_or(0, bytes::Bytes::len)) {
                Ok(()) => Poll::Ready(Some(Ok(frame))),
                Err(e) => refused(e),
            },
            Poll::Pending if this.deadline.as_mut().poll(cx).is_ready() => refused(BodyError::Slow),
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Serves until `shutdown`.
pub fn serve(listener: TcpListener, gateway: Arc<Gateway>, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
    Box::pin(run(listener, gateway, shutdown))
}

async fn run(listener: TcpListener, gateway: Arc<Gateway>, shutdown: CancellationToken) {
    let served = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(PING_AFTER))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .add_service(Metrics(gateway))
        .serve_with_incoming_shutdown(connections(listener, CONNECTIONS_MAX), shutdown.cancelled());
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        result = served => {
            if let Err(e) = result {
                tracing::error!(error = %e, "the gRPC port failed");
            }
        }
        // A client that does not close its connection does not hold the end up.
        () = drained => {}
    }
}
