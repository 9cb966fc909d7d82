//! One history: a workload, processes that come and go, and what has to be true in the end.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate::change::{Op, TableFilter};
use tidegate::config::LandConfig;
use tidegate::letter::DeadLetters;
use tidegate::log::{Kafka, Pace};
use tidegate::source::{Clock, Start};
use tidegate::target::Target;
use tidegate::target::protocol::StoreTarget;
use timely::worker::Worker;

use super::kafka::may_be_replaced;
use super::land::{Land, Until, land};
use super::lanes::RefusedRows;
use super::publish::{Arrange, Publish, in_order, publish_by};
use super::report::Report;
use super::source::{Log, LogDecoder, LogReader, SEQS, TABLES, transaction};
use super::start::{Begun, Landing, Published, Publishing, heard};
use super::target::may_end;
use super::world::{Kind, Process, Random, Rates, World};
use super::{Broken, Switch, kafka, target};

const TOPIC: &str = "t";
const JOB: &str = "job";

/// What a seed makes of a history.
#[derive(Clone, Copy, Debug)]
struct Setting {
    partitions: u32,
    lanes: u32,
    atomic: bool,
    exactly_once: bool,
    whole_seconds: bool,
    keys: u64,
    transactions: u64,
    changes_max: u64,
    epoch_ms: u64,
    /// Whether only the first table counts in the end.
    one_table: bool,
    memory: usize,
    epochs_in_flight: usize,
    /// How many steps are made after the last transaction. Few make histories cheap, many find more in each.
    rest: u64,
    rates: Rates,
}

impl Setting {
    fn of(random: &mut Random, broken: Broken) -> Setting {
        let mut pick = |choices: &[u64]| choices[random.below(choices.len() as u64) as usize];
        Setting {
            partitions: pick(&[1, 2, 3, 4]) as u32,
            lanes: pick(&[1, 1, 2, 3]) as u32,
            atomic: pick(&[0, 1]) == 1 && !matches!(broken.0, Some(Switch::NoThrough | Switch::ProgressFirst)),
            exactly_once: (pick(&[0, 1, 1, 1]) == 1 || broken.is(Switch::NoFence)) && !broken.is(Switch::ForgetPassed),
            whole_seconds: pick(&[0, 1]) == 1,
            keys: pick(&[1, 2, 3, 6]),
            transactions: pick(&[5, 10, 20, 40]),
            changes_max: pick(&[1, 2, 4]),
            epoch_ms: pick(&[1, 10, 100, 1000, 5000]),
            one_table: pick(&[0, 0, 0, 1]) == 1,
            memory: pick(&[1, 300, 2000, 1 << 20]) as usize,
            epochs_in_flight: pick(&[1, 2, 8]) as usize,
            rest: pick(&[50, 150, 400]),
            rates: Rates { crash: pick(&[0, 300, 80]), failure: pick(&[0, 100, 30]), others: pick(&[2, 6, 20]) },
        }
    }
}

/// What the source's workload goes on from.
struct Shop {
    /// Which keys of the tables are there.
    rows: [Vec<bool>; 2],
    /// The last value that was given.
    value: u64,
}

/// A history's parts.
#[derive(Clone)]
struct History {
    setting: Setting,
    broken: Broken,
    log: Log,
    kafka: kafka::Model,
    target: target::Model,
}

/// Plays the history of a seed.
pub fn play(seed: u64, broken: Broken) -> Result<(), String> {
    let mut random = Random(seed);
    let setting = Setting::of(&mut random, broken);
    World::enter(random.0, setting.rates, |world| {
        let history = History {
            setting,
            broken,
            log: Log::default(),
            kafka: kafka::Model::new(&[(TOPIC, setting.partitions), ("t.meta", 1)], broken),
            target: target::Model::new(setting.atomic, broken),
        };
        world.allow(|process, said| may_be_replaced(process.kind, said) || may_end(process.kind, said));
        let (kafka, target) = (history.kafka.clone(), history.target.clone());
        world.serve(move || kafka.event());
        world.serve(move || target.event());
        let other = history.clone();
        world.serve(move || other.meanwhile());
        let shop = history.live(world);
        history.settle(world);
        if setting.exactly_once && world.violation().is_none() && one_in(4) {
            history.lose(world, shop);
        }
        match world.violation() {
            None => Ok(()),
            Some(what) => {
                Err(format!("{what}\n{setting:?}, {} steps, {} crashes", world.steps.get(), world.crashes.get()))
            }
        }
    })
}

