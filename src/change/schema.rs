//! What a table looks like: the `schema` statement of the companion topic, and what a target creates a table from.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ColumnType;

/// A table's full name. Prints as `database.table`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    /// The database.
    pub database: String,
    /// The table.
    pub table: String,
}

impl TableName {
    /// The name of a table.
    pub fn new(database: impl Into<String>, table: impl Into<String>) -> Self {
        TableName { database: database.into(), table: table.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.table)
    }
}

/// A column of a source table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type at the source.
    #[serde(rename = "type")]
    pub ty: ColumnType,
    /// Whether it may be null. True where the source does not say.
    pub nullable: bool,
}

/// The columns, types and key of a source table, valid from a seq on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// The table.
    #[serde(flatten)]
    pub name: TableName,
    /// Its columns in table order.
    pub columns: Vec<Column>,
    /// The columns of its primary key, or of a NOT NULL unique key, in key order. Empty: a table without a usable key.
    pub key: Vec<String>,
    /// The first change that has this schema.
    pub since_seq: u64,
    /// Whether it only tells what some rows had, so that other rows may have more columns.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

impl TableSchema {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether the table had a column of that name at `seq` and has it no longer: an older change has it, and there is
    /// nothing left to put it in.
    pub fn has_dropped(&self, name: &str, seq: u64) -> bool {
        seq < self.since_seq && !self.partial && self.column(name).is_none()
    }

    /// Whether both describe the same table, whenever it came to look so.
    pub fn same_shape(&self, other: &TableSchema) -> bool {
        self.name == other.name && self.columns == other.columns && self.key == other.key
    }
}
