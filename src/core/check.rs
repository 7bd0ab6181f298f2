//! Looking after files that no server has open: what is in them, and whether it is whole.
//!
//! ```text
//! data folder ─▶ manifest and copy ─▶ every block it names (length, CRC of the file, every part, the entry) ─▶ strays
//!            └─▶ tombstones         └─▶ every log segment (every frame, and what the next header says of it)
//! ```
//!
//! Three things are told apart: damage, which a repair takes out of the way; what a newer version wrote, which only that version can
//! judge, so that nothing is repaired beside it; and a disk that does not let us read now, which ends the check.
//!
//! A repair keeps what is whole of a damaged block in a block of its own, moves the damaged one, and files that nothing
//! names, to `quarantine/`, and says what is lost; it deletes nothing. Log segments stay: a replay reads around damage, and
//! the server sets the segment aside once it is not needed any more.
//!
//! Invariants
//! 1. At every moment the damaged file is under its name or in the quarantine, and what is whole of it is in the block that
//!    the manifest names: a repair that was interrupted is done by the next one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use quiver_model::number::grouped;
use quiver_persistence::disk::{file_crc, join, link_or_copy};
use quiver_persistence::log::{Damage, SegmentId, ShardReading, read_segment};
use quiver_persistence::manifest::{self, EntryKind, MANIFEST_FILE};
use quiver_persistence::{
    Disk, DiskError, Frame, LogFloor, Manifest, ManifestEntry, ManifestError, ManifestStore, Place, RealDisk,
    ReplayError, ReplayReport, ReplayShard, Tombstone,
};
use quiver_storage::block::Block;
use quiver_storage::error::StorageError;

use crate::backup::{BackupError, is_still, lock_if_possible, need_data};
use crate::catalog::{QUARANTINE_DIR, block_id, block_path};
use crate::flush::{crc_of, entry, note_crc};
use crate::options::OpenError;
use crate::record::Record;
use crate::salvage::{LostRange, Salvaged, is_lost, readable, salvage};
use crate::store::{BLOCK_DIR, LOG_DIR};
use crate::tombstones::Deletion;

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In which file.
    pub file: String,
    /// Where in it, if that is known.
    pub offset: Option<u64>,
    /// What.
    pub what: String,
    /// Data is damaged or missing; else it is only worth knowing.
    pub is_damage: bool,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Blocks read.
    pub blocks: u64,
    /// Their bytes.
    pub block_bytes: u64,
    /// Samples in them.
    pub samples: u64,
    /// Log segments read.
    pub segments: u64,
    /// Whole frames in them.
    pub frames: u64,
    /// All that was found.
    pub findings: Vec<Finding>,
    /// Files that a newer version wrote: not checked, and no damage.
    pub newer: Vec<String>,
    /// Files moved to quarantine.
    pub set_aside: Vec<String>,
    /// By damaged block, what was saved of it and what is lost.
    pub salvaged: Vec<(String, Salvaged)>,
    /// Damaged blocks that are read from the remote store from now on, with their samples: nothing of them is lost.
    pub refetched: Vec<(String, u64)>,
    /// Damage that a repair left, since it cannot be repaired here.
    pub left: Vec<Finding>,
    /// Blocks that no manifest named, and that may have been part of the data: the newest manifest could not be read.
    pub doubtful_blocks: u64,
}

/// What became of the damaged blocks in a repair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Samples of damaged blocks that were kept.
    pub samples_kept: u64,
    /// Samples of damaged blocks that are lost.
    pub samples_lost: u64,
    /// Something else of them is lost: exemplars, metadata.
    pub is_more_lost: bool,
}

