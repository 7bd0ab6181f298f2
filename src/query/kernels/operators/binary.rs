//! Binary operations between two vectors, set operators aside: matching one to one, many to one, one to many, with fills.
//!
//! ```text
//! one side ──build──▶ rows by sid, bits[match id][step]
//! many side ─probe──▶ for each partner: AND of presence words, 64 lanes at a time ──▶ output rows
//!                     no partner at a step: fill value, if there is one
//! finish ───────────▶ one-side cells nobody matched, with the other fill value; then the error of the earliest step
//! ```
//!
//! For `group_right` the sides swap, for one-to-one the right side is the one side.
//!
//! Invariants
//! 1. Two series of one signature on the one side are an error only at a step where both have a sample and the many side
//!    has any (or a fill is given).
//! 2. Labels of results come from a table made with the operator; of a step's notes only the last is reported.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use quiver_model::Histogram;
use smallvec::SmallVec;

use super::bits;
use super::element::{self, Note};
use super::group::{LabelNumbers, pack};
use super::matching::{MatchIds, Side, match_labels, result_labels};
use super::rows::Rows;
use crate::annotation::Annotations;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::exec::tile::{Roster, StepGrid, Tile};
use crate::promql::ast::{BinaryOp, Cardinality, Position, VectorMatching};

/// What to compute.
#[derive(Clone, Debug)]
pub struct BinarySpec {
    /// Arithmetic, comparison or trim.
    pub op: BinaryOp,
    /// How to match.
    pub matching: VectorMatching,
    /// `bool`
    pub return_bool: bool,
    /// Delayed name removal: `bool` marks names to be dropped, instead of dropping them.
    pub delayed: bool,
    /// Position of the whole expression.
    pub pos: Position,
}

const NONE: u32 = u32::MAX;

/// Series of the one side by match id.
#[derive(Debug, Default)]
struct ById {
    start: Vec<u32>,
    sids: Vec<u32>,
}

impl ById {
    fn new(ids: &[u32], count: usize) -> Self {
        let mut start = vec![0u32; count + 1];
        for id in ids {
            start[*id as usize + 1] += 1;
        }
        for i in 0..count {
            start[i + 1] += start[i];
        }
        let mut next = start.clone();
        let mut sids = vec![0u32; ids.len()];
        for (sid, id) in ids.iter().enumerate() {
            sids[next[*id as usize] as usize] = sid as u32;
            next[*id as usize] += 1;
        }
        Self { start, sids }
    }

    fn of(&self, id: u32) -> &[u32] {
        &self.sids[self.start[id as usize] as usize..self.start[id as usize + 1] as usize]
    }
}

/// See the module.
#[derive(Debug)]
pub struct VectorBinary {
    spec: BinarySpec,
    one_side: Side,
    ids: MatchIds,
    one_roster: Arc<Roster>,
    by_id: ById,
    width: usize,
    words: usize,
    fill_one: Option<f64>,
    fill_many: Option<f64>,
    // Tables made with the operator.
    variant: Vec<u32>,
    outs: Vec<SmallVec<[(u32, u32); 1]>>,
    out_fill: Vec<u32>,
    slot: Vec<u32>,
    pair_slot: HashMap<(u32, u32), u32>,
    needed: Vec<bool>,
    // State.
    one_rows: Rows,
    one_any: Vec<u64>,
    many_any: Vec<u64>,
    matched: Vec<u64>,
    twice: BTreeMap<usize, (u32, u32)>,
    twice_bits: Vec<u64>,
    last: Vec<Note>,
    rows: Rows,
    error: Option<(usize, u8, QueryError)>,
    count: u32,
    settled: bool,
}

/// One operand of a word of lanes.
struct Operand<'a> {
    values: &'a [f64],
    hist: &'a [(u32, Arc<Histogram>)],
    /// Cell of step 0.
    at: usize,
}

impl Operand<'_> {
    fn mask(&self, w: usize) -> u64 {
        self.hist.iter().fold(0, |m, (c, _)| {
            let step = (*c as usize).wrapping_sub(self.at);
            if step >> 6 == w { m | 1 << (step & 63) } else { m }
        })
    }

    fn cell(&self, step: usize) -> Option<&Arc<Histogram>> {
        let i = self.hist.binary_search_by_key(&((self.at + step) as u32), |(c, _)| *c).ok()?;
        Some(&self.hist[i].1)
    }
}

