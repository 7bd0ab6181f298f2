//! The Prometheus API as its clients expect it: envelope, errors, parameters, and the sequences that Grafana sends.

use std::io::Read;

use serde_json::{Value, json};

use crate::http::Response;
use crate::remote_write::{Native, Series, write};
use crate::server::{Server, Start};

const T: i64 = 1_700_000_000_000;
const AT: &str = "1700000000";

/// A server with a little of everything: two jobs, a counter, a gauge, a histogram, a name with a dot.
fn filled() -> Server {
    let server = Server::start();
    let counter: Vec<f64> = (0..61).map(|i| f64::from(i) * 10.0).collect();
    let series = |job: &str| Series::new("http_requests_total", &[("job", job), ("code", "200")]);
    write(
        &mut server.client(),
        &[
            series("api").floats(T - 600_000, 10_000, &counter).described(1, "Requests.", ""),
            series("web").floats(T - 600_000, 10_000, &counter),
            Series::new("temperature", &[("room", "attic")]).float(T - 61_000, 21.0).float(T - 1000, 21.5).described(
                2,
                "How warm.",
                "celsius",
            ),
            Series::new("latency", &[("job", "api")]).histogram(T - 1000, Native::exponential(0, 0, 0, &[1, 3], 5.0)),
            Series::new("node.load", &[("host.name", "a b")]).float(T - 1000, 0.5),
        ],
    );
    server
}

fn error(r: &Response) -> (u16, String, String) {
    let v = r.json();
    assert_eq!(v["status"], "error", "{v}");
    let text = |key: &str| v[key].as_str().unwrap_or_else(|| panic!("no {key}: {v}")).to_owned();
    (r.status, text("errorType"), text("error"))
}

fn data(r: &Response) -> Value {
    assert_eq!(r.status, 200, "{}", r.text());
    let mut v = r.json();
    assert_eq!(v["status"], "success", "{v}");
    v["data"].take()
}

#[test]
fn instant_queries_of_every_type() {
    let server = filled();
    let ask = |q: &str| data(&server.get("/api/v1/query", &[("query", q), ("time", AT)]));
    assert_eq!(ask("1+1"), json!({"resultType": "scalar", "result": [1_700_000_000, "2"]}));
    assert_eq!(ask("\"text\""), json!({"resultType": "string", "result": [1_700_000_000, "text"]}));
    assert_eq!(
        ask("temperature"),
        json!({"resultType": "vector", "result": [
            {"metric": {"__name__": "temperature", "room": "attic"}, "value": [1_700_000_000, "21.5"]}]})
    );
    assert_eq!(
        ask("temperature[1m]"),
        json!({"resultType": "matrix", "result": [
            {"metric": {"__name__": "temperature", "room": "attic"}, "values": [[1_699_999_999, "21.5"]]}]})
    );
    assert_eq!(
        ask("latency")["result"][0]["histogram"],
        json!([1_700_000_000, {"count": "4", "sum": "5", "buckets": [[0, "0.5", "1", "1"], [0, "1", "2", "3"]]}])
    );
    assert_eq!(ask("sum by (job) (rate(http_requests_total[5m]))")["result"].as_array().unwrap().len(), 2);
    assert_eq!(ask("round(rate(http_requests_total{job=\"api\"}[5m]), 0.001)")["result"][0]["value"][1], "1");
    assert_eq!(ask("nothing_of_the_kind"), json!({"resultType": "vector", "result": []}));
    assert_eq!(ask("{\"node.load\", \"host.name\"=\"a b\"}")["result"][0]["value"][1], "0.5");
    let t = data(&server.get("/api/v1/query", &[("query", "1"), ("time", "2023-11-14T22:13:20.5Z")]));
    assert_eq!(t["result"], json!([1_700_000_000.5, "1"]));
    // Without a time it is now.
    let now = data(&server.get("/api/v1/query", &[("query", "time()")]))["result"][0].as_f64().unwrap();
    assert!(now > 1_700_000_000.0);
}

