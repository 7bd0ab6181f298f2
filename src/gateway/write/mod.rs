//! `POST /api/v1/write`: Prometheus remote write 1.0 and 2.0.
//!
//! ```text
//! headers ─▶ content type and encoding judged (415) ─▶ declared length judged (400) ─▶ decompressed into a reused buffer
//!         ─▶ decoded in place ─▶ one WriteBatch ─▶ Ingest::write ─▶ 204 after the sync
//! ```
//!
//! What a client that wrote late samples sends next is decoded on a thread that lets others go first.
//!
//! Invariants
//! 1. Nothing is decompressed before content type, encoding and declared length were judged.
//! 2. 2xx means that everything was kept; 400 that the valid part was kept (the counts say how much) and the rest must not
//!    be sent again; 429 that a limit on series was met, and all but new series was kept; 5xx that nothing was.

pub mod decode;
mod labels;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use quiver_core::{LATE_MS, WriteError, WriteReceipt, thread_cpu_ns};
use quiver_model::WriteBatch;
use tokio::runtime::Runtime;

use self::decode::{DecodeOptions, DecodeScratch, Rejects, Version, decode};
use crate::Gateway;
use crate::http::body::receive_body;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Snappy's block format.
    Snappy,
    /// Zstandard.
    Zstd,
}

/// Buffers of a request, used again by the next.
#[derive(Default)]
pub struct Scratch {
    message: Vec<u8>,
    decode: DecodeScratch,
}

/// Scratches kept for the next requests.
const SCRATCHES_MAX: usize = 16;
/// One that grew beyond this is given back to the allocator.
const SCRATCH_BYTES_MAX: usize = 4 << 20;

/// A body as received becomes a batch: decompressed, parsed, checked. What cannot be understood is an error and nothing of
/// it is kept; what is only wrong in part is kept but for that part.
pub fn receive(
    version: Version,
    encoding: Encoding,
    body: &[u8],
    options: &DecodeOptions<'_>,
    scratch: &mut Scratch,
    batch: &mut WriteBatch,
) -> Result<Rejects, String> {
    decompress(encoding, body, options.limits.write_decoded_bytes_max, &mut scratch.message)?;
    decode(version, &scratch.message, options, &mut scratch.decode, batch).map_err(|e| e.to_string())
}

/// Handles one write request.
pub async fn handle(gateway: &Arc<Gateway>, request: Request<Body>) -> Response<Body> {
    let version = match message_version(request.headers()) {
        Ok(v) => v,
        Err(text) => return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text),
    };
    let encoding = match body_encoding(request.headers()) {
        Ok(e) => e,
        Err(text) => return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text),
    };
    let line = request.extensions().get::<Line>().cloned().unwrap_or_default();
    let body_max = gateway.services.limits.get().write_body_bytes_max;
    let body = match receive_body(request.into_body(), body_max, &gateway.bodies).await {
        Ok(b) => b,
        Err(e) => return e.response(),
    };
    let now_ms = gateway.services.clock.now_ms();
    let aside = gateway.aside.as_ref().and_then(|a| a.0.as_ref()).filter(|_| line.0.load(Ordering::Relaxed));
    let decoded = match aside {
        None => {
            let decoded = decode_body(gateway, version, encoding, &body.bytes, now_ms);
            drop(body);
            decoded
        }
        Some(aside) => {
            let gateway = Arc::clone(gateway);
            let work = move || decode_body(&gateway, version, encoding, &body.bytes, now_ms);
            match aside.spawn_blocking(work).await {
                Ok(decoded) => decoded,
                Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
                Err(_) => return plain(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down"),
            }
        }
    };
    let Decoded { batch, rejects: decoded } = decoded;
    let rejects = match decoded {
        Ok(r) => r,
        Err(text) => {
            gateway.counters.writes_rejected.add(1);
            return plain(StatusCode::BAD_REQUEST, format!("cannot decode the write request: {text}"));
        }
    };
    let receipt = if batch.is_empty() {
        WriteReceipt::default()
    } else {
        let newest = batch.time_range().map_or(i64::MAX, |r| r.max);
        line.0.store(newest < now_ms.saturating_sub(LATE_MS), Ordering::Relaxed);
        match gateway.services.ingest.write(batch).await {
            Ok(r) => r,
            Err(e) => return refused(version, &e),
        }
    };
    gateway.counters.samples.add(receipt.floats + receipt.histograms);
    gateway.counters.samples_rejected.add(rejects.count);
    if let Some(text) = &receipt.refusal {
        // Known series were kept; the new ones may come again when there is room.
        let mut response = crate::http::error::write_error(&WriteError::SeriesLimit(text.to_string()));
        if version == Version::V2 {
            written_headers(response.headers_mut(), &receipt);
        }
        return response;
    }
    answer(version, &receipt, &rejects)
}

