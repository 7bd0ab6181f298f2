//! `quiver sql`: a statement, its answer as a table or in a format for other programs.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use http_body_util::BodyExt;
use serde_json::Value;

use super::client::{Server, refused};
use super::offline;

/// Rows of a table, unless all are asked for.
const ROWS_DEFAULT: usize = 100;

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
    /// Parquet
    Parquet,
}

impl Output {
    fn name(self) -> &'static str {
        match self {
            Output::Table | Output::Json => "json",
            Output::Jsonl => "jsonl",
            Output::Csv => "csv",
            Output::Arrow => "arrow",
            Output::Parquet => "parquet",
        }
    }
}

/// Flags of `quiver sql`.
#[derive(Args, Debug)]
pub struct SqlArgs {
    /// Statement, such as: SELECT * FROM metrics."up" LIMIT 5
    statement: String,
    /// Server to ask
    #[arg(long, env = "QUIVER_URL", default_value = "http://127.0.0.1:9095")]
    url: String,
    /// How to print the answer
    #[arg(long, value_enum, default_value = "table")]
    format: Output,
    /// Short for --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Ask no server but a folder: an export or a copied data folder
    #[arg(long, value_name = "DIR")]
    offline: Option<PathBuf>,
    /// Print all rows of a table
    #[arg(long)]
    all: bool,
}

/// Runs the command.
pub async fn run(args: SqlArgs) -> Result<(), String> {
    let format = if args.json { Output::Json } else { args.format };
    let mut stdout = std::io::stdout();
    let mut print = |bytes: &[u8]| match stdout.write_all(bytes) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|e| e.to_string()),
    };
    let mut body = match &args.offline {
        Some(folder) => offline::sql(folder, &args.statement, format.name()).await?,
        None => {
            let server = Server::new(&args.url).map_err(|e| e.to_string())?;
            let form = [("query", args.statement.clone()), ("format", format.name().to_owned())];
            let response = server.post("/api/v1/sql", &form).await.map_err(|e| e.to_string())?;
            let status = response.status();
            if !status.is_success() {
                let text = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                return Err(refused(status, &text).to_string());
            }
            axum_body(response)
        }
    };
    if format == Output::Table {
        let all = body.collect().await.map_err(|e| format!("the answer broke off: {e}"))?.to_bytes();
        let v: Value = serde_json::from_slice(&all).map_err(|e| format!("the answer is not JSON: {e}"))?;
        return print(table(&v["data"], if args.all { usize::MAX } else { ROWS_DEFAULT }).as_bytes());
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| format!("the answer broke off: {e}"))?;
        if let Some(data) = frame.data_ref() {
            print(data)?;
        }
    }
    if format == Output::Json { print(b"\n") } else { Ok(()) }
}

/// A body, wherever it comes from.
pub type AnyBody = http_body_util::combinators::UnsyncBoxBody<hyper::body::Bytes, String>;

fn axum_body(response: hyper::Response<hyper::body::Incoming>) -> AnyBody {
    response.into_body().map_err(|e| e.to_string()).boxed_unsync()
}

fn cell(v: &Value) -> String {
    match v {
        Value::Null => "NULL".into(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

fn table(data: &Value, rows_max: usize) -> String {
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let columns = list(&data["columns"]);
    let rows = list(&data["rows"]);
    let mut t = Table::new();
    t.load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(columns.iter().map(|c| cell(&c["name"])));
    for row in rows.iter().take(rows_max) {
        t.add_row(list(row).iter().map(cell));
    }
    let more = rows.len().saturating_sub(rows_max);
    let note = match (more, rows.len()) {
        (0, 1) => "1 row\n".into(),
        (0, n) => format!("{n} rows\n"),
        (m, _) => format!("… and {m} more rows; --all prints them\n"),
    };
    format!("{t}\n{note}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_a_table() {
        let text =
            r#"{"columns":[{"name":"job","type":"Utf8"},{"name":"n","type":"Int64"}],"rows":[["a",1],[null,2]]}"#;
        let out = table(&serde_json::from_str(text).unwrap(), 10);
        assert!(out.contains("job") && out.contains("NULL") && out.ends_with("2 rows\n"), "{out}");
    }
}
