//! Numbers and durations: text to value and back.

use super::strings;

/// Nanoseconds in a second.
const SECOND: f64 = 1e9;

/// The largest duration there is, in seconds: 2^63 nanoseconds.
const SECONDS_MAX: f64 = 9_223_372_036_854_775_808.0 / SECOND;

/// Is a duration literal of so many seconds too long for an `i64` of nanoseconds?
pub(super) fn duration_out_of_range(seconds: f64) -> bool {
    !(-SECONDS_MAX..=SECONDS_MAX).contains(&seconds) && !seconds.is_nan()
}

/// Value of a number: an integer in any base if it is one that fits, otherwise a float.
pub(super) fn parse_number(text: &str) -> Result<f64, String> {
    if let Some(n) = parse_integer(text) {
        return Ok(n as f64);
    }
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "inf" => return Ok(f64::INFINITY),
        "nan" => return Ok(f64::NAN),
        _ => {}
    }
    let bad = |why: &str| format!("strconv.ParseFloat: parsing {}: {why}", strings::quote(text));
    let plain: String;
    let digits = if text.contains('_') {
        if !underscores_ok(text) {
            return Err(bad("invalid syntax"));
        }
        plain = text.replace('_', "");
        plain.as_str()
    } else {
        text
    };
    if !digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-')) {
        return Err(bad("invalid syntax"));
    }
    match digits.parse::<f64>() {
        Ok(v) if v.is_infinite() => Err(bad("value out of range")),
        Ok(v) => Ok(v),
        Err(_) => Err(bad("invalid syntax")),
    }
}

/// An integer: `12`, `0x1F`, `017` (octal), underscores between digits.
fn parse_integer(text: &str) -> Option<i64> {
    if text.contains('_') && !underscores_ok(text) {
        return None;
    }
    let (base, digits) = match text.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (16, text.get(2..)?),
        [b'0', b'o' | b'O', _, ..] => (8, text.get(2..)?),
        [b'0', b'b' | b'B', _, ..] => (2, text.get(2..)?),
        [b'0'] => return Some(0),
        [b'0', ..] => (8, text.get(1..)?),
        _ => (10, text),
    };
    let mut value: i64 = 0;
    for b in digits.bytes().filter(|b| *b != b'_') {
        let d = char::from(b).to_digit(base)?;
        value = value.checked_mul(i64::from(base))?.checked_add(i64::from(d))?;
    }
    Some(value)
}

/// Does every underscore stand between two digits, or between the prefix of a base and a digit?
fn underscores_ok(text: &str) -> bool {
    let bytes = text.as_bytes();
    let prefixed = matches!(bytes, [b'0', b'x' | b'X' | b'o' | b'O' | b'b' | b'B', ..]);
    let hex = matches!(bytes, [b'0', b'x' | b'X', ..]);
    let (mut after_digit, mut after_underscore) = (prefixed, false);
    for b in bytes.iter().skip(if prefixed { 2 } else { 0 }) {
        if b.is_ascii_digit() || (hex && b.is_ascii_hexdigit()) {
            (after_digit, after_underscore) = (true, false);
        } else if *b == b'_' {
            if !after_digit {
                return false;
            }
            (after_digit, after_underscore) = (false, true);
        } else {
            if after_underscore {
                return false;
            }
            (after_digit, after_underscore) = (false, false);
        }
    }
    !after_underscore
}

const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 24 * 3600 * 1_000_000_000),
    ("w", 7 * 24 * 3600 * 1_000_000_000),
    ("d", 24 * 3600 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

/// A duration such as `1h30m`, in seconds. Units go from long to short, each at most once.
pub(super) fn parse_duration(text: &str) -> Result<f64, String> {
    parse_duration_ns(text).map(seconds_of_ns)
}

fn parse_duration_ns(text: &str) -> Result<i64, String> {
    if text == "0" {
        return Ok(0);
    }
    if text.is_empty() {
        return Err("empty duration string".into());
    }
    let invalid = || format!("not a valid duration string: {}", strings::quote(text));
    let out_of_range = || "duration out of range".to_owned();
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units_left = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest.get(..digits).and_then(|d| d.parse().ok()).ok_or_else(invalid)?;
        rest = rest.get(digits..).unwrap_or("");
        let letters = rest.bytes().take_while(|b| !b.is_ascii_digit()).count();
        let unit = rest.get(..letters).unwrap_or("");
        rest = rest.get(letters..).unwrap_or("");
        if unit.is_empty() {
            return Err(invalid());
        }
        let Some((index, (_, ns))) = UNITS.iter().enumerate().find(|(_, (name, _))| *name == unit) else {
            return Err(format!("unknown unit {} in duration {}", strings::quote(unit), strings::quote(text)));
        };
        if index < units_left {
            return Err(invalid());
        }
        units_left = index + 1;
        if count > (1 << 63) / ns {
            return Err(out_of_range());
        }
        total = total.wrapping_add(count * ns);
        if total > i64::MAX as u64 {
            return Err(out_of_range());
        }
    }
    Ok(total as i64)
}

