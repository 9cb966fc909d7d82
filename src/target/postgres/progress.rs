//! What a job keeps of its progress at the target, in the schema `tidegate`: `generation` fences an older copy of the job,
//! `progress` says what each lane has applied, `checkpoint` where reading begins again, `landed` which table of the source a
//! target table holds.
//!
//! A generation is taken by compare-and-set with a token of our own, which needs neither RETURNING nor affected-row counts
//! and so is one code for both dialects. On PostgreSQL a step holds its generation's row in share mode until it commits:
//! taking a new generation waits for it, and no later step of an older run gets past it.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::thread::sleep;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use xxhash_rust::xxh3::xxh3_64;

use super::connect::{Dialect, Failure, STATEMENT_TIMEOUT, Server};
use crate::target::{Checkpoint, JobState, Progress, TargetError};

const TABLES: [(&str, &str); 4] = [
    (
        "generation",
        "CREATE TABLE IF NOT EXISTS tidegate.generation (job text NOT NULL, generation bigint NOT NULL, lanes integer NOT NULL, \
         token text NOT NULL, PRIMARY KEY (job))",
    ),
    (
        "progress",
        "CREATE TABLE IF NOT EXISTS tidegate.progress (job text NOT NULL, lane integer NOT NULL, generation bigint NOT NULL, \
         epoch bigint NOT NULL, seq bigint NOT NULL, through_epoch bigint NOT NULL, through_seq bigint NOT NULL, \
         PRIMARY KEY (job, lane))",
    ),
    (
        "checkpoint",
        "CREATE TABLE IF NOT EXISTS tidegate.checkpoint (job text NOT NULL, generation bigint NOT NULL, epoch bigint NOT NULL, \
         offsets text NOT NULL, PRIMARY KEY (job))",
    ),
    (
        "landed",
        "CREATE TABLE IF NOT EXISTS tidegate.landed (target text NOT NULL, source text NOT NULL, PRIMARY KEY (target))",
    ),
];

/// Progress in the order in which a lane makes it.
pub(super) fn order(progress: Progress) -> (u64, u64) {
    (progress.epoch, progress.seq)
}

/// The name under which the server lists a session: `tidegate/<job>/<generation>/<who>`. PostgreSQL cuts names at 63
/// bytes, so a long job's name is shortened with its hash.
pub(super) fn session_name(job: &str, generation: u64, who: &str) -> String {
    format!("{}{generation}/{who}", session_prefix(job))
}

fn session_prefix(job: &str) -> String {
    match job.len() {
        0..=28 => format!("tidegate/{job}/"),
        _ => format!("tidegate/{}~{:08x}/", job.chars().take(19).collect::<String>(), xxh3_64(job.as_bytes()) as u32),
    }
}

/// Runs DDL that another session may be running too: IF NOT EXISTS does not keep two of them apart in PostgreSQL.
pub(super) fn create(server: &mut Server, sql: &str) -> Result<(), Failure> {
    const ALREADY: [SqlState; 5] = [
        SqlState::DUPLICATE_SCHEMA,
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_COLUMN,
        SqlState::DUPLICATE_OBJECT,
        SqlState::UNIQUE_VIOLATION,
    ];
    match server.client.batch_execute(sql) {
        Err(e) if e.code().is_some_and(|code| ALREADY.contains(code)) => Ok(()),
        other => Ok(other?),
    }
}

/// Creates the schema if it is missing. Looks first: a user without the right to create schemas may use one that is there.
pub(super) fn create_schema(server: &mut Server, schema: &str) -> Result<(), Failure> {
    let there = server.client.query("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1", &[&schema])?;
    if there.is_empty() {
        create(server, &format!("CREATE SCHEMA IF NOT EXISTS {}", super::connect::quoted(schema))).map_err(
            |failure| match failure {
                Failure::Final(TargetError::Target(said)) => Failure::Final(TargetError::Target(format!(
                    "schema {schema} is missing and can't be created: {said}, or create the schema for it"
                ))),
                other => other,
            },
        )?;
    }
    Ok(())
}

/// Creates the tables of this module if they are missing.
pub(super) fn create_tables(server: &mut Server) -> Result<(), Failure> {
    create_schema(server, "tidegate")?;
    let sql = "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = 'tidegate'";
    let there: Vec<String> = server.client.query(sql, &[])?.iter().map(|row| row.get(0)).collect();
    for (name, sql) in TABLES {
        if !there.iter().any(|t| t == name) {
            create(server, sql)?;
        }
    }
    Ok(())
}

