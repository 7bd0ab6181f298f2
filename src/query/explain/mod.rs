//! Explanations: one tree from the text of a query to what its operators did.
//!
//! ```text
//! operator ── where in the text it stands, its grid, the series it is known to have
//!   ├─ scans: place by place (head, block) how series were found: matchers in their order, estimates beside actuals
//!   ├─ actual: rows, samples, time, memory; of scans: chunks and bytes decoded by tier, hits of the working set
//!   └─ inputs
//! ```
//!
//! With `plan` series are looked up and nothing is read; with `analyze` the query is evaluated, and the tree says what
//! it took. A part that is evaluated once for several parents stands below the first of them; the others name its number.

pub mod profile;
#[cfg(test)]
mod tests;
mod text;

pub use text::selector;

use std::sync::atomic::Ordering;

use datafusion::physical_plan::ExecutionPlan;
use hashbrown::HashMap;
use quiver_core::report::{MatcherStep, PlaceReport};
use serde::{Deserialize, Serialize};

use crate::exec::operator::{PromExec, RunEnv};
use crate::exec::tile::StepGrid;
use profile::{Profile, ScanProbe};

/// Whether a query is explained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExplainMode {
    /// It is only answered.
    #[default]
    Off,
    /// It is planned and not evaluated.
    Plan,
    /// It is evaluated and measured.
    Analyze,
}

impl ExplainMode {
    /// By its name; empty is off.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "" => Some(ExplainMode::Off),
            "plan" => Some(ExplainMode::Plan),
            "analyze" => Some(ExplainMode::Analyze),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            ExplainMode::Off => "",
            ExplainMode::Plan => "plan",
            ExplainMode::Analyze => "analyze",
        }
    }
}

/// See the module. Times are seconds, as in answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explain {
    /// `plan` or `analyze`.
    pub mode: String,
    /// The query.
    pub query: String,
    /// Hints in force.
    pub hints: Vec<String>,
    /// The tree; none for a string.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub root: Option<ExplainNode>,
    /// Figures of the whole, once it was evaluated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub total: Option<ExplainTotal>,
}

/// Figures of a whole query.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainTotal {
    /// Waiting for a turn.
    pub queue_seconds: f64,
    /// Parsing, planning, finding series.
    pub prepare_seconds: f64,
    /// Evaluation.
    pub eval_seconds: f64,
    /// Most memory reserved at a time.
    pub memory_peak_bytes: u64,
    /// What was read, over all scans.
    pub read: ExplainRead,
}

/// An operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainNode {
    /// Its number in the tree.
    pub id: usize,
    /// What kind it is.
    pub operator: String,
    /// What exactly it does.
    pub details: String,
    /// The part of the query it comes from; of a long one the beginning.
    pub text: String,
    /// First byte of that part.
    pub start: u32,
    /// One past its last byte.
    pub end: u32,
    /// Steps it is evaluated at.
    pub grid: ExplainGrid,
    /// Series it can have, where that is known before samples are read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub series: Option<u64>,
    /// The operator with this number, which stands elsewhere in the tree.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub same_as: Option<usize>,
    /// What it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub actual: Option<ExplainActual>,
    /// Selections it reads.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub scans: Vec<ExplainScan>,
    /// Operators whose rows it takes.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub inputs: Vec<ExplainNode>,
}

/// Steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainGrid {
    /// Time of the first.
    pub start: f64,
    /// Time of the last.
    pub end: f64,
    /// Distance; 0 for a single step.
    pub step: f64,
    /// How many.
    pub steps: u64,
}

/// What an operator did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainActual {
    /// Times it was run.
    pub runs: u64,
    /// Rows that its inputs gave it; a row is a series with its samples at all steps.
    pub rows_in: u64,
    /// Rows it gave.
    pub rows_out: u64,
    /// Tiles they came in.
    pub tiles: u64,
    /// Samples in them.
    pub samples_out: u64,
    /// Time, without that of inputs.
    pub self_seconds: f64,
    /// Time with that of inputs.
    pub total_seconds: f64,
    /// Most memory it had reserved at a time.
    pub memory_peak_bytes: u64,
    /// Threads it read with, where it reads.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub threads: Option<usize>,
}

/// A selection of series.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainScan {
    /// Matchers, as a selector.
    pub selector: String,
    /// First time that is read.
    pub start: f64,
    /// Last time that is read.
    pub end: f64,
    /// Series found.
    pub series: u64,
    /// Samples they have in that time, by estimate.
    pub samples_estimate: u64,
    /// Time it took to find them.
    pub select_seconds: f64,
    /// Blocks that were not looked at, since they lie outside that time.
    pub pruned: u64,
    /// Places looked at.
    pub places: Vec<ExplainPlace>,
    /// What reading took.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub read: Option<ExplainRead>,
}

