//! A page of the head: up to 256 series that were registered together, hence mostly scraped together.
//!
//! ```text
//! page ── lock
//!   times   │ t0 t1 t2 … │ t0 t1 … │        one column per distinct run of times, shared by many series
//!   slots   │ series 0: (times 0, from 3) values ▸ sealed chunks │ late samples │
//!           │ series 1: (times 0, from 3) constant 7.0 × 41      │              │
//! ```
//!
//! A sample newer than all before it goes to the open column: eight bytes, or none while the value does not change. At
//! [`SEAL_SAMPLES`] the column is encoded with the codecs of blocks. A sample older than that goes to the late column,
//! which is sorted when it is read or full.
//!
//! Invariants
//! 1. In-order chunks of a slot and its open column are disjoint and ascending; late chunks may overlap anything.
//! 2. `times[slot.times].ts[slot.start..slot.start + slot.len]` are the times of the open column.
//! 3. A column of times that no slot uses is free.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::sync::Arc;

use quiver_model::sample::float_precedence;
use quiver_model::{Histogram, SampleColumn, Value};
use quiver_storage::codec::{CHUNK_HISTOGRAM_BYTES, CHUNK_SAMPLES, Chunk, Encoder, TimeColumn};
use smallvec::SmallVec;

use super::values::{Column, Values};
use crate::TimeRange;
use crate::merge::samples_in;

/// Series of one page.
pub(crate) const PAGE_SERIES: usize = 256;
/// Samples at which an open column is sealed.
pub(crate) const SEAL_SAMPLES: u32 = CHUNK_SAMPLES as u32;
/// Samples at which a late column is sealed.
const LATE_SAMPLES: usize = 256;
/// Width of the steps in which a series' span of time is known to cached rosters: 2^21 ms, about 35 minutes.
pub(crate) const COVER_SHIFT: u32 = 21;

/// A series has floats.
pub(crate) const FLOATS: u8 = 1;
/// A series has histograms.
pub(crate) const HISTOGRAMS: u8 = 2;
/// A series has start timestamps.
pub(crate) const STARTS: u8 = 4;

/// What a run of appends did; summed over a batch, then added to the head's counters once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Samples that were there with another value.
    pub(crate) conflicts: u64,
    /// Samples older than the newest of their series.
    pub(crate) late: u64,
    /// Change of memory held, bytes (about).
    pub(crate) bytes: i64,
    /// A series appeared or grew beyond the span that rosters know.
    pub(crate) roster_changed: bool,
}

#[derive(Debug, Default)]
struct Times {
    ts: Vec<i64>,
    users: u32,
    /// The run encoded last (from, length): the other series that seal it share it.
    encoded: Option<(u32, u32, Arc<TimeColumn>)>,
}

/// One late sample.
#[derive(Clone, Debug)]
struct Late {
    ts: i64,
    start: i64,
    value: f64,
    histogram: Option<Arc<Histogram>>,
}

/// What few series have.
#[derive(Debug, Default)]
struct Extra {
    /// (position in the open column, histogram).
    histograms: Vec<(u32, Arc<Histogram>)>,
    /// Start timestamps of the open column: empty, or one each.
    start_ts: Vec<i64>,
    late: Vec<Late>,
    late_sealed: Vec<Chunk>,
}

/// One series.
#[derive(Debug)]
struct Slot {
    sealed: Vec<Chunk>,
    extra: Option<Box<Extra>>,
    /// The newest sample; a histogram's sum.
    last: f64,
    min_ts: i64,
    /// Time of the newest sample.
    max_ts: i64,
    /// Values of the open column; not stored while all of them are `last`.
    values: Column,
    start: u32,
    len: u32,
    times: u16,
    /// 0: no sample yet.
    kinds: u8,
    last_is_histogram: bool,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            sealed: Vec::new(),
            extra: None,
            last: 0.0,
            min_ts: i64::MAX,
            max_ts: i64::MIN,
            values: Column::NONE,
            start: 0,
            len: 0,
            times: 0,
            kinds: 0,
            last_is_histogram: false,
        }
    }
}

/// What a series has in a range, taken under the page's lock and read after it.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// Disjoint, ascending, all before `open`.
    pub(crate) sealed: SmallVec<[Chunk; 4]>,
    /// Copy of the open column.
    pub(crate) open: SampleColumn,
    /// Sealed late chunks, in any order.
    pub(crate) late_sealed: SmallVec<[Chunk; 2]>,
    /// Copy of the late column, sorted.
    pub(crate) late: SampleColumn,
}

