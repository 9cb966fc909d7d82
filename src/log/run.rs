//! Runs of `publish`: how a new one makes sure that no older one writes any more.
//!
//! Each writer has a transactional id, and whoever initializes an id fences its former user: what that one has open is
//! aborted, and it can't commit any more. Which ids there are depends on the numbers of workers that runs have had, so
//! every run says in the companion topic how many, before it initializes its own and the left over ones. Two runs that
//! begin at the same time could share out the ids between them; so a run looks, once all ids are initialized and before it
//! writes anything, whether it is still the newest. If it is, whatever begins later fences all of its writers.

use std::time::Duration;

use super::LogError;
use super::kafka::{Kafka, NewRecord};
use super::meta::{Meta, Run, meta_topic, read_to_end};

/// How long the announcement of a run may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a publisher says that has been replaced.
/// Kafka answers the same in both cases.
pub const REPLACED: &str = "a newer publish of this job has begun, or Kafka has ended a transaction of this one that it heard \
    nothing of for too long: run one copy of a job; the only one goes on where it was if it is started again";

/// The transactional id of a writer of a topic: of the topic and not of the job, since that is what has one publisher.
pub fn transactional_id(topic: &str, writer: u32) -> String {
    format!("tidegate.{topic}.{writer}")
}

/// Announces a run of the publisher of `topic`, with so many writers, of those tables of the source. `id` tells it from all
/// others. Its writers may be opened then, and before they write anything the run has to [`fence_left_over`] ones and to
/// [`refuse_replaced`].
///
/// # Errors
/// The cluster does not answer.
pub fn begin_run(kafka: &dyn Kafka, topic: &str, id: String, writers: u32, tables: &[String]) -> Result<Run, LogError> {
    let metas = read_to_end(kafka, topic)?;
    let before = newest(&metas);
    if let Some(before) = before.filter(|before| before.tables != tables) {
        tracing::warn!(
            "topic {topic}: [source] tables was {:?} and is {tables:?} now: of tables that were left out until now, earlier \
             changes are not in the topic; for all of them publish to a new topic",
            before.tables
        );
    }
    let origin = before.map_or(&id, |before| &before.origin).clone();
    let ids = before.map_or(writers, |before| before.ids.max(writers));
    let run = Run { id, writers, ids, tables: tables.to_vec(), origin };
    let (key, value) = Meta::Run(run.clone()).to_record();
    let topic = meta_topic(topic);
    let failed = |said: String| LogError(format!("{topic}: {said}"));
    let mut producer = kafka.producer(None)?;
    let record = NewRecord { topic: &topic, partition: 0, timestamp: None, key: &key, value: &value, headers: None };
    producer.send(record, 0).map_err(failed)?;
    let mut delivered = false;
    let pause = PATIENCE / 100;
    for _ in 0..100 {
        producer.poll(pause, &mut |_| delivered = true).map_err(failed)?;
        if delivered {
            return Ok(run);
        }
    }
    Err(failed(format!("no answer for {} s", PATIENCE.as_secs())))
}

/// Fences the writers that older runs had beyond the number of this one's.
///
/// # Errors
/// The cluster does not answer or grants no transactions.
pub fn fence_left_over(kafka: &dyn Kafka, topic: &str, run: &Run) -> Result<(), LogError> {
    let left_over: Vec<String> = (run.writers..run.ids).map(|writer| transactional_id(topic, writer)).collect();
    kafka.fence(&left_over)
}

/// Refuses to go on if a newer run has begun; `metas` is the companion topic once every writer of this run is open.
///
/// # Errors
/// A newer run has begun.
pub fn refuse_replaced(topic: &str, metas: &[Meta], run: &Run) -> Result<(), LogError> {
    match newest(metas) {
        Some(newest) if newest == run => Ok(()),
        _ => Err(LogError(format!("topic {topic}: {REPLACED}"))),
    }
}

/// What tells a topic from another one of its name, if its companion says it.
pub fn origin_of(metas: &[Meta]) -> Option<String> {
    newest(metas).map(|run| run.origin.clone())
}

fn newest(metas: &[Meta]) -> Option<&Run> {
    metas.iter().rev().find_map(|meta| match meta {
        Meta::Run(run) => Some(run),
        _ => None,
    })
}
