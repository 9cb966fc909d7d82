//! Reads topics that something else wrote: no statements, so completeness is guessed by event time.
//!
//! A record's epoch is that of its event time, as long as the [`Settler`] holds it open; a later one goes to the first open
//! epoch, where [`latest`](crate::operators::Latest) drops it if something newer of its key has gone by. What comes later
//! than the lateness allows is a dead letter; that is judged against the partition's own newest time, so that reading the
//! partition again judges the same.
//!
//! All partitions have one reader: one that only had idle partitions could not say what is complete.
//!
//! After a restart a partition is read again from so far back that whatever may come late finds all that is newer of its
//! key ([`Moved`]). What comes again of epochs that were applied may have been applied, or newer of its key may; only all of
//! it together says what is the newest. So it is held until nothing of those epochs can come any more, because the partition
//! has moved on so far that it would be too late, or its end at the start is reached; then it goes to the first open epoch.
//! Until that epoch is durable the next run has to begin where this one did, and checkpoints are made so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::message::Headers;

use super::LogError;
use super::kafka::{Consumer, Kafka, Polled, Record};
use super::lead::Lead;
use super::moved::{Judged, Moved};
use super::reader::{EpochReader, Fetched, MomentStart};
use crate::change::{
    BATCH_BYTES, Changes, Head, LookBack, Moment, SettlePolicy, Settler, TableFilter, TableSchema, Verdict, epoch_of,
    moment,
};
use crate::codec::envelope::{Decoded, ForeignDecoder, ForeignRecord};
use crate::config::{EnvelopeKind, LandConfig};
use crate::letter::{DeadLetter, DeadLetters, text_of};
use crate::source::now_ms;

/// A start that is said again, since the partition has gone on with what belongs to no epoch, is said at most so often.
const SAY_AGAIN: Duration = Duration::from_secs(1);

/// How far ahead of Kafka's time, and of this machine's clock, an event time may be.
const AHEAD_MAX: Duration = Duration::from_secs(60);

const ASSIGNED: &str = "only assigned partitions are read";

/// Nothing comes so late, unless more lateness is allowed than when the place to read from was chosen, or that is gone.
const UNJUDGED: &str = "it is older than all that this run has read again, and what an earlier run applied may be newer: apply \
                        it by hand if [land] dead_letter takes it";

/// How a foreign topic is read.
#[derive(Clone, Debug)]
pub struct ForeignSettings {
    /// Its envelope.
    pub envelope: EnvelopeKind,
    /// Which of its tables are wanted.
    pub tables: TableFilter,
    /// How completeness is guessed.
    pub policy: SettlePolicy,
    /// How much later than the policy's out-of-orderness a record may come.
    pub lateness: Duration,
    /// How many bytes partitions may be ahead of the slowest, all together.
    pub lead_bytes: usize,
    /// Whether everything counts as complete once the end that was there at the start has been read.
    pub until_caught_up: bool,
    /// So often it is looked whether something that is no record lies behind the last record.
    pub look_at_ends: Duration,
}

impl ForeignSettings {
    /// The settings of `land`; `None`: the topic is tidegate's own.
    pub fn of(config: &LandConfig, tables: &TableFilter, until_caught_up: bool) -> Option<ForeignSettings> {
        let policy = SettlePolicy {
            out_of_orderness: config.out_of_orderness,
            idle_timeout: config.idle_timeout,
            epoch: config.epoch,
        };
        (config.envelope != EnvelopeKind::Tidegate).then_some(ForeignSettings {
            envelope: config.envelope,
            tables: tables.clone(),
            policy,
            lateness: config.lateness,
            lead_bytes: config.memory / 4,
            until_caught_up,
            look_at_ends: Duration::from_secs(10),
        })
    }

    /// The settings of a run that goes on from there: how late a record may come never shrinks, since what came so late may have
    /// been applied, and would be judged anew.
    #[must_use]
    pub fn going_on_from(mut self, look_backs: &BTreeMap<u32, LookBack>) -> ForeignSettings {
        let before = look_backs.values().map(|known| known.horizon_max).max().unwrap_or(0);
        self.lateness = self.lateness.max(Duration::from_millis(before).saturating_sub(self.policy.out_of_orderness));
        self
    }

    /// By how many ms a record may come behind the newest of its partition.
    pub fn horizon(&self) -> u64 {
        (self.policy.out_of_orderness + self.lateness).as_millis() as u64
    }
}

