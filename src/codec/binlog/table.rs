//! A table as the decoder knows it: from the table map alone, or with what `information_schema` adds.

use serde::{Deserialize, Serialize};

use mysql_common::collations::{Collation, CollationId};

use crate::change::{Column, ColumnType, TableName, TableSchema};
use crate::codec::charset;
use crate::codec::row::{column_prefix, write_text};

use super::bytes::Bytes;
use super::table_map::{Flavor, Optional, Physical, TableMap, code};
use super::value::Layout;

/// What `information_schema` says about a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// Its columns, in table order.
    pub columns: Vec<DescribedColumn>,
    /// The columns of the primary key or of a NOT NULL unique key, in key order; empty if there is none.
    pub key: Vec<String>,
    /// Whether that is the primary key; decoders need not know.
    #[serde(skip)]
    pub has_primary_key: bool,
    /// What kind of table it is; decoders need not know.
    #[serde(skip)]
    pub kind: Kind,
}

/// What `TABLE_TYPE` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// One like any other.
    #[default]
    Table,
    /// MariaDB keeps the history of its rows in it.
    Versioned,
    /// A sequence of MariaDB.
    Sequence,
}

/// A column as `information_schema` describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedColumn {
    /// Its name.
    pub name: String,
    /// `COLUMN_TYPE`.
    pub column_type: String,
    /// `CHARACTER_SET_NAME`; `None` for what is no text.
    pub charset: Option<String>,
}

/// The context of a rows event's raw record: the body of its TABLE_MAP event, and a description of the table where that
/// event does not say enough.
pub fn pack_context(flavor: Flavor, map: &[u8], described: Option<&Described>) -> Vec<u8> {
    let mut context = vec![flavor as u8];
    context.extend_from_slice(&(map.len() as u32).to_le_bytes());
    context.extend_from_slice(map);
    if let Some(described) = described {
        serde_json::to_writer(&mut context, described).expect("a description is plain data");
    }
    context
}

/// A table, ready to decode rows of.
pub(super) struct Table {
    pub schema: TableSchema,
    /// Those of the schema, and behind them those that the server hides.
    pub columns: Vec<TableColumn>,
    /// Places of the key's columns.
    pub key: Vec<usize>,
    pub announced: bool,
}

pub(super) struct TableColumn {
    pub layout: Layout,
    /// `"name":`.
    pub prefix: Vec<u8>,
}

impl Table {
    /// Reads what [`pack_context`] packed. The reason of an error is a whole sentence without the position.
    pub fn read(context: &[u8]) -> Result<Table, String> {
        let broken = |what: &dyn std::fmt::Display| format!("the table map can't be read: {what}");
        let mut bytes = Bytes(context);
        let flavor = match bytes.byte().map_err(|e| broken(&e))? {
            0 => Flavor::MySql,
            _ => Flavor::MariaDb,
        };
        let length = bytes.little(4).map_err(|e| broken(&e))?;
        let map = TableMap::read(bytes.take(length as usize).map_err(|e| broken(&e))?).map_err(|e| broken(&e))?;
        let described: Option<Described> = match bytes.0 {
            [] => None,
            json => Some(serde_json::from_slice(json).map_err(|e| broken(&e))?),
        };
        let physical = map.physical().map_err(|e| broken(&e))?;
        let optional = map.optional().map_err(|e| broken(&e))?;
        let name = TableName::new(map.database, map.table);
        Table::build(&name, flavor, &physical, optional, described.as_ref())
            .map_err(|reason| format!("table {name}{reason}"))
    }

