//! Cut, flipped, overwritten, duplicated, swapped: what is left is read, what is lost is named.

use super::*;
use crate::crc32c;
use crate::disk::{DiskErrorKind, DiskOp, FaultAction, FaultRule, FaultyDisk};
use crate::testing::Row;

/// Byte ranges of the frames of a segment.
fn frames_of(bytes: &[u8], number: u64) -> Vec<(usize, usize)> {
    let id = SegmentId { shard: 0, number };
    let mut at = SEGMENT_HEADER_BYTES;
    let mut frames = Vec::new();
    while let Some(header) = frame::FrameHeader::read(&bytes[at..], id) {
        let end = at + usize::try_from(header.total_bytes()).unwrap();
        frames.push((at, end));
        at = end;
        if at == bytes.len() {
            break;
        }
    }
    frames
}

/// The log with segment `number` replaced.
fn with(disk: &MemoryDisk, number: u64, bytes: Vec<u8>) -> MemoryDisk {
    let copy = disk.crash(1);
    copy.put(&file_of(number), bytes);
    copy
}

#[test]
fn the_last_segment_cut_at_every_byte_reads_to_the_last_whole_frame() {
    let row = Row::begin("4", "last of 3 segments cut at every byte");
    let disk = written_in_sizes(&[30, 30, 16 << 10], 4);
    let bytes = disk.read(&file_of(3)).unwrap();
    let frames = frames_of(&bytes, 3);
    assert_eq!(frames.len(), 4);
    for cut in 0..bytes.len() {
        let after = with(&disk, 3, bytes[..cut].to_vec());
        let whole = frames.iter().filter(|(_, end)| *end <= cut).count();
        let (ids, report) = read_back(&after, &LogFloor::default());
        assert_eq!(ids, (0..8 + u32::try_from(whole).unwrap()).collect::<Vec<_>>(), "cut at {cut}");
        assert!(report.is_clean(), "a torn tail is normal: cut at {cut}: {report:?}");
        let is_at_a_border = cut == 0 || cut == SEGMENT_HEADER_BYTES || frames.iter().any(|(_, end)| *end == cut);
        assert_eq!(report.torn.is_empty(), is_at_a_border, "cut at {cut}");
        // What is appended then: at every push behind some of the cuts, those around every border among them.
        let is_near_a_border = frames.iter().any(|(start, end)| cut.abs_diff(*start) < 40 || cut.abs_diff(*end) < 40);
        if crate::testing::is_nightly() || is_near_a_border || cut % 61 == 0 {
            let log = Harness::open(after.clone(), options(1), &LogFloor::default());
            assert_eq!(log.write(0, 100, 30).unwrap().segment, 4, "appends go to a new segment");
            drop(log);
            let (again, _) = read_back(&after, &LogFloor::default());
            assert_eq!(again, ids.into_iter().chain([100]).collect::<Vec<_>>());
        }
    }
    row.passed(format_args!("{} cuts", bytes.len()), 12);
}

#[test]
fn a_segment_in_the_middle_cut_at_every_byte_is_told_from_a_torn_tail() {
    let disk = written(3, 4, 30);
    let bytes = disk.read(&file_of(2)).unwrap();
    let frames = frames_of(&bytes, 2);
    for cut in 0..bytes.len() {
        let after = with(&disk, 2, bytes[..cut].to_vec());
        let whole = u32::try_from(frames.iter().filter(|(_, end)| *end <= cut).count()).unwrap();
        let (ids, report) = read_back(&after, &LogFloor::default());
        assert_eq!(ids, (0..4 + whole).chain(8..12).collect::<Vec<_>>(), "cut at {cut}");
        let [damage] = &report.damage[..] else { panic!("cut at {cut}: {report:?}") };
        assert_eq!((damage.segment.number, &damage.reason), (2, &DamageReason::Missing(4 - whole)));
        assert!(report.torn.is_empty());
        assert_eq!(report.frames_lost, u64::from(4 - whole));
    }
}

