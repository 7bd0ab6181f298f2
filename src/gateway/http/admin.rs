//! `POST /api/v1/admin/tsdb/…`: maintenance by hand, off unless it is switched on.

use axum::body::Body;
use axum::http::{Response, StatusCode};

use super::error::{ApiError, ErrorType};
use crate::Gateway;

/// `flush`, `compact`: each answers when it is done.
pub async fn verb(g: &Gateway, verb: &str) -> Result<Response<Body>, ApiError> {
    if !g.services.admin_api {
        return Err(ApiError::new(ErrorType::Unavailable, "admin APIs disabled: start the server with --admin-api on"));
    }
    match verb {
        "flush" => g.services.maintain.flush().await?,
        "compact" => g.services.maintain.compact().await?,
        other => {
            return Err(ApiError::new(
                ErrorType::NotFound,
                format!("no admin verb {other:?}, there are flush and compact"),
            ));
        }
    }
    let mut r = Response::new(Body::empty());
    *r.status_mut() = StatusCode::NO_CONTENT;
    Ok(r)
}
