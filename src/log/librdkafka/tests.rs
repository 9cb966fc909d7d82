//! The producer, on the client's mock cluster, where nothing is sent for company's sake before 50 s are over.

use rdkafka::mocking::MockCluster;

use super::*;

/// Commits so many transactions of so many records with properties of the user's; how long it took.
fn commits(transactions: usize, properties: &[(&str, &str)], records: usize) -> Duration {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let lingers = [("linger.ms", "50000")];
    let properties = lingers.iter().chain(properties).map(|(name, value)| (name.to_string(), value.to_string()));
    let config = KafkaConfig {
        brokers: cluster.bootstrap_servers(),
        topic: "t".into(),
        partitions: 2,
        replication: 1,
        properties: properties.collect(),
    };
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