#[test]
fn every_flipped_bit_costs_at_most_its_frame() {
    let row = Row::begin("5", "bits of 3 segments flipped, one of 64 KiB");
    let mut flips = 0;
    let disk = written_in_sizes(&[60, 22 << 10, 60], 3);
    for number in 1..=3 {
        let bytes = disk.read(&file_of(number)).unwrap();
        let frames = frames_of(&bytes, number);
        let first = u32::try_from(number - 1).unwrap() * 3;
        // Every bit; at every push one bit of every byte of the large one.
        let is_sampled = number == 2 && !crate::testing::is_nightly();
        let one_of_each = |byte: usize| byte * 8 + (byte.wrapping_mul(0x9E37_79B9) >> 13) % 8;
        let bits: Vec<usize> =
            if is_sampled { (0..bytes.len()).map(one_of_each).collect() } else { (0..bytes.len() * 8).collect() };
        for bit in bits {
            flips += 1;
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let (ids, report) = read_back(&with(&disk, number, bad), &LogFloor::default());
            let hit = frames.iter().position(|(start, end)| (*start..*end).contains(&(bit / 8)));
            let lost = hit.map(|i| first + u32::try_from(i).unwrap());
            let expected: Vec<u32> = (0..9).filter(|id| Some(*id) != lost).collect();
            assert_eq!(ids, expected, "segment {number} bit {bit}");
            assert!(!report.is_clean() || !report.torn.is_empty(), "segment {number} bit {bit} not reported");
            let named = report.damage.iter().chain(&report.torn).find(|d| d.segment.number == number).unwrap();
            assert!((named.offset..named.offset + named.len).contains(&(bit as u64 / 8)), "{named}");
        }
    }
    row.passed(format_args!("{flips} flips"), 9);
}

#[test]
fn pages_of_rubbish_cost_what_they_cover() {
    let row = Row::begin("6", "zero, 0xFF, duplicated and shifted pages");
    let disk = written(3, 200, 60);
    let bytes = disk.read(&file_of(2)).unwrap();
    let frames = frames_of(&bytes, 2);
    for page in [4096, 8192] {
        for fill in [0x00, 0xFF, 0xF7] {
            let mut bad = bytes.clone();
            bad[page..page + 4096].fill(fill);
            let (ids, report) = read_back(&with(&disk, 2, bad), &LogFloor::default());
            let hit: Vec<u32> = (0..200)
                .filter(|i| frames[*i as usize].0 < page + 4096 && frames[*i as usize].1 > page)
                .map(|i| i + 200)
                .collect();
            assert_eq!(ids, (0..600).filter(|id| !hit.contains(id)).collect::<Vec<_>>());
            assert_eq!(report.frames_lost, hit.len() as u64);
        }
        // The same page once more, pushed in: one frame is split by it, and whole frames in it are copies.
        let mut bad = bytes.clone();
        let copy = bytes[page..page + 4096].to_vec();
        bad.splice(page..page, copy);
        let (ids, report) = read_back(&with(&disk, 2, bad), &LogFloor::default());
        let missing: Vec<u32> = (0..600).filter(|id| !ids.contains(id)).collect();
        assert!(missing.len() <= 1, "{missing:?}");
        assert_eq!(ids.len() + missing.len(), 600, "no frame comes twice");
        assert!(report.damage.iter().any(|d| d.reason == DamageReason::Duplicate));
        // The same page over its successor.
        let mut bad = bytes.clone();
        bad.copy_within(page..page + 4096, page + 4096);
        let (ids, report) = read_back(&with(&disk, 2, bad), &LogFloor::default());
        let lost = frames.iter().filter(|(start, end)| *start < page + 8192 && *end > page + 4096).count();
        assert!(ids.len() >= 600 - lost && ids.len() < 600, "{}", ids.len());
        assert!(ids.windows(2).all(|w| w[0] < w[1]));
        assert!(!report.is_clean());
    }
    row.passed("10 pages", 600);
}

