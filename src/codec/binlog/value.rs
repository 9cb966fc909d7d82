//! How a column's values lie in a rows event, and from there to JSON.
//!
//! The layouts are MySQL's own (`sql/field.cc`, `pack` and the `my_*_to_binary` functions of its temporal types).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::codec::charset;
use crate::codec::row::{
    Civil, civil_from_unix, write_bytes, write_date, write_datetime, write_f32, write_f64, write_instant,
    write_integer, write_text, write_time, write_unsigned,
};

use super::bytes::Bytes;
use super::json;

/// How values of a column lie in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Integer {
        bytes: u8,
        unsigned: bool,
    },
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Bit {
        bytes: u8,
    },
    Year,
    Date,
    /// Before MySQL 5.6, and MariaDB without `mysql56_temporal_format`: the decimal digits as one number.
    OldTime,
    OldDateTime,
    OldTimestamp,
    Time {
        digits: u8,
    },
    DateTime {
        digits: u8,
    },
    Timestamp {
        digits: u8,
    },
    /// Text behind a length of so many bytes.
    Text {
        length: u8,
        charset: Box<str>,
    },
    /// Bytes behind a length; BINARY(n) is logged without the zeroes at its end, and padded here to `pad` bytes.
    Bytes {
        length: u8,
        pad: u16,
    },
    Json {
        length: u8,
    },
    /// MariaDB's own types, logged as BINARY without the zeroes at its end.
    Uuid,
    Inet6,
    Inet4,
    /// A member's number, from 1; members as JSON strings.
    Enum {
        bytes: u8,
        members: Vec<Box<[u8]>>,
    },
    /// A bit for each member.
    Set {
        bytes: u8,
        members: Vec<Box<str>>,
    },
}

/// How many bytes so many decimal digits take.
const DIGITS_BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// Nine digits fit in four bytes.
const DIGITS_PER_WORD: usize = 9;

