//! A cursor over an event's bytes that never reads past their end.

/// An event that ends too soon, or whose bytes contradict one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event is malformed: {0}")]
pub struct Malformed(pub &'static str);

const SHORT: Malformed = Malformed("it ends too soon");

/// What of an event has not been read yet.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*first)
    }

    /// An unsigned integer of `n` ≤ 8 bytes, the lowest first.
    #[inline]
    pub fn little(&mut self, n: usize) -> Result<u64, Malformed> {
        let mut wide = [0; 8];
        wide[..n].copy_from_slice(self.take(n)?);
        Ok(u64::from_le_bytes(wide))
    }

    /// An unsigned integer of `n` ≤ 8 bytes, the highest first.
    #[inline]
    pub fn big(&mut self, n: usize) -> Result<u64, Malformed> {
        let mut wide = [0; 8];
        wide[8 - n..].copy_from_slice(self.take(n)?);
        Ok(u64::from_be_bytes(wide))
    }

    /// MySQL's length-encoded integer.
    pub fn length(&mut self) -> Result<usize, Malformed> {
        let value = match self.byte()? {
            short @ 0..=250 => u64::from(short),
            252 => self.little(2)?,
            253 => self.little(3)?,
            254 => self.little(8)?,
            _ => return Err(Malformed("a length is none")),
        };
        usize::try_from(value).map_err(|_| Malformed("a length is beyond this machine"))
    }

    /// Bytes behind their length-encoded length.
    pub fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.length()?;
        self.take(n)
    }
}

/// Bit `index` of a bitmap whose lowest bit comes first.
#[inline]
pub fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap[index / 8] >> (index % 8) & 1 == 1
}

/// UTF-8 text of an identifier.
pub fn identifier(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("a name is not UTF-8"))
}
