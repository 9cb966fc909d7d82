//! Any row, written as a DTS record, decodes to what a naive rendering of its values says; and what is written is what
//! the published schema says, as read by another implementation of Avro.

use proptest::prelude::*;
use serde::Deserialize;
use tidegate::change::{Changes, Op, TableFilter};
use tidegate::codec::dts::{DateTime, DtsDecoder, Images, NewRecord, Operation, Value, encode};
use tidegate::source::{Decoder, Raws};

/// A column's type number, its value as owned data, and the JSON text that it must become.
#[derive(Clone, Debug)]
struct Cell {
    number: i32,
    owned: Owned,
    json: String,
}

#[derive(Clone, Debug)]
enum Owned {
    Null,
    None,
    Integer(String),
    Character(&'static str, Vec<u8>),
    Decimal(String, i32, i32),
    Float(f64),
    Timestamp(i64, i32),
    DateTime(DateTime),
    Binary(Vec<u8>),
    Text(&'static str, String),
}

impl Owned {
    fn value(&self) -> Value<'_> {
        match self {
            Owned::Null => Value::Null,
            Owned::None => Value::Empty { none: true },
            Owned::Integer(value) => Value::Integer { precision: 8, value },
            Owned::Character(charset, value) => Value::Character { charset, value },
            Owned::Decimal(value, precision, scale) => Value::Decimal { value, precision: *precision, scale: *scale },
            Owned::Float(value) => Value::Float { value: *value, precision: 0, scale: 0 },
            Owned::Timestamp(seconds, micros) => Value::Timestamp { seconds: *seconds, micros: *micros },
            Owned::DateTime(at) => Value::DateTime(*at),
            Owned::Binary(value) => Value::BinaryObject { kind: "blob", value },
            Owned::Text(kind, value) => Value::TextObject { kind, value },
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn micros() -> impl Strategy<Value = i32> {
    prop_oneof![Just(0), 1..1_000_000]
}

fn fraction(micros: i32) -> String {
    if micros == 0 { String::new() } else { format!(".{micros:06}") }
}

/// Seconds since 1970 of a civil time, by counting the days of all months since.
fn naive_seconds(year: i32, month: u32, day: u32, second: u32) -> i64 {
    let leap = |year: i32| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of = |year, month| match month {
        2 => 28 + i64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let years: i64 = (1970..year).flat_map(|year| (1..=12).map(move |month| days_of(year, month))).sum();
    let months: i64 = (1..month).map(|month| days_of(year, month)).sum();
    (years + months + i64::from(day) - 1) * 86_400 + i64::from(second)
}

fn cell() -> impl Strategy<Value = Cell> {
    let cell = |number, owned, json| Cell { number, owned, json };
    prop_oneof![
        prop_oneof![Just(3), Just(12), Just(252), Just(245)].prop_map(move |n| cell(n, Owned::Null, "null".into())),
        Just(cell(253, Owned::None, "null".into())),
        any::<i64>().prop_map(move |v| cell(8, Owned::Integer(v.to_string()), v.to_string())),
        any::<u64>().prop_map(move |v| cell(8, Owned::Integer(v.to_string()), v.to_string())),
        any::<i8>().prop_map(move |v| cell(1, Owned::Integer(v.to_string()), v.to_string())),
        any::<String>().prop_map(move |v| cell(253, Owned::Character("utf8mb4", v.clone().into()), quoted(&v))),
        "[ -~à-ÿ]{0,20}".prop_map(move |v| {
            let latin1 = v.chars().map(|c| c as u8).collect();
            cell(254, Owned::Character("latin1", latin1), quoted(&v))
        }),
        "[a-z\u{4e00}-\u{9fa5}]{0,20}".prop_map(move |v| {
            let gbk = encoding_rs::GBK.encode(&v).0.into_owned();
            cell(252, Owned::Character("gbk", gbk), quoted(&v))
        }),
        ("-?[0-9]{1,30}", "[0-9]{1,30}").prop_map(move |(whole, fraction)| {
            let text = format!("{whole}.{fraction}");
            cell(246, Owned::Decimal(text.clone(), 60, fraction.len() as i32), quoted(&text))
        }),
        any::<f64>()
            .prop_filter("MySQL has no others", |v| v.is_finite())
            .prop_map(move |v| { cell(5, Owned::Float(v), serde_json::to_string(&v).unwrap()) }),
        any::<f32>()
            .prop_filter("MySQL has no others", |v| v.is_finite())
            .prop_map(move |v| { cell(4, Owned::Float(v.into()), serde_json::to_string(&v).unwrap()) }),
        (1970..2106, 1u32..=12, 1u32..=28, 1u32..86_400, micros()).prop_map(move |(y, m, d, s, us)| {
            let text = format!("{y}-{m:02}-{d:02}T{:02}:{:02}:{:02}{}Z", s / 3600, s / 60 % 60, s % 60, fraction(us));
            cell(7, Owned::Timestamp(naive_seconds(y, m, d, s), us), quoted(&text))
        }),
        (0..10_000, 0..=12, 0..=31, 0..86_400, micros()).prop_map(move |(y, m, d, s, us)| {
            let (hour, minute, second) = (s / 3600, s / 60 % 60, s % 60);
            let text = format!("{y:04}-{m:02}-{d:02} {hour:02}:{minute:02}:{second:02}{}", fraction(us));
            let at = DateTime {
                year: Some(y),
                month: Some(m),
                day: Some(d),
                hour: Some(hour),
                minute: Some(minute),
                second: Some(second),
                micros: Some(us),
            };
            cell(12, Owned::DateTime(at), quoted(&text))
        }),
        (0..10_000, 0..=12, 0..=31).prop_map(move |(y, m, d)| {
            let at = DateTime { year: Some(y), month: Some(m), day: Some(d), ..DateTime::default() };
            cell(10, Owned::DateTime(at), quoted(&format!("{y:04}-{m:02}-{d:02}")))
        }),
        (any::<bool>(), 0..839, 0..60, 0..60, micros()).prop_map(move |(negative, h, m, s, us)| {
            let signed = |part: i32| Some(if negative { -part } else { part });
            let at = DateTime {
                hour: signed(h),
                minute: signed(m),
                second: signed(s),
                micros: signed(us),
                ..DateTime::default()
            };
            let minus = if negative && h + m + s + us > 0 { "-" } else { "" };
            cell(11, Owned::DateTime(at), quoted(&format!("{minus}{h:02}:{m:02}:{s:02}{}", fraction(us))))
        }),
        (1901..2156i32).prop_map(move |y| cell(13, Owned::Integer(y.to_string()), y.to_string())),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(move |v| {
            use base64::Engine;
            let json = quoted(&base64::engine::general_purpose::STANDARD.encode(&v));
            cell(252, Owned::Binary(v), json)
        }),
        prop::collection::vec(any::<String>(), 0..4).prop_map(move |v| {
            let json = serde_json::to_string(&v).unwrap();
            cell(245, Owned::Text("json", json.clone()), json)
        }),
    ]
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("c{n}\"é")).collect()
}

/// The record of an insert or delete of a row of these cells behind an integer key.
fn datum(operation: Operation, key: i64, cells: &[Cell], born: bool) -> Vec<u8> {
    let names = names(cells.len());
    let mut fields = vec![("id", 8)];
    fields.extend(names.iter().zip(cells).map(|(name, cell)| (name.as_str(), cell.number)));
    let text = key.to_string();
    let mut values = vec![Value::Integer { precision: 8, value: &text }];
    values.extend(cells.iter().map(|cell| cell.owned.value()));
    let (before, after) = match operation {
        Operation::Delete => (Images::Row(&values), Images::Absent),
        _ => (Images::Absent, Images::Row(&values)),
    };
    let record = NewRecord::new(operation, 1_700_000_000);
    let record = NewRecord {
        object_name: Some("shop.t"),
        tags: &[("pk_uk_info", r#"{"PRIMARY":["id"]}"#), ("other", "x")],
        fields: Some(&fields),
        before,
        after,
        born_timestamp: if born { record.born_timestamp } else { None },
        ..record
    };
    let mut out = Vec::new();
    encode(&record, &mut out);
    out
}

proptest! {
    #[test]
    fn any_row_decodes_to_its_naive_rendering(
        key in any::<i64>(),
        cells in prop::collection::vec(cell(), 0..10),
        delete in any::<bool>(),
        born in any::<bool>(),
    ) {
        let operation = if delete { Operation::Delete } else { Operation::Insert };
        let mut raws = Raws::default();
        raws.push_raw(8, 9, "1@1", b"", &datum(operation, key, &cells, born));
        let mut changes = Changes::default();
        DtsDecoder::new(TableFilter::default(), false).decode(&raws.raws().next().unwrap(), &mut changes).unwrap();
        prop_assert_eq!(changes.len(), 2);
        let change = changes.change(1);
        let mut row = format!("{{\"id\":{key}");
        for (name, cell) in names(cells.len()).iter().zip(&cells) {
            row += &format!(",{}:{}", quoted(name), cell.json);
        }
        row += "}";
        prop_assert_eq!(std::str::from_utf8(change.row()).unwrap(), row);
        prop_assert_eq!(String::from_utf8_lossy(change.key()), key.to_string());
        prop_assert_eq!(change.op(), if delete { Op::Delete } else { Op::Insert });
    }

    #[test]
    fn another_implementation_of_avro_reads_what_is_written(
        key in any::<i64>(),
        cells in prop::collection::vec(cell(), 0..10),
    ) {
        let schema = std::fs::read_to_string("tests/fixtures/dts/record.avsc").unwrap();
        let schema: serde_avro_fast::Schema = schema.parse().unwrap();
        let datum = datum(Operation::Insert, key, &cells, true);
        let record: Record = serde_avro_fast::from_datum_slice(&datum, &schema).unwrap();
        prop_assert_eq!((record.operation, record.object_name), (0, Some("shop.t")));
        prop_assert_eq!(record.born_timestamp, 1_700_000_000_000);
        let Array::Array(fields) = record.fields else { panic!("no fields") };
        let numbers: Vec<i32> = fields[1..].iter().map(|field| field.data_type_number).collect();
        prop_assert_eq!(numbers, cells.iter().map(|cell| cell.number).collect::<Vec<_>>());
        prop_assert!(matches!(record.before_images, Array::Null));
        let Array::Array(values) = record.after_images else { panic!("no image") };
        let seen: Vec<Value> = values[1..].iter().map(Branch::value).collect();
        prop_assert_eq!(seen, cells.iter().map(|cell| cell.owned.value()).collect::<Vec<_>>());
    }
}

/// A record as serde sees it; unions are enums named after their branches.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    operation: u64,
    object_name: Option<&'a str>,
    #[serde(borrow)]
    fields: Array<Field<'a>>,
    #[serde(borrow)]
    before_images: Array<Branch<'a>>,
    #[serde(borrow)]
    after_images: Array<Branch<'a>>,
    born_timestamp: i64,
}

#[derive(Deserialize)]
enum Array<T> {
    Null,
    Array(Vec<T>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Field<'a> {
    #[serde(rename = "name")]
    _name: &'a str,
    data_type_number: i32,
}

#[derive(Deserialize)]
enum Branch<'a> {
    Null,
    #[serde(rename = "com.alibaba.dts.formats.avro.Integer")]
    Integer {
        precision: i32,
        value: &'a str,
    },
    #[serde(rename = "com.alibaba.dts.formats.avro.Character")]
    Character {
        charset: &'a str,
        value: &'a [u8],
    },
    #[serde(rename = "com.alibaba.dts.formats.avro.Decimal")]
    Decimal {
        value: &'a str,
        precision: i32,
        scale: i32,
    },
    #[serde(rename = "com.alibaba.dts.formats.avro.Float")]
    Float {
        value: f64,
        precision: i32,
        scale: i32,
    },
    #[serde(rename = "com.alibaba.dts.formats.avro.Timestamp")]
    Timestamp {
        timestamp: i64,
        millis: i32,
    },
    #[serde(rename = "com.alibaba.dts.formats.avro.DateTime")]
    DateTime {
        year: Option<i32>,
        month: Option<i32>,
        day: Option<i32>,
        hour: Option<i32>,
        minute: Option<i32>,
        second: Option<i32>,
        millis: Option<i32>,
    },
    #[serde(rename = "com.alibaba.dts.formats.avro.BinaryObject")]
    BinaryObject {
        #[serde(rename = "type")]
        kind: &'a str,
        value: &'a [u8],
    },
    #[serde(rename = "com.alibaba.dts.formats.avro.TextObject")]
    TextObject {
        #[serde(rename = "type")]
        kind: &'a str,
        value: &'a str,
    },
    #[serde(rename = "com.alibaba.dts.formats.avro.EmptyObject")]
    EmptyObject(u64),
}

impl Branch<'_> {
    fn value(&self) -> Value<'_> {
        match *self {
            Branch::Null => Value::Null,
            Branch::Integer { precision, value } => Value::Integer { precision, value },
            Branch::Character { charset, value } => Value::Character { charset, value },
            Branch::Decimal { value, precision, scale } => Value::Decimal { value, precision, scale },
            Branch::Float { value, precision, scale } => Value::Float { value, precision, scale },
            Branch::Timestamp { timestamp, millis } => Value::Timestamp { seconds: timestamp, micros: millis },
            Branch::DateTime { year, month, day, hour, minute, second, millis: micros } => {
                Value::DateTime(DateTime { year, month, day, hour, minute, second, micros })
            }
            Branch::BinaryObject { kind, value } => Value::BinaryObject { kind, value },
            Branch::TextObject { kind, value } => Value::TextObject { kind, value },
            Branch::EmptyObject(number) => Value::Empty { none: number == 1 },
        }
    }
}
