//! What the statements in a binlog do to those who follow it: they begin and end transactions, and change rows that are logged
//! nowhere, or how tables look.

use crate::codec::binlog::event;
use crate::source::{Raws, SourceError};

use super::super::statement::{Named, Sql, Statement, XaStep, classify};
use super::{Commit, Follower};

impl Follower {
    /// Takes a statement, which may be logged in the open transaction or without one.
    pub(super) fn statement(
        &mut self,
        sql: &Sql,
        default_database: &str,
        second: u64,
        now: u64,
        out: &mut Raws,
    ) -> Result<(), SourceError> {
        let meaning = classify(sql);
        let sql = &*sql.text;
        match meaning {
            Statement::Begin | Statement::CreateWithRows => match &mut self.open {
                Some(open) => open.one_statement = false,
                None => self.begin(Commit::Second(second), now, false),
            },
            // Logged only where a part of the transaction can't be rolled back.
            Statement::Rollback if self.open.as_ref().is_some_and(|open| open.rows) => {
                return Err(self.refused(
                    "rows are rolled back that were logged, since the transaction also wrote to a table without transactions \
                     or made a temporary one: tidegate can't take them back; copy the tables anew and publish to a new topic \
                     from behind it",
                ));
            }
            // A savepoint's leaves the transaction open, and its COMMIT follows.
            Statement::Rollback if sql.trim().eq_ignore_ascii_case("rollback") => self.open = None,
            Statement::Rollback => {}
            Statement::End => self.open = None,
            Statement::Xa { step, xid } => self.distributed(step, xid, second, now, out),
            Statement::RowsAsText { tables } => match self.wanted(&tables, default_database) {
                // It has a number all the same: which tables are wanted may change.
                None if !tables.is_empty() => {
                    self.seq += 1;
                    let names = self.names(&tables, default_database);
                    let names: Vec<String> = names.map(|(database, table)| format!("{database}.{table}")).collect();
                    let names = names.join(" and ");
                    if !self.as_text_said.contains(&names) && self.as_text_said.len() < AS_TEXT_SAID_MAX {
                        tracing::warn!(
                            "{}: a statement about {names}, which is not wanted, is logged as text, as others of it may be; if triggers \
                             or foreign keys make them change wanted tables too, run verify: {}",
                            self.place,
                            shortened(sql)
                        );
                        self.as_text_said.insert(names);
                        if self.as_text_said.len() == AS_TEXT_SAID_MAX {
                            tracing::warn!("of other tables that are not wanted this is not said any more");
                        }
                    }
                }
                _ => self.as_text(sql, second, now, out),
            },
            Statement::Unlogged { what, tables } => match self.wanted(&tables, default_database) {
                None => self.seq += 1,
                Some(wanted) => {
                    let reason = format!(
                        "{what} takes rows of {wanted} away, or brings some, without logging them: let [publish] dead_letter name a file \
                         that this record may go to, and once land is through, verify --repair mend the target's table; or copy the \
                         table anew and publish to another topic from behind it"
                    );
                    self.unusable(&reason, second, now, out);
                }
            },
            Statement::Index { .. } => self.contexts.clear(), // a key may be another
            Statement::Alter { tables, .. } => {
                self.contexts.clear(); // a table may be another under the same map
                if let Some(wanted) = self.wanted(&tables, default_database) {
                    self.warn_of_rows(&wanted, sql);
                }
            }
            Statement::DropDatabase { database } => {
                self.contexts.clear();
                if self.filter.may_want_of(&self.in_maps(&database)) {
                    self.warn_of_rows(&format!("{database}.*"), sql);
                }
            }
            Statement::Other => {}
        }
        if self.open.as_ref().is_some_and(|open| open.one_statement) {
            self.open = None;
        }
        Ok(())
    }

