//! SQL over HTTP: the tables, the formats, what is pushed down, and the example queries of `sql/`.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMillisecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::command::succeeds;
use crate::remote_write::{Native, Series, write};
use crate::server::Server;

const T: i64 = 1_700_000_000_000;

/// Requests of two jobs for ten minutes with a gap, a gauge, a histogram.
pub fn filled() -> Server {
    let server = Server::start();
    let counter = |step: f64| -> Vec<f64> { (0..61).map(|i| f64::from(i) * step).collect() };
    let requests = |job: &str, code: &str| Series::new("http_requests_total", &[("job", job), ("code", code)]);
    let early = counter(3.0);
    write(
        &mut server.client(),
        &[
            requests("api", "200").floats(T - 600_000, 10_000, &counter(10.0)),
            requests("api", "500").floats(T - 600_000, 10_000, &counter(1.0)),
            requests("web", "200").floats(T - 600_000, 10_000, &early[..20]).floats(
                T - 100_000,
                10_000,
                &early[20..31],
            ),
            Series::new("temperature", &[("room", "attic")]).floats(
                T - 540_000,
                60_000,
                &[20.0, 21.0, 22.5, 23.0, 22.0],
            ),
            Series::new("temperature", &[("room", "cellar"), ("value", "odd")]).float(T - 60_000, 12.0),
            Series::new("latency", &[("job", "api")])
                .histogram(T - 60_000, Native::exponential(0, 2, 0, &[1, 3], 5.0))
                .stale(T)
                .since(T - 120_000),
        ],
    );
    server
}

fn ask(server: &Server, statement: &str, format: &str) -> crate::http::Response {
    let r = server.post("/api/v1/sql", &[("query", statement), ("format", format)]);
    assert_eq!(r.status, 200, "{statement}: {}", r.text());
    r
}

fn names_and_types(v: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    v.as_array().unwrap().iter().map(|c| (text(&c["name"]), text(&c["type"]))).collect()
}

#[test]
fn a_table_per_metric() {
    let server = filled();
    let r = ask(&server, "SELECT * FROM metrics.temperature ORDER BY ts, room", "json").json();
    assert_eq!(r["status"], "success");
    let columns: Vec<_> = names_and_types(&r["data"]["columns"]).into_iter().map(|(n, _)| n).collect();
    assert_eq!(columns, ["ts", "value", "room", "label_value", "histogram", "start_ts", "series_id"]);
    let rows = r["data"]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    assert_eq!((&rows[0][1], &rows[0][2], &rows[0][3]), (&json!(20.0), &json!("attic"), &Value::Null));
    assert_eq!((&rows[5][1], &rows[5][2], &rows[5][3]), (&json!(12.0), &json!("cellar"), &json!("odd")));
    assert_eq!(
        server.sql("SELECT room, count(*), max(value) FROM metrics.temperature GROUP BY room ORDER BY room"),
        [vec![json!("attic"), json!(5), json!(23.0)], vec![json!("cellar"), json!(1), json!(12.0)]]
    );
    // Names keep their case; tables that are not there are an error with the name.
    let r = server.post("/api/v1/sql", &[("query", "SELECT * FROM metrics.\"Temperature\"")]);
    assert_eq!(r.status, 400);
    assert!(r.text().contains("Temperature"), "{}", r.text());
    let listed = server.sql(
        "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema = 'metrics' ORDER BY 2",
    );
    let listed: Vec<_> = listed.iter().map(|r| r[1].as_str().unwrap()).collect();
    assert_eq!(listed, ["http_requests_total", "latency", "temperature"]);
}

