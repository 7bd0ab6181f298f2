//! Columns of one series from several places, put together by time.
//!
//! Columns that do not interleave are appended; the others are first laid in layers of disjoint columns (mostly two:
//! what came in order and what came late), then the layers are merged in pairs.

use quiver_model::SampleColumn;

use crate::TimeRange;

/// Merges `columns`, in any order, into `out` (cleared first); returns how many samples differed in value from another
/// of the same time.
pub(crate) fn merge_columns(columns: &mut Vec<SampleColumn>, out: &mut SampleColumn) -> u64 {
    out.clear();
    columns.retain(|c| !c.is_empty());
    columns.sort_by_key(|c| (c.ts[0], std::cmp::Reverse(c.len())));
    let mut layers: Vec<SampleColumn> = Vec::new();
    for c in columns.drain(..) {
        let fits = |l: &&mut SampleColumn| l.ts.last() < c.ts.first();
        match layers.iter_mut().find(fits) {
            Some(layer) => layer.extend_from(&c, 0..c.len()),
            None => layers.push(c),
        }
    }
    let mut conflicts = 0;
    while layers.len() > 1 {
        let mut next = Vec::with_capacity(layers.len().div_ceil(2));
        let mut rest = layers.into_iter();
        while let Some(a) = rest.next() {
            match rest.next() {
                Some(b) => {
                    let mut merged = SampleColumn::default();
                    conflicts += SampleColumn::merge(&a, &b, &mut merged);
                    next.push(merged);
                }
                None => next.push(a),
            }
        }
        layers = next;
    }
    if let Some(layer) = layers.pop() {
        *out = layer;
    }
    conflicts
}

/// About how many of `count` samples spread over `min..=max` lie in `range`.
pub(crate) fn samples_in(min: i64, max: i64, count: usize, range: TimeRange) -> usize {
    if !range.overlaps(min, max) {
        return 0;
    }
    let (from, to) = (i128::from(range.min.max(min)), i128::from(range.max.min(max)));
    let span = i128::from(max) - i128::from(min) + 1;
    let share = (to - from + 1) as f64 / span as f64;
    ((count as f64 * share).ceil() as usize).clamp(1, count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn merging_many_columns_is_a_map_with_the_rule(
            maps in proptest::collection::vec(proptest::collection::btree_map(0i64..60, 0u8..3, 0..12), 0..7),
        ) {
            let mut want = std::collections::BTreeMap::new();
            let mut columns = Vec::new();
            for map in &maps {
                let mut c = SampleColumn::default();
                for (t, v) in map {
                    c.push_float(*t, f64::from(*v), 0);
                    let e = want.entry(*t).or_insert(*v);
                    *e = (*e).max(*v);
                }
                columns.push(c);
            }
            let mut out = SampleColumn::default();
            merge_columns(&mut columns, &mut out);
            let all: Vec<_> = want.iter().map(|(t, v)| (*t, f64::from(*v))).collect();
            let got = |c: &SampleColumn| c.ts.iter().copied().zip(c.values.iter().copied()).collect::<Vec<_>>();
            prop_assert_eq!(got(&out), all);
        }
    }
}
