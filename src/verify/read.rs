//! Reads both sides of a chunk, on threads of their own, into records for the dataflow.
//!
//! A reader has a connection to each side and asks both at the same time, so that a chunk is complete on both sides at
//! about the same moment and nothing waits in memory for its counterpart. A worker has [`READERS`] of them: while one waits
//! for the slower side of its chunk, the other keeps the faster side busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytemuck::{Pod, Zeroable};
use crossbeam_channel::{Receiver, Sender};
use serde::{Deserialize, Serialize};
use timely::scheduling::SyncActivator;

use super::canonical::{self, Rules};
use super::chunks::{Chunk, PlanColumn};
use super::spill::{BUCKETS, Spill};
use super::{Keys, RowSink, Session, Side, TablePlan, Value, VerifyError};

/// Readers per worker, each with a connection to each side.
pub const READERS: usize = 2;

/// A chunk's time is its number shifted by so many bits; the bits below number the steps of a chunk that is dealt into
/// buckets.
pub const STEP_BITS: u32 = 12;

/// Batches that may wait between a worker's readers and its dataflow.
const BATCHES_WAITING: usize = 16;

/// Records of a batch.
const BATCH_RECORDS: usize = 2048;

/// A row: the hash of its key's canonical form, and that of the whole row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Pod, Zeroable)]
#[repr(C)]
pub struct Record {
    /// Hash of the key.
    pub key: u128,
    /// Hash of all columns.
    pub row: u128,
}

/// Records go to workers by key, so that the two versions of a changed row meet. The key is a hash already.
impl std::hash::Hash for Record {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.key as u64);
    }
}

/// A record, its time and +1 (source) or -1 (target).
pub type Update = (Record, u64, i64);

/// What a reader tells the dataflow.
pub enum FromReader {
    /// Rows of a chunk.
    Updates {
        /// The chunk.
        number: u64,
        /// Its rows, all of one time.
        updates: Vec<Update>,
    },
    /// There are no more rows of the chunk below this time.
    Step {
        /// The chunk.
        number: u64,
        /// The time.
        time: u64,
    },
    /// The chunk has been read.
    Done {
        /// The chunk.
        number: u64,
        /// How, and with how many rows.
        result: Result<RowsRead, VerifyError>,
    },
}

/// Rows read on each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsRead {
    /// Of the source.
    pub source: u64,
    /// Of the target.
    pub target: u64,
}

/// The two sides.
#[derive(Clone)]
pub struct Sides {
    /// The source.
    pub source: Arc<dyn Side>,
    /// The target.
    pub target: Arc<dyn Side>,
    /// Something failed: reading more is of no use.
    pub stop: Arc<AtomicBool>,
}

impl Sides {
    /// Breaks a reading off that is of no use any more.
    ///
    /// # Errors
    /// To be passed on; nobody gets to see it, since another error came first.
    pub fn go_on(&self) -> Result<(), VerifyError> {
        if self.stop.load(Ordering::Relaxed) { Err(VerifyError("the comparison has stopped".into())) } else { Ok(()) }
    }
}

/// Connections to both sides, made when first needed.
pub struct Pair {
    sides: Sides,
    sessions: Option<Sessions>,
}

struct Sessions {
    source: Box<dyn Session>,
    target: Box<dyn Session>,
    rules: Rules,
}

impl Pair {
    /// Not connected yet.
    pub fn new(sides: Sides) -> Self {
        Pair { sides, sessions: None }
    }

    /// The connection to the source, the one to the target, and the rules of comparing.
    ///
    /// # Errors
    /// A side can't be reached.
    pub fn sessions(&mut self) -> Result<(&mut dyn Session, &mut dyn Session, Rules), VerifyError> {
        if self.sessions.is_none() {
            let rules = self.sides.target.rules()?;
            let (source, target) = (self.sides.source.connect()?, self.sides.target.connect()?);
            self.sessions = Some(Sessions { source, target, rules });
        }
        let sessions = self.sessions.as_mut().expect("just connected");
        Ok((sessions.source.as_mut(), sessions.target.as_mut(), sessions.rules))
    }