#[derive(Debug)]
struct Partition {
    /// Offset of the next record.
    next: u64,
    /// The end that is aimed at.
    end: u64,
    /// The end that was there when the consumer was made: once that says to be at an end, all below has been read.
    end_at_consumer: u64,
    /// `next` when ends were asked for last, and whether the consumer has said since that it is at an end.
    next_at_look: u64,
    ended: bool,
    /// Where its event time has moved on.
    moved: Moved,
    /// The newest epoch that any of its records was given.
    given: u64,
    /// Every epoch before this one may have something that an earlier run has applied of it; no later one has.
    first: u64,
    /// All records below this offset were given their epochs when a start was said last: for which epoch, and when.
    noted: u64,
    said: (u64, Instant),
    /// What comes again of applied epochs, until it is let go.
    held: Option<Held>,
    lead: Lead,
}

impl Partition {
    fn is_at_end(&self) -> bool {
        self.next >= self.end
    }
}

#[derive(Debug)]
struct Held {
    changes: Changes,
    /// The end that was there at the start: no earlier run has read what lies behind it.
    end: u64,
}

/// Reads the partitions of a topic that something else wrote.
pub struct ForeignReader {
    kafka: Arc<dyn Kafka>,
    consumer: Box<dyn Consumer>,
    guess: Guess,
    begun: Vec<MomentStart>,
    /// When ends were asked for last.
    looked: Instant,
}

/// What is known of the records read, and guessed from it.
struct Guess {
    topic: String,
    settings: ForeignSettings,
    partitions: BTreeMap<u32, Partition>,
    settler: Settler,
    decoder: ForeignDecoder,
    /// Those that nobody has been told of yet.
    schemas: Vec<TableSchema>,
    letters: DeadLetters,
    /// The newest epoch given to what is aimed at, plus one.
    wanted: u64,
    /// The newest epoch given to anything, plus one.
    newest: u64,
    /// The first epoch that was open after the last poll.
    open: u64,
    scratch: Changes,
}

impl ForeignReader {
    /// A reader of `partitions` of `topic`: each with the offset to begin at and the end that is there now. `applied` has the newest
    /// event time (ms) of what earlier runs have applied of each, `look_backs` what is known of what came before each offset.
    /// Records that can't be used go to `letters`.
    ///
    /// # Errors
    /// Settings that the client does not take; a cluster that does not answer.
    pub fn new(
        kafka: Arc<dyn Kafka>,
        topic: &str,
        partitions: &BTreeMap<u32, (u64, u64)>,
        settings: ForeignSettings,
        (applied, look_backs): (&BTreeMap<u32, u64>, &BTreeMap<u32, LookBack>),
        letters: DeadLetters,
    ) -> Result<ForeignReader, LogError> {
        let starts: Vec<_> = partitions.iter().map(|(number, (start, _))| (*number, Some(*start))).collect();
        let consumer = kafka.consumer(topic, &starts)?;
        let epoch = settings.policy.epoch;
        let first = |number: &u32| applied.get(number).map_or(0, |time| epoch_of(*time, epoch) + 1);
        let mut settler = Settler::starting_at(settings.policy, partitions.keys().map(first).min().unwrap_or(0));
        partitions.keys().for_each(|number| settler.expect(*number, now_ms()));
        let before = |number: &u32| look_backs.get(number).copied().unwrap_or_default();
        let start_of = |(number, (start, _)): (&u32, &(u64, u64))| MomentStart {
            partition: *number,
            at: 0,
            offset: *start,
            passed: 0,
            look_back: Some(before(number)),
        };
        let partition = |(number, (start, end)): (&u32, &(u64, u64))| {
            let first = first(number);
            let held = (first > 0).then(|| Held { changes: Changes::default(), end: *end });
            let moved = Moved::new(*start, settings.horizon(), epoch, before(number));
            (
                *number,
                Partition {
                    next: *start,
                    end: *end,
                    end_at_consumer: *end,
                    next_at_look: *start,
                    ended: false,
                    moved,
                    given: 0,
                    first,
                    noted: *start,
                    said: (0, Instant::now()),
                    held,
                    lead: Lead::default(),
                },
            )
        };
        let guess = Guess {
            topic: topic.to_string(),
            partitions: partitions.iter().map(partition).collect(),
            settler,
            decoder: ForeignDecoder::new(settings.envelope, settings.tables.clone()),
            schemas: Vec::new(),
            letters,
            wanted: 0,
            newest: 0,
            open: 0,
            scratch: Changes::default(),
            settings,
        };
        Ok(ForeignReader {
            kafka,
            consumer,
            guess,
            begun: partitions.iter().map(start_of).collect(),
            looked: Instant::now(),
        })
    }
}

