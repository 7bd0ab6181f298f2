//! Arithmetic of histograms.
//!
//! Adding two makes them alike first: the finer schema is reduced to the coarser, zero buckets are widened to a
//! threshold both can have, differing custom bounds are cut to those in common. Equal layouts, by far the commonest
//! case, are added in place without any allocation.

use super::bounds::bound_exponential;
use super::layout::{Positions, unite};
use super::schema::{is_exponential_schema, reduce};
use super::{Histogram, HistogramError, ResetHint, Span, custom_bucket_bounds_match, reconcile, validate};
use crate::number::kahan_inc;

/// What is to be reported of an addition or subtraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddOutcome {
    /// One histogram says there was a counter reset, the other that there was none.
    pub counter_reset_collision: bool,
    /// Custom bounds differed and were cut to those in common.
    pub nhcb_bounds_reconciled: bool,
}

impl std::ops::BitOrAssign for AddOutcome {
    fn bitor_assign(&mut self, o: AddOutcome) {
        self.counter_reset_collision |= o.counter_reset_collision;
        self.nhcb_bounds_reconciled |= o.nhcb_bounds_reconciled;
    }
}

impl Histogram {
    /// Multiplies all counts and the sum. By a negative factor it becomes a gauge.
    pub fn mul(&mut self, factor: f64) -> &mut Self {
        self.scale(|v| *v *= factor);
        if factor < 0.0 {
            self.reset_hint = ResetHint::Gauge;
        }
        self
    }

    /// Divides all counts and the sum. By a negative divisor it becomes a gauge; by 0 it loses its buckets.
    pub fn div(&mut self, divisor: f64) -> &mut Self {
        self.scale(|v| *v /= divisor);
        if divisor == 0.0 {
            self.positive_spans.clear();
            self.positive_buckets.clear();
            self.negative_spans.clear();
            self.negative_buckets.clear();
        } else if divisor < 0.0 {
            self.reset_hint = ResetHint::Gauge;
        }
        self
    }

    fn scale(&mut self, f: impl Fn(&mut f64)) {
        f(&mut self.zero_count);
        f(&mut self.count);
        f(&mut self.sum);
        self.positive_buckets.iter_mut().for_each(&f);
        self.negative_buckets.iter_mut().for_each(&f);
    }

    /// Adds `other`. On an error nothing is changed.
    pub fn add(&mut self, other: &Histogram) -> Result<AddOutcome, HistogramError> {
        self.combine(other, false)
    }

    /// Subtracts `other`; hints as for [`Histogram::add`] (the operator `-` of PromQL makes a gauge on top of that). On
    /// an error nothing is changed.
    pub fn sub(&mut self, other: &Histogram) -> Result<AddOutcome, HistogramError> {
        self.combine(other, true)
    }

    fn combine(&mut self, other: &Histogram, negative: bool) -> Result<AddOutcome, HistogramError> {
        self.check_combinable(other)?;
        let mut outcome =
            AddOutcome { counter_reset_collision: self.adjust_counter_reset(other), nhcb_bounds_reconciled: false };
        let sign = |v: f64| if negative { -v } else { v };
        if !self.uses_custom_buckets() {
            let (zero, _) = self.reconcile_zero_buckets(other, None);
            self.zero_count += sign(zero);
        }
        self.count += sign(other.count);
        self.sum += sign(other.sum);

        if self.uses_custom_buckets() && !custom_bucket_bounds_match(&self.custom_values, &other.custom_values) {
            reconcile::combine_custom_buckets(self, other, None, negative);
            outcome.nhcb_bounds_reconciled = true;
            return Ok(outcome);
        }
        let reduced;
        let other = if other.schema == self.schema {
            other
        } else {
            reduced = self.meet_schema(other)?;
            reduced.as_ref().unwrap_or(other)
        };
        let (schema, threshold) = (self.schema, self.zero_threshold);
        let side = |spans: &mut Vec<Span>, buckets: &mut Vec<f64>, other_spans: &[Span], other_buckets: &[f64]| {
            let skip = buckets_within(schema, threshold, other_spans, other_buckets.len());
            if skip == 0 && *spans == other_spans && buckets.len() == other_buckets.len() {
                for (a, b) in buckets.iter_mut().zip(other_buckets) {
                    *a += sign(*b);
                }
                return;
            }
            let mut sum = Vec::with_capacity(buckets.len() + other_buckets.len());
            *spans = unite((spans, buckets.len()), (other_spans, other_buckets.len()), skip, |a, b| {
                sum.push(match (a, b) {
                    (Some(a), Some(b)) => buckets[a] + sign(other_buckets[b]),
                    (Some(a), None) => buckets[a],
                    (None, Some(b)) => sign(other_buckets[b]),
                    (None, None) => 0.0,
                });
            });
            *buckets = sum;
        };
        side(&mut self.positive_spans, &mut self.positive_buckets, &other.positive_spans, &other.positive_buckets);
        if !self.uses_custom_buckets() {
            side(&mut self.negative_spans, &mut self.negative_buckets, &other.negative_spans, &other.negative_buckets);
        }
        Ok(outcome)
    }

