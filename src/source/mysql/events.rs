//! Follows the events of a binlog: where transactions begin and end, what number and time everything has, and which bytes
//! a decoder needs. It knows no connection.

use std::collections::{BTreeSet, HashMap, HashSet};

use mysql::binlog::EventFlags;
use mysql::binlog::EventType;
use mysql::binlog::events::{BinlogEventHeader, Event, EventData, TransactionPayloadEvent};

use crate::change::TableFilter;
use crate::codec::binlog::{Flavor, event};
use crate::source::{Clock, Mark, Raws, Resume, SourceError};

use super::packed::Packed;
use super::place::{Origin, Place, kept_as};
use super::statement::Sql;

mod effects;
mod tables;
#[cfg(test)]
mod tests;

use tables::Context;
pub(super) use tables::{Describe, Shown};

/// The table number of an event that only ends a statement.
const NO_TABLE: u64 = 0xff_ffff;

/// MariaDB's own event types, of which the crate knows nothing.
pub(super) mod mariadb {
    pub const GTID: u8 = 0xa2;
    /// The flag of a GTID whose group is one statement and has no end of its own.
    pub const STANDALONE: u8 = 1;
    /// The flag of a GTID whose group only writes to tables with transactions.
    pub const TRANSACTIONAL: u8 = 4;
    /// The flag of a GTID of a distributed transaction that is being prepared.
    pub const PREPARED_XA: u8 = 64;
    pub const COMPRESSED: std::ops::RangeInclusive<u8> = 0xa5..=0xab;
}

/// MySQL's update of parts of JSON values.
const PARTIAL_UPDATE_ROWS: u8 = EventType::PARTIAL_UPDATE_ROWS_EVENT as u8;

const PARTIAL: &str = "the row before and after an update is not whole: set binlog_row_value_options='' on the server, for all \
    sessions; then copy the table anew and publish to another topic, or let [publish] dead_letter name a file that such rows may go \
    to, and verify --repair mend the table";

const DISTRIBUTED: &str = "rows of a wanted table are in a distributed (XA) transaction, and logged before it is known whether they \
    stay: tidegate can't replicate XA; copy the tables anew and publish to another topic from behind it, or leave such tables out";

/// MySQL's heartbeat with a position of more than 32 bits.
const HEARTBEAT_V2: u8 = 0x29;

/// Follows the events of a binlog.
pub(super) struct Follower {
    flavor: Flavor,
    filter: TableFilter,
    /// Whether the server takes names for lower case: then statements may have them otherwise than table maps.
    lower_case: bool,
    clock: Clock,
    /// Which file of its name the place is in.
    origin: Origin,
    /// The end of what has been taken.
    place: Place,
    /// The number of the next event.
    seq: u64,
    open: Option<Transaction>,
    /// The compressed transaction that is being read, which is the open one.
    packed: Option<Packed>,
    /// Contexts of the tables of the open transaction, by table number.
    tables: HashMap<u64, Context>,
    /// Contexts by the table map's bytes, until a table is altered.
    contexts: HashMap<Box<[u8]>, Context>,
    /// Distributed transactions without rows of wanted tables of which it is not known yet what becomes of them.
    prepared: BTreeSet<String>,
    /// Tables that are not wanted, of which it was said that statements about them are logged as text.
    as_text_said: HashSet<String>,
    /// The transaction that was open when the connection broke: what is taken of it again has the time that it had.
    broken: Option<Transaction>,
    /// Rows with lower numbers have been handed on before the connection broke.
    handed: u64,
    /// Everything that the server had has been taken, as far as one can know.
    live: bool,
    /// Nothing has come on this connection.
    fresh: bool,
    /// Something has come since the file's description did.
    described: bool,
    /// The file has said that it ends, or may be left without that.
    ended: bool,
    /// The server has gone on to another file though this one has not ended.
    doubts: bool,
    cut_off: Option<CutOff>,
}

/// A transaction that a file has begun and will not end.
pub(super) struct CutOff {
    /// Its first number.
    pub from: u64,
    /// Whether the topic has rows of it, from an earlier run.
    pub published: bool,
    /// Whether tables may have kept rows of it.
    pub kept: bool,
}

