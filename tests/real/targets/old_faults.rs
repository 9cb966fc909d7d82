//! The faults of the design that tidegate replaces, two Flink jobs, each as a test that they fail and tidegate passes.
//! (The first of them, a negative hash that picks a channel, is in `src/log/partitioner.rs`.)
//!
//! Each table here has a version that the source only counts up, and the target refuses to write a lower one over a higher
//! one: so a row that steps back, however briefly, ends `land` with an error.

use std::time::{Duration, Instant};

use crate::job::{Job, Rows, env, guard, landed};
use mysql::prelude::Queryable;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidegate::change::{Changes, NewChange, Op};
use tidegate::config::Config;
use tidegate::log::{Layout, Librdkafka, OpenWriter, Pace, PartitionStart, Writer, partition_of};
use tidegate::source::{Mark, Resume};

/// Writes lines of the JSON source and keeps what they come to.
#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    rows: Rows,
    version: i64,
}

impl Lines {
    fn line(&mut self, op: &str, time: u64, row: (i64, i64), before: Option<(i64, i64)>) {
        let json = |(id, v): (i64, i64)| format!("{{\"id\":{id},\"v\":{v}}}");
        let before = before.map_or(String::new(), |before| format!(",\"before\":{}", json(before)));
        self.lines.push(format!(
            "{{\"op\":\"{op}\",\"database\":\"shop\",\"table\":\"t\",\"time\":{time},\"key\":[\"id\"],\"row\":{}{before}}}",
            json(row)
        ));
    }

    /// Inserts or updates a row.
    fn put(&mut self, id: i64, time: u64) {
        self.version += 1;
        let new = (id, self.version);
        match self.rows.insert(id, self.version) {
            None => self.line("insert", time, new, None),
            Some(old) => self.line("update", time, new, Some((id, old))),
        }
    }

    fn delete(&mut self, id: i64, time: u64) {
        if let Some(v) = self.rows.remove(&id) {
            self.line("delete", time, (id, v), None);
        }
    }

    /// Gives a row another key.
    fn rename(&mut self, id: i64, to: i64, time: u64) {
        if let Some(v) = self.rows.remove(&id) {
            self.version += 1;
            self.line("update", time, (to, self.version), Some((id, v)));
            self.rows.insert(to, self.version);
        }
    }
}

fn land_and_compare(name: &str, lines: &Lines) {
    let mut job = Job::of_lines(name, &lines.lines);
    guard(&mut job);
    job.run("publish");
    job.run("land");
    assert_eq!(landed(&mut job), lines.rows);
}

/// Sorting by a time in whole seconds lets ties come out in any order.
#[test]
fn ties() {
    let mut lines = Lines::default();
    for number in 0..20_000 {
        match number % 11 {
            10 => lines.delete(number % 13, 1_700_000_000_000),
            _ => lines.put(number % 13, 1_700_000_000_000),
        }
    }
    land_and_compare("ties", &lines);
}

/// A server stamps a statement when it begins, so that within a key time runs backwards.
#[test]
fn source_time_runs_backwards_within_a_key() {
    let mut lines = Lines::default();
    for number in 0..20_000u64 {
        let forth = 1_700_000_000_000 + number * 10;
        lines.put(number as i64 % 17, if number % 3 == 0 { forth - 9_000 } else { forth });
    }
    land_and_compare("backwards", &lines);
}

/// Three sinks with buffers of their own let a delete overtake the insert that follows it.
#[test]
fn delete_and_reinsert_of_one_key_in_one_epoch() {
    let mut lines = Lines::default();
    for number in 0..3_000u64 {
        let time = 1_700_000_000_000 + number / 100;
        let id = number as i64 % 40;
        lines.put(id, time);
        lines.delete(id, time);
        match number % 5 {
            0 => {}
            1 => lines.put(id, time),
            2 => {
                lines.put(id, time);
                lines.rename(id, id + 1_000, time);
                lines.rename(id + 1_000, id, time);
            }
            3 => {
                lines.put(id, time);
                lines.rename(id, id + 2_000, time);
                lines.put(id, time);
                lines.delete(id + 2_000, time);
            }
            _ => {
                lines.put(id, time);
                lines.delete(id, time);
                lines.put(id, time);
            }
        }
    }
    land_and_compare("reinsert", &lines);
}

/// A publisher in the test's hand: it may hold up the records of a partition.
struct Feeder {
    writers: Vec<Writer>,
    ticket: u64,
    seq: u64,
}

const PARTITIONS: u32 = 4;

