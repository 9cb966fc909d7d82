//! The reader: a feed, and the follower of what it brings. A connection that breaks is made again, from the beginning of the
//! transaction that was open; what has been handed on of it is not handed on again.

use std::time::{Duration, Instant};

use mysql::Conn;
use mysql::binlog::EventType;

use crate::change::{BATCH_BYTES, BATCH_ROWS, TableFilter, TableName};
use crate::config::{BinlogStart, MysqlConfig};
use crate::source::{Clock, Mark, Raws, Reader, SourceError, Start, now_ms};

use super::ahead::{Ahead, begun, has_end};
use super::events::{CutOff, Follower, Shown};
use super::feed::Feed;
use super::held::Held;
use super::outage::{Next, Outage, PATIENCE};
use super::place::{Origin, Place, kept_in, prepared_in};
use super::server::{SILENCE_MAX, Server, Trouble, is_cut};

/// How long a read waits for the first event.
const READ_WAIT: Duration = Duration::from_millis(10);

/// How many bytes of an open transaction's rows are kept back at most.
const HELD_MAX: usize = 16 * BATCH_BYTES;

/// How often the server is asked for its end while nothing comes.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// How many events one read passes over at most, so that marks come while nothing is wanted.
const READ_EVENTS_MAX: usize = 16 * BATCH_ROWS;

/// Reader of a server's binlog.
pub struct MysqlReader {
    server: Server,
    follower: Follower,
    /// The connection that events come from; `None`: it is lost.
    feed: Option<Feed>,
    /// The outage that lasts: until an event has come.
    outage: Option<Outage>,
    /// A connection for questions about tables.
    asking: Option<Conn>,
    /// A file that the server wrote to while this connection was there: no crash has ended it since.
    whole: Option<String>,
    /// What is known of the binlog ahead.
    ahead: Ahead,
    /// With `until_end`: where to stop.
    end: Option<Place>,
    /// When the server was last asked for its end while nothing came, and where reading stood then, if that was not there.
    asked: Instant,
    behind: Option<Place>,
    held: Held,
    /// What the last mark promised: nothing with a lower number will come.
    promised: u64,
}

impl MysqlReader {
    /// Connects, checks the server's settings, finds the place where to begin, and begins to read. With `until_end` the
    /// reader ends where the binlog ends now.
    ///
    /// # Errors
    /// One sentence: what in the configuration or at the server has to be changed.
    pub fn open(config: &MysqlConfig, job: &str, start: &Start, until_end: bool) -> Result<MysqlReader, SourceError> {
        let (mut server, mut conn, filter) = connect(config, job)?;
        let flavor = server.flavor(&mut conn)?;
        let lower_case = server.has_lower_case_names(&mut conn)?;
        server.warn(&filter);
        let end = server.end(&mut conn)?;
        let (origin, place, seq, clock) = match start {
            Start::Resume { resume, clock } => {
                let (origin, place) = identified(&mut server, &mut conn, &resume.position)?;
                (origin, place, resume.seq, clock.clone())
            }
            Start::Configured => {
                let place = match &config.start {
                    BinlogStart::Latest => end.clone(),
                    BinlogStart::Earliest => server.earliest(&mut conn)?,
                    BinlogStart::At(place) => server.event_at(&mut conn, place.clone())?,
                };
                let origin = Origin { server: server.identify(&mut conn, None)?, begun: None };
                (origin, place, crate::source::FIRST_SEQ, Clock::from(0))
            }
        };
        let feed = Feed::start(&server, &place).map_err(|trouble| server.give_up(trouble))?;
        let mut follower = Follower::new((flavor, lower_case), filter, origin, place, seq, clock);
        if let Start::Resume { resume, .. } = start {
            follower.know_prepared(prepared_in(&resume.position));
        }
        begin_file(&server, &feed, &mut follower)?;
        Ok(MysqlReader {
            follower,
            feed: Some(feed),
            outage: None,
            asking: Some(conn),
            whole: None,
            ahead: Ahead::default(),
            end: until_end.then_some(end),
            asked: Instant::now(),
            behind: None,
            held: Held::new(HELD_MAX),
            promised: 0,
            server,
        })
    }

    /// Refuses a source that could not be opened, where its reading goes on at `position`, as far as that can be told without
    /// reading it: another reader of the same job goes on meanwhile.
    ///
    /// # Errors
    /// As [`open`](MysqlReader::open).
    pub fn check(config: &MysqlConfig, job: &str, position: Option<&str>) -> Result<(), SourceError> {
        let (mut server, mut conn, _) = connect(config, job)?;
        position.map_or(Ok(()), |position| identified(&mut server, &mut conn, position).map(drop))
    }

