//! Objects of an S3-compatible service, with a client of our own: eight requests of the protocol are all that is needed.
//!
//! ```text
//! GET (range) · HEAD · PUT (If-None-Match: *) · multipart: POST ?uploads, PUT ?partNumber, POST ?uploadId · LIST v2 · DELETE
//! ```
//!
//! `object_store`'s own client brings reqwest, an XML deserialiser and a second HTTP/2: some 85 CPU-seconds of a release
//! build. This one stands on hyper, which the server has anyway, and signs with ring, which TLS needs.
//!
//! Invariants
//! 1. Every request is signed (version 4) with the hash of its body, so a changed body is refused by the service.
//! 2. An object appears whole or not at all: a multipart upload that fails, or that nobody waits for any more, is aborted.
//! 3. Credentials are in no message, and no request goes to an address where clouds hand them out.

mod http;
mod sign;
mod xml;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hyper::{Method, StatusCode};

use crate::disk::DiskRead;

use self::http::{Answer, Http};
use self::sign::{Signer, encode_path, encode_query};
use super::url::is_metadata_address;
use super::{
    ObjectError, ObjectErrorKind, ObjectFuture, ObjectInfo, ObjectOp, Objects, S3Settings, check_key, check_len,
};

/// Larger files go in parts of this size.
const PART_BYTES: u64 = 16 << 20;
/// The service takes so many parts.
const PARTS_MAX: u64 = 10_000;
/// Longest answer that is not an object's bytes: a page of a list.
const ANSWER_BYTES_MAX: u64 = 8 << 20;
/// Pages of a list that are followed.
const PAGES_MAX: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub struct S3Objects(Arc<Bucket>);

#[derive(Debug)]
struct Bucket {
    name: String,
    prefix: String,
    /// What stands before the key in the path of a request: `/bucket`, or nothing where the bucket is in the host.
    base_path: String,
    http: Http,
    signer: Signer,
}

/// A request that is yet to be signed.
struct Ask<'a> {
    op: ObjectOp,
    method: Method,
    key: &'a str,
    query: &'a [(&'a str, &'a str)],
    range: Option<Range<u64>>,
    only_new: bool,
    body: Bytes,
    answer_max: u64,
}

impl<'a> Ask<'a> {
    fn new(op: ObjectOp, method: Method, key: &'a str) -> Self {
        let body = Bytes::new();
        Self { op, method, key, query: &[], range: None, only_new: false, body, answer_max: ANSWER_BYTES_MAX }
    }
}

impl S3Objects {
    /// The objects of a bucket under a prefix. Nothing is sent yet; what is wrong with the settings is the error.
    pub fn new(bucket: &str, prefix: &str, settings: &S3Settings) -> Result<Self, String> {
        let region = settings.region.as_deref().filter(|r| !r.is_empty()).unwrap_or("us-east-1");
        if settings.access_key.is_empty() || settings.secret_key.reveal().is_empty() {
            return Err("an s3:// tier needs credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".into());
        }
        // Amazon wants the bucket in the host, where TLS allows it; everything else takes it in the path.
        let (endpoint, base_path) = match settings.endpoint.as_deref().filter(|e| !e.is_empty()) {
            Some(endpoint) => (endpoint.trim_end_matches('/').to_owned(), format!("/{bucket}")),
            None if bucket.contains('.') => (format!("https://s3.{region}.amazonaws.com"), format!("/{bucket}")),
            None => (format!("https://{bucket}.s3.{region}.amazonaws.com"), String::new()),
        };
        let uri: hyper::Uri = endpoint.parse().map_err(|_| format!("{endpoint:?} is not an endpoint URL"))?;
        let is_plain = uri.path() == "/" && uri.query().is_none();
        let (Some(scheme), Some(host), true) = (uri.scheme_str(), uri.host(), is_plain) else {
            return Err(format!("{endpoint:?} is not an endpoint like https://s3.example.org"));
        };
        let is_tls = match scheme {
            "https" => true,
            "http" => false,
            other => return Err(format!("an endpoint cannot be {other}://, only http:// or https://")),
        };
        if is_metadata_address(host) {
            return Err(format!("{host} is an address where clouds hand out credentials: refused as an endpoint"));
        }
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let http = Http::new(host, port, is_tls, uri.port_u16().is_some(), settings.ca_file.as_deref())?;
        let mut name = format!("s3://{bucket}");
        if !prefix.is_empty() {
            name.push('/');
            name.push_str(prefix);
        }
        let signer = Signer::new(settings, region);
        Ok(Self(Arc::new(Bucket { name, prefix: prefix.to_owned(), base_path, http, signer })))
    }
}

