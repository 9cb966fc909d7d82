//! Alibaba DTS change tracking: one schemaless Avro datum a record (`record.avsc`), to changes and, for tests and the
//! demo, from them.
//!
//! Avro is positional: a record is read front to back, and whoever needs only its front stops there. The serial reader
//! takes the [`Front`] of a record (operation, time, table); the [`DtsDecoder`], on any worker, goes on from there through
//! fields and images and writes each value from the record's bytes straight into the row's JSON. So the cursor is our own
//! ([`avro`]) and not `serde_avro_fast`'s, which looks up union branches and fields by name for every value: it took 1191 ns
//! to borrow an 8-column insert of 485 bytes into structs, of which nothing was written yet, where bytes to finished
//! change take 760 ns here (an update of 715 bytes: 1841 against 1020). Nor could the key columns of an update's two
//! images be compared as bytes. Tests read what [`encode`] writes with that crate and the published schema.
//!
//! What decides about a value is its union branch, not the column's `dataTypeNumber` (TEXT and BLOB share one); the number
//! only refines it. What DTS does not say is not guessed: see [`mod@column`] for what that means for types.

pub mod avro;
pub mod column;
mod decoder;
mod encode;
mod layout;

pub use avro::{Front, Malformed};
pub use decoder::{DtsDecoder, SEQS_PER_RECORD};
pub use encode::{Images, NewRecord, encode};
pub use layout::table_of;

/// What a record says was done. The order is the one of the schema's enumeration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are all that DTS says about them")]
pub enum Operation {
    Insert,
    Update,
    Delete,
    Ddl,
    Begin,
    Commit,
    Rollback,
    Abort,
    Heartbeat,
    Checkpoint,
    Command,
    Fill,
    Finish,
    Control,
    Rdb,
    Noop,
    Init,
}

impl Operation {
    /// All of them, at the place of their number.
    pub const ALL: [Operation; 17] = [
        Operation::Insert,
        Operation::Update,
        Operation::Delete,
        Operation::Ddl,
        Operation::Begin,
        Operation::Commit,
        Operation::Rollback,
        Operation::Abort,
        Operation::Heartbeat,
        Operation::Checkpoint,
        Operation::Command,
        Operation::Fill,
        Operation::Finish,
        Operation::Control,
        Operation::Rdb,
        Operation::Noop,
        Operation::Init,
    ];

    /// Whether it changes a row.
    pub fn is_row(self) -> bool {
        matches!(self, Operation::Insert | Operation::Update | Operation::Delete)
    }
}

/// A value, one variant for each branch of the schema's union.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// Any integer, as text.
    Integer {
        /// What DTS makes of the width; not used.
        precision: i32,
        /// Digits, perhaps behind a minus sign.
        value: &'a str,
    },
    /// Characters in the column's own character set.
    Character {
        /// MySQL's name of the character set.
        charset: &'a str,
        /// The text in it.
        value: &'a [u8],
    },
    /// A DECIMAL, as text.
    Decimal {
        /// Digits with a point.
        value: &'a str,
        /// Digits in all.
        precision: i32,
        /// Digits after the point.
        scale: i32,
    },
    /// FLOAT or DOUBLE.
    Float {
        /// The number.
        value: f64,
        /// Not used.
        precision: i32,
        /// Not used.
        scale: i32,
    },
    /// An instant.
    Timestamp {
        /// Seconds since 1970.
        seconds: i64,
        /// Microseconds, though the schema calls them `millis`.
        micros: i32,
    },
    /// Something on the calendar.
    DateTime(DateTime),
    /// Something on the calendar of a time zone.
    TimestampWithTimeZone {
        /// The local time there.
        value: DateTime,
        /// The zone.
        timezone: &'a str,
    },
    /// A geometry as bytes.
    BinaryGeometry {
        /// Its kind.
        kind: &'a str,
        /// The bytes.
        value: &'a [u8],
    },
    /// A geometry as text.
    TextGeometry {
        /// Its kind.
        kind: &'a str,
        /// The text.
        value: &'a str,
    },
    /// Bytes.
    BinaryObject {
        /// The type's name.
        kind: &'a str,
        /// The bytes.
        value: &'a [u8],
    },
    /// Text, already in UTF-8: JSON and long text.
    TextObject {
        /// The type's name.
        kind: &'a str,
        /// The text.
        value: &'a str,
    },
    /// NULL or NONE, which both are no value.
    Empty {
        /// Whether it is NONE.
        none: bool,
    },
}

/// Parts of a date and time; those that the column's type has not are absent. A negative TIME has negative parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DateTime {
    /// Year.
    pub year: Option<i32>,
    /// Month, from 1; 0 in a zero date.
    pub month: Option<i32>,
    /// Day, from 1; 0 in a zero date.
    pub day: Option<i32>,
    /// Hour; of a TIME up to 838.
    pub hour: Option<i32>,
    /// Minute.
    pub minute: Option<i32>,
    /// Second.
    pub second: Option<i32>,
    /// Microseconds, though the schema calls them `millis`.
    pub micros: Option<i32>,
}