#[test]
fn tables_of_all_samples_and_of_all_series() {
    let server = filled();
    let check = |when: &str| {
        let r =
            ask(&server, "SELECT * FROM samples WHERE metric = 'temperature' AND labels['room'] = 'cellar'", "json")
                .json();
        let columns: Vec<_> = names_and_types(&r["data"]["columns"]).into_iter().map(|(n, _)| n).collect();
        assert_eq!(columns[..4], ["metric", "ts", "value", "labels"], "{when}");
        let rows = r["data"]["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 1, "{when}: {rows:?}");
        assert_eq!(rows[0][3], json!({"room": "cellar", "value": "odd"}), "{when}");
        assert_eq!(rows[0][4], json!("{\"room\":\"cellar\",\"value\":\"odd\"}"), "{when}");
        assert_eq!(
            server.sql("SELECT metric, count(*) FROM samples GROUP BY metric ORDER BY metric"),
            [
                vec![json!("http_requests_total"), json!(153)],
                vec![json!("latency"), json!(2)],
                vec![json!("temperature"), json!(6)]
            ],
            "{when}"
        );
        assert_eq!(server.sql("SELECT count(*) FROM series")[0][0], json!(6), "{when}");
        assert_eq!(server.sql("SELECT count(DISTINCT series_id) FROM samples")[0][0], json!(6), "{when}");
        let between = format!(
            "SELECT count(*) FROM samples WHERE ts > to_timestamp_millis({}) AND ts <= to_timestamp_millis({T})",
            T - 60_000
        );
        assert_eq!(server.sql(&between)[0][0], json!(19), "{when}");
    };
    check("in the head");
    server.admin("flush");
    check("in a block");
}

#[test]
fn a_cast_that_rounds_or_fails_is_not_taken_for_its_column() {
    let server = filled();
    let odd = Series::new("odd", &[("n", "7")]).float(T + 1_000, 1.0).float(T + 1_500, 2.0).float(T + 2_000, 3.0);
    write(&mut server.client(), &[odd, Series::new("odd", &[("n", "x")]).float(T, 4.0)]);
    let count = |table: &str, predicate: &str| {
        server.sql(&format!("SELECT count(*) FROM metrics.{table} WHERE {predicate}"))[0][0].as_u64().unwrap()
    };
    for when in ["in the head", "in a block"] {
        assert_eq!(count("odd", "TRY_CAST(n AS INT) IS NOT NULL"), 3, "{when}");
        assert_eq!(count("odd", "TRY_CAST(n AS INT) IS NULL"), 1, "{when}");
        assert_eq!(count("odd", "TRY_CAST(n AS INT) = 7"), 3, "{when}");
        assert_eq!(count("odd", "CAST(n AS VARCHAR) = '7'"), 3, "{when}");
        // All of it is of the day that begins with 2023-11-14 00:00.
        for (predicate, rows) in [("=", 4), ("<=", 4), (">=", 4), (">", 0), ("<", 0)] {
            assert_eq!(
                count("odd", &format!("ts::date {predicate} TIMESTAMP '2023-11-14'")),
                rows,
                "{when} {predicate}"
            );
        }
        assert_eq!(
            count("odd", "arrow_cast(ts, 'Timestamp(Second, None)') = TIMESTAMP '2023-11-14 22:13:21'"),
            2,
            "{when}"
        );
        assert_eq!(count("odd", "ts = TIMESTAMP '2023-11-14 22:13:21'"), 1, "{when}");
        server.admin("flush");
    }
}

#[test]
fn histograms_and_markers_in_rows() {
    let server = filled();
    let rows = server.sql(
        "SELECT value, histogram['count'], histogram['sum'], cardinality(histogram['buckets']), CAST(start_ts AS BIGINT) AS start \
         FROM metrics.latency ORDER BY ts",
    );
    assert_eq!(rows[0], [Value::Null, json!(6.0), json!(5.0), json!(3), json!(T - 120_000)]);
    assert_eq!(rows[1][..3], [Value::Null, Value::Null, Value::Null], "a stale marker is a row of nulls");
}

#[test]
fn every_format_says_the_same() {
    let server = filled();
    let statement = "SELECT ts, room, value FROM metrics.temperature WHERE room = 'attic' ORDER BY ts";
    let times: Vec<i64> = (0..5).map(|i| T - 540_000 + i * 60_000).collect();
    let values = [20.0, 21.0, 22.5, 23.0, 22.0];

    let r = ask(&server, statement, "json");
    assert_eq!(r.header("content-type"), "application/json");
    let rows: Vec<Vec<Value>> = serde_json::from_value(r.json()["data"]["rows"].take()).unwrap();
    assert_eq!(rows.iter().map(|r| r[2].as_f64().unwrap()).collect::<Vec<_>>(), values);

    let r = ask(&server, statement, "csv");
    assert!(r.header("content-type").starts_with("text/csv"));
    let text = r.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (6, "ts,room,value"));
    assert!(lines[1].contains("attic") && lines[1].ends_with("20.0"), "{text}");

    let r = ask(&server, statement, "jsonl");
    let text = r.text();
    let objects: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((objects.len(), &objects[2]["value"], &objects[2]["room"]), (5, &json!(22.5), &json!("attic")));

    let check = |batches: Vec<RecordBatch>| {
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 5);
        let schema = batches[0].schema();
        assert_eq!(schema.field(0).data_type(), &DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())));
        let mut at = 0;
        for b in &batches {
            let ts = b.column(0).as_primitive::<TimestampMillisecondType>();
            let value = b.column(2).as_primitive::<Float64Type>();
            for i in 0..b.num_rows() {
                assert_eq!((ts.value(i), value.value(i).to_bits()), (times[at], f64::to_bits(values[at])));
                at += 1;
            }
        }
    };
    let r = ask(&server, statement, "arrow");
    assert_eq!(r.header("content-type"), "application/vnd.apache.arrow.stream");
    let reader = arrow::ipc::reader::StreamReader::try_new(r.body.as_slice(), None).unwrap();
    check(reader.map(Result::unwrap).filter(|b| b.num_rows() > 0).collect());

    let r = ask(&server, statement, "parquet");
    assert_eq!(r.header("content-type"), "application/vnd.apache.parquet");
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(r.body)).unwrap().build().unwrap();
    check(reader.map(Result::unwrap).collect());

    // By Accept, by GET, by a bare body.
    let mut c = server.client();
    let path = format!("/api/v1/sql?{}", crate::http::form(&[("query", statement)]));
    for (accept, content_type) in [
        ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.stream"),
        ("application/vnd.apache.parquet", "application/vnd.apache.parquet"),
        ("text/csv", "text/csv; charset=utf-8"),
        ("*/*", "application/json"),
    ] {
        let r = c.request("GET", &path, &[("accept", accept)], b"").unwrap();
        assert_eq!((r.status, r.header("content-type")), (200, content_type));
    }
    let r = c.request("POST", "/api/v1/sql?format=csv", &[("content-type", "application/sql")], statement.as_bytes());
    assert_eq!(r.unwrap().text(), text_of_csv(&server, statement));
}

