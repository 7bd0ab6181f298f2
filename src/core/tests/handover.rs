//! Data on its way from head to block to merged block, under readers, faults and damage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use quiver_model::{Histogram, ManualClock, Matcher, SampleColumn, WriteBatch};
use quiver_persistence::disk::{FaultAction, FaultRule, Gate};
use quiver_persistence::{Disk, DiskErrorKind, DiskOp, FaultyDisk, MemoryDisk};
use quiver_storage::parquet::ParquetExporter;

use super::oracle::{assert_same, contents};
use super::store::{block_on, open, options, write};
use crate::memory::MemoryStore;
use crate::report::SelectOptions;
use crate::testing::batch_of;
use crate::{Health, Maintain, Need, OfflineStore, OpenError, ReadError, Source, Store, StoreOptions, TimeRange};

const SERIES: usize = 300;

fn scrape(t: i64) -> WriteBatch {
    let mut b = WriteBatch::default();
    for i in 0..SERIES {
        b.begin_series([("__name__", "m"), ("i", i.to_string().as_str())]);
        b.push_float(t, t as f64, 0);
    }
    b
}

/// All samples of every hundredth series, and a check that each is there once and in order.
fn times(source: &dyn Source) -> Vec<Vec<i64>> {
    let set = source.snapshot().select(&[Matcher::equal("__name__", "m")], TimeRange::ALL, 1000).unwrap();
    let mut column = SampleColumn::default();
    let mut out = Vec::new();
    for i in (0..set.len()).step_by(100) {
        set.read(i, TimeRange::ALL, Need::ALL, &mut column).unwrap();
        assert!(column.ts.windows(2).all(|w| w[0] < w[1]));
        assert!(column.ts.iter().zip(&column.values).all(|(t, v)| *t as f64 == *v));
        out.push(column.ts.clone());
    }
    out
}

#[test]
fn readers_miss_and_double_nothing_while_heads_become_blocks_and_blocks_one() {
    let store = open(&MemoryDisk::new());
    let (done, acknowledged) = (AtomicBool::new(false), AtomicI64::new(0));
    write(&store, &scrape(1)).unwrap();
    acknowledged.store(1, Ordering::Release);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // On a busy machine the other threads may come late.
            let happened = || {
                let stats = store.stats(0);
                stats.flushes > 2 && stats.compactions > 1
            };
            for t in (2..=20_000).take_while(|t| *t <= 400 || !happened()) {
                write(&store, &scrape(t)).unwrap();
                acknowledged.store(t, Ordering::Release);
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                block_on(store.flush()).unwrap();
                block_on(store.flush()).unwrap();
                block_on(store.compact()).unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let before = acknowledged.load(Ordering::Acquire);
                    for ts in times(&*store) {
                        assert!(ts.len() as i64 >= before, "{} of {before}", ts.len());
                        assert_eq!(ts, (1..=ts.len() as i64).collect::<Vec<_>>());
                    }
                }
            });
        }
    });
    let written = acknowledged.load(Ordering::Acquire);
    assert!(written >= 400 && times(&*store).iter().all(|ts| ts.len() as i64 == written));
    let stats = store.stats(3);
    assert!(stats.flushes > 2 && stats.compactions > 1, "{stats:?}");
}

#[test]
fn a_snapshot_outlives_the_files_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_dir(dir.path(), options()).unwrap();
    for t in 1..4 {
        write(&store, &scrape(t)).unwrap();
        block_on(store.flush()).unwrap();
    }
    let set = store.snapshot().select(&[], TimeRange::ALL, 1000).unwrap();
    block_on(store.compact()).unwrap();
    assert_eq!(store.stats(1).blocks, 1);
    let mut column = SampleColumn::default();
    set.read(0, TimeRange::ALL, Need::ALL, &mut column).unwrap();
    assert_eq!(column.ts, [1, 2, 3]);
}

#[test]
fn writes_and_reads_go_on_while_a_flush_hangs_on_the_disk() {
    let disk = Arc::new(FaultyDisk::new(Arc::new(MemoryDisk::new())));
    let store = Store::open(disk.clone(), options()).unwrap();
    write(&store, &scrape(1)).unwrap();
    let gate = Gate::new();
    disk.push(FaultRule::new(DiskOp::Sync, FaultAction::Wait(gate.clone())).on("blocks/").times(1));
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| block_on(store.flush()));
        gate.wait_for_arrival();
        write(&store, &scrape(2)).unwrap();
        assert_eq!(times(&*store)[0], [1, 2]);
        gate.open();
        flush.join().unwrap().unwrap();
    });
    assert_eq!(times(&*store)[0], [1, 2]);
    assert_eq!(store.stats(1).flushes, 1);
}

