//! Kafka through librdkafka: settings, clients, and what their errors mean.

mod topics;

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientContext, Message};

use super::LogError;
use super::kafka::{Consumer, Delivered, Kafka, NewRecord, PATIENCE, Polled, Producer, Record};
use super::run::REPLACED;
use crate::config::KafkaConfig;
use crate::lost::WayBack;
use crate::wait::whole;

use topics::Asking;

/// How long a commit may take: as long as a record that can't be delivered; and for how long at most it is left to the client.
const COMMIT_PATIENCE: Duration = Duration::from_secs(60);
const COMMIT_WAIT: Duration = Duration::from_secs(5);

/// After so much silence, and then as often, it is said that Kafka is waited for.
const SILENCE: Duration = Duration::from_secs(5);

/// How long a producer looks for a broker besides the first.
const LOOK: Duration = Duration::from_secs(1);

/// How long is waited for the next thing that the client has to say; and for how long at most all of it is taken, its logs too, which
/// it puts before its reports.
const DRAIN: Duration = Duration::from_micros(10);
const DRAIN_MAX: Duration = Duration::from_millis(20);

/// Properties that librdkafka knows by a second name.
const ALIASES: [(&str, &str); 3] = [
    ("linger.ms", "queue.buffering.max.ms"),
    ("message.timeout.ms", "delivery.timeout.ms"),
    ("compression.type", "compression.codec"),
];

/// Client settings for the cluster of `config`, with the user's own on top.
pub fn kafka_config(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.brokers);
    // A broker that is back is found within a second; librdkafka's own pauses grow to ten.
    client.set("reconnect.backoff.max.ms", "1000");
    for (name, value) in &config.properties {
        client.set(name, value);
    }
    client
}

/// Sets what the user's own settings do not.
fn set_defaults(client: &mut ClientConfig, defaults: &[(&str, &str)]) {
    for (name, value) in defaults {
        let alias = ALIASES.iter().find(|(known, _)| known == name).map_or(*name, |(_, alias)| alias);
        if client.get(name).is_none() && client.get(alias).is_none() {
            client.set(*name, *value);
        }
    }
}

/// The cluster that a configuration names. Clones share the client that asks about topics.
#[derive(Clone)]
pub struct Librdkafka {
    config: KafkaConfig,
    /// To open and close one takes longer than many answers.
    asking: Arc<Mutex<Option<Arc<Asking>>>>,
}

impl fmt::Debug for Librdkafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Librdkafka").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Librdkafka {
    /// The cluster of `config`. Nothing is connected yet.
    pub fn new(config: &KafkaConfig) -> Librdkafka {
        Librdkafka { config: config.clone(), asking: Arc::default() }
    }

    /// A client that records are read with.
    fn reading(&self) -> Result<BaseConsumer, LogError> {
        let mut client = kafka_config(&self.config);
        let defaults = [
            ("group.id", "tidegate"),
            // How long an end is waited at before it is one.
            ("fetch.wait.max.ms", "100"),
            ("fetch.queue.backoff.ms", "5"),
            ("queued.max.messages.kbytes", "65536"),
        ];
        set_defaults(&mut client, &defaults);
        // What is right depends on these, so that nobody's properties change them.
        client.set("isolation.level", "read_committed").set("auto.offset.reset", "error");
        client.set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        client.create().map_err(|e| LogError(format!("Kafka settings of the consumer: {e}")))
    }
}

impl Kafka for Librdkafka {
    fn producer(&self, transactional_id: Option<&str>) -> Result<Box<dyn Producer>, LogError> {
        let mut client = kafka_config(&self.config);
        // The client refuses records that may outlive their transaction.
        let patience = if transactional_id.is_some() { "60000" } else { "300000" };
        let defaults = [
            ("enable.idempotence", "true"),
            // A batch goes when it is full, when this time is over, or when a commit asks for it. What goes sooner makes the next wait
            // for it, and while a batch whose time has come waits for the one before, the client's thread polls without pause. What is
            // in no transaction that is committed yet nobody sees, so that there is no hurry at all.
            ("linger.ms", if transactional_id.is_some() { "1000" } else { "50" }),
            // Less to send and to store: half of the time goes where the broker is.
            ("compression.type", "lz4"),
            ("batch.size", "250000"),
            ("queue.buffering.max.messages", "500000"),
            ("message.timeout.ms", patience),
        ];
        set_defaults(&mut client, &defaults);
        match transactional_id {
            Some(id) => drop(client.set("transactional.id", id).set("transaction.timeout.ms", patience)),
            // Else what comes behind a batch that fails is delivered all the same, and readers would take what is sent again
            // later for repeats.
            None => drop(client.set("enable.gapless.guarantee", "true")),
        }
        let producer: BaseProducer<Context> = client
            .create_with_context(Context::default())
            .map_err(|e| LogError(format!("Kafka settings of the producer: {e}")))?;
        if let Some(id) = transactional_id {
            // A client that is connected to no broker but the first looks again for the one that keeps transactions only after half
            // a second. To ask for an end is to connect to one. Whatever the answer is, or if there is none in time, it goes on.
            let _ = producer.client().fetch_watermarks(&self.config.topic, 0, LOOK);
            producer.init_transactions(PATIENCE).map_err(|e| {
                let (brokers, said) = (&self.config.brokers, refused(&e));
                LogError(format!(
                    "Kafka at {brokers}: transactions of {id}: {said}: with a cluster that has none set delivery = \"at-least-once\" in [publish]"
                ))
            })?;
        }
        Ok(Box::new(RdProducer {
            producer,
            way_back: WayBack::to(&self.config.brokers),
            silence: Silence::of(&self.config.brokers, Instant::now()),
        }))
    }

