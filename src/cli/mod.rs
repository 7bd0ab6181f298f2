//! The command line.
//!
//! [`exit`] lists the exit codes.

mod ask;
mod backup;
mod chart;
mod check;
mod client;
mod config;
mod data;
mod destination;
mod exit;
mod explain;
mod export;
mod inspect;
mod json;
mod offline;
mod place;
mod progress;
mod query;
mod series;
mod sql;
mod table;
mod terminal;
mod times;
mod when;
mod why;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{Config, ServeArgs};
use crate::reload::{Origin, SetLog};
use exit::Failure;
use quiver_model::number::grouped;
use terminal::plural as counted;

/// A time series database for metrics: Prometheus remote write and OpenTelemetry in, PromQL and SQL out, export as Parquet
#[derive(Parser, Debug)]
#[command(name = "quiver", version = crate::VERSION, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong command line, 3 done, but data is missing (an export that matched no sample, a repair \
that lost some).";

const COMPLETIONS_HELP: &str = "\
To load them:

  bash  put into ~/.bashrc:                     source <(quiver completions bash)
  zsh   put into ~/.zshrc, after compinit:      source <(quiver completions zsh)
  fish  put into ~/.config/fish/config.fish:    quiver completions fish | source

For elvish and powershell, add the printed script to the shell's configuration.";

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the server
    Serve(Box<ServeArgs>),
    /// Run a PromQL query and print a table, JSON or a chart
    Query(query::QueryArgs),
    /// Show how a PromQL query is executed: operators, series, data read and time spent
    Explain(explain::ExplainArgs),
    /// Run SQL statements, or open a prompt; print tables, JSON, CSV, Arrow or Parquet
    Sql(sql::SqlArgs),
    /// Write stored series as Parquet, a folder per day
    Export(export::ExportArgs),
    /// Back up a server (needs --admin-api on) or a data folder; blocks that the backup has are not copied again
    Snapshot(backup::SnapshotArgs),
    /// Copy a backup to an empty data folder
    Restore(backup::RestoreArgs),
    /// Show what is in a data folder, a block or a log segment
    Inspect(inspect::InspectArgs),
    /// Verify every byte of a data folder, a block or a log segment; exits with 1 if something is damaged
    Check(check::CheckArgs),
    /// Check a configuration file
    Config(config::ConfigArgs),
    /// Print completions for a shell; --help says how to load them
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Bytes of a worker's stack: deep queries recurse.
const STACK_BYTES: usize = 16 << 20;

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.thread_stack_size(STACK_BYTES).enable_all();
    // They carry requests: what takes long has threads of its own.
    builder.on_thread_start(quiver_persistence::turns::run_soon);
    quiver_persistence::build_with_workers(&mut builder)
}

/// Logs what a filter lets through; gives what changes the filter.
fn log_to_stderr(filter: &str) -> SetLog {
    use std::io::IsTerminal;
    use tracing_subscriber::EnvFilter;
    let parse = |text: &str| EnvFilter::try_new(text).map_err(|e| e.to_string());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parse(filter).unwrap_or_else(|_| EnvFilter::new("info")))
        // A log that cannot be written (its disk is full) must not fail requests.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    // Two types of builder, and of handle.
    if std::io::stderr().is_terminal() {
        let builder = builder.with_target(false).with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = builder.try_init();
        Box::new(move |text| handle.reload(parse(text)?).map_err(|e| e.to_string()))
    } else {
        let builder = builder.json().with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = builder.try_init();
        Box::new(move |text| handle.reload(parse(text)?).map_err(|e| e.to_string()))
    }
}

/// A time, ms, as people read it.
fn shown_time(ms: i64) -> String {
    quiver_gateway::http::status::rfc3339(ms)
}

/// Bytes as people read them.
fn shown_bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (n.checked_ilog2().unwrap_or(0) / 10).min(4);
    let value = n as f64 / f64::from(1u32 << (10 * unit.min(3))) / if unit == 4 { 1024.0 } else { 1.0 };
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit as usize]) }
}

/// Prints to standard output. A reader that has seen enough (`| head`) ends the program without a word.
fn print(text: &str) {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => {
            exit::error(&format!("cannot print: {e}"));
            std::process::exit(1);
        }
    }
}

