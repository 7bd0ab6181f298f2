//! Columns of floats, to the bit: the smallest of a few codecs that all decode fast.
//!
//! ```text
//! 0 constant   compact float
//! 1 decimal    scale d, integers          value = integer / 10^d, which a division rounds back exactly
//! 2 patched    patches, scale d, integers the same, where some (markers, NaN, −0.0) are kept beside it as raw bits
//! 3 wide       integers                   whole numbers of 2^51 and more
//! 4 bits       integers                   the float's bits, mapped so that integer order is float order
//! 5 xor        shift, frames              each float's bits against those before
//! 6 raw        8 bytes each
//! ```
//!
//! Most of what is monitored are decimals: counts, bytes, seconds with a few digits. The encoder checks every value's
//! bits against what the decoder will compute; what does not come back to the bit is a patch, or another codec.

use super::ints::{self, IntScratch};
use super::{frames, pack::FRAME};
use crate::bytes::{Damaged, Reader, put_signed, put_varint};

const CONSTANT: u8 = 0;
const DECIMAL: u8 = 1;
const PATCHED: u8 = 2;
const WIDE: u8 = 3;
const BITS: u8 = 4;
const XOR: u8 = 5;
const RAW: u8 = 6;

/// Digits after the point that are looked for.
const SCALE_MAX: usize = 14;
const POWERS: [f64; SCALE_MAX + 1] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14];
/// 1.5 × 2^52: adding it rounds to an integer, which then stands in the low bits.
const MAGIC: f64 = 6_755_399_441_055_744.0;
const MAGIC_BITS: u64 = 0x4338_0000_0000_0000;
/// Decimals are integers below 2^51 in magnitude.
const DECIMAL_MAX: f64 = 2_251_799_813_685_247.0;

/// Buffers of the encoder.
#[derive(Default)]
pub struct FloatScratch {
    ints: Vec<i64>,
    patches: Vec<(u32, u64)>,
    stream: IntScratch,
    candidate: Vec<u8>,
}

/// `v` as an integer over `10^d`, if that gives back its bits.
#[inline]
fn to_decimal(v: f64, power: f64) -> Option<i64> {
    let x = v * power;
    if x.abs() < DECIMAL_MAX {
        let rounded = (x + MAGIC) - MAGIC;
        if (rounded / power).to_bits() == v.to_bits() {
            return Some(rounded as i64);
        }
    }
    None
}

#[inline]
fn whole_to_float(i: i64) -> f64 {
    f64::from_bits((i as u64).wrapping_add(MAGIC_BITS)) - MAGIC
}

/// The smallest scale from `from` on that holds `v`.
fn scale_of(v: f64, from: usize) -> Option<usize> {
    (from..=SCALE_MAX).find(|d| to_decimal(v, POWERS[*d]).is_some())
}

