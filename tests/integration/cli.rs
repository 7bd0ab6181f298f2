//! The command line: help, completions, exit codes, what is printed where.

use std::process::{Command, Output};

use serde_json::Value;

use crate::command::{run, run_with};
use crate::pty::Pty;
use crate::remote_write::{Series, write};
use crate::server::{QUIVER, Server};

const T: i64 = 1_700_000_000_000;

fn out(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned()
}

fn err(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

fn filled() -> Server {
    let server = Server::start();
    let values: Vec<f64> = (0..60).map(|i| f64::from(i * i)).collect();
    write(
        &mut server.client(),
        &[
            Series::new("squares", &[("job", "a")]).floats(T - 590_000, 10_000, &values),
            Series::new("squares", &[("job", "b")]).floats(T - 590_000, 10_000, &[1.0; 60]),
        ],
    );
    server
}

#[test]
fn help_names_every_command_and_flag() {
    let o = run(&["--help"]);
    assert_eq!(o.status.code(), Some(0));
    for word in ["serve", "query", "explain", "sql", "export", "completions"] {
        assert!(out(&o).contains(word), "{word}: {}", out(&o));
    }
    for (command, flags) in [
        (
            "serve",
            &[
                "--data-dir",
                "--http-listen",
                "--grpc-listen",
                "--pg-listen",
                "--config",
                "--enable-feature",
                "--self-metrics",
                "--admin-api",
                "--retention",
                "--durability",
                "127.0.0.1:9095",
            ][..],
        ),
        ("query", &["--url", "--time", "--range", "--step", "--json", "--graph", "--offline"]),
        ("explain", &["--analyze", "--url", "--time", "--range", "--step", "--hint", "--json", "--offline"]),
        ("sql", &["--url", "--format", "--json", "--offline"]),
        ("export", &["--url", "--data-dir", "--out", "--match", "--start", "--end"]),
    ] {
        let o = run(&[command, "--help"]);
        assert_eq!(o.status.code(), Some(0));
        for flag in flags {
            assert!(out(&o).contains(flag), "{command} {flag}: {}", out(&o));
        }
    }
    assert!(out(&run(&["--version"])).starts_with("quiver "));
    assert!(out(&run(&["--help"])).contains("Exit codes: 0 done, 1 failed, 2 wrong command line, 3 "));
    assert!(out(&run(&["completions", "--help"])).contains("source <(quiver completions bash)"));
}

#[test]
fn completions_for_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let o = run(&["completions", shell]);
        assert_eq!(o.status.code(), Some(0));
        assert!(out(&o).contains("data-dir") && out(&o).contains("export"), "{shell}");
    }
}

