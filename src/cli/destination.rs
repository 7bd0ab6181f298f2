//! The folder of an export: new, empty, or with an earlier export that may be deleted.
//!
//! Invariants
//! 1. A folder with a file that no export wrote is refused, untouched.
//! 2. Nothing is created or deleted before there is a day to write: an export that fails before, or matches nothing, leaves no trace.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quiver_persistence::{Disk, DiskError, DiskErrorKind, RealDisk};
use quiver_storage::parquet::{DAY_PREFIX, DayWriter, ParquetExporter, day_dir};

/// Foreign names that an error lists.
const NAMES_SHOWN: usize = 3;

/// Names in a folder, as paths relative to it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    /// Folders of days.
    days: Vec<String>,
    /// Files of an export in them.
    files: Vec<String>,
    /// Names that no export has.
    foreign: Vec<String>,
}

/// See the module.
pub struct Destination {
    out: PathBuf,
    earlier: Contents,
    /// Folders that this export has to create, the innermost first.
    missing: Vec<PathBuf>,
    days: Vec<String>,
    opened: Option<(Arc<RealDisk>, ParquetExporter)>,
}

impl Destination {
    /// Looks at a folder; `replace` says that an earlier export in it may be deleted.
    pub fn open(out: &Path, replace: bool) -> Result<Self, String> {
        let shown = out.display();
        let earlier = match RealDisk::open(out) {
            Ok(disk) => contents(&disk).map_err(|e| e.to_string())?,
            Err(e) if e.kind == DiskErrorKind::NotFound && !out.exists() => Contents::default(),
            Err(e) => return Err(e.to_string()),
        };
        if !earlier.foreign.is_empty() {
            let (names, more) = (&earlier.foreign, earlier.foreign.len().saturating_sub(NAMES_SHOWN));
            let mut listed = names.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
            if more > 0 {
                listed.push_str(&format!(" and {more} more"));
            }
            return Err(format!("{shown} holds files that no export wrote ({listed}): choose an empty or new folder"));
        }
        if !replace && (!earlier.days.is_empty() || !earlier.files.is_empty()) {
            return Err(format!(
                "{shown} holds an earlier export: choose an empty folder, or --replace deletes that export first"
            ));
        }
        let missing = out.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists());
        let missing = missing.map(Path::to_owned).collect();
        Ok(Self { out: out.to_owned(), earlier, missing, days: Vec::new(), opened: None })
    }

    /// Starts the file of a day. The first one creates the folder, and deletes the earlier export.
    pub fn day(&mut self, ts: i64) -> Result<DayWriter, String> {
        let exporter = match &self.opened {
            Some((_, exporter)) => exporter,
            None => {
                let disk = Arc::new(RealDisk::create(&self.out).map_err(|e| e.to_string())?);
                for file in &self.earlier.files {
                    disk.remove(file).map_err(|e| e.to_string())?;
                }
                remove_empty(&*disk, &self.earlier.days);
                let exporter = ParquetExporter::create(Arc::clone(&disk) as _, "").map_err(|e| e.to_string())?;
                &self.opened.insert((disk, exporter)).1
            }
        };
        self.days.push(day_dir(ts));
        exporter.day(ts).map_err(|e| e.to_string())
    }
}

impl Drop for Destination {
    /// Folders that a failed export leaves empty are deleted.
    fn drop(&mut self) {
        let Some((disk, _)) = &self.opened else { return };
        remove_empty(&**disk, &self.days);
        for folder in &self.missing {
            let (parent, name) = (folder.parent().unwrap_or(Path::new("")), folder.file_name());
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            if let (Ok(disk), Some(name)) = (RealDisk::open(parent), name.and_then(|n| n.to_str())) {
                remove_empty(&disk, &[name.to_owned()]);
            }
        }
    }
}

/// Removes those of the folders that are empty.
fn remove_empty(disk: &dyn Disk, folders: &[String]) {
    for folder in folders {
        // One that is not empty stays, and one that cannot be removed does no harm.
        let _ = disk.remove_dir(folder);
    }
}

fn contents(disk: &dyn Disk) -> Result<Contents, DiskError> {
    let mut found = Contents { foreign: disk.list("")?, ..Contents::default() };
    for day in disk.list_dirs("")? {
        if !is_day(&day) {
            found.foreign.push(day);
            continue;
        }
        let strange = disk.list_dirs(&day)?;
        let (parts, others): (Vec<_>, Vec<_>) = disk.list(&day)?.into_iter().partition(|name| is_part(name));
        found.files.extend(parts.iter().map(|name| format!("{day}/{name}")));
        found.foreign.extend(others.iter().chain(&strange).map(|name| format!("{day}/{name}")));
        found.days.push(day);
    }
    Ok(found)
}

/// `day=2026-01-31`
fn is_day(name: &str) -> bool {
    let is_date = |d: &str| {
        let digits = |range| d.get(range).is_some_and(|t: &str| t.bytes().all(|b| b.is_ascii_digit()));
        d.len() == 10 && digits(0..4) && digits(5..7) && digits(8..10)
    };
    name.strip_prefix(DAY_PREFIX).is_some_and(is_date)
}

/// `part-0.parquet`, and the unfinished one of an export that was ended.
fn is_part(name: &str) -> bool {
    let name = name.strip_suffix(".tmp").unwrap_or(name);
    let number = name.strip_prefix("part-").and_then(|n| n.strip_suffix(".parquet"));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_an_export_may_be_replaced() {
        for (name, is_ours) in [("part-0.parquet", true), ("part-0.parquet.tmp", true), ("part-.parquet", false)] {
            assert_eq!(is_part(name), is_ours, "{name}");
        }
        for (name, is_ours) in
            [("day=2026-01-31", true), ("day=2026-1-31", false), ("days", false), ("day=é6-01-31", false)]
        {
            assert_eq!(is_day(name), is_ours, "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a/b");
        drop(Destination::open(&out, false).unwrap());
        assert!(!folder.path().join("a").exists(), "nothing is created before a day is written");
        let day = out.join("day=2026-01-31");
        std::fs::create_dir_all(&day).unwrap();
        std::fs::write(day.join("part-0.parquet"), "x").unwrap();
        let said = Destination::open(&out, false).err().unwrap();
        assert!(said.contains("holds an earlier export") && said.contains("--replace"), "{said}");
        drop(Destination::open(&out, true).unwrap());
        assert!(day.join("part-0.parquet").exists(), "nothing is deleted before a day is written");
        std::fs::write(day.join("mine.parquet"), "x").unwrap();
        for replace in [false, true] {
            let said = Destination::open(&out, replace).err().unwrap();
            assert!(said.contains("day=2026-01-31/mine.parquet"), "{said}");
        }
    }
}
