//! Is a folder Quiver's? Asked before anything is written into it, the lock file included.
//!
//! ```text
//! a manifest that can be read, a log segment, a block  ─▶ ours, whatever else lies there
//! else: catalogs, and blocks as a remote store has them ─▶ a remote store: refused, untouched
//! else: nothing but our names, harmless ones and logs   ─▶ empty
//! else                                                  ─▶ foreign: refused, untouched
//! ```

use std::sync::Arc;

use quiver_persistence::disk::LOCK_FILE;
use quiver_persistence::log::SegmentId;
use quiver_persistence::manifest::{MANIFEST_COPY_FILE, MANIFEST_FILE, MANIFEST_TEMP_FILE};
use quiver_persistence::remote::CATALOG_DIR;
use quiver_persistence::{Disk, ManifestError, ManifestStore};

use crate::catalog::QUARANTINE_DIR;
use crate::options::OpenError;
use crate::snapshots::SNAPSHOT_DIR;
use crate::store::{BLOCK_DIR, LOG_DIR};
use crate::tier::PAGES_DIR;

/// Folder with temporary files of SQL statements, which are deleted at the start.
pub const TEMPORARY_DIR: &str = "tmp";

/// Names that a data folder has.
const OWN: [&str; 10] = [
    LOCK_FILE,
    MANIFEST_FILE,
    MANIFEST_COPY_FILE,
    MANIFEST_TEMP_FILE,
    BLOCK_DIR,
    LOG_DIR,
    QUARANTINE_DIR,
    SNAPSHOT_DIR,
    PAGES_DIR,
    TEMPORARY_DIR,
];

/// Names that file systems and version control leave in an empty folder.
const HARMLESS: [&str; 9] =
    ["lost+found", ".gitkeep", ".gitignore", ".keep", ".keepme", ".snapshot", ".snapshots", ".zfs", ".DS_Store"];

/// The error for a remote store in the place of a data folder.
pub(crate) const REMOTE: &str = "is a remote store, not a data folder: it is named by --tier-url";

/// Foreign names that an error lists.
const NAMES_SHOWN: usize = 3;

/// What a folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Folder {
    /// A data folder, a snapshot or a backup.
    Ours,
    /// Nothing of ours and nothing of others.
    Empty,
    /// A folder that serves as a remote store: its blocks are named by its catalogs, not by a manifest.
    Remote,
    /// Something else; names of what is in it.
    Foreign(Vec<String>),
}

/// Looks at a folder. Writes nothing.
pub(crate) fn judge(disk: &Arc<dyn Disk>) -> Result<Folder, OpenError> {
    match ManifestStore::open(Arc::clone(disk), "") {
        Ok(store) if store.current().generation > 0 => return Ok(Folder::Ours),
        Err(ManifestError::OtherVersion { .. }) => return Ok(Folder::Ours),
        Err(ManifestError::Disk(e)) => return Err(e.into()),
        // Nothing that can be read as a manifest: the rest decides, since other databases have files of that name, too.
        Ok(_) | Err(ManifestError::Damaged { .. }) => {}
    }
    let (files, folders) = (disk.list("")?, disk.list_dirs("")?);
    // A plain file of the name has nothing in it; a link to a folder is listed as a file.
    let within = |dir: &str| match disk.list(dir) {
        Ok(names) => Ok(Some(names)),
        Err(e) if folders.iter().any(|f| f == dir) => Err(OpenError::from(e)),
        Err(_) => Ok(None),
    };
    let (blocks, segments) = (within(BLOCK_DIR)?, within(LOG_DIR)?);
    let has = |names: &Option<Vec<String>>, is_own: &dyn Fn(&str) -> bool| names.iter().flatten().any(|n| is_own(n));
    // Blocks, and what is kept of those in a remote store, have a number and an ending. In the remote store, more stands between.
    let is_numbered = |n: &str| {
        n.split_once('.').is_some_and(|(number, _)| number.len() == 16 && number.bytes().all(|b| b.is_ascii_digit()))
    };
    if has(&blocks, &is_numbered) || has(&segments, &|n| SegmentId::parse(n).is_some()) {
        return Ok(Folder::Ours);
    }
    let has_remote_blocks = has(&blocks, &|n| n.len() > 17 && n.as_bytes()[16] == b'-' && n.ends_with(".block"));
    if has_remote_blocks && folders.iter().any(|f| f == CATALOG_DIR) {
        return Ok(Folder::Remote);
    }
    // A crash leaves unfinished files; other programs have folders of these names, too.
    let is_bare =
        |names: &Option<Vec<String>>| names.as_ref().is_some_and(|names| names.iter().all(|n| is_unfinished(n)));
    let is_strange = |name: &String| match name.as_str() {
        BLOCK_DIR => !is_bare(&blocks),
        LOG_DIR => !is_bare(&segments),
        name => !OWN.contains(&name) && !is_harmless(name),
    };
    let strange_files = files.iter().filter(|n| is_strange(n) && !is_of_a_service(n));
    let mut strange: Vec<String> = folders.iter().filter(|n| is_strange(n)).chain(strange_files).cloned().collect();
    // What tells a reader most comes first.
    strange.sort_by_key(|name| name.starts_with('.'));
    Ok(if strange.is_empty() { Folder::Empty } else { Folder::Foreign(strange) })
}

