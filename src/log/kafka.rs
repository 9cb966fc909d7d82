//! What the contract asks of a Kafka cluster, and nothing more: so the protocol around it can be driven against another one.
//!
//! [`Librdkafka`](super::Librdkafka) is the cluster that there is; the simulator in `tests/` is the other, which crashes,
//! delays and fences as it is told. Everything that decides about order and exactly-once stands above this trait, in
//! `writer`, `reader`, `foreign` and `run`, and is the same code over both.

use std::time::{Duration, Instant};

use rdkafka::message::{BorrowedHeaders, OwnedHeaders};

use super::LogError;

/// How long a cluster may take to answer before it counts as unreachable.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// A Kafka cluster.
pub trait Kafka: Send + Sync {
    /// A producer. With a transactional id it writes in transactions, and whoever used that id before is fenced: what that
    /// one has open is aborted, and it can't commit any more.
    ///
    /// # Errors
    /// Settings that the client does not take; a cluster that does not answer or grants no transactions.
    fn producer(&self, transactional_id: Option<&str>) -> Result<Box<dyn Producer>, LogError>;

    /// Fences whoever uses those transactional ids.
    ///
    /// # Errors
    /// As [`producer`](Kafka::producer).
    fn fence(&self, transactional_ids: &[String]) -> Result<(), LogError> {
        transactional_ids.iter().try_for_each(|id| self.producer(Some(id)).map(drop))
    }

    /// A consumer of committed records that reads these partitions of a topic from these offsets on, or from the oldest
    /// record kept.
    ///
    /// # Errors
    /// Settings that the client does not take.
    fn consumer(&self, topic: &str, starts: &[(u32, Option<u64>)]) -> Result<Box<dyn Consumer>, LogError>;

    /// Of every partition of a topic the offset of the first record with that timestamp (ms) or a later one, or its end.
    ///
    /// # Errors
    /// As [`ends`](Kafka::ends).
    fn offsets_at(&self, topic: &str, time: u64) -> Result<Vec<u64>, LogError>;

    /// First kept offset and end offset of every partition of a topic.
    ///
    /// # Errors
    /// The cluster does not answer, or the topic is not there, nor soon after: not every broker knows at once of one that is made.
    fn ends(&self, topic: &str) -> Result<Vec<(u64, u64)>, LogError>;
}

/// A record to be written.
#[derive(Debug)]
pub struct NewRecord<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: u32,
    /// Its timestamp in ms; `None`: now.
    pub timestamp: Option<u64>,
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The headers.
    pub headers: Option<OwnedHeaders>,
}

/// Records that are in Kafka, though perhaps not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The ticket that they were sent with.
    pub ticket: u64,
    /// Their partition.
    pub partition: u32,
    /// The offset behind the last of them.
    pub end: u64,
    /// How many.
    pub records: usize,
}

/// Writes records; those of one partition arrive in the order in which they are sent, each once. What goes wrong is said
/// in a few words; the caller knows the place.
pub trait Producer: Send {
    /// Sends a record, waiting for room in the client. Its delivery is reported with the ticket.
    ///
    /// # Errors
    /// Why it can't be sent.
    fn send(&mut self, record: NewRecord<'_>, ticket: u64) -> Result<(), String>;

    /// Reports deliveries. With a `wait` what would linger for company is sent at once, and if anything is on its way, it waits so
    /// long, in whole milliseconds.
    ///
    /// # Errors
    /// A record that could not be delivered; a fenced or failed transaction.
    fn poll(&mut self, wait: Duration, delivered: &mut dyn FnMut(Delivered)) -> Result<(), String>;

    /// Begins a transaction: what is sent from now on is seen when it is committed, or never.
    ///
    /// # Errors
    /// A fenced or failed producer.
    fn begin(&mut self) -> Result<(), String>;

    /// Commits. Every record has to have been delivered.
    ///
    /// # Errors
    /// A fenced or failed transaction; whether it is committed is then not known.
    fn commit(&mut self) -> Result<(), String>;
}

/// A record that was read.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// When it was written (ms), as Kafka has it.
    pub timestamp: Option<u64>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Option<&'a BorrowedHeaders>,
}

/// What a poll came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// A record, which was handed over.
    Record,
    /// The end of a partition, as it is now.
    End(u32),
    /// Nothing for now.
    Nothing,
}

/// Reads partitions of one topic, each in the order of offsets.
pub trait Consumer: Send {
    /// Hands the next record to `take`, waiting at most `wait` for it.
    ///
    /// # Errors
    /// An offset that retention has passed, a topic that is gone or refused; what `take` fails with.
    fn poll(
        &mut self,
        wait: Duration,
        take: &mut dyn FnMut(Record<'_>) -> Result<(), LogError>,
    ) -> Result<Polled, LogError>;

    /// Holds a partition back, or lets it go on where it was.
    ///
    /// # Errors
    /// The client does not take it.
    fn hold(&mut self, partition: u32, held: bool) -> Result<(), LogError>;
}

/// Waits for the next record, which is handed to `take`, or the end of a partition, through everything that passes by itself.
///
/// # Errors
/// No answer from `place` for as long as a cluster may take; as [`Consumer::poll`].
pub(super) fn next(
    consumer: &mut dyn Consumer,
    place: &str,
    take: &mut dyn FnMut(Record<'_>) -> Result<(), LogError>,
) -> Result<Polled, LogError> {
    let asked = Instant::now();
    loop {
        // In pieces: only between them a client that asks nobody any more is helped.
        match consumer.poll(PATIENCE / 15, take)? {
            Polled::Nothing if asked.elapsed() < PATIENCE => {}
            Polled::Nothing => return Err(LogError(format!("{place}: no answer for {} s", PATIENCE.as_secs()))),
            polled => return Ok(polled),
        }
    }
}
