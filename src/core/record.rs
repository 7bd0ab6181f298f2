//! The payload of a log frame: one write batch, columnar. `FORMAT.md` beside this file gives the bytes.
//!
//! ```text
//! version │ sections │ definitions │ series refs (runs) │ floats │ start times │ histograms │ exemplars │ metadata
//! ```
//!
//! Invariants
//! 1. A frame says what its refs mean or an earlier frame of the same segment does; each label set stands in two
//!    frames of a segment as soon as two frames use it, so one damaged frame orphans nothing.
//! 2. Decoding checks every bound, and what it allocates is at most a small multiple of the payload.

use quiver_model::batch::BatchHistogram;
use quiver_model::{
    BatchSeries, Exemplar, Histogram, Labels, LabelsRef, Metadata, MetricKind, ResetHint, Span, WriteBatch,
};

use crate::wire::{Cursor, put_bytes, put_varint, put_zigzag};

/// Version written now.
const VERSION: u8 = 1;
/// The id of a series that was refused: it is left out.
pub(crate) const NO_SERIES: u32 = u32::MAX;

const FLOATS: u8 = 1;
const STARTS: u8 = 2;
const HISTOGRAMS: u8 = 4;
const EXEMPLARS: u8 = 8;
const METADATA: u8 = 16;

/// A payload that does not parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at} of the record")]
pub struct RecordError {
    /// Where.
    pub at: usize,
    /// What was wrong.
    pub what: &'static str,
}

/// Which series have which local refs in the segment being written.
#[derive(Debug, Default)]
pub(crate) struct SegmentRefs {
    /// By head generation: for each series id 0, or `(ref + 1) << 1 | repeated`.
    generations: Vec<(u64, Vec<u32>)>,
    next: u32,
}

impl SegmentRefs {
    fn of(&mut self, generation: u64) -> (&mut Vec<u32>, &mut u32) {
        let at = match self.generations.iter().position(|(g, _)| *g == generation) {
            Some(at) => at,
            None => {
                // During a hand-over two generations interleave; older ones are done with.
                self.generations.retain(|(g, _)| *g + 1 >= generation);
                self.generations.push((generation, Vec::new()));
                self.generations.len() - 1
            }
        };
        (&mut self.generations[at].1, &mut self.next)
    }
}

fn slice<T>(all: &[T], range: (u32, u32)) -> &[T] {
    all.get(range.0 as usize..range.1 as usize).unwrap_or(&[])
}

fn wanted(s: &BatchSeries, id: u32) -> bool {
    id != NO_SERIES && (s.floats.0 < s.floats.1 || s.histograms.0 < s.histograms.1 || s.exemplars.0 < s.exemplars.1)
}