#[test]
fn wrong_command_lines_are_explained() {
    for (arguments, word) in [
        (&["qery", "up"][..], "query"),
        (&["serve", "--data-dri", "x"], "--data-dir"),
        (&["query"], "EXPRESSION"),
        (&["serve", "--http-listen", "somewhere"], "127.0.0.1:9095"),
        (&["query", "up", "--json", "--graph"], "cannot be used with"),
        (&["query", "up", "--url", "http://x", "--offline", "y"], "cannot be used with"),
        (&["sql", "select 1", "--url", "http://x", "--offline", "y"], "cannot be used with"),
        (&["serve", "--port", "1"], "--http-listen"),
    ] {
        let o = run(arguments);
        assert_eq!(o.status.code(), Some(2), "{arguments:?}");
        assert!(err(&o).contains(word), "{word}: {}", err(&o));
        assert!(out(&o).is_empty());
    }
    // A tip that has nothing to do with the word misleads.
    for (arguments, tip) in [(&["stop"][..], "restore"), (&["shell"], "'help'"), (&["serve", "--host", "x"], "tip:")] {
        let o = run(arguments);
        assert!(o.status.code() == Some(2) && !err(&o).contains(tip), "{arguments:?}: {}", err(&o));
    }
    // What is found later looks the same.
    for (arguments, word) in [
        (&["query", "up", "--time", "yesteday"][..], "--time"),
        (&["query", "up", "--time", "yesteday"], "now-1h or -1h, today, yesterday, 2026-12-01"),
        (&["query", "up", "--range=-5m"], "--range takes a length without a sign: 5m"),
        (&["query", "up", "--range", "-5m"], "--range takes a length without a sign: 5m"),
        (&["query", "up", "--time", "1796144400000"], "looks like milliseconds; Unix seconds are meant: 1796144400"),
        (&["query", "up", "--start", "1", "--end", "2", "--range", "1s"], "two of them are enough"),
        (&["query", "up", "--url", "http://127.0.0.1:9095/api/v1/query"], "--url takes only the address of a server"),
        (&["sql", "Cargo.toml"], "Cargo.toml is a file: use -f Cargo.toml"),
        (&["snapshot", "--data-dir", "/nowhere", "--out", "ftp://x"], "is not supported: use s3://BUCKET/PREFIX"),
        (&["restore", "--data-dir", "/nowhere", "--from", "s3://"], "has no bucket: use s3://BUCKET/PREFIX"),
        (&["query", "up", "--range", "5 minutes"], "1h30m"),
        (&["query", "up", "--step", "5m"], "--range"),
        (&["query", "up", "--start", "5", "--end", "4"], "--start is after --end"),
        (&["query", "up", "--url", "ftp://x"], "ftp://x"),
        (&["query", "up", "--url", "https://x"], "cannot connect by https yet"),
        (&["explain", "up", "--url", "https://x"], "cannot connect by https yet"),
        (&["sql", "select 1", "--url", ""], "http://127.0.0.1:9095"),
        (&["export", "--out", "/nowhere", "--url", "https://x"], "cannot connect by https yet"),
        (&["sql", "/* nothing */"], "no statement"),
        (&["sql", "select 1; select 2", "--format", "parquet"], "one statement"),
    ] {
        let o = run(arguments);
        assert_eq!(o.status.code(), Some(2), "{arguments:?}: {}", err(&o));
        assert!(err(&o).contains(word) && err(&o).starts_with("error: "), "{word}: {}", err(&o));
        assert!(out(&o).is_empty());
    }
}

#[test]
fn without_a_server_it_says_how_to_start_one() {
    for arguments in
        [&["query", "up", "--url", "http://127.0.0.1:1"][..], &["sql", "SELECT 1", "--url", "http://127.0.0.1:1"]]
    {
        let o = run(arguments);
        assert_eq!(o.status.code(), Some(1));
        assert!(err(&o).contains("http://127.0.0.1:1") && err(&o).contains("quiver serve"), "{}", err(&o));
        assert!(out(&o).is_empty(), "errors go to standard error");
    }
}

#[test]
fn queries_as_table_json_and_chart() {
    let server = filled();
    let url = server.url();
    let o = run(&["query", "--url", &url, "--time", "1700000000", "squares"]);
    assert_eq!(o.status.code(), Some(0), "{}", err(&o));
    assert!(out(&o).contains("squares{job=\"a\"}") && out(&o).contains("3481"), "{}", out(&o));

    let o = run(&["query", "--url", &url, "--time", "1700000000", "--json", "sum(squares)"]);
    let v: Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(v["data"]["result"][0]["value"][1], "3482");

    let range = ["query", "--url", &url, "--start", "1699999400", "--end", "1700000000", "--step", "60"];
    let o = run(&[&range[..], &["squares"]].concat());
    assert_eq!(out(&o).lines().count(), 2 + 20, "few samples are shown one by one: {}", out(&o));
    let o = run(&["query", "--url", &url, "--start", "1699999400", "--end", "1700000000", "--step", "10", "squares"]);
    let lines: Vec<String> = out(&o).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 5, "a line for each series: {lines:#?}");
    assert!(err(&o).contains("--all prints every sample"), "{}", err(&o));
    assert!(lines[0].contains("10m") || lines[0].contains("a step every 10s"), "{lines:#?}");
    assert!(
        lines[3].contains("squares{job=\"a\"}") && lines[3].contains("3481") && lines[3].contains('█'),
        "{lines:#?}"
    );
    let o = run(&[
        "query",
        "--url",
        &url,
        "--start",
        "1699999400",
        "--end",
        "1700000000",
        "--step",
        "10",
        "--all",
        "squares",
    ]);
    assert_eq!(out(&o).lines().count(), 2 + 120, "{}", out(&o));
    let o = run(&[&range[..], &["--graph", "squares"]].concat());
    assert_eq!(o.status.code(), Some(0), "{}", err(&o));
    assert!(
        out(&o).starts_with("squares\n") && out(&o).contains("━━ job=\"a\"") && out(&o).contains('┤'),
        "{}",
        out(&o)
    );
    assert!(out(&o).chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "dots: {}", out(&o));
    assert!(!out(&o).contains('\u{1b}'), "no colours without a terminal");

    let o = run(&["query", "--url", &url, "--time", "1700000000", "rate(squares[5m])"]);
    assert!(err(&o).contains("might not be a counter") && !out(&o).contains("might not"), "{}", err(&o));
    let o = run(&["query", "--url", &url, "sum("]);
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("1:5: parse error: unclosed left parenthesis"), "{}", err(&o));
}

