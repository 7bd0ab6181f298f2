//! Segments whose file is gone: reported where a later header counts their frames, and silent where they may be gone.

use super::*;
use crate::disk::{DiskErrorKind, DiskOp, FaultAction, FaultRule, FaultyDisk};

fn floor_of(number: u64) -> LogFloor {
    LogFloor([(0, number)].into())
}

/// `disk` without some segments.
fn without(disk: &MemoryDisk, numbers: &[u64]) -> MemoryDisk {
    let copy = disk.crash(1);
    for number in numbers {
        copy.remove(&file_of(*number)).unwrap();
    }
    copy
}

/// The segments that are reported as gone, each with its frames.
fn gone(report: &ReplayReport) -> Vec<(u64, u32)> {
    let of = |d: &Damage| match d.reason {
        DamageReason::Gone(frames) => (d.segment.number, frames),
        _ => panic!("{d}"),
    };
    report.damage.iter().map(of).collect()
}

#[test]
fn a_segment_that_is_gone_is_reported_by_the_next_header() {
    let disk = written(5, 4, 30);
    for (removed, expected) in [
        (&[1][..], &[(1, 4)][..]),
        (&[3], &[(3, 4)]),
        (&[2, 4], &[(2, 4), (4, 4)]),
        // Of the first of two in a row only the second would tell.
        (&[2, 3], &[(3, 4)]),
        // Of the last one nobody tells.
        (&[5], &[]),
        (&[4, 5], &[]),
    ] {
        let (ids, report) = read_back(&without(&disk, removed), &LogFloor::default());
        let is_left = |id: &u32| !removed.contains(&(u64::from(id / 4) + 1));
        assert_eq!(ids, (0..20).filter(is_left).collect::<Vec<_>>(), "without {removed:?}");
        assert_eq!(gone(&report), expected, "without {removed:?}");
        assert_eq!(report.frames_lost, 4 * expected.len() as u64, "without {removed:?}");
        assert_eq!(report.first_damage().is_some(), !expected.is_empty());
    }
    let (_, report) = read_back(&without(&disk, &[2]), &floor_of(2));
    let said = report.first_damage().unwrap();
    assert_eq!(said, "000-0000000000000002.log: the segment is missing, with 4 acknowledged frames");
}

