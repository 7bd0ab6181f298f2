//! OpenTelemetry metrics: over gRPC (`grpc`) and HTTP/protobuf (`http`), by one conversion (`convert`, `names`).
//!
//! Both answer 200 with `partial_success` where some data points could not be kept, as the OTLP specification asks.

pub mod convert;
pub mod grpc;
pub mod http;
pub mod names;

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use quiver_core::WriteError;

use crate::Gateway;

/// Bytes of one export at most, decompressed.
pub const EXPORT_BYTES_MAX: usize = 64 << 20;

/// Converts and writes one export.
pub async fn export(
    gateway: &Gateway,
    request: &ExportMetricsServiceRequest,
) -> Result<ExportMetricsServiceResponse, WriteError> {
    let converted = convert::convert(request, &gateway.services.limits.get(), gateway.services.clock.now_ms());
    if !converted.batch.is_empty() {
        let receipt = gateway.services.ingest.write(converted.batch).await?;
        gateway.counters.samples.add(receipt.floats + receipt.histograms);
    }
    gateway.counters.samples_rejected.add(converted.rejected as u64);
    let partial_success = (converted.rejected > 0).then_some(ExportMetricsPartialSuccess {
        rejected_data_points: converted.rejected,
        error_message: converted.reasons,
    });
    Ok(ExportMetricsServiceResponse { partial_success })
}
