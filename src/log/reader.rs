//! The reading end: records in, changes by epoch out, and a frontier that is known, not guessed.
//!
//! A partition is in seq order, so its newest record tells that nothing older follows; a statement tells the same of a
//! partition where nothing happens, once everything below the statement's offset has been read. The reader's frontier is
//! the least of its partitions'. Records that are there again, behind newer ones or behind a statement that has passed them,
//! are dropped by their seq: in this run by what it has read, and from the first record on by what the place that it begins at
//! says of the records before it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::LogError;
use super::kafka::{Consumer, Kafka, Polled, Record};
use super::lead::Lead;
use super::meta::{Layout, Meta, Statement, meta_topic};
use super::record::parse_record;
use crate::change::{BATCH_BYTES, Changes, LookBack, Moment, TableName, TableSchema, epoch_of, moment};
use crate::letter::{DeadLetter, DeadLetters, text_of};

/// So many statements of a partition are kept until its records have been read.
const STATEMENTS_MAX: usize = 1024;

/// The tables' schemas as the companion topic announces them, or the records themselves, for whoever has to wait for one.
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

    /// The schema of a table, waiting at most `patience` for it, and for it to say how values of `column` are written.
    pub fn find(&self, table: &TableName, column: Option<&str>, patience: Duration) -> Option<TableSchema> {
        let known = self.known.lock().expect("no panic while holding it");
        let says = |schema: &TableSchema| column.is_none_or(|column| schema.form(column).is_some());
        let missing = |known: &mut BTreeMap<TableName, TableSchema>| !known.get(table).is_some_and(says);
        let (known, _) = self.news.wait_timeout_while(known, patience, missing).expect("no panic while holding it");
        known.get(table).cloned()
    }
}

/// Where a partition's records stop being needed for a moment: all of its records of earlier moments have lower offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MomentStart {
    /// The partition.
    pub partition: u32,
    /// The moment.
    pub at: Moment,
    /// The offset.
    pub offset: u64,
    /// All of its changes with a lower seq lie before that: what comes later with one is there again. 0 on a topic of others.
    pub passed: u64,
    /// What is known there of what came before, on a topic of others.
    pub look_back: Option<LookBack>,
}

/// What one poll brought.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Changes, each batch at a moment of its epoch; those of one partition in seq order.
    pub batches: Vec<(Moment, Changes)>,
    /// Where moments begin.
    pub starts: Vec<MomentStart>,
    /// Schemas that records have brought: every worker's lanes have to be told.
    pub schemas: Vec<TableSchema>,
    /// No later poll brings a moment below this; `None`: this reader has no partition.
    pub frontier: Option<Moment>,
    /// What is below this moment may be applied though its epoch is open: for now nothing comes that would close it.
    pub settled: Option<Moment>,
}

/// Reads some partitions of a topic as changes by epoch.
pub trait EpochReader: Send {
    /// Takes what is there, waiting at most `wait` for the first record.
    ///
    /// # Errors
    /// A record that can't be used, an offset that retention has passed, a cluster that is gone for good.
    fn poll(&mut self, wait: Duration) -> Result<Fetched, LogError>;

    /// Takes the schemas that have been announced meanwhile. For while nothing can be polled, because what has been is not
    /// applied: a lane may wait for one of them. Waits at most `wait`.
    ///
    /// # Errors
    /// As [`poll`](EpochReader::poll).
    fn learn(&mut self, wait: Duration) -> Result<(), LogError> {
        std::thread::sleep(wait); // there is nothing to be learned
        Ok(())
    }

    /// Aims at the end that is there now, instead of the one that was there at the start: see
    /// [`caught_up`](EpochReader::caught_up).
    ///
    /// # Errors
    /// The cluster does not answer.
    fn aim_at_end(&mut self) -> Result<(), LogError>;

    /// Once everything that was there at the start has been read: the moment below which everything has to be durable for
    /// all of it to be durable.
    fn caught_up(&self) -> Option<Moment>;
}

#[derive(Debug)]
struct Partition {
    /// Offset of the next record.
    next: u64,
    /// The end that was there at the start, and whether it has been reached: markers of transactions leave gaps, so that
    /// the last offsets may hold no record.
    end: u64,
    ended: bool,
    /// Whether that has been said.
    end_said: bool,
    /// No change below this seq comes for the first time any more: it has been read, or lies before where reading began.
    passed: u64,
    /// Everything up to this seq comes as one epoch, the first.
    together: u64,
    /// The first epoch that may still come.
    epoch: u64,
    /// Behind the newest record read of what is aimed at.
    wanted: Moment,
    /// Behind the newest record read.
    newest: Moment,
    statements: VecDeque<Statement>,
    batch: Changes,
    lead: Lead,
}

