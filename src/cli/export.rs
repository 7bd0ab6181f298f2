//! `quiver export`: stored series as Parquet, a folder per day.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use http_body_util::BodyExt;
use hyper::body::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use quiver_core::{Need, SeriesSet, Source, TimeRange};
use quiver_gateway::http::export::union;
use quiver_gateway::http::params::parse_time;
use quiver_gateway::write::decode::{DecodeOptions, DecodeScratch, Version, decode};
use quiver_model::{Labels, Limits, Matcher, SampleColumn, WriteBatch};
use quiver_persistence::{Disk, RealDisk};
use quiver_query::Features;
use quiver_query::promql::{ParseOptions, parse_metric_selector};
use quiver_storage::parquet::{DayWriter, ParquetExporter, days};

use super::client::{Server, refused};
use super::data::{Data, DataArgs};
use super::{offline, seconds};

/// Flags of `quiver export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Folder to write to; made where it does not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only series that match, such as '{job="node"}'; may be given several times
    #[arg(long = "match", value_name = "SELECTOR")]
    selectors: Vec<String>,
    /// From then on: Unix seconds or RFC 3339
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// Up to then, inclusive
    #[arg(long, value_name = "TIME")]
    end: Option<String>,
}

struct Progress {
    bar: ProgressBar,
    samples: u64,
}

impl Progress {
    fn new(days: u64) -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(days) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} days, {msg} [{elapsed}, {eta} left]") {
            bar.set_style(style);
        }
        Self { bar, samples: 0 }
    }

    fn add(&mut self, samples: usize) {
        self.samples += samples as u64;
        self.bar.set_message(format!("{} samples", self.samples));
    }

    fn day_done(&self, day: TimeRange, rows: u64) {
        if self.bar.is_hidden() && rows > 0 {
            eprintln!("{} {rows} samples", quiver_storage::parquet::day_of(day.min));
        }
        self.bar.inc(1);
    }
}

/// Runs the command.
pub async fn run(args: ExportArgs) -> Result<(), String> {
    let data = args.data.find()?;
    let time = |flag: &str, text: &Option<String>, default: i64| match text {
        None => Ok(default),
        Some(t) => parse_time(t).map_err(|e| format!("--{flag}: {e}")),
    };
    let asked = TimeRange { min: time("start", &args.start, i64::MIN)?, max: time("end", &args.end, i64::MAX)? };
    if asked.min > asked.max {
        return Err("--start is after --end".into());
    }
    let options = ParseOptions::new(&Limits::default(), Features { unquoted_utf8_names: true, ..Features::default() });
    let mut selectors: Vec<Vec<Matcher>> = Vec::new();
    for text in &args.selectors {
        selectors.push(parse_metric_selector(text, &options).map_err(|e| format!("--match {text:?}: {e}"))?);
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::create(&args.out).map_err(|e| e.to_string())?);
    let exporter = ParquetExporter::create(disk, "").map_err(|e| e.to_string())?;
    let (samples, folders) = match data {
        Data::Folder(folder) => {
            let source = offline::open(&folder)?;
            if selectors.is_empty() {
                selectors.push(Vec::new());
            }
            let done = tokio::task::spawn_blocking(move || from_source(&*source, &selectors, asked, &exporter)).await;
            done.map_err(|e| e.to_string())??
        }
        Data::Server(url) => from_server(&url, &args.selectors, asked, &exporter).await?,
    };
    super::print(&format!("{samples} samples in {folders} folders under {}\n", args.out.display()));
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
    exporter: &ParquetExporter,
) -> Result<(u64, u64), String> {
    let snapshot = source.snapshot();
    let Some(range) = cut(snapshot.time_bounds(), asked) else { return Ok((0, 0)) };
    let all: Vec<TimeRange> = days(range).collect();
    let mut progress = Progress::new(all.len() as u64);
    let mut column = SampleColumn::default();
    let mut folders = 0;
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
                push(&mut writer, exporter, day, sets[set].labels(i), &column)?;
                progress.add(column.len());
            }
        }
        let rows = finish(writer)?;
        folders += u64::from(rows > 0);
        progress.day_done(day, rows);
    }
    progress.bar.finish_and_clear();
    Ok((progress.samples, folders))
}

fn push(
    writer: &mut Option<DayWriter>,
    exporter: &ParquetExporter,
    day: TimeRange,
    labels: &Labels,
    column: &SampleColumn,
) -> Result<(), String> {
    let w = match writer {
        Some(w) => w,
        None => writer.insert(exporter.day(day.min).map_err(|e| e.to_string())?),
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
    exporter: &ParquetExporter,
) -> Result<(u64, u64), String> {
    let server = Server::new(url).map_err(|e| e.to_string())?;
    // A range without an instant asks for the bounds alone.
    let empty = TimeRange { min: 0, max: -1 };
    let bounds = request(&server, selectors, empty).await?.0;
    let Some(range) = cut(bounds, asked) else { return Ok((0, 0)) };
    let all: Vec<TimeRange> = days(range).collect();
    let mut progress = Progress::new(all.len() as u64);
    let mut folders = 0;
    for day in all {
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
                            push(&mut writer, exporter, day, &l, &c)?;
                        }
                    }
                }
            }
        }
        if let Some((l, c)) = under_way {
            push(&mut writer, exporter, day, &l, &c)?;
        }
        let rows = finish(writer)?;
        folders += u64::from(rows > 0);
        progress.day_done(day, rows);
    }
    progress.bar.finish_and_clear();
    Ok((progress.samples, folders))
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
                Some(Err(e)) => return Err(format!("the export broke off: {e}")),
                None => return Err("the export broke off".into()),
            }
        }
    }
}

fn decode_frame(frame: &[u8], message: &mut Vec<u8>) -> Result<Vec<(Labels, SampleColumn)>, String> {
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
