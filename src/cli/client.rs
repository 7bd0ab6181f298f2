//! A small HTTP client for the command line: forms out, bodies in.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Time that making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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
    #[error("--url: {0:?} is not the address of a server, such as http://127.0.0.1:9095")]
    Url(String),
    /// The path of a page instead of the server's address.
    #[error("--url takes only the address of a server, http://HOST:PORT: {0:?} is a page of one")]
    Page(String),
    /// TLS is asked for.
    #[error(
        "--url: this command cannot connect by https yet ({0:?}); use the server's own http:// address, or a tunnel to it"
    )]
    Tls(String),
    /// No connection.
    #[error(
        "no server answers at {url} ({why}). Start one with: {} serve; or name another address by --url or QUIVER_URL",
        super::program()
    )]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        why: String,
    },
    /// A connection that ended.
    #[error("{url} closed the connection before its answer was complete ({why}); the server may have stopped")]
    Lost {
        /// Where.
        url: String,
        /// Why.
        why: String,
    },
    /// The server said no.
    #[error("{0}")]
    Refused(String),
}

/// A text as a part of a path or a form: all but letters, digits and `-_.~` is escaped.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// `a=b&c=d`, escaped.
pub fn encode_form(pairs: &[(&str, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect::<Vec<_>>().join("&")
}

impl Server {
    /// A server at a base URL; without a scheme it is http.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let bad = || ClientError::Url(url.to_owned());
        let base = match url.trim().split_once("://") {
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => return Err(ClientError::Tls(url.to_owned())),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(bad()),
            None => url.trim(),
        };
        let base = format!("http://{}", base.trim_end_matches('/'));
        let uri: Uri = base.parse().map_err(|_| bad())?;
        if uri.host().is_none_or(str::is_empty) || uri.query().is_some() || base.contains('#') {
            return Err(bad());
        }
        // A prefix of a proxy may be there, but none of the API's own pages.
        if base.contains("/api/v1") {
            return Err(ClientError::Page(url.to_owned()));
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        Ok(Self { base, client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.base
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
        let request = Request::post(format!("{}{path}", self.base))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", accept)
            .body(Full::new(Bytes::from(encode_form(form))));
        self.request(request).await
    }

    async fn request(
        &self,
        request: hyper::http::Result<Request<Full<Bytes>>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = request.map_err(|e| ClientError::Unreachable { url: self.base.clone(), why: e.to_string() })?;
        self.client.request(request).await.map_err(|e| {
            // The last cause says it: "Connection refused".
            let mut cause: &dyn std::error::Error = &e;
            while let Some(next) = cause.source() {
                cause = next;
            }
            let (url, why) = (self.base.clone(), plain(&cause.to_string()));
            if e.is_connect() { ClientError::Unreachable { url, why } } else { ClientError::Lost { url, why } }
        })
    }

    /// A request without a body; an answer that is not 2xx is an error with its text.
    pub async fn send(&self, method: hyper::Method, path: &str) -> Result<Response<Incoming>, ClientError> {
        let request =
            Request::builder().method(method).uri(format!("{}{path}", self.base)).body(Full::new(Bytes::new()));
        let response = self.request(request).await?;
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
        let body = response.into_body().collect().await;
        let body = body.map_err(|e| ClientError::Lost { url: self.base.clone(), why: e.to_string() })?;
        let bytes = body.to_bytes();
        if status.is_success() { Ok(bytes) } else { Err(refused(status, &bytes)) }
    }
}

/// Without the number of an error of the system, which says nothing to people.
fn plain(why: &str) -> String {
    why.split(" (os error").next().unwrap_or(why).to_owned()
}

/// The server's own words if there are any, and what to do about those that leave it open.
pub fn refused(status: StatusCode, body: &[u8]) -> ClientError {
    let text = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|v| v.get("error").and_then(|e| e.as_str()).map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    ClientError::Refused(match text.as_str() {
        "" => format!("the server answers {status}"),
        // As Prometheus says them, to the letter.
        "admin APIs disabled" => "the server's admin API is off; start the server with --admin-api on".to_owned(),
        // Here the query is what was asked, and nothing that one would call a parameter.
        _ => text.strip_prefix("invalid parameter \"query\": ").unwrap_or(&text).to_owned(),
    })
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
        assert_eq!(encode("a/b?é"), "a%2Fb%3F%C3%A9");
    }

    #[test]
    fn addresses_of_servers() {
        for (url, base) in [
            ("http://127.0.0.1:9095/", "http://127.0.0.1:9095"),
            ("127.0.0.1:9095", "http://127.0.0.1:9095"),
            ("localhost:9095/quiver/", "http://localhost:9095/quiver"),
            ("HTTP://[::1]:9095", "http://[::1]:9095"),
            ("node", "http://node"),
        ] {
            assert_eq!(Server::new(url).unwrap().url(), base);
        }
        for url in ["", "http://", "ftp://x", "http://a b", "http://x/?q=1", "http://:9095", "://x", "http://x/#a"] {
            let said = Server::new(url).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(said.contains("http://127.0.0.1:9095"), "{url}: {said}");
        }
        assert!(matches!(Server::new("https://x"), Err(ClientError::Tls(_))));
        for page in ["http://127.0.0.1:9095/api/v1/query", "http://127.0.0.1:9095/api/v1", "proxy/quiver/api/v1/"] {
            let said = Server::new(page).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(said.contains("http://HOST:PORT"), "{page}: {said}");
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let said = |body: &str| refused(StatusCode::NOT_FOUND, body.as_bytes()).to_string();
        assert!(said(r#"{"status":"error","error":"admin APIs disabled"}"#).contains("--admin-api on"));
        assert_eq!(said(""), "the server answers 404 Not Found");
        assert_eq!(said("no such page\n"), "no such page");
        assert_eq!(said(r#"{"error":"invalid parameter \"query\": 1:5: parse error"}"#), "1:5: parse error");
    }
}
