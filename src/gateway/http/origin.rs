//! Requests that a browser makes for a page: which of them are answered, and which answers the page may read.
//!
//! | request | answer |
//! | --- | --- |
//! | `OPTIONS` of an API route | 204, with `Access-Control-*` for an origin that is allowed |
//! | read, with an `Origin` that is allowed | as ever, and `Access-Control-Allow-Origin` |
//! | write or admin request, with another `Origin` than the server's own and those named | 403 |
//! | to a loopback address, by a browser, with a `Host` that is neither a loopback name nor allowed | 403: DNS rebinding |
//!
//! `*` allows every page to read, and none to write.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts};

use super::error::{ApiError, ErrorType, bounded};

/// Which pages and names are allowed beside the server's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Any origin may read.
    any: bool,
    origins: Vec<Site>,
    hosts: Vec<String>,
}

/// Scheme, host in lower case, port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Site {
    scheme: String,
    host: String,
    port: u16,
}

impl Allowed {
    /// Allows an origin such as `https://grafana.example.com`, or `*`: all of them.
    pub fn add_origin(&mut self, text: &str) -> Result<(), String> {
        match text.trim() {
            "" => {}
            "*" => self.any = true,
            text => {
                let example = "https://grafana.example.com";
                let wrong = || format!("{text:?} is not an origin: scheme, host and port, such as {example}");
                self.origins.push(Site::parse(text).ok_or_else(wrong)?);
            }
        }
        Ok(())
    }

    /// Allows the name of a host such as `quiver.example.com`.
    pub fn add_host(&mut self, text: &str) -> Result<(), String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(());
        }
        let parsed = split_host(text).filter(|(host, _)| !host.contains(['/', '*', '@']));
        self.hosts.push(parsed.ok_or_else(|| format!("{text:?} is not the name of a host"))?.0);
        Ok(())
    }

    /// The origins as text.
    pub fn origins_text(&self) -> String {
        let all = self.any.then(|| "*".to_owned()).into_iter().chain(self.origins.iter().map(Site::text));
        all.collect::<Vec<_>>().join(",")
    }

    /// The hosts as text.
    pub fn hosts_text(&self) -> String {
        self.hosts.join(",")
    }

    /// Every page may read.
    pub fn any_origin(&self) -> bool {
        self.any
    }

    fn names(&self, site: &Site) -> bool {
        self.origins.contains(site)
    }
}

impl Site {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let default = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => 0,
        };
        let (host, port) = split_host(rest.strip_suffix('/').unwrap_or(rest))?;
        if scheme.is_empty() || host.contains(['/', '?', '#', '@', ',', ' ', '*']) {
            return None;
        }
        Some(Self { scheme, host, port: port.unwrap_or(default) })
    }

    fn text(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.scheme.as_str(), self.port) {
            ("http", 80) | ("https", 443) | (_, 0) => format!("{}://{host}", self.scheme),
            (scheme, port) => format!("{scheme}://{host}:{port}"),
        }
    }

    /// Is it where a request with this `Host` was sent to? A proxy may have taken TLS off.
    fn is_at(&self, host: &str) -> bool {
        let default = if self.scheme == "https" { 443 } else { 80 };
        split_host(host).is_some_and(|(name, port)| name == self.host && port.unwrap_or(default) == self.port)
    }
}

/// Host in lower case without brackets and final dot, and port.
pub(super) fn split_host(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("")))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("")),
        },
    };
    let port = match port? {
        "" => None,
        digits => Some(digits.parse().ok()?),
    };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    (!host.is_empty()).then_some((host, port))
}

fn is_loopback_name(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|a| a.to_canonical().is_loopback())
}

/// A browser says by it where a request comes from; other clients do not send it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Routes that answer POST and change nothing, below `/api/v1/`.
const READS: [&str; 10] = [
    "query",
    "query_range",
    "query_exemplars",
    "format_query",
    "parse_query",
    "labels",
    "series",
    "metadata",
    "export",
    "sql",
];

