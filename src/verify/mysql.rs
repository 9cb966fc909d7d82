//! MySQL and MariaDB as a source.
//!
//! Rows are read with prepared statements, since the text protocol prints a FLOAT with six digits. The session's zone is
//! UTC and its character set utf8mb4, so that instants and text come in one form whatever the table says.
//!
//! The server converts text in other character sets, and writes a question mark for what has no letter. So that such a
//! value is not taken for one with question marks, the bytes of those columns are read too, and their question marks are
//! counted: where the text has more, it is [`Value::NoText`]. That needs no table of letters: the pipeline's may be wrong
//! where the server's are right.

use std::collections::BTreeMap;
use std::time::Duration;

use mysql::prelude::Queryable;
use mysql::{Conn, Opts, OptsBuilder, Row as MysqlRow, Value as Wire};

use super::{Keys, RowSink, Session, Side, SourceTable, TablePlan, TargetColumn, Value, VerifyError, calendar};
use crate::change::{Column, ColumnType, Form, TableFilter, TableName, TableSchema};
use crate::config::MysqlConfig;
use crate::reach::{Unreached, reach_mysql};

/// A MySQL or MariaDB server.
#[derive(Clone, Debug)]
pub struct MysqlSide {
    opts: Opts,
    name: String,
}

impl MysqlSide {
    /// The server of the configuration.
    ///
    /// # Errors
    /// The URL is none.
    pub fn new(config: &MysqlConfig) -> Result<Self, VerifyError> {
        let opts = config.options().map_err(VerifyError)?;
        let name = format!("source mysql at {}:{}", opts.get_ip_or_hostname(), opts.get_tcp_port());
        let opts = OptsBuilder::from_opts(opts)
            .tcp_connect_timeout(Some(Duration::from_secs(10)))
            .tcp_keepalive_time_ms(Some(60_000))
            .prefer_socket(false)
            .init(vec![
                "SET NAMES utf8mb4",
                "SET SESSION time_zone = '+00:00'",
                "SET SESSION sql_mode = ''",
                "SET SESSION sql_select_limit = 18446744073709551615",
                // A reader waits for the other side now and then; the server must wait for the reader.
                "SET SESSION net_write_timeout = 3600, net_read_timeout = 3600, wait_timeout = 604800",
                "SET SESSION TRANSACTION READ ONLY",
            ]);
        Ok(MysqlSide { opts: opts.into(), name })
    }
}

impl Side for MysqlSide {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn connect(&self) -> Result<Box<dyn Session>, VerifyError> {
        let connection = reach_mysql(self.opts.clone()).map_err(|unreached| {
            let reason = match unreached {
                Unreached::Silent(reason) => reason,
                Unreached::Failed(mysql::Error::MySqlError(said)) => {
                    format!("{}: correct user, password or database", said.message)
                }
                Unreached::Failed(error) => {
                    format!("{error}: is the server running, host and port right, the way open?")
                }
            };
            VerifyError(format!("{}: {reason}", self.name))
        })?;
        Ok(Box::new(MysqlSession { connection, name: self.name.clone(), charsets: BTreeMap::new() }))
    }
}

struct MysqlSession {
    connection: Conn,
    name: String,
    /// Of the tables that have been read: the character sets of their columns.
    charsets: BTreeMap<TableName, BTreeMap<String, Charset>>,
}

/// A character set whose text is converted: where a question mark may stand in it, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Charset {
    question_mark: &'static [u8],
}

impl Charset {
    /// `None`: the server never writes a question mark for text in it.
    fn new(name: &str) -> Option<Charset> {
        let question_mark: &[u8] = match name {
            // Not converted; and every byte of latin1 is a letter.
            "utf8mb4" | "utf8mb3" | "utf8" | "latin1" => return None,
            "ucs2" | "utf16" => b"\0?",
            "utf16le" => b"?\0",
            "utf32" => b"\0\0\0?",
            // In codes of several bytes that one does not occur.
            _ => b"?",
        };
        Some(Charset { question_mark })
    }

    /// Whether `text`, which the server made of `bytes`, has a letter for each of theirs.
    fn has_letters(self, bytes: &[u8], text: &[u8]) -> bool {
        let asked = text.iter().filter(|byte| **byte == b'?').count();
        let size = self.question_mark.len();
        asked == 0 || asked <= bytes.chunks(size).filter(|unit| *unit == self.question_mark).count()
    }
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn table_sql(name: &TableName) -> String {
    format!("{}.{}", quoted(&name.database), quoted(&name.table))
}

const SYSTEM: &str = "TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')";

/// An index as it is being put together: its columns, and whether each can be told apart from its neighbours by it.
#[derive(Default)]
struct Index {
    columns: Vec<String>,
    usable: bool,
}

impl MysqlSession {
    fn error(&self, what: &dyn std::fmt::Display, error: &dyn std::fmt::Display) -> VerifyError {
        VerifyError(format!("{}: {what}: {error}", self.name))
    }

