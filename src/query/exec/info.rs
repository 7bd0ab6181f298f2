//! `info()`: which series it reads depends on the series of its argument, so they are looked up while it runs.

use std::fmt;
use std::sync::Arc;

use quiver_core::{Need, TimeRange};
use quiver_model::Matcher;

use crate::engine::result::Held;
use crate::error::QueryError;
use crate::exec::fold::FoldOp;
use crate::exec::operator::{Collect, PromExec, RunEnv, TileOperator, TileSink};
use crate::exec::specs::InstantSpec;
use crate::exec::tile::{Roster, StepGrid, Tile};
use crate::exec::transform::only;
use crate::exec::vector::push_output;
use crate::kernels::instant::InstantSelector;
use crate::kernels::operators::{Info, InfoPlan};
use crate::promql::ast::Position;
use crate::scan;

/// See the module.
#[derive(Debug)]
pub struct InfoOp {
    /// Steps.
    pub grid: StepGrid,
    /// Matchers of the second argument.
    pub matchers: Option<Vec<Matcher>>,
    /// Reference offset, ms.
    pub offset: i64,
    /// Reference time of all steps, ms.
    pub at: Option<i64>,
}

impl TileOperator for InfoOp {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {:?}", self.matchers.as_deref().unwrap_or_default())
    }

    fn run(&self, env: &RunEnv, inputs: &[Arc<PromExec>], sink: &mut dyn TileSink) -> Result<(), QueryError> {
        let mut held = Held::new(env, Collect::default());
        only(inputs)?.run(env, &mut held)?;
        let Collect { roster, tiles } = held.into_inner();
        let base = roster.unwrap_or_default();
        let plan = InfoPlan::new(self.matchers.as_deref(), &base, env.ctx.limits.regex_bytes_max)?;

        let grid = self.grid;
        let lookback = env.ctx.lookback_ms;
        let (offset_ms, last) = match self.at {
            Some(at) => (grid.start.saturating_sub(at).saturating_add(self.offset), grid.start),
            None => (self.offset, grid.end()),
        };
        let selector = InstantSelector {
            lookback_ms: lookback,
            offset_ms,
            fixed: self.at.is_some(),
            record_time: true,
            record_start: false,
        };
        let range = TimeRange {
            min: grid.start.saturating_sub(offset_ms).saturating_sub(lookback).saturating_add(1),
            max: last.saturating_sub(offset_ms),
        };
        let mut rows = Vec::new();
        let mut info_tiles: Vec<Tile> = Vec::new();
        for matchers in &plan.selectors {
            let found = scan::select(env, matchers, range)?;
            let first = rows.len() as u32;
            rows.extend(found.roster.rows.iter().cloned());
            let spec = InstantSpec { grid, selector, smoothed: false, pos: Position::default() };
            let need = Need { values: true, buckets: false, start_ts: false };
            let fold = FoldOp::new(found.set, range, need, grid, found.roster, Arc::new(spec));
            let mut held = Held::new(env, Collect::default());
            fold.run(env, &[], &mut held)?;
            for mut t in held.into_inner().tiles {
                for sid in &mut t.sids {
                    *sid += first;
                }
                info_tiles.push(t);
            }
        }
        for t in &info_tiles {
            if let Some((cell, _)) = t.hist.first() {
                let labels = t.sids.get(*cell as usize / t.width).and_then(|s| rows.get(*s as usize));
                let labels = labels.map(|r| r.labels.to_string()).unwrap_or_default();
                return Err(QueryError::Execution(format!(
                    "this should be an info metric, with float samples: {labels}"
                )));
            }
        }
        let mut op = Info::new(plan, &base, &Arc::new(Roster { rows }), grid);
        for t in &info_tiles {
            op.build(t, &env.ctx)?;
        }
        for t in &tiles {
            op.push(t, &env.ctx)?;
        }
        push_output(op.finish()?, sink)
    }
}
