//! A full disk: writes are refused with 503, reads go on, writes work again by themselves once there is room, and nothing
//! acknowledged is lost on the way.
//!
//! The test runs itself again on a small memory file system of its own, which needs `unshare` and the right to mount; where
//! that is not possible, it says so in one line.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::remote_write::{Series, V2, body_v2, post};
use crate::server::{Server, Start};

/// Set in the inner run: the mounted folder.
const FOLDER: &str = "QUIVER_TEST_SMALL_DISK";
const NAME: &str = "disk_full::a_full_disk_refuses_writes_reads_on_and_heals";
/// What the shell answers where it cannot mount.
const NO_MOUNT: i32 = 77;

#[test]
fn a_full_disk_refuses_writes_reads_on_and_heals() {
    if let Ok(folder) = std::env::var(FOLDER) {
        return inner(Path::new(&folder));
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let me = std::env::current_exe().expect("this binary");
    let script =
        format!("mount -t tmpfs -o size=192m none \"$1\" || exit {NO_MOUNT}; exec \"$2\" --exact {NAME} --nocapture");
    let run = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"])
        .args([folder.path(), &me])
        .env(FOLDER, folder.path())
        .output();
    match run {
        Err(e) => println!("left out: a full disk (cannot run unshare: {e})"),
        Ok(out) => {
            let text = String::from_utf8_lossy(&out.stderr);
            let cannot = out.status.code() == Some(NO_MOUNT) || text.starts_with("unshare:");
            if cannot {
                println!("left out: a full disk (cannot mount: {})", text.trim());
                return;
            }
            print!("{}", String::from_utf8_lossy(&out.stdout));
            assert!(out.status.success(), "{text}");
        }
    }
}

/// One batch: 100 series, so that the disk notices.
fn batch(number: i64, origin: i64) -> Vec<Series> {
    let series = |i: i64| {
        // Values that no codec shrinks.
        let values: Vec<f64> = (0..50)
            .map(|k| f64::from_bits((number * 7919 + i * 104_729 + k * 31 + 1) as u64 * 0x9e37_79b9) * 1e300)
            .collect();
        Series::new("full_float", &[("i", &i.to_string())]).floats(origin + number * 50_000, 1000, &values)
    };
    (0..100).map(series).collect()
}

fn count(server: &Server) -> u64 {
    server.sql("SELECT count(*) FROM samples WHERE metric = 'full_float'")[0][0].as_u64().unwrap_or(0)
}

fn inner(folder: &Path) {
    let data = folder.join("data");
    // Its log lies beside the folder, on the same disk: what cannot be logged must not harm either.
    let mut server = Start::new().on(&data).ready();
    let origin = 1_700_000_000_000;
    let mut acknowledged = 0;
    let mut client = server.client();
    let mut write = |number: i64| {
        let r = post(&mut client, V2, &body_v2(&batch(number, origin)));
        let r = r.unwrap_or_else(|e| panic!("{e}"));
        (
            r.status,
            r.text(),
            r.header("retry-after").to_owned(),
            r.header("x-prometheus-remote-write-samples-written").to_owned(),
        )
    };
    for _ in 0..20 {
        let (status, text, ..) = write(acknowledged);
        assert_eq!(status, 204, "{text}");
        acknowledged += 1;
    }
    let filler = folder.join("filler");
    fill(&filler);
    // What is reserved ahead is used up first.
    let mut refused = None;
    for _ in 0..4000 {
        let (status, text, retry, written) = write(acknowledged);
        match status {
            204 => acknowledged += 1,
            _ => {
                refused = Some((status, text, retry, written));
                break;
            }
        }
    }
    let (status, text, retry, written) = refused.expect("the disk is full, writes have to be refused");
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("full") || text.contains("space"), "{text}");
    assert!(!retry.is_empty(), "a refused write says when to come again");
    assert_eq!(written, "0", "nothing of a refused write is kept");
    assert_eq!(count(&server), acknowledged as u64 * 5000, "reads go on");
    assert_eq!(server.get("/-/healthy", &[]).status, 200);
    assert_eq!(server.query("count(full_float)", "1700000000").as_array().map(Vec::len), Some(1));
    // Told to flush, it fails or not, but nothing is lost.
    let flushed = server.post("/api/v1/admin/tsdb/flush", &[]).status;
    assert!(server.is_alive());
    assert_eq!(count(&server), acknowledged as u64 * 5000, "after a flush that answered {flushed}");

    std::fs::remove_file(&filler).expect("room again");
    let begun = Instant::now();
    loop {
        let (status, text, ..) = write(acknowledged);
        if status == 204 {
            acknowledged += 1;
            break;
        }
        assert_eq!(status, 503, "{text}");
        assert!(begun.elapsed() < Duration::from_secs(60), "does not heal: {text}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let healed = begun.elapsed();
    for _ in 0..20 {
        let (status, text, ..) = write(acknowledged);
        assert_eq!(status, 204, "{text}");
        acknowledged += 1;
    }
    assert_eq!(count(&server), acknowledged as u64 * 5000);
    server.kill();
    server.restart();
    assert_eq!(count(&server), acknowledged as u64 * 5000, "after kill -9");
    server.admin("flush");
    assert_eq!(count(&server), acknowledged as u64 * 5000, "after a flush");
    println!(
        "a full disk: {acknowledged} batches acknowledged, refused with 503, healed {healed:.1?} after there was room"
    );
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
