//! `quiver check`: is every byte what was written?
//!
//! Ends with 0 if nothing is damaged, or if a repair lost nothing; with 3 if a repair lost samples; with 1 otherwise.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use quiver_core::check::{CheckReport, Finding};
use quiver_core::salvage::Salvaged;

use super::exit::Failure;
use super::progress::Bar;
use super::{counted, grouped, shown_bytes};

/// Flags of `quiver check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// A data folder that no server has open, a backup, a block (….block) or a log segment (….log)
    path: PathBuf,
    /// Repair a data folder: keep what is whole of damaged blocks, and move the damaged files, and files that nothing names, to
    /// its folder quarantine/. Nothing is deleted. Exits with 3 if samples were lost
    #[arg(long)]
    repair: bool,
}

/// Ranges listed one by one.
const LOST_SHOWN: usize = 1000;

/// Runs the command.
pub async fn run(args: CheckArgs) -> Result<(), Failure> {
    let (path, repair, files) = (args.path.clone(), args.repair, AtomicU64::new(0));
    let checked = tokio::task::spawn_blocking(move || {
        let bar = Bar::of_unknown();
        quiver_core::check::check(&path, repair, &|file| {
            let n = files.fetch_add(1, Ordering::Relaxed) + 1;
            bar.say(|rate| format!("{}{}: {file}", counted(n, "file"), rate(n, "files")));
        })
    });
    let report = checked.await.map_err(|e| e.to_string())?;
    let folder = args.path.display().to_string();
    let report = report.map_err(|e| match e.to_string() {
        text if text.contains(&folder) => text,
        text => format!("{folder}: {text}"),
    })?;
    let (text, ended) = told(&report, args.repair, &folder, args.path.is_dir());
    super::print(&text);
    ended
}

/// The text that a check prints, and its exit code.
fn told(report: &CheckReport, is_repair: bool, folder: &str, is_folder: bool) -> (String, Result<(), Failure>) {
    let mut text: String = report.findings.iter().map(line).collect();
    for (file, s) in &report.salvaged {
        text.push_str(&salvaged_text(file, s));
    }
    for path in &report.set_aside {
        text.push_str(&format!("moved to {path}\n"));
    }
    text.push_str(&format!(
        "read {} ({}, {}) and {} ({})\n",
        counted(report.blocks, "block"),
        shown_bytes(report.block_bytes),
        counted(report.samples, "sample"),
        counted(report.segments, "log segment"),
        counted(report.frames, "frame")
    ));
    let damages = report.findings.iter().filter(|f| f.is_damage).count() as u64;
    let newer = report.newer.first().map(|first| {
        Failure::Failed(format!(
            "{first} was written by a newer version of Quiver and was not checked; run quiver check of that version"
        ))
    });
    let ended = match (damages, newer) {
        (0, None) => {
            text.push_str("no damage\n");
            Ok(())
        }
        (0, Some(newer)) => Err(newer),
        (_, _) if is_repair => repaired(report, &mut text),
        (n, _) => {
            let places = counted(n, "place");
            let how = match is_folder {
                true => format!("quiver check {folder} --repair keeps what is whole"),
                false => "quiver check DIR --repair repairs a data folder, not a single file".to_owned(),
            };
            Err(Failure::Failed(format!("{folder} is damaged in {places}; {how}")))
        }
    };
    (text, ended)
}

fn line(f: &Finding) -> String {
    let kind = if f.is_damage { "damage" } else { "note" };
    let place = f.offset.map_or_else(String::new, |at| format!(" at byte {at}"));
    format!("{kind}: {}{place}: {}\n", f.file, f.what)
}

fn salvaged_text(file: &str, s: &Salvaged) -> String {
    let mut text = match &s.meta {
        Some(meta) => format!("kept: {} of {file}\n", counted(meta.samples, "sample")),
        None => format!("kept: nothing of {file}\n"),
    };
    for l in s.lost.iter().take(LOST_SHOWN) {
        let series = l.series.as_ref().map_or_else(|| "all series".to_owned(), ToString::to_string);
        let (from, to) = (super::shown_time(l.min_ts), super::shown_time(l.max_ts));
        text.push_str(&format!("lost: {} of {series} from {from} to {to}\n", counted(l.samples, "sample")));
    }
    if s.lost.len() > LOST_SHOWN {
        let (samples, ranges) = (counted(s.samples_lost(), "sample"), counted(s.lost.len() as u64, "range"));
        text.push_str(&format!("lost: {samples} in all, in {ranges}\n"));
    }
    for (is_lost, what) in [(s.exemplars_lost, "exemplars"), (s.metadata_lost, "metadata")] {
        if is_lost {
            text.push_str(&format!("lost: {what} of {file}\n"));
        }
    }
    text
}