/// A transaction that has begun.
#[derive(Clone, Debug)]
struct Transaction {
    place: Place,
    seq: u64,
    time: u64,
    /// Whether it may write to tables without transactions, which nothing takes back.
    kept: bool,
    /// Whether a statement that changes no row ends it.
    one_statement: bool,
    /// Whether rows of wanted tables have come.
    rows: bool,
    /// Whether it is a distributed one: its rows are logged before it is known whether they stay.
    distributed: bool,
    /// Which, once it has said so.
    xid: Option<String>,
}

impl Follower {
    pub fn new(
        (flavor, lower_case): (Flavor, bool),
        filter: TableFilter,
        origin: Origin,
        place: Place,
        seq: u64,
        clock: Clock,
    ) -> Self {
        Follower {
            flavor,
            filter,
            lower_case,
            clock,
            origin,
            place,
            seq,
            open: None,
            packed: None,
            tables: HashMap::new(),
            contexts: HashMap::new(),
            prepared: BTreeSet::new(),
            as_text_said: HashSet::new(),
            broken: None,
            handed: 0,
            live: false,
            fresh: true,
            described: false,
            ended: false,
            doubts: false,
            cut_off: None,
        }
    }

    /// Those distributed transactions have no rows of wanted tables, and are prepared where it begins.
    pub fn know_prepared(&mut self, prepared: BTreeSet<String>) {
        self.prepared = prepared;
    }

    /// The place to ask a server for, after the connection broke: the beginning of the open transaction. What has a lower number
    /// than `promised` has been handed on, or is unwanted; all else is taken again.
    pub fn rewind(&mut self, promised: u64) -> Place {
        self.handed = promised;
        if let Some(open) = self.open.take() {
            (self.place, self.seq) = (open.place.clone(), open.seq);
            self.broken = Some(open);
        }
        self.packed = None;
        self.tables.clear();
        self.live = false;
        self.fresh = true;
        self.doubts = false;
        self.place.clone()
    }

    /// Whether the last event was not taken, because by it the server goes on to another file though this one has not ended: it
    /// may have crashed, or the file may be gone and another have its name. To be taken again once that is known.
    pub fn doubts(&self) -> bool {
        self.doubts
    }

    /// The file that is read may be left: it is the one that it was.
    pub fn trust(&mut self) {
        (self.doubts, self.ended) = (false, true);
    }

    /// Goes on to another file; a transaction that is open then has no end.
    pub fn leave_file(&mut self, next: Place) {
        self.ended = true;
        self.place = next;
        self.origin.begun = None;
        let open = self.open.take().filter(|open| open.rows);
        self.cut_off = open.map(|Transaction { seq: from, kept, .. }| {
            let published = self.clock.is_given(from..self.seq);
            CutOff { from, published, kept }
        });
    }

    /// Whether a crash may leave a part of a transaction at the end of a file: MySQL takes it off again before it goes on.
    pub fn may_be_cut_off(&self) -> bool {
        matches!(self.flavor, Flavor::MariaDb)
    }

    /// The end of what has been taken.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The first number of the open transaction, if rows of it are wanted.
    pub fn open_from(&self) -> Option<u64> {
        self.open.as_ref().filter(|open| open.rows).map(|open| open.seq)
    }

    /// The first number of what has not been committed.
    pub fn committed(&self) -> u64 {
        self.open.as_ref().map_or(self.seq, |open| open.seq)
    }

    /// Where the open transaction begins.
    pub fn open_at(&self) -> Option<&Place> {
        self.open.as_ref().map(|open| &open.place)
    }

    /// A transaction that will never end, since the server crashed while it wrote it. Asked once.
    pub fn take_cut_off(&mut self) -> Option<CutOff> {
        self.cut_off.take()
    }

    /// That such a transaction can't be taken back.
    pub fn cut_off(&self) -> SourceError {
        self.refused(
            "the file before ends inside of a transaction, as a crash of the server leaves it: it was never committed, but rows of \
             it have been published: copy the tables anew and publish to a new topic from here",
        )
    }

