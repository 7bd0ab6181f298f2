//! One expression, one answer: over `/query_range`, as a table in SQL, and without a server on exported Parquet.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, TimestampMillisecondType};
use serde_json::Value;

use crate::command::succeeds;
use crate::remote_write::{Native, Series, write};
use crate::server::Server;

const DAY: i64 = 86_400_000;
/// Ten minutes before a midnight, so that the data lies in two days.
const T: i64 = 19_676 * DAY - 600_000;
const START: i64 = T / 1000;
const END: i64 = START + 1200;
const STEP: i64 = 45;

fn filled() -> Server {
    let server = Server::start();
    let mut all = Vec::new();
    for (k, job) in ["api", "web", "db"].iter().enumerate() {
        let reset = 40 + 17 * k as u32;
        for code in ["200", "404", "500"] {
            let labels = [("job", *job), ("code", code), ("instance", &*format!("h{k}:80"))];
            let rise = f64::from(code[..1].parse::<u32>().expect("a digit")) / 7.0;
            let values: Vec<f64> = (0..120).map(|i| f64::from(i % reset) * (rise + k as f64)).collect();
            all.push(Series::new("http_requests_total", &labels).floats(T, 10_000, &values).since(T - 5000));
        }
        let labels = [("job", *job), ("instance", &*format!("h{k}:80"))];
        let values: Vec<f64> = (0..80).map(|i| (f64::from(i) / 9.0 + k as f64).sin() * 1e3).collect();
        all.push(Series::new("temperature", &labels).floats(T + 1000 * k as i64, 15_000, &values));
        all.push(
            Series::new("build_info", &[&labels[..], &[("version", &*format!("1.{k}"))]].concat())
                .floats(T, 60_000, &[1.0; 20]),
        );
        for (n, le) in ["0.1", "0.5", "1", "2.5", "+Inf"].iter().enumerate() {
            let labels = [("job", *job), ("le", *le)];
            let values: Vec<f64> = (0..80).map(|i| f64::from(i) * (n as f64 + 1.0) * (k as f64 + 0.3)).collect();
            all.push(Series::new("request_seconds_bucket", &labels).floats(T, 15_000, &values));
        }
        let (mut native, mut gauge, mut custom) = (
            Series::new("latency_seconds", &labels),
            Series::new("queue_length", &labels),
            Series::new("pool_wait_seconds", &labels),
        );
        for i in 0..80u64 {
            let (at, n) = (T + i as i64 * 15_000, i % u64::from(reset) + k as u64);
            let schema = if i > 50 { 1 } else { 2 };
            native =
                native.histogram(at, Native::exponential(schema, n, -3, &[1 + n, 2 * n, 3 + n, n / 2], n as f64 * 1.7));
            let mut h = Native::exponential(0, 0, 0, &[7 + n % 5, 3 + n % 3], -0.3 * n as f64);
            h.is_gauge = true;
            gauge = gauge.histogram(at, h);
            let bounds: &[f64] = if i > 60 { &[0.5, 1.0, 4.0] } else { &[0.5, 1.0, 2.0] };
            custom = custom.histogram(at, Native::custom(bounds, &[n, 2 * n, n / 3, 1], n as f64));
        }
        all.extend([native, gauge, custom]);
    }
    let odd = [f64::INFINITY, f64::NEG_INFINITY, f64::from_bits(0x7ff8_0000_0000_beef), -0.0, 5e-324, 1e308, -1e308];
    all.push(Series::new("odd", &[]).floats(T, 60_000, &odd));
    all.push(Series::new("ended", &[]).floats(T, 30_000, &[1.0, 2.0, 3.0]).stale(T + 90_000));
    all.push(
        Series::new("mixed", &[])
            .floats(T, 30_000, &[1.0, 2.0, 3.0])
            .histogram(T + 90_000, Native::exponential(0, 1, 0, &[2, 3], 9.0)),
    );
    write(&mut server.client(), &all);
    server.admin("flush");
    // A part in blocks, a part in the head.
    write(&mut server.client(), &[Series::new("http_requests_total", &[("job", "new")]).float(T + 1_190_000, 1.0)]);
    server
}