#[test]
fn an_empty_answer_says_why() {
    let server = filled();
    write(
        &mut server.client(),
        &[
            Series::new("seconds", &[]).float(T / 1000, 1.0),
            Series::new("ended", &[]).float(T - 10_000, 1.0).stale(T - 5000),
        ],
    );
    let url = server.url();
    let address = url.trim_start_matches("http://").to_owned();
    let asked = |arguments: &[&str]| {
        // A server is found without a scheme, too.
        let online = run(&[&["query", "--url", &address], arguments].concat());
        assert_eq!(online.status.code(), Some(0), "{}", err(&online));
        assert!(out(&online).starts_with("no series "), "{}", out(&online));
        out(&online)
    };
    let at = ["--time", "1700000000"];
    for (arguments, reason) in [
        (&["nothing_there"][..], "there is no metric \"nothing_there\""),
        (&["squarse"], "did you mean \"squares\"?"),
        (&["squares{job=\"c\"}", at[0], at[1]], "no series of squares has job=\"c\"; job is \"a\" or \"b\""),
        (&["squares{nosuch=\"c\"}", at[0], at[1]], "no series of squares has the label nosuch"),
        (&["{job=\"c\"}"], "no series matches {job=\"c\"}"),
        (&["squares"], "squares has no sample from"),
        (&["squares"], "its newest sample is at 2023-11-14 22:13:20 "),
        (&["squares", "--time", "1699999000"], "its first sample is at 2023-11-14 22:03:30 "),
        (&["seconds"], "its newest sample is at 1970-01-20 16:13:20 UTC: were the timestamps sent in seconds?"),
        (
            &["squares", "--start", "2023-11-14T00:00Z", "--end", "2023-11-14T01:00Z", "--graph"],
            "its first sample is at 2023-11-14 22:03:30 ",
        ),
        (
            &["squares", "--start", "2023-11-14T22:01Z", "--end", "2023-11-14T23:00Z", "--step", "50m"],
            "squares has no sample in the 5m before any step (every 50m from 2023-11-14 22:01:00); its newest sample is at \
             2023-11-14 22:13:20 UTC: use a shorter --step",
        ),
        (&["ended", at[0], at[1]], "the series of ended have ended: their newest sample is at 2023-11-14 22:13:10 UTC"),
        (&["rate(squares[5s])", at[0], at[1]], "rate() needs two samples in its window of 5s; squares has one"),
        (&["sum(increase(squares[5s])) / 0", at[0], at[1]], "increase() needs two samples"),
        (&["squares > 1e9", at[0], at[1]], "the selector finds samples, but the expression filters all of them out"),
    ] {
        let said = asked(arguments);
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
    // Where the times of a selector are moved, nothing is claimed of what it finds.
    for query in ["squares @ 5", "max_over_time(squares[5m:1m] offset 1w)"] {
        let said = asked(&[query, at[0], at[1]]);
        assert!(!said.contains("filters all"), "{query}: {said}");
    }
    let empty = Server::start();
    let o = run(&["query", "--url", &empty.url(), "squares"]);
    assert!(out(&o).contains("nothing is stored yet"), "{}", out(&o));
}

/// A dashboard's range on a server that was started minutes ago: the newest samples are what is asked for.
#[test]
fn steps_reach_the_newest_samples() {
    let server = Server::start();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    write(&mut server.client(), &[Series::new("recent", &[]).float(now - 1000, 7.0)]);
    let o = run(&["query", "--url", &server.url(), "--start", "-30d", "recent"]);
    assert!(out(&o).contains("recent") && !out(&o).contains("no series"), "{}", out(&o));
    let o = run(&["query", "--url", &server.url(), "--start", "-30d", "--graph", "recent"]);
    assert!(out(&o).starts_with("1 sample so far, at "), "{}", out(&o));
}

/// `| wc -l` counts what there is.
#[test]
fn in_a_pipe_nothing_is_cut_and_notes_are_apart() {
    let server = Server::start();
    let names: Vec<String> = (0..150).map(|i| format!("host-{i}")).collect();
    let many: Vec<Series> = names.iter().map(|n| Series::new("many", &[("host", n)]).float(T, 1.0)).collect();
    write(&mut server.client(), &many);
    let url = server.url();
    let o = run(&["sql", "--url", &url, "SELECT * FROM series"]);
    assert_eq!(out(&o).lines().count(), 2 + 150, "{}", out(&o));
    assert_eq!(err(&o), "note: 150 rows\n");
    let o = run(&["query", "--url", &url, "--time", "1700000000", "many"]);
    assert_eq!((out(&o).lines().count(), err(&o).as_str()), (2 + 150, ""), "{}", out(&o));
    let range = ["query", "--url", &url, "--start", "1700000000", "--end", "1700000250", "--step", "50"];
    let o = run(&[&range[..], &["many"]].concat());
    assert_eq!(out(&o).lines().count(), 3 + 150, "{}", out(&o));
    assert!(err(&o).contains("--all prints every sample"), "{}", err(&o));
    // A name that needs quotes is printed as it can be asked again.
    write(&mut server.client(), &[Series::new("temp-bad name", &[("room", "x")]).float(T, 1.0)]);
    let name = r#"{"temp-bad name", room="x"}"#;
    let o = run(&["query", "--url", &url, "--time", "1700000000", name]);
    assert!(out(&o).contains(name), "{}", out(&o));
}

#[test]
fn an_empty_answer_of_a_folder_says_why() {
    let mut server = filled();
    assert_eq!(server.terminate().code(), Some(0));
    let folder = server.data.display().to_string();
    for (query, reason) in [
        ("squarse", "did you mean \"squares\"?"),
        ("squares{job=\"c\"}", "job is \"a\" or \"b\""),
        ("squares", "its newest sample is at 2023-11-14 22:13:20 "),
    ] {
        let o = run(&["query", "--offline", &folder, query]);
        assert_eq!(o.status.code(), Some(0), "{}", err(&o));
        assert!(out(&o).starts_with("no series ") && out(&o).contains(reason), "{}", out(&o));
    }
}

#[test]
fn times_are_read_as_people_write_them() {
    let server = Server::start();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    write(&mut server.client(), &[Series::new("recent", &[]).float(now - 3_600_000, 7.0)]);
    let url = server.url();
    for time in
        [&["--time", "now-1h"][..], &["--time", "-59m"], &["--start", "-2h"], &["--start", "now-2h", "--end", "-10m"]]
    {
        let o = run(&[&["query", "--url", &url, "recent"], time].concat());
        assert!(
            o.status.success() && out(&o).contains("recent") && out(&o).contains('7'),
            "{time:?}: {}{}",
            out(&o),
            err(&o)
        );
    }
    // Without a zone a time is local, and what is printed says which zone that is.
    let day = ["query", "--url", &url, "recent", "--time", "2026-12-01T00:00"];
    for (zone, said) in
        [("UTC", "at 2026-12-01 00:00:00 UTC\n"), ("America/New_York", "at 2026-12-01 00:00:00 UTC-05:00\n")]
    {
        let o = run_with(&day, &[("TZ", zone)]);
        assert!(out(&o).contains(said), "{zone}: {}", out(&o));
    }
}

#[test]
fn sql_as_table_and_for_other_programs() {
    let server = filled();
    let url = server.url();
    let statement = "SELECT job, count(*) AS n FROM metrics.squares GROUP BY job ORDER BY job";
    let o = run(&["sql", "--url", &url, statement]);
    assert_eq!(o.status.code(), Some(0), "{}", err(&o));
    assert!(out(&o).contains("job") && out(&o).lines().count() == 4, "{}", out(&o));
    assert_eq!(err(&o), "note: 2 rows\n");
    let o = run(&["sql", "--url", &url, "--format", "csv", statement]);
    assert_eq!(out(&o), "job,n\na,60\nb,60\n");
    let o = run(&["sql", "--url", &url, "--json", statement]);
    let v: Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(v["data"]["rows"][1][1], 60);
    let o = run(&["sql", "--url", &url, "--format", "jsonl", statement]);
    assert_eq!(out(&o).lines().count(), 2);
    let o = run(&["sql", "--url", &url, "--format", "arrow", statement]);
    let rows: usize = arrow::ipc::reader::StreamReader::try_new(o.stdout.as_slice(), None)
        .unwrap()
        .map(|b| b.unwrap().num_rows())
        .sum();
    assert_eq!(rows, 2);
    let o = run(&["sql", "--url", &url, "--format", "parquet", statement]);
    assert_eq!(&o.stdout[..4], b"PAR1");
    let o = run(&["sql", "--url", &url, "SELECT nothing FROM metrics.squares"]);
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("nothing"), "{}", err(&o));
}

