//! A target table as the catalog has it, and what is made of it when it, or a column, is missing.

use super::columns::Kind;
use super::connect::{Dialect, Server, quoted};
use super::progress::{Landed, all_landed, claim, create, create_schema, landed};
use crate::change::{ColumnType, TableName, TableSchema};
use crate::target::retry::missing_column;
use crate::target::{Failure, FindSchema, TargetError, coarse_key};

/// PostgreSQL cuts longer names, silently.
const NAME_BYTES: usize = 63;

/// What the configuration says of tables.
pub(super) struct Policy {
    /// The schema, which may contain `{database}`.
    pub schema: String,
    pub create_tables: bool,
    pub zero_date_null: bool,
}

/// A column of a target table.
#[derive(Clone, Debug)]
pub(super) struct TargetColumn {
    pub name: String,
    pub kind: Kind,
    /// What its parameter is cast to.
    pub cast: String,
    pub in_key: bool,
    /// Whether two texts are never equal in it.
    exact: bool,
}

impl TargetColumn {
    /// Whether it takes two keys of the source, of this type, for one.
    fn confuses(&self, source: Option<ColumnType>) -> bool {
        match self.kind {
            Kind::Text(_) | Kind::Varchar(_) | Kind::Other => !self.exact,
            Kind::Float4 | Kind::Float8 => true, // -0 is 0
            // Of these a key has to have the usual form, in which two are never equal.
            Kind::Char(_) | Kind::Uuid | Kind::Bytea => false,
            _ => source.is_some_and(ColumnType::is_loose),
        }
    }
}

/// A target table.
#[derive(Debug)]
pub(super) struct Table {
    /// Its name at the source.
    pub name: TableName,
    /// Its name in SQL, with the schema.
    pub sql: String,
    pub columns: Vec<TargetColumn>,
    /// The source's schema, where it is known.
    pub source: Option<TableSchema>,
    /// How it looked when it was bound: see [`look_of`].
    pub look: String,
}

impl Table {
    /// The column that a field goes to: of the same name, or of the only name that differs in case alone (a table made
    /// without quotes has lower-case names).
    pub(super) fn column(&self, field: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == field).or_else(|| {
            let mut alike = (0..self.columns.len()).filter(|&c| self.columns[c].name.eq_ignore_ascii_case(field));
            alike.next().filter(|_| alike.next().is_none())
        })
    }

    /// Looks the table up, creating it where that is allowed.
    pub(super) fn bind(
        server: &mut Server,
        name: &TableName,
        policy: &Policy,
        job: &str,
        find_schema: &FindSchema,
    ) -> Result<Table, Failure> {
        let fault = |reason: String| TargetError::Table { table: name.clone(), reason };
        let source = find_schema(name, None);
        if source.as_ref().is_some_and(|schema| schema.key.is_empty()) {
            return Err(fault(
                "it has no primary key and no NOT NULL unique key at the source, and without a key no row can be found \
                 again: give it one, or leave the table out with [land] tables"
                    .into(),
            )
            .into());
        }
        let place = Place::of(name, policy)?;
        let before = landed(server, &place.sql(), &name.to_string(), job)?;
        place.refuse_landed(job, &before)?;
        let mut look = look_of(server, &place.sql())?; // before its columns: what changes in between is noticed
        let mut columns = place.columns(server)?;
        if columns.is_empty() {
            if before.holds.is_some() {
                let reason = format!(
                    "job '{job}' has landed it in {0}, and that is gone, with all that was in it: bring it back; or copy the table anew, \
                     and DELETE FROM tidegate.landed WHERE target = '{0}'",
                    place.sql()
                );
                return Err(match server.dialect {
                    Dialect::Postgres => fault(reason).into(),
                    // What another lane has just made may not be known everywhere yet.
                    Dialect::Hologres => Failure::Stale(format!("table {name}: {reason}")),
                });
            }
            if !policy.create_tables {
                return Err(fault(format!(
                    "the target has no table {}, and create_tables is false: create it there",
                    place.sql()
                ))
                .into());
            }
            let Some(schema) = &source else {
                return Err(fault(format!(
                    "the target has no table {} and the source's schema is not known: create it there",
                    place.sql()
                ))
                .into());
            };
            create_schema(server, &place.schema)?;
            create(server, &place.create_sql(schema, server.dialect)?, &format!("table {}", place.sql()))?;
        }
        if look.is_empty() {
            // It has been made since, by this lane or another.
            look = look_of(server, &place.sql())?;
            columns = place.columns(server)?;
        }
        let mut key: Vec<&str> = columns.iter().filter(|c| c.in_key).map(|c| c.name.as_str()).collect();
        if key.is_empty() {
            return Err(fault(format!(
                "the target's table {} has no primary key: add one with the columns of the source's key",
                place.sql()
            ))
            .into());
        }
        if let Some(schema) = &source {
            let mut wanted: Vec<&str> = schema.key.iter().map(String::as_str).collect();
            key.sort_unstable_by_key(|name| name.to_lowercase());
            wanted.sort_unstable_by_key(|name| name.to_lowercase());
            if key.len() != wanted.len() || !key.iter().zip(&wanted).all(|(a, b)| a.eq_ignore_ascii_case(b)) {
                return Err(fault(format!(
                    "the primary key of the target's table {} is ({}), the source's key is ({}): make them the same",
                    place.sql(),
                    key.join(", "),
                    wanted.join(", ")
                ))
                .into());
            }
        }
        let table = Table { name: name.clone(), sql: place.sql(), columns, source, look };
        table.refuse_coarse_key().map_err(fault)?;
        claim(server, &place.sql(), &name.to_string(), job)?;
        // Another may have been faster.
        place.refuse_landed(job, &landed(server, &place.sql(), &name.to_string(), job)?)?;
        Ok(table)
    }

    /// That two keys of the source are two at the target.
    fn refuse_coarse_key(&self) -> Result<(), String> {
        let ty_of = |column: &TargetColumn| self.source.as_ref().and_then(|schema| schema.type_of(&column.name));
        match self.columns.iter().find(|column| column.in_key && column.confuses(ty_of(column))) {
            None => Ok(()),
            Some(TargetColumn { name, cast, .. }) => Err(coarse_key(&self.sql, name, cast)),
        }
    }
}

