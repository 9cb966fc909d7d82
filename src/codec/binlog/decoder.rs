//! Rows events to changes.
//!
//! An event of n bytes owns n numbers; row i takes number i, of an update's two images each its own, so that an update that
//! moves a row to another key has a number for the delete and one for the insert.

use std::collections::HashMap;
use std::io::Write;

use crate::change::{Changes, NewChange, Op};
use crate::codec::row::{RowWriter, write_null};
use crate::letter::{DeadLetter, text_of};
use crate::source::{Announced, Decoder, Raw, SourceError};

use super::bytes::{Bytes, Malformed, bit};
use super::event;
use super::table::Table;

/// How many table maps are kept ready; a server gives each table a new number now and then.
const TABLES_MAX: usize = 4096;

/// Decoder of rows events. The reader has left out the tables that are not wanted. A raw record's context is what
/// [`pack_context`](super::pack_context) packed, its body the event's type number and then the event's data.
pub struct BinlogDecoder {
    keep_before: bool,
    tables: HashMap<Box<[u8]>, Table>,
    announced: Announced,
    before: Image,
    after: Image,
    position: Vec<u8>,
}

#[derive(Default)]
struct Image {
    row: RowWriter,
    key: Vec<u8>,
    /// The value of a column that is not shown.
    hidden: Vec<u8>,
}

impl BinlogDecoder {
    /// A decoder. With `keep_before`, updates carry the row before.
    pub fn new(keep_before: bool) -> Self {
        BinlogDecoder {
            keep_before,
            tables: HashMap::new(),
            announced: Announced::default(),
            before: Image::default(),
            after: Image::default(),
            position: Vec::new(),
        }
    }

    /// The reason of an error is a whole sentence without the position. Rows that can't be used come back.
    fn decode_event(&mut self, raw: &Raw, out: &mut Changes) -> Result<Vec<DeadLetter>, String> {
        if let [event::UNUSABLE, reason @ ..] = raw.body {
            return Err(String::from_utf8_lossy(reason).into_owned());
        }
        if !self.tables.contains_key(raw.context) {
            if self.tables.len() == TABLES_MAX {
                self.tables.clear();
            }
            self.tables.insert(raw.context.into(), Table::read(raw.context)?);
        }
        let table = self.tables.get_mut(raw.context).expect("it was put there");
        let (op, mut rows) =
            Header::read(raw.body, table).map_err(|reason| format!("table {}{reason}", table.schema.name))?;
        if !table.announced {
            table.announced = true;
            table.schema.since_seq = raw.head.seq;
            self.announced.announce(&table.schema, raw.head.time, raw.position, out);
        }
        let mut seq = raw.head.seq;
        let mut number = 0u32;
        let mut unusable = Vec::new();
        while !rows.is_empty() {
            let at = |reason| format!("table {}, row {number} of the event{reason}", table.schema.name);
            let mut wrong = None;
            if matches!(op, Op::Update | Op::Delete) {
                wrong = self.before.read(&mut rows, table).map_err(at)?;
            }
            if op != Op::Delete {
                wrong = self.after.read(&mut rows, table).map_err(at)?.or(wrong);
            }
            self.position.clear();
            write!(self.position, "{}:{number}", raw.position).expect("writing to memory");
            let numbers = if op == Op::Update { 2 } else { 1 };
            if let Some(reason) = wrong {
                let image = if op == Op::Delete { &self.before } else { &self.after };
                unusable.push(DeadLetter {
                    position: raw.position.to_string(),
                    reason: at(reason),
                    table: Some(table.schema.name.to_string()),
                    key: text_of((!table.key.is_empty()).then_some(&image.key)),
                    op: Some(op.name()),
                    value: text_of(Some(image.row.json())),
                });
                seq += numbers;
                number += 1;
                continue;
            }
            let mut push = |op, seq, image: &Image, before: &[u8]| {
                out.push_change(&NewChange {
                    op,
                    seq,
                    time: raw.head.time,
                    database: &table.schema.name.database,
                    table: &table.schema.name.table,
                    key: &image.key,
                    position: &self.position,
                    before,
                    row: image.row.json(),
                });
            };
            match op {
                Op::Update if self.before.key != self.after.key => {
                    push(Op::Delete, seq, &self.before, b"");
                    push(Op::Insert, seq + 1, &self.after, b"");
                }
                Op::Update => push(op, seq, &self.after, if self.keep_before { self.before.row.json() } else { b"" }),
                Op::Delete => push(op, seq, &self.before, b""),
                _ => push(op, seq, &self.after, b""),
            }
            seq += numbers;
            number += 1;
        }
        debug_assert!(seq - raw.head.seq <= raw.body.len() as u64, "a row takes at least a byte");
        Ok(unusable)
    }
}

