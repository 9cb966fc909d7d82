//! The reader of a DTS topic, against an in-process broker: numbers, times, transactions, places, and clear errors.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use tidegate::change::{Changes, TableFilter};
use tidegate::codec::dts::{DtsDecoder, Images, NewRecord, Operation, Value, encode};
use tidegate::config::DtsConfig;
use tidegate::source::dts::DtsReader;
use tidegate::source::{Decoder, Mark, Raws, Reader, Resume, SourceError, Start, now_ms};

type Cluster = MockCluster<'static, DefaultProducerContext>;

const TOPIC: &str = "dts-topic";

fn cluster() -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    cluster
}

fn config(brokers: &str, start: &str) -> DtsConfig {
    DtsConfig {
        brokers: brokers.into(),
        topic: TOPIC.into(),
        sid: Some("sid".into()),
        user: None,
        password: None,
        password_file: None,
        tables: vec!["shop.*".into()],
        start: start.parse().unwrap(),
        properties: Default::default(),
    }
}

fn produce(cluster: &Cluster, values: &[Option<Vec<u8>>]) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
    for value in values {
        let record = BaseRecord::<(), [u8]>::to(TOPIC).partition(0);
        let record = match value {
            Some(value) => record.payload(&value[..]),
            None => record,
        };
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
}

fn record(operation: Operation, second: i64, table: &str) -> Option<Vec<u8>> {
    let values = [Value::Integer { precision: 8, value: "1" }];
    let row = operation.is_row();
    let mut out = Vec::new();
    let record = NewRecord {
        source_position: "4@1",
        object_name: row.then_some(table),
        fields: row.then_some(&[("id", 8)]),
        after: if row { Images::Row(&values) } else { Images::Absent },
        ..NewRecord::new(operation, second)
    };
    encode(&record, &mut out);
    Some(out)
}

fn insert(second: i64) -> Option<Vec<u8>> {
    record(Operation::Insert, second, "shop.t")
}

/// Reads until `done` says so; returns number, time and position of the rows read, and the last mark.
fn read_until(
    reader: &mut DtsReader,
    done: impl Fn(&[(u64, u64, String)], &Mark) -> bool,
) -> (Vec<(u64, u64, String)>, Mark) {
    let begun = Instant::now();
    let mut rows = Vec::new();
    loop {
        let mut raws = Raws::default();
        let mark = reader.read(&mut raws).unwrap();
        rows.extend(raws.raws().map(|raw| (raw.head.seq, raw.head.time, raw.position.to_string())));
        if done(&rows, &mark) {
            return (rows, mark);
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "still waiting after {} rows, {mark:?}", rows.len());
    }
}

fn read_to_end(config: &DtsConfig, start: &Start) -> (Vec<(u64, u64, String)>, Mark) {
    let mut reader = DtsReader::open(config, start, true).unwrap();
    read_until(&mut reader, |_, mark| mark.end)
}

fn refusal(config: &DtsConfig, start: &Start) -> String {
    match DtsReader::open(config, start, false) {
        Err(SourceError::Source(sentence)) => sentence,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    }
}

fn numbers(rows: &[(u64, u64, String)]) -> Vec<u64> {
    rows.iter().map(|row| row.0).collect()
}

#[test]
fn every_record_takes_two_numbers_and_a_transaction_has_one_time() {
    let cluster = cluster();
    use Operation::{Begin, Commit, Ddl, Heartbeat, Rollback};
    let of = |operation, second| record(operation, second, "");
    produce(
        &cluster,
        &[
            insert(100),                                     // 2: a transaction of its own
            of(Begin, 200),                                  // 4
            insert(200),                                     // 6
            None,                                            // 8: a filler
            record(Operation::Delete, 205, "other.t"),       // 10: unwanted
            record(Operation::Update, 201, "shop.u"),        // 12: stamped later, committed with 6
            of(Commit, 201),                                 // 14
            of(Ddl, 202),                                    // 16
            insert(150),                                     // 18: the source's clock ran backwards
            of(Heartbeat, 300),                              // 20
            Some(vec![0, 0]),                                // 22: another filler
            insert(300),                                     // 24
            of(Begin, 301),                                  // 26
            insert(301),                                     // 28
            of(Rollback, 301),                               // 30
            record(Operation::Insert, 302, "shop_1.t_0001"), // 32: unwanted, it has no logical name
        ],
    );
    let (rows, mark) = read_to_end(&config(&cluster.bootstrap_servers(), "earliest"), &Start::Configured);
    assert_eq!(numbers(&rows), [2, 6, 12, 18, 24, 28]);
    let times: Vec<u64> = rows.iter().map(|row| row.1).collect();
    assert_eq!(times, [100_999, 200_999, 200_999, 200_999, 300_999, 301_999]);
    assert_eq!(rows[1].2, "4@1 dts-topic/0/2");
    assert_eq!((mark.seq, mark.resume), (34, Resume { position: "16".into(), seq: 34 }));
}

