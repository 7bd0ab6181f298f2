//! Label sets, packed.
//!
//! One label set is one allocation: for each label, sorted by name, `varint(name length) name varint(value length)
//! value`. Comparing two sets for equality or hashing one is one pass over bytes; cloning is a reference count.
//!
//! Invariants
//! 1. Names are strictly ascending; values are not empty; both are UTF-8. [`LabelsBuilder`] is the only way in from
//!    outside, [`Labels::from_packed`] re-checks.
//! 2. `Ord` is Prometheus's order of label sets: label by label, name before value, a prefix first.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The label that holds a metric's name.
pub const METRIC_NAME: &str = "__name__";

/// Why a label set was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// The same name twice.
    #[error("duplicate label name {0:?}")]
    Duplicate(String),
    /// A label without a name.
    #[error("empty label name (value {0:?})")]
    EmptyName(String),
    /// Bytes that are not UTF-8.
    #[error("label is not valid UTF-8: {0:?}")]
    NotUtf8(String),
    /// Packed bytes that do not parse.
    #[error("malformed packed label set")]
    Malformed,
}

/// An owned, shared, immutable label set.
#[derive(Clone)]
pub struct Labels(Arc<[u8]>);

/// A borrowed label set: the packed bytes of a [`Labels`], wherever they stand.
#[derive(Clone, Copy)]
pub struct LabelsRef<'a>(&'a [u8]);

fn put_varint(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push((n as u8 & 0x7f) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn get_varint(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let first = *bytes.get(*at)?;
    *at += 1;
    if first < 0x80 {
        return Some(first as usize);
    }
    let mut n = (first & 0x7f) as usize;
    let mut shift = 7;
    loop {
        let b = *bytes.get(*at)?;
        *at += 1;
        n |= ((b & 0x7f) as usize) << shift;
        if b < 0x80 {
            return Some(n);
        }
        shift += 7;
        if shift > 28 {
            return None;
        }
    }
}

fn get_str<'a>(bytes: &'a [u8], at: &mut usize) -> Option<&'a str> {
    let n = get_varint(bytes, at)?;
    let end = at.checked_add(n)?;
    let s = std::str::from_utf8(bytes.get(*at..end)?).ok()?;
    *at = end;
    Some(s)
}

/// Iterator over `(name, value)`.
#[derive(Clone)]
pub struct Iter<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iter<'a> {
    fn next_str(&mut self) -> &'a str {
        let n = get_varint(self.bytes, &mut self.at).unwrap_or(0);
        let end = (self.at + n).min(self.bytes.len());
        let s = &self.bytes[self.at..end];
        self.at = end;
        // SAFETY: bytes of a `LabelsRef` were checked to be UTF-8, string by string, when it was made
        // (invariant 1); lengths are self-consistent by the same check.
        unsafe { std::str::from_utf8_unchecked(s) }
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);
    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let name = self.next_str();
        let value = self.next_str();
        Some((name, value))
    }
}

impl<'a> LabelsRef<'a> {
    /// The set without labels.
    pub fn empty() -> Self {
        Self(&[])
    }

    /// Checks packed bytes and borrows them.
    pub fn from_packed(bytes: &'a [u8]) -> Result<Self, LabelsError> {
        let mut at = 0;
        let mut last: Option<&str> = None;
        while at < bytes.len() {
            let name = get_str(bytes, &mut at).ok_or(LabelsError::Malformed)?;
            let value = get_str(bytes, &mut at).ok_or(LabelsError::Malformed)?;
            if name.is_empty() || value.is_empty() || last.is_some_and(|l| l >= name) {
                return Err(LabelsError::Malformed);
            }
            last = Some(name);
        }
        Ok(Self(bytes))
    }

