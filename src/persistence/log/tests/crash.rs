//! Power loss at every operation of a life of writes, rotations and truncations.

use super::*;
use crate::disk::FaultyDisk;

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
    for halt in 0..ops + 4 {
        let disk = MemoryDisk::new();
        disk.halt_after(halt);
        let mut ledger = Ledger::default();
        live(disk.clone(), 0, &mut ledger);
        for seed in 0..12 {
            let what = format!("halt {halt} seed {seed}");
            let after = disk.crash(seed);
            check(&after, &ledger, &what);
            // A second life on what is left, ended by another power loss.
            let mut second = ledger.clone();
            after.halt_after(5 + halt * 7 % 60);
            live(after.clone(), 1000, &mut second);
            check(&after.crash(seed / 2), &second, &what);
            check(&after.crash(seed + 100), &second, &what);
        }
    }
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
