//! What all parts of one query share: limits, features, cancellation, annotations.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use parking_lot::Mutex;
use quiver_core::turns::end_turn;
use quiver_model::Limits;
use tokio_util::sync::CancellationToken;

use crate::annotation::Annotations;
use crate::error::QueryError;
use crate::hints::Hints;

/// Feature switches, under Prometheus's own names (`--enable-feature`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features {
    /// `promql-experimental-functions`
    pub experimental_functions: bool,
    /// `promql-binop-fill-modifiers`
    pub fill_modifiers: bool,
    /// `promql-unquoted-utf8-names`
    pub unquoted_utf8_names: bool,
    /// `promql-delayed-name-removal`
    pub delayed_name_removal: bool,
    /// `use-start-timestamps` (with `st-storage`)
    pub use_start_timestamps: bool,
    /// `type-and-unit-labels`
    pub type_and_unit_labels: bool,
}

impl Features {
    /// From a comma-separated list; the names that are unknown come back.
    pub fn parse(list: &str) -> (Self, Vec<String>) {
        let mut f = Features::default();
        let mut unknown = Vec::new();
        for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            match name {
                "promql-experimental-functions" => f.experimental_functions = true,
                "promql-binop-fill-modifiers" => f.fill_modifiers = true,
                "promql-unquoted-utf8-names" => f.unquoted_utf8_names = true,
                "promql-delayed-name-removal" => f.delayed_name_removal = true,
                "use-start-timestamps" => f.use_start_timestamps = true,
                "type-and-unit-labels" => f.type_and_unit_labels = true,
                // Always on here: start timestamps and exemplars are stored, native histograms are understood.
                "st-storage"
                | "exemplar-storage"
                | "native-histograms"
                | "promql-per-step-stats"
                | "promql-duration-expr"
                | "promql-extended-range-selectors"
                | "metadata-wal-records"
                | "otlp-deltatocumulative"
                | "created-timestamp-zero-ingestion" => {}
                other => unknown.push(other.to_owned()),
            }
        }
        (f, unknown)
    }
}

/// Shared by all operators of one query.
#[derive(Debug)]
pub struct QueryContext {
    /// The query text, for messages.
    pub query: String,
    /// Limits in force.
    pub limits: Arc<Limits>,
    /// Features in force.
    pub features: Features,
    /// How far back an instant selector looks, ms.
    pub lookback_ms: i64,
    /// Step of subqueries that name none, ms.
    pub default_step_ms: i64,
    /// Cancelled when the client leaves or an operator stops the query.
    pub cancel: CancellationToken,
    /// When it must be done.
    pub deadline: Option<Instant>,
    /// How it is to be run.
    pub hints: Hints,
    /// Where its memory comes from; `None`: from the pool of all queries.
    pub pool: Option<Arc<dyn MemoryPool>>,
    annotations: Mutex<Annotations>,
    samples_read: AtomicU64,
    samples_held: AtomicI64,
    samples_peak: AtomicI64,
    /// Memory of what lives as long as the query: series, labels.
    kept: OnceLock<Mutex<Kept>>,
    /// Samples that the selectors planned so far will read, about.
    samples_planned: AtomicU64,
    /// Samples that the windows over subqueries planned so far will look at.
    windows_planned: AtomicU64,
}

/// Memory that is reserved in pieces, since it is charged in many small ones.
#[derive(Debug)]
struct Kept {
    reserved: MemoryReservation,
    used: usize,
}

/// Memory is reserved by the megabyte.
const PIECE: usize = 1 << 20;

impl QueryContext {
    /// A context without deadline.
    pub fn new(query: &str, limits: impl Into<Arc<Limits>>, features: Features) -> Self {
        Self {
            query: query.to_owned(),
            limits: limits.into(),
            features,
            lookback_ms: 300_000,
            default_step_ms: 60_000,
            cancel: CancellationToken::new(),
            deadline: None,
            hints: Hints::default(),
            pool: None,
            annotations: Mutex::new(Annotations::new()),
            samples_read: AtomicU64::new(0),
            samples_held: AtomicI64::new(0),
            samples_peak: AtomicI64::new(0),
            kept: OnceLock::new(),
            samples_planned: AtomicU64::new(0),
            windows_planned: AtomicU64::new(0),
        }
    }

    /// Says which pool the query's memory comes from; the first one counts.
    pub fn set_memory(&self, pool: &Arc<dyn MemoryPool>) {
        self.kept.get_or_init(|| {
            Mutex::new(Kept { reserved: MemoryConsumer::new("series and labels").register(pool), used: 0 })
        });
    }

    /// Charges memory that is kept until the query ends.
    pub fn keep_bytes(&self, bytes: usize) -> Result<(), QueryError> {
        let Some(kept) = self.kept.get() else { return Ok(()) };
        let mut kept = kept.lock();
        kept.used = kept.used.saturating_add(bytes);
        let missing = kept.used.saturating_sub(kept.reserved.size());
        if missing > 0 {
            kept.reserved.try_grow(missing.max(PIECE)).or_else(|_| kept.reserved.try_grow(missing))?;
        }
        Ok(())
    }

