//! Targets: what a warehouse has to do for `land`.
//!
//! A target is driven by *lanes*, fixed slices of the key space. One connection, a [`Lane`], applies a lane's steps in
//! order. A [`Step`] is what one or several closed epochs did to the lane's keys, one net change per key, split into
//! inserts, updates and deletes that touch disjoint keys. Because net changes are idempotent and a lane's steps come in
//! order, applying a step twice changes nothing; a lane's [`Progress`] is written last, in the same transaction where
//! the target has transactions.

mod fields;
pub mod postgres;
pub mod protocol;
mod retry;
pub mod sqlite;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::change::{Change, Changes, LookBack, TableName, TableSchema};

pub use self::retry::{Failure, Refused};

/// Of each Kafka partition, by its number, the newest seq: a partition is in the order of seqs, the topic as a whole is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seqs(Vec<u64>);

impl Seqs {
    /// The newest seq of a partition; 0: none.
    pub fn at(&self, partition: u32) -> u64 {
        self.0.get(partition as usize).copied().unwrap_or(0)
    }

    /// Takes note of a seq of a partition.
    pub fn raise(&mut self, partition: u32, seq: u64) {
        let place = partition as usize;
        if place >= self.0.len() {
            self.0.resize(place + 1, 0);
        }
        self.0[place] = self.0[place].max(seq);
    }

    /// Takes note of all seqs of `other`.
    pub fn raise_to(&mut self, other: &Seqs) {
        (0..).zip(&other.0).for_each(|(partition, seq)| self.raise(partition, *seq));
    }

    /// Whether no partition is behind `other`.
    pub fn covers(&self, other: &Seqs) -> bool {
        (0..).zip(&other.0).all(|(partition, seq)| self.at(partition) >= *seq)
    }

    /// The newest seq of any partition; 0: none.
    pub fn newest(&self) -> u64 {
        self.0.iter().copied().max().unwrap_or(0)
    }
}

impl FromIterator<u64> for Seqs {
    fn from_iter<I: IntoIterator<Item = u64>>(seqs: I) -> Self {
        Seqs(seqs.into_iter().collect())
    }
}

/// What a lane has durably applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// How many steps the lane has made.
    pub step: u64,
    /// The newest epoch of which it has applied something.
    pub epoch: u64,
    /// Of each partition every change of the lane up to and including this seq is applied, and no later one. Not one seq
    /// for all: a publisher that died may have committed more to one partition than to another, and what it reads again
    /// then comes in a later epoch than what is there. On topics of others a seq is an event time, and this says no more
    /// than that none of what is applied is newer.
    pub seqs: Seqs,
}

/// Where reading has to begin after a restart: for each partition the offset of the first record that may not be
/// applied, all of `epoch` and before being durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The last epoch that every lane has applied.
    pub epoch: u64,
    /// Kafka partition to offset.
    pub offsets: BTreeMap<u32, u64>,
    /// Kafka partition to the seq below which all of its changes lie before that offset.
    pub passed: BTreeMap<u32, u64>,
    /// What is known there of what came before, in topics of others.
    pub look_backs: BTreeMap<u32, LookBack>,
    /// What the lanes had made durable by then, as steps; not kept, but a target where that is not there has lost it, and the
    /// checkpoint would pass over it.
    #[serde(skip)]
    pub steps: BTreeMap<u32, u64>,
}

/// What a target knows of a job when the job starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState {
    /// This run's number; every write of a run with a lower one is refused from now on.
    pub generation: u64,
    /// Progress of each lane that has any.
    pub lanes: BTreeMap<u32, Progress>,
    /// Lanes whose last step may be half written, and where that step ended: the lane's first step of this run has to
    /// reach at least so far, or a row that is already newer would be written back. Only where the target has no
    /// transactions.
    pub through: BTreeMap<u32, Seqs>,
    /// The newest checkpoint, if there is one.
    pub checkpoint: Option<Checkpoint>,
}

/// How the place in a partition is kept.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Kept {
    /// Older programs kept no more.
    Offset(u64),
    Passed(u64, u64),
    Known(u64, LookBack),
}

impl Checkpoint {
    /// Its places as targets keep them.
    fn kept(&self) -> String {
        let place =
            |(partition, offset): (&u32, &u64)| match (self.look_backs.get(partition), self.passed.get(partition)) {
                (Some(look_back), _) => (*partition, Kept::Known(*offset, *look_back)),
                (None, Some(passed)) => (*partition, Kept::Passed(*offset, *passed)),
                (None, None) => (*partition, Kept::Offset(*offset)),
            };
        let places: BTreeMap<u32, Kept> = self.offsets.iter().map(place).collect();
        serde_json::to_string(&places).expect("numbers only")
    }

