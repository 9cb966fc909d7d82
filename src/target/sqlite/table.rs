//! Tables of the file, and the statements for rows of one shape.

use std::ops::Range;

use rusqlite::{Connection, ErrorCode, params};

use super::Failure;
use super::values::{self, Affinity};
use crate::change::{Change, Changes, ColumnType, Form, Op, TableName, TableSchema};
use crate::target::fields::{Stop, each_field};
use crate::target::{FindSchema, RefusedRow, TargetError, coarse_key};

/// Shapes of rows of one table whose statements are kept.
const SHAPES_MAX: usize = 16;

/// A table of the file.
pub(super) struct Table {
    pub name: TableName,
    columns: Vec<TargetColumn>,
    pub source: Option<TableSchema>,
    /// What is known of rows with the same fields, for upserts and for deletes; the one used last stands first.
    shapes: [Vec<Shape>; 2],
}

struct TargetColumn {
    name: String,
    /// Its type as the table says it.
    declared: String,
    affinity: Affinity,
    in_key: bool,
    /// Whether two texts are never equal in it.
    exact: bool,
}

impl TargetColumn {
    /// Whether it takes two keys of the source, of this type, for one.
    fn confuses(&self, source: Option<ColumnType>) -> bool {
        let loose = source.is_some_and(ColumnType::is_loose);
        match self.affinity {
            Affinity::Text | Affinity::Blob => !self.exact,
            Affinity::Integer | Affinity::Numeric => loose,
            Affinity::Real => true,
        }
    }
}

/// The fields of a row in order, each with where it goes.
struct Shape {
    fields: Vec<(Box<str>, Slot)>,
    sql: String,
}

#[derive(Clone, Copy)]
enum Slot {
    /// A parameter of the statement.
    Parameter(Parameter),
    /// Nowhere: a delete's column outside the key, or one that was dropped.
    Nowhere,
    /// There is no column, and only NULL may come.
    Null,
}

impl Slot {
    fn takes(self, raw: &str) -> bool {
        !matches!(self, Slot::Null) || raw == "null"
    }
}

#[derive(Clone, Copy)]
struct Parameter {
    number: usize,
    affinity: Affinity,
    form: Option<Form>,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The source's schema with that column.
pub(super) fn schema_with(table: &TableName, column: &str, schemas: &FindSchema) -> Result<TableSchema, TargetError> {
    let schema = schemas(table, Some(column)).filter(|schema| schema.form(column).is_some());
    schema.ok_or_else(|| TargetError::Table {
        table: table.clone(),
        reason: format!(
            "missing column in the target: {column}: add it there, or let publish announce the table's schema"
        ),
    })
}

/// The error for a table whose rows can't be found again.
pub(super) fn no_key(table: &TableName) -> TargetError {
    TargetError::Table {
        table: table.clone(),
        reason: "it has no primary key and no NOT NULL unique key at the source, and without a key no row can be found again: \
                 give it one, or leave the table out with [land] tables"
            .into(),
    }
}

impl Table {
    pub(super) fn is_key(&self, field: &str) -> bool {
        self.columns.iter().any(|column| column.in_key && column.name.eq_ignore_ascii_case(field))
    }

    pub(super) fn outdated(&self, schemas: &FindSchema) -> bool {
        let Some(known) = &self.source else { return false };
        schemas(&self.name, None).is_some_and(|now| !now.same_shape(known))
    }

