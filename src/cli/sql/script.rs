//! Statements in a text: where each begins and ends.
//!
//! A semicolon ends a statement, unless it stands in quotes (`'…'`, `"…"`, `$tag$…$tag$`) or in a comment (`--…`, `/*…*/`,
//! which nest).

/// A statement of a text, and the number of the line that it begins in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Without the semicolon.
    pub text: String,
    /// From 1.
    pub line: usize,
}

/// What a text is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Statements that a semicolon ends, and a last one without.
    pub statements: Vec<Statement>,
    /// Nothing is open at the end: no statement without a semicolon, no quote, no comment.
    pub is_complete: bool,
}

/// Reads a text.
pub fn split(text: &str) -> Script {
    let bytes = text.as_bytes();
    let (mut at, mut begun) = (0, None);
    let mut out = Script { statements: Vec::new(), is_complete: true };
    let mut lines = Lines { text, at: 0, line: 1 };
    while at < bytes.len() {
        let next = skip(text, at);
        let is_word = match (bytes[at], next) {
            (_, Skip::Open) => {
                let is_comment = text[at..].starts_with("/*");
                out.is_complete = false;
                if begun.is_none() && !is_comment {
                    begun = Some(at);
                }
                at = bytes.len();
                continue;
            }
            (_, Skip::Comment(end)) => {
                at = end;
                continue;
            }
            (b';', _) => {
                if let Some(from) = begun.take() {
                    let line = lines.line_of(from);
                    out.statements.push(Statement { text: text[from..at].trim_end().to_owned(), line });
                }
                false
            }
            (b, _) => !b.is_ascii_whitespace(),
        };
        if is_word && begun.is_none() {
            begun = Some(at);
        }
        at = match next {
            Skip::To(end) => end,
            _ => at + 1,
        };
    }
    if let Some(from) = begun {
        out.statements.push(Statement { text: text[from..].trim_end().to_owned(), line: lines.line_of(from) });
        out.is_complete = false;
    }
    out
}

/// What stands at a place.
#[derive(Clone, Copy)]
enum Skip {
    /// A quoted text that ends there, or a plain character.
    To(usize),
    /// A comment that ends there.
    Comment(usize),
    /// Something that does not end.
    Open,
}

fn skip(text: &str, at: usize) -> Skip {
    let bytes = text.as_bytes();
    let rest = &bytes[at..];
    match rest {
        [q @ (b'\'' | b'"'), ..] => {
            // A doubled quote stands for itself: two quoted texts side by side end at the same place.
            rest.iter().skip(1).position(|b| b == q).map_or(Skip::Open, |n| Skip::To(at + n + 2))
        }
        [b'-', b'-', ..] => Skip::Comment(rest.iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n + 1)),
        [b'/', b'*', ..] => {
            let (mut depth, mut i) = (1, at + 2);
            while i < bytes.len() {
                match &bytes[i..] {
                    [b'*', b'/', ..] => (depth, i) = (depth - 1, i + 2),
                    [b'/', b'*', ..] => (depth, i) = (depth + 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 {
                    return Skip::Comment(i);
                }
            }
            Skip::Open
        }
        [b'$', ..] => {
            let is_tag = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
            let before = at.checked_sub(1).map(|i| bytes[i]);
            let close = rest.iter().skip(1).position(|b| !is_tag(b)).filter(|n| rest[n + 1] == b'$');
            let number = rest.get(1).is_some_and(u8::is_ascii_digit);
            match close {
                Some(n) if !number && !before.as_ref().is_some_and(is_tag) => {
                    let tag = &text[at..at + n + 2];
                    let from = at + tag.len();
                    text[from..].find(tag).map_or(Skip::Open, |end| Skip::To(from + end + tag.len()))
                }
                _ => Skip::To(at + 1),
            }
        }
        _ => Skip::To(at + 1),
    }
}

/// Counts lines, from where it counted last.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl Lines<'_> {
    fn line_of(&mut self, place: usize) -> usize {
        self.line += self.text.as_bytes()[self.at..place].iter().filter(|b| **b == b'\n').count();
        self.at = place;
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> (Vec<String>, bool) {
        let script = split(text);
        (script.statements.into_iter().map(|s| s.text).collect(), script.is_complete)
    }

    #[test]
    fn statements_end_at_semicolons() {
        for (text, statements, is_complete) in [
            ("", &[][..], true),
            (" \n -- nothing\n", &[], true),
            (";;", &[], true),
            ("select 1", &["select 1"], false),
            ("select 1;", &["select 1"], true),
            ("select 1; select 2 ;\n", &["select 1", "select 2"], true),
            ("select ';', \"a;b\";", &["select ';', \"a;b\""], true),
            ("select 'it''s;';x", &["select 'it''s;'", "x"], false),
            ("select 1 -- one;\n, 2; -- end", &["select 1 -- one;\n, 2"], true),
            ("select /* ; /* ; */ ; */ 1;", &["select /* ; /* ; */ ; */ 1"], true),
            ("select $$a;'b$$, $x$;$$;$x$;", &["select $$a;'b$$, $x$;$$;$x$"], true),
            ("select $1; select a$b$c;", &["select $1", "select a$b$c"], true),
            ("select 'open;", &["select 'open;"], false),
            ("select 1; /* open ;", &["select 1"], false),
            ("select $$ open;", &["select $$ open;"], false),
            ("名前; é'ü;'", &["名前", "é'ü;'"], false),
            ("a - b / c;", &["a - b / c"], true),
            ("$", &["$"], false),
        ] {
            let wanted: Vec<String> = statements.iter().map(ToString::to_string).collect();
            assert_eq!(texts(text), (wanted, is_complete), "{text:?}");
        }
    }

    #[test]
    fn lines_are_counted() {
        let script = split("select 1;\n\n-- two\nselect 'a\nb';\nselect 3");
        assert_eq!(script.statements.iter().map(|s| s.line).collect::<Vec<_>>(), [1, 4, 6]);
    }

    #[test]
    fn long_texts_take_linear_time() {
        let begun = std::time::Instant::now();
        let many = "select 1;\n".repeat(200_000);
        assert_eq!(split(&many).statements.len(), 200_000);
        for open in ["'", "$a$", "/*", "$", "\""] {
            split(&format!("{open} {}", "x".repeat(2_000_000)));
        }
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }
}
