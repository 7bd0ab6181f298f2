//! Where series come from: how many each metric, label and label pair has, over heads and blocks alike.
//!
//! A series that lies in several places is one. Invariant: counting takes room for the distinct values, not for the series.

use std::cmp::Reverse;

use hashbrown::HashMap;
use quiver_model::{Labels, METRIC_NAME};

use crate::{NamedCount, SeriesSet};

/// Counts of a set of series, each list the largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cardinality {
    /// Series.
    pub series: u64,
    /// Distinct label pairs.
    pub pairs: u64,
    /// Metrics by series.
    pub series_by_metric: Vec<NamedCount>,
    /// Labels by series that have them.
    pub series_by_label: Vec<NamedCount>,
    /// Labels by distinct values.
    pub values_by_label: Vec<NamedCount>,
    /// Pairs by series.
    pub series_by_pair: Vec<NamedCount>,
    /// Values of the label in focus by series.
    pub series_by_focus: Vec<NamedCount>,
}

type Values<'a> = HashMap<&'a str, u64, rapidhash::fast::RandomState>;

/// Counts the series of a set; lists are at most `top` long.
pub fn cardinality(set: &dyn SeriesSet, focus: Option<&str>, top: usize) -> Cardinality {
    let mut labels: HashMap<&str, (u64, Values<'_>), rapidhash::fast::RandomState> = HashMap::default();
    for i in 0..set.len() {
        let labels_of: &Labels = set.labels(i);
        for (name, value) in labels_of.iter() {
            let (series, values) = labels.entry(name).or_default();
            *series += 1;
            *values.entry(value).or_default() += 1;
        }
    }
    let values_of = |name: Option<&str>| name.and_then(|n| labels.get(n)).into_iter().flat_map(|(_, values)| values);
    let named = |name: &str, count: u64| NamedCount { name: name.to_owned(), count };
    let pairs = labels.iter().flat_map(|(n, (_, values))| values.iter().map(move |(v, count)| (*count, (*n, *v))));
    Cardinality {
        series: set.len() as u64,
        pairs: labels.values().map(|(_, values)| values.len() as u64).sum(),
        series_by_metric: largest(values_of(Some(METRIC_NAME)).map(|(v, count)| (*count, *v)), top, named),
        series_by_label: largest(labels.iter().map(|(n, (count, _))| (*count, *n)), top, named),
        values_by_label: largest(labels.iter().map(|(n, (_, values))| (values.len() as u64, *n)), top, named),
        series_by_pair: largest(pairs, top, |(n, v), count| NamedCount { name: format!("{n}={v}"), count }),
        series_by_focus: largest(values_of(focus).map(|(v, count)| (*count, *v)), top, named),
    }
}

/// The largest counts; of equal ones the first by name.
fn largest<K: Ord + Copy>(
    counts: impl Iterator<Item = (u64, K)>,
    top: usize,
    name: impl Fn(K, u64) -> NamedCount,
) -> Vec<NamedCount> {
    let mut heap = std::collections::BinaryHeap::new();
    for (count, key) in counts {
        heap.push((Reverse(count), key));
        if heap.len() > top {
            heap.pop();
        }
    }
    heap.into_sorted_vec().into_iter().map(|(count, key)| name(key, count.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use crate::{Source, TimeRange};
    use quiver_model::WriteBatch;

    #[test]
    fn counts_and_their_order() {
        let store = MemoryStore::new();
        let mut b = WriteBatch::default();
        for i in 0..10 {
            let job = if i < 7 { "api" } else { "db" };
            b.begin_series([
                ("__name__", if i % 2 == 0 { "up" } else { "down" }),
                ("id", &i.to_string()),
                ("job", job),
            ]);
            b.push_float(1, 1.0, 0);
        }
        store.write_now(&b).unwrap();
        let set = store.snapshot().select(&[], TimeRange::ALL, 100).unwrap();
        let c = cardinality(&*set, Some("job"), 2);
        let of = |list: &[NamedCount]| list.iter().map(|c| format!("{} {}", c.name, c.count)).collect::<Vec<_>>();
        assert_eq!((c.series, c.pairs), (10, 14));
        assert_eq!(of(&c.series_by_metric), ["down 5", "up 5"]);
        assert_eq!(of(&c.values_by_label), ["id 10", "__name__ 2"]);
        assert_eq!(of(&c.series_by_label), ["__name__ 10", "id 10"]);
        assert_eq!(of(&c.series_by_pair), ["job=api 7", "__name__=down 5"]);
        assert_eq!(of(&c.series_by_focus), ["api 7", "db 3"]);
    }
}