impl VectorBinary {
    /// The operator and its output roster.
    pub fn new(
        spec: BinarySpec,
        left: &Arc<Roster>,
        right: &Arc<Roster>,
        grid: StepGrid,
    ) -> Result<(Self, Roster), QueryError> {
        if spec.op.is_set() || spec.matching.card == Cardinality::ManyToMany {
            return Err(QueryError::Internal("many-to-many matching is for set operators".into()));
        }
        let m = &spec.matching;
        let ids = MatchIds::new(m, left, right);
        let swap = m.card == Cardinality::OneToMany;
        let (many, one) = if swap { (right, left) } else { (left, right) };
        let (many_ids, one_ids) = if swap { (&ids.right, &ids.left) } else { (&ids.left, &ids.right) };
        let (fill_many, fill_one) = if swap { (m.fill_right, m.fill_left) } else { (m.fill_left, m.fill_right) };
        let drop_metadata = spec.return_bool && !spec.delayed;
        let by_id = ById::new(one_ids, ids.count);

        // Variants: what `include` makes of a series of the one side.
        let mut variants: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut key = Vec::new();
        let variant: Vec<u32> = if m.include.is_empty() {
            vec![0; one.rows.len()]
        } else {
            let id = |r: &crate::exec::tile::RosterRow| {
                pack(&r.labels, &mut key, |n| m.include.iter().any(|x| x == n));
                let next = variants.len() as u32;
                *variants.entry_ref(key.as_slice()).or_insert(next)
            };
            one.rows.iter().map(id).collect()
        };

        let mut numbers = LabelNumbers::default();
        let mut many_count = vec![0u32; ids.count];
        let mut outs: Vec<SmallVec<[(u32, u32); 1]>> = Vec::with_capacity(many.rows.len());
        let delayed_free = |labels: &quiver_model::Labels, other: &quiver_model::Labels, bool_drop: bool| {
            result_labels(labels, other, spec.op, m, bool_drop)
        };
        for (row, id) in many.rows.iter().zip(many_ids) {
            many_count[*id as usize] += 1;
            let mut list: SmallVec<[(u32, u32); 1]> = SmallVec::new();
            for o in by_id.of(*id) {
                let v = variant[*o as usize];
                if list.iter().all(|(have, _)| *have != v) {
                    let l = delayed_free(&row.labels, &one.rows[*o as usize].labels, drop_metadata);
                    list.push((v, numbers.id(&l, spec.return_bool)));
                }
            }
            if fill_one.is_some() {
                let l = delayed_free(&row.labels, &match_labels(&row.labels, m), drop_metadata);
                list.push((NONE, numbers.id(&l, spec.return_bool)));
            }
            outs.push(list);
        }
        let mut out_fill = Vec::new();
        if fill_many.is_some() {
            for row in &one.rows {
                let l = delayed_free(&match_labels(&row.labels, m), &row.labels, drop_metadata);
                out_fill.push(numbers.id(&l, spec.return_bool));
            }
        }
        // At one step series stay in the order of the many side.
        let (roster, new) = if grid.len == 1 { numbers.unsorted() } else { numbers.finish() };
        for (_, out) in outs.iter_mut().flatten() {
            *out = new[*out as usize];
        }
        for out in &mut out_fill {
            *out = new[*out as usize];
        }

        // Slots: where it must be known which steps were matched already.
        let mut slots = 0u32;
        let mut next_slot = || {
            slots += 1;
            slots - 1
        };
        let one_to_one = m.card == Cardinality::OneToOne;
        let mut slot = vec![NONE; ids.count];
        for (id, s) in slot.iter_mut().enumerate() {
            let partners = fill_one.is_some() || !by_id.of(id as u32).is_empty();
            if fill_many.is_some() || (one_to_one && many_count[id] > 1 && partners) {
                *s = next_slot();
            }
        }
        let mut pair_slot = HashMap::new();
        if !one_to_one {
            let mut seen: HashMap<(u32, u32), u32> = HashMap::new();
            for (i, (list, id)) in outs.iter().zip(many_ids).enumerate() {
                if many_count[*id as usize] < 2 {
                    continue;
                }
                for (_, out) in list {
                    if *seen.entry((*id, *out)).or_insert(i as u32) != i as u32 {
                        pair_slot.entry((*id, *out)).or_insert_with(&mut next_slot);
                    }
                }
            }
        }
        let needed = (0..ids.count)
            .map(|id| many_count[id] > 0 || fill_many.is_some() || by_id.of(id as u32).len() > 1)
            .collect();
        let words = bits::words(grid.len);
        let op = Self {
            one_side: if swap { Side::Left } else { Side::Right },
            one_roster: one.clone(),
            by_id,
            width: grid.len,
            words,
            fill_one,
            fill_many,
            variant,
            outs,
            out_fill,
            slot,
            pair_slot,
            needed,
            one_rows: Rows::new(one.rows.len(), grid.len),
            one_any: vec![0; ids.count * words],
            many_any: vec![0; words],
            matched: vec![0; slots as usize * words],
            twice: BTreeMap::new(),
            twice_bits: vec![0; words],
            last: vec![Note::None; grid.len],
            rows: Rows::new(roster.rows.len(), grid.len),
            error: None,
            count: 0,
            settled: false,
            ids,
            spec,
        };
        Ok((op, roster))
    }

