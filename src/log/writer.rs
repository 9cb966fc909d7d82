//! The writing end: changes in, records out, statements behind them.
//!
//! A partition has one writer, which produces in seq order with an idempotent producer, so that the partition's order is
//! the source's. Delivery callbacks alone say what is there (`flush` also succeeds after a time-out): a batch is
//! acknowledged, and its mark may become statements, when every record up to it has been delivered.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::Message;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use super::LogError;
use super::client::kafka_config;
use super::meta::{Meta, Statement, meta_topic};
use super::record::headers_of;
use crate::change::{Change, Changes, Op, TableName, TableSchema};
use crate::config::KafkaConfig;
use crate::source::Mark;

/// What is known of a partition when its writer starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionStart {
    /// Changes with a lower seq are in the partition already.
    pub seq: u64,
    /// The partition's end offset.
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

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let mut deliveries = self.deliveries.lock().expect("no panic while holding it");
        match result {
            Err((error, record)) => {
                let place = format!("{}/{}", record.topic(), record.partition());
                deliveries.failure.get_or_insert(format!("{place}: a record was not delivered: {error}"));
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
    topic: String,
    meta_topic: String,
    starts: BTreeMap<u32, PartitionStart>,
    schemas: HashMap<TableName, TableSchema>,
    interval: Duration,
    acked: u64,
    /// The newest mark whose batch is delivered, and what was last stated.
    mark: Option<Mark>,
    stated: Option<(Instant, Mark)>,
}

impl Writer {
    /// A writer of the partitions in `starts`. `schemas` are the ones that the companion topic holds; `interval` is the
    /// least time between two statements of a partition.
    ///
    /// # Errors
    /// Settings that librdkafka does not take.
    pub fn new(
        config: &KafkaConfig,
        starts: BTreeMap<u32, PartitionStart>,
        schemas: Vec<TableSchema>,
        interval: Duration,
    ) -> Result<Writer, LogError> {
        let mut client = kafka_config(config);
        for (name, value) in [
            ("enable.idempotence", "true"),
            ("linger.ms", "5"),
            // Less to send and to store: half of the time goes where the broker is.
            ("compression.type", "lz4"),
            ("batch.size", "1000000"),
            ("queue.buffering.max.messages", "500000"),
            ("message.timeout.ms", "300000"),
        ] {
            if client.get(name).is_none() {
                client.set(name, value);
            }
        }
        let ends = starts.iter().map(|(partition, start)| (*partition, start.offset)).collect();
        let context = Context { deliveries: Mutex::new(Deliveries { ends, ..Deliveries::default() }) };
        Ok(Writer {
            producer: client
                .create_with_context(context)
                .map_err(|e| LogError(format!("Kafka settings of the producer: {e}")))?,
            topic: config.topic.clone(),
            meta_topic: meta_topic(&config.topic),
            starts,
            schemas: schemas.into_iter().map(|schema| (schema.name.clone(), schema)).collect(),
            interval,
            acked: 0,
            mark: None,
            stated: None,
        })
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

    fn write_change(&self, change: &Change, ticket: u64) -> Result<(), LogError> {
        self.produce(
            BaseRecord::with_opaque_to(&self.topic, ticket as usize)
                .partition(change.head.partition as i32)
                .timestamp(change.head.time as i64)
                .headers(headers_of(change))
                .key(change.key())
                .payload(change.row()),
        )
        .map_err(|e| {
            let key = String::from_utf8_lossy(change.key());
            LogError(format!("{}/{}: table {}, key {key}: {e}", self.topic, change.head.partition, change.table_name()))
        })
    }

    fn write_schema(&mut self, change: &Change) -> Result<(), LogError> {
        let schema: TableSchema = serde_json::from_slice(change.row()).expect("schemas are made by tidegate itself");
        if self.schemas.get(&schema.name).is_some_and(|known| known.same_shape(&schema)) {
            return Ok(());
        }
        self.write_meta(&Meta::Schema(schema.clone()))?;
        self.schemas.insert(schema.name.clone(), schema);
        Ok(())
    }

    fn write_meta(&self, meta: &Meta) -> Result<(), LogError> {
        let (key, value) = meta.to_record();
        self.deliveries().metas += 1;
        self.produce(
            BaseRecord::with_opaque_to(&self.meta_topic, META)
                .partition(0)
                .key(key.as_slice())
                .payload(value.as_slice()),
        )
        .map_err(|e| LogError(format!("{}: {e}", self.meta_topic)))
    }

    /// Hands a record to librdkafka, waiting for room in its queue.
    fn produce(&self, mut record: BaseRecord<'_, [u8], [u8], usize>) -> Result<(), KafkaError> {
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
    /// ticket of which, and of everything before, every record is in Kafka.
    ///
    /// # Errors
    /// A record that was not delivered.
    pub fn poll(&mut self, wait: Duration) -> Result<u64, LogError> {
        self.producer.poll(wait);
        let mut deliveries = self.producer.context().deliveries.lock().expect("no panic while holding it");
        if let Some(failure) = deliveries.failure.take() {
            return Err(LogError(failure));
        }
        while deliveries.pending.front().is_some_and(|pending| pending.outstanding == 0) {
            let pending = deliveries.pending.pop_front().expect("just seen");
            self.acked = pending.ticket;
            self.mark = pending.mark.or(self.mark.take());
        }
        drop(deliveries);
        self.state()?;
        Ok(self.acked)
    }

    /// Whether everything produced, statements included, has been delivered.
    pub fn is_idle(&self) -> bool {
        let deliveries = self.deliveries();
        deliveries.pending.is_empty() && deliveries.metas == 0
    }

    /// Whether the source's end has been reached and stated.
    pub fn has_ended(&self) -> bool {
        self.mark.as_ref().is_some_and(|mark| mark.end)
    }

    /// Writes statements if there is something new to say and the last ones are old enough.
    fn state(&mut self) -> Result<(), LogError> {
        let Some(mark) = &self.mark else { return Ok(()) };
        let due = match &self.stated {
            None => true,
            Some((at, stated)) => stated != mark && (mark.end || at.elapsed() >= self.interval),
        };
        if !due {
            return Ok(());
        }
        let mark = mark.clone();
        for (partition, start) in &self.starts {
            if mark.seq < start.seq {
                continue; // still replaying what the partition has: statements only grow
            }
            let offset = self.deliveries().ends.get(partition).copied().unwrap_or(start.offset);
            self.write_meta(&Meta::Statement(Statement {
                partition: *partition,
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
