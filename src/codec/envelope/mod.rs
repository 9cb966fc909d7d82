//! Envelopes of others: what Canal, Debezium and Maxwell write to Kafka, and a row beside headers.
//!
//! Each kind of envelope is read into the same events: what was done to which table, when, the row as loose JSON, and as
//! much about key and types as the envelope says. The [`ForeignDecoder`] makes changes of them, in the project's own form.
//! Such topics carry no sequence: a change's seq is its event time, and inside one time the order of the partition decides.

mod canal;
mod debezium;
mod maxwell;

use std::borrow::Cow;
use std::collections::HashMap;

use super::loose::{LooseImage, LooseRow};
use crate::change::{Changes, ColumnType, NewChange, Op, TableFilter, TableName, TableSchema};
use crate::config::EnvelopeKind;

/// One row event of an envelope.
#[derive(Debug)]
struct Event<'a> {
    op: Op,
    /// Commit time in ms.
    time: u64,
    database: Cow<'a, str>,
    table: Cow<'a, str>,
    /// Key columns; none: the record's key is the key's text.
    key: Vec<String>,
    types: HashMap<String, ColumnType>,
    row: LooseRow<'a>,
    /// The row before an update, as far as the envelope says.
    before: Option<LooseRow<'a>>,
}

/// What an envelope holds: its time in ms, which it says whatever becomes of the rest, and its events; of a table that is not
/// wanted none.
struct Read<'a> {
    time: Option<u64>,
    events: Result<Vec<Event<'a>>, String>,
}

impl Read<'_> {
    /// Of what has no events.
    fn nothing(time: Option<u64>) -> Self {
        Read { time, events: Ok(Vec::new()) }
    }
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Its time in ms, if it says one: the same whichever tables are wanted.
    pub time: Option<u64>,
    /// Whether its changes were appended, as far as it has any that are wanted; else what is wrong with it.
    pub changes: Result<(), String>,
}

/// A record of a foreign topic.
#[derive(Clone, Copy)]
pub struct ForeignRecord<'a> {
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: &'a [u8],
    /// Its header of that name.
    pub header: &'a dyn Fn(&str) -> Option<&'a [u8]>,
}

/// Turns records of one kind of envelope into changes.
pub struct ForeignDecoder {
    kind: EnvelopeKind,
    tables: TableFilter,
    schemas: debezium::Schemas,
    guessed: HashMap<TableName, HashMap<String, ColumnType>>,
    announced: HashMap<TableName, TableSchema>,
    after: LooseImage,
    before: LooseImage,
}

impl ForeignDecoder {
    /// A decoder of that kind of envelope, for the tables that are wanted.
    pub fn new(kind: EnvelopeKind, tables: TableFilter) -> Self {
        ForeignDecoder {
            kind,
            tables,
            schemas: debezium::Schemas::default(),
            guessed: HashMap::new(),
            announced: HashMap::new(),
            after: LooseImage::default(),
            before: LooseImage::default(),
        }
    }

    /// Appends the changes of a record to `out`, or nothing if something is wrong with it; their seq is their time. A table's
    /// schema that is new goes to `announce` where the envelope says what the key is. Of a table that is not wanted nothing but
    /// the time is asked: it may have no key, types that nobody knows, and be truncated.
    pub fn decode(
        &mut self,
        record: &ForeignRecord,
        out: &mut Changes,
        mut announce: impl FnMut(TableSchema),
    ) -> Decoded {
        let tables = &self.tables;
        let read = match self.kind {
            EnvelopeKind::Tidegate => unreachable!("tidegate's own topics have a reader of their own"),
            EnvelopeKind::BinlogHeaders => headers_event(record, tables),
            EnvelopeKind::CanalJson => canal::read(record, tables),
            EnvelopeKind::DebeziumJson => debezium::read(record, tables, &mut self.schemas),
            EnvelopeKind::MaxwellJson => maxwell::read(record, tables),
        };
        let Read { time, events } = match read {
            Ok(read) => read,
            Err(reason) => return Decoded { time: None, changes: Err(reason) },
        };
        let changes = events.and_then(|events| self.push_all(&events, record.key, out, &mut announce));
        Decoded { time, changes }
    }

