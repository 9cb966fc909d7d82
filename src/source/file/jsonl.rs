//! JSON lines of our own envelope.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::change::{
    BATCH_BYTES, BATCH_ROWS, Changes, Column, ColumnType, Form, NewChange, Op, TableName, TableSchema,
};
use crate::codec::row::{
    RowWriter, column_prefix, write_f32, write_f64, write_integer, write_null, write_text, write_unsigned,
};
use crate::config::FileConfig;
use crate::source::{
    Announced, Clock, Decoder, Mark, Raw, Raws, Reader, Resume, SourceError, Start, TableFilter, now_ms,
};

use super::Input;

/// How many numbers a line owns: an update that moves the row is two changes.
const SEQS_PER_LINE: u64 = 2;

/// Reader of a file of JSON lines; empty lines are passed over. Every line is a transaction of its own.
pub struct JsonlReader {
    input: Input,
    /// The number of the next line, from 1.
    line: u64,
    seq: u64,
    clock: Clock,
    text: Vec<u8>,
}

/// What the reader needs of a line.
#[derive(Deserialize)]
struct Front {
    time: Option<u64>,
}

impl JsonlReader {
    /// Opens the file at the place where to begin.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub fn open(config: &FileConfig, start: &Start) -> Result<JsonlReader, SourceError> {
        let (at, line, seq, time) = match start {
            Start::Configured => (0, 1, SEQS_PER_LINE, 0),
            Start::Resume { resume, time } => {
                let place = resume.position.split_once(" line ");
                let place = place.and_then(|(at, line)| Some((at.parse().ok()?, line.parse().ok()?)));
                let (at, line) = place.ok_or_else(|| {
                    SourceError::Source(format!(
                        "the recorded position '{}' is of another kind of source; give the job another name",
                        resume.position
                    ))
                })?;
                (at, line, resume.seq, *time)
            }
        };
        let input = Input::open(&config.path, at)?;
        Ok(JsonlReader { input, line, seq, clock: Clock::from(time), text: Vec::new() })
    }

    fn mark(&self, end: bool) -> Mark {
        let position = format!("{} line {}", self.input.at, self.line);
        Mark { seq: self.seq, time: self.clock.time(), resume: Resume { position, seq: self.seq }, end }
    }
}

impl Reader for JsonlReader {
    fn read(&mut self, out: &mut Raws) -> Result<Mark, SourceError> {
        while out.payload_bytes() < BATCH_BYTES && out.len() < BATCH_ROWS {
            self.text.clear();
            let read = self.input.file.read_until(b'\n', &mut self.text).map_err(|error| self.input.failed(&error))?;
            if read == 0 {
                return Ok(self.mark(true));
            }
            self.input.at += read as u64;
            let position = self.input.position(self.line);
            let seq = self.seq;
            self.line += 1;
            self.seq += SEQS_PER_LINE;
            let line = self.text.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let time = match serde_json::from_slice::<Front>(line) {
                Ok(Front { time: Some(time) }) => self.clock.exact(time),
                Ok(Front { time: None }) => self.clock.idle(now_ms()),
                Err(error) => return Err(SourceError::Record { position, reason: not_a_line(&error) }),
            };
            out.push_raw(seq, time, &position, b"", line);
        }
        Ok(self.mark(false))
    }
}

fn not_a_line(error: &serde_json::Error) -> String {
    format!("this is no change in tidegate's JSON: {error}")
}

/// Decoder of JSON lines.
///
/// A column's type is what the line says in `"types":{"amount":"decimal(10,2)"}`; else what its value looks like: whole
/// numbers are BIGINT (above 64 signed bits: BIGINT UNSIGNED), others DOUBLE, strings TEXT, true and false TINYINT,
/// objects and arrays JSON, and null nothing yet, which is TEXT until something is seen. A value that its stated type can't
/// have is an error; one that differs from what was guessed has the schema announced again.
pub struct JsonlDecoder {
    filter: TableFilter,
    keep_before: bool,
    announced: Announced,
    /// What was guessed of columns without a stated type.
    guessed: HashMap<TableName, HashMap<String, ColumnType>>,
    after: Image,
    before: Image,
}

