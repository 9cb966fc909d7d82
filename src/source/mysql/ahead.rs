//! What the binlog has ahead of the rows that are read: statements that change how tables look, and ends of transactions.
//!
//! With `binlog_row_metadata=MINIMAL` the binlog does not say how the columns of a row are named, and the server is asked. It
//! says how the table looks *now*. That is how it looked when the rows were written if nothing between there and now has
//! changed it, and whether something has stands in the binlog itself. So that part of it is looked through, once.

use mysql::binlog::EventType;
use mysql::binlog::events::EventData;
use mysql::{BinlogDumpFlags, BinlogRequest, BinlogStream};

use crate::change::TableName;
use crate::source::SourceError;

use super::events::{is_artificial, mariadb};
use super::place::{FILE_START, Place};
use super::server::{Server, Trouble, is_cut};
use super::statement::{Named, Sql, Statement, classify};

const LOOKING: &str = "looking ahead in the binlog (REPLICATION SLAVE)";

/// What has been seen ahead.
#[derive(Default)]
pub(super) struct Ahead {
    /// Up to where the binlog has been looked through.
    seen: Option<Place>,
    /// Where tables, or all of a database, were given another look, oldest first.
    reshaped: Vec<(Place, Reshaped)>,
}

#[derive(Debug)]
enum Reshaped {
    Table(TableName),
    /// A unique index came or went.
    Index(TableName),
    Database(String),
}

impl Reshaped {
    /// Names are compared without regard to case: statements may write them otherwise than the tables are named.
    fn concerns(&self, table: &TableName, has_primary_key: bool) -> bool {
        let same = |name: &TableName| {
            name.database.eq_ignore_ascii_case(&table.database) && name.table.eq_ignore_ascii_case(&table.table)
        };
        match self {
            Reshaped::Table(name) => same(name),
            // A primary key that came later was another look.
            Reshaped::Index(name) => same(name) && !has_primary_key,
            Reshaped::Database(name) => name.eq_ignore_ascii_case(&table.database),
        }
    }
}

impl Ahead {
    /// Where a table that the rows at `place` are of was given another look, or key, between there and `end`; `None`: it looks
    /// as it did then.
    ///
    /// # Errors
    /// The server does not send its binlog.
    pub fn reshaped(
        &mut self,
        server: &Server,
        table: &TableName,
        has_primary_key: bool,
        place: &Place,
        end: &Place,
    ) -> Result<Option<Place>, Trouble> {
        self.reshaped.retain(|(at, _)| at.reaches(place));
        let from = match &self.seen {
            Some(seen) if seen.reaches(place) => seen.clone(),
            _ => place.clone(),
        };
        if !from.reaches(end) {
            self.look(server, &from, end)?;
        }
        Ok(self
            .reshaped
            .iter()
            .find(|(_, reshaped)| reshaped.concerns(table, has_primary_key))
            .map(|(at, _)| at.clone()))
    }

    fn look(&mut self, server: &Server, from: &Place, end: &Place) -> Result<(), Trouble> {
        let (mut place, mut found) = (from.clone(), Vec::new());
        while let Some(cut) = scan(server, &mut place, end, &mut found)? {
            place = server.file_behind(&place)?.ok_or_else(|| server.trouble(LOOKING, &cut))?;
        }
        self.seen = Some(end.clone());
        self.reshaped.append(&mut found);
        Ok(())
    }
}