    /// All at once: each takes its time.
    fn fence(&self, transactional_ids: &[String]) -> Result<(), LogError> {
        std::thread::scope(|scope| {
            let fences: Vec<_> =
                transactional_ids.iter().map(|id| scope.spawn(|| self.producer(Some(id)).map(drop))).collect();
            fences.into_iter().try_for_each(|fence| fence.join().expect("fencing does not panic"))
        })
    }

    fn consumer(&self, topic: &str, starts: &[(u32, Option<u64>)]) -> Result<Box<dyn Consumer>, LogError> {
        let consumer = self.reading()?;
        // Without it the client waits a second before it looks where the partitions are. If it fails, reading will say so.
        let _ = consumer.fetch_metadata(Some(topic), PATIENCE);
        let mut assignment = TopicPartitionList::new();
        for (partition, start) in starts {
            let offset = start.map_or(Offset::Beginning, |offset| Offset::Offset(offset as i64));
            assignment
                .add_partition_offset(topic, *partition as i32, offset)
                .map_err(|e| LogError(format!("{topic}/{partition}: {e}")))?;
        }
        consumer.assign(&assignment).map_err(|e| LogError(format!("topic {topic}: {e}")))?;
        Ok(Box::new(RdConsumer {
            consumer: ClosedAside::new(consumer),
            topic: topic.to_string(),
            way_back: WayBack::to(&self.config.brokers),
            told: None,
        }))
    }

    fn offsets_at(&self, topic: &str, time: u64) -> Result<Vec<u64>, LogError> {
        self.ask_offsets_at(topic, time)
    }

    fn ends(&self, topic: &str) -> Result<Vec<(u64, u64)>, LogError> {
        self.ask_ends(topic)
    }
}

/// A client that is closed on a thread of its own: each takes a tenth of a second for it, which nobody has to wait for. A process that
/// ends meanwhile does not wait either: no consumer is in a group that it would have to leave. A producer is none of these: what it
/// drops has to be dropped when it is.
struct ClosedAside<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> ClosedAside<T> {
    fn new(client: T) -> Self {
        ClosedAside(Some(client))
    }
}

impl<T: Send + 'static> Deref for ClosedAside<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl<T: Send + 'static> Drop for ClosedAside<T> {
    fn drop(&mut self) {
        let client = self.0.take();
        // Where there is no thread to be had it is closed here.
        let _ = std::thread::Builder::new().name("close".into()).spawn(move || drop(client));
    }
}

struct RdConsumer {
    consumer: ClosedAside<BaseConsumer>,
    topic: String,
    way_back: WayBack,
    /// When it was said last that something failed which is tried again.
    told: Option<Instant>,
}

impl Consumer for RdConsumer {
    fn poll(
        &mut self,
        wait: Duration,
        take: &mut dyn FnMut(Record<'_>) -> Result<(), LogError>,
    ) -> Result<Polled, LogError> {
        match self.consumer.poll(whole(wait)) {
            None => {
                self.way_back.look(self.consumer.client());
                Ok(Polled::Nothing)
            }
            Some(Ok(message)) => take(record(&message)).map(|()| Polled::Record),
            Some(Err(KafkaError::PartitionEOF(partition))) => Ok(Polled::End(partition as u32)),
            Some(Err(error)) => match lasting(&self.topic, &error) {
                Some(lasting) => Err(lasting),
                None => {
                    if self.told.is_none_or(|told| told.elapsed() >= SILENCE) {
                        self.told = Some(Instant::now());
                        tracing::warn!(
                            "topic {}: a connection or a request failed ({error}): trying again",
                            self.topic
                        );
                    }
                    Ok(Polled::Nothing)
                }
            },
        }
    }

    fn hold(&mut self, partition: u32, held: bool) -> Result<(), LogError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition as i32);
        let done = if held { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
        done.map_err(|e| LogError(format!("{}/{partition}: {e}", self.topic)))
    }
}

