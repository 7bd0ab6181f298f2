//! The header `Content-Type` (RFC 9110, 8.3), read strictly: what does not parse is no content type.

/// A media type and its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediaType {
    /// `type/subtype`, in lower case.
    pub essence: String,
    /// Names in lower case, values as they were meant.
    parameters: Vec<(String, String)>,
}

impl MediaType {
    /// Reads a header; the error says what is wrong with it.
    pub fn parse(header: &str) -> Result<Self, &'static str> {
        let (essence, mut rest) = header.split_at(header.find(';').unwrap_or(header.len()));
        let essence = essence.trim_matches([' ', '\t']);
        let (kind, subtype) = essence.split_once('/').ok_or("not a media type")?;
        if !is_token(kind) || !is_token(subtype) {
            return Err("not a media type");
        }
        let mut parameters: Vec<(String, String)> = Vec::new();
        while let Some(parameter) = rest.strip_prefix(';') {
            let (name, value) = parameter.split_once('=').ok_or("a parameter has no value")?;
            let name = name.trim_start_matches([' ', '\t']).to_ascii_lowercase();
            if !is_token(&name) {
                return Err("a parameter has no name");
            }
            let (value, behind) = parameter_value(value)?;
            if parameters.iter().any(|(n, _)| *n == name) {
                return Err("a parameter occurs twice");
            }
            parameters.push((name, value));
            rest = behind.trim_start_matches([' ', '\t']);
        }
        if !rest.is_empty() {
            return Err("unexpected text after a parameter");
        }
        Ok(Self { essence: essence.to_ascii_lowercase(), parameters })
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// The value at the beginning of a text, a token or a quoted string, and what is behind it.
fn parameter_value(text: &str) -> Result<(String, &str), &'static str> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, behind) = text.split_at(text.find([';', ' ', '\t']).unwrap_or(text.len()));
        return if is_token(value) { Ok((value.to_owned(), behind)) } else { Err("a parameter has no valid value") };
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next().ok_or("a quoted value does not end")?.1),
            c => value.push(c),
        }
    }
    Err("a quoted value does not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types() {
        let read = |text: &str| MediaType::parse(text).map(|m| (m.essence, m.parameters));
        let pairs =
            |list: &[(&str, &str)]| list.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect::<Vec<_>>();
        for (text, essence, parameters) in [
            ("application/json", "application/json", &[][..]),
            (" Text/HTML ; Charset=utf-8 ", "text/html", &[("charset", "utf-8")]),
            ("a/b;c=\"d;e\\\"f\" ;g=h", "a/b", &[("c", "d;e\"f"), ("g", "h")]),
            ("a/b;c=\"\"", "a/b", &[("c", "")]),
        ] {
            assert_eq!(read(text), Ok((essence.to_owned(), pairs(parameters))), "{text}");
        }
        for text in [
            "",
            "a",
            "a/",
            "/b",
            "a/b/c",
            "a b/c",
            "a/b;;;=",
            "a/b;",
            "a/b; ;c=d",
            "a/b;c",
            "a/b;=d",
            "a/b;c=",
            "a/b;c=d e",
            "a/b;c=\"d",
            "a/b;c=\"d\\",
            "a/b;c=1;C=2",
            "a/b;c=1;c=1",
            "a/b,c/d",
            "a/b;c=d=e",
            "a/b;c d=e",
            "a/é",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
