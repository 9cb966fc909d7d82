//! The reader of a DTS subscription: one Kafka partition, assigned and never subscribed to, its place kept by us.
//!
//! Nothing here chooses another place than the one asked for: an offset that retention has passed is an error
//! (`auto.offset.reset=error`), because reading on from elsewhere would lose changes in silence. Waiting for servers is
//! bounded, and then one sentence says what was waited for.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::change::{BATCH_BYTES, BATCH_ROWS, TableFilter};
use crate::config::{DtsConfig, DtsStart};
use crate::list_offsets;
use crate::lost::WayBack;
use crate::source::{Mark, Raws, Reader, SourceError, Start, now_ms};
use crate::wait::whole;

use super::{Begin, Records};

/// A DTS topic has one partition.
const PARTITIONS: u32 = 1;
const PARTITION: i32 = 0;

/// How long servers may take to answer before the reader gives up.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// How long one question may take.
const QUESTION_MAX: Duration = Duration::from_secs(2);

/// Between two of them.
const ASK_PAUSE: Duration = Duration::from_millis(100);

/// How long a read waits for the first record.
const READ_WAIT: Duration = Duration::from_millis(10);

/// How many records one read passes over at most, so that marks come while nothing is wanted.
const READ_RECORDS_MAX: usize = 16 * BATCH_ROWS;

/// Reader of a DTS subscription.
pub struct DtsReader {
    consumer: BaseConsumer<Heard>,
    topic: String,
    brokers: String,
    records: Records,
    /// The offset of the next record.
    next: u64,
    /// Everything that the partition held when last asked has been read.
    at_end: bool,
    /// With `until_end`: the offset at which to stop.
    stop: Option<u64>,
    consumed: Arc<AtomicU64>,
    way_back: WayBack,
}

impl DtsReader {
    /// Connects, finds the place where to begin, and begins to fetch. With `until_end` the reader ends where the topic
    /// ends now.
    ///
    /// # Errors
    /// One sentence: what in the configuration can't be used, or what the servers do not do.
    pub fn open(config: &DtsConfig, start: &Start, until_end: bool) -> Result<DtsReader, SourceError> {
        let filter = TableFilter::new(&config.tables).map_err(SourceError::Source)?;
        let mut begin = Begin::of(start)?;
        let consumer: BaseConsumer<Heard> = client_config(config)?
            .create_with_context(Heard::default())
            .map_err(|error| SourceError::Source(format!("the settings of the DTS source can't be used: {error}")))?;
        let topic = Topic { consumer: &consumer, name: &config.topic, brokers: &config.brokers };
        topic.check()?;
        let (low, high) = topic.ask("asking for the ends of", |wait| topic.ends(wait))?;
        let next = match begin.place {
            Some(place) => topic.kept(place, low, high)?,
            None => {
                let (next, skip_before) = topic.configured(config.start, low, high)?;
                begin.skip_before = skip_before;
                next
            }
        };
        let mut partition = TopicPartitionList::new();
        partition
            .add_partition_offset(&config.topic, PARTITION, Offset::Offset(next as i64))
            .and_then(|()| consumer.assign(&partition))
            .map_err(|error| topic.error("reading", &error))?;
        Ok(DtsReader {
            records: Records::new(filter, &begin),
            topic: config.topic.clone(),
            brokers: config.brokers.clone(),
            next,
            at_end: false,
            stop: until_end.then_some(high),
            consumed: Arc::default(),
            way_back: WayBack::to(&config.brokers),
            consumer,
        })
    }

    /// The number of bytes of record values that have been read so far; it grows while the reader lives. A writer into
    /// an in-process broker, which keeps only the newest megabytes, bounds its lead by it.
    pub fn consumed(&self) -> Arc<AtomicU64> {
        self.consumed.clone()
    }