impl Pieces {
    /// Empties it and keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.sealed.clear();
        self.open.clear();
        self.late_sealed.clear();
        self.late.clear();
    }
}

/// What is known of a series without reading it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    /// Bits [`FLOATS`], [`HISTOGRAMS`], [`STARTS`]; 0: no sample.
    pub(crate) kinds: u8,
    pub(crate) min_ts: i64,
    pub(crate) max_ts: i64,
}

impl Summary {
    /// May it have samples in `range`, as far as a roster that is cached may know?
    pub(crate) fn may_cover(&self, range: TimeRange) -> bool {
        let steps = |t: i64| t >> COVER_SHIFT;
        self.kinds != 0 && steps(range.min) <= steps(self.max_ts) && steps(self.min_ts) <= steps(range.max)
    }
}

thread_local! {
    /// Encodes what is sealed, and the column it is copied to before.
    static SEALING: RefCell<(Encoder, SampleColumn)> = RefCell::default();
}

/// See the module. The lock is outside.
#[derive(Debug, Default)]
pub(crate) struct Page {
    slots: Vec<Slot>,
    values: Values,
    times: Vec<Times>,
    free: Vec<u16>,
    /// Columns of times begun last, newest first.
    recent: [u16; 4],
    /// Length at which the first columns of this page are sealed, so that pages take turns.
    first_seal: u32,
}

impl Page {
    /// The page numbered `number`.
    pub(crate) fn new(number: usize) -> Self {
        // Pages that start together would all seal at the same scrape; spread their first seal over 240..=480.
        let first_seal = SEAL_SAMPLES - ((number as u32 * 97) % 16) * (SEAL_SAMPLES / 32);
        Self { first_seal, ..Self::default() }
    }

    /// Adds a series without samples.
    pub(crate) fn push_series(&mut self) {
        self.slots.push(Slot::default());
    }

    /// Adds a float sample to the series in slot `i`.
    #[inline]
    pub(crate) fn push_float(&mut self, i: usize, t: i64, v: f64, start: i64, applied: &mut Applied) {
        let slot = &mut self.slots[i];
        if t > slot.max_ts || slot.kinds == 0 {
            let at = self.advance(i, t, applied);
            let slot = &mut self.slots[i];
            applied.bytes += slot.push_value(&mut self.values, at, v);
            slot.kinds |= FLOATS;
            slot.last_is_histogram = false;
            if start != 0 || slot.extra.is_some() {
                applied.bytes += slot.push_start(at, start);
            }
            self.seal_if_full(i, applied);
        } else if t == slot.max_ts && !slot.last_is_histogram && start == 0 && v.to_bits() == slot.last.to_bits() {
            // A repeat.
        } else {
            self.push_late(i, Late { ts: t, start, value: v, histogram: None }, applied);
        }
    }

    /// Adds a histogram sample to the series in slot `i`.
    pub(crate) fn push_histogram(&mut self, i: usize, t: i64, h: Arc<Histogram>, start: i64, applied: &mut Applied) {
        let slot = &mut self.slots[i];
        let (sum, bytes) = (h.sum, 160 + h.heap_bytes() as i64);
        if t > slot.max_ts || slot.kinds == 0 {
            let at = self.advance(i, t, applied);
            let slot = &mut self.slots[i];
            applied.bytes += bytes + slot.push_value(&mut self.values, at, sum);
            slot.kinds |= HISTOGRAMS;
            slot.last_is_histogram = true;
            slot.extra.get_or_insert_default().histograms.push((at, h));
            applied.bytes += slot.push_start(at, start);
            self.seal_if_full(i, applied);
        } else {
            self.push_late(i, Late { ts: t, start, value: sum, histogram: Some(h) }, applied);
        }
    }

