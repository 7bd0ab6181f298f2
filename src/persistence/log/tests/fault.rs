//! Full disks, failing syncs, panicking callbacks.

use super::*;
use crate::disk::{DiskErrorKind, DiskOp, FaultAction, FaultRule, FaultyDisk, Gate};
use crate::testing::{Row, sized};

fn faulty() -> (MemoryDisk, FaultyDisk) {
    let memory = MemoryDisk::new();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    (memory, disk)
}

#[test]
fn a_failed_sync_poisons_for_good() {
    let row = Row::begin("11", "a sync fails once, then succeeds");
    for op in [DiskOp::Sync, DiskOp::SyncDir] {
        let (memory, disk) = faulty();
        let log = Harness::open(disk.clone(), options(2), &LogFloor::default());
        log.write(0, 0, 30).unwrap();
        // The disk fails once and is well ever after.
        disk.push(FaultRule::new(op, FaultAction::Fail(DiskErrorKind::Media)).times(1));
        assert!(matches!(log.write(1, 1, 30), Err(LogError::Poisoned(_))));
        for id in 2..6 {
            assert!(matches!(log.write(id as usize, id, 30), Err(LogError::Poisoned(_))), "every shard, for good");
        }
        assert!(matches!(log.log.health(), LogHealth::Poisoned(why) if why.contains("injected")));
        assert!(matches!(log.log.rotate(), Err(LogError::Poisoned(_))));
        drop(log);
        let after = memory.crash(0);
        assert_eq!(read_back(&after, &LogFloor::default()).0, [0], "what was durable, and only that");
        let log = Harness::open(after, options(2), &LogFloor::default());
        log.write(1, 9, 30).unwrap();
    }
    row.passed("2 operations", 4);
}

/// No descriptor is left for the log's folder: that is no failed sync.
#[test]
fn a_folder_that_cannot_be_opened_poisons_nothing() {
    let row = Row::begin("13", "no descriptor for the folder of the log");
    let (memory, disk) = faulty();
    let log = Harness::open(disk.clone(), options(2), &LogFloor::default());
    log.write(0, 0, 30).unwrap();
    disk.push(FaultRule::new(DiskOp::Open, FaultAction::Fail(DiskErrorKind::Io)).on("log").times(2));
    for id in [1, 2] {
        assert!(matches!(log.write(1, id, 30), Err(LogError::Io(why)) if why.contains("injected")));
    }
    assert_eq!(log.log.health(), LogHealth::Ok);
    log.write(1, 3, 30).unwrap();
    log.log.rotate().unwrap();
    log.write(0, 4, 30).unwrap();
    drop(log);
    let mut found = read_back(&memory.crash(0), &LogFloor::default()).0;
    found.sort_unstable();
    assert_eq!(found, [0, 3, 4]);
    row.passed("2 attempts", 3);
}

#[test]
fn an_entry_queued_behind_the_failing_sync_hears_of_it() {
    let (_, disk) = faulty();
    let gate = Gate::new();
    disk.push(FaultRule::new(DiskOp::Sync, FaultAction::Wait(gate.clone())).times(1));
    disk.push(FaultRule::new(DiskOp::Sync, FaultAction::Fail(DiskErrorKind::Media)).times(1));
    let log = Harness::open(disk, options(1), &LogFloor::default());
    log.submit(0, 0, 30).unwrap();
    gate.wait_for_arrival();
    for id in 1..10 {
        log.submit(0, id, 30).unwrap();
    }
    gate.open();
    assert!(log.next().1.is_ok());
    for id in 1..10 {
        let (done, result) = log.next();
        assert_eq!(done, id, "in order");
        assert!(matches!(result, Err(LogError::Poisoned(_))));
    }
}

