//! How many changes a second go the whole way on real servers: `cargo bench --bench pipeline [CHANGES]`, with KAFKA_ADDR and
//! PG_URL set (`bench/run` starts the servers and sets them).
//!
//! A topic is filled with DTS records of one table, rows of about 300 bytes as JSON: half inserts, two fifths updates and a
//! tenth deletes of rows chosen at random. Then `publish` and after it `land` run as a user would run them, two workers each,
//! until they have caught up; measured is from start to end. Both run again with nothing to do, which is what starting and stopping
//! take. The peers, for ratios on this machine:
//! librdkafka alone writing the same records, and one pass of COPY of the rows into PostgreSQL.

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use tidegate::codec::dts::{DateTime, Images, NewRecord, Operation, Value, encode};

const PARTITIONS: u32 = 4;

/// How many changes the source commits in a second of its own time.
const CHANGES_PER_SECOND: u64 = 20_000;

/// How often what is compared runs; of each the median counts.
const ROUNDS: usize = 3;

const FIELDS: [(&str, i32); 10] = [
    ("id", 8),
    ("customer", 3),
    ("state", 253),
    ("amount", 246),
    ("weight", 5),
    ("placed", 12),
    ("updated", 7),
    ("day", 10),
    ("flag", 1),
    ("note", 253),
];

fn main() {
    // cargo passes --bench
    let changes: u64 = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(2_000_000);
    let env = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: use bench/run"));
    let (brokers, postgres) = (env("KAFKA_ADDR"), env("PG_URL"));
    let name = format!("bench_{}", std::process::id());
    let source = format!("{name}_dts");

    let began = Instant::now();
    let (bytes, rows) = fill(&brokers, &source, changes);
    let filled = report("librdkafka alone", changes, began.elapsed(), None);
    println!("  {} bytes a record, in the topic {source}", bytes / changes);

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tidegate.toml");
    let run = |command: &str, topic: &str, settings: &str| {
        let text = format!(
            "job = \"{name}_{topic}\"\n[source]\nkind = \"dts\"\nbrokers = \"{brokers}\"\ntopic = \"{source}\"\n\
             [kafka]\nbrokers = \"{brokers}\"\ntopic = \"{name}_{topic}\"\npartitions = {PARTITIONS}\n\
             [publish]\n{settings}\n\
             [target]\nkind = \"postgres\"\nurl = \"{postgres}\"\nschema = \"{name}\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let began = Instant::now();
        let status = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args([command, "--config", config.to_str().unwrap(), "-w", "2", "--until-caught-up"])
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{command} failed");
        began.elapsed()
    };
    let alone = Some(("librdkafka alone", filled));
    // In turns, since what is asked is how they compare.
    let (mut idempotent, mut each_second) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let at_least_once = "delivery = \"at-least-once\"\ncommit_interval = \"1s\"";
        idempotent.push(run("publish", &format!("idempotent{round}"), at_least_once));
        each_second.push(run("publish", &format!("second{round}"), "commit_interval = \"1s\""));
    }
    let idempotent = report("publish, at least once, stated each 1 s", changes, median(idempotent), alone);
    let peer = Some(("at least once", idempotent));
    report("publish, exactly once, committed each 1 s", changes, median(each_second), peer);
    report("publish, exactly once, committed each 100 ms", changes, run("publish", "default", ""), alone);
    report("land", changes, run("land", "default", ""), alone);
    let mut client = postgres::Client::connect(&postgres, postgres::NoTls).unwrap();
    let landed: i64 = client.query_one(&format!("SELECT count(*) FROM {name}.orders"), &[]).unwrap().get(0);
    assert_eq!(landed, rows as i64, "rows in the target");
    for command in ["publish", "land"] {
        println!("{command} again, with nothing to do: {:.2} s", run(command, "default", "").as_secs_f64());
    }
    let began = Instant::now();
    client.batch_execute(&format!("CREATE TABLE {name}.copied (LIKE {name}.orders INCLUDING INDEXES)")).unwrap();
    copy(&mut client, &name);
    report("COPY of the rows that are left", rows, began.elapsed(), None);
    client.batch_execute(&format!("DROP SCHEMA {name} CASCADE")).unwrap();
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() / 2]
}

