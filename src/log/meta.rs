//! The companion topic: statements and schemas, keyed so that compaction keeps the newest of each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::LogError;
use super::kafka::{Kafka, Polled, next};
use crate::change::{TableName, TableSchema};
use crate::source::Resume;

/// How often what has been added meanwhile is read, too.
const ROUNDS_MAX: u32 = 10;

/// The name of a topic's companion.
pub fn meta_topic(topic: &str) -> String {
    format!("{topic}.meta")
}

/// How far a partition is complete: every change of it with a lower time or seq has a lower offset. Statements only grow;
/// repeating one is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The partition.
    pub partition: u32,
    /// Changes with a lower commit time (ms) are there.
    pub time: u64,
    /// Changes with a lower seq are there.
    pub seq: u64,
    /// They have lower offsets than this.
    pub offset: u64,
    /// From where the source has to be read again to get everything from `seq` on.
    pub resume: Resume,
    /// Whether the publisher stopped here in good order, between two transactions: until it starts again nothing comes, so
    /// that a consumer need not wait for what would close the epoch.
    #[serde(default, rename = "final", skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
}

/// A run of `publish`. Where there are transactions, the newest one's writers are the only ones that may still write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Tells the run from every other one.
    pub id: String,
    /// How many writers it has, each with a transactional id of its own.
    pub writers: u32,
    /// How many such ids this run or any before it had; 0 if none had transactions.
    pub ids: u32,
    /// Whether this run or any before it wrote without transactions: then changes may be in the topic again.
    #[serde(default)]
    pub repeats: bool,
    /// The patterns of the tables that it takes from the source.
    #[serde(default)]
    pub tables: Vec<String>,
    /// The id of the topic's first run: tells the topic from another one of its name.
    #[serde(default)]
    pub origin: String,
}

/// How many partitions a topic has had, and from which seq on: a key's partition depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Seqs from which on there were so many partitions, both growing.
    pub partitions: Vec<(u64, u32)>,
}

impl Layout {
    /// The number of partitions that a seq's key was dealt among.
    pub fn at(&self, seq: u64) -> u32 {
        let since = self.partitions.iter().rev().find(|(since, _)| *since <= seq);
        since.expect("a layout begins with seq 0").1
    }
}

/// A record of the companion topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meta {
    /// Who writes.
    Run(Run),
    /// How far a partition is complete.
    Statement(Statement),
    /// What a table looks like from a seq on.
    Schema(TableSchema),
    /// How many partitions are written to.
    Layout(Layout),
}

/// What a companion topic says: of everything the newest, as compaction keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Companion {
    /// Who writes.
    pub run: Option<Run>,
    /// How many partitions there are.
    pub layout: Option<Layout>,
    /// How far each partition is complete.
    pub statements: BTreeMap<u32, Statement>,
    /// What tables look like.
    pub schemas: BTreeMap<TableName, TableSchema>,
}

impl Companion {
    /// Takes note of the next record.
    pub fn take(&mut self, meta: Meta) {
        match meta {
            Meta::Run(run) => self.run = Some(run),
            Meta::Layout(layout) => self.layout = Some(layout),
            Meta::Statement(statement) => drop(self.statements.insert(statement.partition, statement)),
            Meta::Schema(schema) => drop(self.schemas.insert(schema.name.clone(), schema)),
        }
    }

    /// How many partitions are written to; `None`: nothing says so yet. The topic may have more, which somebody else added.
    pub fn partitions(&self) -> Option<u32> {
        let dealt = self.layout.as_ref().and_then(|layout| layout.partitions.last());
        dealt.map(|(_, partitions)| *partitions)
    }
}

/// What compaction keeps one record of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetaKey {
    /// The run that writes.
    Run,
    /// The statement of a partition.
    Statement(u32),
    /// The schema of a table.
    Schema(TableName),
    /// The layout.
    Layout,
}

impl Meta {
    /// Key and value of the record.
    pub fn to_record(&self) -> (Vec<u8>, Vec<u8>) {
        let (key, value) = match self {
            Meta::Run(run) => (MetaKey::Run, serde_json::to_vec(run)),
            Meta::Statement(statement) => (MetaKey::Statement(statement.partition), serde_json::to_vec(statement)),
            Meta::Schema(schema) => (MetaKey::Schema(schema.name.clone()), serde_json::to_vec(schema)),
            Meta::Layout(layout) => (MetaKey::Layout, serde_json::to_vec(layout)),
        };
        (serde_json::to_vec(&key).expect("keys are plain data"), value.expect("values are plain data"))
    }

