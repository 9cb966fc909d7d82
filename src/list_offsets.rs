//! Kafka's question ListOffsets: where the partitions of a topic begin and end, and from where on their records are of a time or later.
//!
//! What librdkafka makes of it says less than it looks like. Its question for both ends of a partition
//! (`rd_kafka_query_watermark_offsets`) forgets that the first of two requests has failed once the second has an answer, and then says
//! that the partition is empty; so each end is asked for by itself, as the time that stands for it. And the one for times
//! (`rd_kafka_offsets_for_times`) succeeds also where a partition has no leader, or was refused and then asked again: only that
//! partition's own error says that its offset is none.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};

/// First kept offset and end offset of each of the first `partitions` partitions, within that time.
///
/// # Errors
/// One of them is not known; it may be a moment later ([`passes`]).
pub(crate) fn ends<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: u32,
    wait: Duration,
) -> KafkaResult<Vec<(u64, u64)>> {
    let asked = Instant::now();
    let begins = ask(client, topic, partitions, Offset::Beginning, wait)?;
    let ends = ask(client, topic, partitions, Offset::End, wait.saturating_sub(asked.elapsed()))?;
    // The leader may be another by now, or the topic, which must not be empty for that.
    let both = |both| match both {
        (Some(begin), Some(end)) if begin <= end => Ok((begin, end)),
        _ => Err(KafkaError::OffsetFetch(Code::OffsetNotAvailable)),
    };
    begins.into_iter().zip(ends).map(both).collect()
}

/// Of each of the first `partitions` partitions the offset of the first record with that time or a later one, if there is one.
///
/// # Errors
/// As [`ends`].
pub(crate) fn since<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: u32,
    time: i64,
    wait: Duration,
) -> KafkaResult<Vec<Option<u64>>> {
    ask(client, topic, partitions, Offset::Offset(time), wait)
}

/// Whether it is that a partition has no leader yet, or any more, or the leader does not know yet what it leads.
pub(crate) fn passes(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::UnknownLeaderEpoch
                | Code::FencedLeaderEpoch
                | Code::OffsetNotAvailable
                | Code::ReplicaNotAvailable
                | Code::KafkaStorageError
        )
    )
}

/// Asks about partitions that the cluster says there are.
fn ask<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: u32,
    time: Offset,
    wait: Duration,
) -> KafkaResult<Vec<Option<u64>>> {
    let mut asked = TopicPartitionList::new();
    for partition in 0..partitions {
        asked.add_partition_offset(topic, partition as i32, time)?;
    }
    // The cluster says that they are there: it is the client that has heard of no leader, or a leader that has not heard of them.
    let known = |error: KafkaError| match error.rdkafka_error_code() {
        Some(Code::UnknownPartition | Code::UnknownTopicOrPartition) => {
            KafkaError::OffsetFetch(Code::LeaderNotAvailable)
        }
        _ => error,
    };
    let said = client.offsets_for_times(asked, wait).map_err(known)?;
    let offset = |said: TopicPartitionListElem<'_>| {
        said.error().map_err(known)?;
        match said.offset() {
            // -1: there is no such record.
            Offset::End => Ok(None),
            Offset::Offset(offset) if offset >= 0 => Ok(Some(offset as u64)),
            _ => Err(KafkaError::OffsetFetch(Code::OffsetNotAvailable)),
        }
    };
    said.elements().into_iter().map(offset).collect()
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
    use rdkafka::types::{RDKafkaApiKey::ListOffsets, RDKafkaRespErr as Error};

    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    /// A topic with two partitions on two brokers, and a record in the first.
    fn cluster() -> (MockCluster<'static, DefaultProducerContext>, BaseConsumer) {
        let cluster = MockCluster::new(2).unwrap();
        cluster.create_topic("t", 2, 2).unwrap();
        cluster.partition_leader("t", 0, Some(1)).unwrap();
        cluster.partition_leader("t", 1, Some(2)).unwrap();
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "g");
        let producer: BaseProducer = client.create().unwrap();
        producer
            .send(BaseRecord::<[u8], [u8]>::to("t").partition(0).payload(b"v"))
            .map_err(|(error, _)| error)
            .unwrap();
        producer.flush(WAIT).unwrap();
        let consumer = client.create().unwrap();
        (cluster, consumer)
    }

    fn code<T: std::fmt::Debug>(said: KafkaResult<T>) -> Code {
        said.unwrap_err().rdkafka_error_code().unwrap()
    }

    /// It is asked again by the client, whose list then has both answers.
    #[test]
    fn what_was_refused_at_first_is_not_taken_for_an_answer() {
        let (cluster, client) = cluster();
        assert_eq!(ends(&client, "t", 2, WAIT).unwrap(), [(0, 1), (0, 0)]);
        assert_eq!(since(&client, "t", 2, 1 << 40, WAIT).unwrap(), [None, None]);
        for refused in [Error::RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH, Error::RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH] {
            cluster.request_errors(ListOffsets, &[refused]);
            assert_eq!(code(ends(&client, "t", 2, WAIT)), Code::from(refused));
            cluster.request_errors(ListOffsets, &[refused]);
            assert_eq!(code(since(&client, "t", 2, 1, WAIT)), Code::from(refused));
        }
        assert_eq!(ends(&client, "t", 2, WAIT).unwrap(), [(0, 1), (0, 0)]);
    }

    /// Then the call succeeds if another partition has one, and the time stands where its offset would.
    #[test]
    fn a_partition_without_a_leader_is_not_taken_for_one_with_an_answer() {
        let (cluster, client) = cluster();
        cluster.partition_leader("t", 0, None).unwrap();
        assert_eq!(code(ends(&client, "t", 2, WAIT)), Code::LeaderNotAvailable);
        assert_eq!(code(since(&client, "t", 2, 1 << 40, WAIT)), Code::LeaderNotAvailable);
        assert_eq!(code(ends(&client, "t", 1, WAIT)), Code::LeaderNotAvailable);
        // One that the client has not heard of.
        cluster.partition_leader("t", 0, Some(1)).unwrap();
        assert_eq!(code(ends(&client, "t", 3, WAIT)), Code::LeaderNotAvailable);
    }
}