impl Bucket {
    fn full(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) }
    }

    fn error(&self, op: ObjectOp, key: &str, kind: ObjectErrorKind, text: impl std::fmt::Display) -> ObjectError {
        ObjectError::new(op, &self.name, key, kind, text)
    }

    /// Sends a request; an answer that says no is an error.
    async fn ask(&self, ask: Ask<'_>) -> Result<Answer, ObjectError> {
        let path = if ask.op == ObjectOp::List {
            if self.base_path.is_empty() { "/".to_owned() } else { encode_path(&self.base_path) }
        } else {
            check_key(ask.op, &self.name, ask.key)?;
            encode_path(&format!("{}/{}", self.base_path, self.full(ask.key)))
        };
        let query = encode_query(ask.query);
        let mut headers: Vec<(&'static str, String)> = vec![("host", self.http.host().to_owned())];
        if let Some(r) = &ask.range {
            headers.push(("range", format!("bytes={}-{}", r.start, r.end.saturating_sub(1))));
        }
        if ask.only_new {
            headers.push(("if-none-match", "*".to_owned()));
        }
        self.signer.sign(&ask.method, &path, &query, &mut headers, &ask.body);
        let target = if query.is_empty() { path } else { format!("{path}?{query}") };
        let sent = self.http.send(&ask.method, &target, &headers, ask.body, ask.answer_max).await;
        let answer = sent.map_err(|(kind, text)| self.error(ask.op, ask.key, kind, text))?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refused(ask.op, ask.key, &answer)) }
    }

    fn refused(&self, op: ObjectOp, key: &str, answer: &Answer) -> ObjectError {
        let text = String::from_utf8_lossy(&answer.body);
        let code = xml::text_of(&text, "Code").unwrap_or_default();
        let message = xml::text_of(&text, "Message").unwrap_or_default();
        let kind = match answer.status {
            StatusCode::NOT_FOUND => ObjectErrorKind::NotFound,
            StatusCode::PRECONDITION_FAILED => ObjectErrorKind::Exists,
            // Two conditional writes at once: the service does not say who won, the next attempt will find out.
            StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                ObjectErrorKind::Unavailable
            }
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => ObjectErrorKind::Denied,
            _ if code == "SlowDown" || code == "RequestTimeout" => ObjectErrorKind::Unavailable,
            s if s.is_server_error() => ObjectErrorKind::Unavailable,
            _ => ObjectErrorKind::Other,
        };
        let parts = [answer.status.to_string(), code, message];
        self.error(op, key, kind, parts.iter().filter(|p| !p.is_empty()).cloned().collect::<Vec<_>>().join(": "))
    }

    async fn read(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, ObjectError> {
        let op = ObjectOp::Get;
        if let Some(r) = range.as_ref().filter(|r| r.start >= r.end) {
            return check_len(&self.name, key, r, Bytes::new());
        }
        let answer_max = range.as_ref().map_or(64 << 20, |r| r.end - r.start + 1024);
        let answer = self.ask(Ask { range: range.clone(), answer_max, ..Ask::new(op, Method::GET, key) }).await?;
        let Some(range) = range else { return Ok(answer.body) };
        if answer.status != StatusCode::PARTIAL_CONTENT {
            let text = format!("{} came for a range", answer.status);
            return Err(self.error(op, key, ObjectErrorKind::Other, text));
        }
        check_len(&self.name, key, &range, answer.body)
    }

    async fn upload(self: &Arc<Self>, key: &str, source: Arc<dyn DiskRead>) -> Result<(), ObjectError> {
        let len = source.len().map_err(|e| self.error(ObjectOp::Upload, key, ObjectErrorKind::Other, e))?;
        if len > PART_BYTES {
            return self.upload_parts(key, source, len).await;
        }
        let body = self.local(key, source, 0, len).await?;
        self.ask(Ask { body, ..Ask::new(ObjectOp::Upload, Method::PUT, key) }).await.map(|_| ())
    }

    /// Bytes of the file to upload, read where a slow disk holds up nobody else's requests.
    async fn local(&self, key: &str, source: Arc<dyn DiskRead>, at: u64, len: u64) -> Result<Bytes, ObjectError> {
        let other = |text: &dyn std::fmt::Display| self.error(ObjectOp::Upload, key, ObjectErrorKind::Other, text);
        let want = usize::try_from(len).map_err(|e| other(&e))?;
        let read = tokio::task::spawn_blocking(move || source.read_at(at, want)).await;
        let bytes = Bytes::from(read.map_err(|e| other(&e))?.map_err(|e| other(&e))?);
        if bytes.len() == want { Ok(bytes) } else { Err(other(&"the file ends early")) }
    }

    async fn upload_parts(self: &Arc<Self>, key: &str, source: Arc<dyn DiskRead>, len: u64) -> Result<(), ObjectError> {
        let op = ObjectOp::Upload;
        let bad = |text: &str| self.error(op, key, ObjectErrorKind::Other, text);
        let answer = self.ask(Ask { query: &[("uploads", "")], ..Ask::new(op, Method::POST, key) }).await?;
        let begun = String::from_utf8_lossy(&answer.body);
        let id = xml::text_of(&begun, "UploadId").ok_or_else(|| bad("no UploadId came"))?;
        let unfinished = Unfinished { bucket: Arc::clone(self), key: key.to_owned(), id, is_over: false };
        match self.send_parts(key, &unfinished.id, source, len).await {
            Ok(()) => unfinished.complete(),
            Err(e) => {
                unfinished.abort().await;
                return Err(e);
            }
        }
        Ok(())
    }

    async fn send_parts(&self, key: &str, id: &str, source: Arc<dyn DiskRead>, len: u64) -> Result<(), ObjectError> {
        let op = ObjectOp::Upload;
        let other = |text: &dyn std::fmt::Display| self.error(op, key, ObjectErrorKind::Other, text);
        let part_bytes = PART_BYTES.max(len.div_ceil(PARTS_MAX));
        let mut parts = String::new();
        let (mut at, mut number) = (0, 0u32);
        while at < len {
            number += 1;
            let want = part_bytes.min(len - at);
            let body = self.local(key, Arc::clone(&source), at, want).await?;
            let text = number.to_string();
            let query = [("partNumber", text.as_str()), ("uploadId", id)];
            let answer = self.ask(Ask { query: &query, body, ..Ask::new(op, Method::PUT, key) }).await?;
            let tag = answer.etag.ok_or_else(|| other(&"a part came to be without an ETag"))?;
            let tag = xml::escape(&tag);
            parts.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"));
            at += want;
        }
        let body = Bytes::from(format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>"));
        let query = [("uploadId", id)];
        let answer = self.ask(Ask { query: &query, body, ..Ask::new(op, Method::POST, key) }).await?;
        // A failure may come after the headers of a success.
        if String::from_utf8_lossy(&answer.body).contains("<Error") {
            return Err(self.refused(op, key, &Answer { status: StatusCode::INTERNAL_SERVER_ERROR, ..answer }));
        }
        Ok(())
    }

    /// What stays of an upload that is not aborted costs money until a lifecycle rule takes it.
    async fn abort(&self, key: &str, id: &str) {
        let ask = Ask { query: &[("uploadId", id)], ..Ask::new(ObjectOp::Upload, Method::DELETE, key) };
        if let Err(e) = self.ask(ask).await {
            tracing::warn!(error = %e, "cannot abort an upload; its parts stay in the object store");
        }
    }

    async fn list_all(&self, prefix: &str) -> Result<Vec<ObjectInfo>, ObjectError> {
        let full = format!("{}/", self.full(prefix));
        let mut out = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut query = vec![("list-type", "2"), ("prefix", full.as_str())];
            if let Some(token) = &token {
                query.push(("continuation-token", token));
            }
            let answer = self.ask(Ask { query: &query, ..Ask::new(ObjectOp::List, Method::GET, prefix) }).await?;
            let text = String::from_utf8_lossy(&answer.body);
            let skip = if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 };
            for part in xml::parts_of(&text, "Contents") {
                let key = xml::text_of(part, "Key").unwrap_or_default();
                let Some(key) = key.get(skip..).filter(|_| key.starts_with(&full)) else { continue };
                let bytes = xml::text_of(part, "Size").and_then(|s| s.parse().ok()).unwrap_or(0);
                let modified_ms = xml::text_of(part, "LastModified").and_then(|t| xml::time_ms(&t)).unwrap_or(0);
                out.push(ObjectInfo { key: key.to_owned(), bytes, modified_ms });
            }
            let is_more = xml::text_of(&text, "IsTruncated").as_deref() == Some("true");
            token = xml::text_of(&text, "NextContinuationToken").filter(|_| is_more);
            if is_more && token.is_none() {
                // Taken for the end, what is left out would count as not there.
                let what = "the list says that there is more, and not how to go on";
                return Err(self.error(ObjectOp::List, prefix, ObjectErrorKind::Other, what));
            }
            if token.is_none() {
                out.sort_by(|a, b| a.key.cmp(&b.key));
                return Ok(out);
            }
        }
        Err(self.error(ObjectOp::List, prefix, ObjectErrorKind::Other, "the list does not end"))
    }
}