/// Encodes a batch whose series have the ids `ids` in head generation `generation`.
pub(crate) fn encode(batch: &WriteBatch, ids: &[u32], generation: u64, refs: &mut SegmentRefs, out: &mut Vec<u8>) {
    let (table, next) = refs.of(generation);
    let series = || batch.series.iter().zip(ids).filter(|(s, id)| wanted(s, **id));
    let mut sections = 0;
    let (mut entries, mut floats, mut histograms, mut exemplars) = (0u64, 0u64, 0u64, 0u64);
    for (s, _) in series() {
        entries += 1;
        floats += u64::from(s.floats.1 - s.floats.0);
        histograms += u64::from(s.histograms.1 - s.histograms.0);
        exemplars += u64::from(s.exemplars.1 - s.exemplars.0);
    }
    for (bit, some) in [
        (FLOATS, floats > 0),
        (STARTS, floats > 0 && !batch.start_ts.is_empty()),
        (HISTOGRAMS, histograms > 0),
        (EXEMPLARS, exemplars > 0),
        (METADATA, !batch.metadata.is_empty()),
    ] {
        if some {
            sections |= bit;
        }
    }
    out.reserve(64 + 10 * floats as usize);
    out.extend_from_slice(&[VERSION, sections]);
    put_definitions(batch, ids, table, next, out);
    put_varint(out, entries);
    let mut expected = 0i64;
    let mut run: Option<(i64, u64)> = None;
    for (_, id) in series() {
        let r = i64::from(table.get(*id as usize).map_or(0, |x| (x >> 1).wrapping_sub(1)));
        match &mut run {
            Some((start, n)) if *start + *n as i64 == r => *n += 1,
            _ => {
                if let Some((start, n)) = run {
                    put_zigzag(out, start - expected);
                    put_varint(out, n);
                    expected = start + n as i64;
                }
                run = Some((r, 1));
            }
        }
    }
    if let Some((start, n)) = run {
        put_zigzag(out, start - expected);
        put_varint(out, n);
    }
    if sections & FLOATS != 0 {
        put_floats(batch, ids, floats, out);
    }
    if sections & STARTS != 0 {
        put_starts(batch, ids, out);
    }
    if sections & HISTOGRAMS != 0 {
        put_varint(out, histograms);
        let mut last_ts = 0i64;
        let mut last_entry = 0;
        for (entry, (s, _)) in series().enumerate() {
            for h in slice(&batch.histograms, s.histograms) {
                put_varint(out, (entry - last_entry) as u64);
                last_entry = entry;
                put_zigzag(out, h.ts.wrapping_sub(last_ts));
                last_ts = h.ts;
                put_zigzag(out, h.start_ts);
                put_histogram(out, &h.histogram);
            }
        }
    }
    if sections & EXEMPLARS != 0 {
        put_varint(out, exemplars);
        let mut last_entry = 0;
        for (entry, (s, _)) in series().enumerate() {
            for e in slice(&batch.exemplars, s.exemplars) {
                put_varint(out, (entry - last_entry) as u64);
                last_entry = entry;
                out.extend_from_slice(&e.ts.to_le_bytes());
                out.extend_from_slice(&e.value.to_bits().to_le_bytes());
                put_bytes(out, e.labels.packed());
            }
        }
    }
    if sections & METADATA != 0 {
        put_varint(out, batch.metadata.len() as u64);
        for (name, m) in &batch.metadata {
            put_bytes(out, name.as_bytes());
            out.push(m.kind as u8);
            put_bytes(out, m.unit.as_bytes());
            put_bytes(out, m.help.as_bytes());
        }
    }
}

/// Writes the label sets that this segment has not seen twice, and gives refs to the new ones.
fn put_definitions(batch: &WriteBatch, ids: &[u32], table: &mut Vec<u32>, next: &mut u32, out: &mut Vec<u8>) {
    // The count comes first; one byte is enough for most frames, so shift the rest where it is not.
    let at = out.len();
    let mut definitions = 0u64;
    // Refs given by this very frame are not repeated by it.
    let first_new = *next;
    for (s, id) in batch.series.iter().zip(ids).filter(|(s, id)| wanted(s, **id)) {
        let slot = *id as usize;
        if slot >= table.len() {
            table.resize(slot + 1 + slot / 8, 0);
        }
        let entry = &mut table[slot];
        if *entry == 0 {
            *entry = (*next + 1) << 1;
            *next += 1;
        } else if *entry & 1 == 0 && (*entry >> 1) - 1 < first_new {
            *entry |= 1;
        } else {
            continue;
        }
        definitions += 1;
        put_varint(out, u64::from((*entry >> 1) - 1));
        put_bytes(out, slice(&batch.label_bytes, s.labels));
    }
    let end = out.len();
    put_varint(out, definitions);
    let width = out.len() - end;
    out[at..].rotate_right(width);
}

