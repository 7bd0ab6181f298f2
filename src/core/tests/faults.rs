//! Faults of the matrix that need no process of their own: blocks in part, manifests torn, starts that are cut off, batches
//! sent again, clocks that jump, reads that fail, repairs and retention that lose their power.

use std::collections::BTreeMap;
use std::sync::Arc;

use quiver_model::{ManualClock, Matcher, WriteBatch};
use quiver_persistence::disk::{FaultAction, FaultRule};
use quiver_persistence::testing::{Row, sized};
use quiver_persistence::{Disk, DiskErrorKind, DiskOp, FaultyDisk, MemoryDisk};

use super::crash::{SERIES, batch, found};
use super::oracle::{assert_same_samples, contents};
use super::store::{block_on, open, options, write};
use crate::check::check_folder;
use crate::memory::MemoryStore;
use crate::testing::batch_of;
use crate::{Ingest, Maintain, OpenError, ReadError, RetentionRule, Source, Store, StoreOptions, TimeRange};

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

fn all(ks: impl IntoIterator<Item = i64>) -> BTreeMap<i64, usize> {
    ks.into_iter().map(|k| (k, SERIES)).collect()
}

/// Two blocks, and a batch in the log.
fn two_blocks() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    for k in [0, 2] {
        write(&store, &batch(k)).unwrap();
        block_on(store.flush()).unwrap();
    }
    write(&store, &batch(4)).unwrap();
    store.close();
    disk
}

fn blocks_of(disk: &MemoryDisk) -> Vec<String> {
    disk.list("blocks").unwrap().into_iter().map(|n| format!("blocks/{n}")).collect()
}

#[test]
fn blocks_in_part_or_of_another_are_refused_by_name_and_cost_nothing_else() {
    let row = Row::begin("8", "block in part, without footer, of another");
    let whole = two_blocks();
    let [first, second] = &blocks_of(&whole)[..] else { panic!() };
    let bytes = whole.read(first).unwrap();
    let other = whole.read(second).unwrap();
    let mixed = [&bytes[..bytes.len() / 2], &other[other.len() / 2..]].concat();
    let mut cases: Vec<Vec<u8>> =
        (0..bytes.len()).step_by(sized(37, 1) as usize).map(|n| bytes[..n].to_vec()).collect();
    if quiver_persistence::testing::is_nightly() {
        cases.extend((0..bytes.len()).map(|n| bytes[..n].to_vec()));
    }
    let mut longer = bytes.clone();
    longer.extend_from_slice(&[0; 100]);
    cases.extend([mixed, longer, Vec::new(), vec![0; bytes.len()]]);
    let count = cases.len();
    for (i, bad) in cases.into_iter().enumerate() {
        let disk = whole.crash(1);
        disk.put(first, bad);
        let store = open(&disk);
        // What the damaged block held fails by name, the other block and the log answer.
        let at = |k: i64| {
            let range = TimeRange { min: 10_000 + k, max: 10_000 + k };
            store.snapshot().select(&[Matcher::equal("__name__", "m1")], range, 9).map(|s| s.len())
        };
        assert!(matches!(at(0), Err(ReadError::Corrupt { file, .. }) if file == *first), "case {i}");
        assert_eq!((at(2), at(4)), (Ok(1), Ok(1)), "case {i}");
        // Nothing of it goes away by itself.
        block_on(store.compact()).unwrap();
        store.close();
        assert!(disk.exists(first).unwrap());
    }
    // A block that was never published is not data, and is swept.
    let disk = whole.crash(1);
    let stray = "blocks/0000000000000077.block";
    disk.put(stray, bytes);
    disk.put("blocks/0000000000000078.block.tmp", vec![1; 100]);
    let store = open(&disk);
    assert_eq!(found(&store), all([0, 2, 4]));
    assert!(!disk.exists(stray).unwrap() && blocks_of(&disk).len() == 2);
    row.passed(format_args!("{count} files"), 3 * SERIES as u64);
}

