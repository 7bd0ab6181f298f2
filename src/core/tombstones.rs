//! Deletions: which samples of which blocks do not count any more.
//!
//! ```text
//! delete ─▶ head with matching series becomes a block ─▶ manifest: tombstone + the blocks in which it counts ─▶ view
//!                                                                                                          └─▶ answer
//! read   ─▶ block without tombstones: as ever          merge, clean ─▶ block without the deleted samples, tombstone goes
//!         └▶ with: rows without a sample left are not listed, the ranges of the others are read around
//! ```
//!
//! Invariants
//! 1. A tombstone names its blocks. What is written after the deletion goes to a head, hence to other blocks: it is seen,
//!    whatever its times are.
//! 2. When a deletion is acknowledged, no frame of the log that would be replayed holds a deleted sample.
//! 3. A block without tombstones pays for this one test of an option.

use std::sync::{Arc, OnceLock};

use quiver_model::{LabelsRef, MatchOp, Matcher, SampleColumn};
use quiver_persistence::Tombstone;
use quiver_storage::block::Block;
use quiver_storage::codec::Decoder;
use quiver_storage::error::StorageError;
use quiver_storage::merge::Deleted;
use roaring::RoaringBitmap;
use smallvec::SmallVec;

use crate::catalog::StoredBlock;
use crate::retain::Expired;
use crate::{Need, ReadError, TimeRange};

/// Compiled size of a matcher's expression: whatever it was accepted with.
const REGEX_BYTES_MAX: usize = usize::MAX;

/// A tombstone, ready to match.
#[derive(Debug)]
pub(crate) struct Deletion {
    pub(crate) id: u64,
    pub(crate) matchers: Vec<Matcher>,
    pub(crate) range: TimeRange,
}

impl Deletion {
    /// Reads a tombstone of the manifest.
    pub(crate) fn new(t: &Tombstone) -> Result<Self, String> {
        let matcher = |(op, name, value): &(String, String, String)| {
            let op = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]
                .into_iter()
                .find(|o| o.as_str() == op)
                .ok_or_else(|| format!("tombstone {}: the operator {op:?} is unknown", t.id))?;
            Matcher::new(op, name, value, REGEX_BYTES_MAX).map_err(|e| format!("tombstone {}: {e}", t.id))
        };
        let matchers = t.matchers.iter().map(matcher).collect::<Result<_, _>>()?;
        Ok(Self { id: t.id, matchers, range: TimeRange { min: t.min_ts, max: t.max_ts } })
    }

    /// Matchers as the manifest keeps them.
    pub(crate) fn record(matchers: &[Matcher]) -> Vec<(String, String, String)> {
        matchers.iter().map(|m| (m.op.as_str().to_owned(), m.name.to_string(), m.value.to_string())).collect()
    }

    fn hits(&self, labels: LabelsRef<'_>, ts: i64) -> bool {
        self.range.overlaps(ts, ts) && self.matchers.iter().all(|m| m.matches_labels(labels))
    }

    /// Does it concern anything that is in the block?
    pub(crate) fn concerns(&self, stored: &StoredBlock) -> Result<bool, ReadError> {
        let block = stored.block()?;
        if !block.select_bitmap(&self.matchers, self.range)?.is_empty() {
            return Ok(true);
        }
        if block.meta().exemplars == 0 {
            return Ok(false);
        }
        let list = block.exemplars()?;
        Ok(list.iter().any(|(l, list)| list.iter().any(|e| self.hits(l.as_ref(), e.ts))))
    }
}

/// The deletions that count in one block.
#[derive(Debug)]
pub(crate) struct Deletions {
    list: Vec<Arc<Deletion>>,
    rows: OnceLock<Rows>,
}

/// Which rows of a block are concerned, and how.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// Rows with any deleted range.
    any: RoaringBitmap,
    /// Rows without a sample left.
    gone: RoaringBitmap,
    each: Vec<(RoaringBitmap, TimeRange)>,
}

/// Ranges that are left of a range.
pub(crate) type Live = SmallVec<[TimeRange; 2]>;

impl Deletions {
    /// Those of `list`; `None` where there is none.
    pub(crate) fn new(list: Vec<Arc<Deletion>>) -> Option<Arc<Self>> {
        (!list.is_empty()).then(|| Arc::new(Self { list, rows: OnceLock::new() }))
    }

