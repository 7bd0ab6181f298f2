//! `/api/v1/admin/…`: maintenance by hand, off unless it is switched on.
//!
//! ```text
//! POST tsdb/delete_series?match[]=…&start=&end=   204   as Prometheus has it; so are the next two
//! POST tsdb/clean_tombstones                      204
//! POST tsdb/snapshot?skip_head=                   {"name": …}
//! GET  tsdb/snapshots/NAME                        its files, with their checksums
//! GET  tsdb/snapshots/NAME/FILE                   one of them
//! DELETE tsdb/snapshots/NAME                      204
//! POST tsdb/flush, tsdb/compact, tsdb/tier        204, when it is done; the last moves blocks to the remote store
//! POST tasks/pause, tasks/resume                  204
//! POST /-/reload                                  200, or 500 and the old configuration stays
//! ```

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use super::error::{ApiError, ErrorType};
use super::params::Params;
use super::status::rfc3339;
use super::success;
use crate::Gateway;

/// Bytes of a file sent at once.
const PIECE_BYTES: usize = 1 << 20;

fn check(g: &Gateway) -> Result<(), ApiError> {
    if g.services.admin_api { Ok(()) } else { Err(ApiError::new(ErrorType::Unavailable, "admin APIs disabled")) }
}

fn no_content() -> Response<Body> {
    let mut r = Response::new(Body::empty());
    *r.status_mut() = StatusCode::NO_CONTENT;
    r
}

/// `admin/tsdb/VERB`: each answers when it is done.
pub async fn verb(g: &Gateway, headers: &HeaderMap, p: &Params, verb: &str) -> Result<Response<Body>, ApiError> {
    check(g)?;
    match verb {
        "flush" => g.services.maintain.flush().await?,
        "compact" => g.services.maintain.compact().await?,
        "tier" => g.services.maintain.tier().await?,
        "delete_series" => delete_series(g, p).await?,
        "clean_tombstones" => g.services.maintain.clean_tombstones().await?,
        "snapshot" => return snapshot(g, headers, p).await,
        other => {
            let verbs = "flush, compact, tier, delete_series, clean_tombstones and snapshot";
            return Err(ApiError::new(ErrorType::NotFound, format!("no admin verb {other:?}, there are {verbs}")));
        }
    }
    Ok(no_content())
}

/// `/-/reload`: reads the configuration again; what is wrong with it is the answer, and nothing changes then.
pub async fn reload(g: &Arc<Gateway>) -> Result<Response<Body>, ApiError> {
    check(g)?;
    let Some(reload) = g.services.reload.clone() else {
        return Err(ApiError::new(ErrorType::Unavailable, "there is no configuration to read again"));
    };
    let done = tokio::task::spawn_blocking(move || reload()).await;
    match done {
        Ok(Ok(())) => Ok(Response::new(Body::empty())),
        Ok(Err(e)) => Err(ApiError::new(ErrorType::Internal, format!("failed to reload config: {e}"))),
        Err(_) => Err(ApiError::new(ErrorType::Internal, "the reload panicked")),
    }
}

async fn delete_series(g: &Gateway, p: &Params) -> Result<(), ApiError> {
    p.require_selector()?;
    let (range, selectors) = (p.time_range()?, p.selectors(g)?);
    Ok(g.services.maintain.delete(selectors, range).await?)
}

/// The words that Go's `strconv.ParseBool` takes.
fn parse_bool(name: &str, text: &str) -> Result<bool, ApiError> {
    match text {
        "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        other => Err(ApiError::invalid_param(
            name,
            format!(
                "unable to parse boolean: strconv.ParseBool: parsing {}: invalid syntax",
                quiver_model::labels::quoted(other)
            ),
        )),
    }
}

