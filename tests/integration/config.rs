//! Settings and the start: what is refused and in which words, what is warned of, what a reload says, folders of others.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::command::{quiver, run_with, succeeds};
use crate::remote_write::{Series, write};
use crate::server::{Server, Start};

const T: i64 = 1_700_000_000_000;
const AT: &str = "1700000300";

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// All files and folders below a folder, with the bytes of the files.
fn tree(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            let below = tree(&entry.path()).into_iter().map(|(n, bytes)| (format!("{name}/{n}"), bytes));
            all.extend(below);
            all.push((name, Vec::new()));
        } else {
            all.push((name, std::fs::read(entry.path()).unwrap()));
        }
    }
    all.sort();
    all
}

/// An instant query at this moment.
fn now(server: &Server, promql: &str) -> Value {
    server.get("/api/v1/query", &[("query", promql)]).json()["data"]["result"].take()
}

fn log_has(server: &Server, level: &str, text: &str) -> bool {
    server
        .log()
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        .any(|l| l["level"] == level && l["fields"]["message"].as_str().is_some_and(|m| m.contains(text)))
}

#[test]
fn a_folder_of_another_program_is_refused_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, paths: &[&str]| {
        let at = folder.path().join(name);
        for path in paths {
            let path = at.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "something").unwrap();
        }
        at
    };
    let prometheus = ["wal/00000000", "chunks_head/000001", "01KBD8ZQ7E9GY1/meta.json", "lock", "queries.active"];
    let source = Server::start();
    let (other, nowhere) = (folder.path().join("backup"), folder.path().join("nowhere"));
    let tier = format!("file://{}", folder.path().join("tier").display());
    succeeds(&["snapshot", "--url", &source.url(), "--out", shown(&other)]);
    for (name, paths, word) in [
        ("prometheus", &prometheus[..], "wal"),
        ("rocksdb", &["CURRENT", "LOCK", "MANIFEST-000001", "000007.sst"], "CURRENT"),
        ("badger", &["MANIFEST", "KEYREGISTRY", "000001.vlog", "DISCARD"], "KEYREGISTRY"),
        ("home", &[".bashrc", ".ssh/authorized_keys", "notes.txt"], ".bashrc"),
        ("var", &["log/syslog", "lib/x"], "log"),
        ("one", &["photo.jpg"], "photo.jpg"),
    ] {
        let at = made(name, paths);
        let before = tree(&at);
        let (serve, at_text) =
            (["serve", "--http-listen", "127.0.0.1:0", "--grpc-listen", "off", "--data-dir"], shown(&at));
        let takeover = ["--tier-url", &tier, "--tier-takeover", "on"];
        let restore = ["restore", "--from", shown(&other), "--data-dir", at_text];
        for arguments in [
            [&serve[..], &[at_text]].concat(),
            [&serve[..], &[at_text], &takeover].concat(),
            restore.to_vec(),
            [&restore[..], &["--force-aside"]].concat(),
            vec!["check", at_text],
            vec!["check", "--repair", at_text],
            vec!["snapshot", "--data-dir", at_text, "--out", shown(&nowhere)],
            vec!["restore", "--from", at_text, "--data-dir", shown(&nowhere)],
            vec!["inspect", at_text],
        ] {
            let (code, out, err) = quiver(&arguments);
            assert!(code.is_some_and(|c| c != 0), "{arguments:?}: {out}{err}");
            assert!(err.contains(name), "{arguments:?} names the folder: {err}");
            assert_eq!(tree(&at), before, "{arguments:?} wrote into {name}");
        }
        let (_, _, err) = quiver(&[&serve[..], &[at_text]].concat());
        assert!(err.contains(word) && err.contains("which Quiver did not write: choose an empty folder"), "{err}");
    }
    // What file systems and version control leave in an empty folder is none of that.
    let mut server = Start::new().on(&made("empty", &["lost+found/x", ".gitkeep", ".gitignore"])).ready();
    write(&mut server.client(), &[Series::new("a", &[]).float(T, 1.0)]);
    server.kill();
    // And nothing that is put beside our files keeps them from being opened, though there is no manifest yet.
    std::fs::write(server.data.join("notes.txt"), "mine").unwrap();
    server.restart();
    assert_eq!(server.query("a", "1700000000")[0]["value"][1], "1");
}

