//! The command line: help, completions, exit codes, what is printed where.

use std::process::{Command, Output};

use serde_json::Value;

use crate::command::run;
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
    ] {
        let o = run(arguments);
        assert_eq!(o.status.code(), Some(2), "{arguments:?}");
        assert!(err(&o).contains(word), "{word}: {}", err(&o));
        assert!(out(&o).is_empty());
    }
    for (arguments, word) in [
        (&["query", "up", "--time", "yesterday"][..], "--time"),
        (&["query", "up", "--range=-5m"], "--range"),
        (&["query", "up", "--start", "5", "--end", "4"], "--start is after --end"),
        (&["query", "up", "--url", "ftp://x"], "ftp://x"),
    ] {
        let o = run(arguments);
        assert!(o.status.code().is_some_and(|c| c == 1 || c == 2), "{arguments:?}: {}", err(&o));
        assert!(err(&o).contains(word), "{word}: {}", err(&o));
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
    assert!(out(&o).contains("2023-11-14T22:13:20Z"), "{}", out(&o));
    let o = run(&[&range[..], &["--graph", "squares"]].concat());
    assert_eq!(o.status.code(), Some(0), "{}", err(&o));
    assert!(out(&o).contains("squares{job=\"a\"}") && out(&o).contains('┤'), "{}", out(&o));
    assert!(out(&o).chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "dots: {}", out(&o));
    assert!(!out(&o).contains('\u{1b}'), "no colours without a terminal");

    let o = run(&["query", "--url", &url, "--time", "1700000000", "rate(squares[5m])"]);
    assert!(err(&o).contains("might not be a counter") && !out(&o).contains("might not"), "{}", err(&o));
    let o = run(&["query", "--url", &url, "sum("]);
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("1:5: parse error: unclosed left parenthesis"), "{}", err(&o));
    let o = run(&["query", "--url", &url, "nothing_there"]);
    assert_eq!((o.status.code(), out(&o).trim()), (Some(0), "no series"));
}

#[test]
fn sql_as_table_and_for_other_programs() {
    let server = filled();
    let url = server.url();
    let statement = "SELECT job, count(*) AS n FROM metrics.squares GROUP BY job ORDER BY job";
    let o = run(&["sql", "--url", &url, statement]);
    assert_eq!(o.status.code(), Some(0), "{}", err(&o));
    assert!(out(&o).contains("job") && out(&o).ends_with("2 rows\n"), "{}", out(&o));
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
