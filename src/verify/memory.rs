//! A side that is a set of tables in memory: for tests, and for comparing a real side with a model of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Keys, Row, RowSink, Session, Side, SourceTable, TablePlan, TargetColumn, VerifyError};
use crate::change::{Form, TableFilter, TableName, TableSchema};

/// Tables in memory. As a source and as a target it has the same columns.
#[derive(Clone, Debug, Default)]
pub struct MemorySide {
    name: String,
    tables: Arc<BTreeMap<TableName, (TableSchema, Vec<Row>)>>,
}

impl MemorySide {
    /// A side without tables.
    pub fn new(name: impl Into<String>) -> Self {
        MemorySide { name: name.into(), tables: Arc::default() }
    }

    /// Adds a table; a row has the values of the schema's columns, in their order.
    #[must_use]
    pub fn table(mut self, schema: TableSchema, rows: Vec<Row>) -> Self {
        Arc::make_mut(&mut self.tables).insert(schema.name.clone(), (schema, rows));
        self
    }

    fn find(&self, table: &TableName) -> Result<&(TableSchema, Vec<Row>), VerifyError> {
        self.tables.get(table).ok_or_else(|| VerifyError(format!("{} has no table {table}", self.name)))
    }
}

impl Side for MemorySide {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn connect(&self) -> Result<Box<dyn Session>, VerifyError> {
        Ok(Box::new(self.clone()))
    }
}

fn leading_is_integer(schema: &TableSchema) -> bool {
    let leading = schema.key.first().and_then(|name| schema.column(name));
    leading.is_some_and(|column| column.ty.form() == Form::Integer)
}

impl Session for MemorySide {
    fn tables(&mut self, wanted: &TableFilter) -> Result<Vec<SourceTable>, VerifyError> {
        let tables = self.tables.values().filter(|(schema, _)| wanted.wants(&schema.name.database, &schema.name.table));
        Ok(tables
            .map(|(schema, rows)| SourceTable {
                schema: schema.clone(),
                rows_estimated: rows.len() as u64,
                ranges: leading_is_integer(schema),
            })
            .collect())
    }

    fn columns(&mut self, table: &TableName) -> Result<Option<Vec<TargetColumn>>, VerifyError> {
        let columns = |(schema, _): &(TableSchema, Vec<Row>)| {
            let ranges = leading_is_integer(schema);
            schema
                .columns
                .iter()
                .map(|column| TargetColumn {
                    name: column.name.clone(),
                    type_name: column.ty.to_string(),
                    nullable: column.nullable,
                    ranges,
                })
                .collect()
        };
        Ok(self.tables.get(table).map(columns))
    }

    fn boundary(&mut self, plan: &TablePlan, from: Option<i128>, rows: usize) -> Result<Option<i128>, VerifyError> {
        let (schema, all) = self.find(&plan.name)?;
        let leading = schema.columns.iter().position(|column| column.name == plan.leading().name);
        let mut keys: Vec<i128> = leading
            .map(|leading| all.iter().filter_map(|row| row.get(leading).integer()).collect())
            .unwrap_or_default();
        keys.retain(|key| from.is_none_or(|from| *key >= from));
        keys.sort_unstable();
        Ok(keys.get(rows).copied())
    }

    fn read(&mut self, plan: &TablePlan, keys: &Keys, sink: &mut dyn RowSink) -> Result<(), VerifyError> {
        let (schema, rows) = self.find(&plan.name)?;
        let place = |name: &str| {
            schema.columns.iter().position(|column| column.name == name).ok_or_else(|| {
                VerifyError(format!("{}: table {}, column {name}: there is no such column", self.name, plan.name))
            })
        };
        let places: Vec<usize> = plan.columns.iter().map(|column| place(&column.name)).collect::<Result<_, _>>()?;
        let leading = places[plan.key[0]];
        for row in rows {
            // As SQL does it: what is no number is in the first range.
            let within = match (keys, row.get(leading).integer()) {
                (Keys::Range(range), Some(key)) => range.contains(key),
                (Keys::Range(range), None) => range.from.is_none(),
                (Keys::Leading(keys), key) => key.is_some_and(|key| keys.contains(&key)),
            };
            if within {
                places.iter().for_each(|&place| sink.value(row.get(place)));
                sink.end()?;
            }
        }
        Ok(())
    }
}
