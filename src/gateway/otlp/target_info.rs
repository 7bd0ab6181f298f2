//! `target_info`: what is known of a resource, as a series of its own that others are joined to.
//!
//! It has a sample at the earliest time of the resource's points, one every half lookback, and one at the latest, so that a join
//! finds it wherever it finds the points. Points spread over long (backfill) would need too many samples: past a limit, only
//! the points themselves get one.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use quiver_model::{Limits, Metadata, MetricKind, TimeRange, WriteBatch};

use super::Partial;
use super::labels::{LabelBuffer, Wrong};
use super::streams::Streams;
use super::text::push_value;
use crate::rejections::Reason;

const NAME: &str = "target_info";

/// Samples at even distances for one resource of an export at most.
const RESOURCE_SAMPLES_MAX: u64 = 1_000;
/// And for all resources of an export.
const EXPORT_SAMPLES_MAX: u64 = 100_000;

/// Attributes that become `job` and `instance`.
const IDENTITY: [&str; 3] = ["service.namespace", "service.name", "service.instance.id"];

/// Labels that a resource gives to all of its series.
pub(super) struct Identity {
    job: Option<String>,
    instance: Option<String>,
}

impl Identity {
    /// Of these attributes.
    pub(super) fn new(attributes: &[KeyValue], limits: &Limits) -> Result<Self, Wrong> {
        let text = |key: &str| {
            let Some(kv) = attributes.iter().find(|kv| kv.key == key) else { return Ok(None) };
            let (mut out, max) = (String::new(), limits.label_value_bytes_max);
            match push_value(kv.value.as_ref(), max, &mut out) {
                Ok(()) => Ok(Some(out)),
                Err(_) => Err((Reason::LabelLimit, format!("{key} of the resource has more than {max} bytes"))),
            }
        };
        let [namespace, name, instance] = IDENTITY.map(text);
        let job = match (namespace?, name?) {
            (Some(namespace), Some(name)) => Some(format!("{namespace}/{name}")),
            (None, name) => name,
            (Some(_), None) => None,
        };
        if let Some(job) = job.as_ref().filter(|j| j.len() > limits.label_value_bytes_max) {
            let max = limits.label_value_bytes_max;
            return Err((
                Reason::LabelLimit,
                format!("job of the resource has {} bytes, the limit is {max}", job.len()),
            ));
        }
        Ok(Self { job, instance: instance? })
    }

    /// As labels.
    pub(super) fn labels(&self) -> Vec<(&'static str, &str)> {
        let both = [("instance", &self.instance), ("job", &self.job)];
        both.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
    }
}

/// A resource whose points are in the batch.
pub(super) struct Resource<'a> {
    pub(super) attributes: &'a [KeyValue],
    pub(super) identity: Identity,
    /// Times of its points.
    pub(super) times: TimeRange,
    /// Its series in the batch.
    pub(super) series: (usize, usize),
}

/// Adds the samples of resources.
pub(super) struct TargetInfo<'o> {
    pub(super) limits: &'o Limits,
    pub(super) interval_ms: i64,
    pub(super) samples: u64,
    pub(super) is_described: bool,
    /// Resources that have samples at their points only.
    pub(super) thinned: u64,
}

impl TargetInfo<'_> {
    /// Adds those of a resource.
    pub(super) fn add<'a>(
        &mut self,
        r: &Resource<'a>,
        labels: &mut LabelBuffer,
        streams: &mut Streams<'a>,
        batch: &mut WriteBatch,
        partial: &mut Partial,
    ) {
        let others: Vec<&KeyValue> = r.attributes.iter().filter(|kv| !IDENTITY.contains(&kv.key.as_str())).collect();
        if others.is_empty() {
            return;
        }
        labels.begin_resource(&r.identity.labels());
        let mut left_out =
            |wrong: &Wrong| partial.other(Reason::TargetInfo, "", || format!("{} (left out of target_info)", wrong.1));
        let loaded = labels.load(|i| others.get(i).copied(), 1, self.limits, Some(&mut left_out));
        let max = super::convert::label_bytes_max(self.limits);
        let loaded = loaded.and_then(|()| match batch.label_bytes.len().saturating_add(labels.bytes(NAME, 1)) {
            bytes if bytes > max => Err((Reason::Memory, super::convert::too_many_bytes(max))),
            _ => Ok(()),
        });
        if let Err((_, why)) = loaded {
            return partial.other(Reason::TargetInfo, "", || format!("target_info is left out: {why}"));
        }
        if labels.get("job").is_empty() && labels.get("instance").is_empty() {
            return;
        }
        let at = batch.label_bytes.len() as u32;
        labels.pack(NAME, None, &mut batch.label_bytes);
        batch.begin_packed(at);
        let series = batch.series.len() - 1;
        let times = self.times(r, batch);
        let times = streams.claim_info(batch, series as u32, times.into_iter());
        if times.is_empty() {
            return batch.abandon_series();
        }
        times.into_iter().for_each(|ts| batch.push_float(ts, 1.0, 0));
        if !std::mem::replace(&mut self.is_described, true) {
            let help = "Target metadata".to_owned();
            batch.metadata.push((NAME.into(), Metadata { kind: MetricKind::Gauge, unit: String::new(), help }));
        }
    }

    fn times(&mut self, r: &Resource<'_>, batch: &WriteBatch) -> Vec<i64> {
        let TimeRange { min, max } = r.times;
        let steps = max.abs_diff(min).div_ceil(self.interval_ms.unsigned_abs());
        if steps <= RESOURCE_SAMPLES_MAX && self.samples + steps <= EXPORT_SAMPLES_MAX {
            self.samples += steps;
            return (0..steps as i64).map(|i| min + i * self.interval_ms).chain([max]).collect();
        }
        self.thinned += 1;
        let series = &batch.series[r.series.0..r.series.1];
        let mut all: Vec<i64> =
            series.iter().flat_map(|s| &batch.ts[s.floats.0 as usize..s.floats.1 as usize]).copied().collect();
        all.sort_unstable();
        let mut last = None;
        all.retain(|ts| {
            let is_needed = *ts == max || last.is_none_or(|l: i64| *ts >= l.saturating_add(self.interval_ms));
            if is_needed && last != Some(*ts) {
                last = Some(*ts);
                return true;
            }
            false
        });
        all
    }
}
