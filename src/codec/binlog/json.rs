//! MySQL's binary JSON to text: numbers keep their digits, objects the order in which MySQL keeps them. Text that MySQL
//! would print for values that JSON has not (dates, decimals, bytes) is printed as it does.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use mysql::binlog::jsonb::{OpaqueValue, Value};
use mysql::consts::ColumnType;

use mysql_common::io::ParseBuf;

use crate::codec::row::{write_f64, write_integer, write_null, write_text, write_unsigned};

use super::bytes::Bytes;
use super::value::{civil_from_packed, push_decimal};

/// Appends the text of the binary JSON document. The reason of an error follows the words "the value".
pub(super) fn write(document: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    // What a JSON column holds that was added to rows which were there.
    if document.is_empty() {
        write_null(out);
        return Ok(());
    }
    let value: Value = ParseBuf(document).parse(()).map_err(broken)?;
    push(&value, out)
}

fn broken(error: impl std::fmt::Display) -> String {
    format!("is no JSON as MySQL stores it: {error}")
}

fn push(value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
    match value {
        Value::Null => write_null(out),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::I16(n) => write_integer(out, (*n).into()),
        Value::I32(n) => write_integer(out, (*n).into()),
        Value::I64(n) => write_integer(out, *n),
        Value::U16(n) => write_unsigned(out, (*n).into()),
        Value::U32(n) => write_unsigned(out, (*n).into()),
        Value::U64(n) => write_unsigned(out, *n),
        Value::F64(n) => write_f64(out, *n),
        Value::String(s) => write_text(out, std::str::from_utf8(s.str_raw()).map_err(broken)?),
        Value::SmallArray(array) => push_array(array.iter(), out)?,
        Value::LargeArray(array) => push_array(array.iter(), out)?,
        Value::SmallObject(object) => {
            push_object(object.iter().map(|e| e.map(|(k, v)| (k.value_raw().to_vec(), v))), out)?;
        }
        Value::LargeObject(object) => {
            push_object(object.iter().map(|e| e.map(|(k, v)| (k.value_raw().to_vec(), v))), out)?;
        }
        Value::Opaque(opaque) => push_opaque(opaque, out)?,
    }
    Ok(())
}

fn push_array<'a>(elements: impl Iterator<Item = std::io::Result<Value<'a>>>, out: &mut Vec<u8>) -> Result<(), String> {
    out.push(b'[');
    for (index, element) in elements.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push(&element.map_err(broken)?, out)?;
    }
    out.push(b']');
    Ok(())
}

fn push_object<'a>(
    entries: impl Iterator<Item = std::io::Result<(Vec<u8>, Value<'a>)>>,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    out.push(b'{');
    for (index, entry) in entries.enumerate() {
        let (key, value) = entry.map_err(broken)?;
        if index > 0 {
            out.push(b',');
        }
        write_text(out, std::str::from_utf8(&key).map_err(broken)?);
        out.push(b':');
        push(&value, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// A value of a type that JSON has not.
fn push_opaque(opaque: &OpaqueValue, out: &mut Vec<u8>) -> Result<(), String> {
    let data = opaque.data_raw();
    let mut bytes = Bytes(data);
    let mut text = String::new();
    match opaque.value_type() {
        ColumnType::MYSQL_TYPE_NEWDECIMAL => {
            let (precision, scale) = (bytes.byte().map_err(broken)?, bytes.byte().map_err(broken)?);
            return push_decimal(&mut bytes, precision.into(), scale.into(), out).map_err(|refused| refused.reason);
        }
        ColumnType::MYSQL_TYPE_DATE | ColumnType::MYSQL_TYPE_DATETIME | ColumnType::MYSQL_TYPE_TIMESTAMP => {
            let packed = bytes.little(8).map_err(broken)?;
            let at =
                civil_from_packed((packed >> 41) as u32, (packed >> 24 & 0x1_ffff) as u32, packed as u32 & 0xff_ffff);
            let _ = write!(text, "{:04}-{:02}-{:02}", at.year, at.month, at.day); // a String takes everything
            if opaque.value_type() != ColumnType::MYSQL_TYPE_DATE {
                let _ = write!(text, " {:02}:{:02}:{:02}.{:06}", at.hour, at.minute, at.second, at.micros);
            }
        }
        ColumnType::MYSQL_TYPE_TIME => {
            let packed = bytes.little(8).map_err(broken)? as i64;
            let size = packed.unsigned_abs();
            let at = civil_from_packed(0, (size >> 24) as u32, size as u32 & 0xff_ffff);
            let sign = if packed < 0 { "-" } else { "" };
            let _ = write!(text, "{sign}{:02}:{:02}:{:02}.{:06}", at.hour, at.minute, at.second, at.micros);
        }
        other => {
            let _ = write!(text, "base64:type{}:{}", other as u8, BASE64.encode(data));
        }
    }
    write_text(out, &text);
    Ok(())
}
