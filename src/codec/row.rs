//! Writes a row as one JSON object, straight into bytes, and its key as text.
//!
//! Decoders of every source use this writer, so that a value has one form whatever the source
//! ([`Form`](crate::change::Form) says which). Columns are written in table order, nulls included. The writer remembers
//! where each value lies, so that the key's text is taken from what was written and can't differ from it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// `"name":` as JSON, made once per column.
pub fn column_prefix(name: &str) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(name.len() + 3);
    write_text(&mut prefix, name);
    prefix.push(b':');
    prefix
}

/// Writer of one JSON object at a time.
///
/// ```
/// use tidegate::codec::row::{RowWriter, column_prefix, write_integer, write_text};
/// let (id, name) = (column_prefix("id"), column_prefix("name"));
/// let mut row = RowWriter::default();
/// row.begin();
/// write_integer(row.column(&id), 7);
/// write_text(row.column(&name), "né\"e");
/// assert_eq!(row.finish(), r#"{"id":7,"name":"né\"e"}"#.as_bytes());
/// let mut key = Vec::new();
/// row.key_text(&[0], &mut key).unwrap();
/// assert_eq!(key, b"7");
/// key.clear();
/// row.key_text(&[1, 0], &mut key).unwrap();
/// assert_eq!(key, r#"["né\"e","7"]"#.as_bytes());
/// ```
#[derive(Debug, Default)]
pub struct RowWriter {
    json: Vec<u8>,
    /// Where the value of each column begins; it ends before the comma of the next.
    starts: Vec<usize>,
    /// Length of the prefix that stands before each value.
    prefixes: Vec<usize>,
}

impl RowWriter {
    /// Forgets the row before and begins a new one.
    pub fn begin(&mut self) {
        self.json.clear();
        self.starts.clear();
        self.prefixes.clear();
        self.json.push(b'{');
    }

    /// Begins the next column; the caller appends exactly one JSON value to what is returned.
    #[inline]
    pub fn column(&mut self, prefix: &[u8]) -> &mut Vec<u8> {
        if !self.starts.is_empty() {
            self.json.push(b',');
        }
        self.json.extend_from_slice(prefix);
        self.starts.push(self.json.len());
        self.prefixes.push(prefix.len());
        &mut self.json
    }

    /// Ends the object and returns it.
    pub fn finish(&mut self) -> &[u8] {
        self.json.push(b'}');
        &self.json
    }

    /// The finished object.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The JSON of column `index` of the finished object.
    pub fn value(&self, index: usize) -> &[u8] {
        let end = match self.starts.get(index + 1) {
            Some(next) => next - self.prefixes[index + 1] - 1,
            None => self.json.len() - 1,
        };
        &self.json[self.starts[index]..end]
    }

    /// Appends the key's text: the value of the one key column, or a JSON array of the texts of several.
    ///
    /// # Errors
    /// The index of a key column that is null.
    pub fn key_text(&self, key: &[usize], out: &mut Vec<u8>) -> Result<(), usize> {
        if let Some(&null) = key.iter().find(|&&index| self.value(index) == b"null") {
            return Err(null);
        }
        match key {
            [] => {}
            [one] => push_text_of(self.value(*one), out),
            several => {
                for (n, &index) in several.iter().enumerate() {
                    out.push(if n == 0 { b'[' } else { b',' });
                    let value = self.value(index);
                    if value.starts_with(b"\"") {
                        out.extend_from_slice(value);
                    } else {
                        out.push(b'"');
                        out.extend_from_slice(value);
                        out.push(b'"');
                    }
                }
                out.push(b']');
            }
        }
        Ok(())
    }
}

/// The text of a JSON scalar: a string without its quotes and escapes, anything else as it stands.
pub fn push_text_of(value: &[u8], out: &mut Vec<u8>) {
    match value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")) {
        Some(inner) if !inner.contains(&b'\\') => out.extend_from_slice(inner),
        Some(_) => {
            let text: String = serde_json::from_slice(value).expect("the writer escapes what needs it");
            out.extend_from_slice(text.as_bytes());
        }
        None => out.extend_from_slice(value),
    }
}

/// Appends `null`.
#[inline]
pub fn write_null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"null");
}

/// Appends a signed integer.
#[inline]
pub fn write_integer(out: &mut Vec<u8>, value: i64) {
    serde_json::to_writer(out, &value).expect("writing to memory");
}

/// Appends an unsigned integer.
#[inline]
pub fn write_unsigned(out: &mut Vec<u8>, value: u64) {
    serde_json::to_writer(out, &value).expect("writing to memory");
}

/// Appends the shortest number that reads back as the same `f32`.
#[inline]
pub fn write_f32(out: &mut Vec<u8>, value: f32) {
    serde_json::to_writer(out, &value).expect("writing to memory");
}

/// Appends the shortest number that reads back as the same `f64`.
#[inline]
pub fn write_f64(out: &mut Vec<u8>, value: f64) {
    serde_json::to_writer(out, &value).expect("writing to memory");
}

/// Appends a JSON string.
#[inline]
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing to memory");
}

/// Appends bytes as a base64 string.
#[inline]
pub fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = BASE64.encode_slice(bytes, &mut out[start..]).expect("the space is computed");
    debug_assert_eq!(start + written, out.len());
    out.push(b'"');
}

/// A point on MySQL's calendar, which has zero years, months and days, or a TIME of day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Civil {
    /// Year, 0 to 9999.
    pub year: u32,
    /// Month, 0 to 12.
    pub month: u32,
    /// Day, 0 to 31.
    pub day: u32,
    /// Hour; of a TIME up to 838.
    pub hour: u32,
    /// Minute.
    pub minute: u32,
    /// Second.
    pub second: u32,
    /// Microsecond.
    pub micros: u32,
}

