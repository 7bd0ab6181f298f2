//! Test 2: the process ends at every file call, and what it had acknowledged is there afterwards.
//!
//! The victim is this binary once more, told by its environment to work on a folder: a store on the real disk, in a script of writes,
//! flushes, merges, deletions and snapshots, which says on its standard output what is acknowledged. It ends before or after the
//! n-th call that changes a file (or within a write), for n = 1, 2, … until it comes to its end. Then the folder is opened here.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use quiver_core::{Ingest, Maintain, Need, Source, Store, StoreOptions, TimeRange};
use quiver_model::{MatchOp, Matcher, SampleColumn, WriteBatch};
use quiver_persistence::LogOptions;
use quiver_persistence::testing::{Row, is_nightly, sized};

const FOLDER: &str = "QUIVER_TEST_VICTIM";
const NAME: &str = "faults::kill_points::the_process_may_end_at_every_file_call";
const SERIES: i64 = 6;

fn options() -> StoreOptions {
    let log = LogOptions { shards: 2, segment_bytes_max: 3_000, free_bytes_min: 0, ..LogOptions::default() };
    StoreOptions { log, background: false, cache_bytes_max: 0, ..StoreOptions::default() }
}

/// Batch `k`: one sample of each series, at a time and with a value of its own.
fn batch(k: i64) -> WriteBatch {
    let mut b = WriteBatch::default();
    for i in 0..SERIES {
        b.begin_series([("__name__", "point"), ("i", i.to_string().as_str())]);
        b.push_float(1_000 + k * 10, (k * 100 + i) as f64, 0);
    }
    b
}

/// What is deleted in the script: the batches of one time.
const DELETED: i64 = 2;

fn block_on<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(f)
}

/// Works on the folder, and says what is acknowledged.
fn victim(folder: &Path) {
    // Straight to the descriptor: what is said must not wait in a buffer of a process that dies.
    let say = |text: String| {
        use std::io::Write;
        let mut out =
            std::fs::File::options().append(true).open(folder.with_extension("acks")).expect("a file of acks");
        out.write_all(text.as_bytes()).expect("said");
    };
    let Ok(store) = Store::open_dir(folder, options()) else { return };
    store.wait_until_ready();
    let mut k = 0;
    let mut write = |n: i64| {
        for _ in 0..n {
            say(format!("try {k}\n"));
            if block_on(store.write(batch(k))).is_ok() {
                say(format!("ack {k}\n"));
            }
            k += 1;
        }
    };
    write(4);
    let _ = block_on(store.flush());
    write(3);
    let at = TimeRange { min: 1_000 + DELETED * 10, max: 1_000 + DELETED * 10 };
    say("try-delete\n".to_owned());
    if block_on(store.delete(vec![vec![Matcher::equal("__name__", "point")]], at)).is_ok() {
        say("deleted\n".to_owned());
    }
    write(2);
    let _ = block_on(store.create_snapshot("20260101T000000Z-0123456789abcdef".to_owned(), false));
    write(2);
    let _ = block_on(store.compact());
    write(2);
    let _ = block_on(store.clean_tombstones());
    let _ = store.remove_snapshot("20260101T000000Z-0123456789abcdef");
    write(1);
    store.close();
    say("end\n".to_owned());
}

/// What the victim said.
#[derive(Debug, Default)]
struct Said {
    tried: BTreeSet<i64>,
    acked: BTreeSet<i64>,
    delete_tried: bool,
    deleted: bool,
    ended: bool,
}

fn said(folder: &Path) -> Said {
    let mut out = Said::default();
    for line in std::fs::read_to_string(folder.with_extension("acks")).unwrap_or_default().lines() {
        match line.split_once(' ') {
            Some(("try", k)) => drop(out.tried.insert(k.parse().expect("a number"))),
            Some(("ack", k)) => drop(out.acked.insert(k.parse().expect("a number"))),
            _ if line == "deleted" => out.deleted = true,
            _ if line == "try-delete" => out.delete_tried = true,
            _ => out.ended = line == "end",
        }
    }
    out
}

/// Starts the victim; what it said when it had ended.
fn life(folder: &Path, before: &[&str], faults: Option<&str>) -> Said {
    std::fs::write(folder.with_extension("acks"), "").expect("a file of acks");
    let me = std::env::current_exe().expect("this binary");
    let mut command = match before {
        [] => Command::new(&me),
        [program, arguments @ ..] => {
            let mut c = Command::new(program);
            c.args(arguments).arg(&me);
            c
        }
    };
    command.args(["--exact", NAME, "--nocapture", "--test-threads=1"]).env(FOLDER, folder);
    match faults {
        Some(rules) => command.env("QUIVER_FAULTS", rules),
        None => command.env_remove("QUIVER_FAULTS"),
    };
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("the victim starts");
    let said = said(folder);
    assert!(said.ended == status.success(), "{status}: {said:?}");
    said
}