/// Looks from a place on, and moves it, for what gives tables another look. The error with which a file ended too soon, if one
/// did.
fn scan(
    server: &Server,
    place: &mut Place,
    end: &Place,
    found: &mut Vec<(Place, Reshaped)>,
) -> Result<Option<mysql::Error>, Trouble> {
    let mut fresh = true;
    for event in events_from(server, place)? {
        let event = match event {
            Err(error) if is_cut(&error) => return Ok(Some(error)),
            event => event.map_err(|error| server.trouble(LOOKING, &error))?,
        };
        let header = event.header();
        let unread = |error: std::io::Error| {
            Trouble::Lasting(SourceError::Source(format!("binlog {place}: the event can't be read: {error}")))
        };
        let artificial = is_artificial(&header);
        let kind = header.event_type_raw();
        if kind == EventType::ROTATE_EVENT as u8 {
            // The first only names the file that was asked for.
            if !(std::mem::take(&mut fresh) && artificial)
                && let Some(EventData::RotateEvent(rotate)) = event.read_data().map_err(unread)?
            {
                *place = Place::new(rotate.name(), rotate.position());
            }
            continue;
        }
        if kind == EventType::QUERY_EVENT as u8
            && let Some(EventData::QueryEvent(query)) = event.read_data().map_err(unread)?
        {
            found.extend(reshaped_by(&Sql::of(&query), &query.schema()).into_iter().map(|what| (place.clone(), what)));
        }
        if !artificial {
            place.advance(header.log_pos());
        }
        if place.reaches(end) {
            break;
        }
    }
    Ok(None)
}

/// The events that the server has from a place on, on a connection of their own.
fn events_from(server: &Server, place: &Place) -> Result<BinlogStream, Trouble> {
    let request = BinlogRequest::new(server.looking_id())
        .with_filename(place.file.as_bytes())
        .with_pos(place.offset)
        .with_flags(BinlogDumpFlags::BINLOG_DUMP_NON_BLOCK);
    server.replica()?.get_binlog_stream(request).map_err(|error| server.trouble(LOOKING, &error))
}

/// When the file of a name was begun.
///
/// # Errors
/// The server does not send it.
pub(super) fn begun(server: &Server, file: &str) -> Result<Option<u32>, Trouble> {
    for event in events_from(server, &Place::new(file, FILE_START))? {
        let event = event.map_err(|error| server.trouble(LOOKING, &error))?;
        let header = event.header();
        if header.event_type_raw() == EventType::FORMAT_DESCRIPTION_EVENT as u8 {
            return Ok(Some(header.timestamp()));
        }
    }
    Ok(None)
}

/// Whether the transaction that begins at a place has its end in that file, which the server does not write to any more: if it
/// crashed then, the last may not. (Of a file that is written to a replica is shown no less than whole transactions.) All of the
/// transaction is read for it.
///
/// # Errors
/// The server does not say.
pub(super) fn has_end(server: &Server, place: &Place) -> Result<bool, Trouble> {
    let (mut begun, mut fresh) = (false, true);
    for event in events_from(server, place)? {
        let event = match event {
            Err(error) if is_cut(&error) => return Ok(false),
            event => event.map_err(|error| server.trouble(LOOKING, &error))?,
        };
        let header = event.header();
        match header.event_type_raw() {
            // The first only names the file that was asked for; another one that the file does not have says that it just ends.
            kind if kind == EventType::ROTATE_EVENT as u8 => match std::mem::take(&mut fresh) {
                true => {}
                false => return Ok(!is_artificial(&header)),
            },
            kind if kind == EventType::XID_EVENT as u8 || kind == EventType::STOP_EVENT as u8 => return Ok(true),
            mariadb::GTID if std::mem::replace(&mut begun, true) => return Ok(true),
            // Of tables without transactions.
            kind if kind == EventType::QUERY_EVENT as u8 => {
                if let Ok(Some(EventData::QueryEvent(query))) = event.read_data()
                    && classify(&Sql::of(&query)) == Statement::End
                {
                    return Ok(true);
                }
            }
            _ => {}
        }
    }
    let said =
        format!("binlog {place}: the file ends behind it, and the server goes on to no other: start the job again");
    Err(Trouble::Lasting(SourceError::Source(said)))
}

fn reshaped_by(sql: &Sql, default_database: &str) -> Vec<Reshaped> {
    let full = |named: Named| {
        let database = named.database.unwrap_or_else(|| default_database.to_string());
        TableName::new(database, named.table)
    };
    match classify(sql) {
        Statement::Alter { tables, reshapes: true } => tables.into_iter().map(full).map(Reshaped::Table).collect(),
        Statement::Index { table } => vec![Reshaped::Index(full(table))],
        Statement::DropDatabase { database } => vec![Reshaped::Database(database)],
        _ => Vec::new(),
    }
}
