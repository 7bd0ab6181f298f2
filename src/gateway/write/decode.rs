//! Remote write 1.0 and 2.0 into a [`WriteBatch`], labels borrowed from the decompressed message.
//!
//! A series that is wrong (no name, duplicate labels, a bad histogram, …) is left out and reported; the others are kept.
//! A message that does not parse is an error and nothing of it is kept.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use quiver_core::turns::end_turn;
use quiver_core::{Ingest, MetadataRef};
use quiver_model::histogram::IntegerHistogram;
use quiver_model::labels::push_packed;
use quiver_model::{
    Exemplar, Histogram, Labels, Limits, METRIC_NAME, Metadata, MetricKind, ResetHint, Span, WriteBatch,
};

use super::wire::{Field, Reader, WireError, zigzag};

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

/// Buffers of a request, used again by the next; they hold nothing in between.
#[derive(Default)]
pub struct DecodeScratch {
    pairs: Vec<(&'static str, &'static str)>,
    symbols: Vec<Option<&'static str>>,
    refs: Vec<u64>,
    described: HashSet<u64>,
    hasher: RandomState,
}

/// An empty vector with the memory of `old`: what borrows from one message cannot be kept for another, its room can.
fn emptied<A, B>(mut old: Vec<A>) -> Vec<B> {
    old.clear();
    old.into_iter().filter_map(|_| None).collect()
}

/// Series and samples that were left out: how many, and why the first of them were.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rejects {
    /// How many reasons there were.
    pub count: u64,
    /// The first [`Rejects::SHOWN`] of them.
    pub reasons: Vec<String>,
}

impl Rejects {
    /// Reasons kept.
    pub const SHOWN: usize = 10;

