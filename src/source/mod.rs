//! Sources: one serial reader of a totally ordered log, and decoders that run everywhere.
//!
//! The split is the point. A log can only be read by one reader, so the [`Reader`] does the least that needs order:
//! it numbers what it reads, gives it its time, and hands on undecoded bytes ([`Raws`]) that explain themselves. A
//! [`Decoder`] turns one raw record into changes without knowing the ones before it, so that any worker can take any
//! record. The order is in the numbers, and the epoch gate restores it.
//!
//! Numbers: a raw record takes as many seq numbers as it could hold changes (known without decoding: a rows event of n
//! bytes holds at most n rows), and its changes take theirs from that range. Numbers are unique and grow; they have gaps.

mod clock;
pub mod dts;
pub mod file;
pub mod mysql;

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

use crate::change::{Changes, Rows, TableName, TableSchema};
use crate::letter::DeadLetter;

pub use clock::{AHEAD_MAX_MS, Clock, now_ms};

/// The number of the first record that is ever read. Zero stands for "nothing yet".
const FIRST_SEQ: u64 = 2;

/// The fixed-size part of a record as the source handed it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RawHead {
    /// The first of the numbers that belong to this record.
    pub seq: u64,
    /// Commit time in ms of its transaction; never decreases from record to record.
    pub time: u64,
    /// How many of the payload's bytes, at its start, are the position (text, for messages and headers).
    pub position_len: u32,
    /// How many of the payload's bytes, after the position, are context that the decoder needs beside the record itself
    /// (binlog: the table map event).
    pub context_len: u32,
}

/// A batch of undecoded records. A payload is position, context, body.
pub type Raws = Rows<RawHead>;

/// One undecoded record, seen in its batch.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// Its head.
    pub head: &'a RawHead,
    /// Where the source keeps it, as text.
    pub position: &'a str,
    /// What the decoder needs beside the record.
    pub context: &'a [u8],
    /// The record as the source wrote it.
    pub body: &'a [u8],
}

impl Raws {
    /// Appends a record.
    pub fn push_raw(&mut self, seq: u64, time: u64, position: &str, context: &[u8], body: &[u8]) {
        self.push_raw_parts(seq, time, position, context, &[body, b""]);
    }

    /// Appends a record whose body is the concatenation of both parts.
    pub fn push_raw_parts(&mut self, seq: u64, time: u64, position: &str, context: &[u8], body: &[&[u8]; 2]) {
        let head = RawHead { seq, time, position_len: position.len() as u32, context_len: context.len() as u32 };
        self.push_parts(head, &[position.as_bytes(), context, body[0], body[1]]);
    }

    /// All records in order.
    pub fn raws(&self) -> impl ExactSizeIterator<Item = Raw<'_>> {
        self.iter().map(|(head, payload)| {
            let (position, rest) = payload.split_at(head.position_len as usize);
            let (context, body) = rest.split_at(head.context_len as usize);
            Raw { head, position: std::str::from_utf8(position).expect("positions are pushed as &str"), context, body }
        })
    }
}

/// From where a source can be read again so that every record gets the numbers it had before: a place between two
/// transactions, and the state of numbering there. `publish` keeps it in the companion topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The source's own name for the place (binlog `file:offset at server`, DTS Kafka offset, file byte offset).
    pub position: String,
    /// The number of the first record read from there.
    pub seq: u64,
}

/// What is true after a read: a promise about everything read later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Every record read later has at least this number.
    pub seq: u64,
    /// Every record read later has at least this time (ms).
    pub time: u64,
    /// From where to read again; at or before what was read last.
    pub resume: Resume,
    /// The source has ended (a file), or the end that was there at the start has been reached, and nothing comes later.
    pub end: bool,
}

/// Where a run of a reader begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// As the configuration says: no earlier run is known.
    Configured,
    /// Where an earlier run was, with the clock that goes on from there.
    Resume {
        /// Where, and the number of the first record.
        resume: Resume,
        /// Gives what is read again the times that it had.
        clock: Clock,
    },
}

/// One serial reader of a totally ordered log. Lives on a thread of its own and may block there.
pub trait Reader: Send {
    /// What is true before anything is read: from there everything can be read again.
    fn begun(&self) -> Mark;

    /// Appends what is there to `out`, at most about [`BATCH_BYTES`](crate::change::BATCH_BYTES), waiting at most about
    /// ten milliseconds for the first record (but everything at hand is taken at once). Returns what is true now.
    ///
    /// A record that can't be used is handed on, with its number: its [`Decoder`] fails on it, and what becomes of it is
    /// decided there. So an error here is one that nothing comes behind.
    ///
    /// # Errors
    /// [`SourceError`], after which the reader is done for. Records appended by the failing call are not to be used.
    fn read(&mut self, out: &mut Raws) -> Result<Mark, SourceError>;
}

/// Turns raw records of one kind of source into changes. Every worker has one of its own; what it remembers of earlier
/// records may speed it up but not alter what it makes of a later one.
pub trait Decoder: Send {
    /// Appends the changes of `raw` to `out`, with numbers from the range that belongs to the record, in order. Tables
    /// that the configuration leaves out are dropped here. A table that this decoder has not seen in this shape before
    /// is announced by an [`Op::Schema`](crate::change::Op::Schema) change before its first row.
    ///
    /// # Errors
    /// [`SourceError`] for a record that can't be used; `out` is then as it was before the call.
    fn decode(&mut self, raw: &Raw, out: &mut Changes) -> Result<(), SourceError>;
}

/// What goes wrong at a source: one sentence that names the place and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A record that can't be used; it may go to a dead-letter file where the configuration says so.
    #[error("{position}: {reason}")]
    Record {
        /// Where it is: `file:line`, `topic/partition/offset`, `binlog file:offset`, with table and column where known.
        position: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// Rows of a record that can't be used; all of its others have been decoded.
    #[error("{}: {}", .0[0].position, .0[0].reason)]
    Rows(Vec<DeadLetter>),
    /// The source can't be read at all, or no further.
    #[error("{0}")]
    Source(String),
}

/// The schemas that a decoder has announced, to announce each shape once.
#[derive(Debug, Default)]
pub struct Announced {
    shapes: std::collections::HashMap<TableName, TableSchema>,
}

impl Announced {
    /// Appends an [`Op::Schema`](crate::change::Op::Schema) change for `schema` unless the last one announced for its
    /// table has the same shape.
    pub fn announce(&mut self, schema: &TableSchema, time: u64, position: &str, out: &mut Changes) {
        if self.shapes.get(&schema.name).is_some_and(|known| known.same_shape(schema)) {
            return;
        }
        let row = serde_json::to_vec(schema).expect("a schema has only text keys");
        out.push_change(&crate::change::NewChange {
            op: crate::change::Op::Schema,
            seq: schema.since_seq,
            time,
            database: &schema.name.database,
            table: &schema.name.table,
            key: b"",
            position: position.as_bytes(),
            before: b"",
            row: &row,
        });
        self.shapes.insert(schema.name.clone(), schema.clone());
    }
}
