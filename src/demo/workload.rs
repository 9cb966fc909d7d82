//! A stream of transactions on the shop's tables, as DTS records, from a seed.
//!
//! Keys are picked with a skew, so that some change many times within an epoch. Keys change, rows are deleted and inserted
//! again within one transaction, rows of many tables change together, stamps have whole seconds, tie by the hundred and
//! now and then run backwards. Between the rows there is what DTS sends besides: heartbeats, fillers and a DDL.

use std::fmt::Write;

use crate::codec::dts::{self, Images, NewRecord, Operation, encode};

use super::model::{Model, Slots, Value};
use super::random::Random;
use super::shop::{DAY_ONE, Table};

/// How many transactions share one second of the source, on average.
const TRANSACTIONS_PER_SECOND: u64 = 2_000;

/// The records of one transaction, or of what stands between two.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// How many row events are among the records.
    pub changes: u64,
}

impl Transaction {
    /// The records in order, each one Avro datum, or a filler.
    pub fn records(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.ends.len()).map(|n| {
            let start = if n == 0 { 0 } else { self.ends[n - 1] };
            &self.bytes[start..self.ends[n]]
        })
    }

    /// How many bytes the records have together.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// The stream of transactions.
#[derive(Clone, Debug)]
pub struct Workload {
    random: Random,
    seed: u64,
    /// Row events that are still to come.
    left: u64,
    /// The DDL comes when so many are left.
    ddl_at: Option<u64>,
    model: Model,
    second: i64,
    id: i64,
    position: String,
    values: Render,
}

impl Workload {
    /// A workload of `changes` row events on at most about `keys` rows. The same seed makes the same workload.
    pub fn new(seed: u64, changes: u64, keys: u64) -> Self {
        Workload {
            random: Random::new(seed),
            seed,
            left: changes,
            ddl_at: Some(changes / 2),
            model: Model::new(seed, keys),
            second: DAY_ONE,
            id: 0,
            position: String::new(),
            values: Render::default(),
        }
    }

    /// The same workload with the source's clock beginning at `second` (since 1970).
    pub fn starting_at(self, second: i64) -> Self {
        Workload { second, ..self }
    }

    /// What the tables must hold once all transactions that have been given out are applied.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Appends a record that has no row.
    fn plain(&mut self, operation: Operation, after: Images, out: &mut Transaction) {
        self.step(out);
        let record =
            NewRecord { id: self.id, source_position: &self.position, after, ..NewRecord::new(operation, self.second) };
        encode(&record, &mut out.bytes);
        out.ends.push(out.bytes.len());
    }

    /// Moves the source's position on.
    fn step(&mut self, out: &Transaction) {
        self.id += 1;
        self.position.clear();
        write!(self.position, "{}@{}", self.id * 997 + out.ends.len() as i64, 1 + self.id / 100_000)
            .expect("a String takes everything");
    }

    /// Appends a row event.
    fn row(
        &mut self,
        table: &Table,
        operation: Operation,
        before: Option<&[Value]>,
        after: Option<&[Value]>,
        out: &mut Transaction,
    ) {
        self.step(out);
        // A server may stamp the start of a statement, so that a stamp may lie before the one of an earlier change.
        let stamped = if self.random.percent(2) { self.second - self.random.below(4) as i64 } else { self.second };
        let tags = [("pk_uk_info", table.pk_uk_info), ("server_id", "26957161"), ("thread_id", "163931")];
        let (before, after) = self.values.render(table, before, after);
        let images = |row| match row {
            Some(row) => Images::Row(row),
            None => Images::Absent,
        };
        let record = NewRecord {
            id: self.id,
            source_position: &self.position,
            object_name: Some(table.object_name),
            tags: &tags,
            fields: Some(table.fields),
            before: images(before.as_deref()),
            after: images(after.as_deref()),
            ..NewRecord::new(operation, stamped)
        };
        encode(&record, &mut out.bytes);
        out.ends.push(out.bytes.len());
        out.changes += 1;
        self.left -= 1;
    }

    /// Does something to one row: one row event, or two where a row is deleted and inserted again.
    fn change(&mut self, out: &mut Transaction) {
        let which = match self.random.below(100) {
            0..50 => 0,
            50..75 => 1,
            75..90 => 2,
            _ => 3,
        };
        let Slots { table, ref mut slots, ref mut next_key, ref mut live } = self.model.tables[which];
        let at = self.random.skewed(slots.len() as u64) as usize;
        let slot = &mut slots[at];
        let mut fresh = || {
            *next_key += 1;
            *next_key - 1
        };
        let old = slot.live.then(|| table.row(self.seed, slot.key, slot.version));
        slot.version += 1;
        let dice = self.random.below(100);
        let Some(old) = old else {
            if dice < 50 && slot.version > 1 {
                slot.key = fresh();
            }
            slot.live = true;
            *live += 1;
            let new = table.row(self.seed, slot.key, slot.version);
            return self.row(table, Operation::Insert, None, Some(&new), out);
        };
        match dice {
            0..80 => {
                let new = table.row(self.seed, slot.key, slot.version);
                self.row(table, Operation::Update, Some(&old), Some(&new), out);
            }
            80..85 => {
                slot.key = fresh();
                let new = table.row(self.seed, slot.key, slot.version);
                self.row(table, Operation::Update, Some(&old), Some(&new), out);
            }
            85..93 if self.left >= 2 => {
                let new = table.row(self.seed, slot.key, slot.version);
                self.row(table, Operation::Delete, Some(&old), None, out);
                self.row(table, Operation::Insert, None, Some(&new), out);
            }
            _ => {
                slot.live = false;
                *live -= 1;
                self.row(table, Operation::Delete, Some(&old), None, out);
            }
        }
    }
}

