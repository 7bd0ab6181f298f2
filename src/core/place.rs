//! A place that holds series: a head or a block. All that merging needs of either.

use std::cell::RefCell;
use std::sync::Arc;

use quiver_model::{Exemplar, Labels, Matcher, SampleColumn};

use crate::head::page::Pieces;
use crate::head::{Head, HeadSeries};
use crate::merge::trim;
use crate::part::Part;
use crate::{Need, ReadError, TimeRange};

/// A series as a place lists it.
#[derive(Clone, Debug)]
pub(crate) struct PlaceSeries {
    pub(crate) labels: Labels,
    /// Its number in the place.
    pub(crate) row: u32,
    /// Bits of `head::page`.
    pub(crate) kinds: u8,
}

impl From<HeadSeries> for PlaceSeries {
    fn from(s: HeadSeries) -> Self {
        Self { labels: s.labels, row: s.id, kinds: s.summary.kinds }
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) enum Place {
    /// A head, with the number of series it had when the snapshot was taken.
    Head(Arc<Head>, u32),
}

/// Where decoded columns go: those that continue `out` are appended, the others set aside to be merged.
pub(crate) struct Sink<'a> {
    pub(crate) range: TimeRange,
    pub(crate) need: Need,
    pub(crate) out: &'a mut SampleColumn,
    pub(crate) aside: &'a mut Vec<SampleColumn>,
}

impl Sink<'_> {
    /// Adds a column whose samples are all in the range.
    pub(crate) fn column(&mut self, column: &SampleColumn) {
        if column.is_empty() {
        } else if self.out.ts.last() < column.ts.first() {
            self.out.extend_from(column, 0..column.len());
        } else {
            self.aside.push(column.clone());
        }
    }

    /// Decodes a part and adds what of it is in the range.
    pub(crate) fn part(&mut self, part: &Part) -> Result<(), ReadError> {
        if !self.range.overlaps(part.min_ts(), part.max_ts()) {
            return Ok(());
        }
        let mut column = SampleColumn::default();
        part.read(self.need, &mut column)?;
        trim(&mut column, self.range.min, self.range.max);
        self.column(&column);
        Ok(())
    }
}

impl Place {
    /// Series that all `matchers` accept, in label order; see [`Head::select`] for `exact`.
    pub(crate) fn select(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        exact: bool,
    ) -> Result<Vec<PlaceSeries>, ReadError> {
        match self {
            Place::Head(head, bound) => {
                Ok(head.select(matchers, range, *bound, exact).into_iter().map(Into::into).collect())
            }
        }
    }

    /// All series with samples in `range`, in label order.
    pub(crate) fn all(&self, range: TimeRange) -> Result<Vec<PlaceSeries>, ReadError> {
        match self {
            Place::Head(head, bound) => Ok(head.all(range, *bound).into_iter().map(Into::into).collect()),
        }
    }

    /// What the series has got since it was listed.
    pub(crate) fn kinds_now(&self, row: u32) -> u8 {
        match self {
            Place::Head(head, _) => head.kinds(row),
        }
    }

    /// About how many samples a series has in `range`.
    pub(crate) fn samples_hint(&self, row: u32, range: TimeRange) -> usize {
        match self {
            Place::Head(head, _) => head.samples_hint(row, range),
        }
    }

    /// Reads a series in `range`: into `out` what continues it, into `aside` what has to be merged.
    pub(crate) fn read(
        &self,
        row: u32,
        range: TimeRange,
        need: Need,
        out: &mut SampleColumn,
        aside: &mut Vec<SampleColumn>,
    ) -> Result<(), ReadError> {
        thread_local! {
            static PIECES: RefCell<Pieces> = RefCell::default();
        }
        let mut sink = Sink { range, need, out, aside };
        match self {
            Place::Head(head, _) => PIECES.with_borrow_mut(|pieces| {
                head.collect(row, range, pieces);
                for part in &pieces.sealed {
                    sink.part(part)?;
                }
                sink.column(&pieces.open);
                for part in &pieces.late_sealed {
                    sink.part(part)?;
                }
                sink.column(&pieces.late);
                pieces.clear();
                Ok(())
            }),
        }
    }

    /// Exemplars in `range` of the series that any of `selectors` accepts (all, where there is none).
    pub(crate) fn exemplars(
        &self,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
    ) -> Result<Vec<(Labels, Vec<Exemplar>)>, ReadError> {
        match self {
            Place::Head(head, bound) => {
                let series = head.with_exemplars(selectors, *bound);
                Ok(series.into_iter().map(|(l, id)| (l, head.exemplars(id, range))).collect())
            }
        }
    }

    /// Metadata, of one family or all, the newest first.
    pub(crate) fn metadata(&self, metric: Option<&str>) -> crate::head::MetadataMap {
        match self {
            Place::Head(head, _) => head.metadata(metric),
        }
    }

    /// Earliest and latest sample.
    pub(crate) fn time_bounds(&self) -> Option<TimeRange> {
        match self {
            Place::Head(head, _) => head.time_bounds(),
        }
    }
}