    /// The wanted patterns that no table of the server matches now.
    ///
    /// # Errors
    /// The server does not say.
    pub fn unmatched(&mut self) -> Result<Vec<String>, SourceError> {
        let conn = asked(&self.server, &mut self.asking).map_err(|trouble| self.server.give_up(trouble))?;
        let tables = self.server.tables(conn)?;
        Ok(self.follower.filter().unmatched(tables.iter()))
    }

    fn ended(&self) -> bool {
        self.end.as_ref().is_some_and(|end| self.follower.reaches(end))
    }

    /// Takes what is at hand, waiting only for the first event.
    fn take(&mut self, out: &mut Raws) -> Result<(), SourceError> {
        let mut wait = READ_WAIT;
        let (bytes_max, rows_max) = (out.payload_bytes() + BATCH_BYTES, out.len() + BATCH_ROWS);
        for _ in 0..READ_EVENTS_MAX {
            if self.ended() || out.payload_bytes() >= bytes_max || out.len() >= rows_max {
                return Ok(());
            }
            let Some(feed) = &self.feed else { return self.reconnect(out) };
            let now = now_ms();
            let next = match self.follower.unpack()? {
                Some(event) => Some(Ok(event)),
                None => feed.next(wait),
            };
            match next {
                None => {
                    self.follower.idle(now);
                    return self.ask_for_end();
                }
                Some(Ok(event)) => {
                    if let Some(outage) = self.outage.take() {
                        let lasted = outage.lasted(Instant::now()).as_secs_f64();
                        tracing::warn!("the source at {} is back after {lasted:.1} s", self.server.address);
                    }
                    let (server, asking, ahead, mut unanswered) =
                        (&self.server, &mut self.asking, &mut self.ahead, None);
                    let mut describe = |table: &TableName, place: &Place| {
                        describe(server, asking, ahead, table, place).map_err(|trouble| match trouble {
                            Trouble::Lasting(error) => error,
                            Trouble::Passing(reason) => SourceError::Source(unanswered.insert(reason).clone()),
                        })
                    };
                    let mut taken = self.follower.take(&event, now, &mut describe, out);
                    if self.follower.doubts() {
                        match compare_file(&self.server, &mut self.follower) {
                            Ok(()) => {}
                            Err(Trouble::Passing(reason)) => return self.lost(reason, out),
                            Err(Trouble::Lasting(error)) => return Err(error),
                        }
                        self.follower.trust();
                        taken = self.follower.take(&event, now, &mut describe, out);
                    }
                    if let Some(reason) = unanswered {
                        return self.lost(reason, out); // the event comes again
                    }
                    taken?;
                    if let Some(cut_off) = self.follower.take_cut_off() {
                        self.pass_over(&cut_off, out)?;
                    }
                }
                Some(Err(error)) if self.follower.may_be_cut_off() && is_cut(&error) => {
                    return self.leave_cut_file(&error, out);
                }
                Some(Err(error)) => {
                    return match self.server.trouble("reading the binlog", &error) {
                        Trouble::Passing(reason) => self.lost(reason, out),
                        Trouble::Lasting(error) => Err(error),
                    };
                }
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// While nothing comes: that the server has nothing more. One whose binlog was begun anew goes on waiting at the end of a
    /// file that is gone.
    fn ask_for_end(&mut self) -> Result<(), SourceError> {
        if self.asked.elapsed() < ASK_EVERY {
            return Ok(());
        }
        self.asked = Instant::now();
        if self.asking.is_none() {
            self.asking = self.server.connect().ok();
        }
        let Some(end) = self.asking.as_mut().and_then(|conn| self.server.try_end(conn).ok()) else {
            self.asking = None; // an outage shows where events are waited for
            return Ok(());
        };
        let place = self.follower.place();
        let behind = (*place != end).then(|| place.clone());
        // What comes may be large and the way slow: it is waited for if the file is still the one that is read.
        if behind.is_some()
            && self.behind == behind
            && let Err(Trouble::Lasting(error)) = compare_file(&self.server, &mut self.follower)
        {
            return Err(error);
        }
        self.behind = behind;
        Ok(())
    }

    /// Goes on behind a file that ends inside of an event, as a crash leaves it.
    #[cold]
    fn leave_cut_file(&mut self, error: &mysql::Error, out: &mut Raws) -> Result<(), SourceError> {
        let same = compare_file(&self.server, &mut self.follower);
        let next = match same.and_then(|()| self.server.file_behind(self.follower.place())) {
            Ok(Some(next)) => next,
            Ok(None) => return Err(self.server.give_up(self.server.trouble("reading the binlog", error))),
            Err(Trouble::Passing(reason)) => return self.lost(reason, out), // the error comes again
            Err(Trouble::Lasting(error)) => return Err(error),
        };
        tracing::warn!(
            "binlog {}: the file ends inside of an event, as a crash of the server leaves it: what was being written was rolled \
             back, and reading goes on at {next}; if the server does not sync its binlog (sync_binlog = 1), run verify",
            self.follower.place()
        );
        (self.feed, self.whole) = (None, None);
        self.follower.leave_file(next);
        match self.follower.take_cut_off() {
            Some(cut_off) => self.pass_over(&cut_off, out),
            None => Ok(()),
        }
    }

    /// Passes over the rows of a transaction that will never end.
    fn pass_over(&mut self, cut_off: &CutOff, out: &mut Raws) -> Result<(), SourceError> {
        let passed = self.held.cut_off(cut_off.from, out);
        let Some(rows) = passed.filter(|_| !cut_off.published) else { return Err(self.follower.cut_off()) };
        tracing::warn!(
            "binlog {}: the file before ends inside of a transaction, as a crash of the server leaves it: it was never committed, \
             and its {rows} row events are passed over{}",
            self.follower.place(),
            if cut_off.kept {
                "; but tables without transactions may have kept some of its rows: run verify"
            } else {
                ""
            }
        );
        Ok(())
    }

    /// Keeps back what is not to be handed on yet.
    fn hold_back(&mut self, out: &mut Raws) -> Result<(), SourceError> {
        if self.held.is_refuted(self.follower.committed()) {
            return Err(self.follower.committed_after_all());
        }
        let (Some(from), Some(place)) = (self.follower.open_from(), self.follower.open_at()) else { return Ok(()) };
        if !self.follower.may_be_cut_off() {
            return Ok(());
        }
        if self.held.asks(from, out) {
            let ends = match &self.whole {
                Some(file) if *file == place.file => Ok(true),
                _ => asked(&self.server, &mut self.asking).and_then(|conn| {
                    let is_written = self.server.try_end(conn)?.file == place.file;
                    self.whole = is_written.then(|| place.file.clone());
                    if is_written { Ok(true) } else { has_end(&self.server, place) }
                }),
            };
            match ends {
                Ok(ends) => self.held.found(from, ends),
                Err(Trouble::Passing(reason)) => return self.lost(reason, out),
                Err(Trouble::Lasting(error)) => return Err(error),
            }
        }
        self.held.keep(from, out);
        Ok(())
    }

    /// Waits a little, or tries to connect again.
    #[cold]
    fn reconnect(&mut self, out: &mut Raws) -> Result<(), SourceError> {
        let wait = self.outage.as_ref().map_or(Duration::ZERO, |outage| outage.wait(Instant::now()));
        if !wait.is_zero() {
            std::thread::sleep(READ_WAIT.min(wait));
            return Ok(());
        }
        match Feed::start(&self.server, &self.follower.rewind(self.promised)) {
            Ok(feed) => self.feed = Some(feed),
            Err(Trouble::Passing(reason)) => return self.lost(reason, out),
            Err(Trouble::Lasting(error)) => return Err(error),
        }
        Ok(())
    }

    /// Notes that the connection broke, or could not be made again.
    #[cold]
    fn lost(&mut self, reason: String, out: &mut Raws) -> Result<(), SourceError> {
        (self.feed, self.whole) = (None, None);
        let (place, address) = (self.follower.rewind(self.promised), &self.server.address);
        let patience = PATIENCE.as_secs();
        self.held.forget(self.follower.committed(), out);
        let Some(outage) = &mut self.outage else {
            tracing::warn!(
                "binlog {place}: the source at {address} is lost: {reason}; it is waited for, {patience} s at most, and read on \
                 from there"
            );
            self.outage = Some(Outage::new(Instant::now(), reason));
            return Ok(());
        };
        match outage.failed(Instant::now()) {
            Next::Wait => {}
            Next::Say(seconds) => {
                tracing::warn!("binlog {place}: the source at {address} is not back after {seconds} s: {reason}");
            }
            Next::GiveUp => {
                return Err(SourceError::Source(format!(
                    "binlog {place}: the source at {address} was lost ({}) and is not back after {patience} s: {reason}",
                    outage.reason,
                )));
            }
        }
        Ok(())
    }
}

/// That the file which is read is the one that it was.
fn compare_file(server: &Server, follower: &mut Follower) -> Result<(), Trouble> {
    match begun(server, &follower.place().file)? {
        Some(second) => follower.compare(second).map_err(Trouble::Lasting),
        None => Ok(()),
    }
}

/// Takes what a connection begins with: which file it is that is read.
fn begin_file(server: &Server, feed: &Feed, follower: &mut Follower) -> Result<(), SourceError> {
    loop {
        let event = match feed.next(SILENCE_MAX) {
            Some(Ok(event)) => event,
            Some(Err(error)) => return Err(server.give_up(server.trouble("reading the binlog", &error))),
            None => return Err(server.give_up(Trouble::Passing("it does not send its binlog".into()))),
        };
        let mut describe = |table: &TableName, place: &Place| {
            Err(SourceError::Source(format!(
                "binlog {place}: rows of table {table} come before the file's description"
            )))
        };
        follower.take(&event, now_ms(), &mut describe, &mut Raws::default())?;
        if event.header().event_type_raw() == EventType::FORMAT_DESCRIPTION_EVENT as u8 {
            return Ok(());
        }
    }
}

/// The server as that of a recorded position, and the place there, which it still has.
fn identified(server: &mut Server, conn: &mut Conn, position: &str) -> Result<(Origin, Place), SourceError> {
    let (place, known) = kept_in(position).map_err(|_| {
        SourceError::Source(format!(
            "the recorded position '{position}' is of another kind of source; give the job another topic, or the source that it had"
        ))
    })?;
    let identity = server.identify(conn, known.as_ref().map(|known| &known.server))?;
    let origin = Origin { server: identity, begun: known.and_then(|known| known.begun) };
    Ok((origin, server.kept(conn, place)?))
}

/// The server of a configuration, that logs what is needed; a connection to it; and which tables are wanted.
fn connect(config: &MysqlConfig, job: &str) -> Result<(Server, Conn, TableFilter), SourceError> {
    let filter = TableFilter::new(&config.tables).map_err(SourceError::Source)?;
    let server = Server::new(config, job)?;
    let mut conn = server.connect_once()?;
    server.check(&mut conn)?;
    server.check_versioned(&mut conn, &filter)?;
    Ok((server, conn, filter))
}

/// The connection for questions, a new one if the old one is gone.
fn asked<'c>(server: &Server, asking: &'c mut Option<Conn>) -> Result<&'c mut Conn, Trouble> {
    asking.take_if(|conn| conn.ping().is_err());
    match asking {
        Some(conn) => Ok(conn),
        None => Ok(asking.insert(server.connect()?)),
    }
}

/// Asks about the table of the rows at a place, on a new connection if the old one is gone.
fn describe(
    server: &Server,
    asking: &mut Option<Conn>,
    ahead: &mut Ahead,
    table: &TableName,
    place: &Place,
) -> Result<Shown, Trouble> {
    let conn = asked(server, asking)?;
    let described = server.describe(conn, table)?;
    // What was altered before it was described is before this end.
    let end = server.try_end(conn)?;
    let has_primary_key = described.as_ref().is_some_and(|described| described.has_primary_key);
    let reshaped = ahead.reshaped(server, table, has_primary_key, place, &end)?;
    Ok(Shown { described, reshaped })
}

impl Reader for MysqlReader {
    fn begun(&self) -> Mark {
        self.follower.mark(false)
    }

    fn read(&mut self, out: &mut Raws) -> Result<Mark, SourceError> {
        let mut taken = self.held.take();
        self.take(&mut taken)?;
        self.hold_back(&mut taken)?;
        self.held.hand_on(&taken);
        match out.is_empty() {
            true => *out = taken,
            false => taken.iter().for_each(|(head, payload)| out.push(*head, payload)),
        }
        let mark = match self.held.first() {
            None => self.follower.mark(self.ended()),
            Some(seq) => self.follower.mark_before(seq),
        };
        assert!(mark.seq >= self.promised, "nothing is promised again");
        self.promised = mark.seq;
        Ok(mark)
    }
}
