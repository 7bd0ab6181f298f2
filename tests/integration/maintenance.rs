//! Deletions, snapshots, backups, checks and background tasks, over the ports and the files of a real server.

use std::path::Path;

use serde_json::{Value, json};

use crate::command::{quiver, succeeds};
use crate::remote_write::{Series, write};
use crate::server::{Server, Start};

const T: i64 = 1_700_000_000_000;
const AT: &str = "1700000300";

fn fill(server: &Server, from: i64) {
    let values: Vec<f64> = (0..20).map(|i| f64::from(i * i)).collect();
    let all: Vec<Series> = (0..4)
        .flat_map(|i| {
            let instance = format!("host-{i}");
            ["keep", "drop"]
                .map(|m| Series::new(m, &[("instance", instance.as_str())]).floats(T + from, 15_000, &values))
        })
        .collect();
    write(&mut server.client(), &all);
}

fn count(server: &Server, selector: &str) -> i64 {
    let result = server.query(&format!("sum(count_over_time({selector}[10m]))"), AT);
    result[0]["value"][1].as_str().map_or(0, |n| n.parse().unwrap())
}

fn names(server: &Server) -> Value {
    server.get("/api/v1/label/__name__/values", &[]).json()["data"].take()
}

fn refused(r: &crate::http::Response) -> (u16, String, String) {
    let j = r.json();
    let text = |key: &str| j[key].as_str().unwrap_or("").to_owned();
    (r.status, text("errorType"), text("error"))
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn deleted_series_are_gone_at_once_and_for_good() {
    let mut server = Server::start();
    fill(&server, 0);
    assert_eq!((count(&server, "drop"), count(&server, "keep")), (80, 80));
    let delete = |server: &Server, p: &[(&str, &str)]| server.post("/api/v1/admin/tsdb/delete_series", p);
    // A part of the time, PUT as well as POST.
    let (from, to) = ("1700000060", "1700000090");
    let client = &mut server.client();
    let form = format!("match[]=drop&start={from}&end={to}");
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let r = client.request("PUT", "/api/v1/admin/tsdb/delete_series", &headers, form.as_bytes()).unwrap();
    assert_eq!((r.status, r.text()), (204, String::new()));
    assert_eq!((count(&server, "drop"), count(&server, "keep")), (80 - 4 * 3, 80));
    assert_eq!(
        server.sql("SELECT metric, count(*) FROM samples GROUP BY metric ORDER BY metric"),
        [vec![json!("drop"), json!(68)], vec![json!("keep"), json!(80)]]
    );
    // What is written afterwards is seen, in the deleted range, too.
    write(&mut server.client(), &[Series::new("drop", &[("instance", "host-0")]).float(T + 75_000, 5.0)]);
    assert_eq!(count(&server, "drop"), 69);
    // Several selectors, all times, across a crash.
    let selectors = [("match[]", "drop{instance=~\"host-[01]\"}"), ("match[]", "{instance=\"host-3\"}")];
    assert_eq!(delete(&server, &selectors).status, 204);
    assert_eq!((count(&server, "drop"), count(&server, "keep")), (17, 60));
    server.kill();
    server.restart();
    assert_eq!((count(&server, "drop"), count(&server, "keep")), (17, 60));
    assert_eq!(delete(&server, &[("match[]", "drop")]).status, 204);
    let hosts = server.get("/api/v1/label/instance/values", &[]).json()["data"].take();
    assert_eq!((hosts, names(&server)), (json!(["host-0", "host-1", "host-2"]), json!(["keep"])));
    server.admin("clean_tombstones");
    assert_eq!(names(&server), json!(["keep"]));
    let storage = server.get("/api/v1/status/tsdb", &[]).json()["data"]["storage"].take();
    assert_eq!((&storage["tombstones"], &storage["damagedBlocks"]), (&json!(0), &json!([])));
    for file in std::fs::read_dir(server.data.join("blocks")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"host-3"));
    }
    // Wrong requests, in Prometheus's words.
    let bad = |p: &[(&str, &str)]| refused(&delete(&server, p));
    assert_eq!(bad(&[]), (400, "bad_data".into(), "no match[] parameter provided".into()));
    let (code, kind, text) = bad(&[("match[]", "up"), ("start", "soon")]);
    assert_eq!((code, kind.as_str()), (400, "bad_data"));
    assert_eq!(text, "invalid parameter \"start\": cannot parse \"soon\" to a valid timestamp");
    assert!(bad(&[("match[]", "up{")]).2.starts_with("invalid parameter \"match[]\": "));
    assert_eq!(server.get("/api/v1/admin/tsdb/delete_series", &[("match[]", "keep")]).status, 405);
    assert_eq!(count(&server, "keep"), 60);
    let off = Start::new().without("--admin-api").ready();
    for verb in ["delete_series", "clean_tombstones", "snapshot"] {
        let r = off.post(&format!("/api/v1/admin/tsdb/{verb}"), &[("match[]", "up")]);
        assert_eq!(refused(&r), (500, "unavailable".into(), "admin APIs disabled".into()));
    }
}

