//! How a run begins: what has to be true before its first record is read.
//!
//! Each run goes through the same stages, on all of its workers, with all of them meeting between two stages: first nobody
//! else may write any more, then what is written is known, then it goes on from there. `commands` lets the workers of a
//! cluster meet; the simulator, which drives the same stages, kills them in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use tidegate::change::{TableFilter, TableName, TableSchema};
use tidegate::config::LandConfig;
use tidegate::letter::DeadLetters;
use tidegate::log::{
    Begin, Companion, EpochReader, ForeignReader, ForeignSettings, Kafka, Layout, OpenWriter, Pace, PartitionStart,
    Places, REPLACED, Reader, ReaderSettings, Run, Schemas, Statement, Writer, begin_run, fence_left_over, go_on_from,
    pass_markers, previous_of, read_to_end, refuse_replaced, times_from, transactional_id,
};
use tidegate::source::{Clock, Mark, Start};
use tidegate::target::{Checkpoint, FindSchema, JobState, Lane, Seqs, Target};

use crate::cluster::pause;
use crate::fit::{refuse_gone, refuse_overstated, refuse_unstated};

/// What does not fit is looked at so often again, each time after twice the pause: 3.2 s together. So long the marker of a
/// transaction may take to a partition, when it has come to another already, or to whoever committed it an answer. Looks are
/// counted, since the clock also runs while this process itself stands still and gives nobody another chance.
const LOOKS_AGAIN: u32 = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(25);

/// The partitions or lanes of worker `index` of `peers`.
pub fn own(number: u32, index: usize, peers: usize) -> bool {
    number as usize % peers == index
}

/// What Kafka says of earlier runs of `publish`.
#[derive(Serialize, Deserialize)]
pub struct Published {
    /// Where the source goes on.
    pub start: Start,
    /// What each partition has.
    pub partitions: BTreeMap<u32, PartitionStart>,
    /// The partitions of which nothing is said yet: before any is written to, they have to be stated.
    pub unstated: Vec<u32>,
    /// How keys are dealt to partitions.
    pub layout: Layout,
    /// The schemas announced so far.
    pub schemas: Vec<TableSchema>,
}

/// A run of `publish`, the same on every worker.
pub struct Publishing {
    /// The cluster.
    pub kafka: Arc<dyn Kafka>,
    /// The data topic.
    pub topic: String,
    /// Its partition count.
    pub partitions: u32,
    /// Whether records and statements are committed in transactions.
    pub exactly_once: bool,
    /// The patterns of the tables that are taken from the source.
    pub tables: Vec<String>,
    /// How many records before its end a partition is looked at first for the times of what will be read again.
    pub look_back: u64,
}

impl Publishing {
    /// First stage, on one worker: announces the run, which `id` tells from all others. Returns it if it has writers of older
    /// runs to fence.
    pub fn announce(&self, id: String, workers: u32) -> anyhow::Result<Option<Run>> {
        let run = begin_run(&*self.kafka, &self.topic, id, workers, &self.tables, self.exactly_once)?;
        if !self.exactly_once {
            return Ok(None);
        }
        // What is committed is not there to read at once; and an older run that fences a writer of this one has to read it then.
        patiently(|| {
            let newest = read_to_end(&*self.kafka, &self.topic)?.run;
            let unread = || {
                anyhow!("topic {}: what this publish has said of itself can't be read yet, or {REPLACED}", self.topic)
            };
            Ok(if newest.as_ref() == Some(&run) { Ok(()) } else { Err(unread()) })
        })?;
        Ok(Some(run))
    }

    /// Second stage, on every worker: opens its writer, which fences the one of an older run.
    pub fn open(&self, index: usize) -> anyhow::Result<OpenWriter> {
        let id = self.exactly_once.then(|| transactional_id(&self.topic, index as u32));
        Ok(OpenWriter::new(&*self.kafka, &self.topic, id.as_deref())?)
    }

    /// Second stage, on the one worker: fences the writers that older runs had more of.
    pub fn fence(&self, run: Option<&Run>) -> anyhow::Result<()> {
        run.map_or(Ok(()), |run| Ok(fence_left_over(&*self.kafka, &self.topic, run)?))
    }

    /// Third stage, on the one worker: nobody else writes any more, so that what the companion topic says stays true.
    pub fn take_stock(&self, run: Option<&Run>) -> anyhow::Result<Published> {
        let (companion, _) = companion(&*self.kafka, &self.topic)?;
        if let Some(run) = run {
            refuse_replaced(&self.topic, companion.run.as_ref(), run)?;
        }
        self.published(companion)
    }

