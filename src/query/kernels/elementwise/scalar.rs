//! Functions and arithmetic of scalars, a value per step.

use super::math;
use crate::exec::tile::StepGrid;
use crate::promql::ast::BinaryOp;

/// A function of scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ScalarFn {
    MaxOf,
    MinOf,
    Pi,
    Time,
}

impl ScalarFn {
    /// By its name in a query.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "max_of" => Some(Self::MaxOf),
            "min_of" => Some(Self::MinOf),
            "pi" => Some(Self::Pi),
            "time" => Some(Self::Time),
            _ => None,
        }
    }

    /// Its value at each step.
    pub fn values(self, grid: &StepGrid, args: &[&[f64]]) -> Vec<f64> {
        match (self, args) {
            (Self::MaxOf, [a, b, ..]) => max_of(a, b),
            (Self::MinOf, [a, b, ..]) => min_of(a, b),
            (Self::MaxOf | Self::MinOf, _) => vec![f64::NAN; grid.len],
            (Self::Pi, _) => vec![std::f64::consts::PI; grid.len],
            (Self::Time, _) => times(grid),
        }
    }
}

/// `time()`
pub fn times(grid: &StepGrid) -> Vec<f64> {
    (0..grid.len).map(|i| grid.time(i) as f64 / 1000.0).collect()
}

/// `max_of(a, b)`
pub fn max_of(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| math::max(*a, *b)).collect()
}

/// `min_of(a, b)`
pub fn min_of(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| math::min(*a, *b)).collect()
}

/// `a op b` of two scalars; comparisons give 0 or 1. Operators that no scalars have give NaN.
pub fn scalar_arithmetic(op: BinaryOp, a: f64, b: f64) -> f64 {
    let bit = |x: bool| if x { 1.0 } else { 0.0 };
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Mod => a % b,
        BinaryOp::Pow => math::pow(a, b),
        BinaryOp::Atan2 => math::atan2(a, b),
        BinaryOp::Eql => bit(a == b),
        BinaryOp::Neq => bit(a != b),
        BinaryOp::Gtr => bit(a > b),
        BinaryOp::Lss => bit(a < b),
        BinaryOp::Gte => bit(a >= b),
        BinaryOp::Lte => bit(a <= b),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Unless | BinaryOp::TrimLower | BinaryOp::TrimUpper => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_step() {
        let grid = StepGrid { start: 1500, step: 500, len: 2 };
        assert_eq!(ScalarFn::Time.values(&grid, &[]), [1.5, 2.0]);
        assert_eq!(ScalarFn::MaxOf.values(&grid, &[&[1.0, f64::NAN], &[0.0, f64::INFINITY]]), [1.0, f64::INFINITY]);
        assert_eq!(ScalarFn::MinOf.values(&grid, &[&[1.0, -0.0], &[0.0, 0.0]])[1].to_bits(), (-0.0f64).to_bits());
        assert_eq!(scalar_arithmetic(BinaryOp::Mod, -7.5, 2.0), -1.5);
        assert_eq!(scalar_arithmetic(BinaryOp::Gte, 1.0, 2.0), 0.0);
    }
}
