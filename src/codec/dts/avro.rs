//! The bytes of a DTS record: a cursor over one Avro datum, and the front of a record.
//!
//! Nothing is copied and nothing allocated: texts and bytes are borrowed from the datum. Every length is checked against
//! what is left, so that a broken record is an error that says where it broke, and never a panic or a huge allocation.

use super::{DateTime, Operation, Value};

/// Bytes that are no record of the DTS schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} of the record is not {expected}: it is not a DTS record of the schema that tidegate knows")]
pub struct Malformed {
    /// Where in the datum.
    pub at: usize,
    /// What should have been there.
    pub expected: &'static str,
}

/// The part of a record that reading needs: when, where, what, and of which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front<'a> {
    /// Seconds since 1970.
    pub source_timestamp: i64,
    /// `offset@file`.
    pub source_position: &'a str,
    /// What was done, or the number of an operation that the known schema does not have.
    pub operation: Result<Operation, i64>,
    /// `database.table`, dots inside names written `\u002E`.
    pub object_name: Option<&'a str>,
    /// The tags that tidegate uses.
    pub tags: Tags<'a>,
    rest: Cursor<'a>,
}

/// The tags that tidegate uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags<'a> {
    /// The table's keys as JSON.
    pub pk_uk_info: Option<&'a str>,
    /// The database's logical name where the source is sharded.
    pub l_db_name: Option<&'a str>,
    /// The table's logical name where the source is sharded.
    pub l_tb_name: Option<&'a str>,
}

impl<'a> Front<'a> {
    /// Whether a Kafka value is not a record at all but one of the fillers that DTS sends.
    pub fn is_mock(datum: &[u8]) -> bool {
        datum.len() <= 2
    }

    /// Reads the front of a record.
    ///
    /// # Errors
    /// Where the bytes stop being a record.
    pub fn read(datum: &'a [u8]) -> Result<Self, Malformed> {
        let mut c = Cursor::new(datum);
        c.long()?; // version
        c.long()?; // id, which is not unique
        let source_timestamp = c.long()?;
        let source_position = c.text()?;
        c.skip_bytes()?; // safeSourcePosition
        c.skip_bytes()?; // sourceTxid, which is '0' too often to be of use
        c.long()?; // source type
        c.skip_bytes()?; // source version
        let number = c.long()?;
        let operation = usize::try_from(number).ok().and_then(|n| Operation::ALL.get(n).copied()).ok_or(number);
        let object_name = if c.optional()? { Some(c.text()?) } else { None };
        if c.optional()? {
            let mut left = 0; // processTimestamps
            while c.item(&mut left)? {
                c.long()?;
            }
        }
        let mut tags = Tags::default();
        let mut left = 0;
        while c.item(&mut left)? {
            match c.bytes()? {
                b"pk_uk_info" => tags.pk_uk_info = Some(c.text()?),
                b"l_db_name" => tags.l_db_name = Some(c.text()?),
                b"l_tb_name" => tags.l_tb_name = Some(c.text()?),
                _ => c.skip_bytes()?,
            }
        }
        Ok(Front { source_timestamp, source_position, operation, object_name, tags, rest: c })
    }

    /// What follows the front: fields, image before, image after.
    pub fn rest(&self) -> Cursor<'a> {
        self.rest
    }
}

/// What stands in the place of fields or images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// Nothing.
    Absent,
    /// A text.
    Text,
    /// An array: its items follow.
    Items,
}

