//! Who answers: a server, or a folder that is read here.

use hyper::Method;
use serde_json::Value;

use super::client::{Server, encode, encode_form};
use super::data::AskArgs;
use super::exit::Failure;
use super::offline::Folder;
use super::seconds;
use super::sql::AnyBody;
use super::when::When;
use http_body_util::BodyExt;

/// A server or a folder.
pub enum Asker {
    /// Over HTTP.
    Server(Box<Server>),
    /// Read here.
    Folder(Box<Folder>),
}

impl Asker {
    /// The folder if there is one, else the server.
    pub fn new(args: &AskArgs, features: &[String]) -> Result<Self, Failure> {
        match &args.offline {
            Some(folder) => Ok(Asker::Folder(Box::new(Folder::open(folder, features)?))),
            None => {
                let server = Server::new(&args.url()).map_err(|e| Failure::Usage(e.to_string()))?;
                Ok(Asker::Server(Box::new(server)))
            }
        }
    }

    /// Its name, for people.
    pub fn name(&self) -> String {
        match self {
            Asker::Server(server) => server.url().to_owned(),
            Asker::Folder(folder) => folder.name().to_owned(),
        }
    }

    /// PromQL; the answer is the envelope of the HTTP API.
    pub async fn promql(&self, expression: &str, when: When) -> Result<Value, String> {
        match self {
            Asker::Folder(folder) => folder.promql(expression, when).await,
            Asker::Server(server) => {
                let (path, form) = when.request(expression);
                json(&server.post_all(path, &form).await.map_err(|e| e.to_string())?)
            }
        }
    }

    /// SQL; the answer in a format of the HTTP API.
    pub async fn sql(&self, statement: &str, format: &str) -> Result<AnyBody, String> {
        match self {
            Asker::Folder(folder) => folder.sql(statement, format).await,
            Asker::Server(server) => {
                let form = [("query", statement.to_owned()), ("format", format.to_owned())];
                let response = server.post("/api/v1/sql", &form).await.map_err(|e| e.to_string())?;
                if !response.status().is_success() {
                    // Reads the reason.
                    let refused = server.body(response).await.err();
                    return Err(
                        refused.map_or_else(|| "the server refuses the statement".to_owned(), |e| e.to_string())
                    );
                }
                let url = server.url().to_owned();
                let lost =
                    move |e: hyper::Error| format!("{url} broke off its answer ({e}); the server may have stopped");
                Ok(response.into_body().map_err(lost).boxed_unsync())
            }
        }
    }

    /// Whether a series that a selector selects has samples between two times, ms; at any time without them.
    pub async fn has_series(&self, selector: &str, range: Option<(i64, i64)>) -> Result<bool, String> {
        match self {
            Asker::Folder(folder) => folder.has_series(selector, range),
            Asker::Server(server) => {
                let mut form = vec![("match[]", selector.to_owned()), ("limit", "1".to_owned())];
                if let Some((start, end)) = range {
                    form.extend([("start", seconds(start)), ("end", seconds(end))]);
                }
                let body = server.post_all("/api/v1/series", &form).await.map_err(|e| e.to_string())?;
                Ok(json(&body)?["data"].as_array().is_some_and(|l| !l.is_empty()))
            }
        }
    }

    /// Values that a label has, of the series of a selector or of all; at most `limit`.
    pub async fn label_values(&self, label: &str, selector: Option<&str>, limit: usize) -> Result<Vec<String>, String> {
        match self {
            Asker::Folder(folder) => folder.label_values(label, selector, limit),
            Asker::Server(server) => {
                let mut form = vec![("limit", limit.to_string())];
                form.extend(selector.map(|s| ("match[]", s.to_owned())));
                let path = format!("/api/v1/label/{}/values?{}", encode(label), encode_form(&form));
                let response = server.send(Method::GET, &path).await.map_err(|e| e.to_string())?;
                let body = server.body(response).await.map_err(|e| e.to_string())?;
                let values = json(&body)?["data"].take();
                serde_json::from_value(values).map_err(|e| e.to_string())
            }
        }
    }
}

fn json(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body).map_err(|e| format!("the server's answer is not JSON: {e}"))
}