    /// Follows a distributed transaction, which has no rows of wanted tables; which it has, is known while it is prepared.
    fn distributed(&mut self, step: XaStep, xid: String, second: u64, now: u64, out: &mut Raws) {
        match step {
            XaStep::Start => {
                if self.open.is_none() {
                    self.begin(Commit::Second(second), now, false);
                }
                if let Some(open) = &mut self.open {
                    (open.one_statement, open.distributed) = (false, true);
                }
            }
            XaStep::End => {
                if let Some(open) = &mut self.open {
                    (open.one_statement, open.xid) = (false, Some(xid));
                }
            }
            XaStep::Commit => {
                if self.prepared.remove(&xid) {
                    self.seq += 1;
                } else {
                    let reason = format!(
                        "a distributed (XA) transaction is committed, {xid}, whose beginning has not been read, so that nobody knows \
                         of which rows: copy the tables anew and publish to another topic from behind it, or let [publish] \
                         dead_letter name a file that this record may go to, and verify --repair mend the tables if it changed some"
                    );
                    self.unusable(&reason, second, now, out);
                }
                self.open = None;
            }
            XaStep::Rollback => {
                self.prepared.remove(&xid);
                self.open = None;
            }
        }
    }

    /// Takes the end of a distributed transaction that is prepared, or committed in one phase.
    pub(super) fn prepared(&mut self, data: &[u8]) {
        let is_decided = data.first().is_some_and(|one_phase| *one_phase != 0);
        let xid = self.open.take().and_then(|open| open.xid);
        if let Some(xid) = xid.filter(|_| !is_decided && self.prepared.len() < PREPARED_MAX) {
            self.prepared.insert(xid);
        }
    }

    /// Takes a statement whose rows may be logged nowhere.
    pub(super) fn as_text(&mut self, sql: &str, second: u64, now: u64, out: &mut Raws) {
        let reason = format!(
            "the rows that a statement changed, or may have changed, are not in the binlog: set binlog_format=ROW on the server, \
             for all sessions; then copy the tables anew and publish to another topic, or let [publish] dead_letter name a file \
             that this record may go to, and verify --repair mend the tables if it changed some: {}",
            shortened(sql)
        );
        self.unusable(&reason, second, now, out);
    }

    /// Hands on a record that stands for rows which are not there.
    fn unusable(&mut self, reason: &str, second: u64, now: u64, out: &mut Raws) {
        let time = self.time(second, now);
        self.hand_on(&[&[event::UNUSABLE], reason.as_bytes()], &[], 1, time, out);
    }

    fn warn_of_rows(&self, tables: &str, sql: &str) {
        let (place, sql) = (&self.place, shortened(sql));
        tracing::warn!("{place}: what becomes of the rows of {tables} is not in the binlog, run verify: {sql}");
    }

    /// A name of a statement as table maps have it.
    fn in_maps(&self, name: &str) -> String {
        if self.lower_case { name.to_lowercase() } else { name.to_string() }
    }

    /// The tables that a statement names, as table maps have their names.
    fn names<'a>(&self, tables: &'a [Named], default_database: &'a str) -> impl Iterator<Item = (String, String)> {
        tables.iter().map(|named| {
            let database = named.database.as_deref().unwrap_or(default_database);
            (self.in_maps(database), self.in_maps(&named.table))
        })
    }

    /// The names of those tables that are wanted; `None`: none is.
    fn wanted(&self, tables: &[Named], default_database: &str) -> Option<String> {
        let names = self.names(tables, default_database);
        // A letter that nobody knows may be any.
        let doubtful = |name: &str| name.contains(char::REPLACEMENT_CHARACTER);
        let wanted = names
            .filter(|(database, table)| doubtful(database) || doubtful(table) || self.filter.wants(database, table));
        let wanted: Vec<String> = wanted.map(|(database, table)| format!("{database}.{table}")).collect();
        (!wanted.is_empty()).then(|| wanted.join(" and "))
    }
}

/// So many distributed transactions are known while they are prepared.
const PREPARED_MAX: usize = 65_536;

/// Of so many tables that are not wanted it is said that statements about them are logged as text.
const AS_TEXT_SAID_MAX: usize = 100;

fn shortened(sql: &str) -> String {
    sql.chars().take(200).collect()
}
