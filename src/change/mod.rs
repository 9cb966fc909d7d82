//! The words of the project: change, key, seq, time, epoch.
//!
//! A *change* is one row event of the source: what was done ([`Op`]) to which key of which table, with the row after it
//! (for a delete: before it) as one JSON object. Changes travel in batches ([`Changes`], a [`Rows`] of [`Head`]s): the
//! head holds everything that routing, ordering and netting need, so that no operator parses a row.
//!
//! *seq* is the change's number in the source's total order, never reused; *time* is the commit time in milliseconds, one
//! per source transaction, never decreasing in seq; an *epoch* is `time / epoch length` and so depends on nothing but the
//! change itself.

mod filter;
mod look_back;
mod rows;
mod schema;
mod settler;
mod types;

use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub use filter::TableFilter;
pub use look_back::LookBack;
pub use rows::{BATCH_BYTES, BATCH_ROWS, Drain, Row, Rows};
pub use schema::{Column, TableName, TableSchema};
pub use settler::{SettlePolicy, Settler, Verdict};
pub use types::{ColumnType, Form, TypeError};

/// What a change does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Op {
    /// The key was not there; now the row is.
    Insert = 0,
    /// The key was there; now it has the new row.
    Update = 1,
    /// The key was there; now it is not.
    Delete = 2,
    /// Not a row event: the table's columns, types and key from this seq on. The payload's row is the
    /// [`TableSchema`] as JSON. It travels with the changes so that it keeps its place in their order.
    Schema = 3,
    /// Not a row event: a promise about what comes later ([`Mark`](crate::source::Mark) as JSON in the row), for the
    /// worker that `partition` names. In stream processing such a record is called a punctuation.
    Mark = 4,
}

impl Op {
    /// Whether it is a row event.
    pub fn is_row(self) -> bool {
        matches!(self, Op::Insert | Op::Update | Op::Delete)
    }

    /// The name used in Kafka headers and reports.
    pub fn name(self) -> &'static str {
        match self {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
            Op::Schema => "schema",
            Op::Mark => "mark",
        }
    }

    /// The row event of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Op> {
        match name {
            "insert" => Some(Op::Insert),
            "update" => Some(Op::Update),
            "delete" => Some(Op::Delete),
            _ => None,
        }
    }

    fn from_code(code: u32) -> Op {
        match code {
            0 => Op::Insert,
            1 => Op::Update,
            2 => Op::Delete,
            3 => Op::Schema,
            4 => Op::Mark,
            _ => panic!("a change with operation code {code}: batches are only made by push_change"),
        }
    }
}

/// The fixed-size part of a change. Its payload is database, table, key, position, before and row, in that order; the
/// lengths here say where each ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Head {
    /// The change's number in the source's total order.
    pub seq: u64,
    /// Commit time in ms since 1970, never decreasing in seq.
    pub time: u64,
    /// Hash of database and table, the same on every machine.
    pub table_hash: u64,
    /// Hash of table and key, the same on every machine: picks the lane.
    pub key_hash: u64,
    /// Where the change stands in its Kafka partition; 0 before it is there.
    pub offset: u64,
    /// The Kafka partition.
    pub partition: u32,
    op: u32,
    database_len: u32,
    table_len: u32,
    key_len: u32,
    position_len: u32,
    before_len: u32,
    /// Which of the changes of its Kafka record it is: tidegate writes one a record, others write several.
    pub part: u32,
}

impl Head {
    /// What the change does.
    #[inline]
    pub fn op(&self) -> Op {
        Op::from_code(self.op)
    }

    /// Replaces what the change does (netting: an insert of a key that was there is an update).
    #[inline]
    pub fn set_op(&mut self, op: Op) {
        self.op = op as u32;
    }

    /// The same place in the log and the same key's hash, and nothing that is done to it.
    pub fn as_mark(&self) -> Head {
        Head { op: Op::Mark as u32, database_len: 0, table_len: 0, key_len: 0, position_len: 0, before_len: 0, ..*self }
    }

    /// What orders the changes of one key: the newer change has the higher version.
    #[inline]
    pub fn version(&self) -> (u64, u64, u32) {
        (self.seq, self.offset, self.part)
    }

    /// The epoch of the change.
    #[inline]
    pub fn epoch(&self, length: Duration) -> u64 {
        epoch_of(self.time, length)
    }

