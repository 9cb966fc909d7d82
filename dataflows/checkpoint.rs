//! Where a run of `land` goes on, recorded as what is durable moves on.
//!
//! A checkpoint says places by the durable moment. It is written by a client of its own, so that a target that is away holds up
//! nothing; and a run ends when what it made durable has been recorded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use tidegate::change::{Moment, epoch_at};
use tidegate::log::{Offsets, Places};
use tidegate::target::Checkpoint;

use crate::cluster::{now, spawn};
use crate::consumer::Note;
use crate::outlet::{WOKEN, take};

/// A target that is away does not keep a run from stopping: what is not recorded is read again.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);

/// How far recording is.
#[derive(Default)]
pub struct Recorded {
    known: Mutex<Known>,
    /// How many checkpoints were sent to the client, and how many it has recorded, or newer ones for them.
    sent: AtomicU64,
    written: AtomicU64,
    /// How many were sent when the run could have ended, and when that was: there may always be more.
    asked: Mutex<Option<(u64, Duration)>>,
}

/// What is known of the run.
#[derive(Clone, Copy, Default)]
struct Known {
    /// What was durable when it was looked last whether there is something to record.
    durable: Moment,
    /// How many workers have not said yet where their end is, and the furthest of the others'.
    on_their_way: usize,
    end: Moment,
}

impl Recorded {
    /// Whether the end that all workers have read to is recorded as durable; if `stopping`, what is `durable` now, or
    /// that takes too long.
    pub fn has(&self, durable: Moment, stopping: bool) -> bool {
        let known = *self.known.lock().expect("no panic while holding it");
        let is_looked_at = match stopping {
            true => known.durable >= durable,
            false => known.on_their_way == 0 && known.durable >= known.end,
        };
        if !is_looked_at {
            return false;
        }
        let mut asked = self.asked.lock().expect("no panic while holding it");
        let (sent, at) = *asked.get_or_insert_with(|| (self.sent.load(Ordering::Acquire), now()));
        self.written.load(Ordering::Acquire) >= sent || (stopping && now().saturating_sub(at) > RECORD_PATIENCE)
    }
}

/// Writes the newest of the checkpoints that are there, waiting for one. Returns whether there may be more.
fn write_newest(
    receiver: &crossbeam_channel::Receiver<Checkpoint>,
    wait: Duration,
    write: &mut dyn FnMut(Checkpoint),
    recorded: &Recorded,
) -> bool {
    match take(receiver, wait * WOKEN) {
        Ok(checkpoint) => {
            let mut newest = (1, checkpoint);
            receiver.try_iter().for_each(|checkpoint| newest = (newest.0 + 1, checkpoint));
            write(newest.1);
            recorded.written.fetch_add(newest.0, Ordering::AcqRel);
            true
        }
        Err(end) => end == RecvTimeoutError::Timeout,
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
    /// Checkpoints of so many workers go to `write`, in a client of their own.
    pub fn new(workers: usize, mut write: Box<dyn FnMut(Checkpoint) + Send>) -> Recording {
        let (recording, receiver) = Recording::unwritten(workers);
        let done = recording.recorded();
        spawn("checkpoint", Box::new(move |wait| write_newest(&receiver, wait, &mut write, &done)));
        recording
    }

    /// One of which nobody writes what it sends.
    fn unwritten(workers: usize) -> (Recording, crossbeam_channel::Receiver<Checkpoint>) {
        let known = Mutex::new(Known { on_their_way: workers, ..Known::default() });
        let recorded = Arc::new(Recorded { known, ..Recorded::default() });
        let (sender, receiver) = crossbeam_channel::unbounded();
        (Recording { sender, recorded, offsets: Offsets::default(), steps: BTreeMap::new() }, receiver)
    }

    /// How far it is, for others to see.
    pub fn recorded(&self) -> Arc<Recorded> {
        Arc::clone(&self.recorded)
    }

    /// Takes note of where a moment begins, and where a worker has come to its end.
    pub fn note(&mut self, note: Note) {
        match note {
            Note::Start(start) => self.offsets.note(start),
            Note::End(end) => {
                let mut known = self.recorded.known.lock().expect("no panic while holding it");
                (known.on_their_way, known.end) = (known.on_their_way - 1, known.end.max(end));
            }
            Note::Schema(_) => {}
        }
    }

    /// Takes note of what a lane has made durable.
    pub fn made_durable(&mut self, lane: u32, step: u64) {
        self.steps.insert(lane, step);
    }

    /// Records that everything before `durable` is durable, if that is news. `Moment::MAX`: nothing more comes.
    pub fn record(&mut self, durable: Moment) {
        let epoch = epoch_at(durable);
        let places = if epoch == 0 || durable == Moment::MAX { None } else { self.offsets.from(durable) };
        if let Some(Places { offsets, passed, look_backs }) = places.filter(|places| !places.offsets.is_empty()) {
            self.recorded.sent.fetch_add(1, Ordering::AcqRel);
            let (epoch, steps) = (epoch - 1, self.steps.clone());
            let _ = self.sender.send(Checkpoint { epoch, offsets, passed, look_backs, steps });
        }
        self.recorded.known.lock().expect("no panic while holding it").durable = durable;
    }
}

#[cfg(test)]
mod tests {
    use tidegate::change::moment;
    use tidegate::log::MomentStart;

    use super::*;

    #[test]
    fn the_end_is_recorded_once_all_workers_have_come_to_theirs_and_the_last_checkpoint_is_written() {
        let (mut recording, checkpoints) = Recording::unwritten(2);
        let recorded = recording.recorded();
        let start = |at, offset| Note::Start(MomentStart { partition: 1, at, offset, passed: 0, look_back: None });
        let (begun, end) = (moment(7, 0), moment(7, 5));
        recording.note(start(begun, 0));
        recording.note(Note::End(0));
        recording.record(begun);
        assert!(!recorded.has(begun, false), "the other worker has not come to its end");
        recording.note(start(end, 9));
        recording.note(Note::End(end));
        assert!(!recorded.has(end, false), "that is not durable yet");
        recording.record(end);
        assert!(!recorded.has(end, false) && !recorded.has(end, true), "nothing is written");
        let mut written = Vec::new();
        let mut write = |checkpoint: Checkpoint| {
            assert!(!recorded.has(end, false), "it is not written yet");
            written.push(checkpoint.offsets);
        };
        assert!(write_newest(&checkpoints, Duration::ZERO, &mut write, &recorded));
        assert_eq!(written, [BTreeMap::from([(1, 9)])], "the newest of them");
        assert!(recorded.has(end, false));
    }
}
