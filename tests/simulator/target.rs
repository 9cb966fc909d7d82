//! A target in memory, with transactions or without: sessions that are lost, statements that answer nothing, are done by
//! halves, or are executed when their client is long dead.
//!
//! Every write of a row is looked at: a row that goes back to an older value, and a lane that goes back in its steps, are
//! violations whenever they happen, not only in the end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tidegate::change::{Op, TableName};
use tidegate::target::protocol::{JobRow, LaneRow, OtherSession, Session, Store};
use tidegate::target::{Checkpoint, Failure, FindSchema, Progress, Refused, Step, TargetError};

use super::world::{Kind, below, call, chance, fails, pause, trace, world};
use super::{Broken, Switch};

/// One thing that a statement does.
#[derive(Clone, Debug)]
enum Effect {
    Row {
        table: String,
        key: String,
        seq: u64,
        value: Option<String>,
    },
    Lane {
        job: String,
        lane: u32,
        generation: u64,
        row: LaneRow,
    },
    Checkpoint {
        job: String,
        generation: u64,
        checkpoint: Checkpoint,
    },
    Job {
        job: String,
        from: Option<u64>,
        row: JobRow,
    },
    /// All that the session's transaction has done.
    Commit,
}

/// What the server keeps.
#[derive(Clone, Default)]
struct Kept {
    rows: BTreeMap<(String, String), String>,
    /// The newest seq that each row has shown.
    newest: BTreeMap<(String, String), u64>,
    jobs: BTreeMap<String, JobRow>,
    lanes: BTreeMap<(String, u32), (u64, LaneRow)>,
    checkpoints: BTreeMap<String, (u64, Checkpoint)>,
}

#[derive(Default)]
struct Server {
    kept: Kept,
    /// A copy that lags behind, as a standby does; none is older than the newest run.
    copy: Option<Kept>,
    /// The newest step that each lane was told is durable.
    told: BTreeMap<(String, u32), u64>,
    sessions: BTreeMap<i64, ServerSession>,
    next: i64,
}

#[derive(Default)]
struct ServerSession {
    job: String,
    generation: u64,
    who: String,
    /// What the transaction has done so far.
    transaction: Option<Vec<Effect>>,
    /// Whether the transaction keeps the job's generation.
    holds: bool,
    /// The client is gone.
    orphaned: bool,
    /// Somebody has asked for its end.
    terminated: bool,
    /// What is still to be executed of the statement under way.
    running: VecDeque<Effect>,
}

/// The target, shared by all that speak to it.
#[derive(Clone)]
pub struct Model {
    server: Arc<Mutex<Server>>,
    atomic: bool,
    broken: Broken,
}

impl Model {
    pub fn new(atomic: bool, broken: Broken) -> Model {
        Model { server: Arc::default(), atomic, broken }
    }

    fn lock(&self) -> MutexGuard<'_, Server> {
        self.server.lock().expect("nothing panics while holding it")
    }

    /// Something that the server does on its own: statements of clients that are gone go on, and their sessions end.
    pub fn event(&self) {
        let server = &mut *self.lock();
        if self.atomic && chance(8) {
            server.copy = Some(server.kept.clone());
        }
        if fails() && chance(2) {
            server.fail_over();
        }
        let ids: Vec<i64> =
            server.sessions.iter().filter(|(_, s)| s.orphaned || s.terminated).map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[below(ids.len() as u64) as usize];
        let session = server.sessions.get_mut(&id).expect("just seen");
        if session.terminated && chance(2) {
            server.sessions.remove(&id);
            return;
        }
        match session.running.pop_front() {
            Some(effect) => server.execute(id, effect),
            None if session.orphaned => drop(server.sessions.remove(&id)),
            None => {}
        }
    }

    /// Whether no session is left.
    pub fn is_quiet(&self) -> bool {
        self.lock().sessions.is_empty()
    }

    /// Each table's rows: value by key.
    pub fn rows(&self) -> BTreeMap<(String, String), String> {
        self.lock().kept.rows.clone()
    }

    /// The copy is no good any more: what it would go on from is gone.
    pub fn lose_copy(&self) {
        self.lock().copy = None;
    }

    /// The offsets of a job's checkpoint.
    pub fn checkpoint(&self, job: &str) -> Option<BTreeMap<u32, u64>> {
        self.lock().kept.checkpoints.get(job).map(|(_, checkpoint)| checkpoint.offsets.clone())
    }
}

