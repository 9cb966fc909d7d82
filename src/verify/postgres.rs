//! PostgreSQL and Hologres as a target.
//!
//! Values are read in the binary format and decoded here. A column of a type that has no decoder below is cast to text by
//! the server. The schema of a table is part of its name in every statement, and a statement is a plain `SELECT`:
//! Hologres has no cursors that would be worth anything, and refuses much else.

use std::error::Error as _;

use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::{FromSql, Type};

use super::repair::quoted;
use super::{
    Dialect, Keys, RowSink, Rules, Session, Side, SourceTable, TablePlan, TargetColumn, Value, VerifyError, calendar,
};
use crate::change::{TableFilter, TableName};
use crate::config::{PostgresConfig, ZeroDates};
use crate::reach::{Unreached, reach_postgres};

/// A server that speaks PostgreSQL's protocol.
#[derive(Clone, Debug)]
pub struct PostgresSide {
    config: postgres::Config,
    name: String,
    schema: String,
    zero_dates_are_null: bool,
}

impl PostgresSide {
    /// The server of the configuration.
    ///
    /// # Errors
    /// The URL is none.
    pub fn new(config: &PostgresConfig) -> Result<Self, VerifyError> {
        let (mut connect, place) = config.options().map_err(VerifyError)?;
        let seconds = std::time::Duration::from_secs;
        connect.connect_timeout(seconds(10)).keepalives_idle(seconds(60)).application_name("tidegate verify");
        Ok(PostgresSide {
            config: connect,
            name: format!("target postgres at {place}"),
            schema: config.schema.clone(),
            zero_dates_are_null: config.zero_dates == ZeroDates::Null,
        })
    }

    fn open(&self) -> Result<PostgresSession, VerifyError> {
        let mut client = reach_postgres(self.config.clone()).map_err(|unreached| {
            let reason = match unreached {
                Unreached::Silent(reason) => reason,
                Unreached::Failed(error) if error.as_db_error().is_some() => {
                    format!("{}: correct the url or password_file", said(&error))
                }
                Unreached::Failed(error) => {
                    format!("{}: is the server running, host and port right, the way open?", said(&error))
                }
            };
            VerifyError(format!("{}: {reason}", self.name))
        })?;
        let settings = "SET statement_timeout = 0; SET TimeZone = 'UTC'";
        let set = client.batch_execute(settings).and_then(|()| is_hologres(&mut client));
        let hologres = set.map_err(|error| VerifyError(format!("{}: {}", self.name, said(&error))))?;
        Ok(PostgresSession {
            client,
            hologres,
            name: self.name.clone(),
            dialect: Dialect::Postgres { schema: self.schema.clone() },
            schema: self.schema.clone(),
        })
    }
}

