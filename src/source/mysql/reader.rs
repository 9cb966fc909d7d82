//! The reader: a feed, and the follower of what it brings. A connection that breaks is made again, from the beginning of the
//! transaction that was open; what has been handed on of it is not handed on again.

use std::time::{Duration, Instant};

use mysql::Conn;
use mysql::binlog::EventType;

use crate::change::{BATCH_BYTES, BATCH_ROWS, TableName};
use crate::config::MysqlConfig;
use crate::source::{Clock, Mark, Raws, Reader, SourceError, Start, TableFilter, now_ms};

use super::ahead::{Ahead, begun, has_end};
use super::events::{Follower, Shown};
use super::feed::Feed;
use super::outage::{Next, Outage, PATIENCE};
use super::place::{Origin, Place, kept_in};
use super::server::{SILENCE_MAX, Server, Trouble, is_cut};

/// How long a read waits for the first event.
const READ_WAIT: Duration = Duration::from_millis(10);

/// How many bytes of an open transaction's rows are kept back at most.
const HELD_MAX: usize = 4 * BATCH_BYTES;

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
    /// What is known of the binlog ahead.
    ahead: Ahead,
    /// With `until_end`: where to stop.
    end: Option<Place>,
    /// When the server was last asked for its end while nothing came, and where reading stood then, if that was not there.
    asked: Instant,
    behind: Option<Place>,
    /// Rows of the open transaction that are not handed on yet, since a crash of the server may leave it without an end.
    held: Raws,
    /// Of a transaction with more rows than are kept back, which has that first number: what becomes of them.
    large: Option<(u64, Fate)>,
}

/// What becomes of the rows of a large transaction.
enum Fate {
    /// It has an end.
    HandedOn,
    /// It has none; so many were there until now.
    PassedOver(usize),
}

impl MysqlReader {
    /// Connects, checks the server's settings, finds the place where to begin, and begins to read. With `until_end` the
    /// reader ends where the binlog ends now.
    ///
    /// # Errors
    /// One sentence: what in the configuration or at the server has to be changed.
    pub fn open(config: &MysqlConfig, job: &str, start: &Start, until_end: bool) -> Result<MysqlReader, SourceError> {
        let filter = TableFilter::new(&config.tables).map_err(SourceError::Source)?;
        let mut server = Server::new(config, job)?;
        let mut conn = server.connect_once()?;
        server.check(&mut conn)?;
        let flavor = server.flavor(&mut conn)?;
        let lower_case = server.has_lower_case_names(&mut conn)?;
        server.check_versioned(&mut conn, &filter)?;
        let end = server.end(&mut conn)?;
        if !matches!(config.start.as_str(), "latest" | "earliest") {
            config.start.parse::<Place>()?; // a mistake is said when it is made, and not when it first counts
        }
        let (origin, place, seq, clock) = match start {
            Start::Resume { resume, clock } => {
                let (place, known) = kept_in(&resume.position).map_err(|_| {
                    SourceError::Source(format!(
                        "the recorded position '{}' is of another kind of source; give the job another topic, or the source \
                         that it had",
                        resume.position
                    ))
                })?;
                let identity = server.identify(&mut conn, known.as_ref().map(|known| &known.server))?;
                let origin = Origin { server: identity, begun: known.and_then(|known| known.begun) };
                (origin, server.kept(&mut conn, place)?, resume.seq, clock.clone())
            }
            Start::Configured => {
                let place = match config.start.as_str() {
                    "latest" => end.clone(),
                    "earliest" => server.earliest(&mut conn)?,
                    place => server.event_at(&mut conn, place.parse()?)?,
                };
                let origin = Origin { server: server.identify(&mut conn, None)?, begun: None };
                (origin, place, crate::source::FIRST_SEQ, Clock::from(0))
            }
        };
        let feed = Feed::start(&server, &place).map_err(|trouble| server.give_up(trouble))?;
        let mut follower = Follower::new((flavor, lower_case), filter, origin, place, seq, clock);
        begin_file(&server, &feed, &mut follower)?;
        Ok(MysqlReader {
            follower,
            feed: Some(feed),
            outage: None,
            asking: Some(conn),
            ahead: Ahead::default(),
            end: until_end.then_some(end),
            asked: Instant::now(),
            behind: None,
            held: Raws::default(),
            large: None,
            server,
        })
    }