    /// The checkpoint that was kept in the target's table of that name.
    fn from_kept(job: &str, table: &str, epoch: u64, kept: &str) -> Result<Checkpoint, TargetError> {
        let places: BTreeMap<u32, Kept> = serde_json::from_str(kept).map_err(|e| {
            TargetError::Target(format!("job '{job}': the offsets in {table} can't be read: {e}: {kept}"))
        })?;
        let mut checkpoint = Checkpoint { epoch, ..Checkpoint::default() };
        for (partition, place) in places {
            let (Kept::Offset(offset) | Kept::Passed(offset, _) | Kept::Known(offset, _)) = place;
            checkpoint.offsets.insert(partition, offset);
            match place {
                Kept::Offset(_) => {}
                Kept::Passed(_, passed) => drop(checkpoint.passed.insert(partition, passed)),
                Kept::Known(_, look_back) => drop(checkpoint.look_backs.insert(partition, look_back)),
            }
        }
        Ok(checkpoint)
    }
}

impl JobState {
    /// Counts what may be half written as reached. For topics of others, where seqs are event times: no step is made of the
    /// same changes again, so that none need be refused; their reader holds everything back that is not newer than what any
    /// lane has written, and for that each step has to go on saying how far that is.
    pub fn count_half_written(&mut self) {
        for (lane, through) in std::mem::take(&mut self.through) {
            self.lanes.entry(lane).or_default().seqs.raise_to(&through);
        }
    }
}

/// What one or several closed epochs did to the keys of one lane: one net change per key, each batch sorted by table and
/// key ([`Change::cmp_by_key`](crate::change::Change::cmp_by_key)).
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// The progress that this step reaches.
    pub progress: Progress,
    /// Keys that were not there and now are.
    pub inserts: Changes,
    /// Keys that were there and now have another row.
    pub updates: Changes,
    /// Keys that are gone.
    pub deletes: Changes,
}

impl Step {
    /// Net changes in it.
    pub fn len(&self) -> usize {
        self.inserts.len() + self.updates.len() + self.deletes.len()
    }

    /// Takes net changes out of it.
    pub fn take(&mut self, mut is_taken: impl FnMut(&Change) -> bool) -> Changes {
        let mut taken = Changes::default();
        for batch in [&mut self.inserts, &mut self.updates, &mut self.deletes] {
            let mut rest = Changes::with_capacity(batch.len(), batch.payload_bytes());
            for (head, payload) in batch.iter() {
                let is_taken = is_taken(&Change::new(head, payload));
                if is_taken { &mut taken } else { &mut rest }.push(*head, payload);
            }
            *batch = rest;
        }
        taken
    }

    /// Whether it changes nothing (its progress still counts).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Finds the source's schema of a table, and of a column that it has to say the type of if one is named. `publish` announces
/// schemas in the companion topic, which `land` reads beside the data: rows may come before them, so that what is not known
/// yet is waited for, a bounded time.
pub type FindSchema = Arc<dyn Fn(&TableName, Option<&str>) -> Option<TableSchema> + Send + Sync>;

/// A system that rows are landed in.
pub trait Target: Send + Sync {
    /// Creates what the job needs to keep its progress, takes a new generation, and returns what is known. Called once
    /// per run, before any lane, by one worker of the cluster. `log` names what the job reads, for good: `topic@origin`, or
    /// `topic` where nothing tells it from another of its name.
    ///
    /// # Errors
    /// Not reachable, wrong password, missing rights: a sentence that says which. A job that was begun with other lanes or
    /// another log.
    fn begin(&self, job: &str, lanes: u32, log: &str) -> Result<JobState, TargetError>;

    /// Opens the connection of one lane, for the run of that generation.
    ///
    /// # Errors
    /// As [`begin`](Target::begin).
    fn lane(&self, job: &str, lane: u32, generation: u64, schemas: FindSchema) -> Result<Box<dyn Lane>, TargetError>;

