//! Calendar, time and numeric values from their text to PostgreSQL's binary form, exactly or not at all.

use bytes::{BufMut, BytesMut};

/// The way on for a value that is of another type than its column.
pub(super) const OTHER_TYPE: &str = "give the column the type of the source's";

/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
const EPOCH_DAYS: i64 = 10_957;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A date, perhaps with a time of day, as its text has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Calendar {
    year: i64,
    month: u32,
    day: u32,
    micros_of_day: i64,
}

impl Calendar {
    /// Reads `YYYY-MM-DD`, `YYYY-MM-DD HH:MM:SS[.ffffff]` and `YYYY-MM-DDTHH:MM:SS[.ffffff]Z`. Whether it is a day of the
    /// calendar is another question.
    pub(super) fn parse(text: &str) -> Option<Calendar> {
        let b = text.as_bytes();
        if b.len() < 10 || b[4] != b'-' || b[7] != b'-' {
            return None;
        }
        let date = (digits(&b[..4])?, digits(&b[5..7])?, digits(&b[8..10])?);
        let micros_of_day = match b.get(10) {
            None => 0,
            Some(b' ' | b'T') => {
                let time = &b[11..];
                let time = time.strip_suffix(b"Z").unwrap_or(time);
                clock(time)?
            }
            Some(_) => return None,
        };
        Some(Calendar { year: i64::from(date.0), month: date.1, day: date.2, micros_of_day })
    }

    /// Whether only MySQL has such a date: a year, month or day of zero.
    pub(super) fn is_zero_date(&self) -> bool {
        self.year == 0 || self.month == 0 || self.day == 0
    }

    /// Whether there is such a day.
    pub(super) fn is_valid(&self) -> bool {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let days = match self.month {
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            1..=12 => 31,
            _ => return false,
        };
        (1..=days).contains(&self.day) && (0..MICROS_PER_DAY).contains(&self.micros_of_day)
    }

    pub(super) fn micros_of_day(&self) -> i64 {
        self.micros_of_day
    }

    /// Days since 1970-01-01. (Algorithm: Howard Hinnant, "chrono-compatible low-level date algorithms".)
    fn days(&self) -> i64 {
        let year = if self.month <= 2 { self.year - 1 } else { self.year };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let shifted_month = (i64::from(self.month) + 9) % 12;
        let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * 146_097 + day_of_era - 719_468
    }
}

/// A date in PostgreSQL's binary form: days since 2000-01-01.
pub(super) fn date(at: &Calendar) -> Result<i32, String> {
    i32::try_from(at.days() - EPOCH_DAYS).map_err(|_| "the date is out of range".to_string())
}

/// A timestamp in PostgreSQL's binary form, µs since 2000-01-01, for a column with so many digits of a second.
pub(super) fn timestamp(at: &Calendar, digits: u32) -> Result<i64, String> {
    refuse_rounding(at.micros_of_day, digits)?;
    Ok((at.days() - EPOCH_DAYS) * MICROS_PER_DAY + at.micros_of_day)
}

/// A time of day in PostgreSQL's binary form: µs since midnight.
pub(super) fn time_of_day(text: &str, digits: u32) -> Result<i64, String> {
    match clock(text.as_bytes()) {
        Some(micros) if micros <= MICROS_PER_DAY => refuse_rounding(micros, digits).map(|()| micros),
        _ => Err(format!("'{text}' is no time of day: make the column text or interval")),
    }
}

fn refuse_rounding(micros: i64, digits: u32) -> Result<(), String> {
    match micros % 10i64.pow(6 - digits.min(6)) {
        0 => Ok(()),
        _ => Err(format!("a fraction of a second has more than the column's {digits} digits: give it more")),
    }
}

/// `HH:MM:SS[.ffffff]` as µs; hours may have two or three digits.
fn clock(b: &[u8]) -> Option<i64> {
    let hour_digits = b.iter().position(|&c| c == b':').filter(|n| (2..=3).contains(n))?;
    let rest = &b[hour_digits..];
    if rest.len() < 6 || rest[3] != b':' {
        return None;
    }
    let (hour, minute, second) = (digits(&b[..hour_digits])?, digits(&rest[1..3])?, digits(&rest[4..6])?);
    if minute > 59 || second > 59 {
        return None;
    }
    let micros = match rest.get(6) {
        None => 0,
        Some(b'.') => {
            let fraction = &rest[7..];
            if fraction.is_empty() || fraction.len() > 6 {
                return None;
            }
            digits(fraction)? * 10u32.pow(6 - fraction.len() as u32)
        }
        Some(_) => return None,
    };
    Some((i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second)) * 1_000_000 + i64::from(micros))
}

fn digits(b: &[u8]) -> Option<u32> {
    let mut value = 0;
    for &c in b {
        if !c.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u32::from(c - b'0');
    }
    Some(value)
}