    /// Reads a record of the companion topic.
    ///
    /// # Errors
    /// What is wrong with it; the caller knows where it stands.
    pub fn from_record(key: &[u8], value: &[u8]) -> Result<Meta, String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(80).collect::<String>();
        let key: MetaKey = serde_json::from_slice(key)
            .map_err(|e| format!("'{}' is no key of a companion topic ({e}): is this topic another's?", text(key)))?;
        let meta = match key {
            MetaKey::Run => serde_json::from_slice(value).map(Meta::Run),
            MetaKey::Statement(_) => serde_json::from_slice(value).map(Meta::Statement),
            MetaKey::Schema(_) => serde_json::from_slice(value).map(Meta::Schema),
            MetaKey::Layout => serde_json::from_slice(value).map(Meta::Layout),
        };
        meta.map_err(|e| format!("'{}' is no value of a companion topic ({e}): is this topic another's?", text(value)))
    }
}

/// What the companion of `topic` says now. What a publisher at work adds meanwhile is read too, as far as that comes to an
/// end: compaction may take away what it replaces.
///
/// # Errors
/// The cluster does not answer, or a record is none of a companion topic's.
pub fn read_to_end(kafka: &dyn Kafka, topic: &str) -> Result<Companion, LogError> {
    let topic = meta_topic(topic);
    let ends = kafka.ends(&topic)?;
    let [(low, high)] = ends[..] else {
        return Err(LogError(format!("topic {topic} has {} partitions, a companion topic has one", ends.len())));
    };
    let (mut high, mut rounds) = (high, 0);
    let mut companion = Companion::default();
    if low == high {
        return Ok(companion);
    }
    let mut consumer = kafka.consumer(&topic, &[(0, None)])?;
    let place = format!("{topic}/0");
    loop {
        let mut read = 0;
        let polled = next(&mut *consumer, &place, &mut |record| {
            let meta = Meta::from_record(record.key.unwrap_or_default(), record.value.unwrap_or_default())
                .map_err(|e| LogError(format!("{place}/{}: {e}", record.offset)))?;
            companion.take(meta);
            read = record.offset + 1;
            Ok(())
        })?;
        match polled {
            Polled::Record if read < high => {}
            // A publisher at work goes on writing: its end of partition may never come.
            Polled::Record if rounds < ROUNDS_MAX => {
                rounds += 1;
                high = high.max(kafka.ends(&topic)?.first().map_or(0, |(_, end)| *end));
                if read >= high {
                    return Ok(companion);
                }
            }
            // Transaction markers leave gaps, so that the last offset may hold no record.
            _ => return Ok(companion),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Column;

    #[test]
    fn statements_and_schemas_come_back_as_they_were_written() {
        let statement = Meta::Statement(Statement {
            partition: 3,
            time: 1_700_000_000_000,
            seq: 42,
            offset: 7,
            resume: Resume { position: "binlog.000001:4".into(), seq: 40 },
            last: true,
        });
        let schema = Meta::Schema(TableSchema {
            name: TableName::new("shop", "orders"),
            columns: vec![Column { name: "id".into(), ty: "bigint unsigned".parse().unwrap(), nullable: false }],
            key: vec!["id".into()],
            since_seq: 9,
            partial: false,
        });
        let tables = vec!["shop.*".into()];
        let run = Meta::Run(Run { id: "a".into(), writers: 2, ids: 4, repeats: true, tables, origin: "o".into() });
        let layout = Meta::Layout(Layout { partitions: vec![(0, 4), (77, 6)] });
        for meta in [statement, schema, run, layout] {
            let (key, value) = meta.to_record();
            assert_eq!(Meta::from_record(&key, &value).unwrap(), meta);
        }
    }

    #[test]
    fn a_record_of_something_else_is_refused_in_words() {
        let error = Meta::from_record(b"{\"id\":1}", b"{}").unwrap_err();
        assert!(error.contains("is this topic another's"), "{error}");
        let key = serde_json::to_vec(&MetaKey::Statement(1)).unwrap();
        assert!(Meta::from_record(&key, b"{\"partition\":1}").unwrap_err().contains("no value"));
    }
}
