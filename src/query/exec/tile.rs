//! The tile: rows of an instant vector over a grid of steps. What operators hand to each other, as Rust sees it; on the
//! DataFusion side it is a `RecordBatch` (see `batch`).
//!
//! ```text
//!            step 0   step 1  …  step W-1
//! sid 3      1.5      –          2.0        one row per series; – : no sample (presence bit clear)
//! sid 7      H        H          –          H: a histogram, in `hist` by cell number row·W + step
//! ```
//!
//! Invariants
//! 1. `values.len() == sids.len() * width`; a cell without presence bit has value 0.0 in `values`.
//! 2. A cell holds a float or a histogram: cells of `hist` are present, ascending, and 0.0 in `values`.
//! 3. Stale markers never appear: absence is a clear bit, NaN is a value.
//! 4. Step times are the grid's: they are not in the tile.

use std::sync::Arc;

use quiver_model::{Histogram, Labels};

use crate::kernels::operators::bits;

/// The steps a plan or subplan is evaluated at: `start, start + step, …`, `len` of them. Times in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepGrid {
    /// First step.
    pub start: i64,
    /// Distance; 1 or more (of no consequence when `len` is 1).
    pub step: i64,
    /// Number of steps, at least 1.
    pub len: usize,
}

impl StepGrid {
    /// Time of step `i`.
    #[inline]
    pub fn time(&self, i: usize) -> i64 {
        self.start + self.step * i as i64
    }

    /// Time of the last step.
    pub fn end(&self) -> i64 {
        self.time(self.len - 1)
    }
}

/// One series of a roster.
#[derive(Clone, Debug, PartialEq)]
pub struct RosterRow {
    /// Its labels.
    pub labels: Labels,
    /// Delayed name removal: the metric name goes when the answer is made.
    pub drop_name: bool,
}

/// The ordered series table of one operator; a row's index is its `sid`.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    /// Series, in label order where the operator does not say otherwise (sorting functions do).
    pub rows: Vec<RosterRow>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tile {
    /// W: number of steps.
    pub width: usize,
    /// Series of each row: index into the operator's roster.
    pub sids: Vec<u32>,
    /// Row-major values.
    pub values: Vec<f64>,
    /// One bit per cell, 64 cells a word, cell 0 in bit 0 of word 0. `cells.div_ceil(64)` words.
    pub present: Vec<u64>,
    /// Histograms by cell, ascending.
    pub hist: Vec<(u32, Arc<Histogram>)>,
    /// Only for `timestamp()`: time of the sample in each cell, ms, else empty.
    pub orig_ts: Vec<i64>,
    /// Only for `start_timestamp()`: start timestamp of the sample in each cell, ms, 0 unknown, else empty.
    pub start_ts: Vec<i64>,
}

impl Tile {
    /// A tile of absent cells.
    pub fn new(width: usize, sids: Vec<u32>) -> Self {
        let cells = width * sids.len();
        Tile { width, sids, values: vec![0.0; cells], present: vec![0; cells.div_ceil(64)], ..Default::default() }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.sids.len()
    }

    /// Is there a sample in a cell?
    #[inline]
    pub fn is_present(&self, cell: usize) -> bool {
        self.present[cell >> 6] >> (cell & 63) & 1 != 0
    }

    /// Sets a float.
    #[inline]
    pub fn set(&mut self, cell: usize, v: f64) {
        self.values[cell] = v;
        self.present[cell >> 6] |= 1 << (cell & 63);
    }

    /// Sets a histogram; cells come in ascending order.
    pub fn set_histogram(&mut self, cell: usize, h: Arc<Histogram>) {
        self.present[cell >> 6] |= 1 << (cell & 63);
        self.hist.push((cell as u32, h));
    }

    /// Clears a cell (a histogram stays in `hist` until [`Tile::drop_absent_histograms`]).
    #[inline]
    pub fn clear(&mut self, cell: usize) {
        self.values[cell] = 0.0;
        self.present[cell >> 6] &= !(1 << (cell & 63));
    }

    /// Removes the histograms of cleared cells.
    pub fn drop_absent_histograms(&mut self) {
        let present = &self.present;
        self.hist.retain(|(c, _)| present[*c as usize >> 6] >> (c & 63) & 1 != 0);
    }

    /// Appends an absent row and returns its number.
    pub fn push_row(&mut self, sid: u32) -> usize {
        self.sids.push(sid);
        let cells = self.width * self.sids.len();
        self.values.resize(cells, 0.0);
        self.present.resize(cells.div_ceil(64), 0);
        self.sids.len() - 1
    }

    /// Sets an absent row to the floats of a row of another tile, as wide as this one.
    pub fn copy_floats(&mut self, row: usize, from: &Tile, from_row: usize) {
        let (to, at, width) = (row * self.width, from_row * from.width, self.width.min(from.width));
        self.values[to..to + width].copy_from_slice(&from.values[at..at + width]);
        for w in 0..bits::words(width) {
            bits::or_at(&mut self.present, to + (w << 6), bits::row_word(&from.present, at, width, w));
        }
    }

    /// Keeps the first `rows` rows.
    pub fn truncate_rows(&mut self, rows: usize) {
        if rows >= self.rows() {
            return;
        }
        let cells = rows * self.width;
        self.sids.truncate(rows);
        self.values.truncate(cells);
        self.present.truncate(cells.div_ceil(64));
        if cells & 63 != 0
            && let Some(last) = self.present.last_mut()
        {
            *last &= (1 << (cells & 63)) - 1;
        }
        self.hist.truncate(self.hist.partition_point(|(c, _)| (*c as usize) < cells));
        self.orig_ts.truncate(cells);
        self.start_ts.truncate(cells);
    }

    /// The histogram of a cell.
    pub fn histogram(&self, cell: usize) -> Option<&Arc<Histogram>> {
        let i = self.hist.binary_search_by_key(&(cell as u32), |(c, _)| *c).ok()?;
        Some(&self.hist[i].1)
    }

    /// The histograms of a row, as (cell, histogram).
    pub fn row_histograms(&self, row: usize) -> &[(u32, Arc<Histogram>)] {
        let lo = self.hist.partition_point(|(c, _)| (*c as usize) < row * self.width);
        let hi = self.hist.partition_point(|(c, _)| (*c as usize) < (row + 1) * self.width);
        &self.hist[lo..hi]
    }

    /// Memory that its histograms take, bytes; one that stands in several neighbouring cells counts once.
    pub fn histogram_bytes(&self) -> usize {
        let mut before: Option<&Arc<Histogram>> = None;
        let own = |h: &Arc<Histogram>| size_of::<(u32, Arc<Histogram>)>() + h.memory_bytes();
        let bytes = self.hist.iter().map(|(_, h)| {
            let is_same = before.replace(h).is_some_and(|b| Arc::ptr_eq(b, h));
            if is_same { size_of::<(u32, Arc<Histogram>)>() } else { own(h) }
        });
        bytes.sum()
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.present.iter().map(|w| u64::from(w.count_ones())).sum()
    }
}
