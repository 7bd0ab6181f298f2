//! What is known of the terminal, and texts made fit for it.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::os::fd::AsFd;

use quiver_model::number::grouped;
use terminal_size::{Width, terminal_size_of};
use unicode_width::UnicodeWidthStr;

/// Columns of a terminal that does not tell.
const WIDTH_DEFAULT: usize = 80;
/// Columns that tables and charts need at least.
const WIDTH_MIN: usize = 20;

/// Columns of the terminal that standard output is; none if it is a file or a pipe.
pub fn width() -> Option<usize> {
    let out = std::io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let told = terminal_size_of(&out).map_or(0, |(Width(w), _)| usize::from(w));
    Some(if told == 0 { WIDTH_DEFAULT } else { told.max(WIDTH_MIN) })
}

/// Whether a stream is a terminal that shows colours, and colours are not switched off (`NO_COLOR`).
pub fn has_colour(stream: &(impl IsTerminal + AsFd)) -> bool {
    stream.is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// A text that moves no cursor: control characters are written as escapes.
pub fn printable(text: &str) -> Cow<'_, str> {
    escape(text, |c| c.is_control())
}

/// [`printable`], with its line breaks and tabs kept.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| c.is_control() && c != '\n' && c != '\t')
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    // Marks that turn the direction of what follows hide as much as control characters do.
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.chars().any(|c| is_escaped(c) || turns(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_escaped(c) || turns(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// An indented line. On a terminal, a line that is too long is wrapped, and its continuation is indented further.
pub fn wrap(line: &str, indent: usize, further: usize, width: Option<usize>) -> String {
    let width = width.unwrap_or(usize::MAX);
    let further = further.min(width / 2);
    let mut out = " ".repeat(indent);
    let mut used = indent;
    for (i, word) in line.split(' ').enumerate() {
        let n = word.width();
        if i > 0 && used + 1 + n > width {
            out.push('\n');
            out.push_str(&" ".repeat(further));
            used = further;
        } else if i > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += n;
    }
    out.push('\n');
    out
}

/// `1 block`, `2 blocks`, `1,000 series`.
pub fn plural(n: u64, noun: &str) -> String {
    let same = n == 1 || noun.ends_with("series");
    if same { format!("{} {noun}", grouped(n)) } else { format!("{} {noun}s", grouped(n)) }
}

/// Time that something took, for people.
pub fn elapsed(time: std::time::Duration) -> String {
    match time.as_secs_f64() {
        s if s < 0.0995 => format!("{:.1} ms", s * 1e3),
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s if s < 119.5 => format!("{s:.1} s"),
        s => format!("{} min {:02} s", s.round() as u64 / 60, s.round() as u64 % 60),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn nouns_agree_with_numbers() {
        let said = [(0, "block"), (1, "block"), (2, "block"), (1, "series"), (1_234_567, "series")];
        assert_eq!(
            said.map(|(n, noun)| plural(n, noun)),
            ["0 blocks", "1 block", "2 blocks", "1 series", "1,234,567 series"]
        );
        let times = [Duration::from_micros(1234), Duration::from_millis(250), Duration::from_secs(125)].map(elapsed);
        assert_eq!(times, ["1.2 ms", "250 ms", "2 min 05 s"]);
    }

    #[test]
    fn long_lines_go_on_further_in() {
        assert_eq!(wrap("one two three", 2, 4, Some(10)), "  one two\n    three\n");
        assert_eq!(wrap("one two three", 2, 4, None), "  one two three\n");
        assert_eq!(wrap("", 0, 4, Some(10)), "\n");
        assert_eq!(wrap("averylongword b", 0, 80, Some(10)), "averylongword\n     b\n");
    }

    #[test]
    fn texts_from_elsewhere_move_no_cursor() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable_lines("a\x07\nb"), "a\\u{7}\nb");
        assert_eq!(printable("\u{202e}evil"), "\\u{202e}evil");
        assert_eq!(printable("名前 é"), "名前 é");
    }
}
