//! publish: source → Kafka.
//!
//! ```text
//! source ─ read (one worker, serial) ─ deal ─ decode (every worker) ─ by partition ─ gate per read ─▶ Kafka
//! ```
//!
//! The timely timestamp is the number of the read. Whatever worker decodes a record, the gate restores the source's order
//! per partition before the partition's one writer gets it. Behind each read comes its mark, to every writer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use tidegate::change::{Change, Changes, NewChange, Op};
use tidegate::letter::{DeadLetter, DeadLetters};
use tidegate::log::{Layout, Writer, partition_of};
use tidegate::operators::{
    BySeq, Deliver, Delivery, ExchangeBy, Gate, Ingested, RoundRobin, Station, Throttle, ingest,
};
use tidegate::source::{Decoder, Mark, Raws, Reader, SourceError};
use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::probe::Handle;
use timely::dataflow::operators::{Concat, Probe};
use timely::scheduling::SyncActivator;
use timely::worker::Worker;

use crate::cluster::{fail, now, spawn};
use crate::outlet::{Handed, Outlet, take};
use crate::report::{Report, Work};

/// How long delivery reports may lie about.
const REPORTS: Duration = Duration::from_millis(1);

/// What one worker needs.
pub struct Publish {
    /// The source, on the one worker that reads it.
    pub reader: Option<Box<dyn Reader>>,
    /// A decoder of its own.
    pub decoder: Box<dyn Decoder>,
    /// The writer of its partitions.
    pub writer: Writer,
    /// How keys are dealt to partitions.
    pub layout: Layout,
    /// Bytes in flight.
    pub memory: usize,
    /// Where records go that can't be used; where they are not kept the job stops at the first.
    pub letters: DeadLetters,
    /// Counts what is in Kafka.
    pub report: Report,
    /// Set to stop in good order.
    pub stop: Arc<AtomicBool>,
    /// How long the end of a transaction is waited for then.
    pub stop_patience: Duration,
}

/// Builds the dataflow on a worker; it is complete when the source has ended and everything is in Kafka.
#[allow(dead_code, reason = "the simulator says how order is restored")]
pub fn publish(worker: &mut Worker, job: Publish) -> Handle<u64> {
    publish_by(worker, job, in_order)
}

/// How changes that many workers have decoded are put in order.
pub type Arrange = for<'scope> fn(Stream<'scope, u64, Changes>) -> Stream<'scope, u64, Changes>;

