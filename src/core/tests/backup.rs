//! Backups: incremental, whole or as before, and back again.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use quiver_model::Matcher;
use quiver_persistence::disk::{FaultAction, FaultRule, Gate};
use quiver_persistence::remote::{FaultyObjects, FolderObjects, ObjectFault, ObjectOp, Objects};
use quiver_persistence::{Disk, DiskErrorKind, DiskOp, FaultyDisk, ManifestStore, MemoryDisk};

use super::oracle::assert_same;
use super::store::{block_on, open, write};
use crate::backup::{Backup, BackupError, BackupReport, RestoreReport, restore_on, restore_remote};
use crate::memory::MemoryStore;
use crate::testing::batch_of;
use crate::{Maintain, OfflineStore, Source, TimeRange};

fn back_up(source: &MemoryDisk, out: &MemoryDisk) -> Result<BackupReport, BackupError> {
    Backup::on(Arc::new(out.clone()))?.of_disk(Arc::new(source.clone()), true, 7, &AtomicU64::new(0), &|_| ())
}

fn restored(from: &MemoryDisk, to: &MemoryDisk) -> Result<RestoreReport, BackupError> {
    restore_on(Arc::new(from.clone()), Arc::new(to.clone()), false, &AtomicU64::new(0), &|_| ())
}

fn same(disk: &MemoryDisk, oracle: &MemoryStore) {
    let opened = OfflineStore::data_folder(Arc::new(disk.clone())).unwrap();
    assert_same(&*opened.snapshot(), &*oracle.snapshot());
}

/// Writes a batch as block `k` (or leaves it in the log).
fn step(disk: &MemoryDisk, oracle: &MemoryStore, k: i64, flush: bool) {
    let store = open(disk);
    let batch = batch_of(&[("m0", &[(k, 1.0)]), ("m1", &[(k * 1000, k as f64)])]);
    oracle.write_now(&batch).unwrap();
    write(&store, &batch).unwrap();
    if flush {
        block_on(store.flush()).unwrap();
    }
    store.close();
}

/// Of a folder that may be read and not locked a server may flush: what it took from the log is in no block that was seen.
#[test]
fn a_copy_of_a_folder_that_changes_meanwhile_is_refused() {
    for restores in [false, true] {
        let inner = MemoryDisk::new();
        let store = open(&inner);
        write(&store, &batch_of(&[("m", &[(1, 1.0)])])).unwrap();
        block_on(store.flush()).unwrap();
        write(&store, &batch_of(&[("m", &[(2, 2.0)])])).unwrap();
        let disk = Arc::new(FaultyDisk::new(Arc::new(inner.clone())));
        disk.push(FaultRule::new(DiskOp::Lock, FaultAction::Fail(DiskErrorKind::Denied)));
        let gate = Gate::new();
        disk.push(FaultRule::new(DiskOp::List, FaultAction::Wait(gate.clone())).on("log").times(1));
        let out = Arc::new(MemoryDisk::new());
        let copied = || match restores {
            false => Backup::on(out.clone())
                .unwrap()
                .of_disk(disk.clone(), true, 7, &AtomicU64::new(0), &|_| ())
                .map(|r| r.blocks),
            true => restore_on(disk.clone(), out.clone(), false, &AtomicU64::new(0), &|_| ()).map(|r| r.blocks),
        };
        let refused = std::thread::scope(|scope| {
            let copying = scope.spawn(copied);
            gate.wait_for_arrival();
            block_on(store.flush()).unwrap();
            gate.open();
            copying.join().unwrap()
        });
        assert!(matches!(&refused, Err(BackupError::Refused(why)) if why.contains("during the copy")), "{refused:?}");
        let done = match restores {
            false => copied(),
            true => restore_on(disk.clone(), Arc::new(MemoryDisk::new()), false, &AtomicU64::new(0), &|_| ())
                .map(|r| r.blocks),
        };
        assert_eq!(done.unwrap(), 2, "left alone it is copied");
    }
}