    fn rows<T: mysql::prelude::FromRow>(&mut self, what: &str, sql: &str) -> Result<Vec<T>, VerifyError> {
        self.connection.exec(sql, ()).map_err(|error| self.error(&what, &error))
    }

    /// The keys of all tables: the primary key, else the first unique index that has no nulls or expressions. Where the
    /// beginnings of values are unique, so are the values.
    fn keys(&mut self) -> Result<BTreeMap<TableName, Vec<String>>, VerifyError> {
        type Part = (String, String, String, Option<String>, Option<String>);
        let parts: Vec<Part> = self.rows(
            "its indexes can't be listed",
            &format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, COLUMN_NAME, NULLABLE \
                 FROM information_schema.STATISTICS WHERE NON_UNIQUE = 0 AND {SYSTEM} \
                 ORDER BY TABLE_SCHEMA, TABLE_NAME, INDEX_NAME <> 'PRIMARY', INDEX_NAME, SEQ_IN_INDEX"
            ),
        )?;
        let mut tables: BTreeMap<TableName, Vec<(String, Index)>> = BTreeMap::new();
        for (database, table, index, column, nullable) in parts {
            let indexes = tables.entry(TableName::new(database, table)).or_default();
            if indexes.last().is_none_or(|(name, _)| *name != index) {
                indexes.push((index, Index { columns: Vec::new(), usable: true }));
            }
            let (_, index) = indexes.last_mut().expect("just made");
            index.usable &= column.is_some() && nullable.as_deref() != Some("YES");
            index.columns.extend(column);
        }
        let key = |indexes: Vec<(String, Index)>| indexes.into_iter().find(|(_, index)| index.usable);
        Ok(tables.into_iter().filter_map(|(name, all)| Some((name, key(all)?.1.columns))).collect())
    }

    fn columns_of_all(&mut self, wanted: &TableFilter) -> Result<BTreeMap<TableName, Vec<Column>>, VerifyError> {
        let found: Vec<(String, String, String, String, String)> = self.rows(
            "its columns can't be listed",
            &format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE \
                 FROM information_schema.COLUMNS WHERE {SYSTEM} ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"
            ),
        )?;
        let mut tables: BTreeMap<TableName, Vec<Column>> = BTreeMap::new();
        for (database, table, name, ty, nullable) in found {
            if !wanted.wants(&database, &table) {
                continue;
            }
            let table = TableName::new(database, table);
            let ty: ColumnType =
                ty.parse().map_err(|error| self.error(&format_args!("table {table}, column {name}"), &error))?;
            tables.entry(table).or_default().push(Column { name, ty, nullable: nullable == "YES" });
        }
        Ok(tables)
    }

    /// For each column of the plan how its text is converted.
    fn converted(&mut self, plan: &TablePlan) -> Result<Vec<Option<Charset>>, VerifyError> {
        if !self.charsets.contains_key(&plan.name) {
            let found: Result<Vec<(String, String)>, _> = self.connection.exec(
                "SELECT COLUMN_NAME, CHARACTER_SET_NAME FROM information_schema.COLUMNS \
                 WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND CHARACTER_SET_NAME IS NOT NULL",
                (&plan.name.database, &plan.name.table),
            );
            let found = found.map_err(|error| self.error(&format_args!("table {}: its columns", plan.name), &error))?;
            let converted = found.into_iter().filter_map(|(column, name)| Some((column, Charset::new(&name)?)));
            self.charsets.insert(plan.name.clone(), converted.collect());
        }
        let charsets = &self.charsets[&plan.name];
        Ok(plan.columns.iter().map(|column| charsets.get(&column.name).copied()).collect())
    }

    fn number(&mut self, plan: &TablePlan, sql: String) -> Result<Option<i128>, VerifyError> {
        let found: Option<Wire> = self
            .connection
            .exec_first(sql, ())
            .map_err(|error| self.error(&format_args!("table {}: its keys can't be walked", plan.name), &error))?;
        match found {
            None => Ok(None),
            Some(Wire::Int(number)) => Ok(Some(number.into())),
            Some(Wire::UInt(number)) => Ok(Some(number.into())),
            Some(other) => {
                let what = format!("table {}, column {}", plan.name, plan.leading().name);
                Err(self.error(&what, &format_args!("{other:?} is no integer")))
            }
        }
    }

    /// Warns of databases of which this user sees some tables alone: the others can't be compared.
    fn warn_of_hidden(&mut self, wanted: &TableFilter) {
        let grantee = "CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''')";
        let sql = format!(
            "SELECT DISTINCT TABLE_SCHEMA FROM information_schema.TABLES WHERE {SYSTEM} \
             AND NOT EXISTS (SELECT 1 FROM information_schema.USER_PRIVILEGES u \
                             WHERE u.PRIVILEGE_TYPE = 'SELECT' AND u.GRANTEE = {grantee}) \
             AND NOT EXISTS (SELECT 1 FROM information_schema.SCHEMA_PRIVILEGES s \
                             WHERE s.PRIVILEGE_TYPE = 'SELECT' AND s.GRANTEE = {grantee} \
                             AND TABLES.TABLE_SCHEMA LIKE s.TABLE_SCHEMA)"
        );
        let partly: Vec<String> = self.rows("its grants can't be read", &sql).unwrap_or_else(|error| {
            tracing::warn!("{error}: whether tables are hidden from this user is not known");
            Vec::new()
        });
        for database in partly.iter().filter(|database| wanted.may_want_of(database)) {
            tracing::warn!(
                "{}: this user may SELECT from some tables of {database} alone, as far as it is granted directly: those that are \
                 hidden from it are not compared; GRANT SELECT ON `{database}`.* to it",
                self.name
            );
        }
    }
}