/// Prints what is to be said of an answer: below it on a terminal, else to standard error, so that a pipe gets the answer alone.
fn print_note(note: &str) {
    if note.is_empty() {
    } else if terminal::width().is_some() {
        print(&format!("{note}\n"));
    } else {
        exit::note(note);
    }
}

/// How this program was called, to be called so again.
pub fn program() -> String {
    let called = std::env::args().next().filter(|name| !name.is_empty()).unwrap_or_else(|| "quiver".to_owned());
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./+,@%".contains(c);
    if called.chars().all(is_plain) { called } else { format!("'{}'", called.replace('\'', "'\\''")) }
}

/// Keeps the tip of an error only if what was written is near to it.
fn keep_near_tip(e: &mut clap::Error) {
    use clap::error::{ContextKind, ContextValue};
    const KINDS: [(ContextKind, ContextKind); 2] = [
        (ContextKind::InvalidArg, ContextKind::SuggestedArg),
        (ContextKind::InvalidSubcommand, ContextKind::SuggestedSubcommand),
    ];
    // An empty list would be printed as an empty line.
    if matches!(e.get(ContextKind::Suggested), Some(ContextValue::StyledStrs(tips)) if tips.is_empty()) {
        e.remove(ContextKind::Suggested);
    }
    for (written, tip) in KINDS {
        let Some(ContextValue::String(word)) = e.get(written) else { continue };
        let word = word.trim_start_matches('-').to_owned();
        // Short words are near to many: the first letter is hardly ever wrong.
        let near = |tips: &[&str]| {
            let names =
                tips.iter().map(|t| t.trim_start_matches('-')).filter(|t| t.chars().next() == word.chars().next());
            quiver_model::nearest(&word, names).is_some()
        };
        let is_near = match e.get(tip) {
            Some(ContextValue::String(tip)) => near(&[tip.as_str()]),
            Some(ContextValue::Strings(tips)) => near(&tips.iter().map(String::as_str).collect::<Vec<_>>()),
            _ => continue,
        };
        if word == "port" && std::env::args().nth(1).is_some_and(|command| command == "serve") {
            e.insert(tip, ContextValue::String("--http-listen".to_owned()));
            // It shows the flag of the tip before.
            e.remove(ContextKind::Usage);
        } else if !is_near {
            e.remove(tip);
            if tip == ContextKind::SuggestedArg {
                e.remove(ContextKind::Usage);
            }
        }
    }
}

/// Parses the command line and does what it says.
pub fn run() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|mut e| {
        keep_near_tip(&mut e);
        e.exit()
    });
    match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "quiver", &mut script);
            print(&String::from_utf8_lossy(&script));
            ExitCode::SUCCESS
        }
        Command::Serve(args) if args.list_limits => config::list_limits(&args),
        Command::Serve(args) => run_async(async move {
            let config = Config::load(&args).map_err(|e| Failure::Usage(e.to_string()))?;
            let set_log = log_to_stderr(&config.log);
            let served = crate::server::serve(config, Origin { args: *args, set_log }).await;
            served.map_err(|e| Failure::Failed(e.to_string()))
        }),
        Command::Query(args) => run_async(query::run(args)),
        Command::Explain(args) => run_async(explain::run(args)),
        Command::Sql(args) => run_async(sql::run(args)),
        Command::Export(args) => run_async(export::run(args)),
        Command::Snapshot(args) => run_async(backup::snapshot(args)),
        Command::Restore(args) => run_async(backup::restore(args)),
        Command::Inspect(args) => run_async(inspect::run(args)),
        Command::Check(args) => run_async(check::run(args)),
        Command::Config(args) => config::run(&args),
    }
}

/// Time that work on threads has to end when the command is done.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// A time in ms as the API takes it: seconds, with a fraction.
fn seconds(ms: i64) -> String {
    let (sign, ms) = (if ms < 0 { "-" } else { "" }, ms.unsigned_abs());
    format!("{sign}{}.{:03}", ms / 1000, ms % 1000)
}

fn run_async<E: Into<Failure>>(task: impl Future<Output = Result<(), E>>) -> ExitCode {
    let done = match runtime() {
        Ok(r) => {
            let done = r.block_on(task);
            // What hangs in a read of a file that does not answer is left.
            r.shutdown_timeout(EXIT_TIMEOUT);
            done.map_err(Into::into)
        }
        Err(e) => Err(Failure::Failed(format!("cannot start threads: {e}"))),
    };
    done.map_or_else(|e| e.report(), |()| ExitCode::SUCCESS)
}
