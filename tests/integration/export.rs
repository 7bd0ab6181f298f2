//! Parquet out, and the same answers from it, or from a copied data folder, without a server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, TimestampMillisecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::command::{quiver, succeeds};
use crate::remote_write::{Native, Series, write};
use crate::server::{Server, copy_folder};

const DAY: i64 = 86_400_000;
/// Ten minutes before a midnight, so that the data lies in two days, and some of it far before.
const T: i64 = 19_676 * DAY - 600_000;

fn filled() -> Server {
    let server = Server::start();
    let counter: Vec<f64> = (0..120).map(|i| f64::from(i * 7)).collect();
    let series = |job: &str| Series::new("http_requests_total", &[("job", job), ("path", "/a \"b\"\n")]);
    let mut native = Series::new("latency", &[("job", "api")]);
    for i in 0..20 {
        native =
            native.histogram(T + i * 60_000, Native::exponential(2, 1, -3, &[1 + i as u64, 2, 3 + i as u64], i as f64));
    }
    let odd = [f64::INFINITY, f64::NEG_INFINITY, f64::from_bits(0x7ff8_0000_0000_beef), -0.0, 5e-324];
    write(
        &mut server.client(),
        &[
            series("api").floats(T, 10_000, &counter).since(T - 1),
            series("web").floats(T, 10_000, &counter),
            series("web").float(T - 40 * DAY, 3.0),
            native,
            Series::new("custom", &[]).histogram(T, Native::custom(&[0.5, 1.0], &[1, 2, 3], 4.0)),
            Series::new("odd", &[]).floats(T, 1000, &odd),
            Series::new("ended", &[]).float(T, 1.0).stale(T + 1000),
        ],
    );
    server
}

const STATEMENTS: [&str; 7] = [
    "SELECT metric, count(*), count(value), sum(CASE WHEN value < 1e300 AND value > -1e300 THEN value END), min(ts), max(ts) \
     FROM samples GROUP BY metric ORDER BY metric",
    "SELECT ts, value, job, path, start_ts FROM metrics.http_requests_total ORDER BY job, ts",
    "SELECT ts, histogram FROM metrics.latency ORDER BY ts",
    "SELECT ts, histogram FROM metrics.custom",
    "SELECT ts, value FROM metrics.odd ORDER BY ts",
    "SELECT metric, labels_json, series_id FROM series ORDER BY metric, labels_json",
    "SELECT job, ts, value FROM promql('sum by (job) (rate(http_requests_total[5m]))', 1700006400, 1700006900, 60) ORDER BY 1, 2",
];

const QUERIES: [&str; 8] = [
    "http_requests_total",
    "sum by (job) (rate(http_requests_total[5m]))",
    "histogram_quantile(0.9, latency)",
    "rate(latency[10m])",
    "histogram_count(custom) + histogram_sum(custom)",
    "odd",
    "ended",
    "{__name__=~\".+\", job=\"api\"}",
];

/// What the server answers to all statements and queries.
fn answers_of(server: &Server) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    for s in STATEMENTS {
        let r = server.post("/api/v1/sql", &[("query", s)]);
        assert_eq!(r.status, 200, "{s}: {}", r.text());
        out.push((s.to_owned(), r.json()["data"].take()));
    }
    let (start, end) = (seconds(T), seconds(T + 1_200_000));
    for q in QUERIES {
        let p = [("query", q), ("start", &start), ("end", &end), ("step", "45")];
        out.push((q.to_owned(), server.post("/api/v1/query_range", &p).json()));
        let p = [("query", q), ("time", &end)];
        out.push((format!("{q} at the end"), server.post("/api/v1/query", &p).json()));
    }
    out
}

fn seconds(ms: i64) -> String {
    format!("{}", ms / 1000)
}