    /// The side that goes first, whole.
    pub fn build_side(&self) -> Side {
        self.one_side
    }

    /// The signature numbers.
    pub fn ids(&self) -> &MatchIds {
        &self.ids
    }

    /// Which series of the left and the right side cannot change the answer, by their labels alone (`true`): those without
    /// a partner, where nothing is filled in. But series of the one side that have a double are read, for if both have a
    /// sample at a step that is an error; and as it is one only where the many side has any sample, that one is read whole.
    pub fn unused(&self) -> [Vec<bool>; 2] {
        let many = if self.fill_one.is_none() && !self.one_may_clash() {
            let side = if self.one_side == Side::Left { Side::Right } else { Side::Left };
            self.ids.matched(side).into_iter().map(|m| !m).collect()
        } else {
            Vec::new()
        };
        let one_ids = if self.one_side == Side::Left { &self.ids.left } else { &self.ids.right };
        let one = one_ids.iter().map(|id| !self.needed[*id as usize]).collect();
        if self.one_side == Side::Left { [one, many] } else { [many, one] }
    }

    fn one_may_clash(&self) -> bool {
        (0..self.ids.count).any(|id| self.by_id.of(id as u32).len() > 1)
    }

    fn one_id(&self, sid: u32) -> Option<u32> {
        let ids = if self.one_side == Side::Left { &self.ids.left } else { &self.ids.right };
        ids.get(sid as usize).copied()
    }

    fn many_id(&self, sid: u32) -> Option<u32> {
        let ids = if self.one_side == Side::Left { &self.ids.right } else { &self.ids.left };
        ids.get(sid as usize).copied()
    }

    /// Bytes it holds, about.
    pub fn bytes(&self) -> usize {
        let words = self.one_any.len() + self.many_any.len() + self.matched.len() + self.twice_bits.len();
        let numbers = self.ids.left.len() + self.ids.right.len() + self.slot.len() + self.out_fill.len();
        let tables = self.outs.len() * size_of::<SmallVec<[(u32, u32); 1]>>() + self.pair_slot.len() * 16;
        words * 8 + numbers * 4 + tables + self.one_rows.bytes() + self.rows.bytes()
    }

    /// Takes a tile of the build side.
    pub fn build(&mut self, tile: &Tile, ctx: &QueryContext) -> Result<(), QueryError> {
        for (row, sid) in tile.sids.iter().enumerate() {
            self.tick(ctx)?;
            let Some(id) = self.one_id(*sid) else { continue };
            for w in 0..self.words {
                let on = bits::row_word(&tile.present, row * self.width, self.width, w);
                let any = &mut self.one_any[id as usize * self.words + w];
                let clash = *any & on & !self.twice_bits[w];
                *any |= on;
                if clash != 0 {
                    self.twice_bits[w] |= clash;
                    for i in bits::ones(clash) {
                        let step = (w << 6) + i;
                        let had = |o: &&u32| {
                            **o != *sid
                                && self.one_rows.row(**o).is_some_and(|(t, r)| t.is_present(r * self.width + step))
                        };
                        let old = self.by_id.of(id).iter().find(had).copied().unwrap_or(*sid);
                        self.twice.insert(step, (*sid, old));
                    }
                }
            }
            if self.needed[id as usize] {
                self.one_rows.put_row(*sid, tile, row, |_| u64::MAX);
            }
        }
        Ok(())
    }

    /// Takes a tile of the other side.
    pub fn probe(&mut self, tile: &Tile, ctx: &QueryContext) -> Result<(), QueryError> {
        self.settle();
        let one_rows = std::mem::replace(&mut self.one_rows, Rows::new(0, 1));
        let done = self.probe_rows(tile, &one_rows, ctx);
        self.one_rows = one_rows;
        done
    }

    fn settle(&mut self) {
        if !self.settled {
            self.one_rows.settle();
            self.settled = true;
        }
    }

