//! Limits on series: new ones are refused by name of the label that explodes, known ones flow. And where series come from.

use serde_json::json;

use crate::remote_write::{Series, V1, V2, body_v1, body_v2, post, write};
use crate::server::{Server, Start};

const T: i64 = 1_700_000_000_000;
const AT: &str = "1700000060";

fn series(instance: &str, id: &str, ts: i64) -> Series {
    Series::new("requests_total", &[("instance", instance), ("id", id)]).float(ts, 1.0)
}

#[test]
fn past_the_limit_new_series_are_refused_for_good_with_the_label_and_known_ones_flow() {
    let server = Start::new().with(&["--limit", "active_series_max=3"]).ready();
    let mut c = server.client();
    write(&mut c, &[series("a", "1", T), series("a", "2", T), series("b", "1", T)]);
    // Two known series among three new ones, which differ by their id.
    let mixed = |ts| {
        let mut list: Vec<Series> = (10..13).map(|id| series("a", &id.to_string(), ts)).collect();
        list.insert(1, series("a", "1", ts));
        list.push(series("b", "1", ts));
        list
    };
    let r = post(&mut c, V2, &body_v2(&mixed(T + 15_000))).unwrap();
    assert_eq!((r.status, r.header("x-prometheus-remote-write-samples-written")), (400, "2"), "{}", r.text());
    // Never 429 or 503: vmagent sends such a block again for ever, and known series wait behind it.
    assert_eq!(r.header("retry-after"), "", "sent again it would be refused again");
    for words in ["limit of 3 active series", "3 new series refused", "label \"id\" has 2 values already", "3 of 3"] {
        assert!(r.text().contains(words), "{words}: {}", r.text());
    }
    let r = post(&mut c, V1, &body_v1(&mixed(T + 30_000))).unwrap();
    assert_eq!(r.status, 400, "{}", r.text());
    // Nothing but new ones, then nothing but known ones.
    let r = post(&mut c, V2, &body_v2(&[series("a", "99", T)])).unwrap();
    assert_eq!((r.status, r.header("x-prometheus-remote-write-samples-written")), (400, "0"), "{}", r.text());
    write(&mut c, &[series("a", "1", T + 45_000), series("a", "2", T + 45_000)]);
    let got = server.query("count_over_time(requests_total[5m])", AT);
    let counts: Vec<_> = got.as_array().unwrap().iter().map(|s| s["value"][1].as_str().unwrap().to_owned()).collect();
    assert_eq!(counts, ["4", "3", "2"], "{got}");
    let storage = server.get("/api/v1/status/tsdb", &[]).json()["data"]["storage"].take();
    assert_eq!(storage["seriesRefusedByLabelName"], json!([{"name": "id", "value": 7}]));
    assert_eq!(server.metric("quiver_series_refused_total"), 7.0);
    let metric = "quiver_samples_rejected_total{door=\"remote_write\",reason=\"series_limit\"}";
    assert_eq!(server.metric(metric), 7.0);
    // The first is told at once, the others a minute later.
    let log = server.log();
    let lines: Vec<_> = log.lines().filter(|l| l.contains("a limit on series is reached")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("WARN") && lines[0].contains("rejected 3 samples"), "{}", lines[0]);
    assert!(lines[0].contains("label \\\"id\\\"") || lines[0].contains("label \"id\""), "{}", lines[0]);
}

#[test]
fn limits_per_metric_and_per_label() {
    let limits = "metric_series_max=2,label_values_max=3";
    let server = Start::new().with(&["--limit", limits]).ready();
    let mut c = server.client();
    write(&mut c, &[series("a", "1", T), series("a", "2", T)]);
    let r = post(&mut c, V2, &body_v2(&[series("a", "3", T), series("a", "1", T + 1)])).unwrap();
    assert_eq!(r.status, 400);
    assert!(r.text().contains("limit of 2 series per metric is reached by \"requests_total\""), "{}", r.text());
    let other = |id: &str| Series::new("errors_total", &[("id", id)]).float(T, 1.0);
    write(&mut c, &[other("3")]);
    let r = post(&mut c, V2, &body_v2(&[other("4")])).unwrap();
    assert_eq!(r.status, 400);
    assert!(r.text().contains("limit of 3 values per label") && r.text().contains("\"id\""), "{}", r.text());
    write(&mut c, &[other("1")]);
}

/// A series past a limit and one that is wrong: one answer names both, and counts what was kept.
#[test]
fn a_block_of_new_wrong_and_known_series() {
    let server = Start::new().with(&["--limit", "active_series_max=1"]).ready();
    let mut c = server.client();
    write(&mut c, &[series("a", "1", T)]);
    let far = T * 10;
    let block = [series("a", "1", T + 1), series("a", "2", T), Series::new("up", &[("a", "b")]).float(far, 1.0)];
    let r = post(&mut c, V2, &body_v2(&block)).unwrap();
    assert_eq!((r.status, r.header("x-prometheus-remote-write-samples-written")), (400, "1"), "{}", r.text());
    assert!(r.text().contains("limit of 1 active series") && r.text().contains("in the future"), "{}", r.text());
    for reason in ["series_limit", "future"] {
        let metric = format!("quiver_samples_rejected_total{{door=\"remote_write\",reason=\"{reason}\"}}");
        assert_eq!(server.metric(&metric), 1.0, "{reason}");
    }
}

fn counts(server: &Server, parameters: &[(&str, &str)]) -> serde_json::Value {
    let r = server.get("/api/v1/status/cardinality", parameters);
    assert_eq!(r.status, 200, "{}", r.text());
    r.json()["data"].take()
}

#[test]
fn cardinality_counts_heads_and_blocks_once() {
    let server = Server::start();
    let mut c = server.client();
    write(&mut c, &[series("a", "1", T), series("a", "2", T), Series::new("up", &[("instance", "a")]).float(T, 1.0)]);
    server.admin("flush");
    write(&mut c, &[series("a", "1", T + 7_200_000), series("b", "3", T + 7_200_000)]);
    let all = counts(&server, &[("limit", "2"), ("focus", "instance")]);
    assert_eq!((&all["numSeries"], &all["numLabelPairs"]), (&json!(4), &json!(7)));
    let of = |name: &str| {
        let list = all[name].as_array().unwrap().iter();
        list.map(|c| format!("{} {}", c["name"].as_str().unwrap(), c["value"])).collect::<Vec<_>>()
    };
    assert_eq!(of("seriesCountByMetricName"), ["requests_total 3", "up 1"]);
    assert_eq!(of("labelValueCountByLabelName"), ["id 3", "__name__ 2"]);
    assert_eq!(of("seriesCountByLabelName"), ["__name__ 4", "instance 4"]);
    assert_eq!(of("seriesCountByLabelValuePair"), ["__name__=requests_total 3", "instance=a 3"]);
    assert_eq!(of("seriesCountByFocusLabelValue"), ["a 3", "b 1"]);
    let some = counts(&server, &[("match[]", "requests_total"), ("end", "1700000010")]);
    assert_eq!((&some["numSeries"], &some["seriesCountByFocusLabelValue"]), (&json!(2), &json!([])));
    assert_eq!(server.get("/api/v1/status/cardinality", &[("match[]", "{}")]).status, 400);
}
