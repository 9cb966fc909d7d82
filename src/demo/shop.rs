//! The shop: four tables, and what stands in a row of a given key and version.
//!
//! Together they have one of each thing that goes wrong elsewhere: a composite key, a key of text beyond ASCII, decimals,
//! nulls, a character set that is not UTF-8, emoji, quotes and backslashes, JSON, bytes, whole seconds and microseconds.

use super::model::Value;
use super::random::Random;

/// The database of all tables.
pub const DATABASE: &str = "shop";

/// A table of the shop.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// `database.table`, as DTS names it.
    pub object_name: &'static str,
    /// Name and MySQL type number of each column.
    pub fields: &'static [(&'static str, i32)],
    /// The character set of each column of text that is not in utf8mb4.
    pub charsets: &'static [(usize, &'static str)],
    /// The places of the key's columns, in key order.
    pub key: &'static [usize],
    /// The tag by which DTS tells the key.
    pub pk_uk_info: &'static str,
    /// How much of all keys it has.
    pub share_percent: u64,
    /// Makes the columns after the seed: of a key, with numbers that belong to the key, and numbers of the version.
    columns: fn(u64, &mut Random, &mut Random) -> Vec<Value>,
}

impl Table {
    /// The row of `key` in `version`. Some columns stay the same through all versions of a key.
    pub fn row(&self, seed: u64, key: u64, version: u64) -> Vec<Value> {
        let mut of_key = Random::of([seed, self.share_percent, key, u64::MAX]);
        let mut of_version = Random::of([seed, self.share_percent, key, version]);
        (self.columns)(key, &mut of_key, &mut of_version)
    }
}

/// The tables, the main one first.
pub static TABLES: &[Table] = &[ORDERS, ORDER_ITEMS, CUSTOMERS, PRODUCTS];

const ORDERS: Table = Table {
    name: "orders",
    object_name: "shop.orders",
    fields: &[
        ("id", 8),
        ("customer_id", 8),
        ("status", 247),
        ("amount", 246),
        ("currency", 254),
        ("note", 253),
        ("ordered_at", 12),
        ("paid_at", 12),
        ("updated_at", 7),
        ("address", 252),
        ("extra", 245),
    ],
    charsets: &[(4, "latin1")],
    key: &[0],
    pk_uk_info: r#"{"PRIMARY":["id"]}"#,
    share_percent: 50,
    columns: |key, of_key, of_version| {
        let ordered = DAY_ONE + of_key.below(300 * 86_400) as i64;
        let paid = of_version.percent(60);
        vec![
            Value::Int(key as i64 + 1),
            Value::Int(of_key.below(1_000_000) as i64),
            Value::Text(of_version.pick(&["new", "paid", "packed", "shipped", "returned"]).into()),
            money(of_version, 1_000_000),
            Value::Text(of_key.pick(&["CNY", "EUR", "USD"]).into()),
            if of_version.percent(30) { Value::Null } else { Value::Text(words(of_version, 4)) },
            local(ordered, 0),
            if paid { local(ordered + 3_600, of_version.below(1_000_000) as u32) } else { Value::Null },
            Value::Instant(ordered + of_version.below(86_400) as i64, 0),
            Value::Text(format!("{} {}, {}", words(of_key, 3), of_key.below(999), of_key.pick(CITIES))),
            if of_version.percent(20) { Value::Null } else { json(of_version) },
        ]
    },
};

const ORDER_ITEMS: Table = Table {
    name: "order_items",
    object_name: "shop.order_items",
    fields: &[("order_id", 8), ("line_no", 3), ("sku", 253), ("quantity", 3), ("price", 246), ("discount", 5)],
    charsets: &[],
    key: &[0, 1],
    pk_uk_info: r#"{"PRIMARY":["order_id","line_no"],"uk_other":["sku"]}"#,
    share_percent: 25,
    columns: |key, of_key, of_version| {
        vec![
            Value::Int((key / 4) as i64 + 1),
            Value::Int((key % 4) as i64 + 1),
            Value::Text(sku(of_key.below(100_000))),
            Value::Int(of_version.below(20) as i64),
            money(of_version, 100_000),
            if of_version.percent(50) { Value::Null } else { Value::Double(of_version.below(1_000) as f64 / 7.0) },
        ]
    },
};

