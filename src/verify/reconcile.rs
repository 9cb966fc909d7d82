//! The dataflow: chunks, read on all workers, consolidated by differential, looked at again, reported.
//!
//! Time is the chunk's number (shifted, see [`STEP_BITS`]). The first worker plans and cuts; it lets as many chunks out as
//! [`CHUNKS_IN_FLIGHT`] allows, counted from the frontier behind the pairing up, so that everything between is
//! bounded. A chunk is read on the worker of its number, its rows meet on the worker of their key, and what is left of it
//! comes back to the worker of its number to be looked at again. No operator waits for a side: readers have threads of their own.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
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
use super::look::{Counts, KEYS_MAX, Left, Suspect, Verdict, Wanted};
use super::read::{self, FromReader, Pair, READERS, Record, RowsRead, STEP_BITS, Sides, Update};
use super::report::{Collector, Finding, Observer, Report};
use super::{Options, Side, VerifyError};
use crate::workers::Workers;

/// Chunks per worker that are being read and consolidated.
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
    workers: Workers,
    observer: &mut dyn Observer,
) -> Result<Report, VerifyError> {
    let (findings, found) = crossbeam_channel::unbounded();
    let stop = Arc::new(AtomicBool::new(false));
    let job = Job {
        sides: Sides { source: Arc::new(source), target: Arc::new(target), stop: Arc::clone(&stop) },
        options: options.clone(),
        findings,
    };
    let first = Arc::new(AtomicBool::new(false));
    let has_first = Arc::clone(&first);
    let workers = workers.execute(move |worker| {
        has_first.fetch_or(worker.index() == 0, Ordering::Relaxed);
        worker.dataflow(|scope| {
            let (let_out, room) = (LetOut::default(), Rc::new(Cell::new(KEYS_MAX)));
            let chunks = job.cut(scope, &let_out);
            let (rows, chunks_read) = job.read(chunks);
            let differing = rows.consolidate();
            let paired = job.pair_up(differing, chunks_read, Rc::clone(&room));
            let findings = job.look_again(paired, let_out, room);
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
    result.and_then(|()| collector.finish(first.load(Ordering::Relaxed)))
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

/// How many chunks are paired up, and whom to wake when it is more. Only of use on the first worker.
#[derive(Clone, Default)]
struct LetOut {
    chunks: Rc<Cell<u64>>,
    wake: Rc<RefCell<Option<Activator>>>,
}

impl LetOut {
    fn advance(&self, chunks: u64) {
        if chunks > self.chunks.replace(chunks)
            && let Some(wake) = &*self.wake.borrow()
        {
            wake.activate();
        }
    }
}

impl Job {
    /// The chunks of all tables, each at its own time, from the first worker.
    fn cut<'scope>(&self, scope: Scope<'scope, u64>, let_out: &LetOut) -> StreamVec<'scope, u64, Chunk> {
        let window = CHUNKS_IN_FLIGHT * scope.peers() as u64;
        source::<_, CapacityContainerBuilder<Vec<Chunk>>, _, _>(scope, "Cut", |capability, info| {
            let let_out = let_out.clone();
            *let_out.wake.borrow_mut() = Some(scope.activator_for(Rc::clone(&info.address)));
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
                while emitted < let_out.chunks.get() + window {
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
                let plans = chunks::plan(source.as_mut(), target.as_mut(), &options.tables, options.patience)?;
                let _ = findings.send(Finding::Planned(plans.clone()));
                let mut chunks = 0;
                chunks::cut(source.as_mut(), &plans, options.chunk_rows, |chunk| {
                    chunks += 1;
                    let going_on = !sides.stop.load(Ordering::Relaxed) && to.send(chunk).is_ok();
                    wake();
                    going_on
                })?;
                let _ = findings.send(Finding::Cut(chunks));
                Ok(())
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

    /// Each chunk when it is complete, with the keys that differ.
    fn pair_up<'scope>(
        &self,
        differing: VecCollection<'scope, u64, Record, i64>,
        chunks_read: StreamVec<'scope, u64, ChunkRead>,
        room: Rc<Cell<usize>>,
    ) -> StreamVec<'scope, u64, Paired> {
        let by_chunk = Exchange::new(|update: &Update| update.1 >> STEP_BITS);
        chunks_read.binary_frontier(differing.inner, Pipeline, by_chunk, "PairUp", |_, _| {
            let mut chunks: BTreeMap<u64, Pairing> = BTreeMap::new();
            let mut steps: BTreeMap<u64, Vec<(Record, i64)>> = BTreeMap::new();
            move |(read, read_frontier), (differing, frontier), output| {
                let port = output.output_index();
                read.for_each(|capability, data| {
                    for read in data.drain(..) {
                        let chunk = chunks
                            .entry(read.chunk.number)
                            .or_insert_with(|| Pairing::new(capability.delayed(&read.time, port)));
                        chunk.read = Some((read.chunk, read.result));
                    }
                });
                differing.for_each(|capability, data| {
                    for (record, time, diff) in data.drain(..) {
                        let pairing = || Pairing::new(capability.delayed(&time, port));
                        chunks.entry(time >> STEP_BITS).or_insert_with(pairing);
                        steps.entry(time).or_default().push((record, diff));
                    }
                });
                while let Some(step) = steps.first_entry()
                    && !frontier.less_equal(step.key())
                {
                    let (time, rows) = step.remove_entry();
                    let chunk = chunks.get_mut(&(time >> STEP_BITS)).expect("made with its first row");
                    chunk.pair_up(rows, &room);
                }
                while let Some(chunk) = chunks.first_entry()
                    && let next = (chunk.key() + 1) << STEP_BITS
                    && !frontier.less_than(&next)
                    && !read_frontier.less_than(&next)
                {
                    let chunk = chunk.remove();
                    let paired = chunk.read.map(|(chunk_read, result)| Paired {
                        time: *chunk.capability.time(),
                        table: chunk_read.table,
                        result,
                        counts: chunk.counts,
                        suspect: (!chunk.keys.is_empty()).then(|| Suspect::new(chunk_read, chunk.keys)),
                    });
                    output.session(&chunk.capability).give(paired.expect("no more can come of this time"));
                }
            }
        })
    }

    /// What the differing keys of each chunk are. Chunks behind it are let go as soon as they are paired up: the looks at
    /// their keys, with the pauses between, hold up nothing but the verdict.
    fn look_again<'scope>(
        &self,
        paired: StreamVec<'scope, u64, Paired>,
        let_out: LetOut,
        room: Rc<Cell<usize>>,
    ) -> StreamVec<'scope, u64, Finding> {
        let scope = paired.scope();
        paired.unary_frontier(Pipeline, "LookAgain", |_, info| {
            let wake = scope.worker().sync_activator_for(info.address.to_vec());
            let (to_look, looked) = self.spawn_look(move || {
                let _ = wake.activate();
            });
            let mut capabilities: HashMap<u64, (Capability<u64>, usize)> = HashMap::new();
            move |(input, frontier), output| {
                let port = output.output_index();
                input.for_each(|capability, data| {
                    for Paired { time, table, result, counts, suspect } in data.drain(..) {
                        let capability = capability.delayed(&time, port);
                        output.session(&capability).give(match result {
                            Ok(rows) => Finding::Compared { table, rows, counts },
                            Err(reason) => Finding::Failed(reason),
                        });
                        if let Some(suspect) = suspect {
                            capabilities.insert(suspect.chunk.number, (capability, suspect.keys()));
                            to_look.send(suspect).expect("the looking thread lives as long as this channel");
                        }
                    }
                });
                for Looked { number, table, result } in looked.try_iter() {
                    let (capability, keys) = capabilities.remove(&number).expect("a chunk has one verdict");
                    room.set(room.get() + keys);
                    let mut session = output.session(&capability);
                    match result {
                        Ok((counts, differences)) => {
                            let difference = |difference| Finding::Difference(table, Box::new(difference));
                            session.give_iterator(differences.into_iter().map(difference));
                            session.give(Finding::Looked { table, counts });
                        }
                        Err(VerifyError(reason)) => session.give(Finding::Failed(reason)),
                    }
                }
                let done = frontier.frontier().first().map_or(u64::MAX >> STEP_BITS, |time| time >> STEP_BITS);
                let_out.advance(done);
            }
        })
    }

    /// The thread that looks again for one worker.
    fn spawn_look(&self, wake: impl Fn() + Send + 'static) -> (Sender<Suspect>, Receiver<Looked>) {
        let (to_look, suspects) = crossbeam_channel::unbounded();
        let (to, looked) = crossbeam_channel::unbounded();
        let (sides, options) = (self.sides.clone(), self.options.clone());
        std::thread::Builder::new()
            .name("verify-look".into())
            .spawn(move || look_at(&sides, &options, &suspects, &to, wake))
            .expect("a thread for looking can be started");
        (to_look, looked)
    }

    /// Hands all findings to the first process.
    fn report(&self, findings: StreamVec<'_, u64, Finding>) {
        let to = self.findings.clone();
        findings.sink(Exchange::new(|_: &Finding| 0), "Report", move |(input, _)| {
            input.for_each(|_, findings| {
                for finding in findings.drain(..) {
                    // Whoever asked for the report waits until all senders are gone.
                    let _ = to.send(finding);
                }
            });
        });
    }
}

/// What the looks at a chunk came to.
struct Looked {
    number: u64,
    table: usize,
    result: Result<Verdict, VerifyError>,
}

/// A stop is noticed after so long, even in the longest pause.
const STOP_NOTICED: Duration = Duration::from_millis(100);

/// Looks at each suspect when its pause is over, until the channel is closed.
fn look_at(sides: &Sides, options: &Options, suspects: &Receiver<Suspect>, to: &Sender<Looked>, wake: impl Fn()) {
    let mut pair = Pair::new(sides.clone());
    let dialect = sides.target.dialect().filter(|_| options.repair);
    // How many more differences of each table this worker lists. Each worker may list as many as are wanted in all, since
    // which worker finds them is chance; the report takes the first.
    let mut listed: HashMap<usize, usize> = HashMap::new();
    let mut waiting: BTreeMap<(Instant, u64), Suspect> = BTreeMap::new();
    let due = |suspect: &Suspect| (Instant::now() + suspect.pause(options.patience), suspect.chunk.number);
    loop {
        let until_next = waiting.first_key_value().map(|((due, _), _)| due.saturating_duration_since(Instant::now()));
        match suspects.recv_timeout(until_next.unwrap_or(STOP_NOTICED).min(STOP_NOTICED)) {
            Ok(suspect) => drop(waiting.insert(due(&suspect), suspect)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let stopped = sides.go_on().is_err();
        while let Some(first) = waiting.first_entry()
            && (stopped || first.key().0 <= Instant::now())
        {
            let mut suspect = first.remove();
            let table = suspect.chunk.table;
            let list = listed.get(&table).map_or(options.list, |listed| options.list.saturating_sub(*listed));
            let wanted = Wanted { list, repair: dialect.as_ref() };
            let result = match sides.go_on().and_then(|()| suspect.look(&mut pair, &wanted)) {
                Ok(None) => {
                    waiting.insert(due(&suspect), suspect);
                    continue;
                }
                Ok(Some(verdict)) => {
                    *listed.entry(table).or_default() += verdict.1.len();
                    Ok(verdict)
                }
                Err(error) => Err(error),
            };
            if to.send(Looked { number: suspect.chunk.number, table, result }).is_err() {
                return;
            }
            wake();
        }
    }
}

/// A chunk that has been read and consolidated.
#[derive(Clone, Debug)]
struct Paired {
    /// A time of the chunk.
    time: u64,
    table: usize,
    result: Result<RowsRead, String>,
    /// Keys that differ and are too many to be looked at again.
    counts: Counts,
    /// Those that are not.
    suspect: Option<Suspect>,
}

/// A chunk on its way there.
struct Pairing {
    capability: Capability<u64>,
    read: Option<(Chunk, Result<RowsRead, String>)>,
    keys: HashMap<u128, Left>,
    counts: Counts,
}

impl Pairing {
    fn new(capability: Capability<u64>) -> Self {
        Pairing { capability, read: None, keys: HashMap::new(), counts: Counts::default() }
    }

    /// Takes what consolidation left of a step. All rows of a key are in one step.
    fn pair_up(&mut self, rows: Vec<(Record, i64)>, room: &Cell<usize>) {
        let mut keys: HashMap<u128, Left> = HashMap::new();
        for (record, diff) in rows {
            keys.entry(record.key).or_default().add(record.row, diff);
        }
        for (key, left) in keys {
            if let Some(less) = room.get().checked_sub(1) {
                room.set(less);
                self.keys.insert(key, left);
            } else {
                self.counts.add(left.kind());
                self.counts.not_read_again += 1;
            }
        }
    }
}
