//! Chunks: some hundreds of samples of one series, with figures that spare readers the decoding.
//!
//! ```text
//! payload   flags │ [stale count] [NaN count] │ [figures] │ [lengths] │ values │ [start timestamps] │ [histograms]
//! constant  flags │ value                                     nothing else, nothing to decode
//! ```
//!
//! The times stand elsewhere, in a [`TimeColumn`] that other chunks share. A chunk sealed in the head is copied into a
//! block byte for byte.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use quiver_model::{Need, SampleColumn, SeriesKinds, TimeRange, is_stale};

use super::float::{self, FloatScratch, get_float, get_floats, put_float, put_floats};
use super::histogram::{self, HistogramScratch};
use super::ints::{self, IntScratch};
use super::time::TimeColumn;
use crate::bytes::{Damaged, Reader, put_varint};

const HISTOGRAMS: u8 = 1;
const ALL_HISTOGRAMS: u8 = 2;
const START: u8 = 4;
const STALE: u8 = 8;
const NAN: u8 = 16;
const FIGURES: u8 = 32;
const FALLS: u8 = 64;
const CONSTANT: u8 = 128;

const START_PLAIN: u8 = 0;
const START_BEFORE: u8 = 1;

/// Figures of a chunk of floats without NaN or marker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueStats {
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// First value.
    pub first: f64,
    /// Last value.
    pub last: f64,
    /// How often a value is smaller than the one before.
    pub resets: u32,
}

/// What a chunk tells about itself without being decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChunkStats {
    /// Samples.
    pub count: u32,
    /// Stale markers among them (floats and histograms).
    pub stale: u32,
    /// Other NaN among the floats and sums.
    pub nan: u32,
    /// What it holds.
    pub kinds: SeriesKinds,
    /// Figures, where all samples are floats and none is NaN.
    pub values: Option<ValueStats>,
}

impl ChunkStats {
    /// Of a payload of `count` samples, which was checked against its checksum.
    pub fn of(payload: &[u8], count: usize) -> Result<Self, Damaged> {
        Ok(Head::parse(payload, count)?.1)
    }

    /// Of samples: what the header of a chunk of them has to tell.
    pub fn of_samples(column: &SampleColumn) -> Self {
        let counted = Counted::of(&column.values);
        let histograms = column.histograms.len();
        let start_ts = column.start_ts.iter().any(|s| *s != 0);
        Self {
            count: column.len() as u32,
            stale: counted.stale as u32,
            nan: counted.nan as u32,
            kinds: SeriesKinds { floats: histograms < column.len(), histograms: histograms > 0, start_ts },
            values: (histograms == 0 && !counted.has_nan()).then_some(ValueStats {
                min: counted.min,
                max: counted.max,
                first: counted.first,
                last: counted.last,
                resets: counted.falls as u32,
            }),
        }
    }
}

/// What one pass over the values of a chunk tells.
struct Counted {
    stale: u64,
    nan: u64,
    falls: u64,
    first: f64,
    last: f64,
    min: f64,
    max: f64,
    is_constant: bool,
}

impl Counted {
    #[inline]
    fn of(values: &[f64]) -> Self {
        let (mut stale, mut nan, mut falls) = (0u64, 0u64, 0u64);
        let first = values.first().copied().unwrap_or(0.0);
        let (mut min, mut max, mut last) = (first, first, first);
        let mut is_constant = true;
        for &v in values {
            if v.is_nan() {
                if is_stale(v) {
                    stale += 1;
                } else {
                    nan += 1;
                }
            }
            is_constant &= v.to_bits() == first.to_bits();
            falls += u64::from(v < last);
            min = if v < min { v } else { min };
            max = if v > max { v } else { max };
            last = v;
        }
        Self { stale, nan, falls, first, last, min, max, is_constant }
    }

    fn has_nan(&self) -> bool {
        self.stale > 0 || self.nan > 0
    }
}

/// An encoded chunk that owns its bytes, or shares those of a file.
#[derive(Clone, Debug)]
pub struct Chunk {
    time: Arc<TimeColumn>,
    payload: Bytes,
}

/// A chunk wherever its bytes stand.
#[derive(Clone, Copy, Debug)]
pub struct ChunkRef<'a> {
    /// Times.
    pub time: &'a TimeColumn,
    /// All else.
    pub payload: &'a [u8],
}

