//! Topics that something else wrote: out of order, late, idle, killed; and what can't be used kept aside.

use std::time::Duration;

use crate::job::{Job, Rows, env, guard, landed};
use crate::topic::delete_records;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidegate::config::Config;
use tidegate::log::Librdkafka;

const START: u64 = 1_700_000_000_000;

const SETTINGS: &str =
    "envelope = \"canal-json\"\nout_of_orderness = \"1s\"\nidle_timeout = \"1s\"\nlateness = \"60s\"\n";

/// A job that lands a topic of Canal's messages, and a producer for it.
fn canal(name: &str) -> (Job, Topic) {
    let mut job = Job::new(name, "kind = \"jsonl\"\npath = \"none\"");
    job.configure(&format!("{SETTINGS}dead_letter = \"{}\"", job.file("letters").display()));
    guard(&mut job);
    let config = Config::load(&job.file("tidegate.toml")).unwrap();
    Librdkafka::new(config.kafka().unwrap()).ensure_topics().unwrap();
    let mut client = rdkafka::ClientConfig::new();
    // Without idempotence what is sent again may come behind what was sent after it.
    client.set("bootstrap.servers", env("KAFKA_ADDR")).set("linger.ms", "1").set("enable.idempotence", "true");
    let producer = client.create().unwrap();
    let topic = Topic { name: job.name.clone(), producer };
    (job, topic)
}

struct Topic {
    name: String,
    producer: BaseProducer,
}

impl Topic {
    fn send(&self, partition: i32, message: &str) {
        let record = BaseRecord::<str, str>::to(&self.name).partition(partition).key("k").payload(message);
        self.producer.send(record).map_err(|(e, _)| e).unwrap();
    }

    fn flush(&self) {
        self.producer.flush(Duration::from_secs(20)).unwrap();
    }
}

fn message(op: &str, id: i64, v: i64, time: u64) -> String {
    format!(
        r#"{{"data":[{{"id":"{id}","v":"{v}"}}],"database":"shop","table":"t","es":{time},"isDdl":false,"type":"{op}",
           "mysqlType":{{"id":"bigint","v":"bigint"}},"pkNames":["id"],"old":null,"sql":"","ts":1}}"#
    )
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Messages in the order in which they arrive, with their partitions: most in order, some a little late, some very.
fn arrivals(count: u64, seed: u64) -> (Vec<(i32, String)>, Rows) {
    let mut random = Random(seed);
    let mut rows = Rows::new();
    let mut arrivals = Vec::new();
    for number in 0..count {
        let (id, v, time) = (random.below(300) as i64, number as i64, START + number * 20);
        let op = match (rows.contains_key(&id), random.below(8)) {
            (false, _) => "INSERT",
            (true, 0) => "DELETE",
            (true, _) => "UPDATE",
        };
        if op == "DELETE" {
            rows.remove(&id);
        } else {
            rows.insert(id, v);
        }
        // 20 ms a message: 30 of them are within the second of out-of-orderness, 1500 are half of the lateness.
        let delay = match random.below(20) {
            0 => 1 + random.below(1500),
            1..4 => 1 + random.below(30),
            _ => 0,
        };
        arrivals.push((number + delay, (id % 4) as i32, message(op, id, v, time)));
    }
    arrivals.sort_by_key(|(at, ..)| *at);
    (arrivals.into_iter().map(|(_, partition, message)| (partition, message)).collect(), rows)
}

#[test]
fn late_records_are_applied_or_superseded_and_no_row_steps_back() {
    let (mut job, topic) = canal("foreign_late");
    let (arrivals, rows) = arrivals(20_000, 7);
    job.start("land");
    for (partition, message) in &arrivals {
        topic.send(*partition, message);
    }
    topic.flush();
    // The last changes become visible without another one.
    job.wait("all rows", |job| landed(job) == rows);
    job.stop_all();
    let letters = std::fs::read_to_string(job.file("letters")).unwrap_or_default();
    assert_eq!(letters.lines().next(), None, "nothing was later than the lateness allows");
}

