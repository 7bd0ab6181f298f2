//! Parameters: query string and form body, times, durations, limits — as Prometheus reads them.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, header};
use quiver_model::calendar::{day_of, days_in_month};
use quiver_model::{Matcher, TimeRange};
use quiver_query::promql;

use super::body::{Received, receive_body};
use super::error::ApiError;
use super::media_type::MediaType;
use super::multipart;
use crate::Gateway;
use crate::rejections::cut;

/// Bytes of a form body at most: a query and its parameters.
const FORM_BYTES_MAX: usize = 10 << 20;

/// Parameters of a request, body before query string.
#[derive(Default)]
pub struct Params {
    pairs: Vec<(String, String)>,
    /// The form they came in, whose room they keep.
    _form: Option<Received>,
}

impl Params {
    /// Reads query string and, for POST and PUT, the form.
    pub async fn read(g: &Gateway, request: Request<Body>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let (mut pairs, mut form) = (Vec::new(), None);
        if parts.method == Method::POST || parts.method == Method::PUT {
            let media_type = media_type(&parts.headers)?;
            let is_multipart = media_type.essence == "multipart/form-data";
            if is_multipart || ["", "application/x-www-form-urlencoded"].contains(&media_type.essence.as_str()) {
                let received = receive_body(body, FORM_BYTES_MAX, &g.bodies).await.map_err(|e| ApiError::body(&e))?;
                let bytes = &received.bytes;
                if is_multipart {
                    multipart::decode(bytes, &media_type, &mut pairs)?;
                } else {
                    decode_pairs(bytes, &mut pairs)?;
                }
                form = Some(received.emptied());
            }
        }
        decode_pairs(parts.uri.query().unwrap_or("").as_bytes(), &mut pairs)?;
        Ok(Self { pairs, _form: form })
    }

    /// The first value of a parameter, or `""`.
    pub fn get(&self, name: &str) -> &str {
        self.pairs.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A required time, ms.
    pub fn time(&self, name: &str) -> Result<i64, ApiError> {
        parse_time(self.get(name)).map_err(|e| ApiError::invalid_param(name, e))
    }

    /// A time, ms, or a default if missing.
    pub fn time_or(&self, name: &str, default: i64) -> Result<i64, ApiError> {
        if self.get(name).is_empty() { Ok(default) } else { self.time(name) }
    }

    /// A duration, ms.
    pub fn duration(&self, name: &str) -> Result<i64, ApiError> {
        parse_duration(self.get(name)).map_err(|e| ApiError::invalid_param(name, e))
    }

    /// `start` to `end`: all times if missing.
    pub fn time_range(&self) -> Result<TimeRange, ApiError> {
        Ok(TimeRange { min: self.time_or("start", i64::MIN)?, max: self.time_or("end", i64::MAX)? })
    }

    /// The selectors of `match[]`; empty if the parameter is missing.
    pub fn selectors(&self, g: &Gateway) -> Result<Vec<Vec<Matcher>>, ApiError> {
        let options = g.services.engine.parse_options();
        let parse = |text| promql::parse_metric_selector(text, &options);
        let all = self.all("match[]").map(parse).collect::<Result<_, _>>();
        all.map_err(|e| ApiError::invalid_param("match[]", e.to_string()))
    }

    /// The selectors of `match[]`, each with a matcher that does not accept the empty string.
    pub fn narrow_selectors(&self, g: &Gateway) -> Result<Vec<Vec<Matcher>>, ApiError> {
        let all = self.selectors(g)?;
        if all.iter().any(|matchers| matchers.iter().all(Matcher::matches_empty)) {
            let text = "match[] must contain at least one non-empty matcher";
            return Err(ApiError::invalid_param("match[]", text.into()));
        }
        Ok(all)
    }

    /// Is there a `match[]`?
    pub fn require_selector(&self) -> Result<(), ApiError> {
        match self.all("match[]").next() {
            Some(_) => Ok(()),
            None => Err(ApiError::bad_data("no match[] parameter provided")),
        }
    }

    /// `limit`: 0 if missing.
    pub fn limit(&self) -> Result<usize, ApiError> {
        let text = self.get("limit");
        if text.is_empty() {
            return Ok(0);
        }
        match text.parse::<i64>() {
            Ok(n) if n < 0 => Err(ApiError::invalid_param("limit", "limit must be non-negative".into())),
            Ok(n) => Ok(usize::try_from(n).unwrap_or(usize::MAX)),
            Err(_) => Err(ApiError::invalid_param(
                "limit",
                format!("strconv.Atoi: parsing {}: invalid syntax", quiver_model::labels::quoted(text)),
            )),
        }
    }
}

/// The content type of a request; an empty one where it says none.
fn media_type(headers: &HeaderMap) -> Result<MediaType, ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE).filter(|v| !v.is_empty()) else {
        return Ok(MediaType::default());
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    // As Go's `mime.ParseMediaType`, a semicolon at the end is taken for nothing; `MediaType` has the rules of remote write.
    let bare = text.trim_end_matches([' ', '\t']);
    MediaType::parse(bare.strip_suffix(';').unwrap_or(bare)).map_err(|why| {
        let shown = quiver_model::labels::quoted(cut(&text, 100));
        ApiError::bad_data(format!("error parsing form values: content type {shown}: {why}"))
    })
}

