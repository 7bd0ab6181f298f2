//! OpenTelemetry metrics: over gRPC (`grpc`, `incoming`) and HTTP/protobuf (`http`), weighed (`weigh`) and converted (`convert`)
//! in one way.
//!
//! ```text
//! convert ─▶ names, text, labels     what a point becomes       streams       which points fall on one series and time
//!         └▶ target_info             what a resource becomes    partial       what is left out, and what is said of it
//! ```
//!
//! Both answer 200 with `partial_success` if some data points were rejected, as the OTLP specification asks.

pub mod convert;
pub mod grpc;
pub mod http;
mod incoming;
mod labels;
pub mod names;
mod partial;
mod streams;
mod target_info;
#[cfg(test)]
mod tests;
mod text;
mod weigh;

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use quiver_core::{WriteError, WriteReceipt};
use quiver_model::Limits;

use self::convert::{ConvertOptions, convert};
pub use self::partial::Partial;
use crate::Gateway;
use crate::rejections::{Door, Reason};

/// Bytes of one export at most: as it is sent, and decompressed. Twice those of a remote write, which says the same in fewer.
pub(crate) fn export_bytes_max(limits: &Limits) -> (usize, usize) {
    (limits.write_body_bytes_max.saturating_mul(2), limits.write_decoded_bytes_max.saturating_mul(2))
}

/// Converts and writes one export.
pub async fn export(
    gateway: &Gateway,
    door: Door,
    request: &ExportMetricsServiceRequest,
) -> Result<ExportMetricsServiceResponse, WriteError> {
    let ingest = &gateway.services.ingest;
    let mut batch = ingest.batch();
    let mut converted = {
        let limits = gateway.services.limits.get();
        let lookback_ms = gateway.services.engine.options().lookback_ms;
        let options = ConvertOptions { limits: &limits, now_ms: gateway.services.clock.now_ms(), lookback_ms };
        convert(request, options, &mut batch)
    };
    batch.metadata.retain(|(family, m)| !ingest.has_metadata(family, m.into()));
    if !batch.is_empty() {
        let sent = batch.samples() as u64;
        let receipt = match ingest.write(batch).await {
            // All of its series are new: as where some are. Sent again it would fit no better.
            Err(WriteError::SeriesLimit(text)) => {
                WriteReceipt { refusal: Some(text.into()), ..WriteReceipt::default() }
            }
            written => written?,
        };
        let kept = receipt.floats + receipt.histograms;
        gateway.counters.samples.add(kept);
        if let Some(refusal) = &receipt.refusal {
            // A histogram is a point of many samples: no more points are lost than were sent.
            let lost = usize::try_from(sent.saturating_sub(kept)).unwrap_or(usize::MAX);
            let metrics = request.resource_metrics.iter().flat_map(|r| &r.scope_metrics).flat_map(|s| &s.metrics);
            let points: usize = metrics.map(convert::points_of).sum();
            let rest = points.saturating_sub(usize::try_from(converted.partial.points).unwrap_or(usize::MAX));
            let lost = lost.min(rest);
            converted.partial.points(Reason::SeriesLimit, "", lost, || refusal.to_string());
        }
    }
    gateway.counters.superseded.add(converted.superseded);
    gateway.counters.target_info_thinned.add(converted.thinned);
    converted.partial.report(door, &gateway.rejections);
    let partial_success = converted.partial.message().map(|error_message| ExportMetricsPartialSuccess {
        rejected_data_points: i64::try_from(converted.partial.points).unwrap_or(i64::MAX),
        error_message,
    });
    Ok(ExportMetricsServiceResponse { partial_success })
}
