//! land: Kafka → target.
//!
//! ```text
//! Kafka ─ consume ─ by lane ─ gate per epoch ─ net ─ insert|update|delete ─▶ target
//!            └───── where epochs begin ──────────────── durable frontier ──▶ checkpoint
//! ```
//!
//! The timely timestamp is the moment: the epoch, and how far it has been read. The frontier behind the sinks says what is
//! durable: the throttle at the source and the checkpoint are read off it. A topic that something else wrote has one stage
//! more: behind the gate, `latest` drops what came late and is older than what has gone by.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::RecvTimeoutError;
use tidegate::change::{Change, Changes, Moment, TableFilter, epoch_at, moment};
use tidegate::config::LandConfig;
use tidegate::letter::{DeadLetter, DeadLetters, text_of};
use tidegate::log::{EpochOffsets, EpochReader, EpochStart, Fetched};
use tidegate::operators::{
    Acked, ByKey, Delivery, ExchangeBy, Gate, Ingested, Latest, Net, SplitByOp, Station, Throttle, ingest,
};
use tidegate::target::{Checkpoint, Lane, Progress, RefusedRow, Seqs, Step, TargetError};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::probe::Handle;
use timely::dataflow::operators::vec::{Broadcast, Map};
use timely::scheduling::SyncActivator;
use timely::worker::Worker;

use crate::cluster::{fail, is_up, spawn};
use crate::outlet::{Handed, Outlet};
use crate::report::{Report, Work};

/// Who is woken by what comes may wait so many times longer than who has to look for it.
const WOKEN: u32 = 20;

/// What one worker needs.
pub struct Land {
    /// The reader of its partitions.
    pub reader: Box<dyn EpochReader>,
    /// Its lanes' connections: lane `l` of worker `l % workers`, in the order of `l`.
    pub lanes: Vec<Box<dyn Lane>>,
    /// What each lane of the job had applied at the start.
    pub applied: BTreeMap<u32, Progress>,
    /// What each lane may have half written.
    pub through: BTreeMap<u32, Seqs>,
    /// By how many ms a record may come late, where the topic has no statements.
    pub horizon: Option<u64>,
    /// Where rows go that the target refuses.
    pub letters: Refused,
    /// Records a checkpoint.
    pub checkpoint: Box<dyn FnMut(Checkpoint) + Send>,
    /// The job's settings.
    pub settings: LandConfig,
    /// Which tables of the topic are wanted.
    pub tables: TableFilter,
    /// Counts what is durable.
    pub report: Report,
    /// Set to stop in good order.
    pub stop: Arc<AtomicBool>,
    /// Set once nothing more is written: then the end to reach is the one that is there, and not the one at the start.
    pub sealed: Option<Arc<AtomicBool>>,
    /// Shows the newest seq read.
    pub read_seq: Arc<AtomicU64>,
}

/// How far a worker's part of the dataflow is.
pub struct Landed {
    /// Passed by what is durable.
    durable: Handle<Moment>,
    /// Passed by what has been given to the target.
    given: Handle<Moment>,
    /// Below this moment all has to be durable for what was there at the start to be; `Moment::MAX`: not known yet.
    caught_up: Arc<Mutex<Moment>>,
}

impl Landed {
    /// Whether there is nothing left to do: `stopping`, once all that the target was given is durable; `until_caught_up`, once
    /// the end is that was there at the start.
    pub fn is_done(&self, until_caught_up: bool, stopping: bool) -> bool {
        let first =
            |handle: &Handle<Moment>| handle.with_frontier(|frontier| frontier.first().copied().unwrap_or(Moment::MAX));
        let (durable, given) = (first(&self.durable), first(&self.given));
        let caught_up = *self.caught_up.lock().expect("no panic while holding it");
        (stopping && durable == given) || (until_caught_up && durable >= caught_up)
    }

    /// Whether all that was there at the start has been read, and is not complete yet: `publish` has to say so.
    pub fn waits_for_publish(&self) -> bool {
        let caught_up = *self.caught_up.lock().expect("no panic while holding it");
        caught_up != Moment::MAX && self.given.less_than(&caught_up)
    }
}