#[test]
fn land_killed_at_any_moment_goes_on_and_no_row_steps_back() {
    let (mut job, topic) = canal("foreign_killed");
    let (arrivals, rows) = arrivals(20_000, 11);
    let mut random = Random(3);
    for part in arrivals.chunks(2_500) {
        job.start("land");
        for (partition, message) in part {
            topic.send(*partition, message);
        }
        topic.flush();
        std::thread::sleep(std::time::Duration::from_millis(200 + random.below(1500)));
        job.kill();
    }
    job.run("land");
    assert_eq!(landed(&mut job), rows);
}

#[test]
fn after_a_backlog_longer_than_any_lateness_no_row_goes_back() {
    let (mut job, topic) = canal("foreign_backlog");
    topic.send(0, &message("INSERT", 4, 1, START));
    topic.flush();
    job.run("land");
    topic.send(0, &message("UPDATE", 4, 2, START + 3_000));
    for second in 4..1_000 {
        topic.send(0, &message("UPDATE", 8, second, START + 1_000 * second as u64));
    }
    topic.flush();
    job.run("land");
    assert_eq!(landed(&mut job), Rows::from([(4, 2), (8, 999)]));
    job.run("land");
    assert_eq!(landed(&mut job), Rows::from([(4, 2), (8, 999)]));
}

#[test]
fn what_a_partition_had_before_it_stalled_is_not_forgotten_while_others_go_on() {
    let (mut job, topic) = canal("foreign_stalled");
    job.start("land");
    topic.send(1, &message("INSERT", 5, 2, START + 30_000));
    topic.flush();
    job.wait("the row", |job| landed(job) == Rows::from([(5, 2)]));
    for second in 0..1_000 {
        topic.send(0, &message("UPDATE", 8, second, START + 1_000 * second as u64));
    }
    topic.flush();
    job.wait("the other partition", |job| landed(job) == Rows::from([(5, 2), (8, 999)]));
    topic.send(1, &message("UPDATE", 5, 1, START + 10_000));
    topic.send(1, &message("INSERT", 9, 1, START + 31_000));
    topic.flush();
    job.wait("what came last", |job| landed(job).contains_key(&9));
    assert_eq!(landed(&mut job), Rows::from([(5, 2), (8, 999), (9, 1)]));
    job.stop_all();
}

#[test]
fn tables_that_are_not_wanted_stop_nothing_and_zero_is_a_time() {
    let (mut job, topic) = canal("foreign_unwanted");
    job.configure(&format!("{SETTINGS}tables = [\"shop.t\"]"));
    topic.send(0, &message("INSERT", 4, 7, 0));
    topic.send(0, &message("INSERT", 8, 1, 0).replace("\"t\"", "\"log\"").replace("[\"id\"]", "null"));
    topic.send(0, &message("TRUNCATE", 8, 1, 0).replace("\"t\"", "\"log\""));
    topic.flush();
    job.run("land");
    assert_eq!(landed(&mut job), Rows::from([(4, 7)]));
}

#[test]
fn which_tables_are_wanted_says_nothing_about_what_is_late() {
    let (mut job, topic) = canal("foreign_tables");
    topic.send(0, &message("INSERT", 4, 1, START));
    topic.send(0, &message("ALTER", 0, 0, START + 100_000).replace("\"t\"", "\"other\""));
    topic.send(0, &message("INSERT", 4, 2, START + 50_000));
    topic.flush();
    job.run("land");
    assert_eq!(landed(&mut job), Rows::from([(4, 2)]));
    job.configure(&format!("{SETTINGS}tables = [\"shop.t\"]"));
    job.run("land");
    assert_eq!(landed(&mut job), Rows::from([(4, 2)]));
    // It is 60 s and 40 s late by what the other table had, wanted or not.
    topic.send(0, &message("INSERT", 4, 3, START + 60_000));
    topic.send(0, &message("INSERT", 4, 4, START + 30_000));
    topic.flush();
    job.refused("land", &["/0/4: it is 70s older than what its partition had before"]);
}

#[test]
fn what_is_not_wanted_is_read_for_good_too() {
    let (mut job, topic) = canal("foreign_passed");
    job.configure(&format!("{SETTINGS}tables = [\"shop.t\"]"));
    topic.send(0, &message("INSERT", 4, 1, START));
    topic.flush();
    job.run("land");
    for round in 1..=3 {
        delete_records(&topic.name, 0);
        for id in 0..50 {
            let message = message("INSERT", id, 1, START + round * 1_000);
            topic.send(0, &message.replace("\"t\"", "\"other\""));
        }
        topic.flush();
        job.run("land");
    }
    assert_eq!(landed(&mut job), Rows::from([(4, 1)]));
}

