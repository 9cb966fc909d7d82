//! One column of a DTS record: writes its values as JSON and learns its type.
//!
//! DTS states MySQL's protocol type number, and a value by its union branch; it does not state whether an integer is
//! unsigned, how many digits of a second a time has, nor always a decimal's precision. So that a column's type does not
//! change with every value, it starts as the widest that the number allows and only grows:
//!
//! - an integer is the narrowest signed type that holds the signed and the unsigned reading of its number (SMALLINT is
//!   announced as MEDIUMINT, INT as BIGINT); a value above the signed 64 bits makes it BIGINT UNSIGNED;
//! - a time has six digits of a second, and a value is written with six, or with none when it has no fraction;
//! - a decimal has the precision that its values state; where one states none it is not known, and stays so. Its values keep
//!   their own scale;
//! - a BIT is 64 bits wide; TEXT or BLOB, CHAR or BINARY is what the values are.
//!
//! Before the first value a text, a BLOB and a decimal are of no known type: nothing is made of a guess.
//!
//! A value's text depends on the value alone, never on what the column has learned.

use crate::change::ColumnType;
use crate::codec::charset;
use crate::codec::row::{
    Civil, civil_from_unix, column_prefix, write_bytes, write_date, write_datetime, write_f32, write_f64,
    write_instant, write_integer, write_null, write_text, write_time, write_unsigned,
};

use super::{DateTime, Value};

/// MySQL's protocol type numbers, as far as they decide something here.
mod number {
    pub const DECIMAL: i32 = 0;
    pub const TINY: i32 = 1;
    pub const SHORT: i32 = 2;
    pub const LONG: i32 = 3;
    pub const FLOAT: i32 = 4;
    pub const DOUBLE: i32 = 5;
    pub const TIMESTAMP: i32 = 7;
    pub const LONGLONG: i32 = 8;
    pub const INT24: i32 = 9;
    pub const DATE: i32 = 10;
    pub const TIME: i32 = 11;
    pub const DATETIME: i32 = 12;
    pub const YEAR: i32 = 13;
    pub const NEWDATE: i32 = 14;
    pub const VARCHAR: i32 = 15;
    pub const BIT: i32 = 16;
    pub const TIMESTAMP2: i32 = 17;
    pub const DATETIME2: i32 = 18;
    pub const TIME2: i32 = 19;
    pub const JSON: i32 = 245;
    pub const NEWDECIMAL: i32 = 246;
    pub const ENUM: i32 = 247;
    pub const SET: i32 = 248;
    pub const VAR_STRING: i32 = 253;
    pub const STRING: i32 = 254;
    pub const GEOMETRY: i32 = 255;
}

const fn signed(bytes: u8) -> ColumnType {
    ColumnType::Integer { bytes, unsigned: false }
}

/// The type that a number alone says.
fn type_of_number(number: i32) -> ColumnType {
    match number {
        number::DECIMAL | number::NEWDECIMAL => ColumnType::Decimal { precision: 0, scale: 0 },
        number::TINY => signed(2),
        number::SHORT => signed(3),
        number::INT24 => signed(4),
        number::LONG | number::LONGLONG => signed(8),
        number::FLOAT => ColumnType::Float,
        number::DOUBLE => ColumnType::Double,
        number::TIMESTAMP | number::TIMESTAMP2 => ColumnType::Timestamp(6),
        number::DATE | number::NEWDATE => ColumnType::Date,
        number::TIME | number::TIME2 => ColumnType::Time(6),
        number::DATETIME | number::DATETIME2 => ColumnType::DateTime(6),
        number::YEAR => ColumnType::Year,
        number::BIT => ColumnType::Bit(64),
        number::JSON => ColumnType::Json,
        number::ENUM => ColumnType::Enum,
        number::SET => ColumnType::Set,
        number::STRING => ColumnType::Char,
        number::VARCHAR | number::VAR_STRING => ColumnType::Varchar,
        number::GEOMETRY => ColumnType::Geometry,
        _ => ColumnType::Text,
    }
}

/// A column of a table, as DTS shows it.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name, without escapes.
    pub name: String,
    /// Its MySQL protocol type number.
    pub number: i32,
    /// `"name":` as JSON.
    pub prefix: Vec<u8>,
    /// Its type as far as it is known.
    pub ty: ColumnType,
}

