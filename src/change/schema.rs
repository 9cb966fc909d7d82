//! What a table looks like: the `schema` statement of the companion topic, and what a target creates a table from.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ColumnType, Form};

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

impl Column {
    /// Whether its type is known.
    pub fn is_known(&self) -> bool {
        self.ty != ColumnType::Unknown
    }
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
    /// The type of a column, whatever case its name has.
    pub fn type_of(&self, name: &str) -> Option<ColumnType> {
        self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)).map(|column| column.ty)
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// How values of the column of that name are written, where that is known.
    pub fn form(&self, name: &str) -> Option<Form> {
        self.column(name).filter(|column| column.is_known()).map(|column| column.ty.form())
    }

    /// Whether nothing but NULL has come in the column of that name: a target needs no column for it.
    pub fn is_all_null(&self, name: &str) -> bool {
        self.column(name).is_some_and(|column| !column.is_known())
    }

    /// Takes over types that `before` knows and this does not: values tell types, and not everyone has seen all values.
    pub fn keep_types(&mut self, before: &TableSchema) {
        for column in self.columns.iter_mut().filter(|column| !column.is_known()) {
            column.ty = before.column(&column.name).map_or(column.ty, |known| known.ty);
        }
    }

    /// Whether the table had a column of that name at `seq` and has it no longer: an older change has it, and there is
    /// nothing left to put it in.
    pub fn has_dropped(&self, name: &str, seq: u64) -> bool {
        seq < self.since_seq && !self.partial && self.column(name).is_none()
    }

    /// Whether the same row has another key's text than it had with the schema before: then older and newer changes of it
    /// can't be told to be of one row, and those of two rows may seem to be of one.
    pub fn has_moved_keys(&self, before: &TableSchema) -> bool {
        let ty = |schema: &TableSchema, name: &str| schema.column(name).map(|column| column.ty);
        let keeps_text = |name: &String| match (ty(before, name), ty(self, name)) {
            (Some(ColumnType::Integer { .. }), Some(ColumnType::Integer { .. })) => true,
            // CHAR drops the blanks at the end.
            (Some(ColumnType::Varchar | ColumnType::Text), Some(ColumnType::Char)) => false,
            (Some(old), Some(new)) => old == new || (old.is_text() && new.is_text()),
            _ => true,
        };
        !before.key.is_empty() && !self.key.is_empty() && (before.key != self.key || !self.key.iter().all(keeps_text))
    }

    /// Whether both describe the same table, whenever it came to look so.
    pub fn same_shape(&self, other: &TableSchema) -> bool {
        self.name == other.name && self.columns == other.columns && self.key == other.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(key: &[&str], columns: &[(&str, &str)]) -> TableSchema {
        let column =
            |(name, ty): &(&str, &str)| Column { name: name.to_string(), ty: ty.parse().unwrap(), nullable: false };
        TableSchema {
            name: TableName::new("shop", "t"),
            columns: columns.iter().map(column).collect(),
            key: key.iter().map(|name| name.to_string()).collect(),
            since_seq: 7,
            partial: false,
        }
    }

    #[test]
    fn a_key_has_moved_when_its_columns_or_their_texts_are_others() {
        let before = schema(&["a", "b"], &[("a", "int"), ("b", "varchar(9)"), ("c", "decimal(9,2)")]);
        let moved = |key: &[&str], columns: &[(&str, &str)]| schema(key, columns).has_moved_keys(&before);
        assert!(!moved(&["a", "b"], &[("a", "bigint unsigned"), ("b", "text"), ("c", "int")]));
        assert!(moved(&["b", "a"], &[("a", "int"), ("b", "varchar(9)")]), "another order");
        assert!(moved(&["a"], &[("a", "int"), ("b", "varchar(9)")]), "fewer columns");
        assert!(moved(&["a", "b"], &[("a", "decimal(9,2)"), ("b", "varchar(9)")]), "another text");
        assert!(!moved(&[], &[("a", "int")]), "a table without a key is refused elsewhere");
        for (old, new, expected) in [
            ("decimal(9,2)", "decimal(9,3)", true), // another scale
            ("varchar(9)", "char(9)", true),        // blanks at the end go
            ("text", "char(9)", true),
            ("char(9)", "varchar(9)", false),
            ("enum('a')", "char(9)", false),
            ("varbinary(9)", "binary(9)", true), // zeroes come
            ("binary(9)", "binary(10)", true),
            ("binary(9)", "binary(9)", false),
        ] {
            let [before, now] = [old, new].map(|ty| schema(&["c"], &[("c", ty)]));
            assert_eq!(now.has_moved_keys(&before), expected, "{old} to {new}");
        }
    }

    #[test]
    fn a_type_that_was_known_stays_known_until_there_is_another() {
        let before = schema(&["a"], &[("a", "int"), ("b", "blob"), ("c", "unknown")]);
        let mut now = schema(&["a"], &[("a", "bigint"), ("b", "unknown"), ("c", "unknown"), ("d", "unknown")]);
        now.keep_types(&before);
        assert_eq!(now, schema(&["a"], &[("a", "bigint"), ("b", "blob"), ("c", "unknown"), ("d", "unknown")]));
        assert!(now.is_all_null("d") && !now.is_all_null("b") && !now.is_all_null("e"));
        assert_eq!((now.form("d"), now.form("b")), (None, Some(Form::Bytes)));
    }

    #[test]
    fn a_column_is_dropped_for_older_changes_alone() {
        let now = schema(&["a"], &[("a", "int")]);
        assert!(now.has_dropped("b", 6) && !now.has_dropped("b", 7) && !now.has_dropped("a", 6));
        assert!(!TableSchema { partial: true, ..now }.has_dropped("b", 6));
    }
}
