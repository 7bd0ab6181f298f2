//! Clients that are slow on purpose, beside one that is not: they are closed, cost bounded memory, and delay nobody.
//!
//! At night at full size, with the limits that every server starts with: 8,000 idle connections, 500 that send headers, 250 that
//! send a body and 250 that read an answer of 5 MB, each a byte a second.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quiver_persistence::testing::{Row, is_nightly, sized};

use crate::remote_write::{Series, write};
use crate::server::{Server, Start};

const T: i64 = 1_700_000_000_000;
/// Steps of a large answer.
const STEPS: i64 = 1_000;

/// A server with `series` series of [`STEPS`] samples, 15 s apart.
fn server(start: Start, series: i64) -> Server {
    let server = start.ready();
    let mut client = server.client();
    for i in 0..series {
        let values: Vec<f64> = (0..STEPS).map(|k| ((i * 7919 + k * 104_729) % 1_000_003) as f64 / 8.0).collect();
        write(&mut client, &[Series::new("large", &[("i", &i.to_string())]).floats(T, 15_000, &values)]);
    }
    write(&mut client, &[Series::new("small", &[]).float(T, 1.0)]);
    server
}

/// Values of a label that are `bytes` together: an answer that costs no computing to speak of.
fn add_values(server: &Server, bytes: u64) {
    let mut client = server.client();
    let values: Vec<u64> = (0..bytes / 4_000).collect();
    for part in values.chunks(500) {
        let series = |i: &u64| Series::new("wide", &[("v", &format!("{i:04000}"))]).float(T, 1.0);
        write(&mut client, &part.iter().map(series).collect::<Vec<_>>());
    }
}

const LARGE: &str = "/api/v1/label/v/values";

/// What a slow client does once a second.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Head,
    Body,
    Reader,
}

struct Slow {
    stream: TcpStream,
    kind: Kind,
    begun: Instant,
    said: Vec<u8>,
    closed: Option<Duration>,
}

impl Slow {
    fn new(address: SocketAddr, kind: Kind) -> Self {
        let mut stream = TcpStream::connect(address).expect("a connection");
        let begin = match kind {
            Kind::Head => "GET /api/v1/query?query=small HTTP/1.1\r\nhost: x\r\nx-slow: ".to_owned(),
            Kind::Body => "POST /api/v1/write HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n".to_owned(),
            Kind::Reader => format!("GET {LARGE} HTTP/1.1\r\nhost: x\r\n\r\n"),
        };
        stream.write_all(begin.as_bytes()).expect("a request");
        stream.set_nonblocking(true).expect("a socket");
        Self { stream, kind, begun: Instant::now(), said: Vec::new(), closed: None }
    }

    /// One byte more, and whether the server has closed it.
    fn tick(&mut self) {
        if self.closed.is_some() {
            return;
        }
        let mut is_closed = matches!(self.stream.take_error(), Ok(Some(_)) | Err(_));
        let mut bytes = [0; 4096];
        let most = if self.kind == Kind::Reader { 1 } else { bytes.len() };
        match self.stream.read(&mut bytes[..most]) {
            Ok(0) => is_closed = true,
            Ok(n) => self.said.extend_from_slice(&bytes[..n]),
            Err(e) => is_closed |= e.kind() != ErrorKind::WouldBlock,
        }
        if self.kind != Kind::Reader {
            is_closed |= self.stream.write(b"x").is_err_and(|e| e.kind() != ErrorKind::WouldBlock);
        }
        if is_closed {
            self.closed = Some(self.begun.elapsed());
        }
    }
}

/// A reader that was told to come again, as too many asked at once.
fn is_turned_away(slow: &Slow) -> bool {
    if slow.kind != Kind::Reader || slow.said.len() > 16 {
        return false;
    }
    // A part of it may be read already.
    let mut bytes = [0; 16];
    let n = slow.stream.peek(&mut bytes).unwrap_or(0);
    let text = String::from_utf8_lossy(&slow.said).into_owned() + &String::from_utf8_lossy(&bytes[..n]);
    text.starts_with("HTTP/1.1 503") || text.starts_with("HTTP/1.1 429")
}

fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Asks for something small all the time until told to stop; gives how long each answer took.
fn normal_client(server: &Server, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<Duration>> {
    let (mut client, stop) = (server.client(), Arc::clone(stop));
    std::thread::spawn(move || {
        let mut took = Vec::new();
        let parameters = [("query", "small"), ("time", "1700000000")];
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let answer = client.get("/api/v1/query", &parameters).expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(answer.text().contains("\"1\""), "{}", answer.text());
            took.push(begun.elapsed());
            std::thread::sleep(Duration::from_millis(10));
        }
        took.sort();
        took
    })
}

