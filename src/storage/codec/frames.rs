//! Residuals of a predictor, in frames of 64, each in the smallest of five layouts.
//!
//! ```text
//! tag 0–64      dense      n values at width `tag`
//! tag 65–129    based      varint base, n values − base at width `tag − 65`
//! tag 130–194   masked     ⌈n/8⌉ bytes that mark the non-zero ones, these at width `tag − 130`
//! tag 195       patched    width, high width, k; k positions at 6 bits, k high parts, n low parts
//! tag 196       patched    the same after a varint base
//! ```
//!
//! Signed residuals are zigzagged in the layouts without a base. A frame without any information is one byte.

use super::pack::{FRAME, pack, packed_len, unpack, width_of};
use crate::bytes::{Damaged, Reader, put_varint, unzigzag, varint_len, zigzag};

const BASED: u8 = 65;
const MASKED: u8 = 130;
const PATCHED: u8 = 195;
const PATCHED_BASED: u8 = 196;
/// More exceptions than this never pay.
const PATCHES_MAX: u32 = 20;

#[derive(Clone, Copy)]
enum Layout {
    Dense,
    Based,
    Masked,
    Patched,
    PatchedBased,
}

struct Plan {
    layout: Layout,
    width: u32,
    high: u32,
    base: i64,
    cost: usize,
}

#[inline]
fn fold<const SIGNED: bool>(v: i64) -> u64 {
    if SIGNED { zigzag(v) } else { v as u64 }
}

#[inline]
fn unfold<const SIGNED: bool>(v: u64) -> i64 {
    if SIGNED { unzigzag(v) } else { v as i64 }
}

/// The best low width for a frame with exceptions: (width, cost without tag and base).
fn best_patch(n: usize, widths: &[u8; 65], max: u32) -> Option<(u32, usize)> {
    let mut best: Option<(u32, usize)> = None;
    let mut exceptions = 0;
    for w in (0..max).rev() {
        exceptions += u32::from(widths[w as usize + 1]);
        if exceptions > PATCHES_MAX {
            break;
        }
        let k = exceptions as usize;
        let cost = 3 + packed_len(k, 6) + packed_len(k, max - w) + packed_len(n, w);
        if best.is_none_or(|(_, c)| cost < c) {
            best = Some((w, cost));
        }
    }
    best
}

fn plan<const SIGNED: bool>(frame: &[i64]) -> Plan {
    let n = frame.len();
    let (mut min, mut max) = (frame[0], frame[0]);
    let mut zeros = 0usize;
    let mut widths = [0u8; 65];
    let mut top = 0;
    for &v in frame {
        let folded = fold::<SIGNED>(v);
        let w = width_of(folded);
        widths[w as usize] += 1;
        top = top.max(w);
        zeros += usize::from(v == 0);
        let (lo, hi) = if SIGNED { (v < min, v > max) } else { ((v as u64) < min as u64, v as u64 > max as u64) };
        min = if lo { v } else { min };
        max = if hi { v } else { max };
    }
    let mut best = Plan { layout: Layout::Dense, width: top, high: 0, base: 0, cost: 1 + packed_len(n, top) };
    if best.cost <= 2 {
        return best;
    }
    let masked = 1 + n.div_ceil(8) + packed_len(n - zeros, top);
    if masked < best.cost {
        best = Plan { layout: Layout::Masked, width: top, high: 0, base: 0, cost: masked };
    }
    if let Some((width, cost)) = best_patch(n, &widths, top)
        && 1 + cost < best.cost
    {
        best = Plan { layout: Layout::Patched, width, high: top - width, base: 0, cost: 1 + cost };
    }
    let range = width_of(max.wrapping_sub(min) as u64);
    let base_len = varint_len(fold::<SIGNED>(min));
    let based = 1 + base_len + packed_len(n, range);
    if based < best.cost {
        best = Plan { layout: Layout::Based, width: range, high: 0, base: min, cost: based };
    }
    if range > 2 && min != 0 {
        let mut widths = [0u8; 65];
        for &v in frame {
            widths[width_of(v.wrapping_sub(min) as u64) as usize] += 1;
        }
        if let Some((width, cost)) = best_patch(n, &widths, range) {
            let cost = 1 + base_len + cost;
            if cost < best.cost {
                best = Plan { layout: Layout::PatchedBased, width, high: range - width, base: min, cost };
            }
        }
    }
    best
}

