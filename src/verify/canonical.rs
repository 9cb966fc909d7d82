//! The canonical form of a value: bytes that are equal exactly if the values are, whichever side they come from.
//!
//! The column's type at the source decides what a value means; the two sides may say it in different words (an unsigned
//! BIGINT is an integer on MySQL, a `numeric(20,0)` or a text on PostgreSQL). What is the same:
//!
//! | type | compared as |
//! |---|---|
//! | integers, BIT, YEAR | the number, exactly |
//! | FLOAT, DOUBLE | their bits, FLOAT as an `f32` on both sides; -0.0 is 0.0, as in SQL |
//! | DECIMAL | the number, exactly; the scale is the column's, so `1.10` is `1.1`, but not in a column of text |
//! | text, ENUM, SET | UTF-8 bytes |
//! | bytes, geometry | bytes |
//! | JSON | the parsed document: numbers by value, members in any order, the last of equal names |
//! | DATE, DATETIME | days, microseconds |
//! | TIMESTAMP | microseconds in UTC; milliseconds where the target keeps no more (Hologres) |
//! | TIME | microseconds, with sign |
//!
//! A value that means nothing in its column's type (`abc` for a number, `0000-00-00` for a date) keeps its text behind a
//! tag of its own: it equals the same text on the other side and nothing else. So nothing is an error here, and nothing
//! odd is ever equal to something proper. So is what is no text in the source's character set: no target can hold it, and
//! the question mark that the source would print for it is another value. Only a zero date equals NULL, if the job's policy writes it so.

use xxhash_rust::xxh3::xxh3_128;

use super::value::Value;
use super::{calendar, json};
use crate::change::{ColumnType, Form};

/// What the sides of a comparison agreed to call equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// A date that only MySQL has equals NULL.
    pub zero_dates_are_null: bool,
    /// Instants have milliseconds, rounded.
    pub instants_in_ms: bool,
}

const NULL: u8 = 0;
const INTEGER: u8 = 1;
const BEYOND_I64: u8 = 2;
const FLOAT: u8 = 3;
const DOUBLE: u8 = 4;
const DECIMAL: u8 = 5;
const TEXT: u8 = 6;
const BYTES: u8 = 7;
const JSON: u8 = 8;
const DATE: u8 = 9;
const DATETIME: u8 = 10;
const INSTANT: u8 = 11;
const TIME: u8 = 12;
const ODD: u8 = 13;

/// Appends the canonical form of `value` in a column of type `ty`. Forms are self-delimiting, so that the forms of a
/// row's values in a row are the form of the row.
pub fn canonical(ty: ColumnType, value: Value, rules: Rules, out: &mut Vec<u8>) {
    let start = out.len();
    let proper = match value {
        Value::Null => {
            out.push(NULL);
            true
        }
        Value::NoText(_) => false,
        _ => match ty.form() {
            Form::Integer => integer(value, out),
            Form::Float => float(value, out),
            Form::Double => double(value, out),
            Form::Decimal => decimal(value, out),
            Form::Text => text(value, out),
            Form::Bytes => bytes(value, out),
            Form::Json => document(value, out),
            Form::Date | Form::DateTime | Form::Instant | Form::Time => moment(ty.form(), value, rules, out),
        },
    };
    if !proper {
        out.truncate(start);
        odd(ty, value, rules, out);
    }
}

/// As [`canonical`], of a text in a column of text. There two texts of one number are two values, and only the one that the
/// table of types writes is the number: no blanks, no zeroes in front, exactly the column's scale.
pub fn canonical_of_text(ty: ColumnType, text: &[u8], rules: Rules, out: &mut Vec<u8>) {
    let usual = match ty {
        ColumnType::Decimal { precision: 0, .. } => true,
        ColumnType::Decimal { scale, .. } => is_usual_number(text, usize::from(scale)),
        _ => ty.form() != Form::Integer || is_usual_number(text, 0),
    };
    if usual { canonical(ty, Value::Text(text), rules, out) } else { sized(ODD, text, out) }
}

fn is_usual_number(text: &[u8], scale: usize) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let Some(whole_digits) = digits.len().checked_sub(if scale > 0 { scale + 1 } else { 0 }) else { return false };
    let (whole, fraction) = digits.split_at(whole_digits);
    let fraction = fraction.strip_prefix(b".").unwrap_or(fraction);
    let zero = digits.iter().all(|byte| matches!(byte, b'0' | b'.'));
    fraction.len() == scale
        && whole.iter().chain(fraction).all(u8::is_ascii_digit)
        && (whole == b"0" || whole.first().is_some_and(|first| *first != b'0'))
        && !(zero && digits.len() < text.len())
}

