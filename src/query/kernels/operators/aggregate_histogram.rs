//! Histograms of `sum` and `avg`: a sparse accumulator for each group and step that saw one.
//!
//! Invariants
//! 1. A cell that saw a float first keeps no histogram: its result is dropped anyway, with a warning.
//! 2. A cell whose histograms cannot be added is closed: later samples, floats too, pass it by without a trace.
//! 3. The first histogram is copied, all others are added with compensation; a mean turns incremental where the sum
//!    overflows.

use std::sync::Arc;

use hashbrown::HashMap;
use quiver_model::{Histogram, ResetHint};

use super::bits;
use super::histogram_ops::{self as ops, OpError};
use crate::annotation::{Annotations, HistogramOperation};
use crate::error::QueryError;
use crate::promql::ast::Position;

#[derive(Debug, Default)]
struct Cell {
    /// Sum, or mean once incremental; none where a float came first.
    value: Option<Histogram>,
    comp: Option<Histogram>,
    count: f64,
    incremental: bool,
    closed: bool,
    saw_reset: bool,
    saw_no_reset: bool,
}

impl Cell {
    fn hint(&mut self, h: ResetHint) {
        self.saw_reset |= h == ResetHint::Yes;
        self.saw_no_reset |= h == ResetHint::No;
    }

    fn add_sum(&mut self, h: &Histogram, notes: &mut Notes<'_>) -> Result<(), QueryError> {
        let Some(value) = &mut self.value else { return Ok(()) };
        match ops::kahan_add(value, h, &mut self.comp) {
            Ok(done) => notes.reconciled(done.reconciled),
            Err(e) => {
                notes.failed(e)?;
                self.closed = true;
            }
        }
        Ok(())
    }

    fn add_mean(&mut self, h: &Histogram, notes: &mut Notes<'_>) -> Result<(), QueryError> {
        let Some(value) = &mut self.value else { return Ok(()) };
        if !self.incremental {
            let (mut v, mut c) = (value.clone(), self.comp.clone());
            match ops::kahan_add(&mut v, h, &mut c) {
                Ok(done) => notes.reconciled(done.reconciled),
                Err(e) => {
                    notes.failed(e)?;
                    self.closed = true;
                    return Ok(());
                }
            }
            if !v.has_overflow() {
                (*value, self.comp) = (v, c);
                return Ok(());
            }
            self.incremental = true;
            value.div(self.count - 1.0);
            if let Some(c) = &mut self.comp {
                c.div(self.count - 1.0);
            }
        }
        let q = (self.count - 1.0) / self.count;
        if let Some(c) = &mut self.comp {
            c.mul(q);
        }
        let mut part = h.clone();
        part.div(self.count);
        value.mul(q);
        match ops::kahan_add(value, &part, &mut self.comp) {
            Ok(done) => notes.reconciled(done.reconciled),
            Err(e) => {
                notes.failed(e)?;
                self.closed = true;
            }
        }
        Ok(())
    }

    fn result(mut self, average: bool) -> Option<Found> {
        if self.closed {
            return None;
        }
        let collision = self.saw_reset && self.saw_no_reset;
        let mut value = self.value?;
        if average && !self.incremental {
            value.div(self.count);
            if let Some(c) = &mut self.comp {
                c.div(self.count);
            }
        }
        if let Some(c) = &self.comp {
            // Both came out of additions that worked, so their layouts agree.
            let _ = value.add_compensation(c);
        }
        value.compact(0);
        Some(Found { value, collision })
    }
}

struct Notes<'a> {
    pos: Position,
    name: &'a dyn Fn() -> String,
    notes: &'a mut Annotations,
}

impl Notes<'_> {
    fn reconciled(&mut self, yes: bool) {
        if yes {
            let what = HistogramOperation::Aggregation;
            self.notes.mismatched_custom_buckets_histograms_info(self.pos, what);
        }
    }

    fn failed(&mut self, e: OpError) -> Result<(), QueryError> {
        match e {
            OpError::Incompatible => {
                self.notes.mixed_exponential_custom_histograms_warning(&(self.name)(), self.pos);
                Ok(())
            }
            OpError::Invalid(text) => Err(QueryError::Execution(text)),
        }
    }
}

/// A result.
#[derive(Debug)]
pub(super) struct Found {
    /// Histogram.
    pub value: Histogram,
    /// Hints of both kinds were seen.
    pub collision: bool,
}

/// Results by cell, ascending.
pub(super) struct Results {
    cells: std::iter::Peekable<std::vec::IntoIter<(u64, Option<Found>)>>,
}

