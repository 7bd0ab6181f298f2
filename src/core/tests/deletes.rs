//! Deletions: what they take, what they leave, what a crash leaves of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use quiver_model::{Exemplar, Labels, Matcher, Metadata, MetricKind, SampleColumn, WriteBatch};
use quiver_persistence::disk::{FaultAction, FaultRule, Gate};
use quiver_persistence::{Disk, DiskErrorKind, DiskOp, FaultyDisk, MemoryDisk};

use super::oracle::{RANGES, assert_same_samples, contents, matchers};
use super::store::{block_on, open, options, write};
use crate::check::check_folder;
use crate::memory::MemoryStore;
use crate::testing::{arbitrary_batch, batch_of};
use crate::{Ingest, Maintain, Need, OfflineStore, ReadError, Source, Store, TimeRange};

fn name(metric: &str) -> Vec<Vec<Matcher>> {
    vec![vec![Matcher::equal("__name__", metric)]]
}

fn delete(store: &Store, metric: &str, range: TimeRange) {
    block_on(store.delete(name(metric), range)).unwrap();
}

fn times(source: &dyn Source, metric: &str) -> Vec<i64> {
    let set = source.snapshot().select(&name(metric)[0], TimeRange::ALL, 10).unwrap();
    let mut column = SampleColumn::default();
    (0..set.len()).for_each(|i| set.read(i, TimeRange::ALL, Need::ALL, &mut column).unwrap());
    column.ts
}

fn range(min: i64, max: i64) -> TimeRange {
    TimeRange { min, max }
}

/// The manifest is written anew with every change, and a catalog that is too long could not be read again.
#[test]
fn deletions_take_a_bounded_part_of_the_manifest() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    write(&store, &batch_of(&[("m", &[(1, 1.0), (2, 2.0)])])).unwrap();
    let selector = |bytes: usize| {
        let value = "x".repeat(bytes);
        vec![vec![Matcher::new(quiver_model::MatchOp::NotEqual, "__name__", &value, usize::MAX).unwrap()]]
    };
    let refused = block_on(store.delete(selector(9 << 20), range(1, 1))).unwrap_err();
    assert!(matches!(&refused, ReadError::Limit(why) if why.contains("run clean_tombstones")), "{refused}");
    assert_eq!(times(&*store, "m"), [1, 2]);
    // One that is large and fits counts, now and after a start.
    block_on(store.delete(selector(4 << 20), range(1, 1))).unwrap();
    assert_eq!(times(&*store, "m"), [2]);
    store.close();
    drop(store);
    assert_eq!(times(&*open(&disk), "m"), [2]);
}

#[derive(Clone, Debug)]
enum Step {
    Write(WriteBatch),
    Delete(usize, usize),
    Flush,
    Compact,
    Clean,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => arbitrary_batch(5).prop_map(Step::Write),
        4 => (0..matchers().len(), 0..RANGES.len()).prop_map(|(m, r)| Step::Delete(m, r)),
        2 => Just(Step::Flush),
        1 => Just(Step::Compact),
        1 => Just(Step::Clean),
        2 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_history_with_deletions_reads_like_the_oracle(steps in proptest::collection::vec(step(), 1..16)) {
        let disk = MemoryDisk::new();
        let oracle = MemoryStore::new();
        let mut store = open(&disk);
        for s in &steps {
            match s {
                Step::Write(batch) => {
                    let want = oracle.write_now(batch).unwrap();
                    prop_assert_eq!(write(&store, batch), Ok(want));
                }
                Step::Delete(m, r) => {
                    let selectors = vec![matchers()[*m].clone()];
                    oracle.delete_now(&selectors, RANGES[*r]);
                    prop_assert_eq!(block_on(store.delete(selectors, RANGES[*r])), Ok(()));
                    assert_same_samples(&*store.snapshot(), &*oracle.snapshot());
                }
                Step::Flush => prop_assert_eq!(block_on(store.flush()), Ok(())),
                Step::Compact => prop_assert_eq!(block_on(store.compact()), Ok(())),
                Step::Clean => {
                    prop_assert_eq!(block_on(store.clean_tombstones()), Ok(()));
                    prop_assert_eq!(store.stats(0).tombstones, 0);
                }
                Step::Reopen => {
                    store.close();
                    drop(store);
                    store = open(&disk);
                    prop_assert!(store.replay_report().is_clean());
                }
            }
        }
        assert_same_samples(&*store.snapshot(), &*oracle.snapshot());
        store.close();
        drop(store);
        assert_same_samples(&*OfflineStore::data_folder(Arc::new(disk)).unwrap().snapshot(), &*oracle.snapshot());
    }
}

