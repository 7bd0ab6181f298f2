//! Checks of every request before routing, and the answers for unknown routes.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{Method, Response, StatusCode, Uri, Version, header, request::Parts};

use super::error::{ApiError, ErrorType};
use super::params::unescape_path;
use crate::rejections::{Cause, Door, Reason};

/// A request that is malformed, though it parses as HTTP.
pub fn check(parts: &Parts) -> Result<(), ApiError> {
    let hosts = parts.headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && parts.version == Version::HTTP_11) {
        let text = format!("the request has {hosts} Host headers: HTTP/1.1 asks for one");
        return Err(ApiError::bad_data(text));
    }
    if let Some(host) = parts.headers.get(header::HOST)
        && !host.to_str().is_ok_and(is_host)
    {
        let shown = quoted(&String::from_utf8_lossy(host.as_bytes()));
        return Err(ApiError::bad_data(format!("the Host header {shown} is no host and port")));
    }
    let path = parts.uri.path();
    match unescape_path(path) {
        Ok(_) => Ok(()),
        Err(why) => Err(ApiError::bad_data(format!("invalid path {}: {why}", quoted(path)))),
    }
}

/// Is it a host, with a port or without, or nothing?
fn is_host(text: &str) -> bool {
    text.is_empty()
        || (text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(&b))
            && super::origin::split_host(text).is_some())
}

fn quoted(text: &str) -> String {
    quiver_model::labels::quoted(&super::error::bounded(text))
}

/// What the routes of the API begin with.
const API: &str = "/api/v1";

/// What stands in other systems where nothing is here, and what to use.
const ELSEWHERE: [(&[&str], &str); 9] = [
    (
        &["/v1/traces", "/v1/logs", "/v1/profiles", "/api/v1/otlp/v1/traces", "/api/v1/otlp/v1/logs"],
        "Quiver takes OTLP metrics only: POST /v1/metrics",
    ),
    (
        &[
            "/otlp",
            "/otlp/v1/metrics",
            "/v1/metric",
            "/metrics/v1",
            "/opentelemetry/v1/metrics",
            "/opentelemetry/api/v1/push",
            "/api/v1/otlp",
        ],
        "OTLP metrics are sent to /v1/metrics or /api/v1/otlp/v1/metrics (POST)",
    ),
    (
        &[
            "/write",
            "/receive",
            "/api/v1/receive",
            "/api/v1/push",
            "/api/prom/push",
            "/api/v1/prom/write",
            "/prometheus/api/v1/write",
        ],
        "Prometheus remote write is sent to /api/v1/write (POST)",
    ),
    (&["/api/v1/read"], "there is no remote read: GET /api/v1/query_range, /api/v1/sql or /api/v1/export"),
    (
        &["/federate"],
        "there is no federation: read series by GET /api/v1/query or /api/v1/export, or have them sent by remote write",
    ),
    (
        &["/health", "/healthz", "/ping", "/ready", "/readyz", "/livez", "/status", "/-/health", "/api/health"],
        "GET /-/healthy says whether the server runs, /-/ready whether it answers queries",
    ),
    (&["/-/quit"], "the server is stopped by a signal (SIGTERM)"),
    (
        &["/graph", "/query", "/ui", "/favicon.ico", "/targets", "/alerts"],
        "Quiver has no web interface; GET / lists the endpoints",
    ),
    (
        &["/sql", "/query_range", "/labels", "/series"],
        "the API is below /api/v1/, such as /api/v1/query and /api/v1/sql",
    ),
];

fn advice(method: &Method, path: &str) -> Cow<'static, str> {
    let bare = path.trim_end_matches('/');
    let found = ELSEWHERE.iter().find(|(paths, _)| paths.iter().any(|p| p.eq_ignore_ascii_case(bare)));
    match found {
        Some((_, text)) => Cow::Borrowed(*text),
        None if *method == Method::POST || *method == Method::PUT => Cow::Borrowed(
            "OTLP metrics are sent to /v1/metrics, Prometheus remote write to /api/v1/write; GET / lists the endpoints",
        ),
        None => Cow::Borrowed("GET / lists the endpoints"),
    }
}

