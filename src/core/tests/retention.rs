//! What is kept how long: by size and by selector.

use std::sync::Arc;

use quiver_model::{Exemplar, Labels, ManualClock, MatchOp, Matcher, Metadata, MetricKind, WriteBatch};
use quiver_persistence::MemoryDisk;

use super::oracle::contents;
use super::store::{block_on, options, write};
use crate::background::TaskKind;
use crate::testing::batch_of;
use crate::{Maintain, RetentionRule, Source, Store, StoreOptions, TimeRange};

fn names(store: &Store) -> Vec<String> {
    store.snapshot().label_values("__name__", &[], TimeRange::ALL, 99).unwrap()
}

fn samples(store: &Store, metric: &str) -> usize {
    contents(&*store.snapshot(), &[Matcher::equal("__name__", metric)], TimeRange::ALL)
        .iter()
        .map(|(_, s)| s.len())
        .sum()
}

#[test]
fn the_oldest_blocks_go_when_there_are_too_many_bytes() {
    let options = StoreOptions { retention_bytes_max: Some(6_000), ..options() };
    let clock = Arc::new(ManualClock::new(1_000_000));
    let options = StoreOptions { clock, ..options };
    let store = Store::open(Arc::new(MemoryDisk::new()), options).unwrap();
    let mut t = 0;
    while store.stats(0).block_bytes <= 6_000 {
        let noise: Vec<(i64, f64)> = (0..100).map(|i| (t + i, ((t + i) * 7919 % 997) as f64 * 1.7)).collect();
        write(&store, &batch_of(&[("a", &noise)])).unwrap();
        block_on(store.flush()).unwrap();
        t += 1000;
    }
    let before = store.stats(0);
    store.retain_for_test().unwrap();
    let after = store.stats(0);
    assert!(after.block_bytes + after.log_bytes <= 6_000 && after.blocks + 2 >= before.blocks, "{after:?}");
    assert_eq!(after.blocks_dropped, before.blocks - after.blocks);
    let newest = store.snapshot().time_bounds().unwrap();
    assert_eq!(newest.max, t - 1000 + 99);
    assert!(newest.min > 0);
}

#[test]
fn selectors_keep_series_for_less_or_more() {
    let rule = |name: &str, keep_ms| RetentionRule { matchers: vec![Matcher::equal("__name__", name)], keep_ms };
    let debug = Matcher::new(MatchOp::Regex, "__name__", "debug_.*", 1 << 20).unwrap();
    let rules = vec![
        rule("debug_kept", Some(50_000)),
        RetentionRule { matchers: vec![debug], keep_ms: Some(10_000) },
        rule("audit", None),
    ];
    let clock = Arc::new(ManualClock::new(0));
    let options =
        StoreOptions { clock: clock.clone(), retention_ms: Some(100_000), retention_rules: rules, ..options() };
    let store = Store::open(Arc::new(MemoryDisk::new()), options).unwrap();
    for t in [1_000, 2_000] {
        let s = [(t, 1.0)];
        write(&store, &batch_of(&[("audit", &s), ("debug_a", &s), ("debug_kept", &s), ("up", &s)])).unwrap();
        block_on(store.flush()).unwrap();
    }
    let at = |now: i64| {
        clock.set(now);
        write(&store, &batch_of(&[("now", &[(now, 1.0)])])).unwrap();
        store.retain_for_test().unwrap();
        names(&store)
    };
    assert_eq!(at(9_000), ["audit", "debug_a", "debug_kept", "now", "up"]);
    assert_eq!(at(11_500), ["audit", "debug_a", "debug_kept", "now", "up"]);
    assert_eq!((samples(&store, "debug_a"), samples(&store, "up")), (1, 2), "the first block is written anew");
    assert_eq!(at(12_500), ["audit", "debug_kept", "now", "up"]);
    let rewritten = store.stats(0).compactions;
    assert_eq!(at(13_000), ["audit", "debug_kept", "now", "up"]);
    assert_eq!(store.stats(0).compactions, rewritten, "nothing is rewritten twice");
    assert_eq!(at(53_000), ["audit", "now", "up"]);
    assert_eq!(at(103_000), ["audit", "now"]);
    assert_eq!(samples(&store, "audit"), 2);
    clock.set(i64::MAX / 2);
    store.retain_for_test().unwrap();
    assert!(samples(&store, "now") > 0, "a clock that runs ahead drops nothing of the head");
}

/// Metadata of `m`, and no sample.
fn help(text: &str) -> WriteBatch {
    let said = Metadata { kind: MetricKind::Gauge, unit: String::new(), help: text.to_owned() };
    WriteBatch { metadata: vec![("m".to_owned(), said)], ..WriteBatch::default() }
}

#[test]
fn what_holds_no_sample_is_as_old_as_it_was_made() {
    const NOW: i64 = 1_000_000_000;
    let clock = Arc::new(ManualClock::new(NOW));
    let options = StoreOptions { clock: clock.clone(), retention_ms: Some(100_000), ..options() };
    let store = Store::open(Arc::new(MemoryDisk::new()), options).unwrap();
    let flushed = |batch: &WriteBatch| {
        write(&store, batch).unwrap();
        block_on(store.flush()).unwrap();
    };
    flushed(&help("kept"));
    let mut traced = WriteBatch::default();
    traced.begin_series([("__name__", "traced")]);
    traced.push_exemplar(Exemplar { labels: Labels::from_pairs([("trace", "a")]).unwrap(), value: 1.0, ts: NOW });
    flushed(&traced);
    flushed(&batch_of(&[("now", &[(NOW, 1.0)])]));
    store.retain_for_test().unwrap();
    assert_eq!(store.stats(0).blocks, 3, "none is of 1970");
    assert_eq!(store.snapshot().metadata(Some("m")).len(), 1);
    clock.advance(100_001);
    write(&store, &batch_of(&[("now", &[(NOW + 100_001, 1.0)])])).unwrap();
    store.retain_for_test().unwrap();
    assert_eq!(store.stats(0).blocks, 0);
}

#[test]
fn old_metadata_is_not_the_newest_after_a_merge() {
    let disk = MemoryDisk::new();
    let open = || {
        let store = Store::open(Arc::new(disk.clone()), options()).unwrap();
        store.wait_until_ready();
        store
    };
    let store = open();
    // The last to come is not the last by its samples.
    for (text, t) in [("first", 3_000), ("second", 2_000), ("third", 1_000)] {
        let mut batch = batch_of(&[("m", &[(t, 1.0)])]);
        batch.metadata = help(text).metadata;
        write(&store, &batch).unwrap();
        block_on(store.flush()).unwrap();
    }
    let said = |store: &Store| -> Vec<String> {
        store.snapshot().metadata(Some("m")).into_iter().flat_map(|(_, all)| all).map(|m| m.help).collect()
    };
    assert_eq!(said(&store), ["third", "second", "first"]);
    store.inner_for_test().merge_blocks(&[1, 2], TaskKind::Compact).unwrap();
    assert_eq!(said(&store), ["third", "second", "first"]);
    drop(store);
    let store = open();
    assert_eq!(said(&store), ["third", "second", "first"], "after a start");
    block_on(store.compact()).unwrap();
    assert_eq!((said(&store), store.stats(0).blocks), (["third", "second", "first"].map(String::from).to_vec(), 1));
}
