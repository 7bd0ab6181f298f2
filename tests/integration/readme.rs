//! README.md as a new user follows it: every command of its `sh` and `console` blocks, on a fresh server.
//!
//! The file is read when the test runs. A command is run as it stands, but for addresses and folders ([`Place::put`]); it
//! must end with 0 and show something. [`EXPECTED`] says what more, [`LEFT_OUT`] which are not run and why.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::server::{QUIVER, Server, Start, copy_folder};

/// Time that an answer may take to have something in it: rates need a second sample.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A step that takes longer is named in the output of the test.
const SLOW: Duration = Duration::from_secs(5);

/// Parts of commands that are not run, and the reason.
const LEFT_OUT: &[(&str, &str)] = &[
    ("cargo ", "builds are tested by building"),
    ("s3://", "needs an S3-compatible service; tested in tier.rs"),
    ("docker", "needs a container runtime"),
    ("systemctl", "needs a service manager"),
    ("/mnt/", "needs a mounted volume; tested in tier.rs"),
    ("git ", "needs a network"),
    ("apt", "changes the system"),
    ("kill ", "ends a process of the reader's"),
    ("sudo", "changes the system"),
];

/// What a command must show, beside ending with 0: the first row whose part is in it. An empty text: it shows nothing.
const EXPECTED: &[(&str, &str)] = &[
    ("delete_series", ""),
    ("clean_tombstones", ""),
    ("/-/reload", ""),
    ("--graph", "┤"),
    ("completions", "quiver"),
    ("quiver explain", "operator"),
    ("quiver export", "sample"),
    ("quiver snapshot", "copied now"),
    ("quiver restore", "restored to"),
    ("quiver inspect", "manifest"),
    ("quiver check", "read"),
    ("--version", "quiver "),
    ("format=parquet", ""),
    ("--format csv", ","),
    ("--json", "{"),
    ("curl", "success"),
    ("quiver query", "─"),
    ("quiver sql", "row"),
];

/// What no command shows that was of use.
const EMPTY_ANSWERS: [&str; 6] =
    ["no series", "nothing to draw", "\n0 rows", "\n0 samples", "\"result\":[]", "\"rows\":[]"];

/// Commands that are not repeated until they show something.
const ONCE: [&str; 5] = ["delete_series", "quiver export", "quiver snapshot", "quiver restore", "--repair"];

#[derive(Debug)]
struct Step {
    line: usize,
    heading: String,
    command: String,
}

/// The commands of a Markdown text.
fn steps(text: &str) -> Vec<Step> {
    let mut out: Vec<Step> = Vec::new();
    let (mut heading, mut block) = (String::new(), None::<String>);
    let mut open: Option<Step> = None;
    for (i, line) in text.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = if block.is_some() { None } else { Some(language.trim().to_owned()) };
            out.extend(open.take());
            continue;
        }
        let shown = match block.as_deref() {
            None => {
                if line.starts_with('#') {
                    heading = line.trim_start_matches('#').trim().to_owned();
                }
                continue;
            }
            Some("sh" | "bash" | "shell") => line,
            Some("console") => match (line.strip_prefix("$ "), &open) {
                (Some(command), _) => command,
                (None, Some(_)) => line,
                _ => continue,
            },
            Some(_) => continue,
        };
        let shown = without_comment(shown).trim_end();
        let (shown, goes_on) = shown.strip_suffix('\\').map_or((shown, false), |s| (s, true));
        match &mut open {
            Some(step) => step.command.push_str(&format!(" {}", shown.trim())),
            None if shown.trim().is_empty() => continue,
            None => {
                open = Some(Step { line: i + 1, heading: heading.clone(), command: shown.trim().to_owned() });
            }
        }
        if !goes_on && open.as_ref().is_some_and(|s| quotes_are_closed(&s.command)) {
            out.extend(open.take());
        }
    }
    out
}

/// Single and double quotes, as a shell reads them.
fn scan_quotes(line: &str, mut plain: impl FnMut(usize, char)) -> bool {
    let mut quote = None;
    for (i, c) in line.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (None, c) => plain(i, c),
            _ => {}
        }
    }
    quote.is_none()
}

fn quotes_are_closed(command: &str) -> bool {
    scan_quotes(command, |_, _| {})
}

fn without_comment(line: &str) -> &str {
    let mut end = line.len();
    scan_quotes(line, |i, c| {
        if c == '#' && (i == 0 || line[..i].ends_with(' ')) {
            end = end.min(i);
        }
    });
    &line[..end]
}

/// Where commands are run.
struct Place {
    folder: PathBuf,
    address: String,
    has_curl: bool,
}

impl Place {
    fn new(folder: &Path, server: &Server) -> Self {
        for name in ["bin", "target/release", "target/debug"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
            symlink(QUIVER, folder.join(name).join("quiver")).unwrap();
        }
        // The reader stands in the folder of the sources.
        for name in ["sql", "examples"] {
            symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join(name), folder.join(name)).unwrap();
        }
        copy_folder(&server.data, &folder.join("quiver-data"));
        copy_folder(&server.data, &folder.join("copied-data-folder"));
        let has_curl = Command::new("curl").arg("--version").output().is_ok_and(|o| o.status.success());
        Self { folder: folder.to_owned(), address: server.address().to_string(), has_curl }
    }

    /// The command with this test's addresses and folders.
    fn put(&self, command: &str) -> String {
        let mut out = command.replace("127.0.0.1:9095", &self.address).replace("localhost:9095", &self.address);
        for folder in ["/backup/", "/tmp/", "/var/lib/"] {
            out = out.replace(folder, &format!("./{}/", folder.trim_matches('/')));
        }
        out
    }

    fn run(&self, command: &str) -> Output {
        let path = format!("{}:{}", self.folder.join("bin").display(), std::env::var("PATH").unwrap_or_default());
        Command::new("sh")
            .args(["-c", command])
            .current_dir(&self.folder)
            .env("PATH", path)
            .env("QUIVER_URL", format!("http://{}", self.address))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .expect("a shell")
    }
}