#[test]
fn swapped_frames_are_all_read() {
    let disk = written(1, 6, 30);
    let bytes = disk.read(&file_of(1)).unwrap();
    let frames = frames_of(&bytes, 1);
    let mut bad = bytes[..frames[3].0].to_vec();
    bad.extend_from_slice(&bytes[frames[4].0..frames[4].1]);
    bad.extend_from_slice(&bytes[frames[3].0..frames[3].1]);
    bad.extend_from_slice(&bytes[frames[5].0..]);
    let (ids, report) = read_back(&with(&disk, 1, bad), &LogFloor::default());
    assert_eq!((ids, report.frames_lost), ((0..6).collect(), 0));
}

#[test]
fn a_frame_of_another_segment_is_not_taken() {
    let disk = written(2, 3, 30);
    let (one, two) = (disk.read(&file_of(1)).unwrap(), disk.read(&file_of(2)).unwrap());
    let frames = frames_of(&one, 1);
    let mut mixed = two.clone();
    mixed.extend_from_slice(&one[frames[1].0..]);
    let (ids, report) = read_back(&with(&disk, 2, mixed), &LogFloor::default());
    assert_eq!(ids, (0..6).collect::<Vec<_>>());
    assert_eq!(report.torn.len(), 1);
    // A whole file under a wrong name.
    let (ids, report) = read_back(&with(&disk, 2, one), &LogFloor::default());
    assert_eq!(ids, [0, 1, 2]);
    assert_eq!(report.damage[0].reason, DamageReason::Misnamed(SegmentId { shard: 0, number: 1 }));
}

#[test]
fn absurd_lengths_are_not_believed() {
    let disk = written(1, 5, 30);
    let bytes = disk.read(&file_of(1)).unwrap();
    let frames = frames_of(&bytes, 1);
    for length in [0, 1, 0x7FFF_FFFF, u32::MAX] {
        // Without a valid checksum, and with one.
        for is_sealed in [false, true] {
            let mut bad = bytes.clone();
            let at = frames[2].0;
            bad[at + 8..at + 12].copy_from_slice(&u32::to_le_bytes(length));
            if is_sealed {
                let crc = crate::crc32c_salted(&SegmentId { shard: 0, number: 1 }.salt(), &bad[at..at + 20]);
                bad[at + 20..at + 24].copy_from_slice(&crc.to_le_bytes());
            }
            let (ids, report) = read_back(&with(&disk, 1, bad), &LogFloor::default());
            assert_eq!(ids, [0, 1, 3, 4], "{length} {is_sealed}");
            assert_eq!(report.damage.len(), 1);
        }
    }
}

#[test]
fn rubbish_alone_is_stepped_over() {
    for bytes in [vec![], vec![0; 10], vec![0; 5000], vec![0xFF; 5000], b"QUIVRLOG".repeat(100)] {
        let disk = written(2, 2, 30);
        let (ids, _) = read_back(&with(&disk, 1, bytes.clone()), &LogFloor::default());
        assert_eq!(ids, [2, 3]);
        let (ids, report) = read_back(&with(&disk, 2, bytes), &LogFloor::default());
        assert_eq!(ids, [0, 1]);
        assert!(report.is_clean());
    }
}

#[test]
fn newer_formats_are_refused_before_anything_is_read() {
    let disk = written(2, 2, 30);
    let mut segment = disk.read(&file_of(2)).unwrap();
    segment[8] = 2;
    let crc = crc32c(&segment[..12]);
    segment[12..16].copy_from_slice(&crc.to_le_bytes());
    let refused = with(&disk, 2, segment);
    let make = |_| -> Collector<'_> { panic!("nothing is handed on") };
    let e = replay(&refused, DIR, &LogFloor::default(), 1, make).unwrap_err();
    assert!(e.to_string().contains("newer version"), "{e}");

    let mut segment = disk.read(&file_of(2)).unwrap();
    let at = SEGMENT_HEADER_BYTES;
    segment[at + 4] = 9;
    let crc = crate::crc32c_salted(&SegmentId { shard: 0, number: 2 }.salt(), &segment[at..at + 20]);
    segment[at + 20..at + 24].copy_from_slice(&crc.to_le_bytes());
    let collected = Collected::default();
    let make = |shard| Collector { shard, labels: BTreeSet::new(), into: &collected };
    let e = replay(&with(&disk, 2, segment), DIR, &LogFloor::default(), 1, make).unwrap_err();
    assert!(matches!(e, ReplayError::OtherVersion { found: 9, .. }), "{e}");
}

