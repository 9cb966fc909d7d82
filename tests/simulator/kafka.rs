//! A Kafka cluster in memory: transactions, fencing, markers, retention, compaction, and requests that arrive late.
//!
//! A producer's records wait in the client, arrive in the order of their partition, and are reported later; what a dead
//! client had sent may arrive after its death, and so may its commit. Consumers see committed records below the first open
//! transaction, a few at a time, and sometimes nothing though something is there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rdkafka::message::{Header, Headers, OwnedHeaders};
use tidegate::log::{
    Consumer, Delivered, Kafka, LogError, Meta, NewRecord, Polled, Producer, REPLACED, Record, Statement,
};

use super::partition::{Entry, Log, State};
use super::world::{Kind, below, call, chance, elapsed_ms, fails, trace, world};
use super::{Broken, Switch};

#[derive(Default)]
struct Transactions {
    epoch: u64,
    /// Whoever initialized it last is gone.
    abandoned: bool,
}

/// A request of a client that has died.
enum Late {
    Record(Sent),
    Commit { id: String, epoch: u64 },
}

struct Sent {
    topic: String,
    partition: u32,
    ticket: u64,
    entry: Entry,
    epoch: u64,
}

#[derive(Default)]
struct Cluster {
    topics: BTreeMap<String, Vec<Log>>,
    transactions: BTreeMap<String, Transactions>,
    late: Vec<Late>,
    /// Markers of transactions that are decided, and on their way to a partition.
    markers: Vec<Marker>,
    /// Every statement that was ever committed in a transaction, by its offset.
    stated: BTreeMap<u64, Statement>,
}

/// No marker is on its way for longer, in milliseconds: a little less than `dataflows/start.rs` waits for one.
const MARKER_MAX: u64 = 3000;

struct Marker {
    /// When it was decided.
    at: u64,
    id: String,
    state: State,
    topic: String,
    partition: usize,
}

/// The cluster, shared by all that speak to it.
#[derive(Clone, Default)]
pub struct Model {
    cluster: Arc<Mutex<Cluster>>,
    broken: Broken,
}

impl Cluster {
    /// Whether a writer may still write with that epoch.
    fn admits(&self, id: &Option<String>, epoch: u64) -> bool {
        let Some(id) = id else { return true };
        self.transactions.get(id).is_some_and(|transactions| transactions.epoch == epoch)
    }

    fn arrive(&mut self, sent: Sent) -> Result<u64, String> {
        if !self.admits(&sent.entry.writer, sent.epoch) {
            return Err(REPLACED.into());
        }
        if let Some(id) = &sent.entry.writer {
            self.mark_all(id); // no new transaction before the old one is complete
        }
        let log = &mut self.topics.get_mut(&sent.topic).expect("it was created")[sent.partition as usize];
        trace(|| {
            let (key, value) = (String::from_utf8_lossy(&sent.entry.key), String::from_utf8_lossy(&sent.entry.value));
            format!("{}/{}/{} of {:?}: {key} {value}", sent.topic, sent.partition, log.end(), sent.entry.writer)
        });
        log.entries.push_back(sent.entry);
        Ok(log.end())
    }

    /// Decides about what a transactional id has open; each partition is told on its own.
    fn end_transaction(&mut self, id: &str, state: State) {
        self.mark_all(id);
        for (topic, logs) in &self.topics {
            for (partition, log) in logs.iter().enumerate() {
                if log.has_open_of(id) {
                    self.markers.push(Marker {
                        at: elapsed_ms(),
                        id: id.to_string(),
                        state,
                        topic: topic.clone(),
                        partition,
                    });
                }
            }
        }
    }

    /// All that is decided about a transactional id has been told.
    fn mark_all(&mut self, id: &str) {
        while let Some(place) = self.markers.iter().position(|marker| marker.id == id) {
            self.mark(place);
        }
    }

