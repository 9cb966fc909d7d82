//! A SQLite file: the target that needs no server.
//!
//! All lanes of a process share one connection behind a lock: SQLite has one writer at a time anyhow, and a connection of
//! its own for each lane would only empty the others' page caches. A step is one transaction, rows, generation check and
//! progress, begun with BEGIN IMMEDIATE, so that other processes queue instead of failing half way. The journal is a WAL
//! with `synchronous = NORMAL`: a power cut may lose the last transactions, but each of them whole, progress included, so
//! that the job applies them again.
//!
//! A source table lands in a table of its own name, for people who type queries. That name can stand for one source table
//! only: `tidegate_tables` remembers which, and another of the same name is refused.

mod table;
mod values;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use self::table::{Table, no_key, schema_with};
use super::fields::key_agrees;
use super::retry::Attempts;
use super::{
    Checkpoint, FindSchema, JobState, Lane, Progress, RefusedRow, Step, Target, TargetError, gone, refuse_lost,
    refuse_other,
};
use crate::change::{Changes, Op};
use crate::config::SqliteConfig;

/// How long another process may hold the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS tidegate_generation (
        job TEXT PRIMARY KEY, generation INTEGER NOT NULL, lanes INTEGER NOT NULL, log TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS tidegate_progress (
        job TEXT NOT NULL, lane INTEGER NOT NULL, generation INTEGER NOT NULL, step INTEGER NOT NULL,
        epoch INTEGER NOT NULL, seqs TEXT NOT NULL, PRIMARY KEY (job, lane));
    CREATE TABLE IF NOT EXISTS tidegate_checkpoint (
        job TEXT PRIMARY KEY, generation INTEGER NOT NULL, epoch INTEGER NOT NULL, offsets TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS tidegate_tables (
        name TEXT PRIMARY KEY COLLATE NOCASE, source_database TEXT NOT NULL, source_table TEXT NOT NULL,
        job TEXT NOT NULL);";

/// A SQLite file as a target.
pub struct SqliteTarget {
    path: PathBuf,
    file: Arc<Mutex<Option<File>>>,
}

/// The open file, and what is known of its tables.
struct File {
    connection: Connection,
    tables: HashMap<u64, Table>,
}

impl SqliteTarget {
    /// A target from its configuration. Nothing is opened yet.
    pub fn new(config: &SqliteConfig) -> SqliteTarget {
        SqliteTarget { path: config.path.clone(), file: Arc::new(Mutex::new(None)) }
    }

    /// Runs `work` on the file, opened if it is not yet, inside a transaction. What `work` fails with takes it back.
    fn transact<R>(&self, work: impl Fn(&mut File) -> Result<R, Failure>) -> Result<R, TargetError> {
        transact(&self.file, &self.path, work)
    }
}

fn lock(file: &Mutex<Option<File>>) -> MutexGuard<'_, Option<File>> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What goes wrong inside a transaction.
enum Failure {
    Target(TargetError),
    Sqlite(rusqlite::Error),
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Failure {
        Failure::Target(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        Failure::Sqlite(error)
    }
}

fn transact<R>(
    file: &Mutex<Option<File>>,
    path: &PathBuf,
    work: impl Fn(&mut File) -> Result<R, Failure>,
) -> Result<R, TargetError> {
    let mut held = lock(file);
    let mut attempts = Attempts::new();
    loop {
        let failure = match attempt(&mut held, path, &work) {
            Ok(done) => return Ok(done),
            Err(Failure::Target(error)) => return Err(error),
            Err(Failure::Sqlite(failure)) => failure,
        };
        let busy = matches!(failure.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked));
        // Statements may have been made for tables that are no more.
        *held = None;
        if !busy || !attempts.again(std::thread::sleep) {
            return Err(TargetError::Target(format!(
                "the target {}: {failure}: is it a SQLite file in a folder that can be written to, on a disk with room?",
                path.display()
            )));
        }
    }
}

fn attempt<R>(
    held: &mut Option<File>,
    path: &PathBuf,
    work: impl Fn(&mut File) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let file = match held {
        Some(file) => file,
        None => held.insert(open(path)?),
    };
    file.connection.execute_batch("BEGIN IMMEDIATE")?;
    match work(file) {
        Ok(done) => {
            file.connection.execute_batch("COMMIT")?;
            Ok(done)
        }
        Err(failure) => {
            // Tables and columns made in this transaction are gone with it.
            file.tables.clear();
            // It may have rolled back by itself.
            if !file.connection.is_autocommit() {
                file.connection.execute_batch("ROLLBACK")?;
            }
            Err(failure)
        }
    }
}

fn open(path: &PathBuf) -> Result<File, rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", -64 << 10)?;
    connection.set_prepared_statement_cache_capacity(256);
    connection.execute_batch(TABLES)?;
    Ok(File { connection, tables: HashMap::new() })
}

