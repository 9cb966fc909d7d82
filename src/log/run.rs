//! Runs of `publish`: how a new one makes sure that no older one writes any more.
//!
//! Each writer has a transactional id, and whoever initializes an id fences its former user: what that one has open is
//! aborted, and it can't commit any more. Which ids there are depends on the numbers of workers that runs have had, so
//! every run says in the companion topic how many, before it initializes its own and the left over ones. To say so is a
//! transaction too, under an id that every run takes first: of two runs that begin at the same time the older can't say
//! anything any more, and the newer has read what the older said, having fenced whatever could hide it. Two such runs could still
//! share out the writers' ids between them; so a run takes the first when what it has said can be read, and looks, once all
//! ids are initialized and before it writes anything, whether it is still the newest. If it is, whatever begins later fences
//! all of its writers. What it has said may stay hidden behind a writer that an older run, still beginning, has opened after
//! all were fenced, and left: then it ends, and the next run, which fences that one, goes on.
//!
//! Without transactions nobody is fenced but who is seen to have some, and the runs say who they are all the same: of two runs that
//! begin at the same time, one with and one without, both may write.

use std::fmt::Display;
use std::ops::Range;

use super::LogError;
use super::kafka::{Kafka, NewRecord, PATIENCE};
use super::meta::{Meta, Run, meta_topic, read_to_end};

/// What a publisher says that has been replaced, or whose transaction Kafka has ended: it answers the same in both cases.
pub const REPLACED: &str = "a newer publish of this topic has begun, or the topic was deleted, or Kafka has ended a transaction \
    of this publish that it heard nothing of for too long: run one publish for a topic; if this was the only one, start it again: it \
    goes on where it was, or says what is missing";

/// The transactional id of a writer of a topic, by its number, or of who announces runs: of the topic and not of the job,
/// since that is what has one publisher.
pub fn transactional_id(topic: &str, who: impl Display) -> String {
    format!("tidegate.{topic}.{who}")
}

/// Announces a run of the publisher of `topic`, with so many writers, of those tables of the source. `id` tells it from all
/// others. With `transactions` its writers may be opened once that can be read, and before they write anything the run has to
/// [`fence_left_over`] ones and to [`refuse_replaced`].
///
/// # Errors
/// The cluster does not answer or grants no transactions; a newer run begins at the same time.
pub fn begin_run(
    kafka: &dyn Kafka,
    topic: &str,
    id: String,
    writers: u32,
    tables: &[String],
    transactions: bool,
) -> Result<Run, LogError> {
    let announcing = transactions.then(|| transactional_id(topic, "run"));
    let mut producer = kafka.producer(announcing.as_deref())?;
    let mut before = read_to_end(kafka, topic)?.run;
    // Nothing is read behind a transaction that is still open: what a run said that has begun since may hide there, until
    // the writers that are known are fenced; also by a run without transactions, from which it would hide as much.
    let (mut fenced, known) = (0, |before: &Option<Run>| before.as_ref().map_or(0, |before| before.ids));
    while known(&before) > fenced {
        let fencing = kafka.fence(&writer_ids(topic, fenced..known(&before)));
        if transactions {
            fencing?
        } else {
            warn_of_open(topic, fencing)
        }
        fenced = known(&before);
        before = read_to_end(kafka, topic)?.run;
    }
    if let Some(before) = before.as_ref().filter(|before| before.tables != tables) {
        tracing::warn!(
            "topic {topic}: [source] tables was {:?} and is {tables:?} now: of tables that were left out until now, earlier \
             changes are not in the topic; of those that are left out from now on, what comes will not be, even if they are taken \
             in again",
            before.tables
        );
    }
    let ids = before.as_ref().map_or(0, |before| before.ids).max(if transactions { writers } else { 0 });
    let repeats = !transactions || before.as_ref().is_some_and(|before| before.repeats);
    let origin = before.map_or_else(|| id.clone(), |before| before.origin);
    let run = Run { id, writers, ids, repeats, tables: tables.to_vec(), origin };
    let (key, value) = Meta::Run(run.clone()).to_record();
    let meta = meta_topic(topic);
    let failed = |said: String| LogError(format!("{meta}: {said}"));
    if transactions {
        producer.begin().map_err(failed)?;
    }
    let record = NewRecord { topic: &meta, partition: 0, timestamp: None, key: &key, value: &value, headers: None };
    producer.send(record, 0).map_err(failed)?;
    let mut delivered = false;
    for _ in 0..1000 {
        producer.poll(PATIENCE / 1000, &mut |_| delivered = true).map_err(failed)?;
        if delivered {
            return match transactions {
                true => producer.commit().map_err(failed).map(|()| run),
                false => uncover(kafka, topic, run),
            };
        }
    }
    Err(failed(format!("no answer for {} s", PATIENCE.as_secs())))
}

/// That a run without transactions is seen, though one with them may have been killed while it announced itself: what that has
/// left open would hide everything for a minute.
fn uncover(kafka: &dyn Kafka, topic: &str, run: Run) -> Result<Run, LogError> {
    if read_to_end(kafka, topic)?.run.as_ref() != Some(&run) {
        warn_of_open(topic, kafka.fence(&[transactional_id(topic, "run")]));
    }
    Ok(run)
}

/// A run without transactions may be one because none are granted any more.
fn warn_of_open(topic: &str, fencing: Result<(), LogError>) {
    if let Err(error) = fencing {
        tracing::warn!(
            "topic {topic}: {error}; what an earlier run may have left open hides what comes behind it until Kafka ends it, after a minute"
        );
    }
}

/// Fences the writers that older runs had beyond the number of this one's.
///
/// # Errors
/// The cluster does not answer or grants no transactions.
pub fn fence_left_over(kafka: &dyn Kafka, topic: &str, run: &Run) -> Result<(), LogError> {
    kafka.fence(&writer_ids(topic, run.writers..run.ids))
}

fn writer_ids(topic: &str, writers: Range<u32>) -> Vec<String> {
    writers.map(|writer| transactional_id(topic, writer)).collect()
}

/// Refuses to go on if a newer run than `run` has begun; `newest` is what the companion topic says once every writer of this
/// run is open.
///
/// # Errors
/// A newer run has begun.
pub fn refuse_replaced(topic: &str, newest: Option<&Run>, run: &Run) -> Result<(), LogError> {
    match newest {
        Some(newest) if newest == run => Ok(()),
        _ => Err(LogError(format!("topic {topic}: {REPLACED}"))),
    }
}