impl Layout {
    /// Takes a value from `bytes` and appends it to `out` as JSON.
    pub fn write(&self, bytes: &mut Bytes, out: &mut Vec<u8>) -> Result<(), Refused> {
        match self {
            Layout::Integer { bytes: n, unsigned } => {
                let value = bytes.little((*n).into()).map_err(text)?;
                let spare = 64 - 8 * u32::from(*n);
                match unsigned {
                    true => write_unsigned(out, value),
                    false => write_integer(out, (value << spare) as i64 >> spare),
                }
            }
            Layout::Float => write_f32(out, f32::from_bits(bytes.little(4).map_err(text)? as u32)),
            Layout::Double => write_f64(out, f64::from_bits(bytes.little(8).map_err(text)?)),
            Layout::Decimal { precision, scale } => {
                out.push(b'"');
                push_decimal(bytes, (*precision).into(), (*scale).into(), out)?;
                out.push(b'"');
            }
            Layout::Bit { bytes: n } => write_unsigned(out, bytes.big((*n).into()).map_err(text)?),
            Layout::Year => match bytes.byte().map_err(text)? {
                0 => write_integer(out, 0),
                since_1900 => write_integer(out, 1900 + i64::from(since_1900)),
            },
            Layout::Date => {
                let packed = bytes.little(3).map_err(text)? as u32;
                write_date(
                    out,
                    &Civil { year: packed >> 9, month: packed >> 5 & 15, day: packed & 31, ..Civil::default() },
                );
            }
            Layout::OldTime => {
                let packed = (bytes.little(3).map_err(text)? as i32) << 8 >> 8;
                let [hour, minute, second] = clock_digits(packed.unsigned_abs().into());
                write_time(out, packed < 0, &Civil { hour, minute, second, ..Civil::default() }, 0);
            }
            Layout::OldDateTime => {
                let packed = bytes.little(8).map_err(text)?;
                let date = (packed / 1_000_000) as u32;
                let [hour, minute, second] = clock_digits(packed % 1_000_000);
                let (year, month, day) = (date / 10_000, date / 100 % 100, date % 100);
                write_datetime(out, &Civil { year, month, day, hour, minute, second, micros: 0 }, 0);
            }
            Layout::OldTimestamp => {
                write_instant(out, &civil_from_unix(bytes.little(4).map_err(text)? as i64, 0), 0);
            }
            Layout::Time { digits } => {
                let (negative, at) = time(bytes, *digits)?;
                write_time(out, negative, &at, *digits);
            }
            Layout::DateTime { digits } => write_datetime(out, &datetime(bytes, *digits)?, *digits),
            Layout::Timestamp { digits } => {
                let seconds = bytes.big(4).map_err(text)? as i64;
                write_instant(out, &civil_from_unix(seconds, micros(bytes, *digits)?), *digits);
            }
            Layout::Text { length, charset } => {
                let value = sized(bytes, *length)?;
                match charset::decode(charset, value)? {
                    Some(value) => write_text(out, &value),
                    None => return Err("is binary in a column of text".into()),
                }
            }
            Layout::Bytes { length, pad } => {
                let value = sized(bytes, *length)?;
                if value.len() < usize::from(*pad) {
                    let mut padded = value.to_vec();
                    padded.resize((*pad).into(), 0);
                    write_bytes(out, &padded);
                } else {
                    write_bytes(out, value);
                }
            }
            Layout::Json { length } => json::write(sized(bytes, *length)?, out)?,
            Layout::Uuid => write_text(out, &uuid(padded(bytes)?)),
            Layout::Inet6 => write_text(out, &Ipv6Addr::from(padded::<16>(bytes)?).to_string()),
            Layout::Inet4 => write_text(out, &Ipv4Addr::from(padded::<4>(bytes)?).to_string()),
            Layout::Enum { bytes: n, members } => match bytes.little((*n).into()).map_err(text)? {
                0 => write_text(out, ""), // what MySQL stores for a value that is no member
                number => match members.get(number as usize - 1) {
                    Some(member) => out.extend_from_slice(member),
                    None => return Err(format!("is member {number} of {}", members.len()).into()),
                },
            },
            Layout::Set { bytes: n, members } => {
                let chosen = bytes.little((*n).into()).map_err(text)?;
                if members.len() < 64 && chosen >> members.len() != 0 {
                    return Err(format!("has bits beyond its {} members", members.len()).into());
                }
                let chosen = members.iter().enumerate().filter(|(index, _)| chosen >> index & 1 == 1);
                write_text(out, &chosen.map(|(_, member)| &**member).collect::<Vec<_>>().join(","));
            }
        }
        Ok(())
    }
}

/// Why a value can't be written.
#[derive(Debug)]
pub(super) struct Refused {
    /// Follows the words "the value".
    pub reason: String,
    /// Whether the value has been taken all the same, so that what comes behind it can be read.
    pub taken: bool,
}

impl<S: Into<String>> From<S> for Refused {
    fn from(reason: S) -> Self {
        Refused { reason: reason.into(), taken: true }
    }
}

fn text(error: super::Malformed) -> Refused {
    Refused { reason: format!("can't be read: {error}"), taken: false }
}

#[inline]
fn sized<'a>(bytes: &mut Bytes<'a>, length: u8) -> Result<&'a [u8], Refused> {
    let n = bytes.little(length.into()).map_err(text)?;
    bytes.take(n as usize).map_err(text)
}

/// A value of `N` bytes that was logged without the zeroes at its end.
fn padded<const N: usize>(bytes: &mut Bytes) -> Result<[u8; N], Refused> {
    let value = sized(bytes, 1)?;
    let mut padded = [0; N];
    padded.get_mut(..value.len()).ok_or("is too long")?.copy_from_slice(value);
    Ok(padded)
}

/// The text of a UUID.
fn uuid(bytes: [u8; 16]) -> String {
    let number = u128::from_be_bytes(bytes);
    let part = |shift: u32, digits: u32| (number >> shift) & ((1 << (4 * digits)) - 1);
    format!("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", part(96, 8), part(80, 4), part(64, 4), part(48, 4), part(0, 12))
}

fn clock_digits(packed: u64) -> [u32; 3] {
    [packed / 10_000, packed / 100 % 100, packed % 100].map(|part| part as u32)
}

