//! Columns of native histograms: layouts once per run, buckets as differences in time.
//!
//! ```text
//! positions │ hints (runs) │ counts │ zero counts │ run, run, …
//! run       │ length │ schema │ zero threshold │ spans │ custom bounds │ kind │ buckets
//! buckets   │ bucket 0 over time │ bucket 1 over time │ …      as frames of residuals
//! ```
//!
//! A run shares schema, thresholds, spans and bounds. Whole counts are kept as differences (each bucket's first to the
//! first of the bucket before), others as XOR of float bits. The sum stands in the value column.

use std::sync::Arc;

use quiver_model::{Histogram, ResetHint, Span};

use super::float::{self, FloatScratch, get_float, put_float};
use super::frames;
use crate::bytes::{Damaged, Reader, put_bytes, put_signed, put_varint};

/// What spans, bounds and buckets of a chunk's histograms may take when they are decoded, bytes, unless it is one
/// histogram: sixteen times what a writer puts into one.
const DECODED_BYTES_MAX: usize = 16 * super::CHUNK_HISTOGRAM_BYTES;
const WHOLE: u8 = 0;
const FLOAT: u8 = 1;

/// Buffers of the encoder.
#[derive(Default)]
pub struct HistogramScratch {
    floats: Vec<f64>,
    residuals: Vec<i64>,
    stream: Vec<u8>,
}

fn same_bits(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

fn same_layout(a: &Histogram, b: &Histogram) -> bool {
    a.schema == b.schema
        && a.zero_threshold.to_bits() == b.zero_threshold.to_bits()
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && a.positive_buckets.len() == b.positive_buckets.len()
        && a.negative_buckets.len() == b.negative_buckets.len()
        && same_bits(&a.custom_values, &b.custom_values)
}

fn hint_number(h: ResetHint) -> u8 {
    h as u8
}

fn hint_from(n: u8) -> Result<ResetHint, Damaged> {
    Ok(match n {
        0 => ResetHint::Unknown,
        1 => ResetHint::Yes,
        2 => ResetHint::No,
        3 => ResetHint::Gauge,
        _ => return Err(Damaged("unknown reset hint")),
    })
}

fn buckets(h: &Histogram) -> impl Iterator<Item = f64> + '_ {
    h.positive_buckets.iter().chain(&h.negative_buckets).copied()
}

fn put_spans(out: &mut Vec<u8>, spans: &[Span]) {
    put_varint(out, spans.len() as u64);
    for s in spans {
        put_signed(out, i64::from(s.offset));
        put_varint(out, u64::from(s.length));
    }
}

fn get_spans(r: &mut Reader<'_>) -> Result<Vec<Span>, Damaged> {
    let n = r.count(r.rest().len())?;
    let mut spans = Vec::with_capacity(n);
    for _ in 0..n {
        let offset = i32::try_from(r.signed()?).map_err(|_| Damaged("span offset out of bounds"))?;
        let length = u32::try_from(r.varint()?).map_err(|_| Damaged("span length out of bounds"))?;
        spans.push(Span { offset, length });
    }
    Ok(spans)
}

/// Appends the histograms of `positions`, which are relative to `base`, of a chunk of `n` samples.
pub fn encode(
    histograms: &[(u32, Arc<Histogram>)],
    base: u32,
    n: usize,
    scratch: &mut HistogramScratch,
    floats: &mut FloatScratch,
    out: &mut Vec<u8>,
) {
    let k = histograms.len();
    put_varint(out, k as u64);
    if k < n {
        let mut last = 0;
        for (at, _) in histograms {
            put_varint(out, u64::from(at - base - last));
            last = at - base;
        }
    }
    for run in histograms.chunk_by(|a, b| a.1.reset_hint == b.1.reset_hint) {
        put_varint(out, ((run.len() as u64) << 2) | u64::from(hint_number(run[0].1.reset_hint)));
    }
    for column in [|h: &Histogram| h.count, |h: &Histogram| h.zero_count] {
        scratch.floats.clear();
        scratch.floats.extend(histograms.iter().map(|(_, h)| column(h)));
        scratch.stream.clear();
        float::encode(&scratch.floats, floats, &mut scratch.stream);
        put_bytes(out, &scratch.stream);
    }
    for run in histograms.chunk_by(|a, b| same_layout(&a.1, &b.1)) {
        encode_run(run, scratch, floats, out);
    }
}

