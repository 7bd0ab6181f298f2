//! The remote tier, from outside: blocks in an S3-compatible service, the loss of the local disk, a service that goes away.
//!
//! Against another service, such as moto (`pip install 'moto[server]'`):
//!
//! ```sh
//! moto_server -p 5555 & curl -X PUT http://127.0.0.1:5555/quiver-test
//! QUIVER_TEST_S3=http://127.0.0.1:5555 cargo test --test integration tier::
//! ```

use std::sync::Arc;

use serde_json::Value;

use crate::command::run_with;
use crate::remote_write::{Series, write};
use crate::s3_server::S3Server;
use crate::s3_service;
use crate::server::{Server, Start};

const T: i64 = 1_700_000_000_000;
const AT: &str = "1700003600";

/// A service, our own, the one that is named, or one by others.
struct Service {
    url: String,
    own: Option<Arc<S3Server>>,
    prefix: String,
    _files: Option<tempfile::TempDir>,
    _runtime: tokio::runtime::Runtime,
}

const BUCKET: &str = "quiver-test";
const ACCESS_KEY: &str = "test";
const SECRET_KEY: &str = "planted-secret";

fn threads() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

impl Service {
    fn start(name: &str) -> Self {
        let runtime = threads();
        let prefix = format!("{name}-{}", std::process::id());
        match std::env::var("QUIVER_TEST_S3") {
            Ok(url) => Self { url, own: None, prefix, _files: None, _runtime: runtime },
            Err(_) => {
                let (own, address) = runtime.block_on(S3Server::start()).unwrap();
                let url = format!("http://{address}");
                Self { url, own: Some(own), prefix, _files: None, _runtime: runtime }
            }
        }
    }

    /// One that checks what is signed, and keeps its objects as files.
    fn by_others(name: &str) -> Self {
        let runtime = threads();
        let files = tempfile::tempdir().unwrap();
        let address = runtime.block_on(s3_service::start(files.path(), BUCKET, ACCESS_KEY, SECRET_KEY)).unwrap();
        let url = format!("http://{address}");
        Self { url, own: None, prefix: name.to_owned(), _files: Some(files), _runtime: runtime }
    }

    fn server(&self, flags: &[&str]) -> Start {
        let target = format!("s3://{BUCKET}/{}", self.prefix);
        Start::new()
            .with(&["--tier-url", &target, "--tier-endpoint", &self.url, "--tier-after", "0s"])
            .with(flags)
            .environment("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .environment("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    }
}

fn fill(server: &Server, from: i64) {
    let values: Vec<f64> = (0..40).map(|i| f64::from((i * 37) % 101) / 3.0).collect();
    let series: Vec<Series> = (0..30)
        .map(|i| Series::new("far", &[("host", &format!("host-{i:02}"))]).floats(T + from, 15_000, &values))
        .collect();
    write(&mut server.client(), &series);
    server.admin("flush");
}

fn answer(server: &Server) -> Value {
    server.query("sort_desc(sum by (host) (sum_over_time(far[2h])))", AT)
}

#[test]
fn blocks_in_a_bucket_outlive_the_local_disk() {
    outlives(&Service::start("outlive"));
}

#[test]
fn blocks_in_a_service_by_others_outlive_the_local_disk() {
    outlives(&Service::by_others("outlive"));
}

fn outlives(service: &Service) {
    let mut server = service.server(&[]).ready();
    fill(&server, 0);
    fill(&server, 1_200_000);
    let want = answer(&server);
    assert_eq!(want.as_array().map(Vec::len), Some(30));
    server.admin("tier");
    assert_eq!(server.metric("quiver_tier_remote_blocks"), 2.0);
    assert_eq!(answer(&server), want);
    let blocks = server.data.join("blocks");
    let names: Vec<_> = std::fs::read_dir(&blocks).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|n| n.to_string_lossy().ends_with(".tail")), "{names:?}");
    // A kill, and a start on what is left.
    server.kill();
    server.restart();
    assert_eq!(answer(&server), want);
    let planned =
        server.get("/api/v1/query", &[("query", "far"), ("time", AT), ("nocache", "1"), ("explain", "analyze")]);
    assert_eq!(planned.status, 200);
    // The secret is nowhere to be seen.
    for path in ["/api/v1/status/flags", "/api/v1/status/config", "/api/v1/status/runtimeinfo", "/metrics"] {
        assert!(!server.get(path, &[]).text().contains(SECRET_KEY), "{path}");
    }
    assert!(!server.log().contains(SECRET_KEY));
    let info = server.get("/api/v1/status/runtimeinfo", &[]).json();
    assert!(info["data"]["remoteTier"].as_str().unwrap().starts_with("s3://quiver-test/"), "{info}");
    server.terminate();
    // The folder is gone. Without leave the next one does not begin with nothing, with it, it goes on.
    let refused = service.server(&[]).announced().err().unwrap();
    assert!(refused.contains("tier-takeover"), "{refused}");
    let second = service.server(&["--tier-takeover", "on"]).ready();
    assert_eq!(answer(&second), want);
    assert_eq!(second.metric("quiver_tier_fenced"), 0.0);
    // The first one comes back: it reads, and is fenced.
    server.restart();
    assert_eq!(answer(&server), want);
    server.admin("tier");
    assert_eq!(server.metric("quiver_tier_fenced"), 1.0);
    let info = server.get("/api/v1/status/runtimeinfo", &[]).json();
    assert!(info["data"]["remoteTierFenced"].as_str().unwrap().contains("another data folder"), "{info}");
}

