//! Topics: what there is, and what is made. One client answers all questions of a cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};

use super::{ClosedAside, Librdkafka, kafka_config};
use crate::config::KafkaConfig;
use crate::list_offsets;
use crate::log::LogError;
use crate::log::kafka::{Kafka, PATIENCE};
use crate::log::meta::meta_topic;

/// The client that asks about topics.
pub(super) type Asking = ClosedAside<BaseConsumer>;

/// For how long is taken what that client says of itself: at no time at all the crate takes one thing.
const SAID: Duration = Duration::from_millis(1);

/// How long it may take, from their first answer on, until every broker knows of a topic that has been made and of its leaders, and
/// how long until they are asked again.
const KNOWN_MAX: Duration = Duration::from_millis(1500);
const LOOK_AGAIN: Duration = Duration::from_millis(15);

impl Librdkafka {
    /// Asks about topics. A client that gave no answer is not asked again, since nothing may come through its connection any more; if
    /// it has answered before, another is asked.
    pub(super) fn ask<T>(&self, question: impl Fn(&BaseConsumer) -> Result<T, LogError>) -> Result<T, LogError> {
        let asking = || self.asking.lock().expect("no panic while holding it");
        loop {
            let (client, is_new) = match &mut *asking() {
                Some(client) => (Arc::clone(client), false),
                none => (Arc::clone(none.insert(Arc::new(self.asking_client()?))), true),
            };
            let answer = question(&client);
            // Nobody else takes it, and what is not taken in time waits for the next question.
            while client.poll(SAID).is_some() {}
            if answer.is_ok() {
                return answer;
            }
            drop(asking().take_if(|kept| Arc::ptr_eq(kept, &client)));
            if is_new {
                return answer;
            }
        }
    }

    /// A client that is only asked, so that it needs no right to a group.
    fn asking_client(&self) -> Result<Asking, LogError> {
        let mut client = kafka_config(&self.config);
        client.remove("group.id");
        // The ends are those of what is committed. Nobody would take the statistics.
        client.set("isolation.level", "read_committed").set("statistics.interval.ms", "0");
        let client = client.create().map(ClosedAside::new);
        client.map_err(|e| LogError(format!("Kafka settings of the consumer: {e}")))
    }

    /// Closes the client that was asked, where nothing is asked for long: it keeps a connection, and what it says of itself.
    pub fn rest(&self) {
        drop(self.asking.lock().expect("no panic while holding it").take());
    }

    /// [`Kafka::offsets_at`].
    pub(super) fn ask_offsets_at(&self, topic: &str, time: u64) -> Result<Vec<u64>, LogError> {
        let ask = |client: &BaseConsumer, partitions| {
            let ends = list_offsets::ends(client, topic, partitions, PATIENCE)?;
            let since = list_offsets::since(client, topic, partitions, time as i64, PATIENCE)?;
            Ok(since.into_iter().zip(ends).map(|(since, (_, end))| since.unwrap_or(end)).collect())
        };
        self.ask_leaders(topic, &format!("asking for its offsets at {time}"), ask)
    }

    /// [`Kafka::ends`].
    pub(super) fn ask_ends(&self, topic: &str) -> Result<Vec<(u64, u64)>, LogError> {
        let ask = |client: &BaseConsumer, partitions| list_offsets::ends(client, topic, partitions, PATIENCE);
        self.ask_leaders(topic, "reading its ends", ask)
    }

