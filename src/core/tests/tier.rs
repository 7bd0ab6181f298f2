//! Blocks in a remote store: nothing is lost on the way, two writers do not spoil each other's work, failures stay local.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use quiver_model::{Labels, Matcher, SampleColumn, WriteBatch};
use quiver_persistence::remote::{
    FaultyObjects, FolderObjects, ObjectErrorKind, ObjectFault, ObjectOp, Objects, RetryPolicy,
};
use quiver_persistence::{Disk, ManifestStore, MemoryDisk, Place};

use super::oracle::{assert_same, assert_same_samples};
use super::store::{block_on, options, write};
use crate::memory::MemoryStore;
use crate::testing::{arbitrary_batch, batch_of};
use crate::tier::TierOptions;
use crate::{Maintain, Need, OpenError, ReadError, Source, Store, StoreOptions, TimeRange};

/// A store and the remote one it moves blocks to.
#[derive(Clone)]
pub(super) struct Far {
    pub(super) disk: MemoryDisk,
    objects: Arc<FaultyObjects>,
}

impl Far {
    pub(super) fn new() -> Self {
        Self::on(MemoryDisk::new())
    }

    fn on(disk: MemoryDisk) -> Self {
        let objects = Arc::new(FaultyObjects::new(Arc::new(FolderObjects::new(Arc::new(disk.clone())))));
        Self { disk, objects }
    }

    fn options(&self, change: impl FnOnce(&mut TierOptions)) -> StoreOptions {
        let ms = Duration::from_millis;
        let mut tier = TierOptions {
            // A busy machine must not make a store that is well look like one that stalls.
            retry: RetryPolicy { attempt: ms(400), deadline: ms(1200), pause: ms(1), pause_max: ms(2) },
            after_ms: i64::MIN,
            drop_after_ms: i64::MIN,
            cache_bytes_max: 1 << 20,
            ..TierOptions::new(Arc::clone(&self.objects) as Arc<dyn Objects>)
        };
        change(&mut tier);
        StoreOptions { tier: Some(tier), ..options() }
    }

    pub(super) fn open(&self, disk: &MemoryDisk) -> Arc<Store> {
        self.open_with(disk, |_| ()).unwrap()
    }

    fn open_with(&self, disk: &MemoryDisk, change: impl FnOnce(&mut TierOptions)) -> Result<Arc<Store>, OpenError> {
        let store = Store::open(Arc::new(disk.clone()), self.options(change))?;
        store.wait_until_ready();
        Ok(store)
    }

    fn takeover(&self, disk: &MemoryDisk) -> Result<Arc<Store>, OpenError> {
        self.open_with(disk, |t| t.takeover = true)
    }

    fn keys(&self, dir: &str) -> Vec<String> {
        let listed = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        listed.block_on(self.objects.list(dir)).unwrap().into_iter().map(|i| i.key).collect()
    }
}

fn places(store: &Store) -> Vec<Place> {
    store.inner_for_test().manifest.current().entries.iter().map(|e| e.place()).collect()
}

fn one(t: i64) -> WriteBatch {
    batch_of(&[("a", &[(t, t as f64)]), ("b", &[(t, -t as f64), (t + 1, 0.5)])])
}

fn times(source: &dyn Source, metric: &str) -> Result<Vec<i64>, ReadError> {
    let set = source.snapshot().select(&[Matcher::equal("__name__", metric)], TimeRange::ALL, 10)?;
    let mut column = SampleColumn::default();
    for i in 0..set.len() {
        set.read(i, TimeRange::ALL, Need::ALL, &mut column)?;
    }
    Ok(column.ts)
}

/// A block with a sample for every time.
pub(super) fn blocks(store: &Store, from: i64, to: i64) {
    for t in from..to {
        write(store, &one(t * 10)).unwrap();
        block_on(store.flush()).unwrap();
    }
}

