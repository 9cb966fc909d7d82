//! What was recorded and does not fit any more: each stops at once, with exit code 3 and one sentence that says what is
//! missing and how to go on, and changes nothing.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::job::source::Source;
use crate::job::{Job, env};
use crate::topic::{admin, delete_records, delete_records_before};
use rdkafka::admin::{AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::Offset;
use tidegate::log::{Kafka, Librdkafka, Meta, read_to_end};

fn lines(from: i64, to: i64) -> Vec<String> {
    let line = |id: i64| {
        format!(
            r#"{{"op":"insert","database":"shop","table":"t","time":{},"key":["id"],"row":{{"id":{id}}}}}"#,
            1_700_000_000_000 + id * 100
        )
    };
    (from..to).map(line).collect()
}

/// Deletes a topic and, if it is to have partitions, makes it anew.
fn make_anew(topic: &str, partitions: i32) {
    delete(topic);
    let (admin, options) = (admin(), AdminOptions::new());
    for _ in 0..100 {
        let new = [NewTopic::new(topic, partitions, TopicReplication::Fixed(1))];
        if futures_executor::block_on(admin.create_topics(&new, &options)).unwrap()[0].is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100)); // it may still be on its way out
    }
    panic!("{topic} can't be made anew");
}

/// Deletes a topic.
fn delete(topic: &str) {
    let deleted = futures_executor::block_on(admin().delete_topics(&[topic], &AdminOptions::new())).unwrap();
    deleted.into_iter().for_each(|result| assert!(result.is_ok(), "{result:?}"));
}

fn companion(job: &Job) -> Vec<Meta> {
    let config = tidegate::config::Config::load(&job.file("tidegate.toml")).unwrap();
    let kafka = config.kafka().unwrap();
    let said = read_to_end(&Librdkafka::new(kafka), &kafka.topic).unwrap();
    let runs = said.run.into_iter().map(Meta::Run).chain(said.layout.map(Meta::Layout));
    let schemas = said.schemas.into_values().map(Meta::Schema);
    runs.chain(schemas).chain(said.statements.into_values().map(Meta::Statement)).collect()
}