#[test]
fn a_snapshot_opens_as_a_data_folder() {
    let server = Server::start();
    fill(&server, 0);
    server.admin("flush");
    fill(&server, 60_000);
    let total = count(&server, "keep");
    let made = server.post("/api/v1/admin/tsdb/snapshot", &[]);
    assert_eq!(made.status, 200, "{}", made.text());
    let name = made.json()["data"]["name"].as_str().unwrap().to_owned();
    let (stamp, random) = name.split_once("Z-").unwrap();
    assert!(stamp.len() == 15 && random.len() == 16 && stamp.as_bytes()[8] == b'T', "{name}");
    let folder = server.data.join("snapshots").join(&name);
    // What comes later is not in it.
    let gone = server.post("/api/v1/admin/tsdb/delete_series", &[("match[]", "keep")]);
    assert_eq!(gone.status, 204);
    server.admin("compact");
    server.admin("clean_tombstones");
    let offline =
        succeeds(&["query", "--offline", shown(&folder), "sum(count_over_time(keep[10m]))", "--time", AT, "--json"]);
    assert!(offline.contains(&format!("\"{total}\"")), "{offline}");
    let other = Start::new().on(&folder).ready();
    assert_eq!((count(&other, "keep"), count(&other, "drop")), (total, total));
    let skipped = server.post("/api/v1/admin/tsdb/snapshot", &[("skip_head", "true")]);
    assert_eq!(skipped.status, 200);
    let bad = refused(&server.post("/api/v1/admin/tsdb/snapshot", &[("skip_head", "maybe")]));
    assert_eq!((bad.0, bad.1.as_str()), (400, "bad_data"));
    assert!(bad.2.starts_with("invalid parameter \"skip_head\": unable to parse boolean"), "{}", bad.2);
    // Names lead nowhere else.
    let base = "/api/v1/admin/tsdb/snapshots";
    for path in
        ["..", "%2e%2e", "x%2f..%2f..", "nothing", &format!("{name}/LOCK"), &format!("{name}/..%2f..%2fMANIFEST")]
    {
        let status = server.get(&format!("{base}/{path}"), &[]).status;
        assert!([400, 404].contains(&status), "{path}: {status}");
    }
    let client = &mut server.client();
    let opened = client.request("DELETE", &format!("{base}/{name}"), &[], b"").unwrap();
    assert!(opened.status == 500 && folder.join("MANIFEST").exists(), "a server has opened it: {}", opened.text());
    let skipped = skipped.json()["data"]["name"].as_str().unwrap().to_owned();
    let removed = client.request("DELETE", &format!("{base}/{skipped}"), &[], b"").unwrap();
    assert_eq!((removed.status, server.data.join("snapshots").join(&skipped).exists()), (204, false));
}