#[test]
fn slow_clients_are_closed_and_others_are_answered() {
    let row = Row::begin("slow", "slow clients beside a normal one");
    let (idle, heads, bodies, readers) = (sized(100, 8_000), sized(30, 500), sized(30, 250), sized(30, 250));
    let descriptors = quiver_persistence::raise_descriptors().unwrap_or(0);
    if descriptors < idle + heads + bodies + readers + 100 {
        println!("left out: slow clients ({descriptors} descriptors are too few)");
        return;
    }
    let start = if is_nightly() { Start::new() } else { Start::new().with(&["--limit", "slow_client_ms_max=3000"]) };
    let server = server(start, 0);
    add_values(&server, if is_nightly() { 5 << 20 } else { 1 << 20 });
    let answer_bytes = server.get(LARGE, &[]).body.len();
    let before = resident_kib(&server);
    let stop = Arc::new(AtomicBool::new(false));
    let normal = normal_client(&server, &stop);
    let address = server.address();
    let kept: Vec<TcpStream> = (0..idle).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    let begun = Instant::now();
    let mut slow: Vec<Slow> = Vec::new();
    for (kind, n) in [(Kind::Head, heads), (Kind::Body, bodies)] {
        slow.extend((0..n).map(|_| Slow::new(address, kind)));
    }
    let (mut most, mut to_come, mut turned_away) = (0, readers, 0);
    // Those that have not said anything for a minute may be closed.
    let is_open = |s: &TcpStream| {
        s.set_nonblocking(true).is_ok() && s.peek(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    };
    let closed_idle = || kept.iter().filter(|s| !is_open(s)).count();
    let mut gone = None;
    while begun.elapsed() < Duration::from_secs(180) && (to_come > 0 || slow.iter().any(|s| s.closed.is_none())) {
        let second = Instant::now();
        let before = slow.len();
        slow.retain(|s| !is_turned_away(s));
        let again = (before - slow.len()) as u64;
        slow.iter_mut().for_each(Slow::tick);
        (turned_away, to_come) = (turned_away + again, to_come + again);
        let now = to_come.min(25);
        slow.extend((0..now).map(|_| Slow::new(address, Kind::Reader)));
        to_come -= now;
        if gone.is_none() && begun.elapsed() > Duration::from_secs(15) {
            gone = Some(closed_idle());
        }
        while second.elapsed() < Duration::from_secs(1) {
            most = most.max(resident_kib(&server));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    stop.store(true, Ordering::Relaxed);
    let took = normal.join().expect("the normal client");
    let p99 = took[took.len() * 99 / 100];
    let more = most.saturating_sub(before) / 1024;
    let metrics = server.get("/metrics", &[]).text();
    let closed = metrics.lines().filter(|l| l.starts_with("quiver_connections_closed_total{")).collect::<Vec<_>>();
    for (kind, name) in [(Kind::Head, "headers"), (Kind::Body, "bodies"), (Kind::Reader, "readers")] {
        let all = slow.iter().filter(|s| s.kind == kind);
        let open = all.clone().filter(|s| s.closed.is_none()).count();
        let last = all.filter_map(|s| s.closed).max().unwrap_or_default();
        println!("slow {name}: {open} open, the last closed after {:.1} s", last.as_secs_f64());
        assert_eq!(open, 0, "slow {name}: {closed:?}");
        assert!(last < Duration::from_secs(60), "{name}: {last:?}");
    }
    println!("{turned_away} readers were told to come again; {} MiB of answers", answer_bytes >> 20);
    println!("{more} MiB more, p99 of {} answers beside them {p99:?}, worst {:?}; {closed:?}", took.len(), took.last());
    // What they were told.
    for s in &slow {
        let said = String::from_utf8_lossy(&s.said);
        match s.kind {
            Kind::Head => assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("\"status\":\"error\""), "{said}"),
            Kind::Body => assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("in time"), "{said}"),
            Kind::Reader => {}
        }
    }
    // The idle ones were there all the time, and the room for answers is empty again.
    let gone = gone.unwrap_or_else(closed_idle);
    assert!(gone == 0, "{gone} of {idle} idle connections were closed");
    server.wait_until("no answer waits", |s| s.metric("quiver_answer_bytes") < 1e5);
    assert!(more <= 300, "{more} MiB more");
    assert!(cfg!(debug_assertions) || p99 <= Duration::from_millis(100), "{p99:?}");
    let size = format!(
        "{idle} idle, {heads}+{bodies}+{readers} slow, answers of {answer_bytes} bytes, {more} MiB more, p99 {p99:?}"
    );
    row.passed(size, took.len() as u64);
}

#[test]
fn answers_that_nobody_reads_make_room_for_others() {
    // Room for one large answer: three quarters of it are for large ones.
    let server = server(Start::new().with(&["--limit", "answer_bytes_max=2MiB"]), 0);
    add_values(&server, 1 << 20);
    // Others are answered all the time: each of their answers wakes those that wait for room.
    let stop = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..2)
        .map(|_| {
            let (mut client, stop) = (server.client(), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = client.once("GET", "/api/v1/label/__name__/values", &[], b"");
                }
            })
        })
        .collect();
    let mut stuck: Vec<Slow> = (0..4).map(|_| Slow::new(server.address(), Kind::Reader)).collect();
    server.wait_until("answers wait", |s| s.metric("quiver_answer_bytes") >= 1e6);
    // Small answers have room, and a large one finds it when what does not move was closed.
    assert_eq!(server.query("small", "1700000000")[0]["value"][1], "1");
    let begun = Instant::now();
    loop {
        let answer = server.get(LARGE, &[]);
        if answer.status == 200 {
            assert_eq!(answer.json()["data"].as_array().map(Vec::len), Some((1 << 20) / 4_000));
            break;
        }
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{}", answer.text());
        assert!(begun.elapsed() < Duration::from_secs(40));
    }
    let closed = || server.metric("quiver_connections_closed_total{cause=\"answer_room\"}");
    assert!(closed() >= 1.0);
    let is_over = |stuck: &mut Vec<Slow>| {
        stuck.iter_mut().for_each(|s| s.tick());
        stuck.iter().filter(|s| s.closed.is_some()).count() as f64 >= 1.0
    };
    while !is_over(&mut stuck) {
        assert!(begun.elapsed() < Duration::from_secs(40), "nothing was closed");
        std::thread::sleep(Duration::from_millis(10));
    }
    stop.store(true, Ordering::Relaxed);
    busy.into_iter().for_each(|b| b.join().expect("a busy client"));
}

