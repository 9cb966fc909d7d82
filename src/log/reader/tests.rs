//! A topic and its companion as a script: what comes, and in which order, is said record by record.

use std::collections::VecDeque;

use rdkafka::message::OwnedHeaders;

use super::*;
use crate::change::{NewChange, Op};
use crate::log::kafka::Producer;
use crate::log::record::headers_of;
use crate::source::Resume;

/// What a topic and its companion bring next.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Topics>>);

#[derive(Default)]
struct Topics {
    records: VecDeque<(u32, u64, OwnedHeaders)>,
    metas: VecDeque<Meta>,
}

impl Script {
    /// A record of a partition at an offset.
    fn record(&self, partition: u32, offset: u64, seq: u64, time: u64) {
        let mut changes = Changes::default();
        changes.push_change(&NewChange {
            op: Op::Insert,
            seq,
            time,
            database: "d",
            table: "t",
            key: b"1",
            position: b"",
            before: b"",
            row: b"{}",
        });
        self.0.lock().unwrap().records.push_back((partition, offset, headers_of(&changes.change(0), None, None)));
    }

    /// That all changes of a partition below `seq` lie below `offset`.
    fn state(&self, partition: u32, seq: u64, time: u64, offset: u64) {
        let resume = Resume { position: String::new(), seq };
        let statement = Statement { partition, time, seq, offset, resume, last: false };
        self.0.lock().unwrap().metas.push_back(Meta::Statement(statement));
    }
}

struct Reading {
    script: Script,
    is_meta: bool,
}

impl Consumer for Reading {
    fn poll(
        &mut self,
        _wait: Duration,
        take: &mut dyn FnMut(Record<'_>) -> Result<(), LogError>,
    ) -> Result<Polled, LogError> {
        let mut topics = self.script.0.lock().unwrap();
        let (partition, offset, headers, (key, value)) = match self.is_meta {
            true => match topics.metas.pop_front() {
                Some(meta) => (0, 0, None, meta.to_record()),
                None => return Ok(Polled::Nothing),
            },
            false => match topics.records.pop_front() {
                Some((partition, offset, headers)) => (partition, offset, Some(headers), (b"1".into(), b"{}".into())),
                None => return Ok(Polled::Nothing),
            },
        };
        let headers = headers.as_ref().map(OwnedHeaders::as_borrowed);
        take(Record { partition, offset, timestamp: None, key: Some(&key), value: Some(&value), headers })?;
        Ok(Polled::Record)
    }

    fn hold(&mut self, _partition: u32, _held: bool) -> Result<(), LogError> {
        Ok(())
    }
}

impl Kafka for Script {
    fn producer(&self, _id: Option<&str>) -> Result<Box<dyn Producer>, LogError> {
        unreachable!("a reader writes nothing")
    }
    fn consumer(&self, topic: &str, _starts: &[(u32, Option<u64>)]) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(Reading { script: self.clone(), is_meta: topic.ends_with(".meta") }))
    }
    fn offsets_at(&self, _topic: &str, _time: u64) -> Result<Vec<u64>, LogError> {
        unreachable!("a reader is told its offsets")
    }
    fn ends(&self, _topic: &str) -> Result<Vec<(u64, u64)>, LogError> {
        unreachable!("a reader is told its ends")
    }
}

/// A reader of one partition from `next` on, where everything up to `together` has one moment.
fn reader(script: &Script, next: u64, together: u64) -> Reader {
    reader_from(script, (next, 0), together)
}

/// The same where all changes below a seq lie before `next`.
fn reader_from(script: &Script, (next, passed): (u64, u64), together: u64) -> Reader {
    let epoch = Duration::from_millis(10);
    let passed = BTreeMap::from([(0, passed)]);
    let settings = ReaderSettings { epoch, lead_bytes: 1 << 20, of: 1, assumed: false, together, passed };
    let partitions = BTreeMap::from([(0, (next, next + 4))]);
    Reader::new(Arc::new(script.clone()), "t", &partitions, &settings, Arc::default(), DeadLetters::default()).unwrap()
}