#[test]
fn a_service_that_fails_now_and_then_is_tried_again() {
    let service = Service::start("away");
    let Some(own) = service.own.clone() else { return };
    let server = service.server(&["--tier-cache-size", "off", "--cache-size", "off", "--prefetch", "off"]).ready();
    fill(&server, 0);
    let want = answer(&server);
    server.admin("tier");
    write(&mut server.client(), &[Series::new("near", &[("a", "b")]).float(T, 1.0)]);
    // A few failures are tried again, and nobody else notices.
    own.fail_next(2);
    assert_eq!(answer(&server), want);
    assert!(server.metric("quiver_remote_retries_total") >= 2.0);
    assert_eq!(server.query("near", "1700000000")[0]["value"][1], "1");
    // What needs nothing new of the service goes on without it, as do writes and flushes.
    own.fail_next(u64::MAX);
    assert_eq!(answer(&server), want);
    fill(&server, 3_000_000);
    assert_eq!(server.query("near", "1700000000")[0]["value"][1], "1");
    own.fail_next(0);
    server.admin("tier");
    assert_eq!(server.metric("quiver_tier_remote_blocks"), 2.0);
}

#[test]
fn backups_go_to_the_service_and_come_back() {
    let service = Service::start("backup");
    let server = Start::new().ready();
    fill(&server, 0);
    let folder = tempfile::tempdir().unwrap();
    let (url, to) = (server.url(), format!("s3://{BUCKET}/{}/copy", service.prefix));
    let credentials = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    let run = |arguments: &[&str]| {
        let out = run_with(&[arguments, &["--endpoint", &service.url]].concat(), &credentials);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&out.stdout), text(&out.stderr));
        assert!(!out.contains(SECRET_KEY) && !err.contains(SECRET_KEY), "{out}{err}");
        (out, err)
    };
    let scratch = folder.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let scratch_text = scratch.display().to_string();
    let back_up = || run(&["snapshot", "--url", &url, "--out", &to, "--scratch", &scratch_text]);
    let (out, err) = back_up();
    assert!(out.starts_with("1 block (") && out.contains("1 copied now"), "{out}{err}");
    fill(&server, 3_000_000);
    write(&mut server.client(), &[Series::new("near", &[("a", "b")]).float(T, 1.0)]);
    let (out, err) = back_up();
    assert!(out.starts_with("3 blocks") && out.contains("2 copied now"), "{out}{err}");
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "nothing is left on the way");
    let restored = folder.path().join("restored");
    let restore = |from: &str, target: &std::path::Path| {
        run(&["restore", "--from", from, "--data-dir", &target.display().to_string()])
    };
    let (out, err) = restore(&to, &restored);
    assert!(out.starts_with("3 blocks"), "{out}{err}");
    let other = Start::new().on(&restored).ready();
    assert_eq!(answer(&other), answer(&server));
    assert_eq!(other.query("near", "1700000000")[0]["value"][1], "1");
    // What cannot be is said, and leaves nothing.
    let empty = folder.path().join("empty");
    let (_, err) = restore(&format!("{to}-not-there"), &empty);
    assert!(err.contains("contains no backup"), "{err}");
    let (_, err) = restore("s3://", &empty);
    assert!(err.contains("has no bucket"), "{err}");
    let Some(own) = service.own.clone() else { return };
    own.set_read_only(true);
    fill(&server, 6_000_000);
    let (_, err) = back_up();
    assert!(err.contains("AccessDenied"), "{err}");
    own.set_read_only(false);
    let (out, err) = back_up();
    assert!(out.contains(" blocks ("), "{out}{err}");
    let again = folder.path().join("again");
    restore(&to, &again);
    assert_eq!(answer(&Start::new().on(&again).ready()), answer(&server));
}
