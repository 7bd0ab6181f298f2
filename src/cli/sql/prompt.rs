//! The prompt of `quiver sql`: statements until `;`, commands that begin with a dot.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use futures::FutureExt;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::script::{self, Statement};
use super::{Output, Style, answer};
use crate::cli::ask::Asker;
use crate::cli::exit::{self, Failure};
use crate::cli::{print, terminal};

/// The environment variable that names the file of the history; empty: no file.
const HISTORY_VARIABLE: &str = "QUIVER_SQL_HISTORY";
/// That file in the home folder.
const HISTORY_FILE: &str = ".quiver_sql_history";
/// Entries of the history.
const HISTORY_MAX: usize = 10_000;

const HELP: &str = "\
Statements end with a semicolon and may span lines.

.tables [PATTERN]  list the tables whose name has PATTERN in it
.schema TABLE      list the columns of a table, such as samples, metrics.up, or up for short
.format FORMAT     print answers as table, json, jsonl or csv
.all on|off        print all rows of a table, or the first 100
.help              print this
.quit              leave; so does Ctrl-D

Ctrl-C cancels the statement that runs, or drops the one that is being typed; so does \\r on a line of its own.
";

/// The prompt, and that of a statement that goes on.
const PROMPTS: [&str; 2] = ["quiver> ", "   ...> "];

type Terminal = Editor<(), FileHistory>;

/// Reads lines until a statement or a command is complete; none at the end of the input.
fn read(editor: &mut Terminal) -> Result<Option<String>, ReadlineError> {
    let mut text = String::new();
    loop {
        match editor.readline(PROMPTS[usize::from(!text.is_empty())]) {
            Ok(line) => {
                if !text.is_empty() && is_dropping(&line) {
                    text.clear();
                    continue;
                }
                if !text.is_empty() && is_known_command(&line) {
                    let command = line.trim();
                    exit::error(&format!("{command}: a statement is open. End it with ; or drop it with \\r"));
                    continue;
                }
                text.push_str(&line);
                if text.trim().is_empty() || command(&text).is_some() || script::split(&text).is_complete {
                    return Ok(Some(text));
                }
                text.push('\n');
            }
            // Drops what was entered so far.
            Err(ReadlineError::Interrupted) => text.clear(),
            Err(ReadlineError::Eof) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
}

/// Whether a line drops the statement that is being typed.
fn is_dropping(line: &str) -> bool {
    line.trim() == "\\r"
}

/// Whether a line is a command that would be a mistake within a statement; plain words such as `help` may be names there.
fn is_known_command(line: &str) -> bool {
    const KNOWN: [&str; 9] = [".quit", ".exit", ".q", ".help", ".tables", ".schema", ".columns", ".format", ".all"];
    let word = command(line).and_then(|c| c.split_whitespace().next());
    line.trim_start().starts_with(['.', '\\']) && word.is_some_and(|word| KNOWN.contains(&word))
}

/// A command of the prompt instead of a statement: a word with a dot, or one that other SQL prompts know.
fn command(line: &str) -> Option<&str> {
    let line = line.trim();
    let bare = line.trim_end_matches(';').trim_end();
    match bare.to_ascii_lowercase().as_str() {
        "quit" | "exit" | "\\q" => Some(".quit"),
        "help" | "\\?" | "\\h" | "?" => Some(".help"),
        "\\d" | "\\dt" => Some(".tables"),
        _ if line.starts_with('.') => Some(bare),
        _ => None,
    }
}

/// Prompts until the user leaves.
pub async fn run(asker: &Asker, style: Style) -> Result<(), Failure> {
    let config = Config::builder().max_history_size(HISTORY_MAX).and_then(|b| b.history_ignore_dups(true));
    let config = config.map_err(|e| e.to_string())?.history_ignore_space(true).build();
    let mut editor = Terminal::with_config(config).map_err(|e| e.to_string())?;
    let history = history_file();
    if let Some(file) = &history {
        load_history(&mut editor, file);
    }
    // From here on Ctrl-C ends statements, not the program.
    let mut interrupts = signal(SignalKind::interrupt()).map_err(|e| format!("cannot watch for Ctrl-C: {e}"))?;
    let mut session = Session { asker, style };
    print(&format!("{}: statements end with ; and .help lists commands\n", terminal::printable(&asker.name())));
    loop {
        let text = tokio::task::block_in_place(|| read(&mut editor));
        let Some(text) = text.map_err(|e| format!("cannot read the terminal: {e}"))? else { return Ok(()) };
        if text.trim().is_empty() {
            continue;
        }
        // An entry that cannot be kept is not worth an error.
        let _ = editor.add_history_entry(text.trim());
        if let Some(file) = &history {
            let _ = editor.append_history(file);
        }
        if !session.take(&text, &mut interrupts).await {
            return Ok(());
        }
    }
}

fn history_file() -> Option<PathBuf> {
    match std::env::var_os(HISTORY_VARIABLE) {
        Some(file) if file.is_empty() => None,
        Some(file) => Some(file.into()),
        None => std::env::home_dir().map(|home| home.join(HISTORY_FILE)),
    }
}

fn load_history(editor: &mut Terminal, file: &Path) {
    match editor.load_history(file) {
        Ok(()) => {}
        Err(ReadlineError::Io(e)) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => exit::warning(&format!("cannot read the history {}: {e}", file.display())),
    }
}

struct Session<'a> {
    asker: &'a Asker,
    style: Style,
}

impl Session<'_> {
    /// Does what was entered; false: leaves.
    async fn take(&mut self, line: &str, interrupts: &mut Signal) -> bool {
        let Some(command) = command(line) else {
            for statement in script::split(line).statements {
                if !self.run(&statement, interrupts).await {
                    break;
                }
            }
            return true;
        };
        let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let argument = argument.trim();
        match (name, argument) {
            (".quit" | ".exit" | ".q", _) => return false,
            (".help" | ".h", _) => print(HELP),
            (".tables", pattern) => {
                self.run(&statement(tables(pattern)), interrupts).await;
            }
            (".schema" | ".columns", "") => {
                exit::error(".schema needs the name of a table or a metric, such as metrics.up")
            }
            (".schema" | ".columns", table) => {
                self.run(&statement(format!("DESCRIBE {}", table_of(table))), interrupts).await;
            }
            (".format", name) => match Output::from_str(name, true) {
                Ok(o) if o.is_binary() => exit::error(&format!(
                    "--format {name} is binary and is not printed to a terminal; write it to a file: quiver sql --format {name} \
                         '…' > FILE"
                )),
                Ok(o) => self.style.output = o,
                Err(_) => exit::error(".format takes table, json, jsonl or csv"),
            },
            (".all", "on" | "") => self.style.all = true,
            (".all", "off") => self.style.all = false,
            _ => exit::error(&format!("unknown command {name}; .help lists all")),
        }
        true
    }

    /// Whether it was answered.
    async fn run(&self, statement: &Statement, interrupts: &mut Signal) -> bool {
        // A Ctrl-C that came earlier was not for this statement.
        while interrupts.recv().now_or_never().flatten().is_some() {}
        let begun = Instant::now();
        let done = tokio::select! {
            done = answer(self.asker, statement, self.style) => done,
            _ = interrupts.recv() => {
                // The terminal has written ^C.
                print("\n");
                Err("canceled".to_owned())
            }
        };
        match done {
            Ok(()) if self.style.output == Output::Table => {
                print(&format!("{}\n\n", terminal::elapsed(begun.elapsed())))
            }
            Ok(()) => {}
            Err(why) => {
                exit::error(&why);
                return false;
            }
        }
        true
    }
}