/// Bytes that [`encode`] would append.
pub fn cost<const SIGNED: bool>(residuals: &[i64]) -> usize {
    residuals.chunks(FRAME).map(|f| plan::<SIGNED>(f).cost).sum()
}

/// Appends the frames of `residuals`.
pub fn encode<const SIGNED: bool>(residuals: &[i64], out: &mut Vec<u8>) {
    let mut values = [0u64; FRAME];
    for frame in residuals.chunks(FRAME) {
        let n = frame.len();
        let plan = plan::<SIGNED>(frame);
        match plan.layout {
            Layout::Dense | Layout::Masked | Layout::Patched => {
                for (out, &v) in values.iter_mut().zip(frame) {
                    *out = fold::<SIGNED>(v);
                }
            }
            Layout::Based | Layout::PatchedBased => {
                for (out, &v) in values.iter_mut().zip(frame) {
                    *out = v.wrapping_sub(plan.base) as u64;
                }
            }
        }
        let width = plan.width;
        match plan.layout {
            Layout::Dense => {
                out.push(width as u8);
                pack(&values[..n], width, out);
            }
            Layout::Based => {
                out.push(BASED + width as u8);
                put_varint(out, fold::<SIGNED>(plan.base));
                pack(&values[..n], width, out);
            }
            Layout::Masked => {
                out.push(MASKED + width as u8);
                let (mut mask, mut k) = (0u64, 0);
                for i in 0..n {
                    let v = values[i];
                    if v != 0 {
                        mask |= 1 << i;
                        values[k] = v;
                        k += 1;
                    }
                }
                out.extend_from_slice(&mask.to_le_bytes()[..n.div_ceil(8)]);
                pack(&values[..k], width, out);
            }
            Layout::Patched | Layout::PatchedBased => {
                if matches!(plan.layout, Layout::Patched) {
                    out.push(PATCHED);
                } else {
                    out.push(PATCHED_BASED);
                    put_varint(out, fold::<SIGNED>(plan.base));
                }
                let (mut places, mut highs, mut k) = ([0u64; FRAME], [0u64; FRAME], 0);
                for (i, v) in values[..n].iter_mut().enumerate() {
                    let high = *v >> width;
                    if high != 0 {
                        (places[k], highs[k]) = (i as u64, high);
                        k += 1;
                        *v &= (1 << width) - 1;
                    }
                }
                out.extend_from_slice(&[width as u8, plan.high as u8, k as u8]);
                pack(&places[..k], 6, out);
                pack(&highs[..k], plan.high, out);
                pack(&values[..n], width, out);
            }
        }
    }
}

const SHORT: Damaged = Damaged("frame ends early");

/// Reads the frame of `n ≤ 64` residuals at the front of `src` into `out`; returns its length in bytes.
#[inline]
fn decode_frame<const SIGNED: bool>(src: &[u8], n: usize, out: &mut [i64; FRAME]) -> Result<usize, Damaged> {
    let mut raw = [0u64; FRAME];
    let (&tag, rest) = src.split_first().ok_or(SHORT)?;
    if tag < BASED {
        let used = unpack(rest, u32::from(tag), n, &mut raw).ok_or(SHORT)?;
        for (out, &v) in out.iter_mut().zip(&raw) {
            *out = unfold::<SIGNED>(v);
        }
        return Ok(1 + used);
    }
    if tag < MASKED {
        let mut r = Reader::new(rest);
        let base = unfold::<SIGNED>(r.varint()?);
        let used = unpack(r.rest(), u32::from(tag - BASED), n, &mut raw).ok_or(SHORT)?;
        for (out, &v) in out.iter_mut().zip(&raw) {
            *out = base.wrapping_add(v as i64);
        }
        return Ok(1 + r.position() + used);
    }
    if tag < PATCHED {
        let mask_len = n.div_ceil(8);
        let mut mask_bytes = [0u8; 8];
        mask_bytes[..mask_len].copy_from_slice(rest.get(..mask_len).ok_or(SHORT)?);
        let mut mask = u64::from_le_bytes(mask_bytes);
        let k = mask.count_ones() as usize;
        if n < FRAME && mask >> n != 0 {
            return Err(Damaged("mask marks values past the end"));
        }
        let used = unpack(&rest[mask_len..], u32::from(tag - MASKED), k, &mut raw).ok_or(SHORT)?;
        *out = [0; FRAME];
        let mut at = 0;
        while mask != 0 {
            out[mask.trailing_zeros() as usize] = unfold::<SIGNED>(raw[at]);
            at += 1;
            mask &= mask - 1;
        }
        return Ok(1 + mask_len + used);
    }
    if tag > PATCHED_BASED {
        return Err(Damaged("unknown frame layout"));
    }
    let mut r = Reader::new(rest);
    let base = if tag == PATCHED_BASED { unfold::<SIGNED>(r.varint()?) } else { 0 };
    let (width, high, k) = (u32::from(r.u8()?), u32::from(r.u8()?), r.u8()? as usize);
    if width + high > 64 || k > n {
        return Err(Damaged("frame patches out of bounds"));
    }
    let (mut places, mut highs) = ([0u64; FRAME], [0u64; FRAME]);
    let used = unpack(r.rest(), 6, k, &mut places).ok_or(SHORT)?;
    r.take(used)?;
    let used = unpack(r.rest(), high, k, &mut highs).ok_or(SHORT)?;
    r.take(used)?;
    let used = unpack(r.rest(), width, n, &mut raw).ok_or(SHORT)?;
    for (place, high) in places[..k].iter().zip(&highs[..k]) {
        // Six bits: always below 64.
        raw[(*place & 63) as usize] |= high.checked_shl(width).unwrap_or(0);
    }
    if tag == PATCHED {
        for (out, &v) in out.iter_mut().zip(&raw) {
            *out = unfold::<SIGNED>(v);
        }
    } else {
        for (out, &v) in out.iter_mut().zip(&raw) {
            *out = base.wrapping_add(v as i64);
        }
    }
    Ok(1 + r.position() + used)
}

