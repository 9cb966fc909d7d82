//! demo: the whole path in one process, no server.
//!
//! ```text
//! shop ─ DTS records ─▶ mock Kafka ─ publish ─▶ mock Kafka ─ land ─▶ SQLite ≟ the shop's own model
//! ```
//!
//! The mock cluster of librdkafka speaks the real protocol but keeps only the newest megabytes, so the shop bounds its
//! lead: over `publish` in bytes of DTS records, over `land` in records. Whether all went well is not asked of the
//! pipeline: the shop keeps a model of its own, and every row that SQLite holds is compared with it.

use std::fmt::Write;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use hdrhistogram::Histogram;
use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rusqlite::types::ValueRef;
use tidegate::change::TableFilter;
use tidegate::config::{Config, SourceConfig};
use tidegate::demo::{Model, Stored, Workload};
use tidegate::letter::DeadLetters;
use tidegate::log::{Layout, Librdkafka, OpenWriter, Pace, PartitionStart, Reader, ReaderSettings, Schemas};
use tidegate::source::Start;
use tidegate::source::dts::DtsReader;
use tidegate::target::{FindSchema, Lane, Step, TargetError};

use crate::cluster::{fail, run_until};
use crate::connect;
use crate::land::{Land, Until, land};
use crate::lanes::RefusedRows;
use crate::publish::{Publish, publish};
use crate::report::{Report, say};

const PARTITIONS: u32 = 4;
/// Far below the 5 MB that a partition of the mock cluster keeps.
const LEAD_BYTES: u64 = 2 << 20;
/// Likewise, for records of the data topic, should all of them fall into one partition.
const LEAD_RECORDS: u64 = 8_000;

/// How many commits are remembered: more than can lie between shop and SQLite, where the lead is bounded.
const SAMPLES: usize = 1 << 16;

/// `tidegate demo`.
#[derive(Args)]
pub struct Demo {
    /// How many row changes the shop makes
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    changes: u64,
    /// About how many rows the shop has
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(10..=10_000_000))]
    keys: u64,
    /// The same seed makes the same shop
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Worker threads
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Keep the result in this folder (by default under the system's temporary folder)
    #[arg(long)]
    keep: Option<PathBuf>,
    /// End with one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// When the newest DTS records were committed, by their numbers.
#[derive(Default)]
struct Commits {
    /// (number of the first record, when), oldest first.
    samples: Mutex<std::collections::VecDeque<(u64, Instant)>>,
}

impl Commits {
    fn note(&self, record: u64) {
        let mut samples = self.samples.lock().expect("no panic while holding it");
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back((record, Instant::now()));
    }

    /// How long ago record `record` was committed.
    fn age(&self, record: u64) -> Duration {
        let samples = self.samples.lock().expect("no panic while holding it");
        let after = samples.partition_point(|(first, _)| *first <= record);
        samples.get(after.saturating_sub(1)).map_or(Duration::ZERO, |(_, at)| at.elapsed())
    }
}

/// A lane that measures, for each net change, the time from commit to durable.
struct Timed {
    lane: Box<dyn Lane>,
    commits: Arc<Commits>,
    latency_ms: Arc<Mutex<Histogram<u64>>>,
}

impl Lane for Timed {
    fn apply(&mut self, step: &Step) -> Result<(), TargetError> {
        self.lane.apply(step)?;
        let mut latency_ms = self.latency_ms.lock().expect("no panic while holding it");
        for batch in [&step.inserts, &step.updates, &step.deletes] {
            // Every DTS record has two seq numbers.
            batch.heads().iter().for_each(|head| {
                latency_ms.saturating_record(self.commits.age(head.seq / 2).as_millis() as u64);
            });
        }
        Ok(())
    }
}

/// Runs the demo; says whether both sides are identical.
pub fn demo(demo: &Demo) -> anyhow::Result<bool> {
    let folder = match &demo.keep {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id())),
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("--keep {}", folder.display()))?;
    let database = folder.join("target.db");
    if database.exists() {
        bail!("{} exists already: name another folder with --keep, or remove it", database.display());
    }
    // It is there as long as the process: whoever still reads would warn that it has gone.
    let cluster = ManuallyDrop::new(MockCluster::new(1).map_err(|e| anyhow!("the mock cluster: {e}"))?);
    let brokers = cluster.bootstrap_servers();
    for (topic, partitions) in [("dts", 1), ("shop", PARTITIONS as i32), ("shop.meta", 1)] {
        cluster.create_topic(topic, partitions, 1).map_err(|e| anyhow!("the mock cluster: {e}"))?;
    }
    let config = Config::parse(
        &format!(
            // The mock broker keeps a fetch that finds nothing for the whole wait, even when records come meanwhile.
            "job = \"demo\"\n[source]\nkind = \"dts\"\nbrokers = \"{brokers}\"\ntopic = \"dts\"\n\
             properties = {{ \"fetch.wait.max.ms\" = \"5\" }}\n[kafka]\nproperties = {{ \"fetch.wait.max.ms\" = \"5\" }}\nbrokers = \"{brokers}\"\n\
             topic = \"shop\"\npartitions = {PARTITIONS}\n[land]\nepoch = \"250ms\"\nlanes = 1\nmemory = \"64MB\"\n\
             [target]\nkind = \"sqlite\"\npath = '{}'\n",
            database.display()
        ),
        "demo",
        &|_| None,
    )?;
    let begun = Instant::now();
    let flow = Flow::start(demo, config)?;
    let model = flow.shop(demo)?;
    flow.finish()?;
    let elapsed = begun.elapsed();
    let (rows, differences) = compare(&database, &model)?;
    let latency_ms = flow.latency_ms.lock().expect("no panic while holding it");
    let (p50, p99) = (latency_ms.value_at_quantile(0.5), latency_ms.value_at_quantile(0.99));
    let epochs = flow.epochs.load(Ordering::Relaxed);
    let rate = (demo.changes as f64 / elapsed.as_secs_f64()) as u64;
    if demo.json {
        let summary = serde_json::json!({
            "changes": demo.changes, "rows": rows, "epochs": epochs, "changes_per_s": rate,
            "latency_ms": { "p50": p50, "p99": p99 }, "max_rss_mb": max_rss_mb(), "differences": differences,
            "identical": differences == 0,
        });
        say(&summary);
    } else {
        let at = database.display();
        say(&format_args!("{} changes → {rows} rows in {epochs} epochs, {rate} changes/s", demo.changes));
        say(&format_args!("commit to durable: p50 {p50} ms, p99 {p99} ms (epochs of 250 ms)"));
        say(&format_args!("differences between the shop's own model and the target: {differences}"));
        say(&format_args!("The target is {at}, yours to look at and to remove:"));
        say(&format_args!("    sqlite3 {at} 'SELECT * FROM orders LIMIT 5'"));
    }
    Ok(differences == 0)
}

