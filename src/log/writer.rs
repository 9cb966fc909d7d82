//! The writing end: changes in, records out, statements behind them.
//!
//! A partition has one writer, which produces in seq order with an idempotent producer, so that the partition's order is
//! the source's. Delivery reports alone say what is there: a batch is acknowledged, and its mark may become statements, when
//! every record up to it has been delivered.
//!
//! With transactions, records and the statements about them are committed together, and only that acknowledges them: what
//! the statements of a partition say is exactly what a consumer of committed records finds in it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::LogError;
use super::kafka::{Delivered, Kafka, NewRecord, Producer};
use super::meta::{Layout, Meta, Statement, meta_topic};
use super::record::headers_of;
use crate::change::{Change, Changes, Op, TableName, TableSchema};
use crate::source::Mark;

/// What is known of a partition when its writer starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStart {
    /// Changes with a lower seq are in the partition already.
    pub seq: u64,
    /// Changes with a lower time (ms) are, too.
    pub time: u64,
    /// They have lower offsets than this.
    pub offset: u64,
    /// Whether nothing behind that has ever been committed, as where there were always transactions.
    pub exact: bool,
}

/// When a writer states what it has written, and commits it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The least time between two statements of a partition, and between two commits.
    pub interval: Duration,
    /// A transaction of so many bytes of batches is committed at once: what is not committed is in flight, and whoever has as much in
    /// flight as he may would wait for the interval to pass.
    pub bytes: usize,
}

/// One batch on its way.
#[derive(Debug)]
struct Pending {
    ticket: u64,
    outstanding: usize,
    mark: Option<Mark>,
}

/// What has been sent and what has arrived.
#[derive(Debug, Default)]
struct Deliveries {
    /// Batches not delivered in full, oldest first.
    pending: VecDeque<Pending>,
    /// End offset of each partition as far as delivered.
    ends: BTreeMap<u32, u64>,
    /// Statements and schemas not yet delivered.
    metas: usize,
    /// A partition that went back from one end to another: of what it had, some is gone.
    back: Option<(u32, u64, u64)>,
}

impl Deliveries {
    fn arrived(&mut self, delivered: Delivered) {
        if delivered.ticket == META {
            self.metas -= delivered.records;
            return;
        }
        let end = self.ends.entry(delivered.partition).or_default();
        if delivered.end < *end + delivered.records as u64 {
            self.back.get_or_insert((delivered.partition, *end, delivered.end));
        }
        *end = delivered.end;
        // The oldest batches are at the front, and there are few.
        let pending = self.pending.iter_mut().find(|pending| pending.ticket == delivered.ticket);
        pending.expect("a batch is pending until its last delivery").outstanding -= delivered.records;
    }
}

/// The ticket under which statements and schemas are produced.
const META: u64 = 0;

/// How long a commit that has waited so long already waits at a time: not much longer than it has to, and a broker that is busy or
/// away is not asked again and again.
fn patience(waited: Duration) -> Duration {
    (waited / 4).clamp(Duration::from_millis(1), Duration::from_millis(20))
}

/// Writes the partitions of one worker.
pub struct Writer {
    producer: Box<dyn Producer>,
    topic: String,
    meta_topic: String,
    starts: BTreeMap<u32, PartitionStart>,
    layout: Layout,
    /// How many partitions the topic has, if it once had fewer.
    grown: Option<u32>,
    schemas: HashMap<TableName, TableSchema>,
    pace: Pace,
    /// Whether records wait for a transaction's commit, whether one is open, and the bytes in it.
    transactional: bool,
    in_transaction: bool,
    bytes: usize,
    /// The partitions that have no record yet in the transaction, where it is known what is before it.
    untouched: BTreeSet<u32>,
    deliveries: Deliveries,
    /// The newest ticket that is delivered, and the newest that is committed.
    delivered: u64,
    committed: u64,
    /// The newest mark whose batch is delivered, and what was last stated.
    mark: Option<Mark>,
    stated: Option<(Instant, Mark)>,
}

/// A writer that does not know yet what is written: whoever wrote before with its transactional id is fenced, so that what
/// is read now stays true.
pub struct OpenWriter {
    producer: Box<dyn Producer>,
    topic: String,
    transactional: bool,
}

impl OpenWriter {
    /// Opens a writer of a topic; with a transactional id it writes in transactions, and whoever wrote with that id before
    /// is fenced.
    ///
    /// # Errors
    /// Settings that the client does not take; a cluster that grants no transactions.
    pub fn new(kafka: &dyn Kafka, topic: &str, transactional_id: Option<&str>) -> Result<OpenWriter, LogError> {
        let producer = kafka.producer(transactional_id)?;
        Ok(OpenWriter { producer, topic: topic.to_string(), transactional: transactional_id.is_some() })
    }