#[test]
fn a_manifest_that_is_torn_old_missing_or_two_starts_from_the_last_good_one() {
    let row = Row::begin("9", "manifest torn, old, missing, of two generations");
    let disk = MemoryDisk::new();
    let store = open(&disk);
    write(&store, &batch(0)).unwrap();
    block_on(store.flush()).unwrap();
    let old = disk.read("MANIFEST").unwrap();
    write(&store, &batch(2)).unwrap();
    block_on(store.flush()).unwrap();
    store.close();
    drop(store);
    let now = disk.read("MANIFEST").unwrap();
    let torn = now[..now.len() / 2].to_vec();
    let mut states = 0;
    let two = all([0, 2]);
    // The main file, the copy, what must be read; `None`: a refusal that leaves all as it is.
    type State = Option<Vec<u8>>;
    let some = |b: &Vec<u8>| Some(b.clone());
    let cases: Vec<(State, State, Option<BTreeMap<i64, usize>>)> = vec![
        (some(&now), some(&torn), Some(two.clone())),
        (some(&now), None, Some(two.clone())),
        (some(&now), some(&old), Some(two.clone())),
        (some(&old), some(&now), Some(two.clone())),
        (some(&torn), some(&now), Some(two.clone())),
        (None, some(&now), Some(two.clone())),
        // The newest state is gone: its block is left alone, not swept.
        (some(&torn), some(&old), Some(all([0]))),
        (some(&torn), some(&torn), None),
        (some(&torn), None, None),
    ];
    for (i, (main, copy, want)) in cases.into_iter().enumerate() {
        states += 1;
        let disk = disk.crash(1);
        for (name, bytes) in [("MANIFEST", main), ("MANIFEST.copy", copy)] {
            match bytes {
                Some(bytes) => disk.put(name, bytes),
                None => disk.remove(name).unwrap(),
            }
        }
        let ops = disk.ops();
        match want {
            Some(want) => {
                let store = open(&disk);
                assert_eq!(found(&store), want, "case {i}");
                assert_eq!(blocks_of(&disk).len(), 2, "case {i}: no block is swept that may be data");
                write(&store, &batch(6)).unwrap();
                block_on(store.flush()).unwrap();
                drop(store);
                assert!(found(&open(&disk)).contains_key(&6), "case {i}");
            }
            None => {
                assert!(
                    matches!(Store::open(Arc::new(disk.clone()), options()), Err(OpenError::Damaged(_))),
                    "case {i}"
                );
                assert_eq!((blocks_of(&disk).len(), disk.ops()), (2, ops), "case {i}: nothing is changed");
            }
        }
    }
    row.passed(format_args!("{states} states"), 2 * SERIES as u64);
}

