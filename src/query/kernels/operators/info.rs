//! `info(v, {…})`: labels of info metrics (`target_info`) added to series of the same `instance` and `job`.
//!
//! ```text
//! InfoPlan::new(matchers, base roster) ──▶ selectors, one per pattern of identifying labels ──▶ run by the caller,
//!                                                                                   with the times of samples
//! Info::build(info tile)   bits and winner of each (name, instance, job) and step: the newest sample
//! Info::push(base tile)    labels of a series change only where its winners change
//! ```
//!
//! Invariants
//! 1. Series that are info series themselves pass unchanged.
//! 2. Of several errors that of the earliest step is raised, and none at a step without base samples.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use quiver_model::{Labels, METRIC_NAME, MatchOp, Matcher};
use smallvec::SmallVec;

use super::group::{LabelNumbers, is_metadata_label};
use super::rows::Rows;
use super::{Output, bits, same_labelset};
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::exec::tile::{Roster, StepGrid, Tile};

/// Labels that say which target a series is from.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

/// What to read, and what to do with it.
#[derive(Clone, Debug)]
pub struct InfoPlan {
    /// Matchers of each selector of info series; they do not overlap. None: there is nothing to add.
    pub selectors: Vec<Vec<Matcher>>,
    /// Base series that are info series themselves.
    ignore: Vec<bool>,
    /// Matchers of data labels, by label.
    data: BTreeMap<String, Vec<Matcher>>,
}

impl InfoPlan {
    /// From the matchers of the second argument and the series of the first.
    pub fn new(matchers: Option<&[Matcher]>, base: &Roster, regex_bytes_max: usize) -> Result<Self, QueryError> {
        let regex = |op: MatchOp, name: &str, value: &str| {
            Matcher::new(op, name, value, regex_bytes_max).map_err(|e| QueryError::Execution(e.to_string()))
        };
        let mut data: BTreeMap<String, Vec<Matcher>> = BTreeMap::new();
        let mut names: Vec<Matcher> = Vec::new();
        for m in matchers.unwrap_or_default() {
            if m.is_name() {
                names.push(m.clone());
            } else {
                data.entry(m.name.to_string()).or_default().push(m.clone());
            }
        }
        if names.is_empty() {
            names.push(Matcher::equal(METRIC_NAME, "target_info"));
        } else if names.iter().all(|m| matches!(m.op, MatchOp::NotEqual | MatchOp::NotRegex)) {
            names.insert(0, regex(MatchOp::Regex, METRIC_NAME, ".+_info")?);
        }
        let ignore: Vec<bool> =
            base.rows.iter().map(|r| names.iter().all(|m| m.matches(r.labels.metric_name()))).collect();

        // By which identifying labels a series has (job counts before instance, as Prometheus orders them).
        let mut patterns: BTreeMap<u8, [std::collections::BTreeSet<&str>; 2]> = BTreeMap::new();
        for (row, _) in base.rows.iter().zip(&ignore).filter(|(_, i)| !**i) {
            let [instance, job] = IDENTIFYING.map(|n| row.labels.get(n));
            let pattern = u8::from(!job.is_empty()) | u8::from(!instance.is_empty()) << 1;
            if pattern == 0 {
                continue;
            }
            let sets = patterns.entry(pattern).or_default();
            for (set, v) in sets.iter_mut().zip([instance, job]) {
                if !v.is_empty() {
                    set.insert(v);
                }
            }
        }
        let mut selectors = Vec::new();
        for sets in patterns.values() {
            let mut ms = Vec::new();
            for (name, values) in IDENTIFYING.iter().zip(sets) {
                if values.is_empty() {
                    ms.push(Matcher::equal(name, ""));
                } else {
                    let words: Vec<String> = values.iter().map(|v| regex_syntax::escape(v)).collect();
                    ms.push(regex(MatchOp::Regex, name, &words.join("|"))?);
                }
            }
            ms.extend(data.values().flatten().cloned());
            ms.extend(names.iter().cloned());
            selectors.push(ms);
        }
        Ok(Self { selectors, ignore, data })
    }

    /// Is there a data label that must have a value? Then series without info go.
    fn requires_info(&self) -> bool {
        self.data.values().flatten().any(|m| !m.matches(""))
    }
}

/// The info series of one name and target.
#[derive(Debug, Default)]
struct Target {
    /// Series, and at which steps any is present.
    present: Vec<u64>,
    /// Newest series of each step and its sample's time; made when there is a second series.
    newest: Vec<(u32, i64)>,
    only: Option<u32>,
    several: bool,
}

