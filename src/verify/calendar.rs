//! Days and microseconds since 1970, from and to the calendar and its text.
//!
//! verify's own arithmetic, so that a mistake in the pipeline's would show. Dates that only MySQL has (a zero month or
//! day, the 31st of February) are no days and stay text; whoever compares them decides what they are worth.
//! (Algorithm: Howard Hinnant, "chrono-compatible low-level date algorithms".)

/// Microseconds in a day.
pub const DAY_US: i64 = 86_400_000_000;

/// Days since 1970 of a date that exists.
pub fn days(year: i64, month: u32, day: u32) -> Option<i32> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    if day == 0 || day > length {
        return None;
    }
    // Years begin in March here, so that the leap day is the last of its year.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let shifted_month = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    i32::try_from(era * 146_097 + day_of_era - 719_468).ok()
}

/// Year, month and day of so many days since 1970.
pub fn date(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    (year_of_era + era * 400 + i64::from(month <= 2), month as u32, day as u32)
}

/// Microseconds of a time of day, or of a MySQL TIME without its sign.
pub fn clock_us(hours: u32, minutes: u32, seconds: u32, micros: u32) -> i64 {
    ((i64::from(hours) * 60 + i64::from(minutes)) * 60 + i64::from(seconds)) * 1_000_000 + i64::from(micros)
}

/// Days since 1970 from `YYYY-MM-DD`.
pub fn parse_date(text: &[u8]) -> Option<i32> {
    let mut rest = text;
    let days = take_date(&mut rest)?;
    rest.is_empty().then_some(days)
}

/// Microseconds since 1970 from `YYYY-MM-DD[ T]HH:MM:SS[.ffffff]` and, for an instant, `Z` or an offset such as `+00`,
/// `+0530` or `-08:00`. Without one: UTC.
pub fn parse_datetime(text: &[u8]) -> Option<i64> {
    let mut rest = text;
    let days = take_date(&mut rest)?;
    if !matches!(take_byte(&mut rest)?, b' ' | b'T') {
        return None;
    }
    let (hours, us) = take_clock(&mut rest)?;
    if hours > 23 {
        return None;
    }
    Some(i64::from(days) * DAY_US + us - take_offset(rest)?)
}

/// Microseconds from `[-]HH:MM:SS[.ffffff]`, hours as many as there are.
pub fn parse_time(text: &[u8]) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (_, us) = take_clock(&mut rest)?;
    rest.is_empty().then_some(if negative { -us } else { us })
}

/// Whether a text has the form of a date (and time), be there such a day or not: what MySQL prints of `0000-00-00`.
pub fn has_date_form(text: &[u8]) -> bool {
    let mut rest = text;
    let form = |rest: &mut &[u8]| {
        take_number(rest, 4, 4)?;
        (take_byte(rest)? == b'-').then_some(())?;
        take_number(rest, 2, 2)?;
        (take_byte(rest)? == b'-').then_some(())?;
        take_number(rest, 2, 2)
    };
    if form(&mut rest).is_none() {
        return false;
    }
    if rest.is_empty() {
        return true;
    }
    matches!(take_byte(&mut rest), Some(b' ' | b'T'))
        && take_clock(&mut rest).is_some()
        && take_offset(rest).is_some_and(|offset| offset == 0)
}

