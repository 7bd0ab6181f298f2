//! The JSON file of settings, with the line and the column of every value.
//!
//! Invariant: a value of the file means what the same text means after the flag of its name. `true`, `"true"` and `"on"` are one, so
//! are `1024` and `"1024"`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use quiver_model::did_you_mean;
use serde_json::{Map, Value};

use super::ConfigError;

/// A line and a column, from 1.
type Place = (usize, usize);

/// A text that was said somewhere: after a flag, in the environment, in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    /// The text.
    pub text: String,
    /// Where, as errors have it: `--retention`, `QUIVER_RETENTION`, `c.json, line 3, column 5: retention`.
    pub place: String,
}

impl Said {
    /// What is wrong with it.
    pub fn wrong(&self, why: impl Into<String>) -> ConfigError {
        ConfigError::Value { place: self.place.clone(), why: why.into() }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Settings {
    path: String,
    root: Map<String, Value>,
    /// By path (`limit/labels_max`, `retention-rules/0/selector`), where the name and where the value stands.
    places: HashMap<String, (Place, Place)>,
    twice: Vec<(String, Place)>,
}

impl Settings {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text = quiver_persistence::read_text(path)
            .map_err(|why| ConfigError::Unreadable { path: shown.clone(), why: why.to_string() })?;
        Self::parse(&shown, &text)
    }

    /// Reads a text.
    pub fn parse(path: &str, text: &str) -> Result<Self, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let syntax =
            |(line, column): Place, why: String| ConfigError::Syntax { path: path.to_owned(), line, column, why };
        let first = place_of(text, text.len() - text.trim_start().len());
        if text.trim().is_empty() {
            let why = "the file is empty; a configuration without settings is {}".to_owned();
            return Err(ConfigError::Value { place: path.to_owned(), why });
        }
        if !text.trim_start().starts_with('{') {
            return Err(syntax(first, not_an_object(text)));
        }
        let root: Map<String, Value> = serde_json::from_str(text).map_err(|e| {
            let said = e.to_string();
            let why = said.split(" at line ").next().unwrap_or(&said);
            let comment = text.lines().nth(e.line().saturating_sub(1)).is_some_and(|l| {
                let l = l.trim_start();
                l.starts_with("//") || l.starts_with('#') || l.starts_with("/*")
            });
            let hint = if comment { " (JSON has no comments)" } else { "" };
            syntax((e.line(), e.column().max(1)), format!("this is not JSON: {why}{hint}"))
        })?;
        let mut scan = Scan { text, bytes: text.as_bytes(), at: 0, places: HashMap::new(), twice: Vec::new() };
        scan.value("", (1, 1));
        Ok(Self { path: path.to_owned(), root, places: scan.places, twice: scan.twice })
    }

    /// Keys that nothing is called, and keys that stand there twice.
    pub fn wrong_keys(&self, known: &[String]) -> Vec<ConfigError> {
        let all = || known.iter().map(String::as_str);
        let unknown = self.root.keys().filter(|key| !known.contains(key)).map(|key| {
            let (line, column) = self.places.get(key).map_or((1, 1), |(name, _)| *name);
            let near = did_you_mean(key, all());
            let more = if near.is_empty() { ". Keys are the flags of quiver serve --help, without --" } else { "" };
            let why = format!("unknown key {key:?}{near}{more}");
            ConfigError::Syntax { path: self.path.clone(), line, column, why }
        });
        let twice = self.twice.iter().map(|(key, (line, column))| ConfigError::Syntax {
            path: self.path.clone(),
            line: *line,
            column: *column,
            why: format!("the key {key:?} appears twice"),
        });
        unknown.chain(twice).collect()
    }

    /// A text with the place of the value at a path.
    fn said(&self, at: &str, key: &str, text: String) -> Said {
        let (line, column) = self.places.get(at).map_or((1, 1), |(_, value)| *value);
        Said { text, place: format!("{}, line {line}, column {column}: {key}", self.path) }
    }

    /// A value that is one text, number or truth value; `None` if it is missing or null.
    pub fn scalar(&self, key: &str) -> Result<Option<Said>, ConfigError> {
        self.root.get(key).map_or(Ok(None), |value| self.scalar_of(key, key, value))
    }

    fn scalar_of(&self, at: &str, key: &str, value: &Value) -> Result<Option<Said>, ConfigError> {
        let text = match value {
            Value::Null => return Ok(None),
            Value::String(text) => text.clone(),
            Value::Bool(on) => on.to_string(),
            Value::Number(n) => n.to_string(),
            Value::Array(_) | Value::Object(_) => {
                let is = if value.is_array() { "a list" } else { "an object" };
                return Err(self.said(at, key, String::new()).wrong(format!("{is}, where one value is expected")));
            }
        };
        Ok(Some(self.said(at, key, text)))
    }