    /// The reason of an error follows the table's name in a sentence.
    fn build(
        name: &TableName,
        flavor: Flavor,
        physical: &[Physical],
        mut optional: Optional,
        described: Option<&Described>,
    ) -> Result<Table, String> {
        let named = optional.names.len() == physical.len();
        if !named {
            let described = described.ok_or(": its columns have no names in the binlog")?;
            if described.columns.len() != physical.len() {
                return Err(stale(&format!(
                    ": it has {} columns in the binlog and shows {} now (it was altered, or MariaDB hides the hash of a unique \
                     key)",
                    physical.len(),
                    described.columns.len()
                )));
            }
        }
        let mut counts = Counts::default();
        let mut columns = Vec::with_capacity(physical.len());
        let mut codecs = Vec::with_capacity(physical.len());
        for (index, column) in physical.iter().enumerate() {
            let column_name = match (named, described) {
                (false, Some(table)) => table.columns[index].name.clone(),
                _ => optional.names[index].to_string(),
            };
            let described = described.and_then(|table| table.columns.iter().find(|column| column.name == column_name));
            let in_column = |reason: String| format!(", column {column_name}: {reason}");
            let (ty, layout) = match described {
                Some(described) if named => {
                    let logged = logged(flavor, column, &mut optional, &mut counts).map_err(in_column)?;
                    native(column, described).map_or(logged, |native| (ColumnType::Varchar, native))
                }
                None => logged(flavor, column, &mut optional, &mut counts).map_err(in_column)?,
                Some(described) => {
                    let ty: ColumnType =
                        described.column_type.parse().map_err(|error| in_column(format!("{error}")))?;
                    (ty, layout_of(column, ty, described).map_err(|reason| stale(&in_column(reason)))?)
                }
            };
            let prefix = column_prefix(&column_name);
            codecs.push(TableColumn { layout, prefix });
            columns.push(Column { name: column_name, ty, nullable: column.nullable });
        }
        // MariaDB's hash of a long unique key stands behind all columns that it shows.
        let hides = |column: &Column| {
            is_hash(flavor, &column.name)
                && described.is_none_or(|table| table.columns.iter().all(|shown| shown.name != column.name))
        };
        let shown = columns.iter().position(hides).unwrap_or(columns.len());
        if let Some(column) = columns[shown..].iter().find(|column| !hides(column)) {
            return Err(format!(", column {}: it stands behind one that MariaDB hides", column.name));
        }
        columns.truncate(shown);
        let key = match described {
            Some(described) => {
                let place = |key: &String| {
                    let place = columns.iter().position(|column| column.name == *key);
                    place
                        .ok_or_else(|| stale(&format!(": its key has the column {key} now, and had none of that name")))
                };
                described.key.iter().map(place).collect::<Result<Vec<_>, _>>()?
            }
            None => optional.key,
        };
        if key.iter().any(|&place| place >= columns.len()) {
            return Err(": its primary key has a column that is not there".into());
        }
        let key_names = key.iter().map(|&place| columns[place].name.clone()).collect();
        let schema = TableSchema { name: name.clone(), columns, key: key_names, since_seq: 0, partial: false };
        Ok(Table { schema, columns: codecs, key, announced: false })
    }
}

/// Whether MariaDB calls a column so that it hides.
pub(super) fn is_hash(flavor: Flavor, name: &str) -> bool {
    flavor == Flavor::MariaDb && name.starts_with("DB_ROW_HASH_")
}

/// The table has changed between an event and the look at it.
fn stale(reason: &str) -> String {
    format!(
        "{reason}; the binlog does not say how the table looked then: set binlog_row_metadata=FULL on the server, and \
         start behind the change"
    )
}

/// How many columns of each kind came before: the optional part counts each kind by itself.
#[derive(Default)]
struct Counts {
    numeric: usize,
    text: usize,
    choice: usize,
    enums: usize,
    sets: usize,
}

/// Type and layout of a column by what the binlog says.
fn logged(
    flavor: Flavor,
    column: &Physical,
    optional: &mut Optional,
    counts: &mut Counts,
) -> Result<(ColumnType, Layout), String> {
    let unsigned = match is_numeric(column.code) {
        false => false,
        true => {
            let index = counts.numeric;
            counts.numeric += 1;
            let bits = optional.unsigned.ok_or("the binlog does not say whether it is unsigned")?;
            bits.get(index / 8).is_some_and(|byte| byte & 0x80 >> (index % 8) != 0)
        }
    };
    let charset = match column.code {
        code if flavor.has_collation(code) => {
            counts.text += 1;
            optional.text.next(counts.text - 1)
        }
        code::ENUM | code::SET => {
            counts.choice += 1;
            optional.choice.next(counts.choice - 1)
        }
        _ => Ok(None),
    };
    let charset = match charset.map_err(|error| error.to_string())? {
        Some(id) => Some(charset_of(id)?),
        None => None,
    };
    let members = match column.code {
        code::ENUM => take_members(&optional.enums, &mut counts.enums),
        code::SET => take_members(&optional.sets, &mut counts.sets),
        _ => Ok(&[][..]),
    }?;
    let text = |bytes: &&[u8]| match charset::decode(charset.as_deref().unwrap_or("utf8mb4"), bytes) {
        Ok(Some(text)) => Ok(text.into_owned()),
        Ok(None) => String::from_utf8(bytes.to_vec()).map_err(|_| "a member of it is binary".to_string()),
        Err(reason) => Err(format!("a member of it {reason}")),
    };
    let members = members.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let binary = charset.as_deref() == Some("binary");
    let ty = type_of(column, unsigned, binary)?;
    Ok((ty, layout(column, ty, charset, &members)?))
}

