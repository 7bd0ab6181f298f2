//! JSON however deep: explanations of long chains of operators nest deeper than serde's reader follows.
//!
//! Open lists and objects are kept on a stack of our own; texts, numbers and words are left to serde.

use serde_json::{Map, Value};

enum Open {
    List(Vec<Value>),
    Object(Map<String, Value>, Option<String>),
}

/// A whole text.
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    let mut at = 0;
    let mut open: Vec<Open> = Vec::new();
    loop {
        let bad = |at: usize| format!("unexpected text at byte {at}");
        let mut done = match next(bytes, &mut at) {
            Some(b'[') => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Some(b'{') => {
                open.push(Open::Object(Map::new(), None));
                continue;
            }
            Some(b',') if !open.is_empty() => continue,
            Some(b @ (b']' | b'}')) => match (open.pop(), b) {
                (Some(Open::List(list)), b']') => Value::Array(list),
                (Some(Open::Object(map, None)), b'}') => Value::Object(map),
                _ => return Err(bad(at)),
            },
            Some(_) => leaf(bytes, &mut at)?,
            None => return Err("it ends too early".into()),
        };
        match open.last_mut() {
            None if next(bytes, &mut at).is_none() => return Ok(done),
            None => return Err(bad(at)),
            Some(Open::List(list)) => list.push(done),
            Some(Open::Object(map, key)) => match key.take() {
                Some(k) => {
                    map.insert(k, done);
                }
                None => {
                    let Value::String(k) = done.take() else { return Err(bad(at)) };
                    if next(bytes, &mut at) != Some(b':') {
                        return Err(bad(at));
                    }
                    *key = Some(k);
                }
            },
        }
    }
}

/// The next character that is no space; a sign of structure is taken.
fn next(bytes: &[u8], at: &mut usize) -> Option<u8> {
    *at += bytes.get(*at..)?.iter().take_while(|b| b.is_ascii_whitespace()).count();
    let b = *bytes.get(*at)?;
    if b"[]{},:".contains(&b) {
        *at += 1;
    }
    Some(b)
}

/// A text, a number or a word.
fn leaf(bytes: &[u8], at: &mut usize) -> Result<Value, String> {
    let rest = &bytes[*at..];
    let len = if rest.first() == Some(&b'"') {
        let mut escaped = false;
        let close = rest.iter().skip(1).position(|b| {
            let close = *b == b'"' && !escaped;
            escaped = *b == b'\\' && !escaped;
            close
        });
        close.ok_or("a text without end")? + 2
    } else {
        rest.iter().position(|b| b",]}: \t\r\n".contains(b)).unwrap_or(rest.len())
    };
    let text = &rest[..len];
    *at += len;
    serde_json::from_slice(text).map_err(|e| format!("{e}: {}", String::from_utf8_lossy(text)))
}

/// Runs what walks a deep tree with enough stack.
pub fn with_stack<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(256 << 20).spawn_scoped(scope, work);
        thread.map_err(|e| e.to_string())?.join().map_err(|_| "a thread ended".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serde_reads_is_read_the_same() {
        for text in [
            "null",
            " [ ] ",
            r#"{"a": [1, -2.5e3, true, {"b\"\\": "é\u0041\n"}], "c": {}}"#,
            r#"["a,b]", "x\\", {"k": null}]"#,
        ] {
            assert_eq!(parse(text.as_bytes()).ok(), serde_json::from_str(text).ok(), "{text}");
        }
        for text in ["", "[", "[1", "{\"a\"}", "{1: 2}", "[1}", "tru", "\"a", "1 2", "}", ",", "{\"a\": }"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn depth_does_not_matter() {
        let n = 100_000;
        let text = "[".repeat(n) + &"]".repeat(n);
        let depth = with_stack(|| {
            let (mut v, mut depth) = (parse(text.as_bytes()).unwrap(), 0);
            while let Some(inner) = v.as_array_mut().and_then(Vec::pop) {
                v = inner;
                depth += 1;
            }
            depth
        });
        assert_eq!(depth, Ok(n - 1));
    }
}