/// What a connection has written last.
#[derive(Clone, Debug, Default)]
pub struct Line(Arc<AtomicBool>);

/// A thread for the decoding of late writes, which lets other threads go first: a client that writes what is long past mostly
/// goes on with it, and it is not to keep those waiting who write what is now.
#[derive(Debug)]
pub(crate) struct Aside(Option<Runtime>);

impl Aside {
    pub(crate) fn new() -> Option<Self> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.max_blocking_threads(1).thread_name("late-writes").on_thread_start(quiver_core::turns::yield_to_others);
        quiver_core::build_with_workers(&mut builder)
            .inspect_err(|e| tracing::warn!(error = %e, "late writes are decoded beside others"))
            .ok()
            .map(|r| Self(Some(r)))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // May be dropped inside another runtime, where waiting is not allowed.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A decoded body, or why it is none.
struct Decoded {
    batch: WriteBatch,
    rejects: Result<Rejects, String>,
}

fn decode_body(gateway: &Gateway, version: Version, encoding: Encoding, body: &[u8], now_ms: i64) -> Decoded {
    let options = DecodeOptions {
        limits: &gateway.services.limits.get(),
        now_ms,
        type_and_unit_labels: gateway.services.features.type_and_unit_labels,
        known: Some(&*gateway.services.ingest),
    };
    let mut scratch = gateway.scratches.lock().pop().unwrap_or_default();
    let mut batch = gateway.services.ingest.batch();
    let began = thread_cpu_ns();
    let rejects = receive(version, encoding, body, &options, &mut scratch, &mut batch);
    gateway.counters.decode_ns.add(thread_cpu_ns().saturating_sub(began));
    if scratch.message.capacity() <= SCRATCH_BYTES_MAX {
        let mut scratches = gateway.scratches.lock();
        if scratches.len() < SCRATCHES_MAX {
            scratches.push(scratch);
        }
    }
    Decoded { batch, rejects }
}

fn answer(version: Version, receipt: &WriteReceipt, rejects: &Rejects) -> Response<Body> {
    let mut response = if rejects.is_empty() {
        status(StatusCode::NO_CONTENT)
    } else {
        plain(StatusCode::BAD_REQUEST, rejects.text())
    };
    if version == Version::V2 {
        written_headers(response.headers_mut(), receipt);
    }
    response
}

fn refused(version: Version, error: &WriteError) -> Response<Body> {
    let mut response = crate::http::error::write_error(error);
    if version == Version::V2 {
        written_headers(response.headers_mut(), &WriteReceipt::default());
    }
    response
}

fn written_headers(headers: &mut HeaderMap, r: &WriteReceipt) {
    headers.insert("x-prometheus-remote-write-samples-written", HeaderValue::from(r.floats));
    headers.insert("x-prometheus-remote-write-histograms-written", HeaderValue::from(r.histograms));
    headers.insert("x-prometheus-remote-write-exemplars-written", HeaderValue::from(r.exemplars));
}

fn status(code: StatusCode) -> Response<Body> {
    let mut r = Response::new(Body::empty());
    *r.status_mut() = code;
    r
}

pub(crate) fn plain(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut text = text.into();
    text.push('\n');
    let mut r = Response::new(Body::from(text));
    *r.status_mut() = code;
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    r
}

/// The message a content type announces; remote write 1.0 where there is none.
fn message_version(headers: &HeaderMap) -> Result<Version, String> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Version::V1) };
    let text = value.to_str().unwrap_or("").trim();
    if text.is_empty() {
        return Ok(Version::V1);
    }
    let mut parts = text.split(';').map(str::trim);
    if !parts.next().unwrap_or("").eq_ignore_ascii_case("application/x-protobuf") {
        return Err(format!("content type {text:?} is not supported, expected application/x-protobuf"));
    }
    for parameter in parts {
        if let Some((key, value)) = parameter.split_once('=')
            && key.trim().eq_ignore_ascii_case("proto")
        {
            return match value.trim().trim_matches('"') {
                "prometheus.WriteRequest" => Ok(Version::V1),
                "io.prometheus.write.v2.Request" => Ok(Version::V2),
                other => Err(format!(
                    "protobuf message {other:?} is not supported, expected prometheus.WriteRequest or io.prometheus.write.v2.Request"
                )),
            };
        }
    }
    Ok(Version::V1)
}

