//! Requests that never reach a handler, or a route that is not there: each is told what is wrong, in the form of the API.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::remote_write::{Series, write};
use crate::server::Server;

const T: i64 = 1_700_000_000_000;

/// All that a server answers to some bytes until it closes, or until a whole answer is there.
fn raw(server: &Server, bytes: &[u8]) -> (u16, String) {
    let mut s = TcpStream::connect(server.address()).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let _ = s.write_all(bytes);
    let mut out = Vec::new();
    let mut piece = [0; 16 << 10];
    while !is_whole(&out) {
        match s.read(&mut piece) {
            Ok(n) if n > 0 => out.extend_from_slice(&piece[..n]),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&out).into_owned();
    let status = text.split(' ').nth(1).and_then(|c| c.parse().ok()).unwrap_or(0);
    (status, text)
}

fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
    length.is_some_and(|n: usize| body.len() >= n)
}

/// An error of the API with this status and word in it.
fn is_error(server: &Server, bytes: &[u8], code: u16, word: &str) {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let (status, text) = raw(server, bytes);
    assert_eq!(status, code, "{shown:?}: {text:?}");
    let body = text.split_once("\r\n\r\n").map_or("", |(_, b)| b);
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{shown:?}: {e}: {text:?}"));
    assert_eq!(json["status"], "error", "{shown:?}: {text}");
    assert!(json["error"].as_str().is_some_and(|e| e.contains(word)), "{shown:?}, {word}: {text}");
    assert!(text.len() < 8_000, "an error of {} bytes", text.len());
}

/// A selector so long that the request line is `bytes` bytes.
fn url(bytes: usize) -> String {
    let begin = "/api/v1/label/i/values?match[]=known%7Bi=~%22";
    let end = "%22%7D";
    let pods = (0..).map(|i| format!("%7Cpod-{:09}-{i:07}", i * 7_919));
    let room = bytes - begin.len() - end.len() - 1;
    format!("{begin}1{}{end}", pods.take(room / 24).collect::<String>())
}

