//! `quiver inspect`: what is in a data folder, a block, a log segment.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use quiver_core::check::{Found, look, read_frames, summarize_folder};
use quiver_persistence::log::SegmentId;
use quiver_persistence::{Disk, Place};
use quiver_storage::Block;

use super::{counted, grouped, shown_bytes, shown_time};

/// Flags of `quiver inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// A data folder, a backup, a block (….block) or a log segment (….log)
    path: PathBuf,
    /// Lines of each list
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
}

/// Runs the command.
pub async fn run(args: InspectArgs) -> Result<(), String> {
    let shown = args.path.display().to_string();
    let done = tokio::task::spawn_blocking(move || match look(&args.path).map_err(|e| e.to_string())? {
        Found::Folder(disk) => folder(&disk, args.limit),
        Found::Block(disk, name) => block(&*disk, &name, args.limit),
        Found::Segment(disk, id) => segment(&*disk, id, args.limit),
    });
    // An error that names the path does so once.
    let text = done.await.map_err(|e| e.to_string())?;
    let text = text.map_err(|e| if e.contains(&shown) { e } else { format!("{shown}: {e}") })?;
    super::print(&text);
    Ok(())
}

/// `, 1.234 bytes/sample`; nothing without samples.
fn per_sample(bytes: u64, samples: u64) -> String {
    if samples == 0 { String::new() } else { format!(", {:.3} bytes/sample", bytes as f64 / samples as f64) }
}

fn span(min: i64, max: i64) -> String {
    format!("{} … {}", shown_time(min), shown_time(max))
}

fn folder(disk: &std::sync::Arc<dyn Disk>, limit: usize) -> Result<String, String> {
    let summary = summarize_folder(disk).map_err(|e| e.to_string())?;
    let m = &summary.manifest;
    let (bytes, samples) = m.entries.iter().fold((0, 0), |(b, s), e| (b + e.bytes, s + e.samples));
    let mut out = format!(
        "manifest   generation {}, {}, {}, {}{}\n",
        m.generation,
        counted(m.entries.len() as u64, "block"),
        shown_bytes(bytes),
        counted(samples, "sample"),
        per_sample(bytes, samples)
    );
    let mut entries: Vec<_> = m.entries.iter().collect();
    entries.sort_by_key(|e| (e.min_ts, e.id));
    for e in entries.iter().take(limit) {
        let _ = writeln!(
            out,
            "block      {}  {}  level {}, {}, {}, {}{}{}",
            e.file,
            span(e.min_ts, e.max_ts),
            e.level,
            counted(e.series, "series"),
            counted(e.samples, "sample"),
            shown_bytes(e.bytes),
            per_sample(e.bytes, e.samples),
            match e.place() {
                Place::Local => "",
                Place::Both => ", also in the remote store",
                Place::Remote => ", in the remote store only",
            }
        );
    }
    for t in m.tombstones.iter().take(limit) {
        let matchers: Vec<String> = t.matchers.iter().map(|(op, n, v)| format!("{n}{op}{v:?}")).collect();
        let blocks = counted(t.blocks.len() as u64, "block");
        let _ = writeln!(out, "tombstone  {{{}}}  {}  in {blocks}", matchers.join(","), span(t.min_ts, t.max_ts));
    }
    for (file, bytes, frames, samples) in summary.segments.iter().take(limit) {
        let (frames, samples) = (counted(*frames, "frame"), counted(*samples, "sample"));
        let _ = writeln!(out, "log        {file}  {}, {frames}, {samples}", shown_bytes(*bytes));
    }
    Ok(out)
}

fn block(disk: &dyn Disk, name: &str, limit: usize) -> Result<String, String> {
    let block = Block::open(disk, name).map_err(|e| e.to_string())?;
    let s = block.summarize().map_err(|e| e.to_string())?;
    let m = &s.meta;
    let mut out = format!(
        "block      {name}  {}\n           {}, {}, {}, {}, {}, {}{}\n",
        span(m.min_time, m.max_time),
        counted(u64::from(m.series), "series"),
        counted(m.chunks, "chunk"),
        counted(m.samples, "sample"),
        counted(m.exemplars, "exemplar"),
        counted(u64::from(m.time_columns), "time column"),
        shown_bytes(m.bytes),
        per_sample(m.bytes, m.samples)
    );
    for (part, bytes) in &s.parts {
        let _ = writeln!(out, "part       {part}: {}{}", shown_bytes(*bytes), per_sample(*bytes, m.samples));
    }
    let mut codecs: Vec<_> = s.codecs.iter().collect();
    codecs.sort_by_key(|(_, c)| std::cmp::Reverse(c.chunks));
    for (codec, c) in codecs {
        let _ = writeln!(
            out,
            "codec      {codec}: {}, {}, {}{}",
            counted(c.chunks, "chunk"),
            counted(c.samples, "sample"),
            shown_bytes(c.bytes),
            per_sample(c.bytes, c.samples)
        );
    }
    for (metric, c) in s.metrics.iter().take(limit) {
        let _ = writeln!(
            out,
            "metric     {metric}: {}, {}, {}{}",
            counted(c.series, "series"),
            counted(c.samples, "sample"),
            shown_bytes(c.bytes),
            per_sample(c.bytes, c.samples)
        );
    }
    for (label, c) in s.labels.iter().take(limit) {
        let _ = writeln!(out, "label      {label}: {}, {}", counted(c.series, "value"), shown_bytes(c.bytes));
    }
    Ok(out)
}

fn segment(disk: &dyn Disk, id: SegmentId, limit: usize) -> Result<String, String> {
    let (frames, report) = read_frames(disk, "", id).map_err(|e| e.to_string())?;
    let samples: u64 = frames.iter().map(|f| f.floats + f.histograms).sum();
    let mut out = format!(
        "segment    {}  {}, {}, {}{}\n",
        id.file_name(),
        shown_bytes(report.bytes),
        counted(frames.len() as u64, "frame"),
        counted(samples, "sample"),
        per_sample(report.bytes, samples)
    );
    for f in frames.iter().take(limit) {
        let times = f.min_ts.zip(f.max_ts).map_or_else(String::new, |(a, b)| format!("  {}", span(a, b)));
        let _ = writeln!(
            out,
            "frame      at {}: {}, {}, {}, {}, {}{times}",
            grouped(f.offset),
            counted(f.bytes, "byte"),
            counted(f.series, "series"),
            counted(f.floats, "float"),
            counted(f.histograms, "histogram"),
            counted(f.definitions, "label set")
        );
    }
    for d in report.damage.iter().chain(&report.torn) {
        let _ = writeln!(out, "unread     {d}");
    }
    Ok(out)
}
