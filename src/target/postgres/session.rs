//! A session at PostgreSQL or Hologres: what the protocol asks of one, as SQL.
//!
//! Tables are bound once a session, and their statements prepared once a shape of rows (`batch`). A batch that the server
//! refuses is found again row by row, by halves.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::batch::{Limits, Shape, Sink, Unfit, Unmatched};
use super::columns::Bad;
use super::connect::{Connector, Dialect, STATEMENT_TIMEOUT, Server};
use super::progress;
use super::table::{Policy, Table, add_column, look_of, refuse_moved};
use crate::change::{Change, Changes, TableName};
use crate::target::fields::key_agrees;
use crate::target::protocol::{JobRow, LaneRow, OtherSession, Session, Store};
use crate::target::retry::{Failure, Refused, missing_column};
use crate::target::{Checkpoint, FindSchema, RefusedRow, Step, TargetError};

/// So many refused rows of a step are looked for at a time.
const REFUSED_MAX: usize = 10_000;

/// Shapes of one table that are kept; a source with more has its statements made anew.
const SHAPES_MAX: usize = 16;

/// A PostgreSQL or Hologres database.
pub struct Postgres {
    pub(super) connector: Connector,
    pub(super) policy: Arc<Policy>,
}

impl Store for Postgres {
    type Session = PostgresSession;

    fn connect(&self, job: &str, generation: u64, who: &str) -> Result<PostgresSession, Failure> {
        let server = self.connector.connect(&progress::session_name(job, generation, who))?;
        Ok(PostgresSession {
            server,
            policy: Arc::clone(&self.policy),
            job: job.to_string(),
            tables: HashMap::new(),
            sent: None,
            refused: Vec::new(),
        })
    }
}

/// A connection, and what is known of the tables behind it.
pub struct PostgresSession {
    server: Server,
    policy: Arc<Policy>,
    job: String,
    tables: HashMap<u64, Bound>,
    /// The batch that is at the server.
    sent: Option<(Sink, Range<usize>)>,
    /// The rows of the step that do not become what their columns are.
    refused: Vec<RefusedRow>,
}

/// A table with its shapes for each sink; the one used last stands first.
struct Bound {
    table: Table,
    shapes: [Vec<Shape>; 3],
}

impl Session for PostgresSession {
    fn is_atomic(&self) -> bool {
        self.server.dialect == Dialect::Postgres
    }

    fn statement_timeout(&self) -> Duration {
        STATEMENT_TIMEOUT
    }

    fn create_progress(&mut self) -> Result<(), Failure> {
        progress::create_tables(&mut self.server)
    }

    fn refuse_moved(&mut self, job: &str) -> Result<(), Failure> {
        refuse_moved(&mut self.server, job, &self.policy)
    }

    fn begin(&mut self) -> Result<(), Failure> {
        Ok(self.server.client.batch_execute("BEGIN")?)
    }

    fn commit(&mut self) -> Result<(), Failure> {
        Ok(self.server.client.batch_execute("COMMIT")?)
    }

    fn rollback(&mut self) -> Result<(), Failure> {
        Ok(self.server.client.batch_execute("ROLLBACK")?)
    }

    fn job(&mut self, job: &str) -> Result<Option<JobRow>, Failure> {
        progress::job(&mut self.server, job)
    }

    fn add_job(&mut self, job: &str, row: &JobRow) -> Result<(), Failure> {
        progress::add_job(&mut self.server, job, row)
    }

    fn replace_job(&mut self, job: &str, from: u64, row: &JobRow) -> Result<bool, Failure> {
        progress::replace_job(&mut self.server, job, from, row)
    }

    fn generation(&mut self, job: &str, hold: bool) -> Result<Option<u64>, Failure> {
        progress::generation(&mut self.server, job, hold)
    }

    fn lanes(&mut self, job: &str) -> Result<std::collections::BTreeMap<u32, LaneRow>, Failure> {
        progress::lanes(&mut self.server, job)
    }

    fn save_lane(&mut self, job: &str, lane: u32, generation: u64, row: &LaneRow) -> Result<(), Failure> {
        progress::save_lane(&mut self.server, job, lane, generation, row)
    }

