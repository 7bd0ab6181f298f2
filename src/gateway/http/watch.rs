//! Counts and logs rejected HTTP requests, whatever part of the server rejected them.

use axum::body::Body;
use axum::http::{Response, StatusCode};

use crate::Gateway;
use crate::rejections::{Cause, Door, PartlyKept, Reason};

/// Counts and logs the answer of a route if it is a rejection.
pub(super) fn note(gateway: &Gateway, door: Door, response: &mut Response<Body>) {
    let is_rejected = response.status().is_client_error() || response.status().is_server_error();
    if !is_rejected || response.extensions().get::<PartlyKept>().is_some() {
        return;
    }
    let door = response.extensions_mut().remove::<Door>().unwrap_or(door);
    match response.extensions_mut().remove::<Cause>() {
        Some(cause) => gateway.rejections.request(door, cause.reason, &cause.text),
        None => gateway.rejections.request(door, by_status(response.status()), response.status().as_str()),
    }
}

/// Which door a path belongs to.
pub(super) fn door_of(path: &str) -> Door {
    let Some(route) = path.strip_prefix("/api/v1/") else {
        // Traces and logs are sent there, too, though nothing takes them.
        return if path.starts_with("/v1/") { Door::OtlpHttp } else { Door::Api };
    };
    match route.split('/').next().unwrap_or("") {
        "write" => Door::RemoteWrite,
        "otlp" => Door::OtlpHttp,
        "query" | "query_range" | "query_exemplars" | "format_query" | "parse_query" => Door::Query,
        "labels" | "label" | "series" | "metadata" => Door::Series,
        "sql" => Door::Sql,
        "export" => Door::Export,
        _ => Door::Api,
    }
}

fn by_status(status: StatusCode) -> Reason {
    match status {
        StatusCode::BAD_REQUEST => Reason::BadData,
        StatusCode::FORBIDDEN => Reason::Forbidden,
        StatusCode::NOT_FOUND => Reason::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => Reason::Method,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::URI_TOO_LONG => Reason::TooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Reason::ContentType,
        StatusCode::TOO_MANY_REQUESTS => Reason::TooMany,
        StatusCode::INTERNAL_SERVER_ERROR => Reason::Internal,
        _ => Reason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_by_path() {
        for (path, door) in [
            ("/api/v1/write", Door::RemoteWrite),
            ("/v1/metrics", Door::OtlpHttp),
            ("/v1/traces", Door::OtlpHttp),
            ("/api/v1/otlp/v1/metrics", Door::OtlpHttp),
            ("/api/v1/query_range", Door::Query),
            ("/api/v1/label/job/values", Door::Series),
            ("/api/v1/sql", Door::Sql),
            ("/api/v1/export", Door::Export),
            ("/api/v1/status/tsdb", Door::Api),
            ("/-/ready", Door::Api),
        ] {
            assert_eq!(door_of(path), door, "{path}");
        }
    }
}