/// A start that is cut off anywhere, again and again, then one that is not.
#[test]
fn starts_that_are_cut_off_change_nothing() {
    let row = Row::begin("14", "crash in replay and in checkpoints, loops of 5");
    let mut random = Random(14);
    let mut acked = 0;
    let rounds = sized(60, 20_000);
    for round in 0..rounds {
        let mut disk = MemoryDisk::new();
        let mut ks = Vec::new();
        // Series that are written rarely: a checkpoint must not drop them.
        let rare = batch_of(&[("rare", &[(7, 7.0)])]);
        for life in 0..5i64 {
            // Power off somewhere in the start, up to five times.
            for _ in 0..random.below(5) {
                disk.halt_after(random.below(8));
                if let Ok(store) = Store::open(Arc::new(disk.clone()), options()) {
                    store.wait_until_ready();
                    store.close();
                }
                disk = disk.crash(random.below(1000));
            }
            // Reads that fail in the middle of a replay: no writes, no harm.
            let faulty = Arc::new(FaultyDisk::new(Arc::new(disk.clone())));
            let fail = FaultAction::Fail(DiskErrorKind::Io);
            faulty.push(FaultRule::new(DiskOp::Read, fail).on("log/").after(random.below(6)).times(1));
            if let Ok(store) = Store::open(faulty, options()) {
                store.wait_until_ready();
                store.close();
            }
            let store = open(&disk);
            assert_eq!(found_but_rare(&store), all(ks.iter().copied()), "round {round} life {life}");
            if life == 0 {
                write(&store, &rare).unwrap();
            }
            assert_eq!(rare_of(&store), [(7, 7.0)], "round {round} life {life}");
            for _ in 0..1 + random.below(3) {
                let k = ks.len() as i64;
                write(&store, &batch(k)).unwrap();
                ks.push(k);
            }
            // A checkpoint that is cut off: before, within, or after.
            disk.halt_after(random.below(25));
            let _ = block_on(store.flush());
            let _ = block_on(store.compact());
            store.close();
            drop(store);
            disk = disk.crash(random.below(1000));
        }
        // Twice the same start gives the same.
        for _ in 0..2 {
            let store = open(&disk);
            assert_eq!(found_but_rare(&store), all(ks.iter().copied()), "round {round}");
            assert_eq!(rare_of(&store), [(7, 7.0)]);
            assert!(store.replay_report().is_clean());
            store.close();
        }
        acked += ks.len() as u64 * SERIES as u64 + 1;
    }
    row.passed(format_args!("{rounds} rounds of 5"), acked);
}

fn rare_of(store: &Store) -> Vec<(i64, f64)> {
    let set = store.snapshot().select(&[Matcher::equal("__name__", "rare")], TimeRange::ALL, 9).unwrap();
    let mut column = quiver_model::SampleColumn::default();
    let mut out = Vec::new();
    for i in 0..set.len() {
        set.read(i, TimeRange::ALL, crate::Need::ALL, &mut column).unwrap();
        out.extend(column.ts.iter().copied().zip(column.values.iter().copied()));
    }
    out
}

/// [`found`] without the rare series, whose only sample is at time 7.
fn found_but_rare(store: &Store) -> BTreeMap<i64, usize> {
    let mut there = BTreeMap::new();
    for m in 0..SERIES {
        let name = format!("m{m}");
        let set = store.snapshot().select(&[Matcher::equal("__name__", &name)], TimeRange::ALL, 9).unwrap();
        let mut column = quiver_model::SampleColumn::default();
        for i in 0..set.len() {
            set.read(i, TimeRange::ALL, crate::Need::ALL, &mut column).unwrap();
            assert!(column.ts.windows(2).all(|w| w[0] < w[1]), "a sample twice");
            for t in &column.ts {
                *there.entry(if *t >= 10_000 { *t - 10_000 } else { 5_000 - *t }).or_default() += 1;
            }
        }
    }
    there
}

#[test]
fn batches_sent_again_and_again_count_once() {
    let row = Row::begin("15", "batches sent 2-5 times, shuffled, across restarts");
    let mut acked = 0;
    let rounds = sized(40, 5_000);
    for round in 0..rounds {
        let mut random = Random(round);
        let oracle = MemoryStore::new();
        let disk = MemoryDisk::new();
        let mut store = open(&disk);
        // Some disagree about a value: the same one wins in any order.
        let batches: Vec<WriteBatch> = (0..6i64)
            .map(|k| {
                let t = k / 2;
                let name = format!("s{}", k % 3);
                batch_of(&[(&name, &[(t, k as f64), (t + 100, 1.0)]), ("shared", &[(t, (k % 2) as f64)])])
            })
            .collect();
        let mut order: Vec<usize> = (0..batches.len()).flat_map(|i| vec![i; 2 + i % 4]).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i as u64 + 1) as usize);
        }
        for b in &batches {
            oracle.write_now(b).unwrap();
        }
        for i in order {
            write(&store, &batches[i]).unwrap();
            acked += 3;
            match random.below(8) {
                0 => block_on(store.flush()).unwrap(),
                1 => block_on(store.compact()).unwrap(),
                2 => {
                    store.close();
                    drop(store);
                    store = open(&disk.crash(0));
                    // The disk of before is gone with its power; go on with what was durable.
                    let again = disk.crash(0);
                    store.close();
                    drop(store);
                    store = open(&again);
                    for b in &batches {
                        write(&store, b).unwrap();
                    }
                }
                _ => {}
            }
        }
        for b in batches.iter().rev() {
            write(&store, b).unwrap();
        }
        assert_same_samples(&*store.snapshot(), &*oracle.snapshot());
    }
    row.passed(format_args!("{rounds} rounds"), acked);
}