fn statement(text: String) -> Statement {
    Statement { text, line: 1 }
}

/// A table as a statement names it; a name alone is that of a metric.
fn table_of(name: &str) -> String {
    const TABLES: [&str; 2] = ["samples", "series"];
    const SCHEMAS: [&str; 3] = ["public.", "system.", "information_schema."];
    if name.contains('"') || TABLES.contains(&name) || SCHEMAS.iter().any(|s| name.starts_with(s)) {
        return name.to_owned();
    }
    format!("metrics.\"{}\"", name.strip_prefix("metrics.").unwrap_or(name))
}

/// Lists tables: those of the server, and a table per metric.
fn tables(pattern: &str) -> String {
    let pattern = pattern.replace('\'', "''");
    let names = "CASE table_schema WHEN 'public' THEN '' ELSE table_schema || '.' END || table_name";
    let filter = if pattern.is_empty() { String::new() } else { format!(" AND strpos({names}, '{pattern}') > 0") };
    format!(
        "SELECT {names} AS \"table\" FROM information_schema.tables \
         WHERE table_schema <> 'information_schema'{filter} ORDER BY table_schema DESC, table_name"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_statements() {
        for (line, wanted) in [
            (".help", Some(".help")),
            (" .tables up; ", Some(".tables up")),
            ("quit", Some(".quit")),
            ("EXIT;", Some(".quit")),
            ("\\q", Some(".quit")),
            ("select 1;", None),
            ("select 1", None),
            ("", None),
        ] {
            assert_eq!(command(line), wanted, "{line}");
        }
    }

    #[test]
    fn commands_within_a_statement_are_noticed() {
        for (line, is_command) in
            [(".tables", true), (" .schema up;", true), ("\\d", true), (".5", false), ("help", false)]
        {
            assert_eq!(is_known_command(line), is_command, "{line}");
        }
        assert!(is_dropping(" \\r ") && !is_dropping("r"));
    }

    #[test]
    fn a_metric_is_a_table() {
        for (name, table) in [
            ("temperature", "metrics.\"temperature\""),
            ("metrics.up", "metrics.\"up\""),
            ("metrics.\"a b\"", "metrics.\"a b\""),
            ("job:up:sum", "metrics.\"job:up:sum\""),
            ("samples", "samples"),
            ("system.caches", "system.caches"),
        ] {
            assert_eq!(table_of(name), table);
        }
    }

    #[test]
    fn a_pattern_is_a_text() {
        assert!(tables("it's").contains("'it''s'"));
        assert!(!tables("").contains("strpos"));
    }
}