/// Floats as integers of equal order; its own inverse.
#[inline]
fn order_bits(bits: i64) -> i64 {
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// Appends one float: scale and varint, or 255 and its bits.
pub fn put_float(out: &mut Vec<u8>, v: f64) {
    put_floats(out, &[v]);
}

/// Appends a few floats of like size: a common scale and differences to the first, or 255 and their bits.
pub fn put_floats(out: &mut Vec<u8>, values: &[f64]) {
    let mut scale = Some(0);
    for &v in values {
        scale = scale.and_then(|d| scale_of(v, d));
    }
    // A later value may ask for a scale that an earlier one does not go with.
    let holds = |d: &usize| values.iter().all(|v| to_decimal(*v, POWERS[*d]).is_some());
    if let Some(d) = scale.filter(holds)
        && let Some(first) = values.first().and_then(|v| to_decimal(*v, POWERS[d]))
    {
        let begin = out.len();
        out.push(d as u8);
        put_signed(out, first);
        for v in &values[1..] {
            put_signed(out, to_decimal(*v, POWERS[d]).unwrap_or(first).wrapping_sub(first));
        }
        if out.len() - begin - 1 < 8 * values.len() {
            return;
        }
        out.truncate(begin);
    }
    out.push(255);
    for v in values {
        out.extend_from_slice(&v.to_bits().to_le_bytes());
    }
}

/// Reads what [`put_floats`] wrote.
pub fn get_floats<const N: usize>(r: &mut Reader<'_>) -> Result<[f64; N], Damaged> {
    let mut out = [0.0; N];
    let scale = r.u8()?;
    if scale == 255 {
        for v in &mut out {
            *v = f64::from_bits(r.u64()?);
        }
        return Ok(out);
    }
    let power = *POWERS.get(scale as usize).ok_or(Damaged("unknown decimal scale"))?;
    let mut first = 0i64;
    for (k, v) in out.iter_mut().enumerate() {
        let i = first.wrapping_add(r.signed()?);
        if k == 0 {
            first = i;
        }
        *v = whole_to_float(i) / power;
    }
    Ok(out)
}

/// Reads one float that [`put_float`] wrote.
pub fn get_float(r: &mut Reader<'_>) -> Result<f64, Damaged> {
    Ok(get_floats::<1>(r)?[0])
}

impl FloatScratch {
    /// Fills `ints` and `patches`; the scale, or `None` when too little is decimal.
    fn scale_decimals(&mut self, values: &[f64]) -> Option<usize> {
        let n = values.len();
        let (mut d, mut tried, mut failed) = (0, 0, 0);
        for &v in values.iter().step_by(n.div_ceil(32)) {
            tried += 1;
            match scale_of(v, d) {
                Some(larger) => d = larger,
                None => failed += 1,
            }
        }
        if failed * 4 > tried {
            return None;
        }
        'scale: loop {
            let power = POWERS[d];
            self.ints.clear();
            self.patches.clear();
            let mut last = None;
            for (i, &v) in values.iter().enumerate() {
                match to_decimal(v, power) {
                    Some(int) => {
                        if last.is_none() {
                            self.ints.fill(int);
                        }
                        last = Some(int);
                        self.ints.push(int);
                    }
                    None => {
                        // A few more digits than the sample had: start over with them.
                        if d < SCALE_MAX
                            && let Some(larger) = scale_of(v, d + 1)
                        {
                            d = larger;
                            continue 'scale;
                        }
                        self.patches.push((i as u32, v.to_bits()));
                        if self.patches.len() > 1 + n / 8 {
                            return None;
                        }
                        self.ints.push(last.unwrap_or(0));
                    }
                }
            }
            return Some(d);
        }
    }

    /// Takes `candidate` if it is smaller than what stands in `out` from `start` on.
    fn offer(&mut self, out: &mut Vec<u8>, start: usize) {
        if out.len() == start || self.candidate.len() < out.len() - start {
            out.truncate(start);
            out.extend_from_slice(&self.candidate);
        }
    }
}

/// Appends `values`; their number is kept by the caller.
pub fn encode(values: &[f64], scratch: &mut FloatScratch, out: &mut Vec<u8>) {
    let Some(&first) = values.first() else { return };
    if values.iter().all(|v| v.to_bits() == first.to_bits()) {
        out.push(CONSTANT);
        put_float(out, first);
        return;
    }
    let start = out.len();
    if let Some(d) = scratch.scale_decimals(values) {
        if scratch.patches.is_empty() {
            out.push(DECIMAL);
        } else {
            out.push(PATCHED);
            put_varint(out, scratch.patches.len() as u64);
            let mut last = 0;
            for &(at, bits) in &scratch.patches {
                put_varint(out, u64::from(at - last));
                out.extend_from_slice(&bits.to_le_bytes());
                last = at;
            }
        }
        out.push(d as u8);
        ints::encode(&scratch.ints, &mut scratch.stream, out);
        if out.len() - start <= 5 * values.len() {
            return;
        }
    }
    if values.iter().all(|v| v.abs() < 9.2e18 && (*v as i64 as f64).to_bits() == v.to_bits()) {
        scratch.ints.clear();
        scratch.ints.extend(values.iter().map(|v| *v as i64));
        scratch.candidate.clear();
        scratch.candidate.push(WIDE);
        ints::encode(&scratch.ints, &mut scratch.stream, &mut scratch.candidate);
        scratch.offer(out, start);
    }
    scratch.ints.clear();
    scratch.ints.extend(values.iter().map(|v| order_bits(v.to_bits() as i64)));
    scratch.candidate.clear();
    scratch.candidate.push(BITS);
    ints::encode(&scratch.ints, &mut scratch.stream, &mut scratch.candidate);
    scratch.offer(out, start);

    scratch.ints.clear();
    let mut all = 0u64;
    for w in values.windows(2) {
        let x = w[0].to_bits() ^ w[1].to_bits();
        all |= x;
        scratch.ints.push(x as i64);
    }
    let shift = all.trailing_zeros();
    scratch.ints.iter_mut().for_each(|x| *x = (*x as u64 >> shift) as i64);
    scratch.candidate.clear();
    scratch.candidate.extend_from_slice(&[XOR, shift as u8]);
    scratch.candidate.extend_from_slice(&first.to_bits().to_le_bytes());
    frames::encode::<false>(&scratch.ints, &mut scratch.candidate);
    scratch.offer(out, start);

    if out.len() - start > 8 * values.len() {
        out.truncate(start);
        out.push(RAW);
        for v in values {
            out.extend_from_slice(&v.to_bits().to_le_bytes());
        }
    }
}