#[test]
fn range_queries_by_get_and_by_post() {
    let server = filled();
    let p = [
        ("query", "http_requests_total{job=\"api\"}"),
        ("start", "1699999400"),
        ("end", "1699999460"),
        ("step", "30s"),
    ];
    let wanted = json!({"resultType": "matrix", "result": [{
        "metric": {"__name__": "http_requests_total", "code": "200", "job": "api"},
        "values": [[1_699_999_400, "0"], [1_699_999_430, "30"], [1_699_999_460, "60"]]}]});
    assert_eq!(data(&server.get("/api/v1/query_range", &p)), wanted);
    assert_eq!(data(&server.post("/api/v1/query_range", &p)), wanted);
    assert_eq!(data(&server.post("/api/v1/query_range", &[&p[..], &[("nocache", "1")]].concat())), wanted);
    // A scalar becomes a series without labels.
    let p = [("query", "2"), ("start", "0"), ("end", "0"), ("step", "1")];
    assert_eq!(
        data(&server.get("/api/v1/query_range", &p)),
        json!({"resultType": "matrix", "result": [{"metric": {}, "values": [[0, "2"]]}]})
    );
    // Form body and query string at once.
    let mut c = server.client();
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let r = c.request("POST", "/api/v1/query?time=5", &headers, b"query=time()").unwrap();
    assert_eq!(data(&r)["result"], json!([5, "5"]));
}

