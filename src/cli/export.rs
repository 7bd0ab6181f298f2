//! `quiver export`: stored series as Parquet, a folder per day.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use http_body_util::BodyExt;
use hyper::body::Bytes;
use quiver_core::{Need, SeriesSet, Source, TimeRange};
use quiver_gateway::http::export::union;
use quiver_gateway::write::decode::{DecodeOptions, DecodeScratch, Version, decode};
use quiver_model::{Clock, Labels, Limits, Matcher, SampleColumn, SystemClock, WriteBatch};
use quiver_query::Features;
use quiver_query::promql::{ParseOptions, parse_metric_selector};
use quiver_storage::parquet::{DayWriter, days};

use super::client::{Server, refused};
use super::data::{Data, DataArgs};
use super::destination::Destination;
use super::exit::Failure;
use super::progress::Bar;
use super::terminal::{self, plural};
use super::{offline, seconds, shown_bytes, times, when};

/// Bytes of a part of an answer at most; servers send parts of 20,000 samples.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// Bytes that a part may unpack to.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Flags of `quiver export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Folder to write to: empty, or created if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// If the folder holds an earlier export, delete that one first
    #[arg(long)]
    replace: bool,
    /// Only series that match, such as '{job="node"}'; may be given several times
    #[arg(long = "match", value_name = "SELECTOR")]
    selectors: Vec<String>,
    /// Only samples from this time on: now-1h, -1h, yesterday, 2026-12-01, 2026-12-01T12:10 (local time),
    /// 2026-12-01T12:10:00Z or Unix seconds. Folders are days in UTC
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    start: Option<String>,
    /// Only samples up to this time, inclusive; written like --start
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    end: Option<String>,
}

/// The progress of a long command, shown while it runs.
struct Progress {
    bar: Bar,
    samples: u64,
    folders: u64,
}

impl Progress {
    fn new(days: u64) -> Self {
        Self { bar: Bar::of_parts(days, "day"), samples: 0, folders: 0 }
    }

    fn add(&mut self, samples: usize) {
        self.samples += samples as u64;
        self.bar.say(|rate| format!("{}{}", plural(self.samples, "sample"), rate(self.samples, "samples")));
    }

    fn day_done(&mut self, day: TimeRange, rows: u64) {
        self.folders += u64::from(rows > 0);
        if self.bar.is_hidden() && rows > 0 {
            use std::io::Write as _;
            // Who reads the lines may have left: the export goes on.
            let _ =
                writeln!(std::io::stderr(), "{} {}", quiver_storage::parquet::day_of(day.min), plural(rows, "sample"));
        }
        self.bar.part_done();
    }
}

/// Runs the command.
pub async fn run(args: ExportArgs) -> Result<(), Failure> {
    let data = args.data.find();
    let now = SystemClock.now_ms();
    let (start, end) = (args.start.as_ref(), args.end.as_ref());
    let asked =
        TimeRange { min: when::flag("start", start, now, i64::MIN)?, max: when::flag("end", end, now, i64::MAX)? };
    if asked.min > asked.max {
        let (start, end) = (times::stamp(asked.min), times::stamp(asked.max));
        return Err(Failure::Usage(format!("--start is after --end: {start} is later than {end}")));
    }
    let options = ParseOptions::new(&Limits::default(), Features { unquoted_utf8_names: true, ..Features::default() });
    let mut selectors: Vec<Vec<Matcher>> = Vec::new();
    for text in &args.selectors {
        let parsed = parse_metric_selector(text, &options);
        selectors.push(parsed.map_err(|e| Failure::Usage(format!("--match {text:?}: {e}")))?);
    }
    if let Data::Server(url) = &data {
        // Before a folder is made for nothing.
        Server::new(url).map_err(|e| Failure::Usage(e.to_string()))?;
    }
    let mut destination = Destination::open(&args.out, args.replace)?;
    let begun = Instant::now();
    let (samples, folders) = match data {
        Data::Folder(folder) => {
            let source = offline::open(&folder)?;
            if selectors.is_empty() {
                selectors.push(Vec::new());
            }
            let done =
                tokio::task::spawn_blocking(move || from_source(&*source, &selectors, asked, &mut destination)).await;
            done.map_err(|e| e.to_string())??
        }
        Data::Server(url) => from_server(&url, &args.selectors, asked, &mut destination).await?,
    };
    let out = args.out.display();
    if samples == 0 {
        return Err(Failure::Incomplete(format!("no sample matches; nothing was written to {out}")));
    }
    let (samples, folders) = (plural(samples, "sample"), plural(folders, "folder"));
    super::print(&format!("{samples} in {folders} under {out}, in {}\n", terminal::elapsed(begun.elapsed())));
    Ok(())
}

