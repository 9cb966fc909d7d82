//! Settings, topics and offsets: what both ends of the contract ask of a Kafka cluster.

use std::time::Duration;

use rdkafka::Message;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::LogError;
use super::meta::{Meta, meta_topic};
use crate::config::KafkaConfig;

/// How long a cluster may take to answer before it counts as unreachable.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

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

fn consumer(config: &KafkaConfig) -> Result<BaseConsumer, LogError> {
    kafka_config(config)
        .set("group.id", "tidegate")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()
        .map_err(|e| LogError(format!("Kafka settings: {e}")))
}

/// A consumer of the partitions that it is told, for reading on and on, that says where a partition ends.
pub(super) fn consumer_for(config: &KafkaConfig) -> Result<BaseConsumer, LogError> {
    let mut client = kafka_config(config);
    for (name, value) in [
        ("group.id", "tidegate"),
        ("enable.auto.commit", "false"),
        ("auto.offset.reset", "error"),
        ("isolation.level", "read_committed"),
        ("fetch.queue.backoff.ms", "5"),
        ("queued.max.messages.kbytes", "65536"),
        ("enable.partition.eof", "true"),
    ] {
        if client.get(name).is_none() {
            client.set(name, value);
        }
    }
    client.create().map_err(|e| LogError(format!("Kafka settings of the consumer: {e}")))
}

/// Has a consumer read partitions of a topic from these offsets.
pub(super) fn assign(
    consumer: &BaseConsumer,
    topic: &str,
    starts: impl Iterator<Item = (u32, Offset)>,
) -> Result<(), LogError> {
    let mut assignment = TopicPartitionList::new();
    for (partition, offset) in starts {
        assignment
            .add_partition_offset(topic, partition as i32, offset)
            .map_err(|e| LogError(format!("{topic}/{partition}: {e}")))?;
    }
    consumer.assign(&assignment).map_err(|e| LogError(format!("topic {topic}: {e}")))
}

/// The end offset of a partition now.
pub(super) fn end_of(consumer: &BaseConsumer, topic: &str, partition: u32) -> Result<u64, LogError> {
    let (_, end) = consumer
        .fetch_watermarks(topic, partition as i32, PATIENCE)
        .map_err(|e| LogError(format!("{topic}/{partition}: reading its end: {e}")))?;
    Ok(end.max(0) as u64)
}

/// The error that ends reading, or `None` for one that librdkafka mends by itself.
pub(super) fn refusal(topic: &str, error: &KafkaError) -> Option<LogError> {
    match error.rdkafka_error_code()? {
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => Some(LogError(format!(
            "topic {topic}: the offset to read from is gone, retention has passed it ({error}): land the tables anew under another job name, or from a new snapshot"
        ))),
        RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::Authentication => Some(LogError(format!("topic {topic}: {error}"))),
        _ => None,
    }
}

/// How many partitions a topic has; `None` where it does not exist.
///
/// # Errors
/// The cluster can't be reached.
pub fn partitions_of(config: &KafkaConfig, topic: &str) -> Result<Option<u32>, LogError> {
    let metadata = consumer(config)?
        .fetch_metadata(Some(topic), PATIENCE)
        .map_err(|e| LogError(format!("Kafka at {} does not answer: {e}", config.brokers)))?;
    Ok(metadata
        .topics()
        .iter()
        .find(|found| found.name() == topic && found.error().is_none() && !found.partitions().is_empty())
        .map(|found| found.partitions().len() as u32))
}

/// Creates the data topic with the configured partition count, and its compacted companion, where they are missing.
/// Returns the data topic's partition count.
///
/// # Errors
/// The cluster can't be reached or refuses; a topic that exists with another partition count than configured.
pub fn ensure_topics(config: &KafkaConfig) -> Result<u32, LogError> {
    let meta = meta_topic(&config.topic);
    let existing = partitions_of(config, &config.topic)?;
    let mut missing = Vec::new();
    if existing.is_none() {
        missing.push(
            NewTopic::new(&config.topic, config.partitions as i32, TopicReplication::Fixed(config.replication))
                .set("message.timestamp.type", "CreateTime"),
        );
    }
    if partitions_of(config, &meta)?.is_none() {
        missing.push(
            NewTopic::new(&meta, 1, TopicReplication::Fixed(config.replication)).set("cleanup.policy", "compact"),
        );
    }
    if !missing.is_empty() {
        create(config, &missing)?;
    }
    match existing {
        Some(partitions) if partitions != config.partitions => Err(LogError(format!(
            "topic {} has {partitions} partitions, the configuration says {}: set partitions = {partitions}, or use a new topic (keys would move between partitions)",
            config.topic, config.partitions
        ))),
        _ => Ok(config.partitions),
    }
}

fn create(config: &KafkaConfig, topics: &[NewTopic]) -> Result<(), LogError> {
    let admin: AdminClient<DefaultClientContext> =
        kafka_config(config).create().map_err(|e| LogError(format!("Kafka settings: {e}")))?;
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    // The admin client is asynchronous; its future is driven by librdkafka's own thread, so that blocking here is enough.
    let results = futures_executor::block_on(admin.create_topics(topics, &options))
        .map_err(|e| LogError(format!("Kafka at {}: creating topics: {e}", config.brokers)))?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(LogError(format!("Kafka refuses to create topic {topic}: {code}"))),
        }
    }
    Ok(())
}

/// First kept offset and end offset of every partition of a topic.
///
/// # Errors
/// The cluster does not answer, or the topic is not there.
pub fn partition_ends(config: &KafkaConfig, topic: &str) -> Result<Vec<(u64, u64)>, LogError> {
    let partitions = partitions_of(config, topic)?.ok_or_else(|| {
        LogError(format!("topic {topic} does not exist at {}: run tidegate publish, which creates it", config.brokers))
    })?;
    let consumer = consumer(config)?;
    (0..partitions)
        .map(|partition| {
            consumer
                .fetch_watermarks(topic, partition as i32, PATIENCE)
                .map(|(low, high)| (low.max(0) as u64, high.max(0) as u64))
                .map_err(|e| LogError(format!("{topic}/{partition}: reading its ends: {e}")))
        })
        .collect()
}

/// Everything that the companion topic holds now, oldest first.
///
/// # Errors
/// The cluster does not answer, or a record is none of a companion topic's.
pub fn read_to_end(config: &KafkaConfig) -> Result<Vec<Meta>, LogError> {
    let topic = meta_topic(&config.topic);
    let ends = partition_ends(config, &topic)?;
    let [(low, high)] = ends[..] else {
        return Err(LogError(format!("topic {topic} has {} partitions, a companion topic has one", ends.len())));
    };
    let mut metas = Vec::new();
    if low == high {
        return Ok(metas);
    }
    let consumer = consumer(config)?;
    assign(&consumer, &topic, [(0, Offset::Offset(low as i64))].into_iter())?;
    loop {
        match consumer.poll(PATIENCE) {
            None => return Err(LogError(format!("{topic}/0: no answer for {} s", PATIENCE.as_secs()))),
            // Transaction markers leave gaps, so that the last offset may hold no record.
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(metas),
            Some(Err(e)) => return Err(LogError(format!("{topic}/0: {e}"))),
            Some(Ok(message)) => {
                let meta = Meta::from_record(message.key().unwrap_or_default(), message.payload().unwrap_or_default())
                    .map_err(|e| LogError(format!("{topic}/0/{}: {e}", message.offset())))?;
                metas.push(meta);
                // A publisher at work goes on writing: its end of partition may never come.
                if message.offset() as u64 + 1 >= high {
                    return Ok(metas);
                }
            }
        }
    }
}