    /// The lane of the change, of `lanes`.
    #[inline]
    pub fn lane(&self, lanes: u32) -> u32 {
        (self.key_hash % u64::from(lanes)) as u32
    }
}

/// The epoch of a commit time in ms. The length is at least a millisecond.
#[inline]
pub fn epoch_of(time_ms: u64, length: Duration) -> u64 {
    time_ms / (length.as_millis() as u64).max(1)
}

/// A place in the order of a Kafka partition, and so a time of `land`'s dataflow: epoch first, then seq. Moments of one epoch
/// tell how far it has been read, so that an epoch too large for memory can be let go in pieces.
pub type Moment = u128;

/// The moment of a seq in an epoch.
#[inline]
pub fn moment(epoch: u64, seq: u64) -> Moment {
    u128::from(epoch) << 64 | u128::from(seq)
}

/// The epoch of a moment.
#[inline]
pub fn epoch_at(moment: Moment) -> u64 {
    (moment >> 64) as u64
}

/// A batch of changes.
pub type Changes = Rows<Head>;

/// A change to be appended to a batch. All text is UTF-8.
#[derive(Clone, Copy, Debug)]
pub struct NewChange<'a> {
    /// What it does.
    pub op: Op,
    /// Its number in the source's total order.
    pub seq: u64,
    /// Commit time in ms since 1970.
    pub time: u64,
    /// Database name.
    pub database: &'a str,
    /// Table name.
    pub table: &'a str,
    /// The key's text: the column's text, or a JSON array of the columns' texts. Empty for a table without a key.
    pub key: &'a [u8],
    /// Where the source keeps the change.
    pub position: &'a [u8],
    /// The row before the change as a JSON object, for envelopes that carry it; else empty.
    pub before: &'a [u8],
    /// The row as a JSON object: after the change, or before it for a delete.
    pub row: &'a [u8],
}

impl Changes {
    /// Appends a change.
    pub fn push_change(&mut self, change: &NewChange) {
        let table_hash = table_hash(change.database, change.table);
        let head = Head {
            seq: change.seq,
            time: change.time,
            table_hash,
            key_hash: xxh3_64_with_seed(change.key, table_hash),
            offset: 0,
            partition: 0,
            op: change.op as u32,
            database_len: change.database.len() as u32,
            table_len: change.table.len() as u32,
            key_len: change.key.len() as u32,
            position_len: change.position.len() as u32,
            before_len: change.before.len() as u32,
            part: 0,
        };
        self.push_parts(
            head,
            &[
                change.database.as_bytes(),
                change.table.as_bytes(),
                change.key,
                change.position,
                change.before,
                change.row,
            ],
        );
    }

    /// Change `index` of the batch.
    #[inline]
    pub fn change(&self, index: usize) -> Change<'_> {
        let (head, payload) = self.get(index);
        Change::new(head, payload)
    }

    /// All changes of the batch, in order.
    pub fn changes(&self) -> impl ExactSizeIterator<Item = Change<'_>> {
        self.iter().map(|(head, payload)| Change::new(head, payload))
    }
}

/// Hash of a table's name, the same on every machine.
pub fn table_hash(database: &str, table: &str) -> u64 {
    xxh3_64_with_seed(table.as_bytes(), xxh3_64(database.as_bytes()))
}

/// One change, seen in its batch.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Its head.
    pub head: &'a Head,
    payload: &'a [u8],
}

impl<'a> Change<'a> {
    /// A change from the head and payload of a batch of changes.
    #[inline]
    pub fn new(head: &'a Head, payload: &'a [u8]) -> Self {
        Change { head, payload }
    }