impl ForeignReader {
    /// Looks whether partitions where nothing has come end further on than they were read: markers of transactions lie there
    /// then, which retention takes in time too.
    fn look_at_ends(&mut self) -> Result<(), LogError> {
        self.looked = Instant::now();
        let mut quiet = BTreeSet::new();
        for (number, partition) in &mut self.guess.partitions {
            let is_same = std::mem::replace(&mut partition.next_at_look, partition.next) == partition.next;
            // Of one that is held back nobody knows.
            if is_same && partition.ended && !partition.lead.is_held() {
                quiet.insert(*number);
            }
        }
        // A cluster that does not answer now is asked again.
        let Some(ends) = (!quiet.is_empty()).then(|| self.kafka.ends(&self.guess.topic).ok()).flatten() else {
            return Ok(());
        };
        let (mut is_behind, mut is_gone) = (false, false);
        for (number, partition) in &mut self.guess.partitions {
            let (low, end) = ends.get(*number as usize).copied().unwrap_or_default();
            if quiet.contains(number) {
                // The consumer stands at the end, and would have said if a record had gone before it came there.
                partition.next = partition.next.max(low);
                (partition.next_at_look, partition.ended) = (partition.next, false);
                is_behind |= partition.next < end;
            }
            is_gone |= partition.next < low;
        }
        if is_behind && !is_gone { self.consume_anew(&ends) } else { Ok(()) }
    }

    /// Goes on with a new consumer: what the old one still has to say of ends is of older ones than `ends`.
    fn consume_anew(&mut self, ends: &[(u64, u64)]) -> Result<(), LogError> {
        let mut starts = Vec::new();
        for (number, partition) in &mut self.guess.partitions {
            let end = ends.get(*number as usize).map(|(_, end)| *end);
            partition.end_at_consumer = end.unwrap_or(partition.end_at_consumer);
            partition.lead.release();
            starts.push((*number, Some(partition.next)));
        }
        self.consumer = self.kafka.consumer(&self.guess.topic, &starts)?;
        Ok(())
    }

    /// Holds back the partitions that are far ahead of `frontier`.
    fn keep_pace(&mut self, frontier: Moment) -> Result<(), LogError> {
        let Guess { partitions, settler, settings, .. } = &mut self.guess;
        let bytes_max = settings.lead_bytes / partitions.len().max(1);
        for (number, partition) in partitions {
            let own = moment(settler.own_epoch(*number), 0);
            if let Some(held) = partition.lead.keep_pace(own, frontier, bytes_max) {
                self.consumer.hold(*number, held)?;
            }
        }
        Ok(())
    }
}

impl Guess {
    fn at_end(&self) -> bool {
        self.partitions.values().all(Partition::is_at_end)
    }

    /// The first epoch that is open now.
    fn first_open(&mut self) -> u64 {
        let (now, to_the_end) = (now_ms(), self.settings.until_caught_up);
        if to_the_end && self.at_end() {
            return self.settler.complete();
        }
        for (number, partition) in &self.partitions {
            if partition.lead.is_held() {
                self.settler.wait_for(*number, now);
            } else if to_the_end && partition.is_at_end() {
                self.settler.leave_out(*number);
            }
        }
        self.settler.epoch(now)
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
        let partition = self.partition(number);
        (partition.next, partition.ended) = (offset + 1, false);
        let Some(value) = record.value else { return Ok(()) }; // a tombstone repeats a delete for compaction
        self.scratch.clear();
        let header = |name: &str| headers?.iter().find(|header| header.key == name).and_then(|header| header.value);
        let foreign = ForeignRecord { key, value, header: &header };
        let schemas = &mut self.schemas;
        let Decoded { time, changes } = self.decoder.decode(&foreign, &mut self.scratch, |schema| schemas.push(schema));
        let Some(time) = time else { return changes.or_else(|reason| self.unusable(record, reason)) };
        if let Some(reason) = self.ahead(time, record)? {
            // It would make everything that follows in its partition late.
            let is_nothing = changes.is_ok() && self.scratch.is_empty();
            return if is_nothing { Ok(()) } else { self.unusable(record, reason) };
        }
        let newest = self.settler.newest(number);
        if changes.is_err() || self.scratch.is_empty() {
            // Time goes by with what is of no use too: what is wanted may be other tables in the next run.
            self.see(number, time, offset, taken);
            return changes.or_else(|reason| self.unusable(record, reason));
        }
        if time.saturating_add(self.settings.horizon()) < newest {
            if self.partition(number).moved.judged(time, offset) == Judged::Before {
                return Ok(());
            }
            let behind = Duration::from_millis(newest - time);
            let reason = format!(
                "it is {behind:?} older than what its partition had before, more than out_of_orderness and lateness allow: apply it \
                 by hand if [land] dead_letter takes it, and raise lateness for what comes from now on"
            );
            return self.unusable(record, reason);
        }
        for part in 0..self.scratch.len() {
            let head = &mut self.scratch.heads_mut()[part];
            (head.partition, head.offset, head.part) = (number, offset, part as u32);
            if !self.take_part(part, taken) {
                return self.unusable(record, UNJUDGED.into());
            }
        }
        Ok(())
    }

