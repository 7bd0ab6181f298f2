//! Bad input of every kind: a clear error each time, and nobody else is harmed.
//!
//! Every test writes some known series first, does its worst, and then asks for them again from the same process.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use prost::Message;
use serde_json::json;

use crate::http::Response;
use crate::load::Random;
use crate::remote_write::{
    Native, Series, V1, V2, body_v1, body_v2, message_v1, message_v2, post, post_message, snappy, write,
};
use crate::server::{QUIVER, Server, Start};

const T: i64 = 1_700_000_000_000;
const AT: &str = "1700000000";

/// A server with known data.
struct Victim {
    server: Server,
    id: u32,
}

impl Victim {
    fn new() -> Self {
        let server = Server::start();
        let known: Vec<_> = (0..50)
            .map(|i| Series::new("known", &[("i", &i.to_string())]).floats(T - 9_000, 1000, &[f64::from(i); 10]))
            .collect();
        write(&mut server.client(), &known);
        let id = server.id();
        Self { server, id }
    }

    /// Alive, the same process, with the known data and nothing else but `others` series.
    fn is_unharmed(&mut self, others: u64) {
        assert!(self.server.is_alive(), "the server has ended: {}", self.server.log());
        assert_eq!(self.server.id(), self.id);
        assert_eq!(self.server.query("sum(count_over_time(known[1m]))", AT)[0]["value"][1], "500");
        assert_eq!(self.server.query("sum(known)", AT)[0]["value"][1], "1225");
        let rows = self.server.sql("SELECT count(*) FROM series WHERE metric <> 'known'");
        assert_eq!(rows[0][0], json!(others), "series that are not the known ones");
        write(&mut self.server.client(), &[Series::new("known", &[("i", "0")]).float(T, 0.0)]);
        assert!(!self.server.log().contains("panicked"), "{}", self.server.log());
    }
}

fn refused(r: &Response, code: u16, word: &str) {
    assert_eq!(r.status, code, "{}", r.text());
    assert!(r.text().to_lowercase().contains(word), "{word}: {}", r.text());
    assert!(r.text().len() < 20_000, "an error of {} bytes", r.text().len());
}

#[test]
fn snappy_that_is_none_or_a_bomb() {
    let mut v = Victim::new();
    let mut c = v.server.client();
    let good = body_v2(&[Series::new("other", &[]).float(T, 1.0)]);
    let mut corrupt = good.clone();
    let n = corrupt.len();
    corrupt[n / 2..].fill(0xff);
    refused(&post(&mut c, V2, &corrupt).unwrap(), 400, "decode");
    refused(&post(&mut c, V2, &good[..n - 3]).unwrap(), 400, "snappy");
    refused(&post(&mut c, V2, b"").unwrap(), 400, "snappy");
    refused(&post(&mut c, V1, &[0xff; 1000]).unwrap(), 400, "snappy");
    // Declares 4 GiB, 33 MiB, and 20 MiB that are not there.
    refused(&post(&mut c, V2, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0]).unwrap(), 400, "limit");
    refused(&post(&mut c, V2, &snappy(&vec![0; 33 << 20])).unwrap(), 400, "limit");
    let mut lies = vec![0x80, 0x80, 0x80, 0x0a];
    lies.extend_from_slice(&good[1..]);
    refused(&post(&mut c, V2, &lies).unwrap(), 400, "snappy");
    // The framing format is not the block format.
    let mut framed = b"\xff\x06\x00\x00sNaPpY".to_vec();
    framed.extend_from_slice(&good);
    refused(&post(&mut c, V2, &framed).unwrap(), 400, "");
    v.is_unharmed(0);
}

#[test]
fn bodies_over_the_limit() {
    let mut v = Victim::new();
    // Declared, and only declared.
    let r = raw(&v.server, b"POST /api/v1/write HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n");
    assert!(r.starts_with("HTTP/1.1 413"), "{r}");
    let r = post(&mut v.server.client(), V2, &vec![0; (32 << 20) + 1]).unwrap();
    refused(&r, 413, "limit");
    v.is_unharmed(0);
}

