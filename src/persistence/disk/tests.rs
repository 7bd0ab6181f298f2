//! The contract of [`Disk`], held by all three implementations; power loss; faults.

use std::sync::Arc;

use super::*;

fn contract(disk: &dyn Disk) {
    assert!(disk.list("logs").is_err_and(|e| e.is_not_found()));
    assert!(disk.create("logs/a").is_err_and(|e| e.is_not_found()), "a folder has to be made first");
    disk.create_dir("logs/deep").unwrap();
    disk.create_dir("logs/deep").unwrap();
    let mut file = disk.create("logs/a").unwrap();
    file.write_all(b"hello ").unwrap();
    file.write_all(b"world").unwrap();
    file.sync_data().unwrap();
    assert_eq!(file.len().unwrap(), 11);
    disk.sync_dir("logs").unwrap();
    assert_eq!(disk.read("logs/a").unwrap(), b"hello world");
    assert_eq!(disk.read_at("logs/a", 6, 100).unwrap(), b"world");
    assert_eq!(disk.read_at("logs/a", 50, 1).unwrap(), b"");
    assert_eq!(&*disk.map("logs/a").unwrap(), b"hello world");
    file.truncate(5).unwrap();
    file.write_all(b"!").unwrap();
    drop(file);
    let mut file = disk.open_append("logs/a").unwrap();
    file.write_all(b"?").unwrap();
    assert_eq!(disk.read("logs/a").unwrap(), b"hello!?");
    disk.truncate("logs/a", 4).unwrap();
    assert_eq!(disk.len("logs/a").unwrap(), 4);
    disk.create("logs/b").unwrap().write_all(b"b").unwrap();
    assert_eq!(disk.list("logs").unwrap(), ["a", "b"]);
    assert_eq!(disk.list_dirs("logs").unwrap(), ["deep"]);
    disk.rename("logs/b", "logs/a").unwrap();
    assert_eq!(disk.read("logs/a").unwrap(), b"b");
    assert_eq!(disk.list("logs").unwrap(), ["a"]);
    assert!(!disk.exists("logs/b").unwrap() && disk.exists("logs/a").unwrap() && disk.exists("logs").unwrap());
    assert_eq!(disk.create("logs/a").unwrap().len().unwrap(), 0, "create empties");
    assert_eq!(&*disk.map("logs/a").unwrap(), b"");
    disk.remove("logs/a").unwrap();
    assert!(disk.remove("logs/a").is_err_and(|e| e.is_not_found()));
    assert!(disk.open_read("logs/a").is_err_and(|e| e.is_not_found()));
    disk.remove_dir("logs/deep").unwrap();
    assert!(disk.free_bytes().unwrap() > 0);
    for path in ["../x", "/etc/passwd", "a//b", "a/../b", "", ".", "a\0b", "logs/.."] {
        let e = disk.create(path).unwrap_err();
        assert_eq!(e.kind, DiskErrorKind::Invalid, "{path:?}: {e}");
    }
    let held = disk.lock("").unwrap();
    let e = disk.lock("").unwrap_err();
    assert!(matches!(e.kind, DiskErrorKind::Locked(_)), "{e}");
    assert!(e.text.contains("in use"), "{e}");
    drop(held);
    disk.lock("").unwrap();
}

#[test]
fn all_disks_keep_the_contract() {
    contract(&MemoryDisk::new());
    contract(&FaultyDisk::new(Arc::new(MemoryDisk::new())));
    let dir = tempfile::tempdir().unwrap();
    contract(&RealDisk::create(dir.path().join("data")).unwrap());
    let plain = RealDisk::create(dir.path().join("plain")).unwrap();
    plain.set_mapping(false);
    contract(&plain);
}

#[test]
fn a_held_folder_is_named_with_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::create(dir.path()).unwrap();
    let _held = disk.lock("").unwrap();
    let e = RealDisk::open(dir.path()).unwrap().lock("").unwrap_err();
    assert!(e.text.contains(&dir.path().display().to_string()), "{e}");
    assert!(e.text.contains(&std::process::id().to_string()), "{e}");
}

#[test]
fn a_missing_root_is_made_by_create_and_refused_by_open() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a/b");
    assert!(RealDisk::open(&root).is_err_and(|e| e.is_not_found()));
    RealDisk::create(&root).unwrap();
    RealDisk::open(&root).unwrap();
}