impl CheckReport {
    /// Is anything damaged?
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|f| f.is_damage)
    }

    /// What became of the damaged blocks in a repair.
    pub fn repaired(&self) -> Repaired {
        let mut sum = Repaired { samples_kept: self.refetched.iter().map(|(_, n)| n).sum(), ..Repaired::default() };
        for (_, s) in &self.salvaged {
            sum.samples_kept += s.meta.map_or(0, |meta| meta.samples);
            sum.samples_lost += s.samples_lost();
            sum.is_more_lost |= s.exemplars_lost || s.metadata_lost;
        }
        sum
    }

    fn damage(&mut self, file: &str, offset: Option<u64>, what: impl ToString) {
        self.findings.push(Finding { file: file.to_owned(), offset, what: what.to_string(), is_damage: true });
    }

    fn note(&mut self, file: &str, what: impl ToString) {
        self.findings.push(Finding { file: file.to_owned(), offset: None, what: what.to_string(), is_damage: false });
    }

    fn damages(&self) -> usize {
        self.findings.iter().filter(|f| f.is_damage).count()
    }

    fn newer(&mut self, file: &str, what: impl ToString) {
        self.note(file, format!("not checked (this is no damage): {}", what.to_string()));
        self.newer.push(file.to_owned());
    }

    /// Notes why a block is not read. What may pass is no finding, and given back.
    fn unread(&mut self, file: &str, e: StorageError) -> Result<(), BackupError> {
        match e {
            StorageError::Corrupt { offset, what, .. } => self.damage(file, Some(offset), what),
            e @ StorageError::Version { .. } => self.newer(file, e),
            e if is_lost(&e) => self.damage(file, None, e),
            e => return Err(storage_error(e)),
        }
        Ok(())
    }

    /// [`CheckReport::unread`] for a log segment.
    fn unread_segment(&mut self, file: &str, e: ReplayError) -> Result<(), BackupError> {
        match e {
            e @ ReplayError::OtherVersion { .. } => {
                self.newer(file, format!("{e}; the rest of its log shard was not checked"));
                Ok(())
            }
            ReplayError::Disk(e) => self.unread(file, e.into()),
        }
    }

    /// Takes over what was found in a shard of the log.
    fn log(&mut self, dir: &str, found: &ReplayReport) {
        let file = |d: &Damage| join(dir, &d.segment.file_name());
        for d in &found.damage {
            match d.len {
                0 => self.damage(&file(d), None, &d.reason),
                len => self.damage(&file(d), Some(d.offset), format!("{len} bytes: {}", d.reason)),
            }
        }
        for d in &found.torn {
            let what = format!("{} bytes at {} are incomplete, as a crash leaves them", d.len, d.offset);
            self.note(&file(d), what);
        }
    }

    /// A folder in which a newer version wrote stays as it is: what this one takes for a leftover may be data of that one.
    fn refuse_newer(&self) -> Result<(), BackupError> {
        let Some(first) = self.newer.first() else { return Ok(()) };
        let more = match self.newer.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Err(BackupError::Refused(format!(
            "a newer version wrote {first}{more}, which is no damage: nothing was changed; repair with that version"
        )))
    }
}

fn storage_error(e: StorageError) -> BackupError {
    match e {
        StorageError::Disk(e) => e.into(),
        e @ StorageError::Version { .. } => {
            BackupError::Refused(format!("{e}. This is no damage; repair the folder with that version"))
        }
        e => BackupError::Io(e.to_string()),
    }
}

fn manifest_error(e: ManifestError) -> BackupError {
    match e {
        e @ ManifestError::OtherVersion { .. } => BackupError::Refused(format!("{e}; check it with that version")),
        e => e.into(),
    }
}

/// What lies at a path.
#[derive(Debug)]
pub enum Found {
    /// A data folder (or a backup, or a snapshot).
    Folder(Arc<dyn Disk>),
    /// A block: its folder and its name.
    Block(Arc<dyn Disk>, String),
    /// A log segment: its folder and which one.
    Segment(Arc<dyn Disk>, SegmentId),
}

/// Finds out what lies at a path.
pub fn look(path: &Path) -> Result<Found, BackupError> {
    if let Ok(disk) = RealDisk::open(path) {
        return Ok(Found::Folder(Arc::new(disk)));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(folder)?);
    disk.len(name)?;
    Ok(match SegmentId::parse(name) {
        Some(id) => Found::Segment(disk, id),
        None => Found::Block(disk, name.to_owned()),
    })
}

