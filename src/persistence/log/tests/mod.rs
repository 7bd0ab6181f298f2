//! The log over disks that fail, lose power, or rot. Entries name a label in full only once per segment, as real ones do.

mod crash;
mod damage;
mod fault;
mod gone;
mod group;
mod orders;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::disk::{MemoryDisk, RealDisk};

const DIR: &str = "log";

/// An entry with a number, a label that is spelled out at its first use in a segment, and some bytes to check.
#[derive(Debug)]
struct Item {
    id: u32,
    size: usize,
    done: Sender<(u32, Result<LogPosition, LogError>)>,
}

fn label(id: u32) -> String {
    format!("label-{}", id % 3)
}

impl LogEntry for Item {
    type SegmentState = BTreeSet<String>;

    fn size_hint(&self) -> usize {
        self.size
    }

    fn encode(&self, state: &mut Self::SegmentState, out: &mut Vec<u8>) -> u8 {
        let label = label(self.id);
        out.extend_from_slice(&self.id.to_le_bytes());
        if state.insert(label.clone()) {
            out.push(u8::try_from(label.len()).unwrap());
            out.extend_from_slice(label.as_bytes());
        } else {
            out.push(0);
        }
        let fill = self.id.to_le_bytes()[0];
        out.extend(std::iter::repeat_n(fill, self.size));
        5
    }

    fn committed(self, result: Result<LogPosition, LogError>) {
        self.done.send((self.id, result)).unwrap();
    }
}

/// What a replay gave: entry numbers in order, by shard.
#[derive(Debug, Default)]
struct Collected(Mutex<BTreeMap<u32, Vec<u32>>>);

struct Collector<'a> {
    shard: u32,
    labels: BTreeSet<String>,
    into: &'a Collected,
}

impl ReplayShard for Collector<'_> {
    fn segment_start(&mut self, segment: SegmentId) {
        assert_eq!(segment.shard, self.shard);
        self.labels.clear();
    }

    fn frame(&mut self, frame: Frame<'_>) -> Result<(), String> {
        assert_eq!(frame.kind, 5);
        let (id, rest) = frame.payload.split_first_chunk::<4>().unwrap();
        let id = u32::from_le_bytes(*id);
        let (len, rest) = rest.split_first().unwrap();
        let (text, fill) = rest.split_at(usize::from(*len));
        assert!(fill.iter().all(|b| *b == id.to_le_bytes()[0]), "a wrong byte in entry {id}");
        if *len > 0 {
            assert_eq!(text, label(id).as_bytes());
            self.labels.insert(label(id));
        }
        self.into.0.lock().entry(self.shard).or_default().push(id);
        if self.labels.contains(&label(id)) { Ok(()) } else { Err(format!("label of {id} unknown")) }
    }
}

/// Replays; entry numbers of all shards, sorted.
fn read_back(disk: &dyn Disk, floor: &LogFloor) -> (Vec<u32>, ReplayReport) {
    let (by_shard, report) = read_shards(disk, floor);
    let mut ids: Vec<u32> = by_shard.into_values().flatten().collect();
    ids.sort_unstable();
    (ids, report)
}

fn read_shards(disk: &dyn Disk, floor: &LogFloor) -> (BTreeMap<u32, Vec<u32>>, ReplayReport) {
    let collected = Collected::default();
    let make = |shard| Collector { shard, labels: BTreeSet::new(), into: &collected };
    let report = replay(disk, DIR, floor, 2, make).unwrap();
    (collected.0.into_inner(), report)
}

fn options(shards: u32) -> LogOptions {
    LogOptions { shards, free_bytes_min: 0, ..LogOptions::default() }
}

/// A log with the channel its entries report to.
struct Harness {
    log: Log<Item>,
    sender: Sender<(u32, Result<LogPosition, LogError>)>,
    receiver: Receiver<(u32, Result<LogPosition, LogError>)>,
}

impl Harness {
    fn open(disk: impl Disk + 'static, options: LogOptions, floor: &LogFloor) -> Self {
        let log = Log::open(Arc::new(disk), DIR, options, floor).unwrap();
        let (sender, receiver) = channel();
        Self { log, sender, receiver }
    }

    fn submit(&self, shard: usize, id: u32, size: usize) -> Result<(), LogError> {
        self.log.submit(shard, Item { id, size, done: self.sender.clone() })
    }

    fn next(&self) -> (u32, Result<LogPosition, LogError>) {
        self.receiver.recv().unwrap()
    }

    /// Submits one entry and waits for it.
    fn write(&self, shard: usize, id: u32, size: usize) -> Result<LogPosition, LogError> {
        self.submit(shard, id, size)?;
        let (done, result) = self.next();
        assert_eq!(done, id);
        result
    }
}

/// A log of `segments` segments with `frames` entries each, numbered on from 0, in one shard.
fn written(segments: u32, frames: u32, size: usize) -> MemoryDisk {
    written_in_sizes(&vec![size; segments as usize], frames)
}

/// A segment for each of `sizes`, of so many frames of that size.
fn written_in_sizes(sizes: &[usize], frames: u32) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let log = Harness::open(disk.clone(), options(1), &LogFloor::default());
    for (segment, size) in (0u32..).zip(sizes) {
        for frame in 0..frames {
            log.write(0, segment * frames + frame, *size).unwrap();
        }
        log.log.rotate().unwrap();
    }
    disk
}

fn file_of(number: u64) -> String {
    join(DIR, &SegmentId { shard: 0, number }.file_name())
}