impl History {
    /// The workload runs, and everything goes wrong.
    fn live(&self, world: &World) -> Shop {
        let mut shop = Shop { rows: [(); 2].map(|()| vec![false; self.setting.keys as usize]), value: 0 };
        let mut made = 0;
        let mut rest = self.setting.rest;
        while rest > 0 && world.violation().is_none() {
            if made == self.setting.transactions {
                rest -= 1;
            } else if one_in(12) {
                self.commit(&mut shop);
                made += 1;
            }
            self.come_and_go(world);
            world.step();
        }
        shop
    }

    /// Another transaction at the source.
    fn commit(&self, shop: &mut Shop) {
        let next = transaction(&mut shop.rows, &mut shop.value, self.setting.changes_max);
        self.log.0.lock().unwrap().push(next);
    }

    /// Retention passes a record that has not been landed: the job says so, and does not go on.
    fn lose(&self, world: &World, mut shop: Shop) {
        let wait = |what: &str, done: &dyn Fn() -> bool| {
            for step in 0..20_000 {
                if done() || world.violation().is_some() {
                    return;
                }
                if step % 16 == 0 {
                    world.leap(super::world::now_ms() + self.setting.epoch_ms / 8);
                    self.kafka.time_out();
                }
                world.step();
            }
            world.violated(what.into());
        };
        world.alive(Kind::Land).iter().for_each(|process| world.ask_to_stop(process));
        wait("land does not stop", &|| world.alive(Kind::Land).is_empty());
        let Some(from) = self.target.checkpoint(JOB) else { return };
        (0..3).for_each(|_| self.commit(&mut shop));
        let last = self.log.changes().len() as u64 * SEQS;
        wait("the last change does not come", &|| {
            if world.alive(Kind::Publish).is_empty() {
                self.start(world, Kind::Publish);
            }
            self.kafka.committed(TOPIC).iter().any(|(_, changes)| changes.last().is_some_and(|(seq, _)| *seq == last))
        });
        // Nothing is passed so soon that what says that it was there can't be read yet.
        world.alive(Kind::Publish).iter().for_each(|process| world.ask_to_stop(process));
        wait("publish does not stop", &|| world.alive(Kind::Publish).is_empty());
        world.drain_servers();
        if world.violation().is_some() || !self.kafka.lose(TOPIC, &from) {
            return;
        }
        let refused = Rc::new(Cell::new(false));
        let says = Rc::clone(&refused);
        world.allow(move |process, said| {
            let is_refused = process.kind == Kind::Land && said.contains("are gone, retention has passed them");
            says.set(says.get() || is_refused);
            is_refused || may_be_replaced(process.kind, said) || may_end(process.kind, said)
        });
        wait("land goes on though a record is gone that it has not read", &|| {
            if world.alive(Kind::Land).is_empty() {
                self.start(world, Kind::Land);
            }
            refused.get()
        });
    }

    fn come_and_go(&self, world: &World) {
        let now = super::world::now_ms();
        match super::world::below(400) {
            0 => world.leap(now + super::world::below(10_000)),
            1 => world.leap(now.saturating_sub(super::world::below(3_000))),
            2 => self.each(world, |process| world.kill(process)),
            3 => self.each(world, |process| world.ask_to_stop(process)),
            // A second one, while the first may still be at work.
            4 => self.start(world, Kind::Land),
            5 if self.setting.exactly_once => self.start(world, Kind::Publish),
            6 if world.alive(Kind::Land).is_empty() && self.target.is_quiet() => {
                if let Some(from) = self.target.checkpoint(JOB) {
                    self.kafka.retain(TOPIC, &from);
                    self.target.lose_copy();
                }
            }
            7 => world.leap(now + self.setting.epoch_ms),
            // Where the topic promises no more than at least once.
            8..40 if !self.setting.exactly_once => self.kafka.deliver_again(TOPIC),
            _ => {}
        }
        for kind in [Kind::Publish, Kind::Land] {
            if world.alive(kind).is_empty() && one_in(20) {
                self.start(world, kind);
            }
        }
        if one_in(50) {
            self.kafka.time_out();
        }
    }

