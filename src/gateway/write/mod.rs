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
//!    be sent again, be it wrong or a new series past a limit; 5xx that nothing was, and that it is to be sent again. Never
//!    429: some senders drop what is answered so, others send it again for ever.

pub mod decode;
mod labels;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use quiver_core::{LATE_MS, WriteError, WriteReceipt, thread_cpu_ns};
use quiver_model::WriteBatch;
use quiver_model::labels::quoted;
use tokio::runtime::Runtime;

use self::decode::{DecodeOptions, DecodeScratch, Rejects, Version, decode};
use crate::Gateway;
use crate::http::body::receive_body;
use crate::http::error::{body_error, rejected, write_error};
use crate::http::media_type::MediaType;
use crate::rejections::{Door, PartlyKept, Reason, cut};

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
        Err(text) => return rejected(StatusCode::UNSUPPORTED_MEDIA_TYPE, Reason::ContentType, text),
    };
    let mut response = handle_version(gateway, version, request).await;
    // Whatever went wrong: a sender of 2.0 takes an answer without these headers for that of a receiver of 1.0.
    if version == Version::V2 && !response.headers().contains_key(SAMPLES_WRITTEN) {
        written_headers(response.headers_mut(), &WriteReceipt::default());
    }
    response
}

async fn handle_version(gateway: &Arc<Gateway>, version: Version, request: Request<Body>) -> Response<Body> {
    let encoding = match body_encoding(request.headers()) {
        Ok(e) => e,
        Err(text) => return rejected(StatusCode::UNSUPPORTED_MEDIA_TYPE, Reason::Encoding, text),
    };
    let line = request.extensions().get::<Line>().cloned().unwrap_or_default();
    let body_max = gateway.services.limits.get().write_body_bytes_max;
    let body = match receive_body(request.into_body(), body_max, &gateway.bodies).await {
        Ok(b) => b,
        Err(e) => return body_error(&e),
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
                Err(_) => return write_error(&WriteError::Closed),
            }
        }
    };
    let Decoded { batch, rejects: decoded } = decoded;
    let rejects = match decoded {
        Ok(r) => r,
        Err(text) => {
            let text = format!("cannot decode the write request: {text}");
            return rejected(StatusCode::BAD_REQUEST, Reason::Decode, text);
        }
    };
    let sent = batch.samples() as u64;
    let receipt = if batch.is_empty() {
        WriteReceipt::default()
    } else {
        let newest = batch.time_range().map_or(i64::MAX, |r| r.max);
        line.0.store(newest < now_ms.saturating_sub(LATE_MS), Ordering::Relaxed);
        match gateway.services.ingest.write(batch).await {
            Ok(r) => r,
            // All of its series are new and past a limit: as where some are.
            Err(WriteError::SeriesLimit(text)) => {
                WriteReceipt { refusal: Some(text.into()), ..WriteReceipt::default() }
            }
            Err(e) => return write_error(&e),
        }
    };
    let kept = receipt.floats + receipt.histograms;
    gateway.counters.samples.add(kept);
    for (reason, n, text) in &rejects.by_reason {
        gateway.rejections.parts(Door::RemoteWrite, *reason, "", *n, text);
    }
    if let Some(text) = &receipt.refusal {
        gateway.rejections.parts(Door::RemoteWrite, Reason::SeriesLimit, "", sent.saturating_sub(kept), text);
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
    let reasons = [(!rejects.is_empty()).then(|| rejects.text()), receipt.refusal.as_ref().map(|r| r.to_string())];
    let reasons: Vec<String> = reasons.into_iter().flatten().collect();
    let mut response = if reasons.is_empty() {
        status(StatusCode::NO_CONTENT)
    } else {
        let mut response = plain(StatusCode::BAD_REQUEST, reasons.join("\n"));
        response.extensions_mut().insert(PartlyKept);
        response
    };
    if version == Version::V2 {
        written_headers(response.headers_mut(), receipt);
    }
    response
}

const SAMPLES_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-samples-written");

fn written_headers(headers: &mut HeaderMap, r: &WriteReceipt) {
    headers.insert(SAMPLES_WRITTEN, HeaderValue::from(r.floats));
    headers.insert("x-prometheus-remote-write-histograms-written", HeaderValue::from(r.histograms));
    headers.insert("x-prometheus-remote-write-exemplars-written", HeaderValue::from(r.exemplars));
}

fn status(code: StatusCode) -> Response<Body> {
    let mut r = Response::new(Body::empty());
    *r.status_mut() = code;
    r
}

pub(crate) fn plain(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut text = crate::http::error::bounded(&text.into()).into_owned();
    text.push('\n');
    let mut r = Response::new(Body::from(text));
    *r.status_mut() = code;
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    r
}

/// The message a content type announces; remote write 1.0 where there is none.
fn message_version(headers: &HeaderMap) -> Result<Version, String> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Version::V1) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let text = text.trim();
    if text.is_empty() {
        return Ok(Version::V1);
    }
    let wrong = |why: &str| format!("content type {} is not supported: {why}", quoted(cut(text, 200)));
    let media_type = MediaType::parse(text).map_err(wrong)?;
    if media_type.essence != "application/x-protobuf" {
        return Err(wrong("application/x-protobuf is expected"));
    }
    match media_type.parameter("proto") {
        None | Some("prometheus.WriteRequest") => Ok(Version::V1),
        Some("io.prometheus.write.v2.Request") => Ok(Version::V2),
        Some(_) => Err(wrong("its message has to be prometheus.WriteRequest or io.prometheus.write.v2.Request")),
    }
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
        assert_eq!(of("Application/X-Protobuf;charset=utf-8"), Ok(Version::V1));
        assert_eq!(of("application/x-protobuf;proto=\"io.prometheus.write.v2.Request\""), Ok(Version::V2));
        for text in [
            "application/json",
            "application/x-protobuf;proto=other",
            "application/x-protobuf;proto=",
            "application/x-protobuf;;;=",
            "application/x-protobuf;",
            "application/x-protobuf;proto",
            "application/x-protobuf;proto=prometheus.WriteRequest;proto=io.prometheus.write.v2.Request",
            "application/x-protobuf, application/x-protobuf",
            "application/x-protobuf proto=prometheus.WriteRequest",
        ] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_declared_length_over_the_limit_allocates_nothing() {
        let bomb = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        let mut out = Vec::new();
        assert!(decompress(Encoding::Snappy, &bomb, 1 << 20, &mut out).unwrap_err().contains("over the limit"));
        assert_eq!(out.capacity(), 0);
    }
}
