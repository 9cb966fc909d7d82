//! The one table of types: for each MySQL type its form as text in JSON, its type at the target, and so what verify
//! compares. `publish`, `land` and `verify` all read it; nothing else in the code decides about a type.
//!
//! The rule behind every row: text keeps every digit, and what a target can't hold is an error, never a near value.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A column's type at the source. Its text form is MySQL's `COLUMN_TYPE` without display widths, character sets and enum
/// members: `bigint unsigned`, `decimal(10,2)`, `datetime(6)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ColumnType {
    /// TINYINT, SMALLINT, MEDIUMINT, INT or BIGINT of so many bytes (1, 2, 3, 4, 8).
    Integer {
        /// Width in bytes.
        bytes: u8,
        /// Whether it is UNSIGNED.
        unsigned: bool,
    },
    /// FLOAT, four bytes.
    Float,
    /// DOUBLE, eight bytes.
    Double,
    /// DECIMAL. Precision 0: the source does not say how many digits its values have.
    Decimal {
        /// Digits in all, up to 65.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// BIT of so many bits, up to 64.
    Bit(u8),
    /// YEAR.
    Year,
    /// DATE.
    Date,
    /// TIME with so many digits of a second, up to 6.
    Time(u8),
    /// DATETIME with so many digits of a second.
    DateTime(u8),
    /// TIMESTAMP with so many digits of a second: an instant.
    Timestamp(u8),
    /// CHAR: blanks at the end of a value are not kept.
    Char,
    /// VARCHAR.
    Varchar,
    /// TINYTEXT to LONGTEXT.
    Text,
    /// BINARY of so many bytes, up to which values are filled with zeroes. 0: the source does not say how many.
    Binary(u8),
    /// VARBINARY.
    Varbinary,
    /// TINYBLOB to LONGBLOB, and anything else that is bytes (VECTOR).
    Blob,
    /// JSON.
    Json,
    /// ENUM.
    Enum,
    /// SET.
    Set,
    /// GEOMETRY and its kinds, as the bytes that MySQL stores (SRID and WKB).
    Geometry,
    /// Not known yet: values tell the type (DTS), and none but NULL has come. A target has no column for it.
    Unknown,
}

/// How a value of a type is written in a row's JSON, and with it how two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A JSON number without fraction, exact up to 64 bits, signed or not.
    Integer,
    /// A JSON number, the shortest text that reads back as the same `f32`.
    Float,
    /// A JSON number, the shortest text that reads back as the same `f64`.
    Double,
    /// A JSON string of digits with exactly the column's scale: `"-12.50"`.
    Decimal,
    /// A JSON string.
    Text,
    /// A JSON string, base64 (standard alphabet, padded).
    Bytes,
    /// The JSON text itself, nested.
    Json,
    /// A JSON string `YYYY-MM-DD`.
    Date,
    /// A JSON string `YYYY-MM-DD HH:MM:SS[.ffffff]`, as many digits as the column has.
    DateTime,
    /// A JSON string `YYYY-MM-DDTHH:MM:SS[.ffffff]Z`, in UTC.
    Instant,
    /// A JSON string `[-]HH:MM:SS[.ffffff]`, hours up to 838.
    Time,
}

/// A type's text that is no MySQL type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a MySQL column type that tidegate knows")]
pub struct TypeError(pub String);

impl ColumnType {
    /// How its values are written.
    pub fn form(self) -> Form {
        match self {
            ColumnType::Integer { .. } | ColumnType::Bit(_) | ColumnType::Year => Form::Integer,
            ColumnType::Float => Form::Float,
            ColumnType::Double => Form::Double,
            ColumnType::Decimal { .. } => Form::Decimal,
            ColumnType::Date => Form::Date,
            ColumnType::Time(_) => Form::Time,
            ColumnType::DateTime(_) => Form::DateTime,
            ColumnType::Timestamp(_) => Form::Instant,
            ColumnType::Char
            | ColumnType::Varchar
            | ColumnType::Text
            | ColumnType::Enum
            | ColumnType::Set
            | ColumnType::Unknown => Form::Text,
            ColumnType::Binary(_) | ColumnType::Varbinary | ColumnType::Blob | ColumnType::Geometry => Form::Bytes,
            ColumnType::Json => Form::Json,
        }
    }

    /// Whether it holds text.
    pub fn is_text(self) -> bool {
        use ColumnType::{Char, Enum, Set, Text, Varchar};
        matches!(self, Char | Varchar | Text | Enum | Set)
    }