    /// What happens while others are in the midst of something: a process begins, the topic grows.
    fn meanwhile(&self) {
        let world = super::world::world();
        if !world.is_wild() || !one_in(12) {
            return;
        }
        match super::world::below(8) {
            0 if self.kafka.partitions(TOPIC) < 6 => self.kafka.grow(TOPIC),
            1 if self.setting.exactly_once && world.alive(Kind::Publish).len() < 3 => self.start(&world, Kind::Publish),
            2 if world.alive(Kind::Land).len() < 3 => self.start(&world, Kind::Land),
            _ => {}
        }
    }

    fn each(&self, world: &World, what: impl Fn(&Process)) {
        for kind in [Kind::Publish, Kind::Land] {
            world.alive(kind).iter().filter(|_| one_in(2)).for_each(|process| what(process));
        }
    }

    /// Nothing goes wrong any more: both sides become identical, soon.
    fn settle(&self, world: &World) {
        world.calm();
        world.drain_servers();
        for step in 0..40_000 {
            if world.violation().is_some() {
                return;
            }
            for kind in [Kind::Publish, Kind::Land] {
                if world.alive(kind).is_empty() {
                    self.start(world, kind);
                }
            }
            if step % 16 == 0 {
                world.leap(super::world::now_ms() + self.setting.epoch_ms / 8);
                self.kafka.time_out();
            }
            world.step();
            if step % 64 == 0 && self.missing().is_none() && self.wrong_in_topic().is_none() {
                return;
            }
        }
        world.violated(self.missing().or_else(|| self.wrong_in_topic()).unwrap_or_default());
    }

    /// What the target lacks, or has too much.
    fn missing(&self) -> Option<String> {
        let mut want = BTreeMap::new();
        for change in self.log.changes() {
            let row = (TABLES[change.table].to_string(), change.key.to_string());
            match change.op {
                Op::Delete => drop(want.remove(&row)),
                _ => drop(want.insert(row, format!("{{\"k\":{},\"v\":{}}}", change.key, change.value))),
            }
        }
        let mut have = self.target.rows();
        if self.setting.one_table {
            have.retain(|(table, _), _| table == TABLES[0]);
            want.retain(|(table, _), _| table == TABLES[0]);
        }
        (have != want).then(|| format!("the target has {have:?} and should have {want:?}"))
    }

    /// What is wrong in the topic: for whom reads committed records each change is there once, each partition in order, and
    /// each transaction has one time, which never decreases.
    fn wrong_in_topic(&self) -> Option<String> {
        let partitions = self.kafka.committed(TOPIC);
        let mut all = BTreeMap::new();
        let mut repeated = 0;
        for (partition, (_, changes)) in partitions.iter().enumerate() {
            if self.setting.exactly_once && !changes.is_sorted_by(|a, b| a.0 < b.0) {
                return Some(format!("partition {partition} repeats or reorders: {changes:?}"));
            }
            for (seq, time) in changes {
                if all.insert(*seq, *time).is_some_and(|known| known != *time) {
                    return Some(format!("seq {seq} has several times"));
                }
                repeated += 1;
            }
        }
        if self.setting.exactly_once && repeated != all.len() {
            return Some("a change is there twice".into());
        }
        if !all.values().is_sorted() {
            return Some(format!("time decreases: {all:?}"));
        }
        if self.setting.exactly_once
            && let Some(wrong) = self.kafka.wrong_statement(TOPIC)
        {
            return Some(wrong);
        }
        let mut seq = SEQS;
        for transaction in self.log.0.lock().unwrap().iter() {
            let seqs: Vec<u64> = (0..transaction.changes.len() as u64).map(|change| seq + change * SEQS).collect();
            seq += seqs.len() as u64 * SEQS;
            let mut times: Vec<&u64> = seqs.iter().filter_map(|seq| all.get(seq)).collect();
            times.dedup();
            if times.len() > 1 {
                return Some(format!("a transaction has several times: {seqs:?} {times:?}"));
            }
        }
        let whole = partitions.iter().all(|(base, _)| *base == 0);
        let want = (1..=self.log.changes().len() as u64).map(|number| number * SEQS);
        (whole && !all.keys().copied().eq(want)).then(|| format!("the topic has {:?}", all.keys()))
    }