    /// What is wrong with a time that lies far ahead of when Kafka took the record: that says the same whenever it is read.
    ///
    /// # Errors
    /// Both lie far ahead of this machine's clock, so that the record is not passed over: a later run might take it.
    fn ahead(&self, time: u64, record: Record<'_>) -> Result<Option<String>, LogError> {
        let now = now_ms();
        let ahead = Duration::from_millis(time.saturating_sub(record.timestamp.unwrap_or(now)));
        if ahead > AHEAD_MAX {
            return Ok(Some(format!(
                "its time is {ahead:?} ahead of Kafka's: mend the clocks (or SET timestamp at the source), and apply it by hand if \
                 [land] dead_letter takes it"
            )));
        }
        let ahead = Duration::from_millis(time.saturating_sub(now));
        match ahead > AHEAD_MAX {
            true => Err(LogError(format!(
                "{}/{}/{}: its time, and Kafka's, is {ahead:?} ahead of this machine's clock: mend the clocks, or delete the records up to \
                 it (kafka-delete-records) if Kafka's is wrong, and start land again",
                self.topic, record.partition, record.offset
            ))),
            false => Ok(None),
        }
    }

    /// Gives a change of the record in hand its epoch. `false`: nobody can tell whether something newer has been applied.
    fn take_part(&mut self, part: usize, taken: &mut Taken) -> bool {
        let Head { partition: number, offset, time, .. } = *self.scratch.head(part);
        let verdict = self.see(number, time, offset, taken);
        let (head, payload) = self.scratch.get(part);
        let own = epoch_of(time, self.settings.policy.epoch);
        let partition = self.partitions.get_mut(&number).expect(ASSIGNED);
        // Whatever was applied of the partition is older than what belongs to later epochs.
        let is_before = own < partition.first;
        if is_before {
            match partition.moved.judged(time, offset) {
                Judged::Here => {}
                Judged::Before => return true,
                Judged::Unknown => return false,
            }
        }
        if let Some(held) = partition.held.as_mut().filter(|_| is_before) {
            held.changes.push(*head, payload);
            return true;
        }
        let epoch = match verdict {
            Verdict::OnTime => own,
            Verdict::Late => self.settler.take(now_ms()),
        };
        taken.batches.entry(epoch).or_default().push(*head, payload);
        partition.lead.add(moment(epoch, 0), payload.len());
        self.give(number, epoch, offset, taken);
        true
    }

    fn partition(&mut self, number: u32) -> &mut Partition {
        self.partitions.get_mut(&number).expect(ASSIGNED)
    }

    /// Takes note of an event time, and lets go what is held if nothing that belongs to it can come any more.
    fn see(&mut self, number: u32, time: u64, offset: u64, taken: &mut Taken) -> Verdict {
        let verdict = self.settler.see(number, time, now_ms());
        let (epoch, horizon) = (self.settings.policy.epoch.as_millis() as u64, self.settings.horizon());
        let newest = self.settler.newest(number);
        let partition = self.partition(number);
        let held_until = (partition.first * epoch).saturating_add(horizon);
        partition.moved.see(time, offset);
        if partition.held.is_some() && newest >= held_until {
            self.let_go(number, taken);
        }
        verdict
    }

    /// Gives what is held of a partition the first open epoch.
    fn let_go(&mut self, number: u32, taken: &mut Taken) {
        let Some(held) = self.partition(number).held.take().filter(|held| !held.changes.is_empty()) else { return };
        let epoch = self.settler.take(now_ms());
        let batch = taken.batches.entry(epoch).or_default();
        held.changes.iter().for_each(|(head, payload)| batch.push(*head, payload));
        let partition = self.partition(number);
        partition.lead.add(moment(epoch, 0), held.changes.payload_bytes());
        // The next run has to read it again until this epoch is durable: no start is said before another is given.
        partition.given = epoch.max(partition.given);
        (self.wanted, self.newest) = (self.wanted.max(epoch + 1), self.newest.max(epoch + 1));
    }

