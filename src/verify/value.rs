//! A value as a side's own decoder hands it out, before it has a canonical form, and a row of such values kept.

use super::calendar;
use crate::change::ColumnType;

/// A value read from a side. What it *means* is the column's type at the source; this is only what was on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// An integer, or a boolean as 0 and 1.
    Int(i64),
    /// An integer that may be beyond `i64`.
    UInt(u64),
    /// Four bytes of IEEE 754.
    Float(f32),
    /// Eight bytes of IEEE 754.
    Double(f64),
    /// Text as UTF-8: also decimals, JSON, and whatever else a side prints.
    Text(&'a [u8]),
    /// Bytes.
    Bytes(&'a [u8]),
    /// Bytes of a text in the source's character set, at least one of which is no letter. It is equal to the same bytes
    /// and nothing else.
    NoText(&'a [u8]),
    /// Days since 1970.
    Date(i32),
    /// Microseconds since 1970 on a clock without a zone.
    DateTime(i64),
    /// Microseconds since 1970 in UTC.
    Instant(i64),
    /// Microseconds of a duration or of a time of day.
    Time(i64),
}

impl<'a> Value<'a> {
    /// Text.
    pub fn text(text: &'a str) -> Self {
        Value::Text(text.as_bytes())
    }

    /// The number, if it is held as an integer.
    pub fn integer(&self) -> Option<i128> {
        match *self {
            Value::Int(v) => Some(v.into()),
            Value::UInt(v) => Some(v.into()),
            _ => None,
        }
    }

    /// [`show`](Value::show), a moment with as many digits of a second as its column has: a target that keeps text keeps
    /// them.
    pub fn show_in(&self, ty: ColumnType) -> Option<String> {
        let shown = self.show()?;
        let digits = match (self, ty) {
            (
                Value::Time(_) | Value::DateTime(_) | Value::Instant(_),
                ColumnType::Time(digits) | ColumnType::DateTime(digits) | ColumnType::Timestamp(digits),
            ) => usize::from(digits),
            _ => return Some(shown),
        };
        let (text, zone) = shown.strip_suffix('Z').map_or((&shown[..], ""), |text| (text, "Z"));
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        Some(match digits.max(fraction.trim_end_matches('0').len()) {
            0 => format!("{whole}{zone}"),
            digits => format!("{whole}.{}{zone}", &format!("{fraction:0<6}")[..digits]),
        })
    }

    /// The value for a reader: `None` for NULL; bytes, and what is no text, in hexadecimal behind `\x`; text that is no UTF-8 with marks.
    pub fn show(&self) -> Option<String> {
        Some(match *self {
            Value::Null => return None,
            Value::Int(v) => v.to_string(),
            Value::UInt(v) => v.to_string(),
            Value::Float(v) => v.to_string(),
            Value::Double(v) => v.to_string(),
            Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Value::Bytes(bytes) | Value::NoText(bytes) => hex(bytes),
            Value::Date(days) => calendar::date_text(i64::from(days)),
            Value::DateTime(us) => calendar::datetime_text(us, ' '),
            Value::Instant(us) => format!("{}Z", calendar::datetime_text(us, 'T')),
            Value::Time(us) => calendar::time_text(us),
        })
    }
}

/// Bytes in hexadecimal behind `\x`, as PostgreSQL writes them.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(2 + bytes.len() * 2);
    out.push_str("\\x");
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

/// A row of values in one buffer, so that filling it again allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Row {
    /// A row of these values.
    pub fn new(values: &[Value]) -> Self {
        let mut row = Row::default();
        values.iter().for_each(|value| row.push(*value));
        row
    }

    /// Forgets all values.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Appends a value.
    pub fn push(&mut self, value: Value) {
        let (tag, payload): (u8, &[u8]) = match &value {
            Value::Null => (0, &[]),
            Value::Int(v) => (1, &v.to_le_bytes()),
            Value::UInt(v) => (2, &v.to_le_bytes()),
            Value::Float(v) => (3, &v.to_bits().to_le_bytes()),
            Value::Double(v) => (4, &v.to_bits().to_le_bytes()),
            Value::Text(v) => (5, v),
            Value::Bytes(v) => (6, v),
            Value::Date(v) => (7, &v.to_le_bytes()),
            Value::DateTime(v) => (8, &v.to_le_bytes()),
            Value::Instant(v) => (9, &v.to_le_bytes()),
            Value::Time(v) => (10, &v.to_le_bytes()),
            Value::NoText(v) => (11, v),
        };
        self.bytes.push(tag);
        self.bytes.extend_from_slice(payload);
        self.ends.push(u32::try_from(self.bytes.len()).expect("no server sends a row of 4 GB"));
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Value `index`.
    pub fn get(&self, index: usize) -> Value<'_> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        let (tag, payload) =
            self.bytes[start..self.ends[index] as usize].split_first().expect("push writes a tag for every value");
        let eight = || payload.try_into().expect("push writes eight bytes");
        let four = || payload.try_into().expect("push writes four bytes");
        match tag {
            0 => Value::Null,
            1 => Value::Int(i64::from_le_bytes(eight())),
            2 => Value::UInt(u64::from_le_bytes(eight())),
            3 => Value::Float(f32::from_bits(u32::from_le_bytes(four()))),
            4 => Value::Double(f64::from_bits(u64::from_le_bytes(eight()))),
            5 => Value::Text(payload),
            6 => Value::Bytes(payload),
            7 => Value::Date(i32::from_le_bytes(four())),
            8 => Value::DateTime(i64::from_le_bytes(eight())),
            9 => Value::Instant(i64::from_le_bytes(eight())),
            11 => Value::NoText(payload),
            _ => Value::Time(i64::from_le_bytes(eight())),
        }
    }

    /// All values in order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = Value<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_gives_back_what_was_pushed() {
        let values = [
            Value::Null,
            Value::Int(i64::MIN),
            Value::UInt(u64::MAX),
            Value::Float(-0.1),
            Value::Double(1e300),
            Value::text(""),
            Value::text("né"),
            Value::Bytes(b"\0\xff"),
            Value::Date(-1),
            Value::DateTime(-1),
            Value::Instant(7),
            Value::Time(-7),
            Value::NoText(b"\x85\x40"),
        ];
        let mut row = Row::new(&[Value::text("something else")]);
        row.clear();
        values.iter().for_each(|v| row.push(*v));
        assert_eq!(row.values().collect::<Vec<_>>(), values);
    }

    #[test]
    fn a_moment_is_shown_with_the_digits_of_its_column() {
        for (ty, value, want) in [
            ("datetime(3)", Value::DateTime(500_000), "1970-01-01 00:00:00.500"),
            ("datetime", Value::DateTime(0), "1970-01-01 00:00:00"),
            ("timestamp(6)", Value::Instant(1), "1970-01-01T00:00:00.000001Z"),
            ("time(1)", Value::Time(0), "00:00:00.0"),
            ("time", Value::Time(250_000), "00:00:00.25"),
            ("text", Value::text("0.5"), "0.5"),
        ] {
            assert_eq!(value.show_in(ty.parse().unwrap()).unwrap(), want);
        }
    }

    #[test]
    fn values_are_shown_as_their_servers_print_them() {
        for (value, want) in [
            (Value::Float(0.1), "0.1"),
            (Value::Bytes(b"\0\xff"), "\\x00ff"),
            (Value::Date(11_016), "2000-02-29"),
            (Value::Instant(0), "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(value.show().unwrap(), want);
        }
        assert_eq!(Value::Null.show(), None);
    }
}
