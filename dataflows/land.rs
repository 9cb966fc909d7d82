//! land: Kafka → target.
//!
//! ```text
//! Kafka ─ consume ─ by lane ─ gate per epoch ─ net ─ insert|update|delete ─▶ target
//!            └───── where epochs begin ──────────────── durable frontier ──▶ checkpoint
//! ```
//!
//! The timely timestamp is the epoch. The frontier behind the sinks says what is durable: the throttle at the source and
//! the checkpoint are read off it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tidegate::change::{Change, Changes};
use tidegate::config::LandConfig;
use tidegate::log::{EpochOffsets, EpochStart, Reader};
use tidegate::operators::{ByKey, Delivery, ExchangeBy, Gate, Ingested, Net, SplitByOp, Station, Throttle, ingest};
use tidegate::source::TableFilter;
use tidegate::target::{Checkpoint, Lane, Progress, Step};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::probe::Handle;
use timely::scheduling::SyncActivator;
use timely::worker::Worker;

use crate::cluster::{fail, is_up};

/// What one worker needs.
pub struct Land {
    /// The reader of its partitions.
    pub reader: Reader,
    /// Its lanes' connections: lane `l` of worker `l % workers`, in the order of `l`.
    pub lanes: Vec<Box<dyn Lane>>,
    /// What each lane of the job had applied at the start.
    pub applied: BTreeMap<u32, Progress>,
    /// Records a checkpoint.
    pub checkpoint: Box<dyn FnMut(Checkpoint) + Send>,
    /// The job's settings.
    pub settings: LandConfig,
    /// Which tables of the topic are wanted.
    pub tables: TableFilter,
    /// Set to stop in good order.
    pub stop: Arc<AtomicBool>,
    /// Set once nothing more is written: then the end to reach is the one that is there, and not the one at the start.
    pub sealed: Option<Arc<AtomicBool>>,
    /// Shows the newest seq read.
    pub read_seq: Arc<AtomicU64>,
}

/// How far a worker's part of the dataflow is.
pub struct Landing {
    /// Passed by what is durable.
    pub durable: Handle<u64>,
    /// Passed by what is closed.
    pub read: Handle<u64>,
    /// The first epoch that need not be durable for all that was there at the start to be; `u64::MAX`: not known yet.
    pub caught_up: Arc<AtomicU64>,
}

/// Builds the dataflow on a worker.
pub fn land(worker: &mut Worker, job: Land) -> Landing {
    let Land { reader, lanes, applied, checkpoint, settings, tables, stop, sealed, read_seq } = job;
    let caught_up = Arc::new(AtomicU64::new(u64::MAX));
    let (lane_count, peers) = (settings.lanes, worker.peers() as u32);
    let told = Arc::clone(&caught_up);
    worker.dataflow::<u64, _, _>(|scope| {
        let (durable, read) = (Handle::new(), Handle::new());
        let throttle = Throttle::new(durable.clone(), settings.memory, settings.epochs_in_flight);
        let applied = move |lane: u32| applied.get(&lane).map_or(0, |progress| progress.seq);
        let kafka = ingest(scope, "Kafka", throttle, |waker| {
            consume(
                Consume { reader, tables, waker, stop, sealed, read_seq, caught_up: told, lanes: lane_count },
                applied,
            )
        });
        let durable_stream = kafka
            .batches
            .by("Lane", move |(head, _)| u64::from(head.lane(lane_count)))
            .probe_with(&read)
            .gate_coalescing("Gate", ByKey, settings.memory / 4)
            .net()
            .split()
            .deliver(
                "Target",
                move |batch: &Changes, index| (batch.head(index).lane(lane_count) / peers) as usize,
                |waker| lanes.into_iter().map(|lane| apply(lane, waker.clone())).collect(),
            )
            .probe_with(&durable);
        let mut record = record(checkpoint);
        durable_stream.binary_frontier::<_, timely::container::CapacityContainerBuilder<Vec<()>>, _, _, _, _>(
            kafka.notes,
            Pipeline,
            Exchange::new(|_: &EpochStart| 0),
            "Checkpoint",
            |_, _| {
                move |(done, frontier), (starts, _), _output| {
                    done.for_each(|_, _| {});
                    starts.for_each(|_, batch| record(None, batch));
                    record(frontier.frontier().first().copied(), &mut Vec::new());
                }
            },
        );
        Landing { durable, read, caught_up }
    })
}

