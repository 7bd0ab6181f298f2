//! Durations as Prometheus writes them in parameters and flags.

const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// A duration as Prometheus prints it: `30d`, `3d5h`, `1m30s`. Years and weeks are used only where they fit exactly.
pub fn format_ms(ms: i64) -> String {
    let mut rest = ms.unsigned_abs();
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::from(if ms < 0 { "-" } else { "" });
    for (unit, size) in UNITS {
        let size = size.unsigned_abs();
        let fits = !matches!(unit, "y" | "w") || rest.is_multiple_of(size);
        if rest >= size && fits {
            text.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    text
}

/// `1y2w3d4h5m6s7ms`, each unit at most once and in this order.
pub fn parse_ms(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut next = 0;
    let mut total = 0i64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let n: i64 = rest.get(..digits)?.parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = &rest[..letters];
        rest = &rest[letters..];
        let k = UNITS.iter().position(|(u, _)| *u == unit).filter(|k| *k >= next)?;
        next = k + 1;
        total = total.checked_add(n.checked_mul(UNITS[k].1)?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::{format_ms, parse_ms};

    #[test]
    fn units_come_once_and_in_order() {
        assert_eq!(parse_ms("1h30m"), Some(5_400_000));
        assert_eq!(parse_ms("1y2ms"), Some(31_536_000_002));
        assert_eq!(parse_ms("0"), Some(0));
        for bad in ["", "30m1h", "1h1h", "5", "m", "1 h", "99999999999999y"] {
            assert_eq!(parse_ms(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_printed_is_parsed() {
        for (ms, text) in [(0, "0s"), (30 * 86_400_000, "30d"), (277_200_000, "3d5h"), (90_001, "1m30s1ms")] {
            assert_eq!(format_ms(ms), text);
        }
        assert_eq!((format_ms(365 * 86_400_000), format_ms(14 * 86_400_000)), ("1y".to_owned(), "2w".to_owned()));
        assert_eq!(format_ms(-60_000), "-1m");
        for ms in [1, 999, 86_399_999, 123_456_789_012, i64::MAX] {
            assert_eq!(parse_ms(&format_ms(ms)), Some(ms));
        }
    }
}
