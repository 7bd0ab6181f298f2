//! The reader: a frame per open group, in it the alternatives so far and the pieces of the one at hand.
//!
//! Repetitions take the last piece; characters gather in one piece of text, whose last one a repetition takes away.
//! Errors quote the part of the expression that Go quotes.

use regex_syntax::hir::{Capture, Class, ClassUnicode, Dot, Hir, Look, Repetition};

use super::{Expression, HEIGHT_MAX, Options, class};
use crate::matcher::MatcherError;

/// The most times anything may be repeated, all counts around it multiplied.
const REPEAT_MAX: u32 = 1000;
/// Go's bound on the size of a compiled expression, instructions.
const SIZE_MAX: u64 = (128 << 20) / 40;
/// Memory of a node, about.
const NODE_BYTES: usize = 320;
/// What folding a large set counts as.
const FOLD_BYTES: usize = 32 << 10;
/// Longest part of an expression that a message quotes, bytes.
const QUOTED_MAX: usize = 2048;

#[derive(Clone, Copy)]
struct Flags {
    fold: bool,
    lines: bool,
    dot_newline: bool,
    lazy: bool,
}

struct Node {
    hir: Hir,
    height: usize,
    /// Instructions, as Go counts them.
    size: u64,
    /// The largest product of counts on a way to a leaf.
    repeats: u32,
}

enum Piece {
    Text(String),
    Node(Node),
}

struct Frame {
    /// Number and name of the group, if it captures.
    group: Option<(u32, Option<Box<str>>)>,
    /// Flags in force before it.
    flags: Flags,
    alternatives: Vec<Node>,
    pieces: Vec<Piece>,
}

impl Frame {
    fn new(group: Option<(u32, Option<Box<str>>)>, flags: Flags) -> Self {
        Self { group, flags, alternatives: Vec::new(), pieces: Vec::new() }
    }
}

struct Parser<'a> {
    text: &'a [u8],
    options: Options,
    flags: Flags,
    frame: Frame,
    outer: Vec<Frame>,
    groups: u32,
    names: Vec<(String, u32)>,
    bytes: usize,
    /// No `:]` comes any more.
    no_posix: bool,
}

type Read<T> = Result<T, MatcherError>;

fn error<T>(what: &str, quoted: &[u8]) -> Read<T> {
    let mut shown = String::from_utf8_lossy(quoted).into_owned();
    if shown.len() > QUOTED_MAX {
        shown.truncate(shown.floor_char_boundary(QUOTED_MAX));
        shown.push('…');
    }
    Err(MatcherError::Syntax(format!("{what}: `{shown}`")))
}

const CLASS_RANGE: &str = "invalid character class range";
const ESCAPE: &str = "invalid escape sequence";
const NAMED_CAPTURE: &str = "invalid named capture";
const REPEAT_ARGUMENT: &str = "missing argument to repetition operator";
const REPEAT_SIZE: &str = "invalid repeat count";

pub(super) fn parse(text: &[u8], options: Options) -> Read<Expression> {
    let flags = Flags { fold: false, lines: false, dot_newline: options.dot_matches_newline, lazy: false };
    let mut p = Parser {
        text,
        options,
        flags,
        frame: Frame::new(None, flags),
        outer: Vec::new(),
        groups: 0,
        names: Vec::new(),
        bytes: 0,
        no_posix: false,
    };
    p.run()?;
    let whole = p.alternation()?;
    if !p.outer.is_empty() {
        return error("missing closing )", text);
    }
    p.names.sort_by_key(|(_, index)| *index);
    Ok(Expression { hir: whole.hir, names: p.names, bytes: p.bytes })
}