    /// Records a checkpoint.
    ///
    /// # Errors
    /// [`TargetError::Fenced`] when a newer run of the job has begun; that a step is gone that had been durable.
    fn checkpoint(&self, job: &str, generation: u64, checkpoint: &Checkpoint) -> Result<(), TargetError>;
}

/// One lane's connection. Lives on a thread of its own and may block there.
pub trait Lane: Send {
    /// Applies a step: rows first, progress last; both or neither where the target has transactions. Transient failures
    /// (connection lost, deadlock, read-only, out of resources) are retried inside, with growing pauses.
    ///
    /// # Errors
    /// What retrying does not mend. The target is then as before the step or, without transactions, somewhere between
    /// before and after it, and applying the same step again repairs it.
    fn apply(&mut self, step: &Step) -> Result<(), TargetError>;
}

/// The error for a job that has progress, but not the row that says whose; the target's own tables begin with `prefix`.
fn gone(job: &str, prefix: &str) -> TargetError {
    TargetError::Target(format!(
        "job '{job}' has progress at the target, but someone deleted it from {prefix}generation, and without that its progress \
         can't be kept: put the row back, with a generation that is at least that of its rows in {prefix}progress; or delete it \
         from {prefix}progress and {prefix}checkpoint, too, to land the topic from its beginning"
    ))
}

/// The reason for which a table is refused whose key column takes two keys of the source for one. Keys are dealt to lanes by
/// their text: what two lanes write to one row would come in no order.
fn coarse_key(table: &str, column: &str, ty: &str) -> String {
    format!(
        "the key column {column} of the target's table {table} takes different keys of the source for one, by its type ({ty}) or its \
         collation, so that rows would be lost: give it a type that tells all of them apart, as text does"
    )
}

/// Refuses what a job was not begun with: its progress counts the changes of one log, in so many lanes.
fn refuse_other(job: &str, begun: (u32, &str), now: (u32, &str)) -> Result<(), TargetError> {
    let ((lanes, log), (lanes_now, log_now)) = (begun, now);
    if lanes != lanes_now {
        return Err(TargetError::Target(format!(
            "job '{job}' was begun with lanes = {lanes} and the configuration says lanes = {lanes_now}: lanes are fixed for the \
             life of a job; set lanes = {lanes} back, or begin anew under another job name, with tables of its own"
        )));
    }
    // It may have begun before the first publisher of the topic had said who it is.
    if log == log_now || log_now.strip_prefix(log).is_some_and(|origin| origin.starts_with('@')) {
        return Ok(());
    }
    if log.strip_prefix(log_now).is_some_and(|origin| origin.starts_with('@')) {
        return Err(TargetError::Target(format!(
            "job '{job}': the first publish of topic {log_now} has begun while this land did, and another land knows of it already: \
             start it again"
        )));
    }
    let topic = |log: &str| log.split_once('@').map_or(log, |(topic, _)| topic).to_string();
    let (then, now) = (topic(log), topic(log_now));
    Err(TargetError::Target(match then == now {
        true => format!(
            "job '{job}' has landed another topic {now} than the one that is there: it was made anew, or its companion was; its \
             progress does not count for it: choose another job name and copy the tables anew, or empty them"
        ),
        false => format!(
            "job '{job}' was begun with topic {then} and the configuration says {now}: its progress does not count for another \
             topic; set topic = \"{then}\" back, or choose another job name"
        ),
    }))
}

/// Refuses to go on if a lane has less than has been durable.
fn refuse_lost(job: &str, lane: u32, has: u64, had: u64) -> Result<(), TargetError> {
    if has >= had {
        return Ok(());
    }
    Err(TargetError::Target(format!(
        "job '{job}', lane {lane}: the target has lost what it had said was durable, it is at step {has} and was at {had}: it was \
         restored, or has failed over to a copy that was behind; start the job again, it goes on from what is there"
    )))
}

/// A row that a target can't take.
#[derive(Clone, Debug, thiserror::Error)]
#[error("table {table}, key {key}{}: {reason}", column.as_ref().map(|c| format!(", column {c}")).unwrap_or_default())]
pub struct RefusedRow {
    /// The table.
    pub table: TableName,
    /// The key's text.
    pub key: String,
    /// The column, where one is to blame.
    pub column: Option<String>,
    /// What is wrong and what to do.
    pub reason: String,
    /// Whether it is for a date that only MySQL has: the target's `zero_dates` says what becomes of such.
    pub zero_date: bool,
}

impl From<RefusedRow> for TargetError {
    fn from(row: RefusedRow) -> TargetError {
        TargetError::Rows(vec![row])
    }
}

fn others(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" (and {count} more rows of this step)") }
}

/// What goes wrong at a target: one sentence that names the place and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A newer run of the same job has begun; this one must stop.
    #[error(
        "job '{job}': generation {newer} has begun at the target, this process is generation {ours} and stops; run one copy of a job"
    )]
    Fenced {
        /// The job.
        job: String,
        /// This run's generation.
        ours: u64,
        /// The generation found.
        newer: u64,
    },
    /// Rows that the target can't take, of one step: as many as were looked at.
    #[error("{}{}", .0[0], others(.0.len() - 1))]
    Rows(Vec<RefusedRow>),
    /// A table that can't be landed in.
    #[error("table {table}: {reason}")]
    Table {
        /// The table.
        table: TableName,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The target can't be used at all.
    #[error("{0}")]
    Target(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_every_program_has_kept_them() {
        let kept = r#"{"0":17,"1":[18,5],"3":[9,{"judged_from":1,"read":2,"newest":3,"horizon_max":4}]}"#;
        let checkpoint = Checkpoint::from_kept("j", "t", 6, kept).unwrap();
        let look_back = LookBack { judged_from: 1, read: 2, newest: 3, horizon_max: 4 };
        let expected = Checkpoint {
            epoch: 6,
            offsets: BTreeMap::from([(0, 17), (1, 18), (3, 9)]),
            passed: BTreeMap::from([(1, 5)]),
            look_backs: BTreeMap::from([(3, look_back)]),
            steps: BTreeMap::new(),
        };
        assert_eq!(checkpoint, expected);
        assert_eq!(checkpoint.kept(), kept);
    }
}
