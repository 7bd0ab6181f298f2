//! Regular expressions as Go writes them (RE2 syntax, Perl flavour), read into the tree that Rust's engine compiles.
//!
//! ```text
//! text ─▶ parser (groups, repetitions, flags) ─┬─▶ class ([…], \d, [:alpha:], \pL, case folding) ─▶ Hir ─▶ regex_automata
//!                                               └─▶ error, worded and cut as Go words and cuts it
//! ```
//!
//! The two dialects look alike and differ where nobody looks: `\d \s \w \b` and `[[:alpha:]]` are ASCII in Go, `\Q…\E`
//! quotes, `\C` and back references are refused, `(?U)` swaps greed, `$` is the end of the text, a `{` that starts no
//! count is itself, names of groups may repeat, and scripts are named exactly. Characters belong to what the Unicode
//! tables of `regex-syntax` say (16.0; Go has 15.0).
//!
//! Invariants
//! 1. What Go refuses is refused with Go's message, what Go takes is taken and means the same on valid UTF-8 — up to
//!    the bounds below.
//! 2. Memory is bounded before it is taken: by [`Options::bytes_max`] for the tree, by [`HEIGHT_MAX`] for its height.

mod class;
mod parser;
#[cfg(test)]
mod tests;

use regex_syntax::hir::Hir;

use crate::matcher::MatcherError;

/// The most nodes from the root of a tree to a leaf. Go allows 1,000; whoever walks a tree here recurses.
pub const HEIGHT_MAX: usize = 250;

/// How to read an expression.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `.` matches a newline from the start.
    pub dot_matches_newline: bool,
    /// Groups are kept, for templates; otherwise they only group.
    pub captures: bool,
    /// Bytes the tree may take.
    pub bytes_max: usize,
}

/// An expression that was read.
#[derive(Clone, Debug)]
pub struct Expression {
    /// The tree.
    pub hir: Hir,
    /// Named groups and their numbers, in order; a name may stand several times.
    pub names: Vec<(String, u32)>,
    /// Bytes the tree takes, about.
    pub bytes: usize,
}

/// Reads an expression.
pub fn parse(text: &str, options: Options) -> Result<Expression, MatcherError> {
    parser::parse(text.as_bytes(), options)
}

/// Reads an expression out of bytes that need not be UTF-8; where they are not is an error, as in Go.
pub fn parse_bytes(text: &[u8], options: Options) -> Result<Expression, MatcherError> {
    parser::parse(text, options)
}
