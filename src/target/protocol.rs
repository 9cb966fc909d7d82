//! Exactly once, on targets with transactions and without: the order in which a job writes rows and progress.
//!
//! A job keeps at the target a *generation*, which fences an older copy of it, for each lane its *progress*, and a
//! *checkpoint*. A generation is taken by compare-and-set with a token of our own, which needs neither RETURNING nor
//! affected-row counts. Then:
//!
//! - Where there are transactions, a step is one: it holds the generation, writes the rows, and last the progress. Taking a
//!   new generation waits for it, and no later step of an older run gets past it.
//! - Where there are none, a step first writes how far it goes (`through`), then the rows, then the progress. Whatever is
//!   half written after a crash is written again by a step that goes at least as far, and so never back to an older row.
//! - A statement may still be running when its client is dead. A new run waits until no session of an older one is left, and
//!   so does a lane that has lost its connection: then nothing old is written behind something new.
//!
//! Either way a step can be repeated from its beginning, and that is all that is done about lost connections; the answer to
//! a commit may be what was lost, so progress is read first. It also says whether the target is still the one that it was: one
//! that was restored, or has failed over to a copy that was behind, lacks steps that had been durable. Then a run has to
//! begin anew, from what is there; whatever goes on, a step or a checkpoint, would pass over what is lost.
//!
//! What a server is, and the SQL, is a [`Store`]'s business; the simulator in `tests/` has stores that break in every
//! place where a server can.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::retry::{Attempts, Failure};
use super::{
    Checkpoint, FindSchema, JobState, Lane, Progress, Seqs, Step, Target, TargetError, gone, refuse_lost, refuse_other,
};

/// How long a wait for the end of other sessions lasts at a time.
const SESSIONS_PAUSE: Duration = Duration::from_millis(20);

/// What is kept of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// The newest run.
    pub generation: u64,
    /// The lanes that the job was begun with.
    pub lanes: u32,
    /// The log that it reads.
    pub log: String,
    /// Whoever took the generation.
    pub token: String,
}

/// What is kept of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneRow {
    /// What it has applied.
    pub progress: Progress,
    /// Where the step ends that may be half written; where the progress is, if none is.
    pub through: Seqs,
}

impl LaneRow {
    /// What a step reaches.
    fn reached(step: &Step) -> LaneRow {
        LaneRow { progress: step.progress.clone(), through: step.progress.seqs.clone() }
    }
}

/// A session of a job at the target, as the server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherSession {
    /// The server's id of it.
    pub id: i64,
    /// The run that it belongs to.
    pub generation: u64,
    /// The lane's number, or what else the session is for.
    pub who: String,
}

/// A system that keeps rows, and what jobs need, and is reached by sessions.
pub trait Store: Send + Sync + 'static {
    /// A session.
    type Session: Session;

    /// Opens a session, which the server lists under job, generation and `who`. Nothing that it sends is executed once the
    /// server lists it no more.
    ///
    /// # Errors
    /// Whether the failure passes.
    fn connect(&self, job: &str, generation: u64, who: &str) -> Result<Self::Session, Failure>;

    /// Lets time pass before another attempt.
    fn pause(&self, pause: Duration) {
        std::thread::sleep(pause);
    }
}

/// A connection to a target. Each call is a statement or a few; where there are no transactions each may be done by halves.
pub trait Session: Send {
    /// Whether what stands between `begin` and `commit` happens whole or not at all.
    fn is_atomic(&self) -> bool;

    /// How long a statement may take before the server ends it.
    fn statement_timeout(&self) -> Duration;

    /// Creates what jobs keep, where it is missing.
    ///
    /// # Errors
    /// As of every call: whether the failure passes.
    fn create_progress(&mut self) -> Result<(), Failure>;

    /// Begins a transaction.
    ///
    /// # Errors
    /// See [`create_progress`](Session::create_progress), here and below.
    fn begin(&mut self) -> Result<(), Failure>;

    /// Commits it.
    ///
    /// # Errors
    /// Whether it was committed is not known then.
    fn commit(&mut self) -> Result<(), Failure>;

    /// Takes it back. If that fails, the session is to be given up.
    ///
    /// # Errors
    /// As above.
    fn rollback(&mut self) -> Result<(), Failure>;

    /// Refuses a job whose tables are to be others than those that it has landed.
    ///
    /// # Errors
    /// As above.
    fn refuse_moved(&mut self, _job: &str) -> Result<(), Failure> {
        Ok(())
    }

    /// What is kept of a job.
    ///
    /// # Errors
    /// As above.
    fn job(&mut self, job: &str) -> Result<Option<JobRow>, Failure>;

