//! The gRPC port: `opentelemetry.proto.collector.metrics.v1.MetricsService`.
//!
//! The service is routed here and not by generated code, for what an export becomes is weighed before it is decoded, and the
//! bytes of requests under way come from the room that those of the HTTP port share.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

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
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Request, Response, Status};

use super::export_bytes_max;
use super::incoming::connections;
use super::weigh::weigh;
use crate::Gateway;
use crate::http::body::{BODY_TIMEOUT, BodyError, HeldRoom};
use crate::http::error::{retry_after_s, write_reason};
use crate::http::peers::RATE_BYTES;
use crate::rejections::{Door, Reason, cut};

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
                let path = cut(request.uri().path(), 200);
                let text = format!("there is no method {path}: this port takes OpenTelemetry metrics");
                gateway.rejections.request(Door::OtlpGrpc, Reason::Method, &text);
                return Ok(Status::unimplemented(text).into_http());
            }
            let limits = gateway.services.limits.get();
            let (sent_max, decoded_max) = export_bytes_max(&limits);
            let memory_max = limits.write_memory_bytes_max;
            let cause = WhyRejected::default();
            let mut grpc = Grpc::new(ExportCodec { memory_max, cause: cause.clone() })
                .max_decoding_message_size(decoded_max)
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd);
            let held = gateway.bodies.hold();
            let window = Duration::from_millis(limits.slow_client_ms_max).min(BODY_TIMEOUT);
            let request = request.map(|body| Rationed {
                body,
                held,
                sent_max,
                left: sent_max,
                began: Instant::now(),
                window,
                came: 0,
                judged: Box::pin(tokio::time::sleep(window)),
                cause: cause.clone(),
            });
            let mut response = grpc.unary(Export(Arc::clone(&gateway), cause.clone()), request).await;
            let Some(status) = Status::from_header_map(response.headers()) else { return Ok(response) };
            // A message that is too large is out of range, or exhausts a resource once decompressed: clients send both again and again.
            if matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted) {
                response.headers_mut().insert("grpc-status", HeaderValue::from(Code::InvalidArgument as i32));
            }
            if status.code() != Code::Ok {
                let reason = cause.get().copied().unwrap_or(by_code(status.code()));
                gateway.rejections.request(Door::OtlpGrpc, reason, status.message());
            }
            Ok(response)
        }
        .boxed()
    }
}

/// Why a request was rejected, said where that is known.
type WhyRejected = Arc<OnceLock<Reason>>;

/// Why a request was rejected by tonic itself.
fn by_code(code: Code) -> Reason {
    match code {
        Code::Unimplemented => Reason::Encoding,
        Code::OutOfRange | Code::ResourceExhausted => Reason::TooLarge,
        Code::InvalidArgument => Reason::Decode,
        Code::Cancelled | Code::Unknown => Reason::Broken,
        _ => Reason::Internal,
    }
}

/// All paths of the port: what is no method of the one service is counted, too.
#[derive(Clone)]
struct AllPaths(Metrics);

impl tower::Service<http::Request<axum::body::Body>> for AllPaths {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<axum::body::Body>) -> Self::Future {
        self.0.call(request.map(Body::new))
    }
}

struct Export(Arc<Gateway>, WhyRejected);

impl UnaryService<ExportMetricsServiceRequest> for Export {
    type Response = ExportMetricsServiceResponse;
    type Future = BoxFuture<'static, Result<Response<ExportMetricsServiceResponse>, Status>>;

    fn call(&mut self, request: Request<ExportMetricsServiceRequest>) -> Self::Future {
        let (gateway, cause) = (Arc::clone(&self.0), self.1.clone());
        async move {
            let done = super::export(&gateway, Door::OtlpGrpc, request.get_ref()).await;
            done.map(Response::new).map_err(|e| {
                let _ = cause.set(write_reason(&e));
                status(&e)
            })
        }
        .boxed()
    }
}

fn status(error: &WriteError) -> Status {
    match retry_after_s(error) {
        Some(seconds) => later(seconds, error.to_string()),
        None => Status::invalid_argument(error.to_string()),
    }
}

/// `google.rpc.Status`, of which tonic leaves the details to others.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<RpcAny>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcAny {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<RpcDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// "Send it again in so many seconds." Go reads it from the details of the status, Python from a trailer of its own.
fn later(seconds: u32, message: String) -> Status {
    let delay = RpcDuration { seconds: i64::from(seconds), nanos: 0 };
    let info = RetryInfo { retry_delay: Some(delay) }.encode_to_vec();
    let any = RpcAny { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value: info.clone() };
    let code = Code::Unavailable;
    let details = RpcStatus { code: code as i32, message: message.clone(), details: vec![any] }.encode_to_vec();
    let mut metadata = MetadataMap::new();
    metadata.insert_bin("google.rpc.retryinfo-bin", MetadataValue::from_bytes(&info));
    Status::with_details_and_metadata(code, message, details.into(), metadata)
}

