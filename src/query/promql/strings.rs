//! String literals, and text quoted the way messages and printed queries quote it.

use std::sync::OnceLock;

use quiver_model::labels::{is_printable, push_escaped, quoted, quoted_bytes};
use quiver_model::matcher::text_of_bytes;

/// The value of a string literal with its quotes, as a matcher has it. `None`: no literal.
pub(super) fn unquote(literal: &str) -> Option<String> {
    unquote_bytes(literal).map(|b| text_of_bytes(&b))
}

/// Text with U+FFFD for what is not UTF-8.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The bytes of a string literal with its quotes. `None`: no literal.
pub(super) fn unquote_bytes(literal: &str) -> Option<Vec<u8>> {
    let quote = literal.chars().next()?;
    let inner = literal.strip_prefix(quote)?.strip_suffix(quote)?;
    match quote {
        '`' => return (!inner.contains('`')).then(|| inner.into()),
        '"' | '\'' => {}
        _ => return None,
    }
    if inner.contains('\n') {
        return None;
    }
    if !inner.contains(['\\', quote]) {
        return Some(inner.into());
    }
    let mut out: Vec<u8> = Vec::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c == quote {
            return None;
        }
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let digits = |n: usize, base: u32, first: u32, chars: &mut std::str::Chars<'_>| {
            (0..n).try_fold(first, |v, _| Some(v.wrapping_mul(base).wrapping_add(chars.next()?.to_digit(base)?)))
        };
        match chars.next()? {
            'a' => out.push(0x07),
            'b' => out.push(0x08),
            'f' => out.push(0x0c),
            'n' => out.push(b'\n'),
            'r' => out.push(b'\r'),
            't' => out.push(b'\t'),
            'v' => out.push(0x0b),
            '\\' => out.push(b'\\'),
            c if c == quote => out.push(c as u8),
            'x' => out.push(digits(2, 16, 0, &mut chars)? as u8),
            c @ '0'..='7' => out.push(u8::try_from(digits(2, 8, c.to_digit(8)?, &mut chars)?).ok()?),
            c @ ('u' | 'U') => {
                let v = digits(if c == 'u' { 4 } else { 8 }, 16, 0, &mut chars)?;
                if v > u32::from(char::MAX) {
                    return None;
                }
                let c = char::from_u32(v).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        }
    }
    Some(out)
}

/// `"…"` with everything that does not print escaped.
pub(super) fn quote(s: &str) -> String {
    quoted(s)
}

/// Appends `"…"` with everything that does not print escaped.
pub(super) fn push_quoted(out: &mut String, s: &str) {
    out.push_str(&quoted(s));
}

/// Appends `"…"` for bytes that need not be text.
pub(super) fn push_quoted_bytes(out: &mut String, bytes: &[u8]) {
    out.push_str(&quoted_bytes(bytes));
}

/// `'c'`; no character prints as the replacement character.
pub(super) fn quote_char(c: Option<char>) -> String {
    let mut out = String::from("'");
    push_escaped(&mut out, c.unwrap_or(char::REPLACEMENT_CHARACTER), '\'');
    out.push('\'');
    out
}

/// `U+0078 'x'`, without the quoted part if the character does not print.
pub(super) fn unicode_name(c: char) -> String {
    let code = u32::from(c);
    if is_printable(c) { format!("U+{code:04X} '{c}'") } else { format!("U+{code:04X}") }
}

/// A letter of any script (general category L).
pub(super) fn is_letter(c: char) -> bool {
    static RANGES: OnceLock<Vec<(char, char)>> = OnceLock::new();
    let ranges = RANGES.get_or_init(|| match regex_syntax::parse(r"\p{L}").map(|h| h.into_kind()) {
        Ok(regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class))) => {
            class.ranges().iter().map(|r| (r.start(), r.end())).collect()
        }
        _ => Vec::new(),
    });
    let after = ranges.partition_point(|(start, _)| *start <= c);
    after.checked_sub(1).and_then(|i| ranges.get(i)).is_some_and(|(_, end)| c <= *end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_quotes() {
        assert_eq!(unquote(r#""a\"\n\x41\102\u00e9""#).as_deref(), Some("a\"\nABé"));
        assert_eq!(unquote(r"'it\'s'").as_deref(), Some("it's"));
        assert_eq!(unquote(r"`a\n`").as_deref(), Some(r"a\n"));
        assert_eq!(unquote(r#""\xc3\xa9""#).as_deref(), Some("é"));
        assert_eq!(unquote(r#""\xff""#).as_deref(), Some("\u{10ffff}"));
        assert_eq!(unquote(r#""\'""#), None);
        assert_eq!(unquote("\""), None);
        assert_eq!(unquote(""), None);
    }

    #[test]
    fn quoting_escapes_what_does_not_print() {
        assert_eq!(quote("a\u{a0}é\u{200b}\u{1f600}\u{0}\""), "\"a\\u00a0é\\u200b\u{1f600}\\x00\\\"\"");
        assert_eq!(quote("e\u{301}"), "\"e\u{301}\"");
        assert_eq!(quote_char(Some('\'')), r"'\''");
        assert_eq!(quote_char(None), "'\u{fffd}'");
        assert_eq!(unicode_name('\t'), "U+0009");
    }

    #[test]
    fn letters_are_not_marks_or_numerals() {
        assert!(is_letter('é') && is_letter('温') && is_letter('a'));
        assert!(!is_letter('٣') && !is_letter('\u{301}') && !is_letter('Ⅷ') && !is_letter('°'));
    }
}
