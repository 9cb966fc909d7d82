//! SQL that makes the target's row of a key what the source's row was when it was compared.
//!
//! Every value is a quoted literal in the form that the target reads for its column: both PostgreSQL and SQLite convert
//! it to the column's type, exactly, and so do their comparisons with a key.

use super::value::hex;
use super::{Row, TablePlan, Value, calendar};
use crate::change::{ColumnType, Form, TableName};

/// What SQL a target speaks, and how it calls its tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL and Hologres, with the schema of the tables, which may contain `{database}`.
    Postgres {
        /// The schema.
        schema: String,
    },
    /// SQLite.
    Sqlite,
}

/// A name in double quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Dialect {
    /// The quoted name of the table.
    pub fn table(&self, name: &TableName) -> String {
        match self {
            Dialect::Postgres { schema } => {
                format!("{}.{}", quoted(&schema.replace("{database}", &name.database)), quoted(&name.table))
            }
            Dialect::Sqlite => quoted(&name.table),
        }
    }

    /// The statements for a key: `source` is what its row should be, `targets` are the rows that it has.
    pub fn mend(&self, plan: &TablePlan, source: Option<&Row>, targets: &[&Row]) -> String {
        let mut deletes: Vec<String> = targets.iter().map(|row| self.delete(plan, row)).collect();
        deletes.dedup();
        let Some(source) = source else { return deletes.join("\n") };
        let own = self.delete(plan, source);
        if let Some(column) = source.values().position(|value| matches!(value, Value::NoText(_))) {
            return self.not_mended(plan, source, column);
        }
        // An update meets one row, and only if that spells the key as the source does.
        if targets.len() == 1 && deletes[0] == own && plan.key.len() < plan.columns.len() {
            return self.update(plan, source);
        }
        // What has come meanwhile, or by a repair before this, is no obstacle.
        if !deletes.contains(&own) {
            deletes.push(own);
        }
        format!("{}\n{}", deletes.join("\n"), self.insert(plan, source))
    }

    /// A remark, in the place of statements: nothing that the target could hold is equal to the source's value.
    fn not_mended(&self, plan: &TablePlan, row: &Row, column: usize) -> String {
        let key = plan.key.iter().map(|&key| row.get(key).show_in(plan.columns[key].ty).unwrap_or_default());
        let remark = format!(
            "-- table {}, key {}, column {}: the source's value {} is no text in its character set: mend it there",
            plan.name,
            key.collect::<Vec<_>>().join(", "),
            plan.columns[column].name,
            row.get(column).show().unwrap_or_default(),
        );
        remark.replace(['\n', '\r'], " ")
    }

    fn delete(&self, plan: &TablePlan, row: &Row) -> String {
        format!("DELETE FROM {} WHERE {};", self.table(&plan.name), self.is_row(plan, row))
    }

    /// The condition that is true of the rows with this row's key.
    fn is_row(&self, plan: &TablePlan, row: &Row) -> String {
        let part = |&column: &usize| {
            let name = quoted(&plan.columns[column].target_name);
            match self.literal(plan.columns[column].ty, row.get(column)) {
                null if null == "NULL" => format!("{name} IS NULL"),
                literal => format!("{name} = {literal}"),
            }
        };
        plan.key.iter().map(part).collect::<Vec<_>>().join(" AND ")
    }

    fn update(&self, plan: &TablePlan, row: &Row) -> String {
        let sets = plan.columns.iter().zip(row.values()).enumerate().filter(|(column, _)| !plan.key.contains(column));
        let sets: Vec<String> = sets
            .map(|(_, (column, value))| format!("{} = {}", quoted(&column.target_name), self.literal(column.ty, value)))
            .collect();
        format!("UPDATE {} SET {} WHERE {};", self.table(&plan.name), sets.join(", "), self.is_row(plan, row))
    }

    fn insert(&self, plan: &TablePlan, row: &Row) -> String {
        let names: Vec<String> = plan.columns.iter().map(|column| quoted(&column.target_name)).collect();
        let values: Vec<String> =
            plan.columns.iter().zip(row.values()).map(|(column, value)| self.literal(column.ty, value)).collect();
        format!("INSERT INTO {} ({}) VALUES ({});", self.table(&plan.name), names.join(", "), values.join(", "))
    }

    fn literal(&self, ty: ColumnType, value: Value) -> String {
        let dated = matches!(ty.form(), Form::Date | Form::DateTime | Form::Instant);
        match (self, value) {
            (_, Value::Null) => "NULL".into(),
            (Dialect::Postgres { .. }, Value::Bytes(bytes)) => format!("'{}'", hex(bytes)),
            (Dialect::Sqlite, Value::Bytes(bytes)) => format!("X'{}'", &hex(bytes)[2..]),
            // PostgreSQL has no such day; that the policy writes NULL is why verify may run here at all.
            (Dialect::Postgres { .. }, Value::Text(text)) if dated && calendar::has_date_form(text) => "NULL".into(),
            // A text with a NUL would end there; SQLite alone can have one.
            (Dialect::Sqlite, Value::Text(text)) if text.contains(&0) => {
                format!("CAST(X'{}' AS TEXT)", &hex(text)[2..])
            }
            (_, value) => format!("'{}'", value.show_in(ty).unwrap_or_default().replace('\'', "''")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::chunks::PlanColumn;

    fn plan() -> TablePlan {
        let column = |name: &str, ty: &str| PlanColumn {
            name: name.into(),
            target_name: name.into(),
            ty: ty.parse().unwrap(),
            target_type: String::new(),
            target_text: false,
            target_nullable: true,
        };
        TablePlan {
            name: TableName::new("shop", "or\"ders"),
            columns: vec![column("id", "int"), column("say", "text"), column("raw", "blob"), column("day", "date")],
            key: vec![0],
            target_exists: true,
            missing_columns: Vec::new(),
            extra_columns: Vec::new(),
            rows_estimated: 0,
            ranges: true,
        }
    }

    #[test]
    fn names_and_values_are_quoted_for_their_server() {
        let row = Row::new(&[Value::Int(-7), Value::text("it's"), Value::Bytes(b"\0'"), Value::text("0000-00-00")]);
        let postgres = Dialect::Postgres { schema: "ods_{database}".into() };
        assert_eq!(
            postgres.mend(&plan(), Some(&row), &[&row]),
            "UPDATE \"ods_shop\".\"or\"\"ders\" SET \"say\" = 'it''s', \"raw\" = '\\x0027', \"day\" = NULL WHERE \"id\" = '-7';"
        );
        assert_eq!(
            postgres.mend(&plan(), Some(&row), &[]),
            "DELETE FROM \"ods_shop\".\"or\"\"ders\" WHERE \"id\" = '-7';\n\
             INSERT INTO \"ods_shop\".\"or\"\"ders\" (\"id\", \"say\", \"raw\", \"day\") VALUES ('-7', 'it''s', '\\x0027', NULL);"
        );
        assert_eq!(Dialect::Sqlite.mend(&plan(), None, &[&row]), "DELETE FROM \"or\"\"ders\" WHERE \"id\" = '-7';");
        let twice = Dialect::Sqlite.mend(&plan(), Some(&row), &[&row, &row]);
        let odd = Row::new(&[Value::Int(7), Value::NoText(b"\x85\x40"), Value::Null, Value::Null]);
        let remark = Dialect::Sqlite.mend(&plan(), Some(&odd), &[]);
        assert!(
            remark.starts_with("-- table shop.or\"ders, key 7, column say: the source's value \\x8540"),
            "{remark}"
        );
        assert!(twice.starts_with("DELETE FROM") && twice.contains("X'0027', '0000-00-00')"), "{twice}");
    }
}
