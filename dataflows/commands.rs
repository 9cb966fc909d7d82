//! The commands: from a configuration to a running dataflow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use tidegate::change::TableSchema;
use tidegate::change::epoch_of;
use tidegate::config::{Config, Delivery, KafkaConfig, TargetConfig, ZeroDates};
use tidegate::letter::DeadLetters;
use tidegate::log::{
    EpochReader, ForeignReader, ForeignSettings, Meta, OpenWriter, Reader, Schemas, begin_run, ensure_topics,
    fence_left_over, partition_ends, partitions_of, read_to_end, refuse_replaced, transactional_id,
};
use tidegate::source::{Start, TableFilter};
use tidegate::target::{FindSchema, JobState, Target};
use tidegate::verify::Outcome;
use timely::worker::Worker;

use crate::cluster::{
    fail, fail_on_panics, fail_on_signals, is_up, meet, run_until, stop_on_signals, tell_all, workers,
};
use crate::fit::{refuse_gone, refuse_overstated, refuse_unstated};
use crate::land::{Land, Refused, land as build_land};
use crate::publish::{Publish, Published, publish as build_publish, published};
use crate::report::{Report, say};
use crate::{Job, VerifyJob, connect, verify};

/// How long a topic that does not exist is waited for.
const TOPIC_PATIENCE: Duration = Duration::from_secs(5);

/// How long a lane waits for the schema of a table that it has a row of.
const SCHEMA_PATIENCE: Duration = Duration::from_secs(30);

/// The same on a topic that something else wrote: its envelope says the schema with the row, or never.
const FOREIGN_PATIENCE: Duration = Duration::from_millis(100);

fn load(path: &Path) -> anyhow::Result<Config> {
    let config = Config::load(path)?;
    tidegate::wire::select(config.cluster.codec);
    Ok(config)
}

/// Runs `build` on every worker of this process, unless `stop` goes up before the cluster is there; what goes wrong ends the
/// process.
fn execute(
    job: &Job,
    stop: &AtomicBool,
    build: impl Fn(&mut Worker) -> anyhow::Result<()> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    fail_on_panics(&job.cluster);
    let Some(workers) = workers(&job.cluster, &|| is_up(stop))? else { return Ok(()) };
    let guards = workers
        .execute(move |worker| {
            build(worker).unwrap_or_else(|e| fail(&format_args!("{e:#}")));
        })
        .map_err(|e| anyhow!("the cluster can't start: {e}"))?;
    for result in guards.join() {
        result.map_err(|e| anyhow!("a worker ended: {e}"))?;
    }
    Ok(())
}

/// The partitions of worker `index` of `peers`.
fn own(partition: u32, index: usize, peers: usize) -> bool {
    partition as usize % peers == index
}

/// `tidegate publish`.
pub fn publish(job: &Job) -> anyhow::Result<()> {
    let config = load(&job.config)?;
    let kafka = config.kafka()?.clone();
    config.source()?;
    let partitions = ensure_topics(&kafka)?;
    let stop = stop_on_signals()?;
    let until_end = job.until_caught_up;
    let exactly_once = config.publish.delivery == Delivery::ExactlyOnce;
    let report = Report::default();
    report.start("publish", "in Kafka");
    let shown = report.clone();
    let stopped = Arc::clone(&stop);
    execute(job, &stopped, move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        // First nobody else may write any more; then what is written is known; then this run begins.
        let source = config.source()?;
        let run = (index == 0 && exactly_once).then(|| begin_run(&kafka, peers as u32, source.tables())).transpose()?;
        tell_all(worker, (index == 0).then(String::new));
        let id = exactly_once.then(|| transactional_id(&config.job, index as u32));
        let open = OpenWriter::new(&kafka, id.as_deref())?;
        run.iter().try_for_each(|run| fence_left_over(&kafka, &config.job, run))?;
        meet(worker);
        let said = match index {
            0 => {
                let metas = read_to_end(&kafka)?;
                let ends = partition_ends(&kafka, &kafka.topic)?;
                refuse_unstated(&kafka, &ends, &metas)?;
                refuse_overstated(&kafka, &ends, &metas)?;
                run.iter().try_for_each(|run| refuse_replaced(&kafka, &metas, run))?;
                Some(serde_json::to_string(&published(&kafka, metas)?)?)
            }
            _ => None,
        };
        let known: Published = serde_json::from_str(&tell_all(worker, said)).context("what worker 0 said")?;
        let start = if index == 0 { Some(&known.start) } else { None };
        let reader = start.map(|start: &Start| connect::reader(source, &config.job, start, until_end)).transpose()?;
        if let Some(reader) = &reader {
            let how = if exactly_once { "exactly once" } else { "at least once" };
            let (topic, from) = (&kafka.topic, reader.begun().resume.position);
            say(&format_args!("publish: reads from {from}, writes topic {topic}, {partitions} partitions, {how}"));
        }
        let starts = known.partitions.into_iter().filter(|(partition, _)| own(*partition, index, peers)).collect();
        let mut writer = open.begin(starts, known.schemas, config.publish.commit_interval);
        if let Some(reader) = reader.as_ref().filter(|_| known.start == Start::Configured) {
            writer.state_begun(0..partitions, &reader.begun())?;
        }
        meet(worker);
        let durable = build_publish(
            worker,
            Publish {
                reader,
                decoder: connect::decoder(source)?,
                writer,
                partitions,
                memory: config.publish.memory,
                letters: DeadLetters::new(config.publish.dead_letter.clone()),
                report: shown.clone(),
                stop: Arc::clone(&stop),
            },
        );
        run_until(worker, &stop, || durable.done());
        Ok(())
    })?;
    report.end("publish", "in Kafka");
    Ok(())
}

