//! A lane: the one connection that applies the steps of a slice of the key space, in order.
//!
//! On PostgreSQL a step is one transaction: it holds the generation's row, writes the rows, and last the progress. On
//! Hologres, where no transaction is assumed, it first writes how far the step goes, then the rows, then the progress;
//! whatever is half written after a crash is written again by a step that goes at least as far. Either way a step can be
//! repeated from its beginning, and that is all that is done about lost connections. After one, the progress is read
//! first: the answer to a commit may be what was lost.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::batch::{Limits, Shape, Sink, Unfit, Unmatched};
use super::columns::Bad;
use super::connect::{Connector, Dialect, Failure, Refused, Server, missing_column};
use super::progress;
use super::table::{Policy, Table, add_column};
use crate::change::{Change, Changes, TableName};
use crate::target::fields::key_agrees;
use crate::target::retry::Attempts;
use crate::target::{FindSchema, Lane, Progress, Step, TargetError};

/// Shapes of one table that are kept; a source with more has its statements made anew.
const SHAPES_MAX: usize = 16;

/// What tells one lane of one run of a job from another.
pub(super) struct Identity {
    pub job: String,
    pub lane: u32,
    pub generation: u64,
}

/// One lane's connection.
pub(super) struct PostgresLane {
    connector: Arc<Connector>,
    policy: Arc<Policy>,
    identity: Identity,
    find_schema: FindSchema,
    session: Option<Session>,
    /// The batch that is at the server.
    sent: Option<(Sink, Range<usize>)>,
}

/// What is lost with a connection.
struct Session {
    server: Server,
    tables: HashMap<u64, Bound>,
    progress: Progress,
    through: Progress,
}

/// A table with its shapes for each sink; the one used last stands first.
struct Bound {
    table: Table,
    shapes: [Vec<Shape>; 3],
}