    fn checkpoint(&mut self, job: &str) -> Result<Option<Checkpoint>, Failure> {
        progress::checkpoint(&mut self.server, job)
    }

    fn save_checkpoint(&mut self, job: &str, generation: u64, checkpoint: &Checkpoint) -> Result<(), Failure> {
        progress::save_checkpoint(&mut self.server, job, generation, checkpoint)
    }

    fn sessions(&mut self, job: &str) -> Result<Vec<OtherSession>, Failure> {
        progress::sessions(&mut self.server, job)
    }

    fn terminate(&mut self, sessions: &[OtherSession]) -> Result<(), Failure> {
        progress::terminate(&mut self.server, sessions)
    }

    fn prepare(&mut self, step: &Step, schemas: &FindSchema) -> Result<(), Failure> {
        self.sent = None;
        [&step.deletes, &step.updates, &step.inserts].into_iter().try_for_each(|batch| self.bind_tables(batch, schemas))
    }

    fn write(&mut self, step: &Step) -> Result<(), Failure> {
        self.refused.clear();
        for (sink, changes) in sinks(step) {
            for run in table_runs(changes) {
                if self.refused.len() < REFUSED_MAX {
                    self.write_run(changes, run, sink)?;
                }
            }
        }
        self.sent = None;
        self.refuse_altered(step)?;
        if self.refused.is_empty() { Ok(()) } else { Err(self.give_up()) }
    }

    fn provide_column(&mut self, table: &TableName, column: &str, schemas: &FindSchema) -> Result<(), Failure> {
        self.tables.retain(|_, bound| bound.table.name != *table);
        let now = Table::bind(&mut self.server, table, &self.policy, &self.job, schemas)?;
        if now.column(column).is_some() {
            return Ok(());
        }
        let find = || schemas(table, Some(column)).filter(|schema| schema.form(column).is_some());
        let schema = self.policy.create_tables.then(find).flatten();
        let schema = schema.ok_or_else(|| missing_column(table.clone(), column))?;
        add_column(&mut self.server, table, column, &schema, &self.policy)
    }

    fn blame(&mut self, step: &Step, mut refused: Refused) -> Result<TargetError, Failure> {
        let Some((sink, mut range)) = self.sent.take() else {
            return Ok(TargetError::Target(format!("the target refused a value: {}", refused.reason)));
        };
        let changes = sinks(step).into_iter().find(|(s, _)| *s == sink).expect("one of the three").1;
        while range.len() > 1 {
            let middle = range.start + range.len() / 2;
            let mut found = None;
            for half in [range.start..middle, middle..range.end] {
                if let Some(said) = self.refused(step, &half, sink)? {
                    found = Some((said, half));
                    break;
                }
            }
            match found {
                Some((said, half)) => (refused, range) = (said, half),
                // Only together: two rows that a unique index of the target's own does not take.
                None => {
                    let table = changes.change(range.start).table_name();
                    let reason = format!("the target refused a batch of {} rows: {}", range.len(), refused.reason);
                    return Ok(TargetError::Table { table, reason });
                }
            }
        }
        let reason = Bad::new(format!("the target refused it: {}", refused.reason));
        Ok(refused_row(&changes.change(range.start), refused.column, reason).into())
    }
}

impl PostgresSession {
    /// That the tables of a step have the columns that its values were made for, or refused for: PostgreSQL rounds what does not
    /// fit a narrower type. What the step has written keeps them from changing before its end.
    fn refuse_altered(&mut self, step: &Step) -> Result<(), Failure> {
        if !self.is_atomic() {
            return Ok(());
        }
        let mut seen = Vec::new();
        for (_, changes) in sinks(step) {
            for run in table_runs(changes) {
                let hash = changes.head(run.start).table_hash;
                if seen.contains(&hash) {
                    continue;
                }
                seen.push(hash);
                let table = &self.tables[&hash].table;
                if !is_as_bound(&look_of(&mut self.server, &table.sql)?, &table.look) {
                    return Err(Failure::Stale(format!("table {} was altered at the target", table.sql)));
                }
            }
        }
        Ok(())
    }

    /// What has been refused so far.
    fn give_up(&mut self) -> Failure {
        TargetError::Rows(std::mem::take(&mut self.refused)).into()
    }

