//! Sequences of integers: a predictor, a common divisor, frames of residuals.
//!
//! ```text
//! flags │ first value │ [second difference base] │ [divisor] │ [centre] │ frames
//!   bits 0–1 predictor: 0 difference to the first, 1 to the one before, 2 difference of differences
//!   bit 2 divisor   bit 3 centre (subtracted from every residual)   bit 4 all residuals are zero: no frames
//! ```
//!
//! All arithmetic wraps, so every `i64` sequence round-trips.

use super::frames;
use crate::bytes::{Damaged, Reader, put_signed, put_varint};

const DIVISOR: u8 = 4;
const CENTRE: u8 = 8;
const FLAT: u8 = 16;

/// Buffers of the encoder.
#[derive(Default)]
pub struct IntScratch {
    scaled: Vec<i64>,
    delta: Vec<i64>,
    second: Vec<i64>,
    sample: Vec<i64>,
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// A residual that many share, worth subtracting from all: zero where zeros abound, else about the median.
fn centre_of(residuals: &[i64], sample: &mut Vec<i64>) -> i64 {
    sample.clear();
    sample.extend(residuals.iter().step_by(residuals.len().div_ceil(63).max(1)));
    if sample.len() < 4 || sample.iter().filter(|v| **v == 0).count() * 3 > sample.len() {
        return 0;
    }
    let mid = sample.len() / 2;
    *sample.select_nth_unstable(mid).1
}

/// Appends `values`; their number is kept by the caller.
pub fn encode(values: &[i64], scratch: &mut IntScratch, out: &mut Vec<u8>) {
    let Some((&first, rest)) = values.split_first() else { return };
    // The divisor: what all steps are multiples of, unless a step overflows.
    let mut divisor = 0u64;
    let mut previous = first;
    for &v in rest {
        match v.checked_sub(previous) {
            Some(step) if v.checked_sub(first).is_some() => {
                if step != 0 && divisor != 1 {
                    divisor = gcd(step.unsigned_abs(), divisor);
                }
            }
            _ => {
                divisor = 1;
                break;
            }
        }
        previous = v;
    }
    if divisor == 0 {
        out.push(FLAT);
        put_signed(out, first);
        return;
    }
    let divisor = i64::try_from(divisor).unwrap_or(1);
    let IntScratch { scaled, delta, second, sample } = scratch;
    scaled.clear();
    if divisor == 1 {
        scaled.extend(rest.iter().map(|v| v.wrapping_sub(first)));
    } else {
        scaled.extend(rest.iter().map(|v| v.wrapping_sub(first) / divisor));
    }
    delta.clear();
    let mut previous = 0i64;
    for &u in scaled.iter() {
        delta.push(u.wrapping_sub(previous));
        previous = u;
    }
    second.clear();
    second.extend(delta.windows(2).map(|w| w[1].wrapping_sub(w[0])));
    let centre = centre_of(delta, sample);
    let centred = |v: &mut Vec<i64>| v.iter_mut().for_each(|r| *r = r.wrapping_sub(centre));
    centred(delta);

    let by_delta = frames::cost::<true>(delta)
        + if centre != 0 { crate::bytes::varint_len(crate::bytes::zigzag(centre)) } else { 0 };
    let by_first = frames::cost::<true>(scaled);
    let step = delta[0].wrapping_add(centre);
    let by_second = frames::cost::<true>(second) + crate::bytes::varint_len(crate::bytes::zigzag(step));
    // A cheaper decode wins a tie: without a predictor, then one sum, then two.
    let best = by_delta.min(by_first).min(by_second);
    let (mode, residuals): (u8, &[i64]) = if by_first == best {
        (0, scaled)
    } else if by_delta == best {
        (1, delta)
    } else {
        (2, second)
    };
    let centre = if mode == 1 { centre } else { 0 };
    let flat = mode != 0 && residuals.iter().all(|r| *r == 0);
    let flags = mode
        | if divisor != 1 { DIVISOR } else { 0 }
        | if centre != 0 { CENTRE } else { 0 }
        | if flat { FLAT } else { 0 };
    out.push(flags);
    put_signed(out, first);
    if mode == 2 {
        put_signed(out, step);
    }
    if divisor != 1 {
        put_varint(out, divisor as u64);
    }
    if centre != 0 {
        put_signed(out, centre);
    }
    if !flat {
        frames::encode::<true>(residuals, out);
    }
}

/// Decodes `n` values from the front of `src`: hands them out in order, a slice at a time, until `emit` (position,
/// values) returns false. Returns the bytes read when it went to the end.
#[inline]
pub fn decode(src: &[u8], n: usize, mut emit: impl FnMut(usize, &[i64]) -> bool) -> Result<usize, Damaged> {
    if n == 0 {
        return Ok(0);
    }
    let mut r = Reader::new(src);
    let flags = r.u8()?;
    let first = r.signed()?;
    let mode = flags & 3;
    if flags > 31 || mode == 3 {
        return Err(Damaged("unknown integer predictor"));
    }
    let step = if mode == 2 { r.signed()? } else { 0 };
    let divisor = if flags & DIVISOR != 0 { r.varint()? as i64 } else { 1 };
    let centre = if flags & CENTRE != 0 { r.signed()? } else { 0 };
    let head = r.position();
    if flags & FLAT != 0 {
        // All residuals zero: a constant (mode 0), or a straight line.
        let slope = match mode {
            0 => 0,
            1 => centre,
            _ => step,
        }
        .wrapping_mul(divisor);
        let mut buffer = [first; super::pack::FRAME];
        let (mut at, mut v) = (0, first);
        while at < n {
            let k = (n - at).min(buffer.len());
            for b in &mut buffer[..k] {
                *b = v;
                v = v.wrapping_add(slope);
            }
            if !emit(at, &buffer[..k]) {
                break;
            }
            at += k;
        }
        return Ok(head);
    }
    if !emit(0, &[first]) || n == 1 {
        return Ok(head);
    }
    let mut at = 1;
    let used = match mode {
        0 => frames::decode::<true>(r.rest(), n - 1, |frame| {
            for v in frame.iter_mut() {
                *v = first.wrapping_add(v.wrapping_mul(divisor));
            }
            at += frame.len();
            emit(at - frame.len(), frame)
        })?,
        1 => {
            let mut sum = first;
            let centre = centre.wrapping_mul(divisor);
            frames::decode::<true>(r.rest(), n - 1, |frame| {
                if divisor != 1 {
                    frame.iter_mut().for_each(|v| *v = v.wrapping_mul(divisor));
                }
                for v in frame.iter_mut() {
                    sum = sum.wrapping_add(v.wrapping_add(centre));
                    *v = sum;
                }
                at += frame.len();
                emit(at - frame.len(), frame)
            })?
        }
        _ => {
            let mut slope = step.wrapping_mul(divisor);
            let mut sum = first.wrapping_add(slope);
            if !emit(1, &[sum]) || n == 2 {
                return Ok(head);
            }
            at = 2;
            frames::decode::<true>(r.rest(), n - 2, |frame| {
                for v in frame.iter_mut() {
                    slope = slope.wrapping_add(v.wrapping_mul(divisor));
                    sum = sum.wrapping_add(slope);
                    *v = sum;
                }
                at += frame.len();
                emit(at - frame.len(), frame)
            })?
        }
    };
    Ok(head + used)
}

/// [`decode`] into a vector, appended.
pub fn decode_vec(src: &[u8], n: usize, out: &mut Vec<i64>) -> Result<usize, Damaged> {
    decode(src, n, |_, values| {
        out.extend_from_slice(values);
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(values: &[i64]) -> usize {
        let mut bytes = Vec::new();
        encode(values, &mut IntScratch::default(), &mut bytes);
        let mut back = Vec::new();
        assert_eq!(decode_vec(&bytes, values.len(), &mut back), Ok(bytes.len()));
        assert_eq!(back, values);
        bytes.len()
    }

    proptest! {
        #[test]
        fn any_integers_round_trip(seed in proptest::collection::vec((any::<i64>(), 0u32..64), 0..300), k in 1i64..5000) {
            round_trip(&seed.iter().map(|(v, _)| *v).collect::<Vec<_>>());
            round_trip(&seed.iter().map(|(v, s)| v >> s).collect::<Vec<_>>());
            round_trip(&seed.iter().map(|(v, _)| (v >> 40) * k).collect::<Vec<_>>());
            let mut sum = 0i64;
            round_trip(&seed.iter().map(|(v, _)| { sum += (v >> 50) * k; sum }).collect::<Vec<_>>());
        }
    }

    #[test]
    fn straight_lines_and_constants_take_no_frames() {
        assert!(round_trip(&[7; 1000]) <= 3);
        assert!(round_trip(&(0..1000).map(|i| 5_000 + i * 15_000).collect::<Vec<_>>()) <= 10);
        round_trip(&[i64::MIN, i64::MAX, i64::MIN, 0]);
        round_trip(&[i64::MIN]);
        round_trip(&[0, i64::MIN]);
    }
}
