//! DTS as a source: what numbering and timing make of a sequence of records, wherever they are kept.
//!
//! `Records` is fed datum by datum, by the [Kafka reader](DtsReader) or by the reader of a
//! [file](crate::source::file::DtsFileReader). It reads only the front of each. Every record, of whatever kind, takes two
//! numbers (an update that moves a row is two changes), so that numbers depend on nothing but the place where reading
//! began. Rows between BEGIN and COMMIT share one time and are read again as a whole; rows outside are transactions of
//! their own, because DTS does not say which of them belong together.

mod kafka;

use crate::change::TableFilter;
use crate::codec::dts::{Front, Operation, SEQS_PER_RECORD, table_of};
use crate::source::{Clock, FIRST_SEQ, Mark, Raws, Resume, SourceError, Start};

pub use kafka::DtsReader;

/// Where reading begins: a place in the source, the number of the first record, and the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    /// Kafka offset or byte offset; `None`: where the configuration says.
    pub place: Option<u64>,
    /// Rows that the source stamped with an earlier second are passed over, until the first that is not.
    pub skip_before: Option<i64>,
    pub seq: u64,
    pub clock: Clock,
}

impl Begin {
    /// What `start` says.
    ///
    /// # Errors
    /// A position that is no place in this kind of source.
    pub fn of(start: &Start) -> Result<Begin, SourceError> {
        match start {
            Start::Configured => Ok(Begin { place: None, skip_before: None, seq: FIRST_SEQ, clock: Clock::from(0) }),
            Start::Resume { resume, clock } => match place_in(&resume.position) {
                Some((place, skip_before)) => {
                    Ok(Begin { place: Some(place), skip_before, seq: resume.seq, clock: clock.clone() })
                }
                None => Err(SourceError::Source(format!(
                    "the recorded position '{}' is of another kind of source; give the job another name, or the source \
                     that it had",
                    resume.position
                ))),
            },
        }
    }
}

/// A place as it is kept, `offset` or `offset not before second`, and that second.
fn place_in(text: &str) -> Option<(u64, Option<i64>)> {
    match text.split_once(NOT_BEFORE) {
        Some((place, second)) => Some((place.parse().ok()?, Some(second.parse().ok()?))),
        None => Some((text.parse().ok()?, None)),
    }
}

const NOT_BEFORE: &str = " not before ";

/// Numbers and times the records of a DTS source.
#[derive(Debug)]
pub(crate) struct Records {
    filter: TableFilter,
    clock: Clock,
    /// The number of the next record.
    seq: u64,
    /// The transaction in hand, from its BEGIN on.
    open: Option<Open>,
    /// Rows that the source stamped with an earlier second are passed over, until the first that is not.
    skip_before: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    place: u64,
    seq: u64,
    time: u64,
}

impl Records {
    pub fn new(filter: TableFilter, begin: &Begin) -> Self {
        let Begin { skip_before, seq, .. } = *begin;
        Records { filter, clock: begin.clock.clone(), seq, open: None, skip_before }
    }

    /// Takes the record at `place`, read at `now` (ms), and appends it to `out` if it is a wanted row. `show` makes the
    /// position's text of the source's own. A record that can't be read is appended too: the decoder fails on it, where
    /// the configuration says what becomes of such.
    pub fn take(&mut self, datum: &[u8], place: u64, now: u64, show: impl FnOnce(&str) -> String, out: &mut Raws) {
        let seq = self.seq;
        self.seq += SEQS_PER_RECORD;
        if Front::is_mock(datum) {
            return;
        }
        let Ok(front) = Front::read(datum) else { return self.hand_on(seq, 0, now, &show("?"), datum, out) };
        let second = u64::try_from(front.source_timestamp).unwrap_or(0);
        let Ok(operation) = front.operation else {
            return self.hand_on(seq, second, now, &show(front.source_position), datum, out);
        };
        if operation.is_row() || operation == Operation::Begin {
            if self.skip_before.is_some_and(|first| front.source_timestamp < first) {
                return;
            }
            self.skip_before = None;
        }
        match operation {
            Operation::Insert | Operation::Update | Operation::Delete if self.wants(&front) => {
                self.hand_on(seq, second, now, &show(front.source_position), datum, out);
            }
            Operation::Insert | Operation::Update | Operation::Delete => {
                self.time(seq, second, now);
            }
            Operation::Begin => self.open = Some(Open { place, seq, time: self.clock.second(seq, second, now) }),
            Operation::Commit | Operation::Rollback | Operation::Abort => self.open = None,
            Operation::Heartbeat if self.open.is_none() => {
                self.clock.second(self.seq, second, now);
            }
            _ => {}
        }
    }

    /// The time of a row: its transaction's, or the one of its own.
    fn time(&mut self, seq: u64, second: u64, now: u64) -> u64 {
        match self.open {
            Some(open) => open.time,
            None => self.clock.second(seq, second, now),
        }
    }

    fn hand_on(&mut self, seq: u64, second: u64, now: u64, position: &str, datum: &[u8], out: &mut Raws) {
        let time = self.time(seq, second, now);
        out.push_raw(seq, time, position, b"", datum);
    }

    /// Notes that the source's end has been reached at `now` (ms) and nothing came.
    pub fn idle(&mut self, now: u64) {
        if self.open.is_none() {
            self.clock.idle(self.seq, now);
        }
    }

    /// What is true now; `next` is the place of the next record.
    pub fn mark(&self, next: u64, end: bool) -> Mark {
        let (place, seq) = self.open.map_or((next, self.seq), |open| (open.place, open.seq));
        let position = match self.skip_before {
            Some(second) => format!("{place}{NOT_BEFORE}{second}"),
            None => place.to_string(),
        };
        Mark { seq: self.seq, time: self.clock.time(self.seq), resume: Resume { position, seq }, end }
    }

    /// A row whose table can't be told is handed on: the decoder has the words for it.
    fn wants(&self, front: &Front) -> bool {
        match front.object_name.map(|name| table_of(name, &front.tags)) {
            Some(Ok((database, table))) => self.filter.wants(&database, &table),
            _ => true,
        }
    }
}