    /// Looks the table up, making it, and columns it lacks, from the source's schema.
    pub(super) fn bind(
        connection: &Connection,
        name: &TableName,
        job: &str,
        source: Option<TableSchema>,
    ) -> Result<Table, Failure> {
        let fault = |reason: String| Failure::Target(TargetError::Table { table: name.clone(), reason });
        if source.as_ref().is_some_and(|schema| schema.key.is_empty()) {
            return Err(no_key(name).into());
        }
        let lower = name.table.to_lowercase();
        if lower.starts_with("tidegate_") || lower.starts_with("sqlite_") {
            return Err(fault(
                "its name begins with tidegate_ or sqlite_, which the file keeps for itself: leave it out".into(),
            ));
        }
        let is_first = claim_name(connection, name, job)?;
        let mut columns = columns(connection, &name.table)?;
        if columns.is_empty() && !is_first {
            return Err(fault(format!(
                "job '{job}' has landed it in the file's table {0}, and that is gone, with all that was in it: bring it back; or copy the \
                 table anew, and DELETE FROM tidegate_tables WHERE name = '{0}'",
                name.table
            )));
        }
        if columns.is_empty() {
            let Some(schema) = &source else {
                return Err(fault(format!(
                    "the file has no table {} and the source's schema is not known: create it there",
                    name.table
                )));
            };
            connection.execute_batch(&create_sql(schema))?;
            columns = self::columns(connection, &name.table)?;
        }
        if let Some(schema) = &source {
            for column in schema.columns.iter().filter(|column| column.is_known()) {
                if !columns.iter().any(|c| c.name.eq_ignore_ascii_case(&column.name)) {
                    let (table, column, ty) = (quoted(&name.table), quoted(&column.name), column.ty.sqlite(false));
                    connection.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} {ty}"))?;
                }
            }
            columns = self::columns(connection, &name.table)?;
        }
        let mut key: Vec<String> = columns.iter().filter(|c| c.in_key).map(|c| c.name.to_lowercase()).collect();
        if key.is_empty() {
            return Err(fault(
                "the file's table has no primary key: add one with the columns of the source's key".into(),
            ));
        }
        if let Some(schema) = &source {
            let mut wanted: Vec<String> = schema.key.iter().map(|name| name.to_lowercase()).collect();
            key.sort_unstable();
            wanted.sort_unstable();
            if key != wanted {
                return Err(fault(format!(
                    "the primary key of the file's table is ({}), the source's key is ({}): make them the same",
                    key.join(", "),
                    wanted.join(", ")
                )));
            }
        }
        let ty_of = |name: &str| source.as_ref().and_then(|schema| schema.type_of(name));
        if let Some(coarse) = columns.iter().find(|column| column.in_key && column.confuses(ty_of(&column.name))) {
            return Err(fault(coarse_key(&name.table, &coarse.name, &coarse.declared)));
        }
        Ok(Table { name: name.clone(), columns, source, shapes: Default::default() })
    }

    /// A field of the row that the table has no column for. Only rows of a shape not seen before are asked.
    pub(super) fn missing_column(&self, change: &Change) -> Option<String> {
        if self.shapes[0].iter().any(|shape| shape.fits(change.row())) {
            return None;
        }
        let missing = each_field(change.row(), |name, raw| {
            let needless = || self.source.as_ref().is_some_and(|s| needs_none(s, name, raw, change));
            match self.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name)) || needless() {
                true => Ok(()),
                false => Err(name.to_string()),
            }
        });
        match missing {
            Err(Stop::Field(column)) => Some(column),
            _ => None,
        }
    }

    /// Writes the rows from the range's first that have the same fields; where the others begin. What can't be written comes
    /// to `refused`.
    pub(super) fn write_alike(
        &mut self,
        connection: &Connection,
        changes: &Changes,
        range: Range<usize>,
        op: Op,
        refused: &mut Vec<RefusedRow>,
    ) -> Result<usize, Failure> {
        let first = changes.change(range.start);
        let shapes = &mut self.shapes[usize::from(op == Op::Delete)];
        match shapes.iter().position(|shape| shape.fits(first.row())) {
            Some(n) => shapes.swap(0, n),
            None => {
                let shape = match Shape::of(&first, &self.name, &self.columns, self.source.as_ref(), op) {
                    Ok(shape) => shape,
                    Err(row) => {
                        refused.push(*row);
                        return Ok(range.start + 1);
                    }
                };
                let shapes = &mut self.shapes[usize::from(op == Op::Delete)];
                shapes.truncate(SHAPES_MAX - 1);
                shapes.insert(0, shape);
            }
        }
        let shape = &self.shapes[usize::from(op == Op::Delete)][0];
        let mut statement = connection.prepare_cached(&shape.sql)?;
        for index in range.clone() {
            let change = changes.change(index);
            let mut place = 0;
            let bound = each_field(change.row(), |name, raw| {
                let (expected, parameter) = shape.fields.get(place).ok_or(Unfit::OtherShape)?;
                if **expected != *name || !parameter.takes(raw) {
                    return Err(Unfit::OtherShape);
                }
                place += 1;
                let Slot::Parameter(Parameter { number, affinity, form }) = *parameter else { return Ok(()) };
                values::bind(&mut statement, number, raw, affinity, form)
                    .map_err(|reason| Unfit::Bad { column: Some(name.to_string()), reason })
            });
            let row = match bound {
                Ok(()) if place == shape.fields.len() => match statement.raw_execute() {
                    Ok(_) => continue,
                    Err(e) => match e.sqlite_error_code() {
                        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
                            refused_row(&change, None, format!("the file refused it: {e}"))
                        }
                        _ => return Err(Failure::Sqlite(e)),
                    },
                },
                // The first row made the shape or was found to fit it.
                Ok(()) | Err(Stop::Field(Unfit::OtherShape)) if index > range.start => return Ok(index),
                Ok(()) | Err(Stop::Field(Unfit::OtherShape)) => {
                    refused_row(&change, None, "the row has a column twice".into())
                }
                Err(Stop::Field(Unfit::Bad { column, reason })) => refused_row(&change, column, reason),
                Err(Stop::NotAnObject(reason)) => refused_row(&change, None, reason),
            };
            refused.push(row);
        }
        Ok(range.end)
    }
}

