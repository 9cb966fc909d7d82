//! What a job keeps of its progress at the target, in the schema `tidegate`: `generation` fences an older copy of the job,
//! `progress` says what each lane has applied, `checkpoint` where reading begins again, `landed` which table of the source a
//! target table holds, and whose it is. What is done with them is [`protocol`](crate::target::protocol)'s business.
//!
//! On PostgreSQL a step holds its generation's row in share mode until it commits.

use std::collections::BTreeMap;

use postgres::error::SqlState;
use xxhash_rust::xxh3::xxh3_64;

use super::connect::{Dialect, Server};
use crate::target::protocol::{JobRow, LaneRow, OtherSession};
use crate::target::{Checkpoint, Failure, Progress, Seqs, TargetError};

const TABLES: [(&str, &str); 4] = [
    (
        "generation",
        "CREATE TABLE IF NOT EXISTS tidegate.generation (job text NOT NULL, generation bigint NOT NULL, lanes integer NOT NULL, \
         log text NOT NULL, token text NOT NULL, PRIMARY KEY (job))",
    ),
    (
        "progress",
        "CREATE TABLE IF NOT EXISTS tidegate.progress (job text NOT NULL, lane integer NOT NULL, generation bigint NOT NULL, \
         step bigint NOT NULL, epoch bigint NOT NULL, seqs text NOT NULL, through text NOT NULL, PRIMARY KEY (job, lane))",
    ),
    (
        "checkpoint",
        "CREATE TABLE IF NOT EXISTS tidegate.checkpoint (job text NOT NULL, generation bigint NOT NULL, epoch bigint NOT NULL, \
         offsets text NOT NULL, PRIMARY KEY (job))",
    ),
    (
        "landed",
        "CREATE TABLE IF NOT EXISTS tidegate.landed (target text NOT NULL, source text NOT NULL, job text NOT NULL, PRIMARY KEY (target))",
    ),
];

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

/// Makes `what` by DDL that another session may be running too: IF NOT EXISTS does not keep two of them apart in PostgreSQL.
pub(super) fn create(server: &mut Server, sql: &str, what: &str) -> Result<(), Failure> {
    const ALREADY: [SqlState; 5] = [
        SqlState::DUPLICATE_SCHEMA,
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_COLUMN,
        SqlState::DUPLICATE_OBJECT,
        SqlState::UNIQUE_VIOLATION,
    ];
    match server.client.batch_execute(sql) {
        Err(e) if e.code().is_some_and(|code| ALREADY.contains(code)) => Ok(()),
        other => other.map_err(|error| match error.into() {
            Failure::Final(TargetError::Target(said)) => Failure::Final(TargetError::Target(format!(
                "{what} is missing and can't be made: {said}, or make it there"
            ))),
            other => other,
        }),
    }
}

/// Creates the schema if it is missing. Looks first: a user without the right to create schemas may use one that is there.
pub(super) fn create_schema(server: &mut Server, schema: &str) -> Result<(), Failure> {
    let there = server.client.query("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1", &[&schema])?;
    if there.is_empty() {
        let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", super::connect::quoted(schema));
        create(server, &sql, &format!("schema {schema}"))?;
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
            create(server, sql, &format!("table tidegate.{name}"))?;
        }
    }
    Ok(())
}

/// What is known of a target table that is to stand for one of the source.
pub(super) struct Landed {
    /// The table of the source that it stands for, and the job that lands it, if any does.
    pub holds: Option<(String, String)>,
    /// Another target table in which the job has landed that table of the source.
    pub elsewhere: Option<String>,
}

/// What a target table stands for, that is to stand for `source` for `job`.
pub(super) fn landed(server: &mut Server, target: &str, source: &str, job: &str) -> Result<Landed, Failure> {
    let sql = "SELECT source, job FROM tidegate.landed WHERE target = $1";
    let holds = server.client.query_opt(sql, &[&target])?.map(|row| (row.get(0), row.get(1)));
    let sql = "SELECT target FROM tidegate.landed WHERE job = $1 AND source = $2 AND target <> $3 LIMIT 1";
    let elsewhere = server.client.query_opt(sql, &[&job, &source, &target])?.map(|row| row.get(0));
    Ok(Landed { holds, elsewhere })
}

