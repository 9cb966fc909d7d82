//! The writing end: changes in, records out, statements behind them.
//!
//! A partition has one writer, which produces in seq order with an idempotent producer, so that the partition's order is
//! the source's. Delivery callbacks alone say what is there (`flush` also succeeds after a time-out): a batch is
//! acknowledged, and its mark may become statements, when every record up to it has been delivered.
//!
//! With transactions, records and the statements about them are committed together, and only that acknowledges them: what
//! the statements of a partition say is exactly what a consumer of committed records finds in it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::Message;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use serde::{Deserialize, Serialize};

use super::LogError;
use super::client::{PATIENCE, kafka_config};
use super::meta::{Meta, Statement, meta_topic};
use super::record::headers_of;
use super::run::{refused, refused_because, transaction_error};
use crate::change::{Change, Changes, Op, TableName, TableSchema};
use crate::config::KafkaConfig;
use crate::source::Mark;

/// What is known of a partition when its writer starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStart {
    /// Changes with a lower seq are in the partition already.
    pub seq: u64,
    /// They have lower offsets than this.
    pub offset: u64,
}

/// One batch on its way.
#[derive(Debug)]
struct Pending {
    ticket: u64,
    outstanding: usize,
    mark: Option<Mark>,
}

#[derive(Debug, Default)]
struct Deliveries {
    pending: VecDeque<Pending>,
    /// End offset of each partition as far as delivered.
    ends: BTreeMap<u32, u64>,
    /// Statements and schemas not yet delivered.
    metas: usize,
    failure: Option<String>,
}

/// The ticket under which statements and schemas are produced.
const META: usize = 0;

#[derive(Debug, Default)]
struct Context {
    deliveries: Mutex<Deliveries>,
}

impl ClientContext for Context {
    /// The client says here, and else only to the next commit, that a transaction has failed; its records are held back
    /// until then, without a report.
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "TXNERR" {
            self.fail(refused_because(message));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.fail(refused_because(reason));
        }
    }
}

impl Context {
    fn fail(&self, failure: String) {
        self.deliveries.lock().expect("no panic while holding it").failure.get_or_insert(failure);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let mut deliveries = self.deliveries.lock().expect("no panic while holding it");
        match result {
            Err((error, record)) => {
                let place = format!("{}/{}", record.topic(), record.partition());
                deliveries.failure.get_or_insert(format!("{place}: a record was not delivered: {}", refused(error)));
            }
            Ok(_) if ticket == META => deliveries.metas -= 1,
            Ok(record) => {
                let end = deliveries.ends.entry(record.partition() as u32).or_default();
                *end = (*end).max(record.offset() as u64 + 1);
                // The oldest batches are at the front, and there are few.
                let pending = deliveries.pending.iter_mut().find(|p| p.ticket == ticket as u64);
                pending.expect("a batch is pending until its last delivery").outstanding -= 1;
            }
        }
    }
}

/// Writes the partitions of one worker.
pub struct Writer {
    producer: BaseProducer<Context>,
    topic: Arc<str>,
    meta_topic: Arc<str>,
    starts: BTreeMap<u32, PartitionStart>,
    schemas: HashMap<TableName, TableSchema>,
    interval: Duration,
    /// Whether records wait for a transaction's commit, and whether one is open.
    transactional: bool,
    in_transaction: bool,
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
    producer: BaseProducer<Context>,
    topic: String,
    transactional: bool,
}

