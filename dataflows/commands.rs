//! The commands: from a configuration to a running dataflow.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use tidegate::change::TableFilter;
use tidegate::config::{Config, Delivery, EnvelopeKind, LandConfig, PublishConfig, TargetConfig, ZeroDates};
use tidegate::letter::DeadLetters;
use tidegate::log::{ForeignSettings, Librdkafka, Pace, meta_topic, read_to_end};
use tidegate::source::{Reader, Start};
use tidegate::target::Target;
use tidegate::verify::Outcome;
use tidegate::workers::Workers;
use timely::worker::Worker;

use crate::cluster::{
    fail, fail_on_panics, fail_on_signals, is_up, meet, purpose, run_until, stop_on_signals, tell_all, workers,
};
use crate::land::{Land, Until, land as build_land};
use crate::lanes::RefusedRows;
use crate::publish::{Publish, publish as build_publish};
use crate::report::{Report, say};
use crate::start::{Begun, Landing, Published, Publishing, Resumed, heard};
use crate::{Job, VerifyJob, connect, verify};

/// How long a topic that does not exist is waited for.
const TOPIC_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is said that `land` waits for `publish`.
const WAIT_SAID: Duration = Duration::from_secs(10);

/// How many records of a partition a publisher looks at first when it goes on where an older one was.
const LOOK_BACK: u64 = 10_000;

/// How long the end of a transaction is waited for once publish is to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How long a lane waits for the schema of a table, or a column, that it has a row of.
const SCHEMA_PATIENCE: Duration = Duration::from_secs(30);

/// The same where a schema may be said or not.
const MAYBE_PATIENCE: Duration = Duration::from_secs(2);

/// The same where no schema is ever said.
const FOREIGN_PATIENCE: Duration = Duration::from_millis(100);

fn load(path: &Path) -> anyhow::Result<Config> {
    let config = Config::load(path)?;
    tidegate::wire::select(config.cluster.codec);
    Ok(config)
}

