//! DTS records to changes.
//!
//! Values go from the record's bytes straight into the row's JSON. The key columns of an update's two images are first
//! compared as bytes; only where they differ is the image before decoded, and where the keys' texts differ too, the update
//! becomes a delete of the old key and an insert of the new, with the record's two numbers.

use std::ops::Range;

use crate::change::{Changes, NewChange, Op, TableFilter};
use crate::codec::row::{RowWriter, write_null};
use crate::source::{Announced, Decoder, Raw, SourceError};

use super::Operation;
use super::avro::{Branch, Cursor, Front, Malformed};
use super::layout::{Layout, Layouts, Stated, skip_fields};

/// How many numbers a record owns: an update that changes the key is two changes.
pub const SEQS_PER_RECORD: u64 = 2;

/// Decoder of DTS records.
pub struct DtsDecoder {
    filter: TableFilter,
    keep_before: bool,
    layouts: Layouts,
    announced: Announced,
    images: Images,
}

impl DtsDecoder {
    /// A decoder that drops the tables that `filter` does not want. With `keep_before`, updates carry the row before.
    pub fn new(filter: TableFilter, keep_before: bool) -> Self {
        DtsDecoder {
            filter,
            keep_before,
            layouts: Layouts::default(),
            announced: Announced::default(),
            images: Images::default(),
        }
    }

    /// Everything that can fail comes before the first change is appended.
    fn decode_row(&mut self, front: &Front, op: Operation, raw: &Raw, out: &mut Changes) -> Result<(), String> {
        let mut cursor = front.rest();
        let object_name = front.object_name.ok_or("the record names no table")?;
        let fields = skip_fields(&mut cursor)
            .map_err(|error| error.to_string())?
            .ok_or_else(|| format!("table {object_name}: the record has no fields"))?;
        let stated = Stated { object_name, tags: front.tags, fields };
        let index = self.layouts.find(&stated, |database, table| self.filter.wants(database, table))?;
        let layout = self.layouts.get(index);
        if !layout.wanted {
            return Ok(());
        }
        let done = match op {
            Operation::Insert => self.images.insert(cursor, layout),
            Operation::Delete => self.images.delete(cursor, layout),
            _ => self.images.update(cursor, layout, self.keep_before),
        };
        let done = done.map_err(|reason| format!("table {}{reason}", layout.name))?;

        self.layouts.enter(index);
        let layout = self.layouts.get(index);
        if !layout.announced {
            layout.announced = true;
            self.announced.announce(&layout.schema(raw.head.seq), raw.head.time, raw.position, out);
        }
        let Images { before, after } = &self.images;
        let mut push = |op, seq, image: &Image, before: &[u8]| {
            out.push_change(&NewChange {
                op,
                seq,
                time: raw.head.time,
                database: &layout.name.database,
                table: &layout.name.table,
                key: &image.key,
                position: raw.position.as_bytes(),
                before,
                row: image.row.json(),
            });
        };
        let seq = raw.head.seq;
        match done {
            Done::Inserted => push(Op::Insert, seq, after, b""),
            Done::Deleted => push(Op::Delete, seq, before, b""),
            Done::Updated { with_before: true } => push(Op::Update, seq, after, before.row.json()),
            Done::Updated { with_before: false } => push(Op::Update, seq, after, b""),
            Done::Moved => {
                push(Op::Delete, seq, before, b"");
                push(Op::Insert, seq + 1, after, b"");
            }
        }
        Ok(())
    }
}

impl Decoder for DtsDecoder {
    fn decode(&mut self, raw: &Raw, out: &mut Changes) -> Result<(), SourceError> {
        if Front::is_mock(raw.body) {
            return Ok(());
        }
        let error = |reason| SourceError::Record { position: raw.position.to_string(), reason };
        let front = Front::read(raw.body).map_err(|malformed| error(malformed.to_string()))?;
        match front.operation {
            Ok(op) if op.is_row() => self.decode_row(&front, op, raw, out).map_err(error),
            Ok(_) => Ok(()),
            Err(number) => Err(error(unknown_operation(number))),
        }
    }
}

/// The sentence about an operation that the known schema does not have.
fn unknown_operation(number: i64) -> String {
    format!("the record's operation is number {number}, which this tidegate does not know; it needs a newer one")
}

/// What a record did, with the rows in [`Images`].
enum Done {
    Inserted,
    Deleted,
    Updated { with_before: bool },
    Moved,
}

/// The two images of a record.
#[derive(Default)]
struct Images {
    before: Image,
    after: Image,
}

