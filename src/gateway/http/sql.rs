//! `/api/v1/sql`: a statement in, JSON, CSV, Arrow IPC or Parquet out, by `format=` or `Accept`.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use futures::stream;
use quiver_query::QueryError;
use quiver_query::sql::{SqlAnswer, SqlRequest};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::body::receive_body;
use super::error::ApiError;
use super::params::{Params, parse_duration};
use super::sql_json;
use crate::Gateway;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `{"status":"success","data":{"columns":…,"rows":…}}`
    Json,
    /// One object per row and line.
    JsonLines,
    /// With a header line.
    Csv,
    /// Arrow IPC stream.
    Arrow,
    /// One Parquet file.
    Parquet,
}

impl Format {
    /// By its name in `format=`.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "json" => Format::Json,
            "jsonl" | "ndjson" => Format::JsonLines,
            "csv" => Format::Csv,
            "arrow" => Format::Arrow,
            "parquet" => Format::Parquet,
            _ => return None,
        })
    }

    fn choose(p: &Params, headers: &HeaderMap) -> Result<Self, ApiError> {
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let name = p.get("format");
        if let Some(format) = Format::named(name) {
            return Ok(format);
        }
        Ok(match name {
            "" => match () {
                () if accept.contains("application/vnd.apache.arrow.stream") => Format::Arrow,
                () if accept.contains("application/vnd.apache.parquet") => Format::Parquet,
                () if accept.contains("text/csv") => Format::Csv,
                () if accept.contains("ndjson") || accept.contains("jsonl") => Format::JsonLines,
                () => Format::Json,
            },
            other => {
                let why = format!("{other:?} is none of json, jsonl, csv, arrow, parquet");
                return Err(ApiError::invalid_param("format", why));
            }
        })
    }

    fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::JsonLines => "application/x-ndjson",
            Format::Csv => "text/csv; charset=utf-8",
            Format::Arrow => "application/vnd.apache.arrow.stream",
            Format::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// Handles a statement: `query=` in the URL or a form, or the body itself as text.
pub async fn handle(g: &Gateway, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let headers = request.headers().clone();
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let bare = request.method() == Method::POST
        && (content_type.starts_with("text/plain") || content_type.starts_with("application/sql"));
    let (p, statement) = if bare {
        let (parts, body) = request.into_parts();
        let bytes_max = g.services.limits.get().query_bytes_max;
        let received = receive_body(body, bytes_max, &g.bodies).await.map_err(|e| ApiError::body(&e))?;
        let text = String::from_utf8(received.bytes).map_err(|_| ApiError::bad_data("the statement is not UTF-8"))?;
        (Params::read(g, Request::from_parts(parts, Body::empty())).await?, text)
    } else {
        let p = Params::read(g, request).await?;
        let text = p.get("query").to_owned();
        (p, text)
    };
    if statement.trim().is_empty() {
        return Err(ApiError::invalid_param("query", "there is no statement".into()));
    }
    let format = Format::choose(&p, &headers)?;
    let timeout_ms = match p.get("timeout") {
        "" => None,
        text => Some(parse_duration(text).map_err(|e| ApiError::invalid_param("timeout", e))?.max(1) as u64),
    };
    let cancel = CancellationToken::new();
    let cancel_on_drop = cancel.clone().drop_guard();
    g.counters.queries.add(1);
    let failed = |e| {
        g.counters.query_failed(&e);
        ApiError::query(e)
    };
    let answer = g.services.sql.query(SqlRequest { sql: statement, timeout_ms, cancel }).await.map_err(failed)?;
    let body = body(format, answer, Some(cancel_on_drop)).await.map_err(failed)?;
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    Ok(response)
}

