//! Where a run of `land` goes on, recorded as what is durable moves on.
//!
//! A checkpoint says places by the durable moment. It is written by a client of its own, so that a target that is away holds up
//! nothing; and a run ends when what it made durable has been recorded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use tidegate::change::{Moment, epoch_at};
use tidegate::log::{Offsets, Places};
use tidegate::target::Checkpoint;

use crate::cluster::spawn;
use crate::consumer::Note;
use crate::outlet::{WOKEN, take};

/// A target that is away does not keep a run from stopping: what is not recorded is read again.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);

/// How far recording is.
#[derive(Default)]
pub struct Recorded {
    /// What was durable when it was looked last whether there is something to record, and whether all places were known.
    looked: Mutex<(Moment, bool)>,
    /// How many checkpoints were sent to the client, and how many it has recorded, or newer ones for them.
    sent: AtomicU64,
    written: AtomicU64,
    /// How many were sent when the end was first asked for, and when that was: there may always be more.
    asked: Mutex<Option<(u64, Instant)>>,
}

impl Recorded {
    /// Whether all that is to be said of what lies before `durable` is recorded, or, `stopping`, that takes too long. A run that
    /// is not stopped ends only when all places are known, which it reads on behind.
    pub fn has(&self, durable: Moment, stopping: bool) -> bool {
        let (looked, all_known) = *self.looked.lock().expect("no panic while holding it");
        if looked < durable || !(stopping || all_known) {
            return false;
        }
        let mut asked = self.asked.lock().expect("no panic while holding it");
        let (sent, at) = *asked.get_or_insert_with(|| (self.sent.load(Ordering::Acquire), Instant::now()));
        self.written.load(Ordering::Acquire) >= sent || (stopping && at.elapsed() > RECORD_PATIENCE)
    }
}

/// Records checkpoints, of several the newest.
pub struct Recording {
    sender: crossbeam_channel::Sender<Checkpoint>,
    recorded: Arc<Recorded>,
    offsets: Offsets,
    /// What each lane has made durable.
    steps: BTreeMap<u32, u64>,
}

impl Recording {
    /// Checkpoints go to `write`, in a client of their own.
    pub fn new(mut write: Box<dyn FnMut(Checkpoint) + Send>) -> Recording {
        let recorded = Arc::<Recorded>::default();
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

    /// How far it is, for others to see.
    pub fn recorded(&self) -> Arc<Recorded> {
        Arc::clone(&self.recorded)
    }

    /// Takes note of where a moment begins.
    pub fn note(&mut self, note: Note) {
        if let Note::Start(start) = note {
            self.offsets.note(start);
        }
    }

    /// Takes note of what a lane has made durable.
    pub fn made_durable(&mut self, lane: u32, step: u64) {
        self.steps.insert(lane, step);
    }

    /// Records that everything before `durable` is durable, as far as it is `noted` where that begins, and if it is news.
    /// `Moment::MAX`: nothing more comes.
    pub fn record(&mut self, durable: Moment, noted: Moment) {
        let (durable, all_known) = (durable.min(noted), noted == Moment::MAX);
        let epoch = epoch_at(durable);
        let places = if epoch == 0 || durable == Moment::MAX { None } else { self.offsets.from(durable) };
        if let Some(Places { offsets, look_backs }) = places.filter(|places| !places.offsets.is_empty()) {
            self.recorded.sent.fetch_add(1, Ordering::AcqRel);
            let _ = self.sender.send(Checkpoint { epoch: epoch - 1, offsets, look_backs, steps: self.steps.clone() });
        }
        *self.recorded.looked.lock().expect("no panic while holding it") = (durable, all_known);
    }
}