impl Decoder for BinlogDecoder {
    fn decode(&mut self, raw: &Raw, out: &mut Changes) -> Result<(), SourceError> {
        let before = out.len();
        let unusable = self.decode_event(raw, out).map_err(|reason| {
            while out.len() > before {
                out.pop();
            }
            // What was announced has been taken back; it is announced again.
            self.tables.remove(raw.context);
            self.announced = Announced::default();
            SourceError::Record { position: raw.position.to_string(), reason }
        })?;
        if unusable.is_empty() { Ok(()) } else { Err(SourceError::Rows(unusable)) }
    }
}

/// The part of a rows event before its rows.
struct Header;

impl Header {
    /// What the event does, and its rows. The reason of an error follows the table's name.
    fn read<'a>(body: &'a [u8], table: &Table) -> Result<(Op, Bytes<'a>), String> {
        let text = |error: Malformed| format!(": {error}");
        let mut bytes = Bytes(body);
        let kind = bytes.byte().map_err(text)?;
        let op = match kind {
            event::WRITE_ROWS | event::WRITE_ROWS_V1 => Op::Insert,
            event::UPDATE_ROWS | event::UPDATE_ROWS_V1 => Op::Update,
            event::DELETE_ROWS | event::DELETE_ROWS_V1 => Op::Delete,
            other => return Err(format!(": events of type {other} are not known")),
        };
        bytes.take(8).map_err(text)?; // table id, flags
        if matches!(kind, event::WRITE_ROWS | event::UPDATE_ROWS | event::DELETE_ROWS) {
            let extra = bytes.little(2).map_err(text)? as usize;
            bytes.take(extra.checked_sub(2).ok_or(": its extra data has no length")?).map_err(text)?;
        }
        let columns = bytes.length().map_err(text)?;
        if columns != table.columns.len() {
            return Err(format!(": the event has {columns} columns and its table map {}", table.columns.len()));
        }
        for _ in 0..if op == Op::Update { 2 } else { 1 } {
            let present = bytes.take(columns.div_ceil(8)).map_err(text)?;
            if !(0..columns).all(|index| bit(present, index)) {
                return Err(
                    ": the row is not whole: set binlog_row_image=FULL on the server, for all sessions; then copy the table anew and \
                     publish to another topic, or let [publish] dead_letter name a file that such rows may go to, and verify --repair \
                     mend the table"
                        .into(),
                );
            }
        }
        Ok((op, bytes))
    }
}

impl Image {
    /// Reads a row to its end; why it can't be used, if so: then it has null where a value can't. Reasons, also that of an
    /// error, behind which nothing can be read, follow the table's name and the row's place.
    fn read(&mut self, bytes: &mut Bytes, table: &Table) -> Result<Option<String>, String> {
        let nulls = bytes.take(table.columns.len().div_ceil(8)).map_err(|error| format!(": {error}"))?;
        let shown = table.schema.columns.len();
        let name = |index: usize| table.schema.columns.get(index).map_or("(hidden)", |column| &column.name);
        let mut wrong: Option<(usize, String)> = None;
        self.row.begin();
        for (index, column) in table.columns.iter().enumerate() {
            self.hidden.clear();
            let out = if index < shown { self.row.column(&column.prefix) } else { &mut self.hidden };
            if bit(nulls, index) {
                write_null(out);
                continue;
            }
            let start = out.len();
            let Err(refused) = column.layout.write(bytes, out) else { continue };
            if !refused.taken {
                let (index, reason) = wrong.unwrap_or((index, refused.reason));
                return Err(format!(", column {}: the value {reason}", name(index)));
            }
            // The rest is read for the row's key, to name it.
            out.truncate(start);
            write_null(out);
            wrong.get_or_insert((index, refused.reason));
        }
        self.row.finish();
        self.key.clear();
        let keyed = self.row.key_text(&table.key, &mut self.key);
        match (wrong, keyed) {
            (None, Ok(())) => Ok(None),
            (None, Err(null)) => Ok(Some(format!(", column {}: it is in the key and null", name(null)))),
            (Some((index, reason)), Ok(())) if !table.key.is_empty() => {
                let key = String::from_utf8_lossy(&self.key);
                Ok(Some(format!(", key {key}, column {}: the value {reason}", name(index))))
            }
            (Some((index, reason)), _) => Ok(Some(format!(", column {}: the value {reason}", name(index)))),
        }
    }
}
