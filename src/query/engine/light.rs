//! Which queries are so quick that handing them to a thread of their own costs more than they do.
//!
//! A dashboard or a rule asks the same instant query again and again. One whose last answers took a few hundred microseconds is
//! answered on the thread that asked: a request body of two thousand samples keeps that thread longer. A hand-over there and
//! back is four wake-ups, which on a machine with nothing else to do cost a tenth of a millisecond of its processors.
//!
//! Invariants
//! 1. Only what was quick several times in a row is light; one slow answer, and it has to prove itself again.
//! 2. What may wait for something else than the local disk, nests deeply or holds subqueries is never light.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::promql::ast::Expr;

/// Answers in a row that were quick.
const RUNS: u32 = 4;
/// What is quick.
const QUICK: Duration = Duration::from_micros(600);
/// Nesting: each level takes stack, of which threads that only ask have less.
const DEPTH_MAX: usize = 8;

/// A parsed query, and how its instant answers fared.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) expr: Arc<Expr>,
    is_shallow: bool,
    quick_runs: AtomicU32,
}

impl Parsed {
    pub(super) fn new(expr: Arc<Expr>) -> Self {
        let is_shallow = is_shallow(&expr, DEPTH_MAX);
        Self { expr, is_shallow, quick_runs: AtomicU32::new(0) }
    }

    /// May it be answered where it is asked?
    pub(super) fn is_light(&self) -> bool {
        self.is_shallow && self.quick_runs.load(Ordering::Relaxed) >= RUNS
    }

    /// An instant answer took so long.
    pub(super) fn took(&self, time: Duration) {
        let runs = self.quick_runs.load(Ordering::Relaxed);
        let runs = if time <= QUICK { runs.saturating_add(1) } else { 0 };
        self.quick_runs.store(runs, Ordering::Relaxed);
    }
}

fn is_shallow(expr: &Expr, depth: usize) -> bool {
    let Some(left) = depth.checked_sub(1) else { return false };
    match expr {
        Expr::Number(_) | Expr::String(_) | Expr::Vector(_) | Expr::Matrix(_) => true,
        Expr::Paren(e) => is_shallow(&e.expr, left),
        Expr::Unary(e) => is_shallow(&e.expr, left),
        Expr::StepInvariant(e) => is_shallow(e, left),
        Expr::Binary(e) => is_shallow(&e.lhs, left) && is_shallow(&e.rhs, left),
        Expr::Call(e) => e.args.iter().all(|a| is_shallow(a, left)),
        Expr::Aggregate(e) => is_shallow(&e.expr, left) && e.param.as_ref().is_none_or(|p| is_shallow(p, left)),
        Expr::Subquery(_) | Expr::Duration(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promql::{ParseOptions, parse_expr};

    #[test]
    fn light_is_what_was_quick_again_and_again() {
        let parsed = |text: &str| {
            let options = ParseOptions::new(&quiver_model::Limits::default(), crate::Features::default());
            Parsed::new(Arc::new(parse_expr(text, &options).unwrap()))
        };
        let quick = |p: &Parsed| (0..RUNS).for_each(|_| p.took(QUICK));
        let up = parsed("sum by (job) (rate(up[5m])) / -count(up) > bool 3");
        assert!(!up.is_light());
        quick(&up);
        assert!(up.is_light());
        up.took(QUICK * 2);
        assert!(!up.is_light(), "it has to prove itself again");
        quick(&up);
        assert!(up.is_light());
        for never in ["max_over_time(up[1h:1m])", &format!("{}up{}", "(".repeat(9), ")".repeat(9))] {
            let p = parsed(never);
            quick(&p);
            assert!(!p.is_light(), "{never}");
        }
    }
}