/// The same from a folder.
fn offline_answers(folder: &str) -> Vec<(String, Value)> {
    let json = |text: String| -> Value { serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")) };
    let mut out = Vec::new();
    for s in STATEMENTS {
        out.push((s.to_owned(), json(succeeds(&["sql", "--offline", folder, "--json", s]))["data"].take()));
    }
    let (start, end) = (seconds(T), seconds(T + 1_200_000));
    for q in QUERIES {
        let range = ["query", "--offline", folder, "--json", "--start", &start, "--end", &end, "--step", "45", q];
        out.push((q.to_owned(), json(succeeds(&range))));
        let instant = ["query", "--offline", folder, "--json", "--time", &end, q];
        out.push((format!("{q} at the end"), json(succeeds(&instant))));
    }
    out
}

fn same(found: Vec<(String, Value)>, wanted: &[(String, Value)]) {
    for ((what, found), (_, wanted)) in found.iter().zip(wanted) {
        assert_eq!(found, wanted, "{what}");
    }
    assert_eq!(found.len(), wanted.len());
}

fn parquet_files(folder: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut days: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for day in std::fs::read_dir(folder).unwrap() {
        let day = day.unwrap().path();
        if day.is_dir() {
            let files = std::fs::read_dir(&day).unwrap().map(|e| e.unwrap().path());
            let name = day.file_name().unwrap().to_string_lossy().into_owned();
            days.entry(name).or_default().extend(files.filter(|f| f.extension().is_some_and(|e| e == "parquet")));
        }
    }
    days
}

fn rows(file: &Path) -> Vec<RecordBatch> {
    let bytes = bytes::Bytes::from(std::fs::read(file).unwrap());
    ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap().map(Result::unwrap).collect()
}

#[test]
fn an_export_gives_the_answers_of_the_server() {
    let server = filled();
    server.admin("flush");
    // A part in blocks, a part in the head.
    write(&mut server.client(), &[Series::new("http_requests_total", &[("job", "new")]).float(T + 1_190_000, 1.0)]);
    let wanted = answers_of(&server);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("export");
    let shown = out.display().to_string();
    let text = succeeds(&["export", "--url", &server.url(), "--out", &shown]);
    let count = server.sql("SELECT count(*) FROM samples")[0][0].clone();
    assert!(text.contains(&count.to_string()), "{text}");
    same(offline_answers(&shown), &wanted);

    // What other programs see: a folder per day, plain columns, sorted, nothing missing.
    let days = parquet_files(&out);
    let names: Vec<_> = days.keys().map(|d| d.trim_start_matches("day=").to_owned()).collect();
    assert_eq!(names, ["2023-10-05", "2023-11-14", "2023-11-15"], "{days:?}");
    let mut total = 0;
    for files in days.values() {
        for file in files {
            let mut last: Option<(String, i64)> = None;
            for b in rows(file) {
                let schema = b.schema();
                let columns: Vec<_> = schema.fields().iter().take(4).map(|f| f.name().as_str()).collect();
                assert_eq!(columns, ["metric", "ts", "value", "labels"]);
                assert!(matches!(schema.field(3).data_type(), DataType::Map(..)));
                total += b.num_rows();
                let metric = arrow::compute::cast(b.column(0), &DataType::Utf8).unwrap();
                let metric = metric.as_string::<i32>();
                let ts = b.column(1).as_primitive::<TimestampMillisecondType>();
                let labels = b.column(3).as_map();
                for i in 0..b.num_rows() {
                    let row = (format!("{} {:?}", metric.value(i), labels.value(i)), ts.value(i));
                    if let Some(l) = last.filter(|l| l.0 == row.0) {
                        assert!(l.1 < row.1, "times of a series rise: {row:?}");
                    }
                    last = Some(row);
                }
            }
        }
    }
    assert_eq!(Some(total as u64), count.as_u64());
}

#[test]
fn a_part_can_be_exported() {
    let server = filled();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("part").display().to_string();
    let (start, end) = (seconds(T), seconds(T + 100_000));
    succeeds(&[
        "export",
        "--url",
        &server.url(),
        "--out",
        &out,
        "--match",
        "{job=\"web\"}",
        "--match",
        "odd",
        "--start",
        &start,
        "--end",
        &end,
    ]);
    let statement = "SELECT metric, count(*) AS n FROM samples GROUP BY metric ORDER BY metric";
    let text = succeeds(&["sql", "--offline", &out, "--format", "csv", statement]);
    assert_eq!(text, "metric,n\nhttp_requests_total,11\nodd,5\n");
    // Bits of values that text would lose.
    let file = parquet_files(Path::new(&out)).into_values().flatten().next().unwrap();
    let mut bits = Vec::new();
    for b in rows(&file) {
        let metric = arrow::compute::cast(b.column(0), &DataType::Utf8).unwrap();
        let value = b.column(2).as_primitive::<Float64Type>();
        let odd = (0..b.num_rows()).filter(|i| metric.as_string::<i32>().value(*i) == "odd");
        bits.extend(odd.map(|i| value.value(i).to_bits()));
    }
    assert_eq!(bits[2..], [0x7ff8_0000_0000_beef, (-0.0f64).to_bits(), 1]);
    let (code, _, err) = quiver(&["export", "--url", &server.url(), "--out", &out, "--match", "{"]);
    assert!(code == Some(2) && err.contains("--match"), "{err}");
    let new = folder.path().join("new").display().to_string();
    let (code, _, err) = quiver(&["export", "--url", "http://127.0.0.1:1", "--out", &new]);
    assert!(code == Some(1) && err.contains("127.0.0.1:1"), "{err}");
    assert!(!Path::new(&new).exists(), "a failed export leaves no empty folder");
}

/// Two exports in one folder would be read as one: sums of both, or half of each.
#[test]
fn an_export_is_not_mixed_with_another() {
    let server = filled();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").display().to_string();
    let (url, count) = (server.url(), "SELECT count(*) AS n FROM samples");
    let export = |more: &[&str]| quiver(&[&["export", "--url", &url, "--out", &out], more].concat());
    assert_eq!(export(&[]).0, Some(0));
    let all = succeeds(&["sql", "--offline", &out, "--format", "csv", count]);
    for more in [&["--match", "odd"][..], &["--start", "2023-11-14T23:45Z"]] {
        let (code, said, err) = export(more);
        assert!(code == Some(1) && said.is_empty() && err.contains("holds an earlier export"), "{err}");
    }
    assert_eq!(succeeds(&["sql", "--offline", &out, "--format", "csv", count]), all, "nothing was changed");
    // An export that finds nothing does not cost the earlier one.
    assert_eq!(export(&["--replace", "--match", "nosuch"]).0, Some(3));
    assert_eq!(succeeds(&["sql", "--offline", &out, "--format", "csv", count]), all);
    let (code, _, err) = export(&["--replace", "--match", "odd"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(succeeds(&["sql", "--offline", &out, "--format", "csv", count]), "n\n5\n");
    // Folders of others stay as they are: sources, or the data of the server itself.
    let sources = folder.path().join("src");
    std::fs::create_dir(&sources).unwrap();
    std::fs::write(sources.join("main.rs"), "fn main() {}").unwrap();
    for (folder, name) in [(&sources, "main.rs"), (&server.data, "LOCK")] {
        let before = listing(folder);
        let shown = folder.display().to_string();
        for replace in [&[][..], &["--replace"]] {
            let (code, _, err) = quiver(&[&["export", "--url", &url, "--out", &shown], replace].concat());
            assert!(code == Some(1) && err.contains("no export wrote") && err.contains(name), "{err}");
        }
        assert_eq!(listing(folder).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    }
}

/// A sample that was sent in seconds is from 1970: a request for each day since would take seconds.
#[test]
fn an_export_over_decades_takes_few_requests() {
    let server = Server::start();
    let series =
        Series::new("far", &[]).float(1_700_000, 1.0).float(T - 400 * DAY, 2.0).float(T, 3.0).float(T + DAY, 4.0);
    write(&mut server.client(), &[series]);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").display().to_string();
    let before = server.metric("quiver_http_requests_total");
    succeeds(&["export", "--url", &server.url(), "--out", &out]);
    let requests = server.metric("quiver_http_requests_total") - before;
    assert!(requests < 500.0, "{requests} requests");
    let statement = "SELECT ts, value FROM metrics.far ORDER BY ts";
    let here = succeeds(&["sql", "--offline", &out, "--format", "csv", statement]);
    assert_eq!(here, succeeds(&["sql", "--url", &server.url(), "--format", "csv", statement]));
    assert_eq!(here.lines().count(), 5);
}

/// A peer that announces gigabytes must not fill the memory.
#[test]
fn a_part_of_an_export_that_is_too_large_is_refused() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let _ = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 65_536]);
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\nx-quiver-min-time: 0\r\nx-quiver-max-time: 1\r\n\r\n";
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&[0xff; 8]));
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").display().to_string();
    let (code, _, err) = quiver(&["export", "--url", &url, "--out", &out]);
    assert!(code == Some(1) && err.contains("4.0 GiB long, more than 64.0 MiB"), "{err}");
    assert!(!Path::new(&out).exists());
}

