//! Where the event time of a partition moves on, and from where it has to be read again.
//!
//! A record may come behind the newest of its partition by a *horizon*. Whoever reads a partition again in order to judge
//! what comes late needs all that may be newer of any key than something late: all records from the newest time less the
//! horizon on. Those begin where that time was first reached, since before there everything is older.
//!
//! What is older than the first of those may have something newer of its key before there, and nobody could judge it. Nor has
//! anybody to: when the place was chosen, such a record was too late already, or it had been decided about. Which of both is
//! told by the horizon that counted then. All this is kept with the place ([`LookBack`]), since settings may change: a horizon may
//! grow; a run with a shorter one would take what was applied for too late, and what is older of its key not. Where a
//! partition was quiet for so long that retention has deleted its place, but nothing that was not durable, reading goes on behind
//! what was, and what is not newer than all that came before can't be judged any more.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::change::epoch_of;

/// Of a place to read on from: what is known of what came before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookBack {
    /// What is older than this event time (ms) was too late when the place was chosen, or had been decided about.
    pub decided: u64,
    /// By how many ms a record might come late then; `None`: what came before can't be read again.
    pub horizon: Option<u64>,
    /// All records with lower offsets are durable, or have been decided about.
    pub read: u64,
    /// Their newest event time (ms).
    pub newest: u64,
    /// By how many ms a record might come late in any run until then: what came so late may have been applied.
    pub reach: u64,
}

impl LookBack {
    /// Of the beginning of a job, at the offset `read`.
    pub fn nothing(read: u64) -> LookBack {
        LookBack { decided: 0, horizon: Some(0), read, newest: 0, reach: 0 }
    }

    /// Where to read on, and what is known there: from `offset`, the place that this was kept with, or if retention has deleted
    /// what is below `low`, from behind what is durable. `None`: retention has deleted more.
    pub fn resume(self, offset: u64, low: u64) -> Option<(u64, LookBack)> {
        match low {
            _ if low <= offset => Some((offset, self)),
            _ if low <= self.read => Some((self.read, LookBack { decided: self.newest + 1, horizon: None, ..self })),
            _ => None,
        }
    }
}

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
    /// Of a partition that is read from `start` on. `horizon` is in ms, and not below the `reach` of what came before.
    pub fn new(start: u64, horizon: u64, epoch: Duration, before: LookBack) -> Moved {
        assert!(horizon >= before.reach, "what was applied would be judged anew");
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
        let (decided, horizon) = match epoch * self.epoch.as_millis() as u64 {
            time if time > self.before.decided => (time, Some(self.horizon)),
            _ => (self.before.decided, self.before.horizon),
        };
        (offset, LookBack { decided, horizon, read: read.max(self.before.read), newest, reach: self.horizon })
    }

    /// What an earlier run has decided about a record with that event time (ms), which is not newer than all that it applied.
    pub fn judged(&self, time: u64) -> Judged {
        match self.before.horizon {
            _ if time >= self.before.decided => Judged::Here,
            Some(horizon) if time.saturating_add(horizon) >= self.newest => Judged::Before,
            _ => Judged::Unknown,
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
        let before = LookBack { decided: 50, horizon: Some(100), read: 9, newest: 160, reach: 100 };
        let mut moved = Moved::new(7, 200, EPOCH, before);
        moved.see(55, 7);
        assert_eq!([49, 50].map(|time| moved.judged(time)), [Judged::Before, Judged::Here]);
        moved.see(160, 8);
        // It would have been too late then, so that no earlier run has applied it.
        assert_eq!([30, 59, 60].map(|time| moved.judged(time)), [Judged::Unknown, Judged::Here, Judged::Here]);
        assert_eq!(moved.look_back(8), (7, LookBack { reach: 200, ..before }), "it has not moved on");
        moved.see(900, 10);
        let look_back = LookBack { decided: 160, horizon: Some(200), read: 11, newest: 900, reach: 200 };
        assert_eq!(moved.look_back(11), (8, look_back));
        assert_eq!(Moved::new(7, 100, EPOCH, LookBack::nothing(7)).judged(1), Judged::Here, "there is nothing before");
    }

    #[test]
    fn a_place_that_retention_has_deleted_is_left_for_what_is_behind_all_that_is_durable() {
        let before = LookBack { decided: 50, horizon: Some(100), read: 9, newest: 160, reach: 100 };
        assert_eq!(before.resume(5, 5), Some((5, before)));
        let (start, known) = before.resume(5, 6).unwrap();
        assert_eq!((start, before.resume(5, 10)), (9, None));
        let mut moved = Moved::new(start, 100, EPOCH, known);
        moved.see(161, 9);
        assert_eq!([160, 161].map(|time| moved.judged(time)), [Judged::Unknown, Judged::Here]);
        // Still nobody knows where the place has moved on to what is older.
        let mut moved = Moved::new(start, 100, EPOCH, known);
        [(80, 9), (300, 10)].iter().for_each(|(time, offset)| moved.see(*time, *offset));
        let (place, next) = moved.look_back(11);
        assert_eq!((place, next.decided, next.horizon), (9, 161, None));
    }
}