impl Parser<'_> {
    fn run(&mut self) -> Read<()> {
        let mut at = 0;
        // Where the repetition just before began.
        let mut repeated: Option<usize> = None;
        while let Some(c) = self.byte(at) {
            let before = repeated.take();
            at = match c {
                b'(' if self.byte(at + 1) == Some(b'?') => self.flags_or_group(at)?,
                b'(' => {
                    self.groups += 1;
                    self.open(Some((self.groups, None)))?;
                    at + 1
                }
                b'|' => {
                    let done = self.concatenation()?;
                    self.frame.alternatives.push(done);
                    at + 1
                }
                b')' => {
                    self.close()?;
                    at + 1
                }
                b'^' => self.look(if self.flags.lines { Look::StartLF } else { Look::Start }, at + 1)?,
                b'$' => self.look(if self.flags.lines { Look::EndLF } else { Look::End }, at + 1)?,
                b'.' => {
                    let dot = if self.flags.dot_newline { Dot::AnyChar } else { Dot::AnyCharExceptLF };
                    self.push(Node { hir: Hir::dot(dot), height: 1, size: 1, repeats: 1 })?;
                    at + 1
                }
                b'[' => self.class(at)?,
                b'*' | b'+' | b'?' => {
                    let count = match c {
                        b'*' => (0, None),
                        b'+' => (1, None),
                        _ => (0, Some(1)),
                    };
                    repeated = Some(at);
                    self.repeat(count, false, at, at + 1, before)?
                }
                b'{' => match self.counts(at) {
                    None => self.literal(u32::from(b'{'), at + 1)?,
                    Some((min, max, after)) => {
                        let too_many = |n: Option<u32>| n.is_none_or(|n| n > REPEAT_MAX);
                        if too_many(min) || max.is_some_and(|m| too_many(m) || m < min) {
                            return error(REPEAT_SIZE, &self.text[at..after]);
                        }
                        repeated = Some(at);
                        self.repeat((min.unwrap_or(0), max.flatten()), true, at, after, before)?
                    }
                },
                b'\\' => self.escape(at)?,
                _ => {
                    let (c, after) = self.rune(at)?;
                    self.literal(c, after)?
                }
            };
        }
        Ok(())
    }

    // Text.

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.get(at).copied()
    }

    fn starts(&self, at: usize, with: &[u8]) -> bool {
        self.text.get(at..).is_some_and(|t| t.starts_with(with))
    }

    /// The character at a place and the place after it; at the end of the text U+FFFD, which is none of those asked for.
    fn rune(&self, at: usize) -> Read<(u32, usize)> {
        let rest = self.text.get(at..).unwrap_or_default();
        let Some(first) = rest.first() else { return Ok((0xfffd, at)) };
        if first.is_ascii() {
            return Ok((u32::from(*first), at + 1));
        }
        let width = 2 + usize::from(*first >= 0xe0) + usize::from(*first >= 0xf0);
        match rest.get(..width).and_then(|b| std::str::from_utf8(b).ok()).and_then(|s| s.chars().next()) {
            Some(c) => Ok((u32::from(c), at + width)),
            None => error("invalid UTF-8", rest),
        }
    }

    fn check_utf8(&self, from: usize, to: usize) -> Read<()> {
        let mut at = from;
        while at < to {
            at = self.rune(at)?.1;
        }
        Ok(())
    }

    // Pieces.

    fn charge(&mut self, bytes: usize) -> Read<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.options.bytes_max {
            return Err(MatcherError::TooLarge(self.options.bytes_max));
        }
        Ok(())
    }

    fn checked(&self, node: Node) -> Read<Node> {
        if node.size > SIZE_MAX {
            return error("expression too large", self.text);
        }
        if node.height > HEIGHT_MAX {
            return error("expression nests too deeply", self.text);
        }
        Ok(node)
    }

    fn push(&mut self, node: Node) -> Read<()> {
        self.charge(NODE_BYTES)?;
        let node = self.checked(node)?;
        self.frame.pieces.push(Piece::Node(node));
        Ok(())
    }

    fn look(&mut self, look: Look, after: usize) -> Read<usize> {
        self.push(Node { hir: Hir::look(look), height: 1, size: 1, repeats: 1 })?;
        Ok(after)
    }

    fn push_class(&mut self, set: ClassUnicode) -> Read<()> {
        self.charge(set.ranges().len() * 8)?;
        self.push(Node { hir: Hir::class(Class::Unicode(set)), height: 1, size: 1, repeats: 1 })
    }

    /// One character, given by its code.
    fn literal(&mut self, code: u32, after: usize) -> Read<usize> {
        let c = character(code);
        let code = u32::from(c);
        if self.flags.fold {
            let set = class::folded(class::of_ranges(&[(code, code)]));
            if set.ranges().iter().map(|r| r.len()).sum::<usize>() > 1 {
                self.push_class(set)?;
                return Ok(after);
            }
        }
        self.charge(c.len_utf8())?;
        match self.frame.pieces.last_mut() {
            Some(Piece::Text(t)) => t.push(c),
            _ => {
                self.charge(NODE_BYTES)?;
                self.frame.pieces.push(Piece::Text(c.to_string()));
            }
        }
        Ok(after)
    }

    fn repeat(
        &mut self,
        (min, max): (u32, Option<u32>),
        counted: bool,
        at: usize,
        mut after: usize,
        before: Option<usize>,
    ) -> Read<usize> {
        let mut lazy = self.flags.lazy;
        if self.byte(after) == Some(b'?') {
            after += 1;
            lazy = !lazy;
        }
        if let Some(before) = before {
            return error("invalid nested repetition operator", &self.text[before..after]);
        }
        let sub = match self.frame.pieces.pop() {
            None => return error(REPEAT_ARGUMENT, &self.text[at..after]),
            Some(Piece::Node(n)) => n,
            Some(Piece::Text(mut t)) => {
                let last = t.pop().map(String::from).unwrap_or_default();
                if !t.is_empty() {
                    self.frame.pieces.push(Piece::Text(t));
                }
                self.charge(NODE_BYTES)?;
                text_node(&last)
            }
        };
        let size = match (counted, max) {
            (true, Some(max)) => u64::from(max).saturating_mul(sub.size) + u64::from(max - min.min(max)),
            (true, None) if min > 0 => 1 + u64::from(min).saturating_mul(sub.size),
            (_, Some(_)) => 1 + sub.size,
            (false, None) if min > 0 => 1 + sub.size,
            (_, None) => 2 + sub.size,
        };
        let repeats = match (counted, max) {
            (true, Some(0)) => 1,
            (true, max) => sub.repeats.saturating_mul(max.unwrap_or(min).max(1)),
            (false, _) => sub.repeats,
        };
        let height = sub.height + 1;
        let hir = Hir::repetition(Repetition { min, max, greedy: !lazy, sub: Box::new(sub.hir) });
        self.push(Node { hir, height, size: size.max(1), repeats })?;
        if counted && (min >= 2 || max.is_some_and(|m| m >= 2)) && repeats > REPEAT_MAX {
            return error(REPEAT_SIZE, &self.text[at..after]);
        }
        Ok(after)
    }

    /// `{2}`, `{2,}`, `{2,3}`: the counts (none: too large a number) and the place after them; otherwise a brace is a
    /// brace. The second is absent where there is no upper bound.
    #[allow(clippy::option_option)]
    fn counts(&self, at: usize) -> Option<(Option<u32>, Option<Option<u32>>, usize)> {
        let (min, at) = self.count(at + 1)?;
        let (max, at) = match self.byte(at)? {
            b',' if self.byte(at + 1)? == b'}' => (None, at + 1),
            b',' => {
                let (max, at) = self.count(at + 1)?;
                (Some(max), at)
            }
            _ => (Some(min), at),
        };
        (self.byte(at)? == b'}').then_some((min, max, at + 1))
    }

    fn count(&self, at: usize) -> Option<(Option<u32>, usize)> {
        let rest = self.text.get(at..)?;
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 || (digits > 1 && rest[0] == b'0') {
            return None;
        }
        let n = std::str::from_utf8(&rest[..digits]).ok()?.parse::<u32>().ok().filter(|n| *n < 1_000_000_000);
        Some((n, at + digits))
    }

    // Groups.

    fn open(&mut self, group: Option<(u32, Option<Box<str>>)>) -> Read<()> {
        if self.outer.len() >= HEIGHT_MAX {
            return error("expression nests too deeply", self.text);
        }
        self.charge(NODE_BYTES)?;
        let frame = Frame::new(group, self.flags);
        self.outer.push(std::mem::replace(&mut self.frame, frame));
        Ok(())
    }

    fn close(&mut self) -> Read<()> {
        let mut node = self.alternation()?;
        let Some(outer) = self.outer.pop() else { return error("unexpected )", self.text) };
        let inner = std::mem::replace(&mut self.frame, outer);
        self.flags = inner.flags;
        if let Some((index, name)) = inner.group {
            node.height += 1;
            node.size += 2;
            if self.options.captures {
                // Names are kept aside: they need not differ.
                if let Some(name) = name {
                    self.names.push((name.into_string(), index));
                }
                node.hir = Hir::capture(Capture { index, name: None, sub: Box::new(node.hir) });
            }
        }
        self.push(node)
    }

    /// The pieces at hand as one node.
    fn concatenation(&mut self) -> Read<Node> {
        let pieces = std::mem::take(&mut self.frame.pieces);
        self.charge(NODE_BYTES)?;
        let mut nodes: Vec<Node> = Vec::with_capacity(pieces.len());
        for p in pieces {
            nodes.push(match p {
                Piece::Text(t) => text_node(&t),
                Piece::Node(n) => n,
            });
        }
        let joined = match nodes.len() {
            0 => Node { hir: Hir::empty(), height: 1, size: 1, repeats: 1 },
            1 => return Ok(nodes.swap_remove(0)),
            _ => combined(nodes, 0, Hir::concat),
        };
        self.checked(joined)
    }

    /// All alternatives of the frame as one node.
    fn alternation(&mut self) -> Read<Node> {
        let last = self.concatenation()?;
        let mut nodes = std::mem::take(&mut self.frame.alternatives);
        if nodes.is_empty() {
            return Ok(last);
        }
        nodes.push(last);
        let between = nodes.len() as u64 - 1;
        self.checked(combined(nodes, between, Hir::alternation))
    }

    /// What begins with `(?`.
    fn flags_or_group(&mut self, at: usize) -> Read<usize> {
        let rest = self.text.len() - at;
        let named = match (self.starts(at, b"(?P<"), self.starts(at, b"(?<")) {
            (true, _) if rest > 4 => Some(at + 4),
            (_, true) if rest > 3 => Some(at + 3),
            _ => None,
        };
        if let Some(from) = named {
            let Some(n) = self.text[at..].iter().position(|b| *b == b'>') else {
                self.check_utf8(at, self.text.len())?;
                return error(NAMED_CAPTURE, &self.text[at..]);
            };
            let end = at + n;
            self.check_utf8(from, end)?;
            let name = String::from_utf8_lossy(&self.text[from..end]);
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return error(NAMED_CAPTURE, &self.text[at..=end]);
            }
            self.groups += 1;
            self.open(Some((self.groups, Some(name.into()))))?;
            return Ok(end + 1);
        }
        let mut flags = self.flags;
        let (mut on, mut seen) = (true, false);
        let mut next = at + 2;
        while next < self.text.len() {
            let (c, after) = self.rune(next)?;
            next = after;
            match char::from_u32(c) {
                Some('i') => flags.fold = on,
                Some('m') => flags.lines = on,
                Some('s') => flags.dot_newline = on,
                Some('U') => flags.lazy = on,
                Some('-') if on => {
                    (on, seen) = (false, false);
                    continue;
                }
                Some(c @ (':' | ')')) if on || seen => {
                    if c == ':' {
                        self.open(None)?;
                    }
                    self.flags = flags;
                    return Ok(next);
                }
                _ => break,
            }
            seen = true;
        }
        error("invalid or unsupported Perl syntax", &self.text[at..next])
    }

    // Escapes and classes.

    fn escape(&mut self, at: usize) -> Read<usize> {
        match self.byte(at + 1) {
            Some(b'A') => return self.look(Look::Start, at + 2),
            Some(b'z') => return self.look(Look::End, at + 2),
            Some(b'b') => return self.look(Look::WordAscii, at + 2),
            Some(b'B') => return self.look(Look::WordAsciiNegate, at + 2),
            Some(b'C') => return error(ESCAPE, &self.text[at..at + 2]),
            Some(b'Q') => {
                let from = at + 2;
                let rest = &self.text[from..];
                let end = rest.windows(2).position(|w| w == b"\\E");
                let to = from + end.unwrap_or(rest.len());
                let mut next = from;
                while next < to {
                    let (c, after) = self.rune(next)?;
                    next = self.literal(c, after)?;
                }
                return Ok(end.map_or(to, |_| to + 2));
            }
            _ => {}
        }
        if let Some((set, after)) = self.escaped_set(at)? {
            self.push_class(set)?;
            return Ok(after);
        }
        let (c, after) = self.escaped_char(at)?;
        self.literal(c, after)
    }

    /// `\d`, `\pL`, `\p{Han}` and their opposites.
    fn escaped_set(&mut self, at: usize) -> Read<Option<(ClassUnicode, usize)>> {
        let Some(letter) = self.byte(at + 1).filter(|_| self.byte(at) == Some(b'\\')) else { return Ok(None) };
        let mut negated = letter.is_ascii_uppercase();
        if let Some(ranges) = class::perl(letter.to_ascii_lowercase()) {
            return Ok(Some((self.set(class::of_ranges(ranges), negated)?, at + 2)));
        }
        if !matches!(letter, b'p' | b'P') {
            return Ok(None);
        }
        let (first, mut after) = self.rune(at + 2)?;
        let mut name = &self.text[at + 2..after];
        if first == u32::from(b'{') {
            let Some(n) = self.text[at..].iter().position(|b| *b == b'}') else {
                self.check_utf8(at, self.text.len())?;
                return error(CLASS_RANGE, &self.text[at..]);
            };
            after = at + n + 1;
            self.check_utf8(at + 3, at + n)?;
            name = &self.text[at + 3..at + n];
        }
        if let Some(rest) = name.strip_prefix(b"^") {
            negated = !negated;
            name = rest;
        }
        match std::str::from_utf8(name).ok().and_then(class::unicode) {
            Some(set) => Ok(Some((self.set(set, negated)?, after))),
            None => error(CLASS_RANGE, &self.text[at..after]),
        }
    }

    /// A named set as it counts under the flags.
    fn set(&mut self, set: ClassUnicode, negated: bool) -> Read<ClassUnicode> {
        self.charge(set.ranges().len() * 8)?;
        let mut set = self.folded(set)?;
        if negated {
            set.negate();
        }
        Ok(set)
    }

    /// With everything that differs in case only, where that is wanted. Looking characters up is work, so it is charged
    /// like memory.
    fn folded(&mut self, set: ClassUnicode) -> Read<ClassUnicode> {
        if !self.flags.fold {
            return Ok(set);
        }
        if set.ranges().iter().map(|r| r.len()).sum::<usize>() > class::FEW {
            self.charge(FOLD_BYTES)?;
        }
        Ok(class::folded(set))
    }

    /// `\n`, `\x{1F3F9}`, `\.`: the character and the place after it.
    fn escaped_char(&self, at: usize) -> Read<(u32, usize)> {
        if at + 1 >= self.text.len() {
            return error("trailing backslash at end of expression", b"");
        }
        let (c, mut next) = self.rune(at + 1)?;
        let digit = |at: usize| self.byte(at).filter(|b| (b'0'..=b'7').contains(b)).map(|b| u32::from(b - b'0'));
        let letter = u8::try_from(c).unwrap_or(0xff);
        match letter {
            b'1'..=b'7' if digit(next).is_none() => {}
            b'0'..=b'7' => {
                let mut code = u32::from(letter - b'0');
                for _ in 1..3 {
                    let Some(d) = digit(next) else { break };
                    code = code * 8 + d;
                    next += 1;
                }
                return Ok((code, next));
            }
            b'x' if next < self.text.len() => return self.hexadecimal(at, next),
            b'a' => return Ok((0x07, next)),
            b'f' => return Ok((0x0c, next)),
            b'n' => return Ok((0x0a, next)),
            b'r' => return Ok((0x0d, next)),
            b't' => return Ok((0x09, next)),
            b'v' => return Ok((0x0b, next)),
            b if b.is_ascii() && !b.is_ascii_alphanumeric() => return Ok((c, next)),
            _ => {}
        }
        error(ESCAPE, &self.text[at..next])
    }

    /// What follows `\x`.
    fn hexadecimal(&self, at: usize, next: usize) -> Read<(u32, usize)> {
        let value = |c: u32| char::from_u32(c).and_then(|c| c.to_digit(16));
        let (first, mut next) = self.rune(next)?;
        if first != u32::from(b'{') {
            let (second, after) = self.rune(next)?;
            return match (value(first), value(second)) {
                (Some(x), Some(y)) => Ok((x * 16 + y, after)),
                _ => error(ESCAPE, &self.text[at..after]),
            };
        }
        let (mut code, mut digits) = (0u32, 0);
        while next < self.text.len() {
            let (c, after) = self.rune(next)?;
            next = after;
            if c == u32::from(b'}') {
                if digits > 0 {
                    return Ok((code, next));
                }
                break;
            }
            let Some(v) = value(c) else { break };
            code = code * 16 + v;
            if code > 0x10_ffff {
                break;
            }
            digits += 1;
        }
        error(ESCAPE, &self.text[at..next])
    }

    /// `[…]`
    fn class(&mut self, open: usize) -> Read<usize> {
        let mut at = open + 1;
        let negated = self.byte(at) == Some(b'^');
        at += usize::from(negated);
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        let mut sets: Option<ClassUnicode> = None;
        let mut first = true;
        while self.byte(at) != Some(b']') || first {
            first = false;
            let named = match self.posix(at)? {
                Some(found) => Some(found),
                None => self.escaped_set(at)?,
            };
            if let Some((set, after)) = named {
                self.charge(set.ranges().len() * 8)?;
                match &mut sets {
                    Some(all) => all.union(&set),
                    None => sets = Some(set),
                }
                at = after;
                continue;
            }
            let from = at;
            let (mut lo, after) = self.class_char(at, open)?;
            at = after;
            let mut hi = lo;
            if self.byte(at) == Some(b'-') && self.byte(at + 1).is_some_and(|b| b != b']') {
                (hi, at) = self.class_char(at + 1, open)?;
                if hi < lo {
                    return error(CLASS_RANGE, &self.text[from..at]);
                }
            }
            self.charge(8)?;
            if lo == hi && !negated {
                (lo, hi) = (u32::from(character(lo)), u32::from(character(hi)));
            }
            ranges.push((lo, hi));
        }
        let mut set = self.folded(class::of_ranges(&ranges))?;
        if let Some(sets) = sets {
            set.union(&sets);
        }
        if negated {
            set.negate();
        }
        self.push_class(set)?;
        Ok(at + 1)
    }

    fn class_char(&self, at: usize, open: usize) -> Read<(u32, usize)> {
        match self.byte(at) {
            None => error("missing closing ]", &self.text[open..]),
            Some(b'\\') => self.escaped_char(at),
            Some(_) => self.rune(at),
        }
    }

    /// `[:alpha:]`, `[:^alpha:]`
    fn posix(&mut self, at: usize) -> Read<Option<(ClassUnicode, usize)>> {
        if self.no_posix || !self.starts(at, b"[:") || self.text.len() - at <= 2 {
            return Ok(None);
        }
        let Some(n) = self.text[at + 2..].windows(2).position(|w| w == b":]") else {
            self.no_posix = true;
            return Ok(None);
        };
        let after = at + 2 + n + 2;
        let name = &self.text[at + 2..at + 2 + n];
        let (name, negated) = match name.strip_prefix(b"^") {
            Some(rest) => (rest, true),
            None => (name, false),
        };
        match class::posix(name) {
            Some(ranges) => Ok(Some((self.set(class::of_ranges(ranges), negated)?, after))),
            None => error(CLASS_RANGE, &self.text[at..after]),
        }
    }
}

/// A character by its code. A surrogate becomes what Prometheus makes of it when it compares words: U+FFFD.
fn character(code: u32) -> char {
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn text_node(text: &str) -> Node {
    Node { hir: Hir::literal(text.as_bytes()), height: 1, size: text.chars().count().max(1) as u64, repeats: 1 }
}

fn combined(nodes: Vec<Node>, more: u64, make: fn(Vec<Hir>) -> Hir) -> Node {
    let height = nodes.iter().map(|n| n.height).max().unwrap_or(0) + 1;
    let size = nodes.iter().map(|n| n.size).fold(more, u64::saturating_add);
    let repeats = nodes.iter().map(|n| n.repeats).max().unwrap_or(1);
    Node { hir: make(nodes.into_iter().map(|n| n.hir).collect()), height, size, repeats }
}
