//! Targets that speak PostgreSQL's protocol, on a real server at `PG_URL`, or, with `TARGET=hologres`, through the stand-in
//! for Hologres: types, tables, errors, and what a job keeps there.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use crate::hologres::on_hologres;
use crate::landing::{Place, orders};
use crate::steps::{Net, Schemas, schema, step};
use tidegate::change::LookBack;
use tidegate::change::Op::{Delete, Insert, Update};
use tidegate::config::ZeroDates;
use tidegate::target::postgres::PostgresTarget;
use tidegate::target::{Checkpoint, Target, TargetError};

/// Every type with values, as JSON and as PostgreSQL prints them.
const TYPES: &[(&str, &[(&str, &str)])] = &[
    ("tinyint", &[("-128", "-128"), ("0", "0"), ("127", "127")]),
    ("tinyint unsigned", &[("255", "255")]),
    ("smallint", &[("-32768", "-32768"), ("32767", "32767")]),
    ("smallint unsigned", &[("65535", "65535")]),
    ("mediumint", &[("-8388608", "-8388608")]),
    ("mediumint unsigned", &[("16777215", "16777215")]),
    ("int", &[("-2147483648", "-2147483648"), ("2147483647", "2147483647")]),
    ("int unsigned", &[("4294967295", "4294967295")]),
    ("bigint", &[("-9223372036854775808", "-9223372036854775808"), ("9223372036854775807", "9223372036854775807")]),
    ("bigint unsigned", &[("18446744073709551615", "18446744073709551615"), ("0", "0")]),
    (
        "float",
        &[
            ("3.4028235e+38", "3.4028235e+38"),
            ("0.1", "0.1"),
            ("1e-45", "1e-45"),
            ("-0.0", "-0"),
            ("16777216.0", "1.6777216e+07"),
        ],
    ),
    (
        "double",
        &[
            ("1.7976931348623157e+308", "1.7976931348623157e+308"),
            ("5e-324", "5e-324"),
            ("0.30000000000000004", "0.30000000000000004"),
        ],
    ),
    ("decimal(10,2)", &[(r#""-99999999.99""#, "-99999999.99"), (r#""0.00""#, "0.00"), (r#""12.50""#, "12.50")]),
    (
        "decimal(38,38)",
        &[(r#""0.00000000000000000000000000000000000001""#, "0.00000000000000000000000000000000000001")],
    ),
    (
        "decimal(65,30)",
        &[(
            r#""99999999999999999999999999999999999.999999999999999999999999999999""#,
            "99999999999999999999999999999999999.999999999999999999999999999999",
        )],
    ),
    ("bit(1)", &[("0", "0"), ("1", "1")]),
    ("bit(63)", &[("9223372036854775807", "9223372036854775807")]),
    ("bit(64)", &[("18446744073709551615", "18446744073709551615")]),
    ("year", &[("0", "0"), ("2155", "2155")]),
    (
        "date",
        &[(r#""1000-01-01""#, "1000-01-01"), (r#""9999-12-31""#, "9999-12-31"), (r#""2024-02-29""#, "2024-02-29")],
    ),
    ("time", &[(r#""-838:59:59""#, "-838:59:59"), (r#""00:00:00""#, "00:00:00")]),
    ("time(6)", &[(r#""838:59:59.000000""#, "838:59:59.000000")]),
    (
        "datetime",
        &[(r#""1000-01-01 00:00:00""#, "1000-01-01 00:00:00"), (r#""9999-12-31 23:59:59""#, "9999-12-31 23:59:59")],
    ),
    ("datetime(6)", &[(r#""1969-12-31 23:59:59.999999""#, "1969-12-31 23:59:59.999999")]),
    (
        "timestamp",
        &[
            (r#""1970-01-01T00:00:01Z""#, "1970-01-01 00:00:01+00"),
            (r#""2038-01-19T03:14:07Z""#, "2038-01-19 03:14:07+00"),
        ],
    ),
    ("timestamp(6)", &[(r#""2026-02-03T04:05:06.000007Z""#, "2026-02-03 04:05:06.000007+00")]),
    ("varchar(20)", &[(r#""""#, ""), (r#""é\"\\\u0001 \ud83d\ude00""#, "é\"\\\u{1} 😀"), (r#""null""#, "null")]),
    ("longtext", &[(r#""a\tb  ""#, "a\tb  ")]),
    ("varbinary(9)", &[(r#""AP8=""#, "\\x00ff"), (r#""""#, "\\x")]),
    ("longblob", &[(r#""aGVsbG8=""#, "\\x68656c6c6f")]),
    (
        "json",
        &[
            (r#"{"b": 1, "a":[1.10,null,"x\u00e9"]}"#, r#"{"b": 1, "a":[1.10,null,"x\u00e9"]}"#),
            (r#""text""#, r#""text""#),
            ("12345678901234567890.10", "12345678901234567890.10"),
        ],
    ),
    ("enum('a','b')", &[(r#""a""#, "a")]),
    ("set('a','b')", &[(r#""a,b""#, "a,b"), (r#""""#, "")]),
    ("point", &[(r#""AAAAAAEBAAAA""#, "\\x000000000101000000")]),
];

#[test]
fn every_type_lands_in_a_created_table_with_every_digit() {
    let mut place = Place::new();
    let names: Vec<String> = (0..TYPES.len()).map(|n| format!("c{n}")).collect();
    let mut columns = vec![("id", "int")];
    columns.extend(names.iter().zip(TYPES).map(|(name, (ty, _))| (name.as_str(), *ty)));
    let mut lane = place.run(&Schemas::of(&[schema("types", &columns, &["id"])]));
    let most = TYPES.iter().map(|(_, values)| values.len()).max().unwrap();
    // Row n has value n of each type; where a type has fewer, and in the last row throughout, null.
    let row = |n: usize| {
        let fields = names
            .iter()
            .zip(TYPES)
            .map(|(name, (_, values))| format!(r#""{name}":{}"#, values.get(n).map_or("null", |v| v.0)));
        format!(r#"{{"id":{n},{}}}"#, fields.collect::<Vec<_>>().join(","))
    };
    let rows: Vec<(String, String)> = (0..=most).map(|n| (n.to_string(), row(n))).collect();
    let inserts: Vec<Net> = rows.iter().map(|(key, row)| (Insert, "types", key.as_str(), row.as_str())).collect();
    lane.apply(&step(1, &inserts)).unwrap();
    let updates: Vec<Net> = inserts.iter().map(|net| (Update, net.1, net.2, net.3)).collect();
    lane.apply(&step(2, &updates)).unwrap();
    for (name, (ty, values)) in names.iter().zip(TYPES) {
        let mut want: Vec<&str> = values.iter().map(|v| v.1).collect();
        if *ty == "timestamp(6)" && on_hologres() {
            want = vec!["2026-02-03 04:05:06+00"]; // it keeps milliseconds
        }
        want.resize(most + 1, "NULL");
        assert_eq!(place.query(&format!("SELECT {name}::text FROM types ORDER BY id")), want, "{ty}");
    }
}

#[test]
fn every_type_that_mysql_allows_in_a_key_is_found_again_by_it() {
    let mut place = Place::new();
    let keys = TYPES.iter().enumerate().filter(|(_, (ty, _))| !matches!(*ty, "json" | "point"));
    /// A table's name, its key's type, and that type's values.
    type KeyedTable = (String, &'static str, &'static [(&'static str, &'static str)]);
    let tables: Vec<KeyedTable> = keys.map(|(n, (ty, values))| (format!("t{n}"), *ty, *values)).collect();
    let schemas: Vec<_> =
        tables.iter().map(|(table, ty, _)| schema(table, &[("k", ty), ("v", "int")], &["k"])).collect();
    let mut lane = place.run(&Schemas::of(&schemas));
    let mut epochs = 1..;
    let mut epoch = move || epochs.next().unwrap();
    for (table, ty, values) in &tables {
        let rows: Vec<String> = values.iter().map(|(json, _)| format!(r#"{{"k":{json},"v":1}}"#)).collect();
        let of = |op| {
            rows.iter()
                .enumerate()
                .map(|(n, row)| (op, table.as_str(), values[n].1, row.as_str()))
                .collect::<Vec<Net>>()
        };
        lane.apply(&step(epoch(), &of(Insert))).unwrap();
        lane.apply(&step(epoch(), &of(Update))).unwrap();
        assert_eq!(place.query(&format!("SELECT count(*) FROM {table}")), [values.len().to_string()], "{ty}");
        lane.apply(&step(epoch(), &of(Delete)[1..])).unwrap();
        assert_eq!(place.query(&format!("SELECT count(*) FROM {table}")), ["1"], "{ty}");
    }
}

#[test]
fn composite_and_text_keys_are_matched_column_by_column() {
    let mut place = Place::new();
    let pairs = schema("pairs", &[("v", "int"), ("b", "varchar(9)"), ("a", "int")], &["a", "b"]);
    let names = schema("names", &[("name", "varchar(99)")], &["name"]);
    let mut lane = place.run(&Schemas::of(&[pairs, names]));
    let pair = |a: i32, b: &str, v: i32| (format!(r#"["{a}","{b}"]"#), format!(r#"{{"v":{v},"b":"{b}","a":{a}}}"#));
    let rows: Vec<_> = [pair(1, "x", 1), pair(1, "y", 2), pair(2, "x", 3), pair(2, "y", 4)].into();
    let mut nets: Vec<Net> = rows.iter().map(|(k, r)| (Insert, "pairs", k.as_str(), r.as_str())).collect();
    nets.push((Insert, "names", "", r#"{"name":""}"#));
    nets.push((Insert, "names", "a,'\"", r#"{"name":"a,'\""}"#));
    lane.apply(&step(1, &nets)).unwrap();
    // Key columns alone: an upsert that changes nothing.
    lane.apply(&step(2, &[(Update, "names", "", r#"{"name":""}"#), (Delete, "names", "a,'\"", r#"{"name":"a,'\""}"#)]))
        .unwrap();
    // Not the product of {1,2} and {x,y}.
    lane.apply(&step(
        3,
        &[(Delete, "pairs", &rows[0].0, &rows[0].1), (Delete, "pairs", &rows[3].0, r#"{"a":2,"b":"y"}"#)],
    ))
    .unwrap();
    assert_eq!(place.query("SELECT a, b, v FROM pairs ORDER BY a"), ["1|y|2", "2|x|3"]);
    assert_eq!(place.query("SELECT name || '.' FROM names"), ["."]);
}

#[test]
fn names_with_quotes_and_letters_of_all_kinds_are_kept() {
    let mut place = Place::new();
    let table = r#"wé"ird ta'ble"#;
    let columns = [(r#"k"é"#, "int"), ("Ünï", "varchar(9)"), ("select", "int")];
    let schemas = Schemas::of(&[schema(table, &columns, &[r#"k"é"#])]);
    let mut lane = place.run(&schemas);
    lane.apply(&step(
        1,
        &[
            (Insert, table, "1", r#"{"k\"é":1,"Ünï":"x","select":2}"#),
            (Insert, table, "2", r#"{"k\"é":2,"Ünï":"y","select":3}"#),
        ],
    ))
    .unwrap();
    lane.apply(&step(2, &[(Delete, table, "2", r#"{"k\"é":2,"Ünï":"y","select":3}"#)])).unwrap();
    assert_eq!(place.query(r#"SELECT "k""é", "Ünï", "select" FROM "wé""ird ta'ble""#), ["1|x|2"]);
}

#[test]
fn tables_that_users_made_with_other_types_are_filled_without_loss() {
    let mut place = Place::new();
    place.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'glad');
         CREATE DOMAIN short AS varchar(3);
         CREATE TABLE mine (id numeric PRIMARY KEY, flag boolean, amount float8, day timestamp, tag varchar(3), doc jsonb,
           u uuid, u2 uuid, net inet, mood mood, short short, at timestamptz(3), clock time, span interval, label text, raw bytea,
           loaded timestamptz NOT NULL DEFAULT now(), Mixed int)",
    );
    let columns = [
        ("id", "bigint unsigned"),
        ("flag", "tinyint"),
        ("amount", "decimal(10,2)"),
        ("day", "date"),
        ("tag", "char(3)"),
        ("doc", "text"),
        ("u", "char(36)"),
        ("u2", "binary(16)"),
        ("net", "varchar(40)"),
        ("mood", "enum('sad','glad')"),
        ("short", "varchar(9)"),
        ("at", "datetime(3)"),
        ("clock", "time"),
        ("span", "time"),
        ("label", "json"),
        ("raw", "text"),
        ("MIXED", "int"),
    ];
    let mut lane = place.run(&Schemas::of(&[schema("mine", &columns, &["id"])]));
    let row = r#"{"id":18446744073709551615,"flag":1,"amount":"12.50","day":"2026-02-03","tag":"äöü","doc":"{\"b\":1,\"a\":2}","u":"00112233-4455-6677-8899-aabbccddeeff","u2":"ABEiM0RVZneImaq7zN3u/w==","net":"10.0.0.1","mood":"glad","short":"abc","at":"2026-02-03 04:05:06.007","clock":"23:59:59","span":"-838:59:59","label":{"x": 1},"raw":"abcd","MIXED":7}"#;
    lane.apply(&step(1, &[(Insert, "mine", "18446744073709551615", row)])).unwrap();
    assert_eq!(
        place.query("SELECT id, flag, amount, day, tag, doc, u, u = u2, net, mood, short, at, clock, span, label, raw, mixed, loaded IS NULL FROM mine"),
        [r#"18446744073709551615|t|12.5|2026-02-03 00:00:00|äöü|{"a": 2, "b": 1}|00112233-4455-6677-8899-aabbccddeeff|t|10.0.0.1|glad|abc|2026-02-03 04:05:06.007+00|23:59:59|-838:59:59|{"x": 1}|\x61626364|7|f"#]
    );
    lane.apply(&step(2, &[(Delete, "mine", "18446744073709551615", row)])).unwrap();
    assert_eq!(place.query("SELECT count(*) FROM mine"), ["0"]);
}

#[test]
fn what_a_column_can_not_hold_is_refused_by_table_key_and_column() {
    let mut place = Place::new();
    place.execute("CREATE TYPE mood AS ENUM ('sad', 'glad')");
    let schema_name = place.config.schema.clone();
    for (n, (target, source, value, want)) in [
        ("smallint", "int", "40000", "out of range"),
        ("integer", "varchar(9)", r#""x""#, "no whole number"),
        ("integer", "decimal(5,2)", r#""1.50""#, "no whole number"),
        ("bigint", "bigint unsigned", "18446744073709551615", "out of range"),
        ("real", "double", "0.123456789", "more digits"),
        ("double precision", "bigint", "9007199254740993", "more digits"),
        ("double precision", "decimal(30,20)", r#""0.12345678901234567890""#, "more digits"),
        ("numeric(4,2)", "decimal(6,3)", r#""1.239""#, "does not fit"),
        ("numeric(4,2)", "decimal(6,2)", r#""100.00""#, "does not fit"),
        ("varchar(3)", "varchar(9)", r#""abcd""#, "4 characters"),
        ("char(3)", "varchar(9)", r#""äöüß""#, "4 characters"),
        ("text", "varchar(9)", r#""a\u0000b""#, "NUL"),
        ("bytea", "blob", r#""not base64!""#, "not base64"),
        ("text", "blob", r#""AP8=""#, "make it bytea"),
        ("bigint", "bigint unsigned", "18446744073709551615", "such as numeric(20,0)"),
        ("boolean", "tinyint", "2", "neither 0 nor 1"),
        ("date", "datetime", r#""2026-02-03 04:05:06""#, "time of day"),
        ("date", "date", r#""2026-02-30""#, "no day of the calendar"),
        ("date", "date", r#""0000-00-00""#, "only MySQL has"),
        ("timestamptz", "timestamp", r#""0000-00-00T00:00:00Z""#, "only MySQL has"),
        ("timestamp(0)", "datetime(3)", r#""2026-02-03 04:05:06.789""#, "digits"),
        ("time", "time", r#""25:00:00""#, "no time of day"),
        ("uuid", "char(36)", r#""00112233""#, "no UUID"),
        ("json", "text", r#""{oops""#, "json"),
        ("jsonb", "json", r#"{"a":"\u0000"}"#, "NUL|\\u0000|unsupported"),
        ("inet", "varchar(9)", r#""nowhere""#, "inet"),
        ("mood", "enum('x')", r#""x""#, "mood"),
        ("int NOT NULL", "int", "null", "null"),
        ("int CHECK (v < 5)", "int", "5", "check"),
    ]
    .into_iter()
    .enumerate()
    {
        let table = format!("t{n}");
        place.execute(&format!("CREATE TABLE {table} (id int PRIMARY KEY, v {target})"));
        let mut lane = place.run(&Schemas::of(&[schema(&table, &[("id", "int"), ("v", source)], &["id"])]));
        let (good, bad) = (r#"{"id":1,"v":1}"#.to_string(), format!(r#"{{"id":7,"v":{value}}}"#));
        let good = if target.starts_with("int") && source == "int" {
            vec![(Insert, table.as_str(), "1", good.as_str())]
        } else {
            vec![]
        };
        let bad = [good, vec![(Insert, table.as_str(), "7", bad.as_str())]].concat();
        let error = lane.apply(&step(1, &bad)).unwrap_err();
        let said = error.to_string();
        assert!(said.starts_with(&format!("table shop.{table}, key 7")), "{target}: {said}");
        assert!(want.split('|').any(|want| said.contains(want)), "{target}: {said}");
        assert_eq!(is_zero_date(&error), want == "only MySQL has", "{target}: {said}");
        // Without transactions the good row may stay, and the step is to be applied again.
        if !on_hologres() {
            assert_eq!(place.query(&format!("SELECT count(*) FROM {table}")), ["0"], "{target} in {schema_name}");
        }
    }
    // Nor where nobody says what the source's column is.
    place.execute("CREATE TABLE unsaid (id int PRIMARY KEY, v double precision)");
    let mut lane = place.run(&Schemas::default());
    let row = |value: &str| format!("{{\"id\":7,\"v\":{value}}}");
    let error = lane.apply(&step(1, &[(Insert, "unsaid", "7", &row("9007199254740993"))])).unwrap_err().to_string();
    assert!(error.starts_with("table shop.unsaid, key 7") && error.contains("more digits"), "{error}");
    for (number, value) in (1..).zip(["9007199254740992", "0.30000000000000004", "1e300"]) {
        place.run(&Schemas::default()).apply(&step(number, &[(Insert, "unsaid", "7", &row(value))])).unwrap();
    }
}

#[test]
fn zero_dates_become_null_where_that_is_the_policy_and_not_in_a_key() {
    let mut place = Place::new();
    place.config.zero_dates = ZeroDates::Null;
    let days = schema("days", &[("id", "date"), ("d", "date"), ("t", "datetime"), ("i", "timestamp")], &["id"]);
    let mut lane = place.run(&Schemas::of(&[days]));
    let row =
        |id: &str| format!(r#"{{"id":"{id}","d":"0000-00-00","t":"2026-00-01 00:00:00","i":"0000-00-00T00:00:00Z"}}"#);
    lane.apply(&step(1, &[(Insert, "days", "2026-01-01", &row("2026-01-01"))])).unwrap();
    assert_eq!(place.query("SELECT * FROM days"), ["2026-01-01|NULL|NULL|NULL"]);
    let error = lane.apply(&step(2, &[(Insert, "days", "0000-00-00", &row("0000-00-00"))])).unwrap_err();
    assert!(is_zero_date(&error), "{error}");
}

fn is_zero_date(error: &TargetError) -> bool {
    matches!(error, TargetError::Rows(rows) if rows[0].zero_date)
}

#[test]
fn a_column_of_which_nothing_but_null_is_known_is_made_with_its_first_value() {
    let mut place = Place::new();
    let of = |ty| schema("t", &[("id", "bigint"), ("v", ty)], &["id"]);
    let schemas = Schemas::of(&[of("unknown")]);
    let mut lane = place.run(&schemas);
    let rows = [r#"{"id":1,"v":null}"#, r#"{"id":2,"v":"AP8="}"#, r#"{"id":3,"v":null}"#];
    lane.apply(&step(1, &[(Insert, "t", "1", rows[0]), (Insert, "t", "2", r#"{"id":2,"v":null}"#)])).unwrap();
    assert_eq!(place.query("SELECT * FROM t ORDER BY id"), ["1", "2"]);
    // The row is here before the announcement.
    let late = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        schemas.set(of("blob"));
    });
    lane.apply(&step(2, &[(Update, "t", "1", rows[0]), (Update, "t", "2", rows[1]), (Insert, "t", "3", rows[2])]))
        .unwrap();
    late.join().unwrap();
    assert_eq!(place.query("SELECT * FROM t ORDER BY id"), ["1|NULL", "2|\\x00ff", "3|NULL"]);
    lane.apply(&step(3, &[(Update, "t", "2", r#"{"id":2,"v":null}"#), (Delete, "t", "3", rows[2])])).unwrap();
    assert_eq!(place.query("SELECT * FROM t ORDER BY id"), ["1|NULL", "2|NULL"]);
}

#[test]
fn a_column_that_the_source_adds_is_added_while_the_job_runs() {
    let mut place = Place::new();
    let schemas = orders();
    let mut lane = place.run(&schemas);
    lane.apply(&step(1, &[(Insert, "orders", "1", r#"{"id":1,"note":"a"}"#)])).unwrap();
    let columns = [("id", "bigint"), ("note", "varchar(20)"), ("price", "decimal(9,2)")];
    let late = schemas.clone();
    let grow = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        late.set(schema("orders", &columns, &["id"]));
    });
    // The row is here before the announcement.
    lane.apply(&step(2, &[(Insert, "orders", "2", r#"{"id":2,"note":"b","price":"1.50"}"#)])).unwrap();
    grow.join().unwrap();
    // A row of before the change, read again, leaves the new column alone.
    lane.apply(&step(3, &[(Update, "orders", "2", r#"{"id":2,"note":"c"}"#)])).unwrap();
    assert_eq!(place.query("SELECT * FROM orders ORDER BY id"), ["1|a|NULL", "2|c|1.50"]);
    // The user drops a column and puts it back: the lane's statements are out of date twice.
    place.execute("ALTER TABLE orders DROP COLUMN price; ALTER TABLE orders ALTER COLUMN note TYPE varchar(40)");
    lane.apply(&step(4, &[(Insert, "orders", "3", r#"{"id":3,"note":"d","price":"2.50"}"#)])).unwrap();
    assert_eq!(place.query("SELECT * FROM orders ORDER BY id"), ["1|a|NULL", "2|c|NULL", "3|d|2.50"]);
}

#[test]
fn tables_that_can_not_be_landed_are_refused_by_name() {
    let mut place = Place::new();
    place.config.create_tables = false;
    place.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY); CREATE TABLE keyless (id int); CREATE TABLE other (id int, x int PRIMARY KEY)",
    );
    let two = |table: &str| schema(table, &[("id", "int"), ("x", "int")], &["id"]);
    let mut sourceless = two("sourceless");
    sourceless.key.clear();
    let schemas = Schemas::of(&[
        schema("orders", &[("id", "bigint"), ("note", "text")], &["id"]),
        two("keyless"),
        two("other"),
        two("absent"),
        sourceless,
    ]);
    let mut lane = place.run(&schemas);
    for (table, row, want) in [
        ("orders", r#"{"id":1,"note":"a"}"#, "table shop.orders: missing column in the target: note: add it there"),
        ("keyless", r#"{"id":1,"x":1}"#, "table shop.keyless: the target's table"),
        ("other", r#"{"id":1,"x":1}"#, "table shop.other: the primary key of the target's table"),
        ("absent", r#"{"id":1,"x":1}"#, "table shop.absent: the target has no table"),
        ("sourceless", r#"{"id":1,"x":1}"#, "table shop.sourceless: it has no primary key and no NOT NULL unique key"),
    ] {
        let error = lane.apply(&step(1, &[(Insert, table, "1", row)])).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }
    let landed = format!("SELECT source FROM tidegate.landed WHERE job = '{}'", place.job);
    assert_eq!(place.query(&landed), ["shop.orders"], "what can't be landed in does not count as landed");
    // Without the source's schema the key's text tells.
    let mut lane = place.run(&Schemas::default());
    lane.apply(&step(1, &[(Insert, "orders", "1", r#"{"id":1}"#)])).unwrap();
    for (key, want) in [("2", "have the key 2, which is not the text"), ("", "have no key")] {
        let error = lane.apply(&step(2, &[(Insert, "orders", key, r#"{"id":1}"#)])).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    let long = "x".repeat(64);
    let error = lane.apply(&step(2, &[(Insert, &long, "1", r#"{"id":1}"#)])).unwrap_err().to_string();
    assert!(error.contains("has 64 bytes"), "{error}");
}

#[test]
fn two_tables_of_one_name_are_not_mixed() {
    let mut place = Place::new();
    let schemas = Schemas::of(&[schema("a.t", &[("id", "int")], &["id"]), schema("b.t", &[("id", "int")], &["id"])]);
    let mut lane = place.run(&schemas);
    lane.apply(&step(1, &[(Insert, "a.t", "1", r#"{"id":1}"#)])).unwrap();
    let error = lane.apply(&step(2, &[(Insert, "b.t", "2", r#"{"id":2}"#)])).unwrap_err().to_string();
    assert!(error.starts_with("table b.t: ") && error.contains("holds a.t, and two tables are not mixed"), "{error}");
    assert_eq!(place.query("SELECT id FROM t"), ["1"]);
    let (database, job) = (place.config.schema.clone(), place.job.clone());
    place.config.schema = format!("{database}_{{database}}");
    let again = [(Insert, "a.t", "1", r#"{"id":1}"#), (Insert, "b.t", "2", r#"{"id":2}"#)];
    let error = place.target().begin(&job, 1, "shop").unwrap_err().to_string();
    let words =
        ["table a.t: job '", "has landed it in", "give the job another name", "UPDATE tidegate.landed SET target"];
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    place.job = format!("{job}_again");
    let mut lane = place.run(&schemas);
    lane.apply(&step(1, &again)).unwrap();
    place.config.schema = database;
    place.job = format!("{job}_other");
    let error = place.run(&schemas).apply(&step(1, &again)).unwrap_err().to_string();
    assert!(error.contains(&format!("is landed by job '{job}', and each of two jobs")), "{error}");
    place.job = job.clone();
    let both = format!("SELECT a.id, b.id FROM {job}_a.t AS a, {job}_b.t AS b");
    assert_eq!(place.query(&both), ["1|2"]);
    place.execute(&format!("DROP SCHEMA {job}_a CASCADE; DROP SCHEMA {job}_b CASCADE"));
}

#[test]
fn four_lanes_may_create_one_table_at_once() {
    for _ in 0..5 {
        let mut place = Place::new();
        place.config.schema = format!("{}_{{database}}", place.config.schema);
        let generation = place.target().begin(&place.job, 4, "shop").unwrap().generation;
        let gate = std::sync::Barrier::new(4);
        thread::scope(|scope| {
            for lane in 0..4u32 {
                let gate = &gate;
                let target = place.target();
                let job = place.job.clone();
                let mut applies = target.lane(&job, lane, generation, orders().find()).unwrap();
                scope.spawn(move || {
                    let row = format!(r#"{{"id":{lane},"note":"x"}}"#);
                    gate.wait();
                    applies.apply(&step(1, &[(Insert, "orders", &lane.to_string(), &row)])).unwrap();
                });
            }
        });
        let made = format!("{}_shop", place.job);
        assert_eq!(place.query(&format!("SELECT count(*) FROM {made}.orders")), ["4"]);
        place.execute(&format!("DROP SCHEMA {made} CASCADE"));
    }
}

#[test]
fn a_job_keeps_its_lanes_and_checkpoints_and_counts_its_runs() {
    let place = Place::new();
    let target = place.target();
    let first = target.begin(&place.job, 2, "shop").unwrap();
    assert_eq!((first.generation, first.lanes.len(), first.checkpoint), (1, 0, None));
    let checkpoint = Checkpoint {
        epoch: 7,
        offsets: BTreeMap::from([(0, 1), (1, 2), (31, u64::MAX)]),
        passed: BTreeMap::from([(1, u64::MAX)]),
        look_backs: BTreeMap::from([(31, LookBack { judged_from: 7, read: 8, newest: 9, horizon_max: 10 })]),
        ..Checkpoint::default()
    };
    target.checkpoint(&place.job, 1, &checkpoint).unwrap();
    let second = place.target().begin(&place.job, 2, "shop").unwrap();
    assert_eq!((second.generation, second.checkpoint), (2, Some(checkpoint.clone())));
    assert!(matches!(
        target.checkpoint(&place.job, 1, &checkpoint),
        Err(TargetError::Fenced { ours: 1, newer: 2, .. })
    ));
    let error = target.begin(&place.job, 3, "shop").unwrap_err().to_string();
    assert!(error.contains("lanes = 2") && error.contains("lanes = 3"), "{error}");
}

#[test]
fn many_runs_that_begin_at_once_get_generations_of_their_own() {
    let place = Place::new();
    let job = &place.job;
    let targets: Vec<_> = (0..8).map(|_| place.target()).collect();
    let mut taken: Vec<u64> = thread::scope(|scope| {
        let begin = |target: PostgresTarget| scope.spawn(move || target.begin(job, 2, "shop").unwrap().generation);
        let runs: Vec<_> = targets.into_iter().map(begin).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    taken.sort_unstable();
    // A generation that is overtaken before it is noticed is nobody's.
    assert!(taken.is_sorted_by(|a, b| a < b), "{taken:?}");
    assert_eq!(place.target().begin(job, 2, "shop").unwrap().generation, taken[7] + 1);
}

#[test]
fn a_newer_run_stops_an_older_one_for_good() {
    let mut place = Place::new();
    // A long name is not cut: both runs must find each other's sessions.
    place.job = format!("{}_{}", place.job, "long".repeat(9));
    let mut older = place.run(&orders());
    older.apply(&step(1, &[(Insert, "orders", "1", r#"{"id":1,"note":"a"}"#)])).unwrap();
    assert_eq!(place.target().begin(&place.job, 1, "shop").unwrap().generation, 2);
    let sessions = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tidegate/{}%/1/%'",
        &place.job[..19]
    );
    assert_eq!(place.query(&sessions), ["0"], "the older run's session is ended");
    let delete = step(2, &[(Delete, "orders", "1", r#"{"id":1}"#)]);
    assert!(matches!(older.apply(&delete), Err(TargetError::Fenced { ours: 1, newer: 2, .. })));
    let mut newer = place.run(&orders());
    newer.apply(&step(2, &[(Update, "orders", "1", r#"{"id":1,"note":"b"}"#)])).unwrap();
    assert!(matches!(older.apply(&delete), Err(TargetError::Fenced { .. })));
    assert_eq!(place.query("SELECT * FROM orders"), ["1|b"]);
}
