//! Group commit, bounds of the queue, interval durability.

use super::*;
use crate::disk::{DiskErrorKind, DiskOp, FaultAction, FaultRule, FaultyDisk, Gate};

fn gated() -> (MemoryDisk, FaultyDisk, Gate) {
    let memory = MemoryDisk::new();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    let gate = Gate::new();
    disk.push(FaultRule::new(DiskOp::Sync, FaultAction::Wait(gate.clone())));
    (memory, disk, gate)
}

#[test]
fn what_arrives_during_a_sync_shares_the_next_one() {
    let (_, disk, gate) = gated();
    let log = Harness::open(disk, options(1), &LogFloor::default());
    log.submit(0, 0, 30).unwrap();
    gate.wait_for_arrival();
    for id in 1..200 {
        log.submit(0, id, 30).unwrap();
    }
    assert!(log.receiver.try_recv().is_err(), "nothing is acknowledged before its sync");
    assert_eq!(log.log.figures().queued_entries(), 200);
    gate.open();
    for id in 0..200 {
        let (done, result) = log.next();
        assert_eq!(done, id);
        result.unwrap();
    }
    let figures = log.log.figures();
    assert_eq!((figures.frames(), figures.syncs(), figures.shards[0].batches), (200, 2, 2));
    assert_eq!(figures.shards[0].sync_latency_us.iter().map(|(_, n)| n).sum::<u64>(), 2);
}

#[test]
fn many_threads_share_syncs() {
    let memory = MemoryDisk::new();
    let log = Arc::new(Log::open(Arc::new(memory.clone()), DIR, options(2), &LogFloor::default()).unwrap());
    thread::scope(|scope| {
        for writer in 0..8u32 {
            let log = Arc::clone(&log);
            scope.spawn(move || {
                let (sender, receiver) = channel();
                for round in 0..25 {
                    for i in 0..10 {
                        let id = writer * 1000 + round * 10 + i;
                        log.submit(writer as usize, Item { id, size: 40, done: sender.clone() }).unwrap();
                    }
                    for _ in 0..10 {
                        receiver.recv().unwrap().1.unwrap();
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..20 {
                log.rotate().unwrap();
            }
        });
    });
    let figures = log.figures();
    assert_eq!(figures.frames(), 2000);
    assert!(figures.syncs() < 2000, "{}", figures.syncs());
    let (ids, report) = read_back(&memory.crash(0), &LogFloor::default());
    let expected: Vec<u32> = (0..8).flat_map(|writer| (0..250).map(move |i| writer * 1000 + i)).collect();
    assert_eq!(ids, expected);
    assert!(report.is_clean());
}

#[test]
fn the_queue_is_bounded_by_entries_and_by_bytes() {
    let (_, disk, gate) = gated();
    let small = LogOptions { queue_max: 3, queue_bytes_max: 1000, ..options(1) };
    let log = Harness::open(disk, small, &LogFloor::default());
    log.submit(0, 0, 5000).unwrap();
    gate.wait_for_arrival();
    assert_eq!(log.submit(0, 1, 1), Err(LogError::Busy), "an entry over the bound passes, but alone");
    gate.open();
    log.next().1.unwrap();
    while log.log.figures().queued_entries() > 0 {
        thread::yield_now();
    }
    gate.close();
    for id in 1..4 {
        log.submit(0, id, 10).unwrap();
    }
    gate.wait_for_arrival();
    assert_eq!(log.submit(0, 4, 10), Err(LogError::Busy));
    gate.open();
    for id in 1..4 {
        assert_eq!(log.next().0, id);
    }
}

#[test]
fn batches_and_segments_end_at_their_bounds() {
    let (memory, disk, gate) = gated();
    let small = LogOptions { batch_bytes_max: 1000, segment_bytes_max: 3000, ..options(1) };
    let log = Harness::open(disk, small, &LogFloor::default());
    log.submit(0, 0, 100).unwrap();
    gate.wait_for_arrival();
    for id in 1..101 {
        log.submit(0, id, 100).unwrap();
    }
    gate.open();
    log.log.close();
    assert!(log.receiver.try_iter().all(|(_, result)| result.is_ok()));
    let batches = log.log.figures().shards[0].batches;
    assert!((11..=16).contains(&batches), "{batches}");
    for name in memory.list(DIR).unwrap() {
        assert!(memory.len(&join(DIR, &name)).unwrap() < 3000 + 1500);
    }
    assert_eq!(read_back(&memory, &LogFloor::default()).0, (0..101).collect::<Vec<_>>());
}

#[test]
fn with_an_interval_an_ack_does_not_wait_for_the_sync() {
    let (memory, disk, gate) = gated();
    let interval = LogOptions { durability: Durability::Interval(1), ..options(1) };
    let log = Harness::open(disk, interval, &LogFloor::default());
    log.write(0, 0, 30).unwrap();
    gate.wait_for_arrival();
    assert!(read_back(&memory.crash(0), &LogFloor::default()).0.is_empty(), "acknowledged, not yet durable");
    assert_eq!(read_back(&memory, &LogFloor::default()).0, [0], "a killed process loses nothing");
    gate.open();
    while log.log.figures().syncs() == 0 {
        thread::yield_now();
    }
    assert_eq!(read_back(&memory.crash(0), &LogFloor::default()).0, [0]);
}

#[test]
fn with_an_interval_rotation_and_closing_sync() {
    let memory = MemoryDisk::new();
    let interval = LogOptions { durability: Durability::Interval(3_600_000), ..options(2) };
    let log = Harness::open(memory.clone(), interval, &LogFloor::default());
    for id in 0..10 {
        log.write(id as usize, id, 30).unwrap();
    }
    assert_eq!(log.log.figures().syncs(), 0);
    log.log.rotate().unwrap();
    assert_eq!(log.log.figures().syncs(), 2);
    assert_eq!(read_back(&memory.crash(0), &LogFloor::default()).0, (0..10).collect::<Vec<_>>());
    log.write(0, 10, 30).unwrap();
    log.log.close();
    assert_eq!(read_back(&memory.crash(0), &LogFloor::default()).0, (0..11).collect::<Vec<_>>());
}

#[test]
fn with_an_interval_a_failed_sync_poisons() {
    let disk = FaultyDisk::new(Arc::new(MemoryDisk::new()));
    disk.push(FaultRule::new(DiskOp::Sync, FaultAction::Fail(DiskErrorKind::Media)).times(1));
    let interval = LogOptions { durability: Durability::Interval(3_600_000), ..options(1) };
    let log = Harness::open(disk, interval, &LogFloor::default());
    log.write(0, 0, 30).unwrap();
    assert!(matches!(log.log.rotate(), Err(LogError::Poisoned(_))));
    assert!(matches!(log.write(0, 1, 30), Err(LogError::Poisoned(_))));
}