    /// Makes room for a sample newer than all others: its time is in a column of times; returns its position.
    #[inline]
    fn advance(&mut self, i: usize, t: i64, applied: &mut Applied) -> u32 {
        let slot = &mut self.slots[i];
        if slot.kinds == 0 {
            slot.min_ts = t;
            applied.roster_changed = true;
        } else if t >> COVER_SHIFT != slot.max_ts >> COVER_SHIFT {
            applied.roster_changed = true;
        }
        slot.max_ts = t;
        let at = slot.len;
        slot.len += 1;
        if at > 0 {
            let next = (slot.start + at) as usize;
            let times = &mut self.times[slot.times as usize];
            if next == times.ts.len() {
                times.ts.push(t);
                applied.bytes += 8;
            } else if times.ts[next] != t {
                self.part_ways(i, at as usize, t, applied);
            }
        } else {
            self.join(i, t, applied);
        }
        at
    }

    /// Gives an empty open column its times: those of a column that just got `t`, or new ones.
    #[cold]
    fn join(&mut self, i: usize, t: i64, applied: &mut Applied) {
        let found =
            self.recent.iter().copied().find(|r| {
                self.times.get(*r as usize).is_some_and(|times| times.users > 0 && times.ts.last() == Some(&t))
            });
        let (column, start) = match found {
            Some(r) => (r, self.times[r as usize].ts.len() - 1),
            None => {
                let r = self.new_times();
                self.times[r as usize].ts.push(t);
                applied.bytes += 8;
                (r, 0)
            }
        };
        self.times[column as usize].users += 1;
        let slot = &mut self.slots[i];
        (slot.times, slot.start) = (column, start as u32);
    }

    /// The times of slot `i`, `len` of them, go on with `t`, unlike those of the column it shared.
    #[cold]
    fn part_ways(&mut self, i: usize, len: usize, t: i64, applied: &mut Applied) {
        let (old, start) = (self.slots[i].times, self.slots[i].start as usize);
        let mine = &self.times[old as usize].ts[start..start + len];
        let found = self.recent.iter().copied().find(|r| {
            *r != old
                && self
                    .times
                    .get(*r as usize)
                    .is_some_and(|x| x.users > 0 && x.ts.get(len) == Some(&t) && x.ts[..len] == *mine)
        });
        let column = match found {
            Some(r) => r,
            None => {
                let mut ts = Vec::with_capacity((len + 8).next_power_of_two());
                ts.extend_from_slice(mine);
                ts.push(t);
                applied.bytes += 8 * ts.len() as i64;
                let r = self.new_times();
                self.times[r as usize].ts = ts;
                r
            }
        };
        self.times[column as usize].users += 1;
        self.release_times(old, applied);
        let slot = &mut self.slots[i];
        (slot.times, slot.start) = (column, 0);
    }

    fn new_times(&mut self) -> u16 {
        let r = self.free.pop().unwrap_or_else(|| {
            self.times.push(Times::default());
            // At most one column per slot is in use, so this cannot overflow.
            (self.times.len() - 1) as u16
        });
        self.recent.rotate_right(1);
        self.recent[0] = r;
        r
    }

    fn release_times(&mut self, column: u16, applied: &mut Applied) {
        let times = &mut self.times[column as usize];
        times.users -= 1;
        if times.users == 0 {
            applied.bytes -= 8 * times.ts.len() as i64;
            *times = Times::default();
            self.free.push(column);
        }
    }

    #[inline]
    fn seal_if_full(&mut self, i: usize, applied: &mut Applied) {
        let slot = &self.slots[i];
        let full = if slot.sealed.is_empty() { self.first_seal } else { SEAL_SAMPLES };
        // Histograms of a series are much of a size.
        let histograms = slot.extra.as_deref().map_or(&[][..], |e| &e.histograms);
        let bytes = histograms.last().map_or(0, |(_, h)| h.memory_bytes() * histograms.len());
        if slot.len >= full || bytes > CHUNK_HISTOGRAM_BYTES {
            self.seal(i, applied);
        }
    }

