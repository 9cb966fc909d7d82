//! The Kafka contract: what `publish` writes and `land` reads.
//!
//! A data topic holds one record a change, for any consumer: the key's text, headers that say what was done to which
//! table, and the row as JSON. One writer per partition writes in seq order, so a partition's own order moves its
//! frontier. Its companion, `<topic>.meta`, compacted, holds *statements* ("of this partition, every change with a lower
//! time or seq has a lower offset") that move an idle partition's frontier and are `publish`'s only checkpoint, and the
//! tables' *schemas*. Records and the statements about them are committed in one transaction, so that a consumer of committed
//! records sees each change once, whatever became of the publisher on the way ([`begin_run`] fences the one before).

mod foreign;
mod kafka;
mod lead;
mod librdkafka;
mod meta;
mod moved;
mod offsets;
mod partitioner;
mod reader;
mod record;
mod run;
mod tail;
mod writer;

pub use foreign::{ForeignReader, ForeignSettings};
pub use kafka::{Consumer, Delivered, Kafka, NewRecord, Polled, Producer, Record};
pub use librdkafka::{Librdkafka, kafka_config};
pub use meta::{Companion, Layout, Meta, MetaKey, Run, Statement, meta_topic, read_to_end};
pub use offsets::{Offsets, Places, go_on_from, pass_markers, previous_of};
pub use partitioner::{murmur2, partition_of};
pub use reader::{EpochReader, Fetched, MomentStart, Reader, ReaderSettings, Schemas};
pub use record::{RecordError, headers_of, parse_record};
pub use run::{REPLACED, begin_run, fence_left_over, refuse_replaced, transactional_id};
pub use tail::{Begin, times_from};
pub use writer::{OpenWriter, Pace, PartitionStart, Writer};

/// What goes wrong at Kafka: one sentence that names topic, partition and offset and says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LogError(pub String);