/// What the job has landed: target tables, and the tables of the source that they stand for.
pub(super) fn all_landed(server: &mut Server, job: &str) -> Result<Vec<(String, String)>, Failure> {
    let rows = server.client.query("SELECT target, source FROM tidegate.landed WHERE job = $1", &[&job])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Makes a target table stand for that table of the source, landed by that job, unless it stands for one already.
pub(super) fn claim(server: &mut Server, target: &str, source: &str, job: &str) -> Result<(), Failure> {
    let sql = "INSERT INTO tidegate.landed (target, source, job) VALUES ($1, $2, $3) ON CONFLICT (target) DO NOTHING";
    server.client.execute(sql, &[&target, &source, &job])?;
    Ok(())
}

/// What is kept of a job.
pub(super) fn job(server: &mut Server, job: &str) -> Result<Option<JobRow>, Failure> {
    let sql = "SELECT generation, lanes, log, token FROM tidegate.generation WHERE job = $1";
    let row = server.client.query_opt(sql, &[&job])?;
    Ok(row.map(|row| JobRow {
        generation: row.get::<_, i64>(0) as u64,
        lanes: row.get::<_, i32>(1) as u32,
        log: row.get(2),
        token: row.get(3),
    }))
}

/// Adds a job, if there is none of that name.
pub(super) fn add_job(server: &mut Server, job: &str, row: &JobRow) -> Result<(), Failure> {
    server.client.execute(
        "INSERT INTO tidegate.generation (job, generation, lanes, log, token) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (job) DO NOTHING",
        &[&job, &(row.generation as i64), &(row.lanes as i32), &row.log, &row.token],
    )?;
    Ok(())
}

/// Replaces a job's row if its generation is still `from`. `false`: a step of an older run holds it.
pub(super) fn replace_job(server: &mut Server, job: &str, from: u64, row: &JobRow) -> Result<bool, Failure> {
    let client = &mut server.client;
    let waits = server.dialect == Dialect::Postgres;
    if waits {
        client.batch_execute("SET lock_timeout = '2s'")?;
    }
    let replaced = client.execute(
        "UPDATE tidegate.generation SET generation = $2, token = $3, log = $4 WHERE job = $1 AND generation = $5",
        &[&job, &(row.generation as i64), &row.token, &row.log, &(from as i64)],
    );
    let replaced = match replaced {
        Ok(_) => true,
        Err(e) if e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => false,
        Err(e) => return Err(e.into()),
    };
    if waits {
        client.batch_execute("SET lock_timeout = 0")?;
    }
    Ok(replaced)
}

/// The generation of a job. `hold`: inside a transaction, that it stays so until the end of it.
pub(super) fn generation(server: &mut Server, job: &str, hold: bool) -> Result<Option<u64>, Failure> {
    let sql = match hold {
        true => "SELECT generation FROM tidegate.generation WHERE job = $1 FOR SHARE",
        false => "SELECT generation FROM tidegate.generation WHERE job = $1",
    };
    let row = server.client.query_opt(sql, &[&job])?;
    Ok(row.map(|row| row.get::<_, i64>(0) as u64))
}

/// What is kept of each lane of a job. Seqs are JSON arrays, a number for each partition.
pub(super) fn lanes(server: &mut Server, job: &str) -> Result<BTreeMap<u32, LaneRow>, Failure> {
    let sql = "SELECT lane, step, epoch, seqs, through FROM tidegate.progress WHERE job = $1";
    let rows = server.client.query(sql, &[&job])?;
    let lane = |row: &postgres::Row| {
        let lane = row.get::<_, i32>(0) as u32;
        let seqs = |column: usize| -> Result<Seqs, Failure> {
            let text: &str = row.get(column);
            let unreadable = |e| {
                TargetError::Target(format!("job '{job}', lane {lane}: tidegate.progress can't be read: {e}: {text}"))
            };
            Ok(serde_json::from_str(text).map_err(unreadable)?)
        };
        let number = |n: usize| row.get::<_, i64>(n) as u64;
        let progress = Progress { step: number(1), epoch: number(2), seqs: seqs(3)? };
        Ok((lane, LaneRow { progress, through: seqs(4)? }))
    };
    rows.iter().map(lane).collect()
}

/// Writes what is kept of a lane. A row of a newer generation stays as it is.
pub(super) fn save_lane(
    server: &mut Server,
    job: &str,
    lane: u32,
    generation: u64,
    row: &LaneRow,
) -> Result<(), Failure> {
    let json = |seqs: &Seqs| serde_json::to_string(seqs).expect("numbers only");
    server.client.execute(
        "INSERT INTO tidegate.progress AS old (job, lane, generation, step, epoch, seqs, through) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (job, lane) DO UPDATE SET generation = excluded.generation, \
         step = excluded.step, epoch = excluded.epoch, seqs = excluded.seqs, through = excluded.through \
         WHERE excluded.generation >= old.generation",
        &[
            &job,
            &(lane as i32),
            &(generation as i64),
            &(row.progress.step as i64),
            &(row.progress.epoch as i64),
            &json(&row.progress.seqs),
            &json(&row.through),
        ],
    )?;
    Ok(())
}

/// A job's checkpoint.
pub(super) fn checkpoint(server: &mut Server, job: &str) -> Result<Option<Checkpoint>, Failure> {
    let sql = "SELECT epoch, offsets FROM tidegate.checkpoint WHERE job = $1";
    let Some(row) = server.client.query_opt(sql, &[&job])? else { return Ok(None) };
    let (epoch, kept) = (row.get::<_, i64>(0) as u64, row.get::<_, String>(1));
    Ok(Some(Checkpoint::from_kept(job, "tidegate.checkpoint", epoch, &kept)?))
}

/// Writes a job's checkpoint, unless a newer generation has.
pub(super) fn save_checkpoint(
    server: &mut Server,
    job: &str,
    generation: u64,
    checkpoint: &Checkpoint,
) -> Result<(), Failure> {
    let offsets = checkpoint.kept();
    server.client.execute(
        "INSERT INTO tidegate.checkpoint AS old (job, generation, epoch, offsets) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (job) DO UPDATE SET generation = excluded.generation, epoch = excluded.epoch, \
         offsets = excluded.offsets WHERE excluded.generation >= old.generation",
        &[&job, &(generation as i64), &(checkpoint.epoch as i64), &offsets],
    )?;
    Ok(())
}

/// The job's sessions at the server, but not the asking one.
pub(super) fn sessions(server: &mut Server, job: &str) -> Result<Vec<OtherSession>, Failure> {
    let prefix = session_prefix(job);
    let sql = "SELECT pid, application_name FROM pg_catalog.pg_stat_activity WHERE application_name LIKE 'tidegate/%'";
    let rows = server.client.query(sql, &[])?;
    let parse = |row: &postgres::Row| {
        let (pid, name): (i32, String) = (row.get(0), row.get(1));
        let (generation, who) = name.strip_prefix(&prefix)?.split_once('/')?;
        Some(OtherSession { id: pid.into(), generation: generation.parse().ok()?, who: who.to_string() })
    };
    Ok(rows.iter().filter_map(parse).filter(|session| session.id != i64::from(server.pid)).collect())
}

/// Asks the server to end sessions.
pub(super) fn terminate(server: &mut Server, sessions: &[OtherSession]) -> Result<(), Failure> {
    for session in sessions {
        match server.client.query("SELECT pg_terminate_backend($1)", &[&(session.id as i32)]) {
            Ok(_) => {}
            // Another role's session: its statements end by their timeout.
            Err(e) if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
