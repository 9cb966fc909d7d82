//! Producers that deliver at once, or take nothing: what is committed, refused and announced.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::change::{Column, NewChange};
use crate::source::Resume;

/// Delivers at once, and counts commits.
#[derive(Default)]
struct Commits {
    sent: Vec<Delivered>,
    end: u64,
    commits: Arc<AtomicUsize>,
}

impl Producer for Commits {
    fn send(&mut self, record: NewRecord<'_>, ticket: u64) -> Result<(), String> {
        self.end += 1;
        self.sent.push(Delivered { ticket, partition: record.partition, end: self.end, records: 1 });
        Ok(())
    }
    fn poll(&mut self, _wait: Duration, delivered: &mut dyn FnMut(Delivered)) -> Result<(), String> {
        self.sent.drain(..).for_each(delivered);
        Ok(())
    }
    fn begin(&mut self) -> Result<(), String> {
        Ok(())
    }
    fn commit(&mut self) -> Result<(), String> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A row and a mark behind it.
fn batch(seq: u64) -> Changes {
    let mut batch = Changes::default();
    let resume = Resume { position: String::new(), seq: seq + 1 };
    let mark = serde_json::to_vec(&Mark { seq: seq + 1, time: seq, resume, end: false }).unwrap();
    for (op, row) in [(Op::Insert, &[b'x'; 40][..]), (Op::Mark, &mark)] {
        let row =
            NewChange { op, seq, time: seq, database: "d", table: "t", key: b"", position: b"", before: b"", row };
        batch.push_change(&row);
    }
    batch
}

#[test]
fn a_commit_asks_a_broker_less_often_the_longer_it_waits() {
    assert_eq!(
        [0, 4, 12, 80, 1000].map(|millis| patience(Duration::from_millis(millis)).as_millis()),
        [1, 1, 3, 20, 20]
    );
}

#[test]
fn a_transaction_that_is_full_does_not_wait_for_the_interval() {
    let producer = Commits::default();
    let commits = Arc::clone(&producer.commits);
    let open = OpenWriter { producer: Box::new(producer), topic: "t".into(), transactional: true };
    let starts = BTreeMap::from([(0, PartitionStart::default())]);
    let pace = Pace { interval: Duration::from_secs(3600), bytes: 3 * batch(1).memory_bytes() };
    let mut writer = open.begin(starts, Layout::default(), Vec::new(), pace);
    let mut committed = Vec::new();
    for seq in 1..=8 {
        writer.write(seq, &batch(seq)).unwrap();
        committed.push((writer.poll(Duration::ZERO).unwrap(), commits.load(Ordering::Relaxed)));
    }
    // The first is stated at once, then every third one fills a transaction.
    assert_eq!(committed, [(1, 1), (1, 1), (1, 1), (4, 2), (4, 2), (4, 2), (7, 3), (7, 3)]);
}

#[test]
fn a_partition_that_went_back_stops_it() {
    let open = OpenWriter { producer: Box::new(Commits::default()), topic: "t".into(), transactional: false };
    let starts = BTreeMap::from([(0, PartitionStart { offset: 5, ..PartitionStart::default() })]);
    let pace = Pace { interval: Duration::ZERO, bytes: usize::MAX };
    let mut writer = open.begin(starts, Layout::default(), Vec::new(), pace);
    writer.write(1, &batch(1)).unwrap();
    let said = writer.poll(Duration::ZERO).unwrap_err().to_string();
    assert!(said.contains("t/0: the partition ended at offset 5, and a record behind that got offset 0"), "{said}");
}

struct Takes;

impl Producer for Takes {
    fn send(&mut self, record: NewRecord<'_>, _ticket: u64) -> Result<(), String> {
        Err(format!("sends {}", String::from_utf8_lossy(record.value)))
    }
    fn poll(&mut self, _wait: Duration, _delivered: &mut dyn FnMut(Delivered)) -> Result<(), String> {
        Ok(())
    }
    fn begin(&mut self) -> Result<(), String> {
        Ok(())
    }
    fn commit(&mut self) -> Result<(), String> {
        Ok(())
    }
}

fn schema(since_seq: u64, columns: &[(&str, &str)], key: &str) -> TableSchema {
    let column = |(name, ty): &(&str, &str)| Column { name: (*name).into(), ty: ty.parse().unwrap(), nullable: true };
    TableSchema {
        name: TableName::new("shop", "t"),
        columns: columns.iter().map(column).collect(),
        key: vec![key.into()],
        since_seq,
        partial: false,
    }
}

#[test]
fn a_shape_that_is_read_again_does_not_replace_a_newer_one() {
    let known = schema(20, &[("id", "bigint"), ("b", "text")], "id");
    let open = OpenWriter { producer: Box::new(Takes), topic: "t".into(), transactional: false };
    let starts = BTreeMap::from([(0, PartitionStart::default())]);
    let mut writer = open.begin(
        starts,
        Layout::default(),
        vec![known.clone()],
        Pace { interval: Duration::ZERO, bytes: usize::MAX },
    );
    let mut announce = |ticket, schema: &TableSchema| {
        let mut batch = Changes::default();
        let row = serde_json::to_vec(schema).unwrap();
        batch.push_change(&NewChange {
            op: Op::Schema,
            seq: schema.since_seq,
            time: 0,
            database: "shop",
            table: "t",
            key: b"",
            position: b"here",
            before: b"",
            row: &row,
        });
        writer.write(ticket, &batch)
    };
    announce(1, &schema(10, &[("id", "bigint"), ("a", "text")], "id")).unwrap();
    announce(2, &schema(11, &[("id", "bigint"), ("a", "text")], "a")).unwrap(); // a key that is past stops nothing
    announce(3, &known).unwrap();
    let newer = announce(4, &schema(30, &[("id", "bigint"), ("c", "text")], "id")).unwrap_err();
    assert!(newer.to_string().contains("sends"), "{newer}");
    assert!(
        announce(5, &schema(31, &[("id", "bigint"), ("a", "text")], "a"))
            .unwrap_err()
            .to_string()
            .contains("the key of table")
    );
}