    fn start(&self, world: &World, kind: Kind) {
        let workers = 1 + super::world::below(3) as usize;
        world.start(kind, workers, |workers, process| match kind {
            Kind::Publish => self.publish(workers, process),
            Kind::Land => self.land(workers, process),
        });
    }

    /// The stages of `commands::publish`.
    fn publish(&self, workers: &mut [Worker], process: &Process) -> anyhow::Result<Box<dyn Fn() -> bool>> {
        let kafka: Arc<dyn Kafka> = Arc::new(self.kafka.clone());
        let run = Publishing {
            kafka,
            topic: TOPIC.into(),
            partitions: self.kafka.partitions(TOPIC),
            exactly_once: self.setting.exactly_once,
            tables: Vec::new(),
            look_back: super::world::below(4),
        };
        let peers = workers.len();
        let announced = run.announce(process.number.to_string(), peers as u32)?;
        let open = (0..peers).map(|index| run.open(index)).collect::<Result<Vec<_>, _>>()?;
        run.fence(announced.as_ref())?;
        let said = serde_json::to_string(&run.take_stock(announced.as_ref())?)?;
        let mut known: Published = heard(&said)?;
        if let (true, Start::Resume { clock, .. }) = (self.broken.is(Switch::ForgetTimes), &mut known.start) {
            *clock = Clock::from(clock.time(0));
        }
        let mut reader = Some(Box::new(LogReader::open(&self.log, &known.start, self.setting.whole_seconds)));
        let mut durable = Vec::new();
        let begun = reader.as_ref().map(|reader| tidegate::source::Reader::begun(&**reader));
        let mut writers = Vec::new();
        for (index, open) in open.into_iter().enumerate() {
            let begun = begun.as_ref().filter(|_| index == 0);
            writers.push(run.begin(
                open,
                heard(&said)?,
                begun,
                (index, peers),
                Pace { interval: Duration::ZERO, bytes: usize::MAX },
            )?);
        }
        for (worker, writer) in workers.iter_mut().zip(writers) {
            let job = Publish {
                reader: reader.take().map(|reader| reader as Box<dyn tidegate::source::Reader>),
                decoder: Box::new(LogDecoder::default()),
                writer,
                layout: known.layout.clone(),
                memory: self.setting.memory,
                letters: DeadLetters::default(),
                report: Report::default(),
                stop: Arc::clone(&process.stop),
                // In some histories a publisher stops wherever it is.
                stop_patience: if self.setting.lanes.is_multiple_of(2) { Duration::ZERO } else { Duration::MAX },
            };
            let arrange: Arrange = match self.broken.0 {
                Some(Switch::SortByTime) => wrong::by_time,
                Some(Switch::TrustArrival) => wrong::as_it_came,
                _ => in_order,
            };
            durable.push(publish_by(worker, job, arrange));
        }
        Ok(Box::new(move || durable.iter().all(|durable| durable.done())))
    }

    /// Sometimes a run lands one table less; what the other misses by that is no matter then.
    fn tables(&self) -> TableFilter {
        let less = self.setting.one_table && one_in(4) && super::world::world().is_wild();
        let without: Vec<String> = less.then(|| format!("!d.{}", TABLES[1])).into_iter().collect();
        TableFilter::new(&without).expect("a pattern")
    }