/// Data of the last days, a retention of one day, and a clock that jumps: what is younger than a day stays.
#[test]
fn a_clock_that_jumps_drops_nothing_that_is_young() {
    const HOUR: i64 = 3_600_000;
    const YEAR: i64 = 365 * 24 * HOUR;
    let row = Row::begin("16", "clock steps of an hour to ten years");
    let mut acked = 0;
    let days = [HOUR, 6 * HOUR, 48 * HOUR, 71 * HOUR, 73 * HOUR];
    for step in days.into_iter().chain([-HOUR, 10 * YEAR, -10 * YEAR, 1000, -1000, i64::MAX / 2, -1_700_000_000_000]) {
        for n in 0..8 {
            let [self_written, is_merged, is_flushed] = [1, 2, 4].map(|bit| n & bit != 0);
            let true_now = 1_700_000_000_000;
            let clock = Arc::new(ManualClock::new(true_now));
            let own = || StoreOptions {
                clock: clock.clone(),
                retention_ms: Some(24 * HOUR),
                retention_rules: vec![RetentionRule {
                    matchers: vec![Matcher::equal("__name__", "short")],
                    keep_ms: Some(12 * HOUR),
                }],
                ..options()
            };
            let disk = MemoryDisk::new();
            let open = || {
                let store = Store::open(Arc::new(disk.clone()), own()).unwrap();
                store.wait_until_ready();
                store
            };
            let mut store = open();
            for hours in [30, 23, 11, 1] {
                let t = true_now - hours * HOUR;
                write(&store, &batch_of(&[("long", &[(t, 1.0)]), ("short", &[(t, 1.0)])])).unwrap();
                block_on(store.flush()).unwrap();
                acked += 2;
            }
            let retain = |store: &Store| {
                store.tick_for_test();
                store.retain_for_test().unwrap();
            };
            let shown = |store: &Store| -> Vec<usize> {
                let of = |m: &str| contents(&*store.snapshot(), &[Matcher::equal("__name__", m)], TimeRange::ALL);
                ["long", "short"].map(|m| of(m).iter().map(|(_, s)| s.len()).sum()).into()
            };
            retain(&store);
            assert_eq!(shown(&store), [3, 2]);
            clock.set(true_now.saturating_add(step));
            // The server's own metrics, and clients with the same clock, agree with it.
            let write_own = |store: &Store| {
                if self_written {
                    let _ = write(store, &batch_of(&[("own", &[(true_now.saturating_add(step), 1.0)])]));
                }
            };
            if !is_merged {
                write_own(&store);
            }
            for _ in 0..3 {
                clock.advance(1000);
                retain(&store);
                assert_eq!(shown(&store), [3, 2], "a step of {step} ms");
            }
            // A flush by the wrong clock, at times after a merge of all there is, and a restart under it.
            if is_merged {
                block_on(store.compact()).unwrap();
                write_own(&store);
            }
            if is_flushed {
                block_on(store.flush()).unwrap();
            }
            store.close();
            drop(store);
            store = open();
            for _ in 0..3 {
                clock.advance(1000);
                retain(&store);
                assert_eq!(shown(&store), [3, 2], "a step of {step} ms and a restart");
            }
            // Set right again, it goes on.
            clock.set(true_now + 10_000);
            write(&store, &batch_of(&[("long", &[(true_now + 9_000, 1.0)])])).unwrap();
            acked += 1;
            retain(&store);
            assert!(shown(&store)[0] >= 3, "a step of {step} ms and back");
        }
    }
    row.passed("12 steps", acked);
}