#[test]
fn wrong_values_are_refused_in_the_words_of_the_user() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let start = ["serve", "--http-listen", "127.0.0.1:0", "--grpc-listen", "off", "--data-dir", shown(&data)];
    for (flag, value, words) in [
        ("--retention", "30", "--retention: \"30\" has no unit: write 30d for days"),
        ("--retention", "0d", "0d would delete everything; \"off\" keeps everything"),
        ("--retention", "1ms", "1ms would delete samples as soon as they are written"),
        ("--retention-size", "10", "--retention-size: 10 has no unit and would be bytes: write 10GB"),
        ("--retention-size", "10XB", "is not a size like 512MiB"),
        ("--head-bytes", "1", "1 has no unit"),
        ("--head-bytes", "1B", "flushed all the time"),
        ("--tier-after", "30", "--tier-after: \"30\" has no unit"),
        ("--tier-drop-after", "30", "--tier-drop-after: \"30\" has no unit"),
        ("--log", "loud", "the levels are error, warn, info, debug, trace and off"),
        ("--limit", "query_timeout_ms=0", "query_timeout_ms=0 would refuse everything"),
        ("--limit", "query_timeout=5", "did you mean \"query_timeout_ms\"? All limits: quiver serve --list-limits"),
        ("--enable-feature", "promql-experimental-function", "did you mean \"promql-experimental-functions\"?"),
    ] {
        let (code, _, err) = quiver(&[&start[..], &[flag, value]].concat());
        assert!(code == Some(2) && err.contains(words), "{flag} {value}: {code:?} {err}");
        // The environment and the file are told the same.
        let name = format!("QUIVER_{}", flag[2..].replace('-', "_").to_uppercase());
        let out = run_with(&start, &[(&name, value)]);
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        let words = words.split_once(": ").map_or(words, |(_, why)| why);
        assert!(out.status.code() == Some(2) && err.contains(words) && err.contains(&name), "{name}: {err}");
        let file = folder.path().join("c.json");
        std::fs::write(&file, json!({ flag[2..].to_owned(): value }).to_string()).unwrap();
        let (code, _, err) = quiver(&[&start[..], &["--config", shown(&file)]].concat());
        assert!(code == Some(2) && err.contains(words) && err.contains("c.json, line 1, column "), "{err}");
        let (code, out, checked) = quiver(&["config", "check", shown(&file)]);
        assert!(code == Some(2) && out.is_empty() && checked == err, "{checked}");
    }
    assert!(!data.exists(), "nothing was made");
    let (code, out, _) = quiver(&["serve", "--list-limits", "--limit", "labels_max=7"]);
    let line = out.lines().find(|l| l.starts_with("labels_max ")).unwrap_or_default();
    assert!(code == Some(0) && line.contains(" 7 ") && out.contains("query_timeout_ms"), "{out}");
}

/// Whoever starts a server twice is told so, and not to choose another port.
#[test]
fn a_second_server_on_a_folder_is_told_of_the_first() {
    let server = Server::start();
    let (address, data) = (server.address().to_string(), shown(&server.data));
    let (code, out, err) = quiver(&["serve", "--data-dir", data, "--http-listen", &address, "--grpc-listen", "off"]);
    assert!(code == Some(1) && out.is_empty(), "{out}{err}");
    assert!(err.contains("a server (process ") && err.contains(data), "{err}");
    assert!(!err.contains("--url") && !err.contains("--http-listen"), "{err}");
}

