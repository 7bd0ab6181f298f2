//! Samples of many series, gathered from rows in any order and kept encoded: where rows come by series and time a sample takes
//! one to two bytes and not the 16 and more of a row. A series whose rows do not is decoded whole while it is put in order.
//!
//! ```text
//! row ─▶ open samples ─480─▶ chunk ─▶ the run     while times ascend
//!                                      │ a row of an earlier or the same time ends the run and begins another
//!                                      ▼
//!                            ended runs, each more than twice as long as the next: a shorter one is merged into it
//! ```

use std::collections::BTreeMap;

use quiver_model::{Labels, Need, SampleColumn, TimeRange};

use crate::bytes::Damaged;
use crate::codec::{Chunk, Decoder, Encoder, TimeInterner};

/// Samples of a chunk.
const CHUNK_SAMPLES: usize = 480;

/// Samples that all series together may keep open; then all of them are encoded. Where series are many, a few of each: a
/// chunk of one sample takes more than the sample.
const OPEN_SAMPLES_MAX: usize = 1 << 20;

/// So many samples of a series are worth a chunk, as a part of [`CHUNK_SAMPLES`].
const CHUNK_PARTS: usize = 30;

/// What a histogram counts for among open samples.
const HISTOGRAM_SAMPLES: usize = 64;

fn weight(open: &SampleColumn) -> usize {
    open.len() + HISTOGRAM_SAMPLES * open.histograms.len()
}

/// Series by label order.
pub(super) struct Gatherer {
    series: BTreeMap<Labels, Samples>,
    open_samples: usize,
    open_samples_max: usize,
    codecs: Codecs,
}

struct Codecs {
    chunk_samples: usize,
    times: TimeInterner,
    encoder: Encoder,
    decoder: Decoder,
}

/// Chunks whose times ascend, and how many samples they have.
#[derive(Default)]
struct Run {
    chunks: Vec<Chunk>,
    samples: usize,
}

/// Of one series.
#[derive(Default)]
struct Samples {
    ended: Vec<Run>,
    run: Run,
    open: SampleColumn,
}

impl Default for Gatherer {
    fn default() -> Self {
        Self::new(CHUNK_SAMPLES, OPEN_SAMPLES_MAX)
    }
}

impl Gatherer {
    fn new(chunk_samples: usize, open_samples_max: usize) -> Self {
        let (times, encoder, decoder) = (TimeInterner::default(), Encoder::new(), Decoder::new());
        let codecs = Codecs { chunk_samples, times, encoder, decoder };
        Self { series: BTreeMap::new(), open_samples: 0, open_samples_max, codecs }
    }

    /// Adds rows of a series, in the order they come.
    pub(super) fn push(&mut self, labels: Labels, rows: &SampleColumn) -> Result<(), Damaged> {
        if rows.is_empty() {
            return Ok(());
        }
        let samples = self.series.entry(labels).or_default();
        let open_before = weight(&samples.open);
        let mut at = 0;
        while at < rows.len() {
            if samples.last().is_some_and(|last| rows.ts[at] <= last) {
                samples.end_run(&mut self.codecs)?;
            }
            let room = self.codecs.chunk_samples - samples.open.len();
            let next = &rows.ts[at..rows.len().min(at + room)];
            let end = at + next.windows(2).position(|t| t[1] <= t[0]).map_or(next.len(), |k| k + 1);
            samples.open.extend_from(rows, at..end);
            if samples.open.len() >= self.codecs.chunk_samples {
                samples.seal(&mut self.codecs);
            }
            at = end;
        }
        self.open_samples = (self.open_samples + weight(&samples.open)).saturating_sub(open_before);
        let few = self.codecs.chunk_samples / CHUNK_PARTS * self.series.len();
        if self.open_samples > self.open_samples_max.max(few) {
            self.series.values_mut().for_each(|s| s.seal(&mut self.codecs));
            self.open_samples = 0;
        }
        Ok(())
    }

    /// All series with their samples, each time once, as chunks whose times ascend.
    pub(super) fn finish(self) -> Result<Vec<(Labels, Vec<Chunk>)>, Damaged> {
        let Self { series, mut codecs, .. } = self;
        series.into_iter().map(|(labels, samples)| Ok((labels, samples.finish(&mut codecs)?))).collect()
    }
}