fn encode_run(
    run: &[(u32, Arc<Histogram>)],
    scratch: &mut HistogramScratch,
    floats: &mut FloatScratch,
    out: &mut Vec<u8>,
) {
    let layout = &run[0].1;
    put_varint(out, run.len() as u64);
    put_signed(out, i64::from(layout.schema));
    put_float(out, layout.zero_threshold);
    put_spans(out, &layout.positive_spans);
    put_spans(out, &layout.negative_spans);
    put_varint(out, layout.custom_values.len() as u64);
    scratch.stream.clear();
    float::encode(&layout.custom_values, floats, &mut scratch.stream);
    put_bytes(out, &scratch.stream);
    let (positive, negative) = (layout.positive_buckets.len(), layout.negative_buckets.len());
    put_varint(out, positive as u64);
    put_varint(out, negative as u64);
    let whole = run.iter().all(|(_, h)| {
        buckets(h).all(|v| v.abs() <= 9_007_199_254_740_992.0 && (v as i64 as f64).to_bits() == v.to_bits())
    });
    let at = |h: &Histogram, b: usize| {
        if b < positive { h.positive_buckets[b] } else { h.negative_buckets[b - positive] }
    };
    scratch.residuals.clear();
    if whole {
        let mut before = 0i64;
        for b in 0..positive + negative {
            let first = at(&run[0].1, b) as i64;
            let mut last = before;
            before = first;
            for (_, h) in run {
                let v = at(h, b) as i64;
                scratch.residuals.push(v.wrapping_sub(last));
                last = v;
            }
        }
        out.push(WHOLE);
        frames::encode::<true>(&scratch.residuals, out);
    } else {
        let mut before = 0u64;
        for b in 0..positive + negative {
            let first = at(&run[0].1, b).to_bits();
            let mut last = before;
            before = first;
            for (_, h) in run {
                let v = at(h, b).to_bits();
                scratch.residuals.push((v ^ last) as i64);
                last = v;
            }
        }
        out.push(FLOAT);
        frames::encode::<false>(&scratch.residuals, out);
    }
}