#[test]
fn a_record_that_cannot_be_read_is_handed_on_and_the_decoder_says_why() {
    let cluster = cluster();
    let unknown = record(Operation::Init, 101, "").map(|mut datum| {
        // The operation is the one number of its value: the last of the schema, which zigzag makes 32.
        let at = datum.iter().rposition(|&byte| byte == 32).unwrap();
        datum[at] = 120;
        datum
    });
    produce(&cluster, &[insert(100), Some(vec![0xff; 20]), unknown, insert(102)]);
    let config = config(&cluster.bootstrap_servers(), "earliest");
    let mut reader = DtsReader::open(&config, &Start::Configured, true).unwrap();
    let mut decoder = DtsDecoder::new(TableFilter::default(), false);
    let (mut changes, mut errors, mut heads) = (Changes::default(), Vec::new(), Vec::new());
    let begun = Instant::now();
    loop {
        let mut raws = Raws::default();
        let mark = reader.read(&mut raws).unwrap();
        for raw in raws.raws() {
            heads.push((raw.head.seq, raw.head.time));
            match decoder.decode(&raw, &mut changes) {
                Ok(()) => {}
                Err(SourceError::Record { position, reason }) => errors.push(format!("{position}: {reason}")),
                Err(error) => panic!("{error}"),
            }
        }
        if mark.end {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "still waiting, {mark:?}");
    }
    assert_eq!(heads, [(2, 100_999), (4, 100_999), (6, 101_999), (8, 102_999)]);
    assert_eq!(changes.heads().iter().map(|head| head.seq).collect::<Vec<_>>(), [2, 2, 8], "a schema and two rows");
    assert!(errors.len() == 2 && errors[0].contains("dts-topic/0/1"), "{errors:?}");
    assert!(errors[1].contains("dts-topic/0/2") && errors[1].contains("operation is number 60"), "{errors:?}");
}

#[test]
fn a_transaction_in_hand_is_read_again_as_a_whole_with_the_same_numbers() {
    let cluster = cluster();
    let now = (now_ms() / 1000) as i64;
    produce(&cluster, &[insert(now), record(Operation::Begin, now, ""), insert(now), insert(now)]);
    let config = config(&cluster.bootstrap_servers(), "earliest");
    let mut reader = DtsReader::open(&config, &Start::Configured, false).unwrap();
    let (rows, mark) = read_until(&mut reader, |rows, _| rows.len() == 3);
    assert_eq!(mark.resume, Resume { position: "1".into(), seq: 4 });
    assert!(mark.seq == 10 && mark.time == rows[2].1 && !mark.end);
    std::thread::sleep(Duration::from_millis(30));
    let (_, idle) = read_until(&mut reader, |_, _| true);
    assert_eq!(idle.time, mark.time, "time stands still inside a transaction");

    produce(&cluster, &[record(Operation::Commit, now, ""), insert(now)]);
    let (more, committed) = read_until(&mut reader, |rows, _| rows.len() == 1);
    assert_eq!((numbers(&more), &*committed.resume.position), (vec![12], "6"));
    let (_, later) = read_until(&mut reader, |_, later| later.time > committed.time);
    assert!(later.time <= now_ms(), "time moves on while nothing happens");

    let start = Start::Resume { resume: mark.resume, clock: tidegate::source::Clock::from(mark.time) };
    let (again, _) = read_to_end(&config, &start);
    assert_eq!(numbers(&again), [6, 8, 12]);
    assert!(again.iter().all(|row| row.1 >= mark.time));
}