/// Appends the digits of MySQL's packed decimal: groups of nine digits in four bytes each, highest first, the groups at
/// either end as short as they can be; the first bit is set for positive numbers, and negative ones have all bits flipped.
pub(super) fn push_decimal(
    bytes: &mut Bytes,
    precision: usize,
    scale: usize,
    out: &mut Vec<u8>,
) -> Result<(), Refused> {
    let whole = precision.checked_sub(scale).ok_or("has more digits after the point than in all")?;
    let size = |digits: usize| digits / DIGITS_PER_WORD * 4 + DIGITS_BYTES[digits % DIGITS_PER_WORD];
    let packed = bytes.take(size(whole) + size(scale)).map_err(text)?;
    let Some(first) = packed.first() else { return Err("has no digits".into()) };
    let negative = first & 0x80 == 0;
    let flip = if negative { 0xff } else { 0 };
    let mut at = 0;
    let mut group = |digits: usize, out: &mut Vec<u8>| {
        let bytes = DIGITS_BYTES[digits];
        let value = packed[at..at + bytes].iter().enumerate().fold(0u32, |value, (index, byte)| {
            let sign = if at + index == 0 { 0x80 } else { 0 };
            value << 8 | u32::from(byte ^ flip ^ sign)
        });
        at += bytes;
        let start = out.len();
        out.resize(start + digits, b'0');
        let mut left = value;
        for place in out[start..].iter_mut().rev() {
            *place = b'0' + (left % 10) as u8;
            left /= 10;
        }
    };
    let start = out.len();
    group(whole % DIGITS_PER_WORD, out);
    (0..whole / DIGITS_PER_WORD).for_each(|_| group(DIGITS_PER_WORD, out));
    let zeroes = out[start..].iter().take_while(|&&digit| digit == b'0').count();
    out.drain(start..start + zeroes);
    if out.len() == start {
        out.push(b'0');
    }
    if scale > 0 {
        out.push(b'.');
        (0..scale / DIGITS_PER_WORD).for_each(|_| group(DIGITS_PER_WORD, out));
        group(scale % DIGITS_PER_WORD, out);
    }
    if negative && out[start..].iter().any(|digit| (b'1'..=b'9').contains(digit)) {
        out.insert(start, b'-');
    }
    Ok(())
}

/// The fraction of a second: one byte for two digits.
fn micros(bytes: &mut Bytes, digits: u8) -> Result<u32, Refused> {
    let n = digits.div_ceil(2).min(3);
    let fraction = bytes.big(n.into()).map_err(text)? as u32;
    Ok(fraction * 100u32.pow(3 - u32::from(n)))
}

fn datetime(bytes: &mut Bytes, digits: u8) -> Result<Civil, Refused> {
    let packed = bytes.big(5).map_err(text)?.wrapping_sub(0x80_0000_0000);
    let micros = micros(bytes, digits)?;
    Ok(civil_from_packed((packed >> 17) as u32, (packed & 0x1_ffff) as u32, micros))
}

/// From MySQL's packed date (year × 13 + month, day) and time of day.
pub(super) fn civil_from_packed(date: u32, clock: u32, micros: u32) -> Civil {
    let months = date >> 5;
    Civil {
        year: months / 13,
        month: months % 13,
        day: date & 31,
        hour: clock >> 12,
        minute: clock >> 6 & 63,
        second: clock & 63,
        micros,
    }
}