#[test]
fn an_export_of_nothing_says_so_and_scripts_see_it() {
    let server = filled();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("none").display().to_string();
    let url = server.url();
    for selection in [&["--match", "{job=\"nosuch\"}"][..], &["--start", "2020-01-01", "--end", "2020-01-02"]] {
        let (code, said, err) = quiver(&[&["export", "--url", &url, "--out", &out], selection].concat());
        assert_eq!((code, said.as_str()), (Some(3), ""), "{err}");
        assert!(err.contains("warning: no sample matches"), "{err}");
    }
    assert!(!Path::new(&out).exists(), "an export of nothing leaves no empty folder");
    // A query of that folder says what is wrong with it, and names it once.
    let (code, _, err) = quiver(&["query", "--offline", &out, "up"]);
    assert!(code == Some(1) && err.matches(out.as_str()).count() == 1, "{err}");
    // Times are written as for queries, and the last line names samples, folders and the time it took.
    let text = succeeds(&["export", "--url", &url, "--out", &out, "--start", "2023-11-14T23:45Z", "--match", "odd"]);
    assert!(text.contains("5 samples in 1 folder under") && text.contains(", in "), "{text}");
    let (code, _, err) = quiver(&["export", "--url", &url, "--out", &out, "--start", "whenever"]);
    assert!(code == Some(2) && err.contains("--start") && err.contains("now-1h"), "{err}");
}

