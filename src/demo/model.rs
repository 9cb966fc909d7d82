//! The state that must be reached, known without the pipeline: for each table the keys that live and their versions.

use std::borrow::Cow;

use super::shop::{self, Table};

/// A value of a row, typed as MySQL has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// An integer.
    Int(i64),
    /// A DECIMAL, its digits as they are.
    Decimal(String),
    /// A DOUBLE.
    Double(f64),
    /// Text of any kind.
    Text(String),
    /// JSON, as text.
    Json(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A DATE: year, month, day.
    Date(i32, u32, u32),
    /// A DATETIME: year, month, day, second of the day, microsecond.
    DateTime(i32, u32, u32, u32, u32),
    /// A TIMESTAMP: seconds since 1970, microsecond.
    Instant(i64, u32),
}

/// What a value must be where SQLite holds it.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored<'a> {
    /// NULL.
    Null,
    /// INTEGER.
    Integer(i64),
    /// REAL.
    Real(f64),
    /// TEXT.
    Text(Cow<'a, str>),
    /// BLOB.
    Blob(&'a [u8]),
}

impl Value {
    /// What the value must be where SQLite holds it.
    pub fn stored(&self) -> Stored<'_> {
        match self {
            Value::Null => Stored::Null,
            Value::Int(value) => Stored::Integer(*value),
            Value::Double(value) => Stored::Real(*value),
            Value::Decimal(text) | Value::Text(text) | Value::Json(text) => Stored::Text(text.into()),
            Value::Bytes(bytes) => Stored::Blob(bytes),
            Value::Date(year, month, day) => Stored::Text(format!("{year:04}-{month:02}-{day:02}").into()),
            Value::DateTime(year, month, day, second, micros) => {
                let clock = clock(*second, *micros);
                Stored::Text(format!("{year:04}-{month:02}-{day:02} {clock}").into())
            }
            Value::Instant(seconds, micros) => {
                let (year, month, day) = date(seconds / 86_400);
                let clock = clock((seconds % 86_400) as u32, *micros);
                Stored::Text(format!("{year:04}-{month:02}-{day:02}T{clock}Z").into())
            }
        }
    }
}

fn clock(second: u32, micros: u32) -> String {
    let plain = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
    if micros == 0 { plain } else { format!("{plain}.{micros:06}") }
}

/// The date so many days after 1970-01-01, counted year by year and month by month: slow, plain, and not the pipeline's.
fn date(mut days: i64) -> (i64, usize, i64) {
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month + 1, days + 1)
}

/// The rows that must be there.
#[derive(Clone, Debug)]
pub struct Model {
    seed: u64,
    pub(super) tables: Vec<Slots>,
}

/// A table of the model: a fixed number of slots, each with a key that lives, lived, or is yet to live. Hot slots come
/// first.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    pub table: &'static Table,
    pub slots: Vec<Slot>,
    pub next_key: u64,
    pub live: usize,
}

/// A key, and the version of its row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub key: u64,
    pub version: u64,
    pub live: bool,
}

impl Model {
    /// Empty tables that will have at most about `keys` rows together.
    pub(super) fn new(seed: u64, keys: u64) -> Self {
        let slots = |table: &'static Table| {
            let count = (keys * table.share_percent / 100).max(1);
            let slots = (0..count).map(|key| Slot { key, version: 0, live: false }).collect();
            Slots { table, slots, next_key: count, live: 0 }
        };
        Model { seed, tables: shop::TABLES.iter().map(slots).collect() }
    }

    /// All tables, whether they have rows or not.
    pub fn tables(&self) -> impl Iterator<Item = ModelTable<'_>> {
        self.tables.iter().map(|slots| ModelTable { seed: self.seed, slots })
    }

    /// How many rows there are in all tables.
    pub fn rows(&self) -> usize {
        self.tables.iter().map(|slots| slots.live).sum()
    }
}

/// One table of a [`Model`].
#[derive(Clone, Copy, Debug)]
pub struct ModelTable<'a> {
    seed: u64,
    slots: &'a Slots,
}

impl ModelTable<'_> {
    /// Its database.
    pub fn database(&self) -> &'static str {
        shop::DATABASE
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.slots.table.name
    }

    /// The names of its columns, in table order.
    pub fn columns(&self) -> Vec<&'static str> {
        self.slots.table.fields.iter().map(|field| field.0).collect()
    }

    /// The places of the key's columns, in key order.
    pub fn key(&self) -> &'static [usize] {
        self.slots.table.key
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.slots.live
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its rows, in no order that matters, each made when it is asked for.
    pub fn rows(&self) -> impl Iterator<Item = Vec<Value>> {
        let live = self.slots.slots.iter().filter(|slot| slot.live);
        live.map(|slot| self.slots.table.row(self.seed, slot.key, slot.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_stored_as_people_write_them() {
        let text = |value: Value| match value.stored() {
            Stored::Text(text) => text.into_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(text(Value::Date(2026, 2, 3)), "2026-02-03");
        assert_eq!(text(Value::DateTime(2026, 2, 3, 3661, 0)), "2026-02-03 01:01:01");
        assert_eq!(text(Value::Instant(951_782_400, 5)), "2000-02-29T00:00:00.000005Z");
        assert_eq!(text(Value::Instant(2_147_483_647, 0)), "2038-01-19T03:14:07Z");
        assert_eq!(text(Value::Instant(1_798_761_599, 0)), "2026-12-31T23:59:59Z");
    }
}