/// A decimal number's parts: sign, digits before and after the point with the exponent worked in.
fn decimal(text: &str) -> Option<(bool, String, String)> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok().filter(|e| e.abs() < 10_000)?),
        None => (text, 0),
    };
    let (integral, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if (integral.is_empty() && fraction.is_empty()) || !all_digits(integral) || !all_digits(fraction) {
        return None;
    }
    let (mut integral, mut fraction) = (integral.to_string(), fraction.to_string());
    if exponent > 0 {
        let moved = (exponent as usize).min(fraction.len());
        integral.extend(fraction.drain(..moved));
        integral.extend(std::iter::repeat_n('0', exponent as usize - moved));
    } else if exponent < 0 {
        let shift = exponent.unsigned_abs() as usize;
        let moved = shift.min(integral.len());
        let tail = integral.split_off(integral.len() - moved);
        fraction.insert_str(0, &tail);
        fraction.insert_str(0, &"0".repeat(shift - moved));
    }
    Some((negative, integral.trim_start_matches('0').to_string(), fraction))
}

/// How many digits a number has between its first and last that is not zero.
pub(super) fn significant_digits(text: &str) -> usize {
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let mut digits = mantissa.bytes().filter(u8::is_ascii_digit).skip_while(|&b| b == b'0');
    let (mut seen, mut significant) = (0, 0);
    for digit in &mut digits {
        seen += 1;
        if digit != b'0' {
            significant = seen;
        }
    }
    significant
}

/// Whether a float's shortest text is the same number as `text`.
pub(super) fn same_number(text: &str, float: impl std::fmt::Display) -> bool {
    let canonical = |text: &str| {
        decimal(text).map(|(negative, integral, fraction)| {
            let fraction = fraction.trim_end_matches('0').to_string();
            let zero = integral.is_empty() && fraction.is_empty();
            (negative && !zero, integral, fraction)
        })
    };
    canonical(text) == canonical(&float.to_string())
}

/// Appends a number in PostgreSQL's binary numeric form: digits to the base 10,000, where they begin, sign, scale.
pub(super) fn numeric(text: &str, limits: Option<(i32, i32)>, out: &mut BytesMut) -> Result<(), String> {
    let not_a_number = || format!("'{text}' is no number: {OTHER_TYPE}");
    let parts;
    let (negative, integral, fraction) = match text.bytes().any(|b| matches!(b, b'e' | b'E')) {
        false => plain_decimal(text).ok_or_else(not_a_number)?,
        true => {
            parts = decimal(text).ok_or_else(not_a_number)?;
            (parts.0, parts.1.as_str(), parts.2.as_str())
        }
    };
    if let Some((precision, scale)) = limits {
        let significant = fraction.trim_end_matches('0').len() as i32;
        // With a negative scale the last digits before the point are rounded away too.
        let rounded = integral.bytes().rev().take(usize::try_from(-scale).unwrap_or(0));
        if significant > scale.max(0)
            || rounded.into_iter().any(|digit| digit != b'0')
            || integral.len() as i32 > precision - scale
        {
            return Err(format!("{text} does not fit the column's numeric({precision},{scale}): give it more digits"));
        }
    }
    if integral.len() > 131_072 || fraction.len() > 16_383 {
        return Err("the number has more digits than numeric holds".into());
    }
    let start = out.len();
    out.put_u64(0); // count, weight, sign and scale, known at the end
    let mut count = 0i16;
    let mut weight = (integral.len().div_ceil(4) as i16) - 1;
    let mut put = |group: i16| {
        // Zero groups in front only lower the weight.
        if count == 0 && group == 0 {
            weight -= 1;
        } else {
            out.put_i16(group);
            count += 1;
        }
    };
    let (first, groups) = integral.as_bytes().split_at(integral.len() % 4);
    if !first.is_empty() {
        put(group(first, 0));
    }
    groups.chunks(4).for_each(|four| put(group(four, 0)));
    fraction.as_bytes().chunks(4).for_each(|four| put(group(four, 4 - four.len())));
    while count > 0 && out[out.len() - 2..] == [0, 0] {
        out.truncate(out.len() - 2);
        count -= 1;
    }
    let sign: u16 = if negative && count > 0 { 0x4000 } else { 0 };
    let weight = if count == 0 { 0 } else { weight };
    out[start..start + 2].copy_from_slice(&count.to_be_bytes());
    out[start + 2..start + 4].copy_from_slice(&weight.to_be_bytes());
    out[start + 4..start + 6].copy_from_slice(&sign.to_be_bytes());
    out[start + 6..start + 8].copy_from_slice(&(fraction.len() as u16).to_be_bytes());
    Ok(())
}

/// Up to four decimal digits as a digit to the base 10,000, with so many zeroes behind them.
fn group(digits: &[u8], zeroes: usize) -> i16 {
    let value = digits.iter().fold(0i16, |value, &d| value * 10 + i16::from(d - b'0'));
    value * 10i16.pow(zeroes as u32)
}

