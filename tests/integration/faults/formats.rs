//! Test 26: folders of earlier versions are read, those of later ones refused and left as they are.
//!
//! `tests/fixtures/NAME/data` is a data folder as the version of that name wrote it, `tests/fixtures/NAME/expected.txt` what is in
//! it. A change of bytes on disk gets a new one: `QUIVER_WRITE_FIXTURE=tests/fixtures/NAME cargo test --test integration fixture`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use quiver_core::{Ingest, Maintain, Need, Source, Store, StoreOptions, TimeRange};
use quiver_model::{
    Exemplar, Histogram, Labels, Matcher, Metadata, MetricKind, STALE_NAN, SampleColumn, Span, WriteBatch,
};
use quiver_persistence::testing::Row;

use crate::server::binary;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn options() -> StoreOptions {
    StoreOptions { background: false, ..StoreOptions::default() }
}

fn block_on<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(f)
}

/// A line for each fact: samples to the bit, exemplars, metadata.
fn dump(source: &dyn Source) -> String {
    let snapshot = source.snapshot();
    let set = snapshot.select(&[], TimeRange::ALL, 1_000).expect("series");
    let mut column = SampleColumn::default();
    let mut out = String::new();
    for i in 0..set.len() {
        set.read(i, TimeRange::ALL, Need::ALL, &mut column).expect("samples");
        let _ = writeln!(out, "series {}", set.labels(i));
        for (k, t) in column.ts.iter().enumerate() {
            let start = column.start_ts.get(k).copied().unwrap_or(0);
            match column.histogram_at(k) {
                Some(h) => {
                    let bits =
                        |list: &[f64]| list.iter().map(|v| format!("{:x}", v.to_bits())).collect::<Vec<_>>().join(",");
                    let spans = |list: &[Span]| {
                        list.iter().map(|s| format!("{}+{}", s.offset, s.length)).collect::<Vec<_>>().join(",")
                    };
                    let _ = writeln!(
                        out,
                        "  {t} since {start}: schema {} count {:x} sum {:x} zero {:x} {:x} + {} {} - {} {} bounds {}",
                        h.schema,
                        h.count.to_bits(),
                        h.sum.to_bits(),
                        h.zero_threshold.to_bits(),
                        h.zero_count.to_bits(),
                        spans(&h.positive_spans),
                        bits(&h.positive_buckets),
                        spans(&h.negative_spans),
                        bits(&h.negative_buckets),
                        bits(&h.custom_values),
                    );
                }
                None => {
                    let _ = writeln!(out, "  {t} since {start}: {:x}", column.values[k].to_bits());
                }
            }
        }
    }
    for (labels, list) in snapshot.exemplars(&[], TimeRange::ALL).expect("exemplars") {
        for e in list {
            let _ = writeln!(out, "exemplar of {labels}: {} {} {:x}", e.labels, e.ts, e.value.to_bits());
        }
    }
    for (family, list) in snapshot.metadata(None) {
        for m in list {
            let _ = writeln!(out, "metadata of {family}: {:?} {:?} {:?}", m.kind, m.unit, m.help);
        }
    }
    out
}

/// Samples of every kind at 30 times from `t` on.
fn batch(t: i64) -> WriteBatch {
    let mut b = WriteBatch::default();
    for (name, f) in [
        ("constant", (|_| 1.5) as fn(i64) -> f64),
        ("decimal", |i| (i * 37 % 11) as f64 / 100.0),
        ("whole", |i| i as f64),
        ("wide", |i| 9e15 + (i * 4096) as f64),
        ("noise", |i| f64::from_bits((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2)),
        ("stale", |i| if i % 7 == 3 { STALE_NAN } else { -0.0 }),
    ] {
        b.begin_series([("__name__", name), ("instance", "host:9100")]);
        for i in 0..30 {
            b.push_float(t + i * 15_000 + i % 3, f(i), if name == "whole" { t } else { 0 });
        }
        let labels = Labels::from_pairs([("trace_id", "abc")]).expect("labels");
        b.push_exemplar(Exemplar { labels, value: 0.25, ts: t + 1 });
    }
    b.begin_series([("__name__", "native")]);
    for i in 0..30i64 {
        let h = Histogram {
            schema: 3,
            zero_threshold: 0.001,
            count: (10 * i) as f64,
            zero_count: i as f64,
            sum: i as f64 * 2.5,
            positive_spans: vec![Span { offset: 1, length: 3 }],
            positive_buckets: vec![i as f64, (2 * i) as f64, 7.0],
            ..Histogram::default()
        };
        b.push_histogram(t + i * 15_000, h, 0);
    }
    let help = "How many there are.".to_owned();
    b.metadata.push(("whole".to_owned(), Metadata { kind: MetricKind::Counter, unit: "bytes".to_owned(), help }));
    b
}

/// Makes a folder with a merged block, a young one, a deletion, and a log.
fn make(data: &Path) -> String {
    let store = Store::open_dir(data, options()).expect("a store");
    store.wait_until_ready();
    let t = 1_700_000_000_000;
    for k in 0..3 {
        block_on(store.write(batch(t + k * 450_000))).expect("written");
        block_on(store.flush()).expect("flushed");
    }
    block_on(store.compact()).expect("merged");
    block_on(store.write(batch(t + 3 * 450_000))).expect("written");
    block_on(store.flush()).expect("flushed");
    let doomed = vec![vec![Matcher::equal("__name__", "decimal")]];
    block_on(store.delete(doomed, TimeRange { min: t, max: t + 500_000 })).expect("deleted");
    block_on(store.write(batch(t + 4 * 450_000))).expect("written");
    block_on(store.write(batch(t - 450_000))).expect("late");
    let expected = dump(&*store);
    store.close();
    expected
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// Path and bytes of every file but the lock.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() {
            out.extend(files(&entry.path()));
        } else if entry.file_name() != "LOCK" {
            out.push((entry.path(), std::fs::read(entry.path()).expect("bytes")));
        }
    }
    out.sort();
    out
}