/// Decodes the histograms among samples `lo..hi` of a chunk of `n`. `sum` gives a sample's sum by its place in the
/// range; `emit` gets that place and the histogram. Without `with_buckets`, spans, bounds and buckets come empty.
pub fn decode(
    src: &[u8],
    n: usize,
    lo: usize,
    hi: usize,
    with_buckets: bool,
    sum: impl Fn(usize) -> f64,
    mut emit: impl FnMut(u32, Arc<Histogram>),
) -> Result<(), Damaged> {
    let mut r = Reader::new(src);
    let k = r.count(n)?;
    let mut positions: Vec<u32> = Vec::with_capacity(k);
    if k == n {
        positions.extend(0..n as u32);
    } else {
        let mut at = 0usize;
        for i in 0..k {
            let step = r.count(n)?;
            if i > 0 && step == 0 {
                return Err(Damaged("histogram positions do not ascend"));
            }
            at += step;
            if at >= n {
                return Err(Damaged("histogram position past the end"));
            }
            positions.push(at as u32);
        }
    }
    let mut hints = Vec::with_capacity(k);
    while hints.len() < k {
        let v = r.varint()?;
        let len = usize::try_from(v >> 2).unwrap_or(usize::MAX);
        if len == 0 || len > k - hints.len() {
            return Err(Damaged("hint run out of bounds"));
        }
        hints.resize(hints.len() + len, hint_from((v & 3) as u8)?);
    }
    let (mut counts, mut zeros) = (Vec::new(), Vec::new());
    float::decode(r.bytes()?, k, 0, k, &mut counts)?;
    float::decode(r.bytes()?, k, 0, k, &mut zeros)?;
    let mut done = 0;
    let mut values: Vec<i64> = Vec::new();
    let mut memory = 0usize;
    while done < k {
        let len = r.count(k - done)?;
        if len == 0 {
            return Err(Damaged("empty histogram run"));
        }
        let schema = i32::try_from(r.signed()?).map_err(|_| Damaged("schema out of bounds"))?;
        let zero_threshold = get_float(&mut r)?;
        let positive_spans = get_spans(&mut r)?;
        let negative_spans = get_spans(&mut r)?;
        // Every 64 residuals take a byte at least, every constant float column two: this bounds what is allocated.
        let room = r.rest().len().saturating_mul(64);
        let bounds = r.count(super::SAMPLES_MAX)?;
        let mut custom_values = Vec::new();
        float::decode(r.bytes()?, bounds, 0, bounds, &mut custom_values)?;
        let positive = r.count(room)?;
        let negative = r.count(room)?;
        let cells = (positive + negative).checked_mul(len).filter(|c| *c <= room);
        let cells = cells.ok_or(Damaged("more buckets than bytes"))?;
        // The layout stands once and is handed out `len` times: few bytes may not become much.
        let layout = size_of::<Span>() * (positive_spans.len() + negative_spans.len()) + size_of::<f64>() * bounds;
        memory = memory.saturating_add(layout.saturating_mul(len)).saturating_add(size_of::<f64>() * cells);
        if memory > DECODED_BYTES_MAX && k > 1 {
            return Err(Damaged("more histograms than a chunk may hold"));
        }
        let kind = r.u8()?;
        values.clear();
        let take = |values: &mut Vec<i64>, f: &mut [i64]| {
            values.extend_from_slice(f);
            true
        };
        let used = match kind {
            WHOLE => frames::decode::<true>(r.rest(), cells, |f| take(&mut values, f))?,
            FLOAT => frames::decode::<false>(r.rest(), cells, |f| take(&mut values, f))?,
            _ => return Err(Damaged("unknown bucket codec")),
        };
        r.take(used)?;
        if with_buckets {
            let mut before = 0i64;
            for row in values.chunks_exact_mut(len) {
                let mut last = before;
                for v in row.iter_mut() {
                    last = if kind == WHOLE { last.wrapping_add(*v) } else { last ^ *v };
                    *v = last;
                }
                before = row[0];
            }
        }
        let value = |b: usize, s: usize| {
            let v = values[b * len + s];
            if kind == WHOLE { v as f64 } else { f64::from_bits(v as u64) }
        };
        for s in 0..len {
            let i = done + s;
            let at = positions[i] as usize;
            if at < lo || at >= hi {
                continue;
            }
            let mut h = Histogram {
                reset_hint: hints[i],
                schema,
                zero_threshold,
                zero_count: zeros[i],
                count: counts[i],
                sum: sum(at - lo),
                ..Histogram::default()
            };
            if with_buckets {
                h.positive_spans.clone_from(&positive_spans);
                h.negative_spans.clone_from(&negative_spans);
                h.custom_values.clone_from(&custom_values);
                h.positive_buckets = (0..positive).map(|b| value(b, s)).collect();
                h.negative_buckets = (positive..positive + negative).map(|b| value(b, s)).collect();
            }
            emit((at - lo) as u32, Arc::new(h));
        }
        done += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(histograms: Vec<Histogram>) -> Vec<u8> {
        let n = histograms.len();
        let histograms: Vec<_> = histograms.into_iter().enumerate().map(|(i, h)| (i as u32, Arc::new(h))).collect();
        let mut out = Vec::new();
        encode(&histograms, 0, n, &mut HistogramScratch::default(), &mut FloatScratch::default(), &mut out);
        out
    }

    fn decoded(bytes: &[u8], n: usize) -> Result<Vec<Arc<Histogram>>, Damaged> {
        let mut all = Vec::new();
        decode(bytes, n, 0, n, true, |_| 0.0, |_, h| all.push(h))?;
        Ok(all)
    }

    #[test]
    fn few_bytes_do_not_become_gigabytes_of_bounds() {
        let h = Histogram { schema: -53, custom_values: vec![1.0; 1000], ..Histogram::default() };
        let honest = encoded(vec![h.clone(); 1000]);
        assert_eq!(decoded(&honest, 1000).unwrap(), vec![Arc::new(h.clone()); 1000]);
        let hostile = encoded(vec![h; super::super::SAMPLES_MAX]);
        assert!(hostile.len() < 200, "{} bytes", hostile.len());
        assert!(decoded(&hostile, super::super::SAMPLES_MAX).is_err());
    }
}