/// [`decimal`] without an exponent, borrowed.
fn plain_decimal(text: &str) -> Option<(bool, &str, &str)> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (integral, fraction) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if (integral.is_empty() && fraction.is_empty()) || !all_digits(integral) || !all_digits(fraction) {
        return None;
    }
    Some((negative, integral.trim_start_matches('0'), fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_is_read_and_judged() {
        let at = Calendar::parse("2000-01-02 00:00:01.5").unwrap();
        assert!(at.is_valid());
        assert_eq!((date(&at), timestamp(&at, 6)), (Ok(1), Ok(MICROS_PER_DAY + 1_500_000)));
        assert!(timestamp(&at, 0).is_err());
        let instant = Calendar::parse("1999-12-31T23:59:59Z").unwrap();
        assert_eq!(timestamp(&instant, 0), Ok(-1_000_000));
        assert_eq!(date(&Calendar::parse("9999-12-31").unwrap()), Ok(2_921_939));
        for zero in ["0000-00-00", "2026-00-01", "2026-01-00", "0000-00-00 00:00:00"] {
            assert!(Calendar::parse(zero).unwrap().is_zero_date(), "{zero}");
        }
        for wrong in ["2026-02-29", "2026-13-01", "2100-02-29 00:00:00", "2026-01-01 24:00:00"] {
            assert!(!Calendar::parse(wrong).unwrap().is_valid(), "{wrong}");
        }
        for wrong in
            ["", "2026-1-1", "2026-01-01x", "2026-01-01 1:00:00", "2026-01-01 10:61:00", "20260-01-01", "é026-01-01"]
        {
            assert_eq!(Calendar::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_beyond_a_day_are_refused() {
        assert_eq!(time_of_day("23:59:59.000001", 6), Ok(86_399_000_001));
        for wrong in ["838:59:59", "-01:00:00", "24:00:01", "1:2:3"] {
            assert!(time_of_day(wrong, 6).is_err(), "{wrong}");
        }
    }

    /// Reads the binary form back as text, for comparing.
    fn back(text: &str) -> String {
        let mut out = BytesMut::new();
        numeric(text, None, &mut out).unwrap();
        let at = |i: usize| i16::from_be_bytes([out[2 * i], out[2 * i + 1]]);
        let (count, weight, negative, scale) = (at(0) as usize, i32::from(at(1)), at(2) == 0x4000, at(3) as usize);
        let digit = |place: i32| if (0..count as i32).contains(&place) { at(4 + place as usize) } else { 0 };
        let integral: String =
            (0..=weight.max(0)).map(|place| format!("{:04}", digit(place - (weight.max(0) - weight)))).collect();
        let fraction: String =
            (1..=scale.div_ceil(4) as i32 + 1).map(|n| format!("{:04}", digit(weight + n))).collect();
        let integral = integral.trim_start_matches('0');
        let point = if scale > 0 { "." } else { "" };
        format!(
            "{}{}{point}{}",
            if negative { "-" } else { "" },
            if integral.is_empty() { "0" } else { integral },
            &fraction[..scale]
        )
    }

    #[test]
    fn numerics_keep_every_digit() {
        for text in [
            "0",
            "1",
            "-1",
            "9999",
            "10000",
            "12345678",
            "18446744073709551615",
            "0.1",
            "-0.00001",
            "0.00000000000000012",
            "100000000.00",
            "99999999999999999999999999999999999.999999999999999999999999999999",
            "120000.5",
            "0.00",
            "10000.0001",
        ] {
            assert_eq!(back(text), text);
        }
        assert_eq!(back("007.50"), "7.50");
        assert_eq!(back("-0.0"), "0.0");
        assert_eq!(back("1.5e3"), "1500");
        assert_eq!(back("15e-3"), "0.015");
        assert_eq!(back("1e+20"), "100000000000000000000");
        for wrong in ["", "-", ".", "1.2.3", "abc", "1e", "0x1", "NaN"] {
            assert!(numeric(wrong, None, &mut BytesMut::new()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_number_that_does_not_fit_its_column_is_refused() {
        for (text, limits, fits) in [
            ("99.99", (4, 2), true),
            ("100.00", (4, 2), false),
            ("1.230", (4, 2), true),
            ("1.239", (4, 2), false),
            ("18446744073709551615", (20, 0), true),
            ("1200", (2, -2), true),
            ("1210", (3, -2), false),
            ("0", (2, -2), true),
            ("1200.5", (3, -2), false),
        ] {
            assert_eq!(numeric(text, Some(limits), &mut BytesMut::new()).is_ok(), fits, "{text} {limits:?}");
        }
    }

    #[test]
    fn numbers_are_compared_by_value() {
        assert!(same_number("1.50", 1.5f64) && same_number("1e3", 1000f64) && same_number("-0", 0f64));
        assert!(!same_number("9007199254740993", 9_007_199_254_740_992f64));
        assert!(same_number("0.1", 0.1f32) && !same_number("0.10000001", 0.1f32));
        assert_eq!((significant_digits("-00.012300"), significant_digits("1200"), significant_digits("0")), (3, 2, 0));
    }
}
