//! A full disk (test 10 of the fault matrix): writes are refused with 503, reads go on, flushes, merges, exports and spills fail
//! without leaving halves behind, a start succeeds, writes work again by themselves once there is room, and nothing acknowledged is
//! lost on the way. Two rounds at every push, 100 at night.
//!
//! The test runs itself again on a small memory file system of its own, which needs `unshare` and the right to mount; where
//! that is not possible, the server's disk is made to refuse writes instead.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use quiver_persistence::testing::{Row, sized};

use crate::http::Client;
use crate::remote_write::{Series, V2, body_v2, post};
use crate::server::{Server, Start, binary};

/// Set in the inner run: the mounted folder.
const FOLDER: &str = "QUIVER_TEST_SMALL_DISK";
const NAME: &str = "disk_full::a_full_disk_refuses_writes_reads_on_and_heals";
/// What the shell answers where it cannot mount.
const NO_MOUNT: i32 = 77;
/// Writes work again so soon after there is room.
const RESUME_MAX: Duration = Duration::from_secs(5);

#[test]
fn a_full_disk_refuses_writes_reads_on_and_heals() {
    if let Ok(folder) = std::env::var(FOLDER) {
        return rounds(Path::new(&folder), false);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let me = std::env::current_exe().expect("this binary");
    let script =
        format!("mount -t tmpfs -o size=64m none \"$1\" || exit {NO_MOUNT}; exec \"$2\" --exact {NAME} --nocapture");
    let run = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"])
        .args([folder.path(), &me])
        .env(FOLDER, folder.path())
        .output();
    let cannot = match run {
        Err(e) => format!("cannot run unshare: {e}"),
        Ok(out) => {
            let text = String::from_utf8_lossy(&out.stderr);
            if out.status.code() != Some(NO_MOUNT) && !text.starts_with("unshare:") {
                print!("{}", String::from_utf8_lossy(&out.stdout));
                assert!(out.status.success(), "{text}");
                return;
            }
            format!("cannot mount: {}", text.trim())
        }
    };
    println!("a full disk is injected: there is no small file system here ({cannot})");
    rounds(folder.path(), true);
}

/// One batch: 100 series, so that the disk notices.
fn batch(number: i64) -> Vec<u8> {
    let series = |i: i64| {
        // Values that no codec shrinks.
        let values: Vec<f64> = (0..50)
            .map(|k| f64::from_bits((number * 7919 + i * 104_729 + k * 31 + 1) as u64 * 0x9e37_79b9) * 1e300)
            .collect();
        Series::new("full_float", &[("i", &i.to_string())]).floats(1_700_000_000_000 + number * 50_000, 1000, &values)
    };
    body_v2(&(0..100).map(series).collect::<Vec<_>>())
}

/// The server, what it acknowledged, and what makes its disk full.
struct Bench {
    server: Server,
    client: Client,
    acknowledged: i64,
    filler: Option<PathBuf>,
}

impl Bench {
    fn write(&mut self) -> crate::http::Response {
        let body = batch(self.acknowledged);
        let r = post(&mut self.client, V2, &body);
        // A connection that was idle for too long is closed by the server; the same batch again is the same batch.
        let r = r.or_else(|_| {
            self.client = self.server.client();
            post(&mut self.client, V2, &body)
        });
        let r = r.unwrap_or_else(|e| panic!("{e}"));
        self.acknowledged += i64::from(r.status == 204);
        r
    }

    fn writes(&mut self, n: u32) {
        for _ in 0..n {
            let r = self.write();
            assert_eq!(r.status, 204, "{}", r.text());
        }
    }

    fn is_all_there(&self, what: &str) {
        let rows = self.server.sql("SELECT count(*) FROM samples WHERE metric = 'full_float'");
        assert_eq!(rows[0][0].as_i64(), Some(self.acknowledged * 5000), "{what}");
        let r = self.server.query("count(full_float)", "1700000000");
        assert_eq!(r.as_array().map(Vec::len), Some(1), "{what}");
    }

    fn fill(&self) {
        match &self.filler {
            Some(path) => fill(path),
            None => self.server.faults("write=half-enospc;create=enospc"),
        }
    }

    fn free(&self) {
        match &self.filler {
            Some(path) => std::fs::remove_file(path).expect("room again"),
            None => self.server.faults(""),
        }
    }

    /// No temporary file stays. One may be there for a moment: the background tries what failed again.
    fn has_no_halves(&self, what: &str) {
        let halves = || {
            let folders = [self.server.data.clone(), self.server.data.join("blocks")];
            let all = folders.iter().flat_map(|f| std::fs::read_dir(f).into_iter().flatten().flatten());
            let names = all.map(|e| e.file_name().to_string_lossy().into_owned());
            names.filter(|n| n.ends_with(".tmp")).collect::<Vec<_>>()
        };
        let mut left = halves();
        let begun = Instant::now();
        while !left.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{what}: {left:?} stay behind");
            std::thread::sleep(Duration::from_millis(5));
            let now = halves();
            left.retain(|n| now.contains(n));
        }
    }
}