impl Session for MysqlSession {
    fn tables(&mut self, wanted: &TableFilter) -> Result<Vec<SourceTable>, VerifyError> {
        let tables: Vec<(String, String, Option<u64>)> = self.rows(
            "its tables can't be listed",
            &format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_ROWS FROM information_schema.TABLES \
                 WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') AND {SYSTEM}"
            ),
        )?;
        self.warn_of_hidden(wanted);
        let mut columns = self.columns_of_all(wanted)?;
        let mut keys = self.keys()?;
        let mut found = Vec::new();
        for (database, table, rows_estimated) in tables {
            let name = TableName::new(database, table);
            let Some(columns) = columns.remove(&name) else { continue };
            let schema = TableSchema {
                key: keys.remove(&name).unwrap_or_default(),
                name,
                columns,
                since_seq: 0,
                partial: false,
            };
            let leading = schema.key.first().and_then(|key| schema.column(key));
            let ranges = leading.is_some_and(|column| matches!(column.ty, ColumnType::Integer { .. }));
            found.push(SourceTable { schema, rows_estimated: rows_estimated.unwrap_or(0), ranges });
        }
        Ok(found)
    }

    fn columns(&mut self, _: &TableName) -> Result<Option<Vec<TargetColumn>>, VerifyError> {
        Err(VerifyError(format!("{}: verify reads MySQL as a source only", self.name)))
    }

    fn boundary(&mut self, plan: &TablePlan, from: Option<i128>, rows: usize) -> Result<Option<i128>, VerifyError> {
        let (table, key) = (table_sql(&plan.name), quoted(&plan.leading().name));
        let at_least = from.map(|from| format!("WHERE {key} >= {from} ")).unwrap_or_default();
        let sql = format!("SELECT {key} FROM {table} {at_least}ORDER BY {key} LIMIT 1 OFFSET {rows}");
        self.number(plan, sql)
    }

    fn read(&mut self, plan: &TablePlan, keys: &Keys, sink: &mut dyn RowSink) -> Result<(), VerifyError> {
        let converted = self.converted(plan)?;
        let mut columns: Vec<String> = plan.columns.iter().map(|column| quoted(&column.name)).collect();
        for (index, charset) in converted.iter().enumerate() {
            if charset.is_some() {
                columns.push(format!("CAST({} AS BINARY)", columns[index]));
            }
        }
        let condition = keys.condition(&quoted(&plan.leading().name), false);
        let sql = format!("SELECT {} FROM {}{condition}", columns.join(", "), table_sql(&plan.name));
        let name = self.name.clone();
        let failed = |error: mysql::Error| VerifyError(format!("{name}: table {}: {error}", plan.name));
        let statement = self.connection.prep(&sql).map_err(failed)?;
        let mut result = self.connection.exec_iter(&statement, ()).map_err(failed)?;
        let types: Vec<ColumnType> = plan.columns.iter().map(|column| column.ty).collect();
        for row in result.by_ref() {
            give(&row.map_err(failed)?, &types, &converted, sink);
            if let Err(error) = sink.end() {
                // Dropped, the result would first read the rest of the table. Whoever returns an error reads no more here.
                std::mem::forget(result);
                return Err(error);
            }
        }
        drop(result);
        self.connection.close(statement).map_err(failed)
    }
}