impl Chunk {
    /// From its parts; the payload was checked against its checksum.
    pub fn from_parts(time: Arc<TimeColumn>, payload: Bytes) -> Self {
        Self { time, payload }
    }

    /// Borrows.
    pub fn as_ref(&self) -> ChunkRef<'_> {
        ChunkRef { time: &self.time, payload: &self.payload }
    }

    /// Its times.
    pub fn time(&self) -> &Arc<TimeColumn> {
        &self.time
    }

    /// All but the times.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Number of samples.
    pub fn count(&self) -> usize {
        self.time.count()
    }

    /// First time.
    pub fn min_time(&self) -> i64 {
        self.time.min()
    }

    /// Last time.
    pub fn max_time(&self) -> i64 {
        self.time.max()
    }

    /// Heap bytes it holds, its share of the times left out.
    pub fn heap_bytes(&self) -> usize {
        self.payload.len() + size_of::<Self>()
    }
}

impl ChunkRef<'_> {
    /// What it holds.
    pub fn kinds(&self) -> SeriesKinds {
        let flags = self.payload.first().copied().unwrap_or(0);
        SeriesKinds {
            floats: flags & ALL_HISTOGRAMS == 0,
            histograms: flags & HISTOGRAMS != 0,
            start_ts: flags & START != 0,
        }
    }

    /// Its figures, without decoding.
    pub fn stats(&self) -> Result<ChunkStats, Damaged> {
        ChunkStats::of(self.payload, self.time.count())
    }

    /// The float codec's name, for statistics.
    pub fn codec_name(&self) -> &'static str {
        match Head::parse(self.payload, self.time.count()) {
            Ok((head, _)) if head.constant.is_some() => "constant",
            Ok((head, _)) => float::codec_name(head.values),
            Err(_) => "damaged",
        }
    }
}

/// A parsed payload.
struct Head<'a> {
    constant: Option<f64>,
    values: &'a [u8],
    start: Option<&'a [u8]>,
    histograms: Option<&'a [u8]>,
}

impl<'a> Head<'a> {
    fn parse(payload: &'a [u8], count: usize) -> Result<(Self, ChunkStats), Damaged> {
        let mut r = Reader::new(payload);
        let flags = r.u8()?;
        let mut stats = ChunkStats {
            count: count as u32,
            stale: 0,
            nan: 0,
            kinds: SeriesKinds {
                floats: flags & ALL_HISTOGRAMS == 0,
                histograms: flags & HISTOGRAMS != 0,
                start_ts: flags & START != 0,
            },
            values: None,
        };
        if flags & STALE != 0 {
            stats.stale = r.count(count)? as u32;
        }
        if flags & NAN != 0 {
            stats.nan = r.count(count)? as u32;
        }
        let mut constant = None;
        if flags & CONSTANT != 0 {
            let v = get_float(&mut r)?;
            constant = Some(v);
            if flags & FIGURES != 0 {
                stats.values = Some(ValueStats { min: v, max: v, first: v, last: v, resets: 0 });
            }
        } else if flags & FIGURES != 0 {
            stats.values = Some(if flags & FALLS != 0 {
                let resets = r.count(count)? as u32;
                let [first, last, min, max] = get_floats::<4>(&mut r)?;
                ValueStats { min, max, first, last, resets }
            } else {
                let [first, last] = get_floats::<2>(&mut r)?;
                ValueStats { min: first, max: last, first, last, resets: 0 }
            });
        }
        let mut head = Head { constant, values: &[], start: None, histograms: None };
        let start_len = if flags & START != 0 { Some(r.count(payload.len())?) } else { None };
        let histograms_len = if flags & HISTOGRAMS != 0 { Some(r.count(payload.len())?) } else { None };
        if let Some(n) = start_len {
            head.start = Some(r.take(n)?);
        }
        if let Some(n) = histograms_len {
            head.histograms = Some(r.take(n)?);
        }
        head.values = r.rest();
        Ok((head, stats))
    }
}