enum Unfit {
    OtherShape,
    Bad { column: Option<String>, reason: String },
}

impl Shape {
    fn fits(&self, row: &[u8]) -> bool {
        let mut place = 0;
        let alike = each_field(row, |name, raw| match self.fields.get(place) {
            Some((expected, slot)) if **expected == *name && slot.takes(raw) => {
                place += 1;
                Ok(())
            }
            _ => Err(()),
        });
        alike.is_ok() && place == self.fields.len()
    }

    fn of(
        change: &Change,
        table: &TableName,
        columns: &[TargetColumn],
        source: Option<&TableSchema>,
        op: Op,
    ) -> Result<Shape, Box<RefusedRow>> {
        let mut fields: Vec<(Box<str>, Slot)> = Vec::new();
        let mut bound: Vec<&TargetColumn> = Vec::new();
        let read = each_field(change.row(), |name, raw| {
            let slot = match columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)) {
                Some(column) if op != Op::Delete || column.in_key => {
                    bound.push(column);
                    let form = source.and_then(|schema| schema.form(name));
                    Slot::Parameter(Parameter { number: bound.len(), affinity: column.affinity, form })
                }
                Some(_) => Slot::Nowhere,
                None if op == Op::Delete || source.is_some_and(|s| s.has_dropped(name, change.head.seq)) => {
                    Slot::Nowhere
                }
                None if source.is_some_and(|s| needs_none(s, name, raw, change)) => Slot::Null,
                None => return Err(format!("the table has no column {name}")),
            };
            fields.push((name.into(), slot));
            Ok(())
        });
        match read {
            Ok(()) => {}
            Err(Stop::NotAnObject(reason) | Stop::Field(reason)) => {
                return Err(Box::new(refused_row(change, None, reason)));
            }
        }
        for column in columns.iter().filter(|column| column.in_key) {
            if !bound.iter().any(|b| b.name == column.name) {
                let reason = format!("the row has no key column {}", column.name);
                return Err(Box::new(refused_row(change, None, reason)));
            }
        }
        let sql = match op {
            Op::Delete => {
                // As the key's index has it, whatever the column's own collation.
                let equal = bound
                    .iter()
                    .enumerate()
                    .map(|(n, column)| format!("{} = ?{} COLLATE BINARY", quoted(&column.name), n + 1));
                format!("DELETE FROM {} WHERE {}", quoted(&table.table), equal.collect::<Vec<_>>().join(" AND "))
            }
            _ => upsert_sql(&table.table, &bound),
        };
        Ok(Shape { fields, sql })
    }
}

