//! SQL as PostgreSQL answers it: statements with the rows and names that PostgreSQL 15 gave (`tests/fixtures/sql`), on floats
//! with NaN and infinities, labels, markers and times; and what has no counterpart there.

use serde_json::{Value, json};

use crate::remote_write::{Series, write};
use crate::server::Server;

const T: i64 = 1_780_372_200_000;
const NAN: f64 = f64::NAN;
const INF: f64 = f64::INFINITY;

/// The rows of the table `t`: q, seconds after `T`, value (none: a stale marker), job, zone.
const ROWS: [(&str, i64, Option<f64>, &str, &str); 20] = [
    ("a", 0, Some(1.0), "api", "eu"),
    ("a", 1, Some(NAN), "api", "us"),
    ("a", 2, Some(9.0), "web", ""),
    ("a", 3, Some(NAN), "web", "eu"),
    ("a", 4, Some(2.0), "api", "eu"),
    ("b", 0, Some(INF), "api", "eu"),
    ("b", 1, Some(INF), "api", "us"),
    ("c", 0, Some(-INF), "web", "eu"),
    ("c", 1, Some(-INF), "api", ""),
    ("d", 0, Some(NAN), "api", "eu"),
    ("d", 1, Some(NAN), "db", "eu"),
    ("e", 0, Some(0.0), "db", "us"),
    ("e", 1, Some(-0.0), "db", "us"),
    ("e", 2, None, "db", "us"),
    ("e", 3, Some(1.5), "api", "us"),
    ("f", 0, Some(INF), "db", "eu"),
    ("f", 1, Some(-INF), "db", "eu"),
    ("f", 2, Some(NAN), "db", ""),
    ("g", 0, None, "x", "x"),
    ("g", 1, None, "x", "x"),
];

fn filled() -> Server {
    let server = Server::start();
    let mut series: Vec<Series> = Vec::new();
    for (i, (q, at, value, job, zone)) in ROWS.into_iter().enumerate() {
        let mut labels = vec![("q", q), ("job", job)];
        if !zone.is_empty() {
            labels.push(("zone", zone));
        }
        // NaNs of several bits, one of them with its sign set.
        let bits = [f64::NAN.to_bits(), 0x7ff8_0000_0000_0001, 0xfff8_0000_0000_0000];
        let value = value.map(|v| if v.is_nan() { f64::from_bits(bits[i % 3]) } else { v });
        let s = Series::new("t", &labels);
        series.push(match value {
            Some(v) => s.float(T + at * 1000, v),
            None => s.stale(T + at * 1000),
        });
    }
    write(&mut server.client(), &series);
    server
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => {
            let (x, y) = (x.as_f64().unwrap(), y.as_f64().unwrap());
            x == y || (x - y).abs() <= 1e-9 * x.abs().max(y.abs())
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        _ => a == b,
    }
}

/// The statement on the metric's table.
fn on_metric(statement: &str) -> String {
    let mut out = statement.to_owned();
    for before in ["FROM ", "JOIN ", ", "] {
        for after in [" ", ")", "\n"] {
            let (from, to) = (format!("{before}t{after}"), format!("{before}metrics.t{after}"));
            out = out.replace(&from, &to);
        }
    }
    if let Some(start) = out.strip_suffix(" t") {
        out = format!("{start} metrics.t");
    }
    out
}