#[test]
fn the_server_announces_itself_and_ends_with_zero() {
    let mut server = filled();
    let o = run(&["query", "--url", &server.url(), "--json", "1+1"]);
    assert_eq!(o.status.code(), Some(0));
    assert_eq!(server.terminate().code(), Some(0));
    let begun = std::time::Instant::now();
    server.restart();
    println!("ready again after {:.0?}", begun.elapsed());
    assert_eq!(server.query("sum(squares)", "1700000000")[0]["value"][1], "3482");
    // The environment sets what flags do not.
    let o = Command::new(QUIVER)
        .args(["query", "--json", "--time", "1700000000", "sum(squares)"])
        .env("QUIVER_URL", server.url())
        .output()
        .unwrap();
    assert!(out(&o).contains("3482"), "{}", err(&o));
    // A folder that is named goes before a server that the environment names.
    let folder = tempfile::tempdir().unwrap();
    let o = Command::new(QUIVER)
        .args(["export", "--data-dir"])
        .arg(&server.data)
        .arg("--out")
        .arg(folder.path())
        .env("QUIVER_URL", "http://127.0.0.1:1")
        .output()
        .unwrap();
    assert_eq!(o.status.code(), Some(0), "{}", err(&o));
    assert!(folder.path().read_dir().unwrap().count() > 0);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let server = filled();
    for command in [
        format!("query --url {} --all --json 'squares[10m]' --time 1700000000", server.url()),
        format!("query --url {} --all 'squares[10m]' --time 1700000000", server.url()),
        format!("sql --url {} --all 'SELECT * FROM samples'", server.url()),
        "completions bash".to_owned(),
    ] {
        let script = format!("'{QUIVER}' {command} | true");
        let o = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(!err(&o).contains("panicked"), "{command}: {}", err(&o));
    }
}

