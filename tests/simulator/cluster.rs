//! What the dataflows ask of the process that they run in, answered by the simulated one.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

pub use super::world::Client;

/// Ends the process at once.
pub fn fail(error: &dyn Display) -> ! {
    super::world::fail(error.to_string())
}

/// Whether the flag is up.
pub fn is_up(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}

/// Lets time pass.
pub fn pause(_time: std::time::Duration) {
    super::world::pause();
}

/// Adds a client to the process; see `dataflows/cluster.rs`.
pub fn spawn(_name: &str, client: Client) {
    super::world::spawn(client);
}
