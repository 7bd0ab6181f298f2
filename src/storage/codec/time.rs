//! Columns of times: what was scraped together is stored once.
//!
//! ```text
//! 0 │ first │ step                    regular: sample i at first + i·step
//! 1 │ first │ step │ integers         the same plus a deviation from the grid for each
//! ```
//!
//! A [`TimeColumn`] is shared by all chunks whose samples have the same times: the series of one target.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hashbrown::HashMap;
use xxhash_rust::xxh3::Xxh3;

use super::SAMPLES_MAX;
use super::ints::{self, IntScratch};
use crate::bytes::{Damaged, Reader, put_signed};

const REGULAR: u8 = 0;
const GRID: u8 = 1;

static UIDS: AtomicU64 = AtomicU64::new(1);

/// A number no other column or block of this process has: what decoders recognise a column by.
pub fn next_uid() -> u64 {
    UIDS.fetch_add(1, Ordering::Relaxed)
}

/// Encoded times, ascending.
#[derive(Clone, Debug)]
pub struct TimeColumn {
    uid: u64,
    count: u32,
    min: i64,
    max: i64,
    bytes: Bytes,
}

impl TimeColumn {
    /// Encodes times; `ts` is not empty, ascending, at most [`SAMPLES_MAX`] long.
    pub fn encode(ts: &[i64]) -> Self {
        let mut bytes = Vec::with_capacity(32);
        encode(ts, &mut IntScratch::default(), &mut bytes);
        let (min, max) = (ts.first().copied().unwrap_or(0), ts.last().copied().unwrap_or(0));
        Self { uid: next_uid(), count: ts.len() as u32, min, max, bytes: Bytes::from(bytes) }
    }

    /// A column found in a file; its bytes were checked against their checksum.
    pub fn from_parts(uid: u64, count: u32, min: i64, max: i64, bytes: Bytes) -> Self {
        Self { uid, count, min, max, bytes }
    }

    /// Recognises it among all columns this process has seen.
    pub fn uid(&self) -> u64 {
        self.uid
    }

    /// Number of samples.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// First time.
    pub fn min(&self) -> i64 {
        self.min
    }

    /// Last time.
    pub fn max(&self) -> i64 {
        self.max
    }

    /// The encoded bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Decodes all times, appended.
    pub fn decode(&self, out: &mut Vec<i64>) -> Result<(), Damaged> {
        decode(&self.bytes, self.count as usize, out)
    }
}

/// Appends encoded times.
pub fn encode(ts: &[i64], scratch: &mut IntScratch, out: &mut Vec<u8>) {
    let Some((&first, rest)) = ts.split_first() else { return };
    let Some(&last) = rest.last() else {
        out.push(REGULAR);
        put_signed(out, first);
        put_signed(out, 0);
        return;
    };
    let step = rest[0].wrapping_sub(first);
    let on_grid = |step: i64| {
        let mut t = first;
        rest.iter().all(|v| {
            t = t.wrapping_add(step);
            *v == t
        })
    };
    if on_grid(step) {
        out.push(REGULAR);
        put_signed(out, first);
        put_signed(out, step);
        return;
    }
    let start = out.len();
    let mut deltas: Vec<i64> = ts.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
    let mid = deltas.len() / 2;
    let median = *deltas.select_nth_unstable(mid).1;
    let n = rest.len() as i128;
    let mean = ((i128::from(last) - i128::from(first)) + n / 2).div_euclid(n) as i64;
    let mut deviations = Vec::with_capacity(ts.len());
    let mut candidate = Vec::new();
    for (k, step) in [mean, median].into_iter().enumerate() {
        if k == 1 && median == mean {
            break;
        }
        deviations.clear();
        let mut grid = first;
        for &t in ts {
            deviations.push(t.wrapping_sub(grid));
            grid = grid.wrapping_add(step);
        }
        candidate.clear();
        candidate.push(GRID);
        put_signed(&mut candidate, first);
        put_signed(&mut candidate, step);
        ints::encode(&deviations, scratch, &mut candidate);
        if out.len() == start || candidate.len() < out.len() - start {
            out.truncate(start);
            out.extend_from_slice(&candidate);
        }
    }
}