#[test]
fn what_is_written_after_a_deletion_is_seen_in_its_range_too() {
    let store = open(&MemoryDisk::new());
    for flushed in [false, true] {
        for way in 0..4 {
            let metric = format!("m{flushed}{way}");
            write(&store, &batch_of(&[(&metric, &[(10, 1.0), (20, 2.0), (30, 3.0)]), ("other", &[(10, 1.0)])]))
                .unwrap();
            if flushed {
                block_on(store.flush()).unwrap();
            }
            delete(&store, &metric, range(15, 35));
            assert_eq!(times(&*store, &metric), [10]);
            write(&store, &batch_of(&[(&metric, &[(20, 7.0), (12, 0.5)])])).unwrap();
            match way {
                0 => {}
                1 => block_on(store.flush()).unwrap(),
                2 => block_on(store.compact()).unwrap(),
                _ => {
                    block_on(store.flush()).unwrap();
                    block_on(store.clean_tombstones()).unwrap();
                }
            }
            assert_eq!(times(&*store, &metric), [10, 12, 20], "{metric}");
        }
    }
    assert_eq!(times(&*store, "other"), [10]);
}

#[test]
fn names_values_series_and_space_go() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let mut b = WriteBatch::default();
    for i in 0..200i64 {
        for metric in ["secret_total", "public"] {
            b.begin_series([("__name__", metric), ("user", format!("{metric}-{i}").as_str())]);
            (0..50).for_each(|t| b.push_float(t * 1000, (t * i * 7919 % 1000) as f64, 0));
        }
    }
    b.begin_series([("__name__", "secret_total"), ("user", "exemplar-only")]);
    let labels = Labels::from_pairs([("trace", "secret-trace")]).unwrap();
    b.push_exemplar(Exemplar { labels, value: 1.0, ts: 5 });
    for family in ["secret", "public"] {
        let m = Metadata { kind: MetricKind::Counter, unit: String::new(), help: format!("help of {family}") };
        b.metadata.push((family.to_owned(), m));
    }
    write(&store, &b).unwrap();
    block_on(store.flush()).unwrap();
    let before = store.stats(0).block_bytes;
    delete(&store, "secret_total", TimeRange::ALL);
    let names = |store: &Store| store.snapshot().label_values("__name__", &[], TimeRange::ALL, 9).unwrap();
    assert_eq!(names(&store), ["public"]);
    assert_eq!(store.stats(0).tombstones, 1);
    block_on(store.clean_tombstones()).unwrap();
    assert_eq!((store.stats(0).tombstones, names(&store)), (0, vec!["public".to_owned()]));
    assert_eq!(store.snapshot().metadata(None).len(), 1);
    let after = store.stats(0).block_bytes;
    assert!(after * 10 < before * 7, "{before} bytes before, {after} after");
    for dir in ["", "blocks", "log"] {
        for file in disk.list(dir).unwrap() {
            let bytes = disk.read(quiver_persistence::disk::join(dir, &file).as_str()).unwrap();
            assert!(!bytes.windows(6).any(|w| w == b"secret"), "{dir}/{file} still tells");
        }
    }
    // A merge by hand carries deletions out, too, of one block alone as well.
    block_on(store.delete(vec![vec![Matcher::equal("user", "public-7")]], TimeRange::ALL)).unwrap();
    block_on(store.compact()).unwrap();
    assert_eq!(store.stats(0).tombstones, 0);
    block_on(store.delete(vec![vec![Matcher::equal("user", "public-8")]], TimeRange::ALL)).unwrap();
    block_on(store.compact()).unwrap();
    assert_eq!((store.stats(0).tombstones, store.stats(0).blocks), (0, 1));
    // A block of which nothing is left goes.
    block_on(store.delete(vec![vec![]], TimeRange::ALL)).unwrap();
    let metadata_left = store.snapshot().metadata(None);
    block_on(store.clean_tombstones()).unwrap();
    assert_eq!(names(&store), [""; 0]);
    assert!(!metadata_left.is_empty());
    assert_eq!(store.stats(0).blocks, 0);
    assert_eq!(disk.list("blocks").unwrap(), [""; 0]);
}