#[test]
fn backups_are_incremental_and_come_back() {
    let mut server = Server::start();
    fill(&server, 0);
    server.admin("flush");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("backup");
    let url = server.url();
    let back_up = |from: &[&str]| succeeds(&[&["snapshot", "--out", shown(&out)], from].concat());
    assert!(back_up(&["--url", &url]).contains("1 copied now"));
    fill(&server, 60_000);
    let text = back_up(&["--url", &url]);
    assert!(text.starts_with("2 blocks (") && text.contains("1 copied now"), "{text}");
    let snapshots = server.data.join("snapshots");
    assert_eq!(std::fs::read_dir(snapshots).unwrap().count(), 0, "the server's snapshots are dropped again");
    assert!(back_up(&["--url", &url, "--verify"]).contains("0 copied now"));
    let all = "keep";
    let total = count(&server, all);
    // Without a server, with what is only in its log.
    fill(&server, 120_000);
    let more = count(&server, all);
    let (code, _, err) = quiver(&["snapshot", "--data-dir", shown(&server.data), "--out", shown(&out)]);
    assert!(code == Some(1) && err.contains("in use"), "{err}");
    let restore = |to: &Path| quiver(&["restore", "--from", shown(&out), "--data-dir", shown(to)]);
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    assert_eq!(restore(&old).0, Some(0));
    server.kill();
    assert!(back_up(&["--data-dir", shown(&server.data)]).starts_with("3 blocks"));
    assert_eq!(restore(&new).0, Some(0));
    let (code, _, err) = restore(&new);
    assert!(code == Some(1) && err.contains("not empty"), "{err}");
    for (data, want) in [(&old, total), (&new, more)] {
        assert_eq!(count(&Start::new().on(data).ready(), all), want);
    }
    let force = ["restore", "--from", shown(&out), "--data-dir", shown(&old), "--force-aside"];
    assert!(succeeds(&force).contains("quarantine/before-restore-1"));
    assert!(old.join("quarantine/before-restore-1/MANIFEST").exists());
    assert_eq!(count(&Start::new().on(&old).ready(), all), more);
    let (code, _, err) = quiver(&["snapshot", "--data-dir", shown(&server.data), "--out", shown(&old)]);
    assert!(code == Some(1) && err.contains("not a backup folder"), "{err}");
}

#[test]
fn damage_is_found_shown_and_set_aside() {
    let mut server = Server::start();
    fill(&server, 0);
    server.admin("flush");
    fill(&server, 7_200_000);
    server.admin("flush");
    fill(&server, 14_400_000);
    let (code, _, err) = quiver(&["check", shown(&server.data)]);
    let holder = format!("is in use by the server with process id {}: stop it first, or ask it over HTTP", server.id());
    assert!(code == Some(1) && err.contains(&holder) && err.contains(shown(&server.data)), "{err}");
    assert_eq!(server.terminate().code(), Some(0));
    let whole = succeeds(&["check", shown(&server.data)]);
    assert!(
        whole.contains("read 2 blocks") && whole.contains("(1 frame)") && whole.ends_with("\nno damage\n"),
        "{whole}"
    );
    let inspected = succeeds(&["inspect", shown(&server.data)]);
    assert!(inspected.contains("2 blocks") && inspected.contains("bytes/sample") && inspected.contains("1 frame,"));
    let mut blocks: Vec<_> =
        std::fs::read_dir(server.data.join("blocks")).unwrap().map(|f| f.unwrap().path()).collect();
    blocks.sort();
    let text = succeeds(&["inspect", shown(&blocks[0])]);
    for word in
        ["codec      ", "metric     keep: 4 series, 80 samples", "label      instance: 4 values", "part       times"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    let segment = std::fs::read_dir(server.data.join("log")).unwrap().map(|f| f.unwrap().path()).next().unwrap();
    assert!(succeeds(&["inspect", shown(&segment)]).contains("8 series, 160 floats"));
    succeeds(&["check", shown(&segment)]);
    succeeds(&["check", shown(&blocks[0])]);
    let mut bytes = std::fs::read(&blocks[0]).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&blocks[0], &bytes).unwrap();
    for path in [&server.data, &blocks[0]] {
        let (code, out, err) = quiver(&["check", shown(path)]);
        assert_eq!(code, Some(1));
        assert!(
            out.contains("damage: ") && out.contains(" at byte ") && err.contains("is damaged in 1 place"),
            "{out}{err}"
        );
    }
    // It serves all the rest, and tells.
    server.restart();
    let r = server.post("/api/v1/query", &[("query", "count_over_time(drop[10m])"), ("time", AT)]);
    assert!(r.status == 500 && r.text().contains("corrupt data in blocks"), "{}", r.text());
    assert_eq!(server.query("count(keep)", "1700007300")[0]["value"][1], "4");
    let damaged = server.get("/api/v1/status/tsdb", &[]).json()["data"]["storage"]["damagedBlocks"].take();
    assert_eq!(damaged.as_array().unwrap().len(), 1, "{damaged}");
    server.terminate();
    let (code, out, _) = quiver(&["check", "--repair", shown(&server.data)]);
    assert!(code == Some(3) && out.contains("moved to quarantine/"), "{out}");
    assert!(out.ends_with("repaired: 140 of 160 samples kept, 20 lost\n"), "{out}");
    assert!(
        out.contains("kept: 140 samples") && out.contains("lost: 20 samples of ") && out.contains("host-0"),
        "{out}"
    );
    assert!(succeeds(&["check", shown(&server.data)]).ends_with("\nno damage\n"));
    let again = succeeds(&["check", "--repair", shown(&server.data)]);
    assert!(again.ends_with("\nno damage\n"), "{again}");
    assert_eq!(std::fs::read_dir(server.data.join("quarantine")).unwrap().count(), 1);
    server.restart();
    assert_eq!(server.query("count(keep)", AT)[0]["value"][1], "4");
    assert_eq!(server.query("count(drop)", AT)[0]["value"][1], "3", "what is whole of a damaged block is kept");
    assert_eq!(server.query("count(keep)", "1700007300")[0]["value"][1], "4");
}

