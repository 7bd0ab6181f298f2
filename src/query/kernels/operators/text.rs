//! Numbers as Go prints them: they are label values (`count_values`) and parts of messages.

use quiver_model::number::push_shortest;

/// Go's `'f'` with the fewest digits that read back as `v`.
pub fn format_f(v: f64) -> String {
    if v.is_nan() {
        "NaN".to_owned()
    } else if v.is_infinite() {
        if v > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        let mut out = String::new();
        push_shortest(&mut out, v);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quiver_model::number::format_g;

    #[test]
    fn as_go_prints() {
        let cases = [
            (1.0, "1", "1"),
            (-0.0, "-0", "-0"),
            (2.5, "2.5", "2.5"),
            (1e5, "100000", "100000"),
            (1e6, "1000000", "1e+06"),
            (1234567.0, "1234567", "1.234567e+06"),
            (0.0001, "0.0001", "0.0001"),
            (0.00001, "0.00001", "1e-05"),
            (1e21, "1000000000000000000000", "1e+21"),
            (f64::NAN, "NaN", "NaN"),
            (f64::NEG_INFINITY, "-Inf", "-Inf"),
        ];
        for (v, f, g) in cases {
            assert_eq!((format_f(v).as_str(), format_g(v).as_str()), (f, g));
        }
    }
}