fn seconds_of_ns(ns: i64) -> f64 {
    (ns / 1_000_000_000) as f64 + (ns % 1_000_000_000) as f64 / SECOND
}

/// Milliseconds as seconds.
pub(super) fn seconds_of_ms(ms: i64) -> f64 {
    (ms / 1000) as f64 + (ms % 1000 * 1_000_000) as f64 / SECOND
}

/// Whole milliseconds of a literal of so many seconds, rounded to nanoseconds first.
pub(super) fn ms_of_seconds(seconds: f64) -> i64 {
    ns_of_seconds(seconds) / 1_000_000
}

/// Nanoseconds of a literal of so many seconds.
pub(super) fn ns_of_seconds(seconds: f64) -> i64 {
    float_to_int((seconds * SECOND).round())
}

/// Toward zero; what does not fit becomes the smallest integer.
pub(super) fn float_to_int(v: f64) -> i64 {
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&v) { v as i64 } else { i64::MIN }
}

/// `1h30m`; years and weeks only where they come out even.
pub(super) fn push_duration(out: &mut String, ms: i64) {
    if ms == 0 {
        out.push_str("0s");
        return;
    }
    if ms < 0 {
        out.push('-');
    }
    let mut left = ms.unsigned_abs();
    for (unit, ns) in UNITS {
        let len = ns / 1_000_000;
        let exact = matches!(unit, "y" | "w");
        if (exact && !left.is_multiple_of(len)) || left < len {
            continue;
        }
        out.push_str(&format!("{}{unit}", left / len));
        left %= len;
    }
}

/// A literal written as a duration of so many seconds.
pub(super) fn push_duration_seconds(out: &mut String, seconds: f64) {
    if seconds < 0.0 {
        out.push('-');
    }
    push_duration(out, float_to_int(seconds.abs() * SECOND) / 1_000_000);
}

/// The shortest digits that mean `v`, never with an exponent.
pub(super) fn format_float(v: f64) -> String {
    if v.is_nan() {
        "NaN".into()
    } else if v.is_infinite() {
        if v > 0.0 { "+Inf".into() } else { "-Inf".into() }
    } else {
        let mut out = String::new();
        quiver_model::number::push_shortest(&mut out, v);
        out
    }
}

/// The shortest digits that mean `v`; very large and very small ones with an exponent of at least two digits.
pub(super) fn format_float_exponent(v: f64) -> String {
    if !v.is_finite() || v == 0.0 {
        return format_float(v);
    }
    let text = quiver_model::number::shortest_scientific(v);
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    match exponent.parse::<i32>() {
        Ok(e) if !(-4..21).contains(&e) => {
            format!("{mantissa}e{}{:02}", if e < 0 { '-' } else { '+' }, e.unsigned_abs())
        }
        _ => format_float(v),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(parse_number("0x1F"), Ok(31.0));
        assert_eq!(parse_number("017"), Ok(15.0));
        assert_eq!(parse_number("08"), Ok(8.0));
        assert_eq!(parse_number("1_000.5"), Ok(1000.5));
        assert_eq!(parse_number("1e3"), Ok(1000.0));
        assert_eq!(parse_number("9223372036854775808"), Ok(9_223_372_036_854_775_808.0));
        assert_eq!(parse_number("Inf"), Ok(f64::INFINITY));
        assert!(parse_number("nAn").is_ok_and(f64::is_nan));
        assert_eq!(parse_number("1e1000"), Err(r#"strconv.ParseFloat: parsing "1e1000": value out of range"#.into()));
        assert_eq!(parse_number("0x"), Err(r#"strconv.ParseFloat: parsing "0x": invalid syntax"#.into()));
        assert!(parse_number("1_").is_err());
    }

    #[test]
    fn durations_read_and_print() {
        for s in ["1h30m", "1y", "90d", "2w", "5ms", "1s500ms", "12d6h"] {
            let mut out = String::new();
            push_duration_seconds(&mut out, parse_duration(s).unwrap());
            assert_eq!(out, s);
        }
        assert_eq!(parse_duration("5m1h"), Err("not a valid duration string: \"5m1h\"".into()));
        assert_eq!(parse_duration("300y"), Err("duration out of range".into()));
        assert_eq!(parse_duration("1hs"), Err("unknown unit \"hs\" in duration \"1hs\"".into()));
    }

    #[test]
    fn floats_print_without_and_with_exponent() {
        assert_eq!(format_float(1e21), "1000000000000000000000");
        assert_eq!(format_float(-0.0), "-0");
        assert_eq!(format_float_exponent(1e21), "1e+21");
        assert_eq!(format_float_exponent(1.5e-7), "1.5e-07");
        assert_eq!(format_float_exponent(123.25), "123.25");
    }
}