fn put_floats(batch: &WriteBatch, ids: &[u32], total: u64, out: &mut Vec<u8>) {
    let series = || batch.series.iter().zip(ids).filter(|(s, id)| wanted(s, **id)).map(|(s, _)| s);
    put_varint(out, total);
    let mut counts = series().map(|s| s.floats.1 - s.floats.0);
    let first = counts.next().unwrap_or(0);
    let equal = counts.all(|n| n == first);
    if equal {
        out.push(0);
        put_varint(out, u64::from(first));
    } else {
        out.push(1);
        series().for_each(|s| put_varint(out, u64::from(s.floats.1 - s.floats.0)));
    }
    // One run of times for every series, or each its own.
    let run = series().next().map_or(&[][..], |s| slice(&batch.ts, s.floats));
    let shared = equal && series().all(|s| slice(&batch.ts, s.floats) == run);
    out.push(u8::from(!shared));
    let mut last = 0i64;
    let mut put = |t: i64| {
        put_zigzag(out, t.wrapping_sub(last));
        last = t;
    };
    if shared {
        run.iter().for_each(|t| put(*t));
    } else {
        series().for_each(|s| slice(&batch.ts, s.floats).iter().for_each(|t| put(*t)));
    }
    for s in series() {
        for v in slice(&batch.values, s.floats) {
            out.extend_from_slice(&v.to_bits().to_le_bytes());
        }
    }
}

fn put_starts(batch: &WriteBatch, ids: &[u32], out: &mut Vec<u8>) {
    let mut last = 0i64;
    for (s, _) in batch.series.iter().zip(ids).filter(|(s, id)| wanted(s, **id)) {
        for k in s.floats.0..s.floats.1 {
            let t = batch.start_ts.get(k as usize).copied().unwrap_or(0);
            put_zigzag(out, t.wrapping_sub(last));
            last = t;
        }
    }
}

/// Counts as whole numbers where they are, else as floats.
fn put_counts(out: &mut Vec<u8>, counts: &[f64]) {
    let whole = |v: &f64| *v >= 0.0 && *v <= 9_007_199_254_740_992.0 && (*v as u64 as f64).to_bits() == v.to_bits();
    let all = counts.iter().all(whole);
    out.push(u8::from(!all));
    for v in counts {
        if all {
            put_varint(out, *v as u64);
        } else {
            out.extend_from_slice(&v.to_bits().to_le_bytes());
        }
    }
}

fn put_histogram(out: &mut Vec<u8>, h: &Histogram) {
    out.push(h.reset_hint as u8);
    put_zigzag(out, i64::from(h.schema));
    for v in [h.zero_threshold, h.sum] {
        out.extend_from_slice(&v.to_bits().to_le_bytes());
    }
    put_counts(out, &[h.zero_count, h.count]);
    for (spans, buckets) in [(&h.positive_spans, &h.positive_buckets), (&h.negative_spans, &h.negative_buckets)] {
        put_varint(out, spans.len() as u64);
        for s in spans {
            put_zigzag(out, i64::from(s.offset));
            put_varint(out, u64::from(s.length));
        }
        put_varint(out, buckets.len() as u64);
        put_counts(out, buckets);
    }
    put_varint(out, h.custom_values.len() as u64);
    for v in &h.custom_values {
        out.extend_from_slice(&v.to_bits().to_le_bytes());
    }
}

/// A decoded payload: the batch without its labels, the local ref of each of its series, and the refs it defines.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// (ref, range of `labels`); the packed sets were checked.
    pub(crate) definitions: Vec<(u32, LabelsAt)>,
    /// Local refs of `batch.series`.
    pub(crate) refs: Vec<u32>,
    /// The samples; every series' label range is empty.
    pub(crate) batch: WriteBatch,
}

/// Where a packed label set stands in the payload.
pub(crate) type LabelsAt = std::ops::Range<usize>;