fn text_of_csv(server: &Server, statement: &str) -> String {
    ask(server, statement, "csv").text()
}

#[test]
fn answers_without_rows_have_their_columns() {
    let server = filled();
    let statement = "SELECT ts, value FROM metrics.temperature WHERE room = 'kitchen'";
    let r = ask(&server, statement, "json").json();
    assert_eq!((r["data"]["columns"].as_array().map(Vec::len), &r["data"]["rows"]), (Some(2), &json!([])));
    assert_eq!(ask(&server, statement, "csv").text(), "ts,value\n");
    let r = ask(&server, statement, "arrow");
    let reader = arrow::ipc::reader::StreamReader::try_new(r.body.as_slice(), None).unwrap();
    assert_eq!(reader.schema().fields().len(), 2);
    let r = ask(&server, statement, "parquet");
    assert_eq!(
        ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(r.body)).unwrap().schema().fields().len(),
        2
    );
    // With nothing stored at all.
    let empty = Server::start();
    assert_eq!(empty.sql("SELECT count(*) FROM samples"), [[json!(0)]]);
    assert_eq!(empty.sql("SELECT * FROM series"), Vec::<Vec<Value>>::new());
}

#[test]
fn numbers_that_json_has_no_word_for() {
    let server = Server::start();
    let values = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -0.0];
    write(&mut server.client(), &[Series::new("odd", &[]).floats(T, 1, &values)]);
    let rows = server.sql("SELECT value FROM metrics.odd ORDER BY ts");
    assert_eq!(rows[..3], [[json!("+Inf")], [json!("-Inf")], [json!("NaN")]]);
}

fn explain(server: &Server, statement: &str) -> String {
    let rows = server.sql(&format!("EXPLAIN {statement}"));
    rows.iter().map(|r| format!("{}\n{}\n", r[0].as_str().unwrap_or(""), r[1].as_str().unwrap_or(""))).collect()
}