const CUSTOMERS: Table = Table {
    name: "customers",
    object_name: "shop.customers",
    fields: &[
        ("id", 8),
        ("name", 253),
        ("email", 253),
        ("balance", 246),
        ("vip", 1),
        ("born", 10),
        ("created", 12),
        ("updated", 7),
    ],
    charsets: &[],
    key: &[0],
    pk_uk_info: r#"{"PRIMARY":["id"],"uk_email":["email"]}"#,
    share_percent: 15,
    columns: |key, of_key, of_version| {
        let created = DAY_ONE + of_key.below(86_400 * 100) as i64;
        vec![
            Value::Int(key as i64 - 1_000),
            Value::Text(format!("{} {}", of_key.pick(WORDS), of_key.pick(CITIES))),
            if of_version.percent(25) { Value::Null } else { Value::Text(format!("c{key}@example.com")) },
            money(of_version, 10_000_000),
            Value::Int(of_version.below(2) as i64),
            Value::Date(1940 + of_key.below(70) as i32, 1 + of_key.below(12) as u32, 1 + of_key.below(28) as u32),
            local(created, 0),
            Value::Instant(created + of_version.below(10_000_000) as i64, of_version.below(1_000_000) as u32),
        ]
    },
};

const PRODUCTS: Table = Table {
    name: "products",
    object_name: "shop.products",
    fields: &[("sku", 253), ("title", 253), ("price", 246), ("weight", 5), ("stock", 8), ("picture", 252)],
    charsets: &[(1, "gbk")],
    key: &[0],
    pk_uk_info: r#"{"PRIMARY":["sku"]}"#,
    share_percent: 10,
    columns: |key, of_key, of_version| {
        vec![
            Value::Text(sku(key)),
            Value::Text(format!("{} {}", of_key.pick(TITLES), of_version.pick(TITLES))),
            money(of_version, 1_000_000),
            Value::Double(of_key.below(100_000) as f64 / 1_000.0),
            Value::Int(of_version.number() as i64),
            Value::Bytes(of_version.number().to_le_bytes()[..of_key.below(9) as usize].to_vec()),
        ]
    },
};

/// 2026-01-01 00:00:00 UTC, in seconds since 1970.
pub const DAY_ONE: i64 = 1_767_225_600;

const WORDS: &[&str] = &[
    "leave at the door",
    "拜托轻放",
    "née \"Ångström\"",
    "🚚💨 quick",
    "a\\b",
    "naïve café",
    "tab\there",
    "спасибо",
    "two\nlines",
    "gift wrap",
    "请勿折叠",
    "O'Neil & sons",
    "ありがとう",
    "ring twice",
];

const CITIES: &[&str] = &["杭州", "Zürich", "北京", "Łódź", "São Paulo", "New York", "Αθήνα", "深圳"];

/// Only letters that GBK has.
const TITLES: &[&str] = &["茶壶", "毛笔", "lamp", "瓷碗", "chair", "丝绸", "雨伞 XL"];

/// A key of text, neither in ASCII alone nor in the order of its numbers.
fn sku(number: u64) -> String {
    format!("{}-{number}", ["瓷", "SKU", "é\"x", "🫖"][(number % 4) as usize])
}

fn words(random: &mut Random, count: usize) -> String {
    let mut text = String::with_capacity(96);
    for n in 0..count {
        if n > 0 {
            text.push(' ');
        }
        text.push_str(random.pick(WORDS));
    }
    text
}

fn money(random: &mut Random, cents_end: u64) -> Value {
    let cents = random.below(cents_end);
    let sign = if random.percent(10) && cents > 0 { "-" } else { "" };
    Value::Decimal(format!("{sign}{}.{:02}", cents / 100, cents % 100))
}

fn json(random: &mut Random) -> Value {
    let (a, b, word) = (random.below(1_000), random.below(100), random.pick(CITIES));
    Value::Json(format!(r#"{{"via": "{word}", "points": [{a}, {b}.5], "gift": {}}}"#, random.percent(50)))
}

/// A local time: the month and day are made of whole days since [`DAY_ONE`] within a year of 2026.
fn local(second: i64, micros: u32) -> Value {
    const ENDS: [u32; 12] = [31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365];
    let day = ((second - DAY_ONE) / 86_400) as u32 % 365;
    let month = ENDS.iter().position(|&end| day < end).unwrap_or(11);
    let first = if month == 0 { 0 } else { ENDS[month - 1] };
    Value::DateTime(2026, month as u32 + 1, day - first + 1, ((second - DAY_ONE) % 86_400) as u32, micros)
}
