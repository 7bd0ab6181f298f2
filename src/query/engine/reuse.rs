//! Answers of range queries that are asked again a little later: steps that are known are not evaluated again.
//!
//! ```text
//! 10:00:15   [======================]            evaluated and kept
//! 10:00:30     [====================··]          kept steps hold, but where samples came since; two are evaluated
//! late data    [===··===============··]          a write to yesterday's range costs the steps that can see it
//! ```
//!
//! An answer is kept with the number of the latest change when it was asked for (see [`quiver_core::changes`]) and with the
//! reach of its steps ([`crate::plan::reach`]): a step that reaches no range changed since is what it was.
//!
//! Invariants
//! 1. Reuse never changes an answer. What could differ from one grid to another is not kept: queries with `@`, `start()`,
//!    `end()`, `range()`, `step()`, `info()`; histograms, whose reset hints look at neighbours; answers that come with annotations.
//!    One step by itself is evaluated unlike a grid (a vector as it comes, and not in label order): such an answer is not kept,
//!    and no such run is evaluated to be put beside others.
//! 2. The number is read before the snapshot that the answer is found in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::HashSet;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use quiver_core::TimeRange;

use crate::answer::{AnswerSeries, AnswerValue, PromqlRequest};
use crate::context::QueryContext;
use crate::exec::operator::PromExec;
use crate::explain::ExplainMode;
use crate::hints::Hints;
use crate::plan::reach::Reach;

/// An answer takes this part of the room at most.
const PART: usize = 8;
/// What a label set takes beside its bytes.
const LABELS_BYTES: usize = 32;
/// Runs of steps that may be missing; where it would be more all are evaluated.
const RUNS_MAX: usize = 3;

/// What two queries must have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    query: Arc<str>,
    step: i64,
    /// Where steps fall.
    phase: i64,
    lookback: i64,
    start_timestamps: bool,
}

/// An answer that is kept.
pub struct Kept {
    /// Number of the latest change before it was found.
    number: u64,
    /// Time of its first step.
    first: i64,
    /// Time of its last step.
    last: i64,
    reach: Reach,
    series: Vec<AnswerSeries>,
    bytes: usize,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Arc<Kept>> for Bytes {
    fn weight(&self, key: &Key, kept: &Arc<Kept>) -> u64 {
        (kept.bytes + key.query.len()) as u64
    }
}

/// What was reused so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReuseFigures {
    /// Range queries that could be kept.
    pub asked: u64,
    /// Those of which some steps were known.
    pub hits: u64,
    /// Steps that were known.
    pub steps_reused: u64,
    /// Steps that were evaluated.
    pub steps_evaluated: u64,
    /// Answers kept.
    pub answers: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Steps `first..=last` of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Time of the first.
    pub first: i64,
    /// Time of the last.
    pub last: i64,
}

/// The steps of a query: those that are known, and the runs of those that are not.
pub struct Known {
    kept: Arc<Kept>,
    runs: Vec<Run>,
}

/// See the module.
pub struct Reuse {
    answers: Cache<Key, Arc<Kept>, Bytes>,
    bytes_max: usize,
    /// What takes less to evaluate is not worth its room.
    eval_min: Duration,
    asked: AtomicU64,
    hits: AtomicU64,
    reused: AtomicU64,
    evaluated: AtomicU64,
}

impl Reuse {
    /// Room for so many bytes of answers (0: none are kept) that took so long at least.
    pub fn new(bytes_max: usize, eval_min: Duration) -> Self {
        let none = || AtomicU64::new(0);
        // Some thousand small ones, or some large ones.
        let answers = Cache::with_weighter((bytes_max >> 14).clamp(16, 1 << 14), bytes_max as u64, Bytes);
        Self { answers, bytes_max, eval_min, asked: none(), hits: none(), reused: none(), evaluated: none() }
    }

    /// What was reused so far.
    pub fn figures(&self) -> ReuseFigures {
        let get = |v: &AtomicU64| v.load(Ordering::Relaxed);
        ReuseFigures {
            asked: get(&self.asked),
            hits: get(&self.hits),
            steps_reused: get(&self.reused),
            steps_evaluated: get(&self.evaluated),
            answers: self.answers.len() as u64,
            bytes: self.answers.weight(),
        }
    }

    /// The key of a request whose answer may be kept.
    pub fn key(&self, request: &PromqlRequest, ctx: &QueryContext) -> Option<Key> {
        let o = &request.options;
        let plain = !o.nocache && !o.per_step_stats && o.explain == ExplainMode::Off && o.hints == Hints::default();
        let is_grid = request.step > 0 && request.end.saturating_sub(request.start) >= request.step;
        if self.bytes_max == 0 || !plain || !is_grid || names_the_grid(&request.query) {
            return None;
        }
        Some(Key {
            query: request.query.as_str().into(),
            step: request.step,
            phase: request.start.rem_euclid(request.step),
            lookback: ctx.lookback_ms,
            start_timestamps: ctx.features.use_start_timestamps,
        })
    }

