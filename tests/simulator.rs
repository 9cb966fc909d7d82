//! The whole system in memory, driven from one seed: the real dataflows, operators and protocols of `publish` and `land`
//! over models of the source's log, Kafka and the target, with crashes between any two things that the outside could see.
//!
//! After each history the target equals the naive map of all changes, no row ever stepped back to an older value, no lane
//! went back in its steps, and in the topic each change is once and each partition in the source's order. A history that
//! fails prints the command that plays it again.
//!
//! That it bites is shown by breaking the protocol on purpose: each guarantee has a [`Switch`] that takes it away, and a test
//! that finds that out.

#[allow(dead_code, reason = "no history runs until it has caught up")]
#[path = "../dataflows/checkpoint.rs"]
mod checkpoint;
#[path = "simulator/cluster.rs"]
mod cluster;
#[path = "../dataflows/consumer.rs"]
mod consumer;
#[path = "../dataflows/fit.rs"]
mod fit;
#[path = "simulator/history.rs"]
mod history;
#[path = "simulator/kafka.rs"]
mod kafka;
#[allow(dead_code, reason = "no history runs until it has caught up")]
#[path = "../dataflows/land.rs"]
mod land;
#[path = "../dataflows/lanes.rs"]
mod lanes;
#[path = "../dataflows/outlet.rs"]
mod outlet;
#[path = "simulator/partition.rs"]
mod partition;
#[path = "../dataflows/publish.rs"]
mod publish;
#[allow(dead_code, reason = "nobody reads what a history reports")]
#[path = "../dataflows/report.rs"]
mod report;
#[path = "simulator/source.rs"]
mod source;
#[allow(dead_code, reason = "what workers of several processes tell one another is not needed here")]
#[path = "../dataflows/start.rs"]
mod start;
#[path = "simulator/target.rs"]
mod target;
#[path = "simulator/world.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use history::play;
use tidegate::log::{Kafka, read_to_end};
use world::{Rates, World};

/// What can be broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// A new writer fences nobody at Kafka.
    NoFence,
    /// A run at the target does not see that a newer one has begun.
    NoGeneration,
    /// A lane writes its progress before its rows.
    ProgressFirst,
    /// A step does not say how far it goes.
    NoThrough,
    /// A run does not wait for the statements of older ones.
    NoWait,
    /// A publisher gives what it reads again new times.
    ForgetTimes,
    /// A lane goes on though the target has lost what it had been told is durable.
    TrustAcks,
    /// A run of land takes it for granted that all partitions that there are are written to.
    TrustLayout,
    /// A run of land takes it for granted that retention has passed nothing that counts.
    TrustRetention,
    /// A run of land does not know what lies before the place where it goes on.
    ForgetPassed,
    /// Progress is one seq for all partitions.
    OneSeqForAll,
    /// Changes are written in the order of their times.
    SortByTime,
    /// Changes are written in the order in which they were decoded.
    TrustArrival,
}

/// At most one of them is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Broken(pub Option<Switch>);

impl Broken {
    pub fn is(self, switch: Switch) -> bool {
        self.0 == Some(switch)
    }
}

/// Plays so many histories from `seed` on; how many failed, and the first that did. Twice as many at once as there are cores,
/// since whoever starts workers waits for one another's threads.
fn simulate(histories: u64, seed: u64, broken: Broken, enough: u64) -> (u64, Option<(u64, String)>) {
    let end = seed + histories;
    let (next, failures) = (AtomicU64::new(seed), AtomicU64::new(0));
    let first = std::sync::Mutex::new(None::<(u64, String)>);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..2 * cores {
            scope.spawn(|| {
                while failures.load(Ordering::Relaxed) < enough {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    if let Err(said) = play(seed, broken) {
                        if broken.0.is_none() {
                            println!("seed {seed}: {said}\nagain: tests/run simulate 1 {seed}");
                        }
                        failures.fetch_add(1, Ordering::Relaxed);
                        let mut first = first.lock().unwrap();
                        if first.as_ref().is_none_or(|(known, _)| seed < *known) {
                            *first = Some((seed, said));
                        }
                    }
                }
            });
        }
    });
    (failures.into_inner(), first.into_inner().unwrap())
}