/// The seqs that a poll brings; none is below the frontier of the poll before, which does not go back.
fn poll(reader: &mut Reader, frontier: &mut Moment) -> Vec<u64> {
    let fetched = reader.poll(Duration::ZERO).unwrap();
    assert!(fetched.batches.iter().all(|(at, _)| at >= frontier), "{:?} below {frontier}", fetched.batches);
    let before = std::mem::replace(frontier, fetched.frontier.unwrap());
    assert!(*frontier >= before, "from {before} to {frontier}");
    fetched.batches.iter().flat_map(|(_, batch)| batch.heads()).map(|head| head.seq).collect()
}

#[test]
fn what_a_statement_has_passed_is_not_taken_when_it_is_there_again() {
    let script = Script::default();
    let (mut reader, mut frontier) = (reader(&script, 8, 0), 0);
    script.state(0, 30, 105, 8);
    assert_eq!(poll(&mut reader, &mut frontier), [] as [u64; 0]);
    assert_eq!(frontier, moment(10, 30));
    // It began behind these, so that only the statement tells.
    script.record(0, 8, 20, 100);
    script.record(0, 9, 29, 109);
    assert_eq!(poll(&mut reader, &mut frontier), [] as [u64; 0]);
    script.record(0, 10, 30, 105);
    script.record(0, 11, 29, 109);
    script.record(0, 12, 31, 119);
    assert_eq!(poll(&mut reader, &mut frontier), [30, 31]);
    assert_eq!(frontier, moment(11, 32));
}

#[test]
fn where_a_run_goes_on_nothing_is_taken_that_lies_before_it_and_is_there_again() {
    let script = Script::default();
    let mut reader = reader_from(&script, (8, 30), 0);
    let mut starts = Vec::new();
    let mut poll = |reader: &mut Reader| {
        let fetched = reader.poll(Duration::ZERO).unwrap();
        starts.extend(fetched.starts.iter().map(|start| (start.at, start.offset, start.passed)));
        fetched.batches.iter().flat_map(|(_, batch)| batch.heads()).map(|head| head.seq).collect::<Vec<u64>>()
    };
    script.record(0, 8, 29, 109);
    assert_eq!(poll(&mut reader), [] as [u64; 0], "no statement says it yet");
    script.record(0, 9, 31, 119);
    script.record(0, 10, 30, 109);
    script.record(0, 11, 33, 125);
    assert_eq!(poll(&mut reader), [31, 33]);
    script.state(0, 40, 131, 12);
    assert_eq!(poll(&mut reader), [] as [u64; 0]);
    let (first, second, stated) = ((moment(11, 0), 9, 31), (moment(12, 0), 11, 33), (moment(13, 40), 12, 40));
    assert_eq!(starts, [(0, 8, 30), first, second, (moment(12, 34), 12, 34), stated]);
}

#[test]
fn what_comes_together_is_not_taken_again_behind_a_statement_that_goes_further() {
    let script = Script::default();
    let (mut reader, mut frontier) = (reader(&script, 8, 25), 0);
    script.state(0, 22, 101, 8);
    script.record(0, 8, 22, 101);
    assert_eq!(poll(&mut reader, &mut frontier), [22]);
    assert_eq!(frontier, 0, "what comes together is not let go in pieces");
    script.state(0, 30, 105, 9);
    assert_eq!(poll(&mut reader, &mut frontier), [] as [u64; 0]);
    assert_eq!(frontier, moment(10, 30));
    script.record(0, 9, 24, 102);
    script.record(0, 10, 30, 105);
    assert_eq!(poll(&mut reader, &mut frontier), [30]);
}

#[test]
fn statements_far_ahead_of_the_records_are_few_and_the_newest_is_kept() {
    let mut partition = Partition::begin((0, 0), 0, 0);
    let statement = |seq, offset| {
        let resume = Resume { position: String::new(), seq };
        Statement { partition: 0, time: seq, seq, offset, resume, last: false }
    };
    for seq in 1..100_000 {
        partition.hear(statement(seq, 7 + seq / 3));
        assert_eq!(partition.statements.back(), Some(&statement(seq, 7 + seq / 3)));
        assert!(partition.statements.len() <= STATEMENTS_MAX);
    }
    assert!(partition.statements.iter().is_sorted_by_key(|statement| statement.offset));
    assert!(partition.statements.len() >= STATEMENTS_MAX / 2);
}