    /// The stages of `commands::land`.
    fn land(&self, workers: &mut [Worker], process: &Process) -> anyhow::Result<Box<dyn Fn() -> bool>> {
        let target: Arc<dyn Target> = Arc::new(StoreTarget::over(Arc::new(self.target.clone())));
        let run = Landing {
            kafka: Arc::new(self.kafka.clone()),
            topic: TOPIC.into(),
            target,
            job: JOB.into(),
            settings: LandConfig {
                epoch: Duration::from_millis(self.setting.epoch_ms),
                lanes: self.setting.lanes,
                memory: self.setting.memory,
                epochs_in_flight: self.setting.epochs_in_flight,
                ..LandConfig::default()
            },
            foreign: None,
            tables: self.tables(),
            letters: DeadLetters::default(),
            schema_patience: Duration::ZERO,
        };
        let mut resumed = run.begin()?;
        if self.broken.is(Switch::TrustLayout) {
            resumed.partitions.get_or_insert(self.kafka.ends(TOPIC)?.len() as u32);
        }
        let state = &resumed.state;
        let peers = workers.len();
        let mut landed = Vec::new();
        for (index, worker) in workers.iter_mut().enumerate() {
            let Begun { reader, lanes, schemas, horizon } = run.open(&resumed, (index, peers))?;
            let (checkpoints, generation) = (Arc::clone(&run.target), state.generation);
            let job = Land {
                reader,
                lanes,
                applied: state.lanes.clone(),
                through: state.through.clone(),
                schemas,
                horizon,
                letters: RefusedRows::default(),
                checkpoint: Box::new(move |checkpoint| {
                    checkpoints
                        .checkpoint(JOB, generation, &checkpoint)
                        .unwrap_or_else(|error| super::cluster::fail(&error));
                }),
                settings: run.settings.clone(),
                tables: run.tables.clone(),
                report: Report::default(),
                stop: Arc::clone(&process.stop),
                until: Until::Stopped,
                read_seq: Arc::default(),
            };
            landed.push(land(worker, job));
        }
        let stop = Arc::clone(&process.stop);
        Ok(Box::new(move || {
            let stopping = super::cluster::is_up(&stop);
            stopping && landed.iter().all(|landed| landed.is_done(stopping))
        }))
    }
}

fn one_in(many: u64) -> bool {
    super::world::chance(many)
}

/// Orders that the old design trusted.
mod wrong {
    use tidegate::change::{Changes, Op};
    use timely::container::NoopBuilder;
    use timely::dataflow::Stream;
    use timely::dataflow::channels::pact::Pipeline;
    use timely::dataflow::operators::generic::Operator;

    /// Windows that fire with whatever has come, in the order of `sort`, ties as they came.
    fn windows(changes: Stream<'_, u64, Changes>, sort: fn(&Changes) -> Vec<usize>) -> Stream<'_, u64, Changes> {
        changes.unary_frontier::<NoopBuilder<Changes>, _, _, _>(Pipeline, "Window", move |_, _| {
            let mut window = None;
            move |(input, frontier), output| {
                input.for_each(|cap, batch| {
                    let time = *cap.least().expect("records carry a time");
                    let (_, held) =
                        window.get_or_insert_with(|| (cap.delayed(&time, output.output_index()), Changes::default()));
                    batch.iter().for_each(|(head, payload)| held.push(*head, payload));
                });
                if let Some((cap, held)) = window.take_if(|(cap, _)| !frontier.less_equal(cap.time())) {
                    let mut sorted = Changes::default();
                    for index in sort(&held) {
                        let (head, payload) = held.get(index);
                        sorted.push(*head, payload);
                    }
                    output.session_with_builder(&cap).give_container(&mut sorted);
                }
            }
        })
    }

    pub fn by_time(changes: Stream<'_, u64, Changes>) -> Stream<'_, u64, Changes> {
        windows(changes, |held| {
            let mut indices: Vec<usize> = (0..held.len()).collect();
            indices.sort_by_key(|&index| (held.head(index).op() == Op::Mark, held.head(index).time));
            indices
        })
    }

    pub fn as_it_came(changes: Stream<'_, u64, Changes>) -> Stream<'_, u64, Changes> {
        windows(changes, |held| (0..held.len()).collect())
    }
}