    #[cold]
    fn seal(&mut self, i: usize, applied: &mut Applied) {
        let chunk = SEALING.with_borrow_mut(|(encoder, column)| {
            column.clear();
            self.copy_open(i, TimeRange::ALL, column);
            let slot = &self.slots[i];
            let times = &mut self.times[slot.times as usize];
            let time = match &times.encoded {
                Some((start, len, time)) if (*start, *len) == (slot.start, slot.len) => Arc::clone(time),
                _ => {
                    let time = Arc::new(TimeColumn::encode(&column.ts));
                    times.encoded = Some((slot.start, slot.len, Arc::clone(&time)));
                    applied.bytes += 64 + time.bytes().len() as i64;
                    time
                }
            };
            let chunk = encoder.encode_with(time, column, 0..column.len());
            let histograms: usize = column.histograms.iter().map(|(_, h)| 160 + h.heap_bytes()).sum();
            applied.bytes += chunk.heap_bytes() as i64 - histograms as i64;
            applied.bytes -= if slot.values.is_none() { 0 } else { 8 * column.len() as i64 };
            column.histograms.clear();
            chunk
        });
        let slot = &mut self.slots[i];
        // Most series have one chunk when the head is flushed.
        slot.sealed.reserve_exact(1);
        slot.sealed.push(chunk);
        self.values.release(&mut slot.values);
        slot.len = 0;
        if let Some(extra) = &mut slot.extra {
            applied.bytes -= 8 * extra.start_ts.len() as i64;
            extra.histograms = Vec::new();
            extra.start_ts = Vec::new();
        }
        let times = slot.times;
        self.release_times(times, applied);
    }

    /// A sample that is not newer than all others.
    #[cold]
    fn push_late(&mut self, i: usize, late: Late, applied: &mut Applied) {
        let slot = &mut self.slots[i];
        let open = &self.times[slot.times as usize].ts;
        let open = if slot.len > 0 { &open[slot.start as usize..][..slot.len as usize] } else { &[] };
        if let Ok(at) = open.binary_search(&late.ts) {
            slot.settle(&mut self.values, at as u32, late, applied);
            return;
        }
        applied.late += 1;
        applied.bytes += 40 + late.histogram.as_ref().map_or(0, |h| 160 + h.heap_bytes() as i64);
        slot.kinds |= if late.histogram.is_some() { HISTOGRAMS } else { FLOATS };
        slot.kinds |= if late.start != 0 { STARTS } else { 0 };
        if late.ts < slot.min_ts {
            applied.roster_changed |= late.ts >> COVER_SHIFT != slot.min_ts >> COVER_SHIFT;
            slot.min_ts = late.ts;
        }
        let extra = slot.extra.get_or_insert_default();
        extra.late.push(late);
        if extra.late.len() >= LATE_SAMPLES {
            let mut column = SampleColumn::default();
            applied.conflicts += sort_late(&mut extra.late, &mut column);
            let histograms: usize = extra.late.iter().flat_map(|l| &l.histogram).map(|h| 160 + h.heap_bytes()).sum();
            let chunk = SEALING.with_borrow_mut(|(encoder, _)| encoder.encode(&column, 0..column.len()));
            applied.bytes += 64 + (chunk.heap_bytes() + chunk.time().bytes().len()) as i64;
            applied.bytes -= 40 * extra.late.len() as i64 + histograms as i64;
            extra.late.clear();
            extra.late_sealed.push(chunk);
        }
    }

    fn copy_open(&self, i: usize, range: TimeRange, out: &mut SampleColumn) {
        let slot = &self.slots[i];
        if slot.len == 0 {
            return;
        }
        let ts = &self.times[slot.times as usize].ts[slot.start as usize..][..slot.len as usize];
        let from = ts.partition_point(|t| *t < range.min);
        let to = ts.partition_point(|t| *t <= range.max).max(from);
        let base = out.ts.len();
        out.ts.extend_from_slice(&ts[from..to]);
        if slot.values.is_none() {
            out.values.resize(base + to - from, slot.last);
        } else {
            self.values.copy(slot.values, from, to, &mut out.values);
        }
        let Some(extra) = &slot.extra else { return };
        for (p, h) in &extra.histograms {
            if (from..to).contains(&(*p as usize)) {
                out.histograms.push(((*p as usize - from + base) as u32, Arc::clone(h)));
            }
        }
        if !extra.start_ts.is_empty() {
            out.start_ts.extend_from_slice(&extra.start_ts[from..to]);
        }
    }

    /// What slot `i` has in `range`.
    pub(crate) fn collect(&self, i: usize, range: TimeRange, out: &mut Pieces) {
        out.clear();
        let slot = &self.slots[i];
        let from = slot.sealed.partition_point(|c| c.max_time() < range.min);
        out.sealed.extend(slot.sealed[from..].iter().take_while(|c| c.min_time() <= range.max).cloned());
        self.copy_open(i, range, &mut out.open);
        if let Some(extra) = &slot.extra {
            let overlaps = |c: &&Chunk| range.overlaps(c.min_time(), c.max_time());
            out.late_sealed.extend(extra.late_sealed.iter().filter(overlaps).cloned());
            if !extra.late.is_empty() {
                let mut late: Vec<Late> = extra.late.iter().filter(|l| range.overlaps(l.ts, l.ts)).cloned().collect();
                sort_late(&mut late, &mut out.late);
            }
        }
    }

