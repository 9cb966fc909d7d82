//! PostgreSQL, and Hologres, which speaks its protocol.
//!
//! One blocking connection a lane, on the lane's own thread; nothing is shared between lanes. Rows go from their JSON into
//! one typed array a column, and from there to the server in statements of some thousand rows (`batch`, `columns`).
//! How a step is made to count once is in `lane`; what the job keeps at the target in `progress`.
//!
//! Stated limits: `timestamptz` on Hologres keeps milliseconds; a DATETIME in a `timestamptz` column counts as UTC; a
//! column that the source adds with a default is null in rows that no change touches; connections are not encrypted.

mod batch;
mod columns;
mod connect;
mod lane;
mod progress;
mod scalars;
mod table;

use std::sync::{Arc, Mutex, PoisonError};

use self::connect::{Connector, Dialect, Failure, Server};
use self::lane::{Identity, PostgresLane};
use self::table::Policy;
use super::retry::Attempts;
use super::{Checkpoint, FindSchema, JobState, Lane, Target, TargetError};
use crate::config::{PostgresConfig, ZeroDates};

/// A PostgreSQL or Hologres database as a target.
pub struct PostgresTarget {
    connector: Arc<Connector>,
    policy: Arc<Policy>,
    /// The connection that writes checkpoints, with the run that it is for.
    checkpoints: Mutex<Option<Server>>,
}

impl PostgresTarget {
    /// A target from its configuration. Nothing is connected yet.
    ///
    /// # Errors
    /// The URL is none.
    pub fn new(config: &PostgresConfig) -> Result<PostgresTarget, TargetError> {
        let policy = Policy {
            schema: config.schema.clone(),
            create_tables: config.create_tables,
            zero_date_null: config.zero_dates == ZeroDates::Null,
        };
        Ok(PostgresTarget {
            connector: Arc::new(Connector::new(config)?),
            policy: Arc::new(policy),
            checkpoints: Mutex::new(None),
        })
    }
}

impl Target for PostgresTarget {
    fn begin(&self, job: &str, lanes: u32) -> Result<JobState, TargetError> {
        let reached = std::cell::Cell::new(false);
        let begin = || -> Result<JobState, Failure> {
            let mut server = self.connector.connect(&progress::session_name(job, 0, "begin"))?;
            reached.set(true);
            progress::create_tables(&mut server)?;
            let generation = progress::take_generation(&mut server, job, lanes)?;
            progress::end_sessions(&mut server, job, |session| {
                session.generation < generation && session.who != "begin"
            })?;
            progress::job_state(&mut server, job, generation)
        };
        let mut attempts = Attempts::new();
        loop {
            match begin() {
                Ok(state) => return Ok(state),
                // What was never there is said at once: most likely the configuration is wrong.
                Err(failure) if !reached.get() => return Err(failure.into()),
                Err(failure) => failure.passes(&format!("job '{job}'"), &mut attempts)?,
            }
        }
    }

    fn lane(&self, job: &str, lane: u32, generation: u64, schemas: FindSchema) -> Result<Box<dyn Lane>, TargetError> {
        let identity = Identity { job: job.to_string(), lane, generation };
        let lane = PostgresLane::open(self.connector.clone(), self.policy.clone(), identity, schemas)?;
        Ok(Box::new(lane))
    }

    fn checkpoint(&self, job: &str, generation: u64, checkpoint: &Checkpoint) -> Result<(), TargetError> {
        let mut held = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attempts = Attempts::new();
        loop {
            match self.write_checkpoint(&mut held, job, generation, checkpoint) {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    *held = None;
                    failure.passes(&format!("job '{job}', checkpoint"), &mut attempts)?;
                }
            }
        }
    }
}

impl PostgresTarget {
    fn write_checkpoint(
        &self,
        held: &mut Option<Server>,
        job: &str,
        generation: u64,
        checkpoint: &Checkpoint,
    ) -> Result<(), Failure> {
        let server = match held {
            Some(server) => server,
            None => held.insert(self.connector.connect(&progress::session_name(job, generation, "checkpoint"))?),
        };
        let atomic = server.dialect == Dialect::Postgres;
        if atomic {
            server.client.batch_execute("BEGIN")?;
        }
        progress::refuse_fenced(server, job, generation, atomic)?;
        progress::save_checkpoint(server, job, generation, checkpoint)?;
        if atomic {
            server.client.batch_execute("COMMIT")?;
        }
        Ok(())
    }
}
