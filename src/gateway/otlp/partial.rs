//! What of an export was left out: for `partial_success`, the counters and the log.

use quiver_model::labels::quoted;

use crate::rejections::{Door, Reason, Rejections, cut};

/// Kinds (reason, metric) that are told apart.
const KINDS_MAX: usize = 32;
/// Bytes of the message to the client, about.
const MESSAGE_BYTES_MAX: usize = 2_000;

#[derive(Debug)]
struct Kind {
    reason: Reason,
    metric: String,
    count: u64,
    text: String,
    is_told: bool,
}

/// Parts of an export that were left out.
#[derive(Debug, Default)]
pub struct Partial {
    /// Data points among them.
    pub points: u64,
    kinds: Vec<Kind>,
}

impl Partial {
    /// Data points of a metric.
    pub(super) fn points(&mut self, reason: Reason, metric: &str, n: usize, why: impl FnOnce() -> String) {
        self.points += n as u64;
        self.add(reason, metric, n as u64, true, why);
    }

    /// Something else than a data point: the client is told, but no data point is rejected for it.
    pub(super) fn other(&mut self, reason: Reason, metric: &str, why: impl FnOnce() -> String) {
        self.add(reason, metric, 1, true, why);
    }

    /// The same, without a word to the client.
    pub(super) fn silently(&mut self, reason: Reason, metric: &str, why: impl FnOnce() -> String) {
        self.add(reason, metric, 1, false, why);
    }

    fn add(&mut self, reason: Reason, metric: &str, n: u64, is_told: bool, why: impl FnOnce() -> String) {
        if n == 0 {
            return;
        }
        let metric = cut(metric, 100);
        if let Some(kind) = self.kinds.iter_mut().find(|k| k.reason == reason && k.metric == metric) {
            kind.count += n;
            kind.is_told |= is_told;
            return;
        }
        let is_full = self.kinds.len() >= KINDS_MAX;
        if let Some(kind) = self.kinds.iter_mut().find(|k| is_full && k.reason == reason && k.metric.is_empty()) {
            kind.count += n;
            kind.is_told |= is_told;
            return;
        }
        let metric = if is_full { String::new() } else { metric.to_owned() };
        self.kinds.push(Kind { reason, metric, count: n, text: cut(&why(), 500).to_owned(), is_told });
    }

    /// What the client is told, if anything.
    pub(super) fn message(&self) -> Option<String> {
        let mut out = String::new();
        for kind in self.kinds.iter().filter(|k| k.is_told) {
            let metric =
                if kind.metric.is_empty() { String::new() } else { format!("metric {}: ", quoted(&kind.metric)) };
            let times = if kind.count > 1 { format!(" ({} times)", kind.count) } else { String::new() };
            if !out.is_empty() {
                out.push_str("; ");
            }
            if out.len() + kind.text.len() > MESSAGE_BYTES_MAX {
                out.push_str("and more");
                break;
            }
            out.push_str(&format!("{metric}{}{times}", kind.text));
        }
        (!out.is_empty()).then_some(out)
    }

    /// Counts and logs all of it.
    pub(super) fn report(&self, door: Door, rejections: &Rejections) {
        for k in &self.kinds {
            rejections.parts(door, k.reason, &k.metric, k.count, &k.text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_text_are_bounded_and_all_is_counted() {
        let mut p = Partial::default();
        for n in 0..1_000 {
            p.points(Reason::Summary, &format!("m{n}"), 2, || "x".repeat(1_000));
        }
        p.points(Reason::Summary, "m0", 1, || unreachable!("it is known"));
        p.points(Reason::Future, "m0", 0, || unreachable!("it is nothing"));
        p.other(Reason::Exemplar, "m", || "an exemplar".into());
        assert_eq!((p.points, p.kinds.len()), (2_001, KINDS_MAX + 2));
        let message = p.message().unwrap();
        assert!(message.len() < 2 * MESSAGE_BYTES_MAX && message.contains("metric \"m0\": xxx"), "{message}");
        assert!(message.contains("(3 times)") && message.ends_with("and more"), "{message}");
        let rejections = Rejections::new();
        p.report(Door::OtlpHttp, &rejections);
        let counts: Vec<_> = rejections.list_parts().map(|(_, reason, n)| (reason, n)).collect();
        assert_eq!(counts, [(Reason::Summary, 2_001), (Reason::Exemplar, 1)]);
        let mut p = Partial::default();
        p.silently(Reason::Exemplar, "m", || "an exemplar".into());
        assert_eq!((p.message(), p.points), (None, 0));
    }
}
