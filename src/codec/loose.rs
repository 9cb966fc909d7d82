//! Rows as others write them: JSON objects whose columns' types are stated beside them or have to be guessed.
//!
//! A column without a stated type is what its value looks like: whole numbers are BIGINT (above 64 signed bits: BIGINT
//! UNSIGNED), others DOUBLE, strings TEXT, true and false TINYINT, objects and arrays JSON, and null nothing yet, which is
//! TEXT until something is seen. A value that its stated type can't have is an error.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::row::{
    RowWriter, column_prefix, write_f32, write_f64, write_integer, write_null, write_text, write_unsigned,
};
use crate::change::{Column, ColumnType, Form};

/// A JSON object in the order of its text: names, and values as JSON text.
#[derive(Clone, Debug, Default)]
pub struct LooseRow<'a>(pub Vec<(String, Cow<'a, str>)>);

impl<'a> LooseRow<'a> {
    /// The value of a column, as JSON text.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == column).map(|(_, value)| value.as_ref())
    }

    /// This row with the values of `other` where it has some.
    pub fn overlaid(&self, other: &LooseRow<'a>) -> LooseRow<'a> {
        let value = |(name, value): &(String, Cow<'a, str>)| {
            let old = other.0.iter().find(|(other, _)| other == name).map(|(_, old)| old.clone());
            (name.clone(), old.unwrap_or_else(|| value.clone()))
        };
        LooseRow(self.0.iter().map(value).collect())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for LooseRow<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> serde::de::Visitor<'de> for InOrder {
            type Value = LooseRow<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of column name to value")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<LooseRow<'de>, A::Error> {
                let mut columns = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    columns.push((name, Cow::Borrowed(value.get())));
                }
                Ok(LooseRow(columns))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// A row and its key in the project's own form.
#[derive(Debug, Default)]
pub struct LooseImage {
    row: RowWriter,
    key: Vec<u8>,
}

impl LooseImage {
    /// Writes a row and its key, and says in `columns` what its columns are. `stated` gives the types that are known,
    /// `guessed` keeps the ones that are not. The reason of an error follows the table's name.
    ///
    /// # Errors
    /// A value that its type can't have; a key column that is missing or null.
    pub fn read(
        &mut self,
        row: &LooseRow,
        key: &[String],
        stated: impl Fn(&str) -> Option<ColumnType>,
        guessed: &mut HashMap<String, ColumnType>,
        columns: &mut Vec<Column>,
    ) -> Result<(), String> {
        self.row.begin();
        for (name, value) in &row.0 {
            let in_column = |reason: String| format!(", column {name}: {reason}");
            let out = self.row.column(&column_prefix(name));
            let ty = match stated(name) {
                Some(ty) => {
                    write_as(ty, value, out).map_err(in_column)?;
                    ty
                }
                None => {
                    let known = guessed.get(name).copied();
                    let ty = guess(value, known).unwrap_or(ColumnType::Text);
                    if value != "null" {
                        write_as(ty, value, out).map_err(in_column)?;
                        guessed.insert(name.clone(), ty);
                    } else {
                        write_null(out);
                    }
                    ty
                }
            };
            columns.push(Column { name: name.clone(), ty, nullable: !key.contains(name) });
        }
        self.row.finish();
        let place = |key: &String| {
            let found = row.0.iter().position(|(name, _)| name == key);
            found.ok_or_else(|| format!(": its key has the column {key}, which is not in the row"))
        };
        let key = key.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        self.key.clear();
        self.row
            .key_text(&key, &mut self.key)
            .map_err(|null| format!(", column {}: it is in the key and null", row.0[null].0))
    }

    /// The row as one JSON object.
    pub fn json(&self) -> &[u8] {
        self.row.json()
    }

    /// The key's text.
    pub fn key(&self) -> &[u8] {
        &self.key
    }
}

/// The type that a value looks like, given what was guessed of its column before; `None`: no value yet.
fn guess(value: &str, known: Option<ColumnType>) -> Option<ColumnType> {
    let bigint = |unsigned| ColumnType::Integer { bytes: 8, unsigned };
    let looks = match value.as_bytes()[0] {
        b'n' => return known,
        b'"' => ColumnType::Text,
        b't' | b'f' => ColumnType::Integer { bytes: 1, unsigned: false },
        b'{' | b'[' => ColumnType::Json,
        _ if !is_whole(value) => ColumnType::Double,
        _ => bigint(value.parse::<i64>().is_err()),
    };
    Some(match (known, looks) {
        (Some(ColumnType::Double), ColumnType::Integer { bytes: 8, .. }) => ColumnType::Double,
        (Some(ColumnType::Json), _) => ColumnType::Json,
        (Some(ColumnType::Integer { unsigned: true, .. }), ColumnType::Integer { .. }) => bigint(true),
        (Some(ColumnType::Integer { bytes: 8, .. }), ColumnType::Integer { bytes: 1, .. }) => bigint(false),
        _ => looks,
    })
}

fn is_whole(number: &str) -> bool {
    !number.contains(['.', 'e', 'E'])
}

/// Appends the JSON text `value` in the form of `ty`.
fn write_as(ty: ColumnType, value: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let wrong = || Err(format!("its type is {ty}, and {value} is no value of it"));
    let first = value.as_bytes()[0];
    match ty.form() {
        _ if first == b'n' => write_null(out),
        Form::Json => out.extend_from_slice(value.as_bytes()),
        Form::Integer => match (value, value.parse::<i64>(), value.parse::<u64>()) {
            ("true" | "false", ..) => write_integer(out, i64::from(value == "true")),
            (_, Ok(value), _) => write_integer(out, value),
            (_, _, Ok(value)) => write_unsigned(out, value),
            _ => return wrong(),
        },
        Form::Float => match value.parse::<f32>() {
            Ok(number) if number.is_finite() => write_f32(out, number),
            _ => return wrong(),
        },
        Form::Double => match value.parse::<f64>() {
            Ok(number) if number.is_finite() => write_f64(out, number),
            _ => return wrong(),
        },
        Form::Text | Form::Decimal if first == b'-' || first.is_ascii_digit() => write_text(out, value),
        _ if first != b'"' => return wrong(),
        _ => {
            let text: Cow<str> = serde_json::from_str(value).map_err(|error| error.to_string())?;
            write_text(out, &text);
        }
    }
    Ok(())
}