/// Syncs that take long leave the queues full. What finds room is acknowledged in the order in which it came to its shard, which
/// is that of the log; what finds none is told so at once and leaves no trace.
#[test]
fn behind_slow_syncs_acks_stay_in_order_and_the_queue_bounded() {
    let row = Row::begin("12", "order of acks behind syncs of 5 ms");
    let (shards, queue_max) = (3, 8);
    let (memory, disk) = faulty();
    disk.push(FaultRule::new(DiskOp::Sync, FaultAction::Slow(std::time::Duration::from_millis(5))));
    let small = LogOptions { queue_max, segment_bytes_max: 4_000, ..options(shards) };
    let log = Harness::open(disk, small, &LogFloor::default());
    let mut waiting = 0;
    let mut refused = BTreeSet::new();
    let mut acked: BTreeMap<u32, Vec<(LogPosition, u32)>> = BTreeMap::new();
    let mut take = |log: &Harness| {
        let (id, result) = log.next();
        let position = result.unwrap();
        assert_eq!(position.shard, id % shards);
        acked.entry(position.shard).or_default().push((position, id));
    };
    let count = u32::try_from(sized(600, 20_000)).unwrap();
    for id in 0..count {
        match log.submit((id % shards) as usize, id, 30) {
            Ok(()) => waiting += 1,
            Err(LogError::Busy) => {
                refused.insert(id);
                take(&log);
                waiting -= 1;
            }
            Err(e) => panic!("{e}"),
        }
        let queued = log.log.figures().shards.iter().map(|s| s.queued_entries).max();
        assert!(queued <= Some(queue_max), "{queued:?} wait in a shard");
    }
    for _ in 0..waiting {
        take(&log);
    }
    assert!(!refused.is_empty(), "the queue has a bound");
    for (shard, acks) in &acked {
        assert!(acks.windows(2).all(|w| w[0].0 < w[1].0), "shard {shard}: not in the log's order");
        assert!(acks.windows(2).all(|w| w[0].1 < w[1].1), "shard {shard}: not in the order of submission");
    }
    drop(log);
    let want: Vec<u32> = (0..count).filter(|id| !refused.contains(id)).collect();
    assert_eq!(read_back(&memory.crash(0), &LogFloor::default()).0, want);
    row.passed(format_args!("{} refused", refused.len()), want.len() as u64);
}

#[test]
fn an_error_of_a_write_that_is_not_a_full_disk_poisons() {
    let (memory, disk) = faulty();
    let log = Harness::open(disk.clone(), options(1), &LogFloor::default());
    log.write(0, 0, 30).unwrap();
    disk.push(FaultRule::new(DiskOp::Write, FaultAction::Half(DiskErrorKind::Media)).times(1));
    assert!(matches!(log.write(0, 1, 30), Err(LogError::Poisoned(_))));
    assert!(matches!(log.write(0, 2, 30), Err(LogError::Poisoned(_))));
    assert_eq!(read_back(&memory, &LogFloor::default()).0, [0]);
}

#[test]
fn a_full_disk_refuses_and_heals_by_itself() {
    for truncate_fails in [false, true] {
        let (memory, disk) = faulty();
        let log = Harness::open(disk.clone(), options(1), &LogFloor::default());
        for id in 0..4 {
            log.write(0, id, 30).unwrap();
        }
        if truncate_fails {
            disk.push(FaultRule::new(DiskOp::Truncate, FaultAction::Fail(DiskErrorKind::Io)));
        }
        disk.push(FaultRule::new(DiskOp::Write, FaultAction::Half(DiskErrorKind::Full)));
        for id in 10..15 {
            assert!(matches!(log.write(0, id, 30), Err(LogError::Full(_))));
        }
        assert!(matches!(log.log.health(), LogHealth::Full(_)));
        assert_eq!(log.log.figures().shards[0].refused_full, 5);
        assert_eq!(log.log.rotate().unwrap().of(0), 2, "rotation works on a full disk");
        disk.clear();
        for id in 20..24 {
            log.write(0, id, 30).unwrap();
        }
        assert_eq!(log.log.health(), LogHealth::Ok);
        for (after, keeps_tail) in [(memory.crash(0), false), (memory.crash(1), truncate_fails)] {
            let (ids, report) = read_back(&after, &LogFloor::default());
            assert_eq!(ids, [0, 1, 2, 3, 20, 21, 22, 23]);
            assert!(report.is_clean(), "labels known in the segment that failed are spelled out again: {report:?}");
            assert_eq!(report.torn.len(), usize::from(keeps_tail));
        }
    }
}

#[test]
fn a_disk_that_fills_up_at_any_byte_keeps_all_that_was_acknowledged() {
    for capacity in (0..900).step_by(7) {
        let disk = MemoryDisk::new();
        disk.set_capacity(capacity);
        let small = LogOptions { segment_bytes_max: 200, ..options(1) };
        let log = Harness::open(disk.clone(), small, &LogFloor::default());
        let mut acked = Vec::new();
        for id in 0..20 {
            match log.write(0, id, 10) {
                Ok(_) => acked.push(id),
                Err(LogError::Full(_)) => {}
                Err(e) => panic!("{e}"),
            }
        }
        assert!(acked.len() < 20);
        disk.set_capacity(u64::MAX);
        for id in 20..24 {
            log.write(0, id, 10).unwrap();
            acked.push(id);
        }
        let (ids, report) = read_back(&disk.crash(0), &LogFloor::default());
        assert_eq!(ids, acked, "capacity {capacity}");
        assert!(report.is_clean(), "capacity {capacity}: {report:?}");
    }
}

#[test]
fn space_is_left_for_flushes() {
    let disk = MemoryDisk::new();
    disk.set_capacity(2000);
    let log = Harness::open(disk.clone(), LogOptions { free_bytes_min: 1000, ..options(1) }, &LogFloor::default());
    while log.write(0, 1, 100).is_ok() {}
    assert!(disk.free_bytes().unwrap() > 700);
    disk.set_capacity(10_000);
    log.write(0, 2, 100).unwrap();
}