impl OpenWriter {
    /// Opens a writer; with a transactional id it writes in transactions, and whoever wrote with that id before is fenced.
    ///
    /// # Errors
    /// Settings that librdkafka does not take; a cluster that grants no transactions.
    pub fn new(config: &KafkaConfig, transactional_id: Option<&str>) -> Result<OpenWriter, LogError> {
        let mut client = kafka_config(config);
        // The client refuses records that may outlive their transaction.
        let patience = if transactional_id.is_some() { "60000" } else { "300000" };
        for (name, value) in [
            ("enable.idempotence", "true"),
            ("linger.ms", "5"),
            // Less to send and to store: half of the time goes where the broker is.
            ("compression.type", "lz4"),
            ("batch.size", "1000000"),
            ("queue.buffering.max.messages", "500000"),
            ("message.timeout.ms", patience),
        ] {
            if client.get(name).is_none() {
                client.set(name, value);
            }
        }
        if let Some(id) = transactional_id {
            client.set("transactional.id", id).set("transaction.timeout.ms", patience);
        }
        let producer: BaseProducer<Context> = client
            .create_with_context(Context::default())
            .map_err(|e| LogError(format!("Kafka settings of the producer: {e}")))?;
        if let Some(id) = transactional_id {
            producer.init_transactions(PATIENCE).map_err(|e| transaction_error(config, id, &e))?;
        }
        Ok(OpenWriter { producer, topic: config.topic.clone(), transactional: transactional_id.is_some() })
    }

    /// Begins to write the partitions in `starts`. `schemas` are the ones that the companion topic holds; `interval` is
    /// the least time between two statements of a partition, and between two commits.
    pub fn begin(self, starts: BTreeMap<u32, PartitionStart>, schemas: Vec<TableSchema>, interval: Duration) -> Writer {
        let OpenWriter { producer, topic, transactional } = self;
        producer.context().deliveries.lock().expect("no panic while holding it").ends =
            starts.iter().map(|(partition, start)| (*partition, start.offset)).collect();
        Writer {
            producer,
            meta_topic: meta_topic(&topic).into(),
            topic: topic.into(),
            starts,
            schemas: schemas.into_iter().map(|schema| (schema.name.clone(), schema)).collect(),
            interval,
            transactional,
            in_transaction: false,
            delivered: 0,
            committed: 0,
            mark: None,
            stated: None,
        }
    }
}

impl Writer {
    /// States of `partitions`, before anything is written to any of them, where the source is read from: else a partition
    /// that nothing was committed to when a run ends would not be known to lack what that run read.
    ///
    /// # Errors
    /// Statements that can't be delivered or committed.
    pub fn state_begun(&mut self, partitions: impl Iterator<Item = u32>, begun: &Mark) -> Result<(), LogError> {
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
        self.deliveries().pending.push_back(pending);
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
        let topic = Arc::clone(&self.topic);
        self.produce(
            BaseRecord::with_opaque_to(&topic, ticket as usize)
                .partition(change.head.partition as i32)
                .timestamp(change.head.time as i64)
                .headers(headers_of(change))
                .key(change.key())
                .payload(change.row()),
        )
        .map_err(|e| {
            // What made the client refuse says more than that it does.
            let failure = self.deliveries().failure.take().unwrap_or_else(|| self.refused(&e));
            let key = String::from_utf8_lossy(change.key());
            let place = format!("{}/{}", self.topic, change.head.partition);
            LogError(format!("{place}: table {}, key {key}: {failure}", change.table_name()))
        })
    }