    /// The column type for a table that tidegate creates on PostgreSQL or Hologres. A key column may not be numeric or a
    /// float on Hologres, so that an unsigned BIGINT or a DECIMAL in a key is TEXT.
    pub fn postgres(self, in_key: bool) -> String {
        match self {
            ColumnType::Integer { bytes: 1, .. } => "smallint".into(),
            ColumnType::Integer { bytes: 2, unsigned: false } => "smallint".into(),
            ColumnType::Integer { bytes: 2 | 3, .. } => "integer".into(),
            ColumnType::Integer { bytes: 4, unsigned: false } => "integer".into(),
            ColumnType::Integer { bytes: 4, unsigned: true } => "bigint".into(),
            ColumnType::Integer { unsigned: false, .. } => "bigint".into(),
            ColumnType::Integer { unsigned: true, .. } if in_key => "text".into(),
            ColumnType::Integer { unsigned: true, .. } => "numeric(20,0)".into(),
            // BIT(64) does not fit a bigint when its top bit is set.
            ColumnType::Bit(64) if in_key => "text".into(),
            ColumnType::Bit(64) => "numeric(20,0)".into(),
            ColumnType::Bit(_) => "bigint".into(),
            ColumnType::Year => "integer".into(),
            ColumnType::Float if in_key => "text".into(),
            ColumnType::Float => "real".into(),
            ColumnType::Double if in_key => "text".into(),
            ColumnType::Double => "double precision".into(),
            ColumnType::Decimal { .. } if in_key => "text".into(),
            // More digits than Hologres has, or an unknown number: text keeps them all.
            ColumnType::Decimal { precision: 0 | 39.., .. } => "text".into(),
            ColumnType::Decimal { precision, scale } => format!("numeric({precision},{scale})"),
            ColumnType::Date => "date".into(),
            // MySQL's TIME is a duration up to 838 hours either way.
            ColumnType::Time(_) => "text".into(),
            ColumnType::DateTime(_) => "timestamp".into(),
            ColumnType::Timestamp(_) => "timestamptz".into(),
            ColumnType::Char
            | ColumnType::Varchar
            | ColumnType::Text
            | ColumnType::Enum
            | ColumnType::Set
            | ColumnType::Unknown => "text".into(),
            ColumnType::Binary(_) | ColumnType::Varbinary | ColumnType::Blob | ColumnType::Geometry => "bytea".into(),
            // json keeps the text; jsonb would reorder keys and drop repeated ones.
            ColumnType::Json => "json".into(),
        }
    }

    /// Whether different values of it, as texts, may be one number, date or UUID: any text, and -0 and 0.
    pub fn is_loose(self) -> bool {
        self.is_text() || matches!(self, ColumnType::Float | ColumnType::Double)
    }

    /// The column type for a table that tidegate creates on SQLite. Whatever SQLite would turn into a float or round
    /// (a BIGINT UNSIGNED, a DECIMAL) is TEXT; so is a float in a key, where -0 and 0 are two.
    pub fn sqlite(self, in_key: bool) -> &'static str {
        match self {
            ColumnType::Integer { bytes: 8, unsigned: true } | ColumnType::Bit(64) => "TEXT",
            ColumnType::Float | ColumnType::Double if !in_key => "REAL",
            _ => match self.form() {
                Form::Integer => "INTEGER",
                Form::Bytes => "BLOB",
                _ => "TEXT",
            },
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sized = |f: &mut fmt::Formatter<'_>, name: &str, digits: u8| match digits {
            0 => f.write_str(name),
            _ => write!(f, "{name}({digits})"),
        };
        match *self {
            ColumnType::Integer { bytes, unsigned } => {
                let name = match bytes {
                    1 => "tinyint",
                    2 => "smallint",
                    3 => "mediumint",
                    4 => "int",
                    _ => "bigint",
                };
                write!(f, "{name}{}", if unsigned { " unsigned" } else { "" })
            }
            ColumnType::Float => f.write_str("float"),
            ColumnType::Double => f.write_str("double"),
            ColumnType::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            ColumnType::Bit(bits) => write!(f, "bit({bits})"),
            ColumnType::Year => f.write_str("year"),
            ColumnType::Date => f.write_str("date"),
            ColumnType::Time(digits) => sized(f, "time", digits),
            ColumnType::DateTime(digits) => sized(f, "datetime", digits),
            ColumnType::Timestamp(digits) => sized(f, "timestamp", digits),
            ColumnType::Char => f.write_str("char"),
            ColumnType::Varchar => f.write_str("varchar"),
            ColumnType::Text => f.write_str("text"),
            ColumnType::Binary(bytes) => sized(f, "binary", bytes),
            ColumnType::Varbinary => f.write_str("varbinary"),
            ColumnType::Blob => f.write_str("blob"),
            ColumnType::Json => f.write_str("json"),
            ColumnType::Enum => f.write_str("enum"),
            ColumnType::Set => f.write_str("set"),
            ColumnType::Geometry => f.write_str("geometry"),
            ColumnType::Unknown => f.write_str("unknown"),
        }
    }
}

impl FromStr for ColumnType {
    type Err = TypeError;