/// What an earlier backup holds of a log does not give way to less of it.
#[test]
fn a_damaged_log_does_not_take_the_place_of_its_backup() {
    let (disk, out) = (MemoryDisk::new(), MemoryDisk::new());
    let oracle = MemoryStore::new();
    step(&disk, &oracle, 1, true);
    let store = open(&disk);
    for t in 2..12 {
        let batch = batch_of(&[("m0", &[(t, 1.0)])]);
        oracle.write_now(&batch).unwrap();
        write(&store, &batch).unwrap();
    }
    store.close();
    back_up(&disk, &out).unwrap();
    same(&out, &oracle);
    // A bit of a frame in the middle: that is no torn tail.
    let segments = disk.list("log").unwrap().into_iter().map(|name| format!("log/{name}"));
    let path = segments.max_by_key(|path| disk.len(path).unwrap()).unwrap();
    let mut bytes = disk.read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    disk.put(&path, bytes);
    let refused = back_up(&disk, &out).unwrap_err();
    assert!(matches!(&refused, BackupError::Refused(why) if why.contains("is damaged")), "{refused}");
    same(&out, &oracle);
}

#[test]
fn a_backup_is_brought_up_to_date_and_restored() {
    let (disk, out) = (MemoryDisk::new(), MemoryDisk::new());
    let oracle = MemoryStore::new();
    step(&disk, &oracle, 1, true);
    step(&disk, &oracle, 2, true);
    let first = back_up(&disk, &out).unwrap();
    assert_eq!((first.blocks, first.copied, first.pruned), (2, 2, 0));
    same(&out, &oracle);
    // The log is in it, too.
    step(&disk, &oracle, 3, true);
    step(&disk, &oracle, 4, false);
    let before = disk.ops();
    let second = back_up(&disk, &out).unwrap();
    assert_eq!((second.blocks, second.copied, second.pruned), (4, 1, 0));
    assert_eq!(disk.ops(), before, "the source is only read");
    same(&out, &oracle);
    let again = back_up(&disk, &out).unwrap();
    assert_eq!((again.blocks, again.copied, again.pruned), (4, 0, 0));
    // A block of the backup rots: it is copied again.
    let rotten = format!("blocks/{}", out.list("blocks").unwrap()[0]);
    let mut bytes = out.read(&rotten).unwrap();
    bytes[40] ^= 1;
    out.put(&rotten, bytes);
    assert!(matches!(restored(&out, &MemoryDisk::new()), Err(BackupError::Io(_))), "a restore notices");
    assert_eq!(back_up(&disk, &out).unwrap().copied, 1);
    // Deletions and merges: what is no longer needed goes.
    let store = open(&disk);
    let selectors = vec![vec![Matcher::equal("__name__", "m1")]];
    oracle.delete_now(&selectors, TimeRange { min: 0, max: 1500 });
    block_on(store.delete(selectors, TimeRange { min: 0, max: 1500 })).unwrap();
    store.close();
    drop(store);
    back_up(&disk, &out).unwrap();
    let store = open(&disk);
    block_on(store.compact()).unwrap();
    store.close();
    drop(store);
    let merged = back_up(&disk, &out).unwrap();
    assert_eq!((merged.blocks, merged.copied), (1, 1));
    assert!(merged.pruned >= 4, "{merged:?}");
    assert_eq!(out.list("blocks").unwrap().len(), 1);
    let target = MemoryDisk::new();
    assert_eq!(restored(&out, &target).unwrap().blocks, 1);
    same(&target, &oracle);
    let store = open(&target);
    write(&store, &batch_of(&[("m0", &[(99, 1.0)])])).unwrap();
    block_on(store.compact()).unwrap();
}

#[test]
fn folders_of_something_else_are_left_alone() {
    let (disk, oracle) = (MemoryDisk::new(), MemoryStore::new());
    step(&disk, &oracle, 1, true);
    let out = MemoryDisk::new();
    back_up(&disk, &out).unwrap();
    let refused = |r: Result<BackupReport, BackupError>| matches!(r, Err(BackupError::Refused(_)));
    let other = MemoryDisk::new();
    other.put("holiday.jpg", vec![1]);
    assert!(refused(back_up(&disk, &other)));
    assert!(refused(back_up(&out, &disk)), "a data folder is no backup");
    // A server wrote to the backup.
    let served = out.crash(1);
    step(&served, &MemoryStore::new(), 5, false);
    assert!(refused(back_up(&disk, &served)));
    // A restore needs an empty folder, or moves what is there aside.
    assert!(matches!(restored(&out, &disk), Err(BackupError::Refused(_))));
    same(&disk, &oracle);
    let names = disk.list("blocks").unwrap();
    let aside = restore_on(Arc::new(out.clone()), Arc::new(disk.clone()), true, &AtomicU64::new(0), &|_| ());
    let _ = names;
    match aside {
        Ok(report) => assert_eq!(report.set_aside.as_deref(), Some("quarantine/before-restore-1")),
        // The memory disk has no renaming of folders: nothing is lost by the attempt.
        Err(_) => assert!(disk.exists("quarantine/before-restore-1").unwrap()),
    }
    assert!(matches!(restored(&MemoryDisk::new(), &MemoryDisk::new()), Err(BackupError::Refused(_))));
    let open = open(&out.crash(1));
    drop(open);
}