    /// Whether the server refuses these rows. They are written for that, where there are transactions behind all that the step
    /// writes before them (a row may be in the way that the step deletes), and taken back.
    fn refused(&mut self, step: &Step, range: &Range<usize>, sink: Sink) -> Result<Option<Refused>, Failure> {
        let before = sinks(step).into_iter().take_while(|(earlier, _)| *earlier != sink);
        let changes = sinks(step).into_iter().find(|(s, _)| *s == sink).expect("one of the three").1;
        let write = || {
            if self.is_atomic() {
                self.begin()?;
                for (earlier, batch) in before {
                    table_runs(batch).try_for_each(|run| self.write_run(batch, run, earlier))?;
                }
                let earlier = table_runs(changes).take_while(|run| run.start < range.start);
                earlier
                    .map(|run| run.start..run.end.min(range.start))
                    .try_for_each(|run| self.write_run(changes, run, sink))?;
            }
            self.write_run(changes, range.clone(), sink)
        };
        let written = write();
        self.sent = None;
        if self.is_atomic() {
            self.rollback()?;
        }
        match written {
            Err(Failure::Data(refused)) => Ok(Some(refused)),
            Err(failure @ (Failure::Transient(_) | Failure::Stale(_))) => Err(failure),
            _ => Ok(None),
        }
    }

    /// Looks up the tables of a batch that are not bound yet, or whose schema at the source has changed. This may run
    /// DDL, so it comes before the step's transaction.
    fn bind_tables(&mut self, changes: &Changes, find_schema: &FindSchema) -> Result<(), Failure> {
        for run in table_runs(changes) {
            let change = changes.change(run.start);
            let name = change.table_name();
            if let Some(bound) = self.tables.get(&change.head.table_hash)
                && bound.table.name == name
            {
                let Some(known) = &bound.table.source else { continue };
                if find_schema(&name, None).is_none_or(|now| now.same_shape(known)) {
                    continue;
                }
            }
            let table = Table::bind(&mut self.server, &name, &self.policy, &self.job, find_schema)?;
            self.tables.insert(change.head.table_hash, Bound { table, shapes: Default::default() });
        }
        Ok(())
    }

    /// Writes a run of changes of one table to one sink, and keeps in `sent` which of them the server has just now.
    fn write_run(&mut self, changes: &Changes, run: Range<usize>, sink: Sink) -> Result<(), Failure> {
        let PostgresSession { server, policy, tables, sent, refused, .. } = self;
        let limits = Limits::of(server.dialect);
        let first = changes.change(run.start);
        let bound = tables.get_mut(&first.head.table_hash).expect("bound before the step");
        // In the order of keys a change of a time when the table had no key comes first.
        if bound.table.source.is_none() || first.key().is_empty() {
            check_key(&first, &bound.table)?;
        }
        let (table, shapes) = (&bound.table, &mut bound.shapes[sink as usize]);
        let mut start = run.start;
        for index in run.clone() {
            let change = changes.change(index);
            let unfit = match shapes.first_mut() {
                Some(shape) => shape.push(change.row(), table),
                None => Err(Unfit::OtherShape),
            };
            match unfit {
                Ok(()) => {}
                // The others are gone through, too: where refused rows are kept aside, the step is begun again once for all.
                Err(Unfit::Bad { column, bad }) => {
                    send(shapes, server, table, sink, start..index, sent)?;
                    start = index + 1;
                    refused.push(refused_row(&change, column, bad));
                }
                Err(Unfit::OtherShape) => {
                    send(shapes, server, table, sink, start..index, sent)?;
                    start = index;
                    if let Some(row) = find_shape(shapes, &change, table, sink, policy)? {
                        start = index + 1;
                        refused.push(row);
                    }
                }
            }
            if refused.len() >= REFUSED_MAX {
                break;
            }
            // There is none yet while only refused rows have come.
            if shapes.first().is_some_and(|shape| shape.is_full(limits)) {
                send(shapes, server, table, sink, start..index + 1, sent)?;
                start = index + 1;
            }
        }
        if refused.len() < REFUSED_MAX {
            send(shapes, server, table, sink, start..run.end, sent)?;
        }
        shapes.iter_mut().for_each(Shape::release);
        Ok(())
    }
}