/// The 128-bit hash of canonical forms.
pub fn hash(canonical: &[u8]) -> u128 {
    xxh3_128(canonical)
}

fn odd(ty: ColumnType, value: Value, rules: Rules, out: &mut Vec<u8>) {
    let shown;
    let text = match value {
        Value::Text(text) | Value::Bytes(text) | Value::NoText(text) => text,
        _ => {
            shown = value.show().unwrap_or_default();
            shown.as_bytes()
        }
    };
    let dated = matches!(ty.form(), Form::Date | Form::DateTime | Form::Instant);
    if dated && rules.zero_dates_are_null && calendar::has_date_form(text) {
        out.push(NULL);
    } else if dated && calendar::has_date_form(text) {
        // The zero date is written with a blank or a T, with and without Z and zeroes behind the point.
        let digits: Vec<u8> = text.iter().copied().filter(u8::is_ascii_digit).collect();
        let end = digits.iter().rposition(|digit| *digit != b'0').map_or(8, |last| (last + 1).max(8));
        sized(ODD, &digits[..end.min(digits.len())], out);
    } else {
        sized(ODD, text, out);
    }
}

fn sized(tag: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    out.extend_from_slice(payload);
}

fn push_integer(value: i128, out: &mut Vec<u8>) -> bool {
    if let Ok(value) = i64::try_from(value) {
        out.push(INTEGER);
        out.extend_from_slice(&value.to_le_bytes());
    } else if let Ok(value) = u64::try_from(value) {
        out.push(BEYOND_I64);
        out.extend_from_slice(&value.to_le_bytes());
    } else {
        return false;
    }
    true
}

fn integer(value: Value, out: &mut Vec<u8>) -> bool {
    match value {
        Value::Int(v) => push_integer(v.into(), out),
        Value::UInt(v) => push_integer(v.into(), out),
        Value::Double(v) if v.fract() == 0.0 && v.abs() < 9.0e15 => push_integer(v as i128, out),
        Value::Float(v) if v.fract() == 0.0 && v.abs() < 9.0e15 => push_integer(v as i128, out),
        Value::Text(text) => {
            // A NUMERIC column with a scale shows an integer as `5.00`.
            let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
                Some(point) => (&text[..point], &text[point + 1..]),
                None => (text, &text[..0]),
            };
            if !fraction.iter().all(|digit| *digit == b'0') {
                return false;
            }
            let Some(number) = std::str::from_utf8(whole).ok().and_then(|whole| whole.parse().ok()) else {
                return false;
            };
            push_integer(number, out)
        }
        _ => false,
    }
}

fn float(value: Value, out: &mut Vec<u8>) -> bool {
    let number = match value {
        Value::Float(v) => v,
        Value::Double(v) => v as f32,
        Value::Int(v) => v as f32,
        Value::Text(text) => match std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()) {
            Some(number) => number,
            None => return false,
        },
        _ => return false,
    };
    out.push(FLOAT);
    out.extend_from_slice(&(if number == 0.0 { 0.0 } else { number }).to_bits().to_le_bytes());
    true
}

fn double(value: Value, out: &mut Vec<u8>) -> bool {
    let number = match value {
        Value::Double(v) => v,
        Value::Float(v) => f64::from(v),
        Value::Int(v) => v as f64,
        Value::Text(text) => match std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()) {
            Some(number) => number,
            None => return false,
        },
        _ => return false,
    };
    out.push(DOUBLE);
    out.extend_from_slice(&(if number == 0.0 { 0.0 } else { number }).to_bits().to_le_bytes());
    true
}

fn decimal(value: Value, out: &mut Vec<u8>) -> bool {
    let shown;
    let text = match value {
        Value::Text(text) => text,
        Value::Int(_) | Value::UInt(_) | Value::Double(_) | Value::Float(_) => {
            shown = value.show().unwrap_or_default();
            shown.as_bytes()
        }
        _ => return false,
    };
    let start = out.len();
    out.push(DECIMAL);
    out.extend_from_slice(&[0; 8]);
    if !json::push_number(text, out) {
        return false;
    }
    let length = (out.len() - start - 9) as u64;
    out[start + 1..start + 9].copy_from_slice(&length.to_le_bytes());
    true
}

fn text(value: Value, out: &mut Vec<u8>) -> bool {
    match value {
        Value::Text(text) | Value::Bytes(text) => sized(TEXT, text, out),
        // A text column of the source in a column of another type at the target: as that side prints it.
        _ => sized(TEXT, value.show().unwrap_or_default().as_bytes(), out),
    }
    true
}

