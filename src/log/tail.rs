//! The tails of partitions: which times changes have that the source will be read again for.
//!
//! Writers commit each on their own, so that after a crash some partitions are ahead of the others. What the others lack is
//! read again from the source, and has to get times that fit those: the newest records say which. How many of them, nobody
//! knows before. Where each change is there once, in order, partitions are read from a little before their ends, and again
//! from further back, until they begin with a change that is old enough. Where changes may be there again behind newer ones,
//! the timestamps of records say where to begin; they do not where there are transactions, whose markers have the broker's
//! own time, so that of a source that is far behind all that was written meanwhile would be read.

use std::collections::BTreeMap;

use super::LogError;
use super::kafka::{Kafka, Polled, next};
use super::record::parse_record;
use crate::change::Changes;

/// By so much further back each time.
const WIDEN: u64 = 8;

/// How the beginning of a tail is found.
#[derive(Clone, Copy, Debug)]
pub enum Begin {
    /// No change of it has a lower time (ms).
    AtTime(u64),
    /// Each partition is in order; so many records are looked at first.
    LookBack(u64),
}

/// The times (ms) of the changes from `seq` on that a topic holds, each with the newest seq that has it.
///
/// # Errors
/// The cluster does not answer.
pub fn times_from(kafka: &dyn Kafka, topic: &str, seq: u64, begin: Begin) -> Result<BTreeMap<u64, u64>, LogError> {
    let mut times = BTreeMap::new();
    let ends = kafka.ends(topic)?;
    let mut back = match begin {
        Begin::LookBack(records) => records.max(1),
        Begin::AtTime(time) => {
            let starts = kafka.offsets_at(topic, time)?;
            let ranges = starts.into_iter().zip(&ends).map(|(start, (_, end))| (start, *end));
            read_times(kafka, topic, (0..).zip(ranges).collect(), seq, &mut times)?;
            return Ok(times);
        }
    };
    let mut open: BTreeMap<u32, (u64, u64)> = (0..).zip(ends).collect();
    while !open.is_empty() {
        let range = |(low, end): (u64, u64)| (end.saturating_sub(back).max(low), end);
        let ranges = open.iter().map(|(partition, kept)| (*partition, range(*kept))).collect();
        let first = read_times(kafka, topic, ranges, seq, &mut times)?;
        open.retain(|partition, kept| {
            let begins_late = first.get(partition).is_none_or(|first| *first > seq);
            begins_late && range(*kept).0 > kept.0
        });
        back = back.saturating_mul(WIDEN);
    }
    Ok(times)
}

/// Reads ranges of offsets of partitions, and adds the times of changes from `seq` on. Returns the first seq of each partition.
fn read_times(
    kafka: &dyn Kafka,
    topic: &str,
    mut ranges: BTreeMap<u32, (u64, u64)>,
    seq: u64,
    times: &mut BTreeMap<u64, u64>,
) -> Result<BTreeMap<u32, u64>, LogError> {
    ranges.retain(|_, (start, end)| start < end);
    if ranges.is_empty() {
        return Ok(BTreeMap::new());
    }
    let starts: Vec<_> = ranges.iter().map(|(partition, (start, _))| (*partition, Some(*start))).collect();
    let mut consumer = kafka.consumer(topic, &starts)?;
    let (mut scratch, mut first) = (Changes::default(), BTreeMap::new());
    while !ranges.is_empty() {
        let polled = next(&mut *consumer, topic, &mut |record| {
            scratch.clear();
            let (partition, offset) = (record.partition, record.offset);
            // What somebody else wrote is `land`'s trouble.
            if parse_record(record.headers, record.key, record.value, partition, offset, &mut scratch).is_ok() {
                let head = scratch.head(0);
                first.entry(partition).or_insert(head.seq);
                if head.seq >= seq {
                    let newest = times.entry(head.time).or_default();
                    *newest = head.seq.max(*newest);
                }
            }
            if ranges.get(&partition).is_some_and(|(_, end)| offset + 1 >= *end) {
                ranges.remove(&partition);
            }
            Ok(())
        })?;
        // Transaction markers leave gaps, so that the last offset may hold no record.
        if let Polled::End(partition) = polled {
            ranges.remove(&partition);
        }
    }
    Ok(first)
}