/// How series were found in one place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainPlace {
    /// `head`, `block`, `parquet`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Series it holds.
    pub series: u64,
    /// Series that its index left.
    pub matched: u64,
    /// Series selected.
    pub selected: u64,
    /// Matchers, in the order they were evaluated.
    pub matchers: Vec<ExplainMatcher>,
}

/// What became of a matcher in a place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainMatcher {
    /// The matcher.
    pub matcher: String,
    /// `value`, `values`, `walk` or `label` (looked up), `test` (tested on labels), `constant` (nothing to do).
    pub way: String,
    /// It takes series away, where others pick them.
    pub drops: bool,
    /// Series that its values have, at most, as estimated beforehand.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub estimate: Option<u64>,
    /// Series that they do have; none where nothing was left to evaluate it on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub actual: Option<u64>,
    /// Series left after it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub left: Option<u64>,
}

/// What reading took, by tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainRead {
    /// Series read.
    pub series: u64,
    /// Samples read.
    pub samples: u64,
    /// Samples that were not encoded yet (open in the head).
    pub open_samples: u64,
    /// Chunks decoded, of both tiers below.
    pub chunks_decoded: u64,
    /// Bytes decoded.
    pub bytes_decoded: u64,
    /// Chunks in memory (sealed in the head).
    pub memory_chunks: u64,
    /// Their bytes.
    pub memory_bytes: u64,
    /// Chunks of mapped blocks.
    pub mapped_chunks: u64,
    /// Their bytes.
    pub mapped_bytes: u64,
    /// Chunks of remote blocks.
    #[serde(default)]
    pub remote_chunks: u64,
    /// Their bytes.
    #[serde(default)]
    pub remote_bytes: u64,
    /// Pages of remote blocks found on the local disk.
    #[serde(default)]
    pub pages_found: u64,
    /// Pages of remote blocks that had to be fetched.
    #[serde(default)]
    pub pages_fetched: u64,
    /// Bytes fetched.
    #[serde(default)]
    pub fetched_bytes: u64,
    /// Chunks found decoded in the working set.
    pub hits: u64,
    /// Chunks looked for there and not found.
    pub misses: u64,
    /// Chunks of whose samples none was decoded: their headers told enough.
    #[serde(default)]
    pub headers: u64,
}

impl ExplainRead {
    fn add(&mut self, o: &ExplainRead) {
        self.series += o.series;
        self.samples += o.samples;
        self.open_samples += o.open_samples;
        self.chunks_decoded += o.chunks_decoded;
        self.bytes_decoded += o.bytes_decoded;
        self.memory_chunks += o.memory_chunks;
        self.memory_bytes += o.memory_bytes;
        self.mapped_chunks += o.mapped_chunks;
        self.mapped_bytes += o.mapped_bytes;
        self.remote_chunks += o.remote_chunks;
        self.remote_bytes += o.remote_bytes;
        self.pages_found += o.pages_found;
        self.pages_fetched += o.pages_fetched;
        self.fetched_bytes += o.fetched_bytes;
        self.hits += o.hits;
        self.misses += o.misses;
        self.headers += o.headers;
    }
}

impl From<quiver_core::ReadCounts> for ExplainRead {
    fn from(c: quiver_core::ReadCounts) -> Self {
        Self {
            series: c.series,
            samples: c.samples,
            open_samples: c.open_samples,
            chunks_decoded: c.chunks(),
            bytes_decoded: c.bytes(),
            memory_chunks: c.memory_chunks,
            memory_bytes: c.memory_bytes,
            mapped_chunks: c.mapped_chunks,
            mapped_bytes: c.mapped_bytes,
            remote_chunks: c.remote_chunks,
            remote_bytes: c.remote_bytes,
            pages_found: c.pages_found,
            pages_fetched: c.pages_fetched,
            fetched_bytes: c.fetched_bytes,
            hits: c.hits,
            misses: c.misses,
            headers: c.headers,
        }
    }
}

/// Characters of a text at most: a query may be long, and a tree has many parts of it.
const TEXT_MAX: usize = 500;