    /// Adds one; its text is only made when it will be shown.
    pub fn add(&mut self, reason: impl FnOnce() -> String) {
        self.count += 1;
        if self.reasons.len() < Self::SHOWN {
            self.reasons.push(cut(reason(), 500));
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
    let pairs = emptied(std::mem::take(&mut scratch.pairs));
    let symbols = emptied(std::mem::take(&mut scratch.symbols));
    let mut d = Decoder { options, batch, rejects: Rejects::default(), pairs, symbols, scratch };
    let done = match version {
        Version::V1 => d.request_v1(body),
        Version::V2 => d.request_v2(body),
    };
    let Decoder { rejects, pairs, symbols, scratch, .. } = d;
    (scratch.pairs, scratch.symbols) = (emptied(pairs), emptied(symbols));
    done.map(|()| rejects)
}

struct Decoder<'o, 'b, 'a> {
    options: &'o DecodeOptions<'o>,
    batch: &'b mut WriteBatch,
    rejects: Rejects,
    pairs: Vec<(&'a str, &'a str)>,
    symbols: Vec<Option<&'a str>>,
    scratch: &'b mut DecodeScratch,
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
                    end_turn();
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
            self.batch.metadata.push((name.to_owned(), m));
        }
        Ok(())
    }

    fn is_known(&self, family: &str, metadata: MetadataRef<'_>) -> bool {
        self.options.known.is_some_and(|k| k.has_metadata(family, metadata))
    }

    fn series_v1(&mut self, bytes: &'a [u8]) -> Result<(), WireError> {
        // Labels first, wherever they stand: samples need a series to go to.
        self.pairs.clear();
        let mut bad_utf8 = false;
        let mut r = Reader::new(bytes);
        while let Some((n, f)) = r.next_field()? {
            if n == 1 {
                match label(f.bytes(1)?)? {
                    Some(pair) => self.pairs.push(pair),
                    None => bad_utf8 = true,
                }
            }
        }
        if bad_utf8 {
            let shown = format!("{:?}", self.pairs);
            self.rejects.add(|| format!("invalid metric name or labels: not valid UTF-8, the others are {shown}"));
            return Ok(());
        }
        if !self.begin_series() {
            return Ok(());
        }
        let mut r = Reader::new(bytes);
        while let Some((n, f)) = r.next_field()? {
            match n {
                2 => self.sample(f.bytes(2)?)?,
                3 => {
                    let (labels, value, ts) = exemplar_v1(f.bytes(3)?)?;
                    self.exemplar(labels, value, ts);
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
                end_turn();
            }
        }
        Ok(())
    }

    fn series_v2(&mut self, bytes: &'a [u8]) -> Result<(), WireError> {
        self.pairs.clear();
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
        if let Err(why) = resolve(refs, symbols, &mut self.pairs) {
            self.rejects.add(|| format!("parsing labels for series {refs:?}: {why}"));
            return Ok(());
        }
        let symbol = |i: u64| usize::try_from(i).ok().and_then(|i| symbols.get(i).copied().flatten());
        let (help, unit) = match (help_ref, unit_ref) {
            (0, 0) => ("", ""),
            (h, u) => match (if h == 0 { Some("") } else { symbol(h) }, if u == 0 { Some("") } else { symbol(u) }) {
                (Some(h), Some(u)) => (h, u),
                _ => {
                    self.rejects.add(|| format!("parsing metadata for series {refs:?}: invalid symbol reference"));
                    return Ok(());
                }
            },
        };
        let kind = MetricKind::from_number(u32::try_from(kind).unwrap_or(0));
        if self.options.type_and_unit_labels && (kind != MetricKind::Unknown || !unit.is_empty()) {
            self.pairs.retain(|(n, _)| *n != "__type__" && *n != "__unit__");
            if kind != MetricKind::Unknown {
                self.pairs.push(("__type__", kind.as_str()));
            }
            if !unit.is_empty() {
                self.pairs.push(("__unit__", unit));
            }
        }
        if samples == 0 {
            let shown = show(&self.pairs);
            self.rejects.add(|| format!("TimeSeries must contain at least one sample or histogram for series {shown}"));
            return Ok(());
        }
        if !self.begin_series() {
            return Ok(());
        }
        let name = self.pairs.iter().find(|(n, _)| *n == METRIC_NAME).map_or("", |(_, v)| *v);
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
            // Once per request; that two families fall on one number only means that one is taken from the next request.
            let number = self.scratch.hasher.hash_one(family);
            if self.scratch.described.insert(number) && !self.is_known(family, MetadataRef { kind, unit, help }) {
                let m = Metadata { kind, unit: unit.to_owned(), help: help.to_owned() };
                self.batch.metadata.push((family.to_owned(), m));
            }
        }
        Ok(())
    }

    /// Checks `pairs` and starts a series with them; false, with a reason given, where they are wrong.
    fn begin_series(&mut self) -> bool {
        let limits = self.options.limits;
        if !self.pairs.is_sorted_by(|a, b| a.0 < b.0) {
            self.pairs.sort_by(|a, b| a.0.cmp(b.0));
        }
        let why = check_labels(&self.pairs, limits);
        if let Some(why) = why {
            let pairs = &self.pairs;
            self.rejects.add(|| format!("{why}, labels {}", show(pairs)));
            return false;
        }
        let at = self.batch.label_bytes.len() as u32;
        for (n, v) in &self.pairs {
            if !v.is_empty() {
                push_packed(&mut self.batch.label_bytes, n, v);
            }
        }
        self.batch.begin_packed(at);
        true
    }

    /// A series none of whose samples was valid is taken back whole.
    fn end_series(&mut self) {
        if let Some(s) = self.batch.series.last()
            && s.floats.0 == s.floats.1
            && s.histograms.0 == s.histograms.1
            && s.exemplars.0 == s.exemplars.1
        {
            self.batch.abandon_series();
        }
    }

    fn time_ok(&mut self, ts: i64) -> bool {
        let max = self.options.now_ms.saturating_add(self.options.limits.future_ms_max);
        if (0..=max).contains(&ts) {
            return true;
        }
        let pairs = &self.pairs;
        let why = if ts < 0 { "before 1970" } else { "too far in the future" };
        self.rejects.add(|| format!("timestamp {ts} is {why} for series {}", show(pairs)));
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
        match resolve(&refs, &self.symbols, &mut pairs) {
            Ok(()) => {
                let labels = Labels::from_pairs(pairs).map_err(|e| e.to_string());
                self.exemplar(labels, value, ts);
            }
            Err(why) => self.exemplar(Err(why), value, ts),
        }
        Ok(())
    }

    fn exemplar(&mut self, labels: Result<Labels, String>, value: f64, ts: i64) {
        let series = &self.pairs;
        match labels {
            Err(why) => self.rejects.add(|| format!("parsing exemplar for series {}: {why}", show(series))),
            // As Prometheus: an exemplar of the future is dropped without making the request wrong.
            Ok(_) if ts > self.options.now_ms.saturating_add(600_000) || ts < 0 => {}
            Ok(labels) => self.batch.push_exemplar(Exemplar { labels, value, ts }),
        }
    }

    fn histogram(&mut self, bytes: &'a [u8]) -> Result<(), WireError> {
        let p = histogram_fields(bytes)?;
        let integer = p.count_int.is_some()
            || (p.h.positive_buckets.is_empty() && p.h.negative_buckets.is_empty() && p.count_float == 0.0);
        let (ts, start_ts) = (p.ts, p.start_ts);
        match p.finish(integer) {
            Ok(h) => {
                if self.time_ok(ts) {
                    self.batch.push_histogram(ts, h, start_ts);
                }
            }
            Err(why) => {
                let pairs = &self.pairs;
                self.rejects.add(|| format!("{why} for series {}", show(pairs)));
            }
        }
        Ok(())
    }
}