/// Checks what lies at a path. `progress` is told each file before it is read.
pub fn check(path: &Path, repair: bool, progress: &dyn Fn(&str)) -> Result<CheckReport, BackupError> {
    let mut report = CheckReport::default();
    match look(path)? {
        Found::Folder(disk) => return check_folder(disk, repair, progress),
        Found::Block(disk, name) => {
            progress(&name);
            check_block(&*disk, &name, None, &mut report)?;
        }
        // Alone it is compared with no other.
        Found::Segment(disk, id) => check_shard(&*disk, "", u64::MAX, &[id], progress, &mut report)?,
    }
    if repair {
        return Err(BackupError::Refused("only a data folder can be repaired, not a single file".into()));
    }
    Ok(report)
}

/// Checks a data folder that no server has open.
pub fn check_folder(disk: Arc<dyn Disk>, repair: bool, progress: &dyn Fn(&str)) -> Result<CheckReport, BackupError> {
    need_data(&disk, "is not a data folder")?;
    let lock = lock_if_possible(&*disk)?;
    let mut report = CheckReport::default();
    for (file, what, is_damage) in manifest::check(&*disk, "").map_err(manifest_error)? {
        report.findings.push(Finding { file, offset: None, what, is_damage });
    }
    let store = ManifestStore::open(Arc::clone(&disk), "").map_err(manifest_error)?;
    let current = store.current();
    if !store.is_certain() {
        report.damage(MANIFEST_FILE, None, "only its copy could be read: the newest state may be missing");
    }
    for t in &current.tombstones {
        check_tombstone(t, &current.entries, &mut report);
    }
    let mut strays = if disk.exists(BLOCK_DIR)? { store.orphans(BLOCK_DIR)? } else { Vec::new() };
    let unnamed = if current.generation == 0 { lost_blocks(&*disk, &strays)? } else { Vec::new() };
    // Without a manifest, what is left of the log is taken for all that is needed of it.
    let floor = if unnamed.is_empty() { current.log_floor.clone() } else { first_segments(&*disk)? };
    strays.retain(|path| unnamed.iter().all(|e| e.file != *path));
    let remote = if current.generation == 0 { tails(&strays) } else { 0 };
    if unnamed.len() + remote > 0 {
        let (here, there) = (grouped(unnamed.len() as u64), grouped(remote as u64));
        let what = "it is missing, and so is its copy: nothing names";
        report.damage(MANIFEST_FILE, None, format!("{what} {here} blocks here and {there} in a remote store"));
    }
    let entries = if unnamed.is_empty() { &current.entries } else { &unnamed };
    let bad = check_blocks(&*disk, entries, progress, &mut report)?;
    for path in &strays {
        report.note(path, "a file that the manifest does not name: a leftover");
    }
    let before = report.findings.len();
    check_log(&*disk, &floor, progress, &mut report)?;
    let in_log: Vec<Finding> = report.findings[before..].iter().filter(|f| f.is_damage).cloned().collect();
    if lock.is_none() {
        // A server may be running: what it flushed meanwhile is missing from what was read, and that is no damage.
        is_still(&disk, &current, "check it while none runs")?;
    }
    if repair {
        report.refuse_newer()?;
        if remote > 0 || !unnamed.is_empty() || !store.is_certain() {
            // A block whose end is kept here is in a remote store.
            let may_count = |path: &&String| path.ends_with(".block") || path.ends_with(".tail");
            report.doubtful_blocks = strays.iter().filter(may_count).count() as u64;
        }
        if !unnamed.is_empty() {
            name_blocks(&*disk, &store, unnamed.clone(), floor, &mut report)?;
        }
        set_aside(&disk, &store, &bad, &strays, &mut report)?;
        report.left = in_log;
        report.left.extend(left_in_manifest(&disk)?);
    }
    Ok(report)
}

/// Refuses a folder that has lost its manifest: it would be read as if its blocks were not there.
pub(crate) fn refuse_lost(disk: &dyn Disk, manifest: &ManifestStore) -> Result<(), OpenError> {
    if manifest.current().generation > 0 || !disk.exists(BLOCK_DIR)? {
        return Ok(());
    }
    let strays = manifest.orphans(BLOCK_DIR)?;
    let lost = lost_blocks(disk, &strays)?.len() + tails(&strays);
    if lost == 0 {
        return Ok(());
    }
    Err(OpenError::Damaged(format!(
        "the manifest of {} is missing, and so is its copy, but {} blocks are there: quiver check --repair makes a manifest of them",
        disk.name(),
        grouped(lost as u64)
    )))
}

