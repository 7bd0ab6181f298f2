//! A small HTTP client for the command line: forms out, bodies in.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Where a server is, as given with `--url`.
#[derive(Clone, Debug)]
pub struct Server {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is not one.
    #[error("{0:?} is not a URL like http://127.0.0.1:9095 (https is not spoken by this client)")]
    Url(String),
    /// Nobody answered.
    #[error("no answer from {url}: {why}. Is a server running there? Start one with: quiver serve")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        why: String,
    },
    /// The server said no.
    #[error("{0}")]
    Refused(String),
}

/// `a=b&c=d`, escaped.
pub fn encode_form(pairs: &[(&str, String)]) -> String {
    let mut out = String::new();
    for (i, (name, value)) in pairs.iter().enumerate() {
        if i > 0 {
            out.push('&');
        }
        for (k, text) in [*name, value.as_str()].into_iter().enumerate() {
            if k == 1 {
                out.push('=');
            }
            for b in text.bytes() {
                if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
                    out.push(char::from(b));
                } else {
                    out.push_str(&format!("%{b:02X}"));
                }
            }
        }
    }
    out
}

impl Server {
    /// A server at a base URL.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let base = url.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") || base.parse::<hyper::Uri>().is_err() {
            return Err(ClientError::Url(url.to_owned()));
        }
        Ok(Self { base, client: Client::builder(TokioExecutor::new()).build_http() })
    }

    /// Posts a form; the body comes as it arrives.
    pub async fn post(&self, path: &str, form: &[(&str, String)]) -> Result<Response<Incoming>, ClientError> {
        self.post_for("*/*", path, form).await
    }

    /// [`Server::post`] for an answer of a media type.
    pub async fn post_for(
        &self,
        accept: &str,
        path: &str,
        form: &[(&str, String)],
    ) -> Result<Response<Incoming>, ClientError> {
        let url = format!("{}{path}", self.base);
        let fail = |why: String| ClientError::Unreachable { url: self.base.clone(), why };
        let request = Request::post(&url)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", accept)
            .body(Full::new(Bytes::from(encode_form(form))))
            .map_err(|e| fail(e.to_string()))?;
        self.client.request(request).await.map_err(|e| {
            let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            fail(cause)
        })
    }

    /// A request without a body; an answer that is not 2xx is an error with its text.
    pub async fn send(&self, method: hyper::Method, path: &str) -> Result<Response<Incoming>, ClientError> {
        let fail = |why: String| ClientError::Unreachable { url: self.base.clone(), why };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .body(Full::new(Bytes::new()))
            .map_err(|e| fail(e.to_string()))?;
        let response = self.client.request(request).await.map_err(|e| {
            let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            fail(cause)
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        Err(refused(status, &body))
    }

    /// Posts a form and reads the whole answer; an answer that is not 2xx is an error with its text.
    pub async fn post_all(&self, path: &str, form: &[(&str, String)]) -> Result<Bytes, ClientError> {
        let response = self.post(path, form).await?;
        self.body(response).await
    }

    /// The whole body of an answer.
    pub async fn body(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| ClientError::Unreachable {
            url: self.base.clone(),
            why: format!("the answer broke off: {e}"),
        })?;
        let bytes = body.to_bytes();
        if status.is_success() { Ok(bytes) } else { Err(refused(status, &bytes)) }
    }
}

/// The server's own words where there are any.
pub fn refused(status: StatusCode, body: &[u8]) -> ClientError {
    let text = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|v| v.get("error").and_then(|e| e.as_str()).map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    ClientError::Refused(if text.is_empty() { status.to_string() } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_escaped() {
        assert_eq!(
            encode_form(&[("query", "a{b=\"c d\"}".into()), ("x", "1".into())]),
            "query=a%7Bb%3D%22c%20d%22%7D&x=1"
        );
    }

    #[test]
    fn only_http_urls() {
        assert!(Server::new("127.0.0.1:9095").is_err());
        assert!(Server::new("http://127.0.0.1:9095/").is_ok());
    }
}
