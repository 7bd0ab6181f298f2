//! Values of attributes as values of labels, and floats in names of buckets, as Prometheus writes them.
//!
//! Lists and maps become JSON, maps by ascending key. A value that JSON cannot say (NaN in a list) becomes none.

use std::fmt::Write as _;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use quiver_model::number::{push_shortest, shortest_scientific};

/// Why a value has no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoText {
    /// It takes more bytes than a value may.
    TooLong,
    /// JSON has no word for a part of it.
    Unsayable,
}

/// Appends the text of a value, of at most `max` bytes; nothing if the value is missing or cannot be written as JSON.
pub(super) fn push_value(value: Option<&AnyValue>, max: usize, out: &mut String) -> Result<(), NoText> {
    let at = out.len();
    let Some(value) = value.and_then(|v| v.value.as_ref()) else { return Ok(()) };
    let done = match value {
        Any::StringValue(s) => {
            if s.len() <= max {
                out.push_str(s);
            }
            within(s.len(), max)
        }
        Any::BytesValue(b) => push_base64(b, max, out),
        Any::DoubleValue(d) if d.is_nan() => push("NaN", out),
        Any::DoubleValue(d) if d.is_infinite() => push(if *d > 0.0 { "Infinity" } else { "-Infinity" }, out),
        other => push_json(other, at, max, out),
    };
    let done = done.and_then(|()| within(out.len() - at, max));
    if done.is_err() {
        out.truncate(at);
    }
    if done == Err(NoText::Unsayable) { Ok(()) } else { done }
}

fn push(text: &str, out: &mut String) -> Result<(), NoText> {
    out.push_str(text);
    Ok(())
}

fn within(bytes: usize, max: usize) -> Result<(), NoText> {
    if bytes > max { Err(NoText::TooLong) } else { Ok(()) }
}

/// Appends JSON; `at` is where the whole value began.
fn push_json(value: &Any, at: usize, max: usize, out: &mut String) -> Result<(), NoText> {
    // What is longer is cut off as it comes, so that a list of many small values does not become a long text first.
    within(out.len() - at, max)?;
    let nested = |v: Option<&AnyValue>, out: &mut String| match v.and_then(|v| v.value.as_ref()) {
        Some(v) => push_json(v, at, max, out),
        None => push("null", out),
    };
    match value {
        Any::StringValue(s) => push_quoted(s, max, out)?,
        Any::BoolValue(b) => out.push_str(if *b { "true" } else { "false" }),
        Any::IntValue(i) => _ = write!(out, "{i}"),
        Any::DoubleValue(d) if d.is_finite() => push_number(*d, out),
        Any::DoubleValue(_) => return Err(NoText::Unsayable),
        Any::BytesValue(b) if b.is_empty() => out.push_str("null"),
        Any::BytesValue(b) => {
            out.push('"');
            push_base64(b, max, out)?;
            out.push('"');
        }
        Any::ArrayValue(a) => {
            out.push('[');
            for (i, v) in a.values.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                nested(Some(v), out)?;
            }
            out.push(']');
        }
        Any::KvlistValue(list) => {
            out.push('{');
            let mut pairs: Vec<&KeyValue> = list.values.iter().collect();
            pairs.sort_by(|a, b| a.key.cmp(&b.key));
            for (i, kv) in pairs.iter().enumerate() {
                // Of a key that is there twice, the last value counts.
                if pairs.get(i + 1).is_some_and(|next| next.key == kv.key) {
                    continue;
                }
                out.push_str(if out.ends_with('{') { "" } else { "," });
                push_quoted(&kv.key, max, out)?;
                out.push(':');
                nested(kv.value.as_ref(), out)?;
            }
            out.push('}');
        }
        // An index into a table that only profiles have.
        Any::StringValueStrindex(_) => out.push_str("null"),
    }
    Ok(())
}

