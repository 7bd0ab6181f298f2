//! Varints and a cursor that checks every step, for the log's record payloads.

use crate::record::RecordError;

/// Appends an unsigned LEB128 number.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8 & 0x7f) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a signed number, small magnitudes in few bytes.
#[inline]
pub(crate) fn put_zigzag(out: &mut Vec<u8>, n: i64) {
    put_varint(out, ((n << 1) ^ (n >> 63)) as u64);
}

/// Appends a length and bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads a payload from front to back; never past its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// An error at the present position.
    pub(crate) fn error(&self, what: &'static str) -> RecordError {
        RecordError { at: self.at, what }
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Result<&'a [u8], RecordError> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.bytes.len());
        let Some(end) = end else { return Err(self.error("the payload ends too early")) };
        let out = &self.bytes[self.at..end];
        self.at = end;
        Ok(out)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn i64(&mut self) -> Result<i64, RecordError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn f64(&mut self) -> Result<f64, RecordError> {
        Ok(f64::from_bits(u64::from_le_bytes(self.array()?)))
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, RecordError> {
        let mut n = 0u64;
        let mut shift = 0;
        loop {
            let Some(b) = self.bytes.get(self.at) else { return Err(self.error("the payload ends in a number")) };
            self.at += 1;
            if shift == 63 && *b > 1 {
                return Err(self.error("a number does not fit in 64 bits"));
            }
            n |= u64::from(*b & 0x7f) << shift;
            if *b < 0x80 {
                return Ok(n);
            }
            shift += 7;
            if shift > 63 {
                return Err(self.error("a number does not fit in 64 bits"));
            }
        }
    }

    #[inline]
    pub(crate) fn zigzag(&mut self) -> Result<i64, RecordError> {
        let n = self.varint()?;
        Ok(((n >> 1) as i64) ^ -((n & 1) as i64))
    }

    /// A count of things that take at least `least` bytes each of what remains.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize, RecordError> {
        let n = self.varint()?;
        let max = self.remaining() / least.max(1);
        usize::try_from(n).ok().filter(|n| *n <= max).ok_or_else(|| self.error("a count exceeds the payload"))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, RecordError> {
        let n = self.varint()?;
        u32::try_from(n).map_err(|_| self.error("a number does not fit in 32 bits"))
    }

    pub(crate) fn len_bytes(&mut self) -> Result<&'a [u8], RecordError> {
        let n = self.count(1)?;
        self.bytes(n)
    }

    pub(crate) fn string(&mut self) -> Result<String, RecordError> {
        let bytes = self.len_bytes()?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| self.error("text is not UTF-8"))
    }
}
