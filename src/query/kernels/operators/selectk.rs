//! `topk bottomk limitk limit_ratio`: some series of each group, chosen anew at each step.
//!
//! ```text
//! topk, bottomk   heap[group][step] of (value, sid), at most k deep; flat arrays, sized from the roster
//! limitk          the first k of each group and step, in roster order
//! limit_ratio     a series is in or out by the hash of its labels
//! ```
//!
//! Invariants
//! 1. Heaps move as Go's do, so that of equal values the same series win.
//! 2. At one step the answer is in rank order, group by group; over a grid it is in label order.

use std::sync::Arc;

use quiver_model::Labels;
use xxhash_rust::xxh64::xxh64;

use super::bits;
use super::go_order::{self, greater, less};
use super::group::Grouping;
use super::params::Params;
use super::rows::Rows;
use super::{Output, in_order};
use crate::annotation::Annotations;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::exec::tile::{Roster, StepGrid, Tile};
use crate::promql::ast::{AggregateOp, Position};
use quiver_model::number::format_g;

/// What to select.
#[derive(Clone, Debug)]
pub struct SelectSpec {
    /// One of the four.
    pub op: AggregateOp,
    /// Labels of `by` or `without`.
    pub grouping: Vec<String>,
    /// `without` instead of `by`.
    pub without: bool,
    /// Position of the whole aggregation.
    pub pos: Position,
    /// Position of the parameter.
    pub param_pos: Position,
}

/// Beyond it a parameter does not fit a 64 bit integer.
const INT_MAX: f64 = 9_223_372_036_854_774_784.0;
const INT_MIN: f64 = -9_223_372_036_854_775_808.0;

/// See the module.
#[derive(Debug)]
pub struct SelectK {
    op: AggregateOp,
    pos: Position,
    roster: Arc<Roster>,
    grouping: Grouping,
    width: usize,
    words: usize,
    /// k of each step, 0: nothing.
    k: Vec<u32>,
    /// Ratio of each step, 0: nothing.
    ratio: Vec<f64>,
    active: Vec<u64>,
    /// Heaps: cells of group g, step s start at `start[g] + s · depth[g]`.
    start: Vec<usize>,
    depth: Vec<u32>,
    heap: Vec<(f64, u32)>,
    len: Vec<u32>,
    /// Groups in the order of their first sample, for the answer at one step.
    arrived: Vec<u32>,
    has_arrived: Vec<bool>,
    chosen: Vec<(u32, f64, u32)>,
    rows: Rows,
    notes: Annotations,
    count: u32,
}

impl SelectK {
    /// The operator and the roster of its answers over a grid (at one step [`SelectK::finish`] gives its own). `params`
    /// has one value for each step.
    pub fn new(
        spec: &SelectSpec,
        input: &Arc<Roster>,
        grid: StepGrid,
        params: Vec<f64>,
        ctx: &QueryContext,
    ) -> Result<(Self, Roster), QueryError> {
        use AggregateOp::*;
        let p = Params::new(params);
        let mut notes = Annotations::new();
        let mut nothing = false;
        match spec.op {
            Topk | Bottomk | Limitk => {
                if p.max < 1.0 {
                    nothing = true;
                } else if p.any_nan {
                    return Err(QueryError::execution("Parameter value is NaN"));
                } else if p.min <= INT_MIN {
                    return Err(QueryError::execution(format!("Scalar value {} underflows int64", format_g(p.min))));
                } else if p.max >= INT_MAX {
                    return Err(QueryError::execution(format!("Scalar value {} overflows int64", format_g(p.max))));
                }
            }
            LimitRatio => {
                if p.max == 0.0 && p.min == 0.0 {
                    nothing = true;
                } else if p.any_nan {
                    return Err(QueryError::execution("Ratio value is NaN"));
                } else {
                    for (v, to) in [(p.max, 1.0), (p.min, -1.0)] {
                        if (to > 0.0 && v > to) || (to < 0.0 && v < to) {
                            notes.invalid_ratio_warning(v, to, spec.param_pos);
                        }
                    }
                }
            }
            _ => return Err(QueryError::Internal(format!("{} does not select", spec.op.as_str()))),
        }
        ctx.annotate(notes);
        let grouping = Grouping::new(input, &spec.grouping, spec.without);
        let (width, words) = (grid.len, bits::words(grid.len));
        let heaps = matches!(spec.op, Topk | Bottomk);
        let (mut k, mut ratio, mut active) = (Vec::new(), Vec::new(), vec![0u64; words]);
        if !nothing {
            for s in 0..width {
                let v = p.at(s);
                let on = if spec.op == LimitRatio {
                    ratio.push(v.clamp(-1.0, 1.0));
                    v != 0.0
                } else {
                    let n = (v as i64).min(input.rows.len() as i64).max(0) as u32;
                    k.push(n);
                    n > 0
                };
                active[s >> 6] |= u64::from(on) << (s & 63);
            }
        }
        let k_max = k.iter().copied().max().unwrap_or(0);
        let (mut start, mut depth, mut total) = (Vec::new(), Vec::new(), 0usize);
        if heaps && !nothing {
            for members in &grouping.members {
                let d = k_max.min(*members);
                start.push(total);
                depth.push(d);
                total += d as usize * width;
            }
        }
        let cells = if spec.op == LimitRatio || nothing { 0 } else { grouping.len() * width };
        let op = Self {
            op: spec.op,
            pos: spec.pos,
            roster: input.clone(),
            width,
            words,
            k,
            ratio,
            active,
            start,
            depth,
            heap: vec![(0.0, 0); total],
            len: vec![0; cells],
            arrived: Vec::new(),
            has_arrived: vec![false; grouping.len()],
            chosen: Vec::new(),
            rows: Rows::new(input.rows.len(), width),
            notes: Annotations::new(),
            count: 0,
            grouping,
        };
        Ok((op, (**input).clone()))
    }

