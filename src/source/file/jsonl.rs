//! JSON lines of our own envelope.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Read};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::change::{BATCH_BYTES, BATCH_ROWS, Changes, ColumnType, NewChange, Op, TableFilter, TableName, TableSchema};
use crate::codec::loose::{LooseImage, LooseRow};
use crate::config::FileConfig;
use crate::source::{Announced, Clock, Decoder, Mark, Raw, Raws, Reader, Resume, SourceError, Start, now_ms};

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
        let (at, line, seq, clock) = match start {
            Start::Configured => (0, 1, SEQS_PER_LINE, Clock::from(0)),
            Start::Resume { resume, clock } => {
                let place = resume.position.split_once(" line ");
                let place = place.and_then(|(at, line)| Some((at.parse().ok()?, line.parse().ok()?)));
                let (at, line) = place.ok_or_else(|| {
                    SourceError::Source(format!(
                        "the recorded position '{}' is of another kind of source; give the job another name",
                        resume.position
                    ))
                })?;
                (at, line, resume.seq, clock.clone())
            }
        };
        let input = Input::open(&config.path, at)?;
        Ok(JsonlReader { input, line, seq, clock, text: Vec::new() })
    }

    fn mark(&self, end: bool) -> Mark {
        let position = format!("{} line {}", self.input.at, self.line);
        Mark { seq: self.seq, time: self.clock.time(self.seq), resume: Resume { position, seq: self.seq }, end }
    }
}

impl Reader for JsonlReader {
    fn begun(&self) -> Mark {
        self.mark(false)
    }

    fn read(&mut self, out: &mut Raws) -> Result<Mark, SourceError> {
        while out.payload_bytes() < BATCH_BYTES && out.len() < BATCH_ROWS {
            self.text.clear();
            let left = self.input.len.saturating_sub(self.input.at);
            let read = (&mut self.input.file).take(left).read_until(b'\n', &mut self.text);
            let read = read.map_err(|error| self.input.failed(&error))?;
            if read == 0 {
                return Ok(self.mark(true));
            }
            let position = self.input.position(self.line);
            let is_whole = || serde_json::from_slice::<IgnoredAny>(self.text.trim_ascii()).is_ok();
            if !self.text.ends_with(b"\n") && !self.text.trim_ascii().is_empty() && !is_whole() {
                // Not the decoder's to judge: what comes behind it belongs to it.
                return Err(SourceError::Source(format!(
                    "{position}: the file ended in the midst of a line when it was opened: start again once its writer has \
                     written all of it, it goes on with this line; if there is no more to come, take the line out"
                )));
            }
            self.input.at += read as u64;
            let seq = self.seq;
            self.line += 1;
            self.seq += SEQS_PER_LINE;
            let line = self.text.trim_ascii();
            if line.is_empty() {
                continue;
            }
            // A line that can't be read has the time of the one before; the decoder fails on it, where the configuration
            // says what becomes of such.
            let stamp = serde_json::from_slice::<Front>(line).map_or(0, |front| front.time.unwrap_or_else(now_ms));
            let time = self.clock.exact(seq, stamp, now_ms());
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
/// A column's type is what the line says in `"types":{"amount":"decimal(10,2)"}`; else it is guessed
/// ([`loose`](crate::codec::loose)), and where a value differs from what was guessed the schema is announced again.
pub struct JsonlDecoder {
    filter: TableFilter,
    keep_before: bool,
    announced: Announced,
    /// What was guessed of columns without a stated type.
    guessed: HashMap<TableName, HashMap<String, ColumnType>>,
    after: LooseImage,
    before: LooseImage,
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
    row: LooseRow<'a>,
    #[serde(borrow)]
    before: Option<LooseRow<'a>>,
}

impl JsonlDecoder {
    /// A decoder that drops the tables that `filter` does not want. With `keep_before`, updates carry the row before.
    pub fn new(filter: TableFilter, keep_before: bool) -> Self {
        JsonlDecoder {
            filter,
            keep_before,
            announced: Announced::default(),
            guessed: HashMap::new(),
            after: LooseImage::default(),
            before: LooseImage::default(),
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
        let stated = |column: &str| line.types.get(column).copied();
        let in_table = |reason| format!("table {name}{reason}");
        let guessed = self.guessed.entry(name.clone()).or_default();
        let mut schema = TableSchema {
            name: name.clone(),
            columns: Vec::new(),
            key: line.key.clone(),
            since_seq: raw.head.seq,
            partial: true,
        };
        self.after.read(&line.row, &line.key, stated, guessed, &mut schema.columns).map_err(in_table)?;
        let mut moved = false;
        if let Some(before) = line.before.as_ref().filter(|_| op == Op::Update) {
            self.before.read(before, &line.key, stated, guessed, &mut Vec::new()).map_err(in_table)?;
            moved = self.before.key() != self.after.key();
        }
        self.announced.announce(&schema, raw.head.time, raw.position, out);
        let mut push = |op, seq, image: &LooseImage, before: &[u8]| {
            out.push_change(&NewChange {
                op,
                seq,
                time: raw.head.time,
                database: &line.database,
                table: &line.table,
                key: image.key(),
                position: raw.position.as_bytes(),
                before,
                row: image.json(),
            });
        };
        if moved {
            push(Op::Delete, raw.head.seq, &self.before, b"");
            push(Op::Insert, raw.head.seq + 1, &self.after, b"");
        } else {
            let carries = self.keep_before && op == Op::Update && line.before.is_some();
            push(op, raw.head.seq, &self.after, if carries { self.before.json() } else { b"" });
        }
        Ok(())
    }
}

impl Decoder for JsonlDecoder {
    fn decode(&mut self, raw: &Raw, out: &mut Changes) -> Result<(), SourceError> {
        self.decode_line(raw, out).map_err(|reason| SourceError::Record { position: raw.position.to_string(), reason })
    }
}
