//! A reader of the protobuf wire format that borrows from the message.

/// Why a message does not parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends in the middle of a field.
    #[error("message is truncated")]
    Truncated,
    /// A number of more than ten bytes.
    #[error("variable-length number is too long")]
    Varint,
    /// A group or an unknown wire type.
    #[error("unknown wire type {0}")]
    Type(u8),
    /// A field number of zero or of a type its field does not have.
    #[error("field {0} has the wrong type")]
    Field(u32),
    /// A string that is not UTF-8.
    #[error("string is not valid UTF-8")]
    Utf8,
    /// More than a request may become.
    #[error(
        "with the labels of each series written out, histograms, exemplars and metadata it takes more than {0} bytes of memory, \
         the limit on one request: send less at once"
    )]
    Memory(usize),
}

/// Reads one message.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

impl<'a> Reader<'a> {
    /// Over the bytes of one message.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Reads a variable-length number.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, WireError> {
        if let [b, rest @ ..] = self.rest
            && *b < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(*b));
        }
        let mut n = 0u64;
        for (i, b) in self.rest.iter().enumerate().take(10) {
            n |= u64::from(b & 0x7f) << (7 * i);
            if *b < 0x80 {
                self.rest = &self.rest[i + 1..];
                return Ok(n);
            }
        }
        Err(if self.rest.len() < 10 { WireError::Truncated } else { WireError::Varint })
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        if n > self.rest.len() {
            return Err(WireError::Truncated);
        }
        let (head, tail) = self.rest.split_at(n);
        self.rest = tail;
        Ok(head)
    }

    /// At the end?
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field and its number, or none at the end.
    #[inline]
    pub fn next_field(&mut self) -> Result<Option<(u32, Field<'a>)>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).unwrap_or(0);
        if number == 0 {
            return Err(WireError::Field(0));
        }
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(self.fixed64()?),
            2 => {
                let n = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
                Field::Bytes(self.take(n)?)
            }
            5 => {
                let b = self.take(4)?;
                Field::Fixed32(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            }
            t => return Err(WireError::Type(t as u8)),
        };
        Ok(Some((number, field)))
    }

    /// Reads eight bytes.
    #[inline]
    pub fn fixed64(&mut self) -> Result<u64, WireError> {
        let b = self.take(8)?;
        Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }
}

impl<'a> Field<'a> {
    /// A nested message, bytes or a packed list.
    pub fn bytes(self, number: u32) -> Result<&'a [u8], WireError> {
        match self {
            Field::Bytes(b) => Ok(b),
            _ => Err(WireError::Field(number)),
        }
    }

    /// A string.
    pub fn str(self, number: u32) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes(number)?).map_err(|_| WireError::Utf8)
    }

    /// An integer.
    #[inline]
    pub fn varint(self, number: u32) -> Result<u64, WireError> {
        match self {
            Field::Varint(n) => Ok(n),
            _ => Err(WireError::Field(number)),
        }
    }

    /// A double.
    #[inline]
    pub fn double(self, number: u32) -> Result<f64, WireError> {
        match self {
            Field::Fixed64(n) => Ok(f64::from_bits(n)),
            _ => Err(WireError::Field(number)),
        }
    }

    /// A repeated number, packed or not: calls `each` for every one.
    pub fn varints(self, number: u32, mut each: impl FnMut(u64)) -> Result<(), WireError> {
        match self {
            Field::Varint(n) => each(n),
            Field::Bytes(b) => {
                let mut r = Reader::new(b);
                while !r.is_empty() {
                    each(r.varint()?);
                }
            }
            _ => return Err(WireError::Field(number)),
        }
        Ok(())
    }

    /// A repeated double, packed or not.
    pub fn doubles(self, number: u32, out: &mut Vec<f64>) -> Result<(), WireError> {
        match self {
            Field::Fixed64(n) => out.push(f64::from_bits(n)),
            Field::Bytes(b) => {
                let mut r = Reader::new(b);
                while !r.is_empty() {
                    out.push(f64::from_bits(r.fixed64()?));
                }
            }
            _ => return Err(WireError::Field(number)),
        }
        Ok(())
    }
}

/// Zigzag decoding of `sint32` and `sint64`.
#[inline]
pub fn zigzag(n: u64) -> i64 {
    ((n >> 1) as i64) ^ -((n & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zigzag_inverts() {
        assert_eq!([0, 1, 2, 3, u64::MAX].map(zigzag), [0, -1, 1, -2, i64::MIN]);
    }

    proptest! {
        #[test]
        fn random_bytes_end_in_an_error_or_at_the_end(bytes: Vec<u8>) {
            let mut r = Reader::new(&bytes);
            while let Ok(Some(_)) = r.next_field() {}
        }
    }
}