#[test]
fn blocks_move_and_are_read_and_outlive_the_local_disk() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open(&disk);
    blocks(&store, 1, 4);
    write(&store, &one(1000)).unwrap();
    let want = [10, 20, 30, 1000];
    assert_eq!(times(&*store, "a").unwrap(), want);
    block_on(store.tier()).unwrap();
    assert_eq!(places(&store), [Place::Remote; 3]);
    assert_eq!(times(&*store, "a").unwrap(), want);
    let files = disk.list("blocks").unwrap();
    assert!(files.len() == 3 && files.iter().all(|f| f.ends_with(".tail")), "{files:?}");
    assert_eq!(far.keys("blocks").len(), 3);
    let figures = store.stats(0).tier.unwrap();
    assert_eq!((figures.uploads, figures.remote_blocks, figures.fenced), (3, 3, None));
    assert!(figures.catalog >= 1 && figures.reads.requests > 0);
    // After a restart, without a word to the store but for the chunks; L3 has those already.
    store.close();
    drop(store);
    far.objects.fail(ObjectOp::Get, "", ObjectFault::Fail(ObjectErrorKind::Unavailable), u64::MAX);
    let store = far.open(&disk);
    assert_eq!(times(&*store, "a").unwrap(), want);
    far.objects.heal();
    store.close();
    drop(store);
    // The local disk is lost, with what was never moved.
    let fresh = MemoryDisk::new();
    let e = far.open_with(&fresh, |_| ()).err().unwrap();
    assert!(matches!(&e, OpenError::Tier(text) if text.contains("tier-takeover")), "{e}");
    assert!(fresh.list_dirs("").unwrap().iter().all(|d| d != "blocks"));
    let store = far.takeover(&fresh).unwrap();
    assert_eq!(times(&*store, "a").unwrap(), [10, 20, 30]);
    blocks(&store, 7, 8);
    block_on(store.tier()).unwrap();
    assert_eq!(times(&*store, "a").unwrap(), [10, 20, 30, 70]);
    store.close();
    drop(store);
    // It is its own now: no takeover needed, and none harms.
    assert_eq!(times(&*far.takeover(&fresh).unwrap(), "a").unwrap(), [10, 20, 30, 70]);
}

#[test]
fn a_block_may_stay_near_for_a_while() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open_with(&disk, |t| t.drop_after_ms = i64::MAX).unwrap();
    blocks(&store, 1, 3);
    block_on(store.tier()).unwrap();
    assert_eq!(places(&store), [Place::Both; 2]);
    far.objects.take_gets();
    assert_eq!(times(&*store, "a").unwrap(), [10, 20]);
    assert!(far.objects.take_gets().is_empty(), "the local file is read");
    drop(store);
    assert_eq!(
        times(&*far.takeover(&MemoryDisk::new()).unwrap(), "a").unwrap(),
        [10, 20],
        "and the other one is there"
    );
    let young = far.open_with(&MemoryDisk::new(), |t| (t.after_ms, t.takeover) = (i64::MAX, true)).unwrap();
    blocks(&young, 5, 6);
    block_on(young.tier()).unwrap();
    assert_eq!(places(&young)[2..], [Place::Local], "too young");
}

/// Writes, flushes, moves; the local disk stops after `near` operations, the remote one after `far`. Gives what was
/// acknowledged.
fn run(far: &Far, disk: &MemoryDisk, near_ops: u64, far_ops: u64) -> Vec<i64> {
    disk.halt_after(near_ops);
    far.objects.halt_after(far_ops);
    let mut acknowledged = Vec::new();
    let Ok(store) = far.open_with(disk, |_| ()) else { return acknowledged };
    for round in 0..3 {
        for t in [round * 2, round * 2 + 1] {
            if write(&store, &one(t * 10)).is_ok() {
                acknowledged.push(t * 10);
            }
            let _ = block_on(store.flush());
        }
        if round == 1 {
            let _ = block_on(store.compact());
        }
        let _ = block_on(store.tier());
    }
    acknowledged
}

fn found(store: &Store) -> BTreeMap<i64, usize> {
    let mut out = BTreeMap::new();
    times(store, "a").unwrap().into_iter().for_each(|t| *out.entry(t).or_default() += 1);
    times(store, "b").unwrap().into_iter().filter(|t| t % 10 == 0).for_each(|t| *out.entry(t).or_default() += 1);
    out
}

