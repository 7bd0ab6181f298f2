//! A small S3-compatible service in memory, for tests and for the example that measures tiers: what Quiver asks for and
//! nothing more. It checks the hash of every body; signatures are checked by unit tests against published examples.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;

/// The service.
#[derive(Default)]
pub struct S3Server {
    objects: Mutex<BTreeMap<String, Bytes>>,
    uploads: Mutex<BTreeMap<String, BTreeMap<u32, Bytes>>>,
    latency_us: AtomicU64,
    page: AtomicU64,
    /// Requests that answer 503 before anything else happens.
    failing: AtomicU64,
    requests: AtomicU64,
    is_unconditional: AtomicBool,
    is_read_only: AtomicBool,
}

type Answer = Response<Full<Bytes>>;

fn answer(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

fn refusal(status: StatusCode, code: &str) -> Answer {
    answer(status, format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>so it is</Message></Error>"))
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        match (bytes[i], hex) {
            (b'%', Some(b)) => {
                out.push(b);
                i += 3;
            }
            (b, _) => {
                out.push(b);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl S3Server {
    /// Starts it on a port of its own.
    pub async fn start() -> std::io::Result<(Arc<Self>, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = Arc::new(Self::default());
        server.page.store(1000, Ordering::Relaxed);
        let shared = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let server = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let server = Arc::clone(&server);
                        async move { Ok::<_, Infallible>(server.serve(request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok((server, address))
    }

    /// Every request takes so long.
    pub fn set_latency(&self, latency: Duration) {
        self.latency_us.store(latency.as_micros() as u64, Ordering::Relaxed);
    }

    /// Objects on a page of a list.
    pub fn set_page(&self, objects: u64) {
        self.page.store(objects, Ordering::Relaxed);
    }

    /// The next so many requests fail.
    pub fn fail_next(&self, requests: u64) {
        self.failing.store(requests, Ordering::Relaxed);
    }

    /// Ignores `If-None-Match`, as some services did.
    pub fn be_unconditional(&self) {
        self.is_unconditional.store(true, Ordering::Relaxed);
    }

    /// Refuses everything that changes something.
    pub fn set_read_only(&self, is_read_only: bool) {
        self.is_read_only.store(is_read_only, Ordering::Relaxed);
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Names and lengths of what it holds.
    pub fn objects(&self) -> Vec<(String, u64)> {
        self.objects.lock().iter().map(|(k, v)| (k.clone(), v.len() as u64)).collect()
    }

    /// Multipart uploads that were neither completed nor aborted.
    pub fn open_uploads(&self) -> usize {
        self.uploads.lock().len()
    }

    async fn serve(&self, request: Request<Incoming>) -> Answer {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let latency = self.latency_us.load(Ordering::Relaxed);
        if latency > 0 {
            tokio::time::sleep(Duration::from_micros(latency)).await;
        }
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await.map(|b| b.to_bytes()) else {
            return refusal(StatusCode::BAD_REQUEST, "IncompleteBody");
        };
        let fewer = |n: u64| n.checked_sub(1);
        if self.failing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok() {
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
        }
        let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
        if !header("authorization").starts_with("AWS4-HMAC-SHA256 Credential=") {
            return refusal(StatusCode::FORBIDDEN, "AccessDenied");
        }
        if self.is_read_only.load(Ordering::Relaxed) && !matches!(head.method, Method::GET | Method::HEAD) {
            return refusal(StatusCode::FORBIDDEN, "AccessDenied");
        }
        let hash = ring::digest::digest(&ring::digest::SHA256, &body);
        let hash: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        if header("x-amz-content-sha256") != hash {
            return refusal(StatusCode::BAD_REQUEST, "XAmzContentSHA256Mismatch");
        }
        let query: BTreeMap<String, String> = head
            .uri
            .query()
            .unwrap_or("")
            .split('&')
            .filter(|p| !p.is_empty())
            .map(|p| p.split_once('=').unwrap_or((p, "")))
            .map(|(n, v)| (decoded(n), decoded(v)))
            .collect();
        let path = decoded(head.uri.path());
        let path = path.trim_start_matches('/');
        let Some((_bucket, key)) = path.split_once('/') else { return self.list(&query) };
        match (&head.method, query.get("uploadId")) {
            (&Method::POST, None) if query.contains_key("uploads") => {
                let id = format!("{key} {}", self.requests());
                self.uploads.lock().insert(id.clone(), BTreeMap::new());
                let id = escaped(&id);
                let body =
                    format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
                answer(StatusCode::OK, body)
            }
            (&Method::PUT, Some(id)) => {
                let number = query.get("partNumber").and_then(|n| n.parse().ok()).unwrap_or(0);
                let mut uploads = self.uploads.lock();
                let Some(parts) = uploads.get_mut(id) else { return refusal(StatusCode::NOT_FOUND, "NoSuchUpload") };
                parts.insert(number, body);
                let mut response = answer(StatusCode::OK, "");
                response.headers_mut().insert("etag", hyper::header::HeaderValue::from_static("\"part\""));
                response
            }
            (&Method::POST, Some(id)) => {
                let Some(parts) = self.uploads.lock().remove(id) else {
                    return refusal(StatusCode::NOT_FOUND, "NoSuchUpload");
                };
                let whole: Vec<u8> = parts.values().flat_map(|p| p.iter().copied()).collect();
                self.objects.lock().insert(key.to_owned(), whole.into());
                answer(StatusCode::OK, "<CompleteMultipartUploadResult/>")
            }
            (&Method::DELETE, Some(id)) => {
                self.uploads.lock().remove(id);
                answer(StatusCode::NO_CONTENT, "")
            }
            (&Method::PUT, None) => {
                let mut objects = self.objects.lock();
                let only_new = header("if-none-match") == "*" && !self.is_unconditional.load(Ordering::Relaxed);
                if only_new && objects.contains_key(key) {
                    return refusal(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
                }
                objects.insert(key.to_owned(), body);
                answer(StatusCode::OK, "")
            }
            (&Method::DELETE, None) => {
                self.objects.lock().remove(key);
                answer(StatusCode::NO_CONTENT, "")
            }
            (&Method::GET | &Method::HEAD, _) => {
                let Some(object) = self.objects.lock().get(key).cloned() else {
                    return refusal(StatusCode::NOT_FOUND, "NoSuchKey");
                };
                let range = header("range").strip_prefix("bytes=").and_then(|r| r.split_once('-'));
                let range = range.and_then(|(a, b)| Some((a.parse::<usize>().ok()?, b.parse::<usize>().ok()?)));
                match range {
                    Some((from, _)) if from >= object.len() => {
                        refusal(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange")
                    }
                    Some((from, to)) => {
                        answer(StatusCode::PARTIAL_CONTENT, object.slice(from..(to + 1).min(object.len())))
                    }
                    None => answer(StatusCode::OK, object),
                }
            }
            _ => refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Answer {
        let prefix = query.get("prefix").map_or("", String::as_str);
        let after = query.get("continuation-token").map_or("", String::as_str);
        let page = self.page.load(Ordering::Relaxed) as usize;
        let objects = self.objects.lock();
        let mut rest = objects.iter().filter(|(k, _)| k.starts_with(prefix) && k.as_str() > after);
        let mut out = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
        let mut last = String::new();
        for (key, bytes) in rest.by_ref().take(page) {
            last = escaped(key);
            out.push_str(&format!(
                "<Contents><Key>{last}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><Size>{}</Size></Contents>",
                bytes.len()
            ));
        }
        match rest.next() {
            Some(_) => out.push_str(&format!(
                "<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>"
            )),
            None => out.push_str("<IsTruncated>false</IsTruncated>"),
        }
        out.push_str("</ListBucketResult>");
        answer(StatusCode::OK, out)
    }
}
