//! The whole path on real servers: a file of changes, published into a topic of a real Kafka and landed in PostgreSQL by
//! separate processes, compared with a map that the test keeps itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::job::{env, free_address};
use postgres::{Client, NoTls};

/// What the rows must be in the end: id to value, null where there is none.
type Rows = BTreeMap<i64, Option<i64>>;

/// A scenario: a scratch folder with a configuration, a topic and a schema of its own.
struct Scenario {
    name: String,
    /// The last run of `land` seen at the target.
    runs: std::cell::Cell<i64>,
    folder: tempfile::TempDir,
}

impl Scenario {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("{name}_{}", std::process::id());
        let config = format!(
            "job = \"{name}\"\n[source]\nkind = \"jsonl\"\npath = \"{}\"\n[kafka]\nbrokers = \"{}\"\ntopic = \"{name}\"\n\
             [land]\nepoch = \"500ms\"\n[target]\nkind = \"postgres\"\nurl = \"{}\"\nschema = \"{name}\"\n",
            folder.path().join("changes.jsonl").display(),
            env("KAFKA_ADDR"),
            crate::hologres::target_url(&env("PG_URL")),
        );
        std::fs::write(folder.path().join("tidegate.toml"), config).unwrap();
        Scenario { name, runs: Default::default(), folder }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("tidegate.toml")
    }

    /// Writes `count` changes of `keys` keys, with ties in time, and returns what they come to.
    fn write_changes(&self, count: u64, keys: u64, from: Rows) -> Rows {
        let mut rows = from;
        let mut text = String::new();
        let mut random = count.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let json = |id: i64, value: Option<i64>| serde_json::json!({ "id": id, "value": value }).to_string();
        for number in 0..count {
            let id = next(keys) as i64;
            let time = 1_700_000_000_000 + number / 7;
            let before = rows.get(&id).copied();
            let (op, row) = match before {
                Some(old) if next(4) == 0 => {
                    rows.remove(&id);
                    ("delete", json(id, old))
                }
                _ => {
                    let value = (next(10) > 0).then_some(number as i64);
                    rows.insert(id, value);
                    (if before.is_some() { "update" } else { "insert" }, json(id, value))
                }
            };
            let before = match (op, before) {
                ("update", Some(old)) => format!(",\"before\":{}", json(id, old)),
                _ => String::new(),
            };
            writeln!(
                text,
                "{{\"op\":\"{op}\",\"database\":\"shop\",\"table\":\"orders\",\"time\":{time},\"key\":[\"id\"],\
                 \"types\":{{\"value\":\"bigint\"}},\"row\":{row}{before}}}"
            )
            .unwrap();
        }
        std::fs::write(self.folder.path().join("changes.jsonl"), text).unwrap();
        rows
    }

    fn start(&self, command: &str, arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg(command)
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn run(&self, command: &str, arguments: &[&str]) {
        finish(self.start(command, arguments));
    }

    fn landed(&self) -> Rows {
        let rows = self.query();
        rows.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Waits until another run of `land` has begun than at the last time.
    fn wait_for_a_run(&self) {
        let mut client = Client::connect(&env("PG_URL"), NoTls).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let sql = "SELECT generation FROM tidegate.generation WHERE job = $1";
            let run = client.query_opt(sql, &[&self.name]).ok().flatten().map_or(0, |row| row.get::<_, i64>(0));
            if self.runs.replace(run) < run {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "waited in vain for a run");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The same while the table may not be there yet.
    fn landed_if_there(&self) -> Rows {
        self.query().map_or(Rows::new(), |rows| rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    fn query(&self) -> Result<Vec<postgres::Row>, postgres::Error> {
        let mut client = Client::connect(&env("PG_URL"), NoTls).unwrap();
        client.query(&format!("SELECT id, value FROM {}.orders", self.name), &[])
    }
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_published_by_two_workers_is_landed_by_two_workers_as_it_was() {
    let scenario = Scenario::new("pipeline");
    let want = scenario.write_changes(60_000, 5_000, Rows::new());
    scenario.run("publish", &["--until-caught-up", "-w", "2"]);
    scenario.run("land", &["--until-caught-up", "-w", "2"]);
    assert_eq!(scenario.landed(), want);
}

#[test]
fn two_processes_land_the_same_as_one() {
    let scenario = Scenario::new("processes");
    let want = scenario.write_changes(30_000, 3_000, Rows::new());
    scenario.run("publish", &["--until-caught-up"]);
    let hosts = scenario.folder.path().join("hosts");
    std::fs::write(&hosts, format!("{}\n{}\n", free_address(), free_address())).unwrap();
    let hosts = hosts.to_str().unwrap();
    let processes =
        ["0", "1"].map(|process| scenario.start("land", &["--until-caught-up", "-n", "2", "-p", process, "-h", hosts]));
    processes.into_iter().for_each(finish);
    assert_eq!(scenario.landed(), want);
}

#[test]
fn restart() {
    let scenario = Scenario::new("restart");
    let want = scenario.write_changes(200_000, 5_000, Rows::new());
    scenario.run("publish", &["--until-caught-up"]);
    // Killed again and again on the way, each time from where the last one was.
    for pause_ms in [150, 300, 450, 600] {
        let mut land = scenario.start("land", &["-w", "2"]);
        std::thread::sleep(Duration::from_millis(pause_ms));
        land.kill().unwrap();
        land.wait().unwrap();
    }
    // Another number of workers is no matter.
    scenario.run("land", &["--until-caught-up", "-w", "1"]);
    assert_eq!(scenario.landed(), want);
    scenario.run("land", &["--until-caught-up", "-w", "3"]);
    assert_eq!(scenario.landed(), want, "landing again changes nothing");
}

#[test]
fn a_missing_topic_is_one_sentence_and_exit_code_3() {
    let scenario = Scenario::new("missing");
    let output = scenario.start("land", &[]).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(&scenario.name) && said.contains("does not exist") && said.lines().count() == 1, "{said}");
    let missing =
        Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["land", "--config"]).arg(Path::new("nowhere")).output();
    assert_eq!(missing.unwrap().status.code(), Some(3));
}

/// Starts both processes of a cluster of two.
fn start_both(scenario: &Scenario, command: &str, workers: [&str; 2]) -> [Child; 2] {
    let hosts = scenario.folder.path().join(format!("hosts.{command}"));
    std::fs::write(&hosts, format!("{}\n{}\n", free_address(), free_address())).unwrap();
    let start = |(number, workers): (usize, &str)| {
        let number = number.to_string();
        scenario.start(command, &["-n", "2", "-p", &number, "-h", hosts.to_str().unwrap(), "-w", workers])
    };
    [start((0, workers[0])), start((1, workers[1]))]
}

fn signal(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_signal_to_one_process_stops_all_in_good_order() {
    let scenario = Scenario::new("signal");
    let want = scenario.write_changes(2_000, 300, Rows::new());
    scenario.run("publish", &["--until-caught-up"]);
    for told in [0, 1] {
        let running = start_both(&scenario, "land", ["1", "1"]);
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while told == 0 && scenario.landed_if_there() != want {
            assert!(std::time::Instant::now() < deadline, "waited in vain for the rows");
            std::thread::sleep(Duration::from_millis(100));
        }
        scenario.wait_for_a_run();
        signal(&running[told], "-TERM");
        running.into_iter().for_each(finish);
    }
    assert_eq!(scenario.landed(), want);
}

#[test]
fn a_signal_to_each_process_stops_all_in_good_order_though_they_know_already() {
    let scenario = Scenario::new("signals");
    let want = scenario.write_changes(2_000, 300, Rows::new());
    scenario.run("publish", &["--until-caught-up"]);
    // What they have to wait for while they stop.
    let mut client = Client::connect(&env("PG_URL"), NoTls).unwrap();
    let table = format!("{}.orders", scenario.name);
    let make = format!("CREATE SCHEMA {}; CREATE TABLE {table} (id bigint PRIMARY KEY, value bigint)", scenario.name);
    client.batch_execute(&make).unwrap();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute(&format!("LOCK TABLE {table}")).unwrap();
    let running = start_both(&scenario, "land", ["1", "1"]);
    scenario.wait_for_a_run();
    std::thread::sleep(Duration::from_millis(1500));
    for child in &running {
        signal(child, "-TERM");
        std::thread::sleep(Duration::from_millis(300));
    }
    lock.commit().unwrap();
    running.into_iter().for_each(finish);
    scenario.run("land", &["--until-caught-up"]);
    assert_eq!(scenario.landed(), want);
}

#[test]
fn a_process_that_is_gone_or_has_other_numbers_ends_the_others_with_one_sentence() {
    let scenario = Scenario::new("gone");
    scenario.write_changes(100, 30, Rows::new());
    scenario.run("publish", &["--until-caught-up"]);
    for (workers, kill) in [(["1", "1"], true), (["2", "1"], false)] {
        let [first, mut second] = start_both(&scenario, "land", workers);
        if kill {
            scenario.wait_for_a_run();
            second.kill().unwrap();
        }
        let output = first.wait_with_output().unwrap();
        second.wait().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        let ours: Vec<&str> = said.lines().filter(|line| line.starts_with("tidegate: ")).collect();
        assert_eq!(ours.len(), 1, "{said}");
        let words = if kill { "another process of the cluster is gone" } else { "start all of them with the same" };
        assert!(ours[0].contains(words) && !said.contains("panicked"), "{said}");
    }
}

#[test]
fn workers_without_a_partition_learn_of_new_tables_all_the_same() {
    let line = |table: &str, id: u32| {
        format!(
            r#"{{"op":"insert","database":"shop","table":"{table}","time":1700000000000,"key":["id"],"row":{{"id":{id}}}}}"#
        )
    };
    let mut job = crate::job::Job::of_lines("spare", &[line("first", 0)]);
    job.configure("lanes = 8\n");
    job.run("publish");
    job.start_with("land", &["-w", "8"]);
    job.wait("the first table", |job| job.count("first", "true") == 1);
    let more: Vec<String> = (0..200).map(|id| line("second", id)).collect();
    job.write_lines(&[vec![line("first", 0)], more].concat());
    job.run("publish");
    job.wait("the second table", |job| job.count("second", "true") == 200);
    job.stop_all();
}

#[test]
fn a_cluster_with_two_configurations_gives_no_topic_more_partitions() {
    let scenario = Scenario::new("two_minds");
    scenario.write_changes(10, 3, Rows::new());
    scenario.run("publish", &["--until-caught-up"]);
    let config = std::fs::read_to_string(scenario.folder.path().join("tidegate.toml")).unwrap();
    let other = scenario.folder.path().join("other.toml");
    std::fs::write(&other, config.replace("[land]", "partitions = 8\n[land]")).unwrap();
    let hosts = scenario.folder.path().join("hosts");
    std::fs::write(&hosts, format!("{}\n{}\n", free_address(), free_address())).unwrap();
    let of_two = ["--until-caught-up", "-n", "2", "-h", hosts.to_str().unwrap()];
    let first = scenario.start("publish", &[&of_two[..], &["-p", "0"]].concat());
    let mut second = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    second.arg("publish").arg("--config").arg(other).args(of_two).args(["-p", "1"]).stderr(Stdio::piped());
    for process in [first, second.spawn().unwrap()] {
        let output = process.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(3) && said.contains("another command, job or configuration"), "{said}");
    }
    scenario.run("publish", &["--until-caught-up"]);
}

#[test]
fn a_table_that_was_landed_and_is_gone_is_not_made_anew() {
    let line = |id: u32| {
        format!(
            r#"{{"op":"insert","database":"shop","table":"t","time":1700000000000,"key":["id"],"row":{{"id":{id}}}}}"#
        )
    };
    let mut job = crate::job::Job::of_lines("vanished", &[line(1)]);
    ["publish", "land"].iter().for_each(|command| job.run(command));
    job.target.batch_execute("ALTER TABLE t RENAME TO away").unwrap();
    job.write_lines(&[line(1), line(2)]);
    job.run("publish");
    let output = job.try_run("land");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    // On Hologres it is looked for again before that is said.
    let last = said.lines().last().unwrap();
    assert!(last.contains("table shop.t: job '") && last.contains("and that is gone"), "{said}");
    job.target.batch_execute("ALTER TABLE away RENAME TO t").unwrap();
    job.run("land");
    assert_eq!(job.count("t", "true"), 2);
}

#[test]
fn a_run_that_has_caught_up_has_recorded_so() {
    let line = |id: u32| {
        format!(
            r#"{{"op":"insert","database":"shop","table":"t","time":1700000000000,"key":["id"],"row":{{"id":{id}}}}}"#
        )
    };
    let mut job = crate::job::Job::of_lines("recorded", &[]);
    for rounds in 1..=3 {
        job.write_lines(&(0..rounds * 40).map(line).collect::<Vec<_>>());
        ["publish", "land"].iter().for_each(|command| job.run(command));
        // Nothing comes from publish now: what is durable may go all the same.
        (0..4).for_each(|partition| crate::topic::delete_records(&job.name, partition));
        job.run("land");
    }
    assert_eq!(job.count("t", "true"), 120);
}
