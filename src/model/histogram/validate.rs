//! What a histogram must fulfil to be taken in.

use super::schema::is_exponential_schema;
use super::{Histogram, HistogramError, Span};

impl Histogram {
    /// Checks that spans, buckets, bounds and schema fit and that no count is negative. That buckets add up to the
    /// count is not checked: floats need not.
    pub fn validate(&self) -> Result<(), HistogramError> {
        if self.uses_custom_buckets() {
            check_custom(self, self.positive_buckets.len(), self.negative_buckets.len())?;
        } else if is_exponential_schema(self.schema) {
            check_spans(&self.positive_spans, self.positive_buckets.len()).map_err(|e| e.on("positive side"))?;
            check_spans(&self.negative_spans, self.negative_buckets.len()).map_err(|e| e.on("negative side"))?;
            check_counts(&self.negative_buckets).map_err(|e| e.on("negative side"))?;
            if self.zero_count < 0.0 {
                return Err(HistogramError::NegativeZeroCount(self.zero_count));
            }
            if !self.custom_values.is_empty() {
                return Err(HistogramError::ExponentialCustomBounds);
            }
        } else {
            return Err(HistogramError::InvalidSchema(self.schema));
        }
        if self.count < 0.0 {
            return Err(HistogramError::NegativeCount(self.count));
        }
        check_counts(&self.positive_buckets).map_err(|e| e.on("positive side"))
    }
}

/// The checks on custom buckets that do not look at counts of buckets; bucket lists are as long as given.
pub(super) fn check_custom(h: &Histogram, positive: usize, negative: usize) -> Result<(), HistogramError> {
    check_custom_bounds(&h.custom_values, &h.positive_spans, positive).map_err(|e| e.on("custom buckets"))?;
    if h.zero_count != 0.0 {
        return Err(HistogramError::CustomZeroCount);
    }
    if h.zero_threshold != 0.0 {
        return Err(HistogramError::CustomZeroThreshold);
    }
    if !h.negative_spans.is_empty() {
        return Err(HistogramError::CustomNegativeSpans);
    }
    if negative > 0 {
        return Err(HistogramError::CustomNegativeBuckets);
    }
    Ok(())
}

/// Spans of exponential buckets fit their buckets.
pub(super) fn check_spans(spans: &[Span], buckets: usize) -> Result<(), HistogramError> {
    let (mut need, mut end) = (0u64, 0i64);
    for (n, span) in spans.iter().enumerate() {
        if n > 0 && span.offset < 0 {
            return Err(HistogramError::SpanNegativeOffset { number: n + 1, offset: span.offset });
        }
        if n == 0 && span.offset == i32::MIN {
            let index = i64::from(span.offset);
            return Err(HistogramError::SpanIndexOutOfRange { number: 1, index, at_end: false });
        }
        need += u64::from(span.length);
        end += i64::from(span.offset) + i64::from(span.length);
        if end - 1 > i64::from(i32::MAX) {
            return Err(HistogramError::SpanIndexOutOfRange { number: n + 1, index: end - 1, at_end: true });
        }
    }
    if need == buckets as u64 { Ok(()) } else { Err(HistogramError::SpansBucketsMismatch { need, have: buckets }) }
}

fn check_counts(buckets: &[f64]) -> Result<(), HistogramError> {
    match buckets.iter().position(|b| *b < 0.0) {
        None => Ok(()),
        Some(i) => {
            Err(HistogramError::NegativeBucketCount { number: i + 1, count: crate::number::format_g(buckets[i]) })
        }
    }
}