impl Partition {
    fn begin((next, end): (u64, u64), passed: u64, together: u64) -> Partition {
        Partition {
            next,
            end,
            ended: false,
            end_said: false,
            passed,
            together,
            epoch: 0,
            wanted: 0,
            newest: 0,
            statements: VecDeque::new(),
            batch: Changes::default(),
            lead: Lead::default(),
        }
    }

    /// Takes note of a statement that the reader may not have come to yet: of several at one place the newest. Of many more
    /// than [`STATEMENTS_MAX`] every other one is forgotten, so that some epochs end a little later for who is far behind.
    fn hear(&mut self, statement: Statement) {
        match self.statements.back_mut() {
            Some(back) if back.offset == statement.offset => *back = statement,
            _ => self.statements.push_back(statement),
        }
        if self.statements.len() > STATEMENTS_MAX {
            let newest = self.statements.len() - 1;
            let mut index = 0..;
            self.statements.retain(|_| index.next().is_some_and(|index| index % 2 == newest % 2));
        }
    }

    /// Whether the end that is aimed at has been reached.
    fn is_at_end(&self) -> bool {
        self.ended || self.next >= self.end
    }

    /// That a moment begins with the next record.
    fn start(&self, partition: u32, at: Moment) -> MomentStart {
        MomentStart { partition, at, offset: self.next, passed: self.passed, look_back: None }
    }

    /// No later record of it has a moment below this. What comes together has one moment, so that nothing can let it go in
    /// pieces.
    fn frontier(&self) -> Moment {
        moment(self.epoch, if self.passed > self.together { self.passed } else { 0 })
    }

    /// Moves its batch into `batches`, in the epoch that it is in; `keep_last`: all but the last change, which belongs to
    /// the next.
    fn cut(&mut self, batches: &mut Vec<(Moment, Changes)>, keep_last: bool) {
        let mut batch = std::mem::take(&mut self.batch);
        if keep_last {
            let (head, payload) = batch.get(batch.len() - 1);
            self.batch.push(*head, payload);
            batch.pop();
        }
        if !batch.is_empty() {
            let first = batch.head(0).seq;
            let at = moment(self.epoch, if first > self.together { first } else { 0 });
            self.lead.add(at, batch.payload_bytes());
            batches.push((at, batch));
        }
    }
}

/// How a topic is read.
#[derive(Clone, Debug)]
pub struct ReaderSettings {
    /// The length of an epoch.
    pub epoch: Duration,
    /// How many bytes a partition may be ahead of the slowest.
    pub lead_bytes: usize,
    /// How many partitions the topic has.
    pub of: u32,
    /// Whether nothing has said yet that all of them are written to.
    pub assumed: bool,
    /// Everything up to this seq comes as one epoch, the first, and at one moment, so that it is applied in one step: a target
    /// without transactions may have half of it, and going there again by smaller steps would write rows back.
    pub together: u64,
    /// Of each partition the seq below which all of its changes lie before where it is begun; 0 where that is not known.
    pub passed: BTreeMap<u32, u64>,
}

/// Reads some partitions of a topic, and all of its companion.
pub struct Reader {
    kafka: Arc<dyn Kafka>,
    consumer: Box<dyn Consumer>,
    /// Of the companion topic.
    meta: Box<dyn Consumer>,
    topic: String,
    epoch: Duration,
    lead_bytes: usize,
    of: u32,
    assumed: bool,
    partitions: BTreeMap<u32, Partition>,
    schemas: Arc<Schemas>,
    /// Where each partition was begun, until it has been told.
    begun: Vec<MomentStart>,
    letters: DeadLetters,
}