#[test]
fn reads_that_fail_fail_their_query_and_nothing_else() {
    let row = Row::begin("13", "EIO on reads of blocks and logs");
    let inner = two_blocks();
    let disk = Arc::new(FaultyDisk::new(Arc::new(inner.clone())));
    let store = Store::open(disk.clone(), options()).unwrap();
    store.wait_until_ready();
    // A merge that cannot read, a snapshot that cannot copy, an index that cannot be loaded: errors, and all goes on.
    for op in [DiskOp::Read, DiskOp::Open, DiskOp::Map, DiskOp::Stat, DiskOp::List] {
        for skip in 0..6 {
            disk.push(FaultRule::new(op, FaultAction::Fail(DiskErrorKind::Media)).after(skip).times(1));
            let _ = block_on(store.compact());
            let _ = block_on(store.create_snapshot(format!("20260101T000000Z-{skip:016x}"), false));
            disk.clear();
            assert!(block_on(store.write(batch(6))).is_ok());
            assert_eq!(found(&store), all([0, 2, 4, 6]), "{op} {skip}");
            let _ = store.remove_snapshot(&format!("20260101T000000Z-{skip:016x}"));
        }
    }
    // Blocks whose first reading fails at the start.
    drop(store);
    for op in [DiskOp::Map, DiskOp::Open, DiskOp::Read] {
        let faulty = Arc::new(FaultyDisk::new(Arc::new(inner.clone())));
        faulty.push(FaultRule::new(op, FaultAction::Fail(DiskErrorKind::Media)).on("blocks/"));
        let store = Store::open(faulty.clone(), options()).unwrap();
        store.wait_until_ready();
        assert!(block_on(store.write(batch(6))).is_ok());
        let _ = store.snapshot().select(&[Matcher::equal("__name__", "m1")], TimeRange::ALL, 9);
        drop(store);
        assert_eq!(found(&open(&inner)), all([0, 2, 4, 6]), "{op}");
    }
    row.passed("5 operations, 6 places", 4 * SERIES as u64);
}

/// Without mapping, a medium that does not give the bytes of a block fails the queries that need them, and no others.
#[test]
fn bytes_that_the_medium_does_not_give_fail_their_query() {
    let row = Row::begin("13", "EIO on the ranges of blocks, unmapped");
    let folder = tempfile::tempdir().unwrap();
    let real = quiver_persistence::RealDisk::create(folder.path()).unwrap();
    real.set_mapping(false);
    let disk = Arc::new(FaultyDisk::new(Arc::new(real)));
    let own = || StoreOptions { cache_bytes_max: 0, ..options() };
    let store = Store::open(disk.clone(), own()).unwrap();
    for k in [0, 2, 4] {
        write(&store, &batch(k)).unwrap();
        block_on(store.flush()).unwrap();
    }
    let whole = all([0, 2, 4]);
    let read = |store: &Store| -> Result<usize, ReadError> {
        let set = store.snapshot().select(&[Matcher::equal("__name__", "m1")], TimeRange::ALL, 9)?;
        let mut column = quiver_model::SampleColumn::default();
        let mut n = 0;
        for i in 0..set.len() {
            set.read(i, TimeRange::ALL, crate::Need::ALL, &mut column)?;
            n += column.len();
        }
        Ok(n)
    };
    let mut failed = 0;
    store.close();
    drop(store);
    let mut store = Store::open(disk.clone(), own()).unwrap();
    for skip in 0..60 {
        if skip % 2 == 0 {
            // The index of each block is read again.
            store.close();
            drop(store);
            store = Store::open(disk.clone(), own()).unwrap();
            store.wait_until_ready();
        }
        disk.push(
            FaultRule::new(DiskOp::Read, FaultAction::Fail(DiskErrorKind::Media)).on("blocks/").after(skip).times(1),
        );
        match read(&store) {
            Ok(n) => assert_eq!(n, 3),
            Err(e) => {
                failed += 1;
                assert!(e.to_string().contains("blocks/"), "{e}");
            }
        }
        disk.clear();
        assert_eq!(read(&store), Ok(3), "the next query is answered");
    }
    assert!(failed > 6, "{failed}");
    assert_eq!(found(&store), whole);
    row.passed(format_args!("{failed} failed reads"), 3 * SERIES as u64);
}

