//! An immutable run of samples of one series in the head.

use quiver_model::SampleColumn;

use crate::{Need, ReadError, TimeRange};

/// See the module.
#[derive(Debug)]
pub(crate) struct Part {
    column: SampleColumn,
}

impl Part {
    /// Encodes a column that is not empty.
    pub(crate) fn seal(column: &SampleColumn) -> Self {
        Self { column: column.clone() }
    }

    pub(crate) fn min_ts(&self) -> i64 {
        self.column.ts.first().copied().unwrap_or(0)
    }

    pub(crate) fn max_ts(&self) -> i64 {
        self.column.ts.last().copied().unwrap_or(0)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.column.len() * 16
    }

    /// About how many samples lie in `range`.
    pub(crate) fn samples_in(&self, range: TimeRange) -> usize {
        if range.overlaps(self.min_ts(), self.max_ts()) { self.column.len() } else { 0 }
    }

    /// Decodes into `out` (cleared first).
    pub(crate) fn read(&self, _need: Need, out: &mut SampleColumn) -> Result<(), ReadError> {
        out.clear();
        out.extend_from(&self.column, 0..self.column.len());
        Ok(())
    }
}