    /// Adds `other` with compensated summation: `c` holds the low-order parts and has the layout of `self`; it is made
    /// when it is `None`. The result is `self` plus `c` ([`Histogram::add_compensation`]).
    pub fn kahan_add(&mut self, other: &Histogram, c: &mut Option<Histogram>) -> Result<AddOutcome, HistogramError> {
        self.check_combinable(other)?;
        let mut outcome =
            AddOutcome { counter_reset_collision: self.adjust_counter_reset(other), nhcb_bounds_reconciled: false };
        let c = c.get_or_insert_with(|| self.new_compensation());
        c.positive_buckets.resize(self.positive_buckets.len(), 0.0);
        c.negative_buckets.resize(self.negative_buckets.len(), 0.0);
        if !self.uses_custom_buckets() {
            let (zero, zero_c) = self.reconcile_zero_buckets(other, Some(c));
            (self.zero_count, c.zero_count) = kahan_inc(zero, self.zero_count, c.zero_count);
            (self.zero_count, c.zero_count) = kahan_inc(zero_c, self.zero_count, c.zero_count);
        }
        (self.count, c.count) = kahan_inc(other.count, self.count, c.count);
        (self.sum, c.sum) = kahan_inc(other.sum, self.sum, c.sum);

        if self.uses_custom_buckets() && !custom_bucket_bounds_match(&self.custom_values, &other.custom_values) {
            reconcile::combine_custom_buckets(self, other, Some(c), false);
            outcome.nhcb_bounds_reconciled = true;
            return Ok(outcome);
        }

        let mut reduced = None;
        if other.schema < self.schema {
            let (from, to) = (self.schema, other.schema);
            kahan_reduce(&mut self.positive_spans, &mut self.positive_buckets, &mut c.positive_buckets, from, to)?;
            kahan_reduce(&mut self.negative_spans, &mut self.negative_buckets, &mut c.negative_buckets, from, to)?;
            self.schema = to;
        } else if other.schema > self.schema {
            let mut r = other.clone();
            let mut rc = other.new_compensation();
            let (from, to) = (other.schema, self.schema);
            kahan_reduce(&mut r.positive_spans, &mut r.positive_buckets, &mut rc.positive_buckets, from, to)?;
            kahan_reduce(&mut r.negative_spans, &mut r.negative_buckets, &mut rc.negative_buckets, from, to)?;
            reduced = Some((r, rc));
        }
        let (other, other_c) = match &reduced {
            Some((r, rc)) => (r, Some(rc)),
            None => (other, None),
        };
        let (schema, threshold) = (self.schema, self.zero_threshold);
        kahan_side(
            (schema, threshold),
            (&mut self.positive_spans, &mut self.positive_buckets, &mut c.positive_buckets),
            (&other.positive_spans, &other.positive_buckets),
            other_c.map_or(&[], |c| &c.positive_buckets),
        );
        if c.positive_spans != self.positive_spans {
            c.positive_spans.clone_from(&self.positive_spans);
        }
        if !self.uses_custom_buckets() {
            kahan_side(
                (schema, threshold),
                (&mut self.negative_spans, &mut self.negative_buckets, &mut c.negative_buckets),
                (&other.negative_spans, &other.negative_buckets),
                other_c.map_or(&[], |c| &c.negative_buckets),
            );
            if c.negative_spans != self.negative_spans {
                c.negative_spans.clone_from(&self.negative_spans);
            }
            c.zero_threshold = self.zero_threshold;
        }
        c.schema = self.schema;
        Ok(outcome)
    }

    /// Adds what [`Histogram::kahan_add`] held back.
    pub fn add_compensation(&mut self, c: &Histogram) -> Result<AddOutcome, HistogramError> {
        self.add(c)
    }