fn cut(bounds: Option<TimeRange>, asked: TimeRange) -> Option<TimeRange> {
    let b = bounds?;
    let range = TimeRange { min: b.min.max(asked.min), max: b.max.min(asked.max) };
    (range.min <= range.max).then_some(range)
}

fn from_source(
    source: &dyn Source,
    selectors: &[Vec<Matcher>],
    asked: TimeRange,
    destination: &mut Destination,
) -> Result<(u64, u64), String> {
    let snapshot = source.snapshot();
    let Some(range) = cut(snapshot.time_bounds(), asked) else { return Ok((0, 0)) };
    let all: Vec<TimeRange> = days(range).collect();
    let mut progress = Progress::new(all.len() as u64);
    let mut column = SampleColumn::default();
    for day in all {
        let sets: Vec<Arc<dyn SeriesSet>> = selectors
            .iter()
            .map(|s| snapshot.select(s, day, usize::MAX))
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())?;
        let mut writer: Option<DayWriter> = None;
        for (set, i) in union(&sets) {
            sets[set].read(i, day, Need::ALL, &mut column).map_err(|e| e.to_string())?;
            if !column.is_empty() {
                push(&mut writer, destination, day, sets[set].labels(i), &column)?;
                progress.add(column.len());
            }
        }
        let rows = finish(writer)?;
        progress.day_done(day, rows);
    }
    Ok((progress.samples, progress.folders))
}

fn push(
    writer: &mut Option<DayWriter>,
    destination: &mut Destination,
    day: TimeRange,
    labels: &Labels,
    column: &SampleColumn,
) -> Result<(), String> {
    let w = match writer {
        Some(w) => w,
        None => writer.insert(destination.day(day.min)?),
    };
    w.push(labels.as_ref(), column).map_err(|e| e.to_string())
}

fn finish(writer: Option<DayWriter>) -> Result<u64, String> {
    writer.map_or(Ok(0), |w| w.finish().map_err(|e| e.to_string()))
}

async fn from_server(
    url: &str,
    selectors: &[String],
    asked: TimeRange,
    destination: &mut Destination,
) -> Result<(u64, u64), String> {
    let server = Server::new(url).map_err(|e| e.to_string())?;
    // A range without an instant asks for the bounds alone.
    let empty = TimeRange { min: 0, max: -1 };
    let bounds = request(&server, selectors, empty).await?.0;
    let Some(range) = cut(bounds, asked) else { return Ok((0, 0)) };
    let all: Vec<TimeRange> = days(range).collect();
    let mut progress = Progress::new(all.len() as u64);
    let mut next = 0;
    while let Some(&day) = all.get(next) {
        next += 1;
        let (_, body) = request(&server, selectors, day).await?;
        let mut frames = Frames { body, have: Vec::new() };
        let mut writer = None;
        let mut under_way: Option<(Labels, SampleColumn)> = None;
        let mut message = Vec::new();
        while let Some(frame) = frames.next().await? {
            for (labels, column) in decode_frame(&frame, &mut message)? {
                progress.add(column.len());
                // A series may go on in the next frame.
                match &mut under_way {
                    Some((l, have)) if *l == labels => have.extend_from(&column, 0..column.len()),
                    _ => {
                        if let Some((l, c)) = under_way.replace((labels, column)) {
                            push(&mut writer, destination, day, &l, &c)?;
                        }
                    }
                }
            }
        }
        if let Some((l, c)) = under_way {
            push(&mut writer, destination, day, &l, &c)?;
        }
        let rows = finish(writer)?;
        progress.day_done(day, rows);
        if rows == 0 {
            let empty = empty_days(&server, selectors, &all[next..]).await?;
            all[next..next + empty].iter().for_each(|day| progress.day_done(*day, 0));
            next += empty;
        }
    }
    Ok((progress.samples, progress.folders))
}

/// How many days from here on have nothing, at least: one request for twice as many each time, so that one sample of 1970 does not
/// cost a request for each day since.
async fn empty_days(server: &Server, selectors: &[String], days: &[TimeRange]) -> Result<usize, String> {
    let (mut empty, mut width) = (0, 2);
    while let Some(last) = days.get(empty + width - 1) {
        let range = TimeRange { min: days[empty].min, max: last.max };
        let (_, body) = request(server, selectors, range).await?;
        let mut frames = Frames { body, have: Vec::new() };
        if frames.next().await?.is_some() {
            break;
        }
        (empty, width) = (empty + width, width * 2);
    }
    Ok(empty)
}