fn report(what: &str, changes: u64, took: Duration, peer: Option<(&str, f64)>) -> f64 {
    let rate = changes as f64 / took.as_secs_f64();
    let ratio = peer.map_or(String::new(), |(name, peer)| format!(", {:.2} of {name}", rate / peer));
    println!("{what}: {changes} in {:.2} s = {rate:.0}/s{ratio}", took.as_secs_f64());
    rate
}

fn copy(client: &mut postgres::Client, schema: &str) {
    let mut out = Vec::new();
    let mut rows = client.copy_out(&format!("COPY {schema}.orders TO STDOUT")).unwrap();
    std::io::Read::read_to_end(&mut rows, &mut out).unwrap();
    drop(rows);
    let mut into = client.copy_in(&format!("COPY {schema}.copied FROM STDIN")).unwrap();
    into.write_all(&out).unwrap();
    into.finish().unwrap();
}

/// Writes the records; returns their bytes and how many rows there are in the end.
fn fill(brokers: &str, topic: &str, changes: u64) -> (u64, u64) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    futures_executor::block_on(admin.create_topics(&[new], &AdminOptions::new())).unwrap();
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .unwrap();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut live: Vec<u64> = Vec::new();
    let mut ids = 0;
    let mut bytes = 0;
    let mut datum = Vec::new();
    for number in 0..changes {
        let (operation, id) = match next(10) {
            _ if live.is_empty() => (Operation::Insert, None),
            0..5 => (Operation::Insert, None),
            5..9 => (Operation::Update, Some(live[next(live.len() as u64) as usize])),
            _ => {
                let place = next(live.len() as u64) as usize;
                (Operation::Delete, Some(live.swap_remove(place)))
            }
        };
        let id = id.unwrap_or_else(|| {
            ids += 1;
            live.push(ids);
            ids
        });
        datum.clear();
        record(operation, id, number, &mut datum);
        bytes += datum.len() as u64;
        let mut record: BaseRecord<(), [u8]> = BaseRecord::to(topic).partition(0).payload(&datum);
        while let Err((error, back)) = producer.send(record) {
            assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            std::thread::sleep(Duration::from_millis(1));
            record = back;
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let (_, high) = consumer.fetch_watermarks(topic, 0, Duration::from_secs(10)).unwrap();
    assert_eq!(high as u64, changes, "all records have been delivered");
    (bytes, live.len() as u64)
}

fn record(operation: Operation, id: u64, number: u64, out: &mut Vec<u8>) {
    let second = 1_700_000_000 + number / CHANGES_PER_SECOND;
    let (id_text, customer) = (id.to_string(), (id % 99_991).to_string());
    let amount = format!("{}.{:02}", number % 100_000, number % 100);
    let note = format!("{:0>100}", number * 7);
    let text = |value| Value::Character { charset: "utf8mb4", value };
    let at = |micros| {
        Value::DateTime(DateTime {
            year: Some(2026),
            month: Some(2),
            day: Some(3),
            hour: Some(4),
            minute: Some(5),
            second: Some(6),
            micros,
        })
    };
    let row = [
        Value::Integer { precision: 8, value: &id_text },
        Value::Integer { precision: 4, value: &customer },
        text(b"paid".as_slice()),
        Value::Decimal { value: &amount, precision: 12, scale: 2 },
        Value::Float { value: number as f64 / 8.0, precision: 17, scale: 0 },
        at(Some((number % 1_000_000) as i32)),
        Value::Timestamp { seconds: second as i64, micros: (number % 1000 * 1000) as i32 },
        Value::DateTime(DateTime { year: Some(2026), month: Some(2), day: Some(3), ..DateTime::default() }),
        Value::Integer { precision: 1, value: "1" },
        text(note.as_bytes()),
    ];
    let images = || Images::Row(&row);
    let position = format!("{}@{}", number * 400, 1 + number / 1_000_000);
    encode(
        &NewRecord {
            id: number as i64,
            source_position: &position,
            object_name: Some("shop.orders"),
            tags: &[("pk_uk_info", r#"{"PRIMARY":["id"]}"#)],
            fields: Some(&FIELDS),
            before: if operation == Operation::Insert { Images::Absent } else { images() },
            after: if operation == Operation::Delete { Images::Absent } else { images() },
            ..NewRecord::new(operation, second as i64)
        },
        out,
    );
}
