//! What is to be done with a table's rows, by its table map, and by what the server says where that leaves something open.

use std::sync::Arc;

use crate::change::TableName;
use crate::codec::binlog::{Described, Kind, TableMap, pack_context};
use crate::source::SourceError;

use super::super::place::Place;
use super::super::server::versioned;
use super::Follower;

/// How many tables' contexts are kept ready.
const CONTEXTS_MAX: usize = 4096;

/// Asks the server how the table of the rows at a place looks.
pub(in super::super) type Describe<'a> = dyn FnMut(&TableName, &Place) -> Result<Shown, SourceError> + 'a;

/// What the server shows of a table.
pub(in super::super) struct Shown {
    /// How it looks now; `None`: there is no such table.
    pub described: Option<Described>,
    /// Where it was given that look, if that is behind the place that was asked about.
    pub reshaped: Option<Place>,
}

/// What is to be done with a table's rows.
#[derive(Clone)]
pub(super) enum Context {
    Unwanted,
    /// They are handed on with what their decoder needs.
    Rows(Arc<[u8]>),
    /// They can't be decoded, for that reason.
    Unusable(Arc<str>),
}

impl Follower {
    pub(super) fn table_map(&mut self, body: &[u8], describe: &mut Describe) -> Result<(), SourceError> {
        let malformed = |follower: &Self, error| follower.broken_event(&error);
        let map = TableMap::read(body).map_err(|error| malformed(self, error))?;
        let context = match self.contexts.get(body) {
            Some(context) => context.clone(),
            None => {
                let context = match self.filter.wants(map.database, map.table) {
                    false => Context::Unwanted,
                    true => self.context(body, &map, describe)?,
                };
                if self.contexts.len() == CONTEXTS_MAX {
                    self.contexts.clear();
                }
                self.contexts.insert(body.into(), context.clone());
                context
            }
        };
        self.tables.insert(map.table_id, context);
        Ok(())
    }

    /// The context of a wanted table's rows. The server is asked what its map leaves open.
    fn context(&self, body: &[u8], map: &TableMap, describe: &mut Describe) -> Result<Context, SourceError> {
        let malformed = |error| self.broken_event(&error);
        let full = map.is_full(self.flavor).map_err(malformed)?;
        let doubtful = map.may_be_versioned(self.flavor).map_err(malformed)?;
        if full && !doubtful {
            return Ok(Context::Rows(pack_context(self.flavor, body, None).into()));
        }
        let table = TableName::new(map.database, map.table);
        let Shown { described, reshaped } = describe(&table, &self.place)?;
        let shown = described.as_ref().map_or(&[][..], |described| &described.columns);
        if doubtful
            && (described.as_ref().is_some_and(|described| described.kind == Kind::Versioned)
                || map.has_more_than(shown).map_err(malformed)?)
        {
            return Err(self.refused(&versioned(&table)));
        }
        if described.is_none() && !map.is_named().map_err(malformed)? {
            return Err(self.refused(&format!(
                "table {table} is not at the source any more, or its user may not SELECT from it, and the binlog does not say \
                 how it looked: set binlog_row_metadata=FULL there, or leave the table out"
            )));
        }
        if let Some(reshaped) = reshaped.filter(|_| !full) {
            let reason = format!(
                "table {table} was altered at binlog {reshaped}, behind these rows, and the binlog does not say how their columns \
                 were named: copy the table anew and publish to another topic from behind that place, or let [publish] \
                 dead_letter name a file that such rows may go to and let verify --repair mend the table; \
                 binlog_row_metadata=FULL at the source keeps this from happening again"
            );
            return Ok(Context::Unusable(reason.into()));
        }
        let is_sequence = match &described {
            Some(described) => described.kind == Kind::Sequence,
            None => map.is_sequence(self.flavor).map_err(malformed)?,
        };
        if is_sequence {
            return Ok(Context::Unwanted);
        }
        Ok(Context::Rows(pack_context(self.flavor, body, described.as_ref().filter(|_| !full)).into()))
    }
}