/// A place in a datum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor<'a> {
    datum: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The start of a datum, or of one part of it.
    pub fn new(datum: &'a [u8]) -> Self {
        Cursor { datum, at: 0 }
    }

    /// How many bytes of the datum lie before this place.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The datum from `start` to here.
    pub fn since(&self, start: usize) -> &'a [u8] {
        &self.datum[start..self.at]
    }

    /// A part of the datum.
    pub fn part(&self, range: &std::ops::Range<usize>) -> &'a [u8] {
        &self.datum[range.clone()]
    }

    #[cold]
    fn malformed<T>(&self, expected: &'static str) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, expected })
    }

    /// An `int` or `long`.
    ///
    /// # Errors
    /// [`Malformed`], as with all of these.
    #[inline]
    pub fn long(&mut self) -> Result<i64, Malformed> {
        let mut raw = 0u64;
        for (n, &byte) in self.datum[self.at..].iter().take(10).enumerate() {
            raw |= u64::from(byte & 0x7f) << (7 * n);
            if byte < 0x80 {
                self.at += n + 1;
                return Ok((raw >> 1) as i64 ^ -((raw & 1) as i64));
            }
        }
        self.malformed("an integer")
    }

    #[inline]
    fn int(&mut self) -> Result<i32, Malformed> {
        let before = *self;
        match i32::try_from(self.long()?) {
            Ok(value) => Ok(value),
            Err(_) => before.malformed("an int"),
        }
    }

    /// `bytes`.
    ///
    /// # Errors
    /// [`Malformed`].
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let before = *self;
        let len = self.long()?;
        let rest = &self.datum[self.at..];
        match usize::try_from(len).ok().and_then(|len| rest.get(..len)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => before.malformed("a length that the record has room for"),
        }
    }

    /// A `string`.
    ///
    /// # Errors
    /// [`Malformed`].
    #[inline]
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        let before = *self;
        match std::str::from_utf8(self.bytes()?) {
            Ok(text) => Ok(text),
            Err(_) => before.malformed("text in UTF-8"),
        }
    }

    #[inline]
    fn skip_bytes(&mut self) -> Result<(), Malformed> {
        self.bytes().map(|_| ())
    }

    /// The branch of a union of null and something: whether the something follows.
    #[inline]
    fn optional(&mut self) -> Result<bool, Malformed> {
        match self.long()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => self.malformed("a branch of an optional field"),
        }
    }

    /// The branch of the union that fields and images are.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn branch(&mut self) -> Result<Branch, Malformed> {
        match self.long()? {
            0 => Ok(Branch::Absent),
            1 => Ok(Branch::Text),
            2 => Ok(Branch::Items),
            _ => self.malformed("a branch of fields or images"),
        }
    }

    /// Whether another item of an array or map follows; `left` counts what is left of the block and begins as 0.
    ///
    /// # Errors
    /// [`Malformed`].
    #[inline]
    pub fn item(&mut self, left: &mut u64) -> Result<bool, Malformed> {
        if *left == 0 {
            let count = self.long()?;
            if count < 0 {
                self.long()?; // the block's size in bytes
            }
            *left = count.unsigned_abs();
            if *left == 0 {
                return Ok(false);
            }
            if *left > (self.datum.len() - self.at) as u64 {
                return self.malformed("a number of items that the record has room for");
            }
        }
        *left -= 1;
        Ok(true)
    }

    /// One value of an image.
    ///
    /// # Errors
    /// [`Malformed`].
    #[inline]
    pub fn value(&mut self) -> Result<Value<'a>, Malformed> {
        Ok(match self.long()? {
            0 => Value::Null,
            1 => Value::Integer { precision: self.int()?, value: self.text()? },
            2 => Value::Character { charset: self.text()?, value: self.bytes()? },
            3 => Value::Decimal { value: self.text()?, precision: self.int()?, scale: self.int()? },
            4 => Value::Float { value: self.double()?, precision: self.int()?, scale: self.int()? },
            5 => Value::Timestamp { seconds: self.long()?, micros: self.int()? },
            6 => Value::DateTime(self.date_time()?),
            7 => Value::TimestampWithTimeZone { value: self.date_time()?, timezone: self.text()? },
            8 => Value::BinaryGeometry { kind: self.text()?, value: self.bytes()? },
            9 => Value::TextGeometry { kind: self.text()?, value: self.text()? },
            10 => Value::BinaryObject { kind: self.text()?, value: self.bytes()? },
            11 => Value::TextObject { kind: self.text()?, value: self.text()? },
            12 => Value::Empty { none: self.long()? != 0 },
            _ => return self.malformed("a type of value"),
        })
    }

    fn double(&mut self) -> Result<f64, Malformed> {
        match self.datum[self.at..].first_chunk::<8>() {
            Some(bytes) => {
                self.at += 8;
                Ok(f64::from_le_bytes(*bytes))
            }
            None => self.malformed("a double"),
        }
    }

    fn date_time(&mut self) -> Result<DateTime, Malformed> {
        let mut part = || if self.optional()? { Ok(Some(self.int()?)) } else { Ok(None) };
        Ok(DateTime {
            year: part()?,
            month: part()?,
            day: part()?,
            hour: part()?,
            minute: part()?,
            second: part()?,
            micros: part()?,
        })
    }
}