/// The two dataflows and what the shop watches of them.
struct Flow {
    brokers: String,
    consumed_bytes: Arc<AtomicU64>,
    read_seq: Arc<AtomicU64>,
    commits: Arc<Commits>,
    latency_ms: Arc<Mutex<Histogram<u64>>>,
    epochs: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sealed: Arc<AtomicBool>,
    publish: Mutex<Option<thread::JoinHandle<()>>>,
    land: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Flow {
    fn start(demo: &Demo, config: Config) -> anyhow::Result<Flow> {
        let SourceConfig::Dts(dts) = config.source()?.clone() else { bail!("the demo's source is DTS") };
        let reader = DtsReader::open(&dts, &Start::Configured, false)?;
        let consumed_bytes = reader.consumed();
        let flow = Flow {
            brokers: dts.brokers.clone(),
            consumed_bytes,
            read_seq: Arc::default(),
            commits: Arc::default(),
            latency_ms: Arc::new(Mutex::new(Histogram::new_with_max(3_600_000, 3)?)),
            epochs: Arc::default(),
            stop: Arc::default(),
            sealed: Arc::default(),
            publish: Mutex::default(),
            land: Mutex::default(),
        };
        let workers = demo.workers as usize;
        *flow.publish.lock().expect("just made") = Some(flow.start_publish(workers, config.clone(), reader)?);
        *flow.land.lock().expect("just made") = Some(flow.start_land(workers, config)?);
        Ok(flow)
    }

    fn start_publish(
        &self,
        workers: usize,
        config: Config,
        reader: DtsReader,
    ) -> anyhow::Result<thread::JoinHandle<()>> {
        let (reader, stop) = (Mutex::new(Some(reader)), Arc::clone(&self.stop));
        spawn(workers, move |worker| {
            let (index, peers) = (worker.index(), worker.peers());
            let reader = if index == 0 { reader.lock().expect("one worker takes it").take() } else { None };
            let kafka = config.kafka()?;
            let own = (0..PARTITIONS).filter(|partition| *partition as usize % peers == index);
            let starts = own.map(|partition| (partition, PartitionStart::default())).collect();
            let layout = Layout { partitions: vec![(0, PARTITIONS)] };
            let durable = publish(
                worker,
                Publish {
                    reader: reader.map(|reader| Box::new(reader) as Box<dyn tidegate::source::Reader>),
                    decoder: connect::decoder(config.source()?)?,
                    writer: OpenWriter::new(&Librdkafka::new(kafka), &kafka.topic, None)?.begin(
                        starts,
                        layout.clone(),
                        Vec::new(),
                        Pace { interval: config.publish.commit_interval, bytes: usize::MAX },
                    ),
                    layout,
                    memory: config.publish.memory,
                    letters: DeadLetters::default(),
                    report: Report::default(),
                    stop: Arc::clone(&stop),
                    stop_patience: Duration::MAX,
                },
            );
            run_until(worker, &stop, || durable.done());
            Ok(())
        })
    }

    fn start_land(&self, workers: usize, config: Config) -> anyhow::Result<thread::JoinHandle<()>> {
        let target = connect::target(config.target()?)?;
        let state = target.begin(&config.job, config.land.lanes, "shop")?;
        let (read_seq, sealed, epochs) =
            (Arc::clone(&self.read_seq), Arc::clone(&self.sealed), Arc::clone(&self.epochs));
        let (commits, latency_ms) = (Arc::clone(&self.commits), Arc::clone(&self.latency_ms));
        spawn(workers, move |worker| {
            let (index, peers) = (worker.index(), worker.peers());
            let own = (0..PARTITIONS).filter(|partition| *partition as usize % peers == index);
            let partitions = own.map(|partition| (partition, (0, 0))).collect();
            let schemas = Arc::new(Schemas::default());
            let known = Arc::clone(&schemas);
            let find: FindSchema = Arc::new(move |table, column| known.find(table, column, Duration::from_secs(30)));
            let lanes = (0..config.land.lanes).filter(|lane| *lane as usize % peers == index);
            let timed = |lane| -> anyhow::Result<Box<dyn Lane>> {
                let lane = target.lane(&config.job, lane, state.generation, Arc::clone(&find))?;
                Ok(Box::new(Timed { lane, commits: Arc::clone(&commits), latency_ms: Arc::clone(&latency_ms) }))
            };
            let (checkpoints, job, generation) = (Arc::clone(&target), config.job.clone(), state.generation);
            let epochs = Arc::clone(&epochs);
            let landing = land(
                worker,
                Land {
                    reader: Box::new(Reader::new(
                        Arc::new(Librdkafka::new(config.kafka()?)),
                        &config.kafka()?.topic,
                        &partitions,
                        &ReaderSettings {
                            epoch: config.land.epoch,
                            lead_bytes: config.land.memory,
                            of: PARTITIONS,
                            assumed: false,
                            together: 0,
                            passed: Default::default(),
                        },
                        schemas,
                        DeadLetters::default(),
                    )?),
                    lanes: lanes.map(timed).collect::<Result<_, _>>()?,
                    applied: state.lanes.clone(),
                    through: state.through.clone(),
                    schemas: Arc::default(),
                    horizon: None,
                    letters: RefusedRows::default(),
                    checkpoint: Box::new(move |checkpoint| {
                        epochs.fetch_add(1, Ordering::Relaxed);
                        checkpoints.checkpoint(&job, generation, &checkpoint).unwrap_or_else(|e| fail(&e));
                    }),
                    settings: config.land.clone(),
                    tables: TableFilter::default(),
                    report: Report::default(),
                    stop: Arc::default(),
                    until: Until::Sealed(Arc::clone(&sealed)),
                    read_seq: Arc::clone(&read_seq),
                },
            );
            run_until(worker, &Arc::default(), || landing.is_done(false));
            Ok(())
        })
    }

    /// The shop at work: writes its transactions as DTS records, never too far ahead. Returns its model in the end.
    fn shop(&self, demo: &Demo) -> anyhow::Result<Workload> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("linger.ms", "2")
            .set("enable.idempotence", "true")
            .create()?;
        // Its poll spins through the last millisecond of a wait.
        let wait = |producer: &BaseProducer| {
            std::thread::sleep(Duration::from_millis(1));
            producer.poll(Duration::ZERO);
        };
        let second = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
        let mut shop = Workload::new(demo.seed, demo.changes, demo.keys).starting_at(second);
        let bar = progress(demo.changes);
        let (mut bytes, mut records) = (0, 0);
        for transaction in shop.by_ref() {
            while bytes - self.consumed_bytes.load(Ordering::Acquire).min(bytes) > LEAD_BYTES
                || records - (self.read_seq.load(Ordering::Acquire) / 2).min(records) > LEAD_RECORDS
            {
                wait(&producer);
            }
            self.commits.note(records);
            for record in transaction.records() {
                let mut record = BaseRecord::<(), _>::to("dts").partition(0).payload(record);
                while let Err((_, back)) = producer.send(record) {
                    record = back;
                    wait(&producer);
                }
                records += 1;
            }
            bytes += transaction.bytes() as u64;
            bar.inc(transaction.changes);
        }
        producer.flush(Duration::from_secs(60))?;
        while self.consumed_bytes.load(Ordering::Acquire) < bytes {
            thread::sleep(Duration::from_millis(1));
        }
        bar.finish_and_clear();
        Ok(shop)
    }