#[test]
fn answers_are_postgresqls() {
    let server = filled();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sql/postgres.jsonl");
    let cases = std::fs::read_to_string(folder).unwrap();
    let mut wrong = Vec::new();
    for when in ["in the head", "in a block"] {
        for line in cases.lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let statement = on_metric(case["sql"].as_str().unwrap());
            let r = server.post("/api/v1/sql", &[("query", &statement)]);
            if r.status != 200 {
                wrong.push(format!("{when}: {statement}\n  {}", r.text()));
                continue;
            }
            let data = r.json()["data"].take();
            if !same(&data["rows"], &case["rows"]) {
                wrong.push(format!("{when}: {statement}\n  wanted {}\n  found  {}", case["rows"], data["rows"]));
            }
            for (i, name) in case["names"].as_array().unwrap().iter().enumerate() {
                // PostgreSQL has no name for most expressions; Quiver takes their text.
                if name != "?column?" && data["columns"][i]["name"] != *name {
                    wrong.push(format!("{when}: {statement}\n  column {i} is {}", data["columns"][i]["name"]));
                }
            }
        }
        server.admin("flush");
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn aggregates_that_postgresql_does_not_have() {
    let server = filled();
    let one = |statement: &str| server.sql(statement)[0][0].clone();
    assert_eq!(one("SELECT approx_distinct(job) FROM metrics.t"), json!(4));
    assert_eq!(one("SELECT approx_distinct(zone) FROM metrics.t"), json!(3));
    // 1, 9, 2, Inf, −Inf, 0, 1.5, NaN.
    assert_eq!(one("SELECT approx_distinct(value) FROM metrics.t"), json!(8));
    assert_eq!(one("SELECT approx_distinct(value::real) FROM metrics.t"), json!(8));
    assert_eq!(one("SELECT approx_distinct(metric) FROM samples"), json!(1));
    assert_eq!(one("SELECT median(value) FROM metrics.t WHERE q IN ('a', 'e')"), json!(1.75));
    let rows = server.sql(
        "SELECT q, first_value(job ORDER BY ts), last_value(job ORDER BY ts), nth_value(job, 2 ORDER BY ts), \
         last_value(value ORDER BY ts) FROM metrics.t WHERE q IN ('a', 'b') GROUP BY q ORDER BY q",
    );
    assert_eq!(
        rows,
        [
            vec![json!("a"), json!("api"), json!("api"), json!("api"), json!(2.0)],
            vec![json!("b"), json!("api"), json!("api"), json!("api"), json!("+Inf")]
        ]
    );
}

#[test]
fn distinct_rows_of_sorted_parts_are_as_many_as_asked_for() {
    let server = Server::start();
    let series: Vec<Series> = (0..6)
        .map(|j| {
            let values: Vec<f64> = (0..40).map(|i| f64::from((i * 7 + j * 3) % 20)).collect();
            Series::new("m", &[("job", &format!("j{j}"))]).floats(T, 1000, &values)
        })
        .collect();
    write(&mut server.client(), &series);
    let part = |column: &str, predicate: &str, limit: &str| {
        format!("(SELECT {column} FROM metrics.m WHERE {predicate} ORDER BY {column} {limit})")
    };
    for column in ["ts", "job", "value"] {
        for operator in ["UNION ALL", "UNION"] {
            for limit in ["", "LIMIT 70"] {
                let all = format!(
                    "SELECT DISTINCT {column} FROM ({} {operator} {}) u ORDER BY {column}",
                    part(column, "value < 12", limit),
                    part(column, "value > 8", limit)
                );
                let rows = server.sql(&all);
                for n in [3, 5, 10] {
                    let n = n.min(rows.len());
                    assert_eq!(server.sql(&format!("{all} LIMIT {n}")), rows[..n], "{all} LIMIT {n}");
                }
            }
        }
    }
    assert_eq!(
        server.sql("SELECT DISTINCT value FROM metrics.m ORDER BY value DESC LIMIT 2"),
        [[json!(19.0)], [json!(18.0)]]
    );
}

#[test]
fn columns_of_one_name_are_shown_and_told_apart_where_names_are_keys() {
    let server = filled();
    let columns = |statement: &str| -> Vec<String> {
        let r = server.post("/api/v1/sql", &[("query", statement)]);
        assert_eq!(r.status, 200, "{statement}: {}", r.text());
        r.json()["data"]["columns"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(columns("SELECT job, job, q AS job FROM metrics.t"), ["job", "job", "job"]);
    assert_eq!(
        columns("SELECT max(value), max(value)::int, value + 1 FROM metrics.t WHERE value = 1 GROUP BY value"),
        ["max", "max", "value + 1"]
    );
    let all = columns("SELECT *, job, value * 2 AS value FROM metrics.t");
    assert_eq!(all.len(), 10, "{all:?}");
    assert_eq!((all[8].as_str(), all[9].as_str()), ("job", "value"));
    let texts = server.sql("SELECT ts::text FROM metrics.t WHERE q = 'b' ORDER BY ts DESC");
    assert_eq!(texts, [[json!("2026-06-02T03:50:01.000Z")], [json!("2026-06-02T03:50:00.000Z")]]);

    let statement = "SELECT job, job, max(value), min(value) AS max FROM metrics.t WHERE q = 'b' GROUP BY job";
    let ask = |format: &str| server.post("/api/v1/sql", &[("query", statement), ("format", format)]);
    let wanted = json!({"job": "api", "job_1": "api", "max": "+Inf", "max_1": "+Inf"});
    assert_eq!(serde_json::from_str::<Value>(&ask("jsonl").text()).unwrap(), wanted);
    let keys = ["job", "job_1", "max", "max_1"];
    let body = ask("arrow").body;
    let reader = arrow::ipc::reader::StreamReader::try_new(body.as_slice(), None).unwrap();
    let names: Vec<String> = reader.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, keys);
    let body = bytes::Bytes::from(ask("parquet").body);
    let file = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(body).unwrap();
    assert_eq!(file.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), keys);
    assert!(
        file.metadata().row_groups().iter().all(|g| g.column(2).statistics().is_none()),
        "they would leave NaN out"
    );
    assert_eq!(file.build().unwrap().map(|b| b.unwrap().num_rows()).sum::<usize>(), 1);
    assert_eq!(ask("csv").text().lines().next(), Some("job,job,max,max"));

    // The plan has the names as they were written.
    let plan = server.sql(&format!("EXPLAIN {statement}"));
    let text = serde_json::to_string(&plan).unwrap();
    assert!(!text.contains('\u{2063}'), "{text}");
    for (statement, words) in [
        ("SELECT job AS a, zone AS a FROM metrics.t ORDER BY a", "ambiguous"),
        ("SELECT nothing FROM metrics.t", "there is no column nothing; columns are"),
        ("SELECT jbo FROM metrics.t", "did you mean job?"),
        ("SELECT s.job FROM (SELECT job, job FROM metrics.t) s", "the column job is ambiguous"),
        ("WITH c AS (SELECT max(value), max(ts) FROM metrics.t) SELECT max FROM c", "the column max is ambiguous"),
        ("SELECT *, * FROM metrics.t", "the same columns twice by *"),
        ("SELECT EXISTS (SELECT q, q FROM metrics.t)", "not supported: EXISTS in a SELECT list"),
    ] {
        let r = server.post("/api/v1/sql", &[("query", statement)]);
        assert_eq!(r.status, 400, "{statement}: {}", r.text());
        assert!(r.text().contains(words), "{statement}: {}", r.text());
    }
}

#[test]
fn odd_floats_and_long_numbers_survive_json() {
    let server = filled();
    let ask = |statement: &str, format: &str| {
        let r = server.post("/api/v1/sql", &[("query", statement), ("format", format)]);
        assert_eq!(r.status, 200, "{statement}: {}", r.text());
        r
    };
    let statement = "SELECT value, value::real AS r, make_array(value, 1) AS list, named_struct('x', value) AS s, ts::bigint * 1000000 AS n, \
                     series_id FROM metrics.t WHERE q IN ('c', 'd', 'g') ORDER BY q, ts";
    let lines: Vec<Value> = ask(statement, "jsonl").text().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let odd = |v: &str| json!([v, v, [v, 1.0], {"x": v}]);
    let row = |l: &Value| json!([l["value"], l["r"], l["list"], l["s"]]);
    assert_eq!((row(&lines[0]), row(&lines[2])), (odd("-Inf"), odd("NaN")));
    assert!(lines[4].get("value").is_none() && lines[4]["list"] == json!([null, 1.0]), "{}", lines[4]);
    assert_eq!(lines[0]["n"], "1780372200000000000");
    let rows = ask(statement, "json").json()["data"]["rows"].take();
    assert_eq!(rows[2].as_array().unwrap()[..4], odd("NaN").as_array().unwrap()[..]);
    assert_eq!(rows[4][0], Value::Null);
    let id = rows[0][5].as_str().expect("a text");
    assert_eq!(lines[0]["series_id"], id);
    let count = format!("SELECT count(*) FROM metrics.t WHERE series_id = {id}");
    assert_eq!(server.sql(&count), [[json!(1)]]);
}

#[test]
fn labels_that_are_called_like_columns_are_readable() {
    let server = Server::start();
    let labels =
        ["ts", "label_ts", "value", "histogram", "start_ts", "series_id", "label_series_id", "metric", "labels", "job"];
    let series: Vec<Series> =
        labels.iter().map(|l| Series::new("good", &[(*l, &format!("of {l}"))]).float(T, 1.0)).collect();
    write(&mut server.client(), &series);
    let columns = [
        "label_label_ts",
        "label_ts",
        "label_value",
        "label_histogram",
        "label_start_ts",
        "label_label_series_id",
        "label_series_id",
        "label_metric",
        "label_labels",
        "job",
    ];
    for when in ["in the head", "in a block"] {
        for (label, column) in labels.iter().zip(columns) {
            let statement =
                format!("SELECT {column}, count(*) FROM metrics.good WHERE {column} = 'of {label}' GROUP BY {column}");
            assert_eq!(server.sql(&statement), [[json!(format!("of {label}")), json!(1)]], "{when}");
            let promql =
                format!("SELECT {column} FROM promql_instant('good', {}) WHERE {column} IS NOT NULL", T / 1000);
            assert_eq!(server.sql(&promql), [[json!(format!("of {label}"))]], "{when}");
        }
        server.admin("flush");
    }
}

#[test]
fn the_name_of_a_metric_is_a_label_wherever_it_is_asked_for() {
    let mut server = filled();
    write(&mut server.client(), &[Series::new("u", &[("q", "a")]).float(T, 1.0)]);
    let statements = [
        "SELECT labels['__name__'], count(*) FROM samples GROUP BY labels['__name__'] ORDER BY 1",
        "SELECT labels['__name__'] AS n, count(*) FROM samples GROUP BY n ORDER BY n",
        "SELECT n, count(*) FROM (SELECT labels['__name__'] AS n FROM samples) s GROUP BY n ORDER BY n",
        "SELECT s.labels['__name__'], count(*) FROM samples s WHERE s.labels['__name__'] IN ('t', 'u') GROUP BY 1 ORDER BY 1",
        "SELECT element_at(labels, '__name__')[1], count(*) FROM samples GROUP BY 1 ORDER BY 1",
    ];
    let wanted = [[json!("t"), json!(20)], [json!("u"), json!(1)]];
    for statement in statements {
        assert_eq!(server.sql(statement), wanted, "{statement}");
    }
    assert_eq!(
        server.sql("SELECT labels['__name__'], labels['q'] FROM series WHERE labels['__name__'] = 'u'"),
        [["u", "a"]]
    );
    assert_eq!(server.sql("SELECT DISTINCT labels['__name__'] FROM samples WHERE labels['__name__'] <> 't'"), [["u"]]);
    let r = server.post("/api/v1/sql", &[("query", "SELECT labels['__name__'] FROM (SELECT labels FROM series) s")]);
    assert!(r.status == 400 && r.text().contains("is the column metric"), "{}", r.text());
    server.admin("flush");
    server.terminate();
    let folder = server.data.display().to_string();
    let text = crate::command::succeeds(&["sql", "--offline", &folder, "--format", "csv", statements[1]]);
    assert_eq!(text, "n,count\nt,20\nu,1\n");
}

#[test]
fn a_missing_table_is_named_with_what_is_like_it() {
    let server = filled();
    write(
        &mut server.client(),
        &[Series::new("http_requests_total", &[]).float(T, 1.0), Series::new("a.b", &[]).float(T, 1.0)],
    );
    for (table, words) in [
        ("t", "there is no table t; metrics are in the schema metrics: SELECT * FROM metrics.t"),
        ("\"a.b\"", r#"metrics are in the schema metrics: SELECT * FROM metrics.\"a.b\""#),
        ("http_request_total", "did you mean metrics.http_requests_total?"),
        ("metrics.HTTP_requests", "there is no metric HTTP_requests"),
        ("metrics.http_request_total", "did you mean metrics.http_requests_total?"),
        ("sample", "did you mean samples?"),
        ("wholly_other", "tables are samples, series, system.caches and metrics.NAME"),
        ("other.t", "there is no table other.t"),
    ] {
        let r = server.post("/api/v1/sql", &[("query", &format!("SELECT * FROM {table}"))]);
        assert_eq!(r.status, 400, "{table}: {}", r.text());
        assert!(r.text().contains(words), "{table}: {}", r.text());
        assert!(!r.text().contains("planning"), "{table}: {}", r.text());
    }
}

#[test]
fn promql_takes_times_that_are_computed() {
    let server = Server::start();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let values: Vec<f64> = (0..20).map(f64::from).collect();
    write(&mut server.client(), &[Series::new("up", &[("instance", "a")]).floats(now - 19 * 60_000, 60_000, &values)]);
    let count = |arguments: &str| {
        let statement = format!("SELECT instance, count(*) FROM promql('up', {arguments}) GROUP BY instance");
        server.sql(&statement)[0][1].as_u64().unwrap()
    };
    assert!(count("now() - interval '10 minutes', now(), '1m'") >= 10);
    assert!(count("now() - interval '10 minutes', now(), interval '1 minute'") >= 10);
    let hours = count("date_trunc('hour', now()) - interval '1 hour', current_timestamp, 60");
    assert!(hours >= 19, "{hours}");
    assert_eq!(server.sql("SELECT count(*) FROM promql_instant('up', now())"), [[json!(1)]]);
    let at = "TIMESTAMP '2023-11-14T22:13:20Z'";
    assert_eq!(server.sql(&format!("SELECT count(*) FROM promql_instant('up', {at})")), [[json!(0)]]);
    for (arguments, words) in [
        ("now(), now(), job", "job is a column"),
        ("(SELECT max(ts) FROM samples), now(), 60", "it has a subquery"),
        ("interval '1 hour', now(), 60", "is not a time"),
        ("now(), now(), interval '1 month'", "months differ in length"),
        ("now(), now() - interval '1 hour', 60", "the end is before the start"),
        ("upper('x'), now(), 60", "may not be called here"),
    ] {
        let r = server.post("/api/v1/sql", &[("query", &format!("SELECT * FROM promql('up', {arguments})"))]);
        assert_eq!(r.status, 400, "{arguments}: {}", r.text());
        assert!(r.text().contains(words), "{arguments}: {}", r.text());
    }
    // Nothing is known of a metric that is not there; what the statement takes from it is there all the same.
    for statement in [
        "SELECT instance, max(value) FROM promql('nothing', now(), now(), '1m') GROUP BY instance",
        "SELECT instance AS i FROM promql('nothing', now(), now(), '1m') WHERE job = 'x' ORDER BY i",
        "SELECT u.instance, p.job FROM metrics.up u JOIN promql('nothing', now(), now(), '1m') p ON p.instance = u.instance",
    ] {
        assert_eq!(server.sql(statement), Vec::<Vec<Value>>::new(), "{statement}");
    }
}

#[test]
fn what_is_wrong_with_a_statement_is_said_in_its_own_words() {
    let server = filled();
    for (statement, words) in [
        ("SELECT avg(job) FROM metrics.t", "there is no function avg(text); avg takes a number or an interval"),
        ("SELECT avg(ts) FROM metrics.t", "there is no function avg(timestamptz)"),
        ("SELECT sum(job) OVER () FROM metrics.t", "there is no function sum(text)"),
        ("SELECT round(job) FROM metrics.t", "there is no function round(text); round takes a number"),
        ("SELECT trim(value) FROM metrics.t", "there is no function btrim(double precision); btrim takes a text"),
        ("SELECT length(labels) FROM samples", "there is no function character_length(map)"),
        ("SELECT element_at(job, 'a') FROM metrics.t", "there is no function map_extract(text, text)"),
        ("SELECT date_trunc(job) FROM metrics.t", "date_trunc takes 2 arguments"),
        ("SELECT ts > now() - '5 seconds' FROM metrics.t", "a length of time is written INTERVAL '5 seconds'"),
        ("SELECT job + 1 FROM metrics.t", "there is no operator text + bigint"),
        ("SELECT * FROM metrics.t WHERE job = \"quiver\"", "texts take single quotes: 'quiver'"),
        ("SELECT x.value FROM metrics.t", "there is no table x after FROM"),
        ("SELECT job, count(*) FROM metrics.t", "the column job has to be in GROUP BY"),
        ("SELECT time_bucket('5 minutes', ts) FROM metrics.t", "use date_bin(INTERVAL '5 minutes', ts)"),
        ("SELECT uper(job) FROM metrics.t", "there is no function uper; did you mean upper?"),
        ("SELECT xyzzy(job) FROM metrics.t", "there is no function xyzzy\""),
        ("SELECT rate(value) FROM metrics.t", "rate is PromQL: SELECT * FROM promql('rate(…)'"),
        ("SELECT rank() FROM metrics.t", "write rank(…) OVER (ORDER BY ts)"),
        ("SELECT generate_series(1, 3)", "generate_series works only after FROM"),
        ("SELECT job SIMILAR TO zone FROM metrics.t", "SIMILAR TO takes a constant pattern"),
        ("SELECT date_bin(interval '-5 minutes', ts) FROM metrics.t", "has to be greater than zero"),
        ("SELECT to_char(ts, 'IYYY') FROM metrics.t", "which is not known: YYYY, MM, DD"),
        ("SELECT 9223372036854775807 + 1", "is out of range of bigint"),
        ("sql", "line 1, column 1: expected a statement, found sql"),
        ("SELECT 1 .tables temp", "there is nothing before .tables"),
        ("SELECT 'abc", "line 1, column 8: unterminated string literal"),
        ("SELECT 1 FROM", "expected identifier, found the end of the statement"),
        ("CREATE TABLE x (a int)", "SQL is read-only: CREATE TABLE is not supported"),
        ("INSERT INTO samples VALUES (1)", "SQL is read-only: INSERT is not supported"),
        ("EXPLAIN DELETE FROM samples", "SQL is read-only: DELETE is not supported"),
        ("SET x = 1", "SQL is read-only: SET is not supported"),
        ("COPY samples TO 'x'", "SQL is read-only: COPY is not supported"),
    ] {
        let r = server.post("/api/v1/sql", &[("query", statement)]);
        assert_eq!(r.status, 400, "{statement}: {}", r.text());
        assert!(r.text().contains(words), "{statement}: {}", r.text());
        for inside in ["DataFusion", "Internal", "Utf8", "Dictionary", "ParserError", "Ident", "wildcard", "Candidate"]
        {
            assert!(!r.text().contains(inside), "{statement}: {}", r.text());
        }
    }
}

#[test]
fn a_value_that_cannot_be_written_is_an_error_of_the_statement_in_every_format() {
    let server = filled();
    let formats = ["json", "jsonl", "csv", "arrow", "parquet"];
    for statement in [
        "SELECT interval '1 day' AS d, ts - now() AS e FROM metrics.t",
        "SELECT map(make_array(job), make_array(value)) AS m FROM metrics.t",
        "SELECT map(make_array(1.5), make_array(interval '1 day')) AS m",
    ] {
        for format in formats {
            let r = server.post("/api/v1/sql", &[("query", statement), ("format", format)]);
            assert_eq!(r.status, 200, "{statement} as {format}: {}", r.text());
        }
    }
    let keys = server.sql("SELECT map(make_array(job), make_array(value)) FROM metrics.t WHERE q = 'b' ORDER BY ts");
    assert_eq!(keys[0], [json!({"api": "+Inf"})]);
    for (statement, words) in [
        ("SELECT arrow_cast(9000000000000000000, 'Timestamp(Millisecond, None)')", "a time is out of range"),
        ("SELECT ts AT TIME ZONE 'Nowhere/X' FROM metrics.t", "Nowhere/X"),
        ("SELECT from_unixtime(2, 'a')", "Invalid timezone"),
        ("SELECT x + 1 FROM (VALUES (9223372036854775807)) a(x)", "9223372036854775807 + 1"),
    ] {
        for format in ["json", "jsonl", "csv"] {
            let r = server.post("/api/v1/sql", &[("query", statement), ("format", format)]);
            assert_eq!(r.status, 422, "{statement} as {format}: {}", r.text());
            assert!(r.text().contains(words) && !r.text().contains("ERROR:"), "{statement}: {}", r.text());
        }
    }
    let r = server.post("/api/v1/sql", &[("query", "SELECT map_entries(labels) FROM samples")]);
    assert_eq!(r.status, 400, "{}", r.text());
    let csv = "SELECT value, make_array(value) AS list FROM metrics.t WHERE q = 'c' LIMIT 1";
    let r = server.post("/api/v1/sql", &[("query", csv), ("format", "csv")]);
    assert_eq!(r.text(), "value,list\n-Inf,\"[\"\"-Inf\"\"]\"\n");
}

#[test]
fn times_of_milliseconds_are_exact() {
    let server = Server::start();
    let values: Vec<f64> = (0..4).map(f64::from).collect();
    write(&mut server.client(), &[Series::new("fine", &[]).floats(T, 1, &values)]);
    let one = |statement: &str| server.sql(statement)[0][0].clone();
    for (condition, rows) in [
        ("ts + interval '500 microseconds' < '2026-06-02T03:50:00.0016Z'", 2),
        ("ts - interval '1 microsecond' > '2026-06-02T03:50:00.001Z'", 2),
        ("ts < timestamp '2026-06-02 03:50' + interval '1500 microseconds'", 2),
    ] {
        assert_eq!(one(&format!("SELECT count(*) FROM metrics.fine WHERE {condition}")), rows, "{condition}");
    }
    let joined = "SELECT count(*) FROM metrics.fine a JOIN metrics.fine b ON a.ts < b.ts + interval '1.5 milliseconds' AND a.ts > b.ts";
    assert_eq!(one(joined), 3);
    for (width, wanted) in [("500 microseconds", 4), ("1.5 milliseconds", 7), ("2 milliseconds", 9)] {
        let frame = format!("ORDER BY ts RANGE BETWEEN interval '{width}' PRECEDING AND CURRENT ROW");
        let statement = format!("SELECT sum(c) FROM (SELECT count(*) OVER ({frame}) AS c FROM metrics.fine) s");
        assert_eq!(one(&statement), wanted, "{width}");
    }
    // Texts are in the order of their times.
    let texts = server.sql("SELECT ts::text FROM metrics.fine ORDER BY ts");
    let wanted: Vec<Vec<Value>> = (0..4).map(|ms| vec![json!(format!("2026-06-02T03:50:00.00{ms}Z"))]).collect();
    assert_eq!(texts, wanted);
    assert_eq!(
        server.sql("SELECT ts::text AS x FROM metrics.fine ORDER BY x DESC LIMIT 1"),
        [[json!("2026-06-02T03:50:00.003Z")]]
    );
    assert_eq!(one("SELECT extract(second FROM max(ts)) FROM metrics.fine"), json!(0.003));
}

#[test]
fn a_statement_that_writes_more_than_it_may_is_refused_and_leaves_nothing() {
    let limits = "query_memory_bytes_max=64MiB,sql_spill_bytes_max=8MiB,sql_rows_max=1000000000";
    let mut server = crate::server::Start::new().with(&["--limit", limits]).ready();
    let values: Vec<f64> = (0..1000).map(f64::from).collect();
    write(&mut server.client(), &[Series::new("m", &[]).floats(T, 1000, &values)]);
    let sort = |n: u32| {
        format!(
            "SELECT count(x) FROM (SELECT row_number() OVER (ORDER BY a.value * g.value) x FROM metrics.m a, generate_series(1, {n}) g) s"
        )
    };
    // Left by a server that was killed.
    let left = server.data.join("tmp").join("datafusion-left");
    server.kill();
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("file"), "left").unwrap();
    server.restart();
    assert!(!left.exists());
    assert_eq!(server.sql("SELECT count(*) FROM metrics.m"), [[json!(1000)]]);
    let r = server.post("/api/v1/sql", &[("query", &sort(10_000))]);
    assert!(r.status == 422 && r.text().contains("sql_spill_bytes_max"), "{}: {}", r.status, r.text());
    let files = |folder: &std::path::Path| std::fs::read_dir(folder).map_or(0, Iterator::count);
    let tmp = server.data.join("tmp");
    server.wait_until("its files are deleted", |_| {
        std::fs::read_dir(&tmp).map_or(0, |d| d.flatten().map(|e| files(&e.path())).sum::<usize>()) == 0
    });
}