#[test]
fn what_matches_nothing_costs_nothing() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    write(&store, &batch_of(&[("a", &[(1, 1.0)])])).unwrap();
    let ops = disk.ops();
    delete(&store, "b", TimeRange::ALL);
    delete(&store, "a", range(2, 9));
    delete(&store, "a", range(9, 2));
    assert_eq!(disk.ops(), ops);
    let stats = store.stats(0);
    assert_eq!((stats.flushes, stats.tombstones), (0, 0));
}

#[test]
fn a_deletion_that_comes_while_blocks_are_merged_counts_in_the_result() {
    let disk = Arc::new(FaultyDisk::new(Arc::new(MemoryDisk::new())));
    let store = Store::open(disk.clone(), options()).unwrap();
    for t in [1, 2] {
        write(&store, &batch_of(&[("a", &[(t, 1.0)]), ("b", &[(t, 1.0)])])).unwrap();
        block_on(store.flush()).unwrap();
    }
    let gate = Gate::new();
    disk.push(FaultRule::new(DiskOp::Sync, FaultAction::Wait(gate.clone())).on("blocks/").times(1));
    std::thread::scope(|scope| {
        let merge = scope.spawn(|| block_on(store.compact()));
        gate.wait_for_arrival();
        // It does not wait for the merge.
        delete(&store, "a", range(1, 1));
        assert_eq!(times(&*store, "a"), [2]);
        gate.open();
        merge.join().unwrap().unwrap();
    });
    assert_eq!((times(&*store, "a"), times(&*store, "b")), (vec![2], vec![1, 2]));
    assert_eq!((store.stats(0).blocks, store.stats(0).tombstones), (1, 1));
    block_on(store.clean_tombstones()).unwrap();
    assert_eq!((times(&*store, "a"), times(&*store, "b")), (vec![2], vec![1, 2]));
    assert_eq!(store.stats(0).tombstones, 0);
}

/// A frame that went on its way before a flush rotated the log and was written after it is replayed after a crash, though
/// its samples are in a block: it must not bring deleted samples back.
#[test]
fn deleted_samples_do_not_come_back_by_a_replay() {
    let inner = MemoryDisk::new();
    let store = open(&inner);
    let (done, stop) = (std::sync::Mutex::new(Vec::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for w in 0..3i64 {
            let (store, done, stop) = (&store, &done, &stop);
            scope.spawn(move || {
                let mut k = 0;
                while !stop.load(Ordering::Acquire) {
                    let t = k * 3 + w;
                    write(store, &batch_of(&[("a", &[(t, t as f64)])])).unwrap();
                    done.lock().unwrap().push(t);
                    k += 1;
                }
            });
        }
        for _ in 0..12 {
            while done.lock().unwrap().len() < 20 {
                std::thread::yield_now();
            }
            block_on(store.flush()).unwrap();
            let acknowledged = std::mem::take(&mut *done.lock().unwrap());
            delete(&store, "a", TimeRange::ALL);
            // Power off at once: what was acknowledged before the deletion is gone for good.
            let after = open(&inner.crash(0));
            let there = times(&*after, "a");
            assert!(acknowledged.iter().all(|t| !there.contains(t)), "{acknowledged:?} {there:?}");
        }
        stop.store(true, Ordering::Release);
    });
}

