//! The dataflow: chunks, read on all workers, consolidated by differential, looked at again, reported.
//!
//! Time is the chunk's number (shifted, see [`STEP_BITS`]). The first worker plans and cuts; it lets as many chunks out as
//! [`CHUNKS_IN_FLIGHT`] allows, counted from the frontier behind the report, so that everything between is bounded. A
//! chunk is read on the worker of its number, its rows meet on the worker of their key, and what is left of it comes back
//! to the worker of its number for the second look. No operator waits for a side: readers have threads of their own.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};
use differential_dataflow::{AsCollection, VecCollection};
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{Operator, OutputBuilder, source};
use timely::dataflow::{Scope, StreamVec};
use timely::scheduling::Activator;

use super::chunks::{self, Chunk};
use super::look::{self, Counts, KEYS_MAX, Left, Suspect};
use super::read::{self, FromReader, Pair, READERS, Record, RowsRead, STEP_BITS, Sides, Update};
use super::report::{Collector, Difference, Finding, Observer, Report};
use super::{Options, Side, VerifyError};

/// Chunks per worker that are being read, consolidated or looked at again.
const CHUNKS_IN_FLIGHT: u64 = 2 * READERS as u64;

/// Messages of its readers that a worker takes before it gives the other operators a turn.
const MESSAGES_A_TURN: usize = 64;

/// Compares the tables of `source` with those of `target` on the workers of a timely cluster, and tells `observer` while
/// it runs. Every process of a cluster calls it; the report is the first one's, on the others it is empty.
///
/// # Errors
/// What a side or the observer says; no table, tables without a key. Then nothing is said about any table.
pub fn compare(
    source: impl Side,
    target: impl Side,
    options: &Options,
    timely: timely::Config,
    observer: &mut dyn Observer,
) -> Result<Report, VerifyError> {
    let (findings, found) = crossbeam_channel::unbounded();
    let stop = Arc::new(AtomicBool::new(false));
    let job = Job {
        sides: Sides { source: Arc::new(source), target: Arc::new(target), stop: Arc::clone(&stop) },
        options: options.clone(),
        findings,
    };
    let workers = timely::execute(timely, move |worker| {
        worker.dataflow(|scope| {
            let chunks = job.cut(scope);
            let (rows, chunks_read) = job.read(chunks);
            let differing = rows.consolidate();
            let findings = job.look_again(differing, chunks_read);
            job.report(findings);
        });
    });
    let workers = workers.map_err(|error| VerifyError(format!("the workers can't be started: {error}")))?;
    let mut collector = Collector::new(options.list, observer);
    let mut result = Ok(());
    // Ends when the last worker's dataflow, and with it the last sender, is gone.
    for finding in found {
        if result.is_ok() {
            result = collector.take(finding);
            stop.store(result.is_err(), Ordering::Relaxed);
        }
    }
    for worker in workers.join() {
        worker.map_err(|error| VerifyError(format!("a worker broke off: {error}")))?;
    }
    result.map(|()| collector.finish())
}

/// What all workers of the process share.
struct Job {
    sides: Sides,
    options: Options,
    findings: Sender<Finding>,
}

/// A chunk both sides of which have been read.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ChunkRead {
    /// A time of the chunk.
    time: u64,
    chunk: Chunk,
    result: Result<RowsRead, String>,
}

/// How far the report is, and whom to wake when it gets further. Only of use on the first worker.
#[derive(Clone, Default)]
struct Reported {
    chunks: Rc<Cell<u64>>,
    wake: Rc<RefCell<Option<Activator>>>,
}

thread_local! {
    /// The cutting and the reporting operator of the first worker share it; each worker has a thread of its own.
    static REPORTED: Reported = Reported::default();
}

