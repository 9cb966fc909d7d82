//! Debezium's JSON, with its schema or without.
//!
//! With the schema (`value.converter.schemas.enable=true`) every value has a type, and the encodings of decimals and times
//! are undone. Without it only JSON's own types are there: then `decimal.handling.mode=string` keeps the digits, and times
//! arrive as numbers, which only a number column of the target takes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_128;

use super::{Event, ForeignRecord, LooseRow, Read, not_rows, parse};
use crate::change::{ColumnType, Op, TableFilter};
use crate::codec::row::{Civil, civil_from_unix, write_date, write_datetime, write_time};

/// A message with schema; both halves are missing without one.
#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    before: Option<LooseRow<'a>>,
    #[serde(borrow)]
    after: Option<LooseRow<'a>>,
    #[serde(borrow)]
    source: Option<Source<'a>>,
    #[serde(borrow)]
    op: Option<Cow<'a, str>>,
    ts_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(borrow, default)]
    db: Cow<'a, str>,
    #[serde(borrow)]
    table: Option<Cow<'a, str>>,
    ts_ms: Option<u64>,
}

/// How a column's values are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Plain,
    Days,
    /// A moment as so many parts of a second since 1970.
    Since1970(u64),
    /// A duration in so many parts of a second.
    Duration(u64),
    Unscaled(u8),
    /// Little-endian bytes.
    Bits,
    JsonText,
}

type Columns = HashMap<String, (ColumnType, Encoding)>;

/// The schemas seen, by the hash of their text.
#[derive(Default)]
pub(super) struct Schemas(HashMap<u128, Arc<Columns>>);

impl Schemas {
    fn of(&mut self, text: &str) -> Result<Arc<Columns>, String> {
        let id = xxh3_128(text.as_bytes());
        if let Some(known) = self.0.get(&id) {
            return Ok(Arc::clone(known));
        }
        // More shapes than any topic has at a time: a schema that differs from record to record must not fill the memory.
        if self.0.len() > 10_000 {
            self.0.clear();
        }
        let columns = Arc::new(columns_of(text)?);
        self.0.insert(id, Arc::clone(&columns));
        Ok(columns)
    }
}

#[derive(Deserialize)]
struct Field {
    #[serde(rename = "type")]
    ty: String,
    field: Option<String>,
    name: Option<String>,
    #[serde(default)]
    parameters: HashMap<String, String>,
    #[serde(default)]
    fields: Vec<Field>,
}

fn columns_of(schema: &str) -> Result<Columns, String> {
    let schema: Field = parse(schema.as_bytes(), "a schema of Kafka Connect")?;
    let row = schema.fields.into_iter().find(|field| field.field.as_deref() == Some("after"));
    let row = row.ok_or("its schema has no field 'after': is it a change event of Debezium?")?;
    row.fields
        .into_iter()
        .map(|column| {
            let name = column.field.clone().ok_or("its schema has a column without a name")?;
            let ty = type_of(&column).map_err(|reason| format!("column {name}: {reason}"))?;
            Ok((name, ty))
        })
        .collect()
}