/// Names and types of the columns of the table that is called so in SQL, as one text; empty if there is no such table, and on
/// Hologres, where nothing keeps them from changing.
pub(super) fn look_of(server: &mut Server, sql: &str) -> Result<String, Failure> {
    if server.dialect == Dialect::Hologres {
        return Ok(String::new());
    }
    let look = "SELECT coalesce(pg_catalog.string_agg(a.attnum::text || ' ' || a.atttypid::text || ' ' || a.atttypmod::text || ' ' \
                || a.attcollation::text || ' ' || a.attname::text, ',' ORDER BY a.attnum), '') FROM pg_catalog.pg_attribute a \
                WHERE a.attrelid = pg_catalog.to_regclass($1)::oid AND a.attnum > 0 AND NOT a.attisdropped";
    let look = match &server.look {
        Some(look) => look.clone(),
        None => server.look.insert(server.client.prepare(look)?).clone(),
    };
    Ok(server.client.query_one(&look, &[&sql])?.get(0))
}

/// Adds a column that the source has and the target lacks.
pub(super) fn add_column(
    server: &mut Server,
    table: &TableName,
    column: &str,
    schema: &TableSchema,
    policy: &Policy,
) -> Result<(), Failure> {
    let Some(found) = schema.column(column) else {
        return Err(missing_column(table.clone(), column).into());
    };
    let place = Place::of(table, policy)?;
    let definition = place.definition(&found.name, found.ty.postgres(false), server.dialect)?;
    tracing::info!("table {table}: adding column {column} at the target");
    let sql = format!("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {definition}", place.sql());
    create(server, &sql, &format!("column {column} of table {}", place.sql()))
}

/// Refuses to land in other tables than before.
pub(super) fn refuse_moved(server: &mut Server, job: &str, policy: &Policy) -> Result<(), Failure> {
    for (target, source) in all_landed(server, job)? {
        // A name may have dots of its own.
        let names = source.match_indices('.').map(|(dot, _)| TableName::new(&source[..dot], &source[dot + 1..]));
        let names: Vec<TableName> = names.collect();
        let places: Vec<Place> = names.iter().filter_map(|name| Place::of(name, policy).ok()).collect();
        if let Some(place) = places.first().filter(|_| !places.iter().any(|place| place.sql() == target)) {
            place.refuse_landed(job, &Landed { holds: None, elsewhere: Some(target) })?;
        }
    }
    Ok(())
}

/// Where a source table lands.
struct Place<'a> {
    source: &'a TableName,
    schema: String,
}

