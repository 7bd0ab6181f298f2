//! What the windows of one series have to report, as bits; text is made once per series.

use std::fmt::Write;

use quiver_model::number::format_g;

use super::{RangeSpec, SeriesNames};
use crate::annotation::{Annotation, Annotations, MergeDetail};

/// A kind of report without detail of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Floats and histograms in one window.
    Mixed = 1,
    /// A gauge histogram where a counter is wanted.
    NotCounter = 2,
    /// A counter histogram where a gauge is wanted.
    NotGauge = 4,
    /// Exponential and custom buckets.
    ExponentialCustom = 8,
    /// Custom bounds reconciled while adding.
    ReconciledAdd = 16,
    /// … while subtracting.
    ReconciledSub = 32,
    /// … while aggregating.
    ReconciledAgg = 64,
    /// Contradicting reset hints while aggregating.
    CollisionAgg = 128,
    /// Histograms ignored beside floats.
    Ignored = 256,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    bits: u16,
    /// Windows with overlapping start times.
    pub overlaps: u64,
    quantiles: Vec<f64>,
    strategies: Vec<f64>,
}

impl Notes {
    /// Reports.
    #[inline]
    pub fn add(&mut self, n: Note) {
        self.bits |= n as u16;
    }

    /// Reports what another collected.
    pub fn merge(&mut self, other: Notes) {
        self.bits |= other.bits;
        self.overlaps += other.overlaps;
    }

    /// A quantile outside of [0, 1].
    pub fn bad_quantile(&mut self, q: f64) {
        push_new(&mut self.quantiles, q);
    }

    /// A strategy that `integral` does not know.
    pub fn bad_strategy(&mut self, s: f64) {
        push_new(&mut self.strategies, s);
    }

    /// Writes texts.
    pub fn flush(self, spec: &RangeSpec, names: &SeriesNames<'_>, ann: &mut Annotations) {
        let [pos, second] = spec.pos;
        if self.bits != 0 {
            let has = |n: Note| self.bits & n as u16 != 0;
            let name = quote(names.metric);
            if has(Note::Mixed) {
                ann.warn(pos, format!("encountered a mix of histograms and floats for metric name {name}"));
            }
            if has(Note::NotCounter) {
                ann.warn(pos, format!("this native histogram metric is not a counter: {name}"));
            }
            if has(Note::NotGauge) {
                ann.warn(pos, format!("this native histogram metric is not a gauge: {name}"));
            }
            if has(Note::ExponentialCustom) {
                ann.warn(pos, mixed_buckets_text(names.metric));
            }
            for (n, operation) in [
                (Note::ReconciledAdd, "addition"),
                (Note::ReconciledSub, "subtraction"),
                (Note::ReconciledAgg, "aggregation"),
            ] {
                if has(n) {
                    ann.info(pos, format!("mismatched custom buckets were reconciled during {operation}"));
                }
            }
            if has(Note::CollisionAgg) {
                ann.warn(pos, "conflicting counter resets during histogram aggregation");
            }
            if has(Note::Ignored) {
                let text = "ignored histograms in a range containing both floats and histograms for metric name";
                ann.info(pos, format!("{text} {name}"));
            }
        }
        if self.overlaps > 0 {
            let text = "sample has start time that overlaps with previous sample timestamp for metric";
            ann.add(Annotation {
                warning: true,
                text: format!("{text} {}", quote(names.metric)),
                pos,
                merge: Some(MergeDetail::StartTimeOverlap { count: self.overlaps }),
            });
        }
        for q in self.quantiles {
            ann.warn(pos, format!("quantile value should be between 0 and 1, got {}", format_g(q)));
        }
        for s in self.strategies {
            let text = "strategy should be 0, 1, or 2 (default), using 2, got";
            ann.warn(second, format!("{text} {}", format_g(s)));
        }
    }
}

/// Warning about exponential and custom buckets in one vector.
pub(crate) fn mixed_buckets_text(metric: &str) -> String {
    let text = "vector contains a mix of histograms with exponential and custom buckets schemas for metric name";
    format!("{text} {}", quote(metric))
}

fn push_new(list: &mut Vec<f64>, v: f64) {
    if !list.iter().any(|x| x.to_bits() == v.to_bits()) {
        list.push(v);
    }
}

/// In double quotes, escaped as Go's `%q` does.
pub(crate) fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            ' ' => out.push(' '),
            c if c.is_control() || c.is_whitespace() => {
                let n = c as u32;
                let _ = if n < 0x80 { write!(out, "\\x{n:02x}") } else { write!(out, "\\u{n:04x}") };
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        assert_eq!(quote("a_b"), "\"a_b\"");
        assert_eq!(quote("a\"\\\n\u{1}ä\u{a0}"), "\"a\\\"\\\\\\n\\x01ä\\u00a0\"");
    }
}
