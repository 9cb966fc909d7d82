//! What the dataflows ask of the process that they run in, answered by the simulated one.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use super::world::Client;

/// Ends the process at once.
pub fn fail(error: &dyn Display) -> ! {
    super::world::fail(error.to_string())
}

/// Whether the flag is up.
pub fn is_up(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}

/// The time on a clock that does not go back.
pub fn now() -> Duration {
    Duration::from_millis(super::world::elapsed_ms())
}

/// Lets time pass.
pub fn pause(time: Duration) {
    super::world::world().pass(time.as_millis() as u64);
    super::world::pause();
}

/// Adds a client to the process; see `dataflows/cluster.rs`.
pub fn spawn(_name: &str, client: Client) {
    super::world::spawn(client);
}
