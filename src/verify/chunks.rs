//! What is compared with what: the plan of a table, and its cutting into chunks of keys.
//!
//! Chunks are ranges of the leading key column, which must be an integer on both sides; the first and the last are
//! open-ended, so that rows of the target beyond either end of the source are seen. Boundaries are found by walking the
//! source's index, so gaps and skew in the keys do not matter. Everything else is one chunk, the whole table.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Session, SourceTable, TargetColumn, VerifyError};
use crate::change::{ColumnType, Form, TableName};

/// A half-open range of integers, open where there is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    /// The least value in it.
    pub from: Option<i128>,
    /// The least value beyond it.
    pub to: Option<i128>,
}

/// Which rows of a table to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Those whose leading key column is in the range; all, if it is open at both ends.
    Range(KeyRange),
    /// Those whose leading key column is one of these.
    Leading(Vec<i128>),
}

impl Keys {
    /// The condition in SQL on a quoted column, as [`KeyRange::condition`].
    pub fn condition(&self, column: &str, nullable: bool) -> String {
        match self {
            Keys::Range(range) => range.condition(column, nullable),
            Keys::Leading(keys) => {
                let keys: Vec<String> = keys.iter().map(i128::to_string).collect();
                format!(" WHERE {column} IN ({})", keys.join(", "))
            }
        }
    }
}

impl KeyRange {
    /// Whether the value is in the range.
    pub fn contains(&self, value: i128) -> bool {
        self.from.is_none_or(|from| value >= from) && self.to.is_none_or(|to| value < to)
    }

    /// The condition in SQL on a quoted column, empty for the whole range. NULL, which a target without constraints may
    /// have in a key, belongs to the first range if it is `nullable`.
    pub fn condition(&self, column: &str, nullable: bool) -> String {
        match (self.from, self.to) {
            (None, None) => String::new(),
            (Some(from), None) => format!(" WHERE {column} >= {from}"),
            (None, Some(to)) if nullable => format!(" WHERE ({column} < {to} OR {column} IS NULL)"),
            (None, Some(to)) => format!(" WHERE {column} < {to}"),
            (Some(from), Some(to)) => format!(" WHERE {column} >= {from} AND {column} < {to}"),
        }
    }
}

/// A column that is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanColumn {
    /// Its name at the source.
    pub name: String,
    /// Its name at the target: the same, or the only one there that differs in case alone.
    pub target_name: String,
    /// What its values mean.
    pub ty: ColumnType,
    /// The target's name of its type; empty if the target has no such table.
    pub target_type: String,
    /// Whether that is a type of text, where two texts of one number are two values.
    pub target_text: bool,
    /// Whether it may be null at the target.
    pub target_nullable: bool,
}

/// How one table is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePlan {
    /// The table's name at the source.
    pub name: TableName,
    /// The columns that both sides have, in the source's order.
    pub columns: Vec<PlanColumn>,
    /// The key's columns, as indices into `columns`.
    pub key: Vec<usize>,
    /// Whether the target has the table.
    pub target_exists: bool,
    /// Columns of the source that the target does not have: a difference by itself.
    pub missing_columns: Vec<String>,
    /// Columns of the target that the source does not have: not compared.
    pub extra_columns: Vec<String>,
    /// About how many rows the source has.
    pub rows_estimated: u64,
    /// Whether chunks are ranges of the leading key column.
    pub ranges: bool,
}