    /// Takes note of the epoch that the record at an offset was given.
    fn give(&mut self, number: u32, epoch: u64, offset: u64, taken: &mut Taken) {
        self.newest = self.newest.max(epoch + 1);
        let partition = self.partitions.get_mut(&number).expect(ASSIGNED);
        if offset < partition.end {
            self.wanted = self.wanted.max(epoch + 1);
        }
        if epoch > partition.given {
            partition.given = epoch;
            self.say_start(number, epoch, offset, taken);
        }
    }

    /// Says from where to read for all of `epoch` and later; of the records below the offset `read` none is.
    fn say_start(&mut self, number: u32, epoch: u64, read: u64, taken: &mut Taken) {
        let partition = self.partition(number);
        if partition.held.is_none() {
            (partition.noted, partition.said) = (read, (epoch, Instant::now()));
            let (offset, look_back) = partition.moved.look_back(read);
            taken.starts.push(MomentStart {
                partition: number,
                at: moment(epoch, 0),
                offset,
                passed: 0,
                look_back: Some(look_back),
            });
        }
    }

    /// Says of the partitions of which all that was read belongs to earlier epochs than `open` that it need not be kept.
    fn rest(&mut self, open: u64, taken: &mut Taken) {
        let to_the_end = self.settings.until_caught_up;
        let resting = |partition: &Partition| {
            let (said, at) = partition.said;
            let is_last = to_the_end && partition.is_at_end();
            let is_due = said != open || is_last || at.elapsed() >= SAY_AGAIN;
            partition.given < open && partition.next > partition.noted && is_due
        };
        let resting = self.partitions.iter().filter(|(_, partition)| resting(partition));
        let resting: Vec<(u32, u64)> = resting.map(|(number, partition)| (*number, partition.next)).collect();
        resting.into_iter().for_each(|(number, next)| self.say_start(number, open, next, taken));
    }
}

/// What one poll has taken so far.
#[derive(Default)]
struct Taken {
    batches: BTreeMap<u64, Changes>,
    starts: Vec<MomentStart>,
}

impl EpochReader for ForeignReader {
    fn poll(&mut self, wait: Duration) -> Result<Fetched, LogError> {
        let mut taken = Taken { starts: std::mem::take(&mut self.begun), ..Taken::default() };
        let deadline = Instant::now() + wait;
        if self.looked.elapsed() > self.guess.settings.look_at_ends {
            self.look_at_ends()?;
        }
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
                        partition.next = partition.next.max(partition.end_at_consumer);
                        partition.ended = true;
                    }
                }
                Polled::Nothing => break,
            }
        }
        let read = |(_, partition): &(&u32, &Partition)| {
            partition.held.as_ref().is_some_and(|held| partition.next >= held.end)
        };
        let read: Vec<u32> = guess.partitions.iter().filter(read).map(|(number, _)| *number).collect();
        read.into_iter().for_each(|number| guess.let_go(number, &mut taken));
        let epoch = guess.first_open();
        guess.rest(epoch, &mut taken);
        guess.open = epoch;
        self.keep_pace(moment(epoch, 0))?;
        let guess = &mut self.guess;
        Ok(Fetched {
            schemas: std::mem::take(&mut guess.schemas),
            batches: taken.batches.into_iter().map(|(epoch, batch)| (moment(epoch, 0), batch)).collect(),
            starts: taken.starts,
            frontier: (!guess.partitions.is_empty()).then_some(moment(epoch, 0)),
            settled: None,
        })
    }

    fn aim_at_end(&mut self) -> Result<(), LogError> {
        let ends = self.kafka.ends(&self.guess.topic)?;
        self.consume_anew(&ends)?;
        self.guess.partitions.values_mut().for_each(|partition| partition.end = partition.end_at_consumer);
        self.guess.wanted = self.guess.newest;
        Ok(())
    }

    fn caught_up(&self) -> Option<Moment> {
        let all_given = self.guess.partitions.values().all(|partition| partition.held.is_none());
        // What was read and is not wanted is to be recorded too, with what was open then.
        (self.guess.at_end() && all_given).then_some(moment(self.guess.wanted.max(self.guess.open), 0))
    }
}

#[cfg(test)]
mod tests;