    /// Ends both dataflows in good order.
    fn finish(&self) -> anyhow::Result<()> {
        let join = |thread: &Mutex<Option<thread::JoinHandle<()>>>| {
            let thread = thread.lock().expect("no panic while holding it").take();
            thread.expect("started").join().map_err(|_| anyhow!("a dataflow ended by a panic"))
        };
        self.stop.store(true, Ordering::Relaxed);
        join(&self.publish)?;
        self.sealed.store(true, Ordering::Relaxed);
        join(&self.land)
    }
}

/// Runs a dataflow on threads of its own.
fn spawn(
    workers: usize,
    build: impl Fn(&mut timely::worker::Worker) -> anyhow::Result<()> + Send + Sync + 'static,
) -> anyhow::Result<thread::JoinHandle<()>> {
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        build(worker).unwrap_or_else(|e| fail(&format_args!("{e:#}")));
    })
    .map_err(|e| anyhow!(e))?;
    Ok(thread::spawn(move || drop(guards.join())))
}

fn progress(changes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} changes  {rate}/s  {elapsed}");
    let style =
        style.expect("the template is a constant").with_key("rate", |state: &ProgressState, to: &mut dyn Write| {
            let _ = write!(to, "{}", HumanCount(state.per_sec() as u64)); // what does not fit on the terminal is no reason to stop
        });
    ProgressBar::new(changes).with_style(style)
}

