//! Arithmetic and comparison of a vector with a scalar, in place over tiles.
//!
//! A scalar that is the same at all steps makes the whole tile one run of lanes; otherwise rows are taken one by one.

use std::sync::Arc;

use crate::annotation::Annotations;
use crate::error::QueryError;
use crate::exec::machine::Machine;
use crate::exec::operator::{RunEnv, TileSink};
use crate::exec::tile::Tile;
use crate::kernels::operators::bits;
use crate::kernels::operators::element::{self, Note};
use crate::promql::ast::{BinaryOp, Position};

/// What to compute.
#[derive(Clone, Copy, Debug)]
pub struct ScalarArith {
    /// Operator.
    pub op: BinaryOp,
    /// `bool`
    pub return_bool: bool,
    /// The scalar is on the left.
    pub swapped: bool,
    /// Position of the whole expression.
    pub pos: Position,
}

/// The running operation.
pub struct ScalarArithMachine {
    spec: ScalarArith,
    scalar: Vec<f64>,
    constant: bool,
    /// The last note of each step: the one that is reported.
    notes: Vec<Note>,
}

impl ScalarArithMachine {
    /// With the scalar's value at each step.
    pub fn new(spec: ScalarArith, scalar: Vec<f64>) -> Self {
        let first = scalar.first().map(|v| v.to_bits());
        let constant = scalar.iter().all(|v| Some(v.to_bits()) == first);
        let notes = vec![Note::None; scalar.len()];
        Self { spec, scalar, constant, notes }
    }

    /// Does the operation in place.
    pub fn apply(&mut self, tile: &mut Tile) -> Result<(), QueryError> {
        let width = tile.width;
        let outcomes = self.histograms(tile)?;
        if matches!(self.spec.op, BinaryOp::TrimLower | BinaryOp::TrimUpper) {
            for cell in 0..width * tile.rows() {
                if tile.is_present(cell) {
                    self.notes[cell % width] = Note::Types(false, false);
                    tile.clear(cell);
                }
            }
        } else if self.constant {
            let lanes = [self.scalar.first().copied().unwrap_or(f64::NAN); 64];
            for word in 0..tile.present.len() {
                let on = tile.present[word];
                self.lanes(tile, word << 6, on, &lanes);
            }
        } else {
            for row in 0..tile.rows() {
                for w in 0..bits::words(width) {
                    let on = bits::row_word(&tile.present, row * width, width, w);
                    let n = (width - (w << 6)).min(64);
                    let scalar: [f64; 64] = std::array::from_fn(|i| self.scalar[(w << 6) + i.min(n - 1)]);
                    self.lanes_n(tile, row * width + (w << 6), n, on, &scalar);
                }
            }
        }
        for (cell, outcome) in outcomes {
            match outcome {
                (_, Some(h)) => {
                    tile.present[cell as usize >> 6] |= 1 << (cell & 63);
                    tile.hist.push((cell, h));
                }
                (v, None) => tile.set(cell as usize, v),
            }
        }
        Ok(())
    }

    /// Takes the histograms out of the tile; what comes of them.
    fn histograms(
        &mut self,
        tile: &mut Tile,
    ) -> Result<Vec<(u32, (f64, Option<Arc<quiver_model::Histogram>>))>, QueryError> {
        let ScalarArith { op, return_bool, swapped, .. } = self.spec;
        let mut out = Vec::new();
        for (cell, h) in std::mem::take(&mut tile.hist) {
            if !tile.is_present(cell as usize) {
                continue;
            }
            tile.clear(cell as usize);
            let step = cell as usize % tile.width;
            let (own, other) = ((0.0, Some(&h)), (self.scalar[step], None));
            let (l, r) = if swapped { (other, own) } else { (own, other) };
            let o = element::with_histogram(op, l, r)?;
            if o.failed {
                self.notes[step] = o.note;
                continue;
            }
            if return_bool {
                out.push((cell, (f64::from(u8::from(o.keep)), None)));
            } else if o.keep {
                let value = if op.is_comparison() { (0.0, Some(h)) } else { (o.float, o.histogram) };
                out.push((cell, value));
            }
        }
        Ok(out)
    }