#[test]
fn damaged_segments_are_set_aside_and_not_deleted() {
    let disk = written(3, 3, 30);
    let mut bytes = disk.read(&file_of(2)).unwrap();
    bytes[SEGMENT_HEADER_BYTES + 30] ^= 1;
    let disk = with(&disk, 2, bytes.clone());
    let (_, report) = read_back(&disk, &LogFloor::default());
    let log = Harness::open(disk.clone(), options(1), &LogFloor::default());
    log.log.keep_damaged(&report);
    assert_eq!(log.log.figures().segments_damaged, 1);
    let floor = log.log.rotate().unwrap();
    log.log.truncate(&floor).unwrap();
    assert!(disk.list(DIR).unwrap().is_empty());
    let aside = join(&join(DIR, QUARANTINE_DIR), &SegmentId { shard: 0, number: 2 }.file_name());
    assert_eq!(disk.read(&aside).unwrap(), bytes);
    assert_eq!(log.log.figures().segments_quarantined, 1);
    assert_eq!(disk.crash(0).read(&aside).unwrap(), bytes);
}

#[test]
fn an_unreadable_page_costs_its_frames_and_another_error_stops_the_replay() {
    let disk = written(1, 100, 60);
    let faulty = FaultyDisk::new(Arc::new(disk.clone()));
    // The first read looks at the version, the second loads the window, the next one is the first page.
    faulty.push(FaultRule::new(DiskOp::Read, FaultAction::Fail(DiskErrorKind::Media)).after(1).times(1));
    faulty.push(FaultRule::new(DiskOp::Read, FaultAction::Fail(DiskErrorKind::Media)).after(2).times(1));
    let (ids, report) = read_back(&faulty, &LogFloor::default());
    assert!(ids.len() > 40 && ids.len() < 100, "{}", ids.len());
    assert_eq!(report.damage[0].reason, DamageReason::Unreadable);
    let faulty = FaultyDisk::new(Arc::new(disk));
    faulty.push(FaultRule::new(DiskOp::Read, FaultAction::Fail(DiskErrorKind::Io)).after(1));
    let collected = Collected::default();
    let make = |shard| Collector { shard, labels: BTreeSet::new(), into: &collected };
    assert!(matches!(replay(&faulty, DIR, &LogFloor::default(), 1, make), Err(ReplayError::Disk(_))));
}

#[test]
fn frames_larger_than_the_window_and_lying_across_its_border_are_read() {
    let disk = MemoryDisk::new();
    let log = Harness::open(disk.clone(), options(1), &LogFloor::default());
    for id in 0..40 {
        log.write(0, id, if id % 10 == 3 { 3 << 20 } else { 100_000 }).unwrap();
    }
    drop(log);
    let (ids, report) = read_back(&disk, &LogFloor::default());
    assert_eq!(ids, (0..40).collect::<Vec<_>>());
    assert!(report.is_clean());
    // Resynchronising over megabytes.
    let mut bytes = disk.read(&file_of(1)).unwrap();
    bytes[200_000..2_500_000].fill(0xF7);
    let (ids, report) = read_back(&with(&disk, 1, bytes), &LogFloor::default());
    assert_eq!(ids, [0].into_iter().chain(4..40).collect::<Vec<_>>());
    assert_eq!(report.frames_lost, 3);
}

