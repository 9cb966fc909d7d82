//! Connections: opening one, what the server is, and what its errors mean.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use postgres::Client;
use postgres::error::{DbError, SqlState};

use crate::config::PostgresConfig;
use crate::reach::{Unreached, reach_postgres};
use crate::target::TargetError;
use crate::target::retry::{Failure, Refused};

/// How long one statement may take. A newer run of a job waits so long for statements of an older one, at most.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Failure {
        let Some(db) = error.as_db_error() else {
            // A parameter that can't be written is the only failure of the client's own, and ours always can.
            return Failure::Transient(format!("the target: {}", with_cause(&error)));
        };
        let said = sentence(db);
        let at_target = || format!("the target: {said}");
        match db.code().code() {
            "40001" | "40P01" | "25006" | "57014" | "55P03" | "55006" => Failure::Transient(at_target()),
            "42501" => Failure::Final(TargetError::Target(format!(
                "the target refuses a right: {said}: grant it to the job's user"
            ))),
            "42703" | "42P01" | "42804" | "42P10" | "0A000" | "26000" | "3F000" => Failure::Stale(at_target()),
            // Hologres, after DDL, has no code of its own for it.
            _ if db.message().contains("mismatches the version of the table") => Failure::Stale(at_target()),
            code => match &code[..2] {
                "08" | "53" | "57" => Failure::Transient(at_target()),
                "22" | "23" | "54" => Failure::Data(Refused { reason: said, column: db.column().map(str::to_string) }),
                _ => Failure::Final(TargetError::Target(format!("the target answered: {said} ({code})"))),
            },
        }
    }
}

/// A server's error as one sentence: message, detail, hint.
fn sentence(db: &DbError) -> String {
    let mut said = db.message().to_string();
    for more in [db.detail(), db.hint()].into_iter().flatten() {
        said.push_str(": ");
        said.push_str(more.trim_end_matches('.'));
    }
    said.replace('\n', " ")
}

fn with_cause(error: &postgres::Error) -> String {
    match error.source() {
        Some(cause) if !error.to_string().contains(&cause.to_string()) => format!("{error}: {cause}"),
        _ => error.to_string(),
    }
}

/// Which server it is, and with it what a step can rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Transactions hold: rows and progress in one.
    Postgres,
    /// No transaction is assumed: the order of writes carries exactly-once.
    Hologres,
}

/// An open connection.
pub struct Server {
    pub client: Client,
    pub dialect: Dialect,
    /// The server's id of the session.
    pub pid: i32,
    /// The question for the columns of a table, once it has been asked.
    pub look: Option<postgres::Statement>,
}

/// Opens connections to the configured server.
pub(super) struct Connector {
    config: postgres::Config,
    /// `host:port`, for messages.
    place: String,
}

impl Connector {
    pub(super) fn new(config: &PostgresConfig) -> Result<Connector, TargetError> {
        let (mut parsed, place) = config.options().map_err(TargetError::Target)?;
        if parsed.get_connect_timeout().is_none() {
            parsed.connect_timeout(Duration::from_secs(10));
        }
        // A peer that is gone without a word is noticed, or a lane would wait for its answer for ever.
        parsed.keepalives_idle(Duration::from_secs(30));
        parsed.tcp_user_timeout(STATEMENT_TIMEOUT);
        Ok(Connector { config: parsed, place })
    }

    /// Opens a connection that the server lists under `name`.
    pub(super) fn connect(&self, name: &str) -> Result<Server, Failure> {
        let mut config = self.config.clone();
        config.application_name(name);
        let mut client = reach_postgres(config).map_err(|unreached| match unreached {
            Unreached::Silent(reason) => Failure::Transient(format!("the target {}: {reason}", self.place)),
            Unreached::Failed(error) => self.not_connected(&error),
        })?;
        let dialect = match client.query_one("SELECT hg_version()", &[]) {
            Ok(_) => Dialect::Hologres,
            Err(e) if e.code() == Some(&SqlState::UNDEFINED_FUNCTION) => Dialect::Postgres,
            Err(e) => return Err(e.into()),
        };
        let timeout = STATEMENT_TIMEOUT.as_millis();
        client.batch_execute("SET TIME ZONE 'UTC'")?;
        client.batch_execute(&format!("SET statement_timeout = {timeout}"))?;
        if dialect == Dialect::Postgres {
            // What is told to be durable has to be; who wants more than that has set it.
            client.batch_execute(
                "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')",
            )?;
            // A step's transaction holds the generation's row: a client that died inside it must not hold it for long.
            // A plan that was kept would be the one for as many rows as there were when it was made: of a table that was small
            // then, all would be looked at.
            client.batch_execute(&format!(
                "SET idle_in_transaction_session_timeout = {timeout}; SET default_transaction_isolation = 'read committed'; \
                 SET plan_cache_mode = force_custom_plan; SET jit = off; SET client_min_messages = warning"
            ))?;
        }
        let pid = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        Ok(Server { client, dialect, pid, look: None })
    }

    fn not_connected(&self, error: &postgres::Error) -> Failure {
        let place = &self.place;
        let user = self.config.get_user().unwrap_or("");
        let database = self.config.get_dbname().unwrap_or(user);
        if let Some(code) = error.code() {
            let said = error.as_db_error().map_or_else(String::new, sentence);
            let fixed = match code.code() {
                "28P01" | "28000" => format!(
                    "the target {place} refuses user '{user}': {said}: correct the user or password in [target] url or password_file"
                ),
                "3D000" => {
                    format!("the target {place} has no database '{database}': create it or correct [target] url")
                }
                "42501" => format!("the target {place}: {said}: grant the user '{user}' the right to connect"),
                code if code.starts_with("53") || code.starts_with("57") || code.starts_with("08") => {
                    return Failure::Transient(format!("the target {place} takes no connection: {said}"));
                }
                _ => format!("the target {place}: {said}"),
            };
            return Failure::Final(TargetError::Target(fixed));
        }
        let cause = with_cause(error);
        if error.source().is_some_and(|cause| cause.is::<io::Error>())
            || cause.contains("timed out")
            || error.is_closed()
        {
            return Failure::Transient(format!(
                "the target {place} can't be reached ({cause}): is the server running, host and port right, the way open?"
            ));
        }
        Failure::Final(TargetError::Target(format!("the target {place}: {cause}: correct [target] url")))
    }
}

/// A name in SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