#[test]
fn a_stop_ends_a_merge_that_the_background_chose() {
    let disk = Arc::new(FaultyDisk::new(Arc::new(MemoryDisk::new())));
    let store = Store::open(disk.clone(), options()).unwrap();
    // They overlap: merged without being asked for.
    for k in 0..4 {
        for t in [k, 1_000 + k] {
            write(&store, &scrape(t)).unwrap();
        }
        block_on(store.flush()).unwrap();
    }
    let gate = Gate::new();
    disk.push(FaultRule::new(DiskOp::Create, FaultAction::Wait(gate.clone())).on("blocks/").times(1));
    store.tick_for_test();
    gate.wait_for_arrival();
    let (closed, is_closed) = std::sync::mpsc::channel();
    let closing = Arc::clone(&store);
    std::thread::spawn(move || {
        closing.close();
        closed.send(()).unwrap();
    });
    while !store.is_stopping_for_test() {
        std::thread::yield_now();
    }
    gate.open();
    is_closed
        .recv_timeout(std::time::Duration::from_secs(60))
        .expect("the stop does not wait for merges that begin anew");
    assert_eq!(store.stats(1).blocks, 4);
}

#[test]
fn a_flush_that_fails_anywhere_is_done_again_and_loses_nothing() {
    for op in [DiskOp::Create, DiskOp::Write, DiskOp::Sync, DiskOp::Rename, DiskOp::SyncDir] {
        for path in ["blocks", "MANIFEST"] {
            let inner = MemoryDisk::new();
            let disk = Arc::new(FaultyDisk::new(Arc::new(inner.clone())));
            let store = Store::open(disk.clone(), options()).unwrap();
            write(&store, &scrape(1)).unwrap();
            disk.push(FaultRule::new(op, FaultAction::Fail(DiskErrorKind::Full)).on(path).times(1));
            let failed = block_on(store.flush()).is_err();
            write(&store, &scrape(2)).unwrap();
            assert_eq!(times(&*store)[0], [1, 2], "{op} {path}");
            block_on(store.flush()).unwrap();
            assert_eq!(times(&*store)[0], [1, 2], "{op} {path}");
            assert_eq!(store.stats(1).log_bytes, 0, "{op} {path} {failed}");
            store.close();
            drop(store);
            let store = open(&inner);
            assert_eq!(times(&*store)[0], [1, 2], "{op} {path}");
            let stray: Vec<String> =
                inner.list("blocks").unwrap().into_iter().filter(|n| !n.ends_with(".block")).collect();
            assert_eq!(stray, Vec::<String>::new());
        }
    }
}

#[test]
fn a_block_whose_name_cannot_be_made_durable_does_not_stay() {
    for op in [DiskOp::Open, DiskOp::SyncDir] {
        let inner = MemoryDisk::new();
        let disk = Arc::new(FaultyDisk::new(Arc::new(inner.clone())));
        let store = Store::open(disk.clone(), options()).unwrap();
        write(&store, &scrape(1)).unwrap();
        disk.push(FaultRule::new(op, FaultAction::Fail(DiskErrorKind::Io)).on("blocks"));
        for _ in 0..3 {
            assert!(block_on(store.flush()).is_err());
        }
        assert_eq!(inner.list("blocks").unwrap(), Vec::<String>::new(), "{op}");
        disk.clear();
        block_on(store.flush()).unwrap();
        assert_eq!((times(&*store)[0].as_slice(), store.stats(1).blocks), ([1].as_slice(), 1));
    }
}