#[test]
fn a_copied_data_folder_answers_without_a_server() {
    let server = filled();
    server.admin("flush");
    write(&mut server.client(), &[Series::new("http_requests_total", &[("job", "new")]).float(T + 1_190_000, 1.0)]);
    let wanted = answers_of(&server);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    copy_folder(&server.data, &copy);
    let before = listing(&copy);
    let shown = copy.display().to_string();
    same(offline_answers(&shown), &wanted);
    assert_eq!(listing(&copy), before, "reading changes nothing");
    // And an export of the copy.
    let out = folder.path().join("export").display().to_string();
    succeeds(&["export", "--data-dir", &shown, "--out", &out]);
    same(offline_answers(&out), &wanted);
}

#[test]
fn folders_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing").display().to_string();
    for arguments in [
        &["sql", "--offline", &missing, "SELECT 1"][..],
        &["query", "--offline", &missing, "up"],
        &["export", "--data-dir", &missing, "--out", &missing],
        &["inspect", &missing],
        &["check", &missing],
    ] {
        let (code, _, err) = quiver(arguments);
        assert!(code == Some(1) && err.contains("missing") && !err.contains("look at"), "{arguments:?}: {err}");
    }
    let empty = tempfile::tempdir().unwrap().path().display().to_string();
    std::fs::create_dir(&empty).unwrap();
    let (code, _, err) = quiver(&["inspect", &empty]);
    assert!(code == Some(1) && err.matches(empty.as_str()).count() == 1, "named once: {err}");
    std::fs::remove_dir(&empty).unwrap();
    std::fs::create_dir(folder.path().join("day=2023-11-14")).unwrap();
    std::fs::write(folder.path().join("day=2023-11-14/x.parquet"), "this is no Parquet").unwrap();
    let (code, _, err) =
        quiver(&["sql", "--offline", &folder.path().display().to_string(), "SELECT count(*) FROM samples"]);
    assert!(code == Some(1) && err.matches("x.parquet").count() == 1, "{err}");
    // The answer of a statement as Parquet is no export.
    let server = filled();
    let answer = server.post("/api/v1/sql", &[("query", "SELECT * FROM metrics.odd"), ("format", "parquet")]);
    std::fs::write(folder.path().join("day=2023-11-14/x.parquet"), &answer.body).unwrap();
    let shown = folder.path().display().to_string();
    let (code, _, err) = quiver(&["sql", "--offline", &shown, "SELECT count(*) FROM samples"]);
    assert!(code == Some(1) && err.contains("x.parquet: it is not a file that quiver export wrote"), "{err}");
}

fn listing(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(listing(&path));
        } else {
            out.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    out
}