async fn snapshot(g: &Gateway, headers: &HeaderMap, p: &Params) -> Result<Response<Body>, ApiError> {
    let skip_head = parse_bool("skip_head", p.get("skip_head"))?;
    let now_ms = g.services.clock.now_ms();
    // 2026-01-02T03:04:05.678Z as 20260102T030405Z, and what no other snapshot has.
    let stamp: String =
        rfc3339(now_ms).split('.').next().unwrap_or("").chars().filter(|c| !"-:".contains(*c)).collect();
    let random = RandomState::new().hash_one(now_ms) >> 1;
    let name = format!("{stamp}Z-{random:016x}");
    g.services.maintain.create_snapshot(name.clone(), skip_head).await?;
    Ok(success(headers, &[], &[], |j| {
        j.raw(r#"{"name":"#).string(&name).raw("}");
    }))
}

/// `admin/tsdb/snapshots/NAME`: its files, or its end.
pub async fn snapshot_named(
    g: &Arc<Gateway>,
    method: &Method,
    headers: &HeaderMap,
    name: String,
) -> Result<Response<Body>, ApiError> {
    check(g)?;
    let (gateway, is_delete) = (Arc::clone(g), *method == Method::DELETE);
    let files = blocking(move || {
        let maintain = &gateway.services.maintain;
        if is_delete { maintain.remove_snapshot(&name).map(|()| Vec::new()) } else { maintain.snapshot_files(&name) }
    })
    .await??;
    if is_delete {
        return Ok(no_content());
    }
    Ok(success(headers, &[], &[], |j| {
        j.raw(r#"{"files":["#);
        for (i, f) in files.iter().enumerate() {
            j.raw(if i > 0 { r#",{"path":"# } else { r#"{"path":"# }).string(&f.path);
            j.raw(r#","bytes":"#)
                .int(f.bytes as i64)
                .raw(r#","crc32c":"#)
                .string(&format!("{:08x}", f.crc32c))
                .raw("}");
        }
        j.raw("]}");
    }))
}

/// `admin/tsdb/snapshots/NAME/FILE`
pub async fn snapshot_file(g: &Arc<Gateway>, name: String, path: String) -> Result<Response<Body>, ApiError> {
    check(g)?;
    let (tx, rx) = tokio::sync::mpsc::channel::<Result<Bytes, String>>(2);
    let gateway = Arc::clone(g);
    let (of, file) = (name.clone(), path.clone());
    let first = blocking(move || gateway.services.maintain.snapshot_read(&of, &file, 0, PIECE_BYTES)).await??;
    let gateway = Arc::clone(g);
    tokio::task::spawn_blocking(move || {
        let mut at = first.len() as u64;
        let mut piece: Result<Vec<u8>, quiver_core::ReadError> = Ok(first);
        loop {
            match piece {
                Ok(bytes) if bytes.is_empty() => return,
                Ok(bytes) => {
                    if tx.blocking_send(Ok(Bytes::from(bytes))).is_err() {
                        return;
                    }
                }
                // The connection breaks off, so that nobody takes a part for the whole.
                Err(e) => return drop(tx.blocking_send(Err(e.to_string()))),
            }
            piece = gateway.services.maintain.snapshot_read(&name, &path, at, PIECE_BYTES).inspect(|b| {
                at += b.len() as u64;
            });
        }
    });
    let stream = futures::stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|piece| (piece, rx)) });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| ApiError::new(ErrorType::Internal, e.to_string()))
}

/// `admin/tasks/VERB`
pub fn tasks(g: &Gateway, verb: &str) -> Result<Response<Body>, ApiError> {
    check(g)?;
    match verb {
        "pause" => g.services.maintain.pause_tasks(true),
        "resume" => g.services.maintain.pause_tasks(false),
        other => {
            let text = format!("no verb {other:?} for tasks, there are pause and resume");
            return Err(ApiError::new(ErrorType::NotFound, text));
        }
    }
    Ok(no_content())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_those_of_go() {
        for (text, want) in [("", false), ("1", true), ("True", true), ("f", false), ("FALSE", false)] {
            assert_eq!(parse_bool("x", text).unwrap(), want);
        }
        let e = parse_bool("skip_head", "yes").unwrap_err();
        let want = "invalid parameter \"skip_head\": unable to parse boolean: strconv.ParseBool: parsing \"yes\": invalid syntax";
        assert_eq!(e.text, want);
    }
}