/// Is it a write or an admin request? All are that are not known to read.
fn changes(method: &Method, path: &str) -> bool {
    if *method == Method::OPTIONS {
        return false;
    }
    if path.starts_with("/api/v1/admin/") {
        return true;
    }
    if [Method::GET, Method::HEAD].contains(method) {
        return false;
    }
    let is_read = method == Method::POST
        && path
            .strip_prefix("/api/v1/")
            .is_some_and(|route| READS.contains(&route) || route.starts_with("label/") && route.ends_with("/values"));
    !is_read
}

/// What is decided about a request before it is handled.
#[derive(Debug)]
pub enum Decision {
    /// It is handled; these headers are added to its answer.
    Go(Option<Cors>),
    /// It is answered here.
    Answer(Response<Body>),
    /// It is refused.
    Refuse(ApiError),
}

/// The origin an answer may be read by, as it is written there.
#[derive(Clone, Debug)]
pub struct Cors {
    origin: HeaderValue,
    is_named: bool,
}

/// Decides by method, path and headers. `is_local`: the connection came to a loopback address.
pub fn decide(parts: &Parts, allowed: &Allowed, is_local: bool) -> Decision {
    let headers = &parts.headers;
    let path = parts.uri.path();
    let has_origin = headers.contains_key(header::ORIGIN);
    if !has_origin && parts.method != Method::OPTIONS && !(is_local && headers.contains_key(SEC_FETCH_SITE)) {
        return Decision::Go(None);
    }
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("");
    let is_browser = has_origin || headers.contains_key(SEC_FETCH_SITE);
    if is_local && is_browser {
        let name = split_host(host).map_or(String::new(), |(name, _)| name);
        if !is_loopback_name(&name) && !allowed.hosts.contains(&name) {
            let name = bounded(&name).into_owned();
            return forbidden(format!(
                "a browser asked for this server under the name {name:?}, which is not one of its own: if a proxy does so, start the \
                 server with --allowed-hosts {name}"
            ));
        }
    }
    let cors = match origin_of(headers) {
        Ok(None) => None,
        Ok(Some((value, site))) => {
            let is_named = allowed.names(&site);
            if changes(&parts.method, path) && !is_named && !site.is_at(host) {
                let origin = bounded(&site.text()).into_owned();
                return forbidden(format!(
                    "a web page of another origin, {origin}, sent a write or admin request: --cors-origins names the origins that may"
                ));
            }
            let is_read = !changes(preflighted(parts).as_ref().unwrap_or(&parts.method), path);
            if is_named {
                Some(Cors { origin: value.clone(), is_named })
            } else if allowed.any && is_read {
                Some(Cors { origin: HeaderValue::from_static("*"), is_named })
            } else {
                None
            }
        }
        Err(()) => {
            if changes(&parts.method, path) {
                let text = "a write or admin request needs one valid Origin, or none: \"null\" and several are refused";
                return forbidden(text.into());
            }
            let is_read = !changes(preflighted(parts).as_ref().unwrap_or(&parts.method), path);
            (allowed.any && is_read).then(|| Cors { origin: HeaderValue::from_static("*"), is_named: false })
        }
    };
    if parts.method == Method::OPTIONS && is_api(path) {
        return Decision::Answer(preflight(headers, cors.as_ref()));
    }
    Decision::Go(cors)
}

/// The method that a preflight asks about.
fn preflighted(parts: &Parts) -> Option<Method> {
    let asked = parts.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(asked.as_bytes()).ok().filter(|_| parts.method == Method::OPTIONS)
}

fn is_api(path: &str) -> bool {
    path.starts_with("/api/") || path.starts_with("/-/") || ["/v1/metrics", "/metrics", "/version", "/"].contains(&path)
}

/// The one origin of a request; an error for `null`, several, or none that is one.
fn origin_of(headers: &HeaderMap) -> Result<Option<(&HeaderValue, Site)>, ()> {
    let mut all = headers.get_all(header::ORIGIN).into_iter();
    let Some(value) = all.next() else { return Ok(None) };
    let site = value.to_str().ok().and_then(Site::parse).ok_or(())?;
    if all.next().is_some() { Err(()) } else { Ok(Some((value, site))) }
}