#[test]
fn power_loss_at_every_operation_leaves_a_deletion_whole_or_undone() {
    let script = |disk: &MemoryDisk, ops: u64| -> (bool, bool) {
        disk.halt_after(ops);
        let Ok(store) = Store::open(Arc::new(disk.clone()), options()) else { return (false, false) };
        store.wait_until_ready();
        let samples: Vec<(i64, f64)> = (0..6).map(|t| (t, t as f64)).collect();
        let written = write(&store, &batch_of(&[("a", &samples), ("b", &samples)])).is_ok();
        let deleted = block_on(store.delete(name("a"), range(2, 3))).is_ok();
        let _ = block_on(store.delete(name("a"), range(5, 5)));
        let _ = block_on(store.clean_tombstones());
        let _ = block_on(store.compact());
        (written, deleted)
    };
    let whole = MemoryDisk::new();
    assert_eq!(script(&whole, u64::MAX), (true, true));
    let ops = whole.ops();
    for n in 0..ops {
        let disk = MemoryDisk::new();
        let (written, deleted) = script(&disk, n);
        for seed in 0..4 {
            let after = disk.crash(seed * (n + 1));
            if let Ok(report) = check_folder(Arc::new(after.clone()), false, &|_| ()) {
                assert!(!report.is_damaged(), "{n} of {ops}, seed {seed}: {:?}", report.findings);
            }
            let store = open(&after);
            let (a, b) = (times(&*store, "a"), times(&*store, "b"));
            let what = format!("{n} of {ops}, seed {seed}: {a:?}");
            assert!(b == [0, 1, 2, 3, 4, 5] || (!written && b.is_empty()), "{what}");
            let allowed: [&[i64]; 4] = [&[0, 1, 2, 3, 4, 5], &[0, 1, 4, 5], &[0, 1, 4], &[]];
            let at = allowed.iter().position(|x| *x == a).unwrap_or_else(|| panic!("{what}"));
            assert!(!written || at < 3, "{what}");
            assert!(!deleted || !written || at == 1 || at == 2, "an acknowledged deletion is undone: {what}");
            // It goes on from there.
            delete(&store, "b", range(0, 4));
            block_on(store.clean_tombstones()).unwrap();
            assert_eq!(times(&*store, "a"), a, "{what}");
            assert!(times(&*store, "b").iter().all(|t| *t == 5), "{what}");
        }
    }
}

#[test]
fn a_deletion_that_fails_anywhere_is_undone_or_done_and_can_be_done_again() {
    for op in [DiskOp::Create, DiskOp::Write, DiskOp::Sync, DiskOp::Rename, DiskOp::SyncDir] {
        for path in ["blocks", "MANIFEST"] {
            for skip in 0..3 {
                let disk = Arc::new(FaultyDisk::new(Arc::new(MemoryDisk::new())));
                let store = Store::open(disk.clone(), options()).unwrap();
                write(&store, &batch_of(&[("a", &[(1, 1.0), (2, 2.0)])])).unwrap();
                disk.push(FaultRule::new(op, FaultAction::Fail(DiskErrorKind::Full)).on(path).after(skip).times(1));
                let failed = block_on(store.delete(name("a"), range(1, 1))).is_err();
                let there = times(&*store, "a");
                assert!(there == [2] || (failed && there == [1, 2]), "{op} {path} {skip}: {there:?}");
                delete(&store, "a", range(1, 1));
                assert_eq!(times(&*store, "a"), [2], "{op} {path} {skip}");
            }
        }
    }
}