fn type_of(column: &Field) -> Result<(ColumnType, Encoding), String> {
    let integer = |bytes| ColumnType::Integer { bytes, unsigned: false };
    let parameter = |name: &str| column.parameters.get(name).and_then(|text| text.parse::<u8>().ok());
    Ok(match (column.name.as_deref(), column.ty.as_str()) {
        (Some("io.debezium.time.Date" | "org.apache.kafka.connect.data.Date"), _) => (ColumnType::Date, Encoding::Days),
        (Some("io.debezium.time.Timestamp" | "org.apache.kafka.connect.data.Timestamp"), _) => {
            (ColumnType::DateTime(3), Encoding::Since1970(1_000))
        }
        (Some("io.debezium.time.MicroTimestamp"), _) => (ColumnType::DateTime(6), Encoding::Since1970(1_000_000)),
        (Some("io.debezium.time.NanoTimestamp"), _) => (ColumnType::DateTime(6), Encoding::Since1970(1_000_000_000)),
        (Some("io.debezium.time.ZonedTimestamp"), _) => (ColumnType::Timestamp(6), Encoding::Plain),
        (Some("io.debezium.time.Time" | "org.apache.kafka.connect.data.Time"), _) => {
            (ColumnType::Time(3), Encoding::Duration(1_000))
        }
        (Some("io.debezium.time.MicroTime"), _) => (ColumnType::Time(6), Encoding::Duration(1_000_000)),
        (Some("io.debezium.time.Year"), _) => (ColumnType::Year, Encoding::Plain),
        (Some("org.apache.kafka.connect.data.Decimal"), _) => {
            let scale = parameter("scale").ok_or("its schema is a decimal without a scale")?;
            let precision = parameter("connect.decimal.precision").unwrap_or(0);
            (ColumnType::Decimal { precision, scale }, Encoding::Unscaled(scale))
        }
        (Some("io.debezium.data.Json"), _) => (ColumnType::Json, Encoding::JsonText),
        (Some("io.debezium.data.Enum"), _) => (ColumnType::Enum, Encoding::Plain),
        (Some("io.debezium.data.EnumSet"), _) => (ColumnType::Set, Encoding::Plain),
        (Some("io.debezium.data.Bits"), _) => (ColumnType::Bit(parameter("length").unwrap_or(64)), Encoding::Bits),
        (_, "int8" | "boolean") => (integer(1), Encoding::Plain),
        (_, "int16") => (integer(2), Encoding::Plain),
        (_, "int32") => (integer(4), Encoding::Plain),
        (_, "int64") => (integer(8), Encoding::Plain),
        (_, "float" | "float32") => (ColumnType::Float, Encoding::Plain),
        (_, "double" | "float64") => (ColumnType::Double, Encoding::Plain),
        (_, "string") => (ColumnType::Text, Encoding::Plain),
        (_, "bytes") => (ColumnType::Blob, Encoding::Plain),
        (_, "struct") => (ColumnType::Json, Encoding::Plain),
        (_, other) => return Err(format!("its type is '{other}', which tidegate does not know")),
    })
}

pub(super) fn read<'a>(
    record: &ForeignRecord<'a>,
    tables: &TableFilter,
    schemas: &mut Schemas,
) -> Result<Read<'a>, String> {
    const WHAT: &str = "a change event of Debezium";
    let wrapped: Wrapped = parse(record.value, WHAT)?;
    let value = wrapped.payload.map_or(record.value, |payload| payload.get().as_bytes());
    if value == b"null" {
        return Ok(Read::nothing(None));
    }
    let payload: Payload = parse(value, WHAT)?;
    let time = payload.source.as_ref().and_then(|source| source.ts_ms).filter(|ms| *ms > 0).or(payload.ts_ms);
    let names = payload.source.as_ref().map(|source| (&*source.db, source.table.as_deref().unwrap_or_default()));
    if names.is_some_and(|(database, table)| !tables.wants(database, table)) {
        return Ok(Read::nothing(time));
    }
    Ok(Read { time, events: events(payload, wrapped.schema, time, record.key, schemas) })
}

fn events<'a>(
    payload: Payload<'a>,
    schema: Option<&'a RawValue>,
    time: Option<u64>,
    key: Option<&[u8]>,
    schemas: &mut Schemas,
) -> Result<Vec<Event<'a>>, String> {
    let columns = schema.map(|schema| schemas.of(schema.get())).transpose()?.unwrap_or_default();
    let Some(op) = payload.op else {
        return Err(
            "it has no op: transforms such as ExtractNewRecordState throw away what was done; leave them out".into()
        );
    };
    let source = payload.source.ok_or("it has no source: which table is it of?")?;
    let table = source.table.unwrap_or_default();
    let op = match &*op {
        "c" | "r" => Op::Insert,
        "u" => Op::Update,
        "d" => Op::Delete,
        "t" => return Err(not_rows("TRUNCATE", &source.db, &table)),
        "m" => return Ok(Vec::new()),
        other => return Err(format!("its op is '{other}', which Debezium does not have")),
    };
    let (row, before) = match op {
        Op::Delete => (payload.before.ok_or("it is a delete without the row before")?, None),
        _ => (payload.after.ok_or("it has no row after")?, payload.before.filter(|_| op == Op::Update)),
    };
    let key = key_columns(key)?;
    if key.is_empty() {
        return Err(format!(
            "table {}.{table}: the record's key names no column: without a key no row can be found again (see message.key.columns of Debezium)",
            source.db
        ));
    }
    Ok(vec![Event {
        op,
        time: time.ok_or("it has no ts_ms: when was it?")?,
        database: source.db,
        table,
        key,
        types: columns.iter().map(|(name, (ty, _))| (name.clone(), *ty)).collect(),
        row: decoded(row, &columns)?,
        before: before.map(|before| decoded(before, &columns)).transpose()?,
    }])
}

