//! Patterns of PostgreSQL in those of the engine: `SIMILAR TO`, `LIKE … ESCAPE`, `to_char`.

use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{BinaryExpr, Expr, Like, Operator};

/// The text of a constant; `Some(None)` is null.
pub fn constant(e: &Expr) -> Option<Option<&str>> {
    match e {
        Expr::Literal(v, _) => v.try_as_str(),
        _ => None,
    }
}

/// `a SIMILAR TO 'b%'` as a regular expression over the whole of the text.
pub fn similar(like: Like) -> Result<Expr> {
    let Some(pattern) = constant(&like.pattern) else {
        return plan_err!("SIMILAR TO takes a constant pattern: use ~ with a regular expression for others");
    };
    let regex = pattern.map(|p| regex_of(p, like.escape_char.unwrap_or('\\'))).transpose()?;
    let op = if like.negated { Operator::RegexNotMatch } else { Operator::RegexMatch };
    let right = Box::new(Expr::Literal(ScalarValue::Utf8(regex), None));
    Ok(Expr::BinaryExpr(BinaryExpr { left: like.expr, op, right }))
}

fn regex_of(pattern: &str, escape: char) -> Result<String> {
    let mut out = String::from("^(?s:");
    let mut letters = pattern.chars();
    let mut in_brackets = false;
    while let Some(c) = letters.next() {
        match c {
            c if c == escape => match letters.next() {
                Some(c) => literal(c, &mut out),
                None => return plan_err!("the pattern {pattern:?} ends with its escape character"),
            },
            ']' if in_brackets => {
                in_brackets = false;
                out.push(']');
            }
            '[' if in_brackets => out.push_str("\\["),
            '&' | '~' if in_brackets => literal(c, &mut out),
            c if in_brackets => out.push(c),
            '[' => {
                in_brackets = true;
                out.push('[');
            }
            '%' => out.push_str(".*"),
            '_' => out.push('.'),
            '(' => out.push_str("(?:"),
            '.' | '^' | '$' | '\\' => literal(c, &mut out),
            c => out.push(c),
        }
    }
    if in_brackets {
        return plan_err!("the pattern {pattern:?} has a [ without its ]");
    }
    out.push_str(")$");
    Ok(out)
}

fn literal(c: char, out: &mut String) {
    if c.is_ascii_punctuation() {
        out.push('\\');
    }
    out.push(c);
}

/// `a LIKE 'b!%' ESCAPE '!'` with the one escape character that the engine knows.
pub fn escaped(mut like: Like) -> Result<Like> {
    let Some(escape) = like.escape_char.filter(|c| *c != '\\') else { return Ok(like) };
    let Some(pattern) = constant(&like.pattern) else {
        return plan_err!("LIKE … ESCAPE {escape:?} takes a constant pattern");
    };
    let mut out = String::new();
    let mut letters = pattern.unwrap_or_default().chars();
    while let Some(c) = letters.next() {
        match c {
            c if c == escape => match letters.next() {
                Some(c) => out.extend(['\\', c]),
                None => return plan_err!("a LIKE pattern ends with its escape character"),
            },
            '\\' => out.push_str("\\\\"),
            c => out.push(c),
        }
    }
    let pattern = ScalarValue::Utf8(pattern.is_some().then_some(out));
    like.pattern = Box::new(Expr::Literal(pattern, None));
    like.escape_char = None;
    Ok(like)
}

/// What `to_char` knows of PostgreSQL's, longest first.
const PARTS: [(&str, &str); 21] = [
    ("HH24", "%H"),
    ("HH12", "%I"),
    ("YYYY", "%Y"),
    ("FMMonth", "%B"),
    ("FMDay", "%A"),
    ("DDD", "%j"),
    ("Mon", "%b"),
    ("YY", "%y"),
    ("MM", "%m"),
    ("DD", "%d"),
    ("HH", "%I"),
    ("MI", "%M"),
    ("SS", "%S"),
    ("MS", "%3f"),
    ("US", "%6f"),
    ("AM", "%p"),
    ("PM", "%p"),
    ("am", "%P"),
    ("pm", "%P"),
    ("Dy", "%a"),
    ("TZ", "%Z"),
];

/// A pattern of `to_char` as the engine's. One with `%` is the engine's already.
pub fn to_char(pattern: &str) -> Result<String> {
    if pattern.contains('%') {
        return Ok(pattern.to_owned());
    }
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        // Names have a case of their own.
        let matches = |p: &str| match p {
            "FMMonth" | "FMDay" | "Mon" | "Dy" | "AM" | "PM" | "am" | "pm" => rest.starts_with(p),
            p => rest.get(..p.len()).is_some_and(|r| r.eq_ignore_ascii_case(p)),
        };
        if let Some(quoted) = rest.strip_prefix('"') {
            let Some((text, after)) = quoted.split_once('"') else {
                return plan_err!("the pattern {pattern:?} of to_char has a quote without its end");
            };
            out.push_str(text);
            rest = after;
        } else if let Some((part, to)) = PARTS.iter().find(|(p, _)| matches(p)) {
            out.push_str(to);
            rest = &rest[part.len()..];
        } else if c.is_ascii_alphabetic() {
            return plan_err!(
                "the pattern {pattern:?} of to_char has {c}, which is not known: YYYY, MM, DD, HH24, MI, SS, MS, US and others of \
                 PostgreSQL are, and so are %Y, %m, %d, %H, %M, %S"
            );
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_to_is_anchored_and_has_its_own_signs() {
        for (pattern, wanted) in [
            ("a%", "^(?s:a.*)$"),
            ("(a|b)_", "^(?s:(?:a|b).)$"),
            ("a.b$", r"^(?s:a\.b\$)$"),
            (r"100\%", r"^(?s:100\%)$"),
            ("[a-c]+", "^(?s:[a-c]+)$"),
        ] {
            assert_eq!(regex_of(pattern, '\\').unwrap(), wanted);
        }
        assert!(regex_of("[a", '\\').is_err());
    }

    #[test]
    fn to_char_takes_postgresqls_patterns() {
        assert_eq!(to_char("YYYY-MM-DD HH24:MI:SS.MS").unwrap(), "%Y-%m-%d %H:%M:%S.%3f");
        assert_eq!(to_char("YYYY-MM-DD\"T\"HH24:MI").unwrap(), "%Y-%m-%dT%H:%M");
        assert_eq!(to_char("%Y").unwrap(), "%Y");
        assert!(to_char("IYYY").is_err());
    }
}