/// Histories as `SEED` and `HISTORIES` say; `tests/run simulate` prints the last line.
#[test]
fn whatever_happens_nothing_is_lost_doubled_or_turned_back() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let (histories, seed) = (number("HISTORIES", 500), number("SEED", 0));
    let (failures, first) = simulate(histories, seed, Broken::default(), 10);
    println!("histories {histories}, failures {failures}");
    if let Some((seed, said)) = first {
        panic!("seed {seed}: {said}");
    }
}

/// What is waited for at a start may come while the process itself stands still: that is no time in which it had its chance.
#[test]
fn a_process_that_stood_still_looks_again() {
    let mut looks = 0;
    let look = || {
        looks += 1;
        if looks == 1 {
            world::world().pass(4000);
            std::thread::sleep(std::time::Duration::from_secs(4));
            return Ok(Err(anyhow::anyhow!("it is not there yet")));
        }
        Ok(Ok(looks))
    };
    let looked = World::enter(0, Rates::default(), |_| start::patiently(look));
    assert_eq!(looked.unwrap(), 2);
}

/// Else an older run that is still beginning could fence one of its writers, and not read that there is a newer one.
#[test]
fn a_run_has_announced_itself_when_that_can_be_read() {
    let announced = World::enter(0, Rates::default(), |_| {
        let kafka: Arc<dyn Kafka> = Arc::new(kafka::Model::new(&[("t", 1), ("t.meta", 1)], Broken::default()));
        let run = start::Publishing {
            kafka: Arc::clone(&kafka),
            topic: "t".into(),
            partitions: 1,
            exactly_once: true,
            tables: Vec::new(),
            look_back: 0,
        };
        let announced = run.announce("new".into(), 1).unwrap();
        (announced, read_to_end(&*kafka, "t").unwrap().run)
    });
    assert!(announced.0.is_some() && announced.0 == announced.1, "{announced:?}");
}

/// That a broken protocol is found out within a thousand histories.
fn is_found_out(switch: Switch) {
    is_found_out_from(0, switch);
}

/// The same, from a seed that is near a history where it matters.
fn is_found_out_from(seed: u64, switch: Switch) {
    let (failures, _) = simulate(1000, seed, Broken(Some(switch)), 1);
    assert!(failures > 0, "{switch:?} was not found out");
}

#[test]
fn writers_that_fence_nobody_are_found_out() {
    is_found_out(Switch::NoFence);
}

#[test]
fn runs_that_do_not_see_newer_ones_are_found_out() {
    is_found_out(Switch::NoGeneration);
}

#[test]
fn progress_before_rows_is_found_out() {
    is_found_out(Switch::ProgressFirst);
}

#[test]
fn steps_that_do_not_say_how_far_they_go_are_found_out() {
    is_found_out(Switch::NoThrough);
}

#[test]
fn not_waiting_for_old_statements_is_found_out() {
    is_found_out(Switch::NoWait);
}

#[test]
fn new_times_for_what_is_read_again_are_found_out() {
    is_found_out(Switch::ForgetTimes);
}

#[test]
fn targets_that_lose_what_was_durable_are_found_out() {
    is_found_out(Switch::TrustAcks);
}

#[test]
fn partitions_that_nobody_writes_to_are_found_out() {
    is_found_out_from(700, Switch::TrustLayout); // chosen: histories that show it are rare, and one is soon behind
}

#[test]
fn records_that_retention_has_passed_are_found_out() {
    is_found_out(Switch::TrustRetention);
}

#[test]
fn records_that_are_there_again_behind_the_place_where_a_run_goes_on_are_found_out() {
    is_found_out_from(3_100, Switch::ForgetPassed); // chosen: histories that show it are rare
}

#[test]
fn one_seq_for_all_partitions_is_found_out() {
    is_found_out(Switch::OneSeqForAll);
}

#[test]
fn sorting_by_time_is_found_out() {
    is_found_out(Switch::SortByTime);
}

#[test]
fn trusting_the_order_of_arrival_is_found_out() {
    is_found_out(Switch::TrustArrival);
}
