//! Group commit in every order: what clients hand in, a rotation, and each operation of the writer on the disk, one of which may fail.
//!
//! The writer stops before each of its operations, so that all that is queued meanwhile is queued at every possible moment.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::disk::{DiskErrorKind, DiskOp, FaultAction, FaultRule, FaultyDisk, Stage};
use crate::testing::{Row, every_order, sized};

/// An entry that tells the stage when it is answered.
struct Told {
    id: u32,
    answers: Arc<Mutex<Vec<(u32, bool)>>>,
    stage: Stage,
}

impl LogEntry for Told {
    type SegmentState = ();

    fn size_hint(&self) -> usize {
        40
    }

    fn encode(&self, (): &mut (), out: &mut Vec<u8>) -> u8 {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.resize(out.len() + 600, 7);
        1
    }

    fn committed(self, result: Result<LogPosition, LogError>) {
        self.answers.lock().push((self.id, result.is_ok()));
        self.stage.notify();
    }
}

/// Takes the ids of frames.
struct Ids<'a>(&'a Mutex<Vec<u32>>);

impl ReplayShard for Ids<'_> {
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), String> {
        let id = frame.payload.first_chunk().ok_or("too short")?;
        self.0.lock().push(u32::from_le_bytes(*id));
        Ok(())
    }
}

fn ids_of(disk: &MemoryDisk, floor: &LogFloor) -> Vec<u32> {
    let ids = Mutex::new(Vec::new());
    let report = replay(disk, DIR, floor, 1, |_| Ids(&ids)).unwrap();
    assert!(report.is_clean() && report.frames_lost == 0, "{report:?}");
    ids.into_inner()
}

/// One order of events. `entries` are handed in, the log is rotated once, one operation may fail.
fn play(entries: u32, may_fail: bool, choose: &mut dyn FnMut(usize) -> usize) {
    let memory = MemoryDisk::new();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    let stage = Stage::default();
    disk.push(FaultRule::changing(FaultAction::Step(stage.clone())).on("log/"));
    let small = LogOptions { segment_bytes_max: 1_000, ..options(1) };
    let log = Arc::new(Log::open(Arc::new(disk), DIR, small, &LogFloor::default()).unwrap());
    let answers: Arc<Mutex<Vec<(u32, bool)>>> = Arc::default();
    let (mut handed_in, mut refused) = (0u32, 0usize);
    let mut failures_left = usize::from(may_fail);
    let rotated: Arc<Mutex<Option<Result<LogFloor, LogError>>>> = Arc::default();
    let rotations = Arc::new(AtomicUsize::new(0));
    let (mut rotation, mut before_rotation) = (None, 0);
    loop {
        let rotating = usize::from(rotation.is_some());
        let is_quiet =
            || answers.lock().len() + refused == handed_in as usize && rotations.load(Ordering::Acquire) == rotating;
        let standing = stage.wait(is_quiet);
        // Whatever is acknowledged is durable now, and in order.
        let acked: Vec<u32> = answers.lock().iter().filter(|(_, ok)| *ok).map(|(id, _)| *id).collect();
        let durable = ids_of(&memory.crash(0), &LogFloor::default());
        assert!(acked.iter().all(|id| durable.contains(id)), "{acked:?} acknowledged, {durable:?} durable");
        assert!(answers.lock().windows(2).all(|w| w[0].0 < w[1].0), "answers in order");
        let mut moves = Vec::new();
        if let Some(op) = standing {
            moves.push(0);
            if failures_left > 0 && matches!(op, DiskOp::Sync | DiskOp::SyncDir | DiskOp::Write) {
                moves.push(1);
            }
        }
        if handed_in < entries {
            moves.push(2);
        }
        if rotation.is_none() {
            moves.push(3);
        }
        if moves.is_empty() {
            break;
        }
        match moves[choose(moves.len())] {
            0 => stage.step(None),
            1 => {
                failures_left -= 1;
                let kind = if standing == Some(DiskOp::Write) { DiskErrorKind::Full } else { DiskErrorKind::Media };
                stage.step(Some(kind));
            }
            2 => {
                let entry = Told { id: handed_in, answers: Arc::clone(&answers), stage: stage.clone() };
                refused += usize::from(log.submit(0, entry).is_err());
                handed_in += 1;
            }
            _ => {
                before_rotation = handed_in;
                let (log, rotated, rotations) = (Arc::clone(&log), Arc::clone(&rotated), Arc::clone(&rotations));
                let stage = stage.clone();
                // It is queued here, so that what comes later is behind it.
                let (sender, receiver) = std::sync::mpsc::channel();
                log.queues[0].push_rotate(sender).unwrap();
                rotation = Some(thread::spawn(move || {
                    let next = receiver.recv().map_err(|_| LogError::Closed).and_then(|r| r);
                    *rotated.lock() = Some(next.map(|n| LogFloor([(0, n)].into())));
                    rotations.store(1, Ordering::Release);
                    stage.notify();
                }));
            }
        }
    }
    stage.free();
    rotation.unwrap().join().unwrap();
    let acked: Vec<u32> = answers.lock().iter().filter(|(_, ok)| *ok).map(|(id, _)| *id).collect();
    let is_poisoned = matches!(log.health(), LogHealth::Poisoned(_));
    assert!(may_fail || acked.len() == entries as usize);
    if let Some(Ok(floor)) = &*rotated.lock() {
        // What was queued before it lies below the floor, the rest not below.
        let above = ids_of(&memory, floor);
        let after: Vec<u32> = acked.iter().copied().filter(|id| *id >= before_rotation).collect();
        assert!(above.iter().all(|id| *id >= before_rotation), "{above:?} above the floor, {before_rotation} before");
        assert!(after.iter().all(|id| above.contains(id)));
    } else {
        assert!(is_poisoned);
    }
    drop(log);
    let durable = ids_of(&memory.crash(0), &LogFloor::default());
    assert!(durable.windows(2).all(|w| w[0] < w[1]), "{durable:?}");
    assert!(acked.iter().all(|id| durable.contains(id)), "{acked:?} acknowledged, {durable:?} durable");
}

#[test]
fn group_commit_in_every_order() {
    let row = Row::begin("27", "group commit and rotation in every order");
    let entries = sized(3, 6) as u32;
    let plays = every_order(u64::MAX, |choose| play(entries, false, choose));
    assert!(plays > 100, "{plays}");
    row.passed(format_args!("{plays} orders of {entries} writers"), plays * u64::from(entries));
}

#[test]
fn group_commit_in_every_order_with_every_failure() {
    let row = Row::begin("27", "group commit with any operation failing");
    let plays = every_order(sized(1_000, 50_000), |choose| play(sized(2, 3) as u32, true, choose));
    assert!(plays > 250, "{plays}");
    row.passed(format_args!("{plays} orders"), 0);
}
