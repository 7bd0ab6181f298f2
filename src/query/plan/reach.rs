//! How far from a step a query looks: what changes outside of that does not change the step.

use super::node::{PromNode, PromOp};

/// For a step at `t`, samples in `[t − before, t + after]` can matter and no others; ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// How far back.
    pub before: i64,
    /// How far ahead: offsets into the future, `smoothed`.
    pub after: i64,
}

impl Reach {
    fn with(self, other: Reach) -> Reach {
        Reach { before: self.before.max(other.before), after: self.after.max(other.after) }
    }
}

/// The reach of a plan whose every step depends on what lies around it and on nothing else, the grid least of all; `None`
/// for others: with `@`, with parts that are the same at all steps, with `info()`, range vectors.
pub fn reach(node: &PromNode) -> Option<Reach> {
    let inputs = |from: usize| {
        let mut out = Reach::default();
        for i in node.inputs.iter().skip(from) {
            out = out.with(reach(PromNode::of(i)?)?);
        }
        Some(out)
    };
    let scanned = node.inputs.first().and_then(PromNode::of).and_then(|n| match &n.op {
        PromOp::Scan(s) => {
            Some(Reach { before: node.grid.start.saturating_sub(s.min), after: s.max.saturating_sub(node.grid.end()) })
        }
        _ => None,
    });
    match &node.op {
        PromOp::Instant { .. } => Some(scanned?.with(inputs(1)?)),
        PromOp::Range { window, .. } if window.fixed => None,
        PromOp::Range { window, .. } => match scanned {
            Some(own) => Some(own.with(inputs(1)?)),
            None => {
                let inner = reach(node.inputs.first().and_then(PromNode::of)?)?;
                let own = Reach {
                    before: window.offset.saturating_add(window.range).saturating_add(inner.before),
                    after: inner.after.saturating_sub(window.offset),
                };
                Some(own.with(inputs(1)?))
            }
        },
        PromOp::StepInvariant => {
            // Constants, at best.
            let constant = inputs(0)?;
            let selects = constant != Reach::default() || !is_constant(node);
            (!selects).then_some(constant)
        }
        PromOp::RawWindow { .. } | PromOp::Info { .. } | PromOp::Scan(_) => None,
        _ => inputs(0),
    }
}

fn is_constant(node: &PromNode) -> bool {
    let own = !matches!(
        node.op,
        PromOp::Scan(_) | PromOp::Instant { .. } | PromOp::Range { .. } | PromOp::RawWindow { .. } | PromOp::Time
    );
    own && node.inputs.iter().all(|i| PromNode::of(i).is_some_and(is_constant))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Features, QueryContext};
    use crate::plan::{Lowered, lower_query};
    use crate::promql::{ParseOptions, parse_expr, preprocess};

    fn of(query: &str) -> Option<(i64, i64)> {
        let ctx = QueryContext::new(query, quiver_model::Limits::default(), Features::default());
        let (start, end, step) = (1_000_000, 2_000_000, 10_000);
        let features = Features { experimental_functions: true, ..Features::default() };
        let options = ParseOptions::new(&Default::default(), features);
        let e = preprocess(parse_expr(query, &options).unwrap(), start, end, step).unwrap();
        let Lowered::Plan(p, ..) = lower_query(&e, start, end, step, &ctx).unwrap() else { panic!("a plan") };
        reach(PromNode::of(&p).unwrap()).map(|r| (r.before, r.after))
    }

    #[test]
    fn windows_and_offsets_reach() {
        let lookback = 300_000 - 1;
        assert_eq!(of("x"), Some((lookback, 0)));
        assert_eq!(of("x offset 1m"), Some((lookback + 60_000, 0)));
        assert_eq!(of("sum(rate(x[10m])) / 2"), Some((600_000 - 1, 0)));
        assert_eq!(of("rate(x[10m] offset -5m) + y"), Some((lookback, 300_000)));
        assert_eq!(of("max_over_time(rate(x[1m])[1h:30s])"), Some((3_600_000 + 60_000 - 1, 0)));
        assert_eq!(of("max_over_time(x[1h:30s] offset -10m)"), Some((3_000_000 + lookback, 600_000)));
        assert_eq!(of("time() + 1"), Some((0, 0)));
    }

    #[test]
    fn what_depends_on_the_grid_has_none() {
        for q in ["x @ 1000", "x - x @ end()", "rate(x[5m] @ 5)", "max_over_time(x[1h:1m] @ start())", "info(x)"] {
            assert_eq!(of(q), None, "{q}");
        }
    }
}