    fn topic(&self) -> Topic<'_> {
        Topic { consumer: &self.consumer, name: &self.topic, brokers: &self.brokers }
    }

    fn ended(&self) -> bool {
        self.stop.is_some_and(|stop| self.next >= stop || self.at_end)
    }

    /// Takes what is at hand, waiting only for the first record.
    fn take(&mut self, now: u64, out: &mut Raws) -> Result<(), SourceError> {
        let mut wait = whole(READ_WAIT);
        for _ in 0..READ_RECORDS_MAX {
            if self.ended() || out.payload_bytes() >= BATCH_BYTES || out.len() >= BATCH_ROWS {
                return Ok(());
            }
            let message = match self.consumer.poll(wait) {
                None => {
                    self.way_back.look(self.consumer.client());
                    return Ok(());
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    self.at_end = true;
                    return Ok(());
                }
                Some(Err(error)) => return self.survives(&error),
                Some(Ok(message)) => message,
            };
            wait = Duration::ZERO;
            let offset = message.offset() as u64;
            let datum = message.payload().unwrap_or_default();
            let show = |position: &str| {
                let mut text = String::with_capacity(position.len() + self.topic.len() + 24);
                let _ = write!(text, "{position} {}/{PARTITION}/{offset}", self.topic); // a String takes everything
                text
            };
            self.records.take(datum, offset, now, show, out);
            self.consumed.fetch_add(datum.len() as u64, Ordering::Relaxed);
            self.next = offset + 1;
            self.at_end = false;
        }
        Ok(())
    }

    /// Whether reading may go on after `error`: librdkafka reconnects by itself, so a lost broker is one that does not
    /// answer when asked.
    #[cold]
    fn survives(&mut self, error: &KafkaError) -> Result<(), SourceError> {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                Err(gone(self.topic().name, self.next, "the topic no longer has it"))
            }
            Some(Code::AllBrokersDown | Code::BrokerTransportFailure | Code::OperationTimedOut | Code::Resolve) => {
                self.answers()
            }
            _ => Err(self.topic().error("reading", error)),
        }
    }
}

impl DtsReader {
    /// That a broker answers. One that is fenced answers at once, that it knows of no such topic, and one that has just become the
    /// leader that it does not know yet.
    fn answers(&mut self) -> Result<(), SourceError> {
        let asked = Instant::now();
        loop {
            self.way_back.look(self.consumer.client());
            let Err(error) = self.topic().ends(QUESTION_MAX) else {
                return Ok(());
            };
            if asked.elapsed() >= ANSWER_MAX {
                return Err(self.topic().error("asking for the ends of", &error));
            }
            std::thread::sleep(ASK_PAUSE);
        }
    }
}

impl Reader for DtsReader {
    fn begun(&self) -> Mark {
        self.records.mark(self.next, false)
    }

    fn read(&mut self, out: &mut Raws) -> Result<Mark, SourceError> {
        let now = now_ms();
        let before = self.next;
        self.take(now, out)?;
        if self.at_end && self.next == before {
            self.records.idle(now);
        }
        Ok(self.records.mark(self.next, self.ended()))
    }
}

/// What the consumer needs to know to read the subscription.
fn client_config(config: &DtsConfig) -> Result<ClientConfig, SourceError> {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.brokers)
        .set("client.id", "tidegate")
        .set("group.id", config.sid.as_deref().unwrap_or("tidegate"))
        // The default, a second, makes the consumer sleep half its time once its queue has been full.
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.wait.max.ms", "100")
        .set("queued.max.messages.kbytes", "32768")
        .set_log_level(RDKafkaLogLevel::Warning);
    if let Some(user) = &config.user {
        let sid = config.sid.as_deref().ok_or_else(|| {
            SourceError::Source("source: a DTS 'user' needs the 'sid' of the consumer group beside it".into())
        })?;
        let password = config.password.as_deref().ok_or_else(|| {
            SourceError::Source("source: a DTS 'user' needs a 'password' or a 'password_file' beside it".into())
        })?;
        client
            .set("security.protocol", "SASL_PLAINTEXT")
            .set("sasl.mechanism", "PLAIN")
            .set("sasl.username", format!("{user}-{sid}"))
            .set("sasl.password", password);
    }
    for (name, value) in &config.properties {
        client.set(name, value);
    }
    // What is right depends on these, so that nobody's properties change them.
    client.set("auto.offset.reset", "error").set("enable.partition.eof", "true");
    client.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
    Ok(client)
}

/// Keeps the last thing that librdkafka complained of: its error codes alone do not say why.
#[derive(Default)]
struct Heard(Mutex<Option<String>>);

impl ClientContext for Heard {
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, message: &str) {
        // "[thrd:sasl_plaintext://host:port/bootstrap]: sasl_plaintext://host:port/bootstrap: what happened"
        let plain = message.rsplit_once("]: ").map_or(message, |(_, rest)| rest);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(plain.trim().to_string());
    }
}

impl ConsumerContext for Heard {}

/// Questions to the servers about the topic, and the sentences for their answers.
struct Topic<'a> {
    consumer: &'a BaseConsumer<Heard>,
    name: &'a str,
    brokers: &'a str,
}