fn body_encoding(headers: &HeaderMap) -> Result<Encoding, String> {
    let text = headers.get(header::CONTENT_ENCODING).map_or("", |v| v.to_str().unwrap_or("?")).trim();
    match text.to_ascii_lowercase().as_str() {
        "" | "snappy" => Ok(Encoding::Snappy),
        "zstd" => Ok(Encoding::Zstd),
        _ => Err(format!("content encoding {text:?} is not supported, expected snappy or zstd")),
    }
}

/// Decompresses into `out`; never allocates more than `max` bytes, whatever the body declares.
fn decompress(encoding: Encoding, body: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), String> {
    match encoding {
        Encoding::Snappy => {
            let declared = snap::raw::decompress_len(body).map_err(|e| format!("corrupt snappy data: {e}"))?;
            if declared > max {
                return Err(format!("declared decompressed size {declared} is over the limit of {max} bytes"));
            }
            // What is in it is written over.
            out.resize(declared, 0);
            let n = snap::raw::Decoder::new().decompress(body, out).map_err(|e| format!("corrupt snappy data: {e}"))?;
            out.truncate(n);
        }
        Encoding::Zstd => {
            use std::io::Read;
            out.clear();
            let mut d = zstd::stream::read::Decoder::new(body).map_err(|e| format!("corrupt zstd data: {e}"))?;
            d.window_log_max(25).map_err(|e| format!("corrupt zstd data: {e}"))?;
            let n = d.take(max as u64 + 1).read_to_end(out).map_err(|e| format!("corrupt zstd data: {e}"))?;
            if n > max {
                return Err(format!("decompressed size is over the limit of {max} bytes"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_judged_by_message() {
        let of = |s: &'static str| {
            let mut h = HeaderMap::new();
            h.insert(header::CONTENT_TYPE, HeaderValue::from_static(s));
            message_version(&h)
        };
        assert_eq!(message_version(&HeaderMap::new()), Ok(Version::V1));
        assert_eq!(of("application/x-protobuf"), Ok(Version::V1));
        assert_eq!(of("application/x-protobuf;proto=io.prometheus.write.v2.Request"), Ok(Version::V2));
        assert_eq!(of("application/x-protobuf; proto=prometheus.WriteRequest"), Ok(Version::V1));
        assert!(of("application/x-protobuf;proto=other").is_err());
        assert!(of("application/json").is_err());
    }

    #[test]
    fn a_declared_length_over_the_limit_allocates_nothing() {
        let bomb = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        let mut out = Vec::new();
        assert!(decompress(Encoding::Snappy, &bomb, 1 << 20, &mut out).unwrap_err().contains("over the limit"));
        assert_eq!(out.capacity(), 0);
    }
}
