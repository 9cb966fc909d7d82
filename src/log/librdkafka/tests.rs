//! The producer, on the client's mock cluster.

use rdkafka::mocking::MockCluster;

use super::*;

#[test]
fn a_commit_does_not_wait_for_what_lingers() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let properties = [("linger.ms".to_string(), "50000".to_string())].into();
    let config = KafkaConfig {
        brokers: cluster.bootstrap_servers(),
        topic: "t".into(),
        partitions: 2,
        replication: 1,
        properties,
    };
    let mut producer = Librdkafka::new(&config).producer(Some("id")).unwrap();
    let asked = Instant::now();
    for _ in 0..2 {
        producer.begin().unwrap();
        for partition in 0..2 {
            let record = NewRecord { topic: "t", partition, timestamp: None, key: b"k", value: b"v", headers: None };
            producer.send(record, 1).unwrap();
        }
        let mut delivered = 0;
        while delivered < 2 {
            producer.poll(Duration::from_millis(1), &mut |report| delivered += report.records).unwrap();
        }
        producer.commit().unwrap();
    }
    assert!(asked.elapsed() < Duration::from_secs(50), "it has waited for company");
}