    /// Fourth stage, on every worker: its writer. On the one that reads the source `begun` is where that begins.
    pub fn begin(
        &self,
        open: OpenWriter,
        known: Published,
        begun: Option<&Mark>,
        (index, peers): (usize, usize),
        pace: Pace,
    ) -> anyhow::Result<Writer> {
        let starts = known.partitions.into_iter().filter(|(partition, _)| own(*partition, index, peers)).collect();
        let mut writer = open.begin(starts, known.layout, known.schemas, pace);
        if let Some(begun) = begun.filter(|_| !known.unstated.is_empty()) {
            writer.state_begun(known.unstated.into_iter(), begun)?;
        }
        Ok(writer)
    }

    /// What the companion topic, the only checkpoint, says.
    fn published(&self, companion: Companion) -> anyhow::Result<Published> {
        let Companion { run, statements, schemas, layout } = companion;
        let in_order = run.is_some_and(|run| !run.repeats);
        // A partition that is not stated has no record: this run states it before it writes to any.
        let unstated = (0..self.partitions).filter(|partition| !statements.contains_key(partition)).collect();
        let start_of = |partition| {
            let stated = statements.get(&partition);
            (
                partition,
                stated
                    .map(|s| PartitionStart { seq: s.seq, time: s.time, offset: s.offset, exact: in_order })
                    .unwrap_or_default(),
            )
        };
        let partitions = (0..self.partitions).map(start_of).collect();
        let (start, from) = self.resume(&statements, in_order)?;
        let mut layout = layout.unwrap_or_default();
        match layout.partitions.last() {
            None => layout.partitions.push((0, self.partitions)),
            // What is in the topic stays where it is: only later changes are dealt among all.
            Some((_, before)) if *before < self.partitions => layout.partitions.push((from, self.partitions)),
            Some((_, before)) if *before > self.partitions => bail!(
                "another publish has dealt the changes of topic {} among {before} partitions since this one saw {} of them: run one \
                 copy of a job, with partitions = {before}",
                self.topic,
                self.partitions
            ),
            Some(_) => {}
        }
        let schemas = schemas.into_values().collect();
        Ok(Published { start, partitions, unstated, layout, schemas })
    }

    /// Where the source goes on, where the partition that is behind the others does; and the first seq that is in none.
    fn resume(&self, statements: &BTreeMap<u32, Statement>, in_order: bool) -> anyhow::Result<(Start, u64)> {
        let Some(oldest) = statements.values().min_by_key(|s| (s.resume.seq, s.time)) else {
            return Ok((Start::Configured, 0));
        };
        let from = oldest.resume.seq;
        let begin = if in_order { Begin::LookBack(self.look_back) } else { Begin::AtTime(oldest.time) };
        let given = times_from(&*self.kafka, &self.topic, from, begin)?;
        let floors = statements.values().map(|s| (s.resume.seq, s.time));
        let stated = statements.values().map(|s| s.seq);
        let next = given.values().map(|seq| seq + 1).chain(stated).max().unwrap_or(from);
        let clock = Clock::resuming(oldest.time, given.into_iter().map(|(time, seq)| (seq, time)), floors);
        Ok((Start::Resume { resume: oldest.resume.clone(), clock }, next))
    }
}

/// A run of `land`, the same on every worker.
pub struct Landing {
    /// The cluster.
    pub kafka: Arc<dyn Kafka>,
    /// The data topic.
    pub topic: String,
    /// The target.
    pub target: Arc<dyn Target>,
    /// The job.
    pub job: String,
    /// Its settings.
    pub settings: LandConfig,
    /// How the topic is read, if something else wrote it.
    pub foreign: Option<ForeignSettings>,
    /// Which tables of the topic are wanted.
    pub tables: TableFilter,
    /// Where records go that can't be used.
    pub letters: DeadLetters,
    /// How long a lane waits for the schema of a table, or a column, that it has a row of.
    pub schema_patience: Duration,
}

/// Where a run of `land` goes on.
#[derive(Serialize, Deserialize)]
pub struct Resumed {
    /// What earlier runs did.
    pub state: JobState,
    /// How many partitions of the topic are written to; `None`: as many as there are.
    pub partitions: Option<u32>,
}

/// What a worker of `land` begins with.
pub struct Begun {
    /// The reader of its partitions.
    pub reader: Box<dyn EpochReader>,
    /// The connections of its lanes.
    pub lanes: Vec<Box<dyn Lane>>,
    /// The schemas that its lanes know.
    pub schemas: Arc<Schemas>,
    /// By how many ms a change may come late; `None`: the topic says what is complete.
    pub horizon: Option<u64>,
}

