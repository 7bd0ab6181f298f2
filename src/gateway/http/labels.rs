//! `labels`, `label/NAME/values`, `series`, `metadata`.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{HeaderMap, Response};
use quiver_model::Labels;

use super::error::ApiError;
use super::params::Params;
use super::success;
use crate::Gateway;

/// Bytes of a list that needs no turn to be written.
const LIST_BYTES_AT_ONCE: usize = 128 << 10;
/// Series of one that needs none.
const LIST_AT_ONCE: usize = 1_000;

const TRUNCATED: &str = "results truncated due to limit";

/// One more than the limit is asked for, to know whether the list was cut.
fn ask(limit: usize) -> usize {
    if limit == 0 { usize::MAX } else { limit.saturating_add(1) }
}

fn strings(g: &Gateway, headers: &HeaderMap, mut list: Vec<String>, limit: usize) -> Response<Body> {
    let mut warnings = Vec::new();
    if limit > 0 && list.len() > limit {
        list.truncate(limit);
        warnings.push(TRUNCATED.to_owned());
    }
    let bytes: usize = list.iter().map(|text| text.len() + 3).sum();
    let _turn = (bytes > LIST_BYTES_AT_ONCE).then(|| g.writers.enter());
    success(headers, &warnings, &[], |j| {
        // Grown step by step, a large answer would be there twice.
        j.reserve(bytes);
        j.strings(list.iter().map(String::as_str));
    })
}

/// `/labels`
pub fn names(g: &Gateway, headers: &HeaderMap, p: &Params) -> Result<Response<Body>, ApiError> {
    let (limit, range, selectors) = (p.limit()?, p.time_range()?, p.narrow_selectors(g)?);
    let list = g.services.source.snapshot().label_names(&selectors, range, ask(limit))?;
    Ok(strings(g, headers, list, limit))
}

/// `/label/NAME/values`
pub fn values(g: &Gateway, headers: &HeaderMap, p: &Params, name: &str) -> Result<Response<Body>, ApiError> {
    let unescaped;
    let name = match name.strip_prefix("U__") {
        Some(rest) => {
            unescaped = unescape_name(rest).unwrap_or_else(|| name.to_owned());
            unescaped.as_str()
        }
        None => name,
    };
    if name.is_empty() {
        return Err(ApiError::bad_data("invalid label name: \"\""));
    }
    let (limit, range, selectors) = (p.limit()?, p.time_range()?, p.narrow_selectors(g)?);
    let list = g.services.source.snapshot().label_values(name, &selectors, range, ask(limit))?;
    Ok(strings(g, headers, list, limit))
}

/// Prometheus's value-encoded names after their `U__`: `_HEX_` is a character, `__` an underscore.
fn unescape_name(rest: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = rest.char_indices();
    while let Some((i, c)) = chars.next() {
        if c != '_' {
            out.push(c);
            continue;
        }
        let tail = &rest[i + 1..];
        let end = tail.find('_')?;
        if end == 0 {
            out.push('_');
        } else {
            let code = u32::from_str_radix(&tail[..end], 16).ok().filter(|_| end <= 6)?;
            out.push(char::from_u32(code)?);
        }
        for _ in 0..tail[..end].chars().count() + 1 {
            chars.next();
        }
    }
    Some(out)
}

/// `/series`
pub fn series(g: &Gateway, headers: &HeaderMap, p: &Params) -> Result<Response<Body>, ApiError> {
    p.require_selector()?;
    let (limit, range, selectors) = (p.limit()?, p.time_range()?, p.narrow_selectors(g)?);
    let snapshot = g.services.source.snapshot();
    let max = g.services.limits.get().query_series_max;
    let mut warnings = Vec::new();
    let mut list: Vec<Labels> = Vec::new();
    if let [one] = selectors.as_slice() {
        let set = snapshot.select(one, range, max)?;
        let n = if limit > 0 { set.len().min(limit.saturating_add(1)) } else { set.len() };
        list.extend((0..n).map(|i| set.labels(i).clone()));
    } else {
        let mut all = BTreeSet::new();
        for one in &selectors {
            let set = snapshot.select(one, range, max)?;
            all.extend((0..set.len()).map(|i| set.labels(i).clone()));
        }
        list.extend(all);
    }
    if limit > 0 && list.len() > limit {
        list.truncate(limit);
        warnings.push(TRUNCATED.to_owned());
    }
    let _turn = (list.len() > LIST_AT_ONCE).then(|| g.writers.enter());
    Ok(success(headers, &warnings, &[], |j| {
        j.raw("[");
        for (i, l) in list.iter().enumerate() {
            if i > 0 {
                j.raw(",");
            }
            j.labels(l);
        }
        j.raw("]");
    }))
}

/// `/metadata`
pub fn metadata(g: &Gateway, headers: &HeaderMap, p: &Params) -> Result<Response<Body>, ApiError> {
    let number = |name: &str| match p.get(name) {
        "" => Ok(None),
        text => text.parse::<i64>().map(Some).map_err(|_| ApiError::bad_data(format!("{name} must be a number"))),
    };
    let (limit, per_metric) = (number("limit")?, number("limit_per_metric")?);
    let metric = Some(p.get("metric")).filter(|m| !m.is_empty());
    let mut list = g.services.source.snapshot().metadata(metric);
    if let Some(n) = limit.and_then(|n| usize::try_from(n).ok()) {
        list.truncate(n);
    }
    Ok(success(headers, &[], &[], |j| {
        j.raw("{");
        for (i, (name, entries)) in list.iter().enumerate() {
            if i > 0 {
                j.raw(",");
            }
            j.string(name).raw(":[");
            let n = per_metric.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(usize::MAX);
            for (k, m) in entries.iter().take(n).enumerate() {
                j.raw(if k > 0 { r#",{"type":"# } else { r#"{"type":"# }).string(m.kind.as_str());
                j.raw(r#","unit":"#).string(&m.unit).raw(r#","help":"#).string(&m.help).raw("}");
            }
            j.raw("]");
        }
        j.raw("}");
    }))
}

#[cfg(test)]
mod tests {
    use super::unescape_name;

    #[test]
    fn names_in_value_encoding() {
        assert_eq!(unescape_name("http_2e_status:sum").as_deref(), Some("http.status:sum"));
        assert_eq!(unescape_name("a__b_20_c").as_deref(), Some("a_b c"));
        assert_eq!(unescape_name("a_zz_"), None);
    }
}