    /// A list of values, or one value whose parts are separated by commas, as after the flag.
    pub fn list(&self, key: &str) -> Result<Vec<Said>, ConfigError> {
        let Some(value) = self.root.get(key) else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        match value {
            Value::Array(values) => {
                for (i, value) in values.iter().enumerate() {
                    all.extend(self.scalar_of(&format!("{key}/{i}"), key, value)?);
                }
            }
            value => {
                if let Some(said) = self.scalar_of(key, key, value)? {
                    let parts = said.text.split(',').map(str::trim).filter(|part| !part.is_empty());
                    all.extend(parts.map(|part| Said { text: part.to_owned(), place: said.place.clone() }));
                }
            }
        }
        Ok(all)
    }

    /// An object of values by their names, or a list of `NAME=VALUE` as after the flag.
    pub fn pairs(&self, key: &str) -> Result<Vec<(String, Said)>, ConfigError> {
        match self.root.get(key) {
            Some(Value::Object(map)) => {
                let mut all = Vec::new();
                for (name, value) in map {
                    let at = format!("{key}/{name}");
                    all.extend(self.scalar_of(&at, key, value)?.map(|said| (name.clone(), said)));
                }
                Ok(all)
            }
            _ => self.list(key)?.into_iter().map(pair).collect(),
        }
    }

    /// A list of objects of texts, each with all of these keys and no other.
    pub fn objects(&self, key: &str, keys: &[&str]) -> Result<Vec<BTreeMap<String, Said>>, ConfigError> {
        let wrong = |at: &str, why: String| self.said(at, key, String::new()).wrong(why);
        let shape = || format!("a list of objects with the keys {} is expected", keys.join(" and "));
        let values = match self.root.get(key) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(values)) => values,
            Some(_) => return Err(wrong(key, shape())),
        };
        let mut all = Vec::new();
        for (i, value) in values.iter().enumerate() {
            let at = format!("{key}/{i}");
            let Some(map) = value.as_object() else { return Err(wrong(&at, shape())) };
            if let Some(name) = map.keys().find(|name| !keys.contains(&name.as_str())) {
                let near = did_you_mean(name, keys.iter().copied());
                return Err(wrong(&format!("{at}/{name}"), format!("unknown key {name:?}{near}")));
            }
            let mut object = BTreeMap::new();
            for name in keys {
                let at_name = format!("{at}/{name}");
                let said = map.get(*name).map_or(Ok(None), |v| self.scalar_of(&at_name, key, v))?;
                let said = said.ok_or_else(|| wrong(&at, format!("the key {name:?} is missing")))?;
                object.insert((*name).to_owned(), said);
            }
            all.push(object);
        }
        Ok(all)
    }
}

/// `NAME=VALUE` apart.
pub(super) fn pair(said: Said) -> Result<(String, Said), ConfigError> {
    match said.text.split_once('=') {
        Some((name, value)) => {
            Ok((name.trim().to_owned(), Said { text: value.trim().to_owned(), place: said.place.clone() }))
        }
        None => Err(said.wrong(format!("{:?} is not NAME=VALUE", said.text))),
    }
}

/// What a text that is no JSON object seems to be.
fn not_an_object(text: &str) -> String {
    const EXAMPLE: &str = "the file must hold a JSON object such as {\"retention\": \"30d\"}";
    let first = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#')).unwrap_or("");
    let is_word = |name: &str| {
        !name.trim().is_empty() && name.trim().bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.\"".contains(&b))
    };
    let looks = if first.starts_with('[') && serde_json::from_str::<Value>(text).is_ok() {
        "this is a list"
    } else if first.starts_with("---") || first.split_once(':').is_some_and(|(name, _)| is_word(name)) {
        "this looks like YAML"
    } else if first.starts_with('[') || first.split_once('=').is_some_and(|(name, _)| is_word(name)) {
        "this looks like TOML or an INI file"
    } else {
        "this is not JSON"
    };
    format!("{looks}; {EXAMPLE}")
}

/// Line and column of a byte.
fn place_of(text: &str, at: usize) -> Place {
    let before = text.get(..at).unwrap_or(text);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |n| n + 1);
    (line, before[start..].chars().count() + 1)
}

/// Walks through a text that is known to be JSON, and notes where everything stands.
struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    places: HashMap<String, (Place, Place)>,
    twice: Vec<(String, Place)>,
}