/// An answer in a format; streamed where the format allows. `guard` lives as long as the body.
pub async fn body(format: Format, answer: SqlAnswer, guard: Option<DropGuard>) -> Result<Body, QueryError> {
    match format {
        // The status line is sent when the first batch is there: an error in it is an error answer.
        Format::Arrow | Format::Csv | Format::JsonLines => {
            Ok(Body::from_stream(Encoder::start(format, answer, guard).await?))
        }
        Format::Json | Format::Parquet => {
            let mut answer = answer;
            let batches = answer.rest().await?;
            let schema = answer.schema();
            let bytes = if format == Format::Json { json(schema, &batches) } else { parquet(schema, &batches) };
            Ok(Body::from(bytes.map_err(QueryError::Execution)?))
        }
    }
}

/// A batch at a time.
struct Encoder {
    format: Format,
    answer: SqlAnswer,
    sink: Sink,
    first: Option<Bytes>,
    done: bool,
    _cancel_on_drop: Option<DropGuard>,
}

enum Sink {
    Arrow(Box<arrow::ipc::writer::StreamWriter<Vec<u8>>>),
    Csv { header: bool },
    Lines,
}

impl Encoder {
    async fn start(
        format: Format,
        answer: SqlAnswer,
        guard: Option<DropGuard>,
    ) -> Result<impl futures::Stream<Item = Result<Bytes, String>> + use<>, QueryError> {
        let failed = |e: String| QueryError::Execution(e);
        let sink = match format {
            Format::Arrow => Sink::Arrow(Box::new(
                arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &sql_json::unique_names(answer.schema()))
                    .map_err(|e| failed(e.to_string()))?,
            )),
            Format::Csv => Sink::Csv { header: true },
            _ => Sink::Lines,
        };
        let mut e = Encoder { format, answer, sink, first: None, done: false, _cancel_on_drop: guard };
        e.first = e.step().await?;
        Ok(stream::unfold(e, |mut e| async move {
            if let Some(first) = e.first.take() {
                return Some((Ok(first), e));
            }
            match e.step().await {
                Ok(Some(bytes)) => Some((Ok(bytes), e)),
                Ok(None) => None,
                // The connection breaks off, so that nobody takes a part for the whole.
                Err(error) => {
                    e.done = true;
                    Some((Err(error.to_string()), e))
                }
            }
        }))
    }

    async fn step(&mut self) -> Result<Option<Bytes>, QueryError> {
        if self.done {
            return Ok(None);
        }
        let batch = self.answer.next().await?;
        self.done = batch.is_none();
        let schema = Arc::clone(self.answer.schema());
        self.encode(batch, &schema).map(|b| Some(Bytes::from(b))).map_err(QueryError::Execution)
    }

    fn encode(&mut self, batch: Option<RecordBatch>, schema: &SchemaRef) -> Result<Vec<u8>, String> {
        debug_assert!(self.format != Format::Json);
        match &mut self.sink {
            Sink::Arrow(w) => {
                match &batch {
                    Some(b) => w.write(&renamed(b)?),
                    None => w.finish(),
                }
                .map_err(|e| e.to_string())?;
                Ok(std::mem::take(w.get_mut()))
            }
            Sink::Csv { header } => {
                let with_header = std::mem::replace(header, false);
                if batch.is_none() && !with_header {
                    return Ok(Vec::new());
                }
                let b = flat(&batch.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema))))?;
                let mut out = Vec::new();
                arrow::csv::WriterBuilder::new()
                    .with_header(with_header)
                    .build(&mut out)
                    .write(&b)
                    .map_err(|e| e.to_string())?;
                Ok(out)
            }
            Sink::Lines => match batch {
                None => Ok(Vec::new()),
                Some(b) => sql_json::lines(&renamed(&plain(&b)?)?),
            },
        }
    }
}

/// The batch in types that texts are written of: text by number as text, keys of maps as text. Fails if a time in it has no text.
fn plain(batch: &RecordBatch) -> Result<RecordBatch, String> {
    map_columns(batch, |_, a| {
        sql_json::check_times(a)?;
        let to = sql_json::written_type(a.data_type());
        if to == *a.data_type() { Ok(Arc::clone(a)) } else { arrow::compute::cast(a, &to).map_err(|e| e.to_string()) }
    })
}

