//! Compares a snapshot with [`MemoryStore`]'s, fact by fact.

use quiver_model::{MatchOp, Matcher, SampleColumn, Value};

use crate::{Need, Snapshot, TimeRange};

/// The ranges that every comparison goes through.
pub(crate) const RANGES: [TimeRange; 5] = [
    TimeRange::ALL,
    TimeRange { min: 1_600_000_000_000, max: 1_600_003_000_000 },
    TimeRange { min: -3, max: 25 },
    TimeRange { min: i64::MIN, max: i64::MIN },
    TimeRange { min: 1_600_001_000_001, max: 1_600_001_000_002 },
];

/// The selectors that every comparison goes through.
pub(crate) fn matchers() -> Vec<Vec<Matcher>> {
    let re = |op, n: &str, v: &str| vec![Matcher::new(op, n, v, 1 << 20).unwrap()];
    vec![
        re(MatchOp::Regex, "__name__", ".+"),
        vec![Matcher::equal("__name__", "m1")],
        re(MatchOp::Regex, "instance", "host-(1|3|4)"),
        re(MatchOp::NotRegex, "instance", "host-[0-2]"),
        re(MatchOp::NotEqual, "missing", ""),
        vec![Matcher::equal("missing", ""), Matcher::equal("__name__", "m0")],
    ]
}

/// Every sample as text, to the bit.
pub(crate) fn facts(c: &SampleColumn) -> Vec<String> {
    (0..c.len())
        .map(|i| match c.value_at(i) {
            Value::Float(v) => format!("{} {:x} {}", c.ts[i], v.to_bits(), c.start_at(i)),
            Value::Histogram(h) => {
                assert_eq!(c.values[i].to_bits(), h.sum.to_bits());
                let sum = h.sum.to_bits();
                let h = quiver_model::Histogram { sum: 0.0, ..(*h).clone() };
                format!("{} {h:?} {sum:x} {}", c.ts[i], c.start_at(i))
            }
        })
        .collect()
}

/// All that is in a snapshot in a range, as text; series without samples in the range are left out.
pub(crate) fn contents(snapshot: &dyn Snapshot, matchers: &[Matcher], range: TimeRange) -> Vec<(String, Vec<String>)> {
    let set = snapshot.select(matchers, range, usize::MAX).unwrap();
    let mut column = SampleColumn::default();
    let mut out = Vec::new();
    for i in 0..set.len() {
        assert!(i == 0 || set.labels(i - 1) < set.labels(i), "label order");
        set.read(i, range, Need::ALL, &mut column).unwrap();
        assert!(column.ts.windows(2).all(|w| w[0] < w[1]), "time order");
        let kinds = set.kinds(i);
        assert!(kinds.histograms || column.histograms.is_empty());
        assert!(kinds.floats || column.histograms.len() == column.len());
        assert!(kinds.start_ts || column.start_ts.iter().all(|s| *s == 0));
        if !column.is_empty() {
            assert!(set.samples_hint(i) > 0);
            out.push((set.labels(i).to_string(), facts(&column)));
        }
    }
    out
}

/// Panics where two snapshots disagree.
pub(crate) fn assert_same(got: &dyn Snapshot, want: &dyn Snapshot) {
    assert_same_samples(got, want);
    assert_same_about(got, want);
}

/// Panics where two snapshots disagree in series or exemplars.
pub(crate) fn assert_same_samples(got: &dyn Snapshot, want: &dyn Snapshot) {
    for range in RANGES {
        for m in matchers() {
            assert_eq!(contents(got, &m, range), contents(want, &m, range), "{m:?} {range:?}");
        }
    }
    let all = TimeRange::ALL;
    let selectors = [vec![], vec![vec![Matcher::equal("__name__", "m1")], vec![Matcher::equal("instance", "host-0")]]];
    for s in &selectors {
        assert_eq!(got.label_names(s, all, 10).unwrap(), want.label_names(s, all, 10).unwrap());
        for name in ["instance", "__name__", "missing"] {
            assert_eq!(got.label_values(name, s, all, 4).unwrap(), want.label_values(name, s, all, 4).unwrap());
        }
        for range in RANGES {
            let exemplars = |x: &dyn Snapshot| -> Vec<String> {
                let mut list: Vec<String> = (x.exemplars(s, range).unwrap().iter())
                    .flat_map(|(l, list)| list.iter().map(move |e| format!("{l} {e:?}")))
                    .collect();
                list.sort();
                list
            };
            assert_eq!(exemplars(got), exemplars(want));
        }
    }
}

fn assert_same_about(got: &dyn Snapshot, want: &dyn Snapshot) {
    assert_eq!(got.time_bounds(), want.time_bounds());
    let metadata = |x: &dyn Snapshot| {
        let mut all = x.metadata(None);
        all.iter_mut().for_each(|(_, m)| m.sort_by_key(|m| format!("{m:?}")));
        all
    };
    assert_eq!(metadata(got), metadata(want));
}