/// A write that was on its way while the log was rotated is in the block of its head and in the log that stays. A later flush that
/// fails does not make that log short.
#[test]
fn a_deletion_is_not_undone_by_a_log_that_a_failed_flush_left() {
    let inner = MemoryDisk::new();
    let disk = Arc::new(FaultyDisk::new(Arc::new(inner.clone())));
    let mut own = options();
    own.log.shards = 1;
    let store = Store::open(disk.clone(), own).unwrap();
    store.wait_until_ready();
    let straggled = || store.inner_for_test().is_straggled.load(Ordering::Acquire);
    for t in 1.. {
        // The writer of the log waits, so that the rotation and a write queue up behind it, in one order or the other.
        let gate = Gate::new();
        disk.push(FaultRule::new(DiskOp::Sync, FaultAction::Wait(gate.clone())).on("log/").times(1));
        std::thread::scope(|scope| {
            scope.spawn(|| write(&store, &batch_of(&[("a", &[(t, 1.0)])])).unwrap());
            gate.wait_for_arrival();
            let flush = scope.spawn(|| block_on(store.flush()).unwrap());
            std::thread::yield_now();
            scope.spawn(|| write(&store, &batch_of(&[("a", &[(-1 - t, 1.0)])])).unwrap());
            gate.open();
            flush.join().unwrap();
        });
        if straggled() {
            break;
        }
    }
    write(&store, &batch_of(&[("other", &[(1, 1.0)])])).unwrap();
    disk.push(FaultRule::new(DiskOp::Create, FaultAction::Fail(DiskErrorKind::Full)).on("blocks/"));
    assert!(block_on(store.flush()).is_err());
    let is_deleted = block_on(store.delete(name("a"), TimeRange::ALL)).is_ok();
    assert!(!is_deleted, "the flush that moves the floor fails");
    disk.clear();
    delete(&store, "a", TimeRange::ALL);
    let store = open(&inner.crash(0));
    assert_eq!((times(&*store, "a").len(), times(&*store, "other").len()), (0, 1));
}

#[test]
fn readers_see_a_deletion_whole() {
    let store = open(&MemoryDisk::new());
    let samples: Vec<(i64, f64)> = (0..2000).map(|t| (t, 1.0)).collect();
    for _ in 0..6 {
        write(&store, &batch_of(&[("a", &samples)])).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Acquire) {
                        let n = times(&*store, "a").len();
                        assert!(n == 2000 || n == 1000 || n == 0, "{n}");
                    }
                });
            }
            delete(&store, "a", range(500, 1499));
            assert_eq!(times(&*store, "a").len(), 1000);
            delete(&store, "a", TimeRange::ALL);
            block_on(store.clean_tombstones()).unwrap();
            stop.store(true, Ordering::Release);
        });
    }
    assert_eq!(contents(&*store.snapshot(), &[], TimeRange::ALL), []);
}

#[test]
fn a_damaged_block_keeps_its_tombstone() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    write(&store, &batch_of(&[("a", &[(1, 1.0), (2, 2.0)])])).unwrap();
    block_on(store.flush()).unwrap();
    store.close();
    drop(store);
    let path = format!("blocks/{}", disk.list("blocks").unwrap()[0]);
    let whole = disk.read(&path).unwrap();
    disk.put(&path, whole[..whole.len() - 3].to_vec());
    let store = open(&disk);
    assert_eq!(store.stats(0).damaged_blocks.len(), 1);
    delete(&store, "a", range(1, 1));
    assert!(block_on(store.clean_tombstones()).is_err());
    store.close();
    drop(store);
    // Somebody brings the bytes back.
    disk.put(&path, whole);
    let store = open(&disk);
    assert_eq!(times(&*store, "a"), [2]);
    assert!(store.stats(0).damaged_blocks.is_empty());
    let _ = block_on(store.write(batch_of(&[("a", &[(3, 3.0)])])));
    assert_eq!(times(&*store, "a"), [2, 3]);
}
