//! The index of the head: grows as series come, and forgets those that go.

use std::collections::BTreeMap;
use std::convert::Infallible;

use hashbrown::HashMap;
use quiver_model::{LabelsRef, METRIC_NAME, Matcher};
use roaring::RoaringBitmap;

use super::postings::{Postings, PostingsRef};
use super::select::{self, IndexUse, Lookup, MatcherStep, Picked};

/// A name and how many of it there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCount {
    /// Metric, label, or `name=value`.
    pub name: String,
    /// How many.
    pub count: u64,
}

#[derive(Clone, Debug, Default)]
struct Label {
    values: BTreeMap<Box<str>, Postings>,
    series: RoaringBitmap,
    value_bytes: u64,
}

/// Label pairs to series numbers, in memory. The caller numbers the series and locks.
#[derive(Clone, Debug, Default)]
pub struct HeadIndex {
    labels: HashMap<Box<str>, Label>,
    all: RoaringBitmap,
    pairs: u64,
}

fn infallible<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(v) => v,
        Err(never) => match never {},
    }
}

impl HeadIndex {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a series.
    pub fn insert(&mut self, id: u32, labels: LabelsRef<'_>) {
        self.all.insert(id);
        for (name, value) in labels.iter() {
            let label = match self.labels.get_mut(name) {
                Some(label) => label,
                None => self.labels.entry(name.into()).or_default(),
            };
            label.series.insert(id);
            match label.values.get_mut(value) {
                Some(postings) => postings.insert(id),
                None => {
                    label.values.insert(value.into(), Postings::One(id));
                    label.value_bytes += value.len() as u64;
                    self.pairs += 1;
                }
            }
        }
    }

    /// Takes a series out again.
    pub fn remove(&mut self, id: u32, labels: LabelsRef<'_>) {
        self.all.remove(id);
        for (name, value) in labels.iter() {
            let Some(label) = self.labels.get_mut(name) else { continue };
            label.series.remove(id);
            if label.values.get_mut(value).is_some_and(|p| p.remove(id)) {
                label.values.remove(value);
                label.value_bytes -= value.len() as u64;
                self.pairs -= 1;
            }
            if label.values.is_empty() {
                self.labels.remove(name);
            }
        }
    }

    /// The series that fulfil all matchers.
    pub fn select(&self, matchers: &[Matcher]) -> RoaringBitmap {
        infallible(select::select(self, matchers))
    }

    /// The series that fulfil all matchers but those left to be tested on labels.
    pub fn pick<'m>(&self, matchers: &'m [Matcher], how: IndexUse, trace: Option<&mut Vec<MatcherStep>>) -> Picked<'m> {
        infallible(select::pick(self, matchers, how, trace))
    }

    /// At most about this many series fulfil the matchers.
    pub fn estimate(&self, matchers: &[Matcher]) -> u64 {
        infallible(select::estimate(self, matchers))
    }

    /// All series.
    pub fn all(&self) -> &RoaringBitmap {
        &self.all
    }

    /// Number of series.
    pub fn series(&self) -> u64 {
        self.all.len()
    }

    /// Number of distinct label pairs.
    pub fn pairs(&self) -> u64 {
        self.pairs
    }

    /// Names of the labels that any of `among` has, sorted; without `among`: that any series has for which `counts`.
    pub fn label_names(&self, among: Option<&RoaringBitmap>, counts: impl Fn(u32) -> bool) -> Vec<String> {
        let has = |label: &Label| match among {
            Some(ids) => !label.series.is_disjoint(ids),
            None => label.series.iter().any(&counts),
        };
        let mut names: Vec<String> =
            self.labels.iter().filter(|(_, l)| has(l)).map(|(name, _)| name.to_string()).collect();
        names.sort_unstable();
        names
    }

    /// Values of a label that any of `among` has, sorted; without `among`: that any series has for which `counts`.
    pub fn label_values(&self, name: &str, among: Option<&RoaringBitmap>, counts: impl Fn(u32) -> bool) -> Vec<String> {
        let Some(label) = self.labels.get(name) else { return Vec::new() };
        let has = |p: &Postings| match among {
            Some(ids) => p.as_ref().intersects(ids),
            None => p.as_ref().any(&counts),
        };
        label.values.iter().filter(|(_, p)| has(p)).map(|(v, _)| v.to_string()).collect()
    }

    /// Metrics with the most series.
    pub fn series_by_metric(&self, top: usize) -> Vec<NamedCount> {
        let values = self.labels.get(METRIC_NAME).into_iter().flat_map(|l| &l.values);
        top_of(values.map(|(v, p)| (p.as_ref().len(), v)), top, |v| v.to_string())
    }

    /// Labels with the most values.
    pub fn values_by_label(&self, top: usize) -> Vec<NamedCount> {
        top_of(self.labels.iter().map(|(n, l)| (l.values.len() as u64, n)), top, |n| n.to_string())
    }

    /// Labels whose values take the most bytes, each counted for every series that has it, as Prometheus counts.
    pub fn bytes_by_label(&self, top: usize) -> Vec<NamedCount> {
        let bytes = |l: &Label| l.values.iter().map(|(v, p)| v.len() as u64 * p.as_ref().len()).sum::<u64>();
        top_of(self.labels.iter().map(|(n, l)| (bytes(l), n)), top, |n| n.to_string())
    }

    /// Label pairs with the most series.
    pub fn series_by_pair(&self, top: usize) -> Vec<NamedCount> {
        let pairs = self.labels.iter().flat_map(|(n, l)| l.values.iter().map(move |(v, p)| (p.as_ref().len(), (n, v))));
        top_of(pairs, top, |(n, v)| format!("{n}={v}"))
    }

    /// Number of values of a label.
    pub fn cardinality(&self, name: &str) -> u64 {
        self.labels.get(name).map_or(0, |l| l.values.len() as u64)
    }

    /// Number of series with a label pair.
    pub fn pair_series(&self, name: &str, value: &str) -> u64 {
        self.labels.get(name).and_then(|l| l.values.get(value)).map_or(0, |p| p.as_ref().len())
    }
}