/// Whatever the log holds past the place where its reading failed is there at the next start, however much is asked of the store
/// in between.
#[test]
fn a_replay_that_failed_leaves_the_log_as_it_is() {
    let inner = MemoryDisk::new();
    let store = open(&inner);
    for t in 1..=8 {
        write(&store, &scrape(t)).unwrap();
        if t == 2 {
            block_on(store.flush()).unwrap();
        }
    }
    drop(store);
    let mut failed = 0;
    for skip in 0..30 {
        let disk = Arc::new(FaultyDisk::new(Arc::new(inner.clone())));
        disk.push(FaultRule::new(DiskOp::Open, FaultAction::Fail(DiskErrorKind::Io)).on("log/").after(skip).times(1));
        let Ok(store) = Store::open(disk.clone(), options()) else { continue };
        store.wait_until_ready();
        if store.health() == Health::Ok {
            continue;
        }
        failed += 1;
        let refused = |done: Result<(), ReadError>| {
            assert!(
                matches!(&done, Err(ReadError::Io { what, .. }) if what.contains("could not be read to its end")),
                "{done:?}"
            );
        };
        refused(block_on(store.flush()));
        refused(block_on(store.compact()));
        refused(block_on(store.create_snapshot(format!("20260101T000000Z-{skip:016x}"), false)));
        refused(block_on(store.delete(vec![vec![Matcher::equal("__name__", "nothing")]], TimeRange::ALL)));
        assert!(store.inner_for_test().flush_now().is_err());
        drop(store);
        let store = open(&inner);
        assert_eq!(times(&*store)[0], (1..=8).collect::<Vec<i64>>(), "{skip}");
    }
    assert!(failed >= 2, "{failed} starts could not read the log to its end");
}

#[test]
fn a_damaged_block_fails_the_queries_that_need_it_and_no_others() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    for t in [1_000, 2_000] {
        write(&store, &scrape(t)).unwrap();
        block_on(store.flush()).unwrap();
    }
    store.close();
    drop(store);
    let path = format!("blocks/{}", disk.list("blocks").unwrap()[0]);
    let whole = disk.read(&path).unwrap();
    for bytes in [whole[..whole.len() - 5].to_vec(), Vec::new(), vec![0; whole.len()]] {
        disk.put(&path, bytes);
        let store = open(&disk);
        let select = |min, max| store.snapshot().select(&[], TimeRange { min, max }, 1000).map(|s| s.len());
        assert!(matches!(select(0, 3_000), Err(ReadError::Corrupt { file, .. }) if file == path));
        assert_eq!(select(1_500, 3_000), Ok(SERIES));
        // It can still be written to, flushed and merged around.
        write(&store, &scrape(3_000)).unwrap();
        assert_eq!(block_on(store.compact()), Ok(()));
        assert_eq!(select(1_500, 3_000), Ok(SERIES));
        assert!(disk.exists(&path).unwrap(), "damaged data is not deleted");
    }
}

#[test]
fn retention_drops_whole_blocks_and_no_wrong_clock_makes_it_drop_more() {
    let clock = Arc::new(ManualClock::new(1_000_000));
    let options = StoreOptions { clock: clock.clone(), retention_ms: Some(10_000), ..options() };
    let store = Store::open(Arc::new(MemoryDisk::new()), options).unwrap();
    for t in [100_000, 950_000, 995_000] {
        write(&store, &scrape(t)).unwrap();
        block_on(store.flush()).unwrap();
    }
    store.retain_for_test().unwrap();
    assert_eq!(times(&*store)[0], [995_000]);
    write(&store, &scrape(999_000)).unwrap();
    block_on(store.flush()).unwrap();
    clock.set(i64::MAX);
    store.retain_for_test().unwrap();
    assert_eq!(times(&*store)[0], [995_000, 999_000]);
    clock.set(0);
    store.retain_for_test().unwrap();
    assert_eq!(times(&*store)[0], [995_000, 999_000]);
}

#[test]
fn a_folder_reads_the_same_without_a_server_and_stays_as_it_is() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let oracle = MemoryStore::new();
    for (k, name) in ["m0", "m1", "m2", "m3"].iter().enumerate() {
        let samples = [(1_600_000_000_000 + k as i64, 1.0), (k as i64, 2.0)];
        let batch = batch_of(&[(name, &samples), ("m1", &samples)]);
        oracle.write_now(&batch).unwrap();
        write(&store, &batch).unwrap();
        match k {
            0 | 1 => block_on(store.flush()).unwrap(),
            2 => block_on(store.compact()).unwrap(),
            _ => {}
        }
    }
    let ops = disk.ops();
    let offline = OfflineStore::data_folder(Arc::new(disk.clone())).unwrap();
    assert_same(&*offline.snapshot(), &*oracle.snapshot());
    assert_eq!(disk.ops(), ops, "nothing is written");
}