    /// A histogram of the same layout with all counts 0, for [`Histogram::kahan_add`].
    pub fn new_compensation(&self) -> Histogram {
        Histogram {
            reset_hint: self.reset_hint,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            custom_values: self.custom_values.clone(),
            positive_spans: self.positive_spans.clone(),
            positive_buckets: vec![0.0; self.positive_buckets.len()],
            negative_spans: self.negative_spans.clone(),
            negative_buckets: vec![0.0; self.negative_buckets.len()],
            ..Default::default()
        }
    }

    fn check_combinable(&self, other: &Histogram) -> Result<(), HistogramError> {
        if self.uses_custom_buckets() != other.uses_custom_buckets() {
            return Err(HistogramError::IncompatibleSchema);
        }
        let finer = match other.schema.cmp(&self.schema) {
            std::cmp::Ordering::Less => self,
            std::cmp::Ordering::Greater => other,
            std::cmp::Ordering::Equal => return Ok(()),
        };
        validate::check_spans(&finer.positive_spans, finer.positive_buckets.len())?;
        validate::check_spans(&finer.negative_spans, finer.negative_buckets.len())
    }

    /// Brings `self` to the schema of `other`, or answers a copy of `other` at the schema of `self`.
    fn meet_schema(&mut self, other: &Histogram) -> Result<Option<Histogram>, HistogramError> {
        if other.schema < self.schema {
            self.reduce_resolution(other.schema)?;
            return Ok(None);
        }
        other.copy_to_schema(self.schema).map(Some)
    }

    /// The hint of a sum or difference; true where one says reset and the other none.
    fn adjust_counter_reset(&mut self, other: &Histogram) -> bool {
        use ResetHint::{Gauge, Unknown};
        match (self.reset_hint, other.reset_hint) {
            (a, b) if a == b => {}
            (Gauge, _) | (Unknown, ResetHint::Yes | ResetHint::No) => {}
            (_, Gauge) => self.reset_hint = Gauge,
            (_, Unknown) => self.reset_hint = Unknown,
            _ => {
                self.reset_hint = Unknown;
                return true;
            }
        }
        false
    }
}

/// How many of the first buckets of a layout lie within the zero bucket.
fn buckets_within(schema: i32, threshold: f64, spans: &[Span], buckets: usize) -> usize {
    if !is_exponential_schema(schema) {
        return 0;
    }
    Positions::new(spans, buckets).take_while(|(i, _)| bound_exponential(*i, schema) <= threshold).count()
}

fn kahan_side(
    (schema, threshold): (i32, f64),
    (spans, buckets, c): (&mut Vec<Span>, &mut Vec<f64>, &mut Vec<f64>),
    (other_spans, other_buckets): (&[Span], &[f64]),
    other_c: &[f64],
) {
    let both = |a: f64, ca: f64, at: usize| {
        let (a, ca) = kahan_inc(other_buckets[at], a, ca);
        match other_c.get(at) {
            Some(cb) if *cb != 0.0 => kahan_inc(*cb, a, ca),
            _ => (a, ca),
        }
    };
    let skip = buckets_within(schema, threshold, other_spans, other_buckets.len());
    if skip == 0 && *spans == other_spans && buckets.len() == other_buckets.len() {
        for (at, (a, ca)) in buckets.iter_mut().zip(c.iter_mut()).enumerate() {
            (*a, *ca) = both(*a, *ca, at);
        }
        return;
    }
    let mut sum = Vec::with_capacity(buckets.len() + other_buckets.len());
    let mut sum_c = Vec::with_capacity(buckets.len() + other_buckets.len());
    *spans = unite((spans, buckets.len()), (other_spans, other_buckets.len()), skip, |a, b| {
        let (v, vc) = match (a, b) {
            (Some(a), Some(b)) => both(buckets[a], c[a], b),
            (Some(a), None) => (buckets[a], c[a]),
            (None, Some(b)) => (other_buckets[b], other_c.get(b).copied().unwrap_or(0.0)),
            (None, None) => (0.0, 0.0),
        };
        sum.push(v);
        sum_c.push(vc);
    });
    *buckets = sum;
    *c = sum_c;
}