/// From `{"id":1}`, with or without a schema around it.
fn key_columns(key: Option<&[u8]>) -> Result<Vec<String>, String> {
    let Some(key) = key else { return Ok(Vec::new()) };
    let wrapped: Wrapped = parse(key, "a key of Debezium as JSON")?;
    let columns: LooseRow = match wrapped.payload {
        Some(payload) if wrapped.schema.is_some() => parse(payload.get().as_bytes(), "a key of Debezium as JSON")?,
        _ => parse(key, "a key of Debezium as JSON")?,
    };
    Ok(columns.0.into_iter().map(|(name, _)| name).collect())
}

fn decoded<'a>(row: LooseRow<'a>, columns: &Columns) -> Result<LooseRow<'a>, String> {
    let column = |(name, value): (String, Cow<'a, str>)| {
        let value = match columns.get(&name) {
            Some((_, encoding)) if value != "null" => {
                decode(*encoding, value).map_err(|reason| format!("column {name}: {reason}"))?
            }
            _ => value,
        };
        Ok((name, value))
    };
    Ok(LooseRow(row.0.into_iter().map(column).collect::<Result<_, String>>()?))
}

/// From Debezium's encoding to the project's own form.
fn decode(encoding: Encoding, value: Cow<str>) -> Result<Cow<str>, String> {
    let number = || value.parse::<i64>().map_err(|_| format!("{value} is no number"));
    let bytes = || {
        let text: Cow<str> = serde_json::from_str(&value).map_err(|_| format!("{value} is no text of bytes"))?;
        BASE64.decode(text.as_bytes()).map_err(|_| format!("{value} is no base64"))
    };
    let mut out = Vec::new();
    match encoding {
        Encoding::Plain => return Ok(value),
        Encoding::Days => write_date(&mut out, &civil(number()?.saturating_mul(86_400), 0)),
        Encoding::Since1970(parts) => {
            let (seconds, micros) = split(number()?, parts);
            let digits = if parts == 1_000 { 3 } else { 6 };
            write_datetime(&mut out, &civil(seconds, micros), digits);
        }
        Encoding::Duration(parts) => {
            let length = number()?;
            let (seconds, micros) = split(length.saturating_abs(), parts);
            let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            if hour > 838 {
                return Err(format!("{value} is longer than a TIME of MySQL can be"));
            }
            let at =
                Civil { hour: hour as u32, minute: minute as u32, second: second as u32, micros, ..Civil::default() };
            write_time(&mut out, length < 0, &at, if parts == 1_000 { 3 } else { 6 });
        }
        Encoding::Unscaled(scale) => return unscaled(&bytes()?, scale).map(Cow::Owned),
        Encoding::Bits => {
            let bytes = bytes()?;
            if bytes.iter().skip(8).any(|byte| *byte != 0) {
                return Err(format!("{value} is more than 64 bits"));
            }
            let bits = bytes.iter().take(8).rev().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
            return Ok(bits.to_string().into());
        }
        Encoding::JsonText => {
            let document: String = serde_json::from_str(&value).map_err(|_| format!("{value} is no text of JSON"))?;
            serde_json::from_str::<serde::de::IgnoredAny>(&document).map_err(|e| format!("this is no JSON: {e}"))?;
            return Ok(document.into());
        }
    }
    Ok(String::from_utf8(out).expect("digits are ASCII").into())
}

/// Whole seconds and microseconds of a number of parts of a second.
fn split(number: i64, parts: u64) -> (i64, u32) {
    let rest = number.rem_euclid(parts as i64) as u64;
    (number.div_euclid(parts as i64), (rest * 1_000_000 / parts) as u32)
}

/// Debezium has no zero dates: 0 is 1970.
fn civil(seconds: i64, micros: u32) -> Civil {
    match (seconds, micros) {
        (0, 0) => Civil { year: 1970, month: 1, day: 1, ..Civil::default() },
        _ => civil_from_unix(seconds, micros),
    }
}

/// A decimal from its unscaled two's complement, big-endian.
fn unscaled(bytes: &[u8], scale: u8) -> Result<String, String> {
    if bytes.is_empty() || bytes.len() > 16 {
        return Err("a decimal of more than 38 digits: set decimal.handling.mode=string in Debezium".into());
    }
    let sign = if bytes[0] & 0x80 != 0 { -1i128 } else { 0 };
    let number = bytes.iter().fold(sign, |number, byte| number << 8 | i128::from(*byte));
    let digits = format!("{:0>1$}", number.unsigned_abs(), usize::from(scale) + 1);
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
    let minus = if number < 0 { "-" } else { "" };
    let point = if scale > 0 { "." } else { "" };
    Ok(format!("\"{minus}{whole}{point}{fraction}\""))
}