    /// Labels by ascending name.
    pub fn iter(self) -> Iter<'a> {
        Iter { bytes: self.0, at: 0 }
    }

    /// The value of `name`, or `""`.
    pub fn get(self, name: &str) -> &'a str {
        for (n, v) in self.iter() {
            match n.cmp(name) {
                Ordering::Less => {}
                Ordering::Equal => return v,
                Ordering::Greater => break,
            }
        }
        ""
    }

    /// The packed bytes.
    pub fn packed(self) -> &'a [u8] {
        self.0
    }

    /// Published hash (XXH3, 64 bit) of the packed bytes: may be written to disk.
    pub fn hash64(self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.0)
    }

    /// An owned copy.
    pub fn to_labels(self) -> Labels {
        Labels(self.0.into())
    }

    /// Number of labels.
    pub fn len(self) -> usize {
        self.iter().count()
    }

    /// No label at all?
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for LabelsRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl Eq for LabelsRef<'_> {}
impl Hash for LabelsRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl PartialOrd for LabelsRef<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for LabelsRef<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.0 == other.0 {
            return Ordering::Equal;
        }
        self.iter().cmp(other.iter())
    }
}

impl Labels {
    /// The set without labels.
    pub fn empty() -> Self {
        Self(Arc::from([]))
    }

    /// From pairs in any order; pairs with an empty value are left out.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, LabelsError> {
        let mut b = LabelsBuilder::default();
        for (n, v) in pairs {
            b.push(n.as_ref(), v.as_ref());
        }
        b.build()
    }

    /// Checks packed bytes and copies them.
    pub fn from_packed(bytes: &[u8]) -> Result<Self, LabelsError> {
        Ok(LabelsRef::from_packed(bytes)?.to_labels())
    }

    /// Borrows.
    pub fn as_ref(&self) -> LabelsRef<'_> {
        LabelsRef(&self.0)
    }

    /// Labels by ascending name.
    pub fn iter(&self) -> Iter<'_> {
        self.as_ref().iter()
    }

    /// The value of `name`, or `""`.
    pub fn get(&self, name: &str) -> &str {
        self.as_ref().get(name)
    }

    /// The metric name, or `""`.
    pub fn metric_name(&self) -> &str {
        self.get(METRIC_NAME)
    }

    /// The packed bytes.
    pub fn packed(&self) -> &[u8] {
        &self.0
    }

    /// Published hash (XXH3, 64 bit) of the packed bytes.
    pub fn hash64(&self) -> u64 {
        self.as_ref().hash64()
    }

    /// Has anyone else a clone of it?
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Number of labels.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// No label at all?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same set without the metric name.
    pub fn without_metric_name(&self) -> Labels {
        self.filtered(|n| n != METRIC_NAME)
    }

    /// The labels whose name `keep` accepts.
    pub fn filtered(&self, keep: impl Fn(&str) -> bool) -> Labels {
        let mut out = Vec::with_capacity(self.0.len());
        for (n, v) in self.iter() {
            if keep(n) {
                push_packed(&mut out, n, v);
            }
        }
        Labels(out.into())
    }

    /// A builder that starts with these labels.
    pub fn to_builder(&self) -> LabelsBuilder {
        let mut b = LabelsBuilder::default();
        for (n, v) in self.iter() {
            b.push(n, v);
        }
        b
    }
}

/// Appends one label to packed bytes. The caller keeps names ascending and values non-empty.
pub fn push_packed(out: &mut Vec<u8>, name: &str, value: &str) {
    put_varint(out, name.len());
    out.extend_from_slice(name.as_bytes());
    put_varint(out, value.len());
    out.extend_from_slice(value.as_bytes());
}

impl Default for Labels {
    fn default() -> Self {
        Self::empty()
    }
}
impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}
impl Eq for Labels {}
impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_ref().cmp(&other.as_ref())
    }
}

/// A name that needs no quotes in a selector: `[a-zA-Z_][a-zA-Z0-9_]*` (colons too, for metric names).
pub fn is_legacy_name(name: &str, colons: bool) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || (colons && b == b':');
    !name.is_empty() && !name.as_bytes()[0].is_ascii_digit() && name.bytes().all(ok)
}

