//! Where to read again: the offsets of a checkpoint, from where moments begin.

use std::collections::BTreeMap;

use super::LogError;
use super::kafka::{Kafka, next};
use super::meta::Companion;
use super::reader::MomentStart;
use super::record::previous_end;
use crate::change::{LookBack, Moment, epoch_at};

/// Collects where moments begin in each partition, and answers from where everything of a moment and later can be read.
///
/// ```
/// use tidegate::log::{MomentStart, Offsets};
/// let mut offsets = Offsets::default();
/// for (at, offset, passed) in [(5, 0, 1), (7, 40, 44), (9, 90, 95)] {
///     offsets.note(MomentStart { partition: 0, at, offset, passed, look_back: None });
/// }
/// let places = offsets.from(8).unwrap();
/// assert_eq!(places.offsets[&0], 40, "what is before 7 ends below 40; 8 has no record");
/// assert_eq!(places.passed[&0], 44, "what follows on 40 and is older was there before");
/// assert_eq!(offsets.from(9).unwrap().offsets[&0], 90);
/// assert_eq!(offsets.from(9), None, "nothing new");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Offsets {
    partitions: BTreeMap<u32, BTreeMap<Moment, MomentStart>>,
    /// Whether something has been noted since it was asked last.
    noted: bool,
    /// What it answered last, for which moment.
    said: (Moment, Places),
}

/// Where to read on, of each partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The offset of the first record to read.
    pub offsets: BTreeMap<u32, u64>,
    /// The seq below which all changes lie before that.
    pub passed: BTreeMap<u32, u64>,
    /// What is known there of what came before, on topics of others.
    pub look_backs: BTreeMap<u32, LookBack>,
}

impl Offsets {
    /// Takes note of where a moment begins.
    pub fn note(&mut self, start: MomentStart) {
        self.partitions.entry(start.partition).or_default().insert(start.at, start);
        self.noted = true;
    }

    /// Places such that every record of the moment `at` and later is there or beyond. `None`: that is known. A topic may go on
    /// with what belongs to no epoch, so that there is something new at the same moment. Forgets what only earlier ones need.
    pub fn from(&mut self, at: Moment) -> Option<Places> {
        let noted = std::mem::take(&mut self.noted);
        if at < self.said.0 || (at == self.said.0 && !noted) {
            return None;
        }
        let mut places = Places::default();
        for (partition, starts) in &mut self.partitions {
            let Some((_, &start)) = starts.range(..=at).next_back() else { continue };
            *starts = starts.split_off(&start.at);
            places.offsets.insert(*partition, start.offset);
            places.passed.insert(*partition, start.passed);
            places.look_backs.extend(start.look_back.map(|look_back| (*partition, look_back)));
        }
        // An epoch that has ended is news in itself: a target that has lost what was durable is noticed by what is recorded.
        let is_news = epoch_at(at) > epoch_at(self.said.0) || places != self.said.1;
        self.said = (at, places.clone());
        is_news.then_some(places)
    }
}

/// Where a run reads on in each partition of a topic of others, and what is known there: where the checkpoint says, or behind what
/// is durable if retention has deleted that, or at the first record kept. `ends` are the first kept offset and the end of each
/// partition, `applied` is the newest event time (ms) of what earlier runs have applied of it; no record comes later than
/// `horizon` (ms) in this run.
#[must_use]
pub fn go_on_from(mut kept: Places, ends: &[(u64, u64)], applied: &BTreeMap<u32, u64>, horizon: u64) -> Places {
    for (partition, &(low, _)) in (0..).zip(ends) {
        let offset = kept.offsets.get(&partition).copied().unwrap_or(low);
        let known = kept.look_backs.get(&partition);
        let known = known.and_then(|known| known.resume(offset, low, applied.get(&partition).copied()));
        let (offset, known) = known.unwrap_or((low, LookBack::nothing(low)));
        kept.offsets.insert(partition, offset);
        kept.look_backs.insert(partition, LookBack { horizon_max: horizon, ..known });
    }
    kept
}

/// Moves the offsets of a checkpoint on where retention has passed nothing but markers of transactions: a job that has read
/// everything is at the last record, and what is behind that goes away too, in time. Then no statement goes beyond that record; or
/// the first one that is kept says that it follows on it, for which `previous` is asked with partition and offset
/// ([`previous_of`]). `ends` are the first kept offset and the end of each partition. Retention is not so fast that it passes
/// records of which the statement can't be read yet.
///
/// # Errors
/// As `previous`.
pub fn pass_markers(
    from: &mut BTreeMap<u32, u64>,
    ends: &[(u64, u64)],
    companion: &Companion,
    previous: impl Fn(u32, u64) -> Result<Option<u64>, LogError>,
) -> Result<(), LogError> {
    for (partition, &(low, _)) in (0..).zip(ends) {
        let Some(next) = from.get_mut(&partition).filter(|next| **next < low) else { continue };
        let stated = companion.statements.get(&partition).map(|statement| statement.offset);
        let follows = |end: Option<u64>| end.is_some_and(|end| end <= *next);
        if follows(stated) || follows(previous(partition, low)?) {
            *next = low;
        }
    }
    Ok(())
}

/// What the first committed record of a partition from `offset` on says of where the one before it ended.
///
/// # Errors
/// The cluster does not answer, or retention has passed the offset meanwhile.
pub fn previous_of(kafka: &dyn Kafka, topic: &str, partition: u32, offset: u64) -> Result<Option<u64>, LogError> {
    let mut consumer = kafka.consumer(topic, &[(partition, Some(offset))])?;
    let mut previous = None;
    next(&mut *consumer, &format!("{topic}/{partition}"), &mut |record| {
        previous = record.headers.and_then(previous_end);
        Ok(())
    })?;
    Ok(previous)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::moment;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_of_the_epoch_or_later_lies_below_its_offset(
            steps in proptest::collection::vec(0u64..3, 1..40), ask in proptest::collection::vec(0u64..60, 1..6),
        ) {
            // Record n of the partition has an epoch that never decreases.
            let mut epochs = Vec::new();
            let mut offsets = Offsets::default();
            let mut epoch = 1;
            for (offset, step) in steps.iter().enumerate() {
                epoch += step;
                if epochs.last() != Some(&epoch) {
                    let (at, offset) = (moment(epoch, 0), offset as u64);
                    offsets.note(MomentStart { partition: 0, at, offset, passed: 0, look_back: None });
                }
                epochs.push(epoch);
            }
            let (mut ask, mut from) = (ask, 0);
            ask.sort_unstable();
            for epoch in ask {
                from = offsets.from(moment(epoch, 0)).map_or(from, |places| places.offsets.get(&0).copied().unwrap_or(0));
                let first = epochs.iter().position(|e| *e >= epoch).unwrap_or(epochs.len()) as u64;
                prop_assert!(from <= first);
                // And no more than the one epoch before is read again.
                prop_assert!(epochs[from as usize..first as usize].windows(2).all(|pair| pair[0] == pair[1]));
            }
        }
    }
}