/// What a server answers to some bytes, until it closes or falls silent.
fn raw(server: &Server, bytes: &[u8]) -> String {
    use std::io::{Read, Write};
    let mut s = std::net::TcpStream::connect(server.address()).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let _ = s.write_all(bytes);
    let mut out = vec![0; 64 << 10];
    let n = s.read(&mut out).unwrap_or(0);
    String::from_utf8_lossy(&out[..n]).into_owned()
}

#[test]
fn requests_that_are_not_http() {
    let mut v = Victim::new();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /api/v1/query HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /api/v1/query?query=%zz HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /api/v1/query?query=%ff%fe HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let r = raw(&v.server, bytes);
        assert!(r.is_empty() || r.starts_with("HTTP/1.1 4"), "{r}");
    }
    let many: String = (0..200).map(|i| format!("h{i}: x\r\n")).collect();
    let r = raw(&v.server, format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes());
    assert!(r.starts_with("HTTP/1.1 4"), "{r}");
    let r = raw(&v.server, format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(1 << 20)).as_bytes());
    assert!(r.is_empty() || r.starts_with("HTTP/1.1 4"), "{r}");
    v.is_unharmed(0);
}

#[test]
fn protobuf_cut_anywhere() {
    let mut v = Victim::new();
    let mut c = v.server.client();
    let h = Native::exponential(1, 1, -2, &[1, 2, 3], 9.0);
    let series = [Series::new("cut", &[("a", "b")]).float(T, 1.0).histogram(T + 1, h).exemplar(("t", "x"), 1.0, T)];
    let messages = [(V1, message_v1(&series).encode_to_vec()), (V2, message_v2(&series).encode_to_vec())];
    for (content_type, message) in &messages {
        for n in 1..message.len() {
            let r = post_message(&mut c, content_type, &message[..n]);
            // Cut between two fields, it may be a message still.
            assert!([204, 400].contains(&r.status), "{n}: {} {}", r.status, r.text());
        }
    }
    let others = v.server.sql("SELECT count(*) FROM series WHERE metric <> 'known'")[0][0].as_u64().unwrap();
    assert!(others <= 1, "{others} series out of cut messages");
    v.is_unharmed(others);
}

#[test]
fn random_and_mutated_protobuf() {
    let mut v = Victim::new();
    let mut random = Random::seeded("hostile");
    let mut c = v.server.client();
    for _ in 0..300 {
        let bytes: Vec<u8> = (0..random.below(400)).map(|_| random.next() as u8).collect();
        for content_type in [V1, V2] {
            let r = post_message(&mut c, content_type, &bytes);
            assert!([204, 400].contains(&r.status), "{} {}", r.status, r.text());
        }
    }
    // Valid messages with some bytes changed; their series may be anything, so a server of their own takes them.
    let mut other = Server::start();
    let mut c = other.client();
    let h = Native::exponential(1, 1, -2, &[1, 2, 3], 9.0);
    let custom = Native::custom(&[1.0, 2.0], &[1, 2, 3], 9.0);
    let series = [
        Series::new("mutated", &[("a", "b")]).floats(T, 1000, &[1.0, 2.0, f64::NAN]).since(T - 5),
        Series::new("mutated_native", &[("a", "c")]).histogram(T, h).histogram(T + 1, custom).described(3, "h", "u"),
    ];
    for (content_type, message) in
        [(V1, message_v1(&series).encode_to_vec()), (V2, message_v2(&series).encode_to_vec())]
    {
        for _ in 0..500 {
            let mut bytes = message.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
            let r = post_message(&mut c, content_type, &bytes);
            assert!([204, 400].contains(&r.status), "{} {}", r.status, r.text());
        }
    }
    // All of it can be read, flushed and replayed.
    let before = other.sql("SELECT count(*) FROM samples")[0][0].clone();
    other.kill();
    other.restart();
    assert_eq!(other.sql("SELECT count(*) FROM samples")[0][0], before);
    other.admin("flush");
    assert_eq!(other.sql("SELECT count(*) FROM samples")[0][0], before);
    let r = other.post("/api/v1/query", &[("query", "count({__name__=~\".+\"})"), ("time", AT)]);
    assert_eq!(r.status, 200, "{}", r.text());
    v.is_unharmed(0);
}