impl fmt::Display for LabelsRef<'_> {
    /// Prometheus's `{a="b", c="d"}`, with the metric name inside the braces like any other label.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (n, v)) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            if is_legacy_name(n, false) {
                write!(f, "{n}={}", quoted(v))?;
            } else {
                write!(f, "{}={}", quoted(n), quoted(v))?;
            }
        }
        f.write_str("}")
    }
}
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}
impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}
impl fmt::Debug for LabelsRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `s` as a double-quoted string in Go's syntax, which is PromQL's: everything that does not print is escaped.
pub fn quoted(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    s.chars().for_each(|c| push_escaped(&mut out, c, '"'));
    out.push('"');
    out
}

/// Bytes that need not be text as a double-quoted string in Go's syntax.
pub fn quoted_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push_escaped(&mut out, c, '"'));
        chunk.invalid().iter().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
    }
    out.push('"');
    out
}

/// Appends a character as it stands in a string in Go's syntax between quotes of a kind.
pub fn push_escaped(out: &mut String, c: char, quote: char) {
    match c {
        c if c == quote => {
            out.push('\\');
            out.push(c);
        }
        '\\' => out.push_str("\\\\"),
        ' '..='~' => out.push(c),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        c if c.is_ascii() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
        c if is_printable(c) => out.push(c),
        c if u32::from(c) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
    }
}

/// Does a character print: letters, marks, numbers, punctuation, symbols, and of all spaces the ASCII one?
pub fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    // Past the first character of a text, only what does not print is escaped.
    let mut text = String::from("a");
    text.push(c);
    text.escape_debug().nth(1) == Some(c)
}

/// Collects labels in any order; [`LabelsBuilder::build`] sorts and checks.
#[derive(Clone, Debug, Default)]
pub struct LabelsBuilder {
    pairs: Vec<(String, String)>,
}

impl LabelsBuilder {
    /// Adds a label; a duplicate is found by [`LabelsBuilder::build`].
    pub fn push(&mut self, name: &str, value: &str) -> &mut Self {
        self.pairs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a label, replacing one of the same name; an empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.pairs.retain(|(n, _)| n != name);
        if !value.is_empty() {
            self.push(name, value);
        }
        self
    }

    /// Removes a label.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.pairs.retain(|(n, _)| n != name);
        self
    }

    /// The value of `name`, or `""`.
    pub fn get(&self, name: &str) -> &str {
        self.pairs.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    /// The label set; labels with an empty value are left out, as Prometheus does.
    pub fn build(&mut self) -> Result<Labels, LabelsError> {
        self.pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let mut out = Vec::with_capacity(self.pairs.iter().map(|(n, v)| n.len() + v.len() + 2).sum());
        let mut last: Option<&str> = None;
        for (n, v) in &self.pairs {
            if n.is_empty() {
                return Err(LabelsError::EmptyName(v.clone()));
            }
            if last == Some(n) {
                return Err(LabelsError::Duplicate(n.clone()));
            }
            last = Some(n);
            if !v.is_empty() {
                push_packed(&mut out, n, v);
            }
        }
        Ok(Labels(out.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sorts_drops_empty_values_and_refuses_duplicates() {
        let l = Labels::from_pairs([("b", "2"), ("a", "1"), ("c", "")]).unwrap();
        assert_eq!(l.to_string(), r#"{a="1", b="2"}"#);
        assert_eq!(l.get("b"), "2");
        assert_eq!(l.get("c"), "");
        assert_eq!(Labels::from_pairs([("a", "1"), ("a", "2")]), Err(LabelsError::Duplicate("a".into())));
    }

    #[test]
    fn packed_bytes_are_checked() {
        assert!(LabelsRef::from_packed(&[1, b'b', 1, b'x', 1, b'a', 1, b'x']).is_err());
        assert!(LabelsRef::from_packed(&[1, b'b', 5, b'x']).is_err());
        assert!(LabelsRef::from_packed(&[1, 0xff, 1, b'x']).is_err());
    }

    proptest! {
        #[test]
        fn packing_round_trips(map in proptest::collection::btree_map("[a-zé_]{1,200}", "\\PC{1,300}", 0..6)) {
            let l = Labels::from_pairs(map.iter()).unwrap();
            let back: Vec<_> = l.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(back, map.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(Labels::from_packed(l.packed()).unwrap(), l);
        }
    }
}