/// Refuses wanted tables of which no row could be found again, before any work; warns of patterns that match no table.
fn refuse_keyless(kafka: &KafkaConfig, tables: &TableFilter, metas: Vec<Meta>) -> anyhow::Result<()> {
    let mut keyless = BTreeSet::new();
    let mut known = BTreeSet::new();
    for meta in metas {
        let Meta::Schema(TableSchema { name, key, .. }) = meta else { continue };
        match key.is_empty() && tables.wants(&name.database, &name.table) {
            true => keyless.insert(name.to_string()),
            false => keyless.remove(&name.to_string()),
        };
        known.insert(name);
    }
    let unmatched = tables.unmatched(known.iter()).join(", ");
    if !known.is_empty() && !unmatched.is_empty() {
        tracing::warn!(
            "[land] tables: topic {} has no table yet that matches {unmatched}; what [land] tables leaves out is passed over \
             for good",
            kafka.topic
        );
    }
    if keyless.is_empty() {
        return Ok(());
    }
    let keyless = keyless.into_iter().collect::<Vec<_>>().join(", ");
    bail!(
        "{}: these tables have neither a primary key nor a NOT NULL unique key, so their rows can't be found again: {keyless}: \
         leave them out in [land] tables, or give them a key and publish them to another topic",
        kafka.topic
    )
}

