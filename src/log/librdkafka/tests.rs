//! On the client's mock cluster: what a producer sends for company's sake, where that takes 50 s, who is asked about
//! topics, and what is said of a Kafka that is silent or refuses.

use rdkafka::mocking::{MockCluster, MockCoordinator};

use super::*;

fn config_of(cluster: &MockCluster<'_, impl ClientContext>, properties: &[(&str, &str)]) -> KafkaConfig {
    KafkaConfig {
        brokers: cluster.bootstrap_servers(),
        topic: "t".into(),
        partitions: 2,
        replication: 1,
        properties: properties.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
    }
}

/// Commits so many transactions of so many records with properties of the user's; how long it took.
fn commits(transactions: usize, properties: &[(&str, &str)], records: usize) -> Duration {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let config = config_of(&cluster, &[&[("linger.ms", "50000")], properties].concat());
    let mut producer = Librdkafka::new(&config).producer(Some("id")).unwrap();
    let asked = Instant::now();
    for _ in 0..transactions {
        producer.begin().unwrap();
        for record in 0..records {
            let partition = (record % 2) as u32;
            let record = NewRecord { topic: "t", partition, timestamp: None, key: b"k", value: b"v", headers: None };
            producer.send(record, 1).unwrap();
        }
        let mut delivered = 0;
        while delivered < records {
            producer.poll(Duration::from_millis(1), &mut |report| delivered += report.records).unwrap();
            assert!(asked.elapsed() < Duration::from_secs(50), "it has waited for company");
        }
        producer.commit().unwrap();
    }
    asked.elapsed()
}

#[test]
fn a_commit_does_not_wait_for_what_lingers() {
    assert!(commits(2, &[], 2) < Duration::from_secs(50));
}

#[test]
fn a_full_queue_does_not_wait_for_what_lingers() {
    assert!(commits(1, &[("queue.buffering.max.messages", "10")], 25) < Duration::from_secs(50));
}

/// Kafka answers so where a newer publish begins during the commit.
#[test]
fn a_commit_at_which_kafka_fails_may_be_of_a_publish_that_is_replaced() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let mut producer = Librdkafka::new(&config_of(&cluster, &[])).producer(Some("id")).unwrap();
    producer.begin().unwrap();
    let record = NewRecord { topic: "t", partition: 0, timestamp: None, key: b"k", value: b"v", headers: None };
    producer.send(record, 1).unwrap();
    let failed = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN;
    cluster.request_errors(rdkafka::types::RDKafkaApiKey::EndTxn, &[failed]);
    let said = producer.commit().unwrap_err();
    assert!(said.starts_with("Transaction error: EndTxn commit failed") && said.contains(REPLACED), "{said}");
}