/// The largest, by count and then by key.
fn top_of<K: Ord>(counts: impl Iterator<Item = (u64, K)>, top: usize, name: impl Fn(&K) -> String) -> Vec<NamedCount> {
    use std::cmp::Reverse;
    let mut heap = std::collections::BinaryHeap::new();
    for (count, key) in counts {
        heap.push((Reverse(count), key));
        if heap.len() > top {
            heap.pop();
        }
    }
    heap.into_sorted_vec().iter().map(|(count, key)| NamedCount { name: name(key), count: count.0 }).collect()
}

impl Lookup for HeadIndex {
    type Error = Infallible;

    fn all(&self) -> Result<RoaringBitmap, Infallible> {
        Ok(self.all.clone())
    }

    fn with_label(&self, name: &str) -> Result<PostingsRef<'_>, Infallible> {
        Ok(self.labels.get(name).map_or(PostingsRef::EMPTY, |l| PostingsRef::Bitmap(&l.series)))
    }

    fn label_len(&self, name: &str) -> Result<u64, Infallible> {
        Ok(self.labels.get(name).map_or(0, |l| l.series.len()))
    }

    fn pair(&self, name: &str, value: &str) -> Result<PostingsRef<'_>, Infallible> {
        let postings = self.labels.get(name).and_then(|l| l.values.get(value));
        Ok(postings.map_or(PostingsRef::EMPTY, Postings::as_ref))
    }

    fn values_len(&self, name: &str) -> u64 {
        self.labels.get(name).map_or(0, |l| l.values.len() as u64)
    }

    fn pair_len(&self, name: &str, value: &str) -> Result<u64, Infallible> {
        Ok(infallible(self.pair(name, value)).len())
    }

    fn walk(
        &self,
        matcher: &Matcher,
        prefix: &str,
        accept: bool,
        found: &mut dyn FnMut(PostingsRef<'_>),
    ) -> Result<(), Infallible> {
        let Some(label) = self.labels.get(&*matcher.name) else { return Ok(()) };
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        for (value, postings) in label.values.range::<str, _>(from) {
            if !value.starts_with(prefix) {
                break;
            }
            if matcher.matches(value) == accept {
                found(postings.as_ref());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use quiver_model::{Labels, MatchOp};

    pub(crate) fn any_labels() -> impl Strategy<Value = Labels> {
        let value = || prop_oneof![Just(""), Just("x"), Just("xy"), Just("y"), Just("host-1:9100"), Just("é")];
        (prop_oneof![Just("up"), Just("node_cpu"), Just("")], value(), value(), value())
            .prop_map(|(m, a, b, c)| Labels::from_pairs([(METRIC_NAME, m), ("a", a), ("b", b), ("c", c)]).unwrap())
    }

    pub(crate) fn any_matcher() -> impl Strategy<Value = Matcher> {
        let op =
            prop_oneof![Just(MatchOp::Equal), Just(MatchOp::NotEqual), Just(MatchOp::Regex), Just(MatchOp::NotRegex)];
        let name = prop_oneof![Just(METRIC_NAME), Just("a"), Just("b"), Just("c"), Just("none")];
        let value = prop_oneof![
            Just(""),
            Just("x"),
            Just("y"),
            Just("up"),
            Just(".*"),
            Just(".+"),
            Just("x.*"),
            Just("x|y"),
            Just("|x"),
            Just("x?"),
            Just("host-.*"),
            Just("node.+|up"),
            Just(".*y"),
            Just("[^x]+")
        ];
        (op, name, value).prop_map(|(op, n, v)| Matcher::new(op, n, v, 1 << 20).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn selects_what_testing_each_series_selects(
            sets in proptest::collection::vec(any_labels(), 0..80),
            gone in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
            matchers in proptest::collection::vec(any_matcher(), 0..4),
        ) {
            let mut index = HeadIndex::new();
            let mut there: Vec<Option<&Labels>> = sets.iter().map(Some).collect();
            for (i, l) in sets.iter().enumerate() {
                index.insert(i as u32 * 3, l.as_ref());
            }
            for g in gone {
                if !sets.is_empty() {
                    let g = g.index(sets.len());
                    if there[g].take().is_some() {
                        index.remove(g as u32 * 3, sets[g].as_ref());
                    }
                }
            }
            let want: Vec<u32> = there.iter().enumerate()
                .filter(|(_, l)| l.is_some_and(|l| matchers.iter().all(|m| m.matches_labels(l.as_ref()))))
                .map(|(i, _)| i as u32 * 3).collect();
            for how in [IndexUse::Auto, IndexUse::Off, IndexUse::Force] {
                let mut trace = Vec::new();
                let picked = index.pick(&matchers, how, Some(&mut trace));
                let tested = |i: &u32| picked.rest.iter().all(|m| m.matches_labels(sets[*i as usize / 3].as_ref()));
                prop_assert_eq!(&picked.ids.iter().filter(tested).collect::<Vec<_>>(), &want, "{:?}", how);
                prop_assert_eq!(trace.len() + picked.rest.len(), matchers.len(), "every matcher is accounted for");
            }
            let got = index.select(&matchers);
            prop_assert_eq!(got.iter().collect::<Vec<_>>(), want);
            prop_assert!(index.estimate(&matchers) >= got.len());

            let names: std::collections::BTreeSet<String> = there.iter().flatten()
                .flat_map(|l| l.iter().map(|(n, _)| n.to_owned())).collect();
            prop_assert_eq!(index.label_names(None, |_| true), names.into_iter().collect::<Vec<_>>());
            let values: std::collections::BTreeSet<String> = got.iter()
                .filter_map(|i| there[i as usize / 3]).map(|l| l.get("a").to_owned()).filter(|v| !v.is_empty()).collect();
            prop_assert_eq!(index.label_values("a", Some(&got), |_| true), values.into_iter().collect::<Vec<_>>());
            let pairs: std::collections::BTreeSet<(String, String)> = there.iter().flatten()
                .flat_map(|l| l.iter().map(|(n, v)| (n.to_owned(), v.to_owned()))).collect();
            prop_assert_eq!(index.pairs() as usize, pairs.len());
        }

        #[test]
        fn postings_are_sets(ops in proptest::collection::vec((0u32..60, prop::bool::weighted(0.7)), 1..200)) {
            let mut want = std::collections::BTreeSet::from([30]);
            let mut postings = Postings::One(30);
            for (id, add) in ops {
                if add || want.is_empty() {
                    if want.is_empty() { postings = Postings::One(id); } else { postings.insert(id); }
                    want.insert(id);
                } else {
                    want.remove(&id);
                    prop_assert_eq!(postings.remove(id), want.is_empty());
                }
                if !want.is_empty() {
                    prop_assert_eq!(postings.as_ref().to_bitmap().iter().collect::<Vec<_>>(), want.iter().copied().collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn cardinality_is_counted_as_prometheus_counts() {
        let mut index = HeadIndex::new();
        for i in 0..10u32 {
            let job = if i < 7 { "api" } else { "db" };
            let l = Labels::from_pairs([(METRIC_NAME, "up"), ("job", job), ("id", &i.to_string())]).unwrap();
            index.insert(i, l.as_ref());
        }
        assert_eq!(index.series_by_metric(5), [NamedCount { name: "up".into(), count: 10 }]);
        assert_eq!(index.values_by_label(1), [NamedCount { name: "id".into(), count: 10 }]);
        assert_eq!(index.bytes_by_label(1), [NamedCount { name: "job".into(), count: 27 }]);
        assert_eq!(index.series_by_pair(2)[1], NamedCount { name: "job=api".into(), count: 7 });
        assert_eq!(
            (index.cardinality("id"), index.pair_series("job", "db"), index.pair_series("job", "x")),
            (10, 3, 0)
        );
    }
}