    /// That it was wrong that a transaction has no end.
    pub fn committed_after_all(&self) -> SourceError {
        self.refused("a transaction has an end of which the server did not know when it was asked: start the job again")
    }

    /// Whether `end` has been reached, between transactions.
    pub fn reaches(&self, end: &Place) -> bool {
        self.open.is_none() && self.place.reaches(end)
    }

    /// Notes that nothing has come at `now` (ms).
    pub fn idle(&mut self, now: u64) {
        if self.live && self.open.is_none() {
            self.clock.idle(self.seq, now);
        }
    }

    /// What is true now.
    pub fn mark(&self, end: bool) -> Mark {
        let seq = self.seq.max(self.handed);
        let (place, from) = self.open.as_ref().map_or((&self.place, self.seq), |open| (&open.place, open.seq));
        // No transaction is prepared or decided about between that place and here.
        let resume = Resume { position: kept_as(place, &self.origin, &self.prepared), seq: from };
        Mark { seq, time: self.clock.time(seq), resume, end }
    }

    /// What is true while nothing is handed on from the row of that number on, which the open transaction has.
    pub fn mark_before(&self, seq: u64) -> Mark {
        Mark { seq, time: self.clock.time(seq), ..self.mark(false) }
    }

    /// The next event of the compressed transaction that is being read, which comes before any other.
    ///
    /// # Errors
    /// It can't be unpacked.
    pub fn unpack(&mut self) -> Result<Option<Event>, SourceError> {
        let event = self.packed.as_mut().map(Packed::next).transpose();
        event.map_err(|error| self.broken_event(&error))
    }

    /// Takes an event, read at `now` (ms), and appends it to `out` if it changes rows of a wanted table.
    ///
    /// # Errors
    /// One sentence that names the place.
    pub fn take(
        &mut self,
        event: &Event,
        now: u64,
        describe: &mut Describe,
        out: &mut Raws,
    ) -> Result<(), SourceError> {
        if self.packed.is_some() {
            self.take_plain(event, now, describe, out)?;
            return self.end_packed();
        }
        let header = event.header();
        let artificial = is_artificial(&header);
        match header.event_type_raw() {
            t if t == EventType::HEARTBEAT_EVENT as u8 || t == HEARTBEAT_V2 => {
                (self.live, self.described) = (true, true);
                return Ok(());
            }
            t if t == EventType::ROTATE_EVENT as u8 => {
                // The first names the file that was asked for, and has a checksum that nothing has announced yet.
                if std::mem::take(&mut self.fresh) && artificial {
                    return Ok(());
                }
                let Some(EventData::RotateEvent(rotate)) = self.data(event)? else { return Ok(()) };
                let next = Place::new(rotate.name(), rotate.position());
                if artificial && next.file != self.place.file && !self.ended && self.described {
                    self.doubts = true;
                    return Ok(());
                }
                self.leave_file(next);
                return Ok(());
            }
            t if t == EventType::FORMAT_DESCRIPTION_EVENT as u8 => self.take_file(header.timestamp())?,
            t if t == EventType::TRANSACTION_PAYLOAD_EVENT as u8 => {
                let payload: TransactionPayloadEvent = event.read_event().map_err(|e| self.broken_event(&e))?;
                self.packed = Some(Packed::new(&payload, header.log_pos()).map_err(|e| self.broken_event(&e))?);
                return Ok(());
            }
            t if t == EventType::STOP_EVENT as u8 => self.ended = true,
            _ => self.take_plain(event, now, describe, out)?,
        }
        self.described = header.event_type_raw() != EventType::FORMAT_DESCRIPTION_EVENT as u8;
        if !artificial {
            self.advance(header.log_pos());
        }
        Ok(())
    }

    /// Goes on to the end of an event.
    fn advance(&mut self, end: u32) {
        self.place.advance(end);
        if self.open.is_none() {
            self.tables.clear();
        }
    }