#[test]
fn fixture_folders_of_every_version_are_read() {
    if let Ok(path) = std::env::var("QUIVER_WRITE_FIXTURE") {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let expected = make(&folder.join("data"));
        std::fs::remove_file(folder.join("data/LOCK")).expect("the lock's file goes");
        std::fs::write(folder.join("expected.txt"), expected).expect("what is in it");
        return;
    }
    let row = Row::begin("26", "folders of all formats so far");
    let (mut count, mut samples) = (0, 0);
    for entry in std::fs::read_dir(fixtures()).expect("fixtures").flatten().filter(|e| e.path().join("data").exists()) {
        count += 1;
        let scratch = tempfile::tempdir().expect("a folder");
        let data = scratch.path().join("data");
        copy(&entry.path().join("data"), &data);
        let expected = std::fs::read_to_string(entry.path().join("expected.txt")).expect("what is in it");
        samples += expected.lines().filter(|l| l.starts_with("  ")).count();
        let store = Store::open_dir(&data, options()).expect("it opens");
        store.wait_until_ready();
        assert!(store.replay_report().is_clean());
        let name = entry.file_name();
        assert_eq!(dump(&*store), expected, "{name:?}");
        // It lives on in the present formats.
        block_on(store.flush()).expect("flushed");
        block_on(store.compact()).expect("merged");
        assert_eq!(dump(&*store), expected, "{name:?}, written anew");
        store.close();
        let checked = Command::new(binary()).arg("check").arg(&data).output().expect("it runs");
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }
    assert!(count > 0, "no fixtures");
    row.passed(format_args!("{count} folders"), samples as u64);
}

#[test]
fn folders_of_a_later_version_are_refused_and_left_alone() {
    let row = Row::begin("26", "later versions of log, block, manifest");
    let scratch = tempfile::tempdir().expect("a folder");
    let whole = scratch.path().join("whole");
    make(&whole);
    let mut refused = 0;
    for (path, bytes) in files(&whole) {
        let name = path.strip_prefix(&whole).expect("inside").to_string_lossy().into_owned();
        let later = if name.starts_with("MANIFEST") { later_manifest(&bytes) } else { later_header(&bytes) };
        let data = scratch.path().join(format!("later-{refused}"));
        copy(&whole, &data);
        std::fs::write(data.join(&name), later).expect("written");
        let before = files(&data);
        let out = Command::new(binary())
            .args(["serve", "--http-listen", "127.0.0.1:0", "--grpc-listen", "off", "--data-dir"])
            .arg(&data)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains("newer version"), "{name}: {said}");
        assert!(files(&data) == before, "{name}: a folder of a later version is left as it is");
        refused += 1;
    }
    assert!(refused >= 4, "{refused}");
    row.passed(format_args!("{refused} files"), 0);
}

fn later_manifest(bytes: &[u8]) -> Vec<u8> {
    let line_end = bytes.iter().position(|b| *b == b'\n').expect("a line");
    let body = &bytes[line_end + 1..];
    let start = "quiver manifest 9";
    let crc = quiver_persistence::crc32c_salted(start.as_bytes(), body);
    [format!("{start} crc32c {crc:08x} bytes {}\n", body.len()).as_bytes(), body].concat()
}

/// Log segments and blocks say their version in the same place.
fn later_header(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out[8] = 99;
    let crc = quiver_persistence::crc32c(&out[..12]);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}
