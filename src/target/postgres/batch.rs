//! Batches of rows of one shape, the statements that write them, and the rows' way into them.
//!
//! Rows of a table nearly always have the same fields in the same order. A *shape* is such a list of fields, with the
//! column that each goes to, an array for each column, and the prepared statements; a row is pushed by comparing each
//! field's name with the one expected at its place. Only a row that differs is looked up by name, and only one with other
//! fields closes the batch and looks for another shape. Columns that the source does not have keep what they hold.

use std::collections::HashMap;

use postgres::Statement;
use postgres::types::ToSql;

use super::columns::{Bad, ColumnArray, Kind};
use super::connect::{Dialect, Server};
use super::table::Table;
use crate::change::Change;
use crate::target::Failure;
use crate::target::fields::{Stop, each_field};

/// The parameters of one statement, at most (the protocol has 65,535, Hologres 32,767).
const PARAMETERS: usize = 32_767;
/// The text of one statement, at most.
const SQL_BYTES: usize = 90_000;

/// Which of the three sinks: inserts and updates are both upserts, so that applying them again changes nothing, but each
/// has its own statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sink {
    Delete,
    Update,
    Insert,
}

/// How large a batch may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub rows: usize,
    pub bytes: usize,
}

impl Limits {
    pub(super) fn of(dialect: Dialect) -> Limits {
        match dialect {
            // Measured (bench/target_rate.rs): the rate is flat from 1,000 to 10,000 rows, and small batches keep memory
            // and the time to find a bad row small.
            Dialect::Postgres => Limits { rows: 4_000, bytes: 4 << 20 },
            Dialect::Hologres => Limits { rows: 512, bytes: 1 << 20 },
        }
    }
}

/// Why a row did not get into a shape's arrays.
pub(super) enum Unfit {
    /// It has other fields.
    OtherShape,
    /// A value, or the row as such, can't be written.
    Bad {
        /// The column, where one is to blame.
        column: Option<String>,
        bad: Bad,
    },
}

/// Where a field's values go.
#[derive(Clone, Copy)]
enum Slot {
    /// To that array.
    Array(usize),
    /// Nowhere: a delete's column outside the key, or one that was dropped.
    Nowhere,
    /// There is no column, and only NULL may come.
    Null,
}

/// A list of fields, the arrays of their columns, and the statements for them.
pub(super) struct Shape {
    /// Each field and where it goes.
    fields: Vec<(Box<str>, Slot)>,
    by_name: HashMap<Box<str>, usize>,
    arrays: Vec<ColumnArray>,
    /// The table's column of each array.
    columns: Vec<usize>,
    rows: usize,
    /// The prepared statements: `[0]` for batches of any size, or `[n]` for 2ⁿ rows where a batch's size is in the SQL.
    statements: Vec<Option<Statement>>,
}

impl Shape {
    /// The shape of a change's row. Fails with the name of a field that the table has no column for.
    pub(super) fn of(
        change: &Change,
        table: &Table,
        sink: Sink,
        zero_date_null: bool,
    ) -> Result<Shape, Box<Unmatched>> {
        let mut shape = Shape {
            fields: Vec::new(),
            by_name: HashMap::new(),
            arrays: Vec::new(),
            columns: Vec::new(),
            rows: 0,
            statements: Vec::new(),
        };
        let source = table.source.as_ref();
        let dropped = |name: &str| source.is_some_and(|s| s.has_dropped(name, change.head.seq));
        let add = |name: &str, raw: &str| {
            let without = match sink == Sink::Delete || dropped(name) {
                true => Some(Slot::Nowhere),
                false if raw == "null" && source.is_some_and(|s| s.is_all_null(name)) => Some(Slot::Null),
                false => None,
            };
            shape.add_field(name, table, sink, without, zero_date_null)
        };
        each_field(change.row(), add).map_err(|stop| match stop {
            Stop::Field(unmatched) => unmatched,
            Stop::NotAnObject(reason) => Box::new(Unmatched::Row(Bad::new(reason))),
        })?;
        for (index, column) in table.columns.iter().enumerate() {
            if column.in_key && !shape.columns.contains(&index) {
                return Err(Box::new(Unmatched::Row(Bad::new(format!("the row has no key column {}", column.name)))));
            }
        }
        Ok(shape)
    }