/// A string in quotes, escaped as Go does where it leaves HTML alone.
fn push_quoted(text: &str, max: usize, out: &mut String) -> Result<(), NoText> {
    within(text.len(), max)?;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..' ' | '\u{2028}' | '\u{2029}' => _ = write!(out, "\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}

/// A number as JavaScript and Go's JSON write it: an exponent below 1e-6 and from 1e21 on.
fn push_number(v: f64, out: &mut String) {
    let a = v.abs();
    if a == 0.0 || (1e-6..1e21).contains(&a) {
        return push_shortest(out, v);
    }
    let text = shortest_scientific(v);
    match text.split_once('e') {
        Some((mantissa, exponent)) if !exponent.starts_with('-') => _ = write!(out, "{mantissa}e+{exponent}"),
        _ => out.push_str(&text),
    }
}

/// The bound of a bucket: plain decimals, never an exponent.
pub(super) fn push_bound(v: f64, out: &mut String) {
    if v.is_nan() {
        out.push_str("NaN");
    } else if v.is_infinite() {
        out.push_str(if v > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        push_shortest(out, v);
    }
}

fn push_base64(bytes: &[u8], max: usize, out: &mut String) -> Result<(), NoText> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    within(bytes.len(), max)?;
    for piece in bytes.chunks(3) {
        let n = piece.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - piece.len()));
        for i in 0..4 {
            if i <= piece.len() {
                out.push(char::from(ALPHABET[(n >> (18 - 6 * i)) as usize & 63]));
            } else {
                out.push('=');
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValueList};

    fn value(v: Any) -> AnyValue {
        AnyValue { value: Some(v) }
    }

    fn list(values: Vec<Any>) -> Any {
        Any::ArrayValue(ArrayValue { values: values.into_iter().map(value).collect() })
    }

    fn map(pairs: Vec<(&str, Any)>) -> Any {
        let pair = |(key, v): (&str, Any)| KeyValue { key: key.into(), value: Some(value(v)), ..KeyValue::default() };
        Any::KvlistValue(KeyValueList { values: pairs.into_iter().map(pair).collect() })
    }

    fn text(v: Any) -> String {
        let mut out = String::new();
        push_value(Some(&value(v)), 1_000, &mut out).unwrap();
        out
    }

    #[test]
    fn values_as_prometheus_writes_them() {
        let s = |s: &str| Any::StringValue(s.into());
        for (v, wanted) in [
            (Any::BoolValue(true), "true"),
            (Any::BoolValue(false), "false"),
            (Any::IntValue(5), "5"),
            (Any::IntValue(i64::MIN), "-9223372036854775808"),
            (Any::DoubleValue(1.0), "1"),
            (Any::DoubleValue(1.5), "1.5"),
            (Any::DoubleValue(1e21), "1e+21"),
            (Any::DoubleValue(1e20), "100000000000000000000"),
            (Any::DoubleValue(1e-6), "0.000001"),
            (Any::DoubleValue(1e-7), "1e-7"),
            (Any::DoubleValue(-1.5e-12), "-1.5e-12"),
            (Any::DoubleValue(123_456_789.125), "123456789.125"),
            (Any::DoubleValue(f64::NAN), "NaN"),
            (Any::DoubleValue(f64::INFINITY), "Infinity"),
            (Any::DoubleValue(f64::NEG_INFINITY), "-Infinity"),
            (Any::DoubleValue(-0.0), "-0"),
            (Any::BytesValue(vec![0, 0xff]), "AP8="),
            (Any::BytesValue(Vec::new()), ""),
            (list(vec![s("a"), Any::IntValue(1)]), r#"["a",1]"#),
            (list(vec![Any::DoubleValue(1.0), Any::DoubleValue(1.5), Any::BoolValue(true)]), "[1,1.5,true]"),
            (list(vec![s("a"), Any::DoubleValue(f64::NAN)]), ""),
            (list(vec![Any::DoubleValue(f64::INFINITY)]), ""),
            (list(vec![Any::BytesValue(vec![0, 0xff])]), r#"["AP8="]"#),
            (list(vec![Any::BytesValue(Vec::new())]), "[null]"),
            (list(Vec::new()), "[]"),
            (map(vec![("b", Any::IntValue(1)), ("a", s("x"))]), r#"{"a":"x","b":1}"#),
            (map(vec![("k", map(vec![("z", list(vec![Any::IntValue(1)]))]))]), r#"{"k":{"z":[1]}}"#),
            (map(vec![("a", Any::IntValue(1)), ("b", s("{")), ("a", Any::IntValue(2))]), r#"{"a":2,"b":"{"}"#),
            (map(Vec::new()), "{}"),
            (list(vec![s("<&>\"\\\n\u{1}\u{2028}")]), r#"["<&>\"\\\n\u0001\u2028"]"#),
            (list(vec![Any::DoubleValue(1e21), Any::DoubleValue(1e-7)]), "[1e+21,1e-7]"),
            (
                list(vec![Any::DoubleValue(1e16), Any::DoubleValue(1e20), Any::DoubleValue(-0.0)]),
                "[10000000000000000,100000000000000000000,-0]",
            ),
        ] {
            assert_eq!(text(v.clone()), wanted, "{v:?}");
        }
        let nulls = ArrayValue { values: vec![AnyValue { value: None }] };
        assert_eq!(text(Any::ArrayValue(nulls)), "[null]");
        let mut out = String::new();
        assert_eq!((push_value(None, 9, &mut out), out.as_str()), (Ok(()), ""));
    }

    #[test]
    fn what_is_too_long_is_not_written_first() {
        for v in [
            Any::StringValue("x".repeat(11)),
            Any::BytesValue(vec![0; 9]),
            list(vec![Any::IntValue(1); 1_000_000]),
            list(vec![Any::StringValue("x".repeat(1_000_000))]),
            list(vec![list(vec![Any::StringValue("\u{1}".repeat(10)); 1_000])]),
        ] {
            let mut out = "before".to_owned();
            assert_eq!(push_value(Some(&value(v)), 10, &mut out), Err(NoText::TooLong));
            assert!(out == "before" && out.capacity() < 1_000, "{}", out.capacity());
        }
        let mut out = String::new();
        assert_eq!(push_value(Some(&value(Any::StringValue("x".repeat(10)))), 10, &mut out), Ok(()));
    }

    #[test]
    fn bounds_and_base64() {
        let bound = |v| {
            let mut out = String::new();
            push_bound(v, &mut out);
            out
        };
        assert_eq!(bound(1e-7), "0.0000001");
        assert_eq!(bound(1e21), "1000000000000000000000");
        assert_eq!(
            [1.0, 1e7, -1.0, -0.0, f64::NAN, f64::NEG_INFINITY].map(bound),
            ["1", "10000000", "-1", "-0", "NaN", "-Inf"]
        );
        let base64 = |s: &str| {
            let mut out = String::new();
            push_base64(s.as_bytes(), 100, &mut out).unwrap();
            out
        };
        assert_eq!(["", "f", "fo", "foo", "foob"].map(base64), ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }
}