impl Column {
    /// A column of which only name and number are known.
    pub fn new(name: String, number: i32) -> Self {
        let ty = match type_of_number(number) {
            // One number for texts and bytes, and for geometry in both forms; decimals of all digits.
            ColumnType::Char
            | ColumnType::Varchar
            | ColumnType::Text
            | ColumnType::Geometry
            | ColumnType::Decimal { .. } => ColumnType::Unknown,
            ty => ty,
        };
        Column { prefix: column_prefix(&name), name, number, ty }
    }

    /// Appends `value` as one JSON value. Returns whether the column's type has changed.
    ///
    /// # Errors
    /// Why the value can't be used, as the end of a sentence about it.
    #[inline]
    pub fn write(&mut self, value: &Value, out: &mut Vec<u8>) -> Result<bool, String> {
        let ty = match *value {
            Value::Null | Value::Empty { .. } => {
                write_null(out);
                return Ok(false);
            }
            Value::Integer { value, .. } => self.write_integer(value, out)?,
            Value::Character { charset, value } => match charset::decode(charset, value)? {
                Some(text) => self.write_text(&text, false, out)?,
                None => self.write_bytes(value, out)?,
            },
            Value::Decimal { value, precision, scale } => self.write_decimal(value, precision, scale, out)?,
            Value::Float { value, .. } if !value.is_finite() => return Err(format!("is {value}")),
            Value::Float { value, .. } if self.number == number::FLOAT => {
                write_f32(out, value as f32);
                ColumnType::Float
            }
            Value::Float { value, .. } => {
                write_f64(out, value);
                ColumnType::Double
            }
            Value::Timestamp { seconds, micros } => write_timestamp(seconds, micros, out)?,
            Value::DateTime(at) => self.write_date_time(&at, out)?,
            Value::TimestampWithTimeZone { value, timezone } => write_zoned(&value, timezone, out)?,
            Value::BinaryGeometry { value, .. } => {
                write_bytes(out, value);
                ColumnType::Geometry
            }
            Value::TextGeometry { value, .. } => {
                write_text(out, value);
                ColumnType::Text
            }
            Value::BinaryObject { value, .. } => self.write_bytes(value, out)?,
            Value::TextObject { kind, value } => self.write_text(value, kind.eq_ignore_ascii_case("json"), out)?,
        };
        Ok(ty != self.ty && self.grow(ty))
    }

    /// Makes the type hold `ty` too; returns whether that changed it.
    #[cold]
    fn grow(&mut self, ty: ColumnType) -> bool {
        let grown = match (self.ty, ty) {
            (ColumnType::Integer { bytes: a, unsigned: u }, ColumnType::Integer { bytes: b, unsigned: v }) => {
                ColumnType::Integer { bytes: a.max(b), unsigned: u || v }
            }
            (known @ ColumnType::Decimal { precision: 0, .. }, ColumnType::Decimal { .. }) => known,
            (ColumnType::Decimal { .. }, unstated @ ColumnType::Decimal { precision: 0, .. }) => unstated,
            (ColumnType::Decimal { precision: p, scale: s }, ColumnType::Decimal { precision: q, scale: t }) => {
                let scale = s.max(t);
                let whole = p.saturating_sub(s).max(q.saturating_sub(t));
                ColumnType::Decimal { precision: whole + scale, scale }
            }
            _ => ty,
        };
        std::mem::replace(&mut self.ty, grown) != grown
    }

    #[inline]
    fn write_integer(&self, text: &str, out: &mut Vec<u8>) -> Result<ColumnType, String> {
        let wide = match text.parse::<i64>() {
            Ok(value) => {
                write_integer(out, value);
                match self.ty {
                    ColumnType::Bit(_) | ColumnType::Year => return Ok(self.ty),
                    ColumnType::Integer { bytes: 8, .. } => return Ok(self.ty),
                    ColumnType::Integer { bytes, .. } if value.unsigned_abs() < 1 << (8 * bytes - 1) => {
                        return Ok(self.ty);
                    }
                    _ => signed(8),
                }
            }
            Err(_) => match text.parse::<u64>() {
                Ok(value) => {
                    write_unsigned(out, value);
                    ColumnType::Integer { bytes: 8, unsigned: true }
                }
                Err(_) => return Err(format!("is '{text}', which is no integer of 64 bits")),
            },
        };
        Ok(match type_of_number(self.number) {
            narrow @ (ColumnType::Bit(_) | ColumnType::Year) => narrow,
            _ => wide,
        })
    }