    fn probe_rows(&mut self, tile: &Tile, one_rows: &Rows, ctx: &QueryContext) -> Result<(), QueryError> {
        let mut mine = vec![0u64; self.words];
        for (row, sid) in tile.sids.iter().enumerate() {
            self.tick(ctx)?;
            let Some(id) = self.many_id(*sid) else { continue };
            let at = row * self.width;
            for (w, m) in mine.iter_mut().enumerate() {
                *m = bits::row_word(&tile.present, at, self.width, w);
                self.many_any[w] |= *m;
            }
            let hist = if tile.hist.is_empty() { &[][..] } else { tile.row_histograms(row) };
            let many = Operand { values: &tile.values[at..at + self.width], hist, at };
            for i in 0..self.by_id.of(id).len() {
                let o = self.by_id.of(id)[i];
                let Some((t, r)) = one_rows.row(o) else { continue };
                let o_at = r * self.width;
                let o_hist = if t.hist.is_empty() { &[][..] } else { t.row_histograms(r) };
                let one = Operand { values: &t.values[o_at..o_at + self.width], hist: o_hist, at: o_at };
                let v = self.variant[o as usize];
                let Some(out) = self.out_of(*sid, v) else { continue };
                for (w, mine) in mine.iter().enumerate() {
                    let both = *mine & bits::row_word(&t.present, o_at, self.width, w);
                    self.word(id, out, w, both, Some(&many), Some(&one))?;
                }
            }
            if self.fill_one.is_some()
                && let Some(out) = self.out_of(*sid, NONE)
            {
                for (w, mine) in mine.iter().enumerate() {
                    let rest = *mine & !self.one_any[id as usize * self.words + w];
                    self.word(id, out, w, rest, Some(&many), None)?;
                }
            }
        }
        Ok(())
    }

    fn out_of(&self, many: u32, variant: u32) -> Option<u32> {
        self.outs.get(many as usize)?.iter().find(|(v, _)| *v == variant).map(|(_, o)| *o)
    }