impl Server {
    /// The copy takes over: what it lacks is lost, and so are all sessions.
    fn fail_over(&mut self) {
        if let Some(copy) = self.copy.take() {
            trace(|| "the target fails over to a copy".to_string());
            self.kept = copy;
            self.sessions.clear();
        }
    }

    fn execute(&mut self, id: i64, effect: Effect) {
        trace(|| format!("session {id}: {effect:?}"));
        let kept = &mut self.kept;
        match effect {
            Effect::Row { table, key, seq, value } => {
                let row = (table, key);
                let newest = kept.newest.entry(row.clone()).or_default();
                if seq < *newest {
                    world().violated(format!("row {row:?} goes back from seq {newest} to {seq}"));
                }
                *newest = seq.max(*newest);
                match value {
                    Some(value) => drop(kept.rows.insert(row, value)),
                    None => drop(kept.rows.remove(&row)),
                }
            }
            Effect::Lane { job, lane, generation, row } => {
                let told = self.told.entry((job.clone(), lane)).or_default();
                *told = row.progress.step.max(*told);
                let known = kept.lanes.entry((job, lane)).or_default();
                if generation < known.0 {
                    return;
                }
                let before = &known.1.progress;
                if row.progress.step < before.step
                    || row.progress.epoch < before.epoch
                    || !row.progress.seqs.covers(&before.seqs)
                {
                    world().violated(format!("lane {lane} goes back from {before:?} to {:?}", row.progress));
                }
                *known = (generation, row);
            }
            Effect::Checkpoint { job, generation, checkpoint } => {
                let known = kept.checkpoints.entry(job).or_default();
                if generation >= known.0 {
                    *known = (generation, checkpoint);
                }
            }
            Effect::Job { job, from, row } => {
                self.copy = None;
                match from {
                    None => drop(kept.jobs.entry(job).or_insert(row)),
                    Some(from) => {
                        if let Some(known) = kept.jobs.get_mut(&job).filter(|known| known.generation == from) {
                            *known = row;
                        }
                    }
                }
            }
            Effect::Commit => {
                let Some(session) = self.sessions.get_mut(&id) else { return };
                session.holds = false;
                let effects = session.transaction.take().unwrap_or_default();
                effects.into_iter().for_each(|effect| self.execute(id, effect));
            }
        }
    }
}

impl Store for Model {
    type Session = Client;

    fn connect(&self, job: &str, generation: u64, who: &str) -> Result<Client, Failure> {
        call();
        if fails() {
            return Err(Failure::Transient("no connection".into()));
        }
        let mut server = self.lock();
        server.next += 1;
        let id = server.next;
        let session =
            ServerSession { job: job.to_string(), generation, who: who.to_string(), ..ServerSession::default() };
        server.sessions.insert(id, session);
        drop(server);
        let client = Client { model: self.clone(), id };
        call();
        Ok(client)
    }

    fn pause(&self, _pause: Duration) {
        pause();
    }
}

/// A client's end of a session.
pub struct Client {
    model: Model,
    id: i64,
}

impl Drop for Client {
    fn drop(&mut self) {
        let Ok(mut server) = self.model.server.lock() else { return };
        if let Some(session) = server.sessions.get_mut(&self.id) {
            session.orphaned = true;
        }
    }
}

impl Client {
    /// Whether the session is still there.
    fn alive(&self) -> Result<(), Failure> {
        match self.model.lock().sessions.get(&self.id) {
            Some(session) if !session.terminated => Ok(()),
            _ => Err(Failure::Transient("the session was ended".into())),
        }
    }

    /// Sends a statement. What can happen to one: all of it, and an answer; any part of it, and none; and its execution may
    /// outlive its client.
    fn execute(&mut self, effects: Vec<Effect>) -> Result<(), Failure> {
        call();
        self.alive()?;
        if !fails() {
            let mut server = self.model.lock();
            let in_transaction = server.sessions[&self.id].transaction.is_some();
            let commits = matches!(effects[..], [Effect::Commit]);
            if in_transaction && !commits {
                let session = server.sessions.get_mut(&self.id).expect("alive");
                session.transaction.as_mut().expect("just seen").extend(effects);
            } else {
                effects.into_iter().for_each(|effect| server.execute(self.id, effect));
            }
            drop(server);
            call();
            return Ok(());
        }
        let mut server = self.model.lock();
        let in_transaction = server.sessions[&self.id].transaction.is_some();
        let commits = matches!(effects[..], [Effect::Commit]);
        let mut effects = VecDeque::from(effects);
        match below(3) {
            // It never reached the server.
            0 => effects.clear(),
            // It is still running, or about to.
            1 => {}
            // It is done, or half of it.
            _ if in_transaction && !commits => effects.clear(),
            _ => {
                let done = below(effects.len() as u64 + 1) as usize;
                for effect in effects.drain(..done).collect::<Vec<_>>() {
                    server.execute(self.id, effect);
                }
                if chance(2) {
                    effects.clear();
                }
            }
        }
        let session = server.sessions.get_mut(&self.id).expect("alive");
        if !in_transaction || commits {
            session.running = effects;
        }
        session.orphaned = true;
        drop(server);
        if chance(3) {
            world().crash();
        }
        Err(Failure::Transient("the connection broke".into()))
    }