    fn write_text(&self, text: &str, json: bool, out: &mut Vec<u8>) -> Result<ColumnType, String> {
        if json || self.number == number::JSON {
            if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
                return Err(format!("is no JSON: {error}"));
            }
            out.extend_from_slice(text.trim_ascii().as_bytes());
            return Ok(ColumnType::Json);
        }
        write_text(out, text);
        Ok(match type_of_number(self.number) {
            ty @ (ColumnType::Char | ColumnType::Varchar | ColumnType::Enum | ColumnType::Set) => ty,
            _ => ColumnType::Text,
        })
    }

    fn write_bytes(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<ColumnType, String> {
        if self.number == number::BIT {
            let significant = bytes.iter().position(|&byte| byte != 0).map_or(&bytes[..0], |start| &bytes[start..]);
            if significant.len() > 8 {
                return Err("has more than 64 bits".into());
            }
            write_unsigned(out, significant.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)));
            return Ok(ColumnType::Bit(64));
        }
        write_bytes(out, bytes);
        Ok(match type_of_number(self.number) {
            ColumnType::Char => ColumnType::Binary(0),
            ColumnType::Varchar => ColumnType::Varbinary,
            ColumnType::Geometry => ColumnType::Geometry,
            _ => ColumnType::Blob,
        })
    }

    /// Digits as they are, with zeroes up to the scale that the value states, out of Java's exponents where there are any.
    fn write_decimal(&self, text: &str, precision: i32, scale: i32, out: &mut Vec<u8>) -> Result<ColumnType, String> {
        let plain;
        let text = if text.bytes().any(|byte| matches!(byte, b'e' | b'E')) {
            plain = without_exponent(text).ok_or_else(|| format!("is '{text}', which is no decimal"))?;
            &plain
        } else {
            text
        };
        let (sign, digits) = match text.as_bytes() {
            [b'-', rest @ ..] => (&b"-"[..], rest),
            [b'+', rest @ ..] => (&b""[..], rest),
            rest => (&b""[..], rest),
        };
        let point = digits.iter().position(|&byte| byte == b'.');
        let whole = &digits[..point.unwrap_or(digits.len())];
        let fraction = point.map_or(&b""[..], |point| &digits[point + 1..]);
        let all_digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
        if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
            return Err(format!("is '{text}', which is no decimal"));
        }
        if whole.len() + fraction.len() > 200 {
            return Err(format!("has {} digits, more than any DECIMAL", whole.len() + fraction.len()));
        }
        let stated = usize::try_from(scale).unwrap_or(0).min(30);
        out.push(b'"');
        out.extend_from_slice(sign);
        out.extend_from_slice(if whole.is_empty() { b"0" } else { whole });
        let after = fraction.len().max(stated);
        if after > 0 {
            out.push(b'.');
            out.extend_from_slice(fraction);
            out.resize(out.len() + after - fraction.len(), b'0');
        }
        out.push(b'"');
        let Some(precision) = usize::try_from(precision).ok().filter(|&precision| precision > 0) else {
            // The next value may have more digits, before the point or behind it.
            return Ok(ColumnType::Decimal { precision: 0, scale: 0 });
        };
        let before = whole.iter().position(|&byte| byte != b'0').map_or(0, |start| whole.len() - start);
        let precision = precision.max(before + after).max(1);
        Ok(ColumnType::Decimal { precision: precision.min(255) as u8, scale: after as u8 })
    }

    fn write_date_time(&self, at: &DateTime, out: &mut Vec<u8>) -> Result<ColumnType, String> {
        let ty = match type_of_number(self.number) {
            ty @ (ColumnType::Date | ColumnType::Time(_) | ColumnType::DateTime(_) | ColumnType::Year) => ty,
            _ => match (at.year, at.month, at.hour) {
                (Some(_), None, _) => ColumnType::Year,
                (Some(_), Some(_), None) => ColumnType::Date,
                (Some(_), Some(_), Some(_)) => ColumnType::DateTime(6),
                (None, ..) => ColumnType::Time(6),
            },
        };
        match ty {
            ColumnType::Year => write_integer(out, i64::from(at.year.ok_or("has no year")?)),
            ColumnType::Date => write_date(out, &civil(at, false)?),
            ColumnType::Time(_) => {
                let parts = [at.hour, at.minute, at.second, at.micros];
                let negative = parts.iter().any(|part| part.is_some_and(|part| part < 0));
                let civil = civil(at, true)?;
                write_time(out, negative, &civil, fraction_digits(civil.micros));
            }
            _ => {
                let civil = civil(at, false)?;
                write_datetime(out, &civil, fraction_digits(civil.micros));
            }
        }
        Ok(ty)
    }
}