/// Runs it with a text on standard input.
fn piped(arguments: &[&str], input: &[u8]) -> Output {
    use std::io::Write;
    use std::process::Stdio;
    let mut command = Command::new(QUIVER);
    command.args(arguments).env_remove("QUIVER_URL").env("NO_COLOR", "1");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may end before it has read all.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let o = child.wait_with_output().unwrap();
    writer.join().unwrap();
    o
}

#[test]
fn sql_from_standard_input_and_files() {
    let server = filled();
    let url = server.url();
    let csv = ["sql", "--url", &url, "--format", "csv"];
    let script = "-- two; statements\nSELECT 'a;b' AS x;\n\nSELECT count(*) AS n FROM metrics.squares;\n";
    let wanted = "x\na;b\n\nn\n120\n";
    assert_eq!(out(&piped(&csv, script.as_bytes())), wanted);
    assert_eq!(out(&piped(&[&csv[..], &["-"]].concat(), script.as_bytes())), wanted);
    assert_eq!(out(&piped(&[&csv[..], &["-f", "-"]].concat(), script.as_bytes())), wanted);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("script.sql").display().to_string();
    std::fs::write(&file, script).unwrap();
    let from_file = [&csv[..], &["-f", &file]].concat();
    assert_eq!(out(&run(&from_file)), wanted);
    assert_eq!(out(&run(&[&csv[..], &["SELECT 1 AS a; SELECT 2 AS b"]].concat())), "a\n1\n\nb\n2\n");

    // An error names the statement by its line, and ends the run.
    std::fs::write(&file, "SELECT 1 AS a;\n\nSELECT nosuch FROM metrics.squares;\nSELECT 3 AS c;").unwrap();
    let o = run(&from_file);
    assert_eq!((o.status.code(), out(&o).as_str()), (Some(1), "a\n1\n\n"), "{}", err(&o));
    assert!(err(&o).contains("script.sql, statement in line 3: ") && err(&o).contains("nosuch"), "{}", err(&o));

    // What is no script.
    std::fs::write(&file, b"SELECT \xff\x00\xfe").unwrap();
    let o = run(&from_file);
    assert!(o.status.code() == Some(1) && err(&o).contains("it is not UTF-8 text (byte 7)"), "{}", err(&o));
    let o = piped(&csv, QUIVER.as_bytes());
    assert!(o.status.code() == Some(1) && !err(&o).is_empty(), "{}", err(&o));
    let o = piped(&csv, b"\x7fELF\x02\xff");
    assert!(o.status.code() == Some(1) && err(&o).contains("standard input: it is not UTF-8"), "{}", err(&o));
    let o = run(&[&csv[..], &["-f", &folder.path().display().to_string()]].concat());
    assert!(o.status.code() == Some(1) && err(&o).contains("cannot read"), "{}", err(&o));
    let o = piped(&csv, b"");
    assert!(o.status.code() == Some(2) && err(&o).contains("there is no statement in standard input"), "{}", err(&o));
    // Ten megabytes of one statement: the server's limit is named, and nothing hangs.
    let long = format!("SELECT '{}'", "x".repeat(10 << 20));
    let o = piped(&csv, long.as_bytes());
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).starts_with("error: ") && err(&o).len() < 2000, "{}", err(&o).len());
}