    /// What is known of slot `i`.
    pub(crate) fn summary(&self, i: usize) -> Summary {
        let s = &self.slots[i];
        Summary { kinds: s.kinds, min_ts: s.min_ts, max_ts: s.max_ts }
    }

    /// About how many samples slot `i` has in `range`.
    pub(crate) fn samples_hint(&self, i: usize, range: TimeRange) -> usize {
        let slot = &self.slots[i];
        let parts = slot.sealed.iter().chain(slot.extra.iter().flat_map(|e| &e.late_sealed));
        let sealed: usize = parts.map(|c| samples_in(c.min_time(), c.max_time(), c.count(), range)).sum();
        let open = match slot.len {
            0 => 0,
            n => {
                let ts = &self.times[slot.times as usize].ts[slot.start as usize..][..n as usize];
                let from = ts.partition_point(|t| *t < range.min);
                ts.partition_point(|t| *t <= range.max).saturating_sub(from)
            }
        };
        sealed + open + slot.extra.as_ref().map_or(0, |e| e.late.len())
    }

    /// Chunks of all slots, open columns included.
    pub(crate) fn chunks(&self) -> usize {
        self.slots.iter().map(|s| s.sealed.len() + usize::from(s.len > 0)).sum()
    }
}

impl Slot {
    /// Appends a value at position `at` (the open column's end). Returns the bytes that takes.
    #[inline]
    fn push_value(&mut self, values: &mut Values, at: u32, v: f64) -> i64 {
        let mut bytes = 8;
        if self.values.is_none() {
            if at == 0 || v.to_bits() == self.last.to_bits() {
                self.last = v;
                return 0;
            }
            values.fill(&mut self.values, at, self.last);
            bytes += 8 * i64::from(at);
        }
        values.push(&mut self.values, at, v);
        self.last = v;
        bytes
    }

    /// Appends a start timestamp at position `at`. Returns the bytes that takes.
    #[cold]
    fn push_start(&mut self, at: u32, start: i64) -> i64 {
        let extra = self.extra.get_or_insert_default();
        let before = extra.start_ts.len();
        if start != 0 && extra.start_ts.is_empty() {
            extra.start_ts.resize(at as usize, 0);
        }
        if start != 0 || !extra.start_ts.is_empty() {
            extra.start_ts.push(start);
        }
        let bytes = 8 * (extra.start_ts.len() - before) as i64;
        if start != 0 {
            self.kinds |= STARTS;
        }
        bytes
    }

    /// Settles a second sample for the time at position `at` of the open column.
    fn settle(&mut self, values: &mut Values, at: u32, new: Late, applied: &mut Applied) {
        let old_value = if self.values.is_none() { self.last } else { values.get(self.values, at) };
        let extra = self.extra.as_deref();
        let slot_of = extra.map(|e| e.histograms.binary_search_by_key(&at, |(p, _)| *p));
        let old_histogram = match (extra, slot_of) {
            (Some(e), Some(Ok(k))) => Some(Arc::clone(&e.histograms[k].1)),
            _ => None,
        };
        let old_start = extra.and_then(|e| e.start_ts.get(at as usize)).copied().unwrap_or(0);
        let order = match (&new.histogram, &old_histogram) {
            (None, None) => float_precedence(new.value, old_value),
            (a, b) => {
                let value = |h: &Option<Arc<Histogram>>, v: f64| h.clone().map_or(Value::Float(v), Value::Histogram);
                value(a, new.value).precedence(&value(b, old_value))
            }
        };
        applied.conflicts += u64::from(order != Ordering::Equal);
        let start = match order {
            Ordering::Less => return,
            Ordering::Equal => new.start.max(old_start),
            Ordering::Greater => new.start,
        };
        if order == Ordering::Greater {
            if self.values.is_none() {
                values.fill(&mut self.values, self.len, self.last);
                applied.bytes += 8 * i64::from(self.len);
            }
            values.set(self.values, at, new.value);
            let newest = at + 1 == self.len;
            if newest {
                self.last = new.value;
                self.last_is_histogram = new.histogram.is_some();
            }
            self.kinds |= if new.histogram.is_some() { HISTOGRAMS } else { FLOATS };
            if new.histogram.is_some() || old_histogram.is_some() {
                let bytes = |h: &Option<Arc<Histogram>>| h.as_ref().map_or(0, |h| 160 + h.heap_bytes() as i64);
                applied.bytes += bytes(&new.histogram) - bytes(&old_histogram);
                let list = &mut self.extra.get_or_insert_default().histograms;
                let place = list.binary_search_by_key(&at, |(p, _)| *p);
                match (place, new.histogram) {
                    (Ok(k), Some(h)) => list[k].1 = h,
                    (Ok(k), None) => drop(list.remove(k)),
                    (Err(k), Some(h)) => list.insert(k, (at, h)),
                    (Err(_), None) => {}
                }
            }
        }
        if start != old_start {
            let len = self.len as usize;
            let extra = self.extra.get_or_insert_default();
            applied.bytes += 8 * (len - extra.start_ts.len()) as i64;
            extra.start_ts.resize(len, 0);
            extra.start_ts[at as usize] = start;
            self.kinds |= if start != 0 { STARTS } else { 0 };
        }
    }
}