fn fraction_digits(micros: u32) -> u8 {
    if micros == 0 { 0 } else { 6 }
}

/// The parts as a civil time, checked; of a TIME the sign is left away and there is no date.
fn civil(at: &DateTime, time: bool) -> Result<Civil, String> {
    let part = |name: &str, value: Option<i32>, max: u32| {
        let value = value.unwrap_or(0);
        let size = value.unsigned_abs();
        if size > max || (value < 0 && !time) { Err(format!("has the {name} {value}")) } else { Ok(size) }
    };
    let mut civil = Civil {
        hour: part("hour", at.hour, if time { 838 } else { 23 })?,
        minute: part("minute", at.minute, 59)?,
        second: part("second", at.second, 59)?,
        micros: part("number of microseconds", at.micros, 999_999)?,
        ..Civil::default()
    };
    if !time {
        let (Some(_), Some(_), Some(_)) = (at.year, at.month, at.day) else {
            return Err("has no complete date".into());
        };
        civil.year = part("year", at.year, 9999)?;
        civil.month = part("month", at.month, 12)?;
        civil.day = part("day", at.day, 31)?;
    }
    Ok(civil)
}

/// The first and last second that has a year of four digits.
const CALENDAR: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

fn write_timestamp(seconds: i64, micros: i32, out: &mut Vec<u8>) -> Result<ColumnType, String> {
    let micros = u32::try_from(micros).ok().filter(|&micros| micros < 1_000_000);
    let micros = micros.ok_or("has no number of microseconds from 0 to 999999")?;
    if !CALENDAR.contains(&seconds) {
        return Err(format!("lies {seconds} seconds after 1970, beyond the calendar"));
    }
    write_instant(out, &civil_from_unix(seconds, micros), fraction_digits(micros));
    Ok(ColumnType::Timestamp(6))
}

fn write_zoned(at: &DateTime, timezone: &str, out: &mut Vec<u8>) -> Result<ColumnType, String> {
    let offset = zone_offset(timezone)
        .ok_or_else(|| format!("is in the time zone '{timezone}'; tidegate knows UTC and offsets such as +08:00"))?;
    let local = civil(at, false)?;
    if local.month == 0 || local.day == 0 {
        write_instant(out, &local, fraction_digits(local.micros)); // a zero date has no place in time to be moved
        return Ok(ColumnType::Timestamp(6));
    }
    let days = days_from_civil(i64::from(local.year), i64::from(local.month), i64::from(local.day));
    let second = i64::from(local.hour * 3600 + local.minute * 60 + local.second);
    write_timestamp(days * 86_400 + second - offset, local.micros as i32, out)
}

/// Seconds east of Greenwich of `UTC`, `GMT`, `Z`, `+08:00`, `GMT+8`, `UTC-03:30`.
fn zone_offset(zone: &str) -> Option<i64> {
    let rest = zone.trim();
    let rest = ["UTC", "GMT"].iter().find_map(|name| rest.strip_prefix(name)).unwrap_or(rest);
    if matches!(rest, "" | "Z") {
        return (!zone.trim().is_empty()).then_some(0);
    }
    let (sign, rest) = match rest.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, rest.strip_prefix('+')?),
    };
    let (hours, minutes) = match rest.split_once(':') {
        Some(parts) => parts,
        None if rest.len() == 4 => rest.split_at_checked(2)?,
        None => (rest, "0"),
    };
    let part = |text: &str, max| text.parse::<u8>().ok().filter(|&value| value <= max).map(i64::from);
    Some(sign * (part(hours, 15)? * 3600 + part(minutes, 59)? * 60))
}

