//! Reads topics that something else wrote: no statements, so completeness is guessed by event time.
//!
//! A record's epoch is that of its event time, as long as the [`Settler`] holds it open; a later one goes to the first open
//! epoch, where [`latest`](crate::operators::Latest) drops it if something newer of its key has gone by. What comes later
//! than the lateness allows is a dead letter; that is judged against the partition's own newest time, so that reading the
//! partition again judges the same.
//!
//! All partitions have one reader: one that only had idle partitions could not say what is complete.
//!
//! After a restart the records of epochs that were applied before are read again, and some of them, the late ones, may not
//! have been applied. They are held back until the partitions have been read to where they ended at the start, and then
//! go to the first open epoch all together: of each key the newest wins, so no row steps back on the way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::message::Headers;

use super::LogError;
use super::kafka::{Consumer, Kafka, Polled, Record};
use super::reader::{EpochReader, EpochStart, Fetched, Schemas};
use crate::change::{BATCH_BYTES, Changes, Moment, SettlePolicy, Settler, Verdict, epoch_of, moment};
use crate::codec::envelope::{ForeignDecoder, ForeignRecord};
use crate::config::{EnvelopeKind, LandConfig};
use crate::letter::{DeadLetter, DeadLetters, text_of};
use crate::source::now_ms;

/// How a foreign topic is read.
#[derive(Clone, Copy, Debug)]
pub struct ForeignSettings {
    /// Its envelope.
    pub envelope: EnvelopeKind,
    /// How completeness is guessed.
    pub policy: SettlePolicy,
    /// How much later than the policy's out-of-orderness a record may come.
    pub lateness: Duration,
    /// Whether everything counts as complete once the end that was there at the start has been read.
    pub until_caught_up: bool,
}

impl ForeignSettings {
    /// The settings of `land`; `None`: the topic is tidegate's own.
    pub fn of(config: &LandConfig, until_caught_up: bool) -> Option<ForeignSettings> {
        let policy = SettlePolicy {
            out_of_orderness: config.out_of_orderness,
            idle_timeout: config.idle_timeout,
            epoch: config.epoch,
        };
        (config.envelope != EnvelopeKind::Tidegate).then_some(ForeignSettings {
            envelope: config.envelope,
            policy,
            lateness: config.lateness,
            until_caught_up,
        })
    }

    /// How long before an event time its newest may have been, in ms.
    fn bound_ms(&self) -> u64 {
        (self.policy.out_of_orderness + self.lateness).as_millis() as u64
    }

    /// For so many epochs it matters what went by.
    pub fn horizon(&self) -> u64 {
        epoch_of(self.bound_ms(), self.policy.epoch) + 4
    }
}

#[derive(Debug)]
struct Partition {
    /// Offset of the next record.
    next: u64,
    /// The end that was there at the start.
    end: u64,
}

/// Reads the partitions of a topic that something else wrote.
pub struct ForeignReader {
    kafka: Arc<dyn Kafka>,
    consumer: Box<dyn Consumer>,
    guess: Guess,
    begun: Vec<EpochStart>,
}

/// What is known of the records read, and guessed from it.
struct Guess {
    topic: String,
    settings: ForeignSettings,
    partitions: BTreeMap<u32, Partition>,
    settler: Settler,
    decoder: ForeignDecoder,
    schemas: Arc<Schemas>,
    letters: DeadLetters,
    /// Every epoch before this one was applied by an earlier run.
    first: u64,
    /// Records of those epochs, until the end that was there at the start has been read.
    replayed: Option<Changes>,
    /// The newest epoch given to what is aimed at, plus one.
    wanted: u64,
    /// The newest epoch given to anything, plus one.
    newest: u64,
    scratch: Changes,
}

impl ForeignReader {
    /// A reader of `partitions` of `topic`: each with the offset to begin at and the end that is there now. Every epoch before `first`
    /// was applied by an earlier run. Schemas go to `schemas`, as far as the envelope says them, and records that can't be
    /// used to `letters`.
    ///
    /// # Errors
    /// Settings that the client does not take.
    pub fn new(
        kafka: Arc<dyn Kafka>,
        topic: &str,
        partitions: &BTreeMap<u32, (u64, u64)>,
        settings: ForeignSettings,
        first: u64,
        schemas: Arc<Schemas>,
        letters: DeadLetters,
    ) -> Result<ForeignReader, LogError> {
        let starts: Vec<_> = partitions.iter().map(|(number, (start, _))| (*number, Some(*start))).collect();
        let consumer = kafka.consumer(topic, &starts)?;
        let mut settler = Settler::starting_at(settings.policy, first);
        partitions.keys().for_each(|number| settler.expect(*number, now_ms()));
        let begun =
            |(number, (start, _)): (&u32, &(u64, u64))| EpochStart { partition: *number, epoch: 0, offset: *start };
        let guess = Guess {
            topic: topic.to_string(),
            settings,
            partitions: partitions
                .iter()
                .map(|(n, (start, end))| (*n, Partition { next: *start, end: *end }))
                .collect(),
            settler,
            decoder: ForeignDecoder::new(settings.envelope),
            schemas,
            letters,
            first,
            replayed: (first > 0).then(Changes::default),
            wanted: 0,
            newest: 0,
            scratch: Changes::default(),
        };
        Ok(ForeignReader { kafka, consumer, guess, begun: partitions.iter().map(begun).collect() })
    }
}

