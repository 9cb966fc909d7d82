//! The tails of partitions: which times changes have that the source will be read again for.
//!
//! Writers commit each on their own, so that after a crash some partitions are ahead of the others. What the others lack is
//! read again from the source, and has to get times that fit those: the newest records say which. How many of them, nobody
//! knows before. Where each change is there once, in order, partitions are read from a little before their ends, and again
//! from further back, until they begin with a change that is old enough. Where changes may be there again behind newer ones,
//! the timestamps of records say where to begin; they do not where there are transactions, whose markers have the broker's
//! own time, so that of a source that is far behind all that was written meanwhile would be read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::LogError;
use super::kafka::{Kafka, Polled};
use super::record::parse_record;
use crate::change::Changes;

/// How long a cluster may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

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
/// The cluster does not answer; a record that is none of tidegate's.
pub fn times_from(kafka: &dyn Kafka, topic: &str, seq: u64, begin: Begin) -> Result<BTreeMap<u64, u64>, LogError> {
    let mut times = BTreeMap::new();
    let ends = kafka.ends(topic)?;
    let range = |(partition, start): (u32, u64)| (partition, (start, ends[partition as usize].1));
    let begin_at = |starts: Vec<(u32, u64)>| {
        starts.into_iter().map(range).filter(|(_, (start, end))| start < end).collect::<BTreeMap<u32, (u64, u64)>>()
    };
    let mut back = match begin {
        Begin::LookBack(records) => records.max(1),
        Begin::AtTime(time) => {
            let starts = begin_at((0..).zip(kafka.offsets_at(topic, time)?).collect());
            read_times(kafka, topic, starts, seq, &mut times)?;
            return Ok(times);
        }
    };
    let mut open: Vec<u32> = (0..ends.len() as u32).collect();
    loop {
        let start = |partition: u32| {
            let (low, end) = ends[partition as usize];
            end.saturating_sub(back).max(low)
        };
        let starts = begin_at(open.iter().map(|partition| (*partition, start(*partition))).collect());
        if starts.is_empty() {
            return Ok(times);
        }
        let first = read_times(kafka, topic, starts, seq, &mut times)?;
        open.retain(|partition| {
            let begins_late = first.get(partition).is_none_or(|first| *first > seq);
            begins_late && start(*partition) > ends[*partition as usize].0
        });
        back = back.saturating_mul(WIDEN);
    }
}

/// Reads ranges of offsets of partitions, and adds the times of changes from `seq` on. Returns the first seq of each partition.
fn read_times(
    kafka: &dyn Kafka,
    topic: &str,
    mut ranges: BTreeMap<u32, (u64, u64)>,
    seq: u64,
    times: &mut BTreeMap<u64, u64>,
) -> Result<BTreeMap<u32, u64>, LogError> {
    if ranges.is_empty() {
        return Ok(BTreeMap::new());
    }
    let starts: Vec<_> = ranges.iter().map(|(partition, (start, _))| (*partition, Some(*start))).collect();
    let mut consumer = kafka.consumer(topic, &starts)?;
    let (mut scratch, mut first) = (Changes::default(), BTreeMap::new());
    let mut heard = Instant::now();
    while !ranges.is_empty() {
        let polled = consumer.poll(PATIENCE, &mut |record| {
            heard = Instant::now();
            scratch.clear();
            let (partition, offset) = (record.partition, record.offset);
            parse_record(record.headers, record.key, record.value, partition, offset, &mut scratch)
                .map_err(|e| LogError(format!("{topic}/{partition}/{offset}: {e}")))?;
            let head = scratch.head(0);
            first.entry(partition).or_insert(head.seq);
            if head.seq >= seq {
                let newest = times.entry(head.time).or_default();
                *newest = head.seq.max(*newest);
            }
            if ranges.get(&partition).is_some_and(|(_, end)| offset + 1 >= *end) {
                ranges.remove(&partition);
            }
            Ok(())
        })?;
        match polled {
            Polled::Record => {}
            // Transaction markers leave gaps, so that the last offset may hold no record.
            Polled::End(partition) => drop(ranges.remove(&partition)),
            // Also for what passes by itself.
            Polled::Nothing if heard.elapsed() < PATIENCE => {}
            Polled::Nothing => return Err(LogError(format!("{topic}: no answer for {} s", PATIENCE.as_secs()))),
        }
    }
    Ok(first)
}