    /// What has been on its way for long enough has been told.
    fn mark_due(&mut self) {
        let now = elapsed_ms();
        while let Some(place) = self.markers.iter().position(|marker| marker.at + MARKER_MAX <= now) {
            self.mark(place);
        }
    }

    fn mark(&mut self, place: usize) {
        let Marker { at: _, id, state, topic, partition } = self.markers.swap_remove(place);
        let log = &mut self.topics.get_mut(&topic).expect("it was created")[partition];
        let is_stated = state == State::Committed && topic.ends_with(".meta");
        log.decide(&id, state, |offset, entry| {
            if is_stated && let Ok(Meta::Statement(statement)) = Meta::from_record(&entry.key, &entry.value) {
                self.stated.insert(offset, statement);
            }
        });
    }

    fn commit(&mut self, id: &str, epoch: u64) -> Result<(), String> {
        if !self.admits(&Some(id.to_string()), epoch) {
            return Err(REPLACED.into());
        }
        trace(|| format!("commits {id}"));
        self.end_transaction(id, State::Committed);
        Ok(())
    }
}

impl Model {
    pub fn new(topics: &[(&str, u32)], broken: Broken) -> Model {
        let model = Model { broken, ..Model::default() };
        for (topic, partitions) in topics {
            model.lock().topics.insert(topic.to_string(), (0..*partitions).map(|_| Log::default()).collect());
        }
        model
    }

    fn lock(&self) -> MutexGuard<'_, Cluster> {
        let mut cluster = self.cluster.lock().expect("nothing panics while holding it");
        cluster.mark_due();
        cluster
    }

    pub fn partitions(&self, topic: &str) -> u32 {
        self.lock().topics[topic].len() as u32
    }

    /// Adds a partition.
    pub fn grow(&self, topic: &str) {
        self.lock().topics.get_mut(topic).expect("it was created").push(Log::default());
    }

    /// Something that the cluster does on its own.
    pub fn event(&self) {
        let mut cluster = self.lock();
        if !cluster.markers.is_empty() && chance(2) {
            let place = below(cluster.markers.len() as u64) as usize;
            return cluster.mark(place);
        }
        if !cluster.late.is_empty() {
            let number = match chance(3) {
                // Requests of one client arrive in order.
                true => 0,
                false => return,
            };
            match cluster.late.remove(number) {
                Late::Record(sent) => drop(cluster.arrive(sent)),
                Late::Commit { id, epoch } => drop(cluster.commit(&id, epoch)),
            }
            return;
        }
        if chance(8) {
            compact(&mut cluster);
        }
    }

    /// Deletes what lies below these offsets, of some partitions, and at times what no consumer sees behind that.
    pub fn retain(&self, topic: &str, from: &BTreeMap<u32, u64>) {
        let mut cluster = self.lock();
        let logs = cluster.topics.get_mut(topic).expect("it was created");
        for (partition, offset) in from {
            let log = &mut logs[*partition as usize];
            while log.base < *offset && !log.entries.is_empty() {
                log.drop_first();
            }
            let is_unseen = |entry: &Entry| matches!(entry.state, State::Aborted | State::Gap);
            while log.entries.front().is_some_and(is_unseen) && below(4) > 0 {
                log.drop_first();
            }
        }
    }

    /// Somebody delivers some of a partition's records again, in order.
    pub fn deliver_again(&self, topic: &str) {
        let mut cluster = self.lock();
        let logs = cluster.topics.get_mut(topic).expect("it was created");
        let partition = below(logs.len() as u64) as usize;
        let log = &mut logs[partition];
        let from = below(log.entries.len() as u64 + 1) as usize;
        let records = log.entries.iter().skip(from).filter(|entry| entry.state == State::Committed);
        let again: Vec<Entry> = records.take(1 + below(8) as usize).cloned().collect();
        log.entries.extend(again);
    }

    /// Deletes the first committed record behind these offsets, of one partition, if there is one, and what is before it.
    pub fn lose(&self, topic: &str, from: &BTreeMap<u32, u64>) -> bool {
        let mut cluster = self.lock();
        let logs = cluster.topics.get_mut(topic).expect("it was created");
        for (partition, offset) in from {
            let log = &mut logs[*partition as usize];
            let kept = (log.base..).zip(&log.entries).filter(|(at, _)| at >= offset);
            let first = kept.filter(|(_, entry)| entry.state == State::Committed).map(|(at, _)| at).next();
            let Some(first) = first else { continue };
            while log.base <= first {
                log.drop_first();
            }
            return true;
        }
        false
    }

    /// The transactions of writers that are gone, and that nobody has fenced, time out.
    pub fn time_out(&self) {
        let mut cluster = self.lock();
        let unfenced = self.broken.is(Switch::NoFence);
        let gone = cluster.transactions.iter().filter(|(_, transactions)| transactions.abandoned || unfenced);
        let ids: Vec<String> = gone.map(|(id, _)| id.clone()).collect();
        for id in ids {
            cluster.end_transaction(&id, State::Aborted);
            if !unfenced {
                cluster.transactions.get_mut(&id).expect("just seen").epoch += 1;
            }
        }
    }

    /// What is wrong with a statement: they only grow, and are true of all that has been committed.
    pub fn wrong_statement(&self, topic: &str) -> Option<String> {
        let cluster = self.lock();
        let mut newest = BTreeMap::<u32, &Statement>::new();
        for said in cluster.stated.values() {
            if let Some(before) = newest.insert(said.partition, said)
                && (said.seq < before.seq || said.time < before.time || said.offset < before.offset)
            {
                return Some(format!("a statement goes back: {before:?} {said:?}"));
            }
            if said.last && said.resume.seq != said.seq {
                return Some(format!("a publisher stops inside of a transaction: {said:?}"));
            }
            let log = &cluster.topics[topic][said.partition as usize];
            for (offset, (seq, time)) in log.changes() {
                let (before, lower) = (offset < said.offset, seq < said.seq);
                if before != lower || (!before && time < said.time) {
                    return Some(format!("{said:?} is broken by seq {seq}, time {time}, at offset {offset}"));
                }
            }
        }
        None
    }

    /// Of each partition the first offset kept, and seq and time of the committed records.
    pub fn committed(&self, topic: &str) -> Vec<(u64, Vec<(u64, u64)>)> {
        let cluster = self.lock();
        cluster.topics[topic].iter().map(|log| (log.base, log.changes().map(|(_, change)| change).collect())).collect()
    }
}