#[test]
fn forms_share_the_room_of_bodies() {
    let server = server(Start::new().with(&["--limit", "write_bodies_bytes_max=4MiB"]), 1);
    // Each holds back the end of a form of 1.5 MB.
    let held: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).expect("a connection");
            let head = "POST /api/v1/query HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\n";
            stream.write_all(format!("{head}content-length: 1500010\r\n\r\nunused=").as_bytes()).expect("a head");
            stream.write_all(&vec![b'+'; 1_500_000]).expect("most of a body");
            stream
        })
        .collect();
    let form = [b"query=small&time=1700000000&unused=".as_slice(), &vec![b'+'; 1_500_000]].concat();
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let ask = || server.client().once("POST", "/api/v1/query", &headers, &form).expect("an answer");
    server.wait_until("both have come", |s| s.metric("quiver_request_body_bytes") >= 3e6);
    let answer = ask();
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{}", answer.text());
    assert!(answer.text().contains("write_bodies_bytes_max"), "{}", answer.text());
    assert_eq!(server.query("small", "1700000000")[0]["value"][1], "1", "a small query has room");
    assert!(server.metric("quiver_requests_rejected_total{door=\"query\",reason=\"bodies_full\"}") >= 1.0);
    drop(held);
    server.wait_until("room again", |_| ask().status == 200);
}

#[test]
fn an_answer_larger_than_the_room_is_sent() {
    let server = server(Start::new().with(&["--limit", "answer_bytes_max=64KiB"]), 60);
    let large = [("query", "large"), ("start", "1700000000"), ("end", "1700015000"), ("step", "15")];
    for _ in 0..3 {
        let answer = server.get("/api/v1/query_range", &large);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["data"]["result"].as_array().map(Vec::len), Some(60));
    }
    // Streams take it piece by piece.
    let export = server.get("/api/v1/export", &[("match[]", "large")]);
    assert_eq!((export.status, export.body.ends_with(&[0; 4])), (200, true));
    let statement = "SELECT * FROM metrics.large";
    let rows = server.get("/api/v1/sql", &[("query", statement), ("format", "csv")]);
    assert_eq!((rows.status, rows.text().lines().count() as i64), (200, 60 * STEPS + 1));
}

#[test]
fn connections_are_kept_between_requests() {
    let server = server(Start::new(), 1);
    let mut client = server.client();
    let ask = |client: &mut crate::http::Client| {
        client.once("GET", "/api/v1/query?query=small&time=1700000000", &[], b"").expect("an answer")
    };
    assert_eq!(ask(&mut client).status, 200);
    // Longer than a head may take.
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(ask(&mut client).status, 200);
}