#[test]
fn tables_fit_the_terminal_and_are_whole_in_a_pipe() {
    let server = filled();
    let url = server.url();
    let o = run(&["sql", "--url", &url, "DESCRIBE samples"]);
    let lines: Vec<String> = out(&o).lines().map(str::to_owned).collect();
    let columns: Vec<Option<usize>> =
        lines.iter().filter(|l| !l.contains('─')).map(|l| l.rfind("  ").map(|at| at + 2)).collect();
    assert!(columns.iter().all(|at| at.is_some() && *at == columns[0]), "the last column does not shift: {lines:#?}");
    assert!(lines.iter().any(|l| l.chars().count() > 200 && !l.contains('…')), "{lines:#?}");
    assert_eq!(lines.iter().filter(|l| l.contains("──")).count(), 1);
    for columns in [80, 120] {
        for arguments in [
            &["sql", "SELECT * FROM samples LIMIT 5"][..],
            &["sql", "DESCRIBE samples"],
            &["sql", "EXPLAIN ANALYZE SELECT job, avg(value) FROM metrics.squares WHERE value > 3 GROUP BY job"],
            &["query", "squares", "--time", "1700000000"],
            &["query", "squares", "--start", "1699999400", "--end", "1700000000"],
            &["query", "squares", "--start", "1699999400", "--end", "1700000000", "--graph"],
        ] {
            let mut pty = Pty::start(&[arguments, &["--url", &url]].concat(), columns, &[("NO_COLOR", "1")]);
            let text = pty.end();
            assert_eq!(pty.code(), Some(0), "{text}");
            assert!(text.lines().count() > 3, "{text}");
            for line in text.lines() {
                assert!(line.chars().count() <= usize::from(columns), "{columns}: {line}");
            }
        }
    }
    // Colours are for terminals.
    let colour = |environment: &[(&str, &str)]| {
        let mut pty = Pty::start(&["query", "sum(", "--url", &url], 80, environment);
        let text = pty.end();
        assert_eq!(pty.code(), Some(1), "{text}");
        text.contains("\u{1b}[1;31merror:")
    };
    assert!(colour(&[("NO_COLOR", "")]) && !colour(&[("NO_COLOR", "1")]));
}