/// The end of a repair: a line that sums it up, and what is lost as the reason for an exit code.
fn repaired(report: &CheckReport, text: &mut String) -> Result<(), Failure> {
    let done = report.repaired();
    if report.salvaged.is_empty() && report.refetched.is_empty() {
        text.push_str("repaired: no block was damaged\n");
    } else {
        let all = done.samples_kept + done.samples_lost;
        let lost = if done.samples_lost == 0 { "none".to_owned() } else { grouped(done.samples_lost) };
        text.push_str(&format!(
            "repaired: {} of {} kept, {lost} lost\n",
            grouped(done.samples_kept),
            counted(all, "sample")
        ));
    }
    let (in_log, other): (Vec<_>, Vec<_>) = report.left.iter().partition(|f| f.file.starts_with("log/"));
    if let Some(first) = other.first() {
        let more = if other.len() > 1 { format!(", and {} more", other.len() - 1) } else { String::new() };
        return Err(Failure::Failed(format!("not repaired: {}: {}{more}", first.file, first.what)));
    }
    let mut lost = Vec::new();
    if done.samples_lost > 0 {
        lost.push(counted(done.samples_lost, "sample"));
    }
    if done.is_more_lost {
        lost.push("exemplars or metadata, as named above".to_owned());
    }
    if !in_log.is_empty() {
        lost.push(format!(
            "the contents of {} (the server moves the damaged segment to quarantine/ after its next flush)",
            place_of_log(in_log.len() as u64)
        ));
    }
    if report.doubtful_blocks > 0 {
        lost.push(format!(
            "possibly {} in quarantine/: no manifest that can be read lists them",
            counted(report.doubtful_blocks, "block")
        ));
    }
    if lost.is_empty() { Ok(()) } else { Err(Failure::Incomplete(format!("lost: {}", lost.join("; ")))) }
}

fn place_of_log(n: u64) -> String {
    counted(n, "damaged place") + " of the log"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(file: &str) -> Finding {
        Finding { file: file.into(), offset: Some(7), what: "bad".into(), is_damage: true }
    }

    #[test]
    fn a_repair_is_summed_up_and_has_its_exit_code() {
        let end = |report: &CheckReport, repair| {
            let (text, ended) = told(report, repair, "data", true);
            (text.lines().last().unwrap_or("").to_owned(), ended.err().map(|f| f.code()))
        };
        let mut report = CheckReport::default();
        assert_eq!(end(&report, false), ("no damage".into(), None));
        assert_eq!(end(&report, true), ("no damage".into(), None));
        report.findings.push(finding("blocks/1.block"));
        assert_eq!(end(&report, false).1, Some(1));
        let said = |is_folder| format!("{:?}", told(&report, false, "x", is_folder).1);
        assert!(said(true).contains("quiver check x --repair") && !said(false).contains("x --repair"));
        report.refetched.push(("blocks/1.block".into(), 2408));
        assert_eq!(end(&report, true), ("repaired: 2,408 of 2,408 samples kept, none lost".into(), None));
        report.left.push(finding("log/000-0000000000000001.log"));
        assert_eq!(end(&report, true).1, Some(3), "what the log held is lost");
        report.left = vec![finding("MANIFEST")];
        assert_eq!(end(&report, true).1, Some(1), "not repaired");
        report.left.clear();
        let lost = Salvaged { exemplars_lost: true, ..Salvaged::default() };
        report.salvaged.push(("blocks/1.block".into(), lost));
        assert_eq!(end(&report, true).1, Some(3));
        report.newer.push("blocks/2.block".into());
        report.findings.clear();
        assert_eq!(end(&report, false).1, Some(1), "not checked");
    }
}