fn check_after(far: &Far, disk: &MemoryDisk, acknowledged: &[i64], what: &str) {
    far.objects.heal();
    let store = far.open(disk);
    let there = found(&store);
    for t in acknowledged {
        assert_eq!(there.get(t), Some(&2), "{t} is lost or there in part, {what}");
    }
    assert!(there.values().all(|n| *n == 2), "{there:?}, {what}");
    block_on(store.tier()).unwrap();
    let figures = store.stats(0).tier.unwrap();
    assert_eq!(figures.fenced, None, "{what}");
    assert_eq!(found(&store), there, "{what}");
    // All that is in blocks is in the store now.
    block_on(store.flush()).unwrap();
    block_on(store.tier()).unwrap();
    assert!(places(&store).iter().all(|p| *p == Place::Remote), "{what}");
    store.close();
    drop(store);
    let after = far.takeover(&MemoryDisk::new()).unwrap();
    assert_eq!(found(&after), there, "after the loss of the local disk, {what}");
}

#[test]
fn a_crash_at_any_operation_of_a_move_loses_nothing() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    assert_eq!(run(&far, &disk, u64::MAX, u64::MAX >> 1).len(), 6);
    let (near_ops, far_ops) = (disk.ops(), far.objects.ops());
    assert!(near_ops > 100 && far_ops > 30, "{near_ops} {far_ops}");
    // The process ends at an operation of the local disk, which keeps any part of what was not synced.
    for n in (0..near_ops).step_by(3) {
        let (far, disk) = (Far::new(), MemoryDisk::new());
        let acknowledged = run(&far, &disk, n, u64::MAX >> 1);
        check_after(&far, &disk.crash(n * 7 + 1), &acknowledged, &format!("near, {n} of {near_ops}"));
    }
    // The store ends at one of its own, and loses what it did not sync; the local disk loses power at the end.
    for n in 0..far_ops {
        let (far, disk) = (Far::new(), MemoryDisk::new());
        let acknowledged = run(&far, &disk, u64::MAX, n);
        let far = Far::on(far.disk.crash(n * 5 + 3));
        check_after(&far, &disk.crash(n + 11), &acknowledged, &format!("far, {n} of {far_ops}"));
    }
}

#[test]
fn of_two_writers_one_is_fenced_and_goes_on_reading() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let first = far.open_with(&disk, |t| t.sweep_after_ms = 0).unwrap();
    blocks(&first, 1, 4);
    block_on(first.tier()).unwrap();
    let second = far.takeover(&MemoryDisk::new()).unwrap();
    blocks(&second, 20, 22);
    block_on(second.tier()).unwrap();
    let before = far.keys("blocks");
    blocks(&first, 5, 6);
    assert!(block_on(first.tier()).is_err(), "its catalog is not the next one");
    let why = first.stats(0).tier.unwrap().fenced.unwrap();
    assert!(why.contains("taken over"), "{why}");
    assert_eq!(block_on(first.tier()), Ok(()), "nothing is done any more");
    assert_eq!(times(&*first, "a").unwrap(), [10, 20, 30, 50]);
    assert_eq!(places(&first)[3], Place::Both, "what was not published stays here");
    assert_eq!(times(&*second, "a").unwrap(), [10, 20, 30, 200, 210]);
    assert!(before.iter().all(|k| far.keys("blocks").contains(k)), "nothing was removed");
    // The same after a restart; and the second one goes on.
    first.close();
    drop(first);
    let first = far.open(&disk);
    assert_eq!(block_on(first.tier()), Ok(()));
    assert!(first.stats(0).tier.unwrap().fenced.unwrap().contains("another data folder"));
    blocks(&second, 30, 31);
    block_on(second.tier()).unwrap();
    assert_eq!(second.stats(0).tier.unwrap().fenced, None);
}

#[test]
fn a_catalog_whose_answer_was_lost_is_no_other_writer() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open(&disk);
    blocks(&store, 1, 2);
    block_on(store.tier()).unwrap();
    blocks(&store, 2, 3);
    // It is put, and nothing more is heard of the store.
    far.objects.fail(ObjectOp::Put, "catalog", ObjectFault::Lose, 1);
    far.objects.fail(ObjectOp::Get, "catalog", ObjectFault::Fail(ObjectErrorKind::Unavailable), u64::MAX);
    assert!(block_on(store.tier()).is_err());
    far.objects.heal();
    // The manifest is another one by now.
    blocks(&store, 3, 4);
    block_on(store.tier()).unwrap();
    let figures = store.stats(0).tier.unwrap();
    assert_eq!((figures.fenced, figures.catalog), (None, 3));
    assert_eq!(places(&store), [Place::Remote; 3]);
    assert_eq!(far.takeover_view(), [10, 20, 30]);
}

