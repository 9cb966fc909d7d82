//! What a decoder remembers of tables: names, columns and key, found by the bytes that a record states them with.
//!
//! DTS repeats a table's name, keys and fields in every record. They are parsed once; after that a record finds them by
//! the hash of those bytes, and the bytes are compared. Tables of a sharded source that have one logical name and the same
//! columns share one [`Layout`], so that what is learned of their types is learned once.

use std::borrow::Cow;
use std::collections::HashMap;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::change::{Column as SchemaColumn, TableName, TableSchema};

use super::avro::{Branch, Cursor, Malformed, Tags};
use super::column::Column;

/// A table's name, columns and key.
#[derive(Debug)]
pub struct Layout {
    /// The table: its logical name where it has one.
    pub name: TableName,
    /// Whether the configuration wants it.
    pub wanted: bool,
    /// Its columns in table order.
    pub columns: Vec<Column>,
    /// The places of the key's columns, in key order.
    pub key: Vec<usize>,
    /// Whether its schema, as it is now, has been announced.
    pub announced: bool,
}

impl Layout {
    /// The schema, from `since_seq` on.
    pub fn schema(&self, since_seq: u64) -> TableSchema {
        let column = |c: &Column| SchemaColumn { name: c.name.clone(), ty: c.ty, nullable: true };
        let mut columns: Vec<SchemaColumn> = self.columns.iter().map(column).collect();
        for &index in &self.key {
            columns[index].nullable = false;
        }
        let key = self.key.iter().map(|&index| self.columns[index].name.clone()).collect();
        TableSchema { name: self.name.clone(), columns, key, since_seq, partial: false }
    }

    fn same_as(&self, other: &Layout) -> bool {
        let same = |(a, b): (&Column, &Column)| a.name == b.name && a.number == b.number;
        self.name == other.name
            && self.key == other.key
            && self.columns.len() == other.columns.len()
            && self.columns.iter().zip(&other.columns).all(same)
    }
}

/// The bytes of a record that say which table it is of and what that looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stated<'a> {
    /// `database.table`, escaped.
    pub object_name: &'a str,
    /// Logical names and keys.
    pub tags: Tags<'a>,
    /// The array of fields as it is in the record.
    pub fields: &'a [u8],
}

impl Stated<'_> {
    fn hash(&self) -> u64 {
        let Tags { pk_uk_info, l_db_name, l_tb_name } = self.tags;
        let mut hash = xxh3_64(self.fields);
        for part in [Some(self.object_name), pk_uk_info, l_db_name, l_tb_name] {
            hash = xxh3_64_with_seed(part.unwrap_or("\0").as_bytes(), hash);
        }
        hash
    }
}

/// An owned [`Stated`], and which layout it means.
#[derive(Debug)]
struct Known {
    object_name: String,
    pk_uk_info: Option<String>,
    l_db_name: Option<String>,
    l_tb_name: Option<String>,
    fields: Vec<u8>,
    layout: usize,
}

impl Known {
    fn is(&self, stated: &Stated) -> bool {
        self.fields == stated.fields
            && self.object_name == stated.object_name
            && self.pk_uk_info.as_deref() == stated.tags.pk_uk_info
            && self.l_db_name.as_deref() == stated.tags.l_db_name
            && self.l_tb_name.as_deref() == stated.tags.l_tb_name
    }
}

/// All layouts seen so far.
#[derive(Debug, Default)]
pub struct Layouts {
    known: HashMap<u64, Vec<Known>>,
    layouts: Vec<Layout>,
    /// The layout that each table's last record had.
    current: HashMap<TableName, usize>,
}

/// Beyond so many different statements the memory of them is emptied: a source with more has tables that come and go.
const KNOWN_MAX: usize = 100_000;

