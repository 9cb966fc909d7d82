//! Writes a DTS record as one Avro datum, field by field in the schema's order.

use super::{DateTime, Operation, Value};

/// A record to be written. Source and version are MySQL's.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// Not unique, as with DTS.
    pub id: i64,
    /// Seconds since 1970.
    pub source_timestamp: i64,
    /// `offset@file`.
    pub source_position: &'a str,
    /// The source's name of the transaction; `0` where it has none.
    pub source_txid: &'a str,
    /// What was done.
    pub operation: Operation,
    /// `database.table`, dots inside names written `\u002E`.
    pub object_name: Option<&'a str>,
    /// Anything else, such as `pk_uk_info`.
    pub tags: &'a [(&'a str, &'a str)],
    /// Name and MySQL type number of each column.
    pub fields: Option<&'a [(&'a str, i32)]>,
    /// The row before.
    pub before: Images<'a>,
    /// The row after, or the statement of a DDL.
    pub after: Images<'a>,
    /// The last field, which older writers leave away altogether.
    pub born_timestamp: Option<i64>,
}

impl NewRecord<'_> {
    /// A record of `operation` with everything else empty.
    pub fn new(operation: Operation, source_timestamp: i64) -> Self {
        NewRecord {
            id: 0,
            source_timestamp,
            source_position: "",
            source_txid: "0",
            operation,
            object_name: None,
            tags: &[],
            fields: None,
            before: Images::Absent,
            after: Images::Absent,
            born_timestamp: Some(source_timestamp * 1000),
        }
    }
}

/// An image of a row.
#[derive(Clone, Copy, Debug)]
pub enum Images<'a> {
    /// There is none.
    Absent,
    /// A text in its place: a DDL statement.
    Text(&'a str),
    /// The values, in the order of the fields.
    Row(&'a [Value<'a>]),
}

/// Appends `record` to `out` as an Avro datum.
///
/// ```
/// use tidegate::codec::dts::{Front, NewRecord, Operation, encode};
/// let mut datum = Vec::new();
/// encode(&NewRecord { object_name: Some("shop.orders"), ..NewRecord::new(Operation::Insert, 7) }, &mut datum);
/// let front = Front::read(&datum).unwrap();
/// assert_eq!((front.source_timestamp, front.object_name), (7, Some("shop.orders")));
/// ```
pub fn encode(record: &NewRecord, out: &mut Vec<u8>) {
    long(out, 0); // version
    long(out, record.id);
    long(out, record.source_timestamp);
    text(out, record.source_position);
    text(out, record.source_position); // safeSourcePosition
    text(out, record.source_txid);
    long(out, 0); // source: MySQL
    text(out, "8.0.28");
    long(out, record.operation as i64);
    match record.object_name {
        None => long(out, 0),
        Some(name) => {
            long(out, 1);
            text(out, name);
        }
    }
    long(out, 0); // processTimestamps
    array(out, record.tags, |out, (name, value)| {
        text(out, name);
        text(out, value);
    });
    match record.fields {
        None => long(out, 0),
        Some(fields) => {
            long(out, 2);
            array(out, fields, |out, (name, number)| {
                text(out, name);
                int(out, *number);
            });
        }
    }
    images(out, &record.before);
    images(out, &record.after);
    if let Some(born) = record.born_timestamp {
        long(out, born);
    }
}

fn images(out: &mut Vec<u8>, images: &Images) {
    match images {
        Images::Absent => long(out, 0),
        Images::Text(statement) => {
            long(out, 1);
            text(out, statement);
        }
        Images::Row(values) => {
            long(out, 2);
            array(out, values, value);
        }
    }
}

fn value(out: &mut Vec<u8>, value: &Value) {
    match *value {
        Value::Null => long(out, 0),
        Value::Integer { precision, value } => {
            long(out, 1);
            int(out, precision);
            text(out, value);
        }
        Value::Character { charset, value } => {
            long(out, 2);
            text(out, charset);
            bytes(out, value);
        }
        Value::Decimal { value, precision, scale } => {
            long(out, 3);
            text(out, value);
            int(out, precision);
            int(out, scale);
        }
        Value::Float { value, precision, scale } => {
            long(out, 4);
            out.extend_from_slice(&value.to_le_bytes());
            int(out, precision);
            int(out, scale);
        }
        Value::Timestamp { seconds, micros } => {
            long(out, 5);
            long(out, seconds);
            int(out, micros);
        }
        Value::DateTime(at) => {
            long(out, 6);
            date_time(out, &at);
        }
        Value::TimestampWithTimeZone { value, timezone } => {
            long(out, 7);
            date_time(out, &value);
            text(out, timezone);
        }
        Value::BinaryGeometry { kind, value } => branch(out, 8, kind, value),
        Value::TextGeometry { kind, value } => branch(out, 9, kind, value.as_bytes()),
        Value::BinaryObject { kind, value } => branch(out, 10, kind, value),
        Value::TextObject { kind, value } => branch(out, 11, kind, value.as_bytes()),
        Value::Empty { none } => {
            long(out, 12);
            long(out, i64::from(none));
        }
    }
}

fn branch(out: &mut Vec<u8>, number: i64, kind: &str, value: &[u8]) {
    long(out, number);
    text(out, kind);
    bytes(out, value);
}

fn date_time(out: &mut Vec<u8>, at: &DateTime) {
    for part in [at.year, at.month, at.day, at.hour, at.minute, at.second, at.micros] {
        match part {
            None => long(out, 0),
            Some(part) => {
                long(out, 1);
                int(out, part);
            }
        }
    }
}

fn array<T>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    if !items.is_empty() {
        long(out, items.len() as i64);
        for item in items {
            write(out, item);
        }
    }
    long(out, 0);
}

fn int(out: &mut Vec<u8>, value: i32) {
    long(out, i64::from(value));
}

#[inline]
fn long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn text(out: &mut Vec<u8>, text: &str) {
    bytes(out, text.as_bytes());
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    long(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}
