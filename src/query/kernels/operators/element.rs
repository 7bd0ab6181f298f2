//! One binary operation on cells: 64 lanes of floats at a time, or one pair with a histogram.

use std::sync::Arc;

use quiver_model::{Histogram, ResetHint};

use super::histogram_ops::{self as ops, OpError};
use crate::annotation::{Annotations, HistogramOperation};
use crate::error::QueryError;
use crate::kernels::elementwise::math;
use crate::promql::ast::{BinaryOp, Position};

/// A cell: 0.0 stands beside a histogram.
pub type Cell<'a> = (f64, Option<&'a Arc<Histogram>>);

/// What a pair of cells had to say; Prometheus reports the last of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// Nothing.
    #[default]
    None,
    /// Types that do not go together; whether left and right are histograms.
    Types(bool, bool),
    /// Exponential and custom buckets.
    Layout,
    /// Counter reset hints contradict each other.
    Collision,
    /// Custom bounds were reconciled.
    Reconciled,
}

impl Note {
    /// Adds the annotation.
    pub fn report(self, op: BinaryOp, pos: Position, notes: &mut Annotations) {
        let what = if op == BinaryOp::Sub { HistogramOperation::Sub } else { HistogramOperation::Add };
        let word = |h: bool| if h { "histogram" } else { "float" };
        match self {
            Note::None => {}
            Note::Types(l, r) => notes.incompatible_types_in_bin_op_info(word(l), op.as_str(), word(r), pos),
            Note::Layout => notes.incompatible_bucket_layout_in_bin_op_warning(op.as_str(), pos),
            Note::Collision => notes.histogram_counter_reset_collision_warning(pos, what),
            Note::Reconciled => notes.mismatched_custom_buckets_histograms_info(pos, what),
        }
    }
}

/// Result of a pair with a histogram.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Float value.
    pub float: f64,
    /// Histogram value.
    pub histogram: Option<Arc<Histogram>>,
    /// A comparison that does not hold says no.
    pub keep: bool,
    /// Failed: there is no result; the note says why.
    pub failed: bool,
    /// What to report.
    pub note: Note,
}

impl Outcome {
    fn of(h: Histogram) -> Self {
        Self { float: 0.0, histogram: Some(Arc::new(h)), keep: true, failed: false, note: Note::None }
    }

    fn fail(note: Note) -> Self {
        Self { float: 0.0, histogram: None, keep: false, failed: true, note }
    }
}

/// The operation on a pair of which at least one is a histogram.
pub fn with_histogram(op: BinaryOp, left: Cell<'_>, right: Cell<'_>) -> Result<Outcome, QueryError> {
    let types = Outcome::fail(Note::Types(left.1.is_some(), right.1.is_some()));
    let changed = |h: &Arc<Histogram>, f: &dyn Fn(&mut Histogram)| {
        let mut h = (**h).clone();
        f(&mut h);
        Outcome::of(h)
    };
    Ok(match (left.1, right.1) {
        (None, Some(r)) => match op {
            BinaryOp::Mul => changed(r, &|h| {
                h.mul(left.0);
                h.compact(0);
            }),
            _ => types,
        },
        (Some(l), None) => match op {
            BinaryOp::Mul => changed(l, &|h| {
                h.mul(right.0);
                h.compact(0);
            }),
            BinaryOp::Div => changed(l, &|h| {
                h.div(right.0);
                h.compact(0);
            }),
            BinaryOp::TrimUpper => changed(l, &|h| h.trim_buckets(right.0, true)),
            BinaryOp::TrimLower => changed(l, &|h| h.trim_buckets(right.0, false)),
            _ => types,
        },
        (Some(l), Some(r)) => match op {
            BinaryOp::Add | BinaryOp::Sub => {
                let mut h = (**l).clone();
                let done = if op == BinaryOp::Add { ops::add(&mut h, r) } else { ops::sub(&mut h, r) };
                match done {
                    // As in Prometheus, contradicting hints leave no result here.
                    Ok(d) if d.collision => Outcome::fail(Note::Collision),
                    Ok(d) => {
                        if op == BinaryOp::Sub {
                            h.reset_hint = ResetHint::Gauge;
                        }
                        h.compact(0);
                        let note = if d.reconciled { Note::Reconciled } else { Note::None };
                        Outcome { note, ..Outcome::of(h) }
                    }
                    Err(OpError::Incompatible) => Outcome::fail(Note::Layout),
                    Err(OpError::Invalid(text)) => return Err(QueryError::Execution(text)),
                }
            }
            BinaryOp::Eql | BinaryOp::Neq => {
                let keep = l.equals(r) == (op == BinaryOp::Eql);
                Outcome { float: 0.0, histogram: Some(l.clone()), keep, failed: false, note: Note::None }
            }
            _ => types,
        },
        (None, None) => types,
    })
}

