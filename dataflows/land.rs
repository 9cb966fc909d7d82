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

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use tidegate::change::{Changes, Moment, TableFilter, epoch_at, moment};
use tidegate::config::LandConfig;
use tidegate::log::{EpochReader, Offsets, Places, Schemas};
use tidegate::operators::{Acked, ByKey, ExchangeBy, Gate, Latest, Net, SplitByOp, Throttle, ingest};
use tidegate::target::{Checkpoint, Lane, Progress, Seqs};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::probe::Handle;
use timely::dataflow::operators::vec::{Broadcast, Map};
use timely::dataflow::operators::{Inspect, Probe};
use timely::progress::frontier::AntichainRef;
use timely::worker::Worker;

use crate::cluster::spawn;
use crate::consumer::{Consume, Note, announce, consume};
use crate::lanes::{RefusedRows, apply};
use crate::outlet::{WOKEN, take};
use crate::report::Report;

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
    /// What its lanes know of tables.
    pub schemas: Arc<Schemas>,
    /// By how many ms a record may come late, where the topic has no statements.
    pub horizon: Option<u64>,
    /// Where rows go that the target refuses.
    pub letters: RefusedRows,
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
    recorded: Arc<Recorded>,
}

impl Landed {
    /// Whether there is nothing left to do: `stopping`, once all that the target was given is durable; `until_caught_up`, once
    /// the end is that was there at the start; and what is durable has been recorded.
    pub fn is_done(&self, until_caught_up: bool, stopping: bool) -> bool {
        let first =
            |handle: &Handle<Moment>| handle.with_frontier(|frontier| frontier.first().copied().unwrap_or(Moment::MAX));
        let (durable, given) = (first(&self.durable), first(&self.given));
        let caught_up = *self.caught_up.lock().expect("no panic while holding it");
        let is_done = (stopping && durable == given) || (until_caught_up && durable >= caught_up);
        is_done && self.recorded.has(durable, stopping)
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
        schemas,
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
    let recorded = Arc::<Recorded>::default();
    let shown = Arc::clone(&recorded);
    let reached: Vec<Progress> = (worker.index() as u32..lane_count)
        .step_by(worker.peers())
        .map(|lane| applied.get(&lane).cloned().unwrap_or_default())
        .collect();
    let lanes_begun: Vec<(u32, u64)> =
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
        let notes = kafka.notes;
        // What records say of their tables is read by one worker, and all have lanes.
        notes.clone().flat_map(Note::schema).broadcast().inspect(move |schema| announce(&schemas, schema));
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
            .map(move |Acked { station, ticket }| (lanes_begun[station].0, lanes_begun[station].1 + ticket));
        let mut record = Recording::new(checkpoint, Arc::clone(&recorded));
        durable_stream.binary_frontier::<_, timely::container::CapacityContainerBuilder<Vec<()>>, _, _, _, _>(
            notes,
            Exchange::new(|_: &(u32, u64)| 0),
            Exchange::new(|_: &Note| 0),
            "Checkpoint",
            |_, _| {
                move |(steps, durable), (notes, noted), _output| {
                    steps.for_each(|_, batch| record.steps.extend(batch.drain(..)));
                    notes.for_each(|_, batch| batch.drain(..).for_each(|note| record.note(note)));
                    let first = |frontier: AntichainRef<'_, Moment>| frontier.first().copied().unwrap_or(Moment::MAX);
                    let (durable, noted) = (first(durable.frontier()), first(noted.frontier()));
                    // Of what is not noted yet the place is not known.
                    let durable = durable.min(noted);
                    record.record(durable);
                    *shown.looked.lock().expect("no panic while holding it") = durable;
                }
            },
        );
        Landed { durable, given, caught_up, recorded }
    })
}

/// The moment of a change in a batch at that moment. What comes together has one moment.
fn place(at: &Moment, batch: &Changes, index: usize) -> Moment {
    let together = *at == moment(epoch_at(*at), 0);
    if together { *at } else { moment(epoch_at(*at), batch.head(index).seq) }
}

/// A target that is away does not keep a run from stopping: what is not recorded is read again.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);

/// How far recording is.
#[derive(Default)]
struct Recorded {
    /// What was durable when it was looked last whether there is something to record.
    looked: Mutex<Moment>,
    /// How many checkpoints were given to the client, and how many it has recorded, or newer ones for them.
    given: AtomicU64,
    written: AtomicU64,
    /// How many were given when the end was first asked for, and when that was: there may always be more.
    asked: Mutex<Option<(u64, Instant)>>,
}

impl Recorded {
    /// Whether all that is to be said of what lies before `durable` is recorded, or, `stopping`, that takes too long.
    fn has(&self, durable: Moment, stopping: bool) -> bool {
        if *self.looked.lock().expect("no panic while holding it") < durable {
            return false;
        }
        let mut asked = self.asked.lock().expect("no panic while holding it");
        let (given, at) = *asked.get_or_insert_with(|| (self.given.load(Ordering::Acquire), Instant::now()));
        self.written.load(Ordering::Acquire) >= given || (stopping && at.elapsed() > RECORD_PATIENCE)
    }
}

/// Records checkpoints, as a client of its own; of several the newest.
struct Recording {
    sender: crossbeam_channel::Sender<Checkpoint>,
    recorded: Arc<Recorded>,
    offsets: Offsets,
    /// What each lane has made durable.
    steps: BTreeMap<u32, u64>,
}

impl Recording {
    fn new(mut write: Box<dyn FnMut(Checkpoint) + Send>, recorded: Arc<Recorded>) -> Recording {
        let (sender, receiver) = crossbeam_channel::unbounded::<Checkpoint>();
        let done = Arc::clone(&recorded);
        let client = move |wait| match take(&receiver, wait * WOKEN) {
            Ok(checkpoint) => {
                let mut newest = (1, checkpoint);
                receiver.try_iter().for_each(|checkpoint| newest = (newest.0 + 1, checkpoint));
                write(newest.1);
                done.written.fetch_add(newest.0, Ordering::AcqRel);
                true
            }
            Err(end) => end == RecvTimeoutError::Timeout,
        };
        spawn("checkpoint", Box::new(client));
        Recording { sender, recorded, offsets: Offsets::default(), steps: BTreeMap::new() }
    }

    fn note(&mut self, note: Note) {
        if let Note::Start(start) = note {
            self.offsets.note(start);
        }
    }

    /// Records that everything before `durable` is durable, if that is news. `Moment::MAX`: nothing more comes.
    fn record(&mut self, durable: Moment) {
        let (epoch, steps) = (epoch_at(durable), &self.steps);
        let places = if epoch == 0 || durable == Moment::MAX { None } else { self.offsets.from(durable) };
        if let Some(Places { offsets, look_backs }) = places.filter(|places| !places.offsets.is_empty()) {
            self.recorded.given.fetch_add(1, Ordering::AcqRel);
            let _ = self.sender.send(Checkpoint { epoch: epoch - 1, offsets, look_backs, steps: steps.clone() });
        }
    }
}