fn decode_pairs(bytes: &[u8], out: &mut Vec<(String, String)>) -> Result<(), ApiError> {
    for piece in bytes.split(|b| *b == b'&').filter(|p| !p.is_empty()) {
        let at = piece.iter().position(|b| *b == b'=').unwrap_or(piece.len());
        let value = piece.get(at + 1..).unwrap_or(&[]);
        let bad = || ApiError::bad_data("error parsing form values: invalid URL escape");
        out.push((unescape(&piece[..at]).ok_or_else(bad)?, unescape(value).ok_or_else(bad)?));
    }
    Ok(())
}

/// Percent- and plus-decoding; none where an escape or the text is broken.
pub fn unescape(bytes: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'+' => out.push(b' '),
            b'%' => {
                let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
                out.push((digit(i + 1)? * 16 + digit(i + 2)?) as u8);
                i += 2;
            }
            b => out.push(b),
        }
        i += 1;
    }
    String::from_utf8(out).ok()
}

/// Percent-decoding of a path, in which a plus is a plus.
pub fn unescape_path(path: &str) -> Result<Cow<'_, str>, &'static str> {
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(b) = bytes.next() {
        let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        match b {
            b'%' => match (hex(bytes.next()), hex(bytes.next())) {
                (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
                _ => return Err("invalid URL escape"),
            },
            b => out.push(b),
        }
    }
    String::from_utf8(out).map(Cow::Owned).map_err(|_| "it is not UTF-8")
}

/// The earliest time that Prometheus has, s and as text, and the latest, ms and as text: what its clients send for "all of time".
const TIME_MIN_S: i64 = -9_223_309_901_257_974;
const TIME_MIN_TEXT: &str = "-292273086-05-16T16:47:06Z";
const TIME_MAX_MS: i64 = 9_223_309_901_257_974_999;
const TIME_MAX_TEXT: &str = "292277025-08-18T07:12:54.999999999Z";

/// A time as float seconds or RFC 3339, in ms. Times that no 64-bit number of milliseconds can say are refused.
pub fn parse_time(text: &str) -> Result<i64, String> {
    let bad = || {
        let end = if text.len() > 100 { "…" } else { "" };
        format!("cannot parse {}{end} to a valid timestamp", quiver_model::labels::quoted(cut(text, 100)))
    };
    if let Ok(seconds) = parse_float(text) {
        let whole = seconds.trunc();
        // The bound is a power of two: beyond it ms do not fit.
        if !seconds.is_finite() || whole.abs() > i64::MAX as f64 / 1000.0 {
            return Err(bad());
        }
        let ms = ((seconds - whole) * 1000.0).round();
        return Ok((whole as i64).saturating_mul(1000).saturating_add(ms as i64));
    }
    match text {
        TIME_MIN_TEXT => Ok(TIME_MIN_S * 1000),
        TIME_MAX_TEXT => Ok(TIME_MAX_MS),
        _ => parse_rfc3339(text).ok_or_else(bad),
    }
}

/// Go's `strconv.ParseFloat` for the forms that occur: Rust's, without its `infinity` spellings being any wider.
fn parse_float(text: &str) -> Result<f64, std::num::ParseFloatError> {
    text.parse::<f64>()
}

/// `2026-01-02T03:04:05.678+01:00` in ms.
fn parse_rfc3339(text: &str) -> Option<i64> {
    let b = text.as_bytes();
    let number = |r: std::ops::Range<usize>| -> Option<i64> {
        let s = text.get(r)?;
        s.bytes().all(|c| c.is_ascii_digit()).then(|| s.parse().ok())?
    };
    if b.len() < 20 || b[4] != b'-' || b[7] != b'-' || !matches!(b[10], b'T' | b't') || b[13] != b':' || b[16] != b':' {
        return None;
    }
    let (y, mo, d) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (h, mi, s) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&mo) || d < 1 || d > days_in_month(y, mo) || h > 23 || mi > 59 || s > 59 {
        return None;
    }
    let mut at = 19;
    let mut ms = 0;
    if b.get(at) == Some(&b'.') {
        at += 1;
        let from = at;
        while b.get(at).is_some_and(u8::is_ascii_digit) {
            if at - from < 3 {
                ms += i64::from(b[at] - b'0') * [100, 10, 1][at - from];
            }
            at += 1;
        }
        if at == from {
            return None;
        }
    }
    let offset = match b.get(at)? {
        b'Z' | b'z' if b.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if b.len() == at + 6 && b[at + 3] == b':' => {
            let minutes = number(at + 1..at + 3)? * 60 + number(at + 4..at + 6)?;
            if *sign == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    Some((day_of(y, mo, d) * 86_400 + h * 3600 + mi * 60 + s - offset * 60) * 1000 + ms)
}

/// A duration as float seconds or `1h30m`, in ms.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let shown = quiver_model::labels::quoted(cut(text, 100));
    if let Ok(seconds) = parse_float(text) {
        let ns = seconds * 1e9;
        if ns.is_nan() || !(i64::MIN as f64..i64::MAX as f64).contains(&ns) {
            return Err(format!("cannot parse {shown} to a valid duration. It overflows int64"));
        }
        return Ok((ns as i64) / 1_000_000);
    }
    quiver_model::duration::parse_ms(text).ok_or_else(|| format!("cannot parse {shown} to a valid duration"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_prometheus_reads_them() {
        assert_eq!(parse_time("1.5"), Ok(1500));
        assert_eq!(parse_time("1435781451.781"), Ok(1_435_781_451_781));
        assert_eq!(parse_time("2015-07-01T20:10:51.781Z"), Ok(1_435_781_451_781));
        assert_eq!(parse_time("2015-07-01T22:10:51.781+02:00"), Ok(1_435_781_451_781));
        assert_eq!(parse_time("1763800000000"), Ok(1_763_800_000_000_000));
        assert!(parse_time("1e300").is_err());
        // The ends of time that Prometheus has, as numbers and as its clients write them.
        assert_eq!(parse_time("-9223309901257974"), Ok(-9_223_309_901_257_974_000));
        assert_eq!(parse_time("9223309901257974"), Ok(9_223_309_901_257_974_000));
        assert_eq!(parse_time("-292273086-05-16T16:47:06Z"), Ok(-9_223_309_901_257_974_000));
        assert_eq!(parse_time("292277025-08-18T07:12:54.999999999Z"), Ok(9_223_309_901_257_974_999));
        assert_eq!(parse_time("9.3e15").ok(), None);
        for text in ["1e16", "-1e16", "NaN", "Inf", "-Inf"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
        assert!(parse_time(&"x".repeat(1_000_000)).unwrap_err().len() < 200);
        assert!(parse_time("2015-13-01T20:10:51Z").is_err());
        assert!(parse_time("").is_err());
    }

    #[test]
    fn durations_as_prometheus_reads_them() {
        assert_eq!(parse_duration("15"), Ok(15_000));
        assert_eq!(parse_duration("1h30m"), Ok(5_400_000));
        assert_eq!(parse_duration("1y2ms"), Ok(31_536_000_002));
        assert!(parse_duration("30m1h").is_err());
        assert!(parse_duration("1e20").is_err());
        assert!(parse_duration("NaN").is_err());
        assert!(parse_duration("").is_err());
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(b"a%20b+c%C3%A9").as_deref(), Some("a b cé"));
        for bad in [&b"%zz"[..], b"%+1", b"%-1", b"%1", b"%"] {
            assert_eq!(unescape(bad), None);
        }
        assert_eq!(unescape(b"%ff"), None);
    }
}
