//! The series a selector picked over heads and blocks, and reading them.
//!
//! ```text
//! head      a ──── c ─ d          each place lists its series in label order;
//! block 1   a ─ b ─ c             equal label sets become one series with several parts
//! block 2       b ──── d
//! set       a(h,1) b(1,2) c(h,1) d(h,2)
//! ```
//!
//! Reading a series decodes what each of its parts has in the range and merges the columns by time; parts that do not
//! interleave are only appended.

use std::sync::Arc;

use quiver_model::{Labels, SampleColumn};

use crate::head::page::{FLOATS, HISTOGRAMS, STARTS};
use crate::merge::merge_columns;
use crate::place::{Place, PlaceSeries};
use crate::{Need, ReadError, SeriesKinds, SeriesSet, TimeRange};

#[derive(Clone, Copy, Debug)]
struct PartOf {
    place: u16,
    kinds: u8,
    row: u32,
}

/// See the module.
pub(crate) struct Roster {
    places: Vec<Place>,
    range: TimeRange,
    labels: Vec<Labels>,
    /// `parts[first[i]..first[i + 1]]` are those of series `i`.
    first: Vec<u32>,
    parts: Vec<PartOf>,
}

impl Roster {
    /// Merges the lists of places, each in label order.
    pub(crate) fn merge(
        lists: Vec<(Place, Vec<PlaceSeries>)>,
        range: TimeRange,
        series_max: usize,
    ) -> Result<Self, ReadError> {
        let total = lists.iter().map(|(_, l)| l.len()).sum();
        let mut all: Vec<(Labels, PartOf)> = Vec::with_capacity(total);
        let mut places = Vec::with_capacity(lists.len());
        let mut lists_used = 0;
        for (place, list) in lists {
            if list.is_empty() {
                continue;
            }
            lists_used += 1;
            let number = places.len() as u16;
            places.push(place);
            all.extend(list.into_iter().map(|s| (s.labels, PartOf { place: number, kinds: s.kinds, row: s.row })));
        }
        if lists_used > 1 {
            // A concatenation of sorted runs: a stable sort finds them and merges.
            all.sort_by(|a, b| a.0.cmp(&b.0));
        }
        let mut out = Self { places, range, labels: Vec::with_capacity(all.len()), first: vec![0], parts: Vec::new() };
        out.parts.reserve(all.len());
        for (labels, part) in all {
            if out.labels.last() != Some(&labels) {
                if out.labels.len() == series_max {
                    return Err(ReadError::Limit(format!("the selector matches more than {series_max} series")));
                }
                if !out.labels.is_empty() {
                    out.first.push(out.parts.len() as u32);
                }
                out.labels.push(labels);
            }
            out.parts.push(part);
        }
        out.first.push(out.parts.len() as u32);
        Ok(out)
    }

    fn parts(&self, i: usize) -> &[PartOf] {
        &self.parts[self.first[i] as usize..self.first[i + 1] as usize]
    }
}

impl SeriesSet for Roster {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn labels(&self, i: usize) -> &Labels {
        &self.labels[i]
    }

    fn kinds(&self, i: usize) -> SeriesKinds {
        // A series of the head may get samples of a new kind while the roster is used: ask again.
        let of = |p: &PartOf| p.kinds | self.places[p.place as usize].kinds_now(p.row);
        let bits = self.parts(i).iter().map(of).fold(0, |a, b| a | b);
        SeriesKinds { floats: bits & FLOATS != 0, histograms: bits & HISTOGRAMS != 0, start_ts: bits & STARTS != 0 }
    }

    fn samples_hint(&self, i: usize) -> usize {
        self.parts(i).iter().map(|p| self.places[p.place as usize].samples_hint(p.row, self.range)).sum()
    }

    fn read(&self, i: usize, range: TimeRange, need: Need, out: &mut SampleColumn) -> Result<(), ReadError> {
        out.clear();
        if range.min > range.max {
            return Ok(());
        }
        let mut columns = Vec::new();
        for p in self.parts(i) {
            self.places[p.place as usize].read(p.row, range, need, out, &mut columns)?;
        }
        if !columns.is_empty() && need != Need::ALL {
            // Samples of equal time are settled by all that they hold.
            columns.clear();
            out.clear();
            for p in self.parts(i) {
                self.places[p.place as usize].read(p.row, range, Need::ALL, out, &mut columns)?;
            }
        }
        if !columns.is_empty() {
            columns.push(std::mem::take(out));
            merge_columns(&mut columns, out);
        }
        Ok(())
    }
}

/// A set without series.
pub(crate) fn empty() -> Arc<dyn SeriesSet> {
    Arc::new(Roster {
        places: Vec::new(),
        range: TimeRange::ALL,
        labels: Vec::new(),
        first: vec![0],
        parts: Vec::new(),
    })
}
