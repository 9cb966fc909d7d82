//! Of a publisher that is killed, one writer may have committed more than another. What the other had not is published by the
//! next run: so a lane may have applied a change of one partition, and then get one of another with a lower number.

use std::time::Duration;

use crate::job::{Job, guard, landed};
use tidegate::change::{Changes, Column, NewChange, Op, TableName, TableSchema};
use tidegate::config::Config;
use tidegate::log::{Layout, Librdkafka, OpenWriter, Pace, PartitionStart, Writer, partition_of};
use tidegate::source::{Mark, Resume};

const PARTITIONS: u32 = 4;
const BEGIN: u64 = 1_700_000_000_000;

fn schema() -> TableSchema {
    let column = |name: &str| Column { name: name.into(), ty: "bigint".parse().unwrap(), nullable: false };
    TableSchema {
        name: TableName::new("shop", "t"),
        columns: vec![column("id"), column("v")],
        key: vec!["id".into()],
        since_seq: 0,
        partial: false,
    }
}

/// Writers of a topic, one a partition.
struct Topic(Vec<Writer>);

impl Topic {
    fn new(job: &Job) -> Topic {
        let config = Config::load(&job.file("tidegate.toml")).unwrap();
        let topic = &config.kafka().unwrap().topic;
        let kafka = Librdkafka::new(config.kafka().unwrap());
        kafka.ensure_topics().unwrap();
        let writer = |partition: u32| {
            let starts = [(partition, PartitionStart::default())].into();
            let layout = Layout { partitions: vec![(0, PARTITIONS)] };
            let pace = Pace { interval: Duration::ZERO, bytes: usize::MAX };
            OpenWriter::new(&kafka, topic, None).unwrap().begin(starts, layout, Vec::new(), pace)
        };
        Topic((0..PARTITIONS).map(writer).collect())
    }

    /// Writes a row, if there is one, to a partition, and states of it that all before `seq` and before `time` is there.
    fn write(&mut self, ticket: u64, partition: u32, row: Option<(i64, u64, u64)>, (seq, time): (u64, u64)) {
        let mut batch = Changes::default();
        let mut push = |op, seq, time, table: &str, key: &str, row: &str| {
            batch.push_change(&NewChange {
                op,
                seq,
                time: BEGIN + time,
                database: if table.is_empty() { "" } else { "shop" },
                table,
                key: key.as_bytes(),
                position: b"test",
                before: b"",
                row: row.as_bytes(),
            });
            let last = batch.len() - 1;
            batch.heads_mut()[last].partition = partition;
        };
        if let Some((id, seq, time)) = row {
            push(Op::Schema, seq, time, "t", "", &serde_json::to_string(&schema()).unwrap());
            push(Op::Insert, seq, time, "t", &id.to_string(), &format!("{{\"id\":{id},\"v\":{seq}}}"));
        }
        let mark = Mark { seq, time: BEGIN + time, resume: Resume { position: "test".into(), seq }, end: false };
        push(Op::Mark, seq, time, "", "", &serde_json::to_string(&mark).unwrap());
        let writer = &mut self.0[partition as usize];
        writer.write(ticket, &batch).unwrap();
        while writer.poll(Duration::from_millis(1)).unwrap() < ticket {}
        while {
            writer.poll(Duration::from_millis(1)).unwrap(); // states it
            !writer.is_idle()
        } {}
    }
}

#[test]
fn a_change_of_another_partition_with_a_lower_number_is_not_taken_for_applied() {
    let mut job = Job::new("replay", "kind = \"jsonl\"\npath = \"none\"");
    job.configure("lanes = 1");
    guard(&mut job);
    let id_in = |partition| (0..).find(|id: &i64| partition_of(id.to_string().as_bytes(), PARTITIONS) == partition);
    let (first, second) = (id_in(0).unwrap(), id_in(1).unwrap());
    let mut topic = Topic::new(&job);
    // The writer of partition 0 had committed number 45; that of partition 1 nothing from number 40 on.
    topic.write(1, 0, Some((first, 45, 800)), (46, 1_000));
    (1..PARTITIONS).for_each(|partition| topic.write(1, partition, None, (40, 1_000)));
    job.run("land");
    assert_eq!(landed(&mut job), [(first, 45)].into());
    // The next run of publish brings it, with the time that had been stated.
    topic.write(2, 1, Some((second, 40, 1_000)), (46, 2_000));
    [0, 2, 3].into_iter().for_each(|partition| topic.write(2, partition, None, (46, 2_000)));
    job.run("land");
    assert_eq!(landed(&mut job), [(first, 45), (second, 40)].into());
    // And nothing is applied again.
    job.run("land");
    assert_eq!(landed(&mut job).len(), 2);
}