impl Landing {
    /// First stage, on one worker: takes a new generation, so that older runs write no more, and learns what they did.
    pub fn begin(&self) -> anyhow::Result<Resumed> {
        if let Some(settings) = &self.foreign {
            self.kafka.ends(&self.topic)?; // what is not there is said before anything is written
            let mut state = self.target.begin(&self.job, self.settings.lanes, &self.topic)?;
            state.count_half_written();
            self.choose_places(&mut state, settings)?;
            return Ok(Resumed { state, partitions: None });
        }
        let (companion, ends) = companion(&*self.kafka, &self.topic)?;
        self.refuse_keyless(&companion)?;
        let log = match &companion.run {
            Some(run) => format!("{}@{}", self.topic, run.origin),
            None => self.topic.clone(),
        };
        let mut state = self.target.begin(&self.job, self.settings.lanes, &log)?;
        if let Some(checkpoint) = &mut state.checkpoint {
            let before = checkpoint.offsets.clone();
            let previous = |partition, offset| previous_of(&*self.kafka, &self.topic, partition, offset);
            pass_markers(&mut checkpoint.offsets, &ends, &companion, previous)?;
            if checkpoint.offsets != before {
                // Retention may take what says that these were markers.
                self.target.checkpoint(&self.job, state.generation, checkpoint)?;
            }
        }
        Ok(Resumed { state, partitions: companion.partitions() })
    }

    /// Second stage, on every worker: its reader and its lanes.
    pub fn open(&self, resumed: &Resumed, (index, peers): (usize, usize)) -> anyhow::Result<Begun> {
        // What is complete by event time is a guess about all partitions together, so that one worker makes it.
        let readers = if self.foreign.is_some() { 1 } else { peers };
        let Resumed { state, partitions } = resumed;
        let assumed = partitions.is_none();
        let mut partitions = self.partitions(state, *partitions)?;
        let of = partitions.len() as u32;
        partitions.retain(|partition, _| own(*partition, index, readers));
        let schemas = Arc::new(Schemas::default());
        let (known, finding, patience) = (Arc::clone(&schemas), Arc::clone(&schemas), self.schema_patience);
        let find: FindSchema = Arc::new(move |table, column| finding.find(table, column, patience));
        let lanes = (0..self.settings.lanes)
            .filter(|lane| own(*lane, index, peers))
            .map(|lane| self.target.lane(&self.job, lane, state.generation, Arc::clone(&find)))
            .collect::<Result<_, _>>()?;
        let (kafka, epoch) = (Arc::clone(&self.kafka), self.settings.epoch);
        let letters = self.letters.clone();
        let Checkpoint { passed, look_backs: known_before, .. } = state.checkpoint.clone().unwrap_or_default();
        let foreign = self.foreign.clone().map(|settings| settings.going_on_from(&known_before));
        let horizon = foreign.as_ref().map(ForeignSettings::horizon);
        let reader: Box<dyn EpochReader> = match foreign {
            None => {
                // Of all partitions: a key may have moved from one to another.
                let together = state.through.values().map(Seqs::newest).max().unwrap_or(0);
                let lead_bytes = self.settings.memory / 4 / partitions.len().max(1);
                let settings = ReaderSettings { epoch, lead_bytes, of, assumed, together, passed };
                Box::new(Reader::new(kafka, &self.topic, &partitions, &settings, schemas, letters)?)
            }
            Some(settings) => {
                let earlier = (&applied(state, partitions.keys()), &known_before);
                Box::new(ForeignReader::new(kafka, &self.topic, &partitions, settings, earlier, letters)?)
            }
        };
        Ok(Begun { reader, lanes, schemas: known, horizon })
    }

    /// Chooses where to read on in each partition of a topic of others, and keeps that before anything is applied: retention may
    /// move on before the next checkpoint, and a later run has to know what is known of what came before.
    fn choose_places(&self, state: &mut JobState, settings: &ForeignSettings) -> anyhow::Result<()> {
        // Only now nobody else goes on any more, so that what is kept can't lie behind these.
        let ends = self.kafka.ends(&self.topic)?;
        let mut checkpoint = state.checkpoint.take().unwrap_or_default();
        let low = |partition: &u32| ends.get(*partition as usize).map_or(0, |(low, _)| *low);
        if state.lanes.is_empty() {
            // It has applied nothing, so that it may as well begin.
            checkpoint.look_backs.retain(|partition, known| low(partition) <= known.read);
        }
        let durable = checkpoint.look_backs.iter().map(|(partition, known)| (*partition, known.read)).collect();
        refuse_gone(&self.topic, &ends, &self.job, self.settings.start, &durable, "copy the tables anew")?;
        let wanted = settings.horizon();
        let horizon = settings.clone().going_on_from(&checkpoint.look_backs).horizon();
        if horizon > wanted {
            tracing::warn!(
                "[land] out_of_orderness and lateness are {:?} together and count as {:?}, as in an earlier run of job '{}': what came so \
                 late may have been applied, and can't be judged anew; with less, land under another job name",
                Duration::from_millis(wanted),
                Duration::from_millis(horizon),
                self.job
            );
        }
        let numbers: Vec<u32> = (0..ends.len() as u32).collect();
        let Checkpoint { offsets, passed, look_backs, .. } = checkpoint;
        let places = Places { offsets, passed, look_backs };
        let Places { offsets, passed, look_backs } = go_on_from(places, &ends, &applied(state, &numbers), horizon);
        let checkpoint = Checkpoint { offsets, passed, look_backs, ..checkpoint };
        self.target.checkpoint(&self.job, state.generation, &checkpoint)?;
        state.checkpoint = Some(checkpoint);
        Ok(())
    }