/// Refuses a folder that holds something of others and nothing of ours.
pub(crate) fn refuse_foreign(disk: &Arc<dyn Disk>) -> Result<(), OpenError> {
    match judge(disk)? {
        Folder::Ours | Folder::Empty => Ok(()),
        Folder::Remote => Err(OpenError::Damaged(format!("{} {REMOTE}", disk.name()))),
        Folder::Foreign(found) => Err(OpenError::Foreign { folder: disk.name(), found }),
    }
}

/// Is it what file systems and version control leave in an empty folder?
pub(crate) fn is_harmless(name: &str) -> bool {
    HARMLESS.contains(&name) || name.starts_with(".nfs")
}

/// Is it a file that a service manager or a shell writes for a server, such as `server.log` or `quiver.pid`? Databases number their logs.
fn is_of_a_service(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && [".log", ".out", ".err", ".pid"].iter().any(|end| name.ends_with(end))
}

fn is_unfinished(name: &str) -> bool {
    [".tmp", ".copy", ".head"].iter().any(|end| name.ends_with(end))
}

/// The names as an error has them: `wal, chunks_head and 3 more`.
pub(crate) fn listed(found: &[String]) -> String {
    let (shown, more) = found.split_at(found.len().min(NAMES_SHOWN));
    let shown: Vec<String> = shown.iter().map(|n| n.escape_debug().to_string()).collect();
    match more.len() {
        0 => shown.join(", "),
        n => format!("{} and {n} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use quiver_persistence::MemoryDisk;

    use super::*;

    fn judged(paths: &[&str]) -> Folder {
        let disk = MemoryDisk::new();
        for path in paths {
            match path.strip_suffix('/') {
                Some(dir) => disk.create_dir(dir).unwrap(),
                None => {
                    disk.create_dir(quiver_persistence::disk::parent(path)).unwrap();
                    disk.create(path).unwrap().write_all(b"something").unwrap();
                }
            }
        }
        let disk: Arc<dyn Disk> = Arc::new(disk);
        judge(&disk).unwrap()
    }

    #[test]
    fn ours_empty_and_foreign_are_told_apart() {
        let segment = format!("log/{}", SegmentId { shard: 0, number: 1 }.file_name());
        for empty in [
            &[][..],
            &["lost+found/", ".gitkeep", ".nfs000001"],
            &["server.log", "quiver.pid"],
            // A start that was cut off.
            &["LOCK"],
            &["LOCK", "log/", "blocks/", "MANIFEST.tmp"],
            &["log/new.tmp"],
        ] {
            assert_eq!(judged(empty), Folder::Empty, "{empty:?}");
        }
        for ours in [
            &[segment.as_str()][..],
            &["blocks/0000000000000001.block", "notes.txt"],
            &["blocks/0000000000000001.tail"],
            &[segment.as_str(), "wal/"],
        ] {
            assert_eq!(judged(ours), Folder::Ours, "{ours:?}");
        }
        for (foreign, found) in [
            (&["wal/00000000", "chunks_head/000001", "lock"][..], &["chunks_head", "wal", "lock"][..]),
            (&["CURRENT", "MANIFEST-000004", "LOCK", "000005.sst"], &["000005.sst", "CURRENT", "MANIFEST-000004"]),
            // Badger's manifest has our name.
            (&["MANIFEST", "KEYREGISTRY", "000001.vlog"], &["000001.vlog", "KEYREGISTRY"]),
            (&[".bashrc", ".ssh/id"], &[".ssh", ".bashrc"]),
            (&["log/app.log"], &["log"]),
            (&["notes.txt"], &["notes.txt"]),
        ] {
            assert_eq!(
                judged(foreign),
                Folder::Foreign(found.iter().map(ToString::to_string).collect()),
                "{foreign:?}"
            );
        }
        let remote = ["blocks/0000000000000001-53e7c763.block", "catalog/00000000000000000001.json"];
        assert_eq!(judged(&remote), Folder::Remote);
        let many: Vec<String> = ["a", "b\n", "c", "d", "e"].map(String::from).into();
        assert_eq!(listed(&many), "a, b\\n, c and 2 more");
    }
}