    /// Begins to write the partitions in `starts`. `schemas` are the ones that the companion topic holds.
    pub fn begin(
        self,
        starts: BTreeMap<u32, PartitionStart>,
        layout: Layout,
        schemas: Vec<TableSchema>,
        pace: Pace,
    ) -> Writer {
        let OpenWriter { producer, topic, transactional } = self;
        let ends = starts.iter().map(|(partition, start)| (*partition, start.offset)).collect();
        let is_exact = |(_, start): &(&u32, &PartitionStart)| transactional && start.exact;
        let untouched = starts.iter().filter(is_exact).map(|(partition, _)| *partition).collect();
        Writer {
            producer,
            meta_topic: meta_topic(&topic),
            topic,
            starts,
            grown: (layout.partitions.len() > 1).then(|| layout.at(u64::MAX)),
            layout,
            schemas: schemas.into_iter().map(|schema| (schema.name.clone(), schema)).collect(),
            pace,
            transactional,
            in_transaction: false,
            bytes: 0,
            untouched,
            deliveries: Deliveries { ends, ..Deliveries::default() },
            delivered: 0,
            committed: 0,
            mark: None,
            stated: None,
        }
    }
}

impl Writer {
    /// States of `partitions`, before anything is written to any of them, where the source is read from: else a partition
    /// that nothing was committed to when a run ends would not be known to lack what that run read. And says with them how
    /// many partitions there are.
    ///
    /// # Errors
    /// Statements that can't be delivered or committed.
    pub fn state_begun(&mut self, partitions: impl Iterator<Item = u32>, begun: &Mark) -> Result<(), LogError> {
        self.write_meta(&Meta::Layout(self.layout.clone()))?;
        for partition in partitions {
            self.write_meta(&Meta::Statement(Statement {
                partition,
                time: begun.time,
                seq: begun.seq,
                offset: 0,
                resume: begun.resume.clone(),
                last: false,
            }))?;
        }
        self.commit()
    }