    fn write_schema(&mut self, change: &Change) -> Result<(), LogError> {
        let schema: TableSchema = serde_json::from_slice(change.row()).expect("schemas are made by tidegate itself");
        if let Some(known) = self.schemas.get(&schema.name) {
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
        self.write_meta(&Meta::Schema(schema.clone()))?;
        self.schemas.insert(schema.name.clone(), schema);
        Ok(())
    }

    fn write_meta(&mut self, meta: &Meta) -> Result<(), LogError> {
        let (key, value) = meta.to_record();
        self.deliveries().metas += 1;
        let topic = Arc::clone(&self.meta_topic);
        self.produce(
            BaseRecord::with_opaque_to(&topic, META).partition(0).key(key.as_slice()).payload(value.as_slice()),
        )
        .map_err(|e| LogError(format!("{}: {}", self.meta_topic, self.refused(&e))))
    }

    /// Hands a record to librdkafka, waiting for room in its queue.
    fn produce(&mut self, mut record: BaseRecord<'_, [u8], [u8], usize>) -> Result<(), KafkaError> {
        if self.transactional && !self.in_transaction {
            self.producer.begin_transaction()?;
            self.in_transaction = true;
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Serves delivery reports, waiting at most `wait` for the first; states what has been reached. Returns the highest
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
        let newest = self.deliveries().pending.iter().rev().find_map(|pending| pending.mark.clone());
        if self.is_due(newest.as_ref().or(self.mark.as_ref())) {
            self.commit()?;
        }
        Ok(self.committed)
    }

    fn serve(&mut self, wait: Duration) -> Result<(), LogError> {
        self.producer.poll(wait);
        let mut deliveries = self.producer.context().deliveries.lock().expect("no panic while holding it");
        if let Some(failure) = deliveries.failure.take() {
            return Err(LogError(format!("topic {}: {failure}", self.topic)));
        }
        while deliveries.pending.front().is_some_and(|pending| pending.outstanding == 0) {
            let pending = deliveries.pending.pop_front().expect("just seen");
            self.delivered = pending.ticket;
            self.mark = pending.mark.or(self.mark.take());
        }
        Ok(())
    }

    /// Waits for what is on its way, states it, and commits both. Offsets are known only when records are delivered, so
    /// that statements can't be on their way at the same time.
    fn commit(&mut self) -> Result<(), LogError> {
        while !self.deliveries().pending.is_empty() {
            self.serve(Duration::from_millis(1))?;
        }
        if self.is_due(self.mark.as_ref()) {
            self.state()?;
        }
        // The client waits in a commit for reports that only this thread serves: nothing may be outstanding.
        while self.deliveries().metas > 0 {
            self.serve(Duration::from_millis(1))?;
        }
        if self.in_transaction {
            loop {
                match self.producer.commit_transaction(PATIENCE) {
                    Ok(()) => break,
                    Err(KafkaError::Transaction(error)) if error.is_retriable() => {}
                    Err(error) => return Err(LogError(format!("topic {}: {}", self.topic, self.refused(&error)))),
                }
            }
            self.in_transaction = false;
        }
        self.committed = self.delivered;
        Ok(())
    }

    /// What Kafka says, and what to do about it. After a fatal error the client only says that there was one; what it was
    /// has to be asked for.
    fn refused(&self, error: &KafkaError) -> String {
        match self.producer.client().fatal_error() {
            Some((code, reason)) => refused_because(&format!("{code}: {reason}")),
            None => refused(error),
        }
    }

    /// Whether everything produced, statements included, is in Kafka.
    pub fn is_idle(&self) -> bool {
        let deliveries = self.deliveries();
        deliveries.pending.is_empty() && deliveries.metas == 0 && !self.in_transaction
    }

    /// Whether the source's end has been reached and stated.
    pub fn has_ended(&self) -> bool {
        self.mark.as_ref().is_some_and(|mark| mark.end)
    }

    /// Whether a mark has something new to say, and the last statements are old enough.
    fn is_due(&self, mark: Option<&Mark>) -> bool {
        match (mark, &self.stated) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(mark), Some((at, stated))) => stated != mark && (mark.end || at.elapsed() >= self.interval),
        }
    }

    /// Writes the statements of the newest mark whose batch is delivered.
    fn state(&mut self) -> Result<(), LogError> {
        let Some(mark) = self.mark.clone() else { return Ok(()) };
        for (partition, start) in self.starts.clone() {
            if mark.seq < start.seq {
                continue; // still replaying what the partition has: statements only grow
            }
            let offset = self.deliveries().ends.get(&partition).copied().unwrap_or(start.offset);
            self.write_meta(&Meta::Statement(Statement {
                partition,
                time: mark.time,
                seq: mark.seq,
                offset,
                resume: mark.resume.clone(),
                last: mark.end,
            }))?;
        }
        self.stated = Some((Instant::now(), mark));
        Ok(())
    }

    fn deliveries(&self) -> std::sync::MutexGuard<'_, Deliveries> {
        self.producer.context().deliveries.lock().expect("no panic while holding it")
    }
}