/// The first merge finds no room on the disk: the others go on, and it is tried again later.
#[test]
fn a_merge_that_fails_holds_up_no_other() {
    const HOUR: i64 = 3_600_000;
    let disk = Arc::new(FaultyDisk::new(Arc::new(MemoryDisk::new())));
    let store = Store::open(disk.clone(), options()).unwrap();
    store.wait_until_ready();
    // Two blocks in each of three windows of two hours.
    for t in [0, 1, 2, 3, 4, 5] {
        write(&store, &scrape(t * HOUR + 1)).unwrap();
        block_on(store.flush()).unwrap();
    }
    let blocks = || store.stats(0).blocks;
    assert_eq!(blocks(), 6);
    let full = FaultRule::new(DiskOp::Create, FaultAction::Fail(DiskErrorKind::Full)).on("blocks/");
    disk.push(full.times(1));
    let inner = store.inner_for_test();
    assert!(inner.compact_due().is_err());
    assert_eq!(blocks(), 5, "the second window is merged");
    assert!(inner.next_merge().is_none(), "the first one waits");
    assert!(block_on(store.compact()).is_ok());
    assert_eq!(times(&*store)[0], (0..6).map(|t| t * HOUR + 1).collect::<Vec<i64>>());
}

/// Buckets by the thousand: chunks are cut by what they take when they are decoded, and what a query takes of them is bounded.
#[test]
fn heavy_histograms_are_bounded() {
    let heavy = |k: i64| {
        let bounds: Vec<f64> = (0..20_000).map(f64::from).collect();
        Histogram {
            schema: -53,
            count: k as f64,
            sum: k as f64,
            positive_spans: vec![quiver_model::Span { offset: 0, length: 1 }],
            positive_buckets: vec![k as f64],
            custom_values: bounds,
            ..Histogram::default()
        }
    };
    let store = open(&MemoryDisk::new());
    for t in 0..250 {
        let mut batch = WriteBatch::default();
        batch.begin_series([("__name__", "m"), ("i", "0")]);
        batch.push_histogram(t * 15_000, heavy(t), 0);
        write(&store, &batch).unwrap();
        if t == 125 {
            block_on(store.flush()).unwrap();
        }
    }
    let matchers = [Matcher::equal("__name__", "m")];
    let read = |histogram_bytes_max: Option<usize>, range: TimeRange| {
        let options = SelectOptions { histogram_bytes_max, ..SelectOptions::default() };
        let set = store.snapshot().select_with(&matchers, range, 9, &options, None)?;
        let mut column = SampleColumn::default();
        set.read(0, range, Need::ALL, &mut column).map(|()| column)
    };
    for _ in 0..2 {
        let all = read(None, TimeRange::ALL).unwrap();
        assert_eq!(all.histograms.len(), 250);
        assert!((0..).zip(&all.histograms).all(|(k, (_, h))| **h == heavy(k)));
        let limit = Some(20 << 20);
        assert!(matches!(read(limit, TimeRange::ALL), Err(ReadError::Limit(_))));
        let some = TimeRange { min: 15_000, max: 10 * 15_000 };
        assert_eq!(read(limit, some).unwrap().histograms.len(), 10);
        block_on(store.compact()).unwrap();
    }
    // 160 KB each, so at most a hundred in 16 MiB.
    let view = store.inner_for_test().view.load_full();
    for stored in &view.blocks {
        for e in stored.block().unwrap().chunk_entries(0, TimeRange::ALL).unwrap() {
            assert!(e.count <= 105, "{} samples in a chunk", e.count);
        }
    }
}

