//! Label matchers: `=`, `!=`, `=~`, `!~`.
//!
//! A regular expression is anchored at both ends and its dot matches a newline, as in Prometheus. Alternations of plain
//! words are recognised, so that an index can look them up as a set and never run the expression.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use regex_automata::meta::Regex;
use regex_syntax::hir::{Hir, HirKind, Look};

use crate::labels::{LabelsRef, METRIC_NAME, is_legacy_name, quoted};

/// The kind of a matcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

impl MatchOp {
    /// As it is written in a selector.
    pub fn as_str(self) -> &'static str {
        match self {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Regex => "=~",
            MatchOp::NotRegex => "!~",
        }
    }
}

/// Why a regular expression was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatcherError {
    /// It does not parse.
    #[error("error parsing regexp: {0}")]
    Syntax(String),
    /// It compiles to more than the limit.
    #[error("regular expression needs more than {0} bytes compiled")]
    TooLarge(usize),
}

/// One matcher. Cheap to clone.
#[derive(Clone)]
pub struct Matcher {
    /// Label name.
    pub name: Arc<str>,
    /// Kind.
    pub op: MatchOp,
    /// The literal, or the expression as written.
    pub value: Arc<str>,
    pattern: Option<Arc<Pattern>>,
}

struct Pattern {
    regex: Option<Regex>,
    set: Option<BTreeSet<String>>,
    prefix: String,
}

/// The most words an alternation is expanded to.
const SET_MAX: usize = 100_000;

impl Matcher {
    /// `name="value"`.
    pub fn equal(name: &str, value: &str) -> Self {
        Self { name: name.into(), op: MatchOp::Equal, value: value.into(), pattern: None }
    }

    /// A matcher of any kind; an expression may take `regex_bytes_max` bytes compiled.
    pub fn new(op: MatchOp, name: &str, value: &str, regex_bytes_max: usize) -> Result<Self, MatcherError> {
        let pattern = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => Some(Arc::new(Pattern::new(value, regex_bytes_max)?)),
        };
        Ok(Self { name: name.into(), op, value: value.into(), pattern })
    }

    /// Does a label value (`""` for a missing label) match?
    #[inline]
    pub fn matches(&self, value: &str) -> bool {
        match self.op {
            MatchOp::Equal => &*self.value == value,
            MatchOp::NotEqual => &*self.value != value,
            MatchOp::Regex => self.pattern.as_ref().is_some_and(|p| p.matches(value)),
            MatchOp::NotRegex => !self.pattern.as_ref().is_some_and(|p| p.matches(value)),
        }
    }

    /// Does a series match?
    pub fn matches_labels(&self, labels: LabelsRef<'_>) -> bool {
        self.matches(labels.get(&self.name))
    }

    /// Does a series without the label match?
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    /// For `=~` and `!~` over an alternation of plain words: the words (the empty one too).
    pub fn set(&self) -> Option<&BTreeSet<String>> {
        self.pattern.as_ref()?.set.as_ref()
    }

    /// A literal that every value accepted by the expression starts with, or `""`.
    pub fn prefix(&self) -> &str {
        self.pattern.as_ref().map_or("", |p| &p.prefix)
    }

    /// Memory the compiled expression takes, bytes; 0 for `=` and `!=`. Clones share it.
    pub fn pattern_bytes(&self) -> usize {
        self.pattern.as_ref().map_or(0, |p| p.bytes())
    }

    /// The same test the other way round: `=` and `!=` swapped, `=~` and `!~` swapped.
    pub fn inverse(&self) -> Matcher {
        let op = match self.op {
            MatchOp::Equal => MatchOp::NotEqual,
            MatchOp::NotEqual => MatchOp::Equal,
            MatchOp::Regex => MatchOp::NotRegex,
            MatchOp::NotRegex => MatchOp::Regex,
        };
        Matcher { op, ..self.clone() }
    }

    /// Is it a matcher on the metric name?
    pub fn is_name(&self) -> bool {
        &*self.name == METRIC_NAME
    }
}

impl Pattern {
    fn new(value: &str, bytes_max: usize) -> Result<Self, MatcherError> {
        let syntax = |e: String| MatcherError::Syntax(e.lines().last().unwrap_or("").trim().to_owned());
        let hir = regex_syntax::ParserBuilder::new()
            .dot_matches_new_line(true)
            .nest_limit(250)
            .build()
            .parse(value)
            .map_err(|e| syntax(e.to_string()))?;
        let set = literal_set(&hir, SET_MAX).map(|v| v.into_iter().collect::<BTreeSet<_>>());
        let prefix = literal_prefix(&hir);
        let regex = if set.is_some() {
            None
        } else {
            let anchored = Hir::concat(vec![Hir::look(Look::Start), hir, Hir::look(Look::End)]);
            let config = Regex::config().nfa_size_limit(Some(bytes_max)).onepass_size_limit(Some(1 << 20));
            let regex = Regex::builder()
                .configure(config)
                .build_from_hir(&anchored)
                .map_err(|e| e.size_limit().map_or_else(|| syntax(e.to_string()), MatcherError::TooLarge))?;
            Some(regex)
        };
        Ok(Self { regex, set, prefix })
    }

