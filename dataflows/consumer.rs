//! The client that reads Kafka for `land`: it hands on what no lane has applied yet, and of what is not wanted a mark where a lane
//! may have half written it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tidegate::change::{Change, Changes, Moment, TableFilter};
use tidegate::log::{EpochReader, Fetched, MomentStart, Schemas};
use tidegate::operators::Ingested;
use tidegate::target::Seqs;
use timely::scheduling::SyncActivator;

use crate::cluster::{fail, is_up, spawn};
use crate::outlet::{Handed, Outlet};

/// What is said beside the changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Note {
    /// Where a moment begins, to whoever records checkpoints.
    Start(MomentStart),
    /// Below which moment all has to be durable for what this worker was to read to be, to the same, once.
    End(Moment),
    /// A schema that records have brought, in JSON, to all workers.
    Schema(String),
}

impl Note {
    /// The schema that it is.
    pub fn schema(self) -> Option<String> {
        match self {
            Note::Start(_) | Note::End(_) => None,
            Note::Schema(schema) => Some(schema),
        }
    }
}

/// Takes note of a schema for the lanes of this worker.
pub fn announce(schemas: &Schemas, schema: &str) {
    schemas.announce(serde_json::from_str(schema).expect("another worker wrote it"));
}

/// What the client that reads Kafka needs.
pub struct Consume {
    pub reader: Box<dyn EpochReader>,
    /// What each lane has applied; empty where seqs do not say it.
    pub applied: Vec<Seqs>,
    pub through: BTreeMap<u32, Seqs>,
    pub tables: TableFilter,
    pub waker: SyncActivator,
    pub stop: Arc<AtomicBool>,
    pub sealed: Option<Arc<AtomicBool>>,
    pub read_seq: Arc<AtomicU64>,
    pub caught_up: Arc<Mutex<Moment>>,
    pub lanes: u32,
}

/// Reads Kafka, as a client of its own, and leaves out what the lanes have applied already and what is not wanted; of that it
/// leaves a mark where it may be half written, since only what goes so far repairs that. Stopped, it reads on no more, and
/// does not say that nothing comes: what is open stays open, so that nothing incomplete is applied.
pub fn consume(job: Consume) -> crossbeam_channel::Receiver<Ingested<Moment, Changes, Note>> {
    let Consume { mut reader, applied, through, tables, waker, stop, mut sealed, read_seq, caught_up, lanes } = job;
    let (sender, receiver) = crossbeam_channel::bounded(8);
    let mut outlet = Outlet::new(sender, waker);
    let (mut last, mut learned, mut reached, mut ended) = (Some(0), 0_u64, None::<Moment>, false);
    let mut wanted: HashMap<u64, bool> = HashMap::new();
    let client = move |wait| {
        // There may be no room until a lane goes on, and a lane may wait for a schema that only this client can learn.
        let learns = match outlet.hand_over(wait) {
            // A worker without partitions has lanes all the same.
            Handed::Never if last.is_none() => {
                learned += 1;
                if learned % 64 == 0 && !outlet.is_heard() {
                    return false; // nobody has lanes any more
                }
                true
            }
            Handed::Never => return false,
            Handed::Over => is_up(&stop),
            Handed::Later => true,
        };
        if learns {
            reader.learn(wait).unwrap_or_else(|e| fail(&e));
            return true;
        }
        if let Some(moment) = reached.take() {
            let mut caught_up = caught_up.lock().expect("no panic while holding it");
            *caught_up = moment.min(*caught_up);
        }
        let mut fetched = reader.poll(wait).unwrap_or_else(|e| fail(&e));
        if sealed.as_ref().is_some_and(|sealed| is_up(sealed)) {
            reader.aim_at_end().unwrap_or_else(|e| fail(&e));
            sealed = None;
        }
        match fetched.frontier {
            // Without a partition there is nothing to wait for, and no other poll.
            None => *caught_up.lock().expect("no panic while holding it") = 0,
            // It counts once what this poll has brought is handed over.
            Some(_) => reached = reader.caught_up().filter(|_| sealed.is_none()),
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
        let Fetched { batches, starts, schemas, frontier, settled } = fetched;
        let json = |schema| Note::Schema(serde_json::to_string(&schema).expect("it has names for keys"));
        let mut notes: Vec<Note> = schemas.into_iter().map(json).chain(starts.into_iter().map(Note::Start)).collect();
        if let Some(end) = reached.or(frontier.is_none().then_some(0)).filter(|_| !ended) {
            notes.push(Note::End(end));
            ended = true;
        }
        if !batches.is_empty() || !notes.is_empty() || frontier != last || settled.is_some() {
            last = frontier;
            outlet.put(Ingested { batches, notes, frontier, settled });
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
