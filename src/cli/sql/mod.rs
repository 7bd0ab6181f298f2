//! `quiver sql`: a statement, a script, or a prompt.

mod prompt;
mod script;
mod show;

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use http_body_util::BodyExt;

use super::ask::Asker;
use super::data::AskArgs;
use super::exit::Failure;
use super::terminal;
use script::Statement;
use show::Layout;

/// Bytes of a script at most.
const SCRIPT_BYTES_MAX: u64 = 64 << 20;

/// How the answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// The answer of the HTTP API
    Json,
    /// One object per row and line
    Jsonl,
    /// With a header line
    Csv,
    /// Arrow IPC stream
    Arrow,
    /// Parquet file: the columns of the answer. For all samples with their labels use `quiver export`
    Parquet,
}

impl Output {
    /// The format of the HTTP API that it is made of.
    fn format(self) -> &'static str {
        match self {
            Output::Table | Output::Arrow => "arrow",
            Output::Json => "json",
            Output::Jsonl => "jsonl",
            Output::Csv => "csv",
            Output::Parquet => "parquet",
        }
    }

    fn is_binary(self) -> bool {
        matches!(self, Output::Arrow | Output::Parquet)
    }
}

/// Flags of `quiver sql`.
#[derive(Args, Debug)]
pub struct SqlArgs {
    /// Statements, separated by semicolons, such as: SELECT * FROM metrics."up" LIMIT 5. `-` reads them from standard
    /// input; without any, a terminal gets a prompt
    statement: Option<String>,
    /// Read statements from a file; `-` is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "statement")]
    file: Option<PathBuf>,
    #[command(flatten)]
    ask: AskArgs,
    /// How to print the answer
    #[arg(long, value_enum, default_value = "table")]
    format: Output,
    /// Short for --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Print all rows of a table
    #[arg(long)]
    all: bool,
}

/// A body, wherever it comes from.
pub type AnyBody = http_body_util::combinators::UnsyncBoxBody<hyper::body::Bytes, String>;

/// How answers are printed.
#[derive(Clone, Copy, Debug)]
struct Style {
    output: Output,
    all: bool,
    /// The flag or command that prints all rows.
    all_by: &'static str,
}

/// Where statements come from.
enum Input {
    Text(String),
    /// A file, by its name for messages.
    Script(String, String),
    Prompt,
}

/// Runs the command.
pub async fn run(args: SqlArgs) -> Result<(), Failure> {
    let style = Style { output: if args.json { Output::Json } else { args.format }, all: args.all, all_by: "--all" };
    if style.output.is_binary() && std::io::stdout().is_terminal() {
        return Err(Failure::Usage(format!(
            "--format {} is binary and is not printed to a terminal; write it to a file: … > FILE",
            style.output.format()
        )));
    }
    let input = input(&args)?;
    let asker = Asker::new(&args.ask, &[])?;
    let (text, file) = match input {
        Input::Prompt => return prompt::run(&asker, Style { all_by: ".all on", ..style }).await,
        Input::Text(text) => (text, None),
        Input::Script(text, name) => (text, Some(name)),
    };
    let statements = script::split(&text).statements;
    if statements.is_empty() {
        return Err(Failure::Usage(format!("there is no statement in {}", file.as_deref().unwrap_or("the argument"))));
    }
    if statements.len() > 1 && style.output.is_binary() {
        let why = format!("--format {} takes one statement, not {}", style.output.format(), statements.len());
        return Err(Failure::Usage(why));
    }
    for (i, statement) in statements.iter().enumerate() {
        if i > 0 && matches!(style.output, Output::Table | Output::Csv) {
            super::print("\n");
        }
        answer(&asker, statement, style)
            .await
            .map_err(|why| placed(&why, statement, statements.len(), file.as_deref()))?;
    }
    Ok(())
}

/// An error with its place in the script.
fn placed(why: &str, statement: &Statement, of: usize, file: Option<&str>) -> String {
    match file {
        Some(file) if of > 1 => format!("{file}, statement in line {}: {why}", statement.line),
        None if of > 1 => format!("statement in line {}: {why}", statement.line),
        _ => why.to_owned(),
    }
}

fn input(args: &SqlArgs) -> Result<Input, Failure> {
    let is_dash = args.statement.as_deref() == Some("-") || args.file.as_ref().is_some_and(|f| f.as_os_str() == "-");
    match (&args.statement, &args.file) {
        (Some(text), _) if !is_dash && std::path::Path::new(text).is_file() => {
            Err(Failure::Usage(format!("{text} is a file: use -f {text}")))
        }
        (Some(text), _) if !is_dash => Ok(Input::Text(text.clone())),
        (None, Some(file)) if !is_dash => {
            let name = file.display().to_string();
            let text = quiver_persistence::read_text_up_to(file, SCRIPT_BYTES_MAX);
            Ok(Input::Script(text.map_err(|e| format!("cannot read {name}: {e}"))?, name))
        }
        (None, None) if std::io::stdin().is_terminal() => {
            if std::io::stdout().is_terminal() {
                return Ok(Input::Prompt);
            }
            Err(Failure::Usage("give a statement, -f FILE, or statements on standard input".into()))
        }
        _ => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().take(SCRIPT_BYTES_MAX + 1).read_to_end(&mut bytes);
            read.map_err(|e| format!("cannot read standard input: {e}"))?;
            let text = quiver_persistence::text_up_to(bytes, SCRIPT_BYTES_MAX);
            Ok(Input::Script(text.map_err(|e| format!("cannot read standard input: {e}"))?, "standard input".into()))
        }
    }
}

/// Asks one statement and prints its answer.
async fn answer(asker: &Asker, statement: &Statement, style: Style) -> Result<(), String> {
    let mut body = asker.sql(&statement.text, style.output.format()).await?;
    if style.output == Output::Table {
        let colour = terminal::has_colour(&std::io::stdout());
        let width = terminal::width();
        let note = show::table(body, Layout { width, all: style.all, colour, all_by: style.all_by }, &mut super::print)
            .await?;
        super::print_note(&note);
        return Ok(());
    }
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            print_bytes(&data)?;
        }
    }
    if style.output == Output::Json { print_bytes(b"\n") } else { Ok(()) }
}

fn print_bytes(bytes: &[u8]) -> Result<(), String> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|e| format!("cannot print: {e}")),
    }
}