/// Takes some of the records away of which there are newer ones.
fn compact(cluster: &mut Cluster) {
    for (topic, logs) in &mut cluster.topics {
        if !topic.ends_with(".meta") {
            continue;
        }
        for log in logs {
            // The newest segment is not compacted.
            let stable = ((log.stable_end() - log.base) as usize).saturating_sub(16);
            for place in 0..stable {
                let newer = |later: usize| {
                    log.entries[later].state == State::Committed && log.entries[later].key == log.entries[place].key
                };
                if log.entries[place].state == State::Committed && (place + 1..stable).any(newer) && chance(2) {
                    log.entries[place].state = State::Gap;
                }
            }
        }
    }
}

impl Kafka for Model {
    fn producer(&self, transactional_id: Option<&str>) -> Result<Box<dyn Producer>, LogError> {
        call();
        let mut epoch = 0;
        if let Some(id) = transactional_id {
            let mut cluster = self.lock();
            if self.broken.is(Switch::NoFence) {
                cluster.transactions.entry(id.to_string()).or_default();
            } else {
                // Before an id is initialized what it has open is aborted.
                cluster.end_transaction(id, State::Aborted);
                cluster.mark_all(id);
                let transactions = cluster.transactions.entry(id.to_string()).or_default();
                transactions.epoch += 1;
                transactions.abandoned = false;
                epoch = transactions.epoch;
            }
        }
        call();
        let id = transactional_id.map(str::to_string);
        Ok(Box::new(Client { model: self.clone(), id, epoch, waiting: Vec::new(), reports: VecDeque::new() }))
    }

