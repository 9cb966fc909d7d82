//! What a failure at a target means for what to do next, and pauses between attempts: growing, with jitter, and not for ever.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use super::TargetError;
use crate::change::TableName;

/// What a failure means for what to do next.
#[derive(Debug)]
pub enum Failure {
    /// Connection lost, deadlock, out of resources: connect again and repeat, after a pause. The sentence names the target.
    Transient(String),
    /// The table is not as it was when its statements were made: connect again, look again, repeat. The sentence names the table or the target.
    Stale(String),
    /// A value that the server refused, somewhere in the batch that was sent.
    Data(Refused),
    /// The target lacks a column that rows have.
    MissingColumn {
        /// The source's table.
        table: TableName,
        /// The column.
        column: String,
    },
    /// Nothing to be repeated.
    Final(TargetError),
}

/// What a server says of a value that it refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Its words.
    pub reason: String,
    /// The column, where it says one.
    pub column: Option<String>,
}

impl Failure {
    /// Pauses after a failure that may pass; `place` is for the log.
    ///
    /// # Errors
    /// What does not pass, or has not for too long.
    pub(super) fn passes(
        self,
        place: &str,
        attempts: &mut Attempts,
        pause: impl Fn(Duration),
    ) -> Result<(), TargetError> {
        let again = match &self {
            Failure::Transient(said) => {
                tracing::warn!("{place}: {said}: trying again");
                attempts.again(pause)
            }
            Failure::Stale(said) => {
                tracing::warn!("{place}: {said}: looking at the table again");
                attempts.again_in_a_row(STALE_MAX, pause)
            }
            _ => false,
        };
        if again { Ok(()) } else { Err(self.into()) }
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Failure {
        Failure::Final(error)
    }
}

/// What is said where a failure can't be mended by repeating.
impl From<Failure> for TargetError {
    fn from(failure: Failure) -> TargetError {
        match failure {
            Failure::Final(error) => error,
            Failure::Transient(said) | Failure::Stale(said) => TargetError::Target(said),
            Failure::Data(refused) => TargetError::Target(format!("the target refused a value: {}", refused.reason)),
            Failure::MissingColumn { table, column } => missing_column(table, &column),
        }
    }
}

/// The sentence for a column that the target lacks and that can't be added.
pub(super) fn missing_column(table: TableName, column: &str) -> TargetError {
    TargetError::Table {
        table,
        reason: format!(
            "missing column in the target: {column}: add it there, or set create_tables = true and let publish announce the table's schema"
        ),
    }
}

/// How often in a row a table may turn out not to be as its statements have it, before that is an error.
const STALE_MAX: u32 = 6;

/// How long a failure is taken for a passing one.
const PATIENCE: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The attempts at one piece of work.
#[derive(Debug)]
pub(super) struct Attempts {
    since: Instant,
    pause: Duration,
    failed: u32,
    in_a_row: u32,
}

impl Attempts {
    pub(super) fn new() -> Attempts {
        Attempts { since: Instant::now(), pause: FIRST_PAUSE, failed: 0, in_a_row: 0 }
    }

    /// How many have failed.
    pub(super) fn failed(&self) -> u32 {
        self.failed
    }

    /// Counts a failure and waits before the next attempt; `false` when there is no point in another.
    pub(super) fn again(&mut self, pause: impl Fn(Duration)) -> bool {
        self.in_a_row = 0;
        self.pause(pause)
    }

    /// The same, for a failure that is not to come so often in a row.
    fn again_in_a_row(&mut self, most: u32, pause: impl Fn(Duration)) -> bool {
        self.in_a_row += 1;
        self.in_a_row <= most && self.pause(pause)
    }

    fn pause(&mut self, pause: impl Fn(Duration)) -> bool {
        if self.since.elapsed() >= PATIENCE {
            return false;
        }
        self.failed += 1;
        // Jitter keeps the lanes of a job from coming back all at once: half the pause, and up to half of it more.
        let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
        pause(self.pause.mul_f64(0.5 + 0.5 * random));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}