#[test]
fn predicates_on_labels_and_time_reach_the_scan() {
    let server = filled();
    let from = T - 60_000;
    for (statement, words) in [
        (
            format!("SELECT value FROM metrics.http_requests_total WHERE job = 'api' AND ts >= to_timestamp_millis({from})"),
            vec!["__name__=\"http_requests_total\"", "job=\"api\"", &*format!("time=[{from}, …]"), "series=2"],
        ),
        (
            "SELECT value FROM metrics.http_requests_total WHERE code IN ('500', '503') AND job <> 'web'".to_owned(),
            vec!["code=~", "500", "job!=\"web\"", "series=1"],
        ),
        (
            "SELECT value FROM metrics.http_requests_total WHERE job LIKE 'w%'".to_owned(),
            vec!["job=~\"w.*\"", "series=1"],
        ),
        (
            "SELECT ts FROM samples WHERE metric = 'temperature' AND labels['room'] = 'attic'".to_owned(),
            vec!["__name__=\"temperature\"", "room=\"attic\"", "series=1"],
        ),
        (
            "SELECT ts FROM samples WHERE metric = 'temperature' AND ts BETWEEN '2023-11-14T22:00:00Z' AND '2023-11-14T22:13:20Z'"
                .to_owned(),
            vec!["time=[1699999200000, 1700000000000]"],
        ),
        ("SELECT * FROM series WHERE metric = 'latency'".to_owned(), vec!["__name__=\"latency\"", "series=1"]),
    ] {
        let plan = explain(&server, &statement);
        assert!(plan.contains("SampleScan"), "{plan}");
        for word in words {
            assert!(plan.contains(word), "{word} is not in\n{plan}");
        }
    }
    // What is pushed down is exact: the same rows as SQL alone would give.
    for (predicate, n) in [
        ("job = 'api'", 122),
        ("job <> 'api'", 31),
        ("job IN ('api', 'nothing')", 122),
        ("job NOT IN ('api')", 31),
        ("job LIKE '%p%'", 122),
        ("job ~ '^a'", 122),
        ("job !~ 'a'", 31),
        ("job IS NULL", 0),
        ("nothing IS NULL", 153),
        ("job = ''", 0),
    ] {
        let statement = format!("SELECT count(*) FROM metrics.http_requests_total WHERE {predicate}");
        let r = server.post("/api/v1/sql", &[("query", &statement)]);
        if predicate.starts_with("nothing") {
            assert_eq!(r.status, 400, "there is no such column");
        } else {
            assert_eq!(r.json()["data"]["rows"][0][0], json!(n), "{predicate}: {}", r.text());
        }
    }
}

#[test]
fn promql_as_a_table() {
    let server = filled();
    // Numbers as text: a parser of JSON may round them.
    let table = ask(
        &server,
        "SELECT job, CAST(ts AS BIGINT) AS ms, value FROM promql('sum by (job) (rate(http_requests_total[1m]))', 1699999940, 1700000000, '60s') \
         ORDER BY ms, job",
        "csv",
    );
    // Answers are those of the PromQL API.
    let p = [
        ("query", "sum by (job) (rate(http_requests_total[1m]))"),
        ("start", "1699999940"),
        ("end", "1700000000"),
        ("step", "60"),
    ];
    let r = server.get("/api/v1/query_range", &p).json();
    let mut wanted = Vec::new();
    for s in r["data"]["result"].as_array().unwrap() {
        for point in s["values"].as_array().unwrap() {
            let value: f64 = point[1].as_str().unwrap().parse().unwrap();
            wanted.push((point[0].as_i64().unwrap() * 1000, s["metric"]["job"].as_str().unwrap().to_owned(), value));
        }
    }
    wanted.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let text = table.text();
    let cells = text.lines().skip(1).map(|l| l.split(',').collect::<Vec<_>>());
    let found: Vec<(i64, String, f64)> =
        cells.map(|c| (c[1].parse().unwrap(), c[0].to_owned(), c[2].parse().unwrap())).collect();
    assert_eq!(found, wanted);
    assert_eq!(found.len(), 4);
    assert_eq!(
        server.sql("SELECT room, value FROM promql_instant('max by (room) (temperature)', 1699999700) ORDER BY room"),
        [vec![json!("attic"), json!(22.0)]]
    );
    // An empty answer has the columns it might have had.
    for expression in
        ["http_requests_total > 1e300", "sum by (job) (http_requests_total) > 1e300", "topk(0, http_requests_total)"]
    {
        let statement = format!("SELECT job, value FROM promql('{expression}', 1699999940, 1700000000, 60)");
        assert_eq!(server.sql(&statement), Vec::<Vec<serde_json::Value>>::new(), "{expression}");
    }
    for (statement, word) in [
        ("SELECT * FROM promql('sum(', 0, 1, 1)", "parse error"),
        ("SELECT * FROM promql('up', 0, 1, 0)", "step"),
        ("SELECT * FROM promql('up', 1, 0, 1)", "before"),
        ("SELECT * FROM promql('up')", "usage"),
        ("SELECT * FROM promql(job, 0, 1, 1)", "text or a number"),
    ] {
        let r = server.post("/api/v1/sql", &[("query", statement)]);
        assert_eq!(r.status, 400, "{statement}: {}", r.text());
        assert!(r.text().contains(word), "{statement}: {}", r.text());
    }
}