impl Guess {
    fn at_end(&self) -> bool {
        self.partitions.values().all(|partition| partition.next >= partition.end)
    }

    fn unusable(&self, record: Record<'_>, reason: String) -> Result<(), LogError> {
        let letter = DeadLetter {
            position: format!("{}/{}/{}", self.topic, record.partition, record.offset),
            reason,
            key: text_of(record.key),
            value: text_of(record.value),
            ..DeadLetter::default()
        };
        self.letters.keep(&letter).map_err(LogError)
    }

    /// Gives the changes of one record their epochs.
    fn take(&mut self, record: Record<'_>, taken: &mut Taken) -> Result<(), LogError> {
        let Record { partition: number, offset, key, headers, .. } = record;
        self.partitions.get_mut(&number).expect("only assigned partitions are read").next = offset + 1;
        let Some(value) = record.value else { return Ok(()) }; // a tombstone repeats a delete for compaction
        self.scratch.clear();
        let header = |name: &str| headers?.iter().find(|header| header.key == name).and_then(|header| header.value);
        let foreign = ForeignRecord { key, value, header: &header };
        let schemas = &self.schemas;
        if let Err(reason) = self.decoder.decode(&foreign, &mut self.scratch, |schema| schemas.announce(schema)) {
            return self.unusable(record, reason);
        }
        let now = now_ms();
        let newest = self.settler.newest(number);
        let times = self.scratch.heads().iter().map(|head| head.time);
        if let Some(time) = times.min().filter(|time| time.saturating_add(self.settings.bound_ms()) < newest) {
            let behind = Duration::from_millis(newest - time);
            let reason = format!(
                "it is {behind:?} older than what its partition had before, more than out_of_orderness and lateness allow: apply it by hand, or raise lateness in [land]"
            );
            return self.unusable(record, reason);
        }
        for part in 0..self.scratch.len() {
            let head = &mut self.scratch.heads_mut()[part];
            (head.partition, head.offset, head.part) = (number, offset, part as u32);
            let (own, before) = (epoch_of(head.time, self.settings.policy.epoch), self.settler.newest(number));
            let verdict = self.settler.see(number, head.time, now);
            if head.time > before && own > epoch_of(before, self.settings.policy.epoch) {
                taken.starts.push(EpochStart { partition: number, epoch: own, offset });
            }
            let (head, payload) = self.scratch.get(part);
            if let Some(replayed) = self.replayed.as_mut().filter(|_| own < self.first) {
                replayed.push(*head, payload);
                continue;
            }
            let epoch = match verdict {
                Verdict::OnTime => own,
                Verdict::Late => self.settler.take(now),
            };
            taken.batches.entry(epoch).or_default().push(*head, payload);
            self.newest = self.newest.max(epoch + 1);
            if offset < self.partitions[&number].end {
                self.wanted = self.wanted.max(epoch + 1);
            }
        }
        Ok(())
    }
}

/// What one poll has taken so far.
#[derive(Default)]
struct Taken {
    batches: BTreeMap<u64, Changes>,
    starts: Vec<EpochStart>,
}

impl EpochReader for ForeignReader {
    fn poll(&mut self, wait: Duration) -> Result<Fetched, LogError> {
        let mut taken = Taken { starts: std::mem::take(&mut self.begun), ..Taken::default() };
        let deadline = Instant::now() + wait;
        let guess = &mut self.guess;
        let mut bytes = 0;
        while bytes < 4 * BATCH_BYTES {
            let patience = if bytes == 0 { deadline.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            let polled = self.consumer.poll(patience, &mut |record| {
                bytes += record.value.map_or(0, <[u8]>::len) + 64;
                guess.take(record, &mut taken)
            })?;
            match polled {
                Polled::Record => {}
                // Markers of transactions leave gaps: the last offsets may hold no record.
                Polled::End(number) => {
                    if let Some(partition) = guess.partitions.get_mut(&number) {
                        partition.next = partition.next.max(partition.end);
                    }
                }
                Polled::Nothing => break,
            }
        }
        if guess.at_end()
            && let Some(replayed) = guess.replayed.take().filter(|replayed| !replayed.is_empty())
        {
            let epoch = guess.settler.take(now_ms());
            (guess.wanted, guess.newest) = (guess.wanted.max(epoch + 1), guess.newest.max(epoch + 1));
            let batch = taken.batches.entry(epoch).or_default();
            replayed.iter().for_each(|(head, payload)| batch.push(*head, payload));
        }
        let complete = guess.settings.until_caught_up && guess.at_end();
        let epoch = if complete { guess.settler.complete() } else { guess.settler.epoch(now_ms()) };
        Ok(Fetched {
            batches: taken.batches.into_iter().map(|(epoch, batch)| (moment(epoch, 0), batch)).collect(),
            starts: taken.starts,
            frontier: (!guess.partitions.is_empty()).then_some(moment(epoch, 0)),
            settled: None,
        })
    }

    fn aim_at_end(&mut self) -> Result<(), LogError> {
        let ends = self.kafka.ends(&self.guess.topic)?;
        for (number, partition) in &mut self.guess.partitions {
            partition.end = ends[*number as usize].1;
        }
        self.guess.wanted = self.guess.newest;
        Ok(())
    }

    fn caught_up(&self) -> Option<Moment> {
        (self.guess.at_end() && self.guess.replayed.is_none()).then_some(moment(self.guess.wanted, 0))
    }
}
