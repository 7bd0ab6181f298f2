//! Snapshots: consistent, openable, whole or not there.

use std::sync::Arc;

use quiver_model::Matcher;
use quiver_persistence::disk::{FaultAction, FaultRule};
use quiver_persistence::{Disk, DiskErrorKind, DiskOp, FaultyDisk, MemoryDisk};

use super::oracle::{assert_same_samples, contents};
use super::store::{block_on, open, options, write};
use crate::memory::MemoryStore;
use crate::testing::batch_of;
use crate::{Maintain, OfflineStore, ReadError, Source, Store, TimeRange};

/// The files of a snapshot as a disk of its own.
fn alone(disk: &MemoryDisk, name: &str) -> MemoryDisk {
    let out = MemoryDisk::new();
    for dir in ["", "blocks"] {
        let folder = quiver_persistence::disk::join(&format!("snapshots/{name}"), dir);
        let folder = folder.trim_end_matches('/');
        for file in disk.list(folder).unwrap() {
            let path = quiver_persistence::disk::join(dir, &file);
            out.put(&path, disk.read(&format!("{folder}/{file}")).unwrap());
        }
    }
    out
}

#[test]
fn a_snapshot_is_the_data_of_its_moment() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let oracle = MemoryStore::new();
    let both = |b| {
        oracle.write_now(&b).unwrap();
        write(&store, &b).unwrap();
    };
    both(batch_of(&[("m0", &[(1, 1.0), (2, 2.0)]), ("m1", &[(1, 1.0)])]));
    block_on(store.flush()).unwrap();
    let selectors = vec![vec![Matcher::equal("__name__", "m1")]];
    oracle.delete_now(&selectors, TimeRange::ALL);
    block_on(store.delete(selectors, TimeRange::ALL)).unwrap();
    both(batch_of(&[("m2", &[(3, 1.0)])]));
    let used = disk.used_bytes();
    block_on(store.create_snapshot("one".into(), false)).unwrap();
    let _ = used;
    let want = oracle.snapshot();
    both(batch_of(&[("m0", &[(9, 9.0)])]));
    block_on(store.compact()).unwrap();
    block_on(store.clean_tombstones()).unwrap();
    let copy = alone(&disk, "one");
    assert_same_samples(&*OfflineStore::data_folder(Arc::new(copy.clone())).unwrap().snapshot(), &*want);
    // It is a data folder like any other.
    let opened = open(&copy);
    assert_same_samples(&*opened.snapshot(), &*want);
    write(&opened, &batch_of(&[("m0", &[(7, 7.0)])])).unwrap();
    block_on(opened.compact()).unwrap();
    // Without the head.
    both(batch_of(&[("m3", &[(3, 1.0)])]));
    block_on(store.create_snapshot("two".into(), true)).unwrap();
    let two = OfflineStore::data_folder(Arc::new(alone(&disk, "two"))).unwrap();
    assert!(contents(&*two.snapshot(), &[Matcher::equal("__name__", "m3")], TimeRange::ALL).is_empty());
    let files = store.snapshot_files("one").unwrap();
    assert_eq!(files.last().unwrap().path, "MANIFEST");
    for f in &files {
        let bytes = store.snapshot_read("one", &f.path, 0, usize::MAX).unwrap();
        assert_eq!((bytes.len() as u64, quiver_persistence::crc32c(&bytes)), (f.bytes, f.crc32c));
    }
    store.remove_snapshot("one").unwrap();
    assert!(matches!(store.snapshot_files("one"), Err(ReadError::NotFound { .. })));
    assert_eq!(disk.list_dirs("snapshots").unwrap(), ["two"]);
}

#[test]
fn names_that_are_none_are_refused() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    for name in ["", ".", "..", "a/b", "../x", "a\\b", "a\0b", ".hidden", "/etc", "ä", &"x".repeat(129)] {
        let made = block_on(store.create_snapshot(name.to_owned(), false));
        assert!(matches!(made, Err(ReadError::NotFound { .. })), "{name:?}");
        assert!(store.snapshot_files(name).is_err() && store.remove_snapshot(name).is_err());
    }
    block_on(store.create_snapshot("good-1.x_Y".into(), false)).unwrap();
    for path in ["LOCK", "../../LOCK", "blocks/../../../LOCK", "blocks", "/etc/passwd", "blocks/a/b"] {
        assert!(store.snapshot_read("good-1.x_Y", path, 0, 10).is_err(), "{path}");
    }
    assert!(block_on(store.create_snapshot("good-1.x_Y".into(), false)).is_err(), "there already");
    assert!(store.snapshot_files("good-1.x_Y").is_ok());
}