fn label(bytes: &[u8]) -> Result<Option<(&str, &str)>, WireError> {
    let (mut name, mut value) = (&bytes[..0], &bytes[..0]);
    let mut r = Reader::new(bytes);
    while let Some((n, f)) = r.next_field()? {
        match n {
            1 => name = f.bytes(1)?,
            2 => value = f.bytes(2)?,
            _ => {}
        }
    }
    Ok(std::str::from_utf8(name).ok().zip(std::str::from_utf8(value).ok()))
}

fn exemplar_v1(bytes: &[u8]) -> Result<(Result<Labels, String>, f64, i64), WireError> {
    let (mut pairs, mut value, mut ts) = (Vec::new(), 0.0, 0i64);
    let mut r = Reader::new(bytes);
    let mut bad = false;
    while let Some((n, f)) = r.next_field()? {
        match n {
            1 => match label(f.bytes(1)?)? {
                Some(p) => pairs.push(p),
                None => bad = true,
            },
            2 => value = f.double(2)?,
            3 => ts = f.varint(3)? as i64,
            _ => {}
        }
    }
    let labels =
        if bad { Err("not valid UTF-8".to_owned()) } else { Labels::from_pairs(pairs).map_err(|e| e.to_string()) };
    Ok((labels, value, ts))
}

/// Looks label references up; `pairs` gets names and values.
fn resolve<'a>(refs: &[u64], symbols: &[Option<&'a str>], pairs: &mut Vec<(&'a str, &'a str)>) -> Result<(), String> {
    if !refs.len().is_multiple_of(2) {
        return Err(format!("invalid labelRefs length {}", refs.len()));
    }
    let symbol = |i: u64| match usize::try_from(i).ok().and_then(|i| symbols.get(i)) {
        Some(Some(s)) => Ok(*s),
        Some(None) => Err(format!("symbol {i} is not valid UTF-8")),
        None => Err(format!("labelRefs {i} points out of symbols table of {} strings", symbols.len())),
    };
    for pair in refs.chunks_exact(2) {
        pairs.push((symbol(pair[0])?, symbol(pair[1])?));
    }
    Ok(())
}

/// What is wrong with sorted labels, if anything is.
fn check_labels(pairs: &[(&str, &str)], limits: &Limits) -> Option<String> {
    if pairs.len() > limits.labels_max {
        return Some(format!("series has {} labels, the limit is {}", pairs.len(), limits.labels_max));
    }
    let mut has_name = false;
    let mut last = None;
    for (n, v) in pairs {
        if n.is_empty() {
            return Some("invalid labels for series: empty label name".into());
        }
        if last == Some(n) {
            return Some(format!("invalid labels for series: duplicated label {n}"));
        }
        last = Some(n);
        if *n == METRIC_NAME {
            has_name = !v.is_empty();
        }
        if n.len() > limits.label_name_bytes_max {
            return Some(format!("label name of {} bytes, the limit is {}", n.len(), limits.label_name_bytes_max));
        }
        if v.len() > limits.label_value_bytes_max {
            return Some(format!(
                "value of label {n} has {} bytes, the limit is {}",
                v.len(),
                limits.label_value_bytes_max
            ));
        }
    }
    if !has_name {
        return Some("invalid metric name or labels: no metric name (__name__)".into());
    }
    None
}

/// At most a few labels, for a message.
fn show(pairs: &[(&str, &str)]) -> String {
    let list: Vec<_> = pairs.iter().take(8).map(|(n, v)| format!("{n}={}", quiver_model::labels::quoted(v))).collect();
    let more = if pairs.len() > 8 { ", …" } else { "" };
    format!("{{{}{more}}}", list.join(", "))
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