impl Record {
    /// Decodes a payload into `self`, whose buffers are used again.
    pub(crate) fn decode(&mut self, payload: &[u8]) -> Result<(), RecordError> {
        self.definitions.clear();
        self.refs.clear();
        self.batch.clear();
        let mut c = Cursor::new(payload);
        if c.u8()? != VERSION {
            return Err(RecordError { at: 0, what: "an unknown record version" });
        }
        let sections = c.u8()?;
        if sections & !(FLOATS | STARTS | HISTOGRAMS | EXEMPLARS | METADATA) != 0 {
            return Err(RecordError { at: 1, what: "an unknown section" });
        }
        for _ in 0..c.count(2)? {
            let r = c.u32()?;
            let bytes = c.len_bytes()?;
            LabelsRef::from_packed(bytes).map_err(|_| c.error("a label set that does not parse"))?;
            self.definitions.push((r, c.at() - bytes.len()..c.at()));
        }
        let entries = c.count(1)?;
        let mut expected = 0i64;
        while self.refs.len() < entries {
            let start = c.zigzag()?.checked_add(expected).and_then(|s| u32::try_from(s).ok());
            let start = start.ok_or_else(|| c.error("a series ref out of range"))?;
            let run = c.u32()?;
            let end = start.checked_add(run).filter(|_| run > 0 && run as usize <= entries - self.refs.len());
            let end = end.ok_or_else(|| c.error("a run of series refs out of range"))?;
            self.refs.extend(start..end);
            expected = i64::from(end);
        }
        self.batch.series.resize(entries, BatchSeries::default());
        if sections & FLOATS != 0 {
            self.floats(&mut c)?;
        }
        if sections & STARTS != 0 {
            let mut last = 0i64;
            for _ in 0..self.batch.ts.len() {
                last = last.wrapping_add(c.zigzag()?);
                self.batch.start_ts.push(last);
            }
        }
        if sections & HISTOGRAMS != 0 {
            self.histograms(&mut c)?;
        }
        if sections & EXEMPLARS != 0 {
            self.exemplars(&mut c)?;
        }
        if sections & METADATA != 0 {
            for _ in 0..c.count(4)? {
                let name = c.string()?;
                let kind = MetricKind::from_number(u32::from(c.u8()?));
                self.batch.metadata.push((name, Metadata { kind, unit: c.string()?, help: c.string()? }));
            }
        }
        if c.remaining() > 0 {
            return Err(c.error("bytes after the end of the record"));
        }
        Ok(())
    }

    fn floats(&mut self, c: &mut Cursor<'_>) -> Result<(), RecordError> {
        let batch = &mut self.batch;
        let total = c.count(8)?;
        let equal = match c.u8()? {
            0 => Some(c.u32()?),
            1 => None,
            _ => return Err(c.error("an unknown layout of counts")),
        };
        let mut at = 0u32;
        for s in &mut batch.series {
            let n = match equal {
                Some(n) => n,
                None => c.u32()?,
            };
            let end = at.checked_add(n).filter(|e| *e as usize <= total);
            let end = end.ok_or_else(|| c.error("sample counts exceed the total"))?;
            s.floats = (at, end);
            at = end;
        }
        if at as usize != total {
            return Err(c.error("sample counts do not add up"));
        }
        let shared = match c.u8()? {
            0 => true,
            1 => false,
            _ => return Err(c.error("an unknown layout of times")),
        };
        let run = if shared { equal.map_or(0, |n| n as usize).min(total) } else { total };
        let mut last = 0i64;
        for _ in 0..run {
            last = last.wrapping_add(c.zigzag()?);
            batch.ts.push(last);
        }
        if shared {
            for _ in 1..batch.series.len() {
                batch.ts.extend_from_within(..run);
            }
        }
        if batch.ts.len() != total {
            return Err(c.error("times do not add up"));
        }
        let values = c.bytes(total.saturating_mul(8))?;
        let (values, _) = values.as_chunks::<8>();
        batch.values.extend(values.iter().map(|b| f64::from_bits(u64::from_le_bytes(*b))));
        Ok(())
    }

    /// Ranges of entries for things listed with (delta of) their entry, ascending.
    fn histograms(&mut self, c: &mut Cursor<'_>) -> Result<(), RecordError> {
        let mut entry = 0usize;
        let mut ts = 0i64;
        for k in 0..c.count(20)? as u32 {
            entry = entry.saturating_add(c.u32()? as usize);
            ts = ts.wrapping_add(c.zigzag()?);
            let start_ts = c.zigzag()?;
            let histogram = read_histogram(c)?;
            self.batch.histograms.push(BatchHistogram { ts, start_ts, histogram });
            let s = self.batch.series.get_mut(entry).ok_or_else(|| c.error("a histogram of no series"))?;
            if s.histograms.0 == s.histograms.1 {
                s.histograms = (k, k);
            }
            s.histograms.1 += 1;
        }
        Ok(())
    }