impl TablePlan {
    /// The plan for a table of the source and what the target has for it.
    pub fn new(source: &SourceTable, target: Option<&[TargetColumn]>) -> Self {
        let schema = &source.schema;
        let mut plan = TablePlan {
            name: schema.name.clone(),
            columns: Vec::new(),
            key: Vec::new(),
            target_exists: target.is_some(),
            missing_columns: Vec::new(),
            extra_columns: Vec::new(),
            rows_estimated: source.rows_estimated,
            ranges: source.ranges,
        };
        for column in &schema.columns {
            let Some(target) = target else {
                plan.columns.push(PlanColumn {
                    name: column.name.clone(),
                    target_name: column.name.clone(),
                    ty: column.ty,
                    target_type: String::new(),
                    target_text: false,
                    target_nullable: false,
                });
                continue;
            };
            let Some(found) = column_for(target, &column.name) else {
                plan.missing_columns.push(column.name.clone());
                continue;
            };
            // MariaDB's JSON is a text. Where the target keeps it as a document, documents are compared.
            let ty = match (column.ty, found.type_name.as_str()) {
                (ColumnType::Text, "jsonb") => ColumnType::Json,
                (ty, _) => ty,
            };
            if schema.key.first() == Some(&column.name) {
                plan.ranges &= found.ranges;
            }
            plan.columns.push(PlanColumn {
                name: column.name.clone(),
                target_name: found.name.clone(),
                ty,
                target_type: found.type_name.clone(),
                target_text: matches!(found.type_name.as_str(), "text" | "varchar" | "bpchar"),
                target_nullable: found.nullable,
            });
        }
        if let Some(target) = target {
            let unknown = |column: &&TargetColumn| !plan.columns.iter().any(|known| known.target_name == column.name);
            plan.extra_columns = target.iter().filter(unknown).map(|column| column.name.clone()).collect();
        }
        plan.key = schema.key.iter().filter_map(|name| plan.columns.iter().position(|c| c.name == *name)).collect();
        if plan.key.len() < schema.key.len() {
            plan.key.clear();
        }
        plan.ranges &= plan.key.first().is_some_and(|&leading| plan.columns[leading].ty.form() == Form::Integer);
        plan
    }

    /// Whether rows can be compared at all: the target has all of the key's columns.
    pub fn comparable(&self) -> bool {
        !self.key.is_empty()
    }

    /// The leading key column.
    pub fn leading(&self) -> &PlanColumn {
        &self.columns[self.key[0]]
    }
}

/// The target's column for one of the source, as `land` finds it: of the same name, or of the only name that differs in case
/// alone.
fn column_for<'t>(target: &'t [TargetColumn], name: &str) -> Option<&'t TargetColumn> {
    target.iter().find(|column| column.name == name).or_else(|| {
        let mut alike = target.iter().filter(|column| column.name.eq_ignore_ascii_case(name));
        alike.next().filter(|_| alike.next().is_none())
    })
}

/// A chunk of a table: what one reader reads from both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Its number, over all tables.
    pub number: u64,
    /// Its table's place in the list of plans.
    pub table: usize,
    /// Its table.
    pub plan: TablePlan,
    /// Its keys.
    pub range: KeyRange,
    /// Whether it may have many more rows than a chunk should, so that they are dealt into buckets: a table without ranges,
    /// or the rows of one value of the leading key column.
    pub many_rows: bool,
}

/// How long after it was seen that the target lacks something it is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// Plans all tables: those of the source that are wanted, with what the target has for them. A table or a column may be on its way
/// to the target as a row may, so that it is lacking only after so much `patience`.
///
/// # Errors
/// What a side says; no table at all; tables without a key, by name.
pub fn plan(
    source: &mut dyn Session,
    target: &mut dyn Session,
    wanted: &crate::change::TableFilter,
    patience: Duration,
) -> Result<Vec<TablePlan>, VerifyError> {
    let asked = Instant::now();
    loop {
        let plans = plan_now(source, target, wanted)?;
        let is_lacking = |plan: &TablePlan| !plan.target_exists || !plan.missing_columns.is_empty();
        let left = patience.saturating_sub(asked.elapsed());
        if left.is_zero() || !plans.iter().any(is_lacking) {
            return Ok(plans);
        }
        std::thread::sleep(left.min(PAUSE));
    }
}

/// The plan with what both sides have now.
fn plan_now(
    source: &mut dyn Session,
    target: &mut dyn Session,
    wanted: &crate::change::TableFilter,
) -> Result<Vec<TablePlan>, VerifyError> {
    let mut tables = source.tables(wanted)?;
    tables.sort_by(|a, b| a.schema.name.cmp(&b.schema.name));
    let unmatched = wanted.unmatched(tables.iter().map(|table| &table.schema.name));
    if !unmatched.is_empty() {
        return Err(VerifyError(format!(
            "the source has no table that matches {}, or its user may not read it: see tables in [verify] and [source]",
            unmatched.join(", ")
        )));
    }
    if tables.is_empty() {
        return Err(VerifyError("the source has no table, or its user may not read any".into()));
    }
    let keyless: Vec<String> =
        tables.iter().filter(|t| t.schema.key.is_empty()).map(|t| t.schema.name.to_string()).collect();
    if !keyless.is_empty() {
        return Err(VerifyError(format!(
            "these tables have neither a primary key nor a unique key without nulls, so their rows can't be told apart: \
             {}: give them a key, or leave them out in [verify] tables",
            keyless.join(", ")
        )));
    }
    tables
        .iter()
        .map(|table| Ok(TablePlan::new(table, target.columns(&table.schema.name)?.as_deref())))
        .collect::<Result<_, _>>()
}