#[test]
fn a_store_that_replaces_catalogs_is_noticed_at_every_start() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open(&disk);
    blocks(&store, 1, 3);
    block_on(store.tier()).unwrap();
    store.close();
    drop(store);
    // It is on another service now.
    far.objects.be_unconditional();
    let fenced = |store: &Store| {
        blocks(store, 3, 4);
        assert_eq!(block_on(store.tier()), Ok(()));
        let why = store.stats(0).tier.unwrap().fenced.unwrap();
        assert!(why.contains("conditional writes"), "{why}");
        assert_eq!(places(store), [Place::Remote, Place::Remote, Place::Local]);
        assert_eq!(times(store, "a").unwrap(), [10, 20, 30], "it goes on reading");
    };
    let store = far.open(&disk);
    fenced(&store);
    store.close();
    drop(store);
    fenced(&far.takeover(&MemoryDisk::new()).unwrap());
}

#[test]
fn a_local_file_stays_where_its_object_is_not_what_it_was() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open_with(&disk, |t| t.drop_after_ms = i64::MAX).unwrap();
    blocks(&store, 1, 4);
    block_on(store.tier()).unwrap();
    store.close();
    drop(store);
    // Somebody was in the bucket.
    let keys = far.keys("blocks");
    far.disk.remove(&keys[0]).unwrap();
    let len = far.disk.len(&keys[1]).unwrap();
    far.disk.truncate(&keys[1], len - 1).unwrap();
    let store = far.open(&disk);
    let e = block_on(store.tier()).unwrap_err().to_string();
    assert!(e.contains(&keys[1]) && e.contains("file://") && e.contains("0000000000000002.block"), "{e}");
    assert_eq!(places(&store), [Place::Local, Place::Both, Place::Remote], "one does not hold up the next");
    assert_eq!(times(&*store, "a").unwrap(), [10, 20, 30]);
    // What is gone is uploaded again.
    assert!(block_on(store.tier()).is_err());
    assert_eq!(places(&store), [Place::Remote, Place::Both, Place::Remote]);
    assert_eq!(far.keys("blocks"), keys);
    assert!(disk.exists("blocks/0000000000000002.block").unwrap());
    assert_eq!(times(&*store, "a").unwrap(), [10, 20, 30]);
}

/// Whatever is wrong with one block: the others are moved, published and freed, and it is tried again after them.
#[test]
fn a_block_that_cannot_be_moved_holds_up_no_other() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open(&disk);
    blocks(&store, 1, 4);
    far.objects.fail(ObjectOp::Upload, "blocks/0000000000000001", ObjectFault::Fail(ObjectErrorKind::Other), u64::MAX);
    assert!(block_on(store.tier()).is_err());
    assert!(block_on(store.tier()).is_err());
    assert_eq!(places(&store), [Place::Local, Place::Remote, Place::Remote]);
    assert_eq!(times(&*far.takeover(&MemoryDisk::new()).unwrap(), "a").unwrap(), [20, 30], "and they are published");
    far.objects.heal();
    assert_eq!(times(&*store, "a").unwrap(), [10, 20, 30]);
}

/// Flushes wait with deletions: of a store that is away as little as can be.
#[test]
fn a_deletion_waits_once_for_a_store_that_is_away() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open_with(&disk, |t| t.cache_bytes_max = 0).unwrap();
    for t in 1..6 {
        let mut batch = one(t * 10);
        batch.begin_series([("__name__", "e")]);
        batch.push_float(t * 10, 1.0, 0);
        batch.push_exemplar(quiver_model::Exemplar { labels: Labels::default(), value: 1.0, ts: t * 10 });
        write(&store, &batch).unwrap();
        block_on(store.flush()).unwrap();
    }
    block_on(store.tier()).unwrap();
    assert_eq!(places(&store), [Place::Remote; 5]);
    let tier = store.inner_for_test().tier.clone().unwrap();
    far.keys("blocks").iter().for_each(|k| tier.cache.forget(k));
    far.objects.take_gets();
    far.objects.fail(ObjectOp::Get, "blocks", ObjectFault::Fail(ObjectErrorKind::Other), u64::MAX);
    block_on(store.delete(vec![vec![Matcher::equal("__name__", "nothing")]], TimeRange::ALL)).unwrap();
    let asked: std::collections::BTreeSet<String> = far.objects.take_gets().into_iter().map(|g| g.0).collect();
    assert!(asked.len() <= 1, "{asked:?}");
    far.objects.heal();
    assert_eq!(times(&*store, "a").unwrap(), [10, 20, 30, 40, 50]);
}