/// The part of `at..at + len` inside `lo..hi`, relative to `at`.
#[inline]
pub(super) fn clip(at: usize, len: usize, lo: usize, hi: usize) -> std::ops::Range<usize> {
    let a = lo.saturating_sub(at).min(len);
    a..hi.saturating_sub(at).min(len).max(a)
}

/// Decodes values `lo..hi` of the `n` that `src` holds, and appends them.
pub fn decode(src: &[u8], n: usize, lo: usize, hi: usize, out: &mut Vec<f64>) -> Result<(), Damaged> {
    let hi = hi.min(n);
    if lo >= hi {
        return Ok(());
    }
    let begin = out.len();
    out.reserve(hi - lo);
    let mut r = Reader::new(src);
    match r.u8()? {
        CONSTANT => {
            let v = get_float(&mut r)?;
            out.resize(begin + hi - lo, v);
        }
        DECIMAL => decode_decimal(r, n, lo, hi, out)?,
        PATCHED => {
            let k = r.count(n)?;
            let patches = r.clone();
            for _ in 0..k {
                r.varint()?;
                r.take(8)?;
            }
            decode_decimal(r, n, lo, hi, out)?;
            let (mut r, mut at) = (patches, 0usize);
            for _ in 0..k {
                at = at.saturating_add(r.count(n)?);
                let v = f64::from_bits(r.u64()?);
                if at >= lo && at < hi {
                    *out.get_mut(begin + at - lo).ok_or(Damaged("patch past the end"))? = v;
                }
            }
        }
        WIDE => {
            ints::decode(r.rest(), n, |at, values| {
                out.extend(values[clip(at, values.len(), lo, hi)].iter().map(|i| *i as f64));
                at + values.len() < hi
            })?;
        }
        BITS => {
            ints::decode(r.rest(), n, |at, values| {
                let part = &values[clip(at, values.len(), lo, hi)];
                out.extend(part.iter().map(|i| f64::from_bits(order_bits(*i) as u64)));
                at + values.len() < hi
            })?;
        }
        XOR => {
            let shift = u32::from(r.u8()?);
            if shift > 63 {
                return Err(Damaged("xor shift out of bounds"));
            }
            let mut bits = r.u64()?;
            if lo == 0 {
                out.push(f64::from_bits(bits));
            }
            let mut at = 1;
            if hi > 1 {
                frames::decode::<false>(r.rest(), n - 1, |frame| {
                    for x in frame.iter_mut() {
                        bits ^= (*x as u64) << shift;
                        *x = bits as i64;
                    }
                    let part = &frame[clip(at, frame.len(), lo, hi)];
                    out.extend(part.iter().map(|b| f64::from_bits(*b as u64)));
                    at += frame.len();
                    at < hi
                })?;
            }
        }
        RAW => {
            let raw = r.take(n.checked_mul(8).ok_or(Damaged("length overflows"))?)?;
            out.extend(raw[8 * lo..8 * hi].chunks_exact(8).map(|b| {
                let mut a = [0; 8];
                a.copy_from_slice(b);
                f64::from_le_bytes(a)
            }));
        }
        _ => return Err(Damaged("unknown float codec")),
    }
    if out.len() != begin + hi - lo {
        return Err(Damaged("float column has another length"));
    }
    Ok(())
}

fn decode_decimal(mut r: Reader<'_>, n: usize, lo: usize, hi: usize, out: &mut Vec<f64>) -> Result<(), Damaged> {
    let scale = r.u8()? as usize;
    let power = *POWERS.get(scale).ok_or(Damaged("unknown decimal scale"))?;
    if scale == 0 {
        ints::decode(r.rest(), n, |at, values| {
            out.extend(values[clip(at, values.len(), lo, hi)].iter().map(|i| whole_to_float(*i)));
            at + values.len() < hi
        })?;
    } else {
        ints::decode(r.rest(), n, |at, values| {
            out.extend(values[clip(at, values.len(), lo, hi)].iter().map(|i| whole_to_float(*i) / power));
            at + values.len() < hi
        })?;
    }
    Ok(())
}

/// The name of the codec a stream is in, for statistics.
pub fn codec_name(src: &[u8]) -> &'static str {
    match src.first() {
        Some(&CONSTANT) => "constant",
        Some(&DECIMAL) => "decimal",
        Some(&PATCHED) => "patched",
        Some(&WIDE) => "wide",
        Some(&BITS) => "bits",
        Some(&XOR) => "xor",
        Some(&RAW) => "raw",
        _ => "unknown",
    }
}