    fn consumer(&self, topic: &str, starts: &[(u32, Option<u64>)]) -> Result<Box<dyn Consumer>, LogError> {
        call();
        let cluster = self.lock();
        let start = |(partition, offset): &(u32, Option<u64>)| {
            let next = offset.unwrap_or(cluster.topics[topic][*partition as usize].base);
            (*partition, Place { next, told_end: None, held: false })
        };
        let places = starts.iter().map(start).collect();
        Ok(Box::new(Reading { model: self.clone(), topic: topic.to_string(), places }))
    }

    fn offsets_at(&self, topic: &str, time: u64) -> Result<Vec<u64>, LogError> {
        call();
        let at = |log: &Log| {
            let first = log.entries.iter().position(|entry| entry.timestamp.is_some_and(|timestamp| timestamp >= time));
            first.map_or(log.end(), |place| log.base + place as u64)
        };
        Ok(self.lock().topics[topic].iter().map(at).collect())
    }

    fn ends(&self, topic: &str) -> Result<Vec<(u64, u64)>, LogError> {
        call();
        Ok(self.lock().topics[topic].iter().map(|log| (log.base, log.stable_end())).collect())
    }
}

/// A producer's client.
struct Client {
    model: Model,
    id: Option<String>,
    epoch: u64,
    /// What has been sent and has not arrived, of each topic and partition in order.
    waiting: Vec<VecDeque<Sent>>,
    reports: VecDeque<Delivered>,
}

impl Client {
    fn arrive_some(&mut self, most: u64) -> Result<(), String> {
        for _ in 0..most {
            self.waiting.retain(|queue| !queue.is_empty());
            if self.waiting.is_empty() {
                break;
            }
            let queue = below(self.waiting.len() as u64) as usize;
            let sent = self.waiting[queue].pop_front().expect("no queue is empty");
            let (ticket, partition) = (sent.ticket, sent.partition);
            let end = self.model.lock().arrive(sent)?;
            self.reports.push_back(Delivered { ticket, partition, end, records: 1 });
        }
        Ok(())
    }
}

impl Producer for Client {
    fn send(&mut self, record: NewRecord<'_>, ticket: u64) -> Result<(), String> {
        let state = if self.id.is_some() { State::Open } else { State::Committed };
        let headers = match self.model.broken.is(Switch::TrustRetention) {
            true => record.headers.as_ref().map(following_on_nothing),
            false => record.headers,
        };
        let entry = Entry::new((state, self.id.clone()), record.timestamp, (record.key, record.value), headers);
        let (topic, partition) = (record.topic.to_string(), record.partition);
        let sent = Sent { topic, partition, ticket, entry, epoch: self.epoch };
        let same = |queue: &&mut VecDeque<Sent>| {
            queue.front().is_some_and(|first| first.topic == sent.topic && first.partition == sent.partition)
        };
        match self.waiting.iter_mut().find(same) {
            Some(queue) => queue.push_back(sent),
            None => self.waiting.push(VecDeque::from([sent])),
        }
        if chance(4) {
            self.arrive_some(1 + below(3))?;
        }
        call();
        Ok(())
    }