    fn add_field(
        &mut self,
        name: &str,
        table: &Table,
        sink: Sink,
        without: Option<Slot>,
        zero_date_null: bool,
    ) -> Result<(), Box<Unmatched>> {
        let slot = match (table.column(name), without) {
            (Some(column), _) if sink != Sink::Delete || table.columns[column].in_key => {
                let form = table.source.as_ref().and_then(|schema| schema.form(name));
                let target = &table.columns[column];
                self.arrays.push(ColumnArray::new(target.kind, form, target.in_key, zero_date_null));
                self.columns.push(column);
                Slot::Array(self.arrays.len() - 1)
            }
            (Some(_), _) => Slot::Nowhere,
            (None, Some(slot)) => slot,
            (None, None) => return Err(Box::new(Unmatched::Column(name.to_string()))),
        };
        if self.by_name.insert(name.into(), self.fields.len()).is_some() {
            return Err(Box::new(Unmatched::Row(Bad::new(format!("the row has the column {name} twice")))));
        }
        self.fields.push((name.into(), slot));
        Ok(())
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn is_full(&self, limits: Limits) -> bool {
        self.rows >= limits.rows || self.arrays.iter().map(ColumnArray::bytes).sum::<usize>() >= limits.bytes
    }

    pub(super) fn clear(&mut self) {
        self.arrays.iter_mut().for_each(|array| array.truncate(0));
        self.rows = 0;
    }

    /// Gives the arrays' memory back: many tables, lanes and sinks would add up.
    pub(super) fn release(&mut self) {
        self.arrays.iter_mut().for_each(ColumnArray::release);
        self.rows = 0;
    }

    /// Appends a row. After an error nothing is appended.
    #[inline]
    pub(super) fn push(&mut self, row: &[u8], table: &Table) -> Result<(), Unfit> {
        let mut place = 0;
        let (rows, arrays) = (self.rows, &mut self.arrays);
        let pushed = each_field(row, |name, raw| {
            let index = match self.fields.get(place) {
                Some((expected, _)) if **expected == *name => place,
                _ => *self.by_name.get(name).ok_or(Unfit::OtherShape)?,
            };
            place += 1;
            let slot = match self.fields[index].1 {
                Slot::Array(slot) => slot,
                Slot::Null if raw != "null" => return Err(Unfit::OtherShape),
                Slot::Nowhere | Slot::Null => return Ok(()),
            };
            let array = &mut arrays[slot];
            if array.len() > rows {
                let bad = Bad::new("the row has the column twice");
                return Err(Unfit::Bad { column: Some(name.to_string()), bad });
            }
            array
                .push(raw)
                .map_err(|bad| Unfit::Bad { column: Some(table.columns[self.columns[slot]].name.clone()), bad })
        });
        let outcome = match pushed {
            Ok(()) if place == self.fields.len() && arrays.iter().all(|array| array.len() == rows + 1) => {
                self.rows += 1;
                return Ok(());
            }
            Ok(()) => Unfit::OtherShape,
            Err(Stop::Field(unfit)) => unfit,
            Err(Stop::NotAnObject(reason)) => Unfit::Bad { column: None, bad: Bad::new(reason) },
        };
        arrays.iter_mut().for_each(|array| array.truncate(rows));
        Err(outcome)
    }

    /// Sends the batch, and leaves its rows in place.
    pub(super) fn send(&mut self, server: &mut Server, table: &Table, sink: Sink) -> Result<(), Failure> {
        if sink == Sink::Delete && self.arrays.len() > 1 && server.dialect == Dialect::Hologres {
            return self.send_spelled_out(server, table);
        }
        if self.statements.is_empty() {
            let sql = match sink {
                Sink::Delete => self.delete_sql(table),
                Sink::Update | Sink::Insert => self.upsert_sql(table),
            };
            self.statements.push(Some(server.client.prepare(&sql)?));
        }
        let statement = self.statements[0].as_ref().expect("prepared just now");
        let parameters: Vec<&(dyn ToSql + Sync)> = self.arrays.iter().map(|array| array as _).collect();
        server.client.execute(statement, &parameters)?;
        Ok(())
    }

    /// A delete by several columns on Hologres, whose fast path wants `(a = $1 AND b = $2) OR …`. The number of rows is in
    /// the SQL, so a batch goes as a sum of powers of two: few statements to prepare.
    fn send_spelled_out(&mut self, server: &mut Server, table: &Table) -> Result<(), Failure> {
        let mut row = 0;
        while row < self.rows {
            let mut power = (self.rows - row).ilog2() as usize;
            while power > 0 && !self.spelled_out_fits(1 << power, table) {
                power -= 1;
            }
            if self.statements.len() <= power {
                self.statements.resize(power + 1, None);
            }
            if self.statements[power].is_none() {
                let sql = self.spelled_out_sql(1 << power, table);
                self.statements[power] = Some(server.client.prepare(&sql)?);
            }
            let statement = self.statements[power].as_ref().expect("prepared just now");
            let values: Vec<_> = (row..row + (1 << power))
                .flat_map(|row| self.arrays.iter().map(move |array| array.scalar(row)))
                .collect();
            let parameters: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
            server.client.execute(statement, &parameters)?;
            row += 1 << power;
        }
        Ok(())
    }

    fn spelled_out_fits(&self, rows: usize, table: &Table) -> bool {
        let row_bytes: usize =
            self.columns.iter().map(|&c| name(table, c).len() + table.columns[c].cast.len() + 18).sum();
        rows * self.columns.len() <= PARAMETERS && rows * (row_bytes + 6) <= SQL_BYTES
    }

    fn spelled_out_sql(&self, rows: usize, table: &Table) -> String {
        let mut parameter = 0;
        let mut condition = || {
            let equal = self.columns.iter().map(|&column| {
                parameter += 1;
                format!("{} = {}", name(table, column), cast(table, column, parameter, ""))
            });
            format!("({})", equal.collect::<Vec<_>>().join(" AND "))
        };
        let conditions: Vec<String> = (0..rows).map(|_| condition()).collect();
        format!("DELETE FROM {} WHERE {}", table.sql, conditions.join(" OR "))
    }

    fn upsert_sql(&self, table: &Table) -> String {
        let names: Vec<String> = self.columns.iter().map(|&column| name(table, column)).collect();
        let key: Vec<&str> = self
            .columns
            .iter()
            .zip(&names)
            .filter(|(c, _)| table.columns[**c].in_key)
            .map(|(_, n)| n.as_str())
            .collect();
        let sets: Vec<String> = self
            .columns
            .iter()
            .zip(&names)
            .filter(|(c, _)| !table.columns[**c].in_key)
            .map(|(_, n)| format!("{n} = excluded.{n}"))
            .collect();
        let action = if sets.is_empty() { "NOTHING".to_string() } else { format!("UPDATE SET {}", sets.join(", ")) };
        format!(
            "INSERT INTO {} ({}) SELECT {} ON CONFLICT ({}) DO {action}",
            table.sql,
            names.join(", "),
            self.unnested(table).join(", "),
            key.join(", ")
        )
    }

    fn delete_sql(&self, table: &Table) -> String {
        if let [column] = self.columns[..] {
            return format!(
                "DELETE FROM {} WHERE {} = ANY({})",
                table.sql,
                name(table, column),
                cast(table, column, 1, "[]")
            );
        }
        let columns: Vec<String> =
            self.unnested(table).iter().enumerate().map(|(n, unnested)| format!("{unnested} AS k{n}")).collect();
        let equal: Vec<String> =
            self.columns.iter().enumerate().map(|(n, &column)| format!("t.{} = k.k{n}", name(table, column))).collect();
        format!(
            "DELETE FROM {} AS t USING (SELECT {}) AS k WHERE {}",
            table.sql,
            columns.join(", "),
            equal.join(" AND ")
        )
    }

    fn unnested(&self, table: &Table) -> Vec<String> {
        let one = |(n, &column): (usize, &usize)| match table.columns[column].kind {
            Kind::Other => format!("unnest(${}::text[])::{}", n + 1, table.columns[column].cast),
            _ => format!("unnest({})", cast(table, column, n + 1, "[]")),
        };
        self.columns.iter().enumerate().map(one).collect()
    }
}

/// Why a row has no shape.
pub(super) enum Unmatched {
    /// The table has no such column.
    Column(String),
    /// The row can't be read.
    Row(Bad),
}

fn name(table: &Table, column: usize) -> String {
    super::connect::quoted(&table.columns[column].name)
}

/// A parameter with its type; a type that is sent as text is cast from it.
fn cast(table: &Table, column: usize, parameter: usize, array: &str) -> String {
    let target = &table.columns[column];
    match target.kind {
        Kind::Other => format!("${parameter}::text{array}::{}{array}", target.cast),
        _ => format!("${parameter}::{}{array}", target.cast),
    }
}