impl Iterator for Workload {
    type Item = Transaction;

    fn next(&mut self) -> Option<Transaction> {
        if self.left == 0 {
            return None;
        }
        let mut out = Transaction::default();
        if self.random.below(TRANSACTIONS_PER_SECOND) == 0 {
            self.second += 1;
        }
        if self.ddl_at.is_some_and(|at| self.left <= at) {
            self.ddl_at = None;
            self.plain(Operation::Ddl, Images::Text("ALTER TABLE shop.orders COMMENT = 'what was bought'"), &mut out);
        }
        match self.random.below(500) {
            0 => self.plain(Operation::Heartbeat, Images::Absent, &mut out),
            1 => {
                out.bytes.extend_from_slice(&[0, 0]); // one of DTS's fillers
                out.ends.push(out.bytes.len());
            }
            _ => {}
        }
        let rows = match self.random.below(1_000) {
            0..600 => 1,
            600..998 => 2 + self.random.below(7),
            _ => 100 + self.random.below(100),
        };
        // What DTS reads from some sources has no BEGIN and COMMIT; then every row is a transaction of its own.
        let begun = rows > 1 || self.random.percent(50);
        if begun {
            self.plain(Operation::Begin, Images::Absent, &mut out);
        }
        while out.changes < rows && self.left > 0 {
            self.change(&mut out);
        }
        if begun {
            self.plain(Operation::Commit, Images::Absent, &mut out);
        }
        Some(out)
    }
}

/// Turns the shop's values into DTS's, which are text for the most part.
#[derive(Clone, Debug, Default)]
struct Render {
    /// The digits of integers, and text in other character sets, one after the other.
    texts: Vec<u8>,
}

impl Render {
    fn render<'a>(
        &'a mut self,
        table: &Table,
        before: Option<&'a [Value]>,
        after: Option<&'a [Value]>,
    ) -> (Option<Vec<dts::Value<'a>>>, Option<Vec<dts::Value<'a>>>) {
        self.texts.clear();
        let mut ends = Vec::with_capacity(24);
        for (column, value) in [before, after].into_iter().flatten().flat_map(|row| row.iter().enumerate()) {
            match value {
                Value::Int(value) => {
                    std::io::Write::write_fmt(&mut self.texts, format_args!("{value}")).expect("writing to memory")
                }
                Value::Text(text) => match charset(table, column) {
                    "gbk" => self.texts.extend_from_slice(&encoding_rs::GBK.encode(text).0),
                    "latin1" => self.texts.extend_from_slice(&encoding_rs::WINDOWS_1252.encode(text).0),
                    _ => {}
                },
                _ => {}
            }
            ends.push(self.texts.len());
        }
        let (texts, mut start, mut ends) = (&self.texts, 0, ends.into_iter());
        let mut row = |row: Option<&'a [Value]>| {
            let values = row?.iter().enumerate().map(|(column, value)| {
                let end = ends.next().expect("one for each value");
                let text = &texts[std::mem::replace(&mut start, end)..end];
                dts_value(value, charset(table, column), text)
            });
            Some(values.collect())
        };
        (row(before), row(after))
    }
}

fn charset(table: &Table, column: usize) -> &'static str {
    table.charsets.iter().find(|(place, _)| *place == column).map_or("utf8mb4", |(_, charset)| charset)
}

/// `value` as DTS writes it; `text` are the digits of an integer or the bytes of a text that is not in utf8mb4.
fn dts_value<'a>(value: &'a Value, charset: &'a str, text: &'a [u8]) -> dts::Value<'a> {
    let part = |part: u32| Some(part as i32);
    match value {
        Value::Null => dts::Value::Null,
        Value::Int(_) => {
            dts::Value::Integer { precision: 8, value: std::str::from_utf8(text).expect("digits are ASCII") }
        }
        Value::Decimal(value) => dts::Value::Decimal { value, precision: 12, scale: 2 },
        Value::Double(value) => dts::Value::Float { value: *value, precision: 22, scale: 31 },
        Value::Text(value) if charset == "utf8mb4" => dts::Value::Character { charset, value: value.as_bytes() },
        Value::Text(_) => dts::Value::Character { charset, value: text },
        Value::Json(value) => dts::Value::TextObject { kind: "json", value },
        Value::Bytes(value) => dts::Value::BinaryObject { kind: "blob", value },
        Value::Date(year, month, day) => dts::Value::DateTime(dts::DateTime {
            year: Some(*year),
            month: part(*month),
            day: part(*day),
            ..dts::DateTime::default()
        }),
        Value::DateTime(year, month, day, second, micros) => dts::Value::DateTime(dts::DateTime {
            year: Some(*year),
            month: part(*month),
            day: part(*day),
            hour: part(second / 3600),
            minute: part(second / 60 % 60),
            second: part(second % 60),
            micros: part(*micros),
        }),
        Value::Instant(seconds, micros) => dts::Value::Timestamp { seconds: *seconds, micros: *micros as i32 },
    }
}
