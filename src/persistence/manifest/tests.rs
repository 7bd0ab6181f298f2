//! The store over a disk that loses its power, fails, or rots.

use super::*;
use crate::disk::{DiskErrorKind, DiskOp, FaultAction, FaultRule, FaultyDisk, MemoryDisk};

fn entry(id: u64) -> ManifestEntry {
    ManifestEntry { id, file: format!("blocks/{id}"), bytes: 3, ..ManifestEntry::default() }
}

fn open(disk: &MemoryDisk) -> ManifestStore {
    ManifestStore::open(Arc::new(disk.clone()), "meta").unwrap()
}

fn new_disk() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir("meta").unwrap();
    disk
}

#[test]
fn edits_are_there_after_a_reopen() {
    let disk = new_disk();
    let store = open(&disk);
    assert_eq!(*store.current(), Manifest::default());
    store
        .edit(|m| {
            let (a, b) = (m.take_id(), m.take_id());
            m.replace(&[], vec![entry(a), entry(b)]);
        })
        .unwrap();
    store.edit(|m| m.replace(&[1, 2], vec![entry(9)])).unwrap();
    let again = open(&disk);
    assert_eq!(again.current(), store.current());
    assert!(again.is_certain());
    let now = again.current();
    assert_eq!((now.generation, now.id_next, now.entries.len()), (2, 10, 1));
    assert!(now.entry(9).is_some() && now.entry(1).is_none());
}

#[test]
fn a_crash_at_any_operation_gives_the_state_before_or_after() {
    for halt in 0..40 {
        let disk = new_disk();
        let store = open(&disk);
        store.edit(|m| m.replace(&[], vec![entry(1)])).unwrap();
        disk.halt_after(halt);
        let mut done = 1;
        while store.edit(|m| m.replace(&[], vec![entry(100 + m.generation)])).is_ok() {
            done += 1;
        }
        for seed in 0..40 {
            let after = disk.crash(seed);
            let store = open(&after);
            let found = store.current().generation;
            assert!(found == done || found == done + 1, "halt {halt} seed {seed}: {found}, {done} done");
            assert_eq!(store.current().entries.len() as u64, found);
            assert!(store.is_certain());
            store.repair().unwrap();
            store.edit(|m| m.replace(&[], vec![entry(500)])).unwrap();
            assert_eq!(after.list("meta").unwrap(), [MANIFEST_FILE, MANIFEST_COPY_FILE]);
            assert_eq!(open(&after.crash(0)).current().generation, found + 1);
        }
    }
}

#[test]
fn rot_in_one_copy_costs_nothing() {
    for (rotten, is_certain) in [(MANIFEST_FILE, false), (MANIFEST_COPY_FILE, true)] {
        for damage in 0..3 {
            let disk = new_disk();
            let store = open(&disk);
            for id in 1..5 {
                store.edit(|m| m.replace(&[], vec![entry(id)])).unwrap();
            }
            let path = join("meta", rotten);
            let mut bytes = disk.read(&path).unwrap();
            match damage {
                0 => {
                    let at = bytes.len() - 3;
                    bytes[at] ^= 4;
                    disk.put(&path, bytes);
                }
                1 => disk.put(&path, Vec::new()),
                _ => disk.remove(&path).unwrap(),
            }
            let again = open(&disk);
            assert_eq!(again.current().entries, store.current().entries);
            assert_eq!(again.is_certain(), is_certain, "{rotten} {damage}");
            again.repair().unwrap();
            let healed = open(&disk);
            assert_eq!(healed.current(), again.current());
            assert_eq!(healed.is_certain(), is_certain, "it is not forgotten");
            healed.edit(|m| m.replace(&[], vec![entry(9)])).unwrap();
            assert_eq!(open(&disk).is_certain(), is_certain);
            healed.accept().unwrap();
            assert!(healed.is_certain() && open(&disk).is_certain());
            assert_eq!(open(&disk).current().entries.len(), 5);
        }
    }
}