#[test]
fn the_example_queries_answer() {
    let server = filled();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 8, "{files:?}");
    for file in files {
        let statement = std::fs::read_to_string(&file).unwrap();
        assert!(statement.starts_with("-- "), "{}: says first what it is for", file.display());
        let r = server.post("/api/v1/sql", &[("query", &statement)]);
        assert_eq!(r.status, 200, "{}: {}", file.display(), r.text());
        let rows = r.json()["data"]["rows"].as_array().map_or(0, Vec::len);
        assert!(rows > 0, "{}: no rows on the test's data", file.display());
        let csv = server.post("/api/v1/sql", &[("query", &statement), ("format", "csv")]);
        assert_eq!(csv.status, 200, "{}: {}", file.display(), csv.text());
    }
}

#[test]
fn large_answers_are_streamed_whole() {
    let server = Server::start();
    let mut c = server.client();
    for part in 0..10 {
        let series: Vec<_> = (0..50)
            .map(|i| {
                let values: Vec<f64> = (0..100).map(|k| f64::from(part * 1000 + k)).collect();
                Series::new("many", &[("i", &i.to_string())]).floats(T + i64::from(part) * 100_000, 1000, &values)
            })
            .collect();
        write(&mut c, &series);
    }
    let statement = "SELECT ts, i, value FROM metrics.many";
    let r = ask(&server, statement, "arrow");
    assert_eq!(r.header("transfer-encoding"), "chunked");
    let reader = arrow::ipc::reader::StreamReader::try_new(r.body.as_slice(), None).unwrap();
    let mut seen = std::collections::HashSet::new();
    for b in reader {
        let b = b.unwrap();
        let ts = b.column(0).as_primitive::<TimestampMillisecondType>();
        let i = arrow::compute::cast(b.column(1), &DataType::Utf8).unwrap();
        let i = i.as_string::<i32>();
        for row in 0..b.num_rows() {
            assert!(seen.insert((i.value(row).to_owned(), ts.value(row))), "a row twice");
        }
    }
    assert_eq!(seen.len(), 50_000);
    assert_eq!(ask(&server, statement, "csv").text().lines().count(), 50_001);
    assert_eq!(ask(&server, statement, "jsonl").text().lines().count(), 50_000);
    assert_eq!(server.sql("SELECT count(*), sum(value) FROM metrics.many")[0][0], json!(50_000));
}