impl Samples {
    /// Time of the last sample of the run.
    fn last(&self) -> Option<i64> {
        self.open.ts.last().copied().or_else(|| self.run.chunks.last().map(Chunk::max_time))
    }

    fn seal(&mut self, codecs: &mut Codecs) {
        if !self.open.is_empty() {
            self.run.append(&self.open, codecs);
            // Its room is given back: there may be many series.
            self.open = SampleColumn::default();
        }
    }

    fn end_run(&mut self, codecs: &mut Codecs) -> Result<(), Damaged> {
        self.seal(codecs);
        let mut run = std::mem::take(&mut self.run);
        while let Some(before) = self.ended.pop_if(|before| before.samples <= 2 * run.samples) {
            run = before.merge(&run, codecs)?;
        }
        self.ended.push(run);
        Ok(())
    }

    fn finish(mut self, codecs: &mut Codecs) -> Result<Vec<Chunk>, Damaged> {
        self.seal(codecs);
        let mut run = self.run;
        while let Some(before) = self.ended.pop() {
            run = before.merge(&run, codecs)?;
        }
        run.chunks.shrink_to_fit();
        Ok(run.chunks)
    }
}

impl Run {
    fn append(&mut self, column: &SampleColumn, codecs: &mut Codecs) {
        for from in (0..column.len()).step_by(codecs.chunk_samples) {
            let range = from..column.len().min(from + codecs.chunk_samples);
            let time = codecs.times.intern(&column.ts[range.clone()]);
            self.samples += range.len();
            self.chunks.push(codecs.encoder.encode_with(time, column, range));
        }
    }

    fn decode(&self, codecs: &mut Codecs) -> Result<SampleColumn, Damaged> {
        let mut column = SampleColumn::default();
        for chunk in &self.chunks {
            codecs.decoder.decode_into(chunk.as_ref(), Need::ALL, TimeRange::ALL, &mut column)?;
        }
        Ok(column)
    }

    /// Both as one; of two samples of one time the conflict rule picks one.
    fn merge(&self, other: &Run, codecs: &mut Codecs) -> Result<Run, Damaged> {
        let mut merged = SampleColumn::default();
        SampleColumn::merge(&self.decode(codecs)?, &other.decode(codecs)?, &mut merged);
        let mut run = Run::default();
        run.append(&merged, codecs);
        Ok(run)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::chunk::tests::equal_to_the_bit;

    proptest! {
        #[test]
        fn rows_in_any_order_are_gathered_as_if_merged_one_by_one(
            pieces in proptest::collection::vec(
                (0..3usize, proptest::collection::vec((0..40i64, 0..4u8, 0..2i64), 0..9), any::<bool>()), 0..30),
        ) {
            let mut gatherer = Gatherer::new(3, 10);
            let mut want: BTreeMap<Labels, SampleColumn> = BTreeMap::new();
            for (series, mut rows, is_sorted) in pieces {
                if is_sorted {
                    rows.sort_unstable();
                }
                let labels = Labels::from_pairs([("s", series.to_string())]).unwrap();
                let mut column = SampleColumn::default();
                for (t, v, start) in rows {
                    column.push_float(t, f64::from(v), start);
                    let (mut one, mut merged) = (SampleColumn::default(), SampleColumn::default());
                    one.push_float(t, f64::from(v), start);
                    let into = want.entry(labels.clone()).or_default();
                    SampleColumn::merge(into, &one, &mut merged);
                    *into = merged;
                }
                gatherer.push(labels, &column).unwrap();
                let open: usize = gatherer.series.values().map(|s| weight(&s.open)).sum();
                prop_assert!(open == gatherer.open_samples && open <= 10);
            }
            let got = gatherer.finish().unwrap();
            prop_assert_eq!(got.len(), want.len());
            let mut decoder = Decoder::new();
            for ((labels, chunks), (wanted, column)) in got.iter().zip(&want) {
                prop_assert_eq!(labels, wanted);
                let mut all = SampleColumn::default();
                for chunk in chunks {
                    prop_assert!((1..=3).contains(&chunk.count()));
                    decoder.decode_into(chunk.as_ref(), Need::ALL, TimeRange::ALL, &mut all).unwrap();
                }
                equal_to_the_bit(&all, column).map_err(TestCaseError::fail)?;
            }
        }
    }
}
