//! Which data points of an export fall on one series at one time, after their names were translated.
//!
//! ```text
//! the same stream (resource, scope, metric, attributes)    one is kept: the latest by nanoseconds, then the later in the export
//! another stream                                           the first one is kept, the later is rejected and named
//! ```
//!
//! A stream has a number only once two points meet: what meets none costs one hash and one look-up a series.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::OnceLock;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics, metric};
use prost::Message;
use quiver_model::{KeptParts, WriteBatch};
use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

/// What a data point is, before translation.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) resource: &'a ResourceMetrics,
    pub(super) scope: &'a ScopeMetrics,
    pub(super) metric: &'a Metric,
    pub(super) attributes: &'a [KeyValue],
    pub(super) time_ns: u64,
}

/// A point whose series are in the batch.
struct Point<'a> {
    /// None: `target_info`.
    source: Option<Source<'a>>,
    /// Its series in the batch.
    series: (u32, u32),
    is_dead: bool,
}

/// What becomes of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is kept.
    Kept,
    /// Of points of one stream within a millisecond one is kept; how many others were given up.
    Superseded(u64),
    /// A point of another stream has one of its series at its time; how the two differ.
    Collides(&'static str),
}

#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// The points of an export so far.
#[derive(Default)]
pub(super) struct Streams<'a> {
    /// By hash of series and time.
    claimed: HashMap<u64, u32, BuildHasherDefault<Identity>>,
    points: Vec<Point<'a>>,
    /// Series of the batch of which not all stays.
    lost: Vec<((u32, u32), KeptParts)>,
    /// Names of scopes and resources that met, by their addresses.
    scopes: HashMap<*const ScopeMetrics, u64>,
    resources: HashMap<*const ResourceMetrics, u64>,
    /// Points that the present one meets, and where.
    met: Vec<(u32, u64)>,
}

fn secrets() -> &'static RapidSecrets {
    static SECRETS: OnceLock<RapidSecrets> = OnceLock::new();
    SECRETS.get_or_init(|| RapidSecrets::seed(RandomState::new().hash_one(0u8)))
}

fn hash(bytes: &[u8]) -> u64 {
    rapidhash_v3_seeded(bytes, secrets())
}