    /// Takes a tile.
    pub fn push(&mut self, tile: &Tile, ctx: &QueryContext) -> Result<(), QueryError> {
        if self.active.iter().all(|w| *w == 0) {
            return Ok(());
        }
        let mut keep = vec![0u64; self.words];
        for (row, sid) in tile.sids.iter().enumerate() {
            self.count = self.count.wrapping_add(1);
            if self.count & 255 == 0 {
                ctx.check()?;
            }
            let Some(g) = self.grouping.ids.get(*sid as usize).map(|g| *g as usize) else { continue };
            let at = row * self.width;
            let hist = if tile.hist.is_empty() { &[][..] } else { tile.row_histograms(row) };
            let offset = if self.op == AggregateOp::LimitRatio { self.offset(*sid) } else { 0.0 };
            let mut any = false;
            for (w, keep) in keep.iter_mut().enumerate() {
                let on = bits::row_word(&tile.present, at, self.width, w) & self.active[w];
                *keep = match self.op {
                    AggregateOp::LimitRatio => self.by_ratio(w, on, offset),
                    AggregateOp::Limitk => self.by_count(g, w, on),
                    _ => {
                        let floats = self.only_floats(w, on, at, hist);
                        self.by_value(g, w, floats, &tile.values[at..at + self.width], *sid);
                        any |= floats != 0;
                        0
                    }
                };
                any |= on != 0 && !matches!(self.op, AggregateOp::Topk | AggregateOp::Bottomk);
            }
            if any && !self.has_arrived[g] {
                self.has_arrived[g] = true;
                self.arrived.push(g as u32);
            }
            if keep.iter().any(|w| *w != 0) {
                self.rows.put_row(*sid, tile, row, |w| keep[w]);
                if self.width == 1 {
                    let value = if hist.is_empty() { tile.values[at] } else { 0.0 };
                    self.chosen.push((g as u32, value, *sid));
                }
            }
        }
        Ok(())
    }

    fn only_floats(&mut self, w: usize, mut on: u64, at: usize, hist: &[(u32, Arc<quiver_model::Histogram>)]) -> u64 {
        for (cell, _) in hist {
            let step = *cell as usize - at;
            let bit = 1u64 << (step & 63);
            if step >> 6 == w && on & bit != 0 {
                on &= !bit;
                self.notes.histogram_ignored_in_aggregation_info(self.op.as_str(), self.pos);
            }
        }
        on
    }

    fn offset(&self, sid: u32) -> f64 {
        self.roster.rows.get(sid as usize).map_or(0.0, |r| sample_offset(&r.labels))
    }

    fn by_ratio(&self, w: usize, on: u64, offset: f64) -> u64 {
        bits::ones(on).fold(0, |keep, i| {
            let r = self.ratio[(w << 6) + i];
            let take = if r >= 0.0 { offset < r } else { offset >= 1.0 + r };
            keep | u64::from(take) << i
        })
    }

