//! The parameter of `topk`, `limit_ratio`, `quantile`, …: one value a step, and what holds for all of them.

use super::go_order;

/// See the module.
#[derive(Clone, Debug)]
pub struct Params {
    values: Vec<f64>,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Is any NaN?
    pub any_nan: bool,
}

impl Params {
    /// From the value of each step.
    pub fn new(values: Vec<f64>) -> Self {
        let constant = values.windows(2).all(|w| w[0].to_bits() == w[1].to_bits());
        let (mut min, mut max) = (f64::MAX, -f64::MAX);
        for v in &values {
            min = go_order::min(min, *v);
            max = go_order::max(max, *v);
        }
        if let (true, Some(v)) = (constant, values.first()) {
            (min, max) = (*v, *v);
        }
        let any_nan = values.iter().any(|v| v.is_nan());
        Self { values, min, max, any_nan }
    }

    /// The value at a step.
    #[inline]
    pub fn at(&self, step: usize) -> f64 {
        self.values.get(step).copied().unwrap_or(0.0)
    }
}