impl Topic<'_> {
    /// Asks until there is an answer, at most for [`ANSWER_MAX`]; a refused password is an answer.
    fn ask<T>(&self, what: &str, question: impl Fn(Duration) -> Result<T, KafkaError>) -> Result<T, SourceError> {
        let begun = Instant::now();
        loop {
            let error = match question(QUESTION_MAX) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // Before it has an assignment the consumer has nothing to say but what went wrong.
            let mut refused = false;
            while self.next_is_unassigned()
                && let Some(said) = self.consumer.poll(Duration::ZERO)
            {
                refused |= said.is_err_and(|e| e.rdkafka_error_code() == Some(RDKafkaErrorCode::Authentication));
            }
            let waited = begun.elapsed();
            if refused || !is_transient(&error) || waited >= ANSWER_MAX {
                return Err(self.error(what, &error));
            }
            std::thread::sleep(ASK_PAUSE.min(ANSWER_MAX - waited));
        }
    }

    fn next_is_unassigned(&self) -> bool {
        self.consumer.assignment().is_ok_and(|partitions| partitions.count() == 0)
    }

    /// How many partitions the cluster says that it has. The client hears of new leaders by it.
    fn partitions(&self, wait: Duration) -> KafkaResult<usize> {
        let metadata = self.consumer.fetch_metadata(Some(self.name), wait)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.name);
        let topic = topic.ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition))?;
        match topic.error() {
            Some(error) => Err(KafkaError::MetadataFetch(error.into())),
            None => Ok(topic.partitions().len()),
        }
    }

    /// That the topic is there and looks like a DTS topic.
    fn check(&self) -> Result<(), SourceError> {
        match self.ask("looking for", |wait| self.partitions(wait))? as u32 {
            PARTITIONS => Ok(()),
            n => Err(SourceError::Source(format!(
                "topic {} at {} has {n} partitions, and a DTS topic has one: order across partitions can't be known",
                self.name, self.brokers
            ))),
        }
    }

    /// Its first kept offset and its end, as its leader says.
    fn ends(&self, wait: Duration) -> KafkaResult<(u64, u64)> {
        self.partitions(wait)?;
        Ok(list_offsets::ends(self.consumer, self.name, PARTITIONS, wait)?[0])
    }

    /// `place`, if the topic still has it.
    fn kept(&self, place: u64, low: u64, high: u64) -> Result<u64, SourceError> {
        if place < low {
            return Err(gone(self.name, place, &format!("the oldest that is kept is {low}")));
        }
        if place > high {
            return Err(gone(self.name, place, &format!("the topic ends at {high}, so it is not the topic it was")));
        }
        Ok(place)
    }

    /// Where the configuration says to begin, and which second rows before are to be passed over.
    fn configured(&self, start: DtsStart, low: u64, high: u64) -> Result<(u64, Option<i64>), SourceError> {
        let second = match start {
            DtsStart::Earliest => return Ok((low, None)),
            DtsStart::Latest => return Ok((high, None)),
            DtsStart::Second(second) => second,
        };
        if second > now_ms() / 1000 {
            return Err(SourceError::Source(format!(
                "source: start = '{second}' is a time to come: write it in seconds"
            )));
        }
        let second = second as i64;
        // DTS takes seconds where Kafka takes milliseconds; from a plain Kafka topic this gives its first record. Either way rows from
        // before the time are passed over.
        let since = |wait| {
            self.partitions(wait)?;
            list_offsets::since(self.consumer, self.name, PARTITIONS, second, wait)
        };
        let found = self.ask("looking for the start in", since)?;
        Ok((found[0].unwrap_or(high), Some(second)))
    }

    fn error(&self, doing: &str, error: &KafkaError) -> SourceError {
        use RDKafkaErrorCode as Code;
        let Topic { name, brokers, .. } = self;
        let heard = self.consumer.context().0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let because = heard.as_ref().map_or(String::new(), |why| format!(" ({why})"));
        let refused = heard.as_ref().is_some_and(|why| why.contains("authentication"));
        SourceError::Source(match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                format!("there is no topic {name} at {brokers}; check 'topic' and 'brokers' of the source")
            }
            Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => {
                format!("{brokers} does not let this user read topic {name}; check 'user', 'sid' and 'topic'")
            }
            Some(Code::Authentication | Code::SaslAuthenticationFailed) => {
                format!("{brokers} refused the user or the password; check 'user', 'sid' and 'password'{because}")
            }
            _ if refused => {
                format!("{brokers} refused the user or the password; check 'user', 'sid' and 'password'{because}")
            }
            _ if is_silence(error) => format!(
                "{brokers} did not answer within {} s while {doing} topic {name}; check 'brokers', the network and, for \
                 a server with passwords, 'user'{because}",
                ANSWER_MAX.as_secs()
            ),
            _ => format!("{doing} topic {name} at {brokers} failed: {error}{because}"),
        })
    }
}

/// Whether nobody has answered.
fn is_silence(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::Resolve
                | Code::BrokerNotAvailable
                | Code::NetworkException
        )
    )
}

/// Whether the same question may get another answer a little later.
fn is_transient(error: &KafkaError) -> bool {
    list_offsets::passes(error) || is_silence(error)
}

fn gone(topic: &str, offset: u64, why: &str) -> SourceError {
    SourceError::Source(format!(
        "offset {offset} of topic {topic} can't be read: {why}. Changes are lost between; let the job begin anew under \
         another name and load the tables again"
    ))
}