/// Reads `n` residuals from the front of `src`, hands them out frame by frame (at most 64 at a time; `emit` returns
/// whether it wants more), and returns the bytes read.
#[inline]
pub fn decode<const SIGNED: bool>(
    src: &[u8],
    n: usize,
    mut emit: impl FnMut(&mut [i64]) -> bool,
) -> Result<usize, Damaged> {
    let mut out = [0i64; FRAME];
    let (mut at, mut left) = (0, n);
    while left > 0 {
        let k = left.min(FRAME);
        at += decode_frame::<SIGNED>(src.get(at..).ok_or(SHORT)?, k, &mut out)?;
        left -= k;
        if !emit(&mut out[..k]) {
            break;
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip<const SIGNED: bool>(residuals: &[i64]) {
        let mut bytes = Vec::new();
        encode::<SIGNED>(residuals, &mut bytes);
        assert_eq!(bytes.len(), cost::<SIGNED>(residuals));
        let mut back = Vec::new();
        let used = decode::<SIGNED>(&bytes, residuals.len(), |f| {
            back.extend_from_slice(f);
            true
        });
        assert_eq!(used, Ok(bytes.len()));
        assert_eq!(back, residuals);
        for cut in 0..bytes.len() {
            assert!(decode::<SIGNED>(&bytes[..cut], residuals.len(), |_| true).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_residuals_round_trip(
            n in 1usize..200, shift in 0u32..64, rare in 0u32..64, share in 0u32..10, offset in any::<i64>(),
            seed in proptest::collection::vec(any::<i64>(), 200),
        ) {
            let residuals: Vec<i64> = seed[..n].iter().enumerate().map(|(i, v)| {
                let s = if i as u32 % 10 < share { rare } else { shift };
                (v >> s).wrapping_add(if share % 2 == 0 { offset } else { 0 })
            }).collect();
            round_trip::<true>(&residuals);
            round_trip::<false>(&residuals);
        }
    }

    #[test]
    fn sparse_and_skewed_frames_are_small() {
        let cost_of = |f: &dyn Fn(i64) -> i64| cost::<true>(&(0..64).map(f).collect::<Vec<_>>());
        assert_eq!(cost_of(&|_| 0), 1);
        assert_eq!(cost_of(&|_| 1000), 3);
        assert!(cost_of(&|i| if i == 5 { 1 << 40 } else { 1 }) <= 1 + 1 + 3 + 1 + 5);
        assert!(cost_of(&|i| if i % 16 == 0 { 100 } else { 0 }) <= 13);
        round_trip::<true>(&(0..64).map(|i| if i == 5 { 1 << 40 } else { 1 }).collect::<Vec<_>>());
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut state = 1u64;
        let mut out = [0i64; FRAME];
        for _ in 0..200_000 {
            let mut bytes = [0u8; 40];
            for b in &mut bytes {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *b = (state >> 56) as u8;
            }
            let n = 1 + (state >> 40) as usize % 64;
            let _ = decode_frame::<true>(&bytes, n, &mut out);
        }
    }
}