fn forbidden(text: String) -> Decision {
    Decision::Refuse(ApiError::new(ErrorType::Forbidden, text))
}

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS");
const HEADERS: HeaderValue = HeaderValue::from_static("Accept, Authorization, Content-Encoding, Content-Type, Origin");

fn preflight(headers: &HeaderMap, cors: Option<&Cors>) -> Response<Body> {
    let mut r = Response::new(Body::empty());
    *r.status_mut() = StatusCode::NO_CONTENT;
    let out = r.headers_mut();
    out.insert(header::ALLOW, METHODS);
    if let Some(cors) = cors {
        out.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        out.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        let private = HeaderName::from_static("access-control-allow-private-network");
        if cors.is_named && headers.contains_key("access-control-request-private-network") {
            out.insert(private, HeaderValue::from_static("true"));
        }
    }
    add(r.headers_mut(), cors);
    r
}

/// Adds to an answer who may read it.
pub fn add(headers: &mut HeaderMap, cors: Option<&Cors>) {
    let Some(cors) = cors else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, cors.origin.clone());
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Date, Retry-After"));
    if cors.is_named {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn decided(allowed: &Allowed, is_local: bool, method: &str, path: &str, headers: &[(&str, &str)]) -> String {
        let mut request = Request::builder().method(method).uri(path);
        for (n, v) in headers {
            request = request.header(*n, *v);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        match decide(&parts, allowed, is_local) {
            Decision::Go(None) => "go".into(),
            Decision::Go(Some(c)) => format!("go {}", c.origin.to_str().unwrap()),
            Decision::Answer(r) => {
                let origin = r.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map_or("", |o| o.to_str().unwrap());
                format!("{} {origin}", r.status().as_u16())
            }
            Decision::Refuse(e) => {
                let cause = if e.text.contains("--allowed-hosts") { "host" } else { "origin" };
                format!("{} {cause}", e.response().status().as_u16())
            }
        }
    }

    fn allowed(origins: &[&str], hosts: &[&str]) -> Allowed {
        let mut allowed = Allowed::default();
        origins.iter().for_each(|o| allowed.add_origin(o).unwrap());
        hosts.iter().for_each(|h| allowed.add_host(h).unwrap());
        allowed
    }

    #[test]
    fn writes_by_pages_of_other_origins_are_refused() {
        let none = allowed(&[], &[]);
        let at = |origin: &str, host: &str, path: &str| {
            decided(&none, false, "POST", path, &[("host", host), ("origin", origin)])
        };
        for (origin, host, want) in [
            ("http://q:9095", "q:9095", "go"),
            ("HTTP://Q:9095", "q.:9095", "go"),
            ("https://q", "q", "go"),
            ("https://q", "q:443", "go"),
            ("http://q", "q:80", "go"),
            ("http://[::1]:9095", "[::1]:9095", "go"),
            ("http://q:9096", "q:9095", "403 origin"),
            ("http://evil.com", "q:9095", "403 origin"),
            ("http://q:9095.evil.com", "q:9095", "403 origin"),
            ("http://q", "q:9095", "403 origin"),
            ("null", "q:9095", "403 origin"),
            ("", "q:9095", "403 origin"),
        ] {
            for path in [
                "/api/v1/write",
                "/v1/metrics",
                "/api/v1/otlp/v1/metrics",
                "/api/v1/admin/tsdb/flush",
                "/-/reload",
                "/new",
            ] {
                assert_eq!(at(origin, host, path), want, "{origin} {host} {path}");
            }
            // Reading is the browser's to forbid.
            assert_eq!(at(origin, host, "/api/v1/query"), "go");
        }
        let several = [("host", "q"), ("origin", "http://q"), ("origin", "http://evil.com")];
        assert_eq!(decided(&none, false, "POST", "/api/v1/write", &several), "403 origin");
        let foreign = [("host", "q"), ("origin", "http://evil.com")];
        assert_eq!(decided(&none, false, "DELETE", "/api/v1/status/active_queries/1", &foreign), "403 origin");
        assert_eq!(decided(&none, false, "GET", "/api/v1/admin/tsdb/snapshots/a", &foreign), "403 origin");
        assert_eq!(decided(&none, false, "POST", "/api/v1/write", &[("host", "q")]), "go");
    }

    #[test]
    fn named_origins_may_all_and_a_star_may_read() {
        let named = allowed(&["https://Grafana.example.com/", "http://a:1"], &[]);
        let star = allowed(&["*"], &[]);
        let from = |allowed: &Allowed, method: &str, path: &str, origin: &str| {
            let headers = [("host", "q"), ("origin", origin), ("access-control-request-method", "POST")];
            decided(allowed, false, method, path, &headers)
        };
        let grafana = "https://grafana.example.com";
        assert_eq!(from(&named, "GET", "/api/v1/query", grafana), format!("go {grafana}"));
        assert_eq!(from(&named, "POST", "/api/v1/write", grafana), format!("go {grafana}"));
        assert_eq!(from(&named, "OPTIONS", "/api/v1/write", grafana), format!("204 {grafana}"));
        assert_eq!(from(&named, "GET", "/api/v1/query", "http://a"), "go");
        assert_eq!(from(&named, "OPTIONS", "/api/v1/query", "http://b"), "204 ");
        assert_eq!(from(&star, "GET", "/api/v1/query", grafana), "go *");
        assert_eq!(from(&star, "GET", "/api/v1/query", "null"), "go *");
        assert_eq!(from(&star, "OPTIONS", "/api/v1/sql", grafana), "204 *");
        assert_eq!(from(&star, "OPTIONS", "/api/v1/write", grafana), "204 ");
        assert_eq!(from(&star, "OPTIONS", "/api/v1/admin/tsdb/flush", grafana), "204 ");
        assert_eq!(from(&star, "POST", "/api/v1/write", grafana), "403 origin");
        assert_eq!(named.origins_text(), "https://grafana.example.com,http://a:1");
        for wrong in ["grafana.example.com", "https://*.example.com", "https://a/b", "://a", "https://"] {
            assert!(Allowed::default().add_origin(wrong).is_err(), "{wrong}");
        }
        assert!(Allowed::default().add_host("https://x").is_err());
    }

    #[test]
    fn a_browser_reaches_a_loopback_address_by_its_names_alone() {
        let none = allowed(&[], &[]);
        let by = |allowed: &Allowed, is_local: bool, host: &str, sign: (&str, &str)| {
            decided(allowed, is_local, "GET", "/api/v1/query", &[("host", host), sign])
        };
        let browser = ("sec-fetch-site", "same-origin");
        for host in [
            "localhost:9095",
            "LOCALHOST",
            "localhost.:1",
            "a.localhost",
            "127.0.0.1:9095",
            "127.9.9.9",
            "[::1]:9095",
            "[::ffff:127.0.0.1]",
        ] {
            assert_eq!(by(&none, true, host, browser), "go", "{host}");
        }
        for host in ["evil.com:9095", "localhost.evil.com", "127.0.0.1.evil.com", "0.0.0.0:9095", "", "10.0.0.1"] {
            assert_eq!(by(&none, true, host, browser), "403 host", "{host}");
            assert_eq!(by(&none, true, host, ("origin", "http://evil.com:9095")), "403 host", "{host}");
            // Grafana in a container, and a server that is not on loopback.
            assert_eq!(by(&none, true, host, ("x-grafana", "1")), "go");
            assert_eq!(by(&none, false, host, browser), "go");
        }
        let proxy = allowed(&[], &["Quiver.example.com"]);
        assert_eq!(by(&proxy, true, "quiver.example.com", browser), "go");
        assert_eq!(by(&proxy, true, "quiver.example.com:443", browser), "go");
        assert_eq!(by(&proxy, true, "example.com", browser), "403 host");
    }
}
