//! Pauses between attempts: growing, with jitter, and not for ever.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a failure is taken for a passing one.
const PATIENCE: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The attempts at one piece of work.
#[derive(Debug)]
pub(super) struct Attempts {
    since: Instant,
    pause: Duration,
    failed: u32,
    in_a_row: u32,
}

impl Attempts {
    pub(super) fn new() -> Attempts {
        Attempts { since: Instant::now(), pause: FIRST_PAUSE, failed: 0, in_a_row: 0 }
    }

    /// How many have failed.
    pub(super) fn failed(&self) -> u32 {
        self.failed
    }

    /// Counts a failure and waits before the next attempt; `false` when there is no point in another.
    pub(super) fn again(&mut self) -> bool {
        self.in_a_row = 0;
        self.pause()
    }

    /// The same, for a failure that is not to come so often in a row.
    pub(super) fn again_in_a_row(&mut self, most: u32) -> bool {
        self.in_a_row += 1;
        self.in_a_row <= most && self.pause()
    }

    fn pause(&mut self) -> bool {
        if self.since.elapsed() >= PATIENCE {
            return false;
        }
        self.failed += 1;
        // Jitter keeps the lanes of a job from coming back all at once: half the pause, and up to half of it more.
        let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
        sleep(self.pause.mul_f64(0.5 + 0.5 * random));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}