    fn by_count(&mut self, g: usize, w: usize, on: u64) -> u64 {
        let mut keep = 0;
        for i in bits::ones(on) {
            let step = (w << 6) + i;
            let n = &mut self.len[g * self.width + step];
            if *n < self.k[step] {
                *n += 1;
                keep |= 1 << i;
            }
        }
        keep
    }

    fn by_value(&mut self, g: usize, w: usize, on: u64, values: &[f64], sid: u32) {
        let top = self.op == AggregateOp::Topk;
        let order = move |a: &(f64, u32), b: &(f64, u32)| if top { less(a.0, b.0) } else { greater(a.0, b.0) };
        for i in bits::ones(on) {
            let step = (w << 6) + i;
            let v = values[step];
            let at = self.start[g] + step * self.depth[g] as usize;
            let n = &mut self.len[g * self.width + step];
            if *n < self.k[step] {
                self.heap[at + *n as usize] = (v, sid);
                *n += 1;
                go_order::heap_up(&mut self.heap[at..at + *n as usize], &order);
            } else {
                let worst = self.heap[at].0;
                let better = if top { worst < v } else { worst > v };
                if better || (worst.is_nan() && !v.is_nan()) {
                    self.heap[at] = (v, sid);
                    go_order::heap_down(&mut self.heap[at..at + *n as usize], &order);
                }
            }
        }
    }

    /// The answer.
    pub fn finish(mut self, ctx: &QueryContext) -> Result<Output, QueryError> {
        ctx.annotate(std::mem::take(&mut self.notes));
        let heaps = matches!(self.op, AggregateOp::Topk | AggregateOp::Bottomk);
        if heaps && !self.start.is_empty() {
            for g in 0..self.grouping.len() {
                if g & 63 == 0 {
                    ctx.check()?;
                }
                for step in 0..self.width {
                    let at = self.start[g] + step * self.depth[g] as usize;
                    let n = self.len[g * self.width + step] as usize;
                    for (v, sid) in &self.heap[at..at + n] {
                        self.rows.set(*sid, step, *v);
                    }
                }
            }
        }
        if self.width > 1 {
            return Ok(Output { roster: (*self.roster).clone(), tiles: self.rows.finish() });
        }
        let mut order = Vec::new();
        for g in &self.arrived {
            if heaps {
                let at = self.start[*g as usize];
                let heap = &mut self.heap[at..at + self.len[*g as usize] as usize];
                let top = self.op == AggregateOp::Topk;
                go_order::sort(heap, &mut |a, b| if top { less(b.0, a.0) } else { greater(b.0, a.0) });
                order.extend(heap.iter().map(|(_, sid)| *sid));
            } else {
                let mut heap: Vec<(f64, u32)> = Vec::new();
                for (_, v, sid) in self.chosen.iter().filter(|(of, _, _)| of == g) {
                    heap.push((*v, *sid));
                    go_order::heap_up(&mut heap, &|a, b| less(a.0, b.0));
                }
                order.extend(heap.iter().map(|(_, sid)| *sid));
            }
        }
        Ok(in_order(&self.roster, self.rows, &order))
    }
}

