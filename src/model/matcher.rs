//! Label matchers: `=`, `!=`, `=~`, `!~`.
//!
//! A regular expression is anchored at both ends and its dot matches a newline, as in Prometheus. Alternations of plain
//! words are recognised, so that an index can look them up as a set and never run the expression.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use regex_automata::dfa::{StartKind, dense};
use regex_automata::meta::Regex;
use regex_automata::nfa::thompson;
use regex_syntax::hir::{Hir, HirKind, Look};

use crate::labels::{LabelsRef, METRIC_NAME, is_legacy_name, quoted_bytes};
use crate::regex;

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
    stop: Option<Arc<Stop>>,
}

struct Pattern {
    regex: Option<Regex>,
    set: Option<BTreeSet<String>>,
    prefix: String,
    /// The expression without anchors, where it is no set.
    body: Option<Hir>,
    body_bytes: usize,
    automaton: OnceLock<Option<dense::DFA<Vec<u32>>>>,
}

/// Asked now and then whether nobody wants to know any more.
struct Stop {
    wanted: Box<dyn Fn() -> bool + Send + Sync>,
    count: AtomicU32,
    stopped: AtomicBool,
}

impl Stop {
    fn is_stopped(&self) -> bool {
        if self.count.fetch_add(1, Ordering::Relaxed).is_multiple_of(STOP_EVERY) && !(self.wanted)() {
            self.stopped.store(true, Ordering::Relaxed);
        }
        self.stopped.load(Ordering::Relaxed)
    }
}

/// The most words an alternation is expanded to.
const SET_MAX: usize = 100_000;
/// The most words a sequence of alternatives is expanded to.
const PRODUCT_MAX: usize = 1000;
/// Memory one expression may take to remember what it has seen, bytes; beyond that it forgets.
const CACHE_BYTES: usize = 512 << 10;
/// Memory of one compiled expression, bytes: compiling takes time in proportion.
const COMPILED_BYTES_MAX: usize = 4 << 20;
/// Values tested between two questions whether to go on.
const STOP_EVERY: u32 = 16;

impl Matcher {
    /// `name="value"`.
    pub fn equal(name: &str, value: &str) -> Self {
        Self { name: name.into(), op: MatchOp::Equal, value: value.into(), pattern: None, stop: None }
    }