#[test]
fn a_folder_that_goes_on_is_not_taken_for_another() {
    let (disk, out, oracle) = (MemoryDisk::new(), MemoryDisk::new(), MemoryStore::new());
    step(&disk, &oracle, 1, true);
    step(&disk, &oracle, 2, false);
    // What an attempt that was cut off has left goes.
    out.put("blocks/0000000000000002.head.tmp", vec![1]);
    // The log becomes block 2 of the backup; a server says less of itself, and writes another block 2 later.
    back_up(&disk, &out).unwrap();
    assert!(out.list("blocks").unwrap().iter().all(|f| f.ends_with(".block")));
    same(&out, &oracle);
    let manifest = ManifestStore::open(Arc::new(disk.clone()), "").unwrap().current();
    Backup::on(Arc::new(out.clone())).unwrap().plan(&manifest, |_| Ok(0)).unwrap();
    step(&disk, &oracle, 3, true);
    back_up(&disk, &out).unwrap();
    for k in [4, 5] {
        step(&disk, &oracle, k, false);
        back_up(&disk, &out).unwrap();
        back_up(&disk, &out).unwrap();
        same(&out, &oracle);
    }
    let store = open(&disk);
    block_on(store.compact()).unwrap();
    store.close();
    drop(store);
    back_up(&disk, &out).unwrap();
    // The disk is lost; the folder that was restored goes on, and so does the backup.
    let after = MemoryDisk::new();
    restored(&out, &after).unwrap();
    back_up(&after, &out).unwrap();
    step(&after, &oracle, 6, true);
    back_up(&after, &out).unwrap();
    same(&out, &oracle);
}

#[test]
fn a_server_that_began_anew_does_not_wipe_the_backup_of_what_was_lost() {
    let (disk, oracle) = (MemoryDisk::new(), MemoryStore::new());
    (1..5).for_each(|k| step(&disk, &oracle, k, true));
    let (out, away) = (MemoryDisk::new(), Away::on(MemoryDisk::new()));
    back_up(&disk, &out).unwrap();
    away.back_up(&disk).unwrap();
    let refused = |anew: &MemoryDisk, words: &[&str]| {
        for result in [back_up(anew, &out), away.back_up(anew)] {
            let e = result.unwrap_err();
            assert!(matches!(e, BackupError::Refused(_)), "{e}");
            let why = e.to_string();
            assert!(words.iter().all(|w| why.contains(w)) && why.contains("another --out"), "{why}");
        }
        same(&out, &oracle);
        away.same(&oracle);
    };
    let anew = MemoryDisk::new();
    step(&anew, &MemoryStore::new(), 90, true);
    refused(&anew, &["newer backup", "up to block 4; this folder has reached block 1"]);
    // It comes as far as the old one was.
    (91..97).for_each(|k| step(&anew, &MemoryStore::new(), k, true));
    refused(&anew, &["another folder", "block 1"]);
    // The old one goes on.
    step(&disk, &oracle, 5, true);
    back_up(&disk, &out).unwrap();
    same(&out, &oracle);
}