/// Compares every row of the target with the model; returns the model's rows and the differences.
fn compare(database: &Path, shop: &Workload) -> anyhow::Result<(usize, usize)> {
    let model: &Model = shop.model();
    let target = rusqlite::Connection::open(database)?;
    let (mut rows, mut differences) = (0, 0);
    for table in model.tables() {
        let columns = table.columns();
        let list: Vec<String> = columns.iter().map(|column| format!("\"{column}\"")).collect();
        let key: Vec<String> = table.key().iter().map(|place| format!("{} = ?", list[*place])).collect();
        let name = table.name();
        let exists: bool =
            target.query_row("SELECT count(*) > 0 FROM sqlite_master WHERE name = ?", [name], |row| row.get(0))?;
        if !exists {
            differences += table.len();
            continue;
        }
        let count: i64 = target.query_row(&format!("SELECT count(*) FROM \"{name}\""), [], |row| row.get(0))?;
        let mut find =
            target.prepare(&format!("SELECT {} FROM \"{name}\" WHERE {}", list.join(", "), key.join(" AND ")))?;
        let mut found = 0;
        for row in table.rows() {
            rows += 1;
            let stored: Vec<Stored> = row.iter().map(|value| value.stored()).collect();
            let key: Vec<rusqlite::types::Value> = table.key().iter().map(|place| owned(&stored[*place])).collect();
            let mut matches = find.query(rusqlite::params_from_iter(key))?;
            match matches.next()? {
                None => differences += 1,
                Some(actual) => {
                    found += 1;
                    let same =
                        (0..columns.len()).all(|n| actual.get_ref(n).is_ok_and(|value| equal(&stored[n], value)));
                    differences += usize::from(!same);
                }
            }
        }
        differences += count as usize - found; // rows that the model does not have
    }
    Ok((rows, differences))
}

fn owned(stored: &Stored) -> rusqlite::types::Value {
    match stored {
        Stored::Null => rusqlite::types::Value::Null,
        Stored::Integer(value) => (*value).into(),
        Stored::Real(value) => (*value).into(),
        Stored::Text(text) => text.to_string().into(),
        Stored::Blob(bytes) => bytes.to_vec().into(),
    }
}

fn equal(want: &Stored, actual: ValueRef) -> bool {
    match (want, actual) {
        (Stored::Null, ValueRef::Null) => true,
        (Stored::Integer(want), ValueRef::Integer(actual)) => *want == actual,
        (Stored::Real(want), ValueRef::Real(actual)) => want.to_bits() == actual.to_bits(),
        (Stored::Text(want), ValueRef::Text(actual)) => want.as_bytes() == actual,
        (Stored::Blob(want), ValueRef::Blob(actual)) => *want == actual,
        _ => false,
    }
}

/// The most memory that this process ever had, in MB, as the kernel counts it.
fn max_rss_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}