/// Where a series lies between 0 and 1: Prometheus's hash of its labels (xxHash64 over length-prefixed strings).
pub fn sample_offset(labels: &Labels) -> f64 {
    fn put(out: &mut Vec<u8>, s: &str) {
        let n = s.len();
        if n < 255 {
            out.push(n as u8);
        } else {
            out.extend_from_slice(&[255, n as u8, (n >> 8) as u8, (n >> 16) as u8]);
        }
        out.extend_from_slice(s.as_bytes());
    }
    let mut bytes = Vec::with_capacity(labels.packed().len() + 8);
    for (n, v) in labels.iter() {
        put(&mut bytes, n);
        put(&mut bytes, v);
    }
    xxh64(&bytes, 0) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::operators::testing::{Cell, context, floats, grid, labels, notes, roster, tile};
    use quiver_model::Histogram;

    fn spec(op: AggregateOp, by: &[&str]) -> SelectSpec {
        SelectSpec {
            op,
            grouping: by.iter().map(|s| (*s).to_owned()).collect(),
            without: false,
            pos: Position::default(),
            param_pos: Position::default(),
        }
    }

    fn instant(op: AggregateOp, by: &[&str], k: f64, values: &[f64]) -> Result<Vec<String>, String> {
        let texts: Vec<String> = (0..values.len()).map(|i| format!("g={},i={i:02}", i % 2)).collect();
        let r = Arc::new(roster(&texts.iter().map(String::as_str).collect::<Vec<_>>()));
        let ctx = context();
        let (mut op, _) = SelectK::new(&spec(op, by), &r, grid(1), vec![k], &ctx).map_err(|e| e.to_string())?;
        op.push(&floats(0, &values.iter().map(|v| vec![Some(*v)]).collect::<Vec<_>>()), &ctx).unwrap();
        let out = op.finish(&ctx).unwrap();
        let sids: Vec<u32> = out.tiles.iter().flat_map(|t| t.sids.clone()).collect();
        Ok(sids.iter().map(|s| out.roster.rows[*s as usize].labels.get("i").to_owned()).collect())
    }

    #[test]
    fn ranks_at_one_step() {
        use AggregateOp::*;
        let v = [3.0, 1.0, f64::NAN, 4.0, 2.0, 9.0];
        let run = |op, by: &[&str], k| instant(op, by, k, &v).unwrap().join(" ");
        assert_eq!(run(Topk, &[], 3.0), "05 03 00");
        assert_eq!(run(Bottomk, &[], 3.0), "01 04 00");
        assert_eq!(run(Topk, &["g"], 2.0), "00 04 05 03");
        assert_eq!(run(Bottomk, &[], 100.0), "01 04 00 03 05 02");
        assert_eq!(run(Limitk, &[], 2.9), "01 00");
        assert_eq!(run(Topk, &[], 0.5), "");
        assert_eq!(instant(Topk, &[], f64::NAN, &v), Err("Parameter value is NaN".to_owned()));
        assert_eq!(instant(Topk, &[], 1e30, &v), Err("Scalar value 1e+30 overflows int64".to_owned()));
        assert_eq!(instant(LimitRatio, &[], f64::NAN, &v), Err("Ratio value is NaN".to_owned()));
    }

    #[test]
    fn k_of_each_step_and_histograms() {
        let r = Arc::new(roster(&["i=1", "i=2", "i=3"]));
        let h = Some(Cell::H(Arc::new(Histogram { sum: 1.0, ..Histogram::default() })));
        let f = |v| Some(Cell::F(v));
        let rows = [vec![f(1.0), f(5.0), h.clone()], vec![f(2.0), None, f(1.0)], vec![h, f(7.0), f(2.0)]];
        let run = |op, k: [f64; 3]| {
            let ctx = context();
            let (mut op, _) = SelectK::new(&spec(op, &[]), &r, grid(3), k.to_vec(), &ctx).unwrap();
            op.push(&tile(0, &rows), &ctx).unwrap();
            let out = op.finish(&ctx).unwrap();
            let mut got = Vec::new();
            for t in &out.tiles {
                for (row, sid) in t.sids.iter().enumerate() {
                    for s in 0..3 {
                        if t.is_present(row * 3 + s) {
                            got.push((*sid, s));
                        }
                    }
                }
            }
            (got, notes(&ctx))
        };
        let (got, said) = run(AggregateOp::Topk, [1.0, 0.0, 2.0]);
        assert_eq!(got, [(1, 0), (1, 2), (2, 2)]);
        assert_eq!(said, ["ignored histogram in topk aggregation"]);
        let (got, said) = run(AggregateOp::Limitk, [1.0, 2.0, 1.0]);
        assert_eq!(got, [(0, 0), (0, 1), (0, 2), (2, 1)]);
        assert!(said.is_empty());
        let (all, said) = run(AggregateOp::LimitRatio, [1.1, 0.0, -1.0]);
        assert_eq!(all, [(0, 0), (0, 2), (1, 0), (1, 2), (2, 0), (2, 2)]);
        assert_eq!(said, ["ratio value should be between -1 and 1, got 1.1, capping to 1"]);
        let (half, _) = run(AggregateOp::LimitRatio, [0.5, -0.5, 0.5]);
        let (rest, _) = run(AggregateOp::LimitRatio, [-0.5, 0.5, -0.5]);
        assert_eq!(half.len() + rest.len(), 8);
    }

    #[test]
    fn the_hash_is_that_of_prometheus() {
        // labels.FromStrings("__name__", "http_requests", "instance", "0").Hash(), and one with a long value.
        let cases = [
            (labels("__name__=http_requests,instance=0"), HASH_A),
            (labels(&format!("a={}", "x".repeat(300))), HASH_B),
        ];
        for (l, want) in cases {
            assert_eq!(sample_offset(&l), want as f64 / u64::MAX as f64);
        }
    }
    const HASH_A: u64 = 6_977_925_629_793_450_047;
    const HASH_B: u64 = 8_301_386_041_670_035_979;
}