fn check_custom_bounds(bounds: &[f64], spans: &[Span], buckets: usize) -> Result<(), HistogramError> {
    let mut previous = f64::NEG_INFINITY;
    for (i, &current) in bounds.iter().enumerate() {
        if current.is_nan() {
            return Err(HistogramError::CustomBoundsNan);
        }
        if i > 0 && current <= previous {
            return Err(HistogramError::CustomBoundsOrder { previous, current });
        }
        previous = current;
    }
    if previous == f64::INFINITY {
        return Err(HistogramError::CustomBoundsInfinite);
    }
    let (mut need, mut length) = (0u64, 0u64);
    for (n, span) in spans.iter().enumerate() {
        let Ok(offset) = u64::try_from(span.offset) else {
            return Err(HistogramError::SpanNegativeOffset { number: n + 1, offset: span.offset });
        };
        need += u64::from(span.length);
        length += u64::from(span.length) + offset;
    }
    if need != buckets as u64 {
        return Err(HistogramError::SpansBucketsMismatch { need, have: buckets });
    }
    if (bounds.len() as u64 + 1) < length {
        return Err(HistogramError::CustomBoundsTooFew { bounds: bounds.len(), length });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::testing::{any_custom, any_overlapping, custom, histogram, spans};
    use proptest::prelude::*;

    fn error(h: Histogram) -> String {
        h.validate().unwrap_err().to_string()
    }

    #[test]
    fn texts() {
        assert_eq!(
            error(histogram(0, &[(0, 2)], &[1.0])),
            "positive side: spans need 2 buckets, have 1 buckets: histogram spans specify different number of buckets \
             than provided"
        );
        assert_eq!(
            error(histogram(0, &[(0, 1), (-1, 1)], &[1.0, 2.0])),
            "positive side: span number 2 with offset -1: histogram has a span whose offset is negative"
        );
        assert_eq!(
            error(histogram(0, &[(0, 2)], &[3.0, -2.5])),
            "positive side: bucket number 2 has observation count of -2.5: histogram has a bucket whose observation \
             count is negative"
        );
        assert_eq!(
            error(Histogram { count: -1.0, ..Default::default() }),
            "observation count is  -1: histogram's observation count is negative"
        );
        assert_eq!(
            error(Histogram { schema: 9, ..Default::default() }),
            "histogram has an invalid schema, which must be between -4 and 8 for exponential buckets, or -53 for \
             custom buckets, got schema 9"
        );
        assert_eq!(
            error(custom(&[1.0, 1.0], &[(0, 1)], &[1.0])),
            "custom buckets: previous bound is 1.000000 and current is 1.000000: histogram custom bounds must be in \
             strictly increasing order"
        );
        assert_eq!(
            error(custom(&[1.0], &[(1, 2)], &[1.0, 2.0])),
            "custom buckets: only 1 custom bounds defined which is insufficient to cover total span length of 3: \
             histogram custom bounds are too few"
        );
        assert_eq!(
            error(histogram(0, &[(i32::MAX, 2)], &[1.0, 2.0])),
            "positive side: span number 1 ends at bucket index 2147483648: histogram has a span whose bucket index is \
             out of range"
        );
        let with_zero = Histogram { zero_count: 1.0, ..custom(&[1.0], &[], &[]) };
        assert_eq!(error(with_zero), "custom buckets: must have zero count of 0");
        let with_negative = Histogram { negative_spans: spans(&[(0, 1)]), ..custom(&[1.0], &[], &[]) };
        assert_eq!(error(with_negative), "custom buckets: must not have negative spans");
        let bounds = Histogram { custom_values: vec![1.0], ..Default::default() };
        assert_eq!(error(bounds), "histogram with exponential schema must not have custom bounds");
    }

    proptest! {
        #[test]
        fn results_are_valid(a in any_overlapping(), b in any_overlapping(), by in 0.1f64..3.0) {
            let mut h = a;
            h.add(&b).unwrap();
            h.mul(by).compact(0);
            prop_assert_eq!(h.validate(), Ok(()));
            h.trim_buckets(1.25, true);
            prop_assert_eq!(h.validate(), Ok(()));
        }

        #[test]
        fn custom_results_are_valid(a in any_custom(), b in any_custom()) {
            let mut h = a;
            h.add(&b).unwrap();
            prop_assert_eq!(h.validate(), Ok(()));
        }
    }
}
