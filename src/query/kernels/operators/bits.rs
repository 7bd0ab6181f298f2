//! Presence bits: rows of one bit a step that stand anywhere in a run of words.
//!
//! Invariant: bits beyond the end of a slice read as 0; a row's word is masked to the row's width before use.

/// Number of words for `n` bits.
#[inline]
pub fn words(n: usize) -> usize {
    n.div_ceil(64)
}

/// The 64 bits that start at bit `at`.
#[inline]
pub fn load(bits: &[u64], at: usize) -> u64 {
    let (i, s) = (at >> 6, at & 63);
    let low = bits.get(i).copied().unwrap_or(0) >> s;
    if s == 0 { low } else { low | bits.get(i + 1).copied().unwrap_or(0) << (64 - s) }
}

/// Sets, from bit `at` on, the bits that are set in `word`.
#[inline]
pub fn or_at(bits: &mut [u64], at: usize, word: u64) {
    if word == 0 {
        return;
    }
    let (i, s) = (at >> 6, at & 63);
    if let Some(w) = bits.get_mut(i) {
        *w |= word << s;
    }
    if s != 0
        && let Some(w) = bits.get_mut(i + 1)
    {
        *w |= word >> (64 - s);
    }
}

/// Mask of the bits that word `i` of a row of `width` bits has.
#[inline]
pub fn mask(width: usize, i: usize) -> u64 {
    let left = width - (i << 6).min(width);
    if left >= 64 { u64::MAX } else { (1u64 << left) - 1 }
}

/// Word `i` of the row of `width` bits that starts at bit `at`.
#[inline]
pub fn row_word(bits: &[u64], at: usize, width: usize, i: usize) -> u64 {
    load(bits, at + (i << 6)) & mask(width, i)
}

/// The positions of set bits, ascending.
pub fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let i = word.trailing_zeros() as usize;
        word &= word - 1;
        Some(i)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_written_at_any_offset() {
        for at in [0usize, 1, 63, 64, 65, 127] {
            let mut bits = vec![0u64; 5];
            or_at(&mut bits, at, 0x8000_0000_0000_0001);
            assert_eq!(load(&bits, at), 0x8000_0000_0000_0001, "at {at}");
            assert_eq!(bits.iter().map(|w| w.count_ones()).sum::<u32>(), 2);
            assert_eq!(row_word(&bits, at, 10, 0), 1);
        }
        assert_eq!(mask(64, 0), u64::MAX);
        assert_eq!(mask(65, 1), 1);
        assert_eq!(mask(64, 1), 0);
        assert_eq!(ones(0b1010_0001).collect::<Vec<_>>(), [0, 5, 7]);
    }
}