#[test]
fn power_loss_leaves_the_backup_of_before_or_the_new_one() {
    let disk = MemoryDisk::new();
    let (first, second) = (MemoryStore::new(), MemoryStore::new());
    step(&disk, &first, 1, true);
    let out = MemoryDisk::new();
    back_up(&disk, &out).unwrap();
    let b = batch_of(&[("m0", &[(1, 1.0)]), ("m1", &[(1000, 1.0)])]);
    second.write_now(&b).unwrap();
    step(&disk, &second, 2, true);
    let store = open(&disk);
    block_on(store.compact()).unwrap();
    store.close();
    drop(store);
    let old = out.crash(1);
    let whole = old.crash(1);
    let ops = {
        let before = whole.ops();
        back_up(&disk, &whole).unwrap();
        whole.ops() - before
    };
    for n in 0..ops {
        let halted = old.crash(1);
        halted.halt_after(n);
        let done = back_up(&disk, &halted).is_ok();
        for seed in 0..4 {
            let after = halted.crash(seed * (n + 1));
            let opened = OfflineStore::data_folder(Arc::new(after.clone())).unwrap();
            let max = opened.snapshot().time_bounds().unwrap().max;
            assert!(max == 2000 || (max == 1000 && !done), "{n} of {ops}, seed {seed}");
            same(&after, if max == 2000 { &second } else { &first });
            back_up(&disk, &after).unwrap();
            same(&after, &second);
        }
    }
}

#[test]
fn a_full_disk_leaves_the_backup_of_before() {
    let disk = MemoryDisk::new();
    let first = MemoryStore::new();
    step(&disk, &first, 1, true);
    let out = MemoryDisk::new();
    back_up(&disk, &out).unwrap();
    let later = MemoryStore::new();
    step(&disk, &later, 2, true);
    let faulty = FaultyDisk::new(Arc::new(out.clone()));
    faulty.push(FaultRule::new(DiskOp::Write, FaultAction::Half(DiskErrorKind::Full)));
    let full = Backup::on(Arc::new(faulty)).unwrap().of_disk(Arc::new(disk), false, 7, &AtomicU64::new(0), &|_| ());
    assert!(matches!(full, Err(BackupError::Io(_))));
    same(&out, &first);
    assert_eq!(out.list("blocks").unwrap().len(), 1);
}

/// A remote store in memory.
struct Away {
    disk: MemoryDisk,
    store: Arc<FaultyObjects>,
}

impl Away {
    fn on(disk: MemoryDisk) -> Self {
        let objects = FolderObjects::new(Arc::new(disk.clone()));
        Self { disk, store: Arc::new(FaultyObjects::new(Arc::new(objects))) }
    }

    fn objects(&self) -> Arc<dyn Objects> {
        Arc::clone(&self.store) as Arc<dyn Objects>
    }

    fn open(&self) -> Result<Backup, BackupError> {
        Backup::remote(self.objects(), Arc::new(MemoryDisk::new()), 7)
    }

    fn back_up(&self, source: &MemoryDisk) -> Result<BackupReport, BackupError> {
        fill(&self.open()?, source)
    }

    fn restored(&self, to: &MemoryDisk) -> Result<RestoreReport, BackupError> {
        restore_remote(self.objects(), Arc::new(to.clone()), false, &AtomicU64::new(0), &|_| ())
    }

    /// A restore of it is what the oracle has.
    fn same(&self, oracle: &MemoryStore) {
        let target = MemoryDisk::new();
        self.restored(&target).unwrap();
        same(&target, oracle);
    }
}

fn fill(backup: &Backup, source: &MemoryDisk) -> Result<BackupReport, BackupError> {
    backup.of_disk(Arc::new(source.clone()), true, 7, &AtomicU64::new(0), &|_| ())
}