/// Encodes chunks; keeps its buffers from one to the next.
#[derive(Default)]
pub struct Encoder {
    floats: FloatScratch,
    ints: IntScratch,
    histograms: HistogramScratch,
    start: Vec<u8>,
    candidate: Vec<u8>,
    buckets: Vec<u8>,
    differences: Vec<i64>,
    payload: Vec<u8>,
}

impl Encoder {
    /// A new one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Encodes samples `range` of `column` (not empty, at most [`super::SAMPLES_MAX`]) with times of their own.
    pub fn encode(&mut self, column: &SampleColumn, range: Range<usize>) -> Chunk {
        let time = Arc::new(TimeColumn::encode(&column.ts[range.clone()]));
        self.encode_with(time, column, range)
    }

    /// The same, where `time` holds the encoded times of the range.
    pub fn encode_with(&mut self, time: Arc<TimeColumn>, column: &SampleColumn, range: Range<usize>) -> Chunk {
        let n = range.len();
        let values = &column.values[range.clone()];
        let lo = column.histograms.partition_point(|(p, _)| (*p as usize) < range.start);
        let hi = column.histograms.partition_point(|(p, _)| (*p as usize) < range.end);
        let histograms = &column.histograms[lo..hi];
        let start_ts = if column.start_ts.is_empty() { &[][..] } else { &column.start_ts[range.clone()] };

        let counted = Counted::of(values);
        let Counted { stale, nan, falls, first, last, min, max, is_constant: constant } = counted;
        let figures = !counted.has_nan() && histograms.is_empty();

        let out = &mut self.payload;
        out.clear();
        let has_start = start_ts.iter().any(|s| *s != 0);
        let mut flags = 0;
        for (bit, on) in [
            (HISTOGRAMS, !histograms.is_empty()),
            (ALL_HISTOGRAMS, !histograms.is_empty() && histograms.len() == n),
            (START, has_start),
            (STALE, stale > 0),
            (NAN, nan > 0),
            (FIGURES, figures),
            (FALLS, figures && falls > 0),
            (CONSTANT, constant),
        ] {
            if on {
                flags |= bit;
            }
        }
        out.push(flags);
        if stale > 0 {
            put_varint(out, stale);
        }
        if nan > 0 {
            put_varint(out, nan);
        }
        if constant {
            put_float(out, first);
        } else if figures {
            if falls > 0 {
                put_varint(out, falls);
                put_floats(out, &[first, last, min, max]);
            } else {
                // Values that never fall: the first is the smallest, the last the largest.
                put_floats(out, &[first, last]);
            }
        }
        if has_start {
            encode_start(
                start_ts,
                &column.ts[range.clone()],
                &mut self.differences,
                &mut self.ints,
                &mut self.candidate,
                &mut self.start,
            );
            put_varint(out, self.start.len() as u64);
        }
        if !histograms.is_empty() {
            self.buckets.clear();
            histogram::encode(
                histograms,
                range.start as u32,
                n,
                &mut self.histograms,
                &mut self.floats,
                &mut self.buckets,
            );
            put_varint(out, self.buckets.len() as u64);
        }
        if has_start {
            out.extend_from_slice(&self.start);
        }
        if !histograms.is_empty() {
            out.extend_from_slice(&self.buckets);
        }
        if !constant {
            float::encode(values, &mut self.floats, out);
        }
        Chunk { time, payload: Bytes::copy_from_slice(out) }
    }
}

/// Start timestamps: as they are (mostly constant), or against the time of the sample before (deltas).
fn encode_start(
    start: &[i64],
    ts: &[i64],
    differences: &mut Vec<i64>,
    scratch: &mut IntScratch,
    candidate: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    out.clear();
    out.push(START_PLAIN);
    ints::encode(start, scratch, out);
    differences.clear();
    let before = ts.first().copied().into_iter().chain(ts.iter().copied());
    differences.extend(start.iter().zip(before).map(|(s, t)| s.wrapping_sub(t)));
    candidate.clear();
    candidate.push(START_BEFORE);
    ints::encode(differences, scratch, candidate);
    if candidate.len() < out.len() {
        std::mem::swap(candidate, out);
    }
}

/// Columns of times a decoder remembers: the chunks of one series over a range, again and again for its neighbours.
const TIMES_KEPT: usize = 8;

#[derive(Default)]
struct KeptTimes {
    uid: u64,
    ts: Vec<i64>,
}