#[test]
fn a_configuration_is_tried_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quiver.json");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        quiver(&["config", "check", shown(&file)])
    };
    let good = r#"{"retention": "30d", "retention-size": "1TB", "admin-api": true, "self-metrics": "off", "limit": {"labels_max": 30}}"#;
    assert_eq!(check(good), (Some(0), format!("{} is valid\n", file.display()), String::new()));
    let (code, out, err) = check(r#"{"http-listen": ":9095", "limit": {"query_memory_bytes_max": "256TiB"}}"#);
    assert!(code == Some(0) && out.ends_with(" is valid\n"), "{out}{err}");
    assert!(
        err.contains("all interfaces, without authentication") && err.contains("more than the available memory"),
        "{err}"
    );
    let (code, _, err) = check("{\n  \"retentoin\": \"30d\",\n  \"tier-after\": \"30\"\n}");
    let place = |line: u32, column: u32| format!("quiver.json, line {line}, column {column}: ");
    assert_eq!(code, Some(2));
    assert!(err.contains(&(place(2, 3) + "unknown key \"retentoin\"; did you mean \"retention\"?")), "{err}");
    assert!(err.contains(&(place(3, 17) + "tier-after: \"30\" has no unit")), "{err}");
    for (text, word) in [
        ("", "the file is empty"),
        ("[]", "this is a list"),
        ("retention: 30d\n", "this looks like YAML"),
        ("{\"http-listen\": 21343}", "http-listen: \"21343\" is not an address like 127.0.0.1:9095"),
        ("{\"tier-url\": \"s3://b\"}", "AWS_ACCESS_KEY_ID"),
    ] {
        let (code, out, err) = check(text);
        assert!(code == Some(2) && err.contains(word) && out.is_empty(), "{text}: {err}");
    }
    let (code, _, err) = quiver(&["config", "check", "/no/such/file.json"]);
    assert!(code == Some(2) && err.contains("/no/such/file.json"), "{err}");
}