fn is_hologres(client: &mut Client) -> Result<bool, postgres::Error> {
    match client.simple_query("SELECT hg_version()") {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(&postgres::error::SqlState::UNDEFINED_FUNCTION) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the server said, which the client's error hides behind "db error".
fn said(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(server) => format!("{} ({})", server.message(), server.code().code()),
        None => match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

impl Side for PostgresSide {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn connect(&self) -> Result<Box<dyn Session>, VerifyError> {
        Ok(Box::new(self.open()?))
    }

    fn rules(&self) -> Result<Rules, VerifyError> {
        let hologres = self.open()?.hologres;
        Ok(Rules { zero_dates_are_null: self.zero_dates_are_null, instants_in_ms: hologres })
    }

    fn dialect(&self) -> Option<Dialect> {
        Some(Dialect::Postgres { schema: self.schema.clone() })
    }
}

struct PostgresSession {
    client: Client,
    hologres: bool,
    name: String,
    schema: String,
    dialect: Dialect,
}

/// How values of a column are decoded.
#[derive(Clone, Copy)]
enum Decoder {
    Bool,
    Integer,
    Float,
    Numeric,
    Text,
    Jsonb,
    Bytes,
    Date,
    DateTime,
    Instant,
    Time,
    /// Cast to text by the server.
    Cast,
}

impl Decoder {
    fn of(type_name: &str) -> Decoder {
        match type_name {
            "bool" => Decoder::Bool,
            "int2" | "int4" | "int8" => Decoder::Integer,
            "float4" | "float8" => Decoder::Float,
            "numeric" => Decoder::Numeric,
            "text" | "varchar" | "bpchar" | "json" => Decoder::Text,
            "jsonb" => Decoder::Jsonb,
            "bytea" => Decoder::Bytes,
            "date" => Decoder::Date,
            "timestamp" => Decoder::DateTime,
            "timestamptz" => Decoder::Instant,
            "time" => Decoder::Time,
            _ => Decoder::Cast,
        }
    }

    fn expression(self, column: &str) -> String {
        match self {
            Decoder::Cast => format!("{column}::text"),
            _ => column.to_string(),
        }
    }

    /// Gives one value of so many bytes to the sink; false if they are not what the type's binary format has.
    fn give(self, bytes: &[u8], scratch: &mut String, sink: &mut dyn RowSink) -> bool {
        let value = match (self, bytes.len()) {
            (Decoder::Bool, 1) => Value::Int(i64::from(bytes[0] != 0)),
            (Decoder::Integer, 2) => Value::Int(i64::from(i16::from_be_bytes([bytes[0], bytes[1]]))),
            (Decoder::Integer, 4) => Value::Int(i64::from(i32::from_be_bytes(four(bytes)))),
            (Decoder::Integer, 8) => Value::Int(i64::from_be_bytes(eight(bytes))),
            (Decoder::Float, 4) => Value::Float(f32::from_be_bytes(four(bytes))),
            (Decoder::Float, 8) => Value::Double(f64::from_be_bytes(eight(bytes))),
            (Decoder::Numeric, _) => match numeric(bytes, scratch) {
                Some(()) => Value::text(scratch),
                None => return false,
            },
            (Decoder::Text | Decoder::Cast, _) => Value::Text(bytes),
            (Decoder::Jsonb, 1..) if bytes[0] == 1 => Value::Text(&bytes[1..]),
            (Decoder::Bytes, _) => Value::Bytes(bytes),
            (Decoder::Date, 4) => match i32::from_be_bytes(four(bytes)) {
                i32::MAX => Value::text("infinity"),
                i32::MIN => Value::text("-infinity"),
                days => Value::Date(days + DAYS_TO_2000),
            },
            (Decoder::DateTime | Decoder::Instant, 8) => match (i64::from_be_bytes(eight(bytes)), self) {
                (i64::MAX, _) => Value::text("infinity"),
                (i64::MIN, _) => Value::text("-infinity"),
                (us, Decoder::DateTime) => Value::DateTime(us + i64::from(DAYS_TO_2000) * calendar::DAY_US),
                (us, _) => Value::Instant(us + i64::from(DAYS_TO_2000) * calendar::DAY_US),
            },
            (Decoder::Time, 8) => Value::Time(i64::from_be_bytes(eight(bytes))),
            _ => return false,
        };
        sink.value(value);
        true
    }
}

/// From 1970 to 2000, where PostgreSQL begins to count.
const DAYS_TO_2000: i32 = 10_957;

fn four(bytes: &[u8]) -> [u8; 4] {
    bytes.try_into().expect("the length has been looked at")
}

fn eight(bytes: &[u8]) -> [u8; 8] {
    bytes.try_into().expect("the length has been looked at")
}

/// Writes a binary `numeric` as text: a count of digits to the base 10,000, the power of the first, sign, scale, digits.
fn numeric(bytes: &[u8], out: &mut String) -> Option<()> {
    use std::fmt::Write;
    let word = |index: usize| Some(u16::from_be_bytes([*bytes.get(index * 2)?, *bytes.get(index * 2 + 1)?]));
    let (count, weight, sign, scale) = (word(0)?, word(1)? as i16, word(2)?, usize::from(word(3)?));
    if bytes.len() != 8 + 2 * usize::from(count) {
        return None;
    }
    out.clear();
    match sign {
        0x0000 => {}
        0x4000 => out.push('-'),
        0xc000 => {
            out.push_str("NaN");
            return Some(());
        }
        0xd000 => {
            out.push_str("Infinity");
            return Some(());
        }
        0xf000 => {
            out.push_str("-Infinity");
            return Some(());
        }
        _ => return None,
    }
    let digit = |power: i32| -> Option<u16> {
        let index = i32::from(weight) - power;
        if (0..i32::from(count)).contains(&index) { word(4 + index as usize) } else { Some(0) }
    };
    if weight < 0 {
        out.push('0');
    }
    for power in (0..=i32::from(weight)).rev() {
        let width = if power == i32::from(weight) { 1 } else { 4 };
        write!(out, "{:0width$}", digit(power)?).ok()?;
    }
    if scale > 0 {
        out.push('.');
        let end = out.len() + scale;
        let mut power = -1;
        while out.len() < end {
            write!(out, "{:04}", digit(power)?).ok()?;
            power -= 1;
        }
        out.truncate(end);
    }
    Some(())
}

/// A value as it came, whatever its type.
struct Wire<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Wire<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Wire(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl PostgresSession {
    fn error(&self, table: &TableName, error: &postgres::Error) -> VerifyError {
        VerifyError(format!("{}: table {table}: {}", self.name, said(error)))
    }
}

impl Session for PostgresSession {
    fn tables(&mut self, _: &TableFilter) -> Result<Vec<SourceTable>, VerifyError> {
        Err(VerifyError(format!("{}: verify reads PostgreSQL as a target only", self.name)))
    }

    fn columns(&mut self, table: &TableName) -> Result<Option<Vec<TargetColumn>>, VerifyError> {
        let schema = self.schema.replace("{database}", &table.database);
        let sql = "SELECT a.attname::text, t.typname::text, a.attnotnull, EXISTS ( \
                       SELECT 1 FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum) \
                   FROM pg_catalog.pg_class c \
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                   JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
                   JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
                   WHERE n.nspname = $1::text AND c.relname = $2::text AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
                   ORDER BY a.attnum";
        let rows = self.client.query(sql, &[&schema, &table.table]).map_err(|error| self.error(table, &error))?;
        if rows.is_empty() {
            return Ok(None);
        }
        let column = |row: &postgres::Row| {
            let type_name: String = row.get(1);
            // Hologres cuts a table into sorted segments, index or not.
            let ranges = matches!(type_name.as_str(), "int2" | "int4" | "int8") && (self.hologres || row.get(3));
            TargetColumn { name: row.get(0), nullable: !row.get::<_, bool>(2), type_name, ranges }
        };
        Ok(Some(rows.iter().map(column).collect()))
    }

    fn boundary(&mut self, plan: &TablePlan, _: Option<i128>, _: usize) -> Result<Option<i128>, VerifyError> {
        Err(VerifyError(format!("{}: table {}: verify reads PostgreSQL as a target only", self.name, plan.name)))
    }

    fn read(&mut self, plan: &TablePlan, keys: &Keys, sink: &mut dyn RowSink) -> Result<(), VerifyError> {
        let decoders: Vec<Decoder> = plan.columns.iter().map(|column| Decoder::of(&column.target_type)).collect();
        let expressions: Vec<String> = plan
            .columns
            .iter()
            .zip(&decoders)
            .map(|(column, decoder)| decoder.expression(&quoted(&column.target_name)))
            .collect();
        let leading = plan.leading();
        let sql = format!(
            "SELECT {} FROM {}{}",
            expressions.join(", "),
            self.dialect.table(&plan.name),
            keys.condition(&quoted(&leading.target_name), leading.target_nullable)
        );
        let (name, table) = (self.name.clone(), &plan.name);
        let failed = |error: postgres::Error| VerifyError(format!("{name}: table {table}: {}", said(&error)));
        let mut rows = self.client.query_raw(&sql, std::iter::empty::<&i32>()).map_err(failed)?;
        let mut scratch = String::new();
        while let Some(row) = rows.next().map_err(failed)? {
            for (index, decoder) in decoders.iter().enumerate() {
                let value: Option<Wire> = row.try_get(index).map_err(failed)?;
                match value {
                    None => sink.value(Value::Null),
                    Some(Wire(bytes)) => {
                        if !decoder.give(bytes, &mut scratch, sink) {
                            let column = &plan.columns[index];
                            return Err(VerifyError(format!(
                                "{name}: table {table}, column {}: {} bytes are no {}",
                                column.target_name,
                                bytes.len(),
                                column.target_type
                            )));
                        }
                    }
                }
            }
            sink.end()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: &[u16]) -> Option<String> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let mut out = String::new();
        numeric(&bytes, &mut out).map(|()| out)
    }

    #[test]
    fn binary_numerics_become_their_text() {
        assert_eq!(text(&[0, 0, 0, 2]).unwrap(), "0.00");
        assert_eq!(text(&[2, 0, 0x4000, 2, 12, 5000]).unwrap(), "-12.50");
        assert_eq!(text(&[1, 1, 0, 0, 3]).unwrap(), "30000");
        assert_eq!(text(&[1, -1i16 as u16, 0, 6, 7]).unwrap(), "0.000700");
        assert_eq!(text(&[1, -2i16 as u16, 0, 6, 7]).unwrap(), "0.000000");
        assert_eq!(text(&[5, 4, 0, 0, 1844, 6744, 737, 955, 1615]).unwrap(), "18446744073709551615");
        assert_eq!(text(&[0, 0, 0xc000, 0]).unwrap(), "NaN");
        assert_eq!(text(&[3, 0, 0, 0, 1]), None, "digits are missing");
    }
}