#[derive(Default)]
struct Image {
    row: RowWriter,
    key: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    op: Cow<'a, str>,
    database: String,
    table: String,
    #[serde(rename = "time")]
    _time: Option<u64>,
    #[serde(default)]
    key: Vec<String>,
    #[serde(default)]
    types: BTreeMap<String, ColumnType>,
    #[serde(borrow)]
    row: Row<'a>,
    #[serde(borrow)]
    before: Option<Row<'a>>,
}

/// A JSON object in the order of its text.
struct Row<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Row<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> serde::de::Visitor<'de> for InOrder {
            type Value = Row<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of column name to value")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Row<'de>, A::Error> {
                let mut columns = Vec::new();
                while let Some(column) = map.next_entry()? {
                    columns.push(column);
                }
                Ok(Row(columns))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl JsonlDecoder {
    /// A decoder that drops the tables that `filter` does not want. With `keep_before`, updates carry the row before.
    pub fn new(filter: TableFilter, keep_before: bool) -> Self {
        JsonlDecoder {
            filter,
            keep_before,
            announced: Announced::default(),
            guessed: HashMap::new(),
            after: Image::default(),
            before: Image::default(),
        }
    }

    fn decode_line(&mut self, raw: &Raw, out: &mut Changes) -> Result<(), String> {
        let line: Line = serde_json::from_slice(raw.body).map_err(|error| not_a_line(&error))?;
        let op = match Op::from_name(&line.op) {
            Some(op) if op != Op::Schema => op,
            _ => return Err(format!("op is '{}', which is none of insert, update and delete", line.op)),
        };
        if !self.filter.wants(&line.database, &line.table) {
            return Ok(());
        }
        let name = TableName::new(&*line.database, &*line.table);
        let in_table = |reason| format!("table {name}{reason}");
        let guessed = self.guessed.entry(name.clone()).or_default();
        let mut schema =
            TableSchema { name: name.clone(), columns: Vec::new(), key: line.key.clone(), since_seq: raw.head.seq };
        self.after.read(&line.row, &line, guessed, &mut schema.columns).map_err(in_table)?;
        let mut moved = false;
        if let Some(before) = line.before.as_ref().filter(|_| op == Op::Update) {
            self.before.read(before, &line, guessed, &mut Vec::new()).map_err(in_table)?;
            moved = self.before.key != self.after.key;
        }
        self.announced.announce(&schema, raw.head.time, raw.position, out);
        let mut push = |op, seq, image: &Image, before: &[u8]| {
            out.push_change(&NewChange {
                op,
                seq,
                time: raw.head.time,
                database: &line.database,
                table: &line.table,
                key: &image.key,
                position: raw.position.as_bytes(),
                before,
                row: image.row.json(),
            });
        };
        if moved {
            push(Op::Delete, raw.head.seq, &self.before, b"");
            push(Op::Insert, raw.head.seq + 1, &self.after, b"");
        } else {
            let carries = self.keep_before && op == Op::Update && line.before.is_some();
            push(op, raw.head.seq, &self.after, if carries { self.before.row.json() } else { b"" });
        }
        Ok(())
    }
}

impl Decoder for JsonlDecoder {
    fn decode(&mut self, raw: &Raw, out: &mut Changes) -> Result<(), SourceError> {
        self.decode_line(raw, out).map_err(|reason| SourceError::Record { position: raw.position.to_string(), reason })
    }
}

impl Image {
    /// Writes a row and its key, and says what its columns are. The reason of an error follows the table's name.
    fn read(
        &mut self,
        row: &Row,
        line: &Line,
        guessed: &mut HashMap<String, ColumnType>,
        columns: &mut Vec<Column>,
    ) -> Result<(), String> {
        self.row.begin();
        for (name, value) in &row.0 {
            let value = value.get();
            let in_column = |reason: String| format!(", column {name}: {reason}");
            let out = self.row.column(&column_prefix(name));
            let ty = match line.types.get(name) {
                Some(&ty) => {
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
            columns.push(Column { name: name.clone(), ty, nullable: !line.key.contains(name) });
        }
        self.row.finish();
        let place = |key: &String| {
            let found = row.0.iter().position(|(name, _)| name == key);
            found.ok_or_else(|| format!(": its key has the column {key}, which is not in the row"))
        };
        let key = line.key.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        self.key.clear();
        self.row
            .key_text(&key, &mut self.key)
            .map_err(|null| format!(", column {}: it is in the key and null", row.0[null].0))
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