/// A repair that loses its power at any operation is done by the next one; nothing that is whole is lost.
#[test]
fn a_repair_that_loses_its_power_is_done_by_the_next_one() {
    let row = Row::begin("repair", "power loss at every operation of check --repair");
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let many: Vec<(i64, f64)> = (0..1000).map(|t| (t, t as f64 * 1.1)).collect();
    write(&store, &batch_of(&[("a", &many), ("b", &many), ("c", &[(5, 5.0)])])).unwrap();
    block_on(store.flush()).unwrap();
    let doomed = vec![vec![Matcher::equal("__name__", "c")]];
    block_on(store.delete(doomed, TimeRange::ALL)).unwrap();
    store.close();
    drop(store);
    let [file] = &blocks_of(&disk)[..] else { panic!() };
    let mut bytes = disk.read(file).unwrap();
    // Within the first chunk of `a`.
    bytes[40] ^= 1;
    disk.put(file, bytes.clone());
    let checked = |disk: &MemoryDisk, repair| check_folder(Arc::new(disk.clone()), repair, &|_| ());
    let whole = disk.crash(1);
    let report = checked(&whole, true).unwrap();
    let [(of, saved)] = &report.salvaged[..] else { panic!("{report:?}") };
    assert_eq!((of, saved.lost.len()), (file, 1), "{saved:?}");
    let lost = &saved.lost[0];
    assert_eq!(lost.series.as_ref().unwrap().get("__name__"), "a");
    assert_eq!((lost.min_ts, lost.samples), (0, lost.max_ts as u64 + 1));
    let left = |disk: &MemoryDisk| {
        let store = open(disk);
        let of = |m: &str| contents(&*store.snapshot(), &[Matcher::equal("__name__", m)], TimeRange::ALL);
        assert_eq!(of("c"), [], "a deletion counts in what is saved, too");
        ["a", "b"].map(|m| of(m).iter().map(|(_, s)| s.len() as u64).sum::<u64>())
    };
    let want = [1000 - lost.samples, 1000];
    assert_eq!(left(&whole), want);
    assert!(!checked(&whole, false).unwrap().is_damaged());
    let ops = whole.ops();
    let seeds = sized(6, 500);
    for n in 0..ops {
        for seed in 0..seeds {
            let disk = disk.crash(1);
            disk.halt_after(n);
            let _ = checked(&disk, true);
            let after = disk.crash(seed);
            checked(&after, true).unwrap();
            assert_eq!(left(&after), want, "power off after {n}, seed {seed}");
            let aside = after.list("quarantine").unwrap();
            let kept = aside.iter().any(|f| after.read(&format!("quarantine/{f}")).unwrap() == bytes);
            assert!(kept, "the damaged file is still there: power off after {n}, seed {seed}");
            // A server that starts in between sweeps nothing away that is needed.
            let between = disk.crash(seed);
            if let Ok(store) = Store::open(Arc::new(between.clone()), options()) {
                store.close();
            }
            checked(&between, true).unwrap();
            assert_eq!(left(&between), want, "and a start: power off after {n}, seed {seed}");
        }
    }
    row.passed(format_args!("{} states", ops * seeds), 2001);
}

