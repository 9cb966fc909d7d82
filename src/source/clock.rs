//! The publisher's clock: gives every source transaction its time.
//!
//! MySQL and DTS stamp changes with whole seconds, and a server may stamp a statement's start, so stamps tie and run
//! backwards. The clock refines a second with the publisher's own, and never goes back. Because times never decrease,
//! the clock may move on whenever nothing happens: the promise "nothing with a lower time follows" keeps itself.
//!
//! A stamp may also lie in the future: the server's clock is ahead, or a session said `SET timestamp`. Everything after it
//! would get at least its time, epochs would wait for it, and Kafka takes no record that is an hour ahead of its brokers. So
//! a stamp more than [`AHEAD_MAX_MS`] ahead of the publisher's own clock is not believed; the time is then the publisher's.
//!
//! What a publisher reads again after a crash has to get the times that it had: of two partitions one may have been
//! committed further than the other, and a transaction whose halves have two times would fall into two epochs. So a new
//! run's clock knows the times that are in the topic already, and what was promised of the partitions.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// How far ahead of the publisher's clock (ms) a stamp is believed, so that clocks which differ a little still give the
/// times that the source says. No time that is given out lies further ahead, but one that an earlier run gave out.
pub const AHEAD_MAX_MS: u64 = 1_000;

/// Gives out times in ms since 1970 that never decrease.
///
/// ```
/// use tidegate::source::Clock;
/// let mut clock = Clock::from(0);
/// assert_eq!(clock.second(1, 7, 7_350), 7_350, "inside its second, the publisher's clock");
/// assert_eq!(clock.second(2, 6, 7_400), 7_350, "the source ran backwards: time does not");
/// assert_eq!(clock.second(3, 8, 99_000), 8_999, "a second long past ends at its end");
/// assert_eq!(clock.exact(4, 8_100, 99_000), 8_999);
/// assert_eq!(clock.idle(5, 9_500), 9_500);
/// assert_eq!(clock.exact(5, 10_000, 9_600), 10_000, "a little ahead of the publisher's clock");
/// assert_eq!(clock.second(6, 4_000_000, 10_700), 10_700, "far ahead of it: not believed");
/// assert_eq!(clock.exact(7, 4_000_000_000, 10_600), 10_700);
/// // The topic has seq 9 at 12,000 and seq 12 at 13,000; of some partition it is said that 15 and later come from 14,000 on, so
/// // that what comes before has to fit.
/// let mut clock = Clock::resuming(11_000, [(9, 12_000), (12, 13_000)], [(15, 14_000)]);
/// assert!(clock.is_given(8..10) && !clock.is_given(10..12));
/// assert_eq!(clock.exact(8, 11_500, 99_000), 12_000, "of the transaction of 9, or before it");
/// assert_eq!(clock.idle(10, 99_000), 12_000, "there is more to come of what was there");
/// assert_eq!(clock.exact(12, 11_500, 99_000), 13_000);
/// assert_eq!(clock.exact(14, 90_000, 99_000), 14_000, "what comes behind it may be there already, so late or later");
/// assert_eq!(clock.time(15), 14_000, "what was said is not taken back");
/// assert_eq!(clock.exact(15, 11_500, 99_000), 14_000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    last: u64,
    /// Seqs with the times that they have, both growing.
    given: VecDeque<(u64, u64)>,
    /// From these seqs on, which grow, no time may be below these; and before them none above these.
    floors: VecDeque<(u64, u64)>,
}

impl Clock {
    /// A clock that gives out no time below `last` (ms).
    pub fn from(last: u64) -> Self {
        Clock { last, given: VecDeque::new(), floors: VecDeque::new() }
    }

    /// The clock of a run that reads again from a seq at `last` (ms) or later. `given` are seqs from there on with the times
    /// that they have; `floors` are seqs from which on no time may be below a time, nor above it before them.
    pub fn resuming(
        last: u64,
        given: impl IntoIterator<Item = (u64, u64)>,
        floors: impl IntoIterator<Item = (u64, u64)>,
    ) -> Self {
        let sorted = |pairs: Vec<(u64, u64)>| {
            let mut pairs = pairs;
            pairs.sort_unstable();
            pairs
        };
        // Of each time the last seq is enough.
        let mut times = VecDeque::<(u64, u64)>::new();
        for (seq, time) in sorted(given.into_iter().collect()) {
            times.pop_back_if(|(_, known)| *known >= time);
            times.push_back((seq, time));
        }
        Clock { last, given: times, floors: sorted(floors.into_iter().collect()).into() }
    }

    /// The time of the transaction that begins at `seq` and that the source stamped with a whole `second`, read at `now` (ms).
    pub fn second(&mut self, seq: u64, second: u64, now: u64) -> u64 {
        let start = second.saturating_mul(1000);
        self.exact(seq, now.clamp(start, start.saturating_add(999)), now)
    }

    /// The time of the transaction that begins at `seq` and whose commit time the source gives in ms, read at `now` (ms).
    pub fn exact(&mut self, seq: u64, time: u64, now: u64) -> u64 {
        self.last = self.time(seq);
        while self.floors.pop_front_if(|(from, _)| *from <= seq).is_some() {}
        let believed = if time > now.saturating_add(AHEAD_MAX_MS) { now } else { time };
        // The transaction may be the one of the next seq whose time is given, or one before it. And what comes later may be
        // there already in another partition, with a time as low as was promised of it.
        let promised = self.floors.iter().map(|(_, floor)| *floor).min().unwrap_or(u64::MAX);
        self.last = self.last.max(self.next_given(seq).unwrap_or(believed).min(promised));
        self.last
    }

    /// Moves on to `now` (ms) while nothing happens, before `seq`; returns the time below which nothing will come.
    pub fn idle(&mut self, seq: u64, now: u64) -> u64 {
        match self.next_given(seq) {
            Some(_) => self.time(seq),
            None => self.exact(seq, now, now),
        }
    }

    /// The time of the first seq at or behind this one that has one.
    fn next_given(&mut self, seq: u64) -> Option<u64> {
        while self.given.pop_front_if(|(given, _)| *given < seq).is_some() {}
        self.given.front().map(|(_, time)| *time)
    }

    /// Whether a change with a number in the range has a time in the topic.
    pub fn is_given(&self, seqs: std::ops::Range<u64>) -> bool {
        self.given.iter().any(|(seq, _)| seqs.contains(seq))
    }

    /// The time below which nothing at `seq` or behind it will come.
    pub fn time(&self, seq: u64) -> u64 {
        let floors = self.floors.iter().take_while(|(from, _)| *from <= seq);
        floors.map(|(_, floor)| *floor).fold(self.last, u64::max)
    }
}

/// This machine's time in ms since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