/// A TIME is one number of as many bytes as it has, fraction included, with its zero in the middle of their range.
fn time(bytes: &mut Bytes, digits: u8) -> Result<(bool, Civil), Refused> {
    let fraction_bytes = digits.div_ceil(2).min(3);
    let size = 3 + fraction_bytes;
    let zero = 1i64 << (8 * size - 1);
    let packed = bytes.big(size.into()).map_err(text)? as i64 - zero;
    let size = packed.unsigned_abs();
    let clock = (size >> (8 * fraction_bytes)) as u32;
    let fraction = (size & ((1 << (8 * fraction_bytes)) - 1)) as u32;
    let micros = fraction * 100u32.pow(3 - u32::from(fraction_bytes));
    Ok((packed < 0, civil_from_packed(0, clock, micros)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(layout: &Layout, bytes: &[u8]) -> String {
        let mut out = Vec::new();
        let mut rest = Bytes(bytes);
        layout.write(&mut rest, &mut out).unwrap();
        assert!(rest.is_empty(), "{layout:?} left {rest:?}");
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn integers_keep_their_sign() {
        for (bytes, unsigned, raw, expected) in [
            (1, false, &[0xff][..], "-1"),
            (1, true, &[0xff], "255"),
            (3, false, &[0, 0, 0x80], "-8388608"),
            (3, true, &[0xff, 0xff, 0xff], "16777215"),
            (8, false, &[0, 0, 0, 0, 0, 0, 0, 0x80], "-9223372036854775808"),
            (8, true, &[0xff; 8], "18446744073709551615"),
        ] {
            assert_eq!(written(&Layout::Integer { bytes, unsigned }, raw), expected);
        }
    }

    #[test]
    fn decimals_keep_every_digit() {
        // The example of MySQL's decimal2bin: 1234567890.1234 as DECIMAL(14,4).
        let positive = [0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2];
        let layout = Layout::Decimal { precision: 14, scale: 4 };
        assert_eq!(written(&layout, &positive), "\"1234567890.1234\"");
        assert_eq!(written(&layout, &positive.map(|byte| !byte)), "\"-1234567890.1234\"");
        let cents = Layout::Decimal { precision: 2, scale: 2 };
        assert_eq!(written(&cents, &[0x80 | 7]), "\"0.07\"");
        assert_eq!(written(&cents, &[!(0x80 | 7)]), "\"-0.07\"");
        assert_eq!(written(&cents, &[0x7f]), "\"0.00\"", "there is no negative zero");
        assert_eq!(written(&Layout::Decimal { precision: 1, scale: 0 }, &[0x80]), "\"0\"");
    }

    #[test]
    fn a_time_below_zero_keeps_its_fraction() {
        // As in MySQL's comment on my_time_packed_to_binary: -00:00:00.01 is 7FFFFF.FF with two digits.
        assert_eq!(written(&Layout::Time { digits: 2 }, &[0x7f, 0xff, 0xff, 0xff]), "\"-00:00:00.01\"");
        assert_eq!(written(&Layout::Time { digits: 2 }, &[0x7f, 0xff, 0xff, 0x9d]), "\"-00:00:00.99\"");
        assert_eq!(written(&Layout::Time { digits: 2 }, &[0x7f, 0xff, 0xff, 0x00]), "\"-00:00:01.00\"");
        assert_eq!(written(&Layout::Time { digits: 0 }, &[0x80, 0, 0]), "\"00:00:00\"");
        assert_eq!(written(&Layout::Time { digits: 6 }, &[0x80, 0x10, 0x83, 0, 0, 7]), "\"01:02:03.000007\"");
    }

    #[test]
    fn old_temporal_types_are_read() {
        assert_eq!(written(&Layout::OldDateTime, &20_260_203_040_506u64.to_le_bytes()), "\"2026-02-03 04:05:06\"");
        assert_eq!(written(&Layout::OldTime, &(-8_385_959i32).to_le_bytes()[..3]), "\"-838:59:59\"");
        assert_eq!(written(&Layout::OldTimestamp, &951_782_400u32.to_le_bytes()), "\"2000-02-29T00:00:00Z\"");
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let mut out = Vec::new();
        let members = vec![Box::from(&b"\"a\""[..])];
        let error = Layout::Enum { bytes: 1, members }.write(&mut Bytes(&[2]), &mut out).unwrap_err();
        assert_eq!((&error.reason[..], error.taken), ("is member 2 of 1", true));
        let set = Layout::Set { bytes: 1, members: vec!["a".into()] };
        assert!(set.write(&mut Bytes(&[2]), &mut out).unwrap_err().reason.contains("beyond its 1 members"));
        let error = Layout::Double.write(&mut Bytes(&[0; 7]), &mut out).unwrap_err();
        assert!(error.reason.contains("ends too soon") && !error.taken);
    }
}