/// One image of a record: its row, the row's key, and where its values lie in the record.
#[derive(Default)]
struct Image {
    row: RowWriter,
    key: Vec<u8>,
    values: Vec<Range<usize>>,
}

/// The reasons that these return follow the table's name in a sentence.
impl Images {
    fn insert(&mut self, mut cursor: Cursor, layout: &mut Layout) -> Result<Done, String> {
        self.before.scan(&mut cursor, layout)?;
        match self.after.read(&mut cursor, layout)? {
            true => Ok(Done::Inserted),
            false => Err(": an insert without the row after it".into()),
        }
    }

    fn delete(&mut self, mut cursor: Cursor, layout: &mut Layout) -> Result<Done, String> {
        if !self.before.read(&mut cursor, layout)? {
            return Err(": a delete without the row before it".into());
        }
        self.after.scan(&mut cursor, layout)?; // nothing is there; but a record that ends too soon is broken
        Ok(Done::Deleted)
    }

    fn update(&mut self, mut cursor: Cursor, layout: &mut Layout, keep_before: bool) -> Result<Done, String> {
        let mut start = cursor;
        let there = self.before.scan(&mut cursor, layout)?;
        if !self.after.read(&mut cursor, layout)? {
            return Err(": an update without the row after it".into());
        }
        if !there {
            return Ok(Done::Updated { with_before: false });
        }
        let differs =
            |&column: &usize| cursor.part(&self.before.values[column]) != cursor.part(&self.after.values[column]);
        let differs = layout.key.iter().any(differs);
        if differs || keep_before {
            self.before.read(&mut start, layout)?;
        }
        if differs && self.before.key != self.after.key {
            return Ok(Done::Moved);
        }
        Ok(Done::Updated { with_before: keep_before })
    }
}

impl Image {
    /// Reads over an image and notes where its values lie. Returns whether there is one.
    fn scan(&mut self, cursor: &mut Cursor, layout: &Layout) -> Result<bool, String> {
        self.values.clear();
        if !begin(cursor)? {
            return Ok(false);
        }
        let mut left = 0;
        while cursor.item(&mut left).map_err(text)? {
            let start = cursor.at();
            cursor.value().map_err(text)?;
            self.values.push(start..cursor.at());
        }
        self.check_count(layout)
    }

    /// Reads an image into its row and key. Returns whether there is one.
    fn read(&mut self, cursor: &mut Cursor, layout: &mut Layout) -> Result<bool, String> {
        self.values.clear();
        self.key.clear();
        if !begin(cursor)? {
            return Ok(false);
        }
        self.row.begin();
        let mut left = 0;
        let mut grew = false;
        let mut wrong: Option<(usize, String)> = None;
        while cursor.item(&mut left).map_err(text)? {
            let start = cursor.at();
            let value = cursor.value().map_err(text)?;
            if let Some(column) = layout.columns.get_mut(self.values.len()) {
                let out = self.row.column(&column.prefix);
                let start = out.len();
                match column.write(&value, out) {
                    Ok(column_grew) => grew |= column_grew,
                    Err(reason) => {
                        // The rest is read for the row's key, to name it.
                        out.truncate(start);
                        write_null(out);
                        wrong.get_or_insert((self.values.len(), reason));
                    }
                }
            }
            self.values.push(start..cursor.at());
        }
        self.check_count(layout)?;
        self.row.finish();
        if grew {
            layout.announced = false;
        }
        let name = |column: usize| &layout.columns[column].name;
        match (wrong, self.row.key_text(&layout.key, &mut self.key)) {
            (None, Ok(())) => Ok(true),
            (None, Err(null)) => Err(format!(", column {}: it is in the key and null", name(null))),
            (Some((column, reason)), Ok(())) if !layout.key.is_empty() => {
                let key = String::from_utf8_lossy(&self.key);
                Err(format!(", key {key}, column {}: the value {reason}", name(column)))
            }
            (Some((column, reason)), _) => Err(format!(", column {}: the value {reason}", name(column))),
        }
    }

    fn check_count(&self, layout: &Layout) -> Result<bool, String> {
        let (values, columns) = (self.values.len(), layout.columns.len());
        if values == columns {
            return Ok(true);
        }
        Err(format!(": the record has {columns} fields but {values} values"))
    }
}

/// Reads the branch of an image: whether its values follow.
fn begin(cursor: &mut Cursor) -> Result<bool, String> {
    match cursor.branch().map_err(text)? {
        Branch::Absent => Ok(false),
        Branch::Text => cursor.text().map(|_| false).map_err(text),
        Branch::Items => Ok(true),
    }
}

fn text(error: Malformed) -> String {
    format!(": {error}")
}
