//! The tails of partitions: which times changes have that the source will be read again for.
//!
//! Writers commit each on their own, so that after a crash some partitions are ahead of the others. What the others lack is
//! read again from the source, and has to get times that fit those: the newest records say which.

use std::collections::BTreeMap;
use std::time::Duration;

use super::LogError;
use super::kafka::{Kafka, Polled};
use super::record::parse_record;
use crate::change::Changes;

/// How long a cluster may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// The seqs from `seq` on that a topic holds, none of them with a time below `time` (ms), and their times.
///
/// # Errors
/// The cluster does not answer; a record that is none of tidegate's.
pub fn times_from(kafka: &dyn Kafka, topic: &str, (seq, time): (u64, u64)) -> Result<Vec<(u64, u64)>, LogError> {
    let (ends, offsets) = (kafka.ends(topic)?, kafka.offsets_at(topic, time)?);
    let mut open = BTreeMap::new();
    let mut starts = Vec::new();
    for (partition, ((_, end), start)) in (0..).zip(ends.into_iter().zip(offsets)) {
        if start < end {
            open.insert(partition, end);
            starts.push((partition, Some(start)));
        }
    }
    let mut times = Vec::new();
    if open.is_empty() {
        return Ok(times);
    }
    let mut consumer = kafka.consumer(topic, &starts)?;
    let mut scratch = Changes::default();
    while !open.is_empty() {
        let polled = consumer.poll(PATIENCE, &mut |record| {
            scratch.clear();
            let (partition, offset) = (record.partition, record.offset);
            parse_record(record.headers, record.key, record.value, partition, offset, &mut scratch)
                .map_err(|e| LogError(format!("{topic}/{partition}/{offset}: {e}")))?;
            let head = scratch.head(0);
            if head.seq >= seq {
                times.push((head.seq, head.time));
            }
            if open.get(&partition).is_some_and(|end| offset + 1 >= *end) {
                open.remove(&partition);
            }
            Ok(())
        })?;
        match polled {
            Polled::Record => {}
            // Transaction markers leave gaps, so that the last offset may hold no record.
            Polled::End(partition) => drop(open.remove(&partition)),
            Polled::Nothing => return Err(LogError(format!("{topic}: no answer for {} s", PATIENCE.as_secs()))),
        }
    }
    Ok(times)
}