#[test]
fn reading_ends_where_the_topic_ended_and_counts_what_it_read() {
    let cluster = cluster();
    produce(&cluster, &vec![insert(1); 5_000]);
    let config = config(&cluster.bootstrap_servers(), "earliest");
    let mut reader = DtsReader::open(&config, &Start::Configured, true).unwrap();
    produce(&cluster, &[insert(2)]);
    let (rows, _) = read_until(&mut reader, |_, mark| mark.end);
    assert_eq!(rows.len(), 5_000, "what came after the start is for the next run");
    assert_eq!(reader.consumed().load(Ordering::Relaxed), 5_000 * insert(1).unwrap().len() as u64);
}

#[test]
fn the_configured_start_is_kept_to() {
    let cluster = cluster();
    produce(&cluster, &[insert(100), insert(200), insert(300)]);
    let brokers = cluster.bootstrap_servers();
    let mut latest = DtsReader::open(&config(&brokers, "latest"), &Start::Configured, false).unwrap();
    produce(&cluster, &[insert(400)]);
    let (rows, _) = read_until(&mut latest, |rows, _| !rows.is_empty());
    assert_eq!(rows[0].2, "4@1 dts-topic/0/3");
    let milliseconds = "1700000000000";
    assert!(
        refusal(&config(&brokers, milliseconds), &Start::Configured).contains("is a time to come: write it in seconds")
    );

    // A run that ended before it came to the time goes on to it.
    let config = config(&brokers, "250");
    let begun = DtsReader::open(&config, &Start::Configured, true).unwrap().begun().resume;
    assert!(begun.position.ends_with(" not before 250"), "{begun:?}");
    let resume = Resume { position: "0 not before 250".into(), seq: begun.seq };
    let start = Start::Resume { resume, clock: tidegate::source::Clock::from(0) };
    let (rows, mark) = read_to_end(&config, &start);
    assert_eq!(rows.iter().map(|row| row.2.as_str()).collect::<Vec<_>>(), ["4@1 dts-topic/0/2", "4@1 dts-topic/0/3"]);
    assert_eq!(mark.resume.position, "4", "once it has come to it, all that follows is wanted");
}

#[test]
fn an_offset_that_is_not_there_is_never_replaced_by_another() {
    let cluster = cluster();
    produce(&cluster, &[insert(1)]);
    let start = |position: &str| Start::Resume {
        resume: Resume { position: position.into(), seq: 4 },
        clock: tidegate::source::Clock::from(0),
    };
    let config = config(&cluster.bootstrap_servers(), "earliest");
    let beyond = refusal(&config, &start("7"));
    assert!(beyond.contains("offset 7 of topic dts-topic") && beyond.contains("ends at 1"), "{beyond}");
    assert!(refusal(&config, &start("binlog.000001:4")).contains("another kind of source"));

    // The mock cluster drops its oldest records beyond 5 MB, as retention would.
    let mut big = Vec::new();
    encode(&NewRecord { after: Images::Text(&"x".repeat(900_000)), ..NewRecord::new(Operation::Ddl, 1) }, &mut big);
    for _ in 0..12 {
        produce(&cluster, &[Some(big.clone())]);
    }
    let passed = refusal(&config, &start("0"));
    assert!(passed.contains("offset 0") && passed.contains("the oldest that is kept is"), "{passed}");
}

