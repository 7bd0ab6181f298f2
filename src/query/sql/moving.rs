//! Sums and what is made of them over a moving window: `sum(value) OVER (… ROWS 9 PRECEDING)`.
//!
//! DataFusion subtracts what leaves the window. A NaN or an infinity that has left stays in the sum for ever, and small
//! values that came beside a large one are lost with it: after `1e17, 2, 4` the mean of the last two is 0. This keeps the
//! window's values on two stacks with the result of each part, so nothing is subtracted and every value is added twice.
//!
//! ```text
//! oldest ─▶ front: results of all from here to its end │ back: values, and one result of them ◀─ newest
//! ```

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::Float64Type;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::Accumulator;

/// What is made of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statistic {
    /// `sum`
    Sum,
    /// `avg`
    Mean,
    /// `var_pop`
    VariancePopulation,
    /// `var_samp`
    VarianceSample,
    /// `stddev_pop`
    DeviationPopulation,
    /// `stddev_samp`
    DeviationSample,
}

impl Statistic {
    /// By the name of its function.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "sum" => Statistic::Sum,
            "avg" => Statistic::Mean,
            "var_pop" => Statistic::VariancePopulation,
            "var" | "var_samp" => Statistic::VarianceSample,
            "stddev_pop" => Statistic::DeviationPopulation,
            "stddev" | "stddev_samp" => Statistic::DeviationSample,
            _ => return None,
        })
    }
}

/// Count, sum, mean and squared distances from it of some values.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    n: f64,
    sum: f64,
    mean: f64,
    m2: f64,
}

impl Part {
    fn of(x: f64) -> Self {
        Self { n: 1.0, sum: x, mean: x, m2: 0.0 * x }
    }

    fn and(self, other: Self) -> Self {
        if self.n == 0.0 {
            return other;
        }
        if other.n == 0.0 {
            return self;
        }
        let n = self.n + other.n;
        let delta = other.mean - self.mean;
        Self {
            n,
            sum: self.sum + other.sum,
            mean: self.mean + delta * (other.n / n),
            m2: self.m2 + other.m2 + delta * delta * (self.n * other.n / n),
        }
    }
}

/// A window that moves on.
#[derive(Debug)]
pub struct Moving {
    statistic: Statistic,
    front: Vec<Part>,
    back: Vec<f64>,
    back_part: Part,
}

impl Moving {
    /// An empty window.
    pub fn new(statistic: Statistic) -> Self {
        Self { statistic, front: Vec::new(), back: Vec::new(), back_part: Part::default() }
    }

    fn pop(&mut self) {
        if self.front.is_empty() {
            let mut part = Part::default();
            for x in self.back.drain(..).rev() {
                part = Part::of(x).and(part);
                self.front.push(part);
            }
            self.back_part = Part::default();
        }
        self.front.pop();
    }
}

impl Accumulator for Moving {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for x in values[0].as_primitive::<Float64Type>().iter().flatten() {
            self.back.push(x);
            self.back_part = self.back_part.and(Part::of(x));
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for _ in 0..values[0].len() - values[0].null_count() {
            self.pop();
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let all = self.front.last().copied().unwrap_or_default().and(self.back_part);
        let over = |n: f64| (n > 0.0).then(|| all.m2 / n);
        Ok(ScalarValue::Float64(match self.statistic {
            Statistic::Sum => (all.n > 0.0).then_some(all.sum),
            Statistic::Mean => (all.n > 0.0).then(|| all.sum / all.n),
            Statistic::VariancePopulation => over(all.n),
            Statistic::VarianceSample => over(all.n - 1.0),
            Statistic::DeviationPopulation => over(all.n).map(f64::sqrt),
            Statistic::DeviationSample => over(all.n - 1.0).map(f64::sqrt),
        }))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.front.capacity() * size_of::<Part>() + self.back.capacity() * size_of::<f64>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Err(DataFusionError::Internal("a moving window has no state to hand on".into()))
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        Err(DataFusionError::Internal("a moving window has no state to take over".into()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Float64Array;

    use super::*;

    fn moved(statistic: Statistic, values: &[Option<f64>], width: usize) -> Vec<Option<f64>> {
        let mut window = Moving::new(statistic);
        let one = |v: Option<f64>| -> Vec<ArrayRef> { vec![Arc::new(Float64Array::from(vec![v]))] };
        let mut out = Vec::new();
        for (i, v) in values.iter().enumerate() {
            window.update_batch(&one(*v)).unwrap();
            if i >= width {
                window.retract_batch(&one(values[i - width])).unwrap();
            }
            match window.evaluate().unwrap() {
                ScalarValue::Float64(x) => out.push(x),
                other => panic!("{other:?}"),
            }
        }
        out
    }

    #[test]
    fn what_has_left_a_window_is_no_more_in_it() {
        let values =
            [Some(1e17), Some(2.0), Some(4.0), Some(f64::NAN), None, Some(f64::INFINITY), Some(1.0), Some(3.0)];
        let sums = moved(Statistic::Sum, &values, 2);
        assert_eq!(sums[2], Some(6.0));
        assert_eq!(sums[7], Some(4.0));
        assert!(sums[3].unwrap().is_nan());
        assert_eq!(moved(Statistic::Mean, &values, 2)[2], Some(3.0));
        assert_eq!(moved(Statistic::VariancePopulation, &values, 2)[7], Some(1.0));
        assert_eq!(moved(Statistic::VarianceSample, &values, 2)[7], Some(2.0));
    }

    #[test]
    fn every_window_is_as_if_computed_alone() {
        let values: Vec<Option<f64>> =
            (0..200).map(|i| (i % 7 != 3).then(|| f64::from(i * 7919 % 101) - 50.0)).collect();
        for width in [1, 2, 5, 17, 300] {
            let found = moved(Statistic::Sum, &values, width);
            for (i, f) in found.iter().enumerate() {
                let window: Vec<f64> = values[(i + 1).saturating_sub(width)..=i].iter().flatten().copied().collect();
                let wanted = (!window.is_empty()).then(|| window.iter().sum::<f64>());
                assert_eq!(*f, wanted, "row {i} of {width}");
            }
        }
    }
}