#[test]
fn labels_that_cannot_be() {
    let mut v = Victim::new();
    let mut c = v.server.client();
    let labelled = |labels: &[(&str, &str)]| Series {
        labels: labels.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
        ..Series::default()
    };
    let one = |s: Series| s.float(T, 1.0);
    let long = "x".repeat(100_000);
    let cases = [
        (one(labelled(&[])), "name"),
        (one(labelled(&[("job", "x")])), "name"),
        (one(labelled(&[("__name__", "")])), "name"),
        (one(labelled(&[("__name__", "m"), ("", "x")])), "empty label name"),
        (one(labelled(&[("__name__", "m"), ("a", "1"), ("a", "1")])), "duplicate"),
        (one(labelled(&[("__name__", "m"), ("a", "1"), ("b", "1"), ("a", "2")])), "duplicate"),
        (one(labelled(&[("__name__", "m"), ("__name__", "n")])), "duplicate"),
        (one(labelled(&[("__name__", "m"), ("a", &long)])), "limit"),
        (one(labelled(&[("__name__", "m"), (&long, "a")])), "limit"),
    ];
    for (series, word) in &cases {
        for (content_type, body) in
            [(V1, body_v1(std::slice::from_ref(series))), (V2, body_v2(std::slice::from_ref(series)))]
        {
            refused(&post(&mut c, content_type, &body).unwrap(), 400, word);
        }
    }
    let many: Vec<(String, String)> = (0..10_000).map(|i| (format!("l{i:05}"), i.to_string())).collect();
    let mut wide = Series::new("wide", &[]).float(T, 1.0);
    wide.labels.extend(many);
    refused(&post(&mut c, V2, &body_v2(&[wide.clone()])).unwrap(), 400, "labels");
    refused(&post(&mut c, V1, &body_v1(&[wide])).unwrap(), 400, "labels");
    // Bytes that are not UTF-8, as name, value and metric name.
    for (find, put) in
        [(&b"aaaa"[..], &b"\xff\xfe\xfd\xfc"[..]), (b"bbbb", b"\xc3\x28\xc3\x28"), (b"mmmm", b"\xed\xa0\x80m")]
    {
        let series = [Series::new("mmmm", &[("aaaa", "bbbb")]).float(T, 1.0)];
        for (content_type, mut message) in
            [(V1, message_v1(&series).encode_to_vec()), (V2, message_v2(&series).encode_to_vec())]
        {
            let at = message.windows(4).position(|w| w == find).unwrap();
            message[at..at + 4].copy_from_slice(put);
            refused(&post_message(&mut c, content_type, &message), 400, "utf-8");
        }
    }
    v.is_unharmed(0);
}

#[test]
fn odd_names_and_values_are_data_like_any_other() {
    let mut v = Victim::new();
    let mut c = v.server.client();
    let odd = [
        "with space",
        "new\nline",
        "\u{0}",
        "quote\"back\\slash",
        "${jndi:ldap}",
        "emoji 🏹",
        "{a=\"b\"}",
        "'; DROP TABLE x",
    ];
    let series: Vec<_> = odd.iter().map(|s| Series::new(&format!("odd {s}"), &[(s, s)]).float(T, 1.0)).collect();
    write(&mut c, &series);
    let empty = Series::new("odd_empty", &[("gone", "")]).float(T, 1.0);
    write(&mut c, &[empty]);
    for s in odd {
        let quoted = quiver_quoted(s);
        let found = v.server.query(&format!("{{{quoted}={quoted}}}"), AT);
        assert_eq!(found[0]["metric"][s], s, "{s:?}: {found}");
        let r = v
            .server
            .get(&format!("/api/v1/label/{}/values", crate::http::form(&[("", s)]).trim_start_matches('=')), &[]);
        assert_eq!(r.json()["data"], json!([s]), "{s:?}");
    }
    assert_eq!(
        v.server.query("odd_empty", AT)[0]["metric"],
        json!({"__name__": "odd_empty"}),
        "an empty value is no label"
    );
    v.is_unharmed(odd.len() as u64 + 1);
}

fn quiver_quoted(text: &str) -> String {
    quiverdb::model::labels::quoted(text)
}

