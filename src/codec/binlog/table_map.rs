//! The TABLE_MAP event: how the rows after it lie in bytes, and, with `binlog_row_metadata=FULL`, what they are called.
//!
//! Layout: "Table_map_event" in MySQL's source documentation. The optional part is a run of (type, length, value) fields;
//! unknown ones are passed over, as a replica would.

use super::bytes::{Bytes, Malformed, identifier};
use super::table::{DescribedColumn, is_hash};

/// Whose binlog it is: in details they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// MySQL.
    MySql,
    /// MariaDB.
    MariaDb,
}

impl Flavor {
    /// Whether the optional part has a collation for a column of that type.
    pub(super) fn has_collation(self, code: u8) -> bool {
        match code {
            code::VARCHAR | code::VAR_STRING | code::STRING | code::BLOB => true,
            code::VECTOR => self == Flavor::MySql,
            code::GEOMETRY => self == Flavor::MariaDb,
            _ => false,
        }
    }
}

/// The collation that stands for no characters at all.
const BINARY: usize = 63;

/// The body of a TABLE_MAP event, read but not interpreted.
#[derive(Clone, Copy, Debug)]
pub struct TableMap<'a> {
    /// The number by which rows events refer to it.
    pub table_id: u64,
    /// The database's name.
    pub database: &'a str,
    /// The table's name.
    pub table: &'a str,
    pub(super) types: &'a [u8],
    metadata: &'a [u8],
    nullable: &'a [u8],
    optional: &'a [u8],
}

/// A column as the fixed part of a TABLE_MAP event describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Physical {
    /// The type's number; ENUM and SET stand out from the strings that they are wrapped in.
    pub code: u8,
    /// The type's own metadata; for wrapped types and CHAR the length in bytes.
    pub meta: u16,
    pub nullable: bool,
}

/// What the optional part says, with one entry for each column that a field is about.
#[derive(Debug, Default)]
pub(super) struct Optional<'a> {
    /// Whether numeric columns are unsigned, the highest bit first.
    pub unsigned: Option<&'a [u8]>,
    /// Collations of the character columns.
    pub text: Collations<'a>,
    /// Collations of the ENUM and SET columns.
    pub choice: Collations<'a>,
    pub names: Vec<&'a str>,
    /// Members of each ENUM column, in its character set.
    pub enums: Vec<Vec<&'a [u8]>>,
    /// Members of each SET column, in its character set.
    pub sets: Vec<Vec<&'a [u8]>>,
    /// The primary key's columns.
    pub key: Vec<usize>,
}

/// Collations of some columns: a default with exceptions, or one for each.
#[derive(Debug, Default)]
pub(super) enum Collations<'a> {
    #[default]
    Unknown,
    Default(usize, Vec<(usize, usize)>),
    Each(Bytes<'a>),
}

pub(super) mod code {
    pub const DECIMAL: u8 = 0;
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const INT24: u8 = 9;
    pub const DATE: u8 = 10;
    pub const TIME: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const YEAR: u8 = 13;
    pub const NEWDATE: u8 = 14;
    pub const VARCHAR: u8 = 15;
    pub const BIT: u8 = 16;
    pub const TIMESTAMP2: u8 = 17;
    pub const DATETIME2: u8 = 18;
    pub const TIME2: u8 = 19;
    pub const BLOB_COMPRESSED: u8 = 140;
    pub const VARCHAR_COMPRESSED: u8 = 141;
    pub const VECTOR: u8 = 242;
    pub const JSON: u8 = 245;
    pub const NEWDECIMAL: u8 = 246;
    pub const ENUM: u8 = 247;
    pub const SET: u8 = 248;
    pub const BLOB: u8 = 252;
    pub const VAR_STRING: u8 = 253;
    pub const STRING: u8 = 254;
    pub const GEOMETRY: u8 = 255;
}

/// The columns of a sequence of MariaDB.
const SEQUENCE: [&str; 8] = [
    "next_not_cached_value",
    "minimum_value",
    "maximum_value",
    "start_value",
    "increment",
    "cache_size",
    "cycle_option",
    "cycle_count",
];

