//! SQLite as a target. A table has the name of the source's table, whatever the database.

use std::path::PathBuf;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::repair::quoted;
use super::{Dialect, Keys, RowSink, Session, Side, SourceTable, TablePlan, TargetColumn, Value, VerifyError};
use crate::change::{TableFilter, TableName};
use crate::config::SqliteConfig;

/// A SQLite file.
#[derive(Clone, Debug)]
pub struct SqliteSide {
    path: PathBuf,
}

impl SqliteSide {
    /// The file of the configuration.
    pub fn new(config: &SqliteConfig) -> Self {
        SqliteSide { path: config.path.clone() }
    }
}

impl Side for SqliteSide {
    fn name(&self) -> String {
        format!("target sqlite {}", self.path.display())
    }

    fn connect(&self) -> Result<Box<dyn Session>, VerifyError> {
        let open = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(std::time::Duration::from_secs(30))?;
            Ok::<_, rusqlite::Error>(connection)
        };
        let connection =
            open().map_err(|error| VerifyError(format!("{}: {error}: is the path right?", self.name())))?;
        Ok(Box::new(SqliteSession { connection, name: self.name() }))
    }

    fn dialect(&self) -> Option<Dialect> {
        Some(Dialect::Sqlite)
    }
}

struct SqliteSession {
    connection: Connection,
    name: String,
}

impl SqliteSession {
    fn describe(&self, table: &str) -> rusqlite::Result<Option<Vec<TargetColumn>>> {
        let known = self
            .connection
            .query_row(
                "SELECT 1 FROM sqlite_master WHERE type IN ('table', 'view') AND name = ?1 COLLATE NOCASE",
                [table],
                |_| Ok(()),
            )
            .optional()?;
        if known.is_none() {
            return Ok(None);
        }
        // A key of one INTEGER column is the row's place in the file; a longer one has an index.
        let sql = "SELECT name, lower(type), \"notnull\", pk FROM pragma_table_info(?1) ORDER BY cid";
        let mut statement = self.connection.prepare(sql)?;
        let columns = statement.query_map([table], |row| {
            let type_name: String = row.get(1)?;
            let ranges = row.get::<_, i64>(3)? == 1 && type_name.contains("int");
            Ok(TargetColumn { name: row.get(0)?, nullable: row.get::<_, i64>(2)? == 0, type_name, ranges })
        })?;
        columns.collect::<Result<_, _>>().map(Some)
    }
}

impl Session for SqliteSession {
    fn tables(&mut self, _: &TableFilter) -> Result<Vec<SourceTable>, VerifyError> {
        Err(VerifyError(format!("{}: verify reads SQLite as a target only", self.name)))
    }

    fn columns(&mut self, table: &TableName) -> Result<Option<Vec<TargetColumn>>, VerifyError> {
        self.describe(&table.table).map_err(|error| VerifyError(format!("{}: table {table}: {error}", self.name)))
    }

    fn boundary(&mut self, plan: &TablePlan, _: Option<i128>, _: usize) -> Result<Option<i128>, VerifyError> {
        Err(VerifyError(format!("{}: table {}: verify reads SQLite as a target only", self.name, plan.name)))
    }

    fn read(&mut self, plan: &TablePlan, keys: &Keys, sink: &mut dyn RowSink) -> Result<(), VerifyError> {
        let failed = |error: rusqlite::Error| VerifyError(format!("{}: table {}: {error}", self.name, plan.name));
        let columns: Vec<String> = plan.columns.iter().map(|column| quoted(&column.target_name)).collect();
        let leading = plan.leading();
        let sql = format!(
            "SELECT {} FROM {}{}",
            columns.join(", "),
            quoted(&plan.name.table),
            keys.condition(&quoted(&leading.target_name), leading.target_nullable)
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            for index in 0..columns.len() {
                sink.value(match row.get_ref(index).map_err(failed)? {
                    ValueRef::Null => Value::Null,
                    ValueRef::Integer(v) => Value::Int(v),
                    ValueRef::Real(v) => Value::Double(v),
                    ValueRef::Text(text) => Value::Text(text),
                    ValueRef::Blob(bytes) => Value::Bytes(bytes),
                });
            }
            sink.end()?;
        }
        Ok(())
    }
}