#[test]
fn how_often_caches_had_it_is_a_table_and_a_cache_nobody_asked_has_no_ratio() {
    let server = Server::start();
    let caches = || server.sql("SELECT tier, level, hits, misses, hit_ratio, bytes, bytes_max FROM system.caches");
    let row = |tier: &str| {
        let rows = caches();
        rows.into_iter().find(|r| r[0] == tier).unwrap_or_else(|| panic!("no tier {tier}"))
    };
    let listed =
        server.sql("SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema = 'system'");
    assert_eq!(listed, [[json!("system"), json!("caches")]]);
    let tiers: Vec<_> = caches().into_iter().map(|r| (r[0].clone(), r[1].clone(), r[4].clone())).collect();
    let none = |tier: &str, level: Value| (json!(tier), level, Value::Null);
    assert_eq!(
        tiers,
        [
            none("decoded", json!("L1")),
            none("mapped", json!("L2")),
            none("pages", json!("L3")),
            none("ahead", Value::Null),
            none("answers", Value::Null)
        ]
    );
    assert!(!server.get("/metrics", &[]).text().contains("_hit_ratio"), "neither 0 nor 1 is true of them");

    // Values that take decoding, in a block; the same query twice.
    let series: Vec<Series> = (0..20)
        .map(|n| {
            let values: Vec<f64> = (0..200).map(|k| f64::from((k * 7919 + n * 104_729) % 1009)).collect();
            Series::new("spread", &[("n", &n.to_string())]).floats(T - 3_000_000, 15_000, &values)
        })
        .collect();
    write(&mut server.client(), &series);
    server.admin("flush");
    let count = |v: &Value| v.as_u64().unwrap_or_else(|| panic!("{v} is no count"));
    let highest = || server.sql("SELECT max(value), count(value) FROM metrics.spread");
    let first = highest();
    assert_eq!(first[0][1], json!(4000));
    let cold = row("decoded");
    assert!(count(&cold[3]) >= 20, "each had to be decoded: {cold:?}");
    assert_eq!(highest(), first);
    let warm = row("decoded");
    assert!(count(&warm[2]) >= count(&cold[2]) + 20, "{cold:?}, then {warm:?}");
    assert!(warm[4].as_f64() > cold[4].as_f64(), "{cold:?}, then {warm:?}");
    assert!(count(&warm[5]) > 0 && count(&warm[5]) <= count(&warm[6]), "{warm:?}");
    let range = [("query", "sum(spread)"), ("start", "1699998000"), ("end", "1699999000"), ("step", "60")];
    for _ in 0..2 {
        assert_eq!(server.get("/api/v1/query_range", &range).status, 200);
    }

    for r in caches() {
        let (hits, misses) = (count(&r[2]), count(&r[3]));
        match r[4].as_f64() {
            Some(ratio) => {
                assert!((0.0..=1.0).contains(&ratio), "{r:?}");
                assert!((ratio - hits as f64 / (hits + misses) as f64).abs() < 1e-9, "{r:?}");
            }
            None => assert_eq!((hits, misses), (0, 0), "{r:?}"),
        }
    }
    assert_eq!(row("mapped")[4], json!(1.0), "there is no remote store");
    assert_eq!(row("pages")[4..], [Value::Null, Value::Null, Value::Null], "there is no remote store");
    let answers = row("answers");
    assert_eq!(count(&answers[2]) + count(&answers[3]), 2, "{answers:?}");
    // The gauges say the same.
    for (tier, name) in [
        ("decoded", "quiver_cache_hit_ratio"),
        ("mapped", "quiver_mapped_hit_ratio"),
        ("answers", "quiver_result_cache_hit_ratio"),
    ] {
        let (table, gauge) = (row(tier)[4].as_f64(), server.metric(name));
        assert!(table.is_some_and(|t| (t - gauge).abs() < 1e-9), "{tier}: {table:?}, {gauge}");
    }
    assert!(!server.get("/metrics", &[]).text().contains("quiver_remote_pages_hit_ratio"));

    // It is read as any other table, and only read.
    for statement in [
        "SELECT * FROM system.nothing",
        "DELETE FROM system.caches",
        "INSERT INTO system.caches SELECT * FROM system.caches",
    ] {
        let r = server.post("/api/v1/sql", &[("query", statement)]);
        assert_eq!(r.status, 400, "{statement}: {}", r.text());
    }
    // More misses than hits are a number, too.
    let worst = server.sql("SELECT level, min(hits - misses) FROM system.caches WHERE tier = 'decoded' GROUP BY level");
    assert_eq!(worst.len(), 1);
    assert!(worst[0][1].is_i64(), "{worst:?}");
}

#[test]
fn without_a_server_there_are_no_caches_to_tell_of() {
    let mut server = filled();
    server.admin("flush");
    server.terminate();
    let folder = server.data.display().to_string();
    let text = succeeds(&["sql", "--offline", &folder, "--format", "csv", "SELECT count(*) AS n FROM system.caches"]);
    assert_eq!(text, "n\n0\n");
}
