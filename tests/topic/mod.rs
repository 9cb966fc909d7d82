//! What a consumer of committed records finds in a job's topic.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Headers;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::job::env;

/// The seqs of the committed records of each partition, in order.
pub fn committed(topic: &str) -> BTreeMap<i32, Vec<u64>> {
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
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
    let mut seqs: BTreeMap<i32, Vec<u64>> = (0..partitions).map(|partition| (partition, Vec::new())).collect();
    let mut ended = 0;
    while ended < partitions {
        match consumer.poll(Duration::from_secs(70)).expect("an open transaction holds up every consumer") {
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("{error}"),
            Ok(message) => {
                let headers = message.headers().unwrap();
                let seq = headers.iter().find(|header| header.key == "tidegate.seq").unwrap().value.unwrap();
                let seq = std::str::from_utf8(seq).unwrap().parse().unwrap();
                seqs.get_mut(&message.partition()).unwrap().push(seq);
            }
        }
    }
    seqs
}