/// Cuts the tables into chunks, numbered in order, and gives each to `emit` until that returns false.
///
/// # Errors
/// What the source says.
pub fn cut(
    source: &mut dyn Session,
    plans: &[TablePlan],
    chunk_rows: usize,
    mut emit: impl FnMut(Chunk) -> bool,
) -> Result<(), VerifyError> {
    let mut number = 0;
    for (table, plan) in plans.iter().enumerate().filter(|(_, plan)| plan.comparable()) {
        let mut from = None;
        loop {
            let mut many_rows = !plan.ranges;
            let mut to = if plan.ranges { source.boundary(plan, from, chunk_rows)? } else { None };
            if let (Some(value), true) = (to, from == to) {
                // More rows than a chunk has share one value: the next value begins the next chunk.
                many_rows = true;
                to = source.boundary(plan, Some(value + 1), 0)?;
            }
            if !emit(Chunk { number, table, plan: plan.clone(), range: KeyRange { from, to }, many_rows }) {
                return Ok(());
            }
            number += 1;
            if to.is_none() {
                break;
            }
            from = to;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Column, TableSchema};

    fn table(columns: &[(&str, &str)], key: &[&str]) -> SourceTable {
        SourceTable {
            schema: TableSchema {
                name: TableName::new("shop", "orders"),
                columns: columns
                    .iter()
                    .map(|(name, ty)| Column { name: (*name).into(), ty: ty.parse().unwrap(), nullable: true })
                    .collect(),
                key: key.iter().map(|name| (*name).into()).collect(),
                since_seq: 0,
                partial: false,
            },
            rows_estimated: 0,
            ranges: true,
        }
    }

    fn target(name: &str, type_name: &str) -> TargetColumn {
        TargetColumn { name: name.into(), type_name: type_name.into(), nullable: true, ranges: type_name == "int8" }
    }

    #[test]
    fn every_column_of_either_side_is_accounted_for() {
        let source = table(&[("id", "bigint"), ("doc", "text"), ("gone", "int")], &["id"]);
        let plan =
            TablePlan::new(&source, Some(&[target("more", "text"), target("id", "int8"), target("doc", "jsonb")]));
        assert_eq!((plan.missing_columns, plan.extra_columns), (vec!["gone".to_string()], vec!["more".to_string()]));
        assert_eq!(plan.columns[1].ty, ColumnType::Json);
        assert!(plan.ranges && plan.key == [0]);
    }

    #[test]
    fn a_column_is_found_by_the_only_name_that_differs_in_case_alone() {
        let source = table(&[("OrderId", "bigint"), ("Note", "text"), ("Both", "int")], &["OrderId"]);
        let targets = ["orderid", "note", "BOTH", "both"].map(|name| target(name, "int8"));
        let plan = TablePlan::new(&source, Some(&targets));
        assert!(plan.comparable());
        assert_eq!(plan.columns.iter().map(|column| &*column.target_name).collect::<Vec<_>>(), ["orderid", "note"]);
        assert_eq!((plan.missing_columns.join(","), plan.extra_columns.join(",")), ("Both".into(), "BOTH,both".into()));
    }

    #[test]
    fn ranges_need_an_integer_on_both_sides() {
        let plan = |ty: &str, target_type: &str| {
            TablePlan::new(&table(&[("id", ty)], &["id"]), Some(&[target("id", target_type)])).ranges
        };
        assert!(plan("int", "int8"));
        assert!(!plan("bigint unsigned", "text"));
        assert!(!plan("varchar", "int8"));
        assert!(TablePlan::new(&table(&[("id", "int")], &["id"]), None).ranges, "a missing table is read in ranges");
    }

    #[test]
    fn a_table_whose_key_is_not_at_the_target_is_not_comparable() {
        let source = table(&[("a", "int"), ("b", "int")], &["a", "b"]);
        assert!(!TablePlan::new(&source, Some(&[target("a", "int8")])).comparable());
    }

    #[test]
    fn conditions_leave_no_key_out() {
        let range = |from, to| KeyRange { from, to }.condition("k", true);
        assert_eq!(range(None, None), "");
        assert_eq!(range(None, Some(5)), " WHERE (k < 5 OR k IS NULL)");
        assert_eq!(range(Some(5), Some(9)), " WHERE k >= 5 AND k < 9");
        assert_eq!(range(Some(9), None), " WHERE k >= 9");
    }
}