impl Target for SqliteTarget {
    fn begin(&self, job: &str, lanes: u32, log: &str) -> Result<JobState, TargetError> {
        self.transact(|file| {
            let sql = "SELECT generation, lanes, log FROM tidegate_generation WHERE job = ?1";
            let known: Option<(i64, u32, String)> =
                file.connection.query_row(sql, [job], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
            if let Some((_, begun_with, read)) = &known {
                refuse_other(job, (*begun_with, read), (lanes, log))?;
            }
            if known.is_none() {
                let left = job_state(&file.connection, job, 0)?;
                if !left.lanes.is_empty() || left.checkpoint.is_some() {
                    return Err(gone(job, "tidegate_").into());
                }
            }
            let generation = known.map_or(0, |(generation, ..)| generation) + 1;
            file.connection.execute(
                "INSERT INTO tidegate_generation (job, generation, lanes, log) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (job) DO UPDATE SET generation = excluded.generation, log = excluded.log",
                params![job, generation, lanes, log],
            )?;
            job_state(&file.connection, job, generation as u64)
        })
    }

    fn lane(&self, job: &str, lane: u32, generation: u64, schemas: FindSchema) -> Result<Box<dyn Lane>, TargetError> {
        let lane = SqliteLane {
            file: self.file.clone(),
            path: self.path.clone(),
            job: job.to_string(),
            lane,
            generation,
            schemas,
        };
        transact(&lane.file, &lane.path, |file| refuse_fenced(&file.connection, job, generation))?;
        Ok(Box::new(lane))
    }

    fn checkpoint(&self, job: &str, generation: u64, checkpoint: &Checkpoint) -> Result<(), TargetError> {
        let offsets = checkpoint.kept();
        self.transact(|file| {
            refuse_fenced(&file.connection, job, generation)?;
            file.connection.execute(
                "INSERT INTO tidegate_checkpoint (job, generation, epoch, offsets) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (job) \
                 DO UPDATE SET generation = excluded.generation, epoch = excluded.epoch, offsets = excluded.offsets",
                params![job, generation as i64, checkpoint.epoch as i64, offsets],
            )?;
            Ok(())
        })
    }
}

fn job_state(connection: &Connection, job: &str, generation: u64) -> Result<JobState, Failure> {
    let mut lanes = BTreeMap::new();
    let mut statement = connection.prepare("SELECT lane, step, epoch, seqs FROM tidegate_progress WHERE job = ?1")?;
    let mut rows = statement.query([job])?;
    while let Some(row) = rows.next()? {
        let (lane, seqs): (u32, String) = (row.get(0)?, row.get(3)?);
        let seqs = serde_json::from_str(&seqs).map_err(|e| {
            TargetError::Target(format!("job '{job}', lane {lane}: tidegate_progress can't be read: {e}: {seqs}"))
        })?;
        let number = |column: usize| row.get::<_, i64>(column).map(|number| number as u64);
        lanes.insert(lane, Progress { step: number(1)?, epoch: number(2)?, seqs });
    }
    let sql = "SELECT epoch, offsets FROM tidegate_checkpoint WHERE job = ?1";
    let stored: Option<(i64, String)> =
        connection.query_row(sql, [job], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let checkpoint = match stored {
        None => None,
        Some((epoch, kept)) => Some(Checkpoint::from_kept(job, "tidegate_checkpoint", epoch as u64, &kept)?),
    };
    Ok(JobState { generation, lanes, through: BTreeMap::new(), checkpoint })
}

fn refuse_fenced(connection: &Connection, job: &str, generation: u64) -> Result<(), Failure> {
    let sql = "SELECT generation FROM tidegate_generation WHERE job = ?1";
    let newer: Option<i64> = connection.prepare_cached(sql)?.query_row([job], |row| row.get(0)).optional()?;
    match newer {
        Some(newer) if newer as u64 == generation => Ok(()),
        Some(newer) => Err(TargetError::Fenced { job: job.to_string(), ours: generation, newer: newer as u64 }.into()),
        None => Err(gone(job, "tidegate_").into()),
    }
}

/// One lane; it shares the file with the others.
struct SqliteLane {
    file: Arc<Mutex<Option<File>>>,
    path: PathBuf,
    job: String,
    lane: u32,
    generation: u64,
    schemas: FindSchema,
}

impl Lane for SqliteLane {
    fn apply(&mut self, step: &Step) -> Result<(), TargetError> {
        transact(&self.file, &self.path, |file| {
            refuse_fenced(&file.connection, &self.job, self.generation)?;
            let sql = "SELECT step FROM tidegate_progress WHERE job = ?1 AND lane = ?2";
            let mut progress = file.connection.prepare_cached(sql)?;
            let has: Option<i64> = progress.query_row(params![self.job, self.lane], |row| row.get(0)).optional()?;
            drop(progress);
            refuse_lost(&self.job, self.lane, has.unwrap_or(0) as u64, step.progress.step - 1)?;
            let mut refused = Vec::new();
            for (changes, op) in [(&step.deletes, Op::Delete), (&step.updates, Op::Update), (&step.inserts, Op::Insert)]
            {
                file.write(changes, op, (&self.job, &self.schemas), &mut refused)?;
            }
            if !refused.is_empty() {
                return Err(TargetError::Rows(refused).into());
            }
            file.connection
                .prepare_cached(
                    "INSERT INTO tidegate_progress (job, lane, generation, step, epoch, seqs) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                     ON CONFLICT (job, lane) DO UPDATE SET generation = excluded.generation, step = excluded.step, \
                     epoch = excluded.epoch, seqs = excluded.seqs",
                )?
                .execute(params![
                    self.job,
                    self.lane,
                    self.generation as i64,
                    step.progress.step as i64,
                    step.progress.epoch as i64,
                    serde_json::to_string(&step.progress.seqs).expect("numbers only")
                ])?;
            Ok(())
        })
    }
}

impl File {
    fn write(
        &mut self,
        changes: &Changes,
        op: Op,
        (job, schemas): (&str, &FindSchema),
        refused: &mut Vec<RefusedRow>,
    ) -> Result<(), Failure> {
        let mut start = 0;
        while start < changes.len() {
            let first = changes.change(start);
            let end =
                (start + 1..changes.len()).find(|&n| !changes.change(n).same_table(&first)).unwrap_or(changes.len());
            let hash = first.head.table_hash;
            let name = first.table_name();
            let known = self.tables.remove(&hash).filter(|table| table.name == name && !table.outdated(schemas));
            let mut table = match known {
                Some(table) => table,
                None => Table::bind(&self.connection, &name, job, schemas(&name, None))?,
            };
            // In the order of keys a change of a time when the table had no key comes first.
            if first.key().is_empty() && !key_agrees(&first, |name| table.is_key(name)) {
                return Err(no_key(&name).into());
            }
            let mut next = start;
            while next < end {
                if op != Op::Delete
                    && let Some(column) = table.missing_column(&changes.change(next))
                {
                    table = Table::bind(&self.connection, &name, job, Some(schema_with(&name, &column, schemas)?))?;
                }
                next = table.write_alike(&self.connection, changes, next..end, op, refused)?;
            }
            self.tables.insert(hash, table);
            start = end;
        }
        Ok(())
    }
}
