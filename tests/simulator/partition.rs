//! A partition of a topic in memory. Where its first open transaction begins, and what its records say, is asked again and again
//! and therefore remembered: a long history costs no more a step than a short one.

use std::cell::Cell;
use std::collections::VecDeque;

use rdkafka::message::{Headers, OwnedHeaders};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Committed,
    Open,
    Aborted,
    /// A transaction's marker, or what compaction took: an offset without a record.
    Gap,
}

#[derive(Clone)]
pub struct Entry {
    pub state: State,
    pub writer: Option<String>,
    pub timestamp: Option<u64>,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub headers: Option<OwnedHeaders>,
    /// Seq and time, if it is a change.
    change: Option<(u64, u64)>,
}

impl Entry {
    pub fn new(
        (state, writer): (State, Option<String>),
        timestamp: Option<u64>,
        (key, value): (&[u8], &[u8]),
        headers: Option<OwnedHeaders>,
    ) -> Entry {
        let number = |name: &str| {
            let header = headers.as_ref()?.iter().find(|known| known.key == name)?;
            std::str::from_utf8(header.value?).ok()?.parse().ok()
        };
        let change = number("tidegate.seq").zip(number("tidegate.time"));
        Entry { state, writer, timestamp, key: key.to_vec(), value: value.to_vec(), headers, change }
    }

    /// A transaction's marker.
    fn marker() -> Entry {
        Entry::new((State::Gap, None), None, (b"", b""), None)
    }

    fn is_open_of(&self, id: &str) -> bool {
        self.state == State::Open && self.writer.as_deref() == Some(id)
    }
}

#[derive(Default)]
pub struct Log {
    /// The offset of the first entry that is kept.
    pub base: u64,
    pub entries: VecDeque<Entry>,
    /// Nothing below this offset is open.
    decided: Cell<u64>,
}

impl Log {
    pub fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    pub fn drop_first(&mut self) {
        self.entries.pop_front();
        self.base += 1;
    }

    /// Where the first open transaction begins, or the end.
    pub fn stable_end(&self) -> u64 {
        let from = self.decided.get().max(self.base);
        let entries = self.entries.iter().skip((from - self.base) as usize);
        let open = (from..).zip(entries).find(|(_, entry)| entry.state == State::Open);
        self.decided.set(open.map_or(self.end(), |(offset, _)| offset));
        self.decided.get()
    }

    pub fn at(&self, offset: u64) -> &Entry {
        &self.entries[(offset - self.base) as usize]
    }

    /// Whether a transactional id has something open.
    pub fn has_open_of(&self, id: &str) -> bool {
        let from = (self.stable_end() - self.base) as usize;
        self.entries.iter().skip(from).any(|entry| entry.is_open_of(id))
    }

    /// Decides about all that a transactional id has open, and shows what that was.
    pub fn decide(&mut self, id: &str, state: State, mut show: impl FnMut(u64, &Entry)) {
        let from = self.stable_end();
        let entries = (from..).zip(self.entries.iter_mut().skip((from - self.base) as usize));
        for (offset, entry) in entries.filter(|(_, entry)| entry.is_open_of(id)) {
            entry.state = state;
            show(offset, entry);
        }
        self.entries.push_back(Entry::marker());
    }

    /// Offset, seq and time of the changes that a consumer sees.
    pub fn changes(&self) -> impl Iterator<Item = (u64, (u64, u64))> {
        let committed = (self.base..).zip(&self.entries).filter(|(_, entry)| entry.state == State::Committed);
        committed.filter_map(|(offset, entry)| Some((offset, entry.change?)))
    }
}