/// The answer for an unknown route. A client that sends data to a wrong path is also logged.
pub async fn missing(method: Method, uri: Uri) -> Response<Body> {
    no_route(&method, uri.path())
}

/// The same below `/api/v1`, which axum takes off the path.
pub async fn missing_below(method: Method, uri: Uri) -> Response<Body> {
    no_route(&method, &format!("{API}{}", uri.path()))
}

fn no_route(method: &Method, path: &str) -> Response<Body> {
    let text = format!("there is no {}: {}", quoted(path), advice(method, path));
    misdirected(method, path, ApiError::new(ErrorType::NotFound, text).response())
}

/// The answer where a route does not take the method; axum adds which it takes.
pub async fn not_allowed(method: Method, uri: Uri) -> Response<Body> {
    not_this_method(&method, uri.path())
}

/// The same below `/api/v1`.
pub async fn not_allowed_below(method: Method, uri: Uri) -> Response<Body> {
    not_this_method(&method, &format!("{API}{}", uri.path()))
}

fn not_this_method(method: &Method, path: &str) -> Response<Body> {
    let advice = match path {
        "/" => advice(method, path),
        _ => Cow::Borrowed("the header Allow says what is"),
    };
    let text = format!("{method} is not allowed for {}: {advice}", quoted(path));
    let mut r = ApiError::bad_data(&text).with_status(StatusCode::METHOD_NOT_ALLOWED);
    r.extensions_mut().insert(Cause::new(Reason::Method, &text));
    // Exporters that were given the address alone post to `/`.
    if path == "/" { misdirected(method, path, r) } else { r }
}

/// Data that is sent to a wrong path is logged like what the right one rejects.
fn misdirected(method: &Method, path: &str, mut answer: Response<Body>) -> Response<Body> {
    if [Method::POST, Method::PUT].contains(method) {
        let is_remote_write = ["write", "push", "receive"].iter().any(|word| path.contains(word));
        answer.extensions_mut().insert(if is_remote_write { Door::RemoteWrite } else { Door::OtlpHttp });
    }
    answer
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    #[test]
    fn paths_of_other_systems_say_what_is_here() {
        for (method, path, want) in [
            ("POST", "/", "/v1/metrics"),
            ("POST", "/v1/traces/", "metrics only"),
            ("POST", "/api/v1/push", "/api/v1/write"),
            ("GET", "/federate", "/api/v1/export"),
            ("GET", "/health", "/-/healthy"),
            ("GET", "/favicon.ico", "GET /"),
            ("GET", "/nothing", "GET /"),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert!(advice(&method, path).contains(want), "{path}");
        }
    }

    #[test]
    fn hosts_and_escapes_are_checked() {
        let at = |path: &str, hosts: usize, version: Version| {
            let mut b = Request::builder().uri(path).version(version);
            for _ in 0..hosts {
                b = b.header("host", "q");
            }
            check(&b.body(()).unwrap().into_parts().0).map_err(|e| e.text)
        };
        assert_eq!(at("/a%20b/%c3%a4", 1, Version::HTTP_11), Ok(()));
        assert_eq!(at("/", 0, Version::HTTP_10), Ok(()));
        assert!(at("/", 0, Version::HTTP_11).unwrap_err().contains("0 Host headers"));
        assert!(at("/", 2, Version::HTTP_11).unwrap_err().contains("2 Host headers"));
        assert!(at("/label/%zz/values", 1, Version::HTTP_11).unwrap_err().contains("escape"));
        assert!(at("/label/%f", 1, Version::HTTP_11).unwrap_err().contains("escape"));
        assert!(at("/label/%ff/values", 1, Version::HTTP_11).unwrap_err().contains("UTF-8"));
    }
}