/// By their numbers, once all of a read are there.
pub fn in_order(changes: Stream<'_, u64, Changes>) -> Stream<'_, u64, Changes> {
    changes.gate_coalescing("Gate", BySeq, 4 << 20)
}

/// [`publish`] with another ordering: the simulator shows what becomes of those that trust times or arrival.
pub fn publish_by(worker: &mut Worker, job: Publish, arrange: Arrange) -> Handle<u64> {
    let Publish { reader, decoder, writer, layout, memory, letters, report, stop, stop_patience } = job;
    worker.dataflow::<u64, _, _>(|scope| {
        let durable = Handle::new();
        let peers = scope.peers() as u32;
        let throttle = Throttle::new(durable.clone(), memory, 4096);
        let source = ingest(scope, "Source", throttle, |waker| read(reader, waker, stop, stop_patience));
        let marks = source.notes.unary::<NoopBuilder<Changes>, _, _, _>(
            timely::dataflow::channels::pact::Pipeline,
            "Marks",
            |_, _| {
                move |input, output| {
                    input.for_each(|cap, marks| {
                        output.session_with_builder(&cap).give_container(&mut punctuations(marks, peers));
                    });
                }
            },
        );
        let mut decode = decode(decoder, layout, letters);
        let decoded = source
            .batches
            .unary::<NoopBuilder<Changes>, _, _, _>(RoundRobin::pact(), "Decode", |_, _| {
                move |input, output| {
                    input.for_each(|cap, raws| output.session_with_builder(&cap).give_container(&mut decode(raws)));
                }
            })
            .concat(marks)
            .by("Partition", |(head, _)| u64::from(head.partition));
        let arranged = [arrange(decoded)];
        arranged.deliver("Kafka", |_, _| 0, |waker| vec![write(writer, report, waker)]).probe_with(&durable);
        durable
    })
}

/// Reads the source, as a client of its own.
fn read(
    reader: Option<Box<dyn Reader>>,
    waker: SyncActivator,
    stop: Arc<AtomicBool>,
    patience: Duration,
) -> crossbeam_channel::Receiver<Ingested<u64, Raws, Mark>> {
    let (sender, receiver) = crossbeam_channel::bounded(8);
    let Some(mut reader) = reader else {
        let nothing = Ingested { batches: Vec::new(), notes: Vec::new(), frontier: None, settled: None };
        sender.send(nothing).expect("there is room for one");
        return receiver;
    };
    let (mut number, mut last, mut stopping) = (0, None, None);
    let mut room = (0, 0);
    let mut outlet = Outlet::new(sender, waker);
    let client = move |wait| match outlet.hand_over(wait) {
        Handed::Later => true,
        Handed::Never => false,
        Handed::Over => {
            // Room for as much as the read before had, so that a large batch does not grow by doubling.
            let mut raws = Raws::with_capacity(room.0, room.1);
            let mut mark = reader.read(&mut raws).unwrap_or_else(|e| fail(&e));
            room = (raws.len(), raws.payload_bytes());
            if stop.load(Ordering::Relaxed) {
                // Between two transactions the next run has nothing to read again; but one may be long, or its source away.
                let asked = *stopping.get_or_insert_with(now);
                mark.end |= mark.resume.seq == mark.seq || now().saturating_sub(asked) >= patience;
            }
            if !raws.is_empty() || last.as_ref() != Some(&mark) {
                last = Some(mark.clone());
                let frontier = (!mark.end).then_some(number + 1);
                let batches = if raws.is_empty() { Vec::new() } else { vec![(number, raws)] };
                outlet.put(Ingested { batches, notes: vec![mark], frontier, settled: None });
                number += 1;
            }
            true
        }
    };
    spawn("source", Box::new(client));
    receiver
}

/// Decodes raw records, and gives each change its partition.
fn decode(mut decoder: Box<dyn Decoder>, layout: Layout, letters: DeadLetters) -> impl FnMut(&mut Raws) -> Changes {
    move |raws| {
        // Room for one change a record; events of a binlog may hold more.
        let mut changes = Changes::with_capacity(raws.len(), raws.payload_bytes());
        let mut unusable = Vec::new();
        for raw in raws.raws() {
            match decoder.decode(&raw, &mut changes) {
                Ok(()) => {}
                Err(SourceError::Record { position, reason }) => {
                    unusable.push(DeadLetter { position, reason, ..DeadLetter::default() });
                }
                Err(SourceError::Rows(rows)) => unusable.extend(rows),
                Err(error) => fail(&error),
            }
            // Where none are kept, the first ends the job: no need to look for more.
            if !unusable.is_empty() && !letters.are_kept() {
                break;
            }
        }
        letters.keep_all(&unusable).unwrap_or_else(|e| fail(&e));
        for index in 0..changes.len() {
            let partition = partition(&changes.change(index), layout.at(changes.head(index).seq));
            changes.heads_mut()[index].partition = partition;
        }
        changes
    }
}

/// By key; a table without a usable key goes whole to one partition, where its order is kept.
fn partition(change: &Change, partitions: u32) -> u32 {
    match change.op() {
        Op::Schema => 0,
        _ if change.key().is_empty() => partition_of(change.table_name().to_string().as_bytes(), partitions),
        _ => partition_of(change.key(), partitions),
    }
}

/// The newest of some marks, once for each worker.
fn punctuations(marks: &[Mark], peers: u32) -> Changes {
    let mut changes = Changes::default();
    let Some(mark) = marks.last() else { return changes };
    let row = serde_json::to_vec(mark).expect("a mark is plain data");
    for worker in 0..peers {
        changes.push_change(&NewChange {
            op: Op::Mark,
            seq: mark.seq,
            time: mark.time,
            database: "",
            table: "",
            key: b"",
            position: b"",
            before: b"",
            row: &row,
        });
        changes.heads_mut()[worker as usize].partition = worker;
    }
    changes
}

/// Writes to Kafka, as a client of its own.
fn write(mut writer: Writer, report: Report, waker: SyncActivator) -> Station<u64, Changes, 1> {
    let (inbox, deliveries) = crossbeam_channel::unbounded::<Delivery<u64, Changes, 1>>();
    let acked = Arc::new(AtomicU64::new(0));
    let ack = Arc::clone(&acked);
    let (mut open, mut told, mut under_way) = (true, 0, VecDeque::new());
    let client = move |wait: Duration| {
        let wait = if writer.is_idle() { wait } else { wait.min(REPORTS) };
        match take(&deliveries, wait) {
            Ok(delivery) => {
                under_way.push_back((delivery.ticket, Work::of(&delivery.batches[0])));
                writer.write(delivery.ticket, &delivery.batches[0]).unwrap_or_else(|e| fail(&e));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => open = false,
        }
        let reached = writer.poll(Duration::ZERO).unwrap_or_else(|e| fail(&e));
        // The end of the source is only acknowledged behind its statements.
        if reached > told && (!writer.has_ended() || writer.is_idle()) {
            told = reached;
            while let Some((_, work)) = under_way.pop_front_if(|(ticket, _)| *ticket <= told) {
                report.add(work);
            }
            ack.store(told, Ordering::Release);
            let _ = waker.activate(); // a worker that is gone needs no waking
        }
        open || !writer.is_idle()
    };
    spawn("kafka", Box::new(client));
    Station { inbox, acked }
}
