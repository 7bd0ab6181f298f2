//! Browsers: which pages may read and write, and by which names a server on a loopback address is reached.

use crate::http::Response;
use crate::remote_write::{Series, V2, body_v2};
use crate::server::{Server, Start};

fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    server.client().request(method, path, headers, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

/// A request with a `Host` of its own.
fn by_name(server: &Server, host: &str, headers: &str) -> u16 {
    use std::io::{Read, Write};
    let mut s = std::net::TcpStream::connect(server.address()).unwrap();
    let request = format!("GET /api/v1/query?query=1 HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n");
    s.write_all(request.as_bytes()).unwrap();
    let mut out = String::new();
    s.read_to_string(&mut out).unwrap();
    out.split(' ').nth(1).and_then(|c| c.parse().ok()).unwrap_or_else(|| panic!("{out}"))
}

#[test]
fn preflights_are_answered_and_nothing_is_allowed_by_default() {
    let server = Server::start();
    let origin = ("origin", "https://grafana.example.com");
    for path in
        ["/api/v1/query", "/api/v1/write", "/api/v1/admin/tsdb/flush", "/v1/metrics", "/api/v1/nothing", "/metrics"]
    {
        let r = ask(&server, "OPTIONS", path, &[origin, ("access-control-request-method", "POST")], b"");
        assert_eq!((r.status, r.body.len()), (204, 0), "{path}");
        assert_eq!(r.header("access-control-allow-origin"), "", "{path}");
    }
    let r = ask(&server, "GET", "/api/v1/query?query=1", &[origin], b"");
    assert_eq!((r.status, r.header("access-control-allow-origin")), (200, ""));
    // A page that writes behind its reader's back.
    let body = body_v2(&[Series::new("m", &[]).float(1_700_000_000_000, 1.0)]);
    let own = format!("http://{}", server.address());
    for (origin, code) in [("https://evil.example.com", 403), ("null", 403), (own.as_str(), 204)] {
        let r = ask(&server, "POST", "/api/v1/write", &[("content-type", V2), ("origin", origin)], &body);
        assert_eq!(r.status, code, "{origin}: {}", r.text());
        let r = ask(&server, "POST", "/api/v1/admin/tsdb/flush", &[("origin", origin)], b"");
        assert_eq!(r.status, code, "{origin}: {}", r.text());
    }
    assert_eq!(ask(&server, "POST", "/-/reload", &[origin], b"").status, 403);
    assert_eq!(ask(&server, "DELETE", "/api/v1/status/active_queries/1", &[origin], b"").status, 403);
    let forbidden: f64 = server
        .get("/metrics", &[])
        .text()
        .lines()
        .filter(|l| l.contains("reason=\"forbidden\""))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert_eq!(forbidden, 6.0);
    let log = server.log();
    assert_eq!(log.lines().filter(|l| l.contains("evil.example.com")).count(), 2, "two kinds of requests: {log}");
}

#[test]
fn named_origins_read_and_write_and_a_star_reads() {
    let named = Start::new().with(&["--cors-origins", "https://grafana.example.com,http://a:3000"]).ready();
    let origin = ("origin", "https://grafana.example.com");
    let r = ask(&named, "GET", "/api/v1/query?query=1", &[origin], b"");
    assert_eq!(r.header("access-control-allow-origin"), "https://grafana.example.com");
    assert!(r.header("vary").to_lowercase().contains("origin"));
    let asks = [origin, ("access-control-request-method", "POST"), ("access-control-request-headers", "content-type")];
    let r = ask(&named, "OPTIONS", "/api/v1/query", &asks, b"");
    assert!(r.header("access-control-allow-headers").to_lowercase().contains("content-type"), "{:?}", r.headers);
    assert!(r.header("access-control-allow-methods").contains("POST"));
    assert_eq!(ask(&named, "POST", "/api/v1/admin/tsdb/flush", &[origin], b"").status, 204);
    assert_eq!(ask(&named, "POST", "/api/v1/admin/tsdb/flush", &[("origin", "http://b:3000")], b"").status, 403);

    let star = Start::new().with(&["--cors-origins", "*"]).ready();
    assert!(star.log().contains("WARN") && star.log().contains("--cors-origins"), "{}", star.log());
    let r = ask(&star, "GET", "/api/v1/query?query=1", &[origin], b"");
    assert_eq!(r.header("access-control-allow-origin"), "*");
    let r = ask(&star, "OPTIONS", "/api/v1/write", &asks, b"");
    assert_eq!((r.status, r.header("access-control-allow-origin")), (204, ""));
    let r = ask(&star, "POST", "/api/v1/write", &[origin, ("content-type", V2)], b"x");
    assert_eq!((r.status, r.header("access-control-allow-origin")), (403, ""));
    // Errors are readable, too.
    let r = ask(&star, "GET", "/api/v1/query?query=%28", &[origin], b"");
    assert_eq!((r.status, r.header("access-control-allow-origin")), (400, "*"));
    assert!(Start::new().with(&["--cors-origins", "grafana.example.com"]).announced().is_err());
}

#[test]
fn a_name_that_was_bound_to_a_loopback_address_is_refused() {
    let server = Server::start();
    let browser = "sec-fetch-site: same-origin\r\n";
    let port = server.address().port();
    for host in [format!("127.0.0.1:{port}"), format!("LOCALHOST:{port}"), "localhost.".into(), format!("[::1]:{port}")]
    {
        assert_eq!(by_name(&server, &host, browser), 200, "{host}");
    }
    for host in ["evil.example.com", "localhost.evil.example.com", "10.0.0.1"] {
        assert_eq!(by_name(&server, host, browser), 403, "{host}");
        // By a proxy or in a container, without a browser's signs.
        assert_eq!(by_name(&server, host, ""), 200, "{host}");
    }
    assert_eq!(by_name(&server, "evil.example.com", "origin: http://evil.example.com\r\n"), 403);
    let proxied = Start::new().with(&["--allowed-hosts", "quiver.example.com"]).ready();
    assert_eq!(by_name(&proxied, "Quiver.example.com", browser), 200);
    assert_eq!(by_name(&proxied, "evil.example.com", browser), 403);
}

#[test]
fn a_request_over_http_1_to_the_grpc_port_is_told_so() {
    use std::io::{Read, Write};
    let server = Start::new().without("--grpc-listen").with(&["--grpc-listen", "127.0.0.1:0"]).ready();
    for request in
        ["POST /v1/metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", "GET / HTTP/1.1\r\nhost: x\r\n\r\n"]
    {
        let mut s = std::net::TcpStream::connect(server.grpc().unwrap()).unwrap();
        s.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        s.write_all(request.as_bytes()).unwrap();
        let mut out = Vec::new();
        let _ = s.read_to_end(&mut out);
        let text = String::from_utf8_lossy(&out);
        assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("gRPC"), "{text}");
    }
}