/// A form as browsers and `curl -F` send it.
fn multipart(server: &Server, path: &str, fields: &[(&str, &str)]) -> Response {
    let boundary = "----WebKitFormBoundary7MA4YWxkTrZu0gW";
    let field = |(name, value): &(&str, &str)| {
        format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let body = fields.iter().map(field).collect::<String>() + &format!("--{boundary}--\r\n");
    let content_type = format!("multipart/form-data; boundary={boundary}");
    server.client().request("POST", path, &[("content-type", &content_type)], body.as_bytes()).unwrap()
}

#[test]
fn forms_of_browsers_are_read_on_every_route() {
    let server = filled();
    let range = [("query", "1"), ("start", "0"), ("end", "0"), ("step", "1")];
    for (path, fields) in [
        ("/api/v1/query", &[("query", "sum(http_requests_total{job=\"api\"})"), ("time", AT)][..]),
        ("/api/v1/query_range", &range),
        ("/api/v1/query_exemplars", &[("query", "http_requests_total")]),
        ("/api/v1/format_query", &[("query", "1+1")]),
        ("/api/v1/parse_query", &[("query", "1+1")]),
        ("/api/v1/labels", &[("match[]", "temperature"), ("match[]", "latency")]),
        ("/api/v1/series", &[("match[]", "temperature"), ("match[]", "{job=\"api\"}")]),
        ("/api/v1/sql", &[("query", "SELECT count(*) FROM samples")]),
    ] {
        let by_form = data(&server.post(path, fields));
        assert_eq!(data(&multipart(&server, path, fields)), by_form, "{path}");
    }
    let delete = multipart(&server, "/api/v1/admin/tsdb/delete_series", &[("match[]", "latency")]);
    assert_eq!(delete.status, 204, "{}", delete.text());
    assert_eq!(data(&server.get("/api/v1/series", &[("match[]", "latency")])), json!([]));
    // Fields in the URL count, too; what is no form is an error that says so.
    let r = multipart(&server, "/api/v1/query?time=5", &[("query", "time()")]);
    assert_eq!(data(&r)["result"], json!([5, "5"]));
    let send = |content_type: &str, body: &str| {
        let headers = [("content-type", content_type)];
        error(&server.client().request("POST", "/api/v1/query", &headers, body.as_bytes()).unwrap())
    };
    for (content_type, body) in [
        ("multipart/form-data", "--x--"),
        ("multipart/form-data; boundary=x", ""),
        ("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\n1"),
        ("multipart/form-data; boundary=x;;;=", "--x--"),
        (";;;=", "query=1"),
    ] {
        let (code, kind, text) = send(content_type, body);
        assert_eq!((code, kind.as_str()), (400, "bad_data"), "{content_type}");
        assert!(text.contains("error parsing"), "{content_type}: {text}");
    }
}

/// What clients send for "all of time", and times that are left out.
#[test]
fn the_ends_of_time() {
    let server = filled();
    let exemplar = Series::new("with_exemplar", &[]).float(T, 1.0).exemplar(("trace_id", "4bf9"), 0.5, T);
    write(&mut server.client(), &[exemplar]);
    let found = data(&server.get("/api/v1/query_exemplars", &[("query", "with_exemplar")]));
    assert_eq!(found[0]["exemplars"][0]["labels"]["trace_id"], "4bf9", "{found}");
    let (min, max) = ("-9223309901257974", "9223309901257974");
    let (min_text, max_text) = ("-292273086-05-16T16:47:06Z", "292277025-08-18T07:12:54.999999999Z");
    for (start, end) in [(min, max), (min_text, max_text), (min, ""), ("", max_text), ("-1e15", "1e15"), ("", "")] {
        let range: Vec<_> = [("start", start), ("end", end)].into_iter().filter(|(_, v)| !v.is_empty()).collect();
        let with = |more: &[(&'static str, &'static str)]| [&range[..], more].concat();
        assert_eq!(
            data(&server.get("/api/v1/query_exemplars", &with(&[("query", "with_exemplar")]))),
            found,
            "{range:?}"
        );
        let series = data(&server.get("/api/v1/series", &with(&[("match[]", "temperature")])));
        assert_eq!(series.as_array().unwrap().len(), 1, "{range:?}");
        let names = data(&server.get("/api/v1/labels", &with(&[])));
        assert_eq!(names, json!(["__name__", "code", "host.name", "job", "room"]), "{range:?}");
        assert_eq!(data(&server.get("/api/v1/label/job/values", &with(&[]))), json!(["api", "web"]), "{range:?}");
        assert_eq!(server.get("/api/v1/status/cardinality", &with(&[])).status, 200, "{range:?}");
    }
    server.admin("flush");
    for time in [min, max, min_text, max_text, "1e15", "-1e15"] {
        for query in
            ["temperature", "rate(temperature[5m])", "temperature offset 1y", "sum_over_time(temperature[1h:1m])"]
        {
            let found = data(&server.get("/api/v1/query", &[("query", query), ("time", time)]));
            assert_eq!(found["result"], json!([]), "{query} at {time}");
            let p = [("query", query), ("start", time), ("end", time), ("step", "60")];
            assert_eq!(data(&server.get("/api/v1/query_range", &p))["result"], json!([]), "{query} at {time}");
        }
    }
    let found = data(&server.get("/api/v1/query", &[("query", "1"), ("time", min)]));
    assert_eq!(found["result"], json!([-9_223_309_901_257_974i64, "1"]));
    let all = [("query", "1"), ("start", min), ("end", max), ("step", "60")];
    let (code, _, text) = error(&server.get("/api/v1/query_range", &all));
    assert!(code == 400 && text.contains("exceeded maximum resolution"), "{text}");
    let exemplars = [("query", "up"), ("start", "2"), ("end", "1")];
    assert_eq!(error(&server.get("/api/v1/query_exemplars", &exemplars)).0, 400);
}

/// A user who types wrong queries is counted, and does not flood the log.
#[test]
fn queries_that_fail_are_counted_by_cause() {
    let server = filled();
    for n in 0..20 {
        assert_eq!(server.get("/api/v1/query", &[("query", &format!("sum({n}"))]).status, 400);
    }
    let many = "http_requests_total * on(code) http_requests_total";
    assert_eq!(server.get("/api/v1/query", &[("query", many), ("time", AT)]).status, 422);
    assert_eq!(server.get("/api/v1/series", &[]).status, 400);
    assert_eq!(server.get("/api/v1/sql", &[("query", "SELECT")]).status, 400);
    let count = |door: &str, reason: &str| {
        server.metric(&format!("quiver_requests_rejected_total{{door=\"{door}\",reason=\"{reason}\"}}"))
    };
    assert_eq!((count("query", "bad_data"), count("query", "execution")), (20.0, 1.0));
    assert_eq!((count("series", "bad_data"), count("sql", "bad_data")), (1.0, 1.0));
    let log = server.log();
    let lines: Vec<_> =
        log.lines().filter(|l| l.contains("rejected 1 request: invalid request (PromQL queries)")).collect();
    assert!(lines.len() == 1 && lines[0].contains("INFO"), "{log}");
}

#[test]
fn errors_have_the_types_and_codes_of_prometheus() {
    let server = filled();
    let instant = |p: &[(&str, &str)]| error(&server.get("/api/v1/query", p));
    let (code, kind, text) = instant(&[("query", "sum(")]);
    assert_eq!((code, kind.as_str()), (400, "bad_data"));
    assert_eq!(text, "invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis");
    for (p, word) in [
        (&[("query", "")][..], "invalid parameter \"query\""),
        (&[("query", "up"), ("time", "yesterday")], "invalid parameter \"time\""),
        (&[("query", "up"), ("timeout", "soon")], "invalid parameter \"timeout\""),
        (&[("query", "up"), ("limit", "-1")], "invalid parameter \"limit\""),
        (&[("query", "up"), ("limit", "x")], "invalid parameter \"limit\""),
        (&[("query", "up[5m]offset")], "parse error"),
        (&[("query", "no_such_function(1)")], "unknown function"),
        (&[("query", "up{a=~\"(\"}")], "parse error"),
    ] {
        let (code, kind, text) = instant(p);
        assert_eq!((code, kind.as_str()), (400, "bad_data"), "{p:?}: {text}");
        assert!(text.contains(word), "{p:?}: {text}");
    }
    let (code, kind, text) = instant(&[("query", "http_requests_total * on(code) http_requests_total"), ("time", AT)]);
    assert_eq!((code, kind.as_str()), (422, "execution"), "{text}");
    assert!(text.contains("many-to-many matching not allowed"), "{text}");

    let range = |start: &str, end: &str, step: &str| {
        error(&server.get("/api/v1/query_range", &[("query", "up"), ("start", start), ("end", end), ("step", step)]))
    };
    for (start, end, step, word) in [
        ("10", "0", "1", "end timestamp must not be before start time"),
        ("0", "10", "0", "zero or negative query resolution step widths"),
        ("0", "10", "-5", "zero or negative query resolution step widths"),
        ("0", "11001", "1", "exceeded maximum resolution of 11,000 points per timeseries"),
        ("", "10", "1", "invalid parameter \"start\""),
        ("0", "x", "1", "invalid parameter \"end\""),
        ("0", "10", "often", "invalid parameter \"step\""),
        ("0", "1e300", "1", "invalid parameter \"end\""),
    ] {
        let (code, kind, text) = range(start, end, step);
        assert_eq!((code, kind.as_str()), (400, "bad_data"), "{text}");
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(
        server.get("/api/v1/query_range", &[("query", "1"), ("start", "0"), ("end", "11000"), ("step", "1")]).status,
        200
    );
    let p = [("query", "up[5m]"), ("start", "0"), ("end", "1"), ("step", "1")];
    let (code, kind, text) = error(&server.get("/api/v1/query_range", &p));
    assert_eq!((code, kind.as_str()), (400, "bad_data"), "{text}");
    let (code, kind, _) = error(&server.get("/api/v1/no/such/route", &[]));
    assert_eq!((code, kind.as_str()), (404, "not_found"));
    assert_eq!(error(&server.get("/api/v1/series", &[])).0, 400);
    assert_eq!(error(&server.get("/api/v1/series", &[("match[]", "{a=\"\"}")])).0, 400);
    assert_eq!(error(&server.get("/api/v1/labels", &[("match[]", "{")])).0, 400);
}

#[test]
fn annotations_stand_beside_the_data() {
    let server = filled();
    let r = server.get("/api/v1/query", &[("query", "rate(temperature[5m])"), ("time", AT)]);
    let v = r.json();
    assert_eq!(v["status"], "success");
    let text = v["infos"][0].as_str().unwrap_or_default().to_owned();
    assert!(text.contains("metric might not be a counter") && text.ends_with("(1:6)"), "{v}");
    let r = server.get("/api/v1/query", &[("query", "quantile(7, temperature)"), ("time", AT)]);
    assert!(
        r.json()["warnings"][0].as_str().is_some_and(|t| t.contains("quantile value should be between 0 and 1")),
        "{}",
        r.text()
    );
    assert!(server.get("/api/v1/query", &[("query", "1")]).json().get("warnings").is_none());
}

#[test]
fn labels_values_and_series() {
    let server = filled();
    let list = |path: &str, p: &[(&str, &str)]| {
        let by_get = data(&server.get(path, p));
        if !path.ends_with("/values") {
            assert_eq!(data(&server.post(path, p)), by_get, "POST {path}");
        }
        by_get
    };
    assert_eq!(list("/api/v1/labels", &[]), json!(["__name__", "code", "host.name", "job", "room"]));
    assert_eq!(list("/api/v1/labels", &[("match[]", "temperature")]), json!(["__name__", "room"]));
    assert_eq!(
        list("/api/v1/labels", &[("match[]", "temperature"), ("match[]", "latency")]),
        json!(["__name__", "job", "room"])
    );
    assert_eq!(list("/api/v1/labels", &[("start", "1"), ("end", "2")]), json!([]));
    assert_eq!(list("/api/v1/label/job/values", &[]), json!(["api", "web"]));
    assert_eq!(list("/api/v1/label/job/values", &[("match[]", "latency")]), json!(["api"]));
    assert_eq!(list("/api/v1/label/nothing/values", &[]), json!([]));
    assert_eq!(list("/api/v1/label/host.name/values", &[]), json!(["a b"]));
    assert_eq!(list("/api/v1/label/U__host_2e_name/values", &[]), json!(["a b"]));
    assert_eq!(
        list("/api/v1/label/__name__/values", &[]),
        json!(["http_requests_total", "latency", "node.load", "temperature"])
    );
    assert_eq!(
        list("/api/v1/series", &[("match[]", "http_requests_total"), ("match[]", "{job=\"api\"}")]),
        json!([
            {"__name__": "http_requests_total", "code": "200", "job": "api"},
            {"__name__": "http_requests_total", "code": "200", "job": "web"},
            {"__name__": "latency", "job": "api"},
        ])
    );
    server.admin("flush");
    assert_eq!(list("/api/v1/labels", &[]), json!(["__name__", "code", "host.name", "job", "room"]), "from a block");
    assert_eq!(list("/api/v1/label/job/values", &[("match[]", "latency")]), json!(["api"]), "from a block");
}

#[test]
fn limits_cut_and_warn() {
    let server = filled();
    let cut = json!(["results truncated due to limit"]);
    for (path, p, n) in [
        ("/api/v1/labels", vec![], 5),
        ("/api/v1/label/__name__/values", vec![], 4),
        ("/api/v1/series", vec![("match[]", "{job!=\"\"}")], 3),
    ] {
        let with = |limit: &'static str| server.get(path, &[&p[..], &[("limit", limit)]].concat());
        let v = with("2").json();
        assert_eq!((v["data"].as_array().map(Vec::len), &v["warnings"]), (Some(2), &cut), "{path}");
        let v = with("100").json();
        assert_eq!((v["data"].as_array().map(Vec::len), v.get("warnings")), (Some(n), None), "{path}");
        assert_eq!(with("0").json()["data"].as_array().map(Vec::len), Some(n), "{path}: 0 is no limit");
    }
    let p = [("query", "http_requests_total"), ("time", AT), ("limit", "1")];
    let v = server.get("/api/v1/query", &p).json();
    assert_eq!((v["data"]["result"].as_array().map(Vec::len), &v["warnings"]), (Some(1), &cut));
}

#[test]
fn metadata_of_metrics() {
    let server = filled();
    let ask = |p: &[(&str, &str)]| data(&server.get("/api/v1/metadata", p));
    assert_eq!(
        ask(&[]),
        json!({
            "http_requests_total": [{"type": "counter", "unit": "", "help": "Requests."}],
            "temperature": [{"type": "gauge", "unit": "celsius", "help": "How warm."}],
        })
    );
    assert_eq!(ask(&[("metric", "temperature")]).as_object().map(|m| m.len()), Some(1));
    assert_eq!(ask(&[("limit", "1")]).as_object().map(|m| m.len()), Some(1));
    assert_eq!(ask(&[("metric", "nothing")]), json!({}));
}

#[test]
fn what_grafana_asks_when_a_data_source_is_saved_and_used() {
    let server = filled();
    // "Save & test": a form with t = 4, then who we are.
    let r = server.post("/api/v1/query", &[("query", "1+1"), ("time", "4")]);
    assert_eq!(data(&r), json!({"resultType": "scalar", "result": [4, "2"]}));
    let build = data(&server.get("/api/v1/status/buildinfo", &[]));
    assert!(build.get("features").is_none(), "a features key means another product: {build}");
    assert!(build["version"].as_str().is_some_and(|v| v.starts_with("3.")), "{build}");
    // On load: rules, and exemplars with milliseconds where seconds are meant.
    assert_eq!(data(&server.get("/api/v1/rules", &[])), json!({"groups": []}));
    let p = [("query", "test"), ("start", "1763800000000"), ("end", "1763803600000")];
    assert_eq!(data(&server.get("/api/v1/query_exemplars", &p)), json!([]));
    assert_eq!(data(&server.post("/api/v1/query_exemplars", &p)), json!([]));
    // The query builder, with its default limit.
    let p = [("start", "1699990000"), ("end", "1700000000"), ("limit", "40000")];
    for path in ["/api/v1/labels", "/api/v1/label/__name__/values", "/api/v1/label/job/values"] {
        assert!(!data(&server.get(path, &p)).as_array().unwrap().is_empty(), "{path}");
    }
    assert!(!data(&server.post("/api/v1/labels", &p)).as_array().unwrap().is_empty());
    data(&server.get("/api/v1/metadata", &[("limit", "40000")]));
    // A panel.
    let p = [
        ("query", "sum by (job) (rate(http_requests_total[1m0s]))"),
        ("start", "1699999400.123"),
        ("end", "1700000000.123"),
        ("step", "15"),
        ("timeout", "60s"),
    ];
    assert_eq!(data(&server.post("/api/v1/query_range", &p))["result"].as_array().unwrap().len(), 2);
}

#[test]
fn statistics_of_a_query() {
    let server = filled();
    let p = [("query", "sum(http_requests_total)"), ("start", "1699999400"), ("end", "1700000000"), ("step", "60")];
    let plain = data(&server.get("/api/v1/query_range", &p));
    assert!(plain.get("stats").is_none());
    let some = data(&server.get("/api/v1/query_range", &[&p[..], &[("stats", "true")]].concat()));
    assert!(some["stats"]["timings"]["evalTotalTime"].is_number(), "{some}");
    // Eleven steps, two series.
    assert_eq!(some["stats"]["samples"]["totalQueryableSamples"], 22, "{some}");
    assert!(some["stats"]["samples"].get("totalQueryableSamplesPerStep").is_none());
    let all = data(&server.get("/api/v1/query_range", &[&p[..], &[("stats", "all")]].concat()));
    assert_eq!(all["stats"]["samples"]["totalQueryableSamples"], 22, "{all}");
    assert!(all["stats"]["samples"]["peakSamples"].as_u64().is_some_and(|n| n > 0), "{all}");
}

#[test]
fn parsing_and_formatting() {
    let server = filled();
    let q = [("query", "sum(rate(x[5m]))by(job)/2")];
    assert_eq!(data(&server.get("/api/v1/format_query", &q)), json!("sum by (job) (rate(x[5m])) / 2"));
    let tree = data(&server.post("/api/v1/parse_query", &q));
    assert_eq!((&tree["type"], &tree["op"]), (&json!("binaryExpr"), &json!("/")), "{tree}");
    assert_eq!(error(&server.get("/api/v1/format_query", &[("query", "1+")])).0, 400);
    assert_eq!(error(&server.get("/api/v1/parse_query", &[("query", "1+")])).0, 400);
}

#[test]
fn large_answers_are_compressed_for_who_takes_it() {
    let server = filled();
    let mut c = server.client();
    let path = "/api/v1/query_range?query=http_requests_total&start=1699999400&end=1700000000&step=10";
    let plain = c.request("GET", path, &[], b"").unwrap();
    assert_eq!(plain.header("content-encoding"), "");
    let packed = c.request("GET", path, &[("accept-encoding", "deflate, gzip;q=0.9")], b"").unwrap();
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert!(packed.body.len() < plain.body.len() / 2);
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(packed.body.as_slice()).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain.body);
}

#[test]
fn health_and_status_pages() {
    let server = filled();
    for path in ["/-/healthy", "/-/ready", "/metrics", "/version", "/"] {
        assert_eq!(server.get(path, &[]).status, 200, "{path}");
    }
    for page in ["buildinfo", "runtimeinfo", "flags", "config", "walreplay", "active_queries"] {
        data(&server.get(&format!("/api/v1/status/{page}"), &[]));
    }
    assert_eq!(error(&server.get("/api/v1/status/nothing", &[])).0, 404);
    let tsdb = data(&server.get("/api/v1/status/tsdb", &[("limit", "1")]));
    assert_eq!(tsdb["headStats"]["numSeries"], 5);
    assert_eq!(tsdb["seriesCountByMetricName"], json!([{"name": "http_requests_total", "value": 2}]));
    let runtime = data(&server.get("/api/v1/status/runtimeinfo", &[]));
    for key in ["startTime", "CWD", "hostname"] {
        assert!(runtime[key].as_str().is_some_and(|v| !v.is_empty()), "{key}: {runtime}");
    }
    let text = server.get("/metrics", &[]).text();
    assert!(text.contains("# TYPE quiver_head_series gauge\nquiver_head_series 5\n"), "{text}");
    for path in
        ["/api/v1/alerts", "/api/v1/alertmanagers", "/api/v1/targets", "/api/v1/features", "/api/v1/scrape_pools"]
    {
        data(&server.get(path, &[]));
    }
}

/// How far a run is says nothing once it has ended.
#[test]
fn progress_of_tasks_is_that_of_running_ones() {
    let server = filled();
    server.admin("flush");
    server.admin("clean_tombstones");
    let idle = data(&server.get("/api/v1/status/tasks", &[]))["tasks"].take();
    let flush = idle.as_array().unwrap().iter().find(|t| t["task"] == "flush").unwrap().clone();
    assert_eq!((&flush["state"], &flush["done"], &flush["total"]), (&json!("idle"), &json!(null), &json!(null)));
}

#[test]
fn the_admin_api_is_off_unless_switched_on() {
    let server = Start::new().without("--admin-api").ready();
    let (code, kind, text) = error(&server.post("/api/v1/admin/tsdb/flush", &[]));
    assert_eq!((code, kind.as_str()), (500, "unavailable"));
    assert!(text.contains("admin APIs disabled"), "{text}");
    let server = filled();
    server.admin("flush");
    server.admin("compact");
    assert_eq!(error(&server.post("/api/v1/admin/tsdb/explode", &[])).0, 404);
    assert_eq!(server.get("/api/v1/admin/tsdb/flush", &[]).status, 405);
}

#[test]
fn own_metrics_are_there_to_ask_for_at_once() {
    let server = Start::new().without("--self-metrics").ready();
    let begun = std::time::Instant::now();
    while server.query("quiver_head_series", &now()) == json!([]) {
        assert!(begun.elapsed().as_secs() < 30, "no own metrics");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(server.query("up{job=\"quiver\"}", &now())[0]["value"][1], "1");
}

fn now() -> String {
    let d = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{}.{:03}", d.as_secs(), d.subsec_millis())
}