#[test]
fn a_segment_that_cannot_be_made_is_tried_again() {
    let (memory, disk) = faulty();
    disk.push(FaultRule::new(DiskOp::Create, FaultAction::Fail(DiskErrorKind::Io)).times(2));
    let log = Harness::open(disk, options(1), &LogFloor::default());
    assert!(matches!(log.write(0, 0, 30), Err(LogError::Io(_))));
    assert!(matches!(log.write(0, 1, 30), Err(LogError::Io(_))));
    log.write(0, 2, 30).unwrap();
    assert_eq!(read_back(&memory.crash(0), &LogFloor::default()).0, [2]);
}

#[test]
fn entries_too_large_are_refused_and_the_rest_goes_on() {
    struct Liar(Item, usize);
    impl LogEntry for Liar {
        type SegmentState = BTreeSet<String>;
        fn size_hint(&self) -> usize {
            self.1
        }
        fn encode(&self, state: &mut Self::SegmentState, out: &mut Vec<u8>) -> u8 {
            self.0.encode(state, out)
        }
        fn committed(self, result: Result<LogPosition, LogError>) {
            self.0.committed(result);
        }
    }
    let memory = MemoryDisk::new();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    let gate = Gate::new();
    disk.push(FaultRule::new(DiskOp::Sync, FaultAction::Wait(gate.clone())).times(1));
    let small = LogOptions { frame_bytes_max: 1000, ..options(1) };
    let log: Log<Liar> = Log::open(Arc::new(disk), DIR, small, &LogFloor::default()).unwrap();
    let (sender, receiver) = channel();
    let submit = |id, size, hint| log.submit(0, Liar(Item { id, size, done: sender.clone() }, hint));
    assert!(matches!(submit(0, 10, 1001), Err(LogError::TooLarge { bytes: 1001, bytes_max: 1000 })));
    submit(1, 10, 1).unwrap();
    gate.wait_for_arrival();
    // One batch: the large one in the middle would have spelled out the label of the last.
    for (id, size) in [(3, 10), (4, 10), (5, 5000), (8, 10), (6, 10)] {
        submit(id, size, 1).unwrap();
    }
    gate.open();
    log.close();
    let results: Vec<(u32, bool)> = receiver.try_iter().map(|(id, result)| (id, result.is_ok())).collect();
    assert_eq!(results, [(1, true), (3, true), (4, true), (5, false), (8, true), (6, true)]);
    let (ids, report) = read_back(&memory, &LogFloor::default());
    assert_eq!(ids, [1, 3, 4, 6, 8]);
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn a_panicking_callback_poisons_and_leaves_nobody_waiting() {
    struct Bomb(Option<Sender<bool>>);
    impl LogEntry for Bomb {
        type SegmentState = ();
        fn size_hint(&self) -> usize {
            1
        }
        fn encode(&self, (): &mut (), out: &mut Vec<u8>) -> u8 {
            out.push(1);
            0
        }
        fn committed(self, result: Result<LogPosition, LogError>) {
            match self.0 {
                Some(sender) => sender.send(result.is_ok()).unwrap(),
                None => panic!("a bomb"),
            }
        }
    }
    let (_, disk) = faulty();
    let gate = Gate::new();
    disk.push(FaultRule::new(DiskOp::Sync, FaultAction::Wait(gate.clone())).times(1));
    let log: Log<Bomb> = Log::open(Arc::new(disk), DIR, options(1), &LogFloor::default()).unwrap();
    log.submit(0, Bomb(None)).unwrap();
    gate.wait_for_arrival();
    let (sender, receiver) = channel();
    log.submit(0, Bomb(Some(sender))).unwrap();
    gate.open();
    assert_eq!(receiver.recv(), Ok(false));
    assert!(matches!(log.health(), LogHealth::Poisoned(_)));
    assert!(matches!(log.submit(0, Bomb(None)), Err(LogError::Poisoned(_))));
    log.close();
}

#[test]
fn truncation_that_fails_is_tried_again() {
    let (memory, disk) = faulty();
    let log = Harness::open(disk.clone(), options(1), &LogFloor::default());
    log.write(0, 0, 30).unwrap();
    let floor = log.log.rotate().unwrap();
    disk.push(FaultRule::new(DiskOp::Remove, FaultAction::Fail(DiskErrorKind::Io)).times(1));
    assert!(log.log.truncate(&floor).is_err());
    assert_eq!(memory.list(DIR).unwrap().len(), 1);
    log.log.truncate(&floor).unwrap();
    assert!(memory.list(DIR).unwrap().is_empty());
    log.write(0, 1, 30).unwrap();
}