fn upsert_sql(table: &str, columns: &[&TargetColumn]) -> String {
    let list = |columns: Vec<String>| columns.join(", ");
    let names = list(columns.iter().map(|column| quoted(&column.name)).collect());
    let places = list((1..=columns.len()).map(|n| format!("?{n}")).collect());
    let key = list(columns.iter().filter(|column| column.in_key).map(|column| quoted(&column.name)).collect());
    let sets: Vec<String> = columns
        .iter()
        .filter(|column| !column.in_key)
        .map(|column| format!("{0} = excluded.{0}", quoted(&column.name)))
        .collect();
    let action = if sets.is_empty() { "NOTHING".to_string() } else { format!("UPDATE SET {}", list(sets)) };
    format!("INSERT INTO {} ({names}) VALUES ({places}) ON CONFLICT ({key}) DO {action}", quoted(table))
}

/// Whether a field needs no column: it was dropped, or nothing but NULL has come in it.
fn needs_none(source: &TableSchema, name: &str, raw: &str, change: &Change) -> bool {
    source.has_dropped(name, change.head.seq) || (raw == "null" && source.is_all_null(name))
}

fn create_sql(schema: &TableSchema) -> String {
    let mut lines: Vec<String> = schema
        .columns
        .iter()
        .filter(|column| column.is_known())
        .map(|column| {
            let in_key = schema.key.contains(&column.name);
            let not_null = if in_key { " NOT NULL" } else { "" };
            format!("{} {}{not_null}", quoted(&column.name), column.ty.sqlite(in_key))
        })
        .collect();
    let key: Vec<String> = schema.key.iter().map(|name| quoted(name)).collect();
    lines.push(format!("PRIMARY KEY ({})", key.join(", ")));
    format!("CREATE TABLE {} ({})", quoted(&schema.name.table), lines.join(", "))
}

/// The columns of a table; none if there is no such table.
fn columns(connection: &Connection, table: &str) -> Result<Vec<TargetColumn>, rusqlite::Error> {
    // A key of one INTEGER column has no index.
    let mut statement = connection.prepare(
        "SELECT t.name, t.type, t.pk, coalesce(k.coll, 'BINARY') = 'BINARY' COLLATE NOCASE FROM pragma_table_info(?1) t \
         LEFT JOIN pragma_index_list(?1) i ON i.origin = 'pk' \
         LEFT JOIN pragma_index_xinfo(i.name) k ON k.name = t.name AND k.key = 1",
    )?;
    let rows = statement.query_map([table], |row| {
        let declared: String = row.get(1)?;
        let (name, in_key, exact) = (row.get(0)?, row.get::<_, i64>(2)? > 0, row.get(3)?);
        Ok(TargetColumn { name, affinity: Affinity::of(&declared), declared, in_key, exact })
    })?;
    rows.collect()
}

/// Makes the table's name stand for this source table, or says for which other one it stands. Whether it is the first time.
fn claim_name(connection: &Connection, name: &TableName, job: &str) -> Result<bool, Failure> {
    let claimed = connection.execute(
        "INSERT INTO tidegate_tables (name, source_database, source_table, job) VALUES (?1, ?2, ?1, ?3) ON CONFLICT DO NOTHING",
        params![name.table, name.database, job],
    )?;
    let sql = "SELECT source_database, source_table, job FROM tidegate_tables WHERE name = ?1";
    let columns = |row: &rusqlite::Row| Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?));
    let (database, table, owner) = connection.query_row(sql, [&name.table], columns)?;
    let holder = TableName { database, table };
    let table = &name.table;
    let reason = if holder != *name {
        format!(
            "the file's table {table} already holds {holder}, and two tables are not mixed: land one of them in another file"
        )
    } else if owner != job {
        format!(
            "the file's table {table} is landed by job '{owner}', and each of two jobs would write older rows over the other's newer \
             ones: land it in another file; or, if '{owner}' is not to run any more, UPDATE tidegate_tables SET job = '{job}' WHERE job \
             = '{owner}'"
        )
    } else {
        return Ok(claimed > 0);
    };
    Err(TargetError::Table { table: name.clone(), reason }.into())
}

fn refused_row(change: &Change, column: Option<String>, reason: String) -> RefusedRow {
    let key = String::from_utf8_lossy(change.key()).into_owned();
    RefusedRow { table: change.table_name(), key, column, reason, zero_date: false }
}