#[test]
fn a_move_that_a_stop_cut_off_is_no_success() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open(&disk);
    blocks(&store, 1, 3);
    let inner = store.inner_for_test();
    inner.background.stop();
    let e = inner.tier_now().unwrap_err();
    assert!(e.to_string().contains("shutting down"), "{e}");
    assert_eq!(places(&store), [Place::Local; 2]);
}

#[test]
fn a_folder_that_was_set_back_publishes_nothing() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open(&disk);
    blocks(&store, 1, 3);
    block_on(store.tier()).unwrap();
    store.close();
    drop(store);
    let old = disk.crash(0);
    let store = far.open(&disk);
    blocks(&store, 3, 6);
    block_on(store.tier()).unwrap();
    store.close();
    drop(store);
    let store = far.open(&old);
    blocks(&store, 8, 9);
    let _ = block_on(store.tier());
    assert!(store.stats(0).tier.unwrap().fenced.unwrap().contains("set back"));
    drop(store);
    let after = far.takeover(&MemoryDisk::new()).unwrap();
    assert_eq!(times(&*after, "a").unwrap(), [10, 20, 30, 40, 50]);
}

#[test]
fn a_store_that_fails_fails_its_queries_only() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open_with(&disk, |t| t.cache_bytes_max = 0).unwrap();
    blocks(&store, 1, 3);
    block_on(store.tier()).unwrap();
    write(&store, &batch_of(&[("c", &[(5, 5.0)])])).unwrap();
    let uncached = |store: &Store| {
        store.inner_for_test().cache.iter().for_each(|c| c.clear());
        let tier = store.inner_for_test().tier.clone().unwrap();
        far.keys("blocks").iter().for_each(|k| tier.cache.forget(k));
    };
    for fault in [
        ObjectFault::Fail(ObjectErrorKind::Unavailable),
        ObjectFault::Stall,
        ObjectFault::Fail(ObjectErrorKind::NotFound),
    ] {
        // What was learnt of times stays: blocks of one sample each are small enough to be all there.
        uncached(&store);
        far.objects.fail(ObjectOp::Get, "blocks", fault, u64::MAX);
        match times(&*store, "a") {
            Err(ReadError::Remote { file, store, .. }) => {
                assert!(file.starts_with("blocks/") && store.starts_with("file://"), "{file} {store}");
            }
            other => panic!("{fault:?}: {other:?}"),
        }
        assert_eq!(times(&*store, "c").unwrap(), [5], "other queries go on");
        far.objects.heal();
        assert_eq!(times(&*store, "a").unwrap(), [10, 20]);
    }
    // Damage on the way is read once more; damage in the store is an error by name.
    let values: Vec<(i64, f64)> =
        (0..2000i64).map(|i| (i * 977 % 65_537 * 1000, (i * i % 4099) as f64 / 7.0)).collect();
    write(&store, &batch_of(&[("d", &values)])).unwrap();
    block_on(store.flush()).unwrap();
    block_on(store.tier()).unwrap();
    uncached(&store);
    far.objects.fail(ObjectOp::Get, "blocks", ObjectFault::Flip, 1);
    assert_eq!(times(&*store, "d").unwrap().len(), 2000);
    uncached(&store);
    far.objects.fail(ObjectOp::Get, "blocks", ObjectFault::Flip, u64::MAX);
    let bad = times(&*store, "d");
    assert!(matches!(bad, Err(ReadError::Corrupt { .. })), "{bad:?}");
}

#[test]
fn a_store_that_is_away_holds_up_nothing() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    far.objects.fail(ObjectOp::List, "", ObjectFault::Stall, u64::MAX);
    far.objects.fail(ObjectOp::Upload, "", ObjectFault::Stall, u64::MAX);
    let store = far.open(&disk);
    blocks(&store, 1, 3);
    assert!(block_on(store.tier()).is_err());
    assert_eq!(times(&*store, "a").unwrap(), [10, 20]);
    assert!(far.takeover(&MemoryDisk::new()).is_err(), "who wants what is there does not begin without it");
    far.objects.heal();
    block_on(store.tier()).unwrap();
    assert_eq!(places(&store), [Place::Remote; 2]);
    // What is uploaded and not what the file was is never relied on.
    blocks(&store, 3, 4);
    far.objects.fail(ObjectOp::Get, "blocks", ObjectFault::Flip, u64::MAX);
    assert!(matches!(block_on(store.tier()), Err(ReadError::Corrupt { .. })));
    assert_eq!(places(&store)[2], Place::Local);
}

