//! PromQL text: lexer, parser, checker, printer.
//!
//! ```text
//! text ─▶ lexer ─▶ parser (selector, duration) ─▶ check ─▶ Expr ─┬─▶ preprocess ─▶ Expr as evaluated
//!                                                                 ├─▶ printer: one line, or formatted
//!                                                                 └─▶ json
//! ```
//!
//! What is accepted, how it is read and what is said about what is not are Prometheus 3.16's, to the byte.
//!
//! Invariants
//! 1. No text makes the parser panic, overflow its stack or take more than linear time: brackets nest at most
//!    [`parser::ParseOptions::depth_max`] deep and a tree is at most [`parser::HEIGHT_MAX`] high.
//! 2. A tree that was printed and parsed again is the same tree, up to positions.

pub mod ast;
mod check;
mod duration;
mod error;
mod extract;
pub mod functions;
pub mod json;
mod lexer;
mod number;
pub mod parser;
pub mod preprocess;
pub mod printer;
mod selector;
mod strings;
mod token;

pub use error::{ParseError, ParseErrors};
pub use extract::selectors;
pub use json::to_json;
pub use parser::{ParseOptions, parse_expr, parse_metric_selector};
pub use preprocess::preprocess;
pub use printer::pretty;

/// Stack that walking the highest tree may take, without optimisation too.
const STACK_BYTES: usize = 12 << 20;

/// Runs what walks a tree with enough stack, whoever calls; engines have it, threads of a server need not.
fn with_stack<R>(f: impl FnOnce() -> R) -> R {
    stacker::maybe_grow(STACK_BYTES, 2 * STACK_BYTES, f)
}

#[cfg(test)]
mod tests;