fn bytes(value: Value, out: &mut Vec<u8>) -> bool {
    match value {
        Value::Text(bytes) | Value::Bytes(bytes) => sized(BYTES, bytes, out),
        _ => return false,
    }
    true
}

fn document(value: Value, out: &mut Vec<u8>) -> bool {
    let (Value::Text(text) | Value::Bytes(text)) = value else { return false };
    let start = out.len();
    out.push(JSON);
    out.extend_from_slice(&[0; 8]);
    if !json::canonical(text, out) {
        return false;
    }
    let length = (out.len() - start - 9) as u64;
    out[start + 1..start + 9].copy_from_slice(&length.to_le_bytes());
    true
}

fn moment(form: Form, value: Value, rules: Rules, out: &mut Vec<u8>) -> bool {
    let (tag, number) = match (form, value) {
        (Form::Date, Value::Date(days)) => (DATE, Some(i64::from(days))),
        (Form::Date, Value::DateTime(us)) if us % calendar::DAY_US == 0 => (DATE, Some(us / calendar::DAY_US)),
        (Form::Date, Value::Text(text)) => (DATE, calendar::parse_date(text).map(i64::from)),
        (Form::DateTime, Value::DateTime(us) | Value::Instant(us)) => (DATETIME, Some(us)),
        (Form::DateTime, Value::Text(text)) => (DATETIME, calendar::parse_datetime(text)),
        (Form::Instant, Value::DateTime(us) | Value::Instant(us)) => (INSTANT, Some(us)),
        (Form::Instant, Value::Text(text)) => (INSTANT, calendar::parse_datetime(text)),
        (Form::Time, Value::Time(us)) => (TIME, Some(us)),
        (Form::Time, Value::Text(text)) => (TIME, calendar::parse_time(text)),
        _ => (ODD, None),
    };
    let Some(number) = number else { return false };
    let number = if tag == INSTANT && rules.instants_in_ms { (number + 500).div_euclid(1000) } else { number };
    out.push(tag);
    out.extend_from_slice(&number.to_le_bytes());
    true
}

