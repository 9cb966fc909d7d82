//! Maxwell's JSON: one row a message, values as JSON, no types; the key's columns in the record's key.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;

use super::{Event, ForeignRecord, LooseRow, Read, not_rows, parse};
use crate::change::{Op, TableFilter};

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    database: Cow<'a, str>,
    #[serde(borrow, default)]
    table: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    /// Seconds.
    ts: Option<u64>,
    primary_key_columns: Option<Vec<String>>,
    #[serde(borrow)]
    data: Option<LooseRow<'a>>,
    #[serde(borrow)]
    old: Option<LooseRow<'a>>,
}

pub(super) fn read<'a>(record: &ForeignRecord<'a>, tables: &TableFilter) -> Result<Read<'a>, String> {
    let message: Message = parse(record.value, "a message of Maxwell")?;
    let time = message.ts.map(|seconds| seconds.saturating_mul(1000));
    if !tables.wants(&message.database, &message.table) {
        return Ok(Read::nothing(time));
    }
    Ok(Read { time, events: events(message, time, record.key) })
}

fn events<'a>(message: Message<'a>, time: Option<u64>, key: Option<&[u8]>) -> Result<Vec<Event<'a>>, String> {
    let op = match &*message.kind {
        "insert" | "bootstrap-insert" => Op::Insert,
        "update" => Op::Update,
        "delete" => Op::Delete,
        "table-drop" => return Err(not_rows("DROP TABLE", &message.database, &message.table)),
        kind if kind.starts_with("bootstrap-") || kind.starts_with("table-") || kind.starts_with("database-") => {
            return Ok(Vec::new());
        }
        other => return Err(format!("its type is '{other}', which Maxwell's messages don't have")),
    };
    let row = message.data.ok_or("it has no data")?;
    let key = match message.primary_key_columns {
        Some(columns) => columns,
        None => key_columns(key)?,
    };
    if key.is_empty() {
        return Err(format!(
            "table {}.{}: neither the record's key nor primary_key_columns names a key: without one no row can be found again",
            message.database, message.table
        ));
    }
    let before = message.old.filter(|_| op == Op::Update).map(|old| row.overlaid(&old));
    Ok(vec![Event {
        op,
        time: time.ok_or("it has no ts: when was it?")?,
        database: message.database,
        table: message.table,
        key,
        types: HashMap::new(),
        row,
        before,
    }])
}

/// From `{"database":"d","table":"t","pk.id":1}` or `["d","t",[{"id":1}]]`.
fn key_columns(key: Option<&[u8]>) -> Result<Vec<String>, String> {
    let Some(key) = key else { return Ok(Vec::new()) };
    if key.starts_with(b"[") {
        let (_, _, columns): (String, String, Vec<HashMap<String, serde::de::IgnoredAny>>) =
            parse(key, "a key of Maxwell")?;
        return Ok(columns.into_iter().flatten().map(|(name, _)| name).collect());
    }
    let columns: LooseRow = parse(key, "a key of Maxwell")?;
    Ok(columns.0.iter().filter_map(|(name, _)| name.strip_prefix("pk.")).map(String::from).collect())
}
