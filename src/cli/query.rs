//! `quiver query`: PromQL at an instant or over a range; as a table, JSON or a chart.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use super::chart::{Line, draw};
use super::client::Server;
use super::offline;
use super::when::{TimeArgs, When};

/// Rows of a table, unless all are asked for.
const ROWS_DEFAULT: usize = 100;

/// Flags of `quiver query`.
#[derive(Args, Debug)]
pub struct QueryArgs {
    /// PromQL expression
    expression: String,
    /// Server to ask
    #[arg(long, env = "QUIVER_URL", default_value = "http://127.0.0.1:9095")]
    url: String,
    #[command(flatten)]
    time: TimeArgs,
    /// Print the answer as JSON, as the HTTP API gives it
    #[arg(long, conflicts_with = "graph")]
    json: bool,
    /// Draw a range in the terminal
    #[arg(long)]
    graph: bool,
    /// Ask no server but a folder: an export or a copied data folder
    #[arg(long, value_name = "DIR")]
    offline: Option<PathBuf>,
    /// Features to switch on for --offline, by Prometheus's names
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    enable_feature: Vec<String>,
    /// Print all rows of a table
    #[arg(long)]
    all: bool,
}

/// Runs the command.
pub async fn run(args: QueryArgs) -> Result<(), String> {
    let when = args.time.when(args.graph)?;
    let envelope = match &args.offline {
        Some(folder) => offline::promql(folder, &args.enable_feature, &args.expression, when).await?,
        None => ask(&args, &when).await?,
    };
    if args.json {
        super::print(&format!("{envelope}\n"));
        return Ok(());
    }
    for (word, key) in [("warning", "warnings"), ("info", "infos")] {
        for text in envelope[key].as_array().into_iter().flatten() {
            eprintln!("{word}: {}", text.as_str().unwrap_or(""));
        }
    }
    let data = &envelope["data"];
    if args.graph {
        super::print(&graph(&data["result"], when.step));
    } else {
        super::print(&table(data, if args.all { usize::MAX } else { ROWS_DEFAULT }));
    }
    Ok(())
}

async fn ask(args: &QueryArgs, when: &When) -> Result<Value, String> {
    let server = Server::new(&args.url).map_err(|e| e.to_string())?;
    let (path, form) = when.request(&args.expression);
    let body = server.post_all(path, &form).await.map_err(|e| e.to_string())?;
    serde_json::from_slice(&body).map_err(|e| format!("the server's answer is not JSON: {e}"))
}

/// A label set as a selector.
fn series_name(metric: &Value) -> String {
    let Some(map) = metric.as_object() else { return String::new() };
    let name = map.get("__name__").and_then(Value::as_str).unwrap_or("");
    let labels: Vec<_> = map
        .iter()
        .filter(|(n, _)| *n != "__name__")
        .map(|(n, v)| format!("{n}={}", quiver_model::labels::quoted(v.as_str().unwrap_or(""))))
        .collect();
    if labels.is_empty() && !name.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(", ")) }
}

fn clock_text(seconds: f64) -> String {
    quiver_gateway::http::status::rfc3339((seconds * 1000.0).round() as i64).replace(".000Z", "Z")
}

fn value_text(point: &Value) -> String {
    match &point[1] {
        Value::String(s) => s.clone(),
        h => format!("count {} sum {}", h["count"].as_str().unwrap_or("?"), h["sum"].as_str().unwrap_or("?")),
    }
}

fn new_table(header: &[&str]) -> Table {
    let mut t = Table::new();
    t.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    t
}

fn table(data: &Value, rows_max: usize) -> String {
    let result = &data["result"];
    let list = result.as_array().map_or(&[][..], Vec::as_slice);
    let cut = |shown: usize, all: usize, what: &str| {
        if shown < all { format!("… and {} more {what}; --all prints them\n", all - shown) } else { String::new() }
    };
    match data["resultType"].as_str() {
        Some("scalar" | "string") => format!("{}\n", result[1].as_str().unwrap_or("")),
        _ if list.is_empty() => "no series\n".into(),
        Some("vector") => {
            let mut t = new_table(&["series", "value"]);
            for s in list.iter().take(rows_max) {
                let point = if s["value"].is_array() { &s["value"] } else { &s["histogram"] };
                t.add_row([series_name(&s["metric"]), value_text(point)]);
            }
            format!("{t}\n{}", cut(rows_max, list.len(), "series"))
        }
        _ => {
            let mut t = new_table(&["series", "time", "value"]);
            let (mut shown, mut all) = (0, 0);
            for s in list {
                let mut name = series_name(&s["metric"]);
                let points = s["values"].as_array().into_iter().chain(s["histograms"].as_array()).flatten();
                for p in points {
                    all += 1;
                    if shown < rows_max {
                        shown += 1;
                        let at = clock_text(p[0].as_f64().unwrap_or(0.0));
                        t.add_row([std::mem::take(&mut name), at, value_text(p)]);
                    }
                }
            }
            format!("{t}\n{}", cut(shown, all, "points"))
        }
    }
}

fn graph(result: &Value, step: i64) -> String {
    let lines: Vec<Line> = result
        .as_array()
        .into_iter()
        .flatten()
        .take(12)
        .map(|s| {
            let mut points: Vec<(f64, f64)> = Vec::new();
            for p in s["values"].as_array().into_iter().flatten() {
                let x = p[0].as_f64().unwrap_or(0.0);
                // A gap of more than a step breaks the line.
                if points.last().is_some_and(|l| x - l.0 > step as f64 / 1000.0 * 1.5) {
                    points.push((x, f64::NAN));
                }
                points.push((x, p[1].as_str().and_then(|t| t.parse().ok()).unwrap_or(f64::NAN)));
            }
            Line { name: series_name(&s["metric"]), points }
        })
        .collect();
    let columns = Table::new().width().map_or(100, usize::from).clamp(40, 200);
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let more = result.as_array().map_or(0, |l| l.len().saturating_sub(12));
    let mut out = draw(&lines, columns, 16, colour, clock_text);
    if more > 0 {
        out.push_str(&format!("… and {more} more series\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_and_matrices_become_tables() {
        let data: Value = serde_json::from_str(
            r#"{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a"},"value":[1,"1"]}]}"#,
        )
        .unwrap();
        let text = table(&data, 10);
        assert!(text.contains(r#"up{job="a"}"#) && text.contains('1'), "{text}");
        let data: Value =
            serde_json::from_str(r#"{"resultType":"matrix","result":[{"metric":{},"values":[[1.5,"2"],[2,"3"]]}]}"#)
                .unwrap();
        let text = table(&data, 1);
        assert!(text.contains("1970-01-01T00:00:01.500Z") && text.contains("1 more points"), "{text}");
    }
}
