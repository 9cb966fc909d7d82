//! How far a partition is ahead of what can be applied. What is ahead only fills memory, so whoever is far ahead is held back
//! until the others have come nearer.

use std::collections::BTreeMap;

use crate::change::Moment;

/// The lead of a partition.
#[derive(Debug, Default)]
pub(super) struct Lead {
    /// Bytes that have been handed over beyond the reader's frontier, by moment.
    ahead: BTreeMap<Moment, usize>,
    held: bool,
}

impl Lead {
    /// Takes note of what is handed over.
    pub fn add(&mut self, at: Moment, bytes: usize) {
        *self.ahead.entry(at).or_default() += bytes;
    }

    /// Whether the partition is held back.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Nothing is held back by a new consumer.
    pub fn release(&mut self) {
        self.held = false;
    }

    /// Forgets what the reader's `frontier` has passed, where `own` is the partition's. Says whether it is to be held back, or
    /// let go, from now on: by what could be applied if all the others were where it is.
    pub fn keep_pace(&mut self, own: Moment, frontier: Moment, bytes_max: usize) -> Option<bool> {
        self.ahead = self.ahead.split_off(&frontier);
        let lead: usize = self.ahead.range(..own.max(frontier)).map(|(_, bytes)| bytes).sum();
        let most = if self.held { bytes_max / 2 } else { bytes_max };
        let held = lead > most;
        (held != std::mem::replace(&mut self.held, held)).then_some(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_far_ahead_waits_until_the_others_are_near_and_the_slowest_never_does() {
        let mut lead = Lead::default();
        (1..=10).for_each(|at| lead.add(at, 10));
        assert_eq!(lead.keep_pace(11, 11, 20), None, "it is the slowest, and nothing is ahead");
        (11..=20).for_each(|at| lead.add(at, 10));
        assert_eq!(lead.keep_pace(21, 11, 99), Some(true));
        assert_eq!(lead.keep_pace(21, 12, 99), None, "not just below the limit again");
        assert_eq!(lead.keep_pace(21, 17, 99), Some(false));
        lead.add(22, 900);
        assert_eq!(lead.keep_pace(22, 17, 99), None, "its own last moments are not ahead of anybody");
        lead.add(21, 100);
        assert_eq!(lead.keep_pace(22, 17, 99), Some(true));
        assert_eq!(lead.keep_pace(22, 22, 99), Some(false), "nothing but itself is waited for");
    }
}