    fn exemplars(&mut self, c: &mut Cursor<'_>) -> Result<(), RecordError> {
        let mut entry = 0usize;
        for k in 0..c.count(18)? as u32 {
            entry = entry.saturating_add(c.u32()? as usize);
            let ts = c.i64()?;
            let value = c.f64()?;
            let labels = Labels::from_packed(c.len_bytes()?).map_err(|_| c.error("exemplar labels do not parse"))?;
            self.batch.exemplars.push(Exemplar { labels, value, ts });
            let s = self.batch.series.get_mut(entry).ok_or_else(|| c.error("an exemplar of no series"))?;
            if s.exemplars.0 == s.exemplars.1 {
                s.exemplars = (k, k);
            }
            s.exemplars.1 += 1;
        }
        Ok(())
    }
}

fn read_counts(c: &mut Cursor<'_>, n: usize) -> Result<Vec<f64>, RecordError> {
    match c.u8()? {
        0 => (0..n).map(|_| c.varint().map(|v| v as f64)).collect(),
        1 => (0..n).map(|_| c.f64()).collect(),
        _ => Err(c.error("an unknown layout of bucket counts")),
    }
}

fn read_histogram(c: &mut Cursor<'_>) -> Result<Histogram, RecordError> {
    let reset_hint = match c.u8()? {
        0 => ResetHint::Unknown,
        1 => ResetHint::Yes,
        2 => ResetHint::No,
        3 => ResetHint::Gauge,
        _ => return Err(c.error("an unknown reset hint")),
    };
    let schema = i32::try_from(c.zigzag()?).map_err(|_| c.error("a schema out of range"))?;
    let (zero_threshold, sum) = (c.f64()?, c.f64()?);
    let counts = read_counts(c, 2)?;
    let mut sides: [(Vec<Span>, Vec<f64>); 2] = Default::default();
    for (spans, buckets) in &mut sides {
        for _ in 0..c.count(2)? {
            let offset = i32::try_from(c.zigzag()?).map_err(|_| c.error("a span out of range"))?;
            spans.push(Span { offset, length: c.u32()? });
        }
        let n = c.count(1)?;
        *buckets = read_counts(c, n)?;
    }
    let n = c.count(8)?;
    let custom_values = (0..n).map(|_| c.f64()).collect::<Result<_, _>>()?;
    let [(positive_spans, positive_buckets), (negative_spans, negative_buckets)] = sides;
    Ok(Histogram {
        reset_hint,
        schema,
        zero_threshold,
        zero_count: counts[0],
        count: counts[1],
        sum,
        positive_spans,
        negative_spans,
        positive_buckets,
        negative_buckets,
        custom_values,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{arbitrary_batch, batch_of};
    use proptest::prelude::*;

    fn ids(batch: &WriteBatch) -> Vec<u32> {
        (0..batch.series.len() as u32).collect()
    }

    /// What a batch says, in a form that does not depend on how its columns are laid out.
    fn facts(batch: &WriteBatch, name: impl Fn(usize) -> Vec<u8>) -> Vec<String> {
        let mut out = Vec::new();
        for (i, s) in batch.series.iter().enumerate() {
            let name = name(i);
            for k in s.floats.0 as usize..s.floats.1 as usize {
                let start = batch.start_ts.get(k).copied().unwrap_or(0);
                out.push(format!("{name:?} {} {:x} {start}", batch.ts[k], batch.values[k].to_bits()));
            }
            for h in slice(&batch.histograms, s.histograms) {
                out.push(format!("{name:?} {h:?}"));
            }
            for e in slice(&batch.exemplars, s.exemplars) {
                out.push(format!("{name:?} {e:?}"));
            }
        }
        out.push(format!("{:?}", batch.metadata));
        out
    }

    fn names(record: &Record, payload: &[u8]) -> std::collections::HashMap<u32, Vec<u8>> {
        record.definitions.iter().map(|(r, at)| (*r, payload[at.clone()].to_vec())).collect()
    }

    proptest! {
        #[test]
        fn any_batch_round_trips(batch in arbitrary_batch(5)) {
            let mut payload = Vec::new();
            encode(&batch, &ids(&batch), 1, &mut SegmentRefs::default(), &mut payload);
            let mut record = Record::default();
            record.decode(&payload).unwrap();
            let names = names(&record, &payload);
            let want = facts(&batch, |i| slice(&batch.label_bytes, batch.series[i].labels).to_vec());
            prop_assert_eq!(facts(&record.batch, |i| names[&record.refs[i]].clone()), want);
        }

        #[test]
        fn any_damage_is_an_error_or_a_record_never_a_panic(
            batch in arbitrary_batch(3), at in 0usize..4096, byte in any::<u8>(), cut in 0usize..4096,
        ) {
            let mut payload = Vec::new();
            encode(&batch, &ids(&batch), 1, &mut SegmentRefs::default(), &mut payload);
            let mut record = Record::default();
            let cut = cut % (payload.len() + 1);
            if cut < payload.len() {
                prop_assert!(record.decode(&payload[..cut]).is_err());
            }
            let at = at % payload.len();
            payload[at] = byte;
            let _ = record.decode(&payload);
        }
    }

    #[test]
    fn a_label_set_is_logged_at_its_first_two_uses_in_a_segment() {
        let batch = batch_of(&[("a", &[(1, 1.0)]), ("b", &[(1, 2.0)])]);
        let mut refs = SegmentRefs::default();
        let mut defined = Vec::new();
        for _ in 0..4 {
            let mut payload = Vec::new();
            encode(&batch, &ids(&batch), 7, &mut refs, &mut payload);
            let mut record = Record::default();
            record.decode(&payload).unwrap();
            assert_eq!(record.refs, [0, 1]);
            defined.push(record.definitions.len());
        }
        assert_eq!(defined, [2, 2, 0, 0]);
    }

    #[test]
    fn two_head_generations_may_interleave_in_one_segment() {
        let batch = batch_of(&[("a", &[(1, 1.0)])]);
        let mut refs = SegmentRefs::default();
        let mut seen = Vec::new();
        for generation in [1, 2, 1, 2] {
            let mut payload = Vec::new();
            encode(&batch, &[0], generation, &mut refs, &mut payload);
            let mut record = Record::default();
            record.decode(&payload).unwrap();
            seen.push((record.refs[0], record.definitions.len()));
        }
        assert_eq!(seen, [(0, 1), (1, 1), (0, 1), (1, 1)]);
    }

    #[test]
    fn a_scrape_costs_little_more_than_its_values() {
        let names: Vec<String> = (0..1000).map(|i| format!("series_{i}")).collect();
        let mut batch = WriteBatch::default();
        for n in &names {
            batch.begin_series([("__name__", n.as_str())]);
            batch.push_float(1_700_000_000_000, 1.5, 0);
        }
        let mut refs = SegmentRefs::default();
        let mut payload = Vec::new();
        for _ in 0..3 {
            payload.clear();
            encode(&batch, &ids(&batch), 1, &mut refs, &mut payload);
        }
        assert!(payload.len() < 8 * 1000 + 40, "{}", payload.len());
    }

    #[test]
    fn refused_series_are_left_out() {
        let batch = batch_of(&[("a", &[(1, 1.0)]), ("b", &[(1, 2.0)])]);
        let mut payload = Vec::new();
        encode(&batch, &[NO_SERIES, 4], 1, &mut SegmentRefs::default(), &mut payload);
        let mut record = Record::default();
        record.decode(&payload).unwrap();
        assert_eq!((record.refs.len(), record.batch.values.as_slice()), (1, &[2.0][..]));
    }
}