/// What a producer fails with at a Kafka that falls silent, and what the user is told until then. `uses` is asked again and again.
fn at_silence(queue: &str, records: usize, uses: impl Fn(&mut dyn Producer) -> Result<(), String>) -> (String, String) {
    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Told {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let properties = [("message.timeout.ms", "12000"), ("linger.ms", "0"), ("queue.buffering.max.messages", queue)];
    let mut producer = Librdkafka::new(&config_of(&cluster, &properties)).producer(Some("id")).unwrap();
    producer.begin().unwrap();
    for _ in 0..records {
        sends(&mut *producer).unwrap();
    }
    cluster.broker_round_trip_time(1, Duration::from_secs(600)).unwrap();
    sends(&mut *producer).unwrap();
    let told = Told::default();
    let writer = told.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let asked = Instant::now();
    let said = tracing::subscriber::with_default(subscriber, || {
        loop {
            if let Err(said) = uses(&mut *producer) {
                return said;
            }
            assert!(asked.elapsed() < Duration::from_secs(60), "it waits for ever");
        }
    });
    let told = String::from_utf8(told.0.lock().unwrap().clone()).unwrap();
    (said, told)
}

fn sends(producer: &mut dyn Producer) -> Result<(), String> {
    producer.send(NewRecord { topic: "t", partition: 0, timestamp: None, key: b"k", value: b"v", headers: None }, 1)
}

/// Where Kafka is silent the user hears of it, and a transaction that fails for it is not said to be of a publish that is replaced.
#[test]
fn a_silent_kafka_is_told_of_and_is_no_newer_publish() {
    let poll =
        |producer: &mut dyn Producer| producer.poll(Duration::from_millis(20), &mut |_| panic!("it is delivered"));
    let (said, told) = at_silence("1000", 0, poll);
    assert!(!said.contains(REPLACED) && said.contains("timed out") && said.contains("in time"), "{said}");
    assert!(told.contains("has taken nothing for "), "{told}");
}

/// What was delivered before it fell silent nobody has taken from the producer yet.
#[test]
fn a_silent_kafka_is_told_of_while_the_queue_is_full() {
    let (said, told) = at_silence("2", 3, sends);
    assert!(!said.contains(REPLACED) && said.contains("in time"), "{said}");
    assert!(told.contains("has taken nothing for "), "{told}");
}

#[test]
fn silence_is_told_of_while_something_is_waited_for_and_not_too_often() {
    let begun = Instant::now();
    let mut silence = Silence::of("k", begun);
    let mut told = |tenth: u64, is_over| {
        silence.lasts(begun + Duration::from_millis(100 * tenth), is_over).map(|lasts| lasts.as_millis() as u64 / 100)
    };
    // From 20.0 to 25.0 s something is delivered; from 30.0 to 41.0 s nobody asks.
    let said: Vec<_> =
        (0..300).chain(410..520).filter_map(|t| told(t, (200..=250).contains(&t)).map(|s| (t, s))).collect();
    assert_eq!(said, [(50, 50), (100, 100), (150, 150), (460, 50), (510, 100)]);
    assert!((520..10_000).all(|tenth| told(tenth, true).is_none()));
}

/// As librdkafka words it.
#[test]
fn only_a_transaction_that_was_fenced_is_of_a_publish_that_is_replaced() {
    let fenced = [
        "Fatal error: Local: This instance has been fenced by a newer instance: Failed to end transaction: Local: This instance has \
         been fenced by a newer instance",
        "Producer attempted to produce with an old epoch (INVALID_PRODUCER_EPOCH)",
        "The producer attempted to use a producer id which is not currently assigned to its transactional id",
    ];
    assert!(fenced.iter().all(|reason| refused_because(reason) == REPLACED));
    let failed = "ProduceRequest for t [0] with 1 message(s) failed: skipped sequence numbers (transactional producer, requires epoch bump)";
    let said = refused_because(failed);
    assert!(said.contains(failed) && said.contains("start publish again"), "{said}");
    let said = refused_because("1 message(s) timed out on t [0] (epoch 3)");
    assert!(said.contains("in time") && said.contains("if the topic was deleted"), "{said}");
}

struct Hears;

impl log::Log for Hears {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, _: &log::Record<'_>) {}
    fn flush(&self) {}
}

/// Logs come before reports, and each time that the client is asked for what lingers makes some.
#[test]
fn a_commit_is_not_held_up_by_what_the_client_logs() {
    struct Slow;
    impl std::io::Write for Slow {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            std::thread::sleep(Duration::from_micros(50));
            Ok(line.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    // The client logs as much as somebody hears when it is made.
    log::set_logger(&Hears).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(|| Slow).finish();
    let took = tracing::subscriber::with_default(subscriber, || commits(2, &[("debug", "all")], 2));
    log::set_max_level(log::LevelFilter::Off);
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn what_the_user_sets_by_its_other_name_is_set() {
    let mut client = ClientConfig::new();
    client.set("queue.buffering.max.ms", "7");
    set_defaults(&mut client, &[("linger.ms", "1000"), ("batch.size", "250000")]);
    assert_eq!((client.get("linger.ms"), client.get("batch.size")), (None, Some("250000")));
}

/// To open and close one takes longer than to answer; and nothing may come through the connection of one that does not answer.
#[test]
fn one_client_is_asked_until_it_does_not_answer_and_then_another() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let kafka = Librdkafka::new(&config_of(&cluster, &[]));
    let asked = || kafka.ask(|client| Ok(std::ptr::from_ref(client))).unwrap();
    let first = asked();
    assert_eq!(kafka.ends("t").unwrap(), [(0, 0); 2]);
    assert_eq!(kafka.offsets_at("t", 1).unwrap(), [0, 0]);
    assert_eq!(asked(), first);
    let kept = kafka.asking.lock().unwrap().clone(); // else another may be at the same address
    let answers = |client: &BaseConsumer| match std::ptr::eq(client, first) {
        true => Err(LogError("cut off".into())),
        false => Ok(()),
    };
    kafka.ask(answers).unwrap();
    assert_ne!(asked(), first);
    // Of one that is new nobody asks why a second time.
    let questions = std::cell::Cell::new(0);
    let silent = |_: &BaseConsumer| {
        questions.set(questions.get() + 1);
        Err::<(), _>(LogError("down".into()))
    };
    kafka.ask(silent).unwrap_err();
    assert_eq!(questions.replace(0), 2, "the one that has answered, and a new one");
    kafka.ask(silent).unwrap_err();
    assert_eq!(questions.get(), 1);
    asked();
    kafka.rest();
    assert!(kafka.asking.lock().unwrap().is_none());
    drop(kept);
}

/// It is only asked for in order to be connected.
#[test]
fn a_producer_does_not_wait_for_a_leader_that_is_silent() {
    let cluster = MockCluster::new(2).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    cluster.partition_leader("t", 0, Some(2)).unwrap();
    cluster.coordinator(MockCoordinator::Transaction("id".into()), 1).unwrap();
    cluster.broker_round_trip_time(2, Duration::from_secs(60)).unwrap();
    let mut config = config_of(&cluster, &[]);
    config.brokers.truncate(config.brokers.find(',').unwrap());
    let asked = Instant::now();
    drop(Librdkafka::new(&config).producer(Some("id")).unwrap());
    assert!(asked.elapsed() < PATIENCE / 2);
}

#[test]
fn a_topic_that_was_just_made_may_not_be_known_yet() {
    let cluster = MockCluster::new(1).unwrap();
    let kafka = Librdkafka::new(&config_of(&cluster, &[]));
    let ends = std::thread::spawn(move || kafka.ends("t"));
    std::thread::sleep(Duration::from_millis(100));
    cluster.create_topic("t", 2, 1).unwrap();
    assert_eq!(ends.join().unwrap().unwrap(), [(0, 0); 2]);
}

#[test]
fn a_topic_that_was_just_made_may_have_no_leader_yet() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let early = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
    cluster.request_errors(rdkafka::types::RDKafkaApiKey::ListOffsets, &[early; 3]);
    assert_eq!(Librdkafka::new(&config_of(&cluster, &[])).ends("t").unwrap(), [(0, 0); 2]);
    // However long the first answer took.
    cluster.broker_round_trip_time(1, Duration::from_millis(800)).unwrap();
    cluster.request_errors(rdkafka::types::RDKafkaApiKey::ListOffsets, &[early]);
    assert_eq!(Librdkafka::new(&config_of(&cluster, &[])).ends("t").unwrap(), [(0, 0); 2]);
}

/// Of the two ends of a partition the first may fail alone. It must not be empty for that.
#[test]
fn a_partition_is_not_taken_for_empty_where_one_of_its_ends_is_not_known_yet() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let kafka = Librdkafka::new(&config_of(&cluster, &[]));
    let mut producer = kafka.producer(Some("id")).unwrap();
    producer.begin().unwrap();
    sends(&mut *producer).unwrap();
    producer.commit().unwrap();
    let early = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE;
    let known = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    // Whether the second is known in time is a matter of luck.
    for said in [[early, known], [known, early], [early, early]].repeat(30) {
        cluster.request_errors(rdkafka::types::RDKafkaApiKey::ListOffsets, &said);
        assert_eq!(kafka.ends("t").unwrap(), [(0, 1), (0, 0)], "{said:?}");
    }
}

/// Else it would be said to be deleted.
#[test]
fn a_topic_that_the_user_may_not_describe_is_not_taken_for_one_that_is_not_there() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let kafka = Librdkafka::new(&config_of(&cluster, &[]));
    let denied = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.topic_error("t", denied).unwrap();
    let said = kafka.ends("t").unwrap_err().to_string();
    assert!(
        said.starts_with("topic t at 127.0.0.1:") && said.contains("authorization") && said.contains("describe"),
        "{said}"
    );
}