#[test]
fn power_loss_leaves_a_snapshot_whole_or_none() {
    let script = |disk: &MemoryDisk, ops: u64| -> bool {
        disk.halt_after(ops);
        let Ok(store) = Store::open(Arc::new(disk.clone()), options()) else { return false };
        store.wait_until_ready();
        let _ = write(&store, &batch_of(&[("a", &[(1, 1.0)])]));
        block_on(store.create_snapshot("s".into(), false)).is_ok()
    };
    let whole = MemoryDisk::new();
    assert!(script(&whole, u64::MAX));
    for n in 0..whole.ops() {
        let disk = MemoryDisk::new();
        let made = script(&disk, n);
        for seed in 0..4 {
            let after = disk.crash(seed * (n + 1));
            let store = open(&after);
            let there = store.snapshot_files("s").is_ok();
            assert!(there || !made, "{n}, seed {seed}");
            if there {
                let copy = OfflineStore::data_folder(Arc::new(alone(&after, "s"))).unwrap();
                let have = contents(&*copy.snapshot(), &[], TimeRange::ALL);
                assert_eq!(have.len(), 1, "{n}, seed {seed}");
            } else if after.exists("snapshots/s").unwrap() {
                // At most an empty folder, or one that never had its mark made durable.
                let names = after.list("snapshots/s").unwrap();
                assert!(names.iter().all(|n| n.is_empty()), "{n}, seed {seed}: {names:?}");
            }
        }
    }
}

#[test]
fn a_snapshot_that_fails_leaves_nothing() {
    for op in [DiskOp::Create, DiskOp::Write, DiskOp::Sync, DiskOp::Rename, DiskOp::SyncDir, DiskOp::CreateDir] {
        let inner = MemoryDisk::new();
        let disk = Arc::new(FaultyDisk::new(Arc::new(inner.clone())));
        let store = Store::open(disk.clone(), options()).unwrap();
        write(&store, &batch_of(&[("a", &[(1, 1.0)])])).unwrap();
        block_on(store.flush()).unwrap();
        disk.push(FaultRule::new(op, FaultAction::Fail(DiskErrorKind::Full)).on("snapshots").times(1));
        assert!(block_on(store.create_snapshot("s".into(), false)).is_err(), "{op}");
        assert!(store.snapshot_files("s").is_err(), "{op}");
        block_on(store.create_snapshot("t".into(), false)).unwrap();
        assert_eq!(store.snapshot_files("t").unwrap().len(), 2, "{op}");
    }
}

#[test]
fn a_start_does_not_put_blocks_away_that_no_manifest_names() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    write(&store, &batch_of(&[("a", &[(1, 1.0)])])).unwrap();
    block_on(store.flush()).unwrap();
    store.close();
    drop(store);
    let name = disk.list("blocks").unwrap()[0].clone();
    let bytes = disk.read(&format!("blocks/{name}")).unwrap();
    disk.remove("MANIFEST").unwrap();
    disk.remove("MANIFEST.copy").unwrap();
    let refused = Store::open(Arc::new(disk.clone()), options()).err().unwrap().to_string();
    assert!(refused.contains("check --repair"), "{refused}");
    assert_eq!(disk.read(&format!("blocks/{name}")).unwrap(), bytes);
    // What a crash leaves of a first flush is put away: the log has what is in it.
    let disk = MemoryDisk::new();
    write(&open(&disk), &batch_of(&[("a", &[(1, 1.0)])])).unwrap();
    disk.create_dir("blocks").unwrap();
    disk.put("blocks/0000000000000001.block", bytes.clone());
    let store = open(&disk);
    assert_eq!(store.stats(0).blocks, 0);
    assert_eq!(disk.read("quarantine/0000000000000001.block").unwrap(), bytes);
}