/// The batch with nested columns as JSON text, for CSV.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, String> {
    map_columns(&plain(batch)?, |f, a| match a.data_type() {
        DataType::Struct(_)
        | DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(..)
        | DataType::Map(..) => {
            let texts: Result<arrow::array::StringArray, String> =
                sql_json::values(f, a).map(|list| list.into_iter().map(|v| (v != "null").then_some(v)).collect());
            texts.map(|t| Arc::new(t) as ArrayRef)
        }
        DataType::Float64 | DataType::Float32 => Ok(sql_json::float_texts(a)),
        _ => Ok(Arc::clone(a)),
    })
}

fn map_columns(
    batch: &RecordBatch,
    each: impl Fn(&Field, &ArrayRef) -> Result<ArrayRef, String>,
) -> Result<RecordBatch, String> {
    let schema = batch.schema();
    let pairs = schema.fields().iter().zip(batch.columns());
    let columns: Vec<ArrayRef> = pairs.map(|(f, c)| each(f, c)).collect::<Result<_, _>>()?;
    let fields: Vec<_> = batch
        .schema()
        .fields()
        .iter()
        .zip(&columns)
        .map(|(f, c)| f.as_ref().clone().with_data_type(c.data_type().clone()).with_nullable(true))
        .collect();
    let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let schema = Arc::new(Schema::new(fields));
    RecordBatch::try_new_with_options(schema, columns, &options).map_err(|e| e.to_string())
}

fn json(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>, String> {
    let mut j = super::json::Json::default();
    j.raw(r#"{"status":"success","data":{"columns":["#);
    for (i, f) in schema.fields().iter().enumerate() {
        let kind = match f.data_type() {
            DataType::Dictionary(_, v) => v.as_ref(),
            t => t,
        };
        j.raw(if i > 0 { r#",{"name":"# } else { r#"{"name":"# }).string(f.name());
        j.raw(r#","type":"#).string(&kind.to_string()).raw("}");
    }
    j.raw(r#"],"rows":["#);
    let mut first = true;
    for batch in batches {
        let columns: Vec<Vec<String>> = plain(batch)?
            .columns()
            .iter()
            .zip(schema.fields())
            .map(|(c, f)| sql_json::values(f, c))
            .collect::<Result<_, _>>()?;
        for row in 0..batch.num_rows() {
            j.raw(if first { "[" } else { ",[" });
            first = false;
            for (i, c) in columns.iter().enumerate() {
                if i > 0 {
                    j.raw(",");
                }
                j.raw(&c[row]);
            }
            j.raw("]");
        }
    }
    j.raw("]}}");
    Ok(j.into_bytes())
}

/// The batch, every column of it under a name of its own.
fn renamed(batch: &RecordBatch) -> Result<RecordBatch, String> {
    let schema = sql_json::unique_names(&batch.schema());
    if Arc::ptr_eq(&schema, &batch.schema()) {
        return Ok(batch.clone());
    }
    let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema, batch.columns().to_vec(), &options).map_err(|e| e.to_string())
}

fn parquet(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>, String> {
    use parquet::arrow::ArrowWriter;
    let schema = Arc::new(Schema::new(
        sql_json::unique_names(schema)
            .fields()
            .iter()
            .map(|f| f.as_ref().clone().with_data_type(sql_json::stored_type(f.data_type())))
            .collect::<Vec<_>>(),
    ));
    let properties = quiver_core::parquet_properties(&schema).build();
    let mut out = Vec::new();
    let mut w = ArrowWriter::try_new(&mut out, schema, Some(properties)).map_err(|e| e.to_string())?;
    for b in batches {
        let stored = map_columns(&renamed(b)?, |_, a| {
            let to = sql_json::stored_type(a.data_type());
            if to == *a.data_type() {
                Ok(Arc::clone(a))
            } else {
                arrow::compute::cast(a, &to).map_err(|e| e.to_string())
            }
        })?;
        w.write(&stored).map_err(|e| e.to_string())?;
    }
    w.close().map_err(|e| e.to_string())?;
    Ok(out)
}