#[test]
fn values_and_times_at_their_ends() {
    let mut v = Victim::new();
    let mut c = v.server.client();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let ends = [
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        f64::from_bits(1),
        -0.0,
        f64::NAN,
        -f64::NAN,
        f64::from_bits(0xfff8_0000_0000_0001),
    ];
    write(&mut c, &[Series::new("ends", &[]).floats(T, 1, &ends)]);
    write(&mut c, &[Series::new("times", &[]).float(0, 1.0).float(1, 2.0).float(now + 86_400_000, 3.0)]);
    for ts in [i64::MIN, -1, i64::MAX, now + 3 * 86_400_000] {
        refused(&post(&mut c, V2, &body_v2(&[Series::new("never", &[]).float(ts, 1.0)])).unwrap(), 400, "timestamp");
    }
    // Old and new in one request.
    write(&mut c, &[Series::new("times", &[]).float(now, 4.0).float(31_536_000_000, 5.0)]);
    let check = |v: &Victim| {
        assert_eq!(v.server.sql("SELECT count(*) FROM metrics.ends")[0][0], json!(10));
        let texts = crate::matrix::samples(&v.server, "ends", 1000, T + 500);
        let texts: Vec<_> = texts[0].values.iter().map(|(_, v)| v.as_str()).collect();
        assert_eq!(
            texts,
            [
                "+Inf",
                "-Inf",
                "1.7976931348623157e+308",
                "-1.7976931348623157e+308",
                "2.2250738585072014e-308",
                "5e-324",
                "-0",
                "NaN",
                "NaN",
                "NaN"
            ]
        );
        assert_eq!(v.server.sql("SELECT count(*) FROM metrics.times")[0][0], json!(5));
        assert_eq!(v.server.query("times", "0")[0]["value"][1], "1");
    };
    check(&v);
    v.server.admin("flush");
    check(&v);
    // Queries at the ends of time.
    for time in ["-9223372036854775", "9223372036854775", "0", "-1", "-292273086-05-16T16:47:06Z"] {
        let r = v.server.post("/api/v1/query", &[("query", "sum_over_time(times[1000y]) + time()"), ("time", time)]);
        assert!([200, 400].contains(&r.status), "{time}: {}", r.text());
    }
    for q in ["times offset 290000000y", "times[99999999999y]", "times @ 9e18", "times @ -9e18", "times offset -1e300"]
    {
        let r = v.server.post("/api/v1/query", &[("query", q), ("time", AT)]);
        assert!([200, 400, 422].contains(&r.status), "{q}: {} {}", r.status, r.text());
    }
    v.is_unharmed(2);
}

#[test]
fn histograms_that_cannot_be() {
    let mut v = Victim::new();
    let mut c = v.server.client();
    let good = message_v2(&[Series::new("h", &[]).histogram(T, Native::exponential(1, 1, -2, &[1, 2, 3], 9.0))]);
    type Change = fn(&mut quiver_gateway::proto::v2::Histogram);
    let changes: [(&str, Change); 10] = [
        ("schema", |h| h.schema = 99),
        ("custom buckets", |h| h.schema = -53),
        ("count", |h| h.count = Some(quiver_gateway::proto::v2::histogram::Count::CountInt(1000))),
        ("span", |h| h.positive_spans[0].length = 2),
        ("span", |h| h.positive_spans[0].length = u32::MAX),
        ("span", |h| h.positive_spans.clear()),
        ("", |h| h.positive_deltas[0] = -5),
        ("", |h| h.positive_deltas = vec![i64::MAX, i64::MAX, i64::MIN]),
        ("", |h| h.positive_spans[0].offset = i32::MAX),
        ("", |h| h.custom_values = vec![2.0, 1.0, f64::NAN]),
    ];
    for (i, (word, change)) in changes.iter().enumerate() {
        let mut message = good.clone();
        change(&mut message.timeseries[0].histograms[0]);
        let r = post_message(&mut c, V2, &message.encode_to_vec());
        // The last two may be taken as they are.
        if i < 8 {
            refused(&r, 400, word);
        } else {
            assert!([204, 400].contains(&r.status), "{i}: {} {}", r.status, r.text());
        }
    }
    let others = v.server.sql("SELECT count(*) FROM series WHERE metric = 'h'")[0][0].as_u64().unwrap();
    let r = v.server.post("/api/v1/query", &[("query", "histogram_quantile(0.9, h)"), ("time", AT)]);
    assert_eq!(r.status, 200, "{}", r.text());
    v.is_unharmed(others);
}

