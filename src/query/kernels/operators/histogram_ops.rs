//! Histogram arithmetic as operators see it: in place, with errors sorted into "does not go together" and "broken".

use quiver_model::Histogram;
use quiver_model::histogram::{AddOutcome, HistogramError};

/// Why an addition failed.
#[derive(Clone, Debug, PartialEq)]
pub enum OpError {
    /// Exponential and custom buckets: an annotation, no result.
    Incompatible,
    /// A broken histogram: the query fails.
    Invalid(String),
}

/// What an addition had to say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Added {
    /// Counter reset hints contradict each other.
    pub collision: bool,
    /// Custom bounds were reconciled.
    pub reconciled: bool,
}

fn sorted(r: Result<AddOutcome, HistogramError>) -> Result<Added, OpError> {
    match r {
        Ok(a) => Ok(Added { collision: a.counter_reset_collision, reconciled: a.nhcb_bounds_reconciled }),
        Err(HistogramError::IncompatibleSchema) => Err(OpError::Incompatible),
        Err(e) => Err(OpError::Invalid(e.to_string())),
    }
}

/// `h += other`, with compensation.
pub fn kahan_add(h: &mut Histogram, other: &Histogram, comp: &mut Option<Histogram>) -> Result<Added, OpError> {
    sorted(h.kahan_add(other, comp))
}

/// `h += other`
pub fn add(h: &mut Histogram, other: &Histogram) -> Result<Added, OpError> {
    sorted(h.add(other))
}

/// `h -= other`
pub fn sub(h: &mut Histogram, other: &Histogram) -> Result<Added, OpError> {
    sorted(h.sub(other))
}
