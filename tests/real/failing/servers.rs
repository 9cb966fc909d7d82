//! Servers restart under load, in good order and killed, and a broker is fenced: afterwards both sides are identical, each change is
//! once in the topic, and no row has stepped back.
//!
//! A round for each 40 `KILLS` that are begun, `SEED` as in processes.rs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate::config::DtsConfig;
use tidegate::source::dts::DtsReader;
use tidegate::source::{Raws, Reader, Start};

use crate::faults::apart::{Servers, apart};
use crate::faults::network::Ears;
use crate::faults::trial::{Place, Trial};
use crate::faults::workload::Work;
use crate::job::env;

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

fn survive_a_fence(servers: &Servers, controller: &Ears, delivery: &'static str, seed: u64) {
    let mut trial = Trial::new("MYSQL_URL", seed, Place::Here);
    trial.delivery = delivery;
    let mut publish = trial.start("publish", 1);
    publish.wait_until_up();
    let mut land = trial.start("land", 1);
    let work = Work::start("MYSQL_URL", &trial.name, seed, crate::faults::PAUSE);
    trial.arrives(&mut [&mut publish, &mut land]);
    // The reader of subscriptions may read what it likes, here the topic's companion.
    let mut reader = subscription(&format!("{}.meta", trial.name));
    let (consumed, reads) = (reader.consumed(), Arc::new(AtomicBool::new(true)));
    let reading = std::thread::spawn({
        let reads = reads.clone();
        move || {
            while reads.load(Ordering::Relaxed) {
                reader.read(&mut Raws::default()).unwrap();
            }
        }
    });
    let fences = || std::fs::read_to_string(servers.log("kafka")).unwrap().matches("Fencing broker 1 ").count();
    let (before, begun) = (fences(), Instant::now());
    controller.cover();
    let mut fenced = None;
    while fenced.is_none_or(|fenced: Instant| fenced.elapsed() < Duration::from_secs(2)) {
        assert!(begun.elapsed() < RECOVERY_MAX, "the broker is not fenced");
        trial.supervise_for(Duration::from_millis(50), &mut [&mut publish, &mut land]);
        if fenced.is_none() && fences() > before {
            fenced = Some(Instant::now());
        }
    }
    let had = consumed.load(Ordering::Relaxed);
    controller.uncover();
    let took = trial.arrives(&mut [&mut publish, &mut land]);
    assert!(trial.gave_up.is_empty(), "{:?}", trial.gave_up);
    let begun = Instant::now();
    while consumed.load(Ordering::Relaxed) == had {
        let late = begun.elapsed() >= RECOVERY_MAX || reading.is_finished();
        assert!(!late, "the reader of a subscription reads nothing any more");
        std::thread::sleep(Duration::from_millis(20));
    }
    reads.store(false, Ordering::Relaxed);
    reading.join().unwrap();
    trial.ends(&format!("fenced, {delivery}, then {} ms", took.as_millis()), work, publish, land);
}

fn subscription(topic: &str) -> DtsReader {
    let config = DtsConfig {
        brokers: env("KAFKA_ADDR"),
        topic: topic.into(),
        sid: None,
        user: None,
        password: None,
        password_file: None,
        tables: vec!["shop.*".into()],
        start: "earliest".parse().unwrap(),
        properties: BTreeMap::new(),
    };
    DtsReader::open(&config, &Start::Configured, false).unwrap()
}

/// The only broker of a cluster is fenced where its disk or its machine stands still for some seconds. It goes on answering: that
/// there is no broker. Clients that believed it had nobody to ask any more.
#[test]
fn the_only_broker_may_be_fenced() {
    let Some(servers) = apart("the_only_broker_may_be_fenced", &["mysql", "kafka", "postgres"]) else { return };
    let (_, seed) = crate::faults::kills_and_seed(40);
    let properties = std::fs::read_to_string(servers.folder("kafka").join("server.properties")).unwrap();
    let controller = properties.lines().find_map(|line| line.strip_prefix("controller.quorum.voters=1@127.0.0.1:"));
    let controller = Ears::of(controller.unwrap().parse().unwrap());
    for delivery in ["exactly-once", "at-least-once"] {
        survive_a_fence(&servers, &controller, delivery, seed);
    }
}
