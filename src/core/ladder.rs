//! Which blocks to merge next, and which to drop: pure functions over the catalog.
//!
//! ```text
//! rung 12 h   │ 2 h │ 2 h │ 2 h │ 2 h │ 2 h │ 2 h ││ 2 h │ 2 h …       a window that is over and holds several
//!             └──────────── one block ────────────┘                     blocks becomes one
//! overlap     ══════╤═══╤══════                                         so do blocks of like size that overlap
//! ```
//!
//! Invariant: merging never makes a block larger than `bytes_max`, and each rule strictly lowers the number of blocks, so
//! merging comes to an end. A block is rewritten a bounded number of times: once per rung, and once per fourfold growth.

/// A block, as far as this module cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rung {
    pub(crate) id: u64,
    pub(crate) min_ts: i64,
    pub(crate) max_ts: i64,
    pub(crate) bytes: u64,
    /// 0: as a flush wrote it.
    pub(crate) level: u32,
}

/// So many overlapping blocks of like size are merged.
const OVERLAP_COUNT: usize = 4;
/// More small blocks than this are merged whatever their times.
const SMALL_COUNT: usize = 64;
/// What is small.
pub(crate) const SMALL_BYTES: u64 = 16 << 20;

/// The blocks to merge next, if any.
pub(crate) fn plan(blocks: &[Rung], ladder_ms: &[i64], bytes_max: u64) -> Option<Vec<u64>> {
    let mut sorted = blocks.to_vec();
    sorted.sort_by_key(|b| (b.min_ts, b.max_ts, b.id));
    let ids = |group: &[Rung]| group.iter().map(|b| b.id).collect();
    windows(&sorted, ladder_ms, bytes_max)
        .or_else(|| overlapping(&sorted, bytes_max))
        .or_else(|| many_small(&sorted, bytes_max))
        .map(|group| ids(&group))
}

fn fits(group: &[Rung], bytes_max: u64) -> bool {
    group.iter().fold(0u64, |sum, b| sum.saturating_add(b.bytes)) <= bytes_max
}

/// Several blocks within one window of a rung that is over.
fn windows(sorted: &[Rung], ladder_ms: &[i64], bytes_max: u64) -> Option<Vec<Rung>> {
    let newest = sorted.iter().map(|b| b.min_ts).max()?;
    for rung in ladder_ms.iter().copied().filter(|r| *r > 0) {
        let window = |t: i64| t.div_euclid(rung);
        let inside: Vec<Rung> = sorted.iter().copied().filter(|b| window(b.min_ts) == window(b.max_ts)).collect();
        for group in inside.chunk_by(|a, b| window(a.min_ts) == window(b.min_ts)) {
            if group.len() > 1 && window(group[0].min_ts) < window(newest) && fits(group, bytes_max) {
                return Some(group.to_vec());
            }
        }
    }
    None
}

/// Several blocks of like size that overlap in a chain.
fn overlapping(sorted: &[Rung], bytes_max: u64) -> Option<Vec<Rung>> {
    let class = |b: &Rung| (b.bytes >> 20).checked_ilog2().map_or(0, |l| 1 + l / 2);
    let mut classes: Vec<u32> = sorted.iter().map(class).collect();
    classes.sort_unstable();
    classes.dedup();
    for c in classes {
        let mut chain: Vec<Rung> = Vec::new();
        let mut end = i64::MIN;
        for b in sorted.iter().filter(|b| class(b) == c) {
            if !chain.is_empty() && (b.min_ts > end || chain.len() >= 16) {
                if chain.len() >= OVERLAP_COUNT && fits(&chain, bytes_max) {
                    return Some(chain);
                }
                chain.clear();
                end = i64::MIN;
            }
            end = end.max(b.max_ts);
            chain.push(*b);
        }
        if chain.len() >= OVERLAP_COUNT && fits(&chain, bytes_max) {
            return Some(chain);
        }
    }
    None
}

/// A run of neighbours, where there are too many small blocks.
fn many_small(sorted: &[Rung], bytes_max: u64) -> Option<Vec<Rung>> {
    let small: Vec<Rung> = sorted.iter().copied().filter(|b| b.bytes <= SMALL_BYTES).collect();
    if small.len() <= SMALL_COUNT {
        return None;
    }
    small.chunks(SMALL_COUNT / 2).map(<[Rung]>::to_vec).find(|g| g.len() > 1 && fits(g, bytes_max))
}

/// Blocks that may be merged by hand: all, in groups of at most `bytes_max`, neighbours in time together. One alone is
/// rewritten if a flush wrote it: merged blocks are encoded for size.
pub(crate) fn plan_all(blocks: &[Rung], bytes_max: u64) -> Vec<Vec<u64>> {
    let mut sorted = blocks.to_vec();
    sorted.sort_by_key(|b| (b.min_ts, b.max_ts, b.id));
    let mut groups: Vec<Vec<u64>> = Vec::new();
    let mut bytes = u64::MAX;
    for b in sorted {
        bytes = bytes.saturating_add(b.bytes);
        match groups.last_mut() {
            Some(group) if bytes <= bytes_max => group.push(b.id),
            _ => {
                groups.push(vec![b.id]);
                bytes = b.bytes;
            }
        }
    }
    let fresh = |id: &u64| blocks.iter().any(|b| b.id == *id && b.level == 0);
    groups.retain(|g| g.len() > 1 || g.iter().any(fresh));
    groups
}

/// Before when samples are past a retention. `newest_ts` is the latest sample anywhere: age is counted from the clock or
/// from it, whichever is earlier, so a clock that runs ahead drops nothing; a clock far behind it is not believed.
pub(crate) fn cutoff(retention_ms: i64, now_ms: i64, newest_ts: Option<i64>, ahead_ms: i64) -> Option<i64> {
    let newest = newest_ts?;
    if retention_ms <= 0 || now_ms.saturating_add(ahead_ms.max(0)) < newest {
        return None;
    }
    Some(now_ms.min(newest).saturating_sub(retention_ms))
}