    /// Reads `COLUMN_TYPE` of `information_schema`, of MySQL and MariaDB, and our own text form.
    fn from_str(text: &str) -> Result<Self, TypeError> {
        let error = || TypeError(text.to_string());
        let lower = text.trim().to_ascii_lowercase();
        let name_len = lower.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(lower.len());
        let (name, rest) = lower.split_at(name_len);
        let arguments: Vec<u8> = match rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            Some((list, _)) if !matches!(name, "enum" | "set") => {
                list.split(',').map(|n| n.trim().parse().unwrap_or(u8::MAX)).collect()
            }
            _ => Vec::new(),
        };
        let first = |default: u8| arguments.first().copied().unwrap_or(default);
        let unsigned = rest.contains("unsigned") || rest.contains("zerofill");
        let integer = |bytes| ColumnType::Integer { bytes, unsigned };
        Ok(match name {
            "tinyint" | "bool" | "boolean" => integer(1),
            "smallint" => integer(2),
            "mediumint" => integer(3),
            "int" | "integer" => integer(4),
            "bigint" => integer(8),
            "float" => ColumnType::Float,
            "double" | "real" => ColumnType::Double,
            "decimal" | "numeric" | "dec" => {
                ColumnType::Decimal { precision: first(10), scale: arguments.get(1).copied().unwrap_or(0) }
            }
            "bit" => ColumnType::Bit(first(1)),
            "year" => ColumnType::Year,
            "date" => ColumnType::Date,
            "time" => ColumnType::Time(first(0)),
            "datetime" => ColumnType::DateTime(first(0)),
            "timestamp" => ColumnType::Timestamp(first(0)),
            "char" => ColumnType::Char,
            "varchar" | "uuid" | "inet4" | "inet6" => ColumnType::Varchar,
            "tinytext" | "text" | "mediumtext" | "longtext" => ColumnType::Text,
            "binary" => ColumnType::Binary(first(0)),
            "varbinary" => ColumnType::Varbinary,
            "tinyblob" | "blob" | "mediumblob" | "longblob" | "vector" => ColumnType::Blob,
            "json" => ColumnType::Json,
            "enum" => ColumnType::Enum,
            "set" => ColumnType::Set,
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon"
            | "geometrycollection" | "geomcollection" => ColumnType::Geometry,
            "unknown" => ColumnType::Unknown,
            _ => return Err(error()),
        })
    }
}

impl TryFrom<String> for ColumnType {
    type Error = TypeError;
    fn try_from(text: String) -> Result<Self, TypeError> {
        text.parse()
    }
}

impl From<ColumnType> for String {
    fn from(ty: ColumnType) -> String {
        ty.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each, walked by the tests of every module that maps types.
    const ALL: &[&str] = &[
        "tinyint",
        "tinyint unsigned",
        "smallint",
        "smallint unsigned",
        "mediumint",
        "mediumint unsigned",
        "int",
        "int unsigned",
        "bigint",
        "bigint unsigned",
        "float",
        "double",
        "decimal(10,2)",
        "decimal(65,30)",
        "bit(1)",
        "bit(64)",
        "year",
        "date",
        "time",
        "time(6)",
        "datetime",
        "datetime(3)",
        "timestamp",
        "timestamp(6)",
        "char",
        "varchar",
        "text",
        "binary",
        "binary(16)",
        "varbinary",
        "blob",
        "json",
        "enum",
        "set",
        "geometry",
        "unknown",
    ];

    #[test]
    fn every_type_reads_back_from_its_own_text() {
        for text in ALL {
            assert_eq!(text.parse::<ColumnType>().unwrap().to_string(), *text);
        }
    }

    #[test]
    fn the_servers_spellings_are_understood() {
        for (text, ours) in [
            ("int(11) unsigned zerofill", "int unsigned"),
            ("enum('a','b)c')", "enum"),
            ("varchar(255)", "varchar"),
            ("tinyint(1)", "tinyint"),
            ("decimal(10,2) unsigned", "decimal(10,2)"),
            ("timestamp(3)", "timestamp(3)"),
            ("set('x','unsigned')", "set"),
        ] {
            assert_eq!(text.parse::<ColumnType>().unwrap().to_string(), ours);
        }
        assert_eq!("frob(3)".parse::<ColumnType>(), Err(TypeError("frob(3)".into())));
    }

    #[test]
    fn no_key_column_gets_a_type_that_hologres_refuses_in_a_key() {
        for text in ALL {
            let ty: ColumnType = text.parse().unwrap();
            if matches!(ty.form(), Form::Json) {
                continue; // MySQL refuses JSON in a key too
            }
            let column = ty.postgres(true);
            assert!(
                !column.starts_with("numeric") && !matches!(column.as_str(), "real" | "double precision" | "json"),
                "{text} in a key became {column}"
            );
        }
    }
}
