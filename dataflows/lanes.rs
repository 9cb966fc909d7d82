//! The clients that apply steps to the target for `land`, one for each lane, and what becomes of rows that it refuses.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::RecvTimeoutError;
use tidegate::change::{Change, Changes, Moment, epoch_at};
use tidegate::letter::{DeadLetter, DeadLetters, text_of};
use tidegate::operators::{Delivery, Station};
use tidegate::target::{Lane, Progress, RefusedRow, Step, TargetError};
use timely::scheduling::SyncActivator;

use crate::cluster::{fail, spawn};
use crate::outlet::{WOKEN, take};
use crate::report::{Report, Work};

/// What becomes of rows that the target refuses.
#[derive(Clone, Default)]
pub struct RefusedRows {
    /// Where they are kept, if anywhere.
    pub letters: DeadLetters,
    /// The topic, to name their place.
    pub topic: String,
    /// Whether dates that only MySQL has are kept there too.
    pub zero_dates: bool,
}

impl RefusedRows {
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
pub fn apply(
    mut lane: Box<dyn Lane>,
    mut reached: Progress,
    refused: RefusedRows,
    report: Report,
    waker: SyncActivator,
) -> Station<Moment, Changes, 4> {
    let (inbox, deliveries) = crossbeam_channel::unbounded::<Delivery<Moment, Changes, 4>>();
    let acked = Arc::new(AtomicU64::new(0));
    let ack = Arc::clone(&acked);
    let client = move |wait| {
        let Delivery { ticket, time, batches } = match take(&deliveries, wait * WOKEN) {
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