impl Lane for PostgresLane {
    fn apply(&mut self, step: &Step) -> Result<(), TargetError> {
        let mut attempts = Attempts::new();
        loop {
            let failure = match self.attempt(step, attempts.failed() > 0) {
                Ok(()) => return Ok(()),
                Err(Failure::Data(refused)) => return Err(self.blame(step, refused)),
                Err(Failure::MissingColumn { table, column }) => match self.provide_column(&table, &column) {
                    Ok(()) => continue,
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            self.session = None;
            let place = format!("job '{}', lane {}", self.identity.job, self.identity.lane);
            failure.passes(&place, &mut attempts)?;
        }
    }
}

impl PostgresLane {
    /// Opens the lane's connection.
    pub(super) fn open(
        connector: Arc<Connector>,
        policy: Arc<Policy>,
        identity: Identity,
        find_schema: FindSchema,
    ) -> Result<PostgresLane, TargetError> {
        let mut lane = PostgresLane { connector, policy, identity, find_schema, session: None, sent: None };
        let mut attempts = Attempts::new();
        while let Err(failure) = lane.connect() {
            let place = format!("job '{}', lane {}", lane.identity.job, lane.identity.lane);
            failure.passes(&place, &mut attempts)?;
        }
        Ok(lane)
    }

    fn connect(&mut self) -> Result<(), Failure> {
        let Identity { job, lane, generation } = &self.identity;
        let who = lane.to_string();
        let mut server = self.connector.connect(&progress::session_name(job, *generation, &who))?;
        progress::refuse_fenced(&mut server, job, *generation, false)?;
        // A lost connection's last statement may still be running.
        progress::end_sessions(&mut server, job, |session| session.generation <= *generation && session.who == who)?;
        let (progress, through) = progress::lane_progress(&mut server, job, *lane)?.unwrap_or_default();
        self.session = Some(Session { server, tables: HashMap::new(), progress, through });
        Ok(())
    }

    fn attempt(&mut self, step: &Step, repeated: bool) -> Result<(), Failure> {
        if self.session.is_none() {
            self.connect()?;
        }
        self.sent = None;
        let session = self.session.as_mut().expect("connected just now");
        if repeated && progress::order(session.progress) >= progress::order(step.progress) {
            return Ok(());
        }
        for changes in [&step.deletes, &step.updates, &step.inserts] {
            session.bind_tables(changes, &self.policy, &self.find_schema)?;
        }
        match session.server.dialect {
            Dialect::Postgres => {
                session.server.client.batch_execute("BEGIN")?;
                let written = self.write_all(step);
                let server = &mut self.session.as_mut().expect("still there").server;
                match written {
                    Ok(()) => server.client.batch_execute("COMMIT")?,
                    Err(failure) => {
                        // If this fails too, the connection is lost and the transaction with it.
                        if server.client.batch_execute("ROLLBACK").is_err() {
                            self.session = None;
                        }
                        return Err(failure);
                    }
                }
            }
            Dialect::Hologres => self.write_all(step)?,
        }
        let session = self.session.as_mut().expect("still there");
        (session.progress, session.through) = (step.progress, step.progress);
        Ok(())
    }

    /// Rows and progress, in the order that makes repeating safe.
    fn write_all(&mut self, step: &Step) -> Result<(), Failure> {
        let Identity { job, lane, generation } = &self.identity;
        let session = self.session.as_mut().expect("connected before");
        let atomic = session.server.dialect == Dialect::Postgres;
        progress::refuse_fenced(&mut session.server, job, *generation, atomic)?;
        if !atomic && !step.is_empty() {
            // By seq, not by epoch: one step may have been several epochs, and bears the number of the first.
            if step.progress.seq < session.through.seq {
                return Err(Failure::Final(TargetError::Target(format!(
                    "job '{job}', lane {lane}: a step up to {:?} after one up to {:?} that may be half written: rows would go back",
                    step.progress, session.through
                ))));
            }
            progress::save_progress(&mut session.server, job, *lane, *generation, session.progress, step.progress)?;
        }
        // Deletes first: they make room in a unique index that the target may have of its own.
        for (sink, changes) in sinks(step) {
            for run in table_runs(changes) {
                session.write(changes, run, sink, &self.policy, &mut self.sent)?;
            }
        }
        self.sent = None;
        progress::save_progress(&mut session.server, job, *lane, *generation, step.progress, step.progress)
    }

    /// Adds a column at the target, or finds that it is there by now.
    fn provide_column(&mut self, table: &TableName, column: &str) -> Result<(), Failure> {
        let Some(session) = self.session.as_mut() else { return Ok(()) };
        session.tables.retain(|_, bound| bound.table.name != *table);
        let now = Table::bind(&mut session.server, table, &self.policy, &self.find_schema)?;
        if now.column(column).is_some() {
            return Ok(());
        }
        let schema = now.source.filter(|_| self.policy.create_tables);
        let schema = schema.ok_or_else(|| missing_column(table.clone(), column))?;
        // The row may be here before the statement of its table's new schema.
        if schema.column(column).is_none() {
            return Err(Failure::Stale(missing_column(table.clone(), column).to_string()));
        }
        add_column(&mut session.server, table, column, &schema, &self.policy)
    }

    /// The row of the batch at the server that the server refused.
    fn blame(&mut self, step: &Step, refused: Refused) -> TargetError {
        let Some((sink, mut range)) = self.sent.take() else {
            return TargetError::Target(format!("the target refused a value: {}", refused.reason));
        };
        let changes = sinks(step).into_iter().find(|(s, _)| *s == sink).expect("one of the three").1;
        let mut refused = refused;
        while range.len() > 1 {
            let middle = range.start + range.len() / 2;
            let halves = [range.start..middle, middle..range.end];
            let found = halves.into_iter().find_map(|half| Some((self.refused(changes, &half, sink)?, half)));
            match found {
                Some((said, half)) => (refused, range) = (said, half),
                // Only together: two rows that a unique index of the target's own does not take.
                None => {
                    let table = changes.change(range.start).table_name();
                    let reason = format!("the target refused a batch of {} rows: {}", range.len(), refused.reason);
                    return TargetError::Table { table, reason };
                }
            }
        }
        row_error(
            &changes.change(range.start),
            refused.column,
            Bad::new(format!("the target refused it: {}", refused.reason)),
        )
    }

    /// Whether the server refuses these rows. They are written for that, and where there are transactions taken back.
    fn refused(&mut self, changes: &Changes, range: &Range<usize>, sink: Sink) -> Option<Refused> {
        if self.session.is_none() {
            self.connect().ok()?;
        }
        let session = self.session.as_mut()?;
        let atomic = session.server.dialect == Dialect::Postgres;
        if atomic {
            session.server.client.batch_execute("BEGIN").ok()?;
        }
        let written = session.write(changes, range.clone(), sink, &self.policy, &mut None);
        if atomic && session.server.client.batch_execute("ROLLBACK").is_err() {
            self.session = None;
        }
        match written {
            Err(Failure::Data(refused)) => Some(refused),
            _ => None,
        }
    }
}

impl Session {
    /// Looks up the tables of a batch that are not bound yet, or whose schema at the source has changed. This may run
    /// DDL, so it comes before the step's transaction.
    fn bind_tables(&mut self, changes: &Changes, policy: &Policy, find_schema: &FindSchema) -> Result<(), Failure> {
        for run in table_runs(changes) {
            let change = changes.change(run.start);
            let name = change.table_name();
            if let Some(bound) = self.tables.get(&change.head.table_hash)
                && bound.table.name == name
            {
                let Some(known) = &bound.table.source else { continue };
                if find_schema(&name).is_none_or(|now| now.same_shape(known)) {
                    continue;
                }
            }
            let table = Table::bind(&mut self.server, &name, policy, find_schema)?;
            self.tables.insert(change.head.table_hash, Bound { table, shapes: Default::default() });
        }
        Ok(())
    }

    /// Writes a run of changes of one table to one sink, and keeps in `sent` which of them the server has just now.
    fn write(
        &mut self,
        changes: &Changes,
        run: Range<usize>,
        sink: Sink,
        policy: &Policy,
        sent: &mut Option<(Sink, Range<usize>)>,
    ) -> Result<(), Failure> {
        let limits = Limits::of(self.server.dialect);
        let first = changes.change(run.start);
        let bound = self.tables.get_mut(&first.head.table_hash).expect("bound before the step");
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
                Err(Unfit::Bad { column, bad }) => {
                    shapes[0].release();
                    return Err(row_error(&change, column, bad).into());
                }
                Err(Unfit::OtherShape) => {
                    send(shapes, &mut self.server, table, sink, start..index, sent)?;
                    start = index;
                    find_shape(shapes, &change, table, sink, policy)?;
                }
            }
            if shapes[0].is_full(limits) {
                send(shapes, &mut self.server, table, sink, start..index + 1, sent)?;
                start = index + 1;
            }
        }
        send(shapes, &mut self.server, table, sink, start..run.end, sent)?;
        shapes[0].release();
        Ok(())
    }
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

/// Puts a shape that the row fits in front, with the row in it.
fn find_shape(
    shapes: &mut Vec<Shape>,
    change: &Change,
    table: &Table,
    sink: Sink,
    policy: &Policy,
) -> Result<(), Failure> {
    for n in 1..shapes.len() {
        match shapes[n].push(change.row(), table) {
            Ok(()) => {
                shapes.swap(0, n);
                return Ok(());
            }
            Err(Unfit::OtherShape) => {}
            Err(Unfit::Bad { column, bad }) => return Err(row_error(change, column, bad).into()),
        }
    }
    let mut shape = Shape::of(change, table, sink, policy.zero_date_null).map_err(|unmatched| match *unmatched {
        Unmatched::Column(column) => Failure::MissingColumn { table: table.name.clone(), column },
        Unmatched::Row(bad) => row_error(change, None, bad).into(),
    })?;
    match shape.push(change.row(), table) {
        Ok(()) => {}
        Err(Unfit::Bad { column, bad }) => return Err(row_error(change, column, bad).into()),
        Err(Unfit::OtherShape) => unreachable!("a row fits the shape made from it"),
    }
    shapes.truncate(SHAPES_MAX - 1);
    shapes.insert(0, shape);
    Ok(())
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

fn row_error(change: &Change, column: Option<String>, bad: Bad) -> TargetError {
    let (table, key) = (change.table_name(), String::from_utf8_lossy(change.key()).into_owned());
    match bad {
        Bad::Value(reason) => TargetError::Row { table, key, column, reason },
        Bad::ZeroDate(date) => {
            TargetError::ZeroDate { table, key, column: column.unwrap_or_default(), date: date.into() }
        }
    }
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
