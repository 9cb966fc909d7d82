//! Where the event time of a partition moves on, and from where it has to be read again.
//!
//! A record may come behind the newest of its partition by a *horizon*. Whoever reads a partition again in order to judge
//! what comes late needs all that may be newer of any key than something late: all records from the newest time less the
//! horizon on. Those begin where that time was first reached, since before there everything is older.
//!
//! So a run that begins behind where the first one did knows: what is older than the first record it reads may have something
//! newer of its key before there, and cannot judge it. Nor has it to: the partition has moved on by a horizon since then, or its
//! place would still be where the first run began; such a record was too late already, or it had been decided about.

use std::collections::VecDeque;
use std::time::Duration;

use crate::change::epoch_of;

/// Where the event time of a partition has moved on, epoch by epoch.
#[derive(Debug)]
pub(super) struct Moved {
    /// For how many epochs something late may come.
    horizon: u64,
    epoch: Duration,
    /// Epochs, and the offsets of the first records of each; the first entry stands for everything before the second.
    places: VecDeque<(u64, u64)>,
    decided: Decided,
}

/// What an earlier run has decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decided {
    /// Nothing that is read here.
    Nothing,
    /// What is older than the epoch of the first record that is read.
    BeforeFirst,
    /// What is older than this epoch.
    Before(u64),
}

impl Moved {
    /// Of a partition that is read from `start` on. `horizon` is in ms; `inside`: an earlier run has read what is before.
    pub fn new(start: u64, horizon: u64, epoch: Duration, inside: bool) -> Moved {
        let decided = if inside { Decided::BeforeFirst } else { Decided::Nothing };
        // Two times that lie so far apart may lie in epochs that do one more.
        Moved { horizon: epoch_of(horizon, epoch) + 2, epoch, places: VecDeque::from([(0, start)]), decided }
    }

    /// Takes note of the record with event time `time` (ms) at `offset`.
    pub fn see(&mut self, time: u64, offset: u64) {
        let epoch = epoch_of(time, self.epoch);
        if self.decided == Decided::BeforeFirst {
            self.decided = Decided::Before(epoch);
        }
        if epoch > self.places.back().expect("there is one from the start").0 {
            self.places.push_back((epoch, offset));
            while self.places.get(1).is_some_and(|(second, _)| second + self.horizon <= epoch) {
                self.places.pop_front();
            }
        }
    }

    /// From where on to read, so that everything that may be newer than something late is read.
    pub fn look_back(&self) -> u64 {
        self.places[0].1
    }

    /// Whether an earlier run has decided about a record with that event time (ms).
    pub fn was_decided(&self, time: u64) -> bool {
        matches!(self.decided, Decided::Before(first) if epoch_of(time, self.epoch) < first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPOCH: Duration = Duration::from_millis(10);

    proptest! {
        #[test]
        fn nothing_within_the_horizon_lies_below_where_to_look_back_to(
            steps in proptest::collection::vec((0u64..30, 0u64..60), 1..100), horizon in 0u64..50,
        ) {
            let mut moved = Moved::new(7, horizon, EPOCH, false);
            let (mut newest, mut records) = (0, Vec::new());
            for (offset, (ahead, behind)) in (7..).zip(steps) {
                let time = (newest + ahead).saturating_sub(behind);
                newest = newest.max(time);
                records.push((offset, time));
                moved.see(time, offset);
                prop_assert!(records.iter().all(|(at, time)| *at >= moved.look_back() || time + horizon < newest));
            }
        }
    }

    #[test]
    fn a_run_that_begins_inside_leaves_alone_what_is_older_than_its_first_record() {
        let mut moved = Moved::new(7, 100, EPOCH, true);
        moved.see(55, 7);
        assert!(moved.was_decided(49) && !moved.was_decided(50));
        moved.see(95, 8);
        assert!(moved.was_decided(49) && !moved.was_decided(50));
        let mut moved = Moved::new(7, 100, EPOCH, false);
        moved.see(55, 7);
        assert!(!moved.was_decided(1), "there is nothing before");
    }
}