/// Days from 1970-01-01 to a date. (Algorithm: Howard Hinnant, "chrono-compatible low-level date algorithms".)
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// `1.5E+3` as `1500`: Java writes a BigDecimal of unusual scale so. `None` where it is no number, or an absurd one.
fn without_exponent(text: &str) -> Option<String> {
    let (mantissa, exponent) = text.split_once(['e', 'E'])?;
    let exponent: i32 = exponent.parse().ok().filter(|e: &i32| e.abs() <= 100)?;
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let point = whole.len() as i32 + exponent;
    Some(match usize::try_from(point) {
        Ok(point) if point >= digits.len() => {
            let digits = format!("{digits}{}", "0".repeat(point - digits.len()));
            let significant = digits.trim_start_matches('0');
            format!("{sign}{}", if significant.is_empty() { "0" } else { significant })
        }
        Ok(point) if point > 0 => format!("{sign}{}.{}", &digits[..point], &digits[point..]),
        _ => format!("{sign}0.{}{digits}", "0".repeat(point.unsigned_abs() as usize)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(column: &mut Column, value: Value) -> Result<String, String> {
        let mut out = Vec::new();
        column.write(&value, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn decimal(column: &mut Column, value: &str, precision: i32, scale: i32) -> Result<String, String> {
        written(column, Value::Decimal { value, precision, scale })
    }

    #[test]
    fn a_type_only_grows() {
        let mut c = Column::new("n".into(), 8);
        assert_eq!(c.ty.to_string(), "bigint");
        written(&mut c, Value::Integer { precision: 8, value: "18446744073709551615" }).unwrap();
        assert_eq!(c.ty.to_string(), "bigint unsigned");
        assert!(!c.write(&Value::Integer { precision: 8, value: "-1" }, &mut Vec::new()).unwrap());
        assert_eq!(c.ty.to_string(), "bigint unsigned");

        let mut d = Column::new("d".into(), 246);
        assert_eq!(d.ty.to_string(), "unknown");
        decimal(&mut d, "123.4", 4, 1).unwrap();
        assert_eq!(d.ty.to_string(), "decimal(4,1)");
        decimal(&mut d, "1.234", 4, 3).unwrap();
        assert_eq!(d.ty.to_string(), "decimal(6,3)");
        decimal(&mut d, "1", 1, 0).unwrap();
        assert_eq!(d.ty.to_string(), "decimal(6,3)");
    }

    #[test]
    fn decimals_keep_their_digits_whatever_java_made_of_them() {
        let mut c = Column::new("d".into(), 246);
        for (value, scale, expected) in [
            ("-12.50", 2, "-12.50"),
            ("7", 2, "7.00"),
            (".5", 1, "0.5"),
            ("0E-10", 10, "0.0000000000"),
            ("1.5E+3", 0, "1500"),
            ("-1.25E-3", 5, "-0.00125"),
            ("12.345E1", 2, "123.45"),
            ("0E+3", 0, "0"),
        ] {
            assert_eq!(decimal(&mut c, value, 0, scale), Ok(format!("\"{expected}\"")), "{value}");
        }
        for value in ["", "-", "1.2.3", "1e999999999", "NaN"] {
            assert!(decimal(&mut c, value, 0, 0).is_err(), "{value}");
        }
    }

    #[test]
    fn unsigned_readings_of_narrow_integers_fit_without_growing() {
        for (number, max) in [(1, "255"), (2, "65535"), (9, "16777215"), (3, "4294967295")] {
            let mut c = Column::new("n".into(), number);
            let grew = c.write(&Value::Integer { precision: 0, value: max }, &mut Vec::new()).unwrap();
            assert!(!grew, "type {number}");
        }
    }

    #[test]
    fn time_zones_become_utc() {
        let at = DateTime {
            year: Some(2026),
            month: Some(1),
            day: Some(1),
            hour: Some(3),
            minute: Some(0),
            second: Some(0),
            micros: None,
        };
        let mut c = Column::new("t".into(), 7);
        let mut zoned = |timezone| written(&mut c, Value::TimestampWithTimeZone { value: at, timezone });
        assert_eq!(zoned("+08:00").unwrap(), "\"2025-12-31T19:00:00Z\"");
        assert_eq!(zoned("GMT+8").unwrap(), "\"2025-12-31T19:00:00Z\"");
        assert_eq!(zoned("-0330").unwrap(), "\"2026-01-01T06:30:00Z\"");
        assert_eq!(zoned("UTC").unwrap(), "\"2026-01-01T03:00:00Z\"");
        assert!(zoned("Mars/Olympus").unwrap_err().contains("Mars/Olympus"));
        assert!(zoned("").is_err());
    }
}