/// Makes a target table stand for that table of the source, unless it stands for one already; says for which it does.
pub(super) fn claim(server: &mut Server, target: &str, source: &str) -> Result<String, Failure> {
    let sql = "INSERT INTO tidegate.landed (target, source) VALUES ($1, $2) ON CONFLICT (target) DO NOTHING";
    server.client.execute(sql, &[&target, &source])?;
    let sql = "SELECT source FROM tidegate.landed WHERE target = $1";
    let row = server.client.query_opt(sql, &[&target])?;
    row.map(|row| row.get(0)).ok_or_else(|| Failure::Transient(format!("tidegate.landed has lost {target}")))
}

/// Takes the next generation of a job.
pub(super) fn take_generation(server: &mut Server, job: &str, lanes: u32) -> Result<u64, Failure> {
    let token = format!("{:016x}", RandomState::new().build_hasher().finish());
    let lanes_column = lanes as i32;
    if server.dialect == Dialect::Postgres {
        server.client.batch_execute("SET lock_timeout = '2s'")?;
    }
    loop {
        let client = &mut server.client;
        let known =
            client.query_opt("SELECT generation, lanes, token FROM tidegate.generation WHERE job = $1", &[&job])?;
        let Some(row) = known else {
            client.execute(
                "INSERT INTO tidegate.generation (job, generation, lanes, token) VALUES ($1, 0, $2, '') ON CONFLICT (job) DO NOTHING",
                &[&job, &lanes_column],
            )?;
            continue;
        };
        let (generation, begun_with, holder): (i64, i32, String) = (row.get(0), row.get(1), row.get(2));
        if begun_with != lanes_column {
            return Err(Failure::Final(TargetError::Target(format!(
                "job '{job}' was begun with lanes = {begun_with} and the configuration says lanes = {lanes}: lanes are fixed for the \
                 life of a job; set lanes = {begun_with} back, or choose another job name to begin anew"
            ))));
        }
        // Whether it was this process that took it, only the row itself says: affected-row counts are not to be trusted.
        if holder == token {
            if server.dialect == Dialect::Postgres {
                server.client.batch_execute("SET lock_timeout = 0")?;
            }
            return Ok(generation as u64);
        }
        let taken = client.execute(
            "UPDATE tidegate.generation SET generation = $2, token = $3 WHERE job = $1 AND generation = $4",
            &[&job, &(generation + 1), &token, &generation],
        );
        match taken {
            Ok(_) => {}
            // A step of an older run holds the row; if its client is dead, nobody will end it.
            Err(e) if e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                let older = sessions(server, job)?.into_iter().filter(|s| s.generation <= generation as u64);
                terminate(server, &older.collect::<Vec<_>>())?;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// What is known of a job.
pub(super) fn job_state(server: &mut Server, job: &str, generation: u64) -> Result<JobState, Failure> {
    let mut state = JobState { generation, ..JobState::default() };
    let sql = "SELECT lane, epoch, seq, through_epoch, through_seq FROM tidegate.progress WHERE job = $1";
    for row in server.client.query(sql, &[&job])? {
        let lane = row.get::<_, i32>(0) as u32;
        let (progress, through) = progress_of(&row, 1);
        // A lane that has only said where its first step goes has applied nothing yet.
        if progress != Progress::default() {
            state.lanes.insert(lane, progress);
        }
        if order(through) > order(progress) {
            state.through.insert(lane, through);
        }
    }
    let sql = "SELECT epoch, offsets FROM tidegate.checkpoint WHERE job = $1";
    if let Some(row) = server.client.query_opt(sql, &[&job])? {
        let offsets = row.get::<_, String>(1);
        let offsets: BTreeMap<u32, u64> = serde_json::from_str(&offsets).map_err(|e| {
            TargetError::Target(format!(
                "job '{job}': the offsets in tidegate.checkpoint can't be read: {e}: {offsets}"
            ))
        })?;
        state.checkpoint = Some(Checkpoint { epoch: row.get::<_, i64>(0) as u64, offsets });
    }
    Ok(state)
}

fn progress_of(row: &postgres::Row, first: usize) -> (Progress, Progress) {
    let number = |n: usize| row.get::<_, i64>(first + n) as u64;
    (Progress { epoch: number(0), seq: number(1) }, Progress { epoch: number(2), seq: number(3) })
}

/// A lane's progress, and the end of its last step, which may be ahead of it where there are no transactions.
pub(super) fn lane_progress(
    server: &mut Server,
    job: &str,
    lane: u32,
) -> Result<Option<(Progress, Progress)>, Failure> {
    let sql = "SELECT epoch, seq, through_epoch, through_seq FROM tidegate.progress WHERE job = $1 AND lane = $2";
    let row = server.client.query_opt(sql, &[&job, &(lane as i32)])?;
    Ok(row.map(|row| progress_of(&row, 0)))
}

/// Fails if a newer generation of the job has begun. `hold`: inside a transaction, that it stays so until the end of it.
pub(super) fn refuse_fenced(server: &mut Server, job: &str, generation: u64, hold: bool) -> Result<(), Failure> {
    let sql = match hold {
        true => "SELECT generation FROM tidegate.generation WHERE job = $1 FOR SHARE",
        false => "SELECT generation FROM tidegate.generation WHERE job = $1",
    };
    let newer = match server.client.query_opt(sql, &[&job])? {
        Some(row) => row.get::<_, i64>(0) as u64,
        None => {
            let said =
                format!("job '{job}' is no longer in tidegate.generation: someone deleted it; start the job again");
            return Err(Failure::Final(TargetError::Target(said)));
        }
    };
    match newer == generation {
        true => Ok(()),
        false => Err(Failure::Final(TargetError::Fenced { job: job.to_string(), ours: generation, newer })),
    }
}

/// Writes a lane's progress and the end of its step. A row of a newer generation stays as it is.
pub(super) fn save_progress(
    server: &mut Server,
    job: &str,
    lane: u32,
    generation: u64,
    progress: Progress,
    through: Progress,
) -> Result<(), Failure> {
    server.client.execute(
        "INSERT INTO tidegate.progress AS old (job, lane, generation, epoch, seq, through_epoch, through_seq) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (job, lane) DO UPDATE SET generation = excluded.generation, \
         epoch = excluded.epoch, seq = excluded.seq, through_epoch = excluded.through_epoch, \
         through_seq = excluded.through_seq WHERE excluded.generation >= old.generation",
        &[
            &job,
            &(lane as i32),
            &(generation as i64),
            &(progress.epoch as i64),
            &(progress.seq as i64),
            &(through.epoch as i64),
            &(through.seq as i64),
        ],
    )?;
    Ok(())
}

/// Writes a job's checkpoint, unless a newer generation has.
pub(super) fn save_checkpoint(
    server: &mut Server,
    job: &str,
    generation: u64,
    checkpoint: &Checkpoint,
) -> Result<(), Failure> {
    let offsets = serde_json::to_string(&checkpoint.offsets).expect("numbers only");
    server.client.execute(
        "INSERT INTO tidegate.checkpoint AS old (job, generation, epoch, offsets) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (job) DO UPDATE SET generation = excluded.generation, epoch = excluded.epoch, \
         offsets = excluded.offsets WHERE excluded.generation >= old.generation",
        &[&job, &(generation as i64), &(checkpoint.epoch as i64), &offsets],
    )?;
    Ok(())
}

/// A session of the job at the server.
pub(super) struct Session {
    pid: i32,
    pub generation: u64,
    /// The lane's number, or what else the session is for.
    pub who: String,
}

/// The job's sessions at the server, but not the asking one.
fn sessions(server: &mut Server, job: &str) -> Result<Vec<Session>, Failure> {
    let prefix = session_prefix(job);
    let sql = "SELECT pid, application_name FROM pg_catalog.pg_stat_activity WHERE application_name LIKE 'tidegate/%'";
    let rows = server.client.query(sql, &[])?;
    let parse = |row: &postgres::Row| {
        let (pid, name): (i32, String) = (row.get(0), row.get(1));
        let (generation, who) = name.strip_prefix(&prefix)?.split_once('/')?;
        Some(Session { pid, generation: generation.parse().ok()?, who: who.to_string() })
    };
    Ok(rows.iter().filter_map(parse).filter(|session| session.pid != server.pid).collect())
}

fn terminate(server: &mut Server, sessions: &[Session]) -> Result<(), Failure> {
    for session in sessions {
        match server.client.query("SELECT pg_terminate_backend($1)", &[&session.pid]) {
            Ok(_) => {}
            // Another role's session: its statements end by their timeout.
            Err(e) if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Ends the job's sessions that `old` picks and waits until they are gone: a statement of a dead client may still be
/// running, and without transactions it would write old rows over new ones.
pub(super) fn end_sessions(server: &mut Server, job: &str, old: impl Fn(&Session) -> bool) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let left: Vec<Session> = sessions(server, job)?.into_iter().filter(&old).collect();
        if left.is_empty() {
            return Ok(());
        }
        terminate(server, &left)?;
        if began.elapsed() > STATEMENT_TIMEOUT + Duration::from_secs(5) {
            // A transaction of an older run can't commit any more: it would need the generation's row.
            if server.dialect == Dialect::Postgres {
                return Ok(());
            }
            let pids: Vec<String> = left.iter().map(|session| session.pid.to_string()).collect();
            return Err(Failure::Final(TargetError::Target(format!(
                "job '{job}': sessions of an older run are still at the target and can't be ended: stop the other copy of the job, or \
                 let an administrator run pg_terminate_backend for pid {}",
                pids.join(", ")
            ))));
        }
        sleep(Duration::from_millis(20));
    }
}