    fn poll(&mut self, wait: Duration, delivered: &mut dyn FnMut(Delivered)) -> Result<(), String> {
        call();
        // Whoever waits is served.
        let most = if wait.is_zero() { below(4) } else { 1 + below(8) };
        self.arrive_some(most)?;
        let most = if wait.is_zero() { below(4) } else { 1 + below(8) };
        for _ in 0..most {
            let Some(report) = self.reports.pop_front() else { break };
            delivered(report);
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn commit(&mut self) -> Result<(), String> {
        assert!(self.waiting.iter().all(VecDeque::is_empty), "a commit before everything was delivered");
        let id = self.id.clone().expect("only transactions are committed");
        if fails() {
            // The request is under way when the client dies; it may be executed late, or be lost.
            if chance(2) {
                self.model.lock().late.push(Late::Commit { id, epoch: self.epoch });
            }
            world().crash();
        }
        call();
        self.model.lock().commit(&id, self.epoch)?;
        call();
        Ok(())
    }
}

impl Drop for Client {
    /// What a dead client has sent may still arrive: as far as it was sent, in order.
    fn drop(&mut self) {
        let Ok(mut cluster) = self.model.cluster.lock() else { return };
        let Some(id) = &self.id else {
            return; // without transactions nothing would tell it from what comes later: README
        };
        if let Some(transactions) = cluster.transactions.get_mut(id).filter(|known| known.epoch == self.epoch) {
            transactions.abandoned = true;
        }
        for queue in &mut self.waiting {
            let arrives = queue.len() / 2;
            cluster.late.extend(queue.drain(..arrives).map(Late::Record));
        }
    }
}

#[derive(Clone, Copy)]
struct Place {
    next: u64,
    told_end: Option<u64>,
    held: bool,
}

/// Headers that say of a record, if they say anything of that, that there was none before it.
fn following_on_nothing(headers: &OwnedHeaders) -> OwnedHeaders {
    headers.iter().fold(OwnedHeaders::new(), |out, header| match header.key {
        "tidegate.previous" => out.insert(Header { value: Some(&b"0"[..]), ..header }),
        _ => out.insert(header),
    })
}

/// A consumer's client.
struct Reading {
    model: Model,
    topic: String,
    places: BTreeMap<u32, Place>,
}

impl Consumer for Reading {
    fn poll(
        &mut self,
        wait: Duration,
        take: &mut dyn FnMut(Record<'_>) -> Result<(), LogError>,
    ) -> Result<Polled, LogError> {
        call();
        let patient = wait >= Duration::from_secs(1);
        if !patient && chance(4) {
            return Ok(Polled::Nothing);
        }
        // Begins with any of the partitions.
        let first = below(self.places.len().max(1) as u64) as usize;
        let numbers: Vec<u32> = self.places.keys().copied().collect();
        for turn in 0..numbers.len() {
            let number = numbers[(first + turn) % numbers.len()];
            let place = self.places.get_mut(&number).expect("it is one of them");
            if place.held {
                continue;
            }
            let cluster = self.model.lock();
            let log = &cluster.topics[&self.topic][number as usize];
            if place.next < log.base {
                return Err(LogError(format!("{}/{number}: the offset to read from is gone", self.topic)));
            }
            let end = log.stable_end();
            while place.next < end && log.at(place.next).state != State::Committed {
                place.next += 1;
            }
            if place.next < end {
                let entry = log.at(place.next);
                let record = Record {
                    partition: number,
                    offset: place.next,
                    timestamp: None,
                    key: Some(&entry.key),
                    value: Some(&entry.value),
                    headers: entry.headers.as_ref().map(OwnedHeaders::as_borrowed),
                };
                trace(|| format!("reads {}/{number}/{}", self.topic, place.next));
                take(record)?;
                place.next += 1;
                return Ok(Polled::Record);
            }
            if place.told_end != Some(end) {
                place.told_end = Some(end);
                trace(|| format!("reads to the end {end} of {}/{number}", self.topic));
                return Ok(Polled::End(number));
            }
        }
        Ok(Polled::Nothing)
    }

    fn hold(&mut self, partition: u32, held: bool) -> Result<(), LogError> {
        self.places.get_mut(&partition).expect("it is one of them").held = held;
        Ok(())
    }
}

/// Whether a process may end with that sentence: one that has been replaced, or overtaken by one that knows of more partitions.
pub fn may_be_replaced(kind: Kind, sentence: &str) -> bool {
    let says = |words| sentence.contains(words);
    kind == Kind::Publish && (says(REPLACED) || says("another publish has dealt the changes"))
}