/// Runs `build` on every worker of this process; what goes wrong ends the process.
fn execute(
    workers: Workers,
    build: impl Fn(&mut Worker) -> anyhow::Result<()> + Send + Sync + 'static,
) -> anyhow::Result<()> {
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

/// `tidegate publish`.
pub fn publish(job: &Job) -> anyhow::Result<()> {
    let stop = stop_on_signals()?;
    let config = load(&job.config)?;
    let letters = DeadLetters::new(config.publish.dead_letter.clone());
    letters.check().map_err(|e| anyhow!("[publish] {e}"))?;
    let kafka = config.kafka()?.clone();
    let tables = config.source()?.tables().to_vec();
    let cluster = Librdkafka::new(&kafka);
    let until_end = job.until_caught_up;
    let first = Mutex::new(first_reader(&cluster, &config, job.cluster.process, until_end)?);
    let same = PublishConfig { dead_letter: None, ..config.publish.clone() };
    let purpose = purpose(&("publish", &config.job, &kafka.topic, kafka.partitions, &tables, same, until_end));
    // What is not the same everywhere makes no topic, and gives none more partitions.
    fail_on_panics(&job.cluster);
    let Some(workers) = workers(&job.cluster, purpose, &|| is_up(&stop))? else { return Ok(()) };
    let run = Publishing {
        partitions: cluster.ensure_topics()?,
        kafka: Arc::new(cluster.clone()),
        topic: kafka.topic.clone(),
        exactly_once: config.publish.delivery == Delivery::ExactlyOnce,
        tables,
        look_back: LOOK_BACK,
    };
    let report = Report::new(letters.clone());
    let shown = report.clone();
    report.start("publish", "in Kafka");
    execute(workers, move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let source = config.source()?;
        let announced = match index {
            0 => run.announce(run_id(), peers as u32)?,
            _ => None,
        };
        tell_all(worker, (index == 0).then(String::new));
        let open = run.open(index)?;
        run.fence(announced.as_ref())?;
        meet(worker);
        let said = match index {
            0 => Some(serde_json::to_string(&run.take_stock(announced.as_ref())?)?),
            _ => None,
        };
        let known: Published = heard(&tell_all(worker, said))?;
        let opened = if index == 0 { first.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
        let reader = match (&known.start, opened) {
            _ if index > 0 => None,
            (Start::Configured, Some(opened)) => Some(opened),
            (start, opened) => {
                drop(opened); // somebody else has begun meanwhile; a server has one replica of a number
                Some(connect::reader(source, &config.job, start, until_end)?)
            }
        };
        let begun = reader.as_ref().map(|reader| reader.begun());
        let layout = known.layout.clone();
        // Of what may be in flight a part waits for commits, and the rest goes on meanwhile.
        let pace = Pace { interval: config.publish.commit_interval, bytes: config.publish.memory / 8 / peers };
        let writer = run.begin(open, known, begun.as_ref(), (index, peers), pace)?;
        cluster.rest();
        // Once where it begins is kept, so that a run after this one begins there too.
        if let Some(begun) = &begun {
            let how = if run.exactly_once { "exactly once" } else { "at least once" };
            let (topic, partitions, from) = (&run.topic, run.partitions, &begun.resume.position);
            say(&format_args!("publish: reads from {from}, writes topic {topic}, {partitions} partitions, {how}"));
        }
        meet(worker);
        let durable = build_publish(
            worker,
            Publish {
                reader,
                decoder: connect::decoder(source)?,
                writer,
                layout,
                memory: config.publish.memory,
                letters: letters.clone(),
                report: shown.clone(),
                stop: Arc::clone(&stop),
                stop_patience: STOP_PATIENCE,
            },
        );
        run_until(worker, &stop, || durable.done());
        Ok(())
    })?;
    report.end("publish", "in Kafka");
    Ok(())
}

/// The reader of a job that has published nothing yet, on the one process that reads. It is opened before anything else: so it
/// begins where the source is now, and a mistake in [source] leaves no topic behind. Nor does it end another publish of a topic
/// that there is.
fn first_reader(
    cluster: &Librdkafka,
    config: &Config,
    process: u32,
    until_end: bool,
) -> anyhow::Result<Option<Box<dyn Reader>>> {
    let companion = meta_topic(&config.kafka()?.topic);
    if process > 0 {
        return Ok(None);
    }
    if cluster.partitions_of(&companion)?.is_some() {
        // What another publish states meanwhile changes nothing about it; and what does not fit is said when that is known.
        let statements = read_to_end(cluster, &config.kafka()?.topic).map(|companion| companion.statements);
        let oldest = statements.unwrap_or_default().into_values().min_by_key(|statement| statement.resume.seq);
        let resume = oldest.map(|statement| statement.resume);
        return connect::refuse_unreadable(config.source()?, &config.job, resume).map(|()| None);
    }
    connect::reader(config.source()?, &config.job, &Start::Configured, until_end).map(Some)
}

/// Tells a run from every other one.
fn run_id() -> String {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{}", started.as_nanos(), std::process::id())
}

/// `tidegate land`.
pub fn land(job: &Job) -> anyhow::Result<()> {
    let stop = stop_on_signals()?;
    let config = load(&job.config)?;
    let kafka = config.kafka()?.clone();
    let target: Arc<dyn Target> = connect::target(config.target()?)?;
    let cluster = Librdkafka::new(&kafka);
    // Whoever starts both jobs at once starts this one before publish has made the topic.
    let asked = Instant::now();
    while cluster.partitions_of(&kafka.topic)?.is_none() {
        if config.land.envelope != EnvelopeKind::Tidegate {
            bail!("topic {} does not exist at {}: name the other tool's in [kafka] topic", kafka.topic, kafka.brokers);
        }
        if asked.elapsed() > TOPIC_PATIENCE {
            break; // it is said below
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let tables = TableFilter::new(&config.land.tables).map_err(|e| anyhow!("[land] tables: {e}"))?;
    let foreign = ForeignSettings::of(&config.land, &tables, job.until_caught_up);
    let letters = DeadLetters::new(config.land.dead_letter.clone());
    letters.check().map_err(|e| anyhow!("[land] {e}"))?;
    let zero_dates =
        matches!(config.target()?, TargetConfig::Postgres(target) if target.zero_dates == ZeroDates::DeadLetter);
    let run = Landing {
        kafka: Arc::new(cluster.clone()),
        topic: kafka.topic.clone(),
        target,
        job: config.job.clone(),
        settings: config.land.clone(),
        foreign,
        tables,
        letters,
        schema_patience: match config.land.envelope {
            EnvelopeKind::Tidegate | EnvelopeKind::CanalJson => SCHEMA_PATIENCE,
            EnvelopeKind::DebeziumJson => MAYBE_PATIENCE,
            EnvelopeKind::MaxwellJson | EnvelopeKind::BinlogHeaders => FOREIGN_PATIENCE,
        },
    };
    let until_caught_up = job.until_caught_up;
    let report = Report::new(run.letters.clone());
    let shown = report.clone();
    let same = LandConfig { dead_letter: None, ..config.land.clone() };
    let target = match config.target()? {
        TargetConfig::Postgres(to) => format!("postgres {} {} {:?}", to.schema, to.create_tables, to.zero_dates),
        TargetConfig::Sqlite(_) => "sqlite".to_string(),
    };
    let purpose = purpose(&("land", &config.job, &kafka.topic, same, target, until_caught_up));
    fail_on_panics(&job.cluster);
    let Some(workers) = workers(&job.cluster, purpose, &|| is_up(&stop))? else { return Ok(()) };
    report.start("land", "durable");
    execute(workers, move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let said = match index {
            0 => Some(serde_json::to_string(&run.begin()?)?),
            _ => None,
        };
        let resumed: Resumed = heard(&tell_all(worker, said))?;
        if index == 0 {
            let state = &resumed.state;
            let (topic, lanes, generation) = (&run.topic, run.settings.lanes, state.generation);
            let durable = state.checkpoint.as_ref().map(|checkpoint| checkpoint.epoch).filter(|epoch| *epoch > 0);
            let from = durable.map_or("the beginning".to_string(), |epoch| format!("epoch {}", epoch + 1));
            say(&format_args!(
                "land: reads topic {topic} from {from}, {lanes} lanes, run {generation} of job {}",
                run.job
            ));
        }
        let Begun { reader, lanes, schemas, horizon } = run.open(&resumed, (index, peers))?;
        cluster.rest();
        let state = resumed.state;
        let (checkpoints, job, generation) = (Arc::clone(&run.target), run.job.clone(), state.generation);
        let landing = build_land(
            worker,
            Land {
                reader,
                lanes,
                applied: state.lanes,
                through: state.through,
                schemas,
                horizon,
                letters: RefusedRows { letters: run.letters.clone(), topic: run.topic.clone(), zero_dates },
                checkpoint: Box::new(move |checkpoint| {
                    checkpoints.checkpoint(&job, generation, &checkpoint).unwrap_or_else(|e| fail(&e));
                }),
                settings: run.settings.clone(),
                tables: run.tables.clone(),
                report: shown.clone(),
                stop: Arc::clone(&stop),
                until: if until_caught_up { Until::CaughtUp } else { Until::Stopped },
                read_seq: Arc::default(),
            },
        );
        let mut since = None;
        run_until(worker, &stop, || {
            if !(until_caught_up && index == 0 && landing.waits_for_publish()) {
                since = None;
            } else if since.get_or_insert_with(Instant::now).elapsed() > WAIT_SAID {
                since = Some(Instant::now());
                say(
                    &"land: has read all there is, and waits for publish to say that it is complete: is publish running?",
                );
            }
            landing.is_done(is_up(&stop))
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
    let purpose = purpose(&("verify", &config.job, &config.verify));
    let workers = workers(&job.cluster, purpose, &|| false)?.context("nobody stops it")?;
    verify::run(&config, workers, first, job.json, job.repair.as_deref())
}
