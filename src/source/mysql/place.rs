//! A place in the binlog, and whose binlog it is.
//!
//! Files of one name are in the binlogs of all servers, and come again when a server begins its binlog anew: a place in one
//! says nothing about another, and reading would go on somewhere. So a place that is kept has its file's origin beside it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::source::SourceError;

/// Which server it is: MySQL's `server_uuid`; of MariaDB, which has none, the `server_id`, which no two servers that
/// replicate to each other share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(pub String);

/// Which file of a name it is. Prints as `identity begun second`, or as the identity alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Whose.
    pub server: Identity,
    /// The second (Unix) in which the server began it. `None`: it has not said so yet.
    pub begun: Option<u32>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.server.0)?;
        self.begun.map_or(Ok(()), |second| write!(f, " begun {second}"))
    }
}

impl FromStr for Origin {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let Some((server, second)) = text.split_once(" begun ") else {
            return Ok(Origin { server: Identity(text.into()), begun: None });
        };
        let second =
            second.parse().map_err(|_| SourceError::Source(format!("'{text}' says of no file when it was begun")))?;
        Ok(Origin { server: Identity(server.into()), begun: Some(second) })
    }
}

/// Before the distributed transactions that were prepared at a place that is kept, and between them.
const PREPARED: &str = " prepared ";

/// So many of them are kept.
const PREPARED_MAX: usize = 256;

/// A place that is kept, as text: `file:offset at origin`, and which distributed transactions are `prepared` there.
pub fn kept_as(place: &Place, origin: &Origin, prepared: &BTreeSet<String>) -> String {
    let mut kept = format!("{place} at {origin}");
    for xid in prepared.iter().take(PREPARED_MAX) {
        kept.push_str(PREPARED);
        kept.push_str(xid);
    }
    kept
}

/// The distributed transactions in the text of a place that was kept.
pub fn prepared_in(text: &str) -> BTreeSet<String> {
    text.split(PREPARED).skip(1).map(str::to_string).collect()
}

/// The place and the origin of its file in the text of a place that was kept; those that people write have none.
///
/// # Errors
/// It is no place in a binlog.
pub fn kept_in(text: &str) -> Result<(Place, Option<Origin>), SourceError> {
    let text = text.split(PREPARED).next().unwrap_or_default();
    match text.split_once(" at ") {
        Some((place, origin)) => Ok((place.parse()?, Some(origin.parse()?))),
        None => Ok((text.parse()?, None)),
    }
}

/// A byte in a binlog file. Prints as `file:offset`. Places of one server are ordered: its files are numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name, such as `binlog.000042`.
    pub file: String,
    /// The first byte that is not yet read.
    pub offset: u64,
}

/// Where the events of a file begin, behind its magic number.
pub const FILE_START: u64 = 4;

impl Place {
    /// The place `offset` bytes into `file`.
    pub fn new(file: impl Into<String>, offset: u64) -> Self {
        Place { file: file.into(), offset }
    }

    fn number(&self) -> u64 {
        self.file.rsplit_once('.').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
    }

    /// Whether it is at or behind `other`.
    pub fn reaches(&self, other: &Place) -> bool {
        (self.number(), self.offset) >= (other.number(), other.offset)
    }

    /// Moves on to the end of an event, of which the server gives the low 32 bits.
    pub fn advance(&mut self, end: u32) {
        let mut offset = self.offset & !0xffff_ffff | u64::from(end);
        if offset < self.offset {
            offset += 1 << 32;
        }
        self.offset = offset;
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

impl FromStr for Place {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let parts = text.rsplit_once(':').and_then(|(file, offset)| Some((file, offset.parse().ok()?)));
        match parts {
            Some((file, offset)) if !file.is_empty() => Ok(Place::new(file, offset)),
            _ => Err(SourceError::Source(format!(
                "'{text}' is no place in a binlog: write file:offset, such as binlog.000042:4"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_ordered_by_the_number_of_their_file() {
        let place = |text: &str| text.parse::<Place>().unwrap();
        assert!(place("b.000010:4").reaches(&place("b.000009:900")));
        assert!(place("b.1000000:4").reaches(&place("b.999999:4")), "numbers, not text");
        assert!(!place("b.000009:899").reaches(&place("b.000009:900")));
        assert_eq!(place("a:b.000001:4").to_string(), "a:b.000001:4");
        assert!("b.000001".parse::<Place>().is_err() && ":4".parse::<Place>().is_err());
    }

    #[test]
    fn a_place_that_is_kept_says_whose_it_is() {
        let place = Place::new("b.000001", 4);
        for (begun, expected) in [(None, "b.000001:4 at server_id 1"), (Some(17), "b.000001:4 at server_id 1 begun 17")]
        {
            let origin = Origin { server: Identity("server_id 1".into()), begun };
            assert_eq!(kept_as(&place, &origin, &BTreeSet::new()), expected);
            assert_eq!(kept_in(expected).unwrap(), (place.clone(), Some(origin.clone())));
            let prepared = ["X'78',X'',1", "X'79',X'',1"].map(str::to_string).into();
            let kept = kept_as(&place, &origin, &prepared);
            assert_eq!(kept_in(&kept).unwrap(), (place.clone(), Some(origin)));
            assert_eq!(prepared_in(&kept), prepared);
        }
        assert_eq!(kept_in("b.000001:4").unwrap(), (place, None));
        for wrong in ["17 line 3", "b.000001 at x", "b.000001:4 at x begun once"] {
            assert!(kept_in(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn offsets_go_on_above_four_gigabytes() {
        let mut place = Place::new("b.000001", 0xffff_ff00);
        place.advance(0xffff_fff0);
        assert_eq!(place.offset, 0xffff_fff0);
        place.advance(0x10);
        assert_eq!(place.offset, 0x1_0000_0010);
        place.advance(0x20);
        assert_eq!(place.offset, 0x1_0000_0020);
    }
}