/// Builds the dataflow on a worker.
pub fn land(worker: &mut Worker, job: Land) -> Landed {
    let Land {
        reader,
        lanes,
        applied,
        through,
        horizon,
        letters,
        checkpoint,
        settings,
        tables,
        report,
        stop,
        sealed,
        read_seq,
    } = job;
    let caught_up = Arc::new(Mutex::new(Moment::MAX));
    let (lane_count, peers) = (settings.lanes, worker.peers() as u32);
    let told = Arc::clone(&caught_up);
    let reached: Vec<Progress> = (worker.index() as u32..lane_count)
        .step_by(worker.peers())
        .map(|lane| applied.get(&lane).cloned().unwrap_or_default())
        .collect();
    let begun: Vec<(u32, u64)> =
        (worker.index() as u32..).step_by(worker.peers()).zip(reached.iter().map(|progress| progress.step)).collect();
    worker.dataflow::<Moment, _, _>(|scope| {
        let (durable, given) = (Handle::new(), Handle::new());
        let throttle = Throttle::new(durable.clone(), settings.memory, settings.epochs_in_flight);
        // Where completeness is guessed, numbers do not say what has been applied: the reader sees to it.
        let applied: Vec<Seqs> = match horizon {
            None => (0..lane_count)
                .map(|lane| applied.get(&lane).map(|progress| progress.seqs.clone()).unwrap_or_default())
                .collect(),
            Some(_) => Vec::new(),
        };
        let kafka = ingest(scope, "Kafka", throttle, |waker| {
            consume(Consume {
                reader,
                applied,
                through,
                tables,
                waker,
                stop,
                sealed,
                read_seq,
                caught_up: told,
                lanes: lane_count,
            })
        });
        let gated = kafka
            .batches
            .by("Lane", move |(head, _)| u64::from(head.lane(lane_count)))
            .gate_under_pressure("Gate", ByKey, settings.memory / 4, kafka.pressure.broadcast(), place)
            .probe_with(&given);
        let gated = match horizon {
            None => gated,
            Some(horizon) => gated.latest(horizon, |count| tracing::info!("{count} late changes are superseded")),
        };
        let durable_stream = gated
            .net()
            .split()
            .deliver(
                "Target",
                move |batch: &Changes, index| (batch.head(index).lane(lane_count) / peers) as usize,
                |waker| {
                    let lanes = lanes.into_iter().zip(reached);
                    lanes
                        .map(|(lane, reached)| apply(lane, reached, letters.clone(), report.clone(), waker.clone()))
                        .collect()
                },
            )
            .probe_with(&durable)
            .map(move |Acked { station, ticket }| (begun[station].0, begun[station].1 + ticket));
        let mut record = Recording::new(checkpoint);
        durable_stream.binary_frontier::<_, timely::container::CapacityContainerBuilder<Vec<()>>, _, _, _, _>(
            kafka.notes,
            Exchange::new(|_: &(u32, u64)| 0),
            Exchange::new(|_: &EpochStart| 0),
            "Checkpoint",
            |_, _| {
                move |(steps, frontier), (starts, _), _output| {
                    steps.for_each(|_, batch| record.steps.extend(batch.drain(..)));
                    starts.for_each(|_, batch| batch.drain(..).for_each(|start| record.offsets.note(start)));
                    if let Some(durable) = frontier.frontier().first() {
                        record.record(epoch_at(*durable));
                    }
                }
            },
        );
        Landed { durable, given, caught_up }
    })
}

/// The moment of a change in a batch at that moment. What comes together has one moment.
fn place(at: &Moment, batch: &Changes, index: usize) -> Moment {
    let together = *at == moment(epoch_at(*at), 0);
    if together { *at } else { moment(epoch_at(*at), batch.head(index).seq) }
}

/// What the client that reads Kafka needs.
struct Consume {
    reader: Box<dyn EpochReader>,
    /// What each lane has applied; empty where seqs do not say it.
    applied: Vec<Seqs>,
    through: BTreeMap<u32, Seqs>,
    tables: TableFilter,
    waker: SyncActivator,
    stop: Arc<AtomicBool>,
    sealed: Option<Arc<AtomicBool>>,
    read_seq: Arc<AtomicU64>,
    caught_up: Arc<Mutex<Moment>>,
    lanes: u32,
}