    /// Which steps of a request are known, where it is at least half of them; `changed` gives the ranges changed since a
    /// number.
    pub fn known(
        &self,
        key: &Key,
        request: &PromqlRequest,
        changed: impl FnOnce(u64) -> Option<Vec<TimeRange>>,
    ) -> Option<Known> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let steps = (request.end - request.start) / request.step + 1;
        let last = request.start + (steps - 1) * request.step;
        let kept = self.answers.get(key)?;
        let runs = kept.missing(Run { first: request.start, last }, request.step, &changed(kept.number)?);
        let missing: i64 = runs.iter().map(|r| (r.last - r.first) / request.step + 1).sum();
        if missing * 2 > steps || runs.len() > RUNS_MAX {
            self.evaluated.fetch_add(steps as u64, Ordering::Relaxed);
            return None;
        }
        self.hits.fetch_add(1, Ordering::Relaxed);
        self.reused.fetch_add((steps - missing) as u64, Ordering::Relaxed);
        self.evaluated.fetch_add(missing as u64, Ordering::Relaxed);
        Some(Known { kept, runs })
    }

    /// Is an answer that took so long worth keeping?
    pub fn is_worth(&self, took: Duration) -> bool {
        took >= self.eval_min
    }

    /// Keeps an answer.
    pub fn keep(&self, key: Key, request: &PromqlRequest, number: u64, reach: Reach, series: &[AnswerSeries]) {
        let points: usize = series.iter().map(|s| s.floats.len()).sum();
        let labels: usize = series.iter().map(|s| s.labels.packed().len() + LABELS_BYTES).sum();
        let bytes = points * 16 + labels + size_of_val(series) + size_of::<Kept>();
        if bytes > self.bytes_max / PART || series.iter().any(|s| !s.histograms.is_empty()) {
            return;
        }
        let last = request.start + (request.end - request.start) / request.step * request.step;
        let kept = Kept { number, first: request.start, last, reach, series: series.to_vec(), bytes };
        self.answers.insert(key, Arc::new(kept));
    }

    /// The reach of what is known, if the answer is to be kept on: it is worth it, for it was.
    pub fn reach(known: &Known) -> Reach {
        known.kept.reach
    }
}

impl Known {
    /// Runs of steps to be evaluated, in their order.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The whole answer: what is known, and what was evaluated for each run. Both have series in label order.
    pub fn join(&self, request: &PromqlRequest, evaluated: Vec<Vec<AnswerSeries>>) -> Vec<AnswerSeries> {
        let is_known = |t: i64| {
            let asked = t >= request.start && t <= request.end;
            asked && !self.runs.iter().any(|r| t >= r.first && t <= r.last)
        };
        let mut all: Vec<AnswerSeries> = Vec::with_capacity(self.kept.series.len());
        for s in &self.kept.series {
            let floats: Vec<(i64, f64)> = s.floats.iter().filter(|(t, _)| is_known(*t)).copied().collect();
            if !floats.is_empty() {
                all.push(AnswerSeries { labels: s.labels.clone(), floats, histograms: Vec::new() });
            }
        }
        all.extend(evaluated.into_iter().flatten());
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        all.dedup_by(|later, first| {
            let same = later.labels == first.labels;
            if same {
                first.floats.append(&mut later.floats);
                first.histograms.append(&mut later.histograms);
            }
            same
        });
        for s in &mut all {
            s.floats.sort_by_key(|(t, _)| *t);
            s.histograms.sort_by_key(|(t, _)| *t);
        }
        all
    }
}

impl Kept {
    /// The steps of `asked` that are not known: outside of it, or in reach of what has changed.
    fn missing(&self, asked: Run, step: i64, changed: &[TimeRange]) -> Vec<Run> {
        let ceil = |t: i64| {
            let over = t.saturating_sub(asked.first).rem_euclid(step);
            if over == 0 { t } else { t.saturating_add(step - over) }
        };
        let floor = |t: i64| t.saturating_sub(t.saturating_sub(asked.first).rem_euclid(step));
        let mut gone = Vec::with_capacity(changed.len() + 2);
        if self.first > asked.first {
            gone.push(Run { first: asked.first, last: asked.last.min(self.first - step) });
        }
        if self.last < asked.last {
            gone.push(Run { first: asked.first.max(self.last + step), last: asked.last });
        }
        for r in changed {
            let first = r.min.saturating_sub(self.reach.after).clamp(asked.first, asked.last.saturating_add(1));
            let last = r.max.saturating_add(self.reach.before).clamp(asked.first.saturating_sub(1), asked.last);
            let run = Run { first: ceil(first), last: floor(last) };
            if run.first <= run.last {
                gone.push(run);
            }
        }
        let mut runs = united(gone, step);
        for r in runs.iter_mut().filter(|r| r.first == r.last) {
            // With a neighbour, which is known: see the invariants.
            match r.first > asked.first {
                true => r.first -= step,
                false => r.last = r.last.saturating_add(step).min(asked.last),
            }
        }
        united(runs, step)
    }
}