#[test]
fn what_is_probably_a_slip_is_told_at_the_start_and_changes_at_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quiver.json");
    std::fs::write(&file, r#"{"retention": "30d", "admin-api": true}"#).unwrap();
    let flags = ["--config", shown(&file), "--http-listen", "0.0.0.0:0", "--limit", "query_memory_bytes_max=256TiB"];
    let server = Start::new().without("--http-listen").without("--admin-api").with(&flags).ready();
    assert!(log_has(
        &server,
        "WARN",
        "HTTP is served on 0.0.0.0:0, on all interfaces, without authentication and without TLS"
    ));
    assert!(log_has(&server, "WARN", "query_memory_bytes_max is 256TiB, more than the available memory"));
    assert!(!server.log().contains("descriptors") && !server.log().contains("memory found"), "{}", server.log());
    std::fs::write(
        &file,
        r#"{"retention": "3d", "admin-api": true, "grpc-listen": "127.0.0.1:1", "head-bytes": "3MiB"}"#,
    )
    .unwrap();
    assert_eq!(server.post("/-/reload", &[]).status, 200);
    let told = "configuration reloaded (retention 30d → 3d); restart to apply: head-bytes";
    assert!(log_has(&server, "WARN", told), "{}", server.log());
    std::fs::write(&file, r#"{"retention": "30m", "admin-api": true}"#).unwrap();
    server.signal("HUP");
    server.wait_until("it is told", |s| log_has(s, "INFO", "configuration reloaded (retention 3d → 30m)"));
    assert!(log_has(&server, "WARN", "retention is 30m: samples older than that are deleted"));
    std::fs::write(&file, r#"{"log": "loud", "admin-api": true}"#).unwrap();
    let r = server.post("/-/reload", &[]);
    // The environment of these servers sets the level, and wins over the file; a wrong key does not get by.
    assert_eq!(r.status, 200, "{}", r.text());
    std::fs::write(&file, r#"{"retention": "0d"}"#).unwrap();
    let r = server.post("/-/reload", &[]);
    assert!(r.status == 500 && r.text().contains("would delete everything"), "{}", r.text());
    let info = server.get("/api/v1/status/runtimeinfo", &[]).json()["data"].take();
    assert_eq!(info["storageRetention"], "off", "the file before said nothing of it: {info}");
}

#[test]
fn a_wrong_level_of_the_log_is_refused_at_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quiver.json");
    std::fs::write(&file, "{}").unwrap();
    let flags = ["--config", shown(&file)];
    let server = Start::new().with(&flags).environment("QUIVER_LOG", "").ready();
    std::fs::write(&file, r#"{"log": "loud"}"#).unwrap();
    let r = server.post("/-/reload", &[]);
    assert!(r.status == 500 && r.text().contains("error, warn, info, debug, trace"), "{}", r.text());
    assert!(log_has(&server, "ERROR", "the old one stays in force"), "{}", server.log());
}

#[test]
fn a_rate_of_the_servers_own_metrics_is_there_after_seconds() {
    let server = Start::new().without("--self-metrics").ready();
    server.wait_until("two samples of its own", |s| {
        now(s, "rate(quiver_http_requests_total[5m])").as_array().is_some_and(|series| !series.is_empty())
    });
    let uptime = |s: &Server| now(s, "quiver_uptime_seconds")[0]["value"][1].as_str().unwrap().parse::<f64>().unwrap();
    assert!(uptime(&server) < 30.0, "long before the usual interval");
    let instance = now(&server, "up")[0]["metric"]["instance"].take();
    assert_eq!(instance, server.address().to_string(), "the port that was bound");
    let out = succeeds(&[
        "query",
        "--url",
        &server.url(),
        "rate(quiver_http_requests_total[5m])",
        "--range",
        "1h",
        "--graph",
    ]);
    assert!(out.contains("quiver_http_requests_total") || out.contains("instance"), "{out}");
}

#[test]
fn the_version_names_commit_and_date() {
    let out = succeeds(&["--version"]);
    let rest = out
        .trim()
        .strip_prefix(&format!("quiver {} (commit ", env!("CARGO_PKG_VERSION")))
        .unwrap_or_else(|| panic!("{out}"));
    let rest = rest.trim_end_matches(')');
    let (commit, date) = rest.split_once(", ").unwrap_or((rest, "unknown"));
    let info = Server::start().get("/api/v1/status/buildinfo", &[]).json()["data"].take();
    let text = |key: &str| info[key].as_str().unwrap().to_owned();
    assert!(text("revision").starts_with(commit) && text("buildDate") == date, "{out}: {info}");
    assert_eq!((text("version").as_str(), text("quiverVersion").as_str()), ("3.16.0", env!("CARGO_PKG_VERSION")));
    // An archive has no git; a build in it is told by two variables, or says that it does not know.
    assert!(commit == "unknown" || commit.bytes().all(|b| b.is_ascii_hexdigit()), "{commit}");
    let info = Server::start().get("/api/v1/status/runtimeinfo", &[]).json()["data"].take();
    assert!(!info["CWD"].as_str().unwrap().is_empty() && info["hostname"].is_string(), "{info}");
}

#[test]
fn a_folder_whose_blocks_were_moved_is_read_offline_as_far_as_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let tier = format!("file://{}", folder.path().join("tier").display());
    let mut server = Start::new().with(&["--tier-url", &tier, "--tier-after", "0s"]).ready();
    assert!(log_has(&server, "WARN", "tier-after is 0s"), "{}", server.log());
    let values: Vec<f64> = (0..20).map(f64::from).collect();
    write(&mut server.client(), &[Series::new("far", &[("a", "b")]).floats(T, 15_000, &values)]);
    server.admin("flush");
    server.admin("tier");
    write(&mut server.client(), &[Series::new("near", &[("a", "b")]).float(T + 300_000, 7.0)]);
    assert_eq!(server.metric("quiver_tier_remote_blocks"), 1.0);
    assert_eq!(server.terminate().code(), Some(0));
    let missing = "(20 samples, 2023-11-14T22:13:20.000Z to 2023-11-14T22:18:05.000Z)";
    let data = shown(&server.data);
    for arguments in [
        vec!["query", "--offline", data, "near", "--time", AT, "--json"],
        vec!["sql", "--offline", data, "SELECT value FROM metrics.near", "--json"],
    ] {
        let (code, out, err) = quiver(&arguments);
        assert!(code == Some(0) && out.contains('7'), "{arguments:?}: {out}{err}");
        assert!(
            err.contains("1 block of ") && err.contains(missing) && err.contains("kept only in its remote store"),
            "{err}"
        );
    }
    let (code, out, _) = quiver(&["query", "--offline", data, "far", "--time", AT, "--json"]);
    assert!(code == Some(0) && out.contains("\"result\":[]"), "{out}");
    let export = folder.path().join("export");
    let (code, _, err) = quiver(&["export", "--data-dir", data, "--out", shown(&export)]);
    assert!(code == Some(0) && err.contains("1 block of "), "{err}");
    // A backup that would lack them is refused, a check tells of them.
    let (code, _, err) = quiver(&["snapshot", "--data-dir", data, "--out", shown(&folder.path().join("copy"))]);
    assert!(code == Some(1) && err.contains("remote store alone"), "{err}");
    assert!(succeeds(&["check", data]).contains("lies in the remote store alone"));
    assert!(succeeds(&["inspect", data]).contains(", in the remote store only\n"));
    // Nothing is missing from a folder without such blocks.
    server.restart();
    assert_eq!(server.query("count_over_time(far[10m])", AT)[0]["value"][1], "20");
    let out = crate::command::run(&["query", "--offline", shown(&export), "near", "--time", AT]);
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_repair_that_loses_nothing_ends_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let tier = format!("file://{}", folder.path().join("tier").display());
    let flags = ["--tier-url", &tier, "--tier-after", "0s", "--tier-drop-after", "300d"];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let mut server = Start::new().with(&flags).ready();
    write(&mut server.client(), &[Series::new("both", &[]).floats(now - 60_000, 1_000, &[1.0; 50])]);
    server.admin("flush");
    server.admin("tier");
    assert_eq!(server.terminate().code(), Some(0));
    let block = std::fs::read_dir(server.data.join("blocks"))
        .unwrap()
        .map(|f| f.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "block"))
        .unwrap();
    let mut bytes = std::fs::read(&block).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&block, &bytes).unwrap();
    let (code, out, err) = quiver(&["check", shown(&server.data)]);
    assert!(code == Some(1) && err.contains("--repair keeps what is whole"), "{out}{err}");
    let (code, out, err) = quiver(&["check", "--repair", shown(&server.data)]);
    assert!(code == Some(0) && out.ends_with("repaired: 50 of 50 samples kept, none lost\n"), "{out}{err}");
    // The manifest alone: one copy is enough.
    let manifest = server.data.join("MANIFEST");
    let mut bytes = std::fs::read(&manifest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&manifest, &bytes).unwrap();
    assert_eq!(quiver(&["check", shown(&server.data)]).0, Some(1));
    let (code, out, err) = quiver(&["check", "--repair", shown(&server.data)]);
    assert!(code == Some(0) && out.ends_with("repaired: no block was damaged\n"), "{out}{err}");
    assert!(succeeds(&["check", shown(&server.data)]).ends_with("no damage\n"));
    // What the log lost is lost.
    server.restart();
    for k in 0..40 {
        write(&mut server.client(), &[Series::new("log", &[]).floats(now + k * 50, 1, &[1.0; 50])]);
    }
    server.kill();
    let logs = std::fs::read_dir(server.data.join("log")).unwrap().map(|f| f.unwrap().path());
    let used = |path: &Path| std::fs::read(path).unwrap().iter().rposition(|b| *b != 0).unwrap_or(0);
    let log = logs.max_by_key(|path| used(path)).unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[used(&log) / 4] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    let (code, out, err) = quiver(&["check", "--repair", shown(&server.data)]);
    assert!(code == Some(3) && err.contains("damaged place of the log"), "{out}{err}");
}

#[test]
fn what_is_served_is_announced_with_its_own_address() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(crate::server::binary())
        .args(["serve", "--http-listen", "127.0.0.1:0", "--grpc-listen", "off", "--data-dir"])
        .arg(folder.path().join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let announced: Vec<String> = lines.by_ref().take(6).map(Result::unwrap).collect();
    let text = announced.join("\n");
    let _ = child.kill();
    let _ = child.wait();
    assert!(text.starts_with("Quiver ") && text.contains("(commit "), "{text}");
    for (what, path) in [("PromQL ", "/api/v1/query"), ("SQL ", "/api/v1/sql"), ("remote write ", "/api/v1/write")] {
        let line = announced.iter().find(|l| l.trim().starts_with(what)).unwrap_or_else(|| panic!("{what}: {text}"));
        assert!(line.ends_with(path), "{line}");
    }
}