/// What a server flushes while its folder is read is in no block that was seen, and in no log any more.
#[test]
fn a_folder_that_is_flushed_while_it_is_read_is_read_anew() {
    for flushes in [1, 2, 3] {
        let (inner, oracle) = (MemoryDisk::new(), MemoryStore::new());
        let store = open(&inner);
        let mut t = 0;
        let mut add = || {
            t += 1;
            let batch = batch_of(&[("m", &[(t, 1.0)])]);
            oracle.write_now(&batch).unwrap();
            write(&store, &batch).unwrap();
        };
        add();
        let disk = Arc::new(FaultyDisk::new(Arc::new(inner)));
        let gates: Vec<_> = (0..flushes).map(|_| Gate::new()).collect();
        for gate in &gates {
            disk.push(FaultRule::new(DiskOp::List, FaultAction::Wait(gate.clone())).on("log").times(1));
        }
        let read = std::thread::scope(|scope| {
            let reading = scope.spawn(|| OfflineStore::data_folder(disk.clone()));
            for gate in &gates {
                gate.wait_for_arrival();
                block_on(store.flush()).unwrap();
                add();
                gate.open();
            }
            reading.join().unwrap()
        });
        match read {
            Ok(offline) if flushes < 3 => assert_same(&*offline.snapshot(), &*oracle.snapshot()),
            Err(OpenError::InUse { .. }) if flushes == 3 => {}
            other => panic!("{flushes}: {:?}", other.map(|_| ())),
        }
    }
}

#[test]
fn a_head_that_is_old_or_large_is_flushed_by_itself() {
    let clock = Arc::new(ManualClock::new(1_000_000));
    let options = StoreOptions { clock: clock.clone(), head_bytes_max: 256 << 10, ..options() };
    let store = Store::open(Arc::new(MemoryDisk::new()), options).unwrap();
    store.wait_until_ready();
    assert!(!store.flush_is_due());
    write(&store, &scrape(5)).unwrap();
    assert!(!store.flush_is_due());
    clock.set(1_000_000 + 2 * 3_600_000);
    assert!(store.flush_is_due());
    block_on(store.flush()).unwrap();
    assert!(!store.flush_is_due());
    let mut t = 10;
    while !store.flush_is_due() {
        write(&store, &scrape(t)).unwrap();
        t += 1 + t % 3;
        assert!(t < 10_000);
    }
}

#[test]
fn exported_parquet_reads_like_the_store() {
    let store = open(&MemoryDisk::new());
    let oracle = MemoryStore::new();
    for (k, name) in ["m0", "m1", "m2"].iter().enumerate() {
        let batch = batch_of(&[(name, &[(1_600_000_000_000 + k as i64, 1.0), (k as i64, f64::NAN)])]);
        oracle.write_now(&batch).unwrap();
        write(&store, &batch).unwrap();
    }
    let out: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    assert!(matches!(OfflineStore::parquet(Arc::clone(&out)), Err(OpenError::Damaged(_))));
    let exporter = ParquetExporter::create(Arc::clone(&out), "").unwrap();
    let set = store.snapshot().select(&[], TimeRange::ALL, 9).unwrap();
    let mut column = SampleColumn::default();
    for day in [0, 1_600_000_000_000] {
        let range = TimeRange { min: day, max: day + 3_600_000 };
        let mut writer = exporter.day(day).unwrap();
        for i in 0..set.len() {
            set.read(i, range, Need::ALL, &mut column).unwrap();
            writer.push(set.labels(i).as_ref(), &column).unwrap();
        }
        writer.finish().unwrap();
    }
    assert_same(&*OfflineStore::parquet(out).unwrap().snapshot(), &*oracle.snapshot());
}

/// Decoded chunks that are held give what decoding gives.
#[test]
fn reads_through_the_working_set_are_the_same() {
    let store = open(&MemoryDisk::new());
    let bare = StoreOptions { cache_bytes_max: 0, ..options() };
    let bare = Store::open(Arc::new(MemoryDisk::new()), bare).unwrap();
    for t in 0..1500i64 {
        let mut b = WriteBatch::default();
        for i in 0..3i64 {
            b.begin_series([("__name__", "m"), ("i", i.to_string().as_str())]);
            b.push_float(if t % 7 == i { t * 10 - 900 } else { t * 10 }, ((t * 7919 + i) % 1000) as f64, 0);
        }
        for s in [&store, &bare] {
            write(s, &b).unwrap();
            if t % 500 == 499 {
                block_on(s.flush()).unwrap();
            }
        }
    }
    for range in [TimeRange::ALL, TimeRange { min: 3_000, max: 9_000 }, TimeRange { min: 4_990, max: 5_010 }] {
        for _ in 0..2 {
            let all = |s: &Store| contents(&*s.snapshot(), &[Matcher::equal("__name__", "m")], range);
            assert_eq!(all(&store), all(&bare));
        }
    }
    assert!(store.cache_figures().hits > 10 && bare.cache_figures().hits == 0);
}