    /// Numbers of the tombstones.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.list.iter().map(|d| d.id).collect()
    }

    /// Rows concerned, found out once. A failure is not kept: it may be the medium's or a store's of this moment.
    pub(crate) fn rows(&self, block: &Block) -> Result<&Rows, ReadError> {
        if let Some(rows) = self.rows.get() {
            return Ok(rows);
        }
        let found = self.find(block)?;
        Ok(self.rows.get_or_init(|| found))
    }

    fn find(&self, block: &Block) -> Result<Rows, StorageError> {
        let mut rows = Rows::default();
        let times = Need { values: false, buckets: false, start_ts: false };
        let (mut decoder, mut column) = (Decoder::default(), SampleColumn::default());
        for d in &self.list {
            let hit = block.select_bitmap(&d.matchers, d.range)?;
            rows.any |= &hit;
            rows.each.push((hit, d.range));
        }
        for row in &rows.any {
            let ranges = rows.ranges(row);
            let covered = |min, max| ranges.iter().any(|r| r.covers(min, max));
            let mut all = covered(block.meta().min_time, block.meta().max_time);
            if !all {
                all = true;
                for e in block.chunk_entries(row, TimeRange::ALL)? {
                    all = covered(e.min_time, e.max_time)
                            // The first and the last sample may be deleted by different ranges, and others lie between.
                            || (covered(e.min_time, e.min_time) && covered(e.max_time, e.max_time) && {
                                column.clear();
                                block.read_chunk(&e, TimeRange::ALL, times, &mut decoder, &mut column)?;
                                column.ts.iter().all(|t| covered(*t, *t))
                            });
                    if !all {
                        break;
                    }
                }
            }
            if all {
                rows.gone.insert(row);
            }
        }
        Ok(rows)
    }

    /// Is an exemplar of this block deleted?
    pub(crate) fn exemplar(&self, labels: LabelsRef<'_>, ts: i64) -> bool {
        self.list.iter().any(|d| d.hits(labels, ts))
    }
}

impl Rows {
    /// Rows without a sample left.
    pub(crate) fn gone(&self) -> &RoaringBitmap {
        &self.gone
    }

    /// Is any sample of the row deleted?
    pub(crate) fn is_concerned(&self, row: u32) -> bool {
        self.any.contains(row)
    }

    /// Deleted ranges of a row, ascending, disjoint, not adjacent.
    pub(crate) fn ranges(&self, row: u32) -> Vec<TimeRange> {
        if !self.any.contains(row) {
            return Vec::new();
        }
        union(self.each.iter().filter(|(rows, _)| rows.contains(row)).map(|(_, r)| *r).collect())
    }

    /// What is left of `range` for a row.
    pub(crate) fn live(&self, row: u32, range: TimeRange) -> Live {
        without(range, &self.ranges(row))
    }
}

/// Ranges as ascending, disjoint, not adjacent ones.
fn union(mut ranges: Vec<TimeRange>) -> Vec<TimeRange> {
    ranges.sort_by_key(|r| (r.min, r.max));
    let mut out: Vec<TimeRange> = Vec::with_capacity(ranges.len());
    for r in ranges {
        match out.last_mut() {
            Some(last) if r.min <= last.max.saturating_add(1) => last.max = last.max.max(r.max),
            _ => out.push(r),
        }
    }
    out
}

/// `range` without `holes` (as [`union`] gives them).
fn without(range: TimeRange, holes: &[TimeRange]) -> Live {
    let mut out = Live::new();
    let mut from = Some(range.min);
    for hole in holes {
        let Some(start) = from else { break };
        if hole.max < start {
            continue;
        }
        if hole.min > range.max {
            break;
        }
        if start < hole.min {
            out.push(TimeRange { min: start, max: hole.min - 1 });
        }
        from = hole.max.checked_add(1);
    }
    if let Some(start) = from.filter(|s| *s <= range.max) {
        out.push(TimeRange { min: start, max: range.max });
    }
    out
}

/// What a merge leaves out of one input.
pub(crate) struct LeftOut<'a> {
    pub(crate) deletions: Option<(&'a Deletions, &'a Rows)>,
    pub(crate) expired: Option<Expired>,
}