    /// A matcher of any kind; an expression, written as Go writes them, may take `regex_bytes_max` bytes compiled.
    pub fn new(op: MatchOp, name: &str, value: &str, regex_bytes_max: usize) -> Result<Self, MatcherError> {
        let pattern = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => {
                let options = regex::Options { dot_matches_newline: true, captures: false, bytes_max: regex_bytes_max };
                let e = regex::parse(value, options)?;
                Some(Arc::new(Pattern::new(e.hir, e.bytes, regex_bytes_max)?))
            }
        };
        Ok(Self { name: name.into(), op, value: value.into(), pattern, stop: None })
    }

    /// `=~` (or with `accept` false `!~`) an expression written as Rust's `regex` reads it: that of SQL.
    pub fn in_rust(accept: bool, name: &str, value: &str, regex_bytes_max: usize) -> Result<Self, MatcherError> {
        let syntax = |e: String| MatcherError::Syntax(e.lines().last().unwrap_or("").trim().to_owned());
        let mut parser = regex_syntax::ParserBuilder::new().nest_limit(regex::HEIGHT_MAX as u32).build();
        let hir = parser.parse(value).map_err(|e| syntax(e.to_string()))?;
        let pattern = Pattern::new(hir, value.len(), regex_bytes_max)?;
        let op = if accept { MatchOp::Regex } else { MatchOp::NotRegex };
        Ok(Self { name: name.into(), op, value: value.into(), pattern: Some(Arc::new(pattern)), stop: None })
    }

    /// The same test, but once `wanted` says no an expression is not run any more: whatever a look-up with it gives then
    /// is of no worth. Expressions may be slow and values many.
    pub fn while_wanted(&self, wanted: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        let stop = Stop { wanted: Box::new(wanted), count: AtomicU32::new(0), stopped: AtomicBool::new(false) };
        Self { stop: Some(Arc::new(stop)), ..self.clone() }
    }

    /// Is an expression run, rather than words looked up?
    pub fn runs_expression(&self) -> bool {
        self.pattern.as_ref().is_some_and(|p| p.regex.is_some())
    }

    /// Does a label value (`""` for a missing label) match?
    #[inline]
    pub fn matches(&self, value: &str) -> bool {
        match self.op {
            MatchOp::Equal => &*self.value == value,
            MatchOp::NotEqual => &*self.value != value,
            MatchOp::Regex | MatchOp::NotRegex if self.is_stopped() => false,
            MatchOp::Regex => self.pattern.as_ref().is_some_and(|p| p.matches(value)),
            MatchOp::NotRegex => !self.pattern.as_ref().is_some_and(|p| p.matches(value)),
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|s| s.is_stopped())
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

    /// The expression as an automaton over the bytes of a whole value, anchored; `None` where it is a set of words, or the
    /// automaton would be large. Made when first asked for.
    pub fn automaton(&self) -> Option<&dense::DFA<Vec<u32>>> {
        let p = self.pattern.as_ref()?;
        let body = p.body.as_ref()?;
        p.automaton.get_or_init(|| automaton(body)).as_ref()
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
    fn new(hir: Hir, hir_bytes: usize, bytes_max: usize) -> Result<Self, MatcherError> {
        let set = literal_set(&hir, SET_MAX).map(|v| v.into_iter().collect::<BTreeSet<_>>());
        let prefix = literal_prefix(&hir);
        if set.is_some() {
            let automaton = OnceLock::new();
            return Ok(Self { regex: None, set, prefix, body: None, body_bytes: 0, automaton });
        }
        let regex = compile(anchored(hir.clone()), false, bytes_max)?;
        let automaton = OnceLock::new();
        Ok(Self { regex: Some(regex), set, prefix, body: Some(hir), body_bytes: hir_bytes, automaton })
    }

    fn bytes(&self) -> usize {
        let words = self.set.iter().flatten().map(|w| w.len() + size_of::<String>()).sum::<usize>();
        let regex = self.regex.as_ref().map_or(0, Regex::memory_usage);
        size_of::<Self>() + words + regex + self.prefix.len() + self.body_bytes
    }

    fn matches(&self, value: &str) -> bool {
        match (&self.set, &self.regex) {
            (Some(set), _) => set.contains(value),
            (None, Some(regex)) => value.starts_with(&self.prefix) && regex.is_match(value),
            (None, None) => false,
        }
    }
}

/// The expression between the start and the end of a text.
fn anchored(hir: Hir) -> Hir {
    Hir::concat(vec![Hir::look(Look::Start), hir, Hir::look(Look::End)])
}

fn compile(hir: Hir, captures: bool, bytes_max: usize) -> Result<Regex, MatcherError> {
    let bytes_max = bytes_max.min(COMPILED_BYTES_MAX);
    let which = if captures { thompson::WhichCaptures::All } else { thompson::WhichCaptures::Implicit };
    let config = Regex::config()
        .nfa_size_limit(Some(bytes_max))
        .onepass_size_limit(Some(1 << 20))
        .hybrid_cache_capacity(CACHE_BYTES)
        .which_captures(which);
    Regex::builder().configure(config).build_from_hir(&hir).map_err(|e| match e.size_limit() {
        Some(_) => MatcherError::TooLarge(bytes_max),
        None => MatcherError::Syntax(e.to_string()),
    })
}

/// An expression for `label_replace`: it must match a whole value, and its groups are wanted. As in Prometheus the text
/// is put between `^(?s:` and `)$` before it is read. The second: named groups and their numbers.
pub fn replace_expression(value: &str, bytes_max: usize) -> Result<(Regex, Vec<(String, u32)>), MatcherError> {
    let options = regex::Options { dot_matches_newline: false, captures: true, bytes_max };
    let e = regex::parse(&format!("^(?s:{value})$"), options)?;
    Ok((compile(e.hir, true, bytes_max)?, e.names))
}

fn automaton(body: &Hir) -> Option<dense::DFA<Vec<u32>>> {
    let whole = Hir::concat(vec![body.clone(), Hir::look(Look::End)]);
    let config = thompson::Config::new().nfa_size_limit(Some(1 << 20)).which_captures(thompson::WhichCaptures::None);
    let nfa = thompson::Compiler::new().configure(config).build_from_hir(&whole).ok()?;
    let config = dense::Config::new()
        .start_kind(StartKind::Anchored)
        .match_kind(regex_automata::MatchKind::All)
        .dfa_size_limit(Some(1 << 20))
        .determinize_size_limit(Some(4 << 20));
    dense::Builder::new().configure(config).build_from_nfa(&nfa).ok()
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
                if words.len() > 1 && out.len() > 1 && out.len().checked_mul(words.len())? > PRODUCT_MAX {
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

/// A private-use character stands for each byte that is no text: no label is equal to what holds one.
const STAND_INS: u32 = 0x10_FF00;

fn stand_in(c: char) -> Option<u8> {
    u32::from(c).checked_sub(STAND_INS).and_then(|b| u8::try_from(b).ok()).filter(|b| !b.is_ascii())
}

/// The name or value of a matcher from bytes that need not be text; [`bytes_of_text`] gives them back.
pub fn text_of_bytes(bytes: &[u8]) -> String {
    let byte = |b: &u8| char::from_u32(STAND_INS + u32::from(*b));
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match stand_in(c) {
                None => out.push(c),
                Some(_) => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes().iter().filter_map(byte)),
            }
        }
        out.extend(chunk.invalid().iter().filter_map(byte));
    }
    out
}

/// What [`text_of_bytes`] was made from.
pub fn bytes_of_text(text: &str) -> Cow<'_, [u8]> {
    if !text.chars().any(|c| stand_in(c).is_some()) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match stand_in(c) {
            Some(b) => out.push(b),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(out)
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |s: &str| quoted_bytes(&bytes_of_text(s));
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
    fn bytes_that_are_no_text_come_back() {
        for bytes in
            [&b"a\xffb"[..], b"\xf4\x8f", "a\u{10ffff}\u{10ff7f}".as_bytes(), "\u{10ff80}".as_bytes(), b"plain"]
        {
            let text = text_of_bytes(bytes);
            assert_eq!(bytes_of_text(&text), bytes);
        }
        let m = Matcher::equal("\u{10ffff}", &text_of_bytes(b"\xff\xc3\xa9"));
        assert_eq!(m.to_string(), "\"\\xff\"=\"\\xffé\"");
    }

    #[test]
    fn bad_and_huge_expressions_are_refused() {
        assert!(matches!(Matcher::new(MatchOp::Regex, "a", "a(", 1 << 20), Err(MatcherError::Syntax(_))));
        let huge = "\\pL{900}";
        assert!(matches!(Matcher::new(MatchOp::Regex, "a", huge, 1 << 20), Err(MatcherError::TooLarge(_))));
    }
}