/// Retention that loses its power at any operation drops nothing that is to be kept.
#[test]
fn retention_that_loses_its_power_drops_only_what_is_old() {
    let row = Row::begin("retention", "power loss at every operation of the retention");
    let clock = Arc::new(ManualClock::new(1_000_000));
    let rules = vec![RetentionRule { matchers: vec![Matcher::equal("__name__", "short")], keep_ms: Some(20_000) }];
    let own = || StoreOptions {
        clock: clock.clone(),
        retention_ms: Some(50_000),
        retention_rules: rules.clone(),
        ..options()
    };
    let disk = MemoryDisk::new();
    let store = Store::open(Arc::new(disk.clone()), own()).unwrap();
    for t in [900_000, 960_000, 970_000, 995_000] {
        write(&store, &batch_of(&[("long", &[(t, 1.0)]), ("short", &[(t, 2.0)])])).unwrap();
        block_on(store.flush()).unwrap();
    }
    write(&store, &batch_of(&[("long", &[(1_000_000, 1.0)])])).unwrap();
    store.close();
    drop(store);
    let times = |disk: &MemoryDisk, own: StoreOptions| {
        let store = Store::open(Arc::new(disk.clone()), own).unwrap();
        store.wait_until_ready();
        let read = |m: &str| contents(&*store.snapshot(), &[Matcher::equal("__name__", m)], TimeRange::ALL);
        ["long", "short"].map(|m| read(m).iter().map(|(_, s)| s.len()).sum::<usize>())
    };
    let run = |disk: &MemoryDisk| {
        let Ok(store) = Store::open(Arc::new(disk.clone()), own()) else { return };
        store.wait_until_ready();
        let _ = store.retain_for_test();
        store.close();
    };
    let whole = disk.crash(1);
    run(&whole);
    assert_eq!(times(&whole, own()), [4, 1]);
    let ops = whole.ops();
    let seeds = sized(5, 500);
    for n in 0..ops {
        for seed in 0..seeds {
            let disk = disk.crash(1);
            disk.halt_after(n);
            run(&disk);
            let after = disk.crash(seed);
            let [long, short] = times(&after, options());
            assert!((4..=5).contains(&long) && (1..=4).contains(&short), "{long} {short}: {n} of {ops}, seed {seed}");
            run(&after);
            assert_eq!(times(&after, own()), [4, 1], "{n} of {ops}, seed {seed}");
            let named: Vec<String> = blocks_of(&after);
            assert!(!check_folder(Arc::new(after.clone()), false, &|_| ()).unwrap().is_damaged(), "{named:?}");
        }
    }
    row.passed(format_args!("{} states", ops * seeds), 9);
}

/// What is deleted goes from the blocks by itself, once it has been deleted for long enough.
#[test]
fn what_was_deleted_a_while_ago_is_cleaned_by_itself() {
    let clock = Arc::new(ManualClock::new(1_000_000));
    let own = StoreOptions { clock: clock.clone(), clean_after_ms: Some(600_000), ..options() };
    let disk = MemoryDisk::new();
    let store = Store::open(Arc::new(disk.clone()), own).unwrap();
    write(&store, &batch_of(&[("a", &[(1, 1.0)]), ("secret", &[(1, 1.0)])])).unwrap();
    block_on(store.flush()).unwrap();
    block_on(store.delete(vec![vec![Matcher::equal("__name__", "secret")]], TimeRange::ALL)).unwrap();
    let is_on_disk = || {
        // A file may go between being listed and being read.
        let holds = |f: &String| disk.read(f).is_ok_and(|b| b.windows(6).any(|w| w == b"secret"));
        blocks_of(&disk).iter().any(holds)
    };
    store.tick_for_test();
    assert!(is_on_disk() && store.stats(0).tombstones == 1);
    clock.advance(600_000);
    store.tick_for_test();
    // The background's thread does it; the file of what was merged goes last.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while store.stats(0).tombstones > 0 || is_on_disk() {
        assert!(std::time::Instant::now() < deadline, "{:?}", store.tasks());
        std::thread::yield_now();
    }
    store.tick_for_test();
    assert!(store.tasks().list.iter().all(|t| t.failures == 0));
}
