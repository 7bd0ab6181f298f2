//! What is said about finding and reading series is what happened.

use std::sync::Arc;

use quiver_model::{MatchOp, Matcher, SampleColumn, WriteBatch};
use quiver_persistence::MemoryDisk;

use super::store::{block_on, open, write};
use crate::report::{IndexUse, PlaceKind, SelectOptions, SelectReport, Way};
use crate::{Maintain, Need, ReadCounts, ReadStats, Snapshot, Source, TimeRange};

/// `m{job="a"|"b", id="0"…"99"}`, `per` samples each from `from` on, 15 s apart, values that do not compress to nothing.
fn batch(from: i64, per: i64) -> WriteBatch {
    let mut b = WriteBatch::default();
    for id in 0..100 {
        b.begin_series([("__name__", "m"), ("id", &id.to_string()), ("job", if id < 10 { "a" } else { "b" })]);
        (0..per).for_each(|k| b.push_float(from + k * 15_000, ((k * 7919 + id * 104_729) % 1009) as f64, 0));
    }
    b
}

fn matcher(op: MatchOp, name: &str, value: &str) -> Matcher {
    Matcher::new(op, name, value, 1 << 20).unwrap()
}

fn read_all(
    snapshot: &dyn Snapshot,
    matchers: &[Matcher],
    range: TimeRange,
    index: IndexUse,
) -> (usize, SelectReport, ReadCounts) {
    let reads = Arc::new(ReadStats::default());
    let options = SelectOptions { index, reads: Some(Arc::clone(&reads)), asker: None, ..SelectOptions::default() };
    let mut report = SelectReport::default();
    let set = snapshot.select_with(matchers, range, 1000, &options, Some(&mut report)).unwrap();
    let mut out = SampleColumn::default();
    (0..set.len()).for_each(|i| set.read(i, range, Need::ALL, &mut out).unwrap());
    (set.len(), report, reads.counts())
}

#[test]
fn places_matchers_and_tiers_are_reported() {
    let store = open(&MemoryDisk::new());
    write(&store, &batch(0, 200)).unwrap();
    block_on(store.flush()).unwrap();
    let later = 200 * 15_000;
    write(&store, &batch(later, 10)).unwrap();
    let snapshot = store.snapshot();
    let matchers = [matcher(MatchOp::Equal, "__name__", "m"), matcher(MatchOp::Equal, "job", "a")];

    let (n, report, first) = read_all(&*snapshot, &matchers, TimeRange::ALL, IndexUse::Auto);
    assert_eq!((n, report.pruned, report.places.len()), (10, 0, 2), "{report:?}");
    let kinds: Vec<PlaceKind> = report.places.iter().map(|p| p.kind).collect();
    assert_eq!(kinds, [PlaceKind::Head, PlaceKind::Block]);
    for p in &report.places {
        assert_eq!((p.series, p.matched, p.selected), (100, 10, 10), "{p:?}");
        let steps: Vec<_> = p.steps.iter().map(|s| (s.matcher.as_str(), s.way, s.estimate, s.actual, s.left)).collect();
        let want = [
            ("job=\"a\"", Way::Value, Some(10), Some(10), Some(10)),
            ("__name__=\"m\"", Way::Value, Some(100), Some(100), Some(10)),
        ];
        assert_eq!(steps, want, "the rarest first");
    }
    assert_eq!((first.series, first.samples, first.open_samples), (10, 10 * 210, 100), "{first:?}");
    assert!(first.mapped_chunks >= 10 && first.mapped_bytes > 24 * first.mapped_chunks, "{first:?}");
    assert_eq!((first.hits, first.misses, first.memory_chunks), (0, first.mapped_chunks, 0), "{first:?}");

    let (_, _, again) = read_all(&*snapshot, &matchers, TimeRange::ALL, IndexUse::Auto);
    assert_eq!((again.hits, again.misses, again.mapped_chunks), (first.misses, 0, 0), "now they are held decoded");

    let only_head = TimeRange { min: later, max: i64::MAX };
    let (n, report, counts) = read_all(&*snapshot, &matchers, only_head, IndexUse::Auto);
    assert_eq!((n, report.pruned, report.places.len()), (10, 1, 1), "{report:?}");
    assert_eq!((counts.chunks(), counts.samples), (0, 100));
}

#[test]
fn an_index_may_be_forbidden_or_forced() {
    let store = open(&MemoryDisk::new());
    write(&store, &batch(0, 3)).unwrap();
    let few = matcher(MatchOp::Equal, "id", "7");
    let walk = matcher(MatchOp::Regex, "id", "[0-9]*7[0-9]*");
    let drops = matcher(MatchOp::NotRegex, "job", ".*b.*");
    for flushed in [false, true] {
        if flushed {
            block_on(store.flush()).unwrap();
        }
        let snapshot = store.snapshot();
        let ask = |matchers: &[Matcher], how| {
            let (n, report, _) = read_all(&*snapshot, matchers, TimeRange::ALL, how);
            let steps = report.places.into_iter().find(|p| p.series > 0).unwrap().steps;
            (n, steps.into_iter().map(|s| (s.way, s.drops, s.left)).collect::<Vec<_>>())
        };
        let all = [few.clone(), walk.clone(), drops.clone()];
        let (n, steps) = ask(&all, IndexUse::Auto);
        assert_eq!(n, 1);
        // 100 values to walk for one series: it is tested. Job has two values: walked.
        assert_eq!(
            steps,
            [(Way::Value, false, Some(1)), (Way::Walk, true, Some(1)), (Way::Test, false, Some(1))],
            "flushed: {flushed}"
        );
        let (n, steps) = ask(&all, IndexUse::Force);
        assert_eq!((n, steps.iter().filter(|s| s.0 == Way::Test).count()), (1, 0), "{steps:?}");
        let (n, steps) = ask(&all, IndexUse::Off);
        assert_eq!((n, steps.iter().filter(|s| s.0 == Way::Test).count()), (1, 3), "{steps:?}");
        let (n, steps) = ask(&[matcher(MatchOp::Equal, "job", "c"), walk.clone()], IndexUse::Auto);
        assert_eq!((n, &steps[0].2, &steps[1].2), (0, &None, &None), "nothing is evaluated where an estimate is 0");
    }
}