#[test]
fn a_remote_backup_is_brought_up_to_date_and_restored() {
    let (disk, away, oracle) = (MemoryDisk::new(), Away::on(MemoryDisk::new()), MemoryStore::new());
    assert!(matches!(away.restored(&MemoryDisk::new()), Err(BackupError::Refused(_))));
    step(&disk, &oracle, 1, true);
    step(&disk, &oracle, 2, true);
    let first = away.back_up(&disk).unwrap();
    assert_eq!((first.blocks, first.copied, first.pruned), (2, 2, 0));
    away.same(&oracle);
    step(&disk, &oracle, 3, true);
    step(&disk, &oracle, 4, false);
    let second = away.back_up(&disk).unwrap();
    assert_eq!((second.blocks, second.copied, second.pruned), (4, 1, 0));
    away.same(&oracle);
    // A block of the backup rots: a restore notices, the next backup copies it again.
    let rotten = format!("blocks/{}", away.disk.list("blocks").unwrap()[0]);
    let mut bytes = away.disk.read(&rotten).unwrap();
    bytes[40] ^= 1;
    away.disk.put(&rotten, bytes);
    let target = MemoryDisk::new();
    assert!(matches!(away.restored(&target), Err(BackupError::Io(_))));
    assert!(target.list("blocks").unwrap().is_empty(), "nothing that is wrong is left");
    assert_eq!(away.back_up(&disk).unwrap().copied, 1);
    away.same(&oracle);
    // A bit that turns over on its way.
    away.store.fail(ObjectOp::Get, "blocks", ObjectFault::Flip, 1);
    assert!(matches!(away.restored(&MemoryDisk::new()), Err(BackupError::Io(_))));
    // Merged blocks take the place of those they are made of.
    let store = open(&disk);
    block_on(store.compact()).unwrap();
    store.close();
    drop(store);
    let merged = away.back_up(&disk).unwrap();
    assert_eq!((merged.blocks, merged.copied), (1, 1));
    assert!(merged.pruned >= 4, "{merged:?}");
    assert_eq!(away.disk.list("blocks").unwrap().len(), 1);
    away.same(&oracle);
}

#[test]
fn a_remote_backup_cut_off_anywhere_is_the_one_before_or_the_new_one() {
    let (disk, away) = (MemoryDisk::new(), Away::on(MemoryDisk::new()));
    let (first, second) = (MemoryStore::new(), MemoryStore::new());
    step(&disk, &first, 1, true);
    away.back_up(&disk).unwrap();
    second.write_now(&batch_of(&[("m0", &[(1, 1.0)]), ("m1", &[(1000, 1.0)])])).unwrap();
    step(&disk, &second, 2, true);
    step(&disk, &second, 3, false);
    let old = away.disk.crash(1);
    let whole = Away::on(old.crash(1));
    whole.back_up(&disk).unwrap();
    let ops = whole.store.ops();
    assert!(ops > 5, "{ops}");
    for n in 0..ops {
        let away = Away::on(old.crash(1));
        away.store.halt_after(n);
        let done = away.back_up(&disk).is_ok();
        // The process is gone, and the store has lost what it did not vouch for.
        let after = Away::on(away.disk.crash(n + 3));
        let target = MemoryDisk::new();
        after.restored(&target).unwrap();
        let opened = OfflineStore::data_folder(Arc::new(target.clone())).unwrap();
        let max = opened.snapshot().time_bounds().unwrap().max;
        assert!(max == 3000 || (max == 1000 && !done), "{n} of {ops}: {max}");
        same(&target, if max == 3000 { &second } else { &first });
        after.back_up(&disk).unwrap();
        after.same(&second);
    }
}

#[test]
fn of_two_remote_backups_at_once_one_stands() {
    let (disk, away, oracle) = (MemoryDisk::new(), Away::on(MemoryDisk::new()), MemoryStore::new());
    step(&disk, &oracle, 1, true);
    let slow = away.open().unwrap();
    let quick = away.open().unwrap();
    fill(&quick, &disk).unwrap();
    step(&disk, &oracle, 2, true);
    let refused = fill(&slow, &disk).unwrap_err();
    assert!(refused.to_string().contains("another backup"), "{refused}");
    // What the refused one has sent is taken over or written anew, never missed.
    away.back_up(&disk).unwrap();
    away.same(&oracle);
}

#[test]
fn stores_of_something_else_are_left_alone() {
    let (disk, oracle) = (MemoryDisk::new(), MemoryStore::new());
    step(&disk, &oracle, 1, true);
    // Where a server keeps its blocks.
    let far = super::tier::Far::new();
    let served = far.open(&MemoryDisk::new());
    super::tier::blocks(&served, 1, 3);
    block_on(served.tier()).unwrap();
    let before = far.disk.ops();
    let away = Away::on(far.disk.clone());
    assert!(matches!(away.back_up(&disk), Err(BackupError::Refused(_))));
    let why = away.restored(&MemoryDisk::new()).unwrap_err().to_string();
    assert!(why.contains("--tier-takeover"), "{why}");
    assert_eq!(far.disk.ops(), before);
    let holiday = MemoryDisk::new();
    holiday.put("blocks/holiday.jpg", vec![1]);
    assert!(matches!(Away::on(holiday).back_up(&disk), Err(BackupError::Refused(_))));
}
