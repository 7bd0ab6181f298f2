//! Rejected requests and rejected parts of requests: counted by door and reason, logged once a minute.
//!
//! ```text
//! a door ─▶ Rejections::parts, ::request ─▶ counter of (door, reason)                     /metrics
//!                                        └▶ first one of its kind: one line in the log,
//!                                           the rest: one line a minute, with their count
//! ```
//!
//! Many clients ignore what a server says about rejected data: the log and the counters are where an operator finds it.
//!
//! Invariants
//! 1. The table of pending lines is bounded: past [`KINDS_MAX`] kinds, metrics are no longer told apart.
//! 2. One kind writes at most one line per [`INTERVAL`], however many requests are rejected.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::Counter;

/// Time between two log lines of one kind.
const INTERVAL: Duration = Duration::from_secs(60);
/// Kinds (door, reason, metric) that are told apart in the log.
const KINDS_MAX: usize = 256;
/// Bytes of an example in the log.
const EXAMPLE_BYTES_MAX: usize = 300;

macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $label:literal $words:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = $words] $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The value of the label in `/metrics`.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),* }
            }

            /// In words, for the log.
            pub fn words(self) -> &'static str {
                match self { $(Self::$variant => $words),* }
            }
        }
    };
}

labelled! {
    /// Where a request came in.
    Door {
        RemoteWrite "remote_write" "remote write",
        OtlpHttp "otlp_http" "OTLP over HTTP",
        OtlpGrpc "otlp_grpc" "OTLP over gRPC",
        Query "query" "PromQL queries",
        Series "series" "queries for series, labels and metadata",
        Sql "sql" "SQL statements",
        Export "export" "exports",
        Api "api" "other requests",
    }
}

labelled! {
    /// Why something was rejected.
    Reason {
        // Parts of writes.
        DeltaTemporality "delta_temporality" "delta temporality",
        UnknownTemporality "unspecified_temporality" "unspecified temporality",
        ExponentialHistogram "exponential_histogram" "exponential histograms are not supported",
        Summary "summary" "summaries are not supported",
        NoData "no_data" "no data of a known type",
        NoValue "no_value" "no value",
        Past "time_before_1970" "no time, or a time before 1970",
        Future "future" "too far in the future",
        MetricName "metric_name" "invalid metric name",
        Labels "labels" "invalid labels",
        LabelLimit "label_limit" "too many labels, or too long ones",
        HistogramLimit "histogram_limit" "too many buckets",
        Histogram "histogram" "invalid histogram",
        NoSamples "no_samples" "a series without samples",
        Collision "collision" "another data point has the same series and time",
        Memory "memory" "the request would take too much memory",
        Exemplar "exemplar" "invalid exemplar",
        TargetInfo "target_info" "resource attributes left out of target_info",
        SeriesLimit "series_limit" "a limit on series is reached",
        // Whole writes.
        ContentType "content_type" "unsupported content type",
        Encoding "content_encoding" "unsupported content encoding",
        TooLarge "too_large" "too large",
        Decode "decode" "cannot be decoded",
        Slow "slow" "the body did not arrive in time",
        Broken "broken" "the connection broke",
        BodiesFull "bodies_full" "request bodies in flight exceed write_bodies_bytes_max",
        AnswersFull "answers_full" "answers that clients have not read fill answer_bytes_max",
        QueueFull "queue_full" "the write queue is full",
        DiskFull "disk_full" "the disk is full",
        LogFailed "log_failed" "the write-ahead log failed",
        ShuttingDown "shutting_down" "the server is shutting down",
        // Queries and other requests.
        BadData "bad_data" "invalid request",
        Execution "execution" "the query failed",
        CostLimit "cost_limit" "a limit on the cost of a query is reached",
        Canceled "canceled" "canceled",
        Timeout "timeout" "timed out",
        Internal "internal" "internal error",
        Unavailable "unavailable" "switched off",
        TooMany "too_many_requests" "too many requests at once",
        NotFound "not_found" "not found",
        Forbidden "forbidden" "not allowed",
        Method "method" "wrong method",
        Other "other" "other",
    }
}

impl Reason {
    /// Is it the fault of who typed a query, and nothing that an operator has to look after?
    fn is_of_the_user(self) -> bool {
        matches!(self, Self::BadData | Self::Execution | Self::Canceled | Self::NotFound | Self::Method | Self::Other)
    }
}

/// Why a request was rejected: an extension of its response, counted and logged by [`crate::http::watch`].
#[derive(Clone, Debug)]
pub struct Cause {
    /// Why.
    pub reason: Reason,
    /// What the client was told.
    pub text: String,
}

