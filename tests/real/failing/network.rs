//! The network between the jobs and their servers breaks, falls silent, stutters and is slow, under load: afterwards both
//! sides are identical, each change is once in the topic, and no row has stepped back.
//!
//! A round for each 40 `KILLS` that are begun; with 100 or more, silence also lasts longer than every time-out. `SEED` as in
//! processes.rs.

use std::time::Duration;

use crate::faults::apart::apart;
use crate::faults::network::{Network, Way};
use crate::faults::running::Running;
use crate::faults::trial::{Place, Trial};
use crate::faults::workload::Work;
use crate::job::env;

/// How long the next change may take to come through, from when the network is well again (or all along, where it is only
/// bad). What has been written meanwhile comes first.
const RECOVERY_MAX: Duration = Duration::from_secs(90);

/// The four lines: which command, to which server, and the way that most of it goes.
const LINES: [(&str, &str, Way); 4] = [
    ("publish", "MYSQL_URL", Way::In),
    ("publish", "KAFKA_ADDR", Way::Out),
    ("land", "KAFKA_ADDR", Way::In),
    ("land", "PG_URL", Way::Out),
];

/// Longer than MySQL's, Kafka's and PostgreSQL's connections are waited for, one after the other.
const SILENCES: [(Duration, &[usize]); 2] = [(Duration::from_secs(40), &[0]), (Duration::from_secs(75), &[1, 2, 3])];

/// Between two rounds of the workload while a line is slow.
const SLOW_PAUSE: Duration = Duration::from_millis(100);

struct Siege {
    trial: Trial,
    network: Network,
    work: Work,
    publish: Running,
    land: Running,
}

impl Siege {
    fn watch(&mut self, time: Duration) {
        self.trial.supervise_for(time, &mut [&mut self.publish, &mut self.land]);
    }

    fn recovers(&mut self, what: &str, line: usize) {
        let took = self.trial.recovers(RECOVERY_MAX, &mut [&mut self.publish, &mut self.land]);
        let (command, server, _) = LINES[line];
        println!("{command} and {server}: {what}: the next change took {} ms", took.as_millis());
    }

    fn up_to(&mut self, millis: u64) -> Duration {
        Duration::from_millis(self.trial.random.below(millis))
    }

    fn reset(&mut self, line: usize) {
        let (host, server, _) = LINES[line];
        self.network.reset(host, &env(server));
        self.recovers("broken", line);
    }

    fn silence(&mut self, lines: &[usize], time: Duration) {
        for (host, server, _) in lines.iter().map(|line| LINES[*line]) {
            self.network.cut(host, &env(server));
        }
        self.watch(time);
        for (host, server, _) in lines.iter().map(|line| LINES[*line]) {
            self.network.mend(host, &env(server));
        }
        self.recovers(&format!("silent for {} ms", time.as_millis()), lines[0]);
    }

    /// Cut for a moment again and again, as by a bad contact; changes have to come through meanwhile.
    fn stutter(&mut self, line: usize) {
        for _ in 0..3 {
            let (host, server, _) = LINES[line];
            self.network.cut(host, &env(server));
            let cut = self.up_to(500);
            self.watch(cut);
            self.network.mend(host, &env(server));
            self.watch(Duration::from_millis(500));
        }
        self.recovers("stuttered", line);
    }

    fn slow(&mut self, line: usize) {
        let (host, _, way) = LINES[line];
        // Less is written than the line takes: what can't be caught up with says nothing.
        self.work.pause(SLOW_PAUSE);
        self.network.slow(host, way, 500);
        let time = Duration::from_secs(1) + self.up_to(1_000);
        self.watch(time);
        self.recovers("slow", line);
        self.network.hasten(host, way);
        self.work.pause(crate::faults::PAUSE);
        self.recovers("fast again", line);
    }
}

#[test]
fn the_network_may_break_fall_silent_and_be_slow() {
    let test = "the_network_may_break_fall_silent_and_be_slow";
    let Some(_servers) = apart(test, &["mysql", "kafka", "postgres"]) else { return };
    let (kills, seed) = crate::faults::kills_and_seed(40);
    let network = Network::new(&["publish", "land"]);
    let mut trial = Trial::new("MYSQL_URL", seed, Place::ByCommand);
    let mut publish = trial.start("publish", 1);
    publish.wait_until_up();
    let land = trial.start("land", 1);
    let work = Work::start("MYSQL_URL", &trial.name, seed, crate::faults::PAUSE);
    let mut siege = Siege { trial, network, work, publish, land };
    for _ in 0..kills.div_ceil(40) {
        for line in 0..LINES.len() {
            siege.reset(line);
            let time = siege.up_to(2_500);
            siege.silence(&[line], time);
            siege.stutter(line);
            siege.slow(line);
        }
    }
    if kills >= 100 {
        for (time, lines) in SILENCES {
            siege.silence(lines, time);
        }
    }
    let Siege { mut trial, work, publish, land, .. } = siege;
    trial.ends("the network", work, publish, land);
}
