//! Servers restart under load, in good order and killed, and a broker is fenced: afterwards both sides are identical, each change is
//! once in the topic, and no row has stepped back.
//!
//! A round for each 40 `KILLS` that are begun, `SEED` as in processes.rs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::faults::apart::{Servers, apart};
use crate::faults::network::Ears;
use crate::faults::trial::{Place, Trial};
use crate::faults::workload::Work;

/// How long the next change may take to come through, from when the server answers again.
const RECOVERY_MAX: Duration = Duration::from_secs(60);

fn survive(servers: &mut Servers, source: (&'static str, &'static str), rounds: u64, seed: u64) {
    let (url, name) = source;
    let mut trial = Trial::new(url, seed, Place::Here);
    let mut publish = trial.start("publish", 1);
    publish.wait_until_up();
    let mut land = trial.start("land", 1);
    let work = Work::start(url, &trial.name, seed, crate::faults::PAUSE);
    trial.arrives(&mut [&mut publish, &mut land]);
    let mut done: BTreeMap<String, Vec<u128>> = BTreeMap::new();
    for round in 0..rounds {
        for (number, server) in [name, "kafka", "postgres"].into_iter().enumerate() {
            let pause = Duration::from_millis(trial.random.below(800));
            trial.supervise_for(pause, &mut [&mut publish, &mut land]);
            // Each is killed, and ended in the next round, or the other way round.
            let killed = (round + number as u64 + u64::from(name == "mariadb")).is_multiple_of(2);
            if killed {
                servers.kill(server)
            } else {
                servers.end(server)
            }
            let away = Duration::from_millis(trial.random.below(2_500));
            trial.supervise_for(away, &mut [&mut publish, &mut land]);
            servers.start(server);
            let took = trial.recovers(RECOVERY_MAX, &mut [&mut publish, &mut land]);
            let what = format!("{server} {}", if killed { "killed" } else { "ended" });
            done.entry(what).or_default().push(took.as_millis());
        }
    }
    trial.ends(&format!("{done:?} ms"), work, publish, land);
}

#[test]
fn servers_may_restart_under_load() {
    let all = ["mysql", "mariadb", "kafka", "postgres"];
    let Some(mut servers) = apart("servers_may_restart_under_load", &all) else { return };
    let (kills, seed) = crate::faults::kills_and_seed(40);
    let rounds = kills.div_ceil(40);
    survive(&mut servers, ("MYSQL_URL", "mysql"), rounds, seed);
    survive(&mut servers, ("MARIADB_URL", "mariadb"), rounds, seed);
}

/// The only broker of a cluster is fenced where its disk or its machine stands still for some seconds. It goes on answering: that
/// there is no broker. Clients that believed it had nobody to ask any more.
#[test]
fn the_only_broker_may_be_fenced() {
    let Some(servers) = apart("the_only_broker_may_be_fenced", &["mysql", "kafka", "postgres"]) else { return };
    let (_, seed) = crate::faults::kills_and_seed(40);
    let mut trial = Trial::new("MYSQL_URL", seed, Place::Here);
    let mut publish = trial.start("publish", 1);
    publish.wait_until_up();
    let mut land = trial.start("land", 1);
    let work = Work::start("MYSQL_URL", &trial.name, seed, crate::faults::PAUSE);
    trial.arrives(&mut [&mut publish, &mut land]);
    let properties = std::fs::read_to_string(servers.folder("kafka").join("server.properties")).unwrap();
    let controller = properties.lines().find_map(|line| line.strip_prefix("controller.quorum.voters=1@127.0.0.1:"));
    let controller = Ears::of(controller.unwrap().parse().unwrap());
    let said = servers.folder("kafka.log");
    controller.cover();
    let begun = Instant::now();
    while !std::fs::read_to_string(&said).unwrap().contains("Fencing broker 1 ") {
        assert!(begun.elapsed() < RECOVERY_MAX, "the broker is not fenced");
        trial.supervise_for(Duration::from_millis(100), &mut [&mut publish, &mut land]);
    }
    trial.supervise_for(Duration::from_secs(2), &mut [&mut publish, &mut land]);
    controller.uncover();
    // Nothing may end.
    let took = trial.arrives(&mut [&mut publish, &mut land]);
    trial.ends(&format!("fenced, then {} ms", took.as_millis()), work, publish, land);
}