/// `YYYY-MM-DD` of so many days since 1970.
pub fn date_text(days: i64) -> String {
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `YYYY-MM-DD` then `separator` then `HH:MM:SS[.ffffff]` of so many microseconds since 1970.
pub fn datetime_text(us: i64, separator: char) -> String {
    format!("{}{separator}{}", date_text(us.div_euclid(DAY_US)), time_text(us.rem_euclid(DAY_US)))
}

/// `[-]HH:MM:SS[.ffffff]` of so many microseconds.
pub fn time_text(us: i64) -> String {
    let sign = if us < 0 { "-" } else { "" };
    let (seconds, micros) = (us.unsigned_abs() / 1_000_000, us.unsigned_abs() % 1_000_000);
    let clock = format!("{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if micros == 0 { clock } else { format!("{clock}.{micros:06}") }
}

fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (&first, after) = rest.split_first()?;
    *rest = after;
    Some(first)
}

fn take_number(rest: &mut &[u8], least: usize, most: usize) -> Option<u32> {
    let digits = rest.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
    if digits < least {
        return None;
    }
    let (number, after) = rest.split_at(digits);
    *rest = after;
    Some(number.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')))
}

fn take_date(rest: &mut &[u8]) -> Option<i32> {
    let year = take_number(rest, 4, 6)?;
    (take_byte(rest)? == b'-').then_some(())?;
    let month = take_number(rest, 2, 2)?;
    (take_byte(rest)? == b'-').then_some(())?;
    let day = take_number(rest, 2, 2)?;
    days(i64::from(year), month, day)
}

/// Hours, and the microseconds of the whole.
fn take_clock(rest: &mut &[u8]) -> Option<(u32, i64)> {
    let hours = take_number(rest, 2, 6)?;
    (take_byte(rest)? == b':').then_some(())?;
    let minutes = take_number(rest, 2, 2)?;
    (take_byte(rest)? == b':').then_some(())?;
    let seconds = take_number(rest, 2, 2)?;
    if minutes > 59 || seconds > 59 {
        return None;
    }
    let mut micros = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        *rest = fraction;
        let number = take_number(rest, 1, 6)?;
        micros = number * 10u32.pow(6 - (fraction.len() - rest.len()) as u32);
        // A seventh digit would be lost, unless it is nothing.
        while let Some(after) = rest.strip_prefix(b"0") {
            *rest = after;
        }
    }
    Some((hours, clock_us(hours, minutes, seconds, micros)))
}

/// Microseconds east of UTC of what stands behind a time.
fn take_offset(mut rest: &[u8]) -> Option<i64> {
    if rest.is_empty() || rest == b"Z" {
        return Some(0);
    }
    let sign = match take_byte(&mut rest)? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let hours = take_number(&mut rest, 2, 2)?;
    if let Some(after) = rest.strip_prefix(b":") {
        rest = after;
    }
    let minutes = if rest.is_empty() { 0 } else { take_number(&mut rest, 2, 2)? };
    rest.is_empty().then_some(sign * clock_us(hours, minutes, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_eight_centuries_comes_back() {
        let mut expected = days(1600, 1, 1).unwrap();
        for year in 1600..2400 {
            for month in 1..=12 {
                for day in 1..=31 {
                    if let Some(days) = days(year, month, day) {
                        assert_eq!(days, expected, "{year}-{month}-{day}");
                        assert_eq!(date(i64::from(days)), (year, month, day));
                        expected += 1;
                    }
                }
            }
        }
        assert_eq!(days(1970, 1, 1), Some(0));
        assert_eq!(days(2000, 2, 29), Some(11_016));
    }

    #[test]
    fn only_days_that_exist_are_days() {
        for text in ["0000-00-00", "2024-00-01", "2024-01-00", "2023-02-29", "1900-02-29", "2024-04-31"] {
            assert_eq!(parse_date(text.as_bytes()), None, "{text}");
            assert!(has_date_form(text.as_bytes()), "{text}");
        }
        assert!(has_date_form(b"0000-00-00 00:00:00.000000") && has_date_form(b"0000-00-00T00:00:00Z"));
        assert!(!has_date_form(b"never") && !has_date_form(b"2024-01-01x"));
    }

    #[test]
    fn the_forms_of_one_moment_are_one_number() {
        let us = parse_datetime(b"2026-02-03 04:05:06.5").unwrap();
        for text in ["2026-02-03T04:05:06.500000Z", "2026-02-03 04:05:06.500+00", "2026-02-03 09:35:06.5+05:30"] {
            assert_eq!(parse_datetime(text.as_bytes()), Some(us), "{text}");
        }
        assert_eq!(datetime_text(us, 'T'), "2026-02-03T04:05:06.500000");
        for text in ["2026-02-03", "2026-02-03 24:00:00", "2026-02-03 04:60:00", "2026-02-03 04:05:06.1234567"] {
            assert_eq!(parse_datetime(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_datetime(b"1969-12-31 23:59:59.999999"), Some(-1));
        assert_eq!(datetime_text(-1, ' '), "1969-12-31 23:59:59.999999");
    }

    #[test]
    fn durations_keep_their_sign_and_hours() {
        assert_eq!(parse_time(b"-838:59:59"), Some(-3_020_399_000_000));
        assert_eq!(time_text(-3_020_399_000_000), "-838:59:59");
        assert_eq!(parse_time(b"00:00:00.000001"), Some(1));
        assert_eq!(parse_time(b"1:00"), None);
    }
}