impl<'a> Place<'a> {
    fn of(source: &'a TableName, policy: &Policy) -> Result<Place<'a>, TargetError> {
        let place = Place { source, schema: policy.schema.replace("{database}", &source.database) };
        for name in [&place.schema, &source.table] {
            place.check_name("name", name)?;
        }
        Ok(place)
    }

    fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.source.table))
    }

    fn fault(&self, reason: String) -> TargetError {
        TargetError::Table { table: self.source.clone(), reason }
    }

    /// That the target's table is this source table's, and this job's, and the only one of both.
    fn refuse_landed(&self, job: &str, landed: &Landed) -> Result<(), TargetError> {
        let target = self.sql();
        let Landed { holds, elsewhere } = landed;
        let (source, owner) =
            holds.as_ref().map_or((self.source.to_string(), job), |(source, job)| (source.clone(), job));
        if source != self.source.to_string() {
            return Err(self.fault(format!(
                "the target's table {target} holds {source}, and two tables are not mixed: land one of them in another schema, \
                 or give the job another name and set schema = \"{{database}}\" in [target]; if it is not so any more, delete its row from tidegate.landed"
            )));
        }
        if let Some(elsewhere) = elsewhere {
            return Err(self.fault(format!(
                "job '{job}' has landed it in {elsewhere}, and what it has done is not in {target}: set [target] schema as it was, or \
                 give the job another name; if the table was moved, UPDATE tidegate.landed SET target = '{target}' WHERE target = \
                 '{elsewhere}'; if [land] tables leaves it out now, DELETE FROM tidegate.landed WHERE target = '{elsewhere}'"
            )));
        }
        if owner != job {
            return Err(self.fault(format!(
                "the target's table {target} is landed by job '{owner}', and each of two jobs would write older rows over the other's \
                 newer ones: land it in another schema; or, if '{owner}' is not to run any more, UPDATE tidegate.landed SET job = \
                 '{job}' WHERE job = '{owner}'"
            )));
        }
        Ok(())
    }

    fn check_name(&self, what: &str, name: &str) -> Result<(), TargetError> {
        match name.len() {
            0..=NAME_BYTES => Ok(()),
            bytes => Err(self.fault(format!(
                "the {what} {name} has {bytes} bytes and the target's names have at most {NAME_BYTES}: leave the table out"
            ))),
        }
    }

    /// The columns in the catalog; none if there is no such table.
    fn columns(&self, server: &mut Server) -> Result<Vec<TargetColumn>, Failure> {
        // Hologres has no collation that takes two texts for one, and its catalog does not know of any.
        let (deterministic, collation) = match server.dialect {
            Dialect::Postgres => (
                // Before version 12 there is no such column, and no such collation.
                "coalesce((pg_catalog.to_jsonb(co) ->> 'collisdeterministic')::bool, true)",
                "LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation",
            ),
            Dialect::Hologres => ("true", ""),
        };
        // A domain counts as the type below it. Modifier -1 prints a type without its length: a cast to varchar(3) would
        // cut, an assignment to it refuses.
        let sql = format!(
            "SELECT a.attname::text, base.typname::text, \
               CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END, \
               pg_catalog.format_type(base.oid, -1), \
               pg_catalog.format_type(base.oid, CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END), \
               i.indexrelid IS NOT NULL, bn.nspname = 'pg_catalog', base.typtype = 'e', {deterministic} \
             FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
             JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
             JOIN pg_catalog.pg_type base ON base.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END \
             JOIN pg_catalog.pg_namespace bn ON bn.oid = base.typnamespace \
             LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY(i.indkey) \
             {collation} \
             WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'f') AND a.attnum > 0 \
               AND NOT a.attisdropped \
             ORDER BY a.attnum"
        );
        let rows = server.client.query(&sql, &[&self.schema, &self.source.table])?;
        let column = |row: &postgres::Row| {
            let (name, type_name, modifier): (String, String, i32) = (row.get(0), row.get(1), row.get(2));
            let own: bool = row.get(6);
            let kind = if own { Kind::of(&type_name, modifier) } else { Kind::Other };
            // Hologres takes the fast path only where the cast is exactly the column's type. Lengths are checked before.
            let cast = if server.dialect == Dialect::Hologres { row.get(4) } else { row.get(3) };
            let (listed, deterministic): (bool, bool) = (row.get(7), row.get(8));
            let exact = deterministic && (listed || !matches!(kind, Kind::Other));
            TargetColumn { name, kind, cast, in_key: row.get(5), exact }
        };
        Ok(rows.iter().map(column).collect())
    }

    fn definition(&self, name: &str, ty: String, dialect: Dialect) -> Result<String, TargetError> {
        self.check_name("column", name)?;
        if dialect == Dialect::Hologres && name.starts_with("hg_") {
            return Err(self
                .fault(format!("the column {name} begins with hg_, which Hologres refuses: rename it at the source")));
        }
        Ok(format!("{} {ty}", quoted(name)))
    }

    fn create_sql(&self, schema: &TableSchema, dialect: Dialect) -> Result<String, TargetError> {
        let in_key = |name: &str| schema.key.iter().any(|key| key == name);
        let mut lines = Vec::new();
        for column in schema.columns.iter().filter(|column| column.is_known()) {
            let ty = column.ty.postgres(in_key(&column.name));
            let line = self.definition(&column.name, ty, dialect)?;
            lines.push(if in_key(&column.name) { format!("{line} NOT NULL") } else { line });
        }
        let key: Vec<String> = schema.key.iter().map(|name| quoted(name)).collect();
        lines.push(format!("PRIMARY KEY ({})", key.join(", ")));
        let properties = match dialect {
            Dialect::Postgres => String::new(),
            Dialect::Hologres => {
                let plain = |n: &str| n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
                let columns: Vec<String> =
                    schema.key.iter().map(|name| if plain(name) { name.clone() } else { quoted(name) }).collect();
                let columns = columns.join(",").replace('\'', "''");
                format!(" WITH (orientation = 'column', distribution_key = '{columns}')")
            }
        };
        Ok(format!("CREATE TABLE IF NOT EXISTS {} ({}){properties}", self.sql(), lines.join(", ")))
    }
}