const EXPRESSIONS: &[&str] = &[
    // Selectors and modifiers.
    "http_requests_total",
    "temperature offset 3m",
    "temperature @ 1700006500",
    "{job=\"api\"}",
    "{__name__=~\"odd|ended|mixed\"}",
    "latency_seconds",
    "pool_wait_seconds{job!=\"api\"}",
    "queue_length offset -1m",
    // Windows over floats.
    "rate(http_requests_total[5m])",
    "increase(http_requests_total[2m])",
    "irate(http_requests_total{code=\"500\"}[2m])",
    "delta(temperature[4m])",
    "idelta(temperature[4m])",
    "deriv(temperature[5m])",
    "predict_linear(temperature[5m], 600)",
    "avg_over_time(temperature[3m])",
    "sum_over_time(odd[5m])",
    "min_over_time(temperature[3m])",
    "max_over_time(odd[10m])",
    "stddev_over_time(temperature[5m])",
    "stdvar_over_time(temperature[5m])",
    "quantile_over_time(0.3, temperature[5m])",
    "count_over_time({job=\"db\", code=\"200\"}[2m])",
    "last_over_time(ended[5m])",
    "present_over_time(ended[5m])",
    "changes(http_requests_total[5m])",
    "resets(http_requests_total[10m])",
    "absent_over_time(ended[2m])",
    // Windows over histograms.
    "rate(latency_seconds[5m])",
    "increase(pool_wait_seconds[5m])",
    "delta(queue_length[5m])",
    "irate(latency_seconds[1m])",
    "sum_over_time(queue_length[2m])",
    "avg_over_time(pool_wait_seconds[3m])",
    "last_over_time(mixed[10m])",
    "resets(latency_seconds[10m])",
    "changes(queue_length[5m])",
    // Functions of histograms.
    "histogram_quantile(0.9, latency_seconds)",
    "histogram_quantile(0.5, sum by (le) (rate(request_seconds_bucket[5m])))",
    "histogram_quantile(0.99, sum(rate(pool_wait_seconds[5m])))",
    "histogram_fraction(0, 0.7, latency_seconds)",
    "histogram_count(rate(latency_seconds[4m]))",
    "histogram_sum(queue_length)",
    "histogram_avg(latency_seconds)",
    "histogram_stddev(latency_seconds)",
    "histogram_stdvar(pool_wait_seconds)",
    // Aggregations.
    "sum by (job) (rate(http_requests_total[5m]))",
    "avg without (code) (http_requests_total)",
    "sum by (job) (latency_seconds)",
    "avg(rate(pool_wait_seconds[5m]))",
    "min by (code) (http_requests_total)",
    "max(temperature)",
    "count by (job) ({job=~\".+\"})",
    "group by (version) (build_info)",
    "stddev by (code) (http_requests_total)",
    "stdvar(temperature)",
    "quantile(0.25, http_requests_total)",
    "topk(2, http_requests_total)",
    "bottomk by (job) (1, rate(http_requests_total[5m]))",
    "count_values(\"v\", temperature > 0)",
    // Operators.
    "temperature * on (job, instance) group_left (version) build_info",
    "http_requests_total / ignoring (code) group_left () sum without (code) (http_requests_total)",
    "temperature > bool 0",
    "temperature % 7 ^ 2",
    "latency_seconds * 3",
    "rate(latency_seconds[5m]) + rate(latency_seconds[2m])",
    "queue_length - queue_length offset 1m",
    "latency_seconds == latency_seconds",
    "ended or temperature",
    "http_requests_total and on (job) ({job=\"api\"} offset 2m)",
    "http_requests_total unless on (job) temperature{job=\"web\"}",
    "odd atan2 scalar(max(temperature))",
    // The rest.
    "label_replace(temperature, \"host\", \"$1\", \"instance\", \"(.*):.*\")",
    "label_join(http_requests_total, \"both\", \"-\", \"job\", \"code\")",
    "clamp(odd, -1, 1)",
    "round(temperature, 0.01)",
    "exp(odd)",
    "sgn(temperature)",
    "timestamp(temperature)",
    "day_of_month(timestamp(temperature))",
    "absent(nothing{job=\"x\"})",
    "scalar(max(temperature))",
    "vector(time())",
    "time() / 60",
    "max_over_time(rate(http_requests_total[1m])[5m:30s])",
    "avg_over_time((latency_seconds * 2)[3m:45s])",
];

/// A histogram: count, sum, and buckets that are not empty, from low to high.
type Buckets = (u64, u64, Vec<(u64, u64, u64)>);

/// What an expression is at a time: of a float the bits.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Cell {
    Float(u64),
    Histogram(Buckets),
}

type Answer = BTreeMap<(BTreeMap<String, String>, i64), Cell>;

fn bits(v: f64) -> u64 {
    // In JSON all NaN are one.
    if v.is_nan() { f64::NAN.to_bits() } else { v.to_bits() }
}

fn number(v: &Value) -> u64 {
    bits(v.as_str().expect("a number as text").parse().expect("a number"))
}

fn of_json(body: &Value, query: &str) -> Answer {
    assert_eq!(body["status"], "success", "{query}: {body}");
    let mut out = Answer::new();
    for s in body["data"]["result"].as_array().expect("a matrix") {
        let labels: BTreeMap<String, String> = serde_json::from_value(s["metric"].clone()).expect("labels");
        let time = |p: &Value| (p[0].as_f64().expect("a time") * 1000.0).round() as i64;
        for p in s["values"].as_array().into_iter().flatten() {
            out.insert((labels.clone(), time(p)), Cell::Float(number(&p[1])));
        }
        for p in s["histograms"].as_array().into_iter().flatten() {
            let bucket = |b: &Value| (number(&b[1]), number(&b[2]), number(&b[3]));
            let buckets = p[1]["buckets"].as_array().into_iter().flatten().map(bucket).collect();
            let h = (number(&p[1]["count"]), number(&p[1]["sum"]), buckets);
            out.insert((labels.clone(), time(p)), Cell::Histogram(h));
        }
    }
    out
}