    fn bytes(&self) -> usize {
        let words = self.set.iter().flatten().map(|w| w.len() + size_of::<String>()).sum::<usize>();
        let regex = self.regex.as_ref().map_or(0, Regex::memory_usage);
        size_of::<Self>() + words + regex + self.prefix.len()
    }

    fn matches(&self, value: &str) -> bool {
        match (&self.set, &self.regex) {
            (Some(set), _) => set.contains(value),
            (None, Some(regex)) => value.starts_with(&self.prefix) && regex.is_match(value),
            (None, None) => false,
        }
    }
}

/// All words of an expression that accepts finitely many, at most `max`.
fn literal_set(hir: &Hir, max: usize) -> Option<Vec<String>> {
    match hir.kind() {
        HirKind::Empty => Some(vec![String::new()]),
        HirKind::Literal(l) => Some(vec![String::from_utf8(l.0.to_vec()).ok()?]),
        HirKind::Capture(c) => literal_set(&c.sub, max),
        HirKind::Alternation(subs) => {
            let mut out = Vec::new();
            for s in subs {
                out.extend(literal_set(s, max)?);
                if out.len() > max {
                    return None;
                }
            }
            Some(out)
        }
        HirKind::Concat(subs) => {
            let mut out = vec![String::new()];
            for s in subs {
                let words = literal_set(s, max)?;
                if out.len().checked_mul(words.len())? > max {
                    return None;
                }
                out = out.iter().flat_map(|a| words.iter().map(move |b| format!("{a}{b}"))).collect();
            }
            Some(out)
        }
        HirKind::Repetition(r) if r.min == 0 && r.max == Some(1) => {
            let mut out = literal_set(&r.sub, max)?;
            out.push(String::new());
            Some(out)
        }
        HirKind::Class(c) => {
            let mut out = Vec::new();
            if let regex_syntax::hir::Class::Unicode(u) = c {
                for range in u.ranges() {
                    if range.len() > 64 || out.len() > 64 {
                        return None;
                    }
                    out.extend((range.start()..=range.end()).map(String::from));
                }
                return Some(out);
            }
            None
        }
        _ => None,
    }
}

fn literal_prefix(hir: &Hir) -> String {
    match hir.kind() {
        HirKind::Literal(l) => String::from_utf8(l.0.to_vec()).unwrap_or_default(),
        HirKind::Capture(c) => literal_prefix(&c.sub),
        HirKind::Concat(subs) => {
            let mut out = String::new();
            for s in subs {
                match s.kind() {
                    HirKind::Literal(l) => match std::str::from_utf8(&l.0) {
                        Ok(s) => out.push_str(s),
                        Err(_) => break,
                    },
                    _ => {
                        out.push_str(&literal_prefix(s));
                        break;
                    }
                }
            }
            out
        }
        _ => String::new(),
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_legacy_name(&self.name, false) {
            write!(f, "{}{}{}", self.name, self.op.as_str(), quoted(&self.value))
        } else {
            write!(f, "{}{}{}", quoted(&self.name), self.op.as_str(), quoted(&self.value))
        }
    }
}
impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op && self.name == other.name && self.value == other.value
    }
}
impl Eq for Matcher {}
impl std::hash::Hash for Matcher {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.op, &self.name, &self.value).hash(state);
    }
}
impl PartialOrd for Matcher {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Matcher {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (&self.name, self.op, &self.value).cmp(&(&other.name, other.op, &other.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn re(s: &str) -> Matcher {
        Matcher::new(MatchOp::Regex, "a", s, 10 << 20).unwrap()
    }

    #[test]
    fn expressions_are_anchored_and_dot_matches_newline() {
        assert!(re("b.*").matches("b\nc"));
        assert!(!re("b").matches("ab"));
        assert!(re("a|b.+").matches("a"));
        assert!(!re("a|b.+").matches("ax"));
        assert!(re("host-.*7:9100").matches("host-017:9100"));
        assert!(re("").matches_empty());
        assert!(re("(?i)abc").matches("aBC"));
    }

    #[test]
    fn alternations_become_sets() {
        let words = |m: &Matcher| m.set().map(|s| s.iter().cloned().collect::<Vec<_>>().join(","));
        assert_eq!(words(&re("foo|bar|ba[zr]")).as_deref(), Some("bar,baz,foo"));
        assert_eq!(words(&re("x(a|b)?")).as_deref(), Some("x,xa,xb"));
        assert_eq!(words(&re("a.*")), None);
        assert_eq!(re("node_.+").prefix(), "node_");
    }

    #[test]
    fn bad_and_huge_expressions_are_refused() {
        assert!(matches!(Matcher::new(MatchOp::Regex, "a", "a(", 1 << 20), Err(MatcherError::Syntax(_))));
        let huge = "x{1000}{1000}";
        assert!(matches!(Matcher::new(MatchOp::Regex, "a", huge, 1 << 20), Err(MatcherError::TooLarge(_))));
    }
}
