//! Power loss at every operation of a life of writes, rotations and truncations.

use super::*;
use crate::disk::FaultyDisk;
use crate::testing::{Crashes, Row, every_crash, sized};

/// What the world outside knows: entries acknowledged, and those whose data a floor has let go of.
#[derive(Clone, Debug, Default)]
struct Ledger {
    tried: BTreeSet<u32>,
    acked: BTreeSet<u32>,
    floor: LogFloor,
    let_go: BTreeSet<u32>,
}

/// Writes, rotates and truncates until the disk stops or all is done.
fn live(disk: impl Disk + 'static, first: u32, ledger: &mut Ledger) -> bool {
    let small = LogOptions { segment_bytes_max: 250, ..options(2) };
    let Ok(log) = Log::open(Arc::new(disk), DIR, small, &ledger.floor) else { return false };
    let (sender, receiver) = channel();
    for round in 0..5u32 {
        let mut waiting = 0;
        for i in 0..4 {
            let id = first + round * 4 + i;
            ledger.tried.insert(id);
            if log.submit(id as usize, Item { id, size: 30 + (id as usize * 37) % 600, done: sender.clone() }).is_ok() {
                waiting += 1;
            }
        }
        let mut is_well = waiting == 4;
        for _ in 0..waiting {
            let (id, result) = receiver.recv().unwrap();
            is_well &= result.is_ok();
            if result.is_ok() {
                ledger.acked.insert(id);
            }
        }
        if !is_well {
            return false;
        }
        if round % 2 == 1 {
            // A flush: what is committed is elsewhere now, and the floor is kept durably elsewhere before truncation.
            let Ok(floor) = log.rotate() else { return false };
            ledger.floor = floor.clone();
            ledger.let_go = ledger.acked.clone();
            if log.truncate(&floor).is_err() {
                return false;
            }
        }
    }
    true
}

/// Everything acknowledged and not let go is there; nothing comes twice or from nowhere.
fn check(disk: &MemoryDisk, ledger: &Ledger, what: &str) {
    let (ids, report) = read_back(disk, &ledger.floor);
    for id in ledger.acked.difference(&ledger.let_go) {
        assert!(ids.contains(id), "{what}: entry {id} is lost: {ids:?} {report:?}");
    }
    assert!(ids.windows(2).all(|w| w[0] < w[1]), "{what}: {ids:?}");
    assert!(ids.iter().all(|id| ledger.tried.contains(id)), "{what}: {ids:?}");
    // Holes that a power loss leaves are torn tails: nothing that was acknowledged, so nothing to be alarmed about.
    assert!(report.is_clean() && report.frames_lost == 0, "{what}: {report:?}");
}

#[test]
fn nothing_acknowledged_is_lost_by_a_power_loss_at_any_operation() {
    let whole = MemoryDisk::new();
    assert!(live(whole.clone(), 0, &mut Ledger::default()));
    let ops = whole.ops();
    assert!(ops > 60, "{ops}");
    let row = Row::begin("3", "power loss at every operation of the log");
    let (pending_max, seeds) = (sized(8, 12) as usize, sized(16, 3_000));
    let (mut first, mut later, mut acked) = (Crashes::default(), 0u64, 0);
    for halt in 0..ops + 4 {
        let disk = MemoryDisk::new();
        disk.halt_after(halt);
        let mut ledger = Ledger::default();
        live(disk.clone(), 0, &mut ledger);
        acked += ledger.acked.len() as u64;
        every_crash(&disk, pending_max, seeds, &mut first, |after, left| {
            let what = format!("halt {halt}, {left}");
            check(&after, &ledger, &what);
            // A second life on what is left, ended by another power loss.
            let mut second = ledger.clone();
            after.halt_after(5 + halt * 7 % 60);
            live(after.clone(), 1000, &mut second);
            for seed in [0, 1, later + 2, later + 3] {
                later += 1;
                check(&after.crash(seed), &second, &format!("{what}, then seed {seed}"));
            }
        });
    }
    row.passed(format_args!("{first}; {later} after a second life"), acked);
}

/// With an interval a power loss takes what came since the last sync, in any part. That is a torn tail, not damage; what a sync
/// covered is there.
#[test]
fn an_interval_that_a_power_loss_cut_off_is_no_damage() {
    let row = Row::begin("3", "power loss under interval durability");
    let interval = LogOptions { durability: Durability::Interval(3_600_000), segment_bytes_max: 2_000, ..options(1) };
    let seeds = sized(100, 20_000);
    let mut holes = 0;
    for seed in 0..seeds {
        let mut random = crate::disk::Seeded(seed);
        let disk = MemoryDisk::new();
        let log = Harness::open(disk.clone(), interval.clone(), &LogFloor::default());
        let mut synced = 0;
        let count = 2 + u32::try_from(random.below(60)).unwrap();
        for id in 0..count {
            let before = log.log.figures().syncs();
            log.write(0, id, 10 + usize::try_from(random.below(900)).unwrap()).unwrap();
            // A segment that is full is synced with all that is in it, right after its last entry is acknowledged.
            if log.log.figures().syncs() > before {
                synced = id;
            }
        }
        let after = disk.crash(seed + 2);
        let (ids, report) = read_back(&after, &LogFloor::default());
        assert!(report.is_clean() && report.frames_lost == 0, "seed {seed}: {report:?}");
        assert!((0..synced).all(|id| ids.contains(&id)), "seed {seed}: {synced} were synced, {ids:?} {report:?}");
        assert!(ids.windows(2).all(|w| w[0] < w[1]) && ids.iter().all(|id| *id < count), "seed {seed}: {ids:?}");
        holes += report.torn.len();
        // A start after it, another power loss: the old tail is still no damage.
        drop(log);
        let log = Harness::open(after.clone(), interval.clone(), &LogFloor::default());
        for id in 1000..1003 {
            log.write(0, id, 30).unwrap();
        }
        let (_, report) = read_back(&after.crash(seed / 3), &LogFloor::default());
        assert!(report.is_clean() && report.frames_lost == 0, "seed {seed}: {report:?}");
    }
    assert!(holes > 20, "{holes}");
    row.passed(format_args!("{seeds} states"), 0);
}

/// Damage to what a sync covered is told from holes that a power loss left, with an interval too.
#[test]
fn damage_below_a_sync_is_damage_with_an_interval_too() {
    let disk = MemoryDisk::new();
    let interval = LogOptions { durability: Durability::Interval(1), ..options(1) };
    let log = Harness::open(disk.clone(), interval, &LogFloor::default());
    log.write(0, 0, 40).unwrap();
    while log.log.figures().syncs() == 0 {
        thread::yield_now();
    }
    log.write(0, 1, 40).unwrap();
    let mut bytes = disk.read(&file_of(1)).unwrap();
    bytes[SEGMENT_HEADER_BYTES + 30] ^= 1;
    let copy = disk.crash(1);
    copy.put(&file_of(1), bytes);
    let (_, report) = read_back(&copy, &LogFloor::default());
    assert_eq!(report.frames_lost, 1, "{report:?}");
    assert!(!report.is_clean());
}

#[test]
fn random_faults_never_cost_an_acknowledged_entry() {
    for seed in 0..150 {
        let memory = MemoryDisk::new();
        let disk = FaultyDisk::new(Arc::new(memory.clone()));
        disk.seed(seed, 12);
        let mut ledger = Ledger::default();
        for life in 0..4 {
            live(disk.clone(), life * 100, &mut ledger);
        }
        for crash in 0..6 {
            check(&memory.crash(crash), &ledger, &format!("seed {seed} crash {crash}"));
        }
    }
}
