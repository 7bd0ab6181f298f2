//! Remote write 1.0 and 2.0 into a [`WriteBatch`], labels borrowed from the decompressed message.
//!
//! A series that is wrong (no name, duplicate labels, a bad histogram, …) is left out and reported; the others are kept.
//! A message that does not parse is an error and nothing of it is kept.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use quiver_core::turns::end_small_turn;
use quiver_core::{Ingest, MetadataRef};
use quiver_model::histogram::IntegerHistogram;
use quiver_model::{
    Exemplar, Histogram, Labels, Limits, METRIC_NAME, Metadata, MetricKind, ResetHint, Span, WriteBatch,
};

use super::labels::{SeriesLabels, emptied, over_length, parse, show, symbol, too_many};
use super::wire::{Field, Reader, WireError, zigzag};
use crate::rejections::Reason;

/// Which message a body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `prometheus.WriteRequest`
    V1,
    /// `io.prometheus.write.v2.Request`
    V2,
}

/// What to check and how.
#[derive(Clone)]
pub struct DecodeOptions<'a> {
    /// Limits on labels and times.
    pub limits: &'a Limits,
    /// Now, ms: times are checked against it.
    pub now_ms: i64,
    /// Feature `type-and-unit-labels`.
    pub type_and_unit_labels: bool,
    /// Who knows metadata already: that is left out.
    pub known: Option<&'a dyn Ingest>,
}

/// A chunk holds no histogram of more.
const HISTOGRAM_BUCKETS_MAX: usize = 1 << 16;

/// Exemplars further in the future are dropped, ms.
pub(crate) const EXEMPLAR_FUTURE_MS: i64 = 600_000;

/// Places of packed labels are `u32`; the last series may go beyond it by its own labels.
pub(crate) const LABEL_BYTES_MAX: usize = 1 << 31;

/// Buffers of a request, used again by the next; they hold nothing in between.
#[derive(Default)]
pub struct DecodeScratch {
    labels: SeriesLabels<'static>,
    symbols: Vec<Option<&'static str>>,
    refs: Vec<u64>,
    described: HashSet<u64>,
    hasher: RandomState,
}

/// Series and samples that were left out: how many, and why the first of them were.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rejects {
    /// How many were left out.
    pub count: u64,
    /// What was wrong with the first [`Rejects::SHOWN`] of them.
    pub reasons: Vec<String>,
    /// How many for which reason, with what was wrong with the first.
    pub by_reason: Vec<(Reason, u64, String)>,
}

impl Rejects {
    /// Reasons kept.
    pub const SHOWN: usize = 10;

    /// Adds one; its text is only made when it will be shown.
    pub fn add(&mut self, reason: Reason, text: impl FnOnce() -> String) {
        self.count += 1;
        let known = self.by_reason.iter_mut().find(|(r, ..)| *r == reason);
        let is_known = known.is_some();
        if let Some((_, n, _)) = known {
            *n += 1;
        }
        if is_known && self.reasons.len() >= Self::SHOWN {
            return;
        }
        let text = cut(text(), 500);
        if !is_known {
            self.by_reason.push((reason, 1, text.clone()));
        }
        if self.reasons.len() < Self::SHOWN {
            self.reasons.push(text);
        }
    }

    /// Nothing left out?
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All reasons in one text.
    pub fn text(&self) -> String {
        let mut out = self.reasons.join("\n");
        if self.count > self.reasons.len() as u64 {
            out.push_str(&format!("\nand {} more", self.count - self.reasons.len() as u64));
        }
        out
    }
}

fn cut(mut s: String, max: usize) -> String {
    if s.len() > max {
        let mut at = max;
        while !s.is_char_boundary(at) {
            at -= 1;
        }
        s.truncate(at);
        s.push('…');
    }
    s
}

/// Decodes a message into `batch` (cleared first).
pub fn decode(
    version: Version,
    body: &[u8],
    options: &DecodeOptions<'_>,
    scratch: &mut DecodeScratch,
    batch: &mut WriteBatch,
) -> Result<Rejects, WireError> {
    batch.clear();
    scratch.described.clear();
    let labels = std::mem::take(&mut scratch.labels).emptied();
    let symbols = emptied(std::mem::take(&mut scratch.symbols));
    let mut d =
        Decoder { options, batch, rejects: Rejects::default(), labels, family: None, symbols, scratch, others: 0 };
    let done = match version {
        Version::V1 => d.request_v1(body),
        Version::V2 => d.request_v2(body),
    };
    let Decoder { rejects, labels, symbols, scratch, .. } = d;
    (scratch.labels, scratch.symbols) = (labels.emptied(), emptied(symbols));
    scratch.refs = emptied(std::mem::take(&mut scratch.refs));
    done.map(|()| rejects)
}