#[test]
fn tasks_are_shown_and_held_back() {
    let server = Server::start();
    fill(&server, 0);
    server.admin("flush");
    server.admin("compact");
    let tasks = || server.get("/api/v1/status/tasks", &[]).json()["data"].take();
    let of = |tasks: &Value, name: &str| {
        let list = tasks["tasks"].as_array().unwrap();
        list.iter().find(|t| t["task"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    let seen = tasks();
    assert_eq!(seen["paused"], false);
    let flush = of(&seen, "flush");
    assert_eq!((&flush["state"], &flush["runs"], &flush["failures"]), (&json!("idle"), &json!(1), &json!(0)));
    assert!(flush["lastStarted"].as_str().unwrap().starts_with("20") && flush["lastError"].is_null(), "{flush}");
    assert_eq!(of(&seen, "compact_all")["done"], of(&seen, "compact_all")["done"]);
    for name in ["delete", "snapshot", "compact", "clean_tombstones", "retention"] {
        assert_eq!(of(&seen, name)["runs"], 0, "{name}");
    }
    assert_eq!(server.post("/api/v1/admin/tasks/pause", &[]).status, 204);
    assert_eq!(tasks()["paused"], true);
    // By hand it goes on.
    server.admin("flush");
    assert_eq!(server.post("/api/v1/admin/tasks/resume", &[]).status, 204);
    assert_eq!(tasks()["paused"], false);
    assert_eq!(server.post("/api/v1/admin/tasks/explode", &[]).status, 404);
    let off = Start::new().without("--admin-api").ready();
    assert_eq!(refused(&off.post("/api/v1/admin/tasks/pause", &[])).2, "admin APIs disabled");
    assert_eq!(off.get("/api/v1/status/tasks", &[]).status, 200);
}

#[test]
fn retention_by_size_and_by_selector() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("quiver.json");
    let rules = r#"{"retention-rules": [{"selector": "drop", "duration": "1h"}], "retention-size": "1GB"}"#;
    std::fs::write(&config, rules).unwrap();
    let server = Start::new().with(&["--config", shown(&config)]).ready();
    fill(&server, 0);
    server.admin("flush");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    write(&mut server.client(), &[Series::new("now", &[]).float(now, 1.0)]);
    let begun = std::time::Instant::now();
    while names(&server) != json!(["keep", "now"]) {
        assert!(begun.elapsed().as_secs() < 60, "{}", names(&server));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(count(&server, "keep"), 80);
    let text = server.get("/metrics", &[]).text();
    assert!(text.contains("quiver_blocks_dropped_total 0\n") && text.contains("quiver_blocks_damaged 0\n"), "{text}");
    // The oldest blocks go when there is no room for them.
    let small = Start::new().with(&["--retention-size", "1500B"]).ready();
    for k in 0..6 {
        fill(&small, k * 3_600_000);
        small.admin("flush");
    }
    let begun = std::time::Instant::now();
    while count(&small, "keep") > 0 {
        assert!(begun.elapsed().as_secs() < 60, "the oldest block is still there");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let storage = small.get("/api/v1/status/tsdb", &[]).json()["data"]["storage"].take();
    assert!(storage["blocksDropped"].as_i64().unwrap() > 0, "{storage}");
    assert_eq!(small.query("count(keep)", "1700018300")[0]["value"][1], "4", "the newest stays");
}