const NONE: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub struct Info {
    plan: InfoPlan,
    base: Arc<Roster>,
    info: Arc<Roster>,
    width: usize,
    words: usize,
    target_of: Vec<u32>,
    targets: Vec<Target>,
    /// Of each base series, one for each info metric that knows its target, by name.
    of_base: Vec<SmallVec<[u32; 1]>>,
    /// Two newest samples of one time: by step.
    conflicts: BTreeMap<usize, (u32, String)>,
    base_any: Vec<u64>,
    numbers: LabelNumbers,
    rows: Rows,
    error: Option<(usize, String)>,
    count: u32,
}

impl Info {
    /// The operator; `info` are the series of all selectors of the plan.
    pub fn new(plan: InfoPlan, base: &Arc<Roster>, info: &Arc<Roster>, grid: StepGrid) -> Self {
        let words = bits::words(grid.len);
        let key = |l: &Labels, name: &str| {
            let [instance, job] = IDENTIFYING.map(|n| l.get(n).to_owned());
            (name.to_owned(), instance, job)
        };
        let mut ids: HashMap<(String, String, String), u32> = HashMap::new();
        let mut names: BTreeMap<&str, ()> = BTreeMap::new();
        let mut targets: Vec<Target> = Vec::new();
        let mut target_of = Vec::with_capacity(info.rows.len());
        for (sid, row) in info.rows.iter().enumerate() {
            let name = row.labels.metric_name();
            names.insert(name, ());
            let next = targets.len() as u32;
            let id = *ids.entry(key(&row.labels, name)).or_insert(next);
            if id == next {
                targets.push(Target { present: vec![0; words], ..Target::default() });
            }
            let t = &mut targets[id as usize];
            t.several |= t.only.is_some();
            t.only = Some(sid as u32);
            target_of.push(id);
        }
        for t in targets.iter_mut().filter(|t| t.several) {
            t.newest = vec![(NONE, i64::MIN); grid.len];
        }
        let found = |r: &crate::exec::tile::RosterRow| -> SmallVec<[u32; 1]> {
            names.keys().filter_map(|n| ids.get(&key(&r.labels, n)).copied()).collect()
        };
        let of_base = base.rows.iter().map(found).collect();
        Self {
            plan,
            base: base.clone(),
            info: info.clone(),
            width: grid.len,
            words,
            target_of,
            targets,
            of_base,
            conflicts: BTreeMap::new(),
            base_any: vec![0; words],
            numbers: LabelNumbers::default(),
            rows: Rows::new(0, grid.len),
            error: None,
            count: 0,
        }
    }

