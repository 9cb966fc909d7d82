//! Jobs under faults: the workload, the processes, what has to hold in the end; and servers and networks that a test may
//! break.
//!
//! A test compares both sides with a dump of its own: it shares no code with `verify`.

pub mod apart;
pub mod network;
pub mod running;
pub mod trial;
pub mod workload;

use std::time::Duration;

/// How long anything may take that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Between two rounds of a workload that servers or networks stumble under: what is written while they are away has to be
/// caught up with.
pub const PAUSE: Duration = Duration::from_millis(8);

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    pub fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// How many kills, `KILLS` or so many, and the seed that says which, `SEED` or the clock.
pub fn kills_and_seed(or: u64) -> (u64, u64) {
    let number = |name: &str, or: u64| std::env::var(name).map_or(or, |text| text.parse().unwrap());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (kills, seed) = (number("KILLS", or), number("SEED", clock));
    println!("seed {seed}: replay with tests/run faults {kills} {seed}");
    (kills, seed)
}
