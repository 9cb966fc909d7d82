//! The binlog's row events, of MySQL and MariaDB, to changes.
//!
//! A rows event holds bare values; what they mean stands in the TABLE_MAP event before it ([`TableMap`]). The reader hands
//! both on together ([`pack_context`]), so that any worker can decode any rows event. With `binlog_row_metadata=FULL` the
//! table map says everything. Otherwise it lacks names, key and more, and the reader adds what `information_schema` says
//! ([`Described`]); that is how the table looks now and not when the event was written, so it is only believed where it
//! agrees with the map's own types.
//!
//! Values go from the event's bytes straight into the row's JSON (`value.rs`); the crate `mysql_common` would
//! make an owned value of each first.

mod bytes;
mod decoder;
mod json;
mod members;
mod table;
mod table_map;
mod value;

pub use bytes::Malformed;
pub use decoder::BinlogDecoder;
pub use members::members_of;
pub(crate) use table::charset_of;
pub use table::{Described, DescribedColumn, Kind, pack_context};
pub use table_map::{Flavor, TableMap};

/// The type numbers of the rows events that tidegate reads: with version 2 of the format (MySQL) and 1 (MariaDB).
pub mod event {
    /// Not a rows event but one that the reader could not use: behind the number stands why, as a sentence.
    pub const UNUSABLE: u8 = 0xff;
    /// WRITE_ROWS.
    pub const WRITE_ROWS: u8 = 0x1e;
    /// UPDATE_ROWS.
    pub const UPDATE_ROWS: u8 = 0x1f;
    /// DELETE_ROWS.
    pub const DELETE_ROWS: u8 = 0x20;
    /// WRITE_ROWS, version 1.
    pub const WRITE_ROWS_V1: u8 = 0x17;
    /// UPDATE_ROWS, version 1.
    pub const UPDATE_ROWS_V1: u8 = 0x18;
    /// DELETE_ROWS, version 1.
    pub const DELETE_ROWS_V1: u8 = 0x19;
}