#[test]
fn below_the_floor_a_segment_may_be_gone() {
    let disk = written(5, 4, 30);
    for (removed, floor) in [(&[1][..], 2), (&[1, 2, 3], 4), (&[2], 3), (&[3], 4), (&[1, 2, 3, 4], 6)] {
        let (_, report) = read_back(&without(&disk, removed), &floor_of(floor));
        assert!(report.is_clean() && report.frames_lost == 0, "without {removed:?} from {floor}: {report:?}");
    }
    // One segment read alone says nothing of others.
    let mut alone = Collector { shard: 0, labels: BTreeSet::new(), into: &Collected::default() };
    let id = SegmentId { shard: 0, number: 5 };
    let report = read_segment(&without(&disk, &[4]), DIR, id, &mut alone).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

/// A process does not count what the one before it wrote, and may skip numbers.
#[test]
fn numbers_that_a_start_skips_are_no_damage() {
    let disk = written(2, 4, 30);
    let log = Harness::open(disk.clone(), options(1), &floor_of(9));
    log.write(0, 8, 30).unwrap();
    log.log.rotate().unwrap();
    assert_eq!(log.write(0, 9, 30).unwrap().segment, 10);
    drop(log);
    let (ids, report) = read_back(&disk, &LogFloor::default());
    assert_eq!(ids, (0..10).collect::<Vec<_>>());
    assert!(report.is_clean() && report.frames_lost == 0, "{report:?}");
    assert_eq!(gone(&read_back(&without(&disk, &[9]), &floor_of(9)).1), [(9, 1)]);
}

/// A segment without frames goes again, or stays where the disk does not let it go. The next one counts the frames of the one
/// before it, either way.
#[test]
fn a_segment_without_frames_may_be_there_or_not() {
    for stays in [false, true] {
        let memory = MemoryDisk::new();
        let disk = FaultyDisk::new(Arc::new(memory.clone()));
        let log = Harness::open(disk.clone(), options(1), &LogFloor::default());
        for id in 0..4 {
            log.write(0, id, 30).unwrap();
        }
        log.log.rotate().unwrap();
        // The header of the second segment has room, its first frame has none.
        disk.push(FaultRule::new(DiskOp::Write, FaultAction::Fail(DiskErrorKind::Full)).after(1).times(1));
        if stays {
            disk.push(FaultRule::new(DiskOp::Remove, FaultAction::Fail(DiskErrorKind::Io)).times(1));
        }
        assert!(matches!(log.write(0, 90, 30), Err(LogError::Full(_))));
        assert_eq!(log.write(0, 4, 30).unwrap().segment, 3);
        drop(log);
        assert_eq!(memory.exists(&file_of(2)).unwrap(), stays);
        let (ids, report) = read_back(&memory, &LogFloor::default());
        assert_eq!(ids, [0, 1, 2, 3, 4]);
        assert!(report.is_clean() && report.frames_lost == 0, "{report:?}");
        // Two headers tell of the first segment: it is lost once.
        let (_, report) = read_back(&without(&memory, &[1]), &LogFloor::default());
        assert_eq!((gone(&report), report.frames_lost), (vec![(1, 4)], 4));
        // And cut, it is found to be, whatever lies between.
        let cut = memory.crash(1);
        let bytes = cut.read(&file_of(1)).unwrap();
        cut.put(&file_of(1), bytes[..SEGMENT_HEADER_BYTES].to_vec());
        let (_, report) = read_back(&cut, &LogFloor::default());
        let [damage] = &report.damage[..] else { panic!("{report:?}") };
        assert_eq!((damage.segment.number, &damage.reason), (1, &DamageReason::Missing(4)));
        assert_eq!(report.frames_lost, 4);
    }
}

/// Each shard has its own numbers.
#[test]
fn a_segment_of_another_shard_does_not_stand_in() {
    let disk = MemoryDisk::new();
    let log = Harness::open(disk.clone(), options(2), &LogFloor::default());
    for id in 0..12 {
        log.write(id as usize, id, 30).unwrap();
        if id % 4 == 3 {
            log.log.rotate().unwrap();
        }
    }
    drop(log);
    let lost = SegmentId { shard: 1, number: 2 };
    disk.remove(&join(DIR, &lost.file_name())).unwrap();
    let (_, report) = read_back(&disk, &LogFloor::default());
    let [damage] = &report.damage[..] else { panic!("{report:?}") };
    assert_eq!((damage.segment, &damage.reason), (lost, &DamageReason::Gone(2)));
    assert!(read_back(&disk, &LogFloor([(0, 2), (1, 3)].into())).1.is_clean());
}

/// Whoever lets the segments of a shard go that nobody writes to any more keeps its floor: a power loss may bring one of them
/// back and not the one before it.
#[test]
fn the_floor_of_a_shard_without_a_writer_stays() {
    let disk = MemoryDisk::new();
    let log = Harness::open(disk.clone(), options(2), &LogFloor::default());
    for id in 0..6 {
        log.write(id as usize, id, 30).unwrap();
        if id % 2 == 1 {
            log.log.rotate().unwrap();
        }
    }
    drop(log);
    let log = Harness::open(disk.clone(), options(1), &LogFloor::default());
    let before = disk.crash(1);
    let floor = log.log.rotate().unwrap();
    assert_eq!(floor, LogFloor([(0, 4), (1, 4)].into()));
    log.log.truncate(&floor).unwrap();
    assert_eq!(log.log.rotate().unwrap(), floor);
    drop(log);
    // After another start, too.
    let log = Harness::open(disk.clone(), options(1), &floor);
    log.write(0, 6, 30).unwrap();
    let later = log.log.rotate().unwrap();
    assert_eq!(later, LogFloor([(0, 5), (1, 4)].into()));
    drop(log);
    let back = SegmentId { shard: 1, number: 3 }.file_name();
    disk.put(&join(DIR, &back), before.read(&join(DIR, &back)).unwrap());
    let (ids, report) = read_back(&disk, &later);
    assert!(ids.is_empty() && report.is_clean(), "{report:?}");
    // And its numbers are not used again.
    disk.remove(&join(DIR, &back)).unwrap();
    let log = Harness::open(disk, options(2), &later);
    assert_eq!(log.write(1, 7, 30).unwrap().segment, 4);
}

/// A header that tells of itself or of a later segment is believed in nothing.
#[test]
fn a_header_tells_of_earlier_segments_only() {
    for number in [2, 3, u64::MAX] {
        let disk = written(2, 2, 30);
        let mut bytes = disk.read(&file_of(2)).unwrap();
        let header = segment::write_header(
            SegmentId { shard: 0, number: 2 },
            Some(segment::Previous { number, frames: u32::MAX - 1 }),
        );
        bytes[..SEGMENT_HEADER_BYTES].copy_from_slice(&header);
        disk.put(&file_of(2), bytes);
        let (ids, report) = read_back(&disk, &LogFloor::default());
        assert_eq!(ids, [0, 1, 2, 3]);
        assert!(report.is_clean() && report.frames_lost == 0, "{report:?}");
    }
}
