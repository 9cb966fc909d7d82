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
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use tidegate::change::{Changes, Moment, TableFilter, epoch_at, moment};
use tidegate::config::LandConfig;
use tidegate::log::{EpochReader, Schemas};
use tidegate::operators::{Acked, ByKey, ExchangeBy, Gate, Latest, Net, SplitByOp, Throttle, ingest};
use tidegate::target::{Checkpoint, Lane, Progress, Seqs};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::probe::Handle;
use timely::dataflow::operators::vec::{Broadcast, Map};
use timely::dataflow::operators::{Inspect, Probe};
use timely::progress::frontier::AntichainRef;
use timely::worker::Worker;

use crate::checkpoint::{Recorded, Recording};
use crate::consumer::{Consume, Note, announce, consume};
use crate::lanes::{RefusedRows, apply};
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
    /// When it ends by itself.
    pub until: Until,
    /// Shows the newest seq read.
    pub read_seq: Arc<AtomicU64>,
}

/// When a run ends by itself.
pub enum Until {
    /// Never: when it is stopped.
    Stopped,
    /// Once what was there at the start is durable.
    CaughtUp,
    /// Once what is there when that flag goes up is durable: nothing more is written from then on.
    Sealed(Arc<AtomicBool>),
}

/// How far a worker's part of the dataflow is.
pub struct Landed {
    /// Passed by what is durable.
    durable: Handle<Moment>,
    /// Passed by what has been given to the target.
    given: Handle<Moment>,
    /// Below this moment all has to be durable for what was there at the start to be; `Moment::MAX`: not known yet.
    caught_up: Arc<Mutex<Moment>>,
    until_caught_up: bool,
    /// On the one worker that records.
    recorded: Option<Arc<Recorded>>,
}

impl Landed {
    /// Whether there is nothing left to do: `stopping`, once all that the target was given is durable; of a run that ends when it
    /// has caught up, once the end is that was there at the start; and what is durable has been recorded.
    pub fn is_done(&self, stopping: bool) -> bool {
        let first =
            |handle: &Handle<Moment>| handle.with_frontier(|frontier| frontier.first().copied().unwrap_or(Moment::MAX));
        let (durable, given) = (first(&self.durable), first(&self.given));
        let caught_up = *self.caught_up.lock().expect("no panic while holding it");
        let is_done = (stopping && durable == given) || (self.until_caught_up && durable >= caught_up);
        is_done && self.recorded.as_ref().is_none_or(|recorded| recorded.has(durable, stopping))
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
        until,
        read_seq,
    } = job;
    let (until_caught_up, sealed) = match until {
        Until::Stopped => (false, None),
        Until::CaughtUp => (true, None),
        Until::Sealed(sealed) => (true, Some(sealed)),
    };
    let caught_up = Arc::new(Mutex::new(Moment::MAX));
    let (lane_count, peers) = (settings.lanes, worker.peers() as u32);
    let told = Arc::clone(&caught_up);
    let mut recording = Recording::new(worker.peers(), checkpoint);
    let recorded = (worker.index() == 0).then(|| recording.recorded());
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
        durable_stream.binary_frontier::<_, timely::container::CapacityContainerBuilder<Vec<()>>, _, _, _, _>(
            notes,
            Exchange::new(|_: &(u32, u64)| 0),
            Exchange::new(|_: &Note| 0),
            "Checkpoint",
            |_, _| {
                move |(steps, durable), (notes, noted), _output| {
                    steps.for_each(|_, batch| {
                        batch.drain(..).for_each(|(lane, step)| recording.made_durable(lane, step));
                    });
                    notes.for_each(|_, batch| batch.drain(..).for_each(|note| recording.note(note)));
                    let first = |frontier: AntichainRef<'_, Moment>| frontier.first().copied().unwrap_or(Moment::MAX);
                    let (durable, noted) = (first(durable.frontier()), first(noted.frontier()));
                    // Of what is not noted yet the place is not known.
                    recording.record(durable.min(noted));
                }
            },
        );
        Landed { durable, given, caught_up, until_caught_up, recorded }
    })
}

/// The moment of a change in a batch at that moment. What comes together has one moment.
fn place(at: &Moment, batch: &Changes, index: usize) -> Moment {
    let together = *at == moment(epoch_at(*at), 0);
    if together { *at } else { moment(epoch_at(*at), batch.head(index).seq) }
}
