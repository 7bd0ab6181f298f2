//! The gRPC port: `opentelemetry.proto.collector.metrics.v1.MetricsService`.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use quiver_core::WriteError;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::EXPORT_BYTES_MAX;
use crate::Gateway;

/// Time requests under way have to end after a shutdown began.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

struct Service(Arc<Gateway>);

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        super::export(&self.0, request.get_ref()).await.map(Response::new).map_err(status)
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

/// Serves until `shutdown`.
pub fn serve(listener: TcpListener, gateway: Arc<Gateway>, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
    Box::pin(run(listener, gateway, shutdown))
}

async fn run(listener: TcpListener, gateway: Arc<Gateway>, shutdown: CancellationToken) {
    let service = MetricsServiceServer::new(Service(gateway))
        .max_decoding_message_size(EXPORT_BYTES_MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd);
    let served = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), shutdown.cancelled());
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
