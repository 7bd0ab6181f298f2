//! Which schemas there are, and going from a finer to a coarser one.
//!
//! A step of the schema merges pairs of buckets: bucket `i` of schema `s` lies in bucket `((i-1) >> d) + 1` of schema
//! `s-d`.

use super::layout::{Positions, SpanBuilder};
use super::{CUSTOM_BUCKETS_SCHEMA, EXPONENTIAL_SCHEMA_MAX, EXPONENTIAL_SCHEMA_MIN, Histogram, HistogramError, Span};

/// Smallest exponential schema that is understood at all.
pub const EXPONENTIAL_SCHEMA_MIN_RESERVED: i32 = -9;
/// Largest exponential schema that is understood; those above [`EXPONENTIAL_SCHEMA_MAX`] are reduced on the way in.
pub const EXPONENTIAL_SCHEMA_MAX_RESERVED: i32 = 52;

/// Custom bucket boundaries?
pub fn is_custom_buckets_schema(s: i32) -> bool {
    s == CUSTOM_BUCKETS_SCHEMA
}

/// Exponential buckets that can be stored?
pub fn is_exponential_schema(s: i32) -> bool {
    (EXPONENTIAL_SCHEMA_MIN..=EXPONENTIAL_SCHEMA_MAX).contains(&s)
}

/// Exponential buckets, if need be after reduction?
pub fn is_exponential_schema_reserved(s: i32) -> bool {
    (EXPONENTIAL_SCHEMA_MIN_RESERVED..=EXPONENTIAL_SCHEMA_MAX_RESERVED).contains(&s)
}

/// Can it be stored?
pub fn is_valid_schema(s: i32) -> bool {
    is_custom_buckets_schema(s) || is_exponential_schema(s)
}

/// Is it understood?
pub fn is_known_schema(s: i32) -> bool {
    is_custom_buckets_schema(s) || is_exponential_schema_reserved(s)
}

/// The bucket of schema `target` that holds bucket `index` of the finer schema `origin`.
#[inline]
pub fn target_index(index: i32, origin: i32, target: i32) -> i32 {
    let shift = origin.saturating_sub(target).clamp(0, 62);
    (((i64::from(index) - 1) >> shift) + 1) as i32
}

/// Merges buckets of schema `origin` into those of schema `target`. Fails as Prometheus does on spans and buckets that
/// do not fit.
pub(super) fn reduce<T: Copy>(
    spans: &[Span],
    buckets: &[T],
    origin: i32,
    target: i32,
    mut merge: impl FnMut(T, T) -> T,
) -> Result<(Vec<Span>, Vec<T>), HistogramError> {
    let mut need = 0u64;
    for (n, span) in spans.iter().enumerate() {
        if n > 0 && span.offset < 0 {
            return Err(HistogramError::SpanNegativeOffset { number: n + 1, offset: span.offset });
        }
        need += u64::from(span.length);
        if need > buckets.len() as u64 {
            return Err(HistogramError::TooFewBuckets(buckets.len()));
        }
    }
    if need != buckets.len() as u64 {
        return Err(HistogramError::SpansBucketsMismatch { need, have: buckets.len() });
    }
    let mut out = SpanBuilder::default();
    let mut merged: Vec<T> = Vec::new();
    let mut last_index = None;
    for (index, at) in Positions::new(spans, buckets.len()) {
        let index = target_index(index, origin, target);
        match merged.last_mut() {
            Some(last) if last_index == Some(index) => *last = merge(*last, buckets[at]),
            _ => {
                out.push(index);
                merged.push(buckets[at]);
                last_index = Some(index);
            }
        }
    }
    Ok((out.finish(), merged))
}

impl Histogram {
    /// Merges buckets until the histogram has the lower schema `target`.
    pub fn reduce_resolution(&mut self, target: i32) -> Result<(), HistogramError> {
        if self.uses_custom_buckets() {
            return Err(HistogramError::ReduceCustom);
        }
        if is_custom_buckets_schema(target) {
            return Err(HistogramError::ReduceToCustom);
        }
        if target >= self.schema {
            return Err(HistogramError::ReduceNotLower { from: self.schema, to: target });
        }
        let add = |a: f64, b: f64| a + b;
        let positive = reduce(&self.positive_spans, &self.positive_buckets, self.schema, target, add)?;
        let negative = reduce(&self.negative_spans, &self.negative_buckets, self.schema, target, add)?;
        (self.positive_spans, self.positive_buckets) = positive;
        (self.negative_spans, self.negative_buckets) = negative;
        self.schema = target;
        Ok(())
    }

    /// A copy at schema `target`, which is the histogram's own or a lower one.
    pub fn copy_to_schema(&self, target: i32) -> Result<Histogram, HistogramError> {
        let mut copy = self.clone();
        if target != self.schema {
            copy.reduce_resolution(target)?;
        }
        Ok(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::testing::{any_exponential, histogram};
    use proptest::prelude::*;

    #[test]
    fn merges_pairs() {
        let mut h = histogram(3, &[(-1, 4), (1, 2)], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        h.reduce_resolution(2).unwrap();
        // Buckets -1 0 1 2 . 4 5 become 0 0 1 1 . 2 3.
        assert_eq!(h.positive_spans, [Span { offset: 0, length: 4 }]);
        assert_eq!(h.positive_buckets, [3.0, 7.0, 5.0, 6.0]);
        assert_eq!(h.schema, 2);
        let e = histogram(-53, &[], &[]).reduce_resolution(1).unwrap_err();
        assert_eq!(e, HistogramError::ReduceCustom);
        let e = histogram(3, &[(0, 2)], &[1.0]).reduce_resolution(1).unwrap_err();
        assert_eq!(
            e.to_string(),
            "have 1 buckets but spans need more: histogram spans specify different number of buckets than provided"
        );
    }

    proptest! {
        #[test]
        fn totals_stay(h in any_exponential(), by in 1..5i32) {
            let mut r = h.clone();
            r.reduce_resolution(h.schema - by).unwrap();
            prop_assert_eq!(r.positive_buckets.iter().sum::<f64>(), h.positive_buckets.iter().sum::<f64>());
            prop_assert_eq!(r.negative_buckets.iter().sum::<f64>(), h.negative_buckets.iter().sum::<f64>());
            prop_assert!(r.positive_spans.iter().skip(1).all(|s| s.offset > 0));
            // At once or in steps is the same.
            let mut steps = h.clone();
            for i in 1..=by {
                steps.reduce_resolution(h.schema - i).unwrap();
            }
            prop_assert_eq!(steps, r);
        }
    }
}
