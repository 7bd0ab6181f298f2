//! Checks find every damage, and a repair takes nothing away.

use std::sync::Arc;

use quiver_persistence::{Disk, MemoryDisk};

use super::store::{block_on, open, write};
use crate::check::{CheckReport, check_folder};
use crate::testing::batch_of;
use crate::{Maintain, Source, TimeRange};

fn filled() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    for t in [1_000, 2_000] {
        write(&store, &batch_of(&[("a", &[(t, 1.5), (t + 1, 2.5)]), ("b", &[(t, 7.0)])])).unwrap();
        block_on(store.flush()).unwrap();
    }
    write(&store, &batch_of(&[("a", &[(3_000, 1.0)])])).unwrap();
    store.close();
    disk
}

fn checked(disk: &MemoryDisk, repair: bool) -> CheckReport {
    check_folder(Arc::new(disk.clone()), repair, &|_| ()).unwrap()
}

fn all_files(disk: &MemoryDisk) -> Vec<String> {
    let mut out = Vec::new();
    for dir in ["", "blocks", "log", "quarantine"] {
        for name in disk.list(dir).unwrap_or_default() {
            out.push(quiver_persistence::disk::join(dir, &name));
        }
    }
    out
}

#[test]
fn a_whole_folder_is_whole() {
    let disk = filled();
    let report = checked(&disk, false);
    assert_eq!(report.findings, []);
    assert_eq!((report.blocks, report.samples, report.segments, report.frames), (2, 6, 1, 1));
    assert_eq!(checked(&disk, true).set_aside, [""; 0]);
}

#[test]
fn every_flipped_byte_of_every_file_is_found_in_its_file() {
    let whole = filled();
    let mut lost = Vec::new();
    for file in all_files(&whole).into_iter().filter(|f| f != "LOCK") {
        let bytes = whole.read(&file).unwrap();
        for at in 0..bytes.len() {
            let disk = whole.crash(1);
            let mut bad = bytes.clone();
            bad[at] ^= 0x11;
            disk.put(&file, bad);
            match check_folder(Arc::new(disk), false, &|_| ()) {
                Ok(report) => {
                    let hit = report.findings.iter().any(|f| f.file == file);
                    // A torn tail of the log cannot be told from a crash: then it is a note, and in that file.
                    if !hit {
                        lost.push((file.clone(), at));
                    }
                }
                // Another version of something is refused by name.
                Err(e) => assert!(e.to_string().contains("version") || e.to_string().contains("format"), "{e}"),
            }
        }
    }
    // Upper and lower case of a hexadecimal digit are the same number, and all spaces are spaces.
    lost.retain(|(file, _)| !file.starts_with("MANIFEST"));
    assert_eq!(lost, []);
}

#[test]
fn a_repair_sets_aside_and_what_is_left_is_whole() {
    let disk = filled();
    let blocks = disk.list("blocks").unwrap();
    let bad = format!("blocks/{}", blocks[0]);
    let mut bytes = disk.read(&bad).unwrap();
    let at = bytes.len() / 3;
    bytes[at] ^= 1;
    disk.put(&bad, bytes.clone());
    disk.put("blocks/0000000000000099.block.tmp", vec![1, 2, 3]);
    let mut copy = disk.read("MANIFEST.copy").unwrap();
    copy.truncate(50);
    disk.put("MANIFEST.copy", copy);
    let report = checked(&disk, false);
    assert!(report.is_damaged());
    let damaged: Vec<&str> = report.findings.iter().filter(|f| f.is_damage).map(|f| f.file.as_str()).collect();
    assert_eq!(damaged, ["MANIFEST.copy", bad.as_str()]);
    let finding = report.findings.iter().find(|f| f.file == bad).unwrap();
    assert!(finding.offset.is_some_and(|o| o as usize <= at), "{finding:?}");
    assert!(report.findings.iter().any(|f| !f.is_damage && f.file.ends_with(".tmp")));
    let repaired = checked(&disk, true);
    assert_eq!(repaired.set_aside.len(), 2);
    assert_eq!(disk.read(&format!("quarantine/{}", blocks[0])).unwrap(), bytes, "nothing is deleted");
    assert!(disk.exists("quarantine/0000000000000099.block.tmp").unwrap());
    assert_eq!(checked(&disk, false).findings, []);
    let store = open(&disk);
    let set = store.snapshot().select(&[], TimeRange::ALL, 9).unwrap();
    assert_eq!(set.len(), 2, "the other block and the log answer");
    let saved = repaired.salvaged.iter().filter(|(_, s)| s.meta.is_some()).count() as u64;
    assert_eq!(store.stats(0).blocks, 1 + saved);
}

#[test]
fn missing_and_exchanged_blocks_are_found() {
    let disk = filled();
    let [a, b] = &disk.list("blocks").unwrap()[..] else { panic!() };
    let (a, b) = (format!("blocks/{a}"), format!("blocks/{b}"));
    let other = disk.crash(1);
    other.put(&a, disk.read(&b).unwrap());
    assert!(checked(&other, false).findings.iter().any(|f| f.file == a && f.is_damage));
    disk.remove(&a).unwrap();
    let report = checked(&disk, true);
    assert!(report.findings.iter().any(|f| f.file == a && f.is_damage));
    assert_eq!(checked(&disk, false).findings, []);
}

#[test]
fn a_folder_in_use_is_not_checked() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let refused = check_folder(Arc::new(disk.clone()), false, &|_| ());
    assert!(refused.is_err_and(|e| e.to_string().contains("in use")));
    drop(store);
    assert!(check_folder(Arc::new(MemoryDisk::new()), false, &|_| ()).is_err(), "not a data folder");
}