impl Results {
    /// Those below `end` that were not taken yet.
    pub fn take_below(&mut self, end: u64) -> Vec<(u64, Option<Found>)> {
        std::iter::from_fn(|| self.cells.next_if(|(c, _)| *c < end)).collect()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct HistogramCells {
    cells: HashMap<u64, Cell>,
    any_closed: bool,
}

impl HistogramCells {
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Of the 64 cells from `first` on, those of `on` that are closed.
    pub fn closed(&self, first: usize, on: u64) -> u64 {
        if !self.any_closed {
            return 0;
        }
        let closed = |i: &usize| self.cells.get(&((first + i) as u64)).is_some_and(|c| c.closed);
        bits::ones(on).filter(closed).fold(0, |m, i| m | 1 << i)
    }

    /// Adds a histogram to a cell; `float` says whether the cell saw a float.
    pub fn add(
        &mut self,
        cell: u64,
        h: &Arc<Histogram>,
        float: bool,
        average: bool,
        pos: Position,
        name: impl Fn() -> String,
        notes: &mut Annotations,
    ) -> Result<(), QueryError> {
        let mut notes = Notes { pos, name: &name, notes };
        let c = match self.cells.entry(cell) {
            hashbrown::hash_map::Entry::Vacant(e) => {
                let mut c = Cell { count: 1.0, ..Cell::default() };
                if !float {
                    c.value = Some((**h).clone());
                    c.hint(h.reset_hint);
                }
                e.insert(c);
                return Ok(());
            }
            hashbrown::hash_map::Entry::Occupied(e) => e.into_mut(),
        };
        if c.closed {
            return Ok(());
        }
        c.count += 1.0;
        if c.value.is_some() {
            c.hint(h.reset_hint);
        }
        if average {
            c.add_mean(h, &mut notes)?
        } else {
            c.add_sum(h, &mut notes)?
        }
        self.any_closed |= c.closed;
        Ok(())
    }

    /// Adds the cells of a later partition.
    pub fn merge(
        &mut self,
        other: Self,
        average: bool,
        pos: Position,
        notes: &mut Annotations,
    ) -> Result<(), QueryError> {
        let no_name = String::new;
        let mut notes = Notes { pos, name: &no_name, notes };
        let mut theirs: Vec<(u64, Cell)> = other.cells.into_iter().collect();
        theirs.sort_unstable_by_key(|(c, _)| *c);
        for (at, o) in theirs {
            let c = match self.cells.entry(at) {
                hashbrown::hash_map::Entry::Vacant(e) => {
                    self.any_closed |= o.closed;
                    e.insert(o);
                    continue;
                }
                hashbrown::hash_map::Entry::Occupied(e) => e.into_mut(),
            };
            if c.closed {
                continue;
            }
            c.merge(o, average, &mut notes)?;
            self.any_closed |= c.closed;
        }
        Ok(())
    }

    /// All cells, with their results.
    pub fn finish(self, average: bool) -> Results {
        let mut cells: Vec<(u64, Option<Found>)> =
            self.cells.into_iter().map(|(at, c)| (at, c.result(average))).collect();
        cells.sort_unstable_by_key(|(c, _)| *c);
        Results { cells: cells.into_iter().peekable() }
    }
}

impl Cell {
    fn merge(&mut self, o: Cell, average: bool, notes: &mut Notes<'_>) -> Result<(), QueryError> {
        self.closed |= o.closed;
        self.saw_reset |= o.saw_reset;
        self.saw_no_reset |= o.saw_no_reset;
        let (n1, n2) = (self.count, o.count);
        self.count = n1 + n2;
        let (Some(value), Some(mut theirs)) = (&mut self.value, o.value) else { return Ok(()) };
        let mut their_comp = o.comp;
        if average {
            let direct = !self.incremental && !o.incremental;
            if direct {
                let (mut v, mut c) = (value.clone(), self.comp.clone());
                if ops::kahan_add(&mut v, &theirs, &mut c).is_ok() && !v.has_overflow() {
                    return self.add_parts(&theirs, their_comp.as_ref(), notes);
                }
            }
            let scale = |h: &mut Histogram, c: &mut Option<Histogram>, n: f64, incremental: bool, q: f64| {
                for h in std::iter::once(h).chain(c.as_mut()) {
                    if !incremental {
                        h.div(n);
                    }
                    h.mul(q);
                }
            };
            scale(value, &mut self.comp, n1, self.incremental, n1 / self.count);
            scale(&mut theirs, &mut their_comp, n2, o.incremental, n2 / self.count);
            self.incremental = true;
        }
        self.add_parts(&theirs, their_comp.as_ref(), notes)
    }

    fn add_parts(
        &mut self,
        value: &Histogram,
        comp: Option<&Histogram>,
        notes: &mut Notes<'_>,
    ) -> Result<(), QueryError> {
        self.add_sum(value, notes)?;
        if let Some(c) = comp
            && !self.closed
        {
            self.add_sum(c, notes)?;
        }
        Ok(())
    }
}
