//! What a consumer of committed records finds in a job's topic.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, Message};

use crate::job::env;

/// The seqs of the committed records of each partition, in order.
pub fn committed(topic: &str) -> BTreeMap<i32, Vec<u64>> {
    let mut seqs = BTreeMap::<i32, Vec<u64>>::new();
    read(topic, |message| {
        let seq = header(message, "tidegate.seq").parse().unwrap();
        seqs.entry(message.partition()).or_default().push(seq);
    });
    seqs
}

/// Where the committed records of a key of a table are, and what they are.
pub fn written(topic: &str, table: &str, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    read(topic, |message| {
        // Several columns make an array that begins with the first.
        let text = std::str::from_utf8(message.key().unwrap()).unwrap();
        if header(message, "binlog.table") == table && (text == key || text.starts_with(&format!("[\"{key}\","))) {
            let [op, seq, time, position] =
                ["binlog.type", "tidegate.seq", "tidegate.time", "tidegate.position"].map(|name| header(message, name));
            let (partition, offset) = (message.partition(), message.offset());
            found.push(format!("{partition}/{offset}: {op}, seq {seq}, time {time}, from {position}"));
        }
    });
    found
}

fn header<'a>(message: &'a BorrowedMessage, name: &str) -> &'a str {
    let headers = message.headers().unwrap();
    let header = (0..headers.count()).map(|n| headers.get(n)).find(|header| header.key == name);
    std::str::from_utf8(header.unwrap().value.unwrap()).unwrap()
}

/// Reads the committed records of all partitions.
fn read(topic: &str, mut take: impl FnMut(&BorrowedMessage)) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", env("KAFKA_ADDR"))
        .set("group.id", "test")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(20)).unwrap();
    let partitions = metadata.topics()[0].partitions().len() as i32;
    (0..partitions).for_each(|partition| assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap());
    consumer.assign(&assignment).unwrap();
    let mut ended = 0;
    while ended < partitions {
        match consumer.poll(Duration::from_secs(70)).expect("an open transaction holds up every consumer") {
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("{error}"),
            Ok(message) => take(&message),
        }
    }
}

/// Waits until records are in the topic that may not be committed.
pub fn wait_for_records(topic: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", env("KAFKA_ADDR")).set("isolation.level", "read_uncommitted");
    let consumer: BaseConsumer = config.create().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !matches!(consumer.fetch_watermarks(topic, 0, Duration::from_secs(5)), Ok((_, 1..))) {
        assert!(Instant::now() < deadline, "waited in vain for records in {topic}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", env("KAFKA_ADDR")).create().unwrap()
}

/// Has retention pass all records of a partition.
pub fn delete_records(topic: &str, partition: i32) {
    delete_records_before(topic, partition, Offset::End);
}

/// Has retention pass those before `end`.
pub fn delete_records_before(topic: &str, partition: i32, end: Offset) {
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, partition, end).unwrap();
    futures_executor::block_on(admin().delete_records(&offsets, &AdminOptions::new())).unwrap();
}