#[test]
fn long_urls_are_answered_or_told_to_post() {
    let server = Server::start();
    write(&mut server.client(), &[Series::new("known", &[("i", "1")]).float(T, 1.0)]);
    for bytes in [1_000, 10_000, 40_000, 65_500] {
        let url = url(bytes);
        assert!(url.len() <= 65_534);
        let answer = server.client().get(&url, &[]).unwrap();
        assert_eq!(answer.status, 200, "{bytes}: {}", answer.text());
        assert_eq!(answer.json()["data"], serde_json::json!(["1"]));
    }
    for bytes in [65_600, 70_000, 130_000, 200_000, 1 << 20] {
        let request = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", url(bytes));
        is_error(&server, request.as_bytes(), 414, "POST");
    }
    // The same by POST.
    let pods: String = (0..4_000).map(|i| format!("|pod-{:09}-{i:07}", i * 7_919)).collect();
    let selector = format!("known{{i=~\"1{pods}\"}}");
    assert!(selector.len() > 65_534);
    for (path, found) in
        [("/api/v1/label/i/values", "\"1\""), ("/api/v1/labels", "\"i\""), ("/api/v1/series", "\"known\"")]
    {
        let answer = server.post(path, &[("match[]", &selector)]);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(answer.text().contains(found), "{path}: {}", answer.text());
    }
    // Headers that are too many or too long, and a long URL beside long headers.
    let headers: String = (0..101).map(|i| format!("x-{i}: 1\r\n")).collect();
    is_error(&server, format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n").as_bytes(), 431, "headers");
    let long = "x".repeat(200_000);
    is_error(&server, format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {long}\r\n\r\n").as_bytes(), 431, "headers");
    let long = "x".repeat(40_000);
    let request = format!("GET {} HTTP/1.1\r\nhost: x\r\ncookie: {long}\r\n\r\n", url(65_000));
    assert_eq!(raw(&server, request.as_bytes()).0, 200);
}

#[test]
fn malformed_requests_are_errors_of_the_api() {
    let server = Server::start();
    let chunked = |body: &str| {
        format!("POST /api/v1/write HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{body}").into_bytes()
    };
    for (bytes, word) in [
        (&b"GET /api/v1/label/%ff/values HTTP/1.1\r\nhost: x\r\n\r\n"[..], "UTF-8"),
        (b"GET /api/v1/label/%zz/values HTTP/1.1\r\nhost: x\r\n\r\n", "escape"),
        (b"GET /api/v1/label/%/values HTTP/1.1\r\nhost: x\r\n\r\n", "escape"),
        (b"GET /api/v1/status/%c3%28 HTTP/1.1\r\nhost: x\r\n\r\n", "UTF-8"),
        (b"GET /-/healthy HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", "Host"),
        (b"GET /-/healthy HTTP/1.1\r\n\r\n", "Host"),
        (b"GET /\x01 HTTP/1.1\r\nhost: x\r\n\r\n", "malformed"),
        (b"GET / HTTP/9.9\r\nhost: x\r\n\r\n", "malformed"),
        (b"GET / FTP/1.1\r\nhost: x\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nno colon here\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad name: 1\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: \x00\r\n\r\n", "malformed"),
        (b"POST /api/v1/write HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", "malformed"),
        (b"POST /api/v1/write HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", "malformed"),
        (b"POST /api/v1/write HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", "malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "malformed"),
        (b"GET\r\n\r\n", "malformed"),
    ] {
        is_error(&server, bytes, 400, word);
        // A second request of a connection that is in order.
        let both = [&b"GET /-/healthy HTTP/1.1\r\nhost: x\r\n\r\n"[..], bytes].concat();
        assert_eq!(raw(&server, &both).0, 200);
    }
    // What Go takes as it is typed.
    for target in
        ["/api/v1/query?query=vector(1)>0", "/api/v1/query?query=up{job=\"a\"}", "/api/v1/labels?match[]=up{a=~`<b>`}"]
    {
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
        let (status, text) = raw(&server, request.as_bytes());
        assert_eq!(status, 200, "{target}: {text}");
        // In two pieces, as a long URL comes.
        let (first, second) = request.split_at(request.len() / 3);
        let mut s = TcpStream::connect(server.address()).unwrap();
        s.write_all(first.as_bytes()).unwrap();
        s.write_all(second.as_bytes()).unwrap();
        let mut begin = [0; 12];
        s.read_exact(&mut begin).unwrap();
        assert_eq!(begin, *b"HTTP/1.1 200", "{target}");
    }
    for host in ["a b", "a/b", "user@a", "a\u{e9}", "a:x", "a:99999", "[::1", "a,b", ":1"] {
        is_error(&server, format!("GET /-/healthy HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes(), 400, "Host");
    }
    // Counted, and gRPC on this port is told by its name.
    let _ = raw(&server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    for (door, least) in [("api", 22.0), ("otlp_grpc", 1.0)] {
        let name = format!("quiver_requests_rejected_total{{door=\"{door}\",reason=\"bad_data\"}}");
        server.wait_until("malformed requests are counted", |s| s.metric(&name) >= least);
    }
    assert!(server.log().contains("gRPC on the HTTP port"), "{}", server.log());
    // HTTP/1.0 asks for no Host.
    assert_eq!(raw(&server, b"GET /-/healthy HTTP/1.0\r\n\r\n").0, 200);
    // A body that is none is not sent again; one that breaks off is.
    for body in ["zz\r\n", "5\r\nabcdefg\r\n", "-1\r\n", "ffffffffffffffffff\r\n"] {
        let (status, text) = raw(&server, &chunked(body));
        assert_eq!(status, 400, "{body:?}: {text}");
        let form = format!(
            "POST /api/v1/query HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             transfer-encoding: chunked\r\n\r\n{body}"
        );
        is_error(&server, form.as_bytes(), 400, "malformed");
    }
    // Both lengths: chunks decide, and the connection ends with the answer, so that nothing can hide behind it.
    let both =
        b"GET /-/healthy HTTP/1.1\r\nhost: x\r\ncontent-length: 60\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n\
                 GET /-/ready HTTP/1.1\r\nhost: x\r\n\r\n";
    let (status, text) = raw(&server, both);
    assert_eq!((status, text.matches("HTTP/1.1").count()), (200, 1), "{text}");
    assert!(text.contains("connection: close"), "{text}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn errors_do_not_repeat_long_inputs() {
    let server = Server::start();
    let digits = "1".repeat(1 << 20);
    let under = "1".repeat(1_000_000);
    for name in ["time", "timeout", "limit", "lookback_delta", "stats", "hint", "explain"] {
        let answer = server.post("/api/v1/query", &[("query", "1"), (name, &digits)]);
        assert!(answer.text().len() < 6_000, "{name}: {} bytes", answer.text().len());
    }
    for query in
        [under.clone(), format!("x[{under}s]"), format!("x{{a={under}}}"), format!("\"{under}"), format!("f{under}(x)")]
    {
        for path in ["/api/v1/query", "/api/v1/format_query", "/api/v1/parse_query", "/api/v1/query_exemplars"] {
            let answer = server.post(path, &[("query", &query), ("start", "1"), ("end", "2")]);
            assert!(answer.status == 200 || answer.text().len() < 6_000, "{path}: {} bytes", answer.text().len());
        }
        let answer = server.post("/api/v1/sql", &[("query", &format!("SELECT '{query}' FROM nothing.x"))]);
        assert!(answer.text().len() < 6_000, "{} bytes", answer.text().len());
    }
    for (path, name) in [
        ("/api/v1/query_range", "step"),
        ("/api/v1/series", "start"),
        ("/api/v1/series", "match[]"),
        ("/api/v1/labels", "limit"),
        ("/api/v1/sql", "format"),
        ("/api/v1/sql", "timeout"),
        ("/api/v1/export", "start"),
        ("/api/v1/admin/tsdb/delete_series", "match[]"),
        ("/api/v1/admin/tsdb/snapshot", "skip_head"),
    ] {
        let parameters = [("query", "SELECT 1"), ("start", "1"), ("end", "2"), (name, &digits)];
        let last: Vec<_> = parameters.into_iter().rev().collect();
        let answer = server.post(path, &last);
        assert!(answer.text().len() < 6_000, "{path} {name}: {} bytes", answer.text().len());
    }
    let long = "a".repeat(60_000);
    for path in [format!("/{long}"), format!("/api/v1/status/{long}"), format!("/api/v1/admin/tsdb/{long}")] {
        assert!(server.get(&path, &[]).text().len() < 6_000);
        assert!(server.post(&path, &[]).text().len() < 6_000);
    }
    for header in ["content-type", "content-encoding"] {
        for path in ["/api/v1/write", "/v1/metrics"] {
            let answer = server.client().request("POST", path, &[(header, &long)], b"x").unwrap();
            assert!((400..500).contains(&answer.status) && answer.text().len() < 6_000, "{path} {header}");
        }
    }
    assert!(server.log().len() < 100_000, "a log of {} bytes", server.log().len());
}

#[test]
fn refused_requests_are_read_on_so_that_the_status_is_seen() {
    let server = Server::start();
    let body = vec![b'x'; 8 << 20];
    for (method, path, content_type, code) in [
        ("POST", "/api/v1/write", "text/plain", 415),
        ("POST", "/v1/metrics", "text/plain", 415),
        ("POST", "/v1/traces", "application/x-protobuf", 404),
        ("POST", "/", "application/x-protobuf", 405),
        ("POST", "/metrics", "text/plain", 405),
        ("POST", "/api/v1/nothing", "text/plain", 404),
        ("PUT", "/api/v1/write", "application/x-protobuf", 405),
        ("DELETE", "/api/v1/query", "text/plain", 405),
    ] {
        let mut client = server.client();
        // Twice: what was read to its end leaves the connection in order.
        for _ in 0..2 {
            let answer = client.once(method, path, &[("content-type", content_type)], &body).unwrap();
            assert_eq!(answer.status, code, "{method} {path}: {}", answer.text());
            assert!(!answer.body.is_empty(), "{method} {path}");
        }
    }
    // Too large, in one piece and in chunks.
    let mut client = server.client();
    let answer = client.once("POST", "/api/v1/write", &[], &vec![0; 33 << 20]).unwrap();
    assert_eq!(answer.status, 413, "{}", answer.text());
    // A client that waits for leave to send is refused without a byte of it.
    let waits = "POST /api/v1/write HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: 1000000\r\n\
                 expect: 100-continue\r\n\r\n";
    assert_eq!(raw(&server, waits.as_bytes()).0, 415);
    // One that never stops is cut.
    let mut endless = TcpStream::connect(server.address()).unwrap();
    endless.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    endless.write_all(b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n").unwrap();
    let piece = vec![b'x'; 1 << 20];
    let sent = (0..1_000).take_while(|_| endless.write_all(&piece).is_ok()).count();
    assert!(sent < 200, "{sent} MiB were read of what was refused");
}

#[test]
fn what_is_not_there_says_what_is() {
    let server = Server::start();
    for (method, path, code, word) in [
        ("GET", "/federate", 404, "/api/v1/export"),
        ("GET", "/health", 404, "/-/healthy"),
        ("GET", "/ping", 404, "/-/ready"),
        ("GET", "/favicon.ico", 404, "GET /"),
        ("GET", "/nothing", 404, "GET /"),
        ("GET", "/api/v1/nothing", 404, "GET /"),
        ("GET", "/api/v1", 404, "GET /"),
        ("GET", "/api/v2/query", 404, "GET /"),
        ("POST", "/v1/traces", 404, "/v1/metrics"),
        ("POST", "/v1/logs", 404, "/v1/metrics"),
        ("POST", "/v1/metrics/", 404, "/v1/metrics"),
        ("POST", "/opentelemetry/v1/metrics", 404, "/v1/metrics"),
        ("POST", "/api/v1/push", 404, "/api/v1/write"),
        ("POST", "/", 405, "/v1/metrics"),
        ("POST", "/api/v1/read", 404, "remote read"),
    ] {
        let answer = server.client().request(method, path, &[], b"").unwrap();
        assert_eq!(answer.status, code, "{method} {path}");
        let json = answer.json();
        assert_eq!(json["status"], "error");
        assert!(json["error"].as_str().is_some_and(|e| e.contains(word)), "{path}: {}", answer.text());
    }
    for (method, path, allowed) in [
        ("POST", "/api/v1/metadata", "GET"),
        ("POST", "/metrics", "GET"),
        ("GET", "/api/v1/write", "POST"),
        ("GET", "/v1/metrics", "POST"),
        ("PATCH", "/api/v1/query", "GET"),
        ("GET", "/api/v1/admin/tsdb/flush", "POST"),
    ] {
        let answer = server.client().request(method, path, &[], b"").unwrap();
        assert_eq!((answer.status, answer.json()["status"].as_str()), (405, Some("error")), "{method} {path}");
        assert!(answer.header("allow").contains(allowed), "{method} {path}: {:?}", answer.headers);
    }
    // A wrong path for data is in the log, with the right one.
    let log = server.log();
    let told = log.lines().filter(|l| l.contains("WARN") && l.contains("/v1/traces")).collect::<Vec<_>>();
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains("POST /v1/metrics"), "{log}");
    assert!(log.lines().any(|l| l.contains("WARN") && l.contains("/api/v1/write")), "{log}");
}
