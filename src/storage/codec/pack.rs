//! Bit packing of up to 64 integers at one width, 0 to 64 bits: the innermost loop of every codec.
//!
//! ```text
//! value  0      1      2            little-endian words; 64 values of w bits are exactly w words,
//! bits  |wwwwww|wwwwww|wwww…        a shorter run takes ⌈n·w/8⌉ bytes
//! ```
//!
//! Widths are constants of the unpacking functions, so shifts and masks are immediate and no branch is left.

/// Values in a full frame.
pub const FRAME: usize = 64;

/// Bytes that `n` values of `width` bits take.
#[inline]
pub fn packed_len(n: usize, width: u32) -> usize {
    (n * width as usize).div_ceil(8)
}

/// Bits needed for `v`.
#[inline]
pub fn width_of(v: u64) -> u32 {
    64 - v.leading_zeros()
}

/// Appends the low `width` bits of each value; higher bits must be zero.
pub fn pack(values: &[u64], width: u32, out: &mut Vec<u8>) {
    if width == 0 {
        return;
    }
    let end = out.len() + packed_len(values.len(), width);
    let mut word = 0u64;
    let mut used = 0u32;
    for &v in values {
        word |= v << used;
        if used + width >= 64 {
            out.extend_from_slice(&word.to_le_bytes());
            word = if used == 0 { 0 } else { v >> (64 - used) };
            if used + width == 64 {
                word = 0;
            }
            used = used + width - 64;
        } else {
            used += width;
        }
    }
    if out.len() < end {
        let left = end - out.len();
        out.extend_from_slice(&word.to_le_bytes()[..left]);
    }
}

type Words = [u64; FRAME + 1];

#[inline(always)]
fn bits<const W: usize>(words: &Words, i: usize) -> u64 {
    let bit = i * W;
    let (word, shift) = (bit / 64, (bit % 64) as u32);
    let mask = if W == 64 { u64::MAX } else { (1u64 << W) - 1 };
    let low = words[word] >> shift;
    let v = if shift as usize + W > 64 { low | (words[word + 1] << (64 - shift)) } else { low };
    v & mask
}

fn unpack_width<const W: usize>(src: &[u8], out: &mut [u64; FRAME]) {
    let mut words: Words = [0; FRAME + 1];
    for (word, chunk) in words.iter_mut().zip(src.chunks_exact(8)).take(W) {
        let mut b = [0; 8];
        b.copy_from_slice(chunk);
        *word = u64::from_le_bytes(b);
    }
    // Sixteen at a time, so that the loop unrolls with constant shifts without growing the code beyond reason.
    macro_rules! at {
        ($($i:literal)*) => { $(out[$i] = bits::<W>(&words, $i);)* };
    }
    if W == 0 {
        *out = [0; FRAME];
        return;
    }
    at!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
        32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63);
}

type Unpack = fn(&[u8], &mut [u64; FRAME]);

macro_rules! table {
    ($($w:literal)*) => { [$(unpack_width::<$w>),*] };
}

static UNPACK: [Unpack; 65] = table!(
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32
    33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64
);

/// Reads `n` values of `width` bits from the front of `src` into `out`; `None` when `src` is too short, or the width or
/// the count is out of bounds. Entries of `out` past `n` are unspecified.
#[inline]
pub fn unpack(src: &[u8], width: u32, n: usize, out: &mut [u64; FRAME]) -> Option<usize> {
    let need = packed_len(n.min(FRAME), width);
    let unpack = UNPACK.get(width as usize)?;
    if n > FRAME || src.len() < need {
        return None;
    }
    let full = 8 * width as usize;
    if src.len() >= full {
        // Later bytes, if the frame is short, only reach entries past `n`.
        unpack(src, out);
    } else {
        let mut padded = [0u8; 8 * FRAME];
        padded[..need].copy_from_slice(&src[..need]);
        unpack(&padded, out);
    }
    Some(need)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_width_and_length_round_trips(seed in proptest::collection::vec(any::<u64>(), 1..=64)) {
            for width in 0..=64u32 {
                let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
                let values: Vec<u64> = seed.iter().map(|v| v & mask).collect();
                let mut bytes = Vec::new();
                pack(&values, width, &mut bytes);
                prop_assert_eq!(bytes.len(), packed_len(values.len(), width));
                let mut out = [7; FRAME];
                prop_assert_eq!(unpack(&bytes, width, values.len(), &mut out), Some(bytes.len()));
                prop_assert_eq!(&out[..values.len()], &values[..]);
                bytes.extend([0xff; 600]);
                unpack(&bytes, width, values.len(), &mut out);
                prop_assert_eq!(&out[..values.len()], &values[..]);
            }
        }
    }

    #[test]
    fn short_bytes_and_bad_widths_are_refused() {
        let mut out = [0; FRAME];
        assert_eq!(unpack(&[0; 7], 8, 8, &mut out), None);
        assert_eq!(unpack(&[0; 1000], 65, 1, &mut out), None);
        assert_eq!(unpack(&[0; 1000], 1, 65, &mut out), None);
    }
}
