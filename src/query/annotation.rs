//! Warnings and infos that go with an answer, each with the position of the expression it is about.
//!
//! Kernels do not format text per sample: they report an [`AnnotationKind`], the sink drops repeats by
//! (kind, position, detail), and text with `(line:column)` is made once, when the answer is written. Texts are Prometheus
//! 3.16's (`util/annotations`).

use std::collections::BTreeMap;

use crate::promql::ast::Position;

/// What is reported. Text that differs between reports of one kind is in `Annotation::detail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnnotationKind {
    /// Warning rather than info.
    pub warning: bool,
    /// Stable identity, for merging.
    pub id: u16,
}

/// One report: `text` is the whole message without its prefix and position.
#[derive(Clone, Debug, PartialEq)]
pub struct Annotation {
    /// Warning rather than info.
    pub warning: bool,
    /// The message after `PromQL warning: ` or `PromQL info: `, before ` (line:column)`.
    pub text: String,
    /// What it is about.
    pub pos: Position,
    /// For messages that merge (forced monotonicity, start time overlap): numbers folded at merge.
    pub merge: Option<MergeDetail>,
}

/// Numbers of messages that are merged rather than repeated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MergeDetail {
    /// `histogram_quantile` forced monotonicity: times and bucket bounds seen, the largest difference, how many.
    ForcedMonotonicity {
        /// Earliest time, ms.
        min_ts: i64,
        /// Latest time, ms.
        max_ts: i64,
        /// Smallest bucket bound.
        min_bucket: f64,
        /// Largest bucket bound.
        max_bucket: f64,
        /// Largest relative difference.
        max_diff: f64,
        /// Reports merged.
        count: u64,
    },
    /// Overlapping start times: how many.
    StartTimeOverlap {
        /// Reports merged.
        count: u64,
    },
}

/// A set of annotations, by (warning, position, text).
#[derive(Clone, Debug, Default)]
pub struct Annotations {
    set: BTreeMap<(bool, Position, String), Annotation>,
}

impl Annotations {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing reported?
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Adds a warning.
    pub fn warn(&mut self, pos: Position, text: impl Into<String>) {
        self.add(Annotation { warning: true, text: text.into(), pos, merge: None });
    }

    /// Adds an info.
    pub fn info(&mut self, pos: Position, text: impl Into<String>) {
        self.add(Annotation { warning: false, text: text.into(), pos, merge: None });
    }

    /// Adds one; a repeat is dropped, or folded where it carries numbers.
    pub fn add(&mut self, a: Annotation) {
        use std::collections::btree_map::Entry;
        match self.set.entry((a.warning, a.pos, a.text.clone())) {
            Entry::Vacant(e) => {
                e.insert(a);
            }
            Entry::Occupied(mut e) => {
                if let (Some(have), Some(new)) = (e.get_mut().merge.as_mut(), a.merge) {
                    have.fold(new);
                }
            }
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: Annotations) {
        for (_, a) in other.set {
            self.add(a);
        }
    }

    /// All, ordered.
    pub fn iter(&self) -> impl Iterator<Item = &Annotation> {
        self.set.values()
    }
}

impl MergeDetail {
    fn fold(&mut self, other: MergeDetail) {
        match (self, other) {
            (
                MergeDetail::ForcedMonotonicity { min_ts, max_ts, min_bucket, max_bucket, max_diff, count },
                MergeDetail::ForcedMonotonicity {
                    min_ts: t0,
                    max_ts: t1,
                    min_bucket: b0,
                    max_bucket: b1,
                    max_diff: d,
                    count: n,
                },
            ) => {
                *min_ts = (*min_ts).min(t0);
                *max_ts = (*max_ts).max(t1);
                *min_bucket = min_bucket.min(b0);
                *max_bucket = max_bucket.max(b1);
                *max_diff = max_diff.max(d);
                *count += n;
            }
            (MergeDetail::StartTimeOverlap { count }, MergeDetail::StartTimeOverlap { count: n }) => *count += n,
            _ => {}
        }
    }
}