/// Whether a table looks as it did, but for columns behind those that it had.
fn is_as_bound(now: &str, bound: &str) -> bool {
    now.strip_prefix(bound).is_some_and(|more| more.is_empty() || more.starts_with(','))
}

/// Sends the batch of the first shape, if it has rows, and empties it, whatever comes of it.
fn send(
    shapes: &mut [Shape],
    server: &mut Server,
    table: &Table,
    sink: Sink,
    rows: Range<usize>,
    sent: &mut Option<(Sink, Range<usize>)>,
) -> Result<(), Failure> {
    let Some(shape) = shapes.first_mut().filter(|shape| shape.rows() > 0) else { return Ok(()) };
    debug_assert_eq!(shape.rows(), rows.len());
    *sent = Some((sink, rows));
    let outcome = shape.send(server, table, sink);
    shape.clear();
    outcome
}

/// Puts a shape that the row fits in front, with the row in it; returns the row if it is refused.
fn find_shape(
    shapes: &mut Vec<Shape>,
    change: &Change,
    table: &Table,
    sink: Sink,
    policy: &Policy,
) -> Result<Option<RefusedRow>, Failure> {
    for n in 1..shapes.len() {
        match shapes[n].push(change.row(), table) {
            Ok(()) => {
                shapes.swap(0, n);
                return Ok(None);
            }
            Err(Unfit::OtherShape) => {}
            Err(Unfit::Bad { column, bad }) => return Ok(Some(refused_row(change, column, bad))),
        }
    }
    let mut shape = match Shape::of(change, table, sink, policy.zero_date_null) {
        Ok(shape) => shape,
        Err(unmatched) => match *unmatched {
            Unmatched::Column(column) => return Err(Failure::MissingColumn { table: table.name.clone(), column }),
            Unmatched::Row(bad) => return Ok(Some(refused_row(change, None, bad))),
        },
    };
    let refused = match shape.push(change.row(), table) {
        Ok(()) => None,
        Err(Unfit::Bad { column, bad }) => Some(refused_row(change, column, bad)),
        Err(Unfit::OtherShape) => unreachable!("a row fits the shape made from it"),
    };
    shapes.truncate(SHAPES_MAX - 1);
    shapes.insert(0, shape);
    Ok(refused)
}

/// Without the source's schema, only the key's text says whether the target's primary key is the source's key.
fn check_key(change: &Change, table: &Table) -> Result<(), Failure> {
    if key_agrees(change, |name| table.column(name).is_some_and(|column| table.columns[column].in_key)) {
        return Ok(());
    }
    let key_text = String::from_utf8_lossy(change.key());
    let key: Vec<&str> =
        table.columns.iter().filter(|column| column.in_key).map(|column| column.name.as_str()).collect();
    let reason = match key_text.is_empty() {
        true => {
            "its changes have no key, and without a key no row can be found again: give it a primary key at the source"
                .into()
        }
        false => format!(
            "its changes have the key {key_text}, which is not the text of the target's primary key ({}): make them the same",
            key.join(", ")
        ),
    };
    Err(TargetError::Table { table: table.name.clone(), reason }.into())
}

fn refused_row(change: &Change, column: Option<String>, bad: Bad) -> RefusedRow {
    let (zero_date, reason) = match bad {
        Bad::Value(reason) => (false, reason),
        Bad::ZeroDate(date) => (
            true,
            format!(
                "'{date}' is a date that only MySQL has: set zero_dates = \"null\" or \"dead-letter\" for the target, or make \
                 its column text"
            ),
        ),
    };
    let key = String::from_utf8_lossy(change.key()).into_owned();
    RefusedRow { table: change.table_name(), key, column, reason, zero_date }
}

fn sinks(step: &Step) -> [(Sink, &Changes); 3] {
    [(Sink::Delete, &step.deletes), (Sink::Update, &step.updates), (Sink::Insert, &step.inserts)]
}

/// The ranges of a batch that are of one table each.
fn table_runs(changes: &Changes) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let start = next;
        let first = (start < changes.len()).then(|| changes.change(start))?;
        next = (start + 1..changes.len()).find(|&n| !changes.change(n).same_table(&first)).unwrap_or(changes.len());
        Some(start..next)
    })
}
