//! Proof that both sides are equal, by reading both and reconciling them with differential dataflow.
//!
//! ```text
//! plan ─ chunks ─▶ read both sides ─ (key, row) hashes, +1 source, -1 target ─▶ consolidate ─ what differs ─▶ look again ─▶ report
//! ```
//!
//! Each table is cut into chunks of keys; the chunk's number is the timely time, so that a chunk retires when both
//! sides of it have been read, and what stays in memory is the chunks in flight and what differs. Every row becomes its
//! canonical form ([`canonical`]) and two 128-bit hashes, of its key and of the whole; rows that agree cancel, in
//! whatever order they come. The keys that remain are looked at again, with growing pauses: a key that still differs in the
//! end, and whose rows stood still, is *missing*, *extra* or *changed*; one that kept moving is *undecided*.
//!
//! Where keys can be cut into ranges ([`KeyRange`]) both sides are asked for the same range of integers. Where they can't (a
//! leading key column of text: two servers hardly ever sort text alike; or many rows of one leading value), each side is
//! read in the order it likes and dealt into buckets by hash, on disk if need be; the buckets are then compared one by one.
//! So no order of a server's is ever trusted, and memory is bounded either way.
//!
//! A system is a [`Side`]. verify has its own, with decoders of their own: it shares no code with the pipeline but the
//! table of types, since a shared mistake would hide itself. Tests bring theirs, or a [`MemorySide`]:
//!
//! ```
//! use tidegate::workers::Workers;
//! use tidegate::change::{Column, TableName, TableSchema};
//! use tidegate::verify::{MemorySide, Options, Row, Value, compare};
//!
//! let schema = TableSchema {
//!     name: TableName::new("shop", "orders"),
//!     columns: vec![
//!         Column { name: "id".into(), ty: "int".parse().unwrap(), nullable: false },
//!         Column { name: "price".into(), ty: "decimal(10,2)".parse().unwrap(), nullable: true },
//!     ],
//!     key: vec!["id".into()],
//!     since_seq: 0,
//!     partial: false,
//! };
//! let row = |id, price| Row::new(&[Value::Int(id), Value::text(price)]);
//! let source = MemorySide::new("source").table(schema.clone(), vec![row(1, "1.10"), row(2, "2.00")]);
//! let target = MemorySide::new("target").table(schema, vec![row(1, "1.1"), row(3, "3.00")]);
//! let report = compare(source, target, &Options::default(), Workers::threads(2), &mut ()).unwrap();
//! let table = &report.tables[0];
//! assert_eq!((table.missing, table.extra, table.changed), (1, 1, 0));
//! ```

pub mod calendar;
pub mod canonical;
pub mod chunks;
mod json;
mod look;
mod memory;
mod mysql;
mod postgres;
mod read;
mod reconcile;
mod repair;
mod report;
mod spill;
mod sqlite;
mod value;

use std::time::Duration;

use crate::change::{TableFilter, TableName, TableSchema};

pub use canonical::Rules;
pub use chunks::{KeyRange, Keys, TablePlan};
pub use memory::MemorySide;
pub use mysql::MysqlSide;
pub use postgres::PostgresSide;
pub use read::RowsRead;
pub use reconcile::compare;
pub use repair::Dialect;
pub use report::{ColumnDifference, Difference, Kind, Observer, Outcome, Printer, Report, TableReport};
pub use sqlite::SqliteSide;
pub use value::{Row, Value};

/// Why a comparison could not be made: one sentence that names side, table and column and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct VerifyError(pub String);

/// One of the two systems compared.
pub trait Side: Send + Sync + 'static {
    /// What messages call it, such as `source mysql at db1:3306`.
    fn name(&self) -> String;

    /// Opens a connection of its own for one thread.
    ///
    /// # Errors
    /// Not reachable, wrong password.
    fn connect(&self) -> Result<Box<dyn Session>, VerifyError>;

    /// How instants and zero dates of this side, as a target, are to be compared. Asked once, before any row is read.
    ///
    /// # Errors
    /// As [`connect`](Side::connect).
    fn rules(&self) -> Result<Rules, VerifyError> {
        Ok(Rules::default())
    }

    /// What SQL would mend it, and how it calls a table of the source; `None` for a side that takes no SQL.
    fn dialect(&self) -> Option<Dialect> {
        None
    }
}

/// One connection to a side. Lives on an I/O thread and may block there.
pub trait Session: Send {
    /// As a source: the wanted tables, with columns, keys and about how many rows they have. A table without a usable key
    /// has an empty key.
    ///
    /// # Errors
    /// What the server says; or that this side can't be a source.
    fn tables(&mut self, wanted: &TableFilter) -> Result<Vec<SourceTable>, VerifyError>;

    /// As a target: the columns of its table for a table of the source, or `None` if there is none.
    ///
    /// # Errors
    /// What the server says.
    fn columns(&mut self, table: &TableName) -> Result<Option<Vec<TargetColumn>>, VerifyError>;

    /// As a source: the value of the leading key column `rows` rows after the first one that is at least `from`; `None` if
    /// there are no more. Asked only of columns that [`SourceTable::ranges`] allows.
    ///
    /// # Errors
    /// What the server says.
    fn boundary(&mut self, plan: &TablePlan, from: Option<i128>, rows: usize) -> Result<Option<i128>, VerifyError>;

    /// Streams the rows of these keys, each once and in any order: for each the values of the plan's columns, in the plan's
    /// order, then [`RowSink::end`].
    ///
    /// # Errors
    /// What the server says, or what the sink returned.
    fn read(&mut self, plan: &TablePlan, keys: &Keys, sink: &mut dyn RowSink) -> Result<(), VerifyError>;
}

/// Takes rows value by value, so that nothing is allocated for a value.
pub trait RowSink {
    /// The next value of the row.
    fn value(&mut self, value: Value);

    /// The row is complete.
    ///
    /// # Errors
    /// The reading is to stop; to be passed on.
    fn end(&mut self) -> Result<(), VerifyError>;
}

/// A table as its source describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTable {
    /// Columns, types and key.
    pub schema: TableSchema,
    /// About how many rows there are, for the estimate of the time left.
    pub rows_estimated: u64,
    /// Whether the leading key column is an integer with an index, so that ranges of it are cheap to read.
    pub ranges: bool,
}

/// A column as its target describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetColumn {
    /// Its name.
    pub name: String,
    /// The server's name of its type.
    pub type_name: String,
    /// Whether it may be null.
    pub nullable: bool,
    /// Whether it is an integer with an index, so that ranges of it are cheap to read.
    pub ranges: bool,
}

/// What to compare and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which tables of the source.
    pub tables: TableFilter,
    /// About how many rows a chunk has.
    pub chunk_rows: usize,
    /// How many differing keys are listed per table; all are counted.
    pub list: usize,
    /// For how long a key that differs is looked at again before it is called different, and a table or a column that the target
    /// lacks is waited for.
    pub patience: Duration,
    /// Whether SQL that mends the target is wanted for every difference, listed or not.
    pub repair: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            tables: TableFilter::default(),
            chunk_rows: 10_000,
            list: 100,
            patience: Duration::ZERO,
            repair: false,
        }
    }
}