    #[inline]
    fn part(&self, start: u32, len: u32) -> &'a [u8] {
        &self.payload[start as usize..(start + len) as usize]
    }

    /// What it does.
    #[inline]
    pub fn op(&self) -> Op {
        self.head.op()
    }

    /// Database and table name, without anything between them: equal bytes and an equal
    /// [`database_len`](Head) are an equal table.
    #[inline]
    fn table_bytes(&self) -> &'a [u8] {
        self.part(0, self.head.database_len + self.head.table_len)
    }

    /// Database name.
    #[inline]
    pub fn database(&self) -> &'a str {
        text(self.part(0, self.head.database_len))
    }

    /// Table name.
    #[inline]
    pub fn table(&self) -> &'a str {
        text(self.part(self.head.database_len, self.head.table_len))
    }

    /// The key's text.
    #[inline]
    pub fn key(&self) -> &'a [u8] {
        self.part(self.head.database_len + self.head.table_len, self.head.key_len)
    }

    /// Where the source keeps the change.
    #[inline]
    pub fn position(&self) -> &'a [u8] {
        let h = self.head;
        self.part(h.database_len + h.table_len + h.key_len, h.position_len)
    }

    /// The row before the change, or nothing where it was not asked for.
    #[inline]
    pub fn before(&self) -> &'a [u8] {
        let h = self.head;
        self.part(h.database_len + h.table_len + h.key_len + h.position_len, h.before_len)
    }

    /// The row: after the change, or before it for a delete.
    #[inline]
    pub fn row(&self) -> &'a [u8] {
        let h = self.head;
        &self.payload[(h.database_len + h.table_len + h.key_len + h.position_len + h.before_len) as usize..]
    }

    /// Whether both changes are of one table.
    #[inline]
    pub fn same_table(&self, other: &Change) -> bool {
        self.head.table_hash == other.head.table_hash
            && self.head.database_len == other.head.database_len
            && self.table_bytes() == other.table_bytes()
    }

    /// Whether both changes are of one key of one table.
    #[inline]
    pub fn same_key(&self, other: &Change) -> bool {
        self.head.key_hash == other.head.key_hash && self.same_table(other) && self.key() == other.key()
    }

    /// The name of its table, for messages.
    pub fn table_name(&self) -> TableName {
        TableName::new(self.database(), self.table())
    }

    /// The order in which a gate emits changes for applying: by table, then key, then seq. All changes of a key stand
    /// together, oldest first. On topics that something else wrote, seq is the event time and has ties; there the order
    /// inside the partition decides.
    #[inline]
    pub fn cmp_by_key(&self, other: &Change) -> std::cmp::Ordering {
        self.head
            .table_hash
            .cmp(&other.head.table_hash)
            .then_with(|| self.head.database_len.cmp(&other.head.database_len))
            .then_with(|| self.table_bytes().cmp(other.table_bytes()))
            .then_with(|| self.key().cmp(other.key()))
            .then_with(|| self.head.version().cmp(&other.head.version()))
    }
}

/// Names and row text come from decoders that produce UTF-8; this only restores what the type system forgot on the way.
#[inline]
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("names in a batch of changes are UTF-8: push_change takes &str")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change<'a>(op: Op, seq: u64, table: &'a str, key: &'a str, row: &'a str) -> NewChange<'a> {
        NewChange {
            op,
            seq,
            time: 1_000 + seq,
            database: "shop",
            table,
            key: key.as_bytes(),
            position: b"binlog.000001:4",
            before: b"{}",
            row: row.as_bytes(),
        }
    }

    #[test]
    fn every_part_of_a_change_comes_back_as_it_was_pushed() {
        let mut changes = Changes::default();
        changes.push_change(&change(Op::Update, 7, "orders", "42", "{\"id\":42}"));
        let c = changes.change(0);
        assert_eq!(
            (c.op(), c.database(), c.table(), c.key(), c.row()),
            (Op::Update, "shop", "orders", &b"42"[..], &b"{\"id\":42}"[..])
        );
        assert_eq!((c.position(), c.before(), c.head.seq), (&b"binlog.000001:4"[..], &b"{}"[..], 7));
    }

    #[test]
    fn one_key_in_two_tables_is_two_keys() {
        let mut changes = Changes::default();
        changes.push_change(&change(Op::Insert, 1, "ab", "1", "{}"));
        changes.push_change(&NewChange { database: "shopa", table: "b", ..change(Op::Insert, 2, "b", "1", "{}") });
        changes.push_change(&change(Op::Delete, 3, "ab", "1", "{}"));
        assert!(!changes.change(0).same_key(&changes.change(1)));
        assert!(changes.change(0).same_key(&changes.change(2)));
    }

    #[test]
    fn an_epoch_depends_on_the_time_alone() {
        assert_eq!(epoch_of(2_999, Duration::from_secs(3)), 0);
        assert_eq!(epoch_of(3_000, Duration::from_secs(3)), 1);
        assert_eq!(epoch_of(5, Duration::ZERO), 5, "a zero length counts as a millisecond");
    }
}
