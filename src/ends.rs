//! Where the partitions of a topic begin and end.
//!
//! librdkafka's own question for both of a partition (`rd_kafka_query_watermark_offsets`) forgets that the first of its two requests
//! has failed once the second has an answer, and then says that the partition is empty. So each end is asked for by itself, of all
//! partitions at once, as a time that stands for it: -2 for the first offset that is kept and -1 for the next that will be.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// First kept offset and end offset of each of the first `partitions` partitions.
pub(crate) fn ends<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: u32,
    wait: Duration,
) -> KafkaResult<Vec<(u64, u64)>> {
    let ask = |end| {
        let mut asked = TopicPartitionList::new();
        for partition in 0..partitions {
            asked.add_partition_offset(topic, partition as i32, end)?;
        }
        let said = client.offsets_for_times(asked, wait)?;
        let offset = |offset| match offset {
            Offset::Offset(offset) => Ok(offset as u64),
            _ => Err(KafkaError::OffsetFetch(RDKafkaErrorCode::OffsetNotAvailable)),
        };
        said.elements().iter().map(|said| offset(said.offset())).collect::<KafkaResult<Vec<u64>>>()
    };
    // In this order: what is kept may begin later meanwhile, but never behind the end.
    Ok(ask(Offset::Beginning)?.into_iter().zip(ask(Offset::End)?).collect())
}