struct Decoder<'o, 'b, 'a> {
    options: &'o DecodeOptions<'o>,
    batch: &'b mut WriteBatch,
    rejects: Rejects,
    /// Of the series at hand.
    labels: SeriesLabels<'a>,
    /// The last one that was described (2.0).
    family: Option<&'a str>,
    symbols: Vec<Option<&'a str>>,
    scratch: &'b mut DecodeScratch,
    /// Bytes that all but the labels of series take.
    others: usize,
}

/// The parts of a v1 histogram and a v2 histogram are the same fields.
#[derive(Default)]
struct HistogramFields {
    count_int: Option<u64>,
    count_float: f64,
    zero_int: Option<u64>,
    zero_float: f64,
    h: Histogram,
    negative_deltas: Vec<i64>,
    positive_deltas: Vec<i64>,
    hint: u64,
    ts: i64,
    start_ts: i64,
}

impl<'a> Decoder<'_, '_, 'a> {
    fn request_v1(&mut self, body: &'a [u8]) -> Result<(), WireError> {
        let mut r = Reader::new(body);
        while let Some((n, f)) = r.next_field()? {
            match n {
                1 => {
                    self.series_v1(f.bytes(1)?)?;
                    end_small_turn();
                }
                3 => self.metadata_v1(f.bytes(3)?)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn metadata_v1(&mut self, bytes: &'a [u8]) -> Result<(), WireError> {
        let (mut name, mut m) = ("", Metadata::default());
        let mut r = Reader::new(bytes);
        while let Some((n, f)) = r.next_field()? {
            match n {
                1 => m.kind = MetricKind::from_number(f.varint(1)? as u32),
                2 => name = f.str(2)?,
                4 => m.help = f.str(4)?.to_owned(),
                5 => m.unit = f.str(5)?.to_owned(),
                _ => {}
            }
        }
        if !name.is_empty() && !self.is_known(name, (&m).into()) {
            self.charge(name.len() + m.heap_bytes())?;
            self.batch.metadata.push((name.to_owned(), m));
        }
        Ok(())
    }

    /// Counts bytes that the request takes in memory: a few of a message can become many.
    fn charge(&mut self, bytes: usize) -> Result<(), WireError> {
        self.others = self.others.saturating_add(bytes);
        let max = self.options.limits.write_memory_bytes_max.min(LABEL_BYTES_MAX);
        let all = self.others.saturating_add(self.batch.label_bytes.len());
        if all > max { Err(WireError::Memory(max)) } else { Ok(()) }
    }

    fn is_known(&self, family: &str, metadata: MetadataRef<'_>) -> bool {
        self.options.known.is_some_and(|k| k.has_metadata(family, metadata))
    }

    fn series_v1(&mut self, bytes: &'a [u8]) -> Result<(), WireError> {
        // Labels first, wherever they stand: samples need a series to go to.
        self.labels.begin();
        let (mut is_utf8, mut others, mut more) = (true, None, 0);
        let limits = self.options.limits;
        let mut r = Reader::new(bytes);
        loop {
            let at = r;
            match r.next_field()? {
                Some((1, _)) if self.labels.len() > limits.labels_max => more += 1,
                Some((1, f)) => is_utf8 &= self.labels.put_message(f.bytes(1)?)?,
                Some(_) => _ = others.get_or_insert(at),
                None => break,
            }
        }
        self.labels.end();
        let pairs = self.labels.pairs();
        if !is_utf8 {
            self.rejects.add(Reason::Labels, || {
                format!("invalid metric name or labels: not valid UTF-8, the others are {}", show(pairs))
            });
            return Ok(());
        }
        if more > 0 {
            self.rejects.add(Reason::LabelLimit, || {
                format!("{}, labels {}", too_many(pairs.len() + more, limits), show(pairs))
            });
            return Ok(());
        }
        if !self.begin_series()? {
            return Ok(());
        }
        let mut r = others.unwrap_or(r);
        while let Some((n, f)) = r.next_field()? {
            match n {
                2 => self.sample(f.bytes(2)?)?,
                3 => {
                    let (labels, value, ts) = exemplar_v1(f.bytes(3)?, limits)?;
                    self.exemplar(labels, value, ts)?;
                }
                4 => self.histogram(f.bytes(4)?)?,
                _ => {}
            }
        }
        self.end_series();
        Ok(())
    }

    fn request_v2(&mut self, body: &'a [u8]) -> Result<(), WireError> {
        let mut r = Reader::new(body);
        while let Some((n, f)) = r.next_field()? {
            match n {
                4 => self.symbols.push(std::str::from_utf8(f.bytes(4)?).ok()),
                // A field of remote write 1.0 (its number is reserved in 2.0): the content type is wrong.
                1 => return Err(WireError::Field(1)),
                _ => {}
            }
        }
        let mut r = Reader::new(body);
        while let Some((n, f)) = r.next_field()? {
            if n == 5 {
                self.series_v2(f.bytes(5)?)?;
                end_small_turn();
            }
        }
        Ok(())
    }

    fn series_v2(&mut self, bytes: &'a [u8]) -> Result<(), WireError> {
        let refs = &mut self.scratch.refs;
        refs.clear();
        let (mut kind, mut help_ref, mut unit_ref) = (0u64, 0u64, 0u64);
        let mut samples = 0usize;
        let mut r = Reader::new(bytes);
        while let Some((n, f)) = r.next_field()? {
            match n {
                1 => f.varints(1, |v| refs.push(v))?,
                2 | 3 => samples += 1,
                5 => {
                    let mut r = Reader::new(f.bytes(5)?);
                    while let Some((n, f)) = r.next_field()? {
                        match n {
                            1 => kind = f.varint(1)?,
                            3 => help_ref = f.varint(3)?,
                            4 => unit_ref = f.varint(4)?,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let (refs, symbols) = (&self.scratch.refs, &self.symbols);
        self.labels.begin();
        if refs.len() / 2 > self.options.limits.labels_max {
            let why = too_many(refs.len() / 2, self.options.limits);
            self.rejects.add(Reason::LabelLimit, || {
                format!("parsing labels for series {:?}…: {why}", &refs[..8.min(refs.len())])
            });
            return Ok(());
        }
        if let Err(why) = resolve(refs, |name, value| self.labels.put_refs(name, value, symbols)) {
            self.rejects.add(Reason::Labels, || format!("parsing labels for series {refs:?}: {why}"));
            return Ok(());
        }
        self.labels.end();
        let text = |i: u64| if i == 0 { Some("") } else { symbol(symbols, i).ok() };
        let Some((help, unit)) = text(help_ref).zip(text(unit_ref)) else {
            self.rejects
                .add(Reason::Labels, || format!("parsing metadata for series {refs:?}: invalid symbol reference"));
            return Ok(());
        };
        let kind = MetricKind::from_number(u32::try_from(kind).unwrap_or(0));
        if self.options.type_and_unit_labels && (kind != MetricKind::Unknown || !unit.is_empty()) {
            let kind = if kind == MetricKind::Unknown { "" } else { kind.as_str() };
            self.labels.replace([("__type__", kind), ("__unit__", unit)]);
        }
        if samples == 0 {
            let pairs = self.labels.pairs();
            self.rejects.add(Reason::NoSamples, || {
                format!("TimeSeries must contain at least one sample or histogram for series {}", show(pairs))
            });
            return Ok(());
        }
        if !self.begin_series()? {
            return Ok(());
        }
        let name = self.labels.pairs().iter().find(|(n, _)| *n == METRIC_NAME).map_or("", |(_, v)| *v);
        let mut r = Reader::new(bytes);
        while let Some((n, f)) = r.next_field()? {
            match n {
                2 => self.sample(f.bytes(2)?)?,
                3 => self.histogram(f.bytes(3)?)?,
                4 => self.exemplar_v2(f.bytes(4)?)?,
                _ => {}
            }
        }
        self.end_series();
        if kind != MetricKind::Unknown || !help.is_empty() || !unit.is_empty() {
            let family = family_name(name, kind);
            if self.family.replace(family) == Some(family) {
                return Ok(());
            }
            // Once per request; that two families fall on one number only means that one is taken from the next request.
            let number = self.scratch.hasher.hash_one(family);
            if self.scratch.described.insert(number) && !self.is_known(family, MetadataRef { kind, unit, help }) {
                let m = Metadata { kind, unit: unit.to_owned(), help: help.to_owned() };
                self.charge(family.len() + m.heap_bytes())?;
                self.batch.metadata.push((family.to_owned(), m));
            }
        }
        Ok(())
    }

    /// Checks the labels and starts a series with them; false, with a reason given, where they are wrong.
    fn begin_series(&mut self) -> Result<bool, WireError> {
        self.charge(0)?;
        let at = self.batch.label_bytes.len() as u32;
        if let Err((reason, why)) = self.labels.pack(self.options.limits, &mut self.batch.label_bytes) {
            let pairs = self.labels.pairs();
            self.rejects.add(reason, || format!("{why}, labels {}", show(pairs)));
            return Ok(false);
        }
        self.batch.begin_packed(at);
        Ok(true)
    }

    /// A series none of whose samples was valid is taken back whole.
    fn end_series(&mut self) {
        if let Some(s) = self.batch.series.last()
            && s.floats.0 == s.floats.1
            && s.histograms.0 == s.histograms.1
            && s.exemplars.0 == s.exemplars.1
        {
            self.batch.abandon_series();
            self.labels.forget();
        }
    }

    fn time_ok(&mut self, ts: i64) -> bool {
        let max = self.options.now_ms.saturating_add(self.options.limits.future_ms_max);
        if (0..=max).contains(&ts) {
            return true;
        }
        let pairs = self.labels.pairs();
        let (reason, why) =
            if ts < 0 { (Reason::Past, "before 1970") } else { (Reason::Future, "too far in the future") };
        self.rejects.add(reason, || format!("timestamp {ts} is {why} for series {}", show(pairs)));
        false
    }

    #[inline]
    fn sample(&mut self, bytes: &'a [u8]) -> Result<(), WireError> {
        let (mut value, mut ts, mut start) = (0.0, 0i64, 0i64);
        let mut r = Reader::new(bytes);
        while let Some((n, f)) = r.next_field()? {
            match (n, f) {
                (1, Field::Fixed64(bits)) => value = f64::from_bits(bits),
                (2, Field::Varint(t)) => ts = t as i64,
                (3, Field::Varint(t)) => start = t as i64,
                (1..=3, _) => return Err(WireError::Field(n)),
                _ => {}
            }
        }
        if self.time_ok(ts) {
            self.batch.push_float(ts, value, start);
        }
        Ok(())
    }

    fn exemplar_v2(&mut self, bytes: &'a [u8]) -> Result<(), WireError> {
        let (mut refs, mut value, mut ts) = (Vec::new(), 0.0, 0i64);
        let mut r = Reader::new(bytes);
        while let Some((n, f)) = r.next_field()? {
            match n {
                1 => f.varints(1, |v| refs.push(v))?,
                2 => value = f.double(2)?,
                3 => ts = f.varint(3)? as i64,
                _ => {}
            }
        }
        let mut pairs = Vec::new();
        let (symbols, limits) = (&self.symbols, self.options.limits);
        // One more than may be, to be told so.
        refs.truncate(limits.labels_max.saturating_add(1).saturating_mul(2));
        let put = |name, value| {
            pairs.push((symbol(symbols, name)?, symbol(symbols, value)?));
            Ok(())
        };
        let labels = resolve(&refs, put).and_then(|()| exemplar_labels(pairs, limits));
        self.exemplar(labels, value, ts)
    }

    fn exemplar(&mut self, labels: Result<Labels, String>, value: f64, ts: i64) -> Result<(), WireError> {
        let series = self.labels.pairs();
        match labels {
            Err(why) => {
                self.rejects.add(Reason::Exemplar, || format!("parsing exemplar for series {}: {why}", show(series)))
            }
            // As Prometheus: an exemplar of the future is dropped without making the request wrong.
            Ok(_) if ts > self.options.now_ms.saturating_add(EXEMPLAR_FUTURE_MS) || ts < 0 => {}
            Ok(labels) => {
                let exemplar = Exemplar { labels, value, ts };
                self.charge(exemplar.heap_bytes())?;
                self.batch.push_exemplar(exemplar);
            }
        }
        Ok(())
    }

    fn histogram(&mut self, bytes: &'a [u8]) -> Result<(), WireError> {
        let p = histogram_fields(bytes)?;
        let integer = p.count_int.is_some()
            || (p.h.positive_buckets.is_empty() && p.h.negative_buckets.is_empty() && p.count_float == 0.0);
        let (ts, start_ts) = (p.ts, p.start_ts);
        let buckets_max = self.options.limits.histogram_buckets_max.min(HISTOGRAM_BUCKETS_MAX);
        let finished = match p.parts() {
            parts if parts > buckets_max => {
                let why = format!("histogram of {parts} buckets or bounds, the limit is {buckets_max}");
                Err((Reason::HistogramLimit, why))
            }
            _ => p.finish(integer).map_err(|why| (Reason::Histogram, why)),
        };
        match finished {
            Ok(h) => {
                if self.time_ok(ts) {
                    self.charge(h.memory_bytes())?;
                    self.batch.push_histogram(ts, h, start_ts);
                }
            }
            Err((reason, why)) => {
                let pairs = self.labels.pairs();
                self.rejects.add(reason, || format!("{why} for series {}", show(pairs)));
            }
        }
        Ok(())
    }
}

/// Labels of an exemplar, within the limits on those of a series.
fn exemplar_labels(pairs: Vec<(&str, &str)>, limits: &Limits) -> Result<Labels, String> {
    if pairs.len() > limits.labels_max {
        return Err(format!("more than {} labels", limits.labels_max));
    }
    pairs.iter().find_map(|pair| over_length(pair, limits)).map_or(Ok(()), Err)?;
    Labels::from_pairs(pairs).map_err(|e| e.to_string())
}

fn exemplar_v1(bytes: &[u8], limits: &Limits) -> Result<(Result<Labels, String>, f64, i64), WireError> {
    let (mut pairs, mut value, mut ts) = (Vec::new(), 0.0, 0i64);
    let mut r = Reader::new(bytes);
    let mut bad = false;
    while let Some((n, f)) = r.next_field()? {
        match n {
            1 if pairs.len() > limits.labels_max => {}
            1 => match parse(f.bytes(1)?)? {
                Some(p) => pairs.push(p),
                None => bad = true,
            },
            2 => value = f.double(2)?,
            3 => ts = f.varint(3)? as i64,
            _ => {}
        }
    }
    let labels = if bad { Err("not valid UTF-8".to_owned()) } else { exemplar_labels(pairs, limits) };
    Ok((labels, value, ts))
}

/// Calls `put` with the two references of each label.
fn resolve(refs: &[u64], mut put: impl FnMut(u64, u64) -> Result<(), String>) -> Result<(), String> {
    if !refs.len().is_multiple_of(2) {
        return Err(format!("invalid labelRefs length {}", refs.len()));
    }
    refs.chunks_exact(2).try_for_each(|pair| put(pair[0], pair[1]))
}

/// The family a series' metadata belongs to: classic histograms and summaries lose their suffix.
fn family_name(name: &str, kind: MetricKind) -> &str {
    let suffixes: &[&str] = match kind {
        MetricKind::Histogram | MetricKind::GaugeHistogram => &["_bucket", "_sum", "_count", "_gsum", "_gcount"],
        MetricKind::Summary => &["_sum", "_count"],
        _ => &[],
    };
    suffixes.iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name)
}

fn histogram_fields(bytes: &[u8]) -> Result<HistogramFields, WireError> {
    let mut p = HistogramFields::default();
    let mut r = Reader::new(bytes);
    while let Some((n, f)) = r.next_field()? {
        match n {
            1 => p.count_int = Some(f.varint(1)?),
            2 => p.count_float = f.double(2)?,
            3 => p.h.sum = f.double(3)?,
            4 => p.h.schema = zigzag(f.varint(4)?) as i32,
            5 => p.h.zero_threshold = f.double(5)?,
            6 => p.zero_int = Some(f.varint(6)?),
            7 => p.zero_float = f.double(7)?,
            8 => p.h.negative_spans.push(span(f.bytes(8)?)?),
            9 => f.varints(9, |v| p.negative_deltas.push(zigzag(v)))?,
            10 => f.doubles(10, &mut p.h.negative_buckets)?,
            11 => p.h.positive_spans.push(span(f.bytes(11)?)?),
            12 => f.varints(12, |v| p.positive_deltas.push(zigzag(v)))?,
            13 => f.doubles(13, &mut p.h.positive_buckets)?,
            14 => p.hint = f.varint(14)?,
            15 => p.ts = f.varint(15)? as i64,
            16 => f.doubles(16, &mut p.h.custom_values)?,
            17 => p.start_ts = f.varint(17)? as i64,
            _ => {}
        }
    }
    Ok(p)
}

fn span(bytes: &[u8]) -> Result<Span, WireError> {
    let mut s = Span::default();
    let mut r = Reader::new(bytes);
    while let Some((n, f)) = r.next_field()? {
        match n {
            1 => s.offset = zigzag(f.varint(1)?) as i32,
            2 => s.length = f.varint(2)? as u32,
            _ => {}
        }
    }
    Ok(s)
}

impl HistogramFields {
    /// Length of the longest of its lists.
    fn parts(&self) -> usize {
        let h = &self.h;
        let spans = h.positive_spans.len().max(h.negative_spans.len());
        let buckets = h.positive_buckets.len().max(h.negative_buckets.len());
        let deltas = self.positive_deltas.len().max(self.negative_deltas.len());
        spans.max(buckets).max(deltas).max(h.custom_values.len())
    }

    /// Absolute counts, checked.
    fn finish(self, integer: bool) -> Result<Histogram, String> {
        let mut h = self.h;
        h.reset_hint = match self.hint {
            1 => ResetHint::Yes,
            2 => ResetHint::No,
            3 => ResetHint::Gauge,
            _ => ResetHint::Unknown,
        };
        // A stale marker has no buckets and is valid whatever its count.
        if quiver_model::is_stale(h.sum) {
            return Ok(Histogram { sum: h.sum, reset_hint: h.reset_hint, ..Histogram::default() });
        }
        if integer {
            return IntegerHistogram {
                reset_hint: h.reset_hint,
                schema: h.schema,
                zero_threshold: h.zero_threshold,
                zero_count: self.zero_int.unwrap_or(0),
                count: self.count_int.unwrap_or(0),
                sum: h.sum,
                positive_spans: &h.positive_spans,
                negative_spans: &h.negative_spans,
                positive_deltas: &self.positive_deltas,
                negative_deltas: &self.negative_deltas,
                custom_values: &h.custom_values,
            }
            .to_histogram()
            .map_err(|e| e.to_string());
        }
        h.count = self.count_float;
        h.zero_count = self.zero_float;
        h.validate().map_err(|e| e.to_string())?;
        Ok(h)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::proto::{v1, v2};

    /// What a series of a request says: labels in any order, and samples, some of them of times that no sample may have.
    #[derive(Clone, Debug)]
    struct Said {
        labels: Vec<(String, String)>,
        samples: Vec<(i64, f64)>,
        is_late_label: bool,
    }

    /// A change of one label from a series to the next.
    type Step = (prop::sample::Index, u8, String, String);

    fn text(kinds: &'static [&'static str]) -> impl Strategy<Value = String> {
        proptest::sample::select(kinds).prop_map(str::to_owned)
    }

    const NAMES: &[&str] =
        &["__name__", "__name__", "a", "b", "c", "", "A", "é", "a-name-that-is-longer-than-it-may-be"];
    const VALUES: &[&str] = &["", "x", "y", "zz", "ü", "a value that is longer than any value of a label may be here"];

    fn steps() -> impl Strategy<Value = Vec<Said>> {
        let step = (any::<prop::sample::Index>(), 0..12u8, text(NAMES), text(VALUES));
        let samples = proptest::collection::vec((prop_oneof![6 => 0..9i64, 1 => Just(-1)], 0..3u8), 0..3);
        let series = (step, samples, prop::bool::weighted(0.1));
        proptest::collection::vec(series, 0..20).prop_map(|list| {
            let mut labels = vec![("__name__", "up"), ("a", "1"), ("b", "2")]
                .into_iter()
                .map(|(n, v)| (n.into(), v.into()))
                .collect();
            list.into_iter()
                .map(|(step, samples, is_late_label)| {
                    change(&mut labels, step);
                    let samples = samples.into_iter().map(|(t, v)| (t, f64::from(v))).collect();
                    Said { labels: labels.clone(), samples, is_late_label }
                })
                .collect()
        })
    }

    fn change(labels: &mut Vec<(String, String)>, (at, kind, name, value): Step) {
        let k = at.index(labels.len() + 1);
        match kind {
            0 => labels.insert(k, (name, value)),
            1 if k < labels.len() => _ = labels.remove(k),
            2 if k < labels.len() => labels[k] = (name, value),
            3 => labels.reverse(),
            4..=6 => labels.sort(),
            7 => {
                labels.sort();
                labels.dedup_by(|a, b| a.0 == b.0);
                labels.retain(|(n, _)| !n.is_empty());
            }
            _ if k < labels.len() => labels[k].1 = value,
            _ => {}
        }
    }

    fn limits() -> Limits {
        Limits { labels_max: 4, label_name_bytes_max: 12, label_value_bytes_max: 20, ..Limits::default() }
    }

    /// The plain way: every series by itself, its labels in a map. Gives what is kept and how many things are wrong.
    fn plain(all: &[Said], are_samples_wanted: bool) -> (WriteBatch, u64) {
        let (mut batch, mut wrong, limits) = (WriteBatch::default(), 0, limits());
        for s in all {
            let labels: BTreeMap<_, _> = s.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let is_right = labels.len() == s.labels.len()
                && labels.len() <= limits.labels_max
                && labels.iter().all(|(n, v)| {
                    !n.is_empty() && n.len() <= limits.label_name_bytes_max && v.len() <= limits.label_value_bytes_max
                })
                && labels.get("__name__").is_some_and(|v| !v.is_empty());
            if !is_right || (are_samples_wanted && s.samples.is_empty()) {
                wrong += 1;
                continue;
            }
            let (right, before_1970): (Vec<_>, Vec<_>) = s.samples.iter().partition(|(t, _)| *t >= 0);
            wrong += before_1970.len() as u64;
            if !right.is_empty() {
                batch.begin_series(labels.into_iter().filter(|(_, v)| !v.is_empty()));
                right.iter().for_each(|(t, v)| batch.push_float(*t, *v, 0));
            }
        }
        (batch, wrong)
    }

    fn message_v1(all: &[Said]) -> Vec<u8> {
        let label = |(name, value): &(String, String)| v1::Label { name: name.clone(), value: value.clone() };
        let series = |s: &Said| {
            let now = s.labels.len() - usize::from(s.is_late_label && !s.labels.is_empty());
            // Parts of one message, put together by appending.
            let first = v1::TimeSeries {
                labels: s.labels[..now].iter().map(label).collect(),
                samples: s.samples.iter().map(|&(timestamp, value)| v1::Sample { timestamp, value }).collect(),
                ..v1::TimeSeries::default()
            };
            let last =
                v1::TimeSeries { labels: s.labels[now..].iter().map(label).collect(), ..v1::TimeSeries::default() };
            [first.encode_to_vec(), last.encode_to_vec()].concat()
        };
        let mut out = Vec::new();
        for s in all {
            let body = series(s);
            out.push(1 << 3 | 2);
            prost::encode_length_delimiter(body.len(), &mut out).unwrap();
            out.extend(body);
        }
        out
    }

    fn message_v2(all: &[Said]) -> Vec<u8> {
        let mut symbols = vec![String::new()];
        let mut of = |text: &String| {
            let found = symbols.iter().position(|s| s == text);
            found.unwrap_or_else(|| {
                symbols.push(text.clone());
                symbols.len() - 1
            }) as u32
        };
        let timeseries = all
            .iter()
            .map(|s| v2::TimeSeries {
                labels_refs: s.labels.iter().flat_map(|(n, v)| [of(n), of(v)]).collect(),
                samples: s
                    .samples
                    .iter()
                    .map(|&(timestamp, value)| v2::Sample { timestamp, value: Some(value), ..v2::Sample::default() })
                    .collect(),
                ..v2::TimeSeries::default()
            })
            .collect();
        v2::Request { symbols, timeseries }.encode_to_vec()
    }

    fn decoded(version: Version, message: &[u8], scratch: &mut DecodeScratch) -> (WriteBatch, u64) {
        let limits = limits();
        let options = DecodeOptions { limits: &limits, now_ms: 1 << 40, type_and_unit_labels: false, known: None };
        let mut batch = WriteBatch::default();
        let rejects = decode(version, message, &options, scratch, &mut batch).unwrap();
        (batch, rejects.count)
    }

    #[test]
    fn labels_that_a_message_says_once_are_bounded_as_they_are_written_out() {
        let series = |t| Said {
            labels: vec![("__name__".into(), "up".into()), ("a".into(), "x".repeat(20))],
            samples: vec![(t, 1.0)],
            is_late_label: false,
        };
        let limits = Limits { write_memory_bytes_max: 500, ..limits() };
        let options = DecodeOptions { limits: &limits, now_ms: 1 << 40, type_and_unit_labels: false, known: None };
        let (mut scratch, mut batch) = (DecodeScratch::default(), WriteBatch::default());
        let mut read = |n| {
            let message = message_v2(&(0..n).map(series).collect::<Vec<_>>());
            decode(Version::V2, &message, &options, &mut scratch, &mut batch)
        };
        assert_eq!(read(10), Ok(Rejects::default()));
        assert_eq!(read(50), Err(WireError::Memory(500)));
        assert_eq!(read(10), Ok(Rejects::default()));
    }

    /// A field of length-delimited bytes.
    fn field(number: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        prost::encode_length_delimiter(body.len(), &mut out).unwrap();
        out.extend(body);
        out
    }

    /// A few bytes that become many, or cost much to look at: each of these requests once took gigabytes or hours.
    #[test]
    fn what_a_request_becomes_is_bounded() {
        let limits = Limits { write_memory_bytes_max: 1 << 20, ..Limits::default() };
        let options = DecodeOptions { limits: &limits, now_ms: 1 << 40, type_and_unit_labels: false, known: None };
        let read = |version, message: &[u8]| {
            let (mut scratch, mut batch) = (DecodeScratch::default(), WriteBatch::default());
            let done = decode(version, message, &options, &mut scratch, &mut batch);
            assert!(batch.heap_bytes() < 2 << 20, "{}", batch.heap_bytes());
            done.map(|rejects| (rejects, batch))
        };
        let over = Err(WireError::Memory(1 << 20));
        let table = |symbols: &[&str]| symbols.iter().flat_map(|s| field(4, s.as_bytes())).collect::<Vec<_>>();
        let long = "x".repeat(8 << 20);
        let refs = |refs: &[u8]| field(1, refs);
        let (name, sample) = (refs(&[1, 2]), field(2, &[]));

        // Exemplars that say one symbol again and again.
        let text = "v".repeat(4_000);
        let exemplars: Vec<u8> = (0..1_000).flat_map(|_| field(4, &field(1, &[3, 4]))).collect();
        let message =
            [table(&["", "__name__", "m", "id", &text]), field(5, &[&name[..], &sample, &exemplars].concat())].concat();
        assert_eq!(read(Version::V2, &message), over);
        // Of too long a label, or too many: left out, and the series kept.
        let message = [
            table(&["", "__name__", "m", "id", &long]),
            field(5, &[&name[..], &sample, &field(4, &field(1, &[3, 4]))].concat()),
        ]
        .concat();
        let (rejects, batch) = read(Version::V2, &message).unwrap();
        assert_eq!((rejects.count, batch.samples(), batch.exemplars.len()), (1, 1, 0));
        assert!(rejects.text().len() < 1_000, "{}", rejects.text());
        let many = field(4, &field(1, &[3; 40_000]));
        let message = [table(&["", "__name__", "m", "id"]), field(5, &[&name[..], &sample, &many].concat())].concat();
        assert_eq!(read(Version::V2, &message).unwrap().0.count, 1);
        // One long help of many families.
        let help = "h".repeat(100_000);
        let mut symbols = vec!["".to_owned(), "__name__".to_owned(), help];
        symbols.extend((0..100).map(|k| format!("m{k}")));
        let mut message = table(&symbols.iter().map(String::as_str).collect::<Vec<_>>());
        (3..103)
            .for_each(|k| message.extend(field(5, &[refs(&[1, k]), sample.clone(), field(5, &[3 << 3, 2])].concat())));
        assert_eq!(read(Version::V2, &message), over);
        // Names of megabytes, equal but for nothing: neither compared nor shown.
        let mut message = table(&["", &long]);
        let without = field(5, &refs(&[1, 1, 1, 1]));
        let with = field(5, &[refs(&[1, 1, 1, 1]), sample.clone()].concat());
        (0..20_000).for_each(|_| message.extend(without.iter().chain(&with)));
        let (rejects, batch) = read(Version::V2, &message).unwrap();
        assert_eq!((rejects.count, batch.samples()), (40_000, 0));
        assert!(rejects.text().len() < 10_000);
        // Empty histograms and exemplars, two bytes each; labels without number.
        let name = field(1, &[field(1, b"__name__"), field(2, b"m")].concat());
        for empty in [field(3, &[]), field(4, &[])] {
            assert_eq!(read(Version::V1, &field(1, &[name.clone(), empty.repeat(20_000)].concat())), over);
        }
        let labels = field(1, &[name.clone(), field(1, &[]).repeat(100_000), field(2, &[])].concat());
        let (rejects, _) = read(Version::V1, &labels).unwrap();
        assert!(rejects.text().contains("100001 labels, the limit is 64"), "{}", rejects.text());
        let message = [table(&["", "__name__", "m"]), field(5, &[refs(&[1; 40_000]), sample].concat())].concat();
        let (rejects, _) = read(Version::V2, &message).unwrap();
        assert!(rejects.text().contains("20000 labels, the limit is 64"), "{}", rejects.text());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn series_that_repeat_labels_are_decoded_as_if_each_stood_alone(requests in proptest::collection::vec(steps(), 1..3)) {
            let mut scratch = DecodeScratch::default();
            for all in requests {
                prop_assert_eq!(decoded(Version::V1, &message_v1(&all), &mut scratch), plain(&all, false));
                prop_assert_eq!(decoded(Version::V2, &message_v2(&all), &mut scratch), plain(&all, true));
            }
        }
    }

    #[test]
    fn a_label_that_is_not_utf8_costs_its_series_only() {
        let series = |value: &[u8]| {
            let label = |n: &[u8], v: &[u8]| {
                let mut out = vec![0x0a, n.len() as u8];
                out.extend(n);
                out.extend([0x12, v.len() as u8]);
                out.extend(v);
                [&[0x0a, out.len() as u8], &out[..]].concat()
            };
            let sample = v1::Sample { value: 1.0, timestamp: 7 }.encode_to_vec();
            let sample = [&[0x12, sample.len() as u8], &sample[..]].concat();
            let body =
                [label(b"__name__", b"up"), label(b"a", value), label(b"b", b"2"), label(b"c", b"3"), sample].concat();
            [&[0x0a, body.len() as u8], &body[..]].concat()
        };
        let message = [series(b"1"), series(b"\xff"), series(b"1"), series(b"2")].concat();
        let (batch, wrong) = decoded(Version::V1, &message, &mut DecodeScratch::default());
        let shown: Vec<_> = (0..batch.series.len()).map(|i| batch.labels(i).unwrap().to_string()).collect();
        let labels = |a| format!("{{__name__=\"up\", a=\"{a}\", b=\"2\", c=\"3\"}}");
        assert_eq!((shown, wrong), (vec![labels(1), labels(1), labels(2)], 1));
    }
}