/// A multipart upload that is not complete. One that is dropped, as by a limit of time, is aborted in the background.
struct Unfinished {
    bucket: Arc<Bucket>,
    key: String,
    id: String,
    is_over: bool,
}

impl Unfinished {
    fn complete(mut self) {
        self.is_over = true;
    }

    async fn abort(mut self) {
        self.bucket.abort(&self.key, &self.id).await;
        self.is_over = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Without a runtime the process is about to end.
        if let (false, Ok(runtime)) = (self.is_over, tokio::runtime::Handle::try_current()) {
            let (bucket, key, id) = (Arc::clone(&self.bucket), self.key.clone(), self.id.clone());
            runtime.spawn(async move { bucket.abort(&key, &id).await });
        }
    }
}

impl Objects for S3Objects {
    fn name(&self) -> String {
        self.0.name.clone()
    }

    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> ObjectFuture<'a, Bytes> {
        Box::pin(self.0.read(key, Some(range)))
    }

    fn get_all<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, Bytes> {
        Box::pin(self.0.read(key, None))
    }

    fn head<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ObjectInfo> {
        Box::pin(async move {
            let answer = self.0.ask(Ask { answer_max: 0, ..Ask::new(ObjectOp::Head, Method::HEAD, key) }).await?;
            let bytes = answer
                .length
                .ok_or_else(|| self.0.error(ObjectOp::Head, key, ObjectErrorKind::Other, "no length came"))?;
            Ok(ObjectInfo { key: key.to_owned(), bytes, modified_ms: 0 })
        })
    }

    fn put_new<'a>(&'a self, key: &'a str, bytes: Bytes) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            let ask = Ask { only_new: true, body: bytes, ..Ask::new(ObjectOp::Put, Method::PUT, key) };
            self.0.ask(ask).await.map(|_| ())
        })
    }

    fn upload<'a>(&'a self, key: &'a str, source: Arc<dyn DiskRead>) -> ObjectFuture<'a, ()> {
        Box::pin(self.0.upload(key, source))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> ObjectFuture<'a, Vec<ObjectInfo>> {
        Box::pin(self.0.list_all(prefix))
    }

    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            match self.0.ask(Ask::new(ObjectOp::Delete, Method::DELETE, key)).await {
                Err(e) if e.is_not_found() => Ok(()),
                other => other.map(|_| ()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Secret;
    use super::*;

    fn settings(endpoint: Option<&str>) -> S3Settings {
        S3Settings {
            endpoint: endpoint.map(str::to_owned),
            access_key: "id".into(),
            secret_key: Secret::new("hunter2"),
            ..S3Settings::default()
        }
    }

    #[test]
    fn the_bucket_stands_where_the_service_wants_it() {
        let amazon = S3Objects::new("bucket", "a/b", &settings(None)).unwrap();
        assert_eq!((amazon.0.http.host(), amazon.0.base_path.as_str()), ("bucket.s3.us-east-1.amazonaws.com", ""));
        let dotted = S3Objects::new("my.bucket", "", &settings(None)).unwrap();
        assert_eq!((dotted.0.http.host(), dotted.0.base_path.as_str()), ("s3.us-east-1.amazonaws.com", "/my.bucket"));
        let own = S3Objects::new("bucket", "a", &settings(Some("http://127.0.0.1:9000/"))).unwrap();
        assert_eq!(
            (own.0.http.host(), own.0.base_path.as_str(), own.0.full("k")),
            ("127.0.0.1:9000", "/bucket", "a/k".into())
        );
        assert_eq!(own.name(), "s3://bucket/a");
        assert!(!format!("{own:?}").contains("hunter2"));
    }

    #[test]
    fn bad_settings_are_named() {
        for endpoint in ["", "ftp://x", "http://", "http://h/path", "http://169.254.169.254", "nonsense"] {
            let made = S3Objects::new("b", "", &settings(Some(endpoint)));
            assert_eq!(made.is_err(), !endpoint.is_empty(), "{endpoint}");
        }
        assert!(S3Objects::new("b", "", &S3Settings::default()).unwrap_err().contains("AWS_ACCESS_KEY_ID"));
    }
}