#[test]
fn what_nothing_names_is_swept_and_nothing_else() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open_with(&disk, |t| t.sweep_after_ms = 0).unwrap();
    blocks(&store, 1, 4);
    block_on(store.tier()).unwrap();
    let own = far.keys("blocks");
    far.disk.create("blocks/stray").unwrap().write_all(b"x").unwrap();
    far.disk.create("blocks/y.part-7").unwrap().write_all(b"x").unwrap();
    // Lists that are behind change nothing that counts.
    block_on(far.objects.freeze_lists()).unwrap();
    blocks(&store, 4, 5);
    for _ in 0..3 {
        std::thread::yield_now();
        block_on(store.tier()).unwrap();
    }
    far.objects.heal();
    let left = far.keys("blocks");
    assert!(left.len() == 4 && own.iter().all(|k| left.contains(k)), "{left:?}");
    // By hand, all blocks become one; objects stay until it is in the store.
    block_on(store.delete(vec![vec![Matcher::equal("__name__", "b")]], TimeRange { min: 20, max: 20 })).unwrap();
    block_on(store.clean_tombstones()).unwrap();
    let after = far.takeover_view();
    assert_eq!(after, [10, 20, 30, 40]);
    assert_eq!(times(&*store, "a").unwrap(), [10, 20, 30, 40]);
    for _ in 0..4 {
        block_on(store.tier()).unwrap();
    }
    assert_eq!(far.keys("blocks").len(), 4, "one was written anew, its old object went");
    assert_eq!(times(&*store, "b").unwrap().len(), 7);
}

impl Far {
    /// What the newest catalog says, without taking over: read by a copy of the remote disk.
    fn takeover_view(&self) -> Vec<i64> {
        let copy = Far::on(self.disk.crash(1));
        times(&*copy.takeover(&MemoryDisk::new()).unwrap(), "a").unwrap()
    }
}

#[test]
fn deletions_and_retention_reach_the_store() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open(&disk);
    blocks(&store, 1, 4);
    block_on(store.tier()).unwrap();
    block_on(store.delete(vec![vec![Matcher::equal("__name__", "a")]], TimeRange { min: 15, max: 25 })).unwrap();
    assert_eq!(times(&*store, "a").unwrap(), [10, 30]);
    block_on(store.tier()).unwrap();
    assert_eq!(far.takeover_view(), [10, 30], "the deletion is published");
    // Carried out, but the new block is not in the store yet: what replaces it is still without the deleted sample.
    block_on(store.clean_tombstones()).unwrap();
    assert_eq!(far.takeover_view(), [10, 30]);
    let mut opts = far.options(|t| t.after_ms = i64::MAX);
    store.close();
    drop(store);
    opts.retention_ms = Some(12);
    let store = Store::open(Arc::new(disk.clone()), opts).unwrap();
    store.wait_until_ready();
    block_on(store.tier()).unwrap();
    assert_eq!(far.takeover_view(), [10, 30], "a successor that is not there leaves its parts named");
    store.retain_for_test().unwrap();
    block_on(store.tier()).unwrap();
    assert_eq!(far.takeover_view(), times(&*store, "a").unwrap(), "what retention dropped is not");
}

/// The block that parts in the store were merged into is written anew for a deletion before it ever gets there.
#[test]
fn a_deletion_carried_out_here_counts_in_the_store() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open(&disk);
    blocks(&store, 1, 4);
    block_on(store.tier()).unwrap();
    store.close();
    drop(store);
    let store = far.open_with(&disk, |t| t.after_ms = i64::MAX).unwrap();
    block_on(store.compact()).unwrap();
    assert_eq!((places(&store), far.takeover_view()), (vec![Place::Local], vec![10, 20, 30]));
    block_on(store.delete(vec![vec![Matcher::equal("__name__", "a")]], TimeRange { min: 15, max: 25 })).unwrap();
    block_on(store.clean_tombstones()).unwrap();
    assert_eq!((store.stats(0).tombstones, times(&*store, "a").unwrap()), (0, vec![10, 30]));
    block_on(store.tier()).unwrap();
    assert_eq!(far.takeover_view(), [10, 30]);
}

