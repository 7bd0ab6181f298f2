//! HTTP/1.1 to one host: connections kept for the next request, TLS 1.3 where the endpoint says so.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto, version};

use crate::remote::ObjectErrorKind;

/// Connections kept open.
const IDLE_MAX: usize = 32;
/// A connection that nobody used for so long is not used any more: the other side may have closed it.
const IDLE_TIME: Duration = Duration::from_secs(20);
/// Longest answer that says no, where that is more than what was asked for may be.
const REFUSAL_BYTES_MAX: u64 = 64 << 10;
/// Making a connection may take so long.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// What a service answered.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub etag: Option<String>,
    pub length: Option<u64>,
    pub body: Bytes,
}

type Failure = (ObjectErrorKind, String);
type Sender = SendRequest<Full<Bytes>>;

/// See the module.
pub(super) struct Http {
    name: String,
    port: u16,
    host: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    idle: Mutex<Vec<(Sender, Instant)>>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Http({}, tls: {})", self.host, self.tls.is_some())
    }
}

fn unavailable(what: &str, e: impl fmt::Display) -> Failure {
    (ObjectErrorKind::Unavailable, format!("{what}: {e}"))
}

/// A certificate that is not trusted will not be in a moment.
fn refused(e: std::io::Error) -> Failure {
    let tls = e.get_ref().and_then(|inner| inner.downcast_ref::<tokio_rustls::rustls::Error>());
    match tls {
        Some(tokio_rustls::rustls::Error::InvalidCertificate(_)) => (ObjectErrorKind::Denied, format!("TLS: {e}")),
        _ => unavailable("TLS", e),
    }
}

fn tls(name: &str, ca_file: Option<&Path>) -> Result<(TlsConnector, ServerName<'static>), String> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = ca_file {
        let text = crate::read_text(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let certificates: Result<Vec<CertificateDer<'_>>, _> =
            CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let certificates = certificates.map_err(|e| format!("{} holds no certificates: {e}", path.display()))?;
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(format!("{} holds no certificate that can be used", path.display()));
        }
    }
    if roots.is_empty() {
        return Err("no root certificates on this machine: name a file of them".into());
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&version::TLS13]);
    let config = config.map_err(|e| e.to_string())?.with_root_certificates(roots).with_no_client_auth();
    let bare = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    let server = ServerName::try_from(bare).map_err(|e| format!("{name}: {e}"))?;
    Ok((TlsConnector::from(Arc::new(config)), server))
}

impl Http {
    /// Of a host; nothing is sent yet.
    pub(super) fn new(
        name: &str,
        port: u16,
        is_tls: bool,
        says_port: bool,
        ca_file: Option<&Path>,
    ) -> Result<Self, String> {
        let host = if says_port { format!("{name}:{port}") } else { name.to_owned() };
        HeaderValue::from_str(&host).map_err(|_| format!("{host:?} is not the name of a host"))?;
        let tls = if is_tls { Some(tls(name, ca_file)?) } else { None };
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { name, port, host, tls, idle: Mutex::default() })
    }

    /// The `host` header.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.lock();
        while let Some((sender, since)) = idle.pop() {
            if since.elapsed() < IDLE_TIME && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Sender, Failure> {
        let stream = TcpStream::connect((self.name.as_str(), self.port));
        let stream = stream.await.map_err(|e| unavailable("no connection", e))?;
        // Requests are written whole.
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => Self::shake(TokioIo::new(stream)).await,
            Some((connector, server)) => {
                let stream = connector.connect(server.clone(), stream).await;
                Self::shake(TokioIo::new(stream.map_err(refused)?)).await
            }
        }
    }

    async fn shake<T>(io: T) -> Result<Sender, Failure>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(io).await.map_err(|e| unavailable("no connection", e))?;
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "a connection to the object store was closed");
            }
        });
        Ok(sender)
    }

    /// Sends over a connection that was kept, or else over a new one.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(Sender, Response<Incoming>), Failure> {
        let mut request = request;
        if let Some(mut sender) = self.kept() {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((sender, response)),
                // The other side had closed it: nothing was sent.
                Err(mut e) => match e.take_message() {
                    Some(back) => request = back,
                    None => return Err(unavailable("no answer", e.into_error())),
                },
            }
        }
        let Ok(made) = tokio::time::timeout(CONNECT_TIME, self.connect()).await else {
            return Err((ObjectErrorKind::Unavailable, "no connection in time".into()));
        };
        let mut sender = made?;
        let response = sender.send_request(request).await.map_err(|e| unavailable("no answer", e))?;
        Ok((sender, response))
    }

    /// Sends a request and reads the whole answer: at most `answer_max` bytes, or what a refusal may take.
    pub(super) async fn send(
        &self,
        method: &Method,
        target: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
        answer_max: u64,
    ) -> Result<Answer, Failure> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body)).map_err(|e| (ObjectErrorKind::Other, e.to_string()))?;
        let (mut sender, response) = self.exchange(request).await?;
        let (head, mut body) = response.into_parts();
        // A page of a gateway is longer than a small range: it must not hide that another try is worth it.
        let answer_max = if head.status.is_success() { answer_max } else { answer_max.max(REFUSAL_BYTES_MAX) };
        let text_of = |name| head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let length = text_of(hyper::header::CONTENT_LENGTH).and_then(|t| t.parse::<u64>().ok());
        let mut whole = BytesMut::new();
        if *method != Method::HEAD {
            let room = length.unwrap_or(0).min(answer_max);
            whole.reserve(usize::try_from(room).unwrap_or(0));
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|e| unavailable("the answer broke off", e))?;
                let Ok(data) = frame.into_data() else { continue };
                if (whole.len() + data.len()) as u64 > answer_max {
                    return Err((ObjectErrorKind::Other, "the answer is longer than it may be".into()));
                }
                whole.extend_from_slice(&data);
            }
        }
        if sender.ready().await.is_ok() {
            let mut idle = self.idle.lock();
            if idle.len() < IDLE_MAX {
                idle.push((sender, Instant::now()));
            }
        }
        let etag = text_of(hyper::header::ETAG);
        Ok(Answer { status: head.status, etag, length, body: whole.freeze() })
    }
}