    /// Fails for a label value that is longer than a query may make one; `what` makes it.
    pub fn check_label_bytes(&self, what: &str, label: &str, bytes: usize) -> Result<(), QueryError> {
        let max = self.limits.query_label_bytes_max;
        if bytes > max {
            return Err(QueryError::CostLimit(format!(
                "{what} would make a value of the label {label:?} longer than query_label_bytes_max, {max} bytes"
            )));
        }
        Ok(())
    }

    /// To be called every few hundred microseconds of work: lets others run, and fails when the query was cancelled or is out
    /// of time.
    pub fn check(&self) -> Result<(), QueryError> {
        end_turn();
        if self.cancel.is_cancelled() {
            return Err(QueryError::Canceled("query was canceled in expression evaluation".into()));
        }
        if self.deadline.is_some_and(|d| Instant::now() >= d) {
            return Err(QueryError::Timeout("query timed out in expression evaluation".into()));
        }
        Ok(())
    }

    /// Why a query failed: what storage gave up since nobody wanted it any more failed because the query was stopped.
    pub fn reason(&self, error: QueryError) -> QueryError {
        match error {
            QueryError::Internal(_) => self.check().err().unwrap_or(error),
            other => other,
        }
    }

    /// Reports annotations; one call per series or batch, not per sample.
    pub fn annotate(&self, new: Annotations) {
        if !new.is_empty() {
            self.annotations.lock().merge(new);
        }
    }

    /// Does work and keeps what it reports apart.
    pub fn apart<T>(&self, work: impl FnOnce() -> T) -> (T, Annotations) {
        let take = || std::mem::take(&mut *self.annotations.lock());
        let before = take();
        let done = work();
        let notes = take();
        self.annotate(before);
        (done, notes)
    }

    /// All annotations so far.
    pub fn annotations(&self) -> Annotations {
        self.annotations.lock().clone()
    }

    /// Counts samples decoded from storage; fails past `query_samples_read_max`.
    pub fn count_read(&self, samples: u64) -> Result<(), QueryError> {
        let read = self.samples_read.fetch_add(samples, Ordering::Relaxed) + samples;
        if read > self.limits.query_samples_read_max {
            return Err(QueryError::CostLimit("query would read too many samples in query execution".into()));
        }
        Ok(())
    }

    /// Tells what a selector will read, before it reads. Estimates may be off by what lies at the ends of a range, so only
    /// twice the limit is certain to be past it.
    pub fn plan_read(&self, series: u64, samples: u64) -> Result<(), QueryError> {
        let all = self.samples_planned.fetch_add(samples, Ordering::Relaxed).saturating_add(samples);
        let max = self.limits.query_samples_read_max;
        if all > max.saturating_mul(2) {
            return Err(QueryError::CostLimit(format!(
                "query would read too many samples in query planning: about {all} ({samples} of {series} series in the \
                 last selector), the limit is {max}"
            )));
        }
        Ok(())
    }

    /// Tells what windows over a subquery will look at: so many samples of each series. Constants cost nothing to read and as
    /// much as others to look at, so this is decided when the query is planned.
    pub fn plan_windows(&self, series: u64, samples: u64) -> Result<(), QueryError> {
        let max = self.limits.query_window_samples_max;
        let more = series.saturating_mul(samples);
        let all = self.windows_planned.fetch_add(more, Ordering::Relaxed).saturating_add(more);
        if samples > max / 10 {
            return Err(QueryError::CostLimit(format!(
                "windows over a subquery would look at {samples} samples of one series, a tenth of query_window_samples_max \
                 is {}: use a larger step or a shorter range",
                max / 10
            )));
        }
        if all > max {
            return Err(QueryError::CostLimit(format!(
                "windows over subqueries would look at {all} samples ({samples} of each of {series} series in the last \
                 one), query_window_samples_max is {max}: use a larger step or a shorter range"
            )));
        }
        Ok(())
    }

    /// Samples decoded so far.
    pub fn samples_read(&self) -> u64 {
        self.samples_read.load(Ordering::Relaxed)
    }

    /// Most samples held at a time so far.
    pub fn samples_peak(&self) -> u64 {
        self.samples_peak.load(Ordering::Relaxed).max(0) as u64
    }

    /// Charges samples held (result points, accumulators, window contents); fails past `query_samples_max`.
    pub fn hold(&self, samples: u64) -> Result<(), QueryError> {
        let now = self.samples_held.fetch_add(samples as i64, Ordering::Relaxed) + samples as i64;
        self.samples_peak.fetch_max(now, Ordering::Relaxed);
        if now > self.limits.query_samples_max as i64 {
            return Err(QueryError::SamplesLimit);
        }
        Ok(())
    }

    /// Gives back what [`QueryContext::hold`] charged.
    pub fn release(&self, samples: u64) {
        self.samples_held.fetch_sub(samples as i64, Ordering::Relaxed);
    }
}
