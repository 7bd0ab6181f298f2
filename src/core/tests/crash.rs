//! Power loss at every operation of the disk: what was acknowledged is there, no batch is there in part, nothing twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use quiver_model::{MatchOp, Matcher, SampleColumn, WriteBatch};
use quiver_persistence::disk::{FaultAction, FaultRule};
use quiver_persistence::testing::{Crashes, Row, every_crash, sized};
use quiver_persistence::{DiskErrorKind, DiskOp, FaultyDisk, MemoryDisk};

use super::store::{block_on, open, options, write};
use crate::testing::histogram;
use crate::{Health, Ingest, Maintain, Need, Source, Store, TimeRange, WriteError};

pub(super) const SERIES: usize = 5;

/// Batch `k`: five series at one time of its own (the odd ones late), one of them a histogram.
pub(super) fn batch(k: i64) -> WriteBatch {
    let t = if k % 2 == 0 { 10_000 + k } else { 5_000 - k };
    let mut b = WriteBatch::default();
    for i in 0..SERIES {
        let name = format!("m{i}");
        b.begin_series([("__name__", name.as_str())]);
        if i == 4 {
            b.push_histogram(t, histogram(k as u8 % 7), 0);
        } else {
            b.push_float(t, k as f64, 0);
        }
    }
    b
}

/// How many series have a sample of which batch; panics at a sample of none.
pub(super) fn found(store: &Store) -> BTreeMap<i64, usize> {
    let all = [Matcher::new(MatchOp::Regex, "__name__", ".+", 1 << 20).unwrap()];
    let set = store.snapshot().select(&all, TimeRange::ALL, 100).unwrap();
    let mut out = BTreeMap::new();
    let mut column = SampleColumn::default();
    for i in 0..set.len() {
        set.read(i, TimeRange::ALL, Need::ALL, &mut column).unwrap();
        for (j, t) in column.ts.iter().enumerate() {
            let k = if *t >= 10_000 { *t - 10_000 } else { 5_000 - *t };
            match column.histogram_at(j) {
                None => assert_eq!(column.values[j], k as f64),
                Some(h) => assert_eq!(**h, histogram(k as u8 % 7)),
            }
            *out.entry(k).or_default() += 1;
        }
    }
    out
}

#[derive(Clone, Copy)]
enum Act {
    Write,
    Flush,
    Compact,
}

/// Runs the script on a disk whose power goes after `ops` operations; returns the batches acknowledged.
fn run(disk: &MemoryDisk, script: &[Act], ops: u64) -> Option<Vec<i64>> {
    disk.halt_after(ops);
    let store = Store::open(Arc::new(disk.clone()), options()).ok()?;
    store.wait_until_ready();
    let mut acknowledged = Vec::new();
    for (k, act) in script.iter().enumerate() {
        match act {
            Act::Write => {
                if write(&store, &batch(k as i64)).is_ok() {
                    acknowledged.push(k as i64);
                }
            }
            Act::Flush => drop(block_on(store.flush())),
            Act::Compact => drop(block_on(store.compact())),
        }
    }
    Some(acknowledged)
}

#[test]
fn power_loss_at_every_operation_loses_nothing_acknowledged() {
    use Act::{Compact as C, Flush as F, Write as W};
    let script = [W, W, F, W, W, F, W, C, W, F, F, W];
    let whole = MemoryDisk::new();
    assert_eq!(run(&whole, &script, u64::MAX).unwrap().len(), 7);
    let ops = whole.ops();
    assert!(ops > 10);
    let row = Row::begin("3", "power loss at every operation of the store");
    // 12 pending operations have 4,096 outcomes, each of which a store is opened on twice.
    let (pending_max, seeds) = (sized(6, 12) as usize, sized(6, 500));
    let (mut acked, mut crashes) = (0, Crashes::default());
    for n in 0..ops {
        let disk = MemoryDisk::new();
        let acknowledged = run(&disk, &script, n).unwrap_or_default();
        acked += acknowledged.len() as u64 * SERIES as u64;
        every_crash(&disk, pending_max, seeds, &mut crashes, |after, left| {
            let what = format!("power off after {n} of {ops}, {left}");
            let store = open(&after);
            let there = found(&store);
            for k in &acknowledged {
                assert_eq!(there.get(k), Some(&SERIES), "batch {k}, {what}");
            }
            assert!(there.values().all(|n| *n == SERIES), "a batch in part: {there:?}, {what}");
            // It goes on from there, twice.
            assert!(write(&store, &batch(100)).is_ok());
            block_on(store.flush()).unwrap();
            store.close();
            drop(store);
            let mut want = there;
            want.insert(100, SERIES);
            assert_eq!(found(&open(&after)), want, "{what}");
        });
    }
    row.passed(crashes, acked);
}