#[test]
fn queries_made_to_break_a_parser() {
    let mut v = Victim::new();
    let mut ask = |q: &str, what: &str| {
        let begun = Instant::now();
        let r = v.server.post("/api/v1/query", &[("query", q), ("time", AT)]);
        assert!(begun.elapsed() < Duration::from_secs(30), "{what} took {:?}", begun.elapsed());
        assert!(v.server.is_alive(), "{what}");
        r
    };
    let n = 100_000;
    refused(&ask(&"sum(".repeat(n), "sum("), 400, "bad_data");
    refused(&ask(&"(".repeat(n), "("), 400, "bad_data");
    refused(&ask(&"-".repeat(n), "-"), 400, "bad_data");
    refused(&ask(&"[".repeat(n), "["), 400, "bad_data");
    refused(&ask(&format!("{}1{}", "(".repeat(n), ")".repeat(n)), "(1)"), 400, "bad_data");
    refused(&ask(&format!("{}known", "sum(".repeat(200) + &")".repeat(0)), "sum, 200 deep"), 400, "bad_data");
    let r = ask(&vec!["1"; n].join("+"), "1+1+…");
    assert!([200, 400].contains(&r.status), "{}", r.text());
    let r = ask(&format!("1{}", "^1".repeat(n)), "1^1^…");
    assert!([200, 400].contains(&r.status), "{}", r.text());
    let r = ask(&format!("known{}", " or known".repeat(5000)), "or");
    assert!([200, 400, 422].contains(&r.status), "{}", r.text());
    refused(&ask(&format!("known{{i=~\"{}\"}}", "a".repeat(1 << 20)), "a regex of 1 MiB"), 400, "bad_data");
    refused(&ask(&format!("known{{i=~\"{}\"}}", "(a{1000}){1000}"), "a regex that grows"), 400, "bad_data");
    let alternatives: Vec<_> = (0..20_000).map(|i| format!("x{i}.*y")).collect();
    let r = ask(&format!("known{{i=~\"{}\"}}", alternatives.join("|")), "a regex of many words");
    assert!([200, 400].contains(&r.status), "{}", r.text());
    refused(&ask(&"a".repeat(3 << 20), "3 MiB"), 400, "bad_data");
    refused(&ask("known[1s:0s]", "a subquery without step"), 400, "bad_data");
    let r = ask("sum_over_time(known[100y:1ms])", "a subquery of too many steps");
    assert!([400, 422, 503].contains(&r.status), "{}", r.text());
    for q in ["\u{0}", "known{", "known}", "known[5m", "1 +", "label_replace()", "\"\\xzz\"", "known @ start(", "🏹"]
    {
        refused(&ask(q, q), 400, "bad_data");
    }
    let r = ask("count_values(\"x\", known) + on() group_left known", "");
    assert!([200, 422].contains(&r.status), "{}", r.text());
    v.is_unharmed(0);
}

#[test]
fn ranges_that_cannot_be() {
    let mut v = Victim::new();
    let ask = |start: &str, end: &str, step: &str| {
        v.server.get("/api/v1/query_range", &[("query", "known"), ("start", start), ("end", end), ("step", step)])
    };
    refused(&ask("0", "10", "0"), 400, "step");
    refused(&ask("10", "0", "1"), 400, "before");
    refused(&ask("0", "11001", "1"), 400, "11,000 points");
    refused(&ask("0", "1e15", "0.001"), 400, "11,000 points");
    refused(&ask("-9e15", "9e15", "1"), 400, "11,000 points");
    refused(&ask("NaN", "1", "1"), 400, "start");
    refused(&ask("0", "Inf", "1"), 400, "end");
    refused(&ask("0", "1", "NaN"), 400, "step");
    let r = ask("-9e15", "9e15", "9e9");
    assert!([200, 400].contains(&r.status), "{}", r.text());
    v.is_unharmed(0);
}

