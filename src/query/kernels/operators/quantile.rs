//! `quantile`: a value between the samples of a group, at each step.
//!
//! Rows are kept with their presence bits; at the end 64 steps at a time are turned into columns, from which two order
//! statistics are selected.

use std::sync::Arc;

use super::bits;
use super::group::Grouping;
use super::params::Params;
use super::rows::Rows;
use crate::annotation::Annotations;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::exec::tile::{Roster, StepGrid, Tile};
use crate::promql::ast::Position;

/// What to compute.
#[derive(Clone, Debug)]
pub struct QuantileSpec {
    /// Labels of `by` or `without`.
    pub grouping: Vec<String>,
    /// `without` instead of `by`.
    pub without: bool,
    /// Position of the aggregated expression.
    pub expr_pos: Position,
    /// Position of the parameter.
    pub param_pos: Position,
}

/// See the module.
#[derive(Debug)]
pub struct Quantile {
    pos: Position,
    grouping: Arc<Grouping>,
    params: Arc<Params>,
    width: usize,
    words: usize,
    group: Vec<u32>,
    values: Vec<f64>,
    present: Vec<u64>,
    notes: Annotations,
    count: u32,
}

impl Quantile {
    /// The operator and its output roster; `params` has one value for each step.
    pub fn new(
        spec: &QuantileSpec,
        input: &Roster,
        grid: StepGrid,
        params: Vec<f64>,
        ctx: &QueryContext,
    ) -> Result<(Self, Roster), QueryError> {
        let params = Params::new(params);
        let mut notes = Annotations::new();
        let bad = [(params.any_nan, f64::NAN), (params.max > 1.0, params.max), (params.min < 0.0, params.min)];
        for (_, q) in bad.into_iter().filter(|(bad, _)| *bad) {
            notes.invalid_quantile_warning(q, spec.param_pos);
        }
        ctx.annotate(notes);
        let grouping = Grouping::new(input, &spec.grouping, spec.without);
        let roster = grouping.roster();
        let op = Self {
            pos: spec.expr_pos,
            grouping: Arc::new(grouping),
            params: Arc::new(params),
            width: grid.len,
            words: bits::words(grid.len),
            group: Vec::new(),
            values: Vec::new(),
            present: Vec::new(),
            notes: Annotations::new(),
            count: 0,
        };
        Ok((op, roster))
    }

    /// An empty partial, for another partition.
    pub fn fork(&self) -> Self {
        Self {
            grouping: self.grouping.clone(),
            params: self.params.clone(),
            group: Vec::new(),
            values: Vec::new(),
            present: Vec::new(),
            notes: Annotations::new(),
            ..*self
        }
    }

