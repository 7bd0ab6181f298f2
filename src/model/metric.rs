//! What is known of a metric beside its samples: type, unit, help; and exemplars.

use crate::labels::Labels;

/// The eight metric types of remote write and OpenMetrics. Numbers are those of remote write 2.0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MetricKind {
    /// Not said.
    #[default]
    Unknown = 0,
    /// Only rises, but for resets.
    Counter = 1,
    /// Goes up and down.
    Gauge = 2,
    /// Classic or native histogram.
    Histogram = 3,
    /// Histogram of current state.
    GaugeHistogram = 4,
    /// Quantiles computed by the client.
    Summary = 5,
    /// Constant 1 with labels.
    Info = 6,
    /// One of several states.
    StateSet = 7,
}

impl MetricKind {
    /// The word Prometheus's metadata API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            MetricKind::Unknown => "unknown",
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
            MetricKind::GaugeHistogram => "gaugehistogram",
            MetricKind::Summary => "summary",
            MetricKind::Info => "info",
            MetricKind::StateSet => "stateset",
        }
    }

    /// From its number in remote write; unknown numbers are `Unknown`.
    pub fn from_number(n: u32) -> Self {
        match n {
            1 => MetricKind::Counter,
            2 => MetricKind::Gauge,
            3 => MetricKind::Histogram,
            4 => MetricKind::GaugeHistogram,
            5 => MetricKind::Summary,
            6 => MetricKind::Info,
            7 => MetricKind::StateSet,
            _ => MetricKind::Unknown,
        }
    }
}

/// Type, unit and help of a metric family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Metadata {
    /// Type.
    pub kind: MetricKind,
    /// Base unit, or empty.
    pub unit: String,
    /// Help text, or empty.
    pub help: String,
}

impl Metadata {
    /// Approximate size in memory, bytes.
    pub fn heap_bytes(&self) -> usize {
        128 + self.unit.len() + self.help.len()
    }
}

/// An example observation attached to a series, usually with a trace id.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// Its own labels (`trace_id`, …).
    pub labels: Labels,
    /// Observed value.
    pub value: f64,
    /// Time, ms.
    pub ts: i64,
}

impl Exemplar {
    /// The order of exemplars of a series: by time, then by value and labels. Equal are only those that are the same to the bit.
    pub fn order(&self, other: &Exemplar) -> std::cmp::Ordering {
        let key = |e: &Exemplar| (e.ts, e.value.to_bits());
        key(self).cmp(&key(other)).then_with(|| self.labels.cmp(&other.labels))
    }

    /// Approximate size in memory, bytes.
    pub fn heap_bytes(&self) -> usize {
        64 + self.labels.packed().len()
    }
}