fn write(topic: &str, metas: impl Iterator<Item = Meta>) {
    let producer: BaseProducer =
        rdkafka::ClientConfig::new().set("bootstrap.servers", env("KAFKA_ADDR")).create().unwrap();
    for (key, value) in metas.map(|meta| meta.to_record()) {
        let record = BaseRecord::to(topic).partition(0).key(key.as_slice()).payload(value.as_slice());
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

/// A job that has published and landed ten rows.
fn begun(name: &str) -> Job {
    let job = Job::of_lines(name, &lines(0, 10));
    job.run("publish");
    job.run("land");
    job.write_lines(&lines(0, 20));
    job
}

#[test]
fn a_companion_topic_that_is_empty_or_lacks_partitions() {
    let mut job = begun("emptied");
    let (meta, metas) = (format!("{}.meta", job.name), companion(&job));
    make_anew(&meta, 1);
    let words = ["of which its companion", "says nothing", "publish to a new topic"];
    job.refused("publish", &words);
    job.refused("land", &words);
    let of_first = |meta: &Meta| !matches!(meta, Meta::Statement(statement) if statement.partition > 0);
    write(&meta, metas.iter().filter(|meta| of_first(meta)).cloned());
    job.refused("publish", &words);
    job.refused("land", &words);
    assert_eq!(job.count("t", "true"), 10);
    // With all of it, it goes on.
    write(&meta, metas.into_iter());
    job.run("publish");
    job.run("land");
    assert_eq!(job.count("t", "true"), 20);
}

#[test]
fn a_topic_that_is_compacted() {
    let mut job = begun("compacted");
    let topic = job.name.clone();
    let policy = |policy: &str| {
        let set = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("cleanup.policy", policy);
        let altered = futures_executor::block_on(admin().alter_configs([&set], &AdminOptions::new())).unwrap();
        assert!(altered.iter().all(Result::is_ok), "{altered:?}");
    };
    policy("compact,delete");
    job.refused("publish", &[&topic, "cleanup.policy = compact", "set it to delete"]);
    policy("delete");
    job.run("publish");
    job.run("land");
    assert_eq!(job.count("t", "true"), 20);
}

#[test]
fn a_record_of_somebody_else_does_not_keep_publish_from_going_on() {
    let job = begun("stray");
    let producer: BaseProducer =
        rdkafka::ClientConfig::new().set("bootstrap.servers", env("KAFKA_ADDR")).create().unwrap();
    let stray = BaseRecord::to(&job.name).partition(0).key("x").payload("y");
    producer.send(stray).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_secs(20)).unwrap();
    job.run("publish");
    job.refused("land", &[&format!("{}/0/", job.name), "binlog.type"]);
}

#[test]
fn a_companion_topic_of_another_topic() {
    let mut job = begun("overstated");
    make_anew(&job.name, 4);
    let words = ["speaks of offset", "which ends at 0", "publish to a new topic"];
    job.refused("publish", &words);
    job.refused("land", &words);
    assert_eq!(job.count("t", "true"), 10);
}

#[test]
fn progress_of_another_topic() {
    let mut job = begun("elsewhere");
    make_anew(&job.name, 4);
    make_anew(&format!("{}.meta", job.name), 1);
    job.write_lines(&lines(100, 101));
    job.run("publish");
    job.refused("land", &["another topic", "made anew", "another job name"]);
    assert_eq!(job.count("t", "true"), 10);
}

#[test]
fn another_number_of_lanes_or_partitions() {
    let job = begun("numbers");
    job.configure("lanes = 3");
    job.refused("land", &["lanes = 4", "lanes = 3", "fixed for the life of a job"]);
    let config = std::fs::read_to_string(job.file("tidegate.toml")).unwrap();
    std::fs::write(job.file("tidegate.toml"), config.replace("partitions = 4", "partitions = 3")).unwrap();
    job.refused("publish", &["has 4 partitions", "says 3", "a new topic"]);
}

#[test]
fn records_that_retention_has_passed() {
    let mut job = begun("retention");
    job.run("publish");
    (0..4).for_each(|partition| delete_records(&job.name, partition));
    let words = ["retention has passed them", "are gone", "copy the tables anew", "start = \"earliest\""];
    job.refused("land", &words);
    assert_eq!(job.count("t", "true"), 10);

    let mut job = Job::of_lines("retention_new", &lines(0, 20));
    job.run("publish");
    delete_records(&job.name, 0);
    job.refused("land", &words);
    assert_eq!(job.count("t", "true"), 0);
    job.configure("start = \"earliest\"");
    job.run("land");
    let left = job.count("t", "true");
    assert!(left > 0 && left < 20, "{left}");
}

#[test]
fn markers_that_retention_has_passed_though_more_was_published_since() {
    let mut job = begun("markers");
    let config = tidegate::config::Config::load(&job.file("tidegate.toml")).unwrap();
    let ends = Librdkafka::new(config.kafka().unwrap()).ends(&job.name).unwrap();
    job.run("publish");
    for (partition, (_, end)) in (0..).zip(ends) {
        delete_records_before(&job.name, partition, Offset::Offset(end as i64));
    }
    job.run("land");
    assert_eq!(job.count("t", "true"), 20);
}

#[test]
fn a_topic_that_is_deleted_while_publish_writes_to_it() {
    for delivery in ["exactly-once", "at-least-once"] {
        let mut source = Source::new("MYSQL_URL", "deleted");
        source.run(&["CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (0)"]);
        let mut job = source.job(&[".t"]);
        job.configure_publish(&format!(
            "delivery = \"{delivery}\"\n[kafka.properties]\n\"message.timeout.ms\" = \"5000\""
        ));
        source.run(&["INSERT INTO t VALUES (1)"]);
        let mut publish = job.command("publish", &["-w", "2"]).stderr(Stdio::piped()).spawn().unwrap();
        job.start("land");
        job.wait("the row", |job| job.count("t", "id = 1") == 1);
        job.stop_all();
        delete(&job.name);
        let deadline = Instant::now() + Duration::from_secs(100);
        for id in 2.. {
            assert!(Instant::now() < deadline, "{delivery}: it goes on");
            if publish.try_wait().unwrap().is_some() {
                break;
            }
            source.run(&[&format!("INSERT INTO t VALUES ({id})")]);
            std::thread::sleep(Duration::from_millis(50));
        }
        let output = publish.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = said.trim_end().lines().last().unwrap();
        assert_eq!(output.status.code(), Some(3), "{delivery}: {said}");
        assert!(last.contains(&job.name) && last.contains("topic was deleted"), "{delivery}: {said}");
        // It is not made anew.
        job.refused("publish", &[&format!("topic {} does not exist", job.name), "was deleted", "copied anew"]);
        job.refused("publish", &[&format!("topic {} does not exist", job.name)]);
    }
}