fn push_digits(out: &mut Vec<u8>, mut value: u32, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    for place in out[start..].iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
    debug_assert_eq!(value, 0, "more than {width} digits");
}

fn push_date(out: &mut Vec<u8>, at: &Civil) {
    push_digits(out, at.year, 4);
    out.push(b'-');
    push_digits(out, at.month, 2);
    out.push(b'-');
    push_digits(out, at.day, 2);
}

fn push_time(out: &mut Vec<u8>, at: &Civil, digits: u8) {
    push_digits(out, at.hour, if at.hour > 99 { 3 } else { 2 });
    out.push(b':');
    push_digits(out, at.minute, 2);
    out.push(b':');
    push_digits(out, at.second, 2);
    if digits > 0 {
        out.push(b'.');
        push_digits(out, at.micros / 10u32.pow(6 - u32::from(digits.min(6))), usize::from(digits.min(6)));
    }
}

/// Appends `"YYYY-MM-DD"`.
pub fn write_date(out: &mut Vec<u8>, at: &Civil) {
    out.push(b'"');
    push_date(out, at);
    out.push(b'"');
}

/// Appends `"YYYY-MM-DD HH:MM:SS[.ffffff]"` with `digits` digits of a second.
pub fn write_datetime(out: &mut Vec<u8>, at: &Civil, digits: u8) {
    out.push(b'"');
    push_date(out, at);
    out.push(b' ');
    push_time(out, at, digits);
    out.push(b'"');
}

/// Appends `"YYYY-MM-DDTHH:MM:SS[.ffffff]Z"` for an instant given as a civil time in UTC.
pub fn write_instant(out: &mut Vec<u8>, at: &Civil, digits: u8) {
    out.push(b'"');
    push_date(out, at);
    out.push(b'T');
    push_time(out, at, digits);
    out.extend_from_slice(b"Z\"");
}

/// Appends `"[-]HH:MM:SS[.ffffff]"`.
pub fn write_time(out: &mut Vec<u8>, negative: bool, at: &Civil, digits: u8) {
    out.push(b'"');
    if negative {
        out.push(b'-');
    }
    push_time(out, at, digits);
    out.push(b'"');
}

/// The civil time in UTC of so many seconds since 1970, with microseconds. Seconds 0 is MySQL's zero TIMESTAMP and gives
/// all zeroes, as MySQL prints it. (Algorithm: Howard Hinnant, "chrono-compatible low-level date algorithms".)
pub fn civil_from_unix(seconds: i64, micros: u32) -> Civil {
    if seconds == 0 && micros == 0 {
        return Civil::default();
    }
    let days = seconds.div_euclid(86_400);
    let second_of_day = seconds.rem_euclid(86_400) as u32;
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Civil {
        year: year as u32,
        month: month as u32,
        day: (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32,
        hour: second_of_day / 3600,
        minute: second_of_day / 60 % 60,
        second: second_of_day % 60,
        micros,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_keep_every_digit() {
        assert_eq!(written(|o| write_unsigned(o, u64::MAX)), "18446744073709551615");
        assert_eq!(written(|o| write_f32(o, 0.1)), "0.1");
        assert_eq!(written(|o| write_f64(o, 1e300)), "1e+300");
        assert_eq!(written(|o| write_bytes(o, b"\0\xff")), "\"AP8=\"");
        assert_eq!(written(|o| write_bytes(o, b"")), "\"\"");
    }

    #[test]
    fn times_are_written_with_as_many_digits_as_the_column_has() {
        let at = Civil { year: 2026, month: 2, day: 3, hour: 4, minute: 5, second: 6, micros: 78_900 };
        assert_eq!(written(|o| write_date(o, &at)), "\"2026-02-03\"");
        assert_eq!(written(|o| write_datetime(o, &at, 0)), "\"2026-02-03 04:05:06\"");
        assert_eq!(written(|o| write_instant(o, &at, 3)), "\"2026-02-03T04:05:06.078Z\"");
        let long = Civil { hour: 838, minute: 59, second: 59, ..Civil::default() };
        assert_eq!(written(|o| write_time(o, true, &long, 0)), "\"-838:59:59\"");
        assert_eq!(written(|o| write_datetime(o, &Civil::default(), 0)), "\"0000-00-00 00:00:00\"");
    }

    #[test]
    fn unix_seconds_become_the_calendar() {
        let at = |s| written(|o| write_instant(o, &civil_from_unix(s, 0), 0));
        assert_eq!(at(951_782_400), "\"2000-02-29T00:00:00Z\"");
        assert_eq!(at(2_147_483_647), "\"2038-01-19T03:14:07Z\"");
        assert_eq!(at(1), "\"1970-01-01T00:00:01Z\"");
        assert_eq!(at(0), "\"0000-00-00T00:00:00Z\"");
    }

    #[test]
    fn values_lie_where_the_writer_says() {
        let prefixes: Vec<_> = ["a", "b,\"", "c"].iter().map(|n| column_prefix(n)).collect();
        let mut row = RowWriter::default();
        row.begin();
        write_null(row.column(&prefixes[0]));
        write_text(row.column(&prefixes[1]), "x,y");
        write_integer(row.column(&prefixes[2]), -3);
        row.finish();
        assert_eq!((row.value(0), row.value(1), row.value(2)), (&b"null"[..], &b"\"x,y\""[..], &b"-3"[..]));
        assert_eq!(row.key_text(&[2, 0], &mut Vec::new()), Err(0));
    }
}