    /// Ends the compressed transaction if everything in it has been taken. It has to be over then, and not before: while it is
    /// read, the only place to go on from is where it begins.
    fn end_packed(&mut self) -> Result<(), SourceError> {
        let Some(packed) = &mut self.packed else { return Ok(()) };
        let (empty, end) = (packed.is_empty(), packed.end);
        let empty = empty.map_err(|error| self.broken_event(&error))?;
        if empty != self.open.is_none() {
            return Err(self.broken_event(&"a compressed transaction ends before its end or goes on behind it"));
        }
        if empty {
            self.packed = None;
            self.advance(end);
        }
        Ok(())
    }

    /// A file, which comes first on a connection, wherever in it that begins; `second` is when it was begun.
    fn take_file(&mut self, second: u32) -> Result<(), SourceError> {
        self.ended = false;
        self.compare(second)
    }

    /// Compares when the file of this name was begun with what is known of it.
    ///
    /// # Errors
    /// It is another.
    pub fn compare(&mut self, second: u32) -> Result<(), SourceError> {
        let known = *self.origin.begun.get_or_insert(second);
        if known == second {
            return Ok(());
        }
        Err(self.refused(&format!(
            "the file was begun at {second} (Unix time), and the one of that name that has been read at {known}: the source's \
             binlog was begun anew (RESET BINARY LOGS AND GTIDS, RESET MASTER), or it is another server's with the same number, \
             and what was in the old one and not read yet is gone: copy the tables anew and give the job another topic"
        )))
    }

