//! Canal's flat messages: all rows of one statement on a table, every value as text, MySQL's types beside them.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;

use super::{Event, ForeignRecord, LooseRow, Read, not_rows, parse};
use crate::change::{ColumnType, Form, Op, TableFilter};
use crate::codec::row::write_bytes;

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    database: Cow<'a, str>,
    #[serde(borrow, default)]
    table: Cow<'a, str>,
    /// All have it, and what others write has not: else no table of theirs would be wanted, and nothing said.
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(rename = "isDdl", default)]
    is_ddl: bool,
    es: Option<u64>,
    ts: Option<u64>,
    #[serde(rename = "pkNames")]
    keys: Option<Vec<String>>,
    #[serde(rename = "mysqlType")]
    types: Option<HashMap<String, String>>,
    #[serde(borrow)]
    data: Option<Vec<LooseRow<'a>>>,
    #[serde(borrow)]
    old: Option<Vec<Option<LooseRow<'a>>>>,
}

pub(super) fn read<'a>(record: &ForeignRecord<'a>, tables: &TableFilter) -> Result<Read<'a>, String> {
    let message: Message = parse(record.value, "a flat message of Canal")?;
    let time = message.es.or(message.ts);
    if !tables.wants(&message.database, &message.table) {
        return Ok(Read::nothing(time));
    }
    Ok(Read { time, events: events(message, time) })
}

fn events(message: Message<'_>, time: Option<u64>) -> Result<Vec<Event<'_>>, String> {
    let op = match &*message.kind {
        "INSERT" => Op::Insert,
        "UPDATE" => Op::Update,
        "DELETE" => Op::Delete,
        "TRUNCATE" | "ERASE" => return Err(not_rows(&message.kind, &message.database, &message.table)),
        _ if message.is_ddl
            || matches!(&*message.kind, "QUERY" | "CREATE" | "ALTER" | "CINDEX" | "DINDEX" | "RENAME") =>
        {
            return Ok(Vec::new());
        }
        other => return Err(format!("its type is '{other}', which Canal's flat messages don't have")),
    };
    let time = time.ok_or("it has neither es nor ts: when was it?")?;
    let types: HashMap<String, ColumnType> = message
        .types
        .unwrap_or_default()
        .into_iter()
        .map(|(name, ty)| ty.parse().map(|ty| (name, ty)).map_err(|e: crate::change::TypeError| e.to_string()))
        .collect::<Result<_, _>>()?;
    let keys = message.keys.unwrap_or_default();
    if keys.is_empty() {
        return Err(format!(
            "table {}.{}: no pkNames: without a key no row can be found again",
            message.database, message.table
        ));
    }
    let mut old = message.old.unwrap_or_default().into_iter();
    let mut events = Vec::new();
    for row in message.data.ok_or("it has no data")? {
        let old = old.next().flatten();
        let row = converted(row, &types)?;
        let before = match old.filter(|_| op == Op::Update) {
            Some(old) => Some(row.overlaid(&converted(old, &types)?)),
            None => None,
        };
        events.push(Event {
            op,
            time,
            database: message.database.clone(),
            table: message.table.clone(),
            key: keys.clone(),
            types: types.clone(),
            row,
            before,
        });
    }
    Ok(events)
}

fn converted<'a>(row: LooseRow<'a>, types: &HashMap<String, ColumnType>) -> Result<LooseRow<'a>, String> {
    let column = |(name, value): (String, Cow<'a, str>)| {
        let value = match types.get(&name) {
            Some(ty) => convert(ty.form(), value).map_err(|reason| format!("column {name}: {reason}"))?,
            None => value,
        };
        Ok((name, value))
    };
    Ok(LooseRow(row.0.into_iter().map(column).collect::<Result<_, String>>()?))
}

/// From Canal's text to the project's own form.
fn convert(form: Form, value: Cow<str>) -> Result<Cow<str>, String> {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else { return Ok(value) };
    let text = || serde_json::from_str::<String>(&value).map_err(|e| e.to_string());
    Ok(match form {
        Form::Integer | Form::Float | Form::Double => inner.to_string().into(),
        // Canal prints a JSON column's document as a string.
        Form::Json => {
            let document = text()?;
            serde_json::from_str::<serde::de::IgnoredAny>(&document).map_err(|e| format!("this is no JSON: {e}"))?;
            document.into()
        }
        // Canal reads bytes as ISO-8859-1.
        Form::Bytes => {
            let bytes = text()?.chars().map(|c| u8::try_from(u32::from(c))).collect::<Result<Vec<u8>, _>>();
            let mut out = Vec::new();
            write_bytes(&mut out, &bytes.map_err(|_| "bytes that are no ISO-8859-1 text")?);
            String::from_utf8(out).expect("base64 is ASCII").into()
        }
        Form::Instant => format!("\"{}Z\"", inner.replacen(' ', "T", 1)).into(),
        Form::Decimal | Form::Text | Form::Date | Form::DateTime | Form::Time => value,
    })
}