impl Layouts {
    /// The layout that a record states.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub fn find(&mut self, stated: &Stated, wants: impl Fn(&str, &str) -> bool) -> Result<usize, String> {
        let hash = stated.hash();
        if let Some(known) = self.known.get(&hash)
            && let Some(known) = known.iter().find(|known| known.is(stated))
        {
            return Ok(known.layout);
        }
        self.learn(hash, stated, wants)
    }

    /// A layout by the number that [`find`](Self::find) gave.
    pub fn get(&mut self, index: usize) -> &mut Layout {
        &mut self.layouts[index]
    }

    /// Notes that a record of this layout is next; one that differs from its table's last is to be announced again.
    pub fn enter(&mut self, index: usize) {
        let name = &self.layouts[index].name;
        match self.current.get_mut(name) {
            Some(current) if *current == index => {}
            Some(current) => {
                *current = index;
                self.layouts[index].announced = false;
            }
            None => {
                self.current.insert(name.clone(), index);
            }
        }
    }

    #[cold]
    fn learn(&mut self, hash: u64, stated: &Stated, wants: impl Fn(&str, &str) -> bool) -> Result<usize, String> {
        if self.known.len() >= KNOWN_MAX {
            *self = Layouts::default();
        }
        let mut layout = layout(stated)?;
        layout.wanted = wants(&layout.name.database, &layout.name.table);
        let index = match self.layouts.iter().position(|known| known.same_as(&layout)) {
            Some(index) => index,
            None => {
                // A column that was there before keeps what was learned of it.
                if let Some(&current) = self.current.get(&layout.name) {
                    for column in &mut layout.columns {
                        let same = |old: &&Column| old.name == column.name && old.number == column.number;
                        if let Some(old) = self.layouts[current].columns.iter().find(same) {
                            column.ty = old.ty;
                        }
                    }
                }
                self.layouts.push(layout);
                self.layouts.len() - 1
            }
        };
        self.known.entry(hash).or_default().push(Known {
            object_name: stated.object_name.into(),
            pk_uk_info: stated.tags.pk_uk_info.map(Into::into),
            l_db_name: stated.tags.l_db_name.map(Into::into),
            l_tb_name: stated.tags.l_tb_name.map(Into::into),
            fields: stated.fields.into(),
            layout: index,
        });
        Ok(index)
    }
}

/// Reads over the fields of a record; returns their bytes, without the branch before them.
///
/// # Errors
/// Where the bytes stop being a record.
pub fn skip_fields<'a>(cursor: &mut Cursor<'a>) -> Result<Option<&'a [u8]>, Malformed> {
    match cursor.branch()? {
        Branch::Absent => Ok(None),
        Branch::Text => cursor.text().map(|_| None),
        Branch::Items => {
            let start = cursor.at();
            let mut left = 0;
            while cursor.item(&mut left)? {
                cursor.bytes()?;
                cursor.long()?;
            }
            Ok(Some(cursor.since(start)))
        }
    }
}

/// The database and table that a record is of: logical names win.
///
/// # Errors
/// The name that is not `database.table`.
pub fn table_of<'a>(object_name: &'a str, tags: &Tags<'a>) -> Result<(Cow<'a, str>, Cow<'a, str>), String> {
    let named = |tag: Option<&'a str>| tag.filter(|name| !name.is_empty());
    let (database, table) = match (named(tags.l_db_name), named(tags.l_tb_name)) {
        (Some(database), Some(table)) => (database, table),
        (logical_database, logical_table) => {
            let (database, table) = object_name
                .split_once('.')
                .ok_or_else(|| format!("the record's object name is '{object_name}' and not database.table"))?;
            (logical_database.unwrap_or(database), logical_table.unwrap_or(table))
        }
    };
    Ok((unescape(database), unescape(table)))
}

/// A name without DTS's escapes: `a\u002Eb` is `a.b`.
pub fn unescape(name: &str) -> Cow<'_, str> {
    if name.contains('\\') {
        Cow::Owned(name.replace("\\u002E", ".").replace("\\u002e", "."))
    } else {
        Cow::Borrowed(name)
    }
}