#[test]
fn sql_that_does_more_than_read() {
    let mut v = Victim::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    let shown = path.display();
    std::fs::write(folder.path().join("in.csv"), "a\n1\n").unwrap();
    let input = folder.path().join("in.csv");
    for statement in [
        "CREATE TABLE t (a INT)".to_owned(),
        "CREATE TABLE t AS SELECT 1".to_owned(),
        "CREATE VIEW w AS SELECT 1".to_owned(),
        "CREATE SCHEMA s".to_owned(),
        "CREATE DATABASE d".to_owned(),
        "CREATE FUNCTION f() RETURNS INT RETURN 1".to_owned(),
        "DROP TABLE samples".to_owned(),
        "DROP SCHEMA metrics CASCADE".to_owned(),
        "INSERT INTO samples VALUES (1)".to_owned(),
        "INSERT INTO metrics.known (ts, value) VALUES (1, 1)".to_owned(),
        "DELETE FROM samples".to_owned(),
        "UPDATE samples SET value = 0".to_owned(),
        "TRUNCATE TABLE samples".to_owned(),
        format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{}'", input.display()),
        format!("COPY (SELECT 1) TO '{shown}'"),
        format!("COPY samples TO '{shown}' STORED AS CSV"),
        "SET datafusion.execution.batch_size = 1".to_owned(),
        "RESET datafusion.execution.batch_size".to_owned(),
        "BEGIN".to_owned(),
        "PREPARE p AS SELECT 1".to_owned(),
        "EXPLAIN ANALYZE INSERT INTO samples VALUES (1)".to_owned(),
        "SELECT 1; DROP TABLE samples".to_owned(),
        format!("SELECT * FROM '{}'", input.display()),
        format!("SELECT * FROM read_csv('{}')", input.display()),
        "SELECT * FROM '/etc/passwd'".to_owned(),
        "this is not SQL".to_owned(),
        "SELECT".to_owned(),
        "SELECT * FROM nowhere".to_owned(),
        "SELECT nothing FROM samples".to_owned(),
        format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000)),
        format!("SELECT {}", vec!["1"; 100_000].join("+")),
        format!("SELECT 1 WHERE {}", vec!["1=1"; 50_000].join(" AND ")),
        format!("SELECT {} 1", "NOT ".repeat(100_000)),
        format!("SELECT '{}'", "x".repeat(3 << 20)),
        String::new(),
    ] {
        let r = v.server.post("/api/v1/sql", &[("query", &statement)]);
        let short: String = statement.chars().take(80).collect();
        assert!(
            [400, 422].contains(&r.status),
            "{short}: {} {}",
            r.status,
            r.text().chars().take(300).collect::<String>()
        );
        let e = r.json();
        assert_eq!(e["status"], "error", "{short}");
        assert!(e["error"].as_str().is_some_and(|t| !t.is_empty() && t.len() < 10_000), "{short}: {e}");
        assert!(v.server.is_alive(), "{short}");
    }
    assert!(!path.exists(), "a statement wrote a file");
    refused(&v.server.post("/api/v1/sql", &[("query", "SELECT 1"), ("format", "xlsx")]), 400, "format");
    // Grows beyond its memory or its time: an error, not the end.
    let r = v.server.post("/api/v1/sql", &[("query", "SELECT repeat('x', 2000000000)")]);
    assert!([400, 422].contains(&r.status), "{}", r.status);
    let cross = "SELECT count(*) FROM samples a, samples b, samples c, samples d WHERE a.value + b.value + c.value + d.value < 0";
    let r = v.server.post("/api/v1/sql", &[("query", cross), ("timeout", "1s")]);
    assert!([422, 503].contains(&r.status), "{} {}", r.status, r.text());
    v.is_unharmed(0);
}

