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
}

impl Attempts {
    pub(super) fn new() -> Attempts {
        Attempts { since: Instant::now(), pause: FIRST_PAUSE, failed: 0 }
    }

    /// How many have failed.
    pub(super) fn failed(&self) -> u32 {
        self.failed
    }

    /// Counts a failure and waits before the next attempt; `false` when there is no point in another.
    pub(super) fn again(&mut self) -> bool {
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