#[test]
fn what_is_too_late_or_no_message_is_a_dead_letter() {
    let (mut job, topic) = canal("foreign_letters");
    topic.send(0, &message("INSERT", 4, 1, START + 100_000));
    topic.send(0, &message("INSERT", 8, 1, START + 50_000));
    topic.send(0, &message("INSERT", 12, 1, START));
    topic.send(0, "{\"type\":\"frob\"}");
    topic.flush();
    job.run("land");
    assert_eq!(landed(&mut job), Rows::from([(4, 1), (8, 1)]));
    let letters = std::fs::read_to_string(job.file("letters")).unwrap();
    let letters: Vec<&str> = letters.lines().collect();
    assert_eq!(letters.len(), 2, "{letters:?}");
    let name = &job.name;
    assert!(letters[0].contains(&format!("\"{name}/0/2\"")) && letters[0].contains("100s older"), "{letters:?}");
    assert!(letters[1].contains(&format!("\"{name}/0/3\"")) && letters[1].contains("frob"), "{letters:?}");
}

#[test]
fn without_a_file_for_dead_letters_the_job_stops_at_the_first() {
    let (job, topic) = canal("foreign_stops");
    job.configure(SETTINGS);
    topic.send(0, &message("INSERT", 4, 1, START + 100_000));
    topic.send(0, &message("INSERT", 12, 1, START));
    topic.flush();
    job.refused("land", &[&format!("{}/0/1", job.name), "100s older", "lateness"]);
}

#[test]
fn a_row_that_the_target_refuses_is_a_dead_letter_where_there_is_a_file() {
    let line = |id: u32, at: &str| {
        format!(
            r#"{{"op":"insert","database":"shop","table":"d","time":{START},"key":["id"],"types":{{"id":"int","at":"date","n":"bigint"}},"row":{{"id":{id},"at":"{at}","n":{id}}}}}"#
        )
    };
    let lines: Vec<String> = (0..500).map(|id| line(id, if id == 77 { "2026-02-31" } else { "2026-02-03" })).collect();
    let mut job = Job::of_lines("refused_row", &lines);
    // A check of the target's own, which it refuses rows by.
    job.target.batch_execute("CREATE TABLE d (id int PRIMARY KEY, at date, n bigint CHECK (n <> 400))").unwrap();
    job.run("publish");
    job.refused("land", &["shop.d", "key"]);
    assert_eq!(job.count("d", "id IN (77, 400)"), 0);
    let letters = job.file("letters");
    job.configure(&format!("dead_letter = \"{}\"", letters.display()));
    job.run("land");
    assert_eq!((job.count("d", "true"), job.count("d", "id IN (77, 400)")), (498, 0));
    let mut kept: Vec<String> = std::fs::read_to_string(letters).unwrap().lines().map(String::from).collect();
    kept.sort();
    let keys = |key: &str| kept.iter().filter(|letter| letter.contains(&format!("\"key\":\"{key}\""))).count();
    assert_eq!((kept.len(), keys("77"), keys("400")), (2, 1, 1), "{kept:?}");
    assert!(kept.iter().all(|letter| letter.contains("\"table\":\"shop.d\"") && letter.contains("\"op\":\"insert\"")));
}

#[test]
fn what_comes_late_after_a_restart_counts_where_the_topic_had_lost_its_beginning() {
    let (mut job, topic) = canal("headless");
    topic.send(0, &message("INSERT", 9, 9, START));
    topic.flush();
    delete_records(&topic.name, 0);
    topic.send(0, &message("INSERT", 1, 1, START + 20_000));
    topic.flush();
    job.refused("land", &["/0: the records before offset 1 are gone", "start = \"earliest\""]);
    job.configure(&format!("{SETTINGS}start = \"earliest\"\ndead_letter = \"{}\"", job.file("letters").display()));
    job.run("land");
    // Nothing newer of that row was ever read.
    topic.send(0, &message("INSERT", 2, 2, START + 10_000));
    topic.flush();
    job.run("land");
    assert_eq!(landed(&mut job), Rows::from([(1, 1), (2, 2)]));
    // Lateness does not shrink.
    job.configure(&format!("{}start = \"earliest\"", SETTINGS.replace("60s", "30s")));
    topic.send(0, &message("INSERT", 3, 3, START - 40_000));
    topic.flush();
    let output = job.try_run("land");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("are 31s together and count as 61s"), "{said}");
    assert_eq!(landed(&mut job), Rows::from([(1, 1), (2, 2), (3, 3)]));
}