fn short(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

impl From<StepGrid> for ExplainGrid {
    fn from(g: StepGrid) -> Self {
        let step = if g.len > 1 { seconds(g.step) } else { 0.0 };
        Self { start: seconds(g.start), end: seconds(g.end()), step, steps: g.len as u64 }
    }
}

impl From<&MatcherStep> for ExplainMatcher {
    fn from(s: &MatcherStep) -> Self {
        Self {
            matcher: short(&s.matcher),
            way: s.way.as_str().to_owned(),
            drops: s.drops,
            estimate: s.estimate,
            actual: s.actual,
            left: s.left,
        }
    }
}

impl From<&PlaceReport> for ExplainPlace {
    fn from(p: &PlaceReport) -> Self {
        Self {
            kind: p.kind.as_str().to_owned(),
            name: p.name.clone(),
            series: p.series,
            matched: p.matched,
            selected: p.selected,
            matchers: p.steps.iter().map(ExplainMatcher::from).collect(),
        }
    }
}

fn scan(p: &ScanProbe, analyzed: bool) -> ExplainScan {
    ExplainScan {
        selector: short(&p.selector),
        start: seconds(p.range.min),
        end: seconds(p.range.max),
        series: p.series as u64,
        samples_estimate: p.samples_estimate,
        select_seconds: p.select_time.as_secs_f64(),
        pruned: p.report.pruned,
        places: p.report.places.iter().map(ExplainPlace::from).collect(),
        read: analyzed.then(|| p.reads.counts().into()),
    }
}

/// Makes trees of operators.
pub(crate) struct Trees<'a> {
    env: &'a RunEnv,
    analyzed: bool,
    /// Numbers of the operators that are in the tree.
    known: HashMap<usize, usize>,
    next: usize,
    read: ExplainRead,
}

impl<'a> Trees<'a> {
    /// For a query that was evaluated, or only planned.
    pub(crate) fn new(env: &'a RunEnv, analyzed: bool) -> Self {
        Self { env, analyzed, known: HashMap::new(), next: 0, read: ExplainRead::default() }
    }

    /// What all scans of the trees made so far read.
    pub(crate) fn read(&self) -> ExplainRead {
        self.read
    }

    /// The tree of an operator.
    pub(crate) fn of(&mut self, exec: &PromExec) -> ExplainNode {
        let id = self.next;
        self.next += 1;
        let pos = exec.pos();
        let query = &self.env.ctx.query;
        let mut node = ExplainNode {
            id,
            operator: exec.name().to_owned(),
            details: short(&exec.details()),
            text: short(query.get(pos.start as usize..pos.end as usize).unwrap_or_default()),
            start: pos.start,
            end: pos.end,
            grid: exec.grid().into(),
            series: exec.roster().map(|r| r.rows.len() as u64),
            ..ExplainNode::default()
        };
        let address = std::ptr::from_ref(exec) as usize;
        if let Some(known) = self.known.get(&address) {
            node.same_as = Some(*known);
            return node;
        }
        self.known.insert(address, id);
        let meter = exec.meter();
        node.scans = meter.scans().iter().map(|s| scan(s, self.analyzed)).collect();
        for r in node.scans.iter().filter_map(|s| s.read.as_ref()) {
            self.read.add(r);
        }
        node.inputs = exec.inputs().iter().map(|i| self.of(i)).collect();
        if self.analyzed {
            let rows_in = exec.inputs().iter().map(|i| i.meter().rows.load(Ordering::Relaxed)).sum();
            let below = node.inputs.iter().filter_map(|i| i.actual.as_ref()).map(|a| a.total_seconds);
            let self_seconds = meter.self_time().as_secs_f64();
            let get = |v: &std::sync::atomic::AtomicU64| v.load(Ordering::Relaxed);
            node.actual = Some(ExplainActual {
                runs: get(&meter.runs),
                rows_in,
                rows_out: get(&meter.rows),
                tiles: get(&meter.tiles),
                samples_out: get(&meter.samples),
                self_seconds,
                total_seconds: self_seconds + below.sum::<f64>(),
                memory_peak_bytes: meter.memory_peak() as u64,
                threads: exec.operator().as_fold().map(|f| f.threads(self.env).min(f.chunks().max(1))),
            });
        }
        node
    }
}

/// What is said of a whole query, once it was evaluated.
pub(crate) fn total(profile: &Profile, read: ExplainRead, stats: &crate::answer::QueryStats) -> ExplainTotal {
    ExplainTotal {
        queue_seconds: stats.queue_seconds,
        prepare_seconds: stats.prepare_seconds,
        eval_seconds: stats.eval_seconds,
        memory_peak_bytes: profile.memory_peak() as u64,
        read,
    }
}
