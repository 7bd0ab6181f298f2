//! PromQL text: lexer, parser, checker, printer.

pub mod ast;
pub mod functions;
