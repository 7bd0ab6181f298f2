//! Checks find every damage, and a repair takes nothing away.

use std::sync::Arc;

use quiver_persistence::disk::{FaultAction, FaultRule};
use quiver_persistence::log::SegmentId;
use quiver_persistence::testing::sized;
use quiver_persistence::{
    Disk, DiskErrorKind, DiskOp, EntryKind, FaultyDisk, LogOptions, ManifestEntry, ManifestStore, MemoryDisk, crc32c,
    crc32c_salted,
};

use super::oracle::contents;
use super::store::{block_on, open, options, write};
use crate::backup::{Backup, BackupError};
use crate::check::{CheckReport, Finding, check_folder, read_frames};
use crate::testing::batch_of;
use crate::{Maintain, Source, Store, StoreOptions, TimeRange};

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

/// Every file, with its bytes.
fn contents_of(disk: &MemoryDisk) -> Vec<(String, Vec<u8>)> {
    all_files(disk).into_iter().map(|f| (f.clone(), disk.read(&f).unwrap())).collect()
}

fn damages(report: &CheckReport) -> Vec<&Finding> {
    report.findings.iter().filter(|f| f.is_damage).collect()
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

/// A log of small segments.
fn small_segments(shards: u32, segment_bytes_max: u64) -> StoreOptions {
    let log = LogOptions { shards, segment_bytes_max, free_bytes_min: 0, ..LogOptions::default() };
    StoreOptions { log, ..options() }
}

/// A folder with a block and three segments of the log, in one shard; what these are called.
fn long_log() -> (MemoryDisk, Vec<String>) {
    let disk = MemoryDisk::new();
    let store = Store::open(Arc::new(disk.clone()), small_segments(1, 400)).unwrap();
    store.wait_until_ready();
    for t in 0..20 {
        write(&store, &batch_of(&[("a", &[(t, 1.5)])])).unwrap();
    }
    block_on(store.flush()).unwrap();
    let mut t = 100;
    while disk.list("log").unwrap().len() < 3 {
        write(&store, &batch_of(&[("a", &[(t, 1.5), (t + 1, 2.5)]), ("b", &[(t, 7.0)])])).unwrap();
        t += 10;
    }
    store.close();
    let segments = disk.list("log").unwrap();
    assert_eq!(segments.len(), 3);
    (disk, segments)
}

#[test]
fn a_log_segment_that_is_cut_or_gone_is_damage() {
    let (whole, segments) = long_log();
    assert_eq!(checked(&whole, false).findings, [], "what a flush removed is not missing");
    let ids: Vec<SegmentId> = segments.iter().map(|n| SegmentId::parse(n).unwrap()).collect();
    for (at, (name, id)) in segments.iter().zip(&ids).enumerate() {
        let file = format!("log/{name}");
        let bytes = whole.read(&file).unwrap();
        let (frames, _) = read_frames(&whole, "log", *id).unwrap();
        let last = frames.last().unwrap().offset as usize;
        let all = frames.len();
        // The bytes left of it, and the frames that are lost by that; `None`: the file is gone.
        for (left, lost) in [(Some(last), 1), (Some(bytes.len() - 3), 1), (Some(48), all), (Some(0), all), (None, all)]
        {
            let disk = whole.crash(1);
            match left {
                Some(left) => disk.put(&file, bytes[..left].to_vec()),
                None => disk.remove(&file).unwrap(),
            }
            let report = checked(&disk, false);
            if at == 2 {
                assert!(!report.is_damaged(), "nobody tells of the last one: {report:?}");
                continue;
            }
            let [found] = &damages(&report)[..] else { panic!("{name} {left:?}: {report:?}") };
            assert_eq!(found.file, file);
            assert!(found.what.contains(&format!("{lost} acknowledged frames")), "{left:?}: {found:?}");
            assert_eq!(left.is_none(), found.what.contains("segment is missing"), "{found:?}");
            // The start says the same, an offline backup is not made, and a repair leaves the log as it is.
            let before = contents_of(&disk);
            assert!(checked(&disk, true).is_damaged());
            assert_eq!(contents_of(&disk), before);
            let backup = Backup::on(Arc::new(MemoryDisk::new())).unwrap();
            let refused = backup.of_disk(Arc::new(disk.clone()), false, 0, &Default::default(), &|_| ()).unwrap_err();
            assert!(matches!(&refused, BackupError::Refused(why) if why.contains("is damaged")), "{refused}");
            let store = open(&disk);
            let replayed = store.replay_report();
            assert_eq!((replayed.frames_lost, replayed.damage.len()), (lost as u64, 1), "{replayed:?}");
            // What is there is flushed; what is gone is not asked for after that.
            block_on(store.flush()).unwrap();
            store.close();
            drop(store);
            assert_eq!(checked(&disk, false).findings, []);
        }
    }
}

/// Writes over many segments, with two flushes, until the power goes.
fn live(disk: &MemoryDisk, shards: u32, ops: u64) {
    disk.halt_after(ops);
    let Ok(store) = Store::open(Arc::new(disk.clone()), small_segments(shards, 150)) else { return };
    store.wait_until_ready();
    let now = options().clock.now_ms();
    for t in 0..24 {
        // What is late is logged in the last shard, the rest in the first one.
        let at = if t % 2 == 0 { now + t } else { t };
        let _ = write(&store, &batch_of(&[("a", &[(at, 1.5), (at + 100, 2.5)]), ("b", &[(at, 7.0)])]));
        if t == 8 || t == 16 {
            let _ = block_on(store.flush());
        }
    }
    store.close();
}

/// No segment that a power loss leaves or does not leave, at a flush or after it, is taken for one that is missing.
#[test]
fn after_a_power_loss_nothing_is_said_to_be_missing() {
    let whole = MemoryDisk::new();
    live(&whole, 2, u64::MAX);
    let ops = whole.ops();
    let of = |shard| whole.list("log").unwrap().iter().filter(|n| n.starts_with(shard)).count();
    assert!(of("000-") > 1 && of("001-") > 1, "{:?}", whole.list("log"));
    let is_well = |disk: &MemoryDisk, what: &str| {
        if disk.exists("log").unwrap() {
            let report = checked(disk, false);
            assert!(!report.is_damaged(), "{what}: {:?}", report.findings);
        }
        let store = open(disk);
        assert!(store.replay_report().is_clean(), "{what}: {:?}", store.replay_report());
    };
    for n in 0..ops + 2 {
        let disk = MemoryDisk::new();
        live(&disk, 2, n);
        for seed in 0..sized(3, 60) {
            let after = disk.crash(seed);
            is_well(&after.crash(1), &format!("power off after {n} of {ops}, seed {seed}"));
            // Another life with a shard less, and one with both again.
            let after = disk.crash(seed);
            live(&after, 1, n * 7 % ops);
            let after = after.crash(seed + 2);
            is_well(&after.crash(1), &format!("{n} of {ops}, seed {seed}, a second life"));
            live(&after, 2, n * 11 % ops);
            is_well(&after.crash(seed + 3), &format!("{n} of {ops}, seed {seed}, a third life"));
        }
    }
}

/// Makes a block or a log segment one of another version: the number stands at the same place in both.
fn newer(disk: &MemoryDisk, file: &str) {
    let mut bytes = disk.read(file).unwrap();
    bytes[8..12].copy_from_slice(&99u32.to_le_bytes());
    let crc = crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    disk.put(file, bytes);
}

#[test]
fn what_a_newer_version_wrote_is_no_damage_and_not_repaired() {
    let whole = filled();
    let blocks = whole.list("blocks").unwrap();
    let log = whole.list("log").unwrap();
    let (block, segment) = (format!("blocks/{}", blocks[0]), format!("log/{}", log[0]));
    for file in [&block, &segment] {
        let disk = whole.crash(1);
        newer(&disk, file);
        let report = checked(&disk, false);
        assert!(!report.is_damaged(), "{report:?}");
        assert_eq!(report.newer, std::slice::from_ref(file));
        let [found] = &report.findings[..] else { panic!("{report:?}") };
        assert_eq!(&found.file, file);
        assert!(found.what.contains("newer version") && found.what.contains("no damage"), "{found:?}");
        // Beside damage and leftovers, too, it is left to that version.
        let other = format!("blocks/{}", blocks[1]);
        let mut bytes = disk.read(&other).unwrap();
        bytes[40] ^= 1;
        disk.put(&other, bytes);
        disk.put("blocks/0000000000000099.block.tmp", vec![1, 2, 3]);
        let mut copy = disk.read("MANIFEST.copy").unwrap();
        copy.truncate(50);
        disk.put("MANIFEST.copy", copy);
        assert!(checked(&disk, false).is_damaged());
        let before = contents_of(&disk);
        let refused = check_folder(Arc::new(disk.clone()), true, &|_| ()).unwrap_err();
        let is_named = matches!(&refused, BackupError::Refused(why)
            if why.contains(file.as_str()) && why.contains("newer version") && why.contains("with that version"));
        assert!(is_named, "{refused}");
        assert_eq!(contents_of(&disk), before);
    }
    for file in ["MANIFEST", "MANIFEST.copy"] {
        let disk = whole.crash(1);
        let crc = crc32c_salted(b"quiver manifest 2", b"[new]");
        disk.put(file, format!("quiver manifest 2 crc32c {crc:08x} bytes 5\n[new]").into_bytes());
        let before = contents_of(&disk);
        for repair in [false, true] {
            let refused = check_folder(Arc::new(disk.clone()), repair, &|_| ()).unwrap_err();
            assert!(matches!(&refused, BackupError::Refused(why) if why.contains("with that version")), "{refused}");
        }
        assert_eq!(contents_of(&disk), before);
    }
}

/// Not all of it is of this version: the next segments of the shard count frames of what is not read.
#[test]
fn segments_after_one_of_a_newer_version_are_not_judged() {
    let (disk, segments) = long_log();
    newer(&disk, &format!("log/{}", segments[0]));
    let report = checked(&disk, false);
    assert!(!report.is_damaged(), "{report:?}");
    assert_eq!(report.newer, [format!("log/{}", segments[0])]);
    assert!(check_folder(Arc::new(disk), true, &|_| ()).is_err());
}

#[test]
fn files_of_other_kinds_are_left_alone() {
    let disk = filled();
    disk.put("blocks/records", vec![1, 2, 3]);
    let store = ManifestStore::open(Arc::new(disk.clone()), "").unwrap();
    store
        .edit(|m| {
            let (id, kind) = (m.take_id(), EntryKind::Logs);
            m.entries.push(ManifestEntry { kind, id, file: "blocks/records".into(), ..ManifestEntry::default() });
        })
        .unwrap();
    drop(store);
    let before = contents_of(&disk);
    let report = checked(&disk, true);
    assert!(!report.is_damaged() && report.blocks == 2, "{report:?}");
    assert_eq!(report.set_aside, [""; 0]);
    assert_eq!(contents_of(&disk), before);
}

/// Samples in the blocks that the manifest names.
fn samples_of(disk: &MemoryDisk) -> u64 {
    let current = ManifestStore::open(Arc::new(disk.clone()), "").unwrap().current();
    current.entries.iter().map(|e| e.samples).sum()
}

/// A folder with a whole block, and one of which a chunk is damaged; what that is called.
fn one_bad_chunk() -> (MemoryDisk, String) {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let many: Vec<(i64, f64)> = (0..1000).map(|t| (t, t as f64 * 1.1)).collect();
    for name in ["a", "b"] {
        write(&store, &batch_of(&[(name, &many), ("c", &many)])).unwrap();
        block_on(store.flush()).unwrap();
    }
    store.close();
    let file = format!("blocks/{}", disk.list("blocks").unwrap()[0]);
    let mut bytes = disk.read(&file).unwrap();
    bytes[40] ^= 1;
    disk.put(&file, bytes);
    (disk, file)
}

/// Whatever a disk refuses for a moment, a repair loses no more than it would without that.
#[test]
fn an_error_that_passes_costs_no_block() {
    let (damaged, file) = one_bad_chunk();
    let plain = damaged.crash(1);
    checked(&plain, true);
    let want = samples_of(&plain);
    assert!(want > 3000 && want < samples_of(&damaged));
    for op in [DiskOp::Open, DiskOp::Read, DiskOp::Stat, DiskOp::Map] {
        for kind in [DiskErrorKind::Io, DiskErrorKind::Denied, DiskErrorKind::Media] {
            let mut struck = 0;
            for after in 0.. {
                let memory = damaged.crash(1);
                let disk = FaultyDisk::new(Arc::new(memory.clone()));
                disk.push(FaultRule::new(op, FaultAction::Fail(kind)).on("blocks/").after(after).times(1));
                let done = check_folder(Arc::new(disk.clone()), true, &|_| ());
                if disk.hits() == 0 {
                    break;
                }
                struck += 1;
                if let Err(e) = &done {
                    assert!(e.to_string().contains("injected"), "{op} {kind:?} {after}: {e}");
                }
                let now = samples_of(&memory);
                assert!(now == want || done.is_err() && now > want, "{op} {kind:?} {after}: {now} of {want}, {done:?}");
                // The disk is well again.
                checked(&memory, true);
                assert_eq!(samples_of(&memory), want, "{op} {kind:?} {after}");
                assert!(!checked(&memory, false).is_damaged());
            }
            assert!(op != DiskOp::Read || struck > 20, "{struck}");
        }
    }
    // With no descriptor left no block is even said to be damaged.
    let disk = FaultyDisk::new(Arc::new(damaged.clone()));
    disk.push(FaultRule::new(DiskOp::Open, FaultAction::Fail(DiskErrorKind::Io)).on(&file));
    for repair in [false, true] {
        let refused = check_folder(Arc::new(disk.clone()), repair, &|_| ()).unwrap_err();
        assert!(matches!(&refused, BackupError::Io(why) if why.contains(&file)), "{refused}");
    }
}

/// What the medium does not give, however often it is asked, is lost, and the rest is repaired around it.
#[test]
fn what_the_medium_does_not_give_is_repaired_around() {
    let (damaged, file) = one_bad_chunk();
    let mut saved = std::collections::BTreeSet::new();
    for after in 0.. {
        let memory = damaged.crash(1);
        let disk = FaultyDisk::new(Arc::new(memory.clone()));
        disk.push(FaultRule::new(DiskOp::Read, FaultAction::Fail(DiskErrorKind::Media)).on(&file).after(after));
        check_folder(Arc::new(disk.clone()), true, &|_| ()).unwrap();
        let aside = format!("quarantine/{}", file.rsplit('/').next().unwrap());
        assert_eq!(memory.read(&aside).unwrap(), damaged.read(&file).unwrap());
        assert!(!checked(&memory, false).is_damaged());
        saved.insert(samples_of(&memory));
        if disk.hits() == 0 {
            break;
        }
    }
    assert!(saved.len() > 2 && saved.contains(&2000), "{saved:?}");
}

/// Both manifests are gone, and the log has only what came last: a start would put all blocks away.
#[test]
fn a_manifest_that_is_gone_is_made_again_from_the_blocks() {
    let disk = filled();
    let want = {
        let store = Store::open(Arc::new(disk.clone()), options()).unwrap();
        store.wait_until_ready();
        contents(&*store.snapshot(), &[], TimeRange::ALL)
    };
    let disk = disk.crash(1);
    for name in ["MANIFEST", "MANIFEST.copy"] {
        disk.remove(name).unwrap();
    }
    let before = contents_of(&disk);
    let refused = Store::open(Arc::new(disk.clone()), options()).err().unwrap().to_string();
    assert!(refused.contains("2 blocks are there") && refused.contains("check --repair"), "{refused}");
    let report = checked(&disk, false);
    let [missing] = &damages(&report)[..] else { panic!("{report:?}") };
    assert!(
        missing.file == "MANIFEST" && missing.what.contains("names 2 blocks here and 0 in a remote store"),
        "{missing:?}"
    );
    assert_eq!(report.blocks, 2);
    assert_eq!(contents_of(&disk), before, "nothing is written before a repair");
    // Power off at any operation of the repair, then the next one.
    let ops = {
        let disk = disk.crash(1);
        let report = checked(&disk, true);
        assert!(report.set_aside.is_empty() && report.left.is_empty(), "{report:?}");
        disk.ops()
    };
    for n in 0..=ops {
        let disk = disk.crash(1);
        disk.halt_after(n);
        let _ = check_folder(Arc::new(disk.clone()), true, &|_| ());
        let after = disk.crash(n);
        checked(&after, true);
        assert!(!checked(&after, false).is_damaged(), "power off after {n}");
        let store = Store::open(Arc::new(after), options()).unwrap();
        store.wait_until_ready();
        assert_eq!(contents(&*store.snapshot(), &[], TimeRange::ALL), want, "power off after {n}");
    }
}

/// Blocks alone, copied without a manifest and a log.
#[test]
fn blocks_alone_become_a_data_folder() {
    let disk = filled();
    let copy = MemoryDisk::new();
    copy.create_dir("blocks").unwrap();
    for (path, bytes) in contents_of(&disk).iter().filter(|(path, _)| path.starts_with("blocks/")) {
        copy.put(path, bytes.clone());
    }
    assert!(checked(&copy, false).is_damaged());
    let report = checked(&copy, true);
    assert_eq!((report.blocks, &report.set_aside[..]), (2, &[][..]));
    let store = Store::open(Arc::new(copy), options()).unwrap();
    assert!(!contents(&*store.snapshot(), &[], TimeRange::ALL).is_empty());
}

/// Without its manifest a folder would be read as an empty one.
#[test]
fn a_folder_without_its_manifest_is_not_read_as_an_empty_one() {
    let disk = filled();
    for name in ["MANIFEST", "MANIFEST.copy"] {
        disk.remove(name).unwrap();
    }
    let folder: Arc<dyn Disk> = Arc::new(disk.clone());
    let said = crate::OfflineStore::data_folder(Arc::clone(&folder)).err().unwrap().to_string();
    assert!(said.contains("2 blocks are there"), "{said}");
    assert!(crate::check::summarize_folder(&folder).is_err());
    // What is kept of blocks in a remote store tells that there were some.
    disk.put("blocks/0000000000000007.tail", vec![1; 10]);
    let report = checked(&disk, true);
    assert_eq!(report.doubtful_blocks, 1, "{report:?}");
    assert_eq!(report.set_aside, ["quarantine/0000000000000007.tail"]);
    assert_eq!(checked(&disk, true).doubtful_blocks, 0);
}
