//! What a query can be told about its reading: how series were found in each place, and what reading them took.
//!
//! Invariant: counting costs a few additions per part of a series, and nothing per sample; shared counters are touched
//! once for each series read, and only where somebody asked for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quiver_model::{Labels, SampleColumn};
use quiver_persistence::remote::Asker;
pub use quiver_storage::index::{IndexUse, MatcherStep, Way};

use crate::{Condense, Need, ReadError, SeriesKinds, SeriesSet, TimeRange};

/// How series are looked for.
#[derive(Clone, Debug, Default)]
pub struct SelectOptions {
    /// Whether matchers are looked up or tested.
    pub index: IndexUse,
    /// Where reads of the selected series are counted.
    pub reads: Option<Arc<ReadStats>>,
    /// Who asks: what waits for a remote store, now or while the series are read, waits as long as this one wants.
    pub asker: Option<Asker>,
    /// What the histograms of one series may take in memory as they are read, bytes; `None`: whatever there are.
    pub histogram_bytes_max: Option<usize>,
}

/// What reading took, by tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCounts {
    /// Series read; one that is read several times counts as often.
    pub series: u64,
    /// Samples handed out.
    pub samples: u64,
    /// Samples copied from the head's open columns, which are not encoded.
    pub open_samples: u64,
    /// Encoded chunks in memory (sealed in the head) that were decoded.
    pub memory_chunks: u64,
    /// Their bytes.
    pub memory_bytes: u64,
    /// Chunks of mapped blocks that were decoded.
    pub mapped_chunks: u64,
    /// Their bytes.
    pub mapped_bytes: u64,
    /// Chunks of remote blocks that were decoded.
    pub remote_chunks: u64,
    /// Their bytes.
    pub remote_bytes: u64,
    /// Pages of remote blocks found on the local disk.
    pub pages_found: u64,
    /// Pages of remote blocks that had to be fetched.
    pub pages_fetched: u64,
    /// Bytes fetched, gaps between pages included.
    pub fetched_bytes: u64,
    /// Chunks found decoded in the working set.
    pub hits: u64,
    /// Chunks looked for in the working set and not found.
    pub misses: u64,
    /// Chunks whose header told enough.
    pub headers: u64,
}

impl ReadCounts {
    /// Chunks decoded, wherever they were.
    pub fn chunks(&self) -> u64 {
        self.memory_chunks + self.mapped_chunks + self.remote_chunks
    }

    /// Bytes decoded, wherever they were.
    pub fn bytes(&self) -> u64 {
        self.memory_bytes + self.mapped_bytes + self.remote_bytes
    }

    fn fields(&self) -> [u64; FIELDS] {
        [
            self.series,
            self.samples,
            self.open_samples,
            self.memory_chunks,
            self.memory_bytes,
            self.mapped_chunks,
            self.mapped_bytes,
            self.remote_chunks,
            self.remote_bytes,
            self.pages_found,
            self.pages_fetched,
            self.fetched_bytes,
            self.hits,
            self.misses,
            self.headers,
        ]
    }
}

impl std::ops::AddAssign for ReadCounts {
    fn add_assign(&mut self, other: Self) {
        self.series += other.series;
        self.samples += other.samples;
        self.open_samples += other.open_samples;
        self.memory_chunks += other.memory_chunks;
        self.memory_bytes += other.memory_bytes;
        self.mapped_chunks += other.mapped_chunks;
        self.mapped_bytes += other.mapped_bytes;
        self.remote_chunks += other.remote_chunks;
        self.remote_bytes += other.remote_bytes;
        self.pages_found += other.pages_found;
        self.pages_fetched += other.pages_fetched;
        self.fetched_bytes += other.fetched_bytes;
        self.hits += other.hits;
        self.misses += other.misses;
        self.headers += other.headers;
    }
}

const FIELDS: usize = 15;

/// [`ReadCounts`] that several threads add to.
#[derive(Debug, Default)]
pub struct ReadStats([AtomicU64; FIELDS]);

