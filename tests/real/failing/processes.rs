//! Processes die, freeze and are stopped at random moments, while a server takes statements of every odd kind: afterwards
//! both sides are identical, each change is once in the topic, and no row has stepped back.
//!
//! `KILLS` says how many processes are killed (of all servers together; some more are frozen and stopped), `SEED` which and
//! when; a failure prints the seed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::faults::running::Running;
use crate::faults::trial::{Place, Trial};
use crate::faults::workload::Work;

fn survive(server: &'static str, kills: u64, seed: u64) {
    let mut trial = Trial::new(server, seed, Place::Here);
    let mut publish = trial.start("publish", 1);
    publish.wait_until_up();
    let mut land = trial.start("land", 1);
    let work = Work::start(server, &trial.name, seed, Duration::from_millis(2));
    let mut done: BTreeMap<&str, u64> = BTreeMap::new();
    while done.get("killed").copied().unwrap_or(0) < kills {
        let publishes = trial.random.below(2) == 0;
        let command = if publishes { "publish" } else { "land" };
        let running = if publishes { &mut publish } else { &mut land };
        // A process of several is killed once they are connected; before, the others wait for it to come back.
        if running.processes.len() > 1 {
            running.wait_until_up();
        }
        std::thread::sleep(Duration::from_millis(trial.random.below(400)));
        let several = running.processes.len();
        let chosen = trial.random.below(several as u64) as usize;
        let what = match trial.random.below(10) {
            0 => "stopped",
            1 if several == 1 => "frozen",
            _ => "killed",
        };
        *done.entry(what).or_default() += 1;
        let next = match what {
            "frozen" => {
                running.wait_until_up();
                running.signal(0, "-STOP");
                let mut next = trial.start_any(command);
                next.wait_until_up();
                next
            }
            _ => start_later(&mut trial, running, what, chosen, command),
        };
        let mut before = std::mem::replace(running, next);
        if what == "frozen" {
            before.signal(0, "-CONT");
            // Kafka or MySQL tells an older publish, whichever it asks first.
            let words: &[&str] = match publishes {
                true => &["a newer publish of this topic", "another replica with server_id"],
                false => &["generation"],
            };
            before.gives_up(0, words);
        }
        drop(before);
        trial.arrives(&mut [&mut publish, &mut land]);
    }
    trial.ends(&format!("{done:?}"), work, publish, land);
}

/// Ends what runs, and starts the command anew.
fn start_later(trial: &mut Trial, running: &mut Running, what: &str, chosen: usize, command: &'static str) -> Running {
    let mut ended = Running { command, processes: std::mem::take(&mut running.processes) };
    match what {
        "stopped" => {
            ended.wait_until_up();
            ended.stop(chosen);
        }
        _ => ended.kill(chosen),
    }
    trial.start_any(command)
}

/// A second copy is started while the first is at work: the first stops, all of its processes with one sentence, and the
/// second goes on.
#[test]
fn of_two_copies_the_older_stops() {
    let (_, seed) = crate::faults::kills_and_seed(4);
    let server = "MYSQL_URL";
    let mut trial = Trial::new(server, seed, Place::Here);
    let mut publish = trial.start("publish", 1);
    publish.wait_until_up();
    let mut land = trial.start("land", 2);
    let work = Work::start(server, &trial.name, seed, Duration::from_millis(2));
    trial.arrives(&mut [&mut publish, &mut land]);
    for processes in [2, 1] {
        for running in [&mut publish, &mut land] {
            running.wait_until_up();
            let mut older = std::mem::replace(running, trial.start(running.command, processes));
            let words = match older.command {
                "publish" => ["a newer publish of this topic", "another replica with server_id"],
                _ => ["generation", "run one copy of a job"],
            };
            let said: Vec<String> = (0..older.processes.len()).map(|number| older.last_sentence(number)).collect();
            assert!(said.iter().any(|said| words.iter().any(|words| said.contains(words))), "{said:?}");
        }
        trial.arrives(&mut [&mut publish, &mut land]);
    }
    trial.ends("second copies", work, publish, land);
}

#[test]
fn whatever_dies_both_sides_are_identical_and_nothing_is_twice() {
    let (kills, seed) = crate::faults::kills_and_seed(100);
    survive("MYSQL_URL", kills / 2, seed);
    survive("MARIADB_URL", kills - kills / 2, seed);
}
