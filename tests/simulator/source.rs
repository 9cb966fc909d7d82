//! A source in memory: a log of transactions that grows, its serial reader and its decoder.
//!
//! The reader is to the pipeline what a binlog reader is: it numbers changes with gaps, gives times by the real
//! [`Clock`], goes back to the beginning of the transaction after a restart, and stops in the middle of transactions.

use std::sync::{Arc, Mutex};

use tidegate::change::{Changes, Column, NewChange, Op, TableName, TableSchema};
use tidegate::source::{Announced, Clock, Decoder, Mark, Raw, Raws, Reader, Resume, SourceError, Start};

use super::world::{below, call, chance, now_ms};

/// The tables of the source.
pub const TABLES: [&str; 2] = ["a", "b"];

/// What a change does to a key.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub table: usize,
    pub key: u64,
    pub op: Op,
    /// A number of its own.
    pub value: u64,
}

/// A transaction of the source.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// When it was committed: ms, of which a source of whole seconds shows the seconds.
    pub time: u64,
    pub changes: Vec<Change>,
}

/// The log of the source.
#[derive(Clone, Default)]
pub struct Log(pub Arc<Mutex<Vec<Transaction>>>);

impl Log {
    pub fn changes(&self) -> Vec<Change> {
        self.0.lock().unwrap().iter().flat_map(|transaction| transaction.changes.clone()).collect()
    }
}

/// Every seq has a gap behind it.
pub const SEQS: u64 = 2;

/// The seq of the first change is this.
const FIRST: u64 = 2;

/// Reads the log.
pub struct LogReader {
    log: Log,
    /// The next transaction, and the next change in it.
    transaction: usize,
    change: usize,
    seq: u64,
    /// The seq of the first change of the transaction.
    begun: u64,
    clock: Clock,
    whole_seconds: bool,
}

impl LogReader {
    pub fn open(log: &Log, start: &Start, whole_seconds: bool) -> LogReader {
        let (transaction, seq, clock) = match start {
            Start::Configured => (0, FIRST, Clock::from(0)),
            Start::Resume { resume, clock } => (resume.position.parse().unwrap(), resume.seq, clock.clone()),
        };
        LogReader { log: log.clone(), transaction, change: 0, seq, begun: seq, clock, whole_seconds }
    }

    fn mark(&self) -> Mark {
        let resume = Resume { position: self.transaction.to_string(), seq: self.begun };
        Mark { seq: self.seq, time: self.clock.time(self.seq), resume, end: false }
    }
}

impl Reader for LogReader {
    fn begun(&self) -> Mark {
        self.mark()
    }

    fn read(&mut self, out: &mut Raws) -> Result<Mark, SourceError> {
        call();
        for _ in 0..below(6) {
            let next = self.log.0.lock().unwrap().get(self.transaction).cloned();
            let Some(transaction) = next else {
                self.clock.idle(self.seq, now_ms());
                break;
            };
            if self.change == 0 {
                self.begun = self.seq;
                let now = now_ms();
                match self.whole_seconds {
                    true => self.clock.second(self.seq, transaction.time / 1000, now),
                    false => self.clock.exact(self.seq, transaction.time, now),
                };
            }
            let change = transaction.changes[self.change];
            let body =
                [change.table as u64, change.key, change.op as u64, change.value].map(|n| n.to_string()).join(" ");
            out.push_raw(self.seq, self.clock.time(self.seq), &self.transaction.to_string(), b"", body.as_bytes());
            self.seq += SEQS;
            self.change += 1;
            if self.change == transaction.changes.len() {
                (self.transaction, self.change, self.begun) = (self.transaction + 1, 0, self.seq);
            }
        }
        Ok(self.mark())
    }
}

/// Decodes what the reader reads.
#[derive(Default)]
pub struct LogDecoder {
    announced: Announced,
}

pub fn schema(table: usize, since_seq: u64) -> TableSchema {
    let column = |name: &str| Column { name: name.into(), ty: "bigint".parse().unwrap(), nullable: false };
    TableSchema {
        name: TableName::new("d", TABLES[table]),
        columns: vec![column("k"), column("v")],
        key: vec!["k".into()],
        since_seq,
        partial: false,
    }
}

impl Decoder for LogDecoder {
    fn decode(&mut self, raw: &Raw, out: &mut Changes) -> Result<(), SourceError> {
        let body = std::str::from_utf8(raw.body).unwrap();
        let numbers: Vec<u64> = body.split(' ').map(|number| number.parse().unwrap()).collect();
        let [table, key, op, value] = numbers[..] else { panic!("a change is four numbers") };
        let op = [Op::Insert, Op::Update, Op::Delete][op as usize];
        let (seq, time) = (raw.head.seq, raw.head.time);
        self.announced.announce(&schema(table as usize, seq), time, raw.position, out);
        let (key_text, row) = (key.to_string(), format!("{{\"k\":{key},\"v\":{value}}}"));
        out.push_change(&NewChange {
            op,
            seq,
            time,
            database: "d",
            table: TABLES[table as usize],
            key: key_text.as_bytes(),
            position: raw.position.as_bytes(),
            before: b"",
            row: row.as_bytes(),
        });
        Ok(())
    }
}

/// The next transaction of a workload on so many keys: a possible history of each key, with keys that change and rows that
/// are deleted and inserted again.
pub fn transaction(rows: &mut [Vec<bool>; 2], value: &mut u64, changes_max: u64) -> Transaction {
    let mut changes = Vec::new();
    let mut push = |rows: &mut [Vec<bool>; 2], table: usize, key: usize, delete: bool| {
        let there = &mut rows[table][key];
        let op = match (*there, delete) {
            (true, true) => Op::Delete,
            (true, false) => Op::Update,
            (false, _) => Op::Insert,
        };
        *there = op != Op::Delete;
        *value += 1;
        changes.push(Change { table, key: key as u64, op, value: *value });
    };
    for _ in 0..1 + below(changes_max) {
        let table = below(2) as usize;
        let keys = rows[table].len() as u64;
        // Some keys are hot.
        let key = below(keys).min(below(keys)) as usize;
        match below(8) {
            0 => push(rows, table, key, true),
            // A row moves to another key.
            1 if rows[table][key] => {
                let to = below(keys) as usize;
                push(rows, table, key, true);
                push(rows, table, to, false);
            }
            2 => {
                push(rows, table, key, true);
                push(rows, table, key, false);
            }
            _ => push(rows, table, key, false),
        }
    }
    let time = now_ms();
    // A server may stamp the beginning of a statement.
    Transaction { time: if chance(4) { time.saturating_sub(below(1500)) } else { time }, changes }
}