/// What the thread that reads Kafka needs.
struct Consume {
    reader: Reader,
    tables: TableFilter,
    waker: SyncActivator,
    stop: Arc<AtomicBool>,
    sealed: Option<Arc<AtomicBool>>,
    read_seq: Arc<AtomicU64>,
    caught_up: Arc<AtomicU64>,
    lanes: u32,
}

/// Reads Kafka on a thread of its own, and leaves out what the lanes have applied already and what is not wanted.
fn consume(
    job: Consume,
    applied: impl Fn(u32) -> u64 + Send + 'static,
) -> crossbeam_channel::Receiver<Ingested<u64, Changes, EpochStart>> {
    let Consume { mut reader, tables, waker, stop, mut sealed, read_seq, caught_up, lanes } = job;
    let (sender, receiver) = crossbeam_channel::bounded(8);
    std::thread::spawn(move || {
        let mut last = Some(0);
        let mut wanted: HashMap<u64, bool> = HashMap::new();
        while !is_up(&stop) {
            let mut fetched = reader.poll(Duration::from_millis(5)).unwrap_or_else(|e| fail(&e));
            if sealed.as_ref().is_some_and(|sealed| is_up(sealed)) {
                reader.aim_at_end().unwrap_or_else(|e| fail(&e));
                sealed = None;
            }
            if sealed.is_none()
                && let Some(epoch) = reader.caught_up()
            {
                caught_up.fetch_min(epoch, Ordering::AcqRel);
            }
            for (_, batch) in &mut fetched.batches {
                read_seq.fetch_max(batch.heads().iter().map(|head| head.seq).max().unwrap_or(0), Ordering::AcqRel);
                let mut stays = |change: &Change| {
                    let head = change.head;
                    let wants = || tables.wants(change.database(), change.table());
                    head.seq > applied(head.lane(lanes)) && *wanted.entry(head.table_hash).or_insert_with(wants)
                };
                if !batch.changes().all(|change| stays(&change)) {
                    let mut fresh = Changes::default();
                    for (head, payload) in batch.iter().filter(|(head, payload)| stays(&Change::new(head, payload))) {
                        fresh.push(*head, payload);
                    }
                    *batch = fresh;
                }
            }
            fetched.batches.retain(|(_, batch)| !batch.is_empty());
            if fetched.batches.is_empty() && fetched.starts.is_empty() && fetched.frontier == last {
                continue;
            }
            last = fetched.frontier;
            let handed = Ingested { batches: fetched.batches, notes: fetched.starts, frontier: fetched.frontier };
            if sender.send(handed).is_err() || waker.activate().is_err() {
                return;
            }
        }
        // Held back, not ended: what is open stays open, so that nothing incomplete is applied.
        while waker.activate().is_ok() && is_up(&stop) {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    receiver
}

/// Applies a lane's steps on a thread of its own.
fn apply(mut lane: Box<dyn Lane>, waker: SyncActivator) -> Station<u64, Changes, 3> {
    let (inbox, deliveries) = crossbeam_channel::unbounded::<Delivery<u64, Changes, 3>>();
    let acked = Arc::new(AtomicU64::new(0));
    let ack = Arc::clone(&acked);
    std::thread::spawn(move || {
        for Delivery { ticket, time, batches } in deliveries {
            let seq = batches.iter().flat_map(|batch| batch.heads()).map(|head| head.seq).max().unwrap_or(0);
            let [inserts, updates, deletes] = batches;
            let step = Step { progress: Progress { epoch: time, seq }, inserts, updates, deletes };
            lane.apply(&step).unwrap_or_else(|e| fail(&e));
            ack.store(ticket, Ordering::Release);
            let _ = waker.activate(); // a worker that is gone needs no waking
        }
    });
    Station { inbox, acked }
}

/// Records a checkpoint whenever the durable frontier has moved, on a thread of its own; of several the newest.
fn record(mut write: Box<dyn FnMut(Checkpoint) + Send>) -> impl FnMut(Option<u64>, &mut Vec<EpochStart>) {
    let (sender, receiver) = crossbeam_channel::unbounded::<Checkpoint>();
    std::thread::spawn(move || {
        while let Ok(checkpoint) = receiver.recv() {
            write(receiver.try_iter().last().unwrap_or(checkpoint));
        }
    });
    let mut offsets = EpochOffsets::default();
    let mut recorded = 0;
    move |frontier, starts| {
        starts.drain(..).for_each(|start| offsets.note(start));
        if let Some(epoch) = frontier.filter(|epoch| *epoch > recorded) {
            recorded = epoch;
            let offsets = offsets.from(epoch);
            if !offsets.is_empty() {
                let _ = sender.send(Checkpoint { epoch: epoch - 1, offsets });
            }
        }
    }
}
