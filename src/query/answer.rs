//! What a query is asked with and what it answers.

use std::sync::Arc;

use quiver_model::{Histogram, Labels};
use tokio_util::sync::CancellationToken;

use crate::annotation::Annotations;
use crate::explain::{Explain, ExplainMode};
use crate::hints::Hints;

/// Options of one PromQL query; `None` means the engine's default.
#[derive(Clone, Debug, Default)]
pub struct QueryOptions {
    /// `lookback_delta`, ms.
    pub lookback_ms: Option<i64>,
    /// `timeout`, ms; never above the limit.
    pub timeout_ms: Option<u64>,
    /// Most series in the answer; 0: all.
    pub limit: usize,
    /// No cache of results.
    pub nocache: bool,
    /// Counts samples for each step (`stats`).
    pub per_step_stats: bool,
    /// `X-Prometheus-Use-Start-Timestamps`, where given.
    pub use_start_timestamps: Option<bool>,
    /// How it is to be run.
    pub hints: Hints,
    /// Whether it is explained.
    pub explain: ExplainMode,
    /// Cancelled when the client leaves.
    pub cancel: CancellationToken,
}

/// PromQL at one instant or over a grid.
#[derive(Clone, Debug)]
pub struct PromqlRequest {
    /// The query.
    pub query: String,
    /// Start, ms.
    pub start: i64,
    /// End, ms; equal to `start` for an instant query.
    pub end: i64,
    /// Step, ms; 0 for an instant query.
    pub step: i64,
    /// Options.
    pub options: QueryOptions,
}

/// A series of an answer with its points, times ascending; a time is in `floats` or in `histograms`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerSeries {
    /// Labels.
    pub labels: Labels,
    /// (time ms, value).
    pub floats: Vec<(i64, f64)>,
    /// (time ms, histogram).
    pub histograms: Vec<(i64, Arc<Histogram>)>,
}

/// The value of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerValue {
    /// (time ms, value)
    Scalar(i64, f64),
    /// (time ms, text)
    String(i64, String),
    /// Series with one point each, in answer order.
    Vector(Vec<AnswerSeries>),
    /// Series with points.
    Matrix(Vec<AnswerSeries>),
}

/// What it took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryStats {
    /// Samples decoded from storage.
    pub samples_read: u64,
    /// Prometheus's `totalQueryableSamples`: samples processed by selectors over all steps.
    pub queryable_samples: u64,
    /// The same per step (time ms, samples), where statistics were asked for.
    pub queryable_samples_per_step: Vec<(i64, u64)>,
    /// Prometheus's `samplesRead`, where statistics were asked for: a sample in the windows of several steps counts once.
    pub input_samples: u64,
    /// The same per step.
    pub input_samples_per_step: Vec<(i64, u64)>,
    /// Prometheus's `seriesTouched`: series of all selectors, one that is in several as often.
    pub series_touched: u64,
    /// Most samples held at a time.
    pub peak_samples: u64,
    /// Seconds: parse and plan.
    pub prepare_seconds: f64,
    /// Seconds: waiting for a turn.
    pub queue_seconds: f64,
    /// Seconds: evaluation.
    pub eval_seconds: f64,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Value.
    pub value: AnswerValue,
    /// Warnings and infos; text with positions is made by [`Annotations::texts`].
    pub annotations: Annotations,
    /// `limit` cut it.
    pub truncated: bool,
    /// What it took.
    pub stats: QueryStats,
    /// How it was done, where that was asked for. A query that was only planned has an empty value.
    pub explain: Option<Box<Explain>>,
}