    /// The wanted patterns that no table of the server matches now.
    ///
    /// # Errors
    /// The server does not say.
    pub fn unmatched(&mut self) -> Result<Vec<String>, SourceError> {
        let conn = match &mut self.asking {
            Some(conn) => conn,
            None => self.asking.insert(self.server.connect_once()?),
        };
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
            let Some(feed) = &self.feed else { return self.reconnect() };
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
                        if let Some(reason) = compare_file(&self.server, &mut self.follower)? {
                            return self.lost(reason);
                        }
                        self.follower.trust();
                        taken = self.follower.take(&event, now, &mut describe, out);
                    }
                    if let Some(reason) = unanswered {
                        return self.lost(reason); // the event comes again
                    }
                    taken?;
                    if let Some(from) = self.follower.take_cut_off() {
                        self.take_back(from, out)?;
                    }
                }
                Some(Err(error)) if self.follower.may_be_cut_off() && is_cut(&error) => {
                    return self.leave_cut_file(&error, out);
                }
                Some(Err(error)) => {
                    return match self.server.trouble("reading the binlog", &error) {
                        Trouble::Passing(reason) => self.lost(reason),
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
        if behind.is_some() && self.behind == behind {
            compare_file(&self.server, &mut self.follower)?; // an outage shows where events are waited for
        }
        self.behind = behind;
        Ok(())
    }

    /// Goes on behind a file that ends inside of an event, as a crash leaves it.
    #[cold]
    fn leave_cut_file(&mut self, error: &mysql::Error, out: &mut Raws) -> Result<(), SourceError> {
        let next = match self.server.file_behind(self.follower.place()) {
            Ok(Some(next)) => next,
            Ok(None) => return Err(self.server.give_up(self.server.trouble("reading the binlog", error))),
            Err(Trouble::Passing(reason)) => return self.lost(reason), // the error comes again
            Err(Trouble::Lasting(error)) => return Err(error),
        };
        tracing::warn!(
            "binlog {}: the file ends inside of an event, as a crash of the server leaves it: what was being written was rolled \
             back, and reading goes on at {next}; if the server does not sync its binlog (sync_binlog = 1), run verify",
            self.follower.place()
        );
        self.feed = None;
        self.follower.leave_file(next);
        match self.follower.take_cut_off() {
            Some(from) => self.take_back(from, out),
            None => Ok(()),
        }
    }

    /// Forgets the rows of a transaction that will never end.
    fn take_back(&mut self, from: u64, out: &mut Raws) -> Result<(), SourceError> {
        let passed = match self.large.take() {
            Some((large, Fate::HandedOn)) if large == from => return Err(self.follower.cut_off()),
            Some((large, Fate::PassedOver(passed))) if large == from => passed,
            _ => 0,
        };
        let first = out.heads().partition_point(|head| head.seq < from);
        let rows = passed + out.split_off(first).len();
        tracing::warn!(
            "binlog {}: the file before ends inside of a transaction, as a crash of the server leaves it: it was never committed, \
             and its {rows} row events are passed over",
            self.follower.place()
        );
        Ok(())
    }

    /// Keeps back the rows of the open transaction until they are many; then it is found out whether it has an end.
    fn hold_back(&mut self, out: &mut Raws) -> Result<(), SourceError> {
        let (Some(from), Some(place)) = (self.follower.open_from(), self.follower.open_at()) else { return Ok(()) };
        self.large.take_if(|(large, _)| *large != from);
        let first = out.heads().partition_point(|head| head.seq < from);
        if self.large.is_none() {
            let bytes: usize = (first..out.len()).map(|index| out.get(index).1.len()).sum();
            let ends = match bytes <= HELD_MAX || self.feed.is_none() {
                true => None,
                false if !self.follower.may_be_cut_off() => Some(true),
                false => match has_end(&self.server, place) {
                    Ok(ends) => Some(ends),
                    Err(Trouble::Lasting(error)) => return Err(error),
                    Err(Trouble::Passing(reason)) => {
                        self.lost(reason)?;
                        None
                    }
                },
            };
            self.large = ends.map(|ends| (from, if ends { Fate::HandedOn } else { Fate::PassedOver(0) }));
        }
        match &mut self.large {
            None => self.held = out.split_off(first),
            Some((_, Fate::HandedOn)) => {}
            Some((_, Fate::PassedOver(rows))) => *rows += out.split_off(first).len(),
        }
        Ok(())
    }

    /// Waits a little, or tries to connect again.
    #[cold]
    fn reconnect(&mut self) -> Result<(), SourceError> {
        let wait = self.outage.as_ref().map_or(Duration::ZERO, |outage| outage.wait(Instant::now()));
        if !wait.is_zero() {
            std::thread::sleep(READ_WAIT.min(wait));
            return Ok(());
        }
        match Feed::start(&self.server, &self.follower.rewind()) {
            Ok(feed) => self.feed = Some(feed),
            Err(Trouble::Passing(reason)) => return self.lost(reason),
            Err(Trouble::Lasting(error)) => return Err(error),
        }
        Ok(())
    }

    /// Notes that the connection broke, or could not be made again.
    #[cold]
    fn lost(&mut self, reason: String) -> Result<(), SourceError> {
        self.feed = None;
        let (place, address, patience) = (self.follower.rewind(), &self.server.address, PATIENCE.as_secs());
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

/// That the file which is read is the one that it was. Why the server does not say, if it does not say now.
fn compare_file(server: &Server, follower: &mut Follower) -> Result<Option<String>, SourceError> {
    match begun(server, follower.place()) {
        Ok(second) => second.map_or(Ok(None), |second| follower.compare(second).map(|()| None)),
        Err(Trouble::Passing(reason)) => Ok(Some(reason)),
        Err(Trouble::Lasting(error)) => Err(error),
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

/// Asks about the table of the rows at a place, on a new connection if the old one is gone.
fn describe(
    server: &Server,
    asking: &mut Option<Conn>,
    ahead: &mut Ahead,
    table: &TableName,
    place: &Place,
) -> Result<Shown, Trouble> {
    if let Some(conn) = asking
        && conn.ping().is_err()
    {
        *asking = None;
    }
    let conn = match asking {
        Some(conn) => conn,
        None => asking.insert(server.connect()?),
    };
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
        let mut taken = std::mem::take(&mut self.held);
        self.take(&mut taken)?;
        self.hold_back(&mut taken)?;
        match out.is_empty() {
            true => *out = taken,
            false => taken.iter().for_each(|(head, payload)| out.push(*head, payload)),
        }
        match self.held.is_empty() {
            true => Ok(self.follower.mark(self.ended())),
            false => Ok(self.follower.mark_before_open()),
        }
    }
}