fn take_members<'m, 'a>(members: &'m [Vec<&'a [u8]>], next: &mut usize) -> Result<&'m [&'a [u8]], String> {
    let found = members.get(*next).ok_or("the binlog does not name its members")?;
    *next += 1;
    Ok(found)
}

/// The layout of a column whose type `information_schema` gave, if the column can be of that type.
fn layout_of(column: &Physical, ty: ColumnType, described: &DescribedColumn) -> Result<Layout, String> {
    if let Some(native) = native(column, described) {
        return Ok(native);
    }
    let unsigned = matches!(ty, ColumnType::Integer { unsigned: true, .. });
    let binary = matches!(ty, ColumnType::Binary(_) | ColumnType::Varbinary | ColumnType::Blob);
    if !same_bytes(type_of(column, unsigned, binary)?, ty) {
        return Err(format!("its type is {ty} now, and was another when this was logged"));
    }
    layout(column, ty, described.charset.clone(), &super::members_of(&described.column_type))
}

/// The layout of the types that MariaDB logs as BINARY.
fn native(column: &Physical, described: &DescribedColumn) -> Option<Layout> {
    match (column.code, column.meta, &*described.column_type.to_ascii_lowercase()) {
        (code::STRING, 16, "uuid") => Some(Layout::Uuid),
        (code::STRING, 16, "inet6") => Some(Layout::Inet6),
        (code::STRING, 4, "inet4") => Some(Layout::Inet4),
        _ => None,
    }
}

/// Whether values of both types lie in the binlog alike.
fn same_bytes(logged: ColumnType, described: ColumnType) -> bool {
    use ColumnType::{Binary, Blob, Char, Geometry, Text, Varbinary, Varchar};
    let family = |ty| match ty {
        Char | Varchar | Text => Varchar,
        Binary(_) | Varbinary | Blob | Geometry => Varbinary,
        other => other,
    };
    family(logged) == family(described)
}

fn is_numeric(code: u8) -> bool {
    use code::{DOUBLE, FLOAT, INT24, LONG, LONGLONG, NEWDECIMAL, SHORT, TINY, YEAR};
    matches!(code, TINY | SHORT | INT24 | LONG | LONGLONG | NEWDECIMAL | FLOAT | DOUBLE | YEAR)
}

fn type_of(column: &Physical, unsigned: bool, binary: bool) -> Result<ColumnType, String> {
    let meta = column.meta as u8;
    let integer = |bytes| ColumnType::Integer { bytes, unsigned };
    Ok(match column.code {
        code::TINY => integer(1),
        code::SHORT => integer(2),
        code::INT24 => integer(3),
        code::LONG => integer(4),
        code::LONGLONG => integer(8),
        code::FLOAT => ColumnType::Float,
        code::DOUBLE => ColumnType::Double,
        code::NEWDECIMAL => ColumnType::Decimal { precision: (column.meta >> 8) as u8, scale: meta },
        code::BIT => ColumnType::Bit((column.meta >> 8) as u8 * 8 + meta),
        code::YEAR => ColumnType::Year,
        code::DATE | code::NEWDATE => ColumnType::Date,
        code::TIME => ColumnType::Time(0),
        code::DATETIME => ColumnType::DateTime(0),
        code::TIMESTAMP => ColumnType::Timestamp(0),
        code::TIME2 => ColumnType::Time(meta),
        code::DATETIME2 => ColumnType::DateTime(meta),
        code::TIMESTAMP2 => ColumnType::Timestamp(meta),
        code::STRING if binary => ColumnType::Binary(meta),
        code::STRING => ColumnType::Char,
        code::VARCHAR | code::VAR_STRING if binary => ColumnType::Varbinary,
        code::VARCHAR | code::VAR_STRING => ColumnType::Varchar,
        code::BLOB if binary => ColumnType::Blob,
        code::BLOB => ColumnType::Text,
        code::VECTOR => ColumnType::Blob,
        code::JSON => ColumnType::Json,
        code::ENUM => ColumnType::Enum,
        code::SET => ColumnType::Set,
        code::GEOMETRY => ColumnType::Geometry,
        code::BLOB_COMPRESSED | code::VARCHAR_COMPRESSED => {
            return Err("its type is COMPRESSED, which tidegate can't read: alter it to a plain one".into());
        }
        code::DECIMAL => return Err("its type is the DECIMAL of MySQL 4: alter it to today's".into()),
        other => return Err(format!("its type is number {other} in the binlog, which tidegate does not know")),
    })
}