fn record<'a>(message: &'a BorrowedMessage<'_>) -> Record<'a> {
    Record {
        partition: message.partition() as u32,
        offset: message.offset() as u64,
        timestamp: message.timestamp().to_millis().and_then(|time| u64::try_from(time).ok()),
        key: message.key(),
        value: message.payload(),
        headers: message.headers(),
    }
}

/// The error that ends reading, or `None` for one that librdkafka mends by itself.
fn lasting(topic: &str, error: &KafkaError) -> Option<LogError> {
    match error.rdkafka_error_code()? {
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => Some(LogError(format!(
            "topic {topic}: the offset to read from is gone, retention has passed it ({error}): land the tables anew under another job name, or from a new snapshot"
        ))),
        RDKafkaErrorCode::UnknownTopicOrPartition => Some(LogError(format!(
            "topic {topic} is not there any more ({error}): if it was deleted, publish to a new topic, with the tables copied anew"
        ))),
        RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::Authentication => {
            Some(LogError(format!("topic {topic}: {error}")))
        }
        _ => None,
    }
}

/// What the client's callbacks have said and nobody has taken yet.
#[derive(Debug, Default)]
struct Said {
    delivered: Vec<Delivered>,
    failure: Option<String>,
    has_logged: bool,
    has_delivered: bool,
}

#[derive(Debug, Default)]
struct Context(Mutex<Said>);

impl Context {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().expect("no panic while holding it")
    }

    fn fail(&self, failure: String) {
        self.said().failure.get_or_insert(failure);
    }
}

impl ClientContext for Context {
    /// The client says here, and else only to the next commit, that a transaction has failed; its records are held back
    /// until then, without a report.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.said().has_logged = true;
        if facility == "TXNERR" {
            self.fail(refused_because(message));
        }
        match level {
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!("librdkafka: {facility}: {message}"),
            _ => tracing::info!("librdkafka: {facility}: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.fail(refused_because(reason));
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        match result {
            Err((error, record)) => {
                let place = format!("{}/{}", record.topic(), record.partition());
                self.fail(format!("{place}: a record was not delivered: {}", refused(error)));
            }
            Ok(record) => {
                let (ticket, partition) = (ticket as u64, record.partition() as u32);
                let Ok(offset) = u64::try_from(record.offset()) else {
                    let place = format!("{}/{partition}", record.topic());
                    return self
                        .fail(format!("{place}: Kafka has a record, and does not say where: start publish again"));
                };
                let end = offset + 1;
                let mut said = self.said();
                said.has_delivered = true;
                match said.delivered.last_mut() {
                    Some(last) if last.ticket == ticket && last.partition == partition && last.end < end => {
                        last.end = end;
                        last.records += 1;
                    }
                    _ => said.delivered.push(Delivered { ticket, partition, end, records: 1 }),
                }
            }
        }
    }
}

/// Since when something is on its way to Kafka, and no record's report arrives.
struct Silence {
    brokers: String,
    since: Instant,
    asked: Instant,
    told: Instant,
}

impl Silence {
    fn of(brokers: &str, now: Instant) -> Silence {
        Silence { brokers: brokers.to_string(), since: now, asked: now, told: now }
    }

    /// For how long it has lasted, if that is to be told. While nobody asks, nobody waits.
    fn lasts(&mut self, now: Instant, is_over: bool) -> Option<Duration> {
        if is_over || now - self.asked >= SILENCE / 5 {
            self.since = now;
        }
        self.asked = now;
        let lasts = now - self.since;
        (lasts >= SILENCE && now - self.told >= SILENCE).then(|| {
            self.told = now;
            lasts
        })
    }

    fn hear(&mut self, is_over: bool) {
        if let Some(lasts) = self.lasts(Instant::now(), is_over) {
            tracing::warn!("Kafka at {} has taken nothing for {} s: waiting", self.brokers, lasts.as_secs());
        }
    }
}

struct RdProducer {
    producer: BaseProducer<Context>,
    way_back: WayBack,
    silence: Silence,
}

impl RdProducer {
    /// What has gone wrong and nobody has been told yet.
    fn failure(&self) -> Option<String> {
        self.producer.context().said().failure.take()
    }

    /// Asks for what lingers, and waits so long for all that is on its way, in whole milliseconds.
    fn flush(&self, wait: Duration) {
        let millis = wait.as_micros().div_ceil(1000) as i32;
        // The crate's own `flush` asks for zero milliseconds, and is over before the client's threads look.
        // SAFETY: the client is there as long as its producer is. What it returns is only whether all has arrived.
        unsafe { rdkafka::bindings::rd_kafka_flush(self.producer.client().native_ptr(), millis) };
    }