#[test]
fn both_copies_rotten_is_an_error_and_not_an_empty_store() {
    let disk = new_disk();
    open(&disk).edit(|m| m.replace(&[], vec![entry(1)])).unwrap();
    disk.put("meta/MANIFEST", b"rubbish".to_vec());
    disk.put("meta/MANIFEST.copy", Vec::new());
    let e = ManifestStore::open(Arc::new(disk.clone()), "meta").unwrap_err();
    assert!(matches!(e, ManifestError::Damaged { .. }), "{e}");
    disk.remove("meta/MANIFEST.copy").unwrap();
    assert!(ManifestStore::open(Arc::new(disk), "meta").is_err());
}

#[test]
fn a_newer_version_is_refused_and_left_alone() {
    let disk = new_disk();
    open(&disk).edit(|m| m.replace(&[], vec![entry(1)])).unwrap();
    let crc = crate::crc32c_salted(b"quiver manifest 3", b"{}");
    let newer = format!("quiver manifest 3 crc32c {crc:08x} bytes 2\n{{}}").into_bytes();
    disk.put("meta/MANIFEST", newer.clone());
    let ops = disk.ops();
    let e = ManifestStore::open(Arc::new(disk.clone()), "meta").unwrap_err();
    assert!(e.to_string().contains("newer version"), "{e}");
    assert_eq!((disk.ops(), disk.read("meta/MANIFEST").unwrap()), (ops, newer));
}

#[test]
fn a_full_disk_fails_the_edit_and_keeps_the_state() {
    let memory = new_disk();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    let store = ManifestStore::open(Arc::new(disk.clone()), "meta").unwrap();
    store.edit(|m| m.replace(&[], vec![entry(1)])).unwrap();
    let before = store.current();
    disk.push(FaultRule::new(DiskOp::Write, FaultAction::Half(DiskErrorKind::Full)));
    let e = store.edit(|m| m.replace(&[], vec![entry(2)])).unwrap_err();
    assert!(e.is_full(), "{e}");
    assert_eq!(store.current(), before);
    assert_eq!(open(&memory).current(), before);
    assert!(!memory.exists("meta/MANIFEST.tmp").unwrap());
    disk.clear();
    store.edit(|m| m.replace(&[], vec![entry(2)])).unwrap();
    assert_eq!(open(&memory).current().entries.len(), 2);
}

#[test]
fn orphans_and_missing_files_are_listed() {
    let disk = new_disk();
    disk.put("blocks/1", b"abc".to_vec());
    disk.put("blocks/2", b"a".to_vec());
    disk.put("blocks/7.tmp", b"abc".to_vec());
    let store = open(&disk);
    store.edit(|m| m.replace(&[], vec![entry(1), entry(2), entry(3)])).unwrap();
    assert_eq!(store.orphans("blocks").unwrap(), ["blocks/7.tmp"]);
    let missing: Vec<u64> = store.missing().unwrap().iter().map(|e| e.id).collect();
    assert_eq!(missing, [2, 3], "one is short, one is not there");
}

#[test]
fn failing_syncs_never_publish_a_mixture() {
    for seed in 0..60 {
        let memory = new_disk();
        let disk = FaultyDisk::new(Arc::new(memory.clone()));
        let store = ManifestStore::open(Arc::new(disk.clone()), "meta").unwrap();
        disk.seed(seed, 6);
        let mut acked = 0;
        for id in 1..30 {
            if store.edit(|m| m.replace(&[], vec![entry(id)])).is_ok() {
                acked = store.current().generation;
            } else {
                // What an edit that failed leaves behind is open, until the next start.
                break;
            }
        }
        for crash in 0..10 {
            let found = open(&memory.crash(crash)).current();
            assert!(found.generation == acked || found.generation == acked + 1, "seed {seed} crash {crash}");
            assert_eq!(found.entries.len() as u64, found.generation);
        }
    }
}