#[test]
fn a_crash_keeps_synced_bytes_and_any_part_of_the_rest() {
    let disk = MemoryDisk::new();
    let mut file = disk.create("a").unwrap();
    file.write_all(&[1; 1000]).unwrap();
    file.sync_data().unwrap();
    assert!(!disk.crash(0).exists("a").unwrap(), "the name was not synced");
    assert!(disk.crash(1).exists("a").unwrap());
    disk.sync_dir("").unwrap();
    file.write_all(&[2; 2000]).unwrap();
    assert_eq!(disk.crash(0).len("a").unwrap(), 1000);
    assert_eq!(disk.crash(1).len("a").unwrap(), 3000);
    let mut lengths = std::collections::BTreeSet::new();
    let mut saw_hole = false;
    for seed in 2..200 {
        let bytes = disk.crash(seed).read("a").unwrap();
        assert_eq!(bytes[..1000], [1; 1000]);
        assert!(bytes[1000..].iter().all(|b| *b == 2 || *b == 0));
        saw_hole |= bytes[1000..].windows(2).any(|w| w == [0, 2]);
        lengths.insert(bytes.len());
    }
    assert!(lengths.len() > 10 && saw_hole);
}

#[test]
fn a_crash_forgets_names_that_were_not_synced() {
    let disk = MemoryDisk::new();
    for (name, byte) in [("a", 1), ("b", 2)] {
        let mut file = disk.create(name).unwrap();
        file.write_all(&[byte]).unwrap();
        file.sync_data().unwrap();
    }
    disk.sync_dir("").unwrap();
    disk.rename("b", "a").unwrap();
    disk.remove("a").unwrap();
    let before = disk.crash(0);
    assert_eq!((before.read("a").unwrap(), before.read("b").unwrap()), (vec![1], vec![2]));
    assert!(disk.crash(1).list("").unwrap().is_empty());
    disk.sync_dir("").unwrap();
    assert!(disk.crash(0).list("").unwrap().is_empty());
}

#[test]
fn a_halted_disk_changes_no_more() {
    let disk = MemoryDisk::new();
    disk.halt_after(2);
    let mut file = disk.create("a").unwrap();
    file.write_all(b"x").unwrap();
    assert!(file.sync_data().is_err());
    assert!(file.write_all(b"y").is_err());
    assert_eq!(disk.read("a").unwrap(), b"x");
}

#[test]
fn a_full_memory_disk_says_so_and_heals() {
    let disk = MemoryDisk::new();
    disk.set_capacity(10);
    let mut file = disk.create("a").unwrap();
    file.write_all(&[0; 8]).unwrap();
    assert!(file.write_all(&[0; 8]).is_err_and(|e| e.is_full()));
    assert_eq!(file.len().unwrap(), 10, "half of it is there");
    disk.set_capacity(100);
    file.write_all(&[0; 8]).unwrap();
}

#[test]
fn faults_strike_by_script() {
    let memory = MemoryDisk::new();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    disk.push(FaultRule::new(DiskOp::Write, FaultAction::Half(DiskErrorKind::Full)).on("a").after(1).times(1));
    disk.push(FaultRule::new(DiskOp::Sync, FaultAction::Fail(DiskErrorKind::Media)).times(1));
    let mut file = disk.create("a").unwrap();
    disk.sync_dir("").unwrap();
    disk.create("b").unwrap().write_all(b"1234").unwrap();
    file.write_all(b"1234").unwrap();
    assert!(file.write_all(b"5678").is_err_and(|e| e.is_full()));
    assert_eq!(memory.read("a").unwrap(), b"123456");
    assert!(file.sync_data().is_err_and(|e| e.kind == DiskErrorKind::Media));
    file.sync_data().unwrap();
    assert_eq!(memory.crash(0).read("a").unwrap(), b"", "a sync after a failed one brings nothing back");
    assert_eq!(disk.hits(), 2);
}

#[test]
fn a_gate_holds_an_operation() {
    let disk = FaultyDisk::new(Arc::new(MemoryDisk::new()));
    let gate = Gate::new();
    disk.push(FaultRule::new(DiskOp::Sync, FaultAction::Wait(gate.clone())).times(1));
    let mut file = disk.create("a").unwrap();
    let thread = std::thread::spawn(move || file.sync_data());
    gate.wait_for_arrival();
    assert!(!thread.is_finished());
    gate.open();
    thread.join().unwrap().unwrap();
}