/// Opens the folder here, in peace, and compares.
fn judge(folder: &Path, said: &Said, what: &str) -> u64 {
    let store = Store::open_dir(folder, options()).unwrap_or_else(|e| panic!("{what}: {e}"));
    store.wait_until_ready();
    assert!(store.replay_report().is_clean(), "{what}: {:?}", store.replay_report());
    let mut have: std::collections::BTreeMap<i64, i64> = Default::default();
    let all = [Matcher::new(MatchOp::Equal, "__name__", "point", 1 << 20).expect("a matcher")];
    let set = store.snapshot().select(&all, TimeRange::ALL, 99).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut column = SampleColumn::default();
    for row in 0..set.len() {
        set.read(row, TimeRange::ALL, Need::ALL, &mut column).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(column.ts.windows(2).all(|w| w[0] < w[1]), "{what}: a sample twice: {:?}", column.ts);
        let i: i64 = set.labels(row).get("i").parse().expect("a number");
        for (t, v) in column.ts.iter().zip(&column.values) {
            let k = (t - 1_000) / 10;
            assert_eq!(*v, (k * 100 + i) as f64, "{what}: changed");
            *have.entry(k).or_default() += 1;
        }
    }
    assert!(have.values().all(|n| *n == SERIES), "{what}: a batch in part: {have:?}");
    assert!(have.keys().all(|k| said.tried.contains(k)), "{what}: {have:?} was never sent");
    for k in &said.acked {
        let is_there = have.contains_key(k);
        if *k == DELETED && said.delete_tried {
            assert!(!(is_there && said.deleted), "{what}: batch {k} was deleted and is back");
        } else {
            assert!(is_there, "{what}: batch {k} was acknowledged and is lost: {have:?}");
        }
    }
    // Nothing half is left behind, and it goes on.
    for dir in ["", "blocks", "log", "snapshots"] {
        for entry in std::fs::read_dir(folder.join(dir)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(!name.ends_with(".tmp"), "{what}: {dir}/{name} is left behind");
        }
    }
    for entry in std::fs::read_dir(folder.join("snapshots")).into_iter().flatten().flatten() {
        assert!(entry.path().join("MANIFEST").exists(), "{what}: half a snapshot");
    }
    block_on(store.write(batch(99))).unwrap_or_else(|e| panic!("{what}: {e}"));
    block_on(store.flush()).unwrap_or_else(|e| panic!("{what}: {e}"));
    store.close();
    said.acked.len() as u64 * SERIES as u64
}

#[test]
fn the_process_may_end_at_every_file_call() {
    if let Ok(folder) = std::env::var(FOLDER) {
        return victim(Path::new(&folder));
    }
    let row = Row::begin("2", "process ends at every file call");
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let folder = |name: String| scratch.path().join(name).join("data");
    let whole = folder("whole".into());
    std::fs::create_dir_all(whole.parent().expect("a parent")).expect("a folder");
    let said = life(&whole, &[], None);
    assert!(said.ended && said.deleted && said.acked.len() == 14, "{said:?}");
    judge(&whole, &said, "without a fault");
    let (mut points, mut acked, mut n) = (0, 0, 0u64);
    loop {
        let mut came_to_its_end = true;
        for action in ["kill", "kill-after"] {
            let folder = folder(format!("{n}-{action}"));
            std::fs::create_dir_all(folder.parent().expect("a parent")).expect("a folder");
            let said = life(&folder, &[], Some(&format!("change+{n}={action}")));
            acked += judge(&folder, &said, &format!("{action} at call {n}"));
            came_to_its_end &= said.ended;
            points += 1;
            let _ = std::fs::remove_dir_all(folder.parent().expect("a parent"));
        }
        if came_to_its_end {
            break;
        }
        n += 1;
    }
    assert!(n > 100, "{n} file calls");
    row.passed(format_args!("{points} points"), acked);
}

/// The same by the kernel's own calls, thread by thread, where `strace` may trace.
#[test]
fn the_process_may_end_at_the_kernels_calls() {
    let row = Row::begin("2", "SIGKILL at the n-th write, fdatasync, rename … (strace)");
    let can = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !can.is_ok_and(|s| s.success()) {
        println!("left out: kills at the kernel's calls (strace cannot trace here)");
        return;
    }
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let (mut points, mut acked) = (0, 0);
    let most = sized(3, 60);
    for call in ["write", "fdatasync", "fsync", "rename", "unlink", "ftruncate", "linkat"] {
        for n in 1..=most {
            // Spread over the calls at every push.
            let n = if is_nightly() { n } else { n * n };
            let folder = scratch.path().join(format!("{call}-{n}")).join("data");
            std::fs::create_dir_all(folder.parent().expect("a parent")).expect("a folder");
            let inject = format!("inject={call}:signal=SIGKILL:when={n}");
            let trace = format!("trace={call}");
            let said = life(&folder, &["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject], None);
            acked += judge(&folder, &said, &format!("{call} {n}"));
            points += 1;
            let _ = std::fs::remove_dir_all(folder.parent().expect("a parent"));
            if said.ended {
                break;
            }
        }
    }
    row.passed(format_args!("{points} points"), acked);
}