/// Reads Kafka, as a client of its own, and leaves out what the lanes have applied already and what is not wanted; of that it
/// leaves a mark where it may be half written, since only what goes so far repairs that. Stopped, it reads on no more, and
/// does not say that nothing comes: what is open stays open, so that nothing incomplete is applied.
fn consume(job: Consume) -> crossbeam_channel::Receiver<Ingested<Moment, Changes, EpochStart>> {
    let Consume { mut reader, applied, through, tables, waker, stop, mut sealed, read_seq, caught_up, lanes } = job;
    let (sender, receiver) = crossbeam_channel::bounded(8);
    let mut outlet = Outlet::new(sender, waker);
    let mut last = Some(0);
    let mut wanted: HashMap<u64, bool> = HashMap::new();
    let client = move |wait| {
        // There may be no room until a lane goes on, and a lane may wait for a schema that only this client can learn.
        let learns = match outlet.hand_over(wait) {
            Handed::Never => return false,
            Handed::Over => is_up(&stop),
            Handed::Later => true,
        };
        if learns {
            reader.learn(wait).unwrap_or_else(|e| fail(&e));
            return true;
        }
        let mut fetched = reader.poll(wait).unwrap_or_else(|e| fail(&e));
        if sealed.as_ref().is_some_and(|sealed| is_up(sealed)) {
            reader.aim_at_end().unwrap_or_else(|e| fail(&e));
            sealed = None;
        }
        // Without a partition there is nothing to wait for, and no other poll.
        let reached = if fetched.frontier.is_none() { Some(0) } else { reader.caught_up() };
        if let Some(moment) = reached.filter(|_| sealed.is_none() || fetched.frontier.is_none()) {
            let mut caught_up = caught_up.lock().expect("no panic while holding it");
            *caught_up = moment.min(*caught_up);
        }
        for (_, batch) in &mut fetched.batches {
            read_seq.fetch_max(batch.heads().iter().map(|head| head.seq).max().unwrap_or(0), Ordering::AcqRel);
            let mut becomes = |change: &Change| {
                let (head, lane) = (change.head, change.head.lane(lanes));
                if applied.get(lane as usize).is_some_and(|seqs| head.seq <= seqs.at(head.partition)) {
                    return Becomes::Nothing;
                }
                let wants = || tables.wants(change.database(), change.table());
                match *wanted.entry(head.table_hash).or_insert_with(wants) {
                    true => Becomes::Itself,
                    false if through.get(&lane).is_some_and(|seqs| head.seq <= seqs.at(head.partition)) => {
                        Becomes::Mark
                    }
                    false => Becomes::Nothing,
                }
            };
            if !batch.changes().all(|change| becomes(&change) == Becomes::Itself) {
                let mut fresh = Changes::default();
                for (head, payload) in batch.iter() {
                    match becomes(&Change::new(head, payload)) {
                        Becomes::Itself => fresh.push(*head, payload),
                        Becomes::Mark => fresh.push(head.as_mark(), b""),
                        Becomes::Nothing => {}
                    }
                }
                *batch = fresh;
            }
        }
        fetched.batches.retain(|(_, batch)| !batch.is_empty());
        let Fetched { batches, starts, frontier, settled } = fetched;
        if !batches.is_empty() || !starts.is_empty() || frontier != last || settled.is_some() {
            last = frontier;
            outlet.put(Ingested { batches, notes: starts, frontier, settled });
        }
        true
    };
    spawn("consumer", Box::new(client));
    receiver
}

/// What becomes of a change that was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Becomes {
    Itself,
    Mark,
    Nothing,
}

/// What becomes of rows that the target refuses.
#[derive(Clone, Default)]
pub struct Refused {
    /// Where they are kept, if anywhere.
    pub letters: DeadLetters,
    /// The topic, to name their place.
    pub topic: String,
    /// Whether dates that only MySQL has are kept there too.
    pub zero_dates: bool,
}

