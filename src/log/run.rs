//! Runs of `publish`: how a new one makes sure that no older one writes any more.
//!
//! Each writer has a transactional id, and whoever initializes an id fences its former user: what that one has open is
//! aborted, and it can't commit any more. Which ids there are depends on the numbers of workers that runs have had, so
//! every run says in the companion topic how many, before it initializes its own and the left over ones. Two runs that
//! begin at the same time could share out the ids between them; so a run looks, once all ids are initialized and before it
//! writes anything, whether it is still the newest. If it is, whatever begins later fences all of its writers.

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use super::LogError;
use super::client::{PATIENCE, kafka_config, read_to_end};
use super::meta::{Meta, Run, meta_topic};
use crate::config::KafkaConfig;

/// The transactional id of a writer of a job.
pub fn transactional_id(job: &str, writer: u32) -> String {
    format!("tidegate.{job}.{writer}")
}

/// Keeps what became of the one record.
#[derive(Default)]
struct Outcome(std::sync::Mutex<Option<Result<(), KafkaError>>>);

impl ClientContext for Outcome {}

impl ProducerContext for Outcome {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let result = result.as_ref().map(|_| ()).map_err(|(error, _)| error.clone());
        *self.0.lock().expect("no panic while holding it") = Some(result);
    }
}

/// Announces a run with so many writers, of those tables of the source. Its writers may be opened then, and before they write anything the run has to
/// [`fence_left_over`] ones and to [`refuse_replaced`].
///
/// # Errors
/// The cluster does not answer.
pub fn begin_run(config: &KafkaConfig, writers: u32, tables: &[String]) -> Result<Run, LogError> {
    let metas = read_to_end(config)?;
    let before = newest(&metas);
    if let Some(before) = before.filter(|before| before.tables != tables) {
        tracing::warn!(
            "topic {}: [source] tables was {:?} and is {tables:?} now: of tables that were left out until now, earlier \
             changes are not in the topic; for all of them publish to a new topic",
            config.topic,
            before.tables
        );
    }
    let before = before.map_or(0, |run| run.ids);
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let id = format!("{}.{}", started.as_nanos(), std::process::id());
    let run = Run { id, writers, ids: before.max(writers), tables: tables.to_vec() };
    let (key, value) = Meta::Run(run.clone()).to_record();
    let topic = meta_topic(&config.topic);
    let error = |e: KafkaError| LogError(format!("{topic}: {e}"));
    let producer: BaseProducer<Outcome> =
        kafka_config(config).set("linger.ms", "0").create_with_context(Outcome::default()).map_err(error)?;
    let record = BaseRecord::to(&topic).partition(0).key(key.as_slice()).payload(value.as_slice());
    producer.send(record).map_err(|(e, _)| error(e))?;
    producer.flush(PATIENCE).map_err(error)?;
    let outcome = producer.context().0.lock().expect("no panic while holding it").take();
    match outcome {
        Some(Ok(())) => Ok(run),
        Some(Err(e)) => Err(error(e)),
        None => Err(LogError(format!("{topic}: no answer for {} s", PATIENCE.as_secs()))),
    }
}

/// Fences the writers that older runs had beyond the number of this one's.
///
/// # Errors
/// The cluster does not answer or grants no transactions.
pub fn fence_left_over(config: &KafkaConfig, job: &str, run: &Run) -> Result<(), LogError> {
    std::thread::scope(|scope| {
        let fences: Vec<_> = (run.writers..run.ids)
            .map(|writer| scope.spawn(move || fence(config, &transactional_id(job, writer))))
            .collect();
        fences.into_iter().try_for_each(|fence| fence.join().expect("fencing does not panic"))
    })
}

/// Refuses to go on if a newer run has begun; `metas` is the companion topic once every writer of this run is open.
///
/// # Errors
/// A newer run has begun.
pub fn refuse_replaced(config: &KafkaConfig, metas: &[Meta], run: &Run) -> Result<(), LogError> {
    match newest(metas) {
        Some(newest) if newest == run => Ok(()),
        _ => Err(LogError(format!("topic {}: {REPLACED}", config.topic))),
    }
}

fn newest(metas: &[Meta]) -> Option<&Run> {
    metas.iter().rev().find_map(|meta| match meta {
        Meta::Run(run) => Some(run),
        _ => None,
    })
}

fn fence(config: &KafkaConfig, id: &str) -> Result<(), LogError> {
    let producer: BaseProducer = kafka_config(config)
        .set("transactional.id", id)
        .create()
        .map_err(|e| LogError(format!("Kafka settings of the producer: {e}")))?;
    producer.init_transactions(PATIENCE).map_err(|e| transaction_error(config, id, &e))
}

/// Kafka answers the same in both cases.
const REPLACED: &str = "a newer publish of this job has begun, or Kafka has ended a transaction of this one that it heard \
    nothing of for too long: run one copy of a job; the only one goes on where it was if it is started again";

/// What the client says of a transaction that failed, and what to do about it.
pub(super) fn refused_because(reason: &str) -> String {
    let lower = reason.to_ascii_lowercase();
    if ["fenced", "newer", "epoch"].iter().any(|word| lower.contains(word)) {
        REPLACED.into()
    } else {
        format!("the transaction has failed ({reason}): start publish again, it goes on where the last commit was")
    }
}

/// What Kafka says to a writer, and what to do about it.
pub(super) fn refused(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::Fenced
            | RDKafkaErrorCode::ProducerFenced
            | RDKafkaErrorCode::InvalidProducerEpoch
            | RDKafkaErrorCode::InvalidProducerIdMapping,
        ) => REPLACED.into(),
        Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::State) => refused_because(&error.to_string()),
        _ => error.to_string(),
    }
}

pub(super) fn transaction_error(config: &KafkaConfig, id: &str, error: &KafkaError) -> LogError {
    LogError(format!(
        "Kafka at {}: transactions of {id}: {}: with a cluster that has none set delivery = \"at-least-once\" in [publish]",
        config.brokers,
        refused(error)
    ))
}