/// Decodes chunks; keeps the times it decoded last, which the next series often shares.
#[derive(Default)]
pub struct Decoder {
    times: [KeptTimes; TIMES_KEPT],
    next: usize,
    values: Vec<f64>,
    starts: Vec<i64>,
}

impl Decoder {
    /// A new one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The slot that holds the decoded times.
    fn kept(&mut self, time: &TimeColumn) -> Result<usize, Damaged> {
        if let Some(slot) = self.times.iter().position(|k| k.uid == time.uid() && k.ts.len() == time.count()) {
            return Ok(slot);
        }
        let slot = self.next;
        self.next = (slot + 1) % TIMES_KEPT;
        let kept = &mut self.times[slot];
        kept.uid = 0;
        kept.ts.clear();
        time.decode(&mut kept.ts)?;
        kept.uid = time.uid();
        Ok(slot)
    }

    /// Appends the samples of `chunk` in `range` to `out`; times there must all be earlier. Columns that are not
    /// needed come as zeros (values), empty (buckets) or zeros and nothing (start timestamps).
    pub fn decode_into(
        &mut self,
        chunk: ChunkRef<'_>,
        need: Need,
        range: TimeRange,
        out: &mut SampleColumn,
    ) -> Result<(), Damaged> {
        if !range.overlaps(chunk.time.min(), chunk.time.max()) {
            return Ok(());
        }
        let slot = self.kept(chunk.time)?;
        let ts = std::mem::take(&mut self.times[slot].ts);
        let result = self.decode_at(&ts, chunk.payload, need, range, out);
        self.times[slot].ts = ts;
        result
    }

    /// [`Decoder::decode_into`] for a chunk whose decoded times are at hand.
    pub fn decode_at(
        &mut self,
        ts: &[i64],
        payload: &[u8],
        need: Need,
        range: TimeRange,
        out: &mut SampleColumn,
    ) -> Result<(), Damaged> {
        let (Some(min), Some(max)) = (ts.first(), ts.last()) else { return Ok(()) };
        let n = ts.len();
        let (lo, hi) = if range.covers(*min, *max) {
            (0, n)
        } else {
            (ts.partition_point(|t| *t < range.min), ts.partition_point(|t| *t <= range.max))
        };
        if lo >= hi {
            return Ok(());
        }
        let (head, _) = Head::parse(payload, n)?;
        let begin = out.ts.len();
        let result = self.decode_columns(&head, ts, need, n, lo, hi, begin, out);
        if result.is_err() {
            out.ts.truncate(begin);
            out.values.truncate(begin);
            out.start_ts.truncate(begin);
            out.histograms.retain(|(p, _)| (*p as usize) < begin);
        }
        result
    }

