//! OpenTelemetry metrics: over gRPC (`grpc`, `incoming`) and HTTP/protobuf (`http`), weighed (`weigh`) and converted (`convert`,
//! `names`) in one way.
//!
//! Both answer 200 with `partial_success` where some data points could not be kept, as the OTLP specification asks.

pub mod convert;
pub mod grpc;
pub mod http;
mod incoming;
pub mod names;
mod weigh;

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use quiver_core::{WriteError, WriteReceipt};

use crate::Gateway;

/// Bytes of one export at most, decompressed.
pub const EXPORT_BYTES_MAX: usize = 64 << 20;

/// Converts and writes one export.
pub async fn export(
    gateway: &Gateway,
    request: &ExportMetricsServiceRequest,
) -> Result<ExportMetricsServiceResponse, WriteError> {
    let ingest = &gateway.services.ingest;
    let mut converted = convert::convert(request, &gateway.services.limits.get(), gateway.services.clock.now_ms());
    converted.batch.metadata.retain(|(family, m)| !ingest.has_metadata(family, m.into()));
    if !converted.batch.is_empty() {
        let sent = converted.batch.samples() as u64;
        let receipt = match ingest.write(converted.batch).await {
            // All of its series are new: as where some are. Sent again it would fit no better.
            Err(WriteError::SeriesLimit(text)) => {
                WriteReceipt { refusal: Some(text.into()), ..WriteReceipt::default() }
            }
            written => written?,
        };
        let kept = receipt.floats + receipt.histograms;
        gateway.counters.samples.add(kept);
        if let Some(refusal) = &receipt.refusal {
            converted.rejected += i64::try_from(sent.saturating_sub(kept)).unwrap_or(i64::MAX);
            converted.reasons.push_str(if converted.reasons.is_empty() { "" } else { "\n" });
            converted.reasons.push_str(refusal);
        }
    }
    gateway.counters.samples_rejected.add(converted.rejected as u64);
    let partial_success = (converted.rejected > 0).then_some(ExportMetricsPartialSuccess {
        rejected_data_points: converted.rejected,
        error_message: converted.reasons,
    });
    Ok(ExportMetricsServiceResponse { partial_success })
}