impl Feeder {
    fn new(job: &Job) -> Feeder {
        let config = Config::load(&job.file("tidegate.toml")).unwrap();
        let kafka = config.kafka().unwrap();
        assert_eq!(Librdkafka::new(kafka).ensure_topics().unwrap(), PARTITIONS);
        let writer = |partition: u32| {
            let starts = [(partition, PartitionStart::default())].into();
            OpenWriter::new(&Librdkafka::new(kafka), &kafka.topic, None).unwrap().begin(
                starts,
                Layout { partitions: vec![(0, PARTITIONS)] },
                Vec::new(),
                Pace { interval: Duration::from_millis(50), bytes: usize::MAX },
            )
        };
        Feeder { writers: (0..PARTITIONS).map(writer).collect(), ticket: 0, seq: 1 }
    }

    /// Updates all rows to `version`, all at `time`, as one batch for each partition.
    fn batches(&mut self, rows: std::ops::Range<i64>, version: i64, time: u64) -> Vec<Changes> {
        let mut batches: Vec<Changes> = (0..PARTITIONS).map(|_| Changes::default()).collect();
        for id in rows {
            self.seq += 1;
            let (key, row) = (id.to_string(), format!("{{\"id\":{id},\"v\":{version}}}"));
            let partition = partition_of(key.as_bytes(), PARTITIONS);
            let batch = &mut batches[partition as usize];
            batch.push_change(&NewChange {
                op: if version == 1 { Op::Insert } else { Op::Update },
                seq: self.seq,
                time,
                database: "shop",
                table: "t",
                key: key.as_bytes(),
                position: b"test",
                before: b"",
                row: row.as_bytes(),
            });
            let last = batch.len() - 1;
            batch.heads_mut()[last].partition = partition;
        }
        let mark =
            Mark { seq: self.seq + 1, time, resume: Resume { position: "test".into(), seq: self.seq + 1 }, end: false };
        let mark = serde_json::to_vec(&mark).unwrap();
        for (partition, batch) in batches.iter_mut().enumerate() {
            batch.push_change(&NewChange {
                op: Op::Mark,
                seq: self.seq + 1,
                time,
                database: "",
                table: "",
                key: b"",
                position: b"",
                before: b"",
                row: &mark,
            });
            let last = batch.len() - 1;
            batch.heads_mut()[last].partition = partition as u32;
        }
        batches
    }

    fn write(&mut self, partition: usize, batch: &Changes) {
        self.ticket += 1;
        self.writers[partition].write(self.ticket, batch).unwrap();
    }

    fn poll(&mut self) {
        for writer in &mut self.writers {
            writer.poll(Duration::from_millis(1)).unwrap();
        }
    }
}

/// What is late by more than the guess is dropped or writes old values over new ones. Here nothing is late: an epoch waits
/// for all partitions.
fn held_up(seconds: u64) {
    let mut job = Job::new(&format!("held_up_{seconds}"), "kind = \"jsonl\"\npath = \"none\"");
    guard(&mut job);
    let mut feeder = Feeder::new(&job);
    job.start("land");
    let rows = 0..400;
    let begun = Instant::now();
    let start = tidegate::source::now_ms();
    let mut held: Vec<Changes> = Vec::new();
    let mut version = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        version += 1;
        let batches = feeder.batches(rows.clone(), version, start + begun.elapsed().as_millis() as u64);
        for (partition, batch) in batches.into_iter().enumerate() {
            match partition {
                3 => held.push(batch),
                _ => feeder.write(partition, &batch),
            }
        }
        feeder.poll();
        std::thread::sleep(Duration::from_millis(40));
    }
    assert!(landed(&mut job).is_empty(), "an epoch was closed without one of its partitions");
    for batch in &held {
        feeder.write(3, batch);
    }
    // One more, so that the epoch of the last version is over.
    for (partition, batch) in feeder.batches(0..0, 1, start + seconds * 1000 + 60_000).iter().enumerate() {
        feeder.write(partition, batch);
    }
    let want: Rows = rows.map(|id| (id, version)).collect();
    job.wait("the rows that were held up", |job| {
        feeder.poll();
        landed(job) == want
    });
    job.stop_all();
}

#[test]
fn rows_held_up_in_one_partition() {
    let longer = std::thread::spawn(|| held_up(30));
    held_up(15);
    longer.join().unwrap();
}

/// Whether publish has said where each partition stands.
fn stated(job: &Job) -> bool {
    let config = tidegate::config::Config::load(&job.file("tidegate.toml")).unwrap();
    tidegate::log::read_to_end(&Librdkafka::new(config.kafka().unwrap()), &config.kafka().unwrap().topic)
        .is_ok_and(|said| !said.statements.is_empty())
}