    /// Asks the leaders of all partitions of a topic, also one that was just made, or whose leaders have just changed.
    fn ask_leaders<T>(
        &self,
        topic: &str,
        doing: &str,
        question: impl Fn(&BaseConsumer, u32) -> KafkaResult<T>,
    ) -> Result<T, LogError> {
        // One look alone may take longer than that, where a broker is slow.
        let mut looked = None;
        loop {
            let not_yet = match self.partitions_of(topic)? {
                None => None,
                Some(partitions) => {
                    let answer = self.ask(|client| match question(client, partitions) {
                        Ok(answer) => Ok(Ok(answer)),
                        Err(error) => {
                            let said = LogError(format!("topic {topic}: {doing}: {error}"));
                            if list_offsets::passes(&error) { Ok(Err(said)) } else { Err(said) }
                        }
                    })?;
                    match answer {
                        Ok(answer) => return Ok(answer),
                        Err(said) => Some(said),
                    }
                }
            };
            if looked.get_or_insert_with(Instant::now).elapsed() > KNOWN_MAX {
                return Err(not_yet.unwrap_or_else(|| self.missing(topic)));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// How many partitions a topic has; `None` where it does not exist.
    ///
    /// # Errors
    /// The cluster can't be reached, or does not let this user ask.
    pub fn partitions_of(&self, topic: &str) -> Result<Option<u32>, LogError> {
        let failed = |e| {
            let brokers = &self.config.brokers;
            LogError(format!("Kafka at {brokers} does not answer ({e}): check brokers in [kafka], and the network"))
        };
        let metadata = self.ask(|client| client.fetch_metadata(Some(topic), PATIENCE).map_err(failed))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
        match found.error().map(RDKafkaErrorCode::from) {
            None if !found.partitions().is_empty() => Ok(Some(found.partitions().len() as u32)),
            // It may be there.
            Some(code @ RDKafkaErrorCode::TopicAuthorizationFailed) => Err(LogError(format!(
                "topic {topic} at {}: {code}: let the user of [kafka.properties] describe it",
                self.config.brokers
            ))),
            _ => Ok(None),
        }
    }

    /// Creates the data topic with the configured partition count, and its compacted companion, where they are missing; adds
    /// partitions to a data topic that has fewer. Returns the data topic's partition count.
    ///
    /// # Errors
    /// The cluster can't be reached or refuses; a topic that has more partitions than configured.
    pub fn ensure_topics(&self) -> Result<u32, LogError> {
        let config = &self.config;
        let meta = meta_topic(&config.topic);
        let replication = || TopicReplication::Fixed(config.replication);
        // The companion is always made second, so that it is asked for first: another process may make both meanwhile.
        let has_companion = self.partitions_of(&meta)?.is_some();
        let existing = self.partitions_of(&config.topic)?;
        let has_records = |topic: &str| Ok::<_, LogError>(self.ends(topic)?.iter().any(|(_, end)| *end > 0));
        match existing {
            None if has_companion && has_records(&meta)? => {
                return Err(LogError(deleted(&config.topic, &config.brokers)));
            }
            // First, so that there is no companion without it.
            None => self.create(&[NewTopic::new(&config.topic, config.partitions as i32, replication())
                .set("message.timestamp.type", "CreateTime")
                .set("cleanup.policy", "delete")])?,
            Some(_) if !has_companion && has_records(&config.topic)? => {
                return Err(LogError(format!(
                    "topic {0} has records and no companion {meta}: that was deleted, or {0} is another tool's topic: publish to a new \
                     topic, with the tables copied anew or from a place in the source that they have reached",
                    config.topic
                )));
            }
            Some(_) => {}
        }
        if !has_companion {
            // All of it is read at each start: what a day's statements replace must not stay until a gigabyte is full.
            let compacted = NewTopic::new(&meta, 1, replication()).set("cleanup.policy", "compact");
            let often = compacted.set("segment.bytes", "16777216").set("segment.ms", "600000");
            self.create(&[often.set("min.cleanable.dirty.ratio", "0.1")])?;
        }
        if existing.is_some() {
            self.refuse_compacted()?;
        }
        match existing {
            Some(partitions) if partitions > config.partitions => Err(LogError(format!(
                "topic {} has {partitions} partitions, the configuration says {}: set partitions = {partitions} or more, or use a new topic (Kafka takes no partition away)",
                config.topic, config.partitions
            ))),
            Some(partitions) if partitions < config.partitions => self.grow().map(|()| config.partitions),
            _ => Ok(config.partitions),
        }
    }

    /// That what is in the data topic stays there: records of two tables may have one key, and of each key all are needed.
    fn refuse_compacted(&self) -> Result<(), LogError> {
        let topic = &self.config.topic;
        let options = AdminOptions::new().request_timeout(Some(PATIENCE));
        let asked = self.admin()?;
        let said = futures_executor::block_on(asked.describe_configs(&[ResourceSpecifier::Topic(topic)], &options));
        // Who may not ask is not refused.
        let said = said.unwrap_or_default().pop().and_then(Result::ok);
        let policy = said.and_then(|said| said.get("cleanup.policy").and_then(|entry| entry.value.clone()));
        match policy {
            Some(policy) if policy.contains("compact") => Err(LogError(format!(
                "topic {topic} has cleanup.policy = {policy}, which takes changes away that are still needed: set it to delete, or \
                 use a new topic"
            ))),
            _ => Ok(()),
        }
    }

    /// Adds the partitions that the data topic lacks, and waits until they are there.
    fn grow(&self) -> Result<(), LogError> {
        let KafkaConfig { topic, partitions, brokers, .. } = &self.config;
        let more = NewPartitions::new(topic, *partitions as usize);
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let results = futures_executor::block_on(self.admin()?.create_partitions([&more], &options))
            .map_err(|e| LogError(format!("Kafka at {brokers}: adding partitions: {e}")))?;
        for result in results {
            match result {
                // Another process of the cluster was faster, or there are too many: the count will show it.
                Ok(_) | Err((_, RDKafkaErrorCode::InvalidPartitions)) => {}
                Err((_, code)) => {
                    return Err(LogError(format!("Kafka refuses to add partitions to topic {topic}: {code}")));
                }
            }
        }
        let asked = Instant::now();
        while self.partitions_of(topic)? != Some(*partitions) {
            if asked.elapsed() > PATIENCE {
                return Err(LogError(format!("topic {topic} has not got its {partitions} partitions: try again")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn admin(&self) -> Result<ClosedAside<AdminClient<DefaultClientContext>>, LogError> {
        let admin = kafka_config(&self.config).create();
        admin.map(ClosedAside::new).map_err(|e| LogError(format!("Kafka settings: {e}")))
    }

    fn create(&self, topics: &[NewTopic]) -> Result<(), LogError> {
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        // The admin client is asynchronous; its future is driven by librdkafka's own thread, so that blocking here is enough.
        let results = futures_executor::block_on(self.admin()?.create_topics(topics, &options))
            .map_err(|e| LogError(format!("Kafka at {}: creating topics: {e}", self.config.brokers)))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(LogError(format!("Kafka refuses to create topic {topic}: {code}"))),
            }
        }
        Ok(())
    }

    /// Of a topic that is not there.
    fn missing(&self, topic: &str) -> LogError {
        let KafkaConfig { brokers, topic: data, .. } = &self.config;
        let has_companion = || matches!(self.partitions_of(&meta_topic(topic)), Ok(Some(_)));
        LogError(match topic == data {
            true if has_companion() => deleted(topic, brokers),
            true => format!("topic {topic} does not exist at {brokers}: run tidegate publish, which creates it"),
            false => format!(
                "topic {topic}, the companion of {data}, does not exist at {brokers}: it was deleted: publish to a new topic, with \
                 the tables copied anew; or {data} is another tool's topic: say in [land] envelope which tool's"
            ),
        })
    }
}

/// Of a topic that is not there any more.
fn deleted(topic: &str, brokers: &str) -> String {
    format!(
        "topic {topic} does not exist at {brokers}, and its companion {} does: {topic} was deleted: publish to a new topic, with the \
         tables copied anew",
        meta_topic(topic)
    )
}