    /// What Kafka says, and what to do about it. What made the client refuse says more than that it does; after a fatal
    /// error the client only says that there was one, and what it was has to be asked for.
    fn refused(&self, error: &KafkaError) -> String {
        if let Some(failure) = self.failure() {
            return failure;
        }
        match self.producer.client().fatal_error() {
            Some((code, reason)) => refused_because(&format!("{code}: {reason}")),
            None => refused(error),
        }
    }
}

impl Producer for RdProducer {
    fn send(&mut self, record: NewRecord<'_>, ticket: u64) -> Result<(), String> {
        let mut sending = BaseRecord::with_opaque_to(record.topic, ticket as usize)
            .partition(record.partition as i32)
            .key(record.key)
            .payload(record.value);
        if let Some(timestamp) = record.timestamp {
            sending = sending.timestamp(timestamp as i64);
        }
        if let Some(headers) = record.headers {
            sending = sending.headers(headers);
        }
        loop {
            // Nothing may be delivered behind what was not.
            if let Some(failure) = self.failure() {
                return Err(failure);
            }
            match self.producer.send(sending) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    sending = back;
                    self.way_back.look(self.producer.client());
                    self.flush(Duration::from_millis(1));
                    self.producer.poll(DRAIN);
                    let hears = std::mem::take(&mut self.producer.context().said().has_delivered);
                    self.silence.hear(hears);
                }
                Err((error, _)) => return Err(self.refused(&error)),
            }
        }
    }

    fn poll(&mut self, wait: Duration, delivered: &mut dyn FnMut(Delivered)) -> Result<(), String> {
        self.way_back.look(self.producer.client());
        if !wait.is_zero() {
            self.flush(wait);
        }
        let (asked, mut hears) = (Instant::now(), false);
        loop {
            self.producer.poll(DRAIN);
            let mut said = self.producer.context().said();
            if let Some(failure) = said.failure.take() {
                return Err(failure);
            }
            let is_all = said.delivered.is_empty() && !std::mem::take(&mut said.has_logged);
            hears |= std::mem::take(&mut said.has_delivered);
            said.delivered.drain(..).for_each(&mut *delivered);
            if is_all || asked.elapsed() > DRAIN_MAX {
                break;
            }
        }
        self.silence.hear(hears || self.producer.in_flight_count() == 0);
        Ok(())
    }

    fn begin(&mut self) -> Result<(), String> {
        self.producer.begin_transaction().map_err(|e| self.refused(&e))
    }

    fn commit(&mut self) -> Result<(), String> {
        let asked = Instant::now();
        loop {
            match self.producer.commit_transaction(COMMIT_WAIT) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() => {
                    let waited = asked.elapsed();
                    if waited > COMMIT_PATIENCE {
                        return Err(format!(
                            "a commit has no answer for {} s: start publish again, it goes on where the last commit was",
                            waited.as_secs()
                        ));
                    }
                    tracing::warn!("a commit has no answer for {} s: trying again", waited.as_secs());
                    self.way_back.look(self.producer.client());
                }
                Err(error) => return Err(self.refused(&error)),
            }
        }
    }
}

/// What the client says of a transaction that failed, and what to do about it.
fn refused_because(reason: &str) -> String {
    let lower = reason.to_ascii_lowercase();
    // It speaks of epochs, too.
    if lower.contains("timed out on") {
        return untaken(reason);
    }
    let replaced = ["fenced by", "newer producer", "newer instance", "old epoch", "not currently assigned"];
    if replaced.iter().any(|word| lower.contains(word)) {
        REPLACED.into()
    } else {
        format!("the transaction has failed ({reason}): start publish again, it goes on where the last commit was")
    }
}

/// That a record has waited for too long, and what to do about it.
fn untaken(error: impl fmt::Display) -> String {
    format!(
        "{error}: Kafka did not take it in time: unless another publish of this topic has begun since, start it again, it goes on where \
         it was; if the topic was deleted, publish to a new one, with the tables copied anew"
    )
}

/// What Kafka says to a writer, and what to do about it.
fn refused(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::Fenced
            | RDKafkaErrorCode::ProducerFenced
            | RDKafkaErrorCode::InvalidProducerEpoch
            | RDKafkaErrorCode::InvalidProducerIdMapping,
        ) => REPLACED.into(),
        Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::State) => refused_because(&error.to_string()),
        // Kafka 4.4 fails so, at a commit for one, while it is fencing the one who asks.
        Some(RDKafkaErrorCode::Unknown) => {
            format!("{error}: Kafka has failed at a request, and its log may say why; or it is that {REPLACED}")
        }
        Some(
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition,
        ) => format!("{error}: if the topic was deleted, publish to a new one, with the tables copied anew"),
        Some(RDKafkaErrorCode::MessageTimedOut) => untaken(error),
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => format!(
            "{error}: raise \"message.max.bytes\" in [kafka.properties], and max.message.bytes of the topic, and start publish again"
        ),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