fn layout(column: &Physical, ty: ColumnType, charset: Option<String>, members: &[String]) -> Result<Layout, String> {
    let long = if column.meta > 255 { 2 } else { 1 };
    let lies_as_blob = matches!(column.code, code::BLOB | code::GEOMETRY | code::JSON | code::VECTOR);
    let length = if lies_as_blob { column.meta as u8 } else { long };
    if lies_as_blob && !(1..=4).contains(&length) {
        return Err(format!("its length has {length} bytes"));
    }
    let choice_bytes = column.meta as u8;
    Ok(match ty {
        ColumnType::Integer { bytes, unsigned } => Layout::Integer { bytes, unsigned },
        ColumnType::Float => Layout::Float,
        ColumnType::Double => Layout::Double,
        ColumnType::Decimal { precision, scale } => Layout::Decimal { precision, scale },
        ColumnType::Bit(bits @ 1..=64) => Layout::Bit { bytes: bits.div_ceil(8) },
        ColumnType::Bit(bits) => return Err(format!("it has {bits} bits")),
        ColumnType::Year => Layout::Year,
        ColumnType::Date => Layout::Date,
        ColumnType::Time(_) if column.code == code::TIME => Layout::OldTime,
        ColumnType::DateTime(_) if column.code == code::DATETIME => Layout::OldDateTime,
        ColumnType::Timestamp(_) if column.code == code::TIMESTAMP => Layout::OldTimestamp,
        ColumnType::Time(digits @ 0..=6) => Layout::Time { digits },
        ColumnType::DateTime(digits @ 0..=6) => Layout::DateTime { digits },
        ColumnType::Timestamp(digits @ 0..=6) => Layout::Timestamp { digits },
        ColumnType::Time(digits) | ColumnType::DateTime(digits) | ColumnType::Timestamp(digits) => {
            return Err(format!("its seconds have {digits} digits"));
        }
        ColumnType::Char | ColumnType::Varchar | ColumnType::Text => {
            let charset = charset.ok_or("the binlog does not say which character set it has")?;
            Layout::Text { length, charset: charset.into() }
        }
        ColumnType::Binary(_) | ColumnType::Varbinary => {
            Layout::Bytes { length, pad: if column.code == code::STRING { column.meta } else { 0 } }
        }
        ColumnType::Blob | ColumnType::Geometry => Layout::Bytes { length, pad: 0 },
        ColumnType::Json => Layout::Json { length },
        ColumnType::Enum | ColumnType::Set if !(1..=8).contains(&choice_bytes) => {
            return Err(format!("its values have {choice_bytes} bytes"));
        }
        ColumnType::Enum => {
            let json = |member: &String| {
                let mut json = Vec::new();
                write_text(&mut json, member);
                json.into_boxed_slice()
            };
            Layout::Enum { bytes: choice_bytes, members: members.iter().map(json).collect() }
        }
        ColumnType::Set => {
            Layout::Set { bytes: choice_bytes, members: members.iter().map(|member| member.as_str().into()).collect() }
        }
        ColumnType::Unknown => return Err("its type is not known".into()),
    })
}

/// The character set of a collation's number. MariaDB has collations of its own: it numbers the `uca1400` ones by character
/// set, gives the `nopad` one of a collation that number with another bit, and has some beside those.
pub(crate) fn charset_of(id: usize) -> Result<String, String> {
    const NOPAD: usize = 1024;
    let unknown = || format!("its collation is number {id}, which tidegate does not know");
    let by_set = ["utf8mb3", "utf8mb4", "ucs2", "utf16", "utf32"];
    if let Some(set) = id.checked_sub(2048).and_then(|index| by_set.get(index / 256)) {
        return Ok((*set).into());
    }
    match id & !NOPAD {
        576..608 => return Ok("utf8mb3".into()),
        608..640 => return Ok("utf8mb4".into()),
        640..672 => return Ok("ucs2".into()),
        672..704 => return Ok("utf16".into()),
        736..768 => return Ok("utf32".into()),
        _ => {}
    }
    let id = u16::try_from(id & !NOPAD).map_err(|_| unknown())?;
    match Collation::resolve(CollationId::from(id)).charset() {
        "UNKNOWN" | "unknown" | "" => Err(unknown()),
        charset => Ok(charset.to_ascii_lowercase()),
    }
}
