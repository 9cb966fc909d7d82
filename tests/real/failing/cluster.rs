//! A cluster on three hosts loses processes, hosts and the network between two of them: what is left ends within seconds
//! with exit code 3 and one sentence, each is started again by a supervisor of its own, and in the end both sides are
//! identical and each change is once in the topic.
//!
//! A round for each 40 `KILLS` that are begun; with 100 or more, a host is also cut off from everything. `SEED` as in
//! processes.rs.

use std::time::{Duration, Instant};

use crate::faults::apart::apart;
use crate::faults::network::Network;
use crate::faults::running::Running;
use crate::faults::trial::{Place, Trial};
use crate::faults::workload::Work;
use crate::job::env;
use tidegate::workers::SILENCE_MAX;

const HOSTS: [&str; 3] = ["h0", "h1", "h2"];
const SERVERS: [&str; 3] = ["MYSQL_URL", "KAFKA_ADDR", "PG_URL"];

/// How soon all have to have ended, once one is gone, and once one has fallen silent.
const GONE_MAX: Duration = Duration::from_secs(5);
const SILENT_MAX: Duration = SILENCE_MAX.saturating_add(GONE_MAX);

/// How long the next change may take to come through, from when all hosts can be reached.
const RECOVERY_MAX: Duration = Duration::from_secs(60);

struct Cluster {
    trial: Trial,
    network: Network,
    /// `publish` on all three hosts, `land` on the first two.
    publish: Running,
    land: Running,
}

impl Cluster {
    /// Until all processes of these commands have ended since `before`; each that has is started again meanwhile.
    fn all_end(&mut self, before: &[u32], chosen: &[bool], limit: Duration) -> Duration {
        let begun = Instant::now();
        loop {
            self.trial.supervise_for(Duration::from_millis(20), &mut [&mut self.publish, &mut self.land]);
            let ends = self.ends();
            let ended = (0..ends.len()).filter(|n| chosen[*n]).all(|n| ends[n] > before[n]);
            if ended {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < limit, "of {before:?} only {ends:?} have ended within {limit:?}");
        }
    }

    /// How often each process of `publish` and then of `land` has ended.
    fn ends(&self) -> Vec<u32> {
        self.publish.processes.iter().chain(&self.land.processes).map(|process| process.ends).collect()
    }

    fn recovers(&mut self, what: &str, ended: Duration) {
        let took = self.trial.recovers(RECOVERY_MAX, &mut [&mut self.publish, &mut self.land]);
        let (ended, took) = (ended.as_millis(), took.as_millis());
        println!("{what}: all had ended after {ended} ms; the next change took {took} ms");
    }

    /// A process is killed: its cluster ends, the other goes on.
    fn kill(&mut self, publishes: bool) {
        let before = self.ends();
        let count = self.publish.processes.len();
        let running = if publishes { &mut self.publish } else { &mut self.land };
        let victim = self.trial.random.below(running.processes.len() as u64) as usize;
        running.signal(victim, "-KILL");
        let chosen: Vec<bool> = (0..before.len()).map(|n| (n < count) == publishes).collect();
        let ended = self.all_end(&before, &chosen, GONE_MAX);
        let command = if publishes { "publish" } else { "land" };
        self.recovers(&format!("process {victim} of {command} killed"), ended);
    }

    /// The network between some places forgets what they send each other: both clusters end. They can't meet again until it
    /// is mended.
    fn cut(&mut self, what: &str, pairs: &[(&str, &str)]) {
        let before = self.ends();
        pairs.iter().for_each(|(one, other)| self.network.cut(one, other));
        let ended = self.all_end(&before, &vec![true; before.len()], SILENT_MAX);
        let more = Duration::from_millis(2_500 + self.trial.random.below(1_500));
        self.trial.supervise_for(more, &mut [&mut self.publish, &mut self.land]);
        pairs.iter().for_each(|(one, other)| self.network.mend(one, other));
        self.recovers(what, ended);
    }
}

#[test]
fn what_is_left_of_a_cluster_ends_and_goes_on_where_it_was() {
    let test = "what_is_left_of_a_cluster_ends_and_goes_on_where_it_was";
    let Some(_servers) = apart(test, &["mysql", "kafka", "postgres"]) else { return };
    let (kills, seed) = crate::faults::kills_and_seed(40);
    let network = Network::new(&HOSTS);
    let mut trial = Trial::new("MYSQL_URL", seed, Place::ByNumber(&HOSTS));
    let mut publish = trial.start("publish", 3);
    publish.wait_until_up();
    let mut land = trial.start("land", 2);
    land.wait_until_up();
    let work = Work::start("MYSQL_URL", &trial.name, seed, crate::faults::PAUSE);
    trial.arrives(&mut [&mut publish, &mut land]);
    let mut cluster = Cluster { trial, network, publish, land };
    for _ in 0..kills.div_ceil(40) {
        cluster.kill(true);
        cluster.kill(false);
        cluster.cut("h0 and h1 cut off from each other", &[("h0", "h1")]);
        if kills < 100 {
            continue;
        }
        let servers = SERVERS.map(env);
        let everything = [("h1", "h0"), ("h1", "h2"), ("h1", &servers[0]), ("h1", &servers[1]), ("h1", &servers[2])];
        cluster.cut("h1 cut off from everything", &everything);
    }
    let Cluster { mut trial, publish, land, .. } = cluster;
    trial.ends("a cluster", work, publish, land);
}
