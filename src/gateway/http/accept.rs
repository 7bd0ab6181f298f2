//! In which form a client wants the answer of a query, by its `Accept` header.

use axum::http::{HeaderMap, header};

/// Forms of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON.
    Json,
    /// Protobuf, under the media type that was asked for.
    Protobuf(&'static str),
    /// Text for people; of explanations only.
    Text,
}

/// Media types and what they ask for.
const KNOWN: [(&str, Form); 6] = [
    ("application/json", Form::Json),
    ("application/*", Form::Json),
    ("*/*", Form::Json),
    ("application/vnd.quiver.query.v1+protobuf", Form::Protobuf("application/vnd.quiver.query.v1+protobuf")),
    ("application/x-protobuf", Form::Protobuf("application/x-protobuf")),
    ("text/plain", Form::Text),
];

/// The form of highest quality, of several the first; JSON where none is named.
pub fn wanted(headers: &HeaderMap) -> Form {
    let mut best = (0.0, Form::Json);
    let values = headers.get_all(header::ACCEPT).into_iter().filter_map(|v| v.to_str().ok());
    for range in values.flat_map(|v| v.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or("");
        let Some((_, form)) = KNOWN.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)) else { continue };
        let q = parts
            .find_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q=")))
            .map_or(1.0, |q| q.trim().parse::<f32>().unwrap_or(0.0));
        if q > best.0 {
            best = (q, form);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(list: &[&'static str]) -> Form {
        let mut h = HeaderMap::new();
        list.iter().for_each(|v| {
            h.append(header::ACCEPT, header::HeaderValue::from_static(v));
        });
        wanted(&h)
    }

    #[test]
    fn json_unless_something_else_is_preferred() {
        let own = Form::Protobuf("application/vnd.quiver.query.v1+protobuf");
        let general = Form::Protobuf("application/x-protobuf");
        for (accept, want) in [
            (&[][..], Form::Json),
            (&["*/*"], Form::Json),
            (&["application/json, text/plain, */*"], Form::Json),
            (&["text/html;q=0.9, application/json;q=0.1, application/x-protobuf;q=0"], Form::Json),
            (&["application/x-protobuf"], general),
            (&["application/X-Protobuf; q=0.5"], general),
            (&["application/vnd.quiver.query.v1+protobuf, application/json;q=0.5"], own),
            (&["application/json;q=0.5", "application/vnd.quiver.query.v1+protobuf;q=0.6"], own),
            (&["application/json, application/x-protobuf"], Form::Json),
            (&["application/x-protobuf, application/json"], general),
            (&["application/x-protobuf;q=high"], Form::Json),
            (&["text/plain, */*;q=0.1"], Form::Text),
        ] {
            assert_eq!(asked(accept), want, "{accept:?}");
        }
    }
}
