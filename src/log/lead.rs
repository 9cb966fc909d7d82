//! How far a partition is ahead of what can be applied. What is ahead only fills memory, so whoever is far ahead is held back
//! until the others have come nearer.

use std::collections::VecDeque;

use crate::change::Moment;

/// The lead of a partition.
#[derive(Debug, Default)]
pub(super) struct Lead {
    /// What has been handed over beyond the reader's frontier: moments and bytes, and all their bytes.
    ahead: VecDeque<(Moment, usize)>,
    bytes: usize,
    held: bool,
}

impl Lead {
    /// Takes note of what is handed over.
    pub fn add(&mut self, at: Moment, bytes: usize) {
        self.bytes += bytes;
        match self.ahead.back_mut() {
            Some((last, sum)) if *last == at => *sum += bytes,
            _ => self.ahead.push_back((at, bytes)),
        }
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
    /// let go, from now on: never one that nothing but itself is waiting for.
    pub fn keep_pace(&mut self, own: Moment, frontier: Moment, bytes_max: usize) -> Option<bool> {
        while let Some((_, bytes)) = self.ahead.pop_front_if(|(at, _)| *at < frontier) {
            self.bytes -= bytes;
        }
        let most = if self.held { bytes_max / 2 } else { bytes_max };
        let held = self.bytes > most && own > frontier;
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
        lead.add(21, 100);
        assert_eq!(lead.keep_pace(22, 17, 99), Some(true));
        assert_eq!(lead.keep_pace(22, 22, 99), Some(false), "nothing but itself is waited for");
    }
}