impl Reader {
    /// A reader of `partitions` of `topic`: each with the offset to begin at and the end that is there now. Schemas go to
    /// `schemas`, records that can't be used to `letters`.
    ///
    /// # Errors
    /// Settings that the client does not take.
    pub fn new(
        kafka: Arc<dyn Kafka>,
        topic: &str,
        partitions: &BTreeMap<u32, (u64, u64)>,
        settings: &ReaderSettings,
        schemas: Arc<Schemas>,
        letters: DeadLetters,
    ) -> Result<Reader, LogError> {
        let starts: Vec<_> = partitions.iter().map(|(partition, (start, _))| (*partition, Some(*start))).collect();
        let consumer = kafka.consumer(topic, &starts)?;
        let meta = kafka.consumer(&meta_topic(topic), &[(0, None)])?;
        let partition = |(number, range): (&u32, &(u64, u64))| {
            let passed = settings.passed.get(number).copied().unwrap_or(0);
            (*number, Partition::begin(*range, passed, settings.together))
        };
        let partitions: BTreeMap<u32, Partition> = partitions.iter().map(partition).collect();
        Ok(Reader {
            kafka,
            consumer,
            meta,
            topic: topic.to_string(),
            epoch: settings.epoch,
            lead_bytes: settings.lead_bytes,
            of: settings.of,
            assumed: settings.assumed,
            begun: partitions.iter().map(|(number, partition)| partition.start(*number, 0)).collect(),
            partitions,
            schemas,
            letters,
        })
    }

    /// Takes what the companion topic has.
    fn take_metas(&mut self, mut wait: Duration) -> Result<(), LogError> {
        let Reader { meta, schemas, partitions, topic, of, assumed, .. } = self;
        let mut take = |record: Record<'_>| {
            let meta = Meta::from_record(record.key.unwrap_or_default(), record.value.unwrap_or_default())
                .map_err(|e| LogError(format!("{}/0/{}: {e}", meta_topic(topic), record.offset)))?;
            match meta {
                Meta::Run(_) => {}
                Meta::Layout(layout) if *assumed => refuse_fewer(topic, *of, &layout)?,
                Meta::Layout(_) => {}
                Meta::Schema(schema) => schemas.announce(schema),
                Meta::Statement(statement) => {
                    let number = statement.partition;
                    if let Some(partition) = partitions.get_mut(&number) {
                        partition.hear(statement);
                    } else if number >= *of {
                        return Err(grown(topic, *of));
                    }
                }
            }
            Ok(())
        };
        while meta.poll(wait, &mut take)? != Polled::Nothing {
            wait = Duration::ZERO;
        }
        Ok(())
    }
}

/// Of a topic that has got more partitions nothing may be applied by who does not read them: a key may have moved.
fn grown(topic: &str, of: u32) -> LogError {
    LogError(format!(
        "topic {topic} has more partitions now than the {of} of when this land began: start it again, it goes on where it was, with \
         all of them"
    ))
}

/// That all partitions that are read are written to: of another nothing would ever be stated, and nothing ever be complete.
fn refuse_fewer(topic: &str, of: u32, layout: &Layout) -> Result<(), LogError> {
    match layout.partitions.last() {
        Some((_, dealt)) if *dealt < of => Err(LogError(format!(
            "topic {topic} was given more partitions while publish began: {of}, of which that writes to {dealt}, as land has learned \
             only now: start it again, it goes on where it was"
        ))),
        _ => Ok(()),
    }
}

/// Takes records of a topic's partitions into the batches of these.
struct Taking<'a> {
    topic: &'a str,
    of: u32,
    epoch: Duration,
    letters: &'a DeadLetters,
    partitions: &'a mut BTreeMap<u32, Partition>,
    fetched: &'a mut Fetched,
    bytes: usize,
}

impl Taking<'_> {
    fn take(&mut self, record: Record<'_>) -> Result<(), LogError> {
        self.bytes += record.value.map_or(0, <[u8]>::len) + 64;
        let (number, offset) = (record.partition, record.offset);
        let partition = self.partitions.get_mut(&number).expect("only assigned partitions are read");
        if offset < partition.next {
            return Ok(());
        }
        partition.next = offset + 1;
        let batch = &mut partition.batch;
        let parsed = parse_record(record.headers, record.key, record.value, number, offset, batch);
        if let Ok(Some(partitions)) = parsed
            && partitions > self.of
        {
            return Err(grown(self.topic, self.of));
        }
        if let Err(reason) = parsed {
            let letter = DeadLetter {
                position: format!("{}/{number}/{offset}", self.topic),
                reason: reason.to_string(),
                key: text_of(record.key),
                value: text_of(record.value),
                ..DeadLetter::default()
            };
            return self.letters.keep(&letter).map_err(LogError);
        }
        let head = *batch.head(batch.len() - 1);
        if head.seq < partition.passed {
            // Its writer repeated it after a restart, or somebody else did.
            batch.pop();
            return Ok(());
        }
        let epoch = match head.seq <= partition.together {
            true => partition.epoch,
            false => epoch_of(head.time, self.epoch).max(partition.epoch),
        };
        partition.newest = moment(epoch, head.seq + 1);
        if offset < partition.end {
            partition.wanted = partition.newest;
        }
        if epoch > partition.epoch {
            partition.cut(&mut self.fetched.batches, true);
            partition.epoch = epoch;
            let (at, passed) = (moment(epoch, 0), head.seq);
            self.fetched.starts.push(MomentStart { partition: number, at, offset, passed, look_back: None });
        } else if batch.payload_bytes() >= BATCH_BYTES {
            partition.cut(&mut self.fetched.batches, false);
        }
        partition.passed = head.seq + 1;
        Ok(())
    }
}

