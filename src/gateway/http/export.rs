//! `GET /api/v1/export`: stored series as a stream of remote write 2.0 messages, nothing lost.
//!
//! Parameters: `match[]` (all series if missing), `start`, `end`. The body is frames of `u32` little-endian length
//! and a snappy block that holds an `io.prometheus.write.v2.Request`; series come in label order, a series may go on in
//! the next frame. An empty frame ends the stream: a body without it was cut. The headers `x-quiver-min-time` and
//! `x-quiver-max-time` give the bounds of what is stored, in ms.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, Response, header};
use prost::Message;
use quiver_core::{Need, SeriesSet, TimeRange};
use quiver_model::{Histogram, Labels, SampleColumn, Span};
use quiver_query::admission::Permit;
use tokio::sync::mpsc::Sender;

use super::error::{ApiError, ErrorType};
use super::params::Params;
use crate::Gateway;
use crate::proto::v2::{BucketSpan, Histogram as WireHistogram, Request, Sample, TimeSeries, histogram};

/// Samples of one frame, about.
const FRAME_SAMPLES: usize = 20_000;

/// Exports under way at once: each takes a thread for as long as its client reads.
pub const EXPORTS_MAX: usize = 4;

/// So long a client may take no frame.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Handles an export, on a thread that may block.
pub fn export(g: &Gateway, p: &Params) -> Result<Response<Body>, ApiError> {
    let busy = |_| ApiError::new(ErrorType::TooMany, format!("{EXPORTS_MAX} exports are under way: try again later"));
    let slot = Arc::clone(&g.exports).try_acquire_owned().map_err(busy)?;
    let (range, mut selectors) = (p.time_range()?, p.selectors(g)?);
    if selectors.is_empty() {
        selectors.push(Vec::new());
    }
    let text = p.all("match[]").fold("export".to_owned(), |text, selector| text + " " + selector);
    let permit =
        tokio::runtime::Handle::current().block_on(g.services.engine.admit_export(&text)).map_err(ApiError::query)?;
    let snapshot = g.services.source.snapshot();
    let bounds = snapshot.time_bounds();
    let sets = selectors.iter().map(|s| snapshot.select(s, range, usize::MAX)).collect::<Result<Vec<_>, _>>()?;
    let (tx, rx) = tokio::sync::mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        send(&sets, range, &Out { frames: tx, permit });
        drop(slot);
    });
    let stream = futures::stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|frame| (frame, rx)) });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/vnd.quiver.export"));
    if let Some(b) = bounds {
        headers.insert(HeaderName::from_static("x-quiver-min-time"), HeaderValue::from(b.min));
        headers.insert(HeaderName::from_static("x-quiver-max-time"), HeaderValue::from(b.max));
    }
    Ok(response)
}

/// Series of several sets in label order, each once: (set, index).
pub fn union(sets: &[Arc<dyn SeriesSet>]) -> Vec<(usize, usize)> {
    let mut all: Vec<(usize, usize)> =
        sets.iter().enumerate().flat_map(|(k, s)| (0..s.len()).map(move |i| (k, i))).collect();
    if sets.len() > 1 {
        let labels = |p: &(usize, usize)| sets[p.0].labels(p.1);
        all.sort_by(|a, b| labels(a).cmp(labels(b)));
        all.dedup_by(|a, b| labels(a) == labels(b));
    }
    all
}

/// Where frames go.
struct Out {
    frames: Sender<Result<Bytes, String>>,
    permit: Permit,
}

impl Out {
    /// False if nobody takes it any more, or has not for long, or the export was stopped.
    fn put(&self, frame: Result<Bytes, String>) -> bool {
        tokio::runtime::Handle::current().block_on(async {
            tokio::select! {
                biased;
                () = self.permit.ctx.cancel.cancelled() => false,
                sent = self.frames.send_timeout(frame, STALL_TIMEOUT) => sent.is_ok(),
            }
        })
    }

    /// Breaks the connection off, so that nobody takes a part for the whole.
    fn fail(&self, why: String) {
        let _ = self.frames.try_send(Err(why));
    }
}

fn send(sets: &[Arc<dyn SeriesSet>], range: TimeRange, out: &Out) {
    let mut frame = Frame::default();
    let mut column = SampleColumn::default();
    for (set, i) in union(sets) {
        if let Err(e) = out.permit.ctx.check() {
            return out.fail(e.to_string());
        }
        if let Err(e) = sets[set].read(i, range, Need::ALL, &mut column) {
            out.put(Err(e.to_string()));
            return;
        }
        let mut at = 0;
        while at < column.len() {
            let n = (column.len() - at).min(FRAME_SAMPLES - frame.samples.min(FRAME_SAMPLES - 1));
            frame.push(sets[set].labels(i), &column, at..at + n);
            at += n;
            if frame.samples >= FRAME_SAMPLES && !frame.send(out) {
                return;
            }
        }
    }
    if frame.samples > 0 && !frame.send(out) {
        return;
    }
    out.put(Ok(Bytes::from_static(&[0; 4])));
}

#[derive(Default)]
struct Frame {
    symbols: HashMap<String, u32>,
    request: Request,
    samples: usize,
}

impl Frame {
    fn symbol(&mut self, text: &str) -> u32 {
        if self.request.symbols.is_empty() {
            self.request.symbols.push(String::new());
        }
        if let Some(n) = self.symbols.get(text) {
            return *n;
        }
        let n = self.request.symbols.len() as u32;
        self.request.symbols.push(text.to_owned());
        self.symbols.insert(text.to_owned(), n);
        n
    }

    fn push(&mut self, labels: &Labels, column: &SampleColumn, range: std::ops::Range<usize>) {
        self.samples += range.len();
        let mut series = TimeSeries::default();
        for (n, v) in labels.iter() {
            series.labels_refs.extend([self.symbol(n), self.symbol(v)]);
        }
        for i in range {
            let (timestamp, start_timestamp) = (column.ts[i], column.start_at(i));
            match column.histogram_at(i) {
                Some(h) => series.histograms.push(wire_histogram(h, timestamp, start_timestamp)),
                None => series.samples.push(Sample { value: Some(column.values[i]), timestamp, start_timestamp }),
            }
        }
        self.request.timeseries.push(series);
    }

    fn send(&mut self, out: &Out) -> bool {
        let message = std::mem::take(self).request.encode_to_vec();
        let frame = snap::raw::Encoder::new().compress_vec(&message).map_err(|e| e.to_string()).map(|packed| {
            let mut bytes = (packed.len() as u32).to_le_bytes().to_vec();
            bytes.extend_from_slice(&packed);
            Bytes::from(bytes)
        });
        out.put(frame)
    }
}

fn wire_histogram(h: &Histogram, timestamp: i64, start_timestamp: i64) -> WireHistogram {
    let spans =
        |list: &[Span]| list.iter().map(|s| BucketSpan { offset: s.offset, length: s.length }).collect::<Vec<_>>();
    WireHistogram {
        count: Some(histogram::Count::CountFloat(h.count)),
        sum: Some(h.sum),
        schema: h.schema,
        zero_threshold: h.zero_threshold,
        zero_count: Some(histogram::ZeroCount::ZeroCountFloat(h.zero_count)),
        negative_spans: spans(&h.negative_spans),
        negative_deltas: Vec::new(),
        negative_counts: h.negative_buckets.clone(),
        positive_spans: spans(&h.positive_spans),
        positive_deltas: Vec::new(),
        positive_counts: h.positive_buckets.clone(),
        reset_hint: h.reset_hint as i32,
        timestamp,
        custom_values: h.custom_values.clone(),
        start_timestamp,
    }
}