/// The place of a series at a time: one-to-one in the time.
fn place(series: u64, ts: i64) -> u64 {
    series ^ (ts as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn labels(batch: &WriteBatch, series: u32) -> &[u8] {
    let (from, to) = batch.series[series as usize].labels;
    &batch.label_bytes[from as usize..to as usize]
}

impl<'a> Streams<'a> {
    /// The series of `batch` from `first` on are those of a point at `ts`: may they stay?
    pub(super) fn claim(&mut self, batch: &WriteBatch, first: usize, ts: i64, source: Source<'a>) -> Claim {
        let series = (first as u32, batch.series.len() as u32);
        let number = self.points.len() as u32;
        self.met.clear();
        for s in series.0..series.1 {
            let place = place(hash(labels(batch, s)), ts);
            match self.claimed.entry(place) {
                Entry::Vacant(free) => _ = free.insert(number),
                // A bucket of the same bound as one before it: the first one counts.
                Entry::Occupied(taken) if *taken.get() == number => self.lost.push(((s, s + 1), KeptParts::Exemplars)),
                Entry::Occupied(taken) => self.met.push((*taken.get(), place)),
            }
        }
        self.points.push(Point { source: Some(source), series, is_dead: false });
        if self.met.is_empty() { Claim::Kept } else { self.settle(number, source) }
    }

    /// Settles a point that meets others. (That two places have one hash by chance is as good as impossible: it is seeded.)
    #[cold]
    fn settle(&mut self, number: u32, source: Source<'a>) -> Claim {
        let mut met = std::mem::take(&mut self.met);
        met.sort_unstable();
        let (mut others, mut is_latest, mut differs) = (Vec::new(), true, None);
        for same in met.chunk_by(|a, b| a.0 == b.0) {
            let before = same[0].0;
            let other = &self.points[before as usize];
            let Some(theirs) = other.source.filter(|_| !other.is_dead) else { continue };
            match self.difference(&theirs, &source) {
                None => {
                    is_latest &= source.time_ns >= theirs.time_ns;
                    others.push(before);
                }
                what => differs = differs.or(what),
            }
        }
        let claim = match (differs, is_latest) {
            (Some(what), _) => {
                self.end(number, KeptParts::Nothing);
                Claim::Collides(what)
            }
            (None, false) => {
                self.end(number, KeptParts::Exemplars);
                Claim::Superseded(1)
            }
            (None, true) => {
                others.iter().for_each(|o| self.end(*o, KeptParts::Exemplars));
                // Places of points that ended before are free, too.
                met.iter().for_each(|(_, place)| _ = self.claimed.insert(*place, number));
                if others.is_empty() { Claim::Kept } else { Claim::Superseded(others.len() as u64) }
            }
        };
        self.met = met;
        claim
    }

    fn end(&mut self, number: u32, kept: KeptParts) {
        let point = &mut self.points[number as usize];
        point.is_dead = true;
        self.lost.push((point.series, kept));
    }

    /// What tells two streams apart; none where they are one.
    fn difference(&mut self, a: &Source<'a>, b: &Source<'a>) -> Option<&'static str> {
        if self.resource(a.resource) != self.resource(b.resource) {
            return Some("from a different resource");
        }
        if self.scope(a.scope) != self.scope(b.scope) {
            return Some("from a different scope");
        }
        if !is_one_metric(a.metric, b.metric) {
            return Some("from a different metric");
        }
        (!are_equal(a.attributes, b.attributes)).then_some("with different attributes")
    }

    fn resource(&mut self, r: &'a ResourceMetrics) -> u64 {
        *self.resources.entry(r).or_insert_with(|| {
            let attributes = r.resource.as_ref().map_or(&[][..], |r| &r.attributes);
            hash(&canonical(attributes))
        })
    }

    fn scope(&mut self, s: &'a ScopeMetrics) -> u64 {
        *self.scopes.entry(s).or_insert_with(|| {
            let (name, version, attributes) =
                s.scope.as_ref().map_or(("", "", &[][..]), |s| (s.name.as_str(), s.version.as_str(), &s.attributes));
            let mut bytes = canonical(attributes);
            for text in [name, version, s.schema_url.as_str()] {
                bytes.extend((text.len() as u64).to_le_bytes());
                bytes.extend(text.as_bytes());
            }
            hash(&bytes)
        })
    }

    /// May `target_info` have a sample at a time? Where it is there already, by another part of the export, it says the same.
    pub(super) fn claim_info(&mut self, batch: &WriteBatch, series: u32, times: impl Iterator<Item = i64>) -> Vec<i64> {
        let number = self.points.len() as u32;
        self.points.push(Point { source: None, series: (series, series + 1), is_dead: false });
        let h = hash(labels(batch, series));
        let is_free = |ts: &i64| {
            let before = *self.claimed.entry(place(h, *ts)).or_insert(number);
            before == number || self.points[before as usize].is_dead
        };
        times.filter(is_free).collect()
    }

    /// Takes what was superseded or rejected out of the batch.
    pub(super) fn finish(self, batch: &mut WriteBatch) {
        if self.lost.is_empty() {
            return;
        }
        let mut kept = vec![KeptParts::All; batch.series.len()];
        for ((from, to), parts) in self.lost {
            for k in &mut kept[from as usize..to as usize] {
                *k = (*k).min(parts);
            }
        }
        batch.keep_parts(&kept);
    }
}

/// Attributes in one form, whatever their order.
fn canonical(attributes: &[KeyValue]) -> Vec<u8> {
    let mut list: Vec<&KeyValue> = attributes.iter().collect();
    list.sort_by(|a, b| a.key.cmp(&b.key));
    let mut out = Vec::new();
    for kv in list {
        // Encoding into a vector does not fail: it grows.
        let _ = kv.encode_length_delimited(&mut out);
    }
    out
}

fn is_one_metric(a: &Metric, b: &Metric) -> bool {
    let kind = |m: &Metric| match &m.data {
        None => 0,
        Some(metric::Data::Gauge(_)) => 1,
        Some(metric::Data::Sum(s)) => 2 + u8::from(s.is_monotonic),
        Some(metric::Data::Histogram(_)) => 4,
        Some(metric::Data::ExponentialHistogram(_)) => 5,
        Some(metric::Data::Summary(_)) => 6,
    };
    std::ptr::eq(a, b) || (kind(a) == kind(b) && a.name == b.name && a.unit == b.unit)
}

fn are_equal(a: &[KeyValue], b: &[KeyValue]) -> bool {
    a.len() == b.len() && (a == b || canonical(a) == canonical(b))
}