/// What could not be saved of a merged block is still in the parts it was made of.
#[test]
fn a_repair_falls_back_on_parts_in_the_store() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open(&disk);
    blocks(&store, 1, 4);
    block_on(store.tier()).unwrap();
    store.close();
    drop(store);
    let stays = |t: &mut TierOptions| (t.after_ms, t.sweep_after_ms) = (i64::MAX, 0);
    let store = far.open_with(&disk, stays).unwrap();
    write(&store, &one(40)).unwrap();
    block_on(store.compact()).unwrap();
    let file = store.inner_for_test().manifest.current().entries[0].file.clone();
    store.close();
    drop(store);
    // No chunk of it is left.
    let mut bytes = disk.read(&file).unwrap();
    let half = bytes.len() / 3;
    bytes[16..half].fill(0xA5);
    disk.put(&file, bytes);
    let report = crate::check::check_folder(Arc::new(disk.clone()), true, &|_| ()).unwrap();
    assert!(!report.salvaged.is_empty(), "{:?}", report.findings);
    let store = far.open_with(&disk, stays).unwrap();
    for _ in 0..2 {
        let there = times(&*store, "a").unwrap();
        assert!(there.starts_with(&[10, 20, 30]), "{there:?}");
        block_on(store.tier()).unwrap();
    }
    assert_eq!(far.takeover_view(), [10, 20, 30]);
}

#[test]
fn a_snapshot_that_has_no_room_for_what_is_far_is_refused() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open(&disk);
    blocks(&store, 1, 3);
    block_on(store.tier()).unwrap();
    disk.set_capacity(disk.used_bytes() + (8 << 20));
    let refused = block_on(store.create_snapshot("s".into(), false)).unwrap_err();
    assert!(refused.to_string().contains("not enough free disk space"), "{refused}");
    write(&store, &one(50)).unwrap();
    disk.set_capacity(u64::MAX);
    block_on(store.create_snapshot("s".into(), false)).unwrap();
}

#[test]
fn snapshots_and_checks_know_about_the_store() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open(&disk);
    blocks(&store, 1, 3);
    block_on(store.tier()).unwrap();
    write(&store, &one(50)).unwrap();
    block_on(store.create_snapshot("s".into(), false)).unwrap();
    assert_eq!(store.snapshot_files("s").unwrap().len(), 4);
    let copy = ManifestStore::open(Arc::new(disk.clone()), "snapshots/s").unwrap().current();
    assert!(copy.tier().is_none() && copy.entries.iter().all(|e| e.place() == Place::Local));
    for e in &copy.entries {
        assert_eq!(disk.len(&format!("snapshots/s/{}", e.file)).unwrap(), e.bytes);
    }
    store.close();
    drop(store);
    let report = crate::check::check_folder(Arc::new(disk.clone()), false, &|_| ()).unwrap();
    assert!(!report.is_damaged(), "{:?}", report.findings);
    assert_eq!(report.findings.len(), 2, "{:?}", report.findings);
    let backup = crate::backup::Backup::on(Arc::new(MemoryDisk::new())).unwrap();
    let progress = Default::default();
    let refused = backup.of_disk(Arc::new(disk.clone()), false, 0, &progress, &|_| ()).unwrap_err();
    assert!(refused.to_string().contains("remote store"), "{refused}");
    // Without a store configured the rest goes on.
    let store = super::store::open(&disk);
    assert!(matches!(times(&*store, "a"), Err(ReadError::Remote { .. })));
}

#[test]
fn a_local_file_that_rots_is_read_from_the_store() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let near = |t: &mut TierOptions| t.drop_after_ms = i64::MAX;
    let store = far.open_with(&disk, near).unwrap();
    blocks(&store, 1, 3);
    block_on(store.tier()).unwrap();
    store.close();
    drop(store);
    let files = disk.list("blocks").unwrap();
    let (lost, rotten) = (format!("blocks/{}", files[0]), format!("blocks/{}", files[1]));
    disk.remove(&lost).unwrap();
    let len = disk.len(&rotten).unwrap();
    disk.truncate(&rotten, len - 1).unwrap();
    let store = far.open_with(&disk, near).unwrap();
    assert_eq!(times(&*store, "a").unwrap(), [10, 20]);
    store.close();
    drop(store);
    let report = crate::check::check_folder(Arc::new(disk.clone()), true, &|_| ()).unwrap();
    assert!(report.is_damaged() && report.salvaged.is_empty() && report.set_aside.len() == 1, "{report:?}");
    let store = far.open_with(&disk, near).unwrap();
    assert_eq!(places(&store), [Place::Remote; 2]);
    assert_eq!(times(&*store, "a").unwrap(), [10, 20]);
}