    /// Reads keys of a table from both sides at once.
    ///
    /// # Errors
    /// What either side says.
    pub fn read<S: ChunkSink + Send, T: ChunkSink + Send>(
        &mut self,
        plan: &TablePlan,
        keys: &Keys,
        source_sink: impl FnOnce(Rules) -> S,
        target_sink: impl FnOnce(Rules) -> T,
    ) -> Result<(S, T), VerifyError> {
        let (source, target, rules) = self.sessions()?;
        let (mut source_sink, mut target_sink) = (source_sink(rules), target_sink(rules));
        std::thread::scope(|scope| {
            let target_sink = &mut target_sink;
            let target = std::thread::Builder::new().name("verify-target".into()).spawn_scoped(scope, move || {
                if plan.target_exists {
                    target.read(plan, keys, target_sink)?;
                }
                target_sink.complete()
            });
            let target = target.map_err(|error| VerifyError(format!("no thread for reading the target: {error}")))?;
            let source = source.read(plan, keys, &mut source_sink).and_then(|()| source_sink.complete());
            let target = target.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            source.and(target)
        })?;
        Ok((source_sink, target_sink))
    }
}

/// A sink that is told when its side of a chunk is complete.
pub trait ChunkSink: RowSink {
    /// The side has no more rows in the chunk.
    ///
    /// # Errors
    /// As [`RowSink::end`].
    fn complete(&mut self) -> Result<(), VerifyError> {
        Ok(())
    }
}

/// Makes a row's canonical form and hashes while its values come.
pub struct Hasher {
    columns: Vec<PlanColumn>,
    target: bool,
    key: Vec<usize>,
    rules: Rules,
    column: usize,
    row: Vec<u8>,
    /// Where each value of the row ends.
    ends: Vec<usize>,
    key_bytes: Vec<u8>,
}

impl Hasher {
    /// For rows of the table, from the target or from the source.
    pub fn new(plan: &TablePlan, rules: Rules, target: bool) -> Self {
        Hasher {
            columns: plan.columns.clone(),
            target,
            key: plan.key.clone(),
            rules,
            column: 0,
            row: Vec::new(),
            ends: Vec::new(),
            key_bytes: Vec::new(),
        }
    }

    /// The next value of the row.
    #[inline]
    pub fn value(&mut self, value: Value) {
        canonical_at(self.target, &self.columns[self.column], value, self.rules, &mut self.row);
        self.ends.push(self.row.len());
        self.column += 1;
    }

    /// The place of the leading key column.
    pub fn leading(&self) -> usize {
        self.key[0]
    }

    /// The row's hashes; the next value begins another row.
    #[inline]
    pub fn end(&mut self) -> Record {
        self.key_bytes.clear();
        for &column in &self.key {
            let start = if column == 0 { 0 } else { self.ends[column - 1] };
            self.key_bytes.extend_from_slice(&self.row[start..self.ends[column]]);
        }
        let record = Record { key: canonical::hash(&self.key_bytes), row: canonical::hash(&self.row) };
        self.row.clear();
        self.ends.clear();
        self.column = 0;
        record
    }
}

/// Appends the canonical form of a column's value at the target, or at the source.
#[inline]
pub fn canonical_at(target: bool, column: &PlanColumn, value: Value, rules: Rules, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) if target && column.target_text => {
            // PostgreSQL's CHAR pads with blanks, which do not count.
            let last = text.iter().rposition(|byte| *byte != b' ' || column.target_type != "bpchar");
            let text = &text[..last.map_or(0, |last| last + 1)];
            canonical::canonical_of_text(column.ty, text, rules, out);
        }
        value => canonical::canonical(column.ty, value, rules, out),
    }
}

/// Where a reader's messages go.
#[derive(Clone)]
struct Outlet {
    sides: Sides,
    to: Sender<FromReader>,
    wake: Arc<SyncActivator>,
}

impl Outlet {
    fn send(&self, message: FromReader) -> Result<(), VerifyError> {
        let stopped = |_| VerifyError("the comparison has stopped".into());
        self.to.send(message).map_err(stopped)?;
        // The worker may be gone already; then the next send fails.
        let _ = self.wake.activate();
        Ok(())
    }
}

/// Batches of one side of a chunk at one time.
struct Batches<'a> {
    outlet: &'a Outlet,
    number: u64,
    time: u64,
    diff: i64,
    updates: Vec<Update>,
    rows: u64,
}

impl<'a> Batches<'a> {
    fn new(outlet: &'a Outlet, number: u64, diff: i64) -> Self {
        let updates = Vec::with_capacity(BATCH_RECORDS);
        Batches { outlet, number, time: number << STEP_BITS, diff, updates, rows: 0 }
    }