/// Behind a row's values stand the bytes of those that are `converted`.
fn give(row: &MysqlRow, types: &[ColumnType], converted: &[Option<Charset>], sink: &mut dyn RowSink) {
    let mut behind = types.len();
    for (index, (ty, charset)) in types.iter().zip(converted).enumerate() {
        let value = row.as_ref(index);
        if let Some(charset) = charset {
            let bytes = row.as_ref(behind);
            behind += 1;
            if let (Some(Wire::Bytes(text)), Some(Wire::Bytes(bytes))) = (value, bytes)
                && !charset.has_letters(bytes, text)
            {
                sink.value(Value::NoText(bytes));
                continue;
            }
        }
        match value {
            None | Some(Wire::NULL) => sink.value(Value::Null),
            Some(Wire::Int(v)) => sink.value(Value::Int(*v)),
            Some(Wire::UInt(v)) => sink.value(Value::UInt(*v)),
            Some(Wire::Float(v)) => sink.value(Value::Float(*v)),
            Some(Wire::Double(v)) => sink.value(Value::Double(*v)),
            Some(Wire::Bytes(bytes)) => sink.value(bytes_value(*ty, bytes)),
            Some(&Wire::Date(year, month, day, hour, minute, second, micros)) => {
                let civil = (year, month, day, hour, minute, second, micros);
                give_date(*ty, civil, sink);
            }
            Some(&Wire::Time(negative, days, hours, minutes, seconds, micros)) => {
                let hours = days * 24 + u32::from(hours);
                let us = calendar::clock_us(hours, minutes.into(), seconds.into(), micros);
                sink.value(Value::Time(if negative { -us } else { us }));
            }
        }
    }
}

fn bytes_value(ty: ColumnType, bytes: &[u8]) -> Value<'_> {
    match ty {
        ColumnType::Bit(_) => Value::UInt(bytes.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte))),
        ty if ty.form() == Form::Bytes => Value::Bytes(bytes),
        // ZEROFILL is for the eye.
        ColumnType::Decimal { .. } => {
            let fill = bytes.windows(2).take_while(|two| two[0] == b'0' && two[1].is_ascii_digit()).count();
            Value::Text(&bytes[fill..])
        }
        _ => Value::Text(bytes),
    }
}

/// Gives a date as days or microseconds, or, if there is no such day, as the text that MySQL prints.
fn give_date(ty: ColumnType, civil: (u16, u8, u8, u8, u8, u8, u32), sink: &mut dyn RowSink) {
    let (year, month, day, hour, minute, second, micros) = civil;
    let clock = calendar::clock_us(hour.into(), minute.into(), second.into(), micros);
    match (calendar::days(year.into(), month.into(), day.into()), ty) {
        (Some(days), ColumnType::Date) => sink.value(Value::Date(days)),
        (Some(days), ColumnType::Timestamp(_)) => {
            sink.value(Value::Instant(i64::from(days) * calendar::DAY_US + clock))
        }
        (Some(days), _) => sink.value(Value::DateTime(i64::from(days) * calendar::DAY_US + clock)),
        (None, ColumnType::Date) => sink.value(Value::text(&format!("{year:04}-{month:02}-{day:02}"))),
        (None, _) => {
            let text = format!("{year:04}-{month:02}-{day:02} {}", calendar::time_text(clock));
            sink.value(Value::text(&text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_mark_that_stands_for_no_letter_is_told_from_one_that_is_there() {
        let has_letters = |charset: &str, bytes: &[u8], text: &str| {
            Charset::new(charset).is_none_or(|charset| charset.has_letters(bytes, text.as_bytes()))
        };
        assert!(has_letters("sjis", b"a?b", "a?b"));
        assert!(!has_letters("sjis", b"?\x85\x40", "??"));
        assert!(has_letters("utf16", b"\0?\x3f\0", "?\u{3f00}"));
        assert!(!has_letters("ucs2", b"\0?\xd8\x3d\x00\xe9", "??é"));
        assert!(has_letters("utf16le", b"?\0\0?", "?\u{3f00}"));
        assert!(has_letters("utf32", b"\0\0\0?", "?"));
        assert!(has_letters("utf8mb4", b"\xff", "?"));
    }
}