/// Decodes `n` times, appended.
pub fn decode(src: &[u8], n: usize, out: &mut Vec<i64>) -> Result<(), Damaged> {
    if n > SAMPLES_MAX {
        return Err(Damaged("too many samples in a chunk"));
    }
    let mut r = Reader::new(src);
    let kind = r.u8()?;
    let first = r.signed()?;
    let step = r.signed()?;
    let begin = out.len();
    out.reserve(n);
    match kind {
        REGULAR => {
            let mut t = first;
            out.extend((0..n).map(|_| {
                let now = t;
                t = t.wrapping_add(step);
                now
            }));
        }
        GRID => {
            let mut grid = first;
            ints::decode(r.rest(), n, |_, deviations| {
                out.extend(deviations.iter().map(|d| {
                    let t = grid.wrapping_add(*d);
                    grid = grid.wrapping_add(step);
                    t
                }));
                true
            })?;
        }
        _ => return Err(Damaged("unknown time codec")),
    }
    if out.len() != begin + n {
        return Err(Damaged("time column has another length"));
    }
    Ok(())
}

/// Finds the column for times that were encoded already, so that the series of one target share it.
///
/// Holds at most `capacity` columns; the eldest half goes when it is full, which costs sharing and nothing else.
#[derive(Debug)]
pub struct TimeInterner {
    columns: HashMap<u64, Arc<TimeColumn>>,
    previous: HashMap<u64, Arc<TimeColumn>>,
    capacity: usize,
    scratch: Vec<i64>,
}

impl Default for TimeInterner {
    fn default() -> Self {
        Self::new(4096)
    }
}

impl TimeInterner {
    /// An empty one.
    pub fn new(capacity: usize) -> Self {
        Self { columns: HashMap::new(), previous: HashMap::new(), capacity: capacity.max(2), scratch: Vec::new() }
    }

    /// The shared column of these times.
    pub fn intern(&mut self, ts: &[i64]) -> Arc<TimeColumn> {
        let mut hasher = Xxh3::new();
        let mut block = [0u8; 512];
        for part in ts.chunks(64) {
            for (b, t) in block.chunks_exact_mut(8).zip(part) {
                b.copy_from_slice(&t.to_le_bytes());
            }
            hasher.update(&block[..8 * part.len()]);
        }
        let hash = hasher.digest();
        if let Some(column) = self.columns.get(&hash).or_else(|| self.previous.get(&hash)) {
            // Hashes can be made to collide: only equal times are shared.
            self.scratch.clear();
            if column.count() == ts.len() && column.decode(&mut self.scratch).is_ok() && self.scratch == ts {
                let column = Arc::clone(column);
                if self.previous.remove(&hash).is_some() {
                    self.columns.insert(hash, Arc::clone(&column));
                }
                return column;
            }
        }
        let column = Arc::new(TimeColumn::encode(ts));
        if self.columns.len() >= self.capacity / 2 {
            self.previous = std::mem::take(&mut self.columns);
        }
        self.columns.insert(hash, Arc::clone(&column));
        column
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(ts: &[i64]) -> usize {
        let column = TimeColumn::encode(ts);
        let mut back = Vec::new();
        column.decode(&mut back).unwrap();
        assert_eq!(back, ts);
        assert_eq!((column.count(), column.min(), column.max()), (ts.len(), ts[0], ts[ts.len() - 1]));
        column.bytes().len()
    }

    proptest! {
        #[test]
        fn any_ascending_times_round_trip(set in proptest::collection::btree_set(any::<i64>(), 1..300)) {
            round_trip(&set.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn scrapes_with_jitter_and_gaps_round_trip(
            start in any::<i32>(), step in 100i64..100_000,
            jitter in proptest::collection::vec((-20i64..20, prop::bool::weighted(0.97)), 1..500),
        ) {
            let mut t = i64::from(start);
            let mut ts = Vec::new();
            for (j, there) in jitter {
                t += step;
                if there {
                    ts.push(t + j);
                }
            }
            if !ts.is_empty() {
                round_trip(&ts);
            }
        }
    }

    #[test]
    fn regular_times_are_free_and_jitter_costs_its_entropy() {
        assert!(round_trip(&(0..480).map(|i| 1_700_000_000_000 + i * 15_000).collect::<Vec<_>>()) < 12);
        let jittered: Vec<i64> = (0..480i64).map(|i| 1_700_000_000_000 + i * 15_000 + (i * 7919 % 11) - 5).collect();
        assert!(round_trip(&jittered) < 480 * 6 / 10);
        round_trip(&[i64::MIN, i64::MAX]);
        round_trip(&[i64::MIN, 0, i64::MAX]);
    }

    #[test]
    fn equal_times_share_one_column() {
        let mut interner = TimeInterner::new(4);
        let (a, b) = (interner.intern(&[1, 2, 4]), interner.intern(&[1, 2, 4]));
        assert!(Arc::ptr_eq(&a, &b));
        for k in 0..100 {
            interner.intern(&[k, k + 1]);
        }
        assert!(interner.columns.len() <= 4);
        assert_eq!(interner.intern(&[1, 2, 5]).max(), 5);
    }
}