fn of_batches(batches: &[RecordBatch]) -> Answer {
    let mut out = Answer::new();
    for b in batches {
        let column = |n: &str| -> &ArrayRef { b.column_by_name(n).unwrap_or_else(|| panic!("no column {n}")) };
        let (ts, values) = (column("ts").as_primitive::<TimestampMillisecondType>(), column("value"));
        let histograms = column("histogram").as_struct();
        let schema = b.schema();
        let labels: Vec<(String, ArrayRef)> = schema
            .fields()
            .iter()
            .map(|f| f.name().clone())
            .filter(|n| !["ts", "value", "histogram"].contains(&n.as_str()))
            .map(|n| {
                let text = arrow::compute::cast(column(&n), &DataType::Utf8).expect("text");
                (if n == "metric" { "__name__".to_owned() } else { n }, text)
            })
            .collect();
        for row in 0..b.num_rows() {
            let of = |(n, c): &(String, ArrayRef)| {
                c.is_valid(row).then(|| (n.clone(), c.as_string::<i32>().value(row).to_owned()))
            };
            let labels: BTreeMap<String, String> = labels.iter().filter_map(of).collect();
            let cell = if histograms.is_valid(row) {
                let float = |c: &ArrayRef, i: usize| c.as_primitive::<Float64Type>().value(i);
                let field = |n: &str| histograms.column_by_name(n).expect("a field");
                let list = field("buckets").as_list::<i32>().value(row);
                let list = list.as_struct();
                let buckets = (0..list.len())
                    .map(|i| ["lower", "upper", "count"].map(|n| float(list.column_by_name(n).expect("a field"), i)))
                    .filter(|b| b[2] != 0.0)
                    .map(|[lower, upper, count]| (bits(lower), bits(upper), bits(count)))
                    .collect();
                Cell::Histogram((bits(float(field("count"), row)), bits(float(field("sum"), row)), buckets))
            } else {
                Cell::Float(bits(values.as_primitive::<Float64Type>().value(row)))
            };
            out.insert((labels, ts.value(row)), cell);
        }
    }
    out
}

#[test]
fn an_expression_means_the_same_wherever_it_is_asked() {
    let server = filled();
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("export").display().to_string();
    succeeds(&["export", "--url", &server.url(), "--out", &out]);
    let (start, end, step) = (START.to_string(), END.to_string(), STEP.to_string());
    let mut cells = (0, 0);
    for q in EXPRESSIONS {
        let p = [("query", *q), ("start", &start), ("end", &end), ("step", &step)];
        let body = server.post("/api/v1/query_range", &p).json();
        let wanted = of_json(&body, q);
        assert!(!wanted.is_empty(), "{q}");
        cells.0 += wanted.len();
        cells.1 += wanted.values().filter(|c| matches!(c, Cell::Histogram(_))).count();

        let statement = format!("SELECT * FROM promql('{}', {start}, {end}, {step})", q.replace('\'', "''"));
        let r = server.post("/api/v1/sql", &[("query", &statement), ("format", "arrow")]);
        assert_eq!(r.status, 200, "{statement}: {}", r.text());
        let reader = arrow::ipc::reader::StreamReader::try_new(r.body.as_slice(), None).expect("Arrow");
        let found = of_batches(&reader.map(|b| b.expect("a batch")).collect::<Vec<_>>());
        assert!(found == wanted, "SQL: {q}\n{}", differences(&found, &wanted));

        let text =
            succeeds(&["query", "--offline", &out, "--json", "--start", &start, "--end", &end, "--step", &step, q]);
        let found = of_json(&serde_json::from_str(&text).expect("JSON"), q);
        assert!(found == wanted, "offline: {q}\n{}", differences(&found, &wanted));
    }
    assert!(EXPRESSIONS.len() >= 80 && cells.0 > 7000 && cells.1 > 1000, "{cells:?}");
}

fn differences(found: &Answer, wanted: &Answer) -> String {
    let keys: std::collections::BTreeSet<_> = found.keys().chain(wanted.keys()).collect();
    let differ = keys.into_iter().filter(|k| found.get(k) != wanted.get(k));
    let line = |k: &(BTreeMap<String, String>, i64)| format!("{k:?}: {:?}, wanted {:?}", found.get(k), wanted.get(k));
    differ.take(5).map(line).collect::<Vec<_>>().join("\n")
}
