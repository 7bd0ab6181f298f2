//! `quiver explain`: how a PromQL query is answered, or was, as a tree.

use clap::Args;
use quiver_query::{Explain, ExplainMode, Hints, QueryOptions};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::client::Server;
use super::data::AskArgs;
use super::exit::Failure;
use super::offline::Folder;
use super::when::{TimeArgs, When};
use super::{json, terminal};

/// Flags of `quiver explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// PromQL expression
    expression: String,
    /// Run the query and measure it, instead of only planning it
    #[arg(long)]
    analyze: bool,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    time: TimeArgs,
    /// Hint for the query, such as parallelism=1, index=off or no-share; may be repeated
    #[arg(long = "hint", value_name = "HINT")]
    hints: Vec<String>,
    /// Print the tree as JSON
    #[arg(long)]
    json: bool,
    /// Features to switch on for --offline, by Prometheus's names
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    enable_feature: Vec<String>,
}

/// Runs the command.
pub async fn run(args: ExplainArgs) -> Result<(), Failure> {
    let when = args.time.when(false)?;
    let explain = if args.analyze { ExplainMode::Analyze } else { ExplainMode::Plan };
    let text = match &args.ask.offline {
        Some(folder) => {
            let hints = Hints::parse(args.hints.iter().map(String::as_str));
            let hints = hints.map_err(|e| Failure::Usage(format!("--hint: {e}")))?;
            let options = QueryOptions { hints, explain, ..QueryOptions::default() };
            let folder = Folder::open(folder, &args.enable_feature)?;
            let answer = folder.answer(&args.expression, when, options).await?;
            let tree = answer.explain.ok_or_else(|| "there is no explanation".to_owned())?;
            json::with_stack(move || if args.json { pretty(&tree) } else { Ok(shown(&tree)) })??
        }
        None => ask(&args, when, explain).await?,
    };
    super::print(&text);
    Ok(())
}

fn pretty(tree: &impl Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(tree).map(|t| format!("{t}\n")).map_err(|e| e.to_string())
}

/// As wide as the terminal.
fn shown(tree: &Explain) -> String {
    let text = terminal::width().map_or_else(|| tree.to_string(), |width| tree.text(width));
    terminal::printable_lines(&text).into_owned()
}

async fn ask(args: &ExplainArgs, when: When, explain: ExplainMode) -> Result<String, Failure> {
    let server = Server::new(&args.ask.url()).map_err(|e| Failure::Usage(e.to_string()))?;
    let (path, mut form) = when.request(&args.expression);
    // The answer itself is not shown: one series of it is enough.
    form.extend([("explain", explain.name().to_owned()), ("limit", "1".to_owned())]);
    form.extend(args.hints.iter().map(|h| ("hint", h.clone())));
    let response = server.post_for("application/json", path, &form).await.map_err(|e| e.to_string())?;
    let body = server.body(response).await.map_err(|e| e.to_string())?;
    let text = json::with_stack(|| {
        let envelope = json::parse(&body)
            .map_err(|e| format!("the server's answer is not JSON that this version can read: {e}"))?;
        match &envelope["data"]["explain"] {
            Value::Null => Err("the answer has no explanation; is the server older than this program?".to_owned()),
            tree if args.json => pretty(tree),
            tree => Explain::deserialize(tree).map(|tree| shown(&tree)).map_err(|e| {
                format!("the explanation cannot be shown ({e}); is the server of another version? --json prints it")
            }),
        }
    });
    Ok(text??)
}