    /// Adds a job, if there is none of that name.
    ///
    /// # Errors
    /// As above.
    fn add_job(&mut self, job: &str, row: &JobRow) -> Result<(), Failure>;

    /// Replaces a job's row if its generation is still `from`; whether it was is to be read. `false`: a transaction of an
    /// older run holds it.
    ///
    /// # Errors
    /// As above.
    fn replace_job(&mut self, job: &str, from: u64, row: &JobRow) -> Result<bool, Failure>;

    /// The generation of a job. `hold`: inside a transaction, that it stays so until the end of it.
    ///
    /// # Errors
    /// As above.
    fn generation(&mut self, job: &str, hold: bool) -> Result<Option<u64>, Failure>;

    /// What is kept of each lane of a job.
    ///
    /// # Errors
    /// As above.
    fn lanes(&mut self, job: &str) -> Result<BTreeMap<u32, LaneRow>, Failure>;

    /// Writes what is kept of a lane, unless a newer generation has.
    ///
    /// # Errors
    /// As above.
    fn save_lane(&mut self, job: &str, lane: u32, generation: u64, row: &LaneRow) -> Result<(), Failure>;

    /// A job's checkpoint.
    ///
    /// # Errors
    /// As above.
    fn checkpoint(&mut self, job: &str) -> Result<Option<Checkpoint>, Failure>;

    /// Writes a job's checkpoint, unless a newer generation has.
    ///
    /// # Errors
    /// As above.
    fn save_checkpoint(&mut self, job: &str, generation: u64, checkpoint: &Checkpoint) -> Result<(), Failure>;

    /// The job's other sessions.
    ///
    /// # Errors
    /// As above.
    fn sessions(&mut self, job: &str) -> Result<Vec<OtherSession>, Failure>;

    /// Asks the server to end sessions; those that it may not end end their statements by themselves, in time.
    ///
    /// # Errors
    /// As above.
    fn terminate(&mut self, sessions: &[OtherSession]) -> Result<(), Failure>;

    /// Makes tables fit for a step, outside of any transaction.
    ///
    /// # Errors
    /// As above.
    fn prepare(&mut self, step: &Step, schemas: &FindSchema) -> Result<(), Failure>;

    /// Writes the rows of a step: deletes first, since they make room in a unique index that the target may have.
    ///
    /// # Errors
    /// As above.
    fn write(&mut self, step: &Step) -> Result<(), Failure>;

    /// Adds a column that rows have and the target's table lacks.
    ///
    /// # Errors
    /// As above.
    fn provide_column(
        &mut self,
        table: &crate::change::TableName,
        column: &str,
        schemas: &FindSchema,
    ) -> Result<(), Failure>;

    /// The row of the step that the server refused in [`write`](Session::write).
    ///
    /// # Errors
    /// As above, while it is looked for.
    fn blame(&mut self, step: &Step, refused: super::retry::Refused) -> Result<TargetError, Failure>;
}

/// The target that a store is.
pub struct StoreTarget<S: Store> {
    store: Arc<S>,
    /// The session that writes checkpoints.
    checkpoints: Mutex<Option<S::Session>>,
}

impl<S: Store> StoreTarget<S> {
    /// The target that `store` is. Nothing is connected yet.
    pub fn over(store: Arc<S>) -> Self {
        StoreTarget { store, checkpoints: Mutex::new(None) }
    }

    fn write_checkpoint(
        &self,
        held: &mut Option<S::Session>,
        job: &str,
        generation: u64,
        checkpoint: &Checkpoint,
    ) -> Result<(), Failure> {
        let session = match held {
            Some(session) => session,
            None => held.insert(self.store.connect(job, generation, "checkpoint")?),
        };
        let atomic = session.is_atomic();
        if atomic {
            session.begin()?;
        }
        refuse_fenced(session, job, generation, atomic)?;
        let lanes = session.lanes(job)?;
        for (lane, step) in &checkpoint.steps {
            refuse_lost(job, *lane, lanes.get(lane).map_or(0, |row| row.progress.step), *step)
                .map_err(Failure::Final)?;
        }
        session.save_checkpoint(job, generation, checkpoint)?;
        if atomic {
            session.commit()?;
        }
        Ok(())
    }
}