    fn lanes(&self, tile: &mut Tile, at: usize, on: u64, scalar: &[f64; 64]) {
        let n = (tile.values.len() - at).min(64);
        self.lanes_n(tile, at, n, on, scalar);
    }

    fn lanes_n(&self, tile: &mut Tile, at: usize, n: usize, on: u64, scalar: &[f64; 64]) {
        if on == 0 {
            return;
        }
        let ScalarArith { op, return_bool, swapped, .. } = self.spec;
        let mut out = [0.0; 64];
        let values = &tile.values[at..at + n];
        let (l, r) = if swapped { (&scalar[..n], values) } else { (values, &scalar[..n]) };
        let keep = element::floats(op, l, r, &mut out[..n], on);
        let full = n == 64 && on == u64::MAX;
        if op.is_comparison() {
            if return_bool {
                for i in bits::ones(on) {
                    tile.values[at + i] = f64::from((keep >> i & 1) as u8);
                }
            } else {
                for i in bits::ones(on & !keep) {
                    tile.clear(at + i);
                }
            }
        } else if full {
            tile.values[at..at + 64].copy_from_slice(&out);
        } else {
            for i in bits::ones(on) {
                tile.values[at + i] = out[i];
            }
        }
    }

    /// What there is to report.
    pub fn annotations(&self) -> Annotations {
        let mut out = Annotations::new();
        for n in &self.notes {
            n.report(self.spec.op, self.spec.pos, &mut out);
        }
        out
    }
}

impl Machine for ScalarArithMachine {
    fn push(&mut self, mut tile: Tile, _env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError> {
        self.apply(&mut tile)?;
        out.push(tile)
    }

    fn finish(self: Box<Self>, env: &RunEnv, _out: &mut dyn TileSink) -> Result<(), QueryError> {
        env.ctx.annotate(self.annotations());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile() -> Tile {
        let mut t = Tile::new(3, vec![0, 1]);
        t.set(0, 1.0);
        t.set(2, -2.0);
        t.set(4, 5.0);
        t
    }

    fn run(op: BinaryOp, return_bool: bool, swapped: bool, scalar: [f64; 3]) -> Vec<Option<f64>> {
        let spec = ScalarArith { op, return_bool, swapped, pos: Position::default() };
        let mut t = tile();
        ScalarArithMachine::new(spec, scalar.to_vec()).apply(&mut t).unwrap();
        for c in 0..6 {
            assert!(t.is_present(c) || t.values[c] == 0.0, "absent cells hold 0");
        }
        (0..6).map(|c| t.is_present(c).then(|| t.values[c])).collect()
    }

    #[test]
    fn constant_and_varying_scalars() {
        assert_eq!(run(BinaryOp::Sub, false, false, [1.0; 3]), [Some(0.0), None, Some(-3.0), None, Some(4.0), None]);
        assert_eq!(
            run(BinaryOp::Sub, false, true, [1.0, 2.0, 3.0]),
            [Some(0.0), None, Some(5.0), None, Some(-3.0), None]
        );
    }

    #[test]
    fn comparisons_keep_the_vectors_value() {
        assert_eq!(run(BinaryOp::Gtr, false, false, [0.0; 3]), [Some(1.0), None, None, None, Some(5.0), None]);
        assert_eq!(run(BinaryOp::Gtr, false, true, [0.0; 3]), [None, None, Some(-2.0), None, None, None]);
        assert_eq!(
            run(BinaryOp::Gtr, true, false, [0.0, 9.0, 0.0]),
            [Some(1.0), None, Some(0.0), None, Some(0.0), None]
        );
    }
}