/// Runs in their order, those that touch as one.
fn united(mut runs: Vec<Run>, step: i64) -> Vec<Run> {
    runs.sort_by_key(|r| r.first);
    let mut out: Vec<Run> = Vec::with_capacity(runs.len());
    for r in runs {
        match out.last_mut() {
            Some(o) if r.first <= o.last.saturating_add(step) => o.last = o.last.max(r.last),
            _ => out.push(r),
        }
    }
    out
}

/// May a query ask for the grid it is evaluated on? Any word that could is taken for one that does.
fn names_the_grid(query: &str) -> bool {
    // A colon may be the one before the step of a subquery; keywords may be written in capitals.
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let names = |w: &str| ["start", "end", "range", "step", "info"].iter().any(|n| w.eq_ignore_ascii_case(n));
    query.contains('@') || query.split(|c| !word(c)).any(names)
}

/// Have all series that a plan reads floats only?
pub fn has_floats_only(exec: &PromExec) -> bool {
    fn walk(exec: &PromExec, seen: &mut HashSet<usize>) -> bool {
        if !seen.insert(std::ptr::from_ref(exec) as usize) {
            return true;
        }
        exec.operator().as_fold().is_none_or(|f| f.has_floats_only()) && exec.inputs().iter().all(|i| walk(i, seen))
    }
    walk(exec, &mut HashSet::new())
}

/// The series of a range query's value.
pub fn matrix(value: &AnswerValue) -> Option<&[AnswerSeries]> {
    match value {
        AnswerValue::Matrix(series) => Some(series),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(first: i64, last: i64, reach: Reach) -> Kept {
        Kept { number: 0, first, last, reach, series: Vec::new(), bytes: 0 }
    }

    fn runs(k: &Kept, first: i64, last: i64, changed: &[(i64, i64)]) -> Vec<(i64, i64)> {
        let changed: Vec<TimeRange> = changed.iter().map(|(min, max)| TimeRange { min: *min, max: *max }).collect();
        k.missing(Run { first, last }, 10, &changed).iter().map(|r| (r.first, r.last)).collect()
    }

    #[test]
    fn what_is_missing_is_outside_or_in_reach_of_a_change() {
        let k = kept(100, 200, Reach { before: 25, after: 0 });
        assert_eq!(runs(&k, 100, 200, &[]), []);
        assert_eq!(runs(&k, 120, 220, &[]), [(210, 220)]);
        assert_eq!(runs(&k, 80, 220, &[]), [(80, 90), (210, 220)]);
        assert_eq!(runs(&k, 300, 400, &[]), [(300, 400)]);
        // Steps from the change on, as far as they look back.
        assert_eq!(runs(&k, 100, 200, &[(131, 140)]), [(140, 160)]);
        assert_eq!(runs(&k, 100, 200, &[(130, 130)]), [(130, 150)]);
        assert_eq!(runs(&k, 100, 200, &[(190, 500)]), [(190, 200)]);
        assert_eq!(runs(&k, 100, 200, &[(0, 60), (201, 500)]), []);
        assert_eq!(runs(&k, 100, 200, &[(105, 105), (141, 141)]), [(110, 130), (150, 160)]);
        assert_eq!(runs(&k, 120, 220, &[(195, 205)]), [(200, 220)]);
        assert_eq!(runs(&k, 100, 200, &[(i64::MIN, i64::MAX)]), [(100, 200)]);
        // No step by itself.
        assert_eq!(runs(&k, 110, 210, &[]), [(200, 210)]);
        assert_eq!(runs(&k, 90, 200, &[]), [(90, 100)]);
        let one = kept(100, 200, Reach { before: 0, after: 0 });
        assert_eq!(runs(&one, 100, 200, &[(150, 150)]), [(140, 150)]);
        assert_eq!(runs(&one, 100, 200, &[(130, 130), (150, 150)]), [(120, 150)]);
        // Ahead.
        let k = kept(100, 200, Reach { before: 0, after: 15 });
        assert_eq!(runs(&k, 100, 200, &[(150, 150)]), [(140, 150)]);
    }

    #[test]
    fn queries_that_name_the_grid_are_not_kept() {
        let subquery = "max_over_time(x[1h:range()/60])";
        let step = "increase(x[1m]) / step()";
        let texts =
            ["x @ end()", "x[range()]", "x[RANGE()]", "f(start ())", "x{a=\"user@host\"}", "info(x)", "x[5m + end()]"];
        for q in texts.into_iter().chain([subquery, step]) {
            assert!(names_the_grid(q), "{q}");
        }
        for q in ["rate(append_total[5m])", "x_end + start_time", "sum by (range_id) (restart)"] {
            assert!(!names_the_grid(q), "{q}");
        }
    }
}