#[test]
fn a_client_that_leaves_takes_its_query_along() {
    use std::io::Write;
    let mut v = Victim::new();
    let query = crate::http::form(&[("query", "sum_over_time((known * on(i) known)[365d:1s])"), ("time", AT)]);
    for _ in 0..30 {
        let mut s = std::net::TcpStream::connect(v.server.address()).unwrap();
        s.write_all(format!("GET /api/v1/query?{query} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    }
    let begun = Instant::now();
    loop {
        let active = v.server.get("/api/v1/status/active_queries", &[]).json()["data"].take();
        if active == json!([]) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "still running: {active}");
        std::thread::sleep(Duration::from_millis(20));
    }
    v.is_unharmed(0);
}

/// Starts a server that cannot start; its error message.
fn cannot_start(data: &Path, flags: &[&str]) -> String {
    let out = Command::new(QUIVER)
        .arg("serve")
        .arg("--data-dir")
        .arg(data)
        .args(["--http-listen", "127.0.0.1:0", "--grpc-listen", "off"])
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!out.status.success(), "it started");
    assert!(out.status.code().is_some(), "ended by a signal: {}", out.status);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[test]
fn data_folders_that_cannot_be_used() {
    let mut v = Victim::new();
    let text = cannot_start(&v.server.data, &[]);
    assert!(text.contains(&format!("a server (process {}) already runs on the data folder", v.server.id())), "{text}");
    v.is_unharmed(0);

    // A file where the folder should be, and a folder under a file.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for path in [file.clone(), file.join("below")] {
        let text = cannot_start(&path, &[]);
        assert!(text.contains("file"), "{text}");
    }

    // A folder of a later version, and a manifest that is none.
    v.server.admin("flush");
    let known = v.server.sql("SELECT count(*) FROM samples");
    assert_eq!(v.server.terminate().code(), Some(0));
    let manifests: Vec<_> = std::fs::read_dir(&v.server.data)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| {
            p.is_file() && p.file_name().is_some_and(|n| n.to_string_lossy().to_lowercase().contains("manifest"))
        })
        .collect();
    assert!(!manifests.is_empty(), "no manifest in the data folder");
    let good: Vec<_> = manifests.iter().map(|p| std::fs::read(p).unwrap()).collect();
    for p in &manifests {
        std::fs::write(p, b"garbage").unwrap();
    }
    let text = cannot_start(&v.server.data, &[]);
    assert!(text.to_lowercase().contains("manifest"), "{text}");
    let contents: Vec<_> = manifests.iter().map(|p| std::fs::read(p).unwrap()).collect();
    assert!(contents.iter().all(|c| c == b"garbage"), "a folder that cannot be read is left as it is");
    for (p, bytes) in manifests.iter().zip(&good) {
        std::fs::write(p, of_version(bytes, 9)).unwrap();
    }
    let text = cannot_start(&v.server.data, &[]);
    assert!(text.contains("newer version") && text.contains("format 9"), "{text}");
    for (p, bytes) in manifests.iter().zip(&good) {
        assert_eq!(std::fs::read(p).unwrap(), of_version(bytes, 9), "a folder of a newer version is left as it is");
        std::fs::write(p, bytes).unwrap();
    }
    v.server.restart();
    assert_eq!(v.server.sql("SELECT count(*) FROM samples"), known, "nothing was lost on the way");
}

/// A manifest as a later version would write it, with a good checksum.
fn of_version(manifest: &[u8], version: u32) -> Vec<u8> {
    let line_end = manifest.iter().position(|b| *b == b'\n').expect("a header line");
    let body = &manifest[line_end + 1..];
    let start = format!("quiver manifest {version}");
    let crc = quiver_persistence::crc32c_salted(start.as_bytes(), body);
    let mut out = format!("{start} crc32c {crc:08x} bytes {}\n", body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}

#[test]
fn flags_and_files_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = folder.path().join("quiver.json");
    for (text, word) in
        [("{", "quiver.json, line 1, column "), ("{\"no-such-key\": 1}", "no-such-key"), ("[1]", "quiver.json")]
    {
        std::fs::write(&config, text).unwrap();
        let shown = cannot_start(&data, &["--config", &config.display().to_string()]);
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let missing = folder.path().join("missing.json").display().to_string();
    assert!(cannot_start(&data, &["--config", &missing]).contains("missing.json"));
    for (flags, word) in [
        (["--enable-feature", "warp"], "warp"),
        (["--retention", "soon"], "retention"),
        (["--durability", "never"], "durability"),
        (["--pg-listen", "127.0.0.1:5432"], "pg-listen"),
        (["--self-metrics", "perhaps"], "self-metrics"),
    ] {
        let shown = cannot_start(&data, &flags);
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let out = Command::new(QUIVER)
        .args(["serve", "--grpc-listen", "off", "--http-listen", &address, "--data-dir"])
        .arg(&data)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && shown.contains(&address) && shown.contains("--http-listen"), "{shown}");
    // After all that the folder serves.
    let mut server = Start::new().on(&data).ready();
    assert_eq!(server.terminate().code(), Some(0));
}