#[test]
fn a_tail_that_is_lost_or_rots_is_made_again() {
    let (far, disk) = (Far::new(), MemoryDisk::new());
    let store = far.open(&disk);
    blocks(&store, 1, 3);
    block_on(store.tier()).unwrap();
    store.close();
    drop(store);
    let tails = disk.list("blocks").unwrap();
    disk.remove(&format!("blocks/{}", tails[0])).unwrap();
    let path = format!("blocks/{}", tails[1]);
    let mut bytes = disk.read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    disk.create(&path).unwrap().write_all(&bytes).unwrap();
    // The store is away at the start, and comes back.
    far.objects.fail(ObjectOp::Get, "blocks", ObjectFault::Stall, u64::MAX);
    let store = far.open(&disk);
    assert!(matches!(times(&*store, "a"), Err(ReadError::Remote { .. } | ReadError::Corrupt { .. })));
    far.objects.heal();
    block_on(store.tier()).unwrap();
    assert_eq!(times(&*store, "a").unwrap(), [10, 20]);
    assert_eq!(disk.list("blocks").unwrap(), tails);
}

#[derive(Clone, Debug)]
enum Step {
    Write(WriteBatch),
    Flush,
    Compact,
    Tier,
    Delete(usize),
    Clean,
    Reopen,
    LoseDisk,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => arbitrary_batch(5).prop_map(Step::Write),
        3 => Just(Step::Flush),
        1 => Just(Step::Compact),
        4 => Just(Step::Tier),
        1 => (0..super::oracle::matchers().len()).prop_map(Step::Delete),
        1 => Just(Step::Clean),
        2 => Just(Step::Reopen),
        1 => Just(Step::LoseDisk),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_history_with_moves_reads_like_the_oracle(steps in proptest::collection::vec(step(), 1..16), near in any::<bool>()) {
        let far = Far::new();
        let mut disk = MemoryDisk::new();
        let oracle = MemoryStore::new();
        let keep = |t: &mut TierOptions| if near { t.drop_after_ms = i64::MAX };
        let mut store = far.open_with(&disk, keep).unwrap();
        let mut is_deleted = false;
        for s in &steps {
            match s {
                Step::Write(batch) => {
                    let want = oracle.write_now(batch).unwrap();
                    prop_assert_eq!(write(&store, batch), Ok(want));
                }
                Step::Flush => prop_assert_eq!(block_on(store.flush()), Ok(())),
                Step::Compact => prop_assert_eq!(block_on(store.compact()), Ok(())),
                Step::Tier => prop_assert_eq!(block_on(store.tier()), Ok(())),
                Step::Clean => prop_assert_eq!(block_on(store.clean_tombstones()), Ok(())),
                Step::Delete(m) => {
                    let matchers = super::oracle::matchers()[*m].clone();
                    oracle.delete_now(std::slice::from_ref(&matchers), TimeRange::ALL);
                    prop_assert_eq!(block_on(store.delete(vec![matchers], TimeRange::ALL)), Ok(()));
                    is_deleted = true;
                }
                Step::Reopen => {
                    store.close();
                    drop(store);
                    store = far.open_with(&disk, keep).unwrap();
                }
                Step::LoseDisk => {
                    prop_assert_eq!(block_on(store.flush()), Ok(()));
                    prop_assert_eq!(block_on(store.tier()), Ok(()));
                    // A block that is about to be merged is moved once it is.
                    prop_assert_eq!(block_on(store.compact()), Ok(()));
                    prop_assert_eq!(block_on(store.tier()), Ok(()));
                    store.close();
                    drop(store);
                    disk = MemoryDisk::new();
                    store = far.open_with(&disk, |t| { keep(t); t.takeover = true; }).unwrap();
                }
            }
        }
        if is_deleted {
            assert_same_samples(&*store.snapshot(), &*oracle.snapshot());
        } else {
            assert_same(&*store.snapshot(), &*oracle.snapshot());
        }
    }
}
