//! The function table: names, argument types, which are experimental.
//!
//! One row per function, sorted by name, so that a look-up is a binary search. The rows are those of Prometheus 3.16.

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

use ValueType::{Matrix as M, Scalar as S, String as T, Vector as V};

/// The function of this name. Names are case-sensitive.
pub fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.binary_search_by(|f| f.name.cmp(name)).ok().and_then(|i| FUNCTIONS.get(i))
}

/// All functions, sorted by name.
pub fn functions() -> &'static [Function] {
    FUNCTIONS
}

const fn row(
    name: &'static str,
    arg_types: &'static [ValueType],
    variadic: i32,
    return_type: ValueType,
    experimental: bool,
) -> Function {
    Function { name, arg_types, variadic, return_type, experimental }
}

static FUNCTIONS: &[Function] = &[
    row("abs", &[V], 0, V, false),
    row("absent", &[V], 0, V, false),
    row("absent_over_time", &[M], 0, V, false),
    row("acos", &[V], 0, V, false),
    row("acosh", &[V], 0, V, false),
    row("asin", &[V], 0, V, false),
    row("asinh", &[V], 0, V, false),
    row("atan", &[V], 0, V, false),
    row("atanh", &[V], 0, V, false),
    row("avg_over_time", &[M], 0, V, false),
    row("ceil", &[V], 0, V, false),
    row("changes", &[M], 0, V, false),
    row("clamp", &[V, S, S], 0, V, false),
    row("clamp_max", &[V, S], 0, V, false),
    row("clamp_min", &[V, S], 0, V, false),
    row("cos", &[V], 0, V, false),
    row("cosh", &[V], 0, V, false),
    row("count_over_time", &[M], 0, V, false),
    row("day_of_month", &[V], 1, V, false),
    row("day_of_week", &[V], 1, V, false),
    row("day_of_year", &[V], 1, V, false),
    row("days_in_month", &[V], 1, V, false),
    row("deg", &[V], 0, V, false),
    row("delta", &[M], 0, V, false),
    row("deriv", &[M], 0, V, false),
    row("double_exponential_smoothing", &[M, S, S], 0, V, true),
    row("end", &[], 0, S, true),
    row("exp", &[V], 0, V, false),
    row("first_over_time", &[M], 0, V, false),
    row("floor", &[V], 0, V, false),
    row("histogram_avg", &[V], 0, V, false),
    row("histogram_count", &[V], 0, V, false),
    row("histogram_fraction", &[S, S, V], 0, V, false),
    row("histogram_quantile", &[S, V], 0, V, false),
    row("histogram_quantiles", &[V, T, S, S], 9, V, true),
    row("histogram_stddev", &[V], 0, V, false),
    row("histogram_stdvar", &[V], 0, V, false),
    row("histogram_sum", &[V], 0, V, false),
    row("hour", &[V], 1, V, false),
    row("idelta", &[M], 0, V, false),
    row("increase", &[M], 0, V, false),
    row("info", &[V, V], 1, V, true),
    row("integral", &[M, S], 1, V, true),
    row("irate", &[M], 0, V, false),
    row("label_join", &[V, T, T, T], -1, V, false),
    row("label_replace", &[V, T, T, T, T], 0, V, false),
    row("last_over_time", &[M], 0, V, false),
    row("ln", &[V], 0, V, false),
    row("log10", &[V], 0, V, false),
    row("log2", &[V], 0, V, false),
    row("mad_over_time", &[M], 0, V, true),
    row("max_of", &[S, S], 0, S, true),
    row("max_over_time", &[M], 0, V, false),
    row("min_of", &[S, S], 0, S, true),
    row("min_over_time", &[M], 0, V, false),
    row("minute", &[V], 1, V, false),
    row("month", &[V], 1, V, false),
    row("pi", &[], 0, S, false),
    row("predict_linear", &[M, S], 0, V, false),
    row("present_over_time", &[M], 0, V, false),
    row("quantile_over_time", &[S, M], 0, V, false),
    row("rad", &[V], 0, V, false),
    row("range", &[], 0, S, true),
    row("rate", &[M], 0, V, false),
    row("resets", &[M], 0, V, false),
    row("round", &[V, S], 1, V, false),
    row("scalar", &[V], 0, S, false),
    row("sgn", &[V], 0, V, false),
    row("sin", &[V], 0, V, false),
    row("sinh", &[V], 0, V, false),
    row("sort", &[V], 0, V, false),
    row("sort_by_label", &[V, T], -1, V, true),
    row("sort_by_label_desc", &[V, T], -1, V, true),
    row("sort_desc", &[V], 0, V, false),
    row("sqrt", &[V], 0, V, false),
    row("start", &[], 0, S, true),
    row("start_timestamp", &[V], 0, V, true),
    row("stddev_over_time", &[M], 0, V, false),
    row("stdvar_over_time", &[M], 0, V, false),
    row("step", &[], 0, S, true),
    row("sum_over_time", &[M], 0, V, false),
    row("tan", &[V], 0, V, false),
    row("tanh", &[V], 0, V, false),
    row("time", &[], 0, S, false),
    row("timestamp", &[V], 0, V, false),
    row("ts_of_first_over_time", &[M], 0, V, true),
    row("ts_of_last_over_time", &[M], 0, V, true),
    row("ts_of_max_over_time", &[M], 0, V, true),
    row("ts_of_min_over_time", &[M], 0, V, true),
    row("vector", &[S], 0, V, false),
    row("year", &[V], 1, V, false),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_found() {
        assert!(FUNCTIONS.windows(2).all(|w| w[0].name < w[1].name));
        assert!(FUNCTIONS.iter().all(|f| function(f.name).is_some_and(|g| std::ptr::eq(f, g))));
        assert_eq!(FUNCTIONS.len(), 91);
        assert!(function("Rate").is_none());
        assert!(function("").is_none());
    }

    #[test]
    fn a_function_without_arguments_is_not_variadic() {
        assert!(FUNCTIONS.iter().all(|f| f.variadic == 0 || !f.arg_types.is_empty()));
    }
}