#[test]
fn a_visitor_that_refuses_a_frame_gets_the_next() {
    struct Picky(Vec<u32>);
    impl ReplayShard for &mut Picky {
        fn frame(&mut self, frame: Frame<'_>) -> Result<(), String> {
            self.0.push(frame.sequence);
            if frame.sequence == 1 { Err("not this one".to_owned()) } else { Ok(()) }
        }
    }
    let disk = written(1, 3, 30);
    let picky = Mutex::new(Some(Picky(Vec::new())));
    let mut taken = picky.lock().take().unwrap();
    {
        let slot = Mutex::new(Some(&mut taken));
        let report = replay(&disk, DIR, &LogFloor::default(), 1, |_| slot.lock().take().unwrap()).unwrap();
        assert_eq!(report.damage.len(), 1);
        assert!(report.damage[0].to_string().contains("not this one"));
    }
    assert_eq!(taken.0, [0, 1, 2]);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Whatever is done to the bytes: no panic, nothing twice, nothing that was not written, the other segments whole.
    #[test]
    fn any_surgery_only_loses(
        number in 1u64..=3,
        at in 0usize..1500,
        removed in 0usize..300,
        inserted in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
        copied in 0usize..1500,
    ) {
        let disk = written(3, 12, 40);
        let mut bytes = disk.read(&file_of(number)).unwrap();
        let at = at.min(bytes.len());
        let mut piece = inserted;
        piece.extend_from_slice(&bytes[copied.min(bytes.len())..(copied + 100).min(bytes.len())]);
        bytes.splice(at..(at + removed).min(bytes.len()), piece);
        let (ids, _) = read_back(&with(&disk, number, bytes), &LogFloor::default());
        let others = (0..36).filter(|id| u64::from(id / 12) + 1 != number);
        proptest::prop_assert!(ids.windows(2).all(|w| w[0] < w[1]) && ids.iter().all(|id| *id < 36));
        proptest::prop_assert!(others.into_iter().all(|id| ids.contains(&id)));
    }
}

#[test]
fn a_hole_in_the_last_batch_is_torn_and_in_an_earlier_one_damage() {
    let memory = MemoryDisk::new();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    let gate = crate::disk::Gate::new();
    disk.push(FaultRule::new(DiskOp::Sync, FaultAction::Wait(gate.clone())).times(1));
    let log = Harness::open(disk, options(1), &LogFloor::default());
    log.submit(0, 0, 40).unwrap();
    gate.wait_for_arrival();
    for id in 1..7 {
        log.submit(0, id, 40).unwrap();
    }
    gate.open();
    for _ in 0..7 {
        log.next().1.unwrap();
    }
    let segment = memory.read(&file_of(1)).unwrap();
    let frames = frames_of(&segment, 1);
    let holed = |bytes: &[u8], frame: usize| {
        let mut bad = bytes.to_vec();
        bad[frames[frame].0 + 2..frames[frame].1 - 2].fill(0);
        bad
    };
    // As if the sync of the second batch had not been: alone it proves nothing.
    for frame in 1..6 {
        let (ids, report) = read_back(&with(&memory, 1, holed(&segment, frame)), &LogFloor::default());
        assert_eq!(ids.len(), 6);
        assert!(report.is_clean() && report.frames_lost == 0 && !report.torn.is_empty(), "{report:?}");
    }
    // Frames whose label was in the hole are rejected; that is not counted here.
    let counts = |report: &ReplayReport| {
        let is_hole = |d: &&Damage| !matches!(d.reason, DamageReason::Rejected(_));
        (report.damage.iter().filter(is_hole).count(), report.frames_lost, report.torn.iter().filter(is_hole).count())
    };
    let (_, report) = read_back(&with(&memory, 1, holed(&segment, 0)), &LogFloor::default());
    assert_eq!(counts(&report), (1, 1, 0), "the first batch was acknowledged");
    // A third batch proves the second.
    log.write(0, 7, 40).unwrap();
    let segment = memory.read(&file_of(1)).unwrap();
    for frame in 0..7 {
        let (_, report) = read_back(&with(&memory, 1, holed(&segment, frame)), &LogFloor::default());
        assert_eq!(counts(&report), (1, 1, 0), "{frame}");
    }
    // So does the next segment.
    log.log.rotate().unwrap();
    log.write(0, 8, 40).unwrap();
    drop(log);
    let cut = holed(&segment[..frames[6].1], 3);
    let (_, report) = read_back(&with(&memory, 1, cut), &LogFloor::default());
    assert_eq!(counts(&report), (1, 2, 0), "{report:?}");
}