/// Until a job knows that all records of partition 0 below that offset are durable.
fn wait_for_durable(job: &mut Job, offset: u64) {
    let name = job.name.clone();
    job.wait("a checkpoint", |job| {
        let sql = "SELECT offsets FROM tidegate.checkpoint WHERE job = $1";
        let row = job.target.query_opt(sql, &[&name]).unwrap();
        row.is_some_and(|row| row.get::<_, String>(0).contains(&format!("\"read\":{offset}")))
    });
}

#[test]
fn retention_may_delete_all_that_is_durable_and_what_is_older_is_kept_aside() {
    let (mut job, topic) = canal("quiet");
    topic.send(0, &message("INSERT", 1, 1, START + 20_000));
    topic.flush();
    job.start("land");
    job.wait("the row", |job| landed(job) == Rows::from([(1, 1)]));
    wait_for_durable(&mut job, 1);
    job.stop_all();
    delete_records(&topic.name, 0);
    topic.send(0, &message("UPDATE", 1, 2, START + 21_000));
    topic.send(0, &message("INSERT", 2, 2, START + 10_000));
    topic.flush();
    job.start("land");
    job.wait("the newer row", |job| landed(job) == Rows::from([(1, 2)]));
    wait_for_durable(&mut job, 3);
    job.stop_all();
    let letters = std::fs::read_to_string(job.file("letters")).unwrap();
    assert!(letters.lines().count() == 1 && letters.contains("may be newer"), "{letters}");
    // What was not landed may not go.
    topic.send(0, &message("INSERT", 3, 3, START + 22_000));
    topic.flush();
    delete_records(&topic.name, 0);
    job.refused("land", &["/0: the records from offset 3 to 4 are gone", "landed them: copy the tables anew; or,"]);
}

#[test]
fn what_is_no_change_behind_the_last_record_may_go_too() {
    let (mut job, topic) = canal("trailing");
    let mut client = rdkafka::ClientConfig::new();
    client.set("bootstrap.servers", env("KAFKA_ADDR")).set("transactional.id", &topic.name);
    let transactions = Topic { name: topic.name.clone(), producer: client.create().unwrap() };
    transactions.producer.init_transactions(Duration::from_secs(20)).unwrap();
    transactions.producer.begin_transaction().unwrap();
    transactions.send(0, &message("INSERT", 1, 1, START));
    transactions.producer.commit_transaction(Duration::from_secs(20)).unwrap();
    job.start("land");
    job.wait("the row", |job| landed(job) == Rows::from([(1, 1)]));
    wait_for_durable(&mut job, 2); // the marker of the transaction too
    topic.producer.send(BaseRecord::<str, str>::to(&topic.name).partition(0).key("k")).map_err(|(e, _)| e).unwrap();
    topic.flush();
    wait_for_durable(&mut job, 3);
    job.stop_all();
    delete_records(&topic.name, 0);
    topic.send(0, &message("UPDATE", 1, 2, START + 1_000));
    topic.flush();
    job.run("land");
    assert_eq!(landed(&mut job), Rows::from([(1, 2)]));
    // What a run that has caught up leaves may go.
    delete_records(&topic.name, 0);
    job.run("land");
}

#[test]
fn all_workers_know_the_tables_that_records_describe() {
    let (mut job, topic) = canal("described");
    for table in 0..30 {
        for id in 0..8 {
            let message = message("INSERT", id, id, START + id as u64);
            topic.send(id as i32 % 4, &message.replace("\"table\":\"t\"", &format!("\"table\":\"t{table}\"")));
        }
    }
    topic.flush();
    job.run("land");
    assert!((0..30).all(|table| job.count(&format!("t{table}"), "true") == 8));
}