/// Blocks that are in a remote store, of which a part is kept here.
fn tails(strays: &[String]) -> usize {
    strays.iter().filter(|path| path.ends_with(".tail")).count()
}

/// Entries of the blocks of a folder that has lost its manifest: each says of itself what it holds. None if the log has all that
/// was ever written, as after a crash in the first flush.
pub(crate) fn lost_blocks(disk: &dyn Disk, strays: &[String]) -> Result<Vec<ManifestEntry>, DiskError> {
    if log_is_whole(disk)? {
        return Ok(Vec::new());
    }
    let described = |path: &String| {
        let id = block_id(path).filter(|id| block_path(*id) == *path)?;
        let block = Block::open_unmapped(disk, path).ok()?;
        Some(entry(id, 0, path, block.meta(), block.meta().max_time, Vec::new()))
    };
    Ok(strays.iter().filter_map(described).collect())
}

/// Does every shard of the log begin with its first segment?
fn log_is_whole(disk: &dyn Disk) -> Result<bool, DiskError> {
    let first = first_segments(disk)?.0;
    Ok(!first.is_empty() && first.values().all(|n| *n == 1))
}

/// The first segment of each shard that is there.
fn first_segments(disk: &dyn Disk) -> Result<LogFloor, DiskError> {
    let mut first = BTreeMap::new();
    for name in if disk.exists(LOG_DIR)? { disk.list(LOG_DIR)? } else { Vec::new() } {
        if let Some(id) = SegmentId::parse(&name) {
            first.entry(id.shard).and_modify(|n: &mut u64| *n = id.number.min(*n)).or_insert(id.number);
        }
    }
    Ok(LogFloor(first))
}

/// Makes a manifest that names these blocks.
fn name_blocks(
    disk: &dyn Disk,
    store: &ManifestStore,
    mut blocks: Vec<ManifestEntry>,
    floor: LogFloor,
    report: &mut CheckReport,
) -> Result<(), BackupError> {
    for block in &mut blocks {
        note_crc(disk, block)?;
    }
    let n = grouped(blocks.len() as u64);
    store.edit(|m| {
        m.id_next = blocks.iter().map(|e| e.id).max().unwrap_or(0) + 1;
        m.entries = blocks;
        m.log_floor = floor;
    })?;
    report
        .note(MANIFEST_FILE, format!("made again from {n} blocks; deletions that were not carried out are forgotten"));
    Ok(())
}

/// Damage of the manifest and its deletions that a repair did not mend.
fn left_in_manifest(disk: &Arc<dyn Disk>) -> Result<Vec<Finding>, BackupError> {
    let mut left = CheckReport::default();
    for (file, what, is_damage) in manifest::check(&**disk, "").map_err(manifest_error)? {
        left.findings.push(Finding { file, offset: None, what, is_damage });
    }
    let current = ManifestStore::open(Arc::clone(disk), "").map_err(manifest_error)?.current();
    for t in &current.tombstones {
        check_tombstone(t, &current.entries, &mut left);
    }
    left.findings.retain(|f| f.is_damage);
    Ok(left.findings)
}

/// Checks the blocks of metrics that lie here; gives the damaged ones.
fn check_blocks<'a>(
    disk: &dyn Disk,
    entries: &'a [ManifestEntry],
    progress: &dyn Fn(&str),
    report: &mut CheckReport,
) -> Result<Vec<&'a ManifestEntry>, BackupError> {
    let mut bad = Vec::new();
    for e in entries {
        if e.kind != EntryKind::Metrics {
            report.note(&e.file, "it holds no metrics: not checked here");
            continue;
        }
        if e.place() == Place::Remote {
            report.note(&e.file, "it lies in the remote store alone: not checked here");
            continue;
        }
        progress(&e.file);
        let before = report.damages();
        check_block(disk, &e.file, Some(e), report)?;
        if report.damages() > before {
            bad.push(e);
        }
    }
    Ok(bad)
}

