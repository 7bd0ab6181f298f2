//! As much of XML as the answers of the service have: elements by name, text, five entities.

use quiver_model::calendar::day_of;

/// Contents of all elements of a name, in order; elements of that name are not nested.
pub(super) fn parts_of<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}"), format!("</{name}>"));
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(&open) {
        rest = &rest[at + open.len()..];
        // `<Contents>` and not `<ContentsOf>`.
        let Some(end) = rest.find('>') else { break };
        let (head, body) = (&rest[..end], &rest[end + 1..]);
        if !head.is_empty() && !head.starts_with([' ', '\t', '\n', '\r', '/']) {
            continue;
        }
        if head.ends_with('/') {
            out.push("");
            rest = body;
            continue;
        }
        let Some(stop) = body.find(&close) else { break };
        out.push(&body[..stop]);
        rest = &body[stop + close.len()..];
    }
    out
}

/// Text of the first element of a name.
pub(super) fn text_of(text: &str, name: &str) -> Option<String> {
    parts_of(text, name).first().map(|t| unescape(t))
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some(end) = rest.find(';').filter(|e| *e <= 10) else {
            out.push('&');
            rest = &rest[1..];
            continue;
        };
        let entity = &rest[1..end];
        let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
        let c = match entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            e => match e.strip_prefix("#x").or(e.strip_prefix("#X")) {
                Some(hex) => number(hex, 16),
                None => e.strip_prefix('#').and_then(|d| number(d, 10)),
            },
        };
        match c {
            Some(c) => out.push(c),
            None => out.push_str(&rest[..=end]),
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    out
}

/// Text as an element's content.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// `2026-11-23T02:03:04.000Z` in ms since 1970.
pub(super) fn time_ms(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (y, m, d) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (h, min, s) = (number(11..13)?, number(14..16)?, number(17..19)?);
    Some(((day_of(y, m, d) * 24 + h) * 60 + min) * 60_000 + s * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found() {
        let text = "<?xml version=\"1.0\"?><R xmlns=\"x\"><ContentsOf>no</ContentsOf><Contents><Key>a&amp;b&#x20;&#228;</Key>\
                    <Size>12</Size></Contents><Contents ><Key>c</Key></Contents><Empty/><Key/></R>";
        let parts = parts_of(text, "Contents");
        assert_eq!(parts.len(), 2);
        assert_eq!(text_of(parts[0], "Key").as_deref(), Some("a&b ä"));
        assert_eq!(text_of(parts[1], "Size"), None);
        assert_eq!(text_of(text, "Empty").as_deref(), Some(""));
        assert_eq!(text_of("<Key>cut", "Key"), None);
        assert_eq!(unescape("a&b &unknown; &#xD800; &"), "a&b &unknown; &#xD800; &");
        assert_eq!(unescape(&escape("<\"&>")), "<\"&>");
    }

    #[test]
    fn times_are_read() {
        assert_eq!(time_ms("1970-01-01T00:00:00.000Z"), Some(0));
        assert_eq!(time_ms("2015-07-01T20:10:51.000Z"), Some(1_435_781_451_000));
        assert_eq!(time_ms("nonsense"), None);
    }
}