/// Whether two values that have different canonical forms still say the same, as far as the target can tell: an instant
/// in milliseconds may have been cut where we round.
pub fn same_within_precision(ty: ColumnType, a: Value, b: Value, rules: Rules) -> bool {
    let us = |value| match value {
        Value::DateTime(us) | Value::Instant(us) => Some(us),
        Value::Text(text) => calendar::parse_datetime(text),
        _ => None,
    };
    rules.instants_in_ms
        && ty.form() == Form::Instant
        && matches!((us(a), us(b)), (Some(a), Some(b)) if a.abs_diff(b) < 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(ty: &str, value: Value) -> Vec<u8> {
        form_by(ty, value, Rules::default())
    }

    fn form_by(ty: &str, value: Value, rules: Rules) -> Vec<u8> {
        let mut out = Vec::new();
        canonical(ty.parse().unwrap(), value, rules, &mut out);
        out
    }

    /// What MySQL, PostgreSQL and SQLite hand out for one value of each type, all of which are equal; and near misses,
    /// none of which is.
    #[allow(clippy::type_complexity)]
    fn table() -> Vec<(&'static str, Vec<Value<'static>>, Vec<Value<'static>>)> {
        let t = Value::text;
        let moment = calendar::parse_datetime(b"2026-02-03 04:05:06.5").unwrap();
        vec![
            ("tinyint", vec![Value::Int(-1), t("-1")], vec![Value::Int(1), Value::UInt(255)]),
            ("tinyint unsigned", vec![Value::UInt(255), Value::Int(255)], vec![Value::Int(-1)]),
            ("smallint", vec![Value::Int(-32_768)], vec![Value::Int(32_767)]),
            ("smallint unsigned", vec![Value::UInt(65_535), Value::Int(65_535)], vec![Value::Int(-1)]),
            ("mediumint", vec![Value::Int(5), Value::Double(5.0)], vec![Value::Double(5.5)]),
            ("mediumint unsigned", vec![Value::UInt(16_777_215)], vec![Value::Int(-1)]),
            ("int", vec![Value::Int(0), t("0"), t("-0")], vec![Value::Null, t(""), t("zero")]),
            ("int unsigned", vec![Value::UInt(4_294_967_295), Value::Int(4_294_967_295)], vec![Value::Int(-1)]),
            (
                "bigint",
                vec![Value::Int(i64::MAX), t("9223372036854775807")],
                vec![Value::UInt(1 << 63), Value::Double(9.223_372_036_854_776e18)],
            ),
            (
                "bigint unsigned",
                vec![Value::UInt(u64::MAX), t("18446744073709551615"), t("18446744073709551615.00")],
                vec![
                    Value::Int(-1),
                    t("18446744073709551614"),
                    t("18446744073709551615.5"),
                    Value::Double(18446744073709551615.0),
                ],
            ),
            (
                "float",
                vec![Value::Float(0.1), Value::Double(0.1), t("0.1"), Value::Double(f64::from(0.1f32))],
                vec![Value::Float(0.100_000_01), Value::Float(-0.1)],
            ),
            (
                "double",
                vec![Value::Double(0.1), t("0.1")],
                vec![Value::Double(f64::from(0.1f32)), Value::Double(0.1f64.next_up())],
            ),
            ("double", vec![Value::Double(0.0), Value::Double(-0.0), Value::Int(0)], vec![Value::Double(5e-324)]),
            (
                "decimal(10,2)",
                vec![t("1.10"), t("1.1"), t("001.100"), Value::Double(1.1)],
                vec![t("1.11"), t("11.0"), t("-1.10"), t("0.11")],
            ),
            ("decimal(10,2)", vec![t("0.00"), t("-0.00"), Value::Int(0)], vec![t("0.01"), t("NaN")]),
            (
                "decimal(65,30)",
                vec![
                    t("12345678901234567890123456789012345.123456789012345678901234567890"),
                    t("12345678901234567890123456789012345.12345678901234567890123456789"),
                ],
                vec![t("12345678901234567890123456789012345.123456789012345678901234567891")],
            ),
            ("bit(1)", vec![Value::UInt(1), Value::Int(1)], vec![Value::Int(0), Value::Bytes(b"\x01")]),
            ("bit(64)", vec![Value::UInt(u64::MAX), t("18446744073709551615")], vec![Value::Int(-1)]),
            ("year", vec![Value::UInt(2026), Value::Int(2026)], vec![Value::Int(26)]),
            (
                "date",
                vec![Value::Date(11_016), t("2000-02-29"), Value::DateTime(11_016 * calendar::DAY_US)],
                vec![t("2000-03-01"), t("2000-2-29"), Value::DateTime(1)],
            ),
            ("time", vec![Value::Time(-3_020_399_000_000), t("-838:59:59")], vec![t("838:59:59"), t("-838:59:58")]),
            ("time(6)", vec![Value::Time(1), t("00:00:00.000001")], vec![t("00:00:00.00001")]),
            (
                "datetime",
                vec![Value::DateTime(0), t("1970-01-01 00:00:00")],
                vec![t("1970-01-01 00:00:01"), t("0000-00-00 00:00:00"), Value::Null],
            ),
            (
                "datetime(3)",
                vec![Value::DateTime(moment), t("2026-02-03 04:05:06.500")],
                vec![Value::DateTime(moment + 1)],
            ),
            ("timestamp", vec![Value::Instant(0), t("1970-01-01T00:00:00Z")], vec![t("1970-01-01T00:00:00+01")]),
            (
                "timestamp(6)",
                vec![Value::Instant(moment), t("2026-02-03T04:05:06.500000Z"), t("2026-02-03 05:05:06.5+01")],
                vec![Value::Instant(moment - 1)],
            ),
            ("varchar", vec![t("a"), Value::Bytes(b"a")], vec![t("a "), t("A"), t(""), t("a\0"), Value::NoText(b"a")]),
            ("text", vec![t("né"), t("n\u{e9}")], vec![t("ne\u{301}"), t("n?")]),
            ("varbinary", vec![Value::Bytes(b"\0\xff")], vec![Value::Bytes(b"\0\xff\0"), Value::Bytes(b"")]),
            ("blob", vec![Value::Bytes(b"")], vec![Value::Null, Value::Bytes(b"\0")]),
            (
                "json",
                vec![t("{\"a\": [1, 2.50]}"), t("{\"a\":[1,2.5]}")],
                vec![t("{\"a\":[1,2.05]}"), t("{\"a\":[1,\"2.5\"]}"), t("{")],
            ),
            ("json", vec![t("null")], vec![Value::Null, t("\"null\"")]),
            ("enum", vec![t("red")], vec![t("Red"), Value::Int(1)]),
            ("set", vec![t("a,b")], vec![t("b,a"), t("a")]),
            ("geometry", vec![Value::Bytes(b"\0\0\0\0\x01\x01\0\0\0")], vec![Value::Bytes(b"\x01\x01\0\0\0")]),
        ]
    }

    #[test]
    fn one_value_in_the_words_of_each_side_is_equal_and_a_near_miss_is_not() {
        for (ty, same, other) in table() {
            let want = form(ty, same[0]);
            for value in &same {
                assert_eq!(form(ty, *value), want, "{ty} {value:?}");
            }
            for value in &other {
                assert_ne!(form(ty, *value), want, "{ty} {value:?}");
            }
            assert_ne!(want, form(ty, Value::Null), "{ty}");
        }
    }

    #[test]
    fn in_a_column_of_text_a_number_has_one_text() {
        let text = |ty: &str, text: &str| {
            let mut out = Vec::new();
            canonical_of_text(ty.parse().unwrap(), text.as_bytes(), Rules::default(), &mut out);
            out
        };
        for (ty, usual, others) in [
            ("bigint unsigned", "18446744073709551615", &["+18446744073709551615", "018446744073709551615"][..]),
            ("bigint", "0", &["-0", "00", "", "0.0", " 0"]),
            ("decimal(65,30)", "-0.100000000000000000000000000000", &["-0.1", "-.100000000000000000000000000000"]),
            ("decimal(50,2)", "1.10", &["1.1", "01.10", "1.100", "1,10", "110"]),
            ("decimal(50,0)", "-7", &["-7.", "-7.0", "-", "7"]),
        ] {
            let want = form(ty, Value::text(usual));
            assert_eq!(text(ty, usual), want, "{ty} {usual}");
            others.iter().for_each(|other| assert_ne!(text(ty, other), want, "{ty} {other}"));
        }
        assert_eq!(text("varchar", "007"), form("varchar", Value::text("007")));
    }

    #[test]
    fn every_type_is_in_the_table_above() {
        let all: Vec<&str> = table().iter().map(|(ty, ..)| *ty).collect();
        // A new form has to get a row above: this match does not compile until someone has been here.
        for ty in &all {
            match ty.parse::<ColumnType>().unwrap().form() {
                Form::Integer | Form::Float | Form::Double | Form::Decimal | Form::Text | Form::Bytes => {}
                Form::Json | Form::Date | Form::DateTime | Form::Instant | Form::Time => {}
            }
        }
        for name in ["float", "year", "set", "enum", "geometry", "json", "blob", "varbinary", "text", "varchar", "date"]
        {
            assert!(all.contains(&name), "{name}");
        }
    }

    #[test]
    fn a_zero_date_is_null_only_where_the_policy_writes_it_so() {
        let null = Rules { zero_dates_are_null: true, ..Rules::default() };
        for (ty, text) in [
            ("date", "0000-00-00"),
            ("date", "2024-00-01"),
            ("datetime", "0000-00-00 00:00:00"),
            ("timestamp(3)", "0000-00-00 00:00:00.000"),
        ] {
            assert_eq!(form_by(ty, Value::text(text), null), form(ty, Value::Null), "{ty} {text}");
            assert_ne!(form(ty, Value::text(text)), form(ty, Value::Null), "{ty} {text}");
        }
        assert_eq!(
            form("timestamp", Value::text("0000-00-00 00:00:00")),
            form("timestamp", Value::text("0000-00-00T00:00:00Z"))
        );
        assert_ne!(form("date", Value::text("0000-00-00")), form("date", Value::text("2024-00-00")));
        assert_ne!(form_by("date", Value::text("never"), null), form("date", Value::Null));
    }

    #[test]
    fn an_instant_in_milliseconds_is_rounded_and_a_cut_one_still_the_same() {
        let ms = Rules { instants_in_ms: true, ..Rules::default() };
        let ty: ColumnType = "timestamp(6)".parse().unwrap();
        assert_eq!(
            form_by("timestamp(6)", Value::Instant(1_500), ms),
            form_by("timestamp(6)", Value::Instant(2_000), ms)
        );
        assert_ne!(
            form_by("timestamp(6)", Value::Instant(1_499), ms),
            form_by("timestamp(6)", Value::Instant(2_000), ms)
        );
        assert!(same_within_precision(ty, Value::Instant(1_999), Value::Instant(1_000), ms));
        assert!(!same_within_precision(ty, Value::Instant(2_000), Value::Instant(1_000), ms));
        assert!(!same_within_precision(ty, Value::Instant(1_999), Value::Instant(1_000), Rules::default()));
    }

    #[test]
    fn the_forms_of_a_row_can_not_slide_into_each_other() {
        let row = |values: [&str; 2]| {
            let mut out = Vec::new();
            values.iter().for_each(|text| canonical(ColumnType::Text, Value::text(text), Rules::default(), &mut out));
            out
        };
        assert_ne!(row(["ab", "c"]), row(["a", "bc"]));
        assert_ne!(row(["", "a"]), row(["a", ""]));
    }
}
