//! Where to read again: the offsets of a checkpoint, from where epochs begin.

use std::collections::BTreeMap;

use super::meta::Companion;
use super::moved::LookBack;
use super::reader::EpochStart;

/// Collects where epochs begin in each partition, and answers from where everything of an epoch and later can be read.
///
/// ```
/// use tidegate::log::{EpochOffsets, EpochStart};
/// let mut offsets = EpochOffsets::default();
/// for (epoch, offset) in [(5, 0), (7, 40), (9, 90)] {
///     offsets.note(EpochStart { partition: 0, epoch, offset, look_back: None });
/// }
/// assert_eq!(offsets.from(8).0[&0], 40, "epochs 5 and 6 end below 40; 8 has no record");
/// assert_eq!(offsets.from(9).0[&0], 90);
/// ```
#[derive(Clone, Debug, Default)]
pub struct EpochOffsets {
    partitions: BTreeMap<u32, BTreeMap<u64, (u64, Option<LookBack>)>>,
}

impl EpochOffsets {
    /// Takes note of where an epoch begins.
    pub fn note(&mut self, start: EpochStart) {
        self.partitions.entry(start.partition).or_default().insert(start.epoch, (start.offset, start.look_back));
    }

    /// For each partition an offset such that every record of `epoch` and later is there or beyond, and what is known there of
    /// what came before. Forgets what only earlier epochs need.
    pub fn from(&mut self, epoch: u64) -> (BTreeMap<u32, u64>, BTreeMap<u32, LookBack>) {
        let (mut offsets, mut look_backs) = (BTreeMap::new(), BTreeMap::new());
        for (partition, starts) in &mut self.partitions {
            let Some((&newest, &(offset, look_back))) = starts.range(..=epoch).next_back() else { continue };
            *starts = starts.split_off(&newest);
            offsets.insert(*partition, offset);
            look_backs.extend(look_back.map(|look_back| (*partition, look_back)));
        }
        (offsets, look_backs)
    }
}

/// Moves the offsets of a checkpoint on where retention has passed nothing but markers of transactions: a job that has read
/// everything is at the last record, and what is behind that goes away too, in time. `ends` are the
/// first kept offset and the end of each partition.
pub fn pass_markers(from: &mut BTreeMap<u32, u64>, ends: &[(u64, u64)], companion: &Companion) {
    for (partition, (low, _)) in (0..).zip(ends) {
        let stated = companion.statements.get(&partition).map(|statement| statement.offset);
        if let (Some(next), Some(stated)) = (from.get_mut(&partition), stated)
            && stated <= *next
        {
            *next = (*next).max(*low);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_of_the_epoch_or_later_lies_below_its_offset(
            steps in proptest::collection::vec(0u64..3, 1..40), ask in proptest::collection::vec(0u64..60, 1..6),
        ) {
            // Record n of the partition has an epoch that never decreases.
            let mut epochs = Vec::new();
            let mut offsets = EpochOffsets::default();
            let mut epoch = 1;
            for (offset, step) in steps.iter().enumerate() {
                epoch += step;
                if epochs.last() != Some(&epoch) {
                    offsets.note(EpochStart { partition: 0, epoch, offset: offset as u64, look_back: None });
                }
                epochs.push(epoch);
            }
            let mut ask = ask;
            ask.sort_unstable();
            for epoch in ask {
                let from = offsets.from(epoch).0.get(&0).copied().unwrap_or(0);
                let first = epochs.iter().position(|e| *e >= epoch).unwrap_or(epochs.len()) as u64;
                prop_assert!(from <= first);
                // And no more than the one epoch before is read again.
                prop_assert!(epochs[from as usize..first as usize].windows(2).all(|pair| pair[0] == pair[1]));
            }
        }
    }
}
