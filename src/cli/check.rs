//! `quiver check`: is every byte what was written?

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;

use super::shown_bytes;

/// Flags of `quiver check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// A data folder that no server has open, a backup, a block (….block) or a log segment (….log)
    path: PathBuf,
    /// Keep what is whole of damaged blocks; move these, and files that nothing names, to quarantine/ in the data folder;
    /// nothing is deleted
    #[arg(long)]
    repair: bool,
}

/// Ranges listed one by one.
const LOST_SHOWN: usize = 1000;

/// Runs the command. Damage is an error, so that it ends with exit code 1.
pub async fn run(args: CheckArgs) -> Result<(), String> {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let (path, repair, shown) = (args.path.clone(), args.repair, bar.clone());
    let checked = tokio::task::spawn_blocking(move || {
        quiver_core::check::check(&path, repair, &|file| {
            shown.set_message(file.to_owned());
            shown.tick();
        })
    });
    let report = checked.await.map_err(|e| e.to_string())?;
    bar.finish_and_clear();
    let report = report.map_err(|e| format!("{}: {e}", args.path.display()))?;
    let mut text = String::new();
    for f in &report.findings {
        let kind = if f.is_damage { "damage" } else { "note" };
        let place = f.offset.map_or_else(String::new, |at| format!(" at byte {at}"));
        text.push_str(&format!("{kind}: {}{place}: {}\n", f.file, f.what));
    }
    for (file, s) in &report.salvaged {
        match &s.meta {
            Some(meta) => text.push_str(&format!("saved: {} samples of {file}\n", meta.samples)),
            None => text.push_str(&format!("saved: nothing of {file}\n")),
        }
        for l in s.lost.iter().take(LOST_SHOWN) {
            let series = l.series.as_ref().map_or_else(|| "all series".to_owned(), ToString::to_string);
            let (from, to) = (super::shown_time(l.min_ts), super::shown_time(l.max_ts));
            text.push_str(&format!("lost: {} samples of {series} from {from} to {to}\n", l.samples));
        }
        if s.lost.len() > LOST_SHOWN {
            text.push_str(&format!("lost: {} samples in all, in {} ranges\n", s.samples_lost(), s.lost.len()));
        }
        for (is_lost, what) in [(s.exemplars_lost, "exemplars"), (s.metadata_lost, "metadata")] {
            if is_lost {
                text.push_str(&format!("lost: {what} of {file}\n"));
            }
        }
    }
    for path in &report.set_aside {
        text.push_str(&format!("set aside: {path}\n"));
    }
    text.push_str(&format!(
        "{} blocks ({}, {} samples) and {} log segments ({} frames) read\n",
        report.blocks,
        shown_bytes(report.block_bytes),
        report.samples,
        report.segments,
        report.frames
    ));
    super::print(&text);
    if report.is_damaged() {
        let damages = report.findings.iter().filter(|f| f.is_damage).count();
        return Err(format!("{damages} damages found in {}", args.path.display()));
    }
    if let Some(first) = report.newer.first() {
        return Err(format!("{first} was written by a newer version, and not checked: check it with that version"));
    }
    Ok(())
}