impl Cause {
    /// With the beginning of what the client was told.
    pub fn new(reason: Reason, text: &str) -> Self {
        Self { reason, text: cut(text, EXAMPLE_BYTES_MAX).to_owned() }
    }
}

/// An extension of the response to a write of which a part was kept: its parts are counted, and it is no rejected request.
#[derive(Clone, Copy, Debug)]
pub struct PartlyKept;

/// Counters by door and reason.
#[derive(Debug)]
struct Table(Vec<Counter>);

impl Table {
    fn new() -> Self {
        Self((0..Door::ALL.len() * Reason::ALL.len()).map(|_| Counter::default()).collect())
    }

    fn add(&self, door: Door, reason: Reason, n: u64) {
        self.0[door as usize * Reason::ALL.len() + reason as usize].add(n);
    }

    /// Those that are not zero.
    fn list(&self) -> impl Iterator<Item = (Door, Reason, u64)> {
        let all = Door::ALL.iter().flat_map(|d| Reason::ALL.iter().map(|r| (*d, *r)));
        all.zip(&self.0).map(|((d, r), c)| (d, r, c.get())).filter(|(.., n)| *n > 0)
    }
}

/// One kind of line in the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    door: Door,
    reason: Reason,
    /// What was rejected: `data points`, `requests`.
    noun: &'static str,
    /// Of which metric, if it is known.
    metric: String,
}

/// What was rejected since the last line of its kind.
#[derive(Debug)]
struct Pending {
    count: u64,
    example: String,
    due: Instant,
}

#[derive(Debug, Default)]
struct Pendings {
    kinds: HashMap<Kind, Pending>,
    is_ticking: bool,
}

/// Counts and logs what is rejected.
#[derive(Debug)]
pub struct Rejections {
    parts: Table,
    requests: Table,
    pendings: Mutex<Pendings>,
    interval: Duration,
    me: Weak<Self>,
}

impl Rejections {
    /// Nothing rejected so far.
    pub fn new() -> Arc<Self> {
        Self::every(INTERVAL)
    }

    fn every(interval: Duration) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            parts: Table::new(),
            requests: Table::new(),
            pendings: Mutex::default(),
            interval,
            me: me.clone(),
        })
    }

    /// Counts `n` samples, series or exemplars that were left out of a write whose rest was kept.
    pub fn parts(&self, door: Door, reason: Reason, metric: &str, n: u64, example: &str) {
        if n == 0 {
            return;
        }
        self.parts.add(door, reason, n);
        let noun = match (reason, door) {
            (Reason::Exemplar, _) => "exemplars",
            (Reason::TargetInfo, _) => "resource attributes",
            (Reason::NoData, _) => "metrics",
            (_, Door::OtlpHttp | Door::OtlpGrpc) => "data points",
            (Reason::SeriesLimit, _) => "samples",
            _ => "series or samples",
        };
        self.tell(Kind { door, reason, noun, metric: cut(metric, 100).to_owned() }, n, example);
    }

    /// Counts a request of which nothing was kept or answered.
    pub fn request(&self, door: Door, reason: Reason, example: &str) {
        self.requests.add(door, reason, 1);
        self.tell(Kind { door, reason, noun: "requests", metric: String::new() }, 1, example);
    }

    /// Rejected parts of writes since the start, by door and reason.
    pub fn list_parts(&self) -> impl Iterator<Item = (Door, Reason, u64)> {
        self.parts.list()
    }

    /// Rejected requests since the start, by door and reason.
    pub fn list_requests(&self) -> impl Iterator<Item = (Door, Reason, u64)> {
        self.requests.list()
    }

    fn tell(&self, mut kind: Kind, n: u64, example: &str) {
        let now = Instant::now();
        // Written when the lock is free again: standard error may block.
        let mut line = None;
        let mut pendings = self.pendings.lock();
        if pendings.kinds.len() >= KINDS_MAX && !pendings.kinds.contains_key(&kind) {
            kind.metric.clear();
        }
        match pendings.kinds.get_mut(&kind) {
            Some(p) if now < p.due => {
                if p.count == 0 {
                    cut(example, EXAMPLE_BYTES_MAX).clone_into(&mut p.example);
                }
                p.count += n;
            }
            Some(p) => {
                line = Some((kind, p.count + n, true));
                (p.count, p.due) = (0, now + self.interval);
            }
            None => {
                line = Some((kind.clone(), n, false));
                let pending = Pending { count: 0, example: String::new(), due: now + self.interval };
                pendings.kinds.insert(kind, pending);
            }
        }
        // Without a runtime (tests), what is pending is told with the next one of its kind.
        if !pendings.is_ticking
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            pendings.is_ticking = true;
            runtime.spawn(tick(self.me.clone()));
        }
        drop(pendings);
        if let Some((kind, count, is_repeated)) = line {
            log(&kind, count, example, is_repeated);
        }
    }

    /// Logs what is due and forgets kinds of which nothing came for an interval; when to come again, if anything is left.
    fn tell_due(&self, now: Instant) -> Option<Instant> {
        let mut lines = Vec::new();
        let mut pendings = self.pendings.lock();
        pendings.kinds.retain(|kind, p| {
            if now < p.due {
                return true;
            }
            if p.count == 0 {
                return false;
            }
            lines.push((kind.clone(), p.count, std::mem::take(&mut p.example)));
            (p.count, p.due) = (0, now + self.interval);
            true
        });
        let next = pendings.kinds.values().map(|p| p.due).min();
        pendings.is_ticking = next.is_some();
        drop(pendings);
        lines.iter().for_each(|(kind, count, example)| log(kind, *count, example, true));
        next
    }
}

