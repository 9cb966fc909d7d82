//! The publisher's clock: gives every source transaction its time.
//!
//! MySQL and DTS stamp changes with whole seconds, and a server may stamp a statement's start, so stamps tie and run
//! backwards. The clock refines a second with the publisher's own, and never goes back. Because times never decrease,
//! the clock may move on whenever nothing happens: the promise "nothing with a lower time follows" keeps itself.
//!
//! A stamp may also lie in the future: the server's clock is ahead, or a session said `SET timestamp`. Everything after it
//! would get at least its time, epochs would wait for it, and Kafka takes no record that is an hour ahead of its brokers. So
//! a stamp more than [`AHEAD_MAX_MS`] ahead of the publisher's own clock is not believed; the time is then the publisher's.

use std::time::{SystemTime, UNIX_EPOCH};

/// How far ahead of the publisher's clock (ms) a stamp is believed, so that clocks which differ a little still give the
/// times that the source says. No time that is given out lies further ahead, but one that an earlier run gave out.
pub const AHEAD_MAX_MS: u64 = 1_000;

/// Gives out times in ms since 1970 that never decrease.
///
/// ```
/// use tidegate::source::Clock;
/// let mut clock = Clock::from(0);
/// assert_eq!(clock.second(7, 7_350), 7_350, "inside its second, the publisher's clock");
/// assert_eq!(clock.second(6, 7_400), 7_350, "the source ran backwards: time does not");
/// assert_eq!(clock.second(8, 99_000), 8_999, "a second long past ends at its end");
/// assert_eq!(clock.exact(8_100, 99_000), 8_999);
/// assert_eq!(clock.idle(9_500), 9_500);
/// assert_eq!(clock.exact(10_000, 9_600), 10_000, "a little ahead of the publisher's clock");
/// assert_eq!(clock.second(4_000_000, 10_700), 10_700, "far ahead of it: not believed");
/// assert_eq!(clock.exact(4_000_000_000, 10_600), 10_700);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    last: u64,
}

impl Clock {
    /// A clock that gives out no time below `last` (ms).
    pub fn from(last: u64) -> Self {
        Clock { last }
    }

    /// The time of a transaction that the source stamped with a whole `second`, read at `now` (ms).
    pub fn second(&mut self, second: u64, now: u64) -> u64 {
        let start = second.saturating_mul(1000);
        self.exact(now.clamp(start, start.saturating_add(999)), now)
    }

    /// The time of a transaction whose commit time the source gives in ms, read at `now` (ms).
    pub fn exact(&mut self, time: u64, now: u64) -> u64 {
        let believed = if time > now.saturating_add(AHEAD_MAX_MS) { now } else { time };
        self.last = self.last.max(believed);
        self.last
    }

    /// Moves on to `now` (ms) while nothing happens; returns the time below which nothing will come.
    pub fn idle(&mut self, now: u64) -> u64 {
        self.exact(now, now)
    }

    /// The time below which nothing will come.
    pub fn time(&self) -> u64 {
        self.last
    }
}

/// This machine's time in ms since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