fn kahan_reduce(
    spans: &mut Vec<Span>,
    buckets: &mut Vec<f64>,
    c: &mut Vec<f64>,
    from: i32,
    to: i32,
) -> Result<(), HistogramError> {
    let pairs: Vec<(f64, f64)> = buckets.iter().copied().zip(c.iter().copied()).collect();
    let (reduced, pairs) = reduce(spans, &pairs, from, to, |(a, ca), (b, cb)| {
        let (a, ca) = kahan_inc(b, a, ca);
        kahan_inc(cb, a, ca)
    })?;
    *spans = reduced;
    (*buckets, *c) = pairs.into_iter().unzip();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::testing::{any_custom, any_exponential, custom, histogram, spans, total};
    use proptest::prelude::*;

    fn compacted(mut h: Histogram) -> Histogram {
        h.compact(0);
        h
    }

    #[test]
    fn scaling() {
        let mut h = histogram(1, &[(0, 2)], &[2.0, 4.0]);
        h.zero_count = 3.0;
        h.mul(2.0);
        assert_eq!((h.zero_count, h.count, h.sum), (6.0, 12.0, 14.0));
        assert_eq!(h.positive_buckets, [4.0, 8.0]);
        h.mul(-1.0);
        assert_eq!(h.reset_hint, ResetHint::Gauge);
        h.div(0.0);
        assert!(h.positive_buckets.is_empty() && h.count == f64::NEG_INFINITY);
    }

    #[test]
    fn layouts_unite() {
        let mut a = histogram(0, &[(-2, 2), (1, 3)], &[1.0, 0.0, 3.0, 4.0, 7.0]);
        let b = histogram(0, &[(0, 2), (3, 2)], &[5.0, 4.0, 2.0, 3.0]);
        assert_eq!(a.add(&b).unwrap(), AddOutcome::default());
        assert_eq!(a.positive_spans, spans(&[(-2, 6), (1, 2)]));
        assert_eq!(a.positive_buckets, [1.0, 0.0, 5.0, 7.0, 4.0, 7.0, 2.0, 3.0]);
        assert_eq!((a.count, a.sum), (29.0, 14.0));
    }

    #[test]
    fn the_finer_schema_gives_way() {
        let mut a = histogram(1, &[(1, 4)], &[1.0, 2.0, 3.0, 4.0]);
        a.add(&histogram(0, &[(1, 2)], &[10.0, 20.0])).unwrap();
        assert_eq!((a.schema, a.positive_buckets), (0, vec![13.0, 27.0]));
        let mut a = histogram(0, &[(1, 2)], &[10.0, 20.0]);
        a.sub(&histogram(1, &[(1, 4)], &[1.0, 2.0, 3.0, 4.0])).unwrap();
        assert_eq!((a.schema, a.positive_buckets), (0, vec![7.0, 13.0]));
    }

    #[test]
    fn a_wider_zero_bucket_swallows() {
        // As in Prometheus's test "different zero thresholds": buckets of the other within 0.01 or overlapping it.
        let mut a = histogram(0, &[(-2, 2), (2, 3)], &[2.0, 3.0, 6.0, 2.0, 5.0]);
        a.zero_threshold = 0.001;
        a.zero_count = 8.0;
        let mut b = histogram(0, &[(-2, 3), (1, 2)], &[1.0, 0.0, 3.0, 4.0, 7.0]);
        b.zero_threshold = 0.01;
        b.zero_count = 17.0;
        a.add(&b).unwrap();
        assert_eq!((a.zero_threshold, a.zero_count), (0.01, 25.0));
        assert_eq!(a.positive_spans, spans(&[(-2, 3), (1, 3)]));
        assert_eq!(a.positive_buckets, [3.0, 3.0, 3.0, 10.0, 9.0, 5.0]);
        let mut c = histogram(0, &[(0, 1)], &[1.0]);
        c.zero_threshold = 0.2;
        a.add(&c).unwrap();
        // 0.2 lies in the populated bucket (0.125, 0.25]: that bucket goes too.
        assert_eq!((a.zero_threshold, a.zero_count), (0.25, 28.0));
    }

    #[test]
    fn custom_bounds_are_cut_to_those_in_common() {
        let mut a = custom(&[1.0, 2.0, 3.0, 4.0], &[(0, 5)], &[1.0, 2.0, 3.0, 4.0, 5.0]);
        let b = custom(&[1.0, 3.0, 5.0], &[(0, 4)], &[10.0, 20.0, 30.0, 40.0]);
        assert!(a.add(&b).unwrap().nhcb_bounds_reconciled);
        assert_eq!(a.custom_values, [1.0, 3.0]);
        assert_eq!(a.positive_buckets, [11.0, 25.0, 79.0]);
        assert_eq!(a.positive_spans, spans(&[(0, 3)]));
        assert_eq!(a.add(&histogram(0, &[], &[])), Err(HistogramError::IncompatibleSchema));
    }

    #[test]
    fn hints() {
        use ResetHint::*;
        for (a, b, want, collision) in [
            (Yes, Yes, Yes, false),
            (Yes, No, Unknown, true),
            (No, Yes, Unknown, true),
            (Gauge, Yes, Gauge, false),
            (No, Gauge, Gauge, false),
            (Unknown, Gauge, Gauge, false),
            (Unknown, Yes, Unknown, false),
            (No, Unknown, Unknown, false),
        ] {
            let mut h = Histogram { reset_hint: a, ..Default::default() };
            let outcome = h.add(&Histogram { reset_hint: b, ..Default::default() }).unwrap();
            assert_eq!((h.reset_hint, outcome.counter_reset_collision), (want, collision), "{a:?} {b:?}");
        }
    }

    #[test]
    fn compensation_keeps_small_terms() {
        let small = histogram(1, &[(3, 1), (2, 1)], &[1.0, 1.0]);
        let big = histogram(0, &[(2, 2)], &[1e100, 1e100]);
        let mut minus = big.clone();
        minus.mul(-1.0);
        let mut h = Histogram { schema: 1, ..Default::default() };
        let mut c = None;
        for x in [&small, &big, &small, &minus, &small] {
            h.kahan_add(x, &mut c).unwrap();
        }
        h.add_compensation(&c.unwrap()).unwrap();
        assert_eq!(h.positive_buckets, [3.0, 3.0]);
        assert_eq!(h.count, 6.0);
    }

    #[test]
    fn malformed_histograms_are_refused_where_it_matters() {
        let mut a = histogram(0, &[(0, 2)], &[1.0, 2.0]);
        let before = a.clone();
        let bad = histogram(1, &[(0, 3)], &[1.0]);
        assert!(matches!(a.add(&bad), Err(HistogramError::SpansBucketsMismatch { need: 3, have: 1 })));
        assert_eq!(a, before);
        let mut nan = histogram(0, &[(0, 1)], &[1.0]);
        nan.zero_threshold = f64::NAN;
        a.add(&nan).unwrap();
    }

    proptest! {
        #[test]
        fn adding_then_subtracting_gives_it_back(a in any_exponential(), b in any_exponential()) {
            let mut sum = a.clone();
            sum.add(&b).unwrap();
            prop_assert_eq!(total(&sum), total(&a) + total(&b));
            // What the sum looks like decides the resolution and the zero bucket: bring `a` there first.
            let mut want = a.clone();
            let mut nothing = sum.clone();
            nothing.mul(0.0);
            want.add(&nothing).unwrap();
            sum.sub(&b).unwrap();
            prop_assert!(compacted(sum).equals(&compacted(want)));
        }

        #[test]
        fn order_does_not_matter(a in any_exponential(), b in any_exponential()) {
            let (mut ab, mut ba) = (a.clone(), b.clone());
            ab.add(&b).unwrap();
            ba.add(&a).unwrap();
            prop_assert!(compacted(ab).equals(&compacted(ba)));
        }

        #[test]
        fn compensated_addition_of_small_numbers_is_plain_addition(
            hs in proptest::collection::vec(any_exponential(), 1..6)
        ) {
            let (mut plain, mut kahan, mut c) = (hs[0].clone(), hs[0].clone(), None);
            for h in &hs[1..] {
                plain.add(h).unwrap();
                kahan.kahan_add(h, &mut c).unwrap();
            }
            if let Some(c) = c {
                prop_assert_eq!(c.positive_buckets.len(), kahan.positive_buckets.len());
                kahan.add_compensation(&c).unwrap();
            }
            prop_assert!(compacted(plain).equals(&compacted(kahan)));
        }

        #[test]
        fn custom_bounds(a in any_custom(), b in any_custom()) {
            let (mut plain, mut kahan, mut c) = (a.clone(), a.clone(), None);
            let outcome = plain.add(&b).unwrap();
            prop_assert_eq!(kahan.kahan_add(&b, &mut c).unwrap(), outcome);
            prop_assert_eq!(outcome.nhcb_bounds_reconciled, a.custom_values != b.custom_values);
            prop_assert_eq!(total(&plain), total(&a) + total(&b));
            prop_assert!(compacted(plain.clone()).equals(&compacted(kahan)));
            for (i, bound) in plain.custom_values.iter().enumerate() {
                let below = |h: &Histogram| -> f64 {
                    h.positive_bucket_iterator().filter(|x| x.upper <= *bound).map(|x| x.count).sum()
                };
                prop_assert_eq!(below(&plain), below(&a) + below(&b), "bound {}", i);
            }
        }
    }
}