async fn request(
    server: &Server,
    selectors: &[String],
    range: TimeRange,
) -> Result<(Option<TimeRange>, hyper::body::Incoming), String> {
    let mut form: Vec<(&str, String)> = selectors.iter().map(|s| ("match[]", s.clone())).collect();
    form.extend([("start", seconds(range.min)), ("end", seconds(range.max))]);
    let response = server.post("/api/v1/export", &form).await.map_err(|e| e.to_string())?;
    let status = response.status();
    if !status.is_success() {
        let text = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        return Err(refused(status, &text).to_string());
    }
    let bound = |name| response.headers().get(name)?.to_str().ok()?.parse::<i64>().ok();
    let bounds = bound("x-quiver-min-time").zip(bound("x-quiver-max-time"));
    Ok((bounds.map(|(min, max)| TimeRange { min, max }), response.into_body()))
}

/// Frames of an export.
struct Frames {
    body: hyper::body::Incoming,
    have: Vec<u8>,
}

impl Frames {
    /// The next frame, or none at the end; a stream that breaks off is an error.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(head) = self.have.first_chunk::<4>() {
                let n = u32::from_le_bytes(*head) as usize;
                if n == 0 {
                    return Ok(None);
                }
                if n > FRAME_BYTES_MAX {
                    return Err(too_large(n, FRAME_BYTES_MAX));
                }
                if self.have.len() >= 4 + n {
                    let frame = Bytes::copy_from_slice(&self.have[4..4 + n]);
                    self.have.drain(..4 + n);
                    return Ok(Some(frame));
                }
            }
            match self.body.frame().await {
                Some(Ok(f)) => {
                    if let Some(data) = f.data_ref() {
                        self.have.extend_from_slice(data);
                    }
                }
                Some(Err(e)) => {
                    return Err(format!("the server broke off the export ({e}); what is written is not complete"));
                }
                None => return Err("the server broke off the export; what is written is not complete".into()),
            }
        }
    }
}

fn too_large(n: usize, max: usize) -> String {
    format!(
        "the server's answer is not an export that this version can read: a part of it is said to be {} long, more than {}",
        shown_bytes(n as u64),
        shown_bytes(max as u64)
    )
}

fn decode_frame(frame: &[u8], message: &mut Vec<u8>) -> Result<Vec<(Labels, SampleColumn)>, String> {
    let unpacked = snap::raw::decompress_len(frame).map_err(|e| e.to_string())?;
    if unpacked > MESSAGE_BYTES_MAX {
        return Err(too_large(unpacked, MESSAGE_BYTES_MAX));
    }
    *message = snap::raw::Decoder::new().decompress_vec(frame).map_err(|e| e.to_string())?;
    let limits = Limits {
        labels_max: usize::MAX,
        label_name_bytes_max: usize::MAX,
        label_value_bytes_max: usize::MAX,
        ..Limits::default()
    };
    let options = DecodeOptions { limits: &limits, now_ms: i64::MAX, type_and_unit_labels: false, known: None };
    let mut batch = WriteBatch::default();
    let mut scratch = DecodeScratch::default();
    let rejects = decode(Version::V2, message, &options, &mut scratch, &mut batch).map_err(|e| e.to_string())?;
    if !rejects.is_empty() {
        return Err(format!("the server sent what this version cannot read: {}", rejects.text()));
    }
    let mut out = Vec::with_capacity(batch.series.len());
    for (i, s) in batch.series.iter().enumerate() {
        let labels = batch.labels(i).map_err(|e| e.to_string())?.to_labels();
        let mut column = SampleColumn::default();
        // Floats and histograms each come in order of time.
        let (mut f, mut h) = (s.floats.0 as usize, s.histograms.0 as usize);
        let (f_end, h_end) = (s.floats.1 as usize, s.histograms.1 as usize);
        while f < f_end || h < h_end {
            if h == h_end || (f < f_end && batch.ts[f] < batch.histograms[h].ts) {
                column.push_float(batch.ts[f], batch.values[f], batch.start_ts.get(f).copied().unwrap_or(0));
                f += 1;
            } else {
                let b = &batch.histograms[h];
                column.push_histogram(b.ts, Arc::new(b.histogram.clone()), b.start_ts);
                h += 1;
            }
        }
        out.push((labels, column));
    }
    Ok(out)
}