    /// Takes a tile.
    pub fn push(&mut self, tile: &Tile, ctx: &QueryContext) -> Result<(), QueryError> {
        for (row, sid) in tile.sids.iter().enumerate() {
            self.count = self.count.wrapping_add(1);
            if self.count & 255 == 0 {
                ctx.check()?;
            }
            let Some(g) = self.grouping.ids.get(*sid as usize) else { continue };
            let at = row * self.width;
            let first = self.present.len();
            self.group.push(*g);
            self.values.extend_from_slice(&tile.values[at..at + self.width]);
            self.present.extend((0..self.words).map(|w| bits::row_word(&tile.present, at, self.width, w)));
            if !tile.hist.is_empty() {
                for (cell, _) in tile.row_histograms(row) {
                    let step = *cell as usize - at;
                    let word = &mut self.present[first + (step >> 6)];
                    if *word >> (step & 63) & 1 != 0 {
                        *word &= !(1 << (step & 63));
                        self.notes.histogram_ignored_in_aggregation_info("quantile", self.pos);
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds what a later partition has.
    pub fn merge(&mut self, mut other: Self) {
        self.group.append(&mut other.group);
        self.values.append(&mut other.values);
        self.present.append(&mut other.present);
        self.notes.merge(other.notes);
    }

    /// The answer.
    pub fn finish(self, ctx: &QueryContext) -> Result<Vec<Tile>, QueryError> {
        let mut order: Vec<u32> = (0..self.group.len() as u32).collect();
        order.sort_by_key(|r| self.group[*r as usize]);
        let mut out = Rows::new(self.grouping.len(), self.width);
        let mut columns: Vec<Vec<f64>> = vec![Vec::new(); self.width.min(64)];
        for rows in order.chunk_by(|a, b| self.group[*a as usize] == self.group[*b as usize]) {
            let Some(g) = rows.first().map(|r| self.group[*r as usize]) else { continue };
            for w in 0..self.words {
                ctx.check()?;
                let mut any = 0;
                for r in rows {
                    let on = self.present[*r as usize * self.words + w];
                    any |= on;
                    let at = *r as usize * self.width + (w << 6);
                    for i in bits::ones(on) {
                        columns[i].push(self.values[at + i]);
                    }
                }
                let mut result = [0.0; 64];
                for i in bits::ones(any) {
                    result[i] = quantile(self.params.at((w << 6) + i), &mut columns[i]);
                    columns[i].clear();
                }
                out.put(g, w, any, &result);
            }
        }
        ctx.annotate(self.notes);
        Ok(out.finish())
    }
}

/// The φ-quantile of some values, which are reordered. NaN is the smallest value.
pub fn quantile(phi: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || phi.is_nan() {
        return f64::NAN;
    }
    if phi < 0.0 {
        return f64::NEG_INFINITY;
    }
    if phi > 1.0 {
        return f64::INFINITY;
    }
    let order = |a: &f64, b: &f64| a.partial_cmp(b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()));
    let n = values.len() as f64;
    let rank = phi * (n - 1.0);
    let lower = rank.floor().max(0.0);
    let upper = (n - 1.0).min(lower + 1.0) as usize;
    let weight = rank - rank.floor();
    let at = (lower as usize).min(values.len() - 1);
    let (_, low, above) = values.select_nth_unstable_by(at, order);
    let low = *low;
    if weight == 0.0 {
        return low;
    }
    let high = if upper > at { above.iter().copied().min_by(order).unwrap_or(low) } else { low };
    low * (1.0 - weight) + high * weight
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::operators::testing::{Cell, cells, context, grid, notes, roster, tile};
    use proptest::prelude::*;
    use quiver_model::Histogram;

    #[test]
    fn between_samples() {
        assert_eq!(quantile(0.8, &mut [0.0, 1.0, 2.0]), 0.4 * 1.0 + 2.0 * 0.6000000000000001);
        assert_eq!(quantile(0.5, &mut [3.0, f64::NAN, 1.0]), 1.0);
        assert_eq!(quantile(-1.0, &mut [3.0]), f64::NEG_INFINITY);
        assert_eq!(quantile(1.5, &mut [3.0]), f64::INFINITY);
        assert!(quantile(f64::NAN, &mut [3.0]).is_nan());
    }

    #[test]
    fn phi_of_each_step_partials_and_histograms() {
        let r = roster(&["a=1,i=1", "a=1,i=2", "a=2,i=1"]);
        let f = |v| Some(Cell::F(v));
        let h = Some(Cell::H(Arc::new(Histogram::default())));
        let rows = [vec![f(1.0), f(5.0)], vec![f(3.0), h], vec![None, f(7.0)]];
        let spec = QuantileSpec {
            grouping: vec!["a".into()],
            without: false,
            expr_pos: Position::default(),
            param_pos: Position::default(),
        };
        let ctx = context();
        let (mut one, out) = Quantile::new(&spec, &r, grid(2), vec![0.5, 2.0], &ctx).unwrap();
        let mut two = one.fork();
        one.push(&tile(0, &rows[..1]), &ctx).unwrap();
        two.push(&tile(1, &rows[1..]), &ctx).unwrap();
        one.merge(two);
        let got: Vec<f64> = cells(&out, &one.finish(&ctx).unwrap()).values().map(|v| f64::from_bits(v.1)).collect();
        assert_eq!(got, [2.0, f64::INFINITY, f64::INFINITY]);
        let mut said = notes(&ctx);
        said.sort();
        assert_eq!(
            said,
            ["ignored histogram in quantile aggregation", "quantile value should be between 0 and 1, got 2"]
        );
    }

    proptest! {
        #[test]
        fn selection_is_sorting(mut v in proptest::collection::vec(-20i32..20, 1..40), phi in 0.0f64..=1.0) {
            let mut a: Vec<f64> = v.iter().map(|x| f64::from(*x)).collect();
            v.sort();
            let rank = phi * (v.len() as f64 - 1.0);
            let (lo, w) = (rank.floor() as usize, rank - rank.floor());
            let hi = (lo + 1).min(v.len() - 1);
            let (x, y) = (f64::from(v[lo]), f64::from(v[hi]));
            let want = if w == 0.0 { x } else { x * (1.0 - w) + y * w };
            prop_assert_eq!(quantile(phi, &mut a), want);
        }
    }
}