/// A process that is killed leaves what it wrote to the kernel; the next one builds on that, and then the power goes.
#[test]
fn power_loss_after_a_kill_and_a_start_loses_nothing_acknowledged() {
    use Act::{Compact as C, Flush as F, Write as W};
    let script = [W, F, W, F, W, C, W];
    let whole = MemoryDisk::new();
    assert_eq!(run(&whole, &script, u64::MAX).unwrap().len(), 4);
    let ops = whole.ops();
    let row = Row::begin("3", "power loss after a kill at every operation and a start");
    let (pending_max, seeds) = (sized(4, 8) as usize, sized(4, 60));
    let (mut acked, mut crashes) = (0, Crashes::default());
    for n in 0..ops {
        for next in 0..sized(4, 40) {
            let disk = MemoryDisk::new();
            let acknowledged = run(&disk, &script, n).unwrap_or_default();
            acked += acknowledged.len() as u64 * SERIES as u64;
            // The start does so many operations before the power goes; the last one does all that it has to.
            disk.halt_after(if next == 0 { u64::MAX } else { next });
            drop(Store::open(Arc::new(disk.clone()), options()));
            every_crash(&disk, pending_max, seeds, &mut crashes, |after, left| {
                let what = format!("killed after {n} of {ops}, start {next}, {left}");
                let there = found(&open(&after));
                for k in &acknowledged {
                    assert_eq!(there.get(k), Some(&SERIES), "batch {k}, {what}");
                }
                assert!(there.values().all(|n| *n == SERIES), "a batch in part: {there:?}, {what}");
            });
        }
    }
    row.passed(crashes, acked);
}

/// With an interval a kill takes nothing. What the next start replayed is not taken by a power loss after it either.
#[test]
fn what_a_start_found_in_the_log_is_durable() {
    let mut options = options();
    options.log.durability = quiver_persistence::Durability::Interval(3_600_000);
    let disk = MemoryDisk::new();
    let store = Store::open(Arc::new(disk.clone()), options.clone()).unwrap();
    write(&store, &batch(0)).unwrap();
    disk.halt_after(0);
    drop(store);
    assert_eq!(found(&open(&disk.crash(0))), BTreeMap::new(), "a power loss may take what no sync covered");
    disk.halt_after(u64::MAX);
    let store = Store::open(Arc::new(disk.clone()), options).unwrap();
    store.wait_until_ready();
    assert_eq!(found(&open(&disk.crash(0))), BTreeMap::from([(0, SERIES)]));
}

#[test]
fn a_full_disk_refuses_writes_keeps_reads_and_heals() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    write(&store, &batch(0)).unwrap();
    disk.set_capacity(disk.used_bytes() + 60);
    assert!(matches!(write(&store, &batch(2)), Err(WriteError::DiskFull(_))));
    assert!(matches!(store.health(), Health::ReadOnly(_)));
    assert_eq!(found(&store), BTreeMap::from([(0, SERIES)]));
    // A flush has no room either; nothing is lost by trying.
    let _ = block_on(store.flush());
    assert_eq!(found(&store), BTreeMap::from([(0, SERIES)]));
    disk.set_capacity(u64::MAX);
    write(&store, &batch(4)).unwrap();
    assert_eq!(store.health(), Health::Ok);
    block_on(store.flush()).unwrap();
    write(&store, &batch(6)).unwrap();
    let want = BTreeMap::from([(0, SERIES), (4, SERIES), (6, SERIES)]);
    assert_eq!(found(&store), want);
    store.close();
    drop(store);
    assert_eq!(found(&open(&disk)), want);
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_and_reads_go_on() {
    let disk = Arc::new(FaultyDisk::new(Arc::new(MemoryDisk::new())));
    let store = Store::open(disk.clone(), options()).unwrap();
    write(&store, &batch(0)).unwrap();
    let fail = FaultAction::Fail(DiskErrorKind::Media);
    disk.push(FaultRule::new(DiskOp::Sync, fail).on("log/").times(1));
    for k in [2, 4] {
        assert!(matches!(block_on(store.write(batch(k))), Err(WriteError::Poisoned(_))));
    }
    assert!(matches!(store.health(), Health::ReadOnly(_)));
    assert_eq!(found(&store), BTreeMap::from([(0, SERIES)]));
}