#[test]
fn servers_that_are_not_there_and_topics_that_are_not_there_are_told_apart() {
    let cluster = cluster();
    let mut config = config(&cluster.bootstrap_servers(), "earliest");
    config.topic = "typo".into();
    let missing = refusal(&config, &Start::Configured);
    assert!(missing.contains("no topic typo"), "{missing}");
    cluster.create_topic("wide", 3, 1).unwrap();
    config.topic = "wide".into();
    assert!(refusal(&config, &Start::Configured).contains("3 partitions"));

    config.user = Some("u".into());
    assert!(refusal(&config, &Start::Configured).contains("password_file"));
    config.sid = None;
    assert!(refusal(&config, &Start::Configured).contains("'sid'"));
    config.user = None;
    config.brokers = "127.0.0.1:1".into();
    let begun = Instant::now();
    let unreachable = refusal(&config, &Start::Configured);
    assert!(unreachable.contains("127.0.0.1:1 did not answer within 15 s"), "{unreachable}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// A leader that was just elected does not know yet where the partition ends.
#[test]
fn a_broker_that_comes_back_may_have_no_answer_yet() {
    use rdkafka::types::{RDKafkaApiKey::ListOffsets, RDKafkaRespErr as Error};
    let cluster = cluster();
    produce(&cluster, &[insert(7)]);
    let config = config(&cluster.bootstrap_servers(), "earliest");
    let early = [Error::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE, Error::RD_KAFKA_RESP_ERR_UNKNOWN];
    cluster.request_errors(ListOffsets, &early[..1]);
    let mut reader = DtsReader::open(&config, &Start::Configured, false).unwrap();
    assert_eq!(reader.begun().resume.position, "0");
    read_until(&mut reader, |rows, _| rows.len() == 1);
    cluster.request_errors(ListOffsets, &early);
    cluster.broker_down(1).unwrap();
    let reads = std::thread::spawn(move || read_until(&mut reader, |rows, _| rows.len() == 1));
    std::thread::sleep(Duration::from_secs(1));
    cluster.broker_up(1).unwrap();
    produce(&cluster, &[insert(8)]);
    reads.join().unwrap();
    DtsReader::open(&config, &Start::Configured, false).expect("both answers have been taken");
}

#[test]
fn a_topic_whose_leader_is_away_is_waited_for() {
    let cluster = cluster();
    produce(&cluster, &[insert(7)]);
    cluster.partition_leader(TOPIC, 0, None).unwrap();
    let config = config(&cluster.bootstrap_servers(), "earliest");
    let opens = std::thread::spawn(move || DtsReader::open(&config, &Start::Configured, false));
    std::thread::sleep(Duration::from_secs(1));
    cluster.partition_leader(TOPIC, 0, Some(1)).unwrap();
    assert_eq!(opens.join().unwrap().unwrap().begun().resume.position, "0");
}

/// What retention passes while the reader reads must be an error, whatever the properties say.
#[test]
fn properties_do_not_make_a_gap_silent() {
    let cluster = cluster();
    produce(&cluster, &[insert(1), insert(2)]);
    let mut config = config(&cluster.bootstrap_servers(), "earliest");
    let little = [("queued.min.messages", "1"), ("queued.max.messages.kbytes", "1024"), ("fetch.max.bytes", "1000000")];
    let others = [("message.max.bytes", "1000000"), ("auto.offset.reset", "earliest")];
    let properties = little.into_iter().chain(others).map(|(name, value)| (name.to_string(), value.to_string()));
    config.properties.extend(properties);
    let mut large = Vec::new();
    encode(&NewRecord { after: Images::Text(&"x".repeat(900_000)), ..NewRecord::new(Operation::Ddl, 1) }, &mut large);
    (0..3).for_each(|_| produce(&cluster, &[Some(large.clone())]));
    let mut reader = DtsReader::open(&config, &Start::Configured, false).unwrap();
    let (rows, _) = read_until(&mut reader, |rows, _| rows.len() == 2);
    assert_eq!(numbers(&rows), [2, 4]);
    std::thread::sleep(Duration::from_secs(2)); // it has fetched what its queue holds
    // A change, and then so much that retention passes it.
    produce(&cluster, &[insert(3)]);
    (0..12).for_each(|_| produce(&cluster, &[Some(large.clone())]));
    produce(&cluster, &[insert(4)]);
    let begun = Instant::now();
    let mut raws = Raws::default();
    let refused = loop {
        if let Err(error) = reader.read(&mut raws) {
            break error.to_string();
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "no word of the gap, {} rows", raws.len());
    };
    assert!(refused.contains("can't be read: "), "{refused}");
}