impl EpochReader for Reader {
    fn poll(&mut self, wait: Duration) -> Result<Fetched, LogError> {
        let mut fetched = Fetched { starts: std::mem::take(&mut self.begun), ..Fetched::default() };
        let deadline = Instant::now() + wait;
        let mut taking = Taking {
            topic: &self.topic,
            of: self.of,
            epoch: self.epoch,
            letters: &self.letters,
            partitions: &mut self.partitions,
            fetched: &mut fetched,
            bytes: 0,
        };
        while taking.bytes < 4 * BATCH_BYTES {
            let patience = match taking.bytes {
                0 => deadline.saturating_duration_since(Instant::now()),
                _ => Duration::ZERO,
            };
            match self.consumer.poll(patience, &mut |record| taking.take(record))? {
                Polled::Record => {}
                Polled::End(number) => {
                    if let Some(partition) = taking.partitions.get_mut(&number) {
                        partition.ended = true;
                    }
                }
                Polled::Nothing => break,
            }
        }
        self.take_metas(Duration::ZERO)?;
        for (number, partition) in &mut self.partitions {
            partition.cut(&mut fetched.batches, false);
            while let Some(statement) = partition.statements.front()
                && statement.offset <= partition.next
            {
                let epoch = epoch_of(statement.time, self.epoch);
                let behind = statement.seq <= partition.together; // what must not be cut may still come
                partition.passed = partition.passed.max(statement.seq);
                let last = statement.last;
                partition.statements.pop_front();
                if behind {
                    continue;
                }
                let is_later = epoch > partition.epoch;
                partition.epoch = epoch.max(partition.epoch);
                let at = partition.frontier();
                // What is before it may be applied, and be gone before its epoch ends.
                if is_later || last {
                    fetched.starts.push(partition.start(*number, at));
                }
                if last {
                    fetched.settled = fetched.settled.max(Some(at));
                }
            }
        }
        for (number, partition) in &mut self.partitions {
            // A run may end here, in the middle of an epoch.
            if partition.is_at_end() && !std::mem::replace(&mut partition.end_said, true) {
                fetched.starts.push(partition.start(*number, partition.newest));
            }
        }
        fetched.frontier = self.partitions.values().map(Partition::frontier).min();
        for (number, partition) in &mut self.partitions {
            let (own, frontier) = (partition.frontier(), fetched.frontier.expect("there is a partition"));
            if let Some(held) = partition.lead.keep_pace(own, frontier, self.lead_bytes) {
                self.consumer.hold(*number, held)?;
            }
        }
        Ok(fetched)
    }

    fn learn(&mut self, wait: Duration) -> Result<(), LogError> {
        self.take_metas(wait)
    }

    fn aim_at_end(&mut self) -> Result<(), LogError> {
        let ends = self.kafka.ends(&self.topic)?;
        let mut starts = Vec::new();
        for (number, partition) in &mut self.partitions {
            (partition.end, partition.ended, partition.end_said) = (ends[*number as usize].1, false, false);
            partition.lead.release();
            partition.wanted = partition.newest;
            starts.push((*number, Some(partition.next)));
        }
        // What the old consumer still has to say of ends is of older ones.
        self.consumer = self.kafka.consumer(&self.topic, &starts)?;
        Ok(())
    }

    fn caught_up(&self) -> Option<Moment> {
        let read = self.partitions.values().all(Partition::is_at_end);
        read.then(|| self.partitions.values().map(|partition| partition.wanted).max().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests;