impl Refused {
    /// Keeps the refused rows aside and takes them out of the step: those that are to be kept, if there are any.
    fn keep(&self, step: &mut Step, error: &TargetError) -> bool {
        let TargetError::Rows(rows) = error else { return false };
        let kept = |row: &&RefusedRow| self.letters.are_kept() && (self.zero_dates || !row.zero_date);
        let mut by_key: HashMap<&str, Vec<&RefusedRow>> = HashMap::new();
        rows.iter().filter(kept).for_each(|row| by_key.entry(&row.key).or_default().push(row));
        let refused = |change: &Change| {
            let rows = by_key.get(&*String::from_utf8_lossy(change.key()))?;
            rows.iter().find(|row| row.table == change.table_name())
        };
        let taken = step.take(|change| refused(change).is_some());
        let letter = |change: Change| {
            let row = refused(&change).expect("it was taken for that");
            DeadLetter {
                position: format!("{}/{}/{}", self.topic, change.head.partition, change.head.offset),
                reason: row.to_string(),
                table: Some(row.table.to_string()),
                key: Some(row.key.clone()),
                op: Some(change.op().name()),
                value: text_of(Some(change.row())),
            }
        };
        self.letters.keep_all(&taken.changes().map(letter).collect::<Vec<_>>()).unwrap_or_else(|e| fail(&e));
        !taken.is_empty()
    }
}

/// Applies a lane's steps, as a client of its own; it has applied what goes up to `reached`.
fn apply(
    mut lane: Box<dyn Lane>,
    mut reached: Progress,
    refused: Refused,
    report: Report,
    waker: SyncActivator,
) -> Station<Moment, Changes, 4> {
    let (inbox, deliveries) = crossbeam_channel::unbounded::<Delivery<Moment, Changes, 4>>();
    let acked = Arc::new(AtomicU64::new(0));
    let ack = Arc::clone(&acked);
    let client = move |wait| {
        let Delivery { ticket, time, batches } = match deliveries.recv_timeout(wait * WOKEN) {
            Ok(delivery) => delivery,
            Err(end) => return end == RecvTimeoutError::Timeout,
        };
        // What is late, or comes together with what is half written, is of no newer epoch than what has been reached.
        (reached.step, reached.epoch) = (reached.step + 1, epoch_at(time).max(reached.epoch));
        batches.iter().flat_map(Changes::heads).for_each(|head| reached.seqs.raise(head.partition, head.seq));
        let [inserts, updates, deletes, _marks] = batches;
        let mut step = Step { progress: reached.clone(), inserts, updates, deletes };
        while let Err(error) = lane.apply(&step) {
            if !refused.keep(&mut step, &error) {
                fail(&error);
            }
        }
        [&step.inserts, &step.updates, &step.deletes].into_iter().for_each(|batch| report.add(Work::of(batch)));
        ack.store(ticket, Ordering::Release);
        let _ = waker.activate(); // a worker that is gone needs no waking
        true
    };
    spawn("lane", Box::new(client));
    Station { inbox, acked }
}

/// Records checkpoints, as a client of its own; of several the newest.
struct Recording {
    sender: crossbeam_channel::Sender<Checkpoint>,
    offsets: EpochOffsets,
    /// What each lane has made durable.
    steps: BTreeMap<u32, u64>,
    recorded: u64,
}

impl Recording {
    fn new(mut write: Box<dyn FnMut(Checkpoint) + Send>) -> Recording {
        let (sender, receiver) = crossbeam_channel::unbounded::<Checkpoint>();
        let client = move |wait| match receiver.recv_timeout(wait * WOKEN) {
            Ok(checkpoint) => {
                write(receiver.try_iter().last().unwrap_or(checkpoint));
                true
            }
            Err(end) => end == RecvTimeoutError::Timeout,
        };
        spawn("checkpoint", Box::new(client));
        Recording { sender, offsets: EpochOffsets::default(), steps: BTreeMap::new(), recorded: 0 }
    }

    /// Records that everything before `epoch` is durable, if that is news.
    fn record(&mut self, epoch: u64) {
        if epoch <= self.recorded {
            return;
        }
        self.recorded = epoch;
        let offsets = self.offsets.from(epoch);
        if !offsets.is_empty() {
            let _ = self.sender.send(Checkpoint { epoch: epoch - 1, offsets, steps: self.steps.clone() });
        }
    }
}