/// The operation on up to 64 pairs of floats. Returns the lanes that stay; lanes outside `on` mean nothing.
pub fn floats(op: BinaryOp, left: &[f64], right: &[f64], out: &mut [f64], on: u64) -> u64 {
    #[inline(always)]
    fn each(left: &[f64], right: &[f64], out: &mut [f64], f: impl Fn(f64, f64) -> f64) -> u64 {
        for ((o, l), r) in out.iter_mut().zip(left).zip(right) {
            *o = f(*l, *r);
        }
        u64::MAX
    }
    #[inline(always)]
    fn test(left: &[f64], right: &[f64], out: &mut [f64], f: impl Fn(f64, f64) -> bool) -> u64 {
        let mut keep = 0;
        for (i, ((o, l), r)) in out.iter_mut().zip(left).zip(right).enumerate() {
            *o = *l;
            keep |= u64::from(f(*l, *r)) << i;
        }
        keep
    }
    fn some(left: &[f64], right: &[f64], out: &mut [f64], on: u64, f: impl Fn(f64, f64) -> f64) -> u64 {
        for i in super::bits::ones(on) {
            out[i] = f(left[i], right[i]);
        }
        u64::MAX
    }
    match op {
        BinaryOp::Add => each(left, right, out, |l, r| l + r),
        BinaryOp::Sub => each(left, right, out, |l, r| l - r),
        BinaryOp::Mul => each(left, right, out, |l, r| l * r),
        BinaryOp::Div => each(left, right, out, |l, r| l / r),
        BinaryOp::Mod => some(left, right, out, on, |l, r| l % r),
        BinaryOp::Pow => some(left, right, out, on, math::pow),
        BinaryOp::Atan2 => some(left, right, out, on, math::atan2),
        BinaryOp::Eql => test(left, right, out, |l, r| l == r),
        BinaryOp::Neq => test(left, right, out, |l, r| l != r),
        BinaryOp::Gtr => test(left, right, out, |l, r| l > r),
        BinaryOp::Lss => test(left, right, out, |l, r| l < r),
        BinaryOp::Gte => test(left, right, out, |l, r| l >= r),
        BinaryOp::Lte => test(left, right, out, |l, r| l <= r),
        BinaryOp::TrimUpper | BinaryOp::TrimLower | BinaryOp::And | BinaryOp::Or | BinaryOp::Unless => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_and_tests() {
        let (l, r) = ([1.0, 7.0, -7.0, 2.0], [1.0, 3.0, 3.0, 0.5]);
        let run = |op| {
            let mut out = [0.0; 4];
            let keep = floats(op, &l, &r, &mut out, 0b1111) & 0b1111;
            (out, keep)
        };
        assert_eq!(run(BinaryOp::Mod), ([0.0, 1.0, -1.0, 0.0], 0b1111));
        assert_eq!(run(BinaryOp::Sub), ([0.0, 4.0, -10.0, 1.5], 0b1111));
        assert_eq!(run(BinaryOp::Pow).0[..3], [1.0, 343.0, -343.0]);
        assert_eq!(run(BinaryOp::Gtr), (l, 0b1010));
        assert_eq!(run(BinaryOp::Neq), (l, 0b1110));
    }

    #[test]
    fn types_that_do_not_go_together() {
        let h = Arc::new(Histogram { count: 2.0, sum: 4.0, zero_count: 2.0, ..Histogram::default() });
        let g = Arc::new(Histogram { schema: -53, ..Histogram::default() });
        let run = |op, l, r| with_histogram(op, l, r).unwrap();
        let (f, hist) = ((2.0, None), (0.0, Some(&h)));
        assert_eq!(run(BinaryOp::Add, f, hist).note, Note::Types(false, true));
        assert_eq!(run(BinaryOp::Mul, f, hist).histogram.unwrap().sum, 8.0);
        assert_eq!(run(BinaryOp::Div, hist, f).histogram.unwrap().count, 1.0);
        assert_eq!(run(BinaryOp::Div, f, hist).note, Note::Types(false, true));
        assert_eq!(run(BinaryOp::Add, hist, (0.0, Some(&g))).note, Note::Layout);
        assert!(run(BinaryOp::Eql, hist, hist).keep && !run(BinaryOp::Neq, hist, hist).keep);
        let sub = run(BinaryOp::Sub, hist, hist).histogram.unwrap();
        assert_eq!((sub.reset_hint, sub.count), (ResetHint::Gauge, 0.0));
        let hints = |hint| Arc::new(Histogram { reset_hint: hint, ..(*h).clone() });
        let (yes, no) = (hints(ResetHint::Yes), hints(ResetHint::No));
        let clash = run(BinaryOp::Add, (0.0, Some(&yes)), (0.0, Some(&no)));
        assert!(clash.failed && clash.note == Note::Collision);
        let mut notes = Annotations::new();
        Note::Types(false, true).report(BinaryOp::Add, Position::default(), &mut notes);
        let text = "incompatible sample types encountered for binary operator \"+\": float + histogram";
        assert_eq!(notes.iter().next().unwrap().text, text);
    }
}
