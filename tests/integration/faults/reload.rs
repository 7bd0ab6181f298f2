//! Test 17: the configuration is read again under load, wrong in every way and right in between.

use std::path::Path;

use quiver_persistence::testing::{Row, sized};

use crate::load::{Load, Random};
use crate::server::{Server, Start};

fn limit(server: &Server) -> f64 {
    server.metric("quiver_limit{name=\"labels_max\"}")
}

/// Makes the file something that cannot be used.
fn spoil(path: &Path, how: u64) -> &'static str {
    let _ = std::fs::remove_dir(path);
    let write = |text: &str| std::fs::write(path, text).expect("a configuration");
    match how {
        0 => {
            write("");
            "empty"
        }
        1 => {
            write("{\"limit\": {\"labels_max\": 7}, \"retention\": \"9");
            "half-written"
        }
        2 => {
            write("{\"no-such-key\": 1}");
            "an unknown key"
        }
        3 => {
            write("{\"limit\": {\"labels_max\": 7}, \"retention\": \"soon\"}");
            "a wrong value beside a right one"
        }
        4 => {
            write("{\"limit\": {\"labels_max\": 7}, \"log\": \"quiver=[\"}");
            "a wrong filter"
        }
        5 => {
            let _ = std::fs::remove_file(path);
            std::fs::create_dir(path).expect("a folder in its place");
            "unreadable"
        }
        _ => {
            let _ = std::fs::remove_file(path);
            "missing"
        }
    }
}

#[test]
fn a_wrong_configuration_changes_nothing_and_a_right_one_all_of_it() {
    let row = Row::begin("17", "reload of bad, empty, torn, unreadable files");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("quiver.json");
    let good = |labels_max: u64, hours: u64, log: &str| {
        let _ = std::fs::remove_dir(&config);
        let text =
            format!("{{\"limit\": {{\"labels_max\": {labels_max}}}, \"retention\": \"{hours}h\", \"log\": \"{log}\"}}");
        std::fs::write(&config, text).expect("a configuration");
    };
    good(50, 1_000, "info");
    let mut random = Random::seeded("reload");
    let mut load = Load::new();
    let name = config.display().to_string();
    let mut server = Start::new().with(&["--config", &name]).environment("QUIVER_LOG", "").ready();
    assert_eq!(limit(&server), 50.0);
    let count = sized(100, 1_000);
    let mut failures = 0.0;
    load.run(&mut server, &mut random, |server| {
        let mut in_force = 50;
        for n in 0..count {
            if n % 5 == 4 {
                in_force = 40 + n % 20;
                good(in_force, 1_000 + n, if n % 2 == 0 { "info" } else { "debug" });
                let read = |s: &Server| s.metric("quiver_config_reloads_total");
                let before = read(server);
                server.signal("HUP");
                server.wait_until("it is read", |s| read(s) > before);
                assert_eq!(server.metric("quiver_config_last_reload_successful"), 1.0);
            } else {
                let how = spoil(&config, n % 7);
                if n % 2 == 0 {
                    server.signal("HUP");
                } else {
                    let r = server.post("/-/reload", &[]);
                    assert!(r.status == 500 && r.text().contains("failed to reload config"), "{how}: {}", r.text());
                }
                failures += 1.0;
                let failed = |s: &Server| s.metric("quiver_config_reload_failures_total") >= failures;
                server.wait_until("the failure is counted", failed);
                assert_eq!(server.metric("quiver_config_last_reload_successful"), 0.0, "{how}");
                let info = server.get("/api/v1/status/runtimeinfo", &[]).json()["data"].take();
                assert_eq!(info["reloadConfigSuccess"], false, "{how}");
            }
            assert_eq!(limit(server), in_force as f64, "what is in force is the last good one");
        }
        assert_eq!(server.metric("quiver_config_reload_failures_total"), failures);
    });
    let log = server.log();
    assert!(log.contains("the old one stays in force") && log.contains("no-such-key"), "said in the log");
    // What was read last is in force everywhere.
    good(3, 77, "warn");
    assert_eq!(server.post("/-/reload", &[]).status, 200);
    let info = server.get("/api/v1/status/runtimeinfo", &[]).json()["data"].take();
    assert_eq!((info["storageRetention"].as_str(), info["reloadConfigSuccess"].as_bool()), (Some("3d5h"), Some(true)));
    let flags = server.get("/api/v1/status/flags", &[]).json()["data"].take();
    assert_eq!((flags["log"].as_str(), flags["limit.labels_max"].as_str()), (Some("warn"), Some("3")));
    let wide =
        crate::remote_write::Series::new("wide", &[("a", "1"), ("b", "2"), ("c", "3")]).float(1_700_000_000_000, 1.0);
    let r = crate::remote_write::post(
        &mut server.client(),
        crate::remote_write::V2,
        &crate::remote_write::body_v2(&[wide]),
    );
    assert_eq!(r.expect("an answer").status, 400, "the new limit counts");
    good(64, 77, "warn");
    assert_eq!(server.post("/-/reload", &[]).status, 200);
    // Nothing was dropped on the way but what a limit below the writers' labels would refuse, and there was none.
    load.settle(&server);
    let n = load.compare(&server);
    assert_eq!(load.refused(), 0, "no request was refused");
    row.passed(format_args!("{count} reloads"), n as u64);
}

#[test]
fn the_level_of_the_log_and_what_needs_a_new_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("quiver.json");
    std::fs::write(&config, "{\"log\": \"error\"}").expect("a configuration");
    let name = config.display().to_string();
    let server = Start::new().with(&["--config", &name]).environment("QUIVER_LOG", "").ready();
    crate::remote_write::write(&mut server.client(), &[crate::remote_write::Series::new("a", &[]).float(1, 1.0)]);
    server.admin("flush");
    assert!(!server.log().contains("the head is flushed"), "{}", server.log());
    let text = "{\"log\": \"info\", \"head-bytes\": \"1MiB\", \"limit\": {\"write_queue_max\": 3, \
                \"query_concurrency_max\": 3}}";
    std::fs::write(&config, text).expect("a configuration");
    assert_eq!(server.post("/-/reload", &[]).status, 200);
    let log = server.log();
    let told = "configuration reloaded (log error → info, limit.query_concurrency_max 20 → 3); restart to apply: \
                head-bytes, limit.write_queue_max";
    assert!(log.contains(told), "{log}");
    assert_eq!(server.metric("quiver_limit{name=\"write_queue_max\"}"), 1024.0, "in force is what is in force");
    let running = server.metric("quiver_limit{name=\"query_concurrency_max\"}");
    assert_eq!(running, 3.0, "a limit of queries takes effect at once");
    crate::remote_write::write(&mut server.client(), &[crate::remote_write::Series::new("a", &[]).float(2, 1.0)]);
    server.admin("flush");
    assert!(server.log().contains("the head is flushed"));
    // Without the admin API nobody reloads over HTTP.
    let off = Start::new().without("--admin-api").ready();
    assert_eq!(off.post("/-/reload", &[]).status, 500);
    off.signal("HUP");
    off.wait_until("a signal reloads all the same", |s| s.metric("quiver_config_reloads_total") == 1.0);
}