/// `tidegate land`.
pub fn land(job: &Job) -> anyhow::Result<()> {
    let config = load(&job.config)?;
    let kafka = config.kafka()?.clone();
    let target: Arc<dyn Target> = connect::target(config.target()?)?;
    // Whoever starts both jobs at once starts this one before publish has made the topic.
    let asked = Instant::now();
    while partitions_of(&kafka, &kafka.topic)?.is_none() && asked.elapsed() < TOPIC_PATIENCE {
        std::thread::sleep(Duration::from_millis(200));
    }
    let ends = partition_ends(&kafka, &kafka.topic)?;
    let tables = TableFilter::new(&config.land.tables).map_err(|e| anyhow!("[land] tables: {e}"))?;
    let foreign = ForeignSettings::of(&config.land, job.until_caught_up);
    if foreign.is_none() {
        let metas = read_to_end(&kafka)?;
        refuse_unstated(&kafka, &ends, &metas)?;
        refuse_overstated(&kafka, &partition_ends(&kafka, &kafka.topic)?, &metas)?;
        refuse_keyless(&kafka, &tables, metas)?;
    }
    let letters = DeadLetters::new(config.land.dead_letter.clone());
    let zero_dates =
        matches!(config.target()?, TargetConfig::Postgres(target) if target.zero_dates == ZeroDates::DeadLetter);
    let stop = stop_on_signals()?;
    let until_caught_up = job.until_caught_up;
    let report = Report::default();
    report.start("land", "durable");
    let shown = report.clone();
    let stopped = Arc::clone(&stop);
    execute(job, &stopped, move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let said = match index {
            0 => Some(serde_json::to_string(&target.begin(&config.job, config.land.lanes)?)?),
            _ => None,
        };
        let state: JobState = serde_json::from_str(&tell_all(worker, said)).context("what worker 0 said")?;
        if index == 0 {
            let (topic, lanes, run) = (&kafka.topic, config.land.lanes, state.generation);
            let from =
                state.checkpoint.as_ref().map_or("the beginning".to_string(), |c| format!("epoch {}", c.epoch + 1));
            say(&format_args!("land: reads topic {topic} from {from}, {lanes} lanes, run {run} of job {}", config.job));
        }
        let from = state.checkpoint.unwrap_or_default().offsets;
        if foreign.is_none() && index == 0 {
            // An older copy of the job may have landed more than there was when this one began.
            let ends = partition_ends(&kafka, &kafka.topic)?;
            refuse_gone(&kafka, &ends, &config.job, config.land.start, &from)?;
        }
        meet(worker);
        let range = |(partition, (low, high)): (usize, &(u64, u64))| {
            let partition = partition as u32;
            (partition, (from.get(&partition).copied().unwrap_or(*low), *high))
        };
        // What is complete by event time is a guess about all partitions together, so that one worker makes it.
        let readers = if foreign.is_some() { 1 } else { peers };
        let partitions: BTreeMap<u32, (u64, u64)> =
            ends.iter().enumerate().map(range).filter(|(partition, _)| own(*partition, index, readers)).collect();
        let schemas = Arc::new(Schemas::default());
        let known = Arc::clone(&schemas);
        let patience = if foreign.is_some() { FOREIGN_PATIENCE } else { SCHEMA_PATIENCE };
        let find: FindSchema = Arc::new(move |table| known.find(table, patience));
        let lanes = (0..config.land.lanes)
            .filter(|lane| own(*lane, index, peers))
            .map(|lane| target.lane(&config.job, lane, state.generation, Arc::clone(&find)))
            .collect::<Result<_, _>>()?;
        let reader: Box<dyn EpochReader> = match foreign {
            None => {
                let together = state.through.values().map(|progress| progress.seq).max().unwrap_or(0);
                Box::new(Reader::new(&kafka, &partitions, config.land.epoch, together, schemas, letters.clone())?)
            }
            Some(settings) => {
                // A lane's progress is in event time there; what any of them has reached was complete.
                let reached = state.lanes.values().chain(state.through.values());
                let newest = reached.map(|progress| epoch_of(progress.seq, config.land.epoch) + 1).max();
                let first = newest.unwrap_or(0);
                Box::new(ForeignReader::new(&kafka, &partitions, settings, first, schemas, letters.clone())?)
            }
        };
        let (checkpoints, job, generation) = (Arc::clone(&target), config.job.clone(), state.generation);
        let landing = build_land(
            worker,
            Land {
                reader,
                lanes,
                applied: state.lanes,
                horizon: foreign.map(|settings| settings.horizon()),
                letters: Refused { letters: letters.clone(), topic: kafka.topic.clone(), zero_dates },
                checkpoint: Box::new(move |checkpoint| {
                    checkpoints.checkpoint(&job, generation, &checkpoint).unwrap_or_else(|e| fail(&e));
                }),
                settings: config.land.clone(),
                tables: tables.clone(),
                report: shown.clone(),
                stop: Arc::clone(&stop),
                sealed: None,
                read_seq: Arc::default(),
            },
        );
        let stop = &stop;
        run_until(worker, stop, || {
            let caught_up = landing.caught_up.load(Ordering::Acquire);
            let durable = landing.durable.with_frontier(|frontier| frontier.first().copied().unwrap_or(u64::MAX));
            let read = landing.read.with_frontier(|frontier| frontier.first().copied().unwrap_or(u64::MAX));
            let drained = is_up(stop) && durable == read;
            drained || (until_caught_up && durable >= caught_up)
        });
        Ok(())
    })?;
    report.end("land", "durable");
    Ok(())
}

/// `tidegate verify`.
pub fn verify(job: &VerifyJob) -> anyhow::Result<Outcome> {
    let config = load(&job.config)?;
    // Nothing may be left waiting, nor a table without its verdict.
    fail_on_panics(&job.cluster);
    fail_on_signals("stopped by a signal before everything was compared: nothing is known, run verify again")?;
    let first = job.cluster.process == 0;
    let workers = workers(&job.cluster, &|| false)?.context("nobody stops it")?;
    verify::run(&config, workers, first, job.json, job.repair.as_deref())
}