impl Job {
    /// The chunks of all tables, each at its own time, from the first worker.
    fn cut<'scope>(&self, scope: Scope<'scope, u64>) -> StreamVec<'scope, u64, Chunk> {
        let window = CHUNKS_IN_FLIGHT * scope.peers() as u64;
        source::<_, CapacityContainerBuilder<Vec<Chunk>>, _, _>(scope, "Cut", |capability, info| {
            let reported = REPORTED.with(Reported::clone);
            reported.chunks.set(0);
            *reported.wake.borrow_mut() = Some(scope.activator_for(Rc::clone(&info.address)));
            let mut first = (scope.index() == 0).then(|| {
                let wake = scope.worker().sync_activator_for(info.address.to_vec());
                (
                    capability,
                    self.plan(move || {
                        let _ = wake.activate();
                    }),
                )
            });
            let mut emitted = 0;
            move |output| {
                let Some((capability, chunks)) = &mut first else { return };
                while emitted < reported.chunks.get() + window {
                    match chunks.try_recv() {
                        Ok(chunk) => {
                            capability.downgrade(&(chunk.number << STEP_BITS));
                            emitted = chunk.number + 1;
                            output.session(&*capability).give(chunk);
                        }
                        Err(crossbeam_channel::TryRecvError::Empty) => {
                            capability.downgrade(&(emitted << STEP_BITS));
                            return;
                        }
                        Err(crossbeam_channel::TryRecvError::Disconnected) => {
                            first = None;
                            return;
                        }
                    }
                }
                capability.downgrade(&(emitted << STEP_BITS));
            }
        })
    }

    /// Plans and cuts on a thread of its own, a few chunks ahead.
    fn plan(&self, wake: impl Fn() + Send + 'static) -> Receiver<Chunk> {
        let (to, chunks) = crossbeam_channel::bounded(4);
        let (sides, options, findings) = (self.sides.clone(), self.options.clone(), self.findings.clone());
        let planner = move || {
            let result = (|| {
                let (mut source, mut target) = (sides.source.connect()?, sides.target.connect()?);
                let plans = chunks::plan(source.as_mut(), target.as_mut(), &options.tables)?;
                let _ = findings.send(Finding::Planned(plans.clone()));
                chunks::cut(source.as_mut(), &plans, options.chunk_rows, |chunk| {
                    let going_on = !sides.stop.load(Ordering::Relaxed) && to.send(chunk).is_ok();
                    wake();
                    going_on
                })
            })();
            if let Err(VerifyError(reason)) = result {
                let _ = findings.send(Finding::Failed(reason));
            }
            drop(to);
            wake();
        };
        std::thread::Builder::new()
            .name("verify-plan".into())
            .spawn(planner)
            .expect("a thread for planning can be started");
        chunks
    }

    /// The rows of each chunk, +1 for each of the source and -1 for each of the target, at the chunk's time; and each
    /// chunk when it has been read.
    #[allow(clippy::type_complexity)]
    fn read<'scope>(
        &self,
        chunks: StreamVec<'scope, u64, Chunk>,
    ) -> (VecCollection<'scope, u64, Record, i64>, StreamVec<'scope, u64, ChunkRead>) {
        let scope = chunks.scope();
        let mut builder = OperatorBuilder::new("Read".into(), scope);
        let info = builder.operator_info();
        let mut input = builder.new_input(chunks, Exchange::new(|chunk: &Chunk| chunk.number));
        let (rows_output, rows) = builder.new_output::<Vec<Update>>();
        let (read_output, read) = builder.new_output::<Vec<ChunkRead>>();
        let mut rows_output = OutputBuilder::<_, CapacityContainerBuilder<Vec<Update>>>::from(rows_output);
        let mut read_output = OutputBuilder::<_, CapacityContainerBuilder<Vec<ChunkRead>>>::from(read_output);
        let again = scope.activator_for(Rc::clone(&info.address));
        let (to_readers, chunks) = crossbeam_channel::unbounded();
        let wake = scope.worker().sync_activator_for(info.address.to_vec());
        let from_readers = read::spawn(&self.sides, self.options.chunk_rows, &chunks, wake);
        let mut reading: HashMap<u64, (Chunk, Capability<u64>, Capability<u64>)> = HashMap::new();
        builder.build(move |_| {
            move |_| {
                input.for_each(|capability, chunks| {
                    for chunk in chunks.drain(..) {
                        let time = chunk.number << STEP_BITS;
                        let capabilities = (capability.delayed(&time, 0), capability.delayed(&time, 1));
                        reading.insert(chunk.number, (chunk.clone(), capabilities.0, capabilities.1));
                        to_readers.send(chunk).expect("readers live as long as this channel");
                    }
                });
                let (mut rows_output, mut read_output) = (rows_output.activate(), read_output.activate());
                for message in from_readers.try_iter().take(MESSAGES_A_TURN) {
                    match message {
                        FromReader::Updates { number, mut updates } => {
                            let (_, rows, _) = &reading[&number];
                            rows_output.session(rows).give_container(&mut updates);
                        }
                        FromReader::Step { number, time } => {
                            let (_, rows, read) = reading.get_mut(&number).expect("a chunk in hand has steps");
                            rows.downgrade(&time);
                            read.downgrade(&time);
                        }
                        FromReader::Done { number, result } => {
                            let (chunk, _, read) = reading.remove(&number).expect("a chunk is done once");
                            let result = result.map_err(|VerifyError(reason)| reason);
                            read_output.session(&read).give(ChunkRead { time: *read.time(), chunk, result });
                        }
                    }
                }
                if !from_readers.is_empty() {
                    again.activate();
                }
            }
        });
        (rows.as_collection(), read)
    }

    /// What the differing keys of each chunk are, once the chunk is complete.
    fn look_again<'scope>(
        &self,
        differing: VecCollection<'scope, u64, Record, i64>,
        chunks_read: StreamVec<'scope, u64, ChunkRead>,
    ) -> StreamVec<'scope, u64, Finding> {
        let scope = chunks_read.scope();
        let by_chunk = Exchange::new(|update: &Update| update.1 >> STEP_BITS);
        let name = "LookAgain";
        chunks_read.binary_frontier(differing.inner, Pipeline, by_chunk, name, |_, info| {
            let wake = scope.worker().sync_activator_for(info.address.to_vec());
            let (to_look, looked) = self.spawn_look(move || {
                let _ = wake.activate();
            });
            let mut chunks: BTreeMap<u64, Looking> = BTreeMap::new();
            let mut steps: BTreeMap<u64, Vec<(Record, i64)>> = BTreeMap::new();
            let mut lists = Lists { list: self.options.list, left: HashMap::new() };
            move |(read, _), (differing, frontier), output| {
                let port = output.output_index();
                read.for_each(|capability, data| {
                    for read in data.drain(..) {
                        let chunk = chunks
                            .entry(read.chunk.number)
                            .or_insert_with(|| Looking::new(capability.delayed(&read.time, port)));
                        chunk.read = Some((read.chunk, read.result));
                    }
                });
                differing.for_each(|capability, data| {
                    for (record, time, diff) in data.drain(..) {
                        let capability = || Looking::new(capability.delayed(&time, port));
                        chunks.entry(time >> STEP_BITS).or_insert_with(capability);
                        steps.entry(time).or_default().push((record, diff));
                    }
                });
                while let Some(step) = steps.first_entry()
                    && !frontier.less_equal(step.key())
                {
                    let (time, rows) = step.remove_entry();
                    chunks.get_mut(&(time >> STEP_BITS)).expect("made with its first row").pair_up(rows);
                }
                for (number, chunk) in &mut chunks {
                    if frontier.less_than(&((number + 1) << STEP_BITS)) {
                        break;
                    }
                    if let Some(suspect) = chunk.complete(&mut lists) {
                        to_look.send((*number, suspect)).expect("the looking thread lives as long as this channel");
                    }
                }
                for (number, table, rows, result) in looked.try_iter() {
                    let chunk = chunks.remove(&number).expect("a chunk is looked at once");
                    let mut session = output.session(&chunk.capability);
                    match result {
                        Ok((counts, differences)) => {
                            let difference = |difference| Finding::Difference(table, Box::new(difference));
                            session.give_iterator(differences.into_iter().map(difference));
                            session.give(Finding::Compared { table, rows, counts });
                        }
                        Err(VerifyError(reason)) => session.give(Finding::Failed(reason)),
                    }
                }
            }
        })
    }

    /// The thread that looks again for one worker.
    #[allow(clippy::type_complexity)]
    fn spawn_look(
        &self,
        wake: impl Fn() + Send + 'static,
    ) -> (Sender<(u64, Result<Suspect, VerifyError>)>, Receiver<(u64, usize, RowsRead, LookResult)>) {
        let (to_look, suspects) = crossbeam_channel::unbounded::<(u64, Result<Suspect, VerifyError>)>();
        let (to, looked) = crossbeam_channel::unbounded();
        let sides = self.sides.clone();
        let dialect = sides.target.dialect().filter(|_| self.options.repair);
        let look = move || {
            let mut pair = Pair::new(sides);
            for (number, suspect) in suspects {
                let message = match suspect {
                    Err(error) => (number, 0, RowsRead::default(), Err(error)),
                    Ok(suspect) if suspect.keys.is_empty() => {
                        (number, suspect.chunk.table, suspect.rows, Ok((suspect.counts, Vec::new())))
                    }
                    Ok(suspect) => {
                        let result = look::again(&mut pair, &suspect, dialect.as_ref());
                        (number, suspect.chunk.table, suspect.rows, result)
                    }
                };
                if to.send(message).is_err() {
                    return;
                }
                wake();
            }
        };
        std::thread::Builder::new()
            .name("verify-look".into())
            .spawn(look)
            .expect("a thread for looking can be started");
        (to_look, looked)
    }

    /// Hands all findings to the first process, and lets the next chunks out.
    fn report(&self, findings: StreamVec<'_, u64, Finding>) {
        let to = self.findings.clone();
        let reported = REPORTED.with(Reported::clone);
        findings.sink(Exchange::new(|_: &Finding| 0), "Report", move |(input, frontier)| {
            input.for_each(|_, findings| {
                for finding in findings.drain(..) {
                    // Whoever asked for the report waits until all senders are gone.
                    let _ = to.send(finding);
                }
            });
            let done = frontier.frontier().first().map_or(u64::MAX >> STEP_BITS, |time| time >> STEP_BITS);
            if done > reported.chunks.replace(done)
                && let Some(wake) = &*reported.wake.borrow()
            {
                wake.activate();
            }
        });
    }
}