/// Exports are weighed and then decoded.
#[derive(Clone)]
struct ExportCodec {
    memory_max: usize,
    cause: WhyRejected,
}

impl Codec for ExportCodec {
    type Encode = ExportMetricsServiceResponse;
    type Decode = ExportMetricsServiceRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
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
        let wrong = |why: String| {
            let _ = self.cause.set(Reason::Decode);
            Status::invalid_argument(format!("cannot decode the export: {why}"))
        };
        let message = message.copy_to_bytes(message.remaining());
        weigh(&message, self.memory_max).map_err(wrong)?;
        ExportMetricsServiceRequest::decode(message).map(Some).map_err(|e| wrong(e.to_string()))
    }
}

/// A body whose bytes are taken from the room that all share, and that has to come in time.
struct Rationed {
    body: Body,
    held: HeldRoom,
    /// Bytes that may come.
    sent_max: usize,
    /// Those that may still come.
    left: usize,
    began: Instant,
    /// Time in which the rate is measured.
    window: Duration,
    /// Bytes that came in the present one.
    came: usize,
    /// Its end.
    judged: Pin<Box<Sleep>>,
    cause: WhyRejected,
}

impl Rationed {
    /// Is the client too slow, in this window or in all?
    fn is_slow(&mut self, cx: &mut Context<'_>) -> bool {
        while self.judged.as_mut().poll(cx).is_ready() {
            let least = u128::from(RATE_BYTES) * self.window.as_millis() / 1000;
            if (self.came as u128) < least || self.began.elapsed() >= BODY_TIMEOUT {
                return true;
            }
            self.came = 0;
            self.judged.as_mut().reset(tokio::time::Instant::now() + self.window);
        }
        false
    }
}

impl http_body::Body for Rationed {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let this = &mut *self;
        let cause = Arc::clone(&this.cause);
        let refused = |e: BodyError| {
            let (reason, status) = match e {
                BodyError::TooLarge(_) => (Reason::TooLarge, Status::invalid_argument(e.to_string())),
                BodyError::Crowded => (Reason::BodiesFull, later(1, e.to_string())),
                _ => (Reason::Slow, later(1, e.to_string())),
            };
            let _ = cause.set(reason);
            Poll::Ready(Some(Err(status)))
        };
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, bytes::Bytes::len);
                this.came += bytes;
                let Some(left) = this.left.checked_sub(bytes) else {
                    return refused(BodyError::TooLarge(this.sent_max));
                };
                this.left = left;
                match this.held.take(bytes) {
                    Ok(()) => Poll::Ready(Some(Ok(frame))),
                    Err(e) => refused(e),
                }
            }
            Poll::Pending if this.is_slow(cx) => refused(BodyError::Slow),
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
    let rejections = Arc::clone(&gateway.rejections);
    let served = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(PING_AFTER))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .add_routes(axum::Router::new().fallback_service(AllPaths(Metrics(gateway))).into())
        .serve_with_incoming_shutdown(connections(listener, CONNECTIONS_MAX, rejections), shutdown.cancelled());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Python reads the trailer, Go the details; a code in them that is not the status's own is final for Go.
    #[test]
    fn when_to_come_again_is_said_twice() {
        let s = status(&WriteError::Poisoned("the log failed".into()));
        assert_eq!((s.code(), s.message()), (Code::Unavailable, "the log failed"));
        let details = RpcStatus::decode(s.details()).unwrap();
        assert_eq!((details.code, details.message.as_str()), (Code::Unavailable as i32, "the log failed"));
        assert_eq!(details.details[0].type_url, "type.googleapis.com/google.rpc.RetryInfo");
        let trailer = s.metadata().get_bin("google.rpc.retryinfo-bin").unwrap().to_bytes().unwrap();
        assert_eq!(trailer, details.details[0].value);
        assert_eq!(RetryInfo::decode(trailer).unwrap().retry_delay.unwrap(), RpcDuration { seconds: 5, nanos: 0 });
        for error in [WriteError::Rejected("wrong".into()), WriteError::SeriesLimit("full".into())] {
            let s = status(&error);
            assert_eq!((s.code(), s.details().len()), (Code::InvalidArgument, 0));
        }
        for error in [WriteError::Busy("full".into()), WriteError::DiskFull("full".into()), WriteError::Closed] {
            assert!((1..=5).contains(&retry_after_s(&error).unwrap()));
        }
    }
}