/// An idle partition holds the watermark for ever, and an idle source leaves its last seconds invisible.
#[test]
fn idle_partition_and_idle_source() {
    for server in ["MYSQL_URL", "MARIADB_URL"] {
        let options = mysql::OptsBuilder::from_opts(mysql::Opts::from_url(&env(server)).unwrap()).prefer_socket(false);
        let mut source = mysql::Conn::new(options).unwrap();
        let database = format!("idle_{}", std::process::id());
        source.query_drop(format!("CREATE DATABASE {database}")).unwrap();
        source.query_drop(format!("CREATE TABLE {database}.t (id int PRIMARY KEY, v int)")).unwrap();
        let lines =
            format!("kind = \"mysql\"\nurl = \"{}\"\ntables = [\"{database}.*\"]\nstart = \"latest\"", env(server));
        let mut job = Job::new("idle", &lines);
        guard(&mut job);
        job.start("publish");
        // The first statement says where the source is read from; what is older than it isn't wanted by `latest`.
        job.wait("the first statement", |job| stated(job));
        job.start("land");
        // One row, so that three of the four partitions stay empty, and nothing after it.
        source.query_drop(format!("INSERT INTO {database}.t VALUES (1, 1)")).unwrap();
        job.wait("the last change", |job| landed(job) == Rows::from([(1, 1)]));
        job.stop_all();
        source.query_drop(format!("DROP DATABASE {database}")).unwrap();
    }
}

/// A window that fires again applies its rows twice, and old values win.
#[test]
fn refired_window() {
    let mut lines = Lines::default();
    for number in 0..6_000u64 {
        lines.put(number as i64 % 50, 1_700_000_000_000 + number);
    }
    let mut job = Job::of_lines("refired", &lines.lines);
    guard(&mut job);
    job.run("publish");
    job.run("land");
    assert_eq!(landed(&mut job), lines.rows);
    deliver_again(&job.name);
    job.run("land");
    assert_eq!(landed(&mut job), lines.rows);
    // And in the midst of new ones, for a land that runs and one that begins anew.
    for number in 6_000..9_000u64 {
        lines.put(number as i64 % 50, 1_700_000_000_000 + number);
    }
    job.write_lines(&lines.lines);
    job.run("publish");
    deliver_again(&job.name);
    job.run("land");
    assert_eq!(landed(&mut job), lines.rows);
}

/// Appends to each partition a copy of every record that it has.
fn deliver_again(topic: &str) {
    let mut client = rdkafka::ClientConfig::new();
    client.set("bootstrap.servers", env("KAFKA_ADDR"));
    let producer: BaseProducer = client.create().unwrap();
    client.set("group.id", "again").set("enable.partition.eof", "true").set("auto.offset.reset", "earliest");
    for partition in 0..PARTITIONS as i32 {
        let consumer: BaseConsumer = client.create().unwrap();
        let mut assignment = rdkafka::TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, rdkafka::Offset::Beginning).unwrap();
        consumer.assign(&assignment).unwrap();
        let mut records = Vec::new();
        while let Some(Ok(message)) = consumer.poll(Duration::from_secs(20)) {
            records.push(message.detach());
        }
        for record in &records {
            let headers = record.headers().unwrap();
            assert!(headers.iter().any(|header| header.key == "tidegate.seq"));
            let again = BaseRecord::to(topic)
                .partition(partition)
                .key(record.key().unwrap())
                .payload(record.payload().unwrap())
                .headers(headers.clone());
            producer.send(again).map_err(|(error, _)| error).unwrap();
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

/// A restart replays, with no memory of what was applied.
#[test]
fn restart() {
    let mut lines = Lines::default();
    for number in 0..150_000u64 {
        let (id, time) = (number as i64 * 7919 % 4_000, 1_700_000_000_000 + number);
        match number % 9 {
            8 => lines.delete(id, time),
            _ => lines.put(id, time),
        }
    }
    let mut job = Job::of_lines("restart", &lines.lines);
    guard(&mut job);
    for pause in [200, 400, 300] {
        // What a killed publish leaves may be incomplete until it runs again, so that land would wait for it.
        for command in ["publish", "land"] {
            job.start(command);
            std::thread::sleep(Duration::from_millis(pause));
            job.kill();
        }
    }
    job.run("publish");
    for pause in [150, 350] {
        job.start("land");
        std::thread::sleep(Duration::from_millis(pause));
        job.kill();
    }
    job.run("land");
    assert_eq!(landed(&mut job), lines.rows);
}
