//! The reading end: records in, changes by epoch out, and a frontier that is known, not guessed.
//!
//! A partition is in seq order, so its newest record tells that nothing older follows; a statement tells the same of a
//! partition where nothing happens, once everything below the statement's offset has been read. The reader's frontier is
//! the least of its partitions'. Records that a writer repeated are dropped by their seq.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use serde::{Deserialize, Serialize};

use super::LogError;
use super::client::{assign, consumer_for, end_of, refusal};
use super::meta::{Meta, Statement, meta_topic};
use super::record::parse_record;
use crate::change::{BATCH_BYTES, Changes, TableName, TableSchema, epoch_of};
use crate::config::KafkaConfig;
use crate::letter::{DeadLetter, DeadLetters, text_of};

/// The tables' schemas as the companion topic announces them, for whoever has to wait for one.
#[derive(Debug, Default)]
pub struct Schemas {
    known: Mutex<BTreeMap<TableName, TableSchema>>,
    news: Condvar,
}

impl Schemas {
    /// Takes note of a schema.
    pub fn announce(&self, schema: TableSchema) {
        self.known.lock().expect("no panic while holding it").insert(schema.name.clone(), schema);
        self.news.notify_all();
    }

    /// The schema of a table, waiting at most `patience` for it.
    pub fn find(&self, table: &TableName, patience: Duration) -> Option<TableSchema> {
        let known = self.known.lock().expect("no panic while holding it");
        let missing = |known: &mut BTreeMap<TableName, TableSchema>| !known.contains_key(table);
        let (known, _) = self.news.wait_timeout_while(known, patience, missing).expect("no panic while holding it");
        known.get(table).cloned()
    }
}

/// Where a partition's records stop being needed for an epoch: all of its records of earlier epochs have lower offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStart {
    /// The partition.
    pub partition: u32,
    /// The epoch.
    pub epoch: u64,
    /// The offset.
    pub offset: u64,
}

/// What one poll brought.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Changes by epoch; those of one partition in seq order.
    pub batches: Vec<(u64, Changes)>,
    /// Where epochs begin.
    pub starts: Vec<EpochStart>,
    /// No later poll brings an epoch below this; `None`: this reader has no partition.
    pub frontier: Option<u64>,
}

/// Reads some partitions of a topic as changes by epoch.
pub trait EpochReader: Send {
    /// Takes what is there, waiting at most `wait` for the first record.
    ///
    /// # Errors
    /// A record that can't be used, an offset that retention has passed, a cluster that is gone for good.
    fn poll(&mut self, wait: Duration) -> Result<Fetched, LogError>;