    /// The operation on the cells `on` of word `w`; a missing operand is its fill value.
    fn word(
        &mut self,
        id: u32,
        out: u32,
        w: usize,
        on: u64,
        many: Option<&Operand<'_>>,
        one: Option<&Operand<'_>>,
    ) -> Result<(), QueryError> {
        if on == 0 {
            return Ok(());
        }
        let from = w << 6;
        let n = (self.width - from).min(64);
        let (fill_many, fill_one) = ([self.fill_many.unwrap_or(0.0); 64], [self.fill_one.unwrap_or(0.0); 64]);
        let values = |o: Option<&Operand<'_>>, fill: &[f64; 64]| -> [f64; 64] {
            let mut a = *fill;
            if let Some(o) = o {
                a[..n].copy_from_slice(&o.values[from..from + n]);
            }
            a
        };
        let (a, b) = (values(many, &fill_many), values(one, &fill_one));
        let (many, one, a, b) = if self.one_side == Side::Left { (one, many, b, a) } else { (many, one, a, b) };
        let (left, right) = (many, one);
        let hist_mask = |o: Option<&Operand<'_>>| o.filter(|o| !o.hist.is_empty()).map_or(0, |o| o.mask(w));
        let with_hist = on & (hist_mask(left) | hist_mask(right));
        let mut plain = on & !with_hist;
        let mut result = [0.0f64; 64];
        let mut keep = 0;
        if plain != 0 {
            if matches!(self.spec.op, BinaryOp::TrimUpper | BinaryOp::TrimLower) {
                for i in bits::ones(plain) {
                    self.last[from + i] = Note::Types(false, false);
                }
                plain = 0;
            } else {
                keep = element::floats(self.spec.op, &a[..n], &b[..n], &mut result[..n], plain) & plain;
                if self.spec.return_bool {
                    for (i, r) in result.iter_mut().enumerate() {
                        *r = f64::from(u8::from(keep >> i & 1 != 0));
                    }
                    keep = plain;
                }
            }
        }
        let mut done = plain;
        let mut histograms: SmallVec<[(usize, Arc<Histogram>); 4]> = SmallVec::new();
        for i in bits::ones(with_hist) {
            let step = from + i;
            let l = (a[i], left.and_then(|o| o.cell(step)));
            let r = (b[i], right.and_then(|o| o.cell(step)));
            let outcome = element::with_histogram(self.spec.op, l, r)?;
            if outcome.note != Note::None {
                self.last[step] = outcome.note;
            }
            if outcome.failed {
                continue;
            }
            done |= 1 << i;
            if self.spec.return_bool {
                result[i] = f64::from(u8::from(outcome.keep));
                keep |= 1 << i;
            } else if outcome.keep {
                match outcome.histogram {
                    Some(h) => histograms.push((step, h)),
                    None => {
                        result[i] = outcome.float;
                        keep |= 1 << i;
                    }
                }
            }
        }
        self.mark(id, out, w, done);
        self.rows.put(out, w, keep, &result[..n]);
        for (step, h) in histograms {
            self.rows.put_histogram(out, step, h);
        }
        Ok(())
    }

    /// Marks steps as matched; a step matched twice is an error.
    fn mark(&mut self, id: u32, out: u32, w: usize, done: u64) {
        let one_to_one = self.spec.matching.card == Cardinality::OneToOne;
        let slot = self.slot[id as usize];
        if slot != NONE {
            let word = &mut self.matched[slot as usize * self.words + w];
            let clash = *word & done;
            *word |= done;
            if one_to_one && clash != 0 {
                let text =
                    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)";
                self.fail((w << 6) + clash.trailing_zeros() as usize, 1, || text.to_owned());
            }
        }
        if !one_to_one
            && !self.pair_slot.is_empty()
            && let Some(slot) = self.pair_slot.get(&(id, out))
        {
            let word = &mut self.matched[*slot as usize * self.words + w];
            let clash = *word & done;
            *word |= done;
            if clash != 0 {
                let text = "multiple matches for labels: grouping labels must ensure unique matches";
                self.fail((w << 6) + clash.trailing_zeros() as usize, 1, || text.to_owned());
            }
        }
    }

    fn fail(&mut self, step: usize, rank: u8, text: impl FnOnce() -> String) {
        if self.error.as_ref().is_none_or(|(s, r, _)| (step, rank) < (*s, *r)) {
            self.error = Some((step, rank, QueryError::Execution(text())));
        }
    }

    /// The result.
    pub fn finish(mut self, ctx: &QueryContext) -> Result<Vec<Tile>, QueryError> {
        self.settle();
        if self.fill_many.is_some() {
            let one_rows = std::mem::replace(&mut self.one_rows, Rows::new(0, 1));
            for sid in 0..self.out_fill.len() as u32 {
                let (Some(id), Some((t, r))) = (self.one_id(sid), one_rows.row(sid)) else { continue };
                let at = r * self.width;
                let hist = if t.hist.is_empty() { &[][..] } else { t.row_histograms(r) };
                let one = Operand { values: &t.values[at..at + self.width], hist, at };
                let slot = self.slot[id as usize] as usize;
                for w in 0..self.words {
                    let rest = bits::row_word(&t.present, at, self.width, w) & !self.matched[slot * self.words + w];
                    self.word(id, self.out_fill[sid as usize], w, rest, None, Some(&one))?;
                }
            }
        }
        let filled = self.fill_many.is_some() || self.fill_one.is_some();
        let raised = |s: &usize| filled || self.many_any[*s >> 6] >> (*s & 63) & 1 != 0;
        let twice = self.twice.iter().find(|(s, _)| raised(s)).map(|(s, p)| (*s, *p));
        if let Some((step, (new, old))) = twice {
            let text = self.twice_text(new, old);
            self.fail(step, 0, || text);
        }
        if let Some((step, _)) = self.rows.overlap()
            && self.error.as_ref().is_none_or(|(s, _, _)| step < *s)
        {
            return Err(super::same_labelset());
        }
        if let Some((_, _, e)) = self.error {
            return Err(e);
        }
        let mut notes = Annotations::new();
        self.last.sort_unstable();
        self.last.dedup();
        for n in &self.last {
            n.report(self.spec.op, self.spec.pos, &mut notes);
        }
        ctx.annotate(notes);
        Ok(self.rows.finish())
    }

    fn twice_text(&self, new: u32, old: u32) -> String {
        let side = if self.one_side == Side::Left { "left" } else { "right" };
        let labels = |sid: u32| &self.one_roster.rows[sid as usize].labels;
        let group = match_labels(labels(new), &self.spec.matching);
        let (mut a, mut b) = (labels(new).to_string(), labels(old).to_string());
        if a > b {
            std::mem::swap(&mut a, &mut b);
        }
        format!(
            "found duplicate series for the match group {group} on the {side} hand-side of the operation: [{a}, {b}]\
             ;many-to-many matching not allowed: matching labels must be unique on one side"
        )
    }

    fn tick(&mut self, ctx: &QueryContext) -> Result<(), QueryError> {
        self.count = self.count.wrapping_add(1);
        if self.count & 255 == 0 { ctx.check() } else { Ok(()) }
    }
}