impl ReadStats {
    /// Adds.
    pub fn add(&self, counts: &ReadCounts) {
        for (sum, n) in self.0.iter().zip(counts.fields()) {
            if n > 0 {
                sum.fetch_add(n, Ordering::Relaxed);
            }
        }
    }

    /// The sums so far.
    pub fn counts(&self) -> ReadCounts {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = &self.0;
        let get = |v: &AtomicU64| v.load(Ordering::Relaxed);
        ReadCounts {
            series: get(a),
            samples: get(b),
            open_samples: get(c),
            memory_chunks: get(d),
            memory_bytes: get(e),
            mapped_chunks: get(f),
            mapped_bytes: get(g),
            remote_chunks: get(h),
            remote_bytes: get(i),
            pages_found: get(j),
            pages_fetched: get(k),
            fetched_bytes: get(l),
            hits: get(m),
            misses: get(n),
            headers: get(o),
        }
    }
}

/// What kind of place holds series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceKind {
    /// The head, or one being flushed.
    Head,
    /// A block.
    Block,
    /// Exported files.
    Parquet,
}

impl PlaceKind {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            PlaceKind::Head => "head",
            PlaceKind::Block => "block",
            PlaceKind::Parquet => "parquet",
        }
    }
}

/// How series were found in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceReport {
    /// What it is.
    pub kind: PlaceKind,
    /// Its name: a block's file.
    pub name: String,
    /// From its first to its last sample.
    pub range: Option<TimeRange>,
    /// Series it holds.
    pub series: u64,
    /// Matchers, in the order they were evaluated.
    pub steps: Vec<MatcherStep>,
    /// Series that the index left.
    pub matched: u64,
    /// Series that were selected: those of them that may have samples in the range and pass the matchers tested on labels.
    pub selected: u64,
}

/// How series were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectReport {
    /// Places looked at.
    pub places: Vec<PlaceReport>,
    /// Blocks not looked at, since all their samples lie outside the range.
    pub pruned: u64,
}

/// A set whose series and samples are counted when they are read.
struct CountedSet {
    set: Arc<dyn SeriesSet>,
    reads: Arc<ReadStats>,
}

/// Counts what is read of a set that does not count by itself.
pub fn counted(set: Arc<dyn SeriesSet>, reads: &Arc<ReadStats>) -> Arc<dyn SeriesSet> {
    Arc::new(CountedSet { set, reads: Arc::clone(reads) })
}

impl SeriesSet for CountedSet {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn labels(&self, i: usize) -> &Labels {
        self.set.labels(i)
    }

    fn kinds(&self, i: usize) -> SeriesKinds {
        self.set.kinds(i)
    }

    fn samples_hint(&self, i: usize) -> usize {
        self.set.samples_hint(i)
    }

    fn read(&self, i: usize, range: TimeRange, need: Need, out: &mut SampleColumn) -> Result<(), ReadError> {
        self.set.read(i, range, need, out)?;
        self.reads.add(&ReadCounts { series: 1, samples: out.len() as u64, ..ReadCounts::default() });
        Ok(())
    }

    fn read_condensed(
        &self,
        i: usize,
        range: TimeRange,
        need: Need,
        how: &Condense,
        out: &mut SampleColumn,
        weights: &mut Vec<u32>,
    ) -> Result<(), ReadError> {
        self.set.read_condensed(i, range, need, how, out, weights)?;
        self.reads.add(&ReadCounts { series: 1, samples: out.len() as u64, ..ReadCounts::default() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_of_all_that_was_added() {
        let one = ReadCounts {
            series: 1,
            samples: 2,
            open_samples: 3,
            memory_chunks: 4,
            memory_bytes: 5,
            mapped_chunks: 6,
            mapped_bytes: 7,
            hits: 8,
            misses: 9,
            remote_chunks: 10,
            remote_bytes: 11,
            pages_found: 12,
            pages_fetched: 13,
            fetched_bytes: 14,
            headers: 15,
        };
        let stats = ReadStats::default();
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| stats.add(&one));
            }
        });
        let mut want = one;
        want += one;
        want += one;
        assert_eq!(stats.counts(), want);
        assert_eq!((want.chunks(), want.bytes()), (60, 69));
    }
}