/// Checks the segments of the log from `floor` on.
fn check_log(
    disk: &dyn Disk,
    floor: &LogFloor,
    progress: &dyn Fn(&str),
    report: &mut CheckReport,
) -> Result<(), BackupError> {
    if !disk.exists(LOG_DIR)? {
        return Ok(());
    }
    let mut shards: BTreeMap<u32, Vec<SegmentId>> = BTreeMap::new();
    for id in disk.list(LOG_DIR)?.iter().filter_map(|n| SegmentId::parse(n)) {
        if id.number >= floor.of(id.shard) {
            shards.entry(id.shard).or_default().push(id);
        }
    }
    for (shard, mut segments) in shards {
        segments.sort_unstable();
        check_shard(disk, LOG_DIR, floor.of(shard), &segments, progress, report)?;
    }
    Ok(())
}

/// Checks segments of a shard, in order: what the header of one says of an earlier one, too.
fn check_shard(
    disk: &dyn Disk,
    dir: &str,
    floor: u64,
    segments: &[SegmentId],
    progress: &dyn Fn(&str),
    report: &mut CheckReport,
) -> Result<(), BackupError> {
    let mut reading = ShardReading::above(floor);
    for id in segments {
        progress(&id.file_name());
        report.segments += 1;
        let mut frames = Frames::default();
        let read = reading.read(disk, dir, *id, &mut frames);
        report.frames += frames.list.len() as u64;
        if let Err(e) = read {
            // Later headers count frames of what is not read here.
            let is_end = matches!(e, ReplayError::OtherVersion { .. });
            report.unread_segment(&join(dir, &id.file_name()), e)?;
            if is_end {
                break;
            }
        }
    }
    report.log(dir, &reading.into_report());
    Ok(())
}

/// Replaces damaged blocks by what is whole of them, and moves them and strays to the quarantine.
fn set_aside(
    disk: &Arc<dyn Disk>,
    store: &ManifestStore,
    bad: &[&ManifestEntry],
    strays: &[String],
    report: &mut CheckReport,
) -> Result<(), BackupError> {
    store.repair()?;
    for old in bad {
        // A second name first: from here on no sweep can take the file away.
        let aside = if disk.exists(&old.file)? { Some(keep_aside(&**disk, &old.file)?) } else { None };
        if let Some(object) = old.object() {
            // It was compared with this file when that was whole.
            store.edit(|m| {
                m.entries.iter_mut().filter(|e| e.id == old.id).for_each(|e| e.set_place(Place::Remote, &object));
            })?;
            report.note(&old.file, "it is read from the remote store from now on");
            report.refetched.push((old.file.clone(), old.samples));
            if let Some(aside) = aside {
                disk.remove(&old.file)?;
                disk.sync_dir(BLOCK_DIR)?;
                report.set_aside.push(aside);
            }
            continue;
        }
        let (saved, new) = save(disk, store, old)?;
        let is_whole = saved.is_whole();
        store.edit(|m| {
            m.replace_damaged(old.id, new, is_whole);
        })?;
        if let Some(aside) = aside {
            disk.remove(&old.file)?;
            disk.sync_dir(BLOCK_DIR)?;
            report.set_aside.push(aside);
        }
        report.salvaged.push((old.file.clone(), saved));
    }
    for path in strays.iter().filter(|p| disk.exists(p).unwrap_or(true)) {
        let to = free_name(&**disk, path)?;
        disk.rename(path, &to)?;
        disk.sync_dir(QUARANTINE_DIR)?;
        disk.sync_dir(BLOCK_DIR)?;
        report.set_aside.push(to);
    }
    store.accept()?;
    Ok(())
}

/// A name in the quarantine that no file has.
fn free_name(disk: &dyn Disk, path: &str) -> Result<String, BackupError> {
    let name = path.rsplit('/').next().unwrap_or(path);
    disk.create_dir(QUARANTINE_DIR)?;
    let mut to = format!("{QUARANTINE_DIR}/{name}");
    let mut number = 1;
    while disk.exists(&to)? {
        number += 1;
        to = format!("{QUARANTINE_DIR}/{name}.{number}");
    }
    Ok(to)
}

