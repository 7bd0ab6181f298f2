//! Faults for a whole server, from outside: rules as text, from the environment or from a file that tests rewrite.
//!
//! ```text
//! QUIVER_FAULTS='sync@log/+3x1=eio'      the fourth sync of a log segment fails, once
//! QUIVER_FAULTS='change+17=kill'         the process ends before the 18th operation that changes something
//! QUIVER_FAULTS=@/tmp/rules              the rules that stand in the file at the moment of an operation; none: well
//!
//! rules  = rule { ";" rule }             rule = OP [ "@" PATH-PART ] [ "+" SKIP ] [ "x" COUNT ] "=" ACTION
//! OP     = create open read write sync sync-dir rename link remove truncate list stat create-dir lock map | change
//! ACTION = eio | enospc | io | half-eio | half-enospc | slow:MS | kill | kill-after
//! ```
//!
//! Without the variable nothing of this is in the way: the disk is the plain one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Disk, DiskErrorKind, DiskOp, FaultAction, FaultRule, FaultyDisk};

/// The environment variable that names the faults.
pub const FAULTS_VARIABLE: &str = "QUIVER_FAULTS";

/// The disk itself, or, where [`FAULTS_VARIABLE`] asks for it, one over it with faults.
pub fn open_with_faults(disk: Arc<dyn Disk>) -> Result<Arc<dyn Disk>, String> {
    let Ok(text) = std::env::var(FAULTS_VARIABLE) else { return Ok(disk) };
    tracing::warn!(rules = text, "disk faults are injected by {FAULTS_VARIABLE}");
    match text.strip_prefix('@') {
        Some(path) => Ok(Arc::new(FaultyDisk::controlled(disk, Control::new(path.into())))),
        None => {
            let faulty = FaultyDisk::new(disk);
            faulty.set(parse_rules(&text)?);
            Ok(Arc::new(faulty))
        }
    }
}

/// A file of rules.
#[derive(Debug)]
pub(super) struct Control {
    path: PathBuf,
    text: String,
}

impl Control {
    fn new(path: PathBuf) -> Self {
        Self { path, text: String::new() }
    }

    /// The rules, where the file says others than before. They begin anew then, their counts too.
    pub(super) fn changed(&mut self) -> Option<Vec<FaultRule>> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        if text == self.text {
            return None;
        }
        let rules = parse_rules(&text);
        self.text = text;
        match rules {
            Ok(rules) => Some(rules),
            Err(e) => {
                tracing::error!(error = e, "cannot parse the rules for disk faults");
                None
            }
        }
    }
}

/// Reads rules.
pub fn parse_rules(text: &str) -> Result<Vec<FaultRule>, String> {
    text.split(';').map(str::trim).filter(|r| !r.is_empty()).map(rule).collect()
}

fn rule(text: &str) -> Result<FaultRule, String> {
    let failed = || format!("{text:?} is not a rule like sync@log/+3x1=eio");
    let (mut left, action) = text.rsplit_once('=').ok_or_else(failed)?;
    let mut count = u64::MAX;
    let number = |s: &str| s.parse::<u64>().ok();
    if let Some((rest, n)) = left.rsplit_once('x').and_then(|(rest, n)| Some((rest, number(n)?))) {
        (left, count) = (rest, n);
    }
    let mut skip = 0;
    if let Some((rest, n)) = left.rsplit_once('+').and_then(|(rest, n)| Some((rest, number(n)?))) {
        (left, skip) = (rest, n);
    }
    let (op, path) = left.split_once('@').unwrap_or((left, ""));
    let action = match action.split_once(':') {
        Some(("slow", ms)) => FaultAction::Slow(Duration::from_millis(number(ms).ok_or_else(failed)?)),
        None => match action {
            "eio" => FaultAction::Fail(DiskErrorKind::Media),
            "enospc" => FaultAction::Fail(DiskErrorKind::Full),
            "io" => FaultAction::Fail(DiskErrorKind::Io),
            "half-eio" => FaultAction::Half(DiskErrorKind::Media),
            "half-enospc" => FaultAction::Half(DiskErrorKind::Full),
            "kill" => FaultAction::Kill,
            "kill-after" => FaultAction::KillAfter,
            _ => return Err(failed()),
        },
        Some(_) => return Err(failed()),
    };
    let op = match op {
        "change" => None,
        "create" => Some(DiskOp::Create),
        "open" => Some(DiskOp::Open),
        "read" => Some(DiskOp::Read),
        "write" => Some(DiskOp::Write),
        "sync" => Some(DiskOp::Sync),
        "sync-dir" => Some(DiskOp::SyncDir),
        "rename" => Some(DiskOp::Rename),
        "link" => Some(DiskOp::Link),
        "remove" => Some(DiskOp::Remove),
        "truncate" => Some(DiskOp::Truncate),
        "list" => Some(DiskOp::List),
        "stat" => Some(DiskOp::Stat),
        "create-dir" => Some(DiskOp::CreateDir),
        "lock" => Some(DiskOp::Lock),
        "map" => Some(DiskOp::Map),
        _ => return Err(failed()),
    };
    Ok(FaultRule { op, path_part: path.to_owned(), skip, count, action })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDisk;

    #[test]
    fn rules_are_read_as_they_are_written() {
        let rules = parse_rules("sync@log/+3x1=eio; change+17=kill;write=slow:20 ;").unwrap();
        let shown: Vec<_> = rules.iter().map(|r| (r.op, r.path_part.as_str(), r.skip, r.count)).collect();
        let want =
            [(Some(DiskOp::Sync), "log/", 3, 1), (None, "", 17, u64::MAX), (Some(DiskOp::Write), "", 0, u64::MAX)];
        assert_eq!(shown, want);
        assert!(matches!(rules[2].action, FaultAction::Slow(t) if t.as_millis() == 20));
        assert!(matches!(rules[1].action, FaultAction::Kill));
        for bad in ["sync", "sync=", "jump=eio", "sync=slow:x", "sync=fast:1", "sync+x=eio"] {
            assert!(parse_rules(bad).is_err(), "{bad}");
        }
        assert!(parse_rules("").unwrap().is_empty());
    }

    #[test]
    fn a_file_of_rules_counts_from_its_next_change_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        let disk = FaultyDisk::controlled(Arc::new(MemoryDisk::new()), Control::new(path.clone()));
        assert!(disk.create("a").is_ok(), "no file, no fault");
        std::fs::write(&path, "create+1x1=enospc").unwrap();
        assert!(disk.create("b").is_ok());
        assert!(disk.create("c").is_err_and(|e| e.is_full()));
        assert!(disk.create("c").is_ok());
        std::fs::write(&path, "").unwrap();
        assert!(disk.create("d").is_ok());
        assert_eq!(disk.hits(), 1);
    }
}
