//! Limits on new series, and what is said where one is reached: which limit, and which label has too many values.
//!
//! The label to blame is the one whose values are new in most of the refused series; where none is new, the one that has
//! the most values. Invariant: a known series is never refused.

use quiver_model::{Labels, LabelsRef, Limits, METRIC_NAME};
use quiver_storage::HeadIndex;

/// Refused series of a request whose labels are looked at.
const LOOKED_AT: usize = 64;

/// How many series there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeriesCaps {
    /// In all.
    pub(crate) series: usize,
    /// Of one metric.
    pub(crate) per_metric: usize,
    /// With different values of one label.
    pub(crate) per_label: usize,
}

/// The limit that a new series would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cap {
    /// [`SeriesCaps::series`]
    Series(usize),
    /// [`SeriesCaps::per_metric`]
    Metric(usize),
    /// [`SeriesCaps::per_label`]
    Label(usize),
}

impl SeriesCaps {
    /// No limit.
    pub(crate) const NONE: Self = Self { series: usize::MAX, per_metric: usize::MAX, per_label: usize::MAX };

    /// Those that are configured.
    pub(crate) fn of(limits: &Limits) -> Self {
        Self {
            series: limits.active_series_max,
            per_metric: limits.metric_series_max,
            per_label: limits.label_values_max,
        }
    }

    /// The limit in the way of a new series, where `have` are there.
    pub(crate) fn reached(&self, have: usize, index: &HeadIndex, labels: LabelsRef<'_>) -> Option<Cap> {
        if have >= self.series {
            return Some(Cap::Series(self.series));
        }
        // A limit that is not below the one on all series needs no look-up.
        if self.per_metric < self.series
            && index.pair_series(METRIC_NAME, labels.get(METRIC_NAME)) >= self.per_metric as u64
        {
            return Some(Cap::Metric(self.per_metric));
        }
        if self.per_label < self.series {
            let is_full =
                |(n, v): (&str, &str)| index.cardinality(n) >= self.per_label as u64 && index.pair_series(n, v) == 0;
            if labels.iter().any(is_full) {
                return Some(Cap::Label(self.per_label));
            }
        }
        None
    }
}

/// A label of refused series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RefusedLabel {
    pub(crate) name: String,
    /// Refused series in which its value is not known.
    pub(crate) new: u64,
    /// Values that the head knows.
    pub(crate) known: u64,
}

/// Series that a limit kept out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) count: usize,
    cap: Option<Cap>,
    first: Option<Labels>,
    labels: Vec<RefusedLabel>,
}

impl Refused {
    /// Adds one.
    #[cold]
    pub(crate) fn add(&mut self, cap: Cap, index: &HeadIndex, labels: LabelsRef<'_>) {
        self.count += 1;
        if self.count > LOOKED_AT {
            return;
        }
        self.cap.get_or_insert(cap);
        self.first.get_or_insert_with(|| labels.to_labels());
        for (name, value) in labels.iter() {
            let at = self.labels.iter().position(|l| l.name == name).unwrap_or_else(|| {
                let known = index.cardinality(name);
                self.labels.push(RefusedLabel { name: name.to_owned(), new: 0, known });
                self.labels.len() - 1
            });
            self.labels[at].new += u64::from(index.pair_series(name, value) == 0);
        }
    }

    /// The label that has too many values.
    pub(crate) fn label(&self) -> Option<&RefusedLabel> {
        self.labels.iter().max_by_key(|l| (l.new, l.known))
    }

    /// What the client is told.
    pub(crate) fn text(&self) -> String {
        let limit = match self.cap {
            Some(Cap::Metric(n)) => {
                let metric = self.first.as_ref().map_or("", |l| l.metric_name());
                format!("the limit of {n} series per metric is reached by {metric:?}")
            }
            Some(Cap::Label(n)) => format!("the limit of {n} values per label is reached"),
            Some(Cap::Series(n)) => format!("the limit of {n} active series is reached"),
            None => "a limit on series is reached".to_owned(),
        };
        let label = self.label().map_or(String::new(), |l| {
            let looked = self.count.min(LOOKED_AT);
            match l.new {
                0 => format!("; their label {:?} has the most values, {}", l.name, l.known),
                new => format!(
                    "; their label {:?} has {} values already and {new} of {looked} looked at bring another",
                    l.name, l.known
                ),
            }
        });
        format!("{limit}: {} new series refused, known ones still flow{label}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(sets: &[&[(&str, &str)]]) -> HeadIndex {
        let mut index = HeadIndex::new();
        for (id, pairs) in (0..).zip(sets) {
            index.insert(id, Labels::from_pairs(pairs.iter().copied()).unwrap().as_ref());
        }
        index
    }

    #[test]
    fn the_label_whose_values_are_new_is_named_even_beside_a_wider_one() {
        let index = index(&[
            &[(METRIC_NAME, "up"), ("instance", "a")],
            &[(METRIC_NAME, "up"), ("instance", "b")],
            &[(METRIC_NAME, "up"), ("instance", "c"), ("id", "0")],
        ]);
        let mut refused = Refused::default();
        for id in ["1", "2", "3"] {
            let labels = Labels::from_pairs([(METRIC_NAME, "up"), ("instance", "a"), ("id", id)]).unwrap();
            refused.add(Cap::Series(3), &index, labels.as_ref());
        }
        assert_eq!(refused.label(), Some(&RefusedLabel { name: "id".into(), new: 3, known: 1 }));
        let text = refused.text();
        assert!(text.contains("3 active series") && text.contains("3 new series refused"), "{text}");
        assert!(text.contains("\"id\" has 1 values already and 3 of 3"), "{text}");

        let mut refused = Refused::default();
        let labels = Labels::from_pairs([(METRIC_NAME, "up"), ("id", "0")]).unwrap();
        refused.add(Cap::Series(3), &index, labels.as_ref());
        assert_eq!(refused.label().map(|l| l.name.as_str()), Some("id"), "nothing is new: the last of the widest");
    }

    #[test]
    fn limits_per_metric_and_per_label() {
        let index = index(&[&[(METRIC_NAME, "up"), ("i", "1")], &[(METRIC_NAME, "up"), ("i", "2")]]);
        let caps = SeriesCaps { series: 100, per_metric: 2, per_label: 100 };
        let of = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied()).unwrap();
        assert_eq!(caps.reached(2, &index, of(&[(METRIC_NAME, "up"), ("i", "3")]).as_ref()), Some(Cap::Metric(2)));
        assert_eq!(caps.reached(2, &index, of(&[(METRIC_NAME, "down"), ("i", "3")]).as_ref()), None);
        let caps = SeriesCaps { series: 100, per_metric: 100, per_label: 2 };
        assert_eq!(caps.reached(2, &index, of(&[(METRIC_NAME, "up"), ("i", "3")]).as_ref()), Some(Cap::Label(2)));
        assert_eq!(caps.reached(2, &index, of(&[(METRIC_NAME, "down"), ("i", "2")]).as_ref()), None);
        assert_eq!(caps.reached(100, &index, of(&[(METRIC_NAME, "up")]).as_ref()), Some(Cap::Series(100)));
    }
}