    fn decode_columns(
        &mut self,
        head: &Head<'_>,
        ts: &[i64],
        need: Need,
        n: usize,
        lo: usize,
        hi: usize,
        begin: usize,
        out: &mut SampleColumn,
    ) -> Result<(), Damaged> {
        out.ts.extend_from_slice(&ts[lo..hi]);
        if let Some(v) = head.constant {
            out.values.resize(begin + hi - lo, v);
        } else if need.values || head.histograms.is_some() {
            float::decode(head.values, n, lo, hi, &mut out.values)?;
        } else {
            out.values.resize(begin + hi - lo, 0.0);
        }
        if let Some(bytes) = head.start
            && need.start_ts
        {
            self.starts.clear();
            let mut r = Reader::new(bytes);
            let kind = r.u8()?;
            ints::decode_vec(r.rest(), n, &mut self.starts)?;
            match kind {
                START_PLAIN => {}
                START_BEFORE => {
                    let before = ts.first().copied().into_iter().chain(ts.iter().copied());
                    self.starts.iter_mut().zip(before).for_each(|(s, t)| *s = s.wrapping_add(t));
                }
                _ => return Err(Damaged("unknown start timestamp codec")),
            }
            out.start_ts.resize(begin, 0);
            out.start_ts.extend_from_slice(self.starts.get(lo..hi).ok_or(Damaged("start timestamps end early"))?);
        } else if !out.start_ts.is_empty() {
            out.start_ts.resize(begin + hi - lo, 0);
        }
        if let Some(bytes) = head.histograms {
            self.values.clear();
            self.values.extend_from_slice(&out.values[begin..]);
            let sums = &self.values;
            let histograms = &mut out.histograms;
            histogram::decode(
                bytes,
                n,
                lo,
                hi,
                need.buckets,
                |i| sums[i],
                |at, h| {
                    histograms.push((begin as u32 + at, h));
                },
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::float::tests::nasty;
    use super::*;
    use proptest::prelude::*;
    use quiver_model::{Histogram, ResetHint, STALE_NAN, Span};

    pub(crate) fn equal_to_the_bit(a: &SampleColumn, b: &SampleColumn) -> Result<(), String> {
        if a.ts != b.ts {
            return Err(format!("times differ: {:?} {:?}", a.ts, b.ts));
        }
        if a.histograms.len() != b.histograms.len() {
            return Err("histogram counts differ".into());
        }
        for i in 0..a.len() {
            if a.values[i].to_bits() != b.values[i].to_bits() {
                return Err(format!("value {i}: {} {}", a.values[i], b.values[i]));
            }
            if a.start_at(i) != b.start_at(i) {
                return Err(format!("start {i}: {} {}", a.start_at(i), b.start_at(i)));
            }
        }
        for ((p, g), (q, h)) in a.histograms.iter().zip(&b.histograms) {
            if p != q || g.total_cmp(h).is_ne() {
                return Err(format!("histogram {p} {q}: {g:?} {h:?}"));
            }
        }
        Ok(())
    }

    prop_compose! {
        pub(crate) fn any_histogram()(
            hint in 0u8..4, schema in prop_oneof![Just(-53), -4i32..9], width in 1u32..6, negative in 0u32..3,
            whole in any::<bool>(), seed in proptest::collection::vec(nasty(), 12), sum in nasty(),
            ints in proptest::collection::vec(0u32..1000, 12), offset in -3i32..3,
        ) -> Histogram {
            let bucket = |i: u32| {
                if whole { f64::from(ints[i as usize]) } else { seed[i as usize] }
            };
            Histogram {
                reset_hint: [ResetHint::Unknown, ResetHint::Yes, ResetHint::No, ResetHint::Gauge][hint as usize],
                schema,
                zero_threshold: if whole { 0.001 } else { seed[0] },
                zero_count: bucket(1),
                count: bucket(2),
                sum,
                positive_spans: vec![Span { offset, length: width }],
                negative_spans: if negative == 0 { vec![] } else { vec![Span { offset: 1, length: negative }] },
                positive_buckets: (0..width).map(|i| bucket(3 + i)).collect(),
                negative_buckets: (0..negative).map(|i| bucket(9 + i)).collect(),
                custom_values: if schema == -53 { (1..width).map(f64::from).collect() } else { vec![] },
            }
        }
    }

    prop_compose! {
        pub(crate) fn any_column(max: usize)(
            mode in 0u8..4, regular in any::<bool>(), begin in -1_000_000i64..1_000_000,
            rows in proptest::collection::vec((1i64..30, nasty(), any_histogram(), 0u8..4, any::<i64>()), 1..max),
            same in any_histogram(), starts in 0u8..3,
        ) -> SampleColumn {
            let mut column = SampleColumn::default();
            let mut t = begin;
            for (i, (step, v, h, pick, start)) in rows.into_iter().enumerate() {
                t += if regular { 15 } else { step };
                let start = match starts { 0 => 0, 1 => begin - 5, _ => start };
                let histogram = match mode { 0 | 1 => false, 2 => pick == 0, _ => true };
                if histogram {
                    let mut h = if pick > 1 { same.clone() } else { h };
                    if pick > 1 {
                        h.positive_buckets[0] = i as f64;
                    }
                    column.push_histogram(t, Arc::new(h), start);
                } else {
                    column.push_float(t, if mode == 0 { (i / 7) as f64 } else { v }, start);
                }
            }
            column
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn columns_round_trip(column in any_column(80), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
            let chunk = Encoder::new().encode(&column, 0..column.len());
            let mut decoder = Decoder::new();
            let mut out = SampleColumn::default();
            decoder.decode_into(chunk.as_ref(), Need::ALL, TimeRange::ALL, &mut out).unwrap();
            equal_to_the_bit(&column, &out).map_err(TestCaseError::fail)?;
            prop_assert_eq!(chunk.as_ref().stats().unwrap(), ChunkStats::of_samples(&out));

            let (a, b) = (a.index(column.len()), b.index(column.len()));
            let (lo, hi) = (a.min(b), a.max(b));
            let mut part = SampleColumn::default();
            part.extend_from(&column, lo..hi + 1);
            out.clear();
            let range = TimeRange { min: column.ts[lo], max: column.ts[hi] };
            decoder.decode_into(chunk.as_ref(), Need::ALL, range, &mut out).unwrap();
            equal_to_the_bit(&part, &out).map_err(TestCaseError::fail)?;

            // A chunk of the middle, appended to what is there.
            let chunk = Encoder::new().encode(&column, lo..column.len());
            out.clear();
            out.extend_from(&column, 0..lo);
            decoder.decode_into(chunk.as_ref(), Need::ALL, TimeRange::ALL, &mut out).unwrap();
            equal_to_the_bit(&column, &out).map_err(TestCaseError::fail)?;
        }

        #[test]
        fn figures_are_those_of_the_samples(values in proptest::collection::vec(nasty(), 1..100)) {
            let mut column = SampleColumn::default();
            for (i, v) in values.iter().enumerate() {
                column.push_float(i as i64, *v, 0);
            }
            let stats = Encoder::new().encode(&column, 0..values.len()).as_ref().stats().unwrap();
            let stale = values.iter().filter(|v| is_stale(**v)).count();
            prop_assert_eq!(stats.stale as usize, stale);
            prop_assert_eq!(stats.nan as usize, values.iter().filter(|v| v.is_nan()).count() - stale);
            prop_assert_eq!(stats.values.is_some(), !values.iter().any(|v| v.is_nan()));
            if let Some(s) = stats.values {
                prop_assert_eq!(s.first.to_bits(), values[0].to_bits());
                prop_assert_eq!(s.last.to_bits(), values[values.len() - 1].to_bits());
                prop_assert_eq!(s.min, values.iter().copied().fold(f64::INFINITY, f64::min));
                prop_assert_eq!(s.max, values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
                prop_assert_eq!(s.resets as usize, values.windows(2).filter(|w| w[1] < w[0]).count());
            }
        }

        #[test]
        fn damaged_payloads_never_panic(column in any_column(60), at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let chunk = Encoder::new().encode(&column, 0..column.len());
            let mut payload = chunk.payload().to_vec();
            let at = at.index(payload.len());
            payload[at] = with;
            for bytes in [&payload[..], &payload[..at]] {
                let mut out = SampleColumn::default();
                let broken = ChunkRef { time: chunk.time(), payload: bytes };
                let _ = broken.stats();
                if Decoder::new().decode_into(broken, Need::ALL, TimeRange::ALL, &mut out).is_err() {
                    prop_assert!(out.is_empty() && out.histograms.is_empty());
                }
            }
        }
    }

    #[test]
    fn columns_that_are_not_needed_cost_nothing() {
        let mut column = SampleColumn::default();
        for i in 0..200i64 {
            column.push_float(i * 15_000, (i * i) as f64, 7);
        }
        column.push_float(200 * 15_000, STALE_NAN, 7);
        let chunk = Encoder::new().encode(&column, 0..201);
        let need = Need { values: false, buckets: false, start_ts: false };
        let mut out = SampleColumn::default();
        Decoder::new().decode_into(chunk.as_ref(), need, TimeRange::ALL, &mut out).unwrap();
        assert_eq!(out.ts, column.ts);
        assert!(out.values.iter().all(|v| *v == 0.0) && out.start_ts.is_empty());
        assert_eq!(chunk.as_ref().stats().unwrap().stale, 1);
    }

    #[test]
    fn a_constant_chunk_is_a_few_bytes() {
        let mut column = SampleColumn::default();
        for i in 0..480 {
            column.push_float(i * 15_000, 1.0, 0);
        }
        let chunk = Encoder::new().encode(&column, 0..480);
        assert_eq!(chunk.payload().len(), 3);
        assert_eq!(chunk.as_ref().codec_name(), "constant");
    }
}
