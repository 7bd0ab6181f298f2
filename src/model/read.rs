//! What a reader asks of the layers below: a range of time, the columns it needs; and what a series is known to hold.

/// A closed range of time, ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimeRange {
    /// First instant.
    pub min: i64,
    /// Last instant.
    pub max: i64,
}

impl TimeRange {
    /// All of time.
    pub const ALL: TimeRange = TimeRange { min: i64::MIN, max: i64::MAX };

    /// Has it an instant in common with `min..=max`?
    pub fn overlaps(&self, min: i64, max: i64) -> bool {
        self.min <= max && min <= self.max
    }

    /// Does all of `min..=max` lie in it?
    pub fn covers(&self, min: i64, max: i64) -> bool {
        self.min <= min && max <= self.max
    }
}

/// What a series holds, as far as an index knows without reading samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeriesKinds {
    /// May have float samples.
    pub floats: bool,
    /// May have histogram samples.
    pub histograms: bool,
    /// May have start timestamps.
    pub start_ts: bool,
}

impl SeriesKinds {
    /// What either holds.
    pub fn union(self, other: SeriesKinds) -> SeriesKinds {
        SeriesKinds {
            floats: self.floats | other.floats,
            histograms: self.histograms | other.histograms,
            start_ts: self.start_ts | other.start_ts,
        }
    }
}

/// Which columns a reader needs; the others may come back as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Need {
    /// Values of floats (times always come).
    pub values: bool,
    /// Buckets of histograms (count and sum always come).
    pub buckets: bool,
    /// Start timestamps.
    pub start_ts: bool,
}

impl Need {
    /// Everything.
    pub const ALL: Need = Need { values: true, buckets: true, start_ts: true };
}
