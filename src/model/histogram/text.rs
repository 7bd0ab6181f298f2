//! Histograms as text: by their buckets, and in the notation of PromQL's test language.

use std::fmt;

use super::{Bucket, Histogram, ResetHint, Span};
use crate::number::format_g;

/// `(0.5,1]:3`
impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{},{}{}:{}",
            if self.lower_inclusive { '[' } else { '(' },
            format_g(self.lower),
            format_g(self.upper),
            if self.upper_inclusive { ']' } else { ')' },
            format_g(self.count)
        )
    }
}

/// `{count:3, sum:7, (0.5,1]:3}`: populated buckets from the lowest up.
impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{}, sum:{}", format_g(self.count), format_g(self.sum))?;
        for b in self.negative_reverse_bucket_iterator().filter(|b| b.count != 0.0) {
            write!(f, ", {b}")?;
        }
        if self.zero_count != 0.0 {
            write!(f, ", {}", self.zero_bucket())?;
        }
        for b in self.positive_bucket_iterator().filter(|b| b.count != 0.0) {
            write!(f, ", {b}")?;
        }
        f.write_str("}")
    }
}

/// Most buckets [`Histogram::test_expression`] writes out on a side.
const EXPRESSION_BUCKETS_MAX: usize = 1 << 16;

impl Histogram {
    /// In the notation of test files, as `{{schema:1 count:3 sum:7 buckets:[1 2]}}`.
    pub fn test_expression(&self) -> String {
        let mut m = self.clone();
        m.compact(EXPRESSION_BUCKETS_MAX);
        let mut parts = Vec::new();
        if m.schema != 0 {
            parts.push(format!("schema:{}", m.schema));
        }
        for (name, v) in
            [("count", m.count), ("sum", m.sum), ("z_bucket", m.zero_count), ("z_bucket_w", m.zero_threshold)]
        {
            if v != 0.0 {
                parts.push(format!("{name}:{}", format_g(v)));
            }
        }
        let list = |v: &[f64]| v.iter().map(|v| format_g(*v)).collect::<Vec<_>>().join(" ");
        if m.uses_custom_buckets() {
            parts.push(format!("custom_values:[{}]", list(&m.custom_values)));
        }
        match m.reset_hint {
            ResetHint::Unknown => {}
            ResetHint::Yes => parts.push("counter_reset_hint:reset".to_owned()),
            ResetHint::No => parts.push("counter_reset_hint:not_reset".to_owned()),
            ResetHint::Gauge => parts.push("counter_reset_hint:gauge".to_owned()),
        }
        let mut side = |offset: &str, name: &str, spans: &[Span], buckets: &[f64]| {
            for s in spans.iter().filter(|s| s.offset != 0) {
                parts.push(format!("{offset}:{}", s.offset));
            }
            if !buckets.is_empty() {
                parts.push(format!("{name}:[{}]", list(buckets)));
            }
        };
        side("offset", "buckets", &m.positive_spans, &m.positive_buckets);
        side("n_offset", "n_buckets", &m.negative_spans, &m.negative_buckets);
        format!("{{{{{}}}}}", parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::testing::{custom, histogram, spans};

    #[test]
    fn as_buckets() {
        let mut h = histogram(0, &[(0, 1), (1, 2)], &[1.0, 0.0, 2.5]);
        h.negative_spans = spans(&[(0, 2)]);
        h.negative_buckets = vec![3.0, 4.0];
        h.zero_count = 5.0;
        h.zero_threshold = 0.001;
        assert_eq!(h.to_string(), "{count:3.5, sum:7, [-2,-1):4, [-1,-0.5):3, [-0.001,0.001]:5, (0.5,1]:1, (4,8]:2.5}");
        let h = custom(&[1.0], &[(0, 2)], &[1.0, 2.0]);
        assert_eq!(h.to_string(), "{count:3, sum:7, [-Inf,1]:1, (1,+Inf]:2}");
    }

    #[test]
    fn as_expression() {
        let mut h = histogram(1, &[(2, 1), (2, 1)], &[1.0, 2.5]);
        h.reset_hint = ResetHint::Gauge;
        h.zero_count = 1.0;
        assert_eq!(
            h.test_expression(),
            "{{schema:1 count:3.5 sum:7 z_bucket:1 counter_reset_hint:gauge offset:2 buckets:[1 0 0 2.5]}}"
        );
        assert_eq!(
            custom(&[1.0, 2.0], &[(0, 1)], &[1.0]).test_expression(),
            "{{schema:-53 count:1 sum:7 custom_values:[1 2] buckets:[1]}}"
        );
    }
}
