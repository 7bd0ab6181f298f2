//! `POST /v1/metrics` and `/api/v1/otlp/v1/metrics`: OTLP over HTTP, protobuf, gzip or zstd or none.

use std::io::Read;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message;
use quiver_model::labels::quoted;

use super::export_bytes_max;
use super::weigh::weigh;
use crate::Gateway;
use crate::http::body::receive_body;
use crate::http::error::{body_error, rejected, write_error};
use crate::http::media_type::MediaType;
use crate::rejections::{Door, Reason, cut};

/// Handles one export.
pub async fn handle(gateway: &Gateway, request: Request<Body>) -> Response<Body> {
    let content_type = header_text(&request, header::CONTENT_TYPE);
    let unsupported = |reason, what: &str, value: &str, expected: &str| {
        let text = format!("{what} {} is not supported, expected {expected}", quoted(cut(value, 200)));
        rejected(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason, text)
    };
    if !MediaType::parse(&content_type).is_ok_and(|m| m.essence == "application/x-protobuf") {
        return unsupported(Reason::ContentType, "content type", &content_type, "application/x-protobuf");
    }
    let encoding = header_text(&request, header::CONTENT_ENCODING).to_ascii_lowercase();
    if !["", "identity", "gzip", "zstd"].contains(&encoding.as_str()) {
        return unsupported(Reason::Encoding, "content encoding", &encoding, "gzip, zstd or none");
    }
    let limits = gateway.services.limits.get();
    let (sent_max, decoded_max) = export_bytes_max(&limits);
    let body = match receive_body(request.into_body(), sent_max, &gateway.bodies).await {
        Ok(b) => b,
        Err(e) => return body_error(&e),
    };
    let memory_max = limits.write_memory_bytes_max;
    let decoded = inflate(&encoding, body.bytes, decoded_max).and_then(|b| {
        weigh(&b, memory_max)?;
        ExportMetricsServiceRequest::decode(b.as_slice()).map_err(|e| e.to_string())
    });
    let export = match decoded {
        Ok(r) => r,
        Err(text) => {
            return rejected(StatusCode::BAD_REQUEST, Reason::Decode, format!("cannot decode the export: {text}"));
        }
    };
    match super::export(gateway, Door::OtlpHttp, &export).await {
        Err(e) => write_error(&e),
        Ok(answer) => {
            let mut r = Response::new(Body::from(answer.encode_to_vec()));
            r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
            r
        }
    }
}

fn header_text(request: &Request<Body>, name: HeaderName) -> String {
    let value = request.headers().get(name).map_or(&[][..], HeaderValue::as_bytes);
    String::from_utf8_lossy(value).trim().to_owned()
}

fn inflate(encoding: &str, body: Vec<u8>, bytes_max: usize) -> Result<Vec<u8>, String> {
    let max = bytes_max as u64;
    let mut out = Vec::new();
    let n = match encoding {
        "gzip" => flate2::read::MultiGzDecoder::new(body.as_slice()).take(max.saturating_add(1)).read_to_end(&mut out),
        "zstd" => {
            let mut d = zstd::stream::read::Decoder::new(body.as_slice()).map_err(|e| e.to_string())?;
            d.window_log_max(25).map_err(|e| e.to_string())?;
            d.take(max.saturating_add(1)).read_to_end(&mut out)
        }
        _ => return Ok(body),
    };
    let n = n.map_err(|e| format!("corrupt {encoding} data: {e}"))?;
    if n as u64 > max {
        return Err(format!("decompressed size is over the limit of {max} bytes"));
    }
    Ok(out)
}