    #[inline]
    fn push(&mut self, record: Record) -> Result<(), VerifyError> {
        self.updates.push((record, self.time, self.diff));
        self.rows += 1;
        if self.updates.len() == BATCH_RECORDS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), VerifyError> {
        if self.updates.is_empty() {
            return Ok(());
        }
        self.outlet.sides.go_on()?;
        let updates = std::mem::replace(&mut self.updates, Vec::with_capacity(BATCH_RECORDS));
        self.outlet.send(FromReader::Updates { number: self.number, updates })
    }
}

/// Sends the rows of a range as they come.
struct StreamSink<'a> {
    hasher: Hasher,
    batches: Batches<'a>,
}

impl RowSink for StreamSink<'_> {
    fn value(&mut self, value: Value) {
        self.hasher.value(value);
    }

    fn end(&mut self) -> Result<(), VerifyError> {
        let record = self.hasher.end();
        self.batches.push(record)
    }
}

impl ChunkSink for StreamSink<'_> {
    fn complete(&mut self) -> Result<(), VerifyError> {
        self.batches.flush()
    }
}

/// Deals the rows of a large chunk into buckets.
struct SpillSink<'a> {
    sides: &'a Sides,
    hasher: Hasher,
    spill: Spill,
}

impl RowSink for SpillSink<'_> {
    fn value(&mut self, value: Value) {
        self.hasher.value(value);
    }

    fn end(&mut self) -> Result<(), VerifyError> {
        let record = self.hasher.end();
        if self.spill.rows().is_multiple_of(BATCH_RECORDS as u64) {
            self.sides.go_on()?;
        }
        self.spill.push(record)
    }
}

impl ChunkSink for SpillSink<'_> {}

/// Starts a worker's readers. They end when the sender of `chunks` is gone.
pub fn spawn(sides: &Sides, chunk_rows: usize, chunks: &Receiver<Chunk>, wake: SyncActivator) -> Receiver<FromReader> {
    let (to, from_readers) = crossbeam_channel::bounded(BATCHES_WAITING);
    let outlet = Outlet { sides: sides.clone(), to, wake: Arc::new(wake) };
    for _ in 0..READERS {
        let (outlet, chunks, mut pair) = (outlet.clone(), chunks.clone(), Pair::new(sides.clone()));
        let reader = move || {
            for chunk in chunks {
                let result = if chunk.many_rows {
                    read_dealt(&mut pair, &chunk, chunk_rows, &outlet)
                } else {
                    read_streamed(&mut pair, &chunk, &outlet)
                };
                if outlet.send(FromReader::Done { number: chunk.number, result }).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("verify-read".into())
            .spawn(reader)
            .expect("a thread for reading can be started");
    }
    from_readers
}

fn read_streamed(pair: &mut Pair, chunk: &Chunk, outlet: &Outlet) -> Result<RowsRead, VerifyError> {
    let sink = |target: bool| {
        let batches = Batches::new(outlet, chunk.number, if target { -1 } else { 1 });
        move |rules| StreamSink { hasher: Hasher::new(&chunk.plan, rules, target), batches }
    };
    let (source, target) = pair.read(&chunk.plan, &Keys::Range(chunk.range), sink(false), sink(true))?;
    Ok(RowsRead { source: source.batches.rows, target: target.batches.rows })
}

fn read_dealt(pair: &mut Pair, chunk: &Chunk, chunk_rows: usize, outlet: &Outlet) -> Result<RowsRead, VerifyError> {
    let sink = |target: bool| {
        move |rules| SpillSink {
            sides: &outlet.sides,
            hasher: Hasher::new(&chunk.plan, rules, target),
            spill: Spill::new(),
        }
    };
    let (source, target) = pair.read(&chunk.plan, &Keys::Range(chunk.range), sink(false), sink(true))?;
    let sides = [(source.spill, 1), (target.spill, -1)];
    let rows = RowsRead { source: sides[0].0.rows(), target: sides[1].0.rows() };
    // A step is a few buckets: about as many rows as some chunks, so that small tables take one.
    let steps = ((rows.source + rows.target) / (8 * chunk_rows as u64)).clamp(1, BUCKETS as u64) as usize;
    for step in 0..steps {
        let time = (chunk.number << STEP_BITS) + step as u64;
        outlet.send(FromReader::Step { number: chunk.number, time })?;
        for (spill, diff) in &sides {
            let mut batches = Batches { time, ..Batches::new(outlet, chunk.number, *diff) };
            for bucket in step * BUCKETS / steps..(step + 1) * BUCKETS / steps {
                spill.bucket(bucket, |records| records.iter().try_for_each(|record| batches.push(*record)))?;
            }
            batches.flush()?;
        }
    }
    Ok(rows)
}
