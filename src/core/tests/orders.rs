//! The way of samples from head to block to merged block, stopped before each operation on the disk: at every moment a reader sees
//! each acknowledged sample once. And the working set: one load at a time, whoever comes when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quiver_cache::{ColumnKey, WorkingSet};
use quiver_model::{Need, SampleColumn};
use quiver_persistence::disk::{FaultAction, FaultRule, Gate, Stage};
use quiver_persistence::testing::{Row, every_order, is_nightly, sized};
use quiver_persistence::{FaultyDisk, MemoryDisk};

use super::crash::{SERIES, batch, found};
use super::store::{block_on, options, write};
use crate::{Maintain, Source, Store};

/// Flush, flush, merge; so many writes come at any of the moments in between, and a snapshot is taken at one of them and read later.
fn play(writes: i64, choose: &mut dyn FnMut(usize) -> usize) {
    let memory = MemoryDisk::new();
    let disk = Arc::new(FaultyDisk::new(Arc::new(memory.clone())));
    let store = Store::open(disk.clone(), options()).unwrap();
    store.wait_until_ready();
    let mut next = 0;
    let mut add = |store: &Store| {
        write(store, &batch(next)).unwrap();
        next += 1;
        next
    };
    let mut acked = add(&store);
    block_on(store.flush()).unwrap();
    acked = acked.max(add(&store));
    let stage = Stage::default();
    for part in ["blocks/", "MANIFEST"] {
        disk.push(FaultRule::changing(FaultAction::Step(stage.clone())).on(part));
    }
    let is_done = Arc::new(AtomicBool::new(false));
    let worker = {
        let (store, is_done, stage) = (Arc::clone(&store), Arc::clone(&is_done), stage.clone());
        std::thread::spawn(move || {
            block_on(store.flush()).unwrap();
            block_on(store.compact()).unwrap();
            is_done.store(true, Ordering::Release);
            stage.notify();
        })
    };
    let all = |n: i64| (0..n).map(|k| (k, SERIES)).collect::<std::collections::BTreeMap<_, _>>();
    let mut left = writes;
    let mut kept: Option<(Arc<dyn crate::Snapshot>, i64)> = None;
    let mut snapshots_left = i64::from(is_nightly());
    loop {
        let standing = stage.wait(|| is_done.load(Ordering::Acquire));
        assert_eq!(found(&store), all(acked), "before {standing:?}");
        if standing.is_none() {
            break;
        }
        let mut moves = vec![0];
        if left > 0 {
            moves.push(1);
        }
        if snapshots_left > 0 {
            moves.push(2);
        }
        match moves[choose(moves.len())] {
            0 => stage.step(None),
            1 => {
                left -= 1;
                acked = add(&store);
            }
            _ => {
                snapshots_left -= 1;
                kept = Some((store.snapshot(), acked));
            }
        }
    }
    stage.free();
    worker.join().unwrap();
    assert_eq!(found(&store), all(acked));
    if let Some((snapshot, n)) = kept {
        let set = snapshot.select(&[], crate::TimeRange::ALL, 99).unwrap();
        let mut column = SampleColumn::default();
        let mut samples = 0;
        for i in 0..set.len() {
            set.read(i, crate::TimeRange::ALL, Need::ALL, &mut column).unwrap();
            samples += column.len();
        }
        // A head that is still written to may show more, never less.
        assert!(samples >= n as usize * SERIES, "{samples} samples, {n} batches");
    }
    store.close();
    drop(store);
    let again = Store::open(Arc::new(memory.crash(0)), options()).unwrap();
    again.wait_until_ready();
    assert_eq!(found(&again), all(acked), "after a power loss");
}

#[test]
fn readers_see_every_sample_once_in_every_order() {
    let row = Row::begin("27", "head to block to merged block, every order");
    let writes = sized(1, 2) as i64;
    let plays = every_order(sized(u64::MAX, 20_000), |choose| play(writes, choose));
    assert!(plays > 20, "{plays}");
    row.passed(format_args!("{plays} orders"), plays * (2 + writes as u64) * SERIES as u64);
}

/// Three ask for one key; the first `failures` loads fail. Each is let go on in every order.
#[test]
fn the_working_set_loads_once_in_every_order() {
    let row = Row::begin("27", "single flight of the working set");
    let key = ColumnKey { block: 1, chunk: 2, need: Need::ALL };
    let mut plays = 0;
    for failures in 0..3u64 {
        for readers in 1..=3usize {
            plays += 1;
            let cache = WorkingSet::new(1 << 20);
            let (loading, loads, at_once) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
            let gate = Gate::new();
            let load = || -> Result<SampleColumn, &'static str> {
                at_once.fetch_max(loading.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let n = loads.fetch_add(1, Ordering::SeqCst);
                gate.stand();
                loading.fetch_sub(1, Ordering::SeqCst);
                if n < failures {
                    return Err("not this time");
                }
                let mut c = SampleColumn::default();
                c.push_float(n as i64, 1.0, 0);
                Ok(c)
            };
            std::thread::scope(|scope| {
                let all: Vec<_> =
                    (0..readers).map(|_| scope.spawn(|| cache.get_or_load(&key, &cache.admission(), load))).collect();
                gate.wait_for_arrival();
                gate.open();
                let answers: Vec<_> = all.into_iter().map(|t| t.join().unwrap()).collect();
                let failed = answers.iter().filter(|a| a.is_err()).count() as u64;
                assert_eq!(failed, failures.min(readers as u64), "a failed load is the failure of one");
                let good: Vec<_> = answers.iter().flatten().map(|c| c.ts[0]).collect();
                assert!(good.windows(2).all(|w| w[0] == w[1]), "one value for all: {good:?}");
            });
            assert_eq!(at_once.load(Ordering::SeqCst), 1, "one load at a time");
            assert_eq!(loads.load(Ordering::SeqCst), (failures + 1).min(readers as u64).max(1));
        }
    }
    row.passed(format_args!("{plays} plays"), 0);
}
