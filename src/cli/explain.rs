//! `quiver explain`: how a PromQL query is answered, or was, as a tree.

use std::path::PathBuf;

use clap::Args;
use quiver_query::{ExplainMode, Hints, QueryOptions};
use serde::Serialize;
use serde_json::Value;

use super::client::Server;
use super::when::{TimeArgs, When};
use super::{json, offline};

/// Flags of `quiver explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// PromQL expression
    expression: String,
    /// Answer the query and measure it, instead of only planning it
    #[arg(long)]
    analyze: bool,
    /// Server to ask
    #[arg(long, env = "QUIVER_URL", default_value = "http://127.0.0.1:9095")]
    url: String,
    #[command(flatten)]
    time: TimeArgs,
    /// Hint for the query, such as parallelism=1, index=off or no-share; may be repeated
    #[arg(long = "hint", value_name = "HINT")]
    hints: Vec<String>,
    /// Print the tree as JSON
    #[arg(long)]
    json: bool,
    /// Ask no server but a folder: an export or a copied data folder
    #[arg(long, value_name = "DIR")]
    offline: Option<PathBuf>,
    /// Features to switch on for --offline, by Prometheus's names
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    enable_feature: Vec<String>,
}

/// Runs the command.
pub async fn run(args: ExplainArgs) -> Result<(), String> {
    let when = args.time.when(false)?;
    let explain = if args.analyze { ExplainMode::Analyze } else { ExplainMode::Plan };
    let text = match &args.offline {
        Some(folder) => {
            let hints = Hints::parse(args.hints.iter().map(String::as_str)).map_err(|e| format!("--hint: {e}"))?;
            let options = QueryOptions { hints, explain, ..QueryOptions::default() };
            let answer = offline::answer(folder, &args.enable_feature, &args.expression, when, options).await?;
            let tree = answer.explain.ok_or("there is no explanation")?;
            json::with_stack(move || if args.json { pretty(&tree) } else { Ok(tree.to_string()) })??
        }
        None => ask(&args, when, explain).await?,
    };
    super::print(&text);
    Ok(())
}

fn pretty(tree: &impl Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(tree).map(|t| format!("{t}\n")).map_err(|e| e.to_string())
}

async fn ask(args: &ExplainArgs, when: When, explain: ExplainMode) -> Result<String, String> {
    let server = Server::new(&args.url).map_err(|e| e.to_string())?;
    let (path, mut form) = when.request(&args.expression);
    // The answer itself is not shown: one series of it is enough.
    form.extend([("explain", explain.name().to_owned()), ("limit", "1".to_owned())]);
    form.extend(args.hints.iter().map(|h| ("hint", h.clone())));
    let wanted = if args.json { "application/json" } else { "text/plain" };
    let response = server.post_for(wanted, path, &form).await.map_err(|e| e.to_string())?;
    let body = server.body(response).await.map_err(|e| e.to_string())?;
    if !args.json {
        return Ok(String::from_utf8_lossy(&body).into_owned());
    }
    json::with_stack(|| {
        let envelope =
            json::parse(&body).map_err(|e| format!("the server's answer is not JSON to this program: {e}"))?;
        match &envelope["data"]["explain"] {
            Value::Null => Err("the answer has no explanation: is the server older than this program?".into()),
            tree => pretty(tree),
        }
    })?
}
