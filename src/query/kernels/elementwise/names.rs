//! Which functions take the metric's name (and its type and unit) away.

use super::CellFn;
use crate::kernels::range::RangeFn;

/// Does the result of a function lose the metric name? With delayed name removal the series is then marked and loses it
/// when the answer is made; without, it loses it at once, and series that become the same are merged or are an error.
///
/// `sort…`, `info`, `label_replace` and `label_join` keep it (the latter two unmark a series whose name they set);
/// `scalar`, `vector`, `time` and the like have no labels; `absent…` makes its own.
pub fn drops_name(func: &str) -> bool {
    if let Some(f) = RangeFn::from_name(func) {
        return !f.keeps_name();
    }
    CellFn::from_name(func).is_some()
        || matches!(func, "histogram_quantile" | "histogram_quantiles" | "histogram_fraction")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promql::functions::functions;

    #[test]
    fn all_functions() {
        let keep: Vec<_> = functions().iter().map(|f| f.name).filter(|n| !drops_name(n)).collect();
        assert_eq!(
            keep,
            [
                "absent",
                "end",
                "first_over_time",
                "info",
                "label_join",
                "label_replace",
                "last_over_time",
                "max_of",
                "min_of",
                "pi",
                "range",
                "scalar",
                "sort",
                "sort_by_label",
                "sort_by_label_desc",
                "sort_desc",
                "start",
                "step",
                "time",
                "vector"
            ]
        );
    }
}
