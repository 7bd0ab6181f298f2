//! Histograms with integer counts, as clients send them: buckets as differences, each to the one before.

use super::schema::{EXPONENTIAL_SCHEMA_MAX_RESERVED, is_exponential_schema, reduce};
use super::{EXPONENTIAL_SCHEMA_MAX, Histogram, HistogramError, ResetHint, Span, validate};

/// A histogram as remote write carries it, borrowed from the request.
#[derive(Clone, Copy, Debug, Default)]
pub struct IntegerHistogram<'a> {
    /// Counter reset hint.
    pub reset_hint: ResetHint,
    /// Schema; those from 9 to 52 are reduced to 8.
    pub schema: i32,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: u64,
    /// All observations.
    pub count: u64,
    /// Sum of observations.
    pub sum: f64,
    /// Runs of positive (or custom) buckets.
    pub positive_spans: &'a [Span],
    /// Differences of counts.
    pub positive_deltas: &'a [i64],
    /// Runs of negative buckets.
    pub negative_spans: &'a [Span],
    /// Differences of counts.
    pub negative_deltas: &'a [i64],
    /// Custom bounds.
    pub custom_values: &'a [f64],
}

impl IntegerHistogram<'_> {
    /// Checks it as Prometheus checks integer histograms (buckets must add up to the count, or less where NaN was
    /// observed) and turns it into absolute float counts.
    pub fn to_histogram(&self) -> Result<Histogram, HistogramError> {
        let (positive, negative) = (absolute(self.positive_deltas), absolute(self.negative_deltas));
        let mut h = Histogram {
            reset_hint: self.reset_hint,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count as f64,
            count: self.count as f64,
            sum: self.sum,
            positive_spans: self.positive_spans.to_vec(),
            negative_spans: self.negative_spans.to_vec(),
            positive_buckets: Vec::new(),
            negative_buckets: Vec::new(),
            custom_values: self.custom_values.to_vec(),
        };
        let (mut positive, mut negative) = (positive, negative);
        if (EXPONENTIAL_SCHEMA_MAX + 1..=EXPONENTIAL_SCHEMA_MAX_RESERVED).contains(&h.schema) {
            let to = EXPONENTIAL_SCHEMA_MAX;
            (h.positive_spans, positive) = reduce(&h.positive_spans, &positive, h.schema, to, i64::wrapping_add)?;
            (h.negative_spans, negative) = reduce(&h.negative_spans, &negative, h.schema, to, i64::wrapping_add)?;
            h.schema = to;
        }
        self.check(&h, &positive, &negative)?;
        h.positive_buckets = floats(&positive);
        h.negative_buckets = floats(&negative);
        Ok(h)
    }

    fn check(&self, h: &Histogram, positive: &[i64], negative: &[i64]) -> Result<(), HistogramError> {
        let mut found = self.zero_count;
        if h.uses_custom_buckets() {
            validate::check_custom(h, positive.len(), negative.len())?;
        } else if is_exponential_schema(h.schema) {
            validate::check_spans(&h.positive_spans, positive.len()).map_err(|e| e.on("positive side"))?;
            validate::check_spans(&h.negative_spans, negative.len()).map_err(|e| e.on("negative side"))?;
            found = found.wrapping_add(total(negative).map_err(|e| e.on("negative side"))?);
            if !h.custom_values.is_empty() {
                return Err(HistogramError::ExponentialCustomBounds);
            }
        } else {
            return Err(HistogramError::InvalidSchema(h.schema));
        }
        found = found.wrapping_add(total(positive).map_err(|e| e.on("positive side"))?);
        let count = self.count;
        if h.sum.is_nan() {
            if found > count {
                return Err(HistogramError::CountNotBigEnough { found, count });
            }
        } else if found != count {
            return Err(HistogramError::CountMismatch { found, count });
        }
        Ok(())
    }
}

fn absolute(deltas: &[i64]) -> Vec<i64> {
    let mut at = 0i64;
    deltas
        .iter()
        .map(|d| {
            at = at.wrapping_add(*d);
            at
        })
        .collect()
}

/// Absolute floats by summing differences as floats, as Prometheus does (it matters above 2^53 only).
fn floats(absolute: &[i64]) -> Vec<f64> {
    let (mut before, mut at) = (0i64, 0.0);
    absolute
        .iter()
        .map(|v| {
            at += v.wrapping_sub(before) as f64;
            before = *v;
            at
        })
        .collect()
}

fn total(absolute: &[i64]) -> Result<u64, HistogramError> {
    let mut sum = 0u64;
    for (i, c) in absolute.iter().enumerate() {
        let count = u64::try_from(*c)
            .map_err(|_| HistogramError::NegativeBucketCount { number: i + 1, count: c.to_string() })?;
        sum = sum.wrapping_add(count);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::testing::spans;
    use proptest::prelude::*;

    #[test]
    fn absolute_counts() {
        let (p, n) = (spans(&[(0, 2), (1, 2)]), spans(&[(0, 1)]));
        let mut i = IntegerHistogram {
            schema: 1,
            zero_count: 2,
            count: 15,
            sum: 18.4,
            positive_spans: &p,
            positive_deltas: &[1, 1, -1, 3],
            negative_spans: &n,
            negative_deltas: &[5],
            ..Default::default()
        };
        let h = i.to_histogram().unwrap();
        assert_eq!(h.positive_buckets, [1.0, 2.0, 1.0, 4.0]);
        assert_eq!(h.negative_buckets, [5.0]);
        i.count = 16;
        assert_eq!(
            i.to_histogram().unwrap_err().to_string(),
            "15 observations found in buckets, but the Count field is 16: histogram's observation count should equal \
             the number of observations found in the buckets (in absence of NaN)"
        );
        i.sum = f64::NAN;
        assert!(i.to_histogram().is_ok());
        i.count = 14;
        assert_eq!(
            i.to_histogram().unwrap_err().to_string(),
            "15 observations found in buckets, but the Count field is 14: histogram's observation count should be at \
             least the number of observations found in the buckets"
        );
        i.positive_deltas = &[1, 1, -3, 3];
        assert_eq!(
            i.to_histogram().unwrap_err().to_string(),
            "positive side: bucket number 3 has observation count of -1: histogram has a bucket whose observation \
             count is negative"
        );
    }

    #[test]
    fn too_fine_schemas_are_reduced() {
        let p = spans(&[(1, 4)]);
        let mut i = IntegerHistogram {
            schema: 9,
            count: 10,
            positive_spans: &p,
            positive_deltas: &[1, 1, 1, 1],
            ..Default::default()
        };
        let h = i.to_histogram().unwrap();
        assert_eq!((h.schema, h.positive_buckets), (8, vec![3.0, 7.0]));
        i.schema = 53;
        assert_eq!(i.to_histogram().unwrap_err(), HistogramError::InvalidSchema(53));
        i.schema = -5;
        assert_eq!(i.to_histogram().unwrap_err(), HistogramError::InvalidSchema(-5));
    }

    proptest! {
        #[test]
        fn never_panics(
            schema in -60i32..60,
            s in proptest::collection::vec((any::<i32>(), 0u32..5), 0..4),
            deltas in proptest::collection::vec(any::<i64>(), 0..8),
            count in any::<u64>(),
        ) {
            let s = spans(&s);
            let i = IntegerHistogram {
                schema, count, positive_spans: &s, positive_deltas: &deltas, negative_spans: &s,
                negative_deltas: &deltas, ..Default::default()
            };
            if let Ok(h) = i.to_histogram() {
                prop_assert_eq!(h.validate(), Ok(()));
            }
        }
    }
}