    /// Takes the schemas that have been announced meanwhile. For while nothing can be polled, because what has been is not
    /// applied: a lane may wait for one of them.
    ///
    /// # Errors
    /// As [`poll`](EpochReader::poll).
    fn learn(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    /// Aims at the end that is there now, instead of the one that was there at the start: see
    /// [`caught_up`](EpochReader::caught_up).
    ///
    /// # Errors
    /// The cluster does not answer.
    fn aim_at_end(&mut self) -> Result<(), LogError>;

    /// Once everything that was there at the start has been read: the first epoch that does not have to be durable for
    /// all of it to be durable.
    fn caught_up(&self) -> Option<u64>;
}

#[derive(Debug)]
struct Partition {
    /// Offset of the next record.
    next: u64,
    /// The end that was there at the start.
    end: u64,
    seq: u64,
    /// The first epoch that may still come.
    epoch: u64,
    /// The newest epoch read of what is aimed at, plus one.
    wanted: u64,
    /// The epoch of the newest record read, plus one.
    newest: u64,
    statements: VecDeque<Statement>,
    batch: Changes,
}

/// Reads some partitions of a topic, and all of its companion.
pub struct Reader {
    consumer: BaseConsumer,
    /// Of the companion topic; a consumer of its own, because the end of a partition is told without its topic.
    meta: BaseConsumer,
    topic: String,
    meta_topic: String,
    epoch: Duration,
    partitions: BTreeMap<u32, Partition>,
    schemas: Arc<Schemas>,
    /// Everything up to this seq comes as one epoch, the first.
    together: u64,
    /// Where each partition was begun, until it has been told.
    begun: Vec<EpochStart>,
    letters: DeadLetters,
}

impl Reader {
    /// A reader of `partitions`: each with the offset to begin at and the end that is there now. `epoch` is the length of
    /// an epoch. Everything up to seq `together` comes as one epoch, so that it is applied in one step: a target without
    /// transactions may have half of it, and going there again by smaller steps would write rows back. Schemas go to
    /// `schemas`, records that can't be used to `letters`.
    ///
    /// # Errors
    /// Settings that librdkafka does not take.
    pub fn new(
        config: &KafkaConfig,
        partitions: &BTreeMap<u32, (u64, u64)>,
        epoch: Duration,
        together: u64,
        schemas: Arc<Schemas>,
        letters: DeadLetters,
    ) -> Result<Reader, LogError> {
        let (consumer, meta) = (consumer_for(config)?, consumer_for(config)?);
        let meta_topic = meta_topic(&config.topic);
        let starts = partitions.iter().map(|(partition, (start, _))| (*partition, Offset::Offset(*start as i64)));
        assign(&consumer, &config.topic, starts)?;
        assign(&meta, &meta_topic, [(0, Offset::Beginning)].into_iter())?;
        let partition = |(number, (start, end)): (&u32, &(u64, u64))| {
            let state = Partition {
                next: *start,
                end: *end,
                seq: 0,
                epoch: 0,
                wanted: 0,
                newest: 0,
                statements: VecDeque::new(),
                batch: Changes::default(),
            };
            (*number, state)
        };
        Ok(Reader {
            consumer,
            meta,
            topic: config.topic.clone(),
            meta_topic,
            epoch,
            partitions: partitions.iter().map(partition).collect(),
            schemas,
            together,
            begun: partitions
                .iter()
                .map(|(p, (start, _))| EpochStart { partition: *p, epoch: 0, offset: *start })
                .collect(),
            letters,
        })
    }

    /// Takes what the companion topic has.
    fn take_metas(&mut self) -> Result<(), LogError> {
        while let Some(message) = self.meta.poll(Duration::ZERO) {
            let message = match message {
                Ok(message) => message,
                Err(error) => match refusal(&self.meta_topic, &error) {
                    Some(refusal) => return Err(refusal),
                    None => continue,
                },
            };
            let meta = Meta::from_record(message.key().unwrap_or_default(), message.payload().unwrap_or_default())
                .map_err(|e| LogError(format!("{}/0/{}: {e}", self.meta_topic, message.offset())))?;
            self.take(meta);
        }
        Ok(())
    }