/// What is wrong with what a command showed.
fn judge(command: &str, o: &Output, place: &Place) -> Result<(), String> {
    let (out, err) = (String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
    if !o.status.success() {
        return Err(format!("{}: {out}{err}", o.status));
    }
    if let Some(file) = command.split(" -o ").nth(1).and_then(|rest| rest.split_whitespace().next()) {
        let bytes = std::fs::read(place.folder.join(file)).map_err(|e| format!("{file}: {e}"))?;
        let is_good = if file.ends_with(".parquet") { bytes.starts_with(b"PAR1") } else { !bytes.is_empty() };
        return if is_good { Ok(()) } else { Err(format!("{file} has: {}", String::from_utf8_lossy(&bytes))) };
    }
    let said = format!("\n{out}\n{}", err.replace("note: ", ""));
    if let Some(empty) = EMPTY_ANSWERS.iter().find(|e| said.contains(**e)) {
        return Err(format!("it shows {empty:?}: {out}"));
    }
    let wanted = EXPECTED.iter().find(|(part, _)| command.contains(part)).map(|(_, wanted)| *wanted);
    match wanted {
        Some("") => Ok(()),
        // The head of the columns: rows of a plan, or of what was run.
        Some("operator") if out.contains("series") || out.contains("rows") => Ok(()),
        // In a pipe, notes go to standard error.
        Some(wanted) if out.contains(wanted) || err.contains(wanted) => Ok(()),
        Some(wanted) => Err(format!("it does not show {wanted:?}: {out}{err}")),
        None if out.trim().is_empty() => Err("it shows nothing".to_owned()),
        None => Ok(()),
    }
}

/// Runs a command until it shows something, or the time is up.
fn try_step(step: &Step, place: &Place) -> Result<(), String> {
    let command = place.put(&step.command);
    let begun = Instant::now();
    loop {
        let judged = judge(&command, &place.run(&command), place);
        let may_repeat = !ONCE.iter().any(|o| command.contains(o)) && begun.elapsed() < WAIT_MAX;
        match judged {
            // An error does not mend itself; an answer without anything in it may fill.
            Err(why) if may_repeat && why.starts_with("it ") => std::thread::sleep(Duration::from_millis(200)),
            judged => return judged,
        }
    }
}

#[test]
fn every_command_works_on_a_fresh_server() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let steps = steps(&std::fs::read_to_string(readme).unwrap());
    assert!(steps.len() > 10, "few commands were found: {steps:#?}");
    let server = Start::new().without("--self-metrics").with(&["--self-metrics", "on"]).ready();
    server.wait_until("it has recorded its own metrics", |s| {
        !s.query("quiver_uptime_seconds", &format!("{}", now_seconds())).as_array().is_none_or(Vec::is_empty)
    });
    server.admin("flush");
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &server);
    let mut failures = Vec::new();
    let mut run = BTreeMap::new();
    for step in &steps {
        let command = &step.command;
        let is_serve = command.split_whitespace().any(|w| w == "serve");
        let reason = LEFT_OUT.iter().find(|(part, _)| command.contains(part)).map(|(_, why)| *why);
        let reason = reason.or(is_serve.then_some("a server runs already"));
        let reason = reason.or((command.contains("curl") && !place.has_curl).then_some("there is no curl here"));
        if let Some(why) = reason {
            println!("README.md:{}: not run ({why}): {command}", step.line);
            continue;
        }
        let begun = Instant::now();
        let tried = try_step(step, &place);
        if begun.elapsed() > SLOW {
            println!("README.md:{}: after {:.0?}: {command}", step.line, begun.elapsed());
        }
        if let Err(why) = tried {
            failures.push(format!("README.md:{} ({}): {command}\n    {why}", step.line, step.heading));
        }
        let program = command.split_whitespace().next().unwrap_or("").rsplit('/').next().unwrap_or("").to_owned();
        *run.entry(program).or_insert(0) += 1;
    }
    println!("commands run: {run:?}");
    assert!(failures.is_empty(), "{} commands of README.md fail:\n{}", failures.len(), failures.join("\n"));
    assert!(run.get("quiver").is_some_and(|n| *n >= 5), "few commands were run: {run:?}");
}

fn now_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1
}

#[test]
fn commands_are_found_in_markdown() {
    let text = "# One\n```sh\n# nothing\ncargo run -- serve   # starts\nquiver sql \\\n  'SELECT 1 -- #1'\n```\n## Two\n\
                ```json\n{}\n```\n```console\n$ quiver query 'a#b\n  + c'\noutput\n```\n";
    let found: Vec<(usize, String, String)> = steps(text).into_iter().map(|s| (s.line, s.heading, s.command)).collect();
    let wanted = [
        (4, "One", "cargo run -- serve"),
        (5, "One", "quiver sql 'SELECT 1 -- #1'"),
        (13, "Two", "quiver query 'a#b + c'"),
    ];
    assert_eq!(found, wanted.map(|(line, heading, command)| (line, heading.to_owned(), command.to_owned())));
}