/// What a merge of blocks leaves out.
pub(crate) struct MergeDeletions<'a> {
    pub(crate) inputs: Vec<LeftOut<'a>>,
    /// Families of which nothing is left anywhere.
    pub(crate) families: &'a (dyn Fn(&str) -> bool + Sync),
}

impl MergeDeletions<'_> {
    /// Nothing to leave out?
    pub(crate) fn is_empty(&self) -> bool {
        self.inputs.iter().all(|i| i.deletions.is_none() && i.expired.is_none())
    }
}

impl Deleted for MergeDeletions<'_> {
    fn ranges(&self, input: usize, id: u32, _labels: LabelsRef<'_>) -> Vec<TimeRange> {
        let Some(input) = self.inputs.get(input) else { return Vec::new() };
        let mut ranges = input.deletions.map_or_else(Vec::new, |(_, rows)| rows.ranges(id));
        if let Some(cutoff) = input.expired.as_ref().and_then(|e| e.cutoff_of_row(id)) {
            ranges.push(TimeRange { min: i64::MIN, max: cutoff.saturating_sub(1) });
            ranges = union(ranges);
        }
        ranges
    }

    fn exemplar(&self, input: usize, labels: LabelsRef<'_>, ts: i64) -> bool {
        self.inputs.get(input).is_some_and(|input| {
            input.deletions.is_some_and(|(d, _)| d.exemplar(labels, ts))
                || input.expired.as_ref().and_then(|e| e.cutoff_of(labels)).is_some_and(|cutoff| ts < cutoff)
        })
    }

    fn family(&self, family: &str) -> bool {
        (self.families)(family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn range(min: i64, max: i64) -> TimeRange {
        TimeRange { min, max }
    }

    #[test]
    fn the_edges_of_time_are_ranges_too() {
        let all = TimeRange::ALL;
        assert_eq!(without(all, &[all]).as_slice(), []);
        assert_eq!(without(all, &[]).as_slice(), [all]);
        assert_eq!(without(all, &[range(i64::MIN, 5)]).as_slice(), [range(6, i64::MAX)]);
        assert_eq!(without(all, &[range(5, i64::MAX)]).as_slice(), [range(i64::MIN, 4)]);
        assert_eq!(
            union(vec![range(3, i64::MAX), range(0, 2), range(i64::MIN, -5)]),
            [range(i64::MIN, -5), range(0, i64::MAX)]
        );
    }

    proptest! {
        #[test]
        fn what_is_left_is_what_no_hole_takes(
            holes in proptest::collection::vec((0i64..40, 0i64..10), 0..6), from in 0i64..40, len in 0i64..30,
        ) {
            let holes: Vec<TimeRange> = holes.into_iter().map(|(a, n)| range(a, a + n)).collect();
            let asked = range(from, from + len);
            let live = without(asked, &union(holes.clone()));
            prop_assert!(live.windows(2).all(|w| w[0].max < w[1].min));
            for t in -1..80 {
                let want = asked.overlaps(t, t) && !holes.iter().any(|h| h.overlaps(t, t));
                prop_assert_eq!(live.iter().any(|r| r.overlaps(t, t)), want, "{}", t);
            }
        }
    }

    #[test]
    fn a_tombstone_of_the_manifest_reads_back() {
        let matchers = vec![
            Matcher::equal("a", "b"),
            Matcher::new(MatchOp::NotEqual, "c", "", 1 << 20).unwrap(),
            Matcher::new(MatchOp::Regex, "d", "x.*|\"", 1 << 20).unwrap(),
            Matcher::new(MatchOp::NotRegex, "e", "[0-9]+", 1 << 20).unwrap(),
        ];
        let t = Tombstone { matchers: Deletion::record(&matchers), min_ts: 1, max_ts: 2, ..Tombstone::default() };
        let read = Deletion::new(&t).unwrap();
        assert_eq!(Deletion::record(&read.matchers), t.matchers);
        let bad = Tombstone { matchers: vec![("~".into(), "a".into(), "b".into())], ..t };
        assert!(Deletion::new(&bad).unwrap_err().contains("operator"));
    }
}