    /// Of each partition the offset to begin at and the end that is there now.
    fn partitions(&self, state: &JobState, written: Option<u32>) -> anyhow::Result<BTreeMap<u32, (u64, u64)>> {
        let from = state.checkpoint.clone().unwrap_or_default().offsets;
        let mut ends = self.kafka.ends(&self.topic)?;
        // Of a partition that `publish` does not write to nothing would ever be stated. Once it does, it says so before that.
        ends.truncate(written.map_or(usize::MAX, |written| written as usize));
        if self.foreign.is_none() {
            let anew = "copy the tables anew and publish to a new topic";
            refuse_gone(&self.topic, &ends, &self.job, self.settings.start, &from, anew)?;
        }
        let range = |(partition, (low, end)): (u32, (u64, u64))| {
            (partition, (from.get(&partition).copied().unwrap_or(low), end))
        };
        Ok((0..).zip(ends).map(range).collect())
    }

    /// Refuses wanted tables of which no row could be found again, before any work; warns of patterns that match no table.
    fn refuse_keyless(&self, companion: &Companion) -> anyhow::Result<()> {
        let known = &companion.schemas;
        let unmatched = self.tables.unmatched(known.keys()).join(", ");
        if !known.is_empty() && !unmatched.is_empty() {
            tracing::warn!(
                "[land] tables: topic {} has no table yet that matches {unmatched}; what [land] tables leaves out is passed over \
                 for good",
                self.topic
            );
        }
        let keyless = known.values().filter(|schema| schema.key.is_empty()).map(|schema| &schema.name);
        let wanted = keyless.filter(|name| self.tables.wants(&name.database, &name.table)).map(TableName::to_string);
        let keyless = wanted.collect::<Vec<_>>().join(", ");
        if keyless.is_empty() {
            return Ok(());
        }
        bail!(
            "{}: these tables have neither a primary key nor a NOT NULL unique key, so their rows can't be found again: {keyless}: \
             leave them out in [land] tables, or give them a key and publish them to another topic",
            self.topic
        )
    }
}

/// The newest event time (ms) of what any lane may have written of each partition of a topic of others: there seqs are times.
fn applied<'a>(state: &JobState, partitions: impl IntoIterator<Item = &'a u32>) -> BTreeMap<u32, u64> {
    let newest = |partition: &u32| state.lanes.values().map(|progress| progress.seqs.at(*partition)).max();
    partitions.into_iter().filter_map(|partition| Some((*partition, newest(partition)?))).collect()
}

/// What the companion of a topic says, if the two fit together; and the topic's ends before that.
fn companion(kafka: &dyn Kafka, topic: &str) -> anyhow::Result<(Companion, Vec<(u64, u64)>)> {
    let ends = kafka.ends(topic)?;
    let companion = patiently(|| {
        let companion = read_to_end(kafka, topic)?;
        Ok(refuse_unstated(topic, &ends, &companion).map(|()| companion))
    })?;
    // Of what is said now, however much is said and written meanwhile.
    patiently(|| Ok(refuse_overstated(topic, &kafka.ends(topic)?, &companion)))?;
    Ok((companion, ends))
}

/// What does not fit may lack no more than a marker, so that it is looked at again for a while before it is refused.
pub fn patiently<T>(mut look: impl FnMut() -> anyhow::Result<anyhow::Result<T>>) -> anyhow::Result<T> {
    for again in 0..LOOKS_AGAIN {
        if let Ok(fits) = look()? {
            return Ok(fits);
        }
        pause(FIRST_PAUSE * 2_u32.pow(again));
    }
    look()?
}

/// What another worker was told in JSON.
pub fn heard<T: for<'de> Deserialize<'de>>(said: &str) -> anyhow::Result<T> {
    serde_json::from_str(said).context("what worker 0 said")
}
