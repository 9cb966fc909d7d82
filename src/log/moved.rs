//! Where the event time of a partition moves on, and from where it has to be read again.
//!
//! A record may come behind the newest of its partition by a *horizon*. Whoever reads a partition again in order to judge
//! what comes late needs all that may be newer of any key than something late: all records from the newest time less the
//! horizon on. Those begin where that time was first reached, since before there everything is older.
//!
//! What is older than the first of those may have something newer of its key before there, and nobody could judge it. Nor has
//! anybody to: it had been decided about when the place was chosen, or it comes behind that and is too late, unless the horizon
//! has grown since. All this is kept with the place ([`LookBack`]). A horizon may only grow: with a shorter one, what was applied
//! would be too late, and what is older of its key not. For the same reason nothing but the record itself may say whether its
//! time counts: not the clock, and not which tables are wanted.
//!
//! Where a partition was quiet for so long that retention has deleted its place, but nothing that was not durable, reading goes on
//! behind what was, and what is not newer than all that came before can't be judged any more.

use std::collections::VecDeque;
use std::time::Duration;

use crate::change::{LookBack, epoch_of};

/// What is to become of a record that may have come late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// All that may be newer of its key is read in this run.
    Here,
    /// An earlier run has decided about it.
    Before,
    /// Nobody knows what an earlier run had that was newer.
    Unknown,
}

/// Where the event time of a partition has moved on, epoch by epoch.
#[derive(Debug)]
pub(super) struct Moved {
    /// By how many ms something late may come, and in how many epochs.
    horizon: u64,
    epochs: u64,
    epoch: Duration,
    /// Epochs, and the offsets of the first records of each; the first entry stands for everything before the second.
    places: VecDeque<(u64, u64)>,
    /// What is known of what comes before all of that.
    before: LookBack,
    /// The newest event time (ms) seen, and before the last record, which is at that offset.
    newest: u64,
    newest_before: u64,
    last: u64,
}

impl Moved {
    /// Of a partition that is read from `start` on. `horizon` is in ms, and not below the `horizon_max` of what came before.
    pub fn new(start: u64, horizon: u64, epoch: Duration, before: LookBack) -> Moved {
        assert!(horizon >= before.horizon_max, "what was applied would be judged anew");
        // Two times that lie so far apart may lie in epochs that do one more.
        let epochs = epoch_of(horizon, epoch) + 2;
        Moved {
            horizon,
            epochs,
            epoch,
            places: VecDeque::from([(0, start)]),
            before,
            newest: 0,
            newest_before: 0,
            last: start,
        }
    }

    /// Takes note of the record with event time `time` (ms) at `offset`.
    pub fn see(&mut self, time: u64, offset: u64) {
        if offset > self.last {
            (self.last, self.newest_before) = (offset, self.newest);
        }
        self.newest = self.newest.max(time);
        let epoch = epoch_of(time, self.epoch);
        if epoch > self.places.back().expect("there is one from the start").0 {
            self.places.push_back((epoch, offset));
            while self.places.get(1).is_some_and(|(second, _)| second + self.epochs <= epoch) {
                self.places.pop_front();
            }
        }
    }

    /// From where on to read, so that everything that may be newer than something late is read; and what is known there, when all
    /// records below `read` are durable.
    pub fn look_back(&self, read: u64) -> (u64, LookBack) {
        let (epoch, offset) = self.places[0];
        let newest = if read > self.last { self.newest } else { self.newest_before }.max(self.before.newest);
        // Until the place has moved on, what was known where this run began counts.
        let judged_from = self.before.judged_from.max(epoch * self.epoch.as_millis() as u64);
        (offset, LookBack { judged_from, read: read.max(self.before.read), newest, horizon_max: self.horizon })
    }

    /// What is to become of a record at `offset` with that event time (ms), which is not newer than all that earlier runs applied.
    pub fn judged(&self, time: u64, offset: u64) -> Judged {
        match time >= self.before.judged_from {
            true => Judged::Here,
            false if offset < self.before.read => Judged::Before,
            false => Judged::Unknown,
        }
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
            let mut moved = Moved::new(7, horizon, EPOCH, LookBack::nothing(7));
            let (mut newest, mut records) = (0, Vec::new());
            for (offset, (ahead, behind)) in (7..).zip(steps) {
                let time = (newest + ahead).saturating_sub(behind);
                newest = newest.max(time);
                records.push((offset, time));
                moved.see(time, offset);
                prop_assert!(records.iter().all(|(at, time)| *at >= moved.look_back(0).0 || time + horizon < newest));
            }
        }
    }

    #[test]
    fn what_is_older_than_the_place_was_decided_about_or_nobody_knows() {
        let before = LookBack { judged_from: 50, read: 9, newest: 160, horizon_max: 100 };
        let mut moved = Moved::new(7, 200, EPOCH, before);
        moved.see(55, 7);
        let judged = [(49, 7), (50, 7), (49, 9), (50, 9)].map(|(time, offset)| moved.judged(time, offset));
        assert_eq!(judged, [Judged::Before, Judged::Here, Judged::Unknown, Judged::Here]);
        moved.see(160, 8);
        assert_eq!(moved.look_back(8), (7, LookBack { horizon_max: 200, ..before }), "it has not moved on");
        moved.see(900, 10);
        let look_back = LookBack { judged_from: 160, read: 11, newest: 900, horizon_max: 200 };
        assert_eq!(moved.look_back(11), (8, look_back));
        assert_eq!(
            Moved::new(7, 100, EPOCH, LookBack::nothing(7)).judged(1, 7),
            Judged::Here,
            "there is nothing before"
        );
    }

    #[test]
    fn a_place_that_retention_has_deleted_is_left_for_what_is_behind_all_that_is_durable() {
        let before = LookBack { judged_from: 50, read: 9, newest: 160, horizon_max: 100 };
        assert_eq!(before.resume(5, 5, Some(200)), Some((5, before)));
        let (start, known) = before.resume(5, 6, Some(200)).unwrap();
        assert_eq!((start, before.resume(5, 10, Some(200))), (9, None));
        // Much of what came before may be of tables that were not wanted.
        assert_eq!(before.resume(5, 6, Some(80)).unwrap().1.judged_from, 81);
        assert_eq!(before.resume(5, 6, None).unwrap().1.judged_from, 0);
        let mut moved = Moved::new(start, 100, EPOCH, known);
        moved.see(161, 9);
        assert_eq!([160, 161].map(|time| moved.judged(time, 9)), [Judged::Unknown, Judged::Here]);
        // Still nobody knows where the place has moved on to what is older.
        let mut moved = Moved::new(start, 100, EPOCH, known);
        [(80, 9), (300, 10)].iter().for_each(|(time, offset)| moved.see(*time, *offset));
        let (place, next) = moved.look_back(11);
        assert_eq!((place, next.judged_from), (9, 161));
    }
}
