//! A server that can't be reached: when to try again, what to say of it, and when to give up.
//!
//! An outage is over when an event has come, not when a connection has been made: a server that lets a replica in and turns
//! it away again is still out.

use std::time::{Duration, Instant};

/// For how long a lost server is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long an outage lasts before it is spoken of again; each time twice as long.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// An outage that lasts.
#[derive(Debug)]
pub(super) struct Outage {
    since: Instant,
    /// What ended the connection.
    pub reason: String,
    pause: Duration,
    again: Instant,
    word: Duration,
}

/// What to do after another try has failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait.
    Wait,
    /// Wait, and say for how many seconds it has lasted.
    Say(u64),
    /// Give up.
    GiveUp,
}

impl Outage {
    /// Begins now, for that reason.
    pub fn new(now: Instant, reason: String) -> Outage {
        Outage { since: now, reason, pause: FIRST_PAUSE, again: now + FIRST_PAUSE, word: FIRST_WORD }
    }

    /// How long to wait before the next try.
    pub fn wait(&self, now: Instant) -> Duration {
        self.again.saturating_duration_since(now)
    }

    /// Another try has failed, or its connection broke before anything came.
    pub fn failed(&mut self, now: Instant) -> Next {
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.again = now + self.pause;
        let lasted = now - self.since;
        if lasted > PATIENCE {
            return Next::GiveUp;
        }
        if lasted < self.word {
            return Next::Wait;
        }
        while self.word <= lasted {
            self.word *= 2;
        }
        Next::Say(lasted.as_secs())
    }

    /// For how long it has lasted.
    pub fn lasted(&self, now: Instant) -> Duration {
        now - self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_spoken_of_at_growing_intervals_and_given_up_in_the_end() {
        let begun = Instant::now();
        let mut outage = Outage::new(begun, "broken".into());
        let (mut now, mut tries, mut said) = (begun, 0, Vec::new());
        loop {
            now += outage.wait(now);
            tries += 1;
            match outage.failed(now) {
                Next::Wait => {}
                Next::Say(seconds) => said.push(seconds),
                Next::GiveUp => break,
            }
        }
        let lasted = outage.lasted(now);
        assert!(lasted > PATIENCE && lasted <= PATIENCE + LONGEST_PAUSE, "{lasted:?}");
        assert!(tries > 60, "{tries} tries");
        let pairs = said.iter().zip([5, 10, 20, 40, 80, 160]);
        assert!(said.len() == 6 && pairs.clone().all(|(said, due)| (due..due + 6).contains(said)), "{said:?}");
    }
}