    fn take_plain(
        &mut self,
        event: &Event,
        now: u64,
        describe: &mut Describe,
        out: &mut Raws,
    ) -> Result<(), SourceError> {
        let kind = event.header().event_type_raw();
        let second = u64::from(event.header().timestamp());
        match kind {
            event::WRITE_ROWS
            | event::UPDATE_ROWS
            | event::DELETE_ROWS
            | event::WRITE_ROWS_V1
            | event::UPDATE_ROWS_V1
            | event::DELETE_ROWS_V1
            | PARTIAL_UPDATE_ROWS => return self.rows(kind, event.data(), second, now, out),
            mariadb::GTID => return self.mariadb_gtid(event.data(), second, now),
            kind if mariadb::COMPRESSED.contains(&kind) => {
                return Err(self.refused("the event is compressed: set log_bin_compress=OFF on the server"));
            }
            _ => {}
        }
        match EventType::try_from(kind) {
            Ok(EventType::TABLE_MAP_EVENT) => self.table_map(event.data(), describe)?,
            Ok(EventType::GTID_EVENT | EventType::ANONYMOUS_GTID_EVENT | EventType::GTID_TAGGED_LOG_EVENT) => {
                let micros = match self.data(event)? {
                    Some(EventData::GtidEvent(gtid)) => gtid.immediate_commit_timestamp(),
                    Some(EventData::AnonymousGtidEvent(gtid)) => gtid.0.immediate_commit_timestamp(),
                    _ => 0,
                };
                // Servers before 8.0 do not say.
                let commit = if micros == 0 { Commit::Second(second) } else { Commit::Millis(micros / 1000) };
                self.begin(commit, now, true);
            }
            Ok(EventType::QUERY_EVENT) => {
                let Some(EventData::QueryEvent(query)) = self.data(event)? else { return Ok(()) };
                self.statement(&Sql::of(&query), &query.schema(), second, now, out)?;
            }
            Ok(EventType::XID_EVENT) => self.open = None,
            // LOAD DATA, whose file was logged before it.
            Ok(EventType::EXECUTE_LOAD_QUERY_EVENT) => self.as_text("LOAD DATA", second, now, out),
            Ok(EventType::XA_PREPARE_LOG_EVENT) => self.prepared(event.data()),
            Ok(EventType::INCIDENT_EVENT) => {
                return Err(self.refused(
                    "the server says that changes may be missing from its binlog here: copy the tables anew, and start \
                     behind this place",
                ));
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, commit: Commit, now: u64, one_statement: bool) {
        let again = self.broken.take().filter(|broken| broken.place == self.place);
        let time = match (again, commit) {
            (Some(broken), _) => broken.time,
            (None, Commit::Millis(time)) => self.clock.exact(self.seq, time, now),
            (None, Commit::Second(second)) => self.clock.second(self.seq, second, now),
        };
        // What was committed a while ago was not waited for: there may be more.
        self.live &= time + 1_000 >= now;
        let (place, seq) = (self.place.clone(), self.seq);
        self.open = Some(Transaction {
            place,
            seq,
            time,
            kept: false,
            one_statement,
            rows: false,
            distributed: false,
            xid: None,
        });
    }

    fn mariadb_gtid(&mut self, data: &[u8], second: u64, now: u64) -> Result<(), SourceError> {
        let flags = data.get(12).copied().ok_or_else(|| self.broken_event(&"a GTID of MariaDB ends too soon"))?;
        self.begin(Commit::Second(second), now, flags & mariadb::STANDALONE != 0);
        if let Some(open) = &mut self.open {
            open.kept = flags & mariadb::TRANSACTIONAL == 0;
            open.distributed = flags & mariadb::PREPARED_XA != 0;
        }
        Ok(())
    }

    /// Which tables are wanted.
    pub fn filter(&self) -> &TableFilter {
        &self.filter
    }

    fn rows(&mut self, kind: u8, data: &[u8], second: u64, now: u64, out: &mut Raws) -> Result<(), SourceError> {
        let Some(id) = data.first_chunk::<6>() else { return Err(self.broken_event(&"a rows event ends too soon")) };
        let id = id.iter().rev().fold(0, |id, byte| id << 8 | u64::from(*byte));
        let context = match self.tables.get(&id) {
            Some(context) => context.clone(),
            None if id == NO_TABLE => return Ok(()),
            None => {
                return Err(self.broken_event(&format_args!("no table map came before the rows of table number {id}")));
            }
        };
        let (numbers, time) = (data.len() as u64, self.time(second, now));
        let (body, context): ([&[u8]; 2], &[u8]) = match &context {
            Context::Rows(_) | Context::Unusable(_) if self.open.as_ref().is_some_and(|open| open.distributed) => {
                return Err(self.refused(DISTRIBUTED));
            }
            Context::Rows(_) if kind == PARTIAL_UPDATE_ROWS => ([&[event::UNUSABLE], PARTIAL.as_bytes()], &[]),
            Context::Rows(context) => ([&[kind], data], context),
            Context::Unusable(reason) => ([&[event::UNUSABLE], reason.as_bytes()], &[]),
            Context::Unwanted => {
                self.seq += numbers;
                return Ok(());
            }
        };
        self.hand_on(&body, context, numbers, time, out);
        Ok(())
    }

    /// The time of what is read at `now`: rows outside of a transaction, which only old servers log, are one each.
    fn time(&mut self, second: u64, now: u64) -> u64 {
        match &self.open {
            Some(open) => open.time,
            None => self.clock.second(self.seq, second, now),
        }
    }

    fn hand_on(&mut self, body: &[&[u8]; 2], context: &[u8], numbers: u64, time: u64, out: &mut Raws) {
        if let Some(open) = &mut self.open {
            open.rows = true;
        }
        let seq = self.seq;
        self.seq += numbers;
        if seq >= self.handed {
            out.push_raw_parts(seq, time, &self.place.to_string(), context, body);
        }
    }

    fn data<'a>(&self, event: &'a Event) -> Result<Option<EventData<'a>>, SourceError> {
        event.read_data().map_err(|error| self.broken_event(&error))
    }

    fn broken_event(&self, error: &dyn std::fmt::Display) -> SourceError {
        self.refused(&format!("the event can't be read: {error}"))
    }

    fn refused(&self, reason: &str) -> SourceError {
        SourceError::Source(format!("binlog {}: {reason}", self.place))
    }
}

/// Whether the server made an event up for a replica: no file has it.
pub(super) fn is_artificial(header: &BinlogEventHeader) -> bool {
    header.log_pos() == 0 || header.flags().contains(EventFlags::LOG_EVENT_ARTIFICIAL_F)
}

/// When a transaction was committed, as exactly as the server says.
#[derive(Clone, Copy, Debug)]
enum Commit {
    Millis(u64),
    Second(u64),
}
