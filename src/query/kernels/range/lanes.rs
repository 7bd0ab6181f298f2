//! `rate`, `increase` and `delta` of plain floats, a block of steps at a time.
//!
//! ```text
//! windows ─▶ what each looks at, in lanes ─▶ extrapolation: the same operations on all lanes, no branches ─▶ row
//! ```
//!
//! Extrapolating takes eight divisions. One step after the other they wait for each other; side by side in lanes they do
//! not. Invariant: each lane does the operations of [`super::rate::floats`] in its order, so the bits are the same.

use super::rate::{RateKind, Resets};
use super::window::{Series, Windows};
use super::{RangeSpec, seconds};

/// Steps in a block.
const LANES: usize = 64;

/// What the windows of a block look at. Times are differences in ms.
struct Block {
    step: [u32; LANES],
    /// From the start of the window to its first sample.
    to_start: [f64; LANES],
    /// From its last sample to its end.
    to_end: [f64; LANES],
    /// From the first to the last sample.
    sampled: [f64; LANES],
    intervals: [f64; LANES],
    /// Difference of last and first, resets added.
    amount: [f64; LANES],
    first: [f64; LANES],
}

/// Folds a series of floats without start timestamps; `put` gets steps in order.
pub(crate) fn fold(
    kind: RateKind,
    spec: &RangeSpec,
    s: &Series<'_>,
    windows: &mut Windows<'_>,
    resets: &mut Resets,
    mut put: impl FnMut(usize, f64),
) {
    // Lanes that are not filled compute something harmless.
    let ones = [1.0; LANES];
    let mut b = Block {
        step: [0; LANES],
        to_start: ones,
        to_end: ones,
        sampled: ones,
        intervals: ones,
        amount: ones,
        first: ones,
    };
    loop {
        let mut n = 0;
        while n < LANES {
            let Some(w) = windows.next() else { break };
            let (lo, last) = (w.lo, w.hi - 1);
            if lo == last {
                continue;
            }
            let (first_ts, last_ts) = (s.ts[lo], s.ts[last]);
            let amount = s.values[last] - s.values[lo];
            b.step[n] = w.step as u32;
            b.to_start[n] = first_ts.wrapping_sub(w.end.saturating_sub(spec.range_ms)) as f64;
            b.to_end[n] = w.end.wrapping_sub(last_ts) as f64;
            b.sampled[n] = last_ts.wrapping_sub(first_ts) as f64;
            b.intervals[n] = (windows.stand_for(lo, last + 1) - 1) as f64;
            b.amount[n] = if kind.counter { resets.correct(s.values, lo, last + 1, amount) } else { amount };
            b.first[n] = s.values[lo];
            n += 1;
        }
        if n == 0 {
            return;
        }
        let per = seconds(spec.range_ms);
        match (kind.counter, kind.per_second) {
            (true, true) => extrapolate::<true, true>(&mut b, per),
            (true, false) => extrapolate::<true, false>(&mut b, per),
            (false, true) => extrapolate::<false, true>(&mut b, per),
            (false, false) => extrapolate::<false, false>(&mut b, per),
        }
        for i in 0..n {
            put(b.step[i] as usize, b.amount[i]);
        }
        if n < LANES {
            return;
        }
    }
}

/// Turns the amounts of a block into results.
#[inline(never)]
fn extrapolate<const COUNTER: bool, const PER_SECOND: bool>(b: &mut Block, per: f64) {
    for i in 0..LANES {
        let (amount, first) = (b.amount[i], b.first[i]);
        let sampled = b.sampled[i] / 1000.0;
        let (mut to_start, mut to_end) = (b.to_start[i] / 1000.0, b.to_end[i] / 1000.0);
        let average = sampled / b.intervals[i];
        let (half, threshold) = (average / 2.0, average * 1.1);
        to_start = if to_start >= threshold { half } else { to_start };
        if COUNTER {
            // A counter is not extrapolated to before it was 0.
            let to_zero = sampled * (first / amount);
            let nearer = (amount > 0.0) & (first >= 0.0) & (to_zero < to_start);
            to_start = if nearer { to_zero } else { to_start };
        }
        to_end = if to_end >= threshold { half } else { to_end };
        let factor = (sampled + to_start + to_end) / sampled;
        let factor = if sampled != 0.0 { factor } else { 1.0 };
        b.amount[i] = amount * if PER_SECOND { factor / per } else { factor };
    }
}