/// Sorts late samples and settles those of equal time; returns how many had different values.
fn sort_late(late: &mut [Late], out: &mut SampleColumn) -> u64 {
    late.sort_by_key(|l| l.ts);
    let mut conflicts = 0;
    let value = |l: &Late| l.histogram.clone().map_or(Value::Float(l.value), Value::Histogram);
    let mut rest = &late[..];
    while let Some(first) = rest.first() {
        let run = rest.partition_point(|l| l.ts == first.ts);
        let (mut best, mut start) = (first, first.start);
        for l in &rest[1..run] {
            match value(l).precedence(&value(best)) {
                Ordering::Equal => start = start.max(l.start),
                Ordering::Greater => {
                    conflicts += 1;
                    (best, start) = (l, l.start);
                }
                Ordering::Less => conflicts += 1,
            }
        }
        match &best.histogram {
            Some(h) => out.push_histogram(best.ts, Arc::clone(h), start),
            None => out.push_float(best.ts, best.value, start),
        }
        rest = &rest[run..];
    }
    conflicts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What a page of floats holds, looked at.
    fn held(page: &Page) -> i64 {
        let mut bytes = 0;
        let mut times = BTreeMap::new();
        let mut chunk = |c: &Chunk| {
            times.insert(Arc::as_ptr(c.time()), 64 + c.time().bytes().len());
            c.heap_bytes()
        };
        for slot in &page.slots {
            bytes += slot.sealed.iter().map(&mut chunk).sum::<usize>();
            bytes += if slot.values.is_none() { 0 } else { 8 * slot.len as usize };
            if let Some(extra) = &slot.extra {
                bytes += extra.late_sealed.iter().map(&mut chunk).sum::<usize>();
                bytes += 8 * extra.start_ts.len() + 40 * extra.late.len();
            }
        }
        bytes += page.times.iter().map(|t| 8 * t.ts.len()).sum::<usize>();
        (bytes + times.values().sum::<usize>()) as i64
    }

    proptest! {
        /// Series that share times, part ways, come late, repeat, are sealed: what is counted is what is held.
        #[test]
        fn what_is_counted_is_held(
            steps in prop::collection::vec((0..6usize, 1..900u32, prop::sample::select(vec![0i64, 0, 0, 1, 7])), 1..20),
            starts in any::<bool>(),
        ) {
            let mut page = Page::new(0);
            (0..6).for_each(|_| page.push_series());
            let mut applied = Applied::default();
            let mut t = 1_000_000i64;
            for (odd, n, apart) in steps {
                for k in 0..n {
                    t += 15_000;
                    for i in 0..6 {
                        let late = if i == odd && k % 5 == 0 { 40_000 * apart } else { apart * i64::from(i == odd) };
                        let v = if i == 5 { 1.0 } else { f64::from(k * 31 % 97) };
                        let start = if starts && i == 2 && k > 3 { t - 5 } else { 0 };
                        page.push_float(i, t - late, v, start, &mut applied);
                    }
                }
                prop_assert_eq!(applied.bytes, held(&page));
            }
        }
    }
}