#[test]
fn a_prompt_for_sql() {
    let server = filled();
    let folder = tempfile::tempdir().unwrap();
    let history = folder.path().join("history").display().to_string();
    let environment = [("NO_COLOR", "1"), ("QUIVER_SQL_HISTORY", history.as_str()), ("TERM", "xterm")];
    let mut pty = Pty::start(&["sql", "--url", &server.url()], 100, &environment);
    pty.wait_for("quiver> ");
    pty.enter("select 'a;b' as x,");
    pty.wait_for("   ...> ");
    pty.enter("count(*) as n from metrics.squares;");
    pty.wait_for("a;b  120");
    pty.wait_for("1 row");
    pty.wait_for("quiver> ");
    pty.enter(".tables squar");
    pty.wait_for("metrics.squares");
    pty.wait_for("quiver> ");
    pty.enter(".schema squares");
    pty.wait_for("job");
    pty.wait_for("quiver> ");
    pty.enter("select 1");
    pty.wait_for("   ...> ");
    pty.enter(".tables");
    pty.wait_for("a statement is open");
    pty.wait_for("   ...> ");
    pty.enter("\\r");
    pty.wait_for("quiver> ");
    pty.enter(".nosuch");
    pty.wait_for("unknown command .nosuch");
    pty.wait_for("quiver> ");
    pty.enter("select nosuch from metrics.squares; select 'not ' || 'reached';");
    pty.wait_for("error: ");
    pty.wait_for("quiver> ");
    // Ctrl-C drops what is typed, and cancels what runs: the server stops, too.
    pty.enter("select 'dropped'");
    pty.wait_for("   ...> ");
    pty.send("\u{3}");
    pty.wait_for("quiver> ");
    let asked = server.metric("quiver_queries_total");
    pty.enter("select count(*) from samples a, samples b, samples c, samples d, samples e, samples f;");
    server.wait_until("the statement runs", |s| s.metric("quiver_queries_total") > asked);
    pty.send("\u{3}");
    pty.wait_for("canceled");
    pty.wait_for("quiver> ");
    pty.enter("select 'still ' || 'here' as y;");
    pty.wait_for("still here");
    pty.wait_for("quiver> ");
    pty.enter(".help");
    pty.wait_for(".format FORMAT");
    // Ctrl-D ends.
    pty.send("\u{4}");
    let text = pty.end();
    assert_eq!(pty.code(), Some(0), "{text}");
    assert!(!text.contains("not reached"), "{text}");
    let kept = std::fs::read_to_string(&history).unwrap();
    assert!(kept.contains(".tables squar") && kept.contains("still "), "{kept}");

    // Another day: the arrow brings back the last entry.
    let mut pty = Pty::start(&["sql", "--url", &server.url()], 100, &environment);
    pty.wait_for("quiver> ");
    pty.send("\u{1b}[A");
    pty.send("\u{1b}[A");
    pty.enter("");
    pty.wait_for("still here");
    pty.enter(".quit");
    pty.end();
    assert_eq!(pty.code(), Some(0));
}

#[test]
fn a_server_that_leaves_is_told() {
    // Takes a connection, reads, and closes it without an answer, or in the middle of one.
    for (answer, said) in [
        ("", "closed the connection before its answer was complete"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"status\"", "the server may have stopped"),
        ("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n", "the server answers 500"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "answer"),
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let _ = std::thread::spawn(move || {
            use std::io::{Read, Write};
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 65_536]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        for arguments in [&["query", "up"][..], &["sql", "select 1"], &["explain", "up"]] {
            let o = run(&[arguments, &["--url", &url]].concat());
            assert_eq!(o.status.code(), Some(1), "{arguments:?} {answer:?}");
            assert!(err(&o).contains(said) && out(&o).is_empty(), "{arguments:?} {answer:?}: {}{}", err(&o), out(&o));
        }
    }
}

#[test]
fn refusals_of_the_admin_api_name_the_flag() {
    let server = crate::server::Start::new().without("--admin-api").with(&["--admin-api", "off"]).ready();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("backup").display().to_string();
    let o = run(&["snapshot", "--url", &server.url(), "--out", &out]);
    assert!(o.status.code() == Some(1) && err(&o).contains("--admin-api on"), "{}", err(&o));
}