impl<S: Store> Target for StoreTarget<S> {
    fn begin(&self, job: &str, lanes: u32, log: &str) -> Result<JobState, TargetError> {
        let store = &*self.store;
        let mut attempts = Attempts::new();
        let mut reached = false;
        loop {
            let mut begin = || -> Result<JobState, Failure> {
                let mut session = store.connect(job, 0, "begin")?;
                reached = true;
                session.create_progress()?;
                session.refuse_moved(job)?;
                let generation = take_generation(&mut session, job, lanes, log)?;
                let old = |other: &OtherSession| other.generation < generation && other.who != "begin";
                end_sessions(store, &mut session, job, old)?;
                job_state(&mut session, job, generation)
            };
            match begin() {
                Ok(state) => return Ok(state),
                // What was never there is said at once: most likely the configuration is wrong.
                Err(failure) if !reached => return Err(failure.into()),
                Err(failure) => failure.passes(&format!("job '{job}'"), &mut attempts, |pause| store.pause(pause))?,
            }
        }
    }

    fn lane(&self, job: &str, lane: u32, generation: u64, schemas: FindSchema) -> Result<Box<dyn Lane>, TargetError> {
        let store = Arc::clone(&self.store);
        let mut lane = StoreLane { store, job: job.to_string(), lane, generation, schemas, open: None };
        let mut attempts = Attempts::new();
        while let Err(failure) = lane.connect() {
            lane.passes(failure, &mut attempts)?;
        }
        Ok(Box::new(lane))
    }

    fn checkpoint(&self, job: &str, generation: u64, checkpoint: &Checkpoint) -> Result<(), TargetError> {
        let mut held = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attempts = Attempts::new();
        while let Err(failure) = self.write_checkpoint(&mut held, job, generation, checkpoint) {
            *held = None;
            let place = format!("job '{job}', checkpoint");
            failure.passes(&place, &mut attempts, |pause| self.store.pause(pause))?;
        }
        Ok(())
    }
}

/// One lane's connection.
struct StoreLane<S: Store> {
    store: Arc<S>,
    job: String,
    lane: u32,
    generation: u64,
    schemas: FindSchema,
    open: Option<Open<S::Session>>,
}

/// What is lost with a connection.
struct Open<S> {
    session: S,
    row: LaneRow,
}

impl<S: Store> Lane for StoreLane<S> {
    fn apply(&mut self, step: &Step) -> Result<(), TargetError> {
        let mut attempts = Attempts::new();
        loop {
            let failure = match (self.attempt(step, attempts.failed() > 0), &mut self.open) {
                (Ok(()), _) => return Ok(()),
                (Err(Failure::Data(refused)), Some(open)) => match open.session.blame(step, refused) {
                    Ok(error) => return Err(error),
                    Err(failure) => failure,
                },
                (Err(Failure::MissingColumn { table, column }), Some(open)) => {
                    match open.session.provide_column(&table, &column, &self.schemas) {
                        Ok(()) => continue,
                        Err(failure) => failure,
                    }
                }
                (Err(failure), _) => failure,
            };
            self.open = None;
            self.passes(failure, &mut attempts)?;
        }
    }
}

impl<S: Store> StoreLane<S> {
    fn passes(&self, failure: Failure, attempts: &mut Attempts) -> Result<(), TargetError> {
        let place = format!("job '{}', lane {}", self.job, self.lane);
        failure.passes(&place, attempts, |pause| self.store.pause(pause))
    }

    fn connect(&mut self) -> Result<(), Failure> {
        let (job, generation, who) = (&self.job, self.generation, self.lane.to_string());
        let mut session = self.store.connect(job, generation, &who)?;
        refuse_fenced(&mut session, job, generation, false)?;
        // A lost connection's last statement may still be running.
        let old = |other: &OtherSession| other.generation <= generation && other.who == who;
        end_sessions(&*self.store, &mut session, job, old)?;
        let row = session.lanes(job)?.remove(&self.lane).unwrap_or_default();
        self.open = Some(Open { session, row });
        Ok(())
    }

    fn attempt(&mut self, step: &Step, repeated: bool) -> Result<(), Failure> {
        if self.open.is_none() {
            self.connect()?;
        }
        let Open { session, row } = self.open.as_mut().expect("connected just now");
        if repeated && row.progress.step >= step.progress.step {
            return Ok(());
        }
        refuse_lost(&self.job, self.lane, row.progress.step, step.progress.step - 1).map_err(Failure::Final)?;
        session.prepare(step, &self.schemas)?;
        if session.is_atomic() {
            session.begin()?;
            match self.write_all(step) {
                Ok(()) => self.session().commit()?,
                Err(failure) => {
                    // If this fails too, the connection is lost and the transaction with it.
                    if self.session().rollback().is_err() {
                        self.open = None;
                    }
                    return Err(failure);
                }
            }
        } else {
            self.write_all(step)?;
        }
        let open = self.open.as_mut().expect("still there");
        open.row = LaneRow::reached(step);
        Ok(())
    }

    fn session(&mut self) -> &mut S::Session {
        &mut self.open.as_mut().expect("connected before").session
    }