    fn push_all(
        &mut self,
        events: &[Event],
        record_key: Option<&[u8]>,
        out: &mut Changes,
        announce: &mut impl FnMut(TableSchema),
    ) -> Result<(), String> {
        let had = out.len();
        for event in events {
            if let Err(reason) = self.push(event, record_key, out, announce) {
                while out.len() > had {
                    out.pop();
                }
                return Err(format!("table {}.{}{reason}", event.database, event.table));
            }
        }
        Ok(())
    }

    fn push(
        &mut self,
        event: &Event,
        record_key: Option<&[u8]>,
        out: &mut Changes,
        announce: &mut impl FnMut(TableSchema),
    ) -> Result<(), String> {
        let name = TableName::new(&*event.database, &*event.table);
        let guessed = self.guessed.entry(name.clone()).or_default();
        let stated = |column: &str| event.types.get(column).copied();
        let mut columns = Vec::new();
        self.after.read(&event.row, &event.key, stated, guessed, &mut columns)?;
        let mut moved = false;
        if let Some(before) = event.before.as_ref().filter(|_| !event.key.is_empty()) {
            self.before.read(before, &event.key, stated, guessed, &mut Vec::new())?;
            moved = self.before.key() != self.after.key();
        }
        let schema = TableSchema { name, columns, key: event.key.clone(), since_seq: event.time, partial: true };
        let known = self.announced.get(&schema.name).is_some_and(|known| known.same_shape(&schema));
        // A delete may carry the key's columns alone.
        if !known && !schema.key.is_empty() && event.op != Op::Delete {
            announce(schema.clone());
            self.announced.insert(schema.name.clone(), schema);
        }
        let mut push = |op, key: &[u8], row: &[u8]| {
            out.push_change(&NewChange {
                op,
                seq: event.time,
                time: event.time,
                database: &event.database,
                table: &event.table,
                key,
                position: b"",
                before: b"",
                row,
            });
        };
        if moved {
            push(Op::Delete, self.before.key(), self.before.json());
            push(Op::Insert, self.after.key(), self.after.json());
        } else if event.key.is_empty() {
            push(event.op, record_key.unwrap_or_default(), self.after.json());
        } else {
            push(event.op, self.after.key(), self.after.json());
        }
        Ok(())
    }
}

/// A row beside headers that say what was done: `binlog.type`, `binlog.database`, `binlog.table`, `timestamp` (ms).
fn headers_event<'a>(record: &ForeignRecord<'a>, tables: &TableFilter) -> Result<Read<'a>, String> {
    let header = |name: &str| {
        let bytes = (record.header)(name).ok_or_else(|| format!("the header '{name}' is missing"))?;
        std::str::from_utf8(bytes).map_err(|_| format!("the header '{name}' is no text"))
    };
    let (database, table) = (header("binlog.database")?, header("binlog.table")?);
    let time = header("timestamp");
    let stated = time.as_ref().ok().and_then(|time| time.parse().ok());
    if !tables.wants(database, table) {
        return Ok(Read::nothing(stated));
    }
    let event = || {
        let (op, time) = (header("binlog.type")?, time?);
        Ok(vec![Event {
            op: Op::from_name(&op.to_ascii_lowercase()).ok_or_else(|| {
                format!("the header 'binlog.type' is '{op}', which is none of insert, update and delete")
            })?,
            time: stated.ok_or_else(|| format!("the header 'timestamp' is '{time}', which is no time in ms"))?,
            database: database.into(),
            table: table.into(),
            key: Vec::new(),
            types: HashMap::new(),
            row: parse(record.value, "a row as a JSON object")?,
            before: None,
        }])
    };
    Ok(Read { time: stated, events: event() })
}

/// Reads JSON, or says that it is not what it should be.
fn parse<'a, T: serde::Deserialize<'a>>(text: &'a [u8], what: &str) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| format!("this is not {what}: {error}"))
}

/// What can't be applied as rows, in words that say what to do.
fn not_rows(what: &str, database: &str, table: &str) -> String {
    format!(
        "{what} of {database}.{table} is in the topic: it is not logged as rows and can't be applied: do the same to the target by hand, and let the record go to the [land] dead_letter"
    )
}

#[cfg(test)]
mod tests;