/// Gives a block a second name in the quarantine, unless an interrupted repair did so.
fn keep_aside(disk: &dyn Disk, path: &str) -> Result<String, BackupError> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let mine = file_crc(disk, path);
    if disk.exists(QUARANTINE_DIR)? {
        for there in disk.list(QUARANTINE_DIR)?.iter().filter(|n| n.starts_with(name)) {
            let there = format!("{QUARANTINE_DIR}/{there}");
            if mine.is_ok() && file_crc(disk, &there) == mine {
                return Ok(there);
            }
        }
    }
    let to = free_name(disk, path)?;
    link_or_copy(disk, path, &to)?;
    disk.sync_dir(QUARANTINE_DIR)?;
    Ok(to)
}

/// Writes what is whole of a block that is what its entry says, under a number of its own.
fn save(
    disk: &Arc<dyn Disk>,
    store: &ManifestStore,
    old: &ManifestEntry,
) -> Result<(Salvaged, Option<ManifestEntry>), BackupError> {
    let all = || LostRange { series: None, min_ts: old.min_ts, max_ts: old.max_ts, samples: old.samples };
    let nothing = || Salvaged { lost: vec![all()], exemplars_lost: true, metadata_lost: true, meta: None };
    let opened = readable(|| Block::open_unmapped(&**disk, &old.file)).map_err(storage_error)?;
    let Some(block) = opened else { return Ok((nothing(), None)) };
    if described(&block) != said(old) {
        return Ok((nothing(), None));
    }
    let highest = disk.list(BLOCK_DIR)?.iter().filter_map(|name| block_id(name)).max().unwrap_or(0);
    let id = store.current().id_next.max(highest + 1);
    let path = block_path(id);
    let saved = match salvage(disk, &block, &path) {
        Ok(Some(saved)) => saved,
        Ok(None) | Err(StorageError::Corrupt { .. }) => return Ok((nothing(), None)),
        Err(e) => return Err(storage_error(e)),
    };
    let Some(meta) = saved.meta else { return Ok((saved, None)) };
    let mut new = entry(id, old.level, &path, &meta, old.created_ms, old.sources.clone());
    new.set_arrival(old.arrival());
    note_crc(&**disk, &mut new).map_err(|e| BackupError::Io(e.to_string()))?;
    Ok((saved, Some(new)))
}

type Facts = (i64, i64, u64, u64, u64);

fn described(block: &Block) -> Facts {
    let meta = block.meta();
    (meta.min_time, meta.max_time, u64::from(meta.series), meta.samples, meta.bytes)
}

fn said(e: &ManifestEntry) -> Facts {
    (e.min_ts, e.max_ts, e.series, e.samples, e.bytes)
}

fn check_tombstone(t: &Tombstone, entries: &[ManifestEntry], report: &mut CheckReport) {
    if let Err(e) = Deletion::new(t) {
        report.damage(MANIFEST_FILE, None, e);
    }
    if let Some(id) = t.blocks.iter().find(|id| entries.iter().all(|e| e.id != **id)) {
        report.damage(MANIFEST_FILE, None, format!("tombstone {} names block {id}, which is not there", t.id));
    }
}

fn check_block(
    disk: &dyn Disk,
    file: &str,
    entry: Option<&ManifestEntry>,
    report: &mut CheckReport,
) -> Result<(), BackupError> {
    report.blocks += 1;
    // A page of a mapping that gets lost reads as zeros: that would look like damage.
    let block = match Block::open_unmapped(disk, file) {
        Ok(block) => block,
        Err(e) => return report.unread(file, e),
    };
    let meta = *block.meta();
    report.block_bytes += meta.bytes;
    report.samples += meta.samples;
    let before = report.damages();
    let mut may_pass = Ok(());
    block.verify_all(&mut |e| {
        if let Err(e) = report.unread(file, e) {
            may_pass = Err(e);
        }
    });
    may_pass?;
    match entry {
        Some(entry) if report.damages() == before => check_entry(disk, &block, entry, report),
        _ => Ok(()),
    }
}

