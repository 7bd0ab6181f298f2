//! Logical nodes to physical operators. Series are looked up here, so that what is above a selector can size itself.

use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;
use quiver_core::{Need, TimeRange};

use crate::error::QueryError;
use crate::exec::fold::{self, FoldOp, FoldSpec};
use crate::exec::operator::{PromExec, RunEnv, TileOperator};
use crate::exec::raw::{RawRowsOp, RawScanOp};
use crate::exec::specs::InstantSpec;
use crate::exec::transform;
use crate::plan::node::{PromNode, PromOp, ScanSpec, Sides};
use crate::scan;

/// Builds the operators of a plan.
pub fn build(plan: &LogicalPlan, env: &Arc<RunEnv>) -> Result<Arc<PromExec>, QueryError> {
    let Some(node) = PromNode::of(plan) else {
        return Err(QueryError::Internal(format!("not a PromQL plan: {}", plan.display())));
    };
    env.ctx.check()?;
    Builder { env }.node(node)
}

struct Builder<'a> {
    env: &'a Arc<RunEnv>,
}

impl Builder<'_> {
    fn inputs(&self, node: &PromNode) -> Result<Vec<Arc<PromExec>>, QueryError> {
        node.inputs.iter().map(|i| build(i, self.env)).collect()
    }

    fn exec(&self, node: &PromNode, op: impl TileOperator + 'static, inputs: Vec<Arc<PromExec>>) -> Arc<PromExec> {
        PromExec::new(node.op.name(), Arc::new(op), node.grid, inputs, self.env)
    }

    fn scan_of<'n>(&self, node: &'n PromNode) -> Option<&'n ScanSpec> {
        match PromNode::of(node.inputs.first()?)?.op {
            PromOp::Scan(ref s) => Some(s),
            _ => None,
        }
    }

    fn fold(
        &self,
        node: &PromNode,
        scan: &ScanSpec,
        need: Need,
        keep_name: bool,
        spec: Arc<dyn FoldSpec>,
    ) -> Result<Arc<PromExec>, QueryError> {
        let range = TimeRange { min: scan.min, max: scan.max };
        let selected = scan::select(self.env, &scan.matchers, range)?;
        let delayed = self.env.ctx.features.delayed_name_removal;
        let roster = fold::renamed(&selected.roster, keep_name, delayed);
        let scalars = node.inputs[1..].iter().map(|i| build(i, self.env)).collect::<Result<_, _>>()?;
        let op = FoldOp::new(selected.set, range, need, node.grid, roster, spec);
        Ok(self.exec(node, op, scalars))
    }

    fn node(&self, node: &PromNode) -> Result<Arc<PromExec>, QueryError> {
        let grid = node.grid;
        match &node.op {
            PromOp::Empty => Ok(self.exec(node, transform::EmptyOp, Vec::new())),
            PromOp::Number(v) => Ok(self.exec(node, transform::ScalarSourceOp::new(grid, Some(v.get())), Vec::new())),
            PromOp::Time => Ok(self.exec(node, transform::ScalarSourceOp::new(grid, None), Vec::new())),
            PromOp::Instant { lookback, offset, record, smoothed: false } => {
                let Some(scan) = self.scan_of(node) else {
                    return Err(QueryError::Internal("a selector has a scan".into()));
                };
                let spec = InstantSpec { grid, lookback: *lookback, offset: *offset, record: *record };
                self.fold(node, scan, Need::ALL, true, Arc::new(spec))
            }
            PromOp::ToVector => Ok(self.exec(node, transform::PassOp, self.inputs(node)?)),
            PromOp::ToScalar => Ok(self.exec(node, transform::ToScalarOp { grid }, self.inputs(node)?)),
            PromOp::StepInvariant => {
                let inputs = self.inputs(node)?;
                let roster = inputs.first().and_then(|i| i.roster().cloned());
                Ok(self.exec(node, transform::BroadcastOp { grid, roster }, inputs))
            }
            PromOp::Arith { op, sides: Sides::Scalars, .. } => {
                Ok(self.exec(node, transform::ScalarArithOp { op: *op }, self.inputs(node)?))
            }
            PromOp::RawWindow { window } => {
                let Some(scan) = self.scan_of(node) else {
                    return Ok(self.exec(node, RawRowsOp { window: *window }, self.inputs(node)?));
                };
                let read = TimeRange { min: scan.min, max: scan.max };
                let selected = scan::select(self.env, &scan.matchers, read)?;
                let until = grid.start.saturating_sub(window.offset);
                let after = until.saturating_sub(window.range);
                let op = RawScanOp { set: selected.set, roster: selected.roster, read, after, until, window: *window };
                Ok(self.exec(node, op, Vec::new()))
            }
            PromOp::DropNames => build(&node.inputs[0], self.env),
            other => Err(QueryError::Execution(format!("{} has no operator yet", other.name()))),
        }
    }
}