    /// Rows and progress, in the order that makes repeating safe.
    fn write_all(&mut self, step: &Step) -> Result<(), Failure> {
        let StoreLane { job, lane, generation, open, .. } = self;
        let Open { session, row } = open.as_mut().expect("connected before");
        let atomic = session.is_atomic();
        refuse_fenced(session, job, *generation, atomic)?;
        if !atomic && !step.progress.seqs.covers(&row.through) {
            return Err(Failure::Final(TargetError::Target(format!(
                "job '{job}', lane {lane}: a step up to {:?} after one up to {:?} that may be half written: rows would go back",
                step.progress.seqs, row.through
            ))));
        }
        if !atomic && !step.is_empty() {
            row.through = step.progress.seqs.clone();
            session.save_lane(job, *lane, *generation, row)?;
        }
        session.write(step)?;
        session.save_lane(job, *lane, *generation, &LaneRow::reached(step))
    }
}

/// Takes the next generation of a job.
fn take_generation(session: &mut impl Session, job: &str, lanes: u32, log: &str) -> Result<u64, Failure> {
    let token = format!("{:016x}", RandomState::new().build_hasher().finish());
    loop {
        let Some(known) = session.job(job)? else {
            let has_progress = !session.lanes(job)?.is_empty() || session.checkpoint(job)?.is_some();
            if !has_progress {
                session.add_job(job, &JobRow { generation: 0, lanes, log: log.to_string(), token: String::new() })?;
            } else if session.job(job)?.is_none() {
                return Err(Failure::Final(gone(job, "tidegate.")));
            }
            // Or another copy of the job has begun it meanwhile.
            continue;
        };
        refuse_other(job, (known.lanes, &known.log), (lanes, log))?;
        // Whether it was this process that took it, only the row itself says: affected-row counts are not to be trusted.
        if known.token == token {
            return Ok(known.generation);
        }
        let next = JobRow { generation: known.generation + 1, lanes, log: log.to_string(), token: token.clone() };
        if !session.replace_job(job, known.generation, &next)? {
            // A step of an older run holds the row; if its client is dead, nobody will end it.
            let mut older = session.sessions(job)?;
            older.retain(|other| other.generation <= known.generation);
            session.terminate(&older)?;
        }
    }
}

/// What is known of a job.
fn job_state(session: &mut impl Session, job: &str, generation: u64) -> Result<JobState, Failure> {
    let mut state = JobState { generation, checkpoint: session.checkpoint(job)?, ..JobState::default() };
    for (lane, row) in session.lanes(job)? {
        if !row.progress.seqs.covers(&row.through) {
            state.through.insert(lane, row.through);
        }
        // A lane that has only said where its first step goes has applied nothing yet.
        if row.progress != Progress::default() {
            state.lanes.insert(lane, row.progress);
        }
    }
    Ok(state)
}

/// Fails if a newer generation of the job has begun. `hold`: inside a transaction, that it stays so until the end of it.
fn refuse_fenced(session: &mut impl Session, job: &str, generation: u64, hold: bool) -> Result<(), Failure> {
    match session.generation(job, hold)? {
        Some(newest) if newest == generation => Ok(()),
        Some(newer) => Err(Failure::Final(TargetError::Fenced { job: job.to_string(), ours: generation, newer })),
        None => Err(Failure::Final(gone(job, "tidegate."))),
    }
}

/// Ends the job's sessions that `old` picks and waits until they are gone: a statement of a dead client may still be
/// running, and without transactions it would write old rows over new ones.
fn end_sessions<S: Store>(
    store: &S,
    session: &mut S::Session,
    job: &str,
    old: impl Fn(&OtherSession) -> bool,
) -> Result<(), Failure> {
    let patience = session.statement_timeout() + Duration::from_secs(5);
    let mut waited = Duration::ZERO;
    loop {
        let left: Vec<OtherSession> = session.sessions(job)?.into_iter().filter(&old).collect();
        if left.is_empty() {
            return Ok(());
        }
        session.terminate(&left)?;
        if waited > patience {
            // A transaction of an older run can't commit any more: it would need the generation's row.
            if session.is_atomic() {
                return Ok(());
            }
            let ids: Vec<String> = left.iter().map(|other| other.id.to_string()).collect();
            return Err(Failure::Final(TargetError::Target(format!(
                "job '{job}': sessions of an older run are still at the target and can't be ended: stop the other copy of the job, or \
                 let an administrator run pg_terminate_backend for pid {}",
                ids.join(", ")
            ))));
        }
        store.pause(SESSIONS_PAUSE);
        waited += SESSIONS_PAUSE;
    }
}

#[cfg(test)]
mod tests;