    fn take(&mut self, meta: Meta) {
        match meta {
            Meta::Run(_) => {}
            Meta::Schema(schema) => self.schemas.announce(schema),
            Meta::Statement(statement) => {
                if let Some(partition) = self.partitions.get_mut(&statement.partition) {
                    partition.statements.push_back(statement);
                }
            }
        }
    }
}

impl EpochReader for Reader {
    fn poll(&mut self, wait: Duration) -> Result<Fetched, LogError> {
        let mut fetched = Fetched { starts: std::mem::take(&mut self.begun), ..Fetched::default() };
        let deadline = Instant::now() + wait;
        let mut bytes = 0;
        while bytes < 4 * BATCH_BYTES {
            let patience = if bytes == 0 { deadline.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            let Some(message) = self.consumer.poll(patience) else { break };
            let message = match message {
                Ok(message) => message,
                // Markers of transactions leave gaps: the last offsets may hold no record.
                Err(KafkaError::PartitionEOF(number)) => {
                    if let Some(partition) = self.partitions.get_mut(&(number as u32)) {
                        partition.next = partition.next.max(partition.end);
                    }
                    continue;
                }
                Err(error) => match refusal(&self.topic, &error) {
                    Some(refusal) => return Err(refusal),
                    None => continue,
                },
            };
            bytes += message.payload_len() + 64;
            let offset = message.offset() as u64;
            let number = message.partition() as u32;
            let partition = self.partitions.get_mut(&number).expect("only assigned partitions are read");
            if offset < partition.next {
                continue;
            }
            partition.next = offset + 1;
            let parsed =
                parse_record(message.headers(), message.key(), message.payload(), number, offset, &mut partition.batch);
            if let Err(reason) = parsed {
                let letter = DeadLetter {
                    position: format!("{}/{number}/{offset}", self.topic),
                    reason: reason.to_string(),
                    key: text_of(message.key()),
                    value: text_of(message.payload()),
                    ..DeadLetter::default()
                };
                self.letters.keep(&letter).map_err(LogError)?;
                continue;
            }
            let batch = &mut partition.batch;
            let head = *batch.head(batch.len() - 1);
            if head.seq <= partition.seq {
                // Its writer repeated it after a restart.
                batch.pop();
                continue;
            }
            partition.seq = head.seq;
            // A publisher that had stopped in good order may begin again inside an epoch that was taken as complete;
            // what comes then belongs to the next.
            let epoch = match head.seq <= self.together {
                true => partition.epoch,
                false => epoch_of(head.time, self.epoch).max(partition.epoch),
            };
            partition.newest = epoch + 1;
            if offset < partition.end {
                partition.wanted = epoch + 1;
            }
            if epoch > partition.epoch {
                cut(partition, &mut fetched.batches, true);
                partition.epoch = epoch;
                fetched.starts.push(EpochStart { partition: number, epoch, offset });
            } else if batch.payload_bytes() >= BATCH_BYTES {
                cut(partition, &mut fetched.batches, false);
            }
        }
        self.take_metas()?;
        for (number, partition) in &mut self.partitions {
            cut(partition, &mut fetched.batches, false);
            while let Some(statement) = partition.statements.front()
                && statement.offset <= partition.next
            {
                let epoch = epoch_of(statement.time, self.epoch) + u64::from(statement.last);
                let behind = statement.seq <= self.together; // what must not be cut may still come
                partition.statements.pop_front();
                if epoch > partition.epoch && !behind {
                    partition.epoch = epoch;
                    fetched.starts.push(EpochStart { partition: *number, epoch, offset: partition.next });
                }
            }
        }
        fetched.frontier = self.partitions.values().map(|partition| partition.epoch).min();
        Ok(fetched)
    }

    fn learn(&mut self) -> Result<(), LogError> {
        self.take_metas()
    }

    fn aim_at_end(&mut self) -> Result<(), LogError> {
        for (number, partition) in &mut self.partitions {
            partition.end = end_of(&self.consumer, &self.topic, *number)?;
            partition.wanted = partition.newest;
        }
        Ok(())
    }

    fn caught_up(&self) -> Option<u64> {
        let read = self.partitions.values().all(|partition| partition.next >= partition.end);
        read.then(|| self.partitions.values().map(|partition| partition.wanted).max().unwrap_or(0))
    }
}

/// Moves a partition's batch into `batches`, at the partition's epoch; `keep_last`: all but its last change, which
/// belongs to the next.
fn cut(partition: &mut Partition, batches: &mut Vec<(u64, Changes)>, keep_last: bool) {
    let mut batch = std::mem::take(&mut partition.batch);
    if keep_last {
        let (head, payload) = batch.get(batch.len() - 1);
        partition.batch.push(*head, payload);
        batch.pop();
    }
    if !batch.is_empty() {
        batches.push((partition.epoch, batch));
    }
}