impl Drop for Rejections {
    fn drop(&mut self) {
        for (kind, p) in &self.pendings.get_mut().kinds {
            if p.count > 0 {
                log(kind, p.count, &p.example, true);
            }
        }
    }
}

async fn tick(rejections: Weak<Rejections>) {
    let mut next = rejections.upgrade().and_then(|r| r.tell_due(Instant::now()));
    while let Some(due) = next {
        tokio::time::sleep_until(due.into()).await;
        next = rejections.upgrade().and_then(|r| r.tell_due(Instant::now()));
    }
}

fn log(kind: &Kind, count: u64, example: &str, is_repeated: bool) {
    let (door, reason) = (kind.door.label(), kind.reason.label());
    let noun = if count == 1 { singular(kind.noun) } else { kind.noun };
    let of = if kind.metric.is_empty() { String::new() } else { format!(" of {}", kind.metric.escape_debug()) };
    let when = if is_repeated { " in the last minute" } else { "" };
    let text = format!("rejected {count} {noun}{of}{when}: {} ({})", kind.reason.words(), kind.door.words());
    let example = cut(example, EXAMPLE_BYTES_MAX);
    let is_a_query = !matches!(kind.door, Door::RemoteWrite | Door::OtlpHttp | Door::OtlpGrpc);
    if is_a_query && kind.reason.is_of_the_user() {
        tracing::info!(door, reason, count, example, "{text}");
    } else {
        tracing::warn!(door, reason, count, example, "{text}");
    }
}

fn singular(noun: &'static str) -> &'static str {
    match noun {
        "series or samples" => "series or sample",
        other => other.strip_suffix('s').unwrap_or(other),
    }
}

/// The beginning of a text.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(r: &Rejections) -> u64 {
        r.pendings.lock().kinds.values().map(|p| p.count).sum()
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_is_counted() {
        let r = Rejections::new();
        for n in 1..=3 {
            r.parts(Door::OtlpHttp, Reason::DeltaTemporality, "lat", n, "…");
        }
        r.parts(Door::OtlpHttp, Reason::DeltaTemporality, "lat", 0, "nothing");
        r.request(Door::Query, Reason::BadData, "…");
        assert_eq!(r.list_parts().collect::<Vec<_>>(), [(Door::OtlpHttp, Reason::DeltaTemporality, 6)]);
        assert_eq!(r.list_requests().collect::<Vec<_>>(), [(Door::Query, Reason::BadData, 1)]);
        assert_eq!(pending(&r), 5);
        // Told when it is due, forgotten an interval later.
        let later = Instant::now() + INTERVAL;
        assert!(r.tell_due(later).is_some());
        assert_eq!(pending(&r), 0);
        assert!(r.tell_due(later + INTERVAL).is_none());
        assert!(r.pendings.lock().kinds.is_empty());
    }

    #[test]
    fn kinds_are_bounded() {
        let r = Rejections::new();
        for n in 0..2 * KINDS_MAX {
            r.parts(Door::OtlpGrpc, Reason::Summary, &format!("m{n}"), 1, "…");
        }
        assert_eq!(r.pendings.lock().kinds.len(), KINDS_MAX + 1);
        assert_eq!(pending(&r), KINDS_MAX as u64 - 1);
    }

    #[tokio::test]
    async fn what_is_pending_is_told_without_another_one() {
        let r = Rejections::every(Duration::from_millis(5));
        r.request(Door::Sql, Reason::Timeout, "a");
        r.request(Door::Sql, Reason::Timeout, "b");
        let begun = Instant::now();
        while !r.pendings.lock().kinds.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(30));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!r.pendings.lock().is_ticking);
    }
}
