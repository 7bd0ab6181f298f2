//! The function table: names, argument types, which are experimental.

use super::ast::ValueType;

/// Signature of a function.
#[derive(Debug, PartialEq)]
pub struct Function {
    /// Name.
    pub name: &'static str,
    /// Types of its arguments; with `variadic` the last may repeat or be left out.
    pub arg_types: &'static [ValueType],
    /// 0: exactly `arg_types`; n > 0: up to n of the last left out or added; −1: any number of the last.
    pub variadic: i32,
    /// Type of its value.
    pub return_type: ValueType,
    /// Behind `promql-experimental-functions`.
    pub experimental: bool,
}