fn layout(stated: &Stated) -> Result<Layout, String> {
    let (database, table) = table_of(stated.object_name, &stated.tags)?;
    let name = TableName::new(database, table);
    let mut columns = Vec::new();
    let mut cursor = Cursor::new(stated.fields);
    let mut left = 0;
    let malformed = |error: Malformed| error.to_string();
    while cursor.item(&mut left).map_err(malformed)? {
        let field = unescape(cursor.text().map_err(malformed)?).into_owned();
        let number = cursor.long().map_err(malformed)?;
        columns.push(Column::new(field, i32::try_from(number).unwrap_or(-1)));
    }
    let key = match stated.tags.pk_uk_info {
        Some(info) => key_columns(info).map_err(|reason| format!("table {name}: {reason}"))?,
        None => Vec::new(),
    };
    let place = |wanted: &String| {
        columns
            .iter()
            .position(|column| column.name == *wanted)
            .ok_or_else(|| format!("table {name}: its key has the column {wanted}, which is not among its fields"))
    };
    let key = key.iter().map(place).collect::<Result<_, _>>()?;
    Ok(Layout { name, wanted: true, columns, key, announced: false })
}

/// The key that `pk_uk_info` names: PRIMARY, else the first; in its column order. Empty where it names none.
fn key_columns(info: &str) -> Result<Vec<String>, String> {
    /// The keys in the order of the text, which a map type would lose.
    struct Keys(Vec<(String, Vec<String>)>);

    impl<'de> serde::Deserialize<'de> for Keys {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct InOrder;
            impl<'de> serde::de::Visitor<'de> for InOrder {
                type Value = Keys;
                fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                    f.write_str("an object of key name to column names")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                    let mut keys = Vec::new();
                    while let Some(key) = map.next_entry()? {
                        keys.push(key);
                    }
                    Ok(Keys(keys))
                }
            }
            deserializer.deserialize_map(InOrder)
        }
    }

    if info.trim().is_empty() {
        return Ok(Vec::new());
    }
    let keys: Keys =
        serde_json::from_str(info).map_err(|error| format!("its tag pk_uk_info can't be read: {error}: {info}"))?;
    let mut keys = keys.0.into_iter().filter(|(_, columns)| !columns.is_empty());
    let first = keys.next();
    let primary = match &first {
        Some((name, _)) if name == "PRIMARY" => None,
        _ => keys.find(|(name, _)| name == "PRIMARY"),
    };
    let columns = primary.or(first).map_or(Vec::new(), |(_, columns)| columns);
    Ok(columns.iter().map(|column| unescape(column).into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primary_key_wins_and_keeps_its_order() {
        assert_eq!(key_columns(r#"{"uk":["x"],"PRIMARY":["b","a"]}"#).unwrap(), ["b", "a"]);
        assert_eq!(key_columns(r#"{"uk_2":["x"],"uk_1":["y"]}"#).unwrap(), ["x"]);
        assert_eq!(key_columns(r#"{"PRIMARY":["a\\u002Eb","c\u002Ed"]}"#).unwrap(), ["a.b", "c.d"]);
        assert_eq!(key_columns("{}").unwrap(), Vec::<String>::new());
        assert!(key_columns("[1]").unwrap_err().contains("pk_uk_info"));
    }

    #[test]
    fn dots_inside_names_do_not_split_them_and_logical_names_win() {
        let names = |object, tags| table_of(object, &tags).map(|(d, t)| format!("{d}|{t}"));
        assert_eq!(names(r"my\u002Edb.t\u002e1", Tags::default()).unwrap(), "my.db|t.1");
        let tags = Tags { l_db_name: Some("shop"), l_tb_name: Some(r"o\u002Er"), ..Tags::default() };
        assert_eq!(names("shop_07.o_0003", tags).unwrap(), "shop|o.r");
        assert_eq!(names("a.b", Tags { l_tb_name: Some("c"), ..Tags::default() }).unwrap(), "a|c");
        assert!(names("nodot", Tags::default()).unwrap_err().contains("'nodot'"));
    }
}