fn rounds(folder: &Path, is_injected: bool) {
    let row = Row::begin("10", "ENOSPC: log, flush, merge, export, spill, start");
    let data = folder.join("data");
    let spill = folder.join("spill");
    std::fs::create_dir(&spill).expect("a folder");
    // Its log lies beside the folder, on the same disk: what cannot be logged must not harm either.
    let server = Start::new()
        .on(&data)
        .with_faults()
        .environment("TMPDIR", &spill.display().to_string())
        .with(&["--limit", "query_memory_bytes_max=16MiB"])
        .ready();
    let client = server.client();
    let filler = (!is_injected).then(|| folder.join("filler"));
    let mut bench = Bench { server, client, acknowledged: 0, filler };
    let count = sized(2, 100);
    let mut slowest = Duration::ZERO;
    for round in 0..count {
        slowest = slowest.max(one_round(&mut bench, folder, round));
    }
    bench.server.kill();
    bench.server.restart();
    bench.is_all_there("after kill -9");
    bench.server.admin("compact");
    bench.is_all_there("after a merge");
    assert_eq!(bench.server.terminate().code(), Some(0));
    let out = Command::new(binary()).arg("check").arg(&data).output().expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    row.passed(format_args!("{count} rounds, resumed in {} ms", slowest.as_millis()), bench.acknowledged as u64 * 5000);
}

/// How long writes took to work again.
fn one_round(bench: &mut Bench, folder: &Path, round: u64) -> Duration {
    bench.writes(5);
    if round % 3 == 1 {
        bench.server.admin("flush");
        bench.writes(2);
    }
    bench.fill();
    // What is reserved ahead is used up first.
    let mut refused = None;
    for _ in 0..4000 {
        let r = bench.write();
        if r.status != 204 {
            refused = Some(r);
            break;
        }
    }
    let r = refused.expect("the disk is full, writes have to be refused");
    assert_eq!(r.status, 503, "{}", r.text());
    assert!(r.text().contains("full") || r.text().contains("space"), "{}", r.text());
    assert!(!r.header("retry-after").is_empty(), "a refused write says when to come again");
    assert_eq!(r.header("x-prometheus-remote-write-samples-written"), "0", "nothing of a refused write is kept");
    bench.is_all_there("reads go on");
    assert_eq!(bench.server.get("/-/healthy", &[]).status, 200);
    // Told to flush and to merge, it fails or not, but nothing is lost and nothing half is left.
    for verb in ["flush", "compact", "clean_tombstones", "snapshot"] {
        let status = bench.server.post(&format!("/api/v1/admin/tsdb/{verb}"), &[]).status;
        assert!(bench.server.is_alive(), "{verb}");
        bench.has_no_halves(verb);
        bench.is_all_there(&format!("after {verb}, which answered {status}"));
    }
    // A query that would spill, where there is no room to spill to.
    let statement = "SELECT * FROM samples ORDER BY value, ts DESC";
    let r = bench.server.post("/api/v1/sql", &[("query", statement), ("format", "csv")]);
    assert!(bench.server.is_alive(), "{}", r.status);
    if bench.filler.is_some() {
        let out = folder.join("export");
        let url = bench.server.url();
        let run = Command::new(binary()).args(["export", "--url", &url, "--out"]).arg(&out).output().expect("it runs");
        assert!(!run.status.success(), "an export has no room");
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(said.to_lowercase().contains("space") || said.contains("full"), "{said}");
        let left = parquet_files(&out);
        assert!(left.is_empty(), "half an export: {left:?}");
    }
    if round.is_multiple_of(2) {
        bench.server.kill();
        bench.server.restart();
        bench.client = bench.server.client();
        bench.is_all_there("started on the full disk");
        assert_eq!(bench.write().status, 503);
    }
    bench.free();
    let begun = Instant::now();
    loop {
        let r = bench.write();
        if r.status == 204 {
            break;
        }
        assert_eq!(r.status, 503, "{}", r.text());
        assert!(begun.elapsed() < RESUME_MAX, "does not heal: {}", r.text());
        std::thread::sleep(Duration::from_millis(20));
    }
    let healed = begun.elapsed();
    bench.writes(4);
    bench.is_all_there("after it healed");
    let _ = std::fs::remove_dir_all(folder.join("export"));
    healed
}

/// Every file of an export.
fn parquet_files(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() { out.extend(parquet_files(&entry.path())) } else { out.push(entry.path()) }
    }
    out
}

/// Writes until there is no room.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).expect("a file");
    let mut piece = vec![0x5a; 1 << 20];
    while !piece.is_empty() {
        match file.write(&piece) {
            Ok(n) if n > 0 => {}
            _ => piece.truncate(piece.len() / 2),
        }
    }
}