impl Scan<'_> {
    fn next(&mut self) -> Option<u8> {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn here(&self) -> Place {
        place_of(self.text, self.at)
    }

    /// A value; the JSON reader has bounded how deep they are nested.
    fn value(&mut self, path: &str, name: Place) {
        let first = self.next();
        let here = self.here();
        if !path.is_empty() && self.places.insert(path.to_owned(), (name, here)).is_some() {
            self.twice.push((path.rsplit('/').next().unwrap_or(path).to_owned(), name));
        }
        let inside = |path: &str, part: &str| if path.is_empty() { part.to_owned() } else { format!("{path}/{part}") };
        match first {
            Some(b'{') => {
                self.at += 1;
                while self.next().is_some_and(|b| b != b'}') {
                    let name = self.here();
                    let key = self.string();
                    self.next();
                    self.at += 1;
                    self.value(&inside(path, &key), name);
                    if self.next() == Some(b',') {
                        self.at += 1;
                    }
                }
                self.at += 1;
            }
            Some(b'[') => {
                self.at += 1;
                let mut i = 0;
                while self.next().is_some_and(|b| b != b']') {
                    let name = self.here();
                    self.value(&inside(path, &i.to_string()), name);
                    i += 1;
                    if self.next() == Some(b',') {
                        self.at += 1;
                    }
                }
                self.at += 1;
            }
            Some(b'"') => {
                self.string();
            }
            _ => {
                let is_part = |b: &u8| !b.is_ascii_whitespace() && !b",]}".contains(b);
                while self.bytes.get(self.at).is_some_and(is_part) {
                    self.at += 1;
                }
            }
        }
    }

    fn string(&mut self) -> String {
        let from = self.at;
        self.at += 1;
        while let Some(b) = self.bytes.get(self.at) {
            self.at += if *b == b'\\' { 2 } else { 1 };
            if *b == b'"' {
                break;
            }
        }
        let quoted = self.text.get(from..self.at.min(self.text.len())).unwrap_or("");
        serde_json::from_str(quoted).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let known = ["retention", "retention-size", "http-listen", "limit"].map(String::from);
        match Settings::parse("c.json", text) {
            Ok(s) => s.wrong_keys(&known).first().map_or(String::new(), ToString::to_string),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn what_is_no_json_object_is_named_with_its_place() {
        for (text, want) in [
            ("", "c.json: the file is empty"),
            (" \n", "c.json: the file is empty"),
            ("[]", "c.json, line 1, column 1: this is a list; the file must hold a JSON object"),
            ("retention: 30d\n", "c.json, line 1, column 1: this looks like YAML"),
            ("---\na: 1\n", "this looks like YAML"),
            ("# settings\nretention = \"30d\"\n", "c.json, line 1, column 1: this looks like TOML"),
            ("[storage]\nretention = 1", "looks like TOML"),
            ("\n  nothing", "c.json, line 2, column 3: this is not JSON"),
            ("{\n  \"retention\": \"30d\",\n}", "c.json, line 3, column 1: this is not JSON: trailing comma"),
            ("{\n  // never\n}", "(JSON has no comments)"),
            ("{\"retention\": \"9", "c.json, line 1, column 16: this is not JSON: EOF"),
            ("{\"retention\": 1} x", "c.json, line 1, column 18: this is not JSON: trailing characters"),
            ("{\"a\": {}, \n \"retentoin\": 1}", "c.json, line 1, column 2: unknown key \"a\". Keys are the flags"),
            (
                "{\n \"retentoin\": 1}",
                "c.json, line 2, column 2: unknown key \"retentoin\"; did you mean \"retention\"?",
            ),
            ("{\"http_listen\": 1}", "did you mean \"http-listen\"?"),
            ("{\"retention\": 1,\n \"retention\": 2}", "c.json, line 2, column 2: the key \"retention\" appears twice"),
            ("{\"limit\": {\"a\": 1, \"a\": 2}}", "c.json, line 1, column 20: the key \"a\" appears twice"),
        ] {
            let got = error(text);
            assert!(got.contains(want) && got.matches("line ").count() <= 1, "{text:?}: {got}");
        }
        assert_eq!(error("\u{feff}{}"), "");
    }

    #[test]
    fn values_are_texts_as_after_a_flag() {
        let text = "{\"retention\": true,\n \"größe\": 1.5, \"none\": null, \"list\": [1, \"b\"],\n \"limit\": {\"a\": 2, \"b\":\"3\"}}";
        let s = Settings::parse("c.json", text).unwrap();
        let said = |key: &str| s.scalar(key).unwrap().map(|said| (said.text, said.place));
        assert_eq!(said("retention"), Some(("true".into(), "c.json, line 1, column 15: retention".into())));
        assert_eq!(said("größe"), Some(("1.5".into(), "c.json, line 2, column 11: größe".into())));
        assert_eq!((said("none"), said("missing")), (None, None));
        let texts = |list: Vec<Said>| list.into_iter().map(|said| said.text).collect::<Vec<_>>();
        assert_eq!(texts(s.list("list").unwrap()), ["1", "b"]);
        let pairs = s.pairs("limit").unwrap();
        assert_eq!(pairs[1].1.place, "c.json, line 3, column 24: limit");
        assert_eq!(pairs.into_iter().map(|(n, said)| n + "=" + &said.text).collect::<Vec<_>>(), ["a=2", "b=3"]);
        let why = s.scalar("list").unwrap_err().to_string();
        assert_eq!(why, "c.json, line 2, column 38: list: a list, where one value is expected");
        let flags = Settings::parse("c.json", r#"{"limit": "a=1, b=2", "list": ["x=1"]}"#).unwrap();
        assert_eq!(texts(flags.list("limit").unwrap()), ["a=1", "b=2"]);
        assert_eq!(flags.pairs("list").unwrap()[0].0, "x");
        assert!(flags.objects("limit", &["selector"]).unwrap_err().to_string().contains("a list of objects"));
    }
}