type LookResult = Result<(Counts, Vec<Difference>), VerifyError>;

/// How many more differences of each table this worker lists. Each worker may list as many as are wanted in all, since
/// which worker finds them is chance; the report takes the first.
struct Lists {
    list: usize,
    left: HashMap<usize, usize>,
}

impl Lists {
    fn take(&mut self, table: usize, wanted: usize) -> usize {
        let left = self.left.entry(table).or_insert(self.list);
        let taken = wanted.min(*left);
        *left -= taken;
        taken
    }
}

/// A chunk on its way through the second look.
struct Looking {
    capability: Capability<u64>,
    read: Option<(Chunk, Result<RowsRead, String>)>,
    keys: HashMap<u128, Left>,
    counts: Counts,
}

impl Looking {
    fn new(capability: Capability<u64>) -> Self {
        Looking { capability, read: None, keys: HashMap::new(), counts: Counts::default() }
    }

    /// Takes what consolidation left of a step. All rows of a key are in one step.
    fn pair_up(&mut self, rows: Vec<(Record, i64)>) {
        let mut keys: HashMap<u128, Left> = HashMap::new();
        for (record, diff) in rows {
            keys.entry(record.key).or_default().add(record.row, diff);
        }
        for (key, left) in keys {
            if self.keys.len() < KEYS_MAX {
                self.keys.insert(key, left);
            } else {
                self.counts.add(left.kind());
                self.counts.not_read_again += 1;
            }
        }
    }

    /// If the chunk has been read, and not been handed out yet: what has to be looked at again.
    fn complete(&mut self, lists: &mut Lists) -> Option<Result<Suspect, VerifyError>> {
        let (chunk, result) = self.read.take()?;
        let rows = match result {
            Ok(rows) => rows,
            Err(reason) => return Some(Err(VerifyError(reason))),
        };
        let keys = std::mem::take(&mut self.keys);
        let list = lists.take(chunk.table, keys.len());
        Some(Ok(Suspect { chunk, rows, keys, counts: self.counts, list }))
    }
}