impl<'a> TableMap<'a> {
    /// Reads the body of a TABLE_MAP event, without header and checksum.
    ///
    /// # Errors
    /// The body ends too soon or a name is no text.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut bytes = Bytes(body);
        let table_id = bytes.little(6)?;
        bytes.take(2)?; // flags
        let mut name = || {
            let length = bytes.byte()?;
            let name = identifier(bytes.take(length.into())?)?;
            bytes.byte().map(|_zero| name)
        };
        let (database, table) = (name()?, name()?);
        let columns = bytes.length()?;
        let types = bytes.take(columns)?;
        let metadata = bytes.sized()?;
        let nullable = bytes.take(columns.div_ceil(8))?;
        Ok(TableMap { table_id, database, table, types, metadata, nullable, optional: bytes.0 })
    }

    /// Whether the columns' names stand in it.
    ///
    /// # Errors
    /// The optional part is malformed.
    pub fn is_named(&self) -> Result<bool, Malformed> {
        Ok(self.optional()?.names.len() == self.types.len())
    }

    /// Whether it says everything: names, a primary key, and nothing that could be one thing or another. MariaDB logs UUID,
    /// INET6 and INET4 as if they were BINARY, and a column that it hides as if it did not.
    ///
    /// # Errors
    /// The optional part is malformed.
    pub fn is_full(&self, flavor: Flavor) -> Result<bool, Malformed> {
        let mut optional = self.optional()?;
        let mut doubtful = optional.names.iter().any(|name| is_hash(flavor, name));
        let mut index = 0;
        for column in self.physical()? {
            if flavor.has_collation(column.code) {
                let binary = optional.text.next(index)? == Some(BINARY);
                doubtful |=
                    flavor == Flavor::MariaDb && binary && column.code == code::STRING && matches!(column.meta, 4 | 16);
                index += 1;
            }
        }
        Ok(optional.names.len() == self.types.len() && !optional.key.is_empty() && !doubtful)
    }

    /// Whether the table may be a system-versioned one of MariaDB, which it does not say: two columns, the first and the last
    /// moment of a row, are TIMESTAMP(6), or numbers of transactions.
    ///
    /// # Errors
    /// The fixed part is malformed.
    pub fn may_be_versioned(&self, flavor: Flavor) -> Result<bool, Malformed> {
        let moment = |column: &&Physical| {
            !column.nullable && matches!((column.code, column.meta), (code::TIMESTAMP2, 6) | (code::LONGLONG, _))
        };
        Ok(flavor == Flavor::MariaDb && self.physical()?.iter().filter(moment).count() >= 2)
    }

    /// Whether it has a column that is none of those: MariaDB does not show the two that it adds to a versioned table.
    ///
    /// # Errors
    /// The optional part is malformed.
    pub fn has_more_than(&self, shown: &[DescribedColumn]) -> Result<bool, Malformed> {
        let hidden = |name: &&str| matches!(*name, "row_start" | "row_end");
        let mut names = self.optional()?.names.into_iter().filter(hidden);
        Ok(names.any(|name| !shown.iter().any(|column| column.name == name)))
    }

    /// Whether it is a sequence of MariaDB, by the names of its columns.
    ///
    /// # Errors
    /// The optional part is malformed.
    pub fn is_sequence(&self, flavor: Flavor) -> Result<bool, Malformed> {
        Ok(flavor == Flavor::MariaDb && self.optional()?.names == SEQUENCE)
    }

    pub(super) fn physical(&self) -> Result<Vec<Physical>, Malformed> {
        let mut metadata = Bytes(self.metadata);
        let column = |(index, &code): (usize, &u8)| {
            let (code, meta) = match code {
                code::STRING => unwrap_string(metadata.byte()?, metadata.byte()?),
                code::NEWDECIMAL => (code, metadata.big(2)? as u16),
                code::BIT | code::VARCHAR | code::VAR_STRING | code::VARCHAR_COMPRESSED => {
                    (code, metadata.little(2)? as u16)
                }
                code::ENUM | code::SET => (code, metadata.little(2)? as u16),
                code::FLOAT
                | code::DOUBLE
                | code::BLOB
                | code::BLOB_COMPRESSED
                | code::GEOMETRY
                | code::JSON
                | code::VECTOR
                | code::TIME2
                | code::DATETIME2
                | code::TIMESTAMP2 => (code, metadata.byte()?.into()),
                _ => (code, 0),
            };
            Ok(Physical { code, meta, nullable: super::bytes::bit(self.nullable, index) })
        };
        self.types.iter().enumerate().map(column).collect()
    }

    pub(super) fn optional(&self) -> Result<Optional<'a>, Malformed> {
        let mut known = Optional::default();
        let mut fields = Bytes(self.optional);
        while !fields.is_empty() {
            let kind = fields.byte()?;
            let value = Bytes(fields.sized()?);
            match kind {
                1 => known.unsigned = Some(value.0),
                2 => known.text = default_collation(value)?,
                3 => known.text = Collations::Each(value),
                4 => known.names = all(value, |v| identifier(v.sized()?))?,
                5 => known.sets = all(value, members)?,
                6 => known.enums = all(value, members)?,
                8 => known.key = all(value, Bytes::length)?,
                9 => {
                    known.key = all(value, |v| {
                        let column = v.length()?;
                        v.length().map(|_prefix| column)
                    })?;
                }
                10 => known.choice = default_collation(value)?,
                11 => known.choice = Collations::Each(value),
                _ => {}
            }
        }
        Ok(known)
    }
}

impl Collations<'_> {
    /// The collation of each column, in their order, as one asks for it.
    pub fn next(&mut self, index: usize) -> Result<Option<usize>, Malformed> {
        match self {
            Collations::Unknown => Ok(None),
            Collations::Default(default, except) => {
                Ok(Some(except.iter().find(|(column, _)| *column == index).map_or(*default, |(_, id)| *id)))
            }
            Collations::Each(ids) => ids.length().map(Some),
        }
    }
}

/// CHAR, BINARY, ENUM and SET share a type number. The real one is in the first byte of the metadata, two bits of which, if
/// not both set, are the upper bits of a length above 255.
fn unwrap_string(first: u8, second: u8) -> (u8, u16) {
    if first & 0x30 == 0x30 {
        return (first, second.into());
    }
    (first | 0x30, u16::from(second) | (u16::from(first & 0x30 ^ 0x30) << 4))
}

fn default_collation(mut value: Bytes) -> Result<Collations<'static>, Malformed> {
    let default = value.length()?;
    let except = all(value, |v| Ok((v.length()?, v.length()?)))?;
    Ok(Collations::Default(default, except))
}

fn members<'a>(value: &mut Bytes<'a>) -> Result<Vec<&'a [u8]>, Malformed> {
    (0..value.length()?).map(|_| value.sized()).collect()
}

fn all<'a, T>(
    mut value: Bytes<'a>,
    mut read: impl FnMut(&mut Bytes<'a>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let mut items = Vec::new();
    while !value.is_empty() {
        items.push(read(&mut value)?);
    }
    Ok(items)
}