/// The blocks to drop so that at most `bytes_max` are kept, the oldest first; the newest one stays. `other_bytes` count,
/// too.
pub(crate) fn oversize(blocks: &[Rung], other_bytes: u64, bytes_max: u64) -> Vec<u64> {
    let mut sorted = blocks.to_vec();
    sorted.sort_by_key(|b| (b.max_ts, b.id));
    let mut total = blocks.iter().fold(other_bytes, |sum, b| sum.saturating_add(b.bytes));
    let mut out = Vec::new();
    for b in sorted.iter().take(sorted.len().saturating_sub(1)) {
        if total <= bytes_max {
            break;
        }
        total = total.saturating_sub(b.bytes);
        out.push(b.id);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const H: i64 = 3_600_000;
    const LADDER: [i64; 3] = [2 * H, 12 * H, 72 * H];

    fn block(id: u64, from_h: i64, to_h: i64, bytes: u64) -> Rung {
        Rung { id, min_ts: from_h * H, max_ts: to_h * H - 1, bytes, level: 0 }
    }

    #[test]
    fn a_window_that_is_over_becomes_one_block() {
        let mut blocks: Vec<Rung> = (0..6).map(|i| block(i, 2 * i as i64, 2 * i as i64 + 2, 1 << 24)).collect();
        assert_eq!(plan(&blocks, &LADDER, 1 << 40), None, "the window is not over");
        blocks.push(block(6, 12, 14, 1 << 24));
        assert_eq!(plan(&blocks, &LADDER, 1 << 40), Some(vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(plan(&blocks, &LADDER, 1 << 25), None, "too large");
    }

    #[test]
    fn overlapping_blocks_are_merged_when_they_are_like_and_several() {
        let mut blocks: Vec<Rung> = (0..4).map(|i| block(i, 0, 1000 + i as i64, 5 << 20)).collect();
        assert_eq!(plan(&blocks[..3], &LADDER, 1 << 40), None);
        assert_eq!(plan(&blocks, &LADDER, 1 << 40), Some(vec![0, 1, 2, 3]));
        blocks[3].bytes = 1 << 30;
        assert_eq!(plan(&blocks, &LADDER, 1 << 40), None, "a large block is not rewritten for three small ones");
    }

    #[test]
    fn all_means_all() {
        let blocks: Vec<Rung> = (0..5).map(|i| block(i, 3 * i as i64, 100, 10)).collect();
        assert_eq!(plan_all(&blocks, 1000), vec![vec![0, 1, 2, 3, 4]]);
        assert_eq!(plan_all(&blocks, 25), vec![vec![0, 1], vec![2, 3], vec![4]]);
        let merged = Rung { level: 1, ..blocks[0] };
        assert_eq!(plan_all(&[merged], 25), Vec::<Vec<u64>>::new());
    }

    #[test]
    fn retention_does_not_believe_a_wrong_clock() {
        let blocks = [block(0, 0, 10, 1), block(1, 90, 100, 1)];
        let newest = Some(100 * H - 1);
        let at = |now_h: i64| -> Vec<u64> {
            let cutoff = cutoff(24 * H, now_h * H, newest, H).unwrap_or(i64::MIN);
            blocks.iter().filter(|b| b.max_ts < cutoff).map(|b| b.id).collect()
        };
        assert_eq!(at(100), [0]);
        assert_eq!(at(1_000_000), [0], "far ahead: age is counted from the newest sample");
        assert_eq!(at(50), [0u64; 0], "behind the data");
        assert_eq!(cutoff(24 * H, 100 * H, None, H), None);
    }

    #[test]
    fn the_oldest_go_first_when_there_are_too_many_bytes() {
        let blocks = [block(3, 0, 10, 50), block(1, 20, 30, 50), block(2, 10, 20, 50)];
        assert_eq!(oversize(&blocks, 0, 150), [0u64; 0]);
        assert_eq!(oversize(&blocks, 1, 150), [3]);
        assert_eq!(oversize(&blocks, 0, 60), [3, 2]);
        assert_eq!(oversize(&blocks, 500, 1), [3, 2], "the newest stays");
        assert_eq!(oversize(&[], 500, 1), [0u64; 0]);
    }

    proptest! {
        #[test]
        fn merging_ends_and_every_plan_is_sound(
            spans in proptest::collection::vec((any::<i32>(), 0i64..200 * H, 0u64..1 << 27), 0..120),
        ) {
            let mut blocks: Vec<Rung> = (0u64..).zip(spans).map(|(id, (at, len, bytes))| {
                let min_ts = i64::from(at) * 1000;
                Rung { id, min_ts, max_ts: min_ts + len, bytes, level: 0 }
            }).collect();
            let mut next = blocks.len() as u64;
            while let Some(ids) = plan(&blocks, &LADDER, 1 << 30) {
                prop_assert!(ids.len() > 1);
                let (gone, rest): (Vec<Rung>, Vec<Rung>) = blocks.iter().partition(|b| ids.contains(&b.id));
                prop_assert_eq!(gone.len(), ids.len());
                let merged = gone.iter().copied().reduce(|a, b| Rung {
                    id: next, min_ts: a.min_ts.min(b.min_ts), max_ts: a.max_ts.max(b.max_ts), bytes: a.bytes + b.bytes, level: 1,
                }).unwrap();
                prop_assert!(merged.bytes <= 1 << 30);
                next += 1;
                blocks = rest;
                blocks.push(merged);
            }
        }
    }
}