const _: () = assert!(FRAME == 64);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use quiver_model::STALE_NAN_BITS;

    /// Floats that break careless codecs, among ordinary ones.
    pub(crate) fn nasty() -> impl Strategy<Value = f64> {
        prop_oneof![
            4 => (-1_000_000i64..1_000_000, 0u32..6).prop_map(|(i, d)| i as f64 / 10f64.powi(d as i32)),
            2 => (0i64..100).prop_map(|i| i as f64),
            1 => any::<u64>().prop_map(f64::from_bits),
            1 => prop_oneof![
                Just(f64::from_bits(STALE_NAN_BITS)), Just(f64::NAN), Just(-f64::NAN),
                Just(f64::from_bits(0x7ff8_dead_beef_0001)), Just(-0.0), Just(0.0), Just(f64::INFINITY),
                Just(f64::NEG_INFINITY), Just(f64::MIN_POSITIVE), Just(5e-324), Just(f64::MAX), Just(f64::MIN),
                Just(9_007_199_254_740_993.0), Just(2_251_799_813_685_247.0), Just(2_251_799_813_685_248.0),
                Just(9.3e18), Just(-9.223_372_036_854_776e18), Just(0.1 + 0.2), Just(1e22), Just(1e23),
            ],
        ]
    }

    fn round_trip(values: &[f64]) -> usize {
        let mut bytes = Vec::new();
        encode(values, &mut FloatScratch::default(), &mut bytes);
        let n = values.len();
        for (lo, hi) in [(0, n), (n / 3, n), (0, n / 2), (n / 2, n / 2 + 1)] {
            let mut back = Vec::new();
            decode(&bytes, n, lo, hi, &mut back).unwrap();
            let (a, b): (Vec<_>, Vec<_>) = (
                back.iter().map(|v| v.to_bits()).collect(),
                values[lo..hi.min(n)].iter().map(|v| v.to_bits()).collect(),
            );
            assert_eq!(a, b, "{}", codec_name(&bytes));
        }
        bytes.len()
    }

    proptest! {
        #[test]
        fn adversarial_floats_round_trip(values in proptest::collection::vec(nasty(), 0..200)) {
            round_trip(&values);
        }

        #[test]
        fn all_bit_patterns_round_trip(values in proptest::collection::vec(any::<u64>(), 1..200), shift in 0u32..64) {
            round_trip(&values.iter().map(|b| f64::from_bits(b >> shift)).collect::<Vec<_>>());
            round_trip(&values.iter().map(|b| f64::from_bits(b << shift)).collect::<Vec<_>>());
        }

        #[test]
        fn a_few_special_values_among_decimals_round_trip(
            base in proptest::collection::vec((0i64..100_000, 0u32..4), 1..200),
            special in proptest::collection::vec((nasty(), any::<prop::sample::Index>()), 0..6),
        ) {
            let mut values: Vec<f64> = base.iter().map(|(i, d)| *i as f64 / 10f64.powi(*d as i32)).collect();
            for (v, at) in special {
                let at = at.index(values.len());
                values[at] = v;
            }
            round_trip(&values);
        }

        #[test]
        fn compact_floats_round_trip(a in nasty(), b in nasty(), c in nasty()) {
            let mut out = Vec::new();
            put_floats(&mut out, &[a, b, c]);
            let back = get_floats::<3>(&mut Reader::new(&out)).unwrap();
            prop_assert_eq!([a, b, c].map(f64::to_bits), back.map(f64::to_bits));
        }

        #[test]
        fn damaged_streams_never_panic(
            values in proptest::collection::vec(nasty(), 1..150), at in any::<prop::sample::Index>(), with in any::<u8>(),
        ) {
            let mut bytes = Vec::new();
            encode(&values, &mut FloatScratch::default(), &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = decode(&bytes, values.len(), 0, values.len(), &mut Vec::new());
            let _ = decode(&bytes[..at], values.len(), 0, values.len(), &mut Vec::new());
        }
    }

    #[test]
    fn usual_series_are_small() {
        assert!(round_trip(&[1.0; 480]) <= 3);
        let counter: Vec<f64> = (0..480).map(|i| 1e6 + f64::from(i) * 15.0 + f64::from(i * 7 % 4)).collect();
        assert!(round_trip(&counter) < 480 / 2);
        let cpu: Vec<f64> = (0..480).map(|i| f64::from(123_456 + i * 1497 + i * 13 % 32) / 100.0).collect();
        assert!(round_trip(&cpu) < 480);
        let mut marked = vec![5.0; 480];
        marked[100] = f64::from_bits(STALE_NAN_BITS);
        assert!(round_trip(&marked) < 32);
    }
}