    /// Takes a tile of info series, with the times of its samples.
    pub fn build(&mut self, tile: &Tile, ctx: &QueryContext) -> Result<(), QueryError> {
        if !tile.hist.is_empty() {
            return Err(QueryError::execution("info sample should be float"));
        }
        for (row, sid) in tile.sids.iter().enumerate() {
            self.tick(ctx)?;
            let Some(id) = self.target_of.get(*sid as usize) else { continue };
            let target = &mut self.targets[*id as usize];
            for w in 0..self.words {
                let on = bits::row_word(&tile.present, row * self.width, self.width, w);
                target.present[w] |= on;
                if !target.several {
                    continue;
                }
                for i in bits::ones(on) {
                    let step = (w << 6) + i;
                    let time = tile.orig_ts.get(row * self.width + step).copied().unwrap_or(0);
                    let newest = &mut target.newest[step];
                    if newest.0 == NONE || newest.1 < time {
                        *newest = (*sid, time);
                    } else if newest.1 == time {
                        let labels = |s: u32| self.info.rows[s as usize].labels.to_string();
                        let at = self.conflicts.entry(step).or_insert((NONE, String::new()));
                        if *sid < at.0 {
                            let (old, new) = (labels(newest.0), labels(*sid));
                            let text = format!(
                                "found duplicate series for info metric: existing {old} @ {time}, new {new} @ {time}"
                            );
                            *at = (*sid, text);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes a tile of the first argument, after all info tiles.
    pub fn push(&mut self, tile: &Tile, ctx: &QueryContext) -> Result<(), QueryError> {
        let required = self.plan.requires_info();
        for (row, sid) in tile.sids.iter().enumerate() {
            self.tick(ctx)?;
            let Some(base) = self.base.rows.get(*sid as usize) else { continue };
            let (base_labels, drop_name) = (base.labels.clone(), base.drop_name);
            let at = row * self.width;
            let ignored = self.plan.ignore.get(*sid as usize).copied().unwrap_or(false);
            let hist = if tile.hist.is_empty() { &[][..] } else { tile.row_histograms(row) };
            let mut winners: SmallVec<[u32; 2]> = SmallVec::new();
            let mut last: Option<(SmallVec<[u32; 2]>, Option<u32>)> = None;
            let mut next = 0;
            for w in 0..self.words {
                let on = bits::row_word(&tile.present, at, self.width, w);
                self.base_any[w] |= on;
                for i in bits::ones(on) {
                    let step = (w << 6) + i;
                    winners.clear();
                    if !ignored {
                        for t in &self.of_base[*sid as usize] {
                            let t = &self.targets[*t as usize];
                            if t.present[w] >> i & 1 != 0 {
                                let only = t.only.unwrap_or(NONE);
                                winners.push(if t.several { t.newest[step].0 } else { only });
                            }
                        }
                    }
                    let out = match &last {
                        Some((same, out)) if *same == winners => *out,
                        _ => {
                            let labels = if ignored {
                                Ok(Some(base_labels.clone()))
                            } else if winners.is_empty() && required {
                                Ok(None)
                            } else {
                                self.joined(&base_labels, &winners)
                            };
                            let out = match labels {
                                Ok(l) => l.map(|l| self.numbers.id(&l, drop_name)),
                                Err(text) => {
                                    if self.error.as_ref().is_none_or(|(s, _)| step < *s) {
                                        self.error = Some((step, text));
                                    }
                                    None
                                }
                            };
                            last = Some((winners.clone(), out));
                            out
                        }
                    };
                    while next < hist.len() && (hist[next].0 as usize) < at + step {
                        next += 1;
                    }
                    let Some(out) = out else { continue };
                    match hist.get(next).filter(|(c, _)| *c as usize == at + step) {
                        Some((_, h)) => self.rows.put_histogram(out, step, h.clone()),
                        None => self.rows.set(out, step, tile.values[at + step]),
                    }
                }
            }
        }
        Ok(())
    }

    /// A series with the data labels of its info series.
    fn joined(&self, base: &Labels, winners: &[u32]) -> Result<Option<Labels>, String> {
        let mut added: BTreeMap<&str, &str> = BTreeMap::new();
        for sid in winners {
            let Some(row) = self.info.rows.get(*sid as usize) else { continue };
            for (n, v) in row.labels.iter() {
                if is_metadata_label(n) || (!self.plan.data.is_empty() && !self.plan.data.contains_key(n)) {
                    continue;
                }
                if added.get(n).is_some_and(|have| *have != v) {
                    return Err(format!("conflicting label: {n}"));
                }
                if base.get(n).is_empty() {
                    added.insert(n, v);
                }
            }
        }
        if added.is_empty() {
            return Ok(Some(base.clone()));
        }
        let mut b = base.to_builder();
        for (n, v) in added {
            b.set(n, v);
        }
        Ok(Some(b.build().unwrap_or_else(|_| base.clone())))
    }

    /// The answer.
    pub fn finish(self) -> Result<Output, QueryError> {
        let mut first: Option<(usize, u8, QueryError)> = None;
        let mut fail = |step: usize, rank: u8, e: QueryError| {
            if first.as_ref().is_none_or(|(s, r, _)| (step, rank) < (*s, *r)) {
                first = Some((step, rank, e));
            }
        };
        let seen = |s: &usize| self.base_any[*s >> 6] >> (*s & 63) & 1 != 0;
        if let Some((step, (_, text))) = self.conflicts.iter().find(|(s, _)| seen(s)) {
            fail(*step, 0, QueryError::Execution(text.clone()));
        }
        if let Some((step, text)) = self.error {
            fail(step, 1, QueryError::Execution(text));
        }
        if let Some((step, _)) = self.rows.overlap() {
            fail(step, 2, same_labelset());
        }
        if let Some((_, _, e)) = first {
            return Err(e);
        }
        let (roster, new) = self.numbers.finish();
        Ok(Output { roster, tiles: self.rows.finish_renumbered(&new) })
    }

    fn tick(&mut self, ctx: &QueryContext) -> Result<(), QueryError> {
        self.count = self.count.wrapping_add(1);
        if self.count & 255 == 0 { ctx.check() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::operators::testing::{cells, context, floats, grid, roster};

    fn run(
        base: &[&str],
        info: &[&str],
        rows: [&[Vec<Option<f64>>]; 2],
        times: &[i64],
        matchers: Option<&[Matcher]>,
    ) -> Result<Vec<String>, String> {
        let (b, i) = (Arc::new(roster(base)), Arc::new(roster(info)));
        let ctx = context();
        let plan = InfoPlan::new(matchers, &b, 1 << 20).unwrap();
        let mut op = Info::new(plan, &b, &i, grid(2));
        let mut t = floats(0, rows[1]);
        t.width = 2;
        t.orig_ts = times.to_vec();
        op.build(&t, &ctx).unwrap();
        op.push(&floats(0, rows[0]), &ctx).unwrap();
        let out = op.finish().map_err(|e| e.to_string())?;
        let got = cells(&out.roster, &out.tiles);
        Ok(got.into_iter().map(|((l, s), (_, v))| format!("{l} {s} {}", f64::from_bits(v))).collect())
    }

    #[test]
    fn selectors_follow_the_patterns_of_identifying_labels() {
        let b =
            roster(&["__name__=m,instance=a.b,job=1", "__name__=m,instance=c,job=2", "__name__=m,job=3", "__name__=m"]);
        let p = InfoPlan::new(None, &b, 1 << 20).unwrap();
        let text = |s: &Vec<Matcher>| s.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        assert_eq!(
            p.selectors.iter().map(text).collect::<Vec<_>>(),
            [
                r#"instance="",job=~"3",__name__="target_info""#,
                r#"instance=~"a\\.b|c",job=~"1|2",__name__="target_info""#
            ]
        );
        let not = Matcher::new(MatchOp::NotEqual, METRIC_NAME, "x_info", 1 << 20).unwrap();
        let p = InfoPlan::new(Some(&[not]), &roster(&["__name__=m,job=1"]), 1 << 20).unwrap();
        assert!(text(&p.selectors[0]).ends_with(r#"__name__=~".+_info",__name__!="x_info""#));
    }

    #[test]
    fn data_labels_are_added_where_there_is_info() {
        let base = ["__name__=m,instance=a,job=1,l=x", "__name__=target_info,instance=a,job=1"];
        let info = ["__name__=target_info,instance=a,job=1,data=d,l=y"];
        let b = vec![vec![Some(1.0), Some(2.0)], vec![Some(3.0), None]];
        let i = vec![vec![Some(1.0), None]];
        let got = run(&base, &info, [&b, &i], &[0, 0], None).unwrap();
        assert_eq!(
            got,
            [
                r#"{__name__="m", data="d", instance="a", job="1", l="x"} 0 1"#,
                r#"{__name__="m", instance="a", job="1", l="x"} 1 2"#,
                r#"{__name__="target_info", instance="a", job="1"} 0 3"#,
            ]
        );
        let need = [Matcher::new(MatchOp::Regex, "data", ".+", 1 << 20).unwrap()];
        let got = run(&base[..1], &info, [&b[..1], &i], &[0, 0], Some(&need)).unwrap();
        assert_eq!(got, [r#"{__name__="m", data="d", instance="a", job="1", l="x"} 0 1"#]);
    }

    #[test]
    fn the_newest_of_two_wins_and_a_tie_is_an_error() {
        let base = ["__name__=m,instance=a,job=1"];
        let info = ["__name__=target_info,instance=a,job=1,v=1", "__name__=target_info,instance=a,job=1,v=2"];
        let b = vec![vec![Some(1.0), Some(1.0)]];
        let i = vec![vec![Some(1.0), Some(1.0)], vec![Some(1.0), Some(1.0)]];
        let got = run(&base, &info, [&b, &i], &[5, 9, 7, 8], None).unwrap();
        assert_eq!(
            got,
            [
                r#"{__name__="m", instance="a", job="1", v="1"} 1 1"#,
                r#"{__name__="m", instance="a", job="1", v="2"} 0 1"#
            ]
        );
        let e = run(&base, &info, [&b, &i], &[5, 9, 7, 9], None).unwrap_err();
        assert_eq!(
            e,
            "found duplicate series for info metric: existing {__name__=\"target_info\", instance=\"a\", job=\"1\", \
             v=\"1\"} @ 9, new {__name__=\"target_info\", instance=\"a\", job=\"1\", v=\"2\"} @ 9"
        );
        let no_base = vec![vec![Some(1.0), None]];
        assert!(run(&base, &info, [&no_base, &i], &[5, 9, 7, 9], None).is_ok());
    }
}