    fn read<R>(&mut self, read: impl Fn(&Server) -> R) -> Result<R, Failure> {
        call();
        self.alive()?;
        if fails() {
            return Err(Failure::Transient("the connection broke".into()));
        }
        Ok(read(&self.model.lock()))
    }
}

impl Session for Client {
    fn is_atomic(&self) -> bool {
        self.model.atomic
    }

    fn statement_timeout(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn create_progress(&mut self) -> Result<(), Failure> {
        self.read(|_| ())
    }

    fn begin(&mut self) -> Result<(), Failure> {
        self.read(|_| ())?;
        self.model.lock().sessions.get_mut(&self.id).expect("alive").transaction = Some(Vec::new());
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Failure> {
        self.execute(vec![Effect::Commit])
    }

    fn rollback(&mut self) -> Result<(), Failure> {
        self.read(|_| ())?;
        let mut server = self.model.lock();
        let session = server.sessions.get_mut(&self.id).expect("alive");
        (session.transaction, session.holds) = (None, false);
        Ok(())
    }

    fn job(&mut self, job: &str) -> Result<Option<JobRow>, Failure> {
        self.read(|server| server.kept.jobs.get(job).cloned())
    }

    fn add_job(&mut self, job: &str, row: &JobRow) -> Result<(), Failure> {
        self.execute(vec![Effect::Job { job: job.to_string(), from: None, row: row.clone() }])
    }

    fn replace_job(&mut self, job: &str, from: u64, row: &JobRow) -> Result<bool, Failure> {
        let held = self.read(|server| server.sessions.values().any(|session| session.holds && session.job == job))?;
        if held {
            pause();
            return Ok(false);
        }
        // Nothing may come in between: it is one statement.
        self.alive()?;
        let effect = Effect::Job { job: job.to_string(), from: Some(from), row: row.clone() };
        let mut server = self.model.lock();
        if server.sessions.values().any(|session| session.holds && session.job == job) {
            return Ok(false);
        }
        server.execute(self.id, effect);
        drop(server);
        call();
        Ok(true)
    }

    fn generation(&mut self, job: &str, hold: bool) -> Result<Option<u64>, Failure> {
        let unfenced = self.model.broken.is(Switch::NoGeneration);
        let id = self.id;
        let generation = self.read(|server| match unfenced {
            true => Some(server.sessions[&id].generation),
            false => server.kept.jobs.get(job).map(|row| row.generation),
        })?;
        if hold {
            let mut server = self.model.lock();
            let now = server.kept.jobs.get(job).map(|row| row.generation);
            server.sessions.get_mut(&self.id).expect("alive").holds = true;
            return Ok(if unfenced { generation } else { now });
        }
        Ok(generation)
    }

    fn lanes(&mut self, job: &str) -> Result<BTreeMap<u32, LaneRow>, Failure> {
        let one_seq = self.model.broken.is(Switch::OneSeqForAll);
        let trusts = self.model.broken.is(Switch::TrustAcks);
        self.read(|server| {
            let ours = server.kept.lanes.iter().filter(|((of, _), _)| of == job);
            let row = |row: &LaneRow| match one_seq {
                true => {
                    let newest = row.progress.seqs.newest();
                    let seqs = (0..6).map(|_| newest).collect();
                    LaneRow { progress: Progress { seqs, ..row.progress.clone() }, ..row.clone() }
                }
                false => row.clone(),
            };
            let mut rows: BTreeMap<u32, LaneRow> = ours.map(|((_, lane), (_, kept))| (*lane, row(kept))).collect();
            if trusts {
                rows.iter_mut().for_each(|(lane, row)| row.progress.step = server.told[&(job.to_string(), *lane)]);
            }
            rows
        })
    }

    fn save_lane(&mut self, job: &str, lane: u32, generation: u64, row: &LaneRow) -> Result<(), Failure> {
        let mut row = row.clone();
        let ahead = !row.progress.seqs.covers(&row.through);
        if ahead && self.model.broken.is(Switch::ProgressFirst) {
            row.progress.seqs = row.through.clone();
        }
        if ahead && self.model.broken.is(Switch::NoThrough) {
            row.through = row.progress.seqs.clone();
        }
        self.execute(vec![Effect::Lane { job: job.to_string(), lane, generation, row }])
    }

    fn checkpoint(&mut self, job: &str) -> Result<Option<Checkpoint>, Failure> {
        let mut kept =
            self.read(|server| server.kept.checkpoints.get(job).map(|(_, checkpoint)| checkpoint.clone()))?;
        if self.model.broken.is(Switch::ForgetPassed) {
            kept.iter_mut().for_each(|checkpoint| checkpoint.passed.clear());
        }
        Ok(kept)
    }

    fn save_checkpoint(&mut self, job: &str, generation: u64, checkpoint: &Checkpoint) -> Result<(), Failure> {
        self.execute(vec![Effect::Checkpoint { job: job.to_string(), generation, checkpoint: checkpoint.clone() }])
    }

    fn sessions(&mut self, job: &str) -> Result<Vec<OtherSession>, Failure> {
        let (id, blind) = (self.id, self.model.broken.is(Switch::NoWait));
        self.read(|server| {
            let others =
                server.sessions.iter().filter(|(other, session)| **other != id && session.job == job && !blind);
            let other = |(id, session): (&i64, &ServerSession)| OtherSession {
                id: *id,
                generation: session.generation,
                who: session.who.clone(),
            };
            others.map(other).collect()
        })
    }

    fn terminate(&mut self, sessions: &[OtherSession]) -> Result<(), Failure> {
        self.read(|_| ())?;
        let mut server = self.model.lock();
        for other in sessions {
            if let Some(session) = server.sessions.get_mut(&other.id) {
                session.terminated = true;
            }
        }
        Ok(())
    }

    fn prepare(&mut self, step: &Step, schemas: &FindSchema) -> Result<(), Failure> {
        for batch in [&step.deletes, &step.updates, &step.inserts] {
            for change in batch.changes() {
                // The schema of a table may come a little later than its first row.
                if schemas(&change.table_name(), None).is_none() {
                    pause();
                    return Err(Failure::Transient(format!("no schema of {} yet", change.table_name())));
                }
            }
        }
        self.read(|_| ())
    }

    fn write(&mut self, step: &Step) -> Result<(), Failure> {
        let mut effects = Vec::new();
        for batch in [&step.deletes, &step.updates, &step.inserts] {
            for change in batch.changes() {
                let value = (change.op() != Op::Delete).then(|| String::from_utf8_lossy(change.row()).into_owned());
                effects.push(Effect::Row {
                    table: change.table().to_string(),
                    key: String::from_utf8_lossy(change.key()).into_owned(),
                    seq: change.head.seq,
                    value,
                });
            }
        }
        // In any order, in statements of any size.
        for place in (1..effects.len()).rev() {
            effects.swap(place, below(place as u64 + 1) as usize);
        }
        while !effects.is_empty() {
            let rest = effects.split_off((1 + below(4) as usize).min(effects.len()));
            self.execute(std::mem::replace(&mut effects, rest))?;
        }
        Ok(())
    }

    fn provide_column(&mut self, table: &TableName, _column: &str, _schemas: &FindSchema) -> Result<(), Failure> {
        Err(Failure::Final(TargetError::Target(format!("{table} lacks no column"))))
    }

    fn blame(&mut self, _step: &Step, refused: Refused) -> Result<TargetError, Failure> {
        Ok(TargetError::Target(refused.reason))
    }
}

/// Whether a process may end with that sentence: one of an older generation, one that never reached the target, one whose
/// target has lost something, one whose topic has grown, or one that has begun before the topic's first publisher did, after
/// another one has learned of that.
pub fn may_end(kind: Kind, sentence: &str) -> bool {
    let says = |words| sentence.contains(words);
    kind == Kind::Land
        && (says("has begun at the target, this process is generation")
            || says("no connection")
            || says("the target has lost what it had said was durable")
            || says("more partitions now than")
            || says("more partitions while publish began")
            || says("the first publish of topic t has begun while this land did"))
}