    /// Produces a batch, in its order. Tickets count 1, 2, 3, …
    ///
    /// # Errors
    /// A record that can't be produced or delivered.
    pub fn write(&mut self, ticket: u64, batch: &Changes) -> Result<(), LogError> {
        let mut pending = Pending { ticket, outstanding: 0, mark: None };
        for change in batch.changes() {
            match change.op() {
                Op::Mark => {
                    pending.mark =
                        Some(serde_json::from_slice(change.row()).expect("marks are made by tidegate itself"));
                }
                Op::Insert | Op::Update | Op::Delete => {
                    pending.outstanding += usize::from(self.is_new(&change));
                }
                Op::Schema => {}
            }
        }
        self.bytes += batch.memory_bytes();
        self.deliveries.pending.push_back(pending);
        for change in batch.changes() {
            match change.op() {
                Op::Schema => self.write_schema(&change)?,
                Op::Insert | Op::Update | Op::Delete if self.is_new(&change) => self.write_change(&change, ticket)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the partition does not have the change yet.
    fn is_new(&self, change: &Change) -> bool {
        let start = self.starts.get(&change.head.partition);
        change.head.seq >= start.expect("changes are routed to the writer of their partition").seq
    }

    fn write_change(&mut self, change: &Change, ticket: u64) -> Result<(), LogError> {
        self.begin_transaction()?;
        let partition = change.head.partition;
        // All of earlier transactions has been delivered.
        let previous = self.untouched.remove(&partition).then(|| self.deliveries.ends[&partition]);
        let record = NewRecord {
            topic: &self.topic,
            partition,
            timestamp: Some(change.head.time),
            key: change.key(),
            value: change.row(),
            headers: Some(headers_of(change, self.grown, previous)),
        };
        self.producer.send(record, ticket).map_err(|said| {
            let key = String::from_utf8_lossy(change.key());
            let place = format!("{}/{partition}", self.topic);
            LogError(format!("{place}: table {}, key {key}: {said}", change.table_name()))
        })
    }

    fn write_schema(&mut self, change: &Change) -> Result<(), LogError> {
        let mut schema: TableSchema =
            serde_json::from_slice(change.row()).expect("schemas are made by tidegate itself");
        if let Some(known) = self.schemas.get(&schema.name) {
            // What is read again comes in the shapes that it had then, and the companion keeps one: the newest.
            if schema.since_seq < known.since_seq {
                return Ok(());
            }
            schema.keep_types(known);
            if known.same_shape(&schema) {
                return Ok(());
            }
            if schema.has_moved_keys(known) {
                return Err(LogError(format!(
                    "{}: the key of table {} was ({}) and is ({}) now, or its columns' types are others: rows can't be followed \
                     across that; publish to a new topic from behind it, with the tables copied anew, or leave the table out",
                    String::from_utf8_lossy(change.position()),
                    schema.name,
                    known.key.join(", "),
                    schema.key.join(", ")
                )));
            }
        }
        if schema.key.is_empty() {
            tracing::warn!(
                "{}: table {} has neither a primary key nor a NOT NULL unique key: its changes are published, land refuses them",
                String::from_utf8_lossy(change.position()),
                schema.name
            );
        }
        self.write_meta(&Meta::Schema(schema.clone()))?;
        self.schemas.insert(schema.name.clone(), schema);
        Ok(())
    }

    fn write_meta(&mut self, meta: &Meta) -> Result<(), LogError> {
        self.begin_transaction()?;
        let (key, value) = meta.to_record();
        self.deliveries.metas += 1;
        let record = NewRecord {
            topic: &self.meta_topic,
            partition: 0,
            timestamp: None,
            key: &key,
            value: &value,
            headers: None,
        };
        self.producer.send(record, META).map_err(|said| LogError(format!("{}: {said}", self.meta_topic)))
    }

    /// Begins a transaction if records are to be in one and none is open.
    fn begin_transaction(&mut self) -> Result<(), LogError> {
        if self.transactional && !self.in_transaction {
            self.producer.begin().map_err(|said| self.failed(&said))?;
            self.in_transaction = true;
        }
        Ok(())
    }

    fn failed(&self, said: &str) -> LogError {
        LogError(format!("topic {}: {said}", self.topic))
    }

    /// Serves delivery reports, waiting `wait` for them; states what has been reached. Returns the highest
    /// ticket of which, and of everything before, every record is in Kafka, where there are transactions: committed.
    ///
    /// # Errors
    /// A record that was not delivered; a newer run of the job that has fenced this writer.
    pub fn poll(&mut self, wait: Duration) -> Result<u64, LogError> {
        self.serve(wait)?;
        if !self.transactional {
            if self.is_due(self.mark.as_ref()) {
                self.state()?;
            }
            return Ok(self.delivered);
        }
        let newest = self.deliveries.pending.iter().rev().find_map(|pending| pending.mark.clone());
        if self.is_due(newest.as_ref().or(self.mark.as_ref())) {
            self.commit()?;
        }
        Ok(self.committed)
    }

    fn serve(&mut self, wait: Duration) -> Result<(), LogError> {
        let deliveries = &mut self.deliveries;
        let polled = self.producer.poll(wait, &mut |delivered| deliveries.arrived(delivered));
        polled.map_err(|said| self.failed(&said))?;
        if let Some((partition, from, to)) = self.deliveries.back {
            return Err(LogError(format!(
                "{}/{partition}: the partition ended at offset {from}, and a record behind that got offset {}: the topic was deleted \
                 and made anew, or Kafka has lost records: publish to a new topic, with the tables copied anew",
                self.topic,
                to - 1
            )));
        }
        while let Some(pending) = self.deliveries.pending.pop_front_if(|pending| pending.outstanding == 0) {
            self.delivered = pending.ticket;
            self.mark = pending.mark.or(self.mark.take());
        }
        Ok(())
    }

    /// Waits for what is on its way, states it, and commits both. Offsets are known only when records are delivered, so
    /// that statements can't be on their way at the same time.
    fn commit(&mut self) -> Result<(), LogError> {
        let asked = Instant::now();
        while !self.deliveries.pending.is_empty() {
            self.serve(patience(asked.elapsed()))?;
        }
        if self.is_due(self.mark.as_ref()) {
            self.state()?;
        }
        // The client waits in a commit for reports that only this thread serves: nothing may be outstanding.
        let asked = Instant::now();
        while self.deliveries.metas > 0 {
            self.serve(patience(asked.elapsed()))?;
        }
        if self.in_transaction {
            self.producer.commit().map_err(|said| self.failed(&said))?;
            self.in_transaction = false;
            self.bytes = 0;
            self.untouched.extend(self.starts.keys());
        }
        self.committed = self.delivered;
        Ok(())
    }

    /// Whether everything produced, statements included, is in Kafka.
    pub fn is_idle(&self) -> bool {
        self.deliveries.pending.is_empty() && self.deliveries.metas == 0 && !self.in_transaction
    }

    /// Whether the source's end has been reached and stated.
    pub fn has_ended(&self) -> bool {
        self.mark.as_ref().is_some_and(|mark| mark.end)
    }

    /// Whether a mark has something new to say, and the last statements are old enough, or enough is waiting for it.
    fn is_due(&self, mark: Option<&Mark>) -> bool {
        match (mark, &self.stated) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(mark), Some((at, stated))) => {
                let is_full = self.in_transaction && self.bytes >= self.pace.bytes;
                stated != mark && (mark.end || is_full || at.elapsed() >= self.pace.interval)
            }
        }
    }

    /// Writes the statements of the newest mark whose batch is delivered.
    fn state(&mut self) -> Result<(), LogError> {
        let Some(mark) = self.mark.clone() else { return Ok(()) };
        for (partition, start) in self.starts.clone() {
            if mark.seq < start.seq || mark.time < start.time {
                continue; // still replaying what the partition has: statements only grow
            }
            let offset = self.deliveries.ends.get(&partition).copied().unwrap_or(start.offset);
            self.write_meta(&Meta::Statement(Statement {
                partition,
                time: mark.time,
                seq: mark.seq,
                offset,
                resume: mark.resume.clone(),
                // Inside of a transaction its end has to be waited for.
                last: mark.end && mark.resume.seq == mark.seq,
            }))?;
        }
        self.stated = Some((Instant::now(), mark));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