#[test]
fn entries_come_back_in_order_by_shard() {
    let dir = tempfile::tempdir().unwrap();
    for real in [false, true] {
        let disk: Arc<dyn Disk> =
            if real { Arc::new(RealDisk::create(dir.path()).unwrap()) } else { Arc::new(MemoryDisk::new()) };
        let small = LogOptions { segment_bytes_max: 300, ..options(3) };
        let log = Log::open(Arc::clone(&disk), DIR, small, &LogFloor::default()).unwrap();
        let (sender, receiver) = channel();
        let mut positions = BTreeMap::new();
        for id in 0..300 {
            log.submit(id as usize, Item { id, size: 20, done: sender.clone() }).unwrap();
            if id % 7 == 0 {
                let (id, result) = receiver.recv().unwrap();
                positions.insert(id, result.unwrap());
            }
        }
        log.close();
        assert_eq!(log.submit(0, Item { id: 0, size: 1, done: sender.clone() }), Err(LogError::Closed));
        positions.extend(receiver.try_iter().map(|(id, result)| (id, result.unwrap())));
        assert_eq!(positions.len(), 300);
        let (by_shard, report) = read_shards(&*disk, &LogFloor::default());
        assert!(report.is_clean() && report.torn.is_empty() && report.frames_lost == 0, "{report:?}");
        assert!(report.segments > 10);
        for (shard, ids) in by_shard {
            assert_eq!(ids, (0..300).filter(|id| id % 3 == shard).collect::<Vec<_>>());
            assert!(ids.windows(2).all(|w| positions[&w[0]] < positions[&w[1]] && positions[&w[0]].shard == shard));
        }
        let figures = log.figures();
        assert_eq!((figures.frames(), figures.queued_entries()), (300, 0));
        assert_eq!(figures.bytes, report.bytes);
        assert_eq!(figures.segments, report.segments);
    }
}

#[test]
fn a_missing_or_empty_folder_is_an_empty_log() {
    let disk = MemoryDisk::new();
    assert_eq!(read_back(&disk, &LogFloor::default()).1, ReplayReport::default());
    let log = Harness::open(disk.clone(), options(2), &LogFloor::default());
    log.log.rotate().unwrap();
    drop(log);
    assert!(disk.list(DIR).unwrap().is_empty(), "nothing is written before the first entry");
    assert_eq!(read_back(&disk, &LogFloor::default()).1, ReplayReport::default());
}

#[test]
fn a_rotated_and_truncated_log_keeps_what_came_after() {
    let disk = MemoryDisk::new();
    let log = Harness::open(disk.clone(), options(2), &LogFloor::default());
    for id in 0..10 {
        log.write(id as usize, id, 50).unwrap();
    }
    let floor = log.log.rotate().unwrap();
    for id in 10..14 {
        log.write(id as usize, id, 50).unwrap();
    }
    assert_eq!(read_back(&disk, &LogFloor::default()).0, (0..14).collect::<Vec<_>>());
    let (ids, report) = read_back(&disk, &floor);
    assert_eq!((ids, report.segments_below), ((10..14).collect(), 2));
    let bytes = log.log.bytes();
    log.log.truncate(&floor).unwrap();
    assert!(log.log.bytes() < bytes);
    assert_eq!(read_back(&disk, &LogFloor::default()).0, (10..14).collect::<Vec<_>>());
    let all = LogFloor([(0, 99), (1, 99)].into());
    log.log.truncate(&all).unwrap();
    assert_eq!(read_back(&disk, &LogFloor::default()).0, (10..14).collect::<Vec<_>>(), "open segments stay");
    assert_eq!(log.log.rotate().unwrap(), LogFloor([(0, 3), (1, 3)].into()));
    assert_eq!(log.log.rotate().unwrap(), LogFloor([(0, 3), (1, 3)].into()), "an empty segment is not followed");
}

#[test]
fn numbers_are_not_used_again_after_a_restart() {
    let disk = MemoryDisk::new();
    let log = Harness::open(disk.clone(), options(1), &LogFloor::default());
    log.write(0, 1, 10).unwrap();
    let floor = log.log.rotate().unwrap();
    log.log.truncate(&floor).unwrap();
    drop(log);
    assert!(disk.list(DIR).unwrap().is_empty());
    // Started again under the floor that the manifest kept: a lower number would never be replayed.
    let log = Harness::open(disk.clone(), options(1), &floor);
    assert_eq!(log.write(0, 2, 10).unwrap().segment, floor.of(0));
    drop(log);
    assert_eq!(read_back(&disk, &floor).0, [2]);
    let log = Harness::open(disk.clone(), options(1), &floor);
    assert_eq!(log.write(0, 3, 10).unwrap().segment, floor.of(0) + 1);
    drop(log);
    assert_eq!(read_back(&disk, &floor).0, [2, 3]);
}

#[test]
fn shards_of_an_earlier_configuration_are_read_and_truncated() {
    let disk = MemoryDisk::new();
    let log = Harness::open(disk.clone(), options(4), &LogFloor::default());
    for id in 0..8 {
        log.write(id as usize, id, 10).unwrap();
    }
    drop(log);
    let log = Harness::open(disk.clone(), options(1), &LogFloor::default());
    log.write(0, 8, 10).unwrap();
    assert_eq!(read_back(&disk, &LogFloor::default()).0, (0..9).collect::<Vec<_>>());
    let floor = log.log.rotate().unwrap();
    log.log.truncate(&floor).unwrap();
    assert!(disk.list(DIR).unwrap().is_empty(), "{floor:?}");
}

#[test]
fn a_floor_is_a_map_in_json() {
    let floor = LogFloor([(0, 5), (12, u64::MAX)].into());
    let json = serde_json::to_string(&floor).unwrap();
    assert_eq!(json, r#"{"0":5,"12":18446744073709551615}"#);
    assert_eq!(serde_json::from_str::<LogFloor>(&json).unwrap(), floor);
}