/// Is a block the one that its entry describes?
fn check_entry(
    disk: &dyn Disk,
    block: &Block,
    entry: &ManifestEntry,
    report: &mut CheckReport,
) -> Result<(), BackupError> {
    let file = &entry.file;
    let (said, found) = (said(entry), described(block));
    if said != found {
        let what = format!(
            "another block than the manifest describes: {found:?} (times, series, samples, bytes) for {said:?}"
        );
        report.damage(file, None, what);
    }
    let Some(want) = crc_of(entry) else { return Ok(()) };
    match file_crc(disk, file) {
        Ok((_, crc)) if crc == want => {}
        Ok((_, crc)) => report.damage(file, None, format!("its CRC is {crc:08x}, the manifest says {want:08x}")),
        Err(e) => return report.unread(file, e.into()),
    }
    Ok(())
}

/// A frame of the log, as `inspect` shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameSummary {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes of the payload.
    pub bytes: u64,
    /// Series in it.
    pub series: u64,
    /// Float samples.
    pub floats: u64,
    /// Histograms.
    pub histograms: u64,
    /// Label sets it defines.
    pub definitions: u64,
    /// Earliest sample.
    pub min_ts: Option<i64>,
    /// Latest sample.
    pub max_ts: Option<i64>,
}

/// Decodes frames and counts.
#[derive(Default)]
struct Frames {
    record: Record,
    known: Vec<bool>,
    list: Vec<FrameSummary>,
}

impl ReplayShard for Frames {
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), String> {
        if frame.kind != crate::ingest::FRAME_BATCH {
            return Err(format!("frame kind {} is unknown", frame.kind));
        }
        self.record.decode(frame.payload).map_err(|e| e.to_string())?;
        for (r, _) in &self.record.definitions {
            let r = *r as usize;
            if r >= 1 << 28 {
                return Err(format!("series ref {r} is out of range"));
            }
            if r >= self.known.len() {
                self.known.resize(r + 1, false);
            }
            self.known[r] = true;
        }
        let batch = &self.record.batch;
        let times = || batch.ts.iter().copied().chain(batch.histograms.iter().map(|h| h.ts));
        self.list.push(FrameSummary {
            offset: frame.position.offset,
            bytes: frame.payload.len() as u64,
            series: self.record.refs.len() as u64,
            floats: batch.ts.len() as u64,
            histograms: batch.histograms.len() as u64,
            definitions: self.record.definitions.len() as u64,
            min_ts: times().min(),
            max_ts: times().max(),
        });
        let lost = self.record.refs.iter().filter(|r| !self.known.get(**r as usize).is_some_and(|k| *k)).count();
        if lost > 0 {
            return Err(format!("{lost} series are named in no readable frame of the segment"));
        }
        Ok(())
    }
}

/// Frames of a segment and what could not be read.
pub fn read_frames(
    disk: &dyn Disk,
    dir: &str,
    id: SegmentId,
) -> Result<(Vec<FrameSummary>, ReplayReport), ReplayError> {
    let mut frames = Frames::default();
    let report = read_segment(disk, dir, id, &mut frames)?;
    Ok((frames.list, report))
}

/// A data folder, as its manifest and its log tell.
#[derive(Debug)]
pub struct FolderSummary {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// Log segments still needed: file, bytes, frames, samples.
    pub segments: Vec<(String, u64, u64, u64)>,
}

/// Looks into a data folder; one that a server has open, too.
pub fn summarize_folder(disk: &Arc<dyn Disk>) -> Result<FolderSummary, BackupError> {
    need_data(disk, "is not a data folder")?;
    let store = ManifestStore::open(Arc::clone(disk), "")?;
    refuse_lost(&**disk, &store)?;
    let manifest = store.current();
    let mut segments = Vec::new();
    if disk.exists(LOG_DIR)? {
        for id in disk.list(LOG_DIR)?.iter().filter_map(|n| SegmentId::parse(n)) {
            if id.number >= manifest.log_floor.of(id.shard) {
                let (frames, report) = read_frames(&**disk, LOG_DIR, id).map_err(|e| BackupError::Io(e.to_string()))?;
                let samples = frames.iter().map(|f| f.floats + f.histograms).sum();
                segments.push((id.file_name(), report.bytes, frames.len() as u64, samples));
            }
        }
    }
    Ok(FolderSummary { manifest, segments })
}
